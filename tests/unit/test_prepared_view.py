"""Reads that show what waits for its decision too, and no others: [Q-56], prepared_view.V1..V2."""

from __future__ import annotations

import pytest

from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage import prepared_view, schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import Prepared
from synchro.storage.schema import SPACE_ID
from tests.unit.memtx_world import empty, put, with_bands

BANDS = 512
EQ, REQ, ALL, LT, LE, GE, GT = Iterator_


def delete(*key: Field) -> Dml:
    return Dml(RowType.DELETE, BANDS, b"", 0, key)


def shown(
    memtx: Memtx, key: Tuple = (), iterator: Iterator_ = GE, index: int = 0, **how: object
) -> list[Tuple]:
    memtx.check()
    return list(memtx.select(BANDS, index, key, iterator, prepared=True, **how))  # type: ignore[arg-type]


def test_what_waits_is_shown_to_who_asks_and_to_nobody_else() -> None:
    memtx = with_bands((1, "a"), (2, "b"), (3, "c"))
    pending = memtx.prepare([put(BANDS, 2, "B"), put(BANDS, 4, "d"), delete(1)])
    assert shown(memtx) == [(2, "B"), (3, "c"), (4, "d")]
    assert shown(memtx, (2,), EQ) == [(2, "B")]
    assert shown(memtx, (1,), EQ) == []
    assert memtx.select(BANDS) == [(1, "a"), (2, "b"), (3, "c")]
    assert memtx.select(BANDS, 0, (2,)) == [(2, "b")]
    assert memtx.get(BANDS, 0, (1,)) == (1, "a")
    assert memtx.count(BANDS) == 3
    assert memtx.freeze()[-1] == (BANDS, [(1, "a"), (2, "b"), (3, "c")])
    before = memtx.checksum(BANDS)
    memtx.rollback(pending)
    assert shown(memtx) == [(1, "a"), (2, "b"), (3, "c")]
    assert memtx.checksum(BANDS) == before


def test_the_newest_of_several_is_shown_and_a_rollback_brings_back_the_one_below() -> None:
    """[Q-57]"""
    memtx = with_bands((1, "a"))
    older = memtx.prepare([put(BANDS, 1, "b")])
    newer = memtx.prepare([delete(1)])
    assert shown(memtx) == []
    memtx.rollback(newer)
    assert shown(memtx) == [(1, "b")]
    memtx.rollback(older)
    assert shown(memtx) == [(1, "a")]


def test_a_unique_key_leads_to_whom_it_would_lead() -> None:
    """One tuple gives its name to another; the third frees one."""
    memtx = with_bands()
    memtx.commit(memtx.prepare(schema_ops.create_index(memtx, "bands", "name", parts=[[2, "string"]])))
    memtx.commit(memtx.prepare([put(BANDS, 1, "a"), put(BANDS, 2, "b"), put(BANDS, 3, "c")]))
    memtx.prepare([put(BANDS, 1, "x"), put(BANDS, 4, "a"), delete(3)])
    assert shown(memtx, ("a",), EQ, index=1) == [(4, "a")]
    assert shown(memtx, ("x",), EQ, index=1) == [(1, "x")]
    assert shown(memtx, ("b",), EQ, index=1) == [(2, "b")]
    assert shown(memtx, ("c",), EQ, index=1) == []
    assert shown(memtx, index=1) == [(4, "a"), (2, "b"), (1, "x")]
    assert memtx.select(BANDS, 1, ("a",)) == [(1, "a")]


@pytest.mark.parametrize("kind", ["tree", "hash"])
def test_a_space_of_which_all_is_deleted_and_something_is_new(kind: str) -> None:
    """The truncate of a local space is a change among others (ADR 25)."""
    memtx = empty()
    memtx.commit(memtx.prepare(schema_ops.create_space(memtx, "bands", is_local=True)))
    memtx.commit(memtx.prepare(schema_ops.create_index(memtx, "bands", "primary", type=kind)))
    memtx.commit(memtx.prepare([put(BANDS, number) for number in range(5)]))
    early = memtx.prepare([put(BANDS, 3, "early")])
    cleared = memtx.prepare(schema_ops.truncate(memtx, "bands"))
    late = memtx.prepare([put(BANDS, 3, "late")])
    assert shown(memtx, iterator=ALL) == [(3, "late")]
    assert shown(memtx, iterator=ALL, offset=1) == []
    assert shown(memtx, (2,), EQ) == []
    assert len(memtx.select(BANDS, 0, (), ALL)) == 5
    for prepared in (late, cleared):
        memtx.rollback(prepared)
    assert sorted(shown(memtx, iterator=ALL)) == [(0,), (1,), (2,), (3, "early"), (4,)]
    memtx.rollback(early)


def test_definitions_are_shown_in_their_space_and_mean_nothing_yet() -> None:
    memtx = with_bands((1,))
    pending = memtx.prepare(schema_ops.create_space(memtx, "more"))
    names = [row[2] for row in memtx.select(SPACE_ID, prepared=True)]
    assert "more" in names and "more" not in [row[2] for row in memtx.select(SPACE_ID)]
    assert "more" not in [space.name for space in memtx.catalog.spaces()]
    memtx.rollback(pending)


def test_pages_meet_their_limits_and_go_on() -> None:
    memtx = with_bands(*((number,) for number in range(0, 40, 2)))
    memtx.prepare([put(BANDS, number) for number in range(1, 40, 2)])
    seen: list[Tuple] = []
    after: Tuple | None = None
    while True:
        page = memtx.select(BANDS, 0, (), GE, limit=7, after=after, prepared=True)
        seen += page
        if not page.more:
            break
        after = page[-1]
    assert seen == [(number,) for number in range(40)]


@pytest.mark.parametrize("iterator", [GE, LE])
def test_an_offset_is_jumped_over_whatever_is_pending(
    iterator: Iterator_, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADR 25: of 10,000 committed tuples no more are looked at than changes are pending, twice."""
    memtx = with_bands()
    memtx.load(BANDS, [(number,) for number in range(10_000)])
    memtx.prepare([delete(number) for number in range(0, 300, 3)])
    memtx.prepare([put(BANDS, number) for number in range(20_000, 20_050)])
    whole = shown(memtx, iterator=iterator)
    looked: list[object] = []
    kept = prepared_view.PreparedView._kept

    def counted(view: prepared_view.PreparedView, *arguments: object) -> object:
        for one in kept(view, *arguments):  # type: ignore[arg-type]
            looked.append(one)
            yield one

    monkeypatch.setattr(prepared_view.PreparedView, "_kept", counted)
    for offset in (0, 1, 49, 50, 51, 99, 150, 151, 300, 5_000, 9_000, 9_899, 9_949, 9_950, 9_951, 20_000):
        looked.clear()
        assert shown(memtx, iterator=iterator, offset=offset, limit=2) == whole[offset : offset + 2]
        assert len(looked) <= 2 * 150 + 3


def test_a_space_without_pending_changes_is_read_as_ever() -> None:
    memtx = with_bands((1,), (2,))
    prepared: Prepared = memtx.prepare([put(BANDS, 3)])
    memtx.commit(prepared)
    assert shown(memtx) == list(memtx.select(BANDS)) == [(1,), (2,), (3,)]
