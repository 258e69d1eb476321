"""A space as a writer sees it, for a reader who asks for that: what waits for its decision too. [Q-56]

V1  What is found is what `select` would find if all that is prepared were committed now.
V2  By a full key of a unique index it costs what any read does. Other reads look once at each pending change
    of the space; an offset is jumped over as far as the order of committed tuples allows (ADR 25).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from synchro.row import Tuple
from synchro.storage.index import Index, SecondaryIndex, Span
from synchro.storage.key_def import Key
from synchro.storage.space_store import SpaceStore


class PreparedView:
    """`index.View` of the prepared state. prepared_view.V1..V2 above; nothing may change while it is read."""

    __slots__ = ("_store",)

    def __init__(self, store: SpaceStore) -> None:
        self._store = store

    def find(self, index: Index, key: Key) -> Tuple | None:
        primary_key = self._primary_key(index, key) if isinstance(index, SecondaryIndex) else key
        return None if primary_key is None else self._store.seen(primary_key)

    def _primary_key(self, index: SecondaryIndex, key: Key) -> Key | None:
        store = self._store
        for unique, pending in store.unique:
            if unique is index and key in pending:
                return pending[key][1]
        return None if store.clears else index.primary_keys.get(key)

    def tuples(self) -> Iterable[Tuple]:
        return self._store.prepared_tuples()

    def walk(self, index: Index, span: Span, offset: int) -> Iterator[Tuple]:
        """Committed tuples that no pending change touches, and the pending ones, merged by their entries."""
        low, high, descending = span
        added = index.placed(span, (new for _, new in self._store.pending.values()))
        # At least so many of the tuples that are left out are committed ones, the hidden among them.
        jump = max(0, offset - len(added))
        entries: Iterator[Key] = iter(())
        if not self._store.clears:
            entries = index.sort().walk(low, high, descending=descending, offset=jump)
        if jump:
            landed = list(islice(entries, 1))
            if not landed:
                return iter(())
            entries = chain(landed, entries)
            end = (landed[0], False)
            is_past = (span._replace(low=end) if descending else span._replace(high=end)).holds
            still = [one for one in added if not is_past(one[0])]
            offset -= jump - sum(map(is_past, self._hidden(index))) + len(added) - len(still)
            added = still
        kept = self._kept(index, entries)
        return islice(span.merged(kept, added), offset, None)

    def _hidden(self, index: Index) -> Iterator[Key]:
        """Entries of the committed tuples that pending changes take the place of."""
        view = self._store.view
        return (index.entry(view[key]) for key in self._store.pending if key in view)

    def _kept(self, index: Index, entries: Iterator[Key]) -> Iterator[tuple[Key, Tuple]]:
        """Those of committed tuples that no pending change touches."""
        tuples, pending = self._store.tuples, self._store.pending
        return ((entry, tuples[key]) for entry, key in index.keys_at(entries) if key not in pending)
