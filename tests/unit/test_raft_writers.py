"""Who is elected while nobody owns the queue, and every member may write: Raft.R15, ADR 40."""

from __future__ import annotations

from dataclasses import replace

from synchro.raft.messages import (
    CandidacyResult,
    HealthChanged,
    Membership,
    MembershipChanged,
    Role,
    VclockGrew,
)
from tests.unit.raft_world import DEATH_S, ELECTION_S, Story, asked_candidate, ids, members, vclock


def all_write(*numbers: int, quorum: int | None = None) -> Membership:
    return replace(members(*numbers, quorum=quorum), writers=ids(*numbers))


def elected() -> Story:
    """It has the vote of 2, and 3 has not been heard."""
    story = Story(membership=all_write(1, 2, 3))
    story.stand()
    story.hear(2, vote=1)
    assert story.raft.role is Role.CANDIDATE and story.raft.vote_count == 2
    return story


def test_it_waits_for_the_vote_of_each_healthy_member() -> None:
    """A vote says that its voter writes no more, and that all that it wrote is here [E-15], [E-41]."""
    story = elected()
    story.hear(3, vote=1)
    assert story.raft.is_leader and story.raft.deadline is None


def test_with_an_owner_nobody_else_writes_so_a_quorum_is_enough() -> None:
    story = elected()
    story.step(MembershipChanged(members(1, 2, 3)))
    assert story.raft.is_leader


def test_it_waits_for_two_heartbeats_at_most() -> None:
    story = elected()
    assert story.raft.deadline == story.now + DEATH_S / 2
    story.now += 0.5
    story.hear(2, vote=1)
    assert story.raft.deadline == story.now - 0.5 + DEATH_S / 2
    story.wait_deadline()
    assert story.raft.is_leader


def test_who_cannot_be_heard_is_not_waited_for() -> None:
    story = elected()
    story.step(HealthChanged(ids(2)))
    assert story.raft.is_leader


def test_a_rival_is_waited_for_until_its_rows_are_here() -> None:
    """It votes for itself. The vclock that it shows says what it wrote before this term."""
    story = elected()
    story.hear(3, Role.CANDIDATE, has={3: 5})
    assert story.raft.role is Role.CANDIDATE
    story.step(VclockGrew(vclock({3: 4})))
    assert story.raft.role is Role.CANDIDATE
    story.step(VclockGrew(vclock({3: 5})))
    assert story.raft.is_leader


def test_the_election_does_not_end_before_the_wait() -> None:
    """[P-11]: asked to stand, it has its quorum at the last moment, and leads at the end of its time."""
    story = asked_candidate(membership=all_write(1, 2, 3))
    begun = story.now
    story.now += ELECTION_S - 0.1
    story.hear(2, vote=1)
    assert story.raft.deadline == begun + ELECTION_S
    story.wait_deadline()
    end = story.ended()
    assert story.raft.is_leader and end is not None and end.result is CandidacyResult.WON


def test_a_quorum_that_is_gone_again_leaves_the_election_as_it_was() -> None:
    """Members join while it waits: two votes are not enough any more, and the election ends in its time."""
    story = elected()
    story.step(MembershipChanged(all_write(1, 2, 3, 4, 5, quorum=3)))
    story.step(HealthChanged(ids(2, 3)))
    assert story.raft.deadline is not None and story.raft.deadline > story.now + DEATH_S / 2
    story.wait_deadline()
    assert story.writes() == [(3, 1)]


def test_a_later_term_ends_the_wait() -> None:
    story = elected()
    story.hear(3, term=5)
    story.persist_all()
    assert story.raft.role is not Role.LEADER and story.raft.volatile_term == 5
