"""What does not go on is told: at once, when its reason is another one, and every minute while nothing
helps."""

from __future__ import annotations

from typing import Any, Final

import trio

AGAIN_S: Final = 60.0


class Reminder:
    """Of one thing that does not go on."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._began = self._said_at = trio.current_time()
        self._last: tuple[str, str] | None = None

    def say(self, event: str, why: str, *, kind: str = "", is_urgent: bool = False, **facts: object) -> None:
        """kind: what makes a reason another one; by default `why` itself. is_urgent: a person has to do
        something, so it is a warning at once."""
        now = trio.current_time()
        if self._last is None:
            self._began = self._said_at = now
        if now - self._said_at >= AGAIN_S:
            self._said_at = now
            self._log.warning(
                event, message=why, waited_s=round(now - self._began), next="synchro status", **facts
            )
        elif (event, kind or why) != self._last:
            (self._log.warning if is_urgent else self._log.info)(event, message=why, **facts)
        self._last = event, kind or why

    def ended(self) -> None:
        """It goes on: what comes next is told anew."""
        self._last = None
