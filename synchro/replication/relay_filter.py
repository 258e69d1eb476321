"""Which rows a peer gets, and when. Rules [A-36], [A-38], [A-39], [M-34]. Pure.

A relay reads runs of whole transactions from the WAL and asks here about each of them. Transactions of
third origins are passed on unchanged, so chains, rings and full meshes work.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from synchro.ids import LOCAL, InstanceId, Lsn, Term
from synchro.vclock import Vclock


class TxnHead(NamedTuple):
    """What decides whether a transaction is sent.

    origin, lsn: as in `Txn`; LOCAL if all rows are local. term: of its PROMOTE or DEMOTE, else 0.
    """

    origin: InstanceId
    lsn: Lsn
    term: Term = Term(0)


class RelayFilter:
    """Position of one stream.

    R1  Per origin, the LSNs that pass rise, and all are above what the subscriber said it has.
    R2  Nothing of an origin in `id_filter` passes, and no local transaction.
    R3  A transaction with a term above `term_sent` does not pass before that term was sent [A-38], [L-26].
    R4  With an empty filter, rows of the peer itself pass only up to what was here at its Hello: later
        ones can only have come from the peer, and are never echoed [A-36].
    """

    __slots__ = ("_echo_up_to", "_id_filter", "_peer", "position", "term_sent")

    def __init__(
        self,
        *,
        peer: InstanceId,
        id_filter: Set[InstanceId],
        subscriber_vclock: Vclock,
        own_vclock: Vclock,
    ) -> None:
        self._peer = peer
        self._id_filter = frozenset(id_filter)
        self._echo_up_to = own_vclock.get(peer)
        self.position: dict[InstanceId, Lsn] = subscriber_vclock.without_local().as_dict()
        self.term_sent = Term(0)

    def wants(self, head: TxnHead) -> bool:
        """Whether this transaction must be sent. It does not look at terms (RelayFilter.R3)."""
        if head.origin == LOCAL or head.origin in self._id_filter:
            return False
        if head.origin == self._peer and head.lsn > self._echo_up_to:
            return False
        return head.lsn > self.position.get(head.origin, 0)

    def is_held(self, head: TxnHead) -> bool:
        """Whether the subscriber must see the term before this row (RelayFilter.R3)."""
        return head.term > self.term_sent

    def passed(self, head: TxnHead) -> None:
        """The transaction goes into the stream now."""
        assert head.lsn > self.position.get(head.origin, 0), (head, self.position)  # RelayFilter.R1
        assert head.term <= self.term_sent, (head, self.term_sent)  # RelayFilter.R3
        self.position[head.origin] = head.lsn

    def acked(self, vclock: Vclock) -> None:
        """The peer has these rows, no matter who sent them: they need not be sent any more."""
        for origin, lsn in vclock:
            if origin != LOCAL and lsn > self.position.get(origin, 0):
                self.position[origin] = lsn
