"""An instance that may have forgotten rows or votes (S14, ADR 9), and what must not be told of
rows that are not on disk (S7)."""

from __future__ import annotations

import pytest

from synchro.errors import WalIo
from synchro.ids import NOBODY, InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.raft.messages import RaftMessage, Role
from synchro.replication.trust import Missing
from synchro.row import RowType, TxnId
from synchro.storage import row_body
from synchro.vclock import Vclock
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh, uuid_of

ONE, TWO, THREE = InstanceId(1), InstanceId(2), InstanceId(3)
REQUEST = b"0123456789abcdef"


def hello(mesh: Mesh, source: InstanceId, vclock: Vclock, term: int, *, counts: bool = True) -> None:
    """`source` subscribes to 3 and says what it has."""
    mesh.step(3, ev.RelayConnected(source, ev.Ack(vclock, Term(term), counts=counts)))


def candidate(mesh: Mesh, source: InstanceId, term: int) -> ev.PeerRaftReceived:
    message = RaftMessage(
        term=Term(term),
        vote=source,
        role=Role.CANDIDATE,
        leader=NOBODY,
        is_leader_seen=False,
        vclock=mesh[source].vclock.without_local(),
    )
    return ev.PeerRaftReceived(source, message)


def promoted_mesh_with_forgetful_third() -> Mesh:
    """Three rows are confirmed by {1, 3}; 3 lost the end of its log and does not know it."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.cut(1, 2)
    mesh.cut(2, 3)
    calls = [mesh.write(1, (number,)) for number in (1, 2, 3)]
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=len(mesh.down[3]) // 2)
    return mesh


def test_an_ack_beyond_the_own_log_is_amnesia_until_it_caught_up_with_everybody() -> None:
    """S14: else {2, 3} would elect an owner without the rows that {1, 3} confirmed."""
    mesh = promoted_mesh_with_forgetful_third()
    assert mesh[3].acks_count  # the log looks whole
    last_ack = mesh[1].vclock.without_local()
    mesh.step(3, ev.ApplierFollowing(ONE, mesh[1].vclock, mesh[1].raft.term, last_ack))
    assert not mesh[3].acks_count
    assert not mesh[3].raft.trusted

    mesh.isolate(1)
    mesh.step(3, candidate(mesh, TWO, 3))
    mesh.persist(3)
    assert (mesh[3].raft.term, mesh[3].raft.vote) == (3, NOBODY)

    mesh.heal()
    mesh.settle()
    assert mesh[3].acks_count
    assert mesh[3].vclock.covers(last_ack)
    mesh.promote(2)
    assert [mesh.rows(number) for number in (1, 2, 3)] == [[(1,), (2,), (3,)]] * 3


def test_lost_rows_come_back_through_one_that_got_them_later() -> None:
    """[M-38], ADR 28: of its lost rows the only link of 1 knows nothing when it subscribes. If they did not
    follow, a PROMOTE that builds on them would come first, and be split brain where none is."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(3)
    calls = [mesh.write(1, (number,)) for number in (1, 2, 3)]
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)
    mesh.cut(1, 2)
    mesh.crash(1)
    mesh.restart(1, rows=len(mesh.down[1]) // 2, trusted=False)
    mesh.join(1, 3)
    mesh.settle()
    assert mesh.rows(1) != [(1,), (2,), (3,)]

    mesh.join(2, 3)
    mesh.settle()
    mesh.promote(3)
    assert not mesh.members[1].stopped
    assert [mesh.rows(number) for number in (1, 2, 3)] == [[(1,), (2,), (3,)]] * 3


def test_acks_of_an_amnesiac_confirm_nothing() -> None:
    """S14: `counts=False`."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    call = mesh.write(1, (1,))
    mesh.settle()
    own = mesh[1].vclock.without_local()
    mesh.step(1, ev.RelayConnected(THREE, ev.Ack(own, mesh[1].raft.term, counts=False)))
    mesh.step(1, ev.AckReceived(THREE, ev.Ack(own, mesh[1].raft.term, counts=False)))
    mesh.settle()
    assert mesh.outcome(call) is None
    mesh.step(1, ev.AckReceived(THREE, ev.Ack(own, mesh[1].raft.term)))
    mesh.settle()
    assert mesh.committed(call)


def test_two_that_forgot_do_not_vouch_for_each_other() -> None:
    """ADR 9: with two amnesiacs a person decides."""
    mesh = Mesh(3)
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    hello(mesh, ONE, Vclock(), 1)
    hello(mesh, TWO, Vclock(), 1, counts=False)
    mesh.step(3, ev.ApplierFollowing(TWO, Vclock(), Term(1), Vclock()))
    assert not mesh[3].acks_count
    mesh.step(3, ev.AckReceived(TWO, ev.Ack(Vclock(), Term(1))))  # it has healed
    assert mesh[3].acks_count


def test_a_forgotten_vote_is_not_given_again_in_its_term() -> None:
    """S1: 3 voted for 1 in term 2 and forgot it. Whatever it heard since, it may not vote for 2 in term 2."""
    mesh = Mesh(3)
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    hello(mesh, ONE, Vclock(), 2)
    mesh.persist(3)
    hello(mesh, TWO, Vclock(), 1)
    mesh.persist(3)
    assert mesh[3].acks_count
    mesh.step(3, candidate(mesh, TWO, 2))
    mesh.persist(3)
    assert (mesh[3].raft.term, mesh[3].raft.vote) == (2, NOBODY)
    mesh.step(3, candidate(mesh, TWO, 3))
    mesh.persist(3)
    mesh.persist(3)
    assert (mesh[3].raft.term, mesh[3].raft.vote) == (3, TWO)


def test_the_flag_on_disk_goes_when_no_forgotten_vote_can_matter_any_more() -> None:
    """A restart before that must not vote in the term either."""
    mesh = Mesh(3)
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    hello(mesh, ONE, Vclock(), 2)
    mesh.persist(3)
    effects = mesh[3].step(ev.RelayConnected(TWO, ev.Ack(Vclock(), Term(2))), mesh.now)
    assert mesh[3].acks_count
    assert ev.EndAmnesia() not in effects
    leads = RaftMessage(Term(2), ONE, Role.LEADER, ONE, is_leader_seen=True)
    mesh.step(3, ev.PeerRaftReceived(ONE, leads))  # it won without this vote
    effects = mesh[3].step(ev.AckReceived(ONE, ev.Ack(Vclock(), Term(2))), mesh.now)
    assert ev.EndAmnesia() in effects


def test_an_amnesiac_takes_no_lsn_that_peers_know() -> None:
    """[M-38], [L-24], S7: its own rows may be among those that were lost."""
    mesh = Mesh(3)
    first = mesh.write(3, (1, "known to all"), ASYNC)
    mesh.settle()
    assert mesh.committed(first)
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    refused = mesh.write(3, (2, "under the same LSN"), ASYNC)
    assert mesh.reason(refused) == "READ_ONLY"
    outcome = mesh.outcome(refused)
    assert isinstance(outcome, ev.Rejected)
    assert outcome.error.details["ro_reason"].startswith("waiting to receive its own transactions")
    local = mesh.write(3, (1,), LOCAL_SPACE)
    mesh.persist(3)
    assert mesh.committed(local)

    mesh.heal()
    mesh.settle()
    assert mesh.rows(3, ASYNC) == [(1, "known to all")]
    again = mesh.write(3, (2, "new"), ASYNC)
    mesh.settle()
    assert mesh.committed(again)
    assert mesh.rows(1, ASYNC) == [(1, "known to all"), (2, "new")]


def test_a_peer_with_own_rows_that_are_not_here_is_amnesia_too() -> None:
    """[M-38]: the peer may have been restarted, and then it remembers no acks. Its Hello shows
    it too."""
    mesh = Mesh(3)
    mesh.write(3, (1, "known to all"), ASYNC)
    mesh.settle()
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0)
    assert mesh[3].acks_count
    mesh.step(3, ev.ApplierFollowing(ONE, mesh[1].vclock, mesh[1].raft.term, Vclock()))
    assert not mesh[3].acks_count
    assert not mesh[3].is_writable

    mesh.heal()
    mesh.settle()
    assert mesh[3].acks_count
    assert mesh.rows(3, ASYNC) == [(1, "known to all")]


@pytest.mark.parametrize("how", ["hello", "ack", "ack that does not count"])
def test_an_ack_above_the_own_lsn_proves_that_the_own_tail_was_lost(how: str) -> None:
    """Whatever carries it; before that the instance takes no new LSN of its own, so no two rows get
    the same one."""
    mesh = Mesh(3)
    mesh.write(3, (1, "known to all"), ASYNC)
    mesh.settle()
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0)
    ack = ev.Ack(mesh[1].vclock, mesh[1].raft.term, counts="not" not in how)
    event = ev.RelayConnected(ONE, ack) if how == "hello" else ev.AckReceived(ONE, ack)
    effects = mesh[3].step(event, mesh.now)
    assert ev.BeginAmnesia() in effects
    assert not mesh[3].is_writable
    assert ONE in mesh[3].must_hear()


def test_a_member_that_is_not_decided_here_must_be_heard_too() -> None:
    """S14, ADR 9: elsewhere it may be decided, and have acknowledged with those who are heard no more."""
    mesh = Mesh(2)
    mesh.promote(1)
    mesh.isolate(1)
    mesh.step(1, ev.RegisterRequested(mesh.call_id(), uuid_of(9), "i9"))
    mesh.persist(1)
    mesh.crash(1)
    mesh.restart(1, trusted=False)
    assert mesh[1].must_hear() == {TWO: Missing.UNHEARD, THREE: Missing.UNHEARD}
    mesh.heal()
    mesh.settle()
    assert mesh[1].must_hear() == {THREE: Missing.UNHEARD}


def test_in_amnesia_an_instance_says_whom_it_must_hear() -> None:
    """Those whose word is missing, until all were heard."""
    mesh = Mesh(3)
    mesh.write(1, (1, "x"), ASYNC)
    mesh.settle()
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    assert mesh[3].has_amnesia
    assert mesh[3].must_hear() == {ONE: Missing.UNHEARD, TWO: Missing.UNHEARD}
    hello(mesh, ONE, Vclock(), 1, counts=False)
    hello(mesh, TWO, mesh[2].vclock, 1)
    assert mesh[3].must_hear() == {ONE: Missing.FORGOT, TWO: Missing.BEHIND}
    mesh.heal()
    mesh.settle()
    assert mesh[3].must_hear() == {}
    assert not mesh[3].has_amnesia


@pytest.mark.parametrize("is_known", [True, False])
def test_rows_on_their_way_to_the_disk_of_a_member_are_rows_that_it_has(is_known: bool) -> None:
    """S14, ADR 9: else their LSNs would be given again, and that member would take the new rows for the old.
    is_known: the own disk shows the loss."""
    mesh = Mesh(3)
    mesh.write(3, (1, "on its way"), ASYNC)
    mesh.persist(3)
    mesh.deliver(3, 2)
    assert mesh[2].unwritten == Vclock({THREE: Lsn(1)})
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=not is_known)
    assert mesh[3].has_amnesia
    assert not mesh[3].is_writable
    hello(mesh, ONE, Vclock(), 1)
    assert mesh[3].must_hear() == {TWO: Missing.BEHIND}  # its disk is slow, not empty

    mesh.settle()
    assert not mesh[3].has_amnesia
    again = mesh.write(3, (2, "new"), ASYNC)
    mesh.settle()
    assert mesh.committed(again)
    assert [mesh.rows(number, ASYNC) for number in (1, 2, 3)] == [[(1, "on its way"), (2, "new")]] * 3


def test_rows_that_a_member_lost_on_their_way_to_its_disk_are_waited_for_no_more() -> None:
    """It had no room, or was killed too: its next Hello says so."""
    mesh = Mesh(3)
    mesh.write(3, (1, "on its way"), ASYNC)
    mesh.persist(3)
    mesh.deliver(3, 2)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    assert mesh[3].must_hear()[TWO] is Missing.BEHIND
    mesh.crash(2)
    mesh.restart(2)
    mesh.settle()
    assert not mesh[3].has_amnesia
    assert [mesh.rows(number, ASYNC) for number in (1, 2, 3)] == [[]] * 3


def test_what_waits_to_be_applied_is_on_its_way_to_the_disk_too() -> None:
    """A PROMOTE is being written, and nothing behind it is looked at before."""
    mesh = Mesh(3)
    mesh.cut(1, 2)
    mesh.cut(3, 2)
    mesh.promote(1)
    mesh.write(1, (1,))
    mesh.settle()
    mesh.join(1, 2)
    while mesh.deliver(1, 2):
        if mesh[2].volatile_vclock.get(ONE) == 0:
            mesh.persist(2)  # its term
    assert mesh[2].volatile_vclock.get(ONE) < mesh[1].vclock.get(ONE)
    assert mesh[2].unwritten == Vclock({ONE: mesh[1].vclock.get(ONE)})
    mesh.settle()
    assert mesh[2].unwritten == Vclock()


def test_rows_that_a_member_writes_behind_its_report_are_needed_too() -> None:
    """S14: a member of an older version does not say in its Hello what it has yet to write."""
    mesh = Mesh(3)
    mesh.write(3, (1, "on its way"), ASYNC)
    mesh.persist(3)
    mesh.deliver(3, 2)
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    hello(mesh, TWO, Vclock(), 1)
    assert mesh[3].must_hear() == {ONE: Missing.UNHEARD}  # as far as anybody has said
    mesh.persist(2)
    mesh.step(3, ev.AckReceived(TWO, ev.Ack(mesh[2].vclock.without_local(), Term(1))))
    assert mesh[3].must_hear() == {ONE: Missing.UNHEARD, TWO: Missing.BEHIND}
    hello(mesh, ONE, Vclock(), 1)
    assert mesh[3].has_amnesia


def test_a_second_hello_that_names_rows_takes_the_report_back() -> None:
    """S14: they came to it from a third member since."""
    mesh = Mesh(3)
    mesh.write(3, (1, "known to 1"), ASYNC)
    mesh.settle()
    mesh.isolate(3)
    mesh.crash(3)
    mesh.restart(3, rows=0, trusted=False)
    hello(mesh, TWO, Vclock(), 1)
    assert mesh[3].must_hear() == {ONE: Missing.UNHEARD}
    ack, unwritten = ev.Ack(Vclock(), Term(1)), Vclock({THREE: Lsn(1)})
    mesh.step(3, ev.RelayConnected(TWO, ack, unwritten=unwritten))
    assert mesh[3].must_hear() == {ONE: Missing.UNHEARD, TWO: Missing.BEHIND}
    hello(mesh, TWO, unwritten, 1)
    assert mesh[3].must_hear()[TWO] is Missing.BEHIND  # it has it, and we have not
    mesh.heal()
    mesh.settle()
    assert not mesh[3].has_amnesia


def test_what_a_stopped_stream_had_delivered_goes_when_it_begins_anew() -> None:
    """Received.B2: it waited behind a row of another source, its stream was stopped, and when it began anew
    it came alive, though the Hello had not named it."""
    mesh = Mesh(3)
    mesh.cut(1, 2)
    mesh.cut(3, 2)
    mesh.promote(1)
    mesh.write(1, (1,))
    mesh.settle()
    mesh.join(1, 2)
    while mesh.deliver(1, 2):
        if mesh[2].volatile_vclock.get(ONE) == 0:
            mesh.persist(2)  # its term
    received = mesh[2]._received
    waiting = Vclock(received.newest)
    assert waiting.get(ONE) > mesh[2].volatile_vclock.get(ONE)
    received.stop(ONE, WalIo("stopped"))
    assert received.newest == {}
    received.follows(ONE)
    assert received.newest == {}


# --- LSNs and fates -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_id", [True, False])
def test_waiting_for_a_row_that_is_not_on_disk_tells_no_lsn(by_id: bool) -> None:
    """Instance.I1: after a cut that LSN names somebody else's transaction."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.write(1, (1,), request_id=REQUEST)
    lsn = TxnId(ONE, mesh[1].volatile_vclock.get(ONE))
    expired, cut = mesh.call_id(), mesh.call_id()
    for call in (expired, cut):
        event = (
            ev.WaitRequested(call, request_id=RequestId(REQUEST)) if by_id else ev.WaitRequested(call, lsn)
        )
        mesh.step(1, event)
    mesh.step(1, ev.CallExpired(expired))
    assert mesh.outcome(expired) == ev.FateKnown(ev.Fate.PENDING)
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("Failed to write to disk; nothing was written")))
    assert mesh.outcome(cut) == ev.FateKnown(ev.Fate.UNKNOWN)


def test_an_lsn_in_the_middle_of_a_pending_transaction_is_pending() -> None:
    """S4: it is written and no entry has it as its last LSN, but nothing of it is decided."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    mesh.write_ops(1, [row_body.dml_from_values(RowType.REPLACE, SYNC, value=(key,)) for key in (1, 2, 3)])
    mesh.settle()
    last = mesh[1].vclock.get(ONE)
    wait = mesh.call_id()
    mesh.step(1, ev.WaitRequested(wait, TxnId(ONE, Lsn(last - 1))))
    assert mesh.outcome(wait) is None
    mesh.heal()
    mesh.settle()
    assert mesh.outcome(wait) == ev.FateKnown(ev.Fate.COMMITTED, TxnId(ONE, last))


def test_nops_that_were_cut_back_are_not_remembered_as_dropped() -> None:
    """Their LSNs come again, and may be applied then."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write(1, (1, "one"), ASYNC, kind=RowType.INSERT)
    mesh.write(2, (1, "two"), ASYNC, kind=RowType.INSERT)
    mesh.settle()
    row = mesh.members[2].wal[-1]
    mesh.step(1, ev.TxnsReceived(TWO, [row]))
    member = mesh.members[1]
    del member.wal[member.written :]
    mesh.step(1, ev.RowsCutBack(mesh[1].vclock, WalIo("Failed to write to disk; nothing was written")))
    wait = mesh.call_id()
    mesh.step(1, ev.WaitRequested(wait, TxnId(row.origin, row.lsn)))
    assert mesh.outcome(wait) == ev.FateKnown(ev.Fate.UNKNOWN, TxnId(row.origin, row.lsn))
