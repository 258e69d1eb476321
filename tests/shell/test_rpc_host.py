"""Calls between nodes over real sockets: who may end a call, and what the other side sees then."""

# ruff: noqa: PT012, ASYNC110 - a stream's errors come out of its block; what we wait for sets no event

from __future__ import annotations

import functools
import gc
import logging
import math
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trio
import trio.testing
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc._cython import cygrpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from synchro.rpc.duplex import Duplex
from synchro.rpc.host import Call, RpcChannel, RpcHost, RpcServer, open_rpc_host
from synchro.rpc.rpc_error import RpcError

CANCELLED = grpc.StatusCode.CANCELLED
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Probe:
    """A service that shows what happens to its calls."""

    def __init__(self, host: RpcHost) -> None:
        self.host = host
        self.started = trio.Event()
        self.cancelled = trio.Event()
        self.deadline = math.nan
        self.replies_made = 0

    def register(self, server: grpc.aio.Server) -> None:
        host = self.host
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        duplex = grpc.stream_stream_rpc_method_handler
        methods: dict[str, Any] = {
            "Echo": unary(host.unary(self.echo)),
            "Info": unary(host.unary_sync(lambda request, _: request)),
            "Hang": unary(host.unary(self.hang)),
            "Bug": unary(host.unary(self.bug)),
            "BugSync": unary(host.unary_sync(self.bug_sync)),
            "Refuse": unary(host.unary(self.refuse)),
            "CancelItself": unary(host.unary(self.cancel_itself)),
            "Count": stream(host.server_stream(self.count)),
            "EchoStream": duplex(host.duplex(self.echo_stream)),
            "HangStream": duplex(host.duplex(self.hang)),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))

    async def echo(self, request: bytes, call: Call) -> bytes:
        await trio.lowlevel.checkpoint()
        return request

    async def hang(self, _: object, call: Call) -> Any:
        self.deadline = call.deadline
        self.started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def bug(self, request: bytes, call: Call) -> bytes:
        async with trio.open_nursery():
            raise KeyError("a secret")

    def bug_sync(self, request: bytes, call: Call) -> bytes:
        raise KeyError("a secret")

    async def refuse(self, request: bytes, call: Call) -> bytes:
        detail = AnyMessage()
        detail.Pack(StringValue(value="row 7"))
        text = f"no such row, says {dict(call.metadata)['name']!r}"
        status = Status(code=grpc.StatusCode.NOT_FOUND.value[0], message=text, details=[detail])
        call.set_trailing_metadata([("set", "before")])
        async with trio.open_nursery():  # the usual group around it does not hide the error
            raise RpcError(
                grpc.StatusCode.NOT_FOUND, text, trailing_metadata=[("with", "error")], status=status
            )

    async def cancel_itself(self, request: bytes, call: Call) -> bytes:
        call.scope.cancel()
        await trio.lowlevel.checkpoint()
        return b"never"

    async def count(self, request: bytes, call: Call) -> AsyncIterator[bytes]:
        limit = int(request)
        try:
            while self.replies_made < limit:
                self.replies_made += 1
                yield b"%d" % self.replies_made + bytes(64 * 1024)
        finally:
            self.cancelled.set()

    async def echo_stream(self, stream: Duplex[bytes, bytes], call: Call) -> None:
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


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.005)


def code_of(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    return caught.value.code()


# ---- calls go well ---------------------------------------------------------------------------------


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


async def test_health_and_reflection_work_on_the_same_server() -> None:
    """Their servicers are asyncio code, the generated stub classes of ours are not needed to see that."""
    with trio.fail_after(30):
        async with open_rpc_host() as host:
            servicer = health.aio.HealthServicer()

            def register(server: grpc.aio.Server) -> None:
                health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
                reflection.enable_server_reflection(("grpc.health.v1.Health",), server)

            server = await host.serve("127.0.0.1:0", register)
            await host.loop.aio(servicer.set("rw", health_pb2.HealthCheckResponse.NOT_SERVING))
            async with host.channel(server.address) as channel:
                reply = await channel.unary(
                    "/grpc.health.v1.Health/Check",
                    health_pb2.HealthCheckRequest(service="rw"),
                    serializer=health_pb2.HealthCheckRequest.SerializeToString,
                    deserializer=health_pb2.HealthCheckResponse.FromString,
                )
                assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
                async with channel.duplex(
                    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                    serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                    deserializer=reflection_pb2.ServerReflectionResponse.FromString,
                ) as stream:
                    await stream.send(reflection_pb2.ServerReflectionRequest(list_services=""))
                    answer = await stream.receive()
                    names = [service.name for service in answer.list_services_response.service]
                    assert names == ["grpc.health.v1.Health"]
    assert reflection_pb2_grpc is not None


async def test_a_generated_servicer_takes_the_adapters_as_methods() -> None:
    class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
        def __init__(self, host: RpcHost) -> None:
            self.Check = host.unary(self._check)
            self.Watch = host.server_stream(self._watch)

        async def _check(self, request: Any, call: Call) -> Any:
            await trio.lowlevel.checkpoint()
            return health_pb2.HealthCheckResponse(status=len(request.service))

        async def _watch(self, request: Any, call: Call) -> AsyncIterator[Any]:
            for status in (1, 2):
                yield health_pb2.HealthCheckResponse(status=status)

    codec = {
        "serializer": health_pb2.HealthCheckRequest.SerializeToString,
        "deserializer": health_pb2.HealthCheckResponse.FromString,
    }
    with trio.fail_after(30):
        async with open_rpc_host() as host:
            service = Health(host)
            server = await host.serve(
                "127.0.0.1:0", lambda s: health_pb2_grpc.add_HealthServicer_to_server(service, s)
            )
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


# ---- one side ends a call ---------------------------------------------------------------------------


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
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary("/test.Test/CancelItself", b"")
        assert code_of(caught) is CANCELLED


# ---- deadlines --------------------------------------------------------------------------------------


async def test_a_timeout_is_the_servers_deadline_too() -> None:
    async with one_node() as (_, probe, _, channel):
        before = trio.current_time()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
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
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with channel.duplex("/test.Test/HangStream", timeout=0.3) as stream:
                await stream.receive()
        assert code_of(caught) is DEADLINE_EXCEEDED
        await probe.cancelled.wait()


# ---- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["/test.Test/Bug", "/test.Test/BugSync"])
async def test_a_bug_in_a_handler_fails_that_call_only(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns the kind of error, the log everything."""
    async with one_node() as (_, _, _, channel):
        with caplog.at_level(logging.ERROR, "synchro"), pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary(method, b"")
        assert code_of(caught) is grpc.StatusCode.INTERNAL
        assert "KeyError" in (caught.value.details() or "")
        assert "a secret" not in (caught.value.details() or "")
        assert "a secret" in caplog.text
        assert await channel.unary("/test.Test/Echo", b"x") == b"x"


async def test_an_rpc_error_carries_code_text_trailers_and_details() -> None:
    async with one_node() as (_, _, _, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary("/test.Test/Refuse", b"", metadata=[("name", "app")])
        error = caught.value
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "no such row, says 'app'"
        trailers = dict(error.trailing_metadata())
        assert trailers["set"] == "before" and trailers["with"] == "error"
        status: Any = rpc_status.from_call(error)
        value = StringValue()
        assert status.details[0].Unpack(value) and value.value == "row 7"


async def test_too_large_a_message_fails_its_call_only() -> None:
    async with one_node() as (_, _, _, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary("/test.Test/Echo", bytes((16 << 20) + 1))
        assert code_of(caught) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await channel.unary("/test.Test/Echo", b"x") == b"x"


async def test_protobuf_messages_are_counted_and_carried() -> None:
    with trio.fail_after(30):
        async with open_rpc_host() as host:

            async def double(stream: Duplex[Int32Value, Int32Value], call: Call) -> None:
                async for number in stream:
                    await stream.send(Int32Value(value=2 * number.value))

            def register(server: grpc.aio.Server) -> None:
                handler = grpc.stream_stream_rpc_method_handler(
                    host.duplex(double), Int32Value.FromString, Int32Value.SerializeToString
                )
                server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler("test.Test", {"Double": handler}),)
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


# ---- servers come and go ------------------------------------------------------------------------------


async def test_a_stopping_server_lets_calls_finish_within_its_grace_and_ends_the_rest() -> None:
    async with one_node() as (host, probe, server, channel):
        ended: list[grpc.StatusCode] = []

        async def wait_on(method: str) -> None:
            try:
                if method.endswith("Stream"):
                    async with channel.duplex(method) as stream:
                        await stream.receive()
                else:
                    await channel.unary(method, b"")
            except grpc.aio.AioRpcError as error:
                ended.append(error.code())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_on, "/test.Test/Hang")
            nursery.start_soon(wait_on, "/test.Test/HangStream")
            nursery.start_soon(wait_on, "/test.Test/EchoStream")
            await until(lambda: host.calls_in_progress == 3)
            await server.stop(0.1)
        assert len(ended) == 3 and set(ended) <= {UNAVAILABLE, CANCELLED}
        assert probe.cancelled.is_set()
        assert host.calls_in_progress == 0
        await server.stop(0.1)  # idempotent


async def test_a_dead_peer_is_unavailable_and_reached_again_soon_after_its_return() -> None:
    async with one_node() as (host, _, server, channel):
        assert await channel.unary("/test.Test/Echo", b"x") == b"x"
        await server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary("/test.Test/Echo", b"x", timeout=10)
        assert code_of(caught) is UNAVAILABLE
        await trio.sleep(1)  # long enough for an unbounded backoff to grow
        await host.serve(server.address, Probe(host).register)
        with trio.fail_after(3):  # the backoff is 0.5 s at most; the rest is for a busy machine
            assert await channel.unary("/test.Test/Echo", b"x", wait_for_ready=True) == b"x"


async def test_a_busy_port_is_refused_at_once() -> None:
    async with one_node() as (host, probe, server, _):
        with pytest.raises(OSError, match=f"cannot listen on {server.address}: Address already in use"):
            await host.serve(server.address, probe.register)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
                await host.serve(f"127.0.0.1:{port}", probe.register)
        with pytest.raises(OSError, match=r"cannot listen on no-such-host\.invalid:1"):
            await host.serve("no-such-host.invalid:1", probe.register)


async def test_all_ends_when_the_body_is_cancelled_from_outside() -> None:
    """A node that is told to stop in the middle of its calls: nothing hangs, nothing is left over."""
    start = trio.current_time()
    with trio.CancelScope() as scope:
        async with one_node() as (host, probe, _, channel), trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(channel.unary, "/test.Test/Hang", b"")
            async with channel.duplex("/test.Test/HangStream"):
                await until(lambda: host.calls_in_progress == 6)
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught and probe.cancelled.is_set()
    assert host.calls_in_progress == 0
    assert trio.current_time() - start < 4


async def test_nothing_is_left_over_or_logged_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio reports tasks and exceptions that nobody looked at in its log, often only when collected."""
    async with one_node() as (_, _, server, channel):
        async with channel.duplex("/test.Test/EchoStream") as stream:
            await stream.send(b"x")
            await stream.receive()
        with trio.move_on_after(0.05):
            await channel.unary("/test.Test/Hang", b"")
        async with channel.server_stream("/test.Test/Count", b"1000") as replies:
            await anext(replies)
        with pytest.raises(grpc.aio.AioRpcError):
            async with channel.duplex("/test.Test/HangStream"):
                await server.stop(0)
                await trio.sleep_forever()
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- errors of the core -------------------------------------------------------------------------------


async def test_a_panic_in_a_guarded_callback_ends_everything_and_comes_out() -> None:
    """gRPC and asyncio swallow exceptions; one of the core must end the node all the same."""

    class CoreBug(Exception):
        pass

    calls: list[bytes] = []

    def step(item: bytes) -> None:
        calls.append(item)
        raise CoreBug("invariant Q1")

    with trio.fail_after(30), pytest.raises(CoreBug, match="invariant Q1"):
        async with open_rpc_host() as host:
            guarded = host.guard(step)

            async def handler(stream: Duplex[bytes, bytes], call: Call) -> None:
                stream.on_message = guarded
                await trio.sleep_forever()

            def register(server: grpc.aio.Server) -> None:
                method: Any = grpc.stream_stream_rpc_method_handler(host.duplex(handler))
                server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler("test.Test", {"Step": method}),)
                )

            server = await host.serve("127.0.0.1:0", register)
            async with host.channel(server.address) as channel, channel.duplex("/test.Test/Step") as stream:
                for _ in range(5):
                    await stream.send(b"x")
                await trio.sleep_forever()
    assert calls == [b"x"]  # a broken core is not stepped again


async def test_the_first_panic_counts_and_wins_over_what_it_breaks() -> None:
    with pytest.raises(KeyError, match="first"):
        async with open_rpc_host() as host:
            try:
                host.panic(KeyError("first"))
                host.panic(KeyError("second"))
                await trio.sleep_forever()
            finally:
                raise ValueError("the body, falling over")


async def test_an_exception_of_the_body_comes_out_in_no_group() -> None:
    with pytest.raises(KeyError):
        async with one_node():
            raise KeyError("x")


# ---- load and signals -----------------------------------------------------------------------------------


async def test_a_thousand_waiting_calls_do_not_slow_down_an_info_call() -> None:
    """Writes that wait for a quorum hold no worker: admin and health calls pass by."""
    async with one_node() as (host, _, _, channel), trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(channel.unary, "/test.Test/Hang", b"")
        await until(lambda: host.calls_in_progress == 1000)
        p99s: list[float] = []
        while not p99s or (min(p99s) >= 0.05 and len(p99s) < 5):  # again only if the machine was busy
            times = []
            for _ in range(200):
                start = time.perf_counter()
                assert await channel.unary("/test.Test/Info", b"x") == b"x"
                times.append(time.perf_counter() - start)
            p99s.append(sorted(times)[197])
        assert min(p99s) < 0.05, p99s
        nursery.cancel_scope.cancel()


NODE_UNDER_LOAD = """
import grpc, trio
from synchro.rpc.host import open_rpc_host

async def echo(request, call):
    await trio.lowlevel.checkpoint()
    return request

async def hang(request, call):
    await trio.sleep_forever()

async def load(channel):
    while True:
        await channel.unary("/test.Test/Echo", b"x")

async def main():
    async with open_rpc_host() as host:
        def register(server):
            unary = grpc.unary_unary_rpc_method_handler
            methods = {"Echo": unary(host.unary(echo)), "Hang": unary(host.unary(hang))}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", methods),))

        server = await host.serve("127.0.0.1:0", register)
        async with host.channel(server.address) as channel, trio.open_nursery() as nursery:
            nursery.start_soon(channel.unary, "/test.Test/Hang", b"")
            for _ in range(8):
                nursery.start_soon(load, channel)
            await trio.sleep(0.2)
            print("up", flush=True)
            await trio.sleep_forever()

def leaves(exc):
    if isinstance(exc, BaseExceptionGroup):
        return {leaf for inner in exc.exceptions for leaf in leaves(inner)}
    return {type(exc).__name__}

try:
    trio.run(main)
except BaseException as exc:
    print(leaves(exc), flush=True)
"""


def test_ctrl_c_ends_a_node_under_load_cleanly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NODE_UNDER_LOAD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (out, err) == ("{'KeyboardInterrupt'}\n", "")


# --- links that are quiet (MEND-U1) -------------------------------------------------------------------------


def test_every_option_exists_in_the_library() -> None:
    """gRPC ignores an option that it does not have, in silence."""
    library = Path(cygrpc.__file__).read_bytes()
    root = Path(__file__).resolve().parents[2]
    used = {
        name.encode()
        for folder in ("synchro", "tests", "benchmarks")
        for path in (root / folder).rglob("*.py")
        if path.parent.name != "config"  # whose keys begin so too
        for name in re.findall(r'\("(grpc\.[a-z0-9_.]+)", ', path.read_text(encoding="utf-8"))
        if "_cython" not in name
    }
    assert {b"grpc.keepalive_time_ms", b"grpc.http2.max_ping_strikes"} <= used
    assert [name for name in sorted(used) if name + b"\0" not in library] == []
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms\0" not in library  # what was believed in once


@asynccontextmanager
async def watching(*options: tuple[str, int]) -> AsyncIterator[Any]:
    """A client that watches something that never changes; its replies after the first."""

    async def silent(request: Any, call: Call) -> AsyncIterator[Any]:
        yield request
        await trio.sleep_forever()

    async with open_rpc_host() as host:
        handler = grpc.unary_stream_rpc_method_handler(host.server_stream(silent))
        handlers = grpc.method_handlers_generic_handler("test.Quiet", {"Watch": handler})
        server = await host.serve("127.0.0.1:0", lambda s: s.add_generic_rpc_handlers((handlers,)))
        async with (
            host.channel(server.address, options) as channel,
            channel.server_stream("/test.Quiet/Watch", b"x") as replies,
        ):
            assert await anext(replies) == b"x"
            yield replies


async def test_a_quiet_link_survives_many_pings() -> None:
    """One a second, more often gRPC does not ping: on its own settings the third ends the link."""
    async with watching(("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 5_000)) as replies:
        with trio.move_on_after(5) as still_there:
            await anext(replies)
        assert still_there.cancelled_caught


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_a_watching_client_lives_two_minutes() -> None:
    async with watching() as replies:
        with trio.move_on_after(125) as still_there:
            await anext(replies)
        assert still_there.cancelled_caught
