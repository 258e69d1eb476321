"""What a disk may look like after a crash, against what was acked before it (S8, S10, S15)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from synchro.errors import Corruption, DiskFailed, WalIo, XlogGap
from synchro.row import Txn
from synchro.storage.journal import Journal
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.vclock import EMPTY_VCLOCK, Vclock
from tests.sim.disk import Fault, PowerCut, SimDisk
from tests.storage_world import (
    DIR,
    SMALL,
    UUID,
    confirm,
    identity_file,
    initial_snapshot,
    last_xlog,
    open_journal,
    promote,
    put,
    raft_state,
    reopen,
    restart,
    txn,
)

TINY = replace(
    SMALL,
    wal_max_size=2500,
    wal_lead_bytes=1024,
    wal_control_reserve_bytes=512,
    wal_block_bytes_max=100,  # so that one batch has several blocks
)


@dataclass
class World:
    """One instance that writes; `acked` is what callers were told is on disk, `sent` what was tried."""

    disk: SimDisk
    acked: list[Txn] = field(default_factory=list)
    sent: list[Txn] = field(default_factory=list)
    snapshot: Vclock = EMPTY_VCLOCK
    lsn: int = 0

    def append(self, journal: Journal, count: int = 1) -> None:
        batch = [txn(self.lsn + 1 + n, sync=n % 2 == 0) for n in range(count)]
        self.sent = [*self.acked, *batch]
        try:
            journal.append(batch, wall_time=1.0)
        except WalIo:
            self.sent = list(self.acked)
            raise
        self.acked = list(self.sent)
        self.lsn += count

    def check(self, disk: SimDisk, note: str) -> None:
        """Recovery gives all acked transactions, and of the others only a prefix; twice the same."""
        found = restart(disk)
        covered = found.recovered.meta.vclock.get(1)  # type: ignore[arg-type]
        data = [one.data for one in self.sent if one.lsn > covered]
        acked = [one for one in self.acked if one.lsn > covered]
        assert found.data == data[: len(found.data)], note
        assert len(found.data) >= len(acked), note
        assert found.recovered.lost is None, note  # an honest disk is never amnesia (ADR 14)
        journal = reopen(disk, found, limits=TINY)
        assert journal.vclock == found.recovered.vclock, note
        disk.restart(kept=[])  # what recovery gave out survives the next crash
        again = restart(disk)
        assert again.data == found.data, note
        assert again.recovered.lost is None, note


def script(world: World) -> None:
    """Appends, mark, rotation, snapshot, garbage, recycled file, kill, restart with a tail, clean stop."""
    disk = world.disk
    identity = identity_file(disk)
    initial_snapshot(disk)
    journal = open_journal(disk, limits=TINY, identity=identity)
    for count in (1, 3, 1):
        world.append(journal, count)
    journal.write_note()
    journal.write_mark(1.0)
    for _ in range(4):
        world.append(journal)
    world.snapshot = journal.vclock
    write_snapshot(disk, DIR, SnapshotMeta(vclock=journal.vclock), [], instance_uuid=UUID)
    journal.rotate(2.0)
    journal.collect_garbage(world.snapshot)
    for _ in range(5):
        world.append(journal)
        journal.write_note()
    disk.restart()
    journal = reopen(disk, restart(disk), limits=TINY, seed=7)
    journal.write_note()
    disk.restart()
    journal = reopen(disk, restart(disk), limits=TINY, seed=8)  # in the place of a file of the same name
    world.append(journal, 2)
    journal.rotate(3.0)
    world.append(journal)
    journal.close_clean(4.0)


def calls_of_script() -> int:
    world = World(SimDisk())
    script(world)
    return world.disk.calls


def test_power_cut_before_every_call_leaves_only_legal_states() -> None:
    """For each call of the script: every prefix of what was not synced, each call missing, each torn."""
    rng = random.Random(5)
    images = 0
    for call in range(1, calls_of_script() + 1):
        world = World(SimDisk())
        world.disk.faults[call] = Fault.CUT
        with pytest.raises(PowerCut):
            script(world)
        if not world.disk.exists(f"{DIR}/{'0' * 20}.snap"):
            continue  # the instance does not exist yet
        for note, image in world.disk.images(rng, torn_each=3):
            if not any(name.endswith(".snap") for name in image.listdir(DIR)):
                assert not world.acked
                continue
            world.check(image, f"call {call}, {note}")
            images += 1
    assert images > 300


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.SHORT])
def test_every_call_may_fail(fault: Fault) -> None:
    """For each k the k-th call fails: no ack follows without the rows on disk, and a restart is clean."""
    for call in range(1, calls_of_script() + 1):
        world = World(SimDisk())
        world.disk.faults[call] = fault
        with contextlib.suppress(WalIo, DiskFailed, OSError):
            script(world)
        if not any(name.endswith(".snap") for name in world.disk.listdir(DIR)):
            continue
        kept: list[str] | None
        for kept in (None, []):
            image = world.disk.clone()
            image.restart(kept=kept)
            if any(name.endswith(".snap") for name in image.listdir(DIR)):
                world.check(image, f"call {call} {fault} {kept}")


def append_many(world: World, journal: Journal) -> None:
    for _ in range(9):
        world.append(journal, 2)


def test_random_crashes_in_a_row_lose_nothing_acked() -> None:
    """Crash after crash: kills, power cuts with torn and garbled tails, full disks; acked rows stay."""
    for seed in range(60):
        rng = random.Random(seed)
        world = World(SimDisk())
        identity = identity_file(world.disk)
        initial_snapshot(world.disk)
        journal = open_journal(world.disk, limits=TINY, seed=seed, identity=identity)
        for _ in range(6):
            for _ in range(rng.randint(0, 6)):
                step = rng.random()
                if step < 0.1:
                    journal.write_mark(1.0)
                elif step < 0.2:
                    journal.rotate(1.0)
                elif step < 0.3:
                    world.disk.faults[world.disk.calls + 1] = rng.choice([Fault.SHORT, Fault.ENOSPC])
                    try:
                        world.append(journal)
                    except WalIo:
                        pass  # cut back: the next one uses its LSN
                    except DiskFailed:
                        break  # the process leaves
                    finally:
                        world.disk.faults.clear()
                elif step < 0.5:
                    journal.write_note()
                else:
                    world.append(journal, rng.randint(1, 4))
            if rng.random() < 0.5:
                world.disk.faults[world.disk.calls + rng.randint(1, 3)] = Fault.CUT
                with pytest.raises((PowerCut, DiskFailed)):
                    append_many(world, journal)
                world.disk.faults.clear()
            note = f"seed {seed}: "
            if rng.random() < 0.3:
                world.disk.restart()
            else:
                note += world.disk.crash(rng)
            found = restart(world.disk)
            data = [one.data for one in world.sent]
            assert found.data == data[: len(found.data)], note
            assert len(found.data) >= len(world.acked), note
            assert found.recovered.lost is None, note
            world.acked = list(found.txns)
            world.sent = list(found.txns)
            world.lsn = len(found.txns)
            journal = reopen(world.disk, found, limits=TINY, seed=rng.randint(0, 1 << 30))


def big_log(count: int = 200) -> tuple[SimDisk, list[Txn]]:
    """All kinds of rows, a transaction of several, one rotation; the mark is behind the last batch."""
    disk = SimDisk()
    initial_snapshot(disk)
    journal = open_journal(disk, limits=replace(SMALL, wal_block_bytes_max=2048))
    txns: list[Txn] = []
    lsn = local = 0
    while lsn < count:
        kind = len(txns) % 7
        if kind == 3:
            txns.append(txn(lsn + 1, put(lsn), put(lsn, "b"), put(lsn, "c"), sync=True))
        elif kind == 4:
            txns.append(confirm(lsn + 1, lsn))
        elif kind == 5:
            txns.append(promote(lsn + 1, lsn))
        elif kind == 6:
            local += 1
            txns.append(raft_state(local, lsn, vote=1))
        else:
            txns.append(txn(lsn + 1, request_id=bytes(16) if kind else None))
        lsn = max(lsn, txns[-1].lsn if txns[-1].origin else 0)
    half = len(txns) // 2
    for start in range(0, half, 5):
        journal.append(txns[start : min(start + 5, half)], wall_time=1.0)
    journal.rotate(2.0)
    for start in range(half, len(txns), 5):
        journal.append(txns[start : start + 5], wall_time=3.0)
    disk.restart(kept=[])
    return disk, txns


def test_every_truncation_of_the_last_file() -> None:
    """The longest prefix of whole blocks, never an error: nothing behind the cut says what is missing."""
    disk, txns = big_log()
    path = last_xlog(disk)
    content = disk.read(path)
    before = -1
    for size in range(512, len(content) + 1):
        if size % 512 and size % 13:
            continue  # all block borders, and every 13th byte
        disk.replace(path, content[:size])
        found = restart(disk)
        assert found.data == [one.data for one in txns[: len(found.data)]]
        assert len(found.data) >= before
        before = len(found.data)
    assert before == len(txns)


def test_every_truncation_of_a_closed_file_is_refused() -> None:
    """[W-23], S15: the next file says what must be there."""
    disk, txns = big_log()
    path = f"{DIR}/{'0' * 20}.xlog"
    content = disk.read(path)
    refused = 0
    for size in range(0, len(content), 37):
        disk.replace(path, content[:size])
        try:
            found = restart(disk)
        except (Corruption, XlogGap):
            refused += 1
            continue
        # Only the end marker is missing: the next file starts where the rows end, so all are there.
        assert found.data == [one.data for one in txns]
    assert refused > len(content) // 37 * 0.9


def flips(disk: SimDisk, path: str, rng: random.Random, count: int, check: Callable[[str], None]) -> None:
    bits = len(disk.read(path).rstrip(b"\0")) * 8
    for _ in range(count):
        bit = rng.randrange(bits)
        disk.flip(path, bit)
        check(f"{path} bit {bit}")
        disk.flip(path, bit)


def test_flipped_bits_at_or_below_the_mark_are_found() -> None:
    """S15: damage is reported with file and offset, or is in bytes that mean nothing; never wrong rows."""
    disk, txns = big_log(80)
    data = [one.data for one in txns]
    rng = random.Random(3)
    seen = {"refused": 0, "harmless": 0, "cut": 0, "without a place": 0}

    def check(note: str) -> None:
        try:
            found = restart(disk)
        except XlogGap:
            seen["refused"] += 1
            return
        except Corruption as error:
            named = {"file", "offset"} <= error.details.keys()
            seen["refused" if named else "without a place"] += 1
            return
        assert found.data == data[: len(found.data)], note
        # Only the last batch has nothing behind it that proves it was synced.
        assert len(found.data) >= len(data) - 5, note
        seen["harmless" if len(found.data) == len(data) else "cut"] += 1

    for name in disk.listdir(DIR):
        flips(disk, f"{DIR}/{name}", rng, 500, check)
    assert seen["refused"] > 500 and seen["without a place"] == 0


def test_flipped_bits_of_a_snapshot_are_all_found() -> None:
    """S15: every bit of header, state, tuples and footer counts."""
    disk = SimDisk()
    disk.makedirs(DIR)
    path = write_snapshot(disk, DIR, SnapshotMeta(), [(512, [(1, "a"), (2, "b")])], instance_uuid=UUID)
    content = disk.read(path)
    for bit in range(len(content) * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        disk.replace(path, bytes(damaged))
        with pytest.raises(Corruption):
            restart(disk)
