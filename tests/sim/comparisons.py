"""What an instance shows, compared with its log; what all of them show, compared with each other."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from synchro.ids import LOCAL
from synchro.storage.memtx import Memtx
from synchro.storage.schema import (
    INDEX_ID,
    SEQUENCE_DATA_ID,
    SEQUENCE_ID,
    SPACE_ID,
    SPACE_SEQUENCE_ID,
    TEMPORARY_ID_MIN,
    SpaceDef,
)
from synchro.vclock import Vclock
from tests.mesh import ASYNC, SYNC
from tests.sim.model import change

if TYPE_CHECKING:
    from tests.sim.checkers import Checks
    from tests.sim.process import Process
    from tests.sim.world import World


def user_spaces(memtx: Memtx) -> list[SpaceDef]:
    """Those that have a primary key."""
    catalog = memtx.catalog
    return [space for space in catalog.spaces() if not space.is_system and catalog.indexes(space.id)]


def definitions(memtx: Memtx) -> dict[int, list[Any]]:
    """What all instances must have alike: spaces that are temporary altogether are known to one."""
    known = {}
    for space in (SPACE_ID, INDEX_ID, SEQUENCE_ID, SEQUENCE_DATA_ID, SPACE_SEQUENCE_ID):
        known[space] = [row for row in memtx.select(space) if row[0] < TEMPORARY_ID_MIN]
    return known


class Comparisons:
    """Those of one world; what else is known of it stands in its `Checks`."""

    def __init__(self, world: World, checks: Checks) -> None:
        self.world = world
        self.checks = checks
        self._fail = checks.fail

    # --- an instance and its log

    def after_write(self, process: Process) -> None:
        model, limbo = process.machine.model, process.instance.limbo
        ahead = [txn for txn in self.checks.ahead(process) if txn.origin != LOCAL]
        confirmed = ahead[-1].lsn if ahead else model.confirmed.get(model.owner, 0)
        if (limbo.owner_id, limbo.term, limbo.confirmed_lsn) != (model.owner, model.term, confirmed):
            self._fail(
                "S5",
                f"{process.number}: queue is {limbo.owner_id}, {limbo.term}, {limbo.confirmed_lsn}; "
                f"its log says {model.owner}, {model.term}, {confirmed}",
            )
        if self.world.steps % 40 == 0:
            self.compare_data(process)

    def compare_data(self, process: Process) -> None:
        """S4, S12: committed data is what the log says, and what the owner committed ahead of it."""
        memtx = process.instance.memtx
        data, newest = dict(process.machine.model.data), dict(process.machine.model.newest)
        for txn in self.checks.ahead(process):
            change(data, txn, newest)
        wanted: dict[int, dict[object, tuple[object, ...]]] = defaultdict(dict)
        for (number, key), row in data.items():
            wanted[number][key] = row
        for definition in user_spaces(memtx):
            space, is_temporary = definition.id, definition.is_temporary
            have = {row[0]: row for row in memtx.select(space)}
            want = process.temporary.get(definition.name, {}) if is_temporary else wanted[space]
            if have != want:
                odd = sorted((k for k in have.keys() | want.keys() if have.get(k) != want.get(k)), key=repr)
                self._fail(
                    "S4",
                    f"{process.number}: space {space}, keys {odd}: shows {[have.get(k) for k in odd]}, "
                    f"its log says {[want.get(k) for k in odd]}",
                )
        if self.world.clerks.is_on:
            self.world.clerks.look(process)

    # --- all of them, at the end

    def converged(self) -> str | None:
        """S22: what still differs; None if all are equal."""
        machines = [*self.world.staying, *self.world.outsiders.machines]
        vclock: Vclock | None = None
        for machine in machines:
            process = machine.process
            if process is None:
                return f"{machine.number} is down"
            mine = process.instance.vclock.without_local()
            if process.instance.limbo.entries:
                return f"{machine.number} has {process.instance.limbo.entries} in its queue"
            if self.checks.ahead(process):
                return f"{machine.number} has commits that it did not announce yet"
            if vclock is not None and mine != vclock:
                return f"{machine.number} is at {mine}, {machines[0].number} at {vclock}"
            vclock = mine
        first = machines[0].process
        assert first is not None
        for machine in machines[1:]:
            assert machine.process is not None
            # Without an owner everybody writes the asynchronous space, and replaced tuples need not converge.
            memtx = machine.process.instance.memtx
            if self.world.clerks.is_on and definitions(memtx) != definitions(first.instance.memtx):
                return f"definitions differ on {machine.number} and {machines[0].number}"
            for definition in user_spaces(memtx):
                space = definition.id
                if definition.is_temporary or definition.is_local or (self.world.is_async and space != SYNC):
                    continue
                if memtx.checksum(space) != first.instance.memtx.checksum(space):
                    return f"space {space} differs on {machine.number} and {machines[0].number}"
        return None

    def tombstones_are_few(self) -> None:
        """S25: everybody has everything, so nothing older can come, and no deletion need be remembered. Who
        was restarted read them again from its log, and heard the acks anew."""
        self.world.run_until(self.world.now + 20 * self.world.replication_timeout)
        for machine in self.world.machines.values():
            assert machine.process is not None
            stamps = machine.process.instance.memtx.catalog.store(ASYNC).stamps
            assert stamps is not None
            if stamps.graves:
                self._fail(
                    "S25", f"{machine.number} still remembers the deletions of {sorted(stamps.graves)}"
                )
