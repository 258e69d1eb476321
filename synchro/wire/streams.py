"""Streams of one connection: gRPC messages cut out of DATA and put into it, both levels of flow control, who
waits.

Owners of streams call the methods without an underscore; `connection`, which judges the frames that come,
the others."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol

from synchro.wire.flow import FlowControl
from synchro.wire.frames import (
    END_STREAM,
    FRAME_BYTES_MIN,
    HEAD,
    HEADERS,
    MESSAGE_HEAD,
    PREFIX,
    PREFIX_BYTES,
    WINDOW_AT_FIRST,
    ErrorCode,
    header_frames,
    rst_stream,
    window_update,
)
from synchro.wire.headers import NO_TABLE, HeaderList
from synchro.wire.limits import WireLimits

NOT_YET: Final = 1
"""A client's stream before the head of the response: DATA is a fault (RFC 9113, 8.1)."""
_DEAF: Final = 2
"""A bad message came, or none can be used: what follows is counted and dropped."""
_HELD: Final = 4
"""The reader takes nothing: the window is not given back."""


JOINED_BYTES_MAX: Final = 4096
"""Small messages that wait are joined up to this, or what is kept of each would be many times its bytes."""


class BadMessage(Enum):
    """Why a message was not delivered."""

    COMPRESSED = auto()
    TOO_LARGE = auto()
    """Longer than `WireLimits.message_bytes_max`."""
    NO_ROOM = auto()
    """Too many bytes of incomplete messages on this connection: `WireLimits.partial_bytes_max`."""
    CUT_OFF = auto()
    """The stream ended in it."""


class StreamState(Enum):
    """RFC 9113, 5.1. Reserved streams do not exist: nothing is pushed."""

    IDLE = auto()
    """Also: of a client, and waiting until the peer takes another stream."""
    OPEN = auto()
    HALF_CLOSED_LOCAL = auto()
    HALF_CLOSED_REMOTE = auto()
    CLOSED = auto()


class StreamOwner(Protocol):
    """Who is told what happens on a stream, inside `Http2Connection.receive`. It may call any method of
    stream and connection meanwhile but `receive` and `take`, and must not raise.

    Messages come between `on_headers` and `on_end`. `on_reset` and `on_lost` are the last word, as is
    `on_end` on a stream whose own side is closed; of a client, `on_end` closes that too."""

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        """Head of the response, or trailers. is_end: `on_end` follows at once. Not for what opened the
        stream at a server: `on_stream` told that."""

    def on_message(self, data: bytes) -> None:
        """One whole gRPC message, without its prefix."""

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        """No message is delivered any more: answer with a status, or reset the stream."""

    def on_end(self, stream: Http2Stream) -> None:
        """The peer sends nothing more on it."""

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        """The stream is over: reset by the peer, or by this side for a fault of the peer or a limit.
        REFUSED_STREAM: the peer has not looked at the call, which may be repeated."""

    def on_unblocked(self, stream: Http2Stream) -> None:
        """All that flow control held back has been given to `take`."""

    def on_lost(self, why: str) -> None:
        """The connection is over, and the stream with it."""


class Nobody:
    """Owner of streams that nobody wants to hear of."""

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None: ...

    def on_message(self, data: bytes) -> None: ...

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None: ...

    def on_end(self, stream: Http2Stream) -> None: ...

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None: ...

    def on_unblocked(self, stream: Http2Stream) -> None: ...

    def on_lost(self, why: str) -> None: ...


NOBODY: Final = Nobody()


class StreamTable(FlowControl):
    """What the streams of one connection share."""

    def __init__(self, limits: WireLimits, clock: Callable[[], float], *, is_client: bool) -> None:
        super().__init__(limits, clock)
        self.is_client = is_client
        self.streams: dict[int, Http2Stream] = {}
        """Every stream that is open or half closed, by its id."""
        self.peer_initial_window = WINDOW_AT_FIRST
        self.peer_frame_bytes_max = FRAME_BYTES_MIN
        self._block_bytes_max = FRAME_BYTES_MIN
        """Longest header block that goes out as it is: as `peer_frame_bytes_max`, or -1 while
        `_is_shrinking`."""
        self._is_shrinking = False
        """The next header block must say that no table is used: the peer keeps a smaller one than at
        first."""
        self._message_bytes_max = limits.message_bytes_max
        self._whole_bytes_max = limits.message_bytes_max + PREFIX_BYTES
        self._stream_window = limits.stream_window_bytes
        self._give_stream_below = limits.stream_window_bytes * 3 // 4
        self._reset_here: OrderedDict[int, None] = OrderedDict()
        self._reset_floor = 0

    def _send_block(self, block: bytes, flags: int, stream_id: int) -> None:
        """A header block, in as many frames as the peer wants. flags: END_STREAM or 0."""
        if self._is_shrinking:
            self._is_shrinking = False
            self._block_bytes_max = self.peer_frame_bytes_max
            block = NO_TABLE + block
        self._out.append(header_frames(block, flags, stream_id, self.peer_frame_bytes_max))

    def _fail_stream(self, stream: Http2Stream, code: ErrorCode) -> None:
        """End a stream by a limit of this side."""
        owner = stream.owner
        stream.reset(code)
        owner.on_reset(stream, code)

    def _fault_stream(self, stream: Http2Stream, code: ErrorCode, why: str) -> None:
        """End a stream for a fault of the peer (RFC 9113, 5.4.2)."""
        self._charge_reset(f"faults of streams, the last: {why}")
        self._fail_stream(stream, code)

    def _forget(self, stream: Http2Stream) -> StreamOwner:
        """The stream is closed on both sides, or reset. Returns its owner; the two hold each other no longer,
        so all that the call has, which may be megabytes, is free without the garbage collector."""
        owner, stream.owner = stream.owner, NOBODY
        stream.local_closed = stream.remote_closed = True
        if stream._queue is not None or stream._buffer is not None or stream._ear:
            stream._drop()
        self.streams.pop(stream.id, None)
        if self.is_client:
            self._stream_ended(stream)
        return owner

    def _stream_ended(self, stream: Http2Stream) -> None:
        """A client's stream is over: another may begin."""

    def _remember_reset(self, stream_id: int) -> None:
        """Frames for this stream may still be on their way."""
        reset = self._reset_here
        reset[stream_id] = None
        if len(reset) > self.limits.remembered_resets_max:
            oldest, _ = reset.popitem(last=False)
            self._reset_floor = max(self._reset_floor, oldest)


class Http2Stream:
    """One call, as its owner sees it. What is sent on a stream that is over is dropped: its owner has heard
    so.

    `is_blocked`: messages wait for the peer's window, `blocked_bytes` of them; `on_unblocked` says when
    they have left. A client's stream with `id` 0 waits until the peer takes another one, and counts as
    blocked."""

    __slots__ = (
        *("id", "owner", "local_closed", "remote_closed", "send_window", "blocked_bytes", "_connection"),
        *("_room", "_ear", "_buffer", "_queue", "_opening", "_is_ending", "_trailers"),
        "begun_at",
    )

    def __init__(self, connection: StreamTable, stream_id: int, owner: StreamOwner) -> None:
        self._connection = connection
        self.id = stream_id
        self.owner = owner
        self.send_window = connection.peer_initial_window
        self.local_closed = False
        self.remote_closed = False
        self.blocked_bytes = 0
        self.begun_at = connection._clock()
        self._room = connection._stream_window  # what the peer may still send
        self._ear = NOT_YET if connection.is_client else 0
        self._buffer: bytearray | None = None  # the beginning of a message, with its prefix
        self._queue: deque[memoryview] | None = None  # what windows hold back, prefixes included
        self._opening: bytes | None = None  # the header block of a client's stream that has not begun
        self._is_ending = False  # behind the queue: `_trailers`, or END_STREAM with the last message
        self._trailers: bytes | None = None

    def __repr__(self) -> str:
        return f"<Http2Stream {self.id} {self.state.name}>"

    @property
    def state(self) -> StreamState:
        if self.local_closed:
            return StreamState.CLOSED if self.remote_closed else StreamState.HALF_CLOSED_LOCAL
        if self.remote_closed:
            return StreamState.HALF_CLOSED_REMOTE
        return StreamState.OPEN if self.id else StreamState.IDLE

    @property
    def is_blocked(self) -> bool:
        return self._queue is not None

    @property
    def is_held(self) -> bool:
        """The reader takes nothing; see `hold_window`."""
        return bool(self._ear & _HELD)

    @property
    def is_inside_message(self) -> bool:
        """The beginning of a message has come, and not its end."""
        return self._buffer is not None

    # --- sending ------------------------------------------------------------------------------------

    def send_headers(self, block: bytes, end: bool = False) -> None:
        """Head of a response. end: it is all there is (a response of trailers only)."""
        if self.local_closed:
            return
        assert self._queue is None and not self._is_ending
        connection = self._connection
        connection._send_block(block, END_STREAM if end else 0, self.id)
        if end:
            self._close_local()

    def send_message(self, message: bytes, end: bool = False) -> None:
        """One gRPC message. end: nothing follows, trailers neither (clients)."""
        if self.local_closed:
            return
        size = len(message)
        total = size + PREFIX_BYTES
        connection = self._connection
        if self._queue is None and total <= self.send_window and total <= connection.send_window:
            self.send_window -= total
            connection.send_window -= total
            out = connection._out
            if total <= connection.peer_frame_bytes_max:
                out.append(MESSAGE_HEAD.pack(total << 8, end, self.id, 0, size))
                out.append(message)
            else:
                self._cut(message, total, connection.peer_frame_bytes_max, end)
            if end:
                self._close_local()
        else:
            self._enqueue(message, end)

    def answer(self, block: bytes, message: bytes, trailers: bytes) -> None:
        """Head, one message and trailers: a whole unary response."""
        if self.local_closed:
            return
        connection = self._connection
        total = len(message) + PREFIX_BYTES
        largest = connection._block_bytes_max
        if (
            total <= self.send_window
            and total <= connection.send_window
            and total <= largest
            and len(block) <= largest
            and len(trailers) <= largest
        ):
            assert self._queue is None and not self._is_ending
            self.send_window -= total
            connection.send_window -= total
            stream_id = self.id
            pack = HEAD.pack
            connection._out += (
                pack(len(block) << 8 | HEADERS, 0x4, stream_id),
                block,
                MESSAGE_HEAD.pack(total << 8, 0, stream_id, 0, len(message)),
                message,
                pack(len(trailers) << 8 | HEADERS, 0x5, stream_id),
                trailers,
            )
            self._close_local()
        else:
            self.send_headers(block)
            self.send_message(message)
            self.end(trailers)

    def end(self, trailers: bytes | None = None) -> None:
        """Nothing more is sent, behind what is queued. trailers: a header block; servers always have one."""
        if self.local_closed or self._is_ending:
            return
        if self._queue is None:
            self._send_end(trailers)
        else:
            self._is_ending = True
            self._trailers = trailers

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """End both sides. The owner is told nothing more."""
        if self.local_closed and self.remote_closed:
            return
        connection = self._connection
        if self.id:
            connection._out.append(rst_stream(self.id, code))
            connection._remember_reset(self.id)
        connection._forget(self)

    def _cut(self, message: bytes, total: int, frame_bytes_max: int, end: bool) -> None:
        """A message in frames of the size that the peer takes, without a copy."""
        out, view = self._connection._out, memoryview(message)
        first = frame_bytes_max - PREFIX_BYTES
        out.append(MESSAGE_HEAD.pack(frame_bytes_max << 8, 0, self.id, 0, len(message)))
        out.append(view[:first])
        for start in range(first, len(message), frame_bytes_max):
            part = view[start : start + frame_bytes_max]
            is_last = start + frame_bytes_max >= len(message)
            out.append(HEAD.pack(len(part) << 8, END_STREAM if end and is_last else 0, self.id))
            out.append(part)

    def _begin(self) -> None:
        """Send the head, as stream `id`, and what was queued behind it."""
        connection, block = self._connection, self._opening
        assert block is not None
        self._opening = None
        self.send_window = connection.peer_initial_window
        is_all = self._is_ending and not self._queue and self._trailers is None
        flags = END_STREAM if is_all else 0
        connection._send_block(block, flags, self.id)
        if self._queue:
            self._wake()
        elif is_all:
            self._queue = None
            self._is_ending = False
            self._close_local()
        elif self._queue is not None:
            self._queue_moved()

    def _enqueue(self, message: bytes, end: bool) -> None:
        if self._is_ending:
            return
        connection = self._connection
        total = len(message) + PREFIX_BYTES
        if not connection._queue_more(total):
            connection._fail_stream(self, ErrorCode.ENHANCE_YOUR_CALM)
            return
        if self._queue is None:
            self._queue = deque()
        queue, prefix = self._queue, PREFIX.pack(0, len(message))
        if queue and total + len(queue[-1]) <= JOINED_BYTES_MAX:
            queue[-1] = memoryview(b"".join((queue[-1], prefix, message)))
        elif total <= JOINED_BYTES_MAX:
            queue.append(memoryview(prefix + message))
        else:
            queue += (memoryview(prefix), memoryview(message))
        self.blocked_bytes += total
        self._is_ending = end
        self._wake()

    def _wake(self) -> None:
        """Stand in line if only the window of the connection is missing."""
        if self._queue and self.send_window > 0 and self.id:
            self._connection.waiting[self] = None
            self._connection._pump()

    def _pump_frame(self) -> bool:
        """Send one frame of the queue. True: there is more, and this stream's window is open."""
        connection, queue = self._connection, self._queue
        assert queue
        room = min(self.send_window, connection.send_window, connection.peer_frame_bytes_max)
        parts: list[memoryview] = []
        size = 0
        while queue and size < room:
            part = queue[0]
            free = room - size
            if len(part) <= free:
                queue.popleft()
            else:
                queue[0] = part[free:]
                part = part[:free]
            parts.append(part)
            size += len(part)
        self.send_window -= size
        connection.send_window -= size
        self.blocked_bytes -= size
        connection.queued_bytes -= size
        is_last = not queue and self._is_ending and self._trailers is None
        connection._out.append(HEAD.pack(size << 8, END_STREAM if is_last else 0, self.id))
        connection._out += parts
        return bool(queue) and self.send_window > 0

    def _queue_moved(self) -> None:
        """The line was left: everything is sent, or the stream's own window is closed."""
        if self._queue:
            return
        self._queue = None
        if not self._is_ending:
            self.owner.on_unblocked(self)
        elif self._trailers is None:
            self._close_local()  # END_STREAM went with the last frame
        else:
            self._send_end(self._trailers)

    def _send_end(self, trailers: bytes | None) -> None:
        connection = self._connection
        if trailers is None:
            connection._out.append(HEAD.pack(0, END_STREAM, self.id))
        else:
            connection._send_block(trailers, END_STREAM, self.id)
        self._close_local()

    def _close_local(self) -> None:
        self.local_closed = True
        connection = self._connection
        if self.remote_closed:
            connection._forget(self)
        elif not connection.is_client:
            # The answer is complete, and the client still sends: nobody reads that (8.1).
            connection._out.append(rst_stream(self.id, ErrorCode.NO_ERROR))
            connection._remember_reset(self.id)
            connection._forget(self)

    # --- receiving ----------------------------------------------------------------------------------

    def hold_window(self) -> None:
        """The reader takes nothing: the peer may send what its window allows, and no more."""
        if not self._ear & _HELD and not self.remote_closed:
            self._ear |= _HELD
            self._connection.held_bytes += self._connection._stream_window - self._room

    def give_window(self) -> None:
        """The reader has taken what came: the peer may go on."""
        if self._ear & _HELD:
            self._ear &= ~_HELD
            connection = self._connection
            connection.held_bytes -= connection._stream_window - self._room
            self._give_back()
            connection._give_back()

    def _data(self, data: bytes, start: int, end: int, size: int, flags: int) -> None:
        """A DATA frame: its content, and `size` as flow control counts it."""
        connection = self._connection
        room = self._room - size
        if room < 0:
            connection._fault_stream(
                self, ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the window of the stream"
            )
            return
        self._room = room
        if self._buffer is None and not self._ear and size > PREFIX_BYTES:
            compressed, length = PREFIX.unpack_from(data, start)
            if (
                start + PREFIX_BYTES + length == end
                and not compressed
                and size <= connection._whole_bytes_max
            ):
                self.owner.on_message(data[start + PREFIX_BYTES : end])  # one frame, one message: as a rule
            else:
                self._pieces(data, start, end)
        elif not self._ear or self._may_hear(size):
            self._pieces(data, start, end)
        if flags & END_STREAM:
            if not self.remote_closed:
                self._remote_end()
        elif room < connection._give_stream_below and not self._ear:
            self._give_back()

    def _pieces(self, data: bytes, start: int, end: int) -> None:
        """Messages, and parts of them, however they lie in the frames."""
        if self._buffer is not None:
            self._continue(data, start, end)
            return
        bytes_max = self._connection._message_bytes_max
        while end - start >= PREFIX_BYTES:
            compressed, length = PREFIX.unpack_from(data, start)
            stop = start + PREFIX_BYTES + length
            if compressed or length > bytes_max:
                self._refuse(BadMessage.COMPRESSED if compressed else BadMessage.TOO_LARGE, length)
                return
            if stop > end:
                break
            self.owner.on_message(data[start + PREFIX_BYTES : stop])
            start = stop
            if self.remote_closed or self._ear & _DEAF:
                return  # ended by its owner
        if start < end:
            self._keep(data, start, end)

    def _may_hear(self, size: int) -> bool:
        if self._ear & _HELD:
            self._connection.held_bytes += size
        if self._ear & NOT_YET:
            self._connection._fault_stream(self, ErrorCode.PROTOCOL_ERROR, "DATA in front of the response")
            return False
        return not self._ear & _DEAF

    def _keep(self, data: bytes, start: int, end: int) -> None:
        """The beginning of a message whose rest has not come."""
        if not self._connection._keep_partial(end - start):
            self._refuse(BadMessage.NO_ROOM, end - start)
            return
        self._buffer = bytearray(memoryview(data)[start:end])

    def _continue(self, data: bytes, start: int, end: int) -> None:
        """More of a message. A byte is copied into the buffer and out of it once, however small the frames
        are."""
        connection, buffer = self._connection, self._buffer
        assert buffer is not None
        if not connection._keep_partial(end - start):
            self._refuse(BadMessage.NO_ROOM, len(buffer) + end - start)
            return
        buffer += memoryview(data)[start:end]
        at, have = 0, len(buffer)
        bytes_max = connection._message_bytes_max
        while have - at >= PREFIX_BYTES:
            compressed, length = PREFIX.unpack_from(buffer, at)
            stop = at + PREFIX_BYTES + length
            if compressed or length > bytes_max:
                self._refuse(BadMessage.COMPRESSED if compressed else BadMessage.TOO_LARGE, length)
                return
            if stop > have:
                break
            with memoryview(buffer) as view:
                message = bytes(view[at + PREFIX_BYTES : stop])
            at = stop
            self.owner.on_message(message)
            if self.remote_closed or self._ear & _DEAF:
                return  # ended by its owner, and so is the buffer
        if at:
            if at == have:
                self._buffer = None
            else:
                del buffer[:at]
            connection._drop_partial(at)

    def _refuse(self, why: BadMessage, length: int) -> None:
        """No message is delivered any more."""
        self._ear |= _DEAF
        self._drop_buffer()
        self.owner.on_bad_message(self, why, length)

    def _drop_buffer(self) -> None:
        buffer, self._buffer = self._buffer, None
        self._connection.starved.pop(self, None)
        if buffer is not None:
            self._connection._drop_partial(len(buffer))

    def _give_back(self) -> None:
        """Let the peer send as much again as it has sent, if that is worth a frame and nothing stands against
        it."""
        connection = self._connection
        if self.remote_closed or self._ear or self._room >= connection._give_stream_below:
            return
        if self._buffer is not None and not connection._may_have_window(self):
            return
        taken = connection._stream_window - self._room
        self._room += taken
        connection._out.append(window_update(self.id, taken))

    def _remote_end(self) -> None:
        """END_STREAM came."""
        connection = self._connection
        if self._buffer is not None:
            self._refuse(BadMessage.CUT_OFF, len(self._buffer))
            if self.remote_closed:
                return  # ended by its owner
        self.remote_closed = True
        owner = connection._forget(self) if self.local_closed else self.owner
        owner.on_end(self)
        if connection.is_client and not self.local_closed:
            self.reset(ErrorCode.NO_ERROR)  # the call has its status: nobody reads what is still sent

    def _drop(self) -> None:
        """Take the stream out of all accounts."""
        connection = self._connection
        if self._ear & _HELD:
            connection.held_bytes -= connection._stream_window - self._room
        self._ear = _DEAF
        self._drop_buffer()
        self._queue = None
        queued, self.blocked_bytes = self.blocked_bytes, 0
        connection._forget_flow(self, queued)
