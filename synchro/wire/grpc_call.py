"""gRPC over HTTP/2: what a call says in its header fields. Functions from values to bytes and back.

Source: the description "gRPC over HTTP2" of the gRPC project, and its list of status codes.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from synchro.wire.frames import ErrorCode
from synchro.wire.headers import Field, HeaderList, header_block

Metadata = tuple[tuple[str, str | bytes], ...]
"""Keys in lower case; bytes for keys that end with `-bin`, text of visible ASCII and spaces for all
others."""


class StatusCode(IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class BadMetadata(ValueError):
    """A key or value that cannot be sent: nothing was."""


# --- time-outs ------------------------------------------------------------------------------------------

_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNITS: Final = ((1_000_000, b"S"), (1000, b"m"), (1, b"u"))
"""In microseconds, the largest first; beyond them there are hours."""
_DIGITS_MAX: Final = 99_999_999


def parse_timeout(value: bytes) -> float | None:
    """Seconds of a `grpc-timeout`; None if it is malformed."""
    found = _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _SECONDS[found[2]]


def format_timeout(seconds: float) -> bytes:
    """A `grpc-timeout` of three digits that count, never shorter than asked: so equal time-outs give equal
    header blocks, although the clock goes on. At least 1 us, at most 99,999,999 hours."""
    micros = max(1, math.ceil(min(seconds, _DIGITS_MAX * 3600.0) * 1e6 - 1e-3))
    step = 10 ** max(0, len(str(micros)) - 3)
    micros = -(-micros // step) * step
    for unit, name in _UNITS:
        if micros % unit == 0 and micros // unit <= _DIGITS_MAX:
            return b"%d%s" % (micros // unit, name)
    return b"%dH" % min(_DIGITS_MAX, -(-micros // 3_600_000_000))


# --- messages of a status -------------------------------------------------------------------------------

_PLAIN: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def encode_message(text: str) -> bytes:
    """`grpc-message`: UTF-8, percent-encoded but for visible ASCII and spaces inside."""
    data = text.encode("utf-8", "surrogatepass")
    body = data.strip(b" ")
    ahead = len(data) - len(data.lstrip(b" ")) if body else 0
    behind = len(data) - len(body) - ahead
    return b"%20" * ahead + quote_from_bytes(body, safe=_PLAIN).encode() + b"%20" * behind


def decode_message(value: bytes) -> str:
    """Text of a `grpc-message`; what is broken in it stays visible."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


# --- metadata -------------------------------------------------------------------------------------------

_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[\x20-\x7e]*")
_RESERVED: Final = frozenset(
    (
        "te",
        "content-type",
        "user-agent",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "content-length",
    )
)


def encode_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[Field]:
    """Raises `BadMetadata` for what gRPC does not carry, and for names that are gRPC's own."""
    fields = []
    for key, value in metadata:
        if (
            _KEY.fullmatch(key) is None
            or key in _RESERVED
            or (key.startswith("grpc-") and key != STATUS_DETAILS)
        ):
            raise BadMetadata(f"the metadata key {key!r} cannot be sent")
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                raise BadMetadata(f"the metadata {key!r} takes bytes")
            data = base64.b64encode(value).rstrip(b"=")
        else:
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            if _TEXT.fullmatch(text) is None:
                raise BadMetadata(f"the metadata {key!r} takes visible ASCII and spaces")
            data = text.encode("ascii")
        fields.append((key.encode("ascii"), data))
    return fields


def decode_metadata(fields: Sequence[Field]) -> Metadata:
    """What is the caller's in a header list: neither pseudo-headers nor what gRPC itself says, but for the
    details of a status. Raises `BadMetadata` for a `-bin` value that is no base64."""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name[:1] == b":" or name in _OWN or (name[:5] == b"grpc-" and name != _DETAILS):
            continue
        key = name.decode("ascii")
        if key.endswith("-bin"):
            metadata.extend((key, _unbase64(key, part)) for part in value.split(b","))
        else:
            metadata.append((key, value.decode("latin-1")))
    return tuple(metadata)


def _unbase64(key: str, value: bytes) -> bytes:
    try:
        return base64.b64decode(value.strip() + b"=" * (-len(value.strip()) % 4), validate=True)
    except binascii.Error as error:
        raise BadMetadata(f"the metadata {key!r} is no base64") from error


STATUS_DETAILS: Final = "grpc-status-details-bin"
_DETAILS: Final = b"grpc-status-details-bin"
_OWN: Final = frozenset((b"te", b"content-type"))

# --- requests -------------------------------------------------------------------------------------------

CONTENT_TYPE: Final = b"application/grpc"
_GRPC_TYPE: Final = re.compile(rb"application/grpc(\+[^;]*)?\s*(;.*)?")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for. refusal: the only answer there may be, as `header_block` of a whole
    response."""

    path: bytes
    """`/package.Service/Method`"""
    timeout_s: float | None
    """None: no deadline."""
    metadata: Metadata
    refusal: bytes | None
    authorization: str = ""
    """Of the metadata: whose session it is called with; "": none."""


def read_request(headers: HeaderList) -> Request:
    """The request that a header list makes; equal lists of one connection share the result."""
    memo = headers.memo
    if isinstance(memo, Request):
        return memo
    request = headers.memo = _read_request(headers)
    return request


def _read_request(headers: HeaderList) -> Request:
    fields = headers.fields
    known = dict(reversed(fields))  # the first of each name
    path = known.get(b":path", b"")
    timeout_s: float | None = None
    metadata: Metadata = ()
    refusal: bytes | None = None
    if known.get(b":method") != b"POST":
        refusal = header_block([(b":status", b"405"), (b"allow", b"POST")])
    elif _GRPC_TYPE.fullmatch(known.get(b"content-type", b"")) is None:
        refusal = header_block([(b":status", b"415"), (b"accept", CONTENT_TYPE)])
    elif known.get(b"te") != b"trailers":
        refusal = refuse(StatusCode.INTERNAL, "the request has no te: trailers: is a proxy between?")
    elif known.get(b"grpc-encoding", b"identity") != b"identity":
        refusal = refuse(StatusCode.UNIMPLEMENTED, "compression is not supported; nothing was done")
    elif b"grpc-timeout" in known and (timeout_s := parse_timeout(known[b"grpc-timeout"])) is None:
        refusal = refuse(StatusCode.INTERNAL, "the grpc-timeout is malformed; nothing was done")
    else:
        try:
            metadata = decode_metadata(fields)
        except BadMetadata as error:
            refusal = refuse(StatusCode.INTERNAL, f"{error}; nothing was done")
    authorization = known.get(b"authorization", b"").decode("latin-1")
    return Request(path, timeout_s, metadata, refusal, authorization)


def request_block(
    path: str,
    authority: str,
    *,
    timeout_s: float | None = None,
    metadata: Iterable[tuple[str, str | bytes]] = (),
    user_agent: str = "",
    scheme: str = "http",
) -> bytes:
    """Head of a call. timeout_s: None = no deadline. Raises `BadMetadata`."""
    return header_block(
        [
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", CONTENT_TYPE),
            *([(b"user-agent", user_agent.encode())] if user_agent else []),
            *([] if timeout_s is None else [(b"grpc-timeout", format_timeout(timeout_s))]),
            *encode_metadata(metadata),
        ]
    )


# --- responses ------------------------------------------------------------------------------------------

_HEAD: Final[tuple[Field, ...]] = ((b":status", b"200"), (b"content-type", CONTENT_TYPE))
RESPONSE_HEAD: Final = header_block(_HEAD)
"""Head of every response that has messages."""
OK_TRAILERS: Final = header_block([(b"grpc-status", b"0")])


def trailers(
    code: StatusCode,
    message: str = "",
    metadata: Iterable[tuple[str, str | bytes]] = (),
    *,
    whole: bool = False,
) -> bytes:
    """End of a call. whole: the response has nothing else (`send_headers(block, end=True)`). Raises
    `BadMetadata`."""
    return header_block(_status_fields(code, message, metadata, whole=whole))


def _status_fields(
    code: StatusCode, message: str, metadata: Iterable[tuple[str, str | bytes]], *, whole: bool
) -> list[Field]:
    fields = [*(_HEAD if whole else ()), (b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", encode_message(message)))
    return fields + encode_metadata(metadata)


def refuse(code: StatusCode, message: str) -> bytes:
    """A whole response to a call that was not looked at. Says that messages may not be compressed."""
    fields = _status_fields(code, message, (), whole=True)
    return header_block([*fields, (b"grpc-accept-encoding", b"identity")])


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended: what its trailers say."""

    code: StatusCode
    message: str = ""
    metadata: Metadata = ()

    @property
    def is_ok(self) -> bool:
        return self.code is StatusCode.OK


OK: Final = Status(StatusCode.OK)
_CODES: Final = frozenset(StatusCode)
_BY_HTTP: Final = {
    b"400": StatusCode.INTERNAL,
    b"401": StatusCode.UNAUTHENTICATED,
    b"403": StatusCode.PERMISSION_DENIED,
    b"404": StatusCode.UNIMPLEMENTED,
    b"429": StatusCode.UNAVAILABLE,
    b"502": StatusCode.UNAVAILABLE,
    b"503": StatusCode.UNAVAILABLE,
    b"504": StatusCode.UNAVAILABLE,
}
"""Of a response without `grpc-status`: something that does not speak gRPC has answered."""


def read_status(headers: HeaderList) -> Status:
    """What trailers, or a response of trailers only, say."""
    memo = headers.memo
    if isinstance(memo, Status):
        return memo
    status = headers.memo = _read_status(headers)
    return status


def _read_status(headers: HeaderList) -> Status:
    number = headers.get(b"grpc-status")
    if number is None:
        http = headers.get(b":status")
        if http is None or http == b"200":
            return Status(StatusCode.UNKNOWN, "the response has no grpc-status")
        code = _BY_HTTP.get(http, StatusCode.UNKNOWN)
        return Status(code, f"HTTP status {http.decode('latin-1')} instead of a gRPC response")
    try:
        metadata = decode_metadata(headers.fields)
    except BadMetadata as error:
        return Status(StatusCode.INTERNAL, f"broken trailers: {error}")
    message = decode_message(headers.get(b"grpc-message") or b"")
    is_known = number.isdigit() and len(number) <= 2 and int(number) in _CODES
    code = StatusCode(int(number)) if is_known else StatusCode.UNKNOWN
    return OK if code is StatusCode.OK and not metadata else Status(code, message, metadata)


_BY_RESET: Final = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


def status_of_reset(code: ErrorCode) -> Status:
    """What a call is told whose stream the peer has reset."""
    return Status(_BY_RESET.get(code, StatusCode.INTERNAL), f"the stream was reset: {code.name}")
