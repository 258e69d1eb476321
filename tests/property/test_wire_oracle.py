"""Our HTTP/2 and the `h2` library's understand each other, whatever two programs do and however the bytes
are cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.wire_peers import RESPONSE, TRAILERS, Ours, Peer, Theirs, Wire

SIDE = st.integers(0, 1)
NUMBER = st.integers(0, 5)
SIZE = st.sampled_from((0, 1, 5, 95, 100, 16_379, 16_380, 65_530, 65_531, 100_000))
PIECE = st.sampled_from((1, 3, 9, 10, 100, 5_000, 70_000, 10**6))
STEP = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from((0, 10, 9_000))),
    st.tuples(st.just("send"), SIDE, NUMBER, SIZE),
    st.tuples(st.just("send"), SIDE, NUMBER, SIZE),
    st.tuples(st.just("finish"), SIDE, NUMBER),
    st.tuples(st.just("reset"), SIDE, NUMBER),
    st.tuples(st.just("ping"), SIDE),
    st.tuples(st.just("pause"), SIDE, NUMBER),
    st.tuples(st.just("resume"), SIDE),
    st.tuples(st.just("tune"), st.integers(0, 17)),
    st.tuples(st.just("carry"), SIDE, PIECE),
    st.tuples(st.just("carry"), SIDE, PIECE),
)


def play(client: Peer, server: Peer, steps: list[tuple[Any, ...]], piece: int) -> None:
    """Take the steps, those that are not possible left out, and then let both ends finish."""
    wire = Wire(client, server)
    ends = (client, server)
    for name, *what in steps:
        match name, what:
            case "begin", [more]:
                client.begin(more)
            case (("send" | "finish" | "reset" | "pause"), [side, number, *rest]):
                if number in ends[side].calls:
                    do = getattr(ends[side], name)
                    do(number, bytes([number + 1]) * rest[0]) if rest else do(number)
            case "tune", [value]:
                client.tune(value)
                server.tune(value)
            case "carry", [side, size]:
                wire.carry(side, size)
            case _, [side]:
                getattr(ends[side], name)()
    for _ in range(2):  # windows that were closed by settings open again
        wire.settle(piece)
        for end in ends:
            end.resume()
            end.tune(3)
    wire.settle(piece)
    for side in (0, 1) * (1 + len(client.calls)):  # calls that wait for others begin meanwhile
        for number in list(ends[side].calls):
            ends[side].finish(number)
        ends[0].resume()
        ends[1].resume()
        wire.settle(piece)
    for number, here in client.calls.items():
        there = server.calls.get(client.place(number))
        if there is None:
            assert here.is_reset  # before anybody looked at it
            continue
        for sender, reader in ((here, there), (there, here)):
            assert reader.got == sender.sent[: len(reader.got)]
        if not here.is_reset and not there.is_reset:
            assert here.got == there.sent
            assert there.got == here.sent if there.is_ended else there.is_early
            assert here.is_ended and list(here.head) == RESPONSE and list(here.trailers) == TRAILERS


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, min_size=5, max_size=60), PIECE)
def test_a_client_of_ours_and_their_server(steps: list[tuple[Any, ...]], piece: int) -> None:
    ours = Ours(is_client=True)
    theirs = Theirs(is_client=False, MAX_CONCURRENT_STREAMS=3)
    play(ours, theirs, steps, max(piece, 100))
    assert not ours.h2.streams and not ours.h2.pending and ours.pings == theirs.pings == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, min_size=5, max_size=60), PIECE)
def test_their_client_and_a_server_of_ours(steps: list[tuple[Any, ...]], piece: int) -> None:
    ours = Ours(is_client=False, stream_window_bytes=70_000, connection_window_bytes=100_000, streams_max=4)
    theirs = Theirs(is_client=True)
    play(theirs, ours, steps, max(piece, 100))
    assert not ours.h2.streams and ours.pings == theirs.pings == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, min_size=5, max_size=60), PIECE)
def test_both_ends_are_ours(steps: list[tuple[Any, ...]], piece: int) -> None:
    client = Ours(is_client=True, unsent_data_bytes_max=70_000, stream_window_bytes=80_000)
    server = Ours(is_client=False, streams_max=2, unsent_data_bytes_max=70_000)
    play(client, server, steps, max(piece, 100))
    assert not client.h2.streams and not server.h2.streams and not client.h2.pending


@pytest.mark.parametrize("is_client", [True, False])
def test_a_message_of_many_windows(is_client: bool) -> None:
    """16 MiB each way, in pieces of 60,000 bytes."""
    ours, theirs = Ours(is_client=is_client), Theirs(is_client=not is_client)
    client, server = (ours, theirs) if is_client else (theirs, ours)
    wire = Wire(client, server)
    wire.settle(60_000)
    client.begin(0)
    wire.settle(60_000)
    message = bytes(range(256)) * (16 * 4096 - 1)
    client.send(0, message)
    server.send(0, message)
    wire.settle(60_000)
    client.finish(0)
    server.finish(0)
    wire.settle(60_000)
    assert client.calls[0].got == server.calls[0].got == [message]
