"""Another live process has the identity of this instance: it neither votes, counts nor writes (ADR 23)."""

from __future__ import annotations

import pytest

from synchro.config import ElectionMode
from synchro.ids import NOBODY, InstanceId, Term
from synchro.instance import events as ev
from synchro.raft.messages import RaftMessage, Role
from synchro.ro_reason import RoReason
from tests.mesh import ASYNC, Mesh

ONE = InstanceId(1)


def candidate(mesh: Mesh, term: int) -> ev.PeerRaftReceived:
    message = RaftMessage(Term(term), ONE, Role.CANDIDATE, NOBODY, False, mesh[1].vclock.without_local())
    return ev.PeerRaftReceived(ONE, message)


def test_a_doubled_owner_resigns_and_refuses_writes_until_it_is_single_and_promoted() -> None:
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.settle()
    mesh.step(1, ev.DoubledChanged(True))
    assert not mesh[1].raft.is_leader
    assert mesh[1].read_only_reason() is RoReason.DOUBLED
    call = mesh.write(1, (1,))
    mesh.settle()
    assert mesh.reason(call) == "READ_ONLY"
    assert mesh.rows(1) == []
    mesh.step(1, ev.DoubledChanged(False))
    assert mesh[1].read_only_reason() is not RoReason.DOUBLED
    call = mesh.promote(1)
    mesh.settle()
    assert isinstance(mesh.outcome(call), ev.Promoted)


@pytest.mark.parametrize("mode", [ElectionMode.MANUAL, ElectionMode.OFF])
def test_promote_and_demote_name_the_double(mode: ElectionMode) -> None:
    """Not the log, which is whole."""
    mesh = Mesh(3, election_mode=mode)
    mesh.promote(1)
    mesh.settle()
    mesh.step(1, ev.DoubledChanged(True))
    for call in (mesh.promote(1), mesh.demote(1)):
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Rejected)
        assert outcome.error.details["ro_reason"] == "doubled"
        assert "another live process" in outcome.error.message


def test_asynchronous_writes_without_elections_are_refused_too() -> None:
    """Both would give the same LSN to different rows."""
    mesh = Mesh(2, election_mode=ElectionMode.OFF)
    mesh.settle()
    mesh.step(1, ev.DoubledChanged(True))
    call = mesh.write(1, (1,), space=ASYNC)
    mesh.settle()
    assert mesh.reason(call) == "READ_ONLY"
    mesh.step(1, ev.DoubledChanged(False))
    call = mesh.write(1, (1,), space=ASYNC)
    mesh.settle()
    assert mesh.committed(call)


def test_a_doubled_instance_does_not_vote_and_not_in_the_term_in_which_it_is_single_again() -> None:
    """The other one may have given the vote of that term in our name."""
    mesh = Mesh(3)
    mesh.isolate(3)
    mesh.step(3, ev.DoubledChanged(True))
    term = mesh[3].raft.volatile_term + 1
    mesh.step(3, candidate(mesh, term))
    while mesh.persist(3):
        pass
    assert mesh[3].raft.volatile_term == term
    assert mesh[3].raft.vote == NOBODY
    mesh.step(3, ev.DoubledChanged(False))
    mesh.step(3, candidate(mesh, term))
    while mesh.persist(3):
        pass
    assert mesh[3].raft.vote == NOBODY
    mesh.step(3, candidate(mesh, term + 1))
    while mesh.persist(3):
        pass
    assert mesh[3].raft.vote == ONE


def test_amnesia_that_is_found_while_doubled_outlives_it() -> None:
    """A stale copy that stays alone must not vote: its peers remember more than it has (S14)."""
    mesh = Mesh(3)
    mesh.step(3, ev.DoubledChanged(True))
    ahead = mesh[1].vclock.without_local().follow(InstanceId(3), mesh[3].vclock.get(InstanceId(3)) + 5)  # type: ignore[arg-type]
    mesh.step(3, ev.ApplierFollowing(ONE, mesh[1].vclock, mesh[1].raft.term, ahead))
    mesh.step(3, ev.DoubledChanged(False))
    assert not mesh[3].raft.trusted
    assert not mesh[3].acks_count
