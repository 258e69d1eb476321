"""Frames of HTTP/2 (RFC 9113, 4 and 6): heads, flags, settings, error codes, and the frames that are sent
as they stand. Functions from values to bytes and back; what a frame means is decided in `connection`."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (3.4)."""

# Types of frames: plain ints, since every received frame is compared with them.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEAD: Final = Struct(">IBI")
"""length << 8 | type, flags, stream id: the nine bytes in front of each frame (4.1)."""
HEAD_BYTES: Final = 9
PREFIX: Final = Struct(">BI")
"""compressed, length: the five bytes in front of each gRPC message."""
PREFIX_BYTES: Final = 5
MESSAGE_HEAD: Final = Struct(">IBIBI")
"""`HEAD` and `PREFIX` of a message that fills one DATA frame."""
SETTING: Final = Struct(">HI")

ID_MAX: Final = 2**31 - 1
WINDOW_MAX: Final = 2**31 - 1
WINDOW_AT_FIRST: Final = 65_535
"""Of the connection and of each stream, until SETTINGS or WINDOW_UPDATE say otherwise (6.9.2)."""
FRAME_BYTES_MIN: Final = 16_384
"""Least value, and first one, of SETTINGS_MAX_FRAME_SIZE; the length of a frame has 24 bits (6.5.2)."""
FRAME_BYTES_MAX: Final = 2**24 - 1

# Names of settings (6.5.2).
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13

    @classmethod
    def of(cls, code: int) -> ErrorCode:
        """The code that a peer sent; one that nobody knows counts as INTERNAL_ERROR (7)."""
        return cls(code) if code <= cls.HTTP_1_1_REQUIRED else cls.INTERNAL_ERROR


class ConnectionFault(Exception):
    """The peer broke a rule of the connection, or a limit. Nothing that it sent afterwards was looked at."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(f"{why} ({code.name})")
        self.code = code
        self.why = why


class StreamsExhausted(Exception):
    """The connection takes no further call: nothing was sent."""


def rst_stream(stream_id: int, code: int) -> bytes:
    return HEAD.pack(4 << 8 | RST_STREAM, 0, stream_id) + code.to_bytes(4, "big")


def window_update(stream_id: int, more: int) -> bytes:
    assert 0 < more <= WINDOW_MAX
    return HEAD.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id) + more.to_bytes(4, "big")


def ping(payload: bytes, *, is_ack: bool = False) -> bytes:
    assert len(payload) == 8
    return HEAD.pack(8 << 8 | PING, ACK if is_ack else 0, 0) + payload


def goaway(last_id: int, code: int, why: bytes) -> bytes:
    return (
        HEAD.pack(8 + len(why) << 8 | GOAWAY, 0, 0)
        + last_id.to_bytes(4, "big")
        + code.to_bytes(4, "big")
        + why
    )


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(SETTING.pack(name, value) for name, value in values.items())
    return HEAD.pack(len(payload) << 8 | SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = HEAD.pack(SETTINGS, ACK, 0)


def header_frames(block: bytes, flags: int, stream_id: int, frame_bytes_max: int) -> bytes:
    """HEADERS, and CONTINUATION for what does not fit the peer's frames. flags: END_STREAM or 0."""
    if len(block) <= frame_bytes_max:
        return HEAD.pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [HEAD.pack(frame_bytes_max << 8 | HEADERS, flags, stream_id), block[:frame_bytes_max]]
    for start in range(frame_bytes_max, len(block), frame_bytes_max):
        part = block[start : start + frame_bytes_max]
        is_last = start + frame_bytes_max >= len(block)
        parts.append(HEAD.pack(len(part) << 8 | CONTINUATION, END_HEADERS if is_last else 0, stream_id))
        parts.append(part)
    return b"".join(parts)


def read_settings(payload: bytes, *, from_server: bool) -> dict[int, int]:
    """Name -> its last value, unknown names included; of HEADER_TABLE_SIZE the least, since that is what the
    next header block must acknowledge (RFC 7541, 4.2). Raises `ConnectionFault` for a value that is not
    legal."""
    if len(payload) % SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
    values: dict[int, int] = {}
    for name, value in SETTING.iter_unpack(payload):
        if name == INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE {value}")
        if name == MAX_FRAME_SIZE and not FRAME_BYTES_MIN <= value <= FRAME_BYTES_MAX:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE {value}")
        if name == ENABLE_PUSH and value > (0 if from_server else 1):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH {value}")
        values[name] = min(value, values.get(name, value)) if name == HEADER_TABLE_SIZE else value
    return values


def wrong_preface(data: bytes) -> str:
    """What a peer that does not speak HTTP/2 seems to speak, for the log."""
    if data[:1] == b"\x16":
        return "TLS, on a port that speaks plain HTTP/2"
    if data.split(b" ", 1)[0] in (
        b"GET",
        b"POST",
        b"HEAD",
        b"PUT",
        b"DELETE",
        b"OPTIONS",
        b"CONNECT",
        b"PATCH",
    ):
        return "HTTP/1, on a port that speaks HTTP/2 (gRPC) only"
    return "no HTTP/2 preface"


def content(flags: int, data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content lies in a frame with padding or priority (6.1, 6.2); both are ignored."""
    length = end - start
    extra = (1 if flags & PADDED else 0) + (5 if flags & HAS_PRIORITY else 0)
    if length < extra:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame too short for its flags")
    padding = data[start] if flags & PADDED else 0
    if extra + padding > length:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than the frame has")
    return start + extra, end - padding


def need_stream(stream_id: int, what: str) -> None:
    """Raise `ConnectionFault` for a frame that must name a stream and does not."""
    if not stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} for stream 0")


def need_length(payload: bytes, length: int, what: str) -> None:
    """Raise `ConnectionFault` for a frame of another length (4.2)."""
    if len(payload) != length:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes")
