"""What all tests share."""

from __future__ import annotations

import functools
import inspect
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trio

hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")
"""How long an example takes, or to make one, is a matter of the machine, and of what else runs on it."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell that has no job control: the processes of the tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_PROCESSES = ("tests/e2e", "tests/jepsen_like")
"""Folders whose tests start real processes: `make test` runs them by themselves, by files."""
PATIENCE_S = 120.0
"""Of a test on trio; by the clock of its loop, which in many leaves stalls of the machine out."""
CLOCKS_THAT_JUMP = {"autojump_clock", "mock_clock"}
_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fresh_options_of_the_command_line() -> Iterator[None]:
    """They are one object in a process, and a process is one command line; here it is many."""
    yield
    connection = sys.modules.get("synchro.cli.connection")
    if connection is not None:
        connection.options.forget()


@pytest.fixture(autouse=True)
def the_sink_of_the_log_goes_with_its_test() -> Iterator[None]:
    """One with the stream of a former test drops all records, and `info` of each later one says so."""
    yield
    logs = sys.modules.get("synchro.logs")
    if logs is not None:
        logs._sink = None  # type: ignore[attr-defined]


def ends(test: Callable[..., Awaitable[None]], patience_s: float) -> Callable[..., Awaitable[None]]:
    """The test, which fails where it waits for what never comes, and says where that is."""

    @functools.wraps(test)
    async def bounded(**fixtures: Any) -> None:
        lines: list[str] = []
        with trio.move_on_after(patience_s) as patience:
            try:
                await test(**fixtures)
            except BaseException as error:
                if patience.cancel_called:
                    lines = [line for one in _leaves(error) for line in _lines_of(one, test)]
                raise
        if patience.cancelled_caught:
            where = "; ".join(lines) or test.__name__
            pytest.fail(
                f"after {patience_s:.0f} s it still waits for what did not come: {where}", pytrace=False
            )

    return bounded


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def _lines_of(error: BaseException, test: Callable[..., Any]) -> list[str]:
    """The innermost line of the file of the test through which the error came."""
    file = inspect.getfile(inspect.unwrap(test))
    lines = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == file]
    return [f"{Path(file).name}:{one.lineno} {one.line}" for one in lines[-1:]]


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        has_own_end = any(item.get_closest_marker(name) for name in ("long", "timeout"))
        if not has_own_end and not CLOCKS_THAT_JUMP & set(item.fixturenames):
            item.obj = ends(item.obj, PATIENCE_S)
    if any(_ROOT / folder in item.path.parents for folder in REAL_PROCESSES):
        item.add_marker(pytest.mark.e2e)
    elif item.get_closest_marker("e2e"):
        raise pytest.UsageError(f"{item.nodeid} is marked e2e, but does not lie in one of {REAL_PROCESSES}")
