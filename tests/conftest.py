"""What all tests share."""

from __future__ import annotations

import pytest

REAL_PROCESSES = ("e2e", "jepsen_like")
"""Folders whose tests start real processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real processes share one xdist worker: side by side they would starve each other, and the
    steps of a walk-through share a set and follow one another."""
    for item in items:
        if item.path.parent.name in REAL_PROCESSES or item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.xdist_group("real processes"))
