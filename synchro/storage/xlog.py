"""WAL file format: bytes in, blocks and transactions out. No I/O here. Rules [W-7], [W-9], [W-21], [W-22].

A file is a text header, zero-padded to a multiple of 512, then blocks, each at a multiple of 512, so that
a torn write never touches a sector that was synced before. A block is 52 bytes of header, little-endian,
and a payload of whole transactions (see `xrow.py`):

    magic 4s, salt u64, length u32, rows u32, number u64, previous CRC u32, mark u64, time f64, CRC u32

salt    64 random bits of the file: old blocks of a recycled file do not pass for new ones
number  1, 2, 3, ... in the file;  previous CRC  chains them, the first one to the text header
mark    the synced mark: number of the last block that was known to be synced when this one was made
time    wall clock of the write, seconds; the per-hop time of its rows [W-4]
CRC     CRC32C over the header before it and the payload

The log ends at the first position that does not hold the expected block. Whether that is a torn tail or
damage is told by what lies behind: a valid block of this salt whose mark covers the missing number proves
that the missing one was once whole, and that is corruption (S15). A clean stop leaves an end marker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final, NamedTuple

import google_crc32c

from synchro.errors import Corruption, DecodeError
from synchro.ids import InstanceId, Lsn
from synchro.row import Txn
from synchro.storage.xrow import decode_txns
from synchro.vclock import Vclock

SECTOR: Final = 512
FORMAT_VERSION: Final = "1"
SOFTWARE: Final = "synchro 0.1"
XLOG_SUFFIX: Final = ".xlog"
SNAP_SUFFIX: Final = ".snap"
INPROGRESS_SUFFIX: Final = ".inprogress"
DAMAGED_SUFFIX: Final = ".damaged"
"""Behind the name of a snapshot that could not be read: kept for a person, used for nothing."""
HEADER_BYTES_MAX: Final = 8 * SECTOR
"""Two vclocks of 32 components and the rest of the text."""
BLOCK_BYTES_SANE: Final = 64 * 1024 * 1024
"""Length field of a block beyond this is not believed; the largest transaction is far below it."""

BLOCK_MAGIC: Final = b"\xd5\xba\x0b\xab"
END_MAGIC: Final = b"\xd5\x10\xad\xed"
_HEADER: Final = Struct("<4sQIIQIQd")
_CRC: Final = Struct("<I")
BLOCK_HEADER_BYTES: Final = _HEADER.size + _CRC.size

ReadAt = Callable[[int, int], bytes]
"""(size, offset) -> bytes, fewer only at the end of the file."""


def crc32c(data: bytes, crc: int = 0) -> int:
    return int(google_crc32c.extend(crc, data))


def padded(size: int) -> int:
    """`size` rounded up to whole sectors."""
    return -(-size // SECTOR) * SECTOR


def file_name(vclock: Vclock, suffix: str = XLOG_SUFFIX) -> str:
    """Name of a file that starts at `vclock` [W-8]."""
    return f"{vclock.signature:020d}{suffix}"


def is_file_name(name: str, suffix: str = XLOG_SUFFIX) -> bool:
    stem = name.removesuffix(suffix)
    return name.endswith(suffix) and len(stem) == 20 and stem.isascii() and stem.isdigit()


# --- the text header -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileHeader:
    """First lines of a file [W-9]. prev_vclock: start of the file before; None: first one, or a snapshot."""

    kind: str
    """XLOG or SNAP"""
    instance_uuid: str
    vclock: Vclock
    prev_vclock: Vclock | None = None
    salt: int = 0
    software: str = SOFTWARE


def _vclock_text(vclock: Vclock) -> str:
    return repr(vclock)


def parse_vclock(text: str) -> Vclock:
    """The opposite of `repr`. Raises `ValueError`."""
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError(f"bad vclock {text!r}")
    pairs = [pair.split(":") for pair in text[1:-1].split(",") if pair.strip()]
    return Vclock([(InstanceId(int(i)), Lsn(int(lsn))) for i, lsn in pairs])


def encode_header(header: FileHeader) -> bytes:
    """The header, padded to whole sectors."""
    lines = [header.kind, FORMAT_VERSION, header.software, f"Instance: {header.instance_uuid}"]
    lines.append(f"VClock: {_vclock_text(header.vclock)}")
    if header.prev_vclock is not None:
        lines.append(f"PrevVClock: {_vclock_text(header.prev_vclock)}")
    lines.append(f"Salt: {header.salt:016x}")
    text = ("\n".join(lines) + "\n").encode()
    text += f"CRC: {crc32c(text):08x}\n\n".encode()
    assert len(text) <= HEADER_BYTES_MAX
    return text.ljust(padded(len(text)), b"\0")


def decode_header(data: bytes) -> tuple[FileHeader, int, int]:
    """(header, its padded size, its CRC) from the start of a file. Raises `DecodeError`."""
    end = data.find(b"\n\n", 0, HEADER_BYTES_MAX)
    if end < 0:
        raise DecodeError("the file has no header")
    text = data[: end + 1]
    size = padded(end + 2)
    try:
        body, _, crc_text = text.rpartition(b"CRC: ")
        crc = int(crc_text, 16)
        if crc_text != f"{crc:08x}\n".encode() or crc != crc32c(body):
            raise ValueError("checksum of the header is wrong")
        if data[end + 2 : size].strip(b"\0") or len(data) < size:
            raise ValueError("the padding of the header is damaged")
        kind, version, software, *rest = body.decode().splitlines()
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version!r} is not known")
        fields = dict(line.split(": ", 1) for line in rest)
        header = FileHeader(
            kind=kind,
            software=software,
            instance_uuid=fields["Instance"],
            vclock=parse_vclock(fields["VClock"]),
            prev_vclock=parse_vclock(fields["PrevVClock"]) if "PrevVClock" in fields else None,
            salt=int(fields["Salt"], 16),
        )
    except (ValueError, KeyError) as error:
        raise DecodeError(f"bad file header: {error}") from error
    return header, size, crc


# --- blocks -----------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A valid block: where it lies, what its header says, and its payload (whole transactions)."""

    offset: int
    number: int
    rows: int
    mark: int
    time: float
    payload: bytes
    prev_crc: int
    crc: int
    is_end: bool

    @property
    def next_offset(self) -> int:
        return self.offset + padded(BLOCK_HEADER_BYTES + len(self.payload))


class BlockWriter:
    """Makes the blocks of one file, in order. A block counts only when `commit` was called after it.

    B1  numbers rise by one, without a gap, and each block holds the CRC of the one before.
    B2  mark < number: nobody can know that a block is synced before it was made.
    """

    __slots__ = ("_next_crc", "_next_number", "crc", "number", "salt")

    def __init__(self, salt: int, header_crc: int) -> None:
        self.salt = salt
        self.number = 0
        self.crc = header_crc
        self._next_number, self._next_crc = 0, header_crc

    def encode(
        self, payload: bytes, *, rows: int, mark: int, wall_time: float, is_end: bool = False
    ) -> bytes:
        """The next block, padded to whole sectors."""
        self._next_number += 1
        assert mark < self._next_number  # BlockWriter.B2
        head = _HEADER.pack(
            END_MAGIC if is_end else BLOCK_MAGIC,
            self.salt,
            len(payload),
            rows,
            self._next_number,
            self._next_crc,
            mark,
            wall_time,
        )
        self._next_crc = crc32c(payload, crc32c(head))
        size = BLOCK_HEADER_BYTES + len(payload)
        return b"".join((head, _CRC.pack(self._next_crc), payload, bytes(padded(size) - size)))

    def commit(self) -> None:
        """The blocks made since the last call lie in the file."""
        self.number, self.crc = self._next_number, self._next_crc

    def cancel(self) -> None:
        """The blocks made since the last `commit` do not lie in the file: give their numbers again."""
        self._next_number, self._next_crc = self.number, self.crc


def split_batch(txns: Sequence[Txn], block_bytes_max: int) -> Iterator[tuple[bytes, int]]:
    """(payload, rows) per block: whole transactions, at most `block_bytes_max` unless one is larger [W-7]."""
    parts: list[bytes] = []
    size = rows = 0
    for txn in txns:
        if parts and size + len(txn.data) > block_bytes_max:
            yield b"".join(parts), rows
            parts, size, rows = [], 0, 0
        parts.append(txn.data)
        size += len(txn.data)
        rows += txn.row_count
    if parts:
        yield b"".join(parts), rows


def read_block(read_at: ReadAt, offset: int, salt: int) -> Block | None:
    """The valid block of this salt at `offset`, whatever its number; None if there is none."""
    head = read_at(BLOCK_HEADER_BYTES, offset)
    if len(head) < BLOCK_HEADER_BYTES:
        return None
    magic, block_salt, length, rows, number, prev_crc, mark, time = _HEADER.unpack_from(head)
    if block_salt != salt or magic not in (BLOCK_MAGIC, END_MAGIC) or length > BLOCK_BYTES_SANE:
        return None
    payload = read_at(length, offset + BLOCK_HEADER_BYTES) if length else b""
    (crc,) = _CRC.unpack_from(head, _HEADER.size)
    if len(payload) != length or crc32c(payload, crc32c(head[: _HEADER.size])) != crc:
        return None
    return Block(offset, number, rows, mark, time, payload, prev_crc, crc, magic == END_MAGIC)


class Ending(Enum):
    """How a file ends."""

    CLEAN = "clean"
    """With its end marker: everything before it was synced."""
    TORN = "torn"
    """Without: the process was killed, or the machine lost power. Nothing known to be synced is missing."""
    OPEN = "open"
    """Not read to the end yet."""


class XlogReader:
    """Reads one file block by block, through a function that reads bytes. Raises `Corruption`.

    After the iteration: `ending`, `end` (offset behind the last block), `mark` (number of the last block
    known to be synced; the end marker is proof for all), `last_number`.
    """

    def __init__(self, read_at: ReadAt, size: int, path: str) -> None:
        self._read_at = read_at
        self.size = size
        self.path = path
        start = read_at(min(size, HEADER_BYTES_MAX), 0)
        try:
            self.header, self.start, self._crc = decode_header(start)
        except DecodeError as error:
            raise Corruption(f"{path}: {error.message}", file=path, offset=0) from error
        self.end = self.start
        self.mark = 0
        self.last_number = 0
        self.last_lsn: tuple[InstanceId, Lsn] | None = None
        self.ending = Ending.OPEN

    def blocks(self, offset: int | None = None) -> Iterator[Block]:
        """Valid blocks in order, empty ones too, the end marker not. Then `ending` is set."""
        assert offset is None or offset == self.start
        while True:
            block = self._next()
            if block is None:
                self._check_behind()
                self.ending = Ending.TORN
                return
            self.last_number, self._crc = block.number, block.crc
            self.mark = max(self.mark, block.mark)
            self.end = block.next_offset
            if block.is_end:
                self.mark = block.number
                self.ending = Ending.CLEAN
                return
            yield block

    def _next(self) -> Block | None:
        block = read_block(self._read_at, self.end, self.header.salt)
        if block is None or block.number != self.last_number + 1 or block.prev_crc != self._crc:
            return None
        return block

    def _check_behind(self) -> None:
        """Look on for a valid block that proves the missing one was synced once."""
        missing = self.last_number + 1
        for block in find_blocks(self._read_at, self.size, self.end, self.header.salt):
            if block.mark >= missing or block.is_end:
                raise self.damage(f"block {missing} is damaged, but block {block.number} says it was synced")

    def damage(self, why: str, offset: int | None = None) -> Corruption:
        at = self.end if offset is None else offset
        origin, lsn = self.last_lsn or (None, None)
        after = f", after LSN {origin}:{lsn}" if self.last_lsn else ""
        return Corruption(
            f"{self.path} is corrupted at offset {at}{after}: {why}",
            file=self.path,
            offset=at,
            origin=origin,
            lsn=lsn,
        )

    def txns(self, block: Block) -> list[Txn]:
        """The transactions of a block; valid CRC over bad rows is `Corruption` too [W-24]."""
        try:
            txns = decode_txns(block.payload)
        except DecodeError as error:
            raise self.damage(error.message, block.offset) from error
        if sum(txn.row_count for txn in txns) != block.rows:
            raise self.damage("the row count of the block is wrong", block.offset)
        if txns:
            self.last_lsn = (txns[-1].origin, txns[-1].lsn)
        return txns

    def skip_damage(self) -> tuple[int, int] | None:
        """After `Corruption`, or a torn end: stand at the next valid block behind it, so that an iteration
        goes on there. For tools alone: what was between is not known to be anybody's.

        Returns (from, to) of the bytes that are left out; None: there is no such block.
        """
        last = self.last_number
        for block in find_blocks(self._read_at, self.size, self.end, self.header.salt):
            if block.number > last:
                left_out = (self.end, block.offset)
                self.end, self.last_number, self._crc = block.offset, block.number - 1, block.prev_crc
                self.ending = Ending.OPEN
                return left_out
        return None

    def __iter__(self) -> Iterator[tuple[int, Block, list[Txn]]]:
        """(offset, block, transactions), for tools such as `wal cat`."""
        for block in self.blocks():
            yield block.offset, block, self.txns(block)


def find_blocks(read_at: ReadAt, size: int, offset: int, salt: int) -> Iterator[Block]:
    """Valid blocks of this salt at any sector from `offset` on."""
    needle = salt.to_bytes(8, "little")
    window = 1 << 20
    for position in range(offset, size, window):
        data = read_at(min(window + SECTOR, size - position), position)
        for start in range(-position % SECTOR, min(window, len(data)), SECTOR):
            if data.startswith(needle, start + 4):
                block = read_block(read_at, position + start, salt)
                if block is not None:
                    yield block
