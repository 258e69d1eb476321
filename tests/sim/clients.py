"""Clients and operators: what they ask for, how they retry, and what they take an answer to mean."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgpack

from synchro.ids import CallId, RequestId
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.storage import row_body
from tests.mesh import ASYNC, SYNC
from tests.sim.history import INF, Seen

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

ATTEMPTS_MAX = 4


class Op:
    """One operation of a client, over all its attempts."""

    __slots__ = ("attempts", "began", "keys", "kind", "known", "maybe", "request_id", "space", "value")

    def __init__(self, kind: str, keys: list[int], value: str, began: float) -> None:
        self.kind = kind
        self.keys = keys
        self.value = value
        self.began = began
        self.space = SYNC
        self.request_id: RequestId | None = None
        self.known: ev.Position | None = None
        """How far its client had seen when it began, where instances soon forget what was done."""
        self.attempts = 0
        self.maybe = False
        """An attempt ended without an answer: it may have taken effect."""


def write_of(op: Op, call: CallId) -> ev.ClientWrite:
    kind = RowType.INSERT if op.kind == "insert" else RowType.REPLACE
    ops = [row_body.dml_from_values(kind, op.space, value=(key, op.value)) for key in op.keys]
    wait = ev.WaitMode.SUBMIT if op.kind == "submit" else ev.WaitMode.COMPLETE
    return ev.ClientWrite(call, ops, op.request_id, op.known, wait=wait)


class Client:
    """One operation at a time, then a pause."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.rng = world.choices.stream("client", number)
        self.op: Op | None = None
        self.count = 0
        self.favourite = self.rng.choice(list(world.machines))
        self.stickiness = self.rng.choice((0.0, 0.5, 0.95))
        """How often it asks where it was served last, though another may own the queue by now."""
        self._attempt = 0
        self._seen = world.first_position

    def start(self) -> None:
        self.world.at(self.world.now + self.rng.uniform(0, 0.3), self.next)

    def next(self) -> None:
        world, rng = self.world, self.rng
        if world.clients_stopped:
            return
        self.count += 1
        kind = rng.choices(
            ["write", "insert", "many", "read", "look", "submit"],
            [50, 6, 10, 18, 12, 4 if world.is_async else 6],
        )[0]
        keys = rng.sample(range(world.keys), min(world.keys, 2 if kind == "many" else 1))
        op = Op(kind, keys, f"{self.number}.{self.count}", world.now)
        if world.is_async and rng.random() < 0.6 and kind in ("write", "many"):
            op.space = ASYNC
        if kind in ("write", "many", "insert") and rng.random() < world.request_id_share:
            op.request_id = RequestId(f"{self.number:04d}{self.count:012d}".encode())
        op.known = self._seen
        self.op = op
        self._try()

    # --- one attempt

    def _target(self) -> int:
        world, rng = self.world, self.rng
        assert self.op is not None
        if self.op.kind == "look" or rng.random() < 0.05:
            return rng.choice(list(world.machines))
        if rng.random() < self.stickiness:
            return self.favourite
        writable = [
            number
            for number, machine in world.machines.items()
            if machine.process is not None and machine.process.instance.is_writable
        ]
        return rng.choice(writable) if writable else self.favourite

    def _try(self) -> None:
        assert self.op is not None
        self.op.attempts += 1
        self._attempt += 1
        target = self._target()
        self.world.at(self.world.now + self.rng.uniform(0.0002, 0.004), self._arrive, target, self._attempt)

    def _arrive(self, target: int, attempt: int) -> None:
        world, op = self.world, self.op
        assert op is not None
        machine = world.machines[target]
        if machine.process is None:
            self._answer(target, attempt, None)
            return
        if machine.is_paused:
            machine.after_pause(self._arrive, target, attempt)
            return
        process = machine.process
        if op.kind == "look":
            self._look(process, op)
            return
        done = lambda outcome: self._done(process, attempt, outcome)  # noqa: E731
        timeout = self.rng.choice((0.3, 1.0, 3.0)) * world.time_scale
        if op.kind == "read":
            asked_at, queue = world.now, process.instance.limbo.entries

            def ready(outcome: ev.Outcome) -> None:
                if isinstance(outcome, ev.ReadReady):
                    world.checks.answers.read_is_linearizable(process, asked_at, queue)
                self._done(process, attempt, outcome)

            call = process.call(ev.ReadBarrierRequested, ready)
        else:
            call = process.call(lambda call: ev.ClientWrites([write_of(op, call)]), done)
        if call in process.calls:
            if self.rng.random() < world.abandon_share:
                world.at(world.now + timeout * self.rng.random(), _abandon, world, process, call)
            world.at(world.now + timeout, expire, world, process, call)

    def _look(self, process: Process, op: Op) -> None:
        """A read of committed data, wherever the client happens to be."""
        key = op.keys[0]
        self.world.checks.answers.read(process.number, key, process.instance.memtx.get(SYNC, 0, (key,)))
        self._finish("ok")

    # --- answers

    def _done(self, process: Process, attempt: int, outcome: ev.Outcome) -> None:
        world, op = self.world, self.op
        world.checks.answers.told(process.number, outcome)
        self._seen = seen_more(self._seen, process)
        if op is not None and isinstance(outcome, ev.OutcomeUnknown):
            world.checks.answers.told_unknown(process, op.value, outcome)
        if attempt != self._attempt or op is None:
            return
        value: object = None
        if isinstance(outcome, ev.ReadReady):
            row = process.instance.memtx.get(SYNC, 0, (op.keys[0],))
            world.checks.answers.read(process.number, op.keys[0], row)
            value = None if row is None else row[1]
        delay = self.rng.uniform(0.0002, 0.004)
        if isinstance(outcome, ev.Submitted) and process.is_alive:
            txn = outcome.txn
            call = process.call(
                lambda call: ev.WaitRequested(call, txn), lambda fate: self._done(process, attempt, fate)
            )
            world.at(world.now + 1.0 * world.time_scale, expire, world, process, call)
            return
        world.at(world.now + delay, self._answer, process.number, attempt, outcome, value)

    def _answer(self, target: int, attempt: int, outcome: ev.Outcome | None, value: object = None) -> None:
        op = self.op
        if op is None or attempt != self._attempt:
            return
        match outcome:
            case ev.Committed() | ev.FateKnown(fate=ev.Fate.COMMITTED):
                self.favourite = target
                self._finish("ok")
            case ev.ReadReady():
                self.world.reads += 1
                self._finish("ok", value)
            case ev.FateKnown(fate=ev.Fate.ROLLED_BACK):
                self._finish("fail")
            case ev.Rejected():
                self._again("info" if op.maybe else "fail")
            case None:
                self._again("info" if op.maybe else "fail")
            case _:
                op.maybe = True
                self._again("info")

    def _again(self, otherwise: str) -> None:
        """Another attempt if that is safe: a read, a request with an id, or one that surely did nothing."""
        op = self.op
        assert op is not None
        is_safe = op.kind == "read" or op.request_id is not None or not op.maybe
        if op.attempts >= ATTEMPTS_MAX or not is_safe or self.world.clients_stopped:
            self._finish(otherwise)
            return
        if op.maybe:
            self.world.hits["retry after an unknown outcome"] += 1
        self.favourite = self.rng.choice(list(self.world.machines))
        self.world.at(self.world.now + self.rng.uniform(0.01, 0.2) * self.world.time_scale, self._try)

    def _finish(self, how: str, value: object = None) -> None:
        world, op = self.world, self.op
        assert op is not None
        self.op = None
        world.note(0, (how, op.kind, op.keys, op.value))
        world.answered(how, op)
        name = f"client {self.number}"
        if op.space == SYNC:
            if op.kind == "read" and how == "ok":
                world.history.append(Seen(False, op.keys[0], value, op.began, world.now, name))
            elif op.kind not in ("read", "look") and how != "fail":
                ended = world.now if how == "ok" else INF
                for key in op.keys:
                    world.history.append(Seen(True, key, op.value, op.began, ended, name))
            elif op.kind not in ("read", "look"):
                world.undone.append((op.keys[0], op.value))
        world.at(world.now + self.rng.expovariate(1.0) * world.think_mean, self.next)


class Crowd:
    """Callers who share one stream: their writes arrive together and may share a transaction (ADR 13).

    Each has one operation; whoever has no answer, or was refused, tries again in the next round, with the
    same request id. Who has none tries again only what surely was not done.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.rng = world.choices.stream("crowd", number)
        self._names = world.choices.stream("names of a crowd", number)
        self.count = 0
        self.favourite = self.rng.choice(list(world.machines))
        self._kind = "write"
        self._ops: list[Op] = []
        """Of this round."""
        self._unanswered = 0
        self._again: list[Op] = []
        self.open: dict[Op, None] = {}
        """Begun and not ended."""
        self._seen = world.first_position

    def start(self) -> None:
        self.world.at(self.world.now + self.rng.uniform(0, 0.3), self.next)

    def next(self) -> None:
        world, rng = self.world, self.rng
        ops, self._again = self._again, []
        if not ops:
            if world.clients_stopped:
                return
            self._kind = rng.choice(("write", "write", "insert"))
        for _ in range(rng.randint(3, 9) - len(ops)):
            self.count += 1
            key = rng.randrange(world.keys) if rng.random() < 0.3 else 1000 + rng.randrange(500)
            op = Op(self._kind, [key], f"{self.number}.{self.count}", world.now)
            if self._names.random() >= world.unnamed_share:
                op.request_id = RequestId(f"{self.number:04d}{self.count:012d}".encode())
            op.known = self._seen
            ops.append(op)
            self.open[op] = None
        self._ops, self._unanswered = ops, len(ops)
        writable = [
            number
            for number, machine in world.machines.items()
            if machine.process is not None and machine.process.instance.is_writable
        ]
        target = rng.choice(writable) if writable and rng.random() < 0.7 else self.favourite
        world.at(world.now + rng.uniform(0.0002, 0.004), self._arrive, target)

    def _arrive(self, target: int) -> None:
        world, rng = self.world, self.rng
        machine = world.machines[target]
        process = machine.process
        if process is None:
            self.favourite = rng.choice(list(world.machines))
            for op in self._ops:
                self._answer(target, op, None)
            return
        if machine.is_paused:
            machine.after_pause(self._arrive, target)
            return
        for op in self._ops:
            op.attempts += 1
        kind = RowType.INSERT if self._kind == "insert" else RowType.REPLACE
        tuples = [msgpack.packb((op.keys[0], op.value)) for op in self._ops]
        request_ids = [op.request_id for op in self._ops]
        known = [op.known for op in self._ops]

        def event_of(ids: list[CallId]) -> ev.Event:
            puts = ev.ClientPuts(ids, row_body.insert_all(kind, SYNC, tuples), request_ids, known)
            if machine.is_older and None in request_ids:
                return ev.ClientWrites(puts.writes())
            return puts

        call_ids = process.call_together([partial(self._done, process, op) for op in self._ops], event_of)
        timeout = rng.choice((0.3, 1.0, 3.0)) * world.time_scale
        for call in call_ids:
            if rng.random() < world.abandon_share:
                world.at(world.now + timeout * rng.random(), _abandon, world, process, call)
            world.at(world.now + timeout, expire, world, process, call)

    def _done(self, process: Process, op: Op, outcome: ev.Outcome) -> None:
        world = self.world
        world.checks.answers.told(process.number, outcome)
        self._seen = seen_more(self._seen, process)
        if isinstance(outcome, ev.OutcomeUnknown):
            world.checks.answers.told_unknown(process, op.value, outcome)
        if isinstance(outcome, ev.Committed):
            world.checks.answers.told_together(process.number, op.request_id, (op.keys[0], op.value), outcome)
        delay = self.rng.uniform(0.0002, 0.004)
        world.at(world.now + delay, self._answer, process.number, op, outcome)

    def _answer(self, target: int, op: Op, outcome: ev.Outcome | None) -> None:
        match outcome:
            case ev.Committed():
                self.favourite = target
                self._finish(op, "ok")
            case ev.Rejected() | None:
                self._retry(op, "info" if op.maybe else "fail")
            case _:
                op.maybe = True
                self._retry(op, "info")
        self._unanswered -= 1
        if not self._unanswered:
            pause = self.rng.expovariate(1.0) * self.world.think_mean
            if self._again:
                pause += self.rng.uniform(0.01, 0.2) * self.world.time_scale
            self.world.at(self.world.now + pause, self.next)

    def _retry(self, op: Op, otherwise: str) -> None:
        is_safe = op.request_id is not None or not op.maybe
        if op.attempts >= ATTEMPTS_MAX or self.world.clients_stopped or not is_safe:
            self._finish(op, otherwise)
            return
        self.favourite = self.rng.choice(list(self.world.machines))
        self._again.append(op)

    def _finish(self, op: Op, how: str) -> None:
        world = self.world
        del self.open[op]
        world.note(0, (how, "crowd", op.keys, op.value))
        world.answered(how, op)
        if how != "fail":
            ended = world.now if how == "ok" else INF
            world.history.append(Seen(True, op.keys[0], op.value, op.began, ended, f"crowd {self.number}"))
        else:
            world.undone.append((op.keys[0], op.value))


def seen_more(seen: ev.Position | None, process: Process) -> ev.Position | None:
    """What comes with each answer."""
    return None if seen is None else max(seen, process.instance.decided_position)


def expire(world: World, process: Process, call: CallId) -> None:
    if call in process.calls and process.is_alive:
        if process.wait_out_pause(expire, world, process, call):
            return
        process.step(ev.CallExpired(call))


def _abandon(world: World, process: Process, call: CallId) -> None:
    if process.is_alive and not process.machine.is_paused:
        done = process.calls.pop(call, None)
        if done is not None:
            world.hits["call abandoned"] += 1
            process.step(ev.RequestAbandoned(call))
            done(_GONE)


_GONE = ev.OutcomeUnknown(error=None, txn=None)  # type: ignore[arg-type]
