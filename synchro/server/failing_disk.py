"""The real disk with failpoints at its edges: how a test makes it slow, full or broken."""

from __future__ import annotations

from synchro.failpoints import failpoint_in_thread
from synchro.storage.disk import File, RealDisk
from synchro.storage.xlog import SNAP_SUFFIX


class WalDisk(RealDisk):
    """For WAL files. One attribute test a call while nothing is armed."""

    def pwrite(self, file: File, data: bytes, offset: int) -> int:
        failpoint_in_thread("wal.before_write")
        return super().pwrite(file, data, offset)

    def sync(self, file: File) -> None:
        failpoint_in_thread("wal.before_fsync")
        super().sync(file)
        failpoint_in_thread("wal.after_fsync")


class SnapshotDisk(RealDisk):
    """For snapshots, those of a bootstrap and of a join too."""

    def rename(self, source: str, target: str) -> None:
        if target.endswith(SNAP_SUFFIX):
            failpoint_in_thread("snapshot.before_rename")
        super().rename(source, target)
