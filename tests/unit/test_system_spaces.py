"""What no client may write: members, definitions of system spaces, what is given once. [M-50], [D-22].

A member that was deleted must not stay writable, and `DropSpace("_cluster")` must not be "done".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from synchro.config import QuorumFormula
from synchro.ids import INSTANCE_ID_MAX, CallId, InstanceId, Lsn, RequestId
from synchro.instance import events as ev
from synchro.row import Dml, Field, Puts, RowType
from synchro.storage import row_body, schema, schema_ops, xrow
from synchro.storage.memtx import Memtx
from synchro.storage.schema import CLUSTER_ID, INDEX_ID, SCHEMA_ID, SPACE_ID, TRUNCATE_ID
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh, uuid_of

OWN, OTHER, BAD = "LOCAL_INSTANCE_ID_IS_READ_ONLY", 2, "UNSUPPORTED"


def put(space: int, *value: Field, kind: RowType = RowType.REPLACE) -> Dml:
    return row_body.dml_from_values(kind, space, value=value)


def delete(space: int, *key: Field, index_id: int = 0) -> Dml:
    return row_body.dml_from_values(RowType.DELETE, space, index_id=index_id, key=key)


def update(space: int, *key: Field, index_id: int = 0, ops: Sequence[tuple[Field, ...]]) -> Dml:
    return row_body.dml_from_values(RowType.UPDATE, space, index_id=index_id, key=key, ops=tuple(ops))


def upsert(space: int, value: tuple[Field, ...], *ops: tuple[Field, ...]) -> Dml:
    return row_body.dml_from_values(RowType.UPSERT, space, value=value, ops=ops)


def encoded(ops: Sequence[Dml]) -> list[Dml]:
    return [
        row_body.dml_from_values(o.type, o.space_id, index_id=o.index_id, key=o.key, value=o.value, ops=o.ops)
        for o in ops
    ]


RENAME = (("=", 3, "renamed"),)
FORBIDDEN: list[tuple[str, Dml]] = [
    (BAD, put(CLUSTER_ID, 2, uuid_of(9), "i2")),
    (BAD, put(CLUSTER_ID, 7, uuid_of(7), "i7", kind=RowType.INSERT)),
    (BAD, update(CLUSTER_ID, 2, ops=RENAME)),
    (BAD, update(CLUSTER_ID, "i2", index_id=2, ops=RENAME)),
    (BAD, upsert(CLUSTER_ID, (2, uuid_of(2), "i2"), ("=", 3, "renamed"))),
    (BAD, upsert(CLUSTER_ID, (7, uuid_of(7)))),
    (BAD, put(SCHEMA_ID, "expelled.7", uuid_of(7), "i7")),
    (BAD, delete(SCHEMA_ID, "expelled.7")),
    (OWN, delete(CLUSTER_ID, 1)),
    (OWN, delete(CLUSTER_ID, uuid_of(1), index_id=1)),
    (OWN, delete(CLUSTER_ID, "i1", index_id=2)),
    (OWN, put(CLUSTER_ID, 1, uuid_of(9), "i1")),
    (OWN, put(CLUSTER_ID, 1, uuid_of(1), "i1", kind=RowType.INSERT)),
    (OWN, update(CLUSTER_ID, 1, ops=RENAME)),
    (OWN, upsert(CLUSTER_ID, (1, uuid_of(1), "i1"), ("=", 3, "renamed"))),
    (BAD, put(SPACE_ID, CLUSTER_ID, 1, "_cluster", "memtx", 0, {}, ())),
    (BAD, put(SPACE_ID, 300, 1, "mine", "memtx", 0, {}, (), kind=RowType.INSERT)),
    (BAD, delete(SPACE_ID, CLUSTER_ID)),
    (BAD, delete(SPACE_ID, "_cluster", index_id=2)),
    (BAD, update(SPACE_ID, CLUSTER_ID, ops=RENAME)),
    (BAD, upsert(SPACE_ID, (CLUSTER_ID, 1, "_cluster", "memtx", 0, {}, ()), ("=", 3, "renamed"))),
    (BAD, put(INDEX_ID, SPACE_ID, 5, "mine", "TREE", {}, ((0, "unsigned"),))),
    (BAD, delete(INDEX_ID, CLUSTER_ID, 0)),
    (BAD, delete(INDEX_ID, CLUSTER_ID, "primary", index_id=2)),
    (BAD, update(INDEX_ID, CLUSTER_ID, 1, ops=(("=", 3, "renamed"),))),
    (BAD, put(TRUNCATE_ID, CLUSTER_ID, 1)),
    (BAD, upsert(TRUNCATE_ID, (SCHEMA_ID, 1), ("+", 2, 1))),
    (BAD, delete(TRUNCATE_ID, CLUSTER_ID)),
    (BAD, delete(SCHEMA_ID, "version")),
    (BAD, put(SCHEMA_ID, "version", 9, 9, 9)),
    (BAD, put(SCHEMA_ID, "replicaset_name", "other")),
    (BAD, update(SCHEMA_ID, "replicaset_name", ops=(("=", 2, "other"),))),
    ("ILLEGAL_PARAMS", delete(SCHEMA_ID, "replicaset_uuid")),
    ("ILLEGAL_PARAMS", put(SCHEMA_ID, "replicaset_uuid", uuid_of(9))),
    ("SPACE_EXISTS", put(SPACE_ID, 600, 1, "_cluster", "memtx", 0, {}, ())),
    ("SPACE_EXISTS", update(SPACE_ID, ASYNC, ops=(("=", 3, "_space"),))),
    ("SPACE_EXISTS", update(SPACE_ID, ASYNC, ops=(("=", "name", "_space"),))),
    ("NO_SUCH_SPACE", put(schema.FUNC_ID, 1)),
]


@pytest.mark.parametrize("is_claimed", [False, True])
@pytest.mark.parametrize(("reason", "op"), FORBIDDEN)
def test_a_client_may_not_write_it(reason: str, op: Dml, is_claimed: bool) -> None:
    """Refused at once, nothing written; alone, among others, and as a retry."""
    mesh = Mesh(3)
    if is_claimed:
        mesh.promote(1)
    frozen, wal = mesh[1].memtx.freeze(), len(mesh.members[1].wal)
    alone_only = reason == "SPACE_EXISTS"  # a sound change of definitions does not go with data anyway
    for ops in ([op],) if alone_only else ([op], [op, put(ASYNC, 1)], [put(ASYNC, 1), op]):
        call = mesh.write_ops(1, ops, request_id=b"r" * 16)
        mesh.settle()
        assert mesh.reason(call) == reason
    assert (mesh[1].memtx.freeze(), len(mesh.members[1].wal)) == (frozen, wal)
    mesh[1].memtx.check()


@pytest.mark.parametrize(("reason", "op"), FORBIDDEN[:8])
def test_it_is_refused_at_once_also_where_others_wait(reason: str, op: Dml) -> None:
    """Definitions wait until the queue is empty: what is never done does not."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    mesh.write(1, (1,))
    assert mesh.reason(mesh.write_ops(1, [op])) == reason


def test_a_run_of_inserts_as_columns_is_looked_at_too() -> None:
    """`ClientPuts`, from a frame of a stream: into `_cluster`, four at a time."""
    mesh = Mesh(3)
    mesh.promote(1)
    ops = [put(CLUSTER_ID, 1 + n, uuid_of(9 + n), f"i{n}") for n in range(4)]
    puts = Puts(RowType.REPLACE, CLUSTER_ID, [op.raw for op in ops], [op.value or () for op in ops])
    calls = [mesh.call_id() for _ in ops]
    ids = [RequestId(bytes([n]) * 16) for n in range(4)]
    mesh.step(1, ev.ClientPuts(calls, puts, ids, [None] * 4))
    assert [mesh.reason(call) for call in calls] == [OWN, *[BAD] * 3]
    whole = mesh.write_ops(1, puts)
    assert mesh.reason(whole) == OWN


CALLS: dict[str, Callable[[Memtx], Sequence[Dml]]] = {
    "drop": lambda memtx: schema_ops.drop_space(memtx, "_cluster"),
    "rename": lambda memtx: schema_ops.alter_space(memtx, "_cluster", name="other"),
    "sync": lambda memtx: schema_ops.alter_space(memtx, "_schema", is_sync=True),
    "format": lambda memtx: schema_ops.alter_space(memtx, "_space", format=["id"]),
    "field count": lambda memtx: schema_ops.alter_space(memtx, "_user", field_count=9),
    "truncate": lambda memtx: schema_ops.truncate(memtx, "_cluster"),
    "index": lambda memtx: schema_ops.create_index(memtx, "_cluster", "fourth"),
    "drop index": lambda memtx: schema_ops.drop_index(memtx, "_cluster", "name"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_change_definitions_refuse_system_spaces(name: str) -> None:
    """To answer "done" and do nothing would be worse."""
    mesh = Mesh(3)
    frozen = mesh[1].memtx.freeze()
    call = mesh.write_ops(1, encoded(CALLS[name](mesh[1].memtx)))
    mesh.settle()
    assert mesh.reason(call) == BAD
    assert mesh[1].memtx.freeze() == frozen


@pytest.mark.parametrize(
    "op",
    [
        put(SCHEMA_ID, "oncemine"),
        delete(SCHEMA_ID, "oncemine"),
        put(TRUNCATE_ID, ASYNC, 1),
        put(SPACE_ID, 600, 1, "other", "memtx", 0, {}, (), kind=RowType.INSERT),
        put(SYNC, 1),
        put(LOCAL_SPACE, 320),
    ],
)
def test_what_clients_may_write_there(op: Dml) -> None:
    """Keys of what was done once, [D-26], definitions of their own spaces."""
    mesh = Mesh(3)
    mesh.promote(1)
    call = mesh.write_ops(1, [op])
    mesh.settle()
    assert mesh.committed(call)


def test_registration_is_no_client_call() -> None:
    """[M-22], [M-25]: a new member, and one that comes back under a new UUID."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(3)
    for uuid, name, number in ((uuid_of(8), "i3", 3), (uuid_of(7), "i7", 4)):
        call = mesh.call_id()
        mesh.step(1, ev.RegisterRequested(call, uuid, name))
        mesh.settle()
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Registered)
        assert outcome.id == number
        assert mesh[1].memtx.catalog.members()[InstanceId(number)] == (uuid, name)
        mesh.heal()


def test_each_joiner_gets_the_smallest_free_id_up_to_31() -> None:
    """[M-3]"""
    mesh = Mesh(1, synchro_quorum=QuorumFormula(1))
    mesh.promote(1)

    def register(number: int) -> CallId:
        call = mesh.call_id()
        mesh.step(1, ev.RegisterRequested(call, uuid_of(number), f"i{number}"))
        mesh.settle()
        return call

    for number in range(2, INSTANCE_ID_MAX + 1):
        outcome = mesh.outcome(register(number))
        assert isinstance(outcome, ev.Registered) and outcome.id == number
    assert mesh.reason(register(32)) == "REPLICA_MAX"
    known = mesh.outcome(register(7))
    assert isinstance(known, ev.Registered) and known.id == 7


@pytest.mark.parametrize("op", [op for reason, op in FORBIDDEN if op.space_id == CLUSTER_ID])
def test_rows_of_logs_and_peers_are_applied_as_ever(op: Dml) -> None:
    """They were accepted once. What is refused of them is refused for what it is, not for who sent it."""
    txn = xrow.encode_ops([op], InstanceId(2), Lsn(1), 0)
    mesh = Mesh(3)
    mesh.step(1, ev.TxnsReceived(InstanceId(2), [txn]))
    mesh.settle()
    error = mesh.members[1].stopped.get(2)
    if error is not None:
        assert error.reason in ("TUPLE_FOUND", "EXACT_MATCH", "UNSUPPORTED")
        return
    assert mesh[1].vclock.get(InstanceId(2)) == 1
    mesh.crash(1)
    mesh.restart(1)
    assert mesh[1].vclock.get(InstanceId(2)) == 1
