"""ADR 14: a log that lost what was synced is known by the note in the identity file, and no other
is.

What lies behind the end proves nothing, and a log without its last file ends clean: so each test here damages
a directory that would look whole without the note.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from synchro.config import Limits
from synchro.errors import Corruption, DiskFailed, WalIo
from synchro.storage.identity import IdentityFile
from synchro.storage.journal import Journal
from synchro.storage.names import IDENTITY_NAME
from synchro.storage.notes import LogNote, Notes
from synchro.storage.recovery import open_xlog
from tests.sim.disk import Fault, PowerCut, SimDisk
from tests.storage_world import (
    DIR,
    SMALL,
    Restarted,
    identity_file,
    initial_snapshot,
    last_xlog,
    open_journal,
    put,
    reopen,
    restart,
    txn,
    write_each,
)

FAST = replace(SMALL, wal_lead_bytes=8192)


def noted_instance(*, limits: Limits = FAST, sync: bool = True) -> tuple[SimDisk, Journal]:
    """A directory with an identity, the initial snapshot and an open log."""
    disk = SimDisk()
    identity = identity_file(disk)
    initial_snapshot(disk)
    return disk, open_journal(disk, limits=limits, sync=sync, identity=identity)


def written(count: int = 40, *, rotate_at: int = 0, clean: bool = False) -> SimDisk:
    """`count` batches were acknowledged, and noted; then the process was killed, or stopped."""
    disk, journal = noted_instance()
    for number in range(1, count + 1):
        journal.append([txn(number)], wall_time=1.0)
        if number == rotate_at:
            journal.rotate(1.0)
    assert journal.write_note()
    if clean:
        journal.close_clean(2.0)
    disk.restart()
    return disk


def borders(disk: SimDisk, path: str) -> list[int]:
    """Where its blocks begin, and where the last one ends."""
    with open_xlog(disk, path) as reader:
        return [*(block.offset for block in reader.blocks()), reader.end]


def shown(found: Restarted) -> int:
    return len(found.txns)


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_a_last_file_cut_at_any_block_border_is_lost(clean: bool) -> None:
    """The cut file is a valid log in itself; only the note knows that there was more."""
    whole = written(clean=clean)
    path = last_xlog(whole)
    data = whole.read(path)
    ends = borders(whole, path)
    for end in ends[:-1]:
        disk = whole.clone()
        disk.replace(path, data[:end])
        found = restart(disk)
        assert found.recovered.lost is not None, end
        assert path.rsplit("/", 1)[-1] in found.recovered.lost
    if not clean:
        disk = whole.clone()
        disk.replace(path, data[: ends[-1]])  # only the lead is gone
        assert restart(disk).recovered.lost is None


@pytest.mark.parametrize("rotate_at", [0, 20, 40], ids=["one file", "two files", "the last one is empty"])
@pytest.mark.parametrize("clean", [False, True], ids=["killed", "stopped"])
def test_a_last_file_that_was_removed_is_lost(rotate_at: int, clean: bool) -> None:
    """With a file before it, what is left ends with an end marker, as after a clean stop."""
    disk = written(rotate_at=rotate_at, clean=clean)
    disk.unlink(last_xlog(disk))
    found = restart(disk)
    assert found.recovered.lost is not None
    assert "is gone" in found.recovered.lost
    assert found.recovered.clean_stop


def test_all_files_removed_is_lost() -> None:
    """The snapshot alone looks like an instance that was made and did nothing yet."""
    disk = written(rotate_at=20)
    for name in disk.listdir(DIR):
        if name.endswith(".xlog"):
            disk.unlink(f"{DIR}/{name}")
    found = restart(disk)
    assert shown(found) == 0
    assert found.recovered.lost is not None


@pytest.mark.parametrize("with_what", ["zeros", "noise", "an older copy", "another block of it"])
def test_a_tail_that_was_overwritten_is_lost(with_what: str) -> None:
    whole = written()
    path = last_xlog(whole)
    data = bytearray(whole.read(path))
    ends = borders(whole, path)
    cut = ends[len(ends) // 4]
    match with_what:
        case "zeros":
            data[cut:] = bytes(len(data) - cut)
        case "noise":
            data[cut:] = random.Random(1).randbytes(len(data) - cut)
        case "an older copy":
            data[cut:] = b""
        case _:
            data[cut:] = data[ends[0] : ends[1]] * 3
    whole.replace(path, bytes(data))
    found = restart(whole)
    assert 0 < shown(found) < 40
    assert found.recovered.lost is not None


def test_a_directory_without_a_note_is_as_it_was_before_notes_existed() -> None:
    """An old directory, or a bootstrap leader that was killed before its first log: no name, no loss."""
    disk = written()
    disk.unlink(f"{DIR}/{IDENTITY_NAME}")
    identity_file(disk)
    path = last_xlog(disk)
    ends = borders(disk, path)
    disk.replace(path, disk.read(path)[: ends[3]])
    assert restart(disk).recovered.lost is None

    fresh = SimDisk()
    identity_file(fresh)
    initial_snapshot(fresh)
    found = restart(fresh)
    assert found.recovered.lost is None
    assert found.recovered.lost is None


def test_a_new_file_is_named_before_a_row_in_it_is_acknowledged() -> None:
    """Else its loss would not be seen. In this order: the name of the file is durable, then the note."""
    note = [f"{call} {IDENTITY_NAME}.inprogress" for call in ("pwrite", "sync")]  # as the disk knows the file
    disk, journal = noted_instance()
    assert disk.log[-3:] == ["sync_dir data", *note]
    journal.append([txn(1)], wall_time=1.0)
    journal.rotate(2.0)
    assert disk.log[-3:] == ["sync_dir data", *note]


def test_the_end_marker_is_synced_before_the_lead_is_cut_off() -> None:
    """A crash between the two must not leave a file that has neither."""
    disk, journal = noted_instance()
    journal.append([txn(1)], wall_time=1.0)
    disk.log.clear()
    journal.close_clean(2.0)
    log = [call.split(" ")[0] for call in disk.log if "xlog" in call]
    assert log == ["pwrite", "sync", "truncate", "sync"]


def test_a_note_never_claims_what_is_not_synced() -> None:
    """With `wal.mode: write` rows are page cache only: a power cut may take them, and that is no loss."""
    disk, journal = noted_instance(sync=False)
    write_each(journal, [txn(number) for number in range(1, 10)])
    assert journal.write_note()
    for kept in range(len(disk.unsynced) + 1):
        image = disk.clone()
        image.restart(image.unsynced[:kept])
        assert restart(image).recovered.lost is None
    journal.rotate(1.0)
    write_each(journal, [txn(number) for number in range(10, 14)])
    assert journal.write_note()
    image = disk.clone()
    image.restart([])
    found = restart(image)
    assert (shown(found), found.recovered.lost) == (9, None)


def power_cut(disk: SimDisk, seed: int) -> str:
    return disk.crash(random.Random(seed))


@pytest.mark.parametrize(
    "limits",
    [
        FAST,
        replace(FAST, wal_max_size=3000),
        replace(FAST, wal_block_bytes_max=100),
        replace(FAST, wal_max_size=2000, wal_lead_bytes=1024, wal_control_reserve_bytes=512),
    ],
    ids=["one file", "many files", "batches of many blocks", "small leads"],
)
def test_crashes_of_an_honest_disk_are_no_loss(limits: Limits) -> None:
    """Recycled files, torn batches, long tails at restart, restarts that replace a file of the same name."""
    for seed in range(40):
        rng = random.Random(seed)
        disk, journal = noted_instance(limits=limits)
        lsn = 0
        for _ in range(5):
            for _ in range(rng.randint(0, 8)):
                count = rng.choice((1, 1, 5))
                journal.append([txn(lsn + 1 + n) for n in range(count)], wall_time=1.0)
                lsn += count
                if rng.random() < 0.4:
                    journal.write_note()
                if rng.random() < 0.1:
                    journal.write_mark(1.0)
                if rng.random() < 0.1:
                    journal.rotate(1.0)
            if rng.random() < 0.5:
                disk.restart()
            else:
                power_cut(disk, seed)
            found = restart(disk)
            assert found.recovered.lost is None, seed
            assert shown(found) >= lsn
            lsn = shown(found)
            journal = reopen(disk, found, limits=limits, seed=rng.getrandbits(30))


def test_a_full_disk_notes_all_the_same_and_loses_nothing() -> None:
    """The blocks of the notes are there already; what is acknowledged until the lead is used up is noted."""
    disk, journal = noted_instance()
    disk.room = disk.used
    lsn = 0
    with suppress(WalIo):
        while True:
            journal.append([txn(lsn + 1)], wall_time=1.0)
            lsn += 1
            assert journal.write_note()
    assert lsn > 1
    for seed in range(10):
        image = disk.clone()
        power_cut(image, seed)
        assert restart(image).recovered.lost is None
    path = last_xlog(disk)
    disk.restart()
    disk.room = None
    disk.replace(path, disk.read(path)[: borders(disk, path)[-2]])
    assert restart(disk).recovered.lost is not None


def test_the_file_that_is_named_stays_while_there_is_no_room_to_name_another() -> None:
    """Journal.J4, an identity file of the first format on a full disk: else the next start would miss a
    file."""
    disk = SimDisk()
    keeper = Full(identity_file(disk))
    initial_snapshot(disk)
    journal = open_journal(disk, limits=FAST, identity=keeper)
    write_each(journal, [txn(1), txn(2)])
    first = last_xlog(disk)
    keeper.is_full = True
    journal.rotate(1.0)
    assert journal.collect_garbage(journal.vclock) == 0
    assert disk.exists(first)
    journal.check()
    keeper.is_full = False
    assert journal.collect_garbage(journal.vclock) == 1
    journal.check()


@dataclass
class Full:
    """An identity file for whose notes there is no room, at times."""

    file: IdentityFile
    is_full: bool = False

    @property
    def log(self) -> LogNote | None:
        return self.file.log

    @log.setter
    def log(self, noted: LogNote | None) -> None:
        self.file.log = noted

    @property
    def notes(self) -> Notes:
        return self.file.notes

    def write(self) -> bool:
        return not self.is_full and self.file.write()


def test_what_was_copied_into_a_new_file_of_the_same_name_is_not_missed() -> None:
    """All rows are above the mark, so a restart writes them anew, in fewer blocks, under the name that is
    noted."""
    for call in range(1, 30):
        disk, journal = noted_instance()
        write_each(journal, [txn(number) for number in range(1, 8)])
        assert journal.write_note()
        disk.restart()
        found = restart(disk)
        disk.faults[disk.calls + call] = Fault.CUT
        try:
            reopen(disk, found, limits=FAST)
        except PowerCut:
            disk.faults.clear()
        else:
            return
        for kept in (None, [], list(disk.unsynced)):
            image = disk.clone()
            image.restart(kept if kept is None else [op for op in image.unsynced if kept])
            again = restart(image)
            assert (shown(again), again.recovered.lost) == (7, None), call
    raise AssertionError("the journal never opened")


def with_a_copied_tail() -> SimDisk:
    """Three rows in one block above the mark, copied by a restart into a file that got two more."""
    disk, journal = noted_instance()
    write_each(journal, [txn(1), txn(2)])
    journal.append([txn(3), txn(4), txn(5)], wall_time=3.0)
    assert journal.write_note()
    disk.restart()
    journal = reopen(disk, restart(disk), limits=replace(FAST, wal_block_bytes_max=60))
    write_each(journal, [txn(6), txn(7)])
    assert journal.write_note()
    disk.restart()
    return disk


@pytest.mark.parametrize("with_note", [True, False], ids=["noted", "an old directory"])
def test_rows_that_were_copied_and_are_gone_from_the_copy_are_lost(with_note: bool) -> None:
    """Found by the simulator: the copy was cut, the log went on behind it, and its new rows met the
    old ones in the file before: the next start called that damage. They are proof of the loss, at once."""
    whole = with_a_copied_tail()
    assert len([name for name in whole.listdir(DIR) if name.endswith(".xlog")]) == 2
    path = last_xlog(whole)
    data = whole.read(path)
    ends = borders(whole, path)
    assert restart(whole).recovered.lost is None
    for number, end in enumerate(ends[:-1]):
        disk = whole.clone()
        disk.replace(path, data[:end])
        if not with_note:
            disk.unlink(f"{DIR}/{IDENTITY_NAME}")
            identity_file(disk)
        found = restart(disk)
        have = shown(found)
        is_lost = with_note or number < 3
        assert (found.recovered.lost is not None) is is_lost, number
        journal = reopen(disk, found, limits=FAST)
        write_each(journal, [txn(have + 1, put(have + 1, "other")), txn(have + 2, put(have + 2, "other"))])
        disk.restart()
        again = restart(disk)
        assert (shown(again), again.recovered.lost) == (have + 2, None), number


def with_a_block_behind_a_gap() -> SimDisk:
    """The machine lost power behind a mark and a block of rows: of the two only the rows are on the disk.
    Their block says too that what is ahead of both was synced; a restart has copied that."""
    disk, journal = noted_instance()
    write_each(journal, [txn(1), txn(2), txn(3)])
    assert journal.write_note()
    assert journal.write_mark(3.0)
    disk.faults[disk.calls + 2] = Fault.CUT  # the sync
    with pytest.raises(PowerCut):
        journal.append([txn(4)], wall_time=4.0)
    disk.faults.clear()
    disk.restart(kept=disk.unsynced[-1:])
    found = restart(disk)
    assert (shown(found), found.recovered.lost) == (3, None)
    path = last_xlog(disk)
    data = disk.read(path)
    reopen(disk, found, limits=FAST)
    disk.restart()
    disk.replace(path, data)  # former versions left the block there
    return disk


@pytest.mark.parametrize("call", range(1, 30))
def test_a_copy_that_is_lost_takes_what_lies_behind_the_rows_along(call: int) -> None:
    """S15, found by the simulator (seed 50008792): the rows that had been copied were cut off, and a block
    behind them went on to say that they had been synced, so the log could not be read any more. call: of the
    disk, at which power fails once more."""
    disk = with_a_block_behind_a_gap()
    path = last_xlog(disk)
    disk.replace(path, disk.read(path)[: borders(disk, path)[0]])
    disk.faults[disk.calls + call] = Fault.CUT
    images = [disk]
    try:
        found = restart(disk)
        assert found.recovered.lost is not None
        reopen(disk, found, limits=FAST)
    except PowerCut:
        disk.faults.clear()
        pending = list(disk.unsynced)
        images = [disk.clone() for _ in range(2 + len(pending))]
        for number, image in enumerate(images):
            mine = list(image.unsynced)
            image.restart(kept=mine[number : number + 1] if number < len(mine) else mine * (number % 2))
    else:
        disk.faults.clear()
        disk.restart()
    for image in images:
        found = restart(image)
        have = shown(found)
        journal = reopen(image, found, limits=FAST)
        write_each(journal, [txn(have + 1, put(have + 1, "other"))])
        image.restart()
        assert shown(restart(image)) == have + 1


def test_a_note_that_cannot_be_synced_ends_the_process() -> None:
    """As every failed sync: nothing is known about that disk any more [L-30]."""
    disk, journal = noted_instance()
    journal.append([txn(1)], wall_time=1.0)
    disk.faults[disk.calls + 2] = Fault.EIO
    with pytest.raises(DiskFailed):
        journal.write_note()


def test_a_loss_is_found_again_until_the_flag_is_on_disk() -> None:
    """The flag first: a journal that opens renews the note, and that destroys the evidence."""
    disk = written()
    path = last_xlog(disk)
    disk.replace(path, disk.read(path)[: borders(disk, path)[10]])
    for _ in range(2):
        assert restart(disk).recovered.lost is not None
    found = restart(disk)
    assert found.identity is not None
    found.identity.save(replace(found.identity.identity, amnesia=True))
    reopen(disk, found, limits=FAST)
    disk.restart(kept=[])
    again = restart(disk)
    assert again.recovered.lost is None
    assert again.identity is not None
    assert again.identity.identity.amnesia


@pytest.mark.parametrize("size", [0, 1, 100, 511])
def test_a_last_file_cut_inside_its_header_does_not_start_at_all(size: int) -> None:
    """Damage that the file itself shows is an error that names it, as ever (S15)."""
    disk = written(rotate_at=20)
    path = last_xlog(disk)
    disk.replace(path, disk.read(path)[:size])
    with pytest.raises(Corruption) as refused:
        restart(disk)
    assert refused.value.details["file"] == path


def test_both_the_last_file_and_the_end_of_the_one_before_it_are_lost() -> None:
    """With the newest file gone, the one before may end anywhere: it is the last one now."""
    whole = written(rotate_at=20)
    whole.unlink(last_xlog(whole))
    path = last_xlog(whole)
    data = whole.read(path)
    for end in borders(whole, path)[:-1]:
        disk = whole.clone()
        disk.replace(path, data[:end])
        assert restart(disk).recovered.lost is not None


def test_a_log_that_lost_its_end_twice_is_known_both_times() -> None:
    """Amnesia ended, the log grew again: the note follows the new file."""
    disk = written()
    for _ in range(2):
        path = last_xlog(disk)
        disk.replace(path, disk.read(path)[: borders(disk, path)[4]])
        found = restart(disk)
        journal = reopen(disk, found, limits=FAST)
        for number in range(shown(found) + 1, 30):
            journal.append([txn(number)], wall_time=1.0)
        assert journal.write_note()
        disk.restart()
        assert restart(disk).recovered.lost is None
