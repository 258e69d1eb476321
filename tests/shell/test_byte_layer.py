"""TLS fits between socket and HTTP/2: an `SSLObject`, without a task, a second path or another connection."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import trio

from synchro.wire import grpc_call
from synchro.wire.headers import HeaderList
from synchro.wire.io import LayerFault
from synchro.wire.limits import WireLimits
from synchro.wire.link import Keepalive, Link
from synchro.wire.streams import Http2Stream, Nobody
from synchro.wire.turns import open_turns
from tests.shell.raw_client import Seen
from tests.shell.rpc_probe import until

IDENTITY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJlw8MapmjMJHawnk
NVPlsm544JoHQLoJ0J3LcpsXLkuhRANCAAQPY49mvhxrrvQfiTYWQE8NOD6ZJ0TD
jDlKkFIkDgfvb3FDaRN0s0AauazUm9we0Tewf5bFLP15X715a/qUeO0h
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBlDCCATugAwIBAgIUBpz6VxbRcunLq3D+vQv511bV//cwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEzMDAzMDczNVoYDzIxMjYxMTA2
MDMwNzM1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQPY49mvhxrrvQfiTYWQE8NOD6ZJ0TDjDlKkFIkDgfvb3FDaRN0s0Aa
uazUm9we0Tewf5bFLP15X715a/qUeO0ho2kwZzAdBgNVHQ4EFgQUO+cI+XbZ87KX
xCogjXMFsGkG/RkwHwYDVR0jBBgwFoAUO+cI+XbZ87KXxCogjXMFsGkG/RkwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
RwAwRAIgATHxVGR56AObKu8DzkBRbS/oPqVickfpIQwvhh0rTZ4CIEciNT0DMTUC
XPl130eiurRUGasjwwbohb6IEuEmvU94
-----END CERTIFICATE-----
"""
"""Of "localhost", for a hundred years; made for this test."""
QUIET = Keepalive(after_s=60.0, timeout_s=5.0)


class Tls:
    """A `ByteLayer` of TLS."""

    def __init__(self, context: ssl.SSLContext, *, is_server: bool) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if is_server else "localhost"
        self.tls = context.wrap_bio(self._in, self._out, server_side=is_server, server_hostname=name)
        self.is_ready = False
        self._waiting = b""

    def received(self, data: bytes) -> bytes:
        self._in.write(data)
        parts = []
        try:
            self._shake_hands()
            while part := self.tls.read(65536) if self.is_ready else b"":
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise LayerFault(str(error)) from error
        return b"".join(parts)

    def to_send(self, data: bytes) -> bytes:
        self._waiting += data
        self._shake_hands()
        if self.is_ready and self._waiting:
            self.tls.write(self._waiting)
            self._waiting = b""
        return self._out.read()

    def _shake_hands(self) -> None:
        if not self.is_ready:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                return
            assert self.tls.selected_alpn_protocol() == "h2"
            self.is_ready = True


class Echo(Nobody):
    """Answers a call with its request."""

    def __init__(self, stream: Http2Stream, link: Link) -> None:
        self.stream = stream
        self.link = link
        self.data = b""

    def on_message(self, data: bytes) -> None:
        self.data = data

    def on_end(self, stream: Http2Stream) -> None:
        stream.answer(grpc_call.RESPONSE_HEAD, self.data, grpc_call.OK_TRAILERS)
        self.link.mark()


def on_stream(link: Link, stream: Http2Stream, headers: HeaderList) -> None:
    stream.owner = Echo(stream, link)


def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    path = directory / "identity.pem"
    path.write_text(IDENTITY)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(path))
    for context in (server, client):
        context.set_alpn_protocols(["h2"])
    return server, client


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return client, server


async def test_calls_over_tls(tmp_path: Path) -> None:
    server_context, client_context = contexts(tmp_path)
    ours, theirs = connected()
    with trio.fail_after(10):
        async with open_turns() as turns:
            closed: list[Link] = []
            server = Link(
                turns,
                theirs,
                is_client=False,
                limits=WireLimits(),
                keepalive=QUIET,
                on_closed=closed.append,
                on_stream=on_stream,
                layer=Tls(server_context, is_server=True),
            )
            client = Link(
                turns,
                ours,
                is_client=True,
                limits=WireLimits(),
                keepalive=QUIET,
                on_closed=closed.append,
                layer=Tls(client_context, is_server=False),
            )
            seen = []
            for size in (0, 100, 1 << 20, 5 << 20):
                seen.append(call := Seen())
                stream = client.h2.open(grpc_call.request_block("/t/Echo", "localhost"), call)
                stream.send_message(bytes(size), end=True)
            client.mark()
            await until(lambda: all(call.is_over for call in seen))
            assert [len(call.messages[0]) for call in seen] == [0, 100, 1 << 20, 5 << 20]
            for link in (client, server):
                link.check()
            client.end("that was all")
            await until(lambda: len(closed) == 2)


async def test_who_does_not_speak_tls_is_closed(tmp_path: Path) -> None:
    server_context, _ = contexts(tmp_path)
    ours, theirs = connected()
    with trio.fail_after(10):
        async with open_turns() as turns:
            closed: list[Link] = []
            Link(
                turns,
                theirs,
                is_client=False,
                limits=WireLimits(),
                keepalive=QUIET,
                on_closed=closed.append,
                on_stream=on_stream,
                layer=Tls(server_context, is_server=True),
            )
            ours.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: len(closed) == 1)
            ours.close()
