"""How long writes stop when a person changes who takes them, and that none is lost. [P-30], [P-12]"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

import synchro.client
from synchro.errors import ReadOnly
from tests.e2e.cluster import Cluster, eventually
from tests.e2e.test_live_config import synchro as command

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.long]

HEARTBEAT_S = 1.0
"""The default of `replication.timeout`."""


class Writer:
    """One caller that writes a key after the other. done: when each was acknowledged, monotonic seconds."""

    def __init__(self, endpoints: list[str]) -> None:
        self.done: list[float] = []
        self._endpoints = endpoints
        self._stopping = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._write)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def _write(self) -> None:
        with synchro.client.connect(self._endpoints, timeout=30) as db:
            space = db.space("sync")
            while not self._stopping.is_set():
                space.replace([len(self.done)])
                self.done.append(time.monotonic())

    def go_on(self) -> None:
        before = len(self.done)
        eventually("writes go on", lambda: len(self.done) > before + 20)

    def longest_s(self, since: float) -> float:
        """The longest time between two acknowledgements, of which the second came after `since`."""
        times = list(self.done)
        return max(b - a for a, b in pairwise(times) if b >= since)


@pytest.mark.parametrize("what", ["switchover", "demote"])
def test_a_planned_change_stops_writes_for_less_than_three_heartbeats(
    what: str, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(3, failover="election", replication={"timeout": HEARTBEAT_S}).start()
    cluster.wait_leader().remote.create("sync", is_sync=True)
    cluster.wait_following()
    endpoints = [instance.address for instance in cluster]
    writer = Writer(endpoints)
    pauses = []
    with writer.running():
        for _ in range(3):
            writer.go_on()
            leader = cluster.wait_leader()
            target = next(instance for instance in cluster if instance is not leader)
            began = time.monotonic()
            if what == "switchover":
                command("-e", ",".join(endpoints), "switchover", "--to", target.name)
            else:
                command("-e", leader.address, "demote", leader.name)
            eventually("another one leads", lambda leader=leader: cluster.wait_leader() is not leader)  # type: ignore[misc]
            writer.go_on()
            with pytest.raises(ReadOnly) as refused:  # who was deposed says where to go
                leader.remote.replace("sync", 0)
            assert refused.value.details["leader_address"] == cluster.wait_leader().address
            pauses.append(writer.longest_s(began))
    print(f"{what}: writes stopped for", ", ".join(f"{pause:.2f} s" for pause in pauses))
    cluster.wait_equal("sync")
    kept = {row[0] for row in cluster.wait_leader().remote.select("sync", [], "ALL")}
    assert kept >= set(range(len(writer.done)))
    assert max(pauses) < 3 * HEARTBEAT_S, pauses
