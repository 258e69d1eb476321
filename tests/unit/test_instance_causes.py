"""Each refusal comes at once, and names its own cause: the queue, the owner, the disk, the election."""

from __future__ import annotations

import pytest

from synchro.config import ElectionMode, Limits, QuorumFormula
from synchro.errors import SynchroError, WalIo
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from synchro.instance.log_tail import ControlWrite
from synchro.queue.limbo import QueueState
from synchro.ro_reason import RoReason
from synchro.row import RowType
from synchro.storage import row_body, schema_ops
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh, until

FULL = WalIo("Failed to write to disk: No space left on device", file="/data/a.xlog")


def error_of(mesh: Mesh, call: CallId) -> SynchroError:
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected | ev.OutcomeUnknown), outcome
    return outcome.error


def promoted(members: int = 3, **settings: object) -> Mesh:
    mesh = Mesh(members, **settings)
    mesh.promote(1)
    assert mesh[1].is_writable
    return mesh


def deposing(mesh: Mesh, by: int = 3) -> None:
    """`by` takes the queue over from 1; the PROMOTE has reached 1 and is on its way to its disk."""
    mesh.isolate(1)
    mesh.promote(by)
    mesh.heal()
    for _ in until(lambda: mesh[1].state.log.barriers, "a barrier in the log of 1"):
        moved = mesh.deliver(by, 1)
        if not mesh[1].state.log.barriers:
            moved |= mesh.persist(1)
        assert moved, "the PROMOTE does not arrive"


# --- while a decision is on its way to disk -----------------------------------------------------------------


def test_a_write_meets_a_received_promote_that_is_not_on_disk_yet() -> None:
    """[Q-4], [E-44]: the instance is read-only from the term on; nobody waits for the disk to hear that."""
    mesh = promoted()
    deposing(mesh)
    assert mesh[1].is_queue_busy
    for space in (SYNC, ASYNC):
        refused = error_of(mesh, mesh.write(1, (1,), space))
        assert refused.reason == "READ_ONLY"
    frame = [mesh.call_id() for _ in range(2)]
    ops = [row_body.dml_from_values(RowType.REPLACE, SYNC, value=(number,)) for number in range(2)]
    mesh.step(1, ev.ClientWrites([ev.ClientWrite(call, [op]) for call, op in zip(frame, ops, strict=True)]))
    assert [mesh.reason(call) for call in frame] == ["READ_ONLY", "READ_ONLY"]
    assert mesh[1].waiting_unprepared == 0
    local = mesh.write(1, (1,), LOCAL_SPACE)
    assert mesh.outcome(local) is None, "it may be written, behind the decision"
    mesh.settle()
    assert mesh.committed(local)
    assert not mesh[1].is_queue_busy


def test_a_received_confirm_makes_the_queue_busy_an_own_announcement_does_not() -> None:
    """[Q-4]: the announcement of an owner is on its way most of the time."""
    mesh = promoted()
    mesh.write(1, (1,))
    for _ in range(4):
        mesh.persist(1)
        for other in (2, 3):
            mesh.deliver(1, other)
            mesh.persist(other)
    assert mesh[1].limbo.is_announcement_due
    deadline = mesh[1].deadline
    assert deadline is not None
    mesh.now = deadline
    mesh.step(1, ev.DeadlineReached())
    assert [type(item) for item in mesh[1].state.log.in_flight] == [ControlWrite]
    assert not mesh[1].is_queue_busy
    mesh.persist(1)
    mesh.deliver(1, 2)
    assert mesh[2].is_queue_busy
    mesh.persist(2)
    assert not mesh[2].is_queue_busy


@pytest.mark.parametrize("limits", [Limits(), Limits(wal_queue_bytes_max=1)])
def test_a_follower_whose_disk_is_behind_refuses_at_once(limits: Limits) -> None:
    """Nothing there would ever make room for a write that is refused anyway."""
    mesh = promoted(limits=limits)
    mesh.write(1, (1,))
    mesh.persist(1)
    mesh.deliver(1, 2)
    assert error_of(mesh, mesh.write(2, (2,))).reason == "READ_ONLY"


def test_a_write_waits_while_the_own_promote_is_on_its_way_to_disk() -> None:
    """[Q-4]: it is about to be the owner; a refusal now would be true for a moment only."""
    mesh = promoted()
    mesh.step(2, ev.PromoteRequested(mesh.call_id()))
    links = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b]
    for _ in until(lambda: mesh[2].limbo.is_deciding_here, "2 as the one that decides"):
        moved = mesh.persist(2) or any(mesh.deliver(*link) for link in links)
        assert moved or mesh.persist(1) or mesh.persist(3)
    call = mesh.write(2, (2,))
    assert mesh.outcome(call) is None
    mesh.settle()
    assert mesh.outcome(call) is not None
    assert mesh[2].limbo.owner_id == 2
    call = mesh.write(2, (3,))
    mesh.settle()
    assert mesh.committed(call)


def test_a_definition_that_is_not_decided_holds_no_refusal_back() -> None:
    mesh = promoted()
    mesh.isolate(3)
    mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "more", is_sync=True))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    assert error_of(mesh, mesh.write(2, (2,))).reason == "READ_ONLY"


# --- queues ---------------------------------------------------------------------------------------------


def test_each_queue_that_is_full_has_its_own_reason() -> None:
    """[W-16], [Q-45]: 287 and 289."""
    mesh = promoted(2, limits=Limits(wal_queue_bytes_max=1))
    mesh.write(1, (1,))
    full = error_of(mesh, mesh.write(1, (2,), wait=ev.WaitMode.NONE))
    assert (full.reason, full.tnt_code) == ("WAL_QUEUE_FULL", 287)
    assert mesh.settings.wal_dir in full.message
    waited = mesh.write(1, (3,))
    mesh.step(1, ev.CallExpired(waited))
    assert error_of(mesh, waited).reason == "WAL_QUEUE_FULL"

    mesh = promoted(2, synchro_queue_max_size=1)
    mesh.crash(2)
    mesh.write(1, (1,))
    mesh.settle()
    full = error_of(mesh, mesh.write(1, (2,), wait=ev.WaitMode.NONE))
    assert (full.reason, full.tnt_code) == ("SYNC_QUEUE_FULL", 289)
    assert "quorum of 2" in full.message


def test_who_waited_behind_a_definition_is_told_so() -> None:
    mesh = promoted(2)
    mesh.crash(2)
    mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "more", is_sync=True))
    mesh.settle()
    behind = mesh.write(1, (1,))
    mesh.step(1, ev.CallExpired(behind))
    assert "change of definitions" in error_of(mesh, behind).message


def test_the_lag_of_confirms_is_that_of_synchronous_transactions() -> None:
    """[I-25]: an asynchronous one waits behind them, however short."""
    mesh = promoted(2)
    mesh.cut(1, 2)
    mesh.write(1, (1,))
    mesh.now += 7
    mesh.write(1, (1,), ASYNC)
    mesh.now += 3
    mesh.heal()
    mesh.settle()
    assert mesh[1].limbo.confirm_lag == pytest.approx(10)


# --- time is over ---------------------------------------------------------------------------------------


def expired(mesh: Mesh, call: CallId, at: int = 1) -> str:
    mesh.step(at, ev.CallExpired(call))
    assert isinstance(mesh.outcome(call), ev.OutcomeUnknown)
    assert error_of(mesh, call).reason == "SYNC_TIMEOUT"
    return error_of(mesh, call).message


def test_too_few_copies() -> None:
    mesh = promoted()
    mesh.isolate(1)
    call = mesh.write(1, (1,))
    mesh.settle()
    assert "no quorum for 1:" in expired(mesh, call)


def test_the_owner_was_deposed_and_three_of_two_is_no_reason() -> None:
    """Every instance has the row, and nobody may confirm it before the next owner."""
    mesh = promoted()
    call = mesh.write(1, (1,))
    mesh.persist(1)
    for other in (2, 3):
        mesh.deliver(1, other)
    mesh.step(1, ev.FrameTermSeen(mesh[1].raft.term + 1))  # type: ignore[arg-type]
    mesh.persist(1)
    mesh.persist(2)
    mesh.persist(3)
    assert len(mesh[1].limbo.holders(InstanceId(1), mesh[1].limbo.last_lsn)) == 3
    text = expired(mesh, call)
    assert "of 2)" not in text and "lost the queue of term 2 (the term is 3 now)" in text


def test_a_local_row_stands_behind_those_of_another_owner() -> None:
    """[Q-11]: a replica has lost nothing, and its term is that of the queue."""
    mesh = promoted()
    mesh.isolate(3)
    mesh.write(1, (1,))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    call = mesh.write(2, (1,), LOCAL_SPACE)
    mesh.persist(2)
    assert "the queue belongs to instance 1, which decides" in expired(mesh, call, at=2)


def test_a_fenced_leader_lost_no_term_to_anybody() -> None:
    """[E-30]: the same term as before, and nobody leads it."""
    mesh = promoted(election_mode=ElectionMode.MANUAL)
    call = mesh.write(1, (1,))
    mesh.persist(1)
    mesh.isolate(1)
    assert not mesh[1].raft.is_leader
    assert "the queue is frozen until somebody is promoted" in expired(mesh, call)


def test_the_own_disk_did_not_answer() -> None:
    mesh = promoted()
    call = mesh.write(1, (1,))
    text = expired(mesh, call)
    assert "the disk of this instance did not write it in time" in text and mesh.settings.wal_dir in text


def test_an_asynchronous_write_lacks_no_quorum() -> None:
    mesh = Mesh(3)
    call = mesh.write(1, (1,), ASYNC)
    assert "quorum" not in expired(mesh, call)


def test_with_a_quorum_of_one_it_waits_for_the_confirm() -> None:
    mesh = promoted(3, synchro_quorum=QuorumFormula(1))
    call = mesh.write(1, (1,))
    mesh.persist(1)
    assert "CONFIRM, is not on disk yet" in expired(mesh, call)


# --- the disk -------------------------------------------------------------------------------------------


def cut_back(mesh: Mesh, number: int = 1) -> None:
    member = mesh.members[number]
    del member.wal[member.written :]
    mesh.step(number, ev.RowsCutBack(mesh[number].vclock, FULL))


def test_with_elections_off_neither_a_stuck_nor_a_full_disk_deposes_the_owner() -> None:
    """ADR 16: nobody would take over; its writes wait, or are told WAL_IO."""
    mesh = promoted()
    waiting = mesh.write(1, (1,))
    mesh.step(1, ev.WalStuck())
    assert mesh[1].limbo.state is QueueState.LEADER
    mesh.settle()
    assert mesh.committed(waiting)
    for number in (2, 3, 4):
        call = mesh.write(1, (number,))
        cut_back(mesh)
        mesh.now += 0.1
        assert error_of(mesh, call).reason == "WAL_IO"
    assert mesh[1].limbo.state is QueueState.LEADER
    mesh.now += 5
    mesh.settle()
    late = mesh.write(1, (9,))
    mesh.settle()
    assert mesh.committed(late)


def test_with_elections_off_a_higher_term_still_deposes_an_owner_with_a_stuck_disk() -> None:
    mesh = promoted()
    mesh.step(1, ev.WalStuck())
    mesh.step(1, ev.FrameTermSeen(mesh[1].raft.term + 1))  # type: ignore[arg-type]
    assert mesh[1].limbo.state is QueueState.REPLICA
    assert error_of(mesh, mesh.write(1, (1,))).reason == "READ_ONLY"


@pytest.mark.parametrize("mode", [ElectionMode.MANUAL, ElectionMode.CANDIDATE])
def test_with_elections_another_takes_over_and_the_refusal_names_the_disk(mode: ElectionMode) -> None:
    mesh = promoted(election_mode=mode)
    for number in (1, 2):
        mesh.write(1, (number,))
        cut_back(mesh)
    assert mesh[1].limbo.state is QueueState.REPLICA
    error = error_of(mesh, mesh.write(1, (3,)))
    assert error.reason == "READ_ONLY" and error.details["disk"] == "/data/a.xlog"
    assert "no room" in error.message and "/data/a.xlog" in error.message and "Next:" in error.message
    mesh.settle()
    mesh.promote(2)
    call = mesh.write(2, (4,))
    mesh.settle()
    assert mesh.committed(call)
    assert "disk" not in error_of(mesh, mesh.write(1, (5,))).details, "it has taken rows since"


# --- why it is read-only --------------------------------------------------------------------------------


def test_the_reason_is_the_election_while_nobody_leads() -> None:
    """[E-42]"""
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE)
    assert {mesh[number].read_only_reason() for number in (1, 2, 3)} == {RoReason.ELECTION}
    mesh.promote(1)
    assert [mesh[number].read_only_reason() for number in (1, 2, 3)] == [
        RoReason.NONE,
        RoReason.SYNCHRO,
        RoReason.SYNCHRO,
    ]
    mesh.crash(1)
    mesh[2].check()
    mesh.now += 4.1
    for number in (2, 3):
        mesh.step(number, ev.DeadlineReached())
    assert mesh[2].read_only_reason() is RoReason.ELECTION
    mesh.run_for(30.0)
    assert {mesh[number].read_only_reason() for number in (2, 3)} == {RoReason.NONE, RoReason.SYNCHRO}


def test_without_elections_it_is_the_queue() -> None:
    mesh = promoted()
    mesh.crash(1)
    mesh.run_for(10.0)
    assert {mesh[number].read_only_reason() for number in (2, 3)} == {RoReason.SYNCHRO}
    mesh.restart(1)
    assert mesh[1].read_only_reason() is RoReason.SYNCHRO


def test_a_voter_that_sees_no_leader_says_so_too() -> None:
    mesh = Mesh(3, election_mode=ElectionMode.VOTER)
    assert mesh[1].read_only_reason() is RoReason.ELECTION


def test_read_only_says_the_state_and_the_term_of_the_queue() -> None:
    """[E-44]"""
    mesh = promoted()
    details = error_of(mesh, mesh.write(2, (1,))).details
    assert (details["state"], details["term"], details["queue_term"]) == ("follower", "2", "2")
    assert (details["ro_reason"], details["owner"], details["leader"]) == ("synchro", "1", "1")
    mesh.step(2, ev.FrameTermSeen(mesh[1].raft.term + 3))  # type: ignore[arg-type]
    details = error_of(mesh, mesh.write(2, (1,))).details
    assert (details["term"], details["queue_term"], details.get("leader")) == ("5", "2", None)


def test_demote_where_the_queue_cannot_be_given_away_says_whose_it_is() -> None:
    """[P-31]: not "the new leader is 1", said by 1."""
    mesh = promoted()
    error = error_of(mesh, mesh.demote(2))
    assert error.reason == "NOT_LEADER"
    assert "its owner is 1 (i1)" in error.message and "Next: synchro demote i1" in error.message


def test_a_leader_that_fell_silent_is_not_named() -> None:
    """[E-44]: it is known, and may be dead."""
    mesh = promoted(election_mode=ElectionMode.MANUAL)
    mesh.crash(1)
    mesh.now += 4.1
    mesh.step(2, ev.DeadlineReached())
    error = error_of(mesh, mesh.write(2, (1,)))
    assert "leader" not in error.details and "leader is" not in error.message
    assert error.details["owner"] == "1" and error.details["ro_reason"] == "election"


def test_who_waits_behind_a_local_write_hears_at_once_that_the_right_is_lost() -> None:
    """The local one may be done later, behind the decision; the others never."""
    mesh = promoted(synchro_queue_max_size=1)
    mesh.isolate(1)
    mesh.write(1, (1,))
    mesh.settle()
    local = mesh.write(1, (1,), LOCAL_SPACE)
    behind = [mesh.write(1, (2,)), mesh.write(1, (3,), ASYNC)]
    assert mesh[1].waiting_unprepared == 3
    mesh.step(1, ev.FrameTermSeen(mesh[1].raft.term + 1))  # type: ignore[arg-type]
    assert [mesh.reason(call) for call in behind] == ["READ_ONLY", "READ_ONLY"]
    mesh.step(1, ev.FrameTermSeen(mesh[1].raft.term + 2))  # type: ignore[arg-type]
    mesh.settle()
    assert mesh.outcome(local) is None or mesh.committed(local)
