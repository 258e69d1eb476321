"""Values of msgpack: what a tuple may hold, and the bytes in which it came. ADR 24.

Memory and time are bounded by the input: no header is believed before what it announces is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, Final
from uuid import UUID

import msgpack

from synchro.msgpack_ext import packb as packb
from synchro.msgpack_ext import unpack_extension
from synchro.row import RawTuple, Tuple
from synchro.values import Datetime, Interval, KeysOfMaps

NESTING_MAX: Final = 32
"""Arrays and maps inside each other, the tuple included; Python compares nested values by recursion."""
SMALL_BODY_BYTES: Final = 256
"""Up to here a lying array header cannot make the msgpack decoder reserve memory worth a check."""

MALFORMED: Final = (ValueError, TypeError, KeyError, OverflowError)
"""What comes of bytes that are not what they should be."""
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, Decimal, UUID, Datetime, Interval})
NESTED: Final = frozenset({tuple, dict})
_ONLY_TUPLE: Final = frozenset({tuple})

unpackb: Callable[..., Any] = msgpack.unpackb
_Unpacker: Final[Any] = msgpack.Unpacker


def _skim(data: bytes) -> None:
    """Walk over one msgpack value without building it; ValueError if it is incomplete or far too deep.

    After this every array header is known to be true, so the decoder reserves no more than it fills.
    """
    unpacker = _Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    try:
        unpacker.skip()
    except msgpack.OutOfData as error:
        raise ValueError("incomplete msgpack") from error


def unpack(data: bytes, from_client: bool = False) -> Any:
    """One msgpack value; ValueError or TypeError if it is not exactly that. Memory bounded by the input, and
    time too if it is from a client: rows in logs and streams were accepted once."""
    if len(data) > SMALL_BODY_BYTES and data.count(b"\xdc") + data.count(b"\xdd") > 2:
        _skim(data)
    if from_client and len(data) > SMALL_BODY_BYTES and (b"\xde" in data or b"\xdf" in data):
        counted = KeysOfMaps()  # it may hold a map of more than `SMALL_MAP` keys

        def made(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
            counted.add([key for key, _ in pairs])
            return dict(pairs)

        return unpackb(
            data, use_list=False, strict_map_key=False, ext_hook=unpack_extension, object_pairs_hook=made
        )
    return unpackb(data, use_list=False, strict_map_key=False, ext_hook=unpack_extension)


def unpack_fields(data: bytes) -> Any:
    """`unpack` for who looks at fields that are no maps: maps, which may have any keys, are not made."""
    if len(data) > SMALL_BODY_BYTES and data.count(b"\xdc") + data.count(b"\xdd") > 2:
        _skim(data)
    return unpackb(
        data, use_list=False, strict_map_key=False, ext_hook=unpack_extension, object_pairs_hook=_no_map
    )


def _no_map(_: Sequence[tuple[Any, Any]]) -> None:
    return None


def check_nested(items: Iterable[Any], depth: int, from_client: bool = False) -> None:
    """What stands in an array or map at this depth, and in arrays and maps in it, level by level: a call for
    each of a million values would take a second."""
    while True:
        others = set(map(type, items)) - SCALARS
        if not others:
            return
        if not others <= NESTED:
            raise ValueError(f"{_name(others - NESTED)} is not supported in a tuple")
        if depth >= NESTING_MAX:
            raise ValueError(f"nested deeper than {NESTING_MAX}")
        maps = _filled_maps(items) if dict in others else []
        if from_client:
            keys = set(map(type, chain.from_iterable(maps))) - SCALARS
            if keys:
                raise ValueError(f"a key of a map is {_name(keys)}")
        items = _elements(items) if tuple in others else []
        if not from_client:  # else keys are scalars
            items.extend(chain.from_iterable(maps))
        items.extend(chain.from_iterable(map(dict.values, maps)))
        depth += 1


def _name(kinds: set[type]) -> str:
    """What one of these, none of them a scalar, is called."""
    name = min(kind.__name__ for kind in kinds)
    return {"ExtType": "a msgpack extension", "Timestamp": "a timestamp", "tuple": "an array"}.get(
        name, f"a {name}"
    )


def _elements(items: Iterable[Any]) -> list[Any]:
    """What stands directly in the arrays among these, of which a million may be empty."""
    return list(chain.from_iterable([item for item in filter(None, items) if type(item) is tuple]))


def _filled_maps(items: Iterable[Any]) -> list[dict[Any, Any]]:
    """The maps among these that are not empty."""
    return [item for item in filter(None, items) if type(item) is dict]


def count_values(items: Iterable[Any], limit: int) -> int:
    """Values in these arrays and maps, and in those inside them; stops once there are more than `limit`."""
    count = 0
    while kinds := set(map(type, items)) & NESTED:
        maps = _filled_maps(items) if dict in kinds else []
        items = _elements(items) if tuple in kinds else []
        items.extend(chain.from_iterable(maps))
        items.extend(chain.from_iterable(map(dict.values, maps)))
        count += len(items)
        if count > limit:
            break
    return count


def check_fields(value: Any, what: str, depth: int = 1, from_client: bool = False) -> None:
    """`value` is an array of supported values, not nested too deep."""
    if type(value) is not tuple:
        raise ValueError(f"the {what} is not a msgpack array")
    if not SCALARS.issuperset(map(type, value)):
        check_nested(value, depth, from_client)


def refuse_equal_keys(data: bytes) -> None:
    """ValueError if two keys of a map are equal here, as 1, 1.0 and true are: one of them would be lost."""

    def keys_differ(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("two keys of a map are equal")
        return made

    unpackb(
        data,
        use_list=False,
        strict_map_key=False,
        ext_hook=unpack_extension,
        object_pairs_hook=keys_differ,
    )


def as_it_came(value: Tuple, data: bytes, from_client: bool = False) -> Tuple:
    """A tuple, decoded from `data` and checked, that keeps these bytes if we would write others (ADR 24)."""
    if packb(value) == data:
        return value
    if from_client:  # a key that is there twice makes the bytes differ too
        refuse_equal_keys(data)
    kept = RawTuple(value)
    kept.raw = data
    return kept


def pack_tuple(value: Tuple) -> bytes:
    """A stored tuple as msgpack, in the bytes in which it came."""
    return value.raw if type(value) is RawTuple else packb(value)


def check_operations(ops: Any) -> None:
    if type(ops) is not tuple:
        raise ValueError("the operations are not a msgpack array")
    for op in ops:
        check_fields(op, "operation", 2)


def array_size(data: bytes) -> int:
    """Elements that a msgpack array says it has; 0 if it is none."""
    head = data[0] if data else 0
    if head & 0xF0 == 0x90:
        return head & 0x0F
    if head in (0xDC, 0xDD):
        return int.from_bytes(data[1 : 3 if head == 0xDC else 5], "big")
    return 0


def check_id(number: Any, what: str) -> None:
    if type(number) is not int or not 0 <= number <= 0xFFFFFFFF:
        raise ValueError(f"the {what} id is not a number of 32 bits")


def first_value(data: bytes) -> bytes:
    """The first msgpack value of several."""
    unpacker = msgpack.Unpacker(use_list=False, strict_map_key=False)
    unpacker.feed(data)
    unpacker.skip()
    return data[: unpacker.tell()]


def why_malformed(error: Exception) -> str:
    """What is wrong with msgpack that somebody sent, for them: `error` came of decoding it."""
    if isinstance(error, TypeError) and "unhashable" in str(error):
        return "a key of a map is a map, or holds one"
    if isinstance(error, msgpack.StackError):
        return f"nested deeper than {NESTING_MAX}"
    if isinstance(error, msgpack.FormatError):
        return "a byte that begins no msgpack value"
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r} is missing"
    return str(error) or type(error).__name__.removesuffix("Error")


def unpack_all(tuples: Sequence[bytes], from_client: bool = False) -> list[Tuple]:
    """The stored tuples that each of these is exactly one of; one of `MALFORMED` if not."""
    fast = unpackb
    values = [
        fast(data, use_list=False, strict_map_key=False, ext_hook=unpack_extension)
        if len(data) <= SMALL_BODY_BYTES
        else unpack(data, from_client)
        for data in tuples
    ]
    if not _ONLY_TUPLE.issuperset(map(type, values)):
        raise ValueError("the tuple is not a msgpack array")
    if not SCALARS.issuperset(map(type, chain.from_iterable(values))):
        for value in values:
            check_fields(value, "tuple", 1, from_client)
    # All of them in one call: a value ends where its bytes say, so equal bytes together are equal bytes each.
    if packb(values) != array_header(len(values)) + b"".join(tuples):
        values = [as_it_came(value, data, from_client) for value, data in zip(values, tuples, strict=True)]
    return values


def array_header(count: int) -> bytes:
    """Of a msgpack array."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 0x10000 else b"\xdd" + count.to_bytes(4, "big")
