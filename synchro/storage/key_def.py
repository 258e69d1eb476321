"""Keys: which fields make one, how they compare, and what is no key. Rules [D-8], [D-10], [D-11].

A key inside an index is built of plain Python values whose own order is the order of the rules, so that
dicts and sorted containers compare in C:

K1  One part of one kind of values, never null: the key is the bare value (`is_plain`).
K2  Else it is a tuple with one item a part: the bare value where all values of the part compare with each
    other, (rank, value) where the part may be null or is a `scalar`; null is (0, None), before all others.
K3  int, float and Decimal compare by value, exactly: Python does not convert to float. -0.0 is 0, and 1.50
    is 1.5. NaN, and integers outside -2^63..2^64-1, are no key.
K4  str compares by code point, which is the order of its UTF-8 bytes; a UUID as its 16 bytes.
K5  A datetime compares by its point in time alone, not by the offset in which it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from synchro.errors import ExactMatch, KeyPartCount, KeyPartType
from synchro.row import Field, Tuple
from synchro.values import Datetime, Interval

Key: TypeAlias = Any
"""A full key as an index holds it: a bare value [key_def.K1] or a tuple of encoded parts [key_def.K2]."""

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**64 - 1


class Part(NamedTuple):
    """One part of a key. field: 0-based position in the tuple."""

    field: int
    type: str
    is_nullable: bool = False


# --- types of fields --------------------------------------------------------------------------------------


def _is_unsigned(value: Field) -> bool:
    return bool(0 <= value <= INT_MAX)


def _is_integer(value: Field) -> bool:
    return bool(INT_MIN <= value <= INT_MAX)


def _is_number(value: Field) -> bool:
    return bool(INT_MIN <= value <= INT_MAX if type(value) is int else value == value)


def _is_not_nan(value: Field) -> bool:
    return bool(value == value)


def _is_scalar(value: Field) -> bool:
    return _is_number(value) if type(value) in (int, float) else True


def accepts_all(accepts: Callable[[Field], bool]) -> Callable[[Sequence[Field]], bool]:
    """The test `accepts`, made for many values of the right types at once; there is at least one value."""
    if accepts is _is_unsigned:
        return lambda values: bool(min(values) >= 0 and max(values) <= INT_MAX)
    if accepts is _is_integer:
        return lambda values: bool(min(values) >= INT_MIN and max(values) <= INT_MAX)
    return lambda values: all(map(accepts, values))


class FieldKind(NamedTuple):
    """What a field type accepts: exact Python types, and a test of the value if that is not enough."""

    types: frozenset[type]
    accepts: Callable[[Field], bool] | None
    is_key: bool
    """May be a part of an index."""


_COMPARABLE: Final = frozenset({bool, int, float, Decimal, str, bytes, UUID, Datetime})
KINDS: Final[dict[str, FieldKind]] = {
    "any": FieldKind(_COMPARABLE | {type(None), Interval, tuple, dict}, None, False),
    "unsigned": FieldKind(frozenset({int}), _is_unsigned, True),
    "integer": FieldKind(frozenset({int}), _is_integer, True),
    "number": FieldKind(frozenset({int, float, Decimal}), _is_number, True),
    "double": FieldKind(frozenset({float}), None, True),
    "string": FieldKind(frozenset({str}), None, True),
    "boolean": FieldKind(frozenset({bool}), None, True),
    "varbinary": FieldKind(frozenset({bytes}), None, True),
    "decimal": FieldKind(frozenset({Decimal}), None, True),
    "uuid": FieldKind(frozenset({UUID}), None, True),
    "datetime": FieldKind(frozenset({Datetime}), None, True),
    "interval": FieldKind(frozenset({Interval}), None, False),
    "scalar": FieldKind(_COMPARABLE, _is_scalar, True),
    "array": FieldKind(frozenset({tuple}), None, False),
    "map": FieldKind(frozenset({dict}), None, False),
}

TYPE_ALIASES: Final = {
    "*": "any",
    "uint": "unsigned",
    "num": "unsigned",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
}

_WIDER: Final[dict[str, frozenset[str]]] = {
    "unsigned": frozenset({"integer", "number", "scalar", "any"}),
    "integer": frozenset({"number", "scalar", "any"}),
    "double": frozenset({"number", "scalar", "any"}),
    "decimal": frozenset({"number", "scalar", "any"}),
    "number": frozenset({"scalar", "any"}),
    "string": frozenset({"scalar", "any"}),
    "boolean": frozenset({"scalar", "any"}),
    "varbinary": frozenset({"scalar", "any"}),
    "uuid": frozenset({"scalar", "any"}),
    "datetime": frozenset({"scalar", "any"}),
    "interval": frozenset({"any"}),
    "scalar": frozenset({"any"}),
    "array": frozenset({"any"}),
    "map": frozenset({"any"}),
    "any": frozenset(),
}


def narrower(first: str, second: str) -> str | None:
    """The type both contain, if one contains the other; else None."""
    if first == second or second in _WIDER[first]:
        return first
    return second if first in _WIDER[second] else None


def key_accepts(kind: str) -> Callable[[Field], bool] | None:
    """The value test of a key part: as for the field, and no NaN [key_def.K3]."""
    return _is_not_nan if kind == "double" else KINDS[kind].accepts


def type_name(value: Field) -> str:
    """How error texts call the type of a value."""
    if type(value) is int:
        return "unsigned" if value >= 0 else "integer"
    return {
        type(None): "nil",
        bool: "boolean",
        float: "double",
        str: "string",
        bytes: "varbinary",
        Decimal: "decimal",
        UUID: "uuid",
        Datetime: "datetime",
        Interval: "interval",
        tuple: "array",
        list: "array",
        dict: "map",
    }.get(type(value), type(value).__name__)


# --- order ------------------------------------------------------------------------------------------------


class _Top:
    """Greater than every part of a key: `prefix + (TOP,)` is just behind all keys with that prefix."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True


TOP: Final = _Top()

_RANK: Final[dict[type, int]] = {
    bool: 1,
    int: 2,
    float: 2,
    Decimal: 2,
    str: 3,
    bytes: 4,
    UUID: 5,
    Datetime: 6,
}
_NULL: Final = (0, None)


class KeyDef:
    """The parts of one index: extracts keys from tuples and checks keys that callers send."""

    __slots__ = ("_wrapped", "count", "is_plain", "of", "parts", "plain_field")

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts: tuple[Part, ...] = tuple(parts)
        self.count = len(self.parts)
        self._wrapped = tuple(part.is_nullable or part.type == "scalar" for part in self.parts)
        self.is_plain = self.count == 1 and not self._wrapped[0]
        self.plain_field = self.parts[0].field if self.is_plain else -1
        self.of: Callable[[Tuple], Key] = self._extractor()
        """Key of a tuple that was checked against the format."""

    def _extractor(self) -> Callable[[Tuple], Key]:
        if not any(self._wrapped):
            return itemgetter(*(part.field for part in self.parts))  # one part: the bare value [key_def.K1]
        steps = tuple(zip((part.field for part in self.parts), self._wrapped, strict=True))

        def wrapped(value: Tuple) -> Key:
            size = len(value)
            return tuple(
                _encode(value[field] if field < size else None) if wrap else value[field]
                for field, wrap in steps
            )

        return wrapped

    def has_null(self, key: Key) -> bool:
        """A key with a null part equals no other key, not even in a unique index."""
        return not self.is_plain and _NULL in key

    def prefix(self, key: Tuple) -> tuple[Field, ...]:
        """Encoded parts of a key sent by a caller, perhaps not all of them [D-11]."""
        if len(key) > self.count:
            raise KeyPartCount(f"Invalid key part count (expected [0..{self.count}], got {len(key)})")
        encoded = []
        for position, value in enumerate(key):
            part = self.parts[position]
            if value is None and part.is_nullable:
                encoded.append(_NULL)
                continue
            accepts = key_accepts(part.type)
            if type(value) not in KINDS[part.type].types or (accepts is not None and not accepts(value)):
                raise KeyPartType(
                    f"Supplied key type of part {position} does not match index part type: "
                    f"expected {part.type}"
                )
            encoded.append(_encode(value) if self._wrapped[position] else value)
        return tuple(encoded)

    def exact(self, key: Tuple) -> Key:
        """The full key sent by a caller, as the index holds it."""
        if len(key) != self.count:
            raise ExactMatch(
                f"Invalid key part count in an exact match (expected {self.count}, got {len(key)})"
            )
        encoded = self.prefix(key)
        return encoded[0] if self.is_plain else encoded

    def sent(self, key: Key) -> Tuple:
        """The other way round: a full key of an index, as a caller would send it."""
        if self.is_plain:
            return (key,)
        return tuple(part[1] if wrap else part for part, wrap in zip(key, self._wrapped, strict=True))

    def user_key(self, value: Tuple) -> Tuple:
        """The key of a tuple as a caller would send it."""
        size = len(value)
        return tuple(value[part.field] if part.field < size else None for part in self.parts)


def _encode(value: Field) -> Field:
    return _NULL if value is None else (_RANK[type(value)], value)
