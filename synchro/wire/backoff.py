"""When to try again to connect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BACKOFF_MIN_S: Final = 0.05
"""Seconds after the first attempt that failed: an election does not wait for gRPC's default of 1 s."""
BACKOFF_MAX_S: Final = 0.5
BACKOFF_GROWTH: Final = 1.6
BACKOFF_JITTER: Final = 0.2


class Backoff:
    """The pause behind attempts that failed, one after another. It reads no clock."""

    def __init__(self, random: Callable[[], float]) -> None:
        """random: numbers from 0 to 1, so that those who lost one server do not come back together."""
        self._random = random
        self._next_s = BACKOFF_MIN_S
        self.retry_at = 0.0
        """Seconds of the clock that `failed` was told: no attempt begins before."""

    def failed(self, now: float) -> None:
        jitter = 1 + BACKOFF_JITTER * (2 * self._random() - 1)
        self.retry_at = now + self._next_s * jitter
        self._next_s = min(BACKOFF_MAX_S, self._next_s * BACKOFF_GROWTH)

    def succeeded(self) -> None:
        self._next_s, self.retry_at = BACKOFF_MIN_S, 0.0
