"""Master-master in five shapes: what each master wrote reaches all others exactly once, whatever breaks.

`python -m tests.jepsen_like.topologies --topology ring4 --nemesis kill,partition --seconds 60`

Every instance is a master with writers of its own. They insert rows that nobody else inserts, and count their
own updates in one tuple each: an update that is applied twice, or left out, shows in the count. In a ring and
in a line rows reach most instances by way of others [A-3]. After healing all instances have equal vclocks and
equal checksums, every acknowledged row is everywhere, no refused one is anywhere, and the counts are right.

Exit code 0: valid and nothing found. 1: a violation. 2: the run proves nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.e2e.cluster import Cluster, Instance, eventually, soon_s
from tests.e2e.remote import insert, update
from tests.jepsen_like.checks import OK_MIN, OK_SHARE_MIN
from tests.jepsen_like.clients import Numbers, Worker, execute
from tests.jepsen_like.history import History, Op, pair
from tests.jepsen_like.nemesis import KINDS, PERIOD_S, Nemesis, let_loose

ROWS: Final = "rows"
COUNTS: Final = "counts"


def mesh(count: int) -> dict[int, list[int]]:
    numbers = range(1, count + 1)
    return {number: [other for other in numbers if other != number] for number in numbers}


SOURCES: Final[Mapping[str, Mapping[int, Sequence[int]]]] = {
    "pair": mesh(2),
    "mesh3": mesh(3),
    "mesh5": mesh(5),
    "ring4": {1: [4], 2: [1], 3: [2], 4: [3]},
    "line4": {1: [2], 2: [1, 3], 3: [2, 4], 4: [3]},
}
"""Topology -> number of an instance -> whom it follows."""


def name_of(number: int) -> str:
    return f"instance{number:03}"


class Masters(Cluster):
    """All are writable; each follows those that its topology names, and nobody else."""

    def __init__(self, directory: Path, topology: str) -> None:
        self.sources = {
            name_of(number): [name_of(source) for source in sources]
            for number, sources in SOURCES[topology].items()
        }
        masters = {name: {"database": {"mode": "rw"}} for name in self.sources}
        super().__init__(directory, self.sources, instances=masters, faults=True)

    def begin(self) -> None:
        """All follow all while they join: else the rows of a join would be in some snapshots, and in no log
        that another one reads. A restart tells them whom they follow."""
        self.start()
        for name, sources in self.sources.items():
            self.own[name]["replication"] = {"peers": [self[source].address for source in sources]}
        self.write_config(self.config_path)
        for instance in self:
            assert instance.stop() == 0
            instance.start()
        self.wait_streams()

    def wait_streams(self) -> None:
        """Every stream of the topology stands."""

        def stands(instance: Instance) -> bool:
            parts = instance.remote.info("replication").values()
            following = {p["name"] for p in parts if p.get("upstream", {}).get("status") == "follow"}
            return following >= set(self.sources[instance.name])

        for instance in self:
            eventually(f"{instance.name} follows its sources", partial(stands, instance), soon_s(15))


class Master(Worker):
    """Writes to one instance, under keys of its own."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        numbers: Numbers,
        over: threading.Event,
        seed: object,
        bound: str,
    ) -> None:
        super().__init__(cluster, history, numbers, over, seed)
        self.bound = bound
        self.number = self.numbers.value()
        self.counted = False

    def step(self) -> None:
        if not self.counted:
            self.do("begin", self.number, 0, execute(insert(COUNTS, [self.number, 0])), is_write=True)
            self.counted = self.began
        elif self.rng.random() < 0.3:
            add = update(COUNTS, [self.number], [["+", 2, 1]])
            self.do("count", self.number, 1, execute(add), is_write=True)
        else:
            value = self.numbers.value()
            self.do("add", None, value, execute(insert(ROWS, [value, self.number])), is_write=True)
        self.over.wait(0.005)

    @property
    def began(self) -> bool:
        """Whether its tuple of counts is there: a `begin` without an answer may have made it."""
        try:
            return bool(self._remotes[self.bound or ""].select(COUNTS, [self.number], "EQ"))
        except Exception:  # noqa: BLE001 - the instance is down, which is what the nemesis is for
            return False

    def result(self, f: str, value: object, reply: Any) -> object:
        return value


class LinkNemesis(Nemesis):
    """Knows who follows whom."""

    cluster: Masters

    def linked(self, target: Instance) -> list[Instance]:
        return [each for each in self.cluster if target.name in self.cluster.sources[each.name]]


def check(
    ops: Sequence[Op], rows: Mapping[str, Mapping[int, int]], counts: Mapping[str, Mapping[int, int]]
) -> list[str]:
    """rows: instance -> value -> writer; counts: instance -> writer -> count. What is wrong, in words."""
    problems = []
    there = next(iter(rows.values()))
    for node in rows:
        if rows[node] != there:
            problems.append(f"{node} differs in rows {sorted(rows[node].items() ^ there.items())[:10]}")
    added = [op for op in ops if op.f == "add"]
    values = {kind: {op.value for op in added if op.type == kind} for kind in ("ok", "fail", "info")}
    if lost := values["ok"] - there.keys():
        problems.append(f"{len(lost)} acknowledged rows are lost: {sorted(lost)[:10]}")  # type: ignore[type-var]
    if wrong := values["fail"] & there.keys():
        problems.append(f"rows that were refused are there: {sorted(wrong)[:10]}")  # type: ignore[type-var]
    if invented := there.keys() - set().union(*values.values()):
        problems.append(f"rows that nobody inserted: {sorted(invented)[:10]}")
    done: dict[object, Counter[str]] = defaultdict(Counter)
    for op in ops:
        if op.f == "count":
            done[op.key][op.type] += 1
    for node, found in counts.items():
        for writer, kinds in done.items():
            count = found.get(writer, -1)  # type: ignore[call-overload]
            if not kinds["ok"] <= count <= kinds["ok"] + kinds["info"]:
                problems.append(
                    f"{node} counts {count} updates of writer {writer}: {kinds['ok']} were acknowledged, "
                    f"{kinds['info']} are unknown"
                )
        if found != next(iter(counts.values())):
            problems.append(f"{node} has other counts: {dict(found)}")
    return problems


def run(options: argparse.Namespace, directory: Path) -> int:
    with Masters(directory, options.topology) as cluster:
        for event in ("wal_stuck", "upstream_stopped"):
            cluster.expect_log(event)
        cluster.begin()
        first = next(iter(cluster))
        for space in (ROWS, COUNTS):
            first.remote.create(space, is_sync=False)
        cluster.wait_equal(ROWS, timeout=soon_s(10))
        history = History(directory / "history.jsonl")
        numbers, over = Numbers(), threading.Event()
        workers = [
            Master(cluster, history, numbers, over, (options.seed, instance.name, number), instance.name)
            for instance in cluster
            for number in range(options.writers)
        ]
        nemesis = LinkNemesis(
            cluster, history, options.kinds, threading.Event(), options.seed, options.period
        )
        let_loose(nemesis, workers, options.seconds, over)
        problems = settle(cluster, nemesis)
        rows = {i.name: {row[0]: row[1] for row in i.remote.select(ROWS)} for i in cluster}
        counts = {i.name: {row[0]: row[1] for row in i.remote.select(COUNTS)} for i in cluster}
        history.close()
        found = pair(history.events)
        problems += check(found.ops, rows, counts)
        threads: list[Worker | Nemesis] = [*workers, nemesis]
        failures = [each.failure for each in threads if each.failure is not None]
        return judge(options, found.ops, nemesis, problems, failures)


def settle(cluster: Masters, nemesis: Nemesis) -> list[str]:
    """With everything healed all streams stand and all instances become equal."""
    try:
        nemesis.heal()
        cluster.wait_streams()
        cluster.wait_equal(ROWS, COUNTS, timeout=soon_s(20))
    except AssertionError as error:
        print(cluster.report())
        return [f"after healing: {error}"]
    return []


def judge(
    options: argparse.Namespace,
    ops: Sequence[Op],
    nemesis: Nemesis,
    problems: list[str],
    failures: list[BaseException],
) -> int:
    print(f"operations: {dict(sorted(Counter(f'{op.f}/{op.type}' for op in ops).items()))}")
    print(f"errors: {dict(Counter(op.error for op in ops if op.error).most_common(8))}")
    print(f"faults: {nemesis.bites} of {nemesis.planned} bit")
    ok = sum(op.type == "ok" for op in ops)
    name = f"{options.topology} + {options.nemesis}, {options.seconds:g} s, seed {options.seed}"
    for problem in problems:
        print(f"VIOLATION: {problem}")
    for failure in failures:
        print(f"BROKEN: {failure!r}")
    if problems:
        print(f"verdict: VIOLATION ({name}); {ok} ok")
        return 1
    if failures or nemesis.bites < nemesis.planned or ok < max(OK_MIN, OK_SHARE_MIN * len(ops)):
        bitten = f"{nemesis.bites} of {nemesis.planned} faults bit"
        print(f"verdict: INVALID ({name}): {ok} ok of {len(ops)}, {bitten}")
        return 2
    print(f"verdict: VALID ({name}); {ok} ok of {len(ops)}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.jepsen_like.topologies", description=__doc__)
    parser.add_argument("--topology", choices=sorted(SOURCES), default="ring4")
    parser.add_argument("--nemesis", default="kill,partition", help=f"of {', '.join(KINDS)}; or none")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--period", type=float, default=PERIOD_S, help="seconds between faults")
    parser.add_argument("--writers", type=int, default=2, help="of each instance")
    parser.add_argument("--seed", type=int, default=int(time.time()) & 0xFFFF)
    parser.add_argument("--keep", type=Path, help="directory for history, logs and data; default: temporary")
    options = parser.parse_args(arguments)
    options.kinds = [kind for kind in options.nemesis.split(",") if kind and kind != "none"]
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"unknown nemesis {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    if options.keep is not None:
        return run(options, options.keep)
    with tempfile.TemporaryDirectory(prefix="topologies-") as directory:
        return run(options, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
