"""A replica set that is made when a person says where, on real processes. [M-17]"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.cluster import Cluster, eventually
from tests.e2e.test_live_config import synchro

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_the_set_is_made_where_it_was_told(make_cluster: Callable[..., Cluster]) -> None:
    """Not before, not by who was restarted in between, and not twice."""
    cluster = make_cluster(
        3, failover="election", replication={"bootstrap_strategy": "supervised", "connect_timeout": 0.5}
    )
    for instance in cluster:
        instance.spawn()
    addresses = ",".join(instance.address for instance in cluster)

    def all_wait() -> bool:
        return all("nobody was told yet" in (i.remote.info("waits_for") or "") for i in cluster)

    eventually("all wait for a word", all_wait)
    unknown = synchro("-e", addresses, "bootstrap", "instance009", code=2)
    assert "there are instance001, instance002, instance003; nothing was done" in unknown.stderr
    cluster["instance002"].kill()
    cluster["instance002"].spawn()
    eventually("all wait again", all_wait)
    made = synchro("-e", addresses, "bootstrap", "instance002")
    assert made.stdout.startswith("instance002 made the replica set ")
    for instance in cluster:
        instance.wait_ready()
    leader = cluster.wait_leader()
    uuids = {instance.remote.info("replicaset.uuid") for instance in cluster}
    assert len(uuids) == 1 and uuids.pop() in made.stdout
    assert cluster["instance002"].remote.info("id") == 1
    refused = synchro("-e", addresses, "bootstrap", "instance001", code=1)
    assert "BOOTSTRAP_REFUSED" in refused.stderr and "nothing was made" in refused.stderr
    leader.remote.create("pay", is_sync=True)
    leader.remote.insert("pay", 1, "after")
