"""Which files a restart reads, and which disks it refuses ([W-10], [W-11], [W-20..25])."""

from __future__ import annotations

import pytest

from synchro.errors import Corruption, XlogGap
from synchro.row import Txn
from synchro.storage.recovery import Recovered, recover, recover_with_any
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.xlog import BlockWriter, FileHeader, decode_header, encode_header, file_name
from synchro.vclock import Vclock
from tests.sim.disk import SimDisk
from tests.storage_world import (
    DIR,
    UUID,
    initial_snapshot,
    last_xlog,
    new_instance,
    put,
    raft_state,
    reopen,
    restart,
    txn,
    vclock,
    write_each,
)


def chain_of_three() -> SimDisk:
    """Rows 1..6, two in each of three files; a clean stop."""
    disk, journal = new_instance()
    for n in (1, 3, 5):
        write_each(journal, [txn(n), txn(n + 1)])
        if n < 5:
            journal.rotate(1.0)
    journal.close_clean(2.0)
    disk.restart(kept=[])
    return disk


def snapshot_at(disk: SimDisk, at: Vclock) -> None:
    write_snapshot(disk, DIR, SnapshotMeta(vclock=at), [], instance_uuid=UUID)


def put_xlog(disk: SimDisk, start: Vclock, prev: Vclock | None, txns: list[Txn], uuid: str = UUID) -> str:
    """A file by hand: one block a transaction, no marks, no end marker."""
    data = encode_header(FileHeader("XLOG", uuid, start, prev, salt=5))
    writer = BlockWriter(5, decode_header(data)[2])
    for one in txns:
        data += writer.encode(one.data, rows=len(one.rows), mark=0, wall_time=0.0)
    path = f"{DIR}/{file_name(start)}"
    disk.replace(path, data)
    return path


def test_an_empty_directory_is_a_first_start() -> None:
    disk = SimDisk()
    assert recover(disk, "snap", "wal", UUID) is None


def test_wal_without_a_snapshot_is_refused() -> None:
    """[W-34]: the initial snapshot is always there; without it the rows have no ground."""
    disk, journal = new_instance()
    journal.append([txn(1)], 1.0)
    disk.unlink(f"{DIR}/{file_name(vclock(), '.snap')}")
    with pytest.raises(Corruption, match="no snapshot"):
        restart(disk)


def test_unfinished_files_are_deleted() -> None:
    """[W-10]"""
    disk = chain_of_three()
    disk.replace(f"{DIR}/{'0' * 19}9.snap.inprogress", b"half")
    assert restart(disk).lsns[-1] == (1, 6)
    assert not any(name.endswith(".inprogress") for name in disk.listdir(DIR))


def test_the_newest_snapshot_is_the_ground() -> None:
    """[W-20]: rows it covers are not given out again, files below it are not read."""
    disk = chain_of_three()
    snapshot_at(disk, vclock(_1=3))
    disk.unlink(f"{DIR}/{'0' * 20}.xlog")
    found = restart(disk)
    assert found.lsns == [(1, 4), (1, 5), (1, 6)]
    assert found.recovered.vclock == vclock(_1=6) and found.recovered.clean_stop


def test_a_snapshot_of_the_committed_prefix_lies_inside_a_file() -> None:
    """Components are lowered one by one, so its vclock need not be a point in WAL order."""
    disk, journal = new_instance()
    write_each(journal, [txn(1), raft_state(1, 2), txn(1, origin=2), txn(2), txn(2, origin=2)])
    snapshot_at(disk, vclock(_1=1, _2=2))
    found = restart(disk)
    assert found.lsns == [(0, 1), (1, 2)]
    assert found.recovered.vclock == vclock(_0=1, _1=2, _2=2)


def test_a_transaction_with_local_rows_moves_two_components() -> None:
    """[W-5]: component 0 counts the local rows beside the global ones."""
    from synchro.ids import LOCAL, InstanceId, Lsn
    from synchro.row import GROUP_LOCAL, Row, RowType
    from synchro.storage.xrow import encode_txn

    mixed = encode_txn(
        [
            Row(RowType.REPLACE, InstanceId(1), Lsn(1), Lsn(1), 0, put(1)),
            Row(RowType.REPLACE, LOCAL, Lsn(1), Lsn(1), 0, put(2), GROUP_LOCAL),
        ]
    )
    disk, journal = new_instance()
    journal.append([mixed], 1.0)
    assert journal.vclock == vclock(_0=1, _1=1)
    disk.restart(kept=[])
    assert restart(disk).recovered.vclock == vclock(_0=1, _1=1)


@pytest.mark.parametrize("missing", [2, 4])
def test_a_missing_file_in_the_middle_or_before_is_a_gap(missing: int) -> None:
    """[W-23]: the text names both ends."""
    disk = chain_of_three()
    if missing == 4:  # the first two are gone: the snapshot is too old
        disk.unlink(f"{DIR}/{'0' * 20}.xlog")
    disk.unlink(f"{DIR}/{'0' * 19}2.xlog")
    with pytest.raises(XlogGap, match=r"Missing .xlog file between LSN 0 \{\} and 4 \{1: 4\}"):
        restart(disk)


def test_a_file_of_another_instance_is_refused() -> None:
    """[W-11]: invalid instance UUID, for WAL and snapshot."""
    disk = chain_of_three()
    with pytest.raises(Corruption, match="invalid instance UUID"):
        recover(disk, DIR, DIR, "somebody else")
    only = SimDisk()
    initial_snapshot(only)
    with pytest.raises(Corruption, match="invalid instance UUID"):
        recover(only, DIR, DIR, "somebody else")


def test_a_renamed_file_is_refused() -> None:
    """[W-11]: the name equals the signature in the header."""
    disk = chain_of_three()
    disk.rename(f"{DIR}/{'0' * 19}4.xlog", f"{DIR}/{'0' * 19}5.xlog")
    with pytest.raises(Corruption, match="the name says"):
        restart(disk)


def test_files_that_are_not_in_one_order_are_refused() -> None:
    """[W-11]: concurrent vclocks come from two histories."""
    disk, _ = new_instance()
    put_xlog(disk, vclock(_1=2), vclock(), [])
    put_xlog(disk, vclock(_2=5), vclock(_1=2), [])
    with pytest.raises(Corruption, match="does not follow"):
        restart(disk)


def test_a_closed_file_that_is_too_short_is_refused() -> None:
    """S15: the next file starts at 2, so row 2 was synced once."""
    disk, _ = new_instance()
    path = put_xlog(disk, vclock(), None, [txn(1)])
    put_xlog(disk, vclock(_1=2), vclock(), [txn(3)])
    with pytest.raises(Corruption) as failure:
        restart(disk)
    assert failure.value.details["file"] == path
    assert failure.value.details["lsn"] == "1"


def test_files_may_overlap_with_equal_rows_only() -> None:
    """Rows above the mark are copied at a restart; the same LSN with other bytes is corruption (S10)."""
    disk, _ = new_instance()
    put_xlog(disk, vclock(), None, [txn(1), txn(2)])
    put_xlog(disk, vclock(_1=1), vclock(), [txn(2), txn(3)])
    assert restart(disk).lsns == [(1, 1), (1, 2), (1, 3)]

    put_xlog(disk, vclock(_1=1), vclock(), [txn(2, put("other")), txn(3)])
    with pytest.raises(Corruption, match="differs"):
        restart(disk)


def test_an_lsn_twice_in_one_file_is_corruption() -> None:
    """[W-2]"""
    disk, _ = new_instance()
    put_xlog(disk, vclock(), None, [txn(1), txn(1)])
    with pytest.raises(Corruption, match="twice"):
        restart(disk)


def test_a_log_that_ends_below_its_snapshot_is_corruption() -> None:
    """The snapshot was made when those rows were on disk: the tail was lost, not torn (S15)."""
    disk, journal = new_instance()
    journal.append([txn(1)], 1.0)
    snapshot_at(disk, vclock(_1=5))
    with pytest.raises(Corruption, match="it ends at"):
        restart(disk)


def test_a_snapshot_alone_is_enough() -> None:
    """A joiner that stopped before its first row."""
    disk = SimDisk()
    initial_snapshot(disk, vclock(_1=5))
    found = restart(disk)
    assert found.recovered.vclock == vclock(_1=5)
    assert found.recovered.clean_stop and found.recovered.lost is None
    journal = reopen(disk, found)
    journal.append([txn(6)], 1.0)
    disk.restart(kept=[])
    assert restart(disk).lsns == [(1, 6)]


def test_a_torn_tail_is_named() -> None:
    """[W-21]: a person reads where the log was cut; it is not an error."""
    disk, journal = new_instance()
    journal.append([txn(1)], 1.0)
    path, end = journal.position
    disk.restart(kept=[])
    tail = restart(disk).recovered.torn_tail
    assert tail is not None and (tail.path, tail.offset) == (path, end)


def test_a_torn_tail_that_was_cut_can_never_come_back() -> None:
    """S10: a block was written and cut back in the page cache only, then the process died and the next one
    gave its LSNs again; after a power loss the old block would be whole, and differ from the new rows."""
    disk, journal = new_instance()
    write_each(journal, [txn(1), txn(2)])
    path, before = last_xlog(disk), journal.position[1]
    write_each(journal, [txn(3, put(3, "old"))])
    disk.pwrite(disk.open(path), bytes(512), before)  # the cut; its sync failed, so the process left
    disk.restart()

    again = reopen(disk, restart(disk))
    assert again.vclock == vclock(_1=2)
    write_each(again, [txn(3, put(3, "new"))])
    disk.restart(kept=[])  # nothing that was not synced survives the power loss

    assert restart(disk).data[-1] == txn(3, put(3, "new")).data


# --- a newest snapshot that is damaged -------------------------------------------------------------------


def damage_of(kind: str, data: bytes) -> bytes:
    match kind:
        case "empty":
            return b""
        case "zeros":
            return bytes(len(data))
        case "half":
            return data[: len(data) // 2]
        case "one byte short":
            return data[:-1]
        case "a bit of the header":
            return data[:60] + bytes([data[60] ^ 1]) + data[61:]
        case "a bit of the last tuple":
            return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]
        case _:
            raise AssertionError(kind)


DAMAGES = ["empty", "zeros", "half", "one byte short", "a bit of the header", "a bit of the last tuple"]


def with_snapshots(*at: int, rows: int = 9) -> SimDisk:
    """A log of `rows` rows, rotated behind each snapshot as a checkpoint does it, and not closed."""
    disk, journal = new_instance()
    for number in range(1, rows + 1):
        journal.append([txn(number)], wall_time=1.0)
        if number in at:
            tuples = [(512, [(key, "v") for key in range(1, number + 1)])]
            write_snapshot(disk, DIR, SnapshotMeta(vclock=journal.vclock), tuples, instance_uuid=UUID)
            journal.rotate(1.0)
    disk.restart(kept=[])
    return disk


def recovered(disk: SimDisk) -> tuple[Recovered, list[object], list[Corruption]]:
    """Keys that a replay would find, each once."""

    def replay(found: Recovered) -> list[object]:
        keys = [one[0] for _, tuples in found.tuples() for one in tuples]
        return [*keys, *(one.lsn for batch in found.batches() for one in batch)]

    got = recover_with_any(disk, DIR, DIR, UUID, None, replay)
    assert got is not None
    return got


def snapshots(disk: SimDisk) -> list[str]:
    return [name for name in disk.listdir(DIR) if ".snap" in name]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_snapshot_is_replaced_by_an_older_one_and_the_log(kind: str) -> None:
    disk = with_snapshots(3, 6)
    newest = f"{DIR}/{snapshots(disk)[-1]}"
    disk.replace(newest, damage_of(kind, disk.read(newest)))
    found, keys, damaged = recovered(disk)
    assert keys == list(range(1, 10))
    assert found.snapshot_path.endswith("3.snap")
    assert [error.details["file"] for error in damaged] == [newest]
    assert snapshots(disk)[-1] == newest.split("/")[1] + ".damaged"
    disk.restart(kept=[])
    again = recovered(disk)
    assert (again[1], again[2]) == (keys, [])  # it is said once


def test_two_damaged_snapshots_are_set_aside_when_the_log_is_there() -> None:
    disk = with_snapshots(3, 6)
    for name in snapshots(disk)[1:]:
        disk.replace(f"{DIR}/{name}", b"")
    found, keys, damaged = recovered(disk)
    assert keys == list(range(1, 10))
    assert (len(damaged), found.snapshot_path) == (2, f"{DIR}/{'0' * 20}.snap")


def test_a_damaged_older_snapshot_hurts_nobody() -> None:
    disk = with_snapshots(3, 6)
    disk.replace(f"{DIR}/{snapshots(disk)[1]}", b"")
    _, keys, damaged = recovered(disk)
    assert (keys, damaged) == (list(range(1, 10)), [])


@pytest.mark.parametrize("what", ["the log before it", "all of the log", "its end", "older snapshots"])
def test_where_nothing_can_take_its_place_the_file_is_named_and_nothing_changed(what: str) -> None:
    disk = with_snapshots(3, 6)
    names = snapshots(disk)
    newest = f"{DIR}/{names[-1]}"
    disk.replace(newest, b"")
    logs = [name for name in disk.listdir(DIR) if name.endswith(".xlog")]
    gone = {
        "the log before it": logs[:-1],
        "all of the log": logs,
        "its end": logs[1:],
        "older snapshots": names[:-1],
    }[what]
    for name in gone:
        disk.unlink(f"{DIR}/{name}")
    before = disk.listdir(DIR)
    with pytest.raises(Corruption) as refused:
        recovered(disk)
    assert refused.value.details["file"] == newest
    assert "Next: restore" in refused.value.message
    assert disk.listdir(DIR) == before


def test_a_snapshot_of_another_instance_is_not_called_damaged() -> None:
    """Somebody mixed up directories: nothing may be renamed or passed over."""
    disk = with_snapshots(3)
    at = vclock(_1=3)
    write_snapshot(disk, DIR, SnapshotMeta(vclock=at), [], instance_uuid="somebody else")
    before = disk.listdir(DIR)
    with pytest.raises(Corruption, match="invalid instance UUID"):
        recovered(disk)
    assert disk.listdir(DIR) == before


def test_a_recovery_that_fails_before_its_tuples_leaves_no_file_open() -> None:
    """A joiner with a bad source tries again and again: each try would cost a descriptor."""
    disk = SimDisk()
    initial_snapshot(disk)
    before = len(disk._handles)
    for _ in range(3):
        with pytest.raises(Corruption):
            recover(disk, DIR, DIR, "22222222-2222-4222-8222-222222222222")
    found = recover(disk, DIR, DIR, None)
    assert found is not None
    found.close()
    assert len(disk._handles) == before
    found.close()  # nor is the file of somebody else closed
    assert len(disk._handles) == before
