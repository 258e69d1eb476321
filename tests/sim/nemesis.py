"""Faults: a random subset of kinds per run, each with its own strength and its own stream of choices."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from synchro.config import FencingMode
from synchro.queue.limbo import QueueState
from tests.sim.disk import Fault

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.world import World


class Nemesis:
    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.choices.stream("nemesis")
        self._is_on = True
        self._cuts = 0
        rng = self.rng
        self.kinds: dict[str, Callable[[random.Random], None]] = {
            "kill": self._kill,
            "power": self._power,
            "power all": self._power_all,
            "crash at a call": self._crash_at_call,
            "pause": self._pause,
            "isolate": self._isolate,
            "isolate owner": self._isolate_owner,
            "split": self._split,
            "one way": self._one_way,
            "one kind": self._one_kind,
            "deaf owner": self._deaf_owner,
            "bridge": self._bridge,
            "ring": self._ring,
            "reset": self._reset,
            "stall": self._stall,
            "hold rows": self._hold_rows,
            "no room": self._no_room,
            "disk error": self._disk_error,
            "promote": self._promote,
            "demote": self._demote,
            "snapshot": self._snapshot,
        }
        later = world.choices.stream("later kinds")
        share = rng.choice((0.0, 0.15, 0.3, 0.6))
        self.chosen = [kind for kind in self.kinds if rng.random() < share]
        self.rates = {kind: rng.choice((0.05, 0.2, 0.6)) for kind in self.chosen}
        if "power all" in self.rates:
            self.rates["power all"] /= 4
        # Kinds that came later have choices of their own: the worlds of old seeds stay as they are.
        self.kinds["clean stop"] = self._clean_stop
        if later.random() < 0.3:
            self.rates["clean stop"] = later.choice((0.05, 0.2, 0.6))
        self.kinds["stall owner"] = self._stall_owner
        of_disks = world.choices.stream("stall owner")
        if of_disks.random() < 0.2:
            self.rates["stall owner"] = of_disks.choice((0.05, 0.2))
        self._death_s = 4 * world.replication_timeout
        network = world.net
        network.delay_min = rng.choice((0.0001, 0.001, 0.01))
        network.delay_mean = rng.choice((0.0005, 0.005, 0.03)) * world.time_scale
        if later.random() < 0.3:
            network.message_lag = later.choice((0.005, 0.03))
        rates = rng.random() < 0.3
        for machine in world.machines.values():
            machine.disk_mean = rng.choice((0.0005, 0.003, 0.02)) * world.time_scale
            machine.clock_offset = rng.uniform(0, 1000)
            if rates:
                machine.clock_rate = rng.uniform(0.6, 1.6)
                if world.fencing is FencingMode.STRICT:  # half the time must be enough for a heartbeat
                    machine.clock_rate = 0.8 + 0.2 * machine.clock_rate
            machine.frame_txns_max = rng.choice((1, 3, 100))

        self.ambushes = rng.choice((0.0, 0.05, 0.2, 0.5))
        """Share of the moments when a queue changes hands at which something happens to who takes it."""
        self._ambush_rng = world.choices.stream("ambush")

    def also(self, kind: str, rate: float) -> None:
        """A fault without which something in this world would hardly ever be seen. Before `start`."""
        self.rates[kind] = max(rate, self.rates.get(kind, 0.0))

    def ambush(self, number: int) -> None:
        """An instance writes PROMOTE, DEMOTE or the CONFIRM that decides it: the moments that matter most."""
        rng = self._ambush_rng
        if not self._is_on or rng.random() >= self.ambushes:
            return
        world = self.world
        machine = world.machines[number]
        world.hits["ambush"] += 1
        for _ in range(rng.choice((1, 1, 2, 3))):
            soon = world.now + rng.choice((0.0, 0.001, 0.01, 0.1)) * rng.random()
            world.at(soon, self._spring, machine, rng.choice(("hold", "isolate", "kill", "power", "promote")))

    def _spring(self, machine: Machine, how: str) -> None:
        if not self._is_on:
            return
        rng, world = self._ambush_rng, self.world
        world.note(machine.number, f"ambush: {how}")
        others = sorted(set(world.machines) - {machine.number})
        match how:
            case "hold":
                until = world.now + rng.choice((0.5, 2.0)) * world.time_scale
                for other in others:
                    if rng.random() < 0.8:
                        machine.rows_held[other] = until
            case "isolate":
                self._cut([{machine.number}, set(others)])
            case "kill":
                machine.kill()
            case "power":
                machine.cut_power()
            case _:
                if others:
                    world.promote(world.machines[rng.choice(others)])

    def start(self) -> None:
        for kind in sorted(self.rates):
            self._schedule(kind, self.world.choices.stream("fault", kind))

    def _schedule(self, kind: str, rng: random.Random) -> None:
        mean = 1.0 / self.rates[kind]
        self.world.at(self.world.now + rng.expovariate(1.0) * mean, self._act, kind, rng)

    def _act(self, kind: str, rng: random.Random) -> None:
        if not self._is_on:
            return
        self.world.note(0, kind)
        self.world.hits["fault " + kind] += 1
        self.kinds[kind](rng)
        self._schedule(kind, rng)

    def stop(self) -> None:
        self._is_on = False
        for machine in self.world.machines.values():
            machine.disk.room = None
            machine.disk.faults.clear()
            machine.stall_until = 0.0
            machine.rows_held.clear()
            process = machine.process
            if process is not None:
                for relay in list(process.relays.values()):
                    relay.pump()

    def calm(self) -> None:
        """Nothing breaks, and nothing is slow."""
        self._is_on, self.ambushes = False, 0.0
        network, scale = self.world.net, self.world.time_scale
        network.delay_mean, network.message_lag = min(network.delay_mean, 0.005 * scale), 0.0
        for machine in self.world.machines.values():
            machine.disk_mean = min(machine.disk_mean, 0.003 * scale)
            machine.clock_rate = 1.0 + (machine.clock_rate - 1.0) * 0.1

    def heal(self, numbers: set[int]) -> None:
        """These instances, and the network between them, which is then as quick as elections need it: with a
        tenth of their timeout below a round trip every vote is split, and that is no bug."""
        world = self.world
        world.net.delay_min, world.net.delay_mean, world.net.message_lag = 0.0002, 0.0005, 0.0
        for machine in world.machines.values():
            machine.disk_min, machine.disk_mean = 0.0002, 0.0005
        for number in numbers:
            world.machines[number].wake()
        world.net.heal({(a, b) for a in numbers for b in numbers})

    # --- faults

    def _one(self, rng: random.Random) -> Machine:
        return self.world.machines[rng.choice(sorted(self.world.machines))]

    def _kill(self, rng: random.Random) -> None:
        self._one(rng).kill()

    def _clean_stop(self, rng: random.Random) -> None:
        self._one(rng).stop_cleanly()

    def _power(self, rng: random.Random) -> None:
        self._one(rng).cut_power()

    def _power_all(self, rng: random.Random) -> None:
        for machine in self.world.machines.values():
            machine.cut_power()

    def _crash_at_call(self, rng: random.Random) -> None:
        machine = self._one(rng)
        machine.disk.faults[machine.disk.calls + rng.randint(1, 12)] = Fault.CUT

    def _pause(self, rng: random.Random) -> None:
        machine = self._one(rng)
        machine.pause(self.world.now + rng.choice((0.2, 1.0, 4.0)) * self.world.time_scale)

    def _cut(self, groups: list[set[int]]) -> None:
        """Only members of the same group hear each other."""
        numbers = sorted(self.world.machines)
        self.world.net.heal()
        self._block({(a, b) for a in numbers for b in numbers if not any(a in g and b in g for g in groups)})

    def _block(self, keys: set[tuple[int, ...]]) -> None:
        """Until links die of it and somebody else is elected, or not quite."""
        self.world.net.block(keys)
        self._cuts += 1
        after = self.rng.choice((0.3, 1.0, 2.0, 4.0, 8.0)) * self._death_s * self.rng.uniform(0.5, 1.5)
        self.world.at(self.world.now + after, self._heal_net, self._cuts)

    def _isolate(self, rng: random.Random) -> None:
        number = self._one(rng).number
        self._cut([{number}, set(self.world.machines) - {number}])

    def _isolate_owner(self, rng: random.Random) -> None:
        for machine in self.world.machines.values():
            process = machine.process
            if process is not None and process.instance.limbo.state is QueueState.LEADER:
                self._cut([{machine.number}, set(self.world.machines) - {machine.number}])

    def _split(self, rng: random.Random) -> None:
        numbers = sorted(self.world.machines)
        rng.shuffle(numbers)
        at = rng.randint(0, len(numbers))
        self._cut([set(numbers[:at]), set(numbers[at:])])

    def _one_way(self, rng: random.Random) -> None:
        numbers = sorted(self.world.machines)
        self._block({(a, b) for a in numbers for b in numbers if a != b and rng.random() < 0.3})

    def _one_kind(self, rng: random.Random) -> None:
        """Frames of some links, or acks of some links, and nothing else."""
        numbers = sorted(self.world.machines)
        is_down = rng.random() < 0.6
        self._block({(a, b, is_down) for a in numbers for b in numbers if a != b and rng.random() < 0.4})

    def _deaf_owner(self, rng: random.Random) -> None:
        """The owner gets acks, but hears of no election; somebody who lacks its last rows takes over."""
        world = self.world
        numbers = sorted(world.machines)
        for machine in world.machines.values():
            process = machine.process
            if process is not None and process.instance.limbo.state is QueueState.LEADER and len(numbers) > 1:
                owner = machine.number
                heir = rng.choice([n for n in numbers if n != owner])
                self._block({(n, owner, True) for n in numbers if n != owner} | {(owner, heir)})
                soon = world.now + rng.uniform(0.0, 2.0) * world.replication_timeout
                world.at(soon, self._promote_heir, heir)
                return

    def _promote_heir(self, number: int) -> None:
        if self._is_on:
            self.world.promote(self.world.machines[number])

    def _bridge(self, rng: random.Random) -> None:
        numbers = sorted(self.world.machines)
        rng.shuffle(numbers)
        half = len(numbers) // 2
        self._cut([set(numbers[: half + 1]), set(numbers[half:])])

    def _ring(self, rng: random.Random) -> None:
        numbers = sorted(self.world.machines)
        rng.shuffle(numbers)
        self._cut([{a, b} for a, b in zip(numbers, numbers[1:] + numbers[:1], strict=True)])

    def _heal_net(self, cut: int) -> None:
        if self._is_on and cut == self._cuts:
            self.world.net.heal()

    def _reset(self, rng: random.Random) -> None:
        if self.world.net.conns:
            self.world.net.reset(rng.choice(self.world.net.conns))

    def _stall(self, rng: random.Random) -> None:
        self._one(rng).stall_until = self.world.now + rng.choice((0.1, 0.5, 2.0, 5.0)) * self.world.time_scale

    def _stall_owner(self, rng: random.Random) -> None:
        """Until it must have resigned, and longer."""
        for machine in self.world.machines.values():
            process = machine.process
            if process is not None and process.instance.limbo.state is QueueState.LEADER:
                machine.stall_until = self.world.now + rng.uniform(1.0, 6.0) * self._death_s

    def _hold_rows(self, rng: random.Random) -> None:
        """A reader that is slow, or credit that is used up: elections go on, rows do not."""
        until = self.world.now + rng.choice((0.3, 1.0, 4.0)) * self.world.time_scale
        target = self._one(rng).number
        for machine in self.world.machines.values():
            if rng.random() < 0.8:
                machine.rows_held[target] = until

    def _no_room(self, rng: random.Random) -> None:
        machine = self._one(rng)
        machine.disk.room = machine.disk.used + rng.choice((0, 600, 3000))
        self.world.at(
            self.world.now + rng.choice((0.05, 0.3, 2.0)) * self.world.time_scale, self._room, machine
        )

    def _room(self, machine: Machine) -> None:
        machine.disk.room = None

    def _disk_error(self, rng: random.Random) -> None:
        machine = self._one(rng)
        machine.disk.faults[machine.disk.calls + rng.randint(1, 5)] = rng.choice(
            (Fault.EIO, Fault.ENOSPC, Fault.SHORT)
        )

    def _promote(self, rng: random.Random) -> None:
        self.world.promote(self._one(rng))

    def _demote(self, rng: random.Random) -> None:
        self.world.demote(self._one(rng))

    def _snapshot(self, rng: random.Random) -> None:
        process = self._one(rng).process
        if process is not None:
            process.snapshot()
