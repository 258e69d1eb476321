"""What an instance of a scenario has outside of its core: a disk with the real files, and what peers said.

Journal, snapshots, identity file, recovery and join are those of the product; the disk is the simulator's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, cast

from synchro.config import Settings
from synchro.ids import LOCAL, NOBODY, InstanceId, InstanceName
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance, snapshot_view
from synchro.replication.retention import log_floor
from synchro.replication.trust import AckMemory
from synchro.row import CONTROL_TYPES, Field, RowType, Txn
from synchro.server.directory import DataDirectory
from synchro.server.join import _Received, _store
from synchro.server.peer_messages import JoinEnd, JoinStart
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal
from synchro.storage.names import IDENTITY_NAME
from synchro.storage.recovery import Recovered, recover_with_any
from synchro.storage.snapshot import SnapshotMeta, iter_chunks, write_snapshot
from synchro.storage.xlog import SNAP_SUFFIX, XLOG_SUFFIX
from synchro.vclock import Vclock
from tests.mesh import REPLICASET, uuid_of
from tests.sim.disk import Fault, SimDisk
from tests.sim.machine import read_log

DIR = "data"
_CONTROL = CONTROL_TYPES | {RowType.RAFT}


class Box:
    """Disk and settings of one instance; `journal` and `acks` are those of its present life."""

    def __init__(self, number: int, settings: Settings) -> None:
        self.number = number
        name = InstanceName(f"i{number}")
        self.settings = replace(settings, wal_dir=DIR, snapshot_dir=DIR, instance_name=name)
        self.disk = SimDisk()
        self.disk.makedirs(DIR)
        self.identity = IdentityFile.create(self.disk, DIR, Identity(uuid_of(number), f"i{number}"))
        self.snapshots: list[Vclock] = []
        self.is_full = False
        self._ends: list[tuple[str, int]] = []
        """File, and offset behind each batch that was written since the start; where it began first."""
        self.copy: SimDisk | None = None

    @property
    def uuid(self) -> str:
        return uuid_of(self.number)

    def begin_set(self, spaces: Sequence[tuple[int, Iterable[tuple[Field, ...]]]]) -> None:
        """As if it had been there since the set was made."""
        self.identity.save(replace(self.identity.identity, replicaset_uuid=REPLICASET))
        self._write_snapshot(SnapshotMeta(replicaset_uuid=REPLICASET), spaces)

    # --- life

    def start(self, now: float) -> tuple[Instance, list[Txn]]:
        """The instance, and the log that its relays read. Raises what recovery raises."""
        disk = self.disk
        identity = IdentityFile.load(disk, DIR)
        assert identity is not None
        self.identity = identity
        read = recover_with_any(
            disk, DIR, DIR, self.uuid, identity.notes.log, lambda found: self._replay(found, now)
        )
        assert read is not None, "wiped, and not joined"
        found, instance, _ = read
        self.journal = Journal(
            disk,
            DIR,
            instance_uuid=self.uuid,
            new_salt=lambda: disk.calls,
            start=found.journal_start,
            limits=self.settings.limits,
            identity=identity,
        )
        self._ends = [self.journal.position]
        self.acks = AckMemory(identity.notes.acks)
        return instance, read_log(disk, self.journal.files)

    def _replay(self, found: Recovered, now: float) -> Instance:
        def is_log_whole() -> bool:
            if found.lost is not None:
                self.set_amnesia(True)
            return found.lost is None

        return recover_instance(
            uuid=self.uuid,
            settings=self.settings,
            meta=found.meta,
            spaces=found.tuples(),
            txns=chain.from_iterable(found.batches()),
            rng=random.Random(self.number),
            trusted=not self.identity.identity.amnesia,
            now=now,
            is_log_whole=is_log_whole,
        )

    def write(self, txns: Sequence[Txn], now: float, registered: frozenset[InstanceId]) -> None:
        """As one batch, noted in the identity file. Raises `WalIo`: the disk is full, nothing was written."""
        has_control = any(row.type in _CONTROL for txn in txns for row in txn.rows)
        if self.is_full:
            self.disk.faults[self.disk.calls + 1] = Fault.ENOSPC
        self.journal.append(txns, now, has_control=has_control)
        self._ends.append(self.journal.position)
        self.identity.acks = self.acks.export(registered)
        self.journal.write_note()

    def set_amnesia(self, amnesia: bool) -> None:
        self.identity.save(replace(self.identity.identity, amnesia=amnesia))

    def dies(self, *, power: bool) -> None:
        """power: only what was synced is left; else the page cache too."""
        self.is_full = False
        self.disk.restart([] if power else None)

    # --- snapshots and files

    def snapshot(self, instance: Instance, now: float) -> Vclock:
        """The newest `checkpoint_count` are kept."""
        meta, spaces = snapshot_view(instance)
        self._write_snapshot(meta, spaces)
        self.journal.rotate(now)
        kept = self.settings.checkpoint_count
        self.snapshots = self.snapshots[-kept:]
        for name in self.names(SNAP_SUFFIX)[:-kept]:
            self.disk.unlink(f"{DIR}/{name}")
        return meta.vclock

    def _write_snapshot(self, meta: SnapshotMeta, spaces: Sequence[Any]) -> None:
        write_snapshot(self.disk, DIR, meta, spaces, instance_uuid=self.uuid)
        self.snapshots.append(meta.vclock)

    def collect(self, members: frozenset[InstanceId]) -> int:
        """Delete what nobody needs of the log; returns how many files went."""
        others = members - {self.number}
        acked = {member: self.acks.of(member).vclock for member in others}
        floor = log_floor(self.snapshots[0], members=others, acked=acked, joins=())
        return self.journal.collect_garbage(floor, self.snapshots[0])

    def names(self, suffix: str) -> list[str]:
        return [name for name in self.disk.listdir(DIR) if name.endswith(suffix)]

    # --- damage, while it is down

    def tear(self, count: int) -> None:
        """The last `count` batches since the start are gone but for some bytes of the first of them."""
        path, end = self._ends[-1 - count]
        data = self.disk.read(path)
        self.disk.replace(path, data[: end + 20] + bytes(len(data) - end - 20))

    def flip(self, kind: str) -> None:
        """One bit: of the `first` or `last` batch since the start, or of the newest `snapshot`."""
        if kind == "snapshot":
            path = f"{DIR}/{self.names(SNAP_SUFFIX)[-1]}"
            self.disk.flip(path, len(self.disk.read(path)) * 4)
            return
        path, end = self._ends[0 if kind == "first" else -2]
        self.disk.flip(path, 8 * (end + 30))

    def unlink(self, kind: str) -> None:
        """kind: the newest `log` or `snapshot`, or all `data` except the identity file."""
        suffixes = {"log": (XLOG_SUFFIX,), "snapshot": (SNAP_SUFFIX,), "data": (XLOG_SUFFIX, SNAP_SUFFIX)}
        for suffix in suffixes[kind]:
            for name in self.names(suffix) if kind == "data" else self.names(suffix)[-1:]:
                self.disk.unlink(f"{DIR}/{name}")
        self.disk.sync_dir(DIR)

    # --- join

    def receive(
        self,
        meta: SnapshotMeta,
        spaces: Sequence[Any],
        later: Sequence[Txn],
        *,
        id: InstanceId | None = None,
    ) -> None:
        """Keep what a join brought: stage 1, and the rows of stage 2 [M-24]. id: its own if it is not its
        number."""
        start = meta.vclock.without_local()
        meta = replace(meta, vclock=start, vote=NOBODY)
        file = IdentityFile.load(self.disk, DIR)
        assert file is not None and self.disk.exists(f"{DIR}/{IDENTITY_NAME}")
        directory = DataDirectory(self.disk, self.settings, cast(Any, None), file)
        directory.begin_first_start()
        frames = [bytes(frame) for frame in iter_chunks(meta, spaces)]
        end = JoinEnd(start, InstanceId(self.number) if id is None else id)
        started = JoinStart(start, REPLICASET, b"")
        _store(directory, _Received(started, meta, frames, list(later), end, False))
        directory.set_replicaset(REPLICASET)
        file.close()
        self.snapshots = [start]


def later_than(txns: Sequence[Txn], start: Vclock, end: Vclock) -> list[Txn]:
    """What stage 2 of a join sends: of each origin the rows behind `start`, up to `end` [M-23]."""
    found = [txn for txn in txns if txn.origin != LOCAL]
    return [txn for txn in found if start.get(txn.origin) < txn.lsn <= end.get(txn.origin)]
