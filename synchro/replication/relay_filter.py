"""Which rows a peer gets, and when. Rules [A-36], [A-38], [A-39], [M-34]. Pure.

A relay reads runs of whole transactions from the WAL and asks here about each of them. Transactions of
third origins are passed on unchanged, so chains, rings and full meshes work.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

from synchro.ids import LOCAL, InstanceId, Lsn, Term
from synchro.vclock import Vclock


class TxnHead(NamedTuple):
    """What must be known of a transaction to decide whether it is sent.

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
    R4  With an empty filter, rows of the peer itself pass until it says that it counts: before that it writes
        nothing, so what comes here, from whomever, is of its former life (ADR 28).
    R5  Rows whose origin sends them to the subscriber itself are held back, unless own rows wait behind them.
    """

    __slots__ = ("_id_filter", "_peer", "following", "position", "term_sent")

    def __init__(self, *, peer: InstanceId, id_filter: Set[InstanceId], subscriber_vclock: Vclock) -> None:
        self._peer = peer
        self._id_filter = frozenset(id_filter)
        self.position: dict[InstanceId, Lsn] = subscriber_vclock.without_local().as_dict()
        self.term_sent = Term(0)
        self.following: frozenset[InstanceId] = frozenset()
        """Whose rows the subscriber gets from themselves, by its newest ack."""

    def wants(self, head: TxnHead) -> bool:
        """Must this transaction be sent? Does not look at terms (R3)."""
        if head.origin == LOCAL or head.origin in self._id_filter:
            return False
        return head.lsn > self.position.get(head.origin, 0)

    def wants_run(self, origin: InstanceId, first: Lsn, last: Lsn) -> bool | None:
        """Must this run of whole plain transactions of one origin be sent? None: a part of it."""
        have = self.position.get(origin, 0)
        if last <= have or not self.wants(TxnHead(origin, Lsn(have + 1))):
            return False  # R1; R2 and R4: if it does not get the next one, it gets none of this origin
        return True if first > have and self.wants(TxnHead(origin, last)) else None

    def comes_from_origin(self, wanted: Sequence[InstanceId], *, own: InstanceId, own_lsn: Lsn) -> bool:
        """R5, for rows of the origins `wanted`. own_lsn: newest synced row of this instance `own`.

        In a full mesh every byte is carried, checked and decoded once then, not N - 1 times [A-39]. It ends
        when the peer has the rows, when it lost the link to their origin, or when own rows wait behind.
        """
        return bool(wanted) and self.following.issuperset(wanted) and own_lsn <= self.position.get(own, 0)

    def is_held(self, head: TxnHead) -> bool:
        """R3: the subscriber must see the term before this row."""
        return head.term > self.term_sent

    def passed(self, head: TxnHead) -> None:
        """It goes into the stream now."""
        assert head.lsn > self.position.get(head.origin, 0), (head, self.position)  # R1
        assert head.term <= self.term_sent, (head, self.term_sent)  # R3
        self.position[head.origin] = head.lsn

    def acked(self, vclock: Vclock, *, counts: bool) -> None:
        """The peer has these rows, from whomever: they need not be sent any more. counts: its log is whole,
        so rows of its own that follow come from itself, and are never sent back (R4)."""
        if counts:
            self._id_filter |= {self._peer}
        for origin, lsn in vclock:
            if origin != LOCAL and lsn > self.position.get(origin, 0):
                self.position[origin] = lsn
