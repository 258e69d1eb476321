"""Frames of snapshots and the identity file: any bytes are read or refused, never anything else."""

from __future__ import annotations

import struct
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.errors import Corruption, DecodeError
from synchro.ids import InstanceId, Lsn
from synchro.storage import snapshot
from synchro.storage.identity import Identity, decode_identity, encode_identity
from synchro.storage.notes import LogNote, Notes, decode_notes, encode_notes
from synchro.storage.snapshot import ChunkKind, SnapshotAssembler, SnapshotMeta, iter_chunks
from synchro.storage.xlog import crc32c
from synchro.vclock import AckNote, Vclock

UUID = "11111111-1111-4111-8111-111111111111"
META = SnapshotMeta(vclock=Vclock({InstanceId(1): Lsn(7)}), replicaset_uuid=UUID)
FRAMES = tuple(iter_chunks(META, [(512, [(1, "a"), (2, b"b")])]))
IDENTITY = encode_identity(Identity(UUID, "instance001", UUID))
NOTES = encode_notes(Notes(True, LogNote("a.xlog", 7), {InstanceId(2): AckNote(META.vclock, True)}), 5)
RUNS = settings(max_examples=300, deadline=None, derandomize=True)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A few bytes replaced, and perhaps cut or longer."""
    data = bytearray(whole)
    for position, byte in draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)))):
        data[position] = byte
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=8))


@RUNS
@given(st.one_of(st.binary(max_size=200), *(damaged(frame) for frame in FRAMES)))
def test_any_bytes_are_a_chunk_or_refused(data: bytes) -> None:
    assembler = SnapshotAssembler()
    with suppress(DecodeError):
        assembler.add(snapshot.decode_chunk(data))


@RUNS
@given(
    st.sampled_from(list(ChunkKind)), st.integers(0, 2**32 - 1), st.integers(0, 100), st.binary(max_size=200)
)
def test_a_frame_with_a_valid_checksum_may_hold_anything(
    kind: ChunkKind, space_id: int, items: int, payload: bytes
) -> None:
    """A checksum says that the bytes are those that were written, not that they make sense."""
    frame, _ = snapshot._frame(kind, space_id, items, payload)
    with suppress(DecodeError):
        SnapshotAssembler().add(snapshot.decode_chunk(frame))


@RUNS
@given(st.binary(max_size=64))
def test_any_head_has_a_size_or_is_refused(head: bytes) -> None:
    with suppress(DecodeError, struct.error):
        assert snapshot.frame_size(head) > 0


@RUNS
@given(st.one_of(st.binary(max_size=200), damaged(IDENTITY)))
def test_any_bytes_are_an_identity_or_refused(data: bytes) -> None:
    with suppress(Corruption):
        assert isinstance(decode_identity(data), Identity)


@RUNS
@given(st.one_of(st.binary(max_size=200), damaged(IDENTITY.rpartition(b"CRC: ")[0])))
def test_an_identity_with_a_valid_checksum_may_hold_anything(body: bytes) -> None:
    with suppress(Corruption):
        assert isinstance(decode_identity(body + f"CRC: {crc32c(body):08x}\n".encode()), Identity)


@RUNS
@given(st.one_of(st.binary(max_size=200), damaged(NOTES)))
def test_any_bytes_are_a_note_or_none(data: bytes) -> None:
    found = decode_notes(data)
    assert found is None or found == decode_notes(NOTES)


VCLOCKS = st.dictionaries(st.integers(1, 31), st.integers(1, 2**62 - 1), max_size=31).map(
    lambda lsns: Vclock({InstanceId(i): Lsn(lsn) for i, lsn in lsns.items()})
)


@RUNS
@given(
    st.booleans(),
    st.none() | st.builds(LogNote, st.from_regex(r"[0-9]{20}\.xlog", fullmatch=True), st.integers(0, 2**62)),
    st.dictionaries(
        st.integers(1, 31).map(InstanceId), st.builds(AckNote, VCLOCKS, st.booleans()), max_size=31
    ),
    st.integers(0, 2**62),
)
def test_a_note_comes_back(
    amnesia: bool, log: LogNote | None, acks: dict[InstanceId, AckNote], n: int
) -> None:
    notes = Notes(amnesia, log, acks)
    assert decode_notes(encode_notes(notes, n)) == (n, notes)
