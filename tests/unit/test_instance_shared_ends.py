"""A transaction that several callers share (ADR 13): how it ends, what a restart makes of it, and what others
see of it."""

from __future__ import annotations

from synchro.errors import WalIo
from synchro.ids import Lsn
from synchro.instance import events as ev
from synchro.row import RowType, TxnId
from synchro.server import info
from synchro.storage import row_body
from synchro.vclock import Vclock
from tests.mesh import ASYNC, SYNC
from tests.unit.shared_world import (
    ONE,
    logged,
    numbered,
    promoted_mesh,
    put_all,
    reasons,
    retry,
    rid,
    told,
    tuples,
    wait_for,
)

# --- its end --------------------------------------------------------------------------------------------


def test_a_full_disk_undoes_all_and_each_caller_hears_that_nothing_was_written() -> None:
    """ADR 8, [W-15]: the LSNs and the ids are used again."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=RowType.INSERT)
    asked = wait_for(mesh, 1, request_id=rid(2))
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("Failed to write to disk; nothing was written")))
    assert reasons(mesh, calls) == ["WAL_IO"] * 5
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.UNKNOWN)
    assert (len(mesh[1].limbo), mesh[1].limbo.count, mesh[1].limbo.size) == (0, 0, 0)
    again = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.settle()
    assert len(told(mesh, again)) == 5
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()


def test_a_promote_that_does_not_hold_it_rolls_back_all_and_each_caller_hears_so() -> None:
    """[Q-51], [P-52], ADR 1."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    calls = put_all(mesh, numbered(5))
    mesh.settle()
    promoted = mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert reasons(mesh, calls) == ["SYNC_ROLLBACK"] * 5
    assert isinstance(mesh.outcome(promoted), ev.Promoted)
    assert mesh.rows(1) == mesh.rows(2) == []
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()
    mesh[1].memtx.check()


def test_a_promote_that_holds_it_commits_all_and_counts_each_caller() -> None:
    """[P-2], ADR 13: what it confirmed is told in transactions of clients."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.isolate(1)
    single = mesh.write(1, (9, "alone"))
    mesh.settle()
    promote = mesh.promote(2)
    outcome = mesh.outcome(promote)
    assert isinstance(outcome, ev.Promoted)
    assert (outcome.confirmed, outcome.rolled_back) == (5, 0)
    mesh.heal()
    mesh.settle()
    assert len(told(mesh, calls)) == 5
    assert mesh.reason(single) == "SYNC_ROLLBACK"
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == numbered(5)


def test_late_rows_of_a_deposed_owner_become_nops_without_ids() -> None:
    """[P-50]: nobody is told that they were done, and vclocks converge."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    put_all(mesh, numbered(5))
    mesh.settle()
    mesh.promote(2)
    put_all(mesh, numbered(5, "new", first=20), to=2, first_id=20)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local() == mesh[3].vclock.without_local()
    assert mesh.rows(1) == mesh.rows(3) == numbered(5, "new", first=20)
    for number in (2, 3):
        assert mesh.outcome(wait_for(mesh, number, request_id=rid(3))) == ev.FateKnown(ev.Fate.UNKNOWN)
    mesh.crash(3)
    mesh.restart(3)
    mesh.settle()
    assert mesh.rows(3) == numbered(5, "new", first=20)


# --- recovery -------------------------------------------------------------------------------------------


def test_after_a_restart_it_is_pending_with_all_its_callers_and_ids() -> None:
    """[W-20], S12: a retry joins the row that it had; the number of those who wait is the same."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.persist(1)
    (txn,) = logged(mesh)
    mesh.crash(1)
    mesh.restart(1)
    assert (len(mesh[1].limbo), mesh[1].limbo.count) == (1, 5)
    assert info.synchro(mesh[1], mesh.now)["queue"]["len"] == 5
    again = [retry(mesh, 1, (1 + n, "v"), rid(1 + n)) for n in range(5)]
    asked = wait_for(mesh, 1, request_id=rid(4))
    mesh.heal()
    mesh.promote(1)
    assert told(mesh, again) == [txn.tsn + n for n in range(5)]
    assert tuples(mesh, again) == [()] * 5
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.COMMITTED, TxnId(ONE, Lsn(txn.tsn + 3)))
    assert mesh.rows(2) == numbered(5)


def test_after_a_restart_decided_ids_are_known_with_their_own_lsns() -> None:
    """S12."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.settle()
    mesh.crash(1)
    mesh.restart(1)
    mesh.promote(1)
    again = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.settle()
    assert told(mesh, again) == told(mesh, calls)
    assert mesh.rows(1) == numbered(5)


def test_a_log_that_ends_in_front_of_it_knows_none_of_it() -> None:
    """[W-3]: a transaction is never split."""
    mesh = promoted_mesh(1)
    put_all(mesh, numbered(5))
    mesh.crash(1)
    mesh.restart(1)
    assert mesh[1].limbo.count == 0
    assert mesh.outcome(wait_for(mesh, 1, request_id=rid(1))) == ev.FateKnown(ev.Fate.UNKNOWN)
    assert mesh.rows(1) == []


# --- what others see ------------------------------------------------------------------------------------


def test_an_lsn_in_the_middle_is_not_applied_while_it_is_undecided() -> None:
    """Read-your-writes: who was told `unknown` for his row and reads behind it waits for its fate."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(5))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    (txn,) = logged(mesh)
    rows = [Vclock({ONE: Lsn(txn.tsn + n)}) for n in range(5)]
    before = Vclock({ONE: Lsn(txn.tsn - 1)})
    assert mesh[2].has_applied(before)
    assert [mesh[2].has_applied(row) for row in rows] == [False] * 5
    mesh.settle()
    for number in (1, 2, 3):
        assert mesh[number].has_applied(before)
        assert [mesh[number].has_applied(row) for row in rows] == [True] * 5


def test_info_and_the_queue_list_each_caller() -> None:
    """[I-25], ADR 13: as if each were alone."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    mesh.write(1, (90, "alone"))
    calls = put_all(mesh, numbered(4))
    ops = [row_body.dml_from_values(RowType.REPLACE, SYNC, value=value) for value in numbered(3, first=50)]
    mesh.write_ops(1, ops, request_id=rid(50))
    assert [entry.txn for entry in info.queue_entries(mesh[1], mesh.now, {})] == [None] * 6
    mesh.persist(1)
    queue = info.synchro(mesh[1], mesh.now)["queue"]
    assert (queue["len"], len(mesh[1].limbo)) == (6, 3)
    entries = info.queue_entries(mesh[1], mesh.now + 2.0, {})
    alone, shared, plain = logged(mesh)
    assert [entry.txn for entry in entries] == [
        (1, alone.lsn),
        *((1, shared.tsn + n) for n in range(4)),
        (1, plain.lsn),
    ]
    assert [entry.rows for entry in entries] == [1, 1, 1, 1, 1, 3]
    assert {entry.size_bytes for entry in entries[1:5]} == {mesh[1].limbo.entries[1].size // 4}
    assert all(entry.space_ids == [SYNC] and entry.is_sync for entry in entries)
    assert all(entry.acked_by == [1] for entry in entries)
    assert all([one.peer for one in entry.missing] == [2, 3] for entry in entries)
    assert sum(entry.size_bytes for entry in entries) == queue["size"]
    mesh.heal()
    mesh.settle()
    assert info.synchro(mesh[1], mesh.now)["queue"]["len"] == 0
    assert len(told(mesh, calls)) == 4


def test_shared_and_single_writes_commit_in_the_order_of_the_log() -> None:
    """[Q-20], [Q-51]: replies come in the order in which the calls came."""
    mesh = promoted_mesh()
    first = mesh.write(1, (100, "a"))
    shared = put_all(mesh, numbered(5))
    plain = mesh.write(1, (1, "async"), ASYNC)
    more = put_all(mesh, numbered(5, first=20), first_id=20)
    calls = [first, *shared, plain, *more]
    mesh.settle()
    assert [call for call in mesh.outcomes if call in calls] == calls
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))
