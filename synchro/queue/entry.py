"""One transaction in the limbo. Rules [Q-5], [Q-15].

While the limbo is over its size limit, requests wait outside of it, unprepared and without an LSN. So an
entry always has an LSN: it is in the WAL or on its way there.
"""

from __future__ import annotations

from enum import Enum

from synchro.ids import LOCAL, InstanceId, Lsn


class EntryState(Enum):
    SUBMITTED = "submitted"
    """in the WAL or on its way; its fate is open"""
    COMMIT = "commit"
    ROLLBACK = "rollback"


class LimboEntry:
    """A transaction that waits for its decision. Subclass it to keep more with a transaction: the limbo gives
    the same objects back.

    origin, lsn: of its last global row. A fully local transaction has origin LOCAL and an LSN of component 0,
    which is never compared with a border: it follows the global entry in front of it. wait_ack: True =
    synchronous itself; False = asynchronous, or local, behind a synchronous one [Q-10]. size: bytes.
    submitted_at: monotonic seconds. count: transactions of clients that share it (ADR 13).
    """

    __slots__ = ("count", "is_written", "lsn", "origin", "size", "state", "submitted_at", "wait_ack")

    def __init__(
        self, origin: InstanceId, lsn: Lsn, wait_ack: bool, size: int, submitted_at: float, count: int = 1
    ) -> None:
        self.origin = origin
        self.lsn = lsn
        self.wait_ack = wait_ack
        self.size = size
        self.count = count
        self.submitted_at = submitted_at
        self.is_written = False
        self.state = EntryState.SUBMITTED

    @property
    def is_local(self) -> bool:
        return self.origin == LOCAL

    def __repr__(self) -> str:
        kind = "local" if self.is_local else "sync" if self.wait_ack else "async"
        return f"LimboEntry({self.origin}:{self.lsn} {kind} {self.state.value})"
