"""A new set from one file, in any order of launch: a master and its replica, and two masters. BR, BM.

What is seen is asked by all hands, on the same set.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from synchro.errors import Loading
from synchro.rpc.generated.peer.v1 import replication_pb2, replication_pb2_grpc
from synchro.rpc.status import from_rpc_error
from tests.e2e.cluster import Instance, never, soon_s
from tests.e2e.tutorials.hands import HANDS
from tests.e2e.tutorials.walk import PAIR, RO, RW, Walk, refusal

pytestmark = pytest.mark.e2e


class Fresh(Walk):
    """Both instances have both addresses as their peers; the first one is a master."""

    def __init__(self, directory: Path, second: Any, *, first: Any = RW, **replication: Any) -> None:
        own = {"instance001": first, "instance002": second}
        super().__init__(directory, "stub", instances=own, replication=replication)
        self.options["replication"]["peers"] = [instance.address for instance in self]
        self.options["once"] = {
            "schema": [
                {"create_space": {"name": "test"}},
                {"create_index": {"space": "test", "name": "primary"}},
            ]
        }
        self.write_config(self.config_path)
        self.hands = [hand() for hand in HANDS.values()]

    def close(self, *, check: bool) -> None:
        for hand in self.hands:
            hand.close()
        super().close(check=check)

    def ask(self, at: Instance, path: str) -> Any:
        """What all hands get."""
        answers = [hand.info(at, path) for hand in self.hands]
        assert answers == [answers[0]] * len(answers)
        return answers[0]

    def see_waiting(self, instance: Instance) -> None:
        """It listens, says what it waits for, answers LOADING, and has no data."""
        self.soon("it listens", lambda: self.hand.info(instance, "status") == "loading", soon_s(15))
        self.wait_record(instance, "bootstrap_waiting")
        assert self.ask(instance, "status") == "loading" and self.ask(instance, "waits_for")
        for hand in self.hands:
            error = refusal(partial(hand.insert, instance, "tester", [1], timeout=1.0))
            assert isinstance(error, Loading) or "LOADING" in str(error.details), error
        assert not instance.files(".snap") and not instance.files(".xlog")

    def see_one_set(self) -> Instance:
        """Returns who made it; the other one joined."""
        makers = [instance for instance in self if instance.records("replicaset_bootstrapped")]
        assert len(makers) == 1 and len(makers[0].records("replicaset_bootstrapped")) == 1
        [other] = [instance for instance in self if instance is not makers[0]]
        assert len(other.records("joined")) == 1
        has_newer = "snapshot" in self.own[makers[0].name]  # by time, which take the place of the first
        assert has_newer or "00000000000000000000.snap" in makers[0].files(".snap")
        assert len({self.ask(instance, "replicaset.uuid") for instance in self}) == 1
        assert [self.ask(instance, "id") for instance in (makers[0], other)] == [1, 2]
        return makers[0]

    def see_once(self, by: Instance) -> None:
        """What stands under `once` was done by one of them, and is on both."""
        rows = [["onceschema", {"by": by.name, "operations": 2}]]
        for instance in self:
            self.soon("the key is there", lambda at=instance: self.has_row(at, rows))  # type: ignore[misc]
            assert [hand.select(instance, "test") for hand in self.hands] == [[]] * len(self.hands)
        records = {one.name: [r["key"] for r in one.records("once_executed")] for one in self}
        assert records == {one.name: ["schema"] if one is by else [] for one in self}

    def has_row(self, at: Instance, rows: list[list[Any]]) -> bool:
        return self.hand.select(at, "_schema", ["onceschema"]) == rows

    def wait_both(self) -> None:
        for instance in self:
            instance.wait_ready()
        self.wait_mesh()


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Generator[Fresh]:
    """A master, and a replica that is read-only; of snapshots by time only the master is told."""
    first = {**RW, "snapshot": {"by": {"interval": "500ms"}}}
    with Fresh(tmp_path_factory.mktemp("br"), RO, first=first) as cluster:
        yield cluster


def test_BR_01_the_master_alone_waits(walk: Fresh) -> None:
    """BR-1: it listens, logs what it waits for, answers LOADING, and has no data."""
    walk.first.spawn()
    walk.see_waiting(walk.first)


def test_BR_03_who_joins_too_early_is_told_so(walk: Fresh) -> None:
    """BR-3: LOADING, bootstrap has not finished. The replica tries again, and no person does anything."""
    stub = replication_pb2_grpc.ReplicationServiceStub(walk.first.remote.channel)
    request = replication_pb2.JoinRequest(
        protocol_version=1, instance_uuid=str(uuid4()), instance_name="early"
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Join(iter([request]), timeout=soon_s(5)))
    error = from_rpc_error(caught.value)
    assert isinstance(error, Loading) and "bootstrap hasn't finished yet" in error.message


def test_BR_02_with_the_replica_it_begins(walk: Fresh) -> None:
    """BR-2: as soon as the replica is there the master makes the set, saves a snapshot and runs."""
    walk.second.spawn()
    walk.wait_both()
    assert walk.see_one_set() is walk.first


def test_BR_04_the_replica(walk: Fresh) -> None:
    """BR-4: it joined the master, its snapshot has a signature that one had by then, and it is read-only."""
    joined = walk.wait_record(walk.second, "joined")
    signature = sum(int(part.split(":")[1]) for part in joined["vclock"].strip("{}").split(","))
    [snapshot] = walk.second.files(".snap")
    assert int(snapshot.removesuffix(".snap")) <= signature, "the rest came as rows"
    walk.wait_record(walk.second, "upstream_following")
    assert (walk.ask(walk.second, "ro"), walk.ask(walk.second, "ro_reason")) == (True, "config")


def test_BR_05_once(walk: Fresh) -> None:
    """BR-5: the master alone runs it; the space is on both."""
    walk.see_once(walk.first)


def test_BR_09_the_replica_has_its_own_settings(walk: Fresh) -> None:
    """BR-9: an interval of snapshots that only the master has makes none on the replica."""
    before = walk.second.files(".snap")
    walk.hand.create(walk.first, "tester")
    rows = [[number] for number in range(len(walk.hands))]
    for hand, row in zip(walk.hands, rows, strict=True):
        assert hand.insert(walk.first, "tester", row) == row
    walk.wait_rows(walk.second, "tester", rows)
    newest = f"{walk.hand.info(walk.first, 'signature'):020d}.snap"
    walk.soon("the master has a snapshot of it", lambda: newest in walk.first.files(".snap"))
    assert walk.second.files(".snap") == before


def test_BR_06_both_again(walk: Fresh) -> None:
    """BR-6: after a restart, from snapshots and logs, nobody runs it a second time."""
    for instance in walk:
        assert instance.stop() == 0
    logged = {instance.name: len(instance.records("once_executed")) for instance in walk}
    for instance in walk:
        instance.spawn()
    walk.wait_both()
    walk.see_once(walk.first)
    assert {instance.name: len(instance.records("once_executed")) for instance in walk} == logged


def test_BR_07_the_replica_first(tmp_path: Path) -> None:
    """BR-7: it waits for the master, for it may not begin by itself."""
    with Fresh(tmp_path, RO) as walk:
        walk.second.spawn()
        walk.see_waiting(walk.second)
        walk.first.spawn()
        walk.wait_both()
        assert walk.see_one_set() is walk.first


@pytest.mark.parametrize(
    ("second", "order"),
    [
        pytest.param(RO, PAIR, id="BR-8"),
        pytest.param(RW, PAIR[::-1], id="BM-4"),
        pytest.param(RO, PAIR[::-1], id="BR-8-reversed", marks=pytest.mark.long),
        pytest.param(RW, PAIR, id="BM-4-reversed", marks=pytest.mark.long),
    ],
)
def test_BR_08_BM_04_both_at_once(tmp_path: Path, second: Any, order: tuple[str, str]) -> None:
    """BR-8, BM-4: always one set, in which a master beside a replica has id 1."""
    with Fresh(tmp_path, second) as walk:
        for name in order:
            walk[name].spawn()
        walk.wait_both()
        maker = walk.see_one_set()
        assert second is RW or maker is walk.first


def test_BM_01_BM_02_BM_03_two_masters(tmp_path: Path) -> None:
    """BM-1, BM-2, BM-3: the first one waits for the second, one of them makes the set and runs what stands
    under `once`, and both are writable."""
    with Fresh(tmp_path, RW) as walk:
        walk.first.spawn()
        walk.see_waiting(walk.first)
        walk.second.spawn()
        walk.wait_both()
        walk.see_once(walk.see_one_set())
        assert [walk.ask(instance, "ro") for instance in walk] == [False, False]


def test_BM_05_one_is_unreachable_for_ever(tmp_path: Path) -> None:
    """BM-5: the other begins no set alone, also when connect_timeout is over, and says what it waits for."""
    with Fresh(tmp_path, RW, connect_timeout=0.5) as walk:
        walk.first.spawn()
        walk.see_waiting(walk.first)
        never("it made a set", lambda: walk.hand.info(walk.first, "status") != "loading", 1.5)
        walk.see_waiting(walk.first)
        assert "1 of 2" in walk.ask(walk.first, "waits_for")
