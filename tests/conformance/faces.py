"""The clients of the matrix: grpcio with threads and with asyncio, and our channel."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import trio

from synchro.rpc.channel import RpcChannel
from synchro.rpc.host import open_rpc_host
from synchro.wire.certificates import ClientContext, TlsFiles
from synchro.wire.connector import CLIENT_KEEPALIVE
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode
from synchro.wire.io import plain_client
from synchro.wire.link import Keepalive
from tests.conformance.exchange import Exchange, Face, FaceOptions, Kind, Outcome, multi
from tests.conformance.js_face import JsFace

T = TypeVar("T")

START_S: Final = 10.0
DRAIN_S: Final = 0.1
"""Seconds for what grpc.aio has still to tell a loop: later it tells a closed one, and another test hears."""


def _options(options: FaceOptions) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 5000),  # how long an attempt may take
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    if options.keepalive_s is not None:
        found += [
            ("grpc.keepalive_time_ms", int(options.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return found


def _compression(options: FaceOptions) -> grpc.Compression:
    return grpc.Compression.Gzip if options.gzip else grpc.Compression.NoCompression


def _code(code: grpc.StatusCode) -> StatusCode:
    return StatusCode(code.value[0])


def credentials_of(files: TlsFiles) -> grpc.ChannelCredentials:
    ca, key, cert = (Path(path).read_bytes() if path else None for path in (files.ca, files.key, files.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


class SyncFace:
    """`Face` by grpcio with threads."""

    def __init__(self, address: str, options: FaceOptions) -> None:
        how: dict[str, Any] = {"options": _options(options), "compression": _compression(options)}
        self.channel: Any = (
            grpc.insecure_channel(address, **how)
            if options.tls is None
            else grpc.secure_channel(address, credentials_of(options.tls), **how)
        )

    def run(self, exchange: Exchange) -> Outcome:
        call, replies = self._start(exchange), []
        if exchange.cancel_after_s is not None:
            threading.Timer(exchange.cancel_after_s, call.cancel).start()
        try:
            if exchange.kind in (Kind.UNARY, Kind.CLIENT):
                replies.append(call.result())
            else:
                for reply in call:
                    replies.append(reply)
                    if len(replies) == exchange.cancel_after:
                        call.cancel()
                    if len(replies) == 1:
                        time.sleep(exchange.pause_s)
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        return Outcome(replies, _code(call.code()), call.details() or "", multi(call.trailing_metadata()))

    def _start(self, exchange: Exchange) -> Any:
        how: dict[str, Any] = {
            "timeout": exchange.timeout_s,
            "metadata": exchange.metadata,
            "wait_for_ready": exchange.wait_for_ready,
        }
        match exchange.kind:
            case Kind.UNARY:
                return self.channel.unary_unary(exchange.path).future(exchange.requests[0], **how)
            case Kind.SERVER:
                return self.channel.unary_stream(exchange.path)(exchange.requests[0], **how)
            case Kind.CLIENT:
                return self.channel.stream_unary(exchange.path).future(iter(exchange.requests), **how)
            case Kind.BOTH:
                return self.channel.stream_stream(exchange.path)(iter(exchange.requests), **how)

    def many(self, exchange: Exchange, *, count: int, at_once: int) -> Counter[StatusCode]:
        """Futures, since a thread for each call would be a test of threads."""
        codes: Counter[StatusCode] = Counter()
        room, done = threading.Semaphore(at_once), threading.Semaphore(0)

        def ended(call: Any) -> None:
            codes[_code(call.code())] += 1
            room.release()
            done.release()

        for _ in range(count):
            room.acquire()
            self._start(exchange).add_done_callback(ended)
        for _ in range(count):
            done.acquire()
        return codes

    def close(self) -> None:
        self.channel.close()


class AioFace:
    """`Face` by grpc.aio, in a thread with a loop."""

    def __init__(self, address: str, options: FaceOptions) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asyncio", daemon=True)
        self._thread.start()
        self.channel: Any = self._wait(self._open(address, options))

    async def _open(self, address: str, options: FaceOptions) -> grpc.aio.Channel:
        how: dict[str, Any] = {"options": _options(options), "compression": _compression(options)}
        if options.tls is not None:
            return grpc.aio.secure_channel(address, credentials_of(options.tls), **how)
        return grpc.aio.insecure_channel(address, **how)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def run(self, exchange: Exchange) -> Outcome:
        return self._wait(self._run(exchange))

    async def _run(self, exchange: Exchange) -> Outcome:
        call, replies = self._start(exchange), []
        if exchange.cancel_after_s is not None:
            self._loop.call_later(exchange.cancel_after_s, call.cancel)
        try:
            if exchange.kind in (Kind.UNARY, Kind.CLIENT):
                replies.append(await call)
            else:
                async for reply in call:
                    replies.append(reply)
                    if len(replies) == exchange.cancel_after:
                        call.cancel()
                    if len(replies) == 1 and exchange.pause_s:
                        await asyncio.sleep(exchange.pause_s)
        except (grpc.RpcError, asyncio.CancelledError):
            pass
        code, message = await call.code(), await call.details()
        return Outcome(replies, _code(code), message or "", multi(await call.trailing_metadata()))

    def _start(self, exchange: Exchange) -> Any:
        how: dict[str, Any] = {
            "timeout": exchange.timeout_s,
            "metadata": exchange.metadata,
            "wait_for_ready": exchange.wait_for_ready,
        }
        match exchange.kind:
            case Kind.UNARY:
                return self.channel.unary_unary(exchange.path)(exchange.requests[0], **how)
            case Kind.SERVER:
                return self.channel.unary_stream(exchange.path)(exchange.requests[0], **how)
            case Kind.CLIENT:
                return self.channel.stream_unary(exchange.path)(iter(exchange.requests), **how)
            case Kind.BOTH:
                return self.channel.stream_stream(exchange.path)(iter(exchange.requests), **how)

    def many(self, exchange: Exchange, *, count: int, at_once: int) -> Counter[StatusCode]:
        async def some(numbers: Iterator[int]) -> list[StatusCode]:
            codes = []
            for _ in numbers:
                call = self._start(exchange)
                codes.append(_code(await call.code()))
            return codes

        async def all_of_them() -> list[list[StatusCode]]:
            numbers = iter(range(count))
            return await asyncio.gather(*(some(numbers) for _ in range(at_once)))

        return Counter(code for codes in self._wait(all_of_them()) for code in codes)

    async def _close(self) -> None:
        await self.channel.close(None)
        del self.channel
        await asyncio.sleep(DRAIN_S)

    def close(self) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()


class ChannelFace:
    """`Face` by our channel, in a thread with trio."""

    def __init__(self, address: str, options: FaceOptions) -> None:
        assert not options.gzip, "our channel compresses nothing"
        self._keepalive = CLIENT_KEEPALIVE
        if options.keepalive_s is not None:
            self._keepalive = Keepalive(after_s=options.keepalive_s, timeout_s=5.0)
        self._address = address
        self._layer = plain_client if options.tls is None else ClientContext(options.tls).layer
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="our channel", daemon=True)
        self._thread.start()
        assert self._ready.wait(START_S)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with (
            open_rpc_host() as host,
            host.channel(self._address, keepalive=self._keepalive, layer=self._layer) as self.channel,
        ):
            self._ready.set()
            await self._end.wait()

    def run(self, exchange: Exchange) -> Outcome:
        return trio.from_thread.run(self._run, exchange, trio_token=self._token)

    async def _run(self, exchange: Exchange) -> Outcome:
        replies: list[bytes] = []
        cancel_after_s = exchange.cancel_after_s
        with trio.CancelScope() as scope:
            if cancel_after_s is not None:
                scope.deadline = trio.current_time() + cancel_after_s
            try:
                await self._exchange(exchange, replies)
            except CallFailed as error:
                return Outcome(replies, error.code, error.message, multi(error.trailing_metadata))
        if scope.cancelled_caught or len(replies) == exchange.cancel_after:
            return Outcome(replies, StatusCode.CANCELLED, "by the client")
        return Outcome(replies, StatusCode.OK, "", None)

    async def _exchange(self, exchange: Exchange, replies: list[bytes]) -> None:
        channel: RpcChannel = self.channel
        how: dict[str, Any] = {"timeout": exchange.timeout_s, "metadata": exchange.metadata}
        if exchange.kind is Kind.UNARY:
            replies.append(
                await channel.unary(
                    exchange.path, exchange.requests[0], wait_for_ready=exchange.wait_for_ready, **how
                )
            )
        elif exchange.kind is Kind.SERVER:
            async with channel.server_stream(exchange.path, exchange.requests[0], **how) as stream:
                await self._take(exchange, stream, replies)
        else:
            async with channel.duplex(exchange.path, **how) as both, trio.open_nursery() as nursery:

                async def send() -> None:
                    try:
                        for request in exchange.requests:
                            await both.send(request)
                        both.done_sending()
                    except trio.BrokenResourceError:
                        pass  # the reader hears why

                nursery.start_soon(send)
                await self._take(exchange, both, replies)
                nursery.cancel_scope.cancel()

    async def _take(self, exchange: Exchange, stream: Any, replies: list[bytes]) -> None:
        async for reply in stream:
            replies.append(reply)
            if len(replies) == exchange.cancel_after:
                return
            if len(replies) == 1:
                await trio.sleep(exchange.pause_s)

    def many(self, exchange: Exchange, *, count: int, at_once: int) -> Counter[StatusCode]:
        codes: Counter[StatusCode] = Counter()

        async def some(numbers: Iterator[int]) -> None:
            for _ in numbers:
                codes[(await self._run(exchange)).code] += 1

        async def all_of_them() -> None:
            numbers = iter(range(count))
            async with trio.open_nursery() as nursery:
                for _ in range(at_once):
                    nursery.start_soon(some, numbers)

        trio.from_thread.run(all_of_them, trio_token=self._token)
        return codes

    def close(self) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive()


FACES: Final[dict[str, Any]] = {
    "grpcio": SyncFace,
    "grpc.aio": AioFace,
    "channel": ChannelFace,
    "grpc-js": JsFace,
}


def open_face(name: str, address: str, options: FaceOptions | None = None) -> Face:
    """Return a client of a kind, with a connection of its own."""
    face: Face = FACES[name](address, options or FaceOptions())
    return face


def at_once(count: int, work: Any) -> list[Any]:
    """Run `work(number)` in so many threads; the results in order."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))
