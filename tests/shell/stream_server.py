"""A server of ExecuteStream on asyncio and the core of our HTTP/2, whose every step a test chooses."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.wire import grpc_call
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ConnectionFault, ErrorCode
from synchro.wire.headers import HeaderList
from synchro.wire.limits import WireLimits
from synchro.wire.streams import Http2Stream, Nobody


class StreamServer:
    """`connections`: every one there was. `on_call`: what is done with a call; None: it is not answered."""

    def __init__(self) -> None:
        self.connections: list[StreamConnection] = []
        self.on_call: Callable[[Any], Any] | None = accept
        self.is_mute = False
        """It takes connections and says nothing."""
        self.noise = b""
        """What it says instead of HTTP/2."""
        self.address = ""

    @property
    def open(self) -> list[StreamConnection]:
        return [connection for connection in self.connections if connection.is_open]

    @property
    def ids(self) -> list[bytes]:
        return [call.request_id for connection in self.connections for call in connection.calls]


class StreamConnection(Nobody, asyncio.Protocol):
    """One connection. It is also the owner of its calls."""

    def __init__(self, server: StreamServer, limits: WireLimits) -> None:
        self.server = server
        self.calls: list[Any] = []
        self.frames: list[int] = []
        self.is_open = False
        self.resets: list[ErrorCode] = []
        self.goaways: list[str] = []
        self.stream: Http2Stream | None = None
        self.transport: asyncio.Transport | None = None
        self.h2 = Http2Connection(
            is_client=False,
            limits=limits,
            clock=time.monotonic,
            on_stream=self._on_stream,
            on_goaway=lambda last, code, why: self.goaways.append(why.decode()),
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True
        self.server.connections.append(self)
        if self.server.noise:
            self.transport.write(self.server.noise)
        elif not self.server.is_mute:
            self.flush()

    def data_received(self, data: bytes) -> None:
        if not self.server.is_mute and not self.server.noise:
            try:
                self.h2.receive(data)
            except ConnectionFault:
                self.close()
            self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False

    def flush(self) -> None:
        assert self.transport is not None
        while data := self.h2.take():
            self.transport.write(data)

    def close(self) -> None:
        assert self.transport is not None
        self.flush()
        self.transport.close()

    def send(self, *results: Any) -> None:
        assert self.stream is not None
        header = common_pb2.Header(instance_id=1, instance_name="instance001")
        response = data_pb2.ExecuteStreamResponse(header=header, results=results)
        self.stream.send_message(response.SerializeToString())

    def answer(self, call: Any) -> None:
        """Answer a call that was left open."""
        self.send(accept(call))
        self.flush()

    def _on_stream(self, stream: Http2Stream, headers: HeaderList) -> None:
        stream.owner = self
        self.stream = stream
        stream.send_headers(grpc_call.RESPONSE_HEAD)

    def on_message(self, data: bytes) -> None:
        frame = data_pb2.ExecuteStreamRequest.FromString(data)
        self.frames.append(len(frame.calls))
        self.calls += frame.calls
        if self.server.on_call is not None:
            self.send(*map(self.server.on_call, frame.calls))

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self.resets.append(code)


def accept(call: Any) -> Any:
    return data_pb2.ExecuteResult(
        seq=call.seq, reply=data_pb2.ExecuteReply(txn_origin=1, txn_lsn=call.seq, is_sync=True)
    )


@asynccontextmanager
async def serving(
    host: str = "127.0.0.1", *, limits: WireLimits | None = None, port: int = 0
) -> AsyncIterator[StreamServer]:
    """A server of the running loop of asyncio."""
    server = StreamServer()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = await asyncio.get_running_loop().create_server(
        lambda: StreamConnection(server, limits or WireLimits()), host, port, family=family
    )
    number = listener.sockets[0].getsockname()[1]
    server.address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    try:
        yield server
    finally:
        listener.close()
        for connection in server.open:
            assert connection.transport is not None
            connection.transport.abort()
        await asyncio.sleep(0)


__all__ = ["StreamConnection", "StreamServer", "accept", "serving"]
