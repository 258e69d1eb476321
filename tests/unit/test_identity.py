"""The identity file, its notes, and the lock of the directory (S14, [W-11], ADR 14)."""

from __future__ import annotations

import random
import resource
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from synchro.errors import AlreadyRunning, Corruption
from synchro.ids import INSTANCE_ID_MAX, InstanceId, Lsn
from synchro.storage.identity import (
    SLOT_BYTES,
    DirectoryLock,
    Identity,
    IdentityFile,
    encode_identity,
)
from synchro.storage.names import IDENTITY_NAME
from synchro.storage.notes import LogNote, Notes, decode_notes, encode_notes
from synchro.vclock import AckNote, Vclock
from tests.sim.disk import Fault, Op, PowerCut, SimDisk
from tests.storage_world import DIR

ME = Identity("11111111-1111-4111-8111-111111111111", "instance001")
AMNESIAC = Identity(ME.instance_uuid, ME.name, "22222222-2222-4222-8222-222222222222", amnesia=True)
PATH = f"{DIR}/{IDENTITY_NAME}"
ACKS = {InstanceId(2): AckNote(Vclock({InstanceId(1): Lsn(7)})), InstanceId(3): AckNote(Vclock(), True)}


def new_disk() -> SimDisk:
    disk = SimDisk()
    disk.makedirs(DIR)
    return disk


def made(disk: SimDisk, identity: Identity = ME) -> IdentityFile:
    return IdentityFile.create(disk, DIR, identity)


def loaded(disk: SimDisk) -> IdentityFile:
    found = IdentityFile.load(disk, DIR)
    assert found is not None
    return found


def old_file(identity: Identity) -> bytes:
    """As the first format had it: no slots."""
    return encode_identity(identity, version="1")


def test_a_first_start_has_no_identity() -> None:
    assert IdentityFile.load(new_disk(), DIR) is None


def test_the_amnesia_flag_outlives_a_power_cut() -> None:
    """S14: set before anything is acked or voted, so it must be durable when `save` returns."""
    disk = new_disk()
    file = made(disk)
    for identity in (AMNESIAC, replace(AMNESIAC, amnesia=False), AMNESIAC):
        file.save(identity)
        disk.restart(kept=[])
        file = loaded(disk)
        assert file.identity == identity


@pytest.mark.parametrize("target", [AMNESIAC, replace(ME, amnesia=True)], ids=["set", "flag"])
def test_a_power_cut_leaves_the_old_or_the_new_identity(target: Identity) -> None:
    for call in range(1, 6):
        disk = new_disk()
        file = made(disk)
        disk.faults[disk.calls + call] = Fault.CUT
        try:
            file.save(target)
        except PowerCut:
            pass
        else:
            assert call == 5
        for kept in ([], list(disk.unsynced)):
            image = disk.clone()
            image.restart(image.unsynced if kept else [])
            assert loaded(image).identity in (ME, target)


def test_a_torn_note_leaves_the_one_before() -> None:
    """IdentityFile.F2: whatever a crash makes of the newest note, what is read was synced once."""
    disk = new_disk()
    file = made(disk)
    for length in (512, 1024, 1536, 2048):
        before = file.notes
        file.log, file.acks = LogNote("a.xlog", length), ACKS
        disk.faults[disk.calls + 2] = Fault.CUT
        with pytest.raises(PowerCut):
            file.write()
        images = [disk.clone() for _ in range(20)]
        for number, image in enumerate(images):
            image.crash(random.Random(f"{length} {number}"))
            assert loaded(image).notes in (before, Notes(False, file.log, ACKS))
        disk.restart(kept=[])
        file = loaded(disk)
        assert file.notes == before
        file.log, file.acks = LogNote("a.xlog", length), ACKS
        assert file.write()
        disk.restart(kept=[])
        file = loaded(disk)
        assert file.notes == Notes(False, LogNote("a.xlog", length), ACKS)


def test_a_full_disk_has_room_for_the_flag_and_for_notes() -> None:
    """Their blocks are there already."""
    disk = new_disk()
    file = made(disk, replace(AMNESIAC, amnesia=False))
    disk.room = disk.used
    file.log = LogNote("a.xlog", 512)
    assert file.write()
    file.save(AMNESIAC)
    disk.restart(kept=[])
    assert loaded(disk).identity == AMNESIAC
    assert loaded(disk).notes.log == LogNote("a.xlog", 512)


def test_a_file_of_the_first_format_is_read_and_gets_its_slots_when_there_is_room() -> None:
    """A note that has no room is left out; the flag is not, it raises: nothing may go on without it."""
    disk = new_disk()
    disk.replace(PATH, old_file(replace(AMNESIAC, amnesia=False)))
    file = loaded(disk)
    assert file.notes == Notes()
    disk.room = disk.used
    file.log = LogNote("a.xlog", 512)
    assert not file.write()
    with pytest.raises(OSError, match=r"no space|short write"):
        file.save(AMNESIAC)
    disk.restart(kept=[])
    assert loaded(disk).identity == replace(AMNESIAC, amnesia=False)
    disk.room = None
    file = loaded(disk)
    file.log = LogNote("a.xlog", 512)
    assert file.write()
    disk.restart(kept=[])
    assert loaded(disk).notes.log == LogNote("a.xlog", 512)
    disk.replace(PATH, old_file(AMNESIAC))
    assert loaded(disk).identity == AMNESIAC


def test_every_flipped_bit_of_the_identity_is_found() -> None:
    """An instance that guesses who it is could vote twice (S1)."""
    for data in (encode_identity(AMNESIAC), old_file(AMNESIAC)):
        for bit in range(len(data) * 8):
            disk = new_disk()
            made(disk, AMNESIAC)
            bad = bytearray(disk.read(PATH))
            bad[: len(data)] = data
            bad[bit // 8] ^= 1 << bit % 8
            disk.replace(PATH, bytes(bad))
            with pytest.raises(Corruption):
                IdentityFile.load(disk, DIR)


def test_a_sector_that_went_bad_does_not_lose_the_flag() -> None:
    """It is in both slots; and with neither slot nobody guesses."""
    disk = new_disk()
    made(disk, replace(AMNESIAC, amnesia=False)).save(AMNESIAC)
    whole = disk.read(PATH)
    gone = [whole.replace(b"NOTE 2", b"NOTE ?"), whole.replace(b"NOTE 3", b"NOTE ?")]
    assert whole not in gone
    for data in gone:
        disk.replace(PATH, data)
        assert loaded(disk).identity == AMNESIAC
    disk.replace(PATH, gone[0].replace(b"NOTE 3", b"NOTE ?"))
    with pytest.raises(Corruption, match="whole note"):
        IdentityFile.load(disk, DIR)


def test_the_largest_note_fits_its_slot() -> None:
    full = Vclock({InstanceId(n): Lsn(2**62 - n) for n in range(1, INSTANCE_ID_MAX + 1)})
    notes = Notes(
        amnesia=True,
        log=LogNote("9" * 20 + ".xlog", 2**62),
        acks={InstanceId(n): AckNote(full, True) for n in range(1, INSTANCE_ID_MAX + 1)},
    )
    data = encode_notes(notes, 2**62)
    assert len(data) <= SLOT_BYTES
    assert decode_notes(data + b"older, longer text") == (2**62, notes)


def test_saving_who_this_is_keeps_the_notes() -> None:
    disk = new_disk()
    file = made(disk)
    file.log, file.acks = LogNote("a.xlog", 512), ACKS
    assert file.write()
    file.save(AMNESIAC)
    assert loaded(disk).notes == Notes(True, LogNote("a.xlog", 512), ACKS)
    file.forget_log()
    assert loaded(disk).notes == Notes(True, None, ACKS)


def test_many_threads_may_note_and_the_newest_wins() -> None:
    """The thread of the log names a new file while the one of the notes still writes about the old one."""
    disk = new_disk()
    file = made(disk)

    def work(first: int) -> None:
        for length in range(first, first + 50):
            file.log = LogNote("a.xlog", length)
            file.write()

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.write()
    assert loaded(disk).notes.log == file.log


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC])
@pytest.mark.parametrize("kept", [None, []], ids=["process", "power"])
def test_notes_after_a_save_that_failed_are_in_the_file_of_that_name(
    fault: Fault, kept: list[Op] | None
) -> None:
    """IdentityFile.F1: also when it failed between the new name and its sync."""
    failed = 0
    for call in range(1, 6):
        disk = new_disk()
        file = made(disk)
        disk.faults[disk.calls + call] = fault
        try:
            file.save(AMNESIAC)
        except OSError:
            failed += 1
        file.log = LogNote("a.xlog", 512)
        assert file.write() and file.notes.log == file.log
        disk.restart(kept)
        assert loaded(disk).notes == file.notes
    assert failed >= 4


def test_a_directory_has_one_instance(tmp_path: Path) -> None:
    """The second one is refused before it reads or changes anything; the lock goes with its holder."""
    with DirectoryLock(str(tmp_path)):
        with pytest.raises(AlreadyRunning) as refused:
            DirectoryLock(str(tmp_path))
        assert refused.value.details["pid"].isdigit()
    DirectoryLock(str(tmp_path)).release()


def test_a_full_disk_keeps_nobody_from_locking(tmp_path: Path) -> None:
    """The number in the file is for people."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        lock = DirectoryLock(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with lock, pytest.raises(AlreadyRunning, match="unknown"):
        DirectoryLock(str(tmp_path))
