"""Clean stops, kills, snapshots, and what is there afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.cluster import Cluster, eventually, soon_s
from tests.e2e.remote import Lost, insert, replace

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
RW = {"database": {"mode": "rw"}}
RO = {"database": {"mode": "ro"}}


def single(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(1).start()
    remote = cluster["instance001"].remote
    remote.create("plain", is_sync=False)
    remote.create("local_only", is_sync=False)
    for number in range(10):
        remote.insert("plain", number, "row")
    return cluster


def test_clean_stop_and_start(make_cluster: MakeCluster) -> None:
    cluster = single(make_cluster)
    one = cluster["instance001"]
    before = one.remote.info()
    checksum = one.remote.checksum("plain")
    files = one.files(".xlog")
    assert one.stop() == 0
    one.start()
    after = one.remote.info()
    for key in ("uuid", "id", "vclock", "signature", "replicaset"):
        assert after[key] == before[key], key
    assert one.remote.checksum("plain") == checksum
    assert not one.records("wal_not_closed"), "the log was closed"
    one.remote.insert("plain", 100, "row")
    newer = [name for name in one.files(".xlog") if name not in files]
    assert newer == [f"{before['signature']:020}.xlog"], "a restart opens a new file, named by its signature"


def test_kill_and_start_after_a_torn_tail(make_cluster: MakeCluster) -> None:
    """[W-21]: what follows the last acknowledged write was never acknowledged."""
    cluster = single(make_cluster)
    one = cluster["instance001"]
    checksum = one.remote.checksum("plain")
    vclock = one.remote.vclock()
    one.kill()
    one.start()
    assert one.remote.checksum("plain") == checksum
    assert one.remote.vclock() == vclock
    # Now a tail that really is torn: the beginning of a block that nobody ever finished.
    one.kill()
    log = one.dir / one.files(".xlog")[-1]
    data = log.read_bytes()
    used = len(data.rstrip(b"\0"))
    position = -(-used // 512) * 512
    with open(log, "r+b") as file:
        file.seek(position)
        file.write(data[:0] + b"\xd5\xba\x0b\xab" + bytes(range(200)))
    one.start()
    assert one.remote.checksum("plain") == checksum
    assert one.remote.vclock() == vclock
    one.remote.insert("plain", 100, "row")


def test_snapshot_then_restart(make_cluster: MakeCluster) -> None:
    cluster = single(make_cluster)
    one = cluster["instance001"]
    reply = one.remote.snapshot()
    name = f"{reply.signature:020}.snap"
    assert name in one.files(".snap") and one.files(".inprogress") == []
    one.remote.insert("plain", 50, "after the snapshot")
    checksum = one.remote.checksum("plain")
    one.stop()
    one.start()
    assert one.records("recovered")[-1]["snapshot"].endswith(name)
    assert one.remote.checksum("plain") == checksum
    one.remote.insert("plain", 51, "more")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_snapshot_while_entries_wait(make_cluster: MakeCluster, how: str) -> None:
    """Waiting rows are not in the snapshot as committed, and are not lost by it either."""
    cluster = make_cluster(2, instances={"instance001": RW, "instance002": RO}).start()
    first, second = cluster["instance001"], cluster["instance002"]
    first.remote.promote()
    first.remote.create("sync", is_sync=True)
    first.remote.insert("sync", 1, "confirmed")
    cluster.wait_equal("sync")
    second.kill()
    writes = [first.remote.begin(replace("sync", [number, "waits"]), timeout=1000) for number in (2, 3, 4)]
    names = eventually("they wait on disk", lambda: first.remote.waiting_on_disk(3))
    first.remote.snapshot()
    assert first.remote.queue()["len"] == 3
    assert not any(write.is_done for write in writes)
    if how == "stop":
        assert first.stop() == 0
    else:
        first.kill()
    assert all(isinstance(write.error(soon_s()), (Lost, Exception)) for write in writes)

    first.start()
    assert first.remote.queue()["len"] == 3
    assert first.remote.waiting_on_disk(3) == names
    assert first.remote.select("sync") == [[1, "confirmed"]]
    second.start()
    cluster.wait_following()
    assert first.remote.promote().confirmed == 3
    cluster.wait_equal("sync")
    assert [row[0] for row in second.remote.select("sync")] == [1, 2, 3, 4]


def test_everything_stops_and_starts(make_cluster: MakeCluster) -> None:
    """Three instances, a clean stop of all, a start of all: same set, same data, a leader again."""
    cluster = make_cluster(3, failover="election", replication={"election_timeout": 1}).start()
    leader = cluster.wait_leader()
    leader.remote.create("sync", is_sync=True)
    leader.remote.execute(*(insert("sync", [number]) for number in range(100)))
    cluster.wait_equal("sync")
    uuid, checksum = leader.remote.info("replicaset.uuid"), leader.remote.checksum("sync")
    term = leader.remote.info("election.term")
    assert [instance.stop() for instance in cluster] == [0, 0, 0]
    cluster.start()
    leader = cluster.wait_leader()
    assert leader.remote.info("election.term") > term
    for instance in cluster:
        assert instance.remote.info("replicaset.uuid") == uuid
        assert instance.remote.checksum("sync") == checksum
        assert len(instance.records("joined")) <= 1, "nobody copied everything again"
    leader.remote.insert("sync", 1000)
    cluster.wait_equal("sync")
