"""`memtx.memory`: what is counted, and what is refused when it is used up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace as replace_settings
from typing import Any

import msgpack
import pytest

from synchro.config import Limits
from synchro.errors import MemoryIssue, SynchroError, TupleFound
from synchro.instance import events as ev
from synchro.row import Dml, RowType
from synchro.server import info
from synchro.storage import row_body, schema_ops
from synchro.storage.index import INDEX_ENTRY_BYTES
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import BuildNeeded, PendingRefusal, Prepared
from synchro.storage.space_store import TUPLE_OVERHEAD_BYTES
from tests.mesh import Mesh
from tests.unit.memtx_world import with_bands
from tests.unit.shared_world import numbered, put_all
from tests.unit.test_memtx_data import SPACE, do, insert, memtx_with, replace

ROW = TUPLE_OVERHEAD_BYTES + INDEX_ENTRY_BYTES


def puts(kind: RowType, *values: Sequence[object]) -> Sequence[Dml]:
    return row_body.insert_all(kind, SPACE, [msgpack.packb(value) for value in values])


def delete(key: int) -> Dml:
    return row_body.dml_from_values(RowType.DELETE, SPACE, key=(key,))


def update(key: int, *ops: tuple[object, ...]) -> Dml:
    return row_body.dml_from_values(RowType.UPDATE, SPACE, key=(key,), ops=ops)


def upsert(value: tuple[object, ...], *ops: tuple[object, ...]) -> Dml:
    return row_body.dml_from_values(RowType.UPSERT, SPACE, value=value, ops=ops)


def test_packed_bytes_and_an_overhead_are_counted() -> None:
    memtx = memtx_with()
    empty = memtx.memory_used
    do(memtx, insert(1, "x" * 100))
    assert memtx.memory_used == empty + ROW + len(msgpack.packb((1, "x" * 100)))
    do(memtx, replace(1, "y"))
    assert memtx.memory_used == empty + ROW + 4
    do(memtx, *schema_ops.create_index(memtx, "bands", "second", parts=((2, "string"),)))
    index_row = len(msgpack.packb(memtx.prepared_rows(289 - 1)[-1]))
    assert memtx.memory_used > empty + ROW + 4 + INDEX_ENTRY_BYTES + index_row
    do(memtx, *schema_ops.drop_index(memtx, "bands", "second"))
    assert memtx.memory_used == empty + ROW + 4
    do(memtx, delete(1))
    assert memtx.memory_used == empty


def test_a_rolled_back_change_is_not_counted() -> None:
    memtx = memtx_with()
    do(memtx, insert(1, "a"))
    before = memtx.memory_used
    first = memtx.prepare(puts(RowType.REPLACE, (1, "long" * 10), (2, "new")))
    second = memtx.prepare([update(1, ("=", 3, "more")), delete(2)])
    assert memtx.memory_used > before
    memtx.check()
    memtx.rollback(second)
    memtx.rollback(first)
    memtx.check()
    assert memtx.memory_used == before


@pytest.mark.parametrize("options", [{}, {"temporary": True}, {"is_local": True}])
def test_whatever_happens_the_count_is_that_of_the_tuples(options: dict[str, Any]) -> None:
    """`check` compares it with all tuples; transactions end in any legal order."""
    rng = random.Random(7)
    memtx = memtx_with({"name": "second", "parts": ((2, "string"),), "unique": True}, **options)
    open_ones: list[Prepared] = []
    for _ in range(400):
        key, text = rng.randrange(6), rng.choice("abcdefgh") * rng.randrange(1, 4)
        ops = rng.choice(
            [
                [insert(key, text)],
                [replace(key, text), delete(key), insert(key, text)],
                [delete(key)],
                [update(key, ("=", 2, text))],
                [upsert((key, text), ("=", 2, text)), insert(rng.randrange(6), text)],
            ]
        )
        with suppress(SynchroError, PendingRefusal):
            open_ones.append(memtx.prepare(ops))
        if open_ones and rng.random() < 0.4:
            memtx.commit(open_ones.pop(0))
        if open_ones and rng.random() < 0.2:
            memtx.rollback(open_ones.pop())
        memtx.check()


def limited(room: int) -> Memtx:
    memtx = memtx_with()
    do(memtx, insert(1, "x" * 100), insert(2, "y" * 100))
    memtx.memory_max = memtx.memory_used + room
    return memtx


def test_growth_beyond_the_limit_is_refused_and_leaves_no_trace() -> None:
    memtx = limited(ROW + 50)
    before = memtx.memory_used
    too_much: list[Sequence[Dml]] = [
        [insert(3, "z" * 100)],
        [insert(3), insert(4)],
        [update(1, ("=", 3, "z" * 500))],
        [upsert((3, "z" * 100))],
        puts(RowType.INSERT, *((n, "") for n in range(10, 20))),
    ]
    for ops in too_much:
        with pytest.raises(MemoryIssue, match="nothing was done") as found:
            memtx.prepare(ops)
        assert found.value.details["limit"] == str(memtx.memory_max)
        memtx.check()
        assert memtx.memory_used == before
    with pytest.raises(TupleFound):
        memtx.prepare([insert(1)])
    do(memtx, insert(3, "z" * 10))
    with pytest.raises(MemoryIssue):
        memtx.prepare([insert(4)])
    do(memtx, delete(1))
    do(memtx, insert(4))


def test_a_shared_transaction_is_refused_as_a_whole_before_anything_is_done() -> None:
    memtx = limited(ROW + 50)
    calls = puts(RowType.INSERT, *((n, "") for n in range(10, 20)))
    with pytest.raises(MemoryIssue):
        memtx.prepare_together(calls)  # type: ignore[arg-type]
    memtx.check()


def test_what_shrinks_and_what_peers_send_always_passes() -> None:
    memtx = limited(0)
    memtx.memory_max = 1
    do(memtx, update(1, ("=", 2, "")))
    do(memtx, replace(2, ""))
    do(memtx, delete(1))
    do(memtx, *schema_ops.truncate(memtx, "bands"))
    memtx.commit(memtx.prepare([insert(5, "from a peer")], from_peer=True))
    do(memtx, *schema_ops.create_space(memtx, "other"))
    memtx.check()


def test_an_index_over_data_needs_room() -> None:
    memtx = limited(INDEX_ENTRY_BYTES)
    with pytest.raises(MemoryIssue):
        memtx.prepare(schema_ops.create_index(memtx, "bands", "second", parts=((2, "string"),)))
    memtx.memory_max = 0
    do(memtx, *schema_ops.create_index(memtx, "bands", "second", parts=((2, "string"),)))


def test_an_index_without_room_is_refused_before_it_is_built() -> None:
    """Else the memory would be taken first, and refused when it is there."""
    memtx = memtx_with(limits=Limits(ddl_rows_at_once=3))
    do(memtx, *(insert(number, "x") for number in range(10)))
    memtx.memory_max = memtx.memory_used
    ops = schema_ops.create_index(memtx, "bands", "second", parts=((2, "string"),))
    used = memtx.memory_used
    with pytest.raises(MemoryIssue):
        memtx.prepare(ops)
    assert memtx.memory_used == used
    memtx.memory_max += 10 * INDEX_ENTRY_BYTES
    with pytest.raises(BuildNeeded):
        memtx.prepare(ops)
    memtx.check()


def test_a_loaded_snapshot_counts_what_was_there() -> None:
    memtx = memtx_with()
    do(memtx, *(insert(n, "x" * n) for n in range(20)))
    again = Memtx(memtx._limits)
    again.begin_bulk()
    for space_id, rows in memtx.freeze():
        again.load(space_id, rows)
    again.end_bulk()
    again.check()
    assert again.memory_used == memtx.memory_used


def test_calls_of_one_frame_share_what_room_there_is() -> None:
    """Together they need too much: one by one, the first ones fit. Members take what the owner took."""
    mesh = Mesh(3, memtx_memory=1 << 40)
    mesh.promote(1)
    settings = mesh[1].settings
    used = mesh[1].memtx.memory_used
    mesh.step(1, ev.SettingsChanged(replace_settings(settings, memtx_memory=used + 3 * (ROW + 50))))
    calls = put_all(mesh, numbered(8, "x" * 40), kind=RowType.INSERT)
    mesh.settle()
    assert [mesh.committed(call) for call in calls] == [True] * 3 + [False] * 5
    assert {mesh.reason(call) for call in calls[3:]} == {"MEMORY_ISSUE"}
    assert mesh.rows(1) == mesh.rows(2) == numbered(3, "x" * 40)
    assert info.synchro(mesh[1], 0.0)["queue"]["len"] == 0


def test_a_primary_key_that_is_dropped_takes_what_its_tuples_needed() -> None:
    memtx = with_bands((1, "a"), (2, "b"))
    do(memtx, *schema_ops.drop_index(memtx, "bands", "primary"))
    memtx.check()
