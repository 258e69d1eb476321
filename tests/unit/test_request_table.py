"""Retries: one request id has one effect. S12."""

from __future__ import annotations

from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.queue.request_table import RequestRecord, RequestTable
from synchro.row import FLAG_WAIT_ACK, FLAG_WAIT_SYNC, RowType, Txn
from synchro.storage.row_body import insert_dml
from synchro.storage.xrow import encode_ops

A, B = InstanceId(1), InstanceId(2)


def rid(number: int) -> RequestId:
    return RequestId(number.to_bytes(16, "big"))


def txn(request_id: RequestId, origin: InstanceId, lsn: int, *others: RequestId) -> Txn:
    """One of its own; with `others`, a shared one whose last row has this LSN."""
    ids = (*others, request_id)
    ops = [insert_dml(RowType.INSERT, 512, bytes((0x91, n))) for n in range(len(ids))]
    return encode_ops(ops, origin, Lsn(lsn - len(others)), FLAG_WAIT_SYNC | FLAG_WAIT_ACK, ids)


def table_with(*lsns: int, remembered_max: int = 3, term: int = 2) -> RequestTable:
    table = RequestTable(remembered_max)
    for lsn in lsns:
        table.prepared(txn(rid(lsn), A, lsn))
        table.committed(txn(rid(lsn), A, lsn), Term(term))
        table.check()
    return table


def test_a_pending_request_is_known() -> None:
    """A retry while it waits becomes a further waiter on the same entry."""
    table = RequestTable(3)
    table.prepared(txn(rid(7), A, 5))
    assert table.find(rid(7)) == RequestRecord(A, Lsn(5))
    assert not RequestRecord(A, Lsn(5)).is_decided
    assert table.find(rid(8)) is None


def test_a_committed_request_is_known_with_its_position() -> None:
    table = table_with(5)
    assert table.find(rid(5)) == RequestRecord(A, Lsn(5), Term(2))


def test_a_rolled_back_request_is_not_remembered() -> None:
    """R1: its retry runs again."""
    table = RequestTable(3)
    table.prepared(txn(rid(7), A, 5))
    table.rolled_back(txn(rid(7), A, 5))
    assert table.find(rid(7)) is None
    assert len(table) == 0


def test_only_decided_requests_are_forgotten_oldest_first() -> None:
    """R2: what is pending stays, however long it takes."""
    table = RequestTable(3)
    table.prepared(txn(rid(99), A, 99))
    for lsn in range(1, 6):
        table.prepared(txn(rid(lsn), A, lsn))
        table.committed(txn(rid(lsn), A, lsn), Term(2))
    assert [table.find(rid(lsn)) is not None for lsn in (1, 2, 3, 4, 5, 99)] == [False, False] + [True] * 4
    table.check()


def test_expired_is_about_what_may_have_been_forgotten() -> None:
    """R3: a client that had seen the newest forgotten position sent its request after it."""
    table = table_with(1, 2, 3)
    assert not table.expired(known_term=Term(0), known_lsn=Lsn(0))  # nothing was forgotten yet
    table = table_with(1, 2, 3, 4)
    assert table.expired(known_term=Term(0), known_lsn=Lsn(0))
    assert table.expired(known_term=Term(1), known_lsn=Lsn(1000))
    assert not table.expired(known_term=Term(2), known_lsn=Lsn(1))
    assert not table.expired(known_term=Term(3), known_lsn=Lsn(0))


def test_a_new_owner_starts_with_lower_lsns_and_a_higher_term() -> None:
    """R2: positions are ordered by term first."""
    table = table_with(100, 101, 102)
    table.prepared(txn(rid(3), B, 3))
    table.committed(txn(rid(3), B, 3), Term(4))
    assert table.expired(known_term=Term(2), known_lsn=Lsn(99))
    assert not table.expired(known_term=Term(2), known_lsn=Lsn(100))
    assert not table.expired(known_term=Term(4), known_lsn=Lsn(0))


def test_a_snapshot_carries_what_is_decided_and_what_was_forgotten() -> None:
    table = table_with(1, 2, 3, 4, 5)
    table.prepared(txn(rid(6), A, 6))
    copy = RequestTable(3)
    copy.restore(table.export())
    copy.check()
    assert copy.find(rid(6)) is None  # comes back with its row
    assert copy.find(rid(5)) == table.find(rid(5))
    assert copy.export() == table.export()
    assert copy.expired(known_term=Term(2), known_lsn=Lsn(1))


def test_a_smaller_table_restores_the_newest() -> None:
    copy = RequestTable(2)
    copy.restore(table_with(1, 2, 3).export())
    assert [copy.find(rid(lsn)) is not None for lsn in (1, 2, 3)] == [False, True, True]
    assert copy.expired(known_term=Term(2), known_lsn=Lsn(0))


def test_the_same_id_on_two_instances_of_an_unclaimed_set() -> None:
    """Without an owner the table is per instance: the last transaction stands for the id."""
    table = RequestTable(2)
    table.prepared(txn(rid(1), A, 1))
    table.prepared(txn(rid(1), B, 1))
    table.rolled_back(txn(rid(1), A, 1))
    assert table.find(rid(1)) == RequestRecord(B, Lsn(1))
    table.committed(txn(rid(1), A, 1), Term(1))
    table.committed(txn(rid(1), B, 1), Term(1))
    table.committed(txn(rid(2), B, 2), Term(1))
    assert table.find(rid(1)) == RequestRecord(B, Lsn(1), Term(1))
    table.check()


def test_each_id_of_a_shared_transaction_stands_for_its_own_lsn() -> None:
    """ADR 13: pending and decided alike; a retry is told what the first call was told."""
    table = RequestTable(10)
    shared = txn(rid(4), A, 8, rid(1), rid(2), rid(3))
    table.prepared(shared)
    assert [table.find(rid(n)) for n in range(1, 5)] == [RequestRecord(A, Lsn(4 + n)) for n in range(1, 5)]
    assert table.holds_any([rid(9), rid(3)]) and not table.holds_any([rid(9), rid(8)])
    table.committed(shared, Term(2))
    table.check()
    assert [table.find(rid(n)) for n in range(1, 5)] == [
        RequestRecord(A, Lsn(4 + n), Term(2)) for n in range(1, 5)
    ]
    copy = RequestTable(10)
    copy.restore(table.export())
    assert copy.find(rid(2)) == RequestRecord(A, Lsn(6), Term(2))


def test_a_shared_transaction_that_is_rolled_back_leaves_none_of_its_ids() -> None:
    """R1, ADR 13: except one that stands for another transaction by now."""
    table = RequestTable(10)
    shared = txn(rid(4), A, 8, rid(1), rid(2), rid(3))
    table.prepared(shared)
    table.prepared(txn(rid(2), B, 1))
    table.rolled_back(shared)
    table.check()
    assert [table.find(rid(n)) for n in range(1, 5)] == [None, RequestRecord(B, Lsn(1)), None, None]


def test_ids_of_a_shared_transaction_are_forgotten_one_by_one() -> None:
    """R2, R3: what is forgotten is told by the LSN of the row, not of the transaction."""
    table = RequestTable(3)
    shared = txn(rid(5), A, 9, rid(1), rid(2), rid(3), rid(4))
    table.prepared(shared)
    table.committed(shared, Term(2))
    table.check()
    assert [table.find(rid(n)) is not None for n in range(1, 6)] == [False, False, True, True, True]
    assert table.expired(known_term=Term(2), known_lsn=Lsn(5))
    assert not table.expired(known_term=Term(2), known_lsn=Lsn(6))
