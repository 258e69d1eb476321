"""Client writes through a whole instance: commit, refuse, retry, wait, time out. Rules [Q-*], ADR 2, 3, 7."""

from __future__ import annotations

import pytest

from synchro.config import ElectionMode, Limits, QuorumFormula
from synchro.errors import BatchTooLarge, SyncTimeout, WalIo
from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.ro_reason import RoReason
from synchro.row import Confirm, RowType, TxnId
from synchro.storage import row_body
from synchro.vclock import Vclock
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh

REQUEST = b"0123456789abcdef"


def promoted_mesh(members: int = 3, **settings: object) -> Mesh:
    mesh = Mesh(members, **settings)
    mesh.promote(1)
    assert mesh[1].limbo.owner_id == 1
    return mesh


def test_a_sync_write_is_answered_when_a_quorum_has_it() -> None:
    """[Q-20]..[Q-24], ADR 11: the CONFIRM follows, with the next row or alone."""
    mesh = promoted_mesh()
    call = mesh.write(1, (1, "a"))
    mesh.persist(1)
    assert mesh.outcome(call) is None
    assert mesh.rows(1) == []  # not visible while it waits
    mesh.deliver(1, 2)
    mesh.persist(2)  # the second copy
    assert mesh.committed(call)
    assert mesh.rows(1) == [(1, "a")]
    assert mesh.rows(2) == []  # until it reads the CONFIRM
    written = Vclock({InstanceId(1): mesh[1].vclock.get(InstanceId(1))})
    assert mesh[2].vclock.covers(written) and not mesh[2].has_applied(written)
    assert not mesh.persist(1)  # which nobody has asked for yet
    assert mesh[1].deadline == mesh.now + mesh.settings.confirm_delay_s
    mesh.settle()
    assert mesh.rows(2) == mesh.rows(3) == [(1, "a")]
    assert mesh[2].has_applied(written)


def test_a_confirm_goes_ahead_of_the_next_row() -> None:
    """[Q-24], ADR 11: one pass through the logs for a write, not two."""
    mesh = promoted_mesh()
    mesh.write(1, (1,))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    first = mesh[1].vclock.get(InstanceId(1))
    mesh.write(1, (2,))
    waiting = mesh.members[1].wal[mesh.members[1].written :]
    assert [(txn.lsn, txn.control) for txn in waiting] == [
        (first + 1, Confirm(InstanceId(1), first)),
        (first + 2, None),
    ]
    assert mesh[1].deadline is None or mesh[1].deadline > mesh.now + mesh.settings.confirm_delay_s


def test_one_confirm_covers_many_writes() -> None:
    """[Q-22]: natural batching."""
    mesh = promoted_mesh()
    before = mesh[1].vclock.get(InstanceId(1))
    calls = [mesh.write(1, (i, "x")) for i in range(50)]
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)
    assert mesh[1].vclock.get(InstanceId(1)) == before + 50 + 1


def test_without_quorum_writes_wait_and_commit_in_order_when_it_returns() -> None:
    """[T-7] (a): quorum 2 of 2, the second instance dies, three writes hang, it returns."""
    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    calls = [mesh.write(1, (i,)) for i in (1, 2, 3)]
    mesh.settle()
    assert [mesh.outcome(call) for call in calls] == [None] * 3
    assert len(mesh[1].limbo) == 3
    mesh.restart(2)
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)
    assert list(mesh.outcomes)[-3:] == calls
    assert len(mesh[1].limbo) == 0
    assert mesh.rows(2) == [(1,), (2,), (3,)]


def test_an_expired_write_has_an_unknown_outcome_and_stays() -> None:
    """[T-7] (c), ADR 3, [L-29]: nothing is rolled back by time."""
    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    call = mesh.write(1, (1,))
    mesh.settle()
    mesh.step(1, ev.CallExpired(call))
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.OutcomeUnknown)
    assert isinstance(outcome.error, SyncTimeout)
    assert outcome.txn is not None
    assert len(mesh[1].limbo) == 1

    wait = mesh.call_id()
    mesh.step(1, ev.WaitRequested(wait, txn=outcome.txn))
    mesh.restart(2)
    mesh.settle()
    assert mesh.outcome(wait) == ev.FateKnown(ev.Fate.COMMITTED, outcome.txn)


def test_an_lsn_is_not_told_before_it_is_on_disk() -> None:
    """Instance.I1: else a cut-back LSN would name somebody else's transaction."""
    mesh = promoted_mesh(2)
    call = mesh.write(1, (1,))
    mesh.step(1, ev.CallExpired(call))
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.OutcomeUnknown)
    assert outcome.txn is None
    assert "txn" not in outcome.error.details


def test_async_behind_sync_waits_for_it_and_commits_after_it() -> None:
    """[T-8], ADR 2: an async entry is final only when a CONFIRM covers its LSN, so [P-52] cannot happen."""
    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    sync = mesh.write(1, (1,))
    plain = mesh.write(1, (1,), ASYNC)
    mesh.settle()
    assert mesh.outcome(sync) is None
    assert mesh.outcome(plain) is None
    assert mesh.rows(1, ASYNC) == []
    mesh.restart(2)
    mesh.settle()
    assert list(mesh.outcomes)[-2:] == [sync, plain]
    assert mesh.committed(plain)


def test_async_with_an_empty_queue_needs_its_own_disk_only() -> None:
    mesh = promoted_mesh()
    mesh.isolate(1)
    call = mesh.write(1, (1,), ASYNC)
    mesh.persist(1)
    assert mesh.committed(call)


def test_without_owner_everybody_writes_async_and_nobody_sync() -> None:
    """[E-41], [Q-13]: owner 0 is plain master-master."""
    mesh = Mesh(3)
    calls = [mesh.write(number, (number,), ASYNC) for number in (1, 2, 3)]
    refused = mesh.write(1, (1,))
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)
    assert mesh.reason(refused) == "SYNC_QUEUE_UNCLAIMED"
    assert mesh.rows(1, ASYNC) == mesh.rows(2, ASYNC) == mesh.rows(3, ASYNC) == [(1,), (2,), (3,)]
    assert mesh[1].vclock.without_local() == mesh[3].vclock.without_local()


def test_who_does_not_own_the_queue_is_read_only_and_says_who_owns_it() -> None:
    """[E-40], [E-44]; local spaces stay writable [L-22], [Q-75]."""
    mesh = promoted_mesh()
    refused = mesh.write(2, (1,), ASYNC)
    outcome = mesh.outcome(refused)
    assert isinstance(outcome, ev.Rejected)
    assert outcome.error.details["ro_reason"] == "synchro"
    assert outcome.error.details["owner"] == "1"
    local = mesh.write(2, (1,), LOCAL_SPACE)
    mesh.persist(2)
    assert mesh.committed(local)


def test_a_retry_with_the_same_request_id_has_one_effect() -> None:
    """ADR 3, S12: while pending it joins the waiters, afterwards it is told what it was."""
    mesh = promoted_mesh()
    first = mesh.write(1, (1, "a"), kind=RowType.INSERT, request_id=REQUEST)
    second = mesh.write(1, (1, "a"), kind=RowType.INSERT, request_id=REQUEST)
    mesh.settle()
    third = mesh.write(1, (1, "a"), kind=RowType.INSERT, request_id=REQUEST)
    outcomes = [mesh.outcome(call) for call in (first, second, third)]
    assert all(isinstance(outcome, ev.Committed) for outcome in outcomes)
    assert len({outcome.txn for outcome in outcomes if isinstance(outcome, ev.Committed)}) == 1
    told = [(one.duplicate, bool(one.tuples)) for one in outcomes if isinstance(one, ev.Committed)]
    assert told == [(False, True), (True, False), (True, False)]
    assert mesh.rows(1) == [(1, "a")]


@pytest.mark.parametrize("first_leaves", [False, True])
def test_of_many_callers_with_one_request_id_one_made_the_transaction(first_leaves: bool) -> None:
    """S12: whoever waits, and however it ends for the first one."""
    mesh = promoted_mesh()
    calls = [mesh.write(1, (1, number), request_id=REQUEST) for number in range(8)]
    if first_leaves:
        mesh.step(1, ev.CallExpired(calls[0]))
        mesh.step(1, ev.RequestAbandoned(calls[3]))
        calls = [*calls[1:3], *calls[4:]]
    mesh.settle()
    outcomes = [mesh.outcome(call) for call in calls]
    made = [one for one in outcomes if isinstance(one, ev.Committed) and not one.duplicate]
    assert all(isinstance(one, ev.Committed) and one.is_sync for one in outcomes)
    assert made == ([] if first_leaves else [outcomes[0]])
    assert mesh.rows(1) == [(1, 0)]


@pytest.mark.parametrize("wait", [ev.WaitMode.SUBMIT, ev.WaitMode.NONE])
@pytest.mark.parametrize("is_written", [False, True])
def test_a_retry_that_does_not_wait_for_the_decision_hears_that_it_is_one(
    wait: ev.WaitMode, is_written: bool
) -> None:
    """[Q-45]: only the first one made the transaction."""
    mesh = promoted_mesh()
    first = mesh.write(1, (1, "a"), request_id=REQUEST, wait=wait)
    if is_written:
        mesh.persist(1)
    again = mesh.write(1, (1, "a"), request_id=REQUEST, wait=wait)
    mesh.settle()
    one, other = mesh.outcome(first), mesh.outcome(again)
    assert isinstance(one, ev.Submitted) and isinstance(other, ev.Submitted)
    assert (one.duplicate, other.duplicate) == (False, True)


def test_a_retry_that_the_next_owner_has_not_decided_yet_is_one_there() -> None:
    """S12: it came as a row, so no call of this instance made it."""
    mesh = promoted_mesh()
    mesh.isolate(3)
    first = mesh.write(1, (1, "a"), request_id=REQUEST)
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.crash(1)
    mesh.persist(2)
    again = mesh.write(2, (1, "a"), request_id=REQUEST)
    assert mesh.outcome(first) is None and mesh.outcome(again) is None
    mesh.heal()
    mesh.promote(2)
    mesh.settle()
    outcome = mesh.outcome(again)
    assert isinstance(outcome, ev.Committed) and outcome.duplicate and not outcome.tuples


def test_a_retry_finds_its_request_on_the_next_owner_too() -> None:
    """The id travels in the row, so every instance makes the same table."""
    mesh = promoted_mesh()
    first = mesh.write(1, (1, "a"), kind=RowType.INSERT, request_id=REQUEST)
    mesh.settle()
    mesh.crash(1)
    mesh.promote(2)
    again = mesh.write(2, (1, "a"), kind=RowType.INSERT, request_id=REQUEST)
    assert mesh.committed(first)
    outcome = mesh.outcome(again)
    assert isinstance(outcome, ev.Committed) and outcome.duplicate


def test_a_request_id_older_than_what_is_remembered_is_not_executed() -> None:
    mesh = promoted_mesh(1, limits=Limits(remembered_requests_max=1))
    for number in (1, 2, 3):
        mesh.write(1, (number,), request_id=bytes([number]) * 16)
        mesh.settle()
    call = mesh.call_id()
    old = ev.ClientWrite(call, [], RequestId(b"x" * 16), ev.Position(Term(0), Lsn(0)))
    mesh.step(1, ev.ClientWrites([old]))
    assert mesh.reason(call) == "REQUEST_EXPIRED"


def test_a_duplicate_of_a_pending_tuple_is_refused_only_when_that_is_decided() -> None:
    """ADR 7: no error shows unconfirmed data."""
    mesh = promoted_mesh()
    first = mesh.write(1, (1, "a"), kind=RowType.INSERT)
    second = mesh.write(1, (1, "b"), kind=RowType.INSERT)
    assert mesh.outcome(second) is None
    mesh.settle()
    assert mesh.committed(first)
    assert mesh.reason(second) == "TUPLE_FOUND"


def test_a_refusal_that_rested_on_a_rolled_back_tuple_is_a_conflict() -> None:
    """ADR 7."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    first = mesh.write(1, (1, "a"), kind=RowType.INSERT)
    second = mesh.write(1, (1, "b"), kind=RowType.INSERT)
    mesh.settle()
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert mesh.reason(first) == "SYNC_ROLLBACK"
    assert mesh.reason(second) == "TRANSACTION_CONFLICT"


def test_over_the_limit_requests_wait_unprepared_in_order() -> None:
    """[Q-5] by ADR 3: they have no LSN, and a deadline refuses that one alone."""
    mesh = promoted_mesh(2, synchro_queue_max_size=1)
    mesh.crash(2)
    first, second, third = (mesh.write(1, (number,)) for number in (1, 2, 3))
    refused = mesh.write(1, (4,), wait=ev.WaitMode.NONE)
    mesh.settle()
    assert len(mesh[1].limbo) == 1
    assert mesh[1].waiting_unprepared == 2
    assert mesh.reason(refused) == "SYNC_QUEUE_FULL"
    mesh.step(1, ev.CallExpired(second))
    assert mesh.reason(second) == "SYNC_QUEUE_FULL"
    mesh.restart(2)
    mesh.settle()
    assert mesh.committed(first) and mesh.committed(third)
    assert mesh.rows(1) == [(1,), (3,)]


def test_losing_the_queue_refuses_who_waits_unprepared() -> None:
    mesh = promoted_mesh(3, synchro_queue_max_size=1)
    mesh.isolate(1)
    pending, waiting = mesh.write(1, (1,)), mesh.write(1, (2,))
    mesh.settle()
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert mesh.reason(pending) == "SYNC_ROLLBACK"
    assert mesh.reason(waiting) == "READ_ONLY"


def test_fewer_members_than_the_quorum_refuse_sync_writes_at_once() -> None:
    """ADR 6: a waiting entry would block the registration that could free it."""
    mesh = promoted_mesh(1, synchro_quorum=QuorumFormula(2))
    assert mesh.reason(mesh.write(1, (1,))) == "QUORUM_WAIT"


def test_submit_is_answered_by_the_own_disk_and_none_at_once() -> None:
    """[Q-45]."""
    mesh = promoted_mesh()
    none = mesh.write(1, (1,), wait=ev.WaitMode.NONE)
    assert mesh.outcome(none) == ev.Submitted(None, True)
    submit = mesh.write(1, (2,), wait=ev.WaitMode.SUBMIT)
    assert mesh.outcome(submit) is None
    mesh.persist(1)
    outcome = mesh.outcome(submit)
    assert isinstance(outcome, ev.Submitted)
    assert outcome.txn == TxnId(InstanceId(1), mesh[1].vclock.get(InstanceId(1)))


def test_an_abandoned_call_gets_no_reply_and_its_entry_stays() -> None:
    """[Q-43], [L-15]."""
    mesh = promoted_mesh()
    call = mesh.write(1, (1,))
    mesh.step(1, ev.RequestAbandoned(call))
    mesh.settle()
    assert mesh.outcome(call) is None
    assert mesh.rows(2) == [(1,)]


def test_ddl_waits_for_the_queue_to_empty_and_holds_back_what_follows() -> None:
    """ADR 7: rows never meet a schema that may still vanish."""
    from synchro.storage import schema_ops

    mesh = promoted_mesh(2, synchro_quorum=QuorumFormula(2))
    mesh.crash(2)
    before = mesh.write(1, (1,))
    ddl = mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "later", is_sync=True))
    behind = mesh.write(1, (2,))
    mesh.settle()
    assert len(mesh[1].limbo) == 1
    assert mesh[1].waiting_unprepared == 2
    mesh.restart(2)
    mesh.settle()
    assert [mesh.committed(call) for call in (before, ddl, behind)] == [True] * 3
    assert mesh[2].memtx.catalog.space("later").is_sync
    assert mesh.rows(2, SYNC) == [(1,), (2,)]


def test_the_queue_comes_before_the_configuration_as_a_reason_to_be_read_only() -> None:
    """[E-40], [E-42], [A-60]: a configured read-only instance applies rows and has writable local spaces."""
    mesh = Mesh(2, read_only=True)
    assert mesh[1].read_only_reason() is RoReason.CONFIG
    refused = mesh.outcome(mesh.write(1, (1,), ASYNC))
    assert isinstance(refused, ev.Rejected)
    assert "database.mode: ro" in refused.error.message
    local = mesh.write(1, (1,), LOCAL_SPACE)
    mesh.persist(1)
    assert mesh.committed(local)

    mesh.promote(2)
    assert mesh[1].read_only_reason() is RoReason.SYNCHRO
    assert mesh[2].read_only_reason() is RoReason.CONFIG
    assert mesh[1].limbo.owner_id == 2


def test_definitions_are_synchronous_while_the_queue_has_an_owner() -> None:
    """[D-24], ADR 6."""
    from synchro.storage import schema_ops

    plain = Mesh(2)
    alone = plain.write_ops(1, schema_ops.create_space(plain[1].memtx, "later"))
    plain.persist(1)
    assert plain.committed(alone)

    mesh = promoted_mesh(2)
    mesh.isolate(1)
    waits = mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "later"))
    mesh.settle()
    assert mesh.outcome(waits) is None
    assert [entry.wait_ack for entry in mesh[1].limbo.entries] == [True]


def test_a_full_disk_undoes_what_was_in_flight_and_its_lsns_are_used_again() -> None:
    """ADR 8, [W-15]."""
    from synchro.errors import WalIo

    mesh = promoted_mesh()
    call = mesh.write(1, (1,))
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("Failed to write to disk; nothing was written")))
    assert mesh.reason(call) == "WAL_IO"
    assert len(mesh[1].limbo) == 0
    again = mesh.write(1, (1,))
    mesh.settle()
    assert mesh.committed(again)
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()


def test_expected_term_refuses_a_write_that_was_meant_for_an_earlier_owner() -> None:
    mesh = promoted_mesh()
    call = mesh.call_id()
    mesh.step(1, ev.ClientWrites([ev.ClientWrite(call, [], expected_term=Term(1))]))
    assert mesh.reason(call) == "OLD_TERM"


def test_a_batch_over_the_limit_is_refused_and_leaves_no_trace() -> None:
    mesh = promoted_mesh(1, limits=Limits(batch_ops_max=1))
    from synchro.storage import row_body

    op = row_body.dml_from_values(RowType.REPLACE, SYNC, value=(1,))
    call = mesh.write_ops(1, [op, op])
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected) and isinstance(outcome.error, BatchTooLarge)
    assert mesh[1].vclock == mesh[1].volatile_vclock


def test_demote_in_mode_manual_resigns_and_keeps_the_owner_frozen() -> None:
    """[P-30]: the queue owner stays until somebody's PROMOTE."""
    mesh = Mesh(3, election_mode=ElectionMode.MANUAL)
    mesh.settle()
    mesh.promote(1)
    assert mesh[1].is_writable
    mesh.demote(1)
    assert mesh[1].limbo.owner_id == 1
    assert not mesh[1].is_writable


def test_demote_in_mode_candidate_lets_the_others_elect() -> None:
    """[E-18], [L-16]: at once, and not the one that resigned."""
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE)
    mesh.promote(1)
    mesh.demote(1)
    assert mesh[1].limbo.owner_id in (2, 3)


def test_waiting_for_an_unknown_transaction_says_so() -> None:
    mesh = promoted_mesh()
    call = mesh.call_id()
    mesh.step(1, ev.WaitRequested(call, txn=TxnId(InstanceId(1), Lsn(10_000))))
    assert mesh.outcome(call) == ev.FateKnown(ev.Fate.UNKNOWN, TxnId(InstanceId(1), Lsn(10_000)))


def test_a_linearizable_read_needs_a_quorum_that_still_follows() -> None:
    """ADR 5."""
    mesh = promoted_mesh()
    call = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(call))
    assert mesh.outcome(call) is None
    mesh.settle()
    assert mesh.outcome(call) == ev.ReadReady()

    mesh.isolate(1)
    alone = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(alone))
    mesh.settle()
    assert mesh.outcome(alone) is None
    mesh.step(1, ev.CallExpired(alone))
    assert mesh.reason(alone) == "LINEARIZABLE_QUORUM"

    elsewhere = mesh.call_id()
    mesh.step(2, ev.ReadBarrierRequested(elsewhere))
    assert mesh.reason(elsewhere) == "SYNC_QUEUE_FOREIGN"


def test_a_promote_whose_leader_resigns_is_answered_at_once() -> None:
    """[P-13]: the disk got stuck before the PROMOTE was decided; nobody has to wait for a time-out."""
    mesh = Mesh(3, election_mode=ElectionMode.MANUAL)
    call = mesh.call_id()
    mesh.step(1, ev.PromoteRequested(call))
    for _ in range(4):  # the term and the vote of all, but no PROMOTE on a second disk
        mesh.persist(1)
        for other in (2, 3):
            mesh.deliver(1, other)
            mesh.persist(other)
            mesh.deliver(other, 1)
        if mesh[1].raft.is_leader:
            break
    assert mesh[1].raft.is_leader and mesh.outcome(call) is None
    mesh.step(1, ev.WalStuck())
    assert mesh.reason(call) == "INTERFERING_ELECTIONS"


def test_a_confirm_that_found_no_room_is_asked_for_again_by_a_timer() -> None:
    """[Q-24], ADR 8: alone in the set nobody's ack or write would ask again. Not at once: no room."""
    mesh = promoted_mesh(1)
    call = mesh.write(1, (1,))
    mesh.persist(1)
    assert mesh.committed(call)
    mesh.now += mesh.settings.confirm_delay_s
    mesh.step(1, ev.DeadlineReached())
    member = mesh.members[1]
    assert len(member.wal) == member.written + 1  # the CONFIRM is on its way
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("Failed to write to disk; nothing was written")))
    assert mesh[1].deadline == mesh.now + mesh.settings.replication_timeout_s
    mesh.run_for(2 * mesh.settings.replication_timeout_s)
    assert member.wal[-1].control == Confirm(InstanceId(1), Lsn(3))
    assert mesh.rows(1) == [(1,)]


def test_with_a_quorum_of_one_the_owner_commits_in_the_order_of_its_log() -> None:
    """[Q-23], ADR 11: an asynchronous write in front of a synchronous one, both synced by one write."""
    mesh = promoted_mesh(1)
    first = mesh.write(1, (1, "first"), ASYNC)
    ops = [
        row_body.dml_from_values(RowType.REPLACE, space, value=value)
        for space, value in ((SYNC, (1,)), (ASYNC, (1, "second")))
    ]
    second = mesh.write_ops(1, ops)
    mesh.settle()
    assert mesh.committed(first) and mesh.committed(second)
    assert mesh.rows(1, ASYNC) == [(1, "second")]
    outcome = mesh.outcome(second)
    assert isinstance(outcome, ev.Committed) and outcome.txn is not None
    assert mesh[1].decided_position.lsn == outcome.txn.lsn


def deposed_before_it_announced(mesh: Mesh) -> None:
    """What was committed on 1 is on 2 as well, the CONFIRM nowhere, and 1 hears of a higher term."""
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    assert mesh[1].limbo.is_announcement_due
    mesh.step(1, ev.FrameTermSeen(Term(mesh[1].raft.volatile_term + 1)))
    mesh.persist(1)
    assert mesh[1].limbo.is_untold


def test_local_writes_of_a_deposed_owner_wait_until_its_log_tells_what_they_build_on() -> None:
    """Limbo.L7, ADR 11: recovery would apply them ahead of what they came after."""
    mesh = promoted_mesh(3)
    mesh.write(1, (1,))
    before = mesh.write(1, (7, "one"), LOCAL_SPACE)
    deposed_before_it_announced(mesh)
    assert mesh.committed(before)
    behind = mesh.write(1, (7, "two"), LOCAL_SPACE)
    refused = mesh.write(1, (2,))
    assert mesh.reason(refused) == "READ_ONLY"
    mesh.persist(1)
    assert mesh.outcome(behind) is None

    mesh.promote(2)
    assert mesh.committed(behind)
    assert mesh.rows(1, LOCAL_SPACE) == [(7, "two")]
    mesh.crash(1)
    mesh.restart(1)
    mesh.settle()
    assert mesh.rows(1, LOCAL_SPACE) == [(7, "two")]


def test_a_restarted_owner_may_write_locally_at_once() -> None:
    """[L-22]: its log tells all that it knows."""
    mesh = promoted_mesh(3)
    mesh.write(1, (1,))
    deposed_before_it_announced(mesh)
    mesh.crash(1)
    mesh.restart(1)
    assert not mesh[1].limbo.is_untold
    local = mesh.write(1, (7, "two"), LOCAL_SPACE)
    mesh.settle()
    assert mesh.outcome(local) is not None or len(mesh[1].limbo) > 0


def test_after_a_cut_the_confirm_is_not_tried_at_once_even_if_it_was_planned_before() -> None:
    """ADR 8: the disk would still be full, and a second cut ends the leadership."""
    mesh = promoted_mesh(3)
    mesh.write(1, (2,))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.write(1, (3,))
    mesh.persist(1)
    mesh.persist(2)
    mesh.write(1, (4,))
    mesh.deliver(1, 2)
    mesh.persist(2)
    assert mesh[1].limbo.is_announcement_due
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("Failed to write to disk; nothing was written")))
    assert mesh[1].deadline == mesh.now + mesh.settings.replication_timeout_s
