"""One socket with its HTTP/2 connection, at either end."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

import trio

from synchro.failpoints import failpoint_fires
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import PREFACE, ConnectionFault, ErrorCode
from synchro.wire.headers import HeaderList
from synchro.wire.io import PLAIN, ByteLayer, LayerFault
from synchro.wire.limits import WireLimits
from synchro.wire.poll import READ, WRITE
from synchro.wire.streams import Http2Stream
from synchro.wire.turns import RECEIVE_BYTES, Timer, Turns

BACKLOG_READ_MAX: Final = 4 << 20
"""A server takes nothing more from a connection that has this many bytes to take. Less would hold back the
answers of a peer behind a slow link, which are wanted to know its rate. A client reads always: if neither end
did, both would wait for ever."""
WRITE_BYTES_MAX: Final = 1 << 20
"""After so many bytes in one write the rest has to wait for the next round: a fast reader may take all that
waits for it, and everybody else would wait meanwhile."""
READ_BYTES: Final = 64 * 1024
"""Of the first read from a connection; later ones follow what they cost, up to `turns.RECEIVE_BYTES`."""
READ_BYTES_MIN: Final = 16 * 1024
SLOW_READ_S: Final = 0.004
"""What a read may cost until the next one is made smaller: others wait meanwhile."""
LONG_TURN_S: Final = 0.02
"""What the calls of a read may cost until the rest of them waits for everybody else's turn: a request of 30
bytes can cost a millisecond. Long enough for many to share a transaction. All who have something share it."""
LINGER_S: Final = 1.0
"""Seconds that a closed connection waits for the other end to see why: what is closed with unread bytes is
reset by the system, and the reason with it."""

PING_PAYLOAD: Final = b"synchro\0"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keepalive:
    """after_s: seconds without a byte from the other end until it is asked; timeout_s: to answer."""

    after_s: float
    timeout_s: float


class Emitter(Protocol):
    """A stream that hands what it has to HTTP/2 when the connection is about to write."""

    def emit(self) -> None: ...


def _ignore() -> None:
    pass


def _ignore_bytes(more: int) -> None:
    pass


class Link:
    """A connection from its first byte to its last.

    K1  What one read brings is handled in one turn, and written once at its end. What takes longer than
        `LONG_TURN_S` goes on in turns of its own, and nothing is read meanwhile; what goes beyond
        `WRITE_BYTES_MAX` is written in later rounds.
    K2  While bytes wait that the socket did not take, no stream is asked for more.
    K3  Once it is over, every stream was told by `on_lost`, and nothing is written but the reason.
    K4  After each turn `kept_bytes` is what lies here for who does not take it, or does not end it, and
        `on_kept` was told each change.
    """

    def __init__(
        self,
        turns: Turns,
        sock: socket.socket,
        *,
        is_client: bool,
        limits: WireLimits,
        keepalive: Keepalive,
        on_closed: Callable[[Link], None],
        on_stream: Callable[[Link, Http2Stream, HeaderList], None] | None = None,
        on_kept: Callable[[int], None] = _ignore_bytes,
        layer: ByteLayer = PLAIN,
    ) -> None:
        """Take over a connected socket. on_closed: told once, when the socket is closed. on_kept: told by how
        many bytes `kept_bytes` grew, or shrank; it must not touch the link."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.peer = peer_of(sock)
        self.is_private = layer is not PLAIN or is_loopback(sock)
        """Nobody between the ends reads it: it is encrypted, or leaves this host nowhere."""
        self.is_urgent = is_client
        """What comes on it is heard first: a member of the set is at the other end."""
        self.is_dirty = False
        self.is_over = False
        self.why = ""
        self.fault_heard = ""
        """Why the other end closes, if it says so."""
        self.has_bad_bytes = False
        """The layer below HTTP/2 found a fault, such as a certificate that is refused: see `why`."""
        self.fault_code: ErrorCode | None = None
        """What we told the other end when we closed; None: nothing, or it is not closed."""
        self.received = 0
        """Bytes that came from the socket."""
        self.unended_bytes = 0
        """Bytes of requests that wait for the end of their calls; kept by those calls."""
        self.kept_bytes = 0
        """Bytes that lie here, whoever keeps them: Link.K4."""
        self.first_bytes = b""
        """What came for HTTP/2 before the preface was complete."""
        self.began_at = trio.current_time()
        self.h2 = Http2Connection(
            is_client=is_client,
            limits=limits,
            clock=trio.current_time,
            on_stream=None if on_stream is None else lambda stream, headers: on_stream(self, stream, headers),
            on_goaway=self._on_goaway,
        )
        self.on_settled: Callable[[], None] | None = None
        """Called once, when the other end has shown that it speaks HTTP/2."""
        self.on_goaway: Callable[[], None] = _ignore
        """Called when the other end says that it takes no further calls."""
        self.on_over: Callable[[], None] | None = None
        """Called once, when it is over."""
        self._turns = turns
        self.layer = layer
        self._is_client = is_client
        self._on_closed = on_closed
        self._on_kept = on_kept
        self._emitting: list[Emitter] = []
        self._backlog = memoryview(b"")
        self._moved_at = self.began_at  # when the socket last took something of the backlog, or it began
        self._events = READ
        self._read_bytes = READ_BYTES
        self._is_closed = False
        self._is_shut = False  # for writing
        self._keepalive = keepalive
        self._seen = 0  # `received` when the keepalive looked last
        self._is_asked = False
        turns.register(sock, READ, self)
        self._timer: Timer = turns.call_at(self.began_at + keepalive.after_s, self._look)
        turns.mark(self)

    # ---- writing --------------------------------------------------------------------------------------

    def mark(self) -> None:
        """Write what HTTP/2 has to say at the end of this turn, or in the next round."""
        self._turns.mark(self)

    def emit_later(self, emitter: Emitter) -> None:
        """Ask `emitter` for what it has before the next write."""
        self._emitting.append(emitter)
        self._turns.mark(self)

    @property
    def has_backlog(self) -> bool:
        """Whether the socket does not take what was written."""
        return bool(self._backlog)

    @property
    def stalled_since(self) -> float | None:
        """Seconds of trio's clock since when bytes wait for the socket or for the other end's windows, and
        none has moved; None: none waits."""
        return self._moved_at if self._backlog else self.h2.stalled_since

    def write(self) -> None:
        self.is_dirty = False
        if not self._backlog and not self._is_shut:
            try:
                self._write()
            except Exception:
                log.exception("a connection failed; it is closed, and its calls are over")
                self.close("internal error")
        self._count_kept()

    def _count_kept(self) -> None:
        kept = 0 if self._is_closed else len(self._backlog) + self.unended_bytes + self.h2.kept_bytes
        if kept != self.kept_bytes:
            more, self.kept_bytes = kept - self.kept_bytes, kept
            self._on_kept(more)

    def _write(self) -> None:
        emitting = self._emitting
        if emitting:
            self._emitting = []
            for emitter in emitting:
                emitter.emit()
        written = 0
        while True:
            data = self.layer.to_send(self.h2.take())
            if not data:
                break
            self._send(data)
            if self._backlog or self._is_closed:
                return
            written += len(data)
            if written >= WRITE_BYTES_MAX:
                self._turns.mark(self)
                return
        if self.h2.is_drained and not self.is_over:
            self.end("the connection was given up in good order")

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        if sent < len(data):
            if sent or not self._backlog:
                self._moved_at = trio.current_time()
            self._backlog = memoryview(data)[sent:]
            self._watch()
        elif self._backlog:
            self._backlog = memoryview(b"")
            self._watch()

    def _watch(self) -> None:
        """Ask for the events that matter."""
        if self._is_closed:
            return
        events = READ
        if self._backlog:
            is_stuck = not self._is_client and not self.is_over and len(self._backlog) > BACKLOG_READ_MAX
            events = WRITE if is_stuck else READ | WRITE
        if events != self._events:
            if self.h2.has_rest and not self.is_over and events & READ and not self._events & READ:
                self._turns.call_again(self, READ)  # it was stuck
            self._events = events
            self._turns.modify(self.sock, events)

    def _write_backlog(self) -> None:
        self._send(self._backlog)
        if not self._backlog and not self._is_closed:
            self.write()
            if self.is_over and not self._backlog:
                self._shut()
        else:
            self._watch()
            self._count_kept()

    # ---- reading --------------------------------------------------------------------------------------

    def on_ready(self, events: int) -> None:
        if self._is_closed:
            return
        if events & WRITE:
            self._write_backlog()
        if events & READ and not self._is_closed:
            if not self.h2.has_rest:
                self._read()
            elif self._events & READ:
                self._take(b"")

    def _read(self) -> None:
        buffer = self._turns.buffer
        try:
            size = self.sock.recv_into(buffer, self._read_size())
        except BlockingIOError:
            return
        except OSError as error:
            self.close(self._closed_by(error.strerror or str(error)))
            return
        if not size:
            self.close(self._closed_by("Socket closed"))
            return
        if self.is_over:
            return  # nobody is interested
        self.received += size
        self._take(bytes(memoryview(buffer)[:size]))

    def _read_size(self) -> int:
        chunk = failpoint_fires("net.read_chunk")
        return self._read_bytes if chunk is None else max(1, min(int(chunk.value), self._read_bytes))

    def _take(self, data: bytes) -> None:
        """data: what came, or nothing: go on with the rest."""
        size, began = len(data), time.monotonic()
        end = began + LONG_TURN_S / self._turns.busy
        try:
            if data:
                data = self.layer.received(data)
                if len(self.first_bytes) < len(PREFACE):
                    self.first_bytes = (self.first_bytes + data)[: len(PREFACE)]
            self.h2.receive(data, lambda: time.monotonic() > end)
        except ConnectionFault as fault:  # HTTP/2 has its reason in the output
            self.fault_code = fault.code
            self.end(str(fault))
        except LayerFault as fault:
            self.has_bad_bytes = True
            self.end(str(fault))
        except Exception:
            log.exception("a connection failed; it is closed, and its calls are over")
            self.fault(ErrorCode.INTERNAL_ERROR, "internal error")
        else:
            self._turns.mark(self)
            self._fit_reads(size, time.monotonic() - began)
            if self.h2.has_rest:
                self._turns.call_again(self, READ)
            if self.on_settled is not None and self.h2.is_settled:
                told, self.on_settled = self.on_settled, None
                told()

    def _closed_by(self, why: str) -> str:
        """Why the connection is over that the other end closed. why: what the system says."""
        if not self.layer.is_ready:
            return "closed by the other end in the TLS handshake: it may refuse the certificate"
        return self.fault_heard or why

    def _on_goaway(self, _last_id: int, code: ErrorCode, why: bytes) -> None:
        if code is not ErrorCode.NO_ERROR:
            self.fault_heard = f"closed by the other end: {why.decode('utf-8', 'replace')} ({code.name})"
        self.on_goaway()

    def _fit_reads(self, size: int, took_s: float) -> None:
        """What one read may bring follows what its bytes cost: a call of some bytes can cost milliseconds,
        and a large message hardly anything."""
        if took_s > SLOW_READ_S:
            self._read_bytes = max(READ_BYTES_MIN, self._read_bytes // 4)
        elif size == self._read_bytes < RECEIVE_BYTES:
            self._read_bytes *= 2

    # ---- the end --------------------------------------------------------------------------------------

    def fault(self, code: ErrorCode, why: str) -> None:
        """Tell the other end why, and close. Its calls are lost."""
        if self.is_over:
            return
        self.fault_code = code
        self.h2.goaway(code, why)
        self.end(why)

    def dismiss(self, why: str) -> None:
        """Tell the other end, of which nothing is unread, that nobody waits for it, and close at once."""
        if not self.is_over:
            if self.layer.is_ready:
                self.h2.goaway(ErrorCode.NO_ERROR, why)
                self.write()
            self.close(why)

    def end(self, why: str) -> None:
        """Write what is still to be said, then close; the other end has `LINGER_S` to take it."""
        if self.is_over:
            return
        self._lose(why)
        self.write()
        if self._is_closed:
            return
        self._timer.cancel()
        self._timer = self._turns.call_at(trio.current_time() + LINGER_S, self._close_socket)
        self._watch()
        if not self._backlog:
            self._shut()

    def close(self, why: str) -> None:
        """Close at once."""
        self._lose(why)
        self._close_socket()

    def _lose(self, why: str) -> None:
        if not self.is_over:
            self.is_over = True
            self.why = why
            self.h2.lost(why)
            if self.on_over is not None:
                self.on_over()

    def _shut(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._close_socket()

    def _close_socket(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._timer.cancel()
            self._turns.unregister(self.sock)
            self.sock.close()
            self._emitting.clear()
            self._on_closed(self)
            # Nobody tells anything more: what would hold each other for the collector lets go.
            self.on_over = self.on_settled = None
            self.on_goaway = _ignore
            self.h2.let_go()
            self._count_kept()

    def check(self) -> None:
        """Assert Link.K2 to Link.K4, and the rules of HTTP/2, between turns; for tests."""
        assert not self._is_closed or (self.is_over and not self._emitting)
        assert not self.is_over or not (self.h2.streams or self.h2.pending)
        assert self._backlog or not self._emitting or self.is_dirty or self.is_over
        kept = len(self._backlog) + self.unended_bytes + self.h2.kept_bytes
        assert self.is_dirty or self.kept_bytes == (0 if self._is_closed else kept)
        self.h2.check()

    # ---- keepalive ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Ask who was silent; close who did not answer."""
        if self.is_over:
            return
        wait_s = self._keepalive.after_s
        if self.received != self._seen:
            self._seen, self._is_asked = self.received, False
        elif self._is_asked:
            self.fault(ErrorCode.NO_ERROR, f"no answer to a ping for {self._keepalive.timeout_s:g} s")
            return
        else:
            self._is_asked = True
            self.h2.ping(PING_PAYLOAD)
            self._turns.mark(self)
            wait_s = self._keepalive.timeout_s
        self._timer = self._turns.call_at(trio.current_time() + wait_s, self._look)


def is_loopback(sock: socket.socket) -> bool:
    """Whether the other end is on this host."""
    try:
        host = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    except (OSError, ValueError):
        return False
    return (getattr(host, "ipv4_mapped", None) or host).is_loopback


def peer_of(sock: socket.socket) -> str:
    """Return the address of the other end as gRPC writes it: "ipv4:127.0.0.1:50404", "ipv6:%5B::1%5D:1"."""
    try:
        name = sock.getpeername()
    except OSError:
        return "unknown"
    if sock.family == socket.AF_INET:
        return f"ipv4:{name[0]}:{name[1]}"
    if sock.family == socket.AF_INET6:
        return f"ipv6:{quote(f'[{name[0]}]', safe=':')}:{name[1]}"
    return "unknown"
