"""What the one timer of elections waits for, and how long. Rules [E-21], [E-22], [E-23], [E-25]."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from synchro.raft.messages import RaftSettings

SHIFT_MAX: Final = 0.1
"""The largest random part of a wait, as a share of the election timeout. It keeps two candidates apart
[E-22]."""


CATCH_UP: Final = 0.5
"""How long a candidate that lacks rows is waited for, as a share of the death timeout: two heartbeats."""


class TimerWait(Enum):
    LEADER_DEATH = "leader death"
    """Silence of the known leader: one death timeout [E-21]."""
    HOLD = "hold"
    """A leader that others may know or elect: one death timeout too [E-21], [E-33], [P-30]."""
    CATCH_UP = "catch up"
    """A candidate that was refused and may still get the rows that it lacks (ADR 40)."""
    ELECTION = "election"
    """The end of an election: election timeout and shift [E-22]."""
    SHIFT = "shift"
    """The shift alone: after a split vote, or when the last witness lost the leader [E-23]."""


@dataclass(frozen=True, slots=True)
class Timer:
    wait: TimerWait
    since: float
    """When the wait began, in monotonic seconds."""
    shift: float = 0.0
    """The random part of the wait, as a share of the election timeout: 0 to SHIFT_MAX."""

    def end(self, settings: RaftSettings) -> float:
        """When the wait ends, in monotonic seconds. Computed from the settings of this moment, so that a
        change is effective at once [E-25]."""
        match self.wait:
            case TimerWait.LEADER_DEATH | TimerWait.HOLD:
                return self.since + settings.death_timeout_s
            case TimerWait.CATCH_UP:
                return self.since + settings.death_timeout_s * CATCH_UP
            case TimerWait.ELECTION:
                return self.since + settings.election_timeout_s * (1 + self.shift)
            case TimerWait.SHIFT:
                return self.since + settings.election_timeout_s * self.shift
            case _:
                assert_never(self.wait)
