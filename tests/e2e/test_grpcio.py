"""A server process without grpcio, and a set of which one instance runs on grpcio's own server: what nodes
say to each other is gRPC, proved by grpcio itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, eventually

pytestmark = pytest.mark.e2e

RW = {"database": {"mode": "rw"}}
NAMES = ("instance001", "instance002", "instance003")


def mapped_files(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.rpartition("/")[2] for line in lines if "/" in line}


def wait_rows(cluster: Cluster, count: int) -> None:
    def all_have_them() -> bool:
        return all(len(instance.remote.select("bands")) == count for instance in cluster)

    eventually(f"{count} rows are everywhere", all_have_them)


def test_a_server_process_has_no_grpcio(make_cluster: Callable[..., Cluster]) -> None:
    """After a join, as donor and as joiner, and an insert."""
    cluster = make_cluster(2, instances={"instance001": RW}).start()
    writer = cluster["instance001"]
    writer.remote.create("bands", is_sync=False)
    writer.remote.insert("bands", 1, "Roxette")
    wait_rows(cluster, 1)
    for instance in cluster:
        files = mapped_files(instance.pid)
        assert any(
            name.startswith("_message") for name in files
        )  # protobuf: the right process, and all of it
        assert not [name for name in files if "cygrpc" in name or "grpc" in name]


@pytest.mark.parametrize("leads", ["grpcio", "ours"])
def test_one_instance_on_grpcio_and_two_of_ours(make_cluster: Callable[..., Cluster], leads: str) -> None:
    """Ours and grpcio call each other: joins, votes, rows, acks, clients. Each kind is led by the other."""
    cluster = make_cluster(NAMES, failover="election")
    cluster["instance003"].module = "tests.grpcio_host"
    cluster.start()
    assert [name for name in mapped_files(cluster["instance003"].pid) if "cygrpc" in name]
    first, second = ("instance003", "instance001") if leads == "grpcio" else ("instance001", "instance003")
    leader = cluster[first]
    leader.remote.promote()
    leader.remote.create("bands", is_sync=True)
    for number in range(50):
        leader.remote.replace("bands", number, "x" * 1000)
    leader.remote.replace("bands", 50, "x" * 900_000)
    wait_rows(cluster, 51)
    cluster[second].remote.promote()
    cluster[second].remote.replace("bands", 51, "y")
    wait_rows(cluster, 52)
