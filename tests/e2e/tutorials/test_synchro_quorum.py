"""A quorum of two, of which one dies: writes wait, and are done when it returns. S2.

Tests build on each other, in the order of the file. S2-11 measures time: it is in test_while_writes_wait.py.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from synchro.client import OutcomeUnknown
from synchro.errors import ReadOnly, SyncRollback, SyncTimeout
from synchro.rpc.generated.v1 import info_pb2
from tests.e2e.cluster import HEARTBEAT_S, Instance, never, soon_s
from tests.e2e.tutorials.hands import EACH_HAND, Waiting
from tests.e2e.tutorials.walk import RO, RW, Walk, refusal

pytestmark = pytest.mark.e2e
THREE = [[1], [2], [3]]


class Pair(Walk):
    """What later steps must remember of earlier ones."""

    def __init__(self, directory: Path, hand: str) -> None:
        super().__init__(
            directory,
            hand,
            faults=True,
            options={"database": {"txn_synchro_timeout": 1000}},
            replication={"synchro_quorum": 2, "synchro_timeout": 1000},
            instances={"instance001": RW, "instance002": RO},
        )
        self.writes: list[Waiting] = []
        self.began = 0.0
        self.confirm_lag = 0.0

    def queue(self, instance: Instance | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self.hand.info(instance or self.first, "synchro.queue")
        return found

    def prepare(self) -> None:
        self.up()
        self.wait_mesh()
        self.hand.promote(self.first)
        self.hand.create(self.first, "sync", sync=True)
        self.wait_equal("sync")

    def hang_three(self, first: int, **how: Any) -> list[Waiting]:
        """Each is in the queue and on disk before the next one begins. first: key of the first."""
        return [self.hang(number, **how) for number in range(first, first + 3)]

    def hang(self, number: int, **how: Any) -> Waiting:
        before = len(self.names())
        write = self.hand.hang(self.first, ("replace", "sync", [number]), **how)
        self.soon("it is in the queue and on disk", lambda: len(self.names()) > before, soon_s(10))
        return write

    def names(self) -> list[str]:
        """Of the entries of the queue that are on disk."""
        return [entry["txn"] for entry in self.hand.queue(self.first)[1] if entry["txn"]]


@pytest.fixture(scope="module", params=EACH_HAND)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    with Pair(tmp_path_factory.mktemp("s2"), request.param) as cluster:
        yield cluster


def test_S2_01_start(walk: Pair) -> None:
    """S2-1: instance001 is writable, instance002 is not, and both follow each other."""
    walk.up()
    walk.wait_mesh()
    infos = [walk.hand.info(instance) for instance in walk]
    assert [(info["ro"], info["ro_reason"]) for info in infos] == [(False, None), (True, "config")]


def test_S2_02_everybody_may_do_everything(walk: Pair) -> None:
    """S2-2: granted on one instance, it counts on both."""
    assert walk.hand.grant(walk.first, "guest", "super")
    for instance in walk:
        walk.soon(
            "the guest is super there",
            partial(lambda at: walk.hand.info(at, "users") == {"unset": False, "open": True}, instance),
        )


def test_S2_03_promote(walk: Pair) -> None:
    """S2-3: the first promote raises the term by one, to 2; both soon name the owner."""
    before = walk.hand.info(walk.first, "election.term")
    reply = walk.hand.promote(walk.first)
    assert reply.term == before + 1 == 2 and reply.previous_owner == 0
    owner = walk.first.id
    for instance in walk:
        walk.soon("the owner is known", partial(lambda at: walk.queue(at)["owner"] == owner, instance))
        assert walk.queue(instance)["term"] == 2
    assert walk.hand.info(walk.second, "ro") is True


def test_S2_04_a_synchronous_space(walk: Pair) -> None:
    """S2-4: a space and its index need the quorum, and get it."""
    walk.hand.create(walk.first, "sync", sync=True)
    for instance in walk:
        walk.soon("the space is synchronous", partial(walk.hand.is_sync, instance, "sync"))


def test_S2_05_info_synchro_at_rest(walk: Pair) -> None:
    """S2-5: the owner in term 2, an empty queue, quorum 2."""
    synchro = walk.hand.info(walk.first, "synchro")
    queue = synchro["queue"]
    assert (queue["owner"], queue["term"], synchro["quorum"]) == (walk.first.id, 2, 2)
    assert (queue["age"], queue["len"], queue["busy"]) == (0.0, 0, False)


def test_S2_06_the_second_instance_dies(walk: Pair) -> None:
    """S2-6: who was connected to it hears that; on instance001 its streams are disconnected and stopped."""
    stream = walk.second.remote.infos.WatchInfo(info_pb2.WatchInfoRequest(), timeout=60)
    assert next(stream).header.instance_name == "instance002"
    walk.second.send_signal(9)
    with pytest.raises(grpc.RpcError) as broken:
        for _ in stream:
            pass
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    walk.second.kill()
    walk.wait_status(walk.first, walk.second, "disconnected")
    walk.wait_status(walk.first, walk.second, "stopped", "downstream")


def test_S2_07_three_writes_hang(walk: Pair) -> None:
    """S2-7: none of three writes returns, for ten heartbeats."""
    walk.confirm_lag = walk.queue()["confirm_lag"]
    walk.began = time.monotonic()
    walk.writes = walk.hang_three(1)
    never("a write returns", lambda: any(write.is_done for write in walk.writes), 10 * HEARTBEAT_S)


def test_S2_08_SF_08_len_is_three_and_age_grows(walk: Pair) -> None:
    """S2-8, SF-8: three entries, as old as the first of them; the age grows with the time."""
    asked = time.monotonic()
    synchro = walk.hand.info(walk.first, "synchro")
    answered = time.monotonic()
    queue = synchro["queue"]
    assert (queue["len"], queue["busy"], synchro["quorum"]) == (3, False, 2)
    assert (queue["owner"], queue["term"]) == (walk.first.id, 2)
    assert queue["confirm_lag"] == walk.confirm_lag
    assert 0 < queue["age"] <= answered - walk.began
    grown = walk.soon("it is a second older", lambda: (q := walk.queue())["age"] > queue["age"] + 1 and q)
    # The clock of the instance is read between our two readings of it.
    assert grown["age"] - queue["age"] <= (time.monotonic() - asked) * 1.2
    assert grown["len"] == 3


def test_S2_09_the_queue_entry_by_entry(walk: Pair) -> None:
    """S2-9: instance001 holds each entry, instance002 lacks it and is down for some time."""
    _, entries = walk.hand.queue(walk.first)
    assert [(entry["acked_by"], entry["missing"]) for entry in entries] == [([1], [2])] * 3
    lsns = [int(str(entry["txn"]).partition(":")[2]) for entry in entries]
    assert lsns == sorted(set(lsns))
    assert walk.stream(walk.first, walk.second)["idle"] > 0


def test_S2_10_waiting_rows_are_not_visible(walk: Pair) -> None:
    """S2-10: a select finds nothing."""
    assert walk.hand.select(walk.first, "sync") == []
    assert walk.hand.checksum(walk.first, "sync")[0] == 0


def test_S2_12_it_returns_and_they_commit(walk: Pair) -> None:
    """S2-12: they return, the queue is empty, confirm_lag is what they waited, both have the rows."""
    walk.second.start()
    assert [write.error(soon_s(15)) for write in walk.writes] == [None] * 3
    queue = walk.soon("the queue is empty", lambda: (q := walk.queue())["len"] == 0 and q)
    assert queue["age"] == 0.0
    assert 1 < queue["confirm_lag"] <= time.monotonic() - walk.began
    for instance in walk:
        walk.wait_rows(instance, "sync", THREE)
    walk.wait_equal("sync")


def test_S2_14_a_deadline_leaves_the_outcome_unknown(walk: Pair) -> None:
    """S2-14: SYNC_TIMEOUT, outcome unknown, with transaction id and exit code 5; it commits later."""
    walk.second.kill()
    writes = walk.hang_three(11, timeout=soon_s(2))
    for write in writes:
        error = write.error(soon_s(10))
        assert isinstance(error, (SyncTimeout, OutcomeUnknown)), error
        assert error.details.get("reason", error.reason) == "SYNC_TIMEOUT" and error.exit_code == 5
        assert error.details["outcome"] == "unknown"
        txn = error.details["txn"]
    assert walk.queue()["len"] == 3, "a timeout takes nothing out of the queue"
    assert walk.hand.outcome(walk.first, txn, timeout=soon_s(1)) == "pending"
    assert walk.hand.select(walk.first, "sync") == THREE
    walk.second.start()
    assert walk.hand.outcome(walk.first, txn) == "committed"
    assert walk.hand.select(walk.first, "sync") == [*THREE, [11], [12], [13]]
    walk.wait_equal("sync")


def test_S2_13_a_lower_quorum(walk: Pair) -> None:
    """S2-13: one is no majority of two, so it takes --force; then what waits is done at once."""
    walk.second.kill()
    writes = walk.hang_three(14)
    error = refusal(partial(walk.hand.set_option, walk.first, "replication.synchro_quorum", "1"))
    assert "--force" in error.message and walk.queue()["len"] == 3
    changes, _ = walk.hand.set_option(walk.first, "replication.synchro_quorum", "1", force=True)
    assert changes == {"replication.synchro_quorum": 1}
    assert [write.error(soon_s(5)) for write in writes] == [None] * 3
    walk.hand.set_option(walk.first, "replication.synchro_quorum", "2")


def test_S2_15_the_owner_dies_with_a_full_queue(walk: Pair) -> None:
    """S2-15: after its restart the entries wait, invisible, until a promote; then they are confirmed."""
    hand, first = walk.hand, walk.first
    before = hand.select(first, "sync")
    walk.second.kill()  # if S2-13 has not done it
    writes = walk.hang_three(21)
    names = walk.names()
    walk.kill(first)
    first.start()
    info = walk.soon("it answers", lambda: hand.info(first))
    assert info["synchro"]["queue"]["len"] == 3 and walk.names() == names
    assert hand.select(first, "sync") == before
    assert (info["ro"], info["ro_reason"]) == (True, "synchro")
    error = refusal(partial(hand.replace, first, "sync", [4]))
    assert isinstance(error, ReadOnly) and error.details["ro_reason"] == "synchro"

    walk.second.start()
    walk.wait_mesh()
    assert walk.queue()["len"] == 3, "the acks alone confirm nothing: a restarted owner leads nothing"
    promoted = hand.promote(first)
    assert (promoted.confirmed, promoted.rolled_back) == (3, 0)
    assert walk.queue()["len"] == 0
    assert [hand.outcome(first, name) for name in names] == ["committed"] * 3
    walk.wait_equal("sync")
    assert hand.select(walk.second, "sync") == [*before, [21], [22], [23]]
    for write in writes:
        write.error(soon_s(10))  # lost or answered: whether the caller asked again is up to its hand


def test_S2_16_the_second_has_two_of_three(walk: Pair) -> None:
    """S2-16: promoted without the first, it commits the two entries that it has. The callers of those hear
    so when the link is back, that of the third that it was rolled back; nobody heard anything before."""
    before = walk.hand.select(walk.first, "sync")
    walk.second.remote.pause_at("applier.ack_delay")
    writes = [walk.hang(31), walk.hang(32)]
    vclock = walk.hand.vclock(walk.first)
    walk.soon("the second has both", lambda: walk.hand.vclock(walk.second) == vclock)
    for instance, other in ((walk.first, walk.second), (walk.second, walk.first)):
        instance.remote.partition(other.name)
    walk.second.remote.clear()
    writes.append(walk.hang(33))
    for key, value in (("database.mode", "rw"), ("replication.synchro_quorum", "1")):
        walk.hand.set_option(walk.second, key, value, force=True)
    promoted = walk.hand.promote(walk.second)
    assert (promoted.confirmed, promoted.rolled_back) == (2, 0)
    assert not any(write.is_done for write in writes)
    for instance in walk:
        instance.remote.heal()
    first, second, third = (write.error(soon_s(15)) for write in writes)
    assert first is second is None
    assert isinstance(third, SyncRollback) or "SYNC_ROLLBACK" in str(third), third
    walk.wait_equal("sync")
    for instance in walk:
        assert walk.hand.select(instance, "sync") == [*before, [31], [32]]
