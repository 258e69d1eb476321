"""The tuples of one space: committed ones in indexes, prepared ones in overlays above them.

O1  Indexes hold committed tuples only. `pending` (and one more map for each unique secondary index) holds
    the newest prepared state of a key; older states of it hang on the transactions that changed it later.
O2  Writers look in the overlay, then in the index; readers look in the index only.
O3  Transactions that touch the same keys commit in the order in which they were prepared, and are rolled
    back in the reverse order [Q-57].
O4  Changes of temporary spaces skip the overlay: they are visible at once.

All operations of a writer are by full key of a unique index, so overlays need no order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import repeat

import msgpack

from synchro.errors import (
    BatchTooLarge,
    CantUpdatePrimaryKey,
    MoreThanOneTuple,
    NoSuchIndex,
    TupleFound,
)
from synchro.row import Dml, RowType, Tuple
from synchro.storage.index import Index, PrimaryIndex, SecondaryIndex
from synchro.storage.key_def import Key
from synchro.storage.prepared import Pending, PendingKey, Prepared
from synchro.storage.schema import IndexDef, SpaceDef, is_ddl_space, is_system
from synchro.storage.tuple_format import TupleFormat, show_tuple
from synchro.storage.update_ops import apply_ops, apply_upsert_ops, check_ops

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class SpaceStore:
    """One space with its indexes. O1..O4 above."""

    __slots__ = (
        "_of",
        "_plain_field",
        "definition",
        "format",
        "indexes",
        "is_ddl",
        "is_local",
        "is_sync",
        "is_system",
        "is_temporary",
        "pending",
        "primary",
        "secondary",
        "tuples",
        "unique",
    )

    def __init__(self, definition: SpaceDef, indexes: Mapping[int, IndexDef], *, sort: bool = True) -> None:
        self.definition = definition
        self.is_system = is_system(definition.id)
        self.is_ddl = is_ddl_space(definition.id)
        self.primary: PrimaryIndex | None = None
        self._of: Callable[[Tuple], Key] | None = None
        self._plain_field = -1
        self.tuples: dict[Key, Tuple] = {}
        """The committed tuples: those of the primary index."""
        self.indexes: dict[int, Index] = {}
        self.pending: dict[Key, Pending] = {}
        self.secondary: tuple[SecondaryIndex, ...] = ()
        self.unique: tuple[tuple[SecondaryIndex, dict[Key, PendingKey]], ...] = ()
        self.alter(definition, indexes, sort=sort)

    # --- definitions

    def alter(self, definition: SpaceDef, indexes: Mapping[int, IndexDef], *, sort: bool = True) -> None:
        """Take new definitions, which the tuples already satisfy. Only indexes that changed are rebuilt."""
        self.definition = definition
        self.is_local = definition.is_local
        self.is_sync = definition.is_sync
        self.is_temporary = definition.is_temporary
        self.format = TupleFormat(definition, indexes.values())
        known = {number: index.definition for number, index in self.indexes.items()}
        wanted = dict(sorted(indexes.items()))
        if known != wanted:
            assert not self.pending  # the barrier of DDL
            self._rebuild(wanted, sort=sort)
        for index in self.indexes.values():
            index.space = definition

    def _rebuild(self, wanted: Mapping[int, IndexDef], *, sort: bool) -> None:
        built: dict[int, Index] = {}
        primary = self._rebuild_primary(wanted.get(0))
        if primary is not None:
            built[0] = primary
            for number, definition in wanted.items():
                kept = self.indexes.get(number)
                if number == 0:
                    continue
                if (
                    isinstance(kept, SecondaryIndex)
                    and kept.primary is primary
                    and kept.definition == definition
                ):
                    built[number] = kept
                    continue
                index = SecondaryIndex(primary, definition)
                duplicate = index.fill(primary.tuples)
                assert duplicate is None, duplicate  # checked when the change was prepared
                built[number] = index
            if sort:
                for added in built.values():
                    if added.is_tree:
                        added.sort()
        self.primary = primary
        self.indexes = built
        self.tuples = {} if primary is None else primary.tuples
        self._of = None if primary is None else primary.key_def.of
        self._plain_field = -1 if primary is None else primary.key_def.plain_field
        self.secondary = tuple(index for index in built.values() if isinstance(index, SecondaryIndex))
        self.unique = tuple((index, {}) for index in self.secondary if index.definition.unique)

    def _rebuild_primary(self, wanted: IndexDef | None) -> PrimaryIndex | None:
        if wanted is None:
            return None
        if self.primary is not None and self.primary.definition == wanted:
            return self.primary
        primary = PrimaryIndex(self.definition, wanted)
        of = primary.key_def.of
        for value in self.tuples.values():
            primary.tuples[of(value)] = value
        return primary

    def need_primary(self) -> PrimaryIndex:
        """[D-8]: no data operation is possible before there is a primary index."""
        return self.index(0)  # type: ignore[return-value]

    def index(self, index_id: int) -> Index:
        found = self.indexes.get(index_id)
        if found is None:
            raise NoSuchIndex(f"No index #{index_id} is defined in space '{self.definition.name}'")
        return found

    def unsort(self) -> None:
        for index in self.indexes.values():
            index.unsort()

    def sort(self) -> None:
        for index in self.indexes.values():
            if index.is_tree:
                index.sort()

    # --- prepared state

    def prepared_tuples(self) -> Iterator[Tuple]:
        """All tuples as a writer sees them."""
        pending = self.pending
        if not pending:
            yield from self.tuples.values()
            return
        for key, value in self.tuples.items():
            if key not in pending:
                yield value
        for _, changed in list(pending.values()):
            if changed is not None:
                yield changed

    def newest_pending(self) -> Prepared | None:
        return max((found[0] for found in self.pending.values()), key=lambda p: p.serial, default=None)

    # --- operations [D-16]: each returns (old tuple, new tuple)

    def put(self, prepared: Prepared, value: Tuple, *, replace: bool) -> Tuple | None:
        """Insert or replace; returns the old tuple."""
        self.format.check(value)
        if self._plain_field >= 0:
            key = value[self._plain_field]
        elif self._of is not None:
            key = self._of(value)
        else:
            self.need_primary()
        below = self.pending.get(key)
        if below is None:
            old = self.tuples.get(key)
        else:
            old = below[1]
            prepared.rest_on(below[0])
        if old is not None and not replace:
            self._raise_duplicate(self.need_primary(), old, value)
        if self.unique or self.is_temporary:
            self._push(prepared, key, old, value, below)
        else:  # the same as `_push`, spelled out: most writes come here
            self.pending[key] = (prepared, value)
            prepared.changes.append((self, key, value, below))
        return old

    @property
    def takes_columns(self) -> bool:
        """Whether `put_new` may ever say yes: secondary unique indexes want a look at each tuple."""
        return self._of is not None and not self.unique and not self.is_temporary

    def loners(self, values: Sequence[Tuple], *, replace: bool) -> Sequence[int]:
        """Positions of those that stand in the way of `put_new`: refused by the format, or with a key that is
        pending, there (unless it may be replaced), or twice among them."""
        assert self.takes_columns and self._of is not None
        passes, of, pending = self.format.passes, self._of, self.pending
        there: Container[Key] = () if replace else self.tuples
        found: list[Key | None] = [of(value) if passes((value,)) else None for value in values]
        times = Counter(found)
        return [
            at
            for at, key in enumerate(found)
            if key is None or times[key] > 1 or key in pending or key in there
        ]

    def put_new(self, prepared: Prepared, values: Sequence[Tuple], *, replace: bool) -> bool:
        """All of them at once, if no key is pending or twice among them, and none is refused.

        False: nothing has changed; `put` them one by one, which finds the one that is refused.
        """
        if not self.takes_columns or not self.format.passes(values):
            return False
        assert self._of is not None
        keys = list(map(self._of, values))
        pending = self.pending
        if not pending.keys().isdisjoint(keys) or not (replace or self.tuples.keys().isdisjoint(keys)):
            return False
        size = len(pending)
        pending.update(zip(keys, zip(repeat(prepared), values, strict=False), strict=True))
        if len(pending) - size != len(keys):
            for key in keys:
                pending.pop(key, None)
            return False
        prepared.run = (self, keys, values)
        return True

    def update(
        self, prepared: Prepared, op: Dml, *, ops_max: int | None, bytes_max: int | None
    ) -> tuple[Dml, Tuple | None, Tuple | None]:
        """Returns the operation to be logged, the old and the new tuple (both None: no such key) [D-40]."""
        assert op.ops is not None
        check_ops(op.ops, count_max=ops_max)
        found = self._find(prepared, op)
        if found is None:
            return op, None, None
        key, old, below = found
        new = apply_ops(old, op.ops, self.format.names)
        self._check_result(new, bytes_max)
        primary = self.need_primary()
        if primary.key_def.of(new) != key:
            raise CantUpdatePrimaryKey(
                "Attempt to modify a tuple field which is part of primary index "
                f"in space '{self.definition.name}'"
            )
        self._push(prepared, key, old, new, below)
        return self._by_primary_key(op, old), old, new

    def delete(self, prepared: Prepared, op: Dml) -> tuple[Dml, Tuple | None]:
        """Returns the operation to be logged and the old tuple [D-41]."""
        found = self._find(prepared, op)
        if found is None:
            return op, None
        key, old, below = found
        self._push(prepared, key, old, None, below)
        return self._by_primary_key(op, old), old

    def upsert(
        self, prepared: Prepared, op: Dml, *, ops_max: int | None, bytes_max: int | None
    ) -> tuple[Tuple | None, Tuple | None]:
        """Returns the old and the new tuple. A changed primary key leaves all as it was [D-17]."""
        assert op.value is not None and op.ops is not None
        primary = self.need_primary()
        check_ops(op.ops, count_max=ops_max)
        self.format.check(op.value)
        key = primary.key_def.of(op.value)
        below = self.pending.get(key)
        if below is not None:
            prepared.rest_on(below[0])
        old = self.tuples.get(key) if below is None else below[1]
        new = op.value
        if old is not None:
            new = apply_upsert_ops(old, op.ops, self.format.names)
            self._check_result(new, bytes_max)
            if primary.key_def.of(new) != key:
                return old, old
        self._push(prepared, key, old, new, below)
        return old, new

    def clear(self, prepared: Prepared) -> None:
        """Delete every tuple of the prepared state, one by one."""
        of = self.need_primary().key_def.of
        for value in list(self.prepared_tuples()):
            key = of(value)
            self._push(prepared, key, value, None, self.pending.get(key))

    def _find(self, prepared: Prepared, op: Dml) -> tuple[Key, Tuple, Pending | None] | None:
        """Primary key, prepared tuple and its overlay entry, by full key of any unique index."""
        assert op.key is not None
        index = self.need_primary() if op.index_id == 0 else self.index(op.index_id)
        if not index.definition.unique:
            raise MoreThanOneTuple("Update and delete don't support partial keys and non-unique indexes")
        key = index.key_def.exact(op.key)
        if isinstance(index, SecondaryIndex):
            if index.key_def.has_null(key):
                raise MoreThanOneTuple("Update and delete don't support null in a key: it is not unique")
            key = self._primary_key(prepared, index, key)
            if key is None:
                return None
        below = self.pending.get(key)
        if below is None:
            old = self.tuples.get(key)
        else:
            old = below[1]
            prepared.rest_on(below[0])
        return None if old is None else (key, old, below)

    def _primary_key(self, prepared: Prepared, index: SecondaryIndex, key: Key) -> Key | None:
        """Primary key that a unique secondary key leads to in the prepared state."""
        for unique, pending in self.unique:
            if unique is index:
                found = pending.get(key)
                if found is not None:
                    prepared.rest_on(found[0])
                    return found[1]
        return index.primary_keys.get(key)

    def _by_primary_key(self, op: Dml, old: Tuple) -> Dml:
        if op.index_id == 0:
            return op
        key = self.need_primary().key_def.user_key(old)
        return Dml(op.type, op.space_id, b"", 0, key, None, op.ops if op.type is RowType.UPDATE else None)

    def _check_result(self, new: Tuple, bytes_max: int | None) -> None:
        self.format.check(new)
        if bytes_max is not None and (size := len(_pack(new))) > bytes_max:
            raise BatchTooLarge(
                f"Tuple of {size} bytes is over the limit of {bytes_max}", limit=bytes_max, got=size
            )

    # --- overlay

    def _push(
        self, prepared: Prepared, key: Key, old: Tuple | None, new: Tuple | None, below: Pending | None
    ) -> None:
        if self.unique and new is not None:
            self._check_unique(prepared, key, new)
        if self.is_temporary:
            if prepared.temporary is None:
                prepared.temporary = []
            prepared.temporary.append((self, key, old, new))
            self._settle(key, new)
            return
        self.pending[key] = (prepared, new)
        prepared.changes.append((self, key, new, below))
        if self.unique:
            self._push_unique(prepared, key, old, new)

    def _check_unique(self, prepared: Prepared, key: Key, new: Tuple) -> None:
        for index, pending in self.unique:
            unique_key = index.key_def.of(new)
            if index.key_def.has_null(unique_key):
                continue
            found = pending.get(unique_key)
            if found is None:
                other = index.primary_keys.get(unique_key)
            else:
                other = found[1]
                prepared.rest_on(found[0])
            if other is not None and other != key:
                below = self.pending.get(other)
                if below is not None:
                    prepared.rest_on(below[0])
                clash = self.tuples[other] if below is None else below[1]
                assert clash is not None
                self._raise_duplicate(index, clash, new)

    def _push_unique(self, prepared: Prepared, key: Key, old: Tuple | None, new: Tuple | None) -> None:
        if prepared.unique_changes is None:
            prepared.unique_changes = []
        changes = prepared.unique_changes
        for index, pending in self.unique:
            of, has_null = index.key_def.of, index.key_def.has_null
            old_key = None if old is None else of(old)
            new_key = None if new is None else of(new)
            if old is not None and new is not None and old_key == new_key:
                continue
            if old is not None and not has_null(old_key):
                changes.append((pending, old_key, pending.get(old_key)))
                pending[old_key] = (prepared, None)
            if new is not None and not has_null(new_key):
                changes.append((pending, new_key, pending.get(new_key)))
                pending[new_key] = (prepared, key)

    def _settle(self, key: Key, new: Tuple | None) -> None:
        """Make one change part of the committed tuples."""
        assert self.primary is not None
        if self.secondary:
            old = self.tuples.get(key)
            for index in self.secondary:
                index.move(key, old, new)
        if new is None:
            self.primary.remove(key)
        else:
            self.primary.put(key, new)

    def commit(self, prepared: Prepared, key: Key, new: Tuple | None) -> None:
        """Move a change down from the overlay; the newest state of the key stays if it is another's [O3]."""
        if self.secondary or new is None:
            self._settle(key, new)
        else:
            assert self.primary is not None
            self.primary.put(key, new)
        pending = self.pending
        found = pending.get(key)
        if found is not None and found[0] is prepared:
            del pending[key]

    def commit_new(self, prepared: Prepared, keys: Sequence[Key], values: Sequence[Tuple]) -> None:
        """`commit` for what `put_new` took."""
        if self.secondary:
            for key, value in zip(keys, values, strict=True):
                self._settle(key, value)
        else:
            assert self.primary is not None
            self.primary.put_all(keys, values)
        pending = self.pending
        for key in keys:
            if pending[key][0] is prepared:
                del pending[key]

    def rollback_new(self, prepared: Prepared, keys: Sequence[Key]) -> None:
        pending = self.pending
        for key in keys:
            assert pending[key][0] is prepared  # newest first [O3]
            del pending[key]

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None) -> None:
        assert self.pending[key][0] is prepared  # newest first [O3]
        if below is None or below[0].is_done:
            del self.pending[key]
        else:
            self.pending[key] = below

    def undo_temporary(self, key: Key, old: Tuple | None, new: Tuple | None) -> None:
        """Take back a change of a temporary space, unless somebody changed the tuple since [O4]."""
        if self.tuples.get(key) is not new:
            return
        if old is not None:
            for index, _ in self.unique:
                unique_key = index.key_def.of(old)
                if index.primary_keys.get(unique_key, key) != key:
                    return
        self._settle(key, old)

    # --- bulk

    def truncate(self) -> None:
        """Drop all committed tuples at once."""
        assert not self.pending  # the barrier of DDL
        self.tuples.clear()
        for index in self.indexes.values():
            was_sorted = index.is_sorted
            if isinstance(index, SecondaryIndex):
                index.primary_keys.clear()
            index.unsort()
            if was_sorted:
                index.sort()

    def load(self, values: Iterable[Tuple]) -> None:
        """Add tuples of a snapshot, which were checked when they were first written."""
        primary = self.need_primary()
        of = primary.key_def.of
        if any(index.is_sorted for index in self.indexes.values()):
            for value in values:
                self._settle(of(value), value)
            return
        added = {of(value): value for value in values}
        self.tuples.update(added)
        for index, _ in self.unique:
            index.fill(added)

    def check(self) -> None:
        """O1, I1..I4: a full scan, for tests."""
        assert all(not found[0].is_done for found in self.pending.values())
        for index, overlay in self.unique:
            assert all(not found[0].is_done for found in overlay.values())
            keys = [index.key_def.of(value) for value in self.tuples.values()]
            assert len(index.primary_keys) == sum(not index.key_def.has_null(key) for key in keys)
        for key, value in self.tuples.items():
            assert self._of is not None and self._of(value) == key
            for index, _ in self.unique:
                unique_key = index.key_def.of(value)
                assert index.key_def.has_null(unique_key) or index.primary_keys[unique_key] == key
        for each in self.indexes.values():
            each.check()

    def _raise_duplicate(self, index: Index, old: Tuple, new: Tuple) -> None:
        shown_old, shown_new = show_tuple(old), show_tuple(new)
        space, name = self.definition.name, index.definition.name
        raise TupleFound(
            f'Duplicate key exists in unique index "{name}" in space "{space}" '
            f"with old tuple - {shown_old} and new tuple - {shown_new}",
            space=space,
            index=name,
            key=show_tuple(index.key_def.user_key(new)),
            old_tuple=shown_old,
            new_tuple=shown_new,
        )
