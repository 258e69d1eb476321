"""A few real instances wired by hand: no clock, no network, no disk; a test says what happens and when.

    mesh = Mesh(3)
    mesh.promote(1)
    call = mesh.write(1, (1, "a"))
    mesh.settle()
    assert mesh.committed(call)

`settle` persists and delivers everything until nothing moves. `persist(1)` and `deliver(1, 2)` do one step of
it; `cut(1, 2)` breaks the links between two instances, `crash(1)` and `restart(1)` keep what was persisted.
Rows travel as the bytes of the real encoder.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from synchro.config import ElectionMode, QuorumFormula, Settings
from synchro.errors import SynchroError
from synchro.ids import CallId, InstanceId, RequestId, Term
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance
from synchro.raft.messages import RaftMessage
from synchro.replication.relay_filter import RelayFilter, TxnHead
from synchro.row import Demote, Dml, Field, Promote, RowType, Txn
from synchro.storage import row_body, schema, schema_ops, xrow
from synchro.storage.conditions import Condition
from synchro.storage.ddl import Build
from synchro.storage.memtx import Memtx
from synchro.storage.read_set import Unchanged
from synchro.storage.schema import SpaceDef
from synchro.storage.snapshot import SnapshotMeta
from synchro.storage.system_rows import first_rows
from synchro.vclock import Vclock

SYNC, ASYNC, LOCAL_SPACE = 512, 513, 514
REPLICASET = "11111111-1111-4111-8111-111111111111"
TURNS_MAX = 10_000
"""Of a story that waits for something: far more than any needs."""


def until(condition: Callable[[], object], what: str) -> Iterator[None]:
    """Turns of a loop until the condition holds. It fails where that does not come: `what` says what."""
    for _ in range(TURNS_MAX):
        if condition():
            return
        yield
    raise AssertionError(f"{what}: it did not come in {TURNS_MAX} turns")


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def first_tuples(
    members: int, settings: Settings, *, conflict: str = "stop"
) -> list[tuple[int, Iterable[tuple[Field, ...]]]]:
    """Spaces `sync`, `async` and `local`, and all members registered. conflict: the policy of `async`."""
    memtx = Memtx(settings.limits)

    def run(ops: Sequence[Dml]) -> None:
        for op in ops:
            memtx.commit(memtx.prepare([op]))

    memtx.begin_bulk()
    for space_id, tuples in first_rows(
        replicaset_uuid=REPLICASET, replicaset_name="set", instance_uuid=uuid_of(1), instance_name="i1"
    ):
        memtx.load(space_id, tuples)
    memtx.end_bulk()
    for number in range(2, members + 1):
        row = (number, uuid_of(number), f"i{number}")
        run([row_body.dml_from_values(RowType.REPLACE, schema.CLUSTER_ID, value=row)])
    for name, is_sync, is_local in (("sync", True, False), ("async", False, False), ("local", False, True)):
        policy = conflict if name == "async" else "stop"
        run(schema_ops.create_space(memtx, name, is_sync=is_sync, is_local=is_local, conflict=policy))
        run(schema_ops.create_index(memtx, name, "primary"))
    return memtx.freeze()


@dataclass
class Link:
    """Rows and messages on their way from one instance to another."""

    filter: RelayFilter
    source: InstanceId
    """What the target calls the source."""
    target: InstanceId | None
    """The id of the target; None: it is anonymous, so the core of the source hears nothing of it."""
    position: int = 0
    messages: list[RaftMessage] = field(default_factory=list)
    heartbeat_wanted: bool = False


@dataclass
class Member:
    instance: Instance
    wal: list[Txn] = field(default_factory=list)
    written: int = 0
    """how many transactions of `wal` are synced"""
    raft: RaftMessage | None = None
    stopped: dict[int, SynchroError] = field(default_factory=dict)
    is_stopped: bool = False
    """it has answered `StopRequested`"""
    builds: list[Build] = field(default_factory=list)
    wants_turn: bool = False


class Mesh:
    def __init__(self, members: int = 3, **settings: object) -> None:
        defaults: dict[str, object] = {"election_mode": ElectionMode.OFF}
        self.settings = Settings(**(defaults | settings))  # type: ignore[arg-type]
        self.spaces = first_tuples(members, self.settings)
        self.now = 0.0
        self.outcomes: dict[CallId, ev.Outcome] = {}
        self._calls = 0
        self.members: dict[int, Member] = {}
        self.older: set[int] = set()
        """Members of a version that reads no shared transactions in which calls have no request id, and knows
        no policies for conflicts."""
        self.links: dict[tuple[int, int], Link] = {}
        self._cuts: set[frozenset[int]] = set()
        self.down: dict[int, list[Txn]] = {}
        for number in range(1, members + 1):
            self._start(number, [])
        for number in self.members:
            self._connect_all(number)

    # --- life

    def _start(self, number: int, wal: list[Txn], *, trusted: bool = True) -> None:
        instance = recover_instance(
            uuid=uuid_of(number),
            settings=self.settings,
            meta=SnapshotMeta(replicaset_uuid=REPLICASET),
            spaces=self.spaces,
            txns=wal,
            rng=random.Random(number),
            trusted=trusted,
            now=self.now,
        )
        self.members[number] = Member(instance, list(wal), len(wal))
        self._carry_out(number, instance.start(self.now))

    def crash(self, number: int) -> None:
        """What is not persisted is gone."""
        member = self.members.pop(number)
        self.down[number] = member.wal[: member.written]
        for a, b in list(self.links):
            if number in (a, b):
                self._disconnect(a, b)

    def restart(self, number: int, *, rows: int | None = None, trusted: bool = True) -> None:
        """rows: only so many transactions of its log are left. trusted: it does not know of its loss."""
        self._start(number, self.down.pop(number)[:rows], trusted=trusted)
        self._connect_all(number)

    def _connect_all(self, number: int) -> None:
        for other in self.members:
            if other != number and frozenset((number, other)) not in self._cuts:
                self._connect(number, other)
                self._connect(other, number)

    def _connect(self, source: int, target: int) -> None:
        """`target` subscribes to `source`."""
        if (source, target) in self.links:
            return
        server, client = self[source], self[target]
        own = client.vclock
        self.links[source, target] = Link(
            RelayFilter(
                peer=InstanceId(target),
                id_filter={InstanceId(target)} if client.acks_count else frozenset(),
                subscriber_vclock=own,
            ),
            InstanceId(source),
            InstanceId(target),
            messages=[server.raft.message()],
        )
        following = ev.ApplierFollowing(InstanceId(source), server.vclock, server.raft.term, Vclock())
        self.step(target, following)
        is_new = target not in self.older
        hello = ev.RelayConnected(
            InstanceId(target),
            self.ack_of(target),
            is_new,
            is_new,
            takes_sequences=is_new,
            unwritten=client.unwritten,
        )
        self.step(source, hello)

    def _disconnect(self, source: int, target: int) -> None:
        link = self.links.pop((source, target))
        if source in self.members and link.target is not None:
            self.step(source, ev.RelayLost(link.target))
        if target in self.members:
            self.step(target, ev.ApplierLost(link.source))

    def cut(self, a: int, b: int) -> None:
        self._cuts.add(frozenset((a, b)))
        for pair in ((a, b), (b, a)):
            if pair in self.links:
                self._disconnect(*pair)

    def isolate(self, number: int) -> None:
        for other in list(self.members):
            if other != number:
                self.cut(number, other)

    def join(self, a: int, b: int) -> None:
        self._cuts.discard(frozenset((a, b)))
        self._connect_all(a)
        self._connect_all(b)

    def heal(self) -> None:
        self._cuts.clear()
        for number in self.members:
            self._connect_all(number)

    # --- what happens

    def runs(self, number: int) -> bool:
        """False: its process is alive and does nothing."""
        return number in self.members

    def __getitem__(self, number: int) -> Instance:
        return self.members[number].instance

    def step(self, number: int, event: ev.Event) -> None:
        instance = self[number]
        effects = instance.step(event, self.now)
        instance.check()
        self._carry_out(number, effects)

    def _carry_out(self, number: int, effects: Sequence[ev.Effect]) -> None:
        member = self.members[number]
        for effect in effects:
            match effect:
                case ev.WriteRows(txns=txns):
                    for txn in txns:
                        (copy,) = xrow.decode_txns(bytes(txn.data))
                        assert repr(copy) == repr(txn)
                        member.wal.append(copy)
                case ev.BroadcastRaft(message=message):
                    for (source, _), link in self.links.items():
                        if source == number and link.target is not None:
                            link.messages.append(message)
                case ev.Replies(replies=replies):
                    for call_id, outcome in replies:
                        assert call_id not in self.outcomes
                        if isinstance(outcome, ev.CommittedTogether):
                            outcome = outcome.of(call_id)
                        self.outcomes[call_id] = outcome
                case ev.RequestHeartbeats():
                    for (source, _), link in self.links.items():
                        link.heartbeat_wanted |= source == number and link.target is not None
                case ev.RequestTurn():
                    member.wants_turn = True
                case ev.BuildIndexes(build=build):
                    member.builds.append(build)
                case ev.StopApplier(peer=peer, error=error):
                    member.stopped[peer] = error
                case ev.Stopped():
                    member.is_stopped = True
                case _:
                    pass

    def persist(self, number: int) -> bool:
        """The disk of one instance catches up. False: nothing was waiting."""
        member = self.members[number]
        if member.written == len(member.wal):
            return False
        vclock = member.instance.vclock
        for txn in member.wal[member.written :]:
            for instance, lsn in txn.components():
                vclock = vclock.follow(instance, lsn)
        member.written = len(member.wal)
        self.step(number, ev.RowsWritten(vclock))
        for source, target in list(self.links):
            if target == number:
                self._ack(source, target)
        return True

    def build(self, number: int) -> bool:
        """Indexes that one instance asked for are made. False: it asked for none."""
        member = self.members[number]
        if not member.builds:
            return False
        build = member.builds.pop(0)
        while not build.is_cancelled and not build.advance():
            pass
        if build.is_done:
            self.step(number, ev.IndexesBuilt(build))
        return True

    def _ack(self, source: int, target: int, vclock_sync: int = 0) -> None:
        """`target` tells `source` what it has."""
        ack, link = self.ack_of(target, vclock_sync), self.links[source, target]
        link.filter.acked(ack.vclock, counts=ack.counts)
        if link.target is not None:
            self.step(source, ev.AckReceived(link.target, ack))

    def ack_of(self, number: int, vclock_sync: int = 0) -> ev.Ack:
        instance = self[number]
        raft = instance.raft
        quorum = raft.membership.election_quorum
        return ev.Ack(instance.vclock, raft.term, vclock_sync, instance.acks_count, quorum)

    def deliver(self, source: int, target: int, *, limit: int | None = None) -> bool:
        """Everything that waits on one link arrives, or `limit` transactions of it. False: nothing waited."""
        link = self.links.get((source, target))
        if link is None:
            return False
        moved = bool(link.messages)
        for message in link.messages:
            self.step(target, ev.PeerRaftReceived(link.source, message))
        link.messages = []
        member = self.members[source]
        term = member.instance.raft.term
        rows = self._read(source, target, limit)
        if rows and source not in self.members[target].stopped:
            moved = True
            self.step(target, ev.FrameTermSeen(term))
            self.step(target, ev.TxnsReceived(link.source, rows))
        if link.heartbeat_wanted:
            moved = True
            link.heartbeat_wanted = False
            sync = member.instance.read_barrier.show()
            self.step(target, ev.HeartbeatReceived(link.source, member.instance.vclock))
            self._ack(source, target, sync)
        return moved

    def _read(self, source: int, target: int, limit: int | None) -> list[Txn]:
        """What the relay of this link reads from the log and sends."""
        link, member = self.links[source, target], self.members[source]
        link.filter.term_sent = member.instance.raft.term
        rows: list[Txn] = []
        while link.position < member.written and (limit is None or len(rows) < limit):
            txn = member.wal[link.position]
            body = txn.control
            head = TxnHead(txn.origin, txn.lsn, body.term if isinstance(body, Promote | Demote) else Term(0))
            if link.filter.wants(head):
                link.filter.passed(head)
                rows.append(txn)
                assert not (txn.has_unnamed and target in self.older)
            link.position += 1
        return rows

    def work_alone(self) -> bool:
        """What instances do by themselves, without the network: write, build, take turns. Returns whether
        there was something to do."""
        moved = False
        for number in list(self.members):
            moved |= self.persist(number)
            moved |= self.build(number)
            if self.members[number].wants_turn:
                self.members[number].wants_turn = False
                self.step(number, ev.TurnBegan())
                moved = True
        return moved

    def settle(self) -> None:
        for _ in range(TURNS_MAX):
            moved = self.work_alone()
            for source, target in list(self.links):
                moved |= self.deliver(source, target)
            if not (moved or self._announce()):
                return
        raise AssertionError(f"the set is not at rest after {TURNS_MAX} turns")

    def _announce(self) -> bool:
        """Nothing else moves: a CONFIRM that waits for a row to go with has its time."""
        waiting = [n for n in self.members if self.runs(n) and self[n].limbo.is_announcement_due]
        for number in waiting:
            deadline = self[number].deadline
            assert deadline is not None
            self.now = max(self.now, deadline)
            self.step(number, ev.DeadlineReached())
        return bool(waiting)

    def run_for(self, seconds: float) -> None:
        """Let timers ring and heartbeats flow."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            for (source, target), link in list(self.links.items()):
                if self.runs(source) and self.runs(target):
                    self.step(target, ev.HeartbeatReceived(link.source, self[source].vclock))
            for number in filter(self.runs, list(self.members)):
                deadline = self[number].deadline
                if deadline is not None and deadline <= self.now:
                    self.step(number, ev.DeadlineReached())
            self.settle()

    # --- calls

    def call_id(self) -> CallId:
        self._calls += 1
        return CallId(self._calls)

    def write(
        self,
        number: int,
        value: tuple[Field, ...],
        space: int = SYNC,
        *,
        kind: RowType = RowType.REPLACE,
        request_id: bytes | None = None,
        wait: ev.WaitMode = ev.WaitMode.COMPLETE,
    ) -> CallId:
        op = row_body.dml_from_values(kind, space, value=value)
        return self.write_ops(number, [op], request_id=request_id, wait=wait)

    def write_ops(
        self,
        number: int,
        ops: Sequence[Dml],
        *,
        conditions: Sequence[Condition | Unchanged] = (),
        is_sync: bool = False,
        request_id: bytes | None = None,
        wait: ev.WaitMode = ev.WaitMode.COMPLETE,
        term: Term | None = None,
    ) -> CallId:
        call = self.call_id()
        known = None if request_id is None else RequestId(request_id)
        write = ev.ClientWrite(call, ops, known, None, wait, term, conditions, is_sync)
        self.step(number, ev.ClientWrites([write]))
        return call

    def promote(self, number: int) -> CallId:
        call = self.call_id()
        self.step(number, ev.PromoteRequested(call))
        self.settle()
        return call

    def demote(self, number: int) -> CallId:
        call = self.call_id()
        self.step(number, ev.DemoteRequested(call))
        self.settle()
        return call

    def outcome(self, call: CallId) -> ev.Outcome | None:
        return self.outcomes.get(call)

    def reason(self, call: CallId) -> str:
        outcome = self.outcomes.get(call)
        assert isinstance(outcome, ev.Rejected), outcome
        return outcome.error.reason

    def committed(self, call: CallId) -> bool:
        return isinstance(self.outcomes.get(call), ev.Committed)

    def rows(self, number: int, space: int = SYNC) -> list[tuple[Field, ...]]:
        """Committed tuples."""
        return list(self[number].memtx.select(space))


__all__ = ["ASYNC", "LOCAL_SPACE", "SYNC", "Mesh", "QuorumFormula", "SpaceDef", "schema", "uuid_of"]
