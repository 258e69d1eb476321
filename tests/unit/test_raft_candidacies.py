"""Candidacies of one `Raft` core that somebody asks for: promote, and demote where elections are off."""

from __future__ import annotations

import pytest

from synchro.config import ElectionMode
from synchro.errors import (
    ElectionDisabled,
    InAnotherPromote,
    InterferingPromote,
    Loading,
    NoElectionQuorum,
    OldTerm,
    TimedOut,
    Unsupported,
)
from synchro.ids import Term
from synchro.raft.messages import (
    BroadcastRaft,
    CandidacyEnded,
    CandidacyRequested,
    CandidacyResult,
    HealthChanged,
    RaftSettingsChanged,
    ResignRequested,
    Role,
    TermBumpRequested,
    TermSeen,
    VclockGrew,
)
from tests.unit.raft_world import (
    CANDIDATE,
    ELECTION_S,
    MANUAL,
    OFF,
    SHIFT_S,
    VOTER,
    Story,
    asked_candidate,
    follower_of_2,
    ids,
    members,
    settings,
    vclock,
)

# --- promote --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [OFF, MANUAL, CANDIDATE])
def test_promote_is_an_election_in_every_mode(mode: ElectionMode) -> None:
    """[P-11], [P-22]; mode off collects the votes of a quorum too (ADR 6, [P-24])."""
    story = follower_of_2(mode)
    story.step(CandidacyRequested())
    assert story.writes() == [(3, 1)]
    story.persist()
    assert story.raft.role is Role.CANDIDATE and story.ended() is None
    story.hear(3, vote=1)
    assert story.ended() == CandidacyEnded(CandidacyResult.WON)
    assert story.raft.is_leader and story.raft.deadline is None


def test_mode_off_has_no_fencing() -> None:
    """[E-9]."""
    story = Story(OFF)
    story.step(CandidacyRequested())
    story.persist()
    story.hear(3, vote=1)
    story.step(HealthChanged(ids()))
    assert story.raft.is_leader


def test_a_promoted_leader_in_manual_mode_leads_one_term() -> None:
    """[P-22]: later terms find it a follower."""
    story = Story(MANUAL)
    story.step(CandidacyRequested())
    story.persist()
    story.hear(3, vote=1)
    story.step(TermSeen(Term(8)))
    story.persist()
    assert story.raft.role is Role.FOLLOWER and story.raft.deadline is None


def test_promote_of_the_leader_is_won_at_once() -> None:
    """[P-10]."""
    story = Story()
    story.win()
    story.step(CandidacyRequested())
    assert story.effects == [CandidacyEnded(CandidacyResult.WON)]


def test_promote_that_cannot_be_won_changes_no_term() -> None:
    """[P-10], [P-11]: a new term would make everybody read-only [E-41]."""
    for story, error, text in [
        (Story(VOTER), Unsupported, "election_mode='voter' does not support manual elections"),
        (Story(started=False), Loading, "starting"),
        (Story(MANUAL, trusted=False), ElectionDisabled, "not known to be complete"),
        (Story(MANUAL, healthy=()), NoElectionQuorum, "start elections: 1 out of minimal required 2"),
    ]:
        story.step(CandidacyRequested())
        assert isinstance(story.error(), error) and text in str(story.error())
        assert story.raft.volatile_term == 1


def test_a_second_promote_is_refused_and_the_first_goes_on() -> None:
    """[P-11], [L-8]."""
    story = Story(MANUAL)
    story.step(CandidacyRequested())
    story.step(CandidacyRequested())
    assert isinstance(story.error(), InAnotherPromote)
    story.persist()
    story.hear(2, vote=1)
    assert story.ended() == CandidacyEnded(CandidacyResult.WON)


def test_promote_loses_to_the_leader_of_its_term() -> None:
    """[P-11]."""
    story = asked_candidate()
    story.hear(3, Role.LEADER)
    assert isinstance(story.error(), InterferingPromote)
    assert str(story.error()) == "Instance with replica id 3 was promoted first"


def test_without_elections_the_leader_of_its_term_may_be_one_that_is_demoted() -> None:
    """[P-31]: a demote begins a term as a promote does."""
    story = asked_candidate(OFF)
    story.hear(3, Role.LEADER)
    assert str(story.error()).endswith("was promoted first, or is giving the queue away by a demote")


def test_promote_loses_to_a_higher_term() -> None:
    """[P-11], [E-12]: it stood for one term only."""
    story = asked_candidate()
    story.step(TermSeen(Term(6)))
    assert isinstance(story.error(), OldTerm)
    assert str(story.error()) == "The term is outdated: old - 2, new - 6"


def test_promote_ends_when_the_peers_are_gone() -> None:
    """[P-11]."""
    story = asked_candidate()
    story.step(HealthChanged(ids()))
    assert isinstance(story.error(), NoElectionQuorum)
    assert "term 2 was begun for it" in str(story.error())
    assert story.raft.role is Role.FOLLOWER


def test_promote_ends_when_elections_are_turned_off() -> None:
    """[P-11]."""
    story = asked_candidate()
    story.step(RaftSettingsChanged(settings(VOTER)))
    assert isinstance(story.error(), ElectionDisabled)
    assert story.raft.role is Role.FOLLOWER


@pytest.mark.parametrize("mode", [OFF, MANUAL, CANDIDATE])
def test_promote_ends_after_the_election_timeout(mode: ElectionMode) -> None:
    """[P-11]: then the role is the configured one again."""
    story = asked_candidate(mode)
    assert story.raft.deadline == story.now + ELECTION_S
    story.wait_deadline()
    assert isinstance(story.error(), TimedOut)
    assert story.raft.role is (Role.CANDIDATE if mode is CANDIDATE else Role.FOLLOWER)
    story.step(VclockGrew(vclock({1: 9})))
    assert story.ended() is None


def test_promote_ends_after_the_election_timeout_even_without_a_disk() -> None:
    """[P-11], [L-8]: never hangs; what is written later does not stand."""
    story = Story(MANUAL)
    story.step(CandidacyRequested())
    story.wait_deadline()
    assert isinstance(story.error(), TimedOut)
    story.persist()
    assert story.raft.role is Role.FOLLOWER and story.raft.deadline is None


def test_promote_gives_up_after_a_split_vote() -> None:
    """[E-22], [E-23]: who stands for one term does not wait for the next."""
    story = asked_candidate(membership=members(1, 2), healthy=(2,))
    story.hear(2, Role.CANDIDATE)
    story.wait_deadline()
    assert isinstance(story.error(), TimedOut) and story.now <= 100 + SHIFT_S
    assert story.raft.role is Role.FOLLOWER and story.writes() == []


def test_promote_during_a_write_waits_for_its_turn() -> None:
    """[E-2]: the term on its way is finished first, the candidacy is in the next one."""
    story = Story(MANUAL)
    story.step(TermSeen(Term(4)))
    story.step(CandidacyRequested())
    assert story.writes() == []
    story.persist()
    assert story.writes() == [(5, 1)]
    story.persist()
    assert story.raft.role is Role.CANDIDATE


def test_promote_ends_the_hold_of_a_demote() -> None:
    """[P-30]: who is asked to stand stands."""
    story = Story()
    story.win()
    story.step(ResignRequested(stand_again=False))
    story.step(CandidacyRequested())
    assert story.writes() == [(3, 1)]


# --- demote with elections off --------------------------------------------------------------------------


def owner_in_mode_off() -> Story:
    story = asked_candidate(OFF)
    story.hear(2, vote=1)
    assert story.raft.is_leader
    return story


def test_demote_takes_the_next_term_without_a_word_of_resignation() -> None:
    """[P-31]: peers hear of a candidate in the new term, never of a leader that resigned."""
    story = owner_in_mode_off()
    before = story.raft.message()
    story.step(TermBumpRequested())
    assert story.writes() == [(3, 1)] and story.shown() is None
    assert story.raft.message() == before
    story.persist()
    shown = story.shown()
    assert shown is not None and (shown.term, shown.role) == (3, Role.CANDIDATE)
    story.hear(3, vote=1)
    assert story.raft.is_leader and story.raft.term == story.raft.volatile_term == 3
    assert story.ended() is None


def test_demote_that_finds_no_votes_leaves_a_follower() -> None:
    """[P-31]: another instance may have been elected in that term; it must not write DEMOTE."""
    story = owner_in_mode_off()
    story.step(TermBumpRequested())
    story.persist()
    story.wait_deadline()
    assert story.raft.role is Role.FOLLOWER and not story.raft.is_candidacy_running
    assert story.effects == [BroadcastRaft(story.raft.message())]


def test_promote_and_demote_do_not_run_together() -> None:
    """[P-10], [L-8]."""
    story = owner_in_mode_off()
    story.step(TermBumpRequested())
    story.step(CandidacyRequested())
    assert isinstance(story.error(), Unsupported)
    story = asked_candidate()
    assert story.step(TermBumpRequested()) == []
    assert Story(OFF, started=False).step(TermBumpRequested()) == []
