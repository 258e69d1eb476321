"""An owner that may not write any more gives its queue away: after a restart, and in mode off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synchro.config import ElectionMode
from synchro.ids import NOBODY, Term
from synchro.instance import events as ev
from synchro.queue.limbo import QueueState
from tests.mesh import Mesh


def owner_restarted(members: int = 3) -> Mesh:
    mesh = Mesh(members)
    mesh.promote(1)
    mesh.write(1, (1, "old"))
    mesh.settle()
    mesh.crash(1)
    mesh.restart(1)
    mesh.settle()
    assert mesh[1].limbo.state is QueueState.REPLICA and mesh[1].limbo.owner_id == 1
    return mesh


def assert_unclaimed(mesh: Mesh, *rows: tuple[int, str]) -> None:
    for number in mesh.members:
        assert mesh[number].limbo.owner_id == NOBODY and len(mesh[number].limbo) == 0
        assert mesh[number].is_writable
        assert mesh.rows(number) == list(rows)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_a_restarted_owner_demotes(members: int) -> None:
    """[P-31]: the queue is its own and of the term of raft; that it may not write does not matter."""
    mesh = owner_restarted(members)
    call = mesh.demote(1)
    assert isinstance(mesh.outcome(call), ev.Demoted)
    assert_unclaimed(mesh, (1, "old"))


@pytest.mark.parametrize("has_more", [False, True])
def test_its_demote_confirms_what_was_pending(has_more: bool) -> None:
    """ADR 11: what it had committed and not told, and what no quorum held before."""
    mesh = Mesh(3)
    mesh.promote(1)
    told = mesh.write(1, (1, "told"))
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)
    assert mesh.committed(told)
    mesh.isolate(1)
    if has_more:
        alone = mesh.write(1, (2, "alone"))
        mesh.persist(1)
        assert not mesh.committed(alone)
    mesh.crash(1)
    mesh.restart(1)
    assert len(mesh[1].limbo) == 1 and len(mesh.rows(1)) == has_more
    mesh.heal()
    mesh.settle()
    assert isinstance(mesh.outcome(mesh.demote(1)), ev.Demoted)
    assert_unclaimed(mesh, (1, "told"), *([(2, "alone")] if has_more else []))


def test_without_votes_nothing_changes() -> None:
    """[P-11]: asked before the term grows; afterwards it would not be its term any more."""
    mesh = owner_restarted()
    mesh.isolate(1)
    term = mesh[1].raft.volatile_term
    call = mesh.demote(1)
    mesh.run_for(5)
    assert mesh.outcome(call) is None and mesh.reason(mesh.promote(1)) == "IN_ANOTHER_PROMOTE"
    mesh.step(1, ev.CallExpired(call))
    assert mesh.reason(call) == "NO_ELECTION_QUORUM"
    assert mesh[1].raft.volatile_term == term
    mesh.heal()
    mesh.settle()
    assert mesh[1].raft.volatile_term == term, "it is over"
    assert isinstance(mesh.outcome(mesh.demote(1)), ev.Demoted)


def test_a_demote_that_came_before_the_links_waits_for_them() -> None:
    mesh = owner_restarted()
    mesh.isolate(1)
    call = mesh.demote(1)
    assert mesh.outcome(call) is None
    mesh.heal()
    mesh.run_for(2)
    assert isinstance(mesh.outcome(call), ev.Demoted)
    assert_unclaimed(mesh, (1, "old"))


def test_a_demote_that_waits_for_links_ends_when_another_owner_comes() -> None:
    mesh = owner_restarted()
    mesh.isolate(1)
    call = mesh.demote(1)
    assert isinstance(mesh.outcome(mesh.promote(2)), ev.Promoted)
    mesh.heal()
    mesh.run_for(2)
    assert mesh.reason(call) in ("INTERFERING_PROMOTE", "NOT_LEADER")
    assert {mesh[number].limbo.owner_id for number in mesh.members} == {2}


def test_another_owner_or_another_term_refuses() -> None:
    """[P-31]"""
    mesh = owner_restarted()
    assert mesh.reason(mesh.demote(2)) == "NOT_LEADER"
    mesh.step(1, ev.FrameTermSeen(Term(mesh[1].raft.volatile_term + 1)))
    mesh.settle()
    call = mesh.demote(1)
    assert mesh.reason(call) == "NOT_LEADER"
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected) and "Next: synchro promote" in outcome.error.message
    assert isinstance(mesh.outcome(mesh.promote(2)), ev.Promoted)
    assert mesh.reason(mesh.demote(1)) == "NOT_LEADER"


def test_an_owner_switched_to_mode_off_demotes() -> None:
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE)
    mesh.promote(1)
    mesh.write(1, (1, "old"))
    mesh.settle()
    mesh.settings = replace(mesh.settings, election_mode=ElectionMode.OFF)
    for number in mesh.members:
        mesh.step(number, ev.SettingsChanged(mesh.settings))
    mesh.settle()
    assert mesh[1].limbo.state is QueueState.REPLICA
    assert isinstance(mesh.outcome(mesh.demote(1)), ev.Demoted)
    assert_unclaimed(mesh, (1, "old"))


def test_a_restarted_owner_that_is_promoted_again_demotes_too() -> None:
    mesh = owner_restarted()
    assert isinstance(mesh.outcome(mesh.promote(1)), ev.Promoted)
    assert isinstance(mesh.outcome(mesh.demote(1)), ev.Demoted)
    assert isinstance(mesh.outcome(mesh.demote(1)), ev.Demoted), "nobody owns it: nothing to do"
    assert_unclaimed(mesh, (1, "old"))


def test_an_owner_in_amnesia_gives_nothing_away() -> None:
    """S14: it neither votes nor stands, and a DEMOTE needs both."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.write(1, (1, "old"))
    mesh.settle()
    mesh.crash(1)
    mesh.isolate(2)
    mesh.restart(1, trusted=False)
    mesh.settle()
    if not mesh[1].raft.trusted:
        assert mesh.reason(mesh.demote(1)) == "ELECTION_DISABLED"
