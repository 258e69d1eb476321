"""Decimals, UUIDs, datetimes and intervals in the bytes of Tarantool (ADR 37). Rule [D-6]."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest

from synchro.client import requests
from synchro.config import Limits
from synchro.errors import WrongFormat
from synchro.ids import InstanceId, Lsn
from synchro.row import RowType, Tuple
from synchro.rpc import codec, operations
from synchro.storage import msgpack_check, row_body, xrow
from synchro.storage.snapshot import SnapshotAssembler, SnapshotMeta, decode_chunk, iter_chunks
from synchro.values import SECONDS_MAX, SECONDS_MIN, Datetime, Interval
from synchro.vclock import EMPTY_VCLOCK
from tests.unit.test_stored_values import KINDS, change, field

UUID_1 = UUID("64d22e4d-ac92-4a23-899a-e59f34af5479")
KNOWN: dict[str, Any] = {
    "d6 01 02 01 23 4d": Decimal("-12.34"),
    "c7 03 01 24 01 0c": Decimal("0.000000000000000000000000000000000010"),
    "d5 01 00 0c": Decimal("0"),
    "c7 03 01 d0 db 1c": Decimal("1E+37"),
    "d8 02 64 d2 2e 4d ac 92 4a 23 89 9a e5 9f 34 af 54 79": UUID_1,
    "d7 04 00 00 00 00 00 00 00 00": Datetime(0),
    "d7 04 ff ff ff ff ff ff ff ff": Datetime(-1),
    "d8 04 01 00 00 00 00 00 00 00 02 00 00 00 b4 00 b3 03": Datetime(1, 2, 180, 947),
    "c7 03 06 01 08 01": Interval(),
    "d4 06 00": Interval(adjust="excess"),
    "c7 07 06 03 00 01 01 fe 08 02": Interval(years=1, months=-2, adjust="last"),
}
MALFORMED = {
    "a decimal without a body": "c7 00 01",
    "a decimal without digits": "d4 01 00",
    "a decimal whose scale is cut": "d4 01 d0",
    "a decimal whose scale is a text": "c7 03 01 a1 61 1c",
    "a decimal without a sign": "d5 01 00 01",
    "a decimal with a sign in the middle": "c7 03 01 00 1c 1c",
    "39 digits": "c7 15 01 00" + " 99" * 19 + " 9c",
    "more bytes than digits": "c7 16 01 00" + " 00" * 20 + " 1c",
    "a scale of 39": "d5 01 27 1c",
    "a scale of -38": "c7 03 01 d0 da 1c",
    "38 digits and a zero behind them": "c7 15 01 ff" + " 09" + " 99" * 18 + " 9c",
    "a UUID of 15 bytes": "c7 0f 02" + " 00" * 15,
    "a datetime of 7 bytes": "c7 07 04" + " 00" * 7,
    "a datetime of 12 bytes": "c7 0c 04" + " 00" * 12,
    "a year that there is not": "d7 04 ff ff ff ff ff ff ff 7f",
    "10^9 nanoseconds": "d8 04 00 00 00 00 00 00 00 00 00 ca 9a 3b 00 00 00 00",
    "an offset of 15 hours": "d8 04 00 00 00 00 00 00 00 00 00 00 00 00 84 03 00 00",
    "a zone below 0": "d8 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ff ff",
    "an interval without a body": "c7 00 06",
    "an interval that ends early": "d5 06 01 00",
    "an interval with a rest": "c7 04 06 01 00 01 00",
    "an interval with a part twice": "c7 05 06 02 00 01 00 01",
    "an unknown part": "c7 03 06 01 09 01",
    "a part that is a text": "c7 04 06 01 00 a1 61",
    "an unknown adjustment": "c7 03 06 01 08 03",
    "2^40 years": "c7 0b 06 01 00 cf 00 00 01 00 00 00 00 00",
    "too many parts": "d4 06 10",
}
NOT_OURS = {
    "another plus sign": "d6 01 02 01 23 4f",
    "a zero in front": "c7 04 01 02 00 12 3c",
    "a scale that is too long": "c7 05 01 cc 02 01 23 4c",
    "a long header": "c8 00 04 01 02 01 23 4c",
    "zeros behind the seconds": "d8 04 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00",
    "a part that is 0": "c7 05 06 02 00 00 08 01",
    "parts in another order": "c7 05 06 02 08 01 00 02",
}


@pytest.mark.parametrize("text", KNOWN)
def test_bytes_of_known_values(text: str) -> None:
    data = field(text)
    for value in (KNOWN[text], requests.unpack(data)[1]):
        assert requests.pack((12, value)) == msgpack_check.packb((12, value)) == data
    found = msgpack_check.unpack(data)[1]
    assert (type(found), found, str(found)) == (type(KNOWN[text]), KNOWN[text], str(KNOWN[text]))


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_body_is_refused_whatever_carries_it(name: str) -> None:
    data = field(MALFORMED[name])
    for kind in KINDS:
        with pytest.raises(WrongFormat, match="malformed"):
            operations.changes([change(kind, data)], None, Limits())  # type: ignore[arg-type]
    good = msgpack.packb([1])
    assert operations.columns("insert", 512, [good] * 5 + [data], None, Limits()) is None  # type: ignore[arg-type]
    with pytest.raises(WrongFormat, match="key"):
        codec.unpack_array(data, "key")
    with pytest.raises(WrongFormat):
        row_body.read_dml(RowType.INSERT, row_body.insert_dml(RowType.INSERT, 512, b"\x90").raw[:-1] + data)


@pytest.mark.parametrize("name", [*NOT_OURS, *KNOWN])
def test_a_tuple_keeps_its_bytes_in_the_log(name: str) -> None:
    """Also what another client writes in more bytes than it must (ADR 24)."""
    data = field(NOT_OURS.get(name, name))
    for kind in ("insert", "replace", "upsert"):
        (made,) = operations.changes([change(kind, data)], None, Limits())  # type: ignore[arg-type]
        assert codec.pack(made.value) == data
        (txn,) = xrow.decode_txns(xrow.encode_ops([made] * 5, InstanceId(1), Lsn(1), 0).data)
        assert [codec.pack(op.value) for op in txn.ops] == [data] * 5
    puts = operations.columns("insert", 512, [b"\x91\x01", data, b"\x91\x03"], None, Limits())  # type: ignore[arg-type]
    assert puts is not None
    assert codec.pack(puts.values[1]) == data


def test_and_in_a_snapshot() -> None:
    texts = [*NOT_OURS.values(), *KNOWN]
    tuples = [row_body.insert_dml(RowType.INSERT, 512, field(text)).value or () for text in texts]
    frames = list(iter_chunks(SnapshotMeta(vclock=EMPTY_VCLOCK), [(512, tuples)]))
    assembler, found = SnapshotAssembler(), list[Tuple]()
    for frame in frames:
        chunk = decode_chunk(frame)
        found += chunk.tuples
        assembler.add(chunk)
    assert [codec.pack(value) for value in found] == [field(text) for text in texts]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Decimal("NaN"), "NaN is no decimal"),
        (Decimal("-Infinity"), "-Infinity is no decimal"),
        (Decimal("1E+38"), "at most 38 digits"),
        (Decimal("1E-39"), "at most 38 digits"),
        (Decimal("1" * 39), "at most 38 digits"),
        (object(), "can not serialize 'object'"),
    ],
)
def test_what_has_no_such_bytes_is_not_sent(value: Any, why: str) -> None:
    with pytest.raises(WrongFormat, match=why) as refused:
        requests.pack_tuple([1, value])
    assert str(refused.value).endswith("nothing was sent")
    assert requests.pack_tuple([1]) == b"\x91\x01"  # nothing of it is left in the packer


def test_the_ends_of_what_there_is() -> None:
    ends: list[Any] = [Decimal("9" * 38), Decimal("0." + "9" * 38), Decimal("-1E-38"), Decimal("-0.00")]
    ends += [Datetime(SECONDS_MIN, 0, -720), Datetime(SECONDS_MAX, 999_999_999, 840, 1024)]
    for end in ends:
        found = msgpack_check.unpack(msgpack_check.packb(end))
        assert (found, str(found)) == (end, str(end))
    for beyond in (SECONDS_MIN - 1, SECONDS_MAX + 1):
        with pytest.raises(ValueError, match="seconds of a datetime"):
            Datetime(beyond)
    with pytest.raises(ValueError, match="nanoseconds of an interval"):
        Interval(nanoseconds=2**31)
    with pytest.raises(ValueError, match="not 'never'"):
        Interval(adjust="never")  # type: ignore[arg-type]
