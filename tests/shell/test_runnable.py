"""`RunnableTasks`: a step knows whether anybody else has something to do."""

from __future__ import annotations

import socket
import threading

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
        assert not tasks.is_alone  # nothing was seen yet
        await alone(tasks, 2)
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


async def test_a_socket_that_can_be_read_is_seen(nursery: trio.Nursery) -> None:
    """Its task may have read a part of it in this round already, and be blocked again."""
    ours, theirs = socket.socketpair()
    with ours, theirs, runnable_tasks() as tasks:
        theirs.send(bytes(50))

        async def read() -> None:
            for _ in range(50):
                await trio.lowlevel.wait_readable(ours)
                ours.recv(1)

        nursery.start_soon(read)
        await alone(tasks, 2)
        assert await alone(tasks, 40) == {False}
        await alone(tasks)
        assert await alone(tasks) == {True}


async def test_a_timer_that_is_due_is_seen(nursery: trio.Nursery) -> None:
    """Deadlines are looked at behind the poll of the same round."""

    timer = trio.CancelScope()

    async def sleep() -> None:
        with timer:
            await trio.sleep_forever()

    nursery.start_soon(sleep)
    await trio.testing.wait_all_tasks_blocked()
    with runnable_tasks() as tasks:
        assert await alone(tasks) == {False, True}
        assert tasks.is_alone
        timer.deadline = trio.current_time()
        await trio.lowlevel.checkpoint()
        assert not tasks.is_alone


async def test_who_ends_a_wait_of_trio_is_alone_until_it_wakes_somebody(nursery: trio.Nursery) -> None:
    """A turn that begins with bytes on a socket, while nobody else had anything to do."""
    ours, theirs = socket.socketpair()
    with ours, theirs, runnable_tasks() as tasks:
        found: list[bool] = []
        over = trio.Event()

        async def read() -> None:
            await trio.lowlevel.wait_readable(ours)
            found.append(tasks.is_alone)
            over.set()
            found.append(tasks.is_alone)

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await alone(tasks, 2)
        threading.Timer(0.05, theirs.send, [b"x"]).start()
        await over.wait()
        assert found == [True, False]
