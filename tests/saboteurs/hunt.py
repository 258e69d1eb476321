"""How many seeds each planted bug lives: `python -m tests.saboteurs.hunt [name ...]`."""

from __future__ import annotations

import sys
import time

from tests.saboteurs.bugs import ALL, RARE, Saboteur
from tests.sim.runner import Result, run_seed


def hunt(bug: Saboteur) -> tuple[int, Result | None, list[Result]]:
    """Seeds needed, the result that shows it (None: it lives), and violations of other rules on the way."""
    others: list[Result] = []
    for number in range(bug.seeds):
        with bug.patch():
            result = run_seed(bug.first + number, masters=bug.masters)
        if result.rule in bug.rules:
            return number + 1, result, others
        if result.violation is not None:
            others.append(result)
    return bug.seeds, None, others


def main() -> int:
    alive = 0
    chosen = [bug for bug in (*ALL, *RARE) if bug.name in sys.argv[1:]] if sys.argv[1:] else ALL
    for bug in chosen:
        began = time.perf_counter()
        needed, result, others = hunt(bug)
        took = time.perf_counter() - began
        odd = f" others: {sorted({other.rule for other in others})}" if others else ""
        if result is None:
            alive += 1
            print(f"LIVES  {bug.name}: {needed} seeds, {took:.1f} s{odd}", flush=True)
        else:
            text = (result.violation or "").splitlines()[0][:150]
            print(f"caught {bug.name}: seed {result.seed} ({needed}), {took:.1f} s, {text}{odd}", flush=True)
        for other in others[:2]:
            print("       ", (other.violation or "").splitlines()[0][:200], flush=True)
    return alive


if __name__ == "__main__":
    sys.exit(main())
