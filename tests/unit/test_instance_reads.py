"""Linearizable reads of whole instances: how many must know of no later owner. [Q-34], [Q-62], ADR 17."""

from __future__ import annotations

import pytest

from synchro.config import QuorumFormula, Settings
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from tests.mesh import Mesh


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
    call = read(mesh)
    number, term = mesh[1].read_barrier.show(), mesh[1].raft.term
    mesh.step(1, ev.AckReceived(InstanceId(4), ev.Ack(mesh[1].vclock, term, number)))
    assert mesh.outcome(call) is None
    mesh.step(1, ev.AckReceived(InstanceId(2), ev.Ack(mesh[2].vclock, term, number)))
    assert mesh.outcome(call) == ev.ReadReady()
