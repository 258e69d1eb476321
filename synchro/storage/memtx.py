"""The in-memory storage: prepared transactions above committed tuples. What spaces there are: `catalog`.

X1  `prepare` changes overlays only (and temporary spaces); an error leaves no trace.
X2  `commit` and `rollback` end a prepared transaction, each exactly once; see space_store.O3.
X3  Reads (`get`, `select`, `freeze`, `checksum`) see committed data only, but for a `select` that is asked
    for the prepared state [Q-56].

Pure: no clock, no disk, no randomness. Which rows are logged, and how, is told by `Prepared`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from synchro.config import KIB, Limits
from synchro.errors import (
    BadInput,
    BatchTooLarge,
    MemoryIssue,
    NoSuchIndex,
    NoSuchSpace,
    SynchroError,
    TupleFound,
    Unsupported,
    WrongFormat,
)
from synchro.ids import NOBODY, InstanceId
from synchro.row import PENDING_ROW_BYTES, Dml, Puts, RowType, Tuple
from synchro.storage.catalog import Catalog, mixture
from synchro.storage.conditions import Condition
from synchro.storage.conditions import check as check_condition
from synchro.storage.index import Iterator_, SelectResult
from synchro.storage.index_build import made_at_once
from synchro.storage.key_def import Key
from synchro.storage.msgpack_check import count_values, packb
from synchro.storage.order import Order
from synchro.storage.policy_changes import Done, keep_or_run, merge, run_and_stamp, run_unstamped
from synchro.storage.prepared import NO_SKIPS, BuildNeeded, PendingRefusal, Prepared, Skips
from synchro.storage.prepared_view import PreparedView
from synchro.storage.read_set import PendingOrders, Unchanged, check_read
from synchro.storage.row_body import stamped
from synchro.storage.schema import MARKS_ID, SCHEMA_ID, SPACE_FORMAT, SPACE_ID, TRUNCATE_ID, is_system
from synchro.storage.space_changes import (
    delete,
    loners,
    put,
    put_new,
    takes_columns,
    update,
    upsert,
)
from synchro.storage.space_store import SpaceStore
from synchro.storage.stamp_clock import Stamp, StampClock
from synchro.storage.stamps import MARK_CLOCK, MARK_OWN, StampRows, load_mark
from synchro.storage.system_rows import OLD_REPLICASET_UUID, REPLICASET_UUID
from synchro.storage.update_ops import OP_WORK, Work

_INSERT, _REPLACE = RowType.INSERT, RowType.REPLACE  # a global is found faster than a member of an enum

ROW_MISFITS: Final = (TupleFound, NoSuchSpace, NoSuchIndex, BadInput)
"""Why a row of another master cannot be applied to what is here, while all others can."""
_Lists: TypeAlias = tuple[list[Dml], list[bool], list[Tuple | None]]
INDEX_WORK = 1024
"""What a row counts in `Work` for each secondary index."""
FIELD_WORK = 2048
"""The same for each field in the format of a space."""
_FIELDS_ADVICE: Final = (
    ": each field of a format counts. Next: name fewer fields, or define fewer spaces in one transaction; or "
    "raise limits.txn_work_bytes_max"
)
CHECKSUM_ROWS, CHECKSUM_BYTES = 500, 512 * KIB
"""Of one step of a checksum."""


class Memtx:
    """All spaces of one instance. memtx.X1..X3 above."""

    def __init__(self, limits: Limits, memory_max: int = 0) -> None:
        self._limits = limits
        self.memory_max = memory_max
        """Bytes; a client's transaction that would make `memory_used` more is refused; 0 = unlimited."""
        self.memory_used = 0
        """Estimate for the tuples and indexes of all spaces, prepared changes included."""
        self._dead: list[dict[Key, Any] | list[Any] | Order] = []
        """What `free` is to let go of."""
        self.self_id = NOBODY
        """Of the instance; `NOBODY`: all changes are taken for its own."""
        self.catalog = Catalog(limits, self._dead)
        """What spaces there are, and members."""
        self.catalog.tombstones.limit(limits.tombstones_max)
        self.clock = StampClock()
        """Of rows in spaces where the last write wins."""
        self._stores = self.catalog.stores
        self._serial = 0
        self.work = 0
        """What all prepares have touched, in the bytes of `Work`."""

    def limits_changed(self, limits: Limits) -> None:
        """They count from the next transaction on."""
        self._limits = self.catalog.limits = limits
        self.catalog.tombstones.limit(limits.tombstones_max)

    # --- transactions

    def prepare(
        self,
        ops: Sequence[Dml],
        *,
        conditions: Sequence[Condition | Unchanged] = (),
        from_peer: bool = False,
        origin: InstanceId = NOBODY,
        skips: Skips = NO_SKIPS,
    ) -> Prepared:
        """Check a transaction and apply it to the prepared state. It sees its own changes.

        conditions: in order; raises ConditionFailed for the first that does not hold [D-42], and
        TransactionConflict for a read of an open transaction that finds something else now [D-43].
        from_peer: no limits; formats and uniqueness hold for peers too [A-32]. The details of an error name
        the position of the operation (`op`).
        origin: whose changes they are; `NOBODY`: our own. skips: what is left out instead of refused.
        Raises SynchroError, or PendingRefusal if the refusal may rest on a pending transaction; either way
        nothing has changed [memtx.X1].
        """
        if not from_peer:
            _check_limits(ops, self._limits)
        self._serial = serial = self._serial + 1
        prepared = Prepared(serial, origin=origin or self.self_id, is_own=origin in (NOBODY, self.self_id))
        if type(ops) is Puts and not conditions and self._run_puts(prepared, ops, is_limited=not from_peer):
            return prepared
        work = Work(None if from_peer else self._limits.txn_work_bytes_max)
        lists: _Lists = ([], [], [])
        prepared.ops, prepared.local, prepared.results = lists
        try:
            try:
                done = 0
                orders: PendingOrders = {}
                for condition in conditions:
                    self._run_each(prepared, lists, ops[done : condition.at], from_peer, skips, work)
                    done = condition.at
                    self._check_condition(prepared, condition, work, orders)
                self._run_each(prepared, lists, ops[done:] if done else ops, from_peer, skips, work)
                if prepared.draft is not None:
                    if not from_peer:
                        self.catalog.refuse_system_names(prepared.draft)
                        prepared.draft.refuse_lost_keys()
                        if self.memory_max:  # before anything is built
                            self._check_room(prepared.draft.growth(), self.memory_used)
                    prepared.build = self.catalog.build_for(prepared.draft, serial)
            finally:
                self.memory_used += prepared.growth
                self.work += OP_WORK * len(ops) + work.spent
            if self.memory_max and not from_peer:
                self._check_memory(prepared)
        except BuildNeeded:
            self._undo(prepared)
            raise
        except SynchroError as error:
            base = prepared.base
            if base is None and prepared.draft is not None:
                base = self.catalog.base_of(prepared.draft, prepared)
            self._undo(prepared)
            if base is not None:
                raise PendingRefusal(error, base) from error
            if from_peer:
                error.details = {**error.details, "op": str(len(prepared.results))}
            raise
        return prepared

    def may_go_together(self, space_id: int) -> bool:
        """Whether changes of several clients may be one transaction here (ADR 13).

        Only in a synchronous space: there a peer takes the transaction as it is or stops, while a conflict of
        plain rows may drop one [A-35], and it must not drop its neighbours.
        """
        store = self._stores.get(space_id)
        return store is not None and store.is_sync and takes_columns(store)

    def loners(self, puts: Puts) -> Sequence[int]:
        """Positions of those that must be prepared alone; the others will not be refused, whatever becomes of
        these."""
        return loners(self._stores[puts.space_id], puts.values, replace=puts.type is _REPLACE)

    def size_of(self, puts: Puts) -> int:
        """`Prepared.size` of them."""
        row_overhead = self._stores[puts.space_id].row_overhead
        return sum(map(len, puts.raws)) + len(puts) * row_overhead

    def prepare_together(self, puts: Puts) -> Prepared | None:
        """`prepare` for changes of several clients (ADR 13). None: nothing changed, there are `loners`."""
        _check_limits(puts, self._limits)
        self._serial += 1
        prepared = Prepared(self._serial)
        return prepared if self._run_puts(prepared, puts, is_limited=True) else None

    def commit(self, prepared: Prepared) -> None:
        """Make its changes part of what readers see; definitions change now [catalog.C1]."""
        assert not prepared.is_done  # memtx.X2
        if prepared.run is not None:
            store, keys, values = prepared.run
            store.commit_new(prepared, keys, values)
        for holder, key, new, _, _ in prepared.changes:
            holder.commit(prepared, key, new)
        if prepared.unique_changes:
            for overlay, key, _ in prepared.unique_changes:
                found = overlay.get(key)
                if found is not None and found[0] is prepared:
                    del overlay[key]
        self.memory_used += prepared.late_growth
        prepared.is_done = True
        if prepared.let_go is not None:
            if not self.catalog.is_bulk:  # recovery has nobody who waits, and nobody who frees
                self._dead.append(prepared.let_go)
            prepared.let_go = None
        if prepared.system:
            is_newest = prepared.serial == self._serial
            self.memory_used += self.catalog.commit(prepared, is_newest=is_newest)
        prepared.forget()

    def rollback(self, prepared: Prepared) -> None:
        """Drop it. The newest of those that touch the same keys comes first."""
        assert not prepared.is_done  # memtx.X2
        if prepared.size >= 2 * PENDING_ROW_BYTES * len(prepared.local) and not self.catalog.is_bulk:
            self._dead.append([new for _, _, new, _, _ in prepared.changes])
            if prepared.run is not None:
                self._dead.append(list(prepared.run[2]))
        self._undo(prepared)

    def _undo(self, prepared: Prepared) -> None:
        """`memory_used` has its growth."""
        freed = 0
        if prepared.run is not None:
            store, keys, _ = prepared.run
            freed = store.rollback_new(prepared, keys)
        for overlay, key, under in reversed(prepared.unique_changes or ()):
            if under is None or under[0].is_done:
                del overlay[key]
            else:
                overlay[key] = under
        for holder, key, _, below, size in reversed(prepared.changes):
            freed += holder.rollback(prepared, key, below, size)
        for holder, key, old, new in reversed(prepared.temporary or ()):
            freed += holder.undo_temporary(key, old, new)
        self.memory_used -= freed
        prepared.is_done = True
        prepared.forget()

    def _run_puts(self, prepared: Prepared, ops: Puts, *, is_limited: bool) -> bool:
        """All at once, if the space is an ordinary one and none needs a closer look; else nothing, False."""
        store = self._stores.get(ops.space_id)
        if store is None or store.is_system:
            return False
        self.work += len(ops) * (OP_WORK // 4 + INDEX_WORK * len(store.secondary))
        if is_limited and store.secondary:
            Work(self._limits.txn_work_bytes_max).spend(len(ops) * INDEX_WORK * len(store.secondary))
        numbering = store.numbering
        if numbering is not None and is_limited:
            filled = self.catalog.sequences.filled_puts(prepared, store, ops)
            if filled is None:
                return False
            ops = filled
        if not put_new(store, prepared, ops.values, replace=ops.type is _REPLACE):
            return False
        if numbering is not None:
            self.catalog.sequences.used(prepared, store, ops.values)
        prepared.ops = ops
        prepared.local = [store.is_local] * len(ops)
        prepared.results = ops.values
        prepared.size = self.size_of(ops)
        prepared.is_sync = store.is_sync
        self.memory_used += prepared.growth
        if self.memory_max and is_limited:
            try:
                self._check_memory(prepared)
            except SynchroError:
                self._undo(prepared)
                raise
        return True

    def _check_memory(self, prepared: Prepared) -> None:
        """MemoryIssue if a client's changes need more than there is; `memory_used` has the growth already.
        Rows of system spaces always pass: with them people get out of it. Indexes were asked for before."""
        if prepared.draft is None and not prepared.touches_system:
            self._check_room(prepared.growth, self.memory_used - prepared.growth)

    def _check_room(self, needed: int, used: int) -> None:
        """What only shrinks always passes."""
        if needed > 0 and used + needed > self.memory_max:
            raise MemoryIssue(
                f"Failed to allocate {needed} bytes in memtx: {used} of {self.memory_max} bytes "
                "(memtx.memory) are used; nothing was done. Next: delete rows, or raise it on all members",
                used=used,
                limit=self.memory_max,
                needed=needed,
            )

    def _check_condition(
        self, prepared: Prepared, condition: Condition | Unchanged, work: Work, orders: PendingOrders
    ) -> None:
        store = self._stores.get(condition.space_id)
        if store is None:
            raise NoSuchSpace(f"Space '#{condition.space_id}' does not exist")
        if isinstance(condition, Unchanged):
            check_read(condition, store, prepared, work, orders)
        else:
            check_condition(condition, store, prepared, work)

    def _run_each(
        self,
        prepared: Prepared,
        lists: _Lists,
        ops: Sequence[Dml],
        from_peer: bool,
        skips: Skips,
        work: Work,
    ) -> None:
        """One operation after the other: apply, remember what to log and what to answer. lists: `ops`,
        `local` and `results` of `prepared`."""
        logged, local, results = lists
        size = 0
        for asked in ops:
            op = asked
            store = self._stores.get(op.space_id)
            if store is None or (len(results) in skips.at and self._empties_nothing(op)):
                missing = NoSuchSpace(f"Space '#{_space_meant(op)}' does not exist")
                if len(results) not in skips.at or not may_be_left_out(missing, op):
                    raise missing
                _leave_out(prepared, results, op, missing)
                continue
            if store.secondary:
                work.spend(INDEX_WORK * len(store.secondary))
            if prepared.draft is not None and not store.is_system:
                raise mixture()
            numbering = store.numbering
            if numbering is not None and not from_peer and op.value is not None:
                op = self.catalog.sequences.filled(prepared, store, op)
            kind = op.type
            try:
                result: Tuple | None
                if not store.is_plain:
                    done, old, new, result = self._run_by_policy(
                        prepared, store, op, from_peer, skips.by_policy, work
                    )
                    if done is None:
                        results.append(result)
                        continue
                    op = done
                elif kind is _REPLACE or kind is _INSERT:
                    new = op.value
                    assert new is not None
                    old = put(store, prepared, new, replace=kind is _REPLACE)
                    result = new
                else:
                    done, old, new, result = self._run_keyed(prepared, store, op, from_peer, work)
                    assert done is not None
                    op = done
            except ROW_MISFITS as error:
                is_skipped = len(results) in skips.at or (
                    type(error) is TupleFound and skips.covers(len(results), is_policy=store.skips_conflicts)
                )
                if not is_skipped or store.is_system or prepared.base is not None:
                    raise  # of what is pending it is not known yet whether it is in conflict
                _leave_out(prepared, results, op, error)
                continue
            if numbering is not None and op.value is not None:
                self.catalog.sequences.used(prepared, store, (op.value,))
            is_local = store.is_local
            is_logged = not store.is_temporary
            if store.is_system:
                if op.space_id == SPACE_ID and new is not None and not from_peer:
                    work.spend(FIELD_WORK * len(new[SPACE_FORMAT]), _FIELDS_ADVICE)
                if op.space_id == TRUNCATE_ID:
                    op = self._timed(op, is_asked=not from_peer)
                is_logged, is_local = self.catalog.on_system_row(prepared, store, op, old, new)
                if is_logged and not is_local:
                    prepared.touches_system = True
            results.append(result)
            if is_logged:
                logged.append(op)
                local.append(is_local)
                size += len(op.raw) + store.row_overhead
                if store.is_sync:
                    prepared.is_sync = True  # a local space is never synchronous [D-2]
        prepared.size += size

    def _run_by_policy(
        self, prepared: Prepared, store: SpaceStore, op: Dml, from_peer: bool, by_policy: bool, work: Work
    ) -> Done:
        """In a space that remembers who wrote its tuples. Returns as `_run_keyed`."""

        def run() -> Done:
            return self._run_one(prepared, store, op, from_peer, work)

        if store.stamps is None:
            return keep_or_run(store, prepared, op, run, by_policy=by_policy)
        if not from_peer:
            return run_and_stamp(store, prepared, op, run, Stamp(self.clock.next(), self.self_id))
        is_new = not self.catalog.is_bulk
        if not op.stamp:
            return run_unstamped(store, prepared, op, run, is_new=is_new)
        self.clock.saw(op.stamp, is_new=is_new)
        return merge(store, prepared, op, is_new=is_new)

    def _run_one(self, prepared: Prepared, store: SpaceStore, op: Dml, from_peer: bool, work: Work) -> Done:
        """Returns as `_run_keyed`."""
        if op.type is not _INSERT and op.type is not _REPLACE:
            return self._run_keyed(prepared, store, op, from_peer, work)
        assert op.value is not None
        old = put(store, prepared, op.value, replace=op.type is _REPLACE)
        return op, old, op.value, op.value

    def _run_keyed(self, prepared: Prepared, store: SpaceStore, op: Dml, from_peer: bool, work: Work) -> Done:
        """Update, delete, upsert: returns what to log, the old and the new tuple, and what to answer."""
        ops_max = None if from_peer else self._limits.update_ops_max
        bytes_max = None if from_peer else self._limits.tuple_bytes_max
        match op.type:
            case RowType.UPDATE:
                op, old, new = update(store, prepared, op, work, ops_max=ops_max, bytes_max=bytes_max)
                return op, old, new, new
            case RowType.DELETE:
                op, old = delete(store, prepared, op)
                return op, old, None, old
            case RowType.UPSERT:
                old, new = upsert(store, prepared, op, work, ops_max=ops_max, bytes_max=bytes_max)
                return op, old, new, None
            case _:
                raise Unsupported(f"A space does not support operation {op.type.name}")

    def _empties_nothing(self, op: Dml) -> bool:
        """Whether it truncates a space that is not here."""
        return op.space_id == TRUNCATE_ID and _space_meant(op) not in self._stores

    def _timed(self, truncate: Dml, *, is_asked: bool) -> Dml:
        """Where the last write wins, it takes out what is older than itself."""
        self.clock.saw(truncate.stamp, is_new=not self.catalog.is_bulk)
        target = self._stores.get(truncate.value[0]) if truncate.value and is_asked else None
        if target is None or target.stamps is None:
            return truncate
        return stamped(truncate, self.clock.next())

    # --- reads

    def get(self, space_id: int, index_id: int, key: Tuple) -> Tuple | None:
        """[D-11]"""
        return self.catalog.store(space_id).index(index_id).get(_key(space_id, key))

    def select(
        self,
        space_id: int,
        index_id: int = 0,
        key: Tuple = (),
        iterator: Iterator_ = Iterator_.EQ,
        *,
        limit: int | None = None,
        offset: int = 0,
        after: Tuple | None = None,
        prepared: bool = False,
    ) -> SelectResult:
        """[D-12], [D-13], [D-14]. `more` of the result: cut by `limit` or by bytes, go on with `after`.

        prepared: as a writer sees the space, with what is not decided and may be taken back [Q-56]."""
        store = self.catalog.store(space_id)
        return store.index(index_id).select(
            _key(space_id, key),
            iterator,
            limit=limit,
            offset=offset,
            after=after,
            bytes_max=self._limits.select_bytes_max,
            tuples_max=self._limits.select_tuples_max,
            view=PreparedView(store) if prepared and store.has_pending else None,
        )

    def count(self, space_id: int) -> int:
        """Committed tuples [D-15]; 0 while the space has no primary index."""
        return len(self.catalog.store(space_id).tuples)

    def only_here(self) -> Iterator[tuple[str, Tuple]]:
        """(name of the space, tuple) of those that `own_keys` and `local_tuples` count."""
        for store in self._stores.values():
            space = store.definition
            if store.is_local and not space.is_temporary:
                yield from ((space.name, value) for value in store.tuples.values())
            elif store.own is not None:
                yield from ((space.name, store.tuples[key]) for key in store.own.keys)

    @property
    def own_keys(self) -> int:
        """Committed tuples that a policy keeps as this instance wrote them (ADR 44)."""
        return sum(len(store.own.keys) for store in self._stores.values() if store.own is not None)

    @property
    def local_tuples(self) -> int:
        """Committed tuples of spaces that are logged, and whose rows stay on this instance [D-4]."""
        local = (one for one in self._stores.values() if one.is_local and not one.definition.is_temporary)
        return sum(len(store.tuples) for store in local)

    def prepared_rows(self, space_id: int) -> list[Tuple]:
        """Tuples of a space as a writer sees them; what the next schema change must build on."""
        return list(self.catalog.store(space_id).prepared_tuples())

    # --- snapshots, join, recovery

    def freeze(self, *, with_local: bool = True) -> list[tuple[int, Iterable[Tuple]]]:
        """A view of all committed tuples that stays as it is: (space id, tuples), system spaces first.

        Temporary spaces are left out, and the definitions of spaces of type 'temporary' [D-4].
        with_local: False also leaves out the tuples of local spaces, and what was written here, for a join.
        Last come `MARKS_ID` and what `load` needs to know who wrote which tuple.
        """
        frozen: list[tuple[int, Iterable[Tuple]]] = []
        for space_id in sorted(self._stores):
            store = self._stores[space_id]
            definition = store.definition
            if definition.is_temporary or (definition.is_local and not with_local):
                continue
            rows = list(store.tuples.values())
            if store.is_ddl:
                rows = [row for row in rows if self.catalog.is_in_snapshot(space_id, row, with_local)]
            if rows:
                frozen.append((space_id, rows))
        frozen.extend((MARKS_ID, rows) for rows in self._marks(with_local))
        return frozen

    def _marks(self, with_local: bool) -> Iterator[Iterable[Tuple]]:
        """What is known of tuples beside themselves: of each space who wrote them, and when."""
        if any(store.stamps is not None for store in self._stores.values()):
            yield [(0, MARK_CLOCK, (), self.clock.newest)]
        for space_id, store in self._stores.items():
            if store.own is not None and store.primary is not None and with_local:
                yield store.own.rows(space_id, store.primary.key_def)
            if store.stamps is not None and store.primary is not None:
                yield StampRows(space_id, store.primary.key_def, store.stamps)

    def load(self, space_id: int, tuples: Iterable[Tuple]) -> None:
        """Add tuples of a snapshot: they are committed, whatever their space [Q-12]. Those of `_space`, then
        `_index` come before the data.

        They were checked when they were written, and the file has checksums: no further checks of data.
        """
        if space_id == MARKS_ID:
            self._load_marks(tuples)
            return
        store = self.catalog.store(space_id)
        tuples = list(tuples)
        before = store.memory
        store.load(tuples)
        self.memory_used += store.memory - before
        self.memory_used += self.catalog.load(space_id, tuples)

    def _load_marks(self, marks: Iterable[Tuple]) -> None:
        """Raises SynchroError for what is none."""
        for mark in marks:
            try:
                space_id, kind, sent, *numbers = mark
                if kind == MARK_CLOCK:
                    (time,) = numbers
                    self.clock.saw(int(time))
                    continue
                store = self.catalog.store(space_id)
                key = store.need_primary().key_def.exact(sent) if sent else None
                if kind == MARK_OWN and store.own is not None:
                    store.own.keys[key] = None
                elif store.stamps is not None:
                    self.clock.saw(load_mark(store.stamps, kind, key, tuple(numbers)))
            except (ValueError, TypeError) as error:
                raise WrongFormat(f"Wrong mark of a tuple: {mark!r}") from error

    @property
    def has_dead(self) -> bool:
        return bool(self._dead) or self.catalog.tombstones.is_behind

    def free(self, count: int) -> bool:
        """Let go of about so many objects that nobody needs any more. True: nothing is left."""
        if self.catalog.tombstones.is_behind:
            self.catalog.tombstones.go_on(count)
            return not self.has_dead
        while self._dead and count > 0:
            part = self._dead[-1]
            if isinstance(part, dict | list):
                size = 0
                while part and size < count:
                    size += _objects_in(part.pop() if isinstance(part, list) else part.popitem()[1], count)
                is_empty = not part
            else:
                is_empty = part.shrink(count)
                size = 1 if is_empty else count
            count -= size
            if is_empty:
                self._dead.pop()
        return not self._dead

    def begin_bulk(self) -> None:
        """Recovery starts: keep no sorted orders; a read that needs one builds it."""
        self.catalog.is_bulk = True
        self.catalog.tombstones.replay(begins=True)
        for store in self._stores.values():
            for index in store.indexes.values():
                index.unsort()

    def end_bulk(self) -> None:
        self.catalog.is_bulk = False
        self.catalog.tombstones.replay(begins=False)
        for store in self._stores.values():
            for index in store.indexes.values():
                if index.is_tree:
                    index.sort()

    def checksum(self, space_id: int) -> tuple[int, str]:
        """(count, 16 hex digits): equal wherever the space holds equal tuples, in whatever order."""
        return made_at_once(self.checksum_in_steps(space_id))

    def checksum_in_steps(self, space_id: int) -> Generator[None, None, tuple[int, str]]:
        """`checksum` of the tuples at the moment of the first step; a step takes about a millisecond."""
        rest = list(self.catalog.store(space_id).tuples.values())
        total, count = 0, len(rest)
        yield
        while rest:
            size, chunk = 0, list[bytes]()
            while rest and len(chunk) < CHECKSUM_ROWS and size < CHECKSUM_BYTES:
                # Taken off on the way: perhaps nobody else has them by now, and to drop a million takes long.
                chunk.append(packb(rest.pop()))
                size += len(chunk[-1])
            total += sum(int.from_bytes(blake2b(data, digest_size=8).digest(), "big") for data in chunk)
            yield
        return count, f"{total & (2**64 - 1):016x}"

    def check(self) -> None:
        """Every index of every space agrees with the tuples, and overlays hold only open transactions."""
        self.catalog.check()
        assert self.memory_used == sum(store.memory for store in self._stores.values())
        for store in self._stores.values():
            store.check()


def may_be_left_out(error: SynchroError, op: Dml) -> bool:
    """Whether a person may leave out a row of a peer that fails so (ADR 19): a change of user data, or a
    truncate of a space that is gone here. What defines spaces decides what later rows mean."""
    if op.space_id == TRUNCATE_ID:
        return type(error) is NoSuchSpace
    return isinstance(error, ROW_MISFITS) and not is_system(op.space_id)


def _space_meant(op: Dml) -> int:
    """Number of the space that it changes; of a truncate, that it empties."""
    row = op.key or op.value
    return int(row[0]) if op.space_id == TRUNCATE_ID and row else op.space_id


def _leave_out(prepared: Prepared, results: list[Tuple | None], op: Dml, error: SynchroError) -> None:
    if prepared.skipped is None:
        prepared.skipped = []
    prepared.skipped.append((len(results), op, error))
    results.append(None)


def _objects_in(value: Any, limit: int) -> int:
    """About how many objects go with a tuple, or with a key; counted no further than `limit`."""
    if not isinstance(value, tuple):
        return 1
    return 1 + len(value) + count_values(value, limit)


def _key(space_id: int, key: Tuple) -> Tuple:
    """The key that is there for a former one [D-22]."""
    is_old = space_id == SCHEMA_ID and key == (OLD_REPLICASET_UUID,)
    return (REPLICASET_UUID,) if is_old else key


def _check_limits(ops: Sequence[Dml], limits: Limits) -> None:
    """BatchTooLarge [S17]."""
    if len(ops) > limits.batch_ops_max:
        raise BatchTooLarge(
            f"Transaction of {len(ops)} operations is over the limit of {limits.batch_ops_max}",
            limit=limits.batch_ops_max,
            got=len(ops),
        )
    total = 0
    if type(ops) is Puts:
        total = sum(map(len, ops.raws))
    else:
        for op in ops:
            total += len(op.raw)
    if total > limits.tuple_bytes_max:
        for op in ops:
            size = len(op.raw)
            if size > limits.tuple_bytes_max:
                raise BatchTooLarge(
                    f"Tuple of {size} bytes is over the limit of {limits.tuple_bytes_max}",
                    limit=limits.tuple_bytes_max,
                    got=size,
                )
    if total > limits.txn_bytes_max:
        raise BatchTooLarge(
            f"Transaction of {total} bytes is over the limit of {limits.txn_bytes_max}",
            limit=limits.txn_bytes_max,
            got=total,
        )
