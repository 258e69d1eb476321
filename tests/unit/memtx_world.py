"""A memtx with spaces and tuples in it, and with the rows of a new set."""

from __future__ import annotations

from synchro.config import Limits
from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage import schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import Prepared
from synchro.storage.system_rows import first_rows

UUIDS = [f"00000000-0000-0000-0000-{number:012d}" for number in range(40)]


def empty() -> Memtx:
    return Memtx(Limits())


def do(memtx: Memtx, ops: list[Dml]) -> Prepared:
    prepared = memtx.prepare(ops)
    memtx.commit(prepared)
    memtx.check()
    return prepared


def with_bands(*tuples: Tuple, **options: object) -> Memtx:
    memtx = empty()
    do(memtx, schema_ops.create_space(memtx, "bands", **options))  # type: ignore[arg-type]
    do(memtx, schema_ops.create_index(memtx, "bands", "primary"))
    do(memtx, [put(512, *value) for value in tuples])
    return memtx


def put(space: int, *fields: Field) -> Dml:
    return Dml(RowType.REPLACE, space, b"", value=fields)


def booted() -> Memtx:
    memtx = empty()
    memtx.begin_bulk()
    for space_id, tuples in first_rows(
        replicaset_uuid=UUIDS[39], replicaset_name="set", instance_uuid=UUIDS[1], instance_name="one"
    ):
        memtx.load(space_id, tuples)
    memtx.end_bulk()
    return memtx
