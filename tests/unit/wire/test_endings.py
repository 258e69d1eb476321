"""RFC 9113, 5.4, 6.4, 6.8 and 8.1: how streams and connections end, from both sides, and who hears of it."""

from __future__ import annotations

import pytest

from synchro.wire import frames
from synchro.wire.frames import ErrorCode, StreamsExhausted
from synchro.wire.headers import header_block
from synchro.wire.streams import BadMessage, StreamState
from tests.unit.wire.wire_world import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    Frame,
    client,
    data,
    goaway,
    headers,
    message,
    number,
    request,
    resets,
    rst,
    server,
    settings,
    window,
)

HEAD, END = header_block(RESPONSE), header_block(TRAILERS)
LAST = 2**31 - 1

# --- streams --------------------------------------------------------------------------------------------


def test_a_unary_call_of_a_server() -> None:
    end = server().receive(request(1), data(1, message(b"question"), end=True))
    assert end.told() == [("stream", 1), ("end", 1)] and end.messages() == [b"question"]
    end.opened[1].answer(HEAD, b"answer", END)
    assert end.sent() == [
        Frame(frames.HEADERS, 0x4, 1, HEAD),
        Frame(frames.DATA, 0, 1, message(b"answer")),
        Frame(frames.HEADERS, 0x5, 1, END),
    ]
    assert not end.h2.streams and end.opened[1].state is StreamState.CLOSED


def test_an_answer_that_windows_hold_back_is_the_same_in_the_end() -> None:
    end = server().receive(settings(initial_window_size=3), request(1, end=True))
    end.opened[1].answer(HEAD, b"answer", END)
    end.receive(window(1, 100))
    assert [(f.kind, f.payload) for f in end.sent()[1:]] == [
        (frames.HEADERS, HEAD),
        (frames.DATA, message(b"answer")[:3]),
        (frames.DATA, message(b"answer")[3:]),
        (frames.HEADERS, END),
    ]


def test_a_unary_call_of_a_client() -> None:
    end = client()
    stream = end.open()
    stream.send_message(b"question", end=True)
    assert end.sent() == [
        Frame(frames.HEADERS, 0x4, 1, header_block(REQUEST)),
        Frame(frames.DATA, frames.END_STREAM, 1, message(b"question")),
    ]
    end.receive(headers(1, RESPONSE), data(1, message(b"answer")), headers(1, TRAILERS, end=True))
    assert end.told() == [("headers", 1, tuple(RESPONSE)), ("headers", 1, tuple(TRAILERS)), ("end", 1)]
    assert end.messages() == [b"answer"] and not end.h2.streams and end.sent() == []


def test_an_early_answer_ends_what_the_client_still_sends() -> None:
    """8.1: the response is complete, and the rest of the request is not wanted."""
    end = server().receive(request(1))
    end.opened[1].send_headers(header_block([*RESPONSE, *TRAILERS]), end=True)
    assert resets(end.sent()) == {1: ErrorCode.NO_ERROR}
    end.receive(data(1, message(b"late"), end=True))
    assert end.told() == [("stream", 1)] and end.messages() == []


def test_a_call_of_a_client_is_over_with_the_status() -> None:
    end = client()
    stream = end.open()
    end.sent()
    end.receive(headers(1, RESPONSE), headers(1, TRAILERS, end=True))
    assert end.told()[-1] == ("end", 1) and resets(end.sent()) == {1: ErrorCode.NO_ERROR}
    stream.send_message(b"dropped")
    stream.end()
    stream.reset()
    assert end.sent() == []  # Http2Connection.W10


def test_who_resets_a_stream_hears_nothing_more() -> None:
    """Http2Connection.W10: neither what comes afterwards nor what came in the same frame."""
    end = server().receive(request(1))
    end.listeners[1].do = lambda message: end.opened[1].reset()
    end.receive(data(1, message(b"first") + message(b"second"), end=True), data(1, b"x"), rst(1))
    assert end.messages() == [b"first"] and end.told() == [("stream", 1)]
    assert resets(end.sent()) == {1: ErrorCode.CANCEL} and end.h2.partial_bytes == 0


def test_who_resets_a_stream_in_the_middle_of_a_long_message_hears_nothing_more() -> None:
    end = server().receive(request(1), data(1, message(b"first")[:3]))
    end.listeners[1].do = lambda message: end.opened[1].reset()
    end.receive(data(1, message(b"first")[3:] + message(b"second") + b"\0\0"))
    assert end.messages() == [b"first"] and end.h2.partial_bytes == 0


def test_a_peer_that_resets_takes_back_what_waited_for_it() -> None:
    end = server().receive(settings(initial_window_size=10), request(1))
    end.opened[1].send_message(bytes(100))
    end.receive(rst(1, 0xABC))
    assert end.told() == [("stream", 1), ("reset", 1, ErrorCode.INTERNAL_ERROR)]
    assert end.h2.queued_bytes == 0 and not end.h2.streams


@pytest.mark.parametrize(
    ("payload", "why", "length"),
    [
        (message(b"x", compressed=True), BadMessage.COMPRESSED, 1),
        (message(bytes(100))[:5], BadMessage.TOO_LARGE, 100),
        (message(bytes(51)), BadMessage.TOO_LARGE, 51),
        (b"\0\0\0\0\0" + message(b"", compressed=True), BadMessage.COMPRESSED, 0),
    ],
)
def test_a_bad_message_is_the_last_one(payload: bytes, why: BadMessage, length: int) -> None:
    """Its owner may still answer; what follows is counted and dropped."""
    for cut in range(1, len(payload) + 1):
        end = server(message_bytes_max=50).receive(request(1), data(1, payload[:cut]), data(1, payload[cut:]))
        end.receive(data(1, message(b"late"), end=True))
        assert end.told() == [("stream", 1), ("bad message", 1, why, length), ("end", 1)]
        assert b"late" not in end.messages() and end.h2.partial_bytes == 0
        end.opened[1].send_headers(header_block([*RESPONSE, *TRAILERS]), end=True)
        assert resets(end.sent()) == {}


def test_a_message_that_is_cut_off_is_told() -> None:
    end = server().receive(request(1), data(1, message(b"hello")[:7], end=True))
    assert end.told() == [("stream", 1), ("bad message", 1, BadMessage.CUT_OFF, 7), ("end", 1)]


def test_who_answers_a_bad_message_at_once_is_done() -> None:
    end = server().receive(request(1))
    listener = end.listeners[1]
    listener.on_bad_message = lambda stream, why, length: stream.reset()  # type: ignore[method-assign]
    end.receive(data(1, message(b"hello")[:7], end=True))
    assert end.told() == [("stream", 1)] and resets(end.sent()) == {1: ErrorCode.CANCEL}


# --- 5.1.2: how many calls a client begins --------------------------------------------------------------


def test_a_client_begins_no_more_calls_than_it_may() -> None:
    """Http2Connection.W8: the others wait in order, with what they have to send."""
    end = client().receive(settings(max_concurrent_streams=2))
    streams = [end.open() for _ in range(4)]
    for n, stream in enumerate(streams):
        stream.send_message(b"%d" % n, end=True)
    assert [stream.id for stream in streams] == [1, 3, 0, 0]
    assert streams[2].state is StreamState.IDLE and streams[2].is_blocked
    assert sorted(f.stream_id for f in end.sent()) == [0, 1, 1, 3, 3]  # 0: SETTINGS ACK
    end.receive(headers(3, [*RESPONSE, *TRAILERS], end=True))
    assert end.sent() == [
        Frame(frames.HEADERS, 0x4, 5, header_block(REQUEST)),
        Frame(frames.DATA, frames.END_STREAM, 5, message(b"2")),
    ]
    end.receive(settings(max_concurrent_streams=1), rst(1), rst(5))
    assert [f.stream_id for f in end.sent() if f.kind == frames.HEADERS] == [7]


def test_a_call_that_waits_may_be_all_there_is_or_go_away() -> None:
    end = client().receive(settings(max_concurrent_streams=0))
    first, second, third = end.open(end=True), end.open(), end.open()
    second.reset()
    end.receive(settings(max_concurrent_streams=5))
    assert [(f.kind, f.flags, f.stream_id) for f in end.sent() if f.stream_id] == [
        (frames.HEADERS, 0x5, 1),
        (frames.HEADERS, 0x4, 3),
    ]
    assert (first.id, second.id, third.id) == (1, 0, 3)
    assert first.local_closed and end.told() == [("unblocked", 3)]


def test_before_the_settings_come_a_client_is_modest() -> None:
    end = client(greet=False)
    for _ in range(101):
        end.open()
    assert len(end.h2.streams) == 100 and len(end.h2.pending) == 1
    end.receive(settings())
    assert len(end.h2.streams) == 101


def test_ids_end() -> None:
    """5.1.1: a connection whose ids are used up takes no call; another one does."""
    end = client()
    end.h2._next_id = LAST - 2
    assert (end.open().id, end.open().id) == (LAST - 2, LAST)
    with pytest.raises(StreamsExhausted):
        end.open()
    end = client().receive(settings(max_concurrent_streams=0))
    end.h2._next_id = LAST
    end.open()
    with pytest.raises(StreamsExhausted):
        end.open()


# --- 6.8: GOAWAY ----------------------------------------------------------------------------------------


def test_a_graceful_end_of_a_server_loses_no_call() -> None:
    """Two steps: calls that were on their way when the first GOAWAY left are still served."""
    end = server().receive(request(1))
    end.h2.shut_down()
    first, asked = end.sent()
    assert first == Frame(frames.GOAWAY, 0, 0, number(LAST) + number(0)) and asked.kind == frames.PING
    end.receive(request(3, end=True))
    assert not end.h2.is_going_away
    end.receive(frames.ping(asked.payload, is_ack=True))
    assert end.sent() == [Frame(frames.GOAWAY, 0, 0, number(3) + number(0))]
    end.receive(request(5), data(5, message(b"x")), rst(5))  # Http2Connection.W9
    assert [what for what in end.told() if what[0] == "stream"] == [("stream", 1), ("stream", 3)]
    assert end.sent() == [] and not end.h2.is_drained
    end.opened[3].answer(HEAD, b"", END)
    end.receive(rst(1))
    assert end.h2.is_drained


def test_a_graceful_end_may_be_hurried() -> None:
    end = server().receive(request(1))
    end.h2.shut_down()
    end.h2.goaway()
    end.sent()
    end.receive(frames.ping(b"shutdown", is_ack=True))
    end.h2.shut_down()
    assert end.sent() == []


def test_nobody_else_can_make_us_go_away() -> None:
    end = server().receive(frames.ping(b"shutdown", is_ack=True), request(1))
    assert end.sent() == [] and end.told() == [("ping ack", b"shutdown"), ("stream", 1)]


def test_goaway_refuses_the_calls_that_nobody_looked_at() -> None:
    end = client().receive(settings(max_concurrent_streams=3))
    for _ in range(4):
        end.open()
    end.receive(goaway(LAST))
    assert end.told() == [("reset", 0, ErrorCode.REFUSED_STREAM), ("goaway", LAST, 0, b"")]
    with pytest.raises(StreamsExhausted):
        end.open()
    end.receive(goaway(3, ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings"))
    assert end.told() == [
        ("reset", 5, ErrorCode.REFUSED_STREAM),
        ("goaway", 3, ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings"),
    ]
    end.receive(headers(1, [*RESPONSE, *TRAILERS], end=True), headers(3, [*RESPONSE, *TRAILERS], end=True))
    assert end.h2.is_drained and end.told()[-1] == ("end", 3)


def test_goaway_never_takes_more_than_before() -> None:
    assert client().receive(goaway(3)).code(goaway(5)) is ErrorCode.PROTOCOL_ERROR
    end = server().receive(request(1))
    end.h2.goaway(last_id=LAST)
    end.h2.goaway()
    end.receive(request(3))
    end.h2.goaway(ErrorCode.INTERNAL_ERROR, "x" * 1000)
    end.h2.goaway(last_id=LAST)
    assert [f.payload[:4] for f in end.sent()] == [number(LAST), number(1), number(1), number(1)]


def test_a_client_that_goes_away_finishes_its_calls() -> None:
    end = server().receive(request(1), goaway(0))
    assert end.h2.peer_is_going_away and not end.h2.is_drained
    end.opened[1].send_headers(header_block([*RESPONSE, *TRAILERS]), end=True)
    assert end.h2.is_drained and end.told() == [("stream", 1), ("goaway", 0, 0, b"")]


# --- 5.4: the end of a connection -----------------------------------------------------------------------


def test_everybody_hears_that_the_connection_is_lost_once() -> None:
    end = client().receive(settings(max_concurrent_streams=2))
    for _ in range(3):
        end.open()
    end.fault(headers(2, RESPONSE))
    end.h2.lost("gone")
    assert end.told() == [("lost", "gone")] * 3
    end.h2.lost("gone again")
    assert end.told() == [] and not end.h2.streams and not end.h2.pending
    with pytest.raises(StreamsExhausted):
        end.open()
    end.h2.check()


def test_an_owner_may_end_the_connection() -> None:
    """What came in the same read is dropped: no call begins, nobody hears more, and no fault is raised."""
    end = server().receive(request(1), request(3))
    end.listeners[1].do = lambda message: end.h2.lost("over")
    end.receive(data(1, message(b"x")) + request(5) + data(3, message(b"y")) + rst(3) + window(0, 0))
    assert end.told() == [("stream", 1), ("stream", 3), ("lost", "over"), ("lost", "over")]
    assert end.messages(3) == [] and not end.h2.streams


def test_who_is_lost_may_end_its_neighbours() -> None:
    end = server().receive(request(1), request(3))
    end.listeners[1].on_lost = lambda why: end.opened[3].reset()  # type: ignore[method-assign]
    end.h2.lost("gone")
    assert end.told() == [("stream", 1), ("stream", 3)]


def test_a_fault_says_which_calls_were_looked_at() -> None:
    end = server().receive(request(1), request(3))
    end.h2.receive(b"")
    with pytest.raises(frames.ConnectionFault):
        end.receive(window(0, 0) + request(5))
    assert end.sent()[-1].payload[:4] == number(3)


def test_an_owner_that_raises_breaks_its_connection_and_nothing_else() -> None:
    def fail(message: bytes) -> None:
        raise KeyError("a fault of ours")

    end = server().receive(request(1))
    end.listeners[1].do = fail
    with pytest.raises(KeyError):
        end.receive(data(1, message(b"x")))
    assert end.h2.fault is not None and end.h2.fault.code is ErrorCode.INTERNAL_ERROR
    assert end.sent()[-1].kind == frames.GOAWAY
