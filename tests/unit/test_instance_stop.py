"""A clean stop announces what was committed; no caller is left without a word (ADR 18)."""

from __future__ import annotations

from synchro.config import ElectionMode, QuorumFormula
from synchro.errors import WalIo
from synchro.ids import NOBODY, InstanceId, Lsn
from synchro.instance import events as ev
from synchro.row import Confirm, RowType, TxnId
from synchro.vclock import Vclock
from tests.mesh import ASYNC, LOCAL_SPACE, Mesh


def owner(members: int = 3, **settings: object) -> Mesh:
    mesh = Mesh(members, **settings)
    mesh.promote(1)
    mesh.settle()
    return mesh


def committed_untold(mesh: Mesh, value: tuple[int, str] = (1, "x")) -> None:
    """Answered, and no CONFIRM of it anywhere."""
    call = mesh.write(1, value)
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    assert mesh.committed(call) and mesh[1].limbo.is_announcement_due


def stop(mesh: Mesh, number: int = 1) -> None:
    mesh.step(number, ev.StopRequested())


def confirms(mesh: Mesh, number: int) -> int:
    wal = mesh.members[number].wal if number in mesh.members else mesh.down[number]
    return sum(isinstance(txn.control, Confirm) for txn in wal)


def test_what_was_acknowledged_is_visible_after_a_clean_stop_and_a_restart() -> None:
    mesh = owner()
    committed_untold(mesh)
    stop(mesh)
    assert not mesh.members[1].is_stopped
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.deliver(1, 3)
    mesh.persist(2)
    assert not mesh.members[1].is_stopped, "3 has not acked it"
    mesh.persist(3)
    assert mesh.members[1].is_stopped
    mesh.crash(1)
    mesh.restart(1)
    assert mesh.rows(1) == [(1, "x")] and len(mesh[1].limbo) == 0
    assert mesh.rows(2) == mesh.rows(3) == [(1, "x")]


def test_peers_that_do_not_answer_cost_one_heartbeat() -> None:
    mesh = owner()
    committed_untold(mesh)
    stop(mesh)
    mesh.persist(1)
    deadline = mesh[1].deadline
    assert deadline == mesh.now + mesh.settings.replication_timeout_s
    mesh.now = deadline
    mesh.step(1, ev.DeadlineReached())
    assert mesh.members[1].is_stopped and not mesh[1].raft.is_leader
    mesh.crash(1)
    mesh.restart(1)
    assert mesh.rows(1) == [(1, "x")], "the CONFIRM was synced before"


def test_it_resigns_so_that_the_others_need_not_wait() -> None:
    """[E-18]"""
    mesh = owner(election_mode=ElectionMode.CANDIDATE)
    stop(mesh)
    mesh.settle()
    assert mesh.members[1].is_stopped
    assert any(mesh[number].raft.role.name != "FOLLOWER" for number in (2, 3))


def test_a_deposed_owner_announces_nothing() -> None:
    mesh = owner()
    committed_untold(mesh)
    mesh.step(1, ev.FrameTermSeen(mesh[1].raft.volatile_term + 1))  # type: ignore[arg-type]
    before = confirms(mesh, 1)
    stop(mesh)
    mesh.persist(1)
    assert confirms(mesh, 1) == before


def test_no_ack_counts_after_the_request() -> None:
    """What had no quorum by then stays pending, as after a kill; the next owner decides it."""
    mesh = owner()
    call = mesh.write(1, (1, "late"))
    mesh.persist(1)
    stop(mesh)
    mesh.settle()
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.OutcomeUnknown) and outcome.txn is not None
    assert mesh.rows(1) == [] and len(mesh[1].limbo) == 1
    assert mesh.members[1].is_stopped
    mesh.crash(1)
    assert isinstance(mesh.outcome(mesh.promote(2)), ev.Promoted)
    assert mesh.rows(2) == [(1, "late")]


def test_an_own_ack_does_not_count_either() -> None:
    """A set of one: what is on its way to disk is committed by the next promote."""
    mesh = owner(1)
    call = mesh.write(1, (1, "x"))
    stop(mesh)
    assert mesh.outcome(call) is None, "it has no name before it is on disk"
    mesh.persist(1)
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.OutcomeUnknown)
    assert outcome.txn == TxnId(InstanceId(1), mesh[1].vclock.get(InstanceId(1)))


def test_each_of_a_thousand_writes_hears_its_fate() -> None:
    """A result, a name, or that nothing was done; one of them, once."""
    mesh = owner(synchro_queue_max_size=3000)
    calls = [mesh.write(1, (number, "x" * 20)) for number in range(1000)]
    calls += [mesh.write(1, (number, "a"), ASYNC) for number in range(5)]
    mesh.persist(1)
    unwritten = mesh[1].waiting_unprepared
    assert 0 < unwritten < 1000
    stop(mesh)
    mesh.settle()
    outcomes = [mesh.outcome(call) for call in calls]
    rejected = [outcome for outcome in outcomes if isinstance(outcome, ev.Rejected)]
    unknown = [outcome for outcome in outcomes if isinstance(outcome, ev.OutcomeUnknown)]
    assert len(rejected) == unwritten and len(unknown) == len(calls) - unwritten
    assert all("nothing was" in outcome.error.message for outcome in rejected)
    assert len({outcome.txn for outcome in unknown}) == len(unknown)
    assert all(outcome.txn in {entry.id for entry in mesh[1].limbo.entries} for outcome in unknown)  # type: ignore[attr-defined]


def test_later_calls_are_refused_and_retries_are_still_answered() -> None:
    mesh = owner()
    call = mesh.write(1, (1, "x"), request_id=b"r" * 16)
    mesh.settle()
    assert mesh.committed(call)
    waiting = mesh.write(1, (2, "x"), request_id=b"s" * 16)
    mesh.persist(1)
    stop(mesh)
    assert mesh.reason(mesh.write(1, (3, "x"))) == "LOADING"
    assert mesh.reason(mesh.write(1, (3, "x"), LOCAL_SPACE)) == "LOADING"
    again = mesh.outcome(mesh.write(1, (1, "x"), request_id=b"r" * 16))
    assert isinstance(again, ev.Committed) and again.duplicate
    for one in (waiting, mesh.write(1, (2, "x"), request_id=b"s" * 16)):
        assert isinstance(mesh.outcome(one), ev.OutcomeUnknown)
    for event in (ev.PromoteRequested, ev.DemoteRequested, ev.ReadBarrierRequested):
        late = mesh.call_id()
        mesh.step(1, event(late))
        assert mesh.reason(late) == "LOADING"
    late = mesh.call_id()
    mesh.step(1, ev.WaitRequested(late, TxnId(InstanceId(1), Lsn(3))))
    assert isinstance(mesh.outcome(late), ev.FateKnown)


def test_calls_of_every_kind_end() -> None:
    """A promote, a read, a question, a duplicate key that rests on an undecided one, a submitted write."""
    mesh = owner()
    mesh.isolate(1)
    calls = [mesh.write(1, (1, "x"))]
    calls.append(mesh.write(1, (1, "y"), kind=RowType.INSERT))
    calls.append(mesh.write(1, (2, "x"), wait=ev.WaitMode.SUBMIT))
    newest = TxnId(InstanceId(1), mesh[1].volatile_vclock.get(InstanceId(1)))
    for event in (ev.ReadBarrierRequested(mesh.call_id()), ev.WaitRequested(mesh.call_id(), newest)):
        calls.append(event.call_id)
        mesh.step(1, event)
    stop(mesh)
    mesh.persist(1)
    kinds = [type(mesh.outcome(call)).__name__ for call in calls]
    assert kinds == ["OutcomeUnknown", "Rejected", "Submitted", "Rejected", "FateKnown"]

    mesh = owner()
    call = mesh.call_id()
    mesh.step(2, ev.PromoteRequested(call))
    stop(mesh, 2)
    assert mesh.reason(call) == "TIMED_OUT"


def test_a_full_disk_does_not_keep_it() -> None:
    """The CONFIRM is cut back: it goes without, as ADR 11 allows."""
    mesh = owner()
    committed_untold(mesh)
    call = mesh.write(1, (2, "x"))
    stop(mesh)
    mesh.members[1].wal = mesh.members[1].wal[: mesh.members[1].written]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("no room; nothing was written")))
    assert mesh.reason(call) == "WAL_IO"
    mesh.now += mesh.settings.replication_timeout_s
    mesh.step(1, ev.DeadlineReached())
    assert mesh.members[1].is_stopped


def test_replicas_and_sets_without_an_owner_stop_too() -> None:
    mesh = owner()
    stop(mesh, 2)
    assert mesh.members[2].is_stopped
    mesh = Mesh(3)
    call = mesh.write(1, (1, "x"), ASYNC)
    stop(mesh)
    assert mesh.outcome(call) is None
    mesh.settle()
    assert mesh.committed(call) and mesh.members[1].is_stopped
    assert mesh[1].limbo.owner_id == NOBODY


def test_rows_that_arrive_meanwhile_are_left_for_the_next_life() -> None:
    """Else a replica under load would never have all of it on disk."""
    mesh = owner()
    stop(mesh, 2)
    mesh.write(1, (1, "x"))
    mesh.settle()
    assert mesh[2].vclock.get(InstanceId(1)) < mesh[1].vclock.get(InstanceId(1))
    mesh.crash(2)
    mesh.restart(2)
    mesh.settle()
    assert mesh.rows(2) == [(1, "x")]


def test_below_a_majority_the_confirm_on_its_way_still_counts() -> None:
    mesh = owner(synchro_quorum=QuorumFormula(1))
    call = mesh.write(1, (1, "x"))
    mesh.persist(1)
    assert mesh.outcome(call) is None, "its CONFIRM is on its way"
    stop(mesh)
    mesh.settle()
    assert mesh.committed(call)
    mesh.crash(1)
    mesh.restart(1)
    assert mesh.rows(1) == [(1, "x")]


def test_a_second_request_changes_nothing() -> None:
    mesh = owner()
    stop(mesh)
    assert mesh.members[1].is_stopped
    mesh.members[1].is_stopped = False
    stop(mesh)
    assert not mesh.members[1].is_stopped
    assert mesh[1].vclock == Vclock(mesh[1].volatile_vclock.as_dict())
