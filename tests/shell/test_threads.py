"""A system that lets nobody begin a thread holds work up, and ends nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import structlog
import trio

from synchro import threads
from synchro.threads import in_thread


def refuse(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next so many threads cannot be begun; those that idle are not found."""
    left = times

    async def run_sync(*args: Any, **how: Any) -> object:
        nonlocal left
        if left:
            left -= 1
            raise RuntimeError("can't start new thread")
        return await run(*args, **how)

    run = trio.to_thread.run_sync
    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    monkeypatch.setattr(threads, "_SCARCITY", threads.Scarcity())


async def test_work_waits_for_a_thread_and_that_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(3, monkeypatch)
    with structlog.testing.capture_logs() as records:
        assert await in_thread(lambda a, b: (a, b, threading.current_thread().name), 1, 2) != (1, 2)
    (record,) = records
    assert record["event"] == "threads_scarce"
    assert record["message"].startswith("can't start new thread: snapshots")


async def test_who_waits_for_a_thread_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(10**9, monkeypatch)
    with trio.move_on_after(0.3) as waited:
        await in_thread(print)
    assert waited.cancelled_caught


async def test_an_error_of_the_work_is_not_taken_for_one_of_the_system() -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError):
        await in_thread(fail)
