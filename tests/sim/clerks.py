"""Clients that change definitions and use every operation: spaces of all kinds, made and dropped while others
write; updates, upserts and deletes; sequences; transactions over two spaces, and over local and global ones.

What an instance shows of it is compared with its log (`LogModel`), and temporary data with what this life of
the instance told. The money of a bank lies in two spaces; nobody ever reads that some of it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from synchro.errors import SynchroError
from synchro.ids import NOBODY
from synchro.instance import events as ev
from synchro.row import Dml, RowType
from synchro.storage import row_body, schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.schema import SpaceDef
from synchro.storage.schema_ops import Numbered
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC
from tests.sim.clients import expire
from tests.sim.visitors import Visitors

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

SPACES_MAX: Final = 4
KEYS: Final = 5
ACCOUNTS: Final = 3
MONEY: Final = 100
"""In each account of each of the two spaces."""
BANKS: Final = ("bank1", "bank2")
FIRST_OWN_KEY: Final = 5000
"""Of rows in the spaces that other clients use too."""

make = row_body.dml_from_values
Ops = Sequence[Dml]


def encoded(ops: Ops) -> list[Dml]:
    return [
        make(op.type, op.space_id, index_id=op.index_id, key=op.key, value=op.value, ops=op.ops) for op in ops
    ]


class Clerks(Visitors):
    """All of a world; none in most worlds."""

    def __init__(self, world: World) -> None:
        is_eligible = not (world.may_diverge or world.is_async or world.is_quiet or world.masters)
        super().__init__(world, "clerks", is_eligible=is_eligible, share=0.13, pauses=(0.01, 0.05, 0.2))
        self.ddl_share = self.rng.choice((0.05, 0.15, 0.4))
        self.given: set[tuple[int, object]] = set()
        """(space, value that its sequence gave to a transaction that is committed)"""

    def start(self) -> None:
        if self.is_on:
            for _ in range(self.rng.choice((1, 2))):
                self._later()

    def _next(self) -> None:
        world = self.world
        if world.clients_stopped:
            return
        self._later()
        machine = self._target()
        process = machine.process
        if process is None or machine.is_paused:
            return
        try:
            self._act(process)
        except SynchroError:
            world.hits["change of definitions refused at once"] += 1

    def _target(self) -> Machine:
        machines = list(self.world.machines.values())
        writable = [m for m in machines if m.process is not None and m.process.instance.is_writable]
        return self.rng.choice(writable if writable and self.rng.random() < 0.85 else machines)

    def _act(self, process: Process) -> None:
        """Rows that wait for no quorum are lost with a deposed owner, which stops streams (S16): all rows
        that peers get are beside synchronous ones, or change definitions under an owner (ADR 6)."""
        kind = self.rng.random()
        if kind < 0.15:
            self._alone(process)
        elif process.instance.limbo.owner_id == NOBODY:
            return
        elif kind < 0.15 + self.ddl_share:
            self._define(process)
        elif kind < self.ddl_share + 0.35:
            self._bank(process)
        else:
            self._change(process)

    # --- definitions

    def _define(self, process: Process) -> None:
        rng, memtx = self.rng, process.instance.memtx
        made = self._made(memtx)
        bare = [space for space in made if not memtx.catalog.indexes(space.id)]
        if bare:
            sequence = Numbered() if bare[0].is_sync and rng.random() < 0.5 else None
            self._ask(process, "index", schema_ops.create_index(memtx, bare[0].id, "pk", sequence=sequence))
            return
        space = rng.choice(made) if made else None
        if space is None or (len(made) < SPACES_MAX and rng.random() < 0.5):
            kind = rng.choice(("sync", "sync", "async", "data-temporary", "temporary"))
            options = {"kind": kind} if kind.endswith("temporary") else {"is_sync": kind == "sync"}
            name = f"made{self.world.next_call()}"
            self._ask(process, f"{kind} space", schema_ops.create_space(memtx, name, **options))
            return
        second = [index.name for index in memtx.catalog.indexes(space.id) if index.id]
        match rng.choice(("truncate", "drop", "index", "index")):
            case "truncate" if not space.is_temporary:
                self._ask(process, "truncate", schema_ops.truncate(memtx, space.id))
            case "drop":
                self._ask(process, "drop", schema_ops.drop_space(memtx, space.id))
            case "index" if second:
                self._ask(process, "index dropped", schema_ops.drop_index(memtx, space.id, second[0]))
            case _:
                ops = schema_ops.create_index(memtx, space.id, "second", parts=((2, "string"),), unique=False)
                self._ask(process, "second index", ops)

    def _made(self, memtx: Memtx) -> list[SpaceDef]:
        return [space for space in memtx.catalog.spaces() if space.name.startswith("made")]

    # --- data

    def _change(self, process: Process) -> None:
        """One to three operations, mostly in one space."""
        world, rng, memtx = self.world, self.rng, process.instance.memtx
        spaces = [s for s in self._made(memtx) if memtx.catalog.indexes(s.id)]
        if not spaces:
            self._define(process)
            return
        first = rng.choice(spaces)
        if first.is_temporary:
            self._temporary(process, first)
            return
        if first.is_sync and memtx.catalog.sequences.link_of(first.id) and rng.random() < 0.5:
            self._numbered(process, first.id)
            return
        others = [s.id for s in spaces if not s.is_temporary] + [SYNC, ASYNC]
        ids = [first.id, first.id if rng.random() < 0.7 else rng.choice(others), first.id]
        ids = ids[: rng.randint(1, 3)]
        if not first.is_sync:
            ids.append(SYNC)
        if rng.random() < 0.1:
            ids.insert(rng.randrange(len(ids)), LOCAL_SPACE)
            world.hits["local rows beside others"] += 1
        ops = [self._op(space, process.number) for space in ids]
        name = "two spaces" if len({op.space_id for op in ops}) > 1 else "changed"
        self._ask(process, name, ops)

    def _op(self, space: int, number: int) -> Dml:
        rng, word = self.rng, f"{number}.c{self.world.next_call()}"
        if space in (SYNC, ASYNC):
            return make(RowType.REPLACE, space, value=(FIRST_OWN_KEY + rng.randrange(KEYS), word))
        key = rng.randrange(KEYS)
        match rng.choice(("insert", "replace", "update", "update", "upsert", "delete")):
            case "insert":
                return make(RowType.INSERT, space, value=(key, word, 1))
            case "replace":
                return make(RowType.REPLACE, space, value=(key, word, 1))
            case "update":
                return make(RowType.UPDATE, space, key=(key,), ops=self._updates(word))
            case "upsert":
                return make(RowType.UPSERT, space, value=(key, word, 1), ops=self._updates(word))
            case _:
                return make(RowType.DELETE, space, key=(key,))

    def _updates(self, word: str) -> tuple[tuple[object, ...], ...]:
        return self.rng.choice(
            (
                (("=", 2, word), ("+", 3, 2)),
                (("-", 3, 5),),
                (("!", 4, word),),
                (("#", 4, 1), ("=", 2, word)),
            )
        )

    def _numbered(self, process: Process, space: int) -> None:
        """A NULL in the key takes the next value of the sequence."""
        rng = self.rng
        kinds = [
            rng.choice((RowType.INSERT, RowType.INSERT, RowType.REPLACE))
            for _ in range(rng.choice((1, 1, 3)))
        ]
        ops = [make(kind, space, value=(None, f"{self.world.next_call()}", 1)) for kind in kinds]

        def done(outcome: ev.Committed) -> None:
            for row in outcome.tuples:
                assert row is not None
                if (space, row[0]) in self.given:
                    self.world.checks.fail("S28", f"{process.number} gave {row[0]} in space {space} twice")
                self.given.add((space, row[0]))

        self._ask(process, "numbered", ops, done)

    def _alone(self, process: Process) -> None:
        """What concerns this instance only may be written on anybody [L-22]."""
        spaces = [space for space in self._made(process.instance.memtx) if space.is_temporary]
        spaces = [space for space in spaces if process.instance.memtx.catalog.indexes(space.id)]
        if spaces and self.rng.random() < 0.5:
            self._temporary(process, self.rng.choice(spaces))
        else:
            self._ask(process, "local", [self._op(LOCAL_SPACE, process.number)])

    def _temporary(self, process: Process, space: SpaceDef) -> None:
        op = self._op(space.id, process.number)
        if op.type is not RowType.REPLACE and op.type is not RowType.DELETE:
            op = make(RowType.REPLACE, space.id, value=(self.rng.randrange(KEYS), "t", 1))

        def done(outcome: ev.Committed) -> None:
            data = process.temporary.setdefault(space.name, {})
            if op.value is not None:
                data[op.value[0]] = op.value
            elif op.key is not None:
                data.pop(op.key[0], None)

        self._ask(process, "temporary", [op], done)

    # --- the bank

    def _bank(self, process: Process) -> None:
        rng, memtx = self.rng, process.instance.memtx
        known = {space.name: space.id for space in memtx.catalog.spaces()}
        for name in BANKS:
            if name not in known:
                self._ask(process, "bank", schema_ops.create_space(memtx, name, is_sync=True))
                return
            if not memtx.catalog.indexes(known[name]):
                self._ask(process, "bank", schema_ops.create_index(memtx, name, "pk"))
                return
        a, b = known[BANKS[0]], known[BANKS[1]]
        if memtx.get(a, 0, (0,)) is None:
            rows = [(space, key) for key in range(ACCOUNTS) for space in (a, b)]
            self._ask(process, "bank", [make(RowType.INSERT, s, value=(k, MONEY)) for s, k in rows])
            return
        amount = rng.randint(1, 9)
        source, target = (a, b) if rng.random() < 0.5 else (b, a)
        ops = [
            make(RowType.UPDATE, source, key=(rng.randrange(ACCOUNTS),), ops=(("-", 2, amount),)),
            make(RowType.UPDATE, target, key=(rng.randrange(ACCOUNTS),), ops=(("+", 2, amount),)),
        ]
        self._ask(process, "transfer", ops)

    def look(self, process: Process) -> None:
        """S13: whoever reads the two spaces sees all of the money, or that nobody has brought any yet."""
        memtx = process.instance.memtx
        spaces = [space for space in memtx.catalog.spaces() if space.name in BANKS]
        rows = [row for space in spaces if memtx.catalog.indexes(space.id) for row in memtx.select(space.id)]
        total = sum(row[1] for row in rows)
        if total not in (0, 2 * ACCOUNTS * MONEY):
            self.world.checks.fail("S13", f"{process.number} has {total} in its bank: {rows}")
        self.world.hits["money counted"] += bool(total)

    # --- asking

    def _ask(
        self,
        process: Process,
        what: str,
        ops: Ops,
        committed: Callable[[ev.Committed], None] | None = None,
    ) -> None:
        world, rng = self.world, self.rng
        rows = encoded(ops)
        is_global = what not in ("local", "temporary")

        def done(outcome: ev.Outcome) -> None:
            if is_global:
                world.checks.answers.told(process.number, outcome)
            if isinstance(outcome, ev.Committed):
                world.hits[f"clerk: {what}"] += 1
                if committed is not None:
                    committed(outcome)

        call: Any = process.call(lambda call: ev.ClientWrites([ev.ClientWrite(call, rows)]), done)
        if call in process.calls:
            timeout = rng.choice((0.3, 1.0, 3.0)) * world.time_scale
            world.at(world.now + timeout, expire, world, process, call)
