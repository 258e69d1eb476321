"""How many worlds each planted bug lives: `python -m tests.saboteurs.hunt [--first N] [name ...]`.

Without `--first` each is hunted from the seed that is known to find it, or from one that is near. A bug that
bites in worlds of one kind is hunted in as many worlds of that kind; seeds of other worlds are passed over.
`--renew` finds a seed anew for each that is not caught at its own one, or for those that are named, and
writes it into the source.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tests.saboteurs import bugs, client_bugs, member_bugs, private_bugs  # noqa: F401 - they fill ALL
from tests.saboteurs.planted import ALL, RARE, Saboteur
from tests.sim.runner import Result, run_seed
from tests.sim.world import World

MASTERS_FROM: Final = 19_000_000
SEEDS_PER_WORLD: Final = 100
"""Seeds that are looked at for one world of the kind, at the most. Most kinds are one of fifty or more;
of a rarer one fewer worlds are run."""
FINDS: Final = 4
"""Of so many seeds that find a bug, a renewal takes the one whose world is over first."""


@dataclass
class Hunt:
    """seeds: that were looked at. worlds: that were run, those in which the bug can bite. found: the result
    that shows it; None: it lives. others: violations of other rules on the way."""

    seeds: int = 0
    worlds: int = 0
    found: Result | None = None
    others: list[Result] = field(default_factory=list)


def hunt(bug: Saboteur) -> Hunt:
    """Through `bug.seeds` worlds in which it can bite, from `bug.first` on."""
    made = Hunt()
    while made.found is None and made.worlds < bug.seeds and made.seeds < bug.seeds * SEEDS_PER_WORLD:
        seed = bug.first + made.seeds
        made.seeds += 1
        if bug.worlds is not None and not bug.worlds(World(seed, masters=bug.masters)):
            continue
        made.worlds += 1
        with bug.patch():
            result = run_seed(seed, masters=bug.masters)
        if result.rule in bug.rules:
            made.found = result
        elif result.violation is not None:
            made.others.append(result)
    return made


def tell(bug: Saboteur, made: Hunt, took: float) -> None:
    """One line, and two others of violations that nobody planted."""
    where = f"world {made.worlds}, seed {made.seeds} from {bug.first}, {took:.1f} s of a processor"
    if made.found is None:
        print(f"LIVES  {bug.name} ({bug.breaks}): {where}")
    else:
        print(f"caught {bug.name} ({bug.breaks}): seed {made.found.seed}, {where}, {_first_line(made.found)}")
    for other in made.others[:2]:
        print("        other:", _first_line(other))
    sys.stdout.flush()


def _first_line(result: Result) -> str:
    return (result.violation or "").splitlines()[0][:150]


# --- seeds that are known to find a bug


def is_caught_at_once(bug: Saboteur) -> bool:
    found = hunt(replace(bug, seeds=1)).found
    return found is not None and found.seed == bug.first


def short_find(bug: Saboteur) -> int | None:
    """The seed of a short world that finds it; None: it lives."""
    finds: list[Result] = []
    first = MASTERS_FROM if bug.masters else 1
    while len(finds) < FINDS:
        made = hunt(replace(bug, first=first))
        if made.found is None:
            break
        finds.append(made.found)
        first = made.found.seed + 1
    return min(finds, key=lambda result: result.wall_s).seed if finds else None


def write_first(source: str, name: str, seed: int) -> str:
    """`source` with this first seed at the bug of that name."""
    found = re.search(rf"@saboteur\((?P<options>[^@]*?)\)\ndef {name}\(", source)
    assert found is not None, f"{name} is not in this file"
    options = re.sub(r",\s*first=[\d_]+", "", found["options"])
    options = re.sub(r"(seeds=[\d_]+)", rf"\1, first={seed}", options)
    return source[: found.start("options")] + options + source[found.end("options") :]


def renew(chosen: Sequence[Saboteur]) -> int:
    alive = 0
    for bug in chosen:
        seed = short_find(bug)
        if seed is None:
            alive += 1
            print(f"LIVES  {bug.name}: {bug.seeds} worlds", flush=True)
            continue
        path = Path(inspect.getfile(inspect.unwrap(bug.patch)))
        path.write_text(write_first(path.read_text(), bug.name, seed))
        print(f"{bug.name}: first={seed}, was {bug.first}", flush=True)
    return alive


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.saboteurs.hunt")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--first", type=int, help="the first seed; masters have their own")
    parser.add_argument("--worlds", type=int, help="how many each may live, of those in which it can bite")
    parser.add_argument("--renew", action="store_true", help="write seeds that find them into the source")
    options = parser.parse_args()
    known = {bug.name: bug for bug in (*ALL, *RARE)}
    if unknown := sorted(set(options.names) - known.keys()):
        parser.error(f"no planted bug is called {', '.join(unknown)}")
    chosen = [known[name] for name in options.names] or list(ALL)
    if options.renew:
        return renew([bug for bug in chosen if options.names or not is_caught_at_once(bug)])
    alive = 0
    began = time.process_time()
    for bug in chosen:
        if options.first is not None:
            bug = replace(bug, first=options.first + (MASTERS_FROM if bug.masters else 0))
        if options.worlds is not None:
            bug = replace(bug, seeds=options.worlds)
        start = time.process_time()
        made = hunt(bug)
        tell(bug, made, time.process_time() - start)
        alive += made.found is None
    print(
        f"hunt: {len(chosen)} planted bugs, {alive} alive, {time.process_time() - began:.0f} s of a processor"
    )
    return alive


if __name__ == "__main__":
    sys.exit(main())
