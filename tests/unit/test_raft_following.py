"""How one `Raft` core follows a leader: whose word counts, and when the leader is given up."""

from __future__ import annotations

from synchro.ids import NOBODY, InstanceId, Term
from synchro.raft.messages import (
    LeaderHeard,
    MembershipChanged,
    PeerUnseen,
    RaftMessage,
    ResignRequested,
    Role,
)
from tests.unit.raft_world import DEATH_S, MANUAL, OFF, SHIFT_S, VOTER, Story, follower_of_2, members


def test_only_the_leader_itself_resets_the_death_timer() -> None:
    """[E-21]: neither peers that see it nor anybody else's heartbeats."""
    story = follower_of_2()
    assert story.raft.deadline == story.now + DEATH_S
    story.now += 1
    story.step(LeaderHeard(InstanceId(3)))
    story.hear(3, leader=2, is_leader_seen=True)
    assert story.raft.deadline == story.now - 1 + DEATH_S
    story.step(LeaderHeard(InstanceId(2)))
    assert story.raft.deadline == story.now + DEATH_S and story.raft.leader_last_seen == story.now


def test_a_silent_leader_is_reported_and_replaced() -> None:
    """[E-21], [E-20]: own bit off, said to all, and the election starts when nobody sees it."""
    story = follower_of_2()
    story.wait_deadline()
    shown = story.shown()
    assert shown is not None and not shown.is_leader_seen
    assert story.writes() == [(3, 1)]


def test_a_leader_that_others_see_is_not_disturbed() -> None:
    """[E-20], [L-17]: pre-vote. When the last witness loses it, the wait is a random shift at most."""
    story = follower_of_2()
    story.hear(3, leader=2, is_leader_seen=True)
    story.wait_deadline()
    assert story.writes() == [] and story.raft.deadline is None

    story.hear(3, leader=2, is_leader_seen=False)
    assert story.raft.deadline is not None and story.raft.deadline <= story.now + SHIFT_S
    story.wait_deadline()
    assert story.writes() == [(3, 1)]


def test_the_word_of_a_peer_whose_link_broke_does_not_count() -> None:
    """[E-24]: a dead witness must not block elections for ever."""
    story = follower_of_2()
    story.hear(3, leader=2, is_leader_seen=True)
    story.wait_deadline()
    story.step(PeerUnseen(InstanceId(3)))
    assert story.raft.deadline is not None


def test_an_expelled_witness_does_not_count() -> None:
    story = follower_of_2()
    story.hear(3, leader=2, is_leader_seen=True)
    story.wait_deadline()
    story.step(MembershipChanged(members(1, 2)))
    assert story.raft.deadline is not None


def test_a_leader_heard_again_is_seen_again() -> None:
    """[E-21]: while no election started."""
    story = follower_of_2()
    story.hear(3, leader=2, is_leader_seen=True)
    story.wait_deadline()
    story.step(LeaderHeard(InstanceId(2)))
    shown = story.shown()
    assert shown is not None and shown.is_leader_seen
    assert story.raft.deadline == story.now + DEATH_S


def test_the_own_bit_goes_off_in_every_mode() -> None:
    """[L-17]: instance 1 never stands, but its stale word would keep the others from it."""
    for mode in (OFF, VOTER, MANUAL):
        story = follower_of_2(mode)
        assert story.raft.message().is_leader_seen
        story.wait_deadline()
        shown = story.shown()
        assert shown is not None and not shown.is_leader_seen
        assert story.writes() == []


def test_the_leader_of_a_term_is_shown_once_the_term_is_on_disk() -> None:
    """[E-2]: shown with the old term, it would look like a second leader there."""
    story = Story(VOTER)
    story.hear(2, Role.LEADER, term=5)
    assert story.raft.leader == 2 and story.shown() is None
    assert story.raft.message() == RaftMessage(Term(1), NOBODY, Role.FOLLOWER, NOBODY, False)
    story.persist()
    assert story.shown() == RaftMessage(Term(5), NOBODY, Role.FOLLOWER, InstanceId(2), True)
    assert story.raft.deadline == story.now + DEATH_S


def test_heartbeats_during_a_slow_write_count() -> None:
    """[E-2], [E-21]: the timer stops during the write and goes on from the last sign of life."""
    story = Story(VOTER)
    story.hear(2, Role.LEADER, term=5)
    story.now += 3
    story.step(LeaderHeard(InstanceId(2)))
    assert story.raft.deadline is None
    story.now += 2
    story.persist()
    assert story.raft.is_leader_seen and story.raft.deadline == story.now - 2 + DEATH_S


def test_a_candidate_follows_the_winner_of_its_term() -> None:
    """[E-17]."""
    story = Story()
    story.stand()
    story.hear(3, Role.LEADER)
    assert story.raft.role is Role.FOLLOWER and story.raft.leader == 3


def test_two_leaders_in_a_term_are_counted_and_the_first_is_kept() -> None:
    """[E-17]: impossible with a majority quorum."""
    story = follower_of_2()
    story.hear(3, Role.LEADER)
    assert story.raft.leader == 2 and story.raft.conflicting_leader_seen == 1
    story = Story()
    story.win()
    story.hear(3, Role.LEADER)
    assert story.raft.is_leader and story.raft.conflicting_leader_seen == 1


def test_of_two_leaders_in_a_term_one_follows_and_the_other_begins_a_new_term() -> None:
    """ADR 15: where the quorum is no majority. Nobody hears of a resignation, so nobody stands."""
    story = Story(peers=(2,), healthy=(2,), membership=members(1, 2, quorum=1))
    story.wait_deadline()
    story.persist()
    assert story.raft.is_leader
    story.hear(2, Role.LEADER)
    assert story.writes() == [(3, 1)] and story.shown() is None
    story.persist()
    assert story.raft.is_leader and story.raft.term == 3 and story.raft.conflicting_leader_seen == 1


def test_who_followed_the_leader_that_gave_way_waits_for_the_other() -> None:
    """ADR 15: 3 led term 2 too, and follows 2 now: that is no resignation [E-18]."""
    story = Story(term=2, membership=members(1, 2, 3, quorum=1))
    story.hear(3, Role.LEADER)
    story.hear(3, vote=3, leader=2, is_leader_seen=True)
    assert story.writes() == [] and story.raft.leader == NOBODY
    story.hear(2, Role.LEADER)
    assert story.raft.leader == 2

    story = Story(term=2, membership=members(1, 2, 3, quorum=1))
    story.hear(3, Role.LEADER)
    story.hear(2, Role.LEADER)
    assert story.raft.leader == 2, "the lower id is the one that stays"
    story.hear(3, Role.LEADER)
    assert story.raft.leader == 2 and story.raft.volatile_term == 2


def test_after_a_resignation_candidates_stand_at_once() -> None:
    """[E-18]: no pre-vote, no timeout."""
    story = follower_of_2()
    story.hear(3, leader=2, is_leader_seen=True)
    story.hear(2, vote=2)
    assert story.writes() == [(3, 1)]
    story = follower_of_2(VOTER)
    story.hear(2, vote=2)
    assert story.raft.leader == NOBODY and story.writes() == [] and story.raft.deadline is None


def test_an_old_request_of_the_leader_is_no_resignation() -> None:
    """[E-18]: messages may be reordered, and no leader becomes a candidate in its own term."""
    story = follower_of_2()
    story.hear(2, Role.CANDIDATE)
    assert story.raft.leader == 2


def test_a_leader_ignores_who_sees_another() -> None:
    """[E-13]: the bits it hears are about itself."""
    story = Story()
    story.win()
    story.hear(3, is_leader_seen=True, leader=1)
    story.step(ResignRequested())
    assert story.raft.deadline is not None  # nothing blocks the next election
