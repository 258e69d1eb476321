"""What the text of the manual says, sentence by sentence: what is logged, who gets it, what is kept. PR.

PR-6, PR-10, PR-14 and PR-15 are seen in other walk-throughs, see docs/tutorials/steps.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import HEARTBEAT_S, POLL_S, Instance, never
from tests.e2e.tutorials.hands import EACH_HAND, HANDS, run
from tests.e2e.tutorials.walk import RO, RW, Walk

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=EACH_HAND)
def walk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Walk]:
    """A master and its replica, with a space."""
    directory = tmp_path_factory.mktemp("pr")
    own = {"instance001": RW, "instance002": RO}
    with Walk(directory, request.param, instances=own, faults=True) as cluster:
        cluster.up()
        cluster.wait_mesh()
        cluster.hand.create(cluster.first, "tester")
        yield cluster


def logged(instance: Instance) -> list[dict[str, Any]]:
    """`synchro wal cat` of all its files, without what stays on the instance."""
    code, out, err = run("wal", "cat", *(str(instance.dir / name) for name in instance.files(".xlog")))
    assert code == 0, err
    return [row for row in map(json.loads, out.splitlines()) if not row.get("local")]


def test_PR_01_each_record_is_a_change_with_a_growing_lsn(walk: Walk) -> None:
    """PR-1: the logs of both have the same rows, and LSNs without gaps."""
    for number in range(20):
        walk.hand.insert(walk.first, "tester", [number, number])
    walk.wait_equal("tester")
    seen = [
        [(row["origin"], row["row_lsn"], row.get("op", row.get("type"))) for row in logged(instance)]
        for instance in walk
    ]
    ours, theirs = ([row for row in rows if row[0] == 1] for rows in seen)
    assert ours[-len(theirs) :] == theirs and len(theirs) >= 22
    lsns = [lsn for _, lsn, _ in ours]
    assert lsns == list(range(lsns[0], lsns[0] + len(lsns)))


def test_PR_02_an_update_is_the_same_everywhere(walk: Walk) -> None:
    """PR-2: its row gives the same tuple on each instance, and after a restart."""
    assert walk.hand.execute(walk.first, ("update", "tester", [1], [["+", 2, 41]])) == [[1, 42]]
    walk.wait_equal("tester")
    walk.down("instance002")
    walk.up("instance002")
    assert [walk.hand.select(instance, "tester", [1]) for instance in walk] == [[[1, 42]]] * 2


def test_PR_03_a_transaction_is_its_rows(walk: Walk) -> None:
    """PR-3: of a transaction of three operations the log has three rows with one name."""
    walk.hand.execute(
        walk.first,
        ("insert", "tester", [100, 1]),
        ("update", "tester", [100], [["+", 2, 1]]),
        ("delete", "tester", [0]),
    )
    last = logged(walk.first)[-3:]
    assert [row["op"] for row in last] == ["insert", "update", "delete"]
    assert len({row["txn"] for row in last}) == 1


def test_PR_04_temporary_and_local_spaces(walk: Walk) -> None:
    """PR-4: both exist everywhere, their tuples where they were written; a restart keeps the local ones."""
    walk.hand.create(walk.first, "passing", temporary=True)
    walk.hand.create(walk.first, "here", local=True)
    walk.wait_equal_vclocks()
    before = walk.hand.vclock(walk.first)
    for space in ("passing", "here"):
        walk.hand.insert(walk.first, space, [1])
        assert walk.hand.select(walk.first, space) == [[1]]
    assert walk.hand.vclock(walk.first) == before, "only component 0 grew"
    assert [walk.hand.select(walk.second, space) for space in ("passing", "here")] == [[], []]
    walk.down("instance001")
    walk.up("instance001")
    assert [walk.hand.select(walk.first, space) for space in ("passing", "here")] == [[], [[1]]]


def test_PR_08_the_log_is_kept_for_a_replica(walk: Walk) -> None:
    """PR-8: after five snapshots and a restart of both the replica still catches up from the log."""
    walk.wait_mesh()
    walk.down("instance002")
    for number in range(200, 205):
        walk.hand.insert(walk.first, "tester", [number, 0])
        walk.hand.snapshot(walk.first)
    walk.down("instance001")
    walk.up("instance001")
    walk.up("instance002")
    walk.wait_mesh()
    walk.wait_equal("tester")
    assert len(walk.first.records("join_began")) == 1, "the one of the start"


def test_PR_09_the_log_is_gone(walk: Walk) -> None:
    """PR-9: a replica that needs rows of deleted files says so, and gets all anew; so it does without its own
    files."""
    walk.down("instance002")
    for number in range(210, 213):
        walk.hand.insert(walk.first, "tester", [number, 0])
        walk.hand.snapshot(walk.first)
    walk.down("instance001")
    for name in walk.first.files(".xlog")[:-1]:
        (walk.first.dir / name).unlink()
    walk.up("instance001")
    walk.up("instance002")
    walk.wait_mesh()
    walk.wait_equal("tester")
    [began] = walk.second.records("rebootstrap_began")
    assert began["message"] == "replica is too old, initiating rebootstrap"
    walk.second.kill()
    for name in walk.second.files(".xlog") + walk.second.files(".snap"):
        (walk.second.dir / name).unlink()
    walk.up("instance002")
    walk.wait_mesh()
    walk.wait_equal("tester")


def test_PR_12_nobody_declares_a_master_dead(walk: Walk) -> None:
    """PR-12: twenty heartbeats after the master was killed the replica is what it was."""
    second = walk.second
    for instance, other in ((walk.first, second), (second, walk.first)):
        instance.remote.partition(other.name)
    walk.hand.insert(walk.first, "tester", [300, 1])  # nobody else has it
    walk.kill(walk.first)
    second.remote.heal()
    walk.wait_status(second, walk.first, "disconnected")

    def has_changed() -> bool:
        info = walk.hand.info(second)
        return (info["ro"], info["ro_reason"], info["synchro"]["queue"]["owner"]) != (True, "config", 0)

    never("the replica takes over", has_changed, 20 * HEARTBEAT_S)


def test_WQ_06_the_replica_takes_over(walk: Walk) -> None:
    """WQ-6: it says that its source is lost. Without sources, and writable, it is on its own, and quiet."""
    second = walk.second
    assert "instance001" in [record["peer"] for record in second.records("upstream_lost")]
    walk.hand.set_option(second, "replication.peers", "[]")
    walk.hand.set_option(second, "database.mode", "rw")
    assert "upstream" not in walk.item(second, walk.first)
    assert walk.hand.insert(second, "tester", [301, 1]) == [301, 1]
    walk.soon("it is quiet", partial(is_quiet, second, 5 * HEARTBEAT_S))  # what it says of the change is said


def is_quiet(instance: Instance, seconds: float) -> bool:
    """Whether it logs nothing for so long."""
    count, until = len(instance.records()), time.monotonic() + seconds
    while len(instance.records()) == count:
        if time.monotonic() > until:
            return True
        time.sleep(POLL_S)
    return False


def test_PR_13_what_the_master_had_not_sent(walk: Walk, tmp_path: Path) -> None:
    """PR-13: it is in the files of the dead master alone; `wal cat` prints it, and `txn` takes what that
    prints."""
    has = walk.hand.vclock(walk.second)[1]
    assert walk.hand.select(walk.second, "tester", [300]) == []
    unsent = [row for row in logged(walk.first) if row["origin"] == 1 and row["row_lsn"] > has]
    assert [row["tuple"] for row in unsent] == [[300, 1]]
    file = tmp_path / "unsent.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in unsent))
    code, _, err = run("-e", walk.second.address, "--direct", "txn", str(file))
    assert code == 0, err
    assert walk.hand.select(walk.second, "tester", [300]) == [[300, 1]]


@pytest.mark.long
def test_PR_05_one_master_many_replicas(tmp_path: Path) -> None:
    """PR-5: one of four replicas stands still; the others are not slowed; each has a state."""
    names = [f"instance{number:03}" for number in range(1, 6)]
    own = {name: RW if name == names[0] else RO for name in names}
    with Walk(tmp_path, "client", names, instances=own) as walk:
        walk.up()
        walk.wait_mesh()
        walk.hand.create(walk.first, "tester")
        walk.wait_equal("tester")
        paused, *others = (walk[name] for name in names[1:])
        paused.pause()
        for number, name in enumerate(HANDS):
            hand = HANDS[name]()
            assert hand.insert(walk.first, "tester", [number]) == [number]
            hand.close()
        for instance in others:
            walk.wait_rows(instance, "tester", [[0], [1], [2]])
        walk.wait_status(walk.first, paused, "stopped", "downstream")
        assert {walk.stream(walk.first, one, "downstream")["status"] for one in others} == {"follow"}
        paused.resume()
        walk.wait_rows(paused, "tester", [[0], [1], [2]])
