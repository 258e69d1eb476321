"""What an open transaction sees: the committed tuples, and above them its own changes, which nobody else
sees. Rule [D-43], ADR 52.

P1  Nothing outside of it changes. What it holds beside that is let go of with it.
P2  It shows committed tuples only, as every reader does [memtx.X3], and its own changes.
P3  Whatever an answer told of committed tuples is in `reads`, as it was when it was told first. So is what a
    refusal told: of a duplicate key, or a condition.
P4  A statement finds what is committed under all keys that were told before as it was then, or the
    transaction goes no further: its own changes lie above those tuples.

Pure: who asks, and for how long, is for the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import islice
from typing import NamedTuple

from synchro.config import Limits
from synchro.errors import BatchTooLarge, NoSuchSpace, TupleFound, Unsupported
from synchro.row import Dml, RowType, Tuple
from synchro.storage.catalog import Catalog
from synchro.storage.conditions import Condition
from synchro.storage.conditions import check as check_condition
from synchro.storage.index import Index, Iterator_, SecondaryIndex, SelectResult
from synchro.storage.key_def import Key
from synchro.storage.prepared import Prepared
from synchro.storage.read_set import Unchanged, check_committed, conflict, is_same, redefined
from synchro.storage.space_changes import delete, find, put, update, upsert
from synchro.storage.space_store import SpaceStore
from synchro.storage.update_ops import Work, apply_ops, apply_upsert_ops

PAGE_TUPLES = 1000
"""The most tuples that one read visits, those that an offset steps over among them: a few milliseconds."""
SEEN_TUPLES_MAX = 10_000
"""The most committed tuples that one transaction may have read: they are looked at again in one step."""
READS_MAX = 2000
"""The same for its reads; an operation that changes a tuple reads it, and its place in each unique index."""
READ_BYTES = 256
"""What is counted for a read beside the tuples that it saw."""


class _Space(NamedTuple):
    """A space as it is, and as the transaction sees it."""

    store: SpaceStore
    mine: SpaceStore


class PrivateView:
    """One open transaction. private_view.P1..P4 above."""

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self.ops: list[Dml] = []
        """Its changes so far, in order, as they were asked for."""
        self.bytes = 0
        """About what it keeps in memory."""
        self._catalog = catalog
        self._limits = limits
        self._spaces: dict[int, _Space] = {}
        self._prepared = Prepared(0)
        self._points: dict[tuple[int, int, Key], _Told] = {}
        self._ranges: list[Unchanged] = []
        self._seen = 0
        self._op_bytes = 0

    @property
    def reads(self) -> list[Unchanged]:
        """What must still be so when it is made."""
        return [*(told.read for told in self._points.values()), *self._ranges]

    def check_definitions(self) -> None:
        """Raises `TransactionConflict` if a space that it used is not what it was [catalog.C1]."""
        for space_id, space in self._spaces.items():
            if not _is_as_it_was(space, self._catalog.stores.get(space_id)):
                raise redefined(space.store)

    def check_committed(self) -> None:
        """Raises `TransactionConflict` unless all that it read is so now, together."""
        self.check_definitions()
        for read in self.reads:
            check_committed(read, self._spaces[read.space_id].store)

    # --- changes

    def run(self, op: Dml | None, conditions: Sequence[Condition] = ()) -> Tuple | None:
        """Do one operation; returns what it answers [D-16]. op: None: only the conditions are looked at.

        Raises what the same operation of `Execute` raises, for its limits too: nothing of it was done, and
        the transaction goes on. `TransactionConflict`: it cannot be made any more.
        """
        self._check_told()
        self._check_room(op)
        work = Work(self._limits.txn_work_bytes_max)
        for condition in conditions:
            self._check_reads(1)
            space = self._space(condition.space_id)
            self._read_key(space, condition.index_id, condition.key)
            check_condition(condition, space.mine, self._prepared, work)
        if op is None:
            return None
        space = self._space(op.space_id)
        self._check_reads(1 + len(space.mine.unique))  # nothing is refused behind the change
        before = self._prepared.growth
        try:
            is_change, result = self._change(space, op, work)
        except TupleFound:
            self._read_uniques(space, self._refused(space, op))
            raise
        if is_change:
            self._op_bytes += len(op.raw)
            self.bytes += len(op.raw) + max(0, self._prepared.growth - before)
            self.ops.append(op)
        self._prepared.forget()  # it is never undone
        return result

    def _change(self, space: _Space, op: Dml, work: Work) -> tuple[bool, Tuple | None]:
        """Whether it changes anything; what is answered."""
        mine, prepared, limits = space.mine, self._prepared, self._limits
        if mine.numbering is not None and op.value is not None:
            _refuse_numbering(space, op.value)
        ops_max, bytes_max = limits.update_ops_max, limits.tuple_bytes_max
        match op.type:
            case RowType.REPLACE:
                assert op.value is not None
                if mine.unique:  # it frees the keys of the tuple that it takes the place of
                    mine.format.check(op.value)
                    self._read_primary(space, op.value)
                put(mine, prepared, op.value, replace=True)
                self._read_uniques(space, op.value)
                return True, op.value
            case RowType.INSERT:
                assert op.value is not None
                mine.format.check(op.value)
                self._read_primary(space, op.value)
                put(mine, prepared, op.value, replace=False)
                self._read_uniques(space, op.value)
                return True, op.value
            case RowType.UPSERT:
                assert op.value is not None
                mine.format.check(op.value)
                self._read_primary(space, op.value)
                _, new = upsert(mine, prepared, op, work, ops_max=ops_max, bytes_max=bytes_max)
                self._read_uniques(space, new)
                return True, None
            case RowType.UPDATE:
                assert op.key is not None
                self._read_key(space, op.index_id, op.key)
                _, old, new = update(mine, prepared, op, work, ops_max=ops_max, bytes_max=bytes_max)
                self._read_uniques(space, new)
                return old is not None, new
            case RowType.DELETE:
                assert op.key is not None
                self._read_key(space, op.index_id, op.key)
                _, old = delete(mine, prepared, op)
                return old is not None, old
            case _:
                raise Unsupported(f"A space does not support operation {op.type.name}")

    def _refused(self, space: _Space, op: Dml) -> Tuple | None:
        """The tuple that an operation would have made."""
        mine, names = space.mine, space.mine.format.names
        if op.type is RowType.UPDATE:
            found = find(mine, self._prepared, op)
            return None if found is None or op.ops is None else apply_ops(found[1], op.ops, names)
        assert op.value is not None
        if op.type is RowType.UPSERT and op.ops is not None:
            old = mine.seen(mine.need_primary().key_def.of(op.value))
            return op.value if old is None else apply_upsert_ops(old, op.ops, names)
        return op.value

    def _check_room(self, op: Dml | None) -> None:
        """op: None: nothing is to be changed."""
        limits = self._limits
        if op is not None and len(self.ops) >= limits.batch_ops_max:
            raise _too_much("changes", len(self.ops) + 1, limits.batch_ops_max)
        size = self._op_bytes + (0 if op is None else len(op.raw))
        if size > limits.txn_bytes_max:
            raise _too_much("bytes", size, limits.txn_bytes_max)
        if self.bytes > limits.txn_bytes_max * 2:
            raise _too_much("bytes, with what was read,", self.bytes, limits.txn_bytes_max * 2)

    # --- reads

    def select(
        self,
        space_id: int,
        index_id: int,
        key: Tuple,
        iterator: Iterator_,
        *,
        limit: int | None = None,
        offset: int = 0,
        after: Tuple | None = None,
    ) -> SelectResult:
        """As `Memtx.select`, in pages of at most `PAGE_TUPLES`. Raises as `run`."""
        self._check_told()
        self._check_room(None)
        self._check_reads(1)
        space = self._space(space_id)
        index = space.mine.index(index_id)
        prefix = index.key_def.prefix(key)
        is_full = index.definition.unique and len(prefix) == index.key_def.count
        is_point = is_full and iterator is Iterator_.EQ and not offset and after is None
        if is_point and not index.key_def.has_null(index.key_def.exact(key)):
            self._read_key(space, index_id, key)
            found = find(space.mine, self._prepared, _Point(index_id, key))
            return SelectResult(() if found is None or limit == 0 else (found[1],))
        if offset >= PAGE_TUPLES:
            raise BatchTooLarge(
                f"a read of an open transaction steps over fewer than {PAGE_TUPLES} tuples, not {offset}; "
                "nothing was read. Next: go on with `after`",
                limit=PAGE_TUPLES,
                got=offset,
            )
        wanted = PAGE_TUPLES - offset if limit is None else min(limit, PAGE_TUPLES - offset)
        if not wanted:
            return SelectResult()
        return self._select_range(space, index, (key, iterator, after), offset, wanted)

    def _select_range(
        self,
        space: _Space,
        index: Index,
        what: tuple[Tuple, Iterator_, Tuple | None],
        offset: int,
        wanted: int,
    ) -> SelectResult:
        span = index.span(*what)
        mine = space.mine
        visited: list[Tuple] = []
        is_whole = False
        own = index.placed(span, (new for _, new in mine.pending.values()))

        def committed() -> Iterator[tuple[Key, Tuple]]:
            nonlocal is_whole
            of, hidden = mine.key_of, mine.pending
            assert of is not None
            for value in index.walk(span):
                visited.append(value)
                if of(value) not in hidden:
                    yield index.entry(value), value
            is_whole = True

        result, size = SelectResult(), 0
        for value in islice(span.merged(committed(), own), offset, None):
            size += mine.packed_size(value)
            if result and size > self._limits.select_bytes_max:
                result.more = True
                break
            result.append(value)
            if len(result) == wanted:
                result.more = True  # there may be; to look would be to read more than was asked for
                break
        if self._seen + len(visited) > SEEN_TUPLES_MAX:
            raise _too_much("tuples read", self._seen + len(visited), SEEN_TUPLES_MAX)
        self._seen += len(visited)
        self.bytes += READ_BYTES + sum(map(mine.packed_size, visited))
        read = Unchanged(space.store.definition.id, index.definition.id, index.key_def.parts, *what)
        self._ranges.append(read._replace(seen=tuple(visited), is_whole=is_whole))
        return result

    def _check_told(self) -> None:
        """private_view.P4. Raises `TransactionConflict`."""
        self.check_definitions()
        for store, index, key, found, read in self._points.values():
            now = index.find(key)
            if now is not found and not is_same(now, found):
                raise conflict(read, store)

    def _check_reads(self, more: int) -> None:
        count = len(self._points) + len(self._ranges) + more
        if count > READS_MAX:
            raise _too_much("reads", count, READS_MAX)

    def _read_key(self, space: _Space, index_id: int, key: Tuple) -> None:
        """An answer will tell what is committed under this key of an index, unless an own change hides it."""
        mine = space.mine
        index = mine.need_primary() if index_id == 0 else mine.index(index_id)
        if not index.definition.unique:
            return  # it will be refused
        encoded = index.key_def.exact(key)
        if index.key_def.has_null(encoded):
            return  # this too
        if isinstance(index, SecondaryIndex):
            self._read_secondary(space, index, encoded)
        elif encoded not in mine.pending:
            self._remember(space, index, encoded)

    def _read_primary(self, space: _Space, value: Tuple) -> None:
        primary = space.mine.need_primary()
        key = primary.key_def.of(value)
        if key not in space.mine.pending:
            self._remember(space, primary, key)

    def _read_uniques(self, space: _Space, value: Tuple | None) -> None:
        """It was told that no other tuple has these keys."""
        if value is not None:
            for index, _ in space.mine.unique:
                key = index.key_def.of(value)
                if not index.key_def.has_null(key):
                    self._remember(space, index, key)

    def _read_secondary(self, space: _Space, index: SecondaryIndex, key: Key) -> None:
        own = next(overlay for unique, overlay in space.mine.unique if unique is index)
        if key not in own:
            self._remember(space, index, key)

    def _remember(self, space: _Space, index: Index, key: Key) -> None:
        """private_view.P3"""
        place = (space.store.definition.id, index.definition.id, key)
        if place in self._points:
            return
        found = index.find(key)
        read = Unchanged(
            space.store.definition.id,
            index.definition.id,
            index.key_def.parts,
            index.key_def.sent(key),
            seen=() if found is None else (found,),
            is_point=True,
        )
        self._points[place] = _Told(space.store, index, key, found, read)
        self.bytes += READ_BYTES + (0 if found is None else space.mine.packed_size(found))

    # --- spaces

    def _space(self, space_id: int) -> _Space:
        if (known := self._spaces.get(space_id)) is not None:
            return known
        store = self._catalog.stores.get(space_id)
        if store is None:
            raise NoSuchSpace(f"Space '#{space_id}' does not exist")
        if store.is_system:
            raise Unsupported(
                f"Space '{store.definition.name}' does not support transactions that stay open: it is a "
                "system space; nothing was done",
                space=store.definition.name,
            )
        store.need_primary()
        made = self._spaces[space_id] = _Space(store, _private(store))
        return made


class _Told(NamedTuple):
    """What was told of one key. found: the committed tuple."""

    store: SpaceStore
    by: Index
    key: Key
    found: Tuple | None
    read: Unchanged


class _Point(NamedTuple):
    index_id: int
    key: Tuple


def _private(store: SpaceStore) -> SpaceStore:
    """The same committed tuples below an overlay of its own [space_store.O2]."""
    mine = copy(store)
    mine.view = store.tuples
    mine.pending, mine.clears = {}, []
    mine.unique = tuple((index, {}) for index, _ in store.unique)
    mine.is_temporary = False  # nothing of it is visible at once [space_store.O4]
    return mine


def _is_as_it_was(space: _Space, now: SpaceStore | None) -> bool:
    store, mine = space
    return (
        now is store
        and store.definition is mine.definition
        and store.indexes is mine.indexes
        and store.tuples is mine.tuples
    )


def _refuse_numbering(space: _Space, value: Tuple) -> None:
    """A number that is given now could be given to another one before this transaction is made."""
    numbering = space.store.numbering
    assert numbering is not None
    if len(value) > numbering.field and value[numbering.field] is None:
        name = space.store.definition.name
        raise Unsupported(
            f"Space '{name}' does not support null in field {numbering.field + 1} in a transaction that "
            "stays open: its sequence gives the value when a transaction is made; nothing was done. Next: "
            "take the next value of the sequence, and insert that",
            space=name,
        )


def _too_much(what: str, got: int, limit: int) -> BatchTooLarge:
    return BatchTooLarge(
        f"An open transaction of {got} {what} is over the limit of {limit}; this was not done. Next: "
        "commit it, or roll it back",
        limit=limit,
        got=got,
    )
