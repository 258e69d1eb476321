"""A member gives its data up for that of another one, by one command; its process goes on. [M-35], ADR 46."""

from __future__ import annotations

import os
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
    follower = next(instance for instance in cluster if instance is not leader)
    cluster.wait_equal("pay")

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
