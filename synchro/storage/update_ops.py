"""Update operations `(op, field, args...)`, each applied to the result of the one before. Rule [D-18].

field: 1-based number, negative from the end, a field name, or a path into nested arrays and maps
(`name.key`, `name[2]`, `[3].key`). Works on values only: it knows no space and no index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import and_, or_, xor
from typing import Any, Final, NoReturn

from synchro.errors import (
    IllegalParams,
    NoSuchField,
    SynchroError,
    UnknownUpdateOp,
    UpdateArgType,
    UpdateIntegerOverflow,
    UpdateSplice,
)
from synchro.row import Field, Tuple
from synchro.storage.key_def import INT_MAX, INT_MIN

_ARGS: Final[Mapping[str, int]] = {
    "=": 1,
    "+": 1,
    "-": 1,
    "&": 1,
    "|": 1,
    "^": 1,
    ":": 3,
    "!": 1,
    "#": 1,
}
_BITWISE: Final[Mapping[str, Callable[[int, int], int]]] = {"&": and_, "|": or_, "^": xor}


def check_ops(ops: Sequence[Tuple], *, count_max: int | None = None) -> None:
    """Refuse operations that are malformed whatever the tuple is; an upsert is checked too."""
    if count_max is not None and len(ops) > count_max:
        raise IllegalParams(f"too many operations for update: {len(ops)}, the limit is {count_max}")
    for number, op in enumerate(ops, 1):
        if type(op) is not tuple or not op:
            raise IllegalParams("update operation must be an array {op,..}")
        if type(op[0]) is not str:
            raise IllegalParams("update operation name must be a string")
        expected = _ARGS.get(op[0])
        if expected is None:
            raise UnknownUpdateOp(
                f"Unknown UPDATE operation #{number}: '{op[0]}' is none of = + - & | ^ : ! #"
            )
        if len(op) != expected + 2:
            raise UnknownUpdateOp(
                f"Unknown UPDATE operation #{number}: wrong number of arguments, "
                f"expected {expected + 2}, got {len(op)}"
            )
        if type(op[1]) not in (int, str):
            raise IllegalParams("field id must be a number or a name")


def apply_ops(value: Tuple, ops: Sequence[Tuple], names: Mapping[str, int]) -> Tuple:
    """The tuple after all operations, which `check_ops` has seen. names: field name -> 0-based position."""
    fields = list(value)
    for op in ops:
        _apply(fields, op, names)
    return tuple(fields)


def apply_upsert_ops(value: Tuple, ops: Sequence[Tuple], names: Mapping[str, int]) -> Tuple:
    """As `apply_ops`, but an operation that fails is skipped and the others still count."""
    fields = list(value)
    for op in ops:
        try:
            _apply(fields, op, names)
        except SynchroError:
            continue
    return tuple(fields)


def _apply(fields: list[Field], op: Tuple, names: Mapping[str, int]) -> None:
    kind, where = op[0], op[1]
    if type(where) is int:
        _apply_at(fields, _position(fields, kind, where), op, str(where))
    elif where in names:
        position = names[where]
        if position > len(fields) or (position == len(fields) and kind not in "=!"):
            raise NoSuchField(f"Field {position + 1} was not found in the tuple")
        _apply_at(fields, position, op, str(position + 1))
    else:
        _apply_path(fields, op, names)


def _position(fields: list[Field], kind: str, number: int) -> int:
    """0-based position; for `=` and `!` it may be just behind the last field."""
    size = len(fields)
    position = number - 1 if number > 0 else size + number + (1 if kind == "!" else 0)
    last = size if kind in "=!" else size - 1
    if number == 0 or not 0 <= position <= last:
        raise NoSuchField(f"Field {number} was not found in the tuple")
    return position


def _apply_at(fields: list[Field], position: int, op: Tuple, shown: str) -> None:
    kind, argument = op[0], op[2]
    match kind:
        case "=":
            fields[position : position + 1] = [argument]
        case "!":
            fields.insert(position, argument)
        case "#":
            _delete(fields, position, argument, shown)
        case ":":
            fields[position] = _splice(fields[position], op, shown)
        case _:
            fields[position] = _compute(kind, fields[position], argument, shown)


def _delete(fields: list[Field], position: int, count: Field, shown: str) -> None:
    if type(count) is not int or count < 0:
        _wrong_type("#", shown, "a positive integer")
    if count == 0:
        raise IllegalParams(f"Field {shown} UPDATE error: cannot delete 0 fields")
    del fields[position : position + count]


def _compute(kind: str, value: Field, argument: Field, shown: str) -> Field:
    if kind in _BITWISE:
        if type(value) is not int or type(argument) is not int or value < 0 or argument < 0:
            _wrong_type(kind, shown, "a positive integer")
        return _BITWISE[kind](value, argument)
    if type(value) not in (int, float) or type(argument) not in (int, float):
        _wrong_type(kind, shown, "a number")
    result: Any = value + argument if kind == "+" else value - argument
    if type(result) is int and not INT_MIN <= result <= INT_MAX:
        raise UpdateIntegerOverflow(f"Integer overflow when performing '{kind}' operation on field {shown}")
    return result


def _splice(value: Field, op: Tuple, shown: str) -> Field:
    """Strings count in characters, so that the result is UTF-8 again; varbinary counts in bytes."""
    _, _, offset, cut, paste = op
    if type(value) not in (str, bytes) or type(paste) is not type(value):
        _wrong_type(":", shown, "a string")
    if type(offset) is not int or type(cut) is not int:
        _wrong_type(":", shown, "an integer")
    size = len(value)
    start = min(offset - 1, size) if offset > 0 else size + 1 + offset
    if offset == 0 or start < 0:
        raise UpdateSplice(f"SPLICE error on field {shown}: offset is out of bound")
    tail = size - start
    cut = min(cut, tail) if cut >= 0 else max(tail + cut, 0)
    return value[:start] + paste + value[start + cut :]


def _wrong_type(kind: str, shown: str, expected: str) -> NoReturn:
    raise UpdateArgType(
        f"Argument type in operation '{kind}' on field {shown} does not match field type: expected {expected}"
    )


# --- paths into nested arrays and maps --------------------------------------------------------------------

_STEP: Final = re.compile(r"\.?([^\W\d]\w*)|\[(-?\d+)\]|\[(?:\"([^\"]*)\"|'([^']*)')\]")


def _parse_path(path: str) -> list[int | str]:
    steps: list[int | str] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            raise IllegalParams(f"Invalid JSON path '{path}', error at position {at + 1}")
        name, number, *quoted = found.groups()
        steps.append(int(number) if number is not None else next(s for s in (name, *quoted) if s is not None))
        at = found.end()
    if not steps:
        raise IllegalParams("Invalid JSON path '', error at position 1")
    return steps


def _apply_path(fields: list[Field], op: Tuple, names: Mapping[str, int]) -> None:
    path = op[1]
    first, *rest = _parse_path(path)
    if isinstance(first, str):
        if first not in names:
            raise NoSuchField(f"Field '{path}' was not found in the tuple")
        first = names[first] + 1
    if not rest:
        _apply_at(fields, _position(fields, op[0], first), op, str(first))
        return
    position = _position(fields, "#", first)
    fields[position] = _descend(fields[position], rest, op)


def _descend(value: Field, steps: list[int | str], op: Tuple) -> Field:
    """A copy of `value` with the operation done at the end of the path."""
    step, *rest = steps
    shown = f"'{op[1]}'"
    if isinstance(step, int) and type(value) is tuple:
        items = list(value)
        try:
            position = _position(items, "#" if rest else op[0], step)
        except NoSuchField:
            raise NoSuchField(f"Field {shown} was not found in the tuple") from None
        if rest:
            items[position] = _descend(items[position], rest, op)
        else:
            _apply_at(items, position, op, shown)
        return tuple(items)
    if isinstance(step, str) and type(value) is dict:
        return _in_map(value, step, rest, op, shown)
    raise NoSuchField(f"Field {shown} was not found in the tuple")


def _in_map(
    value: dict[Field, Field], step: str, rest: list[int | str], op: Tuple, shown: str
) -> dict[Field, Field]:
    items = dict(value)
    if not rest and op[0] in "=!":
        if op[0] == "!" and step in items:
            raise IllegalParams(f"Field {shown} UPDATE error: the key exists already")
        items[step] = op[2]
        return items
    if step not in items:
        raise NoSuchField(f"Field {shown} was not found in the tuple")
    if rest:
        items[step] = _descend(items[step], rest, op)
    elif op[0] == "#":
        if op[2] != 1:
            raise IllegalParams(f"Field {shown} UPDATE error: can delete only 1 field from a map in a row")
        del items[step]
    else:
        holder = [items[step]]
        _apply_at(holder, 0, op, shown)
        items[step] = holder[0]
    return items
