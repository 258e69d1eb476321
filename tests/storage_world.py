"""Builders for tests of what lies on disk: small transactions and limits, a journal on a simulated disk."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sim.disk import SimDisk

from synchro.config import Limits
from synchro.ids import LOCAL, InstanceId, Lsn, RequestId, Term
from synchro.row import (
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_LOCAL,
    Body,
    Confirm,
    Dml,
    Promote,
    RaftState,
    Row,
    RowType,
    Txn,
)
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal, JournalStart
from synchro.storage.notes import NoteKeeper
from synchro.storage.recovery import Recovered, recover
from synchro.storage.row_body import dml_from_values
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.xrow import encode_txn
from synchro.vclock import EMPTY_VCLOCK, Vclock

UUID = "11111111-1111-4111-8111-111111111111"
SET_UUID = "22222222-2222-4222-8222-222222222222"
DIR = "data"
SMALL = Limits(
    wal_lead_bytes=4096, wal_control_reserve_bytes=1024, wal_block_bytes_max=4096, wal_max_size=1 << 20
)


def put(key: object, value: object = "v", space_id: int = 512) -> Dml:
    return dml_from_values(RowType.REPLACE, space_id, value=(key, value))


def txn(lsn: int, *ops: Dml, origin: int = 1, sync: bool = False, request_id: bytes | None = None) -> Txn:
    """Rows lsn, lsn+1, ... of `origin`; one row with the LSN as its key if no `ops` are given."""
    ops = ops or (put(lsn),)
    flags = FLAG_WAIT_SYNC | FLAG_WAIT_ACK if sync else 0
    last = len(ops) - 1
    return encode_txn(
        [
            Row(
                op.type,
                InstanceId(origin),
                Lsn(lsn + n),
                Lsn(lsn),
                flags if n == last else 0,
                op,
                request_id=RequestId(request_id) if request_id and n == last else None,
            )
            for n, op in enumerate(ops)
        ]
    )


def control(lsn: int, body: Body, origin: int = 1) -> Txn:
    kind = RowType.PROMOTE if isinstance(body, Promote) else RowType.CONFIRM
    return encode_txn([Row(kind, InstanceId(origin), Lsn(lsn), Lsn(lsn), 0, body)])


def confirm(lsn: int, upto: int, origin: int = 1) -> Txn:
    return control(lsn, Confirm(InstanceId(origin), Lsn(upto)), origin)


def promote(lsn: int, term: int, origin: int = 1) -> Txn:
    return control(lsn, Promote(InstanceId(0), Lsn(0), Term(term), Term(0)), origin)


def raft_state(lsn: int, term: int, vote: int = 0) -> Txn:
    body = RaftState(Term(term), InstanceId(vote))
    return encode_txn([Row(RowType.RAFT, LOCAL, Lsn(lsn), Lsn(lsn), 0, body, GROUP_LOCAL)])


def vclock(**lsns: int) -> Vclock:
    """vclock(_1=5) is {1: 5}."""
    return Vclock({InstanceId(int(name[1:])): Lsn(lsn) for name, lsn in lsns.items()})


def initial_snapshot(disk: SimDisk, at: Vclock = EMPTY_VCLOCK) -> None:
    disk.makedirs(DIR)
    write_snapshot(disk, DIR, SnapshotMeta(vclock=at), [], instance_uuid=UUID)


def open_journal(
    disk: SimDisk,
    start: JournalStart | None = None,
    *,
    limits: Limits = SMALL,
    seed: int = 1,
    sync: bool = True,
    identity: NoteKeeper | None = None,
) -> Journal:
    return Journal(
        disk,
        DIR,
        instance_uuid=UUID,
        start=start,
        limits=limits,
        sync=sync,
        identity=identity,
        new_salt=lambda: random.Random(f"{seed} {disk.calls}").getrandbits(64),
    )


def identity_file(disk: SimDisk) -> IdentityFile:
    """The one in the directory; made if there is none."""
    disk.makedirs(DIR)
    found = IdentityFile.load(disk, DIR)
    return IdentityFile.create(disk, DIR, Identity(UUID, "instance001", SET_UUID)) if found is None else found


def new_instance(*, limits: Limits = SMALL, room: int | None = None) -> tuple[SimDisk, Journal]:
    """A disk with the initial snapshot and an open, empty WAL [W-34]."""
    disk = SimDisk(room=room)
    initial_snapshot(disk)
    return disk, open_journal(disk, limits=limits)


@dataclass
class Restarted:
    recovered: Recovered
    txns: list[Txn]
    identity: IdentityFile | None = None

    @property
    def lsns(self) -> list[tuple[int, int]]:
        return [(txn.origin, txn.lsn) for txn in self.txns]

    @property
    def data(self) -> list[bytes]:
        return [txn.data for txn in self.txns]


def restart(disk: SimDisk) -> Restarted:
    """What recovery finds; the disk is as it is (call `crash` or `restart` on it before)."""
    identity = IdentityFile.load(disk, DIR)
    found = recover(disk, DIR, DIR, UUID, None if identity is None else identity.notes.log)
    assert found is not None
    for _ in found.tuples():
        pass
    return Restarted(found, [txn for batch in found.batches() for txn in batch], identity)


def reopen(
    disk: SimDisk, restarted: Restarted, *, limits: Limits = SMALL, seed: int = 2, sync: bool = True
) -> Journal:
    start = restarted.recovered.journal_start
    assert start is not None
    return open_journal(disk, start, limits=limits, seed=seed, sync=sync, identity=restarted.identity)


def last_xlog(disk: SimDisk) -> str:
    return DIR + "/" + [name for name in disk.listdir(DIR) if name.endswith(".xlog")][-1]


def write_each(journal: Journal, txns: Sequence[Txn]) -> None:
    for n, one in enumerate(txns):
        journal.append([one], wall_time=float(n))
