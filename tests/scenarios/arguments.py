"""The arguments of a word, read as its usage says: `insert N SPACE TUPLE`.

    N        number of an instance            COUNT    a number
    PAIR     1->2: rows flow from 1 to 2      PAIRS    some of them, or: all, none, ring, line
    TUPLE    a JSON array; also KEY and OPS   NAME     one word, such as SPACE
    OPTIONS  some of key=value                TEXT     the rest of the line

What stands in brackets may be left out. Everything else stands for itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from synchro.ids import InstanceId, Lsn
from synchro.row import TxnId
from tests.scenarios.script import ScenarioError

_DECODER = json.JSONDecoder()
_PAIR = re.compile(r"(\d+)->(\d+)")


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _array(text: str) -> tuple[Any, str]:
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError as error:
        raise ScenarioError(f"no JSON array: {text!r}: {error}") from error
    if not isinstance(value, list):
        raise ScenarioError(f"no JSON array: {text!r}")
    return _frozen(value), text[end:].lstrip()


def _token(text: str) -> tuple[str, str]:
    token, _, rest = text.partition(" ")
    return token, rest.lstrip()


def _number(text: str) -> tuple[int, str]:
    token, rest = _token(text)
    if not token.isdecimal():
        raise ScenarioError(f"no number: {token!r}")
    return int(token), rest


def read_pair(token: str) -> tuple[int, int]:
    found = _PAIR.fullmatch(token)
    if found is None:
        raise ScenarioError(f"no pair such as 1->2: {token!r}")
    return int(found[1]), int(found[2])


def txn_id(text: str) -> TxnId:
    origin, _, lsn = text.partition(":")
    if not origin.isdecimal() or not lsn.isdecimal():
        raise ScenarioError(f"a transaction is named as 1:3, not {text!r}")
    return TxnId(InstanceId(int(origin)), Lsn(int(lsn)))


def _pair(text: str) -> tuple[tuple[int, int], str]:
    token, rest = _token(text)
    return read_pair(token), rest


def _options(text: str) -> tuple[dict[str, str], str]:
    found: dict[str, str] = {}
    for token in text.split():
        key, equals, value = token.partition("=")
        if not equals or not value or key in found:
            raise ScenarioError(f"no option such as quorum=2: {token!r}")
        found[key] = value
    return found, ""


def _rest(text: str) -> tuple[str, str]:
    return text, ""


_READERS: dict[str, Callable[[str], tuple[Any, str]]] = {
    "N": _number,
    "COUNT": _number,
    "PAIR": _pair,
    "PAIRS": _rest,
    "TUPLE": _array,
    "KEY": _array,
    "OPS": _array,
    "NAME": _token,
    "SPACE": _token,
    "OPTIONS": _options,
    "TEXT": _rest,
}


def read(usage: str, text: str) -> list[Any]:
    """The values of the arguments in `text`, which stands behind the word; None for one that was left out.
    Raises `ScenarioError`."""
    values: list[Any] = []
    for part in usage.split()[1:]:
        kind = part.strip("[]")
        if kind not in _READERS:
            token, text = _token(text)
            if token != kind:
                raise ScenarioError(f"it is used as: {usage}")
        elif text:
            value, text = _READERS[kind](text)
            values.append(value)
        elif part != kind:
            values.append({} if kind == "OPTIONS" else None)
        else:
            raise ScenarioError(f"it is used as: {usage}")
    if text:
        raise ScenarioError(f"there is more than it takes: {text!r}; it is used as: {usage}")
    return values


def pairs(text: str, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The links that `text` names, among these instances."""
    match text:
        case "all":
            return [(a, b) for a in numbers for b in numbers if a != b]
        case "none":
            return []
        case "ring":
            return [*zip(numbers, [*numbers[1:], numbers[0]], strict=True)]
        case "line":
            steps = list(pairwise(numbers))
            return [*steps, *((b, a) for a, b in steps)]
        case _:
            return [read_pair(token) for token in text.split()]
