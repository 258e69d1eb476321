"""asyncio as a guest of trio: timers, threads, fairness, cancellation, the end."""

# ruff: noqa: ASYNC110 - loops that poll are what is tested

from __future__ import annotations

import asyncio
import gc
import socket
import time
import warnings

import pytest
import trio

from tests.grpcio_host.guest_loop import open_guest_loop


async def test_asyncio_timers_and_worker_threads_run() -> None:
    async def body() -> int:
        await asyncio.wait_for(asyncio.sleep(0.03), 10)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.05)
        return await asyncio.get_running_loop().run_in_executor(None, lambda: 7)

    with trio.fail_after(10):
        async with open_guest_loop() as loop:
            start = time.monotonic()
            assert await loop.aio(body()) == 7
            assert time.monotonic() - start >= 0.08


async def test_a_timer_set_from_trio_fires() -> None:
    """No asyncio callback runs at that moment, so the loop must learn of the new timer by itself."""
    with trio.fail_after(10):
        async with open_guest_loop() as loop:
            fired = trio.Event()
            await trio.sleep(0.01)
            loop.call_later(0.02, fired.set)
            await fired.wait()


async def test_a_later_timer_does_not_hide_an_earlier_one() -> None:
    with trio.fail_after(10):
        async with open_guest_loop() as loop:
            late = loop.call_later(3600, pytest.fail, "an hour cannot have passed")
            fired = trio.Event()
            loop.call_later(0.02, fired.set)
            await fired.wait()
            late.cancel()


async def test_a_busy_asyncio_side_leaves_trio_its_turns() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async with open_guest_loop() as loop:
        with trio.fail_after(10), trio.move_on_after(0.1) as scope:
            await loop.aio(spin())
        assert scope.cancelled_caught


async def test_a_busy_trio_side_leaves_asyncio_its_turns() -> None:
    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def many_steps() -> str:
        for _ in range(100):
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return "done"

    with trio.fail_after(10):
        async with open_guest_loop() as loop, trio.open_nursery() as nursery:
            nursery.start_soon(spin)
            assert await loop.aio(many_steps()) == "done"
            nursery.cancel_scope.cancel()


async def test_what_waits_for_idleness_comes_behind_all_that_arrived() -> None:
    """Natural batching: bytes that are in the socket, and callbacks of callbacks, come first."""
    order: list[str] = []
    done = trio.Event()
    near, far = socket.socketpair()

    def step(left: int) -> None:
        order.append("step")
        if left:
            loop.call_soon(step, left - 1)

    def read() -> None:
        order.append(near.recv(1).decode())

    with near, far, trio.fail_after(10):
        async with open_guest_loop() as loop:
            near.setblocking(False)
            loop.add_reader(near.fileno(), read)
            far.send(b"ab")
            loop.call_when_idle(lambda: order.append("idle"))
            loop.call_when_idle(done.set)
            loop.call_soon(step, 3)
            await done.wait()
            loop.remove_reader(near.fileno())
    assert sorted(order[:-1]) == ["a", "b", *["step"] * 4]
    assert order[-1] == "idle"


async def test_idleness_is_not_waited_for_without_end() -> None:
    """Whoever is woken then may be what keeps the other side busy."""
    with trio.fail_after(10):
        async with open_guest_loop() as loop:
            called = trio.Event()

            async def spin() -> None:
                while not called.is_set():
                    await asyncio.sleep(0)

            loop.call_when_idle(called.set)
            await loop.aio(spin())


async def test_callbacks_without_end_do_not_hide_what_arrives() -> None:
    near, far = socket.socketpair()
    with near, far, trio.fail_after(10):
        async with open_guest_loop() as loop:
            arrived = trio.Event()

            async def spin() -> None:
                while not arrived.is_set():
                    await asyncio.sleep(0)

            near.setblocking(False)
            loop.add_reader(near.fileno(), arrived.set)
            far.send(b"a")
            await loop.aio(spin())
            loop.remove_reader(near.fileno())


async def test_cancelling_the_trio_scope_waits_for_the_coroutine_to_clean_up() -> None:
    steps: list[str] = []

    async def slow_to_leave() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            steps.append("cleaned up")

    with trio.fail_after(10):
        async with open_guest_loop() as loop:
            with trio.move_on_after(0.02) as scope:
                await loop.aio(slow_to_leave())
            assert scope.cancelled_caught
            assert steps == ["cleaned up"]


async def test_an_exception_crosses_as_it_is() -> None:
    async def fail() -> None:
        raise KeyError("x")

    async with open_guest_loop() as loop:
        with pytest.raises(KeyError):
            await loop.aio(fail())


async def test_a_task_cancelled_by_asyncio_code_is_an_error_for_trio() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async with open_guest_loop() as loop:
        with pytest.raises(trio.BrokenResourceError):
            await loop.aio(give_up())


async def test_an_exception_of_the_body_comes_out_in_no_group() -> None:
    with pytest.raises(KeyError):
        async with open_guest_loop():
            raise KeyError("x")


async def test_cleanup_still_has_asyncio_when_the_body_is_cancelled_from_outside() -> None:
    async def goodbye() -> str:
        await asyncio.sleep(0.01)
        return "bye"

    said = []
    with trio.fail_after(4), trio.move_on_after(0.02):  # below CLOSE_TIMEOUT_S: it must not hang until then
        async with open_guest_loop() as loop:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    said.append(await loop.aio(goodbye()))
    assert said == ["bye"]


async def test_leftover_tasks_are_cancelled_without_a_warning() -> None:
    ended = []

    async def forgotten() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    problems: list[object] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with open_guest_loop() as loop:
            loop.set_exception_handler(lambda _, context: problems.append(context))
            task = loop.create_task(forgotten())
            await trio.sleep(0.01)
        gc.collect()
    assert ended == [True] and task.cancelled() and loop.is_closed() and problems == []


async def test_another_thread_may_call_soon_threadsafe() -> None:
    with trio.fail_after(10):
        async with open_guest_loop() as loop:
            called = trio.Event()
            await trio.to_thread.run_sync(loop.call_soon_threadsafe, called.set)
            await called.wait()


async def test_asyncio_does_not_get_the_signals() -> None:
    async with open_guest_loop() as loop:
        with pytest.raises(NotImplementedError):
            loop.add_signal_handler(2, print)


async def test_an_idle_loop_costs_nothing() -> None:
    """A pump that polls in a circle would use a whole core."""
    async with open_guest_loop():
        await trio.sleep(0.05)
        before = time.thread_time()
        await trio.sleep(0.5)
        assert time.thread_time() - before < 0.1
