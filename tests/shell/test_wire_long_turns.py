"""Calls that cost milliseconds each and come by the thousand in one read hold up nobody (Link.K1)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

import pytest

from synchro.rpc.host import RpcCall
from tests.conformance.servers import OurService
from tests.shell.stranger import Stranger, call, under_attack, window

CALLS = 2000
COST_S = 0.002


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without content takes time, as one for the whole tree of `box.info` does."""
    echo = OurService.echo_sync

    def slow_echo(self: OurService, request: bytes, call: RpcCall) -> bytes:
        if not request:
            end = time.monotonic() + COST_S
            while time.monotonic() < end:
                pass
        return echo(self, request, call)

    monkeypatch.setattr(OurService, "echo_sync", slow_echo)


@pytest.mark.usefixtures("costly")
def test_costly_calls_of_one_read_hold_up_nobody_and_are_all_answered() -> None:
    with under_attack() as (server, log), Stranger(server.address) as stranger:
        stranger.hello(initial_window_size=2**31 - 1)
        stranger.say(window(0, 2**30), *(call(2 * n + 1, "EchoSync") for n in range(CALLS)))
        assert stranger.hear(lambda: len(stranger.statuses) == CALLS, 60 * CALLS * COST_S)
        assert set(stranger.statuses.values()) == {0}
        assert stranger.is_served()
        assert not log.records


@pytest.mark.usefixtures("costly")
def test_many_clients_with_costly_calls_hold_up_nobody() -> None:
    with under_attack() as (server, _), ExitStack() as stack:
        strangers = [stack.enter_context(Stranger(server.address)) for _ in range(60)]
        calls = b"".join(call(2 * n + 1, "EchoSync") for n in range(100))
        for stranger in strangers:
            stranger.hello().say(calls)
        for stranger in strangers:
            assert stranger.hear(partial(len, stranger.statuses), 60)


@pytest.mark.usefixtures("costly")
def test_a_client_that_leaves_before_all_its_calls_were_looked_at_costs_no_more() -> None:
    with under_attack() as (server, _):
        with Stranger(server.address) as stranger:
            stranger.hello().say(*(call(2 * n + 1, "EchoSync") for n in range(CALLS)))
        server.journal.wait("it is gone", lambda: len(server.ask(lambda: server.server.listener.links)) == 1)
