"""How the queue changes hands. [P-*], ADR 1, traces T-9..T-13 with PROMOTE decided by a quorum."""

from __future__ import annotations

import pytest

from synchro.errors import NotLeader, RemoteProtocolError, SplitBrain
from synchro.ids import NOBODY, Lsn
from synchro.queue.request_filter import DataVerdict
from synchro.queue.state import QueueState
from synchro.row import Promote
from tests.unit.limbo_world import A, B, C, Data, LogRow, Site, claim, cluster, confirm, demote, promote


def test_a_promote_on_one_disk_decides_nothing() -> None:
    """ADR 1: the writer too only keeps it as pending, until a quorum has it."""
    a, b, _ = Site(A), Site(B), Site(C)
    a.lead(2).sync()
    assert a.control_rows == [promote(0, 0, 2, 1)]
    assert a.pending_terms == [2]
    assert a.limbo.is_busy
    assert (a.limbo.owner_id, a.limbo.term, a.limbo.state) == (NOBODY, 1, QueueState.INACTIVE)

    b.follow(2).pull(a)
    assert b.pending_terms == [2]
    a.acked_by(b)
    assert a.control_rows[-1] == confirm(1, 1)
    assert a.limbo.owner_id == NOBODY
    assert a.limbo.is_barrier(A, a.control_rows[-1])  # nothing is prepared behind it

    a.sync()
    assert (a.limbo.owner_id, a.limbo.term, a.limbo.state) == (A, 2, QueueState.LEADER)
    assert not a.limbo.is_busy
    b.pull(a)
    assert (b.limbo.owner_id, b.limbo.term, b.limbo.state) == (A, 2, QueueState.REPLICA)
    assert b.changes == a.changes


def test_the_term_is_persisted_before_the_promote() -> None:
    """Limbo.L4: PROMOTE of term T is asked for only when T is on disk."""
    a = Site(A).raft(2, is_leader=True, persisted=1)
    assert a.control_rows == []
    a.lead(2)
    assert a.control_rows == [promote(0, 0, 2, 1)]
    a.lead(2).sync()
    assert len(a.control_rows) == 1  # one PROMOTE per term [L-7]


def test_terms_rise_with_every_promote() -> None:
    """[T-12], [P-4]."""
    a, b, c = Site(A), Site(B), Site(C)
    claim(a, b, c, term=2)
    assert {site.limbo.term for site in (a, b, c)} == {2}
    a.lead(2).sync()
    assert a.limbo.term == 2
    claim(b, a, c, term=3)
    assert {(site.limbo.term, site.limbo.owner_id) for site in (a, b, c)} == {(3, B)}
    assert a.limbo.state is QueueState.REPLICA


def test_a_new_leader_commits_what_the_old_owner_left() -> None:
    """[T-9], [P-1], [P-12], [P-14]: the PROMOTE waits until its base is on a quorum, then covers it."""
    a, b, c = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    b.lead(3).sync()
    assert b.control_rows == []  # lsn has one copy that b knows of

    c.follow(3).pull(b)
    b.acked_by(c).sync()
    assert b.control_rows == [promote(1, lsn, 3, 2)]
    c.pull(b)
    assert b.committed == c.committed == []
    b.acked_by(c).sync()
    c.pull(b)
    assert b.committed == c.committed == [lsn]

    a.restart()
    a.follow(3).pull(b)
    assert a.committed == [lsn]
    assert (a.limbo.owner_id, a.limbo.state) == (B, QueueState.REPLICA)
    assert b.changes[-1].confirmed == 1
    assert b.changes[-1].rolled_back == 0


def test_lowering_the_quorum_lets_a_waiting_promote_go_on() -> None:
    """[P-23], [Q-27]."""
    a, b, _ = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a).lead(3).sync()
    assert b.control_rows == []
    b.run(b.limbo.membership_changed(b.limbo.registered, 1, b.now))
    b.sync()
    assert b.committed == [lsn]
    assert b.limbo.state is QueueState.LEADER


def test_the_last_ack_of_the_dead_owner_counts_for_the_base() -> None:
    """[T-9], [P-15]: the owner itself was subscribed to us and had the row."""
    a, b, _ = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a).acked_by(a)
    b.lead(3)
    assert b.control_rows == [promote(1, lsn, 3, 2)]


def test_a_stale_leader_loses_what_only_it_had() -> None:
    """[T-10], [P-2], [L-2], [P-51] (b): rolled back at home, stored as NOP elsewhere, by origin; no error."""
    a, b, c = cluster()
    kept = a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b).sync()
    b.pull(a)
    c.pull(a)
    lost = [a.write(), a.write(wait_ack=False)]
    a.sync()
    claim(b, c, term=3)
    assert b.control_rows == [promote(1, kept, 3, 2), confirm(2, 1)]

    a.follow(3).pull(b)
    assert a.rolled_back == [(lost[1], 3), (lost[0], 3)]
    assert a.lsns == []
    assert a.changes[-1].rolled_back == 2

    c.pull(a)
    b.pull(c)
    assert [row.body for row in b.log if row.origin == A and row.lsn in lost] == [
        Data(True, is_nop=True),
        Data(False, is_nop=True),
    ]
    assert b.written == c.written == a.written


def test_the_row_that_a_forgotten_promote_would_roll_back() -> None:
    """ADR 1, the interleaving: 3's PROMOTE of term 3 lies on its disk alone while 1 confirms row `lsn`
    in term 4. When 3 meets 2, nothing is lost and there is no split brain."""
    a, b, c = cluster()
    lsn = a.write()
    a.sync()  # a alone has it

    b.follow(3)
    c.lead(3).sync()  # elected by {2, 3}; cut off with its PROMOTE
    assert c.pending_terms == [3]

    a.lead(4)  # elected again by {1, 2}
    b.follow(4).pull(a)
    a.acked_by(b).sync()
    assert a.control_rows[-1] == promote(1, lsn, 4, 2)
    b.pull(a)
    a.acked_by(b).sync()
    assert a.committed == [lsn]  # the client was told so

    b.pull(c)  # the PROMOTE of term 3, while that of term 4 is decided or not
    b.pull(a)
    assert b.committed == [lsn]
    assert (b.limbo.owner_id, b.limbo.term) == (A, 4)

    c.follow(4).pull(b)
    assert c.committed == [lsn]
    assert c.rolled_back == []
    assert c.pending_terms == []
    assert (c.limbo.owner_id, c.limbo.term) == (A, 4)


def test_a_void_promote_is_written_and_ignored() -> None:
    """ADR 1, [P-44]: a term at or below the decided one; no error, no effect."""
    a, b, c = Site(A), Site(B), Site(C)
    c.lead(2).sync()
    claim(a, b, term=3)
    b.pull(c)
    assert b.log[-1].body == promote(0, 0, 2, 1)
    assert b.pending_terms == []
    assert b.limbo.term == 3


def test_a_new_leader_builds_on_the_pending_promote() -> None:
    """ADR 1: a quorum may hold it, and its writer may have decided it; ancestors are decided first."""
    a, b, c = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    b.lead(3).acked_by(a)  # a had it: base covered, PROMOTE(3) written
    b.sync()
    row = b.assigned.get(B)
    c.pull(b)
    b.acked_by(c)  # the quorum: b may go on to decide, c cannot know
    c.lead(4).acked_by(b).sync()
    assert c.control_rows == [promote(2, row, 4, 3)]
    a.follow(4).pull(c)
    c.acked_by(a).sync()
    assert c.committed == [lsn]
    assert [p.term for p in c.changes[-1].decided] == [3, 4]
    assert (c.changes[-1].old, c.changes[-1].new) == (A, C)
    assert c.limbo.state is QueueState.LEADER

    b.sync()  # b's own CONFIRM, asked for when it was leader, decides term 3 there
    assert (b.limbo.owner_id, b.limbo.term, b.limbo.state) == (B, 3, QueueState.LEADER)
    b.follow(4)
    assert b.limbo.state is QueueState.REPLICA
    c.pull(b)  # that CONFIRM comes late: no effect, no split brain [L-3]
    b.pull(c)
    assert (b.limbo.owner_id, b.limbo.term) == (C, 4)
    assert b.limbo.promote_terms == c.limbo.promote_terms
    assert b.limbo.confirmed_vclock == c.limbo.confirmed_vclock


def test_of_several_pending_promotes_the_highest_is_built_on() -> None:
    """[P-12], PendingPromotes.highest: a quorum may hold that one, and its writer may have decided it.
    Whoever built on an older one would make it void after its writer had told that it owns the queue."""
    a, b, c = cluster()
    b.pull(a)
    c.pull(a)
    b.lead(3).acked_by(a).sync()
    a.follow(3).pull(b)
    c.follow(3).pull(b)
    c.lead(4).acked_by(b).sync()
    row = c.assigned.get(C)
    a.follow(4).pull(c)
    assert [p.term for p in a.limbo.pending] == [3, 4]
    c.acked_by(a).sync()  # it decides; nobody hears of that
    assert (c.limbo.owner_id, c.limbo.term) == (C, 4)

    a.lead(5).acked_by(c).sync()
    assert a.control_rows[-1] == promote(3, row, 5, 4)
    b.follow(5).pull(a)
    a.acked_by(b).sync()
    assert [p.term for p in a.changes[-1].decided] == [3, 4, 5]
    c.follow(5).pull(a)
    assert {(one.limbo.owner_id, one.limbo.term) for one in (a, c)} == {(A, 5)}
    assert c.limbo.promote_terms == a.limbo.promote_terms


def test_the_own_pending_promote_of_an_earlier_term_is_built_on_too() -> None:
    """A restarted writer does not know whether a quorum has its row: it promotes again, on top."""
    a, b, _ = Site(A), Site(B), Site(C)
    a.lead(2).sync()
    b.follow(2).pull(a)
    a.restart()
    a.lead(3)
    assert a.unsynced == []
    a.acked_by(b).sync()
    assert a.control_rows == [promote(0, 0, 2, 1), promote(1, 1, 3, 2)]


def test_a_deposed_candidate_owner_does_not_decide() -> None:
    """Limbo.L4: acks that come after a higher term decide nothing any more."""
    a, b = Site(A), Site(B)
    a.lead(2).sync()
    b.follow(2).pull(a)
    a.follow(3).acked_by(b)
    assert a.unsynced == []
    assert a.limbo.owner_id == NOBODY


def test_rows_of_the_old_owner_are_real_while_a_promote_is_pending() -> None:
    """ADR 1 over [P-50]: an ack stands for the real bytes until the owner is decided to be another."""
    a, b, c = cluster()
    kept = a.write()
    a.sync()
    b.pull(a).acked_by(a)
    b.lead(3).sync()
    late = a.write()
    a.sync()
    c.pull(b)
    assert c.pending_terms == [3]
    c.pull(a)
    assert c.lsns == [kept, late]
    b.acked_by(c).sync()
    c.pull(b)
    assert c.committed == [kept]
    assert c.rolled_back == [(late, 3)]


def test_nothing_is_written_twice_while_a_row_is_on_its_way() -> None:
    """Limbo.L3, [L-7]: nothing is confirmed between PROMOTE and its decision."""
    a, b, c = cluster()
    a.write()
    a.sync()
    b.pull(a).acked_by(a)
    b.lead(3)
    assert b.control_rows == [promote(1, 3, 3, 2)]
    b.acked_by(a, c)
    assert len(b.control_rows) == 1
    b.sync()
    b.acked_by(a)
    assert len(b.control_rows) == 1


def test_promote_rows_and_their_confirm_are_barriers() -> None:
    """What comes behind them may mean something else once they are applied."""
    a, b, _ = cluster()
    c = Site(C)
    assert b.limbo.is_barrier(A, promote(1, 3, 3, 2))
    assert b.limbo.is_barrier(A, demote(1, 3, 3, 2))
    assert not b.limbo.is_barrier(A, confirm(1, 3))
    c.follow(2)
    c.receive(a.log[0])
    assert c.limbo.is_barrier(A, confirm(1, 1))


# --- demote ---------------------------------------------------------------------------------------------


def test_demote_leaves_the_queue_unclaimed() -> None:
    """[P-31], decided like a PROMOTE: then everybody may write again, and nothing synchronous."""
    a, b, c = cluster()
    lsn = a.write()
    a.sync()
    b.pull(a)
    a.run(a.limbo.request_demote(a.now))
    a.raft(3, is_leader=True, persisted=2)
    assert a.limbo.state is QueueState.REPLICA  # frozen at once
    a.lead(3)
    a.acked_by(b).sync()
    assert a.control_rows[-1] == demote(1, lsn, 3, 2)
    b.follow(3).pull(a)
    assert b.limbo.owner_id == A
    a.acked_by(b).sync()
    assert a.committed == [lsn]
    assert (a.limbo.owner_id, a.limbo.term, a.limbo.state) == (NOBODY, 3, QueueState.INACTIVE)
    b.pull(a)
    c.follow(3).pull(b)
    assert c.limbo.owner_id == NOBODY
    # [L-3], Tarantool's issue 7286
    assert c.limbo.filter_data(B, wait_sync=False, is_nop=False) is DataVerdict.APPLY
    assert a.unsynced == []  # still leader of term 3, and not promoting itself


def test_the_queue_is_claimed_again_after_a_demote() -> None:
    a, b, c = cluster()
    a.run(a.limbo.request_demote(a.now))
    claim(a, b, c, term=3)
    assert a.limbo.owner_id == NOBODY
    claim(b, a, c, term=4)
    assert b.control_rows == [promote(0, 0, 4, 3), confirm(2, 1)]
    assert {(site.limbo.owner_id, site.limbo.term) for site in (a, b, c)} == {(B, 4)}


def test_a_promote_that_builds_on_a_pending_demote_fits_where_it_is_decided() -> None:
    """Its writer names the demoter as previous owner; a reader may have decided that DEMOTE by then."""
    a, b, c = cluster()
    a.run(a.limbo.request_demote(a.now))
    a.lead(3).sync()
    row = a.assigned.get(A)
    b.follow(3).pull(a)
    a.acked_by(b).sync()
    assert a.limbo.owner_id == NOBODY
    c.follow(3)
    c.receive(LogRow(A, row, demote(1, 1, 3, 2)))
    c.lead(4).acked_by(a)
    c.sync()
    assert c.control_rows == [promote(1, row, 4, 3)]
    a.follow(4).pull(c)
    assert a.pending_terms == [4]
    c.acked_by(a).sync()
    a.pull(c)
    assert (a.limbo.owner_id, c.limbo.owner_id) == (C, C)
    assert [p.term for p in c.changes[-1].decided] == [3, 4]


def test_only_a_writable_owner_may_demote() -> None:
    """[P-31]."""
    a, b, _ = cluster()
    with pytest.raises(NotLeader, match="owner is 1"):
        b.limbo.request_demote(b.now)
    a.follow(3)
    with pytest.raises(NotLeader):
        a.limbo.request_demote(a.now)


def test_an_election_in_between_ends_a_demote() -> None:
    """The wish was about the term the owner had; a leadership won later is used to promote."""
    a, _, _ = cluster()
    a.run(a.limbo.request_demote(a.now))
    a.follow(3).follow(4).lead(5)
    assert isinstance(a.control_rows[-1], Promote)


def test_a_cancelled_demote_gives_the_queue_back_to_its_owner() -> None:
    a, b, c = cluster()
    a.write()
    a.sync()
    a.run(a.limbo.request_demote(a.now))
    a.lead(3)
    assert a.unsynced == []  # its entry has no quorum
    a.run(a.limbo.cancel_demote(a.now))
    claim(a, b, c, term=3)
    assert (a.limbo.owner_id, a.limbo.state) == (A, QueueState.LEADER)


def test_a_synchronous_row_behind_the_demote_of_its_origin_is_nonsense() -> None:
    a, b, _ = cluster()
    a.run(a.limbo.request_demote(a.now))
    claim(a, b, term=3)
    with pytest.raises(RemoteProtocolError):
        b.limbo.filter_data(A, wait_sync=True, is_nop=False)


# --- [T-13]: quorum 1, fencing off; 1 owns term 2, 2 promotes to 3 while the link is cut ------------------


def split_pair() -> tuple[Site, Site]:
    """1 owns the queue in term 2; both have its row 3 confirmed; 2 took over in term 3, unseen by 1."""
    a, b = Site(A, members=2, quorum=1), Site(B, members=2, quorum=1)
    claim(a, b, term=2)
    a.write()
    a.sync()
    b.pull(a)
    b.lead(3).sync()
    assert (b.limbo.owner_id, a.limbo.owner_id) == (B, A)
    return a, b


def test_t13_async_write_of_a_deposed_owner() -> None:
    _, b = split_pair()
    with pytest.raises(SplitBrain, match="got an async transaction from an old term"):
        b.limbo.filter_data(A, wait_sync=False, is_nop=False)
    assert b.limbo.filter_data(A, wait_sync=False, is_nop=True) is DataVerdict.APPLY


def test_t13_sync_write_and_confirm_of_a_deposed_owner() -> None:
    a, b = split_pair()
    a.write()
    a.sync()
    with pytest.raises(SplitBrain, match="got a request from a foreign synchro queue owner"):
        b.pull(a)
    assert b.log[-1].body == Data(is_nop=True)


def test_t13_confirm_of_what_the_promote_confirmed() -> None:
    """[P-41], [L-3]: not a split brain; the queue of 2 confirmed the row by its own border."""
    a, b = Site(A, members=2, quorum=2), Site(B, members=2, quorum=2)
    claim(a, b, term=2)
    lsn = a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b)  # the CONFIRM is on its way to 1's disk
    b.lead(3).acked_by(a).sync()
    a_late = Site(A, members=2)
    a_late.written = a.written.replace(B, b.written.get(B))
    b.acked_by(a_late).sync()
    assert b.committed == [lsn]
    a.sync()
    assert a.committed == [lsn]
    b.pull(a)
    assert b.limbo.owner_id == B


def test_t13_promote_with_an_obsolete_term() -> None:
    """The PROMOTE alone is void; its CONFIRM shows that another quorum decided it."""
    a, b = split_pair()
    a.lead(3).sync()
    with pytest.raises(SplitBrain, match="got a PROMOTE/DEMOTE with an obsolete term"):
        b.pull(a)
    assert b.log[-1].body == promote(1, 3, 3, 2)


def test_t13_demote_with_an_obsolete_term() -> None:
    a, b = split_pair()
    a.run(a.limbo.request_demote(a.now))
    a.lead(3).sync()
    with pytest.raises(SplitBrain, match="got a PROMOTE/DEMOTE with an obsolete term"):
        b.pull(a)


def test_t13_promote_with_a_greater_term_built_on_a_superseded_owner() -> None:
    a, b = split_pair()
    a.lead(4).sync()
    with pytest.raises(SplitBrain, match="got a request with lsn from an already processed range"):
        b.pull(a)
    assert b.limbo.owner_id == B


def test_t13_local_writes_of_a_deposed_owner() -> None:
    a, b = split_pair()
    a.append(LogRow(A, Lsn(a.assigned.get(A) + 1), Data(is_nop=True)))
    a.sync()
    assert b.limbo.filter_data(A, wait_sync=True, is_nop=True) is DataVerdict.APPLY
