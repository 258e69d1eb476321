"""What must not last: an owner that cannot reach a quorum, or whose disk does not answer, and is writable.

An independent look at links: who was heard, by what arrived, not by what an instance says of its peers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synchro.config import ElectionMode, FencingMode

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

SLACK: Final = 2.0
"""Death timeouts until a dead link must have been noticed: it is looked for once a heartbeat, and what was
under way may come late."""


class Watch:
    def __init__(self, world: World) -> None:
        self.world = world
        rng = world.choices.stream("watch")
        is_eligible = not (world.may_diverge or world.is_quiet or world.masters or world.mode_kind == "off")
        self.is_on = is_eligible and rng.random() < 0.4
        if self.is_on and rng.random() < 0.3:
            world.nemesis.also("stall owner", 0.3)

    def start(self) -> None:
        if self.is_on:
            self.world.at(self.world.now + self.world.replication_timeout, self._look)

    def _look(self) -> None:
        world = self.world
        if world.is_over:
            return
        for machine in world.machines.values():
            process = machine.process
            if process is None or not process.instance.raft.is_leader:
                continue
            if process.settings.election_mode is not ElectionMode.OFF:
                self._look_at_disk(process)
                if process.settings.election_fencing_mode is not FencingMode.OFF:
                    self._look_at_links(process)
        world.at(world.now + world.replication_timeout, self._look)

    def _patience(self, process: Process) -> float:
        """World seconds; an instance that was stopped meanwhile could notice nothing."""
        return SLACK * process.settings.death_timeout_s / process.machine.clock_rate

    def _look_at_links(self, process: Process) -> None:
        """S29: fencing [E-30]."""
        world, instance = self.world, process.instance
        end = world.now - self._patience(process)
        since = max(process.machine.paused_until, process.changed_at, process.led_since)
        if since > end or not instance.is_writable:
            return
        heard = {
            peer
            for peer, at in process.heard_frames.items()
            if min(at, process.heard_acks.get(peer, 0.0)) > end
        }
        needed = instance.raft.membership.election_quorum
        if len(heard & instance.registered) + 1 < needed:
            world.checks.fail(
                "S29", f"{process.number} is writable and hears {sorted(heard)}; a quorum is {needed}"
            )
        world.hits["a writable owner has its quorum"] += 1

    def _look_at_disk(self, process: Process) -> None:
        """S29: a leader whose disk is stuck resigns (ADR 16)."""
        asked_at = process.asked_disk_at
        if asked_at is None:
            return
        since = max(asked_at, process.machine.paused_until, process.changed_at)
        if since > self.world.now - self._patience(process):
            return
        self.world.checks.fail("S29", f"{process.number} leads, and its disk is silent since {asked_at:.3f}")
