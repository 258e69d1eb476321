"""Failpoints: off they do nothing, on they do exactly what was asked; a misspelt name is an error."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from synchro.errors import ConfigError
from synchro.failpoints import (
    EXIT_CODE,
    POINTS,
    REGISTRY,
    Action,
    failpoint,
    failpoint_in_thread,
    load_environment,
)

NAME = "wal.before_write"


@pytest.fixture(autouse=True)
def nothing_is_left_armed() -> Iterator[None]:
    yield
    REGISTRY.clear()
    assert not REGISTRY.armed


async def test_nothing_happens_while_nothing_is_armed() -> None:
    for name in POINTS:
        await failpoint(name)
        failpoint_in_thread(name)


@pytest.mark.parametrize(
    "call", [REGISTRY.clear, REGISTRY.passes, REGISTRY.waiting, lambda n: REGISTRY.set(n, "count")]
)
def test_an_unknown_name_is_an_error(call: object) -> None:
    assert callable(call)
    with pytest.raises(ConfigError, match=r"unknown failpoint 'wal.befor_write'"):
        call("wal.befor_write")


async def test_a_misspelt_point_in_the_code_shows_as_soon_as_anything_is_armed() -> None:
    REGISTRY.set(NAME, Action.COUNT)
    with pytest.raises(ConfigError):
        await failpoint("wal.before_wrte")


async def test_pause_holds_every_pass_until_cleared(nursery: trio.Nursery) -> None:
    done: list[int] = []

    async def passes(number: int) -> None:
        await failpoint(NAME)
        done.append(number)

    REGISTRY.set(NAME, Action.PAUSE)
    nursery.start_soon(passes, 1)
    nursery.start_soon(passes, 2)
    await wait_all_tasks_blocked()
    assert (done, REGISTRY.waiting(NAME)) == ([], 2)

    assert REGISTRY.clear(NAME) == 2
    await wait_all_tasks_blocked()
    assert sorted(done) == [1, 2]


async def test_pause_holds_a_thread_too(nursery: trio.Nursery) -> None:
    REGISTRY.set(NAME, Action.PAUSE)
    nursery.start_soon(trio.to_thread.run_sync, failpoint_in_thread, NAME)
    while not REGISTRY.waiting(NAME):
        await trio.lowlevel.checkpoint()
    REGISTRY.clear()


async def test_a_paused_task_can_be_cancelled() -> None:
    REGISTRY.set(NAME, Action.PAUSE)
    with trio.CancelScope() as scope:
        scope.cancel()
        await failpoint(NAME)
    assert REGISTRY.waiting(NAME) == 0


async def test_delay_takes_its_time(autojump_clock: MockClock) -> None:
    REGISTRY.set(NAME, Action.DELAY, delay_s=7)
    started = trio.current_time()
    await failpoint(NAME)
    assert trio.current_time() - started == 7


async def test_skip_and_times_choose_the_passes() -> None:
    REGISTRY.set(NAME, Action.ERROR, error=errno.ENOSPC, skip=2, times=1)
    await failpoint(NAME)
    failpoint_in_thread(NAME)
    with pytest.raises(OSError, match=r"failpoint wal\.before_write") as caught:
        await failpoint(NAME)
    assert caught.value.errno == errno.ENOSPC
    await failpoint(NAME)
    assert REGISTRY.passes(NAME) == 4


def test_the_environment_arms_them() -> None:
    text = "wal.before_fsync=delay(0.5); relay.before_send=pause,skip=2,times=1;wal.before_write=error(28);"
    load_environment({"SYNCHRO_FAILPOINTS": text})
    got = {name: (p.action, p.delay_s, p.errno, p.skip, p.times) for name, p in REGISTRY.armed.items()}
    assert got == {
        "wal.before_fsync": (Action.DELAY, 0.5, errno.EIO, 0, 0),
        "relay.before_send": (Action.PAUSE, 0.0, errno.EIO, 2, 1),
        "wal.before_write": (Action.ERROR, 0.0, errno.ENOSPC, 0, 0),
    }
    load_environment({})
    assert len(REGISTRY.armed) == 3


@pytest.mark.parametrize(
    "text", ["x=count", "wal.before_write", "wal.before_write=jump", "wal.before_write=delay(1.2.3)"]
)
def test_a_wrong_environment_arms_nothing(text: str) -> None:
    with pytest.raises(ConfigError):
        REGISTRY.load(f"wal.before_fsync=count; {text}")
    assert not REGISTRY.armed


def test_exit_ends_the_process_without_cleanup() -> None:
    code = (
        "import atexit; from synchro import failpoints as f; atexit.register(print, 'cleanup')\n"
        "f.REGISTRY.set('wal.before_fsync', 'exit'); f.failpoint_in_thread('wal.before_fsync')"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (got.returncode, got.stdout) == (EXIT_CODE, "")
