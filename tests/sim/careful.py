"""Clients whose transactions have conditions (ADR 49), or ask to be synchronous where their space is not.

Each transaction leaves a word of its own in a row. Whoever commits it in its log shows then whether the
conditions hold in what is ahead of it there (S27); of one that was refused the word is in no log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from synchro.ids import CallId, RequestId
from synchro.instance import events as ev
from synchro.row import Dml, RowType, Txn
from synchro.storage import row_body
from synchro.storage.conditions import Condition, Expected
from tests.mesh import ASYNC, SYNC
from tests.sim.clients import expire, seen_more
from tests.sim.model import Data, change_one
from tests.sim.visitors import Visitors

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

KEYS: Final = (7000, 7001, 7002)
WITNESS: Final = 7100
"""The row of the word."""
ATTEMPTS_MAX: Final = 3
KINDS: Final = (
    "take",
    "give back",
    "swap",
    "swap",
    "must match",
    "own change",
    "neighbour",
    "elsewhere",
    "elsewhere",
)
REFUSALS: Final = ("CONDITION_FAILED", "TRANSACTION_CONFLICT")

make = row_body.dml_from_values


@dataclass(eq=False)
class Case:
    """One transaction, over all its attempts."""

    kind: str
    word: str
    ops: list[Dml]
    conditions: list[Condition]
    is_sync: bool
    request_id: RequestId | None = None
    known: ev.Position | None = None
    """As `Op.known` of other clients."""
    rests_on_waiting: bool = False
    """Its condition names a word that nobody had committed when it was sent."""
    attempts: int = 0
    maybe: bool = False
    """An attempt ended without an answer: it may have taken effect."""
    is_refused: bool = False
    is_told: bool = False
    is_decided: bool = False
    """Committed by anybody, as an owner does before its log says so (ADR 11)."""
    is_seen: bool = False
    """In a log, and its conditions held there."""

    @property
    def is_of_origin(self) -> bool:
        """Its conditions look at what only the log of its maker has in that order."""
        return any(condition.space_id == ASYNC for condition in self.conditions)


def holds(data: Data, condition: Condition) -> bool:
    found = data.get((condition.space_id, condition.key[0]))
    match condition.expected:
        case Expected.ABSENT:
            return found is None
        case Expected.PRESENT:
            return found is not None
        case Expected.EQUAL:
            return found is not None and all(found[int(at) - 1] == want for at, want in condition.fields)


def all_hold(data: Data, case: Case) -> bool:
    """In their places. data: what is ahead of the transaction; it stays as it is."""
    places = {(each.space_id, each.key[0]) for each in case.conditions}
    draft = {place: data[place] for place in places if place in data}
    done = 0
    for condition in case.conditions:
        for op in case.ops[done : condition.at]:
            change_one(draft, op)
        done = condition.at
        if not holds(draft, condition):
            return False
    return True


class Careful(Visitors):
    """All of a world; none in most worlds."""

    def __init__(self, world: World) -> None:
        is_eligible = not (world.may_diverge or world.is_async or world.is_quiet or world.masters)
        super().__init__(world, "careful", is_eligible=is_eligible, share=0.2, pauses=(0.02, 0.05, 0.2))
        rng = self.rng
        self.named_share = rng.choice((0.0, 0.5, 1.0))
        self.hope = rng.choice((0.2, 0.6, 0.9))
        """How often a client builds on what it sent last, whatever became of that."""
        if self.is_on and rng.random() < 0.5:
            world.nemesis.also("isolate owner", 0.5)
        self.cases: dict[str, Case] = {}
        self._count = 0
        self._seen = world.first_position
        self._last: dict[tuple[int, int], str] = {}
        """(space, key) -> the word that was sent for it last"""

    def _next(self) -> None:
        if self.world.clients_stopped:
            return
        self._later()
        process = self._target()
        if process is not None:
            case = self._draw(process)
            self.cases[case.word] = case
            self._ask(process, case)

    def _target(self) -> Process | None:
        machines = [m for m in self.world.machines.values() if m.process is not None and not m.is_paused]
        writable = [m for m in machines if m.process is not None and m.process.instance.is_writable]
        chosen = writable if writable and self.rng.random() < 0.9 else machines
        return self.rng.choice(chosen).process if chosen else None

    # --- what is asked for

    def _draw(self, process: Process) -> Case:
        rng, kind = self.rng, self.rng.choice(KINDS)
        self._count += 1
        word = f"careful {self._count}"
        space = ASYNC if kind == "elsewhere" and rng.random() < 0.5 else SYNC
        key = rng.choice(KEYS)
        other = rng.choice([each for each in KEYS if each != key])
        write = make(RowType.REPLACE, space, value=(key, word))
        known = self._known(process, space, key)
        equal = _equal(space, key, known)
        ops, conditions = [write], [equal]
        match kind:
            case "take":
                conditions = [_one(Expected.ABSENT, space, key)]
            case "give back":
                ops = [make(RowType.DELETE, space, key=(key,))]
            case "must match":
                ops = [make(RowType.UPDATE, space, key=(key,), ops=(("=", 2, word),))]
                conditions = [_one(Expected.PRESENT, space, key, is_of_change=True)]
            case "own change":
                conditions = [_equal(space, key, word, at=1)]
            case "neighbour":
                ops = [make(RowType.REPLACE, space, value=(other, word))]
            case "elsewhere":
                ops = [make(RowType.REPLACE, ASYNC, value=(other, word))]
                conditions = conditions if rng.random() < 0.7 else []
        witness = space if kind != "elsewhere" else ASYNC
        ops.append(make(RowType.REPLACE, witness, value=(WITNESS, word)))
        is_sync = kind == "elsewhere" and (space == ASYNC or not conditions or rng.random() < 0.3)
        case = Case(kind, word, ops, conditions, is_sync, known=self._seen)
        if rng.random() < self.named_share:
            case.request_id = RequestId(f"{self._count:016d}".encode())
        if equal in conditions and known in self.cases:
            case.rests_on_waiting = not self.cases[known].is_decided
        for op in ops:
            if op.value is not None:
                self._last[op.space_id, op.value[0]] = word
        return case

    def _known(self, process: Process, space: int, key: int) -> str:
        """What the client takes for the word of a row: what it sent last, or what it reads."""
        if self.rng.random() < self.hope:
            return self._last.get((space, key), "nothing")
        row = process.instance.memtx.get(space, 0, (key,))
        return "nothing" if row is None else str(row[1])

    # --- one attempt

    def _ask(self, process: Process, case: Case) -> None:
        world, rng = self.world, self.rng
        case.attempts += 1
        is_at_once = True

        def done(outcome: ev.Outcome) -> None:
            world.checks.answers.told(process.number, outcome)
            if is_at_once and case.request_id is not None and process.is_alive:
                world.checks.answers.told_request_late(process, case.request_id, outcome)
            self._done(process, case, outcome)

        def event_of(call: CallId) -> ev.Event:
            ops = [make(op.type, op.space_id, key=op.key, value=op.value, ops=op.ops) for op in case.ops]
            write = ev.ClientWrite(call, ops, case.request_id, case.known)
            return ev.ClientWrites([write._replace(conditions=case.conditions, is_sync=case.is_sync)])

        call = process.call(event_of, done)
        is_at_once = False
        if call in process.calls:
            timeout = rng.choice((0.1, 1.0, 3.0)) * world.time_scale
            world.at(world.now + timeout, expire, world, process, call)

    def _done(self, process: Process, case: Case, outcome: ev.Outcome) -> None:
        hits = self.world.hits
        self._seen = seen_more(self._seen, process)
        match outcome:
            case ev.Committed(txn=txn, duplicate=duplicate):
                case.is_told = True
                hits["condition held"] += bool(case.conditions)
                hits["a retry with conditions is known"] += duplicate and bool(case.conditions)
                hits["asked to be synchronous"] += case.is_sync
                if case.is_refused:
                    self._fail(f"{process.number} says that {case.word} is {txn}, after a refusal")
                if txn in self.world.checks.plain:
                    self.world.checks.fail("S3", f"{txn} of {process.number} waited for no quorum: {case}")
            case ev.Rejected(error=error) if error.reason in REFUSALS:
                hits[f"condition refused: {error.reason}"] += 1
                case.is_refused = not case.maybe
                if case.is_refused and case.is_seen:
                    self._fail(f"{process.number} refused {case}, and it is committed")
                self._check_found(process, error.details)
            case ev.Rejected(error=error) if error.reason == "SYNC_ROLLBACK":
                hits["a caller with conditions is told of a rollback"] += bool(case.conditions)
            case ev.OutcomeUnknown():
                case.maybe = True
                self._again(case)

    def _again(self, case: Case) -> None:
        """With a request id: it is done once, whatever its conditions say by now."""
        world = self.world
        if case.request_id is None or case.attempts >= ATTEMPTS_MAX or world.clients_stopped:
            return
        world.at(world.now + self.rng.uniform(0.01, 0.3) * world.time_scale, self._repeat, case)

    def _repeat(self, case: Case) -> None:
        process = self._target()
        if process is not None and not self.world.clients_stopped:
            self._ask(process, case)

    # --- what is so

    def _check_found(self, process: Process, details: Mapping[str, str]) -> None:
        """S4: a condition that fails tells committed data only, by the time of the answer [conditions.N1]."""
        found = details.get("found")
        if found is None:
            return
        _, word = json.loads(found)
        if not self.cases[word].is_decided:
            self.world.checks.fail("S4", f"{process.number} tells of {found}, which nobody has committed")

    def _case_of(self, txn: Txn) -> Case | None:
        if not self.is_on:
            return None
        body = txn.rows[-1].body
        value = body.value if isinstance(body, Dml) else None
        return self.cases.get(str(value[1])) if value is not None and value[0] == WITNESS else None

    def decided(self, txn: Txn) -> None:
        """Somebody commits it, before its caller hears of it."""
        if (case := self._case_of(txn)) is not None:
            case.is_decided = True

    def rolled_back(self, txn: Txn) -> None:
        if (case := self._case_of(txn)) is not None and case.conditions:
            self.world.hits["a transaction with conditions is rolled back"] += 1
            self.world.hits["what a condition rested on is rolled back with it"] += case.rests_on_waiting

    def committed(self, machine: Machine, txn: Txn) -> None:
        """S27: it is about to be committed in the log of this instance, whose data has all that is ahead."""
        case = self._case_of(txn)
        if case is None:
            return
        if case.is_refused:
            self._fail(f"{txn} is committed on {machine.number}, and was refused: {case}")
        if case.is_of_origin and machine.number != txn.origin:
            return
        if not all_hold(machine.model.data, case):
            self._fail(f"{txn} is committed on {machine.number}, where its conditions do not hold: {case}")
        self.world.hits["a condition holds because of what waits"] += (
            case.rests_on_waiting and not case.is_seen
        )
        case.is_seen = True

    def at_end(self) -> None:
        """What was told as committed was seen in a log, so its conditions were looked at."""
        for case in self.cases.values():
            if case.is_told and not (case.is_seen or case.is_of_origin):
                self._fail(f"{case} was told as committed, and no log has it")

    def _fail(self, text: str) -> None:
        self.world.checks.fail("S27", text)


def _one(expected: Expected, space: int, key: int, *, is_of_change: bool = False) -> Condition:
    return Condition(expected, space, 0, (key,), 0, 0, is_of_change=is_of_change)


def _equal(space: int, key: int, word: str, *, at: int = 0) -> Condition:
    return Condition(Expected.EQUAL, space, 0, (key,), at, 0, ((2, word),))
