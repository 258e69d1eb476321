"""What a person wrote, as a value of the kind that an option has. Pure: values in, values or `Bad` out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final, assert_never

from synchro.config.located import Located
from synchro.config.option import (
    KIB,
    MIB,
    Anything,
    Bytes,
    Count,
    Flag,
    Formula,
    ListOf,
    NameOfInstance,
    Seconds,
    Text,
    Word,
)
from synchro.config.quorum_formula import QuorumFormula
from synchro.errors import ConfigError
from synchro.ids import NAME_LENGTH_MAX, name_like, why_no_name


class Bad(Exception):
    """A value that its option refuses."""

    def __init__(self, message: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that was perhaps meant."""
    return next(iter(difflib.get_close_matches(word[:NAME_LENGTH_MAX], known, n=1, cutoff=0.6)), None)


Single = Flag | Count | Seconds | Bytes | Word | Text | Formula | NameOfInstance | Anything


def parse(kind: Single, item: Located) -> Any:
    """The value for `Settings`; raises `Bad`. Elements of a list are parsed by the schema."""
    match kind:
        case Flag():
            return _flag(item)
        case Count():
            return _count(kind, item)
        case Seconds():
            return _seconds(kind, item)
        case Bytes():
            return _bytes(kind, item)
        case Word():
            return _word(kind, item)
        case Text():
            return _text(kind, item)
        case Formula():
            return _formula(kind, item)
        case NameOfInstance():
            return _name(item)
        case Anything():
            return item.value
    assert_never(kind)


def elements(kind: ListOf, item: Located) -> list[Located]:
    """As they stand there; raises `Bad`."""
    if not isinstance(item.value, list):
        raise Bad(f"expected a list of {kind.what}, got {described(item)}")
    if not kind.low <= len(item.value) <= kind.high:
        raise Bad(f"expected {kind.low} to {kind.high} {kind.what}, got {len(item.value)}")
    return item.value


def described(item: Located) -> str:
    match item.value:
        case bool():
            return f"the boolean {item.text or item.value}"
        case int() | float():
            return f"the number {item.text or item.value}"
        case str():
            return f"{item.value[:60]!r}"
        case dict():
            return "a map"
        case list():
            return "a list"
    return "nothing"


# --- one function a kind --------------------------------------------------------------------------------


def _flag(item: Located) -> bool:
    if not isinstance(item.value, bool):
        raise Bad(f"expected true or false, got {described(item)}")
    return item.value


def _count(kind: Count, item: Located) -> int:
    if isinstance(item.value, bool) or not isinstance(item.value, int):
        raise Bad(f"expected an integer, got {described(item)}")
    if not kind.low <= item.value <= kind.high:
        raise Bad(f"expected {kind.low} to {kind.high}, got {item.value}")
    return item.value


NUMBER_WITH_UNIT: Final = r"([0-9]{1,20}(?:\.[0-9]{1,20})?) *([A-Za-z]{1,3})?"
TIMES: Final = {"": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
SIZES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": KIB * MIB,
    "tib": MIB * MIB,
}


def _number_with_unit(item: Located, units: Mapping[str, float], what: str, example: str) -> float:
    if isinstance(item.value, int | float) and not isinstance(item.value, bool):
        return item.value
    if isinstance(item.value, str):
        found = re.fullmatch(NUMBER_WITH_UNIT, item.value.strip())
        if found:
            unit = found[2] or ""
            scale = units.get(unit) or units.get(unit.lower())
            if scale is None:
                raise Bad(f"unknown unit {unit!r}; there are: {' '.join(u for u in units if u)}")
            return float(found[1]) * scale if "." in found[1] else int(found[1]) * scale
    raise Bad(f"expected {what} such as {example}, got {described(item)}")


def _seconds(kind: Seconds, item: Located) -> float:
    """A number of seconds, or with a unit: 500ms, 10s, 5m, 1h [C-33]."""
    given = float(_number_with_unit(item, TIMES, "a duration", "500ms, 10s, 5m or 1h"))
    value = round(given, 9)
    if given < 0 or (value == 0 and not kind.zero):
        refusal = "the value must be 0 or greater" if kind.zero else kind.refusal
        raise Bad(f"{refusal}, got {item.text or item.value}")
    if value > kind.high:
        raise Bad(f"longer than {kind.high:.0f} s")
    return value


def _bytes(kind: Bytes, item: Located) -> int:
    """Bytes, or with a unit: 10MB is 10^7, 64KiB is 65536 [C-33]."""
    value = _number_with_unit(item, SIZES, "a size", "16777216, 10MB or 64KiB")
    if value != int(value) or not kind.low <= value <= kind.high:
        wanted = f"expected a whole number of bytes from {kind.low} to {kind.high}"
        raise Bad(f"{wanted}, got {item.text or item.value}")
    return int(value)


def _word(kind: Word, item: Located) -> str:
    """YAML 1.1 reads a bare `off` as false: both are accepted [C-5]."""
    names = {**kind.aliases, **{str(word): word for word in kind.words}}
    if item.value is False and "off" in names:
        return names["off"]
    if isinstance(item.value, str) and item.value in names:
        return names[item.value]
    shown = ", ".join(f"'{word}'" for word in kind.words)
    word = item.text or str(item.value)
    got = described(item) if not item.text else repr(item.text[:60])
    raise Bad(
        f"the value must be one of the following strings: {shown}; got {got}", nearest(word, list(names))
    )


def _text(kind: Text, item: Located) -> str:
    is_wrong = not isinstance(item.value, str) or not re.fullmatch(kind.pattern, item.value, re.DOTALL)
    if kind.is_secret and is_wrong:
        raise Bad(f"expected {kind.text}")
    if not isinstance(item.value, str):
        raise Bad(f"expected {kind.text}, got {described(item)}")
    if is_wrong:
        raise Bad(f"expected {kind.text}, got {item.value[:60]!r}")
    return item.value


def _name(item: Located) -> str:
    """Keys of maps are words to YAML here, whatever they look like; so is what refers to them."""
    text = item.text if isinstance(item.value, bool | int | float) else item.value
    if not isinstance(text, str):
        raise Bad(f"expected the name of an instance, got {described(item)}")
    if "{{" not in text and (why := why_no_name(text)):
        raise Bad(why, name_like(text))
    return text


def _formula(kind: Formula, item: Located) -> QuorumFormula:
    """A number, or a formula of N (and Q) [Q-30]."""
    if isinstance(item.value, bool) or not isinstance(item.value, int | str):
        raise Bad(f"expected a number or a formula such as N / 2 + 1, got {described(item)}")
    if not kind.with_q and re.search(r"\bQ\b", str(item.value)):
        raise Bad("Q is the synchronous quorum itself; a formula of it has only N")
    try:
        return QuorumFormula(item.value, clamp=kind.with_q)
    except ConfigError as error:
        raise Bad(error.message) from error
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, too many parentheses
        raise Bad(f"{item.value!r} is not a formula: {error}") from error
