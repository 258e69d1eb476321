"""The one promote or demote that was asked for here, from the request to its answer. [P-10]..[P-13], [P-31].

The election and the transfer themselves are raft's and the limbo's; they go on whether somebody waits for
an answer or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from synchro.errors import (
    InAnotherPromote,
    InterferingElections,
    InterferingPromote,
    NoElectionQuorum,
    SynchroError,
    Unsupported,
)
from synchro.ids import NOBODY, CallId, InstanceId, Term
from synchro.instance.events import Demoted, Outcome, Promoted, Rejected
from synchro.queue.effects import OwnerChanged


class Phase(Enum):
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
    phase: Phase = Phase.ELECTION
    term: Term | None = None
    too_few: SynchroError | None = None
    """In LINKS: what is missing."""
    stands_at: float | None = None
    """In LINKS: monotonic seconds, when enough have been connected for long enough to say who leads."""

    @property
    def busy(self) -> SynchroError:
        """What a second promote or demote is told meanwhile [P-10], [P-11]."""
        if self.phase is Phase.QUEUE:
            name = "demote" if self.is_demote else "promote"
            return Unsupported(
                "promote and demote do not support simultaneous invocations: the queue is changing hands "
                f"here by a {name}; nothing was changed"
            )
        name = "demote" if self.is_demote else "promote"
        return InAnotherPromote(f"{name} is already running here; nothing was changed")

    def candidacy_ended(self, error: SynchroError | None, term: Term, *, is_refusal: bool) -> Outcome | None:
        """is_refusal: it did not begin, and no term was taken."""
        if self.is_demote or self.phase is Phase.QUEUE:
            return None
        if error is None:
            self.leads(term)
            return None
        return self.refused(error) if is_refusal else Rejected(error)

    def refused(self, error: SynchroError) -> Outcome | None:
        """Before a term was taken: links may come up in time."""
        if isinstance(error, NoElectionQuorum):
            self.phase, self.too_few = Phase.LINKS, error
            return None
        return Rejected(error)

    def leads(self, term: Term) -> None:
        self.phase = Phase.QUEUE
        self.term = term
        self.stands_at = None  # a time that is over would ring without end

    def links_changed(self, *, enough: bool, now: float, hear_s: float) -> None:
        """hear_s: so long after it is connected a peer has said who leads."""
        if self.phase is not Phase.LINKS or not enough:
            self.stands_at = None
        elif self.stands_at is None:
            self.stands_at = now + hear_s

    def owner_changed(self, effect: OwnerChanged, self_id: InstanceId) -> Outcome | None:
        if self.phase is Phase.LINKS and effect.new not in (NOBODY, self_id):
            return Rejected(_promoted_first(effect.new))
        if self.phase is not Phase.QUEUE or self.term != effect.term:
            return None
        if self.is_demote and effect.new == NOBODY:
            return Demoted(effect.term)
        if not self.is_demote and effect.new == self_id:
            return Promoted(effect.term, effect.old, effect.confirmed, effect.rolled_back)
        return None

    def raft_changed(
        self, term: Term, *, leader: InstanceId, is_leader: bool, may_lead: bool
    ) -> Outcome | None:
        """Leadership was lost before the queue followed [P-13]: by a later term, or given up in this one. Or,
        before it was sought, somebody else was elected.

        term: volatile. may_lead: raft leads, or will once the write in progress is on disk."""
        if self.phase is Phase.LINKS:
            if is_leader and not self.is_demote:
                self.leads(term)
            elif leader != NOBODY and term > self.asked_in:
                return Rejected(_promoted_first(leader))
            return None
        if self.phase is not Phase.QUEUE or (self.term == term and may_lead):
            return None
        return Rejected(interfering_elections(self.term, term))


def interfering_elections(term: Term | None, new_term: Term) -> InterferingElections:
    return InterferingElections(
        f"Interfering elections started: leadership of term {term} was lost (the term is {new_term} "
        "now) before the call was over. Next: synchro status",
        term=term,
        new_term=new_term,
    )


def _promoted_first(leader: InstanceId) -> InterferingPromote:
    return InterferingPromote(
        f"Instance with replica id {leader} was promoted first; nothing was changed here", leader=leader
    )
