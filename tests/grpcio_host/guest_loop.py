"""An asyncio event loop that runs as a guest inside trio's own thread.

`grpc.aio` needs asyncio; everything else here is trio. The loop below is an ordinary selector loop whose
selector never blocks: where asyncio would sleep, it returns to trio, which waits in its place.

G1  Only trio's thread touches the loop. `call_soon_threadsafe` is the one exception, as everywhere.
G2  One thread, so no locks: an asyncio callback may set a trio event, cancel a scope or start a task, and
    a trio task may set a future's result or cancel an asyncio task. No other way across exists.
G3  A callback must not open a scope or nursery, nor await trio: its trio task is one of the pumps below.
G4  One turn of asyncio is bounded by `TURN_S`; then other trio tasks get theirs. A single callback is not.

Uses documented interfaces only: asyncio's "bring your own selector" and trio's low-level waiting.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import selectors
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

import trio

from synchro.wire.turns import open_helper_nursery

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TURN_S: Final = 0.002
"""asyncio runs until it is idle, at most this many seconds: short enough for heartbeats, long enough to
batch."""
PATIENCE_S: Final = 0.006
"""Seconds that `call_when_idle` waits for idleness that does not come."""
TIMER_SLACK_S: Final = 0.001
"""Seconds by which asyncio's timers may be late: moving trio's at the end of each turn costs more than they
are worth."""
LEFTOVER_GRACE_S: Final = 0.5
"""gRPC's own tasks end by themselves shortly after the last call; cancelled, they print tracebacks."""
CLOSE_TIMEOUT_S: Final = 5.0
"""Seconds that the cleanup of leftover asyncio tasks may take before the loop is closed under them."""


class _NonBlockingSelector(selectors.DefaultSelector):
    """A selector that only polls. When asyncio wants to sleep, or its turn is over, it stops the loop
    instead."""

    turn_end: float = 0.0
    has_polled: bool = False
    """Whether it has polled in this turn."""
    wait_s: float | None = None
    """How long asyncio would have slept; None: until something happens."""
    unseen: int = 0
    """Callbacks scheduled since the last poll: more than 0 after a turn means there is work left."""
    stop: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.when_idle: list[Callable[[], object]] = []
        self.patience_ends = 0.0
        """When `when_idle` is called although there is always something to do."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.unseen = 0
        # Callbacks that wait go first: a system call between any two of them finds nothing, nearly always.
        may_wait = timeout is None or timeout > 0
        events = super().select(0) if may_wait or not self.has_polled else []
        self.has_polled = True
        now = time.monotonic()
        is_idle, is_over = not events and may_wait, now > self.turn_end
        if self.when_idle and (is_idle or now > self.patience_ends):
            waiting, self.when_idle = self.when_idle, []
            for call in waiting:
                call()
            is_idle = False
        if is_idle:
            self.wait_s = timeout
            self.stop()
        elif is_over:
            self.unseen = 1
            self.stop()
        return events


class GuestLoop(asyncio.SelectorEventLoop):
    """The asyncio loop, made by `open_guest_loop`. Trio tasks use `aio`; asyncio code notices nothing."""

    def __init__(self) -> None:
        self._polled = _NonBlockingSelector()
        self._polled.stop = self.stop
        self._in_turn = False
        self._starter: trio.lowlevel.Task | None = None  # the parked task that starts turns
        self._timer = trio.CancelScope()
        super().__init__(self._polled)

    # ---- trio -> asyncio ----------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def aio(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await an asyncio coroutine from a trio task; cancelling the trio scope cancels it.

        Returns only when the coroutine has ended, cancelled or not. If it was cancelled by someone else
        than our scope: `BrokenResourceError`.
        """
        caller = trio.lowlevel.current_task()
        work = self.create_task(coro)
        work.add_done_callback(lambda _: trio.lowlevel.reschedule(caller))

        def abort(_: object) -> trio.lowlevel.Abort:
            work.cancel()
            return trio.lowlevel.Abort.FAILED  # the done callback wakes us: nothing outlives its scope

        await trio.lowlevel.wait_task_rescheduled(abort)
        if work.cancelled():
            await trio.lowlevel.checkpoint_if_cancelled()
            raise trio.BrokenResourceError("the asyncio task was cancelled")
        return work.result()

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        self._polled.unseen += 1
        self._start_turn()
        return super().call_soon(callback, *args, context=context)

    def call_when_idle(self, callback: Callable[[], object]) -> None:
        """Like `call_soon`, but behind all that has arrived and all that follows from it, for `PATIENCE_S` at
        most: where more arrives than can be handled, work that costs as much for many as for one is put off
        until it is for many."""
        polled = self._polled
        polled.unseen += 1
        if not polled.when_idle:
            polled.patience_ends = time.monotonic() + PATIENCE_S
        polled.when_idle.append(functools.partial(self.call_soon, callback))
        self._start_turn()

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        self._start_turn()  # the next turn learns the new timeout
        return super().call_at(when, callback, *args, context=context)

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: object) -> NoReturn:
        raise NotImplementedError("signals belong to trio")

    # ---- turns --------------------------------------------------------------------------------------

    def _start_turn(self) -> None:
        starter = self._starter
        if starter is not None and not self._in_turn:
            self._starter = None
            trio.lowlevel.reschedule(starter)

    def _turn(self) -> None:
        """Run asyncio until it is idle or its time is up."""
        assert not self._in_turn
        polled = self._polled
        polled.turn_end = time.monotonic() + TURN_S
        polled.has_polled = False
        self._in_turn = True
        try:
            self.run_forever()
        finally:
            self._in_turn = False
        if polled.unseen:
            self._start_turn()
        else:
            deadline = self._timer_deadline()
            if deadline < self._timer.deadline - TIMER_SLACK_S:  # a later one is seen when it wakes
                self._timer.deadline = deadline

    def _timer_deadline(self) -> float:
        wait_s = self._polled.wait_s
        return math.inf if wait_s is None else trio.current_time() + wait_s

    # Three tasks, one for each reason to run. They outlive a cancelled body (shield), because its cleanup
    # still needs asyncio; `open_guest_loop` ends them.

    @trio.lowlevel.enable_ki_protection
    async def _pump_sockets(self) -> None:
        descriptor = self._polled.fileno()
        while True:
            await trio.lowlevel.wait_readable(descriptor)  # a poll descriptor can itself be polled
            self._turn()

    @trio.lowlevel.enable_ki_protection
    async def _pump_callbacks(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._starter = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            self._turn()
            if self._polled.unseen:
                await trio.lowlevel.checkpoint()
            else:
                self._starter = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)

    @trio.lowlevel.enable_ki_protection
    async def _pump_timers(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._timer_deadline()) as self._timer:
                await trio.sleep_forever()
            self._polled.wait_s = None
            self._turn()

    async def _cancel_leftovers(self) -> None:
        leftovers = asyncio.all_tasks(self) - {asyncio.current_task()}
        if leftovers:
            _, leftovers = await asyncio.wait(leftovers, timeout=LEFTOVER_GRACE_S)
        for task in leftovers:
            task.cancel()
        if leftovers:
            await asyncio.wait(leftovers)
        await self.shutdown_asyncgens()
        await self.shutdown_default_executor()


@asynccontextmanager
async def open_guest_loop() -> AsyncIterator[GuestLoop]:
    """At the end: leftover asyncio tasks are cancelled and awaited, then the loop is closed.

    One loop for a process is enough, and several nodes may share it; loops one after another work too.
    """
    loop = GuestLoop()
    pumps = [loop._pump_sockets, loop._pump_callbacks, loop._pump_timers]
    lives = [trio.CancelScope(shield=True) for _ in pumps]

    async def run(pump: Callable[[], Coroutine[Any, Any, None]], life: trio.CancelScope) -> None:
        with life:
            await pump()

    try:
        async with open_helper_nursery() as nursery:
            for pump, life in zip(pumps, lives, strict=True):
                nursery.start_soon(run, pump, life)
            try:
                yield loop
            finally:
                with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await loop.aio(loop._cancel_leftovers())
                for life in lives:
                    life.cancel()
    finally:
        loop.close()
