"""Calls between nodes over real sockets: who may end a call, and what the other side sees then."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2

from synchro.rpc.duplex import Duplex
from synchro.rpc.host import RpcCall, RpcHost, RpcServer, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode
from tests.shell.rpc_probe import CANCELLED, DEADLINE_EXCEEDED, Probe, code_of, one_node, until

# --- calls go well --------------------------------------------------------------------------------------


async def test_three_nodes_of_one_process_talk_to_each_other() -> None:
    replies: list[bytes] = []
    with trio.fail_after(30):
        async with open_rpc_host() as host:
            servers = [await host.serve("127.0.0.1:0", Probe(host).register) for _ in range(3)]

            async def talk(server: RpcServer) -> None:
                async with host.channel(server.address) as channel:
                    for number in range(20):
                        replies.append(await channel.unary("/test.Test/Echo", b"%d" % number))
                    async with channel.duplex("/test.Test/EchoStream") as stream:
                        for number in range(50):
                            await stream.send(b"%d" % number)
                        stream.done_sending()
                        assert [item async for item in stream] == [b"%d" % number for number in range(50)]

            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    for server in servers:
                        nursery.start_soon(talk, server)
            assert len(replies) == 120
            assert host.calls_in_progress == 0


@pytest.mark.parametrize("_round", range(3))
async def test_hosts_follow_each_other_in_one_process(_round: int) -> None:
    async with one_node() as (_, _, _, channel):
        assert await channel.unary("/test.Test/Echo", b"x") == b"x"


async def test_a_service_is_registered_from_its_descriptor() -> None:
    class Health:
        def __init__(self, host: RpcHost) -> None:
            self.Check = host.unary(self._check)
            self.List = host.unary_sync(lambda _request, _call: health_pb2.HealthListResponse())
            self.Watch = host.server_stream(self._watch)

        def register(self, server: Registrar) -> None:
            server.add_service(health_pb2.DESCRIPTOR.services_by_name["Health"], self)

        async def _check(self, request: Any, call: RpcCall) -> Any:
            await trio.lowlevel.checkpoint()
            return health_pb2.HealthCheckResponse(status=len(request.service))

        async def _watch(self, request: Any, call: RpcCall) -> AsyncIterator[Any]:
            for status in (1, 2):
                yield health_pb2.HealthCheckResponse(status=status)

    codec = {
        "serializer": health_pb2.HealthCheckRequest.SerializeToString,
        "deserializer": health_pb2.HealthCheckResponse.FromString,
    }
    with trio.fail_after(30):
        async with open_rpc_host() as host:
            server = await host.serve("127.0.0.1:0", Health(host).register)
            request = health_pb2.HealthCheckRequest(service="ab")
            async with host.channel(server.address) as channel:
                reply = await channel.unary("/grpc.health.v1.Health/Check", request, **codec)
                assert reply.status == 2
                async with channel.server_stream("/grpc.health.v1.Health/Watch", request, **codec) as replies:
                    assert [reply.status async for reply in replies] == [1, 2]


async def test_a_server_stream_is_made_only_as_fast_as_it_is_read() -> None:
    async with one_node() as (_, probe, _, channel):
        async with channel.server_stream("/test.Test/Count", b"1000000") as replies:
            first = await anext(replies)
            assert first.startswith(b"1")
            before = -1
            while probe.replies_made > before:  # until the writer is stuck
                before = probe.replies_made
                await trio.sleep(0.3)
            assert probe.replies_made < 200  # of 64 KiB: HTTP/2's windows, nothing of ours
        await probe.cancelled.wait()


# --- one side ends a call -------------------------------------------------------------------------------


async def test_cancelling_a_trio_task_cancels_its_call_on_the_wire() -> None:
    async with one_node() as (host, probe, _, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.unary, "/test.Test/Hang", b"")
            await probe.started.wait()
            nursery.cancel_scope.cancel()
        await probe.cancelled.wait()
        await until(lambda: host.calls_in_progress == 0)


@pytest.mark.parametrize("method", ["/test.Test/Hang", "/test.Test/HangStream"])
async def test_a_client_that_dies_cancels_the_servers_scope(method: str) -> None:
    """Another process, killed in the middle of its call."""
    client = (
        "import grpc, sys\n"
        "channel = grpc.insecure_channel(sys.argv[1])\n"
        f"if 'Stream' in {method!r}: list(channel.stream_stream({method!r})(iter([b''])))\n"
        f"else: channel.unary_unary({method!r})(b'')\n"
    )
    async with one_node() as (_, probe, server, _), trio.open_nursery() as nursery:
        run = functools.partial(trio.run_process, check=False, capture_stderr=True)
        process: trio.Process = await nursery.start(run, [sys.executable, "-c", client, server.address])
        await probe.started.wait()
        assert not probe.cancelled.is_set()
        process.kill()
        await probe.cancelled.wait()


async def test_leaving_a_stream_early_cancels_the_server() -> None:
    async with one_node() as (host, probe, _, channel):
        async with channel.duplex("/test.Test/HangStream"):
            await probe.started.wait()
        await probe.cancelled.wait()
        await until(lambda: host.calls_in_progress == 0)


async def test_a_handler_may_cancel_its_own_call() -> None:
    async with one_node() as (_, _, _, channel):
        with pytest.raises(CallFailed) as caught:
            await channel.unary("/test.Test/CancelItself", b"")
        assert code_of(caught) is CANCELLED


# --- deadlines ------------------------------------------------------------------------------------------


async def test_a_timeout_is_the_servers_deadline_too() -> None:
    async with one_node() as (_, probe, _, channel):
        before = trio.current_time()
        with pytest.raises(CallFailed) as caught:
            await channel.unary("/test.Test/Hang", b"", timeout=0.3)
        assert code_of(caught) is DEADLINE_EXCEEDED
        await probe.cancelled.wait()
        assert before < probe.deadline <= before + 5


async def test_a_trio_deadline_travels_with_the_call_and_ends_as_a_trio_deadline() -> None:
    async with one_node() as (_, probe, _, channel):
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.3):
                await channel.unary("/test.Test/Hang", b"")
        await probe.cancelled.wait()
        assert probe.deadline < trio.current_time() + 5


async def test_a_call_without_a_deadline_has_none_on_the_server() -> None:
    with trio.CancelScope() as scope:
        async with open_rpc_host() as host:
            probe = Probe(host)
            server = await host.serve("127.0.0.1:0", probe.register)
            async with host.channel(server.address) as channel, trio.open_nursery() as nursery:
                nursery.start_soon(channel.unary, "/test.Test/Hang", b"")
                await probe.started.wait()
                assert probe.deadline == math.inf
                scope.cancel()


async def test_a_stream_has_a_deadline_if_it_is_given_one() -> None:
    async with one_node() as (_, probe, _, channel):
        with pytest.raises(CallFailed) as caught:
            async with channel.duplex("/test.Test/HangStream", timeout=0.3) as stream:
                await stream.receive()
        assert code_of(caught) is DEADLINE_EXCEEDED
        await probe.cancelled.wait()


# --- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["/test.Test/Bug", "/test.Test/BugSync"])
async def test_a_bug_in_a_handler_fails_that_call_only(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns the kind of error, the log everything."""
    async with one_node() as (_, _, _, channel):
        with caplog.at_level(logging.ERROR, "synchro"), pytest.raises(CallFailed) as caught:
            await channel.unary(method, b"")
        assert code_of(caught) is StatusCode.INTERNAL
        assert "KeyError" in (caught.value.message)
        assert "a secret" not in (caught.value.message)
        assert "a secret" in caplog.text
        assert await channel.unary("/test.Test/Echo", b"x") == b"x"


async def test_an_rpc_error_carries_code_text_trailers_and_details() -> None:
    async with one_node() as (_, _, _, channel):
        with pytest.raises(CallFailed) as caught:
            await channel.unary("/test.Test/Refuse", b"", metadata=[("name", "app")])
        error = caught.value
        assert error.code is StatusCode.NOT_FOUND
        assert error.message == "no such row, says 'app'"
        trailers = dict(error.trailing_metadata)
        assert trailers["set"] == "before" and trailers["with"] == "error"
        status = Status.FromString(trailers["grpc-status-details-bin"])
        value = StringValue()
        assert status.details[0].Unpack(value) and value.value == "row 7"


async def test_too_large_a_message_fails_its_call_only() -> None:
    async with one_node() as (_, _, _, channel):
        with pytest.raises(CallFailed) as caught:
            await channel.unary("/test.Test/Echo", bytes((16 << 20) + 1))
        assert code_of(caught) is StatusCode.RESOURCE_EXHAUSTED
        assert await channel.unary("/test.Test/Echo", b"x") == b"x"


async def test_protobuf_messages_are_counted_and_carried() -> None:
    with trio.fail_after(30):
        async with open_rpc_host() as host:

            async def double(stream: Duplex[Int32Value, Int32Value], call: RpcCall) -> None:
                async for number in stream:
                    await stream.send(Int32Value(value=2 * number.value))

            def register(server: Registrar) -> None:
                server.add_method(
                    "/test.Test/Double",
                    host.duplex(double),
                    decode=Int32Value.FromString,
                    encode=Int32Value.SerializeToString,
                )

            server = await host.serve("127.0.0.1:0", register)
            async with (
                host.channel(server.address) as channel,
                channel.duplex(
                    "/test.Test/Double",
                    serializer=Int32Value.SerializeToString,
                    deserializer=Int32Value.FromString,
                ) as stream,
            ):
                await stream.send(Int32Value(value=21))
                assert (await stream.receive()).value == 42
