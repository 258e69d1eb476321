"""Walk-through: the second example of `box.info.synchro`. Quorum 2, the second instance dies, three writes
hang; when it returns they commit. The tests of `walk` build on each other, in the order of the file.

Grants, and changing the quorum while it runs, are not part of this release.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from synchro.errors import ReadOnly, SyncTimeout
from synchro.rpc.generated.v1 import info_pb2
from tests.e2e.cluster import HEARTBEAT_S, Cluster, eventually, never, soon_s
from tests.e2e.remote import COMMITTED, PENDING, Lost, Write, as_float, replace

pytestmark = [pytest.mark.e2e, pytest.mark.alone]
MakeCluster = Callable[..., Cluster]


class Walk(Cluster):
    """What later steps must remember of earlier ones."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            directory,
            ["instance001", "instance002"],
            failover="off",
            options={"database": {"txn_synchro_timeout": 1000}},
            replication={"synchro_quorum": 2, "synchro_timeout": 1000},
            instances={
                "instance001": {"database": {"mode": "rw"}},
                "instance002": {"database": {"mode": "ro"}},
            },
        )
        self.first, self.second = self["instance001"], self["instance002"]
        self.writes: list[Write] = []
        self.began = 0.0

    def prepare(self) -> None:
        """Start, promote and create the space in one go."""
        self.start()
        self.first.remote.promote()
        self.first.remote.create("sync", is_sync=True)

    def hang_three(self) -> list[Write]:
        """The second one is dead: three writes, each in the queue before the next is sent."""
        self.second.kill()
        return [self.hang(number) for number in (1, 2, 3)]

    def hang(self, number: int, timeout: float = 1000) -> Write:
        remote = self.first.remote
        before = remote.queue()["len"]
        write = remote.begin(replace("sync", [number]), timeout=timeout)
        eventually("the write is in the queue and on disk", lambda: remote.waiting_on_disk(before + 1))
        return write

    def peer(self, instance: Any, other: Any) -> dict[str, Any]:
        """The item of `other` in `info replication` of `instance`."""
        parts = instance.remote.info("replication").values()
        return next((part for part in parts if part["name"] == other.name), {})


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    with Walk(tmp_path_factory.mktemp("s2")) as cluster:
        yield cluster


@pytest.fixture
def fresh(tmp_path: Path) -> Generator[Walk]:
    """A set of its own, promoted and with its space."""
    with Walk(tmp_path) as cluster:
        cluster.prepare()
        yield cluster


def test_S2_01_start(walk: Walk) -> None:
    walk.start()
    assert walk.first.remote.info("ro") is False
    second = walk.second.remote.info()
    assert second["ro"] is True and second["ro_reason"] == "config"
    item = walk.peer(walk.second, walk.first)
    assert item["upstream"]["status"] == "follow" and item["downstream"]["status"] == "follow"


def test_S2_03_promote(walk: Walk) -> None:
    term_before = walk.first.remote.info("election.term")
    reply = walk.first.remote.promote()
    assert reply.term == term_before + 1 == 2
    assert reply.previous_owner == 0
    owner = walk.first.id
    for instance in walk:
        queue = eventually(
            "the owner is known",
            partial(lambda i: (q := i.remote.queue())["owner"] == owner and q, instance),
        )
        assert queue["term"] == 2
    assert walk.second.remote.info("ro") is True


def test_S2_04_a_synchronous_space(walk: Walk) -> None:
    walk.first.remote.create("sync", is_sync=True)
    assert walk.first.remote.space("sync").is_sync is True
    eventually("the space is on the second one", lambda: walk.second.remote.space("sync").is_sync)


def test_S2_05_info_synchro_at_rest(walk: Walk) -> None:
    synchro = walk.first.remote.info("synchro")
    queue = synchro["queue"]
    assert (queue["owner"], queue["term"], synchro["quorum"]) == (walk.first.id, 2, 2)
    assert (queue["age"], queue["len"], queue["busy"]) == (0.0, 0, False)


def test_S2_06_the_second_instance_dies(walk: Walk) -> None:
    stream = walk.second.remote.infos.WatchInfo(info_pb2.WatchInfoRequest(), timeout=60)
    assert next(stream).header.instance_name == "instance002"
    walk.second.process.kill()  # type: ignore[union-attr]
    with pytest.raises(grpc.RpcError) as broken:
        for _ in stream:
            pass
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    walk.second.kill()

    def streams() -> tuple[Any, Any]:
        item = walk.peer(walk.first, walk.second)
        return item.get("upstream", {}).get("status"), item.get("downstream", {}).get("status")

    eventually("both streams are down", lambda: streams() == ("disconnected", "stopped"))


def test_S2_07_three_writes_hang(walk: Walk) -> None:
    walk.confirm_lag = walk.first.remote.queue()["confirm_lag"]  # type: ignore[attr-defined]
    walk.began = time.monotonic()
    walk.writes = [walk.hang(number) for number in (1, 2, 3)]
    never("a write returns", lambda: any(write.is_done for write in walk.writes), 10 * HEARTBEAT_S)


def test_S2_08_SF_8_len_is_three_and_age_grows(walk: Walk) -> None:
    remote = walk.first.remote
    before = time.monotonic()
    first = remote.info("synchro")
    assert first["queue"]["len"] == 3 and first["queue"]["busy"] is False and first["quorum"] == 2
    assert (first["queue"]["owner"], first["queue"]["term"]) == (walk.first.id, 2)
    assert first["queue"]["confirm_lag"] == walk.confirm_lag  # type: ignore[attr-defined]
    assert 0 < first["queue"]["age"] <= time.monotonic() - walk.began
    middle = time.monotonic()
    grown = eventually(
        "age has grown by a second", lambda: (q := remote.queue())["age"] > first["queue"]["age"] + 1 and q
    )
    # The clock of the instance lies between our two readings of it, so this is sharper than 20 per cent.
    passed = grown["age"] - first["queue"]["age"]
    assert passed <= (time.monotonic() - before) * 1.2
    assert passed >= 1.0 and time.monotonic() - middle >= passed * 0.8
    assert grown["len"] == 3


def test_S2_09_the_queue_entry_by_entry(walk: Walk) -> None:
    entries = walk.first.remote.entries()
    assert len(entries) == 3
    lsns = [entry.txn.lsn for entry in entries]
    assert lsns == sorted(set(lsns))
    space_id = walk.first.remote.space("sync").id
    for entry in entries:
        assert entry.txn.origin == walk.first.id
        assert list(entry.acked_by) == [walk.first.id]
        assert list(entry.missing) == [2]
        assert (list(entry.space_ids), entry.rows, entry.is_sync) == ([space_id], 1, True)
        assert as_float(entry.age) > 0
    # How long the missing one is down: the silence of its stream.
    down = next(member for member in walk.first.remote.list_instances() if member.id == 2)
    assert down.name == "instance002" and down.upstream_status == "disconnected"
    assert as_float(down.upstream_idle) > 0


def test_S2_10_waiting_rows_are_not_visible(walk: Walk) -> None:
    assert walk.first.remote.select("sync") == []
    assert walk.first.remote.checksum("sync")[0] == 0


def test_S2_11_the_admin_path_while_writes_wait(walk: Walk) -> None:
    remote = walk.first.remote
    more = [remote.begin(replace("sync", [1 + number % 3]), timeout=1000) for number in range(200)]
    eventually("they wait too", lambda: remote.queue()["len"] == 203)
    calls: dict[str, Callable[[], object]] = {
        "info": remote.info,
        "queue": remote.entries,
        "status": remote.list_instances,
        "health": remote.health,
    }
    for name, call in calls.items():
        assert_fast(name, call)
    assert not any(write.is_done for write in more)
    walk.writes += more


def test_S2_12_it_returns_and_they_commit(walk: Walk) -> None:
    walk.second.start()
    lsns = [write.result(soon_s(10)).txn.lsn for write in walk.writes]
    # Those of the threads were sent at the same time, so only the first three have an order to keep.
    assert lsns[:3] == sorted(lsns[:3]) and max(lsns[:3]) < min(lsns[3:])
    queue = eventually("the queue is empty", lambda: (q := walk.first.remote.queue())["len"] == 0 and q)
    assert queue["age"] == 0.0
    assert 0 < queue["confirm_lag"] <= time.monotonic() - walk.began
    for instance in walk:
        eventually(
            "the rows are there", partial(lambda i: i.remote.select("sync") == [[1], [2], [3]], instance)
        )
    walk.wait_equal("sync")


def test_S2_14_a_deadline_leaves_the_outcome_unknown(fresh: Walk) -> None:
    fresh.second.kill()
    began = time.monotonic()
    writes = [fresh.hang(number, timeout=0.5) for number in (1, 2, 3)]
    for write in writes:
        error = write.error(soon_s())
        assert isinstance(error, SyncTimeout), error
        assert error.details["outcome"] == "unknown"
        assert error.details["txn"]
    assert isinstance(error, SyncTimeout)
    assert isinstance(error, SyncTimeout)
    last = error.details["txn"]
    origin, lsn = map(int, last.split(":"))
    txn = (origin, lsn)
    assert fresh.first.remote.queue()["len"] == 3, "a timeout takes nothing out of the queue"
    assert fresh.first.remote.wait_transaction(txn, timeout=0.1) == PENDING
    assert fresh.first.remote.select("sync") == []
    waited = fresh.first.remote.queue()["age"]
    fresh.second.start()
    assert fresh.first.remote.wait_transaction(txn) == COMMITTED
    # SF-8: the wait of the last of the three, which began soon after the first.
    assert waited * 0.5 <= fresh.first.remote.queue()["confirm_lag"] <= time.monotonic() - began
    assert fresh.first.remote.select("sync") == [[1], [2], [3]]
    fresh.wait_equal("sync")


def test_S2_15_the_owner_dies_with_a_full_queue(fresh: Walk) -> None:
    writes = fresh.hang_three()
    names = fresh.first.remote.waiting_on_disk(3)
    fresh.first.kill()
    for write in writes:
        assert isinstance(write.error(soon_s()), Lost)

    fresh.first.start()
    remote = fresh.first.remote
    info = remote.info()
    assert info["synchro"]["queue"]["len"] == 3
    assert remote.waiting_on_disk(3) == names
    assert remote.select("sync") == []
    assert info["ro"] is True and info["ro_reason"] == "synchro"
    with pytest.raises(ReadOnly) as refused:
        remote.replace("sync", 4)
    assert refused.value.details["ro_reason"] == "synchro"

    fresh.second.start()
    fresh.wait_following()
    assert remote.queue()["len"] == 3, "the acks alone confirm nothing: a restarted owner leads nothing"
    assert remote.select("sync") == []
    promoted = remote.promote()
    assert (promoted.confirmed, promoted.rolled_back) == (3, 0)
    assert remote.queue()["len"] == 0
    assert remote.select("sync") == [[1], [2], [3]]
    assert [remote.wait_transaction(name) for name in names] == [COMMITTED] * 3
    remote.replace("sync", 4)
    fresh.wait_equal("sync")
    assert fresh.second.remote.select("sync") == [[1], [2], [3], [4]]


def assert_fast(name: str, call: Callable[[], object], limit: float = 0.1) -> None:
    """The slowest of 10 calls is under the limit in the best of 5 rounds.

    Best of several rounds because other programs on the machine take turns of 100 ms and more themselves; a
    path that really waits for the queue is slow in all of them.
    """
    rounds = []
    for _ in range(5):
        took = []
        for _ in range(10):
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
        rounds.append(max(took))
        if rounds[-1] < limit:
            return
    raise AssertionError(f"{name} took {', '.join(f'{each * 1000:.0f}' for each in rounds)} ms")
