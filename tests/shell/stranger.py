"""A peer that writes what it likes to a real socket, and an honest client beside it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

from synchro.wire import frames
from synchro.wire.frames import HEAD, HEAD_BYTES, PREFACE, ErrorCode
from synchro.wire.grpc_call import StatusCode, read_status, request_block
from synchro.wire.headers import HeaderDecoder
from synchro.wire.limits import WireLimits
from tests.conformance.exchange import Exchange, FaceOptions
from tests.conformance.faces import SyncFace
from tests.conformance.servers import OurServer

HONEST_S: Final = 1.0
"""Seconds of processor time, of server and clients together, that pass at the most until the honest client is
answered, whatever happens beside it: what the machine does besides does not count."""
ANSWER_S: Final = 10.0
"""Seconds that it waits for an answer: nothing holds it up for ever."""
END_S: Final = 30.0
"""Seconds within which a stranger hears how it ends."""


class Stranger:
    """A connection on which nothing is said that a test did not write."""

    def __init__(self, address: str, *, receive_bytes: int = 0, source: str = "") -> None:
        """receive_bytes: of the system's buffer, so that what is not read is soon felt; 0: as usual. source:
        the own address, such as 127.0.0.9; "": as usual."""
        host, _, port = address.rpartition(":")
        self.sock = socket.socket()
        if receive_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect((host, int(port)))
        self.is_closed = False
        self.goaway: ErrorCode | None = None
        """What the last GOAWAY said."""
        self.why = ""
        self.resets: dict[int, ErrorCode] = {}
        self.statuses: dict[int, StatusCode] = {}
        """Streams that ended by trailers."""
        self.texts: dict[int, str] = {}
        """What those trailers say."""
        self.data_bytes = 0
        self.pongs = 0
        self.answers = False
        """It answers what the server asks by PING."""
        self._partial = b""
        self._decoder = HeaderDecoder(WireLimits(), is_client=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def say(self, *pieces: bytes) -> None:
        """Send; a server that has closed is no error here."""
        try:
            self.sock.sendall(b"".join(pieces))
        except OSError:
            self.is_closed = True

    def hello(self, **settings: int) -> Self:
        """Say what a client says first. settings: of the names of RFC 9113, 6.5.2, in lower case."""
        values = {getattr(frames, name.upper()): value for name, value in settings.items()}
        self.say(PREFACE, frames.settings(values))
        return self

    def hear(self, condition: Callable[[], Any], within_s: float = END_S) -> bool:
        """Read until the condition holds, the connection is closed, or the time is over."""
        deadline = time.monotonic() + within_s
        while not condition() and not self.is_closed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                break
            except OSError:
                data = b""
            if not data:
                self.is_closed = True
            self._take(data)
        self.sock.settimeout(None)
        return bool(condition())

    def ends(self, within_s: float = END_S) -> bool:
        """Whether the server closes the connection."""
        return self.hear(lambda: self.is_closed, within_s)

    def is_served(self) -> bool:
        """Whether the connection is alive: a PING is answered."""
        before = self.pongs
        self.say(frames.ping(bytes(8)))
        return self.hear(lambda: self.pongs > before)

    def _take(self, data: bytes) -> None:
        data = self._partial + data
        at = 0
        while len(data) - at >= HEAD_BYTES:
            head, flags, stream_id = HEAD.unpack_from(data, at)
            end = at + HEAD_BYTES + (head >> 8)
            if end > len(data):
                break
            self._take_frame(head & 0xFF, flags, stream_id, data[at + HEAD_BYTES : end])
            at = end
        self._partial = data[at:]

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.GOAWAY:
            self.goaway = ErrorCode.of(int.from_bytes(payload[4:8], "big"))
            self.why = payload[8:].decode()
        elif kind == frames.RST_STREAM:
            self.resets[stream_id] = ErrorCode.of(int.from_bytes(payload, "big"))
        elif kind == frames.HEADERS:
            fields = self._decoder.decode(payload)
            if flags & frames.END_STREAM:
                status = read_status(fields)
                self.statuses[stream_id], self.texts[stream_id] = status.code, status.message
        elif kind == frames.PING and flags & frames.ACK:
            self.pongs += 1
        elif kind == frames.PING and self.answers:
            self.say(frames.ping(payload, is_ack=True))
        elif kind == frames.DATA:
            self.data_bytes += len(payload)


class Honest:
    """Calls all the time, on a connection of its own."""

    def __init__(self, address: str) -> None:
        self.calls = 0
        self.worst_s = 0.0
        self._face = SyncFace(address, FaceOptions())
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="honest", daemon=True)
        self._one()

    def _one(self) -> None:
        begun = time.process_time()
        assert self._face.run(Exchange("EchoSync", (b"honest",), timeout_s=ANSWER_S)).reply == b"honest"
        self.worst_s = max(self.worst_s, time.process_time() - begun)
        self.calls += 1

    def _run(self) -> None:
        while not self._is_over.wait(0.01):
            self._one()

    def __enter__(self) -> Self:
        self.worst_s = 0.0
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(15)
        with contextlib.suppress(Exception):
            self._one()
        self._face.close()


class Log:
    """What the port writes."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.records]

    def warning(self, event: str, **facts: Any) -> None:
        self.records.append((event, facts))


@contextmanager
def under_attack(**how: Any) -> Iterator[tuple[OurServer, Log]]:
    """A server, and an honest client that must be answered in time while the block lasts, and behind it.
    how: for `RpcHost.serve`."""
    log = Log()
    with OurServer(log=log, **how) as server, Honest(server.address) as honest:
        yield server, log
        before = honest.calls
        server.journal.wait("the honest client goes on", lambda: honest.calls > before + 1)
        assert honest.worst_s < HONEST_S


# --- frames ---------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def head(stream_id: int, method: str, *, end: bool = False) -> bytes:
    """HEADERS of a call."""
    block = request_block(Exchange(method).path, "localhost")
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frame(frames.HEADERS, flags, stream_id, block)


def message(stream_id: int, content: bytes = b"", *, end: bool = True) -> bytes:
    """DATA with one gRPC message, which fits into one frame."""
    payload = b"\0" + len(content).to_bytes(4, "big") + content
    return frame(frames.DATA, frames.END_STREAM if end else 0, stream_id, payload)


def call(stream_id: int, method: str, request: bytes = b"") -> bytes:
    return head(stream_id, method) + message(stream_id, request)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def rst(stream_id: int) -> bytes:
    return frame(frames.RST_STREAM, 0, stream_id, number(ErrorCode.CANCEL))


def window(stream_id: int, more: int) -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, stream_id, number(more))
