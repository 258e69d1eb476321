"""A damaged log ends where the damage begins, by the word of a person, and nothing is thrown away. [W-22],
[W-23], ADR 51."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchro.errors import Corruption, XlogGap
from synchro.storage.salvage import LeftOut, recover_by_force
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.xlog import XlogReader
from tests.sim.disk import SimDisk
from tests.storage_world import DIR, UUID, Restarted, new_instance, reopen, restart, txn, vclock, write_each
from tests.unit.test_recovery import chain_of_three, put_xlog, snapshot_at

ALL = [(1, n) for n in range(1, 7)]


def logs(disk: SimDisk) -> list[str]:
    return sorted(f"{DIR}/{name}" for name in disk.listdir(DIR) if name.endswith(".xlog"))


def kept(disk: SimDisk) -> list[str]:
    return sorted(f"{DIR}/{name}" for name in disk.listdir(DIR) if name.endswith(".damaged"))


def start_of(disk: SimDisk, path: str) -> int:
    """Offset of its first block."""
    data = disk.read(path)
    return XlogReader(lambda size, at: data[at : at + size], len(data), path).start


def forced(disk: SimDisk) -> tuple[Restarted, list[LeftOut], int]:
    flags = 0

    def flag() -> None:
        nonlocal flags
        flags += 1

    found, cuts = recover_by_force(lambda: restart(disk), disk, DIR, before_cut=flag)
    return found, cuts, flags


def flip(disk: SimDisk, path: str, at: int) -> None:
    data = bytearray(disk.read(path))
    data[at] ^= 1
    disk.replace(path, bytes(data))


def test_a_whole_log_is_left_alone() -> None:
    disk = chain_of_three()
    found, cuts, flags = forced(disk)
    assert (found.lsns, cuts, flags) == (ALL, [], 0)
    assert not kept(disk)


def test_rows_from_the_damage_on_are_left_out_and_kept() -> None:
    """A row behind a hole is not taken, though it is whole: its LSN would say that the hole is here."""
    disk = chain_of_three()
    first, middle, last = logs(disk)
    before = disk.read(middle)
    flip(disk, middle, start_of(disk, middle) + 20)
    with pytest.raises(Corruption):
        restart(disk)
    damaged = disk.read(middle)
    found, (cut,), flags = forced(disk)
    assert found.lsns == ALL[:2]
    assert (cut.file, cut.offset, cut.rows) == (middle, start_of(disk, f"{middle}.damaged"), 3)
    assert cut.kept_as == (f"{middle}.damaged", f"{last}.damaged")
    assert disk.read(f"{middle}.damaged") == damaged != before
    assert flags == 1
    assert found.recovered.lost is None or "gone" in found.recovered.lost

    disk.restart(kept=[])
    assert restart(disk).lsns == ALL[:2], "the next start needs no word"
    journal = reopen(disk, restart(disk))
    write_each(journal, [txn(3), txn(4)])
    disk.restart(kept=[])
    assert restart(disk).lsns == ALL[:4]
    assert first in logs(disk)


def test_a_file_without_a_header_is_set_aside_whole() -> None:
    disk = chain_of_three()
    _, middle, last = logs(disk)
    flip(disk, middle, 3)
    found, (cut,), _ = forced(disk)
    assert found.lsns == ALL[:2]
    assert (cut.offset, cut.kept_as) == (0, (f"{middle}.damaged", f"{last}.damaged"))


def test_what_lies_behind_a_missing_file_is_left_out() -> None:
    """[W-23]"""
    disk = chain_of_three()
    _, middle, last = logs(disk)
    disk.unlink(middle)
    with pytest.raises(XlogGap):
        restart(disk)
    found, (cut,), _ = forced(disk)
    assert found.lsns == ALL[:2]
    assert (cut.file, cut.rows, cut.kept_as) == (last, 2, (f"{last}.damaged",))


def test_damage_before_the_snapshot_costs_what_lies_behind_the_snapshot_only() -> None:
    disk = chain_of_three()
    snapshot_at(disk, vclock(_1=5))
    flip(disk, logs(disk)[2], start_of(disk, logs(disk)[2]) + 20)
    found, _, _ = forced(disk)
    assert found.recovered.vclock == vclock(_1=5)
    assert found.lsns == []
    disk.restart(kept=[])
    assert restart(disk).recovered.vclock == vclock(_1=5)


def test_what_a_former_cut_kept_is_not_overwritten() -> None:
    disk = chain_of_three()
    middle = logs(disk)[1]
    flip(disk, middle, start_of(disk, middle) + 20)
    forced(disk)
    disk.restart(kept=[])
    journal = reopen(disk, restart(disk))
    write_each(journal, [txn(3), txn(4)])
    disk.restart(kept=[])
    before = {path: disk.read(path) for path in kept(disk)}
    newest = logs(disk)[-1]
    flip(disk, newest, start_of(disk, newest) + 20)
    forced(disk)
    assert before.items() <= {path: disk.read(path) for path in kept(disk)}.items()


def test_files_of_another_instance_are_not_touched() -> None:
    """[W-11]: somebody mixed up directories."""
    disk, _ = new_instance()
    put_xlog(disk, vclock(), None, [txn(1)], uuid="somebody")
    before = {path: disk.read(path) for path in logs(disk)}
    with pytest.raises(Corruption, match="invalid instance UUID"):
        forced(disk)
    assert {path: disk.read(path) for path in logs(disk)} == before


def test_a_damaged_snapshot_is_not_cut() -> None:
    """Tuples that are left out would never come again: its vclock says that they are here."""
    disk = chain_of_three()
    write_snapshot(disk, DIR, SnapshotMeta(vclock=vclock(_1=6)), [], instance_uuid=UUID)
    for name in disk.listdir(DIR):
        if name.endswith(".snap"):
            flip(disk, f"{DIR}/{name}", 300)
    before = {path: disk.read(path) for path in logs(disk)}
    with pytest.raises(Corruption):
        forced(disk)
    assert {path: disk.read(path) for path in logs(disk)} == before
    assert not kept(disk)


@given(st.data())
def test_wherever_bits_are_wrong_a_prefix_is_left_and_nothing_is_lost(data: st.DataObject) -> None:
    """It ends, the next start needs no word, and no file vanishes without a copy."""
    disk = chain_of_three()
    before = {path: disk.read(path) for path in logs(disk)}
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(logs(disk)))
        flip(disk, path, data.draw(st.integers(0, len(before[path]) - 1)))
    wrong = {path: disk.read(path) for path in logs(disk)}
    found, cuts, flags = forced(disk)
    assert found.lsns == ALL[: len(found.lsns)]
    assert (flags > 0) == bool(cuts)
    held = [disk.read(path) for path in (*logs(disk), *kept(disk))]
    assert all(content in held for content in wrong.values())
    disk.restart(kept=[])
    assert restart(disk).lsns == found.lsns
    journal = reopen(disk, restart(disk))
    write_each(journal, [txn(len(found.lsns) + 1)])
    disk.restart(kept=[])
    assert restart(disk).lsns == [*found.lsns, (1, len(found.lsns) + 1)]
