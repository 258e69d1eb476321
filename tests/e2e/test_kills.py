"""kill -9 of the leader with waiting entries, of all instances under load, of a follower while it joins.

Afterwards: everything that was acknowledged is there, nothing that was rolled back is visible, vclocks
without component 0 and checksums are equal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from functools import partial

import pytest

from synchro.errors import SynchroError, SyncRollback
from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.remote import COMMITTED, ROLLED_BACK, UNKNOWN, Lost, Write, insert

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
ELECTION = {"election_timeout": 1}


class Writers:
    """Threads that insert numbers of their own into a space on one instance, one after the other."""

    def __init__(self, instance: Instance, space: str, count: int) -> None:
        self._space = space
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
                remote.insert(self._space, value, timeout=10)
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


def contents_everywhere(cluster: Cluster, space: str) -> set[int]:
    cluster.wait_equal(space, timeout=soon_s(15))
    views = [{row[0] for row in instance.remote.select(space)} for instance in cluster.running]
    assert all(view == views[0] for view in views)
    return views[0]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """Three instances with elections, shared by tests that each have a space of their own."""
    names = [f"instance{number:03}" for number in (1, 2, 3)]
    directory = tmp_path_factory.mktemp("three")
    with Cluster(directory, names, failover="election", replication=ELECTION) as cluster:
        yield cluster


def leader_of(cluster: Cluster, space: str) -> Instance:
    """All run, whatever an earlier test left; the leader, and a synchronous space."""
    for instance in cluster.running:
        instance.resume()
    for instance in cluster:
        if not instance.is_running:
            instance.spawn()
    for instance in cluster:
        instance.wait_ready()
    cluster.wait_following()
    leader = cluster.wait_leader()
    leader.remote.create(space, is_sync=True)
    cluster.wait_equal(space)
    return leader


def test_kill_of_the_leader_with_waiting_entries(three: Cluster) -> None:
    """Its followers stand still, so the entries are on its disk alone, and the next leader never heard of
    them."""
    space = "waiting"
    leader = leader_of(three, space)
    for number in range(20):
        leader.remote.insert(space, number)
    followers = [instance for instance in three if instance is not leader]
    for follower in followers:
        follower.pause()
    writes: list[Write] = [leader.remote.begin(insert(space, [number])) for number in range(100, 110)]
    names = eventually("they wait on disk", lambda: leader.remote.waiting_on_disk(10))
    assert len(leader.remote.select(space)) == 20, "waiting rows are not visible"
    leader.kill()
    assert all(isinstance(write.error(soon_s()), Lost) for write in writes)
    for follower in followers:
        follower.resume()

    successor = three.wait_leader()
    assert successor is not leader
    successor.remote.insert(space, 500)
    leader.start()
    three.wait_leader()
    # What the dead leader had alone is gone, unless the pause let some rows through; nothing in between.
    found = contents_everywhere(three, space)
    assert set(range(20)) <= found and 500 in found
    waited = found & set(range(100, 110))
    outcomes = [successor.remote.wait_transaction(name) for name in names]
    assert outcomes.count(COMMITTED) == len(waited)
    for instance in three:
        for name, outcome in zip(names, outcomes, strict=True):
            told = instance.remote.wait_transaction(name)
            assert told == COMMITTED if outcome == COMMITTED else told in (ROLLED_BACK, UNKNOWN), (
                instance.name
            )


def test_kill_of_the_leader_under_load(three: Cluster) -> None:
    space = "leader_load"
    leader = leader_of(three, space)
    writers = Writers(leader, space, 4)
    eventually("a hundred writes", lambda: len(writers.acknowledged) >= 100, soon_s(10))
    leader.kill()
    writers.end()
    assert writers.unknown, "the kill hit writes on their way"
    successor = three.wait_leader()
    for number in range(20):
        successor.remote.insert(space, 90_000_000 + number)
    leader.start()
    three.wait_leader()
    found = contents_everywhere(three, space)
    after = {90_000_000 + number for number in range(20)}
    assert after <= found
    writers.judge(found - after)


def test_kill_of_all_under_load(three: Cluster) -> None:
    space = "all_load"
    leader = leader_of(three, space)
    writers = Writers(leader, space, 6)
    eventually("two hundred writes", lambda: len(writers.acknowledged) >= 200, soon_s(15))
    three.kill_all()
    writers.end()
    assert writers.unknown
    three.start()
    leader = three.wait_leader()
    leader.remote.insert(space, 999_999_999)
    writers.judge(contents_everywhere(three, space) - {999_999_999})


def test_kill_of_a_follower_under_load_costs_nothing(three: Cluster) -> None:
    space = "follower_load"
    leader = leader_of(three, space)
    follower = next(instance for instance in three if instance is not leader)
    writers = Writers(leader, space, 4)

    def writes_go_on() -> None:
        count = len(writers.acknowledged)
        eventually("writes go on", lambda: len(writers.acknowledged) > count + 50, soon_s(10))

    writes_go_on()
    follower.kill()
    writes_go_on()
    follower.start()
    writes_go_on()
    writers.end()
    assert not writers.unknown and not writers.rolled_back
    writers.judge(contents_everywhere(three, space))


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


@pytest.mark.long
def test_kill_of_a_follower_at_any_moment_of_its_join(make_cluster: MakeCluster) -> None:
    """Killed at four moments: after the source saw the join begin, 0 to 45 ms later."""
    cluster, owner, joiner = joiner_of(make_cluster)
    for attempt in range(4):
        before = len(owner.records("join_began"))
        joiner.spawn()
        eventually(
            "the join began",
            partial(lambda n: len(owner.records("join_began")) > n or joiner.files(".snap"), before),
            soon_s(15),
        )
        time.sleep(attempt * 0.015)
        joiner.kill()
        members = owner.remote.select("_cluster")
        assert len(members) <= 2, members
    joiner.spawn()
    joined_once(cluster, owner, joiner)
