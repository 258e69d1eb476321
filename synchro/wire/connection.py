"""One end of an HTTP/2 connection that carries gRPC: bytes in, calls of owners and bytes to send out. No I/O,
no clock but the one it is given. Section numbers are those of RFC 9113.

A stream, and what comes of a frame for it (5.1). `!` ends the connection; without it, an error code ends the
stream. Reserved streams do not exist, since PUSH_PROMISE is refused (`PROTOCOL_ERROR!`).

    state               DATA             HEADERS         RST_STREAM       WINDOW_UPDATE
    idle                PROTOCOL_ERROR!  begins it (1)   PROTOCOL_ERROR!  PROTOCOL_ERROR!
    open                message          trailers (2)    ends it          window
    half closed local   message          trailers (2)    ends it          window
    half closed remote  STREAM_CLOSED    STREAM_CLOSED   ends it          window
    reset by this side  ignored          ignored         ignored          ignored
    closed              STREAM_CLOSED!   STREAM_CLOSED!  ignored          ignored

(1) At a server; `PROTOCOL_ERROR!` at a client, which is asked for nothing. (2) At a client the first is the
head of the response, which must come in front of DATA. What ends it carries END_STREAM, all else is
PROTOCOL_ERROR, but for informational responses (1xx). At a server no stream stays half closed local: when the
answer is complete, what the client still sends is refused (8.1). PRIORITY and unknown frames are ignored in
every state.

| rule | where |
|---|---|
| preface, first frame (3.4) | `Http2Connection._begin` |
| frames and their lengths, header blocks in one piece (4.1 to 4.3, 6.10) | `receive`, `frames.content`,
`headers.HeaderDecoder` |
| states (5.1), stream ids (5.1.1) | `_headers`, `_not_idle`, `_not_closed` |
| how many streams (5.1.2) | `_may_begin`, `open`, `_start_pending` |
| flow control (5.2, 6.9) | `receive`, `_window_update`, `flow`, `streams` |
| SETTINGS (6.5), PING (6.7), GOAWAY (6.8) | `_settings`, `_ping`, `_goaway` |
| malformed messages (8.1.1) | `headers.HeaderList`, `_headers_of` |
| floods (10.5) | `limits.WireLimits`, `floods` |
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from synchro.wire import frames
from synchro.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    ID_MAX,
    PADDED,
    PREFACE,
    WINDOW_AT_FIRST,
    WINDOW_MAX,
    ConnectionFault,
    ErrorCode,
    StreamsExhausted,
    content,
    need_length,
    need_stream,
)
from synchro.wire.headers import TABLE_BYTES_AT_FIRST, HeaderDecoder, HeaderList
from synchro.wire.limits import WireLimits
from synchro.wire.streams import NOBODY, NOT_YET, Http2Stream, StreamOwner, StreamTable

STREAMS_AT_FIRST: Final = 100
"""How many calls a client begins before it has read the SETTINGS of the server, which seldom allow less
(6.5.2)."""
WHY_BYTES_MAX: Final = 200  # text of a GOAWAY, sent or shown
SHUTDOWN_PING: Final = b"shutdown"  # whose answer says that the first GOAWAY of `shut_down` was read


def _ignore(*_: object) -> None: ...


def _never(stream: Http2Stream, headers: HeaderList) -> None:
    raise AssertionError("a server does not begin calls")


class Http2Connection(StreamTable):
    """Feed it by `receive`, write what `take` gives, and end it by `lost`.

    W1  `streams` holds what is open or half closed: for a client odd ids below the next one, for a server odd
        ids up to the highest that the peer has used. No id comes twice.
    W2  What is sent is allowed: `send_window` and `_window_kept` together are what the peer has granted and
        nobody used, at most 2^31 - 1. A stream's own window sinks below 0 by SETTINGS only.
    W3  What the peer may send is bounded: 0 <= `_room` <= the window, for the connection and each stream.
        What lies with readers that take nothing (`held_bytes`) is not given back to their streams, and
        beyond its limit not to the connection.
    W4  A stream is blocked while it has a queue. `queued_bytes` is the sum of `blocked_bytes`, and within its
        limit.
    W5  A blocked stream is in line (`waiting`) exactly when it has begun and its own window is open; then the
        window of the connection is closed, or `take` is due.
    W6  `partial_bytes` is the sum of incomplete messages, and within its limit. A stream is in `starved` only
        in the middle of a message.
    W7  Between HEADERS and the end of its block nothing else is taken; the block is within its limits.
    W8  A client has no more streams than it may; the others are in `pending`, in order, without id.
    W9  Behind the last GOAWAY no stream of the peer begins; behind one of the peer none of ours does.
    W10 On a closed stream nothing is sent, and its owner is told nothing.
    """

    def __init__(
        self,
        *,
        is_client: bool,
        limits: WireLimits,
        clock: Callable[[], float],
        on_stream: Callable[[Http2Stream, HeaderList], None] | None = None,
        on_goaway: Callable[[int, ErrorCode, bytes], None] = _ignore,
        on_ping_ack: Callable[[bytes], None] = _ignore,
    ) -> None:
        """clock: monotonic seconds; read when a limit of a rate is at stake, not for each frame.
        on_stream: a call began (servers); sets `owner` of the stream, or leaves it to nobody.
        on_goaway(last_id, code, why): the peer takes no further call; those above `last_id` hear `on_reset`.
        """
        assert (on_stream is None) == is_client
        super().__init__(limits, clock, is_client=is_client)
        self.on_stream = on_stream or _never
        self.on_goaway = on_goaway
        self.on_ping_ack = on_ping_ack
        self.peer_streams_max = STREAMS_AT_FIRST if is_client else 0
        """Calls that a client may have under way."""
        self.peer_header_list_bytes_max = ID_MAX
        """What the peer says it takes as one header list; more may end the call or the connection."""
        self.is_settled = False
        """The peer's first SETTINGS have come."""
        self.peer_is_going_away = False
        """A GOAWAY came: no call begins here any more."""
        self.is_going_away = False
        """The last GOAWAY was sent: no call of the peer begins any more."""
        self.is_shutting_down = False
        """The first GOAWAY of `shut_down` is not answered yet."""
        self.fault: ConnectionFault | None = None
        """Why nothing more is read."""
        self.has_rest = False
        """`receive` has kept bytes that it may go on with."""
        self.pending: OrderedDict[Http2Stream, None] = OrderedDict()
        """Calls of a client that wait for others to end."""
        self._decoder = HeaderDecoder(limits, is_client=is_client)
        self._partial = bytearray()  # of a frame; nobody looks before it has `_need` bytes
        self._need = HEAD_BYTES if is_client else len(PREFACE) + HEAD_BYTES
        self._is_begun = False  # preface and head of the first frame were good
        self._frame_bytes_max = limits.frame_bytes_max
        self._table_bytes = TABLE_BYTES_AT_FIRST  # what our blocks may use, for all that the peer knows
        self._next_id = 1
        self._peer_id = 0  # the highest that the peer has used
        self._goaway_id = ID_MAX  # streams of the peer above it do not count
        self._peer_goaway_id = ID_MAX
        self._say_hello()

    def _say_hello(self) -> None:
        limits = self.limits
        values = {
            frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            frames.MAX_FRAME_SIZE: limits.frame_bytes_max,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
        }
        if self.is_client:
            self._out.append(PREFACE)
            values |= {frames.ENABLE_PUSH: 0}
        else:
            values |= {frames.MAX_CONCURRENT_STREAMS: limits.streams_max}
        self._out.append(frames.settings(values))
        if limits.connection_window_bytes > WINDOW_AT_FIRST:
            self._out.append(frames.window_update(0, limits.connection_window_bytes - WINDOW_AT_FIRST))

    # --- what the shell calls -----------------------------------------------------------------------

    def open(self, block: bytes, owner: StreamOwner, *, end: bool = False) -> Http2Stream:
        """Begin a call (clients). block: its head, from `header_block`. end: no message follows.

        When the peer takes no more at a time, it waits for others to end, in order. Raises
        `StreamsExhausted` when too many wait, the peer goes away, or ids are used up: open another
        connection."""
        assert self.is_client
        if self.peer_is_going_away or self.is_going_away or self.fault is not None:
            raise StreamsExhausted("the connection is going away")
        if self._next_id + 2 * len(self.pending) > ID_MAX:
            raise StreamsExhausted("all stream ids are used up")
        is_late = bool(self.pending) or len(self.streams) >= self.peer_streams_max
        if is_late and len(self.pending) >= self.limits.pending_streams_max:
            raise StreamsExhausted(f"{len(self.pending)} calls wait for the peer to take them")
        stream = Http2Stream(self, 0, owner)
        stream._opening, stream._is_ending = block, end
        if is_late:
            stream._queue = deque()
            self.pending[stream] = None
        else:
            self._start(stream)
        return stream

    def ping(self, payload: bytes) -> None:
        """Ask for an answer; `on_ping_ack` is told. payload: 8 bytes."""
        self._out.append(frames.ping(payload))

    def goaway(
        self, code: ErrorCode = ErrorCode.NO_ERROR, why: str = "", *, last_id: int | None = None
    ) -> None:
        """Say which calls of the peer were looked at: it repeats those above `last_id` elsewhere. None: up
        to the newest one, and no call begins any more."""
        if last_id is None:
            last_id = min(self._peer_id, self._goaway_id)
            self.is_going_away = True
        self._goaway_id = min(self._goaway_id, last_id)
        self._out.append(frames.goaway(self._goaway_id, code, why.encode()[:WHY_BYTES_MAX]))

    def shut_down(self, why: str = "") -> None:
        """Begin a graceful end (6.8): say that no call should begin, and when the peer has answered a PING
        behind that, which ones were looked at. The connection is over when `is_drained`."""
        if not self.is_going_away:
            self.is_shutting_down = True
            self._out.append(frames.goaway(self._goaway_id, ErrorCode.NO_ERROR, why.encode()[:WHY_BYTES_MAX]))
            self._out.append(frames.ping(SHUTDOWN_PING))

    @property
    def newest_call(self) -> int:
        """The id of the newest stream that the peer began."""
        return self._peer_id

    @property
    def is_drained(self) -> bool:
        """No stream is open, and none will begin."""
        return (self.is_going_away or self.peer_is_going_away) and not self.streams and not self.pending

    def lost(self, why: str) -> None:
        """The connection is over: tell every owner. why: for their errors. May be called by an owner, too:
        what came in the same read is dropped."""
        if self.fault is None:
            self.fault = ConnectionFault(ErrorCode.NO_ERROR, why)
        self.is_going_away = True  # no call begins
        streams = [*self.streams.values(), *self.pending]
        self.pending.clear()
        for stream in streams:
            if not (stream.local_closed and stream.remote_closed):
                self._forget(stream).on_lost(why)

    def let_go(self) -> None:
        """After `lost`: forget who was told."""
        self.on_stream, self.on_goaway, self.on_ping_ack = _never, _ignore, _ignore

    def receive(self, data: bytes, is_enough: Callable[[], bool] | None = None) -> None:
        """Bytes from the peer, in any pieces. Raises `ConnectionFault`, after which the output ends with a
        GOAWAY: write it, close, and call `lost`.

        is_enough: asked when a message or a call has ended; if so, the rest is kept, and `has_rest` is True
        until it was called again, with b"" or more."""
        self.has_rest = False
        if self.fault is not None:
            return
        try:
            partial = self._partial
            if partial:
                partial += data
                if len(partial) < self._need:
                    return
                data = bytes(partial)
                partial.clear()
            size = len(data)
            if self._is_begun:
                at, need = 0, HEAD_BYTES
            else:
                at = self._begin(data)
                need = HEAD_BYTES if self._is_begun else self._need
            unpack, streams, decoder = HEAD.unpack_from, self.streams, self._decoder
            frame_bytes_max = self._frame_bytes_max
            while size - at >= need:
                head, flags, stream_id = unpack(data, at)
                length, kind = head >> 8, head & 0xFF
                if length > frame_bytes_max:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                start = at + HEAD_BYTES
                end = start + length
                if end > size:
                    need = HEAD_BYTES + length
                    break
                at = end
                if decoder.is_inside_block and kind != CONTINUATION:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is cut by another frame")
                if kind == DATA:
                    room = self._room = self._room - length
                    if room < 0:
                        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window")
                    stream = streams.get(stream_id)
                    if stream is not None and length and not stream.remote_closed and not flags & PADDED:
                        stream._data(data, start, end, length, flags)
                    else:
                        self._odd_data(stream_id & ID_MAX, flags, data, start, end)
                elif kind == HEADERS:
                    if flags & (PADDED | HAS_PRIORITY):
                        start, end = content(flags, data, start, end)
                    if flags & END_HEADERS:
                        self._headers(stream_id & ID_MAX, flags, data[start:end])
                    else:
                        decoder.begin(stream_id & ID_MAX, flags, data[start:end])
                else:
                    self._other(kind, flags, stream_id & ID_MAX, data[start:end])
                if flags & END_STREAM and is_enough is not None and size - at >= HEAD_BYTES and is_enough():
                    self.has_rest = self.fault is None
                    break
            if at < size:
                partial += memoryview(data)[at:]
                self._need = need
            if self._room < self._give_below:
                self._give_back()
        except ConnectionFault as fault:
            if self.fault is not None:
                return  # an owner has ended the connection
            self.fault = fault
            self.goaway(fault.code, fault.why)
            raise
        except Exception as error:
            self.fault = ConnectionFault(ErrorCode.INTERNAL_ERROR, f"an owner raised {type(error).__name__}")
            self.goaway(ErrorCode.INTERNAL_ERROR)
            raise

    # --- the beginning ------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> int:
        """Where the first frame begins. It must be SETTINGS; before its head is here, nothing is looked
        at. A client takes GOAWAY too: a port that speaks TLS only has nothing else to say."""
        start = 0 if self.is_client else len(PREFACE)
        if data[:start] != PREFACE[: len(data)] and not self.is_client:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, frames.wrong_preface(data))
        if len(data) >= start + HEAD_BYTES:
            head, flags, stream_id = HEAD.unpack_from(data, start)
            is_settings = head & 0xFF == frames.SETTINGS and not flags & ACK and not stream_id & ID_MAX
            if not is_settings and not (self.is_client and head & 0xFF == frames.GOAWAY):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._is_begun = True
            return start
        return 0

    # --- DATA ---------------------------------------------------------------------------------------

    def _odd_data(self, stream_id: int, flags: int, data: bytes, start: int, end: int) -> None:
        """DATA that is padded, empty, or for a stream that is not there or has ended."""
        length = end - start
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA for stream 0")
        if flags & PADDED:
            start, end = content(flags & PADDED, data, start, end)
        if start == end and not flags & END_STREAM:
            self._charge_idle("DATA without content")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._not_closed(stream_id, "DATA")
        elif stream.remote_closed:
            self._fault_stream(stream, ErrorCode.STREAM_CLOSED, "DATA behind the end")
        else:
            stream._data(data, start, end, length, flags)

    def _not_idle(self, stream_id: int, what: str) -> None:
        """A frame for a stream that does not exist: it must have been there (5.1)."""
        if stream_id & 1 == 0 or stream_id > (self._next_id - 2 if self.is_client else self._peer_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} for stream {stream_id}, which is idle")

    def _not_closed(self, stream_id: int, what: str) -> None:
        """DATA or HEADERS for a stream that does not exist: fine if this side has reset it (5.1)."""
        self._not_idle(stream_id, what)
        if stream_id > self._reset_floor and stream_id not in self._reset_here:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"{what} for stream {stream_id}, which is closed")
        self._charge_idle(f"{what} for streams that were reset")

    # --- HEADERS ------------------------------------------------------------------------------------

    def _headers(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block. It is decoded whatever becomes of it, since the next one builds on it
        (4.3)."""
        headers = self._decoder.known.get(block) or self._decoder.decode(block)
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._headers_of(stream, headers, bool(flags & END_STREAM))
        elif self.is_client or stream_id <= self._peer_id or not stream_id & 1:
            self._not_closed(stream_id, "HEADERS")
        elif self._may_begin(stream_id, headers):
            stream = self.streams[stream_id] = Http2Stream(self, stream_id, NOBODY)
            self.on_stream(stream, headers)
            if flags & END_STREAM and not stream.remote_closed:
                stream._remote_end()

    def _may_begin(self, stream_id: int, headers: HeaderList) -> bool:
        """A call comes to a server."""
        self._peer_id = stream_id
        if self.is_going_away:
            self._remember_reset(stream_id)  # GOAWAY has told its client that nobody looks at it
            self._charge_idle("calls behind GOAWAY")
        elif headers.opening_fault:
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR, headers.opening_fault)
        elif len(self.streams) >= self.limits.streams_max:
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM, f"calls beyond {self.limits.streams_max}")
        else:
            self._check_unsent()
            return True
        return False

    def _refuse(self, stream_id: int, code: ErrorCode, why: str) -> None:
        self._charge_reset(why)
        self._answer(frames.rst_stream(stream_id, code))
        self._remember_reset(stream_id)

    def _headers_of(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        """Head of a response, or trailers (8.1)."""
        code = ErrorCode.PROTOCOL_ERROR
        if stream.remote_closed:
            code, fault = ErrorCode.STREAM_CLOSED, "HEADERS behind the end"
        elif not stream._ear & NOT_YET:
            fault = headers.trailers_fault or ("" if is_end else "a second head")
        elif headers.is_informational and not is_end:
            self._charge_idle("informational responses")
            return
        else:
            fault = headers.opening_fault or ("an informational end" if headers.is_informational else "")
        if fault:
            self._fault_stream(stream, code, fault)
            return
        stream._ear &= ~NOT_YET
        stream.owner.on_headers(stream, headers, is_end)
        if is_end and not stream.remote_closed:
            stream._remote_end()

    # --- other frames -------------------------------------------------------------------------------

    def _other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == frames.RST_STREAM:
            self._rst_stream(stream_id, payload)
        elif kind == CONTINUATION:
            whole = self._decoder.add(stream_id, flags, payload)
            if whole is not None:
                self._headers(stream_id, *whole)
        elif kind == frames.PRIORITY:
            need_stream(stream_id, "PRIORITY")
            need_length(payload, 5, "PRIORITY")
            self._charge_idle("PRIORITY")
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")
        elif kind not in (frames.SETTINGS, frames.PING, frames.GOAWAY):
            self._charge_idle("unknown frames")  # they mean nothing (4.1)
        elif stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of the connection for one stream")
        elif kind == frames.SETTINGS:
            self._settings(flags, payload)
        elif kind == frames.PING:
            self._ping(flags, payload)
        else:
            self._goaway(payload)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        need_length(payload, 4, "WINDOW_UPDATE")
        self._charge_idle("WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & WINDOW_MAX
        if not stream_id:
            if not more:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._grant(more)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._not_idle(stream_id, "WINDOW_UPDATE")
        elif not more:
            self._fault_stream(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif stream.send_window + more > WINDOW_MAX:
            self._fault_stream(stream, ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream overflows")
        else:
            stream.send_window += more
            stream._wake()

    def _rst_stream(self, stream_id: int, payload: bytes) -> None:
        need_length(payload, 4, "RST_STREAM")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._not_idle(stream_id, "RST_STREAM")
            self._charge_idle("RST_STREAM for closed streams")
            return
        if not self.is_client and self._clock() - stream.begun_at < self.limits.quick_reset_s:
            self._charge_reset("streams that were begun and reset")
        self._forget(stream).on_reset(stream, ErrorCode.of(int.from_bytes(payload, "big")))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self._charge_idle("SETTINGS ACK")
            return
        self._charge_settings()
        if len(payload) > frames.SETTING.size * self.limits.settings_values_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"SETTINGS of {len(payload)} bytes")
        values = frames.read_settings(payload, from_server=self.is_client)
        self._answer(frames.SETTINGS_ACK)
        self.peer_frame_bytes_max = values.get(frames.MAX_FRAME_SIZE, self.peer_frame_bytes_max)
        if values.get(frames.HEADER_TABLE_SIZE, TABLE_BYTES_AT_FIRST) < self._table_bytes:
            self._table_bytes, self._is_shrinking = 0, True
        self._block_bytes_max = -1 if self._is_shrinking else self.peer_frame_bytes_max
        self.peer_header_list_bytes_max = values.get(
            frames.MAX_HEADER_LIST_SIZE, self.peer_header_list_bytes_max
        )
        if self.is_client:
            unsaid = self.peer_streams_max if self.is_settled else ID_MAX  # what nobody limits has no limit
            self.peer_streams_max = values.get(frames.MAX_CONCURRENT_STREAMS, unsaid)
        self.is_settled = True
        if frames.INITIAL_WINDOW_SIZE in values:
            self._move_windows(values[frames.INITIAL_WINDOW_SIZE])
        self._start_pending()

    def _move_windows(self, initial: int) -> None:
        """The window of every stream moves by as much as the first one did, below 0 too (6.9.2)."""
        change = initial - self.peer_initial_window
        self.peer_initial_window = initial
        if not change:
            return
        for stream in list(self.streams.values()):
            if stream.send_window + change > WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream overflows")
            stream.send_window += change
            if stream._queue is not None:
                if stream.send_window <= 0:
                    self.waiting.pop(stream, None)
                else:
                    self.waiting[stream] = None
        self._pump()

    def _ping(self, flags: int, payload: bytes) -> None:
        need_length(payload, 8, "PING")
        self._charge_idle("PING")
        if not flags & ACK:
            self._answer(frames.ping(payload, is_ack=True))
        elif payload == SHUTDOWN_PING and self.is_shutting_down:
            self.is_shutting_down = False
            if not self.is_going_away:
                self.goaway()
        else:
            self.on_ping_ack(payload)

    def _goaway(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a broken length")
        self._charge_idle("GOAWAY")
        last_id = int.from_bytes(payload[:4], "big") & ID_MAX
        code = ErrorCode.of(int.from_bytes(payload[4:8], "big"))
        if last_id > self._peer_goaway_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY takes more calls than the one before")
        self._peer_goaway_id = last_id
        self.peer_is_going_away = True
        if self.is_client:
            refused = [*(s for s in self.streams.values() if s.id > last_id), *self.pending]
            self.pending.clear()
            for stream in refused:
                if not (stream.local_closed and stream.remote_closed):
                    if stream.id:
                        self._remember_reset(stream.id)
                    self._forget(stream).on_reset(stream, ErrorCode.REFUSED_STREAM)
        self.on_goaway(last_id, code, payload[8 : 8 + WHY_BYTES_MAX])

    # --- how many streams of ours -------------------------------------------------------------------

    def _start(self, stream: Http2Stream) -> None:
        stream.id = self._next_id
        self._next_id += 2
        self.streams[stream.id] = stream
        stream._begin()

    def _start_pending(self) -> None:
        while self.pending and len(self.streams) < self.peer_streams_max:
            stream, _ = self.pending.popitem(last=False)
            self._start(stream)

    def _stream_ended(self, stream: Http2Stream) -> None:
        if self.pending:
            self.pending.pop(stream, None)
            self._start_pending()

    def _traffic(self) -> tuple[int, int]:
        return (self._peer_id + self._next_id) // 2, self._data_bytes()

    # --- the invariants -----------------------------------------------------------------------------

    def check(self) -> None:
        """Assert every invariant in full; for tests."""
        limits, streams = self.limits, self.streams
        for stream_id, stream in streams.items():
            assert stream_id == stream.id and stream_id & 1  # Http2Connection.W1
            assert stream_id < self._next_id if self.is_client else stream_id <= self._peer_id
            assert not (stream.local_closed and stream.remote_closed)  # Http2Connection.W1
            assert self.is_client or not stream.local_closed
            assert stream.send_window <= WINDOW_MAX  # Http2Connection.W2
            assert 0 <= stream._room <= limits.stream_window_bytes  # Http2Connection.W3
        assert self._room >= 0 or self.fault  # Http2Connection.W3
        held = [s for s in streams.values() if s.is_held]
        assert self.held_bytes == sum(limits.stream_window_bytes - s._room for s in held)
        blocked = [*(s for s in streams.values() if s.is_blocked), *self.pending]
        for stream in blocked:
            assert stream.blocked_bytes == sum(map(len, stream._queue or ()))  # Http2Connection.W4
        assert self.queued_bytes == sum(s.blocked_bytes for s in blocked) <= limits.queued_bytes_max
        in_line = {s for s in blocked if s.id and s.send_window > 0}
        assert in_line == self.waiting.keys()  # Http2Connection.W5
        assert not in_line or self.send_window == 0
        assert not self._out or not in_line or self._window_kept or self.send_window == 0
        partial = sum(len(s._buffer) for s in streams.values() if s._buffer is not None)
        assert self.partial_bytes == partial <= limits.partial_bytes_max  # Http2Connection.W6
        self._check_flow()
        assert len(self._decoder._block) <= limits.header_list_bytes_max or self.fault  # Http2Connection.W7
        assert all(not s.id for s in self.pending)  # Http2Connection.W8
        assert not self.pending or (self.is_client and len(streams) >= self.peer_streams_max)
        assert not self.peer_is_going_away or not self.pending  # Http2Connection.W9
        assert self.is_client or not self.is_going_away or all(i <= self._goaway_id for i in streams)
