"""The clean end of an instance, in order: nothing new is admitted, nothing more is counted, what was
committed is announced, that is synced, peers get it, leadership is given up. ADR 18."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StopPhase(Enum):
    NOT_ASKED = "not asked"
    WRITING = "writing"
    """what was asked for before is on its way to disk, the last CONFIRM with it"""
    TELLING = "telling"
    """relays send it; for one heartbeat at most"""
    DONE = "done"
    """leadership is given up; the shell may close"""


@dataclass(slots=True)
class Stop:
    """Each method tells a fact, and returns whether that ended a phase."""

    phase: StopPhase = StopPhase.NOT_ASKED
    until: float | None = None
    """Monotonic seconds: the end of TELLING."""
    is_begun: bool = False
    """Nothing new is admitted."""

    def ask(self) -> bool:
        if self.is_begun:
            return False
        self.phase, self.is_begun = StopPhase.WRITING, True
        return True

    def written(self, now: float, heartbeat_s: float) -> bool:
        """Nothing is on its way to disk."""
        if self.phase is not StopPhase.WRITING:
            return False
        self.phase, self.until = StopPhase.TELLING, now + heartbeat_s
        return True

    def told(self, now: float, *, all_have_it: bool) -> bool:
        """all_have_it: every subscriber has acked what is on disk here."""
        if self.phase is not StopPhase.TELLING or self.until is None:
            return False
        if not all_have_it and now < self.until:
            return False
        self.phase, self.until = StopPhase.DONE, None
        return True
