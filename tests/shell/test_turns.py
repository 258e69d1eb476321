"""The order of what happens in trio's thread: turns, their ends, and what is asked for between them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
import trio.testing

from synchro.wire.poll import READ
from synchro.wire.turns import PATIENCE_S, TURN_S, Turns, open_turns


class Speaker:
    """Somebody who writes."""

    def __init__(self, said: list[str], name: str) -> None:
        self.is_dirty = False
        self.said = said
        self.name = name

    def write(self) -> None:
        self.is_dirty = False
        self.said.append(self.name)


class Reader:
    """Reads what is there, a byte at a time."""

    def __init__(
        self, sock: socket.socket, said: list[str], name: str = "read", takes_s: float = 0.0
    ) -> None:
        self.sock = sock
        self.said = said
        self.name = name
        self.takes_s = takes_s
        self.is_urgent = False

    def on_ready(self, events: int) -> None:
        self.sock.recv(1)
        self.said.append(self.name)
        time.sleep(self.takes_s)


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Turns, list[str]]]:
    with trio.fail_after(10):
        async with open_turns() as turns:
            await trio.testing.wait_all_tasks_blocked()
            yield turns, []
            await trio.testing.wait_all_tasks_blocked()
            turns.check()


async def test_a_turn_ends_with_what_is_handed_over_then_what_waits_for_idleness_then_writes() -> None:
    async with world() as (turns, said):
        speaker = Speaker(said, "write")
        turns.at_turn_ends(lambda: said.append("hand over"))

        def begin() -> None:
            turns.mark(speaker)
            turns.mark(speaker)  # once is enough
            turns.call_when_idle(lambda: said.append("idle"))
            said.append("begin")
            turns.in_turn(lambda: said.append("inner"))  # Turns.T1: no turn of its own

        turns.in_turn(begin)
        assert said == ["begin", "inner", "hand over", "idle", "write"]


async def test_what_may_wait_comes_behind_the_writes_if_nothing_else_is_to_be_done() -> None:
    """Nobody's answer waits for it, and what it has to say leaves behind it."""
    async with world() as (turns, said):
        speaker = Speaker(said, "write")

        def rest() -> None:
            said.append("rest")
            turns.mark(speaker)

        def begin() -> None:
            turns.mark(speaker)
            turns.call_when_idle(lambda: turns.call_at_rest(rest))

        turns.in_turn(begin)
        assert said == ["write", "rest", "write"]


@pytest.mark.parametrize("why", ["soon", "socket"])
async def test_what_may_wait_is_forgotten_where_something_else_is_to_be_done(why: str) -> None:
    async with world() as (turns, said):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            reader = Reader(ours, said)
            turns.register(ours, READ, reader)

            def begin() -> None:
                turns.call_at_rest(lambda: said.append("rest"))
                if why == "soon":
                    turns.call_soon(lambda: said.append("soon"))
                else:
                    theirs.send(b"x")
                    turns.call_when_idle(lambda: said.append("idle"))

            turns.in_turn(begin)
            assert "rest" not in said and "idle" not in said
            await trio.testing.wait_all_tasks_blocked()
            assert said == {"soon": ["soon"], "socket": ["read", "idle"]}[why]
            turns.unregister(ours)


async def test_what_came_during_a_turn_is_handled_before_what_waits_for_idleness() -> None:
    """A batch of the log takes the rows of all whose calls lie there already; but not for ever."""
    async with world() as (turns, said):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            turns.register(ours, READ, Reader(ours, said))

            def begin() -> None:
                turns.call_when_idle(lambda: said.append("idle"))
                theirs.send(b"x")
                said.append("begin")

            turns.in_turn(begin)
            assert said == ["begin"]
            await trio.testing.wait_all_tasks_blocked()
            assert said == ["begin", "read", "idle"]

            said.clear()

            def begin_slowly() -> None:
                begin()
                time.sleep(2 * PATIENCE_S)

            turns.in_turn(begin_slowly)
            assert said == ["begin", "idle"]
            turns.unregister(ours)


async def test_a_socket_that_is_closed_before_its_turn_does_not_hold_up_what_waits_for_idleness() -> None:
    async with world() as (turns, said):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            turns.register(ours, READ, Reader(ours, said))

            def begin() -> None:
                turns.call_when_idle(lambda: said.append("idle"))
                theirs.send(b"x")

            turns.in_turn(begin)
            assert said == []
            turns.unregister(ours)
        await trio.testing.wait_all_tasks_blocked()
        assert said == ["idle"]


async def test_what_a_task_leaves_is_done_in_the_next_round() -> None:
    """Turns.T2: whoever it was that marked, nothing is forgotten."""
    async with world() as (turns, said):
        turns.mark(Speaker(said, "one"))
        turns.mark(Speaker(said, "two"))
        turns.call_when_idle(lambda: said.append("idle"))
        assert said == []
        await trio.testing.wait_all_tasks_blocked()
        assert said == ["idle", "one", "two"]


async def test_soon_is_after_all_that_is_ready() -> None:
    """Turns.T3: a callback that asks for itself again leaves room for every task in between."""
    async with world() as (turns, _):
        rounds = 0

        def again() -> None:
            nonlocal rounds
            rounds += 1
            if rounds < 50:
                turns.call_soon(again)

        turns.call_soon(again)
        for _ in range(20):
            before = rounds
            await trio.lowlevel.checkpoint()
            assert rounds <= before + 2
        await trio.testing.wait_all_tasks_blocked()
        assert rounds == 50


async def test_a_write_that_makes_more_to_write_is_followed_by_another_round() -> None:
    async with world() as (turns, said):
        second = Speaker(said, "second")

        class First(Speaker):
            def write(self) -> None:
                super().write()
                turns.mark(second)

        turns.in_turn(lambda: turns.mark(First(said, "first")))
        assert said == ["first"]
        await trio.testing.wait_all_tasks_blocked()
        assert said == ["first", "second"]


async def test_a_callback_of_another_thread_is_a_turn() -> None:
    async with world() as (turns, said):
        speaker, done = Speaker(said, "write"), trio.Event()
        here = threading.get_ident()

        def callback() -> None:
            assert threading.get_ident() == here
            turns.mark(speaker)
            turns.call_when_idle(done.set)
            said.append("callback")

        await trio.to_thread.run_sync(turns.call_from_thread, callback)
        await done.wait()
        assert said == ["callback", "write"]


async def test_timers_come_in_order_and_can_be_cancelled() -> None:
    async with world() as (turns, said):
        now = trio.current_time()
        turns.call_at(now + 0.04, lambda: said.append("second"))
        turns.call_at(now + 0.02, lambda: said.append("first"))
        turns.call_at(now + 0.03, lambda: said.append("never")).cancel()
        third = trio.Event()
        turns.call_at(now + 0.06, third.set)
        await third.wait()
        assert said == ["first", "second"]
        assert trio.current_time() >= now + 0.06


async def test_a_timer_of_the_past_comes_at_once() -> None:
    async with world() as (turns, _):
        come = trio.Event()
        turns.call_at(trio.current_time() - 1, come.set)
        await come.wait()


async def test_a_member_is_heard_ahead_of_many_clients() -> None:
    """ADR 25: 48 clients whose requests took 75 ms each were heard first, for 3.6 s, and the leader was
    deposed."""
    async with world() as (turns, said):
        pairs = [socket.socketpair() for _ in range(6)]
        try:
            readers = []
            for number, (ours, theirs) in enumerate(pairs):
                ours.setblocking(False)
                readers.append(Reader(ours, said, f"client {number}", takes_s=2 * TURN_S))
                if number < 5:
                    theirs.send(b"x")
            member = readers[5]
            member.name, member.is_urgent = "member", True
            talk = pairs[5][1]

            class Late(Reader):
                def on_ready(self, events: int) -> None:
                    super().on_ready(events)
                    talk.send(b"x")

            readers[0] = Late(pairs[0][0], said, "client 0", takes_s=2 * TURN_S)
            for reader in readers:
                turns.register(reader.sock, READ, reader)
            while len(said) < 6:
                await trio.lowlevel.checkpoint()
            assert said.index("member") == said.index("client 0") + 1
            assert sorted(said) == [f"client {number}" for number in range(5)] + ["member"]
            for reader in readers:
                turns.unregister(reader.sock)
        finally:
            for pair in pairs:
                for one in pair:
                    one.close()
