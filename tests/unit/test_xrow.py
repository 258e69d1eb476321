"""Rows as bytes: what is accepted from clients and peers, and what a relay sees without decoding."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import msgpack
import pytest

from synchro.errors import DecodeError, WrongFormat
from synchro.ids import LOCAL, InstanceId, Lsn, RequestId
from synchro.row import (
    FLAG_COMMIT,
    FLAG_REQUEST_ID,
    FLAG_SHARED,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_LOCAL,
    Confirm,
    Dml,
    Nop,
    Promote,
    Puts,
    Row,
    RowType,
    Txn,
)
from synchro.storage.msgpack_check import SMALL_BODY_BYTES
from synchro.storage.row_body import (
    delete_dml,
    dml_from_values,
    insert_all,
    insert_dml,
    read_dml,
    update_dml,
    upsert_dml,
)
from synchro.storage.xrow import ROW_HEADER, _decode_rows, decode_txns, encode_ops, encode_txn, scan_txns
from tests.storage_world import confirm, promote, put, raft_state, txn


def nested(depth: int) -> bytes:
    return b"\x91" * (depth - 1) + b"\x90"


def shared_rows(lsn: int, changes: Sequence[Dml], request_ids: Sequence[bytes | None]) -> list[Row]:
    """Those of a shared transaction of instance 1, one by one (ADR 13)."""
    last = len(changes) - 1
    each = FLAG_SHARED if None in request_ids else 0
    return [
        Row(
            op.type,
            InstanceId(1),
            Lsn(lsn + n),
            Lsn(lsn),
            each | (FLAG_WAIT_SYNC | FLAG_WAIT_ACK if n == last else 0),
            op,
            request_id=None if request_id is None else RequestId(request_id),
        )
        for n, (op, request_id) in enumerate(zip(changes, request_ids, strict=True))
    ]


def shared_txn(lsn: int, changes: Sequence[Dml], request_ids: Sequence[bytes | None]) -> Txn:
    return encode_txn(shared_rows(lsn, changes, request_ids))


FOUR_IDS = tuple(bytes((0x40 + n,)) * 16 for n in range(4))
MIXTURES: dict[str, tuple[bytes | None, ...]] = {
    "shared, no ids": (None, None, None, None),
    "shared, an id first": (FOUR_IDS[0], None, None, None),
    "shared, ids at first": (FOUR_IDS[0], FOUR_IDS[1], None, None),
    "shared, an id inside": (None, FOUR_IDS[1], None, None),
    "shared, an id last": (None, None, None, FOUR_IDS[3]),
    "shared, no id last": (*FOUR_IDS[:3], None),
}
"""Request ids of the calls of a shared transaction, some of which have none."""


def test_a_transaction_comes_back_as_it_went() -> None:
    """[W-1], [W-3]: COMMIT, sync flags and request id are on the last row; bytes are a slice of the run."""
    first = txn(5, put(1), put(2, "ü"), sync=True, request_id=b"0123456789abcdef")
    second = confirm(7, 6, origin=2)
    decoded = decode_txns(first.data + second.data)

    assert [one.data for one in decoded] == [first.data, second.data]
    assert decoded[0].rows == tuple(first.rows)
    assert [row.flags for row in decoded[0].rows] == [
        0,
        FLAG_COMMIT | FLAG_WAIT_SYNC | FLAG_WAIT_ACK | FLAG_REQUEST_ID,
    ]
    assert list(decoded[0].request_ids) == [b"0123456789abcdef"]
    assert not decoded[0].is_shared and decoded[0].call_count == 1
    assert decoded[0].lsn == 6 and decoded[0].is_wait_ack
    assert decoded[1].control == Confirm(InstanceId(2), Lsn(6))


def seen_of(made: Txn) -> object:
    ids = tuple(made.request_ids)
    return made.data, tuple(made.rows), made.origin, made.lsn, made.tsn, made.flags, ids, made.is_shared


def ways_agree(data: bytes) -> bool:
    """The first transaction of `data`, which has several rows, comes out the same, or is refused the same."""
    refused: DecodeError | None = None
    try:
        expected, end = _decode_rows(data, 0)
        data = data[:end]
    except DecodeError as error:
        refused = error
    try:
        (made,) = decode_txns(data)
    except DecodeError as error:
        return refused is not None and (error.message, error.details) == (refused.message, refused.details)
    return refused is None and seen_of(made) == seen_of(expected)


REQUEST_IDS = {
    "none": (),
    "one": (b"0123456789abcdef",),
    "shared": FOUR_IDS,
    **MIXTURES,
}


@pytest.mark.parametrize("request_ids", REQUEST_IDS.values(), ids=REQUEST_IDS)
@pytest.mark.parametrize("is_mixed", [False, True])
def test_short_ways_to_decode_agree_with_the_long_one_on_every_damaged_byte(
    is_mixed: bool, request_ids: tuple[bytes | None, ...]
) -> None:
    """Most transactions are inserts into one space, and nearly all are changes without a gap. What is faster
    for those accepts no byte that a look at every row refuses, and refuses in the same words."""
    changes = [put(1, "a"), put(2, [3]), put(3), put(4, "b")]
    if is_mixed:
        changes[1:3] = [delete_dml(512, 0, [2]), update_dml(512, 1, [3], [["=", 1, 2]])]
    decode_txns(txn(1, put(1)).data)  # the start of this space's rows is known
    made = (
        shared_txn(5, changes, request_ids)
        if len(request_ids) > 1
        else txn(5, *changes, sync=True, request_id=request_ids[0] if request_ids else None)
    )
    whole = made.data
    assert decode_txns(whole)[0].row_count == 4
    *others, last = made.rows
    assert ways_agree(encode_txn([*(row._replace(tsn=Lsn(4)) for row in others), last]).data)

    for place, byte in enumerate(whole):
        assert place <= 24 or ways_agree(whole[:place])
        for damage in {0, 1, 2, 3, 5, 16, 24, 0x91, 0xDC, 0xDD, 0xFF, byte ^ 1, byte ^ 8, byte + 1 & 0xFF} - {
            byte
        }:
            damaged = whole[:place] + bytes((damage,)) + whole[place + 1 :]
            assert damaged[5] & FLAG_COMMIT or ways_agree(damaged), (place, damage)


MIXED = [put(1, "a"), delete_dml(512, 0, [2]), update_dml(512, 1, [3], [["=", 1, 2]]), put(4, "b")]
PUTS = insert_all(RowType.INSERT, 512, [msgpack.packb((n, "v")) for n in range(4)])


@pytest.mark.parametrize(
    "changes", [PUTS, [put(1), put(2, "b"), put(3), put(4)], MIXED], ids=["columns", "puts", "mixed"]
)
def test_a_shared_transaction_comes_back_as_it_went(changes: Sequence[Dml]) -> None:
    """ADR 13, [W-3]: an id on every row, COMMIT and wait flags on the last one; one span for a relay. The
    fast encoder and the slow one make the same bytes, and each client's id has the LSN of its own row."""
    decode_txns(txn(1, put(1)).data)  # the start of this space's rows is known
    wait = FLAG_WAIT_SYNC | FLAG_WAIT_ACK
    made = encode_ops(changes, InstanceId(1), Lsn(5), wait, [RequestId(one) for one in FOUR_IDS])
    by_rows = shared_txn(5, list(changes), FOUR_IDS)
    assert made.data == by_rows.data
    behind = txn(9, put(9), request_id=b"0123456789abcdef")
    seen, next_one = decode_txns(made.data + behind.data)
    assert next_one.data == behind.data and not next_one.is_shared
    for one in (made, by_rows, seen):
        assert seen_of(one) == seen_of(by_rows)
        assert [row.flags for row in one.rows] == [FLAG_REQUEST_ID] * 3 + [
            FLAG_COMMIT | wait | FLAG_REQUEST_ID
        ]
        assert [(row.lsn, row.tsn, row.request_id) for row in one.rows] == [
            (5 + n, 5, request_id) for n, request_id in enumerate(FOUR_IDS)
        ]
        assert list(one.requests()) == list(zip(FOUR_IDS, range(5, 9), strict=True))
        assert (one.is_shared, one.call_count, one.row_count, one.tsn, one.lsn) == (True, 4, 4, 5, 8)
        assert tuple(one.ops) == tuple(changes)
    spans = scan_txns(made.data + behind.data)
    assert [(span.start, span.end, span.origin, span.lsn) for span in spans] == [
        (0, len(made.data), 1, 8),
        (len(made.data), len(made.data) + len(behind.data), 1, 9),
    ]


def test_a_shared_transaction_of_puts_stays_in_columns() -> None:
    """Else the log of whoever has many callers would be read row by row."""
    decode_txns(txn(1, put(1)).data)
    for kind in (RowType.INSERT, RowType.REPLACE):
        changes = insert_all(kind, 512, [msgpack.packb((n, "v")) for n in range(4)])
        made = encode_ops(changes, InstanceId(1), Lsn(5), FLAG_WAIT_SYNC, [RequestId(i) for i in FOUR_IDS])
        (seen,) = decode_txns(made.data)
        assert type(seen.ops) is Puts and seen.ops.type is kind
        assert seen.ops.values == [(n, "v") for n in range(4)]


@pytest.mark.parametrize("changes", [PUTS, MIXED], ids=["columns", "mixed"])
@pytest.mark.parametrize("request_ids", MIXTURES.values(), ids=MIXTURES)
def test_a_shared_transaction_may_lack_request_ids(
    changes: Sequence[Dml], request_ids: Sequence[RequestId | None]
) -> None:
    """ADR 13, [W-3]: a flag on each row says that it is shared, and an id is where there is one."""
    decode_txns(txn(1, put(1)).data)  # the start of this space's rows is known
    wait = FLAG_WAIT_SYNC | FLAG_WAIT_ACK
    made = encode_ops(changes, InstanceId(1), Lsn(5), wait, request_ids)
    by_rows = shared_txn(5, list(changes), request_ids)
    behind = txn(9, put(9))
    seen, next_one = decode_txns(made.data + behind.data)
    assert next_one.data == behind.data
    for one in (made, by_rows, seen):
        assert seen_of(one) == seen_of(by_rows)
        assert tuple(one.request_ids) == tuple(request_ids)
        assert (one.is_shared, one.has_unnamed, one.call_count, one.tsn, one.lsn) == (True, True, 4, 5, 8)
        assert list(one.requests()) == [(name, 5 + n) for n, name in enumerate(request_ids) if name]
    (span,) = scan_txns(made.data)
    assert (span.end, span.lsn, span.flags & FLAG_SHARED) == (len(made.data), 8, FLAG_SHARED)


def test_the_bytes_of_a_shared_transaction_without_request_ids() -> None:
    """Written for ever: flags 16 (shared), 8 (request id), 1 + 2 + 4 on the last row."""
    puts = insert_all(RowType.INSERT, 512, [b"\x91\x01", b"\x91\x02"])
    made = encode_ops(
        puts, InstanceId(1), Lsn(5), FLAG_WAIT_SYNC | FLAG_WAIT_ACK, [None, RequestId(FOUR_IDS[0])]
    )
    body = "8210cd020021"
    assert made.data.hex() == (
        "08000000" "02" "10" "01" "00" "0500000000000000" "0500000000000000" + body + "9101"
        "08000000" "02" "1f" "01" "00" "0600000000000000" "0500000000000000" + "40" * 16 + body + "9102"
    )  # fmt: skip


@pytest.mark.parametrize("changes", [list(PUTS), MIXED], ids=["puts", "mixed"])
def test_the_flag_of_a_shared_transaction_is_on_all_its_rows_and_says_something(changes: list[Dml]) -> None:
    """One form for one thing: with an id on each row there is no flag, and alone nobody shares. [W-24]"""
    decode_txns(txn(1, put(1)).data)
    rows = shared_rows(5, changes, [None] * 4)
    for without in ([0], [1], [2], [3], [0, 1], [1, 2], [0, 1, 2], [1, 2, 3]):
        some = [
            row._replace(flags=row.flags & ~FLAG_SHARED) if n in without else row
            for n, row in enumerate(rows)
        ]
        assert refused_shared(some), without
    named = [row._replace(request_id=RequestId(name)) for row, name in zip(rows, FOUR_IDS, strict=True)]
    assert refused_shared(named)
    (alone,) = shared_rows(5, changes[:1], [None])
    assert refused_shared([alone])
    assert refused_shared([alone._replace(request_id=RequestId(FOUR_IDS[0]))])


def test_who_has_one_id_or_none_shares_with_nobody() -> None:
    """One call for all rows, which is told the LSN of the last one."""
    plain = txn(5, put(1), put(2), sync=True)
    named = txn(5, put(1), put(2), sync=True, request_id=FOUR_IDS[0])
    for one in (plain, decode_txns(plain.data)[0]):
        assert (one.is_shared, one.call_count, list(one.requests())) == (False, 1, [])
    for one in (named, decode_txns(named.data)[0]):
        assert (one.is_shared, one.call_count, list(one.requests())) == (False, 1, [(FOUR_IDS[0], 6)])


def refused_shared(rows: Sequence[Row]) -> bool:
    with pytest.raises(DecodeError):
        decode_txns(encode_txn(rows).data)
    return True


@pytest.mark.parametrize("changes", [list(PUTS), MIXED], ids=["puts", "mixed"])
def test_a_shared_transaction_is_shared_by_all_its_rows(changes: list[Dml]) -> None:
    """ADR 13: else nobody could say which LSN an id stands for. [W-24]"""
    decode_txns(txn(1, put(1)).data)
    rows = shared_rows(5, changes, FOUR_IDS)
    for without in (set(kept) for kept in ([0], [1], [2], [3], [0, 1], [1, 2], [0, 3], [1, 2, 3])):
        some = [row._replace(request_id=None) if n in without else row for n, row in enumerate(rows)]
        assert refused_shared(some), without
    assert not decode_txns(
        encode_txn([row._replace(request_id=None) if n < 3 else row for n, row in enumerate(rows)]).data
    )[0].is_shared


def test_a_shared_transaction_has_global_changes_without_a_gap_only() -> None:
    """ADR 13: the ids are numbered by their rows."""
    rows = shared_rows(5, [put(n) for n in range(4)], FOUR_IDS)
    for place in range(4):
        row = rows[place]
        local = row._replace(replica_id=LOCAL, group_id=GROUP_LOCAL)
        assert refused_shared([*rows[:place], local, *rows[place + 1 :]])
        nop = row._replace(type=RowType.NOP, body=Nop())
        assert refused_shared([*rows[:place], nop, *rows[place + 1 :]])
        control = row._replace(type=RowType.CONFIRM, body=Confirm(InstanceId(1), Lsn(4)))
        assert refused_shared([*rows[:place], control, *rows[place + 1 :]])
        if place:
            gap = [one._replace(lsn=Lsn(one.lsn + 1)) if n >= place else one for n, one in enumerate(rows)]
            assert refused_shared(gap)
            twice = [one._replace(lsn=Lsn(one.lsn - 1)) if n >= place else one for n, one in enumerate(rows)]
            assert refused_shared(twice)


def test_every_change_keeps_the_keys_of_tarantool() -> None:
    """[D-40]: bodies are IPROTO maps, so tools that know them can read our logs."""
    changes = {
        RowType.INSERT: dml_from_values(RowType.INSERT, 512, value=(1, "a")),
        RowType.UPDATE: update_dml(512, 0, (1,), [("=", 1, "b")]),
        RowType.UPSERT: upsert_dml(513, (1, 2), [("+", 1, 1)]),
        RowType.DELETE: delete_dml(70000, 1, ("k",)),
    }
    bodies = {kind: msgpack.unpackb(dml.raw, strict_map_key=False) for kind, dml in changes.items()}
    assert bodies == {
        RowType.INSERT: {0x10: 512, 0x21: [1, "a"]},
        RowType.UPDATE: {0x10: 512, 0x11: 0, 0x20: [1], 0x21: [["=", 1, "b"]]},
        RowType.UPSERT: {0x10: 513, 0x21: [1, 2], 0x28: [["+", 1, 1]]},
        RowType.DELETE: {0x10: 70000, 0x11: 1, 0x20: ["k"]},
    }
    for kind, dml in changes.items():
        assert read_dml(kind, dml.raw) == dml
        assert decode_txns(txn(1, dml).data)[0].rows[0].body == dml


def test_the_bytes_of_a_client_are_spliced_in_unchanged() -> None:
    """An unusual but valid encoding (1 as 64 bits) stays: all WALs hold the same bytes (S10)."""
    odd = b"\x92\xcf" + (1).to_bytes(8, "big") + b"\xa1x"
    dml = insert_dml(RowType.REPLACE, 512, odd)
    assert dml.value == (1, "x")
    assert dml.raw.endswith(odd)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"", "incomplete"),
        (b"\x01", "not a msgpack array"),
        (b"\x92\x01", "incomplete"),
        (b"\x91\x01\x01", "extra"),
        (b"\x91\xa1\xff", "utf-8"),
        (b"\x91\xd6\xff\x00\x00\x00\x00", "Timestamp"),
        (b"\x91\xd4\x05\x00", "a msgpack extension"),
        (b"\x91\xd4\x01\x00", "the body of a decimal"),
        (b"\x91\x81\x91\x80\x01", "a key of a map is a map"),
        (nested(40), "nested"),
        (nested(2000), "nested deeper than 32"),
        (b"\xdd\xff\xff\xff\xff", ""),
    ],
)
def test_a_malformed_tuple_is_refused(bad: bytes, why: str) -> None:
    """Answers in docs/adr/: WRONG_FORMAT, before anything is prepared."""
    with pytest.raises(WrongFormat, match=f"(?i){why}"):
        insert_dml(RowType.INSERT, 512, bad)


def test_a_second_value_cannot_slip_into_the_body() -> None:
    """Two values in place of one would add a key of the sender's choice."""
    two = msgpack.packb([1]) + b"\x10\x01"
    builds: tuple[Callable[[], Dml], ...] = (
        lambda: delete_dml(512, 0, two),
        lambda: update_dml(512, 0, two, []),
        lambda: upsert_dml(512, [1], two),
        lambda: insert_dml(RowType.INSERT, 512, two),
    )
    for build in builds:
        with pytest.raises(WrongFormat):
            build()


def test_columns_take_large_tuples_and_small_ones() -> None:
    rows = [(1, "x" * 3 * SMALL_BODY_BYTES), (2, "y"), (3, ("z",) * SMALL_BODY_BYTES)]
    assert insert_all(RowType.INSERT, 512, [msgpack.packb(row) for row in rows]).values == rows


def test_large_arrays_that_lie_reserve_no_memory() -> None:
    """A header may promise 65,535 items on every level; the decoder must not believe it."""
    import tracemalloc

    bomb = b"\xdc\xff\xff" * 300 + bytes(65_000)
    tracemalloc.start()
    with pytest.raises(WrongFormat):
        insert_dml(RowType.INSERT, 512, bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * len(bomb)


def test_many_real_arrays_pass_the_careful_walk() -> None:
    value = [list(range(20)), {"a": [1.5, None, True, b"x" * 300, "y" * 70000]}, -1, -(2**40), 2**64 - 1]
    value += [list(range(17))] * 4
    assert insert_dml(RowType.INSERT, 512, msgpack.packb(value)).value is not None


def header(
    length: int, kind: int = 3, flags: int = 1, origin: int = 1, group: int = 0, lsn: int = 1, tsn: int = 1
) -> bytes:
    return struct.pack("<IBBBBQQ", length, kind, flags, origin, group, lsn, tsn)


BODY = put(1).raw


@pytest.mark.parametrize(
    "data",
    [
        header(len(BODY)) + BODY[:-1],
        header(len(BODY))[:-1],
        header(2**32 - 1) + BODY,
        header(len(BODY), kind=99) + BODY,
        header(len(BODY), flags=0x11) + BODY,
        header(len(BODY), flags=FLAG_COMMIT | FLAG_WAIT_ACK) + BODY,
        header(len(BODY), origin=32) + BODY,
        header(len(BODY), group=2) + BODY,
        header(len(BODY), group=GROUP_LOCAL, origin=1) + BODY,
        header(len(BODY), lsn=0, tsn=0) + BODY,
        header(len(BODY), tsn=2) + BODY,
        header(len(BODY), flags=0) + BODY,
        header(len(BODY), flags=FLAG_WAIT_SYNC) + BODY,
        header(1, kind=12) + b"\x90",
        header(2, kind=40) + b"\x82\x02",
        header(5, kind=40) + b"\x82\x02\x01\x02\x03",
        header(5, kind=40) + b"\x82\x02\x28\x03\x03",
        header(5, kind=30) + b"\x82\x00\x01\x01\x01",
        header(len(BODY), flags=0) + BODY + header(len(BODY), lsn=2, tsn=2) + BODY,
        header(len(BODY), flags=0) + BODY + header(len(BODY), lsn=1) + BODY,
        header(len(BODY), flags=0) + BODY + header(len(BODY), lsn=2, origin=2) + BODY,
        header(len(BODY), flags=0) + BODY + header(5, kind=40, lsn=2) + b"\x82\x02\x01\x03\x03",
    ],
)
def test_a_wrong_row_is_a_decode_error(data: bytes) -> None:
    """[W-3], [W-24]: truncated, unknown, unfinished or mixed transactions; never any other exception."""
    with pytest.raises(DecodeError):
        decode_txns(data)


def test_a_scan_tells_a_relay_what_it_must_know() -> None:
    """Spans, origin and LSN, local rows, and the term of a PROMOTE, which waits for its term [A-38]."""
    local_first = [
        Row(RowType.REPLACE, LOCAL, Lsn(9), Lsn(4), 0, put(1), GROUP_LOCAL),
        Row(RowType.REPLACE, InstanceId(3), Lsn(4), Lsn(4), 0, put(2)),
    ]
    txns = [txn(1, put(1), put(2)), raft_state(8, 2), encode_txn(local_first), promote(5, 7, origin=3)]
    data = b"".join(one.data for one in txns)
    spans = scan_txns(data)
    assert [data[span.start : span.end] for span in spans] == [one.data for one in txns]
    assert [(s.origin, s.lsn, s.local_lsn, s.term) for s in spans] == [
        (1, 2, 0, None),
        (0, 8, 8, None),
        (3, 4, 9, None),
        (3, 5, 0, 7),
    ]
    assert [(one.origin, one.lsn) for one in decode_txns(data)] == [(s.origin, s.lsn) for s in spans]
    assert isinstance(decode_txns(data)[3].control, Promote)
    assert ROW_HEADER.size == 24
