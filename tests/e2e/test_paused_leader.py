"""A leader that is stopped for longer than its death timeout, and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.cluster import HEARTBEAT_S, Cluster, eventually

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("size", [2, 3])
def test_with_quorum_one_there_is_one_leader_again(make_cluster: Callable[..., Cluster], size: int) -> None:
    """Nobody wrote, so nobody has to choose: one leader that all follow, and no stream is stopped."""
    cluster = make_cluster(size, failover="election", replication={"synchro_quorum": 1}).start()
    leader = cluster.wait_leader()
    leader.remote.create("pay", is_sync=True)
    leader.remote.insert("pay", 1, "before")
    cluster.wait_equal("pay")
    leader.pause()
    others = [instance for instance in cluster if instance is not leader]
    eventually("another leads", lambda: any(not other.remote.info("ro") for other in others))
    time.sleep(2 * HEARTBEAT_S)  # its links to the stopped one are dead by now
    leader.resume()

    heir = cluster.wait_leader()
    heir.remote.insert("pay", 2, "after")
    cluster.wait_equal("pay")
    terms = {instance.remote.info("election.term") for instance in cluster}
    assert len(terms) == 1
    assert not any(instance.records("upstream_stopped") for instance in cluster)
