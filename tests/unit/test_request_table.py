"""Retries: one request id has one effect. S12."""

from __future__ import annotations

from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.queue.request_table import RequestRecord, RequestTable

A, B = InstanceId(1), InstanceId(2)


def rid(number: int) -> RequestId:
    return RequestId(number.to_bytes(16, "big"))


def table_with(*lsns: int, remembered_max: int = 3, term: int = 2) -> RequestTable:
    table = RequestTable(remembered_max)
    for lsn in lsns:
        table.prepared(rid(lsn), A, Lsn(lsn))
        table.committed(rid(lsn), A, Lsn(lsn), term=Term(term))
        table.check()
    return table


def test_a_pending_request_is_known() -> None:
    """A retry while it waits becomes a further waiter on the same entry."""
    table = RequestTable(3)
    table.prepared(rid(7), A, Lsn(5))
    assert table.find(rid(7)) == RequestRecord(A, Lsn(5))
    assert not RequestRecord(A, Lsn(5)).is_decided
    assert table.find(rid(8)) is None


def test_a_committed_request_is_known_with_its_position() -> None:
    table = table_with(5)
    assert table.find(rid(5)) == RequestRecord(A, Lsn(5), Term(2))


def test_a_rolled_back_request_is_not_remembered() -> None:
    """R1: its retry runs again."""
    table = RequestTable(3)
    table.prepared(rid(7), A, Lsn(5))
    table.rolled_back(rid(7), A, Lsn(5))
    assert table.find(rid(7)) is None
    assert len(table) == 0


def test_only_decided_requests_are_forgotten_oldest_first() -> None:
    """R2: what is pending stays, however long it takes."""
    table = RequestTable(3)
    table.prepared(rid(99), A, Lsn(99))
    for lsn in range(1, 6):
        table.prepared(rid(lsn), A, Lsn(lsn))
        table.committed(rid(lsn), A, Lsn(lsn), term=Term(2))
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
    table.prepared(rid(3), B, Lsn(3))
    table.committed(rid(3), B, Lsn(3), term=Term(4))
    assert table.expired(known_term=Term(2), known_lsn=Lsn(99))
    assert not table.expired(known_term=Term(2), known_lsn=Lsn(100))
    assert not table.expired(known_term=Term(4), known_lsn=Lsn(0))


def test_a_snapshot_carries_what_is_decided_and_what_was_forgotten() -> None:
    table = table_with(1, 2, 3, 4, 5)
    table.prepared(rid(6), A, Lsn(6))
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
    table.prepared(rid(1), A, Lsn(1))
    table.prepared(rid(1), B, Lsn(1))
    table.rolled_back(rid(1), A, Lsn(1))
    assert table.find(rid(1)) == RequestRecord(B, Lsn(1))
    table.committed(rid(1), A, Lsn(1), term=Term(1))
    table.committed(rid(1), B, Lsn(1), term=Term(1))
    table.committed(rid(2), B, Lsn(2), term=Term(1))
    assert table.find(rid(1)) == RequestRecord(B, Lsn(1), Term(1))
    table.check()
