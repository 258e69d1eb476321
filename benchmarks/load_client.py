"""`callers` tasks that share one client of the library, which sends concurrent calls together."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import synchro.aio
from benchmarks.systems import SPACE
from synchro.errors import SynchroError

Done = Callable[[float, float, int], None]
PAUSE_S = 0.1
"""After a failure, which is counted and shown."""


async def run(
    address: str,
    callers: int,
    ops: int,
    make: Callable[[], tuple[int, str]],
    done: Done,
    window: Callable[[], Awaitable[None]],
) -> None:
    """Until `window` has ended, then until the calls in flight have. Each call inserts `ops` tuples."""
    async with synchro.aio.connect(address) as db:
        space = db.space(SPACE)
        stopping = False

        async def write() -> None:
            async with db.transaction(omit_tuples=True) as transaction:
                for _ in range(ops):
                    transaction.insert(SPACE, make())

        async def caller() -> None:
            while not stopping:
                began = time.perf_counter()
                try:
                    if ops == 1:
                        await space.insert(make(), omit_tuples=True)
                    else:
                        await write()
                except SynchroError as error:
                    print(repr(error), file=sys.stderr)
                    done(began, time.perf_counter(), 0)
                    await asyncio.sleep(PAUSE_S)
                else:
                    done(began, time.perf_counter(), 1)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
            await window()
            stopping = True
