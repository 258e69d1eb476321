"""The loop waits for the disk when it has nothing else to do, and never for long. [W-47], ADR 34."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from synchro.server.disk_watch import DiskWatch
from synchro.server.runnable import RunnableTasks, runnable_tasks
from synchro.storage.log_thread import CALM_JOBS, WAIT_S, LogThread
from synchro.storage.wal import Wal
from synchro.vclock import Vclock
from tests.sim.disk import SimDisk
from tests.storage_world import SMALL, new_instance, txn, vclock

LONG_S = 10.0
"""Of what ends long before, unless a test fails."""


class World:
    """A log whose loop may wait, on a disk of which each call may be held."""

    def __init__(self, wait_s: float, others: RunnableTasks) -> None:
        self.disk: SimDisk
        self.disk, journal = new_instance()
        self.lsn = 0
        self.asked = 0
        """Times that the thread of the log asked the loop to look."""
        self.written: list[Vclock] = []
        self.changed = trio.Event()
        self.wal = Wal(
            self.disk,
            journal,
            on_written=self._on_written,
            on_cut=lambda *_: None,
            limits=SMALL,
            wall_clock=lambda: 1.0,
            new_thread=partial(LogThread, wait_s=wait_s, clock=lambda: 0.0),
        )
        token = trio.lowlevel.current_trio_token()

        def from_thread(look: Callable[[], None]) -> None:
            self.asked += 1
            token.run_sync_soon(look)

        def at_rest(wait: Callable[[], None]) -> None:
            if others.is_alone:
                wait()

        self.wal.call_with(token.run_sync_soon, from_thread, at_rest)

    def _on_written(self, at: Vclock) -> None:
        self.written.append(at)
        self.changed.set()
        self.changed = trio.Event()

    def submit(self) -> None:
        self.lsn += 1
        self.wal.submit([txn(self.lsn)])

    async def answered(self) -> None:
        """All that was submitted is on disk, and the core was told."""
        with trio.fail_after(LONG_S):
            while not self.written or self.written[-1] != vclock(_1=self.lsn):
                await self.changed.wait()
        await trio.lowlevel.checkpoint()
        self.wal.check()

    async def write(self) -> None:
        self.submit()
        await self.answered()

    def hold_until(self, condition: Callable[[], bool]) -> None:
        """The next call of the disk lasts until then."""

        def on_call(call: str, path: str) -> None:
            self.disk.on_call = lambda call, path: None
            end = time.monotonic() + LONG_S
            while not condition() and time.monotonic() < end:
                time.sleep(0)

        self.disk.on_call = on_call


@asynccontextmanager
async def open_world(wait_s: float = WAIT_S) -> AsyncIterator[World]:
    with runnable_tasks() as others:
        world = World(wait_s, others)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.wal.run)
            for _ in range(CALM_JOBS):
                await world.write()
            assert world.wal.stats.waits == 0  # nothing is known of the disk yet
            yield world
            world.wal.stop()


async def test_an_idle_loop_waits_and_takes_the_answer_itself() -> None:
    """The disk answers while the loop is blocked for it: nobody is asked to look."""
    async with open_world(wait_s=LONG_S) as world:
        stats, asked = world.wal.stats, world.asked
        for n in range(1, 4):
            world.hold_until(lambda n=n: stats.waits == n)  # type: ignore[misc]
            await world.write()
        assert (stats.waits, stats.vain_waits) == (3, 0)
        assert world.asked == asked


async def test_a_loop_with_a_task_that_can_run_does_not_wait() -> None:
    """Wal.A6: other work goes on while the disk is busy, and hears of the disk as without waiting."""
    async with open_world(wait_s=LONG_S) as world:
        may_go_on = threading.Event()
        world.hold_until(may_go_on.is_set)
        asked = world.asked
        world.submit()
        for _ in range(200):
            await trio.lowlevel.checkpoint()
        assert world.wal.busy_since is not None and world.wal.stats.waits == 0
        may_go_on.set()
        while world.wal.busy_since is not None:
            await trio.lowlevel.checkpoint()
        assert world.asked == asked + 1 and world.wal.stats.waits == 0


async def test_a_disk_that_hangs_silences_the_loop_once_and_is_seen() -> None:
    """The node goes on beside it, and so does the watch over the disk."""
    async with open_world() as world:
        stats, watch = world.wal.stats, DiskWatch()
        may_go_on = threading.Event()
        world.hold_until(may_go_on.is_set)
        world.submit()
        silent_s = 0.0
        with trio.fail_after(LONG_S):
            while silent_s < 0.03:
                await trio.sleep(0.005)
                silent_s = watch.look(world.wal.busy_since, trio.current_time(), 0.005)
        assert (stats.waits, stats.vain_waits) == (1, 1)
        world.wal.check()
        world.submit()  # it gathers behind the batch that hangs
        may_go_on.set()
        await world.answered()
        assert stats.vain_waits == 1


async def test_nobody_waits_for_a_rotation() -> None:
    async with open_world(wait_s=LONG_S) as world:
        may_go_on = threading.Event()
        world.hold_until(may_go_on.is_set)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.wal.rotate)
            await trio.sleep(0.01)
            assert world.wal.stats.waits == 0
            may_go_on.set()


async def test_whoever_takes_the_answers_they_come_in_order() -> None:
    """[W-14]: a disk that takes now less, now more than the loop waits; other tasks come and go."""
    rng = random.Random(7)
    async with open_world(wait_s=0.000_2) as world:
        stats = world.wal.stats
        for _ in range(300):
            end = time.monotonic() + rng.choice([0.0, 0.000_1, 0.000_2, 0.000_4])
            world.hold_until(lambda end=end: time.monotonic() > end)  # type: ignore[misc]
            for _ in range(rng.randint(1, 3)):
                world.submit()
            for _ in range(rng.randint(0, 3)):
                await trio.lowlevel.checkpoint()
            if rng.random() < 0.7:
                await world.answered()
        await world.answered()
        lsns = [at.get(txn(1).origin) for at in world.written]
        assert lsns == sorted(set(lsns)) and lsns[-1] == world.lsn
        assert stats.waits > 0
