"""Standing for one term on request: promote, and the new term of a demote. Rules [P-10], [P-11], [P-31]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synchro.errors import (
    ElectionDisabled,
    InAnotherPromote,
    InterferingPromote,
    NoElectionQuorum,
    OldTerm,
    SynchroError,
    TimedOut,
    Unsupported,
)
from synchro.ids import NOBODY, InstanceId, Lsn, Term


@dataclass(slots=True)
class Candidacy:
    """One stand for election on request. It ends when it is won, or with the first reason that `lost`
    finds."""

    term: Term
    since: float
    """When it began, in monotonic seconds. It may last one election timeout."""
    is_answered: bool
    """False for a `TermBumpRequested`, whose asker does not wait for `CandidacyEnded`."""
    given_up: SynchroError | None = None
    """Why this instance gave it up: elections turned off, a split vote, or lost trust. None while it goes
    on."""

    @property
    def busy(self) -> SynchroError:
        """The error that a second request gets meanwhile [P-10], [P-11]."""
        if self.is_answered:
            return InAnotherPromote("promote is already running here; nothing was changed")
        return Unsupported("promote and demote do not support simultaneous invocations; nothing was changed")

    def lost(
        self,
        *,
        no_quorum: SynchroError | None,
        leader: InstanceId,
        term: Term,
        timed_out: SynchroError | None,
        by_demote: bool = False,
    ) -> SynchroError | None:
        """Return why this candidacy is lost, or None while it goes on. The reasons are tried in the order of
        [P-11].

        no_quorum, timed_out: that reason, if it holds. A demote needs no healthy quorum: its owner must not
        write in the old term any more in any case [P-31]. by_demote: as in `led_first`.
        """
        if self.is_answered and no_quorum is not None:
            return no_quorum
        if leader != NOBODY and term == self.term:
            return led_first(leader, by_demote=by_demote)
        if term > self.term:
            return OldTerm(f"The term is outdated: old - {self.term}, new - {term}", old=self.term, new=term)
        return self.given_up or timed_out


def led_first(leader: InstanceId, *, by_demote: bool) -> InterferingPromote:
    """by_demote: there are no elections, so a demote begins a term as well, and what it is for is not told
    with the term [P-31]."""
    text = f"Instance with replica id {leader} was promoted first"
    if by_demote:
        text += ", or is giving the queue away by a demote"
    return InterferingPromote(text, leader=leader)


def no_election_quorum(*, connected: int, needed: int, begun: Term | None = None) -> NoElectionQuorum:
    """begun: the term of a candidacy whose peers were lost on the way; None: none was begun."""
    done = "nothing was changed" if begun is None else f"term {begun} was begun for it, and stays"
    text = (
        f"Not enough peers connected to start elections: {connected} out of minimal required {needed}; "
        f"{done}. Next: synchro status"
    )
    if begun is None:
        return NoElectionQuorum(text, connected=connected, needed=needed)
    return NoElectionQuorum(text, connected=connected, needed=needed, term=begun)


def not_elected_in_time(term: Term, *, votes: int, needed: int) -> TimedOut:
    return TimedOut(
        f"Nobody was elected in term {term} in time: {votes} of {needed} votes for this instance",
        term=term,
        votes=votes,
        needed=needed,
    )


_NEW_SET: Final = (
    "nothing was changed. Numbers end at 2^62; these come from a log of a version that had no such bound. "
    "What is committed is still read here. Next: make a new replica set and copy the data into it"
)


def term_exhausted(term: Term) -> ElectionDisabled:
    return ElectionDisabled(f"No election can raise term {term} any more; {_NEW_SET}", term=term)


def lsn_exhausted(lsn: Lsn) -> ElectionDisabled:
    return ElectionDisabled(f"Behind LSN {lsn} this instance has none for new rows; {_NEW_SET}", lsn=lsn)
