"""What gRPC says in header fields: time-outs, statuses, metadata, and which requests are refused without a
look."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.wire.frames import ErrorCode
from synchro.wire.grpc_call import (
    OK,
    OK_TRAILERS,
    RESPONSE_HEAD,
    BadMetadata,
    Request,
    Status,
    StatusCode,
    decode_message,
    decode_metadata,
    encode_message,
    encode_metadata,
    format_timeout,
    parse_timeout,
    read_request,
    read_status,
    refuse,
    request_block,
    status_of_reset,
    trailers,
)
from synchro.wire.headers import Field, HeaderList
from tests.unit.wire.wire_world import REQUEST, RESPONSE


def fields_of(block: bytes) -> list[Field]:
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True)]


def asked(*extra: Field, **changed: bytes) -> Request:
    """REQUEST with other values (underscores are dashes; `method` is `:method`), or without them (empty)."""
    names = {name.strip(b":").replace(b"-", b"_").decode(): name for name, _ in REQUEST}
    new = {names[name]: value for name, value in changed.items()}
    fields = [(name, new.get(name, value)) for name, value in REQUEST]
    return read_request(HeaderList((*(f for f in fields if f[1]), *extra), is_from_client=True))


def status_in(block: bytes) -> Status:
    return read_status(HeaderList(tuple(fields_of(block)), is_from_client=False))


# --- time-outs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"99999999m", 99999.999), (b"5u", 5e-6), (b"0n", 0.0)],
)
def test_time_outs_have_a_number_and_a_unit(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"5", b"S", b"123456789S", b"-5S", b"1.5S", b"5s", b"5S ", b" 5S", b"5SS"]
)
def test_a_malformed_time_out_is_none(value: bytes) -> None:
    assert parse_timeout(value) is None
    refusal = asked((b"grpc-timeout", value)).refusal
    assert refusal is not None and status_in(refusal).code is StatusCode.INTERNAL


@given(st.floats(min_value=0, max_value=1e15, allow_nan=False))
def test_a_time_out_is_never_shorter_than_asked_and_hardly_longer(seconds: float) -> None:
    value = format_timeout(seconds)
    read = parse_timeout(value)
    asked_for = max(1e-6, min(seconds, 99_999_999 * 3600.0))
    assert read is not None and len(value) <= 9
    assert asked_for * (1 - 1e-9) - 1e-9 <= read
    if asked_for < 99_999_999:  # beyond, in hours
        assert read <= asked_for * 1.0101 + 2e-6


def test_equal_time_outs_are_equal_although_the_clock_goes_on() -> None:
    assert format_timeout(4.9991) == format_timeout(4.9971) == b"5S"
    assert format_timeout(0.25) == b"250m" and format_timeout(0.0001234) == b"124u"
    assert format_timeout(0) == format_timeout(-1) == b"1u"
    assert format_timeout(float("inf")) == b"99999999H"


# --- statuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", b""),
        ('plain text, with ~ and "quotes"', b'plain text, with ~ and "quotes"'),
        ("100%", b"100%25"),
        ("a\nb\x00\x7f", b"a%0Ab%00%7F"),
        ("naïve ☃", b"na%c3%afve %e2%98%83"),
        (" at the ends ", b"%20at the ends%20"),
        ("  ", b"%20%20"),
    ],
)
def test_messages_are_percent_encoded(text: str, value: bytes) -> None:
    assert encode_message(text).lower() == value.lower() and decode_message(value) == text


@settings(max_examples=50)
@given(st.text())
def test_any_message_comes_back(text: str) -> None:
    value = encode_message(text)
    assert all(0x20 <= byte < 0x7F for byte in value)
    assert decode_message(value) == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def test_a_broken_message_stays_visible() -> None:
    assert decode_message(b"50% of %zz %c3") == "50% of %zz \ufffd"
    assert encode_message("\ud800").lower() == b"%ed%a0%80"


def test_a_status_goes_out_and_comes_back() -> None:
    assert read_status(HeaderList(((b"grpc-status", b"0"),), is_from_client=False)) is OK
    details: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", b"\0\xff"), ("retry-after", "1")]
    block = trailers(StatusCode.NOT_FOUND, "no such space: 100%", details)
    assert status_in(block) == Status(StatusCode.NOT_FOUND, "no such space: 100%", tuple(details))
    whole = fields_of(trailers(StatusCode.ABORTED, whole=True))
    assert whole == [*RESPONSE, (b"grpc-status", b"10")]
    assert fields_of(OK_TRAILERS) == [(b"grpc-status", b"0")] and fields_of(RESPONSE_HEAD) == RESPONSE


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([(b"grpc-status", b"17")], StatusCode.UNKNOWN),
        ([(b"grpc-status", b"0169")], StatusCode.UNKNOWN),
        ([(b"grpc-status", b"x")], StatusCode.UNKNOWN),
        ([(b"grpc-status", b"")], StatusCode.UNKNOWN),
        ([(b"grpc-status", b"9" * 5000)], StatusCode.UNKNOWN),
        ([(b":status", b"200")], StatusCode.UNKNOWN),
        ([(b":status", b"404")], StatusCode.UNIMPLEMENTED),
        ([(b":status", b"503")], StatusCode.UNAVAILABLE),
        ([(b":status", b"418")], StatusCode.UNKNOWN),
        ([(b":status", b"503"), (b"grpc-status", b"5")], StatusCode.NOT_FOUND),
        ([(b"grpc-status", b"0"), (b"x-bin", b"!")], StatusCode.INTERNAL),
    ],
)
def test_trailers_of_others_make_some_status(fields: list[Field], code: StatusCode) -> None:
    assert read_status(HeaderList(tuple(fields), is_from_client=False)).code is code


def test_codes_of_resets() -> None:
    assert status_of_reset(ErrorCode.REFUSED_STREAM).code is StatusCode.UNAVAILABLE
    assert status_of_reset(ErrorCode.CANCEL).code is StatusCode.CANCELLED
    assert status_of_reset(ErrorCode.PROTOCOL_ERROR).code is StatusCode.INTERNAL
    assert status_of_reset(ErrorCode.ENHANCE_YOUR_CALM).code is StatusCode.RESOURCE_EXHAUSTED


# --- metadata -------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.from_regex(r"[a-z0-9_.]{1,20}", fullmatch=True), st.from_regex(r"[ -~]*", fullmatch=True)
            ),
            st.tuples(st.from_regex(r"[a-z0-9_.]{1,20}-bin", fullmatch=True), st.binary()),
        )
    )
)
def test_metadata_comes_back(metadata: list[tuple[str, str | bytes]]) -> None:
    metadata = [(key, value) for key, value in metadata if key not in ("te", "host", "upgrade", "connection")]
    assert list(decode_metadata(encode_metadata(metadata))) == metadata


@pytest.mark.parametrize(
    "pair",
    [
        ("Upper", "x"),
        ("", "x"),
        ("a b", "x"),
        (":path", "x"),
        ("grpc-status", "0"),
        ("te", "x"),
        ("content-type", "x"),
        ("connection", "x"),
        ("x", "line\n"),
        ("x", "ü"),
        ("x-bin", "text"),
        ("ü", "x"),
    ],
)
def test_what_cannot_be_sent_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(BadMetadata):
        encode_metadata([pair])


def test_binary_metadata_comes_in_every_spelling() -> None:
    """With and without padding, and several values in one field."""
    fields = [(b"a-bin", b"AAE="), (b"b-bin", b"AAE"), (b"c-bin", b"AA,AQ=="), (b"d-bin", b"")]
    values = [("a-bin", b"\0\1"), ("b-bin", b"\0\1"), ("c-bin", b"\0"), ("c-bin", b"\1"), ("d-bin", b"")]
    assert list(decode_metadata(fields)) == values


# --- requests -------------------------------------------------------------------------------------------


def test_a_request_is_read_once_for_equal_lists() -> None:
    extra = ((b"grpc-timeout", b"5S"), (b"x-request-id", b"7"), (b"grpc-accept-encoding", b"gzip"))
    headers = HeaderList((*REQUEST, *extra), is_from_client=True)
    request = read_request(headers)
    assert request == Request(b"/synchro.v1.Data/Execute", 5.0, (("x-request-id", "7"),), None)
    assert read_request(headers) is request


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"method": b"GET"}, b"405"),
        ({"content_type": b"text/html"}, b"415"),
        ({"content_type": b"application/grpc-web"}, b"415"),
        ({"content_type": b""}, b"415"),
    ],
)
def test_what_is_no_grpc_gets_an_http_status(changed: dict[str, bytes], status: bytes) -> None:
    refusal = asked(**changed).refusal
    assert refusal is not None and (b":status", status) in fields_of(refusal)


@pytest.mark.parametrize(
    "kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc; charset=x"]
)
def test_content_types_of_grpc(kind: bytes) -> None:
    assert asked(content_type=kind).refusal is None


def test_compression_is_refused_and_the_client_told_what_is_accepted() -> None:
    refusal = asked((b"grpc-encoding", b"gzip")).refusal
    assert refusal is not None and status_in(refusal).code is StatusCode.UNIMPLEMENTED
    assert (b"grpc-accept-encoding", b"identity") in fields_of(refusal)
    assert asked((b"grpc-encoding", b"identity")).refusal is None
    assert (b"grpc-accept-encoding", b"identity") in fields_of(refuse(StatusCode.UNIMPLEMENTED, "no"))


def test_a_proxy_that_eats_te_or_breaks_metadata_is_noticed() -> None:
    for request in (asked(te=b""), asked((b"x-bin", b"!!!"))):
        assert request.refusal is not None and status_in(request.refusal).code is StatusCode.INTERNAL


def test_what_we_ask_is_a_request() -> None:
    block = request_block(
        "/a.B/c", "[::1]:3301", timeout_s=1.5, metadata=[("k-bin", b"\1")], user_agent="synchro/0"
    )
    headers = HeaderList(tuple(fields_of(block)), is_from_client=True)
    assert headers.opening_fault == ""
    assert read_request(headers) == Request(
        b"/a.B/c", 1.5, (("user-agent", "synchro/0"), ("k-bin", b"\1")), None
    )
