"""Failpoints: off they do nothing, on they do exactly what was asked; a misspelt name is an error."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

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
    failpoint_fires,
    failpoint_in_thread,
    is_wanted,
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
        await failpoint(name, peer=1)
        failpoint_in_thread(name)
        assert failpoint_fires(name, peer=1) is None


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
    "text",
    [
        "x=count",
        "wal.before_write",
        "wal.before_write=jump",
        "wal.before_write=delay(1.2.3)",
        "wal.before_write=pause,for=3",
        "wal.before_write=pause,times=-1",
        "wal.before_write=pause,peer=2",
        "relay.no_heartbeat=exit",
        "relay.no_heartbeat=on(1)",
        "wal.delay=pause(1)x",
    ],
)
def test_a_wrong_environment_arms_nothing(text: str) -> None:
    with pytest.raises(ConfigError):
        REGISTRY.load(f"wal.before_fsync=count; {text}")
    assert not REGISTRY.armed


def test_the_environment_knows_all_forms() -> None:
    load_environment(
        {"SYNCHRO_FAILPOINTS": "relay.send_delay=on(0.5),peer=2,peer=3; wal.fail=on(27),countdown=4,times=1"}
    )
    send, fail = REGISTRY.armed["relay.send_delay"], REGISTRY.armed["wal.fail"]
    assert (send.action, send.delay_s, send.peers) == (Action.DELAY, 0.5, frozenset((2, 3)))
    assert (fail.action, fail.value, fail.skip, fail.times) == (Action.ON, 27, 4, 1)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"SYNCHRO_FAULT_INJECTION": "0"}, False),
        ({"SYNCHRO_FAULT_INJECTION": "1"}, True),
        ({"SYNCHRO_FAILPOINTS": "wal.delay=on"}, True),
        ({"SYNCHRO_FAILPOINTS": " "}, False),
    ],
)
def test_fault_injection_is_asked_for_by_the_environment(environ: dict[str, str], expected: bool) -> None:
    assert is_wanted(environ) is expected


def test_a_switch_that_is_neither_on_nor_off_starts_nothing() -> None:
    with pytest.raises(ConfigError, match="SYNCHRO_FAULT_INJECTION is 1 or 0, not 'perhaps'"):
        is_wanted({"SYNCHRO_FAULT_INJECTION": "perhaps"})


def test_on_is_what_the_point_is_for() -> None:
    """Wait, or wait for a while, or go wrong with a value."""
    REGISTRY.set("wal.delay")
    REGISTRY.set("relay.send_slow")
    REGISTRY.set("wal.fail")
    got = {name: (p.action, p.delay_s, p.value) for name, p in REGISTRY.armed.items()}
    assert got["wal.delay"] == (Action.PAUSE, 0.0, 0.0)
    assert got["relay.send_slow"] == (Action.DELAY, 1.0, 1.0)
    assert got["wal.fail"] == (Action.ON, 0.0, errno.ENOSPC)


def test_what_goes_wrong_counts_its_passes() -> None:
    REGISTRY.set("wal.fail", skip=1, times=1)
    assert not REGISTRY.acts_next("wal.fail")
    fired = [failpoint_fires("wal.fail") is not None for _ in range(3)]
    assert fired == [False, True, False]
    armed = REGISTRY.last("wal.fail")
    assert armed is not None and (armed.passes, armed.triggers) == (3, 1)


async def test_a_point_may_be_about_some_peers_only(nursery: trio.Nursery) -> None:
    """The others pass, and do not count."""
    REGISTRY.set("relay.send_delay", peers=[2])
    await failpoint("relay.send_delay", peer=3)
    nursery.start_soon(lambda: failpoint("relay.send_delay", peer=2))
    await wait_all_tasks_blocked()
    assert (REGISTRY.waiting("relay.send_delay"), REGISTRY.passes("relay.send_delay")) == (1, 1)
    REGISTRY.clear()


async def test_those_who_waited_go_on_in_their_order(nursery: trio.Nursery) -> None:
    done: list[int] = []

    async def passes(number: int) -> None:
        await failpoint(NAME)
        done.append(number)

    REGISTRY.set(NAME)
    for number in range(20):
        nursery.start_soon(passes, number)
        await wait_all_tasks_blocked()
    REGISTRY.clear(NAME)
    await wait_all_tasks_blocked()
    assert done == list(range(20))


async def test_every_thread_goes_on(nursery: trio.Nursery) -> None:
    """Each wakes the next one, so one clear is enough for all."""
    REGISTRY.set(NAME)
    async with trio.open_nursery() as threads:
        for number in range(3):
            threads.start_soon(trio.to_thread.run_sync, failpoint_in_thread, NAME)
            while REGISTRY.waiting(NAME) <= number:
                await trio.lowlevel.checkpoint()
        REGISTRY.clear()
    assert REGISTRY.waiting(NAME) == 0


async def test_one_that_was_cancelled_does_not_keep_the_others(nursery: trio.Nursery) -> None:
    done: list[int] = []

    async def passes(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await failpoint(NAME)
            done.append(number)

    scopes = [trio.CancelScope() for _ in range(3)]
    REGISTRY.set(NAME)
    for number, scope in enumerate(scopes):
        nursery.start_soon(passes, number, scope)
        await wait_all_tasks_blocked()
    scopes[0].cancel()
    scopes[1].cancel()
    REGISTRY.clear()
    await wait_all_tasks_blocked()
    assert 2 in done


async def test_counts_stay_readable_when_a_point_is_cleared(nursery: trio.Nursery) -> None:
    REGISTRY.set(NAME, times=1)
    nursery.start_soon(failpoint, NAME)
    await wait_all_tasks_blocked()
    await failpoint(NAME)
    REGISTRY.clear(NAME)
    await wait_all_tasks_blocked()
    last = REGISTRY.last(NAME)
    assert last is not None
    assert (last.is_off, last.passes, last.triggers, last.waiting) == (True, 2, 1, 0)


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("wal.delay", {"peers": [1]}),
        ("wal.fail", {"action": "pause"}),
        ("wal.delay", {"action": "pause", "value": 1.0}),
        ("wal.delay", {"skip": 2**31}),
        ("wal.delay", {"value": -1.0}),
        ("wal.no_space", {"value": 1.0}),
        ("wal.delay", {"value": float("nan")}),
    ],
)
def test_what_means_nothing_is_refused(name: str, forms: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="nothing was armed"):
        REGISTRY.set(name, **forms)
    assert not REGISTRY.armed


def test_exit_ends_the_process_without_cleanup() -> None:
    code = (
        "import atexit; from synchro import failpoints as f; atexit.register(print, 'cleanup')\n"
        "f.REGISTRY.set('wal.before_fsync', 'exit'); f.failpoint_in_thread('wal.before_fsync')"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (got.returncode, got.stdout) == (EXIT_CODE, "")
