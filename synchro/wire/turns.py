"""The order in which the sockets, callbacks and timers of a process get their turns, in one trio thread.

A turn begins with something from outside: bytes on sockets, a callback of another thread, a timer, a task of
trio that left work. What follows from it is handled at once. At its end stand, in this order, what waits for
the end of the turn (calls that are handed over together), what waits for idleness (the log begins a batch),
one write for each connection that has something to say, and what may block where nothing else is to be done
(the log waits for its disk).
"""

from __future__ import annotations

import heapq
import math
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import trio

from synchro.wire.poll import Poll, Polled

Callback = Callable[[], object]

TURN_S: Final = 0.002
"""Seconds after which a turn takes no further socket: other tasks get theirs. Short enough for heartbeats,
long enough to batch."""
PATIENCE_S: Final = 0.006
"""Seconds that `call_when_idle` waits for idleness that does not come."""
TIMER_SLACK_S: Final = 0.001
"""Seconds by which timers may be late: to move trio's for less costs more than it is worth."""
RECEIVE_BYTES: Final = 256 * 1024
"""Bytes that one socket may bring in a turn."""


class Speaker(Protocol):
    """Who may have bytes to write at the end of a turn."""

    is_dirty: bool

    def write(self) -> None: ...


class Timer:
    """One call at a time to come. Made by `Turns.call_at`."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback | None) -> None:
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        """Forget the call. Idempotent, also after it."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Turns:
    """Made by `open_turns`. Everything here belongs to trio's thread, `call_from_thread` excepted.

    T1  No turn begins inside a turn.
    T2  Between turns every dirty speaker stands in `_dirty` once, and the next round is asked for.
    T3  A callback that must not wait for a task of trio is called in the turn in which it was asked for, or
        in the next round; `call_soon` always in the next round, after all that trio has ready by then.
    """

    def __init__(self) -> None:
        self.buffer: Final = bytearray(RECEIVE_BYTES)
        """For who reads from a socket in this turn."""
        self._poll = Poll()
        self._ready: deque[tuple[Polled, int]] = deque()  # found, and not handled yet
        self._again: dict[Polled, int] = {}  # not done with what they have; behind all that is found
        self.busy = 1
        """How many had something in the last look, 1 at the least: each takes so much less time."""
        self._dirty: list[Speaker] = []
        self._soon: list[Callback] = []
        self._idle: list[Callback] = []
        self._idle_until = 0.0
        self._at_ends: list[Callback] = []
        self._at_rests: list[Callback] = []
        self._in_turn = False
        self._round: trio.lowlevel.Task | None = None  # parked: nothing is asked for
        self._timers: list[Timer] = []
        self._timer_scope = trio.CancelScope()
        self._token = trio.lowlevel.current_trio_token()

    # ---- asking for a turn ----------------------------------------------------------------------------

    def mark(self, speaker: Speaker) -> None:
        """Let `speaker` write at the end of this turn, or in the next round."""
        if not speaker.is_dirty:
            speaker.is_dirty = True
            self._dirty.append(speaker)
            if self._round is not None and not self._in_turn:
                self._begin_round()

    def call_soon(self, callback: Callback) -> None:
        """Call it in the next round, after everything else had its turn. It must not raise."""
        self._soon.append(callback)
        self._begin_round()

    def call_when_idle(self, callback: Callback) -> None:
        """Call it when all that has arrived was handled, within `PATIENCE_S`; in a turn: at its end, if no
        socket waits. Work that costs as much for many as for one is put off until it is for many."""
        if not self._idle:
            self._idle_until = time.monotonic() + PATIENCE_S
        self._idle.append(callback)
        if not self._in_turn:
            self._begin_round()

    def call_at_rest(self, callback: Callback) -> None:
        """Inside a turn: call it at its end, behind all writes, if no socket and no callback waits then; else
        forget it. It may block for a moment, and must not raise."""
        assert self._in_turn
        self._at_rests.append(callback)

    def call_from_thread(self, callback: Callback) -> None:
        """Call it soon in trio's thread, as a turn; usable from any thread. It must not raise."""
        self._token.run_sync_soon(self.in_turn, callback)

    def in_turn(self, callback: Callback) -> None:
        """Call it now, as a turn of its own: what it has to say is written at its end."""
        if self._in_turn:
            callback()
            return
        self._in_turn = True
        try:
            callback()
        finally:
            self._end_turn()

    def at_turn_ends(self, callback: Callback) -> None:
        """Call it at the end of every turn, before what waits for idleness. It must not raise."""
        self._at_ends.append(callback)

    def call_at(self, when: float, callback: Callback) -> Timer:
        """Call it as a turn at `when`, seconds on trio's clock, or a little later. It must not raise."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, timer)
        if when < self._timer_scope.deadline - TIMER_SLACK_S:
            self._timer_scope.deadline = when
        return timer

    # ---- sockets --------------------------------------------------------------------------------------

    def register(self, sock: socket.socket, events: int, polled: Polled) -> None:
        """Tell `polled` when the socket can be read or written (`poll.READ`, `poll.WRITE`)."""
        self._poll.register(sock, events, polled)

    def modify(self, sock: socket.socket, events: int) -> None:
        self._poll.modify(sock, events)

    def unregister(self, sock: socket.socket) -> None:
        """Before it is closed."""
        self._poll.unregister(sock)

    def call_again(self, polled: Polled, events: int) -> None:
        """Inside a turn of sockets: tell `polled` the same again when all others had their turn."""
        self._again[polled] = events

    # ---- turns ----------------------------------------------------------------------------------------

    def _turn_of_sockets(self) -> None:
        ready = self._ready
        if not ready:
            again, self._again = self._again, {}
            ready.extend(self._poll.look())
            ready.extend(again.items())
            self.busy = max(1, len(ready))
        else:  # what members say does not wait until many clients were heard
            ready.extendleft([found for found in self._poll.look() if found[0].is_urgent])
        assert not self._in_turn, "Turns.T1"
        self._in_turn = True
        try:
            end = time.monotonic() + TURN_S
            while ready:
                polled, events = ready.popleft()
                polled.on_ready(events)
                if ready and time.monotonic() > end:
                    break  # one at least, in the order in which they were found, so nobody starves
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        try:
            for callback in self._at_ends:
                callback()
            if self._idle and (self._is_quiet or time.monotonic() > self._idle_until):
                calls, self._idle = self._idle, []
                for callback in calls:
                    callback()
            self._flush()
            if self._at_rests:
                self._rest()
        finally:
            self._in_turn = False
        if self._soon or self._dirty or self._idle:
            self._begin_round()

    @property
    def _is_quiet(self) -> bool:
        """Whether no socket can be read or written now. What is found is not kept: the next turn of sockets
        looks again, and it may be closed by then."""
        return not self._ready and not self._again and not self._poll.look()

    def _rest(self) -> None:
        calls, self._at_rests = self._at_rests, []
        if not (self._soon or self._dirty or self._idle) and self._is_quiet:
            for callback in calls:
                callback()
            self._flush()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for speaker in dirty:
            speaker.write()

    def _begin_round(self) -> None:
        task = self._round
        if task is not None:
            self._round = None
            trio.lowlevel.reschedule(task)

    @trio.lowlevel.enable_ki_protection
    async def _turns_of_sockets(self) -> None:
        descriptor = self._poll.fileno()
        while True:
            if self._ready or self._again:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(descriptor)
            self._turn_of_sockets()

    @trio.lowlevel.enable_ki_protection
    async def _rounds(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._round = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if self._soon or self._dirty or (self._idle and not self._ready):
                await trio.lowlevel.checkpoint()
            else:
                self._round = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            self.in_turn(self._take_soon)

    def _take_soon(self) -> None:
        calls, self._soon = self._soon, []
        for callback in calls:
            callback()

    @trio.lowlevel.enable_ki_protection
    async def _turns_of_timers(self) -> None:
        timers = self._timers
        while True:
            deadline = timers[0].when if timers else math.inf
            with trio.CancelScope(deadline=deadline) as self._timer_scope:
                await trio.sleep_forever()
            self.in_turn(self._take_timers)

    def _take_timers(self) -> None:
        timers, now = self._timers, trio.current_time()
        while timers and timers[0].when <= now:
            timer = heapq.heappop(timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def check(self) -> None:
        """Assert Turns.T1 and Turns.T2, between turns; for tests."""
        assert not self._in_turn
        assert all(speaker.is_dirty for speaker in self._dirty)
        assert len(set(map(id, self._dirty))) == len(self._dirty)
        assert self._round is None or not (self._soon or self._dirty or (self._idle and not self._ready))

    def close(self) -> None:
        self._poll.close()


@asynccontextmanager
async def open_helper_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for tasks that never raise: an exception of the body passes as it is, in no group.

    The body must end the tasks. If one of them raises all the same, the usual group comes out.
    """
    own: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:
                own = exc
                raise
    except BaseExceptionGroup as group:
        if own is None or group.exceptions != (own,):
            raise
    else:
        return
    raise own


@asynccontextmanager
async def open_turns() -> AsyncIterator[Turns]:
    """The turns outlive a cancelled body, whose cleanup still needs them."""
    turns = Turns()
    tasks: list[Callable[[], Awaitable[Any]]] = [
        turns._turns_of_sockets,
        turns._rounds,
        turns._turns_of_timers,
    ]
    lives = [trio.CancelScope(shield=True) for _ in tasks]

    async def run(task: Callable[[], Awaitable[Any]], life: trio.CancelScope) -> None:
        with life:
            await task()

    try:
        async with open_helper_nursery() as nursery:
            for task, life in zip(tasks, lives, strict=True):
                nursery.start_soon(run, task, life)
            try:
                yield turns
            finally:
                for life in lives:
                    life.cancel()
    finally:
        turns.close()
