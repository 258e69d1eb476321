"""How fast bytes may be sent to one receiver, so that no heartbeat waits behind many. ADR 20. Pure.

A sender cannot see a slow link: what it writes disappears into buffers. So the receiver says how many bytes
it has got (receipts), and what is on its way in between is kept below a window. A receipt that comes late
makes the window smaller, one that comes soon for bytes that filled half of it makes it larger.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW_START_BYTES: Final = 8 * 1024
"""The first window. A link of 16 KB/s carries it in half a second; a fast one doubles it with every round
trip."""
WINDOW_MIN_BYTES: Final = 2 * 1024
"""The smallest window: below it the bytes around the rows would be most of what is sent."""
PIECE_MIN_BYTES: Final = 1024


class _Mark(NamedTuple):
    """A receipt was asked for when `upto` bytes were sent, `on_the_way` of them without a receipt."""

    upto: int
    on_the_way: int
    at: float


class Pace:
    """One direction of one stream. Times are monotonic seconds.

    K1  Bytes on their way stay within `window`; more only if nothing else is.
    K2  `window` stays within `WINDOW_MIN_BYTES` and `window_max`. A receipt makes it what the link seems to
        carry in half of `beat_s` beyond the delay of an empty link; at most the double once a round trip, and
        only for bytes that filled half of it. A few late bytes make it no smaller: a process may have been
        busy.
    """

    __slots__ = (
        "_beat_s",
        "_grown_at",
        "_link_delay_s",
        "_marks",
        "_received",
        "_sent",
        "_window_max",
        "received_at",
        "window",
    )

    def __init__(self, *, beat_s: float, window_max: int, now: float) -> None:
        """beat_s: heartbeat interval. window_max: bytes that may be on their way on the fastest link."""
        self._beat_s = beat_s
        self._window_max = max(window_max, WINDOW_MIN_BYTES)
        self.window = min(WINDOW_START_BYTES, self._window_max)
        self._sent = 0
        self._received = 0
        self._marks: deque[_Mark] = deque()
        self._grown_at = 0
        """How many bytes had been sent when the window grew last: marks up to there tell of the smaller
        window."""
        self._link_delay_s = 2 * beat_s
        """The shortest time that a receipt took: there and back without a queue. At most two heartbeats are
        counted: with more the link would not live anyway."""
        self.received_at = now
        """When the last receipt of more bytes came, or the first byte was sent after all were received."""

    def beat_changed(self, beat_s: float) -> None:
        """There is another heartbeat interval."""
        self._beat_s = beat_s
        self._link_delay_s = min(self._link_delay_s, 2 * beat_s)

    @property
    def on_the_way(self) -> int:
        """The bytes that were sent and, as far as is known, not received."""
        return self._sent - self._received

    @property
    def piece(self) -> int:
        """The most bytes that should be sent as one message."""
        return max(PIECE_MIN_BYTES, self.window // 2)

    def has_room(self, size: int) -> bool:
        """Whether more bytes may be sent now (Pace.K1)."""
        on_the_way = self._sent - self._received
        return not on_the_way or on_the_way + size <= self.window

    def sent(self, size: int, now: float) -> bool:
        """`size` bytes go out now. Returns True if a receipt should be asked for with them."""
        if self._sent == self._received:
            self.received_at = now
        self._sent += size
        on_the_way = self._sent - self._received
        if self._marks:
            if on_the_way * 2 < self.window or (self._sent - self._marks[-1].upto) * 4 < self.window:
                return False
        elif size and on_the_way * 2 < self.window:
            return False  # a heartbeat (size 0) is answered anyway
        self._marks.append(_Mark(self._sent, on_the_way, now))
        return True

    def received(self, total: int, now: float) -> None:
        """A receipt: the receiver got `total` bytes since the stream began. Old and wrong ones do nothing."""
        if total > self._sent or total < self._received:
            return
        if total > self._received:
            self._received = total
            self.received_at = now
        while self._marks and self._marks[0].upto <= total:
            self._learn(self._marks.popleft(), now)

    def _learn(self, mark: _Mark, now: float) -> None:
        delay = max(now - mark.at, 1e-6)
        self._link_delay_s = min(self._link_delay_s, delay)
        late_after = self._link_delay_s + self._beat_s / 2
        carried = int(mark.on_the_way * late_after / delay)
        if delay > late_after:
            if mark.on_the_way >= min(WINDOW_START_BYTES, self.window // 2):
                self.window = max(WINDOW_MIN_BYTES, min(self.window, carried))
        elif mark.on_the_way * 2 >= self.window and mark.upto > self._grown_at:
            self.window = min(max(self.window, carried), 2 * self.window, self._window_max)
            self._grown_at = self._sent
