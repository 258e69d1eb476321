"""RFC 9113, 3.4, 4 and 6: preface, frames, their lengths, padding, header blocks in one piece, SETTINGS,
PING."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest

from synchro.wire import frames
from synchro.wire.frames import ErrorCode
from synchro.wire.headers import header_block
from synchro.wire.streams import Http2Stream
from tests.unit.wire.wire_world import (
    KIB,
    REQUEST,
    End,
    Frame,
    client,
    data,
    frame,
    headers,
    message,
    number,
    request,
    rst,
    server,
    settings,
    window,
)

BLOCK = header_block(REQUEST)

# --- 3.4: the preface -----------------------------------------------------------------------------------


def test_a_server_says_what_it_takes_and_a_client_that_it_wants_no_pushes() -> None:
    greeting = server(greet=False).greeting
    assert greeting[3] == frames.SETTINGS
    assert frames.read_settings(greeting[9 : 9 + 24], from_server=True) == {
        frames.INITIAL_WINDOW_SIZE: 1024 * KIB,
        frames.MAX_FRAME_SIZE: 1024 * KIB,
        frames.MAX_HEADER_LIST_SIZE: 16 * KIB,
        frames.MAX_CONCURRENT_STREAMS: 1024,
    }
    assert greeting[33:] == frames.window_update(0, 16 * 1024 * KIB - 65535)
    greeting = client(greet=False).greeting
    assert greeting.startswith(frames.PREFACE)
    assert frames.read_settings(greeting[33:57], from_server=False)[frames.ENABLE_PUSH] == 0


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1"),
        (b"POST /synchro.v1.Data/Execute HTTP/1.1\r\n", "HTTP/1"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"\x00", "no HTTP/2 preface"),
        (frames.PREFACE[:-1] + b"x" + settings(), "no HTTP/2 preface"),
    ],
)
def test_who_speaks_something_else_is_told_so_at_the_first_bytes(noise: bytes, text: str) -> None:
    fault = server(greet=False).fault(noise)
    assert fault.code is ErrorCode.PROTOCOL_ERROR and text in fault.why


def test_the_first_frame_is_settings() -> None:
    for piece in (frames.ping(bytes(8)), request(1), frames.SETTINGS_ACK):
        assert server(greet=False).code(frames.PREFACE + piece) is ErrorCode.PROTOCOL_ERROR
        assert client(greet=False).code(piece) is ErrorCode.PROTOCOL_ERROR


def test_a_preface_may_come_byte_by_byte() -> None:
    end = server(greet=False)
    for byte in frames.PREFACE + settings() + request(1) + data(1, message(b"x" * 300)):
        end.receive(bytes([byte]))
    assert end.messages() == [b"x" * 300]


# --- 4.2: lengths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece",
    [
        frame(frames.PRIORITY, 0, 1, bytes(4)),
        rst(1)[:-1].replace(b"\0\0\4", b"\0\0\3", 1),
        frame(frames.RST_STREAM, 0, 1, bytes(5)),
        frame(frames.SETTINGS, 0, 0, bytes(5)),
        frame(frames.SETTINGS, frames.ACK, 0, bytes(6)),
        frame(frames.PING, 0, 0, bytes(7)),
        frame(frames.GOAWAY, 0, 0, bytes(7)),
        frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)),
        frame(frames.WINDOW_UPDATE, 0, 1, bytes(5)),
        frame(frames.DATA, frames.PADDED, 1, b""),
        frame(frames.HEADERS, frames.PADDED | 0x4, 3, b""),
        frame(frames.HEADERS, frames.HAS_PRIORITY | 0x4, 3, bytes(4)),
        frame(frames.HEADERS, frames.HAS_PRIORITY | frames.PADDED | 0x4, 3, bytes(5)),
    ],
)
def test_a_frame_of_a_wrong_length_ends_the_connection(piece: bytes) -> None:
    assert server().receive(request(1)).code(piece) is ErrorCode.FRAME_SIZE_ERROR


def test_a_frame_may_be_as_long_as_we_say() -> None:
    largest = message(bytes(1024 * KIB - 5))
    end = server().receive(request(1), data(1, largest))
    assert len(end.messages()[0]) == 1024 * KIB - 5
    head = frames.HEAD.pack((1024 * KIB + 1) << 8, 0, 1)
    assert end.code(head) is ErrorCode.FRAME_SIZE_ERROR  # before its payload comes


# --- 6.1, 6.2: padding and priority ---------------------------------------------------------------------


def test_padding_and_priority_are_left_out() -> None:
    padded = frame(frames.DATA, frames.PADDED, 1, b"\3" + message(b"ab") + bytes(3))
    both = frames.PADDED | frames.HAS_PRIORITY | frames.END_HEADERS
    end = server().receive(frame(frames.HEADERS, both, 1, b"\2" + number(7) + b"\x10" + BLOCK + bytes(2)))
    end.receive(padded, frame(frames.DATA, frames.PADDED | frames.END_STREAM, 1, b"\0"))
    assert end.messages() == [b"ab"] and end.told() == [("stream", 1), ("end", 1)]


@pytest.mark.parametrize("padding", [1, 4, 255])
def test_padding_that_is_longer_than_its_frame_ends_the_connection(padding: int) -> None:
    payload = bytes([padding]) + bytes(padding - 1)
    end = server().receive(request(1))
    assert end.code(frame(frames.DATA, frames.PADDED, 1, payload)) is ErrorCode.PROTOCOL_ERROR
    piece = frame(frames.HEADERS, frames.PADDED | 0x4, 1, payload)
    assert server().code(piece) is ErrorCode.PROTOCOL_ERROR


def test_padding_counts_as_data() -> None:
    """6.9.1: flow control counts the whole payload."""
    end = server(stream_window_bytes=65_535).receive(request(1))
    for _ in range(4):
        end.receive(frame(frames.DATA, frames.PADDED, 1, b"\xff" + message(b"") + bytes(255)))
    assert end.h2.streams[1]._room == 65_535 - 4 * (1 + 5 + 255)


# --- 4.3, 6.10: header blocks in one piece --------------------------------------------------------------


def test_a_block_may_come_in_parts() -> None:
    end = server()
    end.receive(headers(1, BLOCK[:10], end=True, flags=0), frame(frames.CONTINUATION, 0, 1, BLOCK[10:11]))
    end.receive(frame(frames.CONTINUATION, 0, 1, b""), frame(frames.CONTINUATION, 0x4, 1, BLOCK[11:]))
    assert end.told() == [("stream", 1), ("end", 1)]


@pytest.mark.parametrize(
    "piece",
    [
        frames.ping(bytes(8)),
        settings(),
        data(1, b""),
        headers(1, BLOCK),
        frame(0xEE, 0, 0, b""),
        frame(frames.CONTINUATION, 0x4, 3, BLOCK[10:]),
    ],
)
def test_nothing_comes_between(piece: bytes) -> None:
    """Http2Connection.W7"""
    end = server().receive(headers(1, BLOCK[:10], flags=0))
    assert end.code(piece) is ErrorCode.PROTOCOL_ERROR


def test_continuation_of_nothing_ends_the_connection() -> None:
    piece = frame(frames.CONTINUATION, 0x4, 1, b"")
    assert server().code(piece) is ErrorCode.PROTOCOL_ERROR
    assert server().receive(request(1)).code(piece) is ErrorCode.PROTOCOL_ERROR


# --- 6.5: SETTINGS --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"initial_window_size": 2**31}, ErrorCode.FLOW_CONTROL_ERROR),
        ({"max_frame_size": 16_383}, ErrorCode.PROTOCOL_ERROR),
        ({"max_frame_size": 2**24}, ErrorCode.PROTOCOL_ERROR),
        ({"enable_push": 2}, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_values_that_are_not_legal_end_the_connection(values: dict[str, int], code: ErrorCode) -> None:
    assert server().code(settings(**values)) is code
    assert client().code(settings(**values)) is code


def test_a_server_cannot_ask_for_pushes() -> None:
    """7.2.1 of RFC 9113's 6.5.2: a client takes any other value than 0 as an error."""
    assert client().code(settings(enable_push=1)) is ErrorCode.PROTOCOL_ERROR
    server().receive(settings(enable_push=1))


def test_settings_are_acknowledged_and_unknown_ones_ignored() -> None:
    end = server().receive(frame(frames.SETTINGS, 0, 0, frames.SETTING.pack(0xABCD, 7)), settings())
    assert end.sent() == [Frame(frames.SETTINGS, frames.ACK, 0, b"")] * 2
    end.receive(frames.SETTINGS_ACK)
    assert end.sent() == []


def test_the_last_of_equal_names_counts() -> None:
    twice = frames.SETTING.pack(frames.MAX_FRAME_SIZE, 20_000) + frames.SETTING.pack(
        frames.MAX_FRAME_SIZE, 30_000
    )
    end = server().receive(frame(frames.SETTINGS, 0, 0, twice))
    assert end.h2.peer_frame_bytes_max == 30_000


def test_frames_are_as_long_as_the_peer_takes() -> None:
    end = server().receive(settings(initial_window_size=2**20, max_frame_size=20_000), request(1, end=True))
    end.receive(frame(frames.WINDOW_UPDATE, 0, 0, number(2**20)))
    end.sent()
    stream = end.opened[1]
    stream.answer(header_block([(b":status", b"200")]), bytes(50_000), header_block([(b"x", b"y" * 45_000)]))
    sent = end.sent()
    assert [(f.kind, f.flags, len(f.payload)) for f in sent] == [
        (frames.HEADERS, 0x4, 1),
        (frames.DATA, 0, 20_000),
        (frames.DATA, 0, 20_000),
        (frames.DATA, 0, 10_005),
        (frames.HEADERS, 0x1, 20_000),
        (frames.CONTINUATION, 0, 20_000),
        (frames.CONTINUATION, 0x4, len(header_block([(b"x", b"y" * 45_000)])) - 40_000),
    ]


@pytest.mark.parametrize("is_unary", [True, False])
def test_a_smaller_table_is_acknowledged_once_and_none_is_ever_used(is_unary: bool) -> None:
    """RFC 7541, 4.2: the first block after the change says so, and says that the table has no size."""
    end = server().receive(settings(header_table_size=2**32 - 1), settings(header_table_size=100))
    blocks = []
    for stream_id in (1, 3):
        end.receive(
            request(stream_id, end=True), settings(header_table_size=4096), settings(header_table_size=0)
        )
        if is_unary:
            end.opened[stream_id].answer(BLOCK, b"", BLOCK)
        else:
            end.opened[stream_id].send_headers(BLOCK)
            end.opened[stream_id].end(BLOCK)
        blocks += [f.payload for f in end.sent() if f.kind == frames.HEADERS]
    assert blocks == [b"\x20" + BLOCK, BLOCK, BLOCK, BLOCK]
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    assert [decoder.decode(block, raw=True) for block in blocks] == [REQUEST] * 4


def test_a_client_acknowledges_a_smaller_table_too() -> None:
    end = client().receive(settings(header_table_size=0))
    end.open()
    end.open()
    sent = end.sent()
    assert [f.payload for f in sent if f.kind == frames.HEADERS] == [b"\x20" + BLOCK, BLOCK]


@pytest.mark.parametrize("end", [server, client])
def test_the_least_of_two_tables_in_one_frame_is_acknowledged(end: Callable[[], End]) -> None:
    """RFC 7541, 4.2: of changes between two blocks the smallest must be said; values count in their order
    (6.5.3)."""
    sizes = [frames.SETTING.pack(frames.HEADER_TABLE_SIZE, size) for size in (100, 4096)]
    it = end().receive(frame(frames.SETTINGS, 0, 0, b"".join(sizes)))
    _begun(it)
    _begun(it)
    blocks = [f.payload for f in it.sent() if f.kind == frames.HEADERS]
    assert blocks == [b"\x20" + BLOCK, BLOCK]


@pytest.mark.parametrize("end", [server, client])
def test_what_lies_behind_an_acknowledgement_keeps_to_it(end: Callable[[], End]) -> None:
    """6.5.3: what was cut by the former values lies in front of it, though both are in one output."""
    it = end().receive(settings(initial_window_size=2**20, max_frame_size=20_000), window(0, 2**20))
    stream = _begun(it)
    it.sent()
    stream.send_message(bytes(30_000))
    it.receive(settings(initial_window_size=40_000, max_frame_size=16_384, header_table_size=0))
    stream.send_message(bytes(30_000))
    _begun(it)
    it.receive(settings(initial_window_size=2**20))
    table = len(b"\x20" + BLOCK)
    assert [(f.kind, len(f.payload)) for f in it.sent()] == [
        *((frames.DATA, 20_000), (frames.DATA, 10_005)),
        *((frames.SETTINGS, 0), (frames.DATA, 9_995), (frames.HEADERS, table)),
        *((frames.SETTINGS, 0), (frames.DATA, 16_384), (frames.DATA, 3_626)),
    ]


def test_calls_that_new_settings_let_begin_lie_behind_their_acknowledgement() -> None:
    end = client().receive(settings(max_concurrent_streams=1))
    end.open()
    end.open()
    end.sent()
    end.receive(settings(max_concurrent_streams=2, max_frame_size=20_000), settings(max_concurrent_streams=1))
    end.open()
    assert [(f.kind, f.stream_id) for f in end.sent()] == [
        *((frames.SETTINGS, 0), (frames.HEADERS, 3), (frames.SETTINGS, 0)),
    ]


def _begun(end: End) -> Http2Stream:
    """A stream whose first header block from here is sent."""
    if end.h2.is_client:
        return end.open()
    stream_id = end.h2.newest_call + 2 if end.h2.newest_call else 1
    end.receive(request(stream_id))
    end.opened[stream_id].send_headers(BLOCK)
    return end.opened[stream_id]


# --- 6.7: PING ------------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_what_it_said() -> None:
    for end in (server(), client()):
        end.receive(frames.ping(b"12345678"))
        assert end.sent() == [Frame(frames.PING, frames.ACK, 0, b"12345678")]
        end.h2.ping(b"abcdefgh")
        assert end.sent() == [Frame(frames.PING, 0, 0, b"abcdefgh")]
        end.receive(frames.ping(b"abcdefgh", is_ack=True))
        assert end.sent() == [] and end.told() == [("ping ack", b"abcdefgh")]
