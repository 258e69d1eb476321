"""How a change is committed where the last write wins [stamps.G1]. ADR 44.

What a client writes lies in the overlay, as in any space, where the next writer finds it. Received rows do
not: they take effect when they are committed, or not at all. So whatever becomes of what is undecided at that
moment, the committed changes are merged by their stamps.
"""

from __future__ import annotations

from synchro.row import Tuple
from synchro.storage.key_def import Key
from synchro.storage.prepared import Pending, Prepared
from synchro.storage.space_store import SpaceStore
from synchro.storage.stamp_clock import UNKNOWN, Stamp


class StampedChange:
    """A holder: one change of one key, which is merged when it is committed [stamps.G1]."""

    is_system = False

    __slots__ = ("_is_seen", "_known", "_stamp", "_store")

    def __init__(self, store: SpaceStore, stamp: Stamp, *, is_seen: bool, known: Stamp = UNKNOWN) -> None:
        """is_seen: it lies in the overlay, where the next writer finds it. known: of its key, when it was
        prepared; the tombstone that said so may be forgotten before this is committed."""
        self._store = store
        self._stamp = stamp
        self._is_seen = is_seen
        self._known = known

    def commit(self, prepared: Prepared, key: Key, new: Tuple | None) -> None:
        store, stamp = self._store, self._stamp
        stamps = store.stamps
        assert stamps is not None
        before = store.seen(key)
        if self._is_seen:
            found = store.pending.get(key)
            if found is not None and found[0] is prepared:
                del store.pending[key]
        if stamp >= self._known and stamp >= stamps.of(key):
            store.settle(key, new)
            if stamp.time:
                stamps.take(key, stamp, prepared.lsn, is_deleted=new is None)
        prepared.late_growth += store.weigh(before, store.seen(key))

    def rollback(self, prepared: Prepared, key: Key, below: Pending | None, size: int) -> int:
        if not self._is_seen:
            return 0
        store = self._store
        before = store.seen(key)
        store.uncover(prepared, key, below)
        return -store.weigh(before, store.seen(key))

    def undo_temporary(self, key: Key, old: Tuple | None, new: Tuple | None) -> int:
        raise AssertionError("a temporary space has no stamps")
