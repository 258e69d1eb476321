"""One prepared transaction of memtx: what it will change, and what its refusal rests on."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from synchro.errors import SynchroError
from synchro.ids import NOBODY, InstanceId, Lsn
from synchro.row import Dml, Tuple
from synchro.storage.ddl import Build, Draft
from synchro.storage.key_def import Key


@dataclass(frozen=True, slots=True)
class Skips:
    """Which operations of a peer are left out (`Prepared.skipped`) where a duplicate key of user data is in
    their way [A-35].

    everywhere: all of them. by_policy: those in spaces that say so, and a change of a tuple that its space
    keeps (ADR 44). at: those at these positions (ADR 19), if they do not fit for whichever of `ROW_MISFITS`.
    """

    everywhere: bool = False
    by_policy: bool = False
    at: Container[int] = ()

    def covers(self, position: int, *, is_policy: bool) -> bool:
        """is_policy: the space of this operation says that it is left out."""
        return self.everywhere or (self.by_policy and is_policy) or position in self.at


NO_SKIPS: Final = Skips()


class Prepared:
    """Made by `Memtx.prepare`; ended by exactly one of `commit` and `rollback`.

    ops: to be logged: update and delete by a secondary key have the primary one (then `raw` is empty: encode
        from the fields) [D-16]; changes of temporary spaces are left out [D-5].
    local: parallel to `ops`: the row belongs to the LOCAL group.
    run: the changes, if they were prepared all at once (`space_changes.put_new`); then `changes` has at most
        the position of a sequence that numbers them.
    results: what each *requested* operation returns [D-16].
    skipped: operations of a peer that were left out: position, operation, why [A-35].
    is_own: it is asked for here; False: another instance logged it.
    is_sync: touches an `is_sync` space with a row that is not local [Q-10].
    origin, lsn: whose it is, 0: our own; of its last row, once that is known.
    growth: bytes that it adds to the memory that is counted.
    let_go: tuples that it takes the place of, if they are so large that it takes time to be rid of them.
    touches_system: has a row of a system space that is not local; the caller decides what that means [D-24].
    is_ddl: changes definitions by logged rows, so it needs the barrier.
    size: approximate bytes in the log and in memory.
    """

    __slots__ = (
        "base",
        "build",
        "changes",
        "draft",
        "growth",
        "is_ddl",
        "is_done",
        "is_own",
        "is_sync",
        "late_growth",
        "let_go",
        "local",
        "lsn",
        "ops",
        "origin",
        "owner",
        "results",
        "run",
        "serial",
        "size",
        "skipped",
        "system",
        "temporary",
        "touches_system",
        "unique_changes",
    )

    def __init__(self, serial: int, *, origin: InstanceId = NOBODY, is_own: bool = True) -> None:
        self.origin = origin
        self.is_own = is_own
        self.lsn = Lsn(0)
        self.ops: Sequence[Dml]
        self.local: Sequence[bool]
        self.results: Sequence[Tuple | None]
        self.is_sync = False
        self.is_ddl = False
        self.touches_system = False
        self.size = 0
        self.skipped: list[Skipped] | None = None
        self.serial = serial
        """Rises from transaction to transaction: who is newer."""
        self.owner: object = None
        """Whoever asked for it leaves a note here; never looked at by memtx."""
        self.is_done = False
        """Committed or rolled back: what an overlay still says about it is void."""
        self.base: Prepared | None = None
        """The newest pending transaction whose changes this one has seen."""
        self.run: PreparedColumns | None = None
        self.changes: list[Change] = []
        self.growth = 0
        self.late_growth = 0
        """What is known of it only when it is committed."""
        self.let_go: list[Tuple] | None = None
        self.unique_changes: list[UniqueChange] | None = None
        self.temporary: list[TemporaryChange] | None = None
        self.system: Sequence[int] = ()
        """Ids of the system spaces it changes."""
        self.draft: Draft | None = None
        self.build: Build | None = None
        """What the draft needs of the tuples that are there."""

    def lets_go(self, values: Iterable[Tuple]) -> None:
        if self.let_go is None:
            self.let_go = []
        self.let_go.extend(values)

    def rest_on(self, other: Prepared) -> None:
        """Remember that something this transaction saw belongs to `other`."""
        if other is not self and (self.base is None or other.serial > self.base.serial):
            self.base = other

    def forget(self) -> None:
        """Let go of what a transaction that has ended refers to. Else a hot key would keep every transaction
        that ever changed it alive, one by one."""
        self.changes = []
        self.run = self.unique_changes = self.temporary = self.base = self.let_go = None


Pending: TypeAlias = tuple[Prepared, Tuple | None]
"""Newest prepared state of one key: who made it; the tuple, None = deleted."""
PendingKey: TypeAlias = tuple[Prepared, Key | None]
"""The same for a unique secondary key: the primary key it leads to, None = free."""


class Holder(Protocol):
    """Where a change lies until it is decided: a space, or all tuples of one that were deleted at once."""

    @property
    def is_system(self) -> bool: ...

    def commit(self, prepared: Prepared, key: Key, new: Tuple | None) -> None: ...

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None, size: int) -> int:
        """size: bytes that the change had added to the memory that is needed. Returns by how much less is
        needed now."""
        ...

    def undo_temporary(self, key: Key, old: Tuple | None, new: Tuple | None) -> int:
        """Take back a change that was visible at once. Returns by how much the memory that is needed is less
        now."""
        ...


class ColumnHolder(Protocol):
    """Where changes lie that were prepared all at once."""

    def commit_new(self, prepared: Prepared, keys: Sequence[Key], values: Sequence[Tuple]) -> None: ...

    def rollback_new(self, prepared: Prepared, keys: Sequence[Key]) -> int: ...


Change: TypeAlias = tuple[Holder, Key, Tuple | None, Pending | None, int]
"""holder, primary key, new tuple, what the overlay said before, bytes that it adds to the memory"""
PreparedColumns: TypeAlias = tuple[ColumnHolder, list[Key], Sequence[Tuple]]
"""holder; primary keys, which were not in the overlay; their new tuples"""
UniqueChange: TypeAlias = tuple[dict[Key, PendingKey], Key, PendingKey | None]
"""overlay, secondary key, what the overlay said before"""
Skipped: TypeAlias = tuple[int, Dml, SynchroError]
TemporaryChange: TypeAlias = tuple[Holder, Key, Tuple | None, Tuple | None]
"""holder, primary key, old tuple, new tuple"""


class PendingRefusal(Exception):
    """The refusal rests on a tuple that is not decided yet, so it must not be told yet.

    error: the refusal, valid if `blocker` commits; else the answer is TransactionConflict.
    blocker: the newest pending transaction it rests on.
    """

    def __init__(self, error: SynchroError, blocker: Prepared) -> None:
        super().__init__(str(error))
        self.error = error
        self.blocker = blocker


class BuildNeeded(Exception):
    """Too many tuples to look at in one go: nothing was prepared. Drive `build` to its end while no tuple
    changes, set `Catalog.built` to it, and prepare the same transaction again."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.build = build
