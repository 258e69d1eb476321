"""RFC 9113, 5.1 and 5.1.1: the table at the top of `connection` is what happens, cell by cell."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synchro.wire import connection, frames
from synchro.wire.frames import ConnectionFault, ErrorCode
from synchro.wire.headers import header_block
from tests.unit.wire.wire_world import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    End,
    client,
    data,
    frame,
    headers,
    message,
    number,
    request,
    resets,
    rst,
    server,
    window,
)

FRAMES = {
    "DATA": data(1, message(b"x")),
    "HEADERS": headers(1, TRAILERS, end=True),
    "RST_STREAM": rst(1),
    "WINDOW_UPDATE": window(1, 100),
}


def read_table() -> list[tuple[str, str, str]]:
    """(state, frame, what comes of it)"""
    lines = (connection.__doc__ or "").splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["state", "DATA"])
    head = lines[start]
    columns = [head.index(name) for name in FRAMES]
    cells = []
    for line in lines[start + 1 : lines.index("", start)]:
        for name, left, right in zip(FRAMES, columns, [*columns[1:], None], strict=True):
            cells.append((line[: columns[0]].strip(), name, line[left:right].strip().partition(" (")[0]))
    return cells


def server_in(state: str) -> End:
    end = server()
    if state == "idle":
        return end
    end.receive(request(1, end=state in ("half closed remote", "closed")))
    if state == "reset by this side":
        end.opened[1].reset()
    elif state == "closed":
        end.opened[1].send_headers(header_block(TRAILERS), end=True)
    assert state != "half closed local", "servers have none"
    end.sent(), end.told()
    return end


def client_in(state: str) -> End:
    end = client()
    if state == "idle":
        return end
    stream = end.open(end=state in ("half closed local", "closed"))
    end.receive(headers(1, RESPONSE))
    if state == "reset by this side":
        stream.reset()
    elif state == "closed":
        end.receive(headers(1, TRAILERS, end=True))
    assert state != "half closed remote", "clients have none: the call is over"
    end.sent(), end.told()
    return end


def outcome(end: End, piece: bytes) -> str:
    """The word of the table for what these bytes do to stream 1."""
    room = end.opened[1].send_window if 1 in end.opened else 0
    try:
        end.receive(piece)
    except ConnectionFault as fault:
        return f"{fault.code.name}!"
    told, sent = end.told(), end.sent()
    if told[:1] == [("stream", 1)]:
        return "begins it"
    if resets(sent).get(1, ErrorCode.NO_ERROR) is not ErrorCode.NO_ERROR:
        assert told == [("reset", 1, resets(sent)[1])]
        return resets(sent)[1].name
    if told:
        return {"headers": "trailers", "reset": "ends it"}[told[0][0]]
    if 1 in end.listeners and end.messages():
        return "message"
    assert not sent
    return "window" if 1 in end.opened and end.opened[1].send_window != room else "ignored"


@pytest.mark.parametrize(("state", "name", "word"), read_table())
def test_the_table_of_states_is_what_happens(state: str, name: str, word: str) -> None:
    assert len(read_table()) == 24
    piece = FRAMES[name]
    if state != "half closed local":
        opening = request(1) if (state, name) == ("idle", "HEADERS") else piece
        assert outcome(server_in(state), opening) == word
    if state != "half closed remote":
        wanted = "PROTOCOL_ERROR!" if (state, name) == ("idle", "HEADERS") else word
        assert outcome(client_in(state), piece) == wanted


@pytest.mark.parametrize("state", ["idle", "open", "half closed remote", "reset by this side", "closed"])
@pytest.mark.parametrize("kind", [frames.PRIORITY, 10, 0xEE], ids=["PRIORITY", "10", "238"])
def test_priority_and_unknown_frames_mean_nothing(state: str, kind: int) -> None:
    """5.1, 5.5: frames that say nothing here are dropped in every state."""
    end = server_in(state)
    end.receive(frame(kind, 0xFF & ~0x8, 1, bytes(5)))
    assert (end.sent(), end.told()) == ([], [])


@pytest.mark.parametrize("make", [server, client])
def test_nothing_is_pushed(make: Callable[[], End]) -> None:
    """8.4: a client may not push, and a server was told not to."""
    end = make()
    assert end.code(frame(frames.PUSH_PROMISE, 0x4, 1, number(2))) is ErrorCode.PROTOCOL_ERROR


def test_the_first_response_must_have_a_head() -> None:
    """8.1: DATA in front of it, or trailers' fields alone, are no response."""
    end = client()
    end.open()
    end.sent()
    end.receive(data(1, message(b"x")))
    assert resets(end.sent()) == {1: ErrorCode.PROTOCOL_ERROR}
    assert end.told() == [("reset", 1, ErrorCode.PROTOCOL_ERROR)]


def test_a_second_head_is_a_fault_of_the_stream() -> None:
    """8.1: what follows the head and has no END_STREAM is no trailers."""
    end = server().receive(request(1))
    end.receive(headers(1, TRAILERS))
    assert resets(end.sent()) == {1: ErrorCode.PROTOCOL_ERROR}
    end = client()
    end.open()
    end.sent()
    end.receive(headers(1, RESPONSE), headers(1, RESPONSE))
    assert resets(end.sent()) == {1: ErrorCode.PROTOCOL_ERROR}


def test_informational_responses_pass() -> None:
    """8.1: any number of 1xx may come first; 101 means nothing in HTTP/2, and none may be the end."""
    end = client()
    end.open(end=True)
    early = [(b":status", b"103"), (b"link", b"x")]
    end.receive(headers(1, early), headers(1, early), headers(1, RESPONSE))
    assert end.told() == [("headers", 1, tuple(RESPONSE))]
    for fields, ends in ([(b":status", b"101")], False), ([(b":status", b"100")], True):
        end = client()
        end.open(end=True)
        end.receive(headers(1, fields, end=ends))
        assert resets(end.sent()) == {1: ErrorCode.PROTOCOL_ERROR}


# --- 5.1.1: stream ids ----------------------------------------------------------------------------------


def test_ids_of_clients_are_odd_and_rise() -> None:
    assert server().code(request(2)) is ErrorCode.PROTOCOL_ERROR
    assert server().code(request(0)) is ErrorCode.PROTOCOL_ERROR
    assert server().receive(request(5)).code(request(3)) is ErrorCode.STREAM_CLOSED
    assert client().code(headers(2, RESPONSE)) is ErrorCode.PROTOCOL_ERROR


def test_ids_may_be_left_out() -> None:
    end = server().receive(request(1), request(1001), request(2**31 - 1))
    assert list(end.h2.streams) == [1, 1001, 2**31 - 1]
    assert end.code(data(1003, b"x")) is ErrorCode.STREAM_CLOSED


def test_the_reserved_bit_means_nothing() -> None:
    """4.1: it must be ignored when receiving."""
    end = server().receive(headers(1 | 1 << 31, REQUEST), data(1 | 1 << 31, message(b"x")))
    assert end.messages() == [b"x"]


@pytest.mark.parametrize(
    "piece",
    [
        frame(frames.DATA, 0, 0, b"x"),
        frame(frames.HEADERS, 0x4, 0, header_block(REQUEST)),
        frame(frames.PRIORITY, 0, 0, bytes(5)),
        frame(frames.RST_STREAM, 0, 0, bytes(4)),
        frame(frames.CONTINUATION, 0x4, 0, b""),
        frame(frames.SETTINGS, 0, 1, b""),
        frame(frames.PING, 0, 1, bytes(8)),
        frame(frames.GOAWAY, 0, 1, bytes(8)),
    ],
    ids=lambda piece: str(piece[3]),
)
def test_a_frame_stands_on_the_stream_it_is_for(piece: bytes) -> None:
    """6.1 to 6.10: stream 0 is the connection, and only that."""
    for end in (server(), client()):
        assert end.code(piece) is ErrorCode.PROTOCOL_ERROR
