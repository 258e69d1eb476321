"""The asyncio client's data stream on real sockets: refused, silent, broken, given up."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import synchro.aio
from synchro.client import CannotConnect, ConnectionLost, OutcomeUnknown, aio_stream
from synchro.client.aio_stream import AioStream, AioStreams
from synchro.client.session import Session
from synchro.rpc.generated.v1 import data_pb2
from synchro.wire.backoff import Backoff
from synchro.wire.frames import ErrorCode
from synchro.wire.limits import WireLimits
from tests.shell.stream_server import accept, serving

Story = Callable[[], Coroutine[Any, Any, None]]
FAR = 1e12


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Neither a task nor a socket."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()


def run(story: Story) -> None:
    async def main() -> None:
        await asyncio.wait_for(story(), 10)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def backoff() -> Backoff:
    return Backoff(lambda: 0.5)


@asynccontextmanager
async def streaming(address: str, pauses: Backoff | None = None) -> AsyncIterator[AioStream]:
    stream = AioStream(address, 5.0, lambda response, endpoint: None, Session(), pauses or backoff())
    try:
        yield stream
    finally:
        await stream.close()
        assert stream.is_gone
        stream.check()


def call(number: int, size: int = 0) -> bytes:
    made = data_pb2.ExecuteCall(request_id=b"%016d" % number)
    if size:
        made.ops.add().insert.tuple = bytes(size)
    return bytes(made.SerializeToString())


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def end_of(future: asyncio.Future[Any]) -> Any:
    return (await asyncio.gather(future, return_exceptions=True))[0]


# --- connecting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("listens", "asked"), [("127.0.0.1", ""), ("::1", ""), ("127.0.0.1", "localhost")])
def test_addresses_and_names(listens: str, asked: str) -> None:
    async def story() -> None:
        async with serving(listens) as server:
            address = f"{asked}:{server.address.rpartition(':')[2]}" if asked else server.address
            async with streaming(address) as stream:
                assert (await stream.submit(call(1), 1, FAR)).txn_lsn == 1
                (connection,) = server.connections
                sock = stream._transport.get_extra_info("socket")  # type: ignore[union-attr]
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await until(lambda: not connection.is_open)
            assert connection.resets == [ErrorCode.CANCEL]

    run(story)


def test_a_refused_connection_sent_nothing() -> None:
    async def story() -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{held.getsockname()[1]}"
            pauses, began = backoff(), time.monotonic()
            async with streaming(address, pauses) as stream:
                error = await end_of(stream.submit(call(1), 1, FAR))
                assert isinstance(error, CannotConnect) and "silent" not in error.details
                assert error.message == f"cannot connect to {address}: connection refused"
                await until(lambda: stream.is_gone)
                assert began < pauses.retry_at <= time.monotonic() + 0.05
                with pytest.raises(CannotConnect, match="connection refused"):
                    stream.submit(call(2), 1, FAR)

    run(story)


def test_after_a_failed_attempt_the_next_one_waits() -> None:
    """AioStreams.B1"""

    async def story() -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{held.getsockname()[1]}"
            streams = AioStreams(address, 5.0, lambda response, endpoint: None, Session())
            first = streams.newest()
            await end_of(first.submit(call(1), 1, FAR))
            assert streams.newest() is first
            with pytest.raises(CannotConnect, match="connection refused"):
                first.submit(call(2), 1, FAR)
            held.listen()
            await asyncio.sleep(0.1)
            second = streams.newest()
            assert second is not first and streams.newest() is second
            await streams.close()
            assert first.is_gone and second.is_gone

    run(story)


def test_a_name_that_nobody_has() -> None:
    async def story() -> None:
        async with streaming("no-such-host.invalid:3301") as stream:
            error = await end_of(stream.submit(call(1), 1, FAR))
            assert isinstance(error, CannotConnect)

    run(story)


@pytest.mark.parametrize(
    ("noise", "words", "is_silent"),
    [
        (b"", "connection timed out", True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "SETTINGS", False),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "SETTINGS", False),
    ],
)
def test_who_does_not_speak_http2_was_sent_nothing(
    noise: bytes, words: str, is_silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AioStream.B6"""
    monkeypatch.setattr(aio_stream, "CONNECT_S", 0.2)

    async def story() -> None:
        async with serving() as server:
            server.noise, server.is_mute = noise, not noise
            pauses = backoff()
            async with streaming(server.address, pauses) as stream:
                error = await end_of(stream.submit(call(1), 1, FAR))
                assert isinstance(error, CannotConnect) and words.lower() in error.message.lower()
                assert ("silent" in error.details) is is_silent
                await until(lambda: stream.is_gone)
                assert pauses.retry_at > 0
            await until(lambda: not server.open)

    run(story)


def test_who_closes_before_it_has_spoken_was_sent_nothing() -> None:
    async def story() -> None:
        async with serving() as server:
            server.is_mute = True
            async with streaming(server.address) as stream:
                future = stream.submit(call(1), 1, FAR)
                await until(lambda: server.open)
                transport = server.connections[0].transport
                assert transport is not None
                transport.close()
                error = await end_of(future)
                assert isinstance(error, CannotConnect) and "socket closed" in error.message

    run(story)


# --- back-pressure -------------------------------------------------------------------------------------


def test_a_peer_that_does_not_read_is_sent_no_more_than_it_lets() -> None:
    """AioStream.B5: what the socket does not take stays with the client, and did nothing."""
    count, size = 400, 100_000

    async def story() -> None:
        async with (
            serving(
                limits=WireLimits(stream_window_bytes=1 << 30, connection_window_bytes=1 << 30)
            ) as server,
            streaming(server.address) as stream,
        ):
            await stream.submit(call(0), 1, FAR)
            (connection,) = server.connections
            assert connection.transport is not None
            connection.transport.pause_reading()
            futures = [stream.submit(call(n, size), 1, FAR) for n in range(1, count + 1)]
            await until(lambda: not stream._is_writable)
            await asyncio.sleep(0.05)
            transport = stream._transport
            assert transport is not None and transport.get_write_buffer_size() < 1 << 20
            assert stream._pending
            waiting = len(stream._pending)
            await stream.close()
            kinds = [type(await end_of(future)) for future in futures]
            assert kinds == [ConnectionLost] * (count - waiting) + [CannotConnect] * waiting
            connection.transport.resume_reading()
            await until(lambda: not connection.is_open)

    run(story)


def test_a_peer_that_reads_again_gets_the_rest() -> None:
    limits = WireLimits(stream_window_bytes=200_000)

    async def story() -> None:
        async with serving(limits=limits) as server, streaming(server.address) as stream:
            await stream.submit(call(0), 1, FAR)
            (connection,) = server.connections
            assert connection.transport is not None
            connection.transport.pause_reading()
            futures = [stream.submit(call(n, 50_000), 1, FAR) for n in range(1, 101)]
            await asyncio.sleep(0.05)
            assert stream._pending
            connection.transport.resume_reading()
            await asyncio.gather(*futures)
            assert server.ids == [b"%016d" % number for number in range(101)]

    run(story)


# --- ends ----------------------------------------------------------------------------------------------


def test_a_broken_connection_leaves_open_what_was_sent() -> None:
    async def story() -> None:
        async with serving() as server:
            server.on_call = None
            async with streaming(server.address) as stream:
                future = stream.submit(call(1), 1, FAR)
                await until(lambda: server.ids)
                transport = server.connections[0].transport
                assert transport is not None
                transport.abort()
                assert isinstance(await end_of(future), ConnectionLost)
                with pytest.raises(CannotConnect):
                    stream.submit(call(2), 1, FAR)

    run(story)


def test_calls_go_on_where_a_server_goes_away() -> None:
    """Those that were sent are answered by the old connection, the others go over a new one."""

    async def story() -> None:
        async with serving() as server, synchro.aio.connect(server.address, timeout=5) as db:
            db._api.plans.routes.leader = server.address
            space = db.space("s")
            await space.insert([0])
            old = server.connections[0]
            server.on_call = lambda call: data_pb2.ExecuteResult()  # for no `seq`: no answer
            waiting = asyncio.ensure_future(space.insert([1]))
            await until(lambda: len(old.calls) == 2)
            server.on_call = accept
            old.h2.shut_down()
            old.flush()
            await until(lambda: old.h2.is_going_away)
            db._api.plans.routes.leader = server.address
            await space.insert([2])
            new = server.connections[1]
            assert len(old.calls) == 2 and len(new.calls) == 1 and not waiting.done()
            old.answer(old.calls[1])
            await waiting
            await until(lambda: not old.is_open)

    run(story)


def test_a_refused_stream_was_not_begun() -> None:
    async def story() -> None:
        async with serving(limits=WireLimits(streams_max=0)) as server:
            async with streaming(server.address) as stream:
                future = stream.submit(call(1), 1, time.monotonic() + 0.1)
                assert isinstance(await end_of(future), CannotConnect)
            assert not server.ids

    run(story)


def test_silence_is_asked_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_stream, "KEEPALIVE_AFTER_S", 0.1)
    monkeypatch.setattr(aio_stream, "KEEPALIVE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(aio_stream, "SWEEP_S", 0.02)

    async def story() -> None:
        async with serving() as server:
            async with streaming(server.address) as stream:
                await stream.submit(call(1), 1, FAR)
                await asyncio.sleep(0.5)
                assert stream.is_open  # its pings are answered
                server.is_mute = True
                future = stream.submit(call(2), 1, FAR)
                error = await end_of(future)
                assert isinstance(error, ConnectionLost) and "ping" in error.message
            await until(lambda: not server.open)

    run(story)


def test_who_is_silent_while_a_call_waits_is_asked_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused leader costs its callers little; a stream on which nobody waits asks as seldom as before."""
    monkeypatch.setattr(aio_stream, "SILENT_S", 0.1)
    monkeypatch.setattr(aio_stream, "ANSWER_S", 0.1)
    monkeypatch.setattr(aio_stream, "SWEEP_S", 0.02)

    async def story() -> None:
        async with serving() as server, streaming(server.address) as stream:
            await stream.submit(call(1), 1, FAR)
            server.is_mute = True
            await asyncio.sleep(0.5)
            assert stream.is_open
            error = await end_of(stream.submit(call(2), 1, FAR))
            assert isinstance(error, ConnectionLost) and "no answer to a ping for 0.1 s" in error.message

    run(story)


def test_silence_of_an_idle_connection_is_not_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call gives its instance all of the time, however long nobody had asked anything."""
    monkeypatch.setattr(aio_stream, "SILENT_S", 0.2)
    monkeypatch.setattr(aio_stream, "ANSWER_S", 0.2)
    monkeypatch.setattr(aio_stream, "SWEEP_S", 0.02)

    async def story() -> None:
        async with serving() as server, streaming(server.address) as stream:
            await stream.submit(call(1), 1, FAR)
            server.is_mute = True
            await asyncio.sleep(0.5)
            begun = time.monotonic()
            error = await end_of(stream.submit(call(2), 1, FAR))
            assert isinstance(error, ConnectionLost)
            assert time.monotonic() - begun >= 0.4

    run(story)


@pytest.mark.parametrize("state", ["connecting", "speaking", "open", "answered", "broken", "draining"])
def test_a_stream_is_closed_in_every_state(state: str) -> None:
    async def story() -> None:
        async with serving() as server:
            server.is_mute = state in ("connecting", "speaking")
            server.on_call = accept if state == "answered" else None
            async with streaming(server.address) as stream:
                future = stream.submit(call(1), 1, FAR)
                if state != "connecting":
                    await until(lambda: server.connections and (server.is_mute or server.ids))
                if state == "answered":
                    await future
                if state == "broken":
                    server.connections[0].close()
                    await until(lambda: stream.is_over)
                if state == "draining":
                    server.connections[0].h2.goaway()
                    server.connections[0].flush()
                    await until(lambda: not stream.is_open)
                await stream.close()
                end = await end_of(future)
                if state != "answered":
                    assert type(end) is (CannotConnect if server.is_mute else ConnectionLost)
            await until(lambda: not server.open)

    run(story)


def test_a_closed_client_leaves_no_connection() -> None:
    async def story() -> None:
        async with serving() as server:
            server.on_call = None
            async with synchro.aio.connect(server.address, timeout=5) as db:
                db._api.plans.routes.leader = server.address
                tasks = [asyncio.ensure_future(db.space("s").insert([n])) for n in range(3)]
                await until(lambda: len(server.ids) == 3)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends] == [OutcomeUnknown] * 3
            await until(lambda: not server.open)

    run(story)


def test_callers_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synchro.client.data_stream.IN_FLIGHT_MAX", 10)

    async def story() -> None:
        async with serving() as server, synchro.aio.connect(server.address, timeout=5) as db:
            db._api.plans.routes.leader = server.address
            await asyncio.gather(*(db.space("s").insert([n]) for n in range(200)))
            assert max(server.connections[0].frames) <= 10

    run(story)
