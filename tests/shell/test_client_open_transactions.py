"""Open transactions of the three clients, against servers whose answers a test chooses. [D-43]"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc
import pytest
import trio

import synchro
import synchro.aio
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from tests.shell.fake_server import FakeServer

faces = pytest.mark.parametrize("face", ["blocking", "asyncio", "trio"])
Work = Callable[[Any], Coroutine[Any, Any, Any]]


class Server(FakeServer):
    """on_step: what comes of a request; None: it says nothing more."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.on_step: Callable[[Any], Any] = self.well
        self.is_old = False
        self.over = threading.Semaphore(0)
        """Released when a call has ended."""

    def well(self, request: Any) -> Any:
        match request.WhichOneof("step"):
            case "begin":
                return data_pb2.TransactResponse(begun=data_pb2.TransactBegun(term=2))
            case "op":
                row = common_pb2.Tuple(msgpack=request.op.insert.tuple)
                return data_pb2.TransactResponse(tuple=row)
            case _:
                return data_pb2.TransactResponse(committed=data_pb2.ExecuteReply(txn_origin=1, txn_lsn=7))

    def Transact(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        if self.is_old:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        try:
            for request in requests:
                answer = self.on_step(request)
                while answer is None and context.is_active():
                    time.sleep(0.005)
                if answer is None:
                    return
                answer.header.CopyFrom(self.header())
                yield answer
                if answer.WhichOneof("outcome") == "committed":
                    return
        finally:
            self.over.release()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(1)  # type: ignore[abstract]
    made.lead(made)
    yield made
    made.stop()


def tell(face: str, server: Server, work: Work, **options: Any) -> Any:
    """`run_transaction` of a client of this kind; work: awaits what it calls, whatever the face."""
    is_trio = face == "trio"

    async def on_loop() -> Any:
        async with synchro.aio.connect(server.address) as db:
            return await db.run_transaction(work, **options)

    if face != "blocking":
        return trio.run(on_loop) if is_trio else asyncio.run(on_loop())
    with synchro.connect(server.address) as db:
        return db.run_transaction(lambda t: asyncio.run(work(Awaited(t))), **options)


class Awaited:
    """A blocking transaction, to be used like the others."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "space":
            return lambda space: Awaited(found(space))

        async def call(*arguments: Any, **options: Any) -> Any:
            return found(*arguments, **options)

        return call if callable(found) else found


async def insert(t: Any) -> Any:
    return await t.space("bands").insert([1, "Roxette"])


def on(server: Server, step: str, answer: Any) -> None:
    server.on_step = lambda request: answer if request.WhichOneof("step") == step else server.well(request)


@faces
def test_a_transaction_is_begun_used_and_committed(face: str, server: Server) -> None:
    assert tell(face, server, insert) == (1, "Roxette")
    assert server.over.acquire(timeout=10)


@faces
def test_an_older_server_is_named(face: str, server: Server) -> None:
    server.is_old = True
    with pytest.raises(synchro.Unimplemented, match="does not have this call"):
        tell(face, server, insert)


@faces
def test_a_server_that_says_nothing_keeps_nobody(face: str, server: Server) -> None:
    """Before the commit nothing was done; without an answer to the commit the outcome is unknown."""
    on(server, "op", None)
    begun = time.monotonic()
    with pytest.raises(synchro.TransactionAborted, match="nothing was done"):
        tell(face, server, insert, within=2.0, timeout=0.7)
    on(server, "commit", None)
    with pytest.raises(synchro.OutcomeUnknown) as caught:
        tell(face, server, insert, within=2.0, timeout=0.7)
    assert len(caught.value.request_id) == 16
    assert time.monotonic() - begun < 30
    assert server.over.acquire(timeout=10)


@faces
def test_an_exception_ends_the_call_without_a_commit(face: str, server: Server) -> None:
    steps: list[str] = []

    def noted(request: Any) -> Any:
        steps.append(request.WhichOneof("step"))
        return server.well(request)

    server.on_step = noted

    async def fail(t: Any) -> None:
        await insert(t)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tell(face, server, fail)
    assert server.over.acquire(timeout=10) and steps == ["begin", "op"]


@pytest.mark.parametrize("face", ["asyncio", "trio"])
def test_the_answer_to_a_statement_that_was_cancelled_is_not_taken_for_another_one(
    face: str, server: Server
) -> None:
    """A program gives a statement less time than the client does, and goes on without its answer."""
    asked, goes_on = threading.Event(), threading.Event()

    def late(request: Any) -> Any:
        if request.WhichOneof("step") == "op" and not asked.is_set():
            asked.set()
            goes_on.wait(10)
        return server.well(request)

    server.on_step = late

    async def give_up(t: Any) -> Any:
        if face == "trio":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(t.space("bands").insert, [1, "Roxette"])
                await trio.to_thread.run_sync(asked.wait, 10)
                nursery.cancel_scope.cancel()
        else:
            statement = asyncio.ensure_future(t.space("bands").insert([1, "Roxette"]))
            await asyncio.to_thread(asked.wait, 10)
            statement.cancel()
            await asyncio.wait([statement])
        goes_on.set()
        return await t.space("bands").insert([2, "ABBA"])

    with pytest.raises(synchro.IllegalParams, match="nothing was sent"):
        tell(face, server, give_up, within=0.0)
    assert server.over.acquire(timeout=10)


def test_a_client_that_is_closed_says_so(server: Server) -> None:
    with synchro.connect(server.address) as db:

        def go_on() -> None:
            with db.begin() as t:
                db.close()
                t.space("bands").insert([1])

        with pytest.raises(synchro.ClientClosed, match="nothing was sent"):
            go_on()
    assert server.over.acquire(timeout=10)
