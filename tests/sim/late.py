"""Questions that come late: what became of an old transaction, and requests repeated long after, anywhere.

Clients ask soon, where they were served. What a snapshot, a restart or another instance must still know shows
only when somebody asks much later. Answers that come at once are compared with what the log of the
one that is asked says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synchro.ids import InstanceId, Lsn
from synchro.instance import events as ev
from synchro.row import TxnId
from tests.mesh import SYNC
from tests.sim.clients import Op, expire, write_of

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

SWEEP_MAX = 150
"""Questions of each kind to one instance at the end of a run."""


def txn_id(key: tuple[int, int]) -> TxnId:
    return TxnId(InstanceId(key[0]), Lsn(key[1]))


class Late:
    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.choices.stream("late")
        self.pause = self.rng.choice((0.0, 0.03, 0.1, 0.3)) * world.time_scale
        """Mean seconds between questions; 0: only at the end."""
        self.done: list[Op] = []
        """Synchronous writes with a request id that nobody waits for any more, oldest first."""

    def start(self) -> None:
        if self.pause:
            self.world.at(self.world.now + self.rng.expovariate(1.0) * self.pause, self._next)

    def ended(self, how: str, op: Op) -> None:
        """how: ok, or info: it may have happened, and may still. Who surely did nothing is not repeated."""
        if op.request_id is not None and op.space == SYNC and how != "fail":
            self.done.append(op)

    def _next(self) -> None:
        world, rng = self.world, self.rng
        if world.is_over or world.clients_stopped:
            return
        machine = world.machines[rng.choice(list(world.machines))]
        if machine.process is not None and not machine.is_paused:
            process = machine.process
            asked = list(world.checks.fates) + list(world.checks.nops)
            kind = rng.random()
            if kind < 0.5 and asked:
                self._ask(process, txn_id(rng.choice(asked)))
            elif self.done:
                op = rng.choice(self.done)
                self._ask_request(process, op) if kind < 0.7 else self._repeat(process, op)
        world.at(world.now + rng.expovariate(1.0) * self.pause, self._next)

    def sweep(self, machine: Machine) -> None:
        """Everything that is known, of one instance."""
        process, checks = machine.process, self.world.checks
        assert process is not None
        for key in (list(checks.fates) + list(checks.nops))[-SWEEP_MAX:]:
            self._ask(process, txn_id(key))
        for op in self.done[-SWEEP_MAX:]:
            self._ask_request(process, op)
            known = checks.requests.get(op.request_id or b"")
            if known is not None and machine.model.fates.get(checks.shared.get(known, known)):
                self._repeat(process, op)

    # --- one question

    def _ask(self, process: Process, txn: TxnId) -> None:
        checks = self.world.checks
        self._call(
            process,
            lambda call: ev.WaitRequested(call, txn),
            lambda outcome: checks.answers.told_late(process, txn, outcome),
        )

    def _ask_request(self, process: Process, op: Op) -> None:
        checks, request_id = self.world.checks, op.request_id
        assert request_id is not None
        self._call(
            process,
            lambda call: ev.WaitRequested(call, request_id=request_id),
            lambda outcome: checks.answers.told_request_late(process, request_id, outcome),
        )

    def _repeat(self, process: Process, op: Op) -> None:
        """As the client sent it: where it is known it does nothing, else it is done now, once."""
        checks, request_id = self.world.checks, op.request_id
        assert request_id is not None
        self.world.hits["request repeated late"] += 1
        self._call(
            process,
            lambda call: ev.ClientWrites([write_of(op, call)]),
            lambda outcome: checks.answers.told_request_late(process, request_id, outcome),
        )

    def _call(self, process: Process, event_of: object, judge: object) -> None:
        world = self.world
        world.hits["late question"] += 1
        is_at_once = True

        def done(outcome: ev.Outcome) -> None:
            world.checks.answers.told(process.number, outcome)
            if is_at_once:
                judge(outcome)  # type: ignore[operator]

        call = process.call(event_of, done)  # type: ignore[arg-type]
        is_at_once = False
        if call in process.calls:
            world.at(world.now + self.rng.uniform(0.0, 0.5) * world.time_scale, expire, world, process, call)
