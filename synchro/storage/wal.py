"""The WAL task: takes everything pending, one worker-thread call and one sync per batch; readers for relays.

Natural batching: while one batch is on its way the next one gathers, so no timer delays a row. Relays see
rows only after they are synced here (decision 1 of the architecture). Rules [W-14..16], [W-46], [L-30].
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import trio
from trio import TASK_STATUS_IGNORED, TaskStatus

from synchro.config import Limits
from synchro.errors import Corruption, DiskFailed, SynchroError, WalIo, XlogGap
from synchro.ids import LOCAL, InstanceId, Lsn
from synchro.row import Txn
from synchro.storage.disk import Disk, FileBytes
from synchro.storage.journal import Journal, WalFile
from synchro.storage.xlog import BLOCK_HEADER_BYTES as _BLOCK_HEADER_BYTES
from synchro.storage.xlog import (
    HEADER_BYTES_MAX,
    Block,
    decode_header,
    find_blocks,
    padded,
    read_block,
)
from synchro.storage.xrow import TxnSpan, scan_txns
from synchro.vclock import Vclock

MARK_DELAY_S: Final = 0.05
"""Silence after a sync before the synced mark is written on its own."""
READ_WINDOW_BYTES: Final = 1024 * 1024
"""Buffer of a relay that reads from files."""

_T = TypeVar("_T")

Position: TypeAlias = tuple[str, int]
"""(path, offset) of a block."""


@dataclass(slots=True)
class WalStats:
    """Counters for metrics, since the start of the process."""

    batches: int = 0
    txns: int = 0
    bytes: int = 0
    cuts: int = 0
    last_write_s: float = 0.0
    """Duration of the last batch: write and sync."""


class _RingEntry:
    """A synced block. `end_vclock`: set on the last block of a batch."""

    __slots__ = ("_spans", "end_vclock", "offset", "path", "payload", "time")

    def __init__(self, path: str, offset: int, payload: bytes, time: float) -> None:
        self.path = path
        self.offset = offset
        self.payload = payload
        self.time = time
        self.end_vclock: Vclock | None = None
        self._spans: list[TxnSpan] | None = None

    @property
    def spans(self) -> list[TxnSpan]:
        if self._spans is None:
            self._spans = scan_txns(self.payload)  # Once for all relays.
        return self._spans


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
        """Drop the oldest batch (G1)."""
        while True:
            entry = self.entries.popleft()
            self.first += 1
            self.bytes -= len(entry.payload)
            if entry.end_vclock is not None:
                self.start_vclock = entry.end_vclock
                break
        self.start = (self.entries[0].path, self.entries[0].offset)


class Wal:
    """Owns the journal of a running instance.

    A1  callbacks come in the order of `submit`, from the task that runs `run`.
    A2  what `on_written` names is synced, and only that is visible to readers (S8).
    """

    def __init__(
        self,
        disk: Disk,
        journal: Journal,
        *,
        on_written: Callable[[Vclock], None],
        on_cut: Callable[[Vclock, SynchroError], None],
        limits: Limits | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """on_cut: nothing beyond the vclock is on disk, and what was queued behind is dropped too [W-15]."""
        self._disk = disk
        self._journal = journal
        self._limits = limits or Limits()
        self._on_written = on_written
        self._on_cut = on_cut
        self._wall_clock = wall_clock
        self._pending: list[tuple[Sequence[Txn], bool]] = []
        self._queued_bytes = 0
        self._wake = trio.Event()
        self._stopping = False
        self._journal_lock = trio.Lock()
        self._mark_at: float | None = None
        self._grown = trio.lowlevel.ParkingLot()
        self._ring = _Ring(journal.vclock, journal.position, self._limits.relay_ring_bytes)
        self.busy_since: float | None = None
        """trio time at which the batch on its way was given to the disk; None: nothing is on its way."""
        self.stats = WalStats()

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
        self._wake.set()

    def stop(self) -> None:
        """Let `run` write what is queued, leave the end marker, and return."""
        self._stopping = True
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Until `stop` or cancelled. Raises `DiskFailed`: the process must leave (L-30)."""
        task_status.started()
        closed = False
        try:
            while True:
                if self._pending:
                    await self._write_batch()
                elif self._stopping:
                    break
                else:
                    await self._wait_work()
            async with self._journal_lock:
                await self._in_thread(self._journal.close_clean, self._wall_clock())
            closed = True
        finally:
            if not closed:
                self._journal.close_files()
            self._grown.unpark_all()

    async def rotate(self) -> bool:
        """Start a new file if the current one has rows: before a checkpoint [W-12]."""
        async with self._journal_lock:
            return await self._in_thread(self._journal.rotate, self._wall_clock())

    async def collect_garbage(self, keep_from: Vclock, recovery_point: Vclock | None = None) -> int:
        """See `Journal.collect_garbage`; returns the number of files that went."""
        async with self._journal_lock:
            return await self._in_thread(self._journal.collect_garbage, keep_from, recovery_point)

    def reader(self, after: Vclock) -> WalReader:
        """Rows not covered by `after`, in WAL order. Raises `XlogGap` if their files are gone [W-45]."""
        return WalReader(self, after)

    # --- the task -------------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        # Never abandoned: a write that was begun must be answered, or its LSNs would be used twice.
        return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=False)

    async def _wait_work(self) -> None:
        self._wake = trio.Event()
        with trio.move_on_at(self._mark_at if self._mark_at is not None else float("inf")) as waiting:
            await self._wake.wait()
        if waiting.cancelled_caught:
            self._mark_at = None
            async with self._journal_lock:
                await self._in_thread(self._journal.write_mark, self._wall_clock())

    async def _write_batch(self) -> None:
        try:
            self._journal_lock.acquire_nowait()  # `acquire` would let others run first, even if it is free
        except trio.WouldBlock:
            await self._journal_lock.acquire()
        try:
            txns, has_control = self._take_batch()
            size = sum(len(txn.data) for txn in txns)
            self.busy_since = trio.current_time()
            try:
                await self._in_thread(self._append, txns, has_control)
            except WalIo as error:
                self._cut(error, has_control)
                return
            finally:
                self.busy_since = None
        finally:
            self._journal_lock.release()
        self._queued_bytes -= size
        self.stats.batches += 1
        self.stats.txns += len(txns)
        self.stats.bytes += size
        self._mark_at = trio.current_time() + MARK_DELAY_S
        vclock = self._journal.vclock
        self._ring.add([_RingEntry(*block) for block in self._journal.last_blocks], vclock)
        self._on_written(vclock)
        self._grown.unpark_all()

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

    def _cut(self, error: WalIo, has_control: bool) -> None:
        self._pending = []  # Who asked for them hears of the cut, and asks for control rows again.
        self._queued_bytes = 0
        self.stats.cuts += 1
        if has_control:
            raise DiskFailed(
                f"rows of elections or the queue could not be written: {error.message}", **error.details
            ) from error  # [L-30]
        self._on_cut(self._journal.vclock, error)


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
            self._position = (entry.path, entry.offset + padded(_BLOCK_HEADER_BYTES + len(entry.payload)))
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
        taken, _, is_used_up = self._take(spans, max_bytes, 0)
        if is_used_up:
            self._reached = self._reached.merge(_end_of(spans))
            cursor.accept(block)
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
