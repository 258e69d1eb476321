"""Options change on real processes without a restart. [C-30], [C-40], [I-17]."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from synchro.errors import SynchroError
from synchro.rpc.generated.v1 import control_pb2
from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.remote import replace

pytestmark = pytest.mark.e2e


def synchro(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "synchro", *words], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def edit(cluster: Cluster, **sections: Any) -> None:
    for name, options in sections.items():
        cluster.options[name] = {**cluster.options.get(name, {}), **options}
    cluster.write_config(cluster.config_path)


def pids(cluster: Cluster) -> list[int]:
    return [instance.pid for instance in cluster]


def set_option(instance: Instance, key: str, value: str, **how: Any) -> list[str]:
    remote = instance.remote
    request = control_pb2.SetConfigRequest(key=key, value=value, **how)
    return list(remote.call(remote.control.SetConfig, request).changes)


def test_controlled_failover_without_a_restart(make_cluster: Callable[..., Cluster]) -> None:
    """Master and replica swap roles by one command each; the signature says when the replica has all."""
    cluster = make_cluster(2, instances={"instance001": {"database": {"mode": "rw"}}}).start()
    one, two = cluster["instance001"], cluster["instance002"]
    before = pids(cluster)
    one.remote.create("bands", is_sync=False)
    one.remote.insert("bands", 1, "Roxette")
    done = synchro("-e", one.address, "config", "set", "database.mode", "ro", "-i", "instance001")
    assert "instance001: database.mode  rw -> ro" in done.stdout
    assert "a restart takes the former value" in done.stdout
    with pytest.raises(SynchroError) as caught:
        one.remote.insert("bands", 2, "Scorpions")
    assert caught.value.details["ro_reason"] == "config"
    signature = one.remote.info("signature")
    eventually("the replica has it all", lambda: two.remote.info("signature") == signature)
    synchro("-e", two.address, "config", "set", "database.mode", "rw")
    two.remote.insert("bands", 2, "Scorpions")
    eventually("the former master follows", lambda: len(one.remote.select("bands")) == 2)
    assert pids(cluster) == before
    config = one.remote.info("config")
    assert config["set"] == {"database.mode": "ro"}
    assert config["differs"] == {"database.mode": {"running": "ro", "file": "rw"}}
    # A reload takes the file's word again.
    done = synchro("config", "reload", f"{cluster.config_path}:instance001")
    assert done.stdout == "instance001: database.mode  ro -> rw\n"
    assert one.remote.info("config.differs") == {}


def test_a_file_is_compared_and_reloaded(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(3, failover="election").start()
    leader = cluster.wait_leader()
    leader.remote.create("pay", is_sync=True)
    path = str(cluster.config_path)
    assert synchro("config", "diff", path).stdout.count("runs as the file says") == 3
    edit(cluster, replication={"synchro_timeout": 1000, "election_timeout": 2}, wal={"mode": "write"})
    assert (
        "instance003: wal.mode  fsync -> write  (needs a restart)" in synchro("config", "diff", path).stdout
    )
    done = synchro("-o", "json", "config", "reload", path)
    for name, answer in json.loads(done.stdout).items():
        found = {change["key"]: change for change in answer["changes"]}
        assert found["replication.synchro_timeout"]["after"] == 1000.0
        assert (
            found["wal.mode"]["needs_restart"] and not found["replication.election_timeout"]["needs_restart"]
        )
        config = cluster[name].remote.info("config")
        assert config["status"] == "check_warnings"
        assert config["options"]["replication"]["synchro_timeout"] == 1000.0
        assert config["differs"] == {"wal.mode": {"running": "fsync", "file": "write"}}
        assert len(cluster[name].records("option_set")) == 2
    text = cluster.config_path.read_text().replace("synchro_timeout: 1000", "synchro_timeout: -1")
    cluster.config_path.write_text(text)
    line = 1 + text[: text.index("synchro_timeout: -1")].count("\n")
    done = synchro("config", "reload", path, code=2)
    assert (
        f"config.yaml:{line}: replication.synchro_timeout: the value must be greater than zero" in done.stderr
    )
    cluster.expect_log("config_refused")
    with pytest.raises(SynchroError) as caught:
        leader.remote.call(leader.remote.control.ReloadConfig, control_pb2.ReloadConfigRequest())
    assert caught.value.reason == "CONFIG" and f"config.yaml:{line}:" in caught.value.message
    assert leader.remote.info("config.status") == "check_errors"
    assert leader.remote.info("config.options.replication.synchro_timeout") == 1000.0
    leader.remote.insert("pay", 1, "after")


@pytest.mark.effect_of("database.txn_synchro_timeout")
def test_quorum_timeouts_and_limits_change_under_a_waiting_write(
    make_cluster: Callable[..., Cluster],
) -> None:
    """[Q-27], [Q-42]: a write waits for three of three with one away; then two are enough, and it is done."""
    cluster = make_cluster(3, instances={"instance001": {"database": {"mode": "rw"}}}).start()
    one, _, three = cluster
    one.remote.promote()
    one.remote.create("pay", is_sync=True)
    cluster.wait_equal("pay")
    for instance in cluster:
        set_option(instance, "replication.synchro_quorum", "3")
    three.pause()
    try:
        set_option(one, "database.txn_synchro_timeout", "200ms")
        began = time.monotonic()
        with pytest.raises(SynchroError) as caught:
            one.remote.insert("pay", 1, "waits", timeout=None)
        assert caught.value.reason == "SYNC_TIMEOUT" and time.monotonic() - began < soon_s(3)
        assert one.remote.queue()["len"] == 1
        set_option(one, "replication.synchro_quorum", "2")
        eventually("what waited is committed", lambda: one.remote.queue()["len"] == 0)
        assert len(one.remote.select("pay")) == 1
    finally:
        three.resume()
    five = [replace("pay", [key, "x"]) for key in range(5)]
    set_option(one, "limits.max_batch_ops", "4")
    with pytest.raises(SynchroError, match="limit"):
        one.remote.execute(*five)
    set_option(one, "limits.max_batch_ops", "1000")
    one.remote.execute(*five)
