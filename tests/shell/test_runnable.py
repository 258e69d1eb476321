"""`RunnableTasks`: a step knows whether anybody else has something to do."""

from __future__ import annotations

import pytest
import trio

from synchro.server.runnable import RunnableTasks, runnable_tasks


async def alone(tasks: RunnableTasks, rounds: int = 20) -> set[bool]:
    """What is seen in so many steps of their own."""
    found = set()
    for _ in range(rounds):
        await trio.lowlevel.checkpoint()
        found.add(tasks.is_alone)
    return found


async def test_a_step_is_alone_where_nobody_else_can_run(nursery: trio.Nursery) -> None:
    nursery.start_soon(trio.sleep_forever)
    await trio.testing.wait_all_tasks_blocked()
    with runnable_tasks() as tasks:
        assert await alone(tasks) == {True}


async def test_who_runs_before_or_behind_in_the_round_is_seen(nursery: trio.Nursery) -> None:
    """trio takes the tasks of a round in any order."""

    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    with runnable_tasks() as tasks:
        nursery.start_soon(spin)
        await alone(tasks, 2)
        assert await alone(tasks) == {False}


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_who_is_woken_by_the_step_itself_is_seen(nursery: trio.Nursery, count: int) -> None:
    with runnable_tasks() as tasks:
        event = trio.Event()
        for _ in range(count):
            nursery.start_soon(event.wait)
        await trio.testing.wait_all_tasks_blocked()
        await alone(tasks, 2)
        assert tasks.is_alone
        event.set()
        assert not tasks.is_alone
