"""The calls of concurrent tasks on one ExecuteStream, as messages of an HTTP/2 stream. No I/O, no clock:
`AioStream` and `TrioStream` bring the connection.

A frame is everything that was pending when the previous one had been written, up to a limit. No timer; a
single caller waits for nobody.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from google.protobuf.message import DecodeError

from synchro.client import encoding
from synchro.client.channel import IN_FLIGHT_MAX, MESSAGE_BYTES_MAX
from synchro.client.errors import (
    CannotConnect,
    ConnectionLost,
    cannot_connect,
    of_rpc_error,
    of_status,
)
from synchro.client.login import Metadata
from synchro.client.requests import Message
from synchro.client.session import Session
from synchro.errors import SessionUnknown, SynchroError
from synchro.rpc.generated.v1 import data_pb2
from synchro.wire import grpc_call
from synchro.wire.connection import Http2Connection
from synchro.wire.failure import CallFailed
from synchro.wire.frames import ErrorCode, StreamsExhausted
from synchro.wire.headers import HeaderList
from synchro.wire.limits import WireLimits
from synchro.wire.streams import BadMessage, Http2Stream

SWEEP_S: Final = 0.25
"""How often calls are looked through for those whose answer is overdue: a timer for each would cost more
than the call."""
PING: Final = b"synchro\0"
USER_AGENT: Final = "grpc-python-synchro"
WIRE_LIMITS: Final = WireLimits(message_bytes_max=MESSAGE_BYTES_MAX)


class Waiter(Protocol):
    """Who waits for one outcome, as an `asyncio.Future` does."""

    def done(self) -> bool:
        """Whether it has its outcome, or waits no longer."""

    def set_result(self, result: Message, /) -> None: ...

    def set_exception(self, error: SynchroError, /) -> None: ...


Entry: TypeAlias = tuple[Waiter, float, bytes, int]
"""Who waits for an ExecuteReply, until when (monotonic seconds), the call, and how many operations it has."""


class DataStream(ABC):
    """One ExecuteStream to one instance. It owns its HTTP/2 stream (`StreamOwner`).

    B1  Each waiter gets one outcome: a reply, or an exception.
    B2  A call is in `_pending` or in `_sent` until its end; or it was cancelled, or is overdue.
    B3  What is in `_pending` was not sent, and neither was what is in `_sent` from `_held_from` on: it did
        nothing, and its error is `CannotConnect`; or `SessionUnknown`, if the instance took none of it.
    B4  What `is_over` has neither; what takes no calls (`is_open`) has none in `_pending`.
    """

    def __init__(
        self,
        endpoint: str,
        timeout_s: float,
        on_replies: Callable[[Any, str], None],
        session: Session,
        scheme: str = "http",
        metadata: Callable[[], Metadata] = tuple,
        is_claimed: Callable[[], bool] = lambda: True,
    ) -> None:
        """timeout_s: of calls that do not say it themselves. on_replies: told of each response. session:
        what its client has seen. scheme: "http", or "https" for TLS. metadata: of the call, asked when it
        begins. is_claimed: as `Plans.is_claimed`."""
        self.endpoint = endpoint
        self.is_open = True
        """Whether it takes calls."""
        self.is_over = False
        """Whether nobody waits for it any more. One that is not open may still have answers to come."""
        self._options = encoding.frame_options(timeout_s)
        self._on_replies = on_replies
        self._session = session
        self._scheme = scheme
        self._metadata = metadata
        self._is_claimed = is_claimed
        self._pending: deque[Entry] = deque()
        self._sent: dict[int, Entry] = {}
        self._seqs = encoding.seqs()
        self._stream: Http2Stream | None = None
        self._why: SynchroError = CannotConnect(f"the stream to {endpoint} is over", endpoint=endpoint)
        """Why it takes no calls, when it does not."""
        self._held_from = 0  # `seq` of the first call of the frame that flow control holds back; 0: none

    # --- of the shell, which also puts calls into `_pending` -------------------------------------------

    @abstractmethod
    def _write_soon(self) -> None:
        """Something is pending, or HTTP/2 has something to say: call `_hand_over`, then write."""

    @abstractmethod
    def _give_room(self) -> None:
        """There may be room again for who found that it `is_full`."""

    @abstractmethod
    def _let_go(self) -> None:
        """It is over: close what only it has."""

    # --- what the shell calls -------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return len(self._pending) + len(self._sent) >= IN_FLIGHT_MAX

    @property
    def _may_leave(self) -> bool:
        """Whether calls wait that another instance would take, if this one is not there."""
        return bool(self._sent) and self._is_claimed()

    def _refusal(self) -> SynchroError:
        """Why it takes no calls: nothing was sent."""
        return self._not_sent(self._why)

    def begin(self, h2: Http2Connection) -> None:
        """Begin the call on a connection whose other end has spoken."""
        if self.is_over:
            return
        block = grpc_call.request_block(
            encoding.EXECUTE_STREAM,
            self.endpoint,
            user_agent=USER_AGENT,
            scheme=self._scheme,
            metadata=self._metadata(),
        )
        try:
            self._stream = h2.open(block, self)
        except StreamsExhausted as error:
            self.end(cannot_connect(str(error), self.endpoint))
        else:
            self._write_soon()

    def _hand_over(self) -> bool:
        """Hand the next frame to HTTP/2. False: nothing is pending, or flow control holds it back."""
        stream = self._stream
        if stream is None or not self._pending or stream.is_blocked:
            return False
        parts: list[bytes] = []
        sent, seqs, varint, tag = self._sent, self._seqs, encoding.varint, encoding.CALLS_TAG
        first = 0
        for entry in encoding.take(self._pending):
            waiter, _, call, _ = entry
            if not waiter.done():  # neither what was cancelled nor what is overdue
                seq, seq_field = next(seqs)
                first = first or seq
                sent[seq] = entry
                parts += (tag, varint(len(seq_field) + len(call)), seq_field, call)
        if parts:
            parts += (self._session.frame_position, self._options)
            stream.send_message(b"".join(parts))
            if stream.is_blocked:
                self._held_from = first
        return True

    def sweep(self, now: float) -> None:
        """End what is overdue. now: monotonic seconds."""
        for waiter, deadline, _, _ in self._sent.values():
            if deadline < now and not waiter.done():
                waiter.set_exception(
                    ConnectionLost(f"no answer from {self.endpoint} in time", endpoint=self.endpoint)
                )
        for waiter, deadline, _, _ in self._pending:
            if deadline < now and not waiter.done():
                waiter.set_exception(
                    CannotConnect(
                        f"{self.endpoint} took nothing in time; nothing was sent",
                        endpoint=self.endpoint,
                        silent="yes",
                    )
                )
        self._sent = {seq: entry for seq, entry in self._sent.items() if not entry[0].done()}
        if not self.is_full:
            self._give_room()
        self._end_if_drained()

    def drain(self) -> None:
        """The other end takes no further streams: what was not sent goes elsewhere, what was sent is
        waited for."""
        if not self.is_open:
            return
        self.is_open = False
        self._fail_pending(CannotConnect(f"{self.endpoint} is going away", endpoint=self.endpoint))
        self._give_room()
        self._end_if_drained()

    def end(self, error: SynchroError) -> None:
        """It is over, because of `error`. Idempotent."""
        if self.is_over:
            return
        self.is_open, self.is_over = False, True
        self._why = error
        sent, self._sent = self._sent, {}
        is_begun = not isinstance(error, CannotConnect)
        for seq, (waiter, _, _, _) in sent.items():
            if waiter.done():
                continue
            if is_begun and not (self._held_from and seq >= self._held_from):
                # One object for each: an exception collects the traceback of whoever raises it.
                waiter.set_exception(type(error)(error.message, **error.details))
            else:
                waiter.set_exception(self._not_sent(error))
        if self._pending:
            self._fail_pending(self._not_sent(error))
        stream = self._stream
        if stream is not None:
            stream.reset(ErrorCode.CANCEL)
        self._give_room()
        self._let_go()

    def check(self) -> None:
        """Assert DataStream.B2, DataStream.B3 and DataStream.B4, for tests."""
        assert all(seq > 0 for seq in self._sent)
        assert list(self._sent) == sorted(self._sent)
        assert not (self.is_over and (self._sent or self._pending))
        assert self.is_open or not self._pending
        assert not self._held_from or (self._stream is not None and self._stream.is_blocked) or self.is_over

    # --- what HTTP/2 tells ----------------------------------------------------------------------------

    def on_headers(self, stream: Http2Stream, headers: HeaderList, is_end: bool) -> None:
        status = headers.get(b":status")
        if is_end or (status is not None and status != b"200"):
            self._end_by(grpc_call.read_status(headers))

    def on_message(self, data: bytes) -> None:
        try:
            response = data_pb2.ExecuteStreamResponse.FromString(data)
        except DecodeError:
            self.end(ConnectionLost(f"{self.endpoint} sent what is no answer", endpoint=self.endpoint))
            return
        self._on_replies(response, self.endpoint)
        sent = self._sent
        for seq, committed in encoding.replies(response):
            entry = sent.pop(seq, None)
            if entry is not None and not (waiter := entry[0]).done():
                waiter.set_result(committed)
        for result in response.results:
            entry = sent.pop(result.seq, None)
            if entry is None or entry[0].done():
                continue
            reply = result.reply
            if reply.txn_origin or result.HasField("reply"):
                entry[0].set_result(reply)
            else:
                entry[0].set_exception(of_status(result.error, self.endpoint))
        self._give_room()
        if not self.is_open:
            self._end_if_drained()

    def on_bad_message(self, stream: Http2Stream, why: BadMessage, length: int) -> None:
        words = f"sent an answer of {length} bytes that cannot be taken: {why.name.lower()}"
        self.end(ConnectionLost(f"{self.endpoint} {words}", endpoint=self.endpoint))

    def on_end(self, stream: Http2Stream) -> None:
        self.end(ConnectionLost(f"{self.endpoint} ended the stream", endpoint=self.endpoint))

    def on_reset(self, stream: Http2Stream, code: ErrorCode) -> None:
        if code is ErrorCode.REFUSED_STREAM:
            self.end(CannotConnect(f"not sent: {self.endpoint} took no further call", endpoint=self.endpoint))
        else:
            self._end_by(grpc_call.status_of_reset(code))

    def on_unblocked(self, stream: Http2Stream) -> None:
        self._held_from = 0
        if self._pending:
            self._write_soon()

    def on_lost(self, why: str) -> None:
        self.end(ConnectionLost(f"lost the connection to {self.endpoint}: {why}", endpoint=self.endpoint))

    # --- ends -----------------------------------------------------------------------------------------

    def _end_by(self, status: grpc_call.Status) -> None:
        if status.is_ok:
            self.end(ConnectionLost(f"{self.endpoint} ended the stream", endpoint=self.endpoint))
        else:
            self.end(of_rpc_error(CallFailed.of(status), self.endpoint))

    def _end_if_drained(self) -> None:
        if not self.is_open and not self._sent:
            self.end(ConnectionLost(f"the stream to {self.endpoint} was given up", endpoint=self.endpoint))

    def _fail_pending(self, error: SynchroError) -> None:
        pending, self._pending = self._pending, deque()
        for waiter, _, _, _ in pending:
            if not waiter.done():
                waiter.set_exception(type(error)(error.message, **error.details))

    def _not_sent(self, error: SynchroError) -> SynchroError:
        if isinstance(error, CannotConnect | SessionUnknown):  # nothing was done, whatever was sent
            return type(error)(error.message, **error.details)
        return CannotConnect(f"not sent: {error.message}", endpoint=self.endpoint)
