"""A host on grpcio's own server and channels, behind the seam of `synchro.rpc.host`: for tests only.

grpcio knows asyncio, so its loop runs as a guest in trio's thread. An instance on this host proves to one on
ours, and ours to it, that both speak gRPC as it is published.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import trio

from synchro.rpc.duplex import LIMITS, StreamOverrun, message_bytes
from synchro.rpc.methods import Entry, Kind, Method, Methods, Registrar
from synchro.rpc.rpc_error import Metadata, RpcError
from synchro.rpc.slices import Slices
from synchro.server.sessions import Sessions
from synchro.storage.users import GUEST_CALLER, Caller
from synchro.wire.admission import PortLimits
from synchro.wire.grpc_call import StatusCode
from synchro.wire.io import ClientLayer, ServerLayer, plain_client, plain_server
from synchro.wire.turns import open_helper_nursery
from tests.grpcio_host.channel import GRPC_CODES, GrpcioChannel, end_tasks
from tests.grpcio_host.duplex import GrpcioDuplex
from tests.grpcio_host.guest_loop import GuestLoop, open_guest_loop

P = ParamSpec("P")
Req = TypeVar("Req")
Rep = TypeVar("Rep")
T = TypeVar("T")
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
GrpcOptions: TypeAlias = Sequence[tuple[str, str | int]]

CLOSE_GRACE_S: Final = 0.2
"""Seconds that calls in progress get when the host closes. To drain calls, use `GrpcioServer.stop` before."""
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


class GrpcioCall:
    """`RpcCall`."""

    __slots__ = ("_context", "_trailing_metadata", "deadline", "on_over", "scope")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._trailing_metadata: Metadata = ()
        self.on_over: Callable[[], None] | None = None
        left = context.time_remaining()
        self.deadline: float = math.inf if left is None else trio.current_time() + left
        """The client's deadline on trio's clock; inf: it has none."""
        self.scope = trio.CancelScope(deadline=self.deadline)
        """The life of the call. Cancelling it ends the call with CANCELLED."""

    def hear_first(self) -> None:
        """grpcio reads as it likes."""

    @property
    def caller(self) -> Caller:
        return GUEST_CALLER

    @property
    def peer(self) -> str:
        """The address of the client as gRPC writes it: "ipv4:127.0.0.1:50404"."""
        return self._context.peer()

    @property
    def is_private(self) -> bool:
        return True

    def shows_certificate_of(self, host: str) -> bool | None:
        return None

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata that the client sent, in order; keys are lower case and may repeat."""
        return tuple((key, value) for key, value in self._context.invocation_metadata() or ())

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set what is sent with the status, whatever that is; an `RpcError` adds its own."""
        self._trailing_metadata = tuple(metadata)
        self._context.set_trailing_metadata(self._trailing_metadata)

    async def abort(self, code: StatusCode, message: str, trailing_metadata: Metadata = ()) -> None:
        """End the call, on asyncio's side only. Always raises."""
        await self._context.abort(GRPC_CODES[code], message, (*self._trailing_metadata, *trailing_metadata))


class _HandlerTask(Generic[T]):
    """The trio task that serves a call, as asyncio sees it: something to await and to cancel."""

    __slots__ = ("_ended", "_fn", "_wake", "call", "error", "has_result", "host", "result")

    result: T

    def __init__(self, host: GrpcioHost, call: GrpcioCall, fn: Callable[[], Awaitable[T]]) -> None:
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


class GrpcioServer:
    """A listening server. Made by `GrpcioHost.serve`, which also keeps it alive."""

    def __init__(self, host: GrpcioHost, server: grpc.aio.Server, address: str) -> None:
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


class GrpcioHost:
    """All servers and channels of a process; several nodes may share it."""

    _calls: trio.Nursery

    def __init__(self, loop: GuestLoop) -> None:
        self.loop = loop
        self.calls_in_progress = 0
        self.slices = Slices()
        self.on_handler_error: Callable[[str, BaseException], None] = _log_handler_error
        """Told of each error of a handler that became INTERNAL: the handler's name and the error."""
        self._servers: set[GrpcioServer] = set()  # a strong reference: gRPC stops a server that is collected
        self._scope = trio.CancelScope()  # all that `open_grpcio_host` surrounds
        self._panic: BaseException | None = None

    def call_when_idle(self, callback: Callable[[], None]) -> None:
        """Call it in this thread when what has arrived by now was handled. It must not raise."""
        self.loop.call_when_idle(callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon(callback)

    def in_turn(self, callback: Callable[[], None]) -> None:
        callback()

    def call_at_rest(self, callback: Callable[[], None]) -> None:
        """Never: this host cannot tell when it has nothing else to do."""

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call it soon in trio's thread; usable from any thread. It must not raise."""
        self.loop.call_soon_threadsafe(callback)

    # ---- errors that end the node ---------------------------------------------------------------------

    def panic(self, exc: BaseException) -> None:
        """End everything: `open_grpcio_host` cancels its body and raises `exc`. The first one counts."""
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
                except BaseException as exc:  # noqa: BLE001 - it is raised again by `open_grpcio_host`
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
        register: Callable[[Registrar], None],
        *,
        limits: PortLimits | None = None,
        layer: ServerLayer = plain_server,
        sessions: Sessions | None = None,
        log: Any = None,
    ) -> GrpcioServer:
        """As `RpcHost.serve`; of the limits only the number of connections counts, there is no TLS, and all
        calls are the guest's."""
        assert layer is plain_server
        methods = Methods()
        register(methods)
        options = [("grpc.max_allowed_incoming_connections", (limits or PortLimits()).connections_max)]

        async def start() -> tuple[grpc.aio.Server, int]:
            server = grpc.aio.server(options=_merged(SERVER_OPTIONS, options))
            server.add_generic_rpc_handlers([_Handlers(self, methods)])
            port = server.add_insecure_port(address)
            await server.start()
            return server, port

        server, port = await self.loop.aio(start())
        made = GrpcioServer(self, server, f"{address.rpartition(':')[0]}:{port}")
        self._servers.add(made)
        return made

    def unary(self, fn: Callable[..., Awaitable[Any]], **shortcuts: Any) -> Method:
        """shortcuts: what answers without a task; here each call has one."""
        return Method(Kind.UNARY, fn)

    def unary_sync(self, fn: Callable[..., Any]) -> Method:
        return Method(Kind.UNARY_SYNC, fn)

    def unary_together(self, fn: Callable[[Sequence[tuple[Any, Any]]], None]) -> Method:
        return Method(Kind.UNARY_TOGETHER, fn)

    def server_stream(self, fn: Callable[..., AsyncIterator[Any]]) -> Method:
        return Method(Kind.SERVER_STREAM, fn)

    def duplex(
        self,
        fn: Callable[[GrpcioDuplex[Any, Any], GrpcioCall], Awaitable[None]],
        *,
        size: Callable[[Any], int] = message_bytes,
        in_bytes_max: int = LIMITS.stream_in_bytes_max,
        out_bytes_max: int = LIMITS.stream_out_bytes_max,
    ) -> Method:
        options = (("size", size), ("in_bytes_max", in_bytes_max), ("out_bytes_max", out_bytes_max))
        return Method(Kind.DUPLEX, fn, options)

    # ---- one call of each kind, as grpcio calls it ------------------------------------------------------

    async def serve_unary(self, entry: Entry, data: bytes, context: Context) -> bytes:
        call = GrpcioCall(context)
        try:
            request = entry.decode(data)
        except RpcError as error:
            await self._abort(entry, call, error)
        work = _HandlerTask(self, call, lambda: entry.fn(request, call))
        await work.outcome()
        await self._raise_for(entry, call, work)
        return entry.encode(work.result)

    async def serve_unary_sync(self, entry: Entry, data: bytes, context: Context) -> bytes:
        call = GrpcioCall(context)
        try:
            return entry.encode(entry.fn(entry.decode(data), call))
        except Exception as exc:
            await self._abort(entry, call, exc)
            raise

    async def serve_unary_together(self, entry: Entry, data: bytes, context: Context) -> bytes:
        """Each call goes alone: what is shared is nothing that a client could see."""
        call = _TogetherCall(self.loop, context)
        try:
            entry.fn([(call, entry.decode(data))])
            return entry.encode(await call.answer)
        except asyncio.CancelledError:
            call.end()
            raise
        except Exception as exc:
            await self._abort(entry, call, exc)
            raise

    async def serve_server_stream(self, entry: Entry, data: bytes, context: Context) -> None:
        call = GrpcioCall(context)

        async def send_all() -> None:
            replies = cast(AsyncGenerator[Any, None], entry.fn(entry.decode(data), call))
            async with aclosing(replies):
                async for reply in replies:
                    await self.loop.aio(context.write(entry.encode(reply)))

        work = _HandlerTask(self, call, send_all)
        await context.send_initial_metadata(())  # see `serve_duplex`
        await work.outcome()
        await self._raise_for(entry, call, work)

    async def serve_duplex(self, entry: Entry, _requests: object, context: Context) -> None:
        call = GrpcioCall(context)

        async def read() -> Any:
            data = await context.read()
            return data if data is grpc.aio.EOF else entry.decode(data)

        async def write(message: Any) -> None:
            await context.write(entry.encode(message))

        stream: GrpcioDuplex[Any, Any] = GrpcioDuplex(
            self.loop, read=read, write=write, scope=call.scope, **dict(entry.method.options)
        )
        work = _HandlerTask(self, call, lambda: entry.fn(stream, call))
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
            await self._raise_for(entry, call, work)
        finally:
            stream.close()
            await end_tasks(reader, writer)
            if call.on_over is not None:
                call.on_over()

    async def _raise_for(self, entry: Entry, call: GrpcioCall, work: _HandlerTask[Any]) -> None:
        """End the call with the status that its error deserves; do nothing if the work has a result."""
        if work.error is not None:
            await self._abort(entry, call, work.error)
        elif not work.has_result:
            if trio.current_time() >= call.scope.deadline:
                await call.abort(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
            elif call.scope.cancel_called:
                await call.abort(StatusCode.CANCELLED, "the call was cancelled by the server")
            else:  # cancelled from further out
                await call.abort(StatusCode.UNAVAILABLE, "this instance is stopping")

    async def _abort(self, entry: Entry, call: GrpcioCall, error: BaseException) -> None:
        if isinstance(error, RpcError):
            await call.abort(error.code, error.message, error.trailing_metadata)
        elif isinstance(error, StreamOverrun):
            await call.abort(StatusCode.RESOURCE_EXHAUSTED, str(error))
        elif isinstance(error, grpc.aio.AbortError):
            raise error
        else:
            self.on_handler_error(entry.method.name, error)
            # No text of the error: it may hold data that the client must not see.
            await call.abort(StatusCode.INTERNAL, f"internal error ({type(error).__name__}), see the log")

    # ---- channels --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def channel(
        self, address: str, options: GrpcOptions = (), *, layer: ClientLayer = plain_client
    ) -> AsyncIterator[GrpcioChannel]:
        """A connection that is made when first used, and made anew when it is lost; without TLS."""
        assert layer is plain_client

        async def make() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(address, options=_merged(CHANNEL_OPTIONS, options))

        channel = await self.loop.aio(make())
        try:
            yield GrpcioChannel(self.loop, channel, address)
        finally:
            with trio.move_on_after(STOP_SLACK_S, shield=True):
                await self.loop.aio(channel.close(None))


@asynccontextmanager
async def open_grpcio_host() -> AsyncIterator[GrpcioHost]:
    """At the end servers are stopped, calls in progress cancelled and awaited, and asyncio closed."""
    async with open_guest_loop() as loop:
        host = GrpcioHost(loop)
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


class _TogetherCall(GrpcioCall):
    """`UnaryCall`: one that is answered later."""

    __slots__ = ("answer", "on_cancel")

    def __init__(self, loop: GuestLoop, context: Context) -> None:
        GrpcioCall.__init__(self, context)
        self.on_cancel: Callable[[], None] | None = None
        self.answer: asyncio.Future[Any] = loop.create_future()

    @property
    def is_over(self) -> bool:
        return self.answer.done()

    def reply(self, message: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(message)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def end(self) -> None:
        self.answer.cancel()
        if self.on_cancel is not None:
            self.on_cancel()


class _Handlers(grpc.GenericRpcHandler):
    """The methods of a server, as grpcio asks for them."""

    def __init__(self, host: GrpcioHost, methods: Methods) -> None:
        self._known = {path.decode(): _handler(host, entry) for path, entry in methods.entries.items()}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._known.get(details.method)


def _handler(host: GrpcioHost, entry: Entry) -> Any:
    make: Any = {
        Kind.UNARY: (grpc.unary_unary_rpc_method_handler, host.serve_unary),
        Kind.UNARY_SYNC: (grpc.unary_unary_rpc_method_handler, host.serve_unary_sync),
        Kind.UNARY_TOGETHER: (grpc.unary_unary_rpc_method_handler, host.serve_unary_together),
        Kind.SERVER_STREAM: (grpc.unary_stream_rpc_method_handler, host.serve_server_stream),
        Kind.DUPLEX: (grpc.stream_stream_rpc_method_handler, host.serve_duplex),
    }
    kind, serve = make[entry.kind]
    return kind(_bound(serve, entry))


def _bound(serve: Callable[..., Awaitable[Any]], entry: Entry) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        return await serve(entry, request, context)

    return call


def _log_handler_error(name: str, error: BaseException) -> None:
    log.error("%s failed; its call ends with INTERNAL", name, exc_info=error)
