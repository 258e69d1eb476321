"""The WAL being written: what a restart finds after every way to stop (S8, S10)."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest

from synchro.errors import DiskFailed, WalIo, XlogGap
from synchro.storage.journal import Journal
from synchro.storage.recovery import open_xlog
from synchro.storage.xlog import Ending
from synchro.vclock import EMPTY_VCLOCK
from tests.sim.disk import Fault, SimDisk
from tests.storage_world import (
    DIR,
    SMALL,
    confirm,
    identity_file,
    initial_snapshot,
    last_xlog,
    new_instance,
    open_journal,
    promote,
    raft_state,
    reopen,
    restart,
    txn,
    vclock,
    write_each,
)


def test_first_file_is_named_by_an_empty_vclock() -> None:
    """[W-8]: the first WAL of a set is number zero, and no unfinished file is left beside it [W-10]."""
    disk, _ = new_instance()
    assert disk.listdir(DIR) == ["0" * 20 + ".snap", "0" * 20 + ".xlog"]


def test_what_was_appended_survives_a_power_cut() -> None:
    """S8: `append` returned, so the rows are there although everything un-synced is lost."""
    disk, journal = new_instance()
    written = [txn(1), txn(2, sync=True), confirm(3, 2), raft_state(1, 2, vote=1)]
    journal.append(written, wall_time=1.0)
    assert journal.vclock == vclock(_0=1, _1=3)

    disk.restart(kept=[])

    found = restart(disk)
    assert found.data == [one.data for one in written]
    assert found.recovered.vclock == journal.vclock
    assert not found.recovered.clean_stop
    assert found.recovered.lost is None


def test_a_clean_stop_leaves_an_end_marker() -> None:
    """[W-9], [W-21]: the lead is cut off, and the next start needs no copy of a tail."""
    disk, journal = new_instance()
    journal.append([txn(1)], wall_time=1.0)
    journal.close_clean(2.0)
    disk.restart(kept=[])

    found = restart(disk)
    assert found.recovered.clean_stop
    assert found.recovered.journal_start is not None and found.recovered.journal_start.tail == ()
    with pytest.raises(DiskFailed):
        journal.append([txn(2)], wall_time=3.0)


def test_rows_above_the_mark_are_copied_after_a_kill() -> None:
    """S8: they may be page cache only, so the new file holds them, synced, before anything is acked."""
    disk, journal = new_instance()
    write_each(journal, [txn(1), txn(2), txn(3)])  # the mark in the third block covers two of them
    disk.restart()  # killed; the page cache is still there

    found = restart(disk)
    start = found.recovered.journal_start
    assert start is not None
    assert start.vclock == vclock(_1=2)
    assert [one.lsn for one in start.tail] == [3]
    assert start.files[-1].path.endswith("0.xlog")

    second = reopen(disk, found)
    assert second.vclock == vclock(_1=3)
    second.append([txn(4)], wall_time=9.0)
    disk.restart(kept=[])
    assert restart(disk).lsns == [(1, 1), (1, 2), (1, 3), (1, 4)]


def test_the_mark_spares_the_copy() -> None:
    """The empty block with the mark makes all rows proven; it is written once."""
    disk, journal = new_instance()
    write_each(journal, [txn(1), txn(2)])
    assert journal.write_mark(3.0)
    assert not journal.write_mark(3.1)
    journal.append([txn(3)], wall_time=4.0)
    disk.restart()

    start = restart(disk).recovered.journal_start
    assert start is not None
    assert [one.lsn for one in start.tail] == [3]


def test_restart_without_a_write_replaces_the_empty_file() -> None:
    """[W-8]: the name would be the same; never appended to, replaced by a new file with a new salt."""
    disk, _ = new_instance()
    disk.restart()
    found = restart(disk)
    reopen(disk, found).append([txn(1)], wall_time=1.0)
    assert len([n for n in disk.listdir(DIR) if n.endswith(".xlog")]) == 1
    disk.restart(kept=[])
    assert restart(disk).lsns == [(1, 1)]


def test_restarts_in_a_row_keep_the_chain() -> None:
    """[W-23]: PrevVClock links the files whatever way each of them ended."""
    disk, journal = new_instance()
    lsn = 0
    for n in range(12):
        for _ in range(n % 3):
            lsn += 1
            journal.append([txn(lsn)], wall_time=float(n))
        if n % 4 == 0:
            journal.close_clean(float(n))
        disk.restart(kept=[] if n % 2 else None)
        found = restart(disk)
        assert found.lsns == [(1, i) for i in range(1, lsn + 1)]
        journal = reopen(disk, found, seed=n)


def test_a_large_file_is_rotated_between_batches() -> None:
    """[W-12], [W-7]: closed with its end marker after the batch; the next write opens a new one."""
    disk, journal = new_instance(limits=replace(SMALL, wal_max_size=3000))
    write_each(journal, [txn(n) for n in range(1, 13)])
    assert journal.rotations == len(journal.files) - 1 > 0
    with open_xlog(disk, journal.files[0].path) as reader:
        assert [block.number for block in reader.blocks()] == list(range(1, reader.last_number))
        assert reader.ending is Ending.CLEAN
    disk.restart(kept=[])
    assert restart(disk).lsns == [(1, n) for n in range(1, 13)]


def test_a_batch_over_many_blocks_has_one_sync() -> None:
    """Group commit: one write and one sync, whole transactions in each block [W-7]."""
    disk, journal = new_instance()
    journal.append([txn(1)], wall_time=0.0)
    before = journal.syncs
    batch = [txn(n, sync=True) for n in range(2, 60)]
    journal.append(batch, wall_time=1.0)
    assert journal.syncs - before <= 2  # one for the lead, one for the rows
    disk.restart(kept=[])
    assert len(restart(disk).txns) == 59


def test_a_recycled_file_shows_none_of_its_old_rows() -> None:
    """[W-40]: a file below the garbage line becomes the next one; its old blocks fail the salt."""
    disk, journal = new_instance(limits=replace(SMALL, wal_max_size=3000))
    write_each(journal, [txn(n) for n in range(1, 8)])
    journal.rotate(7.0)
    assert journal.collect_garbage(journal.vclock) >= 1
    assert any(name.startswith("spare") for name in disk.listdir(DIR))
    oldest = journal.files[0].vclock
    journal.append([txn(8)], wall_time=8.0)
    journal.rotate(8.5)
    assert not any(name.startswith("spare") for name in disk.listdir(DIR))
    journal.append([txn(9)], wall_time=9.0)
    disk.restart(kept=[])
    with open_xlog(disk, last_xlog(disk)) as reader:
        assert [one.lsn for _, _, txns in reader for one in txns] == [9]
    with pytest.raises(XlogGap):
        journal.files_after(EMPTY_VCLOCK)
    assert journal.files_after(oldest)[0].vclock == oldest


def test_a_file_with_needed_rows_stays() -> None:
    """[W-40]: only what lies entirely below the line goes; component 0 counts."""
    _, journal = new_instance()
    journal.append([txn(1), raft_state(1, 2)], wall_time=0.0)
    journal.rotate(1.0)
    assert journal.collect_garbage(vclock(_1=1)) == 0
    assert journal.collect_garbage(vclock(_0=1, _1=1)) == 1


@pytest.mark.parametrize("fault", [Fault.ENOSPC, Fault.SHORT])
def test_a_batch_without_room_is_cut_back(fault: Fault) -> None:
    """ADR 8: nothing of it is found by a restart, its LSNs are used again, the node goes on."""
    disk, journal = new_instance()
    journal.append([txn(1)], wall_time=0.0)
    disk.faults[disk.calls + 1] = fault
    with pytest.raises(WalIo):
        journal.append([txn(2), txn(3)], wall_time=1.0)
    assert journal.vclock == vclock(_1=1)

    killed = disk.clone()
    killed.restart()
    assert restart(killed).lsns == [(1, 1)]

    again = txn(2, sync=True)
    journal.append([again], wall_time=2.0)
    disk.restart()
    assert restart(disk).data[1:] == [again.data]


def test_a_cut_that_fails_ends_the_process() -> None:
    """Answers in docs/adr/: with neither the rows nor the cut on disk, nobody may be told anything."""
    disk, journal = new_instance()
    journal.append([txn(1)], wall_time=0.0)
    disk.faults = {disk.calls + 1: Fault.SHORT, disk.calls + 2: Fault.ENOSPC}
    with pytest.raises(DiskFailed) as failure:
        journal.append([txn(2)], wall_time=1.0)
    assert failure.value.details["errno"] == "28"
    with pytest.raises(DiskFailed):
        journal.append([txn(2)], wall_time=1.0)


@pytest.mark.parametrize("call", [1, 2])
def test_an_io_error_or_failed_sync_ends_the_process(call: int) -> None:
    """[L-30]: the write is call 1, its sync call 2; the error names file, offset and errno."""
    disk, journal = new_instance()
    journal.append([txn(1)], wall_time=0.0)
    end = journal.position[1]
    disk.faults[disk.calls + call] = Fault.EIO
    with pytest.raises(DiskFailed) as failure:
        journal.append([txn(2)], wall_time=1.0)
    assert failure.value.details == {"file": journal.position[0], "offset": str(end), "errno": "5"}


def test_a_sync_that_fails_with_no_space_is_not_a_cut() -> None:
    """A failed sync is never taken for a full disk: what lies below it is unknown."""
    disk, journal = new_instance()
    journal.append([txn(1)], wall_time=0.0)
    disk.faults[disk.calls + 2] = Fault.ENOSPC
    with pytest.raises(DiskFailed):
        journal.append([txn(2)], wall_time=1.0)


def append_until_full(journal: Journal) -> int:
    """Last LSN that had room."""
    lsn = 1
    with contextlib.suppress(WalIo):
        while True:
            journal.append([txn(lsn + 1)], wall_time=1.0)
            lsn += 1
    return lsn


def append_control(journal: Journal, first: int, last: int) -> None:
    for n in range(first, last + 1):
        journal.append([raft_state(n, n + 5)], wall_time=3.0, has_control=True)


def test_control_rows_use_the_reserve_of_a_full_disk() -> None:
    """[L-30]: clients are refused before the reserve is touched, so a vote still fits."""
    disk, journal = new_instance()
    journal.append([txn(1)], wall_time=0.0)
    disk.room = disk.used
    lsn = append_until_full(journal)
    journal.append([raft_state(1, 5, vote=1)], wall_time=2.0, has_control=True)
    journal.append([promote(lsn + 1, 5)], wall_time=2.0, has_control=True)
    with pytest.raises(WalIo):
        journal.append([txn(lsn + 2)], wall_time=3.0)
    with pytest.raises(WalIo):  # the reserve has an end too
        append_control(journal, 2, 9)

    disk.room = None
    journal.append([txn(lsn + 2)], wall_time=4.0)
    disk.restart(kept=[])
    assert restart(disk).lsns[-1] == (1, lsn + 2)


def test_a_full_disk_delays_rotation() -> None:
    """Rotation is housekeeping: while the lead lasts, rows go on into the old file."""
    disk, journal = new_instance(limits=replace(SMALL, wal_max_size=1024))
    journal.append([txn(1)], wall_time=0.0)
    disk.room = disk.used
    journal.append([txn(2)], wall_time=1.0)
    assert len(journal.files) == 1
    disk.room = None
    journal.append([txn(3)], wall_time=2.0)
    assert len(journal.files) == 2
    disk.restart(kept=[])
    assert restart(disk).lsns == [(1, 1), (1, 2), (1, 3)]


def test_what_the_journal_says_is_what_lies_on_the_disk() -> None:
    """Journal.J1, Journal.J2, Journal.J4, XlogFile.F1, XlogFile.F2: after every call, with and without room
    on the disk, and every restart."""
    for seed in range(30):
        rng = random.Random(seed)
        limits = replace(SMALL, wal_max_size=rng.choice([2000, 8000]))
        disk = SimDisk()
        initial_snapshot(disk)
        journal = open_journal(disk, limits=limits, identity=identity_file(disk), sync=seed % 3 > 0)
        lsn = 0
        for step in range(60):
            count = rng.randint(1, 4)
            disk.room = disk.used if rng.random() < 0.2 else None
            match rng.choice(["append", "append", "append", "mark", "rotate", "garbage", "note", "restart"]):
                case "append":
                    with contextlib.suppress(WalIo):
                        journal.append([txn(lsn + n + 1) for n in range(count)], float(step))
                        lsn += count
                case "mark":
                    journal.write_mark(float(step))
                case "rotate":
                    journal.rotate(float(step))
                case "garbage":
                    disk.room = None
                    initial_snapshot(disk, at=journal.vclock)
                    journal.collect_garbage(journal.vclock)
                case "note":
                    journal.write_note()
                case "restart":
                    disk.room = None
                    if rng.random() < 0.5:
                        journal.close_clean(float(step))
                    disk.restart()
                    journal = reopen(disk, restart(disk), limits=limits, seed=step, sync=seed % 3 > 0)
            journal.check()
            assert journal.vclock == vclock(_1=lsn)


def test_a_mark_that_half_arrived_is_written_over() -> None:
    """XlogFile.F3: a full disk takes the first half of the mark, which is all that has a meaning; the journal
    goes on from the same place, and a restart believes the mark as far as it goes."""
    disk, journal = new_instance()
    write_each(journal, [txn(1), txn(2)])
    disk.faults = {disk.calls + 1: Fault.SHORT}
    assert not journal.write_mark(3.0)
    journal.check()

    killed = disk.clone()
    killed.restart(kept=None)
    assert restart(killed).lsns == [(1, 1), (1, 2)]
    journal.append([txn(3)], wall_time=4.0)
    journal.check()
    disk.restart()
    assert restart(disk).lsns == [(1, 1), (1, 2), (1, 3)]


def test_the_check_of_the_journal_sees_other_bytes() -> None:
    """Journal.J1: a batch that is not there as it was written; Journal.J4: a file of the log that somebody
    removed."""
    disk = SimDisk()
    journal = open_journal(disk, identity=identity_file(disk))
    write_each(journal, [txn(1), txn(2)])
    journal.check()
    path = last_xlog(disk)
    content = disk.read(path)
    disk.flip(path, 8 * (journal.position[1] - 512) + 100)
    with pytest.raises(AssertionError):
        journal.check()
    disk.flip(path, 8 * (journal.position[1] - 512) + 100)
    assert disk.read(path) == content
    journal.check()
    disk.unlink(path)
    with pytest.raises(AssertionError):
        journal.check()


@pytest.mark.parametrize("removed", ["spare", "old file"])
def test_what_somebody_removed_by_hand_ends_nothing(removed: str) -> None:
    """ADR 8: who makes room on a full disk takes old files. Nobody needs these; they ended the instance."""
    disk, journal = new_instance(limits=replace(SMALL, wal_max_size=3000))
    write_each(journal, [txn(n) for n in range(1, 8)])
    journal.rotate(7.0)
    if removed == "spare":
        assert journal.collect_garbage(journal.vclock) >= 1
        disk.unlink(next(f"{DIR}/{name}" for name in disk.listdir(DIR) if name.startswith("spare")))
        disk.room = disk.used
        with pytest.raises(WalIo):
            write_each(journal, [txn(n) for n in range(8, 40)])
    else:
        disk.unlink(journal.files[0].path)
        assert journal.collect_garbage(journal.vclock) >= 1
        journal.append([txn(8)], wall_time=8.0)
    journal.check()


def test_no_space_deletes_what_only_subscribers_need() -> None:
    """[W-17]: files below the oldest checkpoint go, even if a subscriber is behind; it must re-seed."""
    disk, journal = new_instance()
    write_each(journal, [txn(n) for n in range(1, 9)])
    journal.rotate(1.0)
    journal.collect_garbage(EMPTY_VCLOCK, recovery_point=journal.vclock)
    assert len(journal.files) == 2
    disk.room = disk.used
    for n in range(9, 19):
        journal.append([txn(n)], wall_time=2.0)
    assert journal.gaps_made == 1
    with pytest.raises(XlogGap):
        journal.files_after(EMPTY_VCLOCK)


def test_without_fsync_nothing_is_called_proven() -> None:
    """`wal.mode: write` [W-13]: no mark is ever written, so a power cut is a torn tail, not corruption."""
    from tests.sim.disk import SimDisk
    from tests.storage_world import initial_snapshot, open_journal

    disk = SimDisk()
    initial_snapshot(disk)
    journal = open_journal(disk, sync=False)
    write_each(journal, [txn(1), txn(2), txn(3)])
    assert not journal.write_mark(1.0)
    killed = disk.clone()
    killed.restart()
    assert restart(killed).lsns == [(1, 1), (1, 2), (1, 3)]
