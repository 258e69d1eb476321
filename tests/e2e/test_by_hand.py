"""What an operator does by hand without elections: rows of a dead master, and a change of the writer. [A-61],
[A-62]; the chapters of docs/operations.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Instance, eventually
from tests.e2e.test_live_config import synchro

pytestmark = pytest.mark.e2e

PAIR = {"instance001": {"database": {"mode": "rw"}}, "instance002": {"database": {"mode": "ro"}}}


def at(instance: Instance, *words: str, code: int = 0) -> str:
    done = synchro("-e", instance.address, "--direct", *words, code=code)
    return done.stdout if code == 0 else done.stderr


def test_rows_that_died_with_a_master_are_applied_again(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """[A-62]: what the dead one had not sent is in its files, and nowhere else; then it is on the other
    one."""
    cluster = make_cluster(2, instances=PAIR, faults=True).start()
    one, two = cluster
    one.remote.create("bands", is_sync=False)
    for key in range(3):
        one.remote.insert("bands", key, "sent")
    cluster.wait_equal("bands")
    number = one.id
    one.remote.partition()  # nothing leaves it any more
    at(one, "insert", "bands", '[3, "only here"]')
    at(one, "update", "bands", "[1]", '[["=", 2, "changed"]]')
    at(one, "delete", "bands", "[2]")
    both = tmp_path / "both.jsonl"
    both.write_text(
        '{"op": "replace", "space": "bands", "tuple": [4, "one"]}\n'
        '{"op": "upsert", "space": "bands", "tuple": [5, "two"], "ops": [["=", 2, "x"]]}\n'
    )
    at(one, "txn", str(both))
    before = one.remote.checksum("bands")
    one.kill()

    at(two, "config", "set", "database.mode", "rw")
    known = at(two, "info", "vclock")
    files = [str(one.dir / name) for name in one.files(".xlog")]
    done = synchro("wal", "cat", *files, "--from-vclock", known, "--origin", str(number))
    assert "no end marker" in done.stderr
    rows = tmp_path / "rows.jsonl"
    rows.write_text(done.stdout)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["op"] for line in lines] == ["insert", "update", "delete", "replace", "upsert"]
    assert {line["space"] for line in lines} == {"bands"}
    assert at(two, "import", str(rows)) == "5 lines read, 5 operations\n"
    assert two.remote.checksum("bands") == before
    assert "TUPLE_FOUND" in at(two, "import", str(rows), code=6)  # a second time does not go unseen
    assert two.remote.checksum("bands") == before


def test_a_switchover_changes_the_writer(make_cluster: Callable[..., Cluster]) -> None:
    """[A-61], [T-5]: there and back; a follower that is stuck undoes it; nobody is restarted."""
    cluster = make_cluster(2, instances=PAIR).start()
    one, two = cluster
    one.remote.create("bands", is_sync=False)
    one.remote.insert("bands", 1, "Roxette")
    where = f"{one.address},{two.address}"
    # As a run leaves it that was killed behind its first step: status says so, and the way back.
    at(one, "config", "set", "database.mode", "ro")
    told = synchro("-e", where, "status").stdout
    assert f"{one.name} was kept from writing by `config set`" in told
    [line] = [line for line in told.splitlines() if "was kept from writing" in line]
    command = line.partition("Next: synchro ")[2].split()
    synchro("-e", where, *command)
    one.remote.insert("bands", 0, "again")

    done = synchro("-e", where, "switchover", "--to", two.name)
    assert [line[:6] for line in done.stdout.splitlines()[:4]] == [f"{n} of 4" for n in (1, 2, 3, 4)]
    assert f"database.mode: ro for {one.name} and rw for {two.name}" in done.stdout
    assert (one.remote.info("ro_reason"), two.remote.info("ro")) == ("config", False)
    two.remote.insert("bands", 2, "Scorpions")
    assert "already; nothing was done" in synchro("-e", where, "switchover", "--to", "instance002").stdout

    one.pause()
    failed = synchro("-e", where, "--timeout", "1s", "switchover", "--to", one.name, code=1)
    assert "nothing was done" in failed.stderr
    one.resume()
    eventually("it follows", lambda: len(one.remote.select("bands")) == 3)
    synchro("-e", where, "switchover", "--to", one.name)
    one.remote.insert("bands", 3, "ABBA")
    cluster.wait_equal("bands")


@pytest.mark.long
def test_a_switchover_with_an_owner(make_cluster: Callable[..., Cluster]) -> None:
    """With elections the queue goes along, and synchronous writes go on at the next one."""
    elected = make_cluster(3, failover="election").start()
    leader = elected.wait_leader()
    leader.remote.create("pay", is_sync=True)
    leader.remote.insert("pay", 1, "before")
    target = next(instance for instance in elected if instance is not leader)
    where = ",".join(instance.address for instance in elected)
    synchro("-e", where, "--timeout", "10s", "switchover", "--to", target.name)
    target.remote.insert("pay", 2, "after")
    assert elected.wait_leader() is target
    elected.wait_equal("pay")


@pytest.mark.long
def test_a_switchover_between_leaders_of_the_file(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(2, failover="manual")
    text = cluster.config_path.read_text()
    text = text.replace("replicaset001:\n", "replicaset001:\n        leader: instance001\n")
    cluster.config_path.write_text(text)
    cluster.start()
    one, two = cluster
    one.remote.promote()
    one.remote.create("pay", is_sync=True)
    one.remote.insert("pay", 1, "before")
    where = f"{one.address},{two.address}"
    done = synchro("-e", where, "switchover", "--to", two.name)
    assert f"write leader: {two.name} into it" in done.stdout
    two.remote.insert("pay", 2, "after")
    assert (one.remote.info("ro"), two.remote.info("synchro.queue.owner")) == (True, two.id)
    cluster.wait_equal("pay")
