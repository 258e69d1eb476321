"""The command line when instances are paused or dead: its time is the caller's, and who answers is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from tests.e2e.cluster import Cluster, Instance, eventually

pytestmark = pytest.mark.e2e


def synchro(
    endpoints: Sequence[Instance], *words: str, timeout: str = "20s"
) -> subprocess.CompletedProcess[str]:
    where = ",".join(instance.address for instance in endpoints)
    command = [sys.executable, "-m", "synchro", "-e", where, "--timeout", timeout, *words]
    env = {key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=env)


def with_space(cluster: Cluster) -> tuple[Instance, list[Instance]]:
    leader = cluster.wait_leader()
    leader.remote.create("pay", is_sync=True)
    leader.remote.insert("pay", 1, "before")
    cluster.wait_equal("pay")
    return leader, [instance for instance in cluster if instance is not leader]


@pytest.mark.parametrize("words", [("insert", "pay", '[2, "x"]'), ("get", "pay", "[1]"), ("queue",)])
def test_a_pause_that_is_shorter_than_the_time_given_is_waited_out(
    make_cluster: Callable[..., Cluster], words: tuple[str, ...]
) -> None:
    cluster = make_cluster(1, failover="election").start()
    leader, _ = with_space(cluster)
    leader.pause()
    threading.Timer(3.0, leader.resume).start()
    began = time.monotonic()
    done = synchro([leader], *words)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began > 2


def test_a_stopped_instance_does_not_hide_the_others(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(3, failover="election").start()
    leader, (stopped, follower) = with_space(cluster)
    stopped.pause()
    for _ in range(8):
        done = synchro([stopped, follower, leader], "queue")
        assert done.returncode == 0, done.stderr
        # On a busy machine the other one may have been elected meanwhile.
        assert any(f"({owner.name})" in done.stdout for owner in (leader, follower)), done.stdout
    stopped.resume()


def test_without_a_leader_reads_go_on_and_writes_say_who_is_missing(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(3, failover="election").start()
    leader, (dead, alive) = with_space(cluster)
    leader.kill()
    dead.kill()
    eventually("it sees no leader", lambda: alive.remote.info("ro_reason") == "election")
    every = [leader, dead, alive]

    done = synchro(every, "queue")
    assert done.returncode == 0, done.stderr
    done = synchro(every, "get", "pay", "[1]")
    assert done.returncode == 0, done.stderr

    began = time.monotonic()
    done = synchro(every, "insert", "pay", '[2, "x"]', timeout="3s")
    assert time.monotonic() - began > 2.5
    assert done.returncode == 3, done.stderr
    text = f"NO_LEADER: last leader {leader.name} is down, 1 of 2 needed instances up"
    assert text in done.stderr

    threading.Timer(1.0, lambda: dead.spawn()).start()
    done = synchro(every, "insert", "pay", '[3, "y"]', timeout="30s")
    assert done.returncode == 0, done.stderr
    assert alive.remote.info("synchro.quorum") == 2
