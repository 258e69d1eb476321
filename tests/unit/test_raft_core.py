"""Stories of one `Raft` core driven by events: one story, or a few, for each rule of elections."""

from __future__ import annotations

import random
from typing import Any

import pytest

from synchro.config import ElectionMode, FencingMode
from synchro.errors import (
    ElectionDisabled,
    InAnotherPromote,
    InterferingPromote,
    Loading,
    NoElectionQuorum,
    OldTerm,
    RemoteProtocolError,
    SynchroError,
    TimedOut,
    Unsupported,
)
from synchro.ids import NOBODY, InstanceId, Lsn, Term
from synchro.raft.core import Raft
from synchro.raft.messages import (
    BroadcastRaft,
    CandidacyEnded,
    CandidacyRequested,
    CandidacyResult,
    DeadlineReached,
    HardStatePersisted,
    HealthChanged,
    LeaderHeard,
    Membership,
    MembershipChanged,
    PeerUnseen,
    PersistHardState,
    RaftEffect,
    RaftEvent,
    RaftMessage,
    RaftMessageReceived,
    RaftSettings,
    RaftSettingsChanged,
    RaftStarted,
    ResignRequested,
    Role,
    TermBumpRequested,
    TermSeen,
    TrustChanged,
    VclockGrew,
)
from synchro.vclock import EMPTY_VCLOCK, Vclock

OFF, VOTER, MANUAL, CANDIDATE = ElectionMode
DEATH_S = 4.0
ELECTION_S = 5.0
SHIFT_S = 0.5


def ids(*numbers: int) -> frozenset[InstanceId]:
    return frozenset(InstanceId(number) for number in numbers)


def vclock(lsns: dict[int, int]) -> Vclock:
    return Vclock({InstanceId(i): Lsn(lsn) for i, lsn in lsns.items()})


def settings(mode: ElectionMode = CANDIDATE, fencing: FencingMode = FencingMode.SOFT) -> RaftSettings:
    return RaftSettings(mode, fencing, election_timeout_s=ELECTION_S, death_timeout_s=DEATH_S)


def members(*numbers: int, quorum: int | None = None) -> Membership:
    return Membership(ids(*numbers), quorum=quorum or len(numbers) // 2 + 1)


class Story:
    """Instance 1 of 3, all healthy, and a clock. Effects of the last step are in `effects`."""

    def __init__(
        self,
        mode: ElectionMode = CANDIDATE,
        *,
        term: int = 1,
        vote: int = 0,
        own: dict[int, int] | None = None,
        peers: tuple[int, ...] = (2, 3),
        healthy: tuple[int, ...] = (2, 3),
        membership: Membership | None = None,
        fencing: FencingMode = FencingMode.SOFT,
        trusted: bool = True,
        started: bool = True,
    ) -> None:
        self.now = 100.0
        self.vclock = vclock(own or {})
        self.raft = Raft(
            self_id=InstanceId(1),
            term=Term(term),
            vote=InstanceId(vote),
            vclock=self.vclock,
            membership=membership or members(1, *peers),
            settings=settings(mode, fencing),
            rng=random.Random(7),
            trusted=trusted,
        )
        self.effects: list[RaftEffect] = []
        self.write: PersistHardState | None = None
        self.step(HealthChanged(ids(*healthy)))
        if started:
            self.step(RaftStarted())

    def step(self, event: RaftEvent) -> list[RaftEffect]:
        self.effects = self.raft.step(event, self.now)
        for effect in self.effects:
            if isinstance(effect, PersistHardState):
                assert self.write is None, "one write at a time [E-2]"
                self.write = effect
        return self.effects

    def hear(self, source: int, role: Role = Role.FOLLOWER, **fields: Any) -> list[RaftEffect]:
        """A message of `source`: by default a follower of the present term that sees no leader."""
        if role is not Role.FOLLOWER:
            fields = {"vote": source} | fields
        if role is Role.CANDIDATE:
            fields = {"vclock": vclock(fields.pop("has", {}))} | fields
        if role is Role.LEADER:
            fields = {"leader": source, "is_leader_seen": True} | fields
        message = RaftMessage(
            term=Term(fields.get("term", self.raft.volatile_term)),
            vote=InstanceId(fields.get("vote", 0)),
            role=role,
            leader=InstanceId(fields.get("leader", 0)),
            is_leader_seen=fields.get("is_leader_seen", False),
            vclock=fields.get("vclock"),
        )
        return self.step(RaftMessageReceived(InstanceId(source), message))

    def persist(self, *, then_has: dict[int, int] | None = None) -> list[RaftEffect]:
        """The disk answers the outstanding write."""
        wrote, self.write = self.write, None
        assert wrote is not None
        if then_has is not None:
            self.vclock = vclock(then_has)
        return self.step(HardStatePersisted(wrote.term, wrote.vote, self.vclock))

    def persist_all(self) -> None:
        while self.raft.is_write_in_progress:
            self.persist()

    def wait_deadline(self) -> list[RaftEffect]:
        assert self.raft.deadline is not None
        self.now = self.raft.deadline
        return self.step(DeadlineReached())

    def writes(self) -> list[tuple[int, int]]:
        return [(e.term, e.vote) for e in self.effects if isinstance(e, PersistHardState)]

    def shown(self) -> RaftMessage | None:
        broadcasts = [e.message for e in self.effects if isinstance(e, BroadcastRaft)]
        return broadcasts[-1] if broadcasts else None

    def ended(self) -> CandidacyEnded | None:
        ends = [e for e in self.effects if isinstance(e, CandidacyEnded)]
        assert len(ends) <= 1
        return ends[0] if ends else None

    def error(self) -> SynchroError:
        end = self.ended()
        assert end is not None and end.result is CandidacyResult.LOST and end.error is not None
        return end.error

    def stand(self) -> None:
        """Become a candidate by the timer alone."""
        self.wait_deadline()
        self.persist_all()
        assert self.raft.role is Role.CANDIDATE

    def win(self) -> None:
        self.stand()
        self.hear(2, vote=1)
        assert self.raft.is_leader


def follower_of_2(mode: ElectionMode = CANDIDATE, **kwargs: Any) -> Story:
    story = Story(mode, term=2, **kwargs)
    story.hear(2, Role.LEADER)
    assert story.raft.leader == 2
    return story


# --- start ------------------------------------------------------------------------------------------------


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


# --- votes for others -------------------------------------------------------------------------------------


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
    """[E-16]: the term is there anyway; who asked and is refused is no better than nobody."""
    story = follower_of_2(own={1: 5})
    story.hear(3, Role.CANDIDATE, term=5, has={})
    assert story.writes() == [(5, 0)]
    story.persist()
    assert story.writes() == [(5, 1)]
    story.persist()
    assert story.raft.role is Role.CANDIDATE and story.raft.term == 5


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
    """[E-16], Raft.R10."""
    story = saw_a_term()
    story.hear(2)
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
    """Raft.R10: 2 is refused here, and has the votes of 2 and 3 for all we know: no second election."""
    story = saw_a_term()
    story.hear(3, vote=2)
    story.hear(2, Role.CANDIDATE, has={})
    assert story.writes() == []
    assert story.raft.deadline == pytest.approx(story.now + ELECTION_S, abs=SHIFT_S)
    story.hear(2, Role.LEADER)
    assert story.raft.leader == 2 and story.raft.volatile_term == 5

    story = saw_a_term()
    story.hear(3, vote=2)
    story.hear(2, Role.CANDIDATE, has={})
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


# --- following a leader -----------------------------------------------------------------------------------


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


# --- leaving leadership -----------------------------------------------------------------------------------


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


def test_a_quorum_raised_by_hand_fences_at_once() -> None:
    """[E-25], [E-30]: nobody is about to connect."""
    story = Story(healthy=(2,))
    story.win()
    story.step(MembershipChanged(members(1, 2, 3, quorum=3)))
    assert not story.raft.is_leader


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


# --- settings ---------------------------------------------------------------------------------------------


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


# --- promote ----------------------------------------------------------------------------------------------


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


def asked_candidate(mode: ElectionMode = MANUAL, **kwargs: Any) -> Story:
    story = Story(mode, **kwargs)
    story.step(CandidacyRequested())
    story.persist()
    assert story.raft.role is Role.CANDIDATE
    return story


def test_promote_loses_to_the_leader_of_its_term() -> None:
    """[P-11]."""
    story = asked_candidate()
    story.hear(3, Role.LEADER)
    assert isinstance(story.error(), InterferingPromote)
    assert str(story.error()) == "Instance with replica id 3 was promoted first"


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


# --- demote with elections off ----------------------------------------------------------------------------


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


# --- amnesia ----------------------------------------------------------------------------------------------


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


# --- a restart ---------------------------------------------------------------------------------------------


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
