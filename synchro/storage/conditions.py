"""What must be true for a transaction to be done. Rule [D-42], ADR 49.

N1  A condition looks at the prepared state, as every writer does: pending transactions, and what comes before
    it in its own. Whoever looked at something pending rests on it (`Prepared.base`).
N2  It is looked at once, by the instance that makes the transaction, and never logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias

from synchro.errors import ConditionFailed, IllegalParams, NoSuchField
from synchro.row import Field, Tuple
from synchro.storage.msgpack_check import count_values
from synchro.storage.prepared import Prepared
from synchro.storage.space_changes import find
from synchro.storage.space_store import SpaceStore
from synchro.storage.tuple_format import show_tuple
from synchro.storage.update_ops import OP_WORK, Work, parse_path

FieldRef: TypeAlias = "int | str"
"""From 1, negative from the end; or a name or a path, as in update operations."""


_VALUE_WORK, _PATH_WORK = 128, 64
"""What each value that is compared, and each character of a path, count in `Work`."""


class Expected(Enum):
    """Of the tuple with the key of a condition. The words of the error."""

    ABSENT = "absent"
    PRESENT = "present"
    EQUAL = "equal"


class Condition(NamedTuple):
    """One condition of a transaction of a client.

    at: number of changes that come before it. place: of its operation in the call, from 0, for the error.
    fields: of EQUAL, (field, value) each. is_of_change: that is an update or a delete, which must match.
    """

    expected: Expected
    space_id: int
    index_id: int
    key: Tuple
    at: int
    place: int
    fields: tuple[tuple[FieldRef, Field], ...] = ()
    is_of_change: bool = False


def check_fields(fields: Tuple) -> tuple[tuple[FieldRef, Field], ...]:
    """`Condition.fields` as sent. Raises `IllegalParams`."""
    if not fields:
        raise IllegalParams("a condition that fields are equal names none; nothing was done")
    for pair in fields:
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) not in (int, str) or pair[0] == 0:
            raise IllegalParams("fields of a condition are arrays [field, value]; nothing was done")
    return fields


def check(condition: Condition, store: SpaceStore, prepared: Prepared, work: Work) -> None:
    """Raises `ConditionFailed`; what is wrong with the key or a field is bad input."""
    paths = sum(len(field) for field, _ in condition.fields if isinstance(field, str))
    work.spend(OP_WORK * max(1, len(condition.fields)) + _PATH_WORK * paths)
    if work.left is not None:
        values = count_values((condition.fields,), work.left // _VALUE_WORK)
        work.spend(_VALUE_WORK * values)
    found = find(store, prepared, condition)
    old = None if found is None else found[1]
    if condition.expected is Expected.ABSENT:
        if old is not None:
            raise _failed(condition, store, old, f"there is a tuple with key {_key(condition)}")
        return
    if old is None:
        raise _failed(condition, store, None, f"there is no tuple with key {_key(condition)}")
    for field, expected in condition.fields:
        value = field_of(old, field, store.format.names)
        if not is_equal(value, expected):
            name, wanted = _shown(field), _shown(expected)
            what = f"field {name} is not {wanted} in the tuple with key {_key(condition)}"
            raise _failed(condition, store, old, what, field=name.strip('"'), wanted=wanted)


def _failed(
    condition: Condition, store: SpaceStore, old: Tuple | None, what: str, **facts: object
) -> ConditionFailed:
    found = None if old is None else show_tuple(old)
    return ConditionFailed(
        f"Condition of ops[{condition.place}] failed: {what} in space '{store.definition.name}'"
        + (f": {found}" if found else "")
        + "; nothing was done",
        op=condition.place,
        condition=condition.expected.value,
        space=store.definition.name,
        index=store.index(condition.index_id).definition.name,
        key=_key(condition),
        found=found,
        **facts,
    )


def _key(condition: Condition) -> str:
    return show_tuple(condition.key)


def _shown(value: Field) -> str:
    """As error texts print it, cut to what is fit for one."""
    return show_tuple((value,))[1:-1]


def field_of(value: Tuple, field: FieldRef, names: Mapping[str, int]) -> Field:
    """The value of a field; None if the tuple has none there. names: field name -> 0-based position.

    Raises `NoSuchField` for a name that the format does not have, `IllegalParams` for what is no path.
    """
    if isinstance(field, int):
        return _item(value, field)
    if field in names:
        return _item(value, names[field] + 1)
    first, *steps = parse_path(field)
    if isinstance(first, str):
        if first not in names:
            raise NoSuchField(f"Field {_shown(first)} is not in the format of the space; nothing was done")
        first = names[first] + 1
    found = _item(value, first)
    for step in steps:
        if isinstance(step, int):
            found = _item(found, step) if isinstance(found, tuple) else None
        else:
            found = found.get(step) if isinstance(found, dict) else None
    return found


def _item(items: Sequence[Field], number: int) -> Field:
    position = number - 1 if number > 0 else len(items) + number
    return items[position] if number and 0 <= position < len(items) else None


def is_equal(one: Field, other: Field) -> bool:
    """Numbers by value whatever their types, and nothing else across types; NaN is itself.

    So that whoever read a value finds it equal: JSON has no other 1.0 than 1.
    """
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        others = {_as_key(key): value for key, value in other.items()}
        return len(one) == len(others) and all(
            (kind := _as_key(key)) in others and is_equal(value, others[kind]) for key, value in one.items()
        )
    if type(one) is bool or type(other) is bool:
        return one is other
    return bool(one == other or (one != one and other != other))


def _as_key(key: Field) -> tuple[bool, Field]:
    """True is no 1."""
    return type(key) is bool, key
