"""Fixtures of the tests with real processes. A failed test shows the state and the logs of its instances."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster

CLUSTERS = pytest.StashKey[list[Cluster]]()

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[MakeCluster]:
    """Makes sets that are stopped, and checked, after the test."""
    made: list[Cluster] = request.node.stash.setdefault(CLUSTERS, [])

    def make(names: Iterable[str] | int, **how: Any) -> Cluster:
        if isinstance(names, int):
            names = [f"instance{number:03}" for number in range(1, names + 1)]
        cluster = Cluster(tmp_path / f"set{len(made) + 1}", names, **how)
        made.append(cluster)
        return cluster

    yield make
    failed = request.node.stash.get(FAILED, False)
    for cluster in made:
        cluster.close(check=not failed)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
        shared = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Cluster)]
        for cluster in [*item.stash.get(CLUSTERS, []), *shared]:
            report.sections.append(("instances", cluster.report()))
    return report
