"""The real disk, and the log on it, with failpoints: how a test makes them slow, full or broken."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final

from synchro.failpoints import REGISTRY, Armed, failpoint_fires, failpoint_in_thread
from synchro.row import PlainTxn, RowType, Txn
from synchro.storage.disk import File, RealDisk
from synchro.storage.journal import Journal
from synchro.storage.xlog import SNAP_SUFFIX
from synchro.storage.xlog_file import XlogFile

Write = Callable[[File, bytes, int], int]
NO_SPACE: Final = "wal.no_space"


class WalDisk(RealDisk):
    """For WAL files. One attribute test a call while nothing is armed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full: bool | None = None
        """Decided for the batch that is written now; None: there is none."""
        self.next_write: Write | None = None
        """Takes the place of the next one; the write after it, such as that of a cut-back, is a plain one."""

    def pwrite(self, file: File, data: bytes, offset: int) -> int:
        failpoint_in_thread("wal.before_write")
        if self.next_write is not None:
            write, self.next_write = self.next_write, None
            return write(file, data, offset)
        if REGISTRY.armed and self._is_full() and offset + len(data) > self.size(file):
            raise _failure(errno.ENOSPC, NO_SPACE)
        return super().pwrite(file, data, offset)

    def _is_full(self) -> bool:
        return REGISTRY.acts_next(NO_SPACE) if self.is_full is None else self.is_full

    def write_all(self, file: File, data: bytes, offset: int) -> int:
        return super().pwrite(file, data, offset)

    def sync(self, file: File) -> None:
        failpoint_in_thread("wal.before_fsync")
        super().sync(file)
        failpoint_in_thread("wal.after_fsync")


class FailingJournal(Journal):
    """Knows which write is that of a batch, and whether it has more than rows of elections or the queue.

    The points at which something goes wrong pass over batches without data: a full disk has a reserve for
    them [L-30], and another failure is the end of the process, which `wal.before_write` can show.
    """

    _fault: Write | None = None

    def append(self, txns: Sequence[Txn], wall_time: float, *, has_control: bool = False) -> None:
        if not REGISTRY.armed:
            super().append(txns, wall_time, has_control=has_control)
            return
        failpoint_in_thread("wal.delay")
        kinds = {txn.rows[0].type for txn in txns if type(txn) is not PlainTxn}
        if RowType.PROMOTE in kinds:
            failpoint_in_thread("raft.promote_delay")
        if kinds & {RowType.CONFIRM, RowType.ROLLBACK}:
            failpoint_in_thread("limbo.worker_delay")
        disk = self._disk
        assert isinstance(disk, WalDisk)
        disk.is_full = REGISTRY.acts_next(NO_SPACE)
        self._fault = _fault_of_batch(disk) if not has_control and _has_data(txns) else None
        try:
            super().append(txns, wall_time, has_control=has_control)
        finally:
            disk.is_full = disk.next_write = self._fault = None
        if RowType.RAFT in kinds:
            failpoint_in_thread("raft.term_persisted_delay")
        failpoint_in_thread("tx.completion_delay")

    def _make_room(self, current: XlogFile, need: int, has_control: bool) -> None:
        """The last thing before the batch itself is written."""
        super()._make_room(current, need, has_control)
        disk = self._disk
        assert isinstance(disk, WalDisk)
        disk.next_write, self._fault = self._fault, None


def _has_data(txns: Sequence[Txn]) -> bool:
    return any(type(txn) is PlainTxn or txn.control is None for txn in txns)


def _fault_of_batch(disk: WalDisk) -> Write | None:
    """What takes the place of its write. Counts one pass of each point."""
    short = failpoint_fires("wal.partial_write")
    late = failpoint_fires("wal.fail_late")
    early = failpoint_fires("wal.fail")
    full = failpoint_fires("wal.no_space")

    def write_part(file: File, data: bytes, offset: int) -> int:
        assert short is not None
        size = len(data) // 2 if short.value < 0 else min(int(short.value), len(data) - 1)
        return disk.write_all(file, data[:size], offset)

    def write_and_fail(file: File, data: bytes, offset: int) -> int:
        assert late is not None
        disk.write_all(file, data, offset)
        raise _failure(_errno(late), "wal.fail_late")

    def fail(file: File, data: bytes, offset: int) -> int:
        assert early is not None
        raise _failure(_errno(early), "wal.fail")

    def refuse(file: File, data: bytes, offset: int) -> int:
        raise _failure(errno.ENOSPC, NO_SPACE)

    for armed, write in ((full, refuse), (early, fail), (late, write_and_fail), (short, write_part)):
        if armed is not None:
            return write
    return None


def _errno(armed: Armed) -> int:
    return int(armed.value) or errno.EIO


def _failure(number: int, name: str) -> OSError:
    return OSError(number, f"{os.strerror(number)} (failpoint {name})")


class SnapshotDisk(RealDisk):
    """For snapshots, those of a bootstrap and of a join too."""

    def rename(self, source: str, target: str) -> None:
        if target.endswith(SNAP_SUFFIX):
            failpoint_in_thread("snapshot.before_rename")
        super().rename(source, target)
