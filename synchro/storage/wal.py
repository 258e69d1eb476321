"""The WAL: everything pending is one batch, one job of its thread and one sync; readers for relays.

Natural batching: while one batch is on its way the next one gathers, so no timer delays a row. Relays see
rows only after they are synced here. Rules [W-14..16], [W-46], [L-30].
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import trio
from trio import TASK_STATUS_IGNORED, TaskStatus

from synchro.config import Limits
from synchro.errors import Corruption, DiskFailed, SynchroError, WalIo, XlogGap
from synchro.ids import LOCAL, InstanceId, Lsn
from synchro.row import GROUP_DEFAULT, PlainTxn, RowType, Txn
from synchro.storage.disk import Disk, FileBytes
from synchro.storage.journal import Journal, WalFile, WrittenBlock
from synchro.storage.xlog import BLOCK_HEADER_BYTES as _BLOCK_HEADER_BYTES
from synchro.storage.xlog import (
    HEADER_BYTES_MAX,
    Block,
    crc32c,
    decode_header,
    find_blocks,
    padded,
    read_block,
)
from synchro.storage.xrow import TxnSpan, scan_txns
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
READ_WINDOW_BYTES: Final = 1024 * 1024
"""Buffer of a relay that reads from files."""

_T = TypeVar("_T")

Callback: TypeAlias = Callable[[], None]

Position: TypeAlias = tuple[str, int]
"""(path, offset) of a block."""

_WITH_TERM: Final = (RowType.PROMOTE, RowType.DEMOTE)


@dataclass(slots=True)
class WalStats:
    """Counters since the start of the process."""

    batches: int = 0
    txns: int = 0
    bytes: int = 0
    cuts: int = 0
    last_write_s: float = 0.0
    """Duration of the last batch: write and sync."""


class Run(NamedTuple):
    """Whole transactions of one origin, no local rows, no PROMOTE or DEMOTE: nearly all there is."""

    origin: InstanceId
    first: Lsn
    """LSN of the first transaction, which is that of its last row, as in `Txn`."""
    last: Lsn


def _run_of(txns: Sequence[Txn]) -> Run | None:
    """None: they are no `Run`."""
    origin = txns[0].origin
    for txn in txns:
        if txn.origin != origin:
            return None
        if type(txn) is not PlainTxn:
            rows = txn.rows
            if len(rows) > 1 or rows[0].group_id != GROUP_DEFAULT or rows[0].type in _WITH_TERM:
                return None
    return Run(origin, txns[0].lsn, txns[-1].lsn)


class _RingEntry:
    """A synced block. `end_vclock`: set on the last block of a batch. run: all of it, if it is one."""

    __slots__ = ("_crc", "_spans", "end_vclock", "offset", "path", "payload", "run", "time")

    def __init__(self, path: str, offset: int, payload: bytes, time: float, run: Run | None) -> None:
        self.path = path
        self.offset = offset
        self.payload = payload
        self.time = time
        self.run = run
        self.end_vclock: Vclock | None = None
        self._spans: list[TxnSpan] | None = None
        self._crc: int | None = None

    # Once for all relays.

    @property
    def spans(self) -> list[TxnSpan]:
        if self._spans is None:
            self._spans = scan_txns(self.payload)
        return self._spans

    @property
    def crc(self) -> int:
        if self._crc is None:
            self._crc = crc32c(self.payload)
        return self._crc

    @property
    def end(self) -> Position:
        return self.path, self.offset + padded(_BLOCK_HEADER_BYTES + len(self.payload))


def _entries(blocks: Sequence[WrittenBlock], txns: Sequence[Txn]) -> list[_RingEntry]:
    """The blocks that `txns` were written as."""
    if len(blocks) == 1:
        return [_RingEntry(*blocks[0], _run_of(txns))]
    entries: list[_RingEntry] = []
    start = end = 0
    for block in blocks:
        left = len(block.payload)
        while left:
            left -= len(txns[end].data)
            end += 1
        entries.append(_RingEntry(*block, _run_of(txns[start:end])))
        start = end
    return entries


class _Ring:
    """Recent synced blocks, oldest first, in whole batches; entry number = `first` + index.

    G1  it holds every row after `start_vclock`; the block at `start` is its first one, or the next written.
    G2  at most `bytes_max` bytes, or one batch.
    """

    def __init__(self, vclock: Vclock, start: Position, bytes_max: int) -> None:
        self.entries: deque[_RingEntry] = deque()
        self.first = 0
        self.start_vclock = vclock
        self.start = start
        self.bytes = 0
        self._bytes_max = bytes_max

    @property
    def next(self) -> int:
        """Number that the next entry will have."""
        return self.first + len(self.entries)

    def add(self, batch: Sequence[_RingEntry], vclock: Vclock) -> None:
        if not batch:
            return
        batch[-1].end_vclock = vclock
        if not self.entries:
            self.start = (batch[0].path, batch[0].offset)
        self.entries.extend(batch)
        self.bytes += sum(len(entry.payload) for entry in batch)
        while self.bytes > self._bytes_max and len(self.entries) > len(batch):
            self._evict()

    def _evict(self) -> None:
        """Drop the oldest batch (_Ring.G1)."""
        while True:
            entry = self.entries.popleft()
            self.first += 1
            self.bytes -= len(entry.payload)
            if entry.end_vclock is not None:
                self.start_vclock = entry.end_vclock
                break
        self.start = (self.entries[0].path, self.entries[0].offset)


class _Thread:
    """A thread that does one job after the other; what came of each is told in trio's thread."""

    def __init__(self, deliver: Callable[[Callback], object]) -> None:
        """deliver: called in the thread; runs its argument in trio's."""
        self._deliver = deliver
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None]
        self._jobs = SimpleQueue()
        threading.Thread(target=self._run, name="wal", daemon=True).start()

    def do(self, job: Callable[[], _T], done: Callable[[_T | None, BaseException | None], None]) -> None:
        """`done` gets what `job` returned or raised. It must not raise."""
        self._jobs.put((job, done))

    def end(self) -> None:
        """After the jobs that it has."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None:
            self._deliver(_outcome(*work))
            del work


def _outcome(job: Callable[[], _T], done: Callable[[_T | None, BaseException | None], None]) -> Callback:
    """Do the job; what is left to do is to tell what came of it."""
    try:
        result = job()
    except BaseException as error:  # noqa: BLE001 - it is raised again in trio's thread
        failure = error
        return lambda: done(None, failure)
    return lambda: done(result, None)


class Wal:
    """Owns the journal of a running instance.

    A1  callbacks come in the order of `submit`, in trio's thread, never from inside `submit`.
    A2  what `on_written` names is synced, and only that is visible to readers (S8).
    A3  the thread has at most one job; while it has one nothing else touches the journal.
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
    ) -> None:
        """on_cut: nothing beyond the vclock is on disk, and what was queued behind is dropped too [W-15].
        on_rotation_refused: the log goes on in its old file; told once until a rotation succeeds."""
        self._disk = disk
        self._journal = journal
        self._limits = limits or Limits()
        self._on_written = on_written
        self._on_cut = on_cut
        self._on_rotation_refused = on_rotation_refused
        self._is_refusal_told = False
        self._wall_clock = wall_clock
        self._call_later: Callable[[Callback], object] | None = None
        self._call_from_thread: Callable[[Callback], object] | None = None
        self._thread: _Thread | None = None
        """While `run` runs."""
        self._is_over = False
        self._is_busy = False
        self._is_start_due = False
        self._failure: BaseException | None = None
        self._pending: list[tuple[Sequence[Txn], bool]] = []
        self._queued_bytes = 0
        self._other_jobs: deque[Callback] = deque()
        """Jobs that are not batches. They go first: they are rare."""
        self._wake = trio.Event()
        self._note_wanted = trio.Event()
        self._stopping = False
        self._mark_at: float | None = None
        self._grown = trio.lowlevel.ParkingLot()
        self._ring = _Ring(journal.vclock, journal.position, self._limits.relay_ring_bytes)
        self.busy_since: float | None = None
        """trio time at which the batch on its way was given to the disk; None: nothing is on its way."""
        self.stats = WalStats()

    def call_with(
        self, call_later: Callable[[Callback], object], call_from_thread: Callable[[Callback], object]
    ) -> None:
        """Before `run`: how to call something in trio's thread a moment later, and from another thread."""
        self._call_later = call_later
        self._call_from_thread = call_from_thread

    @property
    def vclock(self) -> Vclock:
        """Everything up to here is synced."""
        return self._journal.vclock

    @property
    def queued_bytes(self) -> int:
        """Bytes submitted and not yet answered; who submits compares it with `wal_queue_bytes_max` [W-16]."""
        return self._queued_bytes

    @property
    def syncs(self) -> int:
        return self._journal.syncs

    @property
    def files(self) -> tuple[WalFile, ...]:
        return self._journal.files

    def submit(self, txns: Sequence[Txn], has_control: bool = False) -> None:
        """Queue for the next batch; never blocks. Answered by `on_written` or `on_cut`."""
        self._pending.append((txns, has_control))
        for txn in txns:
            self._queued_bytes += len(txn.data)
        if not self._is_busy:
            self._start_soon()

    def stop(self) -> None:
        """Let `run` write what is queued, leave the end marker, and return."""
        self._stopping = True
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Until `stop` or cancelled. Raises `DiskFailed`: the process must leave (L-30)."""
        task_status.started()
        if self._call_later is None or self._call_from_thread is None:
            token = trio.lowlevel.current_trio_token()
            self.call_with(token.run_sync_soon, token.run_sync_soon)
        assert self._call_from_thread is not None
        self._thread = _Thread(self._call_from_thread)
        closed = False
        try:
            self._next()
            while True:
                if self._failure is not None:
                    raise self._failure
                if self._stopping and not self._pending and not self._is_busy:
                    break
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
            await trio.to_thread.run_sync(self._journal.write_note)
            ended = trio.current_time()
            await trio.sleep(NOTE_INTERVAL_S)
            while self._is_writing() and trio.current_time() < ended + NOTE_SHARE * (ended - began):  # noqa: ASYNC110
                await trio.sleep(NOTE_QUIET_S)

    def _is_writing(self) -> bool:
        quiet_at = 0.0 if self._mark_at is None else self._mark_at - MARK_DELAY_S + NOTE_QUIET_S
        return self._is_busy or bool(self._pending) or trio.current_time() < quiet_at

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

    def reader(self, after: Vclock) -> WalReader:
        """Rows not covered by `after`, in WAL order. Raises `XlogGap` if their files are gone [W-45]."""
        return WalReader(self, after)

    # --- the task: waits for the end, and writes marks ----------------------------------------------------

    async def _wait(self) -> None:
        """Until something changed that the task must know; a mark may be written meanwhile."""
        self._wake = trio.Event()
        with trio.move_on_at(self._mark_at if self._mark_at is not None else float("inf")):
            await self._wake.wait()
        if self._mark_at is not None and trio.current_time() >= self._mark_at:
            self._mark_at = None
            if not self._pending and not self._is_busy:
                await self._in_thread(self._journal.write_mark, self._wall_clock())

    async def _end(self, *, close: bool) -> None:
        self._is_over = True
        with trio.CancelScope(shield=True):
            while self._is_busy:
                self._wake = trio.Event()
                await self._wake.wait()
        assert self._thread is not None
        self._thread.end()
        self._thread = None
        if close:
            self._journal.close_files()
        while self._other_jobs:
            self._other_jobs.popleft()()
        self._grown.unpark_all()

    # --- jobs ---------------------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        """In its turn. Not interrupted by cancellation: it waits for one batch at most."""
        await trio.lowlevel.checkpoint_if_cancelled()
        done = trio.Event()
        outcome: list[tuple[_T | None, BaseException | None]] = []

        def end(result: _T | None, error: BaseException | None) -> None:
            outcome.append((result, error))
            done.set()

        def begin() -> None:
            if self._thread is None:
                _outcome(lambda: call(*args), end)()  # the journal is closed, and says so
            else:
                self._do(lambda: call(*args), end)

        self._other_jobs.append(begin)
        self._next()
        with trio.CancelScope(shield=True):
            await done.wait()
        ((result, error),) = outcome
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def _do(self, job: Callable[[], _T], done: Callable[[_T | None, BaseException | None], None]) -> None:
        assert self._thread is not None
        assert not self._is_busy  # Wal.A3

        def finish(result: _T | None, error: BaseException | None) -> None:
            self._is_busy = False
            try:
                done(result, error)
            except BaseException as failure:  # noqa: BLE001 - the border of the callbacks: `run` raises it
                self._failure = self._failure or failure
            self._next()

        self._is_busy = True
        self._thread.do(job, finish)

    def _next(self) -> None:
        """The thread may be free: give it what comes next."""
        if self._is_busy:
            return
        if self._other_jobs and (self._thread is not None or self._is_over):
            self._other_jobs.popleft()()
        elif self._failure is None and self._pending and not self._is_over:
            self._start_soon()
        elif self._failure is not None or self._stopping or self._is_over:
            self._wake.set()

    def _start_soon(self) -> None:
        """Not now: what arrives in the same moment belongs to the same batch."""
        if not self._is_start_due and self._thread is not None:
            assert self._call_later is not None
            self._is_start_due = True
            self._call_later(self._start_batch)

    def _start_batch(self) -> None:
        self._is_start_due = False
        if self._is_busy or not self._pending or self._failure is not None or self._is_over:
            return
        try:
            txns, has_control = self._take_batch()
            self.busy_since = trio.current_time()
            self._do(
                lambda: self._append(txns, has_control), lambda _, e: self._batch_done(txns, has_control, e)
            )
        except BaseException as failure:  # noqa: BLE001 - as in `_do`
            self._failure = failure
            self._wake.set()

    def _take_batch(self) -> tuple[list[Txn], bool]:
        """Everything pending, up to where control rows begin or end: only they may use the reserve, and rows
        that may be cut back must not take them down [L-30]."""
        pending = self._pending
        has_control = pending[0][1]
        end = next((at for at, (_, control) in enumerate(pending) if control != has_control), len(pending))
        self._pending = pending[end:]
        return [txn for part, _ in pending[:end] for txn in part], has_control

    def _append(self, txns: Sequence[Txn], has_control: bool) -> None:
        started = time.perf_counter()
        self._journal.append(txns, self._wall_clock(), has_control=has_control)
        self.stats.last_write_s = time.perf_counter() - started

    def _batch_done(self, txns: Sequence[Txn], has_control: bool, error: BaseException | None) -> None:
        self.busy_since = None
        if isinstance(error, WalIo):
            self._cut(error, has_control)
            return
        if error is not None:
            raise error
        size = sum(len(txn.data) for txn in txns)
        self._queued_bytes -= size
        self.stats.batches += 1
        self.stats.txns += len(txns)
        self.stats.bytes += size
        if self._mark_at is None:
            self._wake.set()
        self._mark_at = trio.current_time() + MARK_DELAY_S
        self._tell_refusal()
        vclock = self._journal.vclock
        self._ring.add(_entries(self._journal.last_blocks, txns), vclock)
        self._note_wanted.set()
        self._on_written(vclock)
        if self._grown:
            self._grown.unpark_all()

    def _cut(self, error: WalIo, has_control: bool) -> None:
        self._pending = []  # Who asked for them hears of the cut, and asks for control rows again.
        self._queued_bytes = 0
        self.stats.cuts += 1
        if has_control:
            raise DiskFailed(
                f"rows of elections or the queue could not be written: {error.message}, then: synchro start",
                **error.details,
            ) from error  # [L-30]
        self._on_cut(self._journal.vclock, error)


class PlainRows:
    """What `WalReader.next_plain` found: blocks that are one run."""

    __slots__ = ("entries", "run")

    def __init__(self, run: Run, entries: list[_RingEntry]) -> None:
        self.run = run
        self.entries = entries

    @property
    def size(self) -> int:
        """Bytes."""
        return sum([len(entry.payload) for entry in self.entries])

    @property
    def data_and_crc(self) -> tuple[bytes, int]:
        """The rows and their CRC32C."""
        if len(self.entries) == 1:
            return self.entries[0].payload, self.entries[0].crc
        data = b"".join([entry.payload for entry in self.entries])
        return data, crc32c(data)


class WalReader:
    """A cursor over the WAL for one subscriber: costs no memory while it waits, from the ring if it can.

    The rows of peers come back too, and local ones: what must not be sent is the relay's business.
    """

    def __init__(self, wal: Wal, after: Vclock) -> None:
        self._wal = wal
        self._have = after.as_dict()
        self._reached = after
        self._cursor: _FileCursor | None = None
        self._number: int | None = None
        """Of the next ring entry; None: reads from files."""
        self._done_spans = 0
        self._position: Position = wal._ring.start
        self._plain: PlainRows | None = None
        self._block: tuple[Block, list[TxnSpan]] | None = None
        """From a file, not used up: what is asked for in small pieces is read once."""
        self.block_time = 0.0
        """Wall-clock seconds at which the newest returned block was written here [W-4]."""
        if after.covers(wal._ring.start_vclock):
            self._number = wal._ring.first
        else:
            self._cursor = _FileCursor(wal._disk, wal._journal.files_after(after))

    @property
    def is_at_end(self) -> bool:
        """Everything synced so far was returned."""
        return self._number is not None and self._number >= self._wal._ring.next

    async def next_run(self, max_bytes: int) -> tuple[list[TxnSpan], bytes]:
        """Transactions as spans of the bytes beside them, at most `max_bytes` unless one is larger.

        Waits for new synced rows at the end. Raises `XlogGap`, `Corruption`, `DiskFailed`.
        """
        while True:
            if self._number is None:
                run = await self._from_files(max_bytes)
            elif self._number < self._wal._ring.first:
                self._fall_back()
                continue
            elif self._number < self._wal._ring.next:
                run = self._from_ring(max_bytes)
            else:
                await self._wal._grown.park()
                continue
            if run[0]:
                return run

    def next_plain(self, max_bytes: int) -> PlainRows | None:
        """The blocks that come next, if they are one `Run` that the subscriber lacks as a whole.

        At most `max_bytes`. None: there is nothing, or `next_run` must look. The same again until `accept`.
        """
        ring, number = self._wal._ring, self._number
        if number is None or number < ring.first or number >= ring.next or self._done_spans:
            return None
        entry = ring.entries[number - ring.first]
        run, size = entry.run, len(entry.payload)
        if run is None or size > max_bytes or run.first <= self._have.get(run.origin, 0):
            return None
        last = run.last
        entries = [entry]
        for index in range(number + 1 - ring.first, len(ring.entries)):
            entry = ring.entries[index]
            size += len(entry.payload)
            if entry.run is None or entry.run.origin != run.origin or size > max_bytes:
                break
            entries.append(entry)
            last = entry.run.last
        self._plain = PlainRows(Run(run.origin, run.first, last), entries)
        return self._plain

    def accept(self, rows: PlainRows) -> None:
        """They were sent, or need not be: go on behind them."""
        assert rows is self._plain
        assert self._number is not None
        self._plain = None
        self._number += len(rows.entries)
        newest = rows.entries[-1]
        if newest.end_vclock is not None:
            self._reached = newest.end_vclock  # all of the log up to here
        self._position = newest.end
        self.block_time = newest.time

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def _take(self, spans: Sequence[TxnSpan], max_bytes: int, size: int) -> tuple[list[TxnSpan], int, bool]:
        """Spans from `_done_spans` on that the subscriber lacks; new size; True: the block is used up."""
        have = self._have
        taken: list[TxnSpan] = []
        for at in range(self._done_spans, len(spans)):
            span = spans[at]
            if span.lsn <= have.get(span.origin, 0):
                continue
            length = span.end - span.start
            if size and size + length > max_bytes:
                self._done_spans = at
                return taken, size, False
            size += length
            taken.append(span)
        self._done_spans = 0
        return taken, size, True

    def _from_ring(self, max_bytes: int) -> tuple[list[TxnSpan], bytes]:
        ring = self._wal._ring
        spans: list[TxnSpan] = []
        parts: list[bytes] = []
        size = base = 0
        assert self._number is not None
        while self._number < ring.next and size < max_bytes:
            entry = ring.entries[self._number - ring.first]
            taken, size, is_used_up = self._take(entry.spans, max_bytes, size)
            if taken:
                spans.extend(taken if not base else _moved(taken, base))
                parts.append(entry.payload)
                base += len(entry.payload)
                self.block_time = entry.time
            self._position = (entry.path, entry.offset)
            if not is_used_up:
                break
            if entry.end_vclock is not None:
                self._reached = self._reached.merge(entry.end_vclock)
            self._number += 1
            self._position = entry.end
        return spans, parts[0] if len(parts) == 1 else b"".join(parts)

    def _fall_back(self) -> None:
        """The ring went on without this reader: go on in the files where it was."""
        path, offset = self._position
        files = list(self._wal.files)
        for at, file in enumerate(files):
            if file.path == path:
                self._cursor = _FileCursor(self._wal._disk, files[at:], offset)
                self._number = None
                return
        raise XlogGap(f"{path} was deleted while a subscriber still needed it", path=path)

    async def _from_files(self, max_bytes: int) -> tuple[list[TxnSpan], bytes]:
        cursor = self._cursor
        assert cursor is not None
        stop = self._wal._ring.start
        if cursor.position == stop:
            self._switch_to_ring()
            return [], b""
        if self._block is not None:
            await trio.lowlevel.checkpoint()
            return self._from_block(cursor, *self._block, max_bytes)
        cursor.extend(self._wal.files)
        try:
            block, limit = await trio.to_thread.run_sync(cursor.next_block, stop, self._reached)
        except FileNotFoundError as error:
            raise XlogGap(f"{cursor.position[0]} is gone", path=cursor.position[0]) from error
        except OSError as error:
            raise DiskFailed(
                f"{cursor.position[0]}: {error.strerror}", file=cursor.position[0], errno=error.errno
            ) from error
        except Corruption:
            if cursor.position[0] not in {file.path for file in self._wal.files}:
                raise XlogGap(
                    f"{cursor.position[0]} was deleted while a subscriber still needed it"
                ) from None
            raise
        if block is None:
            return [], b""
        spans = scan_txns(block.payload)
        if limit is not None:
            spans = [span for span in spans if span.lsn <= limit.get(span.origin)]
        return self._from_block(cursor, block, spans, max_bytes)

    def _from_block(
        self, cursor: _FileCursor, block: Block, spans: list[TxnSpan], max_bytes: int
    ) -> tuple[list[TxnSpan], bytes]:
        taken, _, is_used_up = self._take(spans, max_bytes, 0)
        if is_used_up:
            self._reached = self._reached.merge(_end_of(spans))
            cursor.accept(block)
        self._block = None if is_used_up else (block, spans)
        self.block_time = block.time
        return taken, block.payload

    def _switch_to_ring(self) -> None:
        self.close()
        self._number = self._wal._ring.first
        self._position = self._wal._ring.start


def _moved(spans: Sequence[TxnSpan], base: int) -> list[TxnSpan]:
    return [TxnSpan(span.start + base, span.end + base, *span[2:]) for span in spans]


def _end_of(spans: Sequence[TxnSpan]) -> Vclock:
    lsns: dict[InstanceId, Lsn] = {}
    for span in spans:
        lsns[span.origin] = span.lsn
        if span.local_lsn:
            lsns[LOCAL] = span.local_lsn
    return Vclock(lsns)


class _FileCursor:
    """Walks over blocks of the chain. Reads only what was synced before the ring begins."""

    def __init__(self, disk: Disk, files: Sequence[WalFile], offset: int | None = None) -> None:
        self._disk = disk
        self._files = list(files)
        self._offset = offset
        self._data: FileBytes | None = None
        self._salt = 0

    @property
    def position(self) -> Position:
        return self._files[0].path, self._offset or 0

    def extend(self, files: Sequence[WalFile]) -> None:
        """New files of the chain."""
        paths = [file.path for file in files]
        if self._files[-1].path in paths:
            self._files.extend(files[paths.index(self._files[-1].path) + 1 :])

    def accept(self, block: Block) -> None:
        """The block was used up: go on behind it."""
        self._offset = block.next_offset

    def next_block(self, stop: Position, reached: Vclock) -> tuple[Block | None, Vclock | None]:
        """(the block here, start of the next file); None: ask again (the file is through, or `stop`)."""
        data = self._open()
        assert self._offset is not None
        while (self._files[0].path, self._offset) != stop:
            block = read_block(data, self._offset, self._salt)
            if block is None:
                data.forget()
                block = read_block(data, self._offset, self._salt)
            if block is None or block.is_end:
                self._next_file(data, block, reached)
                return None, None
            if block.rows:
                return block, self._files[1].vclock if len(self._files) > 1 else None
            self._offset = block.next_offset
        return None, None

    def _open(self) -> FileBytes:
        if self._data is None:
            self._data = FileBytes(self._disk, self._files[0].path, window_bytes=READ_WINDOW_BYTES)
            header, start, _ = decode_header(self._data(HEADER_BYTES_MAX, 0))
            self._salt = header.salt
            if self._offset is None:
                self._offset = start
        return self._data

    def _next_file(self, data: FileBytes, end_marker: Block | None, reached: Vclock) -> None:
        """This file ends here. Rows up to the start of the next one must have been seen (S15)."""
        path, offset = self.position
        if len(self._files) == 1:
            raise Corruption(
                f"{path} ends at offset {offset}, before what was synced", file=path, offset=offset
            )
        following = self._files[1]
        if not reached.covers(following.vclock):
            behind = next(iter(find_blocks(data, data.size, offset, self._salt)), None)
            if end_marker is None or behind is not None:
                raise Corruption(
                    f"{path} is corrupted at offset {offset}: {following.path} starts at "
                    f"{following.vclock}, but it ends at {reached}",
                    file=path,
                    offset=offset,
                )
            raise XlogGap(f"Missing .xlog file between {reached} and {following.vclock}")
        self.close()
        del self._files[0]
        self._offset = None

    def close(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None
