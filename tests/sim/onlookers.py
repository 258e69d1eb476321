"""Readers who ask for READ_COMMITTED (Q-56): what waits, beside what is committed, on any instance.

What such a read must show follows from the log of the instance that is read, and from what is on its way to
its disk (S32). The same rows are read as everybody reads them, too: of what waits nothing is shown then (S4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synchro.row import Dml, Tuple, Txn
from synchro.storage.index import Iterator_
from tests.mesh import ASYNC, SYNC
from tests.sim.model import Range, change
from tests.sim.visitors import Visitors

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

FIRST_KEYS: Final = (0, 0, 3, 7000, 7200, 7230)
"""Where a range begins: among those of clients, of the careful ones, of those who think."""


class Onlookers(Visitors):
    """All of a world; none in most worlds. They change nothing."""

    def __init__(self, world: World) -> None:
        is_eligible = not (world.may_diverge or world.is_quiet or world.masters)
        super().__init__(world, "onlookers", is_eligible=is_eligible, share=0.3, pauses=(0.02, 0.08, 0.2))
        self._shown: set[tuple[int, Tuple]] = set()
        """(space, tuple) of what was shown while it waited."""

    def _next(self) -> None:
        world, rng = self.world, self.rng
        if world.is_over:
            return
        self._later()
        machine = rng.choice(list(world.hosts.values()))
        if machine.process is None or machine.is_paused:
            return
        iterator = rng.choice((Iterator_.EQ, Iterator_.GE, Iterator_.LE))
        key = rng.randrange(world.keys) if rng.random() < 0.5 else rng.choice(FIRST_KEYS)
        space = rng.choice((SYNC, SYNC, SYNC, ASYNC))
        self._look(machine.process, Range(space, key, iterator, rng.choice((1, 3, 10))))

    def _look(self, process: Process, what: Range) -> None:
        space_id, key, iterator, limit = what
        model, memtx, hits = process.machine.model, process.instance.memtx, self.world.hits
        data, newest = dict(model.data), dict(model.newest)
        ahead = self.world.checks.ahead(process)
        for txn in ahead:
            change(data, txn, newest)
        committed = memtx.select(space_id, 0, (key,), iterator, limit=limit)
        if committed != what.of(data):
            self._fail("S4", process, what, committed, what.of(data))
        for txn in [*model.queue[len(ahead) :], *process.on_the_way()]:
            change(data, txn, newest)
        shown = memtx.select(space_id, 0, (key,), iterator, limit=limit, prepared=True)
        if shown != what.of(data):
            self._fail("S32", process, what, shown, what.of(data))
        waits = [row for row in shown if row not in committed]
        hits["READ_COMMITTED shows what waits"] += bool(waits)
        self._shown.update((space_id, row) for row in waits)

    def rolled_back(self, txn: Txn) -> None:
        if self._shown:
            bodies = [row.body for row in txn.rows if isinstance(row.body, Dml)]
            made = {(body.space_id, body.value) for body in bodies if body.space_id in (SYNC, ASYNC)}
            self.world.hits["READ_COMMITTED showed what is rolled back"] += not made.isdisjoint(self._shown)

    def _fail(
        self, rule: str, process: Process, what: Range, shown: list[Tuple], wanted: list[Tuple]
    ) -> None:
        self.world.checks.fail(
            rule, f"{process.number} shows {shown} of {what}; its log, and what is on its way, say {wanted}"
        )
