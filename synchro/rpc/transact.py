"""One transaction that stays open, between the messages of its stream and the core. Rule [D-43], ADR 52."""

from __future__ import annotations

from itertools import islice
from typing import Any

import trio

from synchro.config import Limits
from synchro.errors import (
    IllegalParams,
    Loading,
    OldTerm,
    SynchroError,
    TransactionAborted,
    TransactionConflict,
    TransactionTimeout,
)
from synchro.ids import CallId, RequestId, Term
from synchro.instance.events import (
    ClientWrite,
    ClientWrites,
    Committed,
    Fate,
    FateKnown,
    Submitted,
    WaitRequested,
)
from synchro.row import Tuple, TxnId
from synchro.rpc import codec, operations
from synchro.rpc.access import check_conditions, check_space, check_writes, instead_of
from synchro.rpc.codec import Message
from synchro.rpc.duplex import Duplex
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.host import RpcCall
from synchro.rpc.names import Names
from synchro.rpc.service import Service, error_of, expect
from synchro.rpc.slices import filled
from synchro.server.open_transactions import Held
from synchro.storage.index import Iterator_
from synchro.storage.private_view import PAGE_TUPLES, PrivateView
from synchro.storage.users import Privilege, Rights


class OpenTransaction:
    """X4  The stream ends with the status OK only if the transaction was committed or rolled back; each other
        status that is not an unknown outcome means that nothing was done.
    X5  It is made by one step of the core, under the term in which it was begun, or not at all. What it did
        and read before that is known here only.
    """

    def __init__(
        self,
        service: Service,
        names: Names,
        stream: Duplex[Any, Any],
        call: RpcCall,
        held: Held,
    ) -> None:
        """call: its caller is asked for at each statement. held: what is counted for this one."""
        self._service = service
        self._node = service.node
        self._names = names
        self._stream = stream
        self._call = call
        self._held = held
        self._limits: Limits = self._node.instance.settings.limits
        """Those of its begin."""
        self._view = PrivateView(self._node.instance.memtx.catalog, self._limits)
        self._read_spaces: set[int] = set()
        """Spaces that it was told of, for which that is a privilege of its own."""
        self._term = Term(0)
        self._is_sync = False
        self._statements = 0
        self._timeout_s = self._node.instance.settings.txn_timeout_s

    async def run(self, waiting: set[trio.CancelScope]) -> None:
        """Until it is committed or rolled back. waiting: has the scope that is cancelled when the instance
        stops. Raises `SynchroError`, which ends the stream."""
        self._call.if_session_ends = TransactionAborted(
            "The session of this stream has ended: the transaction is rolled back, nothing was done"
        )
        scope = trio.CancelScope(deadline=trio.current_time() + self._timeout_s)
        last: Message | None = None
        waiting.add(scope)
        try:
            with scope:
                last = await self._statements_until_end(scope)
        finally:
            waiting.discard(scope)
        if last is None:
            if trio.current_time() >= scope.deadline:
                raise TransactionTimeout(
                    f"Transaction has been aborted by timeout: it was open for {self._timeout_s:g} s; "
                    "nothing was done",
                    timeout=f"{self._timeout_s:g}",
                )
            raise Loading("The instance is stopping; nothing was done", stage="stopping")
        if last.WhichOneof("step") == "rollback":
            self._send(rolled_back=data_pb2.TransactRollback())
        else:
            self._send(committed=await self._commit(last.commit))

    async def _statements_until_end(self, scope: trio.CancelScope) -> Message:
        """Returns the request to commit or to roll back."""
        request = await self._next()
        if request.WhichOneof("step") != "begin":
            raise IllegalParams("a transaction starts with `begin`; nothing was done", field="step")
        await self._begin(request.begin, scope)
        while True:
            request = await self._next()
            match request.WhichOneof("step"):
                case "op" | "select" as kind:
                    await self._statement(request, kind)
                case "commit" | "rollback":
                    return request
                case "begin":
                    raise IllegalParams(
                        "this transaction is begun already; it is rolled back, nothing was done", field="step"
                    )
                case _:
                    raise IllegalParams(
                        "the step is empty, or newer than this version; the transaction is rolled back, "
                        "nothing was done",
                        field="step",
                    )

    async def _next(self) -> Message:
        try:
            return await self._stream.receive()
        except trio.EndOfChannel:
            raise TransactionAborted(
                "The client ended the stream before `commit`: the transaction is rolled back, nothing was "
                "done"
            ) from None

    def _send(self, **outcome: Message) -> None:
        self._stream.send_nowait(data_pb2.TransactResponse(header=self._service.header(), **outcome))

    # --- begin

    async def _begin(self, begin: Message, scope: trio.CancelScope) -> None:
        self._term = self._node.writable_term()
        self._check_term(codec.expected_term(begin) or self._term)
        asked_s = codec.timeout_s(begin, self._timeout_s)
        if asked_s < self._timeout_s:
            scope.deadline += asked_s - self._timeout_s
            self._timeout_s = asked_s
        self._is_sync = begin.is_sync
        begun = data_pb2.TransactBegun(timeout=codec.duration(self._timeout_s), term=self._term)
        await self._stream.wait_writable()
        self._send(begun=begun)

    def _check_term(self, expected: Term) -> None:
        """Raises `OldTerm`, and what a write here would be refused with."""
        term = self._node.writable_term()
        if term != expected:
            raise OldTerm(
                f"The term is outdated: old - {expected}, new - {term}; nothing was written",
                expected=expected,
                term=term,
            )

    # --- statements

    async def _statement(self, request: Message, kind: str) -> None:
        self._check_term(self._term)
        try:
            self._node.open_transactions.check_room()
            answer = self._run(request.op) if kind == "op" else await self._select(request.select)
        except TransactionConflict:
            raise  # it cannot be made any more
        except SynchroError as error:
            answer = {"refused": self._service.status(error)}
        self._node.open_transactions.hold(self._held, self._view.bytes)
        await self._stream.wait_writable()
        self._send(**answer)

    def _run(self, op: Message) -> dict[str, Message]:
        rights = self._service.access.rights(self._call.caller)
        place, self._statements = self._statements, self._statements + 1
        try:
            asked = operations.statement(op, place, self._names, self._limits)
        except SynchroError as error:
            needed = Privilege.READ if op.WhichOneof("op") == "check" else Privilege.WRITE
            raise instead_of(error, rights, needed, error.details.get("space", "")) from error
        self._check_rights(rights, asked)
        found = self._view.run(asked.ops[0] if asked.ops else None, asked.conditions)
        return {"tuple": codec.tuple_message(found, as_json=operations.is_json((op,)))}

    def _check_rights(self, rights: Rights, asked: operations.Asked) -> None:
        check_writes(rights, asked.ops, self._names.space)
        if asked.conditions:
            check_conditions(rights, asked.conditions, self._names.space)
            told = (condition.space_id for condition in asked.conditions if not condition.is_of_change)
            self._read_spaces.update(told)

    async def _select(self, request: Message) -> dict[str, Message]:
        for field in ("min_vclock", "timeout", "read"):
            if getattr(request, field) if field != "timeout" else request.HasField(field):
                raise IllegalParams(
                    f"{field} cannot be set for a read of an open transaction; nothing was read", field=field
                )
        rights = self._service.access.rights(self._call.caller)
        try:
            space_id, index_id = self._names.locate(request)
        except SynchroError as error:
            raise instead_of(error, rights, Privilege.READ, request.space) from error
        check_space(rights, Privilege.READ, self._names.space(space_id))
        limits = self._node.instance.settings.limits
        key, after = codec.select_key(request, limits), codec.after(request, limits)
        found = self._view.select(
            space_id,
            index_id,
            key,
            Iterator_.parse(request.iterator or "EQ"),
            limit=request.limit if request.HasField("limit") else None,
            offset=request.offset,
            after=after,
        )
        self._read_spaces.add(space_id)
        default = "json" in (request.key.WhichOneof("form"), request.after.WhichOneof("form"))
        as_json = codec.wants_json(request.encoding, default=default)
        rows = data_pb2.SelectResponse(read_at=codec.lsns(self._node.instance.vclock))
        await self._fill(rows, found, as_json=as_json)
        if found.more and found:
            rows.after.CopyFrom(rows.tuples[-1])
        return {"rows": rows}

    async def _fill(self, rows: Message, found: list[Tuple], *, as_json: bool) -> None:
        made = (codec.tuple_message(value, as_json=as_json) for value in found)
        small = 0 if as_json else PAGE_TUPLES // 10
        rows.tuples.extend(islice(made, small))
        if len(found) > small:
            await self._service.host.slices.run(filled(rows.tuples, made, 1 if as_json else small))

    # --- commit

    async def _commit(self, commit: Message) -> Message:
        self._check_term(self._term)
        view, rights = self._view, self._service.access.rights(self._call.caller)
        view.check_definitions()
        for space_id in self._read_spaces:
            check_space(rights, Privilege.READ, self._names.space(space_id))
        check_writes(rights, view.ops, self._names.space)
        request_id = codec.request_id(commit.request_id)
        position, wait = codec.position(commit), codec.wait_mode(commit.wait)
        timeout_s = codec.timeout_s(commit, self._node.instance.settings.txn_synchro_timeout_s)
        if not view.ops:
            made = None if request_id is None else await self._made_before(request_id, timeout_s)
            if made is not None:
                return made
            view.check_committed()
            return data_pb2.ExecuteReply()

        def event(call_id: CallId) -> ClientWrites:
            asked = (view.ops, request_id, position, wait, self._term, view.reads, self._is_sync)
            return ClientWrites((ClientWrite(call_id, *asked),))

        self._call.if_session_ends = None
        outcome = await self._node.call(event, timeout_s=timeout_s)
        if not isinstance(outcome, Committed | Submitted):
            raise error_of(outcome)
        return _reply(outcome.txn, is_sync=outcome.is_sync, duplicate=outcome.duplicate)

    async def _made_before(self, request_id: RequestId, timeout_s: float) -> Message | None:
        """What is answered if a transaction with this request id was made: there was something to change
        then, and it is done. Raises what says that it is not decided in time."""
        outcome = await self._node.call(
            lambda call_id: WaitRequested(call_id, None, request_id), timeout_s=timeout_s
        )
        known = expect(outcome, FateKnown)
        return _reply(known.txn, duplicate=True) if known.fate is Fate.COMMITTED else None


def _reply(txn: TxnId | None, *, is_sync: bool = False, duplicate: bool = False) -> Message:
    reply = data_pb2.ExecuteReply(is_sync=is_sync, duplicate=duplicate)
    if txn is not None:
        reply.txn_origin, reply.txn_lsn = txn
    return reply
