"""Elections: the Raft state machine of one instance, as Tarantool runs it. No I/O. Rules [E-*], [P-11].

Differences from the paper: the log is the WAL and is not replicated by this machine, so a vote compares
vclocks, not (term, index), and there are no log messages. Each message carries the full state that its
sender shows, so only the last one matters and any of them may be lost.
"""

from __future__ import annotations

import random
from collections.abc import Set
from dataclasses import replace
from typing import assert_never

from synchro.config import ElectionMode, FencingMode
from synchro.errors import ElectionDisabled, Loading, SynchroError, TimedOut, Unsupported
from synchro.ids import ANONYMOUS, INITIAL_TERM, LSN_RESERVE, NOBODY, NUMBER_END, InstanceId, Term
from synchro.raft.candidacy import (
    Candidacy,
    lsn_exhausted,
    no_election_quorum,
    not_elected_in_time,
    term_exhausted,
)
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
from synchro.raft.timer import CATCH_UP, SHIFT_MAX, Timer, TimerWait
from synchro.raft.votes import Votes
from synchro.raft.witness import Witness
from synchro.vclock import Vclock


class Raft:
    """Role, term, vote and leader, as this instance knows them.

    R1  term <= volatile_term. The plain term and vote are on disk, and nothing else is ever shown [E-2].
    R2  A vote that is on disk is not changed in its term: one vote a term, across restarts too [E-52].
    R3  While a write is in progress the role is follower and no timer runs; one write at a time [E-2].
    R4  A candidate has its own vote on disk, in the current term, and knows no leader.
    R5  A leader likewise, and it knows itself as leader: at most one leader a term [E-52].
    R6  Not started, or the log not trusted: neither candidate nor leader.
    R7  The own bit is in the witness exactly if a leader is known and was heard within a death timeout;
        then, unless this is the leader, a timer runs that takes it out, in every mode [L-17].
    R8  Who may stand and sees no leader, nor has a peer that sees one, has a timer: no silent end.
    R9  Who trusts its log again does not vote in the term in which it does: a vote of that term may be what
        was forgotten, known to its candidate alone (S1, S14).
    R10 In a term that came without the role of who began it (on an ack, in a Hello, on a frame, or told by a
        follower) votes are given as ever, but nobody stands by itself before the roles are known; for one
        death timeout from the first such term at most (ADR 15).
    R11 Where no majority is needed, a term that was only seen makes an instance raise it at once no more than
        once per death timeout: else two that cannot hear each other do so in turn, without end (ADR 15).
    R12 No term is raised to 2^62, which no peer accepts: in the last one below it nobody stands for the next.
        In one beyond it, which a log of an old version may have, nobody stands or votes, and no peer is told.
    R13 Who refuses a healthy candidate, which gets the rows that it lacks by a stream, does not stand against
        it for two heartbeats from the first such refusal since a leader was known (ADR 40).
    R14 An anonymous instance is always a follower and never votes [M-6], [L-9].
    R15 The owner of the queue, or without one each member, may write until it hears of the term. Who is
        elected waits, for two heartbeats at most, until it has what the healthy ones of them wrote (ADR 40).
    """

    def __init__(
        self,
        *,
        self_id: InstanceId,
        term: Term,
        vote: InstanceId,
        vclock: Vclock,
        membership: Membership,
        settings: RaftSettings,
        rng: random.Random,
        trusted: bool = True,
    ) -> None:
        """Take what was recovered from disk. The machine keeps quiet until `RaftStarted` [E-5].

        term, vote, vclock: as persisted. trusted: False while the own log is not known to be complete (S14).
        """
        self.self_id = self_id
        """Changed by `registered_as` alone."""
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        self.leader_last_seen: float | None = None
        """When the leader was last heard, in monotonic seconds; None: no leader is known."""
        self.term = term
        self.vote = vote
        self.volatile_term = term
        self.volatile_vote = vote
        self.membership = membership
        self.settings = settings
        self.trusted = trusted
        self.is_started = False
        self.healthy: Set[InstanceId] = frozenset()
        self.conflicting_leader_seen = 0
        """How many leaders were met in a term that already had one: impossible while the quorum is a majority
        [E-17]."""
        self.outdated_messages = 0
        """How many messages of an older term came; they are ignored [E-12]."""
        self._rng = rng
        self._vclock = vclock
        self._votes = Votes()
        self._witness = Witness()
        self._last_heard: dict[InstanceId, RaftMessage] = {}
        """The last message of each linked peer in the volatile term: candidates wait here for a vote."""
        self._writing: PersistHardState | None = None
        self._timer: Timer | None = None
        self._held_since: float | None = None
        """A candidate that was not asked to stand waits one death timeout from here. None: it need not
        wait."""
        self._roleless_since: float | None = None
        """When the first of the terms came whose beginner is still unknown (Raft.R10). None: the beginner is
        known."""
        self._refused_since: float | None = None
        """When the first healthy candidate was refused since a leader was known (Raft.R13); None: none."""
        self._rushed_at: float | None = None
        """When a term that was seen was last answered by the next one, at once (Raft.R11)."""
        self._elected_since: float | None = None
        """When this candidate had its quorum of votes; None: it has none, or leads (Raft.R15)."""
        self._could_stand = False
        self._candidacy: Candidacy | None = None
        self._enough_for_newcomer: int | None = None
        """So many healthy members are enough for this leader until a newcomer has connected; None: no
        newcomer raised the quorum [E-32]."""
        self._is_split_noticed = False
        self._forgotten_term = Term(0)
        """A vote of this instance in this term, or in one below, may be forgotten."""
        self._shown = self._visible()
        self._effects: list[RaftEffect] = []

    def step(self, event: RaftEvent, now: float) -> list[RaftEffect]:
        """Apply one fact; return what the shell must do, in order. Never blocks. `now`: monotonic seconds."""
        match event:
            case RaftMessageReceived(source, message):
                self._on_message(source, message, now)
            case LeaderHeard(source):
                self._on_leader_heard(source, now)
            case VclockGrew(vclock):
                self._vclock = (
                    vclock if vclock.covers(self._vclock, with_local=True) else self._vclock.merge(vclock)
                )
                if self.role is not Role.CANDIDATE:  # who is not asking for votes can only grant fewer now
                    return []
            case TermSeen(term):
                if term > self.volatile_term:
                    self._enter_term(term)
                    self._await_role(now)
            case HardStatePersisted():
                self._on_persisted(event, now)
            case DeadlineReached():
                self._on_deadline(now)
            case HealthChanged(healthy):
                self.healthy = healthy
                self._review_standing(now)
            case PeerUnseen(peer):
                self._forget(peer)
            case MembershipChanged(membership):
                self._on_membership(membership, now)
            case RaftSettingsChanged(settings, quorum):
                if quorum is not None:
                    self.membership = replace(self.membership, quorum=quorum)
                self._on_settings(settings, now)
            case TrustChanged(trusted):
                self._on_trust(trusted, now)
            case CandidacyRequested():
                self._on_candidacy_requested(now)
            case TermBumpRequested():
                self._on_term_bump_requested(now)
            case ResignRequested(stand_again):
                self._on_resign_requested(stand_again, now)
            case RaftStarted():
                self._on_started(now)
            case _:
                assert_never(event)
        self._follow_up(now)
        self.check()
        effects, self._effects = self._effects, []
        return effects

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which the shell must step `DeadlineReached`; None = no timer."""
        if self._elected_since is not None:
            return self._patience_end
        timer, candidacy = self._timer_end, self._candidacy_end
        if timer is None or (candidacy is not None and candidacy < timer):
            return candidacy
        return timer

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    @property
    def may_have_forgotten_vote(self) -> bool:
        """Whether this instance may have forgotten a vote of the persisted term that still matters (Raft.R9).

        If a leader of that term is known, it won without this instance, so no second vote makes another
        leader.
        """
        return (
            INITIAL_TERM < self.term <= self._forgotten_term and self.vote == NOBODY and self.leader == NOBODY
        )

    @property
    def exhausted(self) -> SynchroError | None:
        """Why this instance can begin no term any more, for ever: it, or its rows, could not be numbered in
        the bounds that peers have (Raft.R12)."""
        if self.volatile_term >= NUMBER_END - 1:
            return term_exhausted(self.volatile_term)
        return lsn_exhausted(self._vclock.get(self.self_id)) if self.is_lsn_exhausted else None

    @property
    def is_lsn_exhausted(self) -> bool:
        """What is left is for CONFIRMs and the like: no data is written, and it is not elected."""
        return self._vclock.get(self.self_id) >= NUMBER_END - LSN_RESERVE

    @property
    def shown_term(self) -> Term:
        """What peers are told. Of a term that none of them would accept, the last one that they do: nobody
        is deposed, and nothing won, by what is said in it."""
        return min(self.term, Term(NUMBER_END - 1))

    @property
    def is_write_in_progress(self) -> bool:
        return self._writing is not None

    @property
    def is_leader_seen(self) -> bool:
        """Whether this instance sees a leader in the volatile term; a leader sees itself."""
        return self.self_id in self._witness

    @property
    def is_leader_seen_by_peers(self) -> bool:
        """Whether another instance says that it sees a leader of the volatile term."""
        return not self._witness.is_empty

    @property
    def is_candidacy_running(self) -> bool:
        """Whether a promote or a term bump is under way here."""
        return self._candidacy is not None

    @property
    def healthy_count(self) -> int:
        """The number of healthy instances: this one, and the registered peers that both follow and are
        followed [E-11]."""
        return 1 + len((self.healthy & self.membership.registered) - {self.self_id})

    @property
    def has_healthy_quorum(self) -> bool:
        return self.healthy_count >= self.membership.election_quorum

    @property
    def vote_count(self) -> int:
        """The number of votes for this instance in the volatile term."""
        return self._votes.count(self.self_id, self._electorate)

    def registered_as(self, self_id: InstanceId) -> None:
        """An anonymous instance is a member from now on; its `MembershipChanged` follows."""
        assert self.self_id == ANONYMOUS and self.vote == self.volatile_vote == NOBODY  # Raft.R14
        self.self_id = self_id

    def message(self) -> RaftMessage:
        """The full visible state, for a new subscriber: what the last `BroadcastRaft` said."""
        return self._shown

    def check(self) -> None:
        """Assert Raft.R1..R8, Raft.R14. Cheap enough for every step."""
        assert 1 <= self.term <= self.volatile_term  # Raft.R1
        assert self.term < self.volatile_term or self.vote in (NOBODY, self.volatile_vote)  # Raft.R2
        if self._writing is not None:
            assert self.role is Role.FOLLOWER  # Raft.R3
            assert self._timer is None  # Raft.R3
        if self.role is not Role.FOLLOWER:
            assert self._is_stable  # Raft.R4, Raft.R5
            assert self.vote == self.self_id  # Raft.R4, Raft.R5
            assert self.is_started and self.trusted  # Raft.R6
            assert self.leader == (self.self_id if self.is_leader else NOBODY)  # Raft.R4, Raft.R5
        if not self.is_leader:
            assert self.leader != self.self_id  # Raft.R5
        assert not self.is_leader_seen or self.leader != NOBODY  # Raft.R7
        assert not self.is_leader or self.is_leader_seen  # Raft.R7
        assert (self.leader == NOBODY) == (self.leader_last_seen is None)  # Raft.R7
        if self.is_leader_seen and not self.is_leader and self._writing is None:
            assert self._timer is not None and self._timer.wait is TimerWait.LEADER_DEATH  # Raft.R7
        if self._may_stand and self._witness.is_empty and self._writing is None:
            assert self._timer is not None  # Raft.R8
        if self.self_id == ANONYMOUS:
            assert self.role is Role.FOLLOWER and self.volatile_vote == NOBODY  # Raft.R14

    # --- what may be done -------------------------------------------------------------------------------

    @property
    def _is_stable(self) -> bool:
        return (self.term, self.vote) == (self.volatile_term, self.volatile_vote)

    @property
    def _may_stand(self) -> bool:
        """For the next term, without being asked to."""
        return self._is_eligible and self.exhausted is None

    @property
    def _is_eligible(self) -> bool:
        """To be elected in this term: configured, and with a healthy quorum [E-20]."""
        return (
            self.is_started
            and self.trusted
            and self.volatile_term < NUMBER_END
            and not self.is_lsn_exhausted
            and self.settings.election_mode is ElectionMode.CANDIDATE
            and self.self_id in self._electorate
            and self.has_healthy_quorum
        )

    @property
    def _may_campaign(self) -> bool:
        """Whether this instance may be a candidate of the volatile term: by its mode, or on request for this
        one term."""
        return self._is_eligible or (
            self._candidacy is not None and self._candidacy.term == self.volatile_term and self.trusted
        )

    @property
    def _electorate(self) -> Set[InstanceId]:
        """The instances whose votes count: the registered ones. An instance alone is its own set [E-10]."""
        return self.membership.registered or frozenset({self.self_id})

    def _is_held(self, now: float) -> bool:
        return self._held_since is not None and now < self._held_since + self.settings.death_timeout_s

    def _await_role(self, now: float) -> None:
        """Begin the wait of Raft.R10. A later term does not begin it anew: a candidate that cannot win would
        keep the others waiting."""
        if self._roleless_since is None:
            self._roleless_since = now

    def _awaits_role(self, now: float) -> bool:
        return (
            self._roleless_since is not None
            and now < self._roleless_since + self.settings.death_timeout_s
            and not self._is_role_known
        )

    @property
    def _is_role_known(self) -> bool:
        """Whether the beginner of the volatile term is known: a candidate was refused, or all instances that
        can be heard have shown what they are [E-16]."""
        peers = (self.healthy & self.membership.registered) - {self.self_id}
        return bool(self._refused) or (bool(peers) and peers <= self._last_heard.keys())

    @property
    def _refused(self) -> Set[InstanceId]:
        """The candidates of the volatile term that lack a row of ours [E-15]."""
        own = self._vclock.shown()
        asking = (
            (peer, heard.vclock) for peer, heard in self._last_heard.items() if heard.role is Role.CANDIDATE
        )
        return {peer for peer, vclock in asking if vclock is not None and not vclock.covers(own)}

    def _awaits_refused(self, now: float) -> bool:
        """Whether one of them may still get these rows and win (Raft.R13)."""
        return (
            self._refused_since is not None
            and now < self._refused_since + self.settings.death_timeout_s * CATCH_UP
            and not self._refused.isdisjoint(self.healthy)
        )

    @property
    def _patience_end(self) -> float:
        """When an elected candidate leads, whoever is missing then (Raft.R15): before its election ends."""
        assert self._elected_since is not None
        ends = (
            self._elected_since + self.settings.death_timeout_s * CATCH_UP,
            self._timer_end,
            self._candidacy_end,
        )
        return min(end for end in ends if end is not None)

    @property
    def _has_all_rows(self) -> bool:
        """Whether nothing is on its way here of what healthy writers wrote before they heard of this term
        (Raft.R15): each of them voted for this instance, or shows a vclock that is covered here."""
        peers = (self.healthy & self.membership.registered & self.membership.writers) - {self.self_id}
        covered = {
            peer
            for peer, heard in self._last_heard.items()
            if heard.vclock is not None and self._vclock.covers(heard.vclock)
        }
        return self._votes.count(self.self_id, peers - covered) == len(peers - covered)

    @property
    def _needs_majority(self) -> bool:
        """Whether two leaders of one term are impossible: any two quorums share a voter."""
        return 2 * self.membership.election_quorum > len(self._electorate)

    @property
    def _is_term_open(self) -> bool:
        """Whether the volatile term, which another began, can be won yet and by one instance only."""
        undecided = self._electorate - self._votes.voters() - {self.self_id}
        return self._needs_majority and 1 + len(undecided) >= self.membership.election_quorum

    def _may_rush(self, now: float) -> bool:
        """Whether the next term may follow at once on one that came from another (Raft.R11)."""
        if self._needs_majority:
            return self._has_winner_resigned
        return self._rushed_at is None or now >= self._rushed_at + self.settings.death_timeout_s

    @property
    def _has_winner_resigned(self) -> bool:
        """Whether the leader of the volatile term gave up before it was heard as a leader [E-18]."""
        return any(
            message.role is Role.FOLLOWER
            and self._votes.count(peer, self._electorate) >= self.membership.election_quorum
            for peer, message in self._last_heard.items()
        )

    @property
    def _timer_end(self) -> float | None:
        return None if self._timer is None else self._timer.end(self.settings)

    @property
    def _candidacy_end(self) -> float | None:
        if self._candidacy is None:
            return None
        return self._candidacy.since + self.settings.election_timeout_s

    # --- events -----------------------------------------------------------------------------------------

    def _on_started(self, now: float) -> None:
        """Handle now what was heard before the start: it may name the leader [E-5], [E-21]."""
        if self.is_started:
            return
        self.is_started = True
        self._review_standing(now)
        for source, message in list(self._last_heard.items()):
            self._hear(source, message, now)
        self._effects.append(BroadcastRaft(self._shown))

    def _on_message(self, source: InstanceId, message: RaftMessage, now: float) -> None:
        message.validate(source)
        if source in (NOBODY, self.self_id):
            return  # anonymous instances have no say [L-9]
        if message.term < self.volatile_term:
            self.outdated_messages += 1
            return
        if message.term > self.volatile_term:
            self._enter_term(message.term)
            if message.role is Role.FOLLOWER:
                self._await_role(now)
        self._last_heard[source] = message
        if self.is_started:
            self._hear(source, message, now)

    def _hear(self, source: InstanceId, message: RaftMessage, now: float) -> None:
        """Handle a message of the volatile term. The order of the rules matters: [E-13], [E-14], [E-17],
        [E-18]."""
        if message.term < self.volatile_term:
            return  # replayed at the start, and one replayed before it has moved the term
        if not self.is_leader:
            # What a leader says of itself is no testimony: it is heard, or the death timer runs out.
            is_witness = message.is_leader_seen and message.role is not Role.LEADER
            self._witness.note(source, is_leader_seen=is_witness)
        if message.vote != NOBODY:
            self._votes.add(source, message.vote)
        if message.role is Role.LEADER:
            self._follow(source, now)
        elif source == self.leader:
            # A leader never becomes a candidate in its own term: that message is older than its victory.
            if message.role is Role.FOLLOWER and message.leader not in (NOBODY, source):
                self._on_leader_follows(source, message.leader, now)
            elif message.role is Role.FOLLOWER:
                self._on_leader_resigned(now)
        elif self.leader == NOBODY and self.role is Role.FOLLOWER:
            self._grant_vote()

    def _follow(self, source: InstanceId, now: float) -> None:
        if self.leader not in (NOBODY, source):
            self.conflicting_leader_seen += 1
            if self._needs_majority or source > self.leader:
                if self.is_leader and not self._needs_majority and self.exhausted is None:
                    # Two won this term. The other one follows us (below); in a new term there is one again.
                    self._stand(asked_at=now, is_answered=False)
                return
        self.role = Role.FOLLOWER
        self.leader = source
        self._held_since = self._roleless_since = self._refused_since = None
        self._see_leader(now)

    def _see_leader(self, now: float) -> None:
        self.leader_last_seen = now
        self._witness.note(self.self_id, is_leader_seen=True)
        if self._writing is None:
            self._timer = Timer(TimerWait.LEADER_DEATH, now)

    def _on_leader_heard(self, source: InstanceId, now: float) -> None:
        if source == self.leader and not self.is_leader:
            self._see_leader(now)

    def _on_leader_resigned(self, now: float) -> None:
        """The leader gave up by itself, so there is no pre-vote and no wait [E-18]."""
        self._lose_leader()
        self._timer = None
        if self._may_stand and self._writing is None and not self._is_held(now):
            self._stand()

    def _on_leader_follows(self, source: InstanceId, other: InstanceId, now: float) -> None:
        """Two instances won this term, and the known leader gave way to the other: no resignation, for there
        is a leader (ADR 15)."""
        self._lose_leader()
        self._timer = None
        self._witness.note(source, is_leader_seen=True)
        heard = self._last_heard.get(other)
        if heard is not None and heard.role is Role.LEADER:
            self._follow(other, now)

    def _on_persisted(self, event: HardStatePersisted, now: float) -> None:
        assert self._writing == PersistHardState(event.term, event.vote)
        assert event.term >= self.term  # Raft.R1
        assert event.term > self.term or self.vote == NOBODY  # Raft.R2
        self._writing = None
        self.term, self.vote = event.term, event.vote
        self._vclock = self._vclock.merge(event.vclock)
        if self.term == self.volatile_term and self.volatile_vote not in (self.vote, self.self_id):
            # The vote for another waits until the term is on disk [E-15], [L-6]. Rows of the old leader may
            # lie in the log ahead of that write, not synced yet, and not in our vclock. Compared without
            # them, a candidate that lacks them looks good enough: we would vote for it, then acknowledge the
            # rows, and the old leader would count as safe what the new one does not have. The write of the
            # term also syncs every row ahead of it and comes back with their vclock, so the comparison is
            # made now. Rows behind it are acknowledged in the new term, which deposes the old leader first.
            self.volatile_vote = NOBODY
        self._grant_vote()
        if self._is_stable:
            self._go_on(now)

    def _go_on(self, now: float) -> None:
        """Take the role that follows from what is on disk now [E-2]."""
        if self.leader != NOBODY:
            return  # `_arm_timer` waits for its death
        if self.vote == self.self_id:
            if self._may_campaign:
                self._become_candidate(now)
        elif self.vote != NOBODY:
            self._votes.add(self.self_id, self.vote)
            if self._may_stand:
                self._timer = Timer(TimerWait.ELECTION, now, self._draw_shift())
        elif not self._awaits_role(now):
            self._stand_in_new_term(now)

    def _stand_in_new_term(self, now: float) -> None:
        """Stand in a term that another began and in which nobody better asked for this vote [E-16]. If that
        term cannot be won any more, or could be won by two (ADR 15), stand in the next one."""
        if not self._is_eligible or not self._witness.is_empty or self._is_held(now):
            return
        if self._refused_since is None and not self._refused.isdisjoint(self.healthy):
            self._refused_since = now
        if self._awaits_refused(now):
            return  # Raft.R13
        if self.volatile_term <= self._forgotten_term:
            return  # Raft.R9
        if self._is_term_open:
            self.volatile_vote = self.self_id
        elif not self._may_stand:
            return  # Raft.R12
        elif self._may_rush(now):
            self._rushed_at = now
            self._stand()
        else:  # others voted, and one of them may have won: as for who voted for another [E-22]
            self._timer = Timer(TimerWait.ELECTION, now, self._draw_shift())

    def _become_candidate(self, now: float) -> None:
        self.role = Role.CANDIDATE
        self._votes.add(self.self_id, self.self_id)
        self._timer = Timer(TimerWait.ELECTION, now, self._draw_shift())

    def _on_deadline(self, now: float) -> None:
        end = self._timer_end
        if self._timer is None or end is None or now < end or self._elected_since is not None:
            return  # the candidacy's own end is looked at after every step, and whether it leads
        if self._timer.wait is TimerWait.LEADER_DEATH:
            self._witness.note(self.self_id, is_leader_seen=False)  # [E-21]; the leader stays known
        elif self._candidacy is not None and not self._may_stand:
            self._candidacy.given_up = self._timed_out()  # on request one stands for one term [E-22]
        elif self._timer.wait is TimerWait.CATCH_UP:
            self._timer = None
            self._stand_in_new_term(now)
            return
        self._timer = None
        if (
            self._may_stand
            and self._witness.is_empty
            and not self._is_held(now)
            and not self._awaits_role(now)
        ):
            self._stand()

    def _on_membership(self, membership: Membership, now: float) -> None:
        old, was_healthy = self.membership, self.has_healthy_quorum
        self.membership = membership
        for expelled in sorted(old.registered - membership.registered):
            self._forget(expelled)
        if self.self_id in old.registered - membership.registered:
            self._give_up(ElectionDisabled("The removal of this instance was written; it stands no more"))
        if was_healthy and membership.registered - old.registered and not self.has_healthy_quorum:
            # The newcomer has had no time to connect [E-32]; the others are as needed as before.
            self._enough_for_newcomer = old.election_quorum if self.is_leader else None
        self._review_standing(now)

    def _on_settings(self, settings: RaftSettings, now: float) -> None:
        old, self.settings = self.settings, settings
        mode = settings.election_mode
        if mode is not old.election_mode and mode in (ElectionMode.OFF, ElectionMode.VOTER):
            self._give_up(ElectionDisabled("Elections were turned off"))
        self._review_standing(now)

    def _on_trust(self, trusted: bool, now: float) -> None:
        if trusted and not self.trusted:
            self._forgotten_term = self.volatile_term  # Raft.R9: as high as any term in which it voted
        self.trusted = trusted
        if not trusted:
            self._give_up(ElectionDisabled("The local log is not known to be complete: no candidacy"))
            self.role = Role.FOLLOWER  # Raft.R6: also where a candidacy is only about to end
        self._review_standing(now)
        self._grant_vote()

    def _on_resign_requested(self, stand_again: bool, now: float) -> None:
        self._give_up(TimedOut("The candidacy was given up on request; another instance may be elected"))
        if self.role is Role.CANDIDATE:
            self.role, self._timer = Role.FOLLOWER, None
        if not stand_again:
            self._held_since = now

    def _on_candidacy_requested(self, now: float) -> None:
        refusal = self.candidacy_refusal(has_won=self.is_leader)
        if refusal is not None:
            self._effects.append(CandidacyEnded(CandidacyResult.LOST, refusal))
        elif self.is_leader:
            self._effects.append(CandidacyEnded(CandidacyResult.WON))
        else:
            self._stand(asked_at=now)

    def candidacy_refusal(self, *, has_won: bool) -> SynchroError | None:
        """Return why a candidacy cannot begin. This is asked before the term grows, because that stops all
        writers [E-41]."""
        if not self.is_started:
            return Loading("The instance is still starting; nothing was done")
        if self._candidacy is not None:
            return self._candidacy.busy
        if self.self_id not in self._electorate:
            return _not_a_member()
        if self.settings.election_mode is ElectionMode.VOTER:
            return Unsupported("election_mode='voter' does not support manual elections")
        if not self.trusted:
            return ElectionDisabled("The local log is not known to be complete: no candidacy")
        if not has_won and self.exhausted is not None:
            return self.exhausted
        if not has_won and not self.has_healthy_quorum:
            return self._no_quorum()
        return None

    @property
    def demote_refusal(self) -> SynchroError | None:
        """Return why an owner that does not lead, for instance after a restart, cannot give its queue away
        [P-31]. It writes nothing in its old term, so it takes a new one only when it can get votes."""
        if not self.trusted:
            return ElectionDisabled("The local log is not known to be complete: no candidacy")
        return None if self.has_healthy_quorum else self._no_quorum()

    def _on_term_bump_requested(self, now: float) -> None:
        if self.is_started and self.trusted and self._candidacy is None and self.exhausted is None:
            self._stand(asked_at=now, is_answered=False)

    # --- transitions ------------------------------------------------------------------------------------

    def _enter_term(self, term: Term, vote: InstanceId = NOBODY) -> None:
        """Begin a term: everything that belonged to the former one is forgotten [E-12]."""
        assert term > self.volatile_term
        self.volatile_term, self.volatile_vote = term, vote
        self.role = Role.FOLLOWER
        self.leader, self.leader_last_seen = NOBODY, None
        self._timer = None
        self._votes.clear()
        self._witness.clear()
        self._last_heard.clear()
        self._is_split_noticed = False
        self._enough_for_newcomer = None
        self._elected_since = None

    def _stand(self, asked_at: float | None = None, *, is_answered: bool = True) -> None:
        """Take the next term with the own vote, in one write [E-20]. asked_at: None = by the configured
        mode."""
        assert self.exhausted is None  # Raft.R12
        self._enter_term(Term(self.volatile_term + 1), vote=self.self_id)
        if asked_at is not None:
            self._held_since = self._roleless_since = self._refused_since = None
            self._candidacy = Candidacy(self.volatile_term, asked_at, is_answered)

    def _grant_vote(self) -> None:
        """Vote for the first candidate of this term whose vclock covers ours, if this instance may and did
        not yet [E-15]."""
        if not self.is_started or not self.trusted or self.role is not Role.FOLLOWER:
            return
        if self.self_id == ANONYMOUS:
            return  # Raft.R14
        # Who lost a part of its log may have voted in this very term and forgotten it. Perhaps only that
        # candidate knows of the vote, so to hear the others does not bring it back; a second one could make
        # a second leader of the term. In the next term nothing is forgotten, and it votes again.
        if self.volatile_term <= self._forgotten_term or self.volatile_term >= NUMBER_END:
            return  # Raft.R9, Raft.R12
        if self.leader != NOBODY or self.volatile_vote != NOBODY:
            return
        for source, message in self._last_heard.items():
            if message.role is not Role.CANDIDATE or message.vclock is None:
                continue
            if message.vclock.covers(self._vclock.shown()):
                self.volatile_vote = source
                self._roleless_since = None
                return

    def _lose_leader(self) -> None:
        self.leader, self.leader_last_seen = NOBODY, None
        self._witness.clear()

    def _give_up(self, why: SynchroError) -> None:
        """Give up leadership without a new term [E-31]. A candidacy on request is lost for the reason
        `why`."""
        if self.is_leader:
            self.role = Role.FOLLOWER
            self._lose_leader()
        if self._candidacy is not None:
            self._candidacy.given_up = why

    def _forget(self, peer: InstanceId) -> None:
        """Neither the bit nor the request of a peer counts while it is out of reach [E-24]."""
        if peer == self.self_id:
            return
        self._witness.forget(peer)
        self._last_heard.pop(peer, None)

    def _review_standing(self, now: float) -> None:
        """Health, membership, mode or trust changed: review fencing, and whether this instance may stand
        [E-11], [E-30], [E-33]."""
        self._fence()
        may_stand = self._may_stand
        if may_stand and not self._could_stand and not self.is_leader_seen:
            self._held_since, self._roleless_since = now, None  # [E-21]: perhaps somebody leads already
            if self._timer is not None and self._timer.wait is not TimerWait.ELECTION:
                self._timer = None
        if not self._may_campaign:
            if self.role is Role.CANDIDATE:
                self.role = Role.FOLLOWER
            if self._timer is not None and self._timer.wait is not TimerWait.LEADER_DEATH:
                self._timer = None
        self._could_stand = may_stand

    def _fence(self) -> None:
        """Resign if a quorum is out of sight. Strict fencing differs in the timeouts of the links only
        [E-30]."""
        enough = self._enough_for_newcomer
        if self.has_healthy_quorum:
            self._enough_for_newcomer = None
        elif (
            self.is_leader
            and (enough is None or self.healthy_count < enough)
            and self.settings.election_mode in (ElectionMode.MANUAL, ElectionMode.CANDIDATE)
            and self.settings.fencing_mode is not FencingMode.OFF
        ):
            self._give_up(self._no_quorum())

    # --- after every event ------------------------------------------------------------------------------

    def _follow_up(self, now: float) -> None:
        """Do what follows from the state, whichever event led to it."""
        if not self.is_started:
            return
        if self._writing is None:
            self._grant_vote()
            self._learn_role(now)
        self._count_votes(now)
        self._judge_candidacy(now)
        self._begin_write()
        self._arm_timer(now)
        self._show()

    def _learn_role(self, now: float) -> None:
        """End the wait of Raft.R10 as soon as there is nothing more to wait for."""
        if self._roleless_since is None or not self._is_stable or not self._is_role_known:
            return
        self._roleless_since = None
        if self.leader == NOBODY and self.vote == NOBODY:
            self._timer = None
            self._stand_in_new_term(now)

    def _count_votes(self, now: float) -> None:
        """Become leader with a quorum of votes; the queue follows by itself [E-19]. Otherwise notice a split
        [E-23]."""
        if self.role is Role.CANDIDATE and self.vote_count >= self.membership.election_quorum:
            if self._elected_since is None:
                self._elected_since = now
            if not self._has_all_rows and now < self._patience_end:
                return
            self._elected_since = None
            self.role = Role.LEADER
            self.leader, self.leader_last_seen = self.self_id, now
            self._witness.clear()
            self._witness.note(self.self_id, is_leader_seen=True)
            self._timer = None
            self._held_since = self._roleless_since = self._refused_since = None
            return
        self._elected_since = None
        if self._is_split_noticed or self._timer is None or self._timer.wait is not TimerWait.ELECTION:
            return
        electorate = self._electorate
        absent = electorate - self.healthy - {self.self_id}
        if self._votes.is_split(electorate, self.membership.election_quorum, absent):
            self._is_split_noticed = True
            sooner = Timer(TimerWait.SHIFT, now, self._draw_shift())
            if sooner.end(self.settings) < self._timer.end(self.settings):
                self._timer = sooner

    def _judge_candidacy(self, now: float) -> None:
        """End a candidacy that is won or lost, exactly once [P-11]; then the role is the configured one."""
        candidacy, end = self._candidacy, self._candidacy_end
        if candidacy is None or end is None:
            return
        error = None
        if not self.is_leader:
            error = candidacy.lost(
                no_quorum=None if self.has_healthy_quorum else self._no_quorum(begun=candidacy.term),
                leader=self.leader,
                term=self.volatile_term,
                timed_out=self._timed_out() if now >= end else None,
                by_demote=self.settings.election_mode is ElectionMode.OFF,
            )
            if error is None:
                return
        self._candidacy = None
        if candidacy.is_answered:
            result = CandidacyResult.WON if self.is_leader else CandidacyResult.LOST
            self._effects.append(CandidacyEnded(result, error))
        if not self.is_leader:
            self._review_standing(now)

    def _begin_write(self) -> None:
        if self._writing is not None or self._is_stable:
            return
        vote = self.volatile_vote
        if self.volatile_term > self.term and vote != self.self_id:
            vote = NOBODY  # a term and a vote for another are two writes: see `_on_persisted` [E-15]
        assert self.role is Role.FOLLOWER  # Raft.R3
        self._timer = None  # Raft.R3
        self._writing = PersistHardState(self.volatile_term, vote)
        self._effects.append(self._writing)

    def _arm_timer(self, now: float) -> None:
        """Keep Raft.R7 and Raft.R8, at the one place where they could be missed."""
        if self._writing is not None or self._timer is not None or self.is_leader:
            return
        if self.is_leader_seen:
            assert self.leader_last_seen is not None  # Raft.R7
            self._timer = Timer(TimerWait.LEADER_DEATH, self.leader_last_seen)
        elif self._may_stand and self._witness.is_empty:
            if self._held_since is not None and self._is_held(now):
                self._timer = Timer(TimerWait.HOLD, self._held_since)
            elif self._roleless_since is not None and self._awaits_role(now):
                self._timer = Timer(TimerWait.HOLD, self._roleless_since)
            elif self._refused_since is not None and self._awaits_refused(now):
                self._timer = Timer(TimerWait.CATCH_UP, self._refused_since)
            else:
                # The last witness lost the leader, and it may stand at this moment too. Standing together
                # would split the vote, with two of three instances left for certain.
                self._timer = Timer(TimerWait.SHIFT, now, self._draw_shift())

    def _show(self) -> None:
        if self._candidacy is not None and not self._candidacy.is_answered and self._writing is not None:
            # A demoting leader is about to ask for votes in the next term. If it first said that it
            # follows, its peers would take that for a resignation and stand [P-31].
            return
        visible = self._visible()
        if visible != self._shown:
            self._shown = visible
            self._effects.append(BroadcastRaft(visible))

    def _visible(self) -> RaftMessage:
        """What others may see. Leader and witness belong to the volatile term, so they show only once it is
        on disk [E-2]."""
        if self.term >= NUMBER_END:
            return RaftMessage(
                self.shown_term, NOBODY, Role.FOLLOWER, NOBODY, is_leader_seen=False
            )  # Raft.R12
        is_term_written = self.term == self.volatile_term
        return RaftMessage(
            term=self.term,
            vote=self.vote,
            role=self.role,
            leader=self.leader if is_term_written else NOBODY,
            is_leader_seen=is_term_written and self.is_leader_seen,
            vclock=self._vclock.shown() if self.role is Role.CANDIDATE else None,
        )

    def _draw_shift(self) -> float:
        return self._rng.uniform(0.0, SHIFT_MAX)

    def _no_quorum(self, *, begun: Term | None = None) -> SynchroError:
        needed = self.membership.election_quorum
        return no_election_quorum(connected=self.healthy_count, needed=needed, begun=begun)

    def _timed_out(self) -> SynchroError:
        return not_elected_in_time(
            self.volatile_term, votes=self.vote_count, needed=self.membership.election_quorum
        )


def _not_a_member() -> SynchroError:
    return ElectionDisabled("This instance is not a member of the replica set any more; nothing was done")
