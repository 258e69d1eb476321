"""What a restarted instance finds on its disk: one snapshot, then the rows after it, in WAL order.

Rules [W-10], [W-11], [W-20..25]; S10, S15. The chain of files is checked as a whole: names, UUID, order,
`PrevVClock`, and that each file but the last holds every row up to the start of the next one. Of files that
are older than the one in which the snapshot lies none is needed (ADR 51).

Where two files overlap the later one wins: it was begun by a restart that copied what the earlier one held
above its synced mark. The earlier file is read up to the start of the later one; equal rows there are
expected, different ones are corruption.

Whether the end is missing cannot be told by what lies there: a recycled file keeps old blocks, and a log
whose last file was removed ends with an end marker. So it is compared with what the identity file says (ADR
14), and rows that were copied from one file to the next must be in both.
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from synchro.errors import Corruption, SynchroError, XlogGap
from synchro.ids import InstanceId, Lsn
from synchro.row import Tuple, Txn
from synchro.storage.disk import Disk, FileBytes
from synchro.storage.journal import JournalStart, WalFile
from synchro.storage.notes import LogNote
from synchro.storage.salvage import set_aside
from synchro.storage.snapshot import SnapshotMeta, SnapshotReader, read_snapshot
from synchro.storage.xlog import (
    DAMAGED_SUFFIX,
    INPROGRESS_SUFFIX,
    SNAP_SUFFIX,
    XLOG_SUFFIX,
    Ending,
    FileHeader,
    XlogReader,
    file_name,
    is_file_name,
)
from synchro.vclock import Vclock

_T = TypeVar("_T")
_Lsns = dict[InstanceId, Lsn]
_Overlap = dict[tuple[InstanceId, Lsn], tuple[bytes, str, int]]
"""Rows of a file that the next one must have too -> bytes, path and offset of the block."""


@contextmanager
def open_xlog(disk: Disk, path: str) -> Iterator[XlogReader]:
    """One WAL file; iterate it for (offset, block, txns). `Corruption` if its header is damaged."""
    data = FileBytes(disk, path)
    try:
        yield XlogReader(data, data.size, path)
    finally:
        data.close()


@dataclass(frozen=True, slots=True)
class TornTail:
    """Where the log ended without an end marker [W-21]; see `Recovered.lost` for what is missing."""

    path: str
    offset: int


@dataclass(slots=True)
class ReadSoFar:
    """How far a recovery is, in bytes of the files that it reads and in rows of the log. One thread counts,
    others may look."""

    snapshot_bytes: int = 0
    snapshot_size: int = 0
    log_bytes: int = 0
    log_size: int = 0
    """With the empty space ahead of the end of the newest file."""
    rows: int = 0


class Recovered:
    """The snapshot and the rows behind it. Use in this order: `meta`, `tuples()`, `batches()`, the rest.

    After `batches` ended: `vclock`, `clean_stop`, `torn_tail`, `lost`, `journal_start`.
    """

    def __init__(
        self,
        disk: Disk,
        snapshot: SnapshotReader,
        chain: _Chain,
        noted: LogNote | None = None,
    ) -> None:
        self.meta: SnapshotMeta = snapshot.meta
        self.snapshot_path = snapshot.path
        self.instance_uuid = snapshot.header.instance_uuid
        self.vclock = snapshot.meta.vclock
        self.clean_stop = not chain.files
        """True: the log has its end marker, or there is no log yet."""
        self.torn_tail: TornTail | None = None
        self.lost: str | None = None
        """What was once synced and is not there any more: the log is not to be trusted (S14). None: all that
        was noted is there. Damage that can be seen in the files themselves is an error instead."""
        self.read = ReadSoFar(snapshot_size=snapshot.size)
        self.journal_start: JournalStart | None = None
        self._disk = disk
        self._snapshot = snapshot
        self.unneeded = chain.unneeded
        """Paths of files of the log that were not looked at, because of `fault`: the snapshot has their
        rows."""
        self.fault = chain.fault
        self._chain = chain.files
        self._first = chain.first or 0
        self._noted = noted
        self._end = 0
        """Of the blocks in the last file."""
        self._read_before = 0
        """Bytes of the files of the log ahead of the one that is read now."""
        self.read.log_size = sum(_size(disk, file.path) for file in self._chain[self._first :])

    @property
    def rows(self) -> int:
        """Rows given out by `batches`."""
        return self.read.rows

    def close(self) -> None:
        """The replay ended before all tuples were read; else it does nothing."""
        self._snapshot.close()

    def tuples(self) -> Iterator[tuple[int, Sequence[Tuple]]]:
        """(space id, some tuples of it), once. Raises `Corruption`."""
        for chunk in self._snapshot.tuples():
            self.read.snapshot_bytes = self._snapshot.offset
            yield chunk
        self.read.snapshot_bytes = self.read.snapshot_size

    def batches(self) -> Iterator[list[Txn]]:
        """Transactions after the snapshot, in order, a block at a time. Raises `Corruption`, `XlogGap`."""
        lsns: _Lsns = self.vclock.as_dict()
        overlap: _Overlap = {}
        files = self._chain[self._first :]
        if not files:
            self.journal_start = JournalStart(vclock=self.vclock)
        followers: tuple[WalFile | None, ...] = (*files[1:], None)
        for file, following in zip(files, followers, strict=False):
            with open_xlog(self._disk, file.path) as reader:
                if following is not None:
                    copied = overlap
                    overlap = {}
                    yield from self._read_closed(reader, following, lsns, copied, overlap)
                else:
                    yield from self._read_last(reader, lsns, overlap)
            self._read_before += reader.size
        self.read.log_bytes = self.read.log_size
        self._compare_with_note()

    def _compare_with_note(self) -> None:
        """A file with one behind it was compared with the start of that one already."""
        noted = self._noted
        if noted is None:
            return
        names = [posixpath.basename(file.path) for file in self._chain]
        if noted.name not in names:
            self.lost = f"{noted.name}, the newest file of the log, is gone"
        elif noted.name == names[-1] and self._end < noted.length:
            self.lost = f"{noted.name} ends at offset {self._end}, but had {noted.length} bytes"

    def _read_closed(
        self,
        reader: XlogReader,
        following: WalFile,
        lsns: _Lsns,
        copied: _Overlap,
        overlap: _Overlap,
    ) -> Iterator[list[Txn]]:
        """A file with one behind it: give out the rows up to the start of that one, keep the others."""
        limit = following.vclock.as_dict()
        seen: _Lsns = reader.header.vclock.as_dict()
        for block in reader.blocks():
            self.read.log_bytes = self._read_before + reader.end
            batch = []
            for txn in reader.txns(block):
                if txn.lsn <= limit.get(txn.origin, 0):
                    self._follow(reader, seen, txn, block.offset)
                    if copied:
                        self._compare(reader, txn, copied, block.offset)
                    if self._is_new(lsns, txn):
                        batch.append(txn)
                else:
                    overlap[txn.origin, txn.lsn] = (txn.data, reader.path, block.offset)
            if batch:
                yield self._count(batch)
        if Vclock(seen) != following.vclock:
            have = Vclock(seen)
            if reader.ending is Ending.TORN:
                raise reader.damage(f"it ends at {have}, but {following.path} starts at {following.vclock}")
            raise _gap(have, following.vclock)
        self._merge(lsns, seen)

    def _read_last(self, reader: XlogReader, lsns: _Lsns, copied: _Overlap) -> Iterator[list[Txn]]:
        seen: _Lsns = reader.header.vclock.as_dict()
        proven: _Lsns = dict(seen)
        tail: deque[tuple[int, list[Txn]]] = deque()
        for block in reader.blocks():
            self.read.log_bytes = self._read_before + reader.end
            while tail and tail[0][0] <= block.mark:
                self._advance(proven, tail.popleft()[1])
            txns = reader.txns(block)
            batch = []
            for txn in txns:
                self._follow(reader, seen, txn, block.offset)
                if copied:
                    self._compare(reader, txn, copied, block.offset)
                if self._is_new(lsns, txn):
                    batch.append(txn)
            tail.append((block.number, txns))
            if batch:
                yield self._count(batch)
        end = Vclock(seen)
        self._end = reader.end
        if not end.covers(self.meta.vclock, with_local=True):
            # The snapshot was made when these rows were on disk, so the end of the log was cut wrongly.
            raise reader.damage(f"it ends at {end}, but {self.snapshot_path} is at {self.meta.vclock}")
        self._merge(lsns, seen)
        self.vclock = Vclock(lsns)
        self.clean_stop = reader.ending is Ending.CLEAN
        if self.clean_stop:
            self._start_at(reader.header, end, (), end)
        else:
            self.torn_tail = TornTail(reader.path, reader.end)
            copies = tuple(t for _, txns in tail for t in txns)
            self._start_at(reader.header, Vclock(proven), copies, end, torn=(reader.path, reader.end))
        if copied:
            self._lacks_copies(reader, copied)

    def _lacks_copies(self, reader: XlogReader, copied: _Overlap) -> None:
        """The copies were synced in this file before it got its name, so its end was lost. Their LSNs are
        given again; so that the old rows do not meet the new ones, the file before is cut there. This one is
        replaced then: the first mark in it lies behind the copies."""
        assert self.journal_start is not None
        _, path, offset = min(copied.values(), key=lambda row: row[2])
        self.lost = f"{reader.path} lacks rows that were copied into it from {path}"
        self.journal_start = replace(self.journal_start, torn=(path, offset))

    def _start_at(
        self,
        last: FileHeader,
        start: Vclock,
        tail: tuple[Txn, ...],
        end: Vclock,
        torn: tuple[str, int] | None = None,
    ) -> None:
        replaces = start == last.vclock  # Same name: the new file takes the place of the last one.
        self.journal_start = JournalStart(
            vclock=start,
            prev_vclock=last.prev_vclock if replaces else last.vclock,
            tail=tail,
            tail_vclock=end,
            files=tuple(self._chain[:-1] if replaces else self._chain),
            torn=None if replaces else torn,
        )

    def _count(self, batch: list[Txn]) -> list[Txn]:
        self.read.rows += sum(txn.row_count for txn in batch)
        return batch

    @staticmethod
    def _follow(reader: XlogReader, seen: _Lsns, txn: Txn, offset: int) -> None:
        """Every row of a file is beyond what the file held before [W-2]."""
        if txn.lsn <= seen.get(txn.origin, 0):
            raise reader.damage(f"LSN {txn.origin}:{txn.lsn} is there twice", offset)
        seen[txn.origin] = txn.lsn
        if txn.row_count > 1:
            seen.update(txn.components())

    @staticmethod
    def _advance(lsns: _Lsns, txns: Sequence[Txn]) -> None:
        for txn in txns:
            lsns.update(txn.components())

    @staticmethod
    def _is_new(lsns: _Lsns, txn: Txn) -> bool:
        """Not covered by the snapshot; moves `lsns` [W-20]."""
        if txn.lsn <= lsns.get(txn.origin, 0):
            return False
        lsns[txn.origin] = txn.lsn
        if txn.row_count > 1:
            for instance, lsn in txn.components():
                lsns[instance] = max(lsn, lsns.get(instance, Lsn(0)))
        return True

    @staticmethod
    def _merge(lsns: _Lsns, seen: _Lsns) -> None:
        for instance, lsn in seen.items():
            lsns[instance] = max(lsn, lsns.get(instance, Lsn(0)))

    @staticmethod
    def _compare(reader: XlogReader, txn: Txn, copied: _Overlap, offset: int) -> None:
        earlier = copied.pop((txn.origin, txn.lsn), None)
        if earlier is not None and earlier[0] != txn.data:
            raise reader.damage(f"row {txn.origin}:{txn.lsn} differs from the one in the file before", offset)


def _size(disk: Disk, path: str) -> int:
    file = disk.open(path)
    try:
        return disk.size(file)
    finally:
        disk.close(file)


def _gap(have: Vclock, need: Vclock) -> XlogGap:
    return XlogGap(
        f"Missing .xlog file between LSN {have.signature} {have} and {need.signature} {need}",
        have=have,
        need=need,
        before=file_name(need),
    )


def delete_inprogress(disk: Disk, directory: str) -> list[str]:
    """Files that were not finished [W-10]; the names that went."""
    gone = [name for name in disk.listdir(directory) if name.endswith(INPROGRESS_SUFFIX)]
    for name in gone:
        disk.unlink(posixpath.join(directory, name))
    if gone:
        disk.sync_dir(directory)
    return gone


def _names(disk: Disk, directory: str, suffix: str) -> list[str]:
    return sorted(name for name in disk.listdir(directory) if is_file_name(name, suffix))


def _check_header(header: FileHeader, kind: str, path: str, name: str, instance_uuid: str | None) -> None:
    """Directory invariants of one file [W-11]."""
    if header.kind != kind:
        raise Corruption(f"{path}: the file type is {header.kind}, not {kind}", file=path, offset=0)
    if int(name.split(".")[0]) != header.vclock.signature:
        raise Corruption(
            f"{path}: the name says {name.split('.')[0]}, the header {header.vclock}", file=path, offset=0
        )
    if instance_uuid is not None and header.instance_uuid != instance_uuid:
        raise Corruption(
            f"{path}: invalid instance UUID: expected {instance_uuid}, the file has {header.instance_uuid}",
            file=path,
            offset=0,
            got=header.instance_uuid,
        )


@dataclass(frozen=True, slots=True)
class _Chain:
    """Files of the log, oldest first, each of which holds what comes before the next one.

    first: position of the one in which the snapshot lies; None: the snapshot is older than all of them.
    unneeded: paths of older files, all of whose rows the snapshot has; they are not in `files`, because of
    `fault`."""

    files: Sequence[WalFile]
    first: int | None = None
    unneeded: tuple[str, ...] = ()
    fault: str | None = None


def _read_header(disk: Disk, path: str, instance_uuid: str | None) -> FileHeader | Corruption:
    """Raises `Corruption` if the file is of another instance."""
    try:
        with open_xlog(disk, path) as reader:
            header = reader.header
        _check_header(header, "XLOG", path, posixpath.basename(path), instance_uuid)
    except Corruption as error:
        if "got" in error.details:
            raise
        return error.with_traceback(None)
    return header


def _fault(before: FileHeader | Corruption, after: FileHeader | Corruption) -> Corruption | XlogGap | None:
    """Why the rows of two files that lie side by side are not all that was written [W-23]."""
    if isinstance(before, Corruption):
        return before
    if isinstance(after, Corruption):
        return after
    return None if after.prev_vclock == before.vclock else _gap(before.vclock, after.vclock)


def _check_order(files: Sequence[tuple[str, FileHeader]]) -> None:
    """Raises `Corruption` [W-11]."""
    for (earlier, before), (path, after) in pairwise(files):
        if before.vclock == after.vclock or not after.vclock.covers(before.vclock, with_local=True):
            raise Corruption(
                f"{path}: {after.vclock} does not follow {before.vclock} of {earlier}", file=path, offset=0
            )


def _read_chain(disk: Disk, wal_dir: str, instance_uuid: str | None, snapshot: Vclock) -> _Chain:
    """Headers of all WAL files, checked against each other [W-11], [W-23]. Raises `Corruption`, `XlogGap`.

    snapshot: what needs no log. A file that is damaged or missing before the one in which it lies takes
    nothing from the instance (ADR 51)."""
    paths = [posixpath.join(wal_dir, name) for name in _names(disk, wal_dir, XLOG_SUFFIX)]
    headers = [_read_header(disk, path, instance_uuid) for path in paths]
    readable = [(p, one) for p, one in zip(paths, headers, strict=True) if isinstance(one, FileHeader)]
    _check_order(readable)
    covered = [path for path, one in readable if snapshot.covers(one.vclock, with_local=True)]
    start = first = paths.index(covered[-1]) if covered else 0
    if headers and isinstance(error := headers[first], Corruption):
        raise error
    for before, after in pairwise(headers[first:]):
        if (fault := _fault(before, after)) is not None:
            raise fault
    fault = None
    while start > 0 and (fault := _fault(headers[start - 1], headers[start])) is None:
        start -= 1
    kept = readable[len(readable) - len(paths[start:]) :]  # all of these can be read
    files = [WalFile(one.vclock, path) for path, one in kept]
    unneeded = tuple(paths[:start])
    return _Chain(files, first - start if covered else None, unneeded, fault.message if fault else None)


def recover(
    disk: Disk,
    snapshot_dir: str,
    wal_dir: str,
    instance_uuid: str | None,
    noted: LogNote | None = None,
    *,
    without: Collection[str] = (),
) -> Recovered | None:
    """None: nothing there, a first start. Raises `Corruption` (file, offset, lsn) or `XlogGap`.

    instance_uuid: own UUID from the identity file; None: do not compare. noted: what that file says of the
    log; None: it says nothing. without: names of snapshots that are not used. Deletes `.inprogress` files.
    """
    for directory in dict.fromkeys((snapshot_dir, wal_dir)):
        disk.makedirs(directory)
        delete_inprogress(disk, directory)
    snapshots = [name for name in _names(disk, snapshot_dir, SNAP_SUFFIX) if name not in without]
    if not snapshots:
        if _names(disk, wal_dir, XLOG_SUFFIX):
            raise Corruption(
                f"{wal_dir} has WAL files but {snapshot_dir} has no snapshot", file=snapshot_dir, offset=0
            )
        return None
    path = posixpath.join(snapshot_dir, snapshots[-1])
    return _behind(disk, path, snapshots[-1], wal_dir, instance_uuid, noted)


def recover_unnamed(disk: Disk, path: str, wal_dir: str, instance_uuid: str) -> Recovered:
    """What `recover` will find when the snapshot `path`, `.inprogress` as yet, has its name. Deletes nothing;
    raises the same."""
    name = posixpath.basename(path).removesuffix(INPROGRESS_SUFFIX)
    return _behind(disk, path, name, wal_dir, instance_uuid, None)


def _behind(
    disk: Disk,
    path: str,
    name: str,
    wal_dir: str,
    instance_uuid: str | None,
    noted: LogNote | None,
) -> Recovered:
    """The snapshot `path`, which has or gets `name`, and the log behind it."""
    snapshot = read_snapshot(disk, path)
    try:
        _check_header(snapshot.header, "SNAP", path, name, instance_uuid)
        vclock = snapshot.meta.vclock
        chain = _read_chain(disk, wal_dir, instance_uuid, vclock)
        if chain.first is None and chain.files:
            raise _gap(vclock, chain.files[0].vclock)
    except SynchroError:
        snapshot.close()
        raise
    return Recovered(disk, snapshot, chain, noted)


def recover_with_any(
    disk: Disk,
    snapshot_dir: str,
    wal_dir: str,
    instance_uuid: str | None,
    noted: LogNote | None,
    replay: Callable[[Recovered], _T],
) -> tuple[Recovered, _T, list[Corruption]] | None:
    """As `recover`, with an older snapshot where the newest is damaged and the log behind the older one is
    whole.

    replay: reads all of what it is given, and is called again from the start with the next one. Damaged files
    are renamed when something took their place, so that they count no more; the errors about them come back.
    So are the files of the log that are `Recovered.unneeded`, which then has their new paths.
    Else the `Corruption` names the file and the next step, and nothing was changed.
    """
    damaged: dict[str, Corruption] = {}
    while True:
        try:
            found = recover(disk, snapshot_dir, wal_dir, instance_uuid, noted, without=damaged)
            if found is None:
                if damaged:
                    raise _no_stand_in(damaged, "there is no older one")
                return None
            try:
                result = replay(found)
            finally:
                found.close()
            newest = max((int(name.split(".")[0]) for name in damaged), default=0)
            if found.vclock.signature < newest:
                raise _no_stand_in(damaged, f"the log ends at {found.vclock}, before it")
            break
        except (Corruption, XlogGap) as error:
            directory, name = posixpath.split(str(error.details.get("file", "")))
            is_snapshot = directory == snapshot_dir and is_file_name(name, SNAP_SUFFIX)
            is_ours = "got" not in error.details  # else somebody mixed up directories
            if is_snapshot and is_ours and name not in damaged and isinstance(error, Corruption):
                damaged[name] = error.with_traceback(None)  # which holds what was read so far
            elif "damaged" in error.details or not is_ours:
                raise
            elif damaged:
                raise _no_stand_in(damaged, error.message) from error
            else:
                is_of_log = isinstance(error, XlogGap) or is_file_name(name, XLOG_SUFFIX)
                text = f"{error.message}; nothing was changed. {_NEXT}{_NEXT_OF_LOG if is_of_log else ''}"
                raise type(error)(text, **error.details) from error
    for name in damaged:
        path = posixpath.join(snapshot_dir, name)
        disk.rename(path, path + DAMAGED_SUFFIX)
    if damaged:
        disk.sync_dir(snapshot_dir)
    found.unneeded = set_aside(disk, found.unneeded)
    return found, result, list(damaged.values())


_NEXT = (
    "Next: restore the file from a copy; or, in a set whose other members have the data, start the instance "
    "with --rejoin, which replaces its files by those of another member"
)
_NEXT_OF_LOG = (
    "; or start it with --force-recovery, by which its log ends there: what lies behind is kept beside it"
)


def _no_stand_in(damaged: dict[str, Corruption], why: str) -> Corruption:
    first = next(iter(damaged.values()))
    return Corruption(
        f"{first.message}; an older snapshot cannot take its place: {why}; nothing was changed. {_NEXT}",
        file=first.details["file"],
        offset=first.details["offset"],
        damaged=sorted(damaged),
    )
