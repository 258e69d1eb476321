"""How much of the time of a process one kind of work may take, piece by piece. Pure."""

from __future__ import annotations

from typing import Final

PAUSE_MAX_S: Final = 0.5
"""A piece may look long because the process was stopped, or its host asleep: nobody waits longer for that."""


class Share:
    """Times are monotonic seconds.

    F1  From the begin of a piece to that of the next one passes at least the time that the piece took,
        divided by `share`: so all pieces together take no more than that, and the rest is for others.
        `PAUSE_MAX_S` bounds the pause. Who has nothing else to do makes a piece in less time, and waits less.
    """

    def __init__(self, share: float) -> None:
        """share: 0 < share <= 1."""
        assert 0 < share <= 1
        self._share = share
        self._next_at = 0.0

    def took(self, began: float, ended: float) -> None:
        """A piece was made in this time, waiting for the processor or a lock of the process included."""
        assert ended >= began
        self._next_at = min(began + (ended - began) / self._share, ended + PAUSE_MAX_S)  # Share.F1

    def wait_s(self, now: float) -> float:
        """How long the next piece has to wait; 0: it may begin."""
        return max(0.0, self._next_at - now)
