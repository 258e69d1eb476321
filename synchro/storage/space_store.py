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

from collections import Counter, deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, TypeVar

import msgpack

from synchro.config import KIB
from synchro.errors import (
    BatchTooLarge,
    CantUpdatePrimaryKey,
    MoreThanOneTuple,
    NoSuchIndex,
    TupleFound,
)
from synchro.row import PENDING_ROW_BYTES, Dml, RowType, Tuple
from synchro.storage.index import Index, PrimaryIndex, SecondaryIndex
from synchro.storage.key_def import Key
from synchro.storage.order import Order
from synchro.storage.prepared import Pending, PendingKey, Prepared
from synchro.storage.schema import IndexDef, SpaceDef, is_ddl_space, is_system
from synchro.storage.tuple_format import TupleFormat, show_tuple
from synchro.storage.update_ops import Work, apply_ops, apply_upsert_ops, check_ops
from synchro.storage.xrow import count_values

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


PENDING_ENTRY_BYTES = 128
"""For each secondary index that a change will have to follow."""
TUPLE_OVERHEAD_BYTES = 176
"""What a tuple needs beyond its packed bytes: objects of its fields, its place among the tuples. About what
was measured with tuples of three fields; an estimate."""
INDEX_ENTRY_BYTES = 40
"""Its entry in one index."""


BUILD_ROWS = 500
"""Tuples of one step of a build: about a millisecond."""
T = TypeVar("T")


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, BUILD_ROWS)):
        yield chunk


def made_at_once(build: Generator[None, None, T]) -> T:
    while True:
        try:
            next(build)
        except StopIteration as end:
            made: T = end.value
            return made


_NESTED = frozenset({tuple, dict})
SLOW_TO_FREE = 512
"""Memory of a tuple, as it is counted, from which on it is not simply dropped: a queue may hold 16 MiB of
values of one byte, each an object, and one ack replaces them all."""
_LARGE, _LARGE_KEPT = 64 * KIB, 3
"""From this packed size on, those of the last few tuples are remembered: an update and its undo ask often."""
_VALUE_WORK = 40
"""What each value of an updated tuple counts in `Work`: small ones cost more than their bytes."""


def _spend_on(old: Tuple, work: Work) -> None:
    """Before anything is done with its values; they are counted only as far as `work` reaches."""
    if work.left is not None:
        work.spend(_VALUE_WORK * count_values((old,), work.left // _VALUE_WORK))


class SpaceStore:
    """One space with its indexes. space_store.O1..O4 above."""

    __slots__ = (
        "_large",
        "_of",
        "_plain_field",
        "clears",
        "dead",
        "definition",
        "format",
        "indexes",
        "is_ddl",
        "is_local",
        "is_sync",
        "is_system",
        "is_temporary",
        "memory",
        "pending",
        "primary",
        "secondary",
        "tuple_overhead",
        "tuples",
        "unique",
        "view",
    )

    def __init__(
        self,
        definition: SpaceDef,
        indexes: Mapping[int, IndexDef],
        *,
        sort: bool = True,
        dead: list[dict[Key, Any] | list[Any] | Order] | None = None,
    ) -> None:
        self.definition = definition
        self.is_system = is_system(definition.id)
        self.is_ddl = is_ddl_space(definition.id)
        self.primary: PrimaryIndex | None = None
        self._of: Callable[[Tuple], Key] | None = None
        self._plain_field = -1
        self.tuples: dict[Key, Tuple] = {}
        """The committed tuples: those of the primary index."""
        self.view: dict[Key, Tuple] = self.tuples
        """What writers see of them: all, or none while a `clear` waits for its decision."""
        self._large: deque[tuple[Tuple, int]] = deque(maxlen=_LARGE_KEPT)
        self.clears = 0
        """Those that wait."""
        self.dead: list[dict[Key, Any] | list[Any] | Order] = [] if dead is None else dead
        self.format = TupleFormat(definition, ())
        self.indexes: dict[int, Index] = {}
        self.pending: dict[Key, Pending] = {}
        self.tuple_overhead = 0
        self.memory = 0
        """Estimate of what tuples, as writers see them, and indexes need."""
        self.secondary: tuple[SecondaryIndex, ...] = ()
        self.unique: tuple[tuple[SecondaryIndex, dict[Key, PendingKey]], ...] = ()
        self.alter(definition, indexes, sort=sort)

    # --- definitions

    def alter(
        self,
        definition: SpaceDef,
        indexes: Mapping[int, IndexDef],
        *,
        sort: bool = True,
        built: dict[int, Index] | None = None,
    ) -> None:
        """Take new definitions, which the tuples already satisfy. Only indexes that changed are rebuilt.

        built: what `build` made for them, if no tuple has changed since."""
        known = {number: index.definition for number, index in self.indexes.items()}
        if known != dict(indexes):
            assert not self.pending and not self.clears  # the barrier of DDL
            if built is None:
                built = made_at_once(self.build(definition, indexes, sort=sort, check=False))
            self._take(built)
        self.definition = definition
        self.is_local = definition.is_local
        self.is_sync = definition.is_sync
        self.is_temporary = definition.is_temporary
        self.format = TupleFormat(definition, indexes.values())
        overhead = TUPLE_OVERHEAD_BYTES + INDEX_ENTRY_BYTES * len(indexes)
        self.memory += len(self.tuples) * (overhead - self.tuple_overhead)
        self.tuple_overhead = overhead
        for index in self.indexes.values():
            index.space = definition

    def build(
        self, definition: SpaceDef, indexes: Mapping[int, IndexDef], *, sort: bool = True, check: bool = True
    ) -> Generator[None, None, dict[int, Index]]:
        """The indexes that the space will have, in steps of `BUILD_ROWS` tuples between which no tuple may
        change. check: raises what is wrong with the tuples that are there: FieldType, TupleFound, ..."""
        if check:
            form = TupleFormat(definition, indexes.values())
            if not form.same_checks(self.format):
                for values in _chunks(self.tuples.values()):
                    for value in values:
                        form.check(value)
                    yield
        built: dict[int, Index] = {}
        if 0 not in indexes:
            return built
        built[0] = primary = yield from self._build_primary(definition, indexes[0])
        for number, wanted in sorted(indexes.items()):
            kept = self.indexes.get(number)
            if number == 0:
                continue
            if isinstance(kept, SecondaryIndex) and kept.primary is primary and kept.definition == wanted:
                built[number] = kept
                continue
            built[number] = index = SecondaryIndex(primary, wanted)
            if wanted.unique:
                for items in _chunks(primary.tuples.items()):
                    duplicate = index.fill(items)
                    if duplicate is not None:
                        self._raise_duplicate(index, *duplicate)
                    yield
        for index_ in built.values():
            if sort and index_.is_tree and not index_.is_sorted:
                yield from index_.sort_in_steps(BUILD_ROWS)
        return built

    def _build_primary(self, definition: SpaceDef, wanted: IndexDef) -> Generator[None, None, PrimaryIndex]:
        if self.primary is not None and self.primary.definition == wanted:
            return self.primary
        primary = PrimaryIndex(definition, wanted)
        of, tuples = primary.key_def.of, primary.tuples
        for values in _chunks(self.tuples.values()):
            for value in values:
                other = tuples.setdefault(of(value), value)
                if other is not value:
                    self._raise_duplicate(primary, other, value)
            yield
        return primary

    def _take(self, built: dict[int, Index]) -> None:
        for number, index in self.indexes.items():
            if built.get(number) is not index:
                self.bury(*index.take_apart())
        primary = built.get(0)
        assert primary is None or isinstance(primary, PrimaryIndex)
        if primary is None or primary.tuples is not self.tuples:
            self.bury(self.tuples)
        self.primary = primary
        self.indexes = built
        self.tuples = self.view = {} if primary is None else primary.tuples
        self._of = None if primary is None else primary.key_def.of
        self._plain_field = -1 if primary is None else primary.key_def.plain_field
        self.secondary = tuple(index for index in built.values() if isinstance(index, SecondaryIndex))
        self.unique = tuple((index, {}) for index in self.secondary if index.definition.unique)

    def bury(self, *parts: dict[Key, Any] | Order) -> None:
        """Nobody needs these any more. To let go of a million objects takes long, so that is done later."""
        self.dead.extend(parts)

    def bury_all(self) -> None:
        """The space is dropped."""
        for index in self.indexes.values():
            self.bury(*index.take_apart())
        self.bury(self.tuples)

    @property
    def row_overhead(self) -> int:
        """Of `Prepared.size`: what a row needs, and costs when it is decided, beside its bytes."""
        return PENDING_ROW_BYTES + PENDING_ENTRY_BYTES * len(self.secondary)

    def _memory_of_all(self, values: Sequence[Tuple]) -> int:
        """Packed in one call of the library."""
        count = len(values)
        header = 1 if count < 16 else 3 if count < 0x10000 else 5
        return len(_pack(values)) - header + count * self.tuple_overhead

    def _memory_of(self, value: Tuple | None) -> int:
        return 0 if value is None else self._packed_size(value) + self.tuple_overhead

    def _packed_size(self, value: Tuple) -> int:
        for known, size in self._large:
            if known is value:
                return size
        size = len(_pack(value))
        if size >= _LARGE:
            self._large.append((value, size))
        return size

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
            yield from self.view.values()
            return
        for key, value in self.view.items():
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
            old = self.view.get(key)
        else:
            old = below[1]
            prepared.rest_on(below[0])
        if old is not None and not replace:
            self._raise_duplicate(self.need_primary(), old, value)
        if self.unique or self.is_temporary:
            self._push(prepared, key, old, value, below)
        else:  # the same as `_push`, spelled out: most writes come here
            size = len(_pack(value)) + self.tuple_overhead
            if old is not None:
                old_size = self._memory_of(old)
                size -= old_size
                if old_size >= SLOW_TO_FREE:
                    prepared.lets_go((old,))
            self.memory += size
            prepared.growth += size
            self.pending[key] = (prepared, value)
            prepared.changes.append((self, key, value, below, size))
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
        there: Container[Key] = () if replace else self.view
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
        if not pending.keys().isdisjoint(keys) or not (replace or self.view.keys().isdisjoint(keys)):
            return False
        size = len(pending)
        pending.update(zip(keys, zip(repeat(prepared), values, strict=False), strict=True))
        if len(pending) - size != len(keys):
            for key in keys:
                pending.pop(key, None)
            return False
        prepared.run = (self, keys, values)
        size = self._memory_of_all(values)
        if replace:
            old = [self.view[key] for key in keys if key in self.view]
            old_size = self._memory_of_all(old)
            size -= old_size
            if old_size >= SLOW_TO_FREE * len(keys):
                prepared.lets_go(old)
        self.memory += size
        prepared.growth += size
        return True

    def update(
        self, prepared: Prepared, op: Dml, work: Work, *, ops_max: int | None, bytes_max: int | None
    ) -> tuple[Dml, Tuple | None, Tuple | None]:
        """Returns the operation to be logged, the old and the new tuple (both None: no such key) [D-40]."""
        assert op.ops is not None
        check_ops(op.ops, count_max=ops_max)
        found = self._find(prepared, op)
        if found is None:
            return op, None, None
        key, old, below = found
        _spend_on(old, work)
        new = apply_ops(old, op.ops, self.format.names, work)
        self._check_result(new, bytes_max, work)
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
        self, prepared: Prepared, op: Dml, work: Work, *, ops_max: int | None, bytes_max: int | None
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
        old = self.view.get(key) if below is None else below[1]
        new = op.value
        if old is not None:
            _spend_on(old, work)
            new = apply_upsert_ops(old, op.ops, self.format.names, work)
            self._check_result(new, bytes_max, work)
            if primary.key_def.of(new) != key:
                return old, old
        self._push(prepared, key, old, new, below)
        return old, new

    def clear(self, prepared: Prepared) -> None:
        """Delete every tuple of the prepared state; those that nobody is changing all at once."""
        for key, (_, value) in list(self.pending.items()):
            if value is not None:
                self._push(prepared, key, value, None, self.pending[key])
        clear = Clear(self)
        prepared.growth -= clear.memory
        if self.is_temporary:
            if prepared.temporary is None:
                prepared.temporary = []
            prepared.temporary.append((clear, None, None, None))
            clear.commit(prepared, None, None)
        else:
            prepared.changes.append((clear, None, None, None, -clear.memory))

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
            old = self.view.get(key)
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
        return None if self.clears else index.primary_keys.get(key)

    def _by_primary_key(self, op: Dml, old: Tuple) -> Dml:
        if op.index_id == 0:
            return op
        key = self.need_primary().key_def.user_key(old)
        return Dml(op.type, op.space_id, b"", 0, key, None, op.ops if op.type is RowType.UPDATE else None)

    def _check_result(self, new: Tuple, bytes_max: int | None, work: Work) -> None:
        self.format.check(new)
        if bytes_max is None:
            return
        size = self._packed_size(new)
        work.spend(size // 4)
        if size > bytes_max:
            raise BatchTooLarge(
                f"Tuple of {size} bytes is over the limit of {bytes_max}", limit=bytes_max, got=size
            )

    # --- overlay

    def _push(
        self, prepared: Prepared, key: Key, old: Tuple | None, new: Tuple | None, below: Pending | None
    ) -> None:
        if self.unique and new is not None:
            self._check_unique(prepared, key, new)
        old_size = self._memory_of(old)
        size = self._memory_of(new) - old_size
        self.memory += size
        prepared.growth += size
        if old is not None and old_size >= SLOW_TO_FREE:
            prepared.lets_go((old,))
        if self.is_temporary:
            if prepared.temporary is None:
                prepared.temporary = []
            prepared.temporary.append((self, key, old, new))
            self._settle(key, new)
            return
        self.pending[key] = (prepared, new)
        prepared.changes.append((self, key, new, below, size))
        if self.unique:
            self._push_unique(prepared, key, old, new)

    def _check_unique(self, prepared: Prepared, key: Key, new: Tuple) -> None:
        for index, pending in self.unique:
            unique_key = index.key_def.of(new)
            if index.key_def.has_null(unique_key):
                continue
            found = pending.get(unique_key)
            if found is None:
                other = None if self.clears else index.primary_keys.get(unique_key)
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
        """Move a change down from the overlay; the newest state of the key stays if it is another's
        [space_store.O3]."""
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

    def rollback_new(self, prepared: Prepared, keys: Sequence[Key]) -> int:
        """`rollback` for what `put_new` took: it is all that there is of the transaction."""
        pending = self.pending
        self.memory -= prepared.growth
        for key in keys:
            assert pending[key][0] is prepared  # newest first [space_store.O3]
            del pending[key]
        return prepared.growth

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None, size: int) -> None:
        """size: what it had added to the memory that is needed. Not counted again: a queue full of large
        tuples may be undone in one go."""
        assert self.pending[key][0] is prepared  # newest first [space_store.O3]
        if below is None or below[0].is_done:
            del self.pending[key]
        else:
            self.pending[key] = below
        self.memory -= size

    def undo_temporary(self, key: Key, old: Tuple | None, new: Tuple | None) -> int:
        """Take back a change of a temporary space, unless somebody changed the tuple since
        [space_store.O4]. Returns as `rollback`."""
        if self.tuples.get(key) is not new:
            return 0
        if old is not None:
            for index, _ in self.unique:
                unique_key = index.key_def.of(old)
                if index.primary_keys.get(unique_key, key) != key:
                    return 0
        self._settle(key, old)
        size = self._memory_of(new) - self._memory_of(old)
        self.memory -= size
        return size

    # --- bulk

    def truncate(self) -> None:
        """Drop all committed tuples at once."""
        assert not self.pending and not self.clears  # the barrier of DDL
        self.memory = 0
        self.bury(*self.take_out())

    def take_out(self) -> list[dict[Key, Any] | Order]:
        """All committed tuples, and what led to them; they are not here any more."""
        taken: list[dict[Key, Any] | Order] = []
        fresh: dict[Key, Tuple] = {}
        for index in self.indexes.values():
            taken += index.empty(fresh)
        taken.append(self.tuples)
        self.tuples = fresh
        if not self.clears:
            self.view = fresh
        return taken

    def load(self, values: Iterable[Tuple]) -> None:
        """Add tuples of a snapshot, which were checked when they were first written."""
        primary = self.need_primary()
        of = primary.key_def.of
        values = values if isinstance(values, list) else list(values)
        self.memory += self._memory_of_all(values)
        if any(index.is_sorted for index in self.indexes.values()):
            for value in values:
                self._settle(of(value), value)
            return
        added = {of(value): value for value in values}
        self.tuples.update(added)
        for index, _ in self.unique:
            index.fill(added.items())

    def check(self) -> None:
        """space_store.O1, index.I1..I4: a full scan, for tests."""
        assert all(not found[0].is_done for found in self.pending.values())
        assert self.memory == sum(map(self._memory_of, self.prepared_tuples()))
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


class Clear:
    """All tuples of a space deleted by one change, which stands among the others as if it were a store.

    While it waits for its decision writers look into an empty map instead of the tuples, and what others had
    prepared is deleted key by key above that.
    """

    is_system = False

    def __init__(self, store: SpaceStore) -> None:
        self._store = store
        self.memory = store.memory
        store.memory = 0
        store.clears += 1
        store.view = {}

    def commit(self, prepared: Prepared, key: Key, new: Tuple | None) -> None:
        store = self._store
        store.clears -= 1
        store.bury(*store.take_out())

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None, size: int) -> None:
        """As `SpaceStore.rollback`."""
        store = self._store
        assert not store.view  # newest first [space_store.O3]
        store.clears -= 1
        store.view = {} if store.clears else store.tuples
        store.memory -= size

    def undo_temporary(self, key: Key, old: Tuple | None, new: Tuple | None) -> int:
        """Everybody has seen it already: it stays [space_store.O4]."""
        return 0
