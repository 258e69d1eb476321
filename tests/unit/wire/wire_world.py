"""One end of a connection under test, a peer that can send any frame, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from synchro.wire import frames
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ConnectionFault, ErrorCode
from synchro.wire.headers import Field, HeaderList, header_block
from synchro.wire.limits import WireLimits
from synchro.wire.streams import BadMessage, Http2Stream

KIB = 1024
MIB = 1024 * KIB
REQUEST: list[Field] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/synchro.v1.Data/Execute"),
    (b":authority", b"127.0.0.1:3301"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
RESPONSE: list[Field] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS: list[Field] = [(b"grpc-status", b"0")]
NAMES = (
    *("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS"),
    *("PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"),
)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    def __repr__(self) -> str:
        return f"{NAMES[self.kind]}({self.flags:#x}, {self.stream_id}, {self.payload[:40]!r})"


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return frames.HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    return frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    """A gRPC message with its prefix."""
    return frames.PREFIX.pack(compressed, len(payload)) + payload


def headers(stream_id: int, fields: list[Field] | bytes, *, end: bool = False, flags: int = 0x4) -> bytes:
    block = fields if isinstance(fields, bytes) else header_block(fields)
    return frame(frames.HEADERS, flags | (frames.END_STREAM if end else 0), stream_id, block)


def request(stream_id: int, *, end: bool = False) -> bytes:
    return headers(stream_id, REQUEST, end=end)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def rst(stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
    return frame(frames.RST_STREAM, 0, stream_id, number(code))


def window(stream_id: int, more: int) -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, stream_id, number(more))


def settings(**values: int) -> bytes:
    """Of the names of RFC 9113, 6.5.2, in lower case."""
    return frames.settings({getattr(frames, name.upper()): value for name, value in values.items()})


def goaway(last_id: int, code: int = 0, why: bytes = b"") -> bytes:
    return frame(frames.GOAWAY, 0, 0, number(last_id) + number(code) + why)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Listener:
    """An owner that writes down what it is told."""

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self.log = log
        self.messages: list[bytes] = []
        self.do: Callable[[bytes], None] = lambda message: None
        self.on_room: Callable[[], None] = lambda: None

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        self.log.append(("headers", stream.id, headers.fields))

    def on_message(self, data: bytes) -> None:
        self.messages.append(data)
        self.do(data)

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        self.log.append(("bad message", stream.id, why, length))

    def on_end(self, stream: Http2Stream) -> None:
        self.log.append(("end", stream.id))

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self.log.append(("reset", stream.id, code))

    def on_unblocked(self, stream: Http2Stream) -> None:
        self.log.append(("unblocked", stream.id))
        self.on_room()

    def on_lost(self, why: str) -> None:
        self.log.append(("lost", why))


class End:
    """One end under test. `log`: what its owners were told; `sent`: the frames it sent, all in order."""

    def __init__(self, *, is_client: bool, greet: bool = True, **limits: Any) -> None:
        self.clock = Clock()
        self.log: list[tuple[Any, ...]] = []
        self.opened: dict[int, Http2Stream] = {}
        self.listeners: dict[int, Listener] = {}
        self.h2 = Http2Connection(
            is_client=is_client,
            limits=replace(WireLimits(), **limits),
            clock=self.clock,
            on_stream=None if is_client else self._on_stream,
            on_goaway=lambda *what: self.log.append(("goaway", *what)),
            on_ping_ack=lambda payload: self.log.append(("ping ack", payload)),
        )
        self.greeting = self.h2.take()
        self._rest = b""
        if greet:
            self.receive((b"" if is_client else frames.PREFACE) + settings())
            assert self.sent() == [Frame(frames.SETTINGS, frames.ACK, 0, b"")]

    def _on_stream(self, stream: Http2Stream, headers: HeaderList) -> None:
        self.listen(stream)
        self.log.append(("stream", stream.id))

    def listen(self, stream: Http2Stream) -> Listener:
        listener = Listener(self.log)
        stream.owner = listener
        self.opened[stream.id] = stream
        self.listeners[stream.id] = listener
        return listener

    def open(self, *, end: bool = False) -> Http2Stream:
        """A call of a client."""
        listener = Listener(self.log)
        stream = self.h2.open(header_block(REQUEST), listener, end=end)
        self.opened[stream.id] = stream
        self.listeners[stream.id] = listener
        return stream

    def receive(self, *pieces: bytes) -> End:
        for piece in pieces:
            self.h2.receive(piece)
            self.h2.check()
        return self

    def receive_unchecked(self, *pieces: bytes) -> None:
        """As `receive`, for many streams: `check` looks at all of them."""
        for piece in pieces:
            self.h2.receive(piece)

    def sent(self) -> list[Frame]:
        """The frames since the last time."""
        while piece := self.h2.take():
            self._rest += piece
            self.h2.check()
        found = []
        while self._rest:
            head, flags, stream_id = frames.HEAD.unpack_from(self._rest)
            end = 9 + (head >> 8)
            found.append(Frame(head & 0xFF, flags, stream_id, self._rest[9:end]))
            self._rest = self._rest[end:]
        return found

    def messages(self, stream_id: int = 1) -> list[bytes]:
        return self.listeners[stream_id].messages

    def told(self) -> list[tuple[Any, ...]]:
        """What owners were told since the last time, messages aside."""
        told = list(self.log)
        self.log.clear()
        return told

    def fault(self, *pieces: bytes) -> ConnectionFault:
        """The fault that these bytes are, of which the last frame sent says the same."""
        with pytest.raises(ConnectionFault) as raised:
            self.receive(*pieces)
        last = self.sent()[-1]
        assert last.kind == frames.GOAWAY and last.payload[4:8] == number(raised.value.code)
        assert self.h2.fault is raised.value
        self.h2.receive(b"more")
        assert self.h2.take() == b""
        return raised.value

    def code(self, *pieces: bytes) -> ErrorCode:
        return self.fault(*pieces).code


def server(*, greet: bool = True, **limits: Any) -> End:
    return End(is_client=False, greet=greet, **limits)


def client(*, greet: bool = True, **limits: Any) -> End:
    return End(is_client=True, greet=greet, **limits)


def resets(sent: list[Frame]) -> dict[int, ErrorCode]:
    """Stream -> code of its RST_STREAM."""
    return {
        f.stream_id: ErrorCode(int.from_bytes(f.payload, "big")) for f in sent if f.kind == frames.RST_STREAM
    }
