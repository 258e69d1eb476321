"""The tail of the log in memory: the newest synced blocks, as relays send them. Rules [W-46], [A-37], [A-38].

Pure: `wal.py` adds what its thread has written, `wal_reader.py` reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from synchro.ids import InstanceId, Lsn
from synchro.row import GROUP_DEFAULT, PlainTxn, RowType, Txn
from synchro.storage.xlog import BLOCK_HEADER_BYTES, crc32c, padded
from synchro.storage.xlog_file import WrittenBlock
from synchro.storage.xrow import TxnSpan, scan_txns
from synchro.vclock import Vclock

BlockPlace: TypeAlias = tuple[str, int]
"""(path, offset) of a block."""

_WITH_TERM: Final = (RowType.PROMOTE, RowType.DEMOTE)


class TailSpan(NamedTuple):
    """Whole transactions of one origin, no local rows, no PROMOTE or DEMOTE: nearly all there is."""

    origin: InstanceId
    first: Lsn
    """LSN of the first transaction, which is that of its last row, as in `Txn`."""
    last: Lsn


def run_of(txns: Sequence[Txn]) -> TailSpan | None:
    """None: they are no `TailSpan`."""
    origin = txns[0].origin
    for txn in txns:
        if txn.origin != origin:
            return None
        if type(txn) is not PlainTxn:
            rows = txn.rows
            if len(rows) > 1 or rows[0].group_id != GROUP_DEFAULT or rows[0].type in _WITH_TERM:
                return None
    return TailSpan(origin, txns[0].lsn, txns[-1].lsn)


class RingEntry:
    """A synced block. `end_vclock`: set on the last block of a batch. run: all of it, if it is one."""

    __slots__ = ("_crc", "_spans", "end_vclock", "offset", "path", "payload", "run", "time")

    def __init__(self, path: str, offset: int, payload: bytes, time: float, run: TailSpan | None) -> None:
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
    def end(self) -> BlockPlace:
        return self.path, self.offset + padded(BLOCK_HEADER_BYTES + len(self.payload))


def entries_of(blocks: Sequence[WrittenBlock], txns: Sequence[Txn]) -> list[RingEntry]:
    """The blocks that `txns` were written as."""
    if len(blocks) == 1:
        return [RingEntry(*blocks[0], run_of(txns))]
    entries: list[RingEntry] = []
    start = end = 0
    for block in blocks:
        left = len(block.payload)
        while left:
            left -= len(txns[end].data)
            end += 1
        entries.append(RingEntry(*block, run_of(txns[start:end])))
        start = end
    return entries


class Ring:
    """Recent synced blocks, oldest first, in whole batches; entry number = `first` + index.

    G1  it holds every row after `start_vclock`; the block at `start` is its first one, or the next written.
    G2  at most `bytes_max` bytes, or one batch.
    """

    def __init__(self, vclock: Vclock, start: BlockPlace, bytes_max: int) -> None:
        self.entries: deque[RingEntry] = deque()
        self.first = 0
        self.start_vclock = vclock
        self.start = start
        self.bytes = 0
        self._bytes_max = bytes_max

    @property
    def next(self) -> int:
        """Number that the next entry will have."""
        return self.first + len(self.entries)

    def add(self, batch: Sequence[RingEntry], vclock: Vclock) -> None:
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
        """Drop the oldest batch (Ring.G1)."""
        while True:
            entry = self.entries.popleft()
            self.first += 1
            self.bytes -= len(entry.payload)
            if entry.end_vclock is not None:
                self.start_vclock = entry.end_vclock
                break
        self.start = (self.entries[0].path, self.entries[0].offset)
