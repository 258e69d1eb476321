"""Hands on: two terminals, one instance in each; the source is restarted, then follows its replica. HO.

Tests of one file build on each other, in its order. Only HO-21 has a set of its own.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.e2e.cluster import soon_s
from tests.e2e.tutorials.hands import EACH_HAND
from tests.e2e.tutorials.walk import Walk

pytestmark = pytest.mark.e2e
R1 = [1, "Tuple inserted on Terminal #1"]
R2 = [2, "Tuple inserted on Terminal #2"]
R3 = [3, "Another"]


@pytest.fixture(scope="module", params=EACH_HAND)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    with Walk(tmp_path_factory.mktemp("ho"), request.param) as cluster:
        yield cluster


def rows(walk: Walk, name: str) -> list[list[object]]:
    return walk.hand.select(walk[name], "tester", [0], "ge")


def test_HO_01_the_first_terminal(walk: Walk) -> None:
    """HO-1: an instance in an empty directory makes a new replica set."""
    walk.serve(walk.first)
    assert walk.hand.info(walk.first, "status") == "running"
    walk.wait_record(walk.first, "replicaset_bootstrapped")


def test_HO_02_a_user_for_replication(walk: Walk) -> None:
    """HO-2: it gets its role in the short form, in the older text read and write on everything. The rows go
    into the first file of the log, whose name is the signature of that moment."""
    signature = walk.hand.info(walk.first, "signature")
    assert walk.hand.create_user(walk.first, "replicator", "password")
    assert walk.hand.grant(walk.first, "replicator", "replication")
    assert walk.hand.grant(walk.first, "replicator", "read,write", "universe")
    assert f"{signature:020}.xlog" in walk.first.files(".xlog")


def test_HO_03_one_member(walk: Walk) -> None:
    """HO-3: the space _cluster has one row, with the id 1 and the UUID of the instance."""
    [row] = walk.hand.select(walk.first, "_cluster", [0], "ge")
    assert row[:2] == [1, walk.hand.info(walk.first, "uuid")]


def test_HO_04_the_second_terminal(walk: Walk) -> None:
    """HO-4: it joins; each terminal shows its side of that."""
    walk.serve(walk.second, walk.first)
    for event in ("join_began", "join_initial_data_sent", "relay_connected"):
        walk.wait_record(walk.first, event, peer=walk.second.name)
    for event in ("joined", "recovered", "upstream_subscribed", "upstream_following"):
        walk.wait_record(walk.second, event)


def test_HO_05_two_members(walk: Walk) -> None:
    """HO-5: the second terminal sees two rows in _cluster, the first as before; both are in one set."""
    found = walk.hand.select(walk.second, "_cluster", [0], "ge")
    assert [row[:2] for row in found] == [
        [number, walk.hand.info(instance, "uuid")] for number, instance in enumerate(walk, 1)
    ]
    assert len({row[1] for row in found}) == 2
    assert len({walk.hand.info(instance, "replicaset.uuid") for instance in walk}) == 1


def test_HO_06_a_first_tuple(walk: Walk) -> None:
    """HO-6: a space, an index over its first field by default, and an insert that returns its tuple."""
    walk.hand.create(walk.first, "tester")
    assert walk.hand.insert(walk.first, "tester", R1) == R1


def test_HO_07_it_arrives_by_itself(walk: Walk) -> None:
    """HO-7: without a word in the second terminal the tuple is there, and no error."""
    walk.wait_rows(walk.second, "tester", [R1])
    assert not walk.unexpected()


def test_HO_08_a_select_by_key(walk: Walk) -> None:
    """HO-8: from key 1 on there is one tuple."""
    assert walk.hand.select(walk.second, "tester", [1], "ge") == [R1]


def test_HO_09_the_second_terminal_writes(walk: Walk) -> None:
    """HO-9: it may, and nothing happens in the first one."""
    count = len(walk.first.records())
    assert walk.hand.insert(walk.second, "tester", R2) == R2
    assert rows(walk, "instance001") == [R1]
    assert len(walk.first.records()) == count


def test_HO_10_the_first_terminal_is_stopped(walk: Walk) -> None:
    """HO-10: two directories alike; the second terminal says that the source is gone and tries again."""
    sizes = []
    for instance in walk:
        signature = walk.hand.snapshot(instance)
        path = instance.dir / f"{signature:020d}.snap"
        sizes.append(path.stat().st_size)
        assert not instance.files(".inprogress")
    assert abs(sizes[0] - sizes[1]) < 1024
    assert walk.first.stop() == 0
    assert all(instance.files(".snap") and instance.files(".xlog") for instance in walk)
    walk.wait_record(walk.second, "upstream_lost")
    walk.wait_record(walk.second, "upstream_retry", retry_s=1.0)


def test_HO_11_the_second_terminal_answers(walk: Walk) -> None:
    """HO-11: it has both tuples while the first is down."""
    assert rows(walk, "instance002") == [R1, R2]


def test_HO_12_and_takes_writes(walk: Walk) -> None:
    """HO-12: a third tuple."""
    assert walk.hand.insert(walk.second, "tester", R3) == R3


def test_HO_13_the_first_terminal_again(walk: Walk) -> None:
    """HO-13: started without a source it is who it was, and has only its own tuple."""
    [before] = walk.hand.select(walk.second, "_cluster", [1])
    walk.serve(walk.first)
    assert rows(walk, "instance001") == [R1]
    assert [walk.hand.info(walk.first, "id"), walk.hand.info(walk.first, "uuid")] == before[:2]


def test_HO_14_the_second_follows_again(walk: Walk) -> None:
    """HO-14: by itself, and its three tuples are as they were."""
    walk.wait_status(walk.second, walk.first, "follow")
    walk.soon("it says so again", lambda: len(walk.second.records("upstream_following")) >= 2)
    assert rows(walk, "instance002") == [R1, R2, R3]


def follow_each_other(walk: Walk) -> None:
    """The first one gets the second as its source, while it runs."""
    address = walk.second.address
    changes, _ = walk.hand.set_option(walk.first, "replication.peers", json.dumps([address]))
    assert changes == {"replication.peers": [address]}
    walk.wait_mesh()


def test_HO_15_PR_11_it_gets_a_source(walk: Walk) -> None:
    """HO-15, PR-11: at once; each terminal shows its side of that."""
    follow_each_other(walk)
    walk.wait_record(walk.first, "option_set", option="replication.peers")
    walk.wait_record(walk.first, "upstream_following")
    walk.wait_record(walk.second, "relay_connected", peer=walk.first.name)


def test_HO_16_the_first_catches_up(walk: Walk) -> None:
    """HO-16: the first terminal has all three tuples."""
    walk.wait_rows(walk.first, "tester", [R1, R2, R3])


def test_HO_17_equal_vclocks(walk: Walk) -> None:
    """HO-17: both say the same; the signature is the sum of the vclock."""
    vclock = walk.wait_equal_vclocks()
    for instance in walk:
        info = walk.hand.info(instance)
        assert info["signature"] == sum(info["vclock"].values()) >= sum(vclock.values())


def test_HO_18_a_file_for_each_run(walk: Walk) -> None:
    """HO-18: a restart opens a further .xlog, named by the signature; the one before was closed."""
    names = walk.first.files(".xlog")
    assert len(names) > 1
    assert all(len(name) == len("00000000000000000000.xlog") for name in names)
    assert not walk.first.records("wal_not_closed")
    newest = int(names[-1].removesuffix(".xlog"))
    assert newest <= walk.hand.info(walk.first, "signature")


def test_HO_19_each_sees_the_other(walk: Walk) -> None:
    """HO-19: a write on each is on both soon."""
    walk.hand.insert(walk.first, "tester", [4, "x"])
    walk.hand.insert(walk.second, "tester", [5, "y"])
    for instance in walk:
        walk.wait_rows(instance, "tester", [R1, R2, R3, [4, "x"], [5, "y"]])
    walk.wait_equal_vclocks()


def test_HO_20_the_end(walk: Walk) -> None:
    """HO-20: both end with 0 within 5 s, and their directories can be removed."""
    began = time.monotonic()
    assert [instance.stop() for instance in walk] == [0, 0]
    assert time.monotonic() - began < soon_s(5)
    for instance in walk:
        shutil.rmtree(instance.dir)


@pytest.mark.long
@pytest.mark.parametrize("hand", EACH_HAND)
def test_HO_21_the_same_with_sigkill(tmp_path: Path, hand: str) -> None:
    """HO-21: killed instead of stopped, the first one finds its log not closed, goes on, and catches up."""
    with Walk(tmp_path, hand) as walk:
        walk.serve(walk.first)
        walk.serve(walk.second, walk.first)
        walk.hand.create(walk.first, "tester")
        walk.hand.insert(walk.first, "tester", R1)
        walk.wait_rows(walk.second, "tester", [R1])
        walk.hand.insert(walk.second, "tester", R2)
        walk.kill(walk.first)
        walk.wait_record(walk.second, "upstream_lost")
        assert rows(walk, "instance002") == [R1, R2]
        walk.hand.insert(walk.second, "tester", R3)

        walk.serve(walk.first)
        walk.wait_record(walk.first, "wal_not_closed")
        assert rows(walk, "instance001") == [R1]
        walk.wait_status(walk.second, walk.first, "follow")
        follow_each_other(walk)
        walk.wait_rows(walk.first, "tester", [R1, R2, R3])
        walk.wait_equal_vclocks()
