"""A closed-loop gRPC load generator that costs next to nothing, so that what is measured is the server.

Client libraries use more processor time for a call than a server does for a small write, and both share the
machine here. This one writes HTTP/2 frames itself: a request is a constant header block (6 bytes from the
second one on) and the message; of a reply only the frames are looked at. It is the same for both systems.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW: Final = 2**30
TOP_UP: Final = 2**28
UNLIMITED: Final = -1
LATER_HEADERS: Final = bytes((0x83, 0x86, 0xC1, 0xC0, 0xBF, 0xBE))
"""POST, http, then path, authority, content-type and te, which the first request left in the table."""

Make = Callable[[], bytes]
Done = Callable[[float, float, int], None]
"""When it began, when it ended, bytes of the reply; 0: the call failed."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes((len(text),)) + text


class Connection(asyncio.Protocol):
    """One HTTP/2 connection with `callers` calls always in flight."""

    def __init__(self, path: str, authority: str, callers: int, make: Make, done: Done) -> None:
        self._first_headers = (
            b"\x83\x86\x44" + _literal(path.encode()) + b"\x41" + _literal(authority.encode())
            + b"\x5f" + _literal(b"application/grpc") + b"\x40" + _literal(b"te") + _literal(b"trailers")
        )  # fmt: skip
        self.callers = callers
        self._make = make
        self._done = done
        self._next_stream = 1
        self._began: dict[int, float] = {}
        self._replies: dict[int, int] = {}
        self._buffer = b""
        self._window = 65535
        self._stream_window = 65535
        self._unread = 0
        self._blocked: deque[tuple[int, bytes]] = deque()
        self.stopping = False
        self.calls_left = UNLIMITED
        self.idle = asyncio.Event()
        self.error: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        settings = struct.pack(">HI", 4, WINDOW)  # INITIAL_WINDOW_SIZE
        transport.write(
            PREFACE
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))
        )
        transport.write(b"".join(self._request() for _ in range(self.callers)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._began:
            self.error = self.error or f"connection lost: {exc}"
        self.idle.set()

    def _request(self) -> bytes:
        stream = self._next_stream
        self._next_stream += 2
        headers = LATER_HEADERS if stream > 1 else self._first_headers
        message = self._make()
        data = b"\0" + len(message).to_bytes(4, "big") + message
        begin = frame(HEADERS, END_HEADERS, stream, headers)
        self._began[stream] = time.perf_counter()
        assert len(data) <= self._stream_window
        if self._blocked or len(data) > self._window:
            self._blocked.append((stream, data))
            return begin
        self._window -= len(data)
        return begin + _data_frames(stream, data)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        at, size = 0, len(data)
        out: list[bytes] = []
        finished = 0
        replies = self._replies
        while size - at >= 9:
            length = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2]
            end = at + 9 + length
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            if kind == DATA:
                self._unread += length
                replies[stream] = replies.get(stream, 0) + length
            if kind in (DATA, HEADERS):
                if flags & END_STREAM:
                    finished += 1
                    self._done(self._began.pop(stream), time.perf_counter(), replies.pop(stream, 0))
            elif kind == WINDOW_UPDATE:
                if stream == 0:
                    self._window += int.from_bytes(data[at + 9 : end], "big")
            elif kind == SETTINGS:
                if not flags & ACK:
                    for place in range(at + 9, end, 6):
                        name, value = struct.unpack_from(">HI", data, place)
                        if name == 4:
                            self._stream_window = value
                    out.append(frame(SETTINGS, ACK, 0))
            elif kind == PING:
                if not flags & ACK:
                    out.append(frame(PING, ACK, 0, data[at + 9 : end]))
            elif kind == RST_STREAM:
                finished += 1
                replies.pop(stream, None)
                self._done(self._began.pop(stream), time.perf_counter(), 0)
            elif kind == GOAWAY:
                self.error = f"server said GOAWAY: {data[at + 17 : end]!r}"
            at = end
        self._buffer = data[at:]
        if self._unread > TOP_UP:
            out.append(frame(WINDOW_UPDATE, 0, 0, self._unread.to_bytes(4, "big")))
            self._unread = 0
        while self._blocked and len(self._blocked[0][1]) <= self._window:
            stream, message = self._blocked.popleft()
            self._window -= len(message)
            out.append(_data_frames(stream, message))
        if not self.stopping:
            more = finished
            if self.calls_left != UNLIMITED:
                more = min(finished, self.calls_left)
                self.calls_left -= more
            out.extend(self._request() for _ in range(more))
        if not self._began and (self.stopping or self.calls_left == 0):
            self.idle.set()
        if out:
            self._transport.write(b"".join(out))

    def close(self) -> None:
        self._transport.close()


def _data_frames(stream: int, data: bytes) -> bytes:
    """At most 16 KiB each, which every server accepts."""
    if len(data) <= 16384:
        return frame(DATA, END_STREAM, stream, data)
    return b"".join(
        frame(DATA, END_STREAM if at + 16384 >= len(data) else 0, stream, data[at : at + 16384])
        for at in range(0, len(data), 16384)
    )


class Load:
    """`callers` closed loops over `connections` connections."""

    def __init__(
        self, address: str, path: str, callers: int, connections: int, make: Make, done: Done
    ) -> None:
        self._address = address
        shares = [callers // connections + (n < callers % connections) for n in range(connections)]
        self._connections = [Connection(path, address, share, make, done) for share in shares if share]

    def stop_after(self, calls: int) -> None:
        """All in all so many; with one connection."""
        (connection,) = self._connections
        connection.calls_left = calls - connection.callers

    async def start(self) -> None:
        host, _, port = self._address.rpartition(":")
        loop = asyncio.get_running_loop()
        for connection in self._connections:
            await loop.create_connection(lambda c=connection: c, host, int(port))  # type: ignore[misc]

    async def stop(self) -> None:
        """No more calls, unless `stop_after` promised some; waits for those in flight."""
        for connection in self._connections:
            connection.stopping = connection.calls_left == UNLIMITED
        for connection in self._connections:
            async with asyncio.timeout(300):
                await connection.idle.wait()
            connection.close()

    def check(self) -> None:
        for connection in self._connections:
            if connection.error is not None:
                raise RuntimeError(connection.error)
