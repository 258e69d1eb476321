"""Which values a tuple may hold, and that it keeps its bytes (ADR 24)."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from synchro.client import requests
from synchro.config import Limits
from synchro.errors import WrongFormat
from synchro.ids import InstanceId, Lsn
from synchro.row import RowType, Tuple
from synchro.rpc import codec, operations
from synchro.rpc.generated.v1 import data_pb2
from synchro.storage import msgpack_check, row_body, xrow
from synchro.storage.snapshot import SnapshotAssembler, SnapshotMeta, decode_chunk, iter_chunks
from synchro.vclock import EMPTY_VCLOCK
from tests import messages

EQUAL_KEYS = {
    "1 and true": "82 01 a1 78 c3 a1 79",
    "1 and 1.0": "82 01 a1 78 cb 3f f0 00 00 00 00 00 00 a1 79",
    "0 and false": "82 00 01 c2 02",
    "0.0 and -0.0": "82 cb 00 00 00 00 00 00 00 00 01 cb 80 00 00 00 00 00 00 00 02",
    "1 in two lengths": "82 01 01 cc 01 02",
    "a text twice": "82 a1 61 01 a1 61 02",
    "a text in two lengths": "82 a1 61 01 d9 01 61 02",
    "nil twice": "82 c0 01 c0 02",
    "inside an array inside a map": "81 a1 61 91 82 01 01 c3 02",
}
ARRAY_KEYS = {
    "an array": "81 92 01 02 03",
    "an empty array": "81 90 03",
    "an array inside a map": "81 a1 61 81 91 01 02",
}
NOT_OURS = {
    "a float of 4 bytes": "ca 3f c0 00 00",
    "an integer that is too long": "cf 00 00 00 00 00 00 00 01",
    "a negative one": "d3 ff ff ff ff ff ff ff ff",
    "a text with a long header": "da 00 01 61",
    "an array with a long header": "dd 00 00 00 02 01 02",
    "a map with a long header": "df 00 00 00 01 a1 61 01",
    "binary with a long header": "c6 00 00 00 01 ff",
    "NaN with a payload, 4 bytes": "ca 7f c0 00 01",
    "a map whose key is too long": "81 d1 00 01 02",
}


def field(text: str) -> bytes:
    """The tuple [12, field]."""
    return bytes.fromhex("920c" + text.replace(" ", ""))


def change(kind: str, data: bytes) -> data_pb2.Op:
    one = msgpack.packb([12])
    match kind:
        case "insert":
            return messages.op(insert={"space_id": 512, "tuple": data})
        case "replace":
            return messages.op(replace={"space_id": 512, "tuple": data})
        case "upsert":
            return messages.op(upsert={"space_id": 512, "tuple": data, "ops": b"\x90"})
        case "upsert operations":
            return messages.op(upsert={"space_id": 512, "tuple": one, "ops": b"\x91\x93\xa1=\x02" + data[2:]})
        case "update":
            return messages.op(update={"space_id": 512, "key": one, "ops": b"\x91\x93\xa1=\x02" + data[2:]})
        case "update key":
            return messages.op(update={"space_id": 512, "key": data, "ops": b"\x90"})
        case _:
            return messages.op(delete={"space_id": 512, "key": data})


KINDS = ("insert", "replace", "upsert", "upsert operations", "update", "update key", "delete")


@pytest.mark.parametrize("name", [*EQUAL_KEYS, *ARRAY_KEYS])
@pytest.mark.parametrize("kind", KINDS)
def test_what_would_be_lost_or_cannot_be_read_is_refused_to_clients(kind: str, name: str) -> None:
    why = "two keys of a map are equal" if name in EQUAL_KEYS else "a key of a map is an array"
    data = field({**EQUAL_KEYS, **ARRAY_KEYS}[name])
    with pytest.raises(WrongFormat, match=why):
        operations.changes([change(kind, data)], None, Limits())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (b"\xd4\x05a", "a key of a map is a msgpack extension"),
        (b"\xd6\xff\0\0\0\x01", "a key of a map is a timestamp"),
        (b"\x91\x01", "a key of a map is an array"),
        (b"\x81\x01\x02", "a key of a map is a map, or holds one"),
        (b"\x91\x81\x01\x02", "a key of a map is a map, or holds one"),
    ],
)
@pytest.mark.parametrize("kind", ["insert", "replace", "upsert"])
def test_the_refusal_names_what_stands_there_as_a_key(key: bytes, why: str, kind: str) -> None:
    with pytest.raises(WrongFormat, match=why):
        operations.changes([change(kind, b"\x92\x0c\x81" + key + b"\x01")], None, Limits())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*EQUAL_KEYS, *ARRAY_KEYS])
def test_neither_is_it_taken_among_many(name: str) -> None:
    good = msgpack.packb([1, {"a": [1]}])
    tuples = [good] * 5 + [field({**EQUAL_KEYS, **ARRAY_KEYS}[name])] + [good] * 5
    assert operations.columns("insert", 512, tuples, None, Limits()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*EQUAL_KEYS, *ARRAY_KEYS, *NOT_OURS])
def test_rows_that_were_accepted_once_are_read_and_keep_their_bytes(name: str) -> None:
    """Logs and streams of before: applied, told as they came, and no client dies of them."""
    data = field({**EQUAL_KEYS, **ARRAY_KEYS, **NOT_OURS}[name])
    prefix = row_body.insert_dml(RowType.INSERT, 512, b"\x90").raw[:-1]
    row = row_body.read_dml(RowType.INSERT, prefix + data)
    old = xrow.encode_ops([row], InstanceId(1), Lsn(1), 0).data
    (txn,) = xrow.decode_txns(old)
    assert msgpack_check.pack_tuple(txn.ops[0].value or ()) == data
    many = xrow.encode_ops([row] * 5, InstanceId(1), Lsn(1), 0).data
    (txn,) = xrow.decode_txns(many)
    assert [msgpack_check.pack_tuple(op.value or ()) for op in txn.ops] == [data] * 5
    assert requests.unpack(data)[0] == 12


@pytest.mark.parametrize("name", NOT_OURS)
def test_bytes_that_we_would_write_in_another_way_are_kept(name: str) -> None:
    data = field(NOT_OURS[name])
    for kind in ("insert", "replace", "upsert"):
        (made,) = operations.changes([change(kind, data)], None, Limits())  # type: ignore[arg-type]
        assert codec.pack(made.value) == data
        again = row_body.read_dml(made.type, made.raw)
        assert codec.pack(again.value) == data
    puts = operations.columns("insert", 512, [b"\x91\x01", data, b"\x91\x03"], None, Limits())  # type: ignore[arg-type]
    assert puts is not None
    assert [codec.pack(value) for value in puts.values] == [b"\x91\x01", data, b"\x91\x03"]


def test_a_snapshot_keeps_them_too() -> None:
    tuples = [row_body.insert_dml(RowType.INSERT, 512, field(text)).value or () for text in NOT_OURS.values()]
    tuples += [(1, "ours"), (2, {"a": (1, 2)})]
    frames = list(iter_chunks(SnapshotMeta(vclock=EMPTY_VCLOCK), [(512, tuples)]))
    assembler, found = SnapshotAssembler(), list[Tuple]()
    for frame in frames:
        chunk = decode_chunk(frame)
        found += chunk.tuples
        assembler.add(chunk)
    assert [msgpack_check.pack_tuple(value) for value in found] == [
        msgpack_check.pack_tuple(value) for value in tuples
    ]
    assert list(iter_chunks(SnapshotMeta(vclock=EMPTY_VCLOCK), [(512, found)])) == frames


@pytest.mark.parametrize(
    "value",
    [
        [{1: "x", "1": "y"}],
        [{None: 1, 2.5: 2, b"\xff": 3, True: 4}],
        [float("inf"), -0.0, 2**64 - 1, -(2**63)],
        [{float("nan"): 1}],
        [b"", b"\x00\xff", "\x00"],
        ["\x1b[31m", "é", "\U0001f600"],
    ],
)
def test_any_other_value_is_stored_as_it_is(value: Any) -> None:
    data = msgpack.packb([12, *value])
    (made,) = operations.changes([change("insert", data)], None, Limits())  # type: ignore[arg-type]
    assert codec.pack(made.value) == data
