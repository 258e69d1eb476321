"""`Duplex` over grpcio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc.aio
import trio

from synchro.rpc.duplex import LIMITS, OUT_OVERRUN, StreamOverrun, message_bytes

In = TypeVar("In")
Out = TypeVar("Out")


class GrpcioDuplex(Generic[In, Out]):
    """A stream, for one trio task or a synchronous core at this end of it.

    D1  `in_bytes` and `out_bytes` are the sizes of what is queued here; nothing is read while `in_bytes`
        is at its limit, so the sender at the other end is stopped by HTTP/2 flow control.
    D2  Messages are delivered in order, each to exactly one of `on_message` and `receive`.
    D3  `on_message` is not called while reading is paused.
    D4  Once the stream is over nothing is queued for sending, and what is sent is dropped.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        read: Callable[[], Awaitable[Any]],
        write: Callable[[Out], Awaitable[None]],
        scope: trio.CancelScope | None = None,
        size: Callable[[Any], int] = message_bytes,
        in_bytes_max: int = LIMITS.stream_in_bytes_max,
        out_bytes_max: int = LIMITS.stream_out_bytes_max,
    ) -> None:
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
        self._loop = loop
        self._read = read
        self._write = write
        self._size = size
        self._on_message: Callable[[In], None] | None = None
        self._inbox: deque[tuple[In, int]] = deque()
        self._outbox: deque[tuple[Out, int]] = deque()
        self._paused = False
        self._half_closed = False  # the peer sends no more
        self._done_sending = False
        self._over = False
        self.error: BaseException | None = None  # why the stream failed, as this end knows it
        self._reader_wake: asyncio.Future[None] | None = None
        self._writer_wake: asyncio.Future[None] | None = None
        self._arrivals = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._sent = trio.lowlevel.ParkingLot()

    # ---- receiving ----------------------------------------------------------------------------------

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
        self._deliver_soon()

    async def receive(self) -> In:
        """The next message. `EndOfChannel`: the peer has sent its last one (or, seen from a server, is
        gone: then `scope` is cancelled a moment later). `BrokenResourceError`: the stream broke."""
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while not self._inbox or self._on_message is not None:
            if self._half_closed and not self._inbox:
                raise trio.EndOfChannel
            if self._over:
                raise trio.BrokenResourceError("the stream is over")
            await self._arrivals.park()
            has_waited = True
        item = self._take()
        if not has_waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return item

    def _take(self) -> In:
        item, size = self._inbox.popleft()
        self.in_bytes -= size
        self._wake_reader()
        return item

    def __aiter__(self) -> GrpcioDuplex[In, Out]:
        return self

    async def __anext__(self) -> In:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def pause_reading(self) -> None:
        """Take nothing more from the wire; one message that is already under way waits in the inbox."""
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._deliver_soon()
        self._wake_reader()

    # ---- sending ------------------------------------------------------------------------------------

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
        self._outbox.append((item, size))
        self.out_bytes += size
        if self.out_bytes > OUT_OVERRUN * self.out_bytes_max:
            self.fail(StreamOverrun(f"the peer does not read: {self.out_bytes} bytes are queued for it"))
        self._wake_writer()

    async def wait_sent(self) -> None:
        """Wait until gRPC took all that is queued, or the stream is over."""
        await trio.lowlevel.checkpoint()
        while self.out_bytes and not self._over:
            await self._sent.park()

    def done_sending(self) -> None:
        """What is queued still goes out, then the peer sees the end (half close). Idempotent."""
        self._done_sending = True
        self._wake_writer()

    def check(self) -> None:
        """Assert its sums, for tests."""
        assert self.in_bytes == sum(size for _, size in self._inbox)
        assert self.out_bytes >= sum(size for _, size in self._outbox)  # plus what is being written
        assert not (self._over and self._outbox)

    # ---- asyncio's side: run by `host`, one reader and one writer per stream ----------------------------

    async def read_all(self) -> None:
        """Deliver messages until the peer half-closes; an error ends in `fail`."""
        try:
            await self._read_messages()
        except Exception as exc:  # noqa: BLE001 - asyncio would only log it
            self.fail(exc)
        finally:
            self._arrivals.unpark_all()

    async def write_all(self) -> None:
        """Write what is queued until `done_sending` and nothing is left; errors end in `fail`."""
        try:
            await self._write_messages()
        except Exception as exc:  # noqa: BLE001
            self.fail(exc)

    def fail(self, error: BaseException) -> None:
        """End the stream because of `error`; the first one counts."""
        if self.error is None and not self._over:
            self.error = error
            self.scope.cancel()

    @property
    def is_reading_stopped(self) -> bool:
        return self._reader_wake is not None

    def close(self) -> None:
        """The RPC is over, well or not: let go of every task that waits."""
        self._over = True
        self._outbox.clear()
        self.out_bytes = 0
        self._arrivals.unpark_all()
        self._room.unpark_all()
        self._sent.unpark_all()

    # ---- private ------------------------------------------------------------------------------------

    async def _read_messages(self) -> None:
        while True:
            while self._must_not_read():
                self._reader_wake = self._loop.create_future()
                await self._reader_wake
            item = await self._read()
            if item is grpc.aio.EOF:
                self._half_closed = True
                return
            if self._on_message is not None and not self._paused and not self._inbox:
                self._on_message(item)
            else:
                size = self._size(item)
                self._inbox.append((item, size))
                self.in_bytes += size
                self._arrivals.unpark()

    async def _write_messages(self) -> None:
        while self._outbox or not self._done_sending:
            if not self._outbox:
                self._writer_wake = self._loop.create_future()
                await self._writer_wake
            elif self.coalesce is None:
                item, size = self._outbox.popleft()
                await self._write(item)
                self._written(size)
            else:
                pending = [item for item, _ in self._outbox]
                left = sum(size for _, size in self._outbox)
                self._outbox.clear()
                messages = self.coalesce(pending)
                for index, message in enumerate(messages):
                    await self._write(message)
                    share = left // (len(messages) - index)
                    left -= share
                    self._written(share)
                self._written(left)  # more than 0 only if there was nothing to write

    def _must_not_read(self) -> bool:
        return self._must_not_deliver() or self.in_bytes >= self.in_bytes_max

    def _must_not_deliver(self) -> bool:
        return self._paused or (self.pause_when_full and self.out_bytes >= self.out_bytes_max)

    def _deliver_soon(self) -> None:
        if self._inbox and self._on_message is not None:
            self._loop.call_soon(self._deliver_inbox)

    def _deliver_inbox(self) -> None:
        try:
            while self._inbox and self._on_message is not None and not self._must_not_deliver():
                item, size = self._inbox.popleft()
                self.in_bytes -= size
                self._on_message(item)
        except Exception as exc:  # noqa: BLE001
            self.fail(exc)
        self._wake_reader()
        if self._half_closed:
            self._arrivals.unpark_all()

    def _written(self, size: int) -> None:
        self.out_bytes = max(0, self.out_bytes - size)  # 0 already if closed meanwhile
        if self._room and self.out_bytes <= self.out_bytes_max // 2:
            self._room.unpark_all()
        if self._sent and not self.out_bytes:
            self._sent.unpark_all()
        if self.pause_when_full:
            self._deliver_soon()
            self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader_wake is not None and not self._must_not_read():
            _wake(self._reader_wake)
            self._reader_wake = None

    def _wake_writer(self) -> None:
        if self._writer_wake is not None:
            _wake(self._writer_wake)
            self._writer_wake = None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # done: its task was cancelled meanwhile
        future.set_result(None)
