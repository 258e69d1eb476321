"""Values of the data model that JSON and msgpack have no type for, and their texts. Rule [D-6].

Decimals and UUIDs are Python's own `Decimal` and `UUID`. `Datetime` and `Interval` are here, since they hold
more than Python's: nanoseconds, years beyond 1..9999, a zone by its number, months.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

# --- decimals -------------------------------------------------------------------------------------------

DECIMAL_DIGITS_MAX: Final = 38
"""Of a decimal; also how many of them may stand behind the point, and how many before it."""
_DECIMAL: Final = re.compile(r"-?[0-9]{1,80}(\.[0-9]{0,80})?(E[+-]?[0-9]{1,3})?", re.ASCII)


COLLIDING_KEYS_MAX: Final = 100
"""Keys of the large maps of a tuple that have the hash of another key of their map. Each costs as much as
there are before it."""
OTHER_KEYS_MAX: Final = 4000
"""Keys of the large maps of a tuple that are neither text nor bytes: their hashes are no secret, so they can
be chosen to be in each other's way even if all are different."""
SMALL_MAP: Final = 15
"""Keys that a map may have whatever they are."""


class KeysOfMaps:
    """Counts the keys in the maps of one tuple of a client, before the maps are made (ADR 25): a map of a
    megabyte of keys that were chosen for it would take minutes, here and on every member."""

    def __init__(self) -> None:
        self._others = 0
        self._colliding = 0

    def add(self, keys: Collection[Hashable]) -> None:
        """Those of one map. ValueError if they are too many."""
        if len(keys) <= SMALL_MAP:
            return
        others = [key for key in keys if type(key) is not str and type(key) is not bytes]
        self._others += len(others)
        if self._others > OTHER_KEYS_MAX:
            raise ValueError(f"more than {OTHER_KEYS_MAX} keys of maps are neither text nor bytes")
        self._colliding += len(others) - len(set(map(hash, others)))
        if self._colliding > COLLIDING_KEYS_MAX:
            raise ValueError(f"more than {COLLIDING_KEYS_MAX} keys of maps have the hash of another one")


def check_decimal(value: Decimal) -> Decimal:
    """Return it. ValueError if it has more digits than a decimal of the protocol, or is no number."""
    digits, exponent = value.as_tuple()[1:]
    if (
        type(exponent) is not int
        or len(digits) > DECIMAL_DIGITS_MAX
        or not -DECIMAL_DIGITS_MAX <= exponent < DECIMAL_DIGITS_MAX
        or len(digits) + exponent > DECIMAL_DIGITS_MAX
    ):
        raise ValueError(
            f"{_cut(str(value))} is no decimal: at most {DECIMAL_DIGITS_MAX} digits, neither more of them "
            "before the point nor behind it"
        )
    return value


def parse_decimal(text: str) -> Decimal:
    """`1.50`, `-3`, `1E+5`. ValueError."""
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f"{_cut(text)!r} is no decimal, as '1.50'")
    return check_decimal(Decimal(text))


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


# --- UUIDs ----------------------------------------------------------------------------------------------

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def parse_uuid(text: str) -> UUID:
    """32 hexadecimal digits in groups of 8, 4, 4, 4 and 12. ValueError."""
    if _UUID.fullmatch(text) is None:
        raise ValueError(f"{_cut(text)!r} is no UUID, as '64d22e4d-ac92-4a23-899a-e59f34af5479'")
    return UUID(text)


# --- points in time -------------------------------------------------------------------------------------

SECONDS_MIN: Final = -185_604_722_870_400
"""The year -5879610; days since the year 1 are a number of 32 bits."""
SECONDS_MAX: Final = 185_480_451_417_600
OFFSET_MIN: Final = -12 * 60
OFFSET_MAX: Final = 14 * 60
ZONE_MAX: Final = 1024
_DAY_S: Final = 86_400
_NS: Final = 10**9
_EPOCH: Final = datetime(1970, 1, 1)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal() - 1
"""Days from the first day of the year 1."""
_CYCLE_YEARS: Final = 400
_CYCLE_DAYS: Final = 146_097
"""The calendar repeats after so many."""
_DATETIME: Final = re.compile(
    r"(\d{4}|[+-]\d{4,7})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?"
    r"(Z|[+-]\d\d:\d\d)(?:\[(\d{1,4})\])?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, eq=False)
class Datetime:
    """A point in time. Two are equal, and ordered, by that point; how it is written does not matter.

    seconds, nanoseconds: since 1970-01-01 UTC; nanoseconds 0..999999999. offset: minutes east of UTC in which
    it is written. zone: number of a named zone in Tarantool's table, 0 if none; kept, never looked up.
    ValueError if a part is out of its bounds.
    """

    seconds: int
    nanoseconds: int = 0
    offset: int = 0
    zone: int = 0

    def __post_init__(self) -> None:
        _check_range(self.seconds, "seconds of a datetime", SECONDS_MIN, SECONDS_MAX)
        _check_range(self.nanoseconds, "nanoseconds of a datetime", 0, _NS - 1)
        _check_range(self.offset, "offset of a datetime in minutes", OFFSET_MIN, OFFSET_MAX)
        _check_range(self.zone, "zone of a datetime", 0, ZONE_MAX)

    @classmethod
    def of(cls, value: datetime) -> Datetime:
        """From Python's. ValueError if it has no offset from UTC, or one of a part of a minute."""
        offset = value.utcoffset()
        if offset is None:
            raise ValueError(f"{value} has no time zone; give it one, as in .replace(tzinfo=datetime.UTC)")
        minutes, rest = divmod(offset, timedelta(minutes=1))
        if rest:
            raise ValueError(f"{value} is no whole number of minutes away from UTC")
        since = value.replace(tzinfo=None) - _EPOCH - offset
        return cls(since.days * _DAY_S + since.seconds, since.microseconds * 1000, minutes)

    def to_python(self) -> datetime | None:
        """Python's, with a fixed offset. None if that cannot hold all of it: nanoseconds, a year beyond
        1..9999, or a zone."""
        if self.zone or self.nanoseconds % 1000:
            return None
        try:
            local = _EPOCH + timedelta(
                seconds=self.seconds + self.offset * 60, microseconds=self.nanoseconds // 1000
            )
        except OverflowError:
            return None
        return local.replace(tzinfo=timezone(timedelta(minutes=self.offset)) if self.offset else UTC)

    def __str__(self) -> str:
        """ISO 8601, behind it the number of the zone: `2026-11-30T07:00:00.5+03:00[947]`."""
        days, second = divmod(self.seconds + self.offset * 60, _DAY_S)
        cycles, day = divmod(days + _EPOCH_DAY, _CYCLE_DAYS)
        found = date.fromordinal(day + 1)
        year = found.year + cycles * _CYCLE_YEARS
        shown = f"{year:04}" if 0 <= year <= 9999 else f"{year:+05}"
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        fraction = f".{self.nanoseconds:09}".rstrip("0") if self.nanoseconds else ""
        sign, (hours, minutes) = "-" if self.offset < 0 else "+", divmod(abs(self.offset), 60)
        offset = f"{sign}{hours:02}:{minutes:02}" if self.offset else "Z"
        zone = f"[{self.zone}]" if self.zone else ""
        return f"{shown}-{found.month:02}-{found.day:02}T{clock}{fraction}{offset}{zone}"

    @classmethod
    def parse(cls, text: str) -> Datetime:
        """What `str` writes. ValueError."""
        found = _DATETIME.fullmatch(text)
        if found is None:
            raise ValueError(f"{_cut(text)!r} is no datetime, as '2026-11-30T07:00:00.5+03:00'")
        year, month, day, hour, minute, second = map(int, found.groups()[:6])
        if hour > 23 or minute > 59 or second > 59:
            raise ValueError(f"{text!r} is no datetime: there is no such time of day")
        cycles, year_of_cycle = divmod(year - 1, _CYCLE_YEARS)
        days = date(year_of_cycle + 1, month, day).toordinal() - 1 + cycles * _CYCLE_DAYS - _EPOCH_DAY
        fraction, offset = found[7] or "", found[8]
        minutes = 0 if offset == "Z" else int(offset[1:3]) * 60 + int(offset[4:])
        if offset[0] == "-":
            minutes = -minutes
        seconds = days * _DAY_S + hour * 3600 + minute * 60 + second - minutes * 60
        return cls(seconds, int(fraction.ljust(9, "0")), minutes, int(found[9] or 0))

    def __eq__(self, other: object) -> bool:
        if type(other) is not Datetime:
            return NotImplemented
        return self.seconds == other.seconds and self.nanoseconds == other.nanoseconds

    def __hash__(self) -> int:
        return hash((self.seconds, self.nanoseconds))

    def __lt__(self, other: object) -> bool:
        if type(other) is not Datetime:
            return NotImplemented
        return (self.seconds, self.nanoseconds) < (other.seconds, other.nanoseconds)

    def __le__(self, other: object) -> bool:
        if type(other) is not Datetime:
            return NotImplemented
        return (self.seconds, self.nanoseconds) <= (other.seconds, other.nanoseconds)


def _check_range(value: Any, what: str, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what}: {_cut(repr(value))} is no number of {low} to {high}")


# --- intervals ------------------------------------------------------------------------------------------

Adjust: TypeAlias = Literal["none", "excess", "last"]
"""What becomes of a day that the month does not have: its last day; days of the next month; the last day also
if the day was the last one of its month."""
ADJUSTMENTS: Final[tuple[Adjust, ...]] = ("excess", "none", "last")
"""By their numbers in msgpack."""
_YEARS_MAX: Final = 5_879_611 + 5_879_610
_SECONDS_IN: Final = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}
UNITS: Final = {
    "years": _YEARS_MAX,
    "months": _YEARS_MAX * 12,
    "weeks": _YEARS_MAX * 52,
    **{unit: _YEARS_MAX * 365 * 86_400 // length for unit, length in _SECONDS_IN.items()},
    "nanoseconds": 2**31 - 1,
}
"""Parts of an interval, in their order in msgpack -> the largest number of them."""
_PART: Final = re.compile(r"(-?\d{1,20}) ([a-z]+?)s?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Interval:
    """A distance in time, part by part; parts may be negative, and stay as they are: 60 minutes are no hour.

    So intervals have no order, and two are equal if all parts are. ValueError if a part is out of its bounds.
    """

    years: int = 0
    months: int = 0
    weeks: int = 0
    days: int = 0
    hours: int = 0
    minutes: int = 0
    seconds: int = 0
    nanoseconds: int = 0
    adjust: Adjust = "none"

    def __post_init__(self) -> None:
        for unit, most in UNITS.items():
            _check_range(getattr(self, unit), f"{unit} of an interval", -most, most)
        if self.adjust not in ADJUSTMENTS:
            raise ValueError(f"adjust of an interval is none, excess or last, not {self.adjust!r}")

    def __str__(self) -> str:
        """`1 year, -2 months, adjust last`; nothing at all is `0 seconds`."""
        counts = [(getattr(self, unit), unit) for unit in UNITS]
        parts = [f"{n} {unit[:-1] if abs(n) == 1 else unit}" for n, unit in counts if n] or ["0 seconds"]
        if self.adjust != "none":
            parts.append(f"adjust {self.adjust}")
        return ", ".join(parts)

    @classmethod
    def parse(cls, text: str) -> Interval:
        """What `str` writes. ValueError."""
        parts: dict[str, Any] = {}
        value: Any
        for part in text.split(", ", len(UNITS) + 1):
            if part.startswith("adjust "):
                name, value = "adjust", part.removeprefix("adjust ")
            elif found := _PART.fullmatch(part):
                name, value = f"{found[2]}s", int(found[1])
            else:
                name, value = "", None
            if (name != "adjust" and name not in UNITS) or name in parts:
                raise ValueError(f"{_cut(text)!r} is no interval, as '1 year, -2 months, adjust last'")
            parts[name] = value
        return cls(**parts)
