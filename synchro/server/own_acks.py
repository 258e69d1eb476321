"""What an upstream is told of us: how far its rows are on our disk, and what it may send. Rule [A-26].

No I/O: the applier sends what is made here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.row import Confirm, PlainTxn, Txn
from synchro.server.peer_messages import Hello, PeerAck
from synchro.vclock import EMPTY_VCLOCK, Vclock

TIMES_MAX: Final = 1024
"""How many transactions that are not on disk yet are remembered with the time at which they were sent."""


class OwnAcks:
    """The acks of one stream.

    K1  `is_owed` while no ack covers all rows that were handed over and that somebody waits for.
    K2  The time of a transaction is told once, by the first ack that covers it.
    """

    def __init__(self) -> None:
        self.last: PeerAck
        """Since the stream was asked for: what the peer knows of us."""
        self.received_bytes = 0
        """Of rows, since the stream was accepted: what a receipt says (ADR 20)."""
        self.is_owed = False
        self._named = EMPTY_VCLOCK
        """Of rows that the Hello said may have to be written yet, the newest LSN of each origin."""
        self._handed: dict[InstanceId, Lsn] = {}
        """Highest LSN per origin given to the core since the stream began."""
        self._awaited: dict[InstanceId, Lsn] = {}
        """The same, of rows whose ack somebody waits for: not of a CONFIRM."""
        self._sent_at: deque[tuple[InstanceId, Lsn, float]] = deque()
        """Origin and LSN of the last transaction of a frame, and when the peer sent it; at most TIMES_MAX."""
        self._tm = 0.0
        self.vclock_sync = 0
        """The highest number of a heartbeat that came; the next ack says it."""

    def asked(self, hello: Hello) -> None:
        """The stream is asked for: the Hello is its first ack."""
        self.last = PeerAck(ev.Ack(hello.vclock, hello.term, 0, hello.counts), hello.credit)
        self._named = hello.unwritten

    def accepted(self) -> None:
        self.vclock_sync = self.received_bytes = 0
        self._tm = 0.0
        self._handed.clear()
        self._awaited.clear()
        self.is_owed = False

    def lost(self) -> None:
        self.is_owed = False
        self._sent_at.clear()

    @property
    def handed(self) -> Vclock:
        return Vclock(self._handed)

    def are_there(self, vclock: Vclock) -> bool:
        """Whether all that was handed over is on disk, and all that the peer waits for since our Hello."""
        return vclock.covers(self.handed) and vclock.covers(self._named)

    def hand(self, txns: Sequence[Txn | PlainTxn], tm: float, *, is_syncing: bool) -> None:
        """These go to the core now. tm: when the peer sent them; 0: it does not say. is_syncing: the peer
        waits for the ack of CONFIRMs too."""
        handed, awaited = self._handed, self._awaited
        for txn in txns:
            handed[txn.origin] = txn.lsn
            if is_syncing or type(txn) is PlainTxn or not isinstance(txn.control, Confirm):
                awaited[txn.origin] = txn.lsn
                self.is_owed = True
        if tm and self.is_owed:  # else the time would tell how long the next heartbeat took
            self._sent_at.append((txns[-1].origin, txns[-1].lsn, tm))
            if len(self._sent_at) > TIMES_MAX:
                self._sent_at.popleft()

    def are_covered(self, vclock: Vclock) -> bool:
        """Whether all that an ack is owed for is on disk."""
        return vclock.covers(Vclock(self._awaited))

    def heard_beat(self, vclock_sync: int) -> None:
        """vclock_sync: number of the heartbeat."""
        self.vclock_sync = max(self.vclock_sync, vclock_sync)

    def make(self, core: Instance, *, credit: int, following: frozenset[InstanceId]) -> PeerAck:
        """The ack of this moment, which is sent now."""
        vclock, raft = core.vclock.shown(), core.raft
        sent_at = self._sent_at
        while sent_at and sent_at[0][1] <= vclock.get(sent_at[0][0]):
            self._tm = sent_at.popleft()[2]
        self.last = PeerAck(
            ack=ev.Ack(
                vclock, raft.shown_term, self.vclock_sync, core.acks_count, raft.membership.election_quorum
            ),
            credit=credit,
            tm=self._tm,
            following=following,
            received=self.received_bytes,
        )
        self.is_owed = any(lsn > vclock.get(origin) for origin, lsn in self._awaited.items())  # OwnAcks.K1
        self._tm = 0.0  # OwnAcks.K2
        return self.last
