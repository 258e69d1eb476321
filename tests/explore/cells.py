"""One instance with its log, as a value: each is known by a number, and each step of each is made once.

What an instance does depends on itself and the event alone. Most states of a set are other meetings of
instances that were seen before, so most steps are looked up. What one instance can show by itself to be wrong
is checked here, when its step is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from synchro.ids import NOBODY
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance
from synchro.queue.limbo import QueueState
from synchro.raft.messages import RaftMessage
from synchro.row import Confirm, Dml, Txn
from synchro.storage import xrow
from synchro.storage.snapshot import SnapshotMeta
from synchro.vclock import EMPTY_VCLOCK, Vclock
from tests.explore.copies import EVEN, digest, freeze, thaw
from tests.explore.facts import Fact, FateOf, Kind, Violation
from tests.explore.start import Start
from tests.mesh import REPLICASET, SYNC, first_tuples, uuid_of
from tests.sim.model import LogModel, change

WRITES_MAX = 2
"""Write number n puts a tuple with the key n; its call id is n too."""
TURNS_MAX = 100
"""An instance that has more to do at once than that never comes to rest."""


class Cell(NamedTuple):
    """image: the frozen instance, None while it is down. log: what it asked to write; `written` transactions
    of it are on disk. now: its clock."""

    start: Start
    number: int
    image: bytes | None
    log: tuple[Txn, ...]
    written: int
    now: float


@dataclass(slots=True)
class Face:
    """What the others, and the one who explores, see of a cell. facts: what it shows to be so (checks)."""

    is_up: bool
    vclock: Vclock
    """Of what is on its disk."""
    facts: frozenset[Fact]
    ack: ev.Ack | None = None
    message: RaftMessage | None = None
    term: int = 0
    volatile_term: int = 0
    is_writable: bool = False
    is_promoting: bool = False
    deadline: float | None = None
    must_announce: bool = False
    is_patient: bool = False
    """It is elected, and waits for what writers wrote before they heard of it (Raft.R15)."""
    has_unsynced: bool = False
    has_pending_promote: bool = False
    queue: tuple[int, int, int] = (0, 0, 0)
    """Term, owner, and what is confirmed."""


class Step(NamedTuple):
    """cell: after it. shows: the last Raft message that it sent. facts: what it said in between."""

    cell: int
    shows: RaftMessage | None = None
    facts: tuple[Fact, ...] = ()


@dataclass
class _Doing:
    """An instance while it makes one step."""

    cell: Cell
    instance: Instance
    log: list[Txn]
    written: int
    now: float
    shows: RaftMessage | None = None
    wants_turn: bool = False
    facts: list[Fact] = field(default_factory=list)


class Cells:
    def __init__(self) -> None:
        self.all: list[Cell] = []
        self.faces: list[Face] = []
        self.made = 0
        """Steps that were not known."""
        self._numbers: dict[bytes, int] = {}
        self._steps: dict[tuple[int, Hashable], Step] = {}

    def first(self, start: Start, number: int) -> int:
        """An instance of a new set, before anybody follows it."""
        return self._live(Cell(start, number, None, (), 0, 0.0)).cell

    def step(self, cell: int, name: Hashable, events: Sequence[ev.Event] = ()) -> Step:
        """What becomes of it by `events`, or, without any, by what the name says: `timer` or `disk`.

        name: equal only if the events are. Raises `Violation`.
        """
        known = self._steps.get((cell, name))
        if known is None:
            known = self._steps[cell, name] = self._make(self.all[cell], name, events)
            self.made += 1
        return known

    def crash(self, cell: int, *, keeps_all: bool) -> int:
        """keeps_all: what was not synced is on the disk all the same."""
        old = self.all[cell]
        log = old.log if keeps_all else old.log[: old.written]
        return self._number(Cell(old.start, old.number, None, log, len(log), 0.0), b"")

    def restart(self, cell: int) -> Step:
        known = self._steps.get((cell, "restart"))
        if known is None:
            known = self._steps[cell, "restart"] = self._live(self.all[cell])
        return known

    # --- making them

    def _live(self, cell: Cell) -> Step:
        settings = cell.start.settings
        instance = recover_instance(
            uuid=uuid_of(cell.number),
            settings=settings,
            meta=SnapshotMeta(replicaset_uuid=REPLICASET),
            spaces=first_tuples(3, settings),
            txns=cell.log,
            rng=EVEN,
            trusted=True,
            now=0.0,
        )
        if instance.vclock != _vclock_of(cell.log):
            raise Violation("S10", f"{cell.number} recovers {instance.vclock} of {cell.log}")
        doing = _Doing(cell, instance, list(cell.log), len(cell.log), 0.0)
        self._carry_out(doing, instance.start(0.0))
        if instance.limbo.state is QueueState.LEADER:
            raise Violation("S9", f"{cell.number}: its queue is writable after a restart, without a PROMOTE")
        return self._done(doing)

    def _make(self, cell: Cell, name: Hashable, events: Sequence[ev.Event]) -> Step:
        assert cell.image is not None
        instance: Instance = thaw(cell.image)
        doing = _Doing(cell, instance, list(cell.log), cell.written, cell.now)
        if name == "disk":
            self._sync(doing)
        elif name == "timer":
            deadline = instance.deadline
            assert deadline is not None
            doing.now = max(cell.now, deadline)
            self._event(doing, ev.DeadlineReached())
        for event in events:
            self._event(doing, event)
        for _ in range(TURNS_MAX):
            if doing.wants_turn:
                doing.wants_turn = False
                self._event(doing, ev.TurnBegan())
            elif doing.written < len(doing.log) and cell.number not in cell.start.slow:
                self._sync(doing)
            else:
                return self._done(doing)
        raise Violation("S17", f"{cell.number} does not come to rest")

    def _sync(self, doing: _Doing) -> None:
        """One more transaction is on the disk."""
        txn = doing.log[doing.written]
        for origin, _ in txn.components():
            if origin and txn.tsn != doing.instance.vclock.get(origin) + 1:
                raise Violation("S12", f"{doing.cell.number} writes {txn} behind {doing.instance.vclock}")
        doing.written += 1
        self._event(doing, ev.RowsWritten(_vclock_of([txn], doing.instance.vclock)))

    def _event(self, doing: _Doing, event: ev.Event) -> None:
        instance = doing.instance
        vclock, term = instance.vclock, instance.raft.term
        queue = (instance.limbo.term, instance.limbo.confirmed_lsn)
        effects = instance.step(event, doing.now)
        instance.check()
        number = doing.cell.number
        if not instance.vclock.covers(vclock, with_local=True):
            raise Violation("S7", f"{number}: its vclock went back from {vclock} to {instance.vclock}")
        if instance.raft.term < term:
            raise Violation("S11", f"{number}: its term went back from {term} to {instance.raft.term}")
        limbo = instance.limbo
        if limbo.term < queue[0] or (limbo.term == queue[0] and limbo.confirmed_lsn < queue[1]):
            raise Violation("S11", f"{number}: its queue went back from {queue}")
        self._carry_out(doing, effects)

    def _carry_out(self, doing: _Doing, effects: Sequence[ev.Effect]) -> None:
        number = doing.cell.number
        for effect in effects:
            match effect:
                case ev.WriteRows(txns=txns):
                    for txn in txns:
                        (copy,) = xrow.decode_txns(bytes(txn.data))
                        doing.log.append(_known(copy))
                        if isinstance(txn.control, Confirm) and txn.origin == number:
                            doing.facts.append(Fact(Kind.CONFIRMS, (doing.instance.raft.term,), number))
                case ev.BroadcastRaft(message=message):
                    doing.shows = message
                case ev.Replies(replies=replies):
                    doing.facts += _told(replies)
                case ev.StopApplier(peer=peer, error=error):
                    raise Violation("S16", f"{number} stops following {peer}: {error.message}")
                case ev.BeginAmnesia():
                    raise Violation("S14", f"{number} lost trust in a log that lost nothing")
                case ev.RequestTurn():
                    doing.wants_turn = True
                case _:
                    pass

    def _done(self, doing: _Doing) -> Step:
        old, instance = doing.cell, doing.instance
        cell = Cell(old.start, old.number, None, tuple(doing.log), doing.written, doing.now)
        number = self._number(cell, digest(instance, doing.now), instance)
        return Step(number, doing.shows, tuple(doing.facts))

    def _number(self, cell: Cell, form: bytes, instance: Instance | None = None) -> int:
        state = hashlib.blake2b(form, digest_size=12)
        state.update(f"{cell.start.kind} {cell.number} {cell.written} {len(cell.log)}".encode())
        for txn in cell.log:
            state.update(txn.data)
        key = state.digest()
        number = self._numbers.get(key)
        if number is None:
            face = _face(cell, instance)
            if instance is not None:
                cell = cell._replace(image=freeze(instance))
            number = self._numbers[key] = len(self.all)
            self.all.append(cell)
            self.faces.append(face)
        return number


# --- logs -----------------------------------------------------------------------------------------------

_txns: dict[bytes, Txn] = {}


def _known(txn: Txn) -> Txn:
    """One object for equal transactions: it is shared by all copies."""
    return _txns.setdefault(bytes(txn.data), txn)


def _vclock_of(txns: Sequence[Txn], vclock: Vclock = EMPTY_VCLOCK) -> Vclock:
    for txn in txns:
        for origin, lsn in txn.components():
            vclock = vclock.follow(origin, lsn)
    return vclock


# --- what can be seen -----------------------------------------------------------------------------------


def _told(replies: Sequence[ev.Reply]) -> Iterator[Fact]:
    """What callers hear of the fate of a transaction."""
    for call_id, outcome in replies:
        match outcome:
            case ev.Committed(txn=txn) if txn is not None:
                yield Fact(Kind.TOLD, (txn.origin, txn.lsn))
            case ev.Rejected() if call_id <= WRITES_MAX:
                yield Fact(Kind.REFUSED, (call_id,))
            case _:
                pass


def _face(cell: Cell, instance: Instance | None) -> Face:
    synced = cell.log[: cell.written]
    model, facts = _meaning(cell.number, synced)
    vclock = _vclock_of(synced)
    face = Face(instance is not None, vclock, frozenset(facts), has_pending_promote=bool(model.pending))
    if instance is None:
        return face
    raft, limbo, number = instance.raft, instance.limbo, cell.number
    if instance.vclock != vclock:
        raise Violation("S8", f"{number} shows {instance.vclock}, and has {vclock} on its disk")
    ahead = _compare(number, instance, model)
    seen = set(facts)
    seen |= {Fact(Kind.FATE, (txn.origin, txn.lsn), FateOf.COMMITTED, model.term) for txn in ahead}
    if raft.is_leader:
        seen.add(Fact(Kind.LEADS, (raft.volatile_term,), number))
    if raft.vote != NOBODY:
        seen.add(Fact(Kind.VOTES, (number, raft.term), raft.vote))
    face.facts = frozenset(seen)
    face.ack = ev.Ack(vclock, raft.term, 0, instance.acks_count, raft.membership.election_quorum)
    face.message = raft.message()
    face.term, face.volatile_term = raft.term, raft.volatile_term
    face.is_writable = instance.is_writable
    face.is_promoting = instance._transfers.running is not None
    face.deadline = instance.deadline
    face.must_announce = limbo.is_announcement_due
    face.is_patient = raft._elected_since is not None
    face.has_unsynced = cell.written < len(cell.log)
    face.queue = (limbo.term, limbo.owner_id, limbo.confirmed_lsn)
    return face


def _meaning(number: int, synced: Sequence[Txn]) -> tuple[LogModel, set[Fact]]:
    """What a log says, told by the model of the simulator."""
    model, facts = LogModel(), set[Fact]()
    for txn in synced:
        if txn.origin and not txn.is_nop:
            facts.add(Fact(Kind.ROW, (txn.origin, txn.lsn), bytes(txn.data)))
            facts |= {Fact(Kind.IS, (txn.origin, txn.lsn), _call_of(op)) for op in txn.ops}
        for fate in model.apply(txn):
            what = FateOf.COMMITTED if fate.is_committed else FateOf.ROLLED_BACK
            facts.add(Fact(Kind.FATE, (fate.txn.origin, fate.txn.lsn), what, fate.term))
        if model.decided_own is not None and model.decided_own.origin == number:
            facts.add(Fact(Kind.OWNS, (model.decided_own.body.term,), number))
    facts |= {Fact(Kind.NOP, key) for key in model.nops}
    return model, facts


def _call_of(op: Dml) -> int:
    assert op.value is not None and isinstance(op.value[0], int)
    return op.value[0]


def _compare(number: int, instance: Instance, model: LogModel) -> list[Txn]:
    """S4, S5: an instance is what its log says, and what it committed ahead of it as the owner (ADR 11).

    Returns that. What is not on its disk yet is in neither.
    """
    limbo = instance.limbo
    if (limbo.owner_id, limbo.term) != (model.owner, model.term):
        raise Violation("S5", f"{number}: queue {limbo.owner_id}, {limbo.term}; its log says {model.owner}")
    ahead = [txn for txn in model.queue if txn.lsn <= limbo.confirmed_lsn]
    if ahead and limbo.owner_id != number:
        raise Violation("S5", f"{number} commits {ahead} of {limbo.owner_id}, and its log does not say so")
    data = dict(model.data)
    for txn in ahead:
        change(data, txn, {})
    shown = {row[0]: row for row in instance.memtx.select(SYNC)}
    if shown != {key: row for (space, key), row in data.items() if space == SYNC}:
        raise Violation("S4", f"{number} shows {shown}; its log says {data}")
    return ahead
