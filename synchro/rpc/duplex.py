"""One two-way gRPC stream as the rest of the program sees it.

The hot path has no task switch: a message goes from the wire straight into `on_message`, an answer into
`send_nowait`. Everything that became pending while the previous write was under way leaves together, so
batches grow with the load and no timer is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import trio

from synchro.config import Limits
from synchro.wire.frames import ErrorCode
from synchro.wire.link import Link
from synchro.wire.streams import Http2Stream
from synchro.wire.turns import Turns

In = TypeVar("In")
Out = TypeVar("Out")

LIMITS: Final = Limits()
OUT_OVERRUN: Final = 4
"""Output beyond this many times its limit breaks the stream: a sender that ignores `writable` must not be
able to fill the memory when the peer stops reading."""


class StreamOverrun(Exception):
    """The peer does not read, and more was queued for it than the stream may hold."""


def _nothing() -> None:
    pass


def _never(item: object) -> bytes:
    raise AssertionError("the stream is over")


def message_bytes(message: Any) -> int:
    """Return the size of a message that is `bytes` or protobuf; the default of streams."""
    return len(message) if isinstance(message, bytes) else message.ByteSize()


class Duplex(Generic[In, Out]):
    """A stream, for one trio task or a synchronous core at this end of it.

    D1  `in_bytes` and `out_bytes` are the sizes of what is queued here; nothing is read while `in_bytes`
        is at its limit. What arrives meanwhile waits undecoded, at most the window of the stream, and the
        sender at the other end is stopped by HTTP/2 flow control.
    D2  Messages are delivered in order, each to exactly one of `on_message` and `receive`.
    D3  `on_message` is not called while reading is paused.
    D4  Once the stream is over nothing is queued for sending, and what is sent is dropped.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        encode: Callable[[Out], bytes],
        decode: Callable[[bytes], In],
        finish: Callable[[], None],
        scope: trio.CancelScope | None = None,
        size: Callable[[Any], int] = message_bytes,
        in_bytes_max: int = LIMITS.stream_in_bytes_max,
        out_bytes_max: int = LIMITS.stream_out_bytes_max,
    ) -> None:
        """finish: called when all was handed over and `done_sending` was said."""
        assert in_bytes_max > 0
        assert out_bytes_max > 0
        self.scope = trio.CancelScope() if scope is None else scope
        """The life of the stream: cancelled when the RPC ends early; cancelling it ends the RPC."""
        self.in_bytes = 0
        self.out_bytes = 0
        self.in_bytes_max = in_bytes_max
        self.out_bytes_max = out_bytes_max
        self.coalesce: Callable[[list[Out]], Sequence[Out]] | None = None
        """Turns all that is pending into as few messages as possible. It must not change what they mean."""
        self.pause_when_full = False
        """Read nothing while the output is over its limit. Right for the answering end of a stream, as it
        makes a client that does not read stop sending. Never at both ends: each would wait for the other."""
        self.error: BaseException | None = None
        """Why the stream failed, as this end knows it."""
        self.sent = 0
        """Bytes of messages that were handed over so far."""
        self._turns = turns
        self._link: Link | None = None
        self._stream: Http2Stream | None = None
        self._encode = encode
        self._decode = decode
        self._finish = finish
        self._size = size
        self._on_message: Callable[[In], None] | None = None
        self._arrived: deque[bytes] = deque()  # not read yet: the window is not given back
        self._inbox: deque[tuple[In, int]] = deque()
        self._outbox: deque[tuple[Out, int]] = deque()
        self._folded: deque[tuple[Out, int]] = deque()  # went through `coalesce`
        self._stuck = 0  # bytes of the message that flow control holds back
        self._paused = False
        self._half_closed = False  # the peer sends no more
        self._done_sending = False
        self._is_finished = False
        self._over = False
        self._is_dirty = False
        self._is_delivering = False
        self._is_held = False  # what arrives gives no window back
        self._arrivals = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._sent = trio.lowlevel.ParkingLot()

    # ---- receiving ------------------------------------------------------------------------------------

    @property
    def on_message(self) -> Callable[[In], None] | None:
        """Called for each message as it arrives, never from inside another call. It may pause reading.

        What it raises ends this stream as an error of the handler would; what must end the node goes
        through `RpcHost.guard`. With it set, `receive` only waits for the end. Messages that came before
        it was set are delivered first.
        """
        return self._on_message

    @on_message.setter
    def on_message(self, callback: Callable[[In], None] | None) -> None:
        self._on_message = callback
        self._read_soon()

    async def receive(self) -> In:
        """The next message. `EndOfChannel`: the peer has sent its last one (or, seen from a server, is
        gone: then `scope` is cancelled a moment later). `BrokenResourceError`: the stream broke."""
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while True:
            if self._on_message is None:
                if self._arrived and not self._inbox:
                    self._read()
                if self._inbox:
                    break
            if self._half_closed and not self._inbox and not self._arrived:
                raise trio.EndOfChannel
            if self._over and not self._arrived:
                raise trio.BrokenResourceError("the stream is over")
            await self._arrivals.park()
            has_waited = True
        item, size = self._inbox.popleft()
        self.in_bytes -= size
        if self._arrived:
            self._read_soon()
        if not has_waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return item

    def __aiter__(self) -> Duplex[In, Out]:
        return self

    async def __anext__(self) -> In:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def pause_reading(self) -> None:
        """Take nothing more from the wire."""
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._read_soon()

    # ---- sending --------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether the output is below its limit."""
        return self.out_bytes < self.out_bytes_max

    async def wait_writable(self) -> None:
        """Wait until the output is below its limit. Raises `BrokenResourceError` if the stream is over."""
        await trio.lowlevel.checkpoint()
        while not self._over and not self.writable:
            await self._room.park()
        if self._over:
            raise trio.BrokenResourceError("the stream is over")

    async def send(self, item: Out) -> None:
        """Queue a message once there is room. It was not necessarily sent when this returns."""
        await self.wait_writable()
        self.send_nowait(item)

    def send_nowait(self, item: Out, size: int | None = None) -> None:
        """Queue a message whatever the room: look at `writable` before making more work for the peer.

        size: of the message, from who knows it without looking; to ask protobuf is to encode the message.
        On a stream that is over the message is dropped: its end was announced by `scope`.
        """
        if self._over:
            return
        if self._done_sending:
            raise trio.ClosedResourceError("nothing can be sent after done_sending")
        if size is None:
            size = self._size(item)
        if self.out_bytes > OUT_OVERRUN * self.out_bytes_max:  # not with it: one message may be of any size
            self.fail(StreamOverrun(f"the peer does not read: {self.out_bytes} bytes are queued for it"))
        self._outbox.append((item, size))
        self.out_bytes += size
        if not self._is_dirty:
            self._emit_later()

    async def wait_sent(self) -> None:
        """Wait until all that is queued was handed to the connection, or the stream is over."""
        await trio.lowlevel.checkpoint()
        while self.out_bytes and not self._over:
            await self._sent.park()

    def done_sending(self) -> None:
        """What is queued still goes out, then the peer sees the end (half close). Idempotent."""
        self._done_sending = True
        self._emit_later()

    def check(self) -> None:
        """Assert Duplex.D1 and Duplex.D4, for tests."""
        assert self.in_bytes == sum(size for _, size in self._inbox)
        queued = sum(size for _, size in (*self._outbox, *self._folded)) + self._stuck
        assert self.out_bytes == queued
        assert not (self._over and (self._outbox or self._folded))

    # ---- for the host and the channel -----------------------------------------------------------------

    def attach(self, link: Link, stream: Http2Stream) -> None:
        """The stream of HTTP/2 that carries this one. What was sent before goes out now."""
        self._link, self._stream = link, stream
        if self._outbox or self._done_sending:
            self._emit_later()

    def on_arrival(self, data: bytes) -> None:
        """A message came."""
        if self._over:
            return
        if self._arrived or self._must_not_read():
            self._arrived.append(data)
            if not self._is_held and self._stream is not None:
                self._is_held = True
                self._stream.hold_window()
            return
        self._is_delivering = True
        try:
            self._take(data)
        except Exception as exc:  # noqa: BLE001 - it is the error of this stream
            self.fail(exc)
        self._is_delivering = False

    def on_half_close(self) -> None:
        """The peer has sent its last message."""
        self._half_closed = True
        self._arrivals.unpark_all()

    def on_unblocked(self) -> None:
        """Flow control let go of the message that it held back."""
        stuck, self._stuck = self._stuck, 0
        if stuck:
            self._written(stuck)
        if not self._is_dirty:
            self._emit_later()

    def emit(self) -> None:
        """Hand over what is queued, as far as flow control lets it go."""
        self._is_dirty = False
        if self._stream is None or self._stream.local_closed or self._over:
            return
        try:
            self._emit(self._stream)
        except Exception as exc:  # noqa: BLE001 - of `coalesce` or the encoder: the error of this stream
            self.fail(exc)

    def fail(self, error: BaseException) -> None:
        """End the stream because of `error`; the first one counts."""
        if self.error is None and not self._over:
            self.error = error
            self.scope.cancel()

    @property
    def is_finished(self) -> bool:
        """Whether all was handed over, and the end with it."""
        return self._is_finished

    def close(self) -> None:
        """The RPC is over, well or not: let go of every task that waits. What arrived may still be read."""
        self._over = True
        self._outbox.clear()
        self._folded.clear()
        self._stuck = 0
        self.out_bytes = 0
        self._arrivals.unpark_all()
        self._room.unpark_all()
        self._sent.unpark_all()

    def let_go(self) -> None:
        """Nobody uses it any more: it holds none of those who had it, so that no collector is needed."""
        self._on_message = self.coalesce = None
        self._finish, self._encode = _nothing, _never
        self._link = self._stream = None

    # ---- private --------------------------------------------------------------------------------------

    def _must_not_read(self) -> bool:
        return (
            self._paused
            or self.in_bytes >= self.in_bytes_max
            or (self.pause_when_full and self.out_bytes >= self.out_bytes_max)
        )

    def _read_soon(self) -> None:
        if self._arrived or self._inbox:
            self._turns.call_soon(self._read)

    def _read(self) -> None:
        """Take what arrived, to the inbox or to `on_message`, until reading must stop."""
        if self._is_delivering:
            return  # never from inside another call; who delivers goes on
        self._is_delivering = True
        inbox, arrived = self._inbox, self._arrived
        try:
            while inbox and self._on_message is not None and not self._must_not_deliver():
                item, size = inbox.popleft()
                self.in_bytes -= size
                self._on_message(item)
            while arrived and not self._must_not_read():
                self._take(arrived.popleft())
        except Exception as exc:  # noqa: BLE001 - it is the error of this stream
            self.fail(exc)
        self._is_delivering = False
        if self._is_held and not arrived:
            self._is_held = False
            if self._stream is not None and self._link is not None and not self._stream.remote_closed:
                self._stream.give_window()
                self._link.mark()
        if self._half_closed:
            self._arrivals.unpark_all()

    def _take(self, data: bytes) -> None:
        item = self._decode(data)
        if self._on_message is not None and not self._inbox:
            self._on_message(item)
        else:
            self._inbox.append((item, len(data)))
            self.in_bytes += len(data)
            self._arrivals.unpark()

    def _must_not_deliver(self) -> bool:
        return self._paused or (self.pause_when_full and self.out_bytes >= self.out_bytes_max)

    def _emit_later(self) -> None:
        if not self._is_dirty and self._link is not None and not self._over:
            self._is_dirty = True
            self._link.emit_later(self)

    def _emit(self, stream: Http2Stream) -> None:
        outbox, folded, encode = self._outbox, self._folded, self._encode
        while not stream.is_blocked:
            if self.coalesce is not None and not folded and outbox:
                self._fold(self.coalesce)
                continue
            queue = folded or outbox
            if not queue:
                break
            item, size = queue.popleft()
            stream.send_message(encode(item))
            self.sent += size
            if stream.is_blocked:
                self._stuck = size
            else:
                self._written(size)
        if self._done_sending and not outbox and not folded and not self._is_finished:
            self._is_finished = True
            self._finish()

    def _fold(self, coalesce: Callable[[list[Out]], Sequence[Out]]) -> None:
        pending = [item for item, _ in self._outbox]
        left = sum(size for _, size in self._outbox)
        self._outbox.clear()
        messages = coalesce(pending)
        for index, message in enumerate(messages):
            share = left // (len(messages) - index)
            left -= share
            self._folded.append((message, share))
        if left:  # there was nothing to write
            self._written(left)

    def _written(self, size: int) -> None:
        self.out_bytes = max(0, self.out_bytes - size)  # 0 already if closed meanwhile
        if self._room and self.out_bytes <= self.out_bytes_max // 2:
            self._room.unpark_all()
        if self._sent and not self.out_bytes:
            self._sent.unpark_all()
        if self.pause_when_full and (self._arrived or self._inbox) and not self._is_delivering:
            self._read_soon()

    def reset(self) -> None:
        """Cancel the call on the wire, if it goes on."""
        stream = self._stream
        if stream is not None and not (stream.local_closed and stream.remote_closed):
            stream.reset(ErrorCode.CANCEL)
            assert self._link is not None
            self._link.mark()
