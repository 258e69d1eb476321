"""Fault injection as a tester uses it: the page in docs/, and what an instance is without and with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

import synchro
from synchro.client.faults import Faults
from synchro.errors import ConfigError, IllegalParams, SyncTimeout, Unimplemented
from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.remote import insert
from tests.ports import free_ports

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]
PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "fault-injection.md"


@contextmanager
def faults_of(instance: Instance) -> Iterator[Faults]:
    with synchro.connect(instance.address, follow_leader=False, timeout=10) as db:
        yield Faults(db)


def is_waiting(faults: Faults, name: str) -> bool:
    return faults.state()[name].waiting > 0


def commands() -> list[str]:
    tour = PAGE.read_text(encoding="utf-8").split("## A tour\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", tour, re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


@pytest.mark.long
def test_the_tour_of_the_page(tmp_path: Path) -> None:
    """Each command as it stands there, on other ports."""
    first = free_ports(3)[0]
    ports = range(first, first + 3)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SYNCHRO_ENDPOINTS": ",".join(f"127.0.0.1:{port}" for port in ports),
    }
    try:
        for command in commands():
            run = command.replace("--nodes 3", f"--nodes 3 --base-port {first}")
            for number, port in enumerate(ports):
                run = run.replace(f"127.0.0.1:{3301 + number}", f"127.0.0.1:{port}")

            def succeeds(run: str = run) -> str:
                done = subprocess.run(
                    ["bash", "-c", f"set -o pipefail; {run}"],
                    cwd=tmp_path,
                    env=environ,
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                return "" if done.returncode == 0 else done.stdout + done.stderr

            if "| grep" in command:  # a question: the answer may take a moment
                eventually(command, lambda succeeds=succeeds: not succeeds())  # type: ignore[misc]
            else:
                assert (command, succeeds()) == (command, "")
    finally:
        subprocess.run(
            ["synchro", "stop", "myset/config.yaml", "--kill"], cwd=tmp_path, env=environ, check=False
        )


def test_without_it_nothing_of_it_is_there(make_cluster: MakeCluster) -> None:
    [alone] = make_cluster(1).start()
    with faults_of(alone) as faults, pytest.raises(Unimplemented, match="started without fault injection"):
        faults.set("wal.delay")
    assert alone.remote.info("fault_injection") is False
    assert not alone.records("fault_injection")


def test_armed_before_the_start_and_warned_of(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(1)
    [alone] = cluster
    alone.start(environ={"SYNCHRO_FAILPOINTS": "wal.delay=on,countdown=1000"})
    [warning] = alone.records("fault_injection")
    assert (warning["level"], warning["armed"]) == ("warning", ["wal.delay"])
    assert alone.remote.info("fault_injection") is True
    with faults_of(alone) as faults:
        assert faults.state()["wal.delay"].countdown == 1000
        with pytest.raises(ConfigError, match=r"unknown failpoint 'wal\.dely'"):
            faults.set("wal.dely")
        with pytest.raises(IllegalParams, match="unknown action 'of'"):
            faults.set("wal.delay", "of")


def test_a_switch_that_means_nothing_starts_nothing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(1)
    cluster.expect_log("instance_failed", "SYNCHRO_FAULT_INJECTION is 1 or 0")
    [alone] = cluster
    assert alone.spawn(environ={"SYNCHRO_FAULT_INJECTION": "maybe"}).wait_exit(soon_s(15)) == 1


def test_a_blocked_log_keeps_neither_calls_nor_the_end(make_cluster: MakeCluster) -> None:
    """The service answers while the log waits, and SIGTERM lets go: the write on its way is on disk."""
    cluster = make_cluster(1, faults=True)
    cluster.expect_log("wal_stuck")
    [alone] = cluster.start()
    alone.remote.promote()
    alone.remote.create("data", is_sync=True)
    alone.remote.create("plain", is_sync=False)
    alone.remote.insert("plain", 1)  # the CONFIRM of what was committed went ahead of it: none comes later
    with faults_of(alone) as faults:
        eventually("all is written", lambda: (now := faults.state()).submitted == now.completed)
        before = faults.state()
        faults.set("wal.delay")
        call = alone.remote.begin(insert("data", [1]))
        eventually("it waits", lambda: is_waiting(faults, "wal.delay"))
        during = faults.state()
        assert during.submitted > during.completed == before.completed
        assert during["wal.delay"].triggers == 1
        assert during.quorum_waits == before.quorum_waits + 1
        assert alone.stop() == 0
    with suppress(SyncTimeout):  # it stopped before the log could tell: outcome unknown
        assert call.result().txn.lsn
    alone.start()
    alone.remote.promote()
    assert alone.remote.select("data") == [[1]]


def test_a_promote_waits_to_begin(make_cluster: MakeCluster) -> None:
    [alone] = make_cluster(1, faults=True).start()
    with faults_of(alone) as faults, ThreadPoolExecutor(1) as pool:
        faults.set("limbo.promote_begin_delay")
        term = alone.remote.queue()["term"]
        promote = pool.submit(alone.remote.promote)
        eventually("it waits", lambda: is_waiting(faults, "limbo.promote_begin_delay"))
        assert alone.remote.queue()["term"] == term
        faults.clear("limbo.promote_begin_delay")
        assert promote.result().term > term
        assert faults.state()["limbo.promote_begin_delay"].triggers == 1


def test_bytes_that_come_one_by_one(make_cluster: MakeCluster) -> None:
    [alone] = make_cluster(1, faults=True).start()
    with faults_of(alone) as faults:
        alone.remote.create("data", is_sync=False)
        faults.set("net.read_chunk", value=1)
        before = faults.state()["net.read_chunk"].triggers
        alone.remote.insert("data", 1, "x" * 1000, timeout=10)
        assert faults.state()["net.read_chunk"].triggers - before > 1000


def test_one_direction_of_a_link(make_cluster: MakeCluster) -> None:
    """Rows go from 2 to 1 and not from 1 to 2."""
    cluster = make_cluster(2, faults=True, options={"database": {"mode": "rw"}})
    one, two = cluster.start()
    one.remote.create("data", is_sync=False)
    cluster.wait_equal("data")
    with faults_of(one) as faults:
        faults.partition(["instance002"], "out")
        assert faults.state().partitioned_out == ("instance002",)
        one.remote.insert("data", 1)
        two.remote.insert("data", 2)
        eventually("it hears", lambda: len(one.remote.select("data")) == 2)
        assert two.remote.select("data") == [[2]]
        faults.skew_clock(-3600)
        assert faults.state().clock_skew == -3600.0
        with pytest.raises(IllegalParams, match="nothing was changed"):
            faults.skew_clock(2e9)
        with pytest.raises(IllegalParams, match="nothing was changed"):
            faults.skew_clock(float("nan"))
        faults.heal()
        cluster.wait_equal("data")
