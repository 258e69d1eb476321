"""TLS on real sockets [S-11]: who may connect; and wrong set-ups, each refused in a second with its cause.

Each is tried by all that connect: our channel, the asyncio client's stream, and grpcio.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
import trio

from synchro import logs
from synchro.client.aio_stream import AioStream
from synchro.client.channel import CHANNEL_OPTIONS
from synchro.client.errors import CannotConnect, of_rpc_error
from synchro.client.secure import Security
from synchro.client.session import Session
from synchro.errors import IllegalParams
from synchro.process.certificates import LOOK_S, watch
from synchro.rpc.channel import RpcChannel
from synchro.rpc.host import RpcCall, RpcHost, RpcServer, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.wire.admission import PortLimits
from synchro.wire.backoff import Backoff
from synchro.wire.certificates import Certificates, ClientContext, TlsFiles
from synchro.wire.failure import CallNotBegun
from synchro.wire.io import plain_client, plain_server
from synchro.wire.limits import WireLimits
from tests.certificates import CLIENT, DAY, SERVER, Authority, now
from tests.shell.rpc_probe import until
from tests.shell.test_strangers import Log, said

ECHO: Final = "/test.Test/Echo"
REFUSED_S: Final = 4.0
"""Less than any time-out here: nobody waited for one."""


class Port:
    """A server with TLS, or without; `served` counts its calls."""

    def __init__(self, host: RpcHost, server: RpcServer, log: Log) -> None:
        self.host = host
        self.server = server
        self.address = server.address
        self.log = log
        self.served = 0

    def said_in_log(self) -> str:
        return "; ".join(str(facts["message"]) for _, facts in self.log.records)


@asynccontextmanager
async def open_port(
    certificates: Certificates | None, *, limits: PortLimits | None = None
) -> AsyncIterator[Port]:
    with trio.fail_after(20):
        async with open_rpc_host() as host:

            def echo(request: bytes, call: RpcCall) -> bytes:
                port.served += 1
                return request

            def register(server: Registrar) -> None:
                server.add_method(ECHO, host.unary_sync(echo))

            log = Log()
            layer = plain_server if certificates is None else certificates.server_layer
            server = await host.serve("127.0.0.1:0", register, layer=layer, limits=limits, log=log)
            port = Port(host, server, log)
            yield port
            server.listener.admission.check()


# --- who connects ---------------------------------------------------------------------------------------


async def our_channel(port: Port, files: TlsFiles | None) -> str:
    layer = plain_client if files is None else ClientContext(files).layer
    async with port.host.channel(port.address, layer=layer) as channel:
        try:
            assert await channel.unary(ECHO, b"x", timeout=5) == b"x"
        except CallNotBegun as failure:
            return failure.message
    return ""


def _in_grpcio(address: str, files: TlsFiles | None) -> str:
    options = CHANNEL_OPTIONS
    opened: Any = (
        grpc.insecure_channel(address, options=options)
        if files is None
        else grpc.secure_channel(address, credentials(files), options=options)
    )
    with opened as channel:
        try:
            assert channel.unary_unary(ECHO)(b"x", timeout=5) == b"x"
        except grpc.RpcError as failure:
            error = of_rpc_error(failure, address)
            assert isinstance(error, CannotConnect) and "silent" not in error.details
            return error.message
    return ""


async def in_grpcio(port: Port, files: TlsFiles | None) -> str:
    return await trio.to_thread.run_sync(_in_grpcio, port.address, files)


async def _in_asyncio(address: str, files: TlsFiles | None) -> str:
    stream = AioStream(
        address,
        5.0,
        lambda response, endpoint: None,
        Session(),
        Backoff(lambda: 0.5),
        None if files is None else LikeSecurity(files),  # type: ignore[arg-type]
    )
    try:
        await stream.submit(b"", 1, time.monotonic() + 0.5)
    except CannotConnect as error:
        return error.message
    except Exception:  # noqa: BLE001 - the port has no such method; it was connected
        return ""
    finally:
        await stream.close()
    return ""


class LikeSecurity:
    """Without the look at its own certificate."""

    def __init__(self, files: TlsFiles) -> None:
        self.layer = ClientContext(files).layer


async def in_asyncio(port: Port, files: TlsFiles | None) -> str:
    return await trio.to_thread.run_sync(asyncio.run, _in_asyncio(port.address, files))


def credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    ca, key, cert = (Path(path).read_bytes() if path else None for path in (files.ca, files.key, files.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


WAYS: Final = {"channel": our_channel, "asyncio": in_asyncio, "grpcio": in_grpcio}


# --- set-ups --------------------------------------------------------------------------------------------


@dataclass
class World:
    """Files of a good set-up, and the authority that makes others."""

    authority: Authority
    server: TlsFiles = field(init=False)
    client: TlsFiles = field(init=False)

    def __post_init__(self) -> None:
        self.server = self.authority.issue("server")
        self.client = self.authority.issue("client", hosts=["client"], purposes=[CLIENT])

    def other(self) -> Authority:
        return Authority(self.authority.directory / "other", "other")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(Authority(tmp_path_factory.mktemp("tls")))


def certificates(files: TlsFiles, demand: ssl.VerifyMode = ssl.CERT_REQUIRED) -> Certificates:
    return Certificates(files, client_certificates=demand)


@dataclass(frozen=True)
class Wrong:
    """server, client: files of each; None: plain text. told: what the client hears, in words of ours or of
    grpcio; logged: what the server's log says, None: nothing."""

    server: Callable[[World], TlsFiles | None]
    client: Callable[[World], TlsFiles | None]
    told: str
    logged: str | None = "refuse"


def good_server(world: World) -> TlsFiles:
    return world.server


def good_client(world: World) -> TlsFiles:
    return world.client


def of(name: str, **how: Any) -> Callable[[World], TlsFiles]:
    return lambda world: world.authority.issue(name, **how)


REFUSED: Final = "demands a certificate, and this|refuses this certificate: "
WRONG: Final = {
    "a server of another CA": Wrong(
        lambda world: replace(world.other().issue("stranger"), ca=world.authority.ca),
        good_client,
        "is refused: (no CA of the own file signed it|unable to get local issuer|self.signed certificate in)",
    ),
    "a server's certificate that has expired": Wrong(
        of("expired", begins=now() - 2 * DAY, ends=now() - DAY), good_client, "certificate has expired"
    ),
    "a server's certificate that is not yet valid": Wrong(
        of("early", begins=now() + DAY), good_client, "certificate is not yet valid"
    ),
    "a server of another address": Wrong(
        of("elsewhere", hosts=["10.0.0.7"]),
        good_client,
        "not valid for '127.0.0.1'|of another name or address",
        "refuses this certificate|may refuse|may not believe",
    ),
    "a server that signed its certificate itself": Wrong(
        of("self", is_self_signed=True), good_client, "self.signed certificate"
    ),
    "a server with a certificate for clients": Wrong(
        of("purpose", purposes=[CLIENT]), good_client, "purpose"
    ),
    "a client without a certificate": Wrong(
        good_server, lambda world: TlsFiles(ca=world.authority.ca), REFUSED, "shows no certificate"
    ),
    "a client of another CA": Wrong(
        good_server,
        lambda world: replace(world.other().issue("guest", purposes=[CLIENT]), ca=world.authority.ca),
        REFUSED,
        "no CA of the own file signed it",
    ),
    "a client's certificate that has expired": Wrong(
        good_server, of("old", begins=now() - 2 * DAY, ends=now() - DAY), REFUSED, "has expired"
    ),
    "a client's certificate that is not yet valid": Wrong(
        good_server, of("young", begins=now() + DAY), REFUSED, "not yet valid"
    ),
    "a client with a certificate for servers": Wrong(
        good_server, of("no_client", purposes=[SERVER]), REFUSED, "purpose"
    ),
    "a client that signed its certificate itself": Wrong(
        good_server, of("own", is_self_signed=True, purposes=[CLIENT]), REFUSED, "self.signed certificate"
    ),
    "a client in plain text": Wrong(
        good_server, lambda world: None, "TLS only", "no TLS, on a port that speaks TLS only"
    ),
    "a server in plain text": Wrong(
        lambda world: None, good_client, "does not speak TLS", "TLS, on a port that speaks plain HTTP/2"
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_set_up_is_refused_at_once_with_its_cause(world: World, case: str, way: str) -> None:
    wrong = WRONG[case]
    files = wrong.server(world)
    async with open_port(None if files is None else certificates(files)) as port:
        client = wrong.client(world)
        began = trio.current_time()
        told = await WAYS[way](port, client)
        assert trio.current_time() - began < REFUSED_S
        assert_matches(wrong.told, told)
        await until(lambda: bool(port.log.records))
        assert_matches(wrong.logged or "", port.said_in_log())
        assert port.served == 0  # and nothing was sent in plain text


def assert_matches(pattern: str, text: str) -> None:
    assert text and re.search(pattern, text), f"{pattern!r} is not in {text!r}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("demand", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL, ssl.CERT_NONE])
async def test_a_good_set_up_is_served(world: World, way: str, demand: ssl.VerifyMode) -> None:
    async with open_port(certificates(world.server, demand)) as port:
        assert await WAYS[way](port, world.client) == ""
        if demand is not ssl.CERT_REQUIRED:
            assert await WAYS[way](port, TlsFiles(ca=world.authority.ca)) == ""


async def test_grpc_of_asyncio_is_served(world: World) -> None:
    async def call(address: str) -> bytes:
        opened: Any = grpc.aio.secure_channel(address, credentials(world.client))
        async with opened as channel:
            reply: bytes = await channel.unary_unary(ECHO)(bytes(1 << 20), timeout=5)
            return reply

    async with open_port(certificates(world.server)) as port:
        assert len(await trio.to_thread.run_sync(asyncio.run, call(port.address))) == 1 << 20


async def test_many_calls_and_large_ones_share_a_connection(world: World) -> None:
    async with open_port(certificates(world.server)) as port:
        layer = ClientContext(world.client).layer
        async with port.host.channel(port.address, layer=layer) as channel, trio.open_nursery() as nursery:

            async def call(size: int) -> None:
                assert await channel.unary(ECHO, bytes(size)) == bytes(size)

            for size in (0, 1, 100, 1 << 14, 1 << 20, 5 << 20, *range(100)):
                nursery.start_soon(call, size)
        assert len(port.server.listener.links) <= 1
        assert port.log.records == []


# --- strangers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "logged"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no TLS"),
        (bytes(range(1, 200)), "no TLS"),
        (b"\x16\x03\x01\x00\x05hello", "TLS failed"),
    ],
)
async def test_who_does_not_speak_tls_is_closed_and_named(world: World, data: bytes, logged: str) -> None:
    async with open_port(certificates(world.server)) as port:
        await said(port.address, data)
        assert logged in port.said_in_log()
        assert await our_channel(port, world.client) == ""


async def test_a_client_without_alpn_is_refused_and_told(world: World) -> None:
    async with open_port(certificates(world.server)) as port:
        context = ssl.create_default_context(cafile=world.authority.ca)
        context.load_cert_chain(world.client.cert, world.client.key)

        def connect() -> bytes:
            with socket.create_connection(("127.0.0.1", int(port.address.rsplit(":", 1)[1]))) as sock:
                sock.settimeout(15)
                with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
                    secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                    return secured.recv(1000)

        assert b"ALPN h2" in await trio.to_thread.run_sync(connect)
        assert "ALPN h2" in port.said_in_log()


async def test_a_handshake_that_is_not_finished_ends_like_silence(world: World) -> None:
    """It counts as a connection, and has the time of one that says nothing (Admission.C1)."""
    limits = PortLimits(first_bytes_s=0.3, first_request_s=0.5)
    hello = ClientContext(world.client).layer("127.0.0.1").to_send(b"")
    async with open_port(certificates(world.server), limits=limits) as port:
        began = trio.current_time()
        heard = await said(port.address, hello[:100])  # until the server closes
        assert 0.2 < trio.current_time() - began < 8.0
        assert heard == b"" and port.server.ended == 1
        assert port.said_in_log() == "the TLS handshake was not over in time"


async def test_who_finishes_the_handshake_and_says_nothing_has_no_longer(world: World) -> None:
    limits = PortLimits(first_bytes_s=0.3, first_request_s=0.5)
    async with open_port(certificates(world.server), limits=limits) as port:
        layer = ClientContext(world.client).layer("127.0.0.1")
        name, number = port.address.rsplit(":", 1)
        async with await trio.open_tcp_stream(name, int(number)) as stream:
            began = trio.current_time()
            await stream.send_all(layer.to_send(b""))
            while data := await stream.receive_some(65536):
                layer.received(data)
                if more := layer.to_send(b""):
                    await stream.send_all(more)
            assert layer.is_ready and 0.2 < trio.current_time() - began < 8.0


async def test_open_handshakes_are_counted_and_make_room_in_half_a_second(world: World) -> None:
    limits = PortLimits(connections_max=4, share=2)
    hello = ClientContext(world.client).layer("127.0.0.1").to_send(b"")
    async with open_port(certificates(world.server), limits=limits) as port:
        socks = []
        for _ in range(4):
            sock = socket.create_connection(("127.0.0.1", int(port.address.rsplit(":", 1)[1])))
            sock.sendall(hello[:50])
            socks.append(sock)
        await until(lambda: port.server.listener.admission.count == 4)
        with trio.fail_after(12):
            while await our_channel(port, world.client):  # noqa: ASYNC110 - nothing tells of room
                await trio.sleep(0.1)
        for sock in socks:
            sock.close()


async def test_a_silent_server_is_given_up(world: World) -> None:
    """A port that takes connections and says nothing, to a client with TLS."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with open_rpc_host() as host:
            channel = RpcChannel(
                host.turns,
                host.calls,
                address,
                limits=WireLimits(),
                connect_s=0.2,
                layer=ClientContext(world.client).layer,
            )
            with pytest.raises(CallNotBegun, match="timed out"):
                await channel.unary(ECHO, b"x", timeout=10)
            channel.close()


# --- newer files ----------------------------------------------------------------------------------------


async def test_new_connections_use_new_files_and_old_ones_go_on(tmp_path: Path) -> None:
    world = World(Authority(tmp_path))
    used = certificates(world.server)
    async with open_port(used) as port:
        layer = ClientContext(world.client).layer
        async with port.host.channel(port.address, layer=layer) as old:
            await old.unary(ECHO, b"x")
            world.authority.issue("server", hosts=["10.0.0.7"])
            assert used.renew()
            assert "not valid for '127.0.0.1'" in await our_channel(port, world.client)
            assert await old.unary(ECHO, b"y") == b"y"
            world.authority.issue("server")
            assert used.renew()
            assert await our_channel(port, world.client) == ""


class StuckFiles(Certificates):
    """On a file system that does not answer."""

    def __init__(self, files: TlsFiles) -> None:
        super().__init__(files, client_certificates=ssl.CERT_REQUIRED)
        self.answers = threading.Event()

    def renew(self) -> bool:
        self.answers.wait()
        return False


async def test_files_that_cannot_be_reached_hold_up_nothing(tmp_path: Path, autojump_clock: None) -> None:
    """Neither the loop nor its end."""
    stuck = StuckFiles(World(Authority(tmp_path)).server)
    try:
        with trio.move_on_after(5 * LOOK_S) as waited:
            await watch(stuck, logs.get_logger("test"))
        assert waited.cancelled_caught
    finally:
        stuck.answers.set()


def test_the_client_refuses_its_own_bad_certificate(world: World) -> None:
    with pytest.raises(IllegalParams, match="has expired; nothing was sent"):
        Security(world.authority.issue("old2", begins=now() - 2 * DAY, ends=now() - DAY))
