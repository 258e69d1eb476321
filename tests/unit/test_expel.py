"""A member leaves: its row of `_cluster` is deleted. [M-50], [M-51], [M-52], ADR 41."""

from __future__ import annotations

import random

import pytest

from synchro.config import ElectionMode, QuorumFormula
from synchro.ids import CallId, InstanceId, Lsn
from synchro.instance import events as ev
from synchro.instance.recovery import recover_instance, snapshot_view
from synchro.ro_reason import RoReason
from synchro.row import Dml, RowType
from synchro.storage import row_body, xrow
from synchro.storage.schema import CLUSTER_ID, SCHEMA_ID
from tests.mesh import ASYNC, Mesh, uuid_of


def removal(number: int) -> Dml:
    return row_body.dml_from_values(RowType.DELETE, CLUSTER_ID, key=(number,))


def expel(mesh: Mesh, by: int, number: int) -> CallId:
    return mesh.write_ops(by, [removal(number)])


def members(mesh: Mesh, number: int) -> set[int]:
    return set(map(int, mesh[number].registered))


def owned(count: int = 3, **settings: object) -> Mesh:
    mesh = Mesh(count, **settings)
    mesh.promote(1)
    return mesh


def test_it_is_decided_and_everybody_counts_one_less() -> None:
    """[M-51], [M-52]: quorum follows; the caller gets the row that was deleted, as of any delete [D-16]."""
    mesh = owned()
    call = expel(mesh, 1, 3)
    mesh.settle()
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Committed)
    assert list(outcome.tuples) == [(3, uuid_of(3), "i3")]
    for number in (1, 2, 3):
        assert members(mesh, number) == {1, 2}
        assert mesh[number].limbo.quorum == 2
        assert mesh[number].memtx.catalog.expelled() == {3: (uuid_of(3), "i3")}


def test_the_one_that_left_is_read_only_and_says_why() -> None:
    """[M-50]: it applies the deletion; it is not promoted any more either."""
    mesh = owned(3, election_mode=ElectionMode.OFF)
    expel(mesh, 1, 3)
    mesh.settle()
    assert mesh[3].read_only_reason() is RoReason.EXPELLED
    assert mesh.reason(mesh.write(3, (1,), ASYNC)) == "READ_ONLY"
    assert mesh.reason(mesh.promote(3)) == "READ_ONLY"
    assert mesh[1].read_only_reason() is RoReason.NONE


def test_a_member_that_was_told_so_is_read_only_too() -> None:
    """It was away when it was removed: its log does not say so, whoever refuses it does."""
    mesh = Mesh(2)
    assert mesh[2].is_writable
    mesh.step(2, ev.ExpulsionTold())
    assert mesh[2].read_only_reason() is RoReason.EXPELLED


def test_only_the_copies_of_those_who_stay_decide_it() -> None:
    """The leaver and the owner are 2 of 3, which was a quorum before; without it, 2 of 2 are needed."""
    mesh = owned()
    mesh.cut(2, 3)
    call = expel(mesh, 1, 3)
    mesh.cut(1, 2)  # before the row went out
    mesh.settle()
    assert mesh.outcome(call) is None
    assert mesh[3].vclock.get(InstanceId(1)) == mesh[1].vclock.get(InstanceId(1))  # the leaver has it on disk
    assert members(mesh, 1) == {1, 2, 3}
    assert mesh[1].limbo.registered == {1, 2}
    mesh.heal()
    mesh.settle()
    assert mesh.committed(call)
    assert members(mesh, 2) == {1, 2}


def test_an_even_set_with_half_of_it_gone_is_freed_by_the_removal() -> None:
    """3 of 4 copies were needed, 2 of 3 are: any two of these quorums share an instance."""
    mesh = owned(4)
    mesh.isolate(3)
    mesh.isolate(4)
    write = mesh.write(1, (1, "a"))
    mesh.settle()
    assert mesh.outcome(write) is None
    call = expel(mesh, 1, 4)
    mesh.settle()
    assert mesh.committed(write)
    assert mesh.committed(call)


def test_who_has_not_seen_it_is_not_elected_against_it() -> None:
    """3 and 4 know a set of 4, of which 3 must vote: one of them has the deletion, and refuses."""
    mesh = owned(4)
    mesh.cut(1, 3)
    mesh.cut(2, 3)
    mesh.cut(1, 4)
    mesh.cut(2, 4)
    call = expel(mesh, 1, 4)
    mesh.settle()
    assert mesh.committed(call)
    assert mesh[3].raft.membership.registered == {1, 2, 3, 4}
    promote = mesh.promote(3)
    mesh.run_for(30)
    assert not isinstance(mesh.outcome(promote), ev.Promoted)
    assert mesh[3].limbo.owner_id == 1


def test_the_next_owner_decides_what_it_has_of_it() -> None:
    """The owner dies with the deletion undecided; a member that holds it is elected by those who stay."""
    mesh = owned(4)
    call = expel(mesh, 1, 4)
    mesh.persist(1)
    mesh.deliver(1, 2)
    mesh.persist(2)  # its ack is lost with the owner
    assert mesh.outcome(call) is not None or mesh[1].limbo.count == 1
    mesh.crash(1)
    mesh.promote(2)
    mesh.settle()
    assert mesh[2].limbo.owner_id == 2
    assert members(mesh, 2) == members(mesh, 3) == {1, 2, 3}
    assert mesh[4].read_only_reason() is RoReason.EXPELLED


def test_a_deletion_that_nobody_else_has_is_rolled_back_and_the_set_is_as_before() -> None:
    mesh = owned()
    call = expel(mesh, 1, 3)
    mesh.persist(1)
    assert mesh[1].limbo.registered == {1, 2}
    mesh.isolate(1)
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert mesh.reason(call) == "SYNC_ROLLBACK"
    for number in (1, 2, 3):
        assert members(mesh, number) == {1, 2, 3}
        assert mesh[number].memtx.catalog.expelled() == {}
        assert mesh[number].limbo.registered == {1, 2, 3}


def test_it_is_refused_where_those_who_stay_are_no_quorum() -> None:
    """Else the whole queue would wait behind it. Nothing was written."""
    mesh = owned()
    mesh.isolate(2)
    wal = len(mesh.members[1].wal)
    assert mesh.reason(expel(mesh, 1, 3)) == "QUORUM_WAIT"
    assert len(mesh.members[1].wal) == wal


def test_it_is_refused_where_a_fixed_quorum_would_be_more_than_stay() -> None:
    mesh = owned(2, synchro_quorum=QuorumFormula(2))
    assert mesh.reason(expel(mesh, 1, 2)) == "QUORUM_WAIT"


def test_the_last_but_one_leaves_although_it_is_dead() -> None:
    """Of two, one stays and is its own quorum; without fencing it leads until then."""
    mesh = owned(2)
    mesh.crash(2)
    call = expel(mesh, 1, 2)
    mesh.settle()
    assert mesh.committed(call)
    write = mesh.write(1, (1, "alone"))
    mesh.settle()
    assert mesh.committed(write)


def test_one_at_a_time() -> None:
    """[M-51], ADR 41: neither a second removal nor a registration while one is undecided."""
    mesh = owned(5)
    expel(mesh, 1, 5)
    assert mesh.reason(expel(mesh, 1, 4)) == "QUORUM_WAIT"
    register = mesh.call_id()
    mesh.step(1, ev.RegisterRequested(register, uuid_of(9), "i9"))
    assert mesh.reason(register) == "QUORUM_WAIT"
    mesh.settle()
    again = expel(mesh, 1, 4)
    mesh.settle()
    assert mesh.committed(again)
    assert members(mesh, 2) == {1, 2, 3}


@pytest.mark.parametrize("is_claimed", [False, True])
def test_one_in_a_transaction_and_never_the_own_row(is_claimed: bool) -> None:
    """[M-50]"""
    mesh = owned() if is_claimed else Mesh(3)
    assert mesh.reason(expel(mesh, 1, 1)) == "LOCAL_INSTANCE_ID_IS_READ_ONLY"
    other = row_body.dml_from_values(RowType.REPLACE, ASYNC, value=(1,))
    for ops in ([removal(2), removal(3)], [removal(2), other], [other, removal(2)]):
        assert mesh.reason(mesh.write_ops(1, ops)) == "UNSUPPORTED"
    assert members(mesh, 1) == {1, 2, 3}


def test_nobody_is_deleted_as_of_any_space_and_a_retry_has_one_effect() -> None:
    """[D-16]"""
    mesh = owned()
    nobody = expel(mesh, 1, 9)
    mesh.settle()
    assert mesh.committed(nobody)
    assert mesh[1].memtx.catalog.expelled() == {}
    first = mesh.write_ops(1, [removal(3)], request_id=b"r" * 16)
    mesh.settle()
    second = mesh.write_ops(1, [removal(3)], request_id=b"r" * 16)
    one, two = mesh.outcome(first), mesh.outcome(second)
    assert isinstance(one, ev.Committed) and isinstance(two, ev.Committed)
    assert two.duplicate and two.txn == one.txn


def test_without_an_owner_it_is_asynchronous_as_all_else() -> None:
    """ADR 6: master-master, where no quorum is asked for."""
    mesh = Mesh(3)
    mesh.isolate(1)
    call = expel(mesh, 1, 3)
    mesh.settle()
    assert mesh.committed(call)
    mesh.heal()
    mesh.settle()
    assert members(mesh, 2) == {1, 2}
    assert mesh[3].read_only_reason() is RoReason.EXPELLED


def test_its_rows_that_members_hold_are_passed_on_and_applied() -> None:
    """Else members would differ for ever: 2 has a row of 3 that 1 has not."""
    mesh = Mesh(3)
    mesh.cut(1, 3)
    mesh.cut(1, 2)
    mesh.write(3, (7, "last"), ASYNC)
    mesh.settle()
    expel(mesh, 1, 3)
    mesh.settle()
    mesh.join(1, 2)
    mesh.settle()
    assert mesh.rows(1, ASYNC) == mesh.rows(2, ASYNC) == [(7, "last")]
    assert mesh[1].vclock.get(InstanceId(3)) == 1


def test_its_id_is_never_given_again_and_a_name_does_not_bring_it_back() -> None:
    """The smallest free id [M-3] would give its LSNs, votes and acks to somebody else. ADR 41."""
    mesh = owned()
    expel(mesh, 1, 2)
    mesh.settle()
    mesh.isolate(2)
    call = mesh.call_id()
    mesh.step(1, ev.RegisterRequested(call, uuid_of(2), "i2"))
    mesh.settle()
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Registered)
    assert outcome.id == 4
    assert mesh[1].memtx.catalog.expelled_id(uuid_of(2)) is None  # a member again, under another id


def test_an_id_that_has_rows_is_not_free_either() -> None:
    """[M-4]: its row was deleted by a version that kept no record of it."""
    mesh = Mesh(3)
    mesh.write(3, (1,), ASYNC)
    mesh.settle()
    prepared = mesh[1].memtx.prepare([removal(3)], from_peer=True)
    mesh[1].memtx.commit(prepared)
    call = mesh.call_id()
    mesh.step(1, ev.RegisterRequested(call, uuid_of(9), "i9"))
    mesh.settle()
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Registered) and outcome.id == 4


@pytest.mark.parametrize("number", [1, 3])
def test_it_is_known_after_a_restart_from_log_and_from_snapshot(number: int) -> None:
    """The one that left starts, is read-only and says why; the others do not give its id."""
    mesh = owned()
    expel(mesh, 1, 3)
    mesh.settle()
    meta, spaces = snapshot_view(mesh[number])
    mesh.crash(number)
    mesh.restart(number)
    recovered = recover_instance(
        uuid=uuid_of(number),
        settings=mesh.settings,
        meta=meta,
        spaces=spaces,
        txns=[],
        rng=random.Random(1),
        trusted=True,
        now=0.0,
    )
    for instance in (mesh[number], recovered):
        assert instance.self_id == number
        assert instance.memtx.catalog.expelled() == {3: (uuid_of(3), "i3")}
        assert (instance.read_only_reason() is RoReason.EXPELLED) == (number == 3)


def test_the_shell_is_told_once_when_it_is_decided() -> None:
    """Its streams end: theirs to it, its to them."""
    mesh = owned()
    told: list[int] = []
    carry_out = mesh._carry_out

    def watch(number: int, effects: object) -> None:
        told.extend(number for effect in effects if isinstance(effect, ev.MembersChanged))  # type: ignore[attr-defined]
        carry_out(number, effects)  # type: ignore[arg-type]

    mesh._carry_out = watch  # type: ignore[method-assign]
    expel(mesh, 1, 3)
    assert told == []
    mesh.settle()
    assert sorted(told) == [1, 2, 3]


def test_a_member_without_trust_must_hear_the_leaver_until_it_is_decided() -> None:
    """S14: the leaver may hold what was forgotten, as long as it is a member. Its own acks do not count, so
    it is no part of the quorum that lets the leaver go."""
    mesh = owned()
    mesh.crash(2)
    mesh.isolate(3)
    mesh.cut(2, 3)
    mesh.restart(2, trusted=False)
    mesh.settle()
    assert mesh.reason(expel(mesh, 1, 3)) == "QUORUM_WAIT"
    assert 3 in mesh[2].must_hear()


def test_a_row_of_the_record_in_schema_is_data_that_everybody_reads() -> None:
    mesh = owned()
    expel(mesh, 1, 3)
    mesh.settle()
    assert mesh[2].memtx.get(SCHEMA_ID, 0, ("expelled.3",)) == ("expelled.3", uuid_of(3), "i3")


@pytest.mark.parametrize(
    "number", ["9" * 5000, "0", "32", "77.", "03", "-1", "\u0663", "", "3.3", f"{2**64}.{uuid_of(1)}"]
)
def test_a_row_of_the_record_that_names_no_id_is_passed_over(number: str) -> None:
    """A peer, or a log, may have one: no number ends the instance, and nobody is taken for removed by it."""
    mesh = Mesh(3)
    row = row_body.dml_from_values(RowType.REPLACE, SCHEMA_ID, value=(f"expelled.{number}", uuid_of(1), "i1"))
    mesh.step(1, ev.TxnsReceived(InstanceId(2), [xrow.encode_ops([row], InstanceId(2), Lsn(1), 0)]))
    mesh.settle()
    for instance in (mesh[1], mesh[2]):
        assert set(instance.memtx.catalog.expelled()) <= {3}
        assert instance.memtx.catalog.expelled_id(uuid_of(8)) is None
    mesh.crash(1)
    mesh.restart(1)
    assert mesh[1].memtx.catalog.expelled_id(uuid_of(1)) is None


@pytest.mark.parametrize("restarts", [False, True])
def test_whose_place_was_taken_has_left(restarts: bool) -> None:
    """[M-25]: the same name comes back under a new UUID and takes the id over. Who had it before is no member
    any more, and is read-only from the row on that says so; all know it by its UUID, after a restart too."""
    mesh = Mesh(3)
    mesh.isolate(3)
    call = mesh.call_id()
    mesh.step(1, ev.RegisterRequested(call, uuid_of(8), "i3"))
    mesh.settle()
    assert isinstance(mesh.outcome(call), ev.Registered)
    assert members(mesh, 2) == {1, 2, 3}
    assert mesh[3].read_only_reason() is RoReason.NONE
    mesh.heal()
    mesh.settle()
    for number in (1, 2, 3):
        if restarts:
            mesh.crash(number)
            mesh.restart(number)
        catalog = mesh[number].memtx.catalog
        assert catalog.expelled_id(uuid_of(3)) == 3
        assert catalog.expelled_id(uuid_of(8)) is None
        assert catalog.expelled() == {}, "the id is that of a member"
    assert mesh[3].read_only_reason() is RoReason.EXPELLED


def test_who_comes_back_into_its_own_place_is_a_member_again() -> None:
    """[M-25]"""
    mesh = Mesh(2)
    mesh.isolate(2)
    for uuid in (uuid_of(8), uuid_of(2)):
        mesh.step(1, ev.RegisterRequested(mesh.call_id(), uuid, "i2"))
        mesh.settle()
    catalog = mesh[1].memtx.catalog
    assert catalog.expelled_id(uuid_of(2)) is None
    assert catalog.expelled_id(uuid_of(8)) == 2


def test_who_knows_less_of_the_queue_removes_nobody_else() -> None:
    """ADR 41: 1 was away when 3 took the queue. Without an owner in its log it decides alone that 3 left.
    None of {2, 3} had that row when they elected 3, so 3 leads on."""
    mesh = Mesh(3, election_mode=ElectionMode.OFF)
    mesh.cut(1, 2)
    mesh.cut(1, 3)
    mesh.promote(3)
    mesh.settle()
    call = expel(mesh, 1, 3)
    mesh.settle()
    assert mesh.committed(call)
    mesh.step(3, ev.ExpulsionTold(queue_term=mesh[1].limbo.term))
    assert mesh[3].read_only_reason() is RoReason.NONE
    written = mesh.write(3, (1,), ASYNC)
    mesh.settle()
    assert mesh.committed(written)
    mesh.step(3, ev.ExpulsionTold(queue_term=mesh[3].limbo.term))
    assert mesh[3].read_only_reason() is RoReason.EXPELLED
