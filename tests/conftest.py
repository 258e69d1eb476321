"""What all tests share."""

from __future__ import annotations

import pytest

REAL_PROCESSES = ("e2e", "jepsen_like")
"""Folders whose tests start real processes: `make test` runs them by themselves, one after the other."""


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.parent.name in REAL_PROCESSES:
        item.add_marker(pytest.mark.e2e)
