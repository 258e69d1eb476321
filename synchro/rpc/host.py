"""The servers, channels and calls of a process, with one trio task for each call that may wait.

Services are classes whose methods are made by the adapters of `RpcHost`; see `methods`.

    async with open_rpc_host() as host:
        service = DataService(node, host)
        server = await host.serve("127.0.0.1:0", service.register)

R1  A call and the trio task that serves it end together: a client that cancels, disconnects or runs out
    of time cancels `RpcCall.scope`, and the client hears of the end only after the task has ended.
R2  An error of a handler ends its own call with INTERNAL. An error of the core, which is called through
    `RpcHost.guard`, ends the node.
R3  Cancelling a trio task that waits for a remote call cancels that call on the wire.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, ParamSpec, TypeVar

import trio

from synchro import logs
from synchro.errors import SessionUnknown
from synchro.rpc.calls import KINDS, RpcCall, UnaryCall
from synchro.rpc.channel import RpcChannel
from synchro.rpc.duplex import LIMITS, Duplex, StreamOverrun, message_bytes
from synchro.rpc.methods import Kind, Method, Methods, Registrar, Together
from synchro.rpc.rpc_error import RpcError
from synchro.rpc.slices import Slices
from synchro.rpc.status import to_status
from synchro.server.sessions import Sessions
from synchro.wire import grpc_call
from synchro.wire.admission import PortLimits
from synchro.wire.connector import CLIENT_KEEPALIVE
from synchro.wire.grpc_call import StatusCode
from synchro.wire.headers import HeaderList
from synchro.wire.io import ClientLayer, ServerLayer, plain_client, plain_server
from synchro.wire.limits import WireLimits
from synchro.wire.link import Keepalive, Link
from synchro.wire.listener import SERVER_KEEPALIVE, Listener, listen
from synchro.wire.streams import Http2Stream
from synchro.wire.turns import Turns, open_helper_nursery, open_turns

__all__ = ["RpcCall", "RpcHost", "RpcServer", "UnaryCall", "open_rpc_host"]

P = ParamSpec("P")
Req = TypeVar("Req")
Rep = TypeVar("Rep")
T = TypeVar("T")

CLOSE_GRACE_S: Final = 0.2
"""Seconds that calls in progress get when the host closes. To drain calls, use `RpcServer.stop` before."""
STOP_SLACK_S: Final = 2.0
"""Seconds added to a grace period for handlers that clean up; then the server is abandoned."""
SWEEP_S: Final = 0.1
"""Seconds by which the deadline of a call that no task serves may be late."""
PATH_SHOWN: Final = 200
"""Characters of an unknown method's name in its refusal."""
WIRE_LIMITS: Final = WireLimits(message_bytes_max=LIMITS.message_bytes_max)
_SESSION_UNKNOWN: Final = RpcError.of(
    to_status(SessionUnknown("the session of this call is not known here; nothing was done. Log in again"))
).block()
"""All that a call is told whose session is none here."""

log = logging.getLogger(__name__)


class RpcServer:
    """A listening server. Made by `RpcHost.serve`, which also keeps it alive."""

    def __init__(self, host: RpcHost, address: str, methods: Methods, sessions: Sessions) -> None:
        self.host = host
        self.sessions = sessions
        """Who is logged in here."""
        self.address = address
        """host:port really bound."""
        self.calls: set[RpcCall] = set()
        """Calls whose handlers have not ended, and those that wait for an answer."""
        self.listener: Listener
        self._methods = methods.entries
        self._idle = trio.Event()
        self._is_stopped = False

    @property
    def ended(self) -> int:
        """How many connections were ended without a request."""
        return self.listener.ended

    def on_stream(self, link: Link, stream: Http2Stream, headers: HeaderList) -> None:
        """A call began."""
        request = grpc_call.read_request(headers)
        entry = self._methods.get(request.path)
        refusal = request.refusal
        if entry is None and refusal is None:
            path = request.path[:PATH_SHOWN].decode("utf-8", "replace")
            refusal = grpc_call.refuse(StatusCode.UNIMPLEMENTED, f"there is no method {path}")
        if refusal is not None or entry is None:
            assert refusal is not None
            stream.send_headers(refusal, end=True)
            link.mark()
            return
        session = None
        if request.authorization and not entry.method.opens_session:
            session = self.sessions.find(request.authorization)
            if session is None:
                stream.send_headers(_SESSION_UNKNOWN, end=True)
                link.mark()
                return
        stream.owner = KINDS[entry.kind](self, link, stream, entry, request, session)

    def call_ended(self, call: RpcCall) -> None:
        """The handler of the call has ended, or it was answered."""
        self.calls.discard(call)
        if not self.calls:
            self._idle.set()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let those in progress go on for `grace` seconds, then end them. Idempotent.

        Not interrupted by cancellation: it takes `grace` and a little more at most.
        """
        if self._is_stopped:
            return
        with trio.CancelScope(shield=True):
            self.listener.stop_listening()
            if grace:
                with trio.move_on_after(grace):
                    await self.listener.announce_end()
                    await self._wait_idle()
            self.listener.refuse_further()
            for call in list(self.calls):
                call.end_for_stop()
            with trio.move_on_after(STOP_SLACK_S):
                await self._wait_idle()
            with trio.move_on_after(STOP_SLACK_S):
                await self.listener.end("the server has stopped")
        self._is_stopped = True
        self.host._servers.discard(self)

    async def _wait_idle(self) -> None:
        while self.calls:
            if self._idle.is_set():
                self._idle = trio.Event()
            await self._idle.wait()


class RpcHost:
    """All servers and channels of a process; several nodes may share it."""

    calls: trio.Nursery
    """The tasks of calls."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.calls_in_progress = 0
        """How many tasks serve a call."""
        self.message_bytes_max = LIMITS.message_bytes_max
        self.slices = Slices()
        self.on_handler_error: Callable[[str, BaseException], None] = _log_handler_error
        """Told of each error of a handler that became INTERNAL: the handler's name and the error."""
        self._together: dict[Method, list[tuple[UnaryCall[Any], Any]]] = {}
        """Calls of this turn, by their method."""
        self._expiring: set[UnaryCall[Any]] = set()
        self._is_sweeping = False
        self._servers: set[RpcServer] = set()
        self._scope = trio.CancelScope()  # all that `open_rpc_host` surrounds
        self._panic: BaseException | None = None
        turns.at_turn_ends(self._hand_over)

    # ---- when things are called -----------------------------------------------------------------------

    def call_when_idle(self, callback: Callable[[], None]) -> None:
        """Call it in this thread when what has arrived by now was handled. It must not raise."""
        self.turns.call_when_idle(callback)

    def call_at_rest(self, callback: Callable[[], None]) -> None:
        """At the end of this turn, if nothing else is to be done then; see `Turns.call_at_rest`."""
        self.turns.call_at_rest(callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call it soon in trio's thread; usable from any thread. It must not raise."""
        self.turns.call_from_thread(callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call it in the next round of the loop, after everything else had its turn. It must not raise."""
        self.turns.call_soon(callback)

    def in_turn(self, callback: Callable[[], None]) -> None:
        """Call it now, as a turn of its own: what it has to say is written at its end. It must not raise."""
        self.turns.in_turn(callback)

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

    def sort_error(self, exc: BaseException) -> BaseException | None:
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

    def status_of(self, name: str, error: BaseException) -> RpcError:
        """The status that an error of the handler `name` becomes."""
        if isinstance(error, RpcError):
            return error
        if isinstance(error, StreamOverrun):
            return RpcError(StatusCode.RESOURCE_EXHAUSTED, str(error))
        self.on_handler_error(name, error)
        # No text of the error: it may hold data that the client must not see.
        return RpcError(StatusCode.INTERNAL, f"internal error ({type(error).__name__}), see the log")

    # ---- servers --------------------------------------------------------------------------------------

    async def serve(
        self,
        address: str,
        register: Callable[[Registrar], None],
        *,
        limits: PortLimits | None = None,
        wire_limits: WireLimits = WIRE_LIMITS,
        keepalive: Keepalive = SERVER_KEEPALIVE,
        layer: ServerLayer = plain_server,
        sessions: Sessions | None = None,
        log: Any = None,
    ) -> RpcServer:
        """Listen on host:port (port 0: any free one). `register` adds the services.

        limits: what strangers may take of the port; wire_limits: of one connection. keepalive: how long a
        client that does not answer is kept. layer: below HTTP/2, such as TLS. sessions: who is logged in;
        None: nobody can be. log: a structured logger, for what strangers do.
        Raises `OSError` at once if the address cannot be bound.
        """
        sockets = await listen(address)
        methods = Methods()
        name = address.rpartition(":")[0]
        server = RpcServer(
            self,
            f"{name}:{sockets[0].getsockname()[1]}",
            methods,
            Sessions() if sessions is None else sessions,
        )
        try:
            register(methods)
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        server.listener = Listener(
            self.turns,
            sockets,
            limits=limits or PortLimits(),
            wire_limits=wire_limits,
            keepalive=keepalive,
            layer=layer,
            on_stream=server.on_stream,
            log=log or logs.get_logger("wire"),
        )
        self._servers.add(server)
        return server

    def unary(
        self,
        fn: Callable[[Req, RpcCall], Awaitable[Rep]],
        *,
        at_once: Callable[[Req, RpcCall], Rep | None] | None = None,
        together: Together | None = None,
        opens_session: bool = False,
    ) -> Method:
        """A method with one request and one reply, served by a trio task of its own.

        opens_session: it does not matter with which session it is called. at_once: answers what needs no
        waiting, in the turn that brought the request; None from it: the task
        is begun. together: takes some of those as `unary_together` does, without a task.
        """
        return Method(Kind.UNARY, fn, at_once=at_once, together=together, opens_session=opens_session)

    def unary_sync(self, fn: Callable[[Req, RpcCall], Rep]) -> Method:
        """A method with one request and one reply that is answered at once from memory, without a task."""
        return Method(Kind.UNARY_SYNC, fn)

    def unary_together(self, fn: Callable[[Sequence[tuple[UnaryCall[Rep], Req]]], None]) -> Method:
        """A method with one request and one reply whose calls of one turn are handed over in one list, in the
        order in which they came, whatever their connections.

        `fn` does not wait; each call is answered by its `reply` or `fail`, in the turn or later. What is
        answered in one turn leaves in one write for each connection. An error of `fn` ends the calls of its
        list.
        """
        return Method(Kind.UNARY_TOGETHER, fn, together=Together(lambda _: True, fn))

    def server_stream(self, fn: Callable[[Req, RpcCall], AsyncIterator[Rep]]) -> Method:
        """A method with one request and many replies; `fn` is an async generator.

        It is resumed only when the previous reply was taken: a slow client slows it down.
        """
        return Method(Kind.SERVER_STREAM, fn)

    def duplex(
        self,
        fn: Callable[[Duplex[Any, Any], RpcCall], Awaitable[None]],
        *,
        size: Callable[[Any], int] = message_bytes,
        in_bytes_max: int = LIMITS.stream_in_bytes_max,
        out_bytes_max: int = LIMITS.stream_out_bytes_max,
    ) -> Method:
        """A two-way stream. The call ends when `fn` returned and all it queued was sent."""
        options = (("size", size), ("in_bytes_max", in_bytes_max), ("out_bytes_max", out_bytes_max))
        return Method(Kind.DUPLEX, fn, options)

    # ---- calls that are handed over together ----------------------------------------------------------

    def hand_over_later(self, call: UnaryCall[Any], request: Any) -> None:
        """Hand the call to its function at the end of this turn, with all others that came in it."""
        self._together.setdefault(call.entry.method, []).append((call, request))
        if call.deadline < math.inf:
            self._expiring.add(call)
            if not self._is_sweeping:
                self._sweep_later()

    def answered(self, call: UnaryCall[Any]) -> None:
        """The call is over."""
        self._expiring.discard(call)

    def _hand_over(self) -> None:
        together = self._together
        if not together:
            return
        self._together = {}
        for method, calls in together.items():
            open_calls = [each for each in calls if not each[0].is_over]
            if open_calls:
                assert method.together is not None
                try:
                    method.together.fn(open_calls)
                except Exception as error:  # noqa: BLE001 - it ends these calls
                    status = self.status_of(method.name, error)
                    for call, _ in open_calls:
                        call.fail(status)

    def _sweep_later(self) -> None:
        self._is_sweeping = True
        self.turns.call_at(trio.current_time() + SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """End the calls whose time is over."""
        self._is_sweeping = False
        now = trio.current_time()
        for call in [call for call in self._expiring if call.deadline <= now]:
            call.end_unanswered(RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed"))
        if self._expiring:
            self._sweep_later()

    # ---- channels -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def channel(
        self, address: str, *, keepalive: Keepalive = CLIENT_KEEPALIVE, layer: ClientLayer = plain_client
    ) -> AsyncIterator[RpcChannel]:
        """A connection that is made when first used, and made anew when it is lost. layer: below HTTP/2."""
        channel = RpcChannel(
            self.turns, self.calls, address, limits=WIRE_LIMITS, keepalive=keepalive, layer=layer
        )
        try:
            yield channel
        finally:
            channel.close()

    # ---- the end --------------------------------------------------------------------------------------

    async def _close(self) -> None:
        grace = 0.0 if self._scope.cancel_called else CLOSE_GRACE_S
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for server in tuple(self._servers):
                    nursery.start_soon(server.stop, grace)
        self.calls.cancel_scope.cancel()


@asynccontextmanager
async def open_rpc_host() -> AsyncIterator[RpcHost]:
    """At the end servers are stopped, and calls in progress cancelled and awaited."""
    async with open_turns() as turns:
        host = RpcHost(turns)
        try:
            with host._scope:
                async with open_helper_nursery() as host.calls:
                    try:
                        yield host
                    finally:
                        await host._close()
        finally:
            if host._panic is not None:
                raise host._panic


def _log_handler_error(name: str, error: BaseException) -> None:
    log.error("%s failed; its call ends with INTERNAL", name, exc_info=error)
