"""Terms and LSNs at or beyond their bound, in a log or snapshot of a version that had none.

They were accepted once, so the instance starts and serves what it has; it raises nothing beyond the bound,
tells nobody, and says what to do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from synchro.config import ElectionMode, QuorumFormula
from synchro.errors import ElectionDisabled, ReadOnly
from synchro.ids import LOCAL, LSN_RESERVE, NUMBER_END, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.instance.recovery import recover_instance
from synchro.row import Demote, Promote, RaftState, Row, RowType, Txn
from synchro.storage import row_body, xrow
from synchro.storage.snapshot import SnapshotMeta
from synchro.vclock import Vclock
from tests.mesh import ASYNC, REPLICASET, SYNC, Member, Mesh, uuid_of

U64 = 2**64 - 1
ONE, TWO = InstanceId(1), InstanceId(2)
AT_THE_BOUND = [NUMBER_END - 1, NUMBER_END, 2**63, U64]


def hard_state(term: int, vote: int = 0) -> Txn:
    body = RaftState(Term(term), InstanceId(vote))
    return xrow.encode_txn([Row(RowType.RAFT, LOCAL, Lsn(1), Lsn(1), 1, body, 1)])


def transfer(kind: RowType, term: int, origin: InstanceId = ONE) -> Txn:
    body = (Promote if kind is RowType.PROMOTE else Demote)(InstanceId(0), Lsn(0), Term(term), Term(1))
    return xrow.encode_txn([Row(kind, origin, Lsn(1), Lsn(1), 1, body)])


LOGS = {
    "term": lambda term: [hard_state(term)],
    "own vote": lambda term: [hard_state(term, 1)],
    "vote for another": lambda term: [hard_state(term, 2)],
    "own promote": lambda term: [hard_state(term, 1), transfer(RowType.PROMOTE, term)],
    "promote of another": lambda term: [transfer(RowType.PROMOTE, term, TWO)],
    "demote of another": lambda term: [transfer(RowType.DEMOTE, term, TWO)],
}


def restarted(log: Sequence[Txn], mode: ElectionMode, members: int = 3, quorum: int = 2) -> Mesh:
    mesh = Mesh(members, election_mode=mode, synchro_quorum=QuorumFormula(quorum))
    for number in mesh.members.copy():
        mesh.crash(number)
    mesh.down[1] = [xrow.decode_txns(bytes(txn.data))[0] for txn in log]
    for number in range(1, members + 1):
        mesh.restart(number)
    return mesh


def assert_lives(mesh: Mesh) -> None:
    """Timers, peers, and a person who asks for a new owner."""
    for number in (1, 2):
        mesh.run_for(10)
        mesh.promote(number)
        mesh.demote(number)
        mesh.write(number, (number,))
        mesh.write(number, (number,), ASYNC)
        mesh.settle()
    mesh.run_for(10)
    for member in mesh.members.values():
        assert member.instance.raft.message().term < NUMBER_END
        assert member.instance.raft.shown_term < NUMBER_END
    own = mesh[1].raft
    if own.term >= NUMBER_END:
        shown = own.message()
        assert (shown.vote, shown.leader, shown.is_leader_seen, shown.vclock) == (0, 0, False, None)


@pytest.mark.parametrize("mode", list(ElectionMode))
@pytest.mark.parametrize("term", AT_THE_BOUND)
@pytest.mark.parametrize("log", LOGS)
def test_a_log_with_the_last_term_is_started_from(log: str, term: int, mode: ElectionMode) -> None:
    """The next election ended in OverflowError, again after each restart."""
    for members, quorum in ((1, 1), (3, 1), (3, 2)):
        mesh = restarted(LOGS[log](term), mode, members, quorum)
        assert mesh[1].raft.term == term
        if members == 1:
            mesh.members[2] = mesh.members[1]  # asked twice
        assert_lives(mesh)
        assert mesh[1].raft.term == term
        mesh.members.pop(2) if members == 1 else None
        mesh.crash(1)
        mesh.restart(1)
        assert mesh[1].raft.term == term


@pytest.mark.parametrize("term", AT_THE_BOUND)
@pytest.mark.parametrize("mode", [ElectionMode.OFF, ElectionMode.MANUAL, ElectionMode.CANDIDATE])
def test_a_promote_is_told_that_the_term_is_the_last_one(term: int, mode: ElectionMode) -> None:
    mesh = restarted([hard_state(term)], mode, members=1)
    mesh.run_for(10)
    outcome = mesh.outcome(mesh.promote(1))
    assert isinstance(outcome, ev.Rejected)
    assert isinstance(outcome.error, ElectionDisabled)
    assert str(term) in outcome.error.message
    assert "Next:" in outcome.error.message
    assert mesh[1].raft.volatile_term == term


def test_an_instance_says_at_its_start_that_its_term_is_the_last_one() -> None:
    for meta, is_said in ((SnapshotMeta(), False), (SnapshotMeta(term=Term(U64)), True)):
        mesh = Mesh(1)
        instance = recover_instance(
            uuid=uuid_of(1),
            settings=mesh.settings,
            meta=meta,
            spaces=mesh.spaces,
            txns=[],
            rng=random.Random(1),
            trusted=True,
            now=0.0,
        )
        told = [e for e in instance.start(0.0) if isinstance(e, ev.Notice) and e.event == "numbers_exhausted"]
        assert bool(told) == is_said
        assert all(notice.is_warning for notice in told)


@pytest.mark.parametrize("mode", list(ElectionMode))
@pytest.mark.parametrize(
    "meta",
    [
        SnapshotMeta(replicaset_uuid=REPLICASET, term=Term(U64), vote=ONE),
        SnapshotMeta(
            replicaset_uuid=REPLICASET,
            term=Term(U64),
            queue_owner=ONE,
            queue_term=Term(U64),
            promote_terms=((ONE, Term(U64)),),
        ),
        SnapshotMeta(replicaset_uuid=REPLICASET, term=Term(U64), queue_term=Term(U64)),
        SnapshotMeta(replicaset_uuid=REPLICASET, vclock=Vclock({ONE: Lsn(U64)})),
        SnapshotMeta(replicaset_uuid=REPLICASET, vclock=Vclock({TWO: Lsn(U64)})),
    ],
)
def test_a_snapshot_with_such_numbers_is_started_from(meta: SnapshotMeta, mode: ElectionMode) -> None:
    mesh = Mesh(1, election_mode=mode, synchro_quorum=QuorumFormula(1))
    instance = recover_instance(
        uuid=uuid_of(1),
        settings=mesh.settings,
        meta=meta,
        spaces=mesh.spaces,
        txns=[],
        rng=random.Random(1),
        trusted=True,
        now=0.0,
    )
    mesh.members = {1: Member(instance)}
    mesh._carry_out(1, instance.start(0.0))
    mesh.members[2] = mesh.members[1]
    assert_lives(mesh)


def test_the_last_term_can_be_won_but_not_left() -> None:
    """It is one like the others: peers accept it."""
    mesh = restarted([hard_state(NUMBER_END - 2)], ElectionMode.MANUAL, members=1, quorum=1)
    mesh.promote(1)
    assert mesh[1].raft.is_leader
    assert mesh[1].raft.term == NUMBER_END - 1
    call = mesh.write(1, (1,))
    mesh.settle()
    assert mesh.committed(call)
    assert isinstance(mesh.outcome(mesh.promote(1)), ev.Promoted)
    mesh.demote(1)
    assert mesh.reason(mesh.promote(1)) == "ELECTION_DISABLED"
    mesh.run_for(10)
    assert mesh[1].raft.term == NUMBER_END - 1


@pytest.mark.parametrize("lsn", [NUMBER_END - LSN_RESERVE, NUMBER_END, U64])
@pytest.mark.parametrize("space", [SYNC, ASYNC])
def test_an_instance_without_lsns_is_read_only_and_says_why(lsn: int, space: int) -> None:
    write = row_body.dml_from_values(RowType.REPLACE, ASYNC, value=(1,))
    mesh = restarted([xrow.encode_ops([write], ONE, Lsn(lsn), 0)], ElectionMode.OFF)
    call = mesh.write(1, (2,), space)
    mesh.settle()
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected)
    assert isinstance(outcome.error, ReadOnly)
    assert outcome.error.details["ro_reason"] == "lsn"
    assert mesh.rows(1, ASYNC) == [(1,)]
    assert mesh.reason(mesh.promote(1)) == "ELECTION_DISABLED"
    assert mesh[1].vclock.get(ONE) == lsn
    mesh.promote(2)
    mesh.run_for(3)  # it waits for rows of 1 that cannot come (Raft.R15)
    assert mesh[2].limbo.owner_id == TWO  # the others go on


def test_no_lsn_beyond_the_bound_is_shown() -> None:
    """Another instance's, from before: its rows are here, and this one leads all the same."""
    write = row_body.dml_from_values(RowType.REPLACE, ASYNC, value=(1,))
    log = [xrow.encode_ops([write], InstanceId(3), Lsn(U64), 0)]
    mesh = restarted(log, ElectionMode.MANUAL)
    mesh.crash(3)
    mesh.crash(2)
    mesh.down[2] = list(mesh.members[1].wal)
    mesh.restart(2)
    mesh.step(1, ev.PromoteRequested(mesh.call_id()))
    shown = []
    while mesh.persist(1):
        shown.append(mesh[1].raft.message().vclock)
    assert Vclock({InstanceId(3): Lsn(NUMBER_END - 1)}) in shown
    mesh.settle()
    assert mesh[1].raft.is_leader
    call = mesh.write(1, (1,))
    mesh.settle()
    assert mesh.committed(call)
    assert Vclock({LOCAL: Lsn(4), ONE: Lsn(U64), TWO: Lsn(7)}).shown() == Vclock(
        {ONE: Lsn(NUMBER_END - 1), TWO: Lsn(7)}
    )
