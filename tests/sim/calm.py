"""Worlds without faults: nothing may happen in them but work. Then links that are cut in a part of the set.

While networks and disks are healthy there is no election and no link is made anew, and a promote that
somebody asks for rolls nothing back (S30). While somebody
reaches a quorum, whatever becomes of the links among the others, there is an owner soon, and it stays (S31).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synchro.config import FencingMode
from tests.sim.checkers import Violation

if TYPE_CHECKING:
    from tests.sim.world import World

CALM_S: Final = 4.0
"""Times the time scale of the world."""
HALF_S: Final = 8.0
HAND_OVERS: Final = 3
TERMS_MAX: Final = 3
"""Of the longer part."""


class Calm:
    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.choices.stream("calm")
        self.is_on = self.rng.random() < 0.04 and not world.masters
        self.is_handed_over = self.is_on and world.choices.stream("hand over").random() < 0.6

    def configure(self) -> None:
        """Before anything else is drawn for the world, or of it."""
        world, rng = self.world, self.rng
        world.size = rng.choice((3, 3, 4, 5))
        world.quorum = world.size // 2 + 1
        world.may_diverge = world.is_async = world.is_quiet = False
        world.mode_kind = "candidate"
        if world.fencing is FencingMode.OFF:  # a leader that reaches too few would stay
            world.fencing = FencingMode.SOFT
        world.client_count = max(1, world.client_count)

    def run(self) -> None:
        world = self.world
        world.nemesis.calm()
        bound = 20 * world.election_timeout + 20 * self._death_s
        if not world.run_until(world.now + bound, self._is_up):
            raise Violation("S31", f"no owner after {bound:.1f} s{world.state(set(world.machines))}")
        world.run_until(world.now + 2 * self._death_s)
        before = self._seen()
        world.run_until(world.now + CALM_S * world.time_scale)
        if self._seen() != before:
            raise Violation("S30", f"(term, links) were {before}, and are {self._seen()} with nothing broken")
        world.hits["nothing is broken, and nothing happens"] += 1
        if self.is_handed_over:
            self._hand_over()
        if self.rng.random() < 0.7:
            self._half_connected()
        world.clients_stopped = True
        world.finish()

    def _hand_over(self) -> None:
        """Others are asked to lead, one after the other, while clients write."""
        world, rng = self.world, self.world.choices.stream("hand over")
        for _ in range(HAND_OVERS):
            machines = list(world.machines.values())
            owners = [m for m in machines if m.process and m.process.instance.owns_queue]
            world.promote(rng.choice([m for m in machines if m not in owners]))
            world.run_until(world.now + rng.uniform(1.0, 3.0) * self._death_s)
            if world.hits["entry rolled back"]:
                raise Violation("S30", f"a promote rolled something back, with nothing broken{self._told()}")
        world.hits["a promote rolls nothing back"] += 1

    def _told(self) -> str:
        return self.world.state(set(self.world.machines))

    @property
    def _death_s(self) -> float:
        return 4 * self.world.replication_timeout / self.world.slowest

    def _is_up(self) -> bool:
        machines = self.world.machines.values()
        return all(
            m.process is not None and all(a.is_accepted for a in m.process.appliers.values())
            for m in machines
        ) and self.world.serves(set(self.world.machines))

    def _seen(self) -> dict[int, tuple[int, list[int]]]:
        """Instance -> its term, and how often it began each of its streams."""
        found: dict[int, tuple[int, list[int]]] = {}
        for number, machine in self.world.machines.items():
            assert machine.process is not None
            term = machine.process.instance.raft.volatile_term
            found[number] = (term, [applier.epoch for applier in machine.process.appliers.values()])
        return found

    def _half_connected(self) -> None:
        """One instance and so many others that they are a quorum keep their links; of all other pairs some
        are cut, in one direction or both."""
        world, rng = self.world, self.rng
        numbers = sorted(world.machines)
        rng.shuffle(numbers)
        hub, others = numbers[0], numbers[1 : world.quorum]
        kept = {(hub, other) for other in others} | {(other, hub) for other in others}
        pairs = {(a, b) for a in sorted(numbers) for b in sorted(numbers) if a != b} - kept
        cut = {pair for pair in sorted(pairs) if rng.random() < 0.6}
        world.note(0, f"half connected: {sorted(cut)}")
        world.net.block(set(cut))
        bound = (20 * world.election_timeout) / world.slowest + 3 * self._death_s
        world.run_until(world.now + 2 * self._death_s)
        everyone = set(world.machines)
        if not world.run_until(world.now + bound, lambda: world.serves(everyone)):
            raise Violation(
                "S31", f"no owner after {bound:.1f} s, cut are {sorted(cut)}{world.state(everyone)}"
            )
        world.probe(everyone, world.now + bound)
        term = self._term()
        world.run_until(world.now + HALF_S * world.time_scale)
        if self._term() - term > TERMS_MAX:
            raise Violation("S31", f"term {term} became {self._term()}, cut are {sorted(cut)}")
        world.hits["half of the links are cut, and one owner stays"] += 1
        world.net.heal()

    def _term(self) -> int:
        return max(m.process.instance.raft.volatile_term for m in self.world.machines.values() if m.process)
