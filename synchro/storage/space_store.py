"""The tuples of one space: committed ones in indexes, prepared ones in overlays above them.

O1  Indexes hold committed tuples only [Q-55]. `pending` (and one more map for each unique secondary index)
    holds the newest prepared state of a key; older ones hang on the transactions that changed it later.
O2  Writers look in the overlay, then in the index; readers look in the index only, but for those who ask for
    what writers see (`prepared_view`).
O3  Transactions that touch the same keys commit in the order in which they were prepared, and are rolled
    back in the reverse order [Q-57].
O4  Changes of temporary spaces skip the overlay: they are visible at once.

What a writer may do to it stands in `space_changes.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from synchro.config import KIB
from synchro.errors import NoSuchIndex
from synchro.row import PENDING_ROW_BYTES, Tuple
from synchro.storage.index import INDEX_ENTRY_BYTES, Index, PrimaryIndex, SecondaryIndex
from synchro.storage.index_build import build_indexes, duplicate_key, made_at_once
from synchro.storage.key_def import Key
from synchro.storage.msgpack_check import packb
from synchro.storage.order import Order
from synchro.storage.own_keys import OwnKeys
from synchro.storage.prepared import Pending, PendingKey, Prepared
from synchro.storage.schema import ConflictPolicy, IndexDef, SpaceDef, is_ddl_space, is_system
from synchro.storage.sequence_def import Numbering
from synchro.storage.stamp_clock import UNKNOWN, Stamp
from synchro.storage.stamps import STAMP_BYTES, Stamps, Tombstones
from synchro.storage.tuple_format import TupleFormat

PENDING_ENTRY_BYTES = 128
"""For each secondary index that a change will have to follow."""
TUPLE_OVERHEAD_BYTES = 176
"""What a tuple needs beyond its packed bytes: objects of its fields, its place among the tuples. About what
was measured with tuples of three fields; an estimate."""
SLOW_TO_FREE = 512
"""Memory of a tuple, as it is counted, from which on it is not simply dropped: a queue may hold 16 MiB of
values of one byte, each an object, and one ack replaces them all."""
_LARGE, _LARGE_KEPT = 64 * KIB, 3
"""From this packed size on, those of the last few tuples are remembered: an update and its undo ask often."""


class SpaceStore:
    """One space with its indexes. space_store.O1..O4 above."""

    __slots__ = (
        "_large",
        "clears",
        "dead",
        "definition",
        "format",
        "indexes",
        "is_ddl",
        "is_local",
        "is_plain",
        "is_sync",
        "is_system",
        "is_temporary",
        "key_of",
        "memory",
        "numbering",
        "own",
        "pending",
        "plain_field",
        "primary",
        "secondary",
        "stamps",
        "tombstones",
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
        tombstones: Tombstones | None = None,
    ) -> None:
        self.tombstones = Tombstones() if tombstones is None else tombstones
        self.definition = definition
        self.is_system = is_system(definition.id)
        self.is_ddl = is_ddl_space(definition.id)
        self.primary: PrimaryIndex | None = None
        self.key_of: Callable[[Tuple], Key] | None = None
        self.plain_field = -1
        self.tuples: dict[Key, Tuple] = {}
        """The committed tuples: those of the primary index."""
        self.view: dict[Key, Tuple] = self.tuples
        """What writers see of them: all, or none while a `clear` waits for its decision."""
        self._large: deque[tuple[Tuple, int]] = deque(maxlen=_LARGE_KEPT)
        self.clears: list[Prepared] = []
        """Whose deletion of all tuples is not decided, oldest first."""
        self.dead: list[dict[Key, Any] | list[Any] | Order] = [] if dead is None else dead
        self.format = TupleFormat(definition, ())
        self.numbering: Numbering | None = None
        """What gives values to its tuples; set by `sequences`."""
        self.indexes: dict[int, Index] = {}
        self.own: OwnKeys | None = None
        """Set while its policy is to keep what was written here."""
        self.stamps: Stamps | None = None
        """Set while the last write wins."""
        self.is_plain = True
        """A change means the same whoever made it, and when."""
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

        built: what `build_indexes` made for them, if no tuple has changed since."""
        known = {number: index.definition for number, index in self.indexes.items()}
        before = self.primary
        if known != dict(indexes):
            assert not self.pending and not self.clears  # the barrier of DDL
            if built is None:
                built = made_at_once(build_indexes(self, definition, indexes, sort=sort, check=False))
            self._take(built)
        self._take_policy(definition.conflict, is_same_key=_has_same_key(before, self.primary))
        self.definition = definition
        self.is_local = definition.is_local
        self.is_sync = definition.is_sync
        self.is_temporary = definition.is_temporary
        self.format = TupleFormat(definition, indexes.values())
        overhead = TUPLE_OVERHEAD_BYTES + INDEX_ENTRY_BYTES * len(indexes)
        overhead += 0 if self.stamps is None else STAMP_BYTES
        self.memory += len(self.tuples) * (overhead - self.tuple_overhead)
        self.tuple_overhead = overhead
        for index in self.indexes.values():
            index.space = definition

    @property
    def skips_conflicts(self) -> bool:
        """Its policy says so, for what breaks a unique index."""
        return self.definition.conflict in (ConflictPolicy.SKIP, ConflictPolicy.KEEP_LOCAL)

    def _take_policy(self, policy: ConflictPolicy, *, is_same_key: bool) -> None:
        """What was known of other keys is void."""
        if policy is not ConflictPolicy.KEEP_LOCAL:
            self.own = None
        elif self.own is None or not is_same_key:
            self.own = OwnKeys()
        if policy is not ConflictPolicy.LAST_WRITE_WINS:
            self.stamps = None
        elif self.stamps is None or not is_same_key:
            self.stamps = Stamps(self.tombstones)
        self.is_plain = self.own is None and self.stamps is None

    def _take(self, built: dict[int, Index]) -> None:
        for number, index in self.indexes.items():
            if built.get(number) is not index:
                self.bury(*index.take_apart())
        primary = built.get(0)
        assert primary is None or isinstance(primary, PrimaryIndex)
        if primary is None or primary.tuples is not self.tuples:
            self.bury(self.tuples)
        if primary is None:
            self.memory = 0  # the tuples went with it
        self.primary = primary
        self.indexes = built
        self.tuples = self.view = {} if primary is None else primary.tuples
        self.key_of = None if primary is None else primary.key_def.of
        self.plain_field = -1 if primary is None else primary.key_def.plain_field
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

    def memory_of_all(self, values: Sequence[Tuple]) -> int:
        """Packed in one call of the library."""
        count = len(values)
        header = 1 if count < 16 else 3 if count < 0x10000 else 5
        return len(packb(values)) - header + count * self.tuple_overhead

    def memory_of(self, value: Tuple | None) -> int:
        return 0 if value is None else self.packed_size(value) + self.tuple_overhead

    def packed_size(self, value: Tuple) -> int:
        for known, size in self._large:
            if known is value:
                return size
        size = len(packb(value))
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

    @property
    def has_pending(self) -> bool:
        """Some change of it is not decided."""
        return bool(self.pending or self.clears)

    def newest_pending(self) -> Prepared | None:
        return max((found[0] for found in self.pending.values()), key=lambda p: p.serial, default=None)

    # --- overlay

    def push(
        self, prepared: Prepared, key: Key, old: Tuple | None, new: Tuple | None, below: Pending | None
    ) -> None:
        if self.unique and new is not None:
            self._check_unique(prepared, key, new)
        old_size = self.memory_of(old)
        size = self.memory_of(new) - old_size
        self.memory += size
        prepared.growth += size
        if old is not None and old_size >= SLOW_TO_FREE:
            prepared.lets_go((old,))
        if self.is_temporary:
            if prepared.temporary is None:
                prepared.temporary = []
            prepared.temporary.append((self, key, old, new))
            self.settle(key, new)
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
                raise duplicate_key(self.definition, index, clash, new)

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

    def settle(self, key: Key, new: Tuple | None) -> None:
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
            self.settle(key, new)
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
                self.settle(key, value)
        else:
            assert self.primary is not None
            self.primary.put_all(keys, values)
        pending = self.pending
        for key in keys:
            if pending[key][0] is prepared:
                del pending[key]

    def rollback_new(self, prepared: Prepared, keys: Sequence[Key]) -> int:
        """`rollback` for what `put_new` took."""
        pending = self.pending
        size = prepared.growth - sum(change[4] for change in prepared.changes)
        self.memory -= size
        for key in keys:
            assert pending[key][0] is prepared  # newest first [space_store.O3]
            del pending[key]
        return size

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None, size: int) -> int:
        """size: what it had added to the memory that is needed, which is returned. Not counted again: a queue
        full of large tuples may be undone in one go."""
        self.uncover(prepared, key, below)
        self.memory -= size
        return size

    def uncover(self, prepared: Prepared, key: Key, below: Pending | None) -> None:
        """Take the newest change of a key off the overlay."""
        assert self.pending[key][0] is prepared  # newest first [space_store.O3]
        if below is None or below[0].is_done:
            del self.pending[key]
        else:
            self.pending[key] = below

    def seen(self, key: Key) -> Tuple | None:
        """The tuple as a writer sees it."""
        found = self.pending.get(key)
        return self.view.get(key) if found is None else found[1]

    def weigh(self, before: Tuple | None, after: Tuple | None) -> int:
        """A writer sees another tuple than before. Returns by how much more memory is needed."""
        growth = 0 if after is before else self.memory_of(after) - self.memory_of(before)
        self.memory += growth
        return growth

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
        self.settle(key, old)
        size = self.memory_of(new) - self.memory_of(old)
        self.memory -= size
        return size

    # --- bulk

    def truncate(self) -> None:
        """Drop all committed tuples at once."""
        assert not self.pending and not self.clears  # the barrier of DDL
        self.memory = 0
        self.bury(*self.take_out())
        if self.own is not None:
            self.own = OwnKeys()

    def truncate_before(self, floor: Stamp) -> None:
        """Drop the committed tuples that are older: nearly always all of them."""
        assert not self.pending and not self.clears  # the barrier of DDL
        stamps = self.stamps
        assert stamps is not None
        if floor <= stamps.floor and (floor < stamps.floor or floor.time):
            return  # one without a stamp may follow another, and rows without one came between [stamps.G3]
        if stamps.newest < floor:
            self.truncate()
        else:
            old = [key for key in self.tuples if stamps.known.get(key, UNKNOWN) < floor]
            self.memory -= sum(self.memory_of(self.tuples[key]) for key in old)
            for key in old:
                self.settle(key, None)
        self.dead.extend(stamps.raise_floor(floor))

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
        self.memory += self.memory_of_all(values)
        if any(index.is_sorted for index in self.indexes.values()):
            for value in values:
                self.settle(of(value), value)
            return
        added = {of(value): value for value in values}
        self.tuples.update(added)
        for index, _ in self.unique:
            index.fill(added.items())

    def check(self) -> None:
        """space_store.O1, index.I1..I4: a full scan, for tests."""
        assert all(not found[0].is_done for found in self.pending.values())
        assert self.memory == sum(map(self.memory_of, self.prepared_tuples()))
        for index, overlay in self.unique:
            assert all(not found[0].is_done for found in overlay.values())
            keys = [index.key_def.of(value) for value in self.tuples.values()]
            assert len(index.primary_keys) == sum(not index.key_def.has_null(key) for key in keys)
        for key, value in self.tuples.items():
            assert self.key_of is not None and self.key_of(value) == key
            for index, _ in self.unique:
                unique_key = index.key_def.of(value)
                assert index.key_def.has_null(unique_key) or index.primary_keys[unique_key] == key
        if self.own is not None:
            self.own.check(self.tuples)
        if self.stamps is not None:
            self.stamps.check(self.tuples)
        for each in self.indexes.values():
            each.check()


def _has_same_key(before: Index | None, now: Index | None) -> bool:
    """Whether tuples are known by the same keys as before, whatever the name and type of the index are."""
    if before is None or now is None:
        return False
    return before is now or before.definition.parts == now.definition.parts
