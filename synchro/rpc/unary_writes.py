"""Unary `Execute` calls that came in one turn, of whatever connection: they go to the core together, as the
calls of one frame do, and each is answered on its own (ADR 13).

What is too much for one turn waits for the next: works take turns, so a large request delays only itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from synchro.errors import SynchroError, SyncQueueFull
from synchro.ids import CallId, InstanceId, Lsn
from synchro.instance.events import Committed, Outcome, Submitted
from synchro.rpc.answer_tuples import OpsOf, add_tuples, answer_tuples
from synchro.rpc.codec import Message
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.names import Names
from synchro.rpc.service import Service, error_of
from synchro.rpc.slices import work_off
from synchro.rpc.submission import CALLS_AT_ONCE_MAX, Batch, Submission, is_large
from synchro.storage.users import Caller, Rights


class WaitingCall(Protocol):
    """A unary call that waits for its answer; the host has it."""

    on_cancel: Callable[[], None] | None
    """Called at most once, when the call ends without an answer of ours: its client is gone, or its time is
    over."""

    @property
    def caller(self) -> Caller:
        """Who calls. May raise `SynchroError`."""

    @property
    def is_over(self) -> bool:
        """Nobody waits for an answer any more; one that comes is dropped."""

    def reply(self, message: Message) -> None: ...

    def fail(self, error: Exception) -> None:
        """An `RpcError` says with which status; anything else is a bug."""


class _Caller(NamedTuple):
    call: WaitingCall
    request: Message
    rights: Rights


class UnaryWrites:
    """All unary calls of one service.

    U3  Each call is answered exactly once, whatever is wrong with it or with another one.
    U4  Calls that are not begun are at most `limits.waiting_calls_max`, one turn's calls excepted.
    """

    def __init__(
        self, service: Service, names: Names, call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        """call_soon: calls back in a later round, when everything else had its turn."""
        self._service = service
        self._node = service.node
        self._call_soon = call_soon
        self._submission: Submission[_Caller] = Submission(service.node, names, self)
        self._works: deque[tuple[Iterator[None], Sequence[_Caller]]] = deque()
        self._unbegun = 0
        """Calls of `_works`."""
        self._is_asked_for = False

    @property
    def in_flight(self) -> int:
        return self._submission.in_flight

    def submit(self, calls: Sequence[tuple[WaitingCall, Message]]) -> None:
        """The calls of one turn, in the order they came. Answers may come before this returns."""
        try:
            self._node.ensure_ready()
            settings = self._node.instance.settings
            limit = settings.limits.waiting_calls_max
            if self._unbegun >= limit:  # UnaryWrites.U4
                raise SyncQueueFull(
                    f"{self._unbegun} calls wait for their turn already; nothing was written", limit=limit
                )
        except SynchroError as error:
            refusal = self._service.refusal(error)
            for call, _ in calls:
                call.fail(refusal)
            return
        callers = list(self._with_rights(calls))
        small = [caller for caller in callers if not is_large(caller.request)]
        for start in range(0, len(small), CALLS_AT_ONCE_MAX):
            self._add(small[start : start + CALLS_AT_ONCE_MAX])
        if len(small) < len(callers):
            for caller in callers:
                if is_large(caller.request):
                    self._add([caller])
        if not self._is_asked_for:
            self._work_off()

    def _with_rights(self, calls: Sequence[tuple[WaitingCall, Message]]) -> Iterator[_Caller]:
        """Without those of whom it is not known who they are; they are answered."""
        rights_of, last, rights = self._service.access.rights, None, None
        for call, request in calls:
            try:
                caller = call.caller
            except SynchroError as error:
                call.fail(self._service.refusal(error))
                continue
            if caller is not last or rights is None:
                last, rights = caller, rights_of(caller)
            yield _Caller(call, request, rights)

    def _add(self, callers: Sequence[_Caller]) -> None:
        self._works.append((self._steps(callers), callers))
        self._unbegun += len(callers)

    def _steps(self, callers: Sequence[_Caller]) -> Iterator[None]:
        settings = self._node.instance.settings
        waiting = [caller for caller in callers if not caller.call.is_over]
        requests = [caller.request for caller in waiting]
        yield from self._submission.steps(waiting, requests, settings.limits, settings.txn_synchro_timeout_s)

    def _work_off(self) -> None:
        """A slice of what is to be done; nearly every turn's calls are done within one."""
        while self._works:
            work, callers = self._works[0]
            try:
                is_done = work_off(work)
            except Exception as error:  # noqa: BLE001 - whatever it is ends these calls, and no others
                is_done = True
                for caller in callers:
                    caller.call.fail(error)
            self._works.popleft()
            if is_done:
                self._unbegun -= len(callers)
            else:
                self._works.append((work, callers))
                self._is_asked_for = True
                self._call_soon(self._go_on)
                return

    def _go_on(self) -> None:
        self._is_asked_for = False
        self._work_off()

    # --- from the submission

    def rights(self, caller: _Caller) -> Rights:
        return caller.rights

    def all_rights(self, callers: Sequence[_Caller]) -> Collection[Rights]:
        return {caller.rights for caller in callers}

    def on_begun(self, batch: Batch[_Caller]) -> None:
        for call_id, caller in enumerate(batch.callers, batch.first):
            caller.call.on_cancel = partial(batch.abandon, CallId(call_id))

    def on_outcome(self, caller: _Caller, index: int, ops: OpsOf, outcome: Outcome) -> None:
        call, request = caller.call, caller.request
        call.on_cancel = None  # it holds the batch, which holds the call: garbage as large as its requests
        if call.is_over:
            return
        try:
            if isinstance(outcome, Committed | Submitted):
                call.reply(self._reply(request, index, ops, outcome))
            else:
                call.fail(self._service.refusal(error_of(outcome)))
        except Exception as error:  # noqa: BLE001 - the core is not to hear of an answer that cannot be made
            call.fail(error)

    def _reply(self, request: Message, index: int, ops: OpsOf, outcome: Committed | Submitted) -> Message:
        reply = data_pb2.ExecuteResponse(header=self._service.header(), is_sync=outcome.is_sync)
        if outcome.txn is not None:
            reply.txn.origin, reply.txn.lsn = outcome.txn
        if outcome.duplicate:
            reply.duplicate = True
        tuples = answer_tuples(request, index, ops, outcome)
        if tuples:
            add_tuples(reply.tuples, tuples)
        return reply

    def on_committed(self, first_seq: int, count: int, origin: InstanceId, first_lsn: Lsn) -> None:
        raise AssertionError("unary calls are answered one by one")

    def refuse(self, caller: _Caller, error: SynchroError) -> None:
        caller.call.fail(self._service.refusal(error))

    def check(self) -> None:
        self._submission.check()
        assert self._unbegun == sum(len(callers) for _, callers in self._works)
