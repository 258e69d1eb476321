"""One run: a set of real processes, workers, a nemesis, healing, a final look, the checks, a verdict.

Exit code 0: valid and nothing found. 1: a violation. 2: the run proves nothing (too few operations, a fault
that did not bite, an owner that never changed) and has to be repeated.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.e2e.cluster import Cluster, soon_s
from tests.jepsen_like import checks
from tests.jepsen_like.clients import Numbers, RegisterWorker, SetWorker, Worker, read_everything
from tests.jepsen_like.history import History, pair
from tests.jepsen_like.nemesis import KINDS, PERIOD_S, Nemesis, let_loose

WORKERS: Final[dict[str, type[Worker]]] = {"register": RegisterWorker, "set": SetWorker}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.jepsen_like", description=__doc__)
    parser.add_argument("--workload", choices=sorted(WORKERS), default="register")
    parser.add_argument("--nemesis", default="kill", help=f"comma-separated, of {', '.join(KINDS)}; or none")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--period", type=float, default=PERIOD_S, help="seconds between faults")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--workers", type=int, default=6, help="that follow the owner")
    parser.add_argument("--readers", type=int, default=2, help="that stay with one instance")
    parser.add_argument("--seed", type=int, default=int(time.time()) & 0xFFFF)
    parser.add_argument("--keep", type=Path, help="directory for history, logs and data; default: temporary")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in options.nemesis.split(",") if kind and kind != "none"]
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown nemesis {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    options.kinds = kinds
    if options.keep is not None:
        return run(options, options.keep)
    with tempfile.TemporaryDirectory(prefix="jepsen-like-") as directory:
        return run(options, Path(directory))


def run(options: argparse.Namespace, directory: Path) -> int:
    names = [f"instance{number:03}" for number in range(1, options.nodes + 1)]
    with Cluster(
        directory, names, failover="election", replication={"election_timeout": 1}, faults=True
    ) as cluster:
        # A process that stood still finds that its disk did not answer in time.
        cluster.expect_log("wal_stuck")
        cluster.start()
        leader = cluster.wait_leader()
        leader.remote.create(options.workload, is_sync=True)
        cluster.wait_equal(options.workload)
        history = History(directory / "history.jsonl")
        workers, nemesis = attack(options, cluster, history)
        problems = settle(cluster, options.workload, nemesis)
        final = read_everything(cluster, options.workload) if not problems else {}
        history.close()
        try:
            return judge(options, history, workers, nemesis, problems, final)
        finally:
            for record in cluster.unexpected():
                print(f"log: {str(record)[:500]}")


def attack(options: argparse.Namespace, cluster: Cluster, history: History) -> tuple[list[Worker], Nemesis]:
    numbers, over = Numbers(), threading.Event()
    kind = WORKERS[options.workload]
    workers = [
        kind(cluster, history, numbers, over, (options.seed, number))
        for number in range(options.workers + options.readers)
    ]
    names = sorted(cluster.instances)
    for number, worker in enumerate(workers[options.workers :]):
        worker.bound = names[number % len(names)]
    nemesis = Nemesis(cluster, history, options.kinds, threading.Event(), options.seed, options.period)
    let_loose(nemesis, workers, options.seconds, over)
    return workers, nemesis


def settle(cluster: Cluster, space: str, nemesis: Nemesis) -> list[str]:
    """S21 and S22: with everything healed there is an owner, and all instances become equal."""
    try:
        nemesis.heal()
        cluster.wait_leader(soon_s(15))
        cluster.wait_following()
        cluster.wait_equal(space, timeout=soon_s(15))
    except AssertionError as error:
        print(cluster.report())
        return [f"after healing: {error}"]
    return []


def judge(
    options: argparse.Namespace,
    history: History,
    workers: list[Worker],
    nemesis: Nemesis,
    problems: list[str],
    final: dict[str, set[int]],
) -> int:
    found = pair(history.events)
    threads: list[Worker | Nemesis] = [*workers, nemesis]
    failures = [each.failure for each in threads if each.failure is not None]
    began = time.monotonic()
    if options.workload == "register":
        problems = problems + checks.check_register(found)
    elif final:
        problems = problems + checks.check_set(found, final)
        print(checks.set_summary(found, next(iter(final.values()))))
    took = time.monotonic() - began
    owners = set().union(*(worker.owners for worker in workers))
    counts = Counter(f"{op.f}/{op.type}" for op in found.ops)
    errors = Counter(op.error for op in found.ops if op.error)
    times = {event["index"]: event["time"] for event in history.events}
    print(f"operations: {dict(sorted(counts.items()))}")
    print(f"errors: {dict(errors.most_common(8))}")
    print(
        f"faults: {nemesis.bites} of {nemesis.planned} bit, owners: {sorted(owners)}, longest gap "
        f"{checks.longest_gap_s(found, times):.1f} s, checked in {took:.2f} s"
    )
    staying = {worker.process for worker in workers if worker.bound is not None}
    linearizable = checks.staying_reads(found, staying)
    invalid = checks.why_invalid(
        found,
        planned=nemesis.planned,
        bites=nemesis.bites,
        owners=len(owners),
        owner_must_change=bool(options.kinds),
    )
    if options.workload == "register" and staying:
        print(f"linearizable reads where the reader stays: {linearizable}")
        if linearizable < checks.STAYING_READS_MIN:
            invalid.append(f"only {linearizable} linearizable reads where the reader stays")
    for problem in problems:
        print(f"VIOLATION: {problem}")
    for failure in failures:
        print(f"BROKEN: {failure!r}")
    name = f"{options.workload} + {options.nemesis}, {options.seconds:g} s, seed {options.seed}"
    ok = len(found.of_type("ok"))
    if problems:
        print(f"verdict: VIOLATION ({name}); {ok} ok")
        return 1
    if invalid or failures:
        print(f"verdict: INVALID ({name}): {'; '.join(invalid) or 'a thread broke'}")
        return 2
    print(f"verdict: VALID ({name}); {ok} ok of {len(found.ops)}")
    return 0
