"""Runs seeds and tells what happened. `make sim SEEDS=n FIRST=k`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import signal
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from tests.sim.checkers import Violation
from tests.sim.situations import SITUATIONS, never_met, table
from tests.sim.world import World

COLLECT_EVERY = 8


@dataclass
class Result:
    seed: int
    virtual_s: float = 0.0
    wall_s: float = 0.0
    steps: int = 0
    violation: str | None = None
    rule: str = ""
    trace: list[str] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)


def run_seed(seed: int, *, verbose: bool = False, masters: bool = False) -> Result:
    """A world is garbage all at once at its end: looking for cycles meanwhile only costs time."""
    gc.disable()
    try:
        return _run_seed(seed, verbose=verbose, masters=masters)
    finally:
        gc.enable()
        if seed % COLLECT_EVERY == 0:
            gc.collect()


def _run_seed(seed: int, *, verbose: bool, masters: bool) -> Result:
    began = time.perf_counter()
    world = World(seed, verbose=verbose, masters=masters)
    result = Result(seed)
    try:
        world.run()
    except Violation as error:
        result.violation, result.rule = str(error), error.rule
    except Exception as error:  # noqa: BLE001 - any exception is a finding, and names its seed
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = "\n    ".join(
            f"{frame.filename}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames
        )
        result.violation, result.rule = f"{type(error).__name__}: {error}\n    {where}", type(error).__name__
    if result.violation is not None:
        result.trace = world.trace()
        result.violation += f"\n  world: {world.size} instances, quorum {world.quorum}, {world.mode_kind}, "
        result.violation += f"async {world.is_async}, faults {world.nemesis.rates}"
    result.virtual_s, result.steps = world.now, world.steps
    result.wall_s = time.perf_counter() - began
    result.hits, result.counts = world.hits, world.counts
    return result


def tell(result: Result, args: str = "") -> None:
    print(f"\nseed {result.seed}: violation of {result.violation}")
    for line in result.trace:
        print("   ", line)
    print(f"  replay: make sim SEEDS=1 FIRST={result.seed}{args}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="run one seed and print everything that happens")
    parser.add_argument(
        "--situations",
        action="store_true",
        help="print how often what happened; fail where something never did",
    )
    parser.add_argument("--masters", action="store_true", help="three masters, where the last write wins")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    options = parser.parse_args()
    args = " ARGS=--masters" if options.masters else ""
    if options.seed is not None:
        result = run_seed(options.seed, verbose=True, masters=options.masters)
        if result.violation is not None:
            tell(result, args)
        return int(result.violation is not None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.perf_counter()
    run = partial(run_seed, masters=options.masters)
    seeds = range(options.first, options.first + options.seeds)
    violations: list[Result] = []
    hits: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    met: Counter[str] = Counter()
    virtual = 0.0
    steps = done = 0

    def take(result: Result) -> bool:
        nonlocal virtual, steps, done
        done += 1
        virtual += result.virtual_s
        steps += result.steps
        hits.update(result.hits)
        met.update({name: 1 for name, count in result.hits.items() if count})
        counts.update(result.counts)
        if result.violation is not None:
            violations.append(result)
            tell(result, args)
        return result.violation is not None and options.stop

    try:
        if options.jobs > 1:
            with multiprocessing.Pool(options.jobs) as pool:
                for result in pool.imap_unordered(run, seeds, chunksize=4):
                    if take(result):
                        break
                else:
                    pool.close()
                    pool.join()  # else they are ended by a signal, and print where it met them
        else:
            for seed in seeds:
                if take(run(seed)):
                    break
    except KeyboardInterrupt:
        print("interrupted: what was done so far")
    wall = time.perf_counter() - began
    if options.situations:
        print("\n".join(table(hits, met)))
        named = set(SITUATIONS.values())
        for name, count in sorted({**hits, **counts}.items(), key=lambda item: (-item[1], item[0])):
            if name not in named:
                print(f"  {count:9d}  ({name})")
    blind = never_met(hits, done) if options.situations and not options.masters else []
    if blind:
        print(f"never met in {done} seeds: " + "; ".join(blind))
    if violations:
        print("violations: " + ", ".join(f"{r.seed} ({r.rule})" for r in violations))
    print(
        f"sim: {done} seeds, {len(violations)} violations, {virtual:.0f} virtual seconds, "
        f"{done / wall:.1f} schedules/s, {steps / wall:.0f} steps/s"
    )
    return int(bool(violations or blind))
