"""All files of an instance give way to new ones that a join brought, and a crash at any step leaves the old
ones or the new ones, whole. Rules [M-35], ADR 46.

The new files are written into directories beside the old ones. Each step is noted in the identity file first:

    ""           nothing of this is on
    wanted       the old files count; what lies beside is half a join, and goes
    replacing    the new files are whole and durable: the old ones are deleted
    moving       none of the old ones is left: the new ones move into their place, the snapshot last

Tuples that no other instance has (`kept_tuples`) lie beside the new files, and move with them (ADR 53).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from synchro.row import Tuple
from synchro.storage.disk import Disk
from synchro.storage.identity import IdentityFile, Rejoin
from synchro.storage.kept_tuples import KEPT_SUFFIX, write_kept
from synchro.storage.xlog import DAMAGED_SUFFIX, INPROGRESS_SUFFIX, SNAP_SUFFIX, XLOG_SUFFIX

SIDE: Final = "rejoin"
"""Name of the directory in `wal.dir`, and in `snapshot.dir`, in which the new files are written."""
DATA_SUFFIXES: Final = (XLOG_SUFFIX, SNAP_SUFFIX, INPROGRESS_SUFFIX, DAMAGED_SUFFIX)
"""Of files that hold rows and tuples, whole or not."""
SALVAGED_SUFFIX: Final = XLOG_SUFFIX + DAMAGED_SUFFIX
"""Of what `salvage` has kept for a person, who deletes it."""


class Replacement:
    """Of one instance, whose directory is locked.

    X1  The old files are whole until the new ones are, durably.
    X2  Whoever starts after a crash goes on with `go_on`, and finds one of the two.
    X3  What `keep` wrote has its place when the old files have gone, and is gone while they count.
    X4  No old file goes while there is no new snapshot. If somebody took the new files away in between, the
        old ones count again, as far as they are there, and the instance is in amnesia.

    Every method may raise `OSError`; the next start goes on then.
    """

    def __init__(self, disk: Disk, file: IdentityFile, *, wal_dir: str, snapshot_dir: str) -> None:
        self._disk = disk
        self._file = file
        self._wal_dir = wal_dir
        self._snapshot_dir = snapshot_dir

    @property
    def wal_dir(self) -> str:
        """Where the new log is written."""
        return posixpath.join(self._wal_dir, SIDE)

    @property
    def snapshot_dir(self) -> str:
        """Where the new snapshot is written."""
        return posixpath.join(self._snapshot_dir, SIDE)

    @property
    def state(self) -> Rejoin:
        return self._file.identity.rejoin

    def want(self, *, is_lossy: bool) -> None:
        """From now on each start tries it. is_lossy: rows that only this instance has may go."""
        self._note(Rejoin.LOSSY if is_lossy else Rejoin.WANTED)

    def give_up(self) -> None:
        """The old files stay."""
        self._clear()
        self._note(Rejoin.NO)

    def begin(self) -> None:
        """Make room for the new files: what a former try left is deleted, but what `keep` wrote."""
        self._clear(but=KEPT_SUFFIX)

    def keep(self, signature: int, tuples: Iterable[tuple[str, Tuple]]) -> tuple[str, int]:
        """Before the first `begin`: write down the tuples that would go with the old files, each with the
        name of its space. signature: of the old data. Returns where they lie afterwards, and how many they
        are."""
        self._clear()
        name, number = f"{signature:020}{KEPT_SUFFIX}", 1
        while self._disk.exists(posixpath.join(self._snapshot_dir, name)):
            number += 1
            name = f"{signature:020}.{number}{KEPT_SUFFIX}"
        count = write_kept(self._disk, posixpath.join(self.snapshot_dir, name), tuples)
        return posixpath.join(self._snapshot_dir, name), count

    def _clear(self, *, but: str = "") -> None:
        """but: the end of names that stay."""
        for directory in dict.fromkeys((self.wal_dir, self.snapshot_dir)):
            self._disk.makedirs(directory)
            for name in self._disk.listdir(directory):
                if not but or not name.endswith(but):
                    self._disk.unlink(posixpath.join(directory, name))
            self._disk.sync_dir(directory)

    def carry_out(self, *, amnesia: bool) -> None:
        """The new files are whole and durable: they take the place of the old ones. amnesia: whether the
        instance may have forgotten something then."""
        self._file.save(replace(self._file.identity, rejoin=Rejoin.REPLACING, amnesia=amnesia))
        self.go_on()

    def go_on(self) -> None:
        """What a crash interrupted, or the rest of `carry_out`."""
        if self.state is Rejoin.REPLACING and not self._has_snapshot(self.snapshot_dir):
            self._take_back()
        if self.state is Rejoin.REPLACING:
            self._file.forget_log()
            for directory in dict.fromkeys((self._wal_dir, self._snapshot_dir)):
                for name in self._disk.listdir(directory):
                    if name.endswith(DATA_SUFFIXES) and not name.endswith(SALVAGED_SUFFIX):
                        self._disk.unlink(posixpath.join(directory, name))
                self._disk.sync_dir(directory)
            self._note(Rejoin.MOVING)
        if self.state is Rejoin.MOVING:
            self._move(self.wal_dir, self._wal_dir, XLOG_SUFFIX)
            self._move(self.snapshot_dir, self._snapshot_dir, KEPT_SUFFIX)
            self._move(self.snapshot_dir, self._snapshot_dir, SNAP_SUFFIX)
            self._note(Rejoin.NO)

    def _take_back(self) -> None:
        """Replacement.X4"""
        self._file.save(replace(self._file.identity, rejoin=Rejoin.WANTED, amnesia=True))
        if not self._has_snapshot(self._snapshot_dir):
            self.begin_anew()

    def begin_anew(self) -> None:
        """No old file is there any more, so nothing takes their place: the instance joins as at its first
        start, and no later start replaces what it gets then. What `keep` wrote has its place."""
        if self.state is not Rejoin.NO:
            self._move(self.snapshot_dir, self._snapshot_dir, KEPT_SUFFIX)
            self.give_up()

    def _has_snapshot(self, directory: str) -> bool:
        return any(name.endswith(SNAP_SUFFIX) for name in self._names(directory) or ())

    def _names(self, directory: str) -> list[str] | None:
        """None: there is no such directory."""
        try:
            return self._disk.listdir(directory)
        except FileNotFoundError:
            return None

    def _move(self, source: str, target: str, suffix: str) -> None:
        names = self._names(source)
        if names is None:
            return
        for name in names:
            if name.endswith(suffix):
                self._disk.rename(posixpath.join(source, name), posixpath.join(target, name))
        # In this order: a file that has two names is moved once more, one that has none is lost.
        self._disk.sync_dir(target)
        self._disk.sync_dir(source)

    def _note(self, state: Rejoin) -> None:
        if self.state is not state:
            self._file.save(replace(self._file.identity, rejoin=state))
