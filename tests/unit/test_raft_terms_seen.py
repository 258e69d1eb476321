"""What one `Raft` core does in a term that it heard of without hearing who began it (Raft.R10)."""

from __future__ import annotations

from typing import Any

import pytest

from synchro.ids import NOBODY, Term
from synchro.raft.messages import CandidacyRequested, HealthChanged, Role, TermSeen
from tests.unit.raft_world import DEATH_S, ELECTION_S, SHIFT_S, Story, follower_of_2, ids, members


def saw_a_term(**kwargs: Any) -> Story:
    """Term 5 came with an ack: who began it is not known; the term is on disk."""
    story = follower_of_2(own={1: 5}, **kwargs)
    story.step(TermSeen(Term(5)))
    story.persist()
    assert story.writes() == [] and story.raft.vote == NOBODY
    return story


def test_in_a_term_seen_without_a_role_it_votes_and_does_not_stand() -> None:
    """Raft.R10: the candidate's own message is on its way; a vote for oneself would be lost to it."""
    story = saw_a_term()
    story.hear(3, Role.CANDIDATE, has={1: 5})
    assert story.writes() == [(5, 3)]
    story.persist()
    assert story.raft.deadline == pytest.approx(story.now + ELECTION_S, abs=SHIFT_S)


def test_in_a_term_seen_without_a_role_it_follows_the_leader() -> None:
    """Raft.R10: the term was won already; with a quorum of 1 a vote for oneself would make a second
    leader."""
    story = saw_a_term(membership=members(1, 2, 3, quorum=1))
    story.hear(3, Role.LEADER)
    assert story.raft.leader == 3 and story.raft.volatile_term == 5


def test_it_stands_one_death_timeout_after_the_first_term_seen_without_a_role() -> None:
    """Raft.R10: later ones do not begin the wait anew, or one who cannot win keeps the good one from
    standing."""
    story = saw_a_term()
    began = story.now
    for term in (6, 7, 8):
        story.now += 1
        story.step(TermSeen(Term(term)))
        story.persist()
        assert story.raft.deadline == began + DEATH_S
    story.wait_deadline()
    assert story.now == began + DEATH_S
    assert story.writes() == [(9, 1)]


def test_the_wait_that_is_over_does_not_come_back_with_the_next_term() -> None:
    """Raft.R10: later terms do not begin the wait anew; the one whose messages do not come goes on."""
    story = saw_a_term()
    story.wait_deadline()
    story.step(TermSeen(Term(7)))
    story.persist_all()
    assert story.raft.term == 7 and story.raft.role is Role.CANDIDATE


def test_it_stands_when_a_candidate_of_that_term_is_refused() -> None:
    """[E-16], Raft.R10: unless it may still get the rows that it lacks (Raft.R13)."""
    story = saw_a_term()
    story.step(HealthChanged(ids(2)))
    assert story.writes() == []
    story.hear(3, Role.CANDIDATE, has={})
    assert story.writes() == [(5, 1)]


def test_it_stands_when_all_healthy_peers_have_shown_their_role() -> None:
    """Raft.R10: whoever began the term, nobody stands in it now. Who is not healthy is not waited for."""
    story = saw_a_term()
    story.hear(2)
    assert story.writes() == []
    story.hear(3)
    assert story.writes() == [(5, 1)]

    story = saw_a_term()
    story.hear(2)
    story.step(HealthChanged(ids(2)))
    assert story.writes() == [(5, 1)]


def test_where_no_peer_is_healthy_the_silence_says_nothing() -> None:
    """Raft.R10, quorum 1: an ack came, and nothing can be heard yet of the one who leads."""
    story = saw_a_term(membership=members(1, 2, quorum=1), peers=(2,))
    story.step(HealthChanged(ids()))
    assert story.writes() == []
    story.step(HealthChanged(ids(2)))
    story.hear(2, Role.LEADER)
    assert story.raft.leader == 2 and story.raft.volatile_term == 5


def test_a_term_told_by_a_follower_is_one_without_a_role() -> None:
    """Raft.R10: 2 adopted term 5 from 3, and its word is here first."""
    story = follower_of_2()
    story.hear(2, term=5)
    story.persist()
    assert story.writes() == []
    story.hear(3, Role.CANDIDATE)
    assert story.writes() == [(5, 3)]


def test_after_the_leader_of_that_term_resigned_it_stands_in_the_next_one() -> None:
    """[E-18], Raft.R10; also if only its resignation is heard, and the votes that it had."""
    story = saw_a_term()
    story.hear(3, Role.LEADER)
    story.hear(3, vote=3)
    assert story.writes() == [(6, 1)]

    story = saw_a_term()
    story.hear(2, vote=3)
    story.hear(3, vote=3)
    assert story.writes() == [(6, 1)]


def test_a_term_that_another_may_have_won_is_left_to_it() -> None:
    """Raft.R10: 2 is refused here, and has the votes of 2 and 3 for all we know: no second election, not
    after the wait of Raft.R13 either."""
    story = saw_a_term()
    story.hear(3, vote=2)
    story.hear(2, Role.CANDIDATE, has={})
    assert story.writes() == []
    story.wait_deadline()
    assert story.writes() == []
    assert story.raft.deadline == pytest.approx(story.now + ELECTION_S, abs=SHIFT_S)
    story.hear(2, Role.LEADER)
    assert story.raft.leader == 2 and story.raft.volatile_term == 5

    story = saw_a_term()
    story.hear(3, vote=2)
    story.hear(2, Role.CANDIDATE, has={})
    story.wait_deadline()
    story.wait_deadline()
    assert story.writes() == [(6, 1)]


def test_below_a_majority_it_stands_in_a_term_that_nobody_can_lead() -> None:
    """With quorum 1 the one who began term 5 may lead it, whoever has shown no role."""
    story = saw_a_term(membership=members(1, 2, 3, quorum=1))
    story.hear(2)
    story.hear(3)
    assert story.writes() == [(6, 1)]


def test_promote_does_not_wait_for_a_role() -> None:
    """Raft.R10, [P-11]."""
    story = saw_a_term()
    story.step(CandidacyRequested())
    assert story.writes() == [(6, 1)]
    story.persist()
    assert story.raft.role is Role.CANDIDATE


def test_it_does_not_stand_in_a_term_whose_leader_a_peer_sees() -> None:
    """[E-16], [E-20]: instance 3 follows the leader of term 5; we shall hear of it too."""
    story = follower_of_2()
    story.hear(3, term=5, vote=2, leader=2, is_leader_seen=True)
    story.persist()
    assert story.writes() == []
