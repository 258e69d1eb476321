"""kill -9 of the leader with waiting entries, of all instances under load, of a follower while it joins.

Afterwards: everything that was acknowledged is there, nothing that was rolled back is visible, vclocks
without component 0 and checksums are equal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from e2e.cluster import Cluster, Instance, eventually, soon_s
from e2e.remote import COMMITTED, ROLLED_BACK, Lost, Write, insert

from synchro.errors import SynchroError, SyncRollback

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
ELECTION = {"election_timeout": 1}


class Writers:
    """Threads that insert numbers of their own into `sync` on one instance, one after the other."""

    def __init__(self, instance: Instance, count: int) -> None:
        self.acknowledged: set[int] = set()
        self.refused: set[int] = set()
        """A refusal other than a rollback: certainly nothing was done."""
        self.rolled_back: set[int] = set()
        self.unknown: set[int] = set()
        self._over = threading.Event()
        self._instance = instance
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        remote = self._instance.remote
        for turn in range(100_000):
            if self._over.is_set():
                return
            value = number * 1_000_000 + turn
            try:
                remote.insert("sync", value, timeout=10)
                self.acknowledged.add(value)
            except SyncRollback:
                self.rolled_back.add(value)
            except Lost:
                self.unknown.add(value)
                return
            except SynchroError as error:
                unknown = error.details.get("outcome") == "unknown"
                (self.unknown if unknown else self.refused).add(value)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(soon_s(20))

    def judge(self, found: set[int]) -> None:
        """found: what is in the space in the end."""
        assert self.acknowledged - found == set(), "acknowledged and lost"
        assert found & self.rolled_back == set(), "rolled back and visible"
        assert found & self.refused == set(), "refused and visible"
        assert found - self.acknowledged - self.unknown == set(), "nobody wrote it"


def contents_everywhere(cluster: Cluster) -> set[int]:
    cluster.wait_equal("sync", timeout=soon_s(15))
    views = [{row[0] for row in instance.remote.select("sync")} for instance in cluster.running]
    assert all(view == views[0] for view in views)
    return views[0]


def elected(make_cluster: MakeCluster, **how: object) -> tuple[Cluster, Instance]:
    cluster = make_cluster(3, failover="election", replication=ELECTION, **how).start()
    leader = cluster.wait_leader()
    leader.remote.create("sync", is_sync=True)
    return cluster, leader


def test_kill_of_the_leader_with_waiting_entries(make_cluster: MakeCluster) -> None:
    """Its followers stand still, so the entries are on its disk alone, and the next leader never heard of
    them."""
    cluster, leader = elected(make_cluster)
    acknowledged = [leader.remote.insert("sync", number) for number in range(20)]
    followers = [instance for instance in cluster if instance is not leader]
    for follower in followers:
        follower.pause()
    writes: list[Write] = [leader.remote.begin(insert("sync", [number])) for number in range(100, 110)]
    eventually("they wait", lambda: leader.remote.queue()["len"] == 10)
    names = [(entry.txn.origin, entry.txn.lsn) for entry in leader.remote.entries()]
    assert len(leader.remote.select("sync")) == 20, "waiting rows are not visible"
    leader.kill()
    assert all(isinstance(write.error(soon_s()), Lost) for write in writes)
    for follower in followers:
        follower.resume()

    successor = cluster.wait_leader()
    assert successor is not leader
    successor.remote.insert("sync", 500)
    leader.start()
    cluster.wait_leader()
    # What the dead leader had alone is gone, unless the pause let some rows through; nothing in between.
    outcomes = {name: successor.remote.wait_transaction(name) for name in names if name[1]}
    found = contents_everywhere(cluster)
    assert set(range(20)) <= found and 500 in found
    waited = found & set(range(100, 110))
    assert waited == set(range(100, 100 + len(waited))), "a prefix in the order of the queue"
    committed = [name for name, outcome in outcomes.items() if outcome == COMMITTED]
    assert len(committed) == len(waited)
    assert len(acknowledged) == 20
    for instance in cluster:
        for name in names:
            assert instance.remote.wait_transaction(name) in (
                (COMMITTED,) if name in committed else (ROLLED_BACK, 4)
            ), (instance.name, name)


def test_kill_of_the_leader_under_load(make_cluster: MakeCluster) -> None:
    cluster, leader = elected(make_cluster)
    writers = Writers(leader, 4)
    eventually("a hundred writes", lambda: len(writers.acknowledged) >= 100, soon_s(10))
    leader.kill()
    writers.end()
    assert writers.unknown, "the kill hit writes on their way"
    successor = cluster.wait_leader()
    second = Writers(successor, 2)
    eventually("the next leader takes writes", lambda: len(second.acknowledged | second.refused) >= 20)
    second.end()
    leader.start()
    cluster.wait_leader()
    found = contents_everywhere(cluster)
    assert writers.acknowledged <= found
    assert found & writers.rolled_back == set() and second.acknowledged <= found


def test_kill_of_all_under_load(make_cluster: MakeCluster) -> None:
    cluster, leader = elected(make_cluster)
    writers = Writers(leader, 6)
    eventually("two hundred writes", lambda: len(writers.acknowledged) >= 200, soon_s(15))
    cluster.kill_all()
    writers.end()
    assert writers.unknown
    cluster.start()
    leader = cluster.wait_leader()
    leader.remote.insert("sync", 999_999_999)
    found = contents_everywhere(cluster) - {999_999_999}
    writers.judge(found)
    for instance in cluster:
        assert all(not entry for entry in instance.records("split_brain"))


def test_kill_of_a_follower_under_load_costs_nothing(make_cluster: MakeCluster) -> None:
    cluster, leader = elected(make_cluster)
    follower = next(instance for instance in cluster if instance is not leader)
    writers = Writers(leader, 4)
    for _ in range(2):
        count = len(writers.acknowledged)
        eventually("writes go on", lambda c=count: len(writers.acknowledged) > c + 50, soon_s(10))
        follower.kill()
        count = len(writers.acknowledged)
        eventually("writes go on", lambda c=count: len(writers.acknowledged) > c + 50, soon_s(10))
        follower.start()
    writers.end()
    assert not writers.unknown and not writers.rolled_back
    writers.judge(contents_everywhere(cluster))


def joiner_of(make_cluster: MakeCluster) -> tuple[Cluster, Instance, Instance]:
    """An owner with 3,000 rows, and an instance that has never run."""
    cluster = make_cluster(
        2,
        instances={"instance001": {"database": {"mode": "rw"}}, "instance002": {"database": {"mode": "ro"}}},
    )
    alone = cluster.dir / "alone.yaml"
    cluster.write_config(alone, ["instance001"])
    owner = cluster["instance001"].start(config=alone)
    owner.remote.promote()
    owner.remote.create("sync", is_sync=True)
    for start in range(0, 3000, 500):
        owner.remote.execute(*(insert("sync", [number, "x" * 200]) for number in range(start, start + 500)))
    return cluster, owner, cluster["instance002"]


def joined_once(cluster: Cluster, owner: Instance, joiner: Instance) -> None:
    joiner.wait_ready()
    members = owner.remote.select("_cluster")
    assert len(members) == 2, f"one row for each instance: {members}"
    assert len({row[1] for row in members}) == 2
    cluster.wait_equal("sync")
    assert owner.remote.checksum("sync")[0] == 3000
    assert owner.remote.info("synchro.quorum") == 2
    owner.remote.insert("sync", 5000, "needs both")
    cluster.wait_equal("sync")


def test_kill_of_a_follower_before_its_first_snapshot_is_named(make_cluster: MakeCluster) -> None:
    """It received everything and is registered, but has nothing that counts as data: it joins again, as the
    same instance."""
    cluster, owner, joiner = joiner_of(make_cluster)
    joiner.spawn(environ={"SYNCHRO_FAILPOINTS": "snapshot.before_rename=exit"})
    assert joiner.wait_exit(soon_s(20)) == 137
    assert joiner.files(".snap") == []
    joiner.spawn()
    joined_once(cluster, owner, joiner)


def test_kill_of_a_follower_at_any_moment_of_its_join(make_cluster: MakeCluster) -> None:
    """Killed at five moments: after the source saw the join begin, 0 to 40 ms later."""
    cluster, owner, joiner = joiner_of(make_cluster)
    for attempt in range(5):
        before = len(owner.records("join_began"))
        joiner.spawn()
        eventually(
            "the join began",
            lambda n=before: len(owner.records("join_began")) > n or joiner.files(".snap"),
            soon_s(15),
        )
        time.sleep(attempt * 0.01)
        joiner.kill()
        members = owner.remote.select("_cluster")
        assert len(members) <= 2, members
    joiner.spawn()
    joined_once(cluster, owner, joiner)
