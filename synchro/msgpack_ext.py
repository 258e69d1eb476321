"""Decimals, UUIDs, points in time and intervals as msgpack extensions, in the bytes of Tarantool. Rule [D-6].

    1 decimal    its scale as an integer, then packed digits: a nibble each, the last nibble is the sign
    2 uuid       16 bytes, big-endian
    4 datetime   seconds in 8 bytes; then, unless all are 0: nanoseconds in 4, offset in minutes and number of
                 the zone in 2 each; little-endian
    6 interval   the number of parts that are not 0, then the number of each part and its value

`unpack_extension` and `pack_extension` are what the msgpack library calls for what it does not know itself.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from struct import Struct
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgpack

from synchro.values import ADJUSTMENTS, DECIMAL_DIGITS_MAX, UNITS, Datetime, Interval, check_decimal

DECIMAL: Final = 1
UUID_: Final = 2
DATETIME: Final = 4
INTERVAL: Final = 6

# --- decimals -------------------------------------------------------------------------------------------

_PLUS, _MINUS = "c", "d"
_PLUS_READ: Final = frozenset("acef")
_DIGIT_BYTES_MAX: Final = DECIMAL_DIGITS_MAX // 2 + 1
"""With the sign."""
_SCALE_BYTES: Final = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
"""First byte of an integer of msgpack that is not one byte alone -> its length."""
_SCALES: Final = {
    scale: bytes(msgpack.packb(scale)) for scale in range(1 - DECIMAL_DIGITS_MAX, DECIMAL_DIGITS_MAX + 1)
}


def _pack_decimal(value: Decimal) -> Any:
    sign, digits, exponent = check_decimal(value).as_tuple()
    text = "".join(map(str, digits)) + (_MINUS if sign else _PLUS)
    return msgpack.ExtType(DECIMAL, _SCALES[-int(exponent)] + bytes.fromhex("0" * (len(text) % 2) + text))


def _unpack_decimal(body: bytes) -> Decimal:
    first = body[0] if body else 0xC1
    size = 1 if first < 0x80 or first >= 0xE0 else _SCALE_BYTES.get(first, 0)
    digits = body[size:].hex()
    if not size or len(body) < size or not digits[:-1].isdecimal() or digits[-1].isdecimal():
        raise ValueError("the body of a decimal is not a scale and packed digits")
    scale = first if first < 0x80 else msgpack.unpackb(body[:size])
    if len(body) - size > _DIGIT_BYTES_MAX or scale not in _SCALES:
        raise ValueError(f"a decimal has more than {DECIMAL_DIGITS_MAX} digits")
    return check_decimal(Decimal(f"{'' if digits[-1] in _PLUS_READ else '-'}{digits[:-1]}E{-scale}"))


# --- UUIDs, points in time ------------------------------------------------------------------------------

_SECONDS: Final = Struct("<q")
_WHOLE: Final = Struct("<qihh")


def _pack_uuid(value: UUID) -> Any:
    return msgpack.ExtType(UUID_, value.bytes)


def _unpack_uuid(body: bytes) -> UUID:
    if len(body) != 16:
        raise ValueError(f"the body of a UUID has {len(body)} bytes, not 16")
    return UUID(bytes=body)


def _pack_datetime(value: Datetime) -> Any:
    parts = (value.seconds, value.nanoseconds, value.offset, value.zone)
    return msgpack.ExtType(DATETIME, _WHOLE.pack(*parts) if any(parts[1:]) else _SECONDS.pack(parts[0]))


def _unpack_datetime(body: bytes) -> Datetime:
    if len(body) not in (_SECONDS.size, _WHOLE.size):
        raise ValueError(f"the body of a datetime has {len(body)} bytes, not 8 or 16")
    return Datetime(*(_SECONDS if len(body) == _SECONDS.size else _WHOLE).unpack(body))


# --- intervals ------------------------------------------------------------------------------------------

_ADJUST: Final = len(UNITS)
"""Number of that part; the parts before it have the numbers of their order."""


def _pack_interval(value: Interval) -> Any:
    parts = [getattr(value, unit) for unit in UNITS] + [ADJUSTMENTS.index(value.adjust)]
    there = [(number, part) for number, part in enumerate(parts) if part]
    body = b"".join(msgpack.packb(number) + msgpack.packb(part) for number, part in there)
    return msgpack.ExtType(INTERVAL, bytes((len(there),)) + body)


def _unpack_interval(body: bytes) -> Interval:
    count = body[0] if body else 0xFF
    if count > _ADJUST + 1:
        raise ValueError("the body of an interval has too many parts")
    try:  # a msgpack map, but for the bits around the count
        pairs = msgpack.unpackb(
            bytes((0x80 | count,)) + body[1:], strict_map_key=False, object_pairs_hook=list
        )
    except ValueError as error:
        raise ValueError("the body of an interval is not as many pairs of integers as it says") from error
    parts = {number: part for number, part in pairs if type(number) is int}
    if len(parts) != count or not all(0 <= number <= _ADJUST for number in parts):
        raise ValueError("the body of an interval has a part twice, or one that there is not")
    adjust = parts.pop(_ADJUST, 0)
    if type(adjust) is not int or not 0 <= adjust < len(ADJUSTMENTS):
        raise ValueError("the body of an interval has an unknown adjustment")
    units = tuple(UNITS)
    return Interval(**{units[number]: part for number, part in parts.items()}, adjust=ADJUSTMENTS[adjust])


# --- what the library calls -----------------------------------------------------------------------------

_UNPACKERS: Final[dict[int, Callable[[bytes], Any]]] = {
    DECIMAL: _unpack_decimal,
    UUID_: _unpack_uuid,
    DATETIME: _unpack_datetime,
    INTERVAL: _unpack_interval,
}
_PACKERS: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (Decimal, _pack_decimal),
    (UUID, _pack_uuid),
    (Datetime, _pack_datetime),
    (Interval, _pack_interval),
    (datetime, lambda value: _pack_datetime(Datetime.of(value))),
)


def unpack_extension(code: int, body: bytes) -> Any:
    """`ext_hook`. An unknown extension stays one. ValueError if the body is not what its code says."""
    unpack = _UNPACKERS.get(code)
    return msgpack.ExtType(code, body) if unpack is None else unpack(body)


def unpack_for_python(code: int, body: bytes) -> Any:
    """`unpack_extension` for programs: a datetime is Python's, where that can hold all of it."""
    value = unpack_extension(code, body)
    return (value.to_python() or value) if type(value) is Datetime else value


def pack_extension(value: Any) -> Any:
    """`default`. TypeError if there is no such type here, ValueError if the value is too large for it."""
    for kind, pack in _PACKERS:
        if isinstance(value, kind):
            return pack(value)
    raise TypeError(f"can not serialize {type(value).__name__!r} object")


Pack: TypeAlias = Callable[[Any], bytes]
_idle_packers: Final[list[Pack]] = []
"""As many as were ever needed at the same time."""


def _new_packer() -> Pack:
    pack: Pack = msgpack.Packer(use_bin_type=True, autoreset=True, default=pack_extension).pack
    return pack


def packb(value: Any) -> bytes:
    """Anything that a tuple may hold, as msgpack. ValueError, TypeError or OverflowError if it cannot be.

    While a packer packs a decimal, Python may let another thread run, a signal handler, or a finalizer. Each
    takes a packer that nobody uses, else it would get a part of what the other one packs.
    """
    try:
        pack = _idle_packers.pop()
    except IndexError:
        pack = _new_packer()
    packed = pack(value)
    _idle_packers.append(pack)  # one that failed is not used again
    return packed
