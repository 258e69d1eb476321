"""How one `Raft` core wins an election of its own: the timer, the votes, the healthy quorum, the settings."""

from __future__ import annotations

from synchro.config import FencingMode
from synchro.ids import NOBODY, InstanceId, Term
from synchro.raft.messages import (
    HealthChanged,
    MembershipChanged,
    RaftMessage,
    RaftSettings,
    RaftSettingsChanged,
    Role,
    VclockGrew,
)
from tests.unit.raft_world import (
    CANDIDATE,
    DEATH_S,
    ELECTION_S,
    MANUAL,
    OFF,
    SHIFT_S,
    VOTER,
    Story,
    ids,
    members,
    settings,
    vclock,
)

# --- an election of one's own ---------------------------------------------------------------------------


def test_term_and_own_vote_are_one_write() -> None:
    """[E-20], [E-3]: and until it is on disk the instance is a follower without timers [E-2]."""
    story = Story(own={1: 5, 0: 3})
    story.wait_deadline()
    assert story.writes() == [(2, 1)]
    assert story.shown() is None
    assert story.raft.role is Role.FOLLOWER and story.raft.is_write_in_progress
    assert story.raft.deadline is None
    assert story.raft.message().term == 1

    story.persist()
    assert story.shown() == RaftMessage(Term(2), InstanceId(1), Role.CANDIDATE, NOBODY, False, vclock({1: 5}))


def test_a_quorum_of_votes_makes_the_leader() -> None:
    """[E-14], [E-19]: votes are counted by voter, not by message."""
    story = Story(peers=(2, 3, 4, 5), healthy=(2, 3, 4, 5))
    story.stand()
    story.hear(2, vote=1)
    story.hear(2, vote=1)
    assert story.raft.role is Role.CANDIDATE and story.raft.vote_count == 2
    story.hear(3, vote=1)
    assert story.raft.is_leader
    assert story.shown() == RaftMessage(Term(2), InstanceId(1), Role.LEADER, InstanceId(1), True)
    assert story.raft.deadline is None


def test_a_vote_for_somebody_else_does_not_help() -> None:
    story = Story(peers=(2, 3, 4, 5), healthy=(2, 3, 4, 5))
    story.stand()
    story.hear(2, vote=3)
    story.hear(2, vote=1)  # its first vote stands [E-14]
    story.hear(3, vote=3)
    assert story.raft.vote_count == 1


def test_quorum_one_wins_at_once() -> None:
    """[E-20]."""
    story = Story(membership=members(1), healthy=())
    story.wait_deadline()
    story.persist()
    assert story.raft.is_leader


def test_no_election_without_a_healthy_quorum() -> None:
    """[E-20], [L-19]: connected peers are a condition, and it is watched; then one death timeout [E-33]."""
    story = Story(healthy=())
    assert story.raft.deadline is None
    story.now += 50
    story.step(HealthChanged(ids(3)))
    assert story.raft.deadline == story.now + DEATH_S
    story.step(HealthChanged(ids()))
    assert story.raft.deadline is None


def test_unregistered_peers_are_not_healthy_ones() -> None:
    """[E-11]."""
    assert Story(healthy=(7, 8)).raft.healthy_count == 1


def test_an_expelled_instance_neither_stands_nor_leads() -> None:
    story = Story()
    story.step(MembershipChanged(members(2, 3)))
    assert story.raft.deadline is None
    story = Story()
    story.win()
    story.step(MembershipChanged(members(2, 3)))
    assert story.raft.role is Role.FOLLOWER


def test_a_candidate_that_loses_its_peers_is_a_follower_again() -> None:
    """[E-11], [E-20]."""
    story = Story()
    story.stand()
    story.step(HealthChanged(ids()))
    assert story.raft.role is Role.FOLLOWER and story.raft.deadline is None


def test_the_election_timer_has_a_shift_and_starts_the_next_term() -> None:
    """[E-22]: 5 s and up to a tenth of that; a lost request is repeated in a new term."""
    story = Story()
    story.stand()
    assert story.raft.deadline is not None
    assert story.now + ELECTION_S <= story.raft.deadline <= story.now + ELECTION_S + SHIFT_S
    story.wait_deadline()
    assert story.writes() == [(3, 1)]


def test_a_split_vote_shortens_the_wait_once() -> None:
    """[E-23]: 1 and 2 of 2 voted for themselves: nobody can win this term."""
    story = Story(membership=members(1, 2), healthy=(2,))
    story.stand()
    story.hear(2, Role.CANDIDATE)
    split_deadline = story.raft.deadline
    assert split_deadline is not None and split_deadline <= story.now + SHIFT_S
    story.hear(2, Role.CANDIDATE)
    assert story.raft.deadline == split_deadline
    story.wait_deadline()
    assert story.writes() == [(3, 1)]


def test_a_candidate_repeats_its_request_when_it_has_more_rows() -> None:
    """[E-15]: voters that refused it became read-only, so it catches up and must be able to say so."""
    story = Story(own={1: 5})
    story.stand()
    story.step(VclockGrew(vclock({1: 5, 2: 3})))
    shown = story.shown()
    assert shown is not None and shown.vclock == vclock({1: 5, 2: 3})
    assert story.step(VclockGrew(vclock({0: 9, 1: 5, 2: 3}))) == []  # local rows are nobody's business


def test_a_follower_says_nothing_when_it_has_more_rows() -> None:
    assert Story().step(VclockGrew(vclock({1: 5}))) == []


# --- settings -------------------------------------------------------------------------------------------


def test_switching_off_steps_down_and_switching_to_manual_does_not() -> None:
    """[E-9]."""
    for mode, stays in [(OFF, False), (VOTER, False), (MANUAL, True)]:
        story = Story()
        story.win()
        story.step(RaftSettingsChanged(settings(mode)))
        assert story.raft.is_leader == stays


def test_switching_to_candidate_waits_one_death_timeout() -> None:
    """[E-9], [E-21]."""
    story = Story(MANUAL)
    story.now += 60
    story.step(RaftSettingsChanged(settings(CANDIDATE)))
    assert story.raft.deadline == story.now + DEATH_S


def test_a_changed_timeout_is_effective_at_once() -> None:
    """[E-25]."""
    story = Story()
    started_at = story.now
    story.now += 1
    story.step(RaftSettingsChanged(RaftSettings(CANDIDATE, FencingMode.SOFT, ELECTION_S, 2.0)))
    assert story.raft.deadline == started_at + 2.0


def test_a_lower_quorum_makes_a_waiting_candidate_the_leader() -> None:
    """[E-25]."""
    story = Story(membership=members(1, 2, 3, quorum=3))
    story.stand()
    story.hear(2, vote=1)
    assert not story.raft.is_leader
    story.step(MembershipChanged(members(1, 2, 3, quorum=2)))
    assert story.raft.is_leader
