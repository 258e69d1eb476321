"""What is outside the data path does not end an instance: its log, descriptors, a hangup."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
ALONE = {"instance001": {"database": {"mode": "rw"}}}


def test_an_instance_whose_log_cannot_be_written_serves_and_counts(make_cluster: MakeCluster) -> None:
    """A full disk, a pipe that nobody reads and no standard error at all; the data disk is fine."""
    full = make_cluster(1, instances=ALONE)["instance001"]
    stuck = make_cluster(1, instances=ALONE, options={"log": {"level": "debug"}})["instance001"]
    closed = make_cluster(1, instances=ALONE)["instance001"]
    reader, writer = os.pipe()
    with open("/dev/full", "wb") as nowhere:
        full.spawn(stderr=nowhere)
    while True:  # fill the pipe, so that the very first record does not fit
        os.set_blocking(writer, False)
        try:
            os.write(writer, bytes(4096))
        except BlockingIOError:
            break
    os.set_blocking(writer, True)
    stuck.spawn(stderr=writer)
    os.close(writer)
    closed.spawn(stderr=None, first="exec 2>&-")
    for instance in (full, stuck, closed):
        instance.wait_ready()
        instance.remote.create("plain", is_sync=False)
        instance.remote.insert("plain", 1, "here")
        assert instance.remote.select("plain") == [[1, "here"]]
    assert full.remote.info("logs_dropped") > 0
    assert closed.remote.info("logs_dropped") == 0
    assert not [fd for fd in (0, 1, 2) if ".xlog" in os.readlink(f"/proc/{closed.pid}/fd/{fd}")]
    for instance in (full, stuck, closed):
        assert instance.stop() == 0
    os.close(reader)


def test_a_hangup_opens_the_log_anew_and_ends_nothing(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(1, instances=ALONE)
    instance = cluster["instance001"].start(
        environ={"SYNCHRO_STDERR_FILE": str(cluster["instance001"].log_path)}
    )
    old = instance.log_path.rename(tmp_path / "old.log")
    instance.send_signal(signal.SIGHUP)
    eventually("a new log", lambda: instance.records("log_reopened"))
    assert "instance_ready" in old.read_text()
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        instance.send_signal(number)
        eventually(
            "noted",
            partial(
                lambda n: [r for r in instance.records("signal_received") if r["signal"] == n.name], number
            ),
        )
    instance.remote.create("plain", is_sync=False)
    assert instance.is_running

    other = make_cluster(1, instances=ALONE)["instance001"].start()  # it has no file to reopen
    other.send_signal(signal.SIGHUP)
    eventually("noted", lambda: other.records("signal_received"))
    assert not other.records("log_reopened")
    assert other.stop() == 0


FEW_DESCRIPTORS = "ulimit -n 64"


def test_connections_cannot_take_the_descriptors_of_files_and_peers(make_cluster: MakeCluster) -> None:
    """64 descriptors, 120 silent connections; the log rotates, a peer comes back, a client is served."""
    options = {"wal": {"max_size": "1MiB"}}
    cluster = make_cluster(2, failover="election", options=options)
    for instance in cluster:
        instance.spawn(first=FEW_DESCRIPTORS)
    cluster.wait_following()
    leader = cluster.wait_leader()
    [follower] = [instance for instance in cluster if instance is not leader]
    leader.remote.create("data", is_sync=True)
    host, _, port = leader.address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(120)]
    for key in range(30):
        leader.remote.insert("data", key, "x" * 100_000)
    assert len(leader.files(".xlog")) >= 3
    follower.kill()
    follower.start(first=FEW_DESCRIPTORS)
    cluster.wait_leader()
    cluster.wait_equal("data")
    assert not leader.records("wal_rotation_refused")
    for each in silent:
        each.close()
