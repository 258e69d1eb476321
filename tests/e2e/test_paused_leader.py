"""A leader that is stopped for longer than its death timeout, and goes on; and who writes meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import trio

import synchro
import synchro.aio
from tests.e2e.cluster import HEARTBEAT_S, Cluster, eventually, soon_s

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("size", [2, 3])
def test_with_quorum_one_there_is_one_leader_again(make_cluster: Callable[..., Cluster], size: int) -> None:
    """Nobody wrote, so nobody has to choose: one leader that all follow, and no stream is stopped."""
    cluster = make_cluster(size, failover="election", replication={"synchro_quorum": 1}).start()
    leader = cluster.wait_leader()
    leader.remote.create("pay", is_sync=True)
    leader.remote.insert("pay", 1, "before")
    cluster.wait_equal("pay")
    leader.pause()
    others = [instance for instance in cluster if instance is not leader]
    eventually("another leads", lambda: any(not other.remote.info("ro") for other in others))
    time.sleep(2 * HEARTBEAT_S)  # its links to the stopped one are dead by now
    leader.resume()

    heir = cluster.wait_leader()
    heir.remote.insert("pay", 2, "after")
    cluster.wait_equal("pay")
    terms = {instance.remote.info("election.term") for instance in cluster}
    assert len(terms) == 1
    assert not any(instance.records("upstream_stopped") for instance in cluster)


def in_thread(endpoints: list[str], pause: Callable[[], None]) -> None:
    with synchro.connect(endpoints, timeout=soon_s(60)) as db:
        db.space("pay").insert([1, "before"])
        pause()
        db.space("pay").insert([2, "meanwhile"])


async def as_task(endpoints: list[str], pause: Callable[[], None]) -> None:
    async with synchro.aio.connect(endpoints, timeout=soon_s(60)) as db:
        await db.space("pay").insert([1, "before"])
        pause()
        await db.space("pay").insert([2, "meanwhile"])


def in_asyncio(endpoints: list[str], pause: Callable[[], None]) -> None:
    asyncio.run(as_task(endpoints, pause))


def in_trio(endpoints: list[str], pause: Callable[[], None]) -> None:
    trio.run(as_task, endpoints, pause)


@pytest.mark.long
@pytest.mark.parametrize("write", [in_thread, in_asyncio, in_trio])
def test_who_writes_to_a_silent_leader_goes_on_where_the_next_one_is(
    make_cluster: Callable[..., Cluster], write: Callable[..., None]
) -> None:
    """It asks whether the leader is there, and does not wait for the end of its own time: a keepalive of 15 s
    would give it up long after the others have elected somebody. The row is there once (S12)."""
    cluster = make_cluster(3, failover="election").start()
    leader = cluster.wait_leader()
    leader.remote.create("pay", is_sync=True)
    cluster.wait_equal("pay")
    begun: list[float] = []

    def pause() -> None:
        leader.pause()
        begun.append(time.monotonic())

    write([instance.address for instance in cluster], pause)
    assert time.monotonic() - begun[0] < soon_s(14)
    leader.resume()
    cluster.wait_equal("pay")
    assert cluster.wait_leader().remote.select("pay") == [[1, "before"], [2, "meanwhile"]]
