"""The in-memory storage: spaces, prepared transactions above committed tuples, schema as data.

X1  `prepare` changes overlays only (and temporary spaces); an error leaves no trace.
X2  `commit` and `rollback` end a prepared transaction, each exactly once; see space_store.O3.
X3  Reads (`get`, `select`, `freeze`, `checksum`, `members`) see committed data only.
X4  Definitions change when the transaction that changes them commits; `schema_version` counts that.

Pure: no clock, no disk, no randomness. Which rows are logged, and how, is told by `Prepared`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any

import msgpack

from synchro.config import KIB, Limits
from synchro.errors import (
    BatchTooLarge,
    MemoryIssue,
    NoSuchIndex,
    NoSuchSpace,
    SpaceExists,
    SynchroError,
    TupleFound,
    Unsupported,
)
from synchro.ids import InstanceId
from synchro.row import PENDING_ROW_BYTES, Dml, Puts, RowType, Tuple
from synchro.storage.ddl import Build, Draft
from synchro.storage.index import Index, Iterator_, SelectResult
from synchro.storage.key_def import Key
from synchro.storage.order import Order
from synchro.storage.prepared import BuildNeeded, PendingRefusal, Prepared
from synchro.storage.schema import (
    CLUSTER_ID,
    INDEX_ID,
    SCHEMA_ID,
    SPACE_ID,
    SYSTEM_SPACES,
    TEMPORARY_ID_MIN,
    TRUNCATE_ID,
    USER_ID_MIN,
    IndexDef,
    SpaceDef,
    is_ddl_space,
    is_system,
)
from synchro.storage.space_store import SpaceStore, made_at_once
from synchro.storage.system_rows import (
    OLD_REPLICASET_UUID,
    REPLICASET_UUID,
    check_client_change,
    check_cluster_row,
    check_schema_row,
)
from synchro.storage.tuple_format import show_tuple
from synchro.storage.update_ops import OP_WORK, Work
from synchro.storage.xrow import count_values

__all__ = ["Build", "BuildNeeded", "Iterator_", "Memtx", "PendingRefusal", "Prepared", "SelectResult"]

_INSERT, _REPLACE = RowType.INSERT, RowType.REPLACE  # a global is found faster than a member of an enum

INDEX_WORK = 1024
"""What a row counts in `Work` for each secondary index."""
CHECKSUM_ROWS, CHECKSUM_BYTES = 500, 512 * KIB
"""Of one step of a checksum."""
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Memtx:
    """All spaces of one instance. memtx.X1..X4 above."""

    def __init__(self, limits: Limits, memory_max: int = 0) -> None:
        self._limits = limits
        self.memory_max = memory_max
        """Bytes; a client's transaction that would make `memory_used` more is refused; 0 = unlimited."""
        self.memory_used = 0
        """Estimate for the tuples and indexes of all spaces, prepared changes included."""
        self._stores: dict[int, SpaceStore] = {}
        self._ids: dict[str, int] = {}
        """name -> id of committed spaces"""
        self._members: dict[InstanceId, tuple[str, str | None]] = {}
        self._serial = 0
        self._dead: list[dict[Key, Any] | list[Any] | Order] = []
        """What `free` is to let go of."""
        self.work = 0
        """What all prepares have touched, in the bytes of `Work`."""
        self.built: Build | None = None
        """Finished, for the transaction that is prepared next."""
        self._is_bulk = False
        self.schema_version = 1
        self.space_id_max = USER_ID_MIN - 1
        """Highest id a user space ever had here, temporary ones aside [D-1]."""
        for definition, indexes in SYSTEM_SPACES:
            store = SpaceStore(definition, {index.id: index for index in indexes}, dead=self._dead)
            self._stores[definition.id] = store
            self._ids[definition.name] = definition.id

    # --- transactions

    def prepare(
        self, ops: Sequence[Dml], *, from_peer: bool = False, skip_conflicts: bool = False
    ) -> Prepared:
        """Check a transaction and apply it to the prepared state. It sees its own changes.

        from_peer: no limits; formats and uniqueness hold for peers too [A-32]. The details of an error name
        the position of the operation (`op`).
        skip_conflicts: a duplicate key of user data leaves that operation out (`Prepared.skipped`) [A-35].
        Raises SynchroError, or PendingRefusal if the refusal may rest on a pending transaction; either way
        nothing has changed [memtx.X1].
        """
        if not from_peer:
            self._check_limits(ops)
        self._serial = serial = self._serial + 1
        prepared = Prepared(serial)
        if type(ops) is Puts and self._run_puts(prepared, ops, is_limited=not from_peer):
            return prepared
        work = Work(None if from_peer else self._limits.txn_work_bytes_max)
        try:
            try:
                self._run_each(prepared, ops, from_peer, skip_conflicts, work)
                if prepared.draft is not None:
                    if not from_peer:
                        self._refuse_system_names(prepared.draft)
                        if self.memory_max:  # before anything is built
                            self._check_room(prepared.draft.growth(), self.memory_used)
                    prepared.build = self._build_for(prepared.draft, serial)
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
                base = self._base_of(prepared.draft, prepared)
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
        return store is not None and store.is_sync and store.takes_columns

    def loners(self, puts: Puts) -> Sequence[int]:
        """Positions of those that must be prepared alone; the others will not be refused, whatever becomes of
        these."""
        return self._stores[puts.space_id].loners(puts.values, replace=puts.type is _REPLACE)

    def size_of(self, puts: Puts) -> int:
        """`Prepared.size` of them."""
        row_overhead = self._stores[puts.space_id].row_overhead
        return sum(map(len, puts.raws)) + len(puts) * row_overhead

    def prepare_together(self, puts: Puts) -> Prepared | None:
        """`prepare` for changes of several clients (ADR 13). None: nothing changed, there are `loners`."""
        self._check_limits(puts)
        self._serial += 1
        prepared = Prepared(self._serial)
        return prepared if self._run_puts(prepared, puts, is_limited=True) else None

    def commit(self, prepared: Prepared) -> None:
        """Make its changes part of what readers see; definitions change now [memtx.X4]."""
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
        prepared.is_done = True
        if prepared.let_go is not None:
            if not self._is_bulk:  # recovery has nobody who waits, and nobody who frees
                self._dead.append(prepared.let_go)
            prepared.let_go = None
        if prepared.system:
            self._on_system_commit(prepared)
        self._forget(prepared)

    def rollback(self, prepared: Prepared) -> None:
        """Drop it. The newest of those that touch the same keys comes first."""
        assert not prepared.is_done  # memtx.X2
        if prepared.size >= 2 * PENDING_ROW_BYTES * len(prepared.local) and not self._is_bulk:
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
            holder.rollback(prepared, key, below, size)
            freed += size
        for holder, key, old, new in reversed(prepared.temporary or ()):
            freed += holder.undo_temporary(key, old, new)
        self.memory_used -= freed
        prepared.is_done = True
        self._forget(prepared)

    @staticmethod
    def _forget(prepared: Prepared) -> None:
        # Else a hot key would keep every transaction that ever changed it alive, one by one.
        prepared.changes = []
        prepared.run = prepared.unique_changes = prepared.temporary = prepared.base = prepared.let_go = None

    def _check_limits(self, ops: Sequence[Dml]) -> None:
        limits = self._limits
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

    def _run_puts(self, prepared: Prepared, ops: Puts, *, is_limited: bool) -> bool:
        """All at once, if the space is an ordinary one and none needs a closer look; else nothing, False."""
        store = self._stores.get(ops.space_id)
        if store is None or store.is_system:
            return False
        self.work += len(ops) * (OP_WORK // 4 + INDEX_WORK * len(store.secondary))
        if is_limited and store.secondary:
            Work(self._limits.txn_work_bytes_max).spend(len(ops) * INDEX_WORK * len(store.secondary))
        if not store.put_new(prepared, ops.values, replace=ops.type is _REPLACE):
            return False
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

    def _run_each(
        self, prepared: Prepared, ops: Sequence[Dml], from_peer: bool, skip_conflicts: bool, work: Work
    ) -> None:
        """One operation after the other: apply, remember what to log and what to answer."""
        logged: list[Dml] = []
        local: list[bool] = []
        results: list[Tuple | None] = []
        prepared.ops, prepared.local, prepared.results = logged, local, results
        size = 0
        for op in ops:
            store = self._stores.get(op.space_id)
            if store is None:
                raise NoSuchSpace(f"Space '#{op.space_id}' does not exist")
            if store.secondary:
                work.spend(INDEX_WORK * len(store.secondary))
            if prepared.draft is not None and not store.is_system:
                self._refuse_mixture()
            kind = op.type
            try:
                if kind is _REPLACE or kind is _INSERT:
                    new = op.value
                    assert new is not None
                    old = store.put(prepared, new, replace=kind is _REPLACE)
                    result: Tuple | None = new
                else:
                    op, old, new, result = self._run_keyed(prepared, store, op, from_peer, work)
            except TupleFound as error:
                if not skip_conflicts or store.is_system or prepared.base is not None:
                    raise  # of what is pending it is not known yet whether it is in conflict
                if prepared.skipped is None:
                    prepared.skipped = []
                prepared.skipped.append((len(results), op, error))
                results.append(None)
                continue
            is_local = store.is_local
            is_logged = not store.is_temporary
            if store.is_system:
                is_logged, is_local = self._on_system_row(prepared, store, op, old, new)
                if is_logged and not is_local:
                    prepared.touches_system = True
            results.append(result)
            if is_logged:
                logged.append(op)
                local.append(is_local)
                size += len(op.raw) + store.row_overhead
                if store.is_sync:
                    prepared.is_sync = True  # a local space is never synchronous [D-2]
        prepared.size = size

    def _run_keyed(
        self, prepared: Prepared, store: SpaceStore, op: Dml, from_peer: bool, work: Work
    ) -> tuple[Dml, Tuple | None, Tuple | None, Tuple | None]:
        """Update, delete, upsert: returns what to log, the old and the new tuple, and what to answer."""
        ops_max = None if from_peer else self._limits.update_ops_max
        bytes_max = None if from_peer else self._limits.tuple_bytes_max
        match op.type:
            case RowType.UPDATE:
                op, old, new = store.update(prepared, op, work, ops_max=ops_max, bytes_max=bytes_max)
                return op, old, new, new
            case RowType.DELETE:
                op, old = store.delete(prepared, op)
                return op, old, None, old
            case RowType.UPSERT:
                old, new = store.upsert(prepared, op, work, ops_max=ops_max, bytes_max=bytes_max)
                return op, old, new, None
            case _:
                raise Unsupported(f"A space does not support operation {op.type.name}")

    def _refuse_mixture(self) -> None:
        raise Unsupported("One transaction does not support schema changes together with data changes")

    # --- system spaces: rows with a meaning

    def check_client(self, ops: Sequence[Dml], self_id: InstanceId) -> None:
        """Raise if clients may not write this: see `check_client_change`."""
        if type(ops) is Puts and not is_system(ops.space_id):
            return
        for op in ops:
            if is_system(op.space_id):
                check_client_change(op.space_id, self._named_by(op), self_id=self_id)

    def _named_by(self, op: Dml) -> object:
        """First field of the row that a change of a system space is about, None if it is not there."""
        if op.value is not None:
            return op.value[0] if op.value else None
        if not op.key:
            return None
        if op.index_id == 0:
            return op.key[0]
        if op.space_id == INDEX_ID:
            return op.key[0]  # of all its indexes
        if op.space_id == SPACE_ID and isinstance(op.key[0], str):
            return self._ids.get(op.key[0])
        index = self._stores[op.space_id].indexes.get(op.index_id)
        if index is None or not index.definition.unique:
            return None
        found = index.get(op.key)
        return None if found is None else found[0]

    def _refuse_system_names(self, draft: Draft) -> None:
        """A second space of that name would hide the first from all who ask for it by name."""
        for space_id, space in draft.spaces.items():
            name = "" if space.definition is None else space.definition.name
            if is_system(self._ids.get(name, 0)) and not is_system(space_id):
                raise SpaceExists(f"Space '{name}' already exists")

    def _on_system_row(
        self, prepared: Prepared, store: SpaceStore, op: Dml, old: Tuple | None, new: Tuple | None
    ) -> tuple[bool, bool]:
        """Check what the row would mean. Returns (is logged, is local)."""
        space_id = store.definition.id
        prepared.system = (*prepared.system, space_id)
        if space_id == CLUSTER_ID:
            check_cluster_row(old, new)
        elif space_id == SCHEMA_ID:
            check_schema_row(old, new)
        elif store.is_ddl:
            return self._on_ddl_row(prepared, space_id, op, old, new)
        return True, False

    def _on_ddl_row(
        self, prepared: Prepared, space_id: int, op: Dml, old: Tuple | None, new: Tuple | None
    ) -> tuple[bool, bool]:
        row = new or old or op.key or op.value
        target_id = row[0] if row else 0
        target = self._stores.get(target_id)
        is_local = is_logged = False
        if space_id == TRUNCATE_ID:
            is_local = target is not None and target.definition.is_local
            is_logged = target is None or not target.definition.is_temporary
            if target is not None and new is not None and (is_local or not is_logged):
                # Only this instance sees it, so it needs no barrier, which a foreign queue could hold up.
                target.clear(prepared)
                return is_logged, is_local
        else:
            is_logged = target_id < TEMPORARY_ID_MIN
        if any(not store.is_system for store, *_ in prepared.changes) or prepared.temporary:
            self._refuse_mixture()
        if prepared.draft is None:
            prepared.draft = Draft(self._stores)
        prepared.draft.change(space_id, old, new)
        prepared.is_ddl = prepared.is_ddl or is_logged
        return is_logged, is_local

    def _build_for(self, draft: Draft, serial: int) -> Build | None:
        """What the draft needs. None: it rests on what is pending, and is built when that is decided."""
        if any(store.pending or store.clears for store, _ in draft.touched):
            draft.check_tuples()
            return None
        build, self.built = self.built, None
        if build is None or not build.fits(draft, serial - 1):
            build = Build(draft, serial, sort=not self._is_bulk)
            if not self._is_bulk and draft.rows > self._limits.ddl_rows_at_once:
                raise BuildNeeded(build)
        build.finish()
        return build

    def _base_of(self, draft: Draft, prepared: Prepared) -> Prepared | None:
        """The newest pending transaction in the spaces that a schema change looked at."""
        newest: Prepared | None = None
        for space_id in draft.spaces:
            store = self._stores.get(space_id)
            found = None if store is None else store.newest_pending()
            if (
                found is not None
                and found is not prepared
                and (newest is None or found.serial > newest.serial)
            ):
                newest = found
        return newest

    def _on_system_commit(self, prepared: Prepared) -> None:
        if CLUSTER_ID in prepared.system:
            self._read_members()
        if prepared.draft is not None:
            for space_id, space in prepared.draft.spaces.items():
                if space.truncated and space.definition is not None and space_id in self._stores:
                    store = self._stores[space_id]
                    self.memory_used -= store.memory
                    store.truncate()
                build = prepared.build if prepared.serial == self._serial else None
                built = None if build is None else build.indexes.get(space_id)
                self._define(space_id, space.definition, space.indexes, built)
            self.schema_version += 1

    def _define(
        self,
        space_id: int,
        definition: SpaceDef | None,
        indexes: dict[int, IndexDef],
        built: dict[int, Index] | None = None,
    ) -> None:
        """Put one definition in force."""
        store = self._stores.get(space_id)
        if store is not None:
            self._ids.pop(store.definition.name, None)
            self.memory_used -= store.memory
        if definition is None:
            if store is not None:
                del self._stores[space_id]
                store.bury_all()
            return
        # Another space of this transaction may have taken the old name already.
        self._ids[definition.name] = space_id
        if store is None:
            self._stores[space_id] = SpaceStore(definition, indexes, sort=not self._is_bulk, dead=self._dead)
            if space_id < TEMPORARY_ID_MIN:
                self.space_id_max = max(self.space_id_max, space_id)
        else:
            store.alter(definition, indexes, sort=not self._is_bulk, built=built)
            self.memory_used += store.memory

    def _read_members(self) -> None:
        rows = self._stores[CLUSTER_ID].tuples.values()
        self._members = {
            InstanceId(row[0]): _member(row) for row in sorted(rows, key=lambda row: int(row[0]))
        }

    # --- reads: committed data only

    def get(self, space_id: int, index_id: int, key: Tuple) -> Tuple | None:
        """[D-11]"""
        return self._readable(space_id, index_id).get(self._old_name(space_id, key))

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
    ) -> SelectResult:
        """[D-12], [D-13], [D-14]. `more` of the result: cut by `limit` or by bytes, go on with `after`."""
        return self._readable(space_id, index_id).select(
            self._old_name(space_id, key),
            iterator,
            limit=limit,
            offset=offset,
            after=after,
            bytes_max=self._limits.select_bytes_max,
            tuples_max=self._limits.select_tuples_max,
        )

    def count(self, space_id: int) -> int:
        """Committed tuples [D-15]; 0 while the space has no primary index."""
        return len(self._store(space_id).tuples)

    def _readable(self, space_id: int, index_id: int) -> Index:
        return self._store(space_id).index(index_id)

    @staticmethod
    def _old_name(space_id: int, key: Tuple) -> Tuple:
        is_old = space_id == SCHEMA_ID and key == (OLD_REPLICASET_UUID,)
        return (REPLICASET_UUID,) if is_old else key

    def _store(self, space: str | int) -> SpaceStore:
        space_id = self._ids.get(space, -1) if isinstance(space, str) else space
        found = self._stores.get(space_id)
        if found is None:
            if isinstance(space, int):
                raise NoSuchSpace(f"Space '#{space}' does not exist")
            near = get_close_matches(space, self._ids, n=1)
            raise NoSuchSpace(f"Space '{space}' does not exist", nearest=near[0] if near else None)
        return found

    # --- schema and members

    def space(self, name_or_id: str | int) -> SpaceDef:
        """NoSuchSpace with `nearest` in its details [D-3]."""
        return self._store(name_or_id).definition

    def spaces(self) -> list[SpaceDef]:
        """All of them, system spaces first, by id."""
        return [self._stores[number].definition for number in sorted(self._stores)]

    def indexes(self, space: str | int) -> list[IndexDef]:
        return [index.definition for index in self._store(space).indexes.values()]

    def index(self, space: str | int, name_or_id: str | int) -> IndexDef:
        """NoSuchIndex."""
        store = self._store(space)
        if isinstance(name_or_id, int):
            return store.index(name_or_id).definition
        for index in store.indexes.values():
            if index.definition.name == name_or_id:
                return index.definition
        raise NoSuchIndex(f"No index '{name_or_id}' is defined in space '{store.definition.name}'")

    def place_of(self, op: Dml) -> dict[str, str]:
        """Space and key that a change names, for people; as far as they are known here."""
        store = self._stores.get(op.space_id)
        if store is None:
            return {"space": f"#{op.space_id}"}
        place = {"space": store.definition.name}
        index = store.indexes.get(op.index_id)
        if op.value is None:
            place["key"] = show_tuple(op.key or ())
        elif index is not None:
            place["key"] = show_tuple(index.key_def.user_key(op.value))
        return place

    def members(self) -> dict[InstanceId, tuple[str, str | None]]:
        """id -> (uuid, name) of the committed `_cluster`, by id. Do not change it."""
        return self._members

    def prepared_members(self) -> dict[InstanceId, tuple[str, str | None]]:
        """The same with what is not decided yet: the N of elections."""
        store = self._stores[CLUSTER_ID]
        if not store.pending:
            return self._members
        rows = sorted(store.prepared_tuples(), key=lambda row: int(row[0]))
        return {InstanceId(row[0]): _member(row) for row in rows}

    def replicaset_uuid(self) -> str | None:
        """Committed; None before bootstrap or join."""
        row = self._stores[SCHEMA_ID].tuples.get(REPLICASET_UUID)
        return None if row is None else row[1]

    def prepared_rows(self, space_id: int) -> list[Tuple]:
        """Tuples of a space as a writer sees them; what the next schema change must build on."""
        return list(self._store(space_id).prepared_tuples())

    # --- snapshots, join, recovery

    def freeze(self, *, with_local: bool = True) -> list[tuple[int, list[Tuple]]]:
        """A view of all committed tuples that stays as it is: (space id, tuples), system spaces first.

        Temporary spaces are left out, and the definitions of spaces of type 'temporary' [D-4].
        with_local: False also leaves out the tuples of local spaces, for a join.
        """
        frozen = []
        for space_id in sorted(self._stores):
            store = self._stores[space_id]
            definition = store.definition
            if definition.is_temporary or (definition.is_local and not with_local):
                continue
            rows = list(store.tuples.values())
            if store.is_ddl:
                rows = [row for row in rows if self._is_in_snapshot(space_id, row, with_local)]
            if rows:
                frozen.append((space_id, rows))
        return frozen

    def _is_in_snapshot(self, space_id: int, row: Tuple, with_local: bool) -> bool:
        if row[0] >= TEMPORARY_ID_MIN:
            return False
        if space_id != TRUNCATE_ID:
            return True
        target = self._stores.get(row[0])
        if target is None:
            return True
        return not target.definition.is_temporary and (with_local or not target.definition.is_local)

    def load(self, space_id: int, tuples: Iterable[Tuple]) -> None:
        """Add committed tuples of a snapshot. Those of `_space`, then `_index` come before the data.

        They were checked when they were written, and the file has checksums: no further checks of data.
        """
        store = self._store(space_id)
        tuples = list(tuples)
        before = store.memory
        store.load(tuples)
        self.memory_used += store.memory - before
        if space_id == CLUSTER_ID:
            self._read_members()
        elif is_ddl_space(space_id) and space_id != TRUNCATE_ID:
            self._load_definitions(space_id, tuples)

    def _load_definitions(self, space_id: int, tuples: Iterable[Tuple]) -> None:
        touched: dict[int, tuple[SpaceDef, dict[int, IndexDef]]] = {}
        for row in tuples:
            if space_id == SPACE_ID:
                touched[row[0]] = (SpaceDef.from_tuple(row), self._index_defs(row[0]))
            elif row[0] in self._stores:
                _, indexes = touched.setdefault(
                    row[0], (self._stores[row[0]].definition, self._index_defs(row[0]))
                )
                indexes[row[1]] = IndexDef.from_tuple(row)
        for number, (definition, indexes) in touched.items():
            self._define(number, definition, indexes)
        self.schema_version += 1

    def _index_defs(self, space_id: int) -> dict[int, IndexDef]:
        store = self._stores.get(space_id)
        return {} if store is None else {n: index.definition for n, index in store.indexes.items()}

    @property
    def has_dead(self) -> bool:
        return bool(self._dead)

    def free(self, count: int) -> bool:
        """Let go of about so many objects that nobody needs any more. True: nothing is left."""
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
        self._is_bulk = True
        for store in self._stores.values():
            store.unsort()

    def end_bulk(self) -> None:
        self._is_bulk = False
        for store in self._stores.values():
            store.sort()

    def checksum(self, space_id: int) -> tuple[int, str]:
        """(count, 16 hex digits): equal wherever the space holds equal tuples, in whatever order."""
        return made_at_once(self.checksum_in_steps(space_id))

    def checksum_in_steps(self, space_id: int) -> Generator[None, None, tuple[int, str]]:
        """The same, of the tuples at the moment of the first step; a step takes about a millisecond."""
        rest = list(self._store(space_id).tuples.values())
        total, count = 0, len(rest)
        yield
        while rest:
            size, chunk = 0, list[bytes]()
            while rest and len(chunk) < CHECKSUM_ROWS and size < CHECKSUM_BYTES:
                # Taken off on the way: perhaps nobody else has them by now, and to drop a million takes long.
                chunk.append(_pack(rest.pop()))
                size += len(chunk[-1])
            total += sum(int.from_bytes(blake2b(data, digest_size=8).digest(), "big") for data in chunk)
            yield
        return count, f"{total & (2**64 - 1):016x}"

    def check(self) -> None:
        """Every index of every space agrees with the tuples, and overlays hold only open transactions."""
        assert self.memory_used == sum(store.memory for store in self._stores.values())
        for store in self._stores.values():
            store.check()


def _objects_in(value: Any, limit: int) -> int:
    """About how many objects go with a tuple, or with a key; counted no further than `limit`."""
    if not isinstance(value, tuple):
        return 1
    return 1 + len(value) + count_values(value, limit)


def _member(row: Tuple) -> tuple[str, str | None]:
    return row[1], row[2] if len(row) > 2 else None
