"""What spaces there are, and who the members: rows of system spaces, and what they mean. [D-1]..[D-8].

C1  Definitions and members change when the transaction that changes them commits; `schema_version` counts
    changes of definitions.
C2  Every store has one name, that of its committed definition, which leads to its id.

Who may change them when is for the caller; what follows from single rows stands in `system_rows.py`, what a
transaction will make of the definitions in `ddl.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from synchro.config import Limits
from synchro.errors import NoSuchIndex, NoSuchSpace, SpaceExists, Unsupported
from synchro.ids import InstanceId
from synchro.row import Dml, Puts, Tuple
from synchro.storage.ddl import Build, Draft, DraftSpace
from synchro.storage.index import Index
from synchro.storage.key_def import Key
from synchro.storage.order import Order
from synchro.storage.prepared import BuildNeeded, Prepared
from synchro.storage.schema import (
    CLUSTER_ID,
    INDEX_ID,
    PRIV_ID,
    SCHEMA_ID,
    SEQUENCE_DATA_ID,
    SEQUENCE_ID,
    SPACE_ID,
    SYSTEM_SPACES,
    TEMPORARY_ID_MIN,
    TRUNCATE_ID,
    USER_ID,
    USER_ID_MIN,
    ConflictPolicy,
    IndexDef,
    SpaceDef,
    defines_sequences,
    is_ddl_space,
    is_system,
    nearest_name,
)
from synchro.storage.sequence_def import SequenceDef
from synchro.storage.sequences import Sequences
from synchro.storage.space_changes import clear
from synchro.storage.space_store import SpaceStore
from synchro.storage.stamp_clock import UNSTAMPED, Stamp
from synchro.storage.stamps import Tombstones
from synchro.storage.system_rows import (
    REPLICASET_UUID,
    check_client_change,
    check_cluster_row,
    check_schema_row,
    expelled_of,
    is_removal,
    replaced_of,
)
from synchro.storage.tuple_format import show_tuple
from synchro.storage.users import USER_SPACES, Users


class Catalog:
    """The spaces of one instance. catalog.C1, catalog.C2 above."""

    def __init__(self, limits: Limits, dead: list[dict[Key, Any] | list[Any] | Order]) -> None:
        """dead: takes what dropped spaces leave behind."""
        self.limits = limits
        self._dead = dead
        self.stores: dict[int, SpaceStore] = {}
        """Only the catalog adds and removes."""
        self._ids: dict[str, int] = {}
        """name -> id of committed spaces"""
        self._members: dict[InstanceId, tuple[str, str | None]] = {}
        self._expelled: dict[InstanceId, tuple[str, str | None]] = {}
        self._replaced: dict[str, InstanceId] = {}
        self.tombstones = Tombstones()
        """Of all spaces where the last write wins (ADR 44)."""
        self.built: Build | None = None
        """Finished, for the transaction that is prepared next."""
        self.is_bulk = False
        """Recovery: no order is kept."""
        self.schema_version = 1
        self.space_id_max = USER_ID_MIN - 1
        """Highest id a user space ever had here, temporary ones aside [D-1]."""
        for definition, indexes in SYSTEM_SPACES:
            store = SpaceStore(definition, {index.id: index for index in indexes}, dead=dead)
            self.stores[definition.id] = store
            self._ids[definition.name] = definition.id
        self.sequences = Sequences(self.stores)
        self.users = Users(self._owner_of, self._owned_by)
        """Who there is, and may do what; as committed."""

    def store(self, space: str | int) -> SpaceStore:
        """NoSuchSpace with `nearest` in its details."""
        space_id = self._ids.get(space, -1) if isinstance(space, str) else space
        found = self.stores.get(space_id)
        if found is None:
            if isinstance(space, int):
                raise NoSuchSpace(f"Space '#{space}' does not exist")
            raise NoSuchSpace(f"Space '{space}' does not exist", nearest=nearest_name(space, self._ids))
        return found

    # --- what is in force

    def space(self, name_or_id: str | int) -> SpaceDef:
        """NoSuchSpace with `nearest` in its details [D-3]."""
        return self.store(name_or_id).definition

    def spaces(self) -> list[SpaceDef]:
        """All of them, system spaces first, by id."""
        return [self.stores[number].definition for number in sorted(self.stores)]

    def indexes(self, space: str | int) -> list[IndexDef]:
        return [index.definition for index in self.store(space).indexes.values()]

    def index(self, space: str | int, name_or_id: str | int) -> IndexDef:
        """NoSuchIndex."""
        store = self.store(space)
        if isinstance(name_or_id, int):
            return store.index(name_or_id).definition
        for index in store.indexes.values():
            if index.definition.name == name_or_id:
                return index.definition
        raise NoSuchIndex(f"No index '{name_or_id}' is defined in space '{store.definition.name}'")

    def place_of(self, op: Dml) -> dict[str, str]:
        """Space and key that a change names, for people; as far as they are known here."""
        store = self.stores.get(op.space_id)
        if store is None:
            return {"space": f"#{op.space_id}"}
        place = {"space": store.definition.name}
        index = store.indexes.get(op.index_id)
        if op.value is None:
            place["key"] = show_tuple(op.key or ())
        elif index is not None:
            place["key"] = show_tuple(index.key_def.user_key(op.value))
        return place

    def member_named_by(self, removal: Dml) -> tuple[InstanceId, str, str | None] | None:
        """id, UUID and name of the member whose row it takes away; None: there is none. Raises `ExactMatch`
        and the like when it is prepared, not here."""
        number = self._named_by(removal)
        if type(number) is not int or number not in self._members:
            return None
        return InstanceId(number), *self._members[InstanceId(number)]

    def members(self) -> dict[InstanceId, tuple[str, str | None]]:
        """id -> (uuid, name) of the committed `_cluster`, by id. Do not change it."""
        return self._members

    def prepared_members(self) -> dict[InstanceId, tuple[str, str | None]]:
        """As `members`, with the rows of `_cluster` that are not decided yet: the N of elections."""
        store = self.stores[CLUSTER_ID]
        if not store.pending:
            return self._members
        rows = sorted(store.prepared_tuples(), key=lambda row: int(row[0]))
        return {InstanceId(row[0]): _member(row) for row in rows}

    def expelled(self) -> dict[InstanceId, tuple[str, str | None]]:
        """id -> (uuid, name) of who was removed from the set, committed (ADR 41). Do not change it."""
        return self._expelled

    def expelled_id(self, uuid: str) -> InstanceId | None:
        """The id that this instance had when it was removed, or another one took its place [M-25]; None:
        neither happened, or it is a member again."""
        if any(member == uuid for member, _ in self._members.values()):
            return None
        removed = next((number for number, (gone, _) in self._expelled.items() if gone == uuid), None)
        return self._replaced.get(uuid) if removed is None else removed

    def replicaset_uuid(self) -> str | None:
        """Committed; None before bootstrap or join."""
        row = self.stores[SCHEMA_ID].tuples.get(REPLICASET_UUID)
        return None if row is None else row[1]

    def policy_of(self, space_id: int) -> ConflictPolicy:
        """That of a space that is not there is the default."""
        store = self.stores.get(space_id)
        return ConflictPolicy.STOP if store is None else store.definition.conflict

    @property
    def has_policies(self) -> bool:
        """Some space says what becomes of conflicts (ADR 44)."""
        stores = self.stores.values()
        return any(store.definition.conflict is not ConflictPolicy.STOP for store in stores)

    # --- rows with a meaning

    def check_client(self, ops: Sequence[Dml], self_id: InstanceId) -> None:
        """Raise if clients may not write this: see `check_client_change`."""
        if type(ops) is Puts and not is_system(ops.space_id):
            return
        for op in ops:
            if is_system(op.space_id):
                leaves = is_removal(op)
                check_client_change(op.space_id, self._named_by(op), self_id=self_id, is_removal=leaves)
                if leaves and len(ops) > 1:
                    raise Unsupported(
                        "One transaction does not support the removal of a member together with other "
                        "changes; nothing was written"
                    )

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
        index = self.stores[op.space_id].indexes.get(op.index_id)
        if index is None or not index.definition.unique:
            return None
        found = index.get(op.key)
        return None if found is None else found[0]

    def refuse_system_names(self, draft: Draft) -> None:
        """A second space of that name would hide the first from all who ask for it by name."""
        for space_id, space in draft.spaces.items():
            name = "" if space.definition is None else space.definition.name
            if is_system(self._ids.get(name, 0)) and not is_system(space_id):
                raise SpaceExists(f"Space '{name}' already exists")

    def on_system_row(
        self, prepared: Prepared, store: SpaceStore, op: Dml, old: Tuple | None, new: Tuple | None
    ) -> tuple[bool, bool]:
        """Check what the row would mean. Returns (is logged, is local)."""
        space_id = store.definition.id
        prepared.system = (*prepared.system, space_id)
        if space_id == CLUSTER_ID:
            check_cluster_row(old, new)
        elif space_id == SCHEMA_ID:
            check_schema_row(old, new)
        elif space_id == SEQUENCE_DATA_ID:
            if new is not None:
                self.sequences.need(new[0])
        elif space_id == SEQUENCE_ID and new is not None:
            SequenceDef.from_tuple(new)
            return self._on_ddl_row(prepared, space_id, op, old, new)
        elif store.is_ddl:
            return self._on_ddl_row(prepared, space_id, op, old, new)
        return True, False

    def _on_ddl_row(
        self, prepared: Prepared, space_id: int, op: Dml, old: Tuple | None, new: Tuple | None
    ) -> tuple[bool, bool]:
        row = new or old or op.key or op.value
        target_id = row[0] if row else 0
        target = self.stores.get(target_id)
        is_local = is_logged = False
        if space_id == TRUNCATE_ID:
            is_local = target is not None and target.definition.is_local
            is_logged = target is None or not target.definition.is_temporary
            if target is not None and new is not None and (is_local or not is_logged):
                # Only this instance sees it, so it needs no barrier, which a foreign queue could hold up.
                clear(target, prepared)
                return is_logged, is_local
        else:
            is_logged = target_id < TEMPORARY_ID_MIN or defines_sequences(space_id)
        if any(not store.is_system for store, *_ in prepared.changes) or prepared.temporary:
            raise mixture()
        if prepared.draft is None:
            prepared.draft = Draft(self.stores)
        prepared.draft.change(space_id, old, new, Stamp(op.stamp, prepared.origin) if op.stamp else UNSTAMPED)
        prepared.is_ddl = prepared.is_ddl or is_logged
        return is_logged, is_local

    def build_for(self, draft: Draft, serial: int) -> Build | None:
        """What the draft needs. None: it rests on what is pending, and is built when that is decided."""
        self.sequences.check(draft)
        if any(store.has_pending for store, _ in draft.touched):
            draft.check_tuples()
            return None
        build, self.built = self.built, None
        if build is None or not build.fits(draft, serial - 1):
            build = Build(draft, serial, sort=not self.is_bulk)
            if not self.is_bulk and draft.rows > self.limits.ddl_rows_at_once:
                raise BuildNeeded(build)
        build.finish()
        return build

    def base_of(self, draft: Draft, prepared: Prepared) -> Prepared | None:
        """The newest pending transaction in the spaces that a schema change looked at."""
        newest: Prepared | None = None
        for space_id in draft.spaces:
            store = self.stores.get(space_id)
            found = None if store is None else store.newest_pending()
            if (
                found is not None
                and found is not prepared
                and (newest is None or found.serial > newest.serial)
            ):
                newest = found
        return newest

    def commit(self, prepared: Prepared, *, is_newest: bool) -> int:
        """What its rows of system spaces mean is in force from now on. Returns by how much more memory is
        needed. is_newest: nothing was prepared since, so what was built for it is true."""
        growth = 0
        if CLUSTER_ID in prepared.system:
            self._read_members()
        if SCHEMA_ID in prepared.system:
            self._read_expelled()
        if not USER_SPACES.isdisjoint(prepared.system):
            self._read_users()
        if prepared.draft is not None:
            for space_id, space in prepared.draft.spaces.items():
                if space.definition is not None and space_id in self.stores:
                    growth += _emptied(self.stores[space_id], space)
                build = prepared.build if is_newest else None
                built = None if build is None else build.indexes.get(space_id)
                growth += self._define(space_id, space.definition, space.indexes, built)
            self.sequences.read()
            self.schema_version += 1
            self.users.forget_rights()
        return growth

    def _define(
        self,
        space_id: int,
        definition: SpaceDef | None,
        indexes: dict[int, IndexDef],
        built: dict[int, Index] | None = None,
    ) -> int:
        """Put one definition in force. Returns as `commit`."""
        store = self.stores.get(space_id)
        before = 0
        if store is not None:
            before = store.memory
            if self._ids.get(store.definition.name) == space_id:  # else another one has taken it [catalog.C2]
                del self._ids[store.definition.name]
        if definition is None:
            if store is not None:
                del self.stores[space_id]
                store.bury_all()
            return -before
        self._ids[definition.name] = space_id
        if store is None:
            store = self.stores[space_id] = SpaceStore(
                definition, indexes, sort=not self.is_bulk, dead=self._dead, tombstones=self.tombstones
            )
            if space_id < TEMPORARY_ID_MIN:
                self.space_id_max = max(self.space_id_max, space_id)
        else:
            store.alter(definition, indexes, sort=not self.is_bulk, built=built)
        return store.memory - before

    def _read_members(self) -> None:
        rows = self.stores[CLUSTER_ID].tuples.values()
        self._members = {
            InstanceId(row[0]): _member(row) for row in sorted(rows, key=lambda row: int(row[0]))
        }

    def _read_expelled(self) -> None:
        rows = self.stores[SCHEMA_ID].tuples.values()
        self._expelled, self._replaced = expelled_of(rows), replaced_of(rows)

    def _read_users(self) -> None:
        self.users.read(self.stores[USER_ID].tuples.values(), self.stores[PRIV_ID].tuples.values())

    def _owner_of(self, space_id: int) -> int | None:
        store = self.stores.get(space_id)
        return None if store is None else store.definition.owner

    def _owned_by(self, user: int) -> list[int]:
        return [number for number, store in self.stores.items() if store.definition.owner == user]

    def load(self, space_id: int, tuples: Sequence[Tuple]) -> int:
        """Take over tuples of a snapshot that lie in their space already. Returns as `commit`."""
        if space_id == CLUSTER_ID:
            self._read_members()
        elif space_id == SCHEMA_ID:
            self._read_expelled()
        elif space_id in USER_SPACES:
            self._read_users()
        if not is_ddl_space(space_id) or space_id == TRUNCATE_ID:
            return 0
        if defines_sequences(space_id):
            self.sequences.read()
            return 0
        touched: dict[int, tuple[SpaceDef, dict[int, IndexDef]]] = {}
        for row in tuples:
            if space_id == SPACE_ID:
                touched[row[0]] = (SpaceDef.from_tuple(row), self._index_defs(row[0]))
            elif row[0] in self.stores:
                _, indexes = touched.setdefault(
                    row[0], (self.stores[row[0]].definition, self._index_defs(row[0]))
                )
                indexes[row[1]] = IndexDef.from_tuple(row)
        growth = 0
        for number, (definition, indexes) in touched.items():
            growth += self._define(number, definition, indexes)
        self.schema_version += 1
        self.users.forget_rights()
        return growth

    def _index_defs(self, space_id: int) -> dict[int, IndexDef]:
        store = self.stores.get(space_id)
        return {} if store is None else {n: index.definition for n, index in store.indexes.items()}

    def is_in_snapshot(self, space_id: int, row: Tuple, with_local: bool) -> bool:
        """Whether a row of a DDL space belongs to what is written down or joined [D-4]."""
        if row[0] >= TEMPORARY_ID_MIN:
            return False
        if space_id != TRUNCATE_ID:
            return True
        target = self.stores.get(row[0])
        if target is None:
            return True
        return not target.definition.is_temporary and (with_local or not target.definition.is_local)

    def check(self) -> None:
        """catalog.C2, and that of the users: a full scan, for tests."""
        self.users.check_rules()
        assert self._ids == {store.definition.name: number for number, store in self.stores.items()}


def _emptied(store: SpaceStore, space: DraftSpace) -> int:
    """Take out what a truncate leaves nothing of. Returns as `Catalog.commit`."""
    before = store.memory
    if space.truncated:
        store.truncate()
    elif space.floor is not None and store.stamps is None:
        store.truncate()  # the policy begins with this very transaction
    elif space.floor is not None:
        store.truncate_before(space.floor)
    return store.memory - before


def mixture() -> Unsupported:
    """The error for a transaction that changes definitions and data."""
    return Unsupported("One transaction does not support schema changes together with data changes")


def _member(row: Tuple) -> tuple[str, str | None]:
    return row[1], row[2] if len(row) > 2 else None
