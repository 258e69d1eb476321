"""The one promote or demote that was asked for here, from the request to its answer. [P-10]..[P-13], [P-31].

The election and the transfer themselves are raft's and the limbo's; they go on whether somebody waits for
an answer or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from synchro.errors import InterferingElections, SynchroError
from synchro.ids import NOBODY, CallId, InstanceId, Term
from synchro.instance_events import Demoted, Outcome, Promoted, Rejected
from synchro.queue.effects import OwnerChanged


class Phase(Enum):
    ELECTION = "election"
    """raft stands for a term"""
    QUEUE = "queue"
    """raft leads `term`; the PROMOTE or DEMOTE of that term is not decided yet"""


@dataclass(slots=True)
class Transfer:
    """Each method tells a fact and returns the answer to the call, None while it has none."""

    call_id: CallId
    is_demote: bool
    phase: Phase = Phase.ELECTION
    term: Term | None = None
    held: Promoted | None = None
    """It is done, but the instance is not writable, for a reason of its own: told then [P-13], [L-21]."""

    def candidacy_ended(self, error: SynchroError | None, term: Term) -> Outcome | None:
        if self.is_demote or self.phase is not Phase.ELECTION:
            return None
        if error is not None:
            return Rejected(error)
        self.leads(term)
        return None

    def leads(self, term: Term) -> None:
        self.phase = Phase.QUEUE
        self.term = term

    def owner_changed(self, effect: OwnerChanged, self_id: InstanceId) -> Outcome | None:
        if self.phase is not Phase.QUEUE or self.term != effect.term:
            return None
        if self.is_demote and effect.new == NOBODY:
            return Demoted(effect.term)
        if not self.is_demote and effect.new == self_id:
            return Promoted(effect.term, effect.old, effect.confirmed, effect.rolled_back)
        return None

    def raft_changed(self, volatile_term: Term, *, may_lead: bool) -> Outcome | None:
        """Leadership was lost before the queue followed [P-13]: by a later term, or given up in this one.

        may_lead: raft leads, or will once the write in progress is on disk."""
        if self.phase is not Phase.QUEUE or (self.term == volatile_term and may_lead):
            return None
        return Rejected(
            InterferingElections(
                "Interfering elections started; the queue did not change hands here",
                term=self.term,
                new_term=volatile_term,
            )
        )
