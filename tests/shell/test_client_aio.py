"""The asynchronous client, for asyncio and for trio, against servers whose answers a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import trio

import synchro
import synchro.aio
from synchro import errors
from synchro.client import Committed
from tests.shell.fake_server import FakeServer


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    made = [FakeServer(1), FakeServer(2)]
    made[0].lead(*made)
    yield made
    for server in made:
        server.stop()


def test_calls_of_tasks_share_frames(servers: list[FakeServer]) -> None:
    async def main() -> None:
        async with synchro.aio.connect(servers[1].address) as db:
            space = db.space("bands")
            await space.insert([0])
            rows = await asyncio.gather(*(space.insert([number]) for number in range(1, 513)))
            assert [row[0] for row in rows] == list(range(1, 513))

    asyncio.run(main())
    assert len(servers[0].rows) == 513
    assert len(servers[0].frames) < 256


def test_a_lost_connection_is_repeated_with_the_same_id(servers: list[FakeServer]) -> None:
    async def main() -> None:
        async with synchro.aio.connect([s.address for s in servers]) as db:
            await db.space("bands").insert([1])
            servers[1].done = servers[0].done

            def die(call: object) -> object:
                servers[0].accept(call)
                servers[1].lead(*servers)
                return "break"

            servers[0].answer = die
            result = await db.execute([synchro.client.requests.insert("bands", [2])])
            assert result.duplicate
            assert result.instance == "instance002"

    asyncio.run(main())


def test_an_unknown_outcome_is_awaited(servers: list[FakeServer]) -> None:
    async def main() -> None:
        async with synchro.aio.connect(servers[0].address, timeout=0.2) as db:
            servers[0].answer = servers[0].refuse(errors.SyncTimeout, txn="1:15")
            with pytest.raises(synchro.OutcomeUnknown) as caught:
                await db.space("bands").insert([1])
            assert await caught.value.wait(timeout=5) == Committed((1, 15))  # type: ignore[misc]
            servers[0].answer = lambda call: None
            with pytest.raises(synchro.OutcomeUnknown):
                await db.space("bands").insert([1])

    asyncio.run(main())


def test_a_cancelled_call_detaches(servers: list[FakeServer]) -> None:
    async def main() -> None:
        async with synchro.aio.connect(servers[0].address) as db:
            await db.space("bands").insert([0])
            servers[0].answer = lambda call: None if len(servers[0].calls) == 2 else servers[0].accept(call)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(db.space("bands").insert([1]), 0.2)
            assert await db.space("bands").insert([2]) == (2,)

    asyncio.run(main())


async def test_the_same_names_for_trio(servers: list[FakeServer]) -> None:
    async with synchro.aio.connect(servers[1].address) as db:
        space = db.space("bands")
        assert await space.insert([1, "a"]) == (1, "a")
        async with trio.open_nursery() as nursery:
            for number in range(2, 102):
                nursery.start_soon(space.insert, [number])
        assert len(await space.select()) == 101
        servers[0].answer = servers[0].refuse(errors.TupleFound)
        with pytest.raises(synchro.DuplicateKey):
            await space.insert([1])
        servers[0].answer = lambda call: None
        with trio.move_on_after(0.1) as scope:
            await space.insert([500])
        assert scope.cancelled_caught
        servers[0].answer = servers[0].refuse(errors.SyncTimeout, txn="1:9")
        with pytest.raises(synchro.OutcomeUnknown) as caught:
            await space.insert([1])
        assert await caught.value.wait(5) == Committed((1, 9))  # type: ignore[misc]
