"""Does the disk answer? Measured so that a pause of the whole process is not held against it."""

from __future__ import annotations


class DiskWatch:
    """For how long one batch has been with the disk, of the time in which this process ran.

    Between two looks counts at most what should have passed: if more did, the process did not run (SIGSTOP, a
    suspended machine, a loop that was busy), and nor could it hear the disk's answer.
    """

    def __init__(self) -> None:
        self._busy_since: float | None = None
        self._last_look = 0.0
        self._silent_s = 0.0

    def look(self, busy_since: float | None, now: float, interval_s: float) -> float:
        """Seconds of silence so far; 0 while nothing is on its way.

        busy_since: monotonic seconds at which the batch was given to the disk. interval_s: between two looks.
        """
        if busy_since is None or busy_since != self._busy_since:
            self._silent_s = 0.0
        if busy_since is not None:
            since = max(busy_since, self._last_look)
            self._silent_s += min(now - since, interval_s)
        self._busy_since = busy_since
        self._last_look = now
        return self._silent_s
