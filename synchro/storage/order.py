"""The sorted order of a TREE index: its entries, read upward or downward from any bound.

R1  Entries are all different. `add` of one that is there, and a change while a walk goes on, are errors of
    the caller.
R2  `ListOrder` holds anything that compares, and jumps over an offset. `UnsignedOrder` holds integers of
    0..2^64-1; a change costs a third, but it steps over an offset leaf by leaf (ADR 12).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from random import Random
from typing import Any, Final, Protocol, TypeAlias

from BTrees.QOBTree import QOTreeSet
from sortedcontainers import SortedList

from synchro.storage.key_def import INT_MAX, Key

Bound: TypeAlias = tuple[Key, bool] | None
"""Where a walk ends on one side: (entry, whether it is included), be it there or not. None: nowhere."""


class Order(Protocol):
    """What an index needs of it. order.R1 above."""

    def add(self, entry: Key, /) -> object: ...

    def add_all(self, entries: Iterable[Key], /) -> object: ...

    def remove(self, entry: Key, /) -> object:
        """KeyError if it is not there."""

    def walk(
        self, low: Bound = None, high: Bound = None, *, descending: bool = False, offset: int = 0
    ) -> Iterator[Key]:
        """The entries between two bounds, one by one, without the first `offset` of them."""

    def shrink(self, count: int, /) -> bool:
        """Nobody reads it any more: let go of about so many entries. True: nothing is left."""


def order_of(entries: Iterable[Key], *, is_unsigned: bool) -> Order:
    """is_unsigned: all that will ever be in it are integers of 0..2^64-1."""
    return UnsignedOrder(entries) if is_unsigned else ListOrder(entries)


_BUCKET: Final = 3_000
"""Entries that are sorted and added in one step: a few milliseconds."""


def order_in_steps(entries: Iterable[Key], rows: int, *, is_unsigned: bool) -> Generator[None, None, Order]:
    """`order_of`, so many entries a step.

    A list takes entries fastest in their order, and to sort all of them is one long step; so they are put
    into buckets first, between borders that a sample gives, and then sorted bucket by bucket."""
    order, rest = order_of((), is_unsigned=is_unsigned), iter(entries)
    if is_unsigned:
        while chunk := list(islice(rest, rows)):
            order.add_all(chunk)
            yield
        return order
    all_entries: list[Key] = []
    while chunk := list(islice(rest, rows)):
        all_entries += chunk
        yield
    count = len(all_entries) // _BUCKET
    borders = sorted(Random(0).sample(all_entries, 10 * count))[10::10]
    buckets: list[list[Key]] = [[] for _ in range(len(borders) + 1)]
    for start in range(0, len(all_entries), rows):
        for entry in all_entries[start : start + rows]:
            buckets[bisect_right(borders, entry)].append(entry)
        yield
    while buckets:
        bucket = buckets.pop(0)
        bucket.sort()
        order.add_all(bucket)
        yield
    while all_entries:
        del all_entries[-100 * rows :]
        yield
    return order


class ListOrder:
    __slots__ = ("_entries", "add")

    def __init__(self, entries: Iterable[Key]) -> None:
        self._entries = SortedList(entries)
        self.add: Callable[[Key], object] = self._entries.add

    def shrink(self, count: int, /) -> bool:
        entries = self._entries
        for _ in range(min(count, len(entries))):
            entries.pop()
        return not entries

    def add_all(self, entries: Iterable[Key], /) -> None:
        add = self.add
        for entry in entries:
            add(entry)

    def remove(self, entry: Key, /) -> None:
        try:
            self._entries.remove(entry)
        except ValueError:
            raise KeyError(entry) from None

    def walk(
        self, low: Bound = None, high: Bound = None, *, descending: bool = False, offset: int = 0
    ) -> Iterator[Key]:
        entries = self._entries
        start, stop = 0, len(entries)
        if low is not None:
            entry, is_included = low
            start = entries.bisect_left(entry) if is_included else entries.bisect_right(entry)
        if high is not None:
            entry, is_included = high
            stop = entries.bisect_right(entry) if is_included else entries.bisect_left(entry)
        if descending:
            stop -= offset
        else:
            start += offset
        found: Iterator[Key] = entries.islice(start, stop, reverse=descending) if start < stop else iter(())
        return found


class _Tree(QOTreeSet):  # type: ignore[misc]
    """Leaves of 60 numbers, as the library has them, make a tree higher: a third more time for an entry."""

    __slots__ = ()
    max_leaf_size = 500
    max_internal_size = 500


class UnsignedOrder:
    """Numbers lie in the nodes themselves: a search does not visit one object a comparison."""

    __slots__ = ("_tree", "add", "add_all", "remove")

    def __init__(self, entries: Iterable[Key]) -> None:
        self._tree: Any = _Tree(entries)
        self.add: Callable[[Key], object] = self._tree.add
        self.add_all: Callable[[Iterable[Key]], object] = self._tree.update
        self.remove: Callable[[Key], object] = self._tree.remove

    def walk(
        self, low: Bound = None, high: Bound = None, *, descending: bool = False, offset: int = 0
    ) -> Iterator[Key]:
        first, last = 0, INT_MAX
        if low is not None:
            first = low[0] if low[1] else low[0] + 1
        if high is not None:
            last = high[0] if high[1] else high[0] - 1
        if first > last:  # also where a bound has left 0..2^64-1, which the tree refuses
            return iter(())
        if offset:
            # The tree goes there leaf by leaf. Asked beyond its end it would abort the process.
            between = self._tree.keys(first, last)
            size = len(between)
            if offset >= size:
                return iter(())
            end = between[size - 1 - offset if descending else offset]
            first, last = (first, end) if descending else (end, last)
        return self._down(first, last) if descending else iter(self._tree.keys(first, last))

    def shrink(self, count: int, /) -> bool:
        self._tree.clear()  # a few thousand leaves without objects
        return True

    def _down(self, first: int, last: int) -> Iterator[Key]:
        max_key = self._tree.maxKey
        while first <= last:
            try:
                entry = max_key(last)
            except ValueError:  # nothing at or below
                return
            if entry < first:
                return
            yield entry
            last = entry - 1
