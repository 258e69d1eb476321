"""Instances without a file: who they are to each other, and what verbs for all of them do."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.test_live_config import synchro

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_a_replica_and_its_master(make_cluster: Callable[..., Cluster]) -> None:
    """Each is listed once, and compared once, whoever is asked; one that is away does not hide the other."""
    cluster = make_cluster(2)
    one, two = cluster
    one.start(arguments=["serve", "--listen", one.address, "--data-dir", str(one.dir)])
    flags = ["--replication", one.address, "--read-only"]
    two.start(arguments=["serve", "--listen", two.address, "--data-dir", str(two.dir), *flags])
    one.remote.create("s", is_sync=False)
    one.remote.insert("s", 1, "x")
    eventually("it has it", lambda: len(two.remote.select("s")) == 1)
    for asked in (one, two):
        listed = synchro("-e", asked.address, "member", "list").stdout
        assert [listed.count(instance.address) for instance in cluster] == [1, 1], listed
        compared = synchro("-e", asked.address, "space", "checksum", "s", "--all").stdout
        assert len(set(re.findall(r"[0-9a-f]{16}", compared))) == 1 and compared.count("\n") == 3, compared
    assert one.stop() == 0
    rest = synchro("-e", two.address, "space", "checksum", "s", "--all", code=1)
    assert rest.stdout.count("\n") == 2 and "cannot connect" in rest.stderr
