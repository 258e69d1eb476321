"""How one `Raft` core begins: its first start, a restart, and what an instance that may have forgotten rows
leaves to others."""

from __future__ import annotations

from synchro.errors import ElectionDisabled
from synchro.ids import NOBODY, Term
from synchro.raft.messages import RaftStarted, Role, TermSeen, TrustChanged
from synchro.vclock import EMPTY_VCLOCK
from tests.unit.raft_world import DEATH_S, MANUAL, OFF, VOTER, Story, asked_candidate

# --- start ----------------------------------------------------------------------------------------------


def test_before_the_start_it_is_quiet_but_keeps_terms() -> None:
    """[E-5]: no write, no message, no timer until recovery is over; the term heard is not forgotten."""
    story = Story(started=False)
    assert story.hear(2, Role.CANDIDATE, term=4) == []
    assert story.step(TermSeen(Term(6))) == []
    assert story.raft.volatile_term == 6 and story.raft.term == 1  # [E-1]
    assert story.raft.deadline is None
    assert not story.raft.message().is_leader_seen

    story.step(RaftStarted())
    assert story.writes() == [(6, 0)]


def test_a_leader_heard_before_the_start_is_followed_from_the_start() -> None:
    """[E-5], [E-21]: it says so only once, when the link is made; forgetting it would cost an election."""
    story = Story(started=False)
    story.hear(2, Role.LEADER, term=1)
    story.step(RaftStarted())
    assert story.raft.leader == 2 and story.raft.is_leader_seen


def test_an_old_message_does_not_take_a_newer_one_from_its_place() -> None:
    """[E-12], [E-15]: a slow stream brings what the candidate said a term ago; its request stays."""
    story = Story(VOTER, term=5, started=False)
    story.hear(2, Role.CANDIDATE, term=5)
    story.hear(2, Role.FOLLOWER, term=4)
    story.step(RaftStarted())
    assert story.writes() == [(5, 2)]


def test_after_the_start_it_waits_one_death_timeout() -> None:
    """[E-21]: a leader may well be there; also when a term was learned meanwhile [E-16]."""
    story = Story()
    assert story.raft.deadline == 100.0 + DEATH_S
    story = Story(started=False)
    story.step(TermSeen(Term(3)))
    story.step(RaftStarted())
    story.persist()
    assert story.raft.vote == NOBODY
    assert story.raft.deadline == 100.0 + DEATH_S


def test_a_second_start_changes_nothing() -> None:
    story = Story()
    assert story.step(RaftStarted()) == []


def test_only_mode_candidate_stands_by_itself() -> None:
    """[E-9], [E-20]."""
    for mode in (OFF, VOTER, MANUAL):
        assert Story(mode).raft.deadline is None


# --- amnesia --------------------------------------------------------------------------------------------


def test_an_instance_that_may_have_forgotten_rows_neither_votes_nor_stands() -> None:
    """S14: its vote could elect a leader without rows that it once acked. It keeps terms."""
    story = Story(trusted=False)
    assert story.raft.deadline is None
    story.hear(2, Role.CANDIDATE, term=2)
    story.persist()
    assert story.writes() == [] and (story.raft.term, story.raft.vote) == (2, NOBODY)

    story.step(TrustChanged(True))  # the request is still there, but so may be a forgotten vote (Raft.R9)
    assert story.writes() == []
    assert story.raft.may_have_forgotten_vote
    story.hear(2, Role.CANDIDATE, term=3)
    story.persist()
    assert story.writes()[-1] == (3, 2)
    assert not story.raft.may_have_forgotten_vote


def test_a_leader_that_loses_trust_resigns() -> None:
    """S14."""
    story = Story()
    story.win()
    story.step(TrustChanged(False))
    assert story.raft.role is Role.FOLLOWER
    story = asked_candidate()
    story.step(TrustChanged(False))
    assert isinstance(story.error(), ElectionDisabled) and story.raft.role is Role.FOLLOWER


# --- a restart ------------------------------------------------------------------------------------------


def test_a_restarted_leader_is_not_a_leader() -> None:
    """[E-2]: role and leader are not persisted; the votes of its term do not bring it back."""
    story = Story(term=2, vote=1)
    story.hear(2, vote=1)
    story.hear(3, vote=1)
    assert story.raft.role is Role.FOLLOWER
    story.wait_deadline()
    assert story.writes() == [(3, 1)]


def test_a_clock_without_rows_is_covered_by_any() -> None:
    """[E-15]: a fresh instance votes."""
    story = Story(VOTER, own={})
    story.hear(2, Role.CANDIDATE, vclock=EMPTY_VCLOCK, term=2)
    story.persist()
    assert story.writes() == [(2, 2)]
