"""Calls on the serving side: from the first header of a client to the status that ends it.

The kinds of method differ in who answers: a function at once, a function for all calls of a turn, or a task
of trio. Whoever it is, the status is sent when it has ended (host.R1).
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import trio

from synchro.config import MIB
from synchro.errors import SessionEnded, SynchroError
from synchro.rpc.duplex import Duplex
from synchro.rpc.methods import Entry, Kind
from synchro.rpc.rpc_error import Metadata, RpcError
from synchro.rpc.status import to_status
from synchro.server.sessions import Session, Sessions
from synchro.storage.users import GUEST_CALLER, Caller
from synchro.wire import grpc_call
from synchro.wire.frames import ErrorCode
from synchro.wire.grpc_call import StatusCode
from synchro.wire.headers import HeaderList
from synchro.wire.link import Link
from synchro.wire.streams import NOBODY, BadMessage, Http2Stream
from synchro.wire.turns import Timer, Turns

Rep = TypeVar("Rep")

_GONE: Final = -1
"""The id of who calls under a session that has ended: nobody's."""
LINGER_S: Final = 5.0
"""Seconds for which a call that is over here waits for a client that takes nothing of what was sent."""
UNENDED_BYTES_MAX: Final = 64 * MIB
"""Bytes of requests on one connection that are whole while their calls are not: the client may send on. Their
windows were given back. The call that goes beyond is refused."""
_BAD_MESSAGES: Final = {
    BadMessage.COMPRESSED: (StatusCode.UNIMPLEMENTED, "compression is not supported"),
    BadMessage.TOO_LARGE: (StatusCode.RESOURCE_EXHAUSTED, "a message of {} bytes, which is too large"),
    BadMessage.NO_ROOM: (StatusCode.RESOURCE_EXHAUSTED, "too many large messages on this connection"),
    BadMessage.CUT_OFF: (StatusCode.INTERNAL, "the request ended in a message"),
}


class Host(Protocol):
    """What calls need of `RpcHost`."""

    turns: Turns
    calls: trio.Nursery
    calls_in_progress: int
    message_bytes_max: int

    def sort_error(self, exc: BaseException) -> BaseException | None: ...

    def status_of(self, name: str, error: BaseException) -> RpcError: ...

    def hand_over_later(self, call: UnaryCall[Any], request: Any) -> None: ...

    def answered(self, call: UnaryCall[Any]) -> None: ...


class Server(Protocol):
    """What calls need of `RpcServer`."""

    calls: set[RpcCall]
    sessions: Sessions

    @property
    def host(self) -> Host: ...

    def call_ended(self, call: RpcCall) -> None: ...


class RpcCall:
    """One call, as its handler sees it."""

    __slots__ = (
        "_data",
        "_ended_by",
        "_is_over",
        "_linger",
        "_lingered",
        "_request",
        "_scope",
        "_stream",
        "_trailing",
        "deadline",
        "entry",
        "if_session_ends",
        "is_stopping",
        "link",
        "on_over",
        "server",
        "session",
    )

    def __init__(
        self,
        server: Server,
        link: Link,
        stream: Http2Stream,
        entry: Entry,
        request: grpc_call.Request,
        session: Session | None = None,
    ) -> None:
        timeout_s = request.timeout_s
        self.server = server
        self.session = session
        """With which it is made; None: as guest."""
        self.link = link
        self.entry = entry
        self.deadline: float = math.inf if timeout_s is None else trio.current_time() + timeout_s
        """The client's deadline on trio's clock; inf: it has none."""
        self.is_stopping = False
        """The server stops, and ends the call."""
        self.if_session_ends: SynchroError | None = None
        """What a stream is told then; None: that its outcome is unknown."""
        self.on_over: Callable[[], None] | None = None
        """Called once when nothing of the call is left here: its handler has ended, and what it sent was
        taken or is given up."""
        self._request = request
        self._data: bytes | None = None  # the one request, until its call is complete
        self._stream = stream
        self._scope: trio.CancelScope | None = None
        self._trailing: Metadata = ()
        self._is_over = False
        self._ended_by: RpcError | None = None
        self._linger: Timer | None = None  # until it is given up
        self._lingered = 0  # bytes that were stuck when it was looked at last

    @property
    def scope(self) -> trio.CancelScope:
        """The life of the call. Cancelling it ends the call with CANCELLED."""
        if self._scope is None:
            self._scope = trio.CancelScope(deadline=self.deadline)
        return self._scope

    def hear_first(self) -> None:
        """A member of the set calls: what comes on its connection goes ahead of what clients send."""
        self.link.is_urgent = True

    @property
    def peer(self) -> str:
        """The address of the client as gRPC writes it: "ipv4:127.0.0.1:50404"."""
        return self.link.peer

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata that the client sent, in order; keys are lower case and may repeat."""
        return self._request.metadata

    @property
    def caller(self) -> Caller:
        """Whose call it is: the guest's without a session. Asked once for a unary call, and for each frame of
        a stream."""
        session = self.session
        if session is None:
            return GUEST_CALLER
        self.server.sessions.look()
        return Caller(_GONE, session.caller.name) if session.is_over else session.caller

    @property
    def is_private(self) -> bool:
        """Nobody but client and server can read what is said in it."""
        return self.link.is_private

    def shows_certificate_of(self, host: str) -> bool | None:
        """Whether the client shows a certificate of this host; None: it shows none."""
        return self.link.layer.shows_certificate_of(host)

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set what is sent with the status, whatever that is; an `RpcError` adds its own. Raises
        `BadMetadata`."""
        grpc_call.encode_metadata(metadata)
        self._trailing = tuple(metadata)

    def _encoded(self, message: Any) -> bytes:
        """The bytes of an answer. Raises `RpcError` if they are more than a client has to take."""
        data = self.entry.encode(message)
        limit = self.server.host.message_bytes_max
        if len(data) > limit:
            text = f"the answer has {len(data)} bytes, the limit is {limit}"
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, text)
        return data

    # ---- how it ends ----------------------------------------------------------------------------------

    def end_for_stop(self) -> None:
        """The server stops: end the handler, and the call with UNAVAILABLE."""
        self.is_stopping = True
        self.scope.cancel()

    def _begin_stream(self) -> None:
        """A stream ends with the session that it was begun with."""
        self.server.calls.add(self)
        if self.session is not None:
            self.session.on_end.add(self._end_with_session)

    def _end_with_session(self) -> None:
        text = "the session of this stream has ended; what had no answer may have been done"
        self._ended_by = RpcError.of(to_status(self.if_session_ends or SessionEnded(text)))
        self.scope.cancel()

    def _status_of_end(self, error: BaseException | None) -> RpcError:
        """What ends a call whose handler made no result. error: None: it was cancelled."""
        if error is not None:
            return self.server.host.status_of(self.entry.method.name, error)
        if self._ended_by is not None:
            return self._ended_by
        if self.is_stopping:
            return RpcError(StatusCode.UNAVAILABLE, "this instance is stopping")
        if trio.current_time() >= self.scope.deadline:
            return RpcError(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        if self.scope.cancel_called:
            return RpcError(StatusCode.CANCELLED, "the call was cancelled by the server")
        return RpcError(StatusCode.UNAVAILABLE, "this instance is stopping")  # cancelled from further out

    def _ok_trailers(self) -> bytes:
        if not self._trailing:
            return grpc_call.OK_TRAILERS
        return grpc_call.trailers(StatusCode.OK, "", self._trailing)

    def _send_status(self, error: RpcError, *, is_only: bool) -> None:
        """End the stream with an error. is_only: nothing was sent before."""
        stream = self._stream
        if not stream.local_closed:
            metadata = (*self._trailing, *error.trailing_metadata)
            try:
                block = grpc_call.trailers(error.code, error.message, metadata, whole=is_only)
            except grpc_call.BadMetadata as bad:
                block = grpc_call.trailers(StatusCode.INTERNAL, str(bad), whole=is_only)
            if is_only:
                stream.send_headers(block, end=True)
            else:
                stream.end(block)
            self.link.mark()

    def _over(self) -> None:
        """The handler has ended and its status is on its way: wait for a client that takes nothing only so
        long."""
        self.server.call_ended(self)
        if self.session is not None:
            self.session.on_end.discard(self._end_with_session)
        if self._stream.local_closed:
            self._left()
        else:
            self._lingered = self._stuck_bytes()
            self._give_up_later()

    def _give_up_later(self) -> None:
        self._linger = self.server.host.turns.call_at(trio.current_time() + LINGER_S, self._give_up)

    def _give_up(self) -> None:
        stream = self._stream
        if not stream.local_closed:
            stuck = self._stuck_bytes()
            if stuck != self._lingered:
                self._lingered = stuck
                self._give_up_later()
                return
            stream.reset(ErrorCode.CANCEL)
            self.link.mark()
        self._left()

    def _stuck_bytes(self) -> int:
        return self._stream.blocked_bytes

    def _left(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._let_go()
        if self.on_over is not None:
            told, self.on_over = self.on_over, None
            told()

    def _let_go(self) -> None:
        """The stream has nothing more to tell. While call and stream hold each other only the collector frees
        them, and never what it has frozen meanwhile (`server.garbage`)."""
        self._take_request()
        if self._stream.local_closed:
            self._stream.owner = NOBODY

    async def _run(self, work: Callable[[], Awaitable[Any]]) -> tuple[bool, Any, BaseException | None]:
        """Run the handler's task; whether it has a result, which, and its error."""
        host = self.server.host
        host.calls_in_progress += 1
        try:
            with self.scope:
                return True, await work(), None
        except BaseException as exc:  # noqa: BLE001 - the task ends here: nothing is hidden, see `sort_error`
            return False, None, host.sort_error(exc)
        finally:
            host.calls_in_progress -= 1
        return False, None, None

    def _keep(self, data: bytes) -> RpcError | None:
        """Keep the request until the call is complete; or what refuses the call."""
        if self._data is not None:
            return RpcError(StatusCode.INTERNAL, "a second request in a call of one; nothing was done")
        if self.link.unended_bytes + len(data) > UNENDED_BYTES_MAX:
            return self._refusal(BadMessage.NO_ROOM, len(data))
        self.link.unended_bytes += len(data)
        self._data = data
        return None

    def _take_request(self) -> bytes | None:
        data, self._data = self._data, None
        if data is not None:
            self.link.unended_bytes -= len(data)
        return data

    # ---- from the connection --------------------------------------------------------------------------

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        """Trailers of a client say nothing."""

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        self._gone()
        self._let_go()

    def on_lost(self, why: str) -> None:
        self._gone()
        self._let_go()

    def _gone(self) -> None:
        """The client cancelled, or is gone."""
        self.scope.cancel()

    def on_unblocked(self, stream: Http2Stream) -> None: ...

    def _refusal(self, why: BadMessage, length: int) -> RpcError:
        code, text = _BAD_MESSAGES[why]
        return RpcError(code, f"{text.format(length)}; nothing was done")


class UnaryCall(RpcCall, Generic[Rep]):
    """A call with one request and one reply, answered by `reply` or `fail`."""

    __slots__ = ("_has_task", "on_cancel")

    def __init__(
        self,
        server: Server,
        link: Link,
        stream: Http2Stream,
        entry: Entry,
        request: grpc_call.Request,
        session: Session | None = None,
    ) -> None:
        RpcCall.__init__(self, server, link, stream, entry, request, session)
        self._has_task = entry.kind is not Kind.UNARY_TOGETHER
        self.on_cancel: Callable[[], None] | None = None
        """Called at most once, when the call ends without an answer: cancelled, lost, or out of time."""

    @property
    def is_over(self) -> bool:
        """Answered, cancelled, lost or out of time: `reply` and `fail` do nothing."""
        return self._is_over or self._stream.local_closed

    def reply(self, message: Rep) -> None:
        """Answer. It is written at the end of the turn, with all others of the connection."""
        if self._is_over:
            return
        self._is_over = True
        try:
            data = self._encoded(message)
            trailers = self._ok_trailers()
        except Exception as exc:  # noqa: BLE001 - the handler made what is no reply of its method
            self._send_status(self._status_of_end(exc), is_only=True)
        else:
            self._stream.answer(grpc_call.RESPONSE_HEAD, data, trailers)
            self.link.mark()
        self._ended()

    def fail(self, error: Exception) -> None:
        """End the call: with the status of an `RpcError`, else with INTERNAL."""
        if not self._is_over:
            self._is_over = True
            self._send_status(self._status_of_end(error), is_only=True)
            self._ended()

    def _ended(self) -> None:
        self.on_cancel = None
        self._let_go()
        if self.entry.kind is not Kind.UNARY_SYNC:
            self.server.host.answered(self)
            self._over()
        elif not self._stream.local_closed:
            self._over()  # answered at once, and not taken

    # ---- from the connection --------------------------------------------------------------------------

    def on_message(self, data: bytes) -> None:
        refusal = self._keep(data)
        if refusal is not None:
            self.fail(refusal)

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        self.fail(self._refusal(why, length))

    def on_end(self, stream: Http2Stream) -> None:
        """The request is complete."""
        if self._is_over or stream.local_closed:
            return
        entry, data = self.entry, self._take_request()
        if data is None:
            self.fail(RpcError(StatusCode.INTERNAL, "the request is missing; nothing was done"))
            return
        try:
            request = entry.decode(data)
            if entry.kind is Kind.UNARY_SYNC:
                self.reply(entry.fn(request, self))
                return
            if entry.at_once is not None and (reply := entry.at_once(request, self)) is not None:
                self.reply(reply)
                return
        except Exception as exc:  # noqa: BLE001 - it ends this call
            self.fail(exc)
            return
        self._begin(request)

    def _begin(self, request: Any) -> None:
        server = self.server
        server.calls.add(self)
        together = self.entry.together
        if together is not None and together.goes(request):
            self._has_task = False
            server.host.hand_over_later(self, request)
        else:
            server.host.calls.start_soon(self._serve, request)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the main task
    async def _serve(self, request: Any) -> None:
        has_result, result, error = await self._run(lambda: self.entry.fn(request, self))
        if has_result:
            self.reply(result)
        else:
            if not self._is_over:
                self._is_over = True
                self._send_status(self._status_of_end(error), is_only=True)
            self._ended()

    def end_for_stop(self) -> None:
        if not self._has_task:
            self.is_stopping = True
            self.end_unanswered(RpcError(StatusCode.UNAVAILABLE, "this instance is stopping"))
        else:
            RpcCall.end_for_stop(self)

    def _gone(self) -> None:
        if not self._has_task:
            self.end_unanswered(None)
        else:
            RpcCall._gone(self)

    def end_unanswered(self, error: RpcError | None) -> None:
        """End a call that no task serves, and tell who has it. error: for the client; None: it is gone."""
        if self._is_over:
            return
        self._is_over = True
        if error is not None:
            self._send_status(error, is_only=True)
        told = self.on_cancel
        self._ended()
        if told is not None:
            told()


class StreamedCall(RpcCall):
    """A call with one request and many replies: an async generator, resumed when the last reply was taken."""

    __slots__ = ("_room",)

    def __init__(
        self,
        server: Server,
        link: Link,
        stream: Http2Stream,
        entry: Entry,
        request: grpc_call.Request,
        session: Session | None = None,
    ) -> None:
        RpcCall.__init__(self, server, link, stream, entry, request, session)
        self._room: trio.lowlevel.Task | None = None  # waits until what it sent was taken

    def on_message(self, data: bytes) -> None:
        refusal = self._keep(data)
        if refusal is not None:
            self._refuse(refusal)

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        self._refuse(self._refusal(why, length))

    def _refuse(self, error: RpcError) -> None:
        self._send_status(error, is_only=True)
        self._let_go()

    def on_end(self, stream: Http2Stream) -> None:
        if stream.local_closed:
            return
        data = self._take_request()
        if data is None:
            self._refuse(RpcError(StatusCode.INTERNAL, "the request is missing; nothing was done"))
            return
        try:
            request = self.entry.decode(data)
        except RpcError as error:
            self._refuse(error)
            return
        self._begin_stream()
        stream.send_headers(grpc_call.RESPONSE_HEAD)
        self.link.mark()
        self.server.host.calls.start_soon(self._serve, request)

    @trio.lowlevel.enable_ki_protection
    async def _serve(self, request: Any) -> None:
        async def send_all() -> None:
            stream, link = self._stream, self.link
            replies = cast(AsyncGenerator[Any, None], self.entry.fn(request, self))
            async with aclosing(replies):
                async for reply in replies:
                    stream.send_message(self._encoded(reply))
                    link.mark()
                    await self._wait_taken()

        has_result, _, error = await self._run(send_all)
        if has_result:
            self._stream.end(self._ok_trailers())
            self.link.mark()
        else:
            self._send_status(self._status_of_end(error), is_only=False)
        self._over()

    async def _wait_taken(self) -> None:
        if not self._stream.is_blocked:
            await trio.lowlevel.checkpoint()
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self._room = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._room = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def on_unblocked(self, stream: Http2Stream) -> None:
        if self._room is not None:
            task, self._room = self._room, None
            trio.lowlevel.reschedule(task)


class DuplexCall(RpcCall):
    """A call whose handler has a `Duplex`."""

    __slots__ = ("_is_served", "duplex", "on_message")

    def __init__(
        self,
        server: Server,
        link: Link,
        stream: Http2Stream,
        entry: Entry,
        request: grpc_call.Request,
        session: Session | None = None,
    ) -> None:
        RpcCall.__init__(self, server, link, stream, entry, request, session)
        self.duplex: Duplex[Any, Any] = Duplex(
            server.host.turns,
            encode=self._encoded,
            decode=entry.decode,
            finish=self._finish,
            scope=self.scope,
            **dict(entry.method.options),
        )
        self.on_message = self.duplex.on_arrival
        self._is_served = False
        self.duplex.attach(link, stream)
        self._begin_stream()
        stream.send_headers(grpc_call.RESPONSE_HEAD)
        link.mark()
        server.host.calls.start_soon(self._serve)

    @trio.lowlevel.enable_ki_protection
    async def _serve(self) -> None:
        duplex = self.duplex
        has_result, _, error = await self._run(lambda: self.entry.fn(duplex, self))
        # The stream's own error is why the handler was cancelled.
        error = error or duplex.error
        if has_result and error is None:
            self._is_served = True
            duplex.done_sending()  # what is queued goes out first
            if duplex.is_finished:
                self._finish()
        else:
            duplex.emit()  # what was said before the failure
            duplex.close()
            self._send_status(self._status_of_end(error), is_only=False)
        self._over()

    def _finish(self) -> None:
        """All was handed over; the call ends when the handler has ended too."""
        if self._is_served:
            self._stream.end(self._ok_trailers())
            self.link.mark()
            self.duplex.close()
            if self._stream.local_closed:
                self._left()

    def _stuck_bytes(self) -> int:
        return self._stream.blocked_bytes + self.duplex.out_bytes

    def _left(self) -> None:
        self.duplex.close()
        self.duplex.let_go()
        RpcCall._left(self)

    def on_end(self, stream: Http2Stream) -> None:
        self.duplex.on_half_close()

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        self.duplex.fail(self._refusal(why, length))

    def on_unblocked(self, stream: Http2Stream) -> None:
        self.duplex.on_unblocked()

    def _gone(self) -> None:
        self.scope.cancel()
        self.duplex.close()


KINDS: Final[dict[Kind, type[UnaryCall[Any]] | type[StreamedCall] | type[DuplexCall]]] = {
    Kind.UNARY: UnaryCall,
    Kind.UNARY_SYNC: UnaryCall,
    Kind.UNARY_TOGETHER: UnaryCall,
    Kind.SERVER_STREAM: StreamedCall,
    Kind.DUPLEX: DuplexCall,
}
