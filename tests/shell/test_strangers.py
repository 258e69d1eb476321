"""Connections that are broken, hostile, or speak something else end; an honest client is answered."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from synchro.rpc.channel import RpcChannel
from synchro.rpc.host import RpcCall, RpcServer, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.wire.admission import PortLimits
from synchro.wire.frames import PREFACE, ErrorCode
from tests.shell.raw_client import raw_client
from tests.shell.rpc_probe import until

ECHO = "/test.Test/Echo"


class Log:
    """What the port would write."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **facts: Any) -> None:
        self.records.append((event, facts))


@asynccontextmanager
async def port(limits: PortLimits | None = None) -> AsyncIterator[tuple[RpcServer, RpcChannel, Log]]:
    """A server, an honest client that it must answer all the time, and the log."""
    log = Log()
    async with open_rpc_host() as host:

        async def flood(request: bytes, call: RpcCall) -> AsyncIterator[bytes]:
            while True:
                yield bytes(1 << 16)

        def register(server: Registrar) -> None:
            server.add_method(ECHO, host.unary_sync(lambda request, call: request))
            server.add_method("/test.Test/Flood", host.server_stream(flood))

        server = await host.serve("127.0.0.1:0", register, limits=limits, log=log)
        async with host.channel(server.address) as honest:
            assert await honest.unary(ECHO, b"x") == b"x"
            with trio.fail_after(15):
                yield server, honest, log
                server.listener.admission.check()
                for link in server.listener.links:
                    link.check()
                assert await honest.unary(ECHO, b"y", timeout=10) == b"y"


async def said(address: str, *data: bytes) -> bytes:
    """What a server says to these bytes until it closes the connection."""
    name, number = address.rsplit(":", 1)
    heard = b""
    async with await trio.open_tcp_stream(name, int(number)) as stream:
        for part in data:
            await stream.send_all(part)
            await trio.sleep(0.02)
        with trio.fail_after(12):
            while True:
                try:
                    more = await stream.receive_some(65536)
                except trio.BrokenResourceError:
                    return heard
                if not more:
                    return heard
                heard += more


def tls_hello() -> bytes:
    out = ssl.MemoryBIO()
    speaker = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        speaker.do_handshake()
    return out.read()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",), "HTTP/1"),
        ((b"POST /synchro.v1.Data", b"Service/Execute HTTP/1.1\r\n\r\n"), "HTTP/1"),
        ((tls_hello(),), "TLS"),
        ((bytes(range(256)) * 4,), "no HTTP/2 preface"),
        ((b"P", b"RI * HTTP/2.0\r\n\r\nSX" + bytes(16)), "no HTTP/2 preface"),
    ],
)
async def test_who_speaks_something_else_is_named_once_and_closed(data: tuple[bytes, ...], name: str) -> None:
    async with port() as (server, _, log):
        for _ in range(3):
            assert ErrorCode.PROTOCOL_ERROR.to_bytes(4, "big") in await said(server.address, *data)
        await until(lambda: len(server.listener.links) == 1)
        ((event, facts),) = log.records  # one line, although anybody can cause it
        assert event == "connection_not_http2"
        assert name in facts["message"] and facts["peer"].startswith("ipv4:127.0.0.1:")


async def test_frames_that_are_none_end_their_connection_with_the_reason() -> None:
    async with port() as (server, honest, log):
        heard = await said(server.address, PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\xff" * 5000)
        assert ErrorCode.FRAME_SIZE_ERROR.to_bytes(4, "big") in heard
        assert [event for event, _ in log.records] == ["connection_faulty"]
        assert await honest.unary(ECHO, b"x") == b"x"


async def test_noise_behind_a_good_beginning_ends_nothing_else() -> None:
    async with port() as (server, honest, _):
        for _ in range(20):
            async with raw_client(server.address) as client:
                seen = client.call(ECHO, b"good")
                await client.until(lambda seen=seen: seen.is_over)  # type: ignore[misc]
                await client.stream.send_all(os.urandom(200))
        assert await honest.unary(ECHO, b"x", timeout=10) == b"x"
        await until(lambda: len(server.listener.links) == 1)


async def test_a_connection_that_is_reset_at_any_time_ends_nothing_else() -> None:
    async with port() as (server, honest, _):
        name, number = server.address.rsplit(":", 1)
        for data in (b"", PREFACE[:7], PREFACE + b"\0\0\0\4\0\0\0\0\0"):
            sock = socket.create_connection((name, int(number)))
            sock.sendall(data)
            await trio.sleep(0.02)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()  # a reset
            assert await honest.unary(ECHO, b"x", timeout=10) == b"x"
        await until(lambda: len(server.listener.links) == 1)


async def test_who_reads_nothing_holds_a_bounded_amount() -> None:
    """Link.K2: windows of 2^31 that nobody reads into, and requests that go on."""
    async with port() as (server, honest, _), raw_client(server.address) as client:
        for _ in range(20):
            client.call("/test.Test/Flood")
        await client.send()

        def held_up() -> list[Any]:
            return [each for each in server.listener.links if each.has_backlog or each.h2.queued_bytes]

        await until(lambda: len(held_up()) == 1)
        await trio.sleep(0.5)
        (link,) = held_up()
        held = len(link._backlog) + link.h2.queued_bytes + sum(map(len, link.h2._out))
        assert held < 40 << 20
        assert await honest.unary(ECHO, b"x", timeout=10) == b"x"


async def test_who_never_opens_a_window_is_ended_and_who_reads_slowly_is_not() -> None:
    """It answers PINGs all the time, so silence says nothing."""
    async with (
        port(PortLimits(stalled_s=0.6)) as (server, honest, log),
        raw_client(server.address) as slow,
        raw_client(server.address) as stalled,
    ):
        for client in (slow, stalled):
            client.call("/test.Test/Flood")
            await client.send()
        began = trio.current_time()
        while not log.records:
            with trio.move_on_after(0.1):  # one window in a tenth of a second
                await slow.until(lambda: False)
            assert trio.current_time() - began < 14
        assert trio.current_time() - began > 0.5
        await stalled.until_closed()
        assert stalled.goaways[-1][1] is ErrorCode.ENHANCE_YOUR_CALM
        assert not slow.is_closed
        assert await honest.unary(ECHO, b"x", timeout=10) == b"x"


async def test_a_bug_in_one_connection_ends_it_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async with port() as (server, honest, _), raw_client(server.address) as client:
        seen = client.call(ECHO, b"good")
        await client.until(lambda: seen.is_over)
        (link,) = (each for each in server.listener.links if each.peer.endswith(str(_port_of(client))))

        def broken(data: bytes, is_enough: object = None) -> None:
            raise ZeroDivisionError

        link.h2.receive = broken  # type: ignore[method-assign]
        client.h2.ping(b"12345678")
        await client.until_closed()
        assert client.goaways[-1][1] is ErrorCode.INTERNAL_ERROR
        assert "a connection failed" in caplog.text
        assert await honest.unary(ECHO, b"x", timeout=10) == b"x"


def _port_of(client: Any) -> int:
    return int(client.stream.socket.getsockname()[1])
