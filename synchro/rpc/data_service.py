"""synchro.v1.DataService: reads, and transactions one at a time or many in a frame.

The hot path is `UnaryWrites.submit` and `WriteStream.on_frame`: what came in one turn, or in one message of
the stream, is decoded and becomes a step of the core (`submission`: one for each group of neighbours that may
share a transaction, and one for what lies between).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, cast

import trio

from synchro.config import Limits
from synchro.errors import IllegalParams, Loading, SynchroError, TimedOut, Unsupported
from synchro.ids import RequestId
from synchro.instance.events import (
    Fate,
    FateKnown,
    Outcome,
    ReadReady,
    WaitRequested,
)
from synchro.row import Tuple, TxnId
from synchro.rpc import codec
from synchro.rpc.access import check_space, instead_of, without_verifiers
from synchro.rpc.codec import Message
from synchro.rpc.duplex import Duplex
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.host import RpcCall, RpcHost
from synchro.rpc.linearizable_reads import LinearizableReads
from synchro.rpc.methods import Registrar, Together
from synchro.rpc.names import Names
from synchro.rpc.service import Service, expect
from synchro.rpc.slices import filled
from synchro.rpc.transact import OpenTransaction
from synchro.rpc.unary_writes import UnaryWrites
from synchro.rpc.write_stream import WriteStream
from synchro.server.api import NodeApi, Undecided
from synchro.storage.index import Iterator_, SelectResult
from synchro.storage.schema import USER_ID
from synchro.storage.users import Caller, Privilege

SMALL_ANSWER_TUPLES: Final = 100
"""An answer of at most this many tuples is made at once."""
SMALL_ANSWER_OFFSET: Final = 10_000
"""At most this many tuples may be stepped over at once."""
LAST_ANSWERS_S: Final = 1.0
"""How long a transaction that ends by an error waits for the client to take what was answered before."""
_READ_COMMITTED: Final = data_pb2.READ_MODE_READ_COMMITTED
_SUBMITTED: Final = data_pb2.TRANSACTION_STAGE_SUBMITTED
_ON_DISK: Final = data_pb2.TRANSACTION_STAGE_ON_DISK


class DataService(Service):
    """The service for data: Execute, ExecuteStream, Transact, Select, WaitTransaction, WatchTransaction."""

    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        super().__init__(node, host)
        self.names = Names(lambda: node.instance.memtx.catalog)
        self._reading: set[trio.CancelScope] = set()
        """One scope for each stream of transactions that is being read, and each transaction that is open."""
        self.unary_writes = UnaryWrites(self, self.names, host.call_soon)
        self.Execute = host.unary_together(self.unary_writes.submit)
        self.ExecuteStream = host.duplex(self._execute_stream)
        self.Transact = host.duplex(self._transact)
        self.reads = LinearizableReads(
            self, check=self._check_linearizable, answer=self._answer_later, call_soon=host.call_soon
        )
        self.Select = self.waiting(
            self._select,
            needs=self._may_begin_select,
            with_caller=True,
            at_once=self._select_now,
            together=Together(self._goes_together, self.reads.submit),
        )
        self.WaitTransaction = self.waiting(self._wait_transaction, needs=self.access.to_look)
        self.WatchTransaction = self.streaming(self._watch_transaction, needs=self.access.to_look)

    def register(self, server: Registrar) -> None:
        server.add_service(data_pb2.DESCRIPTOR.services_by_name["DataService"], self)

    @property
    def _default_timeout_s(self) -> float:
        return self.node.instance.settings.txn_synchro_timeout_s

    # --- writes

    async def _execute_stream(self, stream: Duplex[Any, Any], call: RpcCall) -> None:
        session = WriteStream(self, self.names, stream, self.host.call_soon, lambda: call.caller)
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

    async def _transact(self, stream: Duplex[Any, Any], call: RpcCall) -> None:
        try:
            self.node.ensure_ready()
            self.access.to_look(call.caller, None)  # what it does is asked for statement by statement
            with self.node.open_transactions.opened() as held:
                await OpenTransaction(self, self.names, stream, call, held).run(self._reading)
        except SynchroError as error:
            with trio.move_on_after(LAST_ANSWERS_S):
                await stream.wait_sent()
            raise self.refusal(error) from error

    def end_streams(self) -> None:
        """The instance has stopped: what was answered goes out, and the streams end."""
        for reading in self._reading:
            reading.cancel()

    # --- reads

    def _may_begin_select(self, caller: Caller, request: Message) -> None:
        """What is waited for may be the space itself, or the grant: who waits is asked behind the wait."""
        if not request.min_vclock:
            self._may_select(caller, request)

    def _may_select(self, caller: Caller, request: Message) -> None:
        rights = self.access.rights(caller)
        if rights.reads_all:
            return
        try:
            space_id, _ = self.names.locate(request)
        except SynchroError as error:
            raise instead_of(error, rights, Privilege.READ, request.space) from error
        check_space(rights, Privilege.READ, self.names.space(space_id))

    def _select_now(self, request: Message) -> Message | None:
        """Answer a small read of what is here; None: it may have to wait, or is refused."""
        if request.read == data_pb2.READ_MODE_LINEARIZABLE or request.min_vclock:
            return None
        if request.read not in data_pb2.ReadMode.values():
            return None
        key, iterator = self._where(request)
        if _wants_json(request) or not (_is_small(request) or self._is_point(request, key, iterator)):
            return None
        return self._answer_small(request)

    def _goes_together(self, request: Message) -> bool:
        """Whether a linearizable read takes a moment only, once its round is over."""
        if request.read != data_pb2.READ_MODE_LINEARIZABLE or request.min_vclock:
            return False
        try:
            if not self.node.owns_queue:
                return False
            where = self._where(request)
            codec.after(request, self._limits)
            return not _wants_json(request) and (_is_small(request) or self._is_point(request, *where))
        except SynchroError:
            return False  # the task says what is wrong with it, without a round

    def _answer_later(self, request: Message, caller: Caller) -> Message:
        self._may_select(caller, request)  # the name may mean another space by now
        return self._answer_small(request)

    def _answer_small(self, request: Message) -> Message:
        key, iterator = self._where(request)
        after = codec.after(request, self._limits)
        found, read_at = self._found(request, key, iterator, after)
        made = (codec.tuple_message(value, as_json=False) for value in found)
        reply = data_pb2.SelectResponse(header=self.header(), read_at=read_at, tuples=made)
        if found.more and found:
            reply.after.CopyFrom(reply.tuples[-1])
        return reply

    @property
    def _limits(self) -> Limits:
        return self.node.instance.settings.limits

    def _where(self, request: Message) -> tuple[Tuple, Iterator_]:
        return codec.select_key(request, self._limits), Iterator_.parse(request.iterator or "EQ")

    def _is_point(self, request: Message, key: Tuple, iterator: Iterator_) -> bool:
        """Whether a select finds one tuple at most: by all parts of a unique index."""
        if iterator is not Iterator_.EQ or request.offset:
            return False
        index = self.node.instance.memtx.catalog.index(*self.names.locate(request))
        return index.unique and len(key) == len(index.parts)

    async def _select(self, request: Message, caller: Caller) -> Message:
        node = self.node
        settings = node.instance.settings
        timeout_s = codec.timeout_s(request, settings.txn_synchro_timeout_s)
        deadline = trio.current_time() + timeout_s
        key, iterator = self._where(request)
        after = codec.after(request, self._limits)
        if request.read not in data_pb2.ReadMode.values():
            raise IllegalParams(f"unknown read mode {request.read}; nothing was read", field="read")
        if request.min_vclock:
            wanted = codec.min_vclock(request.min_vclock)
            is_decided = request.read != _READ_COMMITTED
            if not await node.wait_applied(wanted, timeout_s=timeout_s, is_decided=is_decided):
                raise TimedOut(
                    f"this instance did not reach vclock {wanted} within {timeout_s:g} s, it is at "
                    f"{node.instance.vclock}; nothing was read",
                    min_vclock=wanted,
                    vclock=node.instance.vclock,
                )
            self._may_select(caller, request)
        self.names.locate(request)  # the definition may be a part of what was waited for
        if request.read == data_pb2.READ_MODE_LINEARIZABLE:
            self._check_linearizable(request)
            left_s = max(0.0, deadline - trio.current_time())
            expect(await node.read_barrier(timeout_s=left_s), ReadReady)
        if _is_small(request):
            self._may_select(caller, request)  # the name may mean another space by now
            found, read_at = self._found(request, key, iterator, after)
        else:
            async with self.host.slices.turn():
                self._may_select(caller, request)
                found, read_at = self._found(request, key, iterator, after)
        as_json = _wants_json(request)
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
            prepared=request.read == _READ_COMMITTED,
        )
        if space_id == USER_ID:
            found = without_verifiers(found)
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
        txn, request_id = _transaction(request)
        outcome = await self.node.call(
            lambda call_id: WaitRequested(call_id, txn, request_id),
            timeout_s=codec.timeout_s(request, self._default_timeout_s),
        )
        known = expect(outcome, FateKnown)
        return data_pb2.WaitTransactionResponse(
            header=self.header(), outcome=codec.FATES[known.fate], txn=codec.txn_message(known.txn)
        )

    async def _watch_transaction(self, request: Message) -> AsyncIterator[Message]:
        txn, request_id = _transaction(request)
        timeout_s = codec.timeout_s(request, self._default_timeout_s)
        watch = self.node.watch_transaction(txn, request_id, timeout_s=timeout_s)
        # The node's generator must end with the call, not when it is collected.
        async with aclosing(cast("AsyncGenerator[Undecided | Outcome]", watch)) as changes:
            async for now in changes:
                if isinstance(now, Undecided):
                    yield data_pb2.WatchTransactionResponse(
                        header=self.header(),
                        stage=_SUBMITTED if now.txn is None else _ON_DISK,
                        txn=codec.txn_message(now.txn),
                        acked_by=now.acked_by,
                        missing=now.missing,
                        quorum=now.quorum,
                    )
                    continue
                known = expect(now, FateKnown)
                if known.fate is not Fate.PENDING:
                    yield data_pb2.WatchTransactionResponse(
                        header=self.header(),
                        stage=codec.LAST_STAGES[known.fate],
                        txn=codec.txn_message(known.txn),
                    )


def _transaction(request: Message) -> tuple[TxnId | None, RequestId | None]:
    """One of both, by which a request names a transaction. Raises `IllegalParams`."""
    which = request.WhichOneof("transaction")
    if which is None:
        raise IllegalParams("neither txn nor request_id is given", field="transaction")
    if which == "txn":
        return codec.txn_id(request.txn), None
    request_id = codec.request_id(request.request_id)
    if request_id is None:
        raise IllegalParams("the request id is empty", field="request_id")
    return None, request_id


def _wants_json(request: Message) -> bool:
    default = "json" in (request.key.WhichOneof("form"), request.after.WhichOneof("form"))
    return codec.wants_json(request.encoding, default=default)


def _is_small(request: Message) -> bool:
    """Whether a select takes so little that it need not wait for its turn; one that shows what is pending may
    look at all of that (prepared_view.V2)."""
    if request.read == _READ_COMMITTED:
        return False
    limit: int = request.limit if request.HasField("limit") else SMALL_ANSWER_TUPLES + 1
    offset: int = request.offset
    return limit <= SMALL_ANSWER_TUPLES and offset <= SMALL_ANSWER_OFFSET
