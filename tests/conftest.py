"""What all tests share."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.patience import PATIENCE_S, ends

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


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        has_own_end = any(item.get_closest_marker(name) for name in ("long", "timeout"))
        if not has_own_end and not CLOCKS_THAT_JUMP & set(item.fixturenames):
            item.obj = ends(item.obj, PATIENCE_S)
    if any(_ROOT / folder in item.path.parents for folder in REAL_PROCESSES):
        item.add_marker(pytest.mark.e2e)
    elif item.get_closest_marker("e2e"):
        raise pytest.UsageError(f"{item.nodeid} is marked e2e, but does not lie in one of {REAL_PROCESSES}")
