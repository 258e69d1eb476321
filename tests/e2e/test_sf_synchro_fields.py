"""Walk-through: each sentence about the fields of `box.info.synchro` is a test.

SF-1 to SF-9 number these tests; the name of each says what it looks at. SF-5 and SF-7 are in
test_partitions.py, SF-8 in test_s2_synchro_quorum.py, SF-9 also in tests/unit/test_config.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial

import pytest

from synchro.errors import NotLeader, ReadOnly, SyncQueueUnclaimed
from tests.e2e.cluster import Cluster, eventually, soon_s
from tests.e2e.remote import insert, replace

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
RW = {"database": {"mode": "rw"}}
RO = {"database": {"mode": "ro"}}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """Two writable instances, for SF-2, SF-3 and SF-1 in this order; the queue has no owner at first."""
    names = ["instance001", "instance002"]
    with Cluster(tmp_path_factory.mktemp("pair"), names, instances=dict.fromkeys(names, RW)) as cluster:
        cluster.start()
        for space, is_sync in ("plain", False), ("sync", True):
            cluster["instance001"].remote.create(space, is_sync=is_sync)
        cluster.wait_equal("plain", "sync")
        yield cluster


def test_SF_02_without_an_owner_nothing_is_synchronous(pair: Cluster) -> None:
    for number, instance in enumerate(pair, 1):
        instance.remote.insert("plain", number)
    pair.wait_equal("plain")
    before = [instance.remote.vclock() for instance in pair]
    for instance in pair:
        assert instance.remote.queue()["owner"] == 0
        with pytest.raises(SyncQueueUnclaimed):
            instance.remote.insert("sync", 1)
    assert [instance.remote.vclock() for instance in pair] == before
    for instance in pair:
        assert instance.remote.select("plain") == [[1], [2]]
        assert instance.remote.select("sync") == []


def test_SF_03_promote_claims_and_demote_clears(pair: Cluster) -> None:
    first, second = pair["instance001"], pair["instance002"]

    def seen_by_all(owner: int) -> int:
        """The term of the queue."""
        terms = [
            eventually(
                f"the owner is {owner}",
                partial(lambda i: (q := i.remote.queue())["owner"] == owner and q, instance),
            )["term"]
            for instance in pair
        ]
        assert len(set(terms)) == 1
        return int(terms[0])

    first_id, second_id = first.id, second.id
    claimed = first.remote.promote()
    assert seen_by_all(first_id) == claimed.term
    again = first.remote.promote()
    assert (again.term, again.previous_owner) == (claimed.term, first_id), "the owner has it already"

    taken = second.remote.promote()
    assert taken.previous_owner == first_id and taken.term > claimed.term
    assert seen_by_all(second_id) == taken.term

    with pytest.raises(NotLeader):
        first.remote.demote()
    assert seen_by_all(second_id) == taken.term, "demote elsewhere changes nothing"

    cleared = second.remote.demote()
    assert cleared.term > taken.term
    assert seen_by_all(0) == cleared.term
    for number, instance in enumerate(pair, 3):
        eventually("writable again", partial(lambda i: not i.remote.info("ro"), instance))
        instance.remote.insert("plain", number)
    pair.wait_equal("plain")


def test_SF_01_with_an_owner_all_others_are_read_only(pair: Cluster) -> None:
    first, second = pair["instance001"], pair["instance002"]
    second.remote.insert("plain", 11)
    first.remote.promote()
    eventually("the owner is known", lambda: second.remote.queue()["owner"] == first.id)

    with pytest.raises(ReadOnly) as refused:
        second.remote.insert("plain", 12)
    details = refused.value.details
    assert details["ro_reason"] == "synchro"
    assert details["owner"] == str(first.id)
    assert (details["leader_name"], details["leader_address"]) == ("instance001", first.address)
    assert second.remote.info("ro_reason") == "synchro"
    first.remote.insert("plain", 13)
    pair.wait_equal("plain")
    assert second.remote.select("plain", [11]) == [[11], [13]]


def test_SF_04_the_elected_leader_claims_by_itself(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(3, failover="election", replication={"election_timeout": 1}).start()
    leader = cluster.wait_leader()
    for instance in cluster:
        info = instance.remote.info()
        assert info["synchro"]["queue"]["owner"] == info["election"]["leader"] == leader.id
        assert info["synchro"]["queue"]["term"] == info["election"]["term"]
        assert info["ro"] is (instance is not leader)
    leader.remote.create("sync", is_sync=True)
    for number in range(10):
        assert leader.remote.execute(insert("sync", [number])).is_sync
    cluster.wait_equal("sync")


def test_SF_06_len_counts_transactions(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(2, instances={"instance001": RW, "instance002": RO}).start()
    remote = cluster["instance001"].remote
    remote.promote()
    remote.create("sync", is_sync=True)
    cluster["instance002"].kill()
    write = remote.begin(*(replace("sync", [number]) for number in range(5)), timeout=1000)
    queue = eventually("it waits", lambda: (q := remote.queue())["len"] and q)
    assert queue["len"] == 1 and queue["size"] > 0
    assert [entry.rows for entry in remote.entries()] == [5]
    cluster["instance002"].start()
    write.result(soon_s(10))
    cluster.wait_equal("sync")
    assert cluster["instance002"].remote.select("sync") == [[number] for number in range(5)]


def test_SF_09_quorum_follows_the_number_of_registered_instances(make_cluster: MakeCluster) -> None:
    names = [f"instance{number:03}" for number in range(1, 6)]
    cluster = make_cluster(names, instances={name: RW if name == names[0] else RO for name in names})
    first = cluster[names[0]]
    quorums = []
    for count, name in enumerate(names, 1):
        file = cluster.dir / f"config-{count}.yaml"
        cluster.write_config(file, names[:count])
        cluster[name].start(config=file)
        # At once: when the newcomer is ready, its registration is decided and so counted.
        assert len(first.remote.list_instances()) >= count
        quorums.append(first.remote.info("synchro.quorum"))
        eventually(
            "the newcomer counts the same",
            partial(lambda n, q: cluster[n].remote.info("synchro.quorum") == q, name, quorums[-1]),
        )
    assert quorums == [1, 2, 2, 3, 3]
