"""The clock of the day as one instance sees it; tests may shift it (docs/fault-injection.md)."""

from __future__ import annotations

import time
from typing import Final

from synchro.errors import IllegalParams

SKEW_S_MAX: Final = 1_000_000_000.0
"""So that no time is before 1970; stamps have none there (ADR 44)."""


class WallClock:
    """It stamps rows where the last write wins, blocks of the log, and what peers tell each other for the
    lag."""

    def __init__(self) -> None:
        self.skew_s = 0.0
        """What the instance believes more than the host."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.skew_s

    def shift(self, skew_s: float) -> None:
        """In the place of a former one. Raises `IllegalParams`."""
        if not abs(skew_s) <= SKEW_S_MAX:
            raise IllegalParams(
                f"a clock is shifted by {SKEW_S_MAX:.0f} seconds at the most, not by {skew_s}; nothing was "
                "changed"
            )
        self.skew_s = skew_s
