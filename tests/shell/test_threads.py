"""A system that lets nobody begin a thread holds work up, and ends nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import structlog
import trio

from synchro import threads
from synchro.config import PeerLogin
from synchro.errors import LoginQueueFull
from synchro.rpc import peer_login
from synchro.rpc.host import open_rpc_host
from synchro.server.password_work import PasswordWork
from synchro.threads import in_thread
from synchro.wire.failure import CallNotBegun


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
        found = await in_thread(lambda a, b: (a + b, threading.current_thread()), 1, 2)
    assert found[0] == 3 and found[1] is not threading.current_thread()
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


async def test_a_file_that_hangs_takes_no_thread_of_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to peers try again and again, and give up each time."""
    answers = threading.Event()
    monkeypatch.setattr(peer_login, "read_secret", lambda path: answers.wait())
    try:
        for _ in range(60):
            with trio.move_on_after(0.01):
                await peer_login.password_of(PeerLogin("u", password_file="/hung"))
        with trio.fail_after(20):
            assert await in_thread(lambda: 1) == 1
    finally:
        answers.set()
    with trio.fail_after(20):  # what hung gave its thread back
        assert await peer_login.password_of(PeerLogin("u", password_file="/hung"))


async def test_a_name_that_cannot_be_looked_up_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(10**9, monkeypatch)
    async with open_rpc_host() as host, host.channel("localhost:1") as channel:
        with pytest.raises(CallNotBegun, match="can't start new thread"):
            await channel.unary("/test.Test/Echo", b"x", timeout=10)


async def test_who_logs_in_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    work, runs = PasswordWork(), list[int]()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse_start)
        for number in range(5):
            with pytest.raises(LoginQueueFull, match="can't start new thread; nobody was logged in"):
                await work.run("here", lambda number=number: runs.append(number))  # type: ignore[misc]
    await work.run("here", lambda: runs.append(9))
    assert runs == [9]  # of the others nothing is kept
    work.close()
