"""How one `Raft` core leaves leadership: a higher term, fencing, a resignation that was asked for."""

from __future__ import annotations

from synchro.config import FencingMode
from synchro.ids import NOBODY, Term
from synchro.raft.messages import (
    HealthChanged,
    MembershipChanged,
    RaftSettingsChanged,
    ResignRequested,
    Role,
    TermSeen,
)
from tests.unit.raft_world import DEATH_S, SHIFT_S, Story, follower_of_2, ids, members, settings


def test_a_higher_term_deposes_the_leader_before_it_is_persisted() -> None:
    """[E-12], [L-5]: by a message, or by the term of an ack, in the same step."""
    for event in (TermSeen(Term(9)), None):
        story = Story()
        story.win()
        if event is not None:
            story.step(event)
        else:
            story.hear(3, term=9)
        assert story.raft.role is Role.FOLLOWER and story.raft.volatile_term == 9
        shown = story.shown()
        assert shown is not None and (shown.term, shown.role, shown.leader) == (2, Role.FOLLOWER, NOBODY)


def test_a_leader_without_a_healthy_quorum_resigns_in_its_term() -> None:
    """[E-30]: soft and strict alike; what strict halves are the timeouts of links."""
    for fencing in (FencingMode.SOFT, FencingMode.STRICT):
        story = Story(fencing=fencing)
        story.win()
        story.step(HealthChanged(ids()))
        assert story.raft.role is Role.FOLLOWER and story.raft.term == 2 and story.raft.leader == NOBODY
        shown = story.shown()
        assert shown is not None and shown.role is Role.FOLLOWER and not shown.is_leader_seen

        story.now += 30
        story.step(HealthChanged(ids(2)))  # [E-33]
        assert story.raft.deadline == story.now + DEATH_S
        story.wait_deadline()
        assert story.writes() == [(3, 1)]


def test_fencing_off_keeps_the_leader() -> None:
    """[E-30]."""
    story = Story(fencing=FencingMode.OFF)
    story.win()
    story.step(HealthChanged(ids()))
    assert story.raft.is_leader


def test_fencing_waits_for_a_newcomer_to_connect() -> None:
    """[E-32]: the fourth instance raises the quorum to 3 while only 1 and 2 are connected."""
    story = Story(healthy=(2,))
    story.win()
    story.step(MembershipChanged(members(1, 2, 3, 4)))
    assert story.raft.is_leader
    story.step(HealthChanged(ids(2, 4)))
    assert story.raft.is_leader
    story.step(HealthChanged(ids(2)))  # the quorum was reached meanwhile: fencing works again
    assert not story.raft.is_leader


def test_fencing_waits_for_the_newcomer_alone() -> None:
    """[E-32], [E-30]: who is cut off from those that it had before resigns, whoever was about to join."""
    story = Story(healthy=(2,))
    story.win()
    story.step(MembershipChanged(members(1, 2, 3, 4)))
    story.step(HealthChanged(ids(3)))  # another one in its place is as good
    assert story.raft.is_leader
    story.step(MembershipChanged(members(1, 2, 3, 4, 5)))
    assert story.raft.is_leader
    story.step(HealthChanged(ids()))
    assert not story.raft.is_leader


def test_a_quorum_raised_by_hand_fences_at_once() -> None:
    """[E-25], [E-30]: nobody is about to connect."""
    story = Story(healthy=(2,))
    story.win()
    story.step(MembershipChanged(members(1, 2, 3, quorum=3)))
    assert not story.raft.is_leader


def test_fencing_and_a_quorum_that_change_at_once_hold_together() -> None:
    """[E-25], [E-30]: the old quorum with the new fencing, or the reverse, would depose this leader."""
    lowered = Story(fencing=FencingMode.OFF)
    lowered.win()
    lowered.step(HealthChanged(ids()))
    lowered.step(RaftSettingsChanged(settings(fencing=FencingMode.SOFT), quorum=1))
    assert lowered.raft.is_leader

    raised = Story(fencing=FencingMode.SOFT)
    raised.win()
    raised.step(HealthChanged(ids(2)))
    raised.step(RaftSettingsChanged(settings(fencing=FencingMode.OFF), quorum=3))
    assert raised.raft.is_leader


def test_demote_does_not_lead_to_re_election_at_once() -> None:
    """[P-30], [L-16]: the others have a death timeout; a new term in between does not tempt it [E-16]."""
    story = Story()
    story.win()
    story.step(ResignRequested(stand_again=False))
    assert story.raft.role is Role.FOLLOWER and story.raft.term == 2
    assert story.raft.deadline == story.now + DEATH_S
    story.step(TermSeen(Term(3)))
    story.persist()
    assert story.raft.volatile_vote == NOBODY
    assert story.raft.deadline == story.now + DEATH_S
    story.hear(2, Role.CANDIDATE)  # and it votes
    assert story.writes() == [(3, 2)]


def test_an_ordinary_resignation_may_be_followed_by_a_candidacy() -> None:
    """[E-31]."""
    story = Story()
    story.win()
    story.step(ResignRequested())
    assert story.raft.deadline is not None and story.raft.deadline <= story.now + SHIFT_S


def test_a_follower_has_nothing_to_resign() -> None:
    """[P-30]."""
    story = follower_of_2()
    assert story.step(ResignRequested()) == []
    assert story.raft.leader == 2


def test_a_candidate_gives_up_on_request() -> None:
    """A disk that does not answer: neither leader nor candidate may go on."""
    story = Story()
    story.stand()
    story.step(ResignRequested(stand_again=False))
    assert story.raft.role is Role.FOLLOWER
