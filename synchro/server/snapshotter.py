"""Checkpoints and what they make superfluous. Rules [W-30], [W-31], [W-40].

The view is taken in one step of the core and written by a worker thread. Afterwards old snapshots go, and
WAL files that neither they nor any registered instance needs.
"""

from __future__ import annotations

import math
import posixpath
import random

import trio

from synchro.errors import CheckpointInProgress, DecodeError, SynchroError, WalIo
from synchro.instance.recovery import snapshot_view
from synchro.replication.retention import log_floor
from synchro.server.failing_disk import SnapshotDisk
from synchro.server.links import Links
from synchro.server.node import Node
from synchro.storage.disk import FileBytes
from synchro.storage.snapshot import write_snapshot
from synchro.storage.xlog import (
    DAMAGED_SUFFIX,
    HEADER_BYTES_MAX,
    SNAP_SUFFIX,
    decode_header,
    is_file_name,
)
from synchro.vclock import Vclock


class Snapshotter:
    """One checkpoint at a time."""

    def __init__(self, node: Node, links: Links) -> None:
        self._node = node
        self._links = links
        self._is_running = False
        self._last: Vclock | None = None

    async def run(self) -> None:
        """Write a snapshot every `Settings.checkpoint_interval_s`, the first one at a random moment of it; 0:
        never."""
        node = self._node
        since, share = trio.current_time(), 1.0 - random.random()
        while True:
            interval = node.settings.checkpoint_interval_s or math.inf
            if (left := since + interval * share - trio.current_time()) > 0:
                await node.pause(left)
                continue
            try:
                await self.checkpoint()
            except SynchroError as error:
                node.log.warning("checkpoint_failed", reason=error.reason, message=error.message)
            since, share = trio.current_time(), 1.0

    async def checkpoint(self) -> Vclock:
        node = self._node
        if self._is_running:
            raise CheckpointInProgress("Snapshot is already in progress")
        self._is_running = True
        try:
            meta, spaces = snapshot_view(node.core)
            if meta.vclock == self._last:
                return meta.vclock  # [W-31]
            began = trio.current_time()
            path = await trio.to_thread.run_sync(
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
                path=path,
                vclock=str(meta.vclock),
                duration_ms=round(1000 * (trio.current_time() - began), 1),
            )
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
        oldest = await trio.to_thread.run_sync(self._drop_old_snapshots)
        if oldest is None:
            return
        keep_from = self._floor(oldest)
        gone = await node.wal.collect_garbage(keep_from, oldest)
        if gone:
            node.log.info("wal_files_deleted", files=gone, keep_from=str(keep_from))

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

    def _floor(self, oldest: Vclock) -> Vclock:
        """[W-41], [W-42]"""
        links, core = self._links, self._node.core
        return log_floor(
            oldest,
            members=[member for member in core.memtx.catalog.prepared_members() if member != core.self_id],
            acked={member: known.acked for member, known in links.downstreams.items()},
            joins=links.joins.values(),
            anonymous=[follower.downstream.acked for follower in links.followers],
        )
