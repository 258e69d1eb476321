"""Snapshot format: committed tuples with the vclock they stand for, and the state of queue and Raft.

A file is the text header of `xlog.py` with type SNAP, then frames. A join sends the same frames. A frame:

    magic 4s, kind u8, space id u32, items u32, length u32, CRC32C u32 of header and payload; then the payload

Order: one META, any number of REQUESTS and TUPLES, one FOOTER with the number of frames before it, the
number of tuples, and the CRC32C over the CRCs of all frames before it: a lost frame does not go unseen.
A snapshot holds the committed prefix only, and its vclock is that of this prefix (ADR 4, [W-33]).
Rules [W-8], [W-9], [W-10], [W-32].
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from synchro.errors import Corruption, DecodeError
from synchro.ids import INITIAL_TERM, NOBODY, REQUEST_ID_BYTES, InstanceId, Lsn, RequestId, Term
from synchro.msgpack_ext import unpack_extension
from synchro.row import RawTuple, Tuple
from synchro.storage.disk import Disk, FileBytes, write_whole
from synchro.storage.msgpack_check import pack_tuple, packb, why_malformed
from synchro.storage.xlog import (
    HEADER_BYTES_MAX,
    INPROGRESS_SUFFIX,
    SNAP_SUFFIX,
    FileHeader,
    crc32c,
    decode_header,
    encode_header,
    file_name,
)
from synchro.vclock import EMPTY_VCLOCK, Vclock

CHUNK_BYTES_MAX: Final = 1024 * 1024
"""Payload of a frame, unless one tuple is larger; a message of the join carries a few of them."""
FRAME_BYTES_SANE: Final = 16 * 1024 * 1024
_FRAME: Final = Struct("<4sBIII")
_CRC: Final = Struct("<I")
FRAME_HEADER_BYTES: Final = _FRAME.size + _CRC.size
_MAGIC: Final = b"\xd5SNP"
_NO_TERM: Final = Term(0)
_NO_LSN: Final = Lsn(0)


class RememberedRequest(NamedTuple):
    """A decided transaction that a retry must find again. `term`: queue term of its segment."""

    request_id: RequestId
    origin: InstanceId
    lsn: Lsn
    term: Term


class DroppedRange(NamedTuple):
    """LSNs of rolled back or nopified transactions, both ends included."""

    origin: InstanceId
    first_lsn: Lsn
    last_lsn: Lsn


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """All that is not tuples, taken in the same step of the core as the view of the tuples [W-32]."""

    vclock: Vclock = EMPTY_VCLOCK
    replicaset_uuid: str = ""
    term: Term = INITIAL_TERM
    vote: InstanceId = NOBODY
    queue_owner: InstanceId = NOBODY
    queue_term: Term = _NO_TERM
    confirmed_lsn: Lsn = _NO_LSN
    confirmed_vclock: Vclock = EMPTY_VCLOCK
    promote_terms: tuple[tuple[InstanceId, Term], ...] = ()
    """origin -> term of its latest decided PROMOTE"""
    requests: Sequence[RememberedRequest] = ()
    drops: Sequence[DroppedRange] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """Room for facts of later versions; msgpack values."""


class ChunkKind(IntEnum):
    META = 1
    REQUESTS = 2
    TUPLES = 3
    FOOTER = 4


class Chunk(NamedTuple):
    """A decoded frame. Which field is set depends on `kind`; FOOTER sets the three counters."""

    kind: ChunkKind
    crc: int
    meta: SnapshotMeta | None = None
    requests: Sequence[RememberedRequest] = ()
    space_id: int = 0
    tuples: Sequence[Tuple] = ()
    frames: int = 0
    total_tuples: int = 0
    total_crc: int = 0


# --- frames -------------------------------------------------------------------------------------------


def _frame(kind: ChunkKind, space_id: int, items: int, payload: bytes) -> tuple[bytes, int]:
    head = _FRAME.pack(_MAGIC, kind, space_id, items, len(payload))
    crc = crc32c(payload, crc32c(head))
    return b"".join((head, _CRC.pack(crc), payload)), crc


def _pack_meta(meta: SnapshotMeta) -> bytes:
    return bytes(
        msgpack.packb(
            {
                "vclock": meta.vclock.as_dict(),
                "replicaset_uuid": meta.replicaset_uuid,
                "term": meta.term,
                "vote": meta.vote,
                "queue_owner": meta.queue_owner,
                "queue_term": meta.queue_term,
                "confirmed_lsn": meta.confirmed_lsn,
                "confirmed_vclock": meta.confirmed_vclock.as_dict(),
                "promote_terms": list(meta.promote_terms),
                "drops": [tuple(d) for d in meta.drops],
                "extra": meta.extra,
                "pending_promotes": [],  # former versions read no snapshot without it
            }
        )
    )


def _int(value: Any, *, at_most: int = 2**64 - 1) -> int:
    if type(value) is not int or not 0 <= value <= at_most:
        raise ValueError(f"{value!r} is out of range")
    return value


def _id(value: Any) -> InstanceId:
    return InstanceId(_int(value, at_most=31))


def _vclock(value: Any) -> Vclock:
    return Vclock({_id(i): Lsn(_int(lsn)) for i, lsn in value.items()})


def _unpack_meta(payload: bytes) -> SnapshotMeta:
    """Keys that are not known are passed over, and `pending_promotes`, which former versions filled: their
    rows lie behind the vclock of the snapshot, so they come again from the WAL."""
    m = msgpack.unpackb(payload, use_list=False, strict_map_key=False)
    return SnapshotMeta(
        vclock=_vclock(m["vclock"]),
        replicaset_uuid=str(m["replicaset_uuid"]),
        term=Term(_int(m["term"])),
        vote=_id(m["vote"]),
        queue_owner=_id(m["queue_owner"]),
        queue_term=Term(_int(m["queue_term"])),
        confirmed_lsn=Lsn(_int(m["confirmed_lsn"])),
        confirmed_vclock=_vclock(m["confirmed_vclock"]),
        promote_terms=tuple((_id(i), Term(_int(t))) for i, t in m["promote_terms"]),
        drops=tuple(DroppedRange(_id(o), Lsn(_int(a)), Lsn(_int(b))) for o, a, b in m["drops"]),
        extra=dict(m["extra"]),
    )


def _payloads(
    items: Iterable[Any], pack: Callable[[Any], bytes], bytes_max: int
) -> Iterator[tuple[bytes, int]]:
    """(payload, number of items): packed items side by side, at most `bytes_max` unless one is larger."""
    parts: list[bytes] = []
    size = 0
    for item in items:
        data = pack(item)
        if parts and size + len(data) > bytes_max:
            yield b"".join(parts), len(parts)
            parts, size = [], 0
        parts.append(data)
        size += len(data)
    if parts:
        yield b"".join(parts), len(parts)


def iter_chunks(
    meta: SnapshotMeta,
    spaces: Iterable[tuple[int, Iterable[Tuple]]],
    *,
    chunk_bytes_max: int = CHUNK_BYTES_MAX,
) -> Iterator[bytes]:
    """The frames of a snapshot, for a file or for the stream of a join."""
    total_crc = frames = tuples = 0

    def counted(kind: ChunkKind, space_id: int, items: int, payload: bytes) -> bytes:
        nonlocal total_crc, frames
        frame, crc = _frame(kind, space_id, items, payload)
        total_crc = crc32c(_CRC.pack(crc), total_crc)
        frames += 1
        return frame

    yield counted(ChunkKind.META, 0, 1, _pack_meta(meta))
    for payload, items in _payloads(meta.requests, packb, chunk_bytes_max):
        yield counted(ChunkKind.REQUESTS, 0, items, payload)
    for space_id, rows in spaces:
        for payload, items in _payloads(rows, pack_tuple, chunk_bytes_max):
            tuples += items
            yield counted(ChunkKind.TUPLES, space_id, items, payload)
    footer = packb((frames, tuples, total_crc))
    yield _frame(ChunkKind.FOOTER, 0, 1, footer)[0]


def frame_size(head: bytes) -> int:
    """Size of the whole frame that starts with these `FRAME_HEADER_BYTES` bytes. Raises `DecodeError`."""
    if len(head) < FRAME_HEADER_BYTES:
        raise DecodeError("the snapshot ends inside a frame")
    magic, _kind, _space, _items, length = _FRAME.unpack_from(head)
    if magic != _MAGIC or length > FRAME_BYTES_SANE:
        raise DecodeError("this is not a frame of a snapshot")
    return FRAME_HEADER_BYTES + int(length)


def decode_chunk(data: bytes) -> Chunk:
    """One whole frame. Raises `DecodeError`."""
    if len(data) != frame_size(data[:FRAME_HEADER_BYTES]):
        raise DecodeError("the frame has another length than it says")
    head, payload = data[: _FRAME.size], data[FRAME_HEADER_BYTES:]
    (crc,) = _CRC.unpack_from(data, _FRAME.size)
    if crc32c(payload, crc32c(head)) != crc:
        raise DecodeError("checksum of the frame is wrong")
    _magic, kind, space_id, items, _length = _FRAME.unpack(head)
    try:
        chunk = _decode_payload(ChunkKind(kind), crc, space_id, payload)
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise DecodeError(f"bad frame: {why_malformed(error)}") from error
    got = len(chunk.tuples) + len(chunk.requests) if kind in (ChunkKind.TUPLES, ChunkKind.REQUESTS) else 1
    if got != items:
        raise DecodeError(f"the frame holds {got} items, not {items}")
    return chunk


def _decode_payload(kind: ChunkKind, crc: int, space_id: int, payload: bytes) -> Chunk:
    match kind:
        case ChunkKind.META:
            return Chunk(kind, crc, meta=_unpack_meta(payload))
        case ChunkKind.FOOTER:
            frames, tuples, total_crc = msgpack.unpackb(payload, use_list=False)
            return Chunk(kind, crc, frames=frames, total_tuples=tuples, total_crc=total_crc)
        case ChunkKind.REQUESTS:
            return Chunk(kind, crc, requests=[_remembered(*item) for item in _unpack_all(payload)])
        case ChunkKind.TUPLES:
            tuples_ = _unpack_all(payload)
            if any(type(item) is not tuple for item in tuples_):
                raise ValueError("a stored tuple is not an array")
            tuples_ = _as_they_came(tuples_, payload)
            return Chunk(kind, crc, space_id=space_id, tuples=tuples_)


def _unpack_all(payload: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(
        use_list=False,
        strict_map_key=False,
        max_buffer_size=FRAME_BYTES_SANE,
        ext_hook=unpack_extension,
    )
    unpacker.feed(payload)
    items = list(unpacker)
    if unpacker.tell() != len(payload):
        raise ValueError("incomplete msgpack")
    return items


def _as_they_came(tuples: list[Tuple], payload: bytes) -> list[Tuple]:
    """Tuples whose bytes we would not write so keep them (ADR 24)."""
    packed = list(map(packb, tuples))
    if b"".join(packed) == payload:
        return tuples
    unpacker = msgpack.Unpacker(max_buffer_size=FRAME_BYTES_SANE)
    unpacker.feed(payload)
    start, made = 0, list[Tuple]()
    for value, ours in zip(tuples, packed, strict=True):
        unpacker.skip()
        data = payload[start : unpacker.tell()]
        start += len(data)
        if data != ours:
            value = RawTuple(value)
            value.raw = data
        made.append(value)
    return made


def _remembered(request_id: Any, origin: Any, lsn: Any, term: Any) -> RememberedRequest:
    if type(request_id) is not bytes or len(request_id) != REQUEST_ID_BYTES:
        raise ValueError("bad request id")
    return RememberedRequest(RequestId(request_id), _id(origin), Lsn(_int(lsn)), Term(_int(term)))


class SnapshotAssembler:
    """Checks order, counts and checksum of frames as they come, from a file or a join.

    Give each decoded frame to `add`. `meta` is complete when the first tuples came or `is_done`.
    """

    def __init__(self) -> None:
        self.meta: SnapshotMeta | None = None
        self.is_done = False
        self._requests: list[RememberedRequest] = []
        self._frames = self._tuples = self._crc = 0

    def add(self, chunk: Chunk) -> Chunk:
        """Return `chunk`. Raises `DecodeError` if it may not stand here."""
        if self.is_done or (chunk.kind is ChunkKind.META) != (self._frames == 0):
            raise DecodeError(f"a {chunk.kind.name} frame may not be number {self._frames + 1}")
        if chunk.kind is ChunkKind.FOOTER:
            if (chunk.frames, chunk.total_tuples, chunk.total_crc) != (self._frames, self._tuples, self._crc):
                raise DecodeError("the footer does not fit the frames: some are missing or changed")
            self._complete()
            self.is_done = True
            return chunk
        self._frames += 1
        self._crc = crc32c(_CRC.pack(chunk.crc), self._crc)
        self._tuples += len(chunk.tuples)
        if chunk.meta is not None:
            self.meta = chunk.meta
        if chunk.kind is ChunkKind.REQUESTS:
            if self._tuples:
                raise DecodeError("a REQUESTS frame behind tuples")
            self._requests.extend(chunk.requests)
        elif chunk.kind is ChunkKind.TUPLES:
            self._complete()
        return chunk

    def _complete(self) -> None:
        if self._requests:
            assert self.meta is not None
            self.meta = replace(self.meta, requests=tuple(self._requests))
            self._requests = []


# --- files ------------------------------------------------------------------------------------------------


def write_frames(
    disk: Disk,
    directory: str,
    vclock: Vclock,
    instance_uuid: str,
    frames: Iterable[bytes],
    judge: Callable[[str], None] = lambda _: None,
) -> str:
    """Frames -> a snapshot file, durable under its final name [W-10]; returns its path.

    judge: is given the path of the whole file before it has that name; what it raises keeps it from it.
    Raises what the disk raises; `.inprogress` may be left.
    """
    path = posixpath.join(directory, file_name(vclock, SNAP_SUFFIX))
    inprogress = path + INPROGRESS_SUFFIX
    file = disk.create(inprogress)
    try:
        header = encode_header(FileHeader("SNAP", instance_uuid, vclock))
        write_whole(disk, file, header, 0)
        offset = len(header)
        for data in frames:
            write_whole(disk, file, data, offset)
            offset += len(data)
        disk.sync(file)
    finally:
        disk.close(file)
    judge(inprogress)
    disk.rename(inprogress, path)
    disk.sync_dir(directory)
    return path


def write_snapshot(
    disk: Disk,
    directory: str,
    meta: SnapshotMeta,
    spaces: Iterable[tuple[int, Iterable[Tuple]]],
    *,
    instance_uuid: str,
    judge: Callable[[str], None] = lambda _: None,
) -> str:
    """A snapshot of `spaces` at `meta.vclock`, durable when this returns; returns its path.

    judge: as in `write_frames`."""
    return write_frames(disk, directory, meta.vclock, instance_uuid, iter_chunks(meta, spaces), judge)


class SnapshotReader:
    """Reads a snapshot front to back in bounded memory. Raises `Corruption` (file, offset)."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.path = path
        self._data = FileBytes(disk, path)
        self.size = self._data.size
        self.offset = 0
        """Of the frame that is read next."""
        self._assembler = SnapshotAssembler()
        self._first: Chunk | None = None
        self._is_open = True
        try:
            self.header, self.offset, _ = decode_header(self._data(HEADER_BYTES_MAX, 0))
            if self.header.kind != "SNAP":
                raise DecodeError(f"the file type is {self.header.kind}, not SNAP")
        except DecodeError as error:
            self.close()
            raise self._damage(error) from error
        self._read_state()

    def close(self) -> None:
        """Whoever does not read `tuples()` to their end must say so. A second time it does nothing: the
        descriptor may be somebody else's by then."""
        if self._is_open:
            self._is_open = False
            self._data.close()

    def _read_state(self) -> None:
        try:
            self._first = self._next()
            while self._first is not None and self._first.kind is not ChunkKind.TUPLES:
                self._first = self._next()
        except BaseException:
            self.close()
            raise
        assert self._assembler.meta is not None
        self.meta: SnapshotMeta = self._assembler.meta
        if self.meta.vclock != self.header.vclock:
            self.close()
            raise self._damage(DecodeError("header and state name different vclocks"))

    def _damage(self, error: DecodeError) -> Corruption:
        return Corruption(
            f"{self.path} is corrupted at offset {self.offset}: {error.message}",
            file=self.path,
            offset=self.offset,
        )

    def _next(self) -> Chunk | None:
        """The next frame; None after the footer."""
        if self._assembler.is_done:
            return None
        try:
            size = frame_size(self._data(FRAME_HEADER_BYTES, self.offset))
            chunk = self._assembler.add(decode_chunk(self._data(size, self.offset)))
        except DecodeError as error:
            raise self._damage(error) from error
        self.offset += size
        if not self._assembler.is_done:
            return chunk
        if self._data(1, self.offset):
            raise self._damage(DecodeError("bytes behind the footer"))
        return None

    def tuples(self) -> Iterator[tuple[int, Sequence[Tuple]]]:
        """(space id, some of its tuples), once. The snapshot is proven whole when the iteration ended."""
        try:
            chunk, self._first = self._first, None
            while chunk is not None:
                yield chunk.space_id, chunk.tuples
                chunk = self._next()
        finally:
            self.close()


def read_snapshot(disk: Disk, path: str) -> SnapshotReader:
    """Opens it: header, state and request table are read and checked; tuples come from `tuples()`."""
    return SnapshotReader(disk, path)
