"""Write a data directory with the formats of today: `python -m tests.golden.make NEW_FOLDER`. See README.md.

It holds what recovery must understand: an identity file, two snapshots, rotated files of the log with rows
of elections (RAFT), PROMOTE, CONFIRM and DEMOTE of several origins, transactions that callers share, with
request ids and without, several rows in one, local ones, NOPs, a queue that is not decided, and an end
without an end marker.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import msgpack

from synchro.config import Limits
from synchro.ids import RequestId
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import snapshot_view
from synchro.row import Field, RowType
from synchro.storage import row_body
from synchro.storage.disk import RealDisk
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from tests.mesh import ASYNC, LOCAL_SPACE, REPLICASET, SYNC, Mesh, uuid_of

ME = 1
LIMITS = Limits(wal_lead_bytes=4096, wal_control_reserve_bytes=1024, wal_block_bytes_max=4096)


def _request_id(number: int) -> RequestId:
    return RequestId(number.to_bytes(16, "big"))


def _share(
    mesh: Mesh, values: list[tuple[Field, ...]], first_id: int, *, unnamed: Container[int] = ()
) -> None:
    """unnamed: which of the calls have no request id."""
    puts = row_body.insert_all(RowType.REPLACE, SYNC, [msgpack.packb(value) for value in values])
    ids = [None if n in unnamed else _request_id(first_id + n) for n in range(len(values))]
    mesh.step(ME, ev.ClientPuts([mesh.call_id() for _ in values], puts, ids, [None] * len(values)))


def facts(instance: Instance) -> dict[str, Any]:
    """What a recovery must find, as JSON."""
    memtx, limbo, raft = instance.memtx, instance.limbo, instance.raft
    return {
        "vclock": {str(origin): lsn for origin, lsn in instance.vclock.as_dict().items()},
        "spaces": {
            str(space): sorted(repr(found) for found in memtx.select(space))
            for space in (SYNC, ASYNC, LOCAL_SPACE)
        },
        "members": {str(number): list(member) for number, member in memtx.catalog.members().items()},
        "queue": [[entry.origin, entry.lsn, entry.count] for entry in limbo.entries],
        "owner": [limbo.owner_id, limbo.term, limbo.confirmed_lsn],
        "promote_terms": {str(k): v for k, v in limbo.snapshot_state().promote_terms.items()},
        "raft": [raft.term, raft.vote],
        "requests": sorted(
            [request_id.hex(), record.origin, record.lsn, record.term]
            for request_id, record in instance.state.requests.export().decided
        ),
        "drops": sorted([origin, r.first, r.last] for origin, r in instance.state.drops.export().ranges),
    }


def make(folder: Path) -> None:
    data = folder / "data"
    data.mkdir(parents=True)
    disk, directory = RealDisk(), str(data)
    mesh = Mesh(3, skip_conflict=True)
    salts = random.Random(1)
    identity = IdentityFile.create(disk, directory, Identity(uuid_of(ME), "i1", REPLICASET))
    write_snapshot(
        disk, directory, SnapshotMeta(replicaset_uuid=REPLICASET), mesh.spaces, instance_uuid=uuid_of(ME)
    )
    journal = Journal(
        disk,
        directory,
        instance_uuid=uuid_of(ME),
        new_salt=lambda: salts.getrandbits(64),
        limits=LIMITS,
        wall_time=1.0,
        identity=identity,
    )
    member = mesh.members[ME]
    done = 0

    def write() -> None:
        """What is new in the log of the mesh: one batch of many, then one of each."""
        nonlocal done
        new = member.wal[done : member.written]
        done = member.written
        for batch in (new[: len(new) // 2], *([txn] for txn in new[len(new) // 2 :])):
            if batch:
                journal.append(batch, 2.0, has_control=True)

    mesh.promote(1)
    for key in range(4):
        mesh.write(ME, (key, "alone"), request_id=_request_id(100 + key))
    _share(mesh, [(10 + n, "shared") for n in range(6)], 1)
    _share(mesh, [(80 + n, "shared without ids") for n in range(5)], 0, unnamed=range(5))
    _share(mesh, [(90 + n, "shared, some ids") for n in range(5)], 60, unnamed=(0, 3))
    mesh.write(ME, (1, "local"), LOCAL_SPACE)
    mesh.settle()
    write()
    journal.rotate(3.0)

    mesh.cut(1, 3)
    mesh.cut(1, 2)
    mesh.write(ME, (20, "pending at the snapshot"), request_id=_request_id(200))
    mesh.persist(ME)
    meta, spaces = snapshot_view(mesh[ME])
    write()
    write_snapshot(disk, directory, meta, spaces, instance_uuid=uuid_of(ME))
    journal.rotate(4.0)

    mesh.write(2, (5, "not decided by the next owner"), ASYNC, kind=RowType.INSERT)
    mesh.write(ME, (5, "in conflict"), ASYNC, kind=RowType.INSERT)
    mesh.settle()
    mesh.promote(2)  # rolls back what only 1 has
    mesh.write(2, (30, "of the next owner"), request_id=_request_id(300))
    mesh.settle()
    mesh.heal()
    mesh.settle()
    write()
    journal.rotate(5.0)

    mesh.promote(3)
    mesh.demote(3)
    mesh.isolate(ME)
    mesh.write(ME, (6, "kept"), ASYNC, kind=RowType.INSERT)
    mesh.write(3, (6, "of a former owner, in conflict"), ASYNC, kind=RowType.INSERT)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    mesh.promote(1)
    mesh.write_ops(
        ME,
        [row_body.dml_from_values(RowType.REPLACE, space, value=(40, "together")) for space in (SYNC, ASYNC)],
    )
    _share(mesh, [(50 + n, "shared again") for n in range(5)], 20)
    mesh.settle()
    write()
    mesh.isolate(ME)
    _share(mesh, [(60 + n, "not decided") for n in range(4)], 40)
    _share(mesh, [(100 + n, "not decided, some ids") for n in range(4)], 70, unnamed=(1, 2))
    mesh.write(ME, (70, "not decided"), request_id=_request_id(400))
    mesh.persist(ME)
    write()
    assert not any(other.stopped for other in mesh.members.values())
    journal.write_note()
    journal.close_files()  # kill -9: no end marker

    expected = facts(mesh[ME])
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
