"""Callers who share a transaction cannot tell: the same story with every write alone has the same outcomes.

Two sets go through the same steps. In one, writes that arrive together may share a transaction (ADR 13); in
the other each is alone. Rows, LSNs, fates, tuples and refusals are equal, whatever else happens meanwhile.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import msgpack
import pytest

from synchro.config import Limits
from synchro.errors import WalIo
from synchro.ids import CallId, InstanceId, Lsn, RequestId, Term
from synchro.instance import events as ev
from synchro.row import RowType, TxnId
from synchro.server import info
from synchro.storage import row_body
from synchro.vclock import Vclock
from tests.mesh import ASYNC, SYNC, Mesh

NUMBERS = (1, 2, 3)
NO_ID = 0
"""The name of a call that has none."""


def rid(number: int) -> RequestId:
    return RequestId(number.to_bytes(16, "big"))


def told(outcome: ev.Outcome | None) -> object:
    """What a caller can tell."""
    match outcome:
        case ev.Committed(txn, tuples, is_sync, duplicate):
            return "committed", txn, tuple(tuples), is_sync, duplicate
        case ev.Rejected(error):
            return type(error), error.details.get("outcome")
        case ev.OutcomeUnknown(error, txn):
            return type(error), txn, error.details
        case _:
            return outcome


class World:
    """A set of three, and what is done to it."""

    def __init__(self, is_shared: bool, queue_max: int, wal_max: int, remembered_max: int) -> None:
        limits = Limits(batch_ops_max=7, wal_queue_bytes_max=wal_max, remembered_requests_max=remembered_max)
        self.mesh = Mesh(3, synchro_queue_max_size=queue_max, limits=limits)
        self.mesh.promote(1)
        self.is_shared = is_shared
        self.calls: list[tuple[int, CallId]] = []
        self.count = 0

    def _call(self, to: int) -> CallId:
        call = self.mesh.call_id()
        self.calls.append((to, call))
        return call

    def _is_up(self, number: int) -> bool:
        return number in self.mesh.members

    def puts(self, to: int, kind: RowType, keys: list[int], ids: list[int | None], is_old: bool) -> None:
        if not self._is_up(to):
            return
        calls = [self._call(to) for _ in keys]
        values = []
        for key in keys:
            self.count += 1
            values.append(msgpack.packb((key, self.count)))
        names = [
            None if name == NO_ID else rid(name if name is not None else 1000 + self.count * 100 + n)
            for n, name in enumerate(ids)
        ]
        positions: list[ev.Position | None] = [None] * len(keys)
        positions[-1] = ev.Position(Term(0), Lsn(0)) if is_old else self.mesh[to].decided_position
        puts = ev.ClientPuts(calls, row_body.insert_all(kind, SYNC, values), names[: len(keys)], positions)
        self.mesh.step(to, puts if self.is_shared else ev.ClientWrites(puts.writes()))

    def write(self, to: int, key: int, space: int) -> None:
        if self._is_up(to):
            self.count += 1
            value, ops = (key, self.count), [("=", 2, self.count)]
            op = row_body.dml_from_values(RowType.UPSERT, space, value=value, ops=ops)
            self.mesh.step(to, ev.ClientWrites([ev.ClientWrite(self._call(to), [op])]))

    def ask(self, to: int, name: int, lsn: int | None) -> None:
        if self._is_up(to):
            txn = None if lsn is None else TxnId(InstanceId(1), Lsn(lsn))
            self.mesh.step(to, ev.WaitRequested(self._call(to), txn, None if txn else rid(name)))

    def end(self, index: int, how: Callable[[CallId], ev.Event]) -> None:
        outcomes = self.mesh.outcomes
        waiting = [(to, call) for to, call in self.calls if call not in outcomes and self._is_up(to)]
        if waiting:
            to, call = waiting[index % len(waiting)]
            self.mesh.step(to, how(call))

    def deliver(self, source: int, target: int) -> None:
        self.mesh.deliver(source, target)

    def persist(self, number: int) -> None:
        if self._is_up(number):
            self.mesh.persist(number)

    def cut_back(self, number: int) -> None:
        if self._is_up(number):
            member = self.mesh.members[number]
            if any(txn.control is not None or txn.is_local for txn in member.wal[member.written :]):
                return  # such rows do not fail
            del member.wal[member.written :]
            self.mesh.step(number, ev.RowsCutBack(self.mesh[number].vclock, WalIo("no room")))

    def crash(self, number: int) -> None:
        if self._is_up(number):
            self.mesh.crash(number)
            self.calls = [(to, call) for to, call in self.calls if to != number]

    def restart(self, number: int) -> None:
        if not self._is_up(number):
            self.mesh.restart(number)

    def promote(self, number: int) -> None:
        if self._is_up(number):
            self.mesh.step(number, ev.PromoteRequested(self._call(number)))
            self.mesh.settle()

    def _queue(self, number: int) -> list[object]:
        entries = info.queue_entries(self.mesh[number], self.mesh.now, {})
        return [(entry.txn, entry.rows, entry.is_sync, list(entry.acked_by)) for entry in entries]

    def state(self) -> object:
        mesh = self.mesh
        return (
            {call: told(outcome) for call, outcome in mesh.outcomes.items()},
            {
                number: (
                    mesh[number].vclock,
                    mesh[number].volatile_vclock,
                    mesh.rows(number),
                    mesh.rows(number, ASYNC),
                    mesh[number].decided_position,
                    mesh[number].waiting_unprepared,
                    info.synchro(mesh[number], mesh.now),
                    self._queue(number),
                    [mesh[number].has_applied(row) for row in self._rows(number)],
                )
                for number in mesh.members
            },
        )

    def _rows(self, number: int) -> list[Vclock]:
        """One for each row of the first owner."""
        top = self.mesh[number].vclock.get(InstanceId(1))
        return [Vclock({InstanceId(1): Lsn(lsn)}) for lsn in range(1, top + 2)]


def frame(rng: random.Random) -> tuple[object, ...]:
    """Keys that collide now and then; ids that were used before, or twice, seldom; calls without an id."""
    count = rng.randint(4, 12)
    keys = [rng.randint(1, 60) for _ in range(count)]
    ids = [rng.randint(1, 40) if rng.random() < 0.05 else None for _ in keys]
    unnamed = rng.choice([0.0, 0.0, 0.5, 1.0])
    ids = [NO_ID if name is None and rng.random() < unnamed else name for name in ids]
    kind = rng.choice([RowType.INSERT, RowType.REPLACE])
    return "puts", whom(rng), kind, keys, ids, rng.random() < 0.1


def whom(rng: random.Random) -> int:
    """Mostly the first owner."""
    return rng.choice([1, 1, 1, 1, 1, 2, 3])


STEPS: list[tuple[int, Callable[[random.Random], tuple[object, ...]]]] = [
    (12, frame),
    (3, lambda rng: ("write", whom(rng), rng.randint(1, 60), rng.choice([SYNC, ASYNC]))),
    (3, lambda rng: ("ask", whom(rng), rng.randint(1, 40), rng.choice([None, rng.randint(1, 60)]))),
    (3, lambda rng: ("end", rng.randint(0, 30), rng.choice([ev.CallExpired, ev.RequestAbandoned]))),
    (6, lambda rng: ("persist", whom(rng))),
    (6, lambda rng: ("deliver", *rng.sample(NUMBERS, 2))),
    (3, lambda _: ("settle",)),
    (2, lambda _: ("heal",)),
    (1, lambda rng: ("isolate", whom(rng))),
    (1, lambda rng: ("cut_back", whom(rng))),
    (1, lambda rng: ("crash", whom(rng))),
    (2, lambda rng: ("restart", rng.choice(NUMBERS))),
    (1, lambda rng: ("promote", rng.choice(NUMBERS))),
]


def story(rng: random.Random) -> list[tuple[object, ...]]:
    weights = [weight for weight, _ in STEPS]
    made = [step(rng) for _, step in rng.choices(STEPS, weights, k=rng.randint(5, 30))]
    return [*made, ("heal",), *(("restart", number) for number in NUMBERS), ("settle",)]


def tell(seed: int, *, queue_max: int = 0, wal_max: int = 1 << 30) -> Counter[str]:
    """The same story in both worlds. Returns what happened in the first."""
    rng = random.Random(seed)
    remembered_max = rng.choice([100, 100, 5])
    shared, alone = (World(is_shared, queue_max, wal_max, remembered_max) for is_shared in (True, False))
    for name, *arguments in story(rng):
        for world in (shared, alone):
            owner = world if hasattr(world, str(name)) else world.mesh
            getattr(owner, str(name))(*arguments)
        assert shared.state() == alone.state(), (seed, name, arguments)
    seen = Counter(
        outcome.error.reason if isinstance(outcome, ev.Rejected) else type(outcome).__name__
        for outcome in shared.mesh.outcomes.values()
    )
    for member in shared.mesh.members.values():
        seen["shared"] += sum(txn.is_shared for txn in member.wal)
        seen["shared without ids"] += sum(txn.has_unnamed for txn in member.wal)
    return seen


def test_nobody_can_tell_whether_he_shared() -> None:
    """And all that may happen to a caller did happen to some."""
    seen: Counter[str] = Counter()
    for seed in range(250):
        seen += tell(seed)
    assert seen["shared"] > 500 and seen["shared without ids"] > 200
    for what in ("Committed", "OutcomeUnknown", "FateKnown", "TUPLE_FOUND", "TRANSACTION_CONFLICT"):
        assert seen[what] > 5, seen
    for what in ("SYNC_ROLLBACK", "WAL_IO", "READ_ONLY", "REQUEST_EXPIRED"):
        assert seen[what] > 5, seen


@pytest.mark.parametrize("limit", [100, 250, 400])
def test_nobody_can_tell_by_who_finds_room_in_the_queue(limit: int) -> None:
    """[Q-46], Writes.W1: who has to wait waits, in order, and no more begin than would alone."""
    for seed in range(35):
        tell(seed, queue_max=limit)


@pytest.mark.parametrize("limit", [100, 250, 300, 350])
def test_nobody_can_tell_by_who_finds_room_in_the_log(limit: int) -> None:
    """[W-16]: the same of what is on its way to disk."""
    for seed in range(35):
        tell(seed, wal_max=limit)
