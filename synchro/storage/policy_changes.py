"""Changes of spaces that remember who wrote their tuples (`OwnKeys`), and when (`Stamps`). ADR 44.

`run` makes the change as in any other space. Each function returns what becomes of one operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from synchro.errors import Unsupported
from synchro.row import Dml, RowType, Tuple
from synchro.storage.key_def import Key
from synchro.storage.msgpack_check import packb
from synchro.storage.own_keys import kept
from synchro.storage.prepared import Prepared
from synchro.storage.row_body import insert_dml, stamped
from synchro.storage.space_changes import find
from synchro.storage.space_store import SpaceStore
from synchro.storage.stamp_clock import UNSTAMPED, Stamp
from synchro.storage.stamped_change import StampedChange

Done: TypeAlias = tuple[Dml | None, Tuple | None, Tuple | None, Tuple | None]
"""What to log, None: nothing; the old and the new tuple, what to answer."""
Run: TypeAlias = Callable[[], Done]


def keep_or_run(store: SpaceStore, prepared: Prepared, op: Dml, run: Run, *, by_policy: bool) -> Done:
    """by_policy: it was received, and what was written here is kept: raises `TupleFound` [A-54]."""
    assert store.own is not None
    if by_policy and not prepared.is_own:
        keep_own(store, prepared, op)
    count = len(prepared.changes)
    done = run()
    if len(prepared.changes) > count:
        store.own.follow(prepared)
    return done


def keep_own(store: SpaceStore, prepared: Prepared, op: Dml) -> None:
    """Raise `TupleFound` if a change of another instance would touch a tuple that was last written here, or
    that is being written here: then `prepared` rests on that."""
    assert store.own is not None
    key = named_key(store, prepared, op)
    if key is None:
        return
    below, old = store.pending.get(key), store.seen(key)
    if below is not None and below[0].is_own:
        prepared.rest_on(below[0])
    is_kept = key in store.own.keys if below is None else below[0].is_own
    if is_kept and old is not None:
        raise kept(store.definition, op, old)


def named_key(store: SpaceStore, prepared: Prepared, op: Dml) -> Key | None:
    """The primary key of the tuple that a change is about; None: there is no such tuple."""
    if op.value is not None:
        store.format.check(op.value)
        return store.need_primary().key_def.of(op.value)
    found = find(store, prepared, op)
    return None if found is None else found[0]


def run_and_stamp(store: SpaceStore, prepared: Prepared, op: Dml, run: Run, stamp: Stamp) -> Done:
    """A client's change where the last write wins: it is logged as a whole tuple, or a deletion. One that
    changes nothing is not logged; a deletion of nothing is, since others may have the tuple."""
    count = len(prepared.changes)
    _, old, new, result = run()
    if len(prepared.changes) > count:
        _cover(store, prepared, stamp)
    elif op.type is RowType.DELETE:
        assert op.key is not None
        key = store.need_primary().key_def.exact(op.key)
        prepared.changes.append((StampedChange(store, stamp, is_seen=False), key, None, None, 0))
    else:
        return None, old, new, result
    if op.type is RowType.UPDATE or op.type is RowType.UPSERT:
        op = insert_dml(RowType.REPLACE, op.space_id, packb(new))
    return stamped(op, stamp.time), old, new, result


def _cover(store: SpaceStore, prepared: Prepared, stamp: Stamp) -> None:
    """The change that was prepared last is decided by its stamp."""
    _, key, value, below, size = prepared.changes[-1]
    prepared.changes[-1] = (StampedChange(store, stamp, is_seen=True), key, value, below, size)


def merge(store: SpaceStore, prepared: Prepared, op: Dml, *, is_new: bool) -> Done:
    """A logged change where the last write wins [stamps.G1]. is_new: it comes from a peer, not from the own
    log; then raises `TombstonesGone`."""
    assert store.stamps is not None
    primary = store.need_primary()
    if op.value is not None and op.ops is None:
        store.format.check(op.value)
        key = primary.key_def.of(op.value)
    elif op.type is RowType.DELETE and op.index_id == 0 and op.key is not None:
        key = primary.key_def.exact(op.key)
    else:
        raise Unsupported(f"Space '{store.definition.name}' does not support a stamped {op.type.name}")
    stamp = Stamp(op.stamp, prepared.origin)
    if is_new and key not in store.tuples:  # what is there was not deleted since
        store.stamps.check_known(key, stamp)
    change = StampedChange(store, stamp, is_seen=False, known=store.stamps.of(key))
    prepared.changes.append((change, key, op.value, None, 0))
    return op, None, op.value, op.value


def run_unstamped(store: SpaceStore, prepared: Prepared, op: Dml, run: Run, *, is_new: bool) -> Done:
    """A logged change from before the space had stamps [stamps.G3]: as without a policy, where nothing newer
    is known. is_new: as in `merge`."""
    assert store.stamps is not None
    key = named_key(store, prepared, op)
    if key is not None and store.stamps.of(key).time:
        return op, None, None, None
    if is_new and key is not None and key not in store.tuples:
        store.stamps.check_known(key, UNSTAMPED)
    count = len(prepared.changes)
    done = run()
    if len(prepared.changes) > count:
        _cover(store, prepared, UNSTAMPED)
    return done
