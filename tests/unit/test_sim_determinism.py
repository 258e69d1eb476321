"""The same seed gives the same run, in every process and with every hash seed: else no replay is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (3, 11, 29, 64, 101)
SCRIPT = """
import sys
from tests.sim.checkers import Violation
from tests.sim.world import World
for seed in map(int, sys.argv[1:]):
    world = World(seed, hashed=True)
    try:
        world.run()
    except Violation:
        pass
    print(seed, world.trace_hash)
"""


def hashes(hash_seed: str) -> str:
    """One trace hash a line, from a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, SEEDS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_a_seed_gives_the_same_trace_in_two_processes() -> None:
    first, second = hashes("1"), hashes("4242")

    assert len(first.splitlines()) == len(SEEDS)
    assert first == second
