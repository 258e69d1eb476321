"""Callers without a request id share a transaction too (ADR 13): what they are told, who reads it, and that
the memory of requests is for those who retry."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from synchro.config import Limits
from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.row import FLAG_SHARED, RowType, TxnId
from synchro.storage import row_body
from synchro.storage.schema import CLUSTER_ID
from synchro.vclock import Vclock
from tests.mesh import Mesh
from tests.unit.shared_world import (
    ONE,
    logged,
    numbered,
    promoted_mesh,
    put_all,
    retry,
    rid,
    shapes,
    told,
    tuples,
    wait_for,
)

MIXTURES: dict[str, list[RequestId | None]] = {
    "none": [None] * 6,
    "one": [None, None, rid(3), None, None, None],
    "first": [rid(1), *[None] * 5],
    "last": [*[None] * 5, rid(6)],
    "all but one": [rid(1), rid(2), None, rid(4), rid(5), rid(6)],
    "every other": [rid(1), None, rid(3), None, rid(5), None],
}


def records(mesh: Mesh, number: int) -> list[tuple[RequestId, int, int]]:
    """What an instance remembers of decided requests: id, LSN, term."""
    decided = mesh[number].state.requests.export().decided
    return [(request_id, one.lsn, one.term or 0) for request_id, one in decided]


@pytest.mark.parametrize("kind", [RowType.INSERT, RowType.REPLACE])
@pytest.mark.parametrize("ids", MIXTURES.values(), ids=MIXTURES)
def test_calls_with_and_without_ids_share_and_each_hears_its_own_row(
    ids: list[RequestId | None], kind: RowType
) -> None:
    """ADR 13: one entry, an LSN for each; every instance remembers the ids that there are, and no more."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(6), kind=kind, request_ids=ids)
    (txn,) = logged(mesh)
    assert (txn.is_shared, txn.has_unnamed, txn.call_count, txn.row_count) == (True, True, 6, 6)
    assert [row.request_id for row in txn.rows] == ids
    assert (len(mesh[1].limbo), mesh[1].limbo.count) == (1, 6)
    mesh.settle()
    assert told(mesh, calls) == [txn.tsn + n for n in range(6)]
    assert tuples(mesh, calls) == [((n, "v"),) for n in range(1, 7)]
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == numbered(6)
    expected = [(one, txn.tsn + n, mesh[1].limbo.term) for n, one in enumerate(ids) if one is not None]
    for number in (1, 2, 3):
        assert records(mesh, number) == expected
        assert [one.data for one in logged(mesh, number)] == [txn.data]


def test_a_crowd_in_which_each_has_an_id_is_written_as_ever() -> None:
    """Members of an older version read it: the flag is there only where an id is missing."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(5))
    (txn,) = logged(mesh)
    assert txn.is_shared and not txn.has_unnamed
    assert not any(row.flags & FLAG_SHARED for row in txn.rows)


def test_who_has_no_id_does_not_crowd_out_who_has_one() -> None:
    """RequestTable.R2: a retry is known after any number of calls without ids, on each instance and after a
    restart."""
    mesh = promoted_mesh(limits=Limits(remembered_requests_max=3))
    mesh.write(1, (900, "named"), request_id=rid(900))
    for n in range(10):
        put_all(mesh, numbered(6, first=10 * n), request_ids=[None, None, rid(7), None, None, None])
    mesh.settle()
    assert [one for one, _, _ in records(mesh, 1)] == [rid(900), rid(7)]
    mesh.crash(1)
    mesh.promote(2)
    again = retry(mesh, 2, (900, "named"), rid(900), to=2)
    mesh.settle()
    outcome = mesh.outcome(again)
    assert isinstance(outcome, ev.Committed) and outcome.duplicate


@pytest.mark.parametrize("is_decided", [False, True])
@pytest.mark.parametrize("ids", list(MIXTURES.values())[1:], ids=list(MIXTURES)[1:])
def test_a_retry_after_a_restart_has_one_effect(ids: list[RequestId | None], is_decided: bool) -> None:
    """S12: of those in a mixed run that have an id, whether the run was decided before or not."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(6), kind=RowType.INSERT, request_ids=ids)
    (txn,) = logged(mesh)
    mesh.persist(1)
    if is_decided:
        mesh.settle()
    mesh.crash(1)
    mesh.restart(1)
    mesh.promote(1)
    named = [n for n, one in enumerate(ids) if one is not None]
    again = [retry(mesh, 1, (1 + n, "v"), rid(1 + n)) for n in named]
    mesh.settle()
    assert told(mesh, again) == [txn.tsn + n for n in named]
    for call in again:
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Committed) and outcome.duplicate
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == numbered(6)


def test_a_call_without_an_id_is_found_by_the_lsn_it_was_told() -> None:
    """ADR 13: WaitTransaction, and a read that names the row in the middle, wait for the decision."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    put_all(mesh, numbered(5), request_ids=[None] * 5)
    mesh.persist(1)
    (txn,) = logged(mesh)
    middle = TxnId(ONE, Lsn(txn.tsn + 2))
    asked = wait_for(mesh, 1, txn=middle)
    assert mesh.outcome(asked) is None
    assert not mesh[1].has_applied(Vclock({ONE: middle.lsn}))
    mesh.heal()
    mesh.settle()
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.COMMITTED, middle)
    assert all(mesh[number].has_applied(Vclock({ONE: middle.lsn})) for number in (1, 2, 3))


def test_what_the_next_owner_does_not_have_is_rolled_back_for_all() -> None:
    """S3, RequestTable.R1: and a retry of one that has an id runs again."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    calls = put_all(mesh, numbered(5), kind=RowType.INSERT, request_ids=[None, rid(2), None, None, None])
    mesh.persist(1)
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert {mesh.reason(call) for call in calls} == {"SYNC_ROLLBACK"}
    again = retry(mesh, 2, (2, "v"), rid(2), to=2)
    mesh.settle()
    outcome = mesh.outcome(again)
    assert isinstance(outcome, ev.Committed) and not outcome.duplicate
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == [(2, "v")]


# --- retries in a crowd go alone, the others share ---------------------------------------------------------


def test_a_known_id_goes_alone_and_the_others_share() -> None:
    """ADR 13, S12: one who retries costs his neighbours nothing."""
    mesh = promoted_mesh()
    first = put_all(mesh, numbered(4), kind=RowType.INSERT)
    ids: list[RequestId | None] = [None, None, None, None, rid(2), rid(11), None, None, None]
    values = numbered(9, first=50)
    values[4] = (2, "v")
    calls = put_all(mesh, values, kind=RowType.INSERT, request_ids=ids)
    mesh.settle()
    assert shapes(mesh) == [4, 4, 4]
    lsns = told(mesh, calls)
    assert lsns[4] == told(mesh, first)[1]
    del lsns[4]
    assert lsns == list(range(lsns[0], lsns[0] + 8))


def test_a_position_that_is_too_old_is_that_of_one_call() -> None:
    """RequestTable.R3: its neighbours are done, and share; who has no id cannot be a retry."""
    mesh = promoted_mesh(1, limits=Limits(remembered_requests_max=1))
    for number in (1, 2, 3):
        mesh.write(1, (number, "old"), request_id=rid(900 + number))
    mesh.settle()
    old, new = ev.Position(Term(0), Lsn(0)), mesh[1].decided_position
    ids: list[RequestId | None] = [rid(1), rid(2), None, rid(4), rid(5), rid(6)]
    calls = put_all(mesh, numbered(6, first=10), request_ids=ids, positions=[new, new, old, new, old, None])
    mesh.settle()
    assert mesh.reason(calls[4]) == "REQUEST_EXPIRED"
    del calls[4]
    told(mesh, calls)
    assert shapes(mesh)[3:] == [4, 1]


# --- members of an older version ---------------------------------------------------------------------------


def older_mesh(*older: int) -> Mesh:
    mesh = Mesh(3)
    for number in older:
        mesh.older.add(number)
        mesh.crash(number)
        mesh.restart(number)
    mesh.promote(1)
    return mesh


MIXED: Sequence[RequestId | None] = [rid(1), rid(2), rid(3), rid(4), None, None, None, None, None, rid(10)]


def test_with_a_member_of_an_older_version_only_those_with_ids_share() -> None:
    """ADR 13: it would take the others for damage, so they are written one by one."""
    mesh = older_mesh(3)
    put_all(mesh, numbered(10), request_ids=MIXED)
    mesh.settle()
    assert shapes(mesh) == [4, 1, 1, 1, 1, 1, 1]
    assert not any(txn.has_unnamed for txn in logged(mesh))
    assert mesh.rows(3) == numbered(10)


def test_the_member_is_upgraded_and_all_share() -> None:
    """Readers.U1: its Hello says so."""
    mesh = older_mesh(3)
    mesh.older.clear()
    mesh.crash(3)
    mesh.restart(3)
    put_all(mesh, numbered(10), request_ids=MIXED)
    mesh.settle()
    assert shapes(mesh) == [10]
    assert mesh.rows(3) == numbered(10)


def test_a_member_that_leaves_is_one_until_that_is_decided() -> None:
    """ADR 13, ADR 41: the removal may be undone, and then an older member must read what was written."""
    mesh = older_mesh(3)
    removed = mesh.write_ops(1, [row_body.dml_from_values(RowType.DELETE, CLUSTER_ID, key=(3,))])
    mesh.cut(1, 2)
    mesh.settle()
    assert mesh.outcome(removed) is None
    put_all(mesh, numbered(5), request_ids=[None] * 5)
    assert not any(txn.has_unnamed for txn in logged(mesh))
    mesh.heal()
    mesh.settle()
    assert mesh.committed(removed)
    mesh.isolate(3)
    put_all(mesh, numbered(5, first=10), request_ids=[None] * 5)
    mesh.settle()
    assert shapes(mesh)[-1] == 5


def test_a_member_that_is_away_is_what_it_said_last() -> None:
    """Readers.U1: a set that lost one goes on as fast as it was."""
    mesh = promoted_mesh()
    mesh.crash(3)
    put_all(mesh, numbered(5), request_ids=[None] * 5)
    mesh.settle()
    assert shapes(mesh) == [5]
    ack = ev.Ack(mesh[2].vclock, mesh[1].raft.term)
    mesh.step(1, ev.RelayConnected(InstanceId(3), ack, takes_unnamed=False))
    put_all(mesh, numbered(5, first=10), request_ids=[None] * 5)
    assert shapes(mesh) == [5, 1, 1, 1, 1, 1]


def test_a_member_that_was_not_heard_may_be_older() -> None:
    """After a restart with one away nobody can tell, unless the log has such a transaction already: its owner
    had asked all. Readers.U1"""
    mesh = promoted_mesh()
    mesh.crash(3)
    mesh.crash(1)
    mesh.restart(1)
    mesh.promote(1)
    put_all(mesh, numbered(5), request_ids=[None] * 5)
    mesh.settle()
    assert shapes(mesh) == [1] * 5

    mesh.restart(3)
    put_all(mesh, numbered(5, first=10), request_ids=[None] * 5)
    mesh.settle()
    mesh.crash(3)
    mesh.crash(1)
    mesh.restart(1)
    mesh.promote(1)
    put_all(mesh, numbered(5, first=20), request_ids=[None] * 5)
    mesh.settle()
    assert shapes(mesh) == [1] * 5 + [5, 5]
