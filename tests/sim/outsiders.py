"""Anonymous followers: they get all rows and have no say (ADR 45, S24). They come, go, crash, are cut off;
in the end they have what all members have.

Their numbers are above all ids, and no member has them among its own: whoever looks at members does not see
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synchro.ids import ANONYMOUS, NOBODY
from synchro.raft.messages import Role

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

FIRST: Final = 41
"""The number of the first one."""


class Outsiders:
    """All of a world; none in most worlds. Where a disk may be lost there is none: rows that only it and a
    follower had are given up, and their LSNs are given again (invariants, "Lost disks"). Where members are
    removed there is none either: a row of one that had been removed may have come to a follower only."""

    def __init__(self, world: World) -> None:
        self.world = world
        rng = self.rng = world.choices.stream("outsiders")
        is_eligible = not (world.may_diverge or world.is_async or world.is_quiet or world.masters)
        is_whole = not (world.losses.lossy or world.leavers.is_on)
        self.is_on = is_eligible and is_whole and rng.random() < 0.1
        self.numbers = range(FIRST, FIRST + rng.choice((1, 1, 2))) if self.is_on else range(0)
        self.pause = rng.choice((0.3, 1.0, 3.0)) * world.time_scale

    @property
    def machines(self) -> list[Machine]:
        return [self.world.hosts[number] for number in self.numbers]

    def start(self) -> None:
        for machine in self.machines:
            machine.start()
        if self.is_on:
            self._later()

    def _later(self) -> None:
        self.world.at(self.world.now + self.rng.expovariate(1.0) * self.pause, self._act)

    def _act(self) -> None:
        world, rng = self.world, self.rng
        if world.clients_stopped:
            return
        self._later()
        if world.calm.is_on:
            return
        machine = rng.choice(self.machines)
        match rng.choice(("kill", "power", "pause", "cut", "cut", "snapshot")):
            case "kill":
                machine.kill()
            case "power":
                machine.cut_power()
            case "pause":
                machine.pause(world.now + rng.choice((0.2, 1.0, 4.0)) * world.time_scale)
            case "cut":
                others = [number for number in world.machines if rng.random() < 0.6]
                world.net.block({(other, machine.number) for other in others})
                after = rng.choice((0.3, 2.0, 8.0)) * world.time_scale
                world.at(world.now + after, self._heal, machine)
            case _ if machine.process is not None and not machine.is_paused:
                machine.process.snapshot()

    def _heal(self, machine: Machine) -> None:
        self.world.net.heal({(other, machine.number) for other in self.world.machines})

    def heal(self) -> None:
        """All, for good."""
        for machine in self.machines:
            machine.wake()
            self._heal(machine)
            machine.start_again()

    def look(self, process: Process) -> None:
        """S24, after a step of anybody."""
        instance, checks = process.instance, self.world.checks
        if process.number not in self.numbers:
            return
        raft = instance.raft
        if not instance.is_anonymous or instance.self_id != ANONYMOUS or instance.is_writable:
            checks.fail("S24", f"{process.number} is {instance.self_id}, writable: {instance.is_writable}")
        if raft.vote != NOBODY or raft.volatile_vote != NOBODY or raft.role is not Role.FOLLOWER:
            checks.fail("S24", f"{process.number} has no id; it voted for {raft.vote}, or stands")
        self.world.hits["an anonymous follower goes on"] += 1
