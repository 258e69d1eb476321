"""Schema changes: rows of `_space`, `_index` and `_truncate` checked when prepared, in force at commit.

A `Draft` holds what the definitions will be after the transaction. It may rest on the tuples of earlier
pending transactions, which commit before it; nothing is prepared behind it until it is decided (the caller
sees to that), so what was checked still holds at commit. Rules [D-1]..[D-8].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from synchro.errors import IllegalParams, NoSuchIndex, NoSuchSpace, SynchroError, TupleFound, Unsupported
from synchro.row import Tuple
from synchro.storage.index import INDEX_ENTRY_BYTES, Index
from synchro.storage.index_build import SpaceView, build_indexes
from synchro.storage.key_def import Key, KeyDef
from synchro.storage.schema import (
    INDEX_COUNT_MAX,
    INDEX_ID,
    SPACE_ID,
    SPACE_ID_MAX,
    TEMPORARY_ID_MIN,
    TRUNCATE_ID,
    USER_ID_MIN,
    ConflictPolicy,
    IndexDef,
    IndexType,
    SpaceDef,
    SpaceKind,
    defines_sequences,
    is_system,
)
from synchro.storage.stamp_clock import Stamp
from synchro.storage.tuple_format import TupleFormat, show_tuple


class DraftSpace:
    """One space as it will be."""

    __slots__ = ("definition", "floor", "indexes", "truncated")

    def __init__(self, store: SpaceView | None) -> None:
        self.definition: SpaceDef | None = None if store is None else store.definition
        """None: there is no such space"""
        self.indexes: dict[int, IndexDef] = (
            {} if store is None else {n: index.definition for n, index in store.indexes.items()}
        )
        self.truncated = False
        """No tuple stays."""
        self.floor: Stamp | None = None
        """Where the last write wins: no tuple stays that is older than this."""


class Draft:
    """Definitions after the DDL of one transaction. Reads the stores, changes nothing."""

    def __init__(self, stores: Mapping[int, SpaceView]) -> None:
        self._stores = stores
        self.changes_sequences = False
        """Or what they are tied to: `Sequences.check` looks at the whole."""
        self.spaces: dict[int, DraftSpace] = {}
        """Only those that the transaction touches."""

    def change(self, space_id: int, old: Tuple | None, new: Tuple | None, stamp: Stamp) -> None:
        """Take one changed tuple of a DDL space. Raises what makes it impossible. stamp: of a truncate."""
        row = new if new is not None else old
        if row is None:
            return
        if defines_sequences(space_id):
            self.changes_sequences = True
            return
        if is_system(row[0]) and space_id != TRUNCATE_ID:
            raise Unsupported(f"Space #{row[0]} does not support changes: it is a system space")
        if space_id == SPACE_ID:
            self._change_space(row[0], new)
        elif space_id == INDEX_ID:
            self._change_index(row[0], row[1], new)
        elif new is not None:
            self._truncate(row[0], stamp)

    def _space(self, space_id: int) -> DraftSpace:
        found = self.spaces.get(space_id)
        if found is None:
            found = self.spaces[space_id] = DraftSpace(self._stores.get(space_id))
        return found

    def _change_space(self, space_id: int, new: Tuple | None) -> None:
        space = self._space(space_id)
        before = space.definition
        if new is None:
            if before is not None and space.indexes:
                raise IllegalParams(f"Can't drop space '{before.name}': the space has indexes")
            space.definition = None
            return
        definition = SpaceDef.from_tuple(new)
        verb = "Can't modify" if before is not None else "Failed to create"
        why = _wrong_space(before, definition) or _wrong_policy(definition, space.indexes.values())
        if why:
            raise IllegalParams(f"{verb} space '{definition.name}': {why}")
        space.definition = definition

    def _change_index(self, space_id: int, index_id: int, new: Tuple | None) -> None:
        space = self._space(space_id)
        definition = space.definition
        if definition is None:
            raise NoSuchSpace(f"Space '#{space_id}' does not exist")
        if new is None:
            if index_id == 0 and len(space.indexes) > 1:
                raise IllegalParams(
                    f"Can't drop primary key in space '{definition.name}' while secondary keys exist"
                )
            space.indexes.pop(index_id, None)
            return
        index = IndexDef.from_tuple(new)
        if index_id != 0 and 0 not in space.indexes:
            raise NoSuchIndex(f"No index #0 is defined in space '{definition.name}'")
        before = space.indexes.get(index_id)
        space.indexes[index_id] = index
        why = _wrong_index(index) or _wrong_policy(definition, space.indexes.values())
        if before is not None and before.parts != index.parts and index_id == 0:
            why = why or _wrong_rekeying(definition)
        if why:
            raise IllegalParams(
                f"Can't create or modify index '{index.name}' in space '{definition.name}': {why}"
            )

    def _truncate(self, space_id: int, stamp: Stamp) -> None:
        space = self._space(space_id)
        if space.definition is None:
            raise NoSuchSpace(f"Space '#{space_id}' does not exist")
        if is_system(space_id):
            raise Unsupported(f"Can't truncate a system space, space '{space.definition.name}'")
        if space.definition.conflict is ConflictPolicy.LAST_WRITE_WINS:
            space.floor = stamp
        else:
            space.truncated = True

    def refuse_lost_keys(self) -> None:
        """Raises `IllegalParams` where the last write wins and the primary key goes, and with it all tuples
        and stamps: a row of another master that was written before would come back, on some instances. For
        clients only: logs of older versions have it."""
        for space_id, space in self.spaces.items():
            store, now = self._stores.get(space_id), space.definition
            if store is None or now is None or 0 not in store.indexes:
                continue
            primary, parts = space.indexes.get(0), store.indexes[0].definition.parts
            if primary is not None and primary.parts == parts:
                continue
            if store.definition.conflict is now.conflict is ConflictPolicy.LAST_WRITE_WINS:
                raise IllegalParams(f"Can't drop primary key in space '{now.name}': {_wrong_rekeying(now)}")

    @property
    def begins_policy(self) -> bool:
        """A space gets a policy for conflicts that it had not: members of an older version know of none."""
        for space_id, space in self.spaces.items():
            store = self._stores.get(space_id)
            before = ConflictPolicy.STOP if store is None else store.definition.conflict
            now = ConflictPolicy.STOP if space.definition is None else space.definition.conflict
            if now is not before and now is not ConflictPolicy.STOP:
                return True
        return False

    def growth(self) -> int:
        """Bytes that new indexes over tuples that are there will need."""
        return sum(
            len(store.tuples) * INDEX_ENTRY_BYTES * (len(space.indexes) - len(store.indexes))
            for store, space in self.touched
        )

    @property
    def touched(self) -> Iterator[tuple[SpaceView, DraftSpace]]:
        """Spaces that stay and have tuples that stay."""
        for space_id, space in self.spaces.items():
            store = self._stores.get(space_id)
            if store is not None and space.definition is not None and not space.truncated:
                yield store, space

    @property
    def rows(self) -> int:
        """Tuples that must be looked at, each perhaps more than once."""
        count = 0
        for store, space in self.touched:
            assert space.definition is not None
            known = [index.definition for index in store.indexes.values()]
            form = TupleFormat(space.definition, space.indexes.values())
            is_new = any(index not in known for index in space.indexes.values())
            if is_new or not form.same_checks(store.format):
                count += len(store.tuples)
        return count

    def check_tuples(self) -> None:
        """Refuse definitions that tuples already in the space do not satisfy, pending ones included."""
        for space_id, space in self.spaces.items():
            if space.definition is None:
                continue
            form = TupleFormat(space.definition, space.indexes.values())
            store = self._stores.get(space_id)
            if store is None or space.truncated or 0 not in space.indexes:
                continue
            if not form.same_checks(store.format):
                for value in store.prepared_tuples():
                    form.check(value)
            for number, index in space.indexes.items():
                known = store.indexes.get(number)
                if index.unique and (
                    known is None or not known.definition.unique or known.definition.parts != index.parts
                ):
                    _check_unique(space.definition, index, store.prepared_tuples())


class Build:
    """What a draft needs of the tuples that are there: that they satisfy it, and its new indexes.

    Made in steps, between which no tuple may change. It changes nothing that anybody sees.
    """

    def __init__(self, draft: Draft, serial: int, *, sort: bool) -> None:
        self.serial = serial
        """Of the newest transaction that was prepared before it, successfully or not."""
        self.indexes: dict[int, dict[int, Index]] = {}
        """space id -> what `SpaceStore.alter` takes over"""
        self.error: SynchroError | None = None
        self.is_done = False
        self.is_cancelled = False
        """Nobody waits for it any more."""
        self._wanted = _wanted(draft)
        self._steps = self._run(draft, sort=sort)

    def fits(self, draft: Draft, serial: int) -> bool:
        """Whether it was made for the same, and nothing was prepared since."""
        return self.is_done and self.serial == serial and self._wanted == _wanted(draft)

    def advance(self) -> bool:
        """One step, of about a millisecond. True: it is done."""
        try:
            next(self._steps)
        except StopIteration:
            self.is_done = True
        except SynchroError as error:
            self.error = error
            self.is_done = True
        return self.is_done

    def finish(self) -> None:
        """All steps, and what is wrong with the tuples."""
        while not self.is_done:
            self.advance()
        if self.error is not None:
            raise self.error

    def _run(self, draft: Draft, *, sort: bool) -> Iterator[None]:
        for store, space in draft.touched:
            assert space.definition is not None
            built = yield from build_indexes(store, space.definition, space.indexes, sort=sort)
            self.indexes[store.definition.id] = built


def _wanted(draft: Draft) -> dict[int, tuple[SpaceDef | None, dict[int, IndexDef], bool]]:
    return {
        number: (space.definition, dict(space.indexes), space.truncated)
        for number, space in draft.spaces.items()
    }


def _wrong_space(before: SpaceDef | None, now: SpaceDef) -> str | None:
    """What is wrong with a definition, if anything [D-1], [D-2]."""
    if now.is_local and now.is_sync:
        return "local space can't be synchronous"
    if now.is_temporary and now.is_sync:
        return "temporary space can't be synchronous"
    if now.field_count and now.field_count < len(now.format):
        return "field_count is less than the number of fields in the format"
    if before is None:
        is_temporary = now.kind is SpaceKind.TEMPORARY
        if not USER_ID_MIN <= now.id <= SPACE_ID_MAX:
            return f"space id {now.id} is out of range [{USER_ID_MIN};{SPACE_ID_MAX}]"
        if is_temporary != (now.id >= TEMPORARY_ID_MIN):
            return f"space ids from {TEMPORARY_ID_MIN} on are for spaces of type 'temporary'"
        return None
    if before.is_local != now.is_local:
        return "replication group is immutable"
    if before.kind is not now.kind:
        return "the type of a space is immutable"
    return None


def _wrong_policy(space: SpaceDef, indexes: Iterable[IndexDef]) -> str | None:
    """Why its policy for conflicts cannot be kept, if so (ADR 44)."""
    if space.conflict is ConflictPolicy.STOP:
        return None
    if space.is_sync:
        return f"conflict '{space.conflict}' is for asynchronous spaces: a synchronous one has no conflicts"
    if space.is_local or space.is_temporary:
        return f"conflict '{space.conflict}' is for replicated spaces: no peer sends rows of this one"
    if space.conflict is not ConflictPolicy.LAST_WRITE_WINS:
        return None
    index = next((index for index in indexes if index.id and index.unique), None)
    if index is None:
        return None
    return (
        f"conflict 'last_write_wins' is for spaces without unique secondary indexes, and '{index.name}' is "
        "one: instances that get its keys in different order would not become equal"
    )


def _wrong_rekeying(space: SpaceDef) -> str | None:
    """Who wrote which key, and when, is known by the keys that there are."""
    if space.conflict is not ConflictPolicy.LAST_WRITE_WINS:
        return None
    return "conflict 'last_write_wins' keeps the primary key as it is; set it to 'stop' first"


def _wrong_index(index: IndexDef) -> str | None:
    """[D-8]"""
    is_nullable = any(part.is_nullable for part in index.parts)
    if index.id >= INDEX_COUNT_MAX:
        return f"index id {index.id} is over the limit of {INDEX_COUNT_MAX}"
    if index.id == 0 and not index.unique:
        return "primary key must be unique"
    if index.id == 0 and is_nullable:
        return "primary key cannot be nullable"
    if index.type is IndexType.HASH and not index.unique:
        return "HASH index must be unique"
    if index.type is IndexType.HASH and is_nullable:
        return "HASH does not support nullable parts"
    return None


def _check_unique(space: SpaceDef, index: IndexDef, values: Iterable[Tuple]) -> None:
    key_def = KeyDef(index.parts)
    seen: dict[Key, Tuple] = {}
    for value in values:
        key = key_def.of(value)
        if key_def.has_null(key):
            continue
        other = seen.setdefault(key, value)
        if other is not value:
            shown_old, shown_new = show_tuple(other), show_tuple(value)
            raise TupleFound(
                f'Duplicate key exists in unique index "{index.name}" in space "{space.name}" '
                f"with old tuple - {shown_old} and new tuple - {shown_new}",
                space=space.name,
                index=index.name,
                old_tuple=shown_old,
                new_tuple=shown_new,
            )
