"""The WAL file format, and how a reader tells a torn tail from damage ([W-9], [W-21], S15)."""

from __future__ import annotations

import pytest

from synchro.errors import Corruption, DecodeError
from synchro.ids import InstanceId, Lsn
from synchro.storage.recovery import open_xlog
from synchro.storage.xlog import (
    BLOCK_HEADER_BYTES,
    SECTOR,
    BlockWriter,
    Ending,
    FileHeader,
    XlogReader,
    decode_header,
    encode_header,
    file_name,
    is_file_name,
    read_block,
    split_batch,
)
from synchro.vclock import Vclock
from tests.sim.disk import SimDisk
from tests.storage_world import DIR, SMALL, last_xlog, new_instance, txn, vclock, write_each


def reader_of(data: bytes) -> XlogReader:
    return XlogReader(lambda size, offset: data[offset : offset + size], len(data), "some.xlog")


def xlog(*marks: int, ends: bool = False) -> tuple[bytes, list[int]]:
    """A file with one transaction a block, carrying these marks; and the offsets of the blocks."""
    data = encode_header(FileHeader("XLOG", "me", vclock(), salt=99))
    _, _, crc = decode_header(data)
    writer = BlockWriter(99, crc)
    offsets = []
    for lsn, mark in enumerate(marks, start=1):
        offsets.append(len(data))
        data += writer.encode(txn(lsn).data, rows=1, mark=mark, wall_time=float(lsn))
    if ends:
        offsets.append(len(data))
        data += writer.encode(b"", rows=0, mark=len(marks), wall_time=9.0, is_end=True)
    return data, offsets


def damaged(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def test_a_header_holds_what_the_rules_ask_for() -> None:
    """[W-9]: type, version, software, instance, both vclocks; the largest vclocks fit."""
    header = FileHeader("XLOG", "me", vclock(_0=3, _1=5), vclock(_1=2), salt=2**64 - 1)
    data = encode_header(header)
    assert data.startswith(b"XLOG\n1\nsynchro ")
    assert b"\nInstance: me\nVClock: {0: 3, 1: 5}\nPrevVClock: {1: 2}\n" in data
    assert decode_header(data)[:2] == (header, SECTOR)

    full = Vclock({InstanceId(i): Lsn(2**64 - 1 - i) for i in range(32)})
    large = FileHeader("XLOG", "me", full, full)
    assert decode_header(encode_header(large))[0] == large


def test_every_bit_of_a_header_counts() -> None:
    data = encode_header(FileHeader("XLOG", "me", vclock(_1=5), salt=5))
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            decode_header(bytes(bad))


def test_names_are_signatures() -> None:
    """[W-8]"""
    assert file_name(vclock(_0=1, _1=5)) == "00000000000000000006.xlog"
    assert is_file_name("00000000000000000006.xlog")
    assert not is_file_name("00000000000000000006.xlog.inprogress")
    assert not is_file_name("6.xlog")


def test_blocks_hold_whole_transactions_and_start_at_sectors() -> None:
    """[W-7]: a torn write cannot touch a sector that was synced before."""
    txns = [txn(n) for n in range(1, 11)]
    payloads = list(split_batch(txns, 3 * len(txns[0].data)))
    assert [rows for _, rows in payloads] == [3, 3, 3, 1]
    assert list(split_batch(txns[:1], 1)) == [(txns[0].data, 1)]
    data, offsets = xlog(0, 1, 2)
    assert all(offset % SECTOR == 0 for offset in offsets) and len(data) % SECTOR == 0


def test_a_file_is_read_back_with_its_end() -> None:
    data, offsets = xlog(0, 1, 1, ends=True)
    reader = reader_of(data)
    assert [(offset, [t.lsn for t in txns]) for offset, _, txns in reader] == list(
        zip(offsets[:3], ([1], [2], [3]), strict=True)
    )
    assert (reader.ending, reader.mark, reader.end) == (Ending.CLEAN, 4, len(data))


def test_without_an_end_marker_the_last_mark_counts() -> None:
    """[W-21]: not closed, no error; blocks above the mark are not known to be synced."""
    data, _ = xlog(0, 1, 2)
    reader = reader_of(data + bytes(4096))
    assert len(list(reader)) == 3
    assert (reader.ending, reader.mark, reader.last_number) == (Ending.TORN, 2, 3)


@pytest.mark.parametrize(
    ("marks", "hurt", "rows"),
    [((0, 1, 2), 2, 2), ((0, 0, 0), 1, 1), ((0, 1, 1), 1, 1), ((0, 0, 0), 0, 0)],
)
def test_damage_above_the_mark_is_a_torn_tail(marks: tuple[int, ...], hurt: int, rows: int) -> None:
    data, offsets = xlog(*marks)
    reader = reader_of(damaged(data, offsets[hurt] + BLOCK_HEADER_BYTES + 3))
    assert len(list(reader)) == rows
    assert (reader.ending, reader.end) == (Ending.TORN, offsets[hurt])


@pytest.mark.parametrize(
    ("marks", "ends", "hurt"), [((0, 1, 2), False, 0), ((0, 1, 2), False, 1), ((0,), True, 0)]
)
@pytest.mark.parametrize("at", [0, 5, 13, 20, 30, BLOCK_HEADER_BYTES - 1, BLOCK_HEADER_BYTES + 3])
def test_damage_below_the_mark_is_corruption(marks: tuple[int, ...], ends: bool, hurt: int, at: int) -> None:
    """[W-22], S15: a later block says that this one was whole once; the error names file, offset and LSN."""
    data, offsets = xlog(*marks, ends=ends)
    with pytest.raises(Corruption) as failure:
        list(reader_of(damaged(data, offsets[hurt] + at)))
    details = failure.value.details
    assert (details["file"], details["offset"]) == ("some.xlog", str(offsets[hurt]))
    assert details.get("lsn") == (str(hurt) if hurt else None)


def test_blocks_of_another_salt_are_not_seen() -> None:
    """A recycled file holds valid blocks of its former life."""
    data, offsets = xlog(0, 1)
    assert read_block(lambda s, o: data[o : o + s], offsets[0], 98) is None
    fresh = encode_header(FileHeader("XLOG", "me", vclock(_1=2), salt=98))
    reader = reader_of(fresh + data[len(fresh) :])
    assert list(reader) == []
    assert reader.ending is Ending.TORN


def test_a_block_of_another_chain_is_not_taken() -> None:
    """Number and salt fit, but it followed another block: left from a batch that was cut back."""
    data, offsets = xlog(0, 0)
    other = BlockWriter(99, 12345)
    other.encode(b"", rows=0, mark=0, wall_time=0.0)
    stale = other.encode(txn(2).data, rows=1, mark=0, wall_time=2.0)
    reader = reader_of(data[: offsets[1]] + stale)
    assert [t.lsn for _, _, txns in reader for t in txns] == [1]


def test_a_valid_block_with_bad_rows_is_corruption() -> None:
    """[W-24]: an unfinished transaction under a good checksum is no torn tail."""
    data = encode_header(FileHeader("XLOG", "me", vclock(), salt=99))
    writer = BlockWriter(99, decode_header(data)[2])
    unfinished = bytearray(txn(1).data)
    unfinished[5] = 0
    data += writer.encode(bytes(unfinished), rows=1, mark=0, wall_time=0.0)
    with pytest.raises(Corruption, match="not finished transaction"):
        list(reader_of(data))


def test_tools_can_walk_one_file() -> None:
    """What `wal cat` and `wal check` use."""
    disk, journal = new_instance(limits=SMALL)
    write_each(journal, [txn(1), txn(2)])
    journal.write_mark(5.0)
    with open_xlog(disk, last_xlog(disk)) as reader:
        seen = [(block.number, block.mark, block.time, len(txns)) for _, block, txns in reader]
    assert seen == [(1, 0, 0.0, 1), (2, 1, 1.0, 1), (3, 2, 5.0, 0)]
    empty = SimDisk()
    empty.makedirs(DIR)
    empty.replace(DIR + "/x.xlog", b"")
    with pytest.raises(Corruption), open_xlog(empty, DIR + "/x.xlog"):
        pass
