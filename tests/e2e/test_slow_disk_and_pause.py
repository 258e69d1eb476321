"""A disk that hangs for longer than a death timeout, and processes that are stopped for as long, under load
(MEND-R5, ADR 16)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

import pytest
from e2e.cluster import Cluster, Instance, eventually, soon_s
from e2e.remote import seconds

import synchro
from synchro.errors import SyncRollback
from synchro.rpc.generated.fault.v1 import fault_pb2

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
SILENCE_S: Final = 6.0
"""Longer than a death timeout of `replication.timeout: 1`, which is 4 s."""
CALLERS: Final = 4
WAIT_S: Final = 60.0
"""What a write may take: longer than any silence here."""


class Load:
    """Callers that insert rising keys into `pay`, one after the other, until told otherwise."""

    def __init__(self, cluster: Cluster) -> None:
        self._addresses = ",".join(instance.address for instance in cluster)
        self._over = threading.Event()
        self.written: list[tuple[int, float]] = []
        """(key, monotonic seconds of its acknowledgement)."""
        self.errors: list[Exception] = []
        self.rolled_back: set[int] = set()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        key = number
        with synchro.connect(self._addresses, timeout=WAIT_S) as db:
            space = db.space("pay")
            while not self._over.is_set():
                try:
                    space.insert([key, "x"])
                    self.written.append((key, time.monotonic()))
                except SyncRollback:  # the next owner did not have it: decided, and said so
                    self.rolled_back.add(key)
                except synchro.SynchroError as error:
                    self.errors.append(error)
                key += CALLERS

    def wait_more(self) -> None:
        """Each caller has written something that it had not begun before."""
        before = len(self.written)
        eventually("writes go on", lambda: len(self.written) > before + 2 * CALLERS, soon_s(10))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


@contextmanager
def loaded(cluster: Cluster, *, has_successors: bool = False) -> Iterator[Load]:
    """While load runs; at its end every write that was acknowledged is everywhere, and none of those that
    were said to be rolled back. has_successors: the owner may change, else there are none of these."""
    load = Load(cluster)
    load.start()
    try:
        load.wait_more()
        yield load
        load.wait_more()
    finally:
        load.stop()
    assert load.errors == []
    assert has_successors or not load.rolled_back
    cluster.wait_equal("pay")
    for instance in cluster:
        there = {row[0] for row in instance.remote.select("pay")}
        assert {key for key, _ in load.written} <= there
        assert not load.rolled_back & there


def set_of_three(make_cluster: MakeCluster, failover: str = "off", **how: Any) -> tuple[Cluster, Instance]:
    if failover == "off":
        how["options"] = {"database": {"mode": "rw"}}
    cluster = make_cluster(3, failover=failover, replication={"timeout": 1.0}, **how).start()
    owner = cluster["instance001"]
    owner.remote.promote()
    cluster.wait_leader()
    owner.remote.create("pay", is_sync=True)
    cluster.wait_equal("pay")
    return cluster, owner


def queue_of(instance: Instance) -> tuple[int, int, bool]:
    """Owner, term, and whether this instance takes writes."""
    info = instance.remote.info(timeout=2)
    queue = info["synchro"]["queue"]
    return queue["owner"], queue["term"], not info["ro"]


def hang(instance: Instance) -> None:
    """Its next sync takes long; the process runs."""
    request = fault_pb2.SetFailpointRequest(
        name="wal.before_fsync",
        action=fault_pb2.FAILPOINT_ACTION_DELAY,
        delay=seconds(SILENCE_S),
        times=1,
    )
    instance.remote.call(instance.remote.faults.SetFailpoint, request)


def test_without_elections_a_hanging_sync_costs_time_only(make_cluster: MakeCluster) -> None:
    cluster, owner = set_of_three(make_cluster, faults=True)
    cluster.expect_log("wal_stuck")
    before = queue_of(owner)
    assert before[2]
    with loaded(cluster) as load:
        hang(owner)
        [stuck] = eventually("it is noticed", lambda: owner.records("wal_stuck"), soon_s(10))
        assert str(owner.dir) in stuck["directory"]
        written = len(load.written)
        assert queue_of(owner) == before, "it waits for its disk, as the owner"
        eventually("the disk answers", lambda: len(load.written) > written, soon_s(10))
        assert queue_of(owner) == before
    assert queue_of(owner) == before
    times = sorted(at for _, at in load.written)
    silence_s = max(later - earlier for earlier, later in pairwise(times))
    assert silence_s > SILENCE_S - 1, "nothing was acknowledged while the disk was silent"
    assert not any(instance.records("queue_owner_changed")[1:] for instance in cluster)


@pytest.mark.parametrize("who", ["owner", "follower"])
def test_without_elections_a_pause_of_a_process_is_no_stuck_disk(make_cluster: MakeCluster, who: str) -> None:
    cluster, owner = set_of_three(make_cluster)
    before = queue_of(owner)
    target = owner if who == "owner" else cluster["instance003"]
    with loaded(cluster):
        target.pause()
        time.sleep(SILENCE_S)
        target.resume()
    assert queue_of(owner) == before
    assert not any(instance.records("wal_stuck") for instance in cluster)


@pytest.mark.long
@pytest.mark.parametrize("who", ["owner", "follower", "all"])
@pytest.mark.parametrize("failover", ["off", "election"])
def test_pauses_in_every_mode(make_cluster: MakeCluster, failover: str, who: str) -> None:
    """Three in a row, the last one shorter than a death timeout."""
    cluster, owner = set_of_three(make_cluster, failover)
    with loaded(cluster, has_successors=failover == "election") as load:
        for silence_s in (SILENCE_S, SILENCE_S, 2.0):
            owner = cluster.wait_leader(soon_s(30))
            followers = [instance for instance in cluster if instance is not owner]
            targets = {"owner": [owner], "follower": followers[:1], "all": list(cluster)}[who]
            for target in targets:
                target.pause()
            time.sleep(silence_s)
            for target in targets:
                target.resume()
            load.wait_more()
    assert not any(instance.records("wal_stuck") for instance in cluster)


@pytest.mark.long
@pytest.mark.parametrize("who", ["follower", "followers", "all"])
def test_without_elections_hanging_syncs_of_others_cost_time_only(
    make_cluster: MakeCluster, who: str
) -> None:
    cluster, owner = set_of_three(make_cluster, faults=True)
    cluster.expect_log("wal_stuck")
    before = queue_of(owner)
    others = [instance for instance in cluster if instance is not owner]
    targets = {"follower": others[:1], "followers": others, "all": list(cluster)}[who]
    with loaded(cluster) as load:
        for _ in range(2):
            for target in targets:
                hang(target)
            time.sleep(SILENCE_S + 1)
            load.wait_more()
    assert queue_of(owner) == before
    assert {instance.name for instance in cluster if instance.records("wal_stuck")} == {
        target.name for target in targets
    }
