"""Walk-through: `box.info.synchro` of a single instance."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.e2e.cluster import Cluster

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    with Cluster(
        tmp_path_factory.mktemp("s1"), ["instance001"], replication={"synchro_quorum": 1}
    ) as cluster:
        yield cluster.start()


def test_S1_01_promote_and_exactly_the_documented_keys(alone: Cluster) -> None:
    remote = alone["instance001"].remote
    promoted = remote.promote()
    assert promoted.previous_owner == 0

    synchro = remote.info("synchro")
    assert set(synchro) == {"queue", "quorum"}
    queue = synchro["queue"]
    assert set(queue) == {"owner", "confirm_lag", "term", "age", "len", "busy", "size"}
    assert queue["owner"] == 1
    assert queue["term"] == promoted.term >= 2
    assert queue["term"] == remote.info("election.term")
    assert (queue["age"], queue["len"], queue["size"], queue["busy"]) == (0, 0, 0, False)
    assert synchro["quorum"] == 1


def test_S1_02_a_local_write_is_enough(alone: Cluster) -> None:
    remote = alone["instance001"].remote
    remote.create("sync", is_sync=True)
    assert remote.insert("sync", 1, "alone", timeout=5)
    assert remote.queue()["len"] == 0
    assert remote.select("sync") == [[1, "alone"]]
    assert [member.name for member in remote.list_instances()] == ["instance001"]


def test_S1_03_types(alone: Cluster) -> None:
    synchro = alone["instance001"].remote.info("synchro")
    queue = synchro["queue"]
    for key in ("owner", "term", "len", "size"):
        assert type(queue[key]) is int, key
    assert type(synchro["quorum"]) is int
    assert type(queue["busy"]) is bool
    for key in ("age", "confirm_lag"):
        assert type(queue[key]) is float, key
    assert queue["age"] == 0.0
