"""Header blocks (HPACK, RFC 7541) and what RFC 9113, 8, asks of a list of fields.

Blocks that are sent use no dynamic table, so a block is a constant that can be made once, whatever table
size the peer sets. Blocks that are received go through the `hpack` library; one that changes no table is
decoded and judged once, since clients repeat the same few."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import hpack

from synchro.wire.frames import END_HEADERS, ConnectionFault, ErrorCode
from synchro.wire.limits import WireLimits

Field = tuple[bytes, bytes]
"""Name, in lower case, and value."""

_WHOLE: Final[dict[Field, bytes]] = {
    (b":method", b"POST"): b"\x83",
    (b":scheme", b"http"): b"\x86",
    (b":scheme", b"https"): b"\x87",
    (b":status", b"200"): b"\x88",
}
"""Fields of the static table (RFC 7541, appendix A)."""
_NAMES: Final[dict[bytes, bytes]] = {
    b":authority": b"\x01",
    b":path": b"\x04",
    b":status": b"\x08",
    b"content-type": b"\x0f\x10",
    b"user-agent": b"\x0f\x2b",
}
"""Names of the static table, as the head of a literal without indexing (RFC 7541, 6.2.2)."""

_NAME: Final = re.compile(rb":?[!-9;-@\[-~]+")
"""Visible ASCII without capitals and, but for the first place, without a colon (8.2.1)."""
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]")
_OF_ONE_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
"""Fields that HTTP/2 has other means for (8.2.2)."""
_OF_REQUESTS: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_FIELD_OVERHEAD: Final = 32
"""What each field counts beyond its bytes (6.5.2)."""


class HeaderList:
    """A list of header fields as it was received. One object may stand for many equal lists: nobody changes
    it.

    `fields`: names and values in the order of the peer. `size`: as SETTINGS_MAX_HEADER_LIST_SIZE counts.
    `memo`: what `grpc_call` made of the list, kept for the next call with the same; None at first.
    """

    __slots__ = ("fields", "is_informational", "memo", "opening_fault", "size", "trailers_fault")

    def __init__(self, fields: tuple[Field, ...], *, is_from_client: bool) -> None:
        self.fields = fields
        self.size = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields)
        self.memo: object = None
        fault = _broken_field(fields) or ("" if fields else "no field")
        broken_head = _broken_request if is_from_client else _broken_response
        self.opening_fault = fault or broken_head(fields)
        """Why it cannot begin a request, or a response of a server; empty if it can."""
        self.trailers_fault = fault or ("a pseudo-header in trailers" if _has_pseudo(fields) else "")
        """Why it cannot end a message; empty if it can."""
        self.is_informational = not self.opening_fault and fields[0][1][:1] == b"1" and not is_from_client
        """A response that says only that another one follows (1xx)."""

    def get(self, name: bytes) -> bytes | None:
        """The first value of that name."""
        return next((value for key, value in self.fields if key == name), None)

    def __repr__(self) -> str:
        return f"HeaderList({self.fields!r})"


def _has_pseudo(fields: tuple[Field, ...]) -> bool:
    return any(name[:1] == b":" for name, _ in fields)


def _broken_field(fields: tuple[Field, ...]) -> str:
    """Rules of 8.2.1, 8.2.2 and 8.3 for every list. Spaces around a value pass: gRPC sends them in
    messages."""
    is_regular, seen = False, set()
    for name, value in fields:
        if _NAME.fullmatch(name) is None:
            return f"the field name {name[:40]!r}"
        if _BAD_VALUE.search(value):
            return f"a control character in the field {name[:40]!r}"
        if name[0] != 0x3A:
            is_regular = True
            if name in _OF_ONE_CONNECTION or (name == b"te" and value.lower() != b"trailers"):
                return f"the field {name!r} of a single connection"
        elif is_regular:
            return f"{name[:40]!r} behind other fields"
        elif name in seen:
            return f"{name[:40]!r} twice"
        else:
            seen.add(name)
    return ""


def _broken_request(fields: tuple[Field, ...]) -> str:
    pseudo = {name: value for name, value in fields if name[0] == 0x3A}
    if not pseudo.keys() <= _OF_REQUESTS:
        return f"{min(pseudo.keys() - _OF_REQUESTS)[:40]!r} in a request"
    method = pseudo.get(b":method")
    if method == b"CONNECT":  # 8.5
        if pseudo.keys() != {b":method", b":authority"}:
            return "CONNECT with other than :authority"
    elif not method or not pseudo.get(b":scheme") or not pseudo.get(b":path"):
        return "a request without :method, :scheme or :path"
    return ""


def _broken_response(fields: tuple[Field, ...]) -> str:
    pseudo = [(name, value) for name, value in fields if name[0] == 0x3A]
    if [name for name, _ in pseudo] != [b":status"]:
        return "a response without :status, or with other pseudo-headers"
    status = pseudo[0][1]
    if len(status) != 3 or not status.isdigit() or status == b"101":
        return f":status {status[:40]!r}"
    return ""


# --- blocks ---------------------------------------------------------------------------------------------


def _string(text: bytes) -> bytes:
    """Length and bytes, without Huffman coding (RFC 7541, 5.2)."""
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    head = bytearray((127,))
    size -= 127
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + text


def header_block(fields: Iterable[Field]) -> bytes:
    """A block that neither uses nor changes a dynamic table. Names are in lower case."""
    parts = []
    for field in fields:
        whole = _WHOLE.get(field)
        if whole is None:
            name, value = field
            known = _NAMES.get(name)
            whole = (b"\0" + _string(name) if known is None else known) + _string(value)
        parts.append(whole)
    return b"".join(parts)


NO_TABLE: Final = b"\x20"
"""A dynamic table of no size (RFC 7541, 6.3). In front of the first block after the peer has set a smaller
table than the first one, which must be acknowledged so (4.2); no later setting asks for it again."""
TABLE_BYTES_AT_FIRST: Final = 4096


class HeaderDecoder:
    """The receiving half of one connection's HPACK state."""

    def __init__(self, limits: WireLimits, *, is_client: bool) -> None:
        self._limits = limits
        self._is_from_client = not is_client
        self._hpack = hpack.Decoder(max_header_list_size=limits.header_list_bytes_max)
        self.is_inside_block = False
        self._block = bytearray()
        self._parts = 0
        self._stream_id = 0
        self._flags = 0
        self._known_bytes = 0
        self.known: dict[bytes, HeaderList] = {}
        """Blocks that meant the same the last time, and do as long as the table is what it is. Looked into
        first: `known.get(block) or decode(block)`."""

    def begin(self, stream_id: int, flags: int, part: bytes) -> None:
        """HEADERS without END_HEADERS: CONTINUATION frames must follow at once (RFC 9113, 4.3)."""
        self.is_inside_block = True
        self._stream_id, self._flags, self._parts = stream_id, flags, 0
        self._block = bytearray(part)
        self._check_size(len(self._block))

    def add(self, stream_id: int, flags: int, part: bytes) -> tuple[int, bytes] | None:
        """CONTINUATION. When the block is whole: the flags of its HEADERS, and the block."""
        if not self.is_inside_block or stream_id != self._stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        self._parts += 1
        if self._parts > self._limits.continuations_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"{self._parts} CONTINUATION frames")
        self._block += part
        self._check_size(len(self._block))
        if not flags & END_HEADERS:
            return None
        self.is_inside_block = False
        return self._flags, bytes(self._block)

    def _check_size(self, size: int) -> None:
        if size > self._limits.header_list_bytes_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {size} bytes")

    def decode(self, block: bytes) -> HeaderList:
        """Every block must come by here, or be in `known`. Raises `ConnectionFault`: the table is lost with
        it."""
        self._check_size(len(block))
        self._check_table_changes(block)
        table = self._hpack.header_table
        entries = table.dynamic_entries
        before = (len(entries), table.maxsize)
        newest = entries[0] if entries else None
        try:
            fields = tuple((bytes(name), bytes(value)) for name, value in self._hpack.decode(block, raw=True))
        except hpack.HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"header block: {str(error)[:100]}") from error
        headers = HeaderList(fields, is_from_client=self._is_from_client)
        if before != (len(entries), table.maxsize) or newest is not (entries[0] if entries else None):
            self._known_bytes = 0
            self.known.clear()
        else:
            self._learn(block, headers)
        return headers

    def _learn(self, block: bytes, headers: HeaderList) -> None:
        limits = self._limits
        if headers.size > limits.known_bytes_max:
            return
        self._known_bytes += headers.size
        if len(self.known) >= limits.known_blocks_max or self._known_bytes > limits.known_bytes_max:
            self.known.clear()
            self._known_bytes = headers.size
        self.known[block] = headers

    def _check_table_changes(self, block: bytes) -> None:
        """There are few in front of the fields (RFC 7541, 6.3); `hpack` refuses those behind."""
        at = count = 0
        while at < len(block) and block[at] & 0xE0 == 0x20:
            count += 1
            if count > self._limits.table_changes_max:
                raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "many changes of the table in one block")
            is_long = block[at] & 0x1F == 0x1F
            at += 1
            while is_long and at < len(block):
                is_long = block[at] & 0x80 != 0
                at += 1
