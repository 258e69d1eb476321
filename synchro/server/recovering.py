"""What lies on the disk of an instance, put back into memory: snapshot and log. Rule [M-2], ADR 14."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import trio

from synchro.errors import Corruption
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance
from synchro.replication.admission import of_another_set, stays_member
from synchro.row import Tuple, Txn
from synchro.server.bootstrap import check_wanted_set
from synchro.server.garbage import tune_garbage_collector
from synchro.server.node import Node
from synchro.storage.recovery import Recovered, recover_with_any
from synchro.storage.salvage import LeftOut, recover_by_force
from synchro.storage.xlog import DAMAGED_SUFFIX
from synchro.threads import in_thread

_Found: TypeAlias = tuple[Recovered, Instance, list[Corruption]] | None
"""What `recover_with_any` returns."""


class _Stopped(Exception):
    """The process was asked to stop while it recovered."""


class Recovering:
    """Snapshot and log of one instance, read as often as it begins anew."""

    def __init__(self, node: Node, is_stopping: Callable[[], bool]) -> None:
        """is_stopping: asked between two pieces, in a thread."""
        self._node = node
        self._is_stopping = is_stopping
        self._log = node.log
        self._has_overruled = False

    async def recover(self) -> tuple[Instance, Recovered] | None:
        """Snapshot and log from disk; the core, not started yet. None: asked to stop."""
        node, settings = self._node, self._node.settings
        directory = node.directory
        node.stage = "recovery"
        node.progress.at = None
        await node.failpoint("recovery.delay")
        began = time.perf_counter()
        if settings.force_trust and directory.identity.amnesia:
            self._overrule()
            directory.set_amnesia(False)
        now = trio.current_time()
        try:
            # In a thread, so that a signal is heard; nothing else of this instance runs yet.
            found, node.left_out = await in_thread(partial(self._read_files, now))
        except _Stopped:
            return None
        assert found is not None
        recovered, instance, damaged = found
        node.cut_at = recovered.vclock
        self._tell_of_cuts()
        if recovered.unneeded:
            self._log.warning(
                "old_log_set_aside",
                files=recovered.unneeded,
                message=f"{recovered.fault}; nothing is lost: the rows of these older files, which were "
                f"renamed, are in {recovered.snapshot_path}. Who lacks rows of them must join again",
            )
        for error in damaged:
            self._log.warning(
                "snapshot_damaged",
                file=f"{error.details['file']}{DAMAGED_SUFFIX}",
                message=f"{error.message}; it was renamed, and {recovered.snapshot_path} with the log behind "
                "it took its place",
            )
        if settings.force_trust and not self._has_overruled:
            self._log.info("force_trust_unused", message="--force-trust: the log is trusted without it")
        self._check_set(instance)
        if settings.is_anonymous and not instance.is_anonymous:
            raise stays_member(instance.self_id)
        if recovered.torn_tail is not None:
            self._log.warning(
                "wal_not_closed", file=recovered.torn_tail.path, offset=recovered.torn_tail.offset
            )
        self._log.info(
            "recovered",
            message=f"recovered from '{recovered.snapshot_path}'",
            snapshot=recovered.snapshot_path,
            rows=recovered.rows,
            vclock=str(recovered.vclock),
            duration_ms=round(1000 * (time.perf_counter() - began), 1),
        )
        tune_garbage_collector()
        await trio.lowlevel.checkpoint()
        return instance, recovered

    def _read_files(self, now: float) -> tuple[_Found, Sequence[LeftOut]]:
        """In a thread. Raises `Corruption`, `XlogGap`, `_Stopped`."""
        settings, directory = self._node.settings, self._node.directory

        def attempt() -> _Found:
            return recover_with_any(
                directory.disk,
                settings.snapshot_dir,
                settings.wal_dir,
                self._node.uuid,
                directory.identity_file.notes.log,
                lambda recovered: self._replay(recovered, now),
            )

        if not settings.force_recovery:
            return attempt(), ()
        return recover_by_force(
            attempt,
            directory.disk,
            settings.wal_dir,
            before_cut=lambda: directory.set_amnesia(True),
        )

    def _tell_of_cuts(self) -> None:
        node = self._node
        for cut in node.left_out:
            self._log.warning(
                "rows_left_out",
                file=cut.file,
                offset=cut.offset,
                message=f"{cut.why}; the log ends there now",
                rows=cut.rows,
                kept_as=cut.kept_as,
            )
        if node.settings.force_recovery and not node.left_out:
            self._log.info(
                "force_recovery_unused",
                message="--force-recovery: all of the log that is needed is whole; nothing was left out",
            )

    def _overrule(self) -> None:
        self._has_overruled = True
        self._log.warning(
            "amnesia_overruled", message="--force-trust: votes and confirmed rows may be forgotten"
        )

    def _is_log_whole(self, recovered: Recovered) -> bool:
        """ADR 14. False: the flag is on disk, before a new file of the log hides what is missing."""
        if recovered.lost is None:
            return True
        self._log.warning("log_incomplete", message=f"{recovered.lost}; acknowledged rows may be lost")
        if self._node.settings.force_trust:
            self._overrule()
            return True
        self._node.directory.set_amnesia(True)
        return False

    def _replay(self, recovered: Recovered, now: float) -> Instance:
        """Into memory. Raises `_Stopped`. Nothing made here is garbage: none is looked for."""
        settings, directory = self._node.settings, self._node.directory
        self._node.progress.at = recovered.read

        def ensure_wanted() -> None:
            if self._is_stopping():
                raise _Stopped

        def spaces() -> Iterator[tuple[int, Sequence[Tuple]]]:
            for chunk in recovered.tuples():
                ensure_wanted()
                yield chunk

        def txns() -> Iterator[Txn]:
            for batch in recovered.batches():
                ensure_wanted()
                yield from batch

        was_collecting = gc.isenabled()
        gc.disable()
        try:
            return recover_instance(
                uuid=self._node.uuid,
                settings=settings,
                meta=recovered.meta,
                spaces=spaces(),
                txns=txns(),
                rng=random.Random(),
                trusted=not directory.identity.amnesia,
                now=now,
                is_log_whole=lambda: self._is_log_whole(recovered),
            )
        finally:
            if was_collecting:
                gc.enable()

    def _check_set(self, instance: Instance) -> None:
        directory = self._node.directory
        stored = instance.memtx.catalog.replicaset_uuid() or ""
        check_wanted_set(directory.settings, stored, "snapshot")
        expected = directory.identity.replicaset_uuid
        if expected is not None and stored != expected:
            raise of_another_set(expected, stored, says="(identity file)", found="(snapshot)")
        directory.set_replicaset(stored)
