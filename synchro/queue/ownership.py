"""How the queue changed hands: what is decided, and which PROMOTEs and DEMOTEs may be. Rules [P-1] to [P-4].

A PROMOTE or DEMOTE that is in the log is pending, then decided or void. Twins that other leaders of the same
term, or of a later one, wrote may replace what is decided as long as nothing came of that (ADR 15).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from types import MappingProxyType
from typing import Final, TypeVar

from synchro.ids import INITIAL_TERM, NOBODY, InstanceId, Lsn, Term
from synchro.queue.limbo_queue import ZERO_LSN
from synchro.queue.promotion import PendingPromote, PendingPromotes
from synchro.queue.state import LimboState

K = TypeVar("K")

TRANSFERS_MAX: Final = 64
"""How many PROMOTEs and DEMOTEs are remembered: twins come from the same few elections (ADR 15)."""


class Ownership:
    """What is known of the owners of the queue, past, present and perhaps next.

    O1  `term`, `promote_terms` and `confirmed_vclock` never go back [P-4].
    O2  `pending` has only what is above `term`; of each writer the newest void one is kept in `void`, unless
        a later one of it was decided.
    O3  At most TRANSFERS_MAX rows are remembered, and as many decisions; the oldest are forgotten.
    """

    def __init__(self) -> None:
        self.term = INITIAL_TERM
        """The queue term: that of the last decided PROMOTE or DEMOTE."""
        self.pending = PendingPromotes()
        self.void: dict[InstanceId, PendingPromote] = {}
        """For each writer, its newest PROMOTE or DEMOTE without effect: tells split brain from nonsense."""
        self._confirmed: dict[InstanceId, Lsn] = {}
        self._promote_terms: dict[InstanceId, Term] = {}
        self._known: dict[tuple[InstanceId, Lsn], PendingPromote] = {}
        self._decided: dict[Term, PendingPromote] = {}
        self.confirmed_vclock = MappingProxyType(self._confirmed)
        """For each owner, past or present: everything up to this LSN is decided."""
        self.promote_terms = MappingProxyType(self._promote_terms)
        """For each instance: the highest term of a decided PROMOTE or DEMOTE of it."""

    def confirmed_of(self, owner: InstanceId) -> Lsn:
        return self._confirmed.get(owner, ZERO_LSN)

    @property
    def transfers(self) -> Iterator[PendingPromote]:
        """The PROMOTEs and DEMOTEs that are pending, and the last ones that were decided."""
        yield from self.pending
        yield from self._decided.values()

    def transfer_at(self, origin: InstanceId, lsn: Lsn) -> PendingPromote | None:
        """The PROMOTE or DEMOTE row with this LSN, if it is one of the last few; a void one too."""
        return self._known.get((origin, lsn))

    def has_other_of(self, term: Term, writer: InstanceId) -> bool:
        """Whether another instance than `writer` is known to have written one in this term (ADR 15)."""
        return any(row.term == term and row.origin != writer for row in self._known.values())

    def note(self, promote: PendingPromote) -> None:
        """It is in the log; what becomes of it is told by `pending.add`, or `note_void`."""
        _remember(self._known, (promote.origin, promote.lsn), promote)

    def note_void(self, promote: PendingPromote) -> None:
        """It has no effect, for ever."""
        if self._promote_terms.get(promote.origin, 0) < promote.term:
            self.void[promote.origin] = promote  # Ownership.O2

    def drop_void(
        self,
        *,
        keep: Collection[PendingPromote] = (),
        replaces: Callable[[PendingPromote], bool] = lambda _: False,
    ) -> None:
        """Forget the pending ones that can never be decided any more. keep: those that are decided, not
        void."""
        for void in self.pending.drop_void(self.term, replaces=replaces):
            if void not in keep:
                self.note_void(void)

    def confirm(self, owner: InstanceId, lsn: Lsn) -> None:
        """All of this owner up to this LSN is decided."""
        if owner != NOBODY:
            self._confirmed[owner] = max(self._confirmed.get(owner, ZERO_LSN), lsn)  # Ownership.O1

    def decide(self, promote: PendingPromote) -> None:
        """It takes the queue over. Everything of the old owner up to the border, and of the writer up to its
        row, is decided now: a late CONFIRM of either has no effect [P-41], [L-3]."""
        body = promote.body
        self.confirm(body.prev_owner, body.lsn)
        self.confirm(promote.origin, promote.lsn)
        assert body.term > self.term  # Ownership.O1
        self.term = body.term
        self._promote_terms[promote.origin] = body.term
        _remember(self._decided, body.term, promote)

    def restore(self, state: LimboState) -> None:
        """As a snapshot has it; nothing is pending then."""
        self.term = state.term
        self.pending = PendingPromotes()
        self._confirmed.clear()
        self._confirmed.update(state.confirmed_vclock)
        self._promote_terms.clear()
        self._promote_terms.update(state.promote_terms)

    def check(self, *, is_majority: bool) -> None:
        """is_majority: see `PendingPromotes.check`."""
        self.pending.check(self.term, is_majority=is_majority)
        assert NOBODY not in self._confirmed
        assert max(self._promote_terms.values(), default=INITIAL_TERM) <= self.term  # Ownership.O1
        assert max(len(self._known), len(self._decided)) <= TRANSFERS_MAX  # Ownership.O3


def _remember(known: dict[K, PendingPromote], key: K, promote: PendingPromote) -> None:
    known[key] = promote
    if len(known) > TRANSFERS_MAX:
        del known[next(iter(known))]
