"""A client is closed while other tasks wait for it: each of them hears that, and none waits for ever."""

from __future__ import annotations

import asyncio
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import trio

import synchro
import synchro.aio
from synchro.client.blocking import BlockingRunner
from synchro.client.plans import ClientOptions, Plans
from tests.shell.fake_server import FakeServer

Call = Callable[[Any], Coroutine[Any, Any, Any]]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer(1)  # type: ignore[abstract]
    made.lead(made)
    yield made
    made.silent.clear()
    made.stop()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses to be connected."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield f"127.0.0.1:{held.getsockname()[1]}"


def end_of(face: str, address: str, call: Call, prepare: Call | None = None) -> BaseException | None:
    """How a call ends whose client is closed while it waits. None: it does not end."""
    return (_end_in_asyncio if face == "asyncio" else _end_in_trio)(address, call, prepare)


def _end_in_asyncio(address: str, call: Call, prepare: Call | None) -> BaseException | None:
    async def main() -> BaseException | None:
        async with synchro.aio.connect(address, timeout=20) as db:
            if prepare is not None:
                await prepare(db)
            task = asyncio.ensure_future(call(db))
            await asyncio.sleep(0.3)
        done, _ = await asyncio.wait([task], timeout=15)
        if not done:
            return None
        return asyncio.CancelledError() if task.cancelled() else task.exception()

    return asyncio.run(main())


def _end_in_trio(address: str, call: Call, prepare: Call | None) -> BaseException | None:
    ended: list[BaseException] = []

    async def caught(db: Any) -> None:
        try:
            await call(db)
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - asyncio's cancellation must not come out
            ended.append(error)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            async with synchro.aio.connect(address, timeout=20) as db:
                if prepare is not None:
                    await prepare(db)
                nursery.start_soon(caught, db)
                await trio.sleep(0.3)
            with trio.move_on_after(15):
                while not ended:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return ended[0] if ended else None


faces = pytest.mark.parametrize("face", ["asyncio", "trio"])


@faces
def test_who_looks_for_the_leader_hears_that_nothing_was_sent(face: str, server: FakeServer) -> None:
    server.silent.set()
    ended = end_of(face, server.address, lambda db: db.space("bands").insert([1]))
    assert isinstance(ended, synchro.ClientClosed), ended


@faces
def test_who_waits_between_two_tries_hears_that_nothing_was_sent(face: str, nobody: str) -> None:
    ended = end_of(face, nobody, lambda db: db.space("bands").insert([1]))
    assert isinstance(ended, synchro.ClientClosed), ended


@faces
def test_who_reads_hears_that_the_client_is_closed(face: str, mute: str) -> None:
    ended = end_of(face, mute, lambda db: db.get_info(instance=mute))
    assert isinstance(ended, synchro.ClientClosed), ended


@faces
def test_a_change_that_may_have_arrived_is_an_unknown_outcome(face: str, server: FakeServer) -> None:
    async def prepare(db: Any) -> None:
        assert await db.leader() == server.address
        server.silent.set()

    ended = end_of(face, server.address, lambda db: db.create_space("bands"), prepare)
    assert isinstance(ended, synchro.OutcomeUnknown), ended
    assert len(server.calls) == 1


@faces
def test_a_change_for_who_has_never_spoken(face: str, mute: str) -> None:
    """grpcio does not say whether a call was begun; our own channel does."""

    async def prepare(db: Any) -> None:
        db._api.plans.routes.leader = mute

    ended = end_of(face, mute, lambda db: db.create_space("bands"), prepare)
    expected = synchro.OutcomeUnknown if face == "asyncio" else synchro.ClientClosed
    assert isinstance(ended, expected), ended


@faces
def test_a_cancelled_call_is_cancelled_all_the_same(face: str, server: FakeServer) -> None:
    server.silent.set()

    async def in_asyncio() -> None:
        async with synchro.aio.connect(server.address, timeout=20) as db:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(db.leader(), 0.3)

    async def in_trio() -> None:
        async with synchro.aio.connect(server.address, timeout=20) as db:
            with trio.move_on_after(0.3) as scope:
                await db.leader()
            assert scope.cancelled_caught

    began = time.monotonic()
    if face == "asyncio":
        asyncio.run(in_asyncio())
    else:
        trio.run(in_trio)
    assert time.monotonic() - began < 15


def test_a_watch_may_be_ended_when_its_client_is_closed(server: FakeServer) -> None:
    async def main() -> None:
        async with synchro.aio.connect(server.address) as db:
            stop = db.on_change(lambda state: None)
            await trio.sleep(0.1)
        stop()

    trio.run(main)


@faces
def test_a_closed_client_watches_nothing(face: str, server: FakeServer) -> None:
    async def main() -> None:
        async with synchro.aio.connect(server.address) as db:
            pass
        with pytest.raises(synchro.ClientClosed):
            db.on_change(lambda state: None)

    if face == "asyncio":
        asyncio.run(main())
    else:
        trio.run(main)


class ClosedChannel:
    """A call that was begun on a channel that is closed before its answer is taken."""

    def __iter__(self) -> ClosedChannel:
        return self

    def __next__(self) -> Any:
        raise ValueError("Cannot invoke RPC on closed channel!")


def test_a_probe_whose_channel_was_closed_is_told_to_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    runner = BlockingRunner(Plans(["127.0.0.1:1"], ClientOptions()))
    monkeypatch.setattr(runner, "watch_info", lambda *_: ClosedChannel())
    runner._tell_answer("127.0.0.1:1", 1.0, [], told)
    endpoint, answer = told.get_nowait()
    assert endpoint == "127.0.0.1:1"
    assert isinstance(answer, synchro.ClientClosed)


# --- who is called back ----------------------------------------------------------------------------------


def test_a_callback_that_fails_ends_its_watch_and_is_heard_of(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever kind its error is: it is not one of the connection."""
    heard: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append(args.exc_value))
    called: list[synchro.WatchState] = []

    def callback(state: synchro.WatchState) -> None:
        called.append(state)
        raise ValueError("mine")

    with synchro.connect(server.address) as db:
        db.on_change(callback)
        time.sleep(0.8)
    assert len(called) == 1
    assert [str(error) for error in heard] == ["mine"]


FAILING_CALLBACK = """
import asyncio, gc, sys
import synchro, synchro.aio

called, heard = [], []

def callback(state):
    called.append(state)
    raise synchro.ReadOnly("mine")

async def main():
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: heard.append(facts["exception"]))
    async with synchro.aio.connect(sys.argv[1]) as db:
        db.on_change(callback)
        await asyncio.sleep(0.8)
        gc.collect()

asyncio.run(main())
print(len(called), [str(error) for error in heard])
"""


def test_an_asynchronous_callback_that_fails_ends_its_watch(server: FakeServer) -> None:
    """In a process of its own: grpc.aio has one poller for all loops of a process, and tells this loop of
    those that other tests have closed."""
    command = [sys.executable, "-c", FAILING_CALLBACK, server.address]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=15)
    assert said.stdout == "1 ['mine']\n"


def test_a_command_ends_though_a_thread_does_not() -> None:
    """As one of gRPC or trio may: what was printed is whole, the exit code is that of the verb."""
    program = (
        "import sys, threading; from synchro.cli import app;"
        " threading.Thread(target=threading.Event().wait).start();"
        " sys.argv = ['synchro', '-e', '127.0.0.1:1', 'select', 'bands']; app.main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15)
    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.startswith("error: ")
