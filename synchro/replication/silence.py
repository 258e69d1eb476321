"""After how much silence a link is dead. Rules [A-27], [E-30]. Pure."""

from __future__ import annotations

from typing import Final

from synchro.config import FencingMode, Settings

LATE_PARTS: Final = 8
"""A look that comes late by this part of the silence shows that the process did not run."""


def silence_s(settings: Settings, *, is_leader: bool) -> float:
    """Seconds without a message after which a link is dead; ask again when the role may have changed.

    Strict fencing: a leader gives its links up in half the time. The last message that reached it may be a
    heartbeat older than the last one that reached a follower, or younger; with half the time it has resigned
    before any follower may elect somebody else, even if their clocks run a little apart [L-18].
    """
    is_strict = settings.election_fencing_mode is FencingMode.STRICT and is_leader
    return settings.death_timeout_s / 2 if is_strict else settings.death_timeout_s


def stands_still_s(settings: Settings) -> float:
    """Seconds without a turn of the loop after which a leader may have been replaced: its last heartbeat may
    be one heartbeat older than its last turn [L-18]."""
    return settings.death_timeout_s - settings.replication_timeout_s


class SilenceWatch:
    """Whether a peer is silent. A pause of this process (SIGSTOP, a suspended machine, a loop that was busy)
    is no silence of the peer: what it said meanwhile is read before it is judged.

    H1  A silence is excused once: a peer that says nothing in the grace after a pause is dead.
    """

    def __init__(self) -> None:
        self._due: float | None = None
        """When the next look should be."""
        self._excused: float | None = None
        """`heard_at` of the silence that was excused."""

    def look(self, heard_at: float, now: float, silence_s: float) -> float:
        """Seconds until the next look; 0: the link is dead. heard_at, now: monotonic seconds. silence_s:
        after so much of it a link is dead now."""
        grace = silence_s / LATE_PARTS
        was_late = self._due is not None and now - self._due > grace
        wait = min(heard_at + silence_s - now, silence_s / 2)
        if wait <= 0:
            if not was_late or self._excused == heard_at:
                return 0.0
            wait, self._excused = grace, heard_at  # SilenceWatch.H1
        self._due = now + wait
        return wait
