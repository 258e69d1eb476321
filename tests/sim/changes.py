"""Options that change while instances run: quorums one instance after the other (ADR 38), modes, time-outs.

A quorum is a majority before and after. What is changed is the operator's file: an instance that is away
takes it at its next start. Before liveness is asked for, everything is as the world began, unless only voters
would be left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from synchro.config import ElectionMode, FencingMode, QuorumFormula, Settings
from synchro.instance import events as ev

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

KINDS: Final = ("quorum", "quorum", "mode", "time-outs", "fencing", "room in the queue")


class Changes:
    def __init__(self, world: World) -> None:
        self.world = world
        rng = self.rng = world.choices.stream("changes")
        is_eligible = not (world.may_diverge or world.is_quiet or world.masters or world.calm.is_on)
        self.is_on = is_eligible and rng.random() < 0.15
        self.pause = rng.choice((0.1, 0.5, 2.0)) * world.time_scale
        self.kinds = [kind for kind in KINDS if rng.random() < 0.6] or ["quorum"]
        self._first: dict[int, Settings] = {}
        self._queue: list[tuple[int, str, dict[str, Any]]] = []
        """Who is still to be told, of the change that goes on now."""

    def start(self) -> None:
        if self.is_on:
            self._first = {number: machine.settings for number, machine in self.world.machines.items()}
            self._later()

    def _later(self) -> None:
        self.world.at(self.world.now + self.rng.expovariate(1.0) * self.pause, self._next)

    def _next(self) -> None:
        if self.world.clients_stopped:
            return
        if not self._queue:
            self._queue = self._draw()
        number, kind, options = self._queue.pop()
        self._change(self.world.machines[number], kind, options)
        self._later()

    def _draw(self) -> list[tuple[int, str, dict[str, Any]]]:
        """A quorum and its like for all, one after the other; the rest for one instance."""
        world, rng = self.world, self.rng
        numbers = sorted(world.machines)
        rng.shuffle(numbers)
        kind = rng.choice(self.kinds)
        match kind:
            case "quorum" if not world.leavers.is_on:
                options: dict[str, Any] = {
                    "synchro_quorum": QuorumFormula(rng.randint(world.size // 2 + 1, world.size))
                }
            case "mode":
                numbers = numbers[:1]
                modes = (ElectionMode.CANDIDATE, ElectionMode.MANUAL, ElectionMode.VOTER, ElectionMode.OFF)
                options = {"election_mode": rng.choice(modes)}
            case "time-outs":
                scale = rng.choice((0.7, 1.0, 1.5))
                options = {
                    "replication_timeout_s": world.replication_timeout * scale,
                    "election_timeout_s": world.election_timeout * rng.choice((0.7, 1.0, 2.0)),
                }
            case "fencing":
                numbers = numbers[:1]
                options = {"election_fencing_mode": rng.choice(tuple(FencingMode))}
            case _:
                kind, numbers = "room in the queue", numbers[:1]
                options = {"synchro_queue_max_size": rng.choice((0, 1_000, 16 << 20))}
        return [(number, kind, options) for number in numbers]

    def _change(self, machine: Machine, kind: str, options: dict[str, Any]) -> None:
        self.world.hits[f"option changed: {kind}"] += 1
        self._set(machine, replace(machine.settings, **options))

    def _set(self, machine: Machine, settings: Settings) -> None:
        machine.settings = settings
        if machine.process is not None:
            self._take(machine.process)

    def _take(self, process: Process) -> None:
        """The options of the file, as it is by now; what an ack says of the quorum is told at once."""
        if process.wait_out_pause(self._take, process):
            return
        process.settings = process.machine.settings
        process.changed_at = self.world.now
        process.watch_disk()
        process.step(ev.SettingsChanged(process.settings))
        for applier in process.appliers.values():
            applier.send_ack()

    def restore(self) -> None:
        """As the world began; of voters that are left alone one becomes a candidate, as S21 asks [E-9]."""
        voter = self._lone_voter()
        for number, settings in self._first.items():
            if number == voter:
                self.world.hits["a voter that was left alone may stand"] += 1
                settings = replace(settings, election_mode=ElectionMode.CANDIDATE)
            self._set(self.world.machines[number], settings)

    def _lone_voter(self) -> int | None:
        """One of those who surely stay, if all of them began as voters. Only an owner removes members, and it
        stays: so it takes an option that let a voter lead. What was asked for may still be decided."""
        staying = sorted(self._first.keys() - self.world.leavers.asked)
        if not staying or any(self._first[n].election_mode is not ElectionMode.VOTER for n in staying):
            return None
        return self.rng.choice(staying)
