"""One file of the WAL that is being written: blocks, the mark over those that are synced, and room ahead.

Room: a file grows by a zero-filled, synced lead, so that a sync of rows changes no metadata. The last part
of the lead is the reserve, which only control rows may use when the disk is full.

What a failure means is for the `Journal`. Rules [W-7], [W-15], [L-30].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from synchro.config import Limits
from synchro.row import Txn
from synchro.storage.disk import NO_ROOM, Disk, File, write_whole
from synchro.storage.xlog import SECTOR, BlockWriter, XlogReader, padded, split_batch
from synchro.vclock import Vclock


class WrittenBlock(NamedTuple):
    path: str
    offset: int
    payload: bytes
    time: float


class SyncFile(Protocol):
    """Make what was written durable, or raise. always: where nothing is synced for every batch too."""

    def __call__(self, file: File, *, always: bool = False) -> None: ...


class XlogFile:
    """An open file and what is known about its bytes.

    F1  0 < start <= end <= lead_end; blocks lie before `end`, and before `lead_end` a write needs no room.
    F2  synced_number <= number of the last block; raised after a sync only.
        mark_told <= synced_number.
    F3  No block with rows lies behind `end`. An empty one may: a mark whose write was told to have failed for
        want of room, although its bytes are there. Nobody relies on it, and the next block overwrites it.
    """

    __slots__ = (
        "_disk",
        "_limits",
        "_sync",
        "_sync_on",
        "end",
        "file",
        "lead_end",
        "mark_told",
        "path",
        "start",
        "synced_number",
        "vclock",
        "writer",
    )

    def __init__(
        self,
        disk: Disk,
        file: File,
        path: str,
        vclock: Vclock,
        writer: BlockWriter,
        start: int,
        *,
        limits: Limits,
        sync: SyncFile,
        sync_on: bool,
    ) -> None:
        """vclock: its rows come after it. start: of its blocks. sync_on: `sync` without `always` syncs."""
        self._disk = disk
        self._limits = limits
        self._sync = sync
        self._sync_on = sync_on
        self.file = file
        self.path = path
        self.vclock = vclock
        self.writer = writer
        self.start = self.end = self.lead_end = start
        self.synced_number = 0
        self.mark_told = 0
        """Highest mark some block carries."""

    def check(self) -> list[Txn]:
        """Its transactions; what lies on the disk is what this object says (XlogFile.F1 to XlogFile.F3)."""
        assert 0 < self.start <= self.end <= self.lead_end  # XlogFile.F1
        assert self.mark_told <= self.synced_number <= self.writer.number  # XlogFile.F2
        assert self._disk.size(self.file) >= self.lead_end  # XlogFile.F1
        reader = XlogReader(lambda size, at: self._disk.pread(self.file, size, at), self.end, self.path)
        blocks = list(reader.blocks())
        mine = [block for block in blocks if block.next_offset <= self.end]
        assert (reader.header.vclock, reader.start) == (self.vclock, self.start)
        assert (mine[-1].next_offset if mine else self.start) == self.end
        assert (mine[-1].number if mine else 0) == self.writer.number
        assert all(block.mark <= self.mark_told for block in mine)  # XlogFile.F2
        assert not any(block.payload for block in blocks[len(mine) :])  # XlogFile.F3
        return [txn for block in mine for txn in reader.txns(block)]

    # --- blocks

    def encode(self, txns: Sequence[Txn], wall_time: float) -> tuple[list[bytes], list[WrittenBlock]]:
        """The blocks that hold these transactions, and what others will read of them; not written yet."""
        blocks: list[bytes] = []
        written: list[WrittenBlock] = []
        offset = self.end
        writer, mark = self.writer, self.synced_number
        for payload, rows in split_batch(txns, self._limits.wal_block_bytes_max):
            blocks.append(writer.encode(payload, rows=rows, mark=mark, wall_time=wall_time))
            written.append(WrittenBlock(self.path, offset, payload, wall_time))
            offset += len(blocks[-1])
        return blocks, written

    def end_write(self, size: int) -> None:
        """So many bytes of blocks that `encode` made lie at the end: sync them."""
        writer = self.writer
        writer.commit()
        self._sync(self.file)
        self.end += size
        assert self.end <= self.lead_end  # XlogFile.F1
        self.mark_told = self.synced_number
        if self._sync_on:
            self.synced_number = writer.number  # XlogFile.F2: synced a moment ago

    def sync_written(self) -> bool:
        """Sync what no sync has covered yet; False: there is nothing."""
        if self.synced_number == self.writer.number:
            return False
        self._sync(self.file, always=True)
        self.synced_number = self.writer.number  # XlogFile.F2
        return True

    def cut(self, blocks: Sequence[bytes]) -> None:
        """Overwrite the headers of blocks that may lie there with zeros, durably: else a restart could
        resurrect transactions whose callers were told that nothing was written (ADR 8)."""
        offset = self.end
        size = self._disk.size(self.file)
        for block in blocks:
            if offset < size:
                write_whole(self._disk, self.file, bytes(min(SECTOR, size - offset)), offset)
            offset += len(block)
        self._sync(self.file, always=True)

    def write_mark(self, wall_time: float) -> bool:
        """An empty block that says up to where all is synced; False: nothing to say, or no room."""
        if self.mark_told >= self.synced_number:
            return False
        if self.end + SECTOR + self._limits.wal_control_reserve_bytes > self.lead_end:
            return False
        mark = self.synced_number
        block = self.writer.encode(b"", rows=0, mark=mark, wall_time=wall_time)
        try:
            write_whole(self._disk, self.file, block, self.end)
        except OSError as error:
            self.writer.cancel()
            if error.errno not in NO_ROOM:
                raise
            return False  # The next block is written over whatever lies there.
        self.writer.commit()
        self.end += len(block)
        self.mark_told = mark
        return True

    def finish(self, wall_time: float) -> None:
        """Write the end marker, sync, cut the lead off: the other way round a crash could leave a file that
        lost its lead, and says nothing of its end. Everything before was synced with its batch."""
        self.sync_written()  # a mark block, or wal.mode `write`
        mark = self.writer.number
        block = self.writer.encode(b"", rows=0, mark=mark, wall_time=wall_time, is_end=True)
        write_whole(self._disk, self.file, block, self.end)
        self.writer.commit()
        self.end += len(block)
        self._sync(self.file, always=True)
        self._disk.truncate(self.file, self.end)
        self._sync(self.file, always=True)
        self.lead_end = self.end

    def fill(self, tail: Sequence[Txn], wall_time: float) -> None:
        """Copy the tail and prove it: data, sync, then a synced block with the mark over it."""
        if not tail:
            return
        writer = self.writer
        data = b"".join(
            writer.encode(payload, rows=rows, mark=0, wall_time=wall_time)
            for payload, rows in split_batch(tail, self._limits.wal_block_bytes_max)
        )
        write_whole(self._disk, self.file, data, self.end)
        writer.commit()
        self._sync(self.file, always=True)
        self.end += len(data)
        self.synced_number = writer.number
        mark = writer.encode(b"", rows=0, mark=writer.number, wall_time=wall_time)
        write_whole(self._disk, self.file, mark, self.end)
        writer.commit()
        self._sync(self.file, always=True)
        self.end += len(mark)
        self.lead_end = max(self.lead_end, self.end)
        self.mark_told = self.synced_number = writer.number

    # --- room

    def grow(self, target: int) -> OSError | None:
        """Zero-fill up to `target` and sync; the error if there is no room (what lies there stays usable)."""
        try:
            write_whole(self._disk, self.file, bytes(target - self.lead_end), self.lead_end)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return error
        self._sync(self.file)
        self.lead_end = target
        return None

    def make_first_room(self) -> None:
        """The reserve at least: hard state must fit even if the disk is full a moment later."""
        reserve = self._limits.wal_control_reserve_bytes
        if self.lead_end >= self.end + reserve:
            return
        error = self.grow(padded(self.end + reserve + self._limits.wal_lead_bytes))
        if error is not None:
            error = self.grow(padded(self.end + reserve))
        if error is not None:
            raise error
