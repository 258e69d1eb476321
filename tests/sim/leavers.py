"""Members are removed while everything else goes on (ADR 41): who asks, and what follows for their links."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from synchro.config import QuorumFormula
from synchro.ids import NOBODY, InstanceId
from synchro.instance import events as ev
from synchro.replication.admission import expelled_error
from synchro.row import Dml, RowType
from synchro.storage import row_body
from synchro.storage.schema import CLUSTER_ID
from tests.mesh import uuid_of

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

STAY_MIN = 2


def removal(number: int) -> Dml:
    return row_body.dml_from_values(RowType.DELETE, CLUSTER_ID, key=(number,))


class Leavers:
    """The nemesis that removes members, in a part of the worlds with a majority quorum and whole disks."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = self.rng = world.choices.stream("leavers")
        is_majority = world.quorum == world.size // 2 + 1
        may_leave = not (world.is_async or world.is_quiet or world.losses.lossy or world.calm.is_on)
        is_eligible = is_majority and may_leave
        self.is_on: bool = rng.random() < 0.4 and is_eligible and world.size > STAY_MIN
        self.pause = rng.choice((0.2, 1.0, 3.0)) * world.time_scale
        self.asked: set[int] = set()
        self.left: set[int] = set()
        """Whose removal somebody has decided."""

    @property
    def quorum(self) -> QuorumFormula:
        return QuorumFormula("N / 2 + 1") if self.is_on else QuorumFormula(self.world.quorum)

    def start(self) -> None:
        if self.is_on:
            self.world.at(self.world.now + self.rng.expovariate(1.0) * self.pause, self._act)

    def _act(self) -> None:
        world, rng = self.world, self.rng
        if world.clients_stopped or world.is_over:
            return
        for machine in world.machines.values():
            process = machine.process
            if process is not None and not machine.is_paused and self.may_ask(process):
                self._ask(process)
                break
        world.at(world.now + rng.expovariate(1.0) * self.pause, self._act)

    def may_ask(self, process: Process) -> bool:
        """Without an owner in its log it would decide alone, against an owner that it did not hear of yet:
        two histories, as after any asynchronous write there (ADR 41; a story in `unit/test_expel.py`)."""
        return process.instance.is_writable and process.instance.limbo.owner_id != NOBODY

    def choose(self, rng: Random, *, but: int = 0) -> int | None:
        """Somebody who is to leave, if anybody may."""
        may_ask = len(self.asked) < self.world.size - STAY_MIN
        victims = sorted((set(self.world.machines) if may_ask else self.asked) - {but} - self.left)
        if not victims:
            return None
        victim = rng.choice(victims)
        self.asked.add(victim)
        return victim

    def _ask(self, process: Process) -> None:
        world = self.world
        victim = self.choose(self.rng, but=process.number)
        if victim is None:
            return
        world.note(process.number, f"expel {victim}")

        def done(outcome: ev.Outcome) -> None:
            if isinstance(outcome, ev.Rejected):
                world.hits[f"expel refused: {outcome.error.reason}"] += 1
            elif isinstance(outcome, ev.Committed):
                world.hits["expel answered"] += 1
                if victim not in self.left:
                    world.checks.fail("S23", f"{process.number} says that {victim} left, and nobody knows")

        call = process.call(lambda call: ev.ClientWrites([ev.ClientWrite(call, [removal(victim)])]), done)
        world.at(world.now + self.rng.uniform(0.2, 3.0) * world.time_scale, self._expire, process, call)

    def _expire(self, process: Process, call: object) -> None:
        if process.is_alive and call in process.calls:
            process.step(ev.CallExpired(call))  # type: ignore[arg-type]

    # --- what follows for the links, as in `server/roster.py`

    def changed(self, process: Process) -> None:
        """`MembersChanged` of one process."""
        expelled = set(map(int, process.instance.memtx.catalog.expelled()))
        self.world.hits["a member left"] += len(expelled - self.left)
        self.left |= expelled
        if process.instance.state.is_expelled:
            self.ends(process)
            return
        for number in expelled:
            process.appliers[number].lost()
            process.after(process.settings.death_timeout_s, self._let_go, process, number)

    def ends(self, process: Process) -> None:
        """It knows that it was removed."""
        number = process.number
        error = expelled_error(uuid_of(number), InstanceId(number), process.instance.limbo.term)
        for applier in process.appliers.values():
            applier.stop(error)
        for relay in list(process.relays.values()):
            relay.close()

    def _let_go(self, process: Process, number: int) -> None:
        relay = process.relays.get(InstanceId(number)) if process.is_alive else None
        if relay is not None:
            relay.close()

    def refuses(self, process: Process, subscriber: int) -> bool:
        instance = process.instance
        return instance.state.is_expelled or subscriber in instance.memtx.catalog.expelled()
