"""Files of the log and snapshots as a person asks for them: rows with the names of their spaces, and where a
file is damaged or not finished. Rules [W-21], [W-22], [W-24], [A-62].

Nothing is changed: a file is opened for reading only, and may be that of an instance that runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from synchro.errors import Corruption, IllegalParams, SynchroError
from synchro.row import Dml, Row, RowType, Tuple, Txn
from synchro.storage.disk import File, FileBytes, RealDisk
from synchro.storage.schema import INDEX_ID, SPACE_ID, SYSTEM_SPACES, is_system
from synchro.storage.snapshot import SnapshotReader
from synchro.storage.xlog import (
    INPROGRESS_SUFFIX,
    SNAP_SUFFIX,
    XLOG_SUFFIX,
    Ending,
    XlogReader,
    is_file_name,
)
from synchro.vclock import EMPTY_VCLOCK, Vclock

_NAME_OF_SPACE, _NAME_OF_INDEX = 2, 2
"""0-based fields of tuples of `_space` and `_index`."""
_RENAMED: Final = (_NAME_OF_SPACE + 1, "name")
"""How an operation of an UPDATE names that field."""

Tell = Callable[[str], None]
"""Takes one line for the person who asked, beside the rows."""


class _ReadOnlyDisk(RealDisk):
    """Of a copy that may not be written to."""

    def open(self, path: str) -> File:
        return File(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


class LoggedRow(NamedTuple):
    """A row, the transaction that it is of, and where and when its block was written."""

    row: Row
    txn: Txn
    offset: int
    time: float


@dataclass(slots=True)
class Names:
    """Names of spaces and indexes, as far as the definitions that were read say them."""

    spaces: dict[int, str] = field(default_factory=lambda: {d.id: d.name for d, _ in SYSTEM_SPACES})
    indexes: dict[tuple[int, int], str] = field(default_factory=dict)

    def learn(self, op: Dml) -> None:
        """From a row of the log. A space that is dropped keeps its name here: rows of it may follow."""
        if op.value is not None:
            self.learn_tuple(op.space_id, op.value)
        elif op.space_id == SPACE_ID and op.type is RowType.UPDATE and op.key:
            for change in op.ops or ():
                if change[0] == "=" and change[1] in _RENAMED and isinstance(op.key[0], int):
                    self.spaces[op.key[0]] = str(change[2])

    def learn_tuple(self, space_id: int, value: Tuple) -> None:
        if space_id == SPACE_ID and len(value) > _NAME_OF_SPACE:
            self.spaces[value[0]] = str(value[_NAME_OF_SPACE])
        elif space_id == INDEX_ID and len(value) > _NAME_OF_INDEX:
            self.indexes[value[0], value[1]] = str(value[_NAME_OF_INDEX])

    def space(self, space_id: int) -> str | int:
        """Its name; its id if nothing says the name."""
        return self.spaces.get(space_id, space_id)

    def index(self, space_id: int, index_id: int) -> str | int:
        return self.indexes.get((space_id, index_id), index_id)


# --- files ----------------------------------------------------------------------------------------------


def is_snapshot(path: str) -> bool:
    """By its name, with what an unfinished or damaged one has behind that."""
    return SNAP_SUFFIX in os.path.basename(path)


def is_unfinished(path: str) -> bool:
    """Whether the file never got its name: nobody relied on it. It may be an older one that is used again."""
    return path.endswith(INPROGRESS_SUFFIX)


def _usage(path: str, error: OSError) -> IllegalParams:
    return IllegalParams(f"cannot read {path}: {error.strerror}")


def _refuse_directory(path: str) -> None:
    if os.path.isdir(path):
        raise IllegalParams(f"{path} is a directory; name its files: {os.path.join(path, '*' + XLOG_SUFFIX)}")


@contextmanager
def open_log(path: str) -> Iterator[XlogReader]:
    """Raises `IllegalParams`, or `Corruption` if it has no whole header."""
    _refuse_directory(path)
    try:
        data = FileBytes(_ReadOnlyDisk(), path)
    except OSError as error:
        raise _usage(path, error) from error
    with closing(data):
        yield XlogReader(data, data.size, path)


@contextmanager
def open_snapshot(path: str) -> Iterator[SnapshotReader]:
    """Raises `IllegalParams`, or `Corruption` if its state cannot be read."""
    _refuse_directory(path)
    try:
        reader = SnapshotReader(_ReadOnlyDisk(), path)
    except OSError as error:
        raise _usage(path, error) from error
    with closing(reader):
        yield reader


def read_log(
    reader: XlogReader, tell: Tell, pass_damage: Callable[[Corruption], None] | None
) -> Iterator[LoggedRow]:
    """The rows of one file. A missing end marker is told.

    pass_damage: is given each damage, and reading goes on at the next valid block; None: the first is raised.
    """
    while True:
        try:
            for offset, block, txns in reader:
                for txn in txns:
                    for row in txn.rows:
                        yield LoggedRow(row, txn, offset, block.time)
        except Corruption as error:
            if pass_damage is None:
                raise
            pass_damage(error)
        else:
            if reader.ending is Ending.CLEAN:
                return
            tell(f"{reader.path}: no end marker at offset {reader.end}: still written to, or it was killed")
        end = reader.end
        if pass_damage is None or (left_out := reader.skip_damage()) is None:
            return
        if left_out[1] > end:
            tell(f"{reader.path}: bytes {end} to {left_out[1]} are left out, with the rows that were there")


class LogChain:
    """Tells of rows that lie between two files of one directory and in none of them."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._directory = ""
        self._reached = EMPTY_VCLOCK

    def begin(self, reader: XlogReader) -> None:
        directory = os.path.dirname(reader.path)
        start = reader.header.vclock
        if directory == self._directory and not self._reached.covers(start):
            self._tell(
                f"{reader.path} starts at {start}, but what was read before it ends at {self._reached}"
            )
        self._directory, self._reached = directory, start

    def pass_row(self, row: Row) -> None:
        if row.lsn > self._reached.get(row.replica_id):
            self._reached = self._reached.replace(row.replica_id, row.lsn)


# --- names ------------------------------------------------------------------------------------------------


def names_before(path: str, tell: Tell) -> Names:
    """What the files beside a file of the log say, from the newest snapshot up to where it starts."""
    names = Names()
    directory, own = os.path.split(path)
    try:
        beside = sorted(os.listdir(directory or "."))
    except OSError:
        return names
    stem = own.partition(".")[0]
    snapshots = [
        name for name in beside if is_file_name(name, SNAP_SUFFIX) and name.partition(".")[0] <= stem
    ]
    first = snapshots[-1].partition(".")[0] if snapshots else ""
    logs = [name for name in beside if is_file_name(name) and first <= name.partition(".")[0] < stem]
    # The file before the snapshot may reach behind it: rows that were undecided at that time (ADR 4).
    older = [name for name in beside if is_file_name(name) and name.partition(".")[0] < first]
    for name in [*snapshots[-1:], *older[-1:], *logs]:
        try:
            _learn_file(names, os.path.join(directory, name))
        except SynchroError as error:
            tell(f"names of spaces may be missing: {error.message}")
    return names


def _learn_file(names: Names, path: str) -> None:
    if is_snapshot(path):
        with open_snapshot(path) as snapshot:
            learn_snapshot(names, snapshot)
        return
    with open_log(path) as reader:
        for _, _, txns in reader:
            for txn in txns:
                for op in txn.ops:
                    names.learn(op)


def learn_snapshot(names: Names, snapshot: SnapshotReader) -> None:
    """Only as far as the definitions reach: they stand in front of all data."""
    for space_id, tuples in snapshot.tuples():
        if not is_system(space_id):
            return
        for value in tuples:
            names.learn_tuple(space_id, value)


# --- what is wanted -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows: those behind `after` and not behind `until`, of one origin, of these spaces.

    until: None: to the end. origin: None: of all. spaces: empty: of all.
    """

    after: Vclock = EMPTY_VCLOCK
    until: Vclock | None = None
    origin: int | None = None
    spaces: Sequence[str] = ()

    def has_row(self, row: Row) -> bool:
        if self.origin is not None and row.replica_id != self.origin:
            return False
        return row.lsn > self.after.get(row.replica_id) and (
            self.until is None or row.lsn <= self.until.get(row.replica_id)
        )

    def has_space(self, names: Names, space_id: int) -> bool:
        return not self.spaces or bool({str(names.space(space_id)), str(space_id)} & set(self.spaces))

    @property
    def is_by_lsn(self) -> bool:
        return bool(self.after) or self.until is not None or self.origin is not None
