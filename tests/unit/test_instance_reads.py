"""Linearizable reads of whole instances: how many must know of no later owner [Q-34], [Q-62], ADR 17; and
what stood in the queue is waited for [Q-60], ADR 54."""

from __future__ import annotations

import pytest

from synchro.config import QuorumFormula, Settings
from synchro.errors import LinearizablePending, WalIo
from synchro.ids import CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.vclock import Vclock
from tests.mesh import LOCAL_SPACE, Mesh


def with_quorum(members: int, text: str | int, **settings: object) -> Mesh:
    mesh = Mesh(members, synchro_quorum=QuorumFormula(text), **settings)
    mesh.promote(1)
    assert mesh[1].is_writable
    return mesh


def read(mesh: Mesh, number: int = 1) -> CallId:
    call = mesh.call_id()
    mesh.step(number, ev.ReadBarrierRequested(call))
    mesh.settle()
    return call


def test_with_a_quorum_below_a_majority_an_owner_that_was_replaced_reads_nothing() -> None:
    """3 was promoted by itself, and has written; 1 and 2 do not know, and would be a majority."""
    mesh = with_quorum(3, 1)
    mesh.isolate(3)
    mesh.promote(3)
    mesh.write(3, (1, "new"))
    mesh.settle()
    assert mesh.rows(3) == [(1, "new")] and mesh.rows(1) == []

    stale = read(mesh)
    assert mesh.outcome(stale) is None
    mesh.step(1, ev.CallExpired(stale))
    assert mesh.reason(stale) == "LINEARIZABLE_QUORUM"
    outcome = mesh.outcome(stale)
    assert isinstance(outcome, ev.Rejected) and "fewer than 3 of 3 instances" in outcome.error.message


@pytest.mark.parametrize(
    ("members", "quorum", "silent"),
    [(3, 2, 1), (3, 1, 0), (4, 3, 2), (5, 3, 2), (5, 2, 1), (3, 3, 2), (2, 2, 1)],
)
def test_so_many_may_be_silent_that_none_of_them_can_be_elected(
    members: int, quorum: int, silent: int
) -> None:
    """N - Q + 1: who is elected needs Q votes, so one of those asked has given its own."""
    mesh = with_quorum(members, quorum)
    for number in range(members, members - silent, -1):
        mesh.isolate(number)
    assert mesh.outcome(read(mesh)) == ev.ReadReady()
    if silent + 1 < members:
        mesh.isolate(members - silent)
        assert mesh.outcome(read(mesh)) is None


def test_more_may_be_asked_but_never_fewer() -> None:
    """[Q-34]: `linearizable_quorum`; what is above the members means all of them."""
    settings = Settings(synchro_quorum=QuorumFormula(2), linearizable_quorum=QuorumFormula(1, clamp=True))
    assert settings.read_quorum(3) == 2
    settings = Settings(linearizable_quorum=QuorumFormula("N", clamp=True))
    assert settings.read_quorum(3) == 3
    settings = Settings(linearizable_quorum=QuorumFormula(31, clamp=True))
    assert [settings.read_quorum(members) for members in (0, 1, 3)] == [1, 1, 3]

    mesh = with_quorum(3, 2, linearizable_quorum=QuorumFormula("N", clamp=True))
    mesh.isolate(3)
    assert mesh.outcome(read(mesh)) is None


def test_each_quorum_of_each_size_meets_those_that_are_asked() -> None:
    for members in range(1, 32):
        for quorum in range(1, members + 1):
            settings = Settings(synchro_quorum=QuorumFormula(quorum))
            assert settings.read_quorum(members) + quorum > members


def test_a_read_that_comes_during_a_round_is_not_answered_by_it() -> None:
    """ReadBarrier.B1: 2 echoed, then voted for 3, and 3 has answered a write; then the echo arrives at 1,
    which knows nothing of all that. Who asked before the echo may read here; who asked since must see the
    write."""
    mesh = with_quorum(3, 2)
    early, late = mesh.call_id(), mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(early))
    echo = mesh.ack_of(2, mesh[1].read_barrier.show())
    mesh.isolate(1)
    mesh.promote(3)
    write = mesh.write(3, (1, "new"))
    mesh.settle()
    assert mesh.committed(write) and mesh.rows(1) == []

    mesh.step(1, ev.ReadBarrierRequested(late))
    mesh.step(1, ev.AckReceived(InstanceId(2), echo))
    assert mesh.outcome(early) == ev.ReadReady()
    assert mesh.outcome(late) is None
    mesh.step(1, ev.AckReceived(InstanceId(2), mesh.ack_of(2, mesh[1].read_barrier.show())))
    assert mesh.reason(late) == "SYNC_QUEUE_FOREIGN"


def test_reads_of_one_moment_share_a_round_of_heartbeats() -> None:
    mesh = with_quorum(3, 2)
    calls = [mesh.call_id() for _ in range(5)]
    for call in calls:
        mesh.step(1, ev.ReadBarrierRequested(call))
    number = mesh[1].read_barrier.show()
    mesh.step(1, ev.AckReceived(InstanceId(2), mesh.ack_of(2, number)))
    assert [mesh.outcome(call) for call in calls] == [ev.ReadReady()] * 5
    assert mesh[1].read_barrier.show() == number


def test_who_forgot_echoes_nothing() -> None:
    """S14: it may have voted for the next owner."""
    mesh = with_quorum(3, 2)
    mesh.isolate(3)
    mesh.isolate(2)
    call = read(mesh)
    number = mesh[1].read_barrier.show()
    forgot = ev.Ack(mesh[2].vclock, mesh[1].raft.term, number, counts=False)
    mesh.step(1, ev.AckReceived(InstanceId(2), forgot))
    assert mesh.outcome(call) is None
    mesh.step(1, ev.AckReceived(InstanceId(2), ev.Ack(mesh[2].vclock, mesh[1].raft.term, number)))
    assert mesh.outcome(call) == ev.ReadReady()


def test_while_a_member_is_being_registered_both_sets_are_asked() -> None:
    """The next candidate may have its row, or not (ADR 6): the echo of the newcomer proves nothing yet."""
    mesh = with_quorum(3, "N / 2 + 1")
    mesh.isolate(1)
    register = mesh.call_id()
    mesh.step(1, ev.RegisterRequested(register, "00000000-0000-4000-8000-000000000009", "i4"))
    mesh.persist(1)
    call = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(call, awaits_queue=False))
    number, term = mesh[1].read_barrier.show(), mesh[1].raft.term
    mesh.step(1, ev.AckReceived(InstanceId(4), ev.Ack(mesh[1].vclock, term, number)))
    assert mesh.outcome(call) is None
    mesh.step(1, ev.AckReceived(InstanceId(2), ev.Ack(mesh[2].vclock, term, number)))
    assert mesh.outcome(call) == ev.ReadReady()


# --- what stood in the queue


def ask(mesh: Mesh, number: int = 1) -> CallId:
    call = mesh.call_id()
    mesh.step(number, ev.ReadBarrierRequested(call))
    return call


def echo(mesh: Mesh, number: int = 2, vclock: Vclock | None = None) -> None:
    """The newest heartbeat is answered by `number`, which has no more rows than `vclock` on disk."""
    ack = mesh.ack_of(number, mesh[1].read_barrier.show())
    mesh.step(1, ev.AckReceived(InstanceId(number), ack if vclock is None else ack._replace(vclock=vclock)))


def test_a_round_is_not_enough_where_something_waits() -> None:
    """[Q-60]: the entry of the moment of asking, and none that came later."""
    mesh = with_quorum(3, 2)
    before = mesh[2].vclock
    first = mesh.write(1, (1, "x"))
    mesh.persist(1)
    reads = [ask(mesh)]
    second = mesh.write(1, (2, "y"))
    mesh.persist(1)
    reads.append(ask(mesh))
    for _ in range(3):  # a round, and the next one
        echo(mesh, vclock=before)
    assert [mesh.outcome(call) for call in reads] == [None, None]

    owner = InstanceId(1)
    lsn = mesh[1].limbo.first_lsn
    echo(mesh, vclock=before.follow(owner, lsn))
    assert mesh.committed(first) and not mesh.committed(second)
    assert [mesh.outcome(call) for call in reads] == [ev.ReadReady(), None]
    echo(mesh, vclock=mesh[1].vclock)
    assert mesh.committed(second) and mesh.outcome(reads[1]) == ev.ReadReady()


def test_the_verdict_is_not_enough_without_a_round() -> None:
    mesh = with_quorum(3, 2)
    write = mesh.write(1, (1, "x"))
    mesh.persist(1)
    call = ask(mesh)
    mesh.step(1, ev.AckReceived(InstanceId(2), mesh.ack_of(2)._replace(vclock=mesh[1].vclock)))
    assert mesh.committed(write) and mesh.outcome(call) is None
    echo(mesh, vclock=mesh[1].vclock)
    assert mesh.outcome(call) == ev.ReadReady()


def test_a_stream_of_writes_holds_up_no_reader() -> None:
    """Reads.D1: the queue is never empty here, and each read is answered by the verdict of what it found."""
    mesh = with_quorum(3, 2)
    reads: list[CallId] = []
    for key in range(20):
        vclock = mesh[1].vclock
        mesh.write(1, (key, "x"))
        mesh.persist(1)
        echo(mesh, vclock=vclock)
        echo(mesh, vclock=vclock)
        assert all(mesh.outcome(call) == ev.ReadReady() for call in reads)
        assert len(mesh[1].limbo) > 0
        reads.append(ask(mesh))
        mesh[1].check()


def test_what_the_disk_refuses_is_not_waited_for_but_what_is_ahead_of_it_is() -> None:
    """Reads.cut_back, [Q-47]: LSNs are given again, so a later write has that of what was refused."""
    mesh = with_quorum(3, 2)
    before = mesh[2].vclock
    first = mesh.write(1, (1, "x"))
    mesh.persist(1)
    refused = mesh.write(1, (2, "y"))
    proved = ask(mesh)
    echo(mesh, vclock=before)
    in_a_round = ask(mesh)
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("no room")))
    assert mesh.reason(refused) == "WAL_IO"
    mesh[1].check()
    assert mesh.outcome(proved) is None
    later = mesh.write(1, (3, "z"))
    mesh.persist(1)
    echo(mesh, vclock=before)
    echo(mesh, vclock=before.follow(InstanceId(1), mesh[1].limbo.first_lsn))
    assert mesh.committed(first) and not mesh.committed(later)
    assert mesh.outcome(proved) == mesh.outcome(in_a_round) == ev.ReadReady()


def test_nothing_is_left_to_wait_for_when_the_disk_refused_all_of_it() -> None:
    mesh = with_quorum(3, 2)
    mesh.write(1, (1, "x"))
    call = ask(mesh)
    echo(mesh)
    assert mesh.outcome(call) is None
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("no room")))
    assert mesh.outcome(call) == ev.ReadReady()


def test_when_its_time_is_over_it_is_told_what_it_waited_for() -> None:
    mesh = with_quorum(3, 2)
    before = mesh[2].vclock
    mesh.write(1, (1, "x"))
    unwritten, gone = ask(mesh), ask(mesh)
    echo(mesh, vclock=before)
    mesh.step(1, ev.CallExpired(unwritten))
    outcome = mesh.outcome(unwritten)
    assert isinstance(outcome, ev.Rejected) and "the disk of this instance" in outcome.error.message
    assert "txn" not in outcome.error.details  # its LSN may be given again
    mesh.persist(1)
    late = ask(mesh)
    echo(mesh, vclock=before)
    mesh.step(1, ev.RequestAbandoned(gone))
    mesh.step(1, ev.CallExpired(late))
    outcome = mesh.outcome(late)
    assert isinstance(outcome, ev.Rejected) and isinstance(outcome.error, LinearizablePending)
    lsn = mesh[1].limbo.last_lsn
    assert outcome.error.message == (
        f"the read waits for what stood in the queue when it came: no quorum for 1:{lsn} in time (1 of 2); "
        "nothing was read"
    )
    assert outcome.error.details == {"txn": f"1:{lsn}", "acked": "1", "needed": "2", "missing": "2,3"}
    mesh[1].check()
    assert mesh.outcome(gone) is None


@pytest.mark.parametrize("is_stop", [False, True])
def test_who_waits_for_a_verdict_is_refused_with_the_others(is_stop: bool) -> None:
    """By an owner that is deposed [L-5], or stops (ADR 18); nothing is left behind."""
    mesh = with_quorum(3, 2)
    before = mesh[2].vclock
    mesh.write(1, (1, "x"))
    mesh.persist(1)
    proved = ask(mesh)
    echo(mesh, vclock=before)
    in_a_round = ask(mesh)
    if is_stop:
        mesh.step(1, ev.StopRequested())
    else:
        mesh.step(1, ev.FrameTermSeen(Term(mesh[1].raft.term + 1)))
    reason = "LOADING" if is_stop else "SYNC_QUEUE_FOREIGN"
    assert [mesh.reason(call) for call in (proved, in_a_round)] == [reason] * 2
    mesh[1].check()


def test_local_writes_behind_the_queue_end_with_what_is_ahead_of_them() -> None:
    """[Q-11]: what is fully local has its verdict with the entry that it follows."""
    mesh = with_quorum(3, 2)
    mesh.write(1, (1, "x"))
    local = mesh.write(1, (1, "y"), space=LOCAL_SPACE)
    mesh.persist(1)
    call = ask(mesh)
    echo(mesh, vclock=mesh[1].vclock)
    assert mesh.committed(local) and mesh.outcome(call) == ev.ReadReady()


def test_who_asks_for_another_instance_is_not_behind_who_waits_for_a_verdict() -> None:
    """[Q-63]: the question of another instance needs its round alone."""
    mesh = with_quorum(3, 2)
    before = mesh[2].vclock
    mesh.write(1, (1, "x"))
    mesh.persist(1)
    here = ask(mesh)
    echo(mesh, vclock=before)
    elsewhere = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(elsewhere, awaits_queue=False))
    echo(mesh, vclock=before)
    assert mesh.outcome(elsewhere) == ev.ReadReady() and mesh.outcome(here) is None
    mesh[1].check()
