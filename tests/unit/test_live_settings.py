"""Options change while an instance runs: what waits is judged again in the same step. [C-30], ADR 38."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from synchro.config import ElectionMode, FencingMode, Limits, QuorumFormula
from synchro.errors import SynchroError
from synchro.instance import events as ev
from synchro.row import Confirm, Dml, RowType
from synchro.storage import row_body, schema_ops
from synchro.storage.index import Iterator_
from tests.mesh import ASYNC, SYNC, Mesh
from tests.unit.test_config_changes import read


def change(mesh: Mesh, number: int, **options: Any) -> None:
    settings = mesh[number].settings
    if "limits" in options:
        options["limits"] = replace(settings.limits, **options["limits"])
    mesh.step(number, ev.SettingsChanged(replace(settings, **options)))


def owned(members: int = 3, **settings: Any) -> Mesh:
    """Instance 1 owns the queue."""
    mesh = Mesh(members, **settings)
    mesh.promote(1)
    mesh.settle()
    return mesh


def refusal(mesh: Mesh, call: Any) -> SynchroError:
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected)
    return outcome.error


# --- quorum


@pytest.mark.effect_of("replication.synchro_quorum")
def test_a_lower_quorum_commits_what_waits() -> None:
    """[Q-27]: one of three holds out; with two of three the write that waited for three is done."""
    mesh = owned(synchro_quorum=QuorumFormula(3))
    mesh.isolate(3)
    call = mesh.write(1, (1, "a"))
    mesh.settle()
    assert not mesh.committed(call)
    change(mesh, 1, synchro_quorum=QuorumFormula(2))
    assert mesh.committed(call)


def test_a_higher_quorum_holds_the_next_write_back() -> None:
    mesh = owned()
    mesh.isolate(3)
    first = mesh.write(1, (1, "a"))
    mesh.settle()
    assert mesh.committed(first)
    change(mesh, 1, synchro_quorum=QuorumFormula(3))
    second = mesh.write(1, (2, "b"))
    mesh.settle()
    assert not mesh.committed(second)
    mesh.heal()
    mesh.settle()
    assert mesh.committed(second)


def is_confirmed_on_disk(mesh: Mesh, number: int) -> bool:
    """Whether the newest synced control row is a CONFIRM behind all data."""
    member = mesh.members[number]
    return isinstance(member.wal[member.written - 1].control, Confirm)


def answered_before_its_confirm(mesh: Mesh) -> bool:
    """Write on 1, let 2 and 3 hold it: is the caller told before a CONFIRM is on the disk of 1?"""
    call = mesh.write(1, (9, "x"))
    mesh.persist(1)
    for peer in (2, 3):
        mesh.deliver(1, peer)
        mesh.persist(peer)
        mesh.deliver(peer, 1)
    answered = mesh.committed(call)
    assert answered or not is_confirmed_on_disk(mesh, 1)
    mesh.settle()
    assert mesh.committed(call)
    return answered


def test_the_confirm_comes_first_while_a_member_can_be_elected_by_too_few() -> None:
    """ADR 38: 2 of 3 hold it, but 3 alone could elect itself and not know of it. What 3 says with its acks
    counts, also when it says that it is over."""
    mesh = owned()
    assert answered_before_its_confirm(mesh)
    change(mesh, 3, synchro_quorum=QuorumFormula(1))
    mesh._ack(1, 3)
    assert not answered_before_its_confirm(mesh)
    change(mesh, 1, synchro_quorum=QuorumFormula(3))  # all hold it: 3 is among them
    assert answered_before_its_confirm(mesh)
    change(mesh, 1, synchro_quorum=QuorumFormula(2))
    change(mesh, 3, synchro_quorum=QuorumFormula(2))
    mesh._ack(1, 3)
    assert answered_before_its_confirm(mesh)
    mesh[1].check()


def test_a_quorum_that_changes_in_mid_write_loses_nothing() -> None:
    """A CONFIRM is on its way because the quorum was small; meanwhile it is a majority again."""
    mesh = owned(synchro_quorum=QuorumFormula(1))
    call = mesh.write(1, (1, "a"))
    mesh.persist(1)  # its CONFIRM is asked for, and not on disk
    for number in (1, 2, 3):
        change(mesh, number, synchro_quorum=QuorumFormula(2))
    mesh.settle()
    assert mesh.committed(call)
    again = mesh.write(1, (2, "b"))
    mesh.settle()
    assert mesh.committed(again)
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3)
    for number in (1, 2, 3):
        mesh[number].check()


@pytest.mark.effect_of("replication.linearizable_quorum")
def test_a_linearizable_read_asks_as_many_as_are_configured_now() -> None:
    """[Q-34]"""
    mesh = owned()
    change(mesh, 1, linearizable_quorum=QuorumFormula("N", clamp=True))
    mesh.isolate(3)
    call = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(call))
    mesh.settle()
    assert mesh.outcome(call) is None  # it needs all three now
    change(mesh, 1, linearizable_quorum=QuorumFormula("N - Q + 1", clamp=True))
    assert isinstance(mesh.outcome(call), ev.ReadReady)


def test_a_linearizable_read_asks_by_the_lowest_quorum_of_a_member() -> None:
    """ADR 38: with 3 of 3 for itself the owner would ask nobody, but 2 and 3 elect each other still."""
    mesh = owned()
    change(mesh, 1, synchro_quorum=QuorumFormula(3))
    mesh.isolate(1)
    call = mesh.call_id()
    mesh.step(1, ev.ReadBarrierRequested(call))
    mesh.settle()
    assert mesh.outcome(call) is None
    mesh.heal()
    for number in (2, 3):
        change(mesh, number, synchro_quorum=QuorumFormula(3))
        mesh._ack(1, number)
    mesh.settle()
    assert isinstance(mesh.outcome(call), ev.ReadReady)


# --- who may write and stand


@pytest.mark.effect_of("database.mode")
def test_roles_are_swapped_without_a_restart() -> None:
    """Controlled failover: the former master is read-only, then the other one is writable."""
    mesh = Mesh(2)
    change(mesh, 2, read_only=True)
    mesh.settle()
    change(mesh, 1, read_only=True)
    assert refusal(mesh, mesh.write(1, (1, "a"), ASYNC)).reason == "READ_ONLY"
    change(mesh, 2, read_only=False)
    call = mesh.write(2, (1, "a"), ASYNC)
    mesh.settle()
    assert mesh.committed(call)


@pytest.mark.effect_of("replication.election_mode", "replication.failover")
def test_elections_are_turned_on_and_off() -> None:
    """[E-25], [E-33]: nobody leads by itself with `off`; a candidate stands; a voter gives up."""
    mesh = Mesh(3)
    mesh.settle()
    mesh.run_for(20)
    assert not any(mesh[n].raft.is_leader for n in (1, 2, 3))
    for number in (1, 2, 3):
        change(mesh, number, election_mode=ElectionMode.CANDIDATE)
    mesh.run_for(20)
    (leader,) = (n for n in (1, 2, 3) if mesh[n].raft.is_leader)
    change(mesh, leader, election_mode=ElectionMode.VOTER)
    assert not mesh[leader].raft.is_leader
    mesh.run_for(20)
    (other,) = (n for n in (1, 2, 3) if mesh[n].raft.is_leader)
    assert other != leader


@pytest.mark.effect_of("replication.election_fencing_mode")
def test_a_leader_that_sees_nobody_leads_on_until_it_is_fenced() -> None:
    """[E-30]: and stays fenced when it is told otherwise."""
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE, election_fencing_mode=FencingMode.OFF)
    mesh.run_for(20)
    (leader,) = (n for n in (1, 2, 3) if mesh[n].raft.is_leader)
    mesh.isolate(leader)
    mesh.run_for(20)
    assert mesh[leader].raft.is_leader
    change(mesh, leader, election_fencing_mode=FencingMode.SOFT)
    assert not mesh[leader].raft.is_leader
    change(mesh, leader, election_fencing_mode=FencingMode.OFF)
    mesh.run_for(20)
    assert not mesh[leader].raft.is_leader


@pytest.mark.effect_of("replication.election_timeout")
def test_a_candidate_stands_after_the_new_timeout() -> None:
    """[E-21]: a year of patience with a leader that is gone ends when it is shortened."""
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE)
    mesh.run_for(20)
    (leader,) = (n for n in (1, 2, 3) if mesh[n].raft.is_leader)
    others = [n for n in (1, 2, 3) if n != leader]
    for number in others:
        change(mesh, number, election_timeout_s=3e7)
    mesh.isolate(leader)
    mesh.run_for(20)
    assert not any(mesh[n].raft.is_leader for n in others)
    for number in others:
        change(mesh, number, election_timeout_s=10.0)
    mesh.run_for(20)
    assert any(mesh[n].raft.is_leader for n in others)


# --- limits


@pytest.mark.effect_of("replication.synchro_queue_max_size")
def test_a_larger_queue_takes_in_what_waits_outside() -> None:
    """[Q-46]"""
    mesh = owned(synchro_queue_max_size=1)
    mesh.isolate(1)
    first, second = mesh.write(1, (1, "a")), mesh.write(1, (2, "b"))
    mesh.settle()
    assert len(mesh[1].limbo) == 1
    change(mesh, 1, synchro_queue_max_size=1 << 20)
    assert len(mesh[1].limbo) == 2
    mesh.heal()
    mesh.settle()
    assert mesh.committed(first) and mesh.committed(second)


OPS = [row_body.dml_from_values(RowType.REPLACE, SYNC, value=(n, "x" * 100)) for n in range(8)]


UPDATE = row_body.update_dml(SYNC, 0, msgpack.packb([0]), msgpack.packb([["=", 2, "y"]] * 5))


@pytest.mark.effect_of("limits.max_batch_ops", "limits.update_ops_max", "limits.txn_work_bytes_max")
@pytest.mark.parametrize(
    ("limit", "value", "ops"),
    [("batch_ops_max", 4, OPS), ("update_ops_max", 4, [UPDATE]), ("txn_work_bytes_max", 4096, [UPDATE] * 3)],
)
def test_limits_of_a_transaction(limit: str, value: int, ops: list[Dml]) -> None:
    """What was accepted is refused, and accepted again."""
    mesh = owned()
    mesh.write(1, (0, "x"))
    mesh.settle()
    for number, is_allowed in ((getattr(Limits(), limit), True), (value, False), (1 << 30, True)):
        change(mesh, 1, limits={limit: number})
        call = mesh.write_ops(1, ops)
        mesh.settle()
        assert mesh.committed(call) == is_allowed


@pytest.mark.effect_of("limits.max_waiting_calls")
def test_requests_that_wait_for_room_are_bounded_anew() -> None:
    mesh = owned(synchro_queue_max_size=1)
    mesh.isolate(1)
    for number in range(3):
        mesh.write(1, (number, "x"))
    change(mesh, 1, limits={"waiting_calls_max": 2})
    assert refusal(mesh, mesh.write(1, (7, "x"))).reason == "SYNC_QUEUE_FULL"


@pytest.mark.effect_of("memtx.memory")
def test_memory_and_conflicts_follow_their_options() -> None:
    mesh = owned()
    change(mesh, 1, memtx_memory=mesh[1].memtx.memory_used)
    assert refusal(mesh, mesh.write(1, (1, "a"))).reason == "MEMORY_ISSUE"
    change(mesh, 1, memtx_memory=0)
    call = mesh.write(1, (1, "a"))
    mesh.settle()
    assert mesh.committed(call)


@pytest.mark.effect_of("replication.skip_conflict")
def test_a_conflict_is_skipped_once_the_option_says_so() -> None:
    """ADR 19: both insert one key while they cannot hear each other."""
    mesh = Mesh(2)
    mesh.cut(1, 2)
    for number in (1, 2):
        insert = row_body.dml_from_values(RowType.INSERT, ASYNC, value=(5, str(number)))
        mesh.write_ops(number, [insert])
    mesh.settle()
    change(mesh, 2, skip_conflict=True)
    mesh.heal()
    mesh.settle()
    assert mesh.members[1].stopped and not mesh.members[2].stopped


@pytest.mark.effect_of("limits.select_bytes_max", "limits.select_tuples_max")
def test_an_answer_is_cut_by_the_new_limit() -> None:
    mesh = owned()
    for number in range(9):
        mesh.write(1, (number, "x" * 100))
    mesh.settle()

    def answered() -> int:
        return len(mesh[1].memtx.select(SYNC, iterator=Iterator_.ALL))

    assert answered() == 9
    change(mesh, 1, limits={"select_tuples_max": 4})
    assert answered() == 4
    change(mesh, 1, limits={"select_tuples_max": 100, "select_bytes_max": 250})
    assert answered() < 4
    change(mesh, 1, limits={"select_bytes_max": 1 << 20})
    assert answered() == 9


@pytest.mark.effect_of("limits.ddl_rows_at_once")
def test_an_index_is_built_in_steps_from_so_many_tuples_on() -> None:
    mesh = owned()
    for number in range(9):
        mesh.write(1, (number, "x"))
    mesh.settle()

    def create(name: str) -> bool:
        """Whether it was built before the call returned."""
        ops = schema_ops.create_index(mesh[1].memtx, SYNC, name, parts=((2, "string"),), unique=False)
        rows = [row_body.dml_from_values(op.type, op.space_id, value=op.value) for op in ops]
        call = mesh.write_ops(1, rows)
        is_at_once = not mesh.members[1].builds
        mesh.settle()
        assert mesh.committed(call)
        return is_at_once

    assert create("first")
    change(mesh, 1, limits={"ddl_rows_at_once": 3})
    assert not create("second")
    change(mesh, 1, limits={"ddl_rows_at_once": 1000})
    assert create("third")


@pytest.mark.effect_of("limits.turn_work_bytes_max")
def test_a_turn_ends_by_the_new_limit() -> None:
    """Also the turn that is going on: what is left of it is as much as a whole one may touch now."""
    mesh = owned()

    def waiting() -> int:
        writes = [ev.ClientWrite(mesh.call_id(), [OPS[0]]) for _ in range(50)]
        mesh.step(1, ev.ClientWrites(writes))
        left = mesh[1].waiting_unprepared
        mesh.settle()
        assert all(mesh.committed(write.call_id) for write in writes)
        return left

    assert waiting() == 0
    change(mesh, 1, limits={"turn_work_bytes_max": 20_000})
    assert waiting() > 40
    change(mesh, 1, limits={"turn_work_bytes_max": 1 << 25})
    assert waiting() == 0


@pytest.mark.effect_of("wal.queue_max_size", "limits.wal_queue_bytes_max")
def test_the_queue_of_a_slow_disk_takes_as_much_as_it_may_now() -> None:
    """[W-16]"""
    mesh = Mesh(1)
    first = mesh.write(1, (1,), ASYNC)
    change(mesh, 1, limits={"wal_queue_bytes_max": 1})
    assert refusal(mesh, mesh.write(1, (2,), ASYNC, wait=ev.WaitMode.NONE)).reason == "WAL_QUEUE_FULL"
    waits = mesh.write(1, (3,), ASYNC)
    assert mesh[1].waiting_unprepared == 1
    change(mesh, 1, limits={"wal_queue_bytes_max": 1 << 20})
    assert mesh[1].waiting_unprepared == 0
    mesh.settle()
    assert mesh.committed(first) and mesh.committed(waits)


@pytest.mark.effect_of("leader")
def test_the_named_leader_is_writable_and_the_former_one_is_not() -> None:
    """[C-20]: `failover: manual`, by the file of both."""
    mesh = Mesh(2)
    for leader in ("a", "b", "a"):
        own = {
            name: read("replication: {failover: manual}\n", more=f"leader: {leader}").instance(name)
            for name in "ab"
        }
        for number, name in enumerate("ab", 1):
            change(mesh, number, read_only=own[name].settings.read_only)
        writer, other = (1, 2) if leader == "a" else (2, 1)
        assert refusal(mesh, mesh.write(other, (1, "x"), ASYNC)).reason == "READ_ONLY"
        call = mesh.write(writer, (1, "x"), ASYNC)
        mesh.settle()
        assert mesh.committed(call)
