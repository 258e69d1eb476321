"""Connections from both sides: a server that stops in good order, a client that finds another, keepalive."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from synchro.rpc.channel import RpcChannel
from synchro.rpc.host import WIRE_LIMITS, RpcCall, RpcHost, RpcServer, open_rpc_host
from synchro.wire import frames
from synchro.wire.backoff import BACKOFF_MAX_S
from synchro.wire.failure import CallFailed, CallNotBegun
from synchro.wire.frames import ID_MAX, ErrorCode
from synchro.wire.grpc_call import OK_TRAILERS, RESPONSE_HEAD, StatusCode, request_block
from synchro.wire.headers import HeaderList
from synchro.wire.limits import MIB, WireLimits
from synchro.wire.link import READ_BYTES_MIN, WRITE_BYTES_MAX, Keepalive, Link
from synchro.wire.streams import Http2Stream
from synchro.wire.turns import open_turns
from tests.ports import free_ports
from tests.shell.raw_client import raw_client
from tests.shell.rpc_probe import Probe, one_node, until

ECHO, HANG = "/test.Test/Echo", "/test.Test/Hang"


# --- a server that stops ------------------------------------------------------------------------------------


async def test_a_stop_tells_first_that_it_comes_and_then_which_calls_were_begun() -> None:
    async with one_node() as (_, probe, server, _), raw_client(server.address) as client:
        slow = client.call(HANG)
        await client.send()
        await probe.started.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop, 1.0)
            await client.until(lambda: len(client.goaways) == 2)
            assert [(last_id, code) for last_id, code, _ in client.goaways] == [
                (ID_MAX, ErrorCode.NO_ERROR),
                (1, ErrorCode.NO_ERROR),
            ]
            assert not slow.is_over
            await client.until(lambda: slow.is_over)
        assert slow.status is not None and slow.status.code is StatusCode.UNAVAILABLE
        await client.until_closed()


async def test_a_call_that_is_begun_while_the_first_goaway_is_on_its_way_is_served() -> None:
    async with one_node() as (_, _, server, _), raw_client(server.address) as client:
        seen = client.call(ECHO, b"one")
        await client.until(lambda: seen.is_over)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop, 1.0)
            await trio.sleep(0.05)  # the first GOAWAY has come, and is not read
            late = client.call(ECHO, b"late")
            await client.until(lambda: late.is_over)
        assert late.messages == [b"late"]


async def test_calls_go_to_the_next_server_while_the_last_one_drains() -> None:
    """What a node that restarts looks like to its clients: nothing fails but what could not be finished."""
    async with one_node() as (host, probe, server, channel):
        ended: list[StatusCode] = []

        async def hang() -> None:
            with pytest.raises(CallFailed) as caught:
                await channel.unary(HANG, b"")
            ended.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            await probe.started.wait()
            nursery.start_soon(server.stop, 1.0)
            await trio.sleep(0.1)
            await host.serve(server.address, Probe(host).register)
            assert await channel.unary(ECHO, b"x", timeout=10, wait_for_ready=True) == b"x"
            assert ended == []
        assert ended == [StatusCode.UNAVAILABLE]


# --- a client that connects ---------------------------------------------------------------------------------


@asynccontextmanager
async def host_and_channel(address: str) -> AsyncIterator[tuple[RpcHost, RpcChannel]]:
    with trio.fail_after(15):
        async with open_rpc_host() as host, host.channel(address) as channel:
            yield host, channel


async def test_who_does_not_wait_hears_at_once_that_nobody_listens() -> None:
    async with host_and_channel(f"127.0.0.1:{free_ports(1)[0]}") as (_, channel):
        for _ in range(3):
            began = trio.current_time()
            with pytest.raises(CallFailed, match=r"failed to connect to .*: connection refused") as caught:
                await channel.unary(ECHO, b"", timeout=5)
            assert caught.value.code is StatusCode.UNAVAILABLE
            assert trio.current_time() - began < 4


@pytest.mark.parametrize("name", ["no-such-host.invalid", "x" * 300, "a..b"])
async def test_a_name_that_leads_nowhere(name: str) -> None:
    async with host_and_channel(f"{name}:1") as (_, channel):
        with pytest.raises(CallFailed, match="failed to connect") as caught:
            await channel.unary(ECHO, b"", timeout=5)
        assert caught.value.code is StatusCode.UNAVAILABLE


async def test_who_waits_is_served_soon_after_the_server_came() -> None:
    """Connector.N2: attempts go on meanwhile, half a second apart at the most."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with host_and_channel(address) as (host, channel):
        replies: list[bytes] = []

        async def wait() -> None:
            replies.append(await channel.unary(ECHO, b"x", timeout=10, wait_for_ready=True))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.sleep(1.0)
            await host.serve(address, Probe(host).register)
            came = trio.current_time()
            await until(lambda: len(replies) == 3)
            assert trio.current_time() - came < BACKOFF_MAX_S * 1.2 + 5  # the rest is for a busy machine


async def test_a_server_that_says_nothing_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and is silent: a paused process, or something else on its port."""
    monkeypatch.setattr("synchro.wire.connector.CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with host_and_channel(f"127.0.0.1:{silent.getsockname()[1]}") as (_, channel):
            with pytest.raises(CallFailed, match="timed out") as caught:
                await channel.unary(ECHO, b"", timeout=5)
            assert caught.value.code is StatusCode.UNAVAILABLE


async def test_who_is_disconnected_for_a_fault_hears_which() -> None:
    """Not only that the socket is closed: the GOAWAY had the reason."""

    async def disconnect(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(frames.settings({}))
            received = b""
            while b"/test.Test/Echo" not in received:
                received += await stream.receive_some()
            await stream.send_all(frames.goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b"too many pings"))

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, disconnect, [listener])
        async with host_and_channel(f"127.0.0.1:{listener.socket.getsockname()[1]}") as (_, channel):
            with pytest.raises(CallFailed, match=r"too many pings \(ENHANCE_YOUR_CALM\)") as caught:
                await channel.unary(ECHO, b"")
            assert caught.value.code is StatusCode.UNAVAILABLE
        nursery.cancel_scope.cancel()


async def test_a_server_that_speaks_http_1_is_no_server() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with host_and_channel(address) as (_, channel):
            with pytest.raises(CallFailed, match="failed to connect") as caught:
                await channel.unary(ECHO, b"", timeout=5)
            assert caught.value.code is StatusCode.UNAVAILABLE
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["localhost", "[::1]", "127.0.0.1"])
async def test_names_and_both_kinds_of_addresses(name: str) -> None:
    with trio.fail_after(15):
        async with open_rpc_host() as host:
            try:
                server = await host.serve(f"{name}:0", Probe(host).register)
            except OSError as error:
                pytest.skip(f"this host has no such address: {error}")
            assert server.address.startswith(f"{name}:")
            async with host.channel(server.address) as channel:
                assert await channel.unary(ECHO, b"x") == b"x"


async def test_the_address_of_all_takes_both_kinds() -> None:
    """ "::" alone is for IPv4 too, as with grpcio."""
    with trio.fail_after(15):
        async with open_rpc_host() as host:
            try:
                server = await host.serve("[::]:0", Probe(host).register)
            except OSError as error:
                pytest.skip(f"this host has no such address: {error}")
            port = server.address.rpartition(":")[2]
            async with host.channel(f"127.0.0.1:{port}") as channel:
                assert await channel.unary(ECHO, b"x") == b"x"


async def test_every_call_hears_when_its_connection_is_lost() -> None:
    """Link.K3: at both ends, whatever it waits for."""
    async with one_node() as (host, _, server, channel):
        failed: list[StatusCode] = []

        async def call(method: str) -> None:
            try:
                if method == "Hang":
                    await channel.unary(HANG, b"")
                elif method == "Count":
                    async with channel.server_stream("/test.Test/Count", b"1000000") as replies:
                        async for _ in replies:
                            await trio.sleep(0.1)
                else:
                    async with channel.duplex("/test.Test/" + method):
                        await trio.sleep_forever()
            except CallFailed as error:
                failed.append(error.code)

        async with trio.open_nursery() as nursery:
            for method in ("Hang", "Count", "EchoStream", "HangStream"):
                nursery.start_soon(call, method)
            await until(lambda: host.calls_in_progress == 4)
            (link,) = server.listener.links
            link.close("a cable was pulled")
            await until(lambda: len(failed) == 4)
        assert set(failed) == {StatusCode.UNAVAILABLE}
        await until(lambda: host.calls_in_progress == 0)
        assert await channel.unary(ECHO, b"x") == b"x"  # on another connection
        assert len(server.listener.links) == 1  # Connector.N1


@pytest.mark.parametrize("end", ["its time is over", "the connection is lost"])
async def test_a_call_that_waited_for_others_was_not_sent(end: str) -> None:
    """The server takes one call at a time: the second one never left this process, and may be made again."""
    async with open_rpc_host() as host:
        probe = Probe(host)
        server = await host.serve(
            "127.0.0.1:0", probe.register, wire_limits=replace(WIRE_LIMITS, streams_max=1)
        )
        failures: list[CallFailed] = []

        async def call(path: str, timeout: float) -> None:
            with pytest.raises(CallFailed) as caught:
                await channel.unary(path, b"", timeout=timeout)
            failures.append(caught.value)

        with trio.fail_after(10):
            async with host.channel(server.address) as channel, trio.open_nursery() as nursery:
                nursery.start_soon(call, HANG, 5)
                await probe.started.wait()
                if end == "its time is over":
                    await call(ECHO, 0.1)
                    assert isinstance(failures[0], CallNotBegun)
                    channel.close()
                else:
                    nursery.start_soon(call, ECHO, 5)
                    await trio.testing.wait_all_tasks_blocked()
                    channel.close()
        assert sorted(isinstance(failure, CallNotBegun) for failure in failures) == [False, True]


class Eager(socket.socket):
    """A socket that takes whatever it is given at once, as that of a fast reader does."""

    taken = 0

    def send(self, data: Any, flags: int = 0) -> int:
        self.taken += len(data)
        return len(data)


async def test_a_reader_that_takes_everything_gets_a_part_in_each_turn() -> None:
    """64 MiB that wait for one client would keep all others waiting for as long as it takes them."""
    turns_of_it: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    sock = Eager(fileno=accepted.detach())

    def answer(link: Link, stream: Http2Stream, headers: HeaderList) -> None:
        stream.answer(RESPONSE_HEAD, bytes(16 * MIB), OK_TRAILERS)

    with trio.fail_after(10), client:
        async with open_turns() as turns:
            turns.at_turn_ends(lambda: turns_of_it.append(sock.taken))
            link = Link(
                turns,
                sock,
                is_client=False,
                limits=WireLimits(),
                keepalive=Keepalive(after_s=60, timeout_s=60),
                on_closed=lambda _: None,
                on_stream=answer,
            )
            wide = frames.settings({frames.INITIAL_WINDOW_SIZE: frames.WINDOW_MAX})
            more = frames.window_update(0, frames.WINDOW_MAX - frames.WINDOW_AT_FIRST)
            begin = frames.header_frames(request_block(ECHO, "test"), frames.END_STREAM, 1, 16_384)
            client.sendall(frames.PREFACE + wide + more + begin)
            await until(lambda: sock.taken > 16 * MIB)
            turns_of_it.append(sock.taken)
            link.close("the test is over")
    parts = [after - before for before, after in pairwise(turns_of_it)]
    assert max(parts) <= WRITE_BYTES_MAX + WireLimits().unsent_data_bytes_max


async def test_a_connection_whose_bytes_cost_much_gets_less_of_a_turn() -> None:
    def slow(request: bytes, call: RpcCall) -> bytes:
        time.sleep(0.01)
        return b""

    with trio.fail_after(15):
        async with open_rpc_host() as host:
            server = await host.serve("127.0.0.1:0", lambda s: s.add_method("/t/Slow", host.unary_sync(slow)))
            async with host.channel(server.address) as channel:
                await channel.unary("/t/Slow", b"")
                (link,) = server.listener.links
                for _ in range(3):
                    await channel.unary("/t/Slow", b"")
                assert link._read_bytes == READ_BYTES_MIN
                with pytest.raises(CallFailed):
                    await channel.unary("/t/Nothing", bytes(4 << 20))  # large and cheap
                assert link._read_bytes > READ_BYTES_MIN


# --- keepalive --------------------------------------------------------------------------------------------


class Stopping:
    """Forwards bytes between a client and a server, until it is told to swallow them."""

    def __init__(self, server: RpcServer) -> None:
        self.server = server
        self.is_deaf = False
        self.address = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._link, listeners)

    async def _link(self, client: trio.SocketStream) -> None:
        name, port = self.server.address.rsplit(":", 1)
        async with await trio.open_tcp_stream(name, int(port)) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, server, nursery.cancel_scope)
            nursery.start_soon(self._pump, server, client, nursery.cancel_scope)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, over: trio.CancelScope) -> None:
        try:
            async for data in source:
                if not self.is_deaf:
                    await sink.send_all(data)
        except trio.BrokenResourceError:
            pass
        over.cancel()


async def test_a_dead_link_fails_its_calls_in_time() -> None:
    """Nothing is reset, nothing arrives: a cable was pulled."""
    async with one_node() as (host, probe, server, _), trio.open_nursery() as nursery:
        link = Stopping(server)
        await nursery.start(link.run)
        async with host.channel(link.address, keepalive=Keepalive(after_s=0.2, timeout_s=0.3)) as channel:
            async with trio.open_nursery() as calls:

                async def hang() -> None:
                    with pytest.raises(CallFailed, match="no answer to a ping") as caught:
                        await channel.unary(HANG, b"")
                    assert caught.value.code is StatusCode.UNAVAILABLE

                calls.start_soon(hang)
                await probe.started.wait()
                await trio.sleep(0.8)
                assert host.calls_in_progress == 1  # a silent link that answers stays
                link.is_deaf = True
                began = trio.current_time()
            assert trio.current_time() - began < 10
        nursery.cancel_scope.cancel()


async def test_a_call_without_a_deadline_stays_open_while_the_link_answers() -> None:
    async def hang(request: bytes, call: RpcCall) -> bytes:
        await trio.sleep(0.9)
        return request

    with trio.fail_after(15):
        async with open_rpc_host() as host:
            server = await host.serve("127.0.0.1:0", lambda s: s.add_method(HANG, host.unary(hang)))
            fast = Keepalive(after_s=0.1, timeout_s=0.2)
            async with host.channel(server.address, keepalive=fast) as channel:
                assert await channel.unary(HANG, b"x") == b"x"
