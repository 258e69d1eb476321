"""RFC 9113, 5.2 and 6.9: both levels of flow control, both ways, and who gets what there is."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from synchro.wire import frames
from synchro.wire.frames import ErrorCode
from synchro.wire.headers import header_block
from tests.unit.wire.wire_world import (
    KIB,
    MIB,
    TRAILERS,
    End,
    Frame,
    client,
    data,
    message,
    number,
    request,
    resets,
    rst,
    server,
    settings,
    window,
)


def sizes(sent: list[Frame]) -> list[tuple[int, int]]:
    """(stream, bytes) of the DATA frames."""
    return [(f.stream_id, len(f.payload)) for f in sent if f.kind == frames.DATA]


def serving(*streams: int, initial: int = 100, connection: int = 0, **limits: Any) -> End:
    """A server with calls that have ended at the client. connection: window beyond the first 65,535."""
    end = server(**limits).receive(settings(initial_window_size=initial))
    for stream_id in streams:
        end.receive(request(stream_id, end=True))
    if connection:
        end.receive(window(0, connection))
    end.sent(), end.told()
    return end


# --- sending --------------------------------------------------------------------------------------------


def test_a_message_waits_for_the_window_of_its_stream() -> None:
    end = serving(1)
    stream = end.opened[1]
    stream.send_message(bytes(145))
    stream.end(header_block(TRAILERS))
    assert sizes(end.sent()) == [(1, 100)] and stream.is_blocked and stream.blocked_bytes == 50
    end.receive(window(1, 20))
    assert sizes(end.sent()) == [(1, 20)]
    end.receive(window(1, 1000))
    assert [(f.kind, f.flags, len(f.payload)) for f in end.sent()] == [
        (frames.DATA, 0, 30),
        (frames.HEADERS, 0x5, len(header_block(TRAILERS))),
    ]
    assert not end.h2.streams and end.told() == []  # trailers were its last word


def test_an_owner_is_told_when_it_may_go_on() -> None:
    end = serving(1)
    end.opened[1].send_message(bytes(145))
    end.receive(window(1, 50))
    assert end.told() == [("unblocked", 1)] and not end.opened[1].is_blocked


def test_an_owner_may_go_on_at_once() -> None:
    """`on_unblocked` sends until the stream is blocked again; nothing is lost and nothing nests."""
    end = serving(1, initial=0)
    stream, left = end.opened[1], [100]

    def more() -> None:
        while left[0] and not stream.is_blocked:
            left[0] -= 1
            stream.send_message(bytes(20_000))

    end.listeners[1].on_room = more
    stream.send_message(b"")
    total = 0
    while left[0] or stream.is_blocked:
        end.receive(window(1, 2**17), window(0, 2**17))
        total += sum(size for _, size in sizes(end.sent()))
    assert total == 5 + 100 * 20_005 and len(end.told()) > 10


def test_hundreds_that_go_on_at_once_do_not_nest() -> None:
    """Each of them is unblocked by one WINDOW_UPDATE, and queues at once what its own window does not
    take."""
    end = serving(*range(1, 801, 2), initial=70_000)
    end.opened[1].send_message(bytes(65_530))
    for stream_id, stream in end.opened.items():
        if stream_id > 1:
            stream.send_message(b"small")
            end.listeners[stream_id].on_room = partial(stream.send_message, bytes(70_100))
    end.receive_unchecked(window(0, 400 * 10 + 1))
    assert len(end.told()) == 399 and all(stream.is_blocked for stream in list(end.opened.values())[1:])


def test_small_messages_share_a_frame_when_they_had_to_wait() -> None:
    end = serving(1, initial=0)
    for _ in range(3):
        end.opened[1].send_message(b"abc")
    assert sizes(end.sent()) == []
    end.receive(window(1, 1000))
    assert sizes(end.sent()) == [(1, 24)]


def test_the_last_bytes_of_a_client_carry_the_end() -> None:
    end = client().receive(settings(initial_window_size=10))
    stream = end.open()
    stream.send_message(bytes(10), end=True)
    stream.send_message(b"dropped")
    end.sent()
    end.receive(window(1, 100))
    assert end.sent() == [Frame(frames.DATA, frames.END_STREAM, 1, bytes(5))]
    assert stream.local_closed


def test_an_end_without_bytes_needs_no_window() -> None:
    """6.9: DATA without content is under no window, also where SETTINGS have brought that below 0."""
    end = client()
    stream = end.open()
    stream.send_message(bytes(1000))
    end.receive(settings(initial_window_size=10))
    assert stream.send_window == 10 - 1005
    end.sent()
    stream.end()
    assert end.sent() == [Frame(frames.DATA, frames.END_STREAM, 1, b"")]


def test_the_window_of_the_connection_is_shared_in_turns() -> None:
    """Http2Connection.W5: the streams in line send a frame each, so a large answer does not hold up a
    small one."""
    end = serving(1, 3, 5, initial=2**20)
    end.opened[1].send_message(bytes(200_000))
    end.opened[3].send_message(bytes(40_000))
    end.opened[5].send_message(bytes(10))
    assert sum(size for _, size in sizes(end.sent())) == 65_535
    end.receive(window(0, 50_000))
    assert sizes(end.sent()) == [(1, 16_384), (3, 16_384), (5, 15), (1, 16_384), (3, 833)]
    end.receive(window(0, 300_000))
    sent = sizes(end.sent())
    assert sum(size for stream, size in sent if stream == 1) == 200_005 - 65_535 - 2 * 16_384
    assert not end.h2.waiting and not end.h2.queued_bytes


def test_a_trickle_does_not_walk_over_those_that_wait_for_themselves() -> None:
    """A thousand blocked streams whose own window is closed stand in no line: a WINDOW_UPDATE of the
    connection does not look at them."""
    end = serving(*range(1, 2001, 2), initial=0, idle_frames_burst=10**6)
    for stream in list(end.opened.values()):
        stream.send_message(b"x")
    assert len(end.h2.waiting) == 0
    end.receive(window(7, 3))
    assert sizes(end.sent()) == [(7, 3)] and len(end.h2.waiting) == 0


def test_the_first_window_may_shrink_below_zero() -> None:
    """6.9.2: what was sent counts against the new window, which then must be earned back.
    Http2Connection.W2"""
    end = serving(1, initial=1000)
    end.opened[1].send_message(bytes(995))
    end.receive(settings(initial_window_size=400))
    assert end.opened[1].send_window == -600
    end.opened[1].send_message(bytes(95))
    end.sent()
    end.receive(window(1, 600))
    assert sizes(end.sent()) == []
    end.receive(settings(initial_window_size=450))
    assert sizes(end.sent()) == [(1, 50)]
    end.receive(settings(initial_window_size=500))
    assert sizes(end.sent()) == [(1, 50)] and end.told() == [("unblocked", 1)]


@pytest.mark.parametrize("stream_id", [0, 1])
def test_windows_that_overflow_or_grow_by_nothing(stream_id: int) -> None:
    """6.9, 6.9.1: of the connection they end it, of a stream only that."""
    for more, code in ((0, ErrorCode.PROTOCOL_ERROR), (2**31 - 1, ErrorCode.FLOW_CONTROL_ERROR)):
        end = serving(1)
        if stream_id == 0:
            assert end.code(window(0, more)) is code
        else:
            end.receive(window(1, more))
            assert resets(end.sent()) == {1: code} and end.told() == [("reset", 1, code)]


def test_settings_that_overflow_a_window_end_the_connection() -> None:
    end = serving(1, initial=0)
    end.receive(window(1, 2**31 - 1))
    assert end.code(settings(initial_window_size=1)) is ErrorCode.FLOW_CONTROL_ERROR


def test_the_output_is_bounded_however_large_the_windows_are() -> None:
    """What `take` gave and nobody could write holds the streams back."""
    end = serving(1, 3, initial=2**31 - 1, connection=2**31 - 1 - 65_535, unsent_data_bytes_max=MIB)
    end.opened[1].send_message(bytes(700 * KIB))
    assert not end.opened[1].is_blocked
    end.opened[3].send_message(bytes(700 * KIB))
    assert end.opened[3].is_blocked
    first = end.h2.take()
    assert MIB <= len(first) <= MIB + 2 * KIB
    assert not end.opened[3].is_blocked and end.told() == [("unblocked", 3)]
    assert len(first + end.h2.take()) > 1400 * KIB and end.h2.take() == b""


# --- receiving ------------------------------------------------------------------------------------------


def test_a_peer_that_sends_more_than_it_may_is_stopped() -> None:
    end = server(stream_window_bytes=70_000).receive(request(1), request(3))
    end.opened[1].hold_window()
    end.receive(*[data(1, message(bytes(9_995)))] * 7)
    end.receive(data(3, message(b"fine")))
    end.receive(data(1, b"x"))
    assert resets(end.sent()) == {1: ErrorCode.FLOW_CONTROL_ERROR}
    assert end.messages(3) == [b"fine"]
    end = server(connection_window_bytes=70_000, stream_window_bytes=70_000, held_bytes_max=0)
    end.receive(request(1), request(3))
    end.opened[1].hold_window()
    end.opened[3].hold_window()
    end.receive(*[data(1, message(bytes(9_995)))] * 5)
    assert end.code(data(3, message(bytes(19_996)))) is ErrorCode.FLOW_CONTROL_ERROR


def test_windows_are_given_back_as_messages_are_taken() -> None:
    end = server(stream_window_bytes=100_000, connection_window_bytes=200_000).receive(request(1))
    for _ in range(100):
        end.receive(data(1, message(bytes(9_995))))
    given = {0: 0, 1: 0}
    for f in end.sent():
        assert f.kind == frames.WINDOW_UPDATE
        given[f.stream_id] += int.from_bytes(f.payload, "big")
    assert 1_000_000 - 25_000 <= given[1] <= 1_000_000
    assert 1_000_000 - 50_000 <= given[0] <= 1_000_000


def test_a_reader_that_takes_nothing_gives_nothing_back() -> None:
    """Http2Connection.W3: not even in the middle of a message, for the rest of which it could wait for
    ever."""
    end = server(stream_window_bytes=100_000, connection_window_bytes=200_000, held_bytes_max=0)
    end.receive(request(1), request(3))
    stream = end.opened[1]
    end.receive(data(1, message(bytes(9_995))))
    stream.hold_window()
    end.receive(data(1, message(bytes(195_000))[:90_000]))
    end.receive(data(3, message(bytes(59_995))))
    sent = end.sent()
    assert [f.stream_id for f in sent] == [3, 0]  # the other stream's bytes only
    assert sent[1].payload == number(60_000)
    assert end.h2.held_bytes == 100_000
    stream.give_window()
    assert [(f.stream_id, f.payload) for f in end.sent()] == [(1, number(100_000)), (0, number(100_000))]
    assert end.h2.held_bytes == 0
    stream.give_window()
    assert end.sent() == []


def test_readers_that_take_nothing_hold_up_their_neighbours_beyond_a_limit_only() -> None:
    """Http2Connection.W3: up to 150,000 bytes the connection gets its window back."""
    end = server(stream_window_bytes=100_000, connection_window_bytes=100_000, held_bytes_max=150_000)
    room = 100_000
    for stream_id, held, room_max in ((1, 80_000, 100_000), (3, 160_000, 90_000), (5, 240_000, 10_000)):
        end.receive(request(stream_id))
        end.opened[stream_id].hold_window()
        end.receive(*[data(stream_id, message(bytes(9_995)))] * 8)
        room += sum(int.from_bytes(f.payload, "big") for f in end.sent()) - 80_000
        assert end.h2.held_bytes == held
        assert room_max - 25_000 <= room <= room_max
        end.h2.check()
    end.opened[1].give_window()
    assert [f.stream_id for f in end.sent()] == [1, 0]


def test_what_lies_with_a_reader_is_forgotten_with_its_stream() -> None:
    end = server(stream_window_bytes=100_000).receive(request(1), data(1, message(bytes(50_000))))
    end.sent()
    end.receive(data(1, message(bytes(10_000))))
    end.opened[1].hold_window()
    assert end.h2.held_bytes == 10_005
    end.receive(rst(1))
    assert end.h2.held_bytes == 0
    end.opened[1].give_window()
    assert end.sent() == []


def test_data_of_streams_that_are_over_counts_for_the_connection() -> None:
    """5.1: it is dropped, but its sender has paid for it."""
    end = server(connection_window_bytes=100_000).receive(request(1))
    end.opened[1].reset()
    end.receive(data(1, bytes(60_000)))
    assert [(f.stream_id, f.payload) for f in end.sent() if f.kind == frames.WINDOW_UPDATE] == [
        (0, number(60_000))
    ]


def test_incomplete_messages_are_finished_one_after_the_other() -> None:
    """Ten streams in the middle of large messages: above a half of the limit one goes on, and then the
    next."""
    limits: dict[str, Any] = {"stream_window_bytes": 100_000, "partial_bytes_max": 2_200_000}
    end = server(**limits, connection_window_bytes=10**7)
    streams = list(range(1, 21, 2))
    whole = message(bytes(299_995))
    at = dict.fromkeys(streams, 0)
    room = dict.fromkeys(streams, 100_000)
    for stream_id in streams:
        end.receive(request(stream_id))
    most = 0
    while any(len(end.messages(s)) == 0 for s in streams):
        moved = False
        for stream_id in streams:
            size = min(room[stream_id], 30_000, len(whole) - at[stream_id])
            if size:
                end.receive(data(stream_id, whole[at[stream_id] : at[stream_id] + size]))
                at[stream_id] += size
                room[stream_id] -= size
                moved = True
            most = max(most, end.h2.partial_bytes)
        for f in end.sent():
            if f.kind == frames.WINDOW_UPDATE and f.stream_id:
                room[f.stream_id] += int.from_bytes(f.payload, "big")
                moved = True
        assert moved, "all of them wait"
    assert end.told() == [("stream", s) for s in streams]
    assert 1_100_000 < most <= 2_200_000 and end.h2.partial_bytes == 0


def test_a_stream_that_is_reset_makes_room_for_one_that_waits() -> None:
    end = server(stream_window_bytes=100_000, partial_bytes_max=100_000)
    part = message(bytes(200_000))[:30_000]
    for stream_id in (1, 3, 5):
        end.receive(request(stream_id), data(stream_id, part))
    assert [f.stream_id for f in end.sent()] == [1, 3]  # 3 is the one above a half, 5 waits
    end.receive(rst(1))
    assert [f.stream_id for f in end.sent()] == []
    end.receive(rst(3))
    assert [f.stream_id for f in end.sent()] == [5]


def test_stalled_since_says_how_long_nothing_moves() -> None:
    end = serving(1)
    assert end.h2.stalled_since is None
    end.clock.now = 200.0
    end.opened[1].send_message(bytes(145))
    assert end.h2.stalled_since == 200.0
    end.clock.now = 210.0
    end.receive(window(1, 1))
    assert end.h2.stalled_since == 210.0
    end.receive(window(1, 100))
    assert end.h2.stalled_since is None
    end = serving(1, initial=0)
    end.clock.now = 300.0
    end.opened[1].send_message(b"x")
    assert end.h2.stalled_since == 300.0
