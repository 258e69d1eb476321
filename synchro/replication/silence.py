"""After how much silence a link is dead. Rules [A-27], [E-30]. Pure."""

from __future__ import annotations

from synchro.config import FencingMode, Settings


def silence_s(settings: Settings, *, is_leader: bool) -> float:
    """Seconds without a message after which a link is dead; ask again when the role may have changed.

    Strict fencing: a leader gives its links up in half the time. The last message that reached it may be a
    heartbeat older than the last one that reached a follower, or younger; with half the time it has resigned
    before any follower may elect somebody else, even if their clocks run a little apart [L-18].
    """
    is_strict = settings.election_fencing_mode is FencingMode.STRICT and is_leader
    return settings.death_timeout_s / 2 if is_strict else settings.death_timeout_s
