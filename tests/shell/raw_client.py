"""A client that does with HTTP/2 what an honest one would not, over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from synchro.wire import grpc_call
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ErrorCode
from synchro.wire.headers import HeaderList
from synchro.wire.limits import WireLimits
from synchro.wire.streams import BadMessage, Http2Stream


class Seen:
    """All that a call was told."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.status: grpc_call.Status | None = None
        self.reset: ErrorCode | None = None
        self.lost = ""

    @property
    def is_over(self) -> bool:
        return self.status is not None or self.reset is not None or bool(self.lost)

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        if is_end:
            self.status = grpc_call.read_status(headers)

    def on_message(self, data: bytes) -> None:
        self.messages.append(data)

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        raise AssertionError(why)

    def on_end(self, stream: Http2Stream) -> None: ...

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self.reset = code

    def on_unblocked(self, stream: Http2Stream) -> None: ...

    def on_lost(self, why: str) -> None:
        self.lost = why


class RawClient:
    """A connection; nothing is sent or read but on demand."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.goaways: list[tuple[int, ErrorCode, bytes]] = []
        self.is_closed = False
        self.h2 = Http2Connection(
            is_client=True,
            limits=WireLimits(),
            clock=trio.current_time,
            on_goaway=lambda last_id, code, why: self.goaways.append((last_id, code, why)),
        )

    def call(self, path: str, message: bytes | None = b"", timeout_s: float | None = None) -> Seen:
        """Begin a call; message None: only its head."""
        seen = Seen()
        block = grpc_call.request_block(path, "test", timeout_s=timeout_s)
        stream = self.h2.open(block, seen)
        if message is not None:
            stream.send_message(message, end=True)
        return seen

    async def send(self) -> None:
        while data := self.h2.take():
            await self.stream.send_all(data)

    async def until(self, condition: Callable[[], bool], *, within_s: float = 15.0) -> None:
        """Send and read until the condition holds, or the connection is closed."""
        with trio.fail_after(within_s):
            await self.send()
            while not condition() and not self.is_closed:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    self.is_closed = True
                    self.h2.lost("closed")
                    break
                self.h2.receive(data)
                await self.send()
        assert condition(), "the connection was closed"

    async def until_closed(self, *, within_s: float = 15.0) -> None:
        await self.until(lambda: self.is_closed, within_s=within_s)


@asynccontextmanager
async def raw_client(address: str) -> AsyncIterator[RawClient]:
    name, port = address.rsplit(":", 1)
    async with await trio.open_tcp_stream(name, int(port)) as stream:
        yield RawClient(stream)
