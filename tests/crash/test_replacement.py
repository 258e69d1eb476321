"""New files take the place of all old ones: after a crash one of the two is there, whole. [M-35]"""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from synchro.config import Settings
from synchro.errors import DiskFailed, WalIo
from synchro.server.directory import DataDirectory
from synchro.storage.disk import FileBytes, RealDisk
from synchro.storage.identity import Identity, IdentityFile, Rejoin, decode_identity, encode_identity
from synchro.storage.journal import Journal, JournalStart
from synchro.storage.kept_tuples import kept_files
from synchro.storage.replacement import Replacement
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.vclock import EMPTY_VCLOCK
from tests.sim.disk import Fault, PowerCut, SimDisk
from tests.storage_world import (
    DIR,
    SMALL,
    UUID,
    identity_file,
    initial_snapshot,
    open_journal,
    restart,
    txn,
    vclock,
)

SNAPSHOTS = "snapshots"
OLD = [txn(lsn) for lsn in (1, 2, 3)]
NEW = [txn(lsn) for lsn in (6, 7)]
NEW_START = vclock(_1=5)
KEPT = f"{DIR}/{3:020d}.kept.jsonl"
KEPT_LINE = b'{"op": "replace", "space": "own", "tuple": [1, "kept"]}\n'


def old_instance(disk: SimDisk) -> IdentityFile:
    identity = identity_file(disk)
    initial_snapshot(disk)
    journal = open_journal(disk, identity=identity)
    journal.append(OLD, wall_time=1.0)
    journal.write_note()
    journal.close_clean(1.0)
    return identity


def replacement(disk: SimDisk, identity: IdentityFile) -> Replacement:
    return Replacement(disk, identity, wal_dir=DIR, snapshot_dir=DIR)


def join_beside(disk: SimDisk, made: Replacement) -> None:
    """As `server.join` leaves it: first the log, then the snapshot, whose name is what makes it whole."""
    made.begin()
    journal = Journal(
        disk,
        made.wal_dir,
        instance_uuid=UUID,
        new_salt=lambda: 99,
        start=JournalStart(vclock=NEW_START),
        limits=SMALL,
    )
    journal.append(NEW, wall_time=2.0)
    journal.close_clean(2.0)
    write_snapshot(disk, made.snapshot_dir, SnapshotMeta(vclock=NEW_START), [], instance_uuid=UUID)


def script(disk: SimDisk) -> None:
    made = replacement(disk, identity_file(disk))
    made.want(is_lossy=False)
    assert made.keep(3, [("own", (1, "kept"))]) == (KEPT, 1)
    join_beside(disk, made)
    made.carry_out(amnesia=False)


def content(disk: SimDisk, path: str) -> bytes:
    data = FileBytes(disk, path)
    try:
        return data(data.size, 0)
    finally:
        data.close()


def calls() -> int:
    disk = SimDisk()
    old_instance(disk)
    before = disk.calls
    script(disk)
    return disk.calls - before


def check(disk: SimDisk, note: str) -> bool:
    """What the next start finds; True: the new files."""
    identity = IdentityFile.load(disk, DIR)
    assert identity is not None, note
    made = replacement(disk, identity)
    made.go_on()
    assert made.state in (Rejoin.NO, Rejoin.WANTED), note
    disk.restart(kept=[])  # a power cut right behind it changes nothing
    found = restart(disk)
    is_new = found.recovered.meta.vclock == NEW_START
    assert found.data == [one.data for one in (NEW if is_new else OLD)], note
    assert found.recovered.lost is None, note  # nothing of a former life is missed (ADR 14)
    assert kept_files(disk, DIR) == ([KEPT] if is_new else []), note  # Replacement.X3
    if is_new:
        assert content(disk, KEPT) == KEPT_LINE, note
    return is_new


def test_a_power_cut_before_every_call() -> None:
    """Every prefix of what was not synced, each call missing, each torn."""
    rng = random.Random(46)
    seen = {True: 0, False: 0}
    for call in range(1, calls() + 1):
        disk = SimDisk()
        old_instance(disk)
        disk.faults[disk.calls + call] = Fault.CUT
        with pytest.raises(PowerCut):
            script(disk)
        for note, image in disk.images(rng):
            seen[check(image, f"call {call}, {note}")] += 1
    assert min(seen.values()) > 20


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.SHORT])
def test_every_call_may_fail(fault: Fault) -> None:
    for call in range(1, calls() + 1):
        disk = SimDisk()
        old_instance(disk)
        disk.faults[disk.calls + call] = fault
        with contextlib.suppress(WalIo, DiskFailed, OSError):  # the process leaves, and starts again
            script(disk)
        kept: list[str] | None
        for kept in (None, []):
            image = disk.clone()
            image.restart(kept=kept)
            check(image, f"call {call} {fault} {kept}")


def test_crashes_in_a_row() -> None:
    """Each try is cut off at another call; a person who is patient gets there."""
    for seed in range(40):
        rng = random.Random(seed)
        disk = SimDisk()
        old_instance(disk)
        for _ in range(6):
            disk.faults[disk.calls + rng.randint(1, calls())] = Fault.CUT
            try:
                identity = IdentityFile.load(disk, DIR)
                assert identity is not None
                made = replacement(disk, identity)
                made.go_on()
                if restart(disk).recovered.meta.vclock != NEW_START:
                    script(disk)
            except PowerCut:
                disk.crash(rng)
            disk.faults.clear()
        check(disk, f"seed {seed}")


def test_half_a_join_goes_and_the_old_files_stay() -> None:
    disk = SimDisk()
    made = replacement(disk, old_instance(disk))
    made.want(is_lossy=False)
    join_beside(disk, made)
    made.give_up()
    assert made.state is Rejoin.NO
    assert not disk.listdir(made.wal_dir)
    assert not check(disk, "given up")


def cut_off_while(disk: SimDisk, state: Rejoin) -> Replacement:
    """The next start of one that was killed right behind the note of this state."""
    made = replacement(disk, old_instance(disk))
    made.want(is_lossy=False)
    join_beside(disk, made)
    identity = IdentityFile.load(disk, DIR)
    assert identity is not None
    identity.save(replace(identity.identity, rejoin=state))
    return replacement(disk, identity)


def take_away_new_files(disk: SimDisk, made: Replacement) -> None:
    for name in disk.listdir(made.wal_dir):
        disk.unlink(f"{made.wal_dir}/{name}")


def test_new_files_that_somebody_took_away_do_not_cost_the_old_ones() -> None:
    """A person finds the directory `rejoin`, which takes as much room as all the rest. Replacement.X4"""
    disk = SimDisk()
    made = cut_off_while(disk, Rejoin.REPLACING)
    take_away_new_files(disk, made)
    made.go_on()
    assert made.state is Rejoin.WANTED
    identity = IdentityFile.load(disk, DIR)
    assert identity is not None and identity.identity.amnesia
    assert not check(disk, "taken away")


def test_without_old_files_and_new_ones_it_begins_anew_in_amnesia() -> None:
    disk = SimDisk()
    made = cut_off_while(disk, Rejoin.REPLACING)
    take_away_new_files(disk, made)
    for name in disk.listdir(DIR):
        if name.endswith((".snap", ".xlog")):
            disk.unlink(f"{DIR}/{name}")
    made.go_on()
    assert made.state is Rejoin.NO
    identity = IdentityFile.load(disk, DIR)
    assert identity is not None and identity.identity.amnesia


@pytest.mark.parametrize("is_lossy", [False, True])
def test_a_join_that_was_wanted_ends_with_the_files_that_it_was_for(is_lossy: bool) -> None:
    """A person removed them after a crash, and the instance joins as at its first start. A later start would
    replace what it has by then, and rows that only it has with it. What was kept is not lost."""
    disk = SimDisk()
    made = replacement(disk, old_instance(disk))
    made.want(is_lossy=is_lossy)
    made.keep(3, [("own", (1, "kept"))])
    join_beside(disk, made)
    for name in disk.listdir(DIR):
        if name.endswith((".snap", ".xlog")):
            disk.unlink(f"{DIR}/{name}")
    identity = IdentityFile.load(disk, DIR)
    assert identity is not None
    settings = Settings(wal_dir=DIR, snapshot_dir=DIR)
    directory = DataDirectory(disk, settings, contextlib.ExitStack(), identity)
    directory.replacement.go_on()
    assert not directory.has_data
    directory.begin_first_start()
    assert directory.replacement.state is Rejoin.NO
    assert kept_files(disk, DIR) == [KEPT]
    assert content(disk, KEPT) == KEPT_LINE
    assert not disk.listdir(made.wal_dir)


@pytest.mark.parametrize("state", [Rejoin.REPLACING, Rejoin.MOVING])
def test_a_directory_that_is_gone_keeps_no_instance_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Rejoin
) -> None:
    """On a real disk, where it cannot even be listed."""
    monkeypatch.chdir(tmp_path)
    disk = RealDisk()
    disk.makedirs(DIR)
    identity = IdentityFile.create(disk, DIR, Identity(UUID, "instance001", rejoin=state))
    made = Replacement(disk, identity, wal_dir=DIR, snapshot_dir=DIR)
    made.go_on()
    assert made.state is Rejoin.NO


def test_what_was_kept_goes_with_a_join_that_is_given_up() -> None:
    """The old files count again: a file of their tuples would tell of a loss that never was."""
    disk = SimDisk()
    made = replacement(disk, old_instance(disk))
    made.want(is_lossy=False)
    made.keep(3, [("own", (1, "kept"))])
    join_beside(disk, made)
    made.give_up()
    assert kept_files(disk, DIR) == kept_files(disk, made.snapshot_dir) == []


def test_a_file_of_an_earlier_join_is_not_overwritten() -> None:
    """Signatures are smaller after a join, so one may come again."""
    disk = SimDisk()
    made = replacement(disk, old_instance(disk))
    for text in ("first", "second", "third"):
        made.want(is_lossy=False)
        made.keep(3, [("own", (1, text))])
        join_beside(disk, made)
        made.carry_out(amnesia=False)
    names = kept_files(disk, DIR)
    assert len(names) == 3
    assert sorted(content(disk, name).split(b'"')[-2] for name in names) == [b"first", b"second", b"third"]


def test_nothing_to_keep_makes_no_file() -> None:
    disk = SimDisk()
    made = replacement(disk, old_instance(disk))
    made.want(is_lossy=False)
    assert made.keep(3, [])[1] == 0
    assert disk.listdir(made.snapshot_dir) == []


def test_two_directories() -> None:
    disk = SimDisk()
    disk.makedirs(SNAPSHOTS)
    identity = old_instance(disk)
    write_snapshot(disk, SNAPSHOTS, SnapshotMeta(vclock=EMPTY_VCLOCK), [], instance_uuid=UUID)
    made = Replacement(disk, identity, wal_dir=DIR, snapshot_dir=SNAPSHOTS)
    made.want(is_lossy=True)
    join_beside(disk, made)
    made.carry_out(amnesia=True)
    assert identity.identity.amnesia
    assert [name for name in disk.listdir(SNAPSHOTS) if name.endswith(".snap")] == [f"{5:020d}.snap"]
    assert [name for name in disk.listdir(DIR) if name.endswith(".xlog")] == [f"{5:020d}.xlog"]


def test_the_identity_file_of_former_versions_says_nothing_of_it() -> None:
    """And one that says nothing is as they wrote it."""
    disk = SimDisk()
    identity = identity_file(disk).identity
    assert b"Rejoin" not in encode_identity(identity)
    assert decode_identity(encode_identity(identity)).rejoin is Rejoin.NO
    wanted = replace(identity, rejoin=Rejoin.LOSSY)
    assert decode_identity(encode_identity(wanted)) == wanted
