"""Bytes that are no message of their method are refused like other bad input, without a traceback in the log,
which anybody could fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from google.protobuf.message import DecodeError

from synchro.config import KIB, MIB
from synchro.errors import WrongFormat
from synchro.rpc.rpc_error import RpcError
from synchro.rpc.status import to_status

FIELDS_MAX: Final = 128 * KIB
"""The most fields of one large message, with those in it: a frame of 4,096 calls has half as many."""
COUNTED_BYTES: Final = 1 * MIB
"""Messages smaller than this are not counted: they are decoded in some ten milliseconds, whatever they
are."""
NESTING_MAX: Final = 100
"""The decoder refuses messages that are nested deeper."""

_Shape: TypeAlias = "dict[int, _Shape]"


def reader(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`read`, with a refusal instead of the decoder's error, and of what would cost too much to decode."""
    counted = _counting(read)

    def read_or_refuse(data: bytes) -> Any:
        try:
            return counted(data)
        except DecodeError as error:
            raise _refusal(str(error)) from error

    return read_or_refuse


def _refusal(why: str) -> RpcError:
    text = f"the request is not a message of this method: {why}; nothing was done"
    return RpcError.of(to_status(WrongFormat(text)))


def _counting(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`read`, but a large message of very many small parts is refused before it costs much: DecodeError."""
    descriptor = getattr(getattr(read, "__self__", None), "DESCRIPTOR", None)
    if descriptor is None:
        return read
    shape = _shape(descriptor, {})

    def read_counted(data: bytes) -> Any:
        if len(data) > COUNTED_BYTES:
            _count_parts(shape, data, 0, len(data), FIELDS_MAX)
        return read(data)

    return read_counted


def _shape(descriptor: Any, known: dict[str, _Shape]) -> _Shape:
    """Return which fields of a message are messages."""
    shape = known.get(descriptor.full_name)
    if shape is None:
        shape = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                shape[field.number] = _shape(field.message_type, known)
    return shape


def _count_parts(shape: _Shape, data: bytes, at: int, end: int, left: int, depth: int = 0) -> int:
    """Walk over the fields of a message and of those in it; how many more there may be. What is no message is
    left to the decoder."""
    while at < end:
        left -= 1
        if left < 0:
            raise DecodeError(f"it has more than {FIELDS_MAX} fields")
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = _varint(data, at - 1)
        kind = tag & 7
        if kind == 2:
            size = data[at] if at < end else 0
            at += 1
            if size >= 0x80:
                size, at = _varint(data, at - 1)
            inner = shape.get(tag >> 3)
            if inner is not None and depth < NESTING_MAX:
                left = _count_parts(inner, data, at, min(at + size, end), left, depth + 1)
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        else:
            break
    return left


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number, and where the next byte is."""
    value = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
