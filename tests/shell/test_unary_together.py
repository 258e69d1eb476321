"""Calls that arrive together are handed over together, and each is answered, or ends, on its own."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from synchro.rpc.host import SWEEP_S, RpcHost, RpcServer, UnaryCall, open_rpc_host
from synchro.rpc.rpc_error import RpcError
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode
from synchro.wire.turns import Timer
from tests.shell.raw_client import raw_client
from tests.shell.rpc_probe import until

PATH = "/test.Test/Together"
Calls = Sequence[tuple[UnaryCall[bytes], bytes]]


class Together:
    """Keeps what it is handed; a test answers."""

    def __init__(self, host: RpcHost, server: RpcServer) -> None:
        self.host = host
        self.server = server
        self.lists: list[list[tuple[UnaryCall[bytes], bytes]]] = []

    @property
    def calls(self) -> list[tuple[UnaryCall[bytes], bytes]]:
        return [each for calls in self.lists for each in calls]


@asynccontextmanager
async def together(*, answers: bool = False) -> AsyncIterator[Together]:
    async with open_rpc_host() as host:

        def take(calls: Calls) -> None:
            world.lists.append(list(calls))
            if answers:
                for call, request in calls:
                    call.reply(request)

        server = await host.serve(
            "127.0.0.1:0", lambda server: server.add_method(PATH, host.unary_together(take))
        )
        world = Together(host, server)
        with trio.fail_after(10):
            yield world


async def test_calls_of_one_turn_come_in_one_list_whatever_their_connections() -> None:
    async with (
        together(answers=True) as world,
        world.host.channel(world.server.address) as one,
        world.host.channel(world.server.address) as two,
    ):
        await one.unary(PATH, b"connected")
        await two.unary(PATH, b"connected")
        world.lists.clear()
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await (one, two)[number % 2].unary(PATH, b"%d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(ask, number)
        assert sorted(answers) == sorted(b"%d" % number for number in range(16))
        assert max(map(len, world.lists)) == 16
        assert len({call.peer for call, _ in world.calls}) == 2


async def test_answers_of_one_turn_leave_in_one_write() -> None:
    """Link.K1."""
    async with together(answers=True) as world, raw_client(world.server.address) as client:
        seen = [client.call(PATH, b"%d" % number) for number in range(50)]
        await client.send()
        await until(lambda: len(world.calls) == 50)
        await trio.sleep(0.05)
        data = await client.stream.receive_some(1 << 20)
        client.h2.receive(data)
        assert [each.messages for each in seen] == [[b"%d" % number] for number in range(50)]


async def test_each_call_is_answered_later_and_on_its_own() -> None:
    async with together() as world, raw_client(world.server.address) as client:
        seen = [client.call(PATH, b"%d" % number) for number in range(3)]
        await client.send()
        await until(lambda: len(world.calls) == 3)
        (first, _), (second, _), (third, _) = world.calls
        assert first.deadline == math.inf and not first.is_over
        third.reply(b"three")
        first.fail(RpcError(StatusCode.ABORTED, "not now", trailing_metadata=[("why", "busy")]))
        await client.until(lambda: seen[0].is_over and seen[2].is_over)
        assert not seen[1].is_over
        assert seen[0].status is not None and seen[0].status.code is StatusCode.ABORTED
        assert seen[0].status.metadata == (("why", "busy"),)
        assert seen[2].messages == [b"three"]
        assert first.is_over and third.is_over
        third.reply(b"again")
        second.reply(b"two")
        await client.until(lambda: seen[1].is_over)
        assert seen[1].messages == [b"two"] and seen[2].messages == [b"three"]
        await until(lambda: not world.server.calls)


async def test_an_error_of_the_function_ends_the_calls_of_its_list(caplog: pytest.LogCaptureFixture) -> None:
    async with open_rpc_host() as host:

        def fail(calls: Calls) -> None:
            calls[0][0].reply(b"answered before")
            raise KeyError("a secret")

        server = await host.serve("127.0.0.1:0", lambda s: s.add_method(PATH, host.unary_together(fail)))
        async with raw_client(server.address) as client:
            with caplog.at_level(logging.ERROR, "synchro"):
                seen = [client.call(PATH) for _ in range(3)]
                await client.until(lambda: all(each.is_over for each in seen))
            assert seen[0].messages == [b"answered before"]
            for each in seen[1:]:
                assert each.status is not None and each.status.code is StatusCode.INTERNAL
                assert "secret" not in each.status.message
            assert len(caplog.records) == 1


async def test_who_has_the_call_hears_that_nobody_waits() -> None:
    """Cancelled, out of time, or lost; once, and `reply` does nothing then."""
    async with together() as world, world.host.channel(world.server.address) as channel:
        heard: list[str] = []

        def watch(number: int, name: str) -> None:
            world.calls[number][0].on_cancel = lambda: heard.append(name)

        with trio.move_on_after(0.1):
            await channel.unary(PATH, b"", timeout=30)
        await until(lambda: world.calls[0][0].is_over)  # and nobody had asked to be told

        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.unary, PATH, b"cancelled")
            await until(lambda: len(world.calls) == 2)
            watch(1, "cancelled")
            nursery.cancel_scope.cancel()
        await until(lambda: heard == ["cancelled"])
        world.calls[1][0].reply(b"late")

        async with raw_client(world.server.address) as client:
            seen = client.call(PATH, b"", timeout_s=0.2)
            await client.send()
            await until(lambda: len(world.calls) == 3)
            watch(2, "out of time")
            assert world.calls[2][0].deadline < trio.current_time() + 0.3
            await client.until(lambda: seen.is_over)
            assert seen.status is not None and seen.status.code is StatusCode.DEADLINE_EXCEEDED
            client.call(PATH, b"")
            await client.send()
            await until(lambda: len(world.calls) == 4)
            watch(3, "lost")
        await until(lambda: len(heard) == 3)
        assert heard == ["cancelled", "out of time", "lost"]
        await until(lambda: not world.server.calls)


async def test_a_server_that_stops_ends_what_is_unanswered() -> None:
    async with together() as world, world.host.channel(world.server.address) as channel:
        codes: list[StatusCode] = []

        async def ask() -> None:
            with pytest.raises(CallFailed) as caught:
                await channel.unary(PATH, b"")
            codes.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(lambda: len(world.calls) == 1)
            await world.server.stop(0.1)
        assert codes == [StatusCode.UNAVAILABLE]


async def test_deadlines_of_calls_one_after_another_cost_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller with a deadline leaves nothing to wait for between two of its calls, again and again."""
    async with together(answers=True) as world, world.host.channel(world.server.address) as channel:
        timers: list[float] = []
        turns, call_at = world.host.turns, world.host.turns.call_at

        def counted(when: float, callback: Callable[[], object]) -> Timer:
            timers.append(when)
            return call_at(when, callback)

        await channel.unary(PATH, b"connected", timeout=60)
        monkeypatch.setattr(turns, "call_at", counted)
        began = trio.current_time()
        for _ in range(100):
            await channel.unary(PATH, b"x", timeout=60)
        assert len(timers) <= 2 + (trio.current_time() - began) / SWEEP_S
