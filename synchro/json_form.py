"""Values of the data model as JSON, and back, without loss (ADR 24).

What JSON has no form for becomes an object with one key, which begins with `$`:

    bytes                       {"$binary": "<base64>"}
    NaN and the infinities      {"$number": "NaN"}, "Infinity" or "-Infinity"
    integers beyond 2^53        {"$number": "9007199254740993"}, where numbers are doubles
    decimals                    {"$decimal": "1.50"}
    UUIDs                       {"$uuid": "64d22e4d-ac92-4a23-899a-e59f34af5479"}
    points in time              {"$datetime": "2026-11-30T07:00:00.5+03:00"}
    intervals                   {"$interval": "1 year, -2 months"}
    a map with a key that is    {"$map": [[key, value], ...]}, also for a map that would
    not text                    look like one of these forms

A protobuf message has at most 100 others inside each other: what would be deeper is {"$msgpack": "<base64>"}
there (`rpc/codec.py`), and nowhere else.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from math import isfinite, isnan
from typing import Any, Final
from uuid import UUID

from synchro.values import Datetime, Interval, KeysOfMaps, parse_decimal, parse_uuid

BINARY: Final = "$binary"
NUMBER: Final = "$number"
MAP: Final = "$map"
MSGPACK: Final = "$msgpack"
_TEXTS: Final[Mapping[str, tuple[type, Callable[[str], Any]]]] = {
    "$decimal": (Decimal, parse_decimal),
    "$uuid": (UUID, parse_uuid),
    "$datetime": (Datetime, Datetime.parse),
    "$interval": (Interval, Interval.parse),
}
"""Form -> the type whose `str` it holds, and what reads that."""
_FORMS: Final = frozenset({BINARY, NUMBER, MAP, MSGPACK, *_TEXTS})
_NUMBERS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_INTEGER: Final = re.compile("-?[0-9]{1,20}")
_INTEGERS: Final = range(-(2**63), 2**64)
"""The integers that msgpack has."""
EXACT_DOUBLE_MAX: Final = 2**53
"""Up to here each integer is a double of its own."""


def encode(value: Any, *, doubles: bool = False, native: bool = False) -> Any:
    """A tree of dict, list, str, numbers, bool and None.

    doubles: who reads it has no integers beyond 2^53. native: bytes and every float stay as they are (YAML).
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is float:
        return value if native or isfinite(value) else {NUMBER: _number(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value) if native else {BINARY: b64encode(value).decode()}
    if isinstance(value, Mapping):
        pairs = value.items()
        simple = (str, int, bool, float, bytes, type(None)) if native else (str,)
        if all(isinstance(key, simple) for key in value) and not _looks_like_a_form(value):
            return {key: encode(item, doubles=doubles, native=native) for key, item in pairs}
        return {
            MAP: [
                [encode(key, doubles=doubles, native=native), encode(item, doubles=doubles, native=native)]
                for key, item in pairs
            ]
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encode(item, doubles=doubles, native=native) for item in tuple(value)]
    if isinstance(value, int):
        return {NUMBER: str(int(value))} if doubles and abs(value) > EXACT_DOUBLE_MAX else value
    if form := _text_form(value):
        return {form[0]: form[1]}
    return value if isinstance(value, float) else str(value)


def text_of(value: Any) -> str | None:
    """The text inside the form of a decimal, UUID, point in time or interval; None of any other value."""
    form = _text_form(value)
    return form and form[1]


def _text_form(value: Any) -> tuple[str, str] | None:
    if isinstance(value, datetime):
        value = Datetime.of(value)
    for form, (held, _) in _TEXTS.items():
        if isinstance(value, held):
            return form, str(value)
    return None


def _looks_like_a_form(value: Mapping[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in _FORMS


def _number(value: float) -> str:
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_object(found: Mapping[str, Any]) -> Any:
    """What an object stands for whose values are decoded already. Raises `ValueError`."""
    if not _looks_like_a_form(found):
        return found
    ((form, body),) = found.items()
    if form == BINARY and isinstance(body, str):
        return b64decode(body, validate=True)
    if form == NUMBER and isinstance(body, str):
        return _NUMBERS[body] if body in _NUMBERS else _integer(body)
    if form == MAP and isinstance(body, (list, tuple)):
        return _map(body)
    if form in _TEXTS and isinstance(body, str):
        return _TEXTS[form][1](body)
    raise ValueError(f"{form} with {body!r} is no form of a value")


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None or (value := int(text)) not in _INTEGERS:
        shown = text if len(text) <= 30 else f"{text[:30]}..."
        raise ValueError(f"{NUMBER} with {shown!r} is no integer of 64 bits, NaN or Infinity")
    return value


def _map(pairs: Any) -> dict[Any, Any]:
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"{MAP} is a list of pairs, not {pair!r}")
    keys = [key for key, _ in pairs]
    if nested := [key for key in keys if isinstance(key, (list, tuple, dict))]:
        raise ValueError(f"a key of a map is a list or a map: {nested[0]!r}")
    KeysOfMaps().add(keys)
    made: dict[Any, Any] = {}
    for key, item in pairs:
        if key in made:
            raise ValueError(f"two keys of a map are equal: {key!r}")
        made[key] = item
    return made
