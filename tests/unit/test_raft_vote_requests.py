"""How one `Raft` core answers those who ask for its vote, and which messages it does not listen to."""

from __future__ import annotations

import pytest

from synchro.errors import RemoteProtocolError
from synchro.ids import NOBODY, Term
from synchro.raft.messages import HealthChanged, Role, TermSeen
from synchro.raft.timer import CATCH_UP
from tests.unit.raft_world import DEATH_S, ELECTION_S, VOTER, Story, follower_of_2, ids


def test_term_and_a_vote_for_another_are_two_writes() -> None:
    """[E-15], [L-6]: and nothing of it is shown before it is on disk [E-2]."""
    story = Story(VOTER, own={2: 4})
    story.hear(2, Role.CANDIDATE, term=2, has={2: 4})
    assert story.writes() == [(2, 0)] and story.shown() is None
    story.persist()
    assert story.writes() == [(2, 2)]
    shown = story.shown()
    assert shown is not None and (shown.term, shown.vote) == (2, 0)
    story.persist()
    shown = story.shown()
    assert shown is not None and (shown.term, shown.vote) == (2, 2)


def test_rows_written_before_the_term_revoke_the_vote() -> None:
    """[L-6]: the write of the term flushed row 5 of the old leader, which the candidate does not have."""
    story = Story(VOTER, own={3: 4})
    story.hear(2, Role.CANDIDATE, term=2, has={3: 4})
    story.persist(then_has={3: 5})
    assert story.writes() == [] and story.raft.volatile_vote == NOBODY

    story.hear(2, Role.CANDIDATE, has={3: 5})  # it caught up and repeats its request
    assert story.writes() == [(2, 2)]


def test_a_candidate_behind_or_concurrent_gets_no_vote() -> None:
    """[E-15]: every component must be there; the local one does not count."""
    for has, granted in [
        ({1: 5, 2: 3}, True),
        ({1: 6, 2: 9, 3: 1}, True),
        ({1: 4, 2: 9}, False),
        ({1: 5}, False),
    ]:
        story = Story(VOTER, term=2, own={0: 77, 1: 5, 2: 3})
        story.hear(2, Role.CANDIDATE, has=has)
        assert story.writes() == ([(2, 2)] if granted else [])


def test_one_vote_a_term() -> None:
    """[E-15], [E-52]: the second candidate comes too late; a restart does not help it."""
    story = Story(VOTER, term=2)
    story.hear(2, Role.CANDIDATE)
    story.persist()
    story.hear(3, Role.CANDIDATE)
    assert story.writes() == [] and story.raft.vote == 2

    restarted = Story(VOTER, term=2, vote=2)
    restarted.hear(3, Role.CANDIDATE)
    assert restarted.writes() == []


def test_no_vote_while_the_leader_of_the_term_is_known() -> None:
    """[E-15]."""
    story = follower_of_2(VOTER)
    story.hear(3, Role.CANDIDATE)
    assert story.writes() == []


def test_the_vote_is_revoked_when_a_leader_shows_up_during_the_write() -> None:
    """[E-15]."""
    story = Story(VOTER)
    story.hear(2, Role.CANDIDATE, term=2)
    story.hear(3, Role.LEADER, term=2)
    story.persist()
    assert story.writes() == [] and story.raft.leader == 3


def test_a_candidate_heard_during_the_write_of_the_term_gets_the_vote_after_it() -> None:
    """[E-2]: one write at a time; what changes meanwhile goes into the next."""
    story = Story(VOTER)
    story.step(TermSeen(Term(3)))
    assert story.writes() == [(3, 0)]
    story.hear(2, Role.CANDIDATE)
    assert story.writes() == []
    story.persist()
    assert story.writes() == [(3, 2)]


def test_changes_during_a_write_are_coalesced() -> None:
    """[E-2]: terms 3, 4 and 7 pass while term 2 is on its way; only 7 is written."""
    story = Story(VOTER)
    for term in (2, 3, 4, 7):
        story.step(TermSeen(Term(term)))
    assert story.raft.volatile_term == 7
    story.persist()
    assert story.writes() == [(7, 0)]


def test_who_can_stand_and_refuses_a_candidate_stands_in_the_new_term() -> None:
    """[E-16]: the term is there anyway; who is refused and gets no more rows is no better than nobody."""
    story = follower_of_2(own={1: 5})
    story.step(HealthChanged(ids(2)))
    story.hear(3, Role.CANDIDATE, term=5, has={})
    assert story.writes() == [(5, 0)]
    story.persist()
    assert story.writes() == [(5, 1)]
    story.persist()
    assert story.raft.role is Role.CANDIDATE and story.raft.term == 5


def refused_3() -> Story:
    """1 has a row that the healthy candidate 3 of term 5 lacks."""
    story = follower_of_2(own={1: 5})
    story.hear(3, Role.CANDIDATE, term=5, has={})
    story.persist()
    assert story.writes() == [] and story.raft.role is Role.FOLLOWER
    return story


def test_a_refused_candidate_that_gets_the_rows_in_time_gets_the_vote() -> None:
    """Raft.R13, ADR 40: it asks again with each row [E-15]. Else the loser of a promote under load would be
    the one who was asked to lead."""
    story = refused_3()
    story.hear(3, Role.CANDIDATE, term=5, has={1: 4})
    assert story.writes() == []
    story.hear(3, Role.CANDIDATE, term=5, has={1: 5})
    assert story.writes() == [(5, 3)]


def test_a_refused_candidate_is_waited_for_two_heartbeats() -> None:
    """Raft.R13: then the one that refused it stands, in the term that is there."""
    story = refused_3()
    assert story.raft.deadline == story.now + DEATH_S * CATCH_UP
    story.wait_deadline()
    assert story.writes() == [(5, 1)]


def test_a_refused_candidate_that_raises_the_term_is_not_waited_for_again() -> None:
    """Raft.R13: the wait is counted from the first refusal, until a leader is known."""
    story = refused_3()
    until = story.raft.deadline
    story.now += DEATH_S * CATCH_UP / 2
    story.hear(3, Role.CANDIDATE, term=6, has={})
    story.persist()
    assert story.writes() == [] and story.raft.deadline == until
    story.wait_deadline()
    story.persist()
    story.hear(3, Role.CANDIDATE, term=7, has={})
    story.persist()
    assert story.writes() == [(7, 1)]
    story.persist()
    story.hear(2, Role.LEADER, term=8)  # known again: the next wait is a new one
    story.persist()
    story.hear(3, Role.CANDIDATE, term=9, has={})
    story.persist()
    assert story.writes() == []


def test_a_refused_candidate_that_is_gone_is_not_waited_for_longer_than_the_wait() -> None:
    story = refused_3()
    story.step(HealthChanged(ids(2)))
    story.wait_deadline()
    assert story.writes() == [(5, 1)]


def test_who_voted_for_another_waits_for_the_end_of_the_election() -> None:
    """[E-22]: and stands then, if nobody won."""
    story = Story(term=2)
    story.hear(2, Role.CANDIDATE)
    story.persist()
    assert story.raft.deadline is not None and story.raft.deadline >= story.now + ELECTION_S
    story.wait_deadline()
    assert story.writes() == [(3, 1)]


def test_old_messages_are_ignored_and_counted() -> None:
    """[E-12]."""
    story = Story(VOTER, term=5)
    assert story.hear(2, Role.LEADER, term=4) == []
    assert story.raft.leader == NOBODY and story.raft.outdated_messages == 1


def test_a_broken_message_is_refused_before_anything_changes() -> None:
    """[E-4]."""
    story = Story()
    with pytest.raises(RemoteProtocolError):
        story.hear(2, Role.CANDIDATE, vote=3, term=9)
    assert story.raft.volatile_term == 1


def test_anonymous_instances_and_echoes_have_no_say() -> None:
    """[L-9]."""
    story = Story()
    assert story.hear(0, term=9) == []
    assert story.hear(1, term=9) == []
