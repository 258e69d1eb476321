"""What an open transaction sees, and what its commit looks at again. [D-43], ADR 52."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from synchro.config import Limits
from synchro.errors import (
    BatchTooLarge,
    ConditionFailed,
    SynchroError,
    TransactionConflict,
    TupleFound,
    Unsupported,
)
from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage import private_view, row_body, schema_ops
from synchro.storage.conditions import Condition, Expected
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal
from synchro.storage.private_view import PrivateView
from synchro.storage.read_set import SEEN_WORK, Unchanged
from synchro.storage.update_ops import OP_WORK
from tests.unit.memtx_world import do, put, with_bands

SPACE = 512


def opened(memtx: Memtx, limits: Limits | None = None) -> PrivateView:
    return PrivateView(memtx.catalog, limits or Limits())


def insert(*fields: Field) -> Dml:
    return row_body.dml_from_values(RowType.INSERT, SPACE, value=fields)


def store(*fields: Field) -> Dml:
    return row_body.dml_from_values(RowType.REPLACE, SPACE, value=fields)


def update(key: Field, *ops: Tuple, index: int = 0) -> Dml:
    return row_body.dml_from_values(RowType.UPDATE, SPACE, index_id=index, key=(key,), ops=ops)


def upsert(value: Tuple, *ops: Tuple) -> Dml:
    return row_body.dml_from_values(RowType.UPSERT, SPACE, value=value, ops=ops)


def delete(key: Field, index: int = 0) -> Dml:
    return row_body.dml_from_values(RowType.DELETE, SPACE, index_id=index, key=(key,))


def get(view: PrivateView, key: Field, index: int = 0) -> Tuple | None:
    found = view.select(SPACE, index, (key,), Iterator_.EQ)
    return found[0] if found else None


def read(
    view: PrivateView,
    iterator: Iterator_ = Iterator_.ALL,
    key: Tuple = (),
    limit: int | None = None,
    offset: int = 0,
) -> list[Tuple]:
    return list(view.select(SPACE, 0, key, iterator, limit=limit, offset=offset))


def commit(memtx: Memtx, view: PrivateView) -> Sequence[Tuple | None]:
    view.check_definitions()
    prepared = memtx.prepare(view.ops, conditions=view.reads)
    memtx.commit(prepared)
    memtx.check()
    return prepared.results


def with_names(*tuples: Tuple) -> Memtx:
    """A unique index over field 2, another one over field 3."""
    memtx = with_bands()
    do(memtx, schema_ops.create_index(memtx, "bands", "name", parts=[{"field": 2, "type": "string"}]))
    parts = [{"field": 3, "type": "unsigned"}]
    do(memtx, schema_ops.create_index(memtx, "bands", "year", parts=parts, unique=False))
    do(memtx, [put(SPACE, *value) for value in tuples])
    return memtx


# --- what it sees ------------------------------------------------------------------------------------------


def test_it_sees_what_is_committed_and_its_own_changes_and_nobody_else_sees_them() -> None:
    """private_view.P1, private_view.P2"""
    memtx = with_bands((1, 10), (2, 20))
    pending = memtx.prepare([put(SPACE, 2, 99)])
    view = opened(memtx)
    used = memtx.memory_used
    assert (get(view, 1), get(view, 2), get(view, 3)) == ((1, 10), (2, 20), None)
    assert view.run(update(1, ("+", 2, 5))) == (1, 15)
    assert view.run(insert(3, 30)) == (3, 30)
    assert view.run(delete(1)) == (1, 15)
    assert view.run(delete(1)) is None
    assert view.run(upsert((4, 1), ("+", 2, 1))) is None
    assert view.run(upsert((4, 1), ("+", 2, 1))) is None
    assert read(view) == [(2, 20), (3, 30), (4, 2)]
    assert memtx.select(SPACE) == [(1, 10), (2, 20)] and memtx.memory_used == used
    memtx.rollback(pending)
    memtx.check()


def test_what_does_nothing_is_not_made() -> None:
    memtx = with_bands((1, 10))
    view = opened(memtx)
    assert view.run(update(2, ("+", 2, 5))) is None and view.run(delete(3)) is None
    assert view.ops == []
    view.check_committed()


def test_a_refused_statement_leaves_all_as_it_was() -> None:
    memtx = with_names((1, "a", 1), (2, "b", 2))
    view = opened(memtx)
    for refused, error in (
        (insert(1, "c", 3), TupleFound),
        (store(3, "a", 3), TupleFound),
        (update(1, ("=", 2, "b")), TupleFound),
        (update(1, ("+", 2, 1)), SynchroError),
        (store(1), SynchroError),
        (delete("a", index=2), SynchroError),
    ):
        with pytest.raises(error):
            view.run(refused)
    assert view.ops == [] and read(view) == [(1, "a", 1), (2, "b", 2)]
    view.run(store(3, "c", 3))
    commit(memtx, view)
    assert memtx.count(SPACE) == 3


def test_own_changes_are_found_by_each_index() -> None:
    memtx = with_names((1, "a", 1), (2, "b", 2))
    view = opened(memtx)
    view.run(update("a", ("=", 2, "z"), index=1))
    assert get(view, "a", index=1) is None and get(view, "z", index=1) == (1, "z", 1)
    view.run(store(3, "a", 2))
    assert get(view, "a", index=1) == (3, "a", 2)
    assert view.select(SPACE, 2, (2,), Iterator_.EQ) == [(2, "b", 2), (3, "a", 2)]
    assert view.select(SPACE, 1, (), Iterator_.ALL) == [(3, "a", 2), (2, "b", 2), (1, "z", 1)]
    commit(memtx, view)
    assert memtx.select(SPACE, 1) == [(3, "a", 2), (2, "b", 2), (1, "z", 1)]


@pytest.mark.parametrize("iterator", list(Iterator_))
@pytest.mark.parametrize("limit", [None, 0, 1, 2, 9])
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_ranges_are_those_of_the_tuples_as_the_transaction_sees_them(
    iterator: Iterator_, limit: int | None, offset: int
) -> None:
    memtx = with_bands(*((number, 0) for number in (1, 3, 5, 7)))
    view = opened(memtx)
    for change in (store(4, 1), store(5, 1), delete(3), store(8, 1), store(0, 1)):
        view.run(change)
    twin = with_bands((0, 1), (1, 0), (4, 1), (5, 1), (7, 0), (8, 1))
    for key in ((), (4,), (3,), (9,)):
        asked = (SPACE, 0, key, iterator)
        found = view.select(*asked, limit=limit, offset=offset)
        expected = twin.select(*asked, limit=limit, offset=offset)
        assert found == expected
        if found and found.more:
            rest = view.select(*asked, after=found[-1])
            assert rest == twin.select(*asked, after=found[-1])
    view.check_committed()


# --- conflicts ---------------------------------------------------------------------------------------------

READS: dict[str, Callable[[PrivateView], object]] = {
    "get": lambda view: get(view, 1),
    "get nothing": lambda view: get(view, 9),
    "get by a secondary key": lambda view: get(view, "a", index=1),
    "get nothing by a secondary key": lambda view: get(view, "x", index=1),
    "update": lambda view: view.run(update(1, ("=", 3, 7))),
    "update of nothing": lambda view: view.run(update(9, ("=", 3, 7))),
    "delete": lambda view: view.run(delete(1)),
    "insert": lambda view: view.run(insert(9, "y", 9)),
    "upsert": lambda view: view.run(upsert((1, "a", 1), ("=", 3, 7))),
    "a unique key": lambda view: view.run(store(5, "x", 5)),
    "a condition": lambda view: view.run(
        None, [Condition(Expected.EQUAL, SPACE, 0, (1,), 0, 0, ((2, "a"),))]
    ),
    "all": read,
    "a range": lambda view: read(view, Iterator_.GE, (8,)),
    "a range of an index": lambda view: view.select(SPACE, 2, (1,), Iterator_.EQ),
}
TOUCHED: dict[str, Callable[[Memtx], object]] = {
    "1 changed": lambda memtx: do(memtx, [put(SPACE, 1, "a", 5)]),
    "1 renamed": lambda memtx: do(memtx, [put(SPACE, 1, "w", 1)]),
    "1 gone": lambda memtx: do(memtx, [delete(1)]),
    "9 there": lambda memtx: do(memtx, [put(SPACE, 9, "n", 1)]),
    "x there": lambda memtx: do(memtx, [put(SPACE, 4, "x", 4)]),
}
MEET = {
    "get": {"1 changed", "1 renamed", "1 gone"},
    "get nothing": {"9 there"},
    "get by a secondary key": {"1 changed", "1 renamed", "1 gone"},
    "get nothing by a secondary key": {"x there"},
    "update": {"1 changed", "1 renamed", "1 gone"},
    "update of nothing": {"9 there"},
    "delete": {"1 changed", "1 renamed", "1 gone"},
    "insert": {"9 there"},
    "upsert": {"1 changed", "1 renamed", "1 gone"},
    "a unique key": {"x there"},
    "a condition": {"1 changed", "1 renamed", "1 gone"},
    "all": set(TOUCHED),
    "a range": {"9 there"},
    "a range of an index": {"1 changed", "1 renamed", "1 gone", "9 there"},
}


@pytest.mark.parametrize("what", READS)
@pytest.mark.parametrize("touched", TOUCHED)
def test_a_transaction_is_made_only_if_what_it_read_is_still_so(what: str, touched: str) -> None:
    """private_view.P3, [D-43]"""
    memtx = with_names((1, "a", 1), (2, "b", 2))
    view = opened(memtx)
    READS[what](view)
    view.run(store(7, "s", 7))
    TOUCHED[touched](memtx)
    before = memtx.select(SPACE)
    if touched in MEET[what]:
        with pytest.raises(TransactionConflict) as caught:
            commit(memtx, view)
        assert "nothing was written" in caught.value.message and caught.value.details["space"] == "bands"
        assert memtx.select(SPACE) == before
    else:
        commit(memtx, view)
    memtx.check()


@pytest.mark.parametrize("what", READS)
@pytest.mark.parametrize("touched", TOUCHED)
def test_a_transaction_that_changes_nothing_is_told_whether_it_read_one_state(
    what: str, touched: str
) -> None:
    memtx = with_names((1, "a", 1), (2, "b", 2))
    view = opened(memtx)
    READS[what](view)
    view.check_committed()
    TOUCHED[touched](memtx)
    if touched in MEET[what]:
        with pytest.raises(TransactionConflict):
            view.check_committed()
    else:
        view.check_committed()


@pytest.mark.parametrize("what", READS)
def test_who_is_in_conflict_with_what_is_pending_rests_on_it(what: str) -> None:
    """read_set.V1: nobody may hear of it before it is decided."""
    memtx = with_names((1, "a", 1), (2, "b", 2))
    view = opened(memtx)
    READS[what](view)
    view.run(store(7, "s", 7))
    pending = memtx.prepare([put(SPACE, 1, "w", 3), put(SPACE, 9, "x", 1)])
    with pytest.raises(PendingRefusal) as caught:
        memtx.prepare(view.ops, conditions=view.reads)
    assert caught.value.blocker is pending and isinstance(caught.value.error, TransactionConflict)
    memtx.rollback(pending)
    commit(memtx, view)


def test_what_rests_on_a_pending_change_of_the_same_value_is_made_behind_it() -> None:
    """read_set.V2"""
    memtx = with_bands((1, 10))
    view = opened(memtx)
    get(view, 1)
    view.run(store(2, 20))
    pending = memtx.prepare([put(SPACE, 1, 10)])
    prepared = memtx.prepare(view.ops, conditions=view.reads)
    assert prepared.base is pending


def test_one_is_not_true() -> None:
    """read_set.V2"""
    memtx = with_bands((1, 1))
    view = opened(memtx)
    get(view, 1)
    view.run(store(2, 20))
    do(memtx, [put(SPACE, 1, True)])
    with pytest.raises(TransactionConflict):
        commit(memtx, view)


def test_a_blind_replace_is_in_conflict_with_nobody() -> None:
    memtx = with_bands((1, 10))
    view = opened(memtx)
    view.run(store(1, 11))
    assert get(view, 1) == (1, 11)  # its own
    do(memtx, [put(SPACE, 1, 12)])
    commit(memtx, view)
    assert memtx.select(SPACE) == [(1, 11)]


def test_an_own_replace_does_not_hide_who_took_its_unique_key() -> None:
    """private_view.P3: that a key became free by an own change is told only while its tuple had it."""
    for told in (lambda view: get(view, "a", 1), lambda view: view.run(store(3, "a", 3)) and None):
        memtx = with_names((1, "a", 1))
        view = opened(memtx)
        view.run(store(1, "b", 1))
        assert told(view) is None  # its own change made "a" free
        do(memtx, [put(SPACE, 1, "c", 1)])
        do(memtx, [put(SPACE, 2, "a", 2)])
        with pytest.raises(TransactionConflict):
            commit(memtx, view)


def test_a_unique_key_that_was_taken_is_read() -> None:
    """private_view.P3: who is told that a key is taken decides by that."""
    for refused in (store(3, "a", 3), insert(3, "a", 3), update(2, ("=", 2, "a")), upsert((3, "a", 3))):
        memtx = with_names((1, "a", 1), (2, "b", 2))
        view = opened(memtx)
        with pytest.raises(TupleFound):
            view.run(refused)
        view.run(store(9, "taken", 9))
        do(memtx, [delete(1)])
        with pytest.raises(TransactionConflict):
            commit(memtx, view)


@pytest.mark.parametrize("own", [delete(2), update(2, ("=", 2, "z"))])
def test_who_changed_what_has_changed_since_is_told_so(own: Dml) -> None:
    """The key that it needs leads to a tuple that it has changed, and that has another key by now."""
    memtx = with_names((1, "a", 1), (2, "b", 2))
    for needs in (update(1, ("=", 2, "c")), insert(3, "c", 3), store(3, "c", 3), upsert((3, "c", 3))):
        view = opened(memtx)
        view.run(own)
        do(memtx, [update(2, ("=", 2, "c"))])
        with pytest.raises(TransactionConflict):
            view.run(needs)
        do(memtx, [update(2, ("=", 2, "b"))])


def test_reads_go_on_when_no_change_is_left() -> None:
    memtx = with_bands((1, 10))
    view = opened(memtx, replace(Limits(), batch_ops_max=4))
    for number in range(4):
        view.run(store(10 + number, 1))
    assert get(view, 1) == (1, 10) and len(read(view)) == 5
    view.run(None, [Condition(Expected.PRESENT, SPACE, 0, (1,), 0, 0)])
    commit(memtx, view)


def test_a_replace_that_frees_a_unique_key_has_read_whose_it_was() -> None:
    """private_view.P3: "nobody has a" rests on the tuple that had it."""
    memtx = with_names((1, "a", 1))
    view = opened(memtx)
    view.run(store(1, "b", 1))
    assert get(view, "a", index=1) is None
    do(memtx, [put(SPACE, 1, "z", 1), put(SPACE, 5, "a", 5)])
    with pytest.raises(TransactionConflict):
        commit(memtx, view)


def test_what_is_read_twice_is_the_same_or_a_conflict() -> None:
    memtx = with_bands((1, 10))
    view = opened(memtx)
    get(view, 1)
    do(memtx, [put(SPACE, 1, 11)])
    with pytest.raises(TransactionConflict, match="has changed since it was read"):
        view.run(update(1, ("+", 2, 1)))


def test_what_lies_behind_a_page_does_not_matter() -> None:
    memtx = with_bands(*((number, 0) for number in (1, 3, 5, 7)))
    for iterator, before, behind in ((Iterator_.GE, 2, 6), (Iterator_.LE, 6, 2)):
        for other in (before, behind):
            view = opened(memtx)
            assert len(read(view, iterator, (4,) if iterator is Iterator_.GE else (5,), limit=1)) == 1
            view.run(store(100, 0))
            do(memtx, [put(SPACE, other, 0)])
            commit(memtx, view)
            do(memtx, [delete(other), delete(100)])


def test_a_page_of_own_tuples_tells_that_nothing_lies_between() -> None:
    memtx = with_bands()
    view = opened(memtx)
    for number in (2, 4, 6):
        view.run(store(number, 0))
    assert read(view, limit=2) == [(2, 0), (4, 0)]
    do(memtx, [put(SPACE, 3, 0)])
    with pytest.raises(TransactionConflict):
        commit(memtx, view)


@pytest.mark.parametrize("kind", ["drop", "truncate", "alter", "index"])
def test_a_space_that_is_defined_anew_or_emptied_is_a_conflict(kind: str) -> None:
    memtx = with_bands((1, 10))
    view = opened(memtx)
    get(view, 1)
    view.run(store(2, 20))
    match kind:
        case "drop":
            do(memtx, list(schema_ops.drop_space(memtx, "bands")))
        case "truncate":
            do(memtx, list(schema_ops.truncate(memtx, "bands")))
        case "alter":
            do(memtx, list(schema_ops.alter_space(memtx, "bands", is_sync=True)))
        case "index":
            parts = [{"field": 2, "type": "unsigned"}]
            do(memtx, schema_ops.create_index(memtx, "bands", "second", parts=parts, unique=False))
    steps: list[Callable[[], object]] = [view.check_definitions, lambda: get(view, 1), view.check_committed]
    for step in steps:
        with pytest.raises(TransactionConflict, match="defined anew or emptied"):
            step()


def test_a_change_of_another_space_is_none() -> None:
    memtx = with_bands((1, 10))
    view = opened(memtx)
    get(view, 1)
    view.run(store(2, 20))
    do(memtx, schema_ops.create_space(memtx, "other"))
    commit(memtx, view)


def test_an_index_that_means_something_else_by_then_is_a_conflict() -> None:
    """A commit that waits for room is looked at later: its reads say which fields they were by."""
    memtx = with_names((1, "a", 1))
    view = opened(memtx)
    get(view, "x", index=1)
    view.run(store(2, "b", 2))
    ops, reads = view.ops, view.reads
    do(memtx, schema_ops.drop_index(memtx, "bands", "name"))
    with pytest.raises(TransactionConflict):
        memtx.prepare(ops, conditions=reads)


# --- what is refused ---------------------------------------------------------------------------------------


def test_system_spaces_and_numbers_of_sequences_are_not_for_open_transactions() -> None:
    memtx = with_bands()
    with pytest.raises(Unsupported, match="system space"):
        opened(memtx).select(280, 0, (), Iterator_.ALL)


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """S17"""
    memtx = with_bands(*((number, 0) for number in range(40)))
    view = opened(memtx, replace(Limits(), batch_ops_max=4))
    for number in range(4):
        view.run(store(number, 1))
    with pytest.raises(BatchTooLarge, match="changes"):
        view.run(store(5, 1))
    commit(memtx, view)

    view = opened(memtx, replace(Limits(), txn_bytes_max=4096, tuple_bytes_max=4096))
    view.run(store(1, "x" * 3000))
    with pytest.raises(BatchTooLarge, match="bytes"):
        view.run(store(2, "x" * 3000))
    assert len(view.ops) == 1

    view = opened(memtx, replace(Limits(), txn_bytes_max=4096))
    for number in range(32):
        get(view, number)
    with pytest.raises(BatchTooLarge, match="with what was read"):
        get(view, 33)

    monkeypatch.setattr(private_view, "READS_MAX", 3)
    view = opened(memtx)
    for number in range(3):
        get(view, number)
    for refused in (lambda: get(view, 4), lambda: view.run(store(9, 9)), lambda: read(view)):
        with pytest.raises(BatchTooLarge, match="reads"):
            refused()
    assert view.ops == []

    monkeypatch.setattr(private_view, "SEEN_TUPLES_MAX", 25)
    with pytest.raises(BatchTooLarge, match="tuples read"):
        read(opened(memtx))
    with pytest.raises(BatchTooLarge, match="go on with `after`"):
        read(opened(memtx), offset=private_view.PAGE_TUPLES)


def test_a_read_comes_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_view, "PAGE_TUPLES", 4)
    memtx = with_bands(*((number, 0) for number in range(6)))
    view = opened(memtx)
    found = view.select(SPACE, 0, (), Iterator_.ALL)
    assert len(found) == 4 and found.more
    assert len(view.select(SPACE, 0, (), Iterator_.ALL, after=found[-1])) == 2
    assert [read.is_whole for read in view.reads if isinstance(read, Unchanged)] == [False, True]


def test_a_condition_is_looked_at_when_it_is_said() -> None:
    memtx = with_bands((1, 10))
    view = opened(memtx)
    view.run(update(1, ("=", 2, 11)))
    view.run(None, [Condition(Expected.EQUAL, SPACE, 0, (1,), 0, 0, ((2, 11),))])
    with pytest.raises(ConditionFailed):
        view.run(store(5, 5), [Condition(Expected.PRESENT, SPACE, 0, (2,), 0, 1)])
    assert len(view.ops) == 1


def test_many_ranges_beside_many_pending_changes_cost_one_look_at_each() -> None:
    """read_set.V1: what is pending is put in order once, for all ranges of one index."""
    pending, ranges = 300, 20
    memtx = with_bands(*((number, 0) for number in range(ranges)))
    view = opened(memtx)
    for number in range(ranges):
        view.select(SPACE, 0, (number,), Iterator_.GE, limit=1)
        view.select(SPACE, 0, (number,), Iterator_.LE, limit=1)
    view.run(store(0, 1))
    waiting = [memtx.prepare([put(SPACE, 1000 + number, 0)]) for number in range(pending)]
    once = SEEN_WORK * pending
    each = (OP_WORK + SEEN_WORK) * 2 * ranges
    memtx.limits_changed(replace(Limits(), txn_work_bytes_max=once + each + 64 * 1024))
    prepared = memtx.prepare(view.ops, conditions=view.reads)
    memtx.rollback(prepared)

    memtx.limits_changed(replace(Limits(), txn_work_bytes_max=once))
    with pytest.raises(BatchTooLarge) as caught:
        memtx.prepare(view.ops, conditions=view.reads)
    assert "Next: read less in one transaction, or begin it again when less waits" in caught.value.message
    for one in waiting:
        memtx.commit(one)
    memtx.limits_changed(replace(Limits(), txn_work_bytes_max=each + 64 * 1024))
    commit(memtx, view)


@pytest.mark.parametrize("iterator", [one for one in Iterator_ if one is not Iterator_.ALL])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_pending_change_is_met_at_the_very_ends_of_a_range(iterator: Iterator_, index: int) -> None:
    """read_set.V1, by a slow obvious twin: a range is in conflict where the same read would find something
    else if all that is pending were committed."""
    key: Tuple = {0: (5,), 1: ("5",), 2: (5,)}[index]
    for number in range(3, 8):
        for change in (put(SPACE, number, str(number), number), put(SPACE, number, f"{number}x", 9)):
            memtx = with_names((2, "2", 2), (5, "5", 5), (8, "8", 8))
            view = opened(memtx)
            seen = view.select(SPACE, index, key, iterator, limit=None)
            view.run(store(99, "zz", 99))
            waits = memtx.prepare([change])
            other = memtx.prepare([put(SPACE, 50, "50x", 1)]) if number % 2 else None
            try:
                memtx.rollback(memtx.prepare(view.ops, conditions=view.reads))
                is_met = False
            except PendingRefusal:
                is_met = True
            memtx.commit(waits)
            if other is not None:
                memtx.commit(other)
            now = memtx.select(SPACE, index, key, iterator)
            if list(now) != list(seen):
                assert is_met
            elif is_met:  # it replaced a tuple there by an equal one
                assert change.value in seen
