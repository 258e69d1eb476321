"""What all tests share."""

from __future__ import annotations

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell that has no job control: the processes of the tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_PROCESSES = ("e2e", "jepsen_like")
"""Folders whose tests start real processes: `make test` runs them by themselves, three files at a time."""


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.parent.name in REAL_PROCESSES:
        item.add_marker(pytest.mark.e2e)
