"""Where the last write wins, all instances become equal: in whatever order rows are delivered, after a
restart, after a join, and without the tombstones that may go. ADR 44, stamps.G1, stamps.G2."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synchro.config import Settings
from synchro.errors import TupleFound
from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.recovery import snapshot_view
from synchro.row import Dml, RowType, Tuple
from synchro.storage import row_body, schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.schema import ConflictPolicy
from tests.mesh import ASYNC, Mesh
from tests.unit.test_conflict_policies import encoded

ORIGINS = (1, 2, 3)
KEYS = st.integers(0, 2)
WORDS = st.sampled_from(["a", "b", "c"])
HOUR_US = 3600 * 10**6


def changes() -> st.SearchStrategy[Dml]:
    make = row_body.dml_from_values
    return st.one_of(
        st.builds(lambda k, w: make(RowType.INSERT, ASYNC, value=(k, w, 1)), KEYS, WORDS),
        st.builds(lambda k, w: make(RowType.REPLACE, ASYNC, value=(k, w, 1)), KEYS, WORDS),
        st.builds(lambda k, w: make(RowType.UPDATE, ASYNC, key=(k,), ops=(("=", 2, w),)), KEYS, WORDS),
        st.builds(lambda k, w: make(RowType.UPSERT, ASYNC, value=(k, w, 1), ops=(("+", 3, 1),)), KEYS, WORDS),
        st.builds(lambda k: make(RowType.DELETE, ASYNC, key=(k,)), KEYS),
    )


def three_masters() -> Mesh:
    """Their clocks are an hour apart."""
    mesh = Mesh(3)
    for op in (
        schema_ops.create_index(mesh[1].memtx, "async", "word", parts=((2, "string"),), unique=False),
        schema_ops.alter_space(mesh[1].memtx, "async", conflict=ConflictPolicy.LAST_WRITE_WINS),
    ):
        call = mesh.write_ops(1, encoded(op))
        mesh.settle()
        assert mesh.committed(call), mesh.outcome(call)
    for number, offset in ((1, 0), (2, HOUR_US), (3, -HOUR_US)):
        mesh.step(number, ev.ClockCompared(10 * HOUR_US + offset))
    return mesh


def contents(memtx: Memtx) -> tuple[list[Tuple], list[Tuple]]:
    memtx.check()
    return list(memtx.select(ASYNC)), sorted(memtx.select(ASYNC, 1))


ACTS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(ORIGINS), st.lists(changes(), min_size=1, max_size=3)),
    st.tuples(st.just("truncate"), st.sampled_from(ORIGINS), st.none()),
    st.tuples(st.just("persist"), st.sampled_from(ORIGINS), st.none()),
    st.tuples(st.just("deliver"), st.sampled_from(ORIGINS), st.sampled_from(ORIGINS)),
    st.tuples(st.just("restart"), st.sampled_from(ORIGINS), st.none()),
)
WEIGHED = st.one_of(ACTS, ACTS.filter(lambda act: act[0] in ("write", "persist", "deliver")))


def act_on(mesh: Mesh, act: str, number: int, what: object) -> None:
    match act:
        case "write":
            assert isinstance(what, list)
            mesh.write_ops(number, what)
        case "truncate":
            mesh.write_ops(number, encoded(schema_ops.truncate(mesh[number].memtx, ASYNC)))
        case "persist":
            mesh.persist(number)
        case "deliver":
            assert isinstance(what, int)
            if what != number:
                mesh.deliver(number, what, limit=2)
        case "restart":
            before = contents(mesh[number].memtx)
            mesh.crash(number)
            mesh.restart(number)
            offset = {1: 0, 2: HOUR_US, 3: -HOUR_US}[number]
            mesh.step(number, ev.ClockCompared(10 * HOUR_US + offset))
            assert contents(mesh[number].memtx) == before


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(WEIGHED, max_size=60))
def test_masters_become_equal_whatever_happens_in_whatever_order(acts: list[tuple[str, int, object]]) -> None:
    """A restart finds what was seen before it; nobody stops; a joiner and a copy of the log have the same."""
    mesh = three_masters()
    for act in acts:
        act_on(mesh, *act)
        for number in ORIGINS:
            mesh[number].memtx.check()
    mesh.settle()
    assert not any(member.stopped for member in mesh.members.values())
    found = [contents(mesh[number].memtx) for number in ORIGINS]
    assert found[0] == found[1] == found[2]
    _, spaces = snapshot_view(mesh[1], with_local=False)
    joined = Memtx(Settings().limits)
    joined.begin_bulk()
    for space_id, tuples in spaces:
        joined.load(space_id, tuples)
    joined.end_bulk()
    assert contents(joined) == found[0]
    assert joined.clock.newest == mesh[1].memtx.clock.newest
    of = [memtx.catalog.store(ASYNC).stamps for memtx in (joined, mesh[1].memtx)]
    assert of[0] is not None and of[1] is not None
    assert (of[0].known, of[0].graves, of[0].floor) == (of[1].known, of[1].graves, of[1].floor)


# --- the same set of rows, at the level of one memory ------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.sampled_from(ORIGINS),
        st.integers(1, 6),
        st.one_of(st.tuples(KEYS, WORDS), st.tuples(KEYS)),
    ),
    max_size=12,
)


def bands() -> Memtx:
    memtx = Memtx(Settings().limits)
    space = schema_ops.create_space(memtx, "s", space_id=ASYNC, conflict="last_write_wins")
    memtx.commit(memtx.prepare(space))
    memtx.commit(memtx.prepare(schema_ops.create_index(memtx, "s", "primary")))
    return memtx


@settings(max_examples=200, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_any_interleaving_of_the_same_rows_gives_the_same(
    rows: list[tuple[int, int, Tuple]], rng: random.Random
) -> None:
    """Each origin's rows come in its own order, also with equal times; what is pending may be decided later,
    or be taken back and come again."""
    streams: dict[int, list[Dml]] = {origin: [] for origin in ORIGINS}
    for origin, time, value in rows:
        if len(value) == 2:
            op = row_body.dml_from_values(RowType.REPLACE, ASYNC, value=value)
        else:
            op = row_body.dml_from_values(RowType.DELETE, ASYNC, key=value)
        streams[origin].append(row_body.stamped(op, time))
    found = set()
    for _ in range(4):
        memtx = bands()
        left = {origin: list(ops) for origin, ops in streams.items() if ops}
        waiting = []
        lsn = 0
        while left:
            origin = rng.choice(sorted(left))
            op = left[origin][0]
            prepared = memtx.prepare([op], from_peer=True, origin=InstanceId(origin))
            lsn += 1
            prepared.lsn = Lsn(lsn)
            if rng.random() < 0.2:
                memtx.rollback(prepared)
                continue
            del left[origin][0]
            if not left[origin]:
                del left[origin]
            waiting.append(prepared)
            while waiting and rng.random() < 0.6:
                memtx.commit(waiting.pop(0))
        for prepared in waiting:
            memtx.commit(prepared)
        memtx.check()
        found.add((memtx.checksum(ASYNC), tuple(memtx.select(ASYNC))))
    assert len(found) == 1


def test_the_twin_is_a_maximum() -> None:
    """stamps.G1: what is read is the row with the highest (time, origin), found the slow way."""
    memtx = bands()
    told = [(5, 1, "a"), (5, 3, "b"), (4, 2, "c"), (5, 2, "d")]
    for time, origin, word in told:
        op = row_body.dml_from_values(RowType.INSERT, ASYNC, value=(1, word))
        prepared = memtx.prepare([row_body.stamped(op, time)], from_peer=True, origin=InstanceId(origin))
        memtx.commit(prepared)
    assert memtx.get(ASYNC, 0, (1,)) == (1, max(told)[2])
    try:
        memtx.prepare([row_body.dml_from_values(RowType.INSERT, ASYNC, value=(1, "x"))])
    except TupleFound:
        return
    raise AssertionError("a client inserted a key that is there")
