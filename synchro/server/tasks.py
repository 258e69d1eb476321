"""Tasks that end together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from synchro.errors import SynchroError
from synchro.server.peer_messages import LinkLost


async def run_until_first_error(*tasks: Callable[[], Awaitable[None]]) -> None:
    """Run all; the first expected error, or the end of any task, cancels the others.

    That error is raised as it is, not in a group, so that callers can tell kinds apart. Anything else
    is a bug and comes out as a group.
    """
    first: SynchroError | LinkLost | None = None

    async with trio.open_nursery() as nursery:

        async def run(task: Callable[[], Awaitable[None]]) -> None:
            nonlocal first
            try:
                await task()
            except (SynchroError, LinkLost) as error:
                if first is None:
                    first = error
            nursery.cancel_scope.cancel()

        for task in tasks:
            nursery.start_soon(run, task)
    if first is not None:
        raise first
