"""The WAL task: batches, callbacks, cuts, and relays that follow the tail (S8, [W-14], [W-46])."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from synchro.config import Limits
from synchro.errors import DiskFailed, SynchroError, WalIo, XlogGap
from synchro.ids import InstanceId
from synchro.row import Txn
from synchro.storage.disk import Disk, RealDisk
from synchro.storage.journal import Journal
from synchro.storage.recovery import recover
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.wal import MARK_DELAY_S, Wal
from synchro.storage.wal_reader import WalReader
from synchro.storage.xlog import crc32c
from synchro.storage.xrow import decode_txns, scan_txns
from synchro.vclock import EMPTY_VCLOCK, Vclock
from tests.sim.disk import Fault, SimDisk
from tests.storage_world import (
    DIR,
    SMALL,
    confirm,
    initial_snapshot,
    new_instance,
    open_journal,
    promote,
    raft_state,
    reopen,
    restart,
    txn,
    vclock,
)


@dataclass
class Seen:
    """What the core would be told; `until_...` waits for it."""

    written: list[Vclock] = field(default_factory=list)
    cuts: list[tuple[Vclock, SynchroError]] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def until_written(self, upto: Vclock) -> None:
        with trio.fail_after(10):
            while not self.written or not self.written[-1].covers(upto):
                await self.changed.wait()

    async def until_cut(self) -> None:
        with trio.fail_after(10):
            while not self.cuts:
                await self.changed.wait()


def make_wal(disk: Disk, journal: Journal, limits: Limits = SMALL) -> tuple[Wal, Seen]:
    seen = Seen()

    def on_written(at: Vclock) -> None:
        seen.written.append(at)
        seen.wake()

    def on_cut(at: Vclock, error: SynchroError) -> None:
        seen.cuts.append((at, error))
        seen.wake()

    wal = Wal(disk, journal, on_written=on_written, on_cut=on_cut, limits=limits, wall_clock=lambda: 1.0)
    return wal, seen


async def read(
    reader: WalReader, count: int, max_bytes: int = 1 << 20, *, prefer_plain: bool = False
) -> list[bytes]:
    """The bytes of the next `count` transactions."""
    got: list[bytes] = []
    with trio.fail_after(10):
        while len(got) < count:
            rows = reader.next_plain(max_bytes) if prefer_plain else None
            if rows is not None:
                reader.accept(rows)
                data, crc = rows.data_and_crc
                spans = scan_txns(data)
                assert crc == crc32c(data)
                assert rows.run == (spans[0].origin, spans[0].lsn, spans[-1].lsn)
            else:
                spans, data = await reader.next_run(max_bytes)
            got += [data[span.start : span.end] for span in spans]
    return got


def log(first: int, last: int) -> list[Txn]:
    return [txn(n) for n in range(first, last + 1)]


async def test_what_is_pending_goes_out_as_one_batch(nursery: trio.Nursery) -> None:
    """[W-14]: one sync for all that was queued, one callback, in order."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    for one in log(1, 20):
        wal.submit([one])
    assert wal.queued_bytes == sum(len(one.data) for one in log(1, 20))
    nursery.start_soon(wal.run)
    await seen.until_written(vclock(_1=20))
    assert seen.written == [vclock(_1=20)]
    assert wal.stats.batches == 1 and wal.stats.txns == 20 and wal.queued_bytes == 0
    wal.stop()


async def test_stop_writes_the_rest_and_leaves_an_end_marker() -> None:
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: wal.run(task_status=task_status))
        wal.submit(log(1, 3))
        wal.stop()
    assert seen.written == [vclock(_1=3)]
    disk.restart(kept=[])
    found = restart(disk)
    assert found.recovered.clean_stop and len(found.txns) == 3


async def test_a_batch_that_was_begun_is_answered_although_the_task_was_cancelled() -> None:
    """Its LSNs are used: who gave them must hear that it is on disk. Nothing new begins."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    is_writing, may_go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def on_call(call: str, path: str) -> None:
        if not may_go_on.is_set():
            token.run_sync_soon(is_writing.set)
            may_go_on.wait(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        disk.on_call = on_call
        wal.submit(log(1, 2))
        await is_writing.wait()
        assert wal.busy_since is not None
        wal.submit(log(3, 3))
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        assert not seen.written
        may_go_on.set()
    assert seen.written == [vclock(_1=2)] and wal.busy_since is None
    with pytest.raises(DiskFailed):
        await wal.rotate()


async def test_rows_and_jobs_wait_for_the_task(nursery: trio.Nursery) -> None:
    """A job goes ahead of the rows that gather; both are done once there is a thread."""
    disk, journal = new_instance()
    journal.append(log(1, 1), 1.0)
    wal, seen = make_wal(disk, journal)
    wal.submit(log(2, 3))
    rotated: list[bool] = []

    async def rotate() -> None:
        rotated.append(await wal.rotate())

    nursery.start_soon(rotate)
    await trio.testing.wait_all_tasks_blocked()
    assert not rotated and not seen.written and wal.busy_since is None
    nursery.start_soon(wal.run)
    await seen.until_written(vclock(_1=3))
    assert rotated == [True] and wal.files[-1].vclock == vclock(_1=1)
    wal.stop()


async def test_rows_that_gather_go_after_a_job(nursery: trio.Nursery) -> None:
    """What arrives while a job is in the thread belongs to the same batch."""
    disk, journal = new_instance()
    journal.append(log(1, 1), 1.0)
    wal, seen = make_wal(disk, journal)
    token = trio.lowlevel.current_trio_token()
    moments_later: list[Callable[[], None]] = []
    wal.call_with(moments_later.append, token.run_sync_soon)
    nursery.start_soon(wal.run)
    await trio.testing.wait_all_tasks_blocked()
    is_rotating, may_go_on = trio.Event(), threading.Event()

    def on_call(call: str, path: str) -> None:
        if not may_go_on.is_set():
            token.run_sync_soon(is_rotating.set)
            may_go_on.wait(10)

    disk.on_call = on_call
    wal.submit(log(2, 2))
    nursery.start_soon(wal.rotate)
    await is_rotating.wait()
    assert wal.busy_since is None  # only a batch tells how slow the disk is
    wal.submit(log(3, 3))
    assert len(moments_later) == 1
    moments_later.pop()()  # the rotation went first: they gather again behind it
    assert wal.busy_since is None
    may_go_on.set()
    while not moments_later:
        await trio.lowlevel.checkpoint()
    moments_later.pop()()
    await seen.until_written(vclock(_1=3))
    assert wal.files[-1].vclock == vclock(_1=1)
    assert seen.written == [vclock(_1=3)] and wal.stats.batches == 1
    wal.stop()


async def test_a_callback_that_fails_ends_the_task_and_whoever_waits_hears() -> None:
    """Our own bug: the process leaves. Rows that the callback submitted are not written any more."""
    disk, journal = new_instance()
    refused: list[DiskFailed] = []
    wal: Wal

    def on_written(at: Vclock) -> None:
        wal.submit(log(2, 2))
        raise AssertionError("a bug")

    async def rotate() -> None:
        try:
            await wal.rotate()
        except DiskFailed as error:
            refused.append(error)

    wal = Wal(disk, journal, on_written=on_written, on_cut=lambda *_: None, limits=SMALL)
    async with trio.open_nursery() as nursery:
        wal.submit(log(1, 1))
        with pytest.raises(AssertionError, match="a bug"), trio.fail_after(10):
            await wal.run()
        nursery.start_soon(rotate)
    assert len(refused) == 1
    assert journal.vclock == vclock(_1=1) and wal.vclock == vclock(_1=1)


def wait_for(event: threading.Event) -> None:
    assert event.wait(10)


async def test_rows_of_a_callback_do_not_hold_a_task_that_was_cancelled() -> None:
    """What the core asks for when it hears of the last batch comes too late, and nobody waits for it."""
    disk, journal = new_instance()
    written: list[Vclock] = []
    wal: Wal

    def on_written(at: Vclock) -> None:
        written.append(at)
        wal.submit([txn(at.get(InstanceId(1)) + 1)])

    wal = Wal(disk, journal, on_written=on_written, on_cut=lambda *_: None, limits=SMALL)
    may_go_on = threading.Event()
    disk.on_call = lambda call, path: wait_for(may_go_on)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wal.run)
            wal.submit(log(1, 1))
            while wal.busy_since is None:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            may_go_on.set()
    assert written == [vclock(_1=1)] == [wal.vclock]
    assert wal.busy_since is None


async def test_the_mark_is_written_after_a_quiet_moment() -> None:
    """Answers in docs/adr/: then a kill leaves nothing that must be copied."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    mark_written = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        wal.submit(log(1, 3))
        await seen.until_written(vclock(_1=3))
        token = trio.lowlevel.current_trio_token()
        disk.on_call = lambda call, path: token.run_sync_soon(mark_written.set)
        with trio.fail_after(MARK_DELAY_S + 5):
            await mark_written.wait()
        nursery.cancel_scope.cancel()
    disk.restart()
    start = restart(disk).recovered.journal_start
    assert start is not None and start.tail == ()


async def test_a_cut_drops_everything_queued_behind() -> None:
    """[W-15]: the caller hears the vclock that is left; what follows uses the LSNs again."""
    disk, journal = new_instance()
    journal.append(log(1, 1), 1.0)
    wal, seen = make_wal(disk, journal)
    async with trio.open_nursery() as nursery:
        disk.faults[disk.calls + 1] = Fault.SHORT
        wal.submit(log(2, 3))
        nursery.start_soon(wal.run)
        await seen.until_cut()
        assert seen.cuts[0][0] == vclock(_1=1) and seen.cuts[0][1].reason == "WAL_IO"
        assert wal.queued_bytes == 0
        wal.submit(log(2, 2))
        await seen.until_written(vclock(_1=2))
        assert await read(wal.reader(EMPTY_VCLOCK), 2) == [one.data for one in log(1, 2)]
        wal.stop()
    assert seen.written == [vclock(_1=2)]


@pytest.mark.parametrize(("fault", "has_control"), [(Fault.EIO, False), (Fault.SHORT, True)])
async def test_failures_that_end_the_process_come_out_of_run(fault: Fault, has_control: bool) -> None:
    """[L-30]: an I/O error, or hard state that has no room."""
    disk, journal = new_instance()
    journal.append(log(1, 1), 1.0)
    wal, seen = make_wal(disk, journal)
    disk.faults[disk.calls + 1] = fault
    wal.submit([raft_state(1, 2)] if has_control else log(2, 2), has_control)
    with pytest.raises(DiskFailed):
        await wal.run()
    assert not seen.written and not seen.cuts


async def test_a_reader_follows_the_tail() -> None:
    """[W-46]: rows come out in WAL order, after they are synced, and what the peer has is left out."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    mixed = [txn(1), txn(1, origin=2), txn(2), txn(2, origin=2), txn(3)]
    results: dict[Vclock, list[bytes]] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        async with trio.open_nursery() as readers:
            readers.start_soon(follow, wal, vclock(_1=1, _2=1), 3, results)
            for n, one in enumerate(mixed, start=1):
                wal.submit([one])
                await seen.until_written(Vclock({one.origin: one.lsn}))
                assert wal.stats.batches == n
        wal.stop()
    assert results[vclock(_1=1, _2=1)] == [one.data for one in mixed[2:]]


async def follow(wal: Wal, after: Vclock, count: int, results: dict[Vclock, list[bytes]]) -> None:
    """A relay that gets the next `count` transactions in small runs, as whole blocks where it can."""
    reader = wal.reader(after)
    got: list[bytes] = []
    while len(got) < count:
        got += await read(reader, 1, max_bytes=200, prefer_plain=True)
    results[after] = got
    reader.close()


async def test_a_run_is_bounded_in_bytes() -> None:
    """One transaction may be larger than the bound; else a run stays within it."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    txns = log(1, 30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        wal.submit(txns)
        await seen.until_written(vclock(_1=30))
        reader = wal.reader(EMPTY_VCLOCK)
        got: list[bytes] = []
        size = len(txns[0].data)
        while len(got) < 30:
            spans, data = await reader.next_run(3 * size + 1)
            assert 1 <= len(spans) <= 3
            got += [data[span.start : span.end] for span in spans]
        assert reader.is_at_end
        assert reader.block_time == 1.0  # the clock of this instance, whatever the origin's said [W-4]
        small = wal.reader(EMPTY_VCLOCK)
        assert len((await small.next_run(1))[0]) == 1
        wal.stop()
    assert got == [one.data for one in txns]


async def test_plain_blocks_need_no_look_at_their_transactions() -> None:
    """[A-37], [A-38]: only whole blocks, of one origin, with no row that is local or brings a term."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    batches = [
        log(1, 3),
        [*log(4, 4), confirm(5, 4)],
        [txn(1, origin=2)],
        [*log(6, 6), txn(2, origin=2)],
        [raft_state(1, 2)],
        [promote(7, 2)],
        log(8, 9),
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        fresh, late = wal.reader(EMPTY_VCLOCK), wal.reader(vclock(_1=2))
        assert fresh.next_plain(1 << 20) is None and fresh.is_at_end
        for number, batch in enumerate(batches, start=1):
            wal.submit(batch)
            while wal.stats.batches < number:
                await seen.changed.wait()
        assert await plain_runs(fresh) == [(1, 1, 5), (2, 1, 1), "mixed", "mixed", "mixed", (1, 8, 9)]
        assert (await late.next_run(1 << 20))[0][0].lsn == 3  # it has a part of the first block
        small = wal.reader(EMPTY_VCLOCK)
        assert small.next_plain(1) is None
        first = small.next_plain(sum(len(one.data) for one in log(1, 3)))
        assert first is not None and first.run == (1, 1, 3)
        wal.stop()


async def plain_runs(reader: WalReader) -> list[object]:
    """What there is to the end; "mixed": a block that had to be looked at."""
    found: list[object] = []
    while not reader.is_at_end:
        rows = reader.next_plain(1 << 20)
        if rows is None:
            await reader.next_run(1)  # one transaction
            while reader._done_spans:
                await reader.next_run(1)
            found.append("mixed")
        else:
            assert reader.next_plain(1 << 20) is not None  # again, until it is accepted
            found.append(tuple(rows.run))
            again = reader.next_plain(1 << 20)
            assert again is not None
            reader.accept(again)
    return found


async def test_readers_cross_files_ring_and_restarts() -> None:
    """Whatever way rows are stored, a reader sees each once, in order: old files, torn ends, marks, ring."""
    for seed in range(12):
        rng = random.Random(seed)
        limits = replace(
            SMALL, wal_max_size=rng.choice([2000, 6000]), relay_ring_bytes=rng.choice([300, 1500])
        )
        disk = SimDisk()
        initial_snapshot(disk)
        journal = open_journal(disk, limits=limits)
        lsn = 0
        for _ in range(3):
            for _ in range(rng.randint(0, 8)):
                journal.append(log(lsn + 1, lsn + 2), 1.0)
                lsn += 2
                if rng.random() < 0.3:
                    journal.write_mark(1.0)
            if rng.random() < 0.3:
                journal.close_clean(1.0)
            disk.restart()
            journal = reopen(disk, restart(disk), limits=limits, seed=rng.randint(0, 1 << 30))
        wal, seen = make_wal(disk, journal, limits)
        before, total = lsn, lsn + 60
        results: dict[Vclock, list[bytes]] = {}
        starts = sorted({0, before // 2, before})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wal.run)
            async with trio.open_nursery() as readers:
                for start in starts:
                    readers.start_soon(follow, wal, vclock(_1=start), total - start, results)
                while lsn < total:
                    count = min(rng.randint(1, 4), total - lsn)
                    wal.submit(log(lsn + 1, lsn + count))
                    lsn += count
                    if rng.random() < 0.7:
                        await seen.until_written(vclock(_1=lsn))
            wal.stop()
        for start in starts:
            got = [decode_txns(data)[0].lsn for data in results[vclock(_1=start)]]
            assert got == list(range(start + 1, total + 1)), seed


async def test_rows_of_deleted_files_are_a_gap() -> None:
    """[W-45]: never skipped in silence."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal, replace(SMALL, relay_ring_bytes=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        late = wal.reader(EMPTY_VCLOCK)
        for n in range(1, 4):
            wal.submit(log(n, n))
            await seen.until_written(vclock(_1=n))
            assert await wal.rotate()
        assert await wal.collect_garbage(wal.vclock) == 3
        with pytest.raises(XlogGap):
            wal.reader(EMPTY_VCLOCK)
        with pytest.raises(XlogGap):
            await read(late, 3)
        wal.stop()


async def test_real_files(tmp_path: Path) -> None:
    """The same on the disk of this machine: write, rotate, stop, recover."""
    disk = RealDisk()
    directory = str(tmp_path)
    write_snapshot(disk, directory, SnapshotMeta(), [], instance_uuid="me")
    journal = Journal(disk, directory, instance_uuid="me", new_salt=lambda: 7, limits=SMALL)
    wal, seen = make_wal(disk, journal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        wal.submit(log(1, 50))
        await seen.until_written(vclock(_1=50))
        await wal.rotate()
        wal.submit(log(51, 60))
        await seen.until_written(vclock(_1=60))
        assert len(await read(wal.reader(EMPTY_VCLOCK), 60)) == 60
        wal.stop()
    found = recover(disk, directory, directory, "me")
    assert found is not None
    assert [t.lsn for batch in found.batches() for t in batch] == list(range(1, 61))
    assert found.clean_stop
    assert DIR not in directory


# --- the barrier ------------------------------------------------------------------------------------------


async def test_a_barrier_is_answered_when_all_before_it_is_on_disk(nursery: trio.Nursery) -> None:
    """[W-48]: also what still gathers; what comes behind it is not waited for. Barriers of one moment share
    what the thread does."""
    disk, journal = new_instance()
    wal, seen = make_wal(disk, journal)
    wal.submit(log(1, 3))
    found: list[Vclock] = []

    async def barrier() -> None:
        found.append(await wal.sync())

    nursery.start_soon(barrier)
    nursery.start_soon(barrier)
    await trio.testing.wait_all_tasks_blocked()
    wal.check()
    wal.submit([txn(4)])
    assert not found
    nursery.start_soon(wal.run)
    await seen.until_written(vclock(_1=3))
    while len(found) < 2:
        await trio.lowlevel.checkpoint()
    assert all(at.covers(vclock(_1=3)) for at in found)
    assert await wal.sync() == vclock(_1=4)
    wal.check()
    wal.stop()


async def test_a_barrier_syncs_where_batches_are_not_synced() -> None:
    """[W-48]: `wal.mode: write` trades the disk for speed, and a barrier asks for the disk. Once only: what
    is synced is not synced again."""
    disk, _ = new_instance()
    journal = open_journal(disk, restart(disk).recovered.journal_start, sync=False, seed=2)
    wal, seen = make_wal(disk, journal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wal.run)
        wal.submit(log(1, 3))
        await seen.until_written(vclock(_1=3))
        before = journal.syncs
        assert await wal.sync() == vclock(_1=3)
        assert journal.syncs == before + 1
        assert await wal.sync() == vclock(_1=3)
        assert journal.syncs == before + 1
        nursery.cancel_scope.cancel()
    disk.restart(kept=[])  # a power cut: what was not synced is gone
    assert [one.lsn for one in restart(disk).txns] == [1, 2, 3]


async def test_a_barrier_over_rows_that_were_cut_back_says_so(nursery: trio.Nursery) -> None:
    """[W-48], [W-15]: it does not wait for other rows to take their LSNs."""
    disk, journal = new_instance()
    journal.append(log(1, 1), 1.0)
    wal, _ = make_wal(disk, journal)
    disk.faults[disk.calls + 1] = Fault.SHORT
    wal.submit(log(2, 3))
    with trio.fail_after(10):
        async with trio.open_nursery() as both:

            async def barrier() -> None:
                with pytest.raises(WalIo):
                    await wal.sync()

            both.start_soon(barrier)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wal.run)
        assert await wal.sync() == vclock(_1=1)
        wal.submit(log(2, 2))
        assert await wal.sync() == vclock(_1=2)
    wal.check()
    wal.stop()


async def test_a_barrier_of_a_log_that_failed_hears_so() -> None:
    """[L-30]: nobody waits for a disk that is given up, before or after."""
    disk, journal = new_instance()
    journal.append(log(1, 1), 1.0)
    wal, _ = make_wal(disk, journal)
    disk.faults[disk.calls + 1] = Fault.EIO
    wal.submit(log(2, 2))

    async def barrier() -> None:
        with pytest.raises(DiskFailed):
            await wal.sync()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(barrier)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DiskFailed):
                await wal.run()
        await barrier()
