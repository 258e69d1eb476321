"""The calling side of gRPC: one connection to one address, and the replies that stream in on it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import trio

from synchro.rpc.duplex import LIMITS, message_bytes
from synchro.rpc.rpc_error import Metadata
from synchro.rpc.status import DETAILS_KEY
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode
from tests.grpcio_host.duplex import GrpcioDuplex
from tests.grpcio_host.guest_loop import GuestLoop

Req = TypeVar("Req")
Rep = TypeVar("Rep")
T = TypeVar("T")

GRPC_CODES: Final = {StatusCode(code.value[0]): code for code in grpc.StatusCode}
DEADLINE_RACE_S: Final = 0.05
"""Seconds by which gRPC's timer may fire before trio's for one deadline."""


class GrpcioChannel:
    """The calling side. Errors of the remote side are `CallFailed`.

    Serialisers are those of protobuf messages (`Request.SerializeToString`, `Reply.FromString`); None:
    messages are bytes. `timeout` is in seconds and becomes the deadline that the server sees.
    """

    def __init__(self, loop: GuestLoop, channel: grpc.aio.Channel, address: str) -> None:
        self.address = address
        self._loop = loop
        self._channel = channel

    async def unary(
        self,
        method: str,
        request: Any,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
        wait_for_ready: bool = False,
    ) -> Any:
        """Call "/package.Service/Method". Without `timeout` the deadline is that of the trio scope, and when
        it passes, the scope is cancelled as usual; with `timeout` it is `CallFailed`, DEADLINE_EXCEEDED.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        scope_deadline = trio.current_effective_deadline()
        if timeout is None and scope_deadline < math.inf:
            timeout = max(0.0, scope_deadline - trio.current_time())
        else:
            scope_deadline = math.inf

        async def call() -> Any:
            start = self._channel.unary_unary(method, serializer, deserializer)
            return await start(
                request, timeout=timeout, metadata=tuple(metadata), wait_for_ready=wait_for_ready
            )

        try:
            return await self._loop.aio(call())
        except grpc.aio.AioRpcError as error:
            is_own_deadline = (
                error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                and trio.current_time() >= scope_deadline - DEADLINE_RACE_S
                and DETAILS_KEY not in (error.trailing_metadata() or ())
            )
            if is_own_deadline:
                await trio.sleep_until(scope_deadline)
                await trio.lowlevel.checkpoint_if_cancelled()
            raise _failure(error) from error

    def server_stream(
        self,
        method: str,
        request: Any,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> ReplyStream:
        """The replies: `async with` it, then `async for`. Leaving the block cancels the call."""

        async def start() -> grpc.aio.UnaryStreamCall[Any, Any]:
            multi = self._channel.unary_stream(method, serializer, deserializer)
            return multi(request, timeout=timeout, metadata=tuple(metadata))

        return ReplyStream(self._loop, start)

    @asynccontextmanager
    async def duplex(
        self,
        method: str,
        *,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
        timeout: float | None = None,
        metadata: Metadata = (),
        size: Callable[[Any], int] = message_bytes,
        in_bytes_max: int = LIMITS.stream_in_bytes_max,
        out_bytes_max: int = LIMITS.stream_out_bytes_max,
    ) -> AsyncIterator[GrpcioDuplex[Any, Any]]:
        """A two-way stream for the length of the block, which runs in its `scope`.

        If the call fails, the block is cancelled and `CallFailed` raised. To end well: `done_sending`, then
        receive until `EndOfChannel`. Leaving the block earlier cancels the call.
        """

        async def start() -> grpc.aio.StreamStreamCall[Any, Any]:
            multi = self._channel.stream_stream(method, serializer, deserializer)
            return multi(timeout=timeout, metadata=tuple(metadata))

        call = await self._loop.aio(start())

        async def read() -> Any:
            try:
                return await call.read()
            except grpc.aio.AioRpcError as error:
                raise _failure(error) from error

        async def write(message: Any) -> None:
            try:
                await call.write(message)
            except grpc.aio.AioRpcError as error:
                raise _failure(error) from error
            except asyncio.InvalidStateError:
                # The call ended before this write, and the reader has not told yet. Well: it sees the end.
                if await call.code() is not grpc.StatusCode.OK:
                    raise await _error_of(call) from None

        stream: GrpcioDuplex[Any, Any] = GrpcioDuplex(
            self._loop,
            read=read,
            write=write,
            size=size,
            in_bytes_max=in_bytes_max,
            out_bytes_max=out_bytes_max,
        )
        life = self._loop.create_task(_live(call, stream))
        try:
            with stream.scope:
                yield stream
        except trio.BrokenResourceError as exc:
            if stream.error is not None:
                raise stream.error from exc
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._loop.aio(_end_call(call, life))
            stream.close()
        if stream.error is not None and stream.scope.cancelled_caught:
            raise stream.error


class ReplyStream:
    """The replies of a server stream, read one at a time: not reading them stops the server."""

    def __init__(
        self, loop: GuestLoop, start: Callable[[], Coroutine[Any, Any, grpc.aio.UnaryStreamCall[Any, Any]]]
    ) -> None:
        self._loop = loop
        self._start = start
        self._call: grpc.aio.UnaryStreamCall[Any, Any] | None = None

    async def __aenter__(self) -> ReplyStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the call if it is still going on. Idempotent."""
        if self._call is not None:
            self._call.cancel()

    def __aiter__(self) -> ReplyStream:
        return self

    async def __anext__(self) -> Any:
        if self._call is None:
            self._call = await self._loop.aio(self._start())
        try:
            reply = await self._loop.aio(_as_coroutine(self._call.read()))
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        if reply is grpc.aio.EOF:
            raise StopAsyncIteration
        return reply


async def _live(call: grpc.aio.StreamStreamCall[Any, Any], stream: GrpcioDuplex[Any, Any]) -> None:
    """Run asyncio's side of a client stream until the call is over."""
    reader = asyncio.ensure_future(stream.read_all())
    writer = asyncio.ensure_future(_write_and_half_close(call, stream))
    try:
        code = await call.code()
        if code is not grpc.StatusCode.OK and stream.is_reading_stopped:
            stream.fail(await _error_of(call))
        await reader
        if stream.error is None and code is not grpc.StatusCode.OK:
            stream.fail(await _error_of(call))
        stream.close()
    finally:
        await end_tasks(reader, writer)


async def _write_and_half_close(
    call: grpc.aio.StreamStreamCall[Any, Any], stream: GrpcioDuplex[Any, Any]
) -> None:
    await stream.write_all()
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.done_writing()


async def _end_call(call: grpc.aio.StreamStreamCall[Any, Any], life: asyncio.Task[None]) -> None:
    if not call.done():
        call.cancel()
    await end_tasks(life)


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and await them; their errors were reported elsewhere."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _error_of(call: grpc.aio.Call) -> CallFailed:
    code, trailing = await call.code(), await call.trailing_metadata()
    return CallFailed(StatusCode(code.value[0]), await call.details() or "", tuple(trailing or ()))


def _failure(error: grpc.aio.AioRpcError) -> CallFailed:
    code, trailing = error.code(), error.trailing_metadata()
    return CallFailed(StatusCode(code.value[0]), error.details() or "", tuple(trailing or ()))


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable
