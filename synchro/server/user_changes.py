"""One change of users at a time on one instance: each is made from the rows that the last one left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from synchro.errors import SyncQueueFull
from synchro.server.passwords import make_verifier
from synchro.threads import in_thread

WAITING_MAX: Final = 64
"""Changes of users, and passwords, that wait for their turn."""


class UserChanges:
    """Whose turn it is, and the worker that makes verifiers.

    G1  At most `WAITING_MAX` wait for a turn, and as many for a verifier.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._worker = trio.CapacityLimiter(1)

    @asynccontextmanager
    async def turn(self, timeout_s: float) -> AsyncIterator[None]:
        """Raises `SyncQueueFull`."""
        if self._lock.statistics().tasks_waiting >= WAITING_MAX:
            raise _too_many()
        with trio.move_on_after(timeout_s) as waiting:
            await self._lock.acquire()
        if waiting.cancelled_caught:
            raise SyncQueueFull("another change of users is not decided yet; nothing was written")
        try:
            yield
        finally:
            self._lock.release()

    async def verifier_of(self, password: str) -> bytes:
        """In a worker thread, one at a time. Raises `SyncQueueFull`."""
        if self._worker.statistics().tasks_waiting >= WAITING_MAX:
            raise _too_many()
        return await in_thread(make_verifier, password, limiter=self._worker)


def _too_many() -> SyncQueueFull:
    return SyncQueueFull(f"{WAITING_MAX} changes of users wait for their turn already; nothing was written")
