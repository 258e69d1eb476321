"""Whole instances, driven by chance, while members are removed: rows, acks, votes, crashes in any order.

What was committed is never lost, nobody leads a term that another leads, no history splits, and the set goes
on with those who stay (S1, S3, S5, S16, S23; ADR 41).
"""

from __future__ import annotations

import random

import pytest

from synchro.config import ElectionMode, FencingMode
from synchro.ids import CallId
from synchro.instance import events as ev
from synchro.row import Field, RowType
from synchro.storage import row_body
from synchro.storage.schema import CLUSTER_ID
from tests.mesh import Mesh
from tests.seeds import noting

STEPS = 260


class World:
    """A mesh in which things happen at random."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.size = self.rng.choice((2, 3, 4, 4, 5))
        fencing = self.rng.choice((FencingMode.OFF, FencingMode.SOFT))
        self.mesh = Mesh(self.size, election_mode=ElectionMode.MANUAL, election_fencing_mode=fencing)
        self.mesh.promote(1)
        self.keys: dict[CallId, int] = {}
        self.leaders: dict[int, int] = {}
        self.removals: list[CallId] = []

    # --- what happens

    def go(self) -> None:
        actions = [(self.persist, 30), (self.deliver, 40), (self.write, 10), (self.cut, 4), (self.join, 5)]
        actions += [
            (self.crash, 2),
            (self.restart, 4),
            (self.promote, 5),
            (self.expel, 4),
            (self.pass_time, 3),
        ]
        for _ in range(STEPS):
            action = self.rng.choices([a for a, _ in actions], [weight for _, weight in actions])[0]
            action()
            self.look()

    def someone(self) -> int:
        return self.rng.choice(sorted(self.mesh.members))

    def persist(self) -> None:
        self.mesh.persist(self.someone())

    def deliver(self) -> None:
        if self.mesh.links:
            self.mesh.deliver(*self.rng.choice(sorted(self.mesh.links)))

    def write(self) -> None:
        key = len(self.keys) + 1
        number = self._writer() or self.someone()
        self.keys[self.mesh.write(number, (key,))] = key

    def expel(self) -> None:
        """By who may write, of anybody; so that a quorum of those who stay is often just reached."""
        number = self._writer()
        if number is not None:
            victim = self.rng.randint(1, self.size)
            op = row_body.dml_from_values(RowType.DELETE, CLUSTER_ID, key=(victim,))
            self.removals.append(self.mesh.write_ops(number, [op]))

    def _writer(self) -> int | None:
        able = [number for number in sorted(self.mesh.members) if self.mesh[number].is_writable]
        return self.rng.choice(able) if able else None

    def promote(self) -> None:
        number = self.someone()
        self.mesh.step(number, ev.PromoteRequested(self.mesh.call_id()))

    def cut(self) -> None:
        if len(self.mesh.members) > 1:
            self.mesh.cut(*self.rng.sample(sorted(self.mesh.members), 2))

    def join(self) -> None:
        if len(self.mesh.members) > 1:
            self.mesh.join(*self.rng.sample(sorted(self.mesh.members), 2))

    def crash(self) -> None:
        if len(self.mesh.members) > 1:
            self.mesh.crash(self.someone())

    def restart(self) -> None:
        if self.mesh.down:
            self.mesh.restart(self.rng.choice(sorted(self.mesh.down)))

    def pass_time(self) -> None:
        self.mesh.now += self.rng.uniform(0.1, 4.0)
        for number in sorted(self.mesh.members):
            deadline = self.mesh[number].deadline
            if deadline is not None and deadline <= self.mesh.now:
                self.mesh.step(number, ev.DeadlineReached())

    # --- what must hold

    def look(self) -> None:
        for number, member in self.mesh.members.items():
            raft = member.instance.raft
            if raft.is_leader:
                assert self.leaders.setdefault(int(raft.term), number) == number, (
                    f"two leaders of {raft.term}"
                )
            assert not member.stopped, member.stopped

    def heal(self) -> None:
        """All come back, and somebody of those who stay is promoted."""
        for number in sorted(self.mesh.down):
            self.mesh.restart(number)
        self.mesh.heal()
        self.mesh.settle()
        for _ in range(8):
            for number in sorted(self.mesh.members):
                if any(self.mesh[n].is_writable for n in self.mesh.members):
                    return
                self.mesh.now += 30.0
                self.pass_time()
                self.mesh.promote(number)
                self.look()
        raise AssertionError("nobody can be promoted any more")

    def judge(self) -> None:
        mesh = self.mesh
        owner = next(n for n in mesh.members if mesh[n].is_writable)
        call = mesh.write(owner, (0,))
        mesh.settle()
        self.look()
        assert mesh.committed(call), mesh.outcome(call)
        rows = mesh.rows(owner)
        for number in mesh.members:
            assert mesh.rows(number) == rows
            assert mesh[number].memtx.catalog.expelled() == mesh[owner].memtx.catalog.expelled()
            assert mesh[number].registered == mesh[owner].registered
        committed: list[tuple[Field, ...]] = [(k,) for call, k in self.keys.items() if mesh.committed(call)]
        assert set(committed) <= set(rows)
        gone = set(mesh[owner].memtx.catalog.expelled())
        assert gone | mesh[owner].registered == set(range(1, self.size + 1))
        assert not gone & mesh[owner].registered
        outcomes = [mesh.outcome(call) for call in self.removals]
        done = [one for one in outcomes if isinstance(one, ev.Committed) and one.tuples[0] is not None]
        assert len(gone) >= len(done)


@pytest.mark.parametrize("first", range(0, 120, 10))
def test_members_leave_and_nothing_is_lost(first: int) -> None:
    for seed in range(first, first + 10):
        world = World(seed)
        with noting(seed):
            world.go()
            world.heal()
            world.judge()
