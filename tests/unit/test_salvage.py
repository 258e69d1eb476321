"""A damaged log ends where the damage begins, by the word of a person, and nothing is thrown away. [W-22],
[W-23], ADR 51."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchro.errors import Corruption, XlogGap
from synchro.storage.salvage import LeftOut, recover_by_force
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.xlog import XlogReader
from tests.sim.disk import SimDisk
from tests.storage_world import DIR, UUID, Restarted, new_instance, reopen, restart, txn, vclock, write_each
from tests.unit.test_recovery import chain_of_three, put_xlog, recovered, snapshot_at

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


OLD_FAULTS = ("header of the first", "header of the second", "both headers", "the second is gone", "no bytes")


def harm_old_log(disk: SimDisk, what: str) -> None:
    """Files that a snapshot at 4 needs no more."""
    first, second, _ = logs(disk)
    if what in ("header of the first", "both headers"):
        flip(disk, first, 3)
    if what in ("header of the second", "both headers"):
        flip(disk, second, 3)
    if what == "the second is gone":
        disk.unlink(second)
    if what == "no bytes":
        disk.replace(second, b"")


@pytest.mark.parametrize("at", [4, 5, 6])
@pytest.mark.parametrize("what", OLD_FAULTS)
def test_damage_of_what_the_snapshot_covers_costs_nothing(what: str, at: int) -> None:
    """It begins where the last file is whole: by force or not, no row is lost, and nothing is forgotten."""
    disk = chain_of_three()
    snapshot_at(disk, vclock(_1=at))
    harm_old_log(disk, what)
    found, cuts, flags = forced(disk)
    assert (found.recovered.vclock, cuts, flags) == (vclock(_1=6), [], 0)
    assert found.lsns == ALL[at:] and found.recovered.lost is None
    assert restart(disk).recovered.vclock == vclock(_1=6)


@pytest.mark.parametrize("what", OLD_FAULTS)
def test_damage_of_what_the_snapshot_does_not_cover_is_not_passed_over(what: str) -> None:
    """The rows 4, and those behind it, stand on a file that cannot be read."""
    disk = chain_of_three()
    snapshot_at(disk, vclock(_1=3))
    harm_old_log(disk, what)
    if what == "header of the first":  # the second one has all that is needed
        assert restart(disk).recovered.vclock == vclock(_1=6)
        return
    with pytest.raises((Corruption, XlogGap)):
        restart(disk)
    found, cuts, _ = forced(disk)
    assert found.recovered.vclock == vclock(_1=3) and cuts


@pytest.mark.parametrize("what", OLD_FAULTS)
def test_a_plain_start_sets_old_damaged_files_aside_once(what: str) -> None:
    """They are named, and no later start sees them. A peer that needs their rows is told they are gone."""
    disk = chain_of_three()
    snapshot_at(disk, vclock(_1=4))
    harm_old_log(disk, what)
    old = {path: disk.read(path) for path in logs(disk)[:-1]}
    found, keys, damaged = recovered(disk)
    assert (keys, damaged) == ([5, 6], [])
    gone = old if what != "header of the first" else dict([next(iter(old.items()))])
    assert list(found.unneeded) == [f"{path}.damaged" for path in gone] == kept(disk)
    assert [disk.read(path) for path in found.unneeded] == list(gone.values())
    assert found.fault is not None
    assert found.journal_start is not None
    disk.restart(kept=[])
    assert recovered(disk)[0].unneeded == ()
    journal = reopen(disk, restart(disk))
    write_each(journal, [txn(7)])
    with pytest.raises(XlogGap):
        journal.files_after(vclock())
    disk.restart(kept=[])
    assert restart(disk).recovered.vclock == vclock(_1=7)


def test_a_damaged_snapshot_needs_the_old_files() -> None:
    """The older snapshot cannot take its place, and no file is touched, by force neither."""
    disk = chain_of_three()
    snapshot_at(disk, vclock(_1=4))
    flip(disk, logs(disk)[0], 3)
    newest = max(name for name in disk.listdir(DIR) if name.endswith(".snap"))
    disk.replace(f"{DIR}/{newest}", b"")
    before = disk.listdir(DIR)
    with pytest.raises(Corruption, match="an older snapshot cannot take its place") as refused:
        recover_by_force(lambda: recovered(disk), disk, DIR, before_cut=lambda: None)
    assert "--force-recovery" not in refused.value.message
    assert disk.listdir(DIR) == before


def test_force_is_the_advice_only_where_a_forced_start_goes_on() -> None:
    """What it says of the log is carried out; of snapshots it says nothing of the kind."""
    for what in ("header of the first", "the second is gone"):
        disk = chain_of_three()
        harm_old_log(disk, what)
        with pytest.raises((Corruption, XlogGap), match="--force-recovery"):
            recovered(disk)
        recover_by_force(partial(recovered, disk), disk, DIR, before_cut=lambda: None)
    for is_gone in (True, False):
        disk = chain_of_three()
        (only,) = [f"{DIR}/{name}" for name in disk.listdir(DIR) if name.endswith(".snap")]
        disk.unlink(only) if is_gone else disk.replace(only, b"")
        with pytest.raises(Corruption) as refused:
            recovered(disk)
        assert "--force-recovery" not in refused.value.message
        assert "Next: " in refused.value.message


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
