"""Unary linearizable reads that came in one turn, of whatever connection: they share one question to the
core, and each is answered on its own from memory when the core has the answer. [Q-62]

No task is begun for any of them: a read costs less than to begin one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from synchro.errors import SynchroError, SyncQueueFull
from synchro.ids import CallId
from synchro.instance.events import Outcome, ReadBarrierRequested, ReadReady
from synchro.rpc import codec
from synchro.rpc.codec import Message
from synchro.rpc.service import Service, error_of
from synchro.rpc.slices import SLICE_S, slice_end, work_off
from synchro.rpc.unary_writes import WaitingCall
from synchro.storage import users

Caller = tuple[WaitingCall, Message]


class LinearizableReads:
    """All linearizable reads of one service that are answered in a moment.

    G1  Each call is answered exactly once, whatever is wrong with it or with another one, and by what is read
        after the core answered a question that was asked after the call came.
    G2  `waiting` = calls of `_rounds` that are not answered, at most `limits.waiting_calls_max`, one turn's
        calls excepted.
    G3  All rounds share one slice (slices.Z1): a step of the core may decide hundreds of them. Answers that
        have no room in it are given in later rounds of the loop.
    """

    def __init__(
        self,
        service: Service,
        *,
        check: Callable[[Message], None],
        answer: Callable[[Message, users.Caller], Message],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        """check: raises `SynchroError` for what may not be read so. answer: reads what is committed now, in a
        moment, or raises one. call_soon: calls back in a later round, when everything else had its turn."""
        self._service = service
        self._node = service.node
        self._check_request = check
        self._read = answer
        self._call_soon = call_soon
        self._rounds: set[_Round] = set()
        self._works: deque[Iterator[None]] = deque()
        """The answers of rounds that are decided, first come first."""
        self._slice_end = 0.0
        """Of the slice under way, or when the last one was over."""
        self._is_asked_for = False
        self.waiting = 0

    def submit(self, calls: Sequence[tuple[WaitingCall, Any]]) -> None:
        """The calls of one turn. Answers may come before this returns."""
        try:
            self._node.ensure_ready()
            settings = self._node.instance.settings
            limit = settings.limits.waiting_calls_max
            if self.waiting >= limit:  # LinearizableReads.G2
                raise SyncQueueFull(
                    f"{limit} reads wait for their turn already; nothing was read", limit=limit
                )
        except SynchroError as error:
            refusal = self._service.refusal(error)
            for call, _ in calls:
                call.fail(refusal)
            return
        by_timeout: dict[float, list[Caller]] = {}
        for call, request in calls:
            try:
                timeout_s = codec.timeout_s(request, settings.txn_synchro_timeout_s)
                self._check_request(request)
            except SynchroError as error:
                call.fail(self._service.refusal(error))
            else:
                by_timeout.setdefault(timeout_s, []).append((call, request))
        for timeout_s, callers in by_timeout.items():
            self._ask(callers, timeout_s)

    def _ask(self, callers: Sequence[Caller], timeout_s: float) -> None:
        read = _Round(callers)
        self._rounds.add(read)
        self.waiting += len(callers)
        for caller in callers:
            caller[0].on_cancel = partial(self._left, read, caller)
        call_id = self._node.submit(
            ReadBarrierRequested, lambda outcome: self._decided(read, outcome), timeout_s=timeout_s
        )
        if not read.is_decided:
            read.call_id = call_id

    def _left(self, read: _Round, caller: Caller) -> None:
        """Its client is gone, or its time is over."""
        del read.open[id(caller[0])]
        self._ended(read)
        if not read.open and read.call_id is not None:
            self._node.abandon(read.call_id)

    def _ended(self, read: _Round) -> None:
        """One call of the round has its answer, or needs none."""
        self.waiting -= 1
        if not read.open:
            self._rounds.discard(read)

    def _decided(self, read: _Round, outcome: Outcome) -> None:
        read.is_decided, read.call_id = True, None
        self._works.append(self._answers(read, outcome))
        if self._is_asked_for:
            return
        now = time.perf_counter()
        if now > self._slice_end + SLICE_S:
            self._slice_end = slice_end()
            self._work_off()
        elif now <= self._slice_end:
            self._work_off()
        else:  # LinearizableReads.G3: everybody else has as long first
            self._work_later()

    def _work_off(self) -> None:
        """Answer until the slice is over; nearly every round is done within one."""
        works = self._works
        while works and work_off(works[0], self._slice_end):
            works.popleft()
        self._slice_end = max(self._slice_end, time.perf_counter())
        if works:
            self._work_later()

    def _work_later(self) -> None:
        self._is_asked_for = True
        self._call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_asked_for = False
        self._slice_end = slice_end()
        self._work_off()

    def _answers(self, read: _Round, outcome: Outcome) -> Iterator[None]:
        """Answer the calls of the round that still wait, one a step."""
        refusal = None if isinstance(outcome, ReadReady) else self._service.refusal(error_of(outcome))
        for key, (call, request) in list(read.open.items()):
            if key not in read.open:
                continue  # it left meanwhile
            del read.open[key]
            self._ended(read)
            call.on_cancel = None
            if refusal is not None:
                call.fail(refusal)
            else:
                self._answer(call, request)
            yield

    def _answer(self, call: WaitingCall, request: Message) -> None:
        try:
            call.reply(self._read(request, call.caller))
        except SynchroError as error:
            call.fail(self._service.refusal(error))
        except Exception as error:  # noqa: BLE001 - the core is not to hear of an answer that cannot be made
            call.fail(error)

    def check(self) -> None:
        """Assert LinearizableReads.G2 and LinearizableReads.G3, between turns; for tests."""
        assert self.waiting == sum(len(read.open) for read in self._rounds)
        assert all(read.open for read in self._rounds)
        assert self._is_asked_for == bool(self._works)


class _Round:
    """Calls that share a question. open: those that still wait, by what they are."""

    __slots__ = ("call_id", "is_decided", "open")

    def __init__(self, callers: Sequence[Caller]) -> None:
        self.open: dict[int, Caller] = {id(caller[0]): caller for caller in callers}
        self.call_id: CallId | None = None
        """Of the question, while it has no answer."""
        self.is_decided = False
