"""An instance without an id, and the moment at which it gets one [M-6], [M-30], ADR 45, S24."""

from __future__ import annotations

import random

import pytest

from synchro.errors import IllegalParams, Unsupported
from synchro.ids import ANONYMOUS, LOCAL, NOBODY, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance
from synchro.raft import messages as raft_ev
from synchro.raft.messages import RaftMessage, Role
from synchro.replication.admission import check_serves_members
from synchro.row import FLAG_COMMIT, GROUP_LOCAL, RaftState, Row, RowType, Txn
from synchro.storage import xrow
from synchro.storage.snapshot import SnapshotMeta
from synchro.vclock import Vclock
from tests.mesh import REPLICASET, Mesh, uuid_of


def follower(
    mesh: Mesh, txns: list[Txn] | None = None, *, trusted: bool = True, vote: InstanceId = NOBODY
) -> Instance:
    """Instance 9, which has what the set began with, and `txns` in its log. vote: in its snapshot."""
    instance = recover_instance(
        uuid=uuid_of(9),
        settings=mesh.settings,
        meta=SnapshotMeta(replicaset_uuid=REPLICASET, vote=vote),
        spaces=mesh.spaces,
        txns=txns or (),
        rng=random.Random(9),
        trusted=trusted,
        now=mesh.now,
    )
    instance.start(mesh.now)
    return instance


def registered(mesh: Mesh) -> list[Txn]:
    """The log of instance 1 with the decided row of instance 9."""
    call = mesh.call_id()
    mesh.step(1, ev.RegisterRequested(call, uuid_of(9), "i9", must_be_new=True))
    mesh.settle()
    assert isinstance(mesh.outcome(call), ev.Registered), mesh.outcome(call)
    return mesh.members[1].wal


def test_a_candidate_that_asks_it_gets_nothing() -> None:
    """S24, Raft.R14: neither in raft itself, nor by way of the core, which drops what it is told."""
    mesh = Mesh(3)
    instance = follower(mesh)
    asked = RaftMessage(
        Term(7), InstanceId(1), Role.CANDIDATE, NOBODY, False, Vclock({InstanceId(1): Lsn(99)})
    )
    assert instance.step(ev.PeerRaftReceived(InstanceId(1), asked), mesh.now) == []
    instance.raft.step(raft_ev.RaftMessageReceived(InstanceId(1), asked), mesh.now)
    instance.raft.step(raft_ev.HardStatePersisted(Term(7), NOBODY, instance.vclock), mesh.now)
    assert (instance.raft.term, instance.raft.volatile_vote) == (7, NOBODY)
    instance.check()


def test_it_is_known_to_nobody_by_the_number_that_it_has_inside() -> None:
    """[I-2], [I-4]"""
    instance = follower(Mesh(3))
    assert (instance.self_id, instance.number, instance.is_anonymous) == (ANONYMOUS, NOBODY, True)
    assert ANONYMOUS not in instance.registered
    with pytest.raises(Unsupported, match="name a member of the set as source"):
        check_serves_members(instance.is_anonymous)
    check_serves_members(is_anonymous=False)


def test_all_parts_get_the_id_in_one_step() -> None:
    """[M-30]: with the row that is decided; an asynchronous one is as soon as it is on disk."""
    mesh = Mesh(2)
    log = registered(mesh)
    instance = follower(mesh)
    effects = instance.step(ev.TxnsReceived(InstanceId(1), log), mesh.now)
    assert instance.is_anonymous  # it is on its way to the disk
    assert not any(isinstance(effect, ev.BecameMember) for effect in effects)
    effects = instance.step(ev.RowsWritten(Vclock({log[-1].origin: log[-1].lsn})), mesh.now)
    instance.check()
    assert ev.BecameMember(InstanceId(3)) in effects
    parts = (instance.self_id, instance.raft.self_id, instance.limbo.self_id)
    assert parts == (3, 3, 3)
    assert instance.limbo.holders(log[-1].origin, log[-1].lsn) >= {InstanceId(3)}


def test_a_recovery_goes_the_same_way() -> None:
    """Its snapshot is of its anonymous time, its log of later."""
    mesh = Mesh(2)
    instance = follower(mesh, registered(mesh))
    instance.check()
    assert (instance.self_id, instance.raft.self_id, instance.limbo.self_id) == (3, 3, 3)


def test_who_was_a_member_is_not_taken_for_an_anonymous_instance() -> None:
    """S24: a version without `expelled.ID` removed it. As anonymous it would be registered anew, with a vote
    under another id, and end in the step in which that row comes, at each start."""
    mesh = Mesh(2)
    with pytest.raises(IllegalParams, match="was a member"):
        follower(mesh, vote=InstanceId(1))
    voted = xrow.encode_txn(
        [
            Row(
                RowType.RAFT,
                LOCAL,
                Lsn(1),
                Lsn(1),
                FLAG_COMMIT,
                RaftState(Term(2), InstanceId(1)),
                GROUP_LOCAL,
            )
        ]
    )
    with pytest.raises(IllegalParams, match="was a member"):
        follower(mesh, [voted])


def test_a_log_that_lost_something_counts_for_nothing_afterwards_either() -> None:
    """S14: it may have been a member before, with acks and votes behind the row that registered it."""
    mesh = Mesh(2)
    instance = follower(mesh, trusted=False)
    log = registered(mesh)
    instance.step(ev.TxnsReceived(InstanceId(1), log), mesh.now)
    instance.step(ev.RowsWritten(Vclock({log[-1].origin: log[-1].lsn})), mesh.now)
    assert instance.self_id == 3
    assert not instance.acks_count and not instance.raft.trusted


def test_the_name_of_a_member_is_not_taken_over() -> None:
    """[M-25] is for who joins: a follower has rows, and knows nothing of the former life of that name."""
    mesh = Mesh(3)
    mesh.crash(3)
    for must_be_new in (True, False):
        call = mesh.call_id()
        mesh.step(1, ev.RegisterRequested(call, uuid_of(9), "i3", must_be_new))
        mesh.settle()
        outcome = mesh.outcome(call)
        if must_be_new:
            assert isinstance(outcome, ev.Rejected) and "Duplicate replica name i3" in outcome.error.message
        else:
            assert isinstance(outcome, ev.Registered)


def test_asked_twice_it_is_told_the_same_id() -> None:
    """The first answer may have been lost."""
    mesh = Mesh(2)
    registered(mesh)
    rows = len(mesh.members[1].wal)
    registered(mesh)
    assert len(mesh.members[1].wal) == rows
