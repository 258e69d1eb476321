"""Indexes over committed tuples: TREE and HASH. Rules [D-10]..[D-14].

I1  A primary index maps key -> tuple; a secondary one leads to the primary key, so that a change which
    keeps the secondary key costs it nothing.
I2  The sorted order of an index whose keys differ holds its keys; of one with equal keys or nulls,
    (parts..., primary key), so that equal keys are ordered by primary key [D-10]. What kind of order it is
    (`order.py`), `Index.sort` decides.
I3  The order is built when it is first read (`_sorted is None` until then): recovery fills only dicts.
I4  A unique secondary index maps only keys without null: null equals nothing, not even null.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from enum import IntEnum
from heapq import merge
from itertools import islice
from operator import itemgetter
from sys import maxsize
from typing import Any, Final, NamedTuple, Protocol

from synchro.config import MIB
from synchro.errors import (
    ExactMatch,
    IllegalParams,
    IteratorType,
    MoreThanOneTuple,
    SynchroError,
    UnsupportedIndexFeature,
)
from synchro.row import RawTuple, Tuple
from synchro.storage.key_def import TOP, Key, KeyDef
from synchro.storage.msgpack_check import array_header, pack_tuple, packb
from synchro.storage.order import Bound, Order, order_in_steps, order_of
from synchro.storage.schema import IndexDef, IndexType, SpaceDef


class Iterator_(IntEnum):
    """Direction and start of a read; numbers of Tarantool [D-12]."""

    EQ = 0
    REQ = 1
    ALL = 2
    LT = 3
    LE = 4
    GE = 5
    GT = 6

    @staticmethod
    def parse(name: str | int) -> Iterator_:
        """By name in any case, or by number. IteratorType."""
        try:
            return Iterator_[name.upper()] if isinstance(name, str) else Iterator_(name)
        except (KeyError, ValueError):
            raise IteratorType(f"Unknown iterator type '{name}'") from None


INDEX_ENTRY_BYTES: Final = 40
"""Estimate of the memory for the entry of a tuple in one index."""

_ENTRY: Final = itemgetter(0)
_TUPLE: Final = itemgetter(1)
_DESCENDING: Final = frozenset({Iterator_.REQ, Iterator_.LT, Iterator_.LE})


class SelectResult(list[Tuple]):
    """Tuples in the order of the iterator. more: a limit cut it; go on with `after` = the last one."""

    __slots__ = ("more",)

    def __init__(self, tuples: Iterable[Tuple] = (), *, more: bool = False) -> None:
        super().__init__(tuples)
        self.more = more


class Span(NamedTuple):
    """The entries that an iterator visits, and in which direction."""

    low: Bound
    high: Bound
    is_descending: bool

    def holds(self, entry: Key) -> bool:
        """Compared as `order.ListOrder` does."""
        low, high = self.low, self.high
        if low is not None and (entry < low[0] if low[1] else not low[0] < entry):
            return False
        return high is None or not (high[0] < entry if high[1] else not entry < high[0])

    def first_of(self, entries: Sequence[Key]) -> int:
        """Where the first of these begins that is not below the span; they rise from left to right."""
        if self.low is None:
            return 0
        return (bisect_left if self.low[1] else bisect_right)(entries, self.low[0])

    def merged(
        self, kept: Iterable[tuple[Key, Tuple]], added: Sequence[tuple[Key, Tuple]]
    ) -> Iterator[Tuple]:
        """Tuples with their entries, of two runs that are in the order of the span."""
        both = merge(kept, added, key=_ENTRY, reverse=self.is_descending) if added else kept
        return map(_TUPLE, both)

    def until(self, entry: Key) -> Span:
        """As far as this entry, which it holds."""
        end = entry, True
        return self._replace(low=end) if self.is_descending else self._replace(high=end)


class View(Protocol):
    """What a read finds in the place of the committed tuples."""

    def find(self, index: Index, key: Key) -> Tuple | None:
        """As `Index.find`."""

    def tuples(self) -> Iterable[Tuple]:
        """All of the space, in no order."""
        ...

    def walk(self, index: Index, span: Span, offset: int) -> Iterator[Tuple]:
        """As `Index.walk`."""
        ...


class Index:
    """What primary and secondary indexes have in common: bounds, order, selects."""

    __slots__ = ("_is_bare", "_sorted", "definition", "is_tree", "key_def", "space", "tuples")

    def __init__(self, space: SpaceDef, definition: IndexDef, tuples: dict[Key, Tuple]) -> None:
        self.space = space
        self.definition = definition
        self.key_def = KeyDef(definition.parts)
        self.is_tree = definition.type is IndexType.TREE
        self.tuples = tuples
        """All committed tuples of the space by primary key; the primary index fills it."""
        self._sorted: Order | None = None
        self._is_bare = False
        """Entries of the order are bare values, not tuples."""

    # --- to be defined below

    def find(self, key: Key) -> Tuple | None:
        """The committed tuple with a full, encoded key of a unique index."""
        raise NotImplementedError

    def entry(self, value: Tuple) -> Key:
        """Place of a tuple in the sorted order."""
        raise NotImplementedError

    def keys_at(self, entries: Iterable[Key]) -> Iterator[tuple[Key, Key]]:
        """Each entry of the order, with the primary key it leads to."""
        raise NotImplementedError

    def _all_entries(self) -> Iterable[Key]:
        raise NotImplementedError

    def _tuples_at(self, entries: Iterable[Key]) -> Iterator[Tuple]:
        raise NotImplementedError

    # --- order

    def sort(self) -> Order:
        """The sorted order, built if it does not exist yet [index.I3]."""
        if self._sorted is None:
            is_unsigned = self._is_bare and self.key_def.parts[0].type == "unsigned"
            self._sorted = order_of(self._all_entries(), is_unsigned=is_unsigned)
        return self._sorted

    def sort_in_steps(self, rows: int) -> Generator[None, None, None]:
        """`sort`, so many entries a step. No change of the tuples may come between."""
        is_unsigned = self._is_bare and self.key_def.parts[0].type == "unsigned"
        self._sorted = yield from order_in_steps(self._all_entries(), rows, is_unsigned=is_unsigned)

    def take_apart(self) -> list[dict[Key, Any] | Order]:
        """Nobody needs it any more: what is large in it, its tuples aside."""
        return [] if self._sorted is None else [self._sorted]

    @property
    def is_sorted(self) -> bool:
        return self._sorted is not None

    def empty(self, tuples: dict[Key, Tuple]) -> list[dict[Key, Any] | Order]:
        """Lead to `tuples`, of which there are none, from now on. Returns as `take_apart`."""
        taken = self.take_apart()
        self.tuples = tuples
        if self._sorted is not None:
            self._sorted = None
            self.sort()
        return taken

    def unsort(self) -> None:
        """Keep no order until the next `sort`: many changes are coming."""
        self._sorted = None

    def check(self) -> None:
        """The sorted order, if there is one, is that of all tuples."""
        if self._sorted is not None and self.is_tree:
            assert list(self._sorted.walk()) == sorted(self._all_entries())

    # --- reads

    def get(self, key: Tuple) -> Tuple | None:
        """[D-11]"""
        if not self.definition.unique:
            raise MoreThanOneTuple("Get() doesn't support partial keys and non-unique indexes")
        encoded = self.key_def.exact(key)
        if self.key_def.has_null(encoded):
            found = self.select(key, Iterator_.EQ, limit=2)
            if len(found) > 1:
                raise MoreThanOneTuple("Get() found more than one tuple: null equals no other null")
            return found[0] if found else None
        return self.find(encoded)

    def select(
        self,
        key: Tuple = (),
        iterator: Iterator_ = Iterator_.EQ,
        *,
        limit: int | None = None,
        offset: int = 0,
        after: Tuple | None = None,
        bytes_max: int | None = None,
        tuples_max: int | None = None,
        view: View | None = None,
    ) -> SelectResult:
        """[D-12], [D-13], [D-14]. bytes_max: encoded size; at least one tuple is returned. tuples_max: as a
        limit, but not for a HASH index. view: None for the committed tuples."""
        if offset < 0 or (limit is not None and limit < 0):
            raise IllegalParams("select: limit and offset are numbers from 0 up")
        offset = min(offset, maxsize)
        prefix = self.key_def.prefix(key)
        is_full = len(prefix) == self.key_def.count
        if is_full and iterator is Iterator_.EQ and self.definition.unique and not offset and after is None:
            full = prefix[0] if self.key_def.is_plain else prefix
            if not self.key_def.has_null(full):
                found = self.find(full) if view is None else view.find(self, full)
                return SelectResult(() if found is None or limit == 0 else (found,))
        if not self.is_tree:
            all_tuples = self.tuples.values() if view is None else view.tuples()
            return self._select_hash(all_tuples, prefix, iterator, is_full, limit, offset, after, bytes_max)
        span = self._span(prefix, iterator, after)
        found_in_order = self.walk(span, offset) if view is None else view.walk(self, span, offset)
        if tuples_max is not None:
            limit = tuples_max if limit is None else min(limit, tuples_max)
        return _collect(found_in_order, limit, bytes_max)

    def span(self, key: Tuple, iterator: Iterator_, after: Tuple | None = None) -> Span:
        """What a select visits [D-12], [D-13], [D-14]. Not for a HASH index."""
        if not self.is_tree:
            self._refuse("ranges")
        return self._span(self.key_def.prefix(key), iterator, after)

    def _span(self, prefix: Tuple, iterator: Iterator_, after: Tuple | None) -> Span:
        low, high = self._bounds(prefix, iterator)
        is_descending = iterator in _DESCENDING
        if after is not None:
            place = self._place_after(after)
            if is_descending:
                if high is None or not high[0] < place:
                    high = (place, False)
            elif low is None or not place < low[0]:
                low = (place, False)
        return Span(low, high, is_descending)

    def placed(self, span: Span, tuples: Iterable[Tuple | None]) -> list[tuple[Key, Tuple]]:
        """Those of some tuples that lie in the span, with their entries, in its order."""
        places = ((self.entry(value), value) for value in tuples if value is not None)
        return sorted((one for one in places if span.holds(one[0])), key=_ENTRY, reverse=span.is_descending)

    def walk(self, span: Span, offset: int = 0) -> Iterator[Tuple]:
        """The committed tuples there, one by one, without the first `offset` of them. No change of the tuples
        may come between."""
        low, high, is_descending = span
        return self._tuples_at(self.sort().walk(low, high, descending=is_descending, offset=offset))

    def _bounds(self, prefix: Tuple, iterator: Iterator_) -> tuple[Bound, Bound]:
        """The lowest and the highest that the iterator visits, in either direction [D-13]."""
        if not prefix or iterator is Iterator_.ALL:
            return None, None
        first = prefix[0] if self._is_bare else prefix
        last = first if self._is_bare else (*prefix, TOP)
        match iterator:
            case Iterator_.EQ | Iterator_.REQ:
                return (first, True), (last, True)
            case Iterator_.GE:
                return (first, True), None
            case Iterator_.GT:
                return (last, False), None
            case Iterator_.LE:
                return None, (last, True)
            case Iterator_.LT:
                return None, (first, False)
        raise IteratorType(f"Unknown iterator type '{iterator}'")

    def _check_entry(self, value: Tuple) -> None:
        """Raises `SynchroError` unless `entry` compares with the entries of tuples."""
        self.key_def.exact(self.key_def.user_key(value))

    def _place_after(self, after: Tuple) -> Key:
        try:
            self._check_entry(after)
            return self.entry(after)
        except (SynchroError, IndexError) as error:
            raise IllegalParams(f"Iterator position is invalid: {error}") from None

    def _select_hash(
        self,
        tuples: Iterable[Tuple],
        prefix: Tuple,
        iterator: Iterator_,
        is_full: bool,
        limit: int | None,
        offset: int,
        after: Tuple | None,
        bytes_max: int | None,
    ) -> SelectResult:
        if iterator not in (Iterator_.EQ, Iterator_.ALL):
            self._refuse("requested iterator type")
        if after is not None:
            self._refuse("pagination")
        if iterator is Iterator_.EQ and prefix:
            if not is_full:
                raise ExactMatch(
                    f"Invalid key part count in an exact match "
                    f"(expected {self.key_def.count}, got {len(prefix)})"
                )
            return SelectResult()  # only an offset beyond the one tuple comes here
        if bytes_max is not None:
            bytes_max = max(bytes_max, HASH_BYTES_MIN)
        return _collect(islice(tuples, offset, None), limit, bytes_max)

    def _refuse(self, what: str) -> None:
        raise UnsupportedIndexFeature(
            f"Index '{self.definition.name}' ({self.definition.type}) of space '{self.space.name}' "
            f"({self.space.engine}) does not support {what}"
        )


HASH_BYTES_MIN: Final = 8 * MIB
"""Of an answer of a HASH index, which cannot go on with `after`; twice as many would not fit a message."""


COLLECTED_AT_ONCE: Final = 256
"""Tuples of an answer that are measured by one call of the library."""


def _collect(tuples: Iterator[Tuple], limit: int | None, bytes_max: int | None) -> SelectResult:
    result = SelectResult()
    taken = tuples if limit is None else islice(tuples, min(limit, maxsize))
    if bytes_max is None or limit == 1:
        result.extend(taken)
    else:
        size = 0
        while some := list(islice(taken, COLLECTED_AT_ONCE)):
            if RawTuple not in set(map(type, some)) and size + len(together := packb(some)) <= bytes_max:
                size += len(together) - len(array_header(len(some)))
                result.extend(some)
                continue
            for value in some:
                size += len(pack_tuple(value))
                if size > bytes_max and result:
                    result.more = True
                    return result
                result.append(value)
    result.more = limit is not None and next(tuples, None) is not None
    return result


class PrimaryIndex(Index):
    """key -> tuple, and for a TREE the keys in order."""

    __slots__ = ()

    def __init__(self, space: SpaceDef, definition: IndexDef) -> None:
        super().__init__(space, definition, {})
        self._is_bare = self.key_def.is_plain

    def find(self, key: Key) -> Tuple | None:
        return self.tuples.get(key)

    def entry(self, value: Tuple) -> Key:
        return self.key_def.of(value)

    def keys_at(self, entries: Iterable[Key]) -> Iterator[tuple[Key, Key]]:
        return ((entry, entry) for entry in entries)

    def _all_entries(self) -> Iterable[Key]:
        return self.tuples

    def _tuples_at(self, entries: Iterable[Key]) -> Iterator[Tuple]:
        return map(self.tuples.__getitem__, entries)

    def put(self, key: Key, value: Tuple) -> None:
        tuples = self.tuples
        if self._sorted is not None and key not in tuples and self.is_tree:
            self._sorted.add(key)
        tuples[key] = value

    def put_all(self, keys: Sequence[Key], values: Sequence[Tuple]) -> None:
        """keys: all different."""
        tuples = self.tuples
        if self._sorted is not None and self.is_tree:
            self._sorted.add_all([key for key in keys if key not in tuples])
        tuples.update(zip(keys, values, strict=True))

    def remove(self, key: Key) -> None:
        if self.tuples.pop(key, None) is not None and self._sorted is not None and self.is_tree:
            self._sorted.remove(key)


class SecondaryIndex(Index):
    """Entries in order [index.I2], and if unique, key -> primary key."""

    __slots__ = ("_is_strict", "primary", "primary_keys")

    def __init__(self, primary: PrimaryIndex, definition: IndexDef) -> None:
        super().__init__(primary.space, definition, primary.tuples)
        self.primary = primary
        self.primary_keys: dict[Key, Key] = {}
        """key -> primary key, if unique [index.I4]"""
        self._is_strict = definition.unique and not any(part.is_nullable for part in definition.parts)
        """No two keys are equal."""
        self._is_bare = self._is_strict and self.key_def.is_plain

    def find(self, key: Key) -> Tuple | None:
        primary_key = self.primary_keys.get(key)
        return None if primary_key is None else self.tuples.get(primary_key)

    def entry(self, value: Tuple) -> Key:
        return self._entry(self.key_def.of(value), self.primary.key_def.of(value))

    def _check_entry(self, value: Tuple) -> None:
        super()._check_entry(value)
        self.primary._check_entry(value)  # its parts may stand in an entry too

    def _entry(self, key: Key, primary_key: Key) -> Key:
        if self._is_strict:
            return key
        return (key, primary_key) if self.key_def.is_plain else (*key, primary_key)

    def keys_at(self, entries: Iterable[Key]) -> Iterator[tuple[Key, Key]]:
        primary_keys = self.primary_keys
        if self._is_strict:
            return ((entry, primary_keys[entry]) for entry in entries)
        return ((entry, entry[-1]) for entry in entries)

    def _all_entries(self) -> Iterable[Key]:
        of, entry = self.key_def.of, self._entry
        return (entry(of(value), key) for key, value in self.tuples.items())

    def take_apart(self) -> list[dict[Key, Any] | Order]:
        return [*super().take_apart(), self.primary_keys]

    def empty(self, tuples: dict[Key, Tuple]) -> list[dict[Key, Any] | Order]:
        taken = super().empty(tuples)
        self.primary_keys = {}
        return taken

    def _tuples_at(self, entries: Iterable[Key]) -> Iterator[Tuple]:
        tuples, primary_keys = self.tuples, self.primary_keys
        if self._is_strict:
            return (tuples[primary_keys[entry]] for entry in entries)
        return (tuples[entry[-1]] for entry in entries)

    def fill(self, tuples: Iterable[tuple[Key, Tuple]]) -> tuple[Tuple, Tuple] | None:
        """Map more tuples of the space, by primary key. Returns two with the same key if there are any."""
        if not self.definition.unique:
            return None
        of, has_null, primary_keys = self.key_def.of, self.key_def.has_null, self.primary_keys
        for primary_key, value in tuples:
            key = of(value)
            if self._is_strict or not has_null(key):
                other = primary_keys.setdefault(key, primary_key)
                if other != primary_key:
                    return self.tuples[other], value
        return None

    def move(self, primary_key: Key, old: Tuple | None, new: Tuple | None) -> None:
        """Follow a committed change of one tuple."""
        of = self.key_def.of
        old_key = None if old is None else of(old)
        new_key = None if new is None else of(new)
        if old is not None and new is not None and old_key == new_key:
            return
        order = self._sorted if self.is_tree else None
        if old is not None:
            # Another tuple of the same transaction may have taken the key already, and with it a bare entry.
            is_holder = self.primary_keys.get(old_key) == primary_key
            if is_holder:
                del self.primary_keys[old_key]
            if order is not None and (is_holder or not self._is_strict):
                order.remove(self._entry(old_key, primary_key))
        if new is not None:
            is_entered = self._is_strict and new_key in self.primary_keys
            if self.definition.unique and not self.key_def.has_null(new_key):
                self.primary_keys[new_key] = primary_key
            if order is not None and not is_entered:
                order.add(self._entry(new_key, primary_key))
