"""The calling side of gRPC: one connection to one address, and the replies that stream in on it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from synchro.rpc.duplex import LIMITS, Duplex, message_bytes
from synchro.rpc.rpc_error import Metadata
from synchro.wire import grpc_call
from synchro.wire.connector import CLIENT_KEEPALIVE, CannotConnect, Connector
from synchro.wire.failure import CallFailed, CallNotBegun
from synchro.wire.frames import ErrorCode, StreamsExhausted
from synchro.wire.grpc_call import StatusCode
from synchro.wire.headers import HeaderList, header_block
from synchro.wire.io import ClientLayer, plain_client
from synchro.wire.limits import WireLimits
from synchro.wire.link import Keepalive, Link
from synchro.wire.streams import BadMessage, Http2Stream
from synchro.wire.turns import Timer, Turns

DEADLINE_RACE_S: Final = 0.05
"""Seconds by which the server's timer may fire before ours for one deadline."""
REPEATS_MAX: Final = 5
"""How often a call that the server has not looked at is begun again elsewhere by itself."""
USER_AGENT: Final = "grpc-python-synchro"
PATHS_MAX: Final = 1000
"""Methods whose header blocks are kept."""

Encoder = Callable[[Any], bytes] | None
Decoder = Callable[[bytes], Any] | None


class RpcChannel:
    """The calling side. Errors of the remote side, and of the way there, are `CallFailed`.

    Serialisers are those of protobuf messages (`Request.SerializeToString`, `Reply.FromString`); None:
    messages are bytes. `timeout` is in seconds and becomes the deadline that the server sees.
    """

    def __init__(
        self,
        turns: Turns,
        nursery: trio.Nursery,
        address: str,
        *,
        limits: WireLimits,
        keepalive: Keepalive = CLIENT_KEEPALIVE,
        connect_s: float | None = None,
        layer: ClientLayer = plain_client,
    ) -> None:
        """connect_s: seconds for one attempt to connect; None: `CONNECT_S` of the connector. layer: below
        HTTP/2, see `wire.io`."""
        self.address = address
        self._turns = turns
        self._message_bytes_max = limits.message_bytes_max
        self._connector = Connector(
            turns, nursery, address, limits=limits, keepalive=keepalive, connect_s=connect_s, layer=layer
        )
        self.scheme = "http" if layer is plain_client else "https"
        self._blocks: dict[str, bytes] = {}

    def close(self) -> None:
        """Close the connection; calls that go on fail with UNAVAILABLE."""
        self._connector.close()

    async def connect(self) -> Link:
        """Return the connection, for who begins calls on it by himself; it is made if there is none. Raises
        `CallNotBegun`."""
        return self._connector.usable() or await self._link(wait_for_ready=False)

    async def unary(
        self,
        method: str,
        request: Any,
        *,
        serializer: Encoder = None,
        deserializer: Decoder = None,
        timeout: float | None = None,
        metadata: Metadata = (),
        wait_for_ready: bool = False,
    ) -> Any:
        """Call "/package.Service/Method". Without `timeout` the deadline is that of the trio scope, and when
        it passes, the scope is cancelled as usual; with `timeout` it is `CallFailed`, DEADLINE_EXCEEDED.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        data = self._encoded(serializer, request)
        if timeout is not None:
            reply = _UnaryReply()
            with trio.move_on_after(timeout):
                return await self._unary(method, data, deserializer, timeout, metadata, wait_for_ready, reply)
            if not reply.is_sent:
                raise CallNotBegun(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed; nothing was sent")
            raise CallFailed(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        scope_deadline = trio.current_effective_deadline()
        if scope_deadline < math.inf:
            timeout = max(0.0, scope_deadline - trio.current_time())
        reply = _UnaryReply()
        try:
            return await self._unary(method, data, deserializer, timeout, metadata, wait_for_ready, reply)
        except CallFailed as error:
            is_own_deadline = (
                error.code is StatusCode.DEADLINE_EXCEEDED
                and trio.current_time() >= scope_deadline - DEADLINE_RACE_S
                and grpc_call.STATUS_DETAILS not in dict(error.trailing_metadata)
            )
            if is_own_deadline:
                await trio.sleep_until(scope_deadline)
                await trio.lowlevel.checkpoint_if_cancelled()
            raise

    async def _unary(
        self,
        method: str,
        data: bytes,
        deserializer: Decoder,
        timeout: float | None,
        metadata: Metadata,
        wait_for_ready: bool,
        reply: _UnaryReply,
    ) -> Any:
        block = self._block(method, timeout, metadata)
        for _ in range(REPEATS_MAX):
            link = self._connector.usable() or await self._link(wait_for_ready=wait_for_ready)
            try:
                stream = link.h2.open(block, reply)
            except StreamsExhausted:
                self._connector.give_up(link)
                continue
            reply.is_sent = True
            stream.send_message(data, end=True)
            link.mark()
            try:
                await reply.wait()
            finally:
                reply.is_sent = stream.id != 0  # else the server took no further one yet
                if not reply.is_over:
                    stream.reset(ErrorCode.CANCEL)
                    link.mark()
            if not reply.was_refused:
                break
            reply.again()
        failure = reply.failure
        if not reply.is_sent:
            if failure is not None:
                raise CallNotBegun(failure.code, f"{failure.message}; nothing was sent")
            raise CallNotBegun(StatusCode.UNAVAILABLE, f"{self.address} takes no further calls")
        if failure is not None:
            raise failure
        if reply.data is None:
            raise CallFailed(StatusCode.INTERNAL, "the answer is missing")
        return reply.data if deserializer is None else deserializer(reply.data)

    def server_stream(
        self,
        method: str,
        request: Any,
        *,
        serializer: Encoder = None,
        deserializer: Decoder = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> ReplyStream:
        """The replies: `async with` it, then `async for`. Leaving the block cancels the call."""
        data = self._encoded(serializer, request)

        async def start() -> _ClientStream:
            stream = self._client_stream(None, deserializer, timeout, in_bytes_max=1)
            await self._open(stream, method, timeout, metadata)
            stream.duplex.send_nowait(data)
            stream.duplex.done_sending()
            return stream

        return ReplyStream(start)

    def talk(
        self,
        method: str,
        *,
        serializer: Encoder = None,
        deserializer: Decoder = None,
        metadata: Metadata = (),
    ) -> TalkStream:
        """A two-way stream in which each message is answered by one; it belongs to no block, and must be
        closed."""

        async def start() -> _ClientStream:
            stream = self._client_stream(serializer, deserializer, None)
            await self._open(stream, method, None, metadata)
            return stream

        return TalkStream(start)

    @asynccontextmanager
    async def duplex(
        self,
        method: str,
        *,
        serializer: Encoder = None,
        deserializer: Decoder = None,
        timeout: float | None = None,
        metadata: Metadata = (),
        size: Callable[[Any], int] = message_bytes,
        in_bytes_max: int = LIMITS.stream_in_bytes_max,
        out_bytes_max: int = LIMITS.stream_out_bytes_max,
    ) -> AsyncIterator[Duplex[Any, Any]]:
        """A two-way stream for the length of the block, which runs in its `scope`.

        If the call fails, the block is cancelled and `CallFailed` raised. To end well: `done_sending`, then
        receive until `EndOfChannel`. Leaving the block earlier cancels the call.
        """
        client = self._client_stream(
            serializer,
            deserializer,
            timeout,
            size=size,
            in_bytes_max=in_bytes_max,
            out_bytes_max=out_bytes_max,
        )
        stream = client.duplex
        try:
            with stream.scope:
                await self._open(client, method, timeout, metadata)
                yield stream
        except trio.BrokenResourceError as exc:
            if stream.error is not None:
                raise stream.error from exc
            raise
        finally:
            client.end()
        if stream.error is not None and stream.scope.cancelled_caught:
            raise stream.error

    def check(self) -> None:
        """Assert the rules of its connector, for tests."""
        self._connector.check()

    # ---- private --------------------------------------------------------------------------------------

    def _client_stream(
        self, serializer: Encoder, deserializer: Decoder, timeout: float | None, **options: Any
    ) -> _ClientStream:
        def encode(message: Any) -> bytes:
            return self._encoded(serializer, message)

        return _ClientStream(self._turns, encode, deserializer or _as_it_is, timeout, options)

    async def _open(
        self, stream: _ClientStream, method: str, timeout: float | None, metadata: Metadata
    ) -> None:
        block = self._block(method, timeout, metadata)
        for _ in range(REPEATS_MAX):
            link = self._connector.usable() or await self._link(wait_for_ready=False)
            try:
                stream.open(link, block)
            except StreamsExhausted:
                self._connector.give_up(link)
            else:
                return
        raise CallNotBegun(StatusCode.UNAVAILABLE, f"{self.address} takes no further calls")

    async def _link(self, *, wait_for_ready: bool) -> Link:
        try:
            return await self._connector.get(wait_for_ready=wait_for_ready)
        except CannotConnect as error:
            raise CallNotBegun(StatusCode.UNAVAILABLE, error.why) from error

    def _encoded(self, serializer: Encoder, message: Any) -> bytes:
        data: bytes = message if serializer is None else serializer(message)
        if len(data) > self._message_bytes_max:
            raise CallFailed(
                StatusCode.RESOURCE_EXHAUSTED,
                f"a message of {len(data)} bytes, the limit is {self._message_bytes_max}; it was not sent",
            )
        return data

    def _block(self, method: str, timeout: float | None, metadata: Metadata) -> bytes:
        """The head of a call. What changes from call to call stands behind what does not."""
        block = self._blocks.get(method)
        if block is None:
            if len(self._blocks) >= PATHS_MAX:
                self._blocks.clear()
            block = grpc_call.request_block(method, self.address, user_agent=USER_AGENT, scheme=self.scheme)
            self._blocks[method] = block
        if timeout is not None:
            block += header_block([(b"grpc-timeout", grpc_call.format_timeout(timeout))])
        if metadata:
            block += header_block(grpc_call.encode_metadata(metadata))
        return block


class _UnaryReply:
    """Waits for the one reply of a call."""

    __slots__ = ("_task", "data", "failure", "is_over", "is_sent", "was_refused")

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.failure: CallFailed | None = None
        self.is_over = False
        self.is_sent = False
        """The server may have looked at the call."""
        self.was_refused = False
        """The server has not looked at the call."""
        self._task: trio.lowlevel.Task | None = None

    def again(self) -> None:
        """It was refused, and is begun anew."""
        self.is_over = self.is_sent = self.was_refused = False
        self.data = self.failure = None

    async def wait(self) -> None:
        """Wait for the end of the call."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        if not self.is_over:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)

    def _end(self, failure: CallFailed | None = None) -> None:
        if not self.is_over:
            self.is_over = True
            self.failure = failure
            if self._task is not None:
                task, self._task = self._task, None
                trio.lowlevel.reschedule(task)

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        if is_end:
            status = grpc_call.read_status(headers)
            self._end(None if status.is_ok else CallFailed.of(status))

    def on_message(self, data: bytes) -> None:
        self.data = data

    def on_end(self, stream: Http2Stream) -> None:
        self._end(CallFailed(StatusCode.INTERNAL, "the answer has no status"))

    def on_unblocked(self, stream: Http2Stream) -> None: ...

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        stream.reset(ErrorCode.CANCEL)
        self._end(_bad_message(why, length))

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self.was_refused = code is ErrorCode.REFUSED_STREAM
        self._end(CallFailed.of(grpc_call.status_of_reset(code)))

    def on_lost(self, why: str) -> None:
        self._end(CallFailed(StatusCode.UNAVAILABLE, why))


class _ClientStream:
    """The client's end of a stream: what HTTP/2 tells, as its `Duplex` wants to know it."""

    def __init__(
        self,
        turns: Turns,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        timeout: float | None,
        options: dict[str, Any],
    ) -> None:
        self.duplex: Duplex[Any, Any] = Duplex(
            turns, encode=encode, decode=decode, finish=self._finish, **options
        )
        self.on_message = self.duplex.on_arrival
        self._stream: Http2Stream | None = None
        self._link: Link | None = None
        self._timer: Timer | None = None
        if timeout is not None:
            self._timer = turns.call_at(trio.current_time() + timeout, self._on_deadline)

    def open(self, link: Link, block: bytes) -> None:
        """Begin the call on this connection."""
        self._link = link
        self._stream = link.h2.open(block, self)
        self.duplex.attach(link, self._stream)
        link.mark()

    def end(self) -> None:
        """Let go of the call; cancel it if it goes on. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        stream, link = self._stream, self._link
        if stream is not None and link is not None and not stream.remote_closed:
            stream.reset(ErrorCode.CANCEL)
            link.mark()
        self.duplex.close()

    def _fail(self, failure: CallFailed) -> None:
        self.duplex.fail(failure)
        self.duplex.close()

    def _finish(self) -> None:
        if self._stream is not None and self._link is not None:
            self._stream.end()
            self._link.mark()

    def _on_deadline(self) -> None:
        self._fail(CallFailed(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed"))
        self.end()

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        if is_end:
            status = grpc_call.read_status(headers)
            if not status.is_ok:
                self.duplex.fail(CallFailed.of(status))

    def on_end(self, stream: Http2Stream) -> None:
        self.duplex.on_half_close()
        self.duplex.close()  # nobody listens any more; what arrived may still be read

    def on_unblocked(self, stream: Http2Stream) -> None:
        self.duplex.on_unblocked()

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        self._fail(_bad_message(why, length))

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self._fail(CallFailed.of(grpc_call.status_of_reset(code)))

    def on_lost(self, why: str) -> None:
        self._fail(CallFailed(StatusCode.UNAVAILABLE, why))


class ReplyStream:
    """The replies of a server stream, read one at a time: not reading them stops the server."""

    def __init__(self, start: Callable[[], Awaitable[_ClientStream]]) -> None:
        self._start = start
        self._client: _ClientStream | None = None

    async def __aenter__(self) -> ReplyStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the call if it is still going on. Idempotent."""
        if self._client is not None:
            self._client.end()

    def __aiter__(self) -> ReplyStream:
        return self

    async def __anext__(self) -> Any:
        if self._client is None:
            self._client = await self._start()
        stream = self._client.duplex
        try:
            return await stream.receive()
        except (trio.EndOfChannel, trio.BrokenResourceError) as exc:
            if stream.error is not None:
                raise stream.error from exc
            if isinstance(exc, trio.EndOfChannel):
                raise StopAsyncIteration from None
            raise


class TalkStream:
    """See `RpcChannel.talk`. One task at a time uses it."""

    def __init__(self, start: Callable[[], Awaitable[_ClientStream]]) -> None:
        self._start = start
        self._client: _ClientStream | None = None

    async def say(self, message: Any) -> Any:
        """Send it; returns the answer. Raises `CallFailed`, if the call ended well without one, too."""
        if self._client is None:
            self._client = await self._start()
        stream = self._client.duplex
        stream.send_nowait(message)
        try:
            return await stream.receive()
        except (trio.EndOfChannel, trio.BrokenResourceError) as exc:
            raise stream.error or CallFailed(StatusCode.UNAVAILABLE, "the call is over") from exc

    def close(self) -> None:
        """Cancel the call if it is still going on. Idempotent."""
        if self._client is not None:
            self._client.end()


def _bad_message(why: BadMessage, length: int) -> CallFailed:
    code = StatusCode.INTERNAL
    if why in (BadMessage.TOO_LARGE, BadMessage.NO_ROOM):
        code = StatusCode.RESOURCE_EXHAUSTED
    return CallFailed(code, f"an answer of {length} bytes cannot be taken: {why.name.lower()}")


def _as_it_is(data: bytes) -> Any:
    return data
