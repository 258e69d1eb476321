"""Links cut inside the processes by the service for faults: SF-5, SF-7, and a leader that is cut off."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

from synchro.errors import ReadOnly, SynchroError, SyncRollback, SyncTimeout
from synchro.rpc.generated.v1 import control_pb2
from tests.e2e.cluster import HEARTBEAT_S, Cluster, Instance, eventually, never, soon_s
from tests.e2e.remote import COMMITTED, ROLLED_BACK, insert

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]


def cut(cluster: Cluster, one: Instance) -> None:
    """Both ways, on both sides."""
    for other in cluster:
        if other is one:
            one.remote.partition()
        else:
            other.remote.partition(one.name)


def heal(cluster: Cluster) -> None:
    for instance in cluster:
        instance.remote.heal()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """Three instances with elections, shared by tests that each have a space of their own."""
    names = [f"instance{number:03}" for number in (1, 2, 3)]
    # Heartbeats slower than elsewhere: on a busy machine nobody must be elected because of the load.
    timing = {"election_timeout": 1, "timeout": 0.3}
    directory = tmp_path_factory.mktemp("three")
    with Cluster(directory, names, failover="election", replication=timing, faults=True) as cluster:
        yield cluster.start()


def leader_of(cluster: Cluster, space: str) -> Instance:
    heal(cluster)
    cluster.wait_following()
    leader = cluster.wait_leader()
    leader.remote.create(space, is_sync=True)
    cluster.wait_equal(space)
    return leader


def test_a_leader_that_is_cut_off(three: Cluster) -> None:
    """It confirms nothing alone; the others elect; after healing one history, and every caller knows its end.
    SF-5 on the way: the term of the queue follows that of the election."""
    leader = leader_of(three, "leader_cut")
    leader.remote.insert("leader_cut", 1)
    three.wait_equal("leader_cut")
    term = leader.remote.queue()["term"]
    cut(three, leader)
    alone = [leader.remote.begin(insert("leader_cut", [number]), timeout=900) for number in (100, 101)]
    others = [instance for instance in three if instance is not leader]

    def successor() -> Instance | None:
        for instance in others:
            info = instance.remote.info()
            queue = info["synchro"]["queue"]
            if queue["owner"] == info["id"] and queue["term"] > term and not info["ro"]:
                return instance
        return None

    new = eventually("the others have a leader", successor, soon_s(10))
    assert new is not None
    new.remote.insert("leader_cut", 2)
    assert leader.remote.select("leader_cut") == [[1]], "unconfirmed rows are not visible on the old leader"
    assert leader.remote.queue()["term"] == term
    eventually("it knows that it cannot write", lambda: leader.remote.info("ro"), soon_s(5))
    heal(three)
    assert three.wait_leader() is not None
    outcomes = [write.error(soon_s(10)) for write in alone]
    assert all(isinstance(each, SynchroError) for each in outcomes), outcomes
    three.wait_equal("leader_cut", timeout=soon_s(10))
    rows = [row[0] for row in new.remote.select("leader_cut")]
    assert rows == [1, 2]
    for each in outcomes:
        if isinstance(each, SyncRollback):
            assert each.details["outcome"] == "rolled_back"
    for instance in three:
        info = instance.remote.info()
        assert info["synchro"]["queue"]["term"] == info["election"]["term"] > term


def test_a_follower_that_is_cut_off_changes_nothing(three: Cluster) -> None:
    leader = leader_of(three, "follower_cut")
    follower = next(instance for instance in three if instance is not leader)
    term = leader.remote.info("election.term")
    cut(three, follower)
    for number in range(20):
        leader.remote.insert("follower_cut", number)
    eventually(
        "the follower lost its sources",
        lambda: (
            "follow"
            not in {
                part.get("upstream", {}).get("status")
                for part in follower.remote.info("replication").values()
            }
        ),
    )
    assert follower.remote.select("follower_cut") == []
    heal(three)
    three.wait_equal("follower_cut")
    assert leader.remote.info("election.term") == term, "pre-vote: nobody had to be elected again"
    assert follower.remote.checksum("follower_cut")[0] == 20


def test_SF_05_a_round_without_a_winner(make_cluster: MakeCluster) -> None:
    """SF-5: without elections `promote` of an instance that reaches nobody starts a term and wins nothing."""
    modes = {f"instance{number:03}": {"database": {"mode": "rw"}} for number in (1, 2, 3)}
    # Links that are dead after four seconds of silence: long enough to ask in vain.
    cluster = make_cluster(modes, instances=modes, replication={"timeout": 1}).start()
    first, second = cluster["instance001"], cluster["instance002"]
    term = first.remote.promote().term
    eventually("all know it", lambda: all(i.remote.queue()["term"] == term for i in cluster))
    third = cluster["instance003"]
    for other in (first, second):
        other.pause()
    with pytest.raises(SynchroError):
        third.remote.promote(timeout=0.5)
    info = third.remote.info()
    assert info["synchro"]["queue"]["term"] == term < info["election"]["term"]
    for other in (first, second):
        other.resume()
    cluster.wait_following()
    taken = first.remote.promote(timeout=soon_s(10))
    assert taken.term >= term
    eventually(
        "equal again",
        lambda: all(
            i.remote.queue()["term"] == i.remote.info("election.term") == first.remote.queue()["term"]
            for i in cluster
        ),
    )


def test_SF_07_busy_while_a_promote_is_written(make_cluster: MakeCluster) -> None:
    """SF-7: busy until the row is on disk; what comes meanwhile neither fails nor passes."""
    modes = {f"instance{number:03}": {"database": {"mode": "rw"}} for number in (1, 2)}
    # Heartbeats so slow that a disk which does not answer for a while is no reason to resign.
    cluster = make_cluster(modes, instances=modes, replication={"timeout": 1}, faults=True).start()
    cluster.expect_log("wal_stuck")
    first, second = cluster["instance001"], cluster["instance002"]
    first.remote.promote()
    first.remote.create("sync", is_sync=True)
    cluster.wait_equal("sync")
    assert [instance.remote.queue()["busy"] for instance in cluster] == [False, False]
    # The first sync puts term and vote on disk, the second one the PROMOTE.
    second.remote.pause_at("wal.before_fsync", skip=1)
    taken = second.remote.control.Promote.future(control_pb2.PromoteRequest(), timeout=60)
    eventually("it is busy", lambda: second.remote.queue()["busy"])
    write = second.remote.begin(insert("sync", [1]), timeout=900)
    never(
        "it is decided, or a write fails or passes meanwhile",
        lambda: taken.done() or write.is_done or second.remote.queue()["owner"] == second.id,
        3 * HEARTBEAT_S,
    )
    second.remote.clear()
    assert taken.result(soon_s()).previous_owner == first.id
    eventually("not busy", lambda: not any(i.remote.queue()["busy"] for i in cluster))
    # It was sent before the queue had changed hands, so it may be refused; then nothing was done.
    error = write.error(soon_s())
    assert error is None or isinstance(error, ReadOnly), error
    second.remote.insert("sync", 2)
    cluster.wait_equal("sync")
    assert first.remote.select("sync") == ([[1], [2]] if error is None else [[2]])


def test_unknown_outcomes_can_be_asked_for_after_healing(three: Cluster) -> None:
    """A write that timed out on a leader that was cut off: `wait` tells how it ended, on every instance."""
    leader = leader_of(three, "unknown")
    cut(three, leader)
    error = leader.remote.begin(insert("unknown", [1]), timeout=0.5).error(soon_s())
    assert isinstance(error, (SyncTimeout, SynchroError))
    heal(three)
    three.wait_leader()
    three.wait_equal("unknown", timeout=soon_s(10))
    rows = leader.remote.select("unknown")
    if isinstance(error, SyncTimeout):
        origin, lsn = (int(part) for part in error.details["txn"].split(":"))
        outcome = leader.remote.wait_transaction((origin, lsn))
        assert outcome == (COMMITTED if rows else ROLLED_BACK)
