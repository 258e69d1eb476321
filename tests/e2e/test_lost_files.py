"""Lost logs and directories with real processes, `kill -9`, and the commands that the instances print."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from synchro.errors import SynchroError
from synchro.storage.disk import RealDisk
from synchro.storage.recovery import open_xlog
from tests.e2e.cluster import Cluster, Instance, eventually, never, soon_s

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
ELECTION = {"election_timeout": 1}


def elected(make_cluster: MakeCluster) -> Cluster:
    return make_cluster(3, failover="election", replication=ELECTION)


def cut_to_a_quarter(directory: Path) -> None:
    """The last file of the log, at a block border."""
    path = max(directory.glob("*.xlog"))
    with open_xlog(RealDisk(), str(path)) as reader:
        ends = [block.next_offset for block in reader.blocks()]
    with path.open("r+b") as file:
        file.truncate(ends[len(ends) // 4])


def empty(directory: Path) -> None:
    """As we advise: the data goes, the identity stays."""
    for path in directory.iterdir():
        if path.suffix in (".snap", ".xlog"):
            path.unlink()


def leads(instance: Instance) -> bool:
    try:
        info = instance.remote.info(timeout=2)
    except SynchroError:
        return False
    return info["election"] is not None and (info["election"]["leader"] != 0 or not info["ro"])


def test_who_lost_its_log_elects_nobody(make_cluster: MakeCluster) -> None:
    """B acknowledged 100 writes that C never saw, and lost most of them. B and C must not go on without A."""
    cluster = elected(make_cluster).start()
    a = cluster.wait_leader()
    a.remote.create("kept", is_sync=True)
    b, c = (instance for instance in cluster if instance is not a)
    c.kill()
    for number in range(100):
        a.remote.insert("kept", number)
    cluster.kill_all()
    cut_to_a_quarter(b.dir)

    cluster.start(b.name, c.name)
    assert b.records("log_incomplete")
    never("a leader without the rows", lambda: leads(b) or leads(c), 4.0)
    assert [one["name"] for one in b.remote.info("amnesia.must_hear")] == [a.name]
    cluster.start(a.name)
    cluster.wait_leader()
    cluster.wait_equal("kept")
    assert len(b.remote.select("kept")) == 100
    eventually("amnesia ends", lambda: b.remote.info("amnesia") is None)


# --- the commands that are printed ----------------------------------------------------------------------


def synchro(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "synchro", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def carry_out(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "synchro"
    synchro(*arguments)


@contextmanager
def supervised(cluster: Cluster) -> Iterator[str]:
    """A set that `synchro start` runs, with a row; stopped at the end."""
    config = str(cluster.config_path)
    try:
        synchro("start", config)
        leader = eventually("a leader", lambda: writable(cluster), soon_s(10))
        leader.remote.create("kept", is_sync=True)
        leader.remote.insert("kept", 1)
        synchro("stop", config)
        yield config
    finally:
        synchro("stop", config)


def writable(cluster: Cluster) -> Instance | None:
    return next((one for one in cluster if not one.remote.info("ro", timeout=2)), None)


def log_of(cluster: Cluster, instance: Instance) -> list[dict[str, Any]]:
    text = (cluster.dir / "var" / "log" / f"{instance.name}.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_two_of_three_emptied(make_cluster: MakeCluster) -> None:
    """They join again, nobody leads, and the command that each of them prints lets a person decide."""
    cluster = elected(make_cluster)
    with supervised(cluster) as config:
        one, two, three = cluster
        empty(two.dir)
        empty(three.dir)
        synchro("start", config)
        told = eventually("amnesia", lambda: two.remote.info("amnesia"), soon_s(10))
        eventually(
            "the other forgot too", lambda: "amnesia too" in str(two.remote.info("amnesia")), soon_s(10)
        )
        assert writable(cluster) is None
        assert any(told["command"] in record.get("next", "") for record in log_of(cluster, two))
        carry_out(told["command"])
        leader = eventually("a leader", lambda: writable(cluster), soon_s(10))
        leader.remote.insert("kept", 2)
        for instance in (one, two, three):
            eventually("the rows", partial(lambda i: len(i.remote.select("kept")) == 2, instance))
            eventually("no amnesia", partial(lambda i: i.remote.info("amnesia") is None, instance))


def test_all_emptied(make_cluster: MakeCluster) -> None:
    """Nobody makes a new set by himself; each names the command by which a person does. Here for instances
    that somebody runs in the foreground: it is stopped, and started by that command once."""
    cluster = make_cluster(2, failover="election", replication=ELECTION)
    cluster.start()
    cluster.wait_leader().remote.create("kept", is_sync=True)
    for instance in cluster:
        assert instance.stop() == 0
        empty(instance.dir)
    for instance in cluster:
        instance.spawn()

    def command_of(instance: Instance) -> str | None:
        waits = instance.records("bootstrap_waiting")
        found = (
            re.search(r"then once: (synchro serve .* --new-set);", waits[-1]["message"]) if waits else None
        )
        return found and found[1]

    commands = [eventually("the command", partial(command_of, instance), soon_s(10)) for instance in cluster]
    for instance in cluster:
        assert instance.remote.info("status") == "loading"
    for instance in cluster:
        assert instance.stop() == 0
    for instance, command in zip(cluster, commands, strict=True):
        instance.spawn(arguments=shlex.split(command)[1:])
    for instance in cluster:
        instance.wait_ready()
    leader = cluster.wait_leader()
    leader.remote.create("kept", is_sync=True)
    leader.remote.insert("kept", 1)


def flip_in_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.long
def test_a_damaged_snapshot_and_a_damaged_log(make_cluster: MakeCluster) -> None:
    """With an older snapshot and the log a member comes back by itself; with a hole in its log it does not
    start, and does after the one command that `status` names. The set writes on."""
    cluster = elected(make_cluster)
    with supervised(cluster) as config:
        synchro("start", config)
        leader = eventually("a leader", lambda: writable(cluster), soon_s(10))
        member = next(one for one in cluster if one is not leader)

        def is_equal() -> bool:
            return member.remote.vclock() == leader.remote.vclock()

        eventually("it follows", is_equal, soon_s(10))
        member.remote.snapshot()
        leader.remote.insert("kept", 2)
        eventually("it has the row", is_equal, soon_s(10))
        synchro("stop", f"{config}:{member.name}")
        flip_in_the_middle(max(member.dir.glob("*.snap")))
        synchro("start", f"{config}:{member.name}")
        eventually("it is back by itself", is_equal, soon_s(10))
        assert member.files(".damaged")

        for number in range(3, 9):
            leader.remote.insert("kept", number)
        eventually("it has the rows", is_equal, soon_s(10))
        synchro("stop", f"{config}:{member.name}")
        flip_in_the_middle(max(member.dir.glob("*.xlog")))
        with pytest.raises(AssertionError, match="another member; or start it with --force-recovery"):
            synchro("start", f"{config}:{member.name}")
        leader.remote.insert("kept", 9)
        named = re.search(r"Next: (synchro start \S+ --rejoin)$", synchro("status", config), re.MULTILINE)
        assert named is not None
        carry_out(named[1])
        eventually("it is back", is_equal, soon_s(15))
        assert len(member.remote.select("kept")) == 9
