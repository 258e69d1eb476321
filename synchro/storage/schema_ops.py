"""Requests of people (create a space, add an index, ...) as changes of system spaces. [D-1]..[D-8], [D-40].

Each function returns the operations of one transaction, with empty `raw`: encode them from their fields.
Build them right before `Memtx.prepare`, with nothing prepared in between: ids and flags are read from the
prepared state. An empty list means "not created, it exists" (`if_not_exists`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from synchro.errors import IllegalParams, IndexExists, SequenceExists, SpaceExists
from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage.memtx import Memtx
from synchro.storage.schema import (
    ADMIN,
    INDEX_ID,
    PRIV_ID,
    SEQUENCE_DATA_ID,
    SEQUENCE_ID,
    SPACE_ID,
    SPACE_SEQUENCE_ID,
    TEMPORARY_ID_MIN,
    TRUNCATE_ID,
    ConflictPolicy,
    IndexDef,
    IndexType,
    SpaceDef,
    SpaceKind,
    check_name,
    parse_conflict,
    parse_format,
    resolve_parts,
)
from synchro.storage.sequence_def import INT64_MAX, INT64_MIN, SequenceDef

_FLAGS_FIELD: Final = 6
_SPACE_OBJECT: Final = "space"
_SEQUENCE_OBJECT: Final = "sequence"
"""What stands in `_priv` for privileges on spaces, and on sequences."""
DEFAULT_PARTS: Final = ((1, "unsigned"),)
"""The parts of an index that names none [D-8]."""


def _insert(space_id: int, value: Tuple) -> Dml:
    return Dml(RowType.INSERT, space_id, b"", value=value)


def _delete(space_id: int, *key: Field) -> Dml:
    return Dml(RowType.DELETE, space_id, b"", 0, key)


def definitions_alone(memtx: Memtx) -> Memtx:
    """The committed definitions, and what was granted on them, without tuples: where changes can be tried one
    after the other."""
    draft = Memtx(memtx.catalog.limits)
    for space_id in (
        SPACE_ID,
        SEQUENCE_ID,
        SEQUENCE_DATA_ID,
        INDEX_ID,
        TRUNCATE_ID,
        SPACE_SEQUENCE_ID,
        PRIV_ID,
    ):
        draft.load(space_id, memtx.catalog.store(space_id).tuples.values())
    draft.catalog.space_id_max = memtx.catalog.space_id_max
    return draft


def create_space(
    memtx: Memtx,
    name: str,
    *,
    space_id: int | None = None,
    field_count: int = 0,
    format: Sequence[object] = (),
    if_not_exists: bool = False,
    is_local: bool = False,
    is_sync: bool = False,
    temporary: bool = False,
    kind: SpaceKind | str | None = None,
    owner: int = ADMIN,
    conflict: str = ConflictPolicy.STOP,
) -> list[Dml]:
    """[D-2], [D-3], one row. kind: `type` of the rule, or else `temporary`. owner: a user, who may do
    everything with it. SpaceExists, IllegalParams."""
    check_name(name)
    rows = memtx.prepared_rows(SPACE_ID)
    if any(row[2] == name for row in rows) or any(
        s.name == name for s in memtx.catalog.spaces() if s.is_system
    ):
        if if_not_exists:
            return []
        raise SpaceExists(f"Space '{name}' already exists")
    if kind is not None and temporary:
        raise IllegalParams("options 'type' and 'temporary' are mutually exclusive")
    if kind is not None and kind not in set(SpaceKind):
        raise IllegalParams(f"unknown space type {kind!r}")
    chosen = SpaceKind(kind) if kind else SpaceKind.DATA_TEMPORARY if temporary else SpaceKind.NORMAL
    if is_local and is_sync:
        raise IllegalParams(f"Failed to create space '{name}': local space can't be synchronous")
    definition = SpaceDef(
        id=space_id if space_id is not None else _next_space_id(memtx, rows, chosen),
        name=name,
        field_count=field_count,
        format=parse_format(format),
        kind=chosen,
        is_local=is_local,
        is_sync=is_sync,
        owner=owner,
        conflict=parse_conflict(conflict),
    )
    return [_insert(SPACE_ID, definition.to_tuple())]


def _next_space_id(memtx: Memtx, rows: Sequence[Tuple], kind: SpaceKind) -> int:
    """Highest id ever + 1 [D-1]."""
    if kind is SpaceKind.TEMPORARY:
        taken = (int(row[0]) for row in rows if row[0] >= TEMPORARY_ID_MIN)
        return 1 + max(taken, default=TEMPORARY_ID_MIN - 1)
    return 1 + max([memtx.catalog.space_id_max, *(int(row[0]) for row in rows if row[0] < TEMPORARY_ID_MIN)])


def alter_space(
    memtx: Memtx,
    space: str | int,
    *,
    name: str | None = None,
    is_sync: bool | None = None,
    field_count: int | None = None,
    format: Sequence[object] | None = None,
    conflict: str | None = None,
) -> list[Dml]:
    """[D-7]: one UPDATE of the `_space` row, so that fields nobody asked to change stay as they are."""
    definition = memtx.catalog.space(space)
    ops: list[Tuple] = []
    if name is not None:
        check_name(name)
        if name != definition.name and any(known.name == name for known in memtx.catalog.spaces()):
            raise SpaceExists(f"Space '{name}' already exists")
        ops.append(("=", 3, name))
    if field_count is not None:
        ops.append(("=", 5, field_count))
    if is_sync is not None or conflict is not None:
        policy = None if conflict is None else parse_conflict(conflict)
        ops.append(("=", _FLAGS_FIELD, _flags(memtx, definition, is_sync, policy)))
    if format is not None:
        ops.append(("=", 7, tuple(field.to_map() for field in parse_format(format))))
    if not ops:
        raise IllegalParams("nothing to alter: give name, is_sync, field_count, format or conflict")
    return [Dml(RowType.UPDATE, SPACE_ID, b"", 0, (definition.id,), None, tuple(ops))]


def _flags(
    memtx: Memtx, definition: SpaceDef, is_sync: bool | None, conflict: ConflictPolicy | None
) -> dict[str, Field]:
    """None: as it is. A default is not written down."""
    row = memtx.get(SPACE_ID, 0, (definition.id,))
    flags: dict[str, Field] = dict(definition.to_tuple()[5] if row is None else row[5])
    if is_sync is not None:
        flags.pop("is_sync", None)
    if is_sync:
        flags["is_sync"] = True
    if conflict is not None:
        flags.pop("conflict", None)
    if conflict not in (None, ConflictPolicy.STOP):
        flags["conflict"] = str(conflict)
    return flags


def truncate(memtx: Memtx, space: str | int) -> list[Dml]:
    """[D-26]: one row; the counter rises by one, also if two truncates meet."""
    number = memtx.catalog.space(space).id
    return [Dml(RowType.UPSERT, TRUNCATE_ID, b"", value=(number, 1), ops=(("+", 2, 1),))]


def drop_space(memtx: Memtx, space: str | int) -> list[Dml]:
    """What was granted on it, its tie to a sequence, its indexes, the primary one last, its truncate counter
    if it has one, then the space [D-40]."""
    number = memtx.catalog.space(space).id
    ops = [*_grants_gone(memtx, _SPACE_OBJECT, number), *_untied(memtx, number)]
    ops += [_delete(INDEX_ID, number, index.id) for index in reversed(memtx.catalog.indexes(number))]
    if memtx.get(TRUNCATE_ID, 0, (number,)) is not None:
        ops.append(_delete(TRUNCATE_ID, number))
    return [*ops, _delete(SPACE_ID, number)]


def _grants_gone(memtx: Memtx, kind: str, number: int) -> list[Dml]:
    """Rows that take away what was granted on an object that goes."""
    rows = memtx.prepared_rows(PRIV_ID)
    return [_delete(PRIV_ID, *row[1:4]) for row in rows if row[2:4] == (kind, number)]


def create_index(
    memtx: Memtx,
    space: str | int,
    name: str,
    *,
    index_id: int | None = None,
    type: IndexType | str = IndexType.TREE,
    unique: bool = True,
    parts: Sequence[object] = DEFAULT_PARTS,
    if_not_exists: bool = False,
    sequence: Numbered | None = None,
) -> list[Dml]:
    """[D-8], one row; with a sequence, which only a primary key has, two, or three if it is made too. parts:
    as `schema.resolve_parts` takes them. IndexExists, WrongFormat, IllegalParams."""
    check_name(name)
    definition = memtx.catalog.space(space)
    known = memtx.catalog.indexes(definition.id)
    if any(index.name == name for index in known):
        if if_not_exists:
            return []
        raise IndexExists(f"Index '{name}' already exists")
    if index_id is None:
        index_id = max((index.id for index in known), default=-1) + 1
    elif any(index.id == index_id for index in known):
        raise IndexExists(f"Index #{index_id} already exists in space '{definition.name}'")
    if str(type).upper() not in IndexType.__members__:
        raise IllegalParams(f"Unknown index type {str(type)!r}: there are TREE and HASH")
    index = IndexDef(
        space_id=definition.id,
        id=index_id,
        name=name,
        type=IndexType(str(type).upper()),
        unique=unique,
        parts=resolve_parts(definition, parts),
    )
    ops = [_insert(INDEX_ID, index.to_tuple())]
    return ops if sequence is None else [*ops, *_numbered(memtx, definition, index, sequence)]


class Numbered(NamedTuple):
    """What gives values to a primary key. sequence: its name; None: one is made for the space, `SPACE_seq`.
    field: name, or number from 1; None: the first part."""

    sequence: str | None = None
    field: str | int | None = None


def _numbered(memtx: Memtx, space: SpaceDef, index: IndexDef, by: Numbered) -> list[Dml]:
    """Rows that tie a sequence to a space that has no primary key yet."""
    if index.id != 0:
        raise IllegalParams(
            f"Can't create index '{index.name}' in space '{space.name}': only a primary key can have a "
            "sequence"
        )
    field = index.parts[0].field
    if by.field is not None:
        (part,) = resolve_parts(space, [by.field])
        field = part.field
    ops: list[Dml] = []
    if by.sequence is None:
        ops += create_sequence(memtx, f"{space.name}_seq")
        assert ops[0].value is not None
        number = ops[0].value[0]
    else:
        number = memtx.catalog.sequences.named(by.sequence).id
    return [*ops, _insert(SPACE_SEQUENCE_ID, (space.id, number, by.sequence is None, field, ""))]


def _untied(memtx: Memtx, space_id: int) -> list[Dml]:
    """Rows that take the sequence of a space away; one that was made for it goes too."""
    link = memtx.catalog.sequences.link_of(space_id)
    if link is None:
        return []
    ops = [_delete(SPACE_SEQUENCE_ID, space_id)]
    return [*ops, *_sequence_gone(memtx, link[1])] if link[2] else ops


def _sequence_gone(memtx: Memtx, sequence_id: int) -> list[Dml]:
    granted = _grants_gone(memtx, _SEQUENCE_OBJECT, sequence_id)
    return [*granted, *_reset(memtx, sequence_id), _delete(SEQUENCE_ID, sequence_id)]


def _reset(memtx: Memtx, sequence_id: int) -> list[Dml]:
    is_started = any(row[0] == sequence_id for row in memtx.prepared_rows(SEQUENCE_DATA_ID))
    return [_delete(SEQUENCE_DATA_ID, sequence_id)] if is_started else []


def create_sequence(
    memtx: Memtx,
    name: str,
    *,
    step: int | None = None,
    low: int | None = None,
    high: int | None = None,
    start: int | None = None,
    cache: int = 0,
    cycle: bool = False,
    if_not_exists: bool = False,
) -> list[Dml]:
    """One row. low, high, start: None: as far as integers go, from 1 or -1 on. SequenceExists,
    IllegalParams."""
    check_name(name)
    rows = memtx.prepared_rows(SEQUENCE_ID)
    if any(row[2] == name for row in rows):
        if if_not_exists:
            return []
        raise SequenceExists(f"Sequence '{name}' already exists", sequence=name)
    step = 1 if step is None else step
    low = low if low is not None else 1 if step > 0 else INT64_MIN
    high = high if high is not None else INT64_MAX if step > 0 else -1
    made = SequenceDef(
        id=1 + max((*(int(row[0]) for row in rows), *_granted_sequences(memtx)), default=0),
        name=name,
        step=step,
        min=low,
        max=high,
        start=start if start is not None else low if step > 0 else high,
        cache=cache,
        cycle=cycle,
    )
    return [_insert(SEQUENCE_ID, SequenceDef.from_tuple(made.to_tuple()).to_tuple())]


def _granted_sequences(memtx: Memtx) -> Iterator[int]:
    """Ids that grants name. A grant may outlive its sequence, if both change at once: no other one gets its
    id."""
    rows = memtx.prepared_rows(PRIV_ID)
    return (row[3] for row in rows if row[2] == _SEQUENCE_OBJECT and type(row[3]) is int)


def alter_sequence(
    memtx: Memtx,
    sequence: str,
    *,
    name: str | None = None,
    step: int | None = None,
    low: int | None = None,
    high: int | None = None,
    start: int | None = None,
    cache: int | None = None,
    cycle: bool | None = None,
) -> list[Dml]:
    """One UPDATE of what is given. Its position stays."""
    definition = memtx.catalog.sequences.named(sequence)
    if name is not None:
        check_name(name)
        if name != definition.name and any(row[2] == name for row in memtx.prepared_rows(SEQUENCE_ID)):
            raise SequenceExists(f"Sequence '{name}' already exists", sequence=name)
    given = (name, step, low, high, start, cache, cycle)
    ops = tuple(("=", field, value) for field, value in enumerate(given, 3) if value is not None)
    if not ops:
        raise IllegalParams("nothing to alter: give name, step, min, max, start, cache or cycle")
    return [Dml(RowType.UPDATE, SEQUENCE_ID, b"", 0, (definition.id,), None, ops)]


def drop_sequence(memtx: Memtx, sequence: str) -> list[Dml]:
    """Refused if a space is numbered by it."""
    return _sequence_gone(memtx, memtx.catalog.sequences.named(sequence).id)


def reset_sequence(memtx: Memtx, sequence: str) -> list[Dml]:
    """Its next value is `start` again; no row if it is so already."""
    return _reset(memtx, memtx.catalog.sequences.named(sequence).id)


def set_sequence(memtx: Memtx, sequence: str, value: int | None) -> list[Dml]:
    """Its next value is the one after `value`. None: it takes its next value."""
    number = memtx.catalog.sequences.named(sequence).id
    return [Dml(RowType.REPLACE, SEQUENCE_DATA_ID, b"", value=(number, value))]


def drop_index(memtx: Memtx, space: str | int, index: str | int) -> list[Dml]:
    """The primary index goes last, and with it its sequence."""
    definition = memtx.catalog.index(space, index)
    if definition.id == 0 and len(memtx.catalog.indexes(space)) > 1:
        raise IllegalParams(
            f"Can't drop primary key in space '{memtx.catalog.space(space).name}' while secondary keys exist"
        )
    ops = _untied(memtx, definition.space_id) if definition.id == 0 else []
    return [*ops, _delete(INDEX_ID, definition.space_id, definition.id)]
