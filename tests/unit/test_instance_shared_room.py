"""Writes of several callers in one transaction (ADR 13) where room is short, or a definition is on its way:
who waits, and that nobody overtakes him."""

from __future__ import annotations

import pytest

from synchro.config import Limits, QuorumFormula
from synchro.instance import events as ev
from synchro.storage import schema_ops
from tests.unit.shared_world import logged, numbered, promoted_mesh, put_all, rid, told


@pytest.mark.parametrize("limit", [1, 50, 100, 200, 400, 700, 800, 839, 840, 1000])
def test_the_limit_of_the_queue_is_passed_by_no_more_than_by_single_writes(limit: int) -> None:
    """[Q-46], [Q-5]: a write begins while there is room, so the last one alone may pass the limit."""
    one = promoted_mesh()
    one.write(1, (1, "v"), request_id=rid(1))
    size = one[1].limbo.size
    mesh = promoted_mesh(synchro_queue_max_size=limit)
    mesh.isolate(1)
    calls = put_all(mesh, numbered(20))
    assert mesh[1].limbo.size < limit + size
    assert mesh[1].waiting_unprepared == 20 - mesh[1].limbo.count
    mesh.heal()
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))
    assert mesh.rows(2) == numbered(20)


@pytest.mark.parametrize("limit", [1, 100, 300, 600, 800, 850, 900, 950, 1000])
def test_the_limit_of_the_wal_queue_is_passed_by_no_more_than_by_single_writes(limit: int) -> None:
    """[W-16]."""
    one = promoted_mesh()
    one.write(1, (1, "v"), request_id=rid(1))
    size = len(logged(one)[0].data)
    mesh = promoted_mesh(limits=Limits(wal_queue_bytes_max=limit))
    calls = put_all(mesh, numbered(20))
    assert sum(len(txn.data) for txn in logged(mesh)) < limit + size
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))


@pytest.mark.parametrize("limit", range(50, 450, 50))
def test_nobody_overtakes_a_neighbour_that_waits_for_room(limit: int) -> None:
    """Writes.W1: calls of one frame run in order, whichever part of them could share; the last value
    stays."""
    mesh = promoted_mesh(synchro_queue_max_size=limit)
    mesh.isolate(1)
    before = mesh.write(1, (1, "pending"))  # whoever changes this key goes alone
    values = [(1, "x"), (2, "x"), (3, "x"), (4, "first"), (4, "second"), (5, "x"), (6, "x"), (7, "x")]
    calls = put_all(mesh, values)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    lsns = told(mesh, [before, *calls])
    assert lsns == sorted(set(lsns))
    assert (4, "second") in mesh.rows(1)
    assert mesh.rows(1) == mesh.rows(2)


@pytest.mark.parametrize("limit", range(1800, 2500, 40))
def test_nobody_overtakes_a_neighbour_that_waits_for_the_disk(limit: int) -> None:
    """Writes.W1, [W-16]: the same where what is on its way to disk is limited."""
    mesh = promoted_mesh(limits=Limits(wal_queue_bytes_max=limit))
    before = mesh.write(1, (40, "pending"))  # whoever changes this key, and five around him, go alone
    values = numbered(48)
    values[41], values[42] = (99, "first"), (99, "second")
    calls = put_all(mesh, values)
    mesh.settle()
    lsns = told(mesh, [before, *calls])
    assert lsns == sorted(set(lsns))
    assert (99, "second") in mesh.rows(1)
    assert mesh.rows(1) == mesh.rows(2)


def test_who_comes_while_others_wait_for_room_waits_behind_them() -> None:
    """Writes.W1."""
    mesh = promoted_mesh(2, synchro_queue_max_size=1)
    mesh.crash(2)
    first, second = mesh.write(1, (1, "a")), mesh.write(1, (2, "a"))
    calls = put_all(mesh, numbered(5, "b"))
    assert mesh[1].waiting_unprepared == 6
    mesh.step(1, ev.CallExpired(calls[2]))
    assert mesh.reason(calls.pop(2)) == "SYNC_QUEUE_FULL"
    mesh.restart(2)
    mesh.settle()
    lsns = told(mesh, [first, second, *calls])
    assert lsns == sorted(lsns)
    assert mesh.rows(1) == [(1, "b"), (2, "b"), (4, "b"), (5, "b")]


def test_a_definition_on_its_way_holds_all_of_them_back() -> None:
    """ADR 7: rows never meet a schema that may still vanish."""
    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    ddl = mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "later", is_sync=True))
    calls = put_all(mesh, numbered(5))
    mesh.settle()
    assert mesh[1].waiting_unprepared == 5
    mesh.restart(2)
    mesh.settle()
    assert mesh.committed(ddl) and len(told(mesh, calls)) == 5


def test_a_definition_waits_for_a_pending_shared_transaction() -> None:
    """ADR 7."""
    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    calls = put_all(mesh, numbered(5))
    ddl = mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "later", is_sync=True))
    assert mesh[1].waiting_unprepared == 1
    mesh.restart(2)
    mesh.settle()
    assert mesh.committed(ddl) and len(told(mesh, calls)) == 5
