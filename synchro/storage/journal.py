"""The WAL being written: one file at a time, one write and one sync per batch.

Rules [W-8], [W-10], [W-12], [W-15], [W-17], [W-40].

Knows no trio and no threads: `wal.py` calls it in its thread, the simulator directly.

Failures: ENOSPC, EDQUOT, EFBIG and a short write are cut back (`WalIo`, nothing was written); every other
error, and each failed sync, is `DiskFailed`: the process must leave [L-30]. A sync is never repeated.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import ENOSPC
from itertools import pairwise
from os import strerror
from typing import Final, TypeVar

from synchro.config import Limits
from synchro.errors import DiskFailed, WalIo, XlogGap
from synchro.row import Txn
from synchro.storage.disk import NO_ROOM, Disk, File, FileBytes, write_whole
from synchro.storage.notes import LogNotes, NoteKeeper
from synchro.storage.xlog import (
    INPROGRESS_SUFFIX,
    SECTOR,
    XLOG_SUFFIX,
    BlockWriter,
    FileHeader,
    XlogReader,
    decode_header,
    encode_header,
    file_name,
    find_blocks,
    padded,
)
from synchro.storage.xlog_file import WrittenBlock, XlogFile
from synchro.vclock import EMPTY_VCLOCK, Vclock

_T = TypeVar("_T")

ROTATION_RETRY_S: Final = 1.0
"""After a rotation that was refused, appends go on in the old file for so long before the next attempt."""
SPARE_NAME: Final = "spare" + XLOG_SUFFIX + INPROGRESS_SUFFIX
"""A file that is no longer needed, kept for its blocks; deleted at start like all `.inprogress` [W-10]."""


@dataclass(frozen=True, slots=True)
class WalFile:
    """A file of the chain: rows after `vclock`."""

    vclock: Vclock
    path: str


@dataclass(frozen=True, slots=True)
class JournalStart:
    """Where a new journal begins; made by `recovery`, or with defaults for a new instance.

    vclock: the new file starts after it. tail: transactions of the last file above its last mark: they may
    be page cache only, so they are copied to the new file and synced before anything is acked (S8).
    files: the chain so far, oldest first, without a file that the new one replaces (equal start).
    torn: path and offset where the last file was cut: a block that lies there may still be whole on the disk
    and torn in the page cache only, so the cut is made durable before its LSNs are given again (S10).
    """

    vclock: Vclock = EMPTY_VCLOCK
    prev_vclock: Vclock | None = None
    tail: tuple[Txn, ...] = ()
    tail_vclock: Vclock | None = None
    """End of the tail; None: `vclock`."""
    files: tuple[WalFile, ...] = ()
    torn: tuple[str, int] | None = None


def advance(vclock: Vclock, txns: Sequence[Txn]) -> Vclock:
    """`vclock` after these transactions."""
    lsns = vclock.as_dict()
    for txn in txns:
        lsns[txn.origin] = txn.lsn
        if txn.row_count > 1:
            lsns.update(txn.components())
    return Vclock(lsns)


class Journal:
    """Appends batches; rotates, recycles and deletes files.

    J1  `vclock` covers exactly what is written and, unless `sync=False`, synced [W-14].
    J2  a file of an earlier process is never written to, except to make its cut durable.
    J3  after `DiskFailed` the object refuses everything.
    J4  what the identity file says of the log is synced, and the file that it names is there (ADR 14): it is
        named before the first row in it is acknowledged, and renamed before it goes. A note that has no room
        is left out, and then the file that is named stays.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        *,
        instance_uuid: str,
        new_salt: Callable[[], int],
        start: JournalStart | None = None,
        limits: Limits | None = None,
        sync: bool = True,
        wall_time: float = 0.0,
        identity: NoteKeeper | None = None,
    ) -> None:
        """Makes the first file at once: copies the tail, syncs, renames, syncs the directory.

        new_salt: gives 64 random bits; the simulator gives its own. sync=False: `wal.mode: write`.
        identity: where it is noted what the log has; None: nowhere.
        """
        start = start or JournalStart()
        self.directory = directory
        self._disk = disk
        self._uuid = instance_uuid
        self._limits = limits or Limits()
        self._sync_on = sync
        self._notes = LogNotes(identity, directory)
        self._new_salt = new_salt
        self._broken = False
        self._files = list(start.files)
        self._spare: str | None = None
        self._recovery_point: Vclock | None = None
        self.last_blocks: list[WrittenBlock] = []
        """Blocks of the last batch, for the ring of the relays."""
        self.syncs = 0
        self.rotations = 0
        self.gaps_made = 0
        """Times that files were deleted although a subscriber may still need them [W-17]."""
        self.rotation_refused: OSError | None = None
        """Why the last rotation did not happen; None: it did."""
        self._rotate_after = 0.0
        self.vclock = start.vclock
        if start.torn is not None:
            path, offset = start.torn
            self._guarded(lambda: self._seal(path, offset))
        self._current = self._guarded(
            lambda: self._create(start.vclock, start.prev_vclock, start.tail, wall_time)
        )
        self.vclock = start.tail_vclock or advance(start.vclock, start.tail)

    def _seal(self, path: str, offset: int) -> None:
        """Overwrite the headers of the blocks from `offset` on with zeros, the first one last: while one
        behind it says that it was synced, a file without it is damaged."""
        data = FileBytes(self._disk, path)
        try:
            salt = XlogReader(data, data.size, path).header.salt
            behind = [block.offset for block in find_blocks(data, data.size, offset + SECTOR, salt)]
        finally:
            data.close()
        file = self._disk.open(path)
        try:
            size = self._disk.size(file)
            for at in behind:
                write_whole(self._disk, file, bytes(min(SECTOR, size - at)), at)
            if behind:
                self._sync(file, always=True)
            if offset < size:
                write_whole(self._disk, file, bytes(min(SECTOR, size - offset)), offset)
                self._sync(file, always=True)
        finally:
            self._disk.close(file)

    # --- what others may ask ------------------------------------------------------------------------

    @property
    def files(self) -> tuple[WalFile, ...]:
        """The chain, oldest first; the last one is being written."""
        return (*self._files, WalFile(self._current.vclock, self._current.path))

    @property
    def position(self) -> tuple[str, int]:
        """(path, offset) behind the last written block."""
        return self._current.path, self._current.end

    def files_after(self, vclock: Vclock) -> list[WalFile]:
        """Files with the rows after a peer's `vclock` (component 0 ignored); `XlogGap` if gone [W-45]."""
        files = self.files
        for at in range(len(files) - 1, -1, -1):
            if vclock.covers(files[at].vclock):
                return list(files[at:])
        raise XlogGap(
            f"Missing .xlog file between LSN {vclock.signature} {vclock} and "
            f"{files[0].vclock.signature} {files[0].vclock}",
            have=vclock,
            oldest=files[0].vclock,
        )

    # --- appending -----------------------------------------------------------------------------------

    def append(self, txns: Sequence[Txn], wall_time: float, *, has_control: bool = False) -> None:
        """Write and sync in this order. Raises `WalIo` (nothing was written) or `DiskFailed`.

        has_control: may use the reserve [L-30].
        """
        self._guarded(lambda: self._append(txns, wall_time, has_control))

    def sync(self) -> Vclock:
        """Make durable what is written, where batches are not synced [W-48]. Returns `vclock`. Raises
        `DiskFailed`."""
        self._guarded(self._sync_written)
        return self.vclock

    def write_note(self) -> bool:
        """Say in the identity file how much of the log is synced now; from any thread, beside `append`.

        False: it has no room, what it said before is still so. Raises `DiskFailed`."""
        try:
            return self._notes.write()
        except OSError as error:
            raise DiskFailed(
                f"{self.directory}: what the log has could not be noted: {error.strerror or error}",
                file=self.directory,
                errno=error.errno,
            ) from error

    def write_mark(self, wall_time: float) -> bool:
        """Note, unsynced, up to where the file is known to be synced; False: nothing to say, or no room."""
        return self._guarded(lambda: self._current.write_mark(wall_time))

    def close_clean(self, wall_time: float) -> None:
        """End marker; the next start finds everything proven. The journal is closed then."""
        self._guarded(lambda: self._current.finish(wall_time))
        self._notes.has_synced(self._current.path, self._current.end)
        self._guarded(self._notes.write)
        self._disk.close(self._current.file)
        self._broken = True

    def close_files(self) -> None:
        """Give the file handle back without a word on disk (a crash, or after `DiskFailed`)."""
        self._broken = True
        self._disk.close(self._current.file)

    def rotate(self, wall_time: float) -> bool:
        """Go on in a new file if this one has rows: before a checkpoint [W-12]. False: no need or no room."""
        return self._guarded(lambda: self._rotate(wall_time))

    def collect_garbage(self, keep_from: Vclock, recovery_point: Vclock | None = None) -> int:
        """Drop files entirely below `keep_from` (component 0 included) [W-40]; the first is kept as a spare.

        recovery_point: vclock of the oldest kept checkpoint. When the disk is full, files below it go
        too, even if a subscriber still needs them [W-17]. Returns how many files went.
        """
        if recovery_point is not None:
            self._recovery_point = recovery_point
        return self._guarded(lambda: self._drop_below(keep_from, recycle=True))

    def check(self) -> None:
        """Journal.J1..J4, from what lies on the disk. Nothing may be on its way."""
        if self._broken:
            return  # Journal.J3: what is there is not known any more
        current = self._current
        starts = [file.vclock for file in self.files]
        for before, after in pairwise(starts):
            assert after.covers(before, with_local=True) and after != before  # Journal.J2: no two of one name
        for file in self._files:
            assert self._disk.exists(file.path)
        assert advance(current.vclock, current.check()) == self.vclock  # Journal.J1
        self._notes.check(self._disk)  # Journal.J4

    # --- below: called under `_guarded` -----------------------------------------------------------------

    def _guarded(self, action: Callable[[], _T]) -> _T:
        if self._broken:
            raise DiskFailed("the journal is closed", file=self.directory)
        try:
            return action()
        except WalIo:
            raise
        except OSError as error:
            self._broken = True  # Journal.J3
            current = getattr(self, "_current", None)
            path = current.path if current is not None else self.directory
            offset = current.end if current is not None else 0
            raise DiskFailed(
                f"{path}: {error.strerror or error} at offset {offset}; "
                "the outcome of what was on its way is unknown",
                file=path,
                offset=offset,
                errno=error.errno,
            ) from error
        except BaseException:
            self._broken = True
            raise

    def _sync(self, file: File, *, always: bool = False) -> None:
        if self._sync_on or always:
            self.syncs += 1
            try:
                self._disk.sync(file)
            except OSError as error:
                # Also ENOSPC: after a failed sync nothing is known about any page, so it is not "no room".
                self._broken = True
                raise _SyncFailed(error.errno, f"sync failed: {error.strerror}") from error

    def _sync_written(self) -> None:
        if not self._sync_on:
            self._current.sync_written()

    def _append(self, txns: Sequence[Txn], wall_time: float, has_control: bool) -> None:
        is_too_soon = 0 < self._rotate_after - wall_time <= ROTATION_RETRY_S
        if self._current.end >= self._limits.wal_max_size and not is_too_soon:
            self._rotate(wall_time)
        current = self._current
        writer = current.writer
        blocks, written = current.encode(txns, wall_time)
        if not blocks:
            return
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        try:
            self._make_room(current, len(data), has_control)
        except BaseException:
            writer.cancel()
            raise
        try:
            write_whole(self._disk, current.file, data, current.end)
        except OSError as error:
            writer.cancel()
            if error.errno not in NO_ROOM:
                raise
            current.cut(blocks)
            raise self._no_room(error) from error
        current.end_write(len(data))
        if self._sync_on:
            self._notes.has_synced(current.path, current.end)
        self.vclock = advance(self.vclock, txns)
        self.last_blocks = written

    def _no_room(self, error: OSError | None) -> WalIo:
        number = ENOSPC if error is None or error.errno is None else error.errno
        why = strerror(number)  # a short write says "no room" too, in words of its own
        return WalIo(
            f"Failed to write to disk: {why} ({self._current.path}); nothing was written. "
            "Next: free space there",
            file=self._current.path,
            offset=self._current.end,
            errno=None if error is None else error.errno,
        )

    def _make_room(self, current: XlogFile, need: int, has_control: bool) -> None:
        """See that `need` bytes, and the reserve behind them, lie in the lead; or raise `WalIo`."""
        reserve = self._limits.wal_control_reserve_bytes
        wanted = current.end + need + reserve
        if wanted <= current.lead_end:
            return
        target = padded(wanted + self._limits.wal_lead_bytes)
        error = current.grow(target)
        if error is not None and self._drop_for_room():
            error = current.grow(target)
        if error is not None:
            error = current.grow(padded(wanted))
        if error is not None and not (has_control and current.end + need <= current.lead_end):
            raise self._no_room(error) from error

    def _drop_for_room(self) -> bool:
        """Delete what recovery does not need, although a subscriber may [W-17]. True if something went."""
        gone = 0
        if self._spare is not None:
            with contextlib.suppress(FileNotFoundError):  # somebody made room by hand
                self._disk.unlink(self._spare)
            self._spare, gone = None, 1
        if self._recovery_point is not None:
            files = self._drop_below(self._recovery_point, recycle=False)
            self.gaps_made += files > 0
            gone += files
        return gone > 0

    # --- files ------------------------------------------------------------------------------------------

    def _create(
        self, vclock: Vclock, prev_vclock: Vclock | None, tail: Sequence[Txn], wall_time: float
    ) -> XlogFile:
        """A file that starts at `vclock` and holds `tail`, durable under its final name [W-10]."""
        current = self._prepare(vclock, prev_vclock)
        current.fill(tail, wall_time)
        self._publish(current)
        return current

    def _prepare(self, vclock: Vclock, prev_vclock: Vclock | None) -> XlogFile:
        """New header and lead under a `.inprogress` name, synced; `OSError` NO_ROOM leaves nothing behind."""
        path = posixpath.join(self.directory, file_name(vclock))
        assert all(file.path != path for file in self._files)  # Journal.J2
        inprogress = path + INPROGRESS_SUFFIX
        header = encode_header(FileHeader("XLOG", self._uuid, vclock, prev_vclock, salt=self._new_salt()))
        parsed, start, crc = decode_header(header)
        spare = self._spare
        try:
            file = self._disk.create(inprogress) if spare is None else self._disk.open(spare)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                self._spare = None  # somebody removed it: the next attempt makes a new file
            raise _NotOpened(error.errno, error.strerror, error.filename) from error
        self._spare = None
        try:
            write_whole(self._disk, file, header, 0)
            lead_end = start
            if spare is not None:
                lead_end = self._disk.size(file) // SECTOR * SECTOR
                if lead_end < start + self._limits.wal_control_reserve_bytes:
                    lead_end = start
            self._sync(file, always=True)  # A name without a header is damage, in `wal.mode: write` too.
            current = XlogFile(
                self._disk,
                file,
                path,
                vclock,
                BlockWriter(parsed.salt, crc),
                start,
                limits=self._limits,
                sync=self._sync,
                sync_on=self._sync_on,
            )
            current.lead_end = max(lead_end, start)
            current.make_first_room()
        except OSError:
            self._disk.close(file)
            self._disk.unlink(inprogress if spare is None else spare)
            raise
        if spare is not None:
            self._disk.rename(spare, inprogress)
        return current

    def _publish(self, current: XlogFile) -> None:
        self._notes.replaces(current.path, current.end)
        self._disk.rename(current.path + INPROGRESS_SUFFIX, current.path)
        self._disk.sync_dir(self.directory)
        self._notes.has_synced(current.path, current.end)
        self._notes.write()

    def _rotate(self, wall_time: float) -> bool:
        old = self._current
        if old.vclock == self.vclock:
            return False
        assert self.vclock.covers(old.vclock, with_local=True)  # Journal.J1
        try:
            new = self._prepare(self.vclock, old.vclock)
        except _SyncFailed:
            raise
        except OSError as error:
            if error.errno not in NO_ROOM and not isinstance(error, _NotOpened):
                raise
            # Go on in the old file, which has no end marker yet; rotation is only housekeeping.
            self.rotation_refused = error
            self._rotate_after = wall_time + ROTATION_RETRY_S
            return False
        old.finish(wall_time)
        self._publish(new)
        self._disk.close(old.file)
        self._files.append(WalFile(old.vclock, old.path))
        self._current = new
        self.rotations += 1
        self.rotation_refused = None
        return True

    def _drop_below(self, keep_from: Vclock, *, recycle: bool) -> int:
        files = self.files
        gone = 0
        while gone + 1 < len(files) and keep_from.covers(files[gone + 1].vclock, with_local=True):
            path = files[gone].path
            if path == self._notes.named_path and not self._notes.write():
                break  # Journal.J4
            assert path != self._notes.named_path  # Journal.J4
            with contextlib.suppress(FileNotFoundError):  # somebody removed it: nobody needs it
                self._drop(path, recycle=recycle)
            del self._files[0]
            gone += 1
        return gone

    def _drop(self, path: str, *, recycle: bool) -> None:
        if not recycle or self._spare is not None:
            self._disk.unlink(path)
            return
        spare = posixpath.join(self.directory, SPARE_NAME)
        self._disk.rename(path, spare)
        # Durable before its bytes change: else a crash could leave the old name on a new header.
        self._disk.sync_dir(self.directory)
        self._spare = spare


class _NotOpened(OSError):
    """A new file could not even be opened (descriptors, permissions): nothing of the old one was touched."""


class _SyncFailed(OSError):
    """A sync that failed; never mistaken for a full disk."""
