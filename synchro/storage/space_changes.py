"""What a writer may do to one space, in its prepared state (space_store.O1..O4). [D-16], [D-17].

All are by full key of a unique index, so overlays need no order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from itertools import repeat
from typing import Protocol

from synchro.errors import BatchTooLarge, CantUpdatePrimaryKey, MoreThanOneTuple, WrongFormat
from synchro.row import Dml, RowType, Tuple
from synchro.storage.index import SecondaryIndex
from synchro.storage.index_build import duplicate_key
from synchro.storage.key_def import Key
from synchro.storage.msgpack_check import NESTED, check_nested, count_values, packb
from synchro.storage.prepared import Pending, Prepared
from synchro.storage.space_store import SLOW_TO_FREE, SpaceStore
from synchro.storage.update_ops import Work, apply_ops, apply_upsert_ops, check_ops

_VALUE_WORK = 40
"""What each value of an updated tuple counts in `Work`: small ones cost more than their bytes."""


def _spend_on(old: Tuple, work: Work) -> None:
    """Before anything is done with its values; they are counted only as far as `work` reaches."""
    if work.left is not None:
        work.spend(_VALUE_WORK * count_values((old,), work.left // _VALUE_WORK))


def put(store: SpaceStore, prepared: Prepared, value: Tuple, *, replace: bool) -> Tuple | None:
    """Insert or replace; returns the old tuple."""
    store.format.check(value)
    if store.plain_field >= 0:
        key = value[store.plain_field]
    elif store.key_of is not None:
        key = store.key_of(value)
    else:
        store.need_primary()
    below = store.pending.get(key)
    if below is None:
        old = store.view.get(key)
    else:
        old = below[1]
        prepared.rest_on(below[0])
    if old is not None and not replace:
        raise duplicate_key(store.definition, store.need_primary(), old, value)
    if store.unique or store.is_temporary:
        store.push(prepared, key, old, value, below)
    else:  # the same as `push`, spelled out: most writes come here
        size = len(packb(value)) + store.tuple_overhead
        if old is not None:
            old_size = store.memory_of(old)
            size -= old_size
            if old_size >= SLOW_TO_FREE:
                prepared.lets_go((old,))
        store.memory += size
        prepared.growth += size
        store.pending[key] = (prepared, value)
        prepared.changes.append((store, key, value, below, size))
    return old


def takes_columns(store: SpaceStore) -> bool:
    """Whether `put_new` may ever say yes: secondary unique indexes want a look at each tuple."""
    return store.key_of is not None and store.is_plain and not store.unique and not store.is_temporary


def loners(store: SpaceStore, values: Sequence[Tuple], *, replace: bool) -> Sequence[int]:
    """Positions of those that stand in the way of `put_new`: refused by the format, or with a key that is
    pending, there (unless it may be replaced), or twice among them."""
    assert takes_columns(store) and store.key_of is not None
    passes, of, pending = store.format.passes, store.key_of, store.pending
    there: Container[Key] = () if replace else store.view
    found: list[Key | None] = [of(value) if passes((value,)) else None for value in values]
    times = Counter(found)
    return [
        at for at, key in enumerate(found) if key is None or times[key] > 1 or key in pending or key in there
    ]


def put_new(store: SpaceStore, prepared: Prepared, values: Sequence[Tuple], *, replace: bool) -> bool:
    """All of them at once, if no key is pending or twice among them, and none is refused.

    False: nothing has changed; `put` them one by one, which finds the one that is refused.
    """
    if not takes_columns(store) or not store.format.passes(values):
        return False
    assert store.key_of is not None
    keys = list(map(store.key_of, values))
    pending = store.pending
    if not pending.keys().isdisjoint(keys) or not (replace or store.view.keys().isdisjoint(keys)):
        return False
    size = len(pending)
    pending.update(zip(keys, zip(repeat(prepared), values, strict=False), strict=True))
    if len(pending) - size != len(keys):
        for key in keys:
            pending.pop(key, None)
        return False
    prepared.run = (store, keys, values)
    size = store.memory_of_all(values)
    if replace:
        old = [store.view[key] for key in keys if key in store.view]
        old_size = store.memory_of_all(old)
        size -= old_size
        if old_size >= SLOW_TO_FREE * len(keys):
            prepared.lets_go(old)
    store.memory += size
    prepared.growth += size
    return True


def update(
    store: SpaceStore, prepared: Prepared, op: Dml, work: Work, *, ops_max: int | None, bytes_max: int | None
) -> tuple[Dml, Tuple | None, Tuple | None]:
    """Returns the operation to be logged, the old and the new tuple (both None: no such key) [D-40]."""
    assert op.ops is not None
    check_ops(op.ops, count_max=ops_max)
    found = find(store, prepared, op)
    if found is None:
        return op, None, None
    key, old, below = found
    _spend_on(old, work)
    new = apply_ops(old, op.ops, store.format.names, work)
    _check_result(store, op.ops, new, bytes_max, work)
    primary = store.need_primary()
    if primary.key_def.of(new) != key:
        raise CantUpdatePrimaryKey(
            "Attempt to modify a tuple field which is part of primary index "
            f"in space '{store.definition.name}'"
        )
    store.push(prepared, key, old, new, below)
    return _by_primary_key(store, op, old), old, new


def delete(store: SpaceStore, prepared: Prepared, op: Dml) -> tuple[Dml, Tuple | None]:
    """Returns the operation to be logged and the old tuple [D-41]."""
    found = find(store, prepared, op)
    if found is None:
        return op, None
    key, old, below = found
    store.push(prepared, key, old, None, below)
    return _by_primary_key(store, op, old), old


def upsert(
    store: SpaceStore, prepared: Prepared, op: Dml, work: Work, *, ops_max: int | None, bytes_max: int | None
) -> tuple[Tuple | None, Tuple | None]:
    """Returns the old and the new tuple. A changed primary key leaves all as it was [D-17]."""
    assert op.value is not None and op.ops is not None
    primary = store.need_primary()
    check_ops(op.ops, count_max=ops_max)
    store.format.check(op.value)
    key = primary.key_def.of(op.value)
    below = store.pending.get(key)
    if below is not None:
        prepared.rest_on(below[0])
    old = store.view.get(key) if below is None else below[1]
    new = op.value
    if old is not None:
        _spend_on(old, work)
        new = apply_upsert_ops(old, op.ops, store.format.names, work)
        _check_result(store, op.ops, new, bytes_max, work)
        if primary.key_def.of(new) != key:
            return old, old
    store.push(prepared, key, old, new, below)
    return old, new


def clear(store: SpaceStore, prepared: Prepared) -> None:
    """Delete every tuple of the prepared state; those that nobody is changing all at once."""
    for key, (_, value) in list(store.pending.items()):
        if value is not None:
            store.push(prepared, key, value, None, store.pending[key])
    clear = Clear(store, prepared)
    prepared.growth -= clear.memory
    if store.is_temporary:
        if prepared.temporary is None:
            prepared.temporary = []
        prepared.temporary.append((clear, None, None, None))
        clear.commit(prepared, None, None)
    else:
        prepared.changes.append((clear, None, None, None, -clear.memory))


class Keyed(Protocol):
    """What names a tuple by a full key of a unique index."""

    @property
    def index_id(self) -> int: ...
    @property
    def key(self) -> Tuple | None: ...


def find(store: SpaceStore, prepared: Prepared, op: Keyed) -> tuple[Key, Tuple, Pending | None] | None:
    """Primary key, prepared tuple and its overlay entry, by full key of any unique index."""
    assert op.key is not None
    index = store.need_primary() if op.index_id == 0 else store.index(op.index_id)
    if not index.definition.unique:
        raise MoreThanOneTuple(
            "Update, delete and conditions don't support partial keys and non-unique indexes"
        )
    key = index.key_def.exact(op.key)
    if isinstance(index, SecondaryIndex):
        if index.key_def.has_null(key):
            raise MoreThanOneTuple(
                "Update, delete and conditions don't support null in a key: it is not unique"
            )
        key = _primary_key(store, prepared, index, key)
        if key is None:
            return None
    below = store.pending.get(key)
    if below is not None:
        old = below[1]
        prepared.rest_on(below[0])
    else:
        old = store.view.get(key)
        if store.clears:
            prepared.rest_on(store.clears[-1])
    return None if old is None else (key, old, below)


def _primary_key(store: SpaceStore, prepared: Prepared, index: SecondaryIndex, key: Key) -> Key | None:
    """Primary key that a unique secondary key leads to in the prepared state."""
    for unique, pending in store.unique:
        if unique is index:
            found = pending.get(key)
            if found is not None:
                prepared.rest_on(found[0])
                return found[1]
    if store.clears:
        prepared.rest_on(store.clears[-1])
        return None
    return index.primary_keys.get(key)


def _by_primary_key(store: SpaceStore, op: Dml, old: Tuple) -> Dml:
    if op.index_id == 0:
        return op
    key = store.need_primary().key_def.user_key(old)
    return Dml(op.type, op.space_id, b"", 0, key, None, op.ops if op.type is RowType.UPDATE else None)


def _check_result(
    store: SpaceStore, ops: Sequence[Tuple], new: Tuple, bytes_max: int | None, work: Work
) -> None:
    """bytes_max: None for what was accepted once (ADR 24)."""
    store.format.check(new)
    if bytes_max is None:
        return
    size = store.packed_size(new)
    work.spend(size // 4)
    if size > bytes_max:
        raise BatchTooLarge(
            f"Tuple of {size} bytes is over the limit of {bytes_max}", limit=bytes_max, got=size
        )
    if any(type(op[1]) is str and type(op[-1]) in NESTED for op in ops):  # else nothing came to lie deeper
        work.spend(size // 4)
        try:
            check_nested(new, 1)
        except ValueError as error:
            raise WrongFormat(f"The updated tuple would be {error}; nothing was done") from error


class Clear:
    """All tuples of a space deleted by one change, which stands among the others as if it were a store.

    While it waits for its decision writers look into an empty map instead of the tuples, and what others had
    prepared is deleted key by key above that.
    """

    is_system = False

    def __init__(self, store: SpaceStore, prepared: Prepared) -> None:
        self._store = store
        self.memory = store.memory
        store.memory = 0
        store.clears.append(prepared)
        store.view = {}

    def commit(self, prepared: Prepared, key: Key, new: Tuple | None) -> None:
        store = self._store
        store.clears.remove(prepared)
        store.bury(*store.take_out())

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None, size: int) -> int:
        """As `SpaceStore.rollback`."""
        store = self._store
        assert not store.view and store.clears[-1] is prepared  # newest first [space_store.O3]
        store.clears.pop()
        store.view = {} if store.clears else store.tuples
        store.memory -= size
        return size

    def undo_temporary(self, key: Key, old: Tuple | None, new: Tuple | None) -> int:
        """Everybody has seen it already: it stays [space_store.O4]."""
        return 0
