"""The identity file and the lock of the directory (S14, [W-11])."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim.disk import Fault, PowerCut, SimDisk
from storage_world import DIR

from synchro.errors import AlreadyRunning, Corruption
from synchro.storage.identity import (
    IDENTITY_NAME,
    DirectoryLock,
    Identity,
    encode_identity,
    load_identity,
    save_identity,
)

ME = Identity("11111111-1111-4111-8111-111111111111", "instance001")
AMNESIAC = Identity(ME.instance_uuid, ME.name, "22222222-2222-4222-8222-222222222222", amnesia=True)


def test_a_first_start_has_no_identity() -> None:
    disk = SimDisk()
    disk.makedirs(DIR)
    assert load_identity(disk, DIR) is None


def test_the_amnesia_flag_outlives_a_power_cut() -> None:
    """S14: set before anything is acked or voted, so it must be durable when `save_identity` returns."""
    disk = SimDisk()
    disk.makedirs(DIR)
    for identity in (ME, AMNESIAC):
        save_identity(disk, DIR, identity)
        disk.restart(kept=[])
        assert load_identity(disk, DIR) == identity


def test_a_power_cut_leaves_the_old_or_the_new_identity() -> None:
    for call in range(1, 6):
        disk = SimDisk()
        disk.makedirs(DIR)
        save_identity(disk, DIR, ME)
        disk.faults[disk.calls + call] = Fault.CUT
        with pytest.raises(PowerCut):
            save_identity(disk, DIR, AMNESIAC)
        for kept in ([], list(disk.unsynced)):
            image = disk.clone()
            image.restart(image.unsynced if kept else [])
            assert load_identity(image, DIR) in (ME, AMNESIAC)


def test_every_flipped_bit_is_found() -> None:
    """An instance that guesses who it is could vote twice (S1)."""
    disk = SimDisk()
    disk.makedirs(DIR)
    data = encode_identity(AMNESIAC)
    for bit in range(len(data) * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        disk.replace(f"{DIR}/{IDENTITY_NAME}", bytes(bad))
        with pytest.raises(Corruption):
            load_identity(disk, DIR)


def test_a_directory_has_one_instance(tmp_path: Path) -> None:
    """The second one is refused before it reads or changes anything; the lock goes with its holder."""
    with DirectoryLock(str(tmp_path)):
        with pytest.raises(AlreadyRunning) as refused:
            DirectoryLock(str(tmp_path))
        assert refused.value.details["pid"].isdigit()
    DirectoryLock(str(tmp_path)).release()
