"""Readers that stay where they are, also while that instance is deposed, paused, or cut off from the others.

Writers go where they are served, so an owner that was left alone answers nobody. These ask on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from synchro.instance import events as ev
from synchro.queue.limbo import QueueState
from tests.mesh import SYNC
from tests.sim.clients import expire
from tests.sim.history import Seen
from tests.sim.visitors import Visitors

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World


class Readers(Visitors):
    """All of a world; none in most worlds."""

    def __init__(self, world: World) -> None:
        is_eligible = not (world.is_quiet or world.masters)
        super().__init__(world, "readers", is_eligible=is_eligible, share=0.2, pauses=(0.02, 0.08))
        rng = self.rng
        self.stays = rng.choice((1.0, 4.0, 30.0)) * world.time_scale
        """Seconds with one instance."""
        if self.is_on and rng.random() < 0.6:
            for kind in ("pause", "isolate owner"):
                world.nemesis.also(kind, 0.3)
        self._until = 0.0
        self._at: Machine | None = None
        self._was_owner = False
        self._places: dict[tuple[int, object], tuple[Process, int]] = {}
        """(instance, key) -> the life in which it was read there last, and the place of that version"""

    def _next(self) -> None:
        world = self.world
        if world.clients_stopped:
            return
        self._later()
        if self._at is None or world.now > self._until:
            self._move()
        machine = self._at
        assert machine is not None
        key = self.rng.randrange(world.keys)
        self._ask(machine, key, world.now)

    def _move(self) -> None:
        """To the owner mostly."""
        machines = list(self.world.machines.values())
        owners = [m for m in machines if m.process and m.process.instance.limbo.state is QueueState.LEADER]
        self._at = self.rng.choice(owners if owners and self.rng.random() < 0.8 else machines)
        self._was_owner = self._at in owners
        self._until = self.world.now + self.stays * self.rng.uniform(0.5, 1.5)

    def _ask(self, machine: Machine, key: int, began: float) -> None:
        world, rng, process = self.world, self.rng, machine.process
        if process is None:
            return
        if machine.is_paused:  # it is asked, and reads when it goes on
            world.hits["a paused instance is asked"] += 1
            machine.after_pause(self._ask, machine, key, began)
            return
        if rng.random() < 0.5:
            self._look(process, key)
            return
        if self._was_owner and process.instance.limbo.state is not QueueState.LEADER:
            world.hits["a deposed owner is asked"] += 1
        if self._was_owner and any(machine.number in pair[:2] for pair in world.net.blocked):
            world.hits["an owner that is cut off is asked"] += 1

        def ready(outcome: ev.Outcome) -> None:
            if isinstance(outcome, ev.ReadReady):
                world.hits["a reader that stays is answered"] += 1
                world.checks.answers.read_is_linearizable(process, began, ())
                row = process.instance.memtx.get(SYNC, 0, (key,))
                world.checks.answers.read(process.number, key, row)
                value = None if row is None else row[1]
                world.history.append(Seen(False, key, value, began, world.now, f"reader at {process.number}"))

        # As another instance asks for its readers, without what waits: an owner that is cut off has a
        # queue, and would answer none of them. Clients ask for that too.
        call = process.call(lambda call: ev.ReadBarrierRequested(call, awaits_queue=False), ready)
        if call in process.calls:
            world.at(world.now + rng.choice((0.3, 1.0, 3.0)) * world.time_scale, expire, world, process, call)

    def _look(self, process: Process, key: object) -> None:
        """S13: what one life of an instance shows of a key never goes back. Where owners may differ there is
        no such order: the same write may be done under each of them."""
        if self.world.may_diverge:
            return
        checks = self.world.checks
        row = process.instance.memtx.get(SYNC, 0, (key,))
        checks.answers.read(process.number, key, row)
        order = checks.versions.get(key, [])
        place = 0 if row is None or row[1] not in order else order.index(row[1]) + 1
        life, before = self._places.get((process.number, key), (process, 0))
        if life is process and place < before:
            checks.fail("S13", f"{process.number} shows {row} of key {key}, after version {before} of it")
        self._places[process.number, key] = process, place
