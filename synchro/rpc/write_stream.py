"""A stream of transactions: frames of calls in, frames of answers out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import trio

from synchro.config import KIB
from synchro.errors import BatchTooLarge, SynchroError
from synchro.ids import InstanceId, Lsn
from synchro.instance.events import Committed, Outcome, Submitted
from synchro.rpc import codec
from synchro.rpc.answer_tuples import OpsOf, add_tuples, answer_tuples
from synchro.rpc.codec import Message
from synchro.rpc.duplex import Duplex
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.names import Names
from synchro.rpc.service import Service, error_of
from synchro.rpc.slices import work_off
from synchro.rpc.submission import CALLS_AT_ONCE_MAX, Batch, Submission
from synchro.storage.users import GUEST_CALLER, Caller, Rights

STREAM_CALLS_MAX: Final = 8192
"""Calls of one stream without an answer; beyond it the stream is not read until half of them are done."""
FRAME_CALLS_MAX: Final = CALLS_AT_ONCE_MAX
FRAME_BYTES_MAX: Final = 64 * KIB
"""The most bytes of answers in one message, unless one answer is larger. The stream counts this much for a
message that is begun."""
RESULT_BYTES: Final = 48
"""About the bytes that an answer has besides its tuples."""


class WriteStream:
    """One stream of transactions.

    X2  Each call of a frame is answered exactly once, whatever is wrong with it, while the stream lives.
        Only a frame with too many calls ends the stream.
    X3  `_reply` is queued on the stream and not being written: answers are added to it as they come, `_room`
        bytes more. The stream was told of all of its size when it was queued.
    """

    def __init__(
        self,
        service: Service,
        names: Names,
        stream: Duplex[Any, Any],
        call_soon: Callable[[Callable[[], None]], object],
        caller: Callable[[], Caller],
    ) -> None:
        """call_soon: calls back in a later round, when everything else had its turn. caller: asked for each
        frame."""
        self._service = service
        self._node = service.node
        self._caller = caller
        self._rights = service.access.rights(GUEST_CALLER)
        """Of the last frame."""
        self._stream = stream
        self._call_soon = call_soon
        self._submission: Submission[Message] = Submission(service.node, names, self)
        self._reply: Message = None
        self._room = 0
        self._paused = False
        self._work: Iterator[None] | None = None
        """What is left to do of the last frame; the stream is not read meanwhile."""
        self._over = False
        self._idle = trio.Event()

    def on_frame(self, frame: Message) -> None:
        if len(frame.calls) > FRAME_CALLS_MAX:
            raise self._service.refusal(
                BatchTooLarge(
                    f"a frame of {len(frame.calls)} calls, the limit is {FRAME_CALLS_MAX}; "
                    "nothing of it was done",
                    limit=FRAME_CALLS_MAX,
                    got=len(frame.calls),
                    field="calls",
                )
            )
        try:
            self._node.ensure_ready()
            self._rights = self._service.access.rights(self._caller())
            settings = self._node.instance.settings
            default_s = codec.timeout_s(frame, settings.txn_synchro_timeout_s)
            known = codec.position(frame)
        except SynchroError as error:
            for call in frame.calls:
                self.refuse(call, error)
            return
        calls = list(frame.calls)
        self._go(
            self._submission.steps(
                calls, calls, settings.limits, default_s, known, accepts_ranges=frame.accepts_ranges
            )
        )

    def _go(self, work: Iterator[None]) -> None:
        """Work on the last frame until its slice is over; nearly every frame is done within one."""
        if not work_off(work):
            if self._work is None:
                self._work = work
                self._stream.pause_reading()
            self._call_soon(self._go_on)
            return
        was_reading_paused, self._work = self._work is not None, None
        if self._submission.in_flight >= STREAM_CALLS_MAX:
            if not self._paused:
                self._paused = True
                self._stream.pause_reading()
        elif was_reading_paused:
            self._stream.resume_reading()
        self._calls_ended()

    def _go_on(self) -> None:
        """Go on with the last frame, now that everything else had its turn."""
        if self._over or self._work is None:
            return
        try:
            self._go(self._work)
        except Exception as error:  # noqa: BLE001 - it is the error of this stream
            self._stream.fail(error)

    # --- from the submission

    def rights(self, caller: Message) -> Rights:
        return self._rights

    def all_rights(self, callers: Sequence[Message]) -> Collection[Rights]:
        return (self._rights,)

    def on_begun(self, batch: Batch[Message]) -> None: ...

    def on_outcome(self, caller: Message, index: int, ops: OpsOf, outcome: Outcome) -> None:
        if self._over:
            return
        if isinstance(outcome, Committed | Submitted):
            self._answer(caller, index, ops, outcome)
        else:
            self.refuse(caller, error_of(outcome))
        self._calls_ended()

    def on_committed(self, first_seq: int, count: int, origin: InstanceId, first_lsn: Lsn) -> None:
        """Answer all calls of a shared transaction at once."""
        if self._over:
            return
        self._message(RESULT_BYTES).committed.add(
            first_seq=first_seq, count=count, txn_origin=origin, first_lsn=first_lsn
        )
        self._calls_ended()

    def refuse(self, caller: Message, error: SynchroError) -> None:
        status = self._service.status(error)
        self._result(caller.seq, RESULT_BYTES + status.ByteSize()).error.CopyFrom(status)

    def _calls_ended(self) -> None:
        in_flight = self._submission.in_flight
        if self._paused and in_flight <= STREAM_CALLS_MAX // 2:
            self._paused = False
            if self._work is None:
                self._stream.resume_reading()
        if not in_flight:
            self._idle.set()

    # --- answers

    def _answer(self, call: Message, index: int, ops: OpsOf, outcome: Committed | Submitted) -> None:
        tuples: Sequence[Any] = answer_tuples(call, index, ops, outcome)
        size = RESULT_BYTES
        for value in tuples:
            size += len(value) if isinstance(value, bytes) else 0 if value is None else value.ByteSize()
        result = self._result(call.seq, size)
        reply = result.reply
        txn = outcome.txn
        if txn is not None:
            reply.txn_origin, reply.txn_lsn = txn
        else:
            reply.SetInParent()
        if outcome.is_sync:
            reply.is_sync = True
        if tuples:
            add_tuples(reply.tuples, tuples)
        if outcome.duplicate:
            reply.duplicate = True

    def _result(self, seq: int, size: int) -> Message:
        """Return a new answer of about `size` bytes, to be filled in at once."""
        return self._message(size).results.add(seq=seq)

    def _message(self, size: int) -> Message:
        """Return the message that has room for that many bytes more."""
        if size > self._room or self._reply is None:
            self._reply = data_pb2.ExecuteStreamResponse()
            self._room = max(FRAME_BYTES_MAX, size)
            self._stream.send_nowait(self._reply, self._room)
        self._room -= size
        return self._reply

    def pack(self, pending: list[Message]) -> Sequence[Message]:
        """Close the message that is begun: it is written now."""
        self._reply = None
        for message in pending:
            message.header.CopyFrom(self._service.header())
        return pending

    # --- the end

    async def wait_idle(self) -> None:
        """Wait until no call is in flight or still to be begun."""
        while self._submission.in_flight or self._work is not None:
            self._idle = trio.Event()
            await self._idle.wait()

    def abandon(self) -> None:
        """The stream is over: nobody waits any more; entries in the queue stay."""
        self._over = True
        self._submission.abandon_all()
