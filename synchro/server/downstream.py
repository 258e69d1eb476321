"""What is known of a subscriber, kept while it is away: `box.info.replication[n].downstream` [I-13c]."""

from __future__ import annotations

import trio

from synchro.ids import InstanceId
from synchro.vclock import EMPTY_VCLOCK


class Downstream:
    """Written by the relay of the subscriber, read by `info` and by whoever keeps the log for it."""

    def __init__(self, peer: InstanceId) -> None:
        self.peer = peer
        self.is_following = False
        self.changed_at: float | None = None
        """trio time at which it came; while it is away, at which it was heard last. None: it never came."""
        self.name = ""
        self.address = ""
        """Where it listens, as it said at its last Hello; "": an older version."""
        self.message: str | None = None
        self.system_message: str | None = None
        self.acked = EMPTY_VCLOCK
        """What it has by its newest word, since its last Hello: shown, and WAL above it is kept [W-41]. A
        re-seed, or amnesia, may have less than the life before. What it is told at its next Hello (S14) is in
        `Links.acks`."""
        self.sent_at = trio.current_time()
        self.lag = 0.0
        """Seconds from the local WAL to the subscriber's and back, by its last ack that told; 0 while it is
        away. Acks of heartbeats tell nothing, so it does not grow when no rows flow [A-23], [L-25]."""

    @property
    def idle(self) -> float:
        """Seconds since something was sent [A-22]."""
        return trio.current_time() - self.sent_at
