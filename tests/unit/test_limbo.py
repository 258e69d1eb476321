"""Submission, acks, CONFIRM, cut-back, restart: the limbo while nobody disputes the queue. [Q-*], ADR 2."""

from __future__ import annotations

import pytest
from limbo_world import A, B, C, Site, claim, cluster, confirm, promote

from synchro.errors import ReadOnly, SyncQueueForeign, SyncQueueUnclaimed
from synchro.ids import LOCAL, NOBODY, Lsn
from synchro.queue.request_filter import DataVerdict
from synchro.queue.state import QueueState
from synchro.vclock import Vclock


def test_a_write_commits_on_its_owner_when_a_quorum_has_it_and_elsewhere_by_the_confirm() -> None:
    """[Q-20], [Q-22], [T-7], ADR 11: the own write alone commits nothing."""
    a, b, _ = cluster()
    lsn = a.write()
    a.sync()
    assert a.lsns == [lsn]
    assert a.committed == []

    b.pull(a)
    a.acked_by(b)
    assert a.committed == [lsn]
    assert a.limbo.confirmed_lsn == lsn
    assert b.committed == []
    assert a.limbo.is_announcement_due

    a.announce()
    assert a.control_rows[-1] == confirm(1, lsn)
    assert not a.limbo.is_announcement_due
    assert not a.limbo.is_busy  # MEND-S5: nothing waits for it
    a.sync()
    b.pull(a)
    assert b.committed == [lsn]


def test_quorum_1_confirms_by_the_own_write() -> None:
    """[T-6], [Q-28], [Q-31]: WAL is PROMOTE, CONFIRM of it, insert, CONFIRM of the insert."""
    a = Site(A, members=1, quorum=1).lead(2).sync()
    assert a.limbo.state is QueueState.LEADER
    lsn = a.write()
    a.sync()
    assert a.committed == [lsn] == [3]
    assert a.control_rows == [promote(0, 0, 2, 1), confirm(1, 1), confirm(1, 3)]
    assert (a.limbo.owner_id, a.limbo.term, len(a.limbo), a.limbo.quorum) == (1, 2, 0, 1)


def test_one_confirm_covers_all_that_reached_the_quorum_meanwhile() -> None:
    """[Q-24]: and it is in the log ahead of every row that was prepared after the commit (L7)."""
    a, b, _ = cluster()
    confirms = len(a.control_rows)
    lsns = [a.write() for _ in range(5)]
    a.sync()
    b.pull(a)
    a.acked_by(b)
    assert a.committed == lsns
    assert len(a.control_rows) == confirms

    later = [a.write(), a.write()]
    assert [row.body for row in a.unsynced[:1]] == [confirm(1, lsns[-1])]
    assert [row.lsn for row in a.unsynced[1:]] == later
    assert len(a.control_rows) == confirms + 1


def test_where_two_quorums_need_not_meet_the_confirm_comes_first() -> None:
    """[Q-24], [Q-31], ADR 11, S16: else nobody could tell later that a confirmed write is lost."""
    a, _, _ = cluster(quorum=1)
    lsn = a.write()
    (row,) = a.unsynced
    a.unsynced = []
    a.log.append(row)
    a.written = a.written.replace(A, Lsn(lsn))
    a.run(a.limbo.written(a.written, a.now))
    assert a.committed == []
    assert [row.body for row in a.unsynced] == [confirm(1, lsn)]
    a.sync()
    assert a.committed == [lsn]
    assert not a.limbo.is_announcement_due and not a.limbo.is_busy
    more = [a.write(), a.write()]
    a.sync()
    assert a.committed == [lsn, *more]
    assert [row.body for row in a.log[-3:]][2] == confirm(1, more[-1])


def test_a_deposed_owner_announces_nothing_more() -> None:
    """L4, [L-5]: the next owner holds what a quorum holds, and its PROMOTE covers it."""
    a, b, c = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b)
    assert a.committed == [lsn]
    a.raft(3, is_leader=False, persisted=2)
    assert not a.limbo.is_announcement_due
    assert a.limbo.announce() is None

    claim(b, a, c, term=3)
    assert (b.committed, c.committed) == ([lsn], [lsn])
    assert a.committed == [lsn] and a.rolled_back == []


def test_an_owner_that_dies_before_it_announced_comes_back_with_a_pending_entry() -> None:
    """ADR 11: its log does not say that the entry is committed; the next PROMOTE does."""
    a, b, c = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b)
    assert a.committed == [lsn]
    a.restart()
    assert (a.committed, a.lsns) == ([], [lsn])
    claim(a, b, c, term=3)
    assert a.committed == b.committed == c.committed == [lsn]


def test_hanging_writes_wait_without_limit_and_commit_in_order() -> None:
    """[T-7], [Q-42], [Q-44]: len and age grow, busy stays false, confirm_lag unchanged; nothing by time."""
    a, b, _ = cluster()
    lag = a.limbo.confirm_lag
    lsns = [a.write() for _ in range(3)]
    a.sync()
    a.now = 1000.0
    assert (len(a.limbo), a.limbo.age(a.now), a.limbo.is_busy) == (3, 1000.0, False)
    assert a.limbo.confirm_lag == lag

    b.pull(a)
    a.acked_by(b).sync()
    assert a.committed == lsns
    assert len(a.limbo) == 0
    assert a.limbo.confirm_lag == 1000.0
    assert a.limbo.age(a.now) == 0.0


def test_lowering_the_quorum_commits_what_waits() -> None:
    """[T-7] (d), [Q-27]."""
    a, _, _ = cluster()
    lsns = [a.write() for _ in range(3)]
    a.sync()
    a.run(a.limbo.membership_changed(a.limbo.registered, 1, a.now))
    a.sync()
    assert a.committed == lsns


def test_an_async_transaction_behind_a_sync_one_needs_its_own_confirm() -> None:
    """ADR 2 over [Q-25]: a CONFIRM of the sync one says nothing of the async one behind it."""
    a, b, _ = cluster()
    sync = a.write()
    a.sync()
    b.pull(a)
    assert a.limbo.must_wait()
    behind = a.write(wait_ack=False)
    a.sync()
    a.acked_by(b).sync()
    assert a.committed == [sync]
    assert a.lsns == [behind]

    b.pull(a)
    a.acked_by(b).sync()
    assert a.committed == [sync, behind]
    assert not a.limbo.must_wait()


def test_a_fully_local_transaction_follows_the_entry_in_front_of_it() -> None:
    """[Q-11], [Q-15]: its LSN is of component 0 and never compared with a border."""
    a, b, _ = cluster()
    first = a.write()
    local = a.write(is_local=True)
    second = a.write()
    a.sync()
    for row in a.log[-3:-2]:
        b.append(row)
    b.sync()
    a.acked_by(b).sync()
    assert a.committed == [first, local]
    assert a.lsns == [second]


def test_a_local_transaction_commits_by_its_own_write_if_its_front_is_committed() -> None:
    """[Q-25]: the quorum can be faster than the own disk; it is not committed before it is on disk."""
    a, b, _ = cluster()
    first = a.write()
    a.sync()
    b.pull(a)
    local = a.write(is_local=True)
    a.acked_by(b)
    assert a.committed == [first]
    assert a.lsns == [local]
    a.sync()
    assert a.committed == [first, local]


def test_local_transactions_wait_on_a_replica_too() -> None:
    """[L-22]: a foreign queue never refuses them, [Q-11]: but they go behind it."""
    a, b, _ = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    local = b.write(is_local=True)
    b.sync()
    assert b.lsns == [lsn, local]
    a.acked_by(b).sync()
    b.pull(a)
    assert b.committed == [lsn, local]


def test_who_may_submit() -> None:
    """[Q-13]: unclaimed, foreign with and without entries, frozen; local ones always."""
    with pytest.raises(SyncQueueUnclaimed):
        Site(A).write()
    a, b, _ = cluster()
    with pytest.raises(SyncQueueForeign, match="belongs to other instance with id 1"):
        b.limbo.check_submit(is_fully_local=False)
    a.write()
    a.sync()
    b.pull(a)
    with pytest.raises(SyncQueueForeign, match=r"Found uncommitted sync transactions from other .* id 1"):
        b.limbo.check_submit(is_fully_local=False)
    b.limbo.check_submit(is_fully_local=True)
    a.follow(3)
    with pytest.raises(ReadOnly, match="frozen until promotion"):
        a.limbo.check_submit(is_fully_local=False)


def test_an_unclaimed_queue_lets_everything_pass() -> None:
    """Plain master-master: nothing waits behind a queue that nobody owns."""
    a = Site(A)
    assert not a.limbo.must_wait()
    assert a.limbo.owner_id == NOBODY
    assert a.limbo.state is QueueState.INACTIVE
    assert a.limbo.filter_data(B, wait_sync=False, is_nop=False) is DataVerdict.APPLY


def test_only_the_owner_says_full_and_submit_never_refuses() -> None:
    """[Q-46], [L-11]."""
    a = Site(A, members=1, quorum=1, max_size=10).lead(2).sync()
    a.write(size=9)
    assert not a.limbo.is_full
    a.write(size=9)
    assert a.limbo.is_full
    a.write(size=100)
    assert a.limbo.size == 118
    a.sync()
    assert not a.limbo.is_full


def test_a_leader_of_an_older_term_confirms_nothing() -> None:
    """[L-5], [Q-3]: the term of an ack is told before the ack; from then on no CONFIRM is asked for."""
    a, b, _ = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    a.follow(3)
    rows = len(a.control_rows)
    a.acked_by(b).sync()
    assert len(a.control_rows) == rows
    assert a.lsns == [lsn]
    assert a.limbo.state is QueueState.REPLICA


def test_acks_of_unregistered_instances_count_once_they_are_registered() -> None:
    """[Q-20], [L-9]."""
    a = Site(A, members=2).lead(2).sync()
    b, c = Site(B), Site(C)
    b.pull(a)
    a.acked_by(b).sync()
    lsn = a.write()
    a.sync()
    c.written = a.written
    a.acked_by(c).sync()
    assert a.lsns == [lsn]

    a.run(a.limbo.membership_changed(frozenset({A, B, C}), 2, a.now))
    a.sync()
    assert a.committed == [lsn]


def test_a_growing_set_counts_against_its_size() -> None:
    """min(Q, N): the first instance can claim the queue although the quorum needs two; shown is Q [Q-33]."""
    a = Site(A, members=1, quorum=2).lead(2).sync()
    assert a.limbo.state is QueueState.LEADER
    assert (a.limbo.quorum, a.limbo.effective_quorum) == (2, 1)


def test_a_new_hello_takes_back_what_the_old_stream_acked() -> None:
    """[L-10]: the peer lost its rows; what it said before must not confirm anything."""
    a, b, _ = cluster()
    b.written = b.written.replace(A, Lsn(100))
    a.acked_by(b)
    a.run(a.limbo.forget_acks(B, Vclock({A: Lsn(2)}), a.now))
    lsn = a.write()
    a.sync()
    assert a.lsns == [lsn]
    assert a.limbo.holders(A, Lsn(lsn)) == {A}


def test_an_ack_may_come_before_the_own_disk_has_the_row() -> None:
    """[Q-23]: it is kept, and counts once the row is there."""
    a, b, _ = cluster()
    lsn = a.write()
    a.run(a.limbo.ack(B, b.written.replace(A, Lsn(lsn)), a.now))
    assert a.lsns == [lsn]
    a.sync()
    assert a.committed == [lsn]


def test_an_ack_never_lowers() -> None:
    """[Q-21] (2): acks of one stream can be merged in any order."""
    a, b, _ = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    a.run(a.limbo.ack(B, b.written, a.now))
    a.run(a.limbo.ack(B, Vclock({A: Lsn(1)}), a.now))
    assert a.limbo.holders(A, Lsn(lsn)) == {A, B}


def test_cut_back_drops_what_is_not_on_disk_and_announces_again() -> None:
    """[Q-47]: newest first; a CONFIRM that failed to write rolls nothing back, it is written again."""
    a, b, _ = cluster()
    kept = a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b)
    lost = [a.write(), a.write()]
    assert a.unsynced[0].body == confirm(1, kept)
    assert a.cut_back() == [lost[1], lost[0]]
    assert a.lsns == []
    assert a.committed == [kept]
    assert a.limbo.is_announcement_due

    a.sync()
    assert a.control_rows[-1] == confirm(1, kept)
    assert a.write() == kept + 2  # LSNs of the cut rows are used again


def test_a_restarted_owner_keeps_its_entries_and_stays_frozen() -> None:
    """[Q-70], [Q-71], [Q-72], [T-11]."""
    a, b, _ = cluster()
    done = a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b).sync()
    open_lsn = a.write()
    a.sync()

    a.restart()
    assert a.committed == [done]
    assert a.lsns == [open_lsn]
    assert (a.limbo.owner_id, a.limbo.state) == (A, QueueState.REPLICA)
    a.lead(2)  # not possible in raft, and not enough: no PROMOTE of this process is decided
    assert a.limbo.state is QueueState.REPLICA
    b.pull(a)
    a.acked_by(b)
    assert a.unsynced == []


def test_a_snapshot_holds_the_committed_prefix_and_the_log_brings_the_rest_back() -> None:
    """[W-33], [Q-73], [L-12]: entries and pending PROMOTE come back from the WAL behind the snapshot."""
    a, b, c = cluster()
    open_lsn = a.write()
    a.sync()
    c.pull(a)
    c.lead(3)
    assert c.control_rows == []  # its base has one copy
    b.pull(a).follow(3)
    c.acked_by(b).sync()
    assert c.pending_terms == [3]

    state = c.limbo.snapshot_state()
    vclock = c.limbo.committed_prefix(c.written, lambda entry: [(entry.origin, entry.lsn)])
    assert vclock == Vclock({A: Lsn(open_lsn - 1)})  # component 3 ends before the PROMOTE, its only row

    c.restart(state, vclock)
    assert c.lsns == [open_lsn]
    assert c.pending_terms == [3]
    assert c.limbo.snapshot_state() == state


def test_a_repeated_confirm_is_harmless() -> None:
    """[L-4]: also in the current term; a join's view can be newer than the WAL it continues with."""
    a, b, _ = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b).sync()
    b.pull(a)
    assert b.limbo.control_written(A, Lsn(9), confirm(1, lsn), b.now) == []
    assert b.limbo.confirmed_lsn == lsn


def test_entries_are_found_by_any_lsn_between_local_ones() -> None:
    """`WaitTransaction` asks who has this row here."""
    a, _, _ = cluster()
    lsns = [a.write()]
    for _ in range(4):
        a.write(is_local=True)
        lsns.append(a.write(wait_ack=False))
    for lsn in lsns:
        entry = a.limbo.entry_at(A, Lsn(lsn))
        assert entry is not None and (entry.lsn, entry.is_local) == (lsn, False)
    oldest = a.limbo.entry_at(A, Lsn(lsns[0] - 1))
    assert oldest is not None and oldest.lsn == lsns[0]
    assert a.limbo.entry_at(A, Lsn(lsns[-1] + 1)) is None
    assert a.limbo.entry_at(B, Lsn(lsns[0])) is None
    assert a.limbo.entry_at(LOCAL, Lsn(1)) is None
