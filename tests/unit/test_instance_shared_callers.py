"""One caller of a transaction that several share (ADR 13): his retries, his leaving, and what he is told when
he asks for his own row."""

from __future__ import annotations

import pytest

from synchro.config import Limits
from synchro.ids import Lsn, Term
from synchro.instance import events as ev
from synchro.row import RowType, TxnId
from synchro.storage import row_body
from tests.mesh import ASYNC, SYNC
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

# --- retries --------------------------------------------------------------------------------------------


def test_a_retry_joins_a_pending_row_and_hears_that_it_was_done() -> None:
    """ADR 3, S12, ADR 13: the LSN of its own row, not of the transaction; without tuples, as later."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5), kind=RowType.INSERT)
    mesh.persist(1)
    again = [retry(mesh, 1, (1 + n, "v"), rid(1 + n)) for n in range(5)]
    assert all(mesh.outcome(call) is None for call in again)
    mesh.settle()
    assert told(mesh, again) == told(mesh, calls)
    assert tuples(mesh, calls) == [((1 + n, "v"),) for n in range(5)]
    late = [retry(mesh, 1, (1 + n, "v"), rid(1 + n)) for n in range(5)]
    assert told(mesh, late) == told(mesh, calls)
    for call in (*again, *late):
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Committed) and outcome.duplicate and not outcome.tuples
    for call in calls:
        outcome = mesh.outcome(call)
        assert isinstance(outcome, ev.Committed) and not outcome.duplicate
    assert shapes(mesh) == [5]


def test_a_retry_that_wants_the_own_disk_only_is_told_its_own_row() -> None:
    """[Q-45], ADR 13."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(5))
    (txn,) = logged(mesh)
    early = mesh.write(1, (3, "v"), request_id=rid(3), wait=ev.WaitMode.SUBMIT)
    late = mesh.write(1, (3, "v"), request_id=rid(3), wait=ev.WaitMode.SUBMIT)
    assert mesh.outcome(early) is None
    mesh.persist(1)
    expected = ev.Submitted(TxnId(ONE, Lsn(txn.tsn + 2)), True, duplicate=True)
    assert (mesh.outcome(early), mesh.outcome(late)) == (expected, expected)
    on_disk = mesh.write(1, (2, "v"), request_id=rid(2), wait=ev.WaitMode.SUBMIT)
    assert mesh.outcome(on_disk) == ev.Submitted(TxnId(ONE, Lsn(txn.tsn + 1)), True, duplicate=True)


@pytest.mark.parametrize("is_decided", [False, True])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_retry_among_the_callers_has_one_effect(is_decided: bool, place: int) -> None:
    """S12: the whole frame may be a retry, or one of it."""
    mesh = promoted_mesh()
    first = put_all(mesh, numbered(4, first=50), kind=RowType.INSERT, first_id=50)
    if is_decided:
        mesh.settle()
    values, ids = numbered(8), [rid(1 + n) for n in range(8)]
    values[place], ids[place] = (51, "v"), rid(51)
    calls = put_all(mesh, values, kind=RowType.INSERT, request_ids=ids)
    mesh.settle()
    again = mesh.outcome(calls.pop(place))
    assert isinstance(again, ev.Committed) and again.duplicate and not again.tuples
    assert again.txn == TxnId(ONE, told(mesh, first)[1])
    lsns = told(mesh, calls)
    assert lsns == list(range(lsns[0], lsns[0] + 7))


def test_a_frame_sent_again_joins_its_first_life() -> None:
    """S12: by another owner too."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(6), kind=RowType.INSERT)
    again = put_all(mesh, numbered(6), kind=RowType.INSERT)
    mesh.settle()
    assert told(mesh, again) == told(mesh, calls)
    mesh.crash(1)
    mesh.promote(2)
    late = put_all(mesh, numbered(6), kind=RowType.INSERT, to=2)
    assert told(mesh, late) == told(mesh, calls)


def test_the_same_request_id_twice_in_one_frame_is_one_request() -> None:
    """S12: the second is a retry of the first."""
    mesh = promoted_mesh()
    ids = [rid(n) for n in (1, 2, 3, 4, 2, 5)]
    calls = put_all(mesh, numbered(6), request_ids=ids)
    mesh.settle()
    lsns = told(mesh, calls)
    assert lsns[4] == lsns[1] and len(set(lsns)) == 5
    assert [row[0] for row in mesh.rows(1)] == [1, 2, 3, 4, 6]


def test_a_request_id_older_than_what_is_remembered_is_refused_alone() -> None:
    """RequestTable.R3: the others are done."""
    mesh = promoted_mesh(1, limits=Limits(remembered_requests_max=1))
    for number in (1, 2, 3):
        mesh.write(1, (number, "old"), request_id=rid(900 + number))
        mesh.settle()
    positions: list[ev.Position | None] = [mesh[1].decided_position] * 6
    positions[2], positions[4] = ev.Position(Term(0), Lsn(0)), None
    calls = put_all(mesh, numbered(6, first=10), positions=positions)
    mesh.settle()
    assert mesh.reason(calls.pop(2)) == "REQUEST_EXPIRED"
    assert len(told(mesh, calls)) == 5
    assert [row[0] for row in mesh.rows(1)] == [1, 2, 3, 10, 11, 13, 14, 15]


# --- callers that go ------------------------------------------------------------------------------------


def test_a_call_whose_time_is_over_is_told_its_own_lsn_and_the_others_commit() -> None:
    """ADR 3, [L-29]: the transaction stays."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5))
    unwritten = calls.pop(0)
    mesh.step(1, ev.CallExpired(unwritten))
    outcome = mesh.outcome(unwritten)
    assert isinstance(outcome, ev.OutcomeUnknown) and outcome.txn is None
    mesh.persist(1)
    tsn = logged(mesh)[0].tsn
    late = calls.pop(1)
    mesh.step(1, ev.CallExpired(late))
    outcome = mesh.outcome(late)
    assert isinstance(outcome, ev.OutcomeUnknown)
    assert outcome.txn == TxnId(ONE, Lsn(tsn + 2))
    assert outcome.error.details["txn"] == str(outcome.txn)
    asked = wait_for(mesh, 1, txn=outcome.txn)
    mesh.settle()
    assert told(mesh, calls) == [tsn + 1, tsn + 3, tsn + 4]
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.COMMITTED, outcome.txn)
    assert mesh.rows(2) == numbered(5)


def test_an_abandoned_call_gets_no_reply_and_its_neighbours_do() -> None:
    """[Q-43], [L-15]."""
    mesh = promoted_mesh()
    calls = put_all(mesh, numbered(5))
    gone = calls.pop(2)
    mesh.step(1, ev.RequestAbandoned(gone))
    mesh.settle()
    assert mesh.outcome(gone) is None
    assert len(told(mesh, calls)) == 4
    assert mesh.rows(2) == numbered(5)


def test_when_all_are_gone_it_is_decided_all_the_same() -> None:
    """[Q-43]."""
    mesh = promoted_mesh()
    for call in put_all(mesh, numbered(5)):
        mesh.step(1, ev.RequestAbandoned(call))
    mesh.settle()
    assert mesh.rows(2) == numbered(5)
    assert mesh[1].limbo.count == 0


# --- asking for one -------------------------------------------------------------------------------------


def test_who_asks_for_a_row_in_the_middle_is_told_of_that_row() -> None:
    """ADR 13: by its request id or by (origin, LSN), on every instance; pending first, then committed."""
    mesh = promoted_mesh()
    put_all(mesh, numbered(5))
    (txn,) = logged(mesh)
    middle = TxnId(ONE, Lsn(txn.tsn + 2))
    for event_of in ({"request_id": rid(3)}, {"txn": middle}):
        asked = wait_for(mesh, 1, **event_of)
        mesh.step(1, ev.CallExpired(asked))
        assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.PENDING, None)  # not on disk: not told
    mesh.persist(1)
    for event_of in ({"request_id": rid(3)}, {"txn": middle}):
        asked = wait_for(mesh, 1, **event_of)
        mesh.step(1, ev.CallExpired(asked))
        assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.PENDING, middle)
    mesh.deliver(1, 2)
    waiting = [
        wait_for(mesh, number, **event_of)
        for number in (1, 2)
        for event_of in ({"request_id": rid(3)}, {"txn": middle})
    ]
    assert all(mesh.outcome(call) is None for call in waiting)
    mesh.settle()
    late = [wait_for(mesh, 1, request_id=rid(3)), wait_for(mesh, 3, txn=middle)]
    for call in (*waiting, *late):
        assert mesh.outcome(call) == ev.FateKnown(ev.Fate.COMMITTED, middle)


def test_who_asks_for_a_row_of_what_was_rolled_back_is_told_of_that_row() -> None:
    """ADR 13: whichever row, before and after; the ids are free again (RequestTable.R1)."""
    mesh = promoted_mesh()
    mesh.isolate(1)
    put_all(mesh, numbered(5))
    mesh.settle()
    (txn,) = logged(mesh)
    lsns = [Lsn(txn.tsn + n) for n in range(5)]
    waiting = [wait_for(mesh, 1, txn=TxnId(ONE, lsn)) for lsn in lsns]
    by_id = [wait_for(mesh, 1, request_id=rid(1 + n)) for n in range(5)]
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    late = [wait_for(mesh, 1, txn=TxnId(ONE, lsn)) for lsn in lsns]
    for calls in (waiting, by_id, late):
        assert [mesh.outcome(call) for call in calls] == [
            ev.FateKnown(ev.Fate.ROLLED_BACK, TxnId(ONE, lsn)) for lsn in lsns
        ]
    again = put_all(mesh, numbered(5, "again"), to=2)
    mesh.settle()
    assert all(mesh.committed(call) for call in again)


def test_a_row_of_a_plain_transaction_is_still_told_by_its_last_lsn() -> None:
    """Only in a shared one each row is somebody's whole transaction."""
    mesh = promoted_mesh()
    ops = [row_body.dml_from_values(RowType.REPLACE, SYNC, value=value) for value in numbered(3)]
    mesh.write_ops(1, ops, request_id=rid(1))
    mesh.persist(1)
    (txn,) = logged(mesh)
    asked = wait_for(mesh, 1, txn=TxnId(ONE, txn.tsn))
    mesh.settle()
    assert mesh.outcome(asked) == ev.FateKnown(ev.Fate.COMMITTED, TxnId(ONE, txn.lsn))


def test_a_row_of_what_is_on_its_way_to_disk_is_pending_whatever_follows_it() -> None:
    """By any LSN of it, also in front of the queue: it is no more decided than its last row."""
    mesh = promoted_mesh()
    ops = [row_body.dml_from_values(RowType.REPLACE, ASYNC, value=value) for value in numbered(3)]
    plain = mesh.write_ops(1, ops)
    shared = put_all(mesh, numbered(4))
    tsn = logged(mesh)[0].tsn
    rows = [TxnId(ONE, Lsn(tsn - 3 + n)) for n in range(7)]
    waiting = [wait_for(mesh, 1, txn=row) for row in rows]
    assert [mesh.outcome(call) for call in waiting] == [None] * 7
    mesh.settle()
    assert mesh.committed(plain) and len(told(mesh, shared)) == 4
    expected = [rows[2], rows[2], rows[2], *rows[3:]]
    assert [mesh.outcome(call) for call in waiting] == [
        ev.FateKnown(ev.Fate.COMMITTED, row) for row in expected
    ]
