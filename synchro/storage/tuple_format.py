"""Checks of tuples against a space's format and index parts, and their form in error texts. [D-6], [D-9]."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final

from synchro.errors import FieldMissing, FieldType, WrongFormat
from synchro.row import Field, Tuple
from synchro.storage.key_def import KINDS, accepts_all, key_accepts, type_name
from synchro.storage.schema import FieldDef, IndexDef, SpaceDef, effective_fields

SHOWN_CHARS_MAX: Final = 1024
"""A tuple in an error text or in error details is cut here: details travel in HTTP headers."""


class TupleFormat:
    """What a tuple of one space must look like, compiled for speed."""

    __slots__ = ("_columns", "_count", "_optional", "_required", "_size_min", "fields", "names")

    def __init__(self, space: SpaceDef, indexes: Iterable[IndexDef]) -> None:
        indexes = tuple(indexes)
        self.fields: tuple[FieldDef, ...] = effective_fields(space, indexes)
        self.names = space.field_names()
        """field name -> 0-based position"""
        self._count = space.field_count
        indexed = {part.field for index in indexes for part in index.parts}
        required: list[tuple[int, frozenset[type], Callable[[Field], bool] | None]] = []
        optional: list[tuple[int, frozenset[type], Callable[[Field], bool] | None]] = []
        self._size_min = 0
        named = len(space.format)
        for position in (*range(named), *sorted(one for one in indexed if one >= named)):
            field = self.fields[position]
            if not field.is_nullable:
                self._size_min = position + 1
            if field.type == "any":
                continue
            accepts = key_accepts(field.type) if position in indexed else KINDS[field.type].accepts
            (optional if field.is_nullable else required).append((position, KINDS[field.type].types, accepts))
        self._required = tuple(required)
        self._optional = tuple(optional)
        self._columns = tuple(
            (itemgetter(position), types, accepts and accepts_all(accepts))
            for position, types, accepts in required
        )

    def check(self, value: Tuple) -> None:
        """Raise FieldMissing, FieldType or WrongFormat unless the tuple may be stored."""
        if len(value) < self._size_min:
            self._raise_missing(len(value))
        for position, types, accepts in self._required:
            field = value[position]
            if type(field) not in types or (accepts is not None and not accepts(field)):
                self._raise_type(position, field)
        if self._optional:
            self._check_optional(value)
        if self._count and len(value) != self._count:
            raise WrongFormat(
                f"Tuple field count {len(value)} does not match space field count {self._count}"
            )

    def passes(self, values: Sequence[Tuple]) -> bool:
        """Whether `check` takes them all; a column at a time, so that Python's loops are in C."""
        sizes = set(map(len, values))
        if min(sizes) < self._size_min or (self._count and sizes != {self._count}):
            return False
        for field_of, types, accept in self._columns:
            column = list(map(field_of, values))
            if not types.issuperset(map(type, column)) or (accept is not None and not accept(column)):
                return False
        if self._optional:
            try:
                for value in values:
                    self._check_optional(value)
            except FieldType:
                return False
        return True

    def same_checks(self, other: TupleFormat) -> bool:
        """Whatever passed one passes the other."""
        return (self._size_min, self._count, self._required, self._optional) == (
            other._size_min,
            other._count,
            other._required,
            other._optional,
        )

    def _check_optional(self, value: Tuple) -> None:
        size = len(value)
        for position, types, accepts in self._optional:
            if position >= size:
                return
            field = value[position]
            if field is None:
                continue
            if type(field) not in types or (accepts is not None and not accepts(field)):
                self._raise_type(position, field)

    def _shown(self, position: int) -> str:
        name = self.fields[position].name
        return f"{position + 1} ({name})" if name else str(position + 1)

    def _raise_missing(self, size: int) -> None:
        missing = next(p for p in range(size, self._size_min) if not self.fields[p].is_nullable)
        raise FieldMissing(f"Tuple field {self._shown(missing)} required by space format is missing")

    def _raise_type(self, position: int, field: Field) -> None:
        raise FieldType(
            f"Tuple field {self._shown(position)} type does not match one required by operation: "
            f"expected {self.fields[position].type}, got {_got(field)}"
        )


def _got(field: Field) -> str:
    return "nan" if type(field) is float and field != field else type_name(field)


def show_tuple(value: Tuple) -> str:
    """A tuple as error texts print it: a list in JSON's manner [D-9]. What is cut off costs nothing."""
    shown: list[str] = []
    size = 0
    for piece in _pieces(value):
        shown.append(piece)
        size += len(piece)
        if size > SHOWN_CHARS_MAX:
            return "".join(shown)[: SHOWN_CHARS_MAX - 3] + "..."
    return "".join(shown)


def _pieces(value: Field) -> Iterator[str]:
    match value:
        case str():
            yield json.dumps(value[:SHOWN_CHARS_MAX], ensure_ascii=False)
        case bytes():
            yield json.dumps(value[:SHOWN_CHARS_MAX].decode("latin-1"))
        case float() if value.is_integer() and abs(value) < 1e15:
            yield str(int(value))
        case None | bool() | int() | float():
            yield json.dumps(value)
        case tuple() | list():
            yield "["
            for number, item in enumerate(value):
                yield ", " if number else ""
                yield from _pieces(item)
            yield "]"
        case dict():
            yield "{"
            for number, (key, item) in enumerate(value.items()):
                yield ", " if number else ""
                yield from _pieces(key)
                yield ": "
                yield from _pieces(item)
            yield "}"
        case _:
            yield str(value)
