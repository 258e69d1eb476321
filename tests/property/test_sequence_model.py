"""Sequences against a slow obvious twin: a list of what happened, looked through from the start each time.

Transactions are prepared, committed from the left and rolled back from the right, in any mixture of single
rows, columns, chosen values, next, set and reset. [D-26], ADR 47.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from synchro.errors import SequenceOverflow, SynchroError, TupleFound
from synchro.row import Dml, Puts, RowType
from synchro.storage import schema_ops as ops
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal, Prepared
from synchro.storage.row_body import dml_from_values, put_dml
from synchro.storage.schema import SEQUENCE_DATA_ID
from synchro.storage.schema_ops import Numbered
from tests.seeds import noting
from tests.unit.memtx_world import do, empty

SPACE = 512


@dataclass
class Twin:
    """moves: what each transaction that is there did: a value that was used, or ("set", value or None)."""

    start: int
    step: int
    low: int
    high: int
    cycle: bool
    moves: list[list[int | tuple[str, int | None]]] = field(default_factory=list)

    def last(self, moves: list[int | tuple[str, int | None]]) -> int | None:
        last: int | None = None
        for move in [each for txn in self.moves for each in txn] + moves:
            if isinstance(move, tuple):
                last = move[1]
            elif last is None or (move - last) * self.step > 0 or (self.cycle and move == self.after(last)):
                last = move
        return last

    def after(self, last: int | None) -> int | None:
        """None: there is no more."""
        if last is None:
            return self.start
        if self.step > 0:
            value = self.low if last < self.low else last + self.step
        else:
            value = self.high if last > self.high else last + self.step
        if self.low <= value <= self.high:
            return value
        return (self.low if self.step > 0 else self.high) if self.cycle else None


class World:
    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        low = rng.randint(-5, 5)
        high = low + rng.randint(0, 40)
        bounds = {"low": low, "high": high, "start": rng.randint(low, high)}
        step = rng.choice((1, 1, 2, -1, -3))
        cycle = rng.random() < 0.3
        self.twin = Twin(bounds["start"], step, low, high, cycle)
        self.memtx, self.follower = empty(), empty()
        self.pending: list[Prepared] = []
        self.committed: list[list[Dml]] = []
        for memtx in (self.memtx, self.follower):
            made = ops.create_sequence(memtx, "ids", step=step, cycle=cycle, **bounds)  # type: ignore[arg-type]
            do(memtx, made)
            do(memtx, ops.create_space(memtx, "s", is_sync=True))
            parts = [(1, "integer")]
            do(memtx, ops.create_index(memtx, "s", "pk", parts=parts, sequence=Numbered("ids")))

    def go(self) -> None:
        for number in range(60):
            self.rng.choice(
                (self.rows, self.rows, self.columns, self.take, self.set, self.commit, self.undo)
            )()
            if number % 6 == 0:
                self.memtx.check()
        while self.pending:
            self.commit()
        self.compare()

    # --- what happens

    def keys(self) -> list[int | None]:
        low, high = self.twin.low - 3, self.twin.high + 3
        return [
            self.rng.choice((None, None, self.rng.randint(low, high))) for _ in range(self.rng.randint(1, 5))
        ]

    def rows(self) -> None:
        kind = self.rng.choice((RowType.INSERT, RowType.REPLACE))
        keys = self.keys()
        self.expect([put_dml(kind, SPACE, (key,)) for key in keys], keys)

    def columns(self) -> None:
        """As writes of several callers that share a transaction."""
        keys = self.keys()
        made = [put_dml(RowType.REPLACE, SPACE, (key,)) for key in keys]
        puts = Puts(RowType.REPLACE, SPACE, [op.raw for op in made], [op.value for op in made if op.value])
        wanted = self.wanted(keys)
        prepared = self.memtx.prepare_together(puts)
        if prepared is None:
            assert self.memtx.loners(puts) or wanted is None or len(set(wanted)) < len(wanted)
            return
        assert wanted == [row[0] for row in prepared.results if row is not None]
        self.began(prepared, list(wanted))

    def take(self) -> None:
        self.expect(ops.set_sequence(self.memtx, "ids", None), [None])

    def set(self) -> None:
        value = self.rng.choice((None, self.rng.randint(self.twin.low - 2, self.twin.high + 2)))
        if value is None:
            rows = [dml_from_values(RowType.DELETE, SEQUENCE_DATA_ID, key=(1,))]
        else:
            rows = ops.set_sequence(self.memtx, "ids", value)
        self.began(self.memtx.prepare(rows), [("set", value)])

    def wanted(self, keys: list[int | None]) -> list[int] | None:
        used: list[int | tuple[str, int | None]] = []
        for key in keys:
            value = self.twin.after(self.twin.last(used)) if key is None else key
            if value is None:
                return None
            used.append(value)
        return [value for value in used if isinstance(value, int)]

    def expect(self, rows: list[Dml], keys: list[int | None]) -> None:
        wanted = self.wanted(keys)
        try:
            prepared = self.memtx.prepare(rows)
        except (SynchroError, PendingRefusal) as error:
            why = error.error if isinstance(error, PendingRefusal) else error
            assert isinstance(why, TupleFound if wanted is not None else (SequenceOverflow, TupleFound))
            return
        position = 0 if rows[0].space_id == SPACE else 1
        assert wanted == [row[position] for row in prepared.results if row is not None]
        if position == 1:
            self.began(prepared, [("set", wanted[0])])
        else:
            self.began(prepared, list(wanted))

    def began(self, prepared: Prepared, moves: list[int | tuple[str, int | None]]) -> None:
        assert all(op.value is None or None not in op.value for op in prepared.ops), "values go into the log"
        self.pending.append(prepared)
        self.twin.moves.append(moves)
        self.committed.append(list(prepared.ops))

    def commit(self) -> None:
        if self.pending:
            self.memtx.commit(self.pending.pop(0))

    def undo(self) -> None:
        if self.pending:
            self.memtx.rollback(self.pending.pop())
            self.twin.moves.pop()
            self.committed.pop()

    # --- what must hold

    def compare(self) -> None:
        last = self.twin.last([])
        assert self.memtx.catalog.sequences.last(1) == last
        for rows in self.committed:
            self.follower.commit(self.follower.prepare(rows, from_peer=True))
        assert self.follower.catalog.sequences.last(1) == last, "it follows from the rows alone"
        assert self.follower.checksum(SPACE) == self.memtx.checksum(SPACE)
        again = Memtx(self.memtx.catalog.limits)
        again.begin_bulk()
        for space_id, tuples in self.memtx.freeze():
            again.load(space_id, tuples)
        again.end_bulk()
        assert again.catalog.sequences.last(1) == last
        again.check()


@pytest.mark.parametrize("first", range(0, 150, 50))
def test_sequences_are_what_a_list_of_moves_says(first: int) -> None:
    for seed in range(first, first + 50):
        world = World(seed)
        with noting(seed):
            world.go()
