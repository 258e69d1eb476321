"""The queue changes hands between whole instances: what is confirmed stays, what is not ends the same way
everywhere, and what cannot be merged is reported. ADR 1, 4, 7; rules [P-*], [A-35], [A-40]."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import msgpack

from synchro.errors import SplitBrain, TupleFound
from synchro.ids import NOBODY, CallId, InstanceId, Lsn, RequestId
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance, snapshot_view
from synchro.queue.limbo import QueueState
from synchro.ro_reason import RoReason
from synchro.row import (
    FLAG_COMMIT,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    Confirm,
    Nop,
    Promote,
    Row,
    RowType,
    TxnId,
)
from synchro.storage import row_body, xrow
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh, until, uuid_of


def confirmed_rows(mesh: Mesh, count: int) -> None:
    calls = [mesh.write(1, (number, "x")) for number in range(1, count + 1)]
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)


def settled_write(mesh: Mesh, number: int, value: tuple[int, str]) -> CallId:
    call = mesh.write(number, value)
    mesh.settle()
    return call


def join_up(mesh: Mesh, *numbers: int) -> None:
    """Heal the links among these instances, and no others."""
    mesh._cuts -= {pair for pair in mesh._cuts if pair <= set(numbers)}
    for number in numbers:
        mesh._connect_all(number)
    mesh.settle()


def assert_equal(mesh: Mesh, *numbers: int) -> None:
    first = numbers[0]
    for number in numbers[1:]:
        assert mesh[number].vclock.without_local() == mesh[first].vclock.without_local()
        for space in (SYNC, ASYNC):
            assert mesh.rows(number, space) == mesh.rows(first, space)
        assert mesh[number].limbo.owner_id == mesh[first].limbo.owner_id
        assert mesh[number].limbo.term == mesh[first].limbo.term
    assert all(len(mesh[number].limbo) == 0 for number in numbers)


def test_a_promote_that_only_its_writer_holds_never_rolls_back_what_was_confirmed_later() -> None:
    """ADR 1, the interleaving of row 11: owner 1 has it alone; 3 is elected by {2, 3}, writes PROMOTE with
    the border below it on its own disk only, and is cut off; 1 is elected by {1, 2} and confirms row 11."""
    mesh = Mesh(3)
    mesh.promote(1)
    confirmed_rows(mesh, 10)
    mesh.isolate(1)
    eleven = mesh.write(1, (11, "x"))
    mesh.settle()
    assert mesh.outcome(eleven) is None

    lost = mesh.call_id()
    mesh.step(3, ev.PromoteRequested(lost))
    for _ in until(lambda: mesh[3].raft.is_leader, "3 as the leader"):
        mesh.persist(3)
        mesh.deliver(3, 2)
        mesh.persist(2)
        mesh.deliver(2, 3)
    mesh.persist(3)
    assert [promote.origin for promote in mesh[3].limbo.pending] == [3]
    assert len(mesh[2].limbo.pending) == 0
    mesh.isolate(3)

    join_up(mesh, 1, 2)
    assert mesh.outcome(eleven) is None
    mesh.promote(1)
    assert mesh.committed(eleven)

    mesh.isolate(1)
    join_up(mesh, 2, 3)
    assert (11, "x") in mesh.rows(2)
    assert (11, "x") in mesh.rows(3)
    mesh.heal()
    mesh.settle()
    assert not any(mesh.members[number].stopped for number in (1, 2, 3))
    assert_equal(mesh, 1, 2, 3)
    assert len(mesh.rows(1)) == 11
    assert not isinstance(mesh.outcome(lost), ev.Promoted)
    assert mesh[1].is_writable


def test_the_pending_promote_of_a_dead_leader_is_carried_out_by_its_successor() -> None:
    """ADR 1: a quorum may hold it and its writer may have decided it, so the next one builds on it."""
    mesh = Mesh(3)
    mesh.promote(1)
    confirmed_rows(mesh, 1)
    mesh.crash(1)
    mesh.step(2, ev.PromoteRequested(mesh.call_id()))
    for _ in until(lambda: len(mesh[3].limbo.pending), "a PROMOTE that is pending on 3"):
        mesh.persist(2)
        mesh.deliver(2, 3)
        mesh.persist(3)
        mesh.deliver(3, 2)
    mesh.crash(2)
    mesh.restart(1)
    assert mesh[3].limbo.owner_id == 1
    mesh.promote(3)
    assert mesh[3].limbo.owner_id == 3
    assert dict(mesh[3].limbo.promote_terms).keys() == {1, 2, 3}
    mesh.restart(2)
    mesh.settle()
    assert_equal(mesh, 1, 2, 3)


def test_a_restarted_owner_is_frozen_until_promote_and_then_confirms_what_it_held() -> None:
    """[Q-71], [L-1]: nothing is decided by a restart, and nothing lost by it."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    mesh.write(1, (1, "a"))
    mesh.settle()
    mesh.crash(1)
    mesh.restart(1)
    mesh.settle()
    assert len(mesh[1].limbo) == 1
    assert mesh[1].limbo.state is QueueState.REPLICA
    assert mesh.reason(mesh.write(1, (2, "b"))) == "READ_ONLY"

    mesh.heal()
    mesh.settle()  # all have the row by now, but nobody may confirm it
    assert len(mesh[1].limbo) == len(mesh[2].limbo) == len(mesh[3].limbo) == 1
    assert mesh.rows(1) == []
    promoted = mesh.promote(1)
    outcome = mesh.outcome(promoted)
    assert isinstance(outcome, ev.Promoted)
    assert (outcome.confirmed, outcome.rolled_back) == (1, 0)
    assert_equal(mesh, 1, 2, 3)
    assert mesh.rows(3) == [(1, "a")]
    assert mesh.committed(settled_write(mesh, 1, (2, "b")))


def test_late_rows_of_a_deposed_owner_become_nops_and_vclocks_converge() -> None:
    """[P-50]: their LSNs are consumed everywhere, their effect is nowhere."""
    mesh = Mesh(3)
    mesh.promote(1)
    confirmed_rows(mesh, 1)
    mesh.isolate(1)
    late = [mesh.write(1, (number, "late")) for number in (2, 3)]
    mesh.settle()
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert [mesh.reason(call) for call in late] == ["SYNC_ROLLBACK"] * 2
    assert_equal(mesh, 1, 2, 3)
    assert mesh.rows(1) == [(1, "x")]
    nops = [txn for txn in mesh.members[3].wal if txn.origin == 1 and isinstance(txn.rows[0].body, Nop)]
    assert len(nops) == 2
    assert len({txn.lsn for txn in nops}) == 2

    for number in (1, 3):
        wait = mesh.call_id()
        mesh.step(number, ev.WaitRequested(wait, txn=TxnId(nops[0].origin, nops[0].lsn)))
        outcome = mesh.outcome(wait)
        assert isinstance(outcome, ev.FateKnown) and outcome.fate is ev.Fate.ROLLED_BACK
    assert mesh.committed(settled_write(mesh, 2, (4, "next")))


def test_the_flags_of_a_received_transaction_decide_whether_it_waits() -> None:
    """[Q-14], [L-23]: not the local definition of its space; after a restart too."""
    mesh = Mesh(3)
    mesh.promote(1)
    op = row_body.dml_from_values(RowType.REPLACE, ASYNC, value=(1, "x"))
    lsn = Lsn(mesh[1].vclock.get(InstanceId(1)) + 1)
    flags = FLAG_COMMIT | FLAG_WAIT_SYNC | FLAG_WAIT_ACK
    row = xrow.encode_txn((Row(op.type, InstanceId(1), lsn, lsn, flags, op),))
    mesh.isolate(2)
    mesh.step(2, ev.TxnsReceived(InstanceId(1), [row]))
    mesh.persist(2)
    for _ in range(2):
        assert [(entry.lsn, entry.wait_ack) for entry in mesh[2].limbo.entries] == [(lsn, True)]
        assert mesh.rows(2, ASYNC) == []
        mesh.crash(2)
        mesh.restart(2)


def test_an_async_row_of_a_deposed_owner_stops_one_applier_and_the_others_go_on() -> None:
    """S16, [P-53], the documented cause: it was committed alone and cannot be merged."""
    mesh = Mesh(3)
    mesh.promote(1)
    confirmed_rows(mesh, 1)
    mesh.isolate(1)
    alone = mesh.write(1, (1, "alone"), ASYNC)
    mesh.settle()
    assert mesh.committed(alone)
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    for number in (2, 3):
        assert list(mesh.members[number].stopped) == [1]
        error = mesh.members[number].stopped[1]
        assert isinstance(error, SplitBrain)
        assert "got an async transaction from an old term" in error.message
        assert mesh.rows(number, ASYNC) == []
    assert mesh.committed(settled_write(mesh, 2, (2, "on")))
    assert mesh.rows(3) == [(1, "x"), (2, "on")]


def recovered_from_snapshot(mesh: Mesh, number: int) -> Instance:
    """A new process with a snapshot of this very moment and the log behind its vclock."""
    meta, spaces = snapshot_view(mesh[number])
    member = mesh.members[number]
    txns = [t for t in member.wal[: member.written] if t.lsn > meta.vclock.get(t.origin)]
    return recover_instance(
        uuid=uuid_of(number),
        settings=mesh.settings,
        meta=meta,
        spaces=spaces,
        txns=txns,
        rng=random.Random(number),
        trusted=True,
        now=mesh.now,
    )


def test_who_joins_gets_elections_and_queue_with_the_data() -> None:
    """[L-13]: no row behind the snapshot says again who owns the queue, and since which term."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.write(1, (1, "confirmed"))
    mesh.settle()
    meta, spaces = snapshot_view(mesh[1], with_local=False)
    joiner = recover_instance(
        uuid=uuid_of(3),
        settings=mesh.settings,
        meta=meta,
        spaces=spaces,
        txns=[],
        rng=random.Random(3),
        trusted=True,
        now=mesh.now,
    )
    assert (joiner.raft.term, joiner.raft.vote) == (mesh[1].raft.term, mesh[1].raft.vote)
    assert joiner.limbo.owner_id == 1
    assert joiner.limbo.snapshot_state() == mesh[1].limbo.snapshot_state()


def shared_write(mesh: Mesh, number: int, keys: Sequence[int]) -> None:
    """One caller a key, all in one transaction (ADR 13)."""
    puts = row_body.insert_all(RowType.INSERT, SYNC, [msgpack.packb((key, "shared")) for key in keys])
    calls = [mesh.call_id() for _ in keys]
    ids = [RequestId(key.to_bytes(16, "big")) for key in keys]
    mesh.step(number, ev.ClientPuts(calls, puts, ids, [None] * len(keys)))


def queue_of(instance: Instance) -> dict[str, object]:
    limbo = instance.limbo
    return {
        "entries": [(entry.origin, entry.lsn, entry.wait_ack, entry.count) for entry in limbo.entries],
        "pending": list(limbo.pending),
        "owner": limbo.owner_id,
        "term": limbo.term,
        "confirmed": dict(limbo.confirmed_vclock),
        "promote_terms": dict(limbo.promote_terms),
        "vclock": instance.vclock,
        "hard state": (instance.raft.term, instance.raft.vote),
        "sync": list(instance.memtx.select(SYNC)),
        "async": list(instance.memtx.select(ASYNC)),
    }


def test_a_snapshot_with_pending_entries_replays_to_the_same_state() -> None:
    """ADR 4, [Q-74], [W-26]: it holds the committed prefix; what is pending comes back from the log."""
    mesh = Mesh(3)
    mesh.promote(1)
    confirmed_rows(mesh, 3)
    mesh.isolate(1)
    mesh.write(1, (4, "pending"))
    mesh.write(1, (1, "async behind"), ASYNC)
    mesh.write(1, (1, "local behind"), LOCAL_SPACE)
    shared_write(mesh, 1, (5, 6, 7, 8))
    mesh.settle()
    for number in (1, 2):
        instance = recovered_from_snapshot(mesh, number)
        instance.check()
        assert queue_of(instance) == queue_of(mesh[number])
    assert (len(mesh[1].limbo), mesh[1].limbo.count) == (4, 7)
    meta, _ = snapshot_view(mesh[1])
    assert meta.vclock.get(InstanceId(1)) < mesh[1].vclock.get(InstanceId(1))


def test_a_snapshot_with_a_pending_promote_replays_to_the_same_state() -> None:
    """ADR 4: its row lies behind the vclock of the snapshot."""
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.isolate(1)
    mesh.write(1, (1, "pending"))
    mesh.settle()
    mesh.heal()
    mesh.deliver(1, 2)
    mesh.persist(2)
    mesh.isolate(1)
    mesh.step(2, ev.PromoteRequested(mesh.call_id()))
    for _ in until(lambda: len(mesh[3].limbo.pending), "a PROMOTE that is pending on 3"):
        mesh.persist(2)
        mesh.deliver(2, 3)
        mesh.persist(3)
        mesh.deliver(3, 2)
    for number in (2, 3):
        instance = recovered_from_snapshot(mesh, number)
        assert queue_of(instance) == queue_of(mesh[number])
        assert len(instance.limbo.pending) == 1
        assert len(instance.limbo.entries) == 1
    mesh.settle()
    assert mesh[2].limbo.owner_id == 2
    assert mesh.rows(2) == mesh.rows(3) == [(1, "pending")]
    for number in (2, 3):
        assert queue_of(recovered_from_snapshot(mesh, number)) == queue_of(mesh[number])


DUPLICATE = (
    'Duplicate key exists in unique index "primary" in space "async" with old tuple - [1, "{}"] '
    'and new tuple - [1, "{}"]'
)


def test_two_inserts_of_one_key_without_an_owner_stop_both_appliers() -> None:
    """[A-52], [D-9]: the row is not applied and its LSN is not consumed; the third takes the first."""
    mesh = Mesh(3)
    assert mesh[1].limbo.owner_id == NOBODY
    mesh.isolate(1)
    mesh.write(1, (1, "one"), ASYNC, kind=RowType.INSERT)
    mesh.write(2, (1, "two"), ASYNC, kind=RowType.INSERT)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    error = mesh.members[1].stopped[2]
    assert isinstance(error, TupleFound)
    assert error.message == DUPLICATE.format("one", "two")
    assert mesh.members[2].stopped[1].message == DUPLICATE.format("two", "one")
    assert mesh.rows(1, ASYNC) == [(1, "one")]
    assert mesh[1].vclock.get(InstanceId(2)) == 0
    assert mesh.rows(2, ASYNC) == mesh.rows(3, ASYNC) == [(1, "two")]


def test_of_two_replaces_without_an_owner_each_keeps_the_one_it_applied_last() -> None:
    """[A-50], [A-51]: nothing is compared, and the data differs for good; sums do not care for the order."""
    mesh = Mesh(2)
    for key in (1, 2):
        mesh.write(1, (key, 0), ASYNC)
        mesh.settle()
    mesh.isolate(1)
    for number in (1, 2):
        mesh.write(number, (1, number), ASYNC)
        add = row_body.dml_from_values(RowType.UPDATE, ASYNC, key=(2,), ops=(("+", 2, 10 * number),))
        mesh.write_ops(number, [add])
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()
    assert mesh.rows(1, ASYNC) == [(1, 2), (2, 30)]
    assert mesh.rows(2, ASYNC) == [(1, 1), (2, 30)]


def test_skip_conflict_writes_nops_so_that_vclocks_converge() -> None:
    """[A-35]: each keeps its own tuple; the data differs and the operator said so."""
    mesh = Mesh(2, skip_conflict=True)
    mesh.isolate(1)
    mesh.write(1, (1, "one"), ASYNC, kind=RowType.INSERT)
    mesh.write(2, (1, "two"), ASYNC, kind=RowType.INSERT)
    mesh.settle()
    mesh.heal()
    mesh.settle()
    assert not mesh.members[1].stopped and not mesh.members[2].stopped
    assert mesh[1].vclock.without_local() == mesh[2].vclock.without_local()
    assert mesh.rows(1, ASYNC) == [(1, "one")]
    assert mesh.rows(2, ASYNC) == [(1, "two")]
    skipped = [txn for txn in mesh.members[1].wal if txn.origin == 2]
    assert [type(txn.rows[0].body) for txn in skipped] == [Nop]


def test_one_confirm_of_the_writer_decides_on_every_instance() -> None:
    """ADR 1: with three instances the log of a take-over is PROMOTE, then CONFIRM of that very row."""
    mesh = Mesh(3)
    mesh.promote(2)
    bodies = [(txn.lsn, txn.control) for txn in mesh.members[3].wal if txn.origin == 2]
    (promote_lsn, promote), (_, confirm) = bodies
    assert isinstance(promote, Promote)
    assert confirm == Confirm(InstanceId(2), promote_lsn)


def test_promote_of_a_read_only_instance_claims_the_queue_and_answers_when_it_is_writable() -> None:
    """[P-13], [L-21]: it returns when the instance is writable, though the queue is its own before."""
    mesh = Mesh(3, read_only=True)
    call = mesh.promote(1)
    assert (mesh[1].limbo.owner_id, mesh[1].read_only_reason()) == (1, RoReason.CONFIG)
    assert mesh.outcome(call) is None
    mesh.step(1, ev.SettingsChanged(replace(mesh.settings, read_only=False)))
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Promoted)
    assert outcome.previous_owner == 0


def test_promote_of_a_read_only_owner_times_out() -> None:
    """[P-13]: also if it owned the queue before; the queue stays with it."""
    mesh = Mesh(3, read_only=True)
    first = mesh.promote(1)
    mesh.step(1, ev.CallExpired(first))
    call = mesh.promote(1)
    assert mesh.outcome(call) is None
    mesh.step(1, ev.CallExpired(call))
    assert mesh.reason(call) == "TIMED_OUT"
    assert mesh[1].limbo.owner_id == 1
