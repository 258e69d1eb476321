"""One end of an HTTP/2 connection that carries gRPC: bytes in, calls of owners and bytes to send out. No I/O,
no clock but the one it is given. Section numbers are those of RFC 9113.

A stream and what may come on it (5.1). Reserved streams do not exist, since pushes are refused:

    state               DATA              HEADERS           RST_STREAM  WINDOW_UPDATE  leaves by
    idle                connection fault  open it (server)  connection  connection     HEADERS (either side)
    open                take              trailers          closed      take           END_STREAM, RST_STREAM
    half closed local   take              trailers          closed      take           END_STREAM of the peer
    half closed remote  STREAM_CLOSED     STREAM_CLOSED     closed      take           END_STREAM of ours
    closed, by our RST  ignore            ignore            ignore      ignore         -
    closed              connection fault  connection fault  ignore      ignore         -

PRIORITY and unknown frames are ignored in every state, PUSH_PROMISE is a connection fault. "Connection fault"
is PROTOCOL_ERROR for an idle stream, STREAM_CLOSED for a closed one. A second HEADERS must end its side of
the stream, but for informational responses (1xx).

| rule | where |
|---|---|
| preface, first frame (3.4) | `Http2Connection._begin` |
| frames and their lengths, header blocks in one piece (4.1 to 4.3, 6.10) | `receive`, `_continuation` |
| states (5.1), stream ids (5.1.1) | `_headers_of_none`, `_of_no_stream` |
| how many streams (5.1.2) | `_accept`, `open`, `_start_pending` |
| flow control (5.2, 6.9) | `receive`, `_window_update`, and `streams` |
| SETTINGS (6.5), PING (6.7), GOAWAY (6.8) | `_settings`, `_ping`, `_goaway` |
| malformed messages (8.1.1) | `headers.HeaderList`, `_headers` |
| floods (10.5) | `limits.WireLimits`, `_charge_idle`, `_charge_reset` |
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from synchro.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    ID_MAX,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_AT_FIRST,
    WINDOW_MAX,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    goaway,
    ping,
    read_settings,
    rst_stream,
    settings,
    window_update,
    wrong_preface,
)
from synchro.wire.headers import HeaderDecoder, HeaderList
from synchro.wire.limits import Allowance, WireLimits
from synchro.wire.streams import NOBODY, NOT_YET, Http2Stream, StreamOwner, StreamTable

STREAMS_AT_FIRST: Final = 100
"""How many calls a client begins before it has read the SETTINGS of the server, which seldom allow less
(6.5.2)."""
WHY_BYTES_MAX: Final = 200
"""Text of a GOAWAY, sent or shown."""
SHUTDOWN_PING: Final = b"shutdown"
"""Its answer says that the peer has read the first GOAWAY of `shut_down`."""


class StreamsExhausted(Exception):
    """The connection takes no further call: nothing was sent."""


def _ignore_goaway(last_id: int, code: ErrorCode, why: bytes) -> None:
    pass


def _ignore_ping(payload: bytes) -> None:
    pass


class Http2Connection(StreamTable):
    """Feed it by `receive`, write what `take` gives, and end it by `lost`.

    W1  `streams` holds what is open or half closed: for a client odd ids below the next one, for a server odd
        ids up to the highest that the peer has used. No id comes twice.
    W2  What is sent is allowed: `send_window` and `_window_kept` together are what the peer has granted and
        nobody used, at most 2^31 - 1. A stream's own window sinks below 0 by SETTINGS only.
    W3  What the peer may send is bounded: 0 <= `_room` <= the window, for the connection and each stream.
        What lies with readers that take nothing (`held_bytes`) is not given back.
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
        on_goaway: Callable[[int, ErrorCode, bytes], None] = _ignore_goaway,
        on_ping_ack: Callable[[bytes], None] = _ignore_ping,
    ) -> None:
        """clock: monotonic seconds; read when a limit of a rate is at stake, not for each frame.
        on_stream: a call began (servers); sets `owner` of the stream, or leaves it to nobody.
        on_goaway(last_id, code, why): the peer takes no further call; those above `last_id` hear `on_reset`.
        """
        assert (on_stream is None) == is_client
        super().__init__(limits, is_client=is_client)
        self.on_stream = on_stream
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
        self.fault: ConnectionFault | None = None
        """Why nothing more is read."""
        self.pending: OrderedDict[Http2Stream, None] = OrderedDict()
        """Calls of a client that wait for others to end."""
        self._clock = clock
        self._decoder = HeaderDecoder(limits, is_client=is_client)
        self._partial = bytearray()  # of a frame; nobody looks before it has `_need` bytes
        self._need = HEAD_BYTES if is_client else len(PREFACE) + HEAD_BYTES
        self._is_begun = False  # preface and head of the first frame were good
        self._block: bytearray | None = None  # of HEADERS without END_HEADERS
        self._block_stream = 0
        self._block_flags = 0
        self._block_parts = 0
        self._next_id = 1
        self._peer_id = 0  # the highest that the peer has used
        self._goaway_id = ID_MAX  # streams of the peer above it do not count
        self._peer_goaway_id = ID_MAX
        self._granted = WINDOW_AT_FIRST  # bytes of the connection's window that the peer ever gave
        now = clock()
        self._resets = Allowance(limits.resets_burst, limits.resets_per_s, now)
        self._settings_frames = Allowance(limits.settings_burst, limits.settings_per_s, now)
        self._idle_frames = Allowance(limits.idle_frames_burst, limits.idle_frames_per_s, now)
        self._earned = 0.0  # what traffic had brought to `_idle_frames` when it was last asked
        self._say_hello()

    def _say_hello(self) -> None:
        limits = self.limits
        values = {
            INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            MAX_FRAME_SIZE: limits.frame_bytes_max,
            MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
        }
        if self.is_client:
            self._out.append(PREFACE)
            values |= {ENABLE_PUSH: 0}
        else:
            values |= {MAX_CONCURRENT_STREAMS: limits.streams_max}
        self._out.append(settings(values))
        if limits.connection_window_bytes > WINDOW_AT_FIRST:
            self._out.append(window_update(0, limits.connection_window_bytes - WINDOW_AT_FIRST))

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
        self._out.append(ping(payload))

    def goaway(
        self, code: ErrorCode = ErrorCode.NO_ERROR, why: str = "", *, last_id: int | None = None
    ) -> None:
        """Say which calls of the peer were looked at: it repeats those above `last_id` elsewhere. None: up
        to the newest one, and no call begins any more."""
        if last_id is None:
            last_id = min(self._peer_id, self._goaway_id)
            self.is_going_away = True
        self._goaway_id = min(self._goaway_id, last_id)
        self._out.append(goaway(self._goaway_id, code, why.encode()[:WHY_BYTES_MAX]))

    def shut_down(self) -> None:
        """Begin a graceful end (6.8): say that no call should begin, and when the peer has answered a PING
        behind that, which ones were looked at. The connection is over when `is_drained`."""
        if not self.is_going_away:
            self._out.append(goaway(self._goaway_id, ErrorCode.NO_ERROR, b""))
            self._out.append(ping(SHUTDOWN_PING))

    @property
    def is_drained(self) -> bool:
        """No stream is open, and none will begin."""
        return (self.is_going_away or self.peer_is_going_away) and not self.streams and not self.pending

    def lost(self, why: str) -> None:
        """The connection is over: tell every owner. why: for their errors."""
        if self.fault is None:
            self.fault = ConnectionFault(ErrorCode.NO_ERROR, why)
        streams = [*self.streams.values(), *self.pending]
        self.pending.clear()
        for stream in streams:
            if not (stream.local_closed and stream.remote_closed):
                self._forget(stream)
                stream.owner.on_lost(why)

    def receive(self, data: bytes) -> None:
        """Bytes from the peer, in any pieces. Raises `ConnectionFault`, after which the output ends with a
        GOAWAY: write it, close, and call `lost`."""
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
            at = 0 if self._is_begun else self._begin(data)
            size = len(data)
            need = HEAD_BYTES if self._is_begun else self._need
            unpack, streams = HEAD.unpack_from, self.streams
            frame_bytes_max = self.limits.frame_bytes_max
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
                if self._block is not None and kind != CONTINUATION:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is cut by another frame")
                if kind == DATA:
                    self._room -= length
                    if self._room < 0:
                        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window")
                    stream = streams.get(stream_id)
                    if stream is not None and length and not stream.remote_closed and not flags & PADDED:
                        stream._data(data, start, end, length, flags)
                    else:
                        self._odd_data(stream_id & ID_MAX, flags, data, start, end)
                elif kind == HEADERS:
                    if flags & (PADDED | HAS_PRIORITY):
                        start, end = self._unpad(flags, data, start, end)
                    if flags & END_HEADERS:
                        self._headers(stream_id & ID_MAX, flags, data[start:end])
                    else:
                        self._begin_block(stream_id & ID_MAX, flags, data[start:end])
                else:
                    self._other(kind, flags, stream_id & ID_MAX, data[start:end])
            if at < size:
                partial += memoryview(data)[at:]
                self._need = need
            if self._room < self._give_below:
                self._give_back()
        except ConnectionFault as fault:
            self.fault = fault
            self.goaway(fault.code, fault.why)
            raise

    # --- the beginning ------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> int:
        """Where the first frame begins. It must be SETTINGS; before its head is here, nothing is looked
        at."""
        start = 0 if self.is_client else len(PREFACE)
        if data[:start] != PREFACE[: len(data)] and not self.is_client:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, wrong_preface(data))
        if len(data) >= start + HEAD_BYTES:
            head, flags, stream_id = HEAD.unpack_from(data, start)
            if head & 0xFF != SETTINGS or flags & ACK or stream_id & ID_MAX:
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
            start, end = self._unpad(flags & PADDED, data, start, end)
        if start == end and not flags & END_STREAM:
            self._charge_idle("DATA without content")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._of_no_stream(stream_id, "DATA")
        elif stream.remote_closed:
            self._fault_stream(stream, ErrorCode.STREAM_CLOSED, "DATA behind the end")
        else:
            stream._data(data, start, end, length, flags)

    def _unpad(self, flags: int, data: bytes, start: int, end: int) -> tuple[int, int]:
        """Where the content lies in a frame with padding or priority (6.1, 6.2)."""
        length = end - start
        extra = (1 if flags & PADDED else 0) + (5 if flags & HAS_PRIORITY else 0)
        if length < extra:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame too short for its flags")
        padding = data[start] if flags & PADDED else 0
        if extra + padding > length:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than the frame has")
        return start + extra, end - padding

    def _of_no_stream(self, stream_id: int, what: str) -> None:
        """A frame for a stream that is idle or closed; returns if it is to be ignored (5.1)."""
        if stream_id & 1 == 0 or stream_id > (self._next_id - 2 if self.is_client else self._peer_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} for stream {stream_id}, which is idle")
        if stream_id > self._reset_floor and stream_id not in self._reset_here:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"{what} for stream {stream_id}, which is closed")
        self._charge_idle(f"{what} for streams that were reset")

    # --- HEADERS ------------------------------------------------------------------------------------

    def _begin_block(self, stream_id: int, flags: int, part: bytes) -> None:
        self._block = bytearray(part)
        self._block_stream, self._block_flags, self._block_parts = stream_id, flags, 0
        self._check_block()

    def _continuation(self, flags: int, stream_id: int, part: bytes) -> None:
        if self._block is None or stream_id != self._block_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        self._block_parts += 1
        self._block += part
        self._check_block()
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._headers(stream_id, self._block_flags, block)

    def _check_block(self) -> None:
        assert self._block is not None
        if self._block_parts > self.limits.continuations_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"{self._block_parts} CONTINUATION frames")
        if len(self._block) > self.limits.header_list_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {len(self._block)} bytes")

    def _headers(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block. It is decoded whatever becomes of it, since the next one builds on it
        (4.3)."""
        headers = self._decoder.known.get(block) or self._decode(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.is_client or stream_id <= self._peer_id or not stream_id & 1:
                self._of_no_stream(stream_id, "HEADERS")
            else:
                self._accept(stream_id, flags, headers)
        elif stream.remote_closed:
            self._fault_stream(stream, ErrorCode.STREAM_CLOSED, "HEADERS behind the end")
        else:
            self._headers_of_open(stream, headers, bool(flags & END_STREAM))

    def _decode(self, block: bytes) -> HeaderList:
        if len(block) > self.limits.header_list_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {len(block)} bytes")
        return self._decoder.decode(block)

    def _accept(self, stream_id: int, flags: int, headers: HeaderList) -> None:
        """A call begins at a server."""
        self._peer_id = stream_id
        if stream_id > self._goaway_id or self.is_going_away:
            self._remember_reset(stream_id)  # its client knows from GOAWAY that nobody has looked at it
            self._charge_idle("calls behind GOAWAY")
            return
        if headers.opening_fault:
            self._refuse(stream_id, ErrorCode.PROTOCOL_ERROR, headers.opening_fault)
            return
        if len(self.streams) >= self.limits.streams_max:
            self._refuse(stream_id, ErrorCode.REFUSED_STREAM, f"more than {self.limits.streams_max} streams")
            return
        if len(self._out) > self.limits.unsent_frames_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")
        stream = self.streams[stream_id] = Http2Stream(self, stream_id, NOBODY)
        assert self.on_stream is not None
        self.on_stream(stream, headers)
        if flags & END_STREAM and not stream.remote_closed:
            stream._remote_end()

    def _refuse(self, stream_id: int, code: ErrorCode, why: str) -> None:
        self._charge_reset(why)
        self._answer(rst_stream(stream_id, code))
        self._remember_reset(stream_id)

    def _headers_of_open(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        """Head of a response, or trailers."""
        is_head = bool(stream._ear & NOT_YET)
        fault = headers.opening_fault if is_head and self.is_client else headers.trailers_fault
        if not fault and is_head and headers.is_informational:
            fault = "an informational response that ends" if is_end else ""
            if not fault:
                self._charge_idle("informational responses")
                return
        if not fault and not is_head and not is_end:
            fault = "a second head"
        if fault:
            self._fault_stream(stream, ErrorCode.PROTOCOL_ERROR, fault)
            return
        stream._ear &= ~NOT_YET
        stream.owner.on_headers(stream, headers, is_end)
        if is_end and not stream.remote_closed:
            stream._remote_end()

    # --- other frames -------------------------------------------------------------------------------

    def _other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == RST_STREAM:
            self._rst_stream(stream_id, payload)
        elif kind == CONTINUATION:
            self._continuation(flags, stream_id, payload)
        elif kind == PRIORITY:
            _need_stream(stream_id, "PRIORITY")
            _need_length(payload, 5, "PRIORITY")
            self._charge_idle("PRIORITY")
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE")
        elif kind in (SETTINGS, PING, GOAWAY):
            if stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame of the connection for one stream")
            if kind == SETTINGS:
                self._settings(flags, payload)
            elif kind == PING:
                self._ping(flags, payload)
            else:
                self._goaway(payload)
        else:
            self._charge_idle("unknown frames")  # 4.1: they mean nothing

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        _need_length(payload, 4, "WINDOW_UPDATE")
        self._charge_idle("WINDOW_UPDATE")
        more = int.from_bytes(payload, "big") & WINDOW_MAX
        if not stream_id:
            if not more:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if self.send_window + self._window_kept + more > WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")
            self._granted += more
            self._window_kept += more
            self._top_up()
            self._pump_waiting()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._late(stream_id, "WINDOW_UPDATE")
        elif not more:
            self._fault_stream(stream, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        elif stream.send_window + more > WINDOW_MAX:
            self._fault_stream(stream, ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream overflows")
        else:
            stream.send_window += more
            stream._wake()

    def _late(self, stream_id: int, what: str) -> None:
        """RST_STREAM and WINDOW_UPDATE may come for a closed stream, not for one that is idle (5.1)."""
        _need_stream(stream_id, what)
        if stream_id & 1 == 0 or stream_id > (self._next_id - 2 if self.is_client else self._peer_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} for stream {stream_id}, which is idle")

    def _rst_stream(self, stream_id: int, payload: bytes) -> None:
        _need_length(payload, 4, "RST_STREAM")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._late(stream_id, "RST_STREAM")
            self._charge_idle("RST_STREAM for closed streams")
            return
        if not self.is_client:
            self._charge_reset("streams that were begun and reset")
        self._forget(stream)
        stream.owner.on_reset(stream, ErrorCode.of(int.from_bytes(payload, "big")))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self._charge_idle("SETTINGS ACK")
            return
        self._charge(self._settings_frames, "SETTINGS")
        values = read_settings(payload, from_server=self.is_client)
        if len(payload) > 6 * self.limits.settings_values_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"SETTINGS of {len(payload)} bytes")
        self._answer(SETTINGS_ACK)
        self.peer_frame_bytes_max = values.get(MAX_FRAME_SIZE, self.peer_frame_bytes_max)
        self.peer_header_list_bytes_max = values.get(MAX_HEADER_LIST_SIZE, self.peer_header_list_bytes_max)
        if self.is_client:
            # What a server does not limit, it takes without end: our own bound keeps its accounts small.
            at_first = self.peer_streams_max if self.is_settled else ID_MAX
            self.peer_streams_max = values.get(MAX_CONCURRENT_STREAMS, at_first)
        self.is_settled = True
        if INITIAL_WINDOW_SIZE in values:
            self._move_windows(values[INITIAL_WINDOW_SIZE])
        self._start_pending()

    def _move_windows(self, initial: int) -> None:
        """The window of every stream moves by as much as the first one did, below 0 too (6.9.2)."""
        change = initial - self.peer_initial_window
        self.peer_initial_window = initial
        if not change:
            return
        for stream in list(self.streams.values()):
            stream.send_window += change
            if stream.send_window > WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window of a stream overflows")
            if stream._queue is not None:
                if stream.send_window <= 0:
                    self.waiting.pop(stream, None)
                else:
                    self.waiting[stream] = None
        self._pump_waiting()

    def _ping(self, flags: int, payload: bytes) -> None:
        _need_length(payload, 8, "PING")
        self._charge_idle("PING")
        if not flags & ACK:
            self._answer(ping(payload, is_ack=True))
        elif payload == SHUTDOWN_PING:
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
                    self._remember_reset(stream.id)
                    self._forget(stream)
                    stream.owner.on_reset(stream, ErrorCode.REFUSED_STREAM)
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

    def _stream_ended(self) -> None:
        if self.pending:
            self._start_pending()

    # --- limits -------------------------------------------------------------------------------------

    def _answer(self, frame: bytes) -> None:
        """What the peer makes this side say, under no window."""
        self._out.append(frame)
        if len(self._out) > self.limits.unsent_frames_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")

    def _charge_idle(self, what: str) -> None:
        """A frame that carries nothing of a call."""
        if not self._idle_frames.spend():
            sent = self._granted - self.send_window - self._window_kept
            received = self._given + self.limits.connection_window_bytes - self._room
            calls = max(self._peer_id, self._next_id) / 2
            earned = (sent + received) / self.limits.bytes_per_idle_frame
            earned += calls * self.limits.idle_frames_per_call
            more, self._earned = earned - self._earned, earned
            if not self._idle_frames.refill(self._clock(), more):
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many frames without use: {what}")

    def _charge_reset(self, what: str) -> None:
        self._charge(self._resets, what)

    def _charge(self, allowance: Allowance, what: str) -> None:
        if not allowance.spend() and not allowance.refill(self._clock()):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")


def _need_stream(stream_id: int, what: str) -> None:
    if not stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} for stream 0")


def _need_length(payload: bytes, length: int, what: str) -> None:
    if len(payload) != length:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes")
