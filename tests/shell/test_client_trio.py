"""The client in trio programs: no thread, no task that is left, no scope of others that it lives by."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import synchro
import synchro.aio
from synchro.client import ClientClosed
from synchro.client.trio_runner import TrioRunner
from synchro.wire.streams import Http2Stream
from tests.shell.fake_server import FakeServer
from tests.shell.wire_server import WireConnection, wire_server


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    made = [FakeServer(1), FakeServer(2)]  # type: ignore[abstract]
    made[0].lead(*made)
    yield made
    for server in made:
        server.silent.clear()
        server.stop()


@pytest.fixture
def server(servers: list[FakeServer]) -> FakeServer:
    return servers[0]


def tasks() -> set[str]:
    """Names of all tasks of the run, but those of trio itself."""
    found: set[str] = set()
    todo = [trio.lowlevel.current_root_task()]
    while todo:
        task = todo.pop()
        assert task is not None
        if not task.name.startswith("trio."):
            found.add(task.name)
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def ours() -> set[str]:
    return {name for name in tasks() if "synchro" in name}


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_everything_goes_on_in_the_thread_of_trio(server: FakeServer) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    said: set[int] = set()
    async with synchro.aio.connect(server.address) as db:
        stop = db.on_change(lambda state: said.add(threading.get_ident()))
        await db.space("s").insert([1])
        assert (await db.get_info()).name == "instance001"
        await until(lambda: said)
        stop()
        servers_own = {t.ident for t in threading.enumerate() if "ThreadPool" in t.name or "Dummy" in t.name}
        assert {t.ident for t in threading.enumerate()} - before <= servers_own
    assert said == {threading.get_ident()}


async def test_nothing_is_left_of_a_closed_client(server: FakeServer) -> None:
    for _ in range(3):
        async with synchro.aio.connect(server.address) as db:
            await db.space("s").insert([1])
            db.on_change(lambda state: None)
            assert ours()
        assert not ours()


async def test_tasks_of_several_nurseries_share_frames(server: FakeServer) -> None:
    async with synchro.aio.connect(server.address) as db:
        space = db.space("s")
        await space.insert([0])
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            for number in range(1, 101):
                (outer if number % 2 else inner).start_soon(space.insert, [number])
    assert len(server.rows) == 101 and len(server.frames) < 50


async def test_clients_may_be_left_in_any_order_and_task(servers: list[FakeServer]) -> None:
    """No nursery of a client lies in the stack of who entered it."""
    first = await synchro.aio.connect(servers[0].address).__aenter__()
    second = await synchro.aio.connect(servers[1].address).__aenter__()
    await first.space("s").insert([1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.close)
    await second.space("s").insert([2])
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(second.close)
    assert not ours()


async def test_a_cancelled_scope_around_a_client_loses_only_its_calls(server: FakeServer) -> None:
    server.answer = lambda call: None
    with trio.move_on_after(0.2) as scope:
        async with synchro.aio.connect(server.address, timeout=20) as db:
            await db.space("s").insert([1])
    assert scope.cancelled_caught and not ours()
    with pytest.raises(ClientClosed):
        await db.space("s").insert([1])


async def test_who_enters_in_a_cancelled_scope_leaves_nothing(server: FakeServer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with synchro.aio.connect(server.address) as db:
            await db.leader()
    assert scope.cancelled_caught and not ours()


async def test_what_the_body_raises_comes_out_as_it_is(server: FakeServer) -> None:
    async def body() -> None:
        async with synchro.aio.connect(server.address) as db:
            await db.space("s").insert([1])
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await body()


async def test_a_client_that_was_not_entered_says_so(server: FakeServer) -> None:
    db = synchro.aio.connect(server.address)
    calls: list[Callable[[], Any]] = [lambda: db.space("s").insert([1]), db.leader, db.get_info]
    for call in calls:
        with pytest.raises(ClientClosed, match="async with"):
            await call()
    with pytest.raises(ClientClosed, match="async with"):
        db.on_change(lambda state: None)
    await db.close()
    async with db:
        with pytest.raises(ClientClosed, match="closed"):
            await db.leader()


def test_a_run_that_ends_without_closing_ends_the_client(server: FakeServer) -> None:
    async def main() -> None:
        db = await synchro.aio.connect(server.address).__aenter__()
        await db.space("s").insert([1])

    trio.run(main)


async def test_a_cancelled_call_that_was_not_sent_is_not_sent(server: FakeServer) -> None:
    async with synchro.aio.connect(server.address) as db:
        await db.space("s").insert([0])
        with trio.CancelScope() as scope:
            scope.cancel()
            await db.space("s").insert([1])
        await db.space("s").insert([2])
    assert scope.cancelled_caught
    assert [row[0] for row in server.rows] == [0, 2]


async def test_who_asks_the_same_shares_the_answer_and_may_go_away(server: FakeServer) -> None:
    server.silent.set()
    led: list[str] = []

    async def ask(db: Any, scope: trio.CancelScope) -> None:
        with scope:
            led.append(await db.leader())

    async with synchro.aio.connect(server.address, timeout=10) as db, trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(3)]
        for scope in scopes:
            nursery.start_soon(ask, db, scope)
        await trio.sleep(0.05)
        scopes[0].cancel()
        server.silent.clear()
    assert led == [server.address] * 2


async def test_a_callback_that_fails_ends_its_watch_and_is_heard_of(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[Any] = []

    def callback(state: Any) -> None:
        called.append(state)
        raise ValueError("mine")

    with caplog.at_level(logging.ERROR):
        async with synchro.aio.connect(server.address) as db:
            db.on_change(callback)
            await until(lambda: called)
            await trio.sleep(0.3)
            await db.space("s").insert([1])
    assert len(called) == 1
    assert "mine" in caplog.text


async def test_an_error_of_ours_closes_the_client_and_not_the_program(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ValueError("ours")

    server.answer = lambda call: None
    ends: list[BaseException] = []

    async def write(db: Any) -> None:
        try:
            await db.space("s").insert([1])
        except synchro.SynchroError as error:
            ends.append(error)

    async with synchro.aio.connect(server.address, timeout=10) as db, trio.open_nursery() as nursery:
        nursery.start_soon(write, db)
        await until(lambda: server.calls)
        runner = db._runner
        assert isinstance(runner, TrioRunner) and runner._nursery is not None
        runner._nursery.start_soon(fail)
        await until(lambda: ends)
        with pytest.raises(ClientClosed, match="the client failed"):
            await db.leader()
    assert isinstance(ends[0], synchro.OutcomeUnknown)
    assert "ours" in caplog.text and not ours()


async def test_a_watch_that_is_left_ends_its_call(server: FakeServer) -> None:
    async with synchro.aio.connect(server.address) as db:
        for _ in range(40):  # the server has threads for 32
            async with contextlib.aclosing(db.watch_info(server.address)) as states:  # type: ignore[type-var]
                async for state in states:
                    assert state.leader == "instance001"
                    break


async def test_callers_wait_for_room(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synchro.client.data_stream.IN_FLIGHT_MAX", 10)
    async with synchro.aio.connect(server.address, timeout=5) as db:
        await db.space("s").insert([0])
        async with trio.open_nursery() as nursery:
            for number in range(1, 201):
                nursery.start_soon(db.space("s").insert, [number])
    assert max(server.frames) <= 10


async def test_two_clients_of_one_run_and_one_thread_each(servers: list[FakeServer]) -> None:
    """And clients of runs in other threads know nothing of each other."""
    ended: list[int] = []

    def other(number: int) -> None:
        async def main() -> None:
            async with synchro.aio.connect(servers[0].address) as db:
                ended.append((await db.space("s").insert([number]))[0])

        trio.run(main)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(trio.to_thread.run_sync, other, number)
    assert sorted(ended) == [0, 1, 2, 3]


async def test_a_peer_that_does_not_read_is_sent_no_more_than_it_lets() -> None:
    """TrioStream.B5: what waits for it stays with the client, and did nothing."""
    reads = threading.Event()
    count = 200

    def stop_reading(connection: WireConnection, stream: Http2Stream) -> None:
        connection.flush()
        reads.wait(10)

    ends: list[BaseException] = []

    async def write(db: Any, number: int) -> None:
        try:
            await db.space("s").insert([number, "x" * 50_000])
        except synchro.SynchroError as error:
            ends.append(error)

    with wire_server(stop_reading) as server:
        options: dict[str, Any] = {"timeout": 20, "follow_leader": False, "wait_for_connection": False}
        async with trio.open_nursery() as nursery:
            async with synchro.aio.connect(server.address, **options) as db:
                db._api.plans.session.good_endpoint = server.address
                for number in range(count):
                    nursery.start_soon(write, db, number)
                await until(lambda: server.calls)
                stream = db._runner.links[server.address].stream
                assert stream is not None
                # A window of 1 MiB, and a frame.
                await until(lambda: count - 30 < len(stream._pending) < count)
                await trio.sleep(0.2)
                waiting = len(stream._pending)
                assert count - 30 < waiting < count
            reads.set()
    unknown = [end for end in ends if isinstance(end, synchro.OutcomeUnknown)]
    assert len(ends) == count
    assert 1 <= len(unknown) <= count - waiting
