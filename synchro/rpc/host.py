"""The place where gRPC meets trio: servers, channels, and one trio task for each call.

Services keep the classes that `protoc` generates; their methods are made by the adapters of `RpcHost`:

    class DataService(DataServiceServicer):
        def __init__(self, host: RpcHost) -> None:
            self.Execute = host.unary(self._execute)              # async def _execute(request, call)
            self.ExecuteStream = host.duplex(self._stream)        # async def _stream(stream, call)

    async with open_rpc_host() as host:
        server = await host.serve("127.0.0.1:0", lambda s: add_DataServiceServicer_to_server(service, s))

R1  A call and the trio task that serves it end together: a client that cancels, disconnects or runs out
    of time cancels `RpcCall.scope`, and gRPC hears of the end only after the task has ended.
R2  An error of a handler ends its own call with INTERNAL. An error of the core, which is called through
    `RpcHost.guard`, ends the node.
R3  Cancelling a trio task that waits for a remote call cancels that call on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import trio

from synchro.config import FIRST_REQUEST_S
from synchro.rpc.channel import RpcChannel, end_tasks
from synchro.rpc.duplex import LIMITS, Duplex, StreamOverrun, message_bytes
from synchro.rpc.guest_loop import GuestLoop, open_guest_loop, open_helper_nursery
from synchro.rpc.malformed import Guarded, read_of
from synchro.rpc.rpc_error import Metadata, RpcError
from synchro.rpc.slices import Slices

P = ParamSpec("P")
Req = TypeVar("Req")
Rep = TypeVar("Rep")
T = TypeVar("T")
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
GrpcOptions: TypeAlias = Sequence[tuple[str, str | int]]

CLOSE_GRACE_S: Final = 0.2
"""Seconds that calls in progress get when the host closes. To drain calls, use `RpcServer.stop` before."""
STOP_SLACK_S: Final = 2.0
"""Seconds added to a grace period for handlers that clean up; then the server is abandoned."""

WINDOW_BYTES: Final = 1 << 20
"""Bytes of one stream that are on their way or held by gRPC: enough for 20 MB/s at 50 ms. The bound is fixed,
because gRPC by itself lets the window grow beyond 10 MiB, which a sender would fill before it notices that
nobody reads."""

_BOTH_ENDS: Final[GrpcOptions] = (
    ("grpc.max_receive_message_length", LIMITS.message_bytes_max),
    ("grpc.max_send_message_length", LIMITS.message_bytes_max),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
)
SERVER_OPTIONS: Final[GrpcOptions] = (
    *_BOTH_ENDS,
    ("grpc.server_handshake_timeout_ms", int(1000 * FIRST_REQUEST_S)),  # see `connections`
    ("grpc.so_reuseport", 0),  # else two processes share a port unseen
    # A quiet client keeps its link by pings. gRPC takes more than two in five minutes for an attack, and says
    # "too many pings"; how often a client, ours or another, may look is not for the server to say.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),  # a client whose host is gone gives its connection back
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
)
CHANNEL_OPTIONS: Final[GrpcOptions] = (
    *_BOTH_ENDS,
    ("grpc.initial_reconnect_backoff_ms", 50),  # an election does not wait for gRPC's default of 1 s
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),  # several nodes in a process: no shared connection, no shared fate
    ("grpc.enable_http_proxy", 0),
)

log = logging.getLogger(__name__)


class RpcCall:
    """One call, as its handler sees it."""

    __slots__ = ("_context", "_trailing_metadata", "deadline", "scope")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._trailing_metadata: Metadata = ()
        left = context.time_remaining()
        self.deadline: float = math.inf if left is None else trio.current_time() + left
        """The client's deadline on trio's clock; inf: it has none."""
        self.scope = trio.CancelScope(deadline=self.deadline)
        """The life of the call. Cancelling it ends the call with CANCELLED."""

    @property
    def peer(self) -> str:
        """The address of the client as gRPC writes it: "ipv4:127.0.0.1:50404"."""
        return self._context.peer()

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata that the client sent, in order; keys are lower case and may repeat."""
        return tuple((key, value) for key, value in self._context.invocation_metadata() or ())

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set what is sent with the status, whatever that is; an `RpcError` adds its own."""
        self._trailing_metadata = tuple(metadata)
        self._context.set_trailing_metadata(self._trailing_metadata)

    async def abort(self, code: grpc.StatusCode, message: str, trailing_metadata: Metadata = ()) -> None:
        """End the call, on asyncio's side only. Always raises."""
        await self._context.abort(code, message, (*self._trailing_metadata, *trailing_metadata))


class _HandlerTask(Generic[T]):
    """The trio task that serves a call, as asyncio sees it: something to await and to cancel."""

    __slots__ = ("_ended", "_fn", "_wake", "call", "error", "has_result", "host", "result")

    result: T

    def __init__(self, host: RpcHost, call: RpcCall, fn: Callable[[], Awaitable[T]]) -> None:
        self.host = host
        self.call = call
        self.error: BaseException | None = None
        self.has_result = False
        self._fn = fn
        self._ended = False
        self._wake: asyncio.Future[None] = host.loop.create_future()

    async def outcome(self) -> None:
        """Run the task to its end. Cancelling this cancels the task, and still waits for its end
        (host.R1)."""
        self.host._calls.start_soon(self._run)
        try:
            await self._wake
        except asyncio.CancelledError:
            self.call.scope.cancel()
            while not self._ended:
                self._wake = self.host.loop.create_future()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._wake
            raise

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the main task: here it could leave gRPC waiting
    async def _run(self) -> None:
        self.host.calls_in_progress += 1
        try:
            with self.call.scope:
                self.result = await self._fn()
                self.has_result = True
        except BaseException as exc:  # noqa: BLE001 - the task ends here: nothing is hidden, see `_sort_error`
            self.error = self.host._sort_error(exc)
        finally:
            self.host.calls_in_progress -= 1
            self._ended = True
            if not self._wake.done():
                self._wake.set_result(None)


class _WaitingCall:
    """A unary call that is answered by `reply` or `fail`."""

    def __init__(self) -> None:
        self.on_cancel: Callable[[], None] | None = None
        self.is_over = False
        self._result: Any = None
        self._error: Exception | None = None
        self._answered = trio.Event()

    def reply(self, message: Any) -> None:
        if not self.is_over:
            self.is_over, self._result = True, message
            self._answered.set()

    def fail(self, error: Exception) -> None:
        if not self.is_over:
            self.is_over, self._error = True, error
            self._answered.set()

    async def outcome(self) -> Any:
        try:
            await self._answered.wait()
        finally:
            if not self.is_over:
                self.is_over = True
                if self.on_cancel is not None:
                    self.on_cancel()
        if self._error is not None:
            raise self._error
        return self._result


class RpcServer:
    """A listening server. Made by `RpcHost.serve`, which also keeps it alive."""

    def __init__(self, host: RpcHost, server: grpc.aio.Server, address: str) -> None:
        self.address = address
        """host:port really bound."""
        self._host = host
        self._server = server

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let those in progress go on for `grace` seconds, then cancel them. Idempotent.

        Not interrupted by cancellation: it takes `grace` and a little more at most.
        """
        with trio.move_on_after(grace + STOP_SLACK_S, shield=True):
            await self._host.loop.aio(self._server.stop(grace))
        self._host._servers.discard(self)


class RpcHost:
    """All servers and channels of a process; several nodes may share it."""

    _calls: trio.Nursery

    def __init__(self, loop: GuestLoop) -> None:
        self.loop = loop
        self.calls_in_progress = 0
        self.slices = Slices()
        self.on_handler_error: Callable[[str, BaseException], None] = _log_handler_error
        """Told of each error of a handler that became INTERNAL: the handler's name and the error."""
        self._servers: set[RpcServer] = set()  # a strong reference: gRPC stops a server that is collected
        self._scope = trio.CancelScope()  # all that `open_rpc_host` surrounds
        self._panic: BaseException | None = None

    def call_when_idle(self, callback: Callable[[], None]) -> None:
        """Call it in this thread when what has arrived by now was handled. It must not raise."""
        self.loop.call_when_idle(callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call it soon in trio's thread; usable from any thread. It must not raise."""
        self.loop.call_soon_threadsafe(callback)

    # ---- errors that end the node ---------------------------------------------------------------------

    def panic(self, exc: BaseException) -> None:
        """End everything: `open_rpc_host` cancels its body and raises `exc`. The first one counts."""
        if self._panic is None:
            self._panic = exc
            self._scope.cancel()

    def guard(self, fn: Callable[P, T]) -> Callable[P, T | None]:
        """`fn`, a synchronous callback into the core, such that any exception is a panic.

        After a panic it does nothing: a core that broke an invariant is not stepped again.
        """

        @functools.wraps(fn)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
            if self._panic is None:
                try:
                    return fn(*args, **kwargs)
                except BaseException as exc:  # noqa: BLE001 - it is raised again by `open_rpc_host`
                    self.panic(exc)
            return None

        return guarded

    def _sort_error(self, exc: BaseException) -> BaseException | None:
        """What a handler's exception means for its call; None: only that it was cancelled.

        What is no `Exception` (KeyboardInterrupt, SystemExit) is not the call's business: panic.
        """
        if isinstance(exc, BaseExceptionGroup):
            rest: BaseException | None = exc.split(trio.Cancelled)[1]
            while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
                rest = rest.exceptions[0]
        else:
            rest = None if isinstance(exc, trio.Cancelled) else exc
        if rest is not None and not isinstance(rest, Exception):
            self.panic(rest)
            return None
        return rest

    async def _close(self) -> None:
        grace = 0.0 if self._scope.cancel_called else CLOSE_GRACE_S
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for server in tuple(self._servers):
                    nursery.start_soon(server.stop, grace)
        self._calls.cancel_scope.cancel()

    # ---- servers ---------------------------------------------------------------------------------------

    async def serve(
        self,
        address: str,
        register: Callable[[Guarded], None],
        *,
        options: GrpcOptions = (),
        on_request: Callable[[str], None] | None = None,
    ) -> RpcServer:
        """Listen on host:port (port 0: any free one). `register` adds the services.

        on_request: told with each call where it comes from, as gRPC writes it.
        Raises `OSError` at once if the address cannot be bound.
        """
        await _check_can_bind(address)

        async def start() -> tuple[grpc.aio.Server, int]:
            server = grpc.aio.server(options=_merged(SERVER_OPTIONS, options))
            register(Guarded(server, on_request))
            try:
                port = server.add_insecure_port(address)
            except RuntimeError as error:
                raise OSError(errno.EADDRINUSE, f"cannot listen on {address}: {error}") from error
            await server.start()
            return server, port

        server, port = await self.loop.aio(start())
        host, colon, _ = address.rpartition(":")
        rpc_server = RpcServer(self, server, f"{host}:{port}" if colon and port > 1 else address)
        self._servers.add(rpc_server)
        return rpc_server

    def unary(
        self, fn: Callable[[Req, RpcCall], Awaitable[Rep]]
    ) -> Callable[[Req, Context], Coroutine[Any, Any, Rep]]:
        """A method with one request and one reply, served by a trio task of its own."""

        async def unary(request: Req, context: Context) -> Rep:
            call = RpcCall(context)
            work = _HandlerTask(self, call, lambda: fn(request, call))
            await work.outcome()
            await self._raise_for(fn, call, work)
            return work.result

        return unary

    def unary_together(
        self, fn: Callable[[Sequence[tuple[Any, Any]]], None]
    ) -> Callable[[Any, Context], Coroutine[Any, Any, Any]]:
        """A method whose calls `fn` gets together, as (`WaitingCall`, request), and answers later."""

        async def alone(request: Any, call: RpcCall) -> Any:
            waiting = _WaitingCall()
            fn([(waiting, request)])
            return await waiting.outcome()

        alone.__qualname__ = fn.__qualname__
        return self.unary(alone)

    def unary_sync(
        self, fn: Callable[[Req, RpcCall], Rep]
    ) -> Callable[[Req, Context], Coroutine[Any, Any, Rep]]:
        """A method with one request and one reply that is answered at once from memory, without a task."""

        async def unary_sync(request: Req, context: Context) -> Rep:
            call = RpcCall(context)
            try:
                return fn(request, call)
            except Exception as exc:
                await self._abort(fn, call, exc)
                raise

        return unary_sync

    def server_stream(
        self, fn: Callable[[Req, RpcCall], AsyncIterator[Rep]]
    ) -> Callable[[Req, Context], Coroutine[Any, Any, None]]:
        """A method with one request and many replies; `fn` is an async generator.

        It is resumed only when gRPC took the previous reply: a slow client slows it down.
        """

        async def server_stream(request: Req, context: Context) -> None:
            call = RpcCall(context)

            async def send_all() -> None:
                replies = cast(AsyncGenerator[Rep, None], fn(request, call))
                async with aclosing(replies):
                    async for reply in replies:
                        await self.loop.aio(context.write(reply))

            work = _HandlerTask(self, call, send_all)
            await context.send_initial_metadata(())  # see `duplex`
            await work.outcome()
            await self._raise_for(fn, call, work)

        return server_stream

    def duplex(
        self,
        fn: Callable[[Duplex[Any, Any], RpcCall], Awaitable[None]],
        *,
        size: Callable[[Any], int] = message_bytes,
        in_bytes_max: int = LIMITS.stream_in_bytes_max,
        out_bytes_max: int = LIMITS.stream_out_bytes_max,
    ) -> Callable[[object, Context], Coroutine[Any, Any, None]]:
        """A two-way stream. The call ends when `fn` returned and all it queued was sent."""

        async def duplex(_requests: object, context: Context) -> None:
            call = RpcCall(context)
            stream: Duplex[Any, Any] = Duplex(
                self.loop,
                read=read_of(context),
                write=context.write,
                scope=call.scope,
                size=size,
                in_bytes_max=in_bytes_max,
                out_bytes_max=out_bytes_max,
            )
            work = _HandlerTask(self, call, lambda: fn(stream, call))
            # Otherwise gRPC joins it to the first message, and once more to the status of a call that fails
            # while that message is stuck: then no status is sent at all.
            await context.send_initial_metadata(())
            reader = self.loop.create_task(stream.read_all())
            writer = self.loop.create_task(stream.write_all())
            try:
                await work.outcome()
                if work.has_result:
                    stream.done_sending()
                    await writer
                # The stream's own error is why the handler was cancelled.
                work.error = work.error or stream.error
                stream.close()
                await self._raise_for(fn, call, work)
            finally:
                stream.close()
                await end_tasks(reader, writer)

        return duplex

    async def _raise_for(self, fn: Callable[..., object], call: RpcCall, work: _HandlerTask[Any]) -> None:
        """End the call with the status that its error deserves; do nothing if the work has a result."""
        if work.error is not None:
            await self._abort(fn, call, work.error)
        elif not work.has_result:
            if trio.current_time() >= call.scope.deadline:
                await call.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
            elif call.scope.cancel_called:
                await call.abort(grpc.StatusCode.CANCELLED, "the call was cancelled by the server")
            else:  # cancelled from further out
                await call.abort(grpc.StatusCode.UNAVAILABLE, "this instance is stopping")

    async def _abort(self, fn: Callable[..., object], call: RpcCall, error: BaseException) -> None:
        if isinstance(error, RpcError):
            await call.abort(error.code, error.message, error.trailing_metadata)
        elif isinstance(error, StreamOverrun):
            await call.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        elif isinstance(error, grpc.aio.AbortError):
            raise error
        else:
            name = getattr(fn, "__qualname__", repr(fn))
            self.on_handler_error(name, error)
            # No text of the error: it may hold data that the client must not see.
            await call.abort(
                grpc.StatusCode.INTERNAL, f"internal error ({type(error).__name__}), see the log"
            )

    # ---- channels --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def channel(self, address: str, options: GrpcOptions = ()) -> AsyncIterator[RpcChannel]:
        """A connection that is made when first used, and made anew when it is lost."""

        async def make() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(address, options=_merged(CHANNEL_OPTIONS, options))

        channel = await self.loop.aio(make())
        try:
            yield RpcChannel(self.loop, channel, address)
        finally:
            with trio.move_on_after(STOP_SLACK_S, shield=True):
                await self.loop.aio(channel.close(None))


@asynccontextmanager
async def open_rpc_host() -> AsyncIterator[RpcHost]:
    """At the end servers are stopped, calls in progress cancelled and awaited, and asyncio closed."""
    async with open_guest_loop() as loop:
        host = RpcHost(loop)
        try:
            with host._scope:
                async with open_helper_nursery() as host._calls:
                    try:
                        yield host
                    finally:
                        await host._close()
        finally:
            if host._panic is not None:
                raise host._panic


def _merged(options: GrpcOptions, own: GrpcOptions) -> GrpcOptions:
    """Join options: of one that stands twice gRPC takes the first."""
    return tuple({**dict(options), **dict(own)}.items())


async def _check_can_bind(address: str) -> None:
    """Try the address with a plain socket first: gRPC has no error text for it, and logs on its own."""
    host, colon, port = address.rpartition(":")
    if not colon or address.startswith("unix:"):
        return
    try:
        found = await trio.socket.getaddrinfo(
            host.strip("[]"), int(port), type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE
        )
        for family, kind, protocol, _, socket_address in found:
            with trio.socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
                await sock.bind(socket_address)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error


def _log_handler_error(name: str, error: BaseException) -> None:
    log.error("%s failed; its call ends with INTERNAL", name, exc_info=error)
