"""Rows that a peer sends, hostile but well formed: each is applied, or stops its stream and leaves no trace.

A row that breaks an assertion of the core ends every instance that applies it, and again after each restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synchro.errors import DecodeError, WrongFormat
from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.process import supervise
from synchro.row import (
    FLAG_COMMIT,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_LOCAL,
    Confirm,
    Demote,
    Dml,
    Nop,
    Promote,
    RaftState,
    Rollback,
    Row,
    RowType,
    Txn,
)
from synchro.storage import row_body, schema, xrow
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh, uuid_of

ONE, TWO = InstanceId(1), InstanceId(2)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 2, -1, 31, 32, 127, 280, 288, 320, 511, 512, 513, 2**30, 2**31, 2**40, 2**64 - 1]),
    st.sampled_from(
        [
            "",
            "x",
            "memtx",
            "primary",
            "name",
            "unsigned",
            "string",
            "TREE",
            "sync",
            "_space",
            "last_write_wins",
        ]
    ),
    st.sampled_from([0.5, float("nan"), float("inf")]),
    st.sampled_from([b"", b"x"]),
)
NAMES: Final = ["name", "type", "is_nullable", "field", "unique", "is_sync", "group_id", "path", "conflict"]
fields = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(NAMES) | st.integers(0, 2), inner, max_size=3)
    ),
    max_leaves=6,
)
tuples = st.lists(fields, max_size=8).map(tuple)
keys = st.lists(scalars, max_size=3).map(tuple)
operations = st.tuples(
    st.sampled_from(["=", "+", "-", "&", "|", "^", "!", "#", ":", "?"]) | scalars,
    scalars | fields,
    fields,
    scalars,
).map(lambda op: op[: 2 + bool(op[2])] if op[0] != ":" else (*op, 0, "s"))
op_lists = st.lists(operations, max_size=3).map(tuple)

GOOD: Final = {
    schema.SPACE_ID: (600, 1, "other", "memtx", 0, {"is_sync": True}, ({"name": "id", "type": "unsigned"},)),
    schema.INDEX_ID: (513, 1, "second", "TREE", {"unique": True}, ({"field": 1, "type": "string"},)),
    schema.CLUSTER_ID: (4, uuid_of(4), "i4"),
    schema.SCHEMA_ID: ("oncekey", 1),
    schema.TRUNCATE_ID: (513, 1),
    schema.USER_ID: (5, 1, "u", "user", {}),
    schema.PRIV_ID: (1, 5, "space", 513, 7, {}),
    schema.SEQUENCE_ID: (5, 1, "numbers", 1, 1, 100, 1, 0, False),
    schema.SEQUENCE_DATA_ID: (5, 7),
    schema.SPACE_SEQUENCE_ID: (513, 5, False, 0, ""),
}


@st.composite
def bent(draw: st.DrawFn, good: tuple[Any, ...]) -> tuple[Any, ...]:
    """A sound row of a system space with one thing or another in it that is not, at any depth."""
    places = list(_places(good))
    value: Any = good
    for place in draw(st.lists(st.sampled_from(places), max_size=2)):
        value = _put(value, place, draw(fields))
    assert isinstance(value, tuple)
    return value[: draw(st.sampled_from([len(value), len(value), 1, 2]))]


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to all parts of it, and to keys that are not there yet."""
    parts: list[Any] = []
    if isinstance(value, tuple):
        parts = list(enumerate(value))
    elif isinstance(value, dict):
        parts = [*value.items(), *((name, None) for name in NAMES)]
    for step, part in parts:
        yield (*place, step)
        yield from _places(part, (*place, step))


def _put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy with `new` there; as it was, if there is no such place any more."""
    if not place:
        return new
    step, *rest = place
    if isinstance(value, dict):
        return {**value, step: _put(value.get(step), tuple(rest), new)}
    if isinstance(value, tuple) and isinstance(step, int) and step < len(value):
        return (*value[:step], _put(value[step], tuple(rest), new), *value[step + 1 :])
    return value


spaces = st.sampled_from([SYNC, ASYNC, ASYNC, LOCAL_SPACE, 0, 999, 2**30, 2**32 - 1, schema.FUNC_ID, *GOOD])


@st.composite
def changes(draw: st.DrawFn) -> Dml:
    space = draw(spaces)
    good = GOOD.get(space, (1, "x"))
    value = draw(bent(good) | tuples) if space in GOOD else draw(tuples | st.just(good) | bent(good))
    kind = draw(
        st.sampled_from([RowType.INSERT, RowType.REPLACE, RowType.UPDATE, RowType.DELETE, RowType.UPSERT])
    )
    key = draw(keys | st.just(value[:1]) | st.just(value[:2]))
    if kind in (RowType.INSERT, RowType.REPLACE):
        return row_body.dml_from_values(kind, space, value=value)
    if kind is RowType.UPSERT:
        return row_body.dml_from_values(kind, space, value=value, ops=draw(op_lists))
    index = draw(st.sampled_from([0, 0, 0, 1, 2, 200]))
    ops = draw(op_lists) if kind is RowType.UPDATE else None
    return row_body.dml_from_values(kind, space, index_id=index, key=key, ops=ops)


origins = st.sampled_from([1, 2, 2, 2, 3, 31]).map(InstanceId)
small = st.integers(0, 12)
terms = st.integers(0, 6)
controls = st.one_of(
    st.builds(Confirm, st.integers(0, 4).map(InstanceId), small.map(Lsn)),
    st.builds(Rollback, st.integers(0, 4).map(InstanceId), small.map(Lsn)),
    st.builds(Promote, st.integers(0, 4).map(InstanceId), small.map(Lsn), terms.map(Term), terms.map(Term)),
    st.builds(Demote, st.integers(0, 4).map(InstanceId), small.map(Lsn), terms.map(Term), terms.map(Term)),
)
KIND: Final = {
    Confirm: RowType.CONFIRM,
    Rollback: RowType.ROLLBACK,
    Promote: RowType.PROMOTE,
    Demote: RowType.DEMOTE,
    Nop: RowType.NOP,
    RaftState: RowType.RAFT,
}
bodies = st.one_of(
    changes(), changes(), changes(), controls, st.just(Nop()), st.builds(RaftState, terms.map(Term), origins)
)
wait_flags = st.sampled_from([0, 0, FLAG_WAIT_SYNC, FLAG_WAIT_SYNC | FLAG_WAIT_ACK])


@st.composite
def transactions(draw: st.DrawFn) -> tuple[InstanceId, int, list[Any], int, list[RequestId], int]:
    """origin, gap before it, bodies, flags, request ids, group"""
    found = draw(st.lists(bodies, min_size=1, max_size=3))
    flags = draw(wait_flags)
    names = draw(st.sampled_from([0, 0, 1, len(found)]))
    ids = [RequestId(bytes([draw(st.integers(0, 3))]) * 16) for _ in range(names)]
    group = draw(st.sampled_from([0, 0, 0, 0, GROUP_LOCAL]))
    return draw(origins), draw(st.sampled_from([0, 0, 0, 0, 1, -1])), found, flags, ids, group


def as_txn(mesh: Mesh, given: tuple[Any, ...], at: dict[int, int]) -> Txn | None:
    """As bytes of the wire, decoded again; None: the decoder refuses it, and so would the applier."""
    origin, gap, found, flags, ids, group = given
    if group:
        origin = InstanceId(0)
    first = at.get(origin, mesh[1].volatile_vclock.get(origin)) + 1 + gap
    if first < 1:
        return None
    rows = []
    for number, body in enumerate(found):
        lsn = Lsn(first + number)
        kind = body.type if isinstance(body, Dml) else KIND[type(body)]
        last = number == len(found) - 1
        request = ids[number - len(found) + len(ids)] if number >= len(found) - len(ids) else None
        rows.append(
            Row(kind, origin, lsn, Lsn(first), (FLAG_COMMIT | flags) if last else 0, body, group, request)
        )
    try:
        (txn,) = xrow.decode_txns(xrow.encode_txn(rows).data)
    except (DecodeError, WrongFormat):
        return None
    at[origin] = txn.lsn
    return txn


def unclaimed() -> Mesh:
    mesh = Mesh(3, skip_conflict=True)
    mesh.write(1, (1, "a"), ASYNC)
    mesh.settle()
    return mesh


def follower() -> Mesh:
    """2 owns the queue, and 1 has rows of it that are not decided."""
    mesh = Mesh(3)
    mesh.promote(2)
    mesh.write(2, (1, "a"), ASYNC)
    mesh.settle()
    mesh.isolate(3)
    mesh.write(2, (1, "a"))
    mesh.persist(2)
    mesh.deliver(2, 1)
    mesh.write(1, (1, "b"), LOCAL_SPACE)
    mesh.persist(1)
    return mesh


def owner() -> Mesh:
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.write(1, (1, "a"))
    mesh.write(1, (1, "a"), ASYNC)
    mesh.settle()
    mesh.isolate(1)
    mesh.write(1, (2, "b"))
    mesh.persist(1)
    return mesh


STATES: Final = {"unclaimed": unclaimed, "follower": follower, "owner": owner}


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(sorted(STATES)), st.lists(transactions(), min_size=1, max_size=4), st.booleans())
def test_whatever_a_peer_sends_the_instance_lives(
    state: str, given_txns: list[tuple[Any, ...]], in_one_sync: bool
) -> None:
    """And what it wrote it can replay; what it refused it names."""
    mesh = STATES[state]()
    at: dict[int, int] = {}
    for given_txn in given_txns:
        txn = as_txn(mesh, given_txn, at)
        if txn is None:
            continue
        before = mesh[1].volatile_vclock.without_local()
        mesh.step(1, ev.TxnsReceived(TWO, [txn]))
        error = mesh.members[1].stopped.get(2)
        if error is not None:
            assert error.details["txn"] == f"{txn.origin}:{txn.lsn}"
            assert mesh[1].volatile_vclock.without_local() == before
            break
        if not in_one_sync:
            mesh.persist(1)
    while mesh.persist(1):
        pass
    mesh[1].memtx.check()
    rows = {space: repr(mesh.rows(1, space)) for space in (SYNC, ASYNC) if space in mesh[1].memtx._stores}
    term, vclock = mesh[1].limbo.term, mesh[1].vclock
    mesh.crash(1)
    mesh.restart(1)
    assert (mesh[1].limbo.term, mesh[1].vclock) == (term, vclock)
    if state != "owner":  # it commits ahead of its CONFIRM (ADR 11)
        assert {
            space: repr(mesh.rows(1, space)) for space in rows if mesh[1].memtx.catalog.indexes(space)
        } == {space: found for space, found in rows.items() if mesh[1].memtx.catalog.indexes(space)}


ddl_rows = st.sampled_from(sorted(GOOD)).flatmap(
    lambda space: st.tuples(
        st.just(space), bent(GOOD[space]), st.sampled_from([RowType.INSERT, RowType.REPLACE, RowType.DELETE])
    )
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ddl_rows, min_size=1, max_size=3))
def test_whatever_a_peer_defines_the_instance_lives(
    found: list[tuple[int, tuple[Any, ...], RowType]],
) -> None:
    """Broken rows of `_space`, `_index`, `_cluster` and the like, each a transaction."""
    mesh = unclaimed()
    lsn = 0
    for space, value, kind in found:
        key = value[: 2 if space == schema.INDEX_ID else 1]
        try:
            if kind is RowType.DELETE:
                op = row_body.dml_from_values(kind, space, key=key)
            else:
                op = row_body.dml_from_values(kind, space, value=value)
        except WrongFormat:
            continue
        lsn += 1
        mesh.step(1, ev.TxnsReceived(TWO, [xrow.encode_ops([op], TWO, Lsn(lsn), 0)]))
        mesh.persist(1)
        if 2 in mesh.members[1].stopped:
            break
    mesh[1].memtx.check()
    frozen = repr(mesh[1].memtx.freeze())  # NaN is nothing that equals itself
    mesh.crash(1)
    mesh.restart(1)
    assert repr(mesh[1].memtx.freeze()) == frozen


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (schema.SPACE_ID, (600, 1, "other", "memtx", 0, {"type": {}}, ())),
        (schema.SPACE_ID, (600, 1, "other", "memtx", 0, {"type": ("temporary",)}, ())),
        (schema.SPACE_ID, (600, 1, "other", "memtx", 0, {"is_sync": 1}, ())),
        (schema.SPACE_ID, (600, 1, "other", "memtx", 0, {}, (("a", {}),))),
        (schema.SPACE_ID, (600, 1, "other", {}, 0, {}, ())),
        (schema.SPACE_ID, (600, 1, "other")),
        (schema.SPACE_ID, (320, 1, "_cluster", "memtx", 0, {}, ())),
        (schema.SPACE_ID, (2**62, 1, "other", "memtx", 0, {}, ())),
        (schema.INDEX_ID, (513, 1, "second", "TREE", {}, ({"field": 2**62, "type": "string"},))),
        (schema.INDEX_ID, (513, 1, "second", "TREE", {}, ({"field": 2**32, "type": "string"},))),
        (schema.INDEX_ID, (513, 1, "second", "TREE", {}, ({"field": True, "type": "string"},))),
        (schema.INDEX_ID, (513, 1, "second", "TREE", {}, ())),
        (schema.INDEX_ID, (513, 1, "second", "TREE", {"unique": None}, ((1, "string"),))),
        (schema.INDEX_ID, (513, 2**62, "second", "TREE", {}, ((1, "string"),))),
        (schema.INDEX_ID, (999, 0, "primary", "TREE", {}, ((0, "unsigned"),))),
        (schema.INDEX_ID, (320, 3, "third", "TREE", {}, ((0, "unsigned"),))),
        (schema.CLUSTER_ID, (0, uuid_of(4), "i4")),
        (schema.CLUSTER_ID, (32, uuid_of(4), "i4")),
        (schema.CLUSTER_ID, (4, "no uuid", "i4")),
        (schema.CLUSTER_ID, (4, uuid_of(4), "No name")),
        (schema.TRUNCATE_ID, (999, 1)),
        (schema.TRUNCATE_ID, (280, 1)),
        (ASYNC, ("no number",)),
        (ASYNC, ()),
        (999, (1,)),
        (0, (1,)),
    ],
)
def test_a_bad_row_stops_its_stream_by_name_and_the_instance_lives(
    space: int, value: tuple[Any, ...]
) -> None:
    """As a conflict does: origin:LSN of the row, its space; nothing of its transaction is kept."""
    mesh = Mesh(3)
    good = row_body.dml_from_values(RowType.REPLACE, schema.SCHEMA_ID, value=("oncegood",))
    bad = row_body.dml_from_values(RowType.REPLACE, space, value=value)
    mesh.step(1, ev.TxnsReceived(TWO, [xrow.encode_ops([good, bad], TWO, Lsn(1), 0)]))
    error = mesh.members[1].stopped[2]
    assert (error.details["txn"], error.details["at"]) == ("2:2", "2:2")
    assert "2:2" in error.message
    known = {
        schema.SPACE_ID: "_space",
        schema.INDEX_ID: "_index",
        schema.CLUSTER_ID: "_cluster",
        ASYNC: "async",
    }
    assert error.details["space"] == known.get(
        space, "_truncate" if space == schema.TRUNCATE_ID else f"#{space}"
    )
    assert mesh[1].vclock.get(TWO) == mesh[1].volatile_vclock.get(TWO) == 0
    call = mesh.write(1, (1,), ASYNC)
    mesh.persist(1)
    assert mesh.committed(call)
    third = xrow.encode_ops(
        [row_body.dml_from_values(RowType.REPLACE, ASYNC, value=(3,))], InstanceId(3), Lsn(1), 0
    )
    mesh.step(1, ev.TxnsReceived(InstanceId(3), [third]))
    mesh.persist(1)
    assert mesh.rows(1, ASYNC) == [(1,), (3,)]  # other streams go on


def test_an_assertion_of_the_core_names_the_row_at_which_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the process, and the one record that says so has the row, for whoever reports it."""
    txn = xrow.encode_ops([row_body.dml_from_values(RowType.REPLACE, ASYNC, value=(1,))], TWO, Lsn(1), 0)

    def broken(*_: object, **__: object) -> None:
        raise AssertionError("made up")

    for name in ("prepare", "commit"):
        mesh = Mesh(3)
        monkeypatch.setattr(mesh[1].memtx, name, broken)
        if name == "commit":
            mesh.step(1, ev.TxnsReceived(TWO, [txn]))
        with pytest.raises(AssertionError) as info:
            mesh.persist(1) if name == "commit" else mesh.step(1, ev.TxnsReceived(TWO, [txn]))
        assert "2:1" in info.value.__notes__[0]


def test_the_record_of_a_crash_has_the_row_once() -> None:
    error = AssertionError("made up")
    error.add_note("while 2:1, from instance 2, was applied")
    records: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def critical(self, event: str, **facts: Any) -> None:
            records.append((event, facts))

    assert supervise._report(Log(), ExceptionGroup("group", [error])) == 1
    ((event, facts),) = records
    assert (event, facts["notes"]) == ("instance_crashed", ["while 2:1, from instance 2, was applied"])
