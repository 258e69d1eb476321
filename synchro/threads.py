"""Work that blocks, in a thread beside the loop.

A system that lets nobody begin one more thread (`ulimit -u`, the limit of a container) is no damage: what
waits for the thread goes on later, as behind a slow disk, and nothing else has to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

from synchro import logs

RETRY_S: Final = 0.1
"""Before a thread is asked for again."""
TOLD_S: Final = 60.0
"""Between two records of that."""
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Scarcity:
    """When it was told last that there is no thread to get."""

    def __init__(self) -> None:
        self._told_at = -math.inf

    def tell(self, why: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= TOLD_S:
            self._told_at = now
            logs.get_logger("main").warning(
                "threads_scarce",
                message=f"{why}: snapshots, notes of the log, logins and reloads wait for one; raise "
                "RLIMIT_NPROC (ulimit -u), or the limit of tasks of the container",
            )


_SCARCITY: Final = Scarcity()
_READERS: Final[trio.lowlevel.RunVar[dict[str, trio.CapacityLimiter]]] = trio.lowlevel.RunVar("readers")


async def in_thread(
    fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """As `trio.to_thread.run_sync`; waits until there is a thread."""
    has_begun = False

    def run() -> T:
        nonlocal has_begun
        has_begun = True
        return fn(*args)

    while True:
        try:
            return await trio.to_thread.run_sync(run, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
        except RuntimeError as error:
            if has_begun:
                raise
            _SCARCITY.tell(str(error))
        await trio.sleep(RETRY_S)


async def read_in_thread(read: Callable[[], T], what: str) -> T:
    """What reads files that may lie on a file system which does not answer. It keeps neither the caller nor
    the end of the process, and one thread alone: who reads the same (`what`) waits until that is back."""
    try:
        readers = _READERS.get()
    except LookupError:
        _READERS.set(readers := {})
    reader = readers.setdefault(what, trio.CapacityLimiter(1))
    return await in_thread(read, abandon_on_cancel=True, limiter=reader)
