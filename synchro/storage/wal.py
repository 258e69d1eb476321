"""The WAL: everything pending is one batch, one job of its thread and one sync.

Natural batching: while one batch is on its way the next one gathers, so no timer delays a row. Relays see
rows only after they are synced here. A loop without other work waits for the disk, for a bounded time.
Rules [W-14..16], [W-46], [W-47], [L-30].

Where the writer stands is one value, a `WriterState`:

    Unstarted -> Idle                        `run` begins
    Idle -> Gathering -> Writing -> Idle     a batch
    Idle or Gathering -> Working -> Idle     another job: a rotation, garbage, a mark, the end marker
    Gathering or Writing -> Failed           a batch, or what a callback made of it, went wrong
    Idle, Gathering or Failed -> Closed      `run` is over
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, TypeAlias, TypeVar, assert_never

import trio
from trio import TASK_STATUS_IGNORED, TaskStatus

from synchro.config import Limits
from synchro.errors import DiskFailed, SynchroError, WalIo
from synchro.row import Txn
from synchro.storage.disk import Disk
from synchro.storage.journal import Journal, WalFile
from synchro.storage.log_thread import LogThread, OnOutcome, ToLoop, attempt
from synchro.storage.wal_reader import SyncedLog, WalReader
from synchro.storage.wal_tail import Ring, entries_of
from synchro.threads import in_thread
from synchro.vclock import Vclock

MARK_DELAY_S: Final = 0.05
"""Silence after a sync before the synced mark is written on its own."""
NOTE_INTERVAL_S: Final = 0.05
"""At least between two notes of what the log has. What was acknowledged since the last may be cut from the
log unseen (ADR 14), so it is short."""
NOTE_QUIET_S: Final = 0.01
"""Silence after a batch; a note disturbs nobody then."""
NOTE_SHARE: Final = 20
"""While batches follow each other, notes take at most one part in so many of the time of the disk."""

_T = TypeVar("_T")

Callback: TypeAlias = Callable[[], None]


@dataclass(slots=True)
class WalStats:
    """Counters since the start of the process."""

    submitted: int = 0
    """Transactions handed over; those of `txns` are on disk."""
    batches: int = 0
    txns: int = 0
    bytes: int = 0
    cuts: int = 0
    waits: int = 0
    """Batches for which the loop waited."""
    vain_waits: int = 0
    """Those of them that were not done in time."""


# --- where the writer stands ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unstarted:
    """`run` has not begun: what is submitted, and other jobs, wait for it."""


@dataclass(frozen=True, slots=True)
class Idle:
    """The thread is free, and nothing waits for it."""


@dataclass(slots=True, eq=False)
class Gathering:
    """The thread is free, and something is pending. What arrives in the same moment belongs to its batch,
    so that begins a moment later, unless another job goes first."""


@dataclass(slots=True, eq=False)
class Writing:
    """A batch is in the thread. since: trio time at which it was given to it."""

    txns: Sequence[Txn]
    has_control: bool
    since: float


@dataclass(slots=True, eq=False)
class Working:
    """A job that is no batch is in the thread."""

    job: _Job


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing is given to the thread any more; `run` raises `error`."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Closed:
    """`run` is over: the journal is closed, and says so to whoever still asks."""


WriterState: TypeAlias = Unstarted | Idle | Gathering | Writing | Working | Failed | Closed
_IDLE: Final = Idle()


class _Wish(Enum):
    """What `run` is to do; from one only to a later one."""

    GO_ON = "go on"
    STOP = "stop"
    """Write what is pending, leave the end marker, and return."""
    LEAVE = "leave"
    """Begin no batch any more: it was cancelled, or has failed, or returns."""


class _Job:
    """Something for the thread that is not a batch, and the task that waits for it."""

    __slots__ = ("call", "done", "error", "result")

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.done = trio.Event()
        self.result: object = None
        self.error: BaseException | None = None

    def answer(self, result: object, error: BaseException | None) -> None:
        self.result, self.error = result, error
        self.done.set()


class Wal:
    """Owns the journal of a running instance.

    A1  callbacks come in the order of `submit`, in trio's thread, never from inside `submit`.
    A2  what `on_written` names is synced, and only that is visible to readers (S8).
    A3  the thread has at most one job: the state is `Writing` or `Working` then, and nothing else touches
        the journal.
    A4  `Idle`: no job waits, and nothing is pending that may begin. `Gathering`: something is.
    A5  `queued_bytes` are those of what is pending and of the batch on its way.
    A6  the loop is blocked for a batch only, in the turn in which that was given to the thread, when nothing
        else is to be done (`call_at_rest`), within the bounds of `LogThread` [W-47].
    A7  barriers rise in what they wait for, and wait for something that was submitted and is not answered.
    """

    def __init__(
        self,
        disk: Disk,
        journal: Journal,
        *,
        on_written: Callable[[Vclock], None],
        on_cut: Callable[[Vclock, SynchroError], None],
        on_rotation_refused: Callable[[OSError], None] = lambda _: None,
        limits: Limits | None = None,
        wall_clock: Callable[[], float] = time.time,
        new_thread: Callable[[ToLoop, OnOutcome], LogThread] = LogThread,
    ) -> None:
        """on_cut: nothing beyond the vclock is on disk, and what was queued behind is dropped too [W-15].
        on_rotation_refused: the log goes on in its old file; told once until a rotation succeeds."""
        self._journal = journal
        self._on_written = on_written
        self._on_cut = on_cut
        self._on_rotation_refused = on_rotation_refused
        self._is_refusal_told = False
        self._wall_clock = wall_clock
        self._new_thread = new_thread
        self._call_later: Callable[[Callback], object] | None = None
        self._call_from_thread: Callable[[Callback], object] | None = None
        self._call_at_rest: Callable[[Callback], object] | None = None
        self._thread: LogThread | None = None
        """While `run` runs."""
        self._state: WriterState = Unstarted()
        self._wish = _Wish.GO_ON
        self._pending: list[tuple[Sequence[Txn], bool]] = []
        self._queued_bytes = 0
        self._jobs: deque[_Job] = deque()
        """The jobs that are not batches. They go first: they are rare."""
        self._answered = 0
        """Of `stats.submitted`, those that are on disk or were cut back."""
        self._barriers: deque[tuple[int, _Job]] = deque()
        """(so much of `stats.submitted`, what the thread does when all of it is answered)."""
        self._wake = trio.Event()
        self._note_wanted = trio.Event()
        self._mark_at: float | None = None
        limit = (limits or Limits()).relay_ring_bytes
        self._ring = Ring(journal.vclock, journal.position, limit)
        self._grown = trio.lowlevel.ParkingLot()
        self._synced = SyncedLog(disk, journal, self._ring, self._grown)
        self.stats = WalStats()

    def call_with(
        self,
        call_later: Callable[[Callback], object],
        call_from_thread: Callable[[Callback], object],
        call_at_rest: Callable[[Callback], object] | None = None,
    ) -> None:
        """Before `run`: how to call something in trio's thread, a moment later or from another thread.

        call_at_rest: called inside of what `call_later` called; calls its argument if nothing else is to be
        done, or never; None: the loop never waits for the disk."""
        self._call_later = call_later
        self._call_from_thread = call_from_thread
        self._call_at_rest = call_at_rest

    @property
    def vclock(self) -> Vclock:
        """Everything up to here is synced."""
        return self._journal.vclock

    @property
    def queued_bytes(self) -> int:
        """Bytes submitted and not yet answered; who submits compares it with `wal_queue_bytes_max` [W-16]."""
        return self._queued_bytes

    @property
    def busy_since(self) -> float | None:
        """trio time at which the batch on its way was given to the disk; None: nothing is on its way."""
        state = self._state
        return state.since if type(state) is Writing else None

    @property
    def files(self) -> tuple[WalFile, ...]:
        return self._journal.files

    def submit(self, txns: Sequence[Txn], has_control: bool = False) -> None:
        """Queue for the next batch; never blocks. Answered by `on_written` or `on_cut`."""
        self._pending.append((txns, has_control))
        self.stats.submitted += len(txns)
        for txn in txns:
            self._queued_bytes += len(txn.data)
        if type(self._state) is Idle and self._wish is not _Wish.LEAVE:
            self._gather()

    def stop(self) -> None:
        """Let `run` write what is queued, leave the end marker, and return."""
        if self._wish is _Wish.GO_ON:
            self._wish = _Wish.STOP
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Until `stop` or cancelled. Raises `DiskFailed`: the process must leave (L-30)."""
        task_status.started()
        if self._call_later is None or self._call_from_thread is None:
            token = trio.lowlevel.current_trio_token()
            self.call_with(token.run_sync_soon, token.run_sync_soon)
        assert self._call_from_thread is not None
        self._thread = self._new_thread(self._call_from_thread, self._thread_done)
        closed = False
        try:
            self._state = _IDLE
            self._next()
            while not self._is_all_written():
                await self._wait()
            await self._in_thread(self._journal.close_clean, self._wall_clock())
            closed = True
        finally:
            await self._end(close=not closed)

    def note_soon(self) -> None:
        """There is more to note than the log itself: what peers acknowledged."""
        self._note_wanted.set()

    async def keep_notes(self, collect: Callable[[], None]) -> None:
        """Beside `run`, until cancelled: note what the log has, soon after it has it, in a thread of its own,
        so that no batch waits for a note. collect: called before. Raises `DiskFailed`."""
        while True:
            await self._note_wanted.wait()
            self._note_wanted = trio.Event()
            collect()
            began = trio.current_time()
            await in_thread(self._journal.write_note)
            ended = trio.current_time()
            await trio.sleep(NOTE_INTERVAL_S)
            while self._is_writing() and trio.current_time() < ended + NOTE_SHARE * (ended - began):  # noqa: ASYNC110
                await trio.sleep(NOTE_QUIET_S)

    def _is_writing(self) -> bool:
        quiet_at = 0.0 if self._mark_at is None else self._mark_at - MARK_DELAY_S + NOTE_QUIET_S
        return type(self._state) is not Idle or trio.current_time() < quiet_at

    async def rotate(self) -> bool:
        """Start a new file if the current one has rows: before a checkpoint [W-12]."""
        is_new = await self._in_thread(self._journal.rotate, self._wall_clock())
        self._tell_refusal()
        return is_new

    def _tell_refusal(self) -> None:
        refused = self._journal.rotation_refused
        if refused is not None and not self._is_refusal_told:
            self._on_rotation_refused(refused)
        self._is_refusal_told = refused is not None

    async def collect_garbage(self, keep_from: Vclock, recovery_point: Vclock | None = None) -> int:
        """See `Journal.collect_garbage`; returns the number of files that went."""
        return await self._in_thread(self._journal.collect_garbage, keep_from, recovery_point)

    async def sync(self) -> Vclock:
        """Wait until all that was submitted before is synced, with `wal.mode: write` too [W-48]; returns up
        to where it is. Raises `WalIo`: some of it was cut back; `DiskFailed`: the process must leave.

        A caller whose time is over may go; what it asked for is done all the same."""
        target = self.stats.submitted
        if self._answered == target or isinstance(self._state, Closed):
            job = _Job(self._journal.sync)
            self._jobs.append(job)
            self._next()
        elif self._barriers and self._barriers[-1][0] == target:
            job = self._barriers[-1][1]
        else:
            job = _Job(self._journal.sync)
            self._barriers.append((target, job))
        await job.done.wait()
        if job.error is not None:
            raise job.error
        assert isinstance(job.result, Vclock)
        return job.result

    def reader(self, after: Vclock) -> WalReader:
        """Rows not covered by `after`, in WAL order. Raises `XlogGap` if their files are gone [W-45]."""
        return WalReader(self._synced, after)

    def check(self) -> None:
        """Wal.A3..A5, between two steps of the writer."""
        state, thread = self._state, self._thread
        if thread is not None:
            thread.check()
        assert isinstance(state, Writing | Working) == (thread is not None and thread.has_job)  # Wal.A3
        if isinstance(state, Idle):  # Wal.A4
            assert not self._jobs
            assert not self._pending or self._wish is _Wish.LEAVE
        if isinstance(state, Gathering):
            assert self._pending
        targets = [target for target, _ in self._barriers]
        assert targets == sorted(set(targets))  # Wal.A7
        assert all(self._answered < target <= self.stats.submitted for target in targets)  # Wal.A7
        waiting = [txns for txns, _ in self._pending]
        if isinstance(state, Writing):
            waiting.append(state.txns)
        if not isinstance(state, Failed | Closed):  # Wal.A5; then nobody submits any more
            assert self._queued_bytes == sum(len(txn.data) for txns in waiting for txn in txns)

    # --- the task: waits for the end, and writes marks ----------------------------------------------------

    def _is_all_written(self) -> bool:
        """The time to leave the end marker. Raises what failed."""
        if isinstance(self._state, Failed):
            raise self._state.error
        return self._wish is _Wish.STOP and isinstance(self._state, Idle)

    async def _wait(self) -> None:
        """Until something changed that the task must know; a mark may be written meanwhile."""
        self._wake = trio.Event()
        with trio.move_on_at(self._mark_at if self._mark_at is not None else float("inf")):
            await self._wake.wait()
        if self._mark_at is not None and trio.current_time() >= self._mark_at:
            self._mark_at = None
            if isinstance(self._state, Idle):
                await self._in_thread(self._journal.write_mark, self._wall_clock())

    async def _end(self, *, close: bool) -> None:
        """What is in the thread is answered, and jobs that wait; no batch begins."""
        self._wish = _Wish.LEAVE
        with trio.CancelScope(shield=True):
            while isinstance(self._state, Writing | Working):
                self._wake = trio.Event()
                await self._wake.wait()
        assert self._thread is not None
        self._thread.end()
        self._thread = None
        if close:
            self._journal.close_files()
        self._state = Closed()
        self._next()
        self._grown.unpark_all()

    # --- steps of the writer ------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        """In its turn. Not interrupted by cancellation: it waits for one batch at most."""
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Job(partial(call, *args))
        self._jobs.append(job)
        self._next()
        with trio.CancelScope(shield=True):
            await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def _next(self) -> None:
        """The thread may be free: give it what comes next."""
        match self._state:
            case Idle() | Gathering() if self._jobs:
                self._work(self._jobs.popleft())
            case Idle() if self._pending and self._wish is not _Wish.LEAVE:
                self._gather()
            case Idle() if self._wish is not _Wish.GO_ON:
                self._wake.set()
            case Failed():
                self._wake.set()
            case Closed():
                self._jobs.extend(job for _, job in self._barriers)
                self._barriers.clear()
                while self._jobs:
                    job = self._jobs.popleft()
                    job.answer(*attempt(job.call))  # the journal refuses
            case Unstarted() | Idle() | Gathering() | Writing() | Working():
                pass
            case _:
                assert_never(self._state)

    def _work(self, job: _Job) -> None:
        assert self._thread is not None
        self._state = Working(job)
        self._thread.do(job.call)

    def _gather(self) -> None:
        assert self._call_later is not None
        self._state = gathering = Gathering()
        self._call_later(partial(self._begin_batch, gathering))

    def _begin_batch(self, gathering: Gathering) -> None:
        """If nothing went first: then whoever did begins to gather again."""
        if self._state is not gathering or self._wish is _Wish.LEAVE:
            return
        try:
            assert self._thread is not None
            assert self._pending  # Wal.A4
            txns, has_control = self._take_batch()
            self._state = batch = Writing(txns, has_control, trio.current_time())
            self._thread.do(partial(self._append, batch))
        except BaseException as failure:  # noqa: BLE001 - the border of the callbacks: `run` raises it
            self._state = Failed(failure)
            self._next()
        else:
            if self._call_at_rest is not None and self._thread.may_wait:
                self._call_at_rest(partial(self._wait_for, batch))

    def _wait_for(self, batch: Writing) -> None:
        """Block this thread until the batch is done, for a moment at the most (Wal.A6)."""
        if self._state is batch and self._thread is not None and self._thread.may_wait:
            self.stats.waits += 1
            if not self._thread.wait():
                self.stats.vain_waits += 1

    def _thread_done(self, result: object, error: BaseException | None) -> None:
        """In trio's thread: what came of its job."""
        was, self._state = self._state, _IDLE
        try:
            match was:
                case Writing():
                    self._batch_done(was, error)
                case Working(job=job):
                    job.answer(result, error)
                case Unstarted() | Idle() | Gathering() | Failed() | Closed():
                    raise AssertionError(f"a job ended while the writer was {was}")  # Wal.A3
                case _:
                    assert_never(was)
        except BaseException as failure:  # noqa: BLE001 - as in `_begin_batch`
            self._state = Failed(failure)
        self._next()

    def _take_batch(self) -> tuple[list[Txn], bool]:
        """Everything pending, up to where control rows begin or end: only they may use the reserve, and rows
        that may be cut back must not take them down [L-30]."""
        pending = self._pending
        has_control = pending[0][1]
        end = next((at for at, (_, control) in enumerate(pending) if control != has_control), len(pending))
        self._pending = pending[end:]
        return [txn for part, _ in pending[:end] for txn in part], has_control

    def _append(self, batch: Writing) -> None:
        """In the thread."""
        self._journal.append(batch.txns, self._wall_clock(), has_control=batch.has_control)

    def _batch_done(self, batch: Writing, error: BaseException | None) -> None:
        if isinstance(error, WalIo):
            self._cut(error, batch.has_control)
            return
        if error is not None:
            raise error
        txns = batch.txns
        size = sum(len(txn.data) for txn in txns)
        self._queued_bytes -= size
        self.stats.batches += 1
        self.stats.txns += len(txns)
        self.stats.bytes += size
        self._answered += len(txns)
        while self._barriers and self._barriers[0][0] <= self._answered:
            self._jobs.append(self._barriers.popleft()[1])
        if self._mark_at is None:
            self._wake.set()
        self._mark_at = trio.current_time() + MARK_DELAY_S
        self._tell_refusal()
        vclock = self._journal.vclock
        self._ring.add(entries_of(self._journal.last_blocks, txns), vclock)
        self._note_wanted.set()
        self._on_written(vclock)
        if self._grown:
            self._grown.unpark_all()

    def _cut(self, error: WalIo, has_control: bool) -> None:
        self._pending = []  # Who asked for them hears of the cut, and asks for control rows again.
        self._queued_bytes = 0
        self._answered = self.stats.submitted
        while self._barriers:
            self._barriers.popleft()[1].answer(None, error)
        self.stats.cuts += 1
        if has_control:
            raise DiskFailed(
                f"rows of elections or the queue could not be written: {error.message}, then: synchro start",
                **error.details,
            ) from error  # [L-30]
        self._on_cut(self._journal.vclock, error)
