"""Definitions of spaces and indexes, their form as tuples of system spaces, and the system spaces.

A definition is data: a tuple of `_space` or `_index`, as in Tarantool, so that schema changes are rows like
any other. Rules [D-1]..[D-8], [D-21]..[D-23]. In `_index` a part's field is 0-based, in errors 1-based.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from synchro.errors import Unsupported, WrongFormat
from synchro.row import Field, Tuple
from synchro.storage.key_def import KINDS, TYPE_ALIASES, Part, narrower

SCHEMA_ID: Final = 272
SPACE_ID: Final = 280
SEQUENCE_ID: Final = 284
SEQUENCE_DATA_ID: Final = 285
INDEX_ID: Final = 288
FUNC_ID: Final = 296
USER_ID: Final = 304
PRIV_ID: Final = 312
CLUSTER_ID: Final = 320
TRUNCATE_ID: Final = 330
SPACE_SEQUENCE_ID: Final = 340

SPACE_FORMAT: Final = 6
"""Position of the format in a row of `_space`."""
SYSTEM_ID_MIN: Final = 256
SYSTEM_ID_MAX: Final = 511
USER_ID_MIN: Final = 512
TEMPORARY_ID_MIN: Final = 2**30
SPACE_ID_MAX: Final = 2**31 - 1
MARKS_ID: Final = 2**31
"""No space: in a snapshot, behind all spaces, what is known of their tuples beside them (ADR 44)."""
INDEX_COUNT_MAX: Final = 128
FIELD_NUMBER_MAX: Final = 2**20
"""Fields of a tuple that an index part can name: one of `tuple_bytes_max` has no more. A format has an entry
for each field up to the last one that an index names."""
NAME_LENGTH_MAX: Final = 65_000
"""Characters of a name, as in Tarantool."""
NEAREST_CHARS_MAX: Final = 64
NEAREST_AMONG_MAX: Final = 64
ADMIN: Final = 1
"""Owner of what nobody else owns."""

_SEQUENCE_IDS: Final = frozenset({SEQUENCE_ID, SPACE_SEQUENCE_ID})
_DDL_IDS: Final = frozenset({SPACE_ID, INDEX_ID, TRUNCATE_ID, *_SEQUENCE_IDS})


def is_system(space_id: int) -> bool:
    return SYSTEM_ID_MIN <= space_id <= SYSTEM_ID_MAX


def is_ddl_space(space_id: int) -> bool:
    """Rows of this space change definitions (or empty a space), so they need the barrier."""
    return space_id in _DDL_IDS


def defines_sequences(space_id: int) -> bool:
    """Rows of this space define sequences, or tie them to spaces."""
    return space_id in _SEQUENCE_IDS


class SpaceKind(StrEnum):
    """What becomes of the data and of the definition [D-4]; `is_local` is independent of it."""

    NORMAL = "normal"
    DATA_TEMPORARY = "data-temporary"
    """The definition is logged, the data is not."""
    TEMPORARY = "temporary"
    """Nothing is logged; ids from 2^30."""


class ConflictPolicy(StrEnum):
    """What becomes of a received row that is in the way of what is here (ADR 44)."""

    STOP = "stop"
    """The stream stops, and a person decides [A-52]."""
    SKIP = "skip"
    """What breaks a unique index becomes a Nop [A-35]."""
    KEEP_LOCAL = "keep_local"
    """So does what changes a tuple that was last written on this instance."""
    LAST_WRITE_WINS = "last_write_wins"
    """Every row has a stamp, and the newest one is what reads see, on all instances."""


class IndexType(StrEnum):
    TREE = "TREE"
    HASH = "HASH"


@dataclass(frozen=True, slots=True)
class FieldDef:
    """One field of a format [D-6]."""

    name: str
    type: str = "any"
    is_nullable: bool = False

    def to_map(self) -> dict[str, Field]:
        fields: dict[str, Field] = {"name": self.name, "type": self.type}
        if self.is_nullable:
            fields["is_nullable"] = True
        return fields


@dataclass(frozen=True, slots=True)
class SpaceDef:
    """One space, without its indexes."""

    id: int
    name: str
    owner: int = ADMIN
    engine: str = "memtx"
    field_count: int = 0
    """Exact number of fields; 0 = any."""
    format: tuple[FieldDef, ...] = ()
    kind: SpaceKind = SpaceKind.NORMAL
    is_local: bool = False
    is_sync: bool = False
    conflict: ConflictPolicy = ConflictPolicy.STOP

    @property
    def is_temporary(self) -> bool:
        """Changes of its data are never logged [D-5]."""
        return self.kind is not SpaceKind.NORMAL

    @property
    def is_system(self) -> bool:
        return is_system(self.id)

    def field_names(self) -> dict[str, int]:
        """name -> 0-based position"""
        return {field.name: position for position, field in enumerate(self.format)}

    def to_tuple(self) -> Tuple:
        """The tuple of `_space`."""
        flags: dict[str, Field] = {}
        if self.is_local:
            flags["group_id"] = 1
        if self.kind is SpaceKind.DATA_TEMPORARY:
            flags["temporary"] = True
        elif self.kind is SpaceKind.TEMPORARY:
            flags["type"] = self.kind.value
        if self.is_sync:
            flags["is_sync"] = True
        if self.conflict is not ConflictPolicy.STOP:
            flags["conflict"] = self.conflict.value
        fields = tuple(field.to_map() for field in self.format)
        return (self.id, self.owner, self.name, self.engine, self.field_count, flags, fields)

    @staticmethod
    def from_tuple(row: Tuple) -> SpaceDef:
        """Definition in a tuple of `_space` that its format accepted. WrongFormat, Unsupported."""
        space_id, owner, name, engine, field_count, flags, fields = row[:7]
        check_name(name)
        if engine != "memtx":
            raise Unsupported(f"Space '{name}' does not support engine '{engine}': there is only memtx")
        return SpaceDef(
            id=space_id,
            name=name,
            owner=owner,
            engine=engine,
            field_count=field_count,
            format=parse_format(fields),
            kind=_parse_kind(name, flags),
            is_local=flags.get("group_id", 0) == 1,
            is_sync=_flag(flags, "is_sync"),
            conflict=parse_conflict(flags.get("conflict", ConflictPolicy.STOP)),
        )


@dataclass(frozen=True, slots=True)
class IndexDef:
    space_id: int
    id: int
    name: str
    type: IndexType = IndexType.TREE
    unique: bool = True
    parts: tuple[Part, ...] = (Part(0, "unsigned"),)

    def to_tuple(self) -> Tuple:
        """The tuple of `_index`."""
        parts: list[dict[str, Field]] = []
        for part in self.parts:
            fields: dict[str, Field] = {"field": part.field, "type": part.type}
            if part.is_nullable:
                fields["is_nullable"] = True
            parts.append(fields)
        return (self.space_id, self.id, self.name, self.type.value, {"unique": self.unique}, tuple(parts))

    @staticmethod
    def from_tuple(row: Tuple) -> IndexDef:
        """Definition in a tuple of `_index` that its format accepted. WrongFormat, Unsupported."""
        space_id, index_id, name, kind, options, parts = row[:6]
        check_name(name)
        if kind.upper() not in IndexType.__members__:
            raise Unsupported(f"Index '{name}' does not support type '{kind}': there are TREE and HASH")
        if not parts:
            raise WrongFormat(f"Can't create or modify index '{name}': part count must be positive")
        parsed = tuple(_parse_part(name, part) for part in parts)
        if len({part.field for part in parsed}) != len(parsed):
            raise WrongFormat(f"Can't create or modify index '{name}': same key part is indexed twice")
        return IndexDef(
            space_id=space_id,
            id=index_id,
            name=name,
            type=IndexType(kind.upper()),
            unique=_flag(options, "unique", default=True),
            parts=parsed,
        )


# --- parsing ----------------------------------------------------------------------------------------------

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was perhaps meant. Not looked for among long names, nor among very many: to ask for
    what is not there must not cost more than to ask for what is (ADR 25)."""
    if len(name) > NEAREST_CHARS_MAX:
        return None
    short = (one for one in known if len(one) <= NEAREST_CHARS_MAX)
    near = get_close_matches(name, list(islice(short, NEAREST_AMONG_MAX)), n=1)
    return near[0] if near else None


def check_name(name: str) -> None:
    if not name or len(name) > NAME_LENGTH_MAX or _CONTROL.search(name):
        raise WrongFormat(f"Invalid identifier {name[:64]!r} (expected printable symbols only)")


def _flag(options: Mapping[str, Field], name: str, *, default: bool = False) -> bool:
    value = options.get(name, default)
    if type(value) is not bool:
        raise WrongFormat(f"Wrong space or index option '{name}': expected boolean, got {value!r}")
    return value


def _parse_kind(name: str, flags: Mapping[str, Field]) -> SpaceKind:
    kind = flags.get("type")
    temporary = _flag(flags, "temporary")
    if kind is None:
        return SpaceKind.DATA_TEMPORARY if temporary else SpaceKind.NORMAL
    if "temporary" in flags:
        raise WrongFormat(f"Space '{name}': options 'type' and 'temporary' are mutually exclusive")
    if not isinstance(kind, str) or kind not in set(SpaceKind):
        raise WrongFormat(f"Space '{name}': unknown type {kind!r}")
    return SpaceKind(kind)


def parse_conflict(policy: object) -> ConflictPolicy:
    """A policy by its name. WrongFormat."""
    if not isinstance(policy, str) or policy not in set(ConflictPolicy):
        names = ", ".join(ConflictPolicy)
        raise WrongFormat(f"Wrong space option 'conflict': expected one of {names}, got {policy!r}")
    return ConflictPolicy(policy)


def parse_type(name: object, where: str) -> str:
    """Canonical name of a field type."""
    kind = TYPE_ALIASES.get(name.lower(), name.lower()) if isinstance(name, str) else None
    if kind is None or kind not in KINDS:
        raise WrongFormat(f"{where} has unknown field type {name!r}")
    return kind


def parse_format(fields: Iterable[object]) -> tuple[FieldDef, ...]:
    """Format in any of its forms: 'name', (name, type), {name, type, is_nullable} [D-6]."""
    parsed = tuple(_parse_field(number, field) for number, field in enumerate(fields, 1))
    seen: set[str] = set()
    for field in parsed:
        if field.name in seen:
            raise WrongFormat(f"Space field '{field.name}' is duplicate")
        seen.add(field.name)
    return parsed


def _parse_field(number: int, field: Any) -> FieldDef:
    kind: object = "any"
    nullable: object = False
    match field:
        case FieldDef():
            return field
        case str():
            name: object = field
        case {"name": name}:
            kind = field.get("type", "any")
            nullable = field.get("is_nullable", False)
        case [name]:
            pass
        case [name, kind]:
            pass
        case _:
            raise WrongFormat(f"format[{number}]: expected a name, or name and type, got {field!r}")
    if not isinstance(name, str) or not isinstance(nullable, bool):
        raise WrongFormat(f"format[{number}]: 'name' is a string, 'is_nullable' a boolean, got {field!r}")
    check_name(name)
    return FieldDef(name, parse_type(kind, f"Field {number} ({name})"), nullable)


def _parse_part(index: str, part: Any) -> Part:
    nullable: object = False
    match part:
        case {"field": field, "type": kind}:
            nullable = part.get("is_nullable", False)
            if part.get("path") is not None or part.get("collation") is not None:
                raise Unsupported(f"Index '{index}' does not support paths and collations in parts")
        case [field, kind]:
            pass
        case _:
            raise WrongFormat(f"Wrong index parts of '{index}': expected field and type, got {part!r}")
    if type(field) is not int or field < 0 or type(nullable) is not bool:
        raise WrongFormat(f"Wrong index parts of '{index}': field is a number, is_nullable a boolean")
    if field >= FIELD_NUMBER_MAX:
        raise WrongFormat(
            f"Wrong index parts of '{index}': field {field + 1} is over the limit of {FIELD_NUMBER_MAX}"
        )
    where = f"Part {field + 1} of index '{index}'"
    name = parse_type(kind, where)
    if not KINDS[name].is_key:
        raise WrongFormat(f"Can't create or modify index '{index}': field type '{name}' is not supported")
    return Part(field, name, nullable)


def resolve_parts(space: SpaceDef, parts: Sequence[object]) -> tuple[Part, ...]:
    """Parts as people write them: 'name', number, (number or name, type[, options]) or a map [D-8].

    Numbers are 1-based. A type that is missing is that of the format; so is nullability.
    """
    names = space.field_names()
    resolved = []
    for part in parts:
        field, kind, nullable = _spell_part(part)
        if isinstance(field, str):
            if field not in names:
                raise WrongFormat(
                    f"Wrong index parts: field '{field}' is not in the format of '{space.name}'"
                )
            position = names[field]
        elif type(field) is int and field >= 1:
            position = field - 1
        else:
            raise WrongFormat(f"Wrong index parts: field is a name or a number from 1 up, got {field!r}")
        defined = space.format[position] if position < len(space.format) else None
        if kind is None:
            kind = defined.type if defined is not None else "unsigned"
        if nullable is None:
            nullable = defined is not None and defined.is_nullable
        resolved.append(Part(position, parse_type(kind, f"Part {position + 1}"), nullable))
    return tuple(resolved)


def _spell_part(part: Any) -> tuple[object, object, bool | None]:
    nullable: object = None
    kind: object = None
    match part:
        case Part():
            return part.field + 1, part.type, part.is_nullable
        case str() | int():
            field: object = part
        case {"field": field}:
            kind, nullable = part.get("type"), part.get("is_nullable")
        case [field]:
            pass
        case [field, {"is_nullable": nullable}]:
            pass
        case [field, kind]:
            pass
        case [field, kind, {"is_nullable": nullable}]:
            pass
        case _:
            raise WrongFormat(f"Wrong index parts: got {part!r}")
    if nullable is not None and not isinstance(nullable, bool):
        raise WrongFormat(f"Wrong index parts: is_nullable is a boolean, got {nullable!r}")
    return field, kind, nullable


ANYTHING: Final = FieldDef("", "any", True)
"""A field of which nothing is known. A million of them may stand before one that an index names."""


def effective_fields(space: SpaceDef, indexes: Iterable[IndexDef]) -> tuple[FieldDef, ...]:
    """What each field must be, from the format and from all index parts. WrongFormat if they disagree.

    A field that an index needs is never null, unless the part and the format both allow it.
    """
    fields = list(space.format)
    indexed: dict[int, FieldDef] = {}
    for index in indexes:
        for part in index.parts:
            known = indexed.get(part.field)
            if known is None:
                known = fields[part.field] if part.field < len(fields) else ANYTHING
            kind = narrower(known.type, part.type)
            if kind is None:
                raise WrongFormat(
                    f"Field {part.field + 1} ({known.name}) has type '{known.type}' in space format, "
                    f"but type '{part.type}' in index definition of '{index.name}'"
                )
            indexed[part.field] = FieldDef(known.name, kind, known.is_nullable and part.is_nullable)
    size = max([len(fields), *(position + 1 for position in indexed)])
    fields += [ANYTHING] * (size - len(fields))
    for position, field in indexed.items():
        fields[position] = field
    return tuple(fields)


# --- system spaces ----------------------------------------------------------------------------------------


def _system(
    space_id: int, name: str, fields: Sequence[tuple[str, str] | tuple[str, str, bool]], *indexes: IndexDef
) -> tuple[SpaceDef, tuple[IndexDef, ...]]:
    return SpaceDef(space_id, name, format=tuple(FieldDef(*field) for field in fields)), indexes


def _index(space_id: int, index_id: int, name: str, *parts: Any, unique: bool = True) -> IndexDef:
    return IndexDef(space_id, index_id, name, unique=unique, parts=tuple(Part(*part) for part in parts))


SYSTEM_SPACES: Final[tuple[tuple[SpaceDef, tuple[IndexDef, ...]], ...]] = (
    _system(
        SCHEMA_ID,
        "_schema",
        [("key", "string"), ("value", "any", True)],
        _index(SCHEMA_ID, 0, "primary", (0, "string")),
    ),
    _system(
        SPACE_ID,
        "_space",
        [
            ("id", "unsigned"),
            ("owner", "unsigned"),
            ("name", "string"),
            ("engine", "string"),
            ("field_count", "unsigned"),
            ("flags", "map"),
            ("format", "array"),
        ],
        _index(SPACE_ID, 0, "primary", (0, "unsigned")),
        _index(SPACE_ID, 1, "owner", (1, "unsigned"), unique=False),
        _index(SPACE_ID, 2, "name", (2, "string")),
    ),
    _system(
        SEQUENCE_ID,
        "_sequence",
        [
            ("id", "unsigned"),
            ("owner", "unsigned"),
            ("name", "string"),
            ("step", "integer"),
            ("min", "integer"),
            ("max", "integer"),
            ("start", "integer"),
            ("cache", "integer"),
            ("cycle", "boolean"),
        ],
        _index(SEQUENCE_ID, 0, "primary", (0, "unsigned")),
        _index(SEQUENCE_ID, 1, "owner", (1, "unsigned"), unique=False),
        _index(SEQUENCE_ID, 2, "name", (2, "string")),
    ),
    _system(
        SEQUENCE_DATA_ID,
        "_sequence_data",
        [("id", "unsigned"), ("value", "integer")],
        _index(SEQUENCE_DATA_ID, 0, "primary", (0, "unsigned")),
    ),
    _system(
        INDEX_ID,
        "_index",
        [
            ("id", "unsigned"),
            ("iid", "unsigned"),
            ("name", "string"),
            ("type", "string"),
            ("opts", "map"),
            ("parts", "array"),
        ],
        _index(INDEX_ID, 0, "primary", (0, "unsigned"), (1, "unsigned")),
        _index(INDEX_ID, 2, "name", (0, "unsigned"), (2, "string")),
    ),
    _system(
        USER_ID,
        "_user",
        [
            ("id", "unsigned"),
            ("owner", "unsigned"),
            ("name", "string"),
            ("type", "string"),
            ("auth", "map"),
            ("options", "map", True),
        ],
        _index(USER_ID, 0, "primary", (0, "unsigned")),
        _index(USER_ID, 1, "owner", (1, "unsigned"), unique=False),
        _index(USER_ID, 2, "name", (2, "string")),
    ),
    _system(
        PRIV_ID,
        "_priv",
        [
            ("grantor", "unsigned"),
            ("grantee", "unsigned"),
            ("object_type", "string"),
            ("object_id", "scalar"),
            ("privilege", "unsigned"),
            ("options", "map", True),
        ],
        _index(PRIV_ID, 0, "primary", (1, "unsigned"), (2, "string"), (3, "scalar")),
        _index(PRIV_ID, 1, "owner", (0, "unsigned"), unique=False),
        _index(PRIV_ID, 2, "object", (2, "string"), (3, "scalar"), unique=False),
    ),
    _system(
        CLUSTER_ID,
        "_cluster",
        [("id", "unsigned"), ("uuid", "string"), ("name", "string", True)],
        _index(CLUSTER_ID, 0, "primary", (0, "unsigned")),
        _index(CLUSTER_ID, 1, "uuid", (1, "string")),
        _index(CLUSTER_ID, 2, "name", (2, "string", True)),
    ),
    _system(
        TRUNCATE_ID,
        "_truncate",
        [("id", "unsigned"), ("count", "unsigned")],
        _index(TRUNCATE_ID, 0, "primary", (0, "unsigned")),
    ),
    _system(
        SPACE_SEQUENCE_ID,
        "_space_sequence",
        [
            ("id", "unsigned"),
            ("sequence_id", "unsigned"),
            ("is_generated", "boolean"),
            ("field", "unsigned"),
            ("path", "string"),
        ],
        _index(SPACE_SEQUENCE_ID, 0, "primary", (0, "unsigned")),
        _index(SPACE_SEQUENCE_ID, 1, "sequence", (1, "unsigned"), unique=False),
    ),
)
