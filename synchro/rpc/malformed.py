"""Between gRPC and the services: what is no message of its method is refused like other bad input.

gRPC itself answers UNKNOWN and writes a traceback into the log for each of them, so anybody could fill it.
Services are registered through `Guarded`, which lets the one request of a method be read without an
exception; a stream reads its messages through `read_of`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
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


class Malformed:
    """A value that stands for a request that could not be read. why: the decoder's words."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why


def _refusal(why: str) -> RpcError:
    text = f"the request is not a message of this method: {why}; nothing was done"
    return RpcError.of(to_status(WrongFormat(text)))


def read_of(context: Any) -> Callable[[], Awaitable[Any]]:
    """`context.read`, with a refusal instead of the decoder's error."""

    async def read() -> Any:
        try:
            return await context.read()
        except DecodeError as error:
            raise _refusal(str(error)) from error

    return read


class Guarded:
    """A stand-in for a `grpc.aio.Server` while services are added to it."""

    def __init__(self, server: grpc.aio.Server, on_request: Callable[[str], None] | None = None) -> None:
        """Wrap a server. on_request: told with each call, of whatever service, where it comes from."""
        self._server = server
        self._on_request = on_request

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers([_Generic(handler, self._on_request) for handler in handlers])

    def add_registered_method_handlers(
        self, service_name: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        guarded = {name: _guarded(handler, self._on_request) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service_name, guarded)


class _Generic(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.GenericRpcHandler, on_request: Callable[[str], None] | None) -> None:
        self._handler = handler
        self._on_request = on_request
        self._known: dict[str, Any] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        found = self._known.get(details.method)
        if found is None:
            handler = self._handler.service(details)
            if handler is None:
                return None
            found = self._known[details.method] = _guarded(handler, self._on_request)
        return found


def _guarded(handler: Any, on_request: Callable[[str], None] | None) -> Any:
    sends = "stream" if handler.response_streaming else "unary"
    kind = f"{'stream' if handler.request_streaming else 'unary'}_{sends}"
    if on_request is not None:
        handler = handler._replace(**{kind: _telling(getattr(handler, kind), on_request)})
    if handler.request_deserializer is None:
        return handler
    if handler.request_streaming:
        return handler._replace(request_deserializer=_counting(handler.request_deserializer))
    return handler._replace(
        request_deserializer=_reader(handler.request_deserializer),
        **{kind: _refusing(getattr(handler, kind))},
    )


def _telling(
    method: Callable[[Any, Any], Any], on_request: Callable[[str], None]
) -> Callable[[Any, Any], Any]:
    async def handle(request: Any, context: Any) -> Any:
        on_request(context.peer())
        return await method(request, context)

    async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
        on_request(context.peer())
        async for reply in method(request, context):
            yield reply

    return generate if inspect.isasyncgenfunction(method) else handle


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


def _reader(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    read = _counting(read)

    def read_or_tell(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError as error:
            return Malformed(str(error))

    return read_or_tell


def _refusing(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def handle(request: Any, context: Any) -> Any:
        if type(request) is Malformed:
            error = _refusal(request.why)
            await context.abort(error.code, error.message, error.trailing_metadata)
        return await method(request, context)

    return handle
