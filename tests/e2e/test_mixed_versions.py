"""A set whose instances run different versions replicates; files of the older one are read by the newer one.

Each older one is the last commit before a change that it might not understand, with its own libraries.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synchro.storage.disk import RealDisk
from synchro.storage.recovery import open_xlog
from tests.e2e.cluster import Cluster
from tests.e2e.remote import replace

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]  # environments are made

ROOT = Path(__file__).resolve().parents[2]
OLDER = {
    "e1fe32e7a80b": "formats of files and messages between peers",
    "b883ae41f70a": "peers that speak by grpcio; shared transactions whose rows all have request ids",
    "139079c30734": "members without users, sequences, policies for conflicts, and anonymous followers",
}
"""Commit -> what it is the last of."""
WITH_IDS_ONLY = ("e1fe32e7a80b", "b883ae41f70a")
"""Those that take a shared transaction with a row without a request id for damage."""
CHECKED: dict[str, Any] = {"capture_output": True, "check": True}
NAMES = ("instance001", "instance002", "instance003")


@pytest.fixture(scope="module", params=list(OLDER))
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which the older version is installed."""
    directory = tmp_path_factory.mktemp("older")
    tree, environment = directory / "tree", directory / "environment"
    tree.mkdir()
    archive = subprocess.run(["git", "archive", "--format=tar", request.param], cwd=ROOT, **CHECKED)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, **CHECKED)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], **CHECKED)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", str(tree)], **CHECKED)
    ask = [str(python), "-P", "-c", "import synchro; print(synchro.__file__)"]
    found = subprocess.run(ask, **CHECKED).stdout.decode()
    assert found.startswith(str(environment)), "the older version must not be this one"
    return python


def fill(cluster: Cluster, first: int, count: int = 40) -> None:
    leader = cluster.wait_leader()
    for number in range(first, first + count):
        leader.remote.replace("sync", number, "s" * 100, timeout=10)
        leader.remote.replace("plain", number, "a" * 100, timeout=10)


def tuples(cluster: Cluster, space: str) -> list[int]:
    return [len(instance.remote.select(space)) for instance in cluster.running]


@pytest.mark.parametrize("old_names", [NAMES[:1], NAMES[1:]], ids=["one old", "two old"])
def test_mixed_versions_elect_replicate_and_are_upgraded(
    old_names: tuple[str, ...], older: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(NAMES, failover="election")
    for name in old_names:
        cluster[name].python = older
    cluster.start()
    leader = cluster.wait_leader()
    leader.remote.create("sync", is_sync=True)
    leader.remote.create("plain", is_sync=False)
    fill(cluster, 0)

    for round_ in range(1, 4):  # each version leads, and follows one of the other
        leader = cluster.wait_leader()
        leader.kill()
        fill(cluster, 1000 * round_)
        leader.start()
        cluster.wait_following()
        cluster.wait_equal("sync", "plain")

    for name in old_names:  # the same files, the newer version
        assert cluster[name].stop() == 0
        cluster[name].python = None
        cluster[name].start()
        cluster.wait_following()
        fill(cluster, 10_000 + 100 * old_names.index(name))
        cluster.wait_equal("sync", "plain")
    assert set(tuples(cluster, "sync")) == {40 * (4 + len(old_names))}


@pytest.mark.parametrize("is_old_joiner", [False, True])
def test_one_version_joins_the_other(
    is_old_joiner: bool, older: Path, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(NAMES[:2], failover="election")
    if not is_old_joiner:
        for instance in cluster:
            instance.python = older
    cluster.start()
    leader = cluster.wait_leader()
    leader.remote.create("sync", is_sync=True)
    leader.remote.create("plain", is_sync=False)
    fill(cluster, 0)
    leader.remote.snapshot()
    fill(cluster, 100)
    joiner = cluster.add(NAMES[2])
    joiner.python = older if is_old_joiner else None
    joiner.start()
    cluster.wait_equal("sync", "plain")
    assert set(tuples(cluster, "plain")) == {80}


def crowd(cluster: Cluster, first: int, count: int = 48) -> None:
    """Callers without request ids, all at once."""
    remote = cluster.wait_leader().remote
    keys = range(first, first + count)
    writes = [remote.begin(replace("sync", (key, "v")), timeout=10) for key in keys]
    for write in writes:
        write.result()


def shared_without_ids(cluster: Cluster, name: str) -> int:
    """Transactions in the log of an instance that calls without request ids share."""
    found = 0
    for path in sorted(cluster[name].dir.rglob("*.xlog")):
        with open_xlog(RealDisk(), str(path)) as reader:
            for block in reader.blocks():
                found += sum(txn.has_unnamed for txn in reader.txns(block))
    return found


@pytest.mark.parametrize("older", WITH_IDS_ONLY, indirect=True, scope="module")
@pytest.mark.parametrize("old_names", [NAMES[:1], NAMES[1:]], ids=["one old", "two old"])
def test_calls_without_ids_share_when_the_last_member_is_upgraded(
    old_names: tuple[str, ...], older: Path, make_cluster: Callable[..., Cluster]
) -> None:
    """ADR 13: a member of the version before gets nothing that it would take for damage, whoever leads."""
    cluster = make_cluster(NAMES, failover="election")
    for name in old_names:
        cluster[name].python = older
    cluster.start()
    cluster.wait_leader().remote.create("sync", is_sync=True)
    for round_ in range(3):  # each version leads
        crowd(cluster, 1000 * round_)
        cluster.wait_equal("sync")
        leader = cluster.wait_leader()
        leader.kill()
        crowd(cluster, 1000 * round_ + 500)
        leader.start()
        cluster.wait_following()
        cluster.wait_equal("sync")
    assert {shared_without_ids(cluster, name) for name in NAMES} == {0}
    for name in old_names:
        assert cluster[name].stop() == 0
        cluster[name].python = None
        cluster[name].start()
        cluster.wait_following()
    for round_ in range(5):
        crowd(cluster, 10_000 + 100 * round_)
    cluster.wait_equal("sync")
    assert all(shared_without_ids(cluster, name) > 0 for name in NAMES)
    assert set(tuples(cluster, "sync")) == {48 * 11}
