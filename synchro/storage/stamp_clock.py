"""When a row was written, where the last write wins: times that rise, whatever the clock does. ADR 44."""

from __future__ import annotations

from typing import Final, NamedTuple

from synchro.errors import Unsupported
from synchro.ids import INSTANCE_ID_MAX, NUMBER_END

STAMP_LAST: Final = NUMBER_END - 2**32
"""No row has a later one: rows behind it would be left without stamps."""


class Stamp(NamedTuple):
    """time: microseconds since 1970, or more where the clock of an instance lags behind what it has seen; 0:
    the row has none."""

    time: int
    origin: int


UNKNOWN: Final = Stamp(0, 0)
"""Of a key of which nothing is known."""
UNSTAMPED: Final = Stamp(0, INSTANCE_ID_MAX)
"""Of a change from before the space had stamps [stamps.G3]."""


class StampClock:
    """Gives times that rise: the own clock, or one more than the newest time that was seen."""

    __slots__ = ("newest", "now", "offset_us")

    def __init__(self) -> None:
        self.newest = 0
        self.now = 0.0
        """Monotonic seconds of the step that runs."""
        self.offset_us = 0
        """What makes wall time of them, in microseconds."""

    def next(self) -> int:
        """Raises `Unsupported`: there are none left."""
        if self.newest >= STAMP_LAST:
            raise Unsupported("conflict 'last_write_wins' does not support later stamps; nothing was written")
        self.newest = max(int(self.now * 1e6) + self.offset_us, self.newest + 1)
        return self.newest

    def saw(self, time: int, *, is_new: bool = False) -> None:
        """is_new: it comes from a peer, not from the own files. Raises `Unsupported`: it would leave none."""
        if is_new and time >= STAMP_LAST:
            raise Unsupported(f"A row does not support the stamp {time}: no row could follow it")
        self.newest = max(self.newest, time)
