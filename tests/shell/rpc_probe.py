"""A service that shows what happens to its calls, on one node over a real socket."""

# ruff: noqa: ASYNC110 - what we wait for sets no event

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from synchro.rpc.channel import RpcChannel
from synchro.rpc.duplex import Duplex
from synchro.rpc.host import RpcCall, RpcHost, RpcServer, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.rpc.rpc_error import RpcError
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode

CANCELLED = StatusCode.CANCELLED
DEADLINE_EXCEEDED = StatusCode.DEADLINE_EXCEEDED
UNAVAILABLE = StatusCode.UNAVAILABLE


class Probe:
    """A service that shows what happens to its calls."""

    def __init__(self, host: RpcHost) -> None:
        self.host = host
        self.started = trio.Event()
        self.cancelled = trio.Event()
        self.deadline = math.nan
        self.replies_made = 0

    def register(self, server: Registrar) -> None:
        host = self.host
        for name, method in {
            "Echo": host.unary(self.echo),
            "Info": host.unary_sync(lambda request, _: request),
            "Hang": host.unary(self.hang),
            "Bug": host.unary(self.bug),
            "BugSync": host.unary_sync(self.bug_sync),
            "Refuse": host.unary(self.refuse),
            "CancelItself": host.unary(self.cancel_itself),
            "Count": host.server_stream(self.count),
            "EchoStream": host.duplex(self.echo_stream),
            "HangStream": host.duplex(self.hang),
        }.items():
            server.add_method(f"/test.Test/{name}", method)

    async def echo(self, request: bytes, call: RpcCall) -> bytes:
        await trio.lowlevel.checkpoint()
        return request

    async def hang(self, _: object, call: RpcCall) -> Any:
        self.deadline = call.deadline
        self.started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def bug(self, request: bytes, call: RpcCall) -> bytes:
        async with trio.open_nursery():
            raise KeyError("a secret")

    def bug_sync(self, request: bytes, call: RpcCall) -> bytes:
        raise KeyError("a secret")

    async def refuse(self, request: bytes, call: RpcCall) -> bytes:
        detail = AnyMessage()
        detail.Pack(StringValue(value="row 7"))
        text = f"no such row, says {dict(call.metadata)['name']!r}"
        status = Status(code=StatusCode.NOT_FOUND, message=text, details=[detail])
        call.set_trailing_metadata([("set", "before")])
        async with trio.open_nursery():  # the usual group around it does not hide the error
            raise RpcError(StatusCode.NOT_FOUND, text, trailing_metadata=[("with", "error")], status=status)

    async def cancel_itself(self, request: bytes, call: RpcCall) -> bytes:
        call.scope.cancel()
        await trio.lowlevel.checkpoint()
        return b"never"

    async def count(self, request: bytes, call: RpcCall) -> AsyncIterator[bytes]:
        limit = int(request)
        try:
            while self.replies_made < limit:
                self.replies_made += 1
                yield b"%d" % self.replies_made + bytes(64 * 1024)
        finally:
            self.cancelled.set()

    async def echo_stream(self, stream: Duplex[bytes, bytes], call: RpcCall) -> None:
        async for item in stream:
            await stream.send(item)


@asynccontextmanager
async def one_node() -> AsyncIterator[tuple[RpcHost, Probe, RpcServer, RpcChannel]]:
    with trio.fail_after(30):
        async with open_rpc_host() as host:
            probe = Probe(host)
            server = await host.serve("127.0.0.1:0", probe.register)
            async with host.channel(server.address) as channel:
                yield host, probe, server, channel
                channel.check()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.005)


def code_of(caught: pytest.ExceptionInfo[CallFailed]) -> StatusCode:
    return caught.value.code
