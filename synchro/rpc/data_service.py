"""synchro.v1.DataService: reads, and transactions one at a time or many in a frame.

The hot path is `_WriteStream.on_frame`: a message of the stream is decoded and becomes a step of the core
(one for each group of neighbours that may share a transaction, and one for what lies between); the outcomes
go out in as few messages as possible. No task is switched on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import trio

from synchro.config import KIB, Limits
from synchro.errors import BatchTooLarge, IllegalParams, Loading, SynchroError, TimedOut, Unsupported
from synchro.ids import CallId, InstanceId, Lsn
from synchro.instance.events import (
    ClientPuts,
    ClientWrite,
    ClientWrites,
    Committed,
    CommittedTogether,
    FateKnown,
    Outcome,
    Position,
    ReadBarrierRequested,
    ReadReady,
    Submitted,
    WaitRequested,
)
from synchro.row import Dml, RowType, Tuple
from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.duplex import Duplex
from synchro.rpc.generated.v1 import common_pb2, data_pb2, data_pb2_grpc
from synchro.rpc.host import RpcCall, RpcHost
from synchro.rpc.names import Names
from synchro.rpc.service import Service, error_of, expect
from synchro.rpc.shared_puts import SharedPuts, first_seq, neighbours
from synchro.rpc.slices import SLICE_S, filled
from synchro.server.api import NodeApi
from synchro.storage.index import Iterator_, SelectResult

STREAM_CALLS_MAX: Final = 8192
"""Calls of one stream without an answer; beyond it the stream is not read until half of them are done."""
FRAME_CALLS_MAX: Final = 4096
"""Calls of one frame; they run in order, a slice of some milliseconds at a time."""
SMALL_ANSWER_TUPLES: Final = 100
"""An answer of at most this many tuples is made at once."""
SMALL_ANSWER_OFFSET: Final = 10_000
"""At most this many tuples may be stepped over at once."""
LARGE_REQUEST_BYTES: Final = 128 * KIB
"""A request larger than this is decoded in its turn, an operation at a time."""
FRAME_BYTES_MAX: Final = 64 * KIB
"""The most bytes of answers in one message, unless one answer is larger. The stream counts this much for a
message that is begun."""
RESULT_BYTES: Final = 48
"""About the bytes that an answer has besides its tuples."""
_UNSPECIFIED: Final = common_pb2.ENCODING_UNSPECIFIED
_JSON: Final = common_pb2.ENCODING_JSON
_STORED_AS_SENT: Final = frozenset({RowType.INSERT, RowType.REPLACE})


class DataService(Service):
    """The service for data: Execute, ExecuteStream, Select, WaitTransaction."""

    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        super().__init__(node, host)
        self.names = Names(node)
        self._reading: set[trio.CancelScope] = set()
        """One scope for each stream of transactions that is being read."""
        self.Execute = self.waiting(self._execute)
        self.ExecuteStream = host.duplex(self._execute_stream)
        self.Select = self.waiting(self._select)
        self.WaitTransaction = self.waiting(self._wait_transaction)

    def register(self, server: Any) -> None:
        data_pb2_grpc.add_DataServiceServicer_to_server(self, server)  # type: ignore[arg-type]

    @property
    def _default_timeout_s(self) -> float:
        return self.node.instance.settings.txn_synchro_timeout_s

    # --- writes

    def write_of(
        self,
        request: Message,
        limits: Limits,
        new_call_id: Callable[[], CallId],
        ops: Sequence[Dml] | None = None,
        known: Position | None = None,
    ) -> ClientWrite:
        """An ExecuteRequest or ExecuteCall as a transaction. Raises `SynchroError` before it takes an id.

        ops: those of the request, if they were decoded already. known: position that the frame names."""
        if ops is None:
            ops = codec.changes(request.ops, self.names, limits)
        request_id = codec.request_id(request.request_id)
        position = codec.position(request, known)
        wait = codec.wait_mode(request.wait)
        expected_term = codec.expected_term(request)
        return ClientWrite(new_call_id(), ops, request_id, position, wait, expected_term)

    async def _execute(self, request: Message) -> Message:
        node = self.node
        limits, ops = node.instance.settings.limits, None
        if request.ByteSize() > LARGE_REQUEST_BYTES:
            ops = await self.host.slices.run(codec.changes_in_steps(request.ops, self.names, limits))
            async with self.host.slices.turn():  # what the core does with it is another slice
                pass
        write = self.write_of(request, limits, lambda: CallId(0), ops)
        outcome = await node.call(
            lambda call_id: ClientWrites([write._replace(call_id=call_id)]),
            timeout_s=codec.timeout_s(request, self._default_timeout_s),
        )
        if not isinstance(outcome, Committed | Submitted):
            raise error_of(outcome)
        reply = data_pb2.ExecuteResponse(header=self.header(), is_sync=outcome.is_sync)
        if outcome.txn is not None:
            reply.txn.origin, reply.txn.lsn = outcome.txn
        if isinstance(outcome, Committed):
            reply.duplicate = outcome.duplicate
            if not request.omit_tuples:
                as_json = codec.wants_json(request.encoding, default=codec.is_json(request.ops))
                _add_tuples(reply.tuples, encoded_tuples(write.ops, outcome.tuples, as_json=as_json))
        return reply

    async def _execute_stream(self, stream: Duplex[Any, Any], _call: RpcCall) -> None:
        session = _WriteStream(self, stream)
        stream.pause_when_full = True
        stream.coalesce = session.pack
        stream.on_message = session.on_frame
        try:
            with trio.CancelScope() as reading:
                self._reading.add(reading)
                async for _ in stream:
                    raise AssertionError("messages go to on_message")
                await session.wait_idle()
            if reading.cancelled_caught:
                # Every call that the core got has its answer, so a call without one was not begun.
                await stream.wait_sent()
                raise self.refusal(Loading("The instance is stopping; nothing was done", stage="stopping"))
        finally:
            self._reading.discard(reading)
            session.abandon()

    def end_streams(self) -> None:
        """The instance has stopped: what was answered goes out, and the streams end."""
        for reading in self._reading:
            reading.cancel()

    # --- reads

    async def _select(self, request: Message) -> Message:
        node = self.node
        settings = node.instance.settings
        timeout_s = codec.timeout_s(request, settings.txn_synchro_timeout_s)
        deadline = trio.current_time() + timeout_s
        key = codec.tuple_fields(request.key, "key") or ()
        after = codec.tuple_fields(request.after, "after") if request.HasField("after") else None
        iterator = Iterator_.parse(request.iterator or "EQ")
        if request.read not in data_pb2.ReadMode.values():
            raise IllegalParams(f"unknown read mode {request.read}; nothing was read", field="read")
        self.names.locate(request)
        if request.min_vclock:
            wanted = codec.min_vclock(request.min_vclock)
            if not await node.wait_applied(wanted, timeout_s=timeout_s):
                raise TimedOut(
                    f"this instance did not reach vclock {wanted} within {timeout_s:g} s, it is at "
                    f"{node.instance.vclock}; nothing was read",
                    min_vclock=wanted,
                    vclock=node.instance.vclock,
                )
        if request.read == data_pb2.READ_MODE_LINEARIZABLE:
            self._check_linearizable(request)
            left_s = max(0.0, deadline - trio.current_time())
            expect(await node.call(ReadBarrierRequested, timeout_s=left_s), ReadReady)
        if _is_small(request):
            found, read_at = self._found(request, key, iterator, after)
        else:
            async with self.host.slices.turn():
                found, read_at = self._found(request, key, iterator, after)
        default = "json" in (request.key.WhichOneof("form"), request.after.WhichOneof("form"))
        as_json = codec.wants_json(request.encoding, default=default)
        made = (codec.tuple_message(value, as_json=as_json) for value in found)
        reply = data_pb2.SelectResponse(read_at=read_at)
        if len(found) <= SMALL_ANSWER_TUPLES and not as_json:
            reply.tuples.extend(made)
        else:  # tuples do not change, so this may take its time
            rows = 1 if as_json else SMALL_ANSWER_TUPLES
            await self.host.slices.run(filled(reply.tuples, made, rows))
        reply.header.CopyFrom(self.header())
        if found.more and found:
            reply.after.CopyFrom(reply.tuples[-1])
        return reply

    def _found(
        self, request: Message, key: Tuple, iterator: Iterator_, after: Tuple | None
    ) -> tuple[SelectResult, dict[int, int]]:
        """Read the state of one moment: nothing is awaited here."""
        if request.read == data_pb2.READ_MODE_LINEARIZABLE:
            self._check_linearizable(request)  # the definition may have changed meanwhile
        instance = self.node.instance
        space_id, index_id = self.names.locate(request)
        found = instance.memtx.select(
            space_id,
            index_id,
            key,
            iterator,
            limit=request.limit if request.HasField("limit") else None,
            offset=request.offset,
            after=after,
        )
        return found, codec.lsns(instance.vclock)

    def _check_linearizable(self, request: Message) -> None:
        """Refuse asynchronous spaces [Q-60]: their rows are committed on one disk, and may be gone with their
        owner."""
        space = self.node.instance.memtx.catalog.space(self.names.locate(request)[0])
        if not (space.is_sync or space.is_local or space.is_temporary or space.is_system):
            raise Unsupported(
                f"Space '{space.name}' does not support linearizable operations: it is not synchronous, "
                "so the next owner of the queue may lack what is read; nothing was read",
                space=space.name,
            )

    async def _wait_transaction(self, request: Message) -> Message:
        which = request.WhichOneof("transaction")
        if which is None:
            raise IllegalParams("neither txn nor request_id is given", field="transaction")
        txn = codec.txn_id(request.txn) if which == "txn" else None
        request_id = codec.request_id(request.request_id) if which == "request_id" else None
        if txn is None and request_id is None:
            raise IllegalParams("the request id is empty", field="request_id")
        outcome = await self.node.call(
            lambda call_id: WaitRequested(call_id, txn, request_id),
            timeout_s=codec.timeout_s(request, self._default_timeout_s),
        )
        known = expect(outcome, FateKnown)
        return data_pb2.WaitTransactionResponse(
            header=self.header(), outcome=codec.FATES[known.fate], txn=codec.txn_message(known.txn)
        )


def _is_small(request: Message) -> bool:
    """Whether a select finds so little that it need not wait for its turn."""
    limit: int = request.limit if request.HasField("limit") else SMALL_ANSWER_TUPLES + 1
    offset: int = request.offset
    return limit <= SMALL_ANSWER_TUPLES and offset <= SMALL_ANSWER_OFFSET


Encoded: TypeAlias = bytes | Message | None
"""A tuple on its way out: msgpack, a Tuple message with JSON, or none."""


def encoded_tuples(ops: Sequence[Dml], tuples: Sequence[Tuple | None], *, as_json: bool) -> list[Encoded]:
    """Return what each operation returns. A tuple that was stored as it came goes back as it came."""
    if as_json:
        return [codec.tuple_message(value, as_json=True) for value in tuples]
    return [
        None
        if value is None
        else codec.stored_bytes(change)
        if value is change.value and change.type in _STORED_AS_SENT
        else codec.pack(value)
        for change, value in zip(ops, tuples, strict=False)
    ]


def _add_tuples(field: Any, tuples: Sequence[Encoded]) -> None:
    for value in tuples:
        if type(value) is bytes:
            field.add(msgpack=value)
        elif value is None:
            field.add()
        else:
            field.append(value)


# --- the stream -----------------------------------------------------------------------------------------


class _Batch:
    """Calls of one frame that became one step of the core: their ids are consecutive.

    open: ids without an outcome. first_seq: of the first call, if all of them may be answered as ranges.
    """

    __slots__ = ("calls", "first", "first_seq", "open", "ops", "session")

    def __init__(self, session: _WriteStream) -> None:
        self.session = session
        self.calls: list[Message] = []
        self.first = CallId(0)
        self.first_seq = 0
        self.ops: Callable[[int], Sequence[Dml]]
        """The operations of the call with this index."""
        self.open: set[CallId] = set()

    def on_outcome(self, call_id: CallId, outcome: Outcome) -> None:
        if isinstance(outcome, CommittedTogether):
            if self.first_seq:
                self._on_committed(call_id, outcome)
                return
            outcome = outcome.of(call_id)
        self.open.discard(call_id)
        index = call_id - self.first
        self.session.on_outcome(self.calls[index], index, self.ops, outcome)
        if not self.open:
            self.session.batches.pop(self, None)

    def _on_committed(self, call_id: CallId, outcome: CommittedTogether) -> None:
        """The first call of a shared transaction answers for all."""
        calls = outcome.calls
        if call_id in self.open:
            self.open.difference_update(calls)
            first = self.first_seq + call_id - self.first
            self.session.on_committed(first, len(calls), outcome.origin, outcome.first_lsn)
            if not self.open:
                self.session.batches.pop(self, None)


class _WriteStream:
    """One stream of transactions.

    X1  `in_flight` = calls handed to the core that have no outcome yet = all `open` of `batches`.
    X2  Each call of a frame is answered exactly once, whatever is wrong with it, while the stream lives.
        Only a frame with too many calls ends the stream.
    X3  `_reply` is queued on the stream and not being written: answers are added to it as they come, `_room`
        bytes more. The stream was told of all of its size when it was queued.
    """

    def __init__(self, service: DataService, stream: Duplex[Any, Any]) -> None:
        self.service = service
        self.node = service.node
        self.stream = stream
        self.in_flight = 0
        self.batches: dict[_Batch, None] = {}
        self._reply: Message = None
        self._room = 0
        self._paused = False
        self._work: Iterator[None] | None = None
        """What is left to do of the last frame; the stream is not read meanwhile."""
        self._over = False
        self._idle = trio.Event()

    def on_frame(self, frame: Message) -> None:
        if len(frame.calls) > FRAME_CALLS_MAX:
            raise self.service.refusal(
                BatchTooLarge(
                    f"a frame of {len(frame.calls)} calls, the limit is {FRAME_CALLS_MAX}; "
                    "nothing of it was done",
                    limit=FRAME_CALLS_MAX,
                    got=len(frame.calls),
                    field="calls",
                )
            )
        try:
            self.node.ensure_ready()
            settings = self.node.instance.settings
            default_s = codec.timeout_s(frame, settings.txn_synchro_timeout_s)
            known = codec.position(frame)
        except SynchroError as error:
            for call in frame.calls:
                self._refuse(call.seq, error)
            return
        self._work_off(self._steps(frame, settings.limits, default_s, known))

    def _steps(
        self, frame: Message, limits: Limits, default_s: float, known: Position | None
    ) -> Iterator[None]:
        """Calls run in order. known: position of calls that name none."""
        for run, calls in neighbours(frame.calls):
            if run is None or not self._submit_puts(
                run, calls, limits, default_s, known, accepts_ranges=frame.accepts_ranges
            ):
                yield from self._submit_each(calls, limits, default_s, known)
            yield

    def _work_off(self, work: Iterator[None]) -> None:
        """Work on the last frame until its slice is over; nearly every frame is done within one."""
        end = time.perf_counter() + SLICE_S
        for _ in work:
            if time.perf_counter() > end:
                if self._work is None:
                    self._work = work
                    self.stream.pause_reading()
                self.service.host.loop.call_soon(self._go_on)
                return
        was_reading_paused, self._work = self._work is not None, None
        if self.in_flight >= STREAM_CALLS_MAX:
            if not self._paused:
                self._paused = True
                self.stream.pause_reading()
        elif was_reading_paused:
            self.stream.resume_reading()
        if not self.in_flight:
            self._idle.set()

    def _go_on(self) -> None:
        """Go on with the last frame, now that everything else had its turn."""
        if self._over or self._work is None:
            return
        try:
            self._work_off(self._work)
        except Exception as error:  # noqa: BLE001 - asyncio would only log it
            self.stream.fail(error)

    def _submit_puts(
        self,
        run: SharedPuts,
        calls: Sequence[Message],
        limits: Limits,
        timeout_s: float,
        known: Position | None,
        *,
        accepts_ranges: bool,
    ) -> bool:
        """Submit puts as columns. Returns False if nothing was done."""
        puts = codec.columns(run.kind, run.space, run.tuples, self.service.names, limits)
        if puts is None:
            return False
        batch, new_call_id = _Batch(self), self.node.new_call_id
        batch.calls.extend(calls)
        batch.ops = lambda index: puts[index : index + 1]
        if accepts_ranges:
            batch.first_seq = first_seq(calls)
        call_ids = [new_call_id() for _ in calls]
        positions = [codec.position(call, known) for call in calls]
        event = ClientPuts(call_ids, puts, [call.request_id for call in calls], positions)
        self._begin(batch, call_ids)
        self.node.submit_puts(event, batch.on_outcome, timeout_s)
        return True

    def _submit_each(
        self, calls: Sequence[Message], limits: Limits, default_s: float, known: Position | None
    ) -> Iterator[None]:
        """Submit calls one by one. A batch ends where the timeout changes, which hardly ever happens, and
        with its slice."""
        end = time.perf_counter() + SLICE_S
        write_of, new_call_id = self.service.write_of, self.node.new_call_id
        batch, batch_timeout_s, writes = _Batch(self), default_s, list[ClientWrite]()
        for call in calls:
            try:
                timeout_s = codec.timeout_s(call, default_s)
                if timeout_s != batch_timeout_s:
                    self._submit(batch, writes, batch_timeout_s)
                    batch, batch_timeout_s, writes = _Batch(self), timeout_s, []
                writes.append(write_of(call, limits, new_call_id, known=known))
            except SynchroError as error:
                self._refuse(call.seq, error)
                continue
            batch.calls.append(call)
            if time.perf_counter() > end:
                self._submit(batch, writes, batch_timeout_s)
                batch, writes = _Batch(self), []
                yield
                end = time.perf_counter() + SLICE_S
        self._submit(batch, writes, batch_timeout_s)

    def _submit(self, batch: _Batch, writes: Sequence[ClientWrite], timeout_s: float) -> None:
        if not writes:
            return
        batch.ops = lambda index: writes[index].ops
        self._begin(batch, [write.call_id for write in writes])
        self.node.submit_writes(writes, batch.on_outcome, timeout_s)

    def _begin(self, batch: _Batch, call_ids: Sequence[CallId]) -> None:
        batch.first = call_ids[0]
        batch.open.update(call_ids)
        self.in_flight += len(call_ids)
        self.batches[batch] = None

    def on_outcome(
        self, call: Message, index: int, ops: Callable[[int], Sequence[Dml]], outcome: Outcome
    ) -> None:
        """Answer one call. ops(index): the operations of the call with this index."""
        self.in_flight -= 1
        if self._over:
            return
        if isinstance(outcome, Committed | Submitted):
            self._answer(call, index, ops, outcome)
        else:
            self._refuse(call.seq, error_of(outcome))
        self._calls_ended()

    def _calls_ended(self) -> None:
        if self._paused and self.in_flight <= STREAM_CALLS_MAX // 2:
            self._paused = False
            if self._work is None:
                self.stream.resume_reading()
        if not self.in_flight:
            self._idle.set()

    def on_committed(self, first_seq: int, count: int, origin: InstanceId, first_lsn: Lsn) -> None:
        """Answer all calls of a shared transaction at once."""
        self.in_flight -= count
        if self._over:
            return
        self._message(RESULT_BYTES).committed.add(
            first_seq=first_seq, count=count, txn_origin=origin, first_lsn=first_lsn
        )
        self._calls_ended()

    def _answer(
        self,
        call: Message,
        index: int,
        ops: Callable[[int], Sequence[Dml]],
        outcome: Committed | Submitted,
    ) -> None:
        tuples: Sequence[Encoded] = ()
        size = RESULT_BYTES
        duplicate = False
        if type(outcome) is Committed:
            duplicate = outcome.duplicate
            if outcome.tuples and not call.omit_tuples:
                encoding = call.encoding
                as_json = codec.is_json(call.ops) if encoding == _UNSPECIFIED else encoding == _JSON
                tuples = encoded_tuples(ops(index), outcome.tuples, as_json=as_json)
                for value in tuples:
                    size += (
                        len(value) if isinstance(value, bytes) else 0 if value is None else value.ByteSize()
                    )
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
            _add_tuples(reply.tuples, tuples)
        if duplicate:
            reply.duplicate = True

    def _refuse(self, seq: int, error: SynchroError) -> None:
        status = self.service.status(error)
        self._result(seq, RESULT_BYTES + status.ByteSize()).error.CopyFrom(status)

    def _result(self, seq: int, size: int) -> Message:
        """Return a new answer of about `size` bytes, to be filled in at once."""
        return self._message(size).results.add(seq=seq)

    def _message(self, size: int) -> Message:
        """Return the message that has room for that many bytes more."""
        if size > self._room or self._reply is None:
            self._reply = data_pb2.ExecuteStreamResponse()
            self._room = max(FRAME_BYTES_MAX, size)
            self.stream.send_nowait(self._reply, self._room)
        self._room -= size
        return self._reply

    def pack(self, pending: list[Message]) -> Sequence[Message]:
        """Close the message that is begun: it is written now."""
        self._reply = None
        for message in pending:
            message.header.CopyFrom(self.service.header())
        return pending

    async def wait_idle(self) -> None:
        """Wait until no call is in flight or still to be begun."""
        while self.in_flight or self._work is not None:
            self._idle = trio.Event()
            await self._idle.wait()

    def abandon(self) -> None:
        """The stream is over: nobody waits any more; entries in the queue stay."""
        self._over = True
        for batch in list(self.batches):
            for call_id in sorted(batch.open):
                self.node.abandon(call_id)
        self.batches.clear()
