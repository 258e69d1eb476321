"""Worlds of three masters whose clocks are an hour apart: everybody writes the same keys of one asynchronous
space where the last write wins, without an owner. After healing all have the same (S22, S25)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synchro.instance import events as ev
from synchro.row import Dml, RowType
from synchro.storage import row_body, schema_ops
from tests.mesh import ASYNC

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.world import World

HOUR_US: Final = 3600 * 10**6
NOON_US: Final = 12 * HOUR_US
KINDS: Final = ("insert", "replace", "replace", "update", "upsert", "delete", "delete")
OF_OWNERS: Final = ("promote", "demote", "isolate owner", "deaf owner", "stall owner")
"""Faults that mean nothing here, or would make an owner."""


class Masters:
    """What is different in such a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.choices.stream("masters")
        self.skews = {number: self.rng.choice((-HOUR_US, 0, HOUR_US)) for number in (1, 2, 3)}
        self.pause = self.rng.choice((0.005, 0.03, 0.15))
        self.start_us = self.rng.choice((NOON_US, NOON_US, -NOON_US))
        """Before 1970 a clock gives no time: stamps are counted, and many are equal."""
        self.steps_clocks = self.rng.random() < 0.5
        """Somebody sets clocks while instances run."""

    @staticmethod
    def configure(world: World) -> None:
        rng = world.choices.stream("masters", "world")
        world.size, world.quorum, world.mode_kind = 3, 2, "off"
        world.may_diverge = world.is_async = world.is_quiet = False
        world.keys, world.target = rng.randint(1, 6), rng.randint(40, 150)

    def start(self) -> None:
        nemesis = self.world.nemesis
        for kind in OF_OWNERS:
            nemesis.rates.pop(kind, None)
        nemesis.ambushes = 0.0
        for number in self.world.machines:
            self.world.at(self.rng.uniform(0, 0.3), self._write, number)

    def set_clock(self, machine: Machine) -> None:
        """As `Node` does at its start."""
        if machine.process is not None:
            machine.process.step(ev.ClockCompared(self.start_us + self.skews[machine.number]))

    def _write(self, number: int) -> None:
        world, rng = self.world, self.rng
        if world.clients_stopped:
            return
        world.at(world.now + rng.expovariate(1.0) * self.pause, self._write, number)
        machine = world.machines[number]
        process = machine.process
        if process is None or machine.is_paused or not process.instance.is_writable:
            return
        if self.steps_clocks and rng.random() < 0.02:
            self.skews[number] = rng.choice((-HOUR_US, 0, HOUR_US))
            world.hits["a clock is set"] += 1
            self.set_clock(machine)
        if not process.is_alive:
            return
        if rng.random() < 0.02:
            world.hits["truncate among masters"] += 1
            ops = [_encoded(op) for op in schema_ops.truncate(process.instance.memtx, ASYNC)]
        else:
            ops = [self._op(f"{number}.{world.next_call()}") for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        process.call(lambda call: ev.ClientWrites([ev.ClientWrite(call, ops)]), self._answered)

    def _op(self, word: str) -> Dml:
        key = self.rng.randrange(self.world.keys)
        make = row_body.dml_from_values
        match self.rng.choice(KINDS):
            case "insert":
                return make(RowType.INSERT, ASYNC, value=(key, word, 1))
            case "replace":
                return make(RowType.REPLACE, ASYNC, value=(key, word, 1))
            case "update":
                return make(RowType.UPDATE, ASYNC, key=(key,), ops=(("=", 2, word), ("+", 3, 1)))
            case "upsert":
                return make(RowType.UPSERT, ASYNC, value=(key, word, 1), ops=(("+", 3, 1),))
            case _:
                return make(RowType.DELETE, ASYNC, key=(key,))

    def _answered(self, outcome: ev.Outcome) -> None:
        if isinstance(outcome, ev.Committed):
            self.world.counts["ok"] += 1
            self.world.answered_at = self.world.now


def _encoded(op: Dml) -> Dml:
    return row_body.dml_from_values(op.type, op.space_id, value=op.value, ops=op.ops)
