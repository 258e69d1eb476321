"""Passwords are looked at in a thread of their own, one at a time, and addresses take turns. ADR 43."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

import trio

from synchro.errors import LoginQueueFull

T = TypeVar("T")

WAITING_MAX: Final = 128
"""Who waits for a turn, in all: ten seconds of work."""
ADDRESS_WAITING_MAX: Final = 32


class PasswordWork:
    """A worker for scrypt.

    P1  One piece of work at a time; of those that wait the next is of the address that waited longest since
        its last turn. So who floods it from one address delays another one by a single piece.
    P2  At most `WAITING_MAX` wait, and `ADDRESS_WAITING_MAX` of one address.
    P3  Behind `close` nothing is begun: who waits is refused.
    """

    def __init__(self) -> None:
        self._thread = _executor()
        self._is_busy = self._is_closed = False
        self._waiting: OrderedDict[str, deque[trio.Event]] = OrderedDict()
        """Address -> who waits, in the order of turns."""
        self._count = 0

    async def run(
        self, address: str, work: Callable[[], T], *, begin: Callable[[], None] = lambda: None
    ) -> T:
        """What `work` returns, called in the thread. begin: called here when its turn has come; it may raise.

        Raises `LoginQueueFull`. Cancelled while it waits, it leaves; its work, once begun, goes on to its
        end.
        """
        await self._wait_turn(address)
        try:
            if self._is_closed:  # PasswordWork.P3
                raise LoginQueueFull("this instance is stopping; nothing was done")
            begin()
            return await self._in_thread(work)
        finally:
            self._next()

    def close(self) -> None:
        """Who waits is refused when its turn comes; what was begun goes on to its end."""
        self._is_closed = True
        self._thread.shutdown(wait=False)

    # --- turns

    async def _wait_turn(self, address: str) -> None:
        if not self._is_busy:
            self._is_busy = True
            return
        own = self._waiting.get(address, ())
        if self._count >= WAITING_MAX or len(own) >= ADDRESS_WAITING_MAX:
            raise LoginQueueFull(f"{self._count} logins wait already; nothing was done, try again")
        turn = trio.Event()
        self._waiting.setdefault(address, deque()).append(turn)
        self._count += 1
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._next()
            else:
                self._leave(address, turn)
            raise

    def _leave(self, address: str, turn: trio.Event) -> None:
        own = self._waiting[address]
        own.remove(turn)
        self._count -= 1
        if not own:
            del self._waiting[address]

    def _next(self) -> None:
        """Somebody's turn is over."""
        if not self._waiting:
            self._is_busy = False
            return
        address, own = self._waiting.popitem(last=False)
        turn = own.popleft()
        self._count -= 1
        if own:
            self._waiting[address] = own  # behind all others
        turn.set()

    # --- the thread

    async def _in_thread(self, work: Callable[[], T]) -> T:
        done = trio.Event()
        token = trio.lowlevel.current_trio_token()
        try:
            future = self._thread.submit(work)
        except RuntimeError as error:  # the system lets nobody begin a thread
            # The work is queued all the same, with its password.
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = _executor()
            raise LoginQueueFull(f"{error}; nobody was logged in, try again") from error

        def tell(_: object) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        future.add_done_callback(tell)
        with trio.CancelScope(shield=True):
            await done.wait()
        return future.result()


def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "passwords")
