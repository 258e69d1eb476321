"""What an open transaction has read, and whether that is still so. Rule [D-43], ADR 52.

V1  What was read is looked at again in the step that makes the transaction, before its first change, and in
    the prepared state as every condition (conditions.N1): a transaction that was prepared meanwhile counts,
    though nobody may see it yet. Who is in conflict with it rests on it. What is pending is put in the order
    of an index once, for all ranges of the transaction (`PendingOrders`).
V2  What was read counts by value: what was changed and changed back is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from synchro.errors import TransactionConflict
from synchro.row import PENDING_ROW_BYTES, Tuple
from synchro.storage.index import Index, Iterator_, Span
from synchro.storage.key_def import Key, Part
from synchro.storage.msgpack_check import packb
from synchro.storage.prepared import Prepared
from synchro.storage.space_changes import find
from synchro.storage.space_store import SpaceStore
from synchro.storage.tuple_format import show_tuple
from synchro.storage.update_ops import OP_WORK, Work

SEEN_WORK = PENDING_ROW_BYTES
"""What each tuple that is looked at again, and each pending change beside ranges of an index, counts in
`Work`."""

_ADVICE: Final = (
    ": it looks again at what it has read, and at what waits for its quorum there. Next: read less in one "
    "transaction, or begin it again when less waits"
)

PendingOrders: TypeAlias = dict[tuple[int, int], tuple[Sequence[Key], Sequence[Prepared]]]
"""(space, index) -> the entries of the tuples that pending changes make, or take the place of, in order; and
whose changes they are. Of one moment: the reads of a transaction are looked at before its first change."""


class Unchanged(NamedTuple):
    """One read: it must find now what it found then.

    parts: of the index as it was. key, iterator, after: as in a select. seen: the committed tuples that it
    came by, in its order. is_whole: it came to the end of what it was to read; False: it stopped at the last
    of `seen`, and what lies behind does not matter.
    """

    space_id: int
    index_id: int
    parts: tuple[Part, ...]
    key: Tuple
    iterator: Iterator_ = Iterator_.EQ
    after: Tuple | None = None
    seen: tuple[Tuple, ...] = ()
    is_whole: bool = True
    is_point: bool = False
    """By all parts of a unique index, none of them null."""

    @property
    def at(self) -> int:
        """As in a `Condition`: it is looked at before the first change."""
        return 0

    @property
    def is_of_change(self) -> bool:
        """As in a `Condition`."""
        return False


def is_same(one: Tuple | None, other: Tuple | None) -> bool:
    """read_set.V2: by its bytes, where Python would say that 1 is true."""
    return one is other or (one is not None and other is not None and packb(one) == packb(other))


def check_read(
    read: Unchanged, store: SpaceStore, prepared: Prepared, work: Work, orders: PendingOrders
) -> None:
    """Raises `TransactionConflict`; `prepared.base` is what that rests on [read_set.V1]. orders: the same for
    all reads of the transaction, empty for the first."""
    work.spend(OP_WORK + SEEN_WORK * len(read.seen), _ADVICE)
    index = _same_index(read, store)
    if read.is_point:
        found = find(store, prepared, read)
        if not is_same(None if found is None else found[1], read.seen[0] if read.seen else None):
            raise conflict(read, store)
        return
    span = _unchanged_span(read, store, index)
    if store.clears and read.seen:
        prepared.rest_on(store.clears[-1])
        raise conflict(read, store)
    if store.pending:
        place = (read.space_id, read.index_id)
        if place not in orders:
            work.spend(SEEN_WORK * len(store.pending), _ADVICE)
            orders[place] = _pending_order(store, index)
        entries, others = orders[place]
        at = span.first_of(entries)
        if at < len(entries) and span.holds(entries[at]):
            prepared.rest_on(others[at])
            raise conflict(read, store)


def _pending_order(store: SpaceStore, index: Index) -> tuple[Sequence[Key], Sequence[Prepared]]:
    found = [
        (index.entry(value), other)
        for key, (other, new) in store.pending.items()
        for value in (store.view.get(key), new)
        if value is not None
    ]
    found.sort(key=itemgetter(0))
    return [entry for entry, _ in found], [other for _, other in found]


def check_committed(read: Unchanged, store: SpaceStore) -> None:
    """The same of committed tuples alone: for who changes nothing, and so waits for nobody. Raises
    `TransactionConflict`."""
    index = _same_index(read, store)
    if read.is_point:
        if not is_same(index.find(index.key_def.exact(read.key)), read.seen[0] if read.seen else None):
            raise conflict(read, store)
    else:
        _unchanged_span(read, store, index)


def _same_index(read: Unchanged, store: SpaceStore) -> Index:
    index = store.indexes.get(read.index_id)
    if index is None or index.key_def.parts != read.parts:
        raise redefined(store)
    return index


def _unchanged_span(read: Unchanged, store: SpaceStore, index: Index) -> Span:
    """What was read, as far as it was. Raises `TransactionConflict` if other tuples are committed there."""
    span = index.span(read.key, read.iterator, read.after)
    now = index.walk(span)
    for seen in read.seen:
        if not is_same(next(now, None), seen):
            raise conflict(read, store)
    if not read.is_whole:
        return span.until(index.entry(read.seen[-1]))
    if next(now, None) is not None:
        raise conflict(read, store)
    return span


def conflict(read: Unchanged, store: SpaceStore) -> TransactionConflict:
    index = store.index(read.index_id).definition.name
    if read.is_point:
        what = f"the tuple with key {show_tuple(read.key)} of index '{index}'"
    else:
        what = f"what was read with {read.iterator.name} {show_tuple(read.key)} of index '{index}'"
    return TransactionConflict(
        f"Transaction has been aborted by conflict: {what} in space '{store.definition.name}' has changed "
        "since it was read; nothing was written",
        space=store.definition.name,
        index=index,
        key=show_tuple(read.key),
    )


def redefined(store: SpaceStore) -> TransactionConflict:
    return TransactionConflict(
        f"Transaction has been aborted by conflict: space '{store.definition.name}' was defined anew or "
        "emptied since the transaction began; nothing was written",
        space=store.definition.name,
    )
