"""`info synchro`: one instance that is its own quorum, and the meaning of each field. S1, SF.

SF-5 and SF-7 are in tests/e2e/test_partitions.py. Tests of one set build on each other, in their order.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
import yaml

from synchro.errors import NotLeader, ReadOnly, SyncQueueUnclaimed
from tests.e2e.cluster import Instance, eventually, soon_s
from tests.e2e.remote import replace
from tests.e2e.tutorials.hands import EACH_HAND, HANDS, run
from tests.e2e.tutorials.walk import PAIR, RO, RW, Walk, refusal

pytestmark = pytest.mark.e2e
QUEUE_KEYS = {"owner", "confirm_lag", "term", "age", "len", "busy", "size"}


@pytest.fixture(scope="module", params=EACH_HAND)
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    directory = tmp_path_factory.mktemp("s1")
    with Walk(directory, request.param, PAIR[:1], replication={"synchro_quorum": 1}) as walk:
        walk.up()
        yield walk


def test_S1_01_exactly_the_documented_keys(alone: Walk) -> None:
    """S1-1: after a promote `info synchro` has these keys, and the term of the elections."""
    promoted = alone.hand.promote(alone.first)
    assert promoted.previous_owner == 0
    synchro = alone.hand.info(alone.first, "synchro")
    assert set(synchro) == {"queue", "quorum"} and set(synchro["queue"]) == QUEUE_KEYS
    queue = synchro["queue"]
    assert (queue["owner"], synchro["quorum"]) == (1, 1)
    assert queue["term"] == promoted.term == alone.hand.info(alone.first, "election.term") >= 2
    assert (queue["age"], queue["len"], queue["size"], queue["busy"]) == (0, 0, 0, False)
    code, out, _ = run("-e", alone.first.address, "-o", "yaml", "info", "synchro")
    assert code == 0 and yaml.safe_load(out)["quorum"] == 1


def test_S1_02_a_local_write_is_enough(alone: Walk) -> None:
    """S1-2: an insert returns with the local write, and the queue is empty again."""
    alone.hand.create(alone.first, "sync", sync=True)
    assert alone.hand.insert(alone.first, "sync", [1, "alone"], timeout=5) == [1, "alone"]
    assert alone.hand.info(alone.first, "synchro.queue.len") == 0
    assert alone.hand.select(alone.first, "sync") == [[1, "alone"]]


def test_S1_03_types(alone: Walk) -> None:
    """S1-3: numbers are integers, times are floats in seconds, busy is a boolean."""
    synchro = alone.hand.info(alone.first, "synchro")
    queue = synchro["queue"]
    assert {type(queue[key]) for key in ("owner", "term", "len", "size")} == {int}
    assert {type(queue[key]) for key in ("age", "confirm_lag")} == {float}
    assert (type(queue["busy"]), type(synchro["quorum"]), queue["age"]) == (bool, int, 0.0)


@pytest.fixture(scope="module", params=EACH_HAND)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    """Two writable instances; the queue has no owner at first."""
    directory = tmp_path_factory.mktemp("sf")
    with Walk(directory, request.param, instances=dict.fromkeys(PAIR, RW)) as walk:
        walk.up()
        walk.wait_mesh()
        walk.hand.create(walk.first, "plain")
        walk.hand.create(walk.first, "sync", sync=True)
        walk.wait_equal("plain", "sync")
        yield walk


def test_SF_02_without_an_owner_nothing_is_synchronous(pair: Walk) -> None:
    """SF-2: with owner 0 each instance takes asynchronous writes, and none a synchronous one."""
    for number, instance in enumerate(pair, 1):
        pair.hand.insert(instance, "plain", [number])
    pair.wait_equal("plain")
    before = [pair.hand.vclock(instance) for instance in pair]
    for instance in pair:
        assert pair.hand.info(instance, "synchro.queue.owner") == 0
        error = refusal(partial(pair.hand.insert, instance, "sync", [1]))
        assert isinstance(error, SyncQueueUnclaimed), error
    assert [pair.hand.vclock(instance) for instance in pair] == before
    assert [pair.hand.select(instance, "plain") for instance in pair] == [[[1], [2]]] * 2
    assert [pair.hand.select(instance, "sync") for instance in pair] == [[], []]


def wait_owner(walk: Walk, owner: int) -> int:
    """Until all see it; the term of the queue."""

    def term_there(instance: Instance) -> int:
        queue = walk.hand.info(instance, "synchro.queue")
        return int(queue["term"]) if queue["owner"] == owner else 0

    [term] = {walk.soon(f"{at.name}: the owner is {owner}", partial(term_there, at)) for at in walk}
    return int(term)


def test_SF_03_promote_claims_and_demote_clears(pair: Walk) -> None:
    """SF-3: each change of owner has a higher term; demote elsewhere than on the owner is refused."""
    first, second, hand = pair.first, pair.second, pair.hand
    first_id, second_id = first.id, second.id
    claimed = hand.promote(first)
    assert wait_owner(pair, first_id) == claimed.term
    again = hand.promote(first)
    assert (again.term, again.previous_owner) == (claimed.term, first_id), "the owner has it already"

    taken = hand.promote(second)
    assert taken.previous_owner == first_id and taken.term > claimed.term
    assert wait_owner(pair, second_id) == taken.term

    error = refusal(partial(hand.demote, first))
    assert isinstance(error, NotLeader) and "instance002" in str(error.details)
    assert wait_owner(pair, second_id) == taken.term

    term = hand.demote(second)
    assert term > taken.term and wait_owner(pair, 0) == term
    for number, instance in enumerate(pair, 3):
        pair.soon("writable again", partial(lambda at: not hand.info(at, "ro"), instance))
        hand.insert(instance, "plain", [number])
    pair.wait_equal("plain")


def test_SF_01_with_an_owner_all_others_are_read_only(pair: Walk) -> None:
    """SF-1: a write to another is refused although its mode is rw, and the refusal names the owner."""
    first, second, hand = pair.first, pair.second, pair.hand
    hand.insert(second, "plain", [11])
    pair.wait_equal("plain")  # who lacks a row of its voters is refused, and has to catch up first
    hand.promote(first)
    wait_owner(pair, first.id)
    error = refusal(partial(hand.insert, second, "plain", [12]))
    assert isinstance(error, ReadOnly)
    details = error.details
    assert (details["ro_reason"], details["owner"]) == ("synchro", str(first.id))
    assert (details["leader_name"], details["leader_address"]) == ("instance001", first.address)
    assert hand.info(second, "ro_reason") == "synchro"
    hand.insert(first, "plain", [13])
    pair.wait_equal("plain")
    assert hand.select(second, "plain", [11], "ge") == [[11], [13]]


def test_SF_06_len_counts_transactions(pair: Walk) -> None:
    """SF-6: a transaction of five rows that waits is one entry with five rows."""
    pair.second.kill()
    write = pair.first.remote.begin(*(replace("sync", [number]) for number in range(5)), timeout=1000)
    queue = pair.soon("it waits", lambda: (q := pair.hand.info(pair.first, "synchro.queue"))["len"] and q)
    assert queue["len"] == 1 and queue["size"] > 0
    assert [entry["rows"] for entry in pair.hand.queue(pair.first)[1]] == [5]
    pair.second.start()
    write.result(soon_s(10))
    pair.wait_equal("sync")
    assert pair.hand.select(pair.second, "sync") == [[number] for number in range(5)]


def test_SF_04_the_elected_leader_claims_by_itself(tmp_path: Path) -> None:
    """SF-4: with elections the leader owns the queue without a promote, and synchronous inserts work."""
    names = [f"instance{number:03}" for number in (1, 2, 3)]
    with Walk(tmp_path, "stub", names, failover="election", replication={"election_timeout": 1}) as walk:
        walk.start()
        leader = walk.wait_leader()
        for instance in walk:
            info = walk.hand.info(instance)
            assert info["synchro"]["queue"]["owner"] == info["election"]["leader"] == leader.id
            assert info["synchro"]["queue"]["term"] == info["election"]["term"]
            assert info["ro"] is (instance is not leader)
        leader.remote.create("sync", is_sync=True)
        for number, name in enumerate(HANDS):
            hand = HANDS[name]()
            assert hand.insert(leader, "sync", [number]) == [number]
            assert hand.info(leader, "synchro.queue.owner") == leader.id
            hand.close()
        walk.wait_equal("sync")


@pytest.mark.long
def test_SF_09_the_quorum_follows_the_members(tmp_path: Path) -> None:
    """SF-9: the quorum is N / 2 + 1 of the registered instances, from the moment one registers."""
    names = [f"instance{number:03}" for number in range(1, 6)]
    own = {name: RW if name == names[0] else RO for name in names}
    with Walk(tmp_path, "stub", names, instances=own) as walk:
        hands = [HANDS[name]() for name in HANDS]
        quorums = []
        for count, name in enumerate(names, 1):
            file = walk.dir / f"config-{count}.yaml"
            walk.write_config(file, names[:count])
            walk[name].start(config=file)
            # At once: when the newcomer is ready, its registration is decided and so counted.
            [quorum] = {hand.info(walk.first, "synchro.quorum") for hand in hands}
            quorums.append(quorum)
            eventually(
                "the newcomer counts the same",
                partial(lambda n, q: walk[n].remote.info("synchro.quorum") == q, name, quorum),
            )
        assert quorums == [1, 2, 2, 3, 3]
        for hand in hands:
            hand.close()
