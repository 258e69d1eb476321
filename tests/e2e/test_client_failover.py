"""The asynchronous clients go on through the end of a leader, clean or not: what they were told is true."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
import trio

import synchro
import synchro.aio
from tests.e2e.cluster import Cluster, Instance, soon_s

pytestmark = pytest.mark.e2e
ELECTION = {"election_timeout": 1}
CALLERS = 16
WRITES_S = 4.0


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    names = [f"instance{number:03}" for number in (1, 2, 3)]
    directory = tmp_path_factory.mktemp("three")
    with Cluster(directory, names, failover="election", replication=ELECTION) as cluster:
        yield cluster


class Story:
    """Rows that callers have written, by what they were told."""

    def __init__(self, space: str) -> None:
        self.space = space
        self.done: set[int] = set()
        self.unknown: set[int] = set()
        self.until = time.monotonic() + WRITES_S

    async def caller(self, db: Any, number: int) -> None:
        turn = 0
        while time.monotonic() < self.until:
            value = number * 1_000_000 + turn
            turn += 1
            try:
                await db.space(self.space).insert([value])
            except synchro.OutcomeUnknown:
                self.unknown.add(value)
            else:
                self.done.add(value)

    async def in_asyncio(self, endpoints: list[str]) -> None:
        async with synchro.aio.connect(endpoints, timeout=soon_s(15)) as db:
            await asyncio.gather(*(self.caller(db, number) for number in range(CALLERS)))

    async def in_trio(self, endpoints: list[str]) -> None:
        async with (
            synchro.aio.connect(endpoints, timeout=soon_s(15)) as db,
            trio.open_nursery() as nursery,
        ):
            for number in range(CALLERS):
                nursery.start_soon(self.caller, db, number)


@pytest.mark.parametrize(
    ("face", "end"),
    [
        pytest.param("asyncio", Instance.kill, id="asyncio-killed"),
        pytest.param("trio", Instance.stop, id="trio-stopped"),
        pytest.param("trio", Instance.kill, id="trio-killed", marks=pytest.mark.long),
        pytest.param("asyncio", Instance.stop, id="asyncio-stopped", marks=pytest.mark.long),
    ],
)
def test_writes_go_on_where_the_next_leader_is(
    face: str, end: Callable[[Instance], object], three: Cluster
) -> None:
    for instance in three:
        if not instance.is_running:
            instance.spawn()
    for instance in three:
        instance.wait_ready()
    three.wait_following()
    leader = three.wait_leader()
    space = f"{face}_{end.__name__}"
    leader.remote.create(space, is_sync=True)
    story = Story(space)
    ending = threading.Timer(WRITES_S / 3, end, [leader])
    ending.start()
    endpoints = [instance.address for instance in three]
    if face == "asyncio":
        asyncio.run(story.in_asyncio(endpoints))
    else:
        trio.run(story.in_trio, endpoints)
    ending.join()
    leader.start()
    three.wait_leader()
    three.wait_equal(space, timeout=soon_s(15))
    found = {row[0] for row in three.wait_leader().remote.select(space)}
    assert len(story.done) > CALLERS * 5
    assert story.done <= found, "acknowledged and lost"
    assert found <= story.done | story.unknown, "nobody wrote it"
    assert not story.unknown  # request ids make each of them known to the next leader
