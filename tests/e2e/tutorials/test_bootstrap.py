"""A new set from one file, in any order of launch: a master and its replica, and two masters. BR, BM."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from synchro.errors import Loading
from tests.e2e.cluster import Instance, never
from tests.e2e.tutorials.hands import HANDS
from tests.e2e.tutorials.walk import PAIR, RO, RW, Walk

pytestmark = pytest.mark.e2e


def both_as_sources(directory: Path, hand: str, second: Any, **replication: Any) -> Walk:
    """Both instances have both addresses as their peers."""
    walk = Walk(
        directory, hand, instances={"instance001": RW, "instance002": second}, replication=replication
    )
    walk.options["replication"]["peers"] = [instance.address for instance in walk]
    walk.write_config(walk.config_path)
    return walk


@pytest.fixture(scope="module", params=HANDS)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    """A master, and a replica that is read-only; of snapshots by time only the master is told."""
    with both_as_sources(tmp_path_factory.mktemp("br"), request.param, RO) as cluster:
        cluster.own["instance001"] = {**RW, "snapshot": {"by": {"interval": "500ms"}}}
        cluster.write_config(cluster.config_path)
        yield cluster


def waits(walk: Walk, instance: Instance) -> None:
    """It listens, says what it waits for, answers LOADING, and has no data."""
    walk.soon("it listens", lambda: walk.hand.info(instance, "status") == "loading")
    walk.wait_record(instance, "bootstrap_waiting")
    assert walk.hand.info(instance, "waits_for")
    with pytest.raises(Loading):
        instance.remote.select("_cluster")
    assert not instance.files(".snap") and not instance.files(".xlog")


def is_one_set(walk: Walk) -> Instance:
    """Who made it; the other one joined."""
    makers = [instance for instance in walk if instance.records("replicaset_bootstrapped")]
    assert len(makers) == 1 and len(makers[0].records("replicaset_bootstrapped")) == 1
    [other] = [instance for instance in walk if instance is not makers[0]]
    assert len(other.records("joined")) == 1
    assert "00000000000000000000.snap" in makers[0].files(".snap")
    assert len({walk.hand.info(instance, "replicaset.uuid") for instance in walk}) == 1
    assert [walk.hand.info(instance, "id") for instance in (makers[0], other)] == [1, 2]
    return makers[0]


def test_BR_01_the_master_alone_waits(walk: Walk) -> None:
    """BR-1: it listens, logs what it waits for, answers LOADING, and has no data."""
    walk.first.spawn()
    waits(walk, walk.first)


def test_BR_02_with_the_replica_it_begins(walk: Walk) -> None:
    """BR-2: as soon as the replica is there the master makes the set, saves a snapshot and runs."""
    walk.second.spawn()
    walk.first.wait_ready()
    walk.second.wait_ready()
    walk.wait_mesh()
    assert is_one_set(walk) is walk.first


def test_BR_04_the_replica(walk: Walk) -> None:
    """BR-4: it joined the master, its first snapshot has the signature it had then, and it is read-only."""
    joined = walk.wait_record(walk.second, "joined")
    signature = sum(int(part.split(":")[1]) for part in joined["vclock"].strip("{}").split(","))
    assert walk.second.files(".snap") == [f"{signature:020d}.snap"]
    walk.wait_record(walk.second, "upstream_following")
    info = walk.hand.info(walk.second)
    assert (info["ro"], info["ro_reason"]) == (True, "config")


def test_BR_09_the_replica_has_its_own_settings(walk: Walk) -> None:
    """BR-9: an interval of snapshots that only the master has makes none on the replica."""
    before = walk.second.files(".snap")
    walk.hand.create(walk.first, "tester")
    walk.hand.insert(walk.first, "tester", [1])
    walk.wait_rows(walk.second, "tester", [[1]])
    signature = walk.hand.info(walk.first, "signature")
    walk.soon(
        "the master has a snapshot of it", lambda: f"{signature:020d}.snap" in walk.first.files(".snap")
    )
    assert walk.second.files(".snap") == before


@pytest.mark.parametrize("hand", HANDS)
def test_BR_07_the_replica_first(tmp_path: Path, hand: str) -> None:
    """BR-7: it waits for the master, for it may not begin by itself."""
    with both_as_sources(tmp_path, hand, RO) as walk:
        walk.second.spawn()
        waits(walk, walk.second)
        walk.up("instance001")
        walk.second.wait_ready()
        assert is_one_set(walk) is walk.first


@pytest.mark.parametrize("hand", HANDS)
def test_BR_08_both_at_once(tmp_path: Path, hand: str) -> None:
    """BR-8: always one set, in which the master has id 1."""
    for number in range(2):
        with both_as_sources(tmp_path / str(number), hand, RO) as walk:
            walk.up()
            assert is_one_set(walk) is walk.first


@pytest.mark.parametrize("hand", HANDS)
def test_BM_01_BM_03_two_masters(tmp_path: Path, hand: str) -> None:
    """BM-1, BM-3: the first one waits for the second, one of them makes the set, and both are writable."""
    with both_as_sources(tmp_path, hand, RW) as walk:
        walk.first.spawn()
        waits(walk, walk.first)
        walk.up("instance002")
        walk.first.wait_ready()
        walk.wait_mesh()
        is_one_set(walk)
        assert [walk.hand.info(instance, "ro") for instance in walk] == [False, False]


@pytest.mark.parametrize("hand", HANDS)
def test_BM_04_in_any_order(tmp_path: Path, hand: str) -> None:
    """BM-4: in the other order, and side by side, there is one set too."""
    for order in (PAIR[::-1], PAIR):
        with both_as_sources(tmp_path / "".join(order), hand, RW) as walk:
            for name in order:
                walk[name].spawn()
            for name in order:
                walk[name].wait_ready()
            walk.wait_mesh()
            is_one_set(walk)


@pytest.mark.parametrize("hand", HANDS)
def test_BM_05_one_is_unreachable_for_ever(tmp_path: Path, hand: str) -> None:
    """BM-5: the other begins no set alone, also when connect_timeout is over, and says what it waits for."""
    with both_as_sources(tmp_path, hand, RW, connect_timeout=0.5) as walk:
        walk.first.spawn()
        waits(walk, walk.first)
        never("it made a set", lambda: walk.hand.info(walk.first, "status") != "loading", 1.5)
        waits(walk, walk.first)
        assert "1 of 2" in walk.hand.info(walk.first, "waits_for")
