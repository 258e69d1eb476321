"""Rows: decode(encode(x)) = x, and decode(anything) is rows or a `DecodeError`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.errors import DecodeError, WrongFormat
from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.row import (
    FLAG_SHARED,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_LOCAL,
    Confirm,
    Demote,
    Dml,
    Nop,
    Promote,
    RaftState,
    Row,
    RowType,
    Txn,
)
from synchro.storage.msgpack_check import packb
from synchro.storage.row_body import dml_from_values, insert_all, insert_dml
from synchro.storage.xrow import decode_txns, encode_ops, encode_txn, scan_txns
from tests.property.test_value_types import extended

u64 = st.integers(1, 2**63)
ids = st.integers(0, 31).map(InstanceId)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary(), extended
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
tuples = st.lists(values, max_size=5).map(tuple)
spaces = st.one_of(st.integers(0, 70000), st.integers(0, 2**32 - 1))
ops = st.lists(st.tuples(st.sampled_from("=+-"), st.integers(0, 9), values), max_size=3)
dmls = st.one_of(
    st.builds(lambda s, v: dml_from_values(RowType.INSERT, s, value=v), spaces, tuples),
    st.builds(lambda s, v: dml_from_values(RowType.REPLACE, s, value=v), spaces, tuples),
    st.builds(lambda s, k, o: dml_from_values(RowType.UPDATE, s, key=k, ops=o), spaces, tuples, ops),
    st.builds(lambda s, k: dml_from_values(RowType.DELETE, s, index_id=1, key=k), spaces, tuples),
    st.builds(lambda s, v, o: dml_from_values(RowType.UPSERT, s, value=v, ops=o), spaces, tuples, ops),
)
puts = st.builds(
    lambda kind, space, rows: insert_all(kind, space, [packb(row) for row in rows]),
    st.sampled_from([RowType.INSERT, RowType.REPLACE]),
    st.sampled_from([512, 513, 7, 70000]),
    st.lists(tuples, min_size=1, max_size=6),
)
"""Seldom mixed with changes of other kinds in life, so they have a way of their own."""
lists_of_changes = st.one_of(st.lists(dmls, min_size=1, max_size=4), puts)
request_ids = st.binary(min_size=16, max_size=16).map(RequestId)
wait_flags = st.sampled_from([0, FLAG_WAIT_SYNC, FLAG_WAIT_SYNC | FLAG_WAIT_ACK])
controls = st.one_of(
    st.builds(Confirm, ids, u64.map(Lsn)).map(lambda b: (RowType.CONFIRM, b)),
    st.builds(Promote, ids, u64.map(Lsn), u64.map(Term), u64.map(Term)).map(lambda b: (RowType.PROMOTE, b)),
    st.builds(Demote, ids, u64.map(Lsn), u64.map(Term), u64.map(Term)).map(lambda b: (RowType.DEMOTE, b)),
    st.just((RowType.NOP, Nop())),
)


@st.composite
def txns(draw: st.DrawFn) -> Txn:
    lsn = draw(u64)
    kind = draw(st.integers(0, 3))
    if kind == 0:
        body = RaftState(Term(draw(u64)), draw(ids))
        return encode_txn([Row(RowType.RAFT, InstanceId(0), Lsn(lsn), Lsn(lsn), 0, body, GROUP_LOCAL)])
    origin = InstanceId(draw(st.integers(1, 31)))
    if kind == 1:
        row_type, control = draw(controls)
        return encode_txn([Row(row_type, origin, Lsn(lsn), Lsn(lsn), 0, control)])
    changes = draw(lists_of_changes)
    return txn_of(changes, origin, lsn, draw(wait_flags), draw(ids_of(changes)))


def ids_of(changes: Sequence[Dml]) -> st.SearchStrategy[list[RequestId | None]]:
    """None, that of the client, or one for each change, where there may be none too: a shared transaction
    (ADR 13)."""
    count = len(changes)
    named: st.SearchStrategy[list[RequestId | None]] = st.sampled_from([0, 1, count]).flatmap(
        lambda size: st.lists(request_ids, min_size=size, max_size=size)
    )
    mixed = st.lists(st.none() | request_ids, min_size=count, max_size=count)
    return named | mixed if count > 1 else named


def txn_of(
    changes: Sequence[Dml], origin: InstanceId, lsn: int, flags: int, names: Sequence[RequestId | None]
) -> Txn:
    """Row by row."""
    last = len(changes) - 1
    each = FLAG_SHARED if None in names else 0
    name_of = dict(zip(range(last - len(names) + 1, last + 1), names, strict=True))
    return encode_txn(
        [
            Row(
                dml.type,
                origin,
                Lsn(lsn + n),
                Lsn(lsn),
                each | (flags if n == last else 0),
                dml,
                request_id=name_of.get(n),
            )
            for n, dml in enumerate(changes)
        ]
    )


def same(a: object, b: object) -> bool:
    """Equality under which NaN equals itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(txns(), max_size=5))
def test_what_was_encoded_is_decoded(run: list[Txn]) -> None:
    data = b"".join(one.data for one in run)
    decoded = decode_txns(data)
    assert [one.data for one in decoded] == [one.data for one in run]
    for one, other in zip(decoded, run, strict=True):
        assert same(tuple(one.rows), tuple(other.rows))
        assert list(one.requests()) == list(other.requests())
    spans = scan_txns(data)
    assert [(s.origin, s.lsn, s.flags, s.type) for s in spans] == [
        (one.origin, one.lsn, one.flags, one.rows[0].type) for one in run
    ]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lists_of_changes, ids.filter(bool), u64, wait_flags, st.data())
def test_own_changes_have_the_bytes_of_their_rows(
    changes: Sequence[Dml], origin: InstanceId, lsn: int, flags: int, data: st.DataObject
) -> None:
    names = data.draw(ids_of(changes))
    made = encode_ops(changes, origin, Lsn(lsn), flags, names)
    other = txn_of(changes, origin, lsn, flags, names)
    assert made.data == other.data
    assert same(tuple(made.rows), tuple(other.rows))
    plain = ("origin", "lsn", "tsn", "flags", "row_count", "control", "is_nop", "is_local")
    for name in (*plain, "is_shared", "has_unnamed", "call_count"):
        assert getattr(made, name) == getattr(other, name)
    assert list(made.requests()) == list(other.requests())
    assert [lsn for _, lsn in made.requests()] == [row.lsn for row in made.rows if row.request_id is not None]
    assert same(tuple(made.ops), tuple(other.ops))
    assert list(made.components()) == list(other.components())
    assert repr(made) == repr(other)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_rows_or_a_decode_error(data: bytes) -> None:
    for decode in (decode_txns, scan_txns):
        with contextlib.suppress(DecodeError):
            decode(data)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(txns(), min_size=1, max_size=3), st.data())
def test_damaged_rows_decode_to_themselves_or_to_an_error(run: list[Txn], data: st.DataObject) -> None:
    """encode(decode(b)) = b: what is accepted is kept byte for byte."""
    damaged = bytearray(b"".join(one.data for one in run))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_txns(bytes(damaged))
    except DecodeError:
        return
    assert b"".join(one.data for one in decoded) == bytes(damaged)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=100) | tuples.map(packb))
def test_a_tuple_from_a_client_is_taken_or_refused(raw: bytes) -> None:
    try:
        dml = insert_dml(RowType.INSERT, 512, raw)
    except WrongFormat:
        return
    assert dml.raw.endswith(raw)
    assert isinstance(dml.value, tuple)
