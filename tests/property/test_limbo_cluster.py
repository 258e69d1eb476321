"""Three limbos with logs of their own, driven by chance: rows, acks, votes, crashes in any order.

What is asserted is what clients and operators rely on: what a CONFIRM covered is never rolled back
anywhere, all instances decide the same history, and a majority quorum never sees split brain
(S3, S5, S9, S16; ADR 1, ADR 2). The limbos are the real ones; everything around them is a list.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn, Term
from synchro.queue.effects import EntriesCommitted, EntriesRolledBack, LimboEffect, OwnerChanged, WriteControl
from synchro.queue.entry import LimboEntry
from synchro.queue.limbo import Limbo
from synchro.queue.promotion import PendingPromote
from synchro.queue.request_filter import DataVerdict
from synchro.queue.state import LimboState, QueueState
from synchro.row import Confirm, Demote, Promote
from synchro.vclock import EMPTY_VCLOCK, Vclock

IDS = (InstanceId(1), InstanceId(2), InstanceId(3))
QUORUM = 2


@dataclass(frozen=True)
class Data:
    """A data transaction; `name` is unique in a run, so that re-used LSNs of a crash are told apart."""

    name: int
    wait_ack: bool
    is_nop: bool = False
    is_local: bool = False


Body = Data | Confirm | Promote | Demote


@dataclass(frozen=True)
class LogRow:
    origin: InstanceId
    lsn: Lsn
    body: Body


class Entry(LimboEntry):
    __slots__ = ("data",)

    def __init__(self, origin: InstanceId, lsn: Lsn, data: Data) -> None:
        super().__init__(origin, lsn, data.wait_ack, 1, 0.0)
        self.data = data


@dataclass(frozen=True)
class Snapshot:
    state: LimboState
    vclock: Vclock
    decided: tuple[PendingPromote, ...]


@dataclass
class Ledger:
    """What all instances together have decided; contradictions fail at once."""

    fates: dict[int, str] = field(default_factory=dict)
    history: list[PendingPromote] = field(default_factory=list)
    writers: dict[Term, InstanceId] = field(default_factory=dict)
    confirms: int = 0

    def decide(self, name: int, fate: str, by: object) -> None:
        known = self.fates.setdefault(name, fate)
        assert known == fate, f"transaction {name} was {known}, now {fate} on {by}"


class Node:
    """One instance: a limbo, its log (`wal` is synced, `disk` is on its way) and its raft terms."""

    def __init__(self, self_id: InstanceId, ledger: Ledger) -> None:
        self.self_id = self_id
        self.ledger = ledger
        self.wal: list[LogRow] = []
        self.term = Term(1)
        self.snapshot = Snapshot(LimboState(), EMPTY_VCLOCK, ())
        self.restart()

    def take_snapshot(self) -> None:
        """[L-12]: state and vclock of one instant; the vclock ends before the first undecided row."""
        prefix = self.limbo.committed_prefix(self.written, lambda entry: [(entry.origin, entry.lsn)])
        self.snapshot = Snapshot(self.limbo.snapshot_state(), prefix, tuple(self.decided))

    def restart(self) -> None:
        """Crash and recovery: what was not synced is lost, the term is kept [Q-70..73]."""
        self.disk: list[LogRow] = []
        self.is_leader = False
        self.limbo = Limbo(self_id=self.self_id, registered=frozenset(IDS), quorum=QUORUM, max_size=0)
        self.limbo.restore(self.snapshot.state)
        self.written = self.assigned = self.snapshot.vclock
        self.decided = list(self.snapshot.decided)
        for row in self.wal:
            if row.lsn <= self.written.get(row.origin):
                continue
            self.written = self.assigned = self.written.follow(row.origin, row.lsn)
            self._prepare(row)
            if not isinstance(row.body, Data):
                self._run(self.limbo.control_written(row.origin, row.lsn, row.body, 0.0))
        self._run(self.limbo.recovery_finished(0.0))
        self._run(self.limbo.written(self.written, 0.0))
        self.tell_raft()

    # --- raft, by hand

    def tell_raft(self) -> None:
        self._run(
            self.limbo.raft_changed(
                volatile_term=self.term, persisted_term=self.term, is_leader=self.is_leader, now=0.0
            )
        )

    def see_term(self, term: Term) -> None:
        if term > self.term:
            self.term, self.is_leader = term, False
            self.tell_raft()

    # --- rows

    def announce(self) -> None:
        """ADR 11: ahead of the next own row, or when none comes for a while."""
        body = self.limbo.announce()
        if body is not None:
            self._append(LogRow(self.self_id, Lsn(self.assigned.get(self.self_id) + 1), body))

    def write(self, data: Data) -> None:
        self.announce()
        origin = LOCAL if data.is_local else self.self_id
        self._append(LogRow(origin, Lsn(self.assigned.get(origin) + 1), data))

    def _append(self, row: LogRow) -> None:
        self.assigned = self.assigned.follow(row.origin, row.lsn)
        self.disk.append(row)
        self._prepare(row)

    def _prepare(self, row: LogRow) -> None:
        if isinstance(row.body, Data) and not row.body.is_nop:
            if row.body.is_local and not self.limbo.must_wait():
                return
            self.limbo.submit(Entry(row.origin, row.lsn, row.body))

    def sync(self, count: int) -> None:
        """The disk has the next `count` rows."""
        rows, self.disk = self.disk[:count], self.disk[count:]
        for row in rows:
            self.written = self.written.follow(row.origin, row.lsn)
        self.wal += rows
        self._run(self.limbo.written(self.written, 0.0))
        for row in rows:
            if not isinstance(row.body, Data):
                self._run(self.limbo.control_written(row.origin, row.lsn, row.body, 0.0))

    def cut_back(self) -> None:
        """No room on the disk: only where no PROMOTE is on its way, that would end the process."""
        if any(isinstance(row.body, Promote | Demote) for row in self.disk):
            return
        self.disk = []
        self.assigned = self.written
        self.limbo.cut_back()

    @property
    def is_blocked(self) -> bool:
        """A row on its way to disk may change what the next one means."""
        return any(
            not isinstance(row.body, Data) and self.limbo.is_barrier(row.origin, row.body)
            for row in self.disk
        )

    def receive(self, row: LogRow) -> None:
        body = row.body
        if isinstance(body, Data):
            verdict = self.limbo.filter_data(row.origin, wait_sync=True, is_nop=body.is_nop)
            if verdict is DataVerdict.NOP:
                self.ledger.decide(body.name, "dropped", self.self_id)
                row = LogRow(row.origin, row.lsn, Data(body.name, body.wait_ack, is_nop=True))
        else:
            self.limbo.filter_control(row.origin, row.lsn, body)
        self._append(row)

    def _run(self, effects: list[LimboEffect]) -> None:
        for effect in effects:
            match effect:
                case WriteControl(body):
                    lsn = Lsn(self.assigned.get(self.self_id) + 1)
                    if isinstance(body, Promote | Demote):
                        assert self.ledger.writers.setdefault(body.term, self.self_id) == self.self_id  # S9
                    self._append(LogRow(self.self_id, lsn, body))
                    self.limbo.control_sent(body, lsn)
                case EntriesCommitted(entries):
                    for entry in entries:
                        assert isinstance(entry, Entry)
                        self.ledger.decide(entry.data.name, "committed", self.self_id)
                        self.ledger.confirms += 1
                case EntriesRolledBack(entries):
                    for entry in entries:
                        assert isinstance(entry, Entry)
                        self.ledger.decide(entry.data.name, "dropped", self.self_id)
                case OwnerChanged(decided=decided):
                    self.decided += decided
                    history = self.ledger.history
                    shared = min(len(history), len(self.decided))
                    assert history[:shared] == self.decided[:shared], (history, self.decided)
                    history += self.decided[shared:]


class Cluster:
    """Chooses what happens next. Acks and votes travel as values that were true when they were sent."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.ledger = Ledger()
        self.nodes = {i: Node(i, self.ledger) for i in IDS}
        self.acks: list[tuple[InstanceId, InstanceId, Vclock, Term]] = []
        self.names = 0
        self.top_term = 1
        self.storm = 0.0
        self.is_cut: set[tuple[InstanceId, InstanceId]] = set()

    def pair(self) -> tuple[Node, Node]:
        source, target = self.rng.sample(IDS, 2)
        return self.nodes[source], self.nodes[target]

    def begin(self) -> None:
        """Most runs begin with an owner that serves; `storm`: how often elections come in this run."""
        self.storm = self.rng.choice([0.01, 0.03, 0.08])
        if self.rng.random() < 0.8:
            self.elect(self.nodes[self.rng.choice(IDS)], 0.0)
            for _ in range(3):
                self.exchange()

    def step(self) -> None:
        rng = self.rng
        if rng.random() < self.storm:
            self.disturb(rng.random())
            return
        roll = rng.random()
        if roll < 0.40:
            self.deliver_rows(*self.pair(), rng.randint(1, 6))
        elif roll < 0.55:
            self.send_ack(*self.pair())
        elif roll < 0.70:
            if self.acks:
                self.deliver_ack(self.acks.pop(rng.randrange(len(self.acks))))
        elif roll < 0.85:
            node = self.nodes[rng.choice(IDS)]
            if rng.random() < 0.3:
                node.announce()
            node.sync(rng.randint(1, 6))
        else:
            for node in self.nodes.values():
                self.client_write(node)

    def disturb(self, roll: float) -> None:
        node = self.nodes[self.rng.choice(IDS)]
        if roll < 0.35:
            self.elect(node, self.rng.random())
        elif roll < 0.45:
            self.demote(node)
        elif roll < 0.53:
            node.restart()
        elif roll < 0.60:
            node.take_snapshot()
        elif roll < 0.68:
            node.cut_back()
        elif roll < 0.84:
            leaders = [n for n in self.nodes.values() if n.limbo.state is QueueState.LEADER]
            self.isolate(self.rng.choice(leaders) if leaders else node)
        elif roll < 0.88:
            source, target = self.rng.sample(IDS, 2)
            self.is_cut.add((source, target))
        else:
            self.is_cut.clear()

    def isolate(self, node: Node) -> None:
        """The rest elects somebody, and often gets far, while the node's disk has its last rows to write:
        among them a CONFIRM that a quorum justified, and that comes late everywhere."""
        rest = [other for other in self.nodes.values() if other is not node]
        for other in rest:
            self.deliver_rows(node, other, 10)
            other.sync(self.rng.randint(0, 10))
            self.deliver_ack((other.self_id, node.self_id, other.written, other.term))
        for other in rest:
            self.is_cut |= {(node.self_id, other.self_id), (other.self_id, node.self_id)}
        self.elect(self.rng.choice(rest), 0.0)
        for _ in range(self.rng.randint(0, 3)):
            self.exchange()

    def deliver_rows(self, source: Node, target: Node, count: int) -> None:
        """A relay: synced rows in log order, each behind the sender's term [L-26]."""
        if (source.self_id, target.self_id) in self.is_cut:
            return
        target.see_term(source.term)
        for row in source.wal:
            if count == 0 or target.is_blocked:
                return
            if row.origin == LOCAL or row.origin == target.self_id:
                continue
            if row.lsn > target.assigned.get(row.origin):
                target.receive(row)
                count -= 1

    def send_ack(self, source: Node, target: Node) -> None:
        if (source.self_id, target.self_id) not in self.is_cut:
            self.acks.append((source.self_id, target.self_id, source.written, source.term))

    def deliver_ack(self, ack: tuple[InstanceId, InstanceId, Vclock, Term]) -> None:
        source, target, vclock, term = ack
        node = self.nodes[target]
        node.see_term(term)  # [L-5]
        node._run(node.limbo.ack(source, vclock, 0.0))

    def client_write(self, node: Node) -> None:
        self.names += 1
        if self.rng.random() < 0.15:
            if not node.is_blocked:
                node.write(Data(self.names, wait_ack=False, is_local=True))
        elif node.limbo.state is QueueState.LEADER:
            node.limbo.check_submit(is_fully_local=False)
            is_sync = not node.limbo.must_wait() or self.rng.random() < 0.5
            node.write(Data(self.names, wait_ack=is_sync))

    def elect(self, candidate: Node, luck: float) -> None:
        """[E-15], [E-16]: a term has one candidate here; voters adopt it even where they refuse."""
        self.top_term += 1
        candidate.see_term(Term(self.top_term))
        votes = 1
        for voter in self.nodes.values():
            if voter is candidate or self.rng.random() < luck * 0.7:
                continue
            if {(voter.self_id, candidate.self_id), (candidate.self_id, voter.self_id)} & self.is_cut:
                continue
            voter.see_term(candidate.term)
            votes += candidate.written.without_local().covers(voter.written.without_local())
        if votes >= QUORUM:
            candidate.is_leader = True
            candidate.tell_raft()

    def demote(self, node: Node) -> None:
        """Elections off [P-31]: the owner bumps the term and stays leader. A bump needs no vote, so the
        new term must be one that nobody else can get."""
        if node.limbo.state is QueueState.LEADER and node.term == self.top_term:
            node._run(node.limbo.request_demote(0.0))
            self.top_term += 1
            node.term = Term(self.top_term)
            node.tell_raft()

    def settle(self) -> None:
        """All links heal; somebody with everything is elected; then nothing may stay undecided."""
        self.is_cut.clear()
        for _ in range(3):
            self.exchange()
        for node in self.nodes.values():
            if not node.is_leader or node.limbo.state is not QueueState.LEADER:
                self.elect(node, 0.0)
                break
        for _ in range(8):
            self.exchange()

    def exchange(self) -> None:
        for source in self.nodes.values():
            source.announce()
            source.sync(len(source.disk))
            for target in self.nodes.values():
                if source is not target:
                    for _ in range(10_000):
                        before = target.assigned
                        self.deliver_rows(source, target, 1000)
                        target.sync(len(target.disk))
                        if target.assigned == before:
                            break
                    self.send_ack(target, source)
        while self.acks:
            self.deliver_ack(self.acks.pop())
        for node in self.nodes.values():
            node._run(node.limbo.advance(0.0))

    def check(self) -> None:
        for node in self.nodes.values():
            node.limbo.check()


def run(seed: int, steps: int, *, checked: bool) -> Cluster:
    cluster = Cluster(seed)
    try:
        cluster.begin()
        for _ in range(steps):
            cluster.step()
            if checked:
                cluster.check()
        cluster.settle()
        cluster.check()
        histories = {tuple(node.decided) for node in cluster.nodes.values()}
        assert len(histories) == 1, histories
        for node in cluster.nodes.values():
            assert len(node.limbo) == 0
            assert not node.limbo.is_busy
        assert len({node.written.without_local() for node in cluster.nodes.values()}) == 1
    except Exception as error:
        raise AssertionError(f"seed {seed}, {steps} steps: {error!r}") from error
    return cluster


def test_confirmed_is_never_lost_and_histories_agree() -> None:
    """S3, S5, S9, S16 in 1,200 random runs. Replay one with `run(seed, steps, checked=True)`."""
    committed = decided = dropped = 0
    for seed in range(1200):
        cluster = run(seed, 80 + seed % 80, checked=seed % 8 == 0)
        fates = list(cluster.ledger.fates.values())
        committed += fates.count("committed")
        dropped += fates.count("dropped")
        decided += len(cluster.ledger.history)
    # The runs must be about something: else a model that never elects anybody would pass.
    assert committed > 1200 and dropped > 100 and decided > 1200, (committed, dropped, decided)


@pytest.mark.parametrize("seed", range(5))
def test_long_runs(seed: int) -> None:
    """The same, long: terms and re-elections pile up."""
    cluster = run(1_000_000 + seed, 2000, checked=False)
    assert len(cluster.ledger.history) > 3
    assert NOBODY not in cluster.ledger.writers.values()
