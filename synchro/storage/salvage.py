"""A log that is damaged, or lacks a file, is cut where that begins, by the word of a person. Rules [W-22],
[W-23], ADR 51. What lies behind is kept beside it, under names that no start reads.

A row behind a hole is not taken: the vclock would say that the rows in the hole are here, so that no peer
would send them again. Nor are snapshots cut, of which the same is true.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from synchro.errors import Corruption, XlogGap
from synchro.storage.disk import Disk, FileBytes, write_whole
from synchro.storage.xlog import DAMAGED_SUFFIX, XLOG_SUFFIX, XlogReader, is_file_name

_T = TypeVar("_T")
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One place where the log was cut. file: that ended there; offset: of its first byte that went. rows:
    whole ones that lie behind it, in `kept_as`."""

    file: str
    offset: int
    why: str
    rows: int
    kept_as: tuple[str, ...]


def recover_by_force(
    attempt: Callable[[], _T], disk: Disk, wal_dir: str, *, before_cut: Callable[[], None]
) -> tuple[_T, list[LeftOut]]:
    """What `attempt` returns, and where the log was cut so that it could. attempt: reads snapshot and log.
    before_cut: called before anything goes. Raises what `attempt` raises where no cut helps.
    """
    cuts: list[LeftOut] = []
    former: tuple[str, int] | None = None
    while True:
        try:
            return attempt(), cuts
        except (Corruption, XlogGap) as error:
            names = sorted(name for name in disk.listdir(wal_dir) if is_file_name(name, XLOG_SUFFIX))
            place = _place(error, wal_dir, names)
            if place is None:
                raise
            if place == former:  # it ends before the snapshot, which has all of it
                place = (names[0], 0)
            former = place
            before_cut()
            cuts.append(_cut(disk, wal_dir, names, *place, why=error.message))


def _place(error: Corruption | XlogGap, wal_dir: str, names: list[str]) -> tuple[str, int] | None:
    """(file, offset) from which on nothing is read; None: this is not about damage of the log."""
    if not names or "damaged" in error.details or "got" in error.details:
        return None
    if isinstance(error, XlogGap):
        first = str(error.details.get("before"))
        return (first, 0) if first in names else None
    directory, name = posixpath.split(str(error.details.get("file", "")))
    return (name, int(error.details["offset"])) if directory == wal_dir and name in names else None


def _cut(disk: Disk, wal_dir: str, names: list[str], name: str, offset: int, *, why: str) -> LeftOut:
    """Copies and new names are durable before the file is cut: a crash leaves a log that is cut again."""
    path = posixpath.join(wal_dir, name)
    behind = [posixpath.join(wal_dir, other) for other in names if other > name]
    kept = [_free_name(disk, one) for one in (path, *behind)]
    for one, target in reversed(list(zip(behind, kept[1:], strict=True))):
        disk.rename(one, target)
    if not offset:
        disk.rename(path, kept[0])
    else:
        _copy(disk, path, kept[0])
    disk.sync_dir(wal_dir)
    if offset:
        file = disk.open(path)
        try:
            disk.truncate(file, offset)
            disk.sync(file)
        finally:
            disk.close(file)
    rows = sum(_rows(disk, one, offset if at == 0 else 0) for at, one in enumerate(kept))
    return LeftOut(path, offset, why, rows, tuple(kept))


def set_aside(disk: Disk, paths: Sequence[str]) -> tuple[str, ...]:
    """Whole files, in one directory, that no start reads any more; their new paths."""
    kept = tuple(_free_name(disk, path) for path in paths)
    for path, target in zip(paths, kept, strict=True):
        disk.rename(path, target)
    if paths:
        disk.sync_dir(posixpath.dirname(paths[0]))
    return kept


def _free_name(disk: Disk, path: str) -> str:
    """What a former cut kept is not overwritten."""
    target, number = path + DAMAGED_SUFFIX, 1
    while disk.exists(target):
        number += 1
        target = f"{path}.{number}{DAMAGED_SUFFIX}"
    return target


def _copy(disk: Disk, source: str, target: str) -> None:
    data, file = FileBytes(disk, source), disk.create(target)
    try:
        for at in range(0, data.size, _COPY_BYTES):
            write_whole(disk, file, data(min(_COPY_BYTES, data.size - at), at), at)
        disk.sync(file)
    finally:
        data.close()
        disk.close(file)


def _rows(disk: Disk, path: str, offset: int) -> int:
    """Rows in whole blocks from there on; 0 if not even the header can be read."""
    data = FileBytes(disk, path)
    try:
        return sum(_rows_behind(XlogReader(data, data.size, path), offset))
    except Corruption:
        return 0
    finally:
        data.close()


def _rows_behind(reader: XlogReader, offset: int) -> Iterator[int]:
    while True:
        try:
            for block in reader.blocks():
                if block.offset >= offset:
                    yield block.rows
        except Corruption:
            pass
        if reader.skip_damage() is None:
            return
