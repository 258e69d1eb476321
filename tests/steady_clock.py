"""The time of a process that the machine never keeps waiting.

Several instances share a process in many tests, and death timeouts of half a second. A machine that gives the
process no processor for as long stops all of them at once; by the time of the system each then finds that
nobody was heard, and elections follow that no test asked for.
"""

from __future__ import annotations

import time
from typing import Final

import trio

STALL_S: Final = 0.05
"""What lies between two looks at the clock counts for so much at the most, and what was slept on purpose."""


class SteadyClock(trio.abc.Clock):
    """Monotonic time without the stalls of the whole process: who sleeps for a second sleeps that long, and
    nobody is late by more than STALL_S."""

    def __init__(self) -> None:
        self._seen = time.perf_counter()
        self._slept = 0.0
        """Seconds that the loop has asked for since `_seen`."""
        self._left_out = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        now = time.perf_counter()
        self._left_out += max(0.0, now - self._seen - self._slept - STALL_S)
        self._seen, self._slept = now, 0.0
        return now - self._left_out

    def pause(self, seconds: float) -> None:
        """As if the whole process had stood still, for a test of just that."""
        self._left_out -= seconds

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self._slept = max(0.0, deadline - self.current_time())
        return self._slept
