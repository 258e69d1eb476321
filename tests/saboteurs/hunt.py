"""How many seeds each planted bug lives: `python -m tests.saboteurs.hunt [--first N] [--seeds N] [name ...]`.

Without `--first` each is hunted from the seed that is known to find it, or from one that is near.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from tests.saboteurs import bugs, client_bugs, private_bugs  # noqa: F401 - they fill ALL and RARE
from tests.saboteurs.planted import ALL, RARE, Saboteur
from tests.sim.runner import Result, run_seed
from tests.sim.world import World

MASTERS_FROM = 19_000_000


def hunt(bug: Saboteur) -> tuple[int, Result | None, list[Result]]:
    """Seeds needed, the result that shows it (None: it lives), and violations of other rules on the way."""
    others: list[Result] = []
    for number in range(bug.seeds):
        seed = bug.first + number
        if bug.worlds is not None and not bug.worlds(World(seed, masters=bug.masters)):
            continue
        with bug.patch():
            result = run_seed(seed, masters=bug.masters)
        if result.rule in bug.rules:
            return number + 1, result, others
        if result.violation is not None:
            others.append(result)
    return bug.seeds, None, others


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.saboteurs.hunt")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--first", type=int, help="the first seed; masters have their own")
    parser.add_argument("--seeds", type=int, help="how many each may live")
    options = parser.parse_args()
    alive = 0
    for bug in [bug for bug in (*ALL, *RARE) if bug.name in options.names] if options.names else ALL:
        if options.first is not None:
            bug = replace(bug, first=options.first + (MASTERS_FROM if bug.masters else 0))
        if options.seeds is not None:
            bug = replace(bug, seeds=options.seeds)
        began = time.perf_counter()
        needed, result, others = hunt(bug)
        took = time.perf_counter() - began
        odd = f" others: {sorted({other.rule for other in others})}" if others else ""
        if result is None:
            alive += 1
            print(f"LIVES  {bug.name} ({bug.breaks}): {needed} seeds, {took:.1f} s{odd}", flush=True)
        else:
            text = (result.violation or "").splitlines()[0][:150]
            print(
                f"caught {bug.name} ({bug.breaks}): seed {result.seed} ({needed}), {took:.1f} s, {text}{odd}",
                flush=True,
            )
        for other in others[:2]:
            print("       ", (other.violation or "").splitlines()[0][:200], flush=True)
    return alive


if __name__ == "__main__":
    sys.exit(main())
