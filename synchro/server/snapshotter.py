"""Checkpoints and what they make superfluous. Rules [W-18], [W-30], [W-31], [W-40]..[W-43].

The view is taken in one step of the core and written by a worker thread. Afterwards old snapshots go, and
WAL files that neither they nor any registered instance needs, nor their age keeps. That is looked at now and
then without a checkpoint, too: members catch up, and files grow old.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from synchro.errors import CheckpointInProgress, DecodeError, SynchroError, WalIo
from synchro.ids import InstanceId
from synchro.instance.recovery import snapshot_view
from synchro.replication.retention import kept_for, log_floor, retained_from, without_local_rows
from synchro.server.checkpoint_schedule import CheckpointSchedule
from synchro.server.failing_disk import SnapshotDisk
from synchro.server.links import Links
from synchro.server.node import Node
from synchro.storage.disk import FileBytes
from synchro.storage.journal import WalFile
from synchro.storage.kept_tuples import kept_files
from synchro.storage.names import IDENTITY_NAME
from synchro.storage.snapshot import write_snapshot
from synchro.storage.xlog import (
    DAMAGED_SUFFIX,
    HEADER_BYTES_MAX,
    SNAP_SUFFIX,
    decode_header,
    is_file_name,
)
from synchro.threads import in_thread
from synchro.vclock import EMPTY_VCLOCK, Vclock

GARBAGE_S: Final = 10.0
"""Between two looks at files that nobody needs any more."""
SHORTEST_S: Final = 0.01
"""Between two checkpoints, however short `snapshot.by.interval` is."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What the log takes on the disk, as it was looked at last. kept_for: who, or which option, needs the
    oldest file. kept_files: of tuples that only this instance had before it joined again (ADR 53)."""

    files: int = 0
    bytes: int = 0
    oldest: Vclock = EMPTY_VCLOCK
    kept_for: Sequence[str] = ()
    kept_files: Sequence[str] = ()


class Snapshotter:
    """One checkpoint at a time, and no other look at old files meanwhile."""

    def __init__(self, node: Node, links: Links) -> None:
        self._node = node
        self._links = links
        self._is_running = False
        self._last: Vclock | None = None
        self._schedule = CheckpointSchedule(trio.current_time(), 0, share=1.0 - random.random())
        self._files_lock = trio.Lock()
        self.facts = LogFacts()
        self.lost_files: str | None = None
        """What is not there any more of the files of this instance, as it was looked at last: to what it
        writes no name leads. None: nothing."""

    async def run(self) -> None:
        """Write a snapshot every `Settings.checkpoint_interval_s`, the first one at a random moment of it,
        and when the log has grown by `Settings.checkpoint_wal_size`; 0: never by that. Drop old files."""
        node = self._node
        written = await in_thread(self._written_before)
        self._schedule = CheckpointSchedule(trio.current_time(), -written, share=1.0 - random.random())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_garbage)
            while True:
                left = self._schedule.due_in(
                    interval_s=node.settings.checkpoint_interval_s,
                    log_bytes=node.settings.checkpoint_wal_size,
                    logged=node.wal.stats.bytes,
                    now=trio.current_time(),
                )
                if left > 0:
                    await node.pause(left)
                    continue
                await node.pause(SHORTEST_S)  # where there is nothing new, a checkpoint waits for nothing
                try:
                    await self.checkpoint()
                except SynchroError as error:
                    self._schedule.failed(trio.current_time())
                    node.log.warning("checkpoint_failed", reason=error.reason, message=error.message)

    async def _run_garbage(self) -> None:
        while True:
            self._note_lost(await in_thread(self._look_for_files))
            try:
                await self.collect_garbage()
            except (OSError, SynchroError) as error:
                # A log that failed ends the process where it is written to.
                self._node.log.warning("garbage_not_collected", message=str(error))
            await self._node.pause(GARBAGE_S)

    def _look_for_files(self) -> str | None:
        """In a worker thread."""
        settings = self._node.settings
        log = self._node.wal.files[-1].path
        for path in (posixpath.join(settings.wal_dir, IDENTITY_NAME), log, settings.snapshot_dir):
            try:
                os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return f"{path} is not there any more: deleted, or moved away, while the instance runs"
            except OSError:
                continue  # a disk that does not answer says nothing of it
        return None

    def _note_lost(self, found: str | None) -> None:
        if found == self.lost_files:
            return
        self.lost_files = found
        if found is None:
            self._node.log.info("files_found", message="the files of this instance are there again")
        else:
            self._node.log.error("files_lost", message=f"{found}; what it writes is gone when it ends")

    @property
    def logged_bytes(self) -> int:
        """Bytes of the log since the last checkpoint; those of former runs as their files have them."""
        return self._schedule.logged_since(self._node.wal.stats.bytes)

    def _written_before(self) -> int:
        """In a worker thread: bytes of the files that a recovery would read, at the start of this run."""
        directory = self._node.settings.snapshot_dir
        names = [name for name in os.listdir(directory) if is_file_name(name, SNAP_SUFFIX)]
        newest = max((int(name.removesuffix(SNAP_SUFFIX)) for name in names), default=0)
        closed = self._node.wal.files[:-1]
        return sum(_size_and_time(file)[0] for file in closed if file.vclock.signature >= newest)

    async def checkpoint(self) -> Vclock:
        node = self._node
        if self._is_running:
            raise CheckpointInProgress("Snapshot is already in progress")
        self._is_running = True
        try:
            began, logged = trio.current_time(), node.wal.stats.bytes
            meta, spaces = snapshot_view(node.core)
            if meta.vclock == self._last:
                self._schedule.ended(began=began, now=began, logged=logged)
                return meta.vclock  # [W-31]
            path = await in_thread(
                lambda: write_snapshot(
                    SnapshotDisk(),
                    node.settings.snapshot_dir,
                    meta,
                    spaces,
                    instance_uuid=node.uuid,
                )
            )
            self._last = meta.vclock
            node.log.info(
                "snapshot_written",
                message=f"saved snapshot '{path}'",
                path=path,
                vclock=str(meta.vclock),
                duration_ms=round(1000 * (trio.current_time() - began), 1),
            )
            self._schedule.ended(began=began, now=trio.current_time(), logged=logged)
            await node.wal.rotate()
            await self.collect_garbage()
            return meta.vclock
        except OSError as error:
            # Disk full, no descriptor: the older snapshots and the log are as good as before.
            raise WalIo(
                f"the checkpoint is not complete: {error.strerror or error}; no data is lost",
                file=error.filename,
                errno=error.errno,
            ) from error
        finally:
            self._is_running = False

    async def collect_garbage(self) -> None:
        """Snapshots beyond `checkpoint_count`, then WAL files [W-40]."""
        node = self._node
        async with self._files_lock:
            oldest = await in_thread(self._drop_old_snapshots)
            if oldest is None:
                return
            found, kept = await in_thread(self._look)
            keep_from = self._floor(oldest, [(file.vclock, written_at) for file, _, written_at in found])
            gone = await node.wal.collect_garbage(keep_from, oldest)
            self._note(found[gone:], oldest, kept)
        if gone:
            node.log.info("wal_files_deleted", files=gone, keep_from=str(keep_from))

    def _look(self) -> tuple[list[tuple[WalFile, int, float]], list[str]]:
        """In a worker thread: closed files of the log, each with its size and the wall-clock time of its last
        write; and files of kept tuples."""
        node = self._node
        kept = kept_files(node.directory.disk, node.settings.snapshot_dir)
        return [(file, *_size_and_time(file)) for file in node.wal.files[:-1]], kept

    def _note(
        self, closed: Sequence[tuple[WalFile, int, float]], oldest_snapshot: Vclock, kept: Sequence[str]
    ) -> None:
        files = self._node.wal.files
        why: list[str] = []
        if len(files) > 1:
            why = kept_for(files[1].vclock, self._needs(oldest_snapshot, closed))
        size = sum(size for _, size, _ in closed)
        self.facts = LogFacts(len(files), size, files[0].vclock, why, kept)

    def _drop_old_snapshots(self) -> Vclock | None:
        """In a worker thread; vclock of the oldest one that is kept. One without a whole header stands for
        nothing: it is set aside, so that it is no floor for the log."""
        disk, directory = self._node.directory.disk, self._node.settings.snapshot_dir
        names = sorted(name for name in disk.listdir(directory) if is_file_name(name, SNAP_SUFFIX))
        keep = max(1, self._node.settings.checkpoint_count)
        for name in names[:-keep]:
            disk.unlink(posixpath.join(directory, name))
        for name in names[-keep:]:
            path = posixpath.join(directory, name)
            data = FileBytes(disk, path)
            try:
                return decode_header(data(HEADER_BYTES_MAX, 0))[0].vclock
            except DecodeError as error:
                disk.rename(path, path + DAMAGED_SUFFIX)
                self._node.log.warning("snapshot_damaged", file=path + DAMAGED_SUFFIX, message=error.message)
            finally:
                data.close()
        return None

    def _floor(self, oldest: Vclock, closed: Sequence[tuple[Vclock, float]]) -> Vclock:
        """[W-41], [W-42]"""
        return log_floor(
            oldest,
            members=self._others(),
            acked=self._acked(),
            joins=self._links.joins.values(),
            anonymous=[follower.downstream.acked for follower in self._links.followers],
            retained=self._retained(closed),
        )

    def _others(self) -> list[InstanceId]:
        core = self._node.core
        if core.is_anonymous:
            return []  # no member follows it (ADR 45); its own followers are counted apart
        without = {core.self_id, *self._links.released}
        return [member for member in core.memtx.catalog.prepared_members() if member not in without]

    def _acked(self) -> dict[InstanceId, Vclock]:
        return {member: known.acked for member, known in self._links.downstreams.items()}

    def _retained(self, closed: Sequence[tuple[Vclock, float]]) -> Vclock | None:
        """[W-18], [W-43]"""
        settings, now = self._node.settings, self._node.clock.now()
        age_s = trio.current_time() - self._node.started_at
        return retained_from(
            closed,
            now=now,
            period_s=settings.wal_retention_period_s,
            paused_until=now + settings.wal_cleanup_delay_s - age_s,
        )

    def _needs(
        self, oldest_snapshot: Vclock, closed: Sequence[tuple[WalFile, int, float]]
    ) -> dict[str, Vclock]:
        """By name, for people."""
        core, acked = self._node.core, self._acked()
        needs = {
            core.state.name_of(member) or str(member): without_local_rows(
                acked.get(member, EMPTY_VCLOCK), oldest_snapshot
            )
            for member in self._others()
        }
        for follower in self._links.followers:
            needs[f"{follower.name} (anonymous)"] = without_local_rows(
                follower.downstream.acked, oldest_snapshot
            )
        needs["snapshots"] = oldest_snapshot
        needs |= {
            f"join of {uuid}": without_local_rows(need, oldest_snapshot)
            for uuid, need in self._links.joins.items()
        }
        retained = self._retained([(file.vclock, written_at) for file, _, written_at in closed])
        if retained is not None:
            needs["wal.retention_period or wal.cleanup_delay"] = retained
        return needs


def _size_and_time(file: WalFile) -> tuple[int, float]:
    """Bytes, and when it was written to last; of one that somebody removed: nothing, long ago."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(file.path)
        return found.st_size, found.st_mtime
    return 0, 0.0
