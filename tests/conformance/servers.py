"""One service on two servers, ours and grpcio's, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, Self, TypeVar

import grpc
import trio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from synchro.rpc.calls import UnaryCall
from synchro.rpc.duplex import Duplex
from synchro.rpc.host import RpcCall, RpcHost, RpcServer, open_rpc_host
from synchro.rpc.methods import Registrar
from synchro.rpc.rpc_error import RpcError
from synchro.wire.grpc_call import StatusCode
from tests.conformance.exchange import KIB, MESSAGE_BYTES_MAX, SERVICE, Journal, Metadata, summary

T = TypeVar("T")

GRPC_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
START_S: Final = 10.0
THREADS: Final = 64
"""Calls that grpcio's server has in hand at a time."""


class Server(Protocol):
    """A server that runs until its block is left."""

    address: str
    journal: Journal

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def call_id(metadata: Metadata) -> str:
    return next((str(value) for key, value in metadata if key == "x-call"), "")


def echoed(metadata: Metadata) -> Metadata:
    return tuple((key, value) for key, value in metadata if key.startswith("x-"))


def failure(metadata: Metadata) -> tuple[int, str, Status | None]:
    """The status that a call asks for: its code, its message, and details."""
    asked = dict(metadata)
    code, text = int(str(asked["x-code"])), bytes(asked["x-text-bin"]).decode()  # type: ignore[arg-type]
    if "x-detail" not in asked:
        return code, text, None
    detail = AnyMessage()
    detail.Pack(StringValue(value=str(asked["x-detail"])))
    return code, text, Status(code=code, message=text, details=[detail])


def replies(request: bytes) -> Iterator[bytes]:
    """Of "count size": numbered messages of that size, 4 bytes at least."""
    count, size = map(int, request.split())
    for number in range(count):
        yield number.to_bytes(4, "big") + bytes(size - 4)


class OurService:
    """The methods on our host."""

    def __init__(self, host: RpcHost, journal: Journal) -> None:
        self.host = host
        self.journal = journal

    def register(self, server: Registrar) -> None:
        host = self.host
        for name, method in {
            "Echo": host.unary(self.echo),
            "EchoSync": host.unary_sync(self.echo_sync),
            "EchoTogether": host.unary_together(self.echo_together),
            "Large": host.unary_sync(self.large),
            "Fail": host.unary(self.fail),
            "FailSync": host.unary_sync(self.fail_sync),
            "FailLate": host.server_stream(self.fail_late),
            "FailBoth": host.duplex(self.fail_both),
            "Hang": host.unary(self.hang),
            "HangBoth": host.duplex(self.hang),
            "HangLate": host.server_stream(self.hang_late),
            "CancelItself": host.unary(self.cancel_itself),
            "Count": host.server_stream(self.count),
            "Sum": host.duplex(self.sum),
            "Held": host.duplex(self.held, in_bytes_max=64 * KIB),
            "EchoBoth": host.duplex(self.echo_both),
        }.items():
            server.add_method(f"{SERVICE}/{name}", method)

    def begin(self, call: RpcCall) -> str:
        name = call_id(call.metadata)
        self.journal.begun[name] += 1
        self.journal.peers.add(call.peer)
        return name

    async def echo(self, request: bytes, call: RpcCall) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.echo_sync(request, call)

    def echo_sync(self, request: bytes, call: RpcCall) -> bytes:
        self.begin(call)
        call.set_trailing_metadata(echoed(call.metadata))
        return request

    def echo_together(self, calls: Sequence[tuple[UnaryCall[bytes], bytes]]) -> None:
        for call, request in calls:
            call.reply(self.echo_sync(request, call))

    def large(self, request: bytes, call: RpcCall) -> bytes:
        return bytes(int(request))

    async def fail(self, request: bytes, call: RpcCall) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.fail_sync(request, call)

    def fail_sync(self, request: bytes, call: RpcCall) -> bytes:
        code, text, status = failure(call.metadata)
        raise RpcError(StatusCode(code), text, trailing_metadata=echoed(call.metadata), status=status)

    async def fail_late(self, request: bytes, call: RpcCall) -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"
        self.fail_sync(request, call)

    async def fail_both(self, stream: Duplex[bytes, bytes], call: RpcCall) -> None:
        await stream.receive()
        self.fail_sync(b"", call)

    async def hang(self, _: object, call: RpcCall) -> Any:
        name = self.begin(call)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.journal.cancelled[name] += 1
            raise

    async def hang_late(self, request: bytes, call: RpcCall) -> AsyncIterator[bytes]:
        name = self.begin(call)
        try:
            yield b"first"
            await trio.sleep_forever()
        finally:
            self.journal.cancelled[name] += 1

    async def cancel_itself(self, request: bytes, call: RpcCall) -> bytes:
        call.scope.cancel()
        await trio.lowlevel.checkpoint()
        return b"never"

    async def count(self, request: bytes, call: RpcCall) -> AsyncIterator[bytes]:
        name = self.begin(call)
        for reply in replies(request):
            self.journal.made[name] += 1
            yield reply

    async def sum(self, stream: Duplex[bytes, bytes], call: RpcCall) -> None:
        self.begin(call)
        await stream.send(summary([message async for message in stream]))

    async def held(self, stream: Duplex[bytes, bytes], call: RpcCall) -> None:
        self.begin(call)
        while not self.journal.gate.is_set():  # noqa: ASYNC110 - it is set in another thread
            await trio.sleep(0.005)
        await stream.send(summary([message async for message in stream]))

    async def echo_both(self, stream: Duplex[bytes, bytes], call: RpcCall) -> None:
        async for message in stream:
            await stream.send(message)


class OurServer:
    """Our host with the service, in a thread that runs trio."""

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        journal: Journal | None = None,
        register: Callable[[RpcHost, trio.Nursery], Callable[[Registrar], None]] | None = None,
        **how: Any,
    ) -> None:
        """register: makes other services. how: further arguments of `RpcHost.serve`."""
        self.address = address
        self.journal = journal or Journal()
        self.server: RpcServer
        self.host: RpcHost
        self._register = register
        self._how = how
        self._error: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="our server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run it in the server's thread."""
        return trio.from_thread.run(fn, *args, trio_token=self._token)

    def ask(self, fn: Callable[[], T]) -> T:
        """Look at something in the server's thread."""
        return trio.from_thread.run_sync(fn, trio_token=self._token)

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with open_rpc_host() as self.host, trio.open_nursery() as nursery:
            register = (
                OurService(self.host, self.journal).register
                if self._register is None
                else self._register(self.host, nursery)
            )
            self.server = await self.host.serve(self.address, register, **self._how)
            self.address = self.server.address
            self._ready.set()
            await self._end.wait()
            nursery.cancel_scope.cancel()


def wait_over(context: Any) -> None:
    """Wait until the client has cancelled, or its time is over."""
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(30)


class GrpcioServer:
    """grpcio's server with threads, and the same service."""

    def __init__(
        self, journal: Journal | None = None, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        """credentials: TLS."""
        self.journal = journal or Journal()
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS),
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        unary, late = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        client, both = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        methods: dict[str, Any] = {
            "Echo": unary(self.echo),
            "EchoSync": unary(self.echo),
            "EchoTogether": unary(self.echo),
            "Compressed": unary(self.compressed),
            "Large": unary(lambda request, _: bytes(int(request))),
            "Fail": unary(self.fail),
            "FailSync": unary(self.fail),
            "FailLate": late(self.fail_late),
            "FailBoth": both(self.fail_both),
            "Hang": unary(self.hang),
            "HangBoth": both(self.hang_both),
            "HangLate": late(self.hang_late),
            "CancelItself": unary(lambda _, context: context.abort(grpc.StatusCode.CANCELLED, "by itself")),
            "Count": late(self.count),
            "Sum": client(lambda requests, _: summary(list(requests))),
            "Held": client(self.held),
            "EchoBoth": both(lambda requests, _: requests),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE.removeprefix("/"), methods),)
        )
        port = (
            self._server.add_insecure_port("127.0.0.1:0")
            if credentials is None
            else self._server.add_secure_port("127.0.0.1:0", credentials)
        )
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.gate.set()
        self._server.stop(0).wait()

    def begin(self, context: Any) -> str:
        name = call_id(context.invocation_metadata())
        self.journal.begun[name] += 1
        self.journal.peers.add(context.peer())
        return name

    def echo(self, request: bytes, context: Any) -> bytes:
        self.begin(context)
        context.set_trailing_metadata(echoed(context.invocation_metadata()))
        return request

    def compressed(self, request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return request

    def fail(self, request: bytes, context: Any) -> bytes:
        code, text, status = failure(context.invocation_metadata())
        details = () if status is None else (("grpc-status-details-bin", status.SerializeToString()),)
        context.set_trailing_metadata((*echoed(context.invocation_metadata()), *details))
        context.abort(GRPC_CODES[code], text)
        raise AssertionError

    def fail_late(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        yield b"second"
        self.fail(request, context)

    def fail_both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.fail(next(requests), context)
        yield b""

    def hang(self, _: object, context: Any) -> bytes:
        name = self.begin(context)
        wait_over(context)
        self.journal.cancelled[name] += 1
        return b""

    def hang_both(self, requests: object, context: Any) -> Iterator[bytes]:
        yield self.hang(requests, context)

    def hang_late(self, request: bytes, context: Any) -> Iterator[bytes]:
        name = self.begin(context)
        try:
            yield b"first"
            wait_over(context)
        finally:
            self.journal.cancelled[name] += 1

    def count(self, request: bytes, context: Any) -> Iterator[bytes]:
        name = self.begin(context)
        for reply in replies(request):
            self.journal.made[name] += 1
            yield reply

    def held(self, requests: Iterator[bytes], context: Any) -> bytes:
        self.begin(context)
        self.journal.gate.wait(30)
        return summary(list(requests))
