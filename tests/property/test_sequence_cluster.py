"""Whole instances, driven by chance, while clients take values of a sequence: rows, acks, crashes, takeovers.

A value that was acknowledged is never given again, whoever owns the queue later, and all agree where the
sequence stands (S3, S22; [D-26], ADR 47).
"""

from __future__ import annotations

import pytest

from synchro.ids import CallId
from synchro.instance import events as ev
from synchro.row import Dml, RowType
from synchro.storage import schema_ops
from synchro.storage.row_body import dml_from_values, put_dml
from synchro.storage.schema import SEQUENCE_DATA_ID
from synchro.storage.schema_ops import Numbered
from tests.mesh import Mesh
from tests.property.test_expel_cluster import World
from tests.seeds import noting
from tests.unit.shared_world import put_all

NUMBERED = 515


class Takers(World):
    """As its parent, but nobody leaves."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.mesh.settle()
        memtx = self.mesh[1].memtx
        self.run(schema_ops.create_space(memtx, "numbered", is_sync=True))
        self.run(schema_ops.create_index(memtx, "numbered", "pk", sequence=Numbered()))
        self.takes: dict[CallId, int] = {}
        """Call -> field of its tuple that has the value."""

    def run(self, ops: list[Dml]) -> None:
        call = self.mesh.write_ops(1, [_encoded(op) for op in ops])
        self.mesh.settle()
        assert self.mesh.committed(call), self.mesh.outcome(call)

    def write(self) -> None:
        """Values by single rows, by crowds that share a transaction, and by themselves."""
        number = self._writer() or self.someone()
        kind = self.rng.randrange(3)
        if kind == 0:
            self.takes[self.mesh.write_ops(number, [put_dml(RowType.INSERT, NUMBERED, (None,))])] = 0
        elif kind == 1:
            first, rows = 100 * len(self.takes), [(None,)] * 6
            kinds = {"space": NUMBERED, "kind": RowType.INSERT}
            for call in put_all(self.mesh, rows, to=number, first_id=first, **kinds):  # type: ignore[arg-type]
                self.takes[call] = 0
        else:
            op = dml_from_values(RowType.REPLACE, SEQUENCE_DATA_ID, value=(1, None))
            self.takes[self.mesh.write_ops(number, [op])] = 1

    def expel(self) -> None:
        """Nobody leaves."""

    def given(self) -> list[int]:
        """Values that were acknowledged."""
        found = []
        for call, field in self.takes.items():
            outcome = self.mesh.outcome(call)
            if isinstance(outcome, ev.Committed):
                (row,) = outcome.tuples
                assert row is not None
                found.append(row[field])
        return found

    def look(self) -> None:
        super().look()
        given = self.given()
        assert len(set(given)) == len(given), "a value was given twice"

    def judge(self) -> None:
        mesh = self.mesh
        owner = next(n for n in mesh.members if mesh[n].is_writable)
        self.takes[mesh.write_ops(owner, [put_dml(RowType.INSERT, NUMBERED, (None,))])] = 0
        mesh.settle()
        self.look()
        rows = {row[0] for row in mesh.rows(owner, NUMBERED)}
        positions = {mesh[n].memtx.catalog.sequences.last(1) for n in mesh.members}
        assert positions == {max([*rows, *self.given()])}
        for call, field in self.takes.items():
            if field == 0 and mesh.committed(call):
                outcome = mesh.outcome(call)
                assert isinstance(outcome, ev.Committed) and outcome.tuples[0] is not None
                assert outcome.tuples[0][0] in rows
        for number in mesh.members:
            assert {row[0] for row in mesh.rows(number, NUMBERED)} == rows
            mesh[number].memtx.check()


def _encoded(op: Dml) -> Dml:
    return dml_from_values(op.type, op.space_id, index_id=op.index_id, key=op.key, value=op.value, ops=op.ops)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_no_value_is_given_twice(first: int) -> None:
    for seed in range(first, first + 10):
        with noting(seed):
            world = Takers(seed)
            world.go()
            world.heal()
            world.judge()


def test_members_of_an_older_version_are_asked_first() -> None:
    """Their appliers would stop at the first row of `_sequence`."""
    mesh = Mesh(3)
    mesh.older.add(3)
    mesh.crash(3)
    mesh.restart(3)
    mesh.heal()
    mesh.promote(1)
    (row,) = schema_ops.create_sequence(mesh[1].memtx, "ids")
    call = mesh.write_ops(1, [_encoded(row)])
    mesh.settle()
    assert mesh.reason(call) == "OLDER_MEMBER"
    assert mesh[1].memtx.catalog.sequences.by_id == {}
    mesh.older.clear()
    mesh.crash(3)
    mesh.restart(3)
    mesh.heal()
    call = mesh.write_ops(1, [_encoded(row)])
    mesh.settle()
    assert mesh.committed(call)
    assert mesh[3].memtx.catalog.sequences.named("ids").id == 1


def test_rows_of_an_asynchronous_space_are_numbered_too() -> None:
    """Without an owner a row is done when it is on the own disk. Who comes back goes on behind it."""
    mesh = Mesh(2)
    memtx = mesh[1].memtx
    for ops in (
        schema_ops.create_sequence(memtx, "ids"),
        schema_ops.create_space(memtx, "plain"),
    ):
        mesh.write_ops(1, [_encoded(op) for op in ops])
    mesh.settle()
    made = schema_ops.create_index(memtx, "plain", "pk", sequence=Numbered("ids"))
    mesh.write_ops(1, [_encoded(op) for op in made])
    mesh.settle()
    calls = [mesh.write_ops(1, [put_dml(RowType.INSERT, NUMBERED, (None,))]) for _ in range(3)]
    mesh.settle()
    assert all(mesh.committed(call) for call in calls)
    assert mesh.rows(2, NUMBERED) == [(1,), (2,), (3,)]
    mesh.crash(1)
    mesh.restart(1)
    mesh.write_ops(1, [put_dml(RowType.INSERT, NUMBERED, (None,))])
    mesh.settle()
    assert mesh.rows(1, NUMBERED) == [(1,), (2,), (3,), (4,)]


def test_two_masters_give_each_value_twice_unless_they_step_apart() -> None:
    """Nothing orders their rows. With a step of two and starts of 1 and 2, on a sequence for each, they do
    not meet."""
    mesh = Mesh(2)
    memtx = mesh[1].memtx
    for start in (1, 2):
        (row,) = schema_ops.create_sequence(memtx, f"of_{start}", start=start, step=2)
        mesh.write_ops(1, [_encoded(row)])
        mesh.settle()
    mesh.cut(1, 2)
    taken = []
    for number in (1, 2):
        for _ in range(3):
            op = dml_from_values(RowType.REPLACE, SEQUENCE_DATA_ID, value=(number, None))
            call = mesh.write_ops(number, [op])
            mesh.settle()
            outcome = mesh.outcome(call)
            assert isinstance(outcome, ev.Committed) and outcome.tuples[0] is not None
            taken.append(outcome.tuples[0][1])
    assert taken == [1, 3, 5, 2, 4, 6]
    mesh.heal()
    mesh.settle()
    assert [mesh[n].memtx.catalog.sequences.last(1) for n in (1, 2)] == [5, 5]
    assert [mesh[n].memtx.catalog.sequences.last(2) for n in (1, 2)] == [6, 6]
