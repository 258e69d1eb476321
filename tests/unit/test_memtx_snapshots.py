"""Memtx: what a snapshot holds, what comes back of it, and what a joiner gets. [D-4], [D-26], [M-21]."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from synchro.errors import TupleFound
from synchro.row import Dml, RowType, Tuple
from synchro.storage import schema_ops
from synchro.storage.memtx import Memtx
from tests.unit.memtx_world import booted, do, empty, put, with_bands


def everything() -> Memtx:
    memtx = booted()
    for name, options in (
        ("normal", {"is_sync": True}),
        ("local", {"is_local": True}),
        ("scratch", {"temporary": True}),
        ("gone", {"kind": "temporary"}),
    ):
        do(memtx, schema_ops.create_space(memtx, name, **options))
        do(memtx, schema_ops.create_index(memtx, name, "primary"))
        do(memtx, schema_ops.create_index(memtx, name, "name", parts=[[2, "string"]], unique=False))
        do(memtx, schema_ops.create_index(memtx, name, "code", parts=[[3, "number", {"is_nullable": True}]]))
        do(
            memtx,
            [
                put(memtx.catalog.space(name).id, n, f"n{n % 3}", n * 0.5 if n % 2 else None)
                for n in range(10)
            ],
        )
    do(memtx, schema_ops.truncate(memtx, "local"))
    do(memtx, [put(memtx.catalog.space("local").id, 1, "x")])
    return memtx


def reloaded(frozen: Iterable[tuple[int, Iterable[Tuple]]]) -> Memtx:
    memtx = empty()
    memtx.begin_bulk()
    for space_id, tuples in frozen:
        memtx.load(space_id, tuples)
    memtx.end_bulk()
    memtx.check()
    return memtx


def test_nothing_of_a_temporary_space_is_logged() -> None:
    """D-4: not even its definition."""
    memtx = empty()
    ops = schema_ops.create_space(memtx, "gone", kind="temporary")
    prepared = do(memtx, ops)
    assert (prepared.ops, prepared.is_ddl, prepared.touches_system) == ([], False, False)
    assert do(memtx, schema_ops.create_index(memtx, "gone", "primary")).ops == []
    assert do(memtx, [put(2**30, 1)]).ops == []
    assert memtx.freeze() == []


def test_a_snapshot_brings_back_all_that_survives_a_restart() -> None:
    """D-4: local data survives; of 'data-temporary' the definition; of 'temporary' nothing."""
    memtx = everything()
    copy = reloaded(memtx.freeze())
    assert [space.name for space in copy.catalog.spaces() if not space.is_system] == [
        "normal",
        "local",
        "scratch",
    ]
    assert copy.catalog.members() == memtx.catalog.members()
    assert copy.catalog.replicaset_uuid() == memtx.catalog.replicaset_uuid()
    for name in ("normal", "local"):
        number = memtx.catalog.space(name).id
        assert copy.checksum(number) == memtx.checksum(number)
        for index in (1, 2):
            assert copy.select(number, index) == memtx.select(number, index)
    with pytest.raises(TupleFound, match='index "code"'):
        copy.prepare([put(512, 100, "x", 0.5)])
    assert copy.count(memtx.catalog.space("scratch").id) == 0
    do(copy, schema_ops.create_space(copy, "next"))
    assert copy.catalog.space("next").id == 515


def test_a_joiner_gets_no_local_data() -> None:
    """[M-21], [D-26]: nor the truncate counters of local spaces."""
    memtx = everything()
    frozen = dict(memtx.freeze(with_local=False))
    assert memtx.catalog.space("local").id not in frozen
    assert 330 not in frozen
    assert 330 in dict(memtx.freeze())
    assert reloaded(frozen.items()).catalog.space("local").is_local


def test_a_frozen_view_stays_as_it_is() -> None:
    """And holds committed tuples only."""
    memtx = with_bands((1, "a"))
    memtx.prepare([put(512, 2, "pending")])
    frozen = memtx.freeze()
    do(memtx, [put(512, 1, "b"), put(512, 3, "c")])
    assert dict(frozen)[512] == [(1, "a")]


def test_recovery_replays_schema_and_data_without_orders_and_sorts_once() -> None:
    memtx = empty()
    memtx.begin_bulk()
    do(memtx, schema_ops.create_space(memtx, "bands"))
    do(memtx, schema_ops.create_index(memtx, "bands", "primary"))
    do(memtx, schema_ops.create_index(memtx, "bands", "name", parts=[[2, "string"]], unique=False))
    do(memtx, [put(512, n, f"n{n % 3}") for n in (5, 3, 9)])
    memtx.end_bulk()
    memtx.check()
    assert memtx.select(512, 1) == [(3, "n0"), (9, "n0"), (5, "n2")]


def test_a_checksum_depends_on_content_and_not_on_history() -> None:
    one, two = with_bands((1, "a"), (2, "b")), with_bands((2, "b"), (3, "c"), (1, "z"))
    do(two, [put(512, 1, "a"), Dml(RowType.DELETE, 512, b"", 0, (3,))])
    assert one.checksum(512) == two.checksum(512)
    assert one.checksum(512)[0] == 2
    do(two, [put(512, 1, "b")])
    assert one.checksum(512) != two.checksum(512)
