"""Peers that have nothing to say to each other for minutes keep their streams (MEND-U1)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from e2e.cluster import Cluster, eventually, soon_s

pytestmark = [pytest.mark.e2e, pytest.mark.long]

TIMEOUT_S: Final = 1000.0
"""Heartbeats come as rarely: nothing but the pings of gRPC keeps a link."""
QUIET_S: Final = 150.0
"""gRPC's own settings end a link that is pinged every 10 s, as ours are, after 35 to 70 s."""
STREAMS: Final = ("upstream_subscribed", "upstream_lost", "upstream_retry", "relay_connected", "leader_lost")


@pytest.mark.timeout(QUIET_S + 120)
@pytest.mark.parametrize("failover", ["off", "election"])
def test_a_pair_that_is_quiet_for_minutes_keeps_its_streams(
    make_cluster: Callable[..., Cluster], failover: str
) -> None:
    options = {"database": {"mode": "rw"}} if failover == "off" else None
    cluster = make_cluster(2, failover=failover, options=options, replication={"timeout": TIMEOUT_S})
    cluster.expect_log("not_a_record")  # what gRPC says for itself; read below
    for instance in cluster:
        instance.spawn(environ={"GRPC_VERBOSITY": "ERROR"})
    for instance in cluster:
        instance.wait_ready()
    cluster.wait_following()
    owner = next(iter(cluster))
    owner.remote.promote()
    owner.remote.create("pay", is_sync=True)
    owner.remote.insert("pay", 1, "before")
    cluster.wait_equal("pay")
    before = streams(cluster)

    time.sleep(QUIET_S)

    began = time.monotonic()
    owner.remote.insert("pay", 2, "after")  # two copies: it has arrived
    for instance in cluster:
        eventually("it is shown", lambda i=instance: len(i.remote.select("pay")) == 2, soon_s(1))
    assert time.monotonic() - began < soon_s(1)
    assert streams(cluster) == before
    for instance in cluster:
        parts = instance.remote.info("replication").values()
        assert [part["upstream"]["status"] for part in parts if "upstream" in part] == ["follow"]
        text = instance.log_path.read_text().lower()
        assert "pings" not in text and "enhance_your_calm" not in text
    # Nor does a stop wait for a heartbeat that comes in a quarter of an hour.
    began = time.monotonic()
    for instance in cluster:
        assert instance.stop() == 0
    assert time.monotonic() - began < soon_s(10)


def streams(cluster: Cluster) -> dict[str, list[Any]]:
    """Every beginning and end of a stream that was logged."""
    return {
        instance.name: [
            (record["event"], record["ts"]) for record in instance.records() if record["event"] in STREAMS
        ]
        for instance in cluster
    }
