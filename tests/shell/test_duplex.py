"""One two-way stream, both ends in this process: order, bounds in bytes, batching, both ways to end."""

# ruff: noqa: PT012, ASYNC110 - a stream's errors come out of its block; what we wait for sets no event

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from synchro.rpc.duplex import Duplex
from synchro.rpc.host import RpcCall, RpcHost, open_rpc_host
from synchro.rpc.rpc_error import RpcError
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode

Handler = Callable[[Duplex[Any, Any], RpcCall], Awaitable[None]]
BytesStream = Duplex[bytes, bytes]
KIB = 1024
MIB = 1024 * KIB
METHOD = "/test.Test/Stream"


@asynccontextmanager
async def stream_to(handler: Handler, **client: Any) -> AsyncIterator[BytesStream]:
    """The client's end of a stream that `handler` serves."""
    async with open_rpc_host() as host, stream_on(host, handler, **client) as stream:
        yield stream


@asynccontextmanager
async def stream_on(host: RpcHost, handler: Handler, **client: Any) -> AsyncIterator[BytesStream]:
    server = await host.serve("127.0.0.1:0", lambda s: s.add_method(METHOD, host.duplex(handler)))
    async with host.channel(server.address) as channel, channel.duplex(METHOD, **client) as stream:
        yield stream


async def echo(stream: BytesStream, _: RpcCall) -> None:
    async for item in stream:
        await stream.send(item)


async def finish(stream: BytesStream) -> list[bytes]:
    """What the peer still sends, to the end."""
    stream.done_sending()
    return [item async for item in stream]


async def test_messages_keep_their_order() -> None:
    with trio.fail_after(20):
        async with stream_to(echo) as stream:
            for number in range(500):
                await stream.send(b"%d" % number)
            assert await finish(stream) == [b"%d" % number for number in range(500)]
            stream.check()


async def test_all_messages_arrive_although_the_call_ended_long_ago() -> None:
    """The server is gone with OK before the client reads the first message."""

    async def burst(stream: BytesStream, _: RpcCall) -> None:
        for number in range(200):
            stream.send_nowait(b"%d" % number)

    with trio.fail_after(20):
        async with stream_to(burst) as stream:
            stream.pause_reading()
            await trio.sleep(0.3)
            stream.resume_reading()
            assert await finish(stream) == [b"%d" % number for number in range(200)]


async def test_on_message_gets_everything_in_order_even_if_set_late() -> None:
    """The synchronous path: no task of ours runs between the wire and the callback."""
    seen: list[bytes] = []

    async def late(stream: BytesStream, _: RpcCall) -> None:
        await trio.sleep(0.1)
        stream.on_message = seen.append
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()

    with trio.fail_after(20):
        async with stream_to(late) as stream:
            for number in range(100):
                await stream.send(b"%d" % number)
            assert await finish(stream) == []
    assert seen == [b"%d" % number for number in range(100)]


async def test_a_paused_stream_delivers_nothing_until_resumed() -> None:
    seen: list[bytes] = []
    resumed: list[int] = []

    async def one_by_one(stream: BytesStream, _: RpcCall) -> None:
        def on_message(item: bytes) -> None:
            seen.append(item)
            stream.pause_reading()

        stream.on_message = on_message
        for expected in range(1, 6):
            while len(seen) < expected:
                await trio.sleep(0.001)
            await trio.sleep(0.01)
            resumed.append(len(seen))
            stream.resume_reading()
        async for _item in stream:
            pass

    with trio.fail_after(20):
        async with stream_to(one_by_one) as stream:
            for number in range(5):
                await stream.send(b"%d" % number)
            await finish(stream)
    assert seen == [b"0", b"1", b"2", b"3", b"4"]
    assert resumed == [1, 2, 3, 4, 5]


async def sent_until_blocked(stream: BytesStream, item: bytes) -> int:
    """Bytes that `send` accepted until nothing moved for a while."""
    sent = 0
    while True:
        with trio.move_on_after(0.5) as scope:
            await stream.send(item)
        if scope.cancelled_caught:
            return sent
        sent += len(item)


@pytest.mark.parametrize("item_bytes", [KIB, 64 * KIB])
async def test_a_server_that_does_not_read_stops_the_client(item_bytes: int) -> None:
    """Bytes are bounded, whatever their number of messages: two queues of 256 KiB and HTTP/2's windows."""
    gate, received = trio.Event(), []

    async def slow(stream: BytesStream, _: RpcCall) -> None:
        stream.in_bytes_max = 256 * KIB
        await gate.wait()
        async for item in stream:
            received.append(len(item))

    with trio.fail_after(30):
        async with stream_to(slow, out_bytes_max=256 * KIB) as stream:
            sent = await sent_until_blocked(stream, bytes(item_bytes))
            assert sent + item_bytes >= 512 * KIB
            assert sent < 4 * MIB
            assert stream.out_bytes > 128 * KIB  # room is offered again when half of the limit is free
            stream.check()
            gate.set()
            await stream.wait_writable()
            await finish(stream)
    assert sum(received) == sent


async def test_a_client_that_does_not_read_stops_the_server() -> None:
    sent: list[int] = []

    async def flood(stream: BytesStream, _: RpcCall) -> None:
        stream.out_bytes_max = 256 * KIB
        sent.append(await sent_until_blocked(stream, bytes(64 * KIB)))
        stream.check()

    with trio.fail_after(30):
        async with stream_to(flood, in_bytes_max=256 * KIB) as stream:
            while not sent:
                await trio.sleep(0.01)
            assert stream.in_bytes <= 256 * KIB + 64 * KIB
            assert sum(map(len, await finish(stream))) == sent[0]
    assert sent[0] < 4 * MIB


async def test_a_client_that_does_not_read_answers_is_not_read_either() -> None:
    """`pause_when_full`: queued answers are bounded by the requests that are not taken."""
    stuck = trio.Event()

    async def answer(stream: BytesStream, _: RpcCall) -> None:
        stream.pause_when_full = True
        stream.out_bytes_max = 256 * KIB
        stream.on_message = lambda _: stream.send_nowait(bytes(64 * KIB))
        await stuck.wait()
        assert stream.out_bytes <= 256 * KIB + 64 * KIB
        async for _item in stream:
            pass

    with trio.fail_after(30):
        async with stream_to(answer, in_bytes_max=64 * KIB, out_bytes_max=64 * KIB) as stream:
            asked = await sent_until_blocked(stream, bytes(KIB)) // KIB
            stuck.set()
            assert len(await finish(stream)) == asked


async def test_sending_without_a_look_at_writable_breaks_the_stream_before_it_fills_the_memory() -> None:
    broken = trio.Event()

    async def flood(stream: BytesStream, _: RpcCall) -> None:
        stream.out_bytes_max = 64 * KIB
        try:
            while True:
                stream.send_nowait(bytes(16 * KIB))
                await trio.lowlevel.checkpoint()
        finally:
            assert stream.out_bytes <= 5 * 64 * KIB
            broken.set()

    with trio.fail_after(20), pytest.raises(CallFailed) as caught:
        async with stream_to(flood, in_bytes_max=1) as stream:
            stream.pause_reading()
            await broken.wait()
            stream.resume_reading()  # the status is behind the data: only who reads can see it
            async for _item in stream:
                pass
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_what_is_pending_leaves_as_few_messages() -> None:
    """Natural batching: the first message may go alone, the rest joins while it is written."""

    async def count(stream: BytesStream, _: RpcCall) -> None:
        messages = [item async for item in stream]
        stream.coalesce = lambda items: [b"".join(items)]
        stream.send_nowait(b"%d " % len(messages))
        stream.send_nowait(b"%d" % sum(map(len, messages)))

    with trio.fail_after(20):
        async with stream_to(count) as stream:
            stream.coalesce = lambda items: [b"".join(items)]
            for _ in range(1000):
                stream.send_nowait(b"x")
            stream.done_sending()
            answer = await stream.receive()
            messages, size = map(int, answer.split())
            assert size == 1000 and messages <= 2
            assert stream.out_bytes == 0
            stream.check()


async def test_an_error_in_coalesce_or_on_message_ends_only_this_stream() -> None:
    async def bad_writer(stream: BytesStream, _: RpcCall) -> None:
        stream.coalesce = lambda items: [items[1 // 0]]
        stream.send_nowait(b"x")
        await trio.sleep_forever()

    async def bad_reader(stream: BytesStream, _: RpcCall) -> None:
        def on_message(item: bytes) -> None:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"not understood: {item!r}")

        stream.on_message = on_message
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with open_rpc_host() as host:
            errors: list[str] = []
            host.on_handler_error = lambda name, error: errors.append(type(error).__name__)
            with pytest.raises(CallFailed) as caught:
                async with stream_on(host, bad_writer):
                    await trio.sleep_forever()
            assert caught.value.code is StatusCode.INTERNAL and errors == ["ZeroDivisionError"]
            with pytest.raises(CallFailed) as caught:
                async with stream_on(host, bad_reader) as stream:
                    await stream.send(b"?")
                    await trio.sleep_forever()
            assert caught.value.code is StatusCode.INVALID_ARGUMENT
            assert caught.value.message == "not understood: b'?'"
            async with stream_on(host, echo) as stream:
                await stream.send(b"fine")
                assert await finish(stream) == [b"fine"]


async def test_half_close_still_lets_the_peer_answer() -> None:
    async def sum_up(stream: BytesStream, _: RpcCall) -> None:
        total = sum([len(item) async for item in stream])
        await stream.send(b"%d" % total)

    with trio.fail_after(20):
        async with stream_to(sum_up) as stream:
            await stream.send(b"abc")
            await stream.send(b"de")
            stream.done_sending()
            with pytest.raises(trio.ClosedResourceError):
                stream.send_nowait(b"late")
            assert await finish(stream) == [b"5"]


async def test_a_stream_that_is_over_drops_what_is_sent() -> None:
    """The core may answer on a stream whose client has just left: that is no error of the core."""
    streams: list[BytesStream] = []
    left = trio.Event()

    async def keep(stream: BytesStream, _: RpcCall) -> None:
        streams.append(stream)
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    with trio.fail_after(20):
        async with open_rpc_host() as host:
            async with stream_on(host, keep):
                while not streams:
                    await trio.sleep(0.001)
            await left.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            streams[0].send_nowait(b"late")
            assert streams[0].out_bytes == 0
            with pytest.raises(trio.BrokenResourceError):
                await streams[0].send(b"late")
            with pytest.raises((trio.BrokenResourceError, trio.EndOfChannel)):
                await streams[0].receive()
            streams[0].check()


async def test_a_server_that_returns_early_ends_the_stream_with_ok() -> None:
    async def one(stream: BytesStream, _: RpcCall) -> None:
        await stream.send(await stream.receive())

    with trio.fail_after(20):
        async with stream_to(one) as stream:
            await stream.send(b"first")
            assert await stream.receive() == b"first"
            with pytest.raises(trio.EndOfChannel):
                await stream.receive()
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send(b"nobody listens")
                    await trio.sleep(0.001)


async def test_a_call_that_is_over_here_waits_for_a_client_that_takes_nothing_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it holds is given back, and who counts such calls is told; one that takes its time gets all."""
    monkeypatch.setattr("synchro.rpc.calls.LINGER_S", 0.3)
    over: list[float] = []

    async def burst(stream: BytesStream, call: RpcCall) -> None:
        call.on_over = lambda: over.append(trio.current_time())
        for _ in range(20):
            stream.send_nowait(bytes(128 * KIB))

    with trio.fail_after(20):
        async with open_rpc_host() as host:
            with pytest.raises(CallFailed) as caught:
                async with stream_on(host, burst, in_bytes_max=1) as stream:
                    stream.pause_reading()
                    await trio.sleep(0.1)
                    assert host.calls_in_progress == 0 and not over
                    await trio.sleep_forever()
            assert caught.value.code is StatusCode.CANCELLED
            assert len(over) == 1
            over.clear()
            async with stream_on(host, burst, in_bytes_max=1) as stream:
                received = 0
                async for item in stream:
                    received += len(item)
                    await trio.sleep(0.02)
                assert received == 20 * 128 * KIB
            assert len(over) == 1
