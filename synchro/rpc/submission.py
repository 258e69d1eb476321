"""Calls that arrived together, on their way to the core and back: the frames of a stream and the unary calls
of one turn go the same way.

Neighbours that may share a transaction become columns (ADR 13), what lies between goes one by one, in order.
No task is switched on the way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby
from typing import Final, Generic, Protocol, TypeVar

from synchro.config import KIB, Limits
from synchro.errors import SynchroError
from synchro.ids import CallId, InstanceId, Lsn
from synchro.instance.events import (
    SHARED_MIN,
    ClientPuts,
    ClientWrite,
    CommittedTogether,
    Outcome,
    Position,
)
from synchro.rpc import codec, operations
from synchro.rpc.access import check_conditions, check_writes, instead_of
from synchro.rpc.answer_tuples import OpsOf
from synchro.rpc.codec import Message
from synchro.rpc.names import Names
from synchro.rpc.shared_puts import SharedPuts, first_seq, neighbours, positions, timeouts_s
from synchro.rpc.slices import slice_end
from synchro.server.api import NodeApi
from synchro.storage.schema import is_system
from synchro.storage.users import Privilege, Rights

CALLS_AT_ONCE_MAX: Final = 4096
"""Calls that are looked at in one go; they run in order, a slice of some milliseconds at a time."""
LARGE_REQUEST_BYTES: Final = 128 * KIB
"""A request larger than this is decoded an operation at a time."""


def is_large(request: Message) -> bool:
    """Whether it takes more than a moment to decode. One operation cannot be divided."""
    return len(request.ops) > 1 and request.ByteSize() > LARGE_REQUEST_BYTES


C = TypeVar("C")
"""A call as its owner knows it."""


class Answers(Protocol[C]):
    """Who asked for the calls and answers them. Nothing here may call back into the submission."""

    def rights(self, caller: C) -> Rights:
        """What the user of this call may do."""

    def all_rights(self, callers: Sequence[C]) -> Collection[Rights]:
        """Those of all of them, each once."""

    def on_begun(self, batch: Batch[C]) -> None:
        """The calls of the batch have ids, and are handed to the core next."""

    def on_outcome(self, caller: C, index: int, ops: OpsOf, outcome: Outcome) -> None: ...

    def on_committed(self, first_seq: int, count: int, origin: InstanceId, first_lsn: Lsn) -> None:
        """All calls of a shared transaction are committed: with consecutive `seq` and LSNs."""

    def refuse(self, caller: C, error: SynchroError) -> None:
        """The call is not handed to the core."""


class Batch(Generic[C]):
    """Calls that became one step of the core: their ids are consecutive.

    open: ids without an outcome. first_seq: of the first call, if all of them may be answered as ranges.
    """

    __slots__ = ("_submission", "callers", "first", "first_seq", "open", "ops")

    def __init__(self, submission: Submission[C]) -> None:
        self._submission = submission
        self.callers: list[C] = []
        self.first = CallId(0)
        self.first_seq = 0
        self.ops: OpsOf
        self.open: set[CallId] = set()

    def on_outcome(self, call_id: CallId, outcome: Outcome) -> None:
        """The node's answer to one call, or to the first of those that share an outcome."""
        if isinstance(outcome, CommittedTogether):
            if self.first_seq:
                self._on_committed(call_id, outcome)
                return
            outcome = outcome.of(call_id)
        self._ended((call_id,))
        index = call_id - self.first
        self._submission.answers.on_outcome(self.callers[index], index, self.ops, outcome)

    def _on_committed(self, call_id: CallId, outcome: CommittedTogether) -> None:
        """The first call of a shared transaction answers for all."""
        calls = outcome.calls
        if call_id in self.open:
            self._ended(calls)
            first = self.first_seq + call_id - self.first
            self._submission.answers.on_committed(first, len(calls), outcome.origin, outcome.first_lsn)

    def abandon(self, call_id: CallId) -> None:
        """Its caller is gone; an entry in the queue stays."""
        if call_id in self.open:
            self._ended((call_id,))
            self._submission.node.abandon(call_id)

    def _ended(self, calls: Collection[CallId]) -> None:
        before = len(self.open)
        self.open.difference_update(calls)
        self._submission.in_flight -= before - len(self.open)
        if not self.open:
            self._submission.batches.pop(self, None)


class Submission(Generic[C]):
    """Calls of one stream, or all unary ones, between their bytes and their outcomes.

    U1  `in_flight` = calls handed to the core that have no outcome yet = all `open` of `batches`.
    U2  Of each call its owner hears exactly once, whatever is wrong with it or with its neighbours: an
        outcome, or a refusal; nothing more of one that was abandoned.
    """

    def __init__(self, node: NodeApi, names: Names, answers: Answers[C]) -> None:
        self.node = node
        self.answers = answers
        self.in_flight = 0
        self.batches: dict[Batch[C], None] = {}
        self._names = names

    def steps(
        self,
        callers: Sequence[C],
        requests: Sequence[Message],
        limits: Limits,
        default_s: float,
        known: Position | None = None,
        *,
        accepts_ranges: bool = False,
    ) -> Iterator[None]:
        """Submit all, in order, a step of a millisecond or so at a time.

        callers, requests: parallel; ExecuteCalls, or ExecuteRequests. default_s, known: the time and the
        position of those that name none. accepts_ranges: `on_committed` is understood; then the requests
        are ExecuteCalls.
        """
        submitter = _Submitter(self, self._names, limits, default_s, known, accepts_ranges)
        if len(requests) < SHARED_MIN:
            return submitter.each(callers, requests)
        return submitter.all(callers, requests)

    def abandon_all(self) -> None:
        """Nobody waits any more; entries in the queue stay."""
        for batch in list(self.batches):
            for call_id in sorted(batch.open):
                batch.abandon(call_id)

    def check(self) -> None:
        assert self.in_flight == sum(len(batch.open) for batch in self.batches)  # Submission.U1
        assert all(batch.open for batch in self.batches)


class _Submitter(Generic[C]):
    """One go of a submission."""

    __slots__ = (
        "_accepts_ranges",
        "_default_s",
        "_known",
        "_limits",
        "_names",
        "_new_call_id",
        "_submission",
    )

    def __init__(
        self,
        submission: Submission[C],
        names: Names,
        limits: Limits,
        default_s: float,
        known: Position | None,
        accepts_ranges: bool,
    ) -> None:
        self._submission = submission
        self._names = names
        self._limits = limits
        self._default_s = default_s
        self._known = known
        self._accepts_ranges = accepts_ranges
        self._new_call_id: Callable[[], CallId] = submission.node.new_call_id

    def all(self, callers: Sequence[C], requests: Sequence[Message]) -> Iterator[None]:
        """In order."""
        for run, start, end in neighbours(requests):
            if run is None:
                yield from self.each(callers[start:end], requests[start:end])
            else:
                yield from self._run(run, callers[start:end], requests[start:end])
            yield

    # --- those that may share

    def _run(self, run: SharedPuts, callers: Sequence[C], requests: Sequence[Message]) -> Iterator[None]:
        """Submit puts as columns; where one of them cannot be read, those around it."""
        if self._puts(run, callers, requests):
            return
        fits = [self._fits(run, *one) for one in zip(run.tuples, requests, strict=True)]
        if fits.count(True) < SHARED_MIN or all(fits):
            yield from self.each(callers, requests)
            return
        start = 0
        for is_fit, part in groupby(fits):
            end = start + len(list(part))
            some = slice(start, end)
            part_run = run._replace(tuples=run.tuples[some])
            if not (
                is_fit and end - start >= SHARED_MIN and self._puts(part_run, callers[some], requests[some])
            ):
                yield from self.each(callers[some], requests[some])
            yield
            start = end

    def _puts(self, run: SharedPuts, callers: Sequence[C], requests: Sequence[Message]) -> bool:
        """Returns False if nothing was done: one of them cannot be read."""
        try:
            timeouts = timeouts_s(requests, self._default_s)
            known = positions(requests, self._known)
        except SynchroError:
            return False
        puts = operations.columns(run.kind, run.space, run.tuples, self._names, self._limits)
        if puts is None or not self._may_all_write(callers, puts.space_id):
            return False
        batch, new_call_id = Batch(self._submission), self._new_call_id
        batch.callers.extend(callers)
        batch.ops = lambda index: puts[index : index + 1]
        if self._accepts_ranges:
            batch.first_seq = first_seq(requests)
        call_ids = [new_call_id() for _ in requests]
        request_ids = [request.request_id or None for request in requests]
        event = ClientPuts(call_ids, puts, request_ids, known)
        self._begin(batch, call_ids)
        self._submission.node.submit_puts(event, batch.on_outcome, timeouts)
        return True

    def _may_all_write(self, callers: Sequence[C], space_id: int) -> bool:
        if is_system(space_id):
            return False
        return all(rights.may_write(space_id) for rights in self._submission.answers.all_rights(callers))

    def _fits(self, run: SharedPuts, one: bytes, request: Message) -> bool:
        try:
            codec.timeout_s(request, self._default_s)
            codec.position(request)
        except SynchroError:
            return False
        return operations.columns(run.kind, run.space, [one], self._names, self._limits) is not None

    # --- one by one

    def each(self, callers: Sequence[C], requests: Sequence[Message]) -> Iterator[None]:
        """Submit calls one by one. A batch ends with its slice."""
        end, write_of, rights_of = slice_end(), self._write_of, self._submission.answers.rights
        batch, writes, timeouts = Batch(self._submission), list[ClientWrite](), list[float]()
        for caller, request in zip(callers, requests, strict=True):
            try:
                asked = None
                if is_alone := is_large(request):
                    self._submit(batch, writes, timeouts)  # ids of a batch are consecutive
                    batch, writes, timeouts = Batch(self._submission), [], []
                    yield
                    asked = yield from operations.transaction_in_steps(request.ops, self._names, self._limits)
                    yield  # what the core does with it is another slice
                timeout_s = codec.timeout_s(request, self._default_s)
                writes.append(write_of(request, asked, rights_of(caller)))
            except SynchroError as error:
                self._refuse(caller, error)
                continue
            timeouts.append(timeout_s)
            batch.callers.append(caller)
            if is_alone or time.perf_counter() > end:
                self._submit(batch, writes, timeouts)
                batch, writes, timeouts = Batch(self._submission), [], []
                yield
                end = slice_end()
        self._submit(batch, writes, timeouts)

    def _refuse(self, caller: C, error: SynchroError) -> None:
        """The error is no local of what its traceback holds: else both would wait for the collector."""
        answers, name = self._submission.answers, str(error.details.get("space", ""))
        needed = Privilege.READ if ".check" in error.details.get("field", "") else Privilege.WRITE
        answers.refuse(caller, instead_of(error, answers.rights(caller), needed, name))

    def _write_of(self, request: Message, asked: operations.Asked | None, rights: Rights) -> ClientWrite:
        """A request as a transaction. Raises `SynchroError` before it takes an id. asked: if its operations
        were decoded already."""
        if asked is None:
            asked = operations.transaction(request.ops, self._names, self._limits)
        ops, conditions, is_sync = asked
        check_writes(rights, ops, self._names.space)
        if conditions:
            check_conditions(rights, conditions, self._names.space)
        request_id = codec.request_id(request.request_id)
        position = codec.position(request, self._known)
        wait = codec.wait_mode(request.wait)
        expected_term = codec.expected_term(request)
        call_id = self._new_call_id()
        return ClientWrite(call_id, ops, request_id, position, wait, expected_term, conditions, is_sync)

    def _submit(self, batch: Batch[C], writes: Sequence[ClientWrite], timeouts: Sequence[float]) -> None:
        if writes:
            batch.ops = lambda index: writes[index].ops
            self._begin(batch, [write.call_id for write in writes])
            self._submission.node.submit_writes(writes, batch.on_outcome, timeouts)

    def _begin(self, batch: Batch[C], call_ids: Sequence[CallId]) -> None:
        submission = self._submission
        batch.first = call_ids[0]
        batch.open.update(call_ids)
        submission.in_flight += len(call_ids)
        submission.batches[batch] = None
        submission.answers.on_begun(batch)
