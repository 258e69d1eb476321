"""How far an instance must be to answer a linearizable read of which it asked the owner. [Q-63], ADR 50."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from synchro.errors import RemoteProtocolError
from synchro.ids import CallId, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.replication.read_barrier import Awaited, ReadPosition
from synchro.row import TxnId
from synchro.rpc import peer_codec
from synchro.rpc.generated.peer.v1 import replication_pb2 as peer_pb
from synchro.vclock import Vclock
from tests.mesh import Mesh
from tests.seeds import noting


def position(mesh: Mesh, owner: int) -> ReadPosition:
    """As the owner tells it, after a round of heartbeats."""
    call = mesh.call_id()
    mesh.step(owner, ev.ReadBarrierRequested(call, awaits_queue=False))
    for _ in range(2):
        for peer in mesh.members:
            mesh.deliver(owner, peer)
    assert mesh.outcome(call) == ev.ReadReady()
    return mesh[owner].read_position


def owned_by_1() -> Mesh:
    mesh = Mesh(3)
    mesh.promote(1)
    mesh.settle()
    return mesh


def test_a_follower_waits_for_the_decision_of_what_was_answered() -> None:
    """The row alone is not enough: committed by the owner, it is not shown here before the CONFIRM came."""
    mesh = owned_by_1()
    call = mesh.write(1, (1, "x"))
    mesh.persist(1)
    for number in (2, 3):
        mesh.deliver(1, number)
        mesh.persist(number)
    assert mesh.committed(call)
    wanted = position(mesh, 1)
    assert mesh[2].vclock.covers(wanted.vclock)
    assert not mesh[2].has_reached(wanted) and mesh.rows(2) == []
    assert mesh[2].has_applied(wanted.vclock, is_decided=False)  # what a READ_COMMITTED read waits for
    mesh.settle()
    assert mesh[2].has_reached(wanted) and mesh.rows(2) == [(1, "x")]


def test_what_waits_for_its_quorum_at_the_owner_is_waited_for() -> None:
    """On the disk of the owner: what is not there was told to nobody."""
    mesh = owned_by_1()
    mesh.write(1, (1, "x"))
    mesh.settle()
    pending = mesh.write(1, (2, "y"))
    assert position(mesh, 1).awaited is None
    mesh.persist(1)
    wanted = position(mesh, 1)
    assert not mesh.committed(pending)
    first = mesh[1].limbo.first_lsn
    assert wanted.vclock.get(InstanceId(1)) == first - 1
    assert wanted.awaited == Awaited(TxnId(InstanceId(1), first), Term(2))
    assert mesh[3].has_applied(wanted.vclock) and not mesh[3].has_reached(wanted)
    mesh.settle()
    assert mesh[3].has_reached(wanted) and mesh.rows(3) == [(1, "x"), (2, "y")]


def test_an_owner_of_an_older_version_says_nothing_of_what_waits() -> None:
    mesh = owned_by_1()
    mesh.write(1, (1, "x"))
    mesh.persist(1)
    wanted = position(mesh, 1)
    assert mesh[3].has_reached(ReadPosition(wanted.vclock)) and not mesh[3].has_reached(wanted)


def test_the_next_owner_decides_what_never_came() -> None:
    """The row is on the disk of its owner alone; the decided PROMOTE is its verdict."""
    mesh = owned_by_1()
    mesh.write(1, (1, "x"))
    mesh.persist(1)
    wanted = mesh[1].read_position
    assert wanted.awaited is not None and not mesh[3].has_reached(wanted)
    mesh.crash(1)
    mesh.promote(2)
    mesh.settle()
    assert mesh[3].vclock.get(InstanceId(1)) < wanted.awaited.txn.lsn
    assert mesh[3].has_reached(wanted) and mesh.rows(3) == []


def test_it_passes_the_wire() -> None:
    for awaited in (None, Awaited(TxnId(InstanceId(2), Lsn(9)), Term(4))):
        told = ReadPosition(Vclock({InstanceId(2): Lsn(7)}), awaited)
        sent = peer_codec.read_position_message(told).SerializeToString()
        assert peer_codec.read_position_from(peer_pb.GetReadPositionResponse.FromString(sent)) == told
    broken = peer_pb.GetReadPositionResponse(awaited=peer_pb.Awaited(origin=77, lsn=1, queue_term=1))
    with pytest.raises(RemoteProtocolError):
        peer_codec.read_position_from(broken)


def test_a_later_owner_s_position_covers_what_the_former_one_answered() -> None:
    mesh = owned_by_1()
    mesh.cut(1, 3)
    mesh.cut(2, 3)
    call = mesh.write(1, (1, "x"))
    mesh.settle()
    assert mesh.committed(call)
    mesh.crash(1)
    mesh.join(2, 3)
    mesh.promote(2)
    wanted = position(mesh, 2)
    mesh.settle()
    assert mesh[3].has_reached(wanted) and mesh.rows(3) == [(1, "x")]


# --- any order of things ------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A read at `reader` of which `owner` was asked. answered: keys that clients knew of before. waited: what
    stood in the owner's queue and on its disk."""

    reader: int
    owner: int
    call: CallId
    answered: frozenset[int]
    waited: tuple[TxnId, ...]
    wanted: ReadPosition | None = None


class Schedule:
    """Instances write, promote, lose links and messages in any order; each read shows what was answered
    before."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.mesh = owned_by_1()
        self.writes: dict[CallId, int] = {}
        self.reads: list[Asked] = []
        self.seen: Counter[str] = Counter()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.look()
        self.mesh.heal()
        self.mesh.settle()
        self.look()

    def step(self) -> None:
        mesh, rng = self.mesh, self.rng
        one, other = rng.sample([1, 2, 3], 2)
        match rng.choices(["write", "persist", "deliver", "ask", "promote", "cut", "join"], WEIGHTS)[0]:
            case "write":
                key = len(self.writes) + 1
                self.writes[mesh.write(one, (key, "x"))] = key
            case "persist":
                mesh.persist(one)
            case "deliver":
                mesh.deliver(one, other, limit=rng.choice([None, 1]))
            case "ask":
                owner = int(mesh[one].limbo.owner_id)
                if owner not in (0, one):
                    answered = frozenset(key for call, key in self.writes.items() if mesh.committed(call))
                    queue = mesh[owner].limbo.entries
                    waited = tuple(TxnId(entry.origin, entry.lsn) for entry in queue if entry.is_written)
                    read = Asked(one, owner, mesh.call_id(), answered, waited)
                    self.reads.append(read)
                    mesh.step(owner, ev.ReadBarrierRequested(read.call, awaits_queue=False))
            case "promote":
                mesh.step(one, ev.PromoteRequested(mesh.call_id()))
            case "cut":
                mesh.cut(one, other)
            case "join":
                mesh.join(one, other)

    def look(self) -> None:
        mesh = self.mesh
        for read in list(self.reads):
            if read.wanted is None and mesh.outcome(read.call) == ev.ReadReady():
                read.wanted = mesh[read.owner].read_position
                self.seen["told"] += 1
                self.seen["not there yet"] += not mesh[read.reader].has_reached(read.wanted)
                self.seen["waits for a verdict"] += read.wanted.awaited is not None
            elif mesh.outcome(read.call) is not None and read.wanted is None:
                self.seen["refused"] += 1
                self.reads.remove(read)
            if read.wanted is not None and mesh[read.reader].has_reached(read.wanted):
                shown = {row[0] for row in mesh.rows(read.reader)}
                assert read.answered <= shown, (read, shown)
                assert all(mesh[read.reader].undecided(txn, None) is None for txn in read.waited), read
                self.seen["read"] += 1
                self.seen["of a later owner"] += mesh[read.owner].limbo.term > 2
                self.reads.remove(read)


KINDS = ("read", "not there yet", "waits for a verdict", "refused", "of a later owner")
WEIGHTS = (3, 8, 14, 3, 0.25, 0.3, 1.5)


def test_in_any_order_a_read_shows_what_was_answered_before() -> None:
    """S13: with owners that change, links that break, and rows that come one by one."""
    seen: Counter[str] = Counter()
    for seed in range(60):
        schedule = Schedule(seed)
        with noting(seed):
            schedule.run(150)
        seen.update(schedule.seen)
    assert min(seen[what] for what in KINDS) > 20, seen
