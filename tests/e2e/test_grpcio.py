"""A server process without grpcio, and a set of which one instance runs on grpcio's own server: what nodes
say to each other is gRPC, proved by grpcio itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

import synchro
import synchro.aio
from synchro import ops
from tests.e2e.cluster import Cluster, eventually

pytestmark = pytest.mark.e2e

RW = {"database": {"mode": "rw"}}
FACES = ("blocking", "asyncio", "trio")
NAMES = ("instance001", "instance002", "instance003")


def mapped_files(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.rpartition("/")[2] for line in lines if "/" in line}


def wait_rows(cluster: Cluster, count: int) -> None:
    def all_have_them() -> bool:
        return all(instance.remote.checksum("bands")[0] == count for instance in cluster.running)

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


def write_as(face: str, cluster: Cluster, first: int) -> int:
    """By a client of this kind: single writes side by side, and a transaction of 2 MB; how many rows."""
    endpoints = [instance.address for instance in cluster]
    large = [ops.replace("bands", [first + number, "x" * 700_000]) for number in range(3)]
    single = range(first + 3, first + 33)

    async def on_asyncio() -> None:
        async with synchro.aio.connect(endpoints, timeout=20) as db:
            writes = (db.execute([ops.replace("bands", [number, face])]) for number in single)
            await asyncio.gather(db.execute(large), *writes)

    async def on_trio() -> None:
        async with synchro.aio.connect(endpoints, timeout=20) as db, trio.open_nursery() as nursery:
            nursery.start_soon(db.execute, large)
            for number in single:
                nursery.start_soon(db.execute, [ops.replace("bands", [number, face])])

    match face:
        case "asyncio":
            asyncio.run(on_asyncio())
        case "trio":
            trio.run(on_trio)
        case _:
            with synchro.connect(endpoints, timeout=20) as db, ThreadPoolExecutor(8) as pool:
                futures = [pool.submit(db.execute, large)]
                for number in single:
                    futures.append(pool.submit(db.execute, [ops.replace("bands", [number, face])]))
                for future in futures:
                    future.result()
    return 33


@pytest.mark.parametrize("leads", ["grpcio", "ours"])
def test_one_instance_on_grpcio_and_two_of_ours(make_cluster: Callable[..., Cluster], leads: str) -> None:
    """Ours and grpcio call each other: joins, votes, rows, acks, clients. Each kind follows the other, is
    stopped and killed, and comes back."""
    cluster = make_cluster(NAMES, failover="election")
    cluster["instance003"].module = "tests.grpcio_host"
    cluster.start()
    assert [name for name in mapped_files(cluster["instance003"].pid) if "cygrpc" in name]
    first, second = ("instance003", "instance001") if leads == "grpcio" else ("instance001", "instance003")
    leader, follower = cluster[first], cluster[second]
    leader.remote.promote()
    leader.remote.create("bands", is_sync=True)
    rows = 0
    for face in FACES:
        rows += write_as(face, cluster, 1000 * rows)
    wait_rows(cluster, rows)

    assert follower.stop() == 0
    rows += write_as("asyncio", cluster, 1000 * rows)
    follower.start()
    wait_rows(cluster, rows)

    leader.kill()
    rows += write_as("blocking", cluster, 1000 * rows)
    leader.start()
    cluster.wait_following()
    follower.remote.promote()
    assert cluster.wait_leader() is follower
    rows += write_as("trio", cluster, 1000 * rows)
    cluster.wait_equal("bands")
    wait_rows(cluster, rows)
