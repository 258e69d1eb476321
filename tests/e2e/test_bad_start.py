"""Starts that must fail: exit code 1, a reason of their own, and not a byte changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Instance, contents, copy_directory, soon_s

pytestmark = pytest.mark.e2e
MakeCluster = Callable[..., Cluster]


def set_of_one(make_cluster: MakeCluster, name: str = "instance001") -> Cluster:
    cluster = make_cluster([name], instances={name: {"database": {"mode": "rw"}}}).start()
    remote = cluster[name].remote
    remote.create("plain", is_sync=False)
    remote.insert("plain", 1, "here")
    return cluster


def still_serves(instance: Instance) -> None:
    assert instance.is_running
    assert instance.remote.select("plain") == [[1, "here"]]


def reason_of_failure(instance: Instance) -> str:
    """Exit code 1 at once, with exactly one record that says why."""
    assert instance.wait_exit(soon_s(15)) == 1
    failures = instance.records("instance_failed")
    assert len(failures) == 1, instance.records()[-3:]
    assert not instance.records("instance_crashed")
    assert failures[0]["message"]
    return str(failures[0]["reason"])


def test_QS_4_a_directory_of_another_replica_set(make_cluster: MakeCluster) -> None:
    """QS-4: the same with a file: nothing is changed, in the directory and in the set."""
    ours = set_of_one(make_cluster)
    theirs = set_of_one(make_cluster, "instance002")
    foreign = theirs["instance002"]
    foreign.stop()
    uuids = {
        ours["instance001"].remote.info("replicaset.uuid"),
        foreign.records("replicaset_bootstrapped")[0]["replicaset_uuid"],
    }
    assert len(uuids) == 2

    joiner = ours.add("instance002", database={"mode": "ro"})
    copy_directory(foreign.dir, joiner.dir)
    before = contents(joiner.dir)
    members = ours["instance001"].remote.select("_cluster")
    vclock = ours["instance001"].remote.vclock()
    ours.expect_log("instance_failed")
    joiner.spawn()
    assert reason_of_failure(joiner) == "REPLICASET_UUID_MISMATCH"
    record = joiner.records("instance_failed")[0]
    assert all(uuid in str(record) for uuid in uuids), record
    assert contents(joiner.dir) == before
    assert ours["instance001"].remote.select("_cluster") == members
    assert ours["instance001"].remote.vclock() == vclock
    still_serves(ours["instance001"])


def test_a_second_process_on_the_same_directory(make_cluster: MakeCluster) -> None:
    cluster = set_of_one(make_cluster)
    one = cluster["instance001"]
    other = make_cluster(["instance001"])  # another port, but the directory of the first
    other.options["database"]["dir"] = str(one.dir)
    other.write_config(other.config_path)
    vclock = one.remote.vclock()
    one.pause()  # it may write a mark or a note by itself: a process that stands still writes nothing
    before = contents(one.dir)
    other.expect_log("instance_failed")
    assert reason_of_failure(other["instance001"].spawn()) == "ALREADY_RUNNING"
    assert contents(one.dir) == before
    one.resume()
    assert one.remote.vclock() == vclock
    still_serves(one)


def test_a_second_process_on_the_same_port(make_cluster: MakeCluster) -> None:
    cluster = set_of_one(make_cluster)
    one = cluster["instance001"]
    other = make_cluster(["instance001"])
    other["instance001"].address = one.address
    other.write_config(other.config_path)
    other.expect_log("instance_failed")
    assert reason_of_failure(other["instance001"].spawn()) == "ALREADY_RUNNING"
    assert one.address in str(other["instance001"].records("instance_failed"))
    assert not other["instance001"].files(".snap"), "it did not become a replica set"
    still_serves(one)


def test_a_directory_of_another_instance(make_cluster: MakeCluster) -> None:
    """[C-46]."""
    cluster = set_of_one(make_cluster)
    one = cluster["instance001"]
    one.stop()
    other = make_cluster(["instance009"])
    copy_directory(one.dir, other["instance009"].dir)
    before = contents(other["instance009"].dir)
    other.expect_log("instance_failed")
    assert reason_of_failure(other["instance009"].spawn()) == "CONFIG"
    assert contents(other["instance009"].dir) == before


@pytest.mark.parametrize("damage", ["flip", "snapshot-gone", "snapshots-flip"])
def test_WQ_9_damaged_files(make_cluster: MakeCluster, damage: str) -> None:
    """WQ-9: refused with file and offset; nothing is cut, nothing is guessed."""
    cluster = set_of_one(make_cluster)
    one = cluster["instance001"]
    for number in range(2, 50):
        one.remote.insert("plain", number, "x" * 200)
    if damage != "flip":
        one.remote.snapshot()
    one.stop()
    snapshots = [one.dir / name for name in one.files(".snap")]
    if damage == "flip":
        path = max((one.dir / name for name in one.files(".xlog")), key=lambda p: p.stat().st_size)
        flip(path, path.read_bytes().find(b"xxxx") + 50)  # not in what only fills up a block
    elif damage == "snapshots-flip":
        for path in snapshots:  # of one alone an older one takes the place
            flip(path, path.stat().st_size // 2)
    else:
        for path in snapshots:
            path.unlink()
    before = contents(one.dir)
    cluster.expect_log("instance_failed")
    one.spawn()
    assert reason_of_failure(one) == "CORRUPTION"
    record = one.records("instance_failed")[0]
    assert str(one.dir) in record["file"]
    assert record["offset"] is not None
    assert contents(one.dir) == before


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_a_wrong_configuration(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(["instance001"])
    text = cluster.config_path.read_text().replace("timeout:", "timeuot:")
    cluster.config_path.write_text(text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "synchro",
            "serve",
            "--config",
            str(cluster.config_path),
            "--name",
            "instance001",
        ],
        capture_output=True,
        text=True,
        timeout=soon_s(15),
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "timeuot" in done.stderr and "timeout" in done.stderr and "config.yaml" in done.stderr
    assert not cluster["instance001"].dir.exists()
