"""Changes of definitions over many tuples: indexes are built in steps, only data waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from synchro.config import Limits
from synchro.errors import TupleFound, WalIo
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from synchro.row import Dml, RowType
from synchro.storage import row_body, schema_ops
from synchro.storage.index_build import BUILD_ROWS, made_at_once
from synchro.storage.memtx import Memtx
from synchro.storage.order import ListOrder, UnsignedOrder, order_in_steps
from synchro.storage.prepared import BuildNeeded
from synchro.storage.schema import SpaceKind
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh
from tests.unit.test_memtx_data import SPACE, delete, do, insert, memtx_with

FEW = Limits(ddl_rows_at_once=3)


def encoded(ops: Sequence[Dml]) -> list[Dml]:
    return [
        row_body.dml_from_values(
            op.type, op.space_id, index_id=op.index_id, key=op.key, value=op.value, ops=op.ops
        )
        for op in ops
    ]


def create_index(mesh: Mesh, number: int = 1, **options: object) -> CallId:
    memtx = mesh[number].memtx
    options = {"parts": ((2, "string"),), "unique": False} | options
    return mesh.write_ops(number, encoded(schema_ops.create_index(memtx, SYNC, "second", **options)))  # type: ignore[arg-type]


def filled(members: int = 3, texts: Sequence[str] = "abcdef", **settings: object) -> Mesh:
    mesh = Mesh(members, limits=FEW, **settings)
    mesh.promote(1)
    for number, text in enumerate(texts, 1):
        mesh.write(1, (number, text))
    mesh.settle()
    return mesh


def names(mesh: Mesh, number: int) -> list[str]:
    return [index.name for index in mesh[number].memtx.catalog.indexes(SYNC)]


def all_agree(mesh: Mesh) -> None:
    for number in mesh.members:
        mesh[number].memtx.check()
        assert mesh[number].memtx.checksum(SYNC) == mesh[1].memtx.checksum(SYNC)


def test_data_writes_wait_for_the_build_and_reads_do_not() -> None:
    mesh = filled()
    index = create_index(mesh)
    later = mesh.write(1, (9, "later"))
    assert mesh.outcome(index) is mesh.outcome(later) is None
    assert mesh[1].waiting_unprepared == 2
    assert len(mesh.rows(1)) == 6
    assert not mesh.members[1].wal[-1].ops or mesh.members[1].wal[-1].ops[0].space_id == SYNC
    mesh.settle()
    assert mesh.committed(index) and mesh.committed(later)
    assert [names(mesh, n) for n in (1, 2, 3)] == [["primary", "second"]] * 3
    assert mesh[3].memtx.select(SYNC, 1, ("later",)) == [(9, "later")]
    all_agree(mesh)


def test_tuples_that_break_it_are_found_and_nothing_is_done() -> None:
    mesh = filled(texts="abcabc")
    index = create_index(mesh, unique=True)
    later = mesh.write(1, (9, "later"))
    mesh.settle()
    assert mesh.reason(index) == "TUPLE_FOUND"
    assert mesh.committed(later)
    assert names(mesh, 1) == ["primary"]


def test_the_build_ends_with_the_caller() -> None:
    mesh = filled()
    index = create_index(mesh)
    later = mesh.write(1, (9, "later"))
    (build,) = mesh.members[1].builds
    mesh.step(1, ev.RequestAbandoned(index))
    assert build.is_cancelled
    mesh.settle()
    assert mesh.committed(later) and names(mesh, 1) == ["primary"]
    again = create_index(mesh)
    mesh.settle()
    assert mesh.committed(again)


def test_a_call_whose_time_is_over_hears_that_nothing_was_done() -> None:
    mesh = filled()
    index = create_index(mesh)
    mesh.step(1, ev.CallExpired(index))
    outcome = mesh.outcome(index)
    assert isinstance(outcome, ev.Rejected) and "nothing was written" in outcome.error.message
    mesh.settle()
    assert names(mesh, 1) == ["primary"]


def test_a_clean_stop_ends_the_build() -> None:
    """Nobody waits for it any more, and a build that comes to its end all the same finds nobody."""
    mesh = filled()
    index = create_index(mesh)
    (build,) = mesh.members[1].builds
    mesh.step(1, ev.StopRequested())
    assert mesh.reason(index) == "LOADING" and build.is_cancelled
    while not build.advance():
        pass
    mesh.step(1, ev.IndexesBuilt(build))
    mesh.settle()
    assert names(mesh, 1) == ["primary"]


def test_who_is_deposed_while_it_builds_refuses_and_follows() -> None:
    mesh = filled()
    index = create_index(mesh)
    builds, mesh.members[1].builds = mesh.members[1].builds, []
    mesh.promote(2)
    mesh.settle()
    assert mesh.reason(index) == "READ_ONLY" and builds[0].is_cancelled
    mesh.step(1, ev.IndexesBuilt(builds[0]))  # too late: no effect
    call = mesh.write(2, (9, "other"))
    mesh.settle()
    assert mesh.committed(call)
    all_agree(mesh)
    assert mesh.rows(1) == mesh.rows(2)


def test_a_replica_that_builds_still_acknowledges_and_takes_a_promote() -> None:
    """The owner is gone before its DDL has a quorum: the new owner must not wait for the build of another."""
    mesh = filled()
    mesh.isolate(3)
    create_index(mesh)
    mesh.build(1)
    mesh.persist(1)
    while mesh.deliver(1, 2):
        pass
    assert mesh.members[2].builds
    mesh.isolate(1)
    mesh._connect(2, 3)
    mesh._connect(3, 2)
    mesh._cuts.discard(frozenset((2, 3)))
    call = mesh.promote(3)
    mesh.settle()
    assert isinstance(mesh.outcome(call), ev.Promoted)
    again = mesh.write(3, (9, "x"))
    mesh.settle()
    assert mesh.committed(again)
    mesh.heal()
    mesh.settle()
    all_agree(mesh)


def test_a_cut_back_of_the_log_drops_the_build_of_what_was_received() -> None:
    mesh = filled()
    create_index(mesh)
    mesh.build(1)
    mesh.persist(1)
    while mesh.deliver(1, 2):
        pass
    (build,) = mesh.members[2].builds
    mesh.step(2, ev.RowsCutBack(mesh[2].vclock, WalIo("no room")))
    assert build.is_cancelled
    mesh.members[2].builds.clear()
    for a, b in ((1, 2), (3, 2)):
        mesh._disconnect(a, b)
        mesh._connect(a, b)
    mesh.settle()
    all_agree(mesh)
    assert names(mesh, 2) == ["primary", "second"]


def test_a_restart_builds_at_once() -> None:
    mesh = filled()
    create_index(mesh)
    mesh.settle()
    mesh.crash(2)
    mesh.restart(2)
    mesh.settle()
    assert names(mesh, 2) == ["primary", "second"]
    all_agree(mesh)


def test_a_build_is_void_once_something_else_was_prepared() -> None:
    memtx = memtx_with(limits=FEW)
    do(memtx, *(insert(n, "x" * n) for n in range(5)))
    ops = schema_ops.create_index(memtx, "bands", "second", parts=((2, "string"),))
    with pytest.raises(BuildNeeded) as first:
        memtx.prepare(ops)
    first.value.build.finish()
    memtx.catalog.built = first.value.build
    do(memtx, insert(7, "x"))  # the same key: the index is impossible now
    with pytest.raises(BuildNeeded) as second:
        memtx.prepare(ops)
    while not second.value.build.advance():
        pass
    memtx.catalog.built = second.value.build
    with pytest.raises(TupleFound):
        memtx.prepare(ops)
    memtx.check()


def _indexed(**options: object) -> Callable[[Memtx], Sequence[Dml]]:
    return lambda memtx: schema_ops.create_index(memtx, "bands", "n", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "alter",
    [
        _indexed(parts=((2, "string"), (3, "integer")), unique=False),
        _indexed(parts=((3, "integer"),), unique=False),
        _indexed(parts=((2, "string"),), unique=True, type="HASH"),
        _indexed(parts=({"field": 4, "type": "unsigned", "is_nullable": True},)),
        lambda memtx: schema_ops.alter_space(
            memtx, "bands", format=[{"name": "id", "type": "unsigned"}, {"name": "s", "type": "string"}]
        ),
    ],
)
def test_in_steps_and_at_once_are_the_same(alter: Callable[[Memtx], Sequence[Dml]]) -> None:
    """Thousands of tuples, so that there are several steps and buckets."""
    rng = random.Random(3)
    size = 8 * BUILD_ROWS
    values = [(n, f"name{(n * 7919) % size}", rng.randrange(-50, 50)) for n in range(size)]
    made: list[Memtx] = []
    for at_once in (1, 10 * size):
        memtx = memtx_with(limits=Limits(ddl_rows_at_once=at_once, batch_ops_max=size))
        memtx.commit(memtx.prepare([insert(*value) for value in values]))
        ops = alter(memtx)
        try:
            memtx.commit(memtx.prepare(ops))
            assert at_once > size
        except BuildNeeded as needed:
            steps = 1
            while not needed.build.advance():
                steps += 1
            assert steps > 4
            memtx.catalog.built = needed.build
            memtx.commit(memtx.prepare(ops))
        memtx.check()
        made.append(memtx)
    for index in made[0].catalog.indexes("bands"):
        assert made[0].select(SPACE, index.id, limit=50) == made[1].select(SPACE, index.id, limit=50)


@pytest.mark.parametrize("count", [0, 1, 2_999, 10_000])
def test_an_order_made_in_steps_is_sorted(count: int) -> None:
    entries = [(n * 7919 % 1_000, n) for n in range(count)]
    order = made_at_once(order_in_steps(entries, 100, is_unsigned=False))
    assert isinstance(order, ListOrder) and list(order.walk()) == sorted(entries)
    numbers = [n * 7919 % 1_000_003 for n in range(count)]
    order = made_at_once(order_in_steps(numbers, 100, is_unsigned=True))
    assert isinstance(order, UnsignedOrder) and list(order.walk()) == sorted(numbers)


@pytest.mark.parametrize("descending", [False, True])
def test_an_offset_into_a_tree_is_that_into_a_list(descending: bool) -> None:
    """A tree may not step over a million entries one by one."""
    numbers = [3 * n for n in range(3_000)] + [2**64 - 1]
    tree, plain = UnsignedOrder(numbers), ListOrder(numbers)
    for low in (None, (0, True), (2_999, True), (3_000, False), (2**64 - 1, True)):
        for high in (None, (9_000, True), (9_000, False), (2**64 - 1, False)):
            for offset in (0, 1, 7, 999, 2_999, 3_000, 3_001, 10**6, 2**62):
                got = tree.walk(low, high, descending=descending, offset=offset)
                assert list(got) == list(plain.walk(low, high, descending=descending, offset=offset))


# --- truncate ----------------------------------------------------------------------------------------------


def test_what_is_dropped_or_emptied_is_let_go_of_later() -> None:
    memtx = memtx_with({"name": "second", "parts": ((2, "string"),)})
    do(memtx, *(insert(n, f"x{n}") for n in range(100)))
    do(memtx, *schema_ops.truncate(memtx, "bands"))
    assert memtx.count(SPACE) == 0 and memtx.has_dead
    assert not memtx.free(10)
    while not memtx.free(10):
        pass
    assert not memtx.has_dead
    do(memtx, insert(1, "x1"))
    assert memtx.select(SPACE, 1) == [(1, "x1")]
    do(memtx, *schema_ops.drop_index(memtx, "bands", "second"))
    do(memtx, *schema_ops.drop_space(memtx, "bands"))
    assert memtx.free(10**6) and not memtx.has_dead


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_truncate_of_a_local_space_may_wait_among_other_changes(end: str) -> None:
    """Nothing of it walks over the rows; who writes behind it finds them gone already, readers do not."""
    memtx = memtx_with({"name": "second", "parts": ((2, "string"),)}, is_local=True)
    do(memtx, insert(1, "a"), insert(2, "b"), insert(3, "c"))
    before = memtx.prepare([delete(1), insert(4, "d")])
    clear = memtx.prepare(schema_ops.truncate(memtx, "bands"))
    behind = memtx.prepare([insert(2, "c"), insert(1, "a")])
    again = memtx.prepare(schema_ops.truncate(memtx, "bands"))
    last = memtx.prepare([insert(9, "a")])
    assert len(memtx.select(SPACE)) == 3
    memtx.check()
    if end == "rollback":
        for prepared in (last, again, behind, clear):
            memtx.rollback(prepared)
            memtx.check()
        memtx.commit(before)
        assert memtx.select(SPACE) == [(2, "b"), (3, "c"), (4, "d")]
        return
    seen = []
    for prepared in (before, clear, behind, again, last):
        memtx.commit(prepared)
        memtx.check()
        seen.append(list(memtx.select(SPACE)))
    assert seen == [[(2, "b"), (3, "c"), (4, "d")], [], [(1, "a"), (2, "c")], [], [(9, "a")]]
    assert memtx.select(SPACE, 1, ("a",)) == [(9, "a")]


def test_a_local_truncate_through_an_instance() -> None:
    mesh = Mesh(1)
    mesh.promote(1)
    for number in range(5):
        mesh.write(1, (number, "x"), LOCAL_SPACE)
    call = mesh.write_ops(1, encoded(schema_ops.truncate(mesh[1].memtx, LOCAL_SPACE)))
    late = mesh.write(1, (7, "y"), LOCAL_SPACE, kind=RowType.INSERT)
    mesh.settle()
    assert mesh.committed(call) and mesh.committed(late)
    assert mesh.rows(1, LOCAL_SPACE) == [(7, "y")]
    mesh.crash(1)
    mesh.restart(1)
    assert mesh.rows(1, LOCAL_SPACE) == [(7, "y")]
    assert mesh[1].self_id == InstanceId(1)


@pytest.mark.parametrize("is_demoted", [False, True])
def test_a_promote_does_not_pass_the_rows_that_it_builds_on(is_demoted: bool) -> None:
    """Received.B3: behind a change of definitions stand its CONFIRM, data, and the PROMOTE of the next owner,
    which confirms that data. Whoever catches up with all of it looks at the PROMOTE when the data, and a
    DEMOTE in between, is in its queue, not before (the data waits until that CONFIRM is on disk)."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(3)
    index = create_index(mesh)
    mesh.settle()
    last = mesh.write(1, (1, "a"))
    if is_demoted:
        mesh.settle()
        mesh.demote(1)
    mesh.promote(2)
    assert mesh.committed(index) and mesh.committed(last) and mesh[2].limbo.owner_id == 2
    mesh.join(2, 3)
    mesh.persist(3)  # it knows the term
    mesh.deliver(2, 3)
    assert mesh.members[3].stopped == {}
    mesh.heal()
    mesh.settle()
    all_agree(mesh)
    assert mesh.rows(3) == mesh.rows(1) and names(mesh, 3) == ["primary", "second"]


@pytest.mark.parametrize("rows", [1, 6])
def test_the_confirm_of_a_promote_does_not_pass_rows_of_a_queue_without_an_owner(rows: int) -> None:
    """Received.B3: an index that was made before there was an owner takes its time on who catches up, and the
    next term is not what it is judged by."""
    mesh = Mesh(3, limits=FEW)
    for key in range(rows):
        mesh.write(1, (key, "x"), ASYNC)
    mesh.settle()
    mesh.isolate(3)
    mesh.write_ops(1, encoded(_second_index(mesh, ASYNC)))
    mesh.settle()
    last = mesh.write(1, (11, "a"), ASYNC)
    mesh.settle()
    mesh.promote(2)
    assert mesh.committed(last) and mesh[2].limbo.owner_id == 2
    _catches_up(mesh)
    assert len(mesh.rows(3, ASYNC)) == rows + 1


def test_the_confirm_of_a_promote_does_not_pass_rows_that_wait_for_an_index_of_this_instance() -> None:
    """Received.B3: it builds an index of a space of its own while an asynchronous row of the former owner and
    the takeover behind it come in."""
    mesh = Mesh(3, limits=FEW)
    mesh.promote(1)
    memtx = mesh[3].memtx
    mesh.write_ops(3, encoded(schema_ops.create_space(memtx, "own", kind=SpaceKind.TEMPORARY)))
    mesh.settle()
    own = memtx.catalog.space("own").id
    mesh.write_ops(3, encoded(schema_ops.create_index(memtx, own, "primary")))
    mesh.settle()
    for key in range(6):
        mesh.write(3, (key, "x"), own)
    mesh.write(1, (9, "sync"))
    mesh.settle()
    mesh.isolate(3)
    last = mesh.write(1, (1, "a"), ASYNC)
    mesh.settle()
    mesh.promote(2)
    assert mesh.committed(last) and mesh[2].limbo.owner_id == 2
    mesh.write_ops(3, encoded(_second_index(mesh, own, at=3)))
    assert mesh.members[3].builds
    _catches_up(mesh)
    assert mesh.rows(3, ASYNC) == [(1, "a")]


def _second_index(mesh: Mesh, space: int, at: int = 1) -> list[Dml]:
    return schema_ops.create_index(mesh[at].memtx, space, "second", parts=((2, "string"),), unique=False)


def _catches_up(mesh: Mesh) -> None:
    """Instance 3 hears from 2 before it hears from anybody else."""
    mesh.join(2, 3)
    for _ in range(4):
        mesh.persist(3)
        mesh.deliver(2, 3)
    mesh.persist(3)
    mesh.heal()
    mesh.settle()
    assert mesh.members[3].stopped == {}
    all_agree(mesh)
