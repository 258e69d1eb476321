"""Update operations `(op, field, args...)`, each applied to the result of the one before. Rule [D-18].

field: 1-based number, negative from the end, a field name, or a path into nested arrays and maps
(`name.key`, `name[2]`, `[3].key`). Works on values only: it knows no space and no index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from operator import and_, or_, xor
from typing import Any, Final, NoReturn

from synchro.errors import (
    BatchTooLarge,
    IllegalParams,
    NoSuchField,
    SynchroError,
    UnknownUpdateOp,
    UpdateArgType,
    UpdateDecimalOverflow,
    UpdateIntegerOverflow,
    UpdateSplice,
)
from synchro.row import Field, Tuple
from synchro.storage.key_def import INT_MAX, INT_MIN
from synchro.values import DECIMAL_DIGITS_MAX, check_decimal

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
_NUMBERS: Final = frozenset({int, float, Decimal})
_DECIMALS: Final = Context(prec=DECIMAL_DIGITS_MAX, rounding=ROUND_HALF_UP, traps=[])
"""Our own, so that a sum is the same on all instances."""
_DECIMAL_STEP: Final = Decimal(1).scaleb(-DECIMAL_DIGITS_MAX)
"""The smallest decimal."""
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


_ADVICE: Final = (
    ". Next: make it several transactions, or replace the tuple once instead of updating it often"
)


class Work:
    """Bytes that a transaction may still touch; `left` None: as many as it likes (rows of peers and logs)."""

    __slots__ = ("left", "limit")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = self.left = limit

    @property
    def spent(self) -> int:
        return 0 if self.left is None or self.limit is None else self.limit - self.left

    def spend(self, size: int, advice: str = _ADVICE) -> None:
        """BatchTooLarge beyond the limit. advice: why it touches so much, if that is known, and what next."""
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise BatchTooLarge(
                    f"Transaction would touch more than {self.limit} bytes; nothing was done{advice}",
                    limit=self.limit,
                )


OP_WORK: Final = 4096
"""What an operation counts in `Work` whatever it does: copying so many bytes takes about as long."""


def apply_ops(
    value: Tuple, ops: Sequence[Tuple], names: Mapping[str, int], work: Work | None = None
) -> Tuple:
    """The tuple after all operations, which `check_ops` has seen. names: field name -> 0-based position."""
    update = _Update(value, names, work or Work(), len(ops))
    for op in ops:
        update.apply(op)
    return update.result()


def apply_upsert_ops(
    value: Tuple, ops: Sequence[Tuple], names: Mapping[str, int], work: Work | None = None
) -> Tuple:
    """As `apply_ops`, but an operation that fails is skipped and the others still count."""
    update = _Update(value, names, work or Work(), len(ops))
    for op in ops:
        try:
            update.apply(op)
        except BatchTooLarge:  # of the whole transaction
            raise
        except SynchroError:
            continue
    return update.result()


# --- what is changed is made changeable once ----------------------------------------------------------------

_PIECE: Final = 8192
"""Characters, or bytes, that a splice of a long string copies at most a few times."""


class _Rope:
    """A long string between two splices. size: of all pieces; none is empty, or much longer than `_PIECE`."""

    __slots__ = ("empty", "pieces", "size")

    def __init__(self, value: str | bytes) -> None:
        self.empty: Any = value[:0]
        self.pieces: list[Any] = _pieces(value)
        self.size = len(value)

    def splice(self, start: int, cut: int, paste: Any) -> None:
        pieces, end = self.pieces, start + cut
        first = before = 0
        while first < len(pieces) - 1 and before + len(pieces[first]) <= start:
            before += len(pieces[first])
            first += 1
        last, behind = first, before
        while last < len(pieces) and behind + len(pieces[last]) < end:
            behind += len(pieces[last])
            last += 1
        head = pieces[first][: start - before] if pieces else self.empty
        tail = pieces[last][end - behind :] if last < len(pieces) else self.empty
        pieces[first : last + 1] = _pieces(head + paste + tail)
        self.size += len(paste) - cut


def _pieces(value: Any) -> list[Any]:
    if len(value) <= 2 * _PIECE:
        return [value] if value else []
    return [value[at : at + _PIECE] for at in range(0, len(value), _PIECE)]


class _Map(dict[Field, Field]):
    """A map that belongs to this update alone."""


def _frozen(value: Any) -> Field:
    kind = type(value)
    if kind is list:
        return tuple(map(_frozen, value))
    if kind is _Map:
        return {key: _frozen(item) for key, item in value.items()}
    if kind is _Rope:
        return value.empty.join(value.pieces)
    return value


class _Update:
    """One tuple while operations change it.

    What an operation changes is copied into a form that can be changed (a list, `_Map`, `_Rope`) the first
    time and taken back at the end: so many operations on one large field copy it twice, not each time. Values
    of tuples and of operations are never lists, so a list is always ours.
    """

    __slots__ = ("_is_thawed", "_names", "_work", "fields")

    def __init__(self, value: Tuple, names: Mapping[str, int], work: Work, count: int) -> None:
        work.spend(16 * len(value) + OP_WORK * count)
        self.fields: list[Any] = list(value)
        self._names = names
        self._work = work
        self._is_thawed = False

    def result(self) -> Tuple:
        return tuple(map(_frozen, self.fields) if self._is_thawed else self.fields)

    def apply(self, op: Tuple) -> None:
        fields, names = self.fields, self._names
        kind, where = op[0], op[1]
        if type(where) is int:
            self._apply_at(fields, _position(fields, kind, where), op, str(where))
        elif where in names:
            position = names[where]
            if position > len(fields) or (position == len(fields) and kind not in "=!"):
                raise NoSuchField(f"Field {position + 1} was not found in the tuple")
            self._apply_at(fields, position, op, str(position + 1))
        else:
            self._apply_path(op)

    def _apply_at(self, fields: list[Any], position: int, op: Tuple, shown: str) -> None:
        kind, argument = op[0], op[2]
        match kind:
            case "=":
                fields[position : position + 1] = [argument]
            case "!":
                self._work.spend(8 * (len(fields) - position))
                fields.insert(position, argument)
            case "#":
                self._work.spend(8 * (len(fields) - position))
                _delete(fields, position, argument, shown)
            case ":":
                self._splice(fields, position, op, shown)
            case _:
                fields[position] = _compute(kind, fields[position], argument, shown)

    def _splice(self, holder: Any, key: Any, op: Tuple, shown: str) -> None:
        """Strings count in characters, so that the result is UTF-8 again; varbinary counts in bytes."""
        _, _, offset, cut, paste = op
        value = holder[key]
        kind = type(value.empty) if type(value) is _Rope else type(value)
        if kind not in (str, bytes) or type(paste) is not kind:
            _wrong_type(":", shown, "a string")
        if type(offset) is not int or type(cut) is not int:
            _wrong_type(":", shown, "an integer")
        size = value.size if type(value) is _Rope else len(value)
        start = min(offset - 1, size) if offset > 0 else size + 1 + offset
        if offset == 0 or start < 0:
            raise UpdateSplice(f"SPLICE error on field {shown}: offset is out of bound")
        tail = size - start
        cut = min(cut, tail) if cut >= 0 else max(tail + cut, 0)
        if type(value) is _Rope:
            value.splice(start, cut, paste)
        elif size <= 2 * _PIECE:
            holder[key] = value[:start] + paste + value[start + cut :]
        else:
            self._work.spend(size // 4)
            self._is_thawed = True
            holder[key] = rope = _Rope(value)
            rope.splice(start, cut, paste)

    # --- paths into nested arrays and maps

    def _apply_path(self, op: Tuple) -> None:
        path, fields = op[1], self.fields
        first, *rest = parse_path(path)
        if isinstance(first, str):
            if first not in self._names:
                raise NoSuchField(f"Field '{_cut(path)}' was not found in the tuple")
            first = self._names[first] + 1
        if not rest:
            self._apply_at(fields, _position(fields, op[0], first), op, str(first))
            return
        shown = f"'{_cut(path)}'"
        holder: Any = fields
        key: Any = _position(fields, "#", first)
        for step in rest[:-1]:
            holder = self._thaw(holder, key, step, shown)
            key = _inner_position(holder, "#", step, shown) if isinstance(step, int) else step
            if isinstance(step, str) and step not in holder:
                raise NoSuchField(f"Field {shown} was not found in the tuple")
        last = rest[-1]
        holder = self._thaw(holder, key, last, shown)
        if isinstance(last, int):
            self._apply_at(holder, _inner_position(holder, op[0], last, shown), op, shown)
        else:
            self._apply_in_map(holder, last, op, shown)

    def _thaw(self, holder: Any, key: Any, step: int | str, shown: str) -> Any:
        """The array, or map, at `key`, in which `step` is to be looked up; ours from now on."""
        value = holder[key]
        kind = type(value)
        if isinstance(step, int):
            if kind is tuple:
                self._work.spend(16 * len(value))
                self._is_thawed = True
                holder[key] = value = list(value)
            elif kind is not list:
                raise NoSuchField(f"Field {shown} was not found in the tuple")
        elif kind is dict:
            self._work.spend(128 * len(value))
            self._is_thawed = True
            holder[key] = value = _Map(value)
        elif kind is not _Map:
            raise NoSuchField(f"Field {shown} was not found in the tuple")
        return value

    def _apply_in_map(self, items: _Map, step: str, op: Tuple, shown: str) -> None:
        kind = op[0]
        if kind in "=!":
            if kind == "!" and step in items:
                raise IllegalParams(f"Field {shown} UPDATE error: the key exists already")
            items[step] = op[2]
            return
        if step not in items:
            raise NoSuchField(f"Field {shown} was not found in the tuple")
        if kind == "#":
            if op[2] != 1:
                raise IllegalParams(
                    f"Field {shown} UPDATE error: can delete only 1 field from a map in a row"
                )
            del items[step]
        elif kind == ":":
            self._splice(items, step, op, shown)
        else:
            items[step] = _compute(kind, items[step], op[2], shown)


def _inner_position(items: list[Any], kind: str, number: int, shown: str) -> int:
    try:
        return _position(items, kind, number)
    except NoSuchField:
        raise NoSuchField(f"Field {shown} was not found in the tuple") from None


def _position(fields: list[Field], kind: str, number: int) -> int:
    """0-based position; for `=` and `!` it may be just behind the last field."""
    size = len(fields)
    position = number - 1 if number > 0 else size + number + (1 if kind == "!" else 0)
    last = size if kind in "=!" else size - 1
    if number == 0 or not 0 <= position <= last:
        raise NoSuchField(f"Field {number} was not found in the tuple")
    return position


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
    if type(value) not in _NUMBERS or type(argument) not in _NUMBERS:
        _wrong_type(kind, shown, "a number")
    if type(value) is Decimal or type(argument) is Decimal:
        return _compute_decimal(kind, value, argument, shown)
    result: Any = value + argument if kind == "+" else value - argument
    if type(result) is int and not INT_MIN <= result <= INT_MAX:
        raise UpdateIntegerOverflow(f"Integer overflow when performing '{kind}' operation on field {shown}")
    return result


def _compute_decimal(kind: str, value: Field, argument: Field, shown: str) -> Decimal:
    """The sum or difference, one side of which is a decimal, rounded to the digits that a decimal has."""
    first, second = _as_decimal(value), _as_decimal(argument)
    result = _DECIMALS.add(first, second) if kind == "+" else _DECIMALS.subtract(first, second)
    if _digits_behind_point(result) > DECIMAL_DIGITS_MAX:
        result = result.quantize(_DECIMAL_STEP, context=_DECIMALS)
    try:
        return check_decimal(result)
    except ValueError:
        raise UpdateDecimalOverflow(
            f"Decimal overflow when performing operation '{kind}' on field {shown}"
        ) from None


def _digits_behind_point(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if type(exponent) is int else 0  # NaN or an infinity


def _as_decimal(value: Field) -> Decimal:
    """A double is the shortest decimal that reads as it, as people write it: 0.1 is 0.1."""
    return Decimal(repr(value)) if type(value) is float else Decimal(value)


def _wrong_type(kind: str, shown: str, expected: str) -> NoReturn:
    raise UpdateArgType(
        f"Argument type in operation '{kind}' on field {shown} does not match field type: expected {expected}"
    )


# --- paths into nested arrays and maps --------------------------------------------------------------------

_STEPS_MAX: Final = 64
"""Tuples are not nested that deep, so a longer path leads nowhere."""
_PATH_CHARS_MAX: Final = 100
"""Of a path in an error text."""
_STEP: Final = re.compile(r"\.?([^\W\d]\w*)|\[(-?\d{1,18})\]|\[(?:\"([^\"]*)\"|'([^']*)')\]")


def _cut(path: str) -> str:
    return path if len(path) <= _PATH_CHARS_MAX else path[:_PATH_CHARS_MAX] + "..."


def parse_path(path: str) -> list[int | str]:
    """The steps of a path: names, and numbers of fields from 1. Raises `IllegalParams`."""
    steps: list[int | str] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            raise IllegalParams(f"Invalid JSON path '{_cut(path)}', error at position {at + 1}")
        name, number, *quoted = found.groups()
        steps.append(int(number) if number is not None else next(s for s in (name, *quoted) if s is not None))
        at = found.end()
        if len(steps) > _STEPS_MAX:
            raise NoSuchField(f"Field '{_cut(path)}' was not found in the tuple")
    if not steps:
        raise IllegalParams("Invalid JSON path '', error at position 1")
    return steps
