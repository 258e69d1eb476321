"""May this instance trust its own log? The amnesia rule (invariant S14).

Two quorums overlap in 2Q - N instances: with three instances and Q = 2 in one. If that one forgot rows it
had acknowledged, it could elect an owner without them. So an instance whose log is not provably complete
neither votes nor stands, and its acks do not count, until it is as fresh as *every* other registered
member was when first heard: a forgotten vote may be known to one of them only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from synchro.ids import InstanceId, Term
from synchro.vclock import Vclock


@dataclass(slots=True)
class Trust:
    """T1  Once lost, trust comes back only by `update` (or by an operator, at the next start)."""

    is_trusted: bool
    _first_reports: dict[InstanceId, tuple[Vclock, Term]] = field(default_factory=dict)

    def lose(self) -> None:
        """The log turned out to be incomplete: what was heard before does not count any more."""
        if self.is_trusted:
            self.is_trusted = False
            self._first_reports.clear()

    def hear(self, peer: InstanceId, vclock: Vclock, term: Term) -> None:
        """`peer` reported its written vclock and its term; the first report since the start counts."""
        if not self.is_trusted:
            self._first_reports.setdefault(peer, (vclock, term))

    def update(self, others: frozenset[InstanceId], vclock: Vclock, term: Term) -> bool:
        """True if trust came back now. others: registered members but this one; own state is persisted.

        Alone in the set nobody can say what was forgotten, so a lone member does not heal by itself.
        """
        if self.is_trusted or not others:
            return False
        for peer in others:
            report = self._first_reports.get(peer)
            if report is None or not vclock.covers(report[0]) or term < report[1]:
                return False
        self.is_trusted = True
        return True
