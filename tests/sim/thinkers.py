"""Clients that think: transactions that stay open (ADR 52), of the parts that a real instance makes them of.

Several are open at a time on instances that take writes. Between statements others write, terms change,
clients go away; the commit is one ordinary write. Each leaves a word of its own in a row. Whoever commits it
in its log has it done once more there, by a model and with what is ahead of it: each statement must answer
what it answered then (S27). What they do for is looked at beside that: money, a number that counts, and two
of whom one is always on duty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from synchro.config import Limits
from synchro.errors import SynchroError, TransactionConflict, TransactionsFull
from synchro.ids import CallId, RequestId, Term
from synchro.instance import events as ev
from synchro.row import Dml, RowType, Tuple, Txn, TxnId
from synchro.server.open_transactions import Held, OpenTransactions
from synchro.storage import row_body
from synchro.storage.index import Iterator_
from synchro.storage.private_view import PrivateView
from tests.mesh import ASYNC, SYNC
from tests.sim.clients import expire, seen_more
from tests.sim.model import Data, Range, change, change_one
from tests.sim.visitors import Visitors

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

ACCOUNTS: Final = (7200, 7201, 7202)
MONEY: Final = 100
"""In each of them at first."""
COUNTER: Final = 7210
PAIR: Final = (7220, 7221)
"""Of whom one is on duty at least: their third field is 1."""
FREE: Final = (7230, 7231, 7232, 7233)
"""Keys for whatever it may be; in the asynchronous space too."""
WITNESS: Final = 7290
"""The row of the word."""
KINDS: Final = ("transfer", "count", "duty", "mixed", "mixed")
REFUSED: Final = "refused"
"""The answer of an insert under a key that is taken."""
LEAVES_ROWS: Final = "SYNC_ROLLBACK"
"""The only refusal of a commit that was in a log."""

make = row_body.dml_from_values


Statement: TypeAlias = "Range | Dml"
Answer: TypeAlias = "list[Tuple] | Tuple | str | None"
Program: TypeAlias = Generator[Statement, Answer, None]
"""Statements in turn, each drawn when the one before is answered."""


@dataclass(eq=False)
class Case:
    """One open transaction."""

    kind: str
    word: str
    process: Process
    """The life of the instance that has it."""
    term: Term
    view: PrivateView
    held: Held
    resources: ExitStack
    program: Program
    is_sync: bool
    request_id: RequestId | None
    told: list[tuple[Statement, Answer]]
    answer: Answer = None
    """Of the last statement."""
    is_over: bool = False
    """It takes no statements any more."""
    is_asked: bool = False
    """Its commit was sent."""
    why_not: str = ""
    """Why its commit was refused."""
    is_told: bool = False
    """Somebody was told that it is committed."""
    is_seen: bool = False
    """In a log, and all was as it had been told there."""

    @property
    def is_of_origin(self) -> bool:
        """It looks at what only the log of its maker need have in that order."""
        return any(statement.space_id == ASYNC for statement, _ in self.told)


def replay(data: Data, statement: Statement) -> Answer:
    """What it answers if it is done by itself. data: committed tuples, which it changes."""
    if isinstance(statement, Range):
        return statement.of(data)
    fields = statement.value if statement.key is None else statement.key
    assert fields is not None
    place = statement.space_id, fields[0]
    old = data.get(place)
    if statement.type is RowType.INSERT and old is not None:
        return REFUSED
    change_one(data, statement)
    if statement.type is RowType.DELETE:
        return old
    return None if statement.type is RowType.UPSERT else data.get(place)


class Thinkers(Visitors):
    """All of a world; none in most worlds."""

    def __init__(self, world: World) -> None:
        is_eligible = not (world.may_diverge or world.is_async or world.is_quiet or world.masters)
        super().__init__(world, "thinkers", is_eligible=is_eligible, share=0.2, pauses=(0.04, 0.1, 0.25))
        rng = self.rng
        self.thought = rng.choice((0.003, 0.02, 0.02, 0.1, 0.4)) * world.time_scale
        """Between two statements of one."""
        self.open_for = rng.choice((0.6, 4.0, 20.0)) * world.time_scale
        self.named_share = rng.choice((0.0, 0.5, 1.0))
        self.limits = replace(Limits(), open_transactions_max=rng.choice((3, 20)))
        if self.is_on and rng.random() < 0.5:
            world.nemesis.also(rng.choice(("isolate owner", "demote", "pause")), 0.4)
        self.turnover = 0.0 if world.calm.is_on else rng.choice((0.0, 0.05, 0.1))
        """How often an instance gives the queue up when one begins there, and takes it again soon."""
        self.cases: dict[str, Case] = {}
        self._open: dict[Process, OpenTransactions] = {}
        self._seen = world.first_position

    def _next(self) -> None:
        if self.world.clients_stopped:
            return
        self._later()
        machines = list(self.world.machines.values())
        writable = [m for m in machines if m.process is not None and m.process.instance.is_writable]
        machine = self.rng.choice(writable if writable and self.rng.random() < 0.9 else machines)
        if machine.process is not None and not machine.is_paused:
            self._begin(machine.process)

    def _turn_over(self, machine: Machine) -> None:
        """It owns the queue in another term then, with what is open."""
        world = self.world
        world.at(world.now + self.thought, world.demote, machine)
        world.at(
            world.now + self.thought + self.rng.uniform(0.01, 0.2) * world.time_scale, world.promote, machine
        )

    # --- one transaction

    def _begin(self, process: Process) -> None:
        rng, instance = self.rng, process.instance
        if not instance.is_writable:
            self._count("refused at its begin")
            return
        open_here = self._open.setdefault(process, OpenTransactions(self.limits))
        resources = ExitStack()
        try:
            held = resources.enter_context(open_here.opened())
        except TransactionsFull:
            self._count("refused, as many are open")
            return
        kind, number = rng.choice(KINDS), len(self.cases) + 1
        word = f"thinker {number}."
        witness = ASYNC if kind == "mixed" and rng.random() < 0.3 else SYNC
        case = Case(
            kind,
            word,
            process,
            instance.limbo.term,
            PrivateView(instance.memtx.catalog, process.settings.limits),
            held,
            resources,
            self._program(kind, word, witness),
            is_sync=witness == ASYNC or rng.random() < 0.1,
            request_id=RequestId(f"thinker{number:09d}".encode())
            if rng.random() < self.named_share
            else None,
            told=[],
        )
        self.cases[word] = case
        self._count("opened")
        process.after(self.open_for, self._time_is_up, case)
        if rng.random() < self.turnover:
            self._turn_over(process.machine)
        self._think(case, self._step)

    def _think(self, case: Case, then: Callable[[Case], None], *, times: int = 1) -> None:
        pause = self.rng.expovariate(1.0) * self.thought * times
        self.world.at(self.world.now + pause, then, case)

    def _step(self, case: Case) -> None:
        process = case.process
        if not self._goes_on(case, self._step):
            return
        if self.rng.random() < 0.02:
            self._end(case, "its client is gone")
            return
        try:
            statement = case.program.send(case.answer) if case.told else next(case.program)
        except StopIteration:
            self._think(case, self._finish, times=self.rng.choice((1, 1, 10)))
            return
        instance = process.instance
        if not instance.is_writable or instance.limbo.term != case.term:
            self._end(case, self._why_not_here(case))
            return
        try:
            case.answer = self._run(case, statement)
        except TransactionConflict:
            self._end(case, "conflict at a statement")
            return
        case.told.append((statement, case.answer))
        self._check_privacy(case, statement)
        self._think(case, self._step)

    def _goes_on(self, case: Case, call: Callable[[Case], None]) -> bool:
        """False: it is over, or its instance is stopped, for now or for good."""
        if case.is_over:
            return False
        if not case.process.is_alive:
            self._end(case, "its instance is gone")
            return False
        return not case.process.wait_out_pause(call, case)

    def _why_not_here(self, case: Case) -> str:
        instance = case.process.instance
        if instance.state.is_expelled:
            return "its instance was removed"
        return "another term" if instance.limbo.term != case.term else "its instance may not write any more"

    def _run(self, case: Case, statement: Statement) -> Answer:
        """Raises `TransactionConflict`."""
        open_here = self._open[case.process]
        open_here.check_room()
        answer: Answer
        try:
            if isinstance(statement, Range):
                space_id, key, iterator, limit = statement
                answer = list(case.view.select(space_id, 0, (key,), iterator, limit=limit))
            else:
                answer = case.view.run(statement)
        except TransactionConflict:
            raise
        except SynchroError as error:
            if error.reason != "TUPLE_FOUND":
                raise
            answer = REFUSED
        open_here.hold(case.held, case.view.bytes)
        open_here.check()
        return answer

    def _time_is_up(self, case: Case) -> None:
        if self._goes_on(case, self._time_is_up):
            self._end(case, "time limit")

    def _end(self, case: Case, how: str) -> None:
        case.is_over = True
        case.resources.close()
        self._count(how)

    def _count(self, what: str) -> None:
        self.world.hits[f"open transaction: {what}"] += 1

    # --- its end

    def _finish(self, case: Case) -> None:
        if not self._goes_on(case, self._finish):
            return
        if self.rng.random() < 0.1:
            self._end(case, "rolled back")
            return
        try:
            case.view.check_definitions()
            if not case.view.ops:
                case.view.check_committed()
                self._check_reads(case)
                self._end(case, "committed without changes")
                return
        except TransactionConflict:
            self._end(case, "conflict at the commit")
            return
        self._commit(case)

    def _commit(self, case: Case) -> None:
        """The core looks at the term."""
        world, process = self.world, case.process
        case.is_asked = case.is_over = True

        def event_of(call: CallId) -> ev.Event:
            write = ev.ClientWrite(call, case.view.ops, case.request_id, self._seen, expected_term=case.term)
            return ev.ClientWrites([write._replace(conditions=case.view.reads, is_sync=case.is_sync)])

        call = process.call(event_of, partial(self._done, case))
        if call in process.calls:
            timeout = self.rng.choice((0.1, 1.0, 3.0)) * world.time_scale
            world.at(world.now + timeout, expire, world, process, call)

    def _done(self, case: Case, outcome: ev.Outcome) -> None:
        checks, process = self.world.checks, case.process
        checks.answers.told(process.number, outcome)
        self._seen = seen_more(self._seen, process)
        match outcome:
            case ev.Committed(txn=txn):
                self._is_committed(case, process, txn)
                self._end(case, "committed")
            case ev.Rejected(error=error):
                case.why_not = error.reason
                if case.is_seen:
                    self._fail(f"{process.number} refused {case.word} ({error.reason}), and it is committed")
                self._end(case, f"{error.reason} at the commit")
            case ev.OutcomeUnknown():
                checks.answers.told_unknown(process, case.word, outcome)
                self._end(case, "unknown outcome")
                self.world.at(
                    self.world.now + self.rng.uniform(0.0, 1.0) * self.world.time_scale,
                    self._ask,
                    case,
                    outcome.txn,
                )
            case _:
                raise AssertionError(f"unexpected outcome {outcome}")

    def _ask(self, case: Case, txn: TxnId | None) -> None:
        """What became of it, of anybody: by its request id, or by the name that its caller was told."""
        world, request_id = self.world, case.request_id
        process = self.rng.choice(list(world.machines.values())).process
        if process is None or process.machine.is_paused or (txn is None and request_id is None):
            return

        def event_of(call: CallId) -> ev.Event:
            return ev.WaitRequested(call, txn if request_id is None else None, request_id)

        is_at_once = True

        def done(outcome: ev.Outcome) -> None:
            world.checks.answers.told(process.number, outcome)
            if is_at_once and request_id is not None:
                world.checks.answers.told_request_late(process, request_id, outcome)
            if isinstance(outcome, ev.FateKnown) and outcome.fate is ev.Fate.COMMITTED:
                self._is_committed(case, process, outcome.txn)
                self._count("committed, as was told later")

        call = process.call(event_of, done)
        is_at_once = False
        if call in process.calls:
            world.at(world.now + 1.0 * world.time_scale, expire, world, process, call)

    def _is_committed(self, case: Case, process: Process, txn: TxnId | None) -> None:
        case.is_told = True
        if case.why_not:
            self._fail(f"{process.number} says that {case.word} is {txn}, and it was refused: {case.why_not}")
        if txn in self.world.checks.plain:
            self.world.checks.fail("S3", f"{txn} of {process.number} waited for no quorum: {case.word}")

    # --- what they do

    def _program(self, kind: str, word: str, witness: int) -> Program:
        programs = {"transfer": self._transfer, "count": self._count_up, "duty": self._duty}
        is_change = True
        if kind in programs:
            yield from programs[kind](word)
        else:
            is_change = self.rng.random() < 0.85
            yield from self._mixed(word, is_change=is_change)
        if is_change:
            yield _put(RowType.REPLACE, witness, WITNESS, word)

    def _transfer(self, word: str) -> Program:
        found = yield Range(SYNC, ACCOUNTS[0], Iterator_.GE, len(ACCOUNTS))
        have = _thirds(found, ACCOUNTS)
        if not have:
            for key in ACCOUNTS:
                yield _put(RowType.INSERT, SYNC, key, word, MONEY)
            return
        source, target = self.rng.sample(ACCOUNTS, 2)
        amount = self.rng.randint(1, 9)
        if self.rng.random() < 0.5:
            yield _put(RowType.REPLACE, SYNC, source, word, have[source] - amount)
            yield _put(RowType.REPLACE, SYNC, target, word, have[target] + amount)
        else:
            yield _add(SYNC, source, -amount)
            yield _add(SYNC, target, amount)

    def _count_up(self, word: str) -> Program:
        found = yield Range(SYNC, COUNTER)
        yield _put(RowType.REPLACE, SYNC, COUNTER, word, _thirds(found, (COUNTER,)).get(COUNTER, 0) + 1)

    def _duty(self, word: str) -> Program:
        """Who goes off sees the other one on duty, in a range."""
        found = yield Range(SYNC, PAIR[0], Iterator_.GE, len(PAIR))
        have = _thirds(found, PAIR)
        one = self.rng.choice(PAIR)
        goes_off = sum(have.values()) == len(PAIR)
        yield _put(RowType.REPLACE, SYNC, one, word, 0 if goes_off else 1)

    def _mixed(self, word: str, *, is_change: bool) -> Program:
        rng = self.rng
        for _ in range(rng.choice((1, 2, 2, 3, 5))):
            space = rng.choice((SYNC, SYNC, SYNC, ASYNC))
            key = rng.choice(FREE) if rng.random() < 0.6 else rng.randrange(self.world.keys)
            if not is_change or rng.random() < 0.5:
                iterator = rng.choice((Iterator_.EQ, Iterator_.GE, Iterator_.LE))
                yield Range(space, key, iterator, rng.choice((1, 3)))
            else:
                yield self._change(space, rng.choice(FREE), word)

    def _change(self, space: int, key: int, word: str) -> Dml:
        match self.rng.choice(("insert", "replace", "update", "upsert", "delete")):
            case "insert":
                return _put(RowType.INSERT, space, key, word)
            case "replace":
                return _put(RowType.REPLACE, space, key, word)
            case "update":
                return _add(space, key, 1)
            case "upsert":
                return make(RowType.UPSERT, space, value=(key, word, 0), ops=(("+", 3, 1),))
            case _:
                return make(RowType.DELETE, space, key=(key,))

    # --- what is so

    def _check_privacy(self, case: Case, statement: Statement) -> None:
        """Nobody sees what it did before its commit."""
        if isinstance(statement, Range) or statement.value is None:
            return
        memtx = case.process.instance.memtx
        for shown in memtx.select(statement.space_id, 0, statement.value[:1], prepared=True):
            if shown[1] == case.word:
                self._fail(f"{case.process.number} shows {shown}, and {case.word} is not committed")

    def _check_reads(self, case: Case) -> None:
        """It changed nothing: all that it was told is so now, together."""
        model = case.process.machine.model
        data, newest = dict(model.data), dict(model.newest)
        for txn in self.world.checks.ahead(case.process):
            change(data, txn, newest)
        self._replay(data, case, f"now on {case.process.number}")

    def _replay(self, data: Data, case: Case, where: str) -> None:
        for statement, told in case.told:
            answer = replay(data, statement)
            if answer != told:
                self._fail(f"{case.word} was told {told} by {statement}; {where} that answers {answer}")

    def _case_of(self, txn: Txn) -> Case | None:
        if not self.is_on:
            return None
        body = txn.rows[-1].body
        value = body.value if isinstance(body, Dml) else None
        return self.cases.get(str(value[1])) if value is not None and value[0] == WITNESS else None

    def decided(self, txn: Txn, term: int) -> None:
        """Somebody commits it, in a segment of the queue of that term."""
        case = self._case_of(txn)
        if case is None:
            return
        if not case.is_asked or case.why_not:
            self._fail(f"{txn} is committed, and {case.word} was {case.why_not or 'not asked to commit'}")
        if term != case.term:
            self._fail(f"{txn} is committed in term {term}, and {case.word} began in term {case.term}")

    def rolled_back(self, txn: Txn) -> None:
        if self._case_of(txn) is not None:
            self._count("rolled back with the queue")

    def committed(self, machine: Machine, txn: Txn) -> None:
        """S27: it is about to be committed in the log of this instance, whose data has all that is ahead."""
        case = self._case_of(txn)
        if case is None or (case.is_of_origin and machine.number != txn.origin):
            return
        data = dict(machine.model.data)
        self._replay(data, case, f"in the log of {machine.number}")
        self._check_purpose(data, case)
        case.is_seen = True

    def _check_purpose(self, data: Mapping[tuple[int, object], Tuple], case: Case) -> None:
        """data: with what it did."""
        money = [data[SYNC, key][2] for key in ACCOUNTS if (SYNC, key) in data]
        if money and sum(money) != MONEY * len(ACCOUNTS):
            self._fail(f"{case.word} leaves {money} on the accounts")
        on_duty = [data[SYNC, key][2] for key in PAIR if (SYNC, key) in data]
        if on_duty and not any(on_duty):
            self._fail(f"{case.word} leaves nobody on duty")

    def at_end(self) -> None:
        """What was told as committed was looked at; each that counted has counted one; what was refused, or
        was not asked for, left nothing."""
        if not self.is_on:
            return
        for case in self.cases.values():
            if case.is_told and not (case.is_seen or case.is_of_origin):
                self._fail(f"{case.word} was told as committed, and no log has it")
        counted = sum(case.kind == "count" and case.is_seen for case in self.cases.values())
        for machine in self.world.staying:
            row = machine.model.data.get((SYNC, COUNTER))
            if counted != (0 if row is None else row[2]):
                self._fail(f"{machine.number} has {row}, and {counted} have counted")
        for data in self.world.checks.bodies.values():
            for word in re.findall(rb"thinker \d+\.", data):
                case = self.cases[word.decode()]
                if not case.is_asked or case.why_not not in ("", LEAVES_ROWS):
                    self._fail(f"{case.word} is in a log; its commit: {case.is_asked}, {case.why_not}")

    def _fail(self, text: str) -> None:
        self.world.checks.fail("S27", text)


def _put(kind: RowType, space: int, key: int, word: str, number: int = 0) -> Dml:
    return make(kind, space, value=(key, word, number))


def _add(space: int, key: int, number: int) -> Dml:
    return make(RowType.UPDATE, space, key=(key,), ops=(("+", 3, number),))


def _thirds(found: Answer, keys: tuple[int, ...]) -> dict[int, int]:
    """The third fields of those that were found, by key."""
    assert isinstance(found, list)
    return {row[0]: row[2] for row in found if row[0] in keys}
