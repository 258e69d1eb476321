"""Order, size and cursors of the queue. [Q-1], [Q-15], [Q-51], ADR 2."""

from __future__ import annotations

import pytest

from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn
from synchro.queue.entry import EntryState, LimboEntry
from synchro.queue.limbo_queue import COMPACT_AT, LimboQueue
from synchro.vclock import Vclock

OWNER = InstanceId(1)


def txn(
    lsn: int, *, origin: InstanceId = OWNER, size: int = 1, at: float = 0.0, count: int = 1
) -> LimboEntry:
    return LimboEntry(origin, Lsn(lsn), True, size, at, count)


def local(lsn: int) -> LimboEntry:
    return txn(lsn, origin=LOCAL)


def queue_of(*entries: LimboEntry, written: int = 0, local_written: int = 0) -> LimboQueue:
    queue = LimboQueue(OWNER)
    for entry in entries:
        queue.append(entry)
    queue.mark_written(Vclock({OWNER: Lsn(written), LOCAL: Lsn(local_written)}))
    queue.check()
    return queue


def lsns(entries: object) -> list[int]:
    assert isinstance(entries, list | LimboQueue)
    return [entry.lsn for entry in entries]


def test_commit_takes_from_the_left() -> None:
    """[Q-1], [Q-5], [Q-51]: up to the LSN, oldest first; states and sizes follow."""
    queue = queue_of(txn(1, size=5), txn(2, size=6), txn(4, size=7), written=4)
    committed = queue.confirm(Lsn(3), now=1.0)
    assert lsns(committed) == [1, 2]
    assert all(entry.state is EntryState.COMMIT for entry in committed)
    assert (lsns(queue), queue.size, queue.confirmed_lsn) == ([4], 7, 3)
    queue.check()


def test_rollback_takes_from_the_right() -> None:
    """[Q-51]."""
    queue = queue_of(txn(1), txn(2), txn(3), written=2)
    queue.confirm(Lsn(1), now=0.0)
    dropped = queue.rollback_rest()
    assert lsns(dropped) == [3, 2]
    assert all(entry.state is EntryState.ROLLBACK for entry in dropped)
    assert (len(queue), queue.size, queue.first) == (0, 0, None)
    queue.check()


def test_cut_back_leaves_what_is_written() -> None:
    """[Q-47]."""
    queue = queue_of(txn(1), local(1), txn(2), local(2), written=1, local_written=1)
    assert lsns(queue.cut_back()) == [2, 2]
    assert [entry.is_written for entry in queue] == [True, True]
    queue.check()


def test_what_a_quorum_holds_ends_at_an_entry_of_either_kind() -> None:
    """[Q-22] by ADR 2: never between entries, and local ones have no place in the order."""
    queue = queue_of(txn(3), local(9), txn(5), txn(8), written=8, local_written=9)
    assert queue.confirm_held(Lsn(2), now=0.0) == []
    assert queue.confirmed_lsn == 0
    assert lsns(queue.confirm_held(Lsn(7), now=0.0)) == [3, 9, 5]
    assert queue.confirmed_lsn == 5
    assert queue.confirm_held(Lsn(4), now=0.0) == []
    assert queue.confirmed_lsn == 5
    assert lsns(queue.confirm_held(Lsn(100), now=0.0)) == [8]
    assert queue.confirmed_lsn == 8


def test_local_entries_go_with_the_global_one_in_front() -> None:
    """[Q-15]: committed with it, rolled back with it."""
    queue = queue_of(txn(1), local(1), txn(2), local(2), written=2, local_written=2)
    assert lsns(queue.confirm(Lsn(1), now=0.0)) == [1, 1]
    assert lsns(queue.rollback_rest()) == [2, 2]
    queue.check()


def test_a_confirm_in_the_log_says_that_a_local_entry_ahead_of_what_it_covers_is_written() -> None:
    """[Q-25], LimboQueue.Q5: all three are told by one sync, and the CONFIRM before the rows."""
    queue = queue_of(txn(1), local(1), txn(2), local(2), txn(3), written=1)
    assert lsns(queue.confirm(Lsn(2), now=1.0)) == [1, 1, 2]
    queue.check()
    assert lsns(queue) == [2, 3]
    assert lsns(queue.mark_written(Vclock({OWNER: Lsn(2), LOCAL: Lsn(2)}))) == [2]
    queue.check()


def test_an_unwritten_local_entry_waits_for_its_own_write() -> None:
    """LimboQueue.Q5, [Q-25]: a transfer of the queue does not touch it either; it has no owner."""
    queue = queue_of(txn(1), local(1), txn(2), written=1)
    assert lsns(queue.confirm(Lsn(1), now=0.0)) == [1]
    assert lsns(queue.rollback_rest()) == [2]
    queue.transfer(NOBODY, Lsn(0))
    queue.check()
    assert lsns(queue.mark_written(Vclock({LOCAL: Lsn(1)}))) == [1]
    assert (len(queue), queue.size) == (0, 0)
    queue.check()


def test_ownership_changes_only_when_all_is_decided() -> None:
    """LimboQueue.Q1, [P-3]."""
    queue = queue_of(txn(1))
    with pytest.raises(AssertionError):
        queue.transfer(InstanceId(2), Lsn(0))
    with pytest.raises(AssertionError):
        queue.append(txn(2, origin=InstanceId(2)))
    with pytest.raises(AssertionError):
        LimboQueue(OWNER).append(local(1))


def test_first_and_last_lsn_skip_local_entries() -> None:
    queue = queue_of(txn(4), local(9), txn(6), local(10))
    assert (queue.first_lsn, queue.last_lsn) == (4, 6)
    assert LimboQueue().first_lsn == LimboQueue().last_lsn == 0


def test_confirm_lag_is_the_wait_of_the_last_committed() -> None:
    """[I-25]; a CONFIRM that commits nothing leaves it as it is."""
    queue = queue_of(txn(1, at=1.0), txn(2, at=4.0))
    queue.confirm(Lsn(2), now=6.0)
    queue.confirm(Lsn(3), now=9.0)
    assert queue.confirm_lag == 2.0


def test_decided_entries_do_not_pile_up() -> None:
    """S17: the list in memory stays in proportion to what waits."""
    queue = LimboQueue(OWNER)
    for lsn in range(1, 10 * COMPACT_AT):
        queue.append(txn(lsn))
        queue.confirm(Lsn(lsn - 3), now=0.0)
        assert len(queue._entries) <= 2 * COMPACT_AT
    queue.check()
    assert lsns(queue) == [10 * COMPACT_AT - 3, 10 * COMPACT_AT - 2, 10 * COMPACT_AT - 1]


def test_count_is_of_calls_and_len_of_entries() -> None:
    """LimboQueue.Q6, ADR 13: calls that share an entry come and go together, whichever way."""
    queue = queue_of(txn(4, count=4), txn(5), local(1), txn(9, count=3), txn(10), written=9, local_written=1)
    assert (len(queue), queue.count) == (5, 10)
    queue.confirm(Lsn(4), now=0.0)
    assert (len(queue), queue.count) == (4, 6)
    queue.cut_back()
    assert (len(queue), queue.count) == (3, 5)
    queue.rollback_rest()
    assert (len(queue), queue.count) == (0, 0)
    queue.check()


def test_the_first_lsn_that_a_client_was_told_is_that_of_the_first_row_of_a_shared_entry() -> None:
    """ADR 13: `lsn` is what a quorum is counted for; callers in front of the last one have lower ones."""
    queue = queue_of(txn(2), txn(6, count=4), txn(7), written=7)
    seen = [(queue.first_lsn, queue.first_told_lsn)]
    for lsn in (2, 6, 7):
        queue.confirm(Lsn(lsn), now=0.0)
        seen.append((queue.first_lsn, queue.first_told_lsn))
    assert seen == [(2, 2), (6, 3), (7, 7), (0, 0)]


def test_a_local_entry_in_front_tells_no_lsn() -> None:
    queue = queue_of(txn(1), local(5), txn(4, count=3), written=1)
    queue.confirm(Lsn(1), now=0.0)
    first = queue.first
    assert first is not None and first.is_local
    assert queue.first_told_lsn == 2
