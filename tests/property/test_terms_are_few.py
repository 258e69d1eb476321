"""Quorum below a majority: candidates that do not hear each other do not raise the term again and again."""

from __future__ import annotations

import random

import pytest

from synchro.config import ElectionMode, QuorumFormula
from synchro.instance import events as ev
from tests.mesh import Mesh

ROUNDS, MOVES = 12, 3000


def highest_term(mesh: Mesh) -> int:
    return max(mesh[number].raft.volatile_term for number in mesh.members)


def something_breaks(mesh: Mesh, rng: random.Random) -> None:
    """Or comes back, one link or instance at a time."""
    up = sorted(mesh.members)
    match rng.randrange(5):
        case 0 if len(up) > 2:
            mesh.crash(rng.choice(up))
        case 1 if mesh.down:
            mesh.restart(rng.choice(sorted(mesh.down)))
        case 2:
            mesh.isolate(rng.choice(up))
        case 3:
            mesh.join(*rng.sample(up, 2))
        case _:
            mesh.cut(*rng.sample(up, 2))


def everything_moves(mesh: Mesh, rng: random.Random) -> None:
    """Disks and links are as fast as one likes: thousands of moves take some hundredths of a second."""
    for _ in range(MOVES):
        if rng.random() < 0.001:
            mesh.now += 0.01
            for number in list(mesh.members):
                deadline = mesh[number].deadline
                if deadline is not None and deadline <= mesh.now:
                    mesh.step(number, ev.DeadlineReached())
        elif rng.random() < 0.5 and mesh.links:
            mesh.deliver(*rng.choice(sorted(mesh.links)))
        else:
            mesh.persist(rng.choice(sorted(mesh.members)))


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_term_that_is_only_seen_is_not_answered_by_the_next_one_again_and_again(first: int) -> None:
    """R11: how many terms there are in a moment depends on the number of instances, not on their speed."""
    for seed in range(first, first + 10):
        rng = random.Random(seed)
        size = rng.choice((3, 4, 5))
        mesh = Mesh(size, election_mode=ElectionMode.CANDIDATE, synchro_quorum=QuorumFormula(1))
        for _ in range(ROUNDS):
            something_breaks(mesh, rng)
            mesh.now += rng.choice((0.0, 0.1, 1.0, 5.0, 10.0))
            before = highest_term(mesh)
            everything_moves(mesh, rng)
            assert highest_term(mesh) - before <= 3 * size, f"seed {seed} at {mesh.now}"


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_transfer_may_build_on_a_twin_that_was_forgotten(first: int) -> None:
    """ADR 15: three of one term and more of the next. After each step `Limbo.check` asks whether each
    transfer that waits could be decided."""
    for seed in range(first, first + 10):
        rng = random.Random(seed)
        size = rng.choice((3, 4, 5))
        quorum = QuorumFormula(rng.choice((1, 1, 2)))
        mesh = Mesh(size, election_mode=ElectionMode.CANDIDATE, synchro_quorum=quorum)
        for _ in range(ROUNDS):
            something_breaks(mesh, rng)
            mesh.now += rng.choice((0.0, 0.1, 1.0, 5.0, 10.0))
            everything_moves(mesh, rng)
