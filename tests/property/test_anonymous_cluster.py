"""A set of whole instances and an anonymous follower, driven by chance: it has no say until the decided row
that gives it an id is in its own log, and from that step on it is a member like others (S24, ADR 45).

The follower takes rows from whoever it likes, crashes, is asked for votes, and is registered at some moment.
What was committed stays, and no term has two leaders (S1, S3), before and after.
"""

from __future__ import annotations

import random

import pytest

from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.instance.recovery import recover_instance
from synchro.queue.limbo import QueueState
from synchro.raft.messages import RaftMessage, Role
from synchro.row import Dml, Txn
from synchro.storage.schema import CLUSTER_ID
from synchro.storage.snapshot import SnapshotMeta
from synchro.vclock import Vclock
from tests.mesh import REPLICASET, Member, uuid_of
from tests.property.test_expel_cluster import World
from tests.seeds import noting

STEPS = 300


class Followed(World):
    """number: the id that the follower will get, if it does."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.number = self.size + 1
        self.wal: list[Txn] = []
        self.written = 0
        self.is_member = False
        self.start_follower()

    def go(self) -> None:
        actions = [
            (self.persist, 30),
            (self.deliver, 40),
            (self.write, 10),
            (self.cut, 4),
            (self.join, 5),
            (self.crash, 2),
            (self.restart, 4),
            (self.promote, 5),
            (self.pass_time, 3),
            (self.pull, 20),
            (self.persist_follower, 12),
            (self.crash_follower, 2),
            (self.ask_for_a_vote, 3),
            (self.register, 1),
        ]
        for _ in range(STEPS):
            self.rng.choices([a for a, _ in actions], [weight for _, weight in actions])[0]()
            self.look()

    # --- the follower

    def start_follower(self) -> None:
        del self.wal[self.written :]
        self.follower = recover_instance(
            uuid=uuid_of(self.number),
            settings=self.mesh.settings,
            meta=SnapshotMeta(replicaset_uuid=REPLICASET),
            spaces=self.mesh.spaces,
            txns=list(self.wal),
            rng=random.Random(self.number),
            trusted=True,
            now=self.mesh.now,
        )
        self.carry_out(self.follower.start(self.mesh.now))
        self.handed: dict[int, int] = {}
        if not self.follower.is_anonymous:
            self.join_members()

    def step(self, event: ev.Event) -> None:
        effects = self.follower.step(event, self.mesh.now)
        self.follower.check()
        self.carry_out(effects)

    def carry_out(self, effects: list[ev.Effect]) -> None:
        became = None
        for effect in effects:
            assert not isinstance(effect, ev.StopApplier), effect
            if isinstance(effect, ev.WriteRows):
                self.wal += effect.txns
            elif isinstance(effect, ev.BecameMember):
                became = effect.id
        if became is not None:
            assert became == self.number
            self.join_members()

    def join_members(self) -> None:
        """S24: in the step in which its row is decided and on its own disk."""
        rows = [row.body for txn in self.wal[: self.written] for row in txn.rows]
        assert any(isinstance(op, Dml) and op.space_id == CLUSTER_ID and op.value for op in rows)
        assert self.number in self.follower.memtx.catalog.members()
        self.is_member = True
        self.mesh.members[self.number] = Member(self.follower, self.wal, self.written)
        self.mesh._connect_all(self.number)

    def pull(self) -> None:
        """A few of the next rows of somebody."""
        if self.is_member:
            return
        source = self.someone()
        member = self.mesh.members[source]
        self.step(ev.FrameTermSeen(member.instance.raft.term))
        rows: list[Txn] = []
        for txn in member.wal[: member.written]:
            known = max(self.handed.get(txn.origin, 0), self.follower.vclock.get(txn.origin))
            if txn.origin != LOCAL and txn.lsn > known and len(rows) < 5:
                self.handed[txn.origin] = txn.lsn
                rows.append(txn)
        self.step(ev.TxnsReceived(InstanceId(source), rows))

    def persist_follower(self) -> None:
        if self.is_member or self.written == len(self.wal):
            return
        vclock: Vclock = self.follower.vclock
        for txn in self.wal[self.written :]:
            for origin, lsn in txn.components():
                vclock = vclock.follow(origin, lsn)
        self.written = len(self.wal)
        self.step(ev.RowsWritten(vclock))

    def crash_follower(self) -> None:
        if not self.is_member:
            self.start_follower()

    def ask_for_a_vote(self) -> None:
        if not self.is_member:
            term = Term(self.follower.raft.volatile_term + 1)
            much = Vclock({InstanceId(1): Lsn(9999)})
            asked = RaftMessage(term, InstanceId(1), Role.CANDIDATE, NOBODY, False, much)
            self.step(ev.PeerRaftReceived(InstanceId(1), asked))

    def register(self) -> None:
        number = self._writer()
        if number is not None and not self.is_member:
            event = ev.RegisterRequested(
                self.mesh.call_id(), uuid_of(self.number), f"i{self.number}", must_be_new=True
            )
            self.mesh.step(number, event)

    # --- what must hold

    def look(self) -> None:
        super().look()
        if self.is_member:
            return
        raft, limbo = self.follower.raft, self.follower.limbo
        assert self.follower.is_anonymous and not self.follower.is_writable
        assert (raft.vote, raft.volatile_vote, raft.role) == (NOBODY, NOBODY, Role.FOLLOWER)
        assert limbo.state is not QueueState.LEADER
        for member in self.mesh.members.values():
            assert self.number not in member.instance.raft.healthy

    def catch_up(self) -> None:
        """It follows the owner to the end."""
        for _ in range(200):
            self.pull()
            self.persist_follower()
        if self.is_member:
            self.mesh.settle()

    def judge(self) -> None:
        self.catch_up()
        owner = next(n for n in self.mesh.members if self.mesh[n].is_writable)
        if not self.is_member:
            rows = list(self.follower.memtx.select(512))
            assert rows == self.mesh.rows(owner)
        if self.number in self.mesh[owner].registered:
            self.size += 1
            assert self.is_member
        super().judge()


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_a_follower_has_no_say_until_its_row_is_decided(first: int) -> None:
    members = 0
    for seed in range(first, first + 10):
        world = Followed(seed)
        with noting(seed):
            world.go()
            world.heal()
            world.judge()
        members += world.is_member
    assert 0 < members < 10, "some become members, some do not"
