"""Cursors over the log: from its tail in memory if they can, from files else. Rules [W-45], [W-46].

A reader sees rows only after they are synced here (S8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from synchro.errors import Corruption, DiskFailed, XlogGap
from synchro.ids import LOCAL, InstanceId, Lsn
from synchro.storage.disk import Disk, FileBytes
from synchro.storage.journal import Journal, WalFile
from synchro.storage.wal_tail import BlockPlace, Ring, RingEntry, TailSpan
from synchro.storage.xlog import HEADER_BYTES_MAX, Block, crc32c, decode_header, find_blocks, read_block
from synchro.storage.xrow import TxnSpan, scan_txns
from synchro.threads import in_thread
from synchro.vclock import Vclock

READ_WINDOW_BYTES: Final = 1024 * 1024
"""Buffer of a relay that reads from files."""


@dataclass(frozen=True, slots=True)
class SyncedLog:
    """What all readers of a log share. journal: for the names of its files alone. grown: where they wait."""

    disk: Disk
    journal: Journal
    ring: Ring
    grown: trio.lowlevel.ParkingLot


class PlainRows:
    """What `WalReader.next_plain` found: blocks that are one run."""

    __slots__ = ("entries", "run")

    def __init__(self, run: TailSpan, entries: list[RingEntry]) -> None:
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

    def __init__(self, log: SyncedLog, after: Vclock) -> None:
        self._log = log
        self._have = after.as_dict()
        self._reached = after
        self._cursor: _FileCursor | None = None
        self._number: int | None = None
        """Of the next ring entry; None: reads from files."""
        self._done_spans = 0
        self._position: BlockPlace = log.ring.start
        self._plain: PlainRows | None = None
        self._block: tuple[Block, list[TxnSpan]] | None = None
        """From a file, not used up: what is asked for in small pieces is read once."""
        self.block_time = 0.0
        """Wall-clock seconds at which the newest returned block was written here [W-4]."""
        if after.covers(log.ring.start_vclock):
            self._number = log.ring.first
        else:
            self._cursor = _FileCursor(log.disk, log.journal.files_after(after))

    @property
    def is_at_end(self) -> bool:
        """Everything synced so far was returned."""
        return self._number is not None and self._number >= self._log.ring.next

    async def next_run(self, max_bytes: int) -> tuple[list[TxnSpan], bytes]:
        """Transactions as spans of the bytes beside them, at most `max_bytes` unless one is larger.

        Waits for new synced rows at the end. Raises `XlogGap`, `Corruption`, `DiskFailed`.
        """
        while True:
            if self._number is None:
                run = await self._from_files(max_bytes)
            elif self._number < self._log.ring.first:
                self._fall_back()
                continue
            elif self._number < self._log.ring.next:
                run = self._from_ring(max_bytes)
            else:
                await self._log.grown.park()
                continue
            if run[0]:
                return run

    def next_plain(self, max_bytes: int) -> PlainRows | None:
        """The blocks that come next, if they are one `TailSpan` that the subscriber lacks as a whole.

        At most `max_bytes`. None: there is nothing, or `next_run` must look. The same again until `accept`.
        """
        ring, number = self._log.ring, self._number
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
        self._plain = PlainRows(TailSpan(run.origin, run.first, last), entries)
        return self._plain

    def accept(self, rows: PlainRows) -> None:
        """`rows` were sent, or need not be: go on behind them."""
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
        ring = self._log.ring
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
        files = list(self._log.journal.files)
        for at, file in enumerate(files):
            if file.path == path:
                self._cursor = _FileCursor(self._log.disk, files[at:], offset)
                self._number = None
                return
        raise XlogGap(f"{path} was deleted while a subscriber still needed it", path=path)

    async def _from_files(self, max_bytes: int) -> tuple[list[TxnSpan], bytes]:
        cursor = self._cursor
        assert cursor is not None
        stop = self._log.ring.start
        if cursor.position == stop:
            self._switch_to_ring()
            return [], b""
        if self._block is not None:
            await trio.lowlevel.checkpoint()
            return self._from_block(cursor, *self._block, max_bytes)
        cursor.extend(self._log.journal.files)
        try:
            block, limit = await in_thread(cursor.next_block, stop, self._reached)
        except FileNotFoundError as error:
            raise XlogGap(f"{cursor.position[0]} is gone", path=cursor.position[0]) from error
        except OSError as error:
            raise DiskFailed(
                f"{cursor.position[0]}: {error.strerror}", file=cursor.position[0], errno=error.errno
            ) from error
        except Corruption:
            if cursor.position[0] not in {file.path for file in self._log.journal.files}:
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
        self._number = self._log.ring.first
        self._position = self._log.ring.start


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
    def position(self) -> BlockPlace:
        return self._files[0].path, self._offset or 0

    def extend(self, files: Sequence[WalFile]) -> None:
        """New files of the chain."""
        paths = [file.path for file in files]
        if self._files[-1].path in paths:
            self._files.extend(files[paths.index(self._files[-1].path) + 1 :])

    def accept(self, block: Block) -> None:
        """The block was used up: go on behind it."""
        self._offset = block.next_offset

    def next_block(self, stop: BlockPlace, reached: Vclock) -> tuple[Block | None, Vclock | None]:
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
        """Go on with the next file, as this one has ended. Rows up to the start of the next one must have
        been seen (S15)."""
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
