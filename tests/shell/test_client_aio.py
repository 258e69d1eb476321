"""The asynchronous client, for asyncio and for trio, against servers whose answers a test chooses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio

import synchro
import synchro.aio
from synchro import errors
from synchro.client import Committed
from synchro.rpc.generated.v1 import data_pb2
from tests.shell.fake_server import FakeServer


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    made = [FakeServer(1), FakeServer(2)]  # type: ignore[abstract]
    made[0].lead(*made)
    yield made
    for server in made:
        server.stop()


def test_an_asyncio_program_imports_only_what_it_needs() -> None:
    """Neither trio, nor HTTP/2 before the first write."""
    program = "import sys, synchro.aio; print([m for m in sys.argv[1:] if m in sys.modules])"
    names = ["trio", "outcome", "synchro.wire.connection", "synchro.rpc.channel", "synchro.client.on_trio"]
    done = subprocess.run([sys.executable, "-c", program, *names], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done


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


def test_answers_for_many_calls_at_once_reach_each_of_them(servers: list[FakeServer]) -> None:
    """ADR 13: each hears of its own transaction; who is refused hears that."""
    accept, refuse = servers[0].accept, servers[0].refuse(errors.TupleFound)

    def answer(call: Any) -> Any:
        return refuse(call) if call.seq % 50 == 0 else accept(call)

    async def main() -> None:
        async with synchro.aio.connect(servers[0].address) as db:
            await db.space("bands").insert([0])
            servers[0].answer = answer

            async def write(number: int) -> int:
                async with db.transaction(omit_tuples=True) as transaction:
                    transaction.insert("bands", [number])
                result = transaction.result
                assert result is not None and result.tuples == () and result.is_sync and result.txn
                return result.txn[1]

            ended = await asyncio.gather(*(write(n) for n in range(200)), return_exceptions=True)
            lsns = [one for one in ended if isinstance(one, int)]
            assert lsns == sorted(set(lsns)) and len(lsns) == 196
            assert sum(isinstance(one, errors.TupleFound) for one in ended) == 4
            assert db._api.plans.session.vclock == {1: max(lsns)}

    asyncio.run(main())


def test_large_transactions_go_in_several_frames(servers: list[FakeServer]) -> None:
    """The server decodes one while the one before is on its way to disk."""

    async def main() -> None:
        async with synchro.aio.connect(servers[0].address) as db:
            await db.space("bands").insert([0])

            async def write() -> None:
                async with db.transaction(omit_tuples=True) as transaction:
                    for number in range(40):
                        transaction.insert("bands", [number, "x" * 1000])
                result = transaction.result
                assert result is not None and result.tuples == () and result.instance == "instance001"

            await asyncio.gather(*(write() for _ in range(16)))

    asyncio.run(main())
    assert len(servers[0].rows) == 1 + 16 * 40
    assert sum(servers[0].frames) == 17
    assert max(servers[0].frames) == 3


def test_a_repeated_call_is_the_same_but_for_its_timeout(servers: list[FakeServer]) -> None:
    """A later position could lie above the transaction of the lost try, which then would not be found."""
    servers[0].position = (2, 10)

    async def main() -> None:
        async with synchro.aio.connect(servers[0].address) as db:
            await db.space("bands").insert([1])
            answers = iter(["break"])

            def first_break(call: object) -> object:
                servers[0].position = (2, 50)
                return next(answers, None) or servers[0].accept(call)

            servers[0].answer = first_break
            await db.space("bands").insert([2], timeout=4, wait="submit")
            await db.space("bands").insert([3])

    asyncio.run(main())
    lost, again, later = servers[0].calls[1:]
    assert (lost.known_position.lsn, again.known_position.lsn, later.known_position.lsn) == (10, 10, 50)
    assert lost.request_id == again.request_id != later.request_id
    assert lost.wait == again.wait == data_pb2.WAIT_MODE_SUBMIT
    assert lost.ops == again.ops
    assert lost.timeout.seconds == 4 > again.timeout.seconds
    assert not later.HasField("timeout")


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
            result = await db.execute([synchro.ops.insert("bands", [2])])
            assert result.duplicate
            assert result.instance == "instance002"

    asyncio.run(main())


def test_an_unknown_outcome_is_awaited(servers: list[FakeServer]) -> None:
    async def main() -> None:
        async with synchro.aio.connect(servers[0].address, timeout=1.0) as db:
            servers[0].answer = servers[0].refuse(errors.SyncTimeout, txn="1:15")
            with pytest.raises(synchro.OutcomeUnknown) as caught:
                await db.space("bands").insert([1])
            assert await db.wait_outcome(caught.value, 5) == Committed((1, 15))
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
