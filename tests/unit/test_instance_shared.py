"""Writes of several callers in one transaction of the log (ADR 13): who shares, and who does not.

Nobody can tell by what he is told: each has an LSN, a tuple and a fate of his own, as if he were alone.
"""

from __future__ import annotations

import pytest

from synchro.config import Limits, QuorumFormula
from synchro.instance import events as ev
from synchro.row import Field, RowType, TxnId
from synchro.storage import row_body, schema, schema_ops
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh
from tests.unit.shared_world import (
    ONE,
    logged,
    numbered,
    promoted_mesh,
    put_all,
    reasons,
    retry,
    rid,
    shapes,
    told,
    tuples,
    wait_for,
)

# --- who shares -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RowType.INSERT, RowType.REPLACE])
def test_callers_of_one_frame_share_a_transaction_and_each_hears_its_own_row(kind: RowType) -> None:
    """ADR 13, [Q-20]: one entry, one TSN, an LSN and an id for each; decided for all by one ack."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=kind)
    (txn,) = logged(mesh)
    assert (txn.is_shared, txn.row_count, len(mesh[1].limbo), mesh[1].limbo.count) == (True, 5, 1, 5)
    assert list(txn.requests()) == [(rid(1 + n), txn.tsn + n) for n in range(5)]
    mesh.persist(1)
    assert all(mesh.outcome(call) is None for call in calls)
    assert mesh.rows(1) == []  # not visible while it waits
    mesh.settle()
    assert told(mesh, calls) == [txn.tsn + n for n in range(5)]
    assert tuples(mesh, calls) == [((n, "v"),) for n in range(1, 6)]
    assert all(outcome.is_sync for outcome in map(mesh.outcome, calls) if isinstance(outcome, ev.Committed))
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == numbered(5)


def test_followers_have_the_same_rows_checksums_and_request_records() -> None:
    """S10: bytes travel as they are, and every instance makes the same table of them."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(6))
    mesh.settle()
    lsns = told(mesh, calls)
    for number in (1, 2, 3):
        assert [txn.data for txn in logged(mesh, number)] == [txn.data for txn in logged(mesh)]
        assert mesh[number].memtx.checksum(SYNC) == mesh[1].memtx.checksum(SYNC)
        assert mesh[number].vclock.without_local() == mesh[1].vclock.without_local()
    mesh.crash(1)
    mesh.promote(2)
    for n, lsn in enumerate(lsns):
        outcome = mesh.outcome(retry(mesh, 2, (n, "again"), rid(1 + n), to=2))
        assert outcome == ev.Committed(TxnId(ONE, lsn), duplicate=True)


def test_fewer_than_it_is_worth_go_one_by_one() -> None:
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(ev.SHARED_MIN - 1))
    mesh.settle()
    assert shapes(mesh) == [1] * (ev.SHARED_MIN - 1)
    assert sorted(told(mesh, calls)) == told(mesh, calls)


def test_more_than_a_transaction_may_hold_become_several() -> None:
    """Each is within `batch_ops_max`, as if a client had sent it."""
    mesh = promoted_mesh(limits=Limits(batch_ops_max=10))
    calls = put_all(mesh, numbered(35))
    assert sum(shapes(mesh)) == 35
    assert 4 <= len(shapes(mesh)) <= 8 and max(shapes(mesh)) <= 10
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 35))


def test_more_bytes_than_a_transaction_may_hold_become_several() -> None:
    mesh = promoted_mesh(limits=Limits(txn_bytes_max=400))
    calls = put_all(mesh, numbered(16, "x" * 50))
    assert sum(shapes(mesh)) == 16 and len(shapes(mesh)) > 1
    assert all(sum(len(op.raw) for op in txn.ops) <= 400 for txn in logged(mesh))
    mesh.settle()
    assert len(told(mesh, calls)) == 16


def test_a_frame_of_thousands_is_one_step() -> None:
    """More than a frame may bring, so that a larger limit of it would not be the first to find out."""
    mesh = promoted_mesh(limits=Limits(batch_ops_max=10_000))
    calls = put_all(mesh, numbered(5000), kind=RowType.INSERT)
    assert shapes(mesh) == [5000]
    mesh.settle()
    assert told(mesh, calls) == list(range(logged(mesh)[0].tsn, logged(mesh)[0].tsn + 5000))
    assert mesh[2].memtx.checksum(SYNC) == mesh[1].memtx.checksum(SYNC)


def test_a_set_of_one_shares_as_well() -> None:
    """[Q-23]: its quorum is its own disk."""
    mesh = promoted_mesh(1)
    calls = put_all(mesh, numbered(4))
    mesh.persist(1)
    assert len(told(mesh, calls)) == 4 and shapes(mesh) == [4]


# --- keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(9))
def test_a_key_that_is_taken_refuses_its_caller_alone(place: int) -> None:
    """Admission.W2: who is refused goes alone, without LSN and id; the others commit, in order."""
    mesh = promoted_mesh()
    mesh.write(1, (1 + place, "old"))
    mesh.settle()
    calls = put_all(mesh, numbered(9), kind=RowType.INSERT)
    mesh.settle()
    refused = calls.pop(place)
    assert mesh.reason(refused) == "TUPLE_FOUND"
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 8))
    assert mesh.rows(2) == [(n, "old" if n == 1 + place else "v") for n in range(1, 10)]
    assert mesh.outcome(wait_for(mesh, 1, request_id=rid(1 + place))) == ev.FateKnown(ev.Fate.UNKNOWN)


def test_the_second_insert_of_a_key_in_one_frame_is_refused_when_the_first_is_decided() -> None:
    """ADR 7: no error shows unconfirmed data, also that of a neighbour."""
    mesh = promoted_mesh()
    values = [*numbered(8), (3, "second"), *numbered(8, first=9)]
    calls = put_all(mesh, values, kind=RowType.INSERT)
    assert mesh.outcome(calls[8]) is None
    mesh.settle()
    assert mesh.reason(calls.pop(8)) == "TUPLE_FOUND"
    assert len(told(mesh, calls)) == 16
    assert mesh.rows(1) == numbered(16)


@pytest.mark.parametrize("gap", [1, 2, 5, 15])
def test_the_last_of_two_replaces_of_a_key_in_one_frame_wins(gap: int) -> None:
    """Calls of a frame run in order; both are done."""
    mesh = promoted_mesh()
    values = numbered(16)
    values[gap] = (1, "last")
    calls = put_all(mesh, values)
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == sorted(set(lsns))
    assert (1, "last") in mesh.rows(1) and mesh.rows(1) == mesh.rows(2)


def test_many_replaces_of_one_key_are_all_done_in_order() -> None:
    mesh = promoted_mesh()
    calls = put_all(mesh, [(1, n) for n in range(20)])
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 20))
    assert mesh.rows(1) == mesh.rows(2) == [(1, 19)]


def test_a_tuple_of_the_wrong_form_refuses_its_caller_alone() -> None:
    """[A-32]: a key of another type."""
    mesh = promoted_mesh()
    values: list[tuple[Field, ...]] = [*numbered(8)]
    values[5] = ("text", "v")
    calls = put_all(mesh, values)
    mesh.settle()
    assert mesh.reason(calls.pop(5)) == "FIELD_TYPE"
    assert len(told(mesh, calls)) == 7


def test_later_writes_on_keys_of_a_pending_shared_transaction_rest_on_it() -> None:
    """ADR 7: a refusal is told when it commits; a change of its tuple follows it in the queue."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(4), kind=RowType.INSERT)
    refused = mesh.write(1, (2, "other"), kind=RowType.INSERT)
    update = mesh.write_ops(
        1, [row_body.dml_from_values(RowType.UPDATE, SYNC, key=(3,), ops=[("=", 2, "updated")])]
    )
    more = put_all(mesh, [(n, "again") for n in (4, 20, 21, 22, 23)], kind=RowType.REPLACE, first_id=50)
    assert all(mesh.outcome(call) is None for call in (refused, update, *more))
    mesh.settle()
    assert mesh.reason(refused) == "TUPLE_FOUND"
    assert mesh.committed(update), mesh.outcome(update)
    assert len(told(mesh, [*calls, *more])) == 9
    assert mesh.rows(2)[:4] == [(1, "v"), (2, "v"), (3, "updated"), (4, "again")]


def test_refusals_that_rested_on_a_rolled_back_shared_transaction_are_conflicts() -> None:
    """ADR 7."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    calls = put_all(mesh, numbered(4), kind=RowType.INSERT)
    refused = put_all(mesh, numbered(4, "other"), kind=RowType.INSERT, first_id=50)
    mesh.settle()
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert reasons(mesh, calls) == ["SYNC_ROLLBACK"] * 4
    assert reasons(mesh, refused) == ["TRANSACTION_CONFLICT"] * 4
    mesh[1].memtx.check()


# --- who does not share ---------------------------------------------------------------------------------


def test_asynchronous_spaces_are_not_shared() -> None:
    """[A-35]: a conflict may drop one, and must not drop its neighbours."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(8), space=ASYNC)
    mesh.settle()
    assert all(txn.call_count == 1 for txn in mesh.members[1].wal)
    assert all(mesh.committed(call) for call in calls)
    assert mesh.rows(2, ASYNC) == numbered(8)


def test_local_spaces_are_not_shared() -> None:
    """[L-22]: also where nothing else is writable."""
    mesh = promoted_mesh()
    for number in (1, 2):
        calls = put_all(mesh, numbered(8), space=LOCAL_SPACE, to=number, first_id=number * 100)
        mesh.persist(number)
        assert all(mesh.committed(call) for call in calls)
        assert mesh.rows(number, LOCAL_SPACE) == numbered(8)
        assert all(txn.call_count == 1 for txn in mesh.members[number].wal)


def test_temporary_spaces_are_not_shared() -> None:
    """[D-4]: nothing of them is logged."""
    mesh = promoted_mesh()
    mesh.write_ops(1, schema_ops.create_space(mesh[1].memtx, "temp", temporary=True))
    mesh.settle()
    mesh.write_ops(1, schema_ops.create_index(mesh[1].memtx, "temp", "primary"))
    mesh.settle()
    space = mesh[1].memtx.catalog.space("temp").id
    before = len(mesh.members[1].wal)
    calls = put_all(mesh, numbered(8), space=space)
    assert tuples(mesh, calls) == [(value,) for value in numbered(8)]
    assert len(mesh.members[1].wal) == before and mesh.rows(1, space) == numbered(8)


@pytest.mark.parametrize("is_unique", [True, False])
def test_a_second_unique_index_is_looked_at_row_by_row(is_unique: bool) -> None:
    """[D-9]: two callers may collide in it with different primary keys; whoever came first has the value."""
    mesh = promoted_mesh()
    parts = ({"field": 2, "type": "string"},)
    mesh.write_ops(1, schema_ops.create_index(mesh[1].memtx, "sync", "second", unique=is_unique, parts=parts))
    mesh.settle()
    values = [(n, f"text {n}") for n in range(8)]
    values[5] = (5, "text 2")
    calls = put_all(mesh, values, kind=RowType.INSERT)
    assert shapes(mesh) == ([1] * 7 if is_unique else [8])
    mesh.settle()
    if is_unique:
        assert mesh.reason(calls.pop(5)) == "TUPLE_FOUND"
    assert len(told(mesh, calls)) == len(calls)
    assert len(mesh.rows(2)) == len(calls)
    mesh[2].memtx.check()


def test_an_unknown_space_refuses_every_caller() -> None:
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(8), space=999)
    assert reasons(mesh, calls) == ["NO_SUCH_SPACE"] * 8
    assert mesh[1].vclock == mesh[1].volatile_vclock


def test_members_are_not_registered_together() -> None:
    """Rows of system spaces have a meaning and are looked at one by one."""
    mesh = promoted_mesh()
    calls = put_all(mesh, [(1, 2), (2, 3), (3, 4), (4, 5)], space=schema.CLUSTER_ID)
    assert len(reasons(mesh, calls)) == 4
    assert mesh[1].vclock == mesh[1].volatile_vclock


def test_who_may_not_write_refuses_every_caller() -> None:
    """[E-40], [E-41], [Q-13]."""
    mesh = Mesh(3)
    assert reasons(mesh, put_all(mesh, numbered(5))) == ["SYNC_QUEUE_UNCLAIMED"] * 5
    mesh.promote(1)
    refused = put_all(mesh, numbered(5), to=2)
    assert reasons(mesh, refused) == ["READ_ONLY"] * 5
    outcome = mesh.outcome(refused[3])
    assert isinstance(outcome, ev.Rejected) and outcome.error.details["owner"] == "1"
    few = promoted_mesh(1, synchro_quorum=QuorumFormula(2))
    assert reasons(few, put_all(few, numbered(5))) == ["QUORUM_WAIT"] * 5
