"""The one promote or demote that was asked for here, from the request to its answer. [P-10]..[P-13], [P-30],
[P-31].

The election and the transfer themselves are raft's and the limbo's; they go on whether somebody waits for
an answer or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from synchro.config import ElectionMode
from synchro.errors import (
    InAnotherPromote,
    InterferingElections,
    NoElectionQuorum,
    NotLeader,
    SynchroError,
    TimedOut,
    Unsupported,
)
from synchro.ids import NOBODY, CallId, InstanceId, Term
from synchro.instance.calls import TransferCall
from synchro.instance.coupling import CandidacyOver, Coupling, Happening, RaftStepped
from synchro.instance.events import (
    Demoted,
    DemoteRequested,
    Outcome,
    Promoted,
    PromoteRequested,
    Rejected,
)
from synchro.instance.parts import Parts
from synchro.instance.writability import (
    WRITABLE,
    not_giver_error,
    read_only_error,
    read_only_reason,
    stopping_error,
)
from synchro.queue.effects import OwnerChanged
from synchro.queue.limbo import QueueState
from synchro.raft import messages as raft_ev
from synchro.raft.candidacy import led_first


class TransferPhase(Enum):
    LINKS = "links"
    """too few instances are connected to elect; no term is taken, so nobody was stopped from writing"""
    ELECTION = "election"
    """raft stands for a term"""
    QUEUE = "queue"
    """raft leads `term`; the PROMOTE or DEMOTE of that term is not decided yet"""


@dataclass(slots=True)
class Transfer:
    """Each method tells a fact and returns the answer to the call, None while it has none."""

    call_id: CallId
    is_demote: bool
    asked_in: Term
    """Raft's term when it was asked for."""
    phase: TransferPhase = TransferPhase.ELECTION
    term: Term | None = None
    too_few: SynchroError | None = None
    """In LINKS: what is missing."""
    stands_at: float | None = None
    """In LINKS: monotonic seconds, when enough have been connected for long enough to say who leads."""

    @property
    def busy(self) -> SynchroError:
        """What a second promote or demote is told meanwhile [P-10], [P-11]."""
        if self.phase is TransferPhase.QUEUE:
            name = "demote" if self.is_demote else "promote"
            return Unsupported(
                "promote and demote do not support simultaneous invocations: the queue is changing hands "
                f"here by a {name}; nothing was changed"
            )
        name = "demote" if self.is_demote else "promote"
        return InAnotherPromote(f"{name} is already running here; nothing was changed")

    def candidacy_ended(self, error: SynchroError | None, term: Term, *, is_refusal: bool) -> Outcome | None:
        """is_refusal: as in `CandidacyOver`."""
        if self.is_demote or self.phase is TransferPhase.QUEUE:
            return None
        if error is None:
            self.leads(term)
            return None
        return self.refused(error) if is_refusal else Rejected(error)

    def refused(self, error: SynchroError) -> Outcome | None:
        """Links may come up in time, before a term is taken or after one was taken in vain."""
        if isinstance(error, NoElectionQuorum):
            self.phase = TransferPhase.LINKS
            if self.too_few is None or "term" in error.details or "term" not in self.too_few.details:
                self.too_few = (
                    error  # one that names the term it took is not followed by "nothing was changed"
                )
            return None
        return Rejected(error)

    def leads(self, term: Term) -> None:
        self.phase = TransferPhase.QUEUE
        self.term = term
        self.stands_at = None  # a time that is over would ring without end

    def links_changed(self, *, enough: bool, now: float, hear_s: float) -> None:
        """hear_s: so long after it is connected a peer has said who leads."""
        if self.phase is not TransferPhase.LINKS or not enough:
            self.stands_at = None
        elif self.stands_at is None:
            self.stands_at = now + hear_s

    def owner_changed(self, effect: OwnerChanged, self_id: InstanceId) -> Outcome | None:
        if self.phase is TransferPhase.LINKS and effect.new not in (NOBODY, self_id):
            return Rejected(led_first(effect.new, by_demote=False))
        if self.phase is not TransferPhase.QUEUE or self.term != effect.term:
            return None
        if self.is_demote and effect.new == NOBODY:
            return Demoted(effect.term)
        if not self.is_demote and effect.new == self_id:
            return Promoted(effect.term, effect.old, effect.confirmed, effect.rolled_back)
        return None

    def raft_changed(
        self, term: Term, *, leader: InstanceId, is_leader: bool, may_lead: bool, is_off: bool
    ) -> Outcome | None:
        """Leadership was lost before the queue followed [P-13]: by a later term, or given up in this one. Or,
        before it was sought, somebody else was elected.

        term: volatile. may_lead: raft leads, or will once the write in progress is on disk. is_off: there are
        no elections."""
        if self.phase is TransferPhase.LINKS:
            if is_leader and not self.is_demote:
                self.leads(term)
            elif leader != NOBODY and term > self.asked_in:
                return Rejected(led_first(leader, by_demote=is_off))
            return None
        if self.phase is not TransferPhase.QUEUE or (self.term == term and may_lead):
            return None
        return Rejected(interfering_elections(self.term, term))


class Transfers:
    """Promote and demote calls. One runs at a time [L-8]; others may wait until the instance is writable.

    It looks at what raft and the limbo did, in the order in which they did it, and is never called by them.
    """

    __slots__ = ("_coupling", "_state", "promoted", "running")

    def __init__(self, state: Parts, coupling: Coupling) -> None:
        self._state = state
        self._coupling = coupling
        self.running: Transfer | None = None
        self.promoted: dict[CallId, Promoted] = {}
        """Promotes that are done and wait until the instance is writable [P-13], [L-21]."""

    @property
    def deadline(self) -> float | None:
        transfer = self.running
        is_in_links = transfer is not None and transfer.phase is TransferPhase.LINKS
        return transfer.stands_at if transfer is not None and is_in_links else None

    # --- calls

    def on_promote_requested(self, event: PromoteRequested, now: float) -> None:
        """[P-10], [P-11]: an election for one term; the queue follows when it is won. One at a time [L-8], in
        every mode, without a wait for the old owner [P-21]."""
        state = self._state
        if state.stop.is_begun:
            state.calls.refuse(event.call_id, stopping_error())
        elif (refusal := refusal_of(state)) is not None:
            state.calls.refuse(event.call_id, refusal)
        elif self.running is not None:
            state.calls.refuse(event.call_id, self.running.busy)
        elif state.limbo.state is QueueState.LEADER:
            self._answer_promote(event.call_id, Promoted(state.limbo.term, state.self_id, 0, 0))
        else:
            self._begin(Transfer(event.call_id, False, state.raft.volatile_term))
            self._step_raft(raft_ev.CandidacyRequested(), now)

    def on_demote_requested(self, event: DemoteRequested, now: float) -> None:
        """[P-30] with elections: resign. [P-31] without: a new term, then DEMOTE, decided like a PROMOTE."""
        state, limbo, raft = self._state, self._state.limbo, self._state.raft
        may_interrupt = (
            state.settings.election_mode is not ElectionMode.OFF and raft.is_leader and not limbo.is_busy
        )
        if state.stop.is_begun:
            state.calls.refuse(event.call_id, stopping_error())
        elif (refusal := refusal_of(state)) is not None:
            state.calls.refuse(event.call_id, refusal)
        elif self.running is not None and not may_interrupt:
            state.calls.refuse(event.call_id, self.running.busy)
        elif state.settings.election_mode is not ElectionMode.OFF:
            if was_leader := raft.is_leader:
                self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
            state.calls.reply(event.call_id, Demoted(raft.volatile_term, is_done=was_leader))
        elif limbo.owner_id == NOBODY:
            state.calls.reply(event.call_id, Demoted(limbo.term, is_done=False))
        else:
            self._begin(Transfer(event.call_id, True, raft.volatile_term))
            self._give_queue_away(now)

    def expire(self, call_id: CallId, is_demote: bool, now: float) -> None:
        state, transfer = self._state, self.running
        term = state.raft.volatile_term
        if self.promoted.pop(call_id, None) is not None:
            reason = read_only_reason(state)
            text = (
                f"the queue is owned now, but the instance stays read-only (ro_reason: {reason.value}). "
                "Next: synchro status"
            )
            state.calls.refuse(call_id, TimedOut(text, term=term))
            return
        assert transfer is not None
        if transfer.phase is TransferPhase.LINKS and transfer.too_few is not None:
            self._end(Rejected(transfer.too_few))
            return
        if is_demote:
            self.look(self._coupling.carry_out(state.limbo.cancel_demote(now)))
        name = "demote" if is_demote else "promote"
        text = f"{name} was not decided in time; it may still be. Next: synchro status"
        self._end(Rejected(TimedOut(text, term=term)))

    def drop(self, call_id: CallId) -> None:
        """Its caller is gone. What raft and the limbo do for it goes on."""
        if self.promoted.pop(call_id, None) is None:
            self.running = None

    def stop(self) -> None:
        state, term = self._state, self._state.raft.volatile_term
        if self.running is not None:
            name = "demote" if self.running.is_demote else "promote"
            text = (
                f"the instance is stopping; the {name} is not decided, and may still be: see the queue owner"
            )
            state.calls.reply(self.running.call_id, Rejected(TimedOut(text, term=term)))
            self.running = None
        for call_id in self.promoted:
            text = "the queue is owned here, but the instance is stopping and stays read-only"
            state.calls.refuse(call_id, TimedOut(text, term=term))
        self.promoted.clear()

    # --- on the way

    def await_links(self, now: float) -> None:
        """[P-11]: a promote that came before the links waits for them, without a new term, which would stop
        all writers. Then for one heartbeat, in which whoever leads says so."""
        state, transfer = self._state, self.running
        if transfer is None or transfer.phase is not TransferPhase.LINKS:
            return
        transfer.links_changed(
            enough=state.raft.has_healthy_quorum, now=now, hear_s=state.settings.replication_timeout_s
        )
        if transfer.stands_at is not None and now >= transfer.stands_at:
            transfer.phase, transfer.stands_at = TransferPhase.ELECTION, None
            if transfer.is_demote:
                self._give_queue_away(now)
            else:
                self._step_raft(raft_ev.CandidacyRequested(), now)

    def _give_queue_away(self, now: float) -> None:
        """[P-31]: a demote that came before the links waits for them, as a promote does."""
        limbo, raft, transfer = self._state.limbo, self._state.raft, self.running
        assert transfer is not None
        if raft.exhausted is not None:
            self._end(Rejected(raft.exhausted))
            return
        if limbo.state is not QueueState.LEADER and (refusal := raft.demote_refusal) is not None:
            is_ours = limbo.owner_id == self._state.self_id
            self._end(transfer.refused(refusal) if is_ours else Rejected(refusal))
            return
        try:
            effects = limbo.request_demote(now)
        except NotLeader:
            self._end(Rejected(not_giver_error(self._state)))
            return
        self.look(self._coupling.carry_out(effects))
        self._step_raft(raft_ev.TermBumpRequested(), now)
        transfer.leads(raft.volatile_term)

    def _step_raft(self, event: raft_ev.RaftEvent, now: float) -> None:
        self.look(self._coupling.step_raft(event, now))

    def look(self, happened: Sequence[Happening]) -> None:
        """What it means for the one that runs."""
        for one in happened:
            transfer = self.running
            if transfer is None:
                return
            match one:
                case CandidacyOver(error, term, is_refusal):
                    self._end(transfer.candidacy_ended(error, term, is_refusal=is_refusal))
                case OwnerChanged():
                    self._end(transfer.owner_changed(one, self._state.self_id))
                case RaftStepped(term, leader, is_leader, may_lead):
                    is_off = self._state.settings.election_mode is ElectionMode.OFF
                    self._end(
                        transfer.raft_changed(
                            term, leader=leader, is_leader=is_leader, may_lead=may_lead, is_off=is_off
                        )
                    )
                case _:
                    assert_never(one)

    def _begin(self, transfer: Transfer) -> None:
        self.running = transfer
        self._state.calls.wait(transfer.call_id, TransferCall(transfer.is_demote))

    def _end(self, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        assert self.running is not None
        call_id = self.running.call_id
        self.running = None
        if isinstance(outcome, Promoted):
            self._answer_promote(call_id, outcome)
        else:
            self._state.calls.reply(call_id, outcome)

    def _answer_promote(self, call_id: CallId, outcome: Promoted) -> None:
        """[P-13]: it is done, but told only when the instance is writable too. Nobody else waits for that."""
        if read_only_reason(self._state) is WRITABLE:
            self._state.calls.reply(call_id, outcome)
        else:
            self._state.calls.wait(call_id, TransferCall(is_demote=False))
            self.promoted[call_id] = outcome

    def review_promoted(self) -> None:
        state = self._state
        if read_only_reason(state) is WRITABLE:
            for call_id, outcome in self.promoted.items():
                state.calls.reply(call_id, outcome)
        elif state.limbo.state is not QueueState.LEADER:
            for call_id, outcome in self.promoted.items():
                state.calls.refuse(call_id, interfering_elections(outcome.term, state.raft.volatile_term))
        else:
            return
        self.promoted.clear()


def refusal_of(state: Parts) -> SynchroError | None:
    """Why this instance has no part in elections now; None: it may have."""
    if state.is_doubled or state.is_expelled:
        return read_only_error(state, read_only_reason(state))
    if state.is_anonymous:
        return Unsupported(
            "An anonymous instance (replication.anon: true) does not support manual elections; nothing was "
            "changed"
        )
    return None


def interfering_elections(term: Term | None, new_term: Term) -> InterferingElections:
    return InterferingElections(
        f"Interfering elections started: leadership of term {term} was lost (the term is {new_term} "
        "now) before the call was over. Next: synchro status",
        term=term,
        new_term=new_term,
    )
