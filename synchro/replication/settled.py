"""Which rows every member has, so that nothing older than them can come any more. ADR 44.

A row that wins over older ones may be forgotten when no older one can arrive. Whoever has it on disk writes
newer rows only; older ones of his may be on their way still. His ack says how far his log was, so when all of
that is here too, there is nothing left of him that is older.
"""

from __future__ import annotations

from synchro.ids import InstanceId, Lsn
from synchro.vclock import Vclock


class Settled:
    """S1  `_settled[peer]` was on the disk of `peer`, and all that it had on disk at that moment is here.
    S2  What a peer said before a member left does not count: it may have got more of that one since.
    """

    def __init__(self) -> None:
        self._waiting: dict[InstanceId, Vclock] = {}
        """Acks of which not all is here yet, one for each peer: else a busy one would never settle."""
        self._settled: dict[InstanceId, Vclock] = {}
        self._members: frozenset[InstanceId] = frozenset()
        self._at_least: Vclock | None = None

    def acked(self, peer: InstanceId, vclock: Vclock) -> None:
        if self._at_least is None or vclock.covers(self._at_least):  # Settled.S2
            self._waiting.setdefault(peer, vclock)

    def began_anew(self, peer: InstanceId) -> None:
        """It subscribed again, perhaps after it lost a part of its log: what it said is void [L-10]."""
        self._waiting.pop(peer, None)
        self._settled.pop(peer, None)

    def look(self, own: Vclock, others: frozenset[InstanceId]) -> dict[InstanceId, Lsn] | None:
        """own: the written vclock. others: the members, without this one. Returns up to which LSN of each
        origin everybody has all rows and nothing older can come; None: no further than before."""
        if self._members - others:
            self._waiting.clear()
            self._settled.clear()
            self._at_least = own.without_local()
        self._members = others
        here = [peer for peer, vclock in self._waiting.items() if own.covers(vclock)]
        for peer in here:
            self._settled[peer] = self._waiting.pop(peer)  # Settled.S1
        if others and (not here or not others <= self._settled.keys()):
            return None
        said = [own, *(self._settled[peer] for peer in sorted(others))]
        return {origin: min(vclock.get(origin) for vclock in said) for origin, _ in own if origin}
