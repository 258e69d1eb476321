"""RFC 9113, 8.2 and 8.3, and HPACK: which lists are malformed, how blocks are made and remembered."""

from __future__ import annotations

from dataclasses import replace

import hpack
import pytest

from synchro.wire import frames
from synchro.wire.frames import ConnectionFault, ErrorCode
from synchro.wire.headers import Field, HeaderDecoder, HeaderList, header_block
from synchro.wire.limits import WireLimits
from tests.unit.wire.wire_world import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    client,
    data,
    headers,
    message,
    request,
    resets,
    server,
)


def without(name: bytes) -> list[Field]:
    return [field for field in REQUEST if field[0] != name]


def changed(name: bytes, value: bytes) -> list[Field]:
    return [(key, value if key == name else old) for key, old in REQUEST]


MALFORMED_ANYWHERE: list[Field] = [
    (b"Upper", b"x"),
    (b"uPper", b"x"),
    (b"", b"x"),
    (b"with space", b"x"),
    (b"tab\t", b"x"),
    (b"co:lon", b"x"),
    (b"\x7f", b"x"),
    (b"\xc3\xbc", b"x"),
    (b"x", b"new\nline"),
    (b"x", b"return\r"),
    (b"x", b"nul\0"),
    (b"connection", b"close"),
    (b"proxy-connection", b"x"),
    (b"keep-alive", b"x"),
    (b"transfer-encoding", b"chunked"),
    (b"upgrade", b"h2c"),
    (b"te", b"gzip"),
    (b":path", b"/late"),
]
MALFORMED_REQUESTS: list[list[Field]] = [
    *([*REQUEST, field] for field in MALFORMED_ANYWHERE),
    [],
    without(b":method"),
    without(b":scheme"),
    without(b":path"),
    changed(b":path", b""),
    [REQUEST[0], *REQUEST],
    [(b":status", b"200"), *REQUEST],
    [(b":unknown", b"x"), *REQUEST],
    [(b":", b"x"), *REQUEST],
    [(b":method", b"CONNECT"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"x")],
    [(b":method", b"CONNECT")],
]
MALFORMED_RESPONSES: list[list[Field]] = [
    *([*RESPONSE, field] for field in MALFORMED_ANYWHERE),
    [],
    RESPONSE[1:],
    [RESPONSE[0], *RESPONSE],
    [(b":path", b"/"), *RESPONSE],
    [(b":status", b"20")],
    [(b":status", b"2xx")],
    [(b":status", b"")],
]
MALFORMED_TRAILERS: list[list[Field]] = [
    *([*TRAILERS, field] for field in MALFORMED_ANYWHERE),
    [],
    [(b":status", b"200"), *TRAILERS],
]


@pytest.mark.parametrize("fields", MALFORMED_REQUESTS, ids=str)
def test_a_malformed_request_is_reset_and_nobody_hears_of_it(fields: list[Field]) -> None:
    """8.1.1: a fault of the stream; the connection and its calls go on."""
    end = server().receive(request(1), headers(3, fields), data(3, message(b"x"), end=True))
    assert resets(end.sent()) == {3: ErrorCode.PROTOCOL_ERROR}
    end.receive(data(1, message(b"still here")))
    assert end.told() == [("stream", 1)] and end.messages(1) == [b"still here"]


@pytest.mark.parametrize("fields", MALFORMED_RESPONSES, ids=str)
def test_a_malformed_response_is_reset(fields: list[Field]) -> None:
    end = client()
    end.open()
    end.sent()
    end.receive(headers(1, fields))
    assert resets(end.sent()) == {1: ErrorCode.PROTOCOL_ERROR}
    assert end.told() == [("reset", 1, ErrorCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize("fields", MALFORMED_TRAILERS, ids=str)
def test_malformed_trailers_are_reset(fields: list[Field]) -> None:
    end = client()
    end.open()
    end.sent()
    end.receive(headers(1, RESPONSE), headers(1, fields, end=True))
    assert resets(end.sent()) == {1: ErrorCode.PROTOCOL_ERROR}
    assert end.told()[-1] == ("reset", 1, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "fields",
    [
        [*REQUEST, (b"te", b"trailers"), (b"x-bin", b"AAE="), (b"x", b" spaces pass "), (b"x", b"\x80\xff")],
        [(b":method", b"GET"), (b":scheme", b"x"), (b":path", b"*")],
        [(b":method", b"CONNECT"), (b":authority", b"x:1")],
    ],
)
def test_what_is_legal_comes_in(fields: list[Field]) -> None:
    """gRPC sends spaces around values (`grpc-message`), so they pass; what is no gRPC is the next layer's."""
    assert server().receive(headers(1, fields)).told() == [("stream", 1)]


# --- blocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 16_383, 16_384, 70_000])
def test_a_block_is_read_by_others_as_it_was_meant(size: int) -> None:
    fields = [*REQUEST, (b":status", b"404"), (b"user-agent", b"x"), (b"x" * max(1, size), b"y" * size)]
    assert hpack.Decoder(max_header_list_size=10**6).decode(header_block(fields), raw=True) == fields


def test_equal_blocks_are_one_object_until_the_table_changes() -> None:
    encoder = hpack.Encoder()
    decoder = HeaderDecoder(WireLimits(), is_client=False)

    def receive(*fields: Field) -> HeaderList:
        block = encoder.encode(list(fields))
        return decoder.known.get(block) or decoder.decode(block)

    first = receive(*REQUEST)  # goes into the table
    assert not decoder.known
    again = receive(*REQUEST)
    assert again is not first and again.fields == first.fields == tuple(REQUEST)
    assert receive(*REQUEST) is again
    receive(*REQUEST, (b"new", b"value"))
    third = receive(*REQUEST)
    assert third is not again and third.fields == first.fields  # other indexes, the same fields
    assert receive(*REQUEST) is third


def test_a_full_table_that_changes_is_noticed() -> None:
    """One entry goes and one comes: the table is as long as before, and an index means another field."""
    decoder = HeaderDecoder(WireLimits(), is_client=False)
    decoder.decode(b"\x3f\x09")  # a table of 40 bytes: room for one entry
    decoder.decode(b"\x40\x01x\x011")
    assert decoder.decode(b"\xbe").fields == ((b"x", b"1"),) and b"\xbe" in decoder.known
    decoder.decode(b"\x40\x01x\x012")
    assert not decoder.known and decoder.decode(b"\xbe").fields == ((b"x", b"2"),)


def test_what_is_known_begins_anew_with_the_table() -> None:
    decoder = HeaderDecoder(replace(WireLimits(), known_bytes_max=200), is_client=False)
    first, second = header_block([(b"x", b"y" * 100)]), header_block([(b"z", b"y" * 100)])
    decoder.decode(first)
    decoder.decode(b"\x40\x01x\x011")
    decoder.decode(header_block([(b"a", b"b")]))
    decoder.decode(second)
    assert len(decoder.known) == 2


def test_a_block_that_empties_the_table_is_not_remembered() -> None:
    """Its second time must shrink the table again: what was added meanwhile has other indexes."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder(WireLimits(), is_client=False)
    decoder.decode(encoder.encode([(b"a", b"b")]))
    encoder.header_table_size = 0
    block = encoder.encode([(b"c", b"d")])
    assert decoder.decode(block).fields == ((b"c", b"d"),)
    assert block not in decoder.known
    decoder.decode(block)
    assert block in decoder.known  # nothing to empty any more


@pytest.mark.parametrize(
    "block", [b"\xff", b"\x80", b"\xbe", b"\x00\x85", b"\x40\x01", b"\x3f\xff\xff\xff\xff\x0f"]
)
def test_a_broken_block_ends_the_connection(block: bytes) -> None:
    """4.3: the table is lost with it, so no later block can be read."""
    assert server().code(headers(1, block)) is ErrorCode.COMPRESSION_ERROR
    assert client().code(headers(1, block)) is ErrorCode.COMPRESSION_ERROR


def test_blocks_of_streams_that_are_over_are_read_all_the_same() -> None:
    """4.3: the peer's next block builds on them."""
    encoder = hpack.Encoder()
    end = server().receive(headers(1, encoder.encode(REQUEST)))
    end.opened[1].reset()
    end.receive(headers(1, encoder.encode([(b"new", b"field")]), end=True))
    end.receive(headers(3, encoder.encode([*REQUEST, (b"new", b"field")])))
    assert end.told() == [("stream", 1), ("stream", 3)]


def test_one_entry_that_stands_for_much_is_caught_while_it_is_read() -> None:
    """The bomb of CVE-2016-6581: a table entry of 4,000 bytes, and a byte for each time it is named."""
    decoder = HeaderDecoder(WireLimits(), is_client=False)
    decoder.decode(hpack.Encoder().encode([(b"x", b"y" * 4000)], huffman=False))
    with pytest.raises(ConnectionFault) as raised:
        decoder.decode(b"\xbe" * 10_000)
    assert raised.value.code is ErrorCode.COMPRESSION_ERROR


def test_names_of_frames_and_codes_are_those_of_the_standard() -> None:
    assert [frames.DATA, frames.CONTINUATION, ErrorCode.HTTP_1_1_REQUIRED] == [0, 9, 0xD]
    assert ErrorCode.of(0xE) is ErrorCode.INTERNAL_ERROR  # 7: unknown codes mean nothing special
