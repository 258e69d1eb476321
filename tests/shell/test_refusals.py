"""Calls that are no calls of the port: each gets the status that gRPC has for it, and nothing is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from google.protobuf.wrappers_pb2 import StringValue

from synchro.errors import WrongFormat
from synchro.rpc.duplex import Duplex
from synchro.rpc.host import RpcCall, UnaryCall, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.rpc.status import from_rpc_error
from synchro.wire import grpc_call
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode
from tests.shell.raw_client import RawClient, Seen, raw_client

KINDS = ("Unary", "Sync", "Together", "Streamed", "Duplex")


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Any, str, list[str]]]:
    """All kinds of methods; what was done."""
    done: list[str] = []
    async with open_rpc_host() as host:

        async def unary(request: StringValue, call: RpcCall) -> StringValue:
            done.append("Unary")
            return request

        def sync(request: StringValue, call: RpcCall) -> StringValue:
            done.append("Sync")
            return request

        def together(calls: Sequence[tuple[UnaryCall[StringValue], StringValue]]) -> None:
            for call, request in calls:
                done.append("Together")
                call.reply(request)

        async def streamed(request: StringValue, call: RpcCall) -> AsyncIterator[StringValue]:
            done.append("Streamed")
            yield request

        async def duplex(stream: Duplex[StringValue, StringValue], call: RpcCall) -> None:
            async for request in stream:
                done.append("Duplex")
                await stream.send(request)

        def register(server: Registrar) -> None:
            for name, method in (
                ("Unary", host.unary(unary)),
                ("Sync", host.unary_sync(sync)),
                ("Together", host.unary_together(together)),
                ("Streamed", host.server_stream(streamed)),
                ("Duplex", host.duplex(duplex)),
            ):
                server.add_method(
                    f"/test.Test/{name}",
                    method,
                    decode=StringValue.FromString,
                    encode=StringValue.SerializeToString,
                )

        server = await host.serve("127.0.0.1:0", register)
        with trio.fail_after(10):
            yield host, server.address, done


async def status_of(client: RawClient, seen: Seen) -> grpc_call.Status:
    await client.until(lambda: seen.is_over)
    assert seen.status is not None
    return seen.status


@pytest.mark.parametrize("kind", KINDS)
async def test_a_good_call_of_each_kind(kind: str) -> None:
    async with served() as (_, address, done), raw_client(address) as client:
        seen = client.call(f"/test.Test/{kind}", StringValue(value="x").SerializeToString())
        assert (await status_of(client, seen)).is_ok
        assert [StringValue.FromString(each).value for each in seen.messages] == ["x"]
        assert done == [kind]


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_message(kind: str) -> None:
    async with served() as (_, address, done), raw_client(address) as client:
        status = await status_of(client, client.call(f"/test.Test/{kind}", b"\xff\xff"))
        assert status.code is StatusCode.INVALID_ARGUMENT
        assert "nothing was done" in status.message
        assert isinstance(from_rpc_error(CallFailed.of(status)), WrongFormat)
        assert done == []


@pytest.mark.parametrize("kind", ["Unary", "Sync", "Together", "Streamed"])
@pytest.mark.parametrize("messages", [0, 2])
async def test_a_call_of_one_request_has_one(kind: str, messages: int) -> None:
    async with served() as (_, address, done), raw_client(address) as client:
        seen = Seen()
        stream = client.h2.open(grpc_call.request_block(f"/test.Test/{kind}", "test"), seen)
        for _ in range(messages):
            stream.send_message(b"")
        stream.end()
        status = await status_of(client, seen)
        assert status.code is StatusCode.INTERNAL
        assert "nothing was done" in status.message
        assert done == []


async def test_an_unknown_method() -> None:
    async with served() as (host, address, done):
        async with host.channel(address) as channel:
            for path in ("/test.Test/Nothing", "/nobody/Unary", "/" + "x" * 5000):
                with pytest.raises(CallFailed, match="there is no method") as caught:
                    await channel.unary(path, b"")
                assert caught.value.code is StatusCode.UNIMPLEMENTED
                assert len(caught.value.message) < 400
        assert done == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_above_the_limit(kind: str) -> None:
    """It is not read: the head of it is enough."""
    async with served() as (_, address, done), raw_client(address) as client:
        seen = client.call(f"/test.Test/{kind}", bytes((16 << 20) + 1))
        status = await status_of(client, seen)
        assert status.code is StatusCode.RESOURCE_EXHAUSTED
        assert done == []


async def test_an_answer_that_cannot_be_encoded_or_sent_fails_its_call_only() -> None:
    async with open_rpc_host() as host:

        def register(server: Registrar) -> None:
            server.add_method("/t/Large", host.unary_sync(lambda request, call: bytes((16 << 20) + 1)))
            server.add_method("/t/Wrong", host.unary_sync(lambda request, call: 7), encode=_broken)
            server.add_method("/t/Header", host.unary_sync(_bad_trailer))
            server.add_method("/t/Good", host.unary_sync(lambda request, call: request))

        host.on_handler_error = lambda name, error: None
        server = await host.serve("127.0.0.1:0", register)
        async with host.channel(server.address) as channel:
            for path, code in (
                ("/t/Large", StatusCode.RESOURCE_EXHAUSTED),
                ("/t/Wrong", StatusCode.INTERNAL),
                ("/t/Header", StatusCode.INTERNAL),
            ):
                with pytest.raises(CallFailed) as caught:
                    await channel.unary(path, b"")
                assert caught.value.code is code
            assert await channel.unary("/t/Good", b"x") == b"x"


def _broken(message: object) -> bytes:
    raise TypeError(f"{message!r} is no message")


def _bad_trailer(request: bytes, call: RpcCall) -> bytes:
    call.set_trailing_metadata([("Not A Key", "x")])
    return request
