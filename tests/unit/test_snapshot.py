"""Snapshots: one kind of frames for file and join; nothing missing goes unseen ([W-9], [W-10], [W-32])."""

from __future__ import annotations

import math

import msgpack
import pytest
from sim.disk import SimDisk
from storage_world import DIR, UUID, vclock

from synchro.errors import Corruption, DecodeError
from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.storage.snapshot import (
    ChunkKind,
    DroppedRange,
    RememberedRequest,
    SnapshotAssembler,
    SnapshotMeta,
    decode_chunk,
    iter_chunks,
    read_snapshot,
    write_frames,
    write_snapshot,
)
from synchro.storage.xlog import crc32c

ONE, TWO = InstanceId(1), InstanceId(2)
META = SnapshotMeta(
    vclock=vclock(_0=2, _1=8),
    replicaset_uuid="set",
    term=Term(5),
    vote=TWO,
    queue_owner=ONE,
    queue_term=Term(4),
    confirmed_lsn=Lsn(7),
    confirmed_vclock=vclock(_1=7),
    promote_terms=((ONE, Term(4)), (TWO, Term(2))),
    requests=tuple(RememberedRequest(RequestId(bytes([n] * 16)), ONE, Lsn(n), Term(4)) for n in range(1, 9)),
    drops=(DroppedRange(TWO, Lsn(1), Lsn(2)),),
    extra={"schema_version": 3},
)
SPACES = [(512, [(n, "x" * n, None, 1.5, b"\xff", {"a": (1,)}) for n in range(50)]), (513, []), (514, [()])]


def frames(chunk_bytes_max: int = 300) -> list[bytes]:
    return list(iter_chunks(META, SPACES, chunk_bytes_max=chunk_bytes_max))


def test_a_snapshot_comes_back_as_it_was_written() -> None:
    """[W-8], [W-32]: state of queue and Raft, request table, tuples; the name is the signature."""
    disk = SimDisk()
    disk.makedirs(DIR)
    path = write_snapshot(disk, DIR, META, SPACES, instance_uuid=UUID)
    assert path == f"{DIR}/00000000000000000010.snap"
    disk.restart(kept=[])  # durable when it returned

    snapshot = read_snapshot(disk, path)
    assert (snapshot.meta, snapshot.header.instance_uuid) == (META, UUID)
    stored: dict[int, list[object]] = {}
    for space_id, tuples in snapshot.tuples():
        stored.setdefault(space_id, []).extend(tuples)
    assert stored == {space_id: tuples for space_id, tuples in SPACES if tuples}


def test_frames_are_bounded_and_travel_alone() -> None:
    """A join sends the same frames; one tuple larger than the bound makes a frame of its own."""
    sent = frames()
    assert len(sent) > 10
    assert max(len(frame) for frame in sent[1:]) < 400
    assembler = SnapshotAssembler()
    chunks = [assembler.add(decode_chunk(frame)) for frame in sent]
    assert assembler.is_done and assembler.meta == META
    assert chunks[0].kind is ChunkKind.META and chunks[-1].kind is ChunkKind.FOOTER
    assert sum(len(chunk.tuples) for chunk in chunks) == 51


def test_a_joiner_writes_the_frames_it_received() -> None:
    """[W-35]: no decoding and encoding in between; but under its own UUID."""
    disk = SimDisk()
    disk.makedirs(DIR)
    path = write_frames(disk, DIR, META.vclock, "joiner", frames())
    snapshot = read_snapshot(disk, path)
    assert snapshot.header.instance_uuid == "joiner" and snapshot.meta == META


def test_a_key_that_is_not_known_is_passed_over() -> None:
    """Former versions wrote `pending_promotes`, whose rows come again from the WAL ([W-32], ADR 4)."""
    meta, *rest = frames()
    state = msgpack.unpackb(meta[21:], strict_map_key=False)
    assert "pending_promotes" not in state
    state["pending_promotes"] = [(2, 3, True, (1, 7, 5, 4)), (1, 9, False, (1, 8, 6, 4))]
    payload = msgpack.packb(state)
    head = meta[:13] + len(payload).to_bytes(4, "little")
    former = b"".join((head, crc32c(payload, crc32c(head)).to_bytes(4, "little"), payload))
    assert decode_chunk(former).meta == decode_chunk(meta).meta
    assert len(rest) > 1


def assemble(received: list[bytes]) -> None:
    assembler = SnapshotAssembler()
    for frame in received:
        assembler.add(decode_chunk(frame))


@pytest.mark.parametrize("lost", range(1, 8))
def test_a_lost_doubled_or_swapped_frame_is_seen(lost: int) -> None:
    """S15: the footer counts the frames and sums up their checksums."""
    sent = frames()
    for bad in (
        sent[:lost] + sent[lost + 1 :],
        [*sent[:lost], sent[lost], *sent[lost:]],
        [*sent[:lost], sent[lost + 1], sent[lost], *sent[lost + 2 :]],
        sent[1:],
    ):
        with pytest.raises(DecodeError):
            assemble(bad)


def test_every_truncation_is_refused() -> None:
    """[W-10]: a file under its final name is whole, so less than that is damage, with its offset."""
    disk = SimDisk()
    disk.makedirs(DIR)
    path = write_snapshot(disk, DIR, META, SPACES, instance_uuid=UUID)
    content = disk.read(path)
    for size in range(0, len(content), 7):
        disk.replace(path, content[:size])
        with pytest.raises(Corruption) as failure:
            list(read_snapshot(disk, path).tuples())
        assert int(failure.value.details["offset"]) <= size
    disk.replace(path, content + b"\0")
    with pytest.raises(Corruption):
        list(read_snapshot(disk, path).tuples())


def test_nan_in_a_value_survives() -> None:
    """NaN is no key, but a value field may hold it."""
    disk = SimDisk()
    disk.makedirs(DIR)
    path = write_snapshot(disk, DIR, SnapshotMeta(), [(512, [(1, math.nan)])], instance_uuid=UUID)
    ((_, (stored,)),) = read_snapshot(disk, path).tuples()
    assert math.isnan(stored[1])
