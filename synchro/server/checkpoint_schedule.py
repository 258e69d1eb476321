"""When a checkpoint is due: by time, and by bytes of the log. Rule [W-30]. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

LOOK_S: Final = 1.0
"""How often the bytes of the log are looked at, if they count."""
REST: Final = 4
"""By bytes alone a checkpoint begins after a rest of so many times what the last one took: a small limit, or
a flood of writes, leaves most of the disk and of the loop to the writes."""
RETRY_S: Final = 10.0
"""By bytes alone, after a checkpoint that failed."""


@dataclass(slots=True)
class CheckpointSchedule:
    """Times are monotonic seconds; `logged` is a counter of bytes of the log that never goes back.

    since: when the last one ended, or the start. logged_then: the counter as the last one began. share: part
    of the interval after which the first one comes, so that instances which start together write apart.
    """

    since: float
    logged_then: int
    share: float = 1.0
    rest_s: float = 0.0

    def due_in(self, *, interval_s: float, log_bytes: int, logged: int, now: float) -> float:
        """Seconds to wait before it is asked again; 0: now. interval_s, log_bytes: 0 = never by that."""
        by_time = self.since + interval_s * self.share - now if interval_s else math.inf
        if not log_bytes:
            return max(0.0, by_time)
        by_bytes = LOOK_S
        if self.logged_since(logged) > log_bytes:
            by_bytes = self.since + self.rest_s - now
        return max(0.0, min(by_time, by_bytes))

    def ended(self, *, began: float, now: float, logged: int) -> None:
        """logged: the counter as it began."""
        self.since, self.share, self.rest_s, self.logged_then = now, 1.0, REST * (now - began), logged

    def failed(self, now: float) -> None:
        self.since, self.share, self.rest_s = now, 1.0, RETRY_S

    def logged_since(self, logged: int) -> int:
        """Bytes of the log since the last checkpoint."""
        return logged - self.logged_then
