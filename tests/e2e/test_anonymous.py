"""An anonymous follower from its first start until it is a member, on real processes. [M-6], [M-30]."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synchro.errors import SynchroError
from tests.e2e.cluster import Cluster, eventually
from tests.e2e.test_live_config import edit, synchro

pytestmark = pytest.mark.e2e


def test_it_follows_is_shown_and_becomes_a_member(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(
        4, failover="election", instances={"instance004": {"replication": {"anon": True}}}
    ).start("instance001", "instance002", "instance003")
    leader = cluster.wait_leader()
    path, four = str(cluster.config_path), cluster["instance004"].start()
    leader.remote.create("pay", is_sync=True)
    # Its client is sent to the leader, and reads what it wrote.
    synchro("-e", four.address, "insert", "pay", '[1, "through the follower"]')
    eventually("the row is there", lambda: len(four.remote.select("pay")) == 1)
    with pytest.raises(SynchroError, match="never writable"):
        four.remote.insert("pay", 2, "no")
    assert four.remote.info("id") == 0 and four.remote.info("ro_reason") == "anon"
    assert leader.remote.info("synchro.quorum") == 2
    shown = synchro("status", path).stdout
    assert "quorum 2 of 3" in shown and "anonymous" in shown and "Writable: 2 of 2" in shown
    assert "does not answer" not in shown
    # It dies, misses rows, and the log was kept for it.
    four.kill()
    for key in range(10, 20):
        leader.remote.insert("pay", key, "missed")

    def kept_for() -> list[bool]:
        return [c["is_connected"] for c in leader.remote.info("gc.consumers") if c["is_anonymous"]]

    eventually("the log is kept for one that is away", lambda: kept_for() == [False])
    four.start()
    eventually("it caught up", lambda: len(four.remote.select("pay")) == 11)
    # A member from now on, and for good.
    edit_instance(cluster, anon=False)
    assert "replication.anon" in synchro("config", "reload", f"{path}:instance004").stdout
    eventually("it is registered", lambda: four.remote.info("id") == 4)
    eventually("the quorum follows", lambda: leader.remote.info("synchro.quorum") == 3)
    assert "quorum 3 of 4" in synchro("status", path).stdout
    assert leader.remote.info("replication_anon.count") == 0
    edit_instance(cluster, anon=True)
    cluster.expect_log("config_refused")
    refused = synchro("config", "reload", f"{path}:instance004", code=1)
    assert "this instance is member 4 of its set; nothing was changed" in refused.stderr
    assert four.remote.info("id") == 4


def edit_instance(cluster: Cluster, *, anon: bool) -> None:
    cluster.own["instance004"] = {"replication": {"anon": anon}}
    edit(cluster)
