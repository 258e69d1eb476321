"""Raft and the limbo, stepped together: what one of them says is done, or told to the other, at once.

What happened is returned, in order; those whom it concerns look at it after the step: promote and demote
calls (`transfers`), linearizable reads (`reads`), trust in the log (`links`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, assert_never, cast

from synchro.config import ElectionMode, Settings
from synchro.errors import RemoteProtocolError, SynchroError
from synchro.ids import ANONYMOUS, NOBODY, TERM_LEAP_MAX, InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.numbering import become_member, number_given
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.transactions import Transactions
from synchro.queue.effects import EntriesCommitted, EntriesRolledBack, LimboEffect, OwnerChanged, WriteControl
from synchro.raft import messages as raft_ev
from synchro.raft.messages import RaftSettings
from synchro.row import RaftState, new_tuple


def raft_settings(settings: Settings, self_id: InstanceId) -> RaftSettings:
    """self_id: an anonymous instance takes no part in elections, whatever its options say for later [M-6]."""
    return RaftSettings(
        election_mode=ElectionMode.OFF if self_id == ANONYMOUS else settings.election_mode,
        fencing_mode=settings.election_fencing_mode,
        election_timeout_s=settings.election_timeout_s,
        death_timeout_s=settings.death_timeout_s,
    )


def check_term(state: Parts, term: Term) -> None:
    """Raises `RemoteProtocolError` for a term that no peer can have reached; nothing of it is kept."""
    known = state.raft.volatile_term
    if term - known > TERM_LEAP_MAX:
        raise RemoteProtocolError(
            f"term {term} of a peer is more than 2^32 above {known}, the one known here; it was not adopted",
            term=term,
            known=known,
        )


class CandidacyOver(NamedTuple):
    """What was asked for by `CandidacyRequested` is won (error None) or lost, in `term`.

    is_refusal: the step in which it ended took no term: it did not begin, or had begun before."""

    error: SynchroError | None
    term: Term
    is_refusal: bool


class RaftStepped(NamedTuple):
    """Raft made a step, and this is how it stands. term: volatile. may_lead: it leads, or will once the write
    in progress is on disk."""

    term: Term
    leader: InstanceId
    is_leader: bool
    may_lead: bool


Happening: TypeAlias = CandidacyOver | OwnerChanged | RaftStepped


class Coupling:
    """The only one who steps raft, and who carries out what the limbo says.

    C1  The limbo knows raft's term and role of this very step [Q-3]: who is deposed counts no ack any more.
    """

    __slots__ = ("_members", "_raft_facts", "_state", "_txns")

    def __init__(self, state: Parts, txns: Transactions) -> None:
        self._state = state
        self._txns = txns
        self._members = state.registered
        """What the shell was told of last."""
        self._raft_facts: tuple[Term, Term, bool] | None = None
        """What the limbo was told of raft last."""

    def step_raft(self, event: raft_ev.RaftEvent, now: float) -> list[Happening]:
        state, raft = self._state, self._state.raft
        role, leader, term = raft.role, raft.leader, raft.volatile_term
        happened: list[Happening] = []
        for effect in raft.step(event, now):
            match effect:
                case raft_ev.PersistHardState():
                    state.log.append_hard_state(RaftState(effect.term, effect.vote))
                case raft_ev.BroadcastRaft(message=message):
                    state.outbox.add(ev.BroadcastRaft(message))
                case raft_ev.CandidacyEnded(error=error):
                    now_in = raft.volatile_term
                    happened.append(CandidacyOver(error, now_in, is_refusal=now_in == term))
                case _:
                    assert_never(effect)
        if raft.role is not role or raft.leader != leader or raft.volatile_term != term:
            self._note_election(leader)
        facts = volatile_term, persisted_term, is_leader = (raft.volatile_term, raft.term, raft.is_leader)
        if facts != self._raft_facts:
            self._raft_facts = facts
            happened += self.carry_out(
                state.limbo.raft_changed(
                    volatile_term=volatile_term, persisted_term=persisted_term, is_leader=is_leader, now=now
                )
            )
        may_lead = is_leader or raft.is_write_in_progress or raft.is_candidacy_running
        happened.append(new_tuple(RaftStepped, (volatile_term, raft.leader, is_leader, may_lead)))
        return happened

    def _note_election(self, leader_before: InstanceId) -> None:
        state, raft = self._state, self._state.raft
        state.agenda.note_progress()
        if raft.leader != leader_before:
            name = "leader_elected" if raft.leader != NOBODY else "leader_lost"
            state.outbox.notice(name, leader=raft.leader or leader_before, term=raft.volatile_term)

    def carry_out(self, effects: Sequence[LimboEffect]) -> list[Happening]:
        happened: list[Happening] = []
        for effect in effects:
            match effect:
                case EntriesCommitted(entries=entries, term=term):
                    self._txns.commit(cast("Sequence[PendingTxn]", entries), term)
                case EntriesRolledBack():
                    self._txns.roll_back(effect)
                case WriteControl(body=body):
                    state = self._state
                    lsn = state.log.next_lsn(state.self_id)
                    is_barrier = state.limbo.is_barrier(state.self_id, body)
                    state.limbo.control_sent(body, lsn)
                    state.log.append_own_control(body, lsn, is_barrier=is_barrier)
                case OwnerChanged():
                    self._on_owner_changed(effect)
                    happened.append(effect)
                case _:
                    assert_never(effect)
        return happened

    def _on_owner_changed(self, effect: OwnerChanged) -> None:
        state = self._state
        state.outbox.notice(
            "queue_owner_changed",
            owner=effect.new,
            previous_owner=effect.old,
            term=effect.term,
            confirmed=effect.confirmed,
            rolled_back=effect.rolled_back,
        )
        self._txns.queue_changed_hands(effect.term)
        state.agenda.note_progress()
        state.agenda.note_members()  # Membership.writers

    # --- terms

    def may_see(self, term: Term) -> bool:
        """False for what the shell should have refused: as if it had never come."""
        try:
            check_term(self._state, term)
        except SynchroError as error:
            self._state.outbox.notice("term_refused", is_warning=True, message=error.message)
            return False
        return True

    def see_term(self, term: Term, now: float) -> list[Happening]:
        """Before anything that came with this term is counted or applied [L-5]."""
        if term > self._state.raft.volatile_term:
            return self.step_raft(raft_ev.TermSeen(term), now)
        return []

    # --- membership

    def count_members(self, now: float) -> list[Happening]:
        """The set of members, or the quorum, may be another one now."""
        state = self._state
        happened: list[Happening] = []
        if (number := number_given(state)) is not None:
            become_member(state, number)
            state.outbox.add(ev.BecameMember(number))
            happened += self.step_raft(
                raft_ev.RaftSettingsChanged(raft_settings(state.settings, number)), now
            )
        members = state.counting
        quorum = state.settings.synchro_quorum.quorum(len(members))
        happened += self.carry_out(state.limbo.membership_changed(members, quorum, now))
        if state.registered != self._members:
            self._members = state.registered
            state.outbox.add(ev.MembersChanged())
        return happened + self.step_raft(raft_ev.MembershipChanged(state.election_membership()), now)
