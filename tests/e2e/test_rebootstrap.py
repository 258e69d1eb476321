"""A member gives its data up for that of another one, by one command; its process goes on. [M-35], ADR 46."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.e2e.cluster import Cluster, Instance, eventually

pytestmark = pytest.mark.e2e


def synchro(instance: Instance, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "synchro", "-e", instance.address, "--timeout", "20s", *words]
    env = {key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=env, stdin=subprocess.DEVNULL
    )


def test_a_follower_joins_again_while_rows_are_written(make_cluster: Callable[..., Cluster]) -> None:
    """No acknowledged row is lost, ids and processes stay, and the owner is refused."""
    cluster = make_cluster(3, failover="election").start()
    leader = cluster.wait_leader()
    leader.remote.create("pay", is_sync=True)
    for words in ("space create mine --local", "index create mine pk"):
        made = synchro(leader, *words.split())
        assert made.returncode == 0, made.stderr
    follower = next(instance for instance in cluster if instance is not leader)
    cluster.wait_equal("pay")
    only_here = synchro(follower, "--direct", "insert", "mine", '[1, "here"]')
    assert only_here.returncode == 0, only_here.stderr

    refused = synchro(leader, "rebootstrap", leader.name, "-y")
    assert refused.returncode == 1
    assert "REBOOTSTRAP_REFUSED: it owns the queue, or leads; nothing was done" in refused.stderr
    asked = synchro(leader, "rebootstrap", follower.name)
    assert asked.returncode == 2 and "-y says yes" in asked.stderr

    acked: list[int] = []
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            leader.remote.insert("pay", len(acked) + 1, "x")
            acked.append(len(acked) + 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        pid, number = follower.pid, follower.id
        done = synchro(leader, "rebootstrap", follower.name, "-y")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{follower.name} joins again")
        eventually("it has joined", lambda: follower.records("joined_again"))
        follower.wait_ready()
        so_far = len(acked)
        eventually("rows went on", lambda: len(acked) > so_far + 10)
    finally:
        is_over.set()
        writer.join()
    assert (follower.pid, follower.id) == (pid, number)
    cluster.wait_equal("pay")
    assert follower.remote.checksum("pay")[0] == len(acked)
    assert follower.remote.info("amnesia") is None
    take_back(leader, follower)


def take_back(leader: Instance, follower: Instance) -> None:
    """ADR 53: what only the follower had lies in a file; the command that status prints takes it again."""

    def advice() -> str:
        found = json.loads(synchro(leader, "-o", "json", "status").stdout)["problems"]
        return next((str(one["next"]) for one in found if one["kind"] == "kept_tuples"), "")

    assert synchro(follower, "--direct", "select", "mine", "-o", "json").stdout.strip() == "[]"
    eventually("status names the file", advice)
    _, *words = shlex.split(advice())
    assert words[:3] == ["-e", follower.address, "--direct"]
    taken = synchro(follower, *words[2:])
    assert taken.returncode == 0, taken.stderr
    assert json.loads(synchro(follower, "--direct", "select", "mine", "-o", "json").stdout) == [[1, "here"]]
    os.unlink(words[-1])
    assert synchro(follower, "--direct", "snapshot").returncode == 0  # it looks at its files then
    assert not advice()
