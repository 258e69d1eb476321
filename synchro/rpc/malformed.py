"""Between gRPC and the services: what is no message of its method is refused like other bad input.

gRPC itself answers UNKNOWN and writes a traceback into the log for each of them, so anybody could fill it.
Services are registered through `Guarded`, which lets the one request of a method be read without an
exception; a stream reads its messages through `read_of`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from synchro.errors import WrongFormat
from synchro.rpc.rpc_error import RpcError
from synchro.rpc.status import to_status


class Malformed:
    """Stands for a request that could not be read. why: the decoder's words."""

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
    """Stands for a `grpc.aio.Server` while services are added to it."""

    def __init__(self, server: grpc.aio.Server, on_request: Callable[[str], None] | None = None) -> None:
        """on_request: told with each call, of whatever service, where it comes from."""
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
    if handler.request_streaming or handler.request_deserializer is None:
        return handler
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


def _reader(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
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
