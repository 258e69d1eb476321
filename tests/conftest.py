"""What all tests share."""

from __future__ import annotations

import pytest

REAL_PROCESSES = ("e2e", "jepsen_like")
"""Folders whose tests start real processes: `make test` runs them by themselves, three files at a time."""


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.parent.name in REAL_PROCESSES:
        item.add_marker(pytest.mark.e2e)
