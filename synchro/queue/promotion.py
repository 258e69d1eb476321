"""PROMOTE and DEMOTE rows that are written but not decided. Rules [P-1], [P-2], ADR 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from synchro.ids import InstanceId, Lsn, Term
from synchro.row import Demote, Promote


class PendingPromote(NamedTuple):
    """A PROMOTE or DEMOTE row of `origin` at its LSN."""

    origin: InstanceId
    lsn: Lsn
    body: Promote | Demote

    @property
    def term(self) -> Term:
        return self.body.term


class PendingPromotes:
    """What this instance holds of take-overs that a quorum may or may not hold.

    N1  At most one of a term: the vote gives a term to one writer [E-2].
    N2  The ancestors of each, by `prev_term`, are pending here too, down to one that builds on the decided
        queue term: a row never arrives before what its writer had in its log. Or it builds in the end on what
        that term itself built on, by twins that may be forgotten, and takes its place (ADR 15).
    N3  All terms are above the decided queue term; those at or below it are void.
    """

    __slots__ = ("_by_term",)

    def __init__(self) -> None:
        self._by_term: dict[Term, PendingPromote] = {}

    def __len__(self) -> int:
        return len(self._by_term)

    def __iter__(self) -> Iterator[PendingPromote]:
        """All of them, lowest term first."""
        return (self._by_term[term] for term in sorted(self._by_term))

    def get(self, term: Term) -> PendingPromote | None:
        return self._by_term.get(term)

    @property
    def highest(self) -> PendingPromote | None:
        """The one with the highest term, on which a new leader builds; None if there is none."""
        return self._by_term[max(self._by_term)] if self._by_term else None

    def add(self, promote: PendingPromote) -> None:
        assert promote.term not in self._by_term  # PendingPromotes.N1
        self._by_term[promote.term] = promote

    def announced_by(self, owner: InstanceId, lsn: Lsn) -> PendingPromote | None:
        """The newest one that CONFIRM{owner, lsn} announces to be on a quorum; None if there is none."""
        if not self._by_term:
            return None
        announced = [p for p in self._by_term.values() if p.origin == owner and p.lsn <= lsn]
        return max(announced, key=lambda p: p.term, default=None)

    def chain(self, newest: PendingPromote, queue_term: Term) -> list[PendingPromote]:
        """`newest` and its ancestors above `queue_term`, oldest first: the order to decide them in. One that
        is not pending was a twin of what is decided: of it nothing is left to do (PendingPromotes.N2)."""
        chain = [newest]
        while (base := self._by_term.get(chain[-1].body.prev_term)) is not None and base.term > queue_term:
            chain.append(base)
        chain.reverse()
        return chain

    def drop_void(
        self, queue_term: Term, *, replaces: Callable[[PendingPromote], bool] = lambda _: False
    ) -> list[PendingPromote]:
        """Forget those that can never be decided once `queue_term` is; returns them, lowest term first.

        replaces: whether one that builds on less may take its place all the same (PendingPromotes.N2)."""
        void: list[PendingPromote] = []
        for promote in list(self):
            builds_on = promote.body.prev_term
            is_based = builds_on == queue_term or builds_on in self._by_term
            if promote.term <= queue_term or not (is_based or replaces(promote)):
                del self._by_term[promote.term]
                void.append(promote)
        return void

    def check(self, queue_term: Term, *, is_majority: bool) -> None:
        """is_majority: the quorum is one, so that there are no twins."""
        for promote in self:
            builds_on = promote.body.prev_term
            assert promote.term > queue_term  # PendingPromotes.N3
            assert builds_on < promote.term
            # PendingPromotes.N2
            assert builds_on <= queue_term or builds_on in self._by_term or not is_majority
