"""`python -m benchmarks`: measures synchro and, in the same run, etcd; prints a table, writes JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import failover, restart
from benchmarks.suite import QUICK as QUICK_CELLS
from benchmarks.suite import Cell, Samples, Suite
from benchmarks.systems import ELECTION_TIMEOUT_S, INSTALL_ETCD, REPLICATION_TIMEOUT_S, Etcd

OUT: Final = Path(__file__).parent / "out" / "latest.json"
PARTS: Final = ("unary", "coalesced", "batch", "read", "restart", "failover")
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})
GOALS: Final = {
    ("unary", 1): 0.55,
    ("unary", 16): 1.1,
    ("unary", 64): 1.3,
    ("unary", 256): 1.25,
    ("coalesced", 1): 0.5,
    ("coalesced", 16): 1.4,
    ("coalesced", 64): 1.6,
    ("coalesced", 256): 2.3,
    ("coalesced", 1000): 2.1,
    ("batch 256", 8): 7.0,
    ("read local", 64): 3.0,
    ("read linearizable", 1): 0.5,
    ("read linearizable", 64): 2.0,
}
"""Least ratio to etcd."""
GOAL_RESTART_ROWS_S: Final = 150_000
GOAL_FAILOVER_TIMEOUTS: Final = 2.0


def main() -> int:
    options = _options()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    only = set(options.only.split(",")) if options.only else set(PARTS)
    if not only <= set(PARTS):
        print(f"error: --only knows {', '.join(PARTS)}", file=sys.stderr)
        return 2
    directory = _directory(options.dir)
    try:
        _run(options, only, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer rows, one round")
    parser.add_argument("--only", help=f"comma-separated parts: {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, help="interleaved runs of each cell (3)")
    parser.add_argument("--seconds", type=float, help="length of one run (3)")
    parser.add_argument("--rows", type=int, help="rows of the restart (1000000)")
    parser.add_argument("--kills", type=int, help="leaders killed for the failover time (5)")
    parser.add_argument(
        "--before",
        type=Path,
        help="checkout of another version, ready by `make setup`: measured too",
    )
    parser.add_argument("--dir", type=Path, help="where the data files go; must be on a disk")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    quick = options.quick
    options.rounds = options.rounds or (1 if quick else 3)
    options.seconds = options.seconds or (1.0 if quick else 3.0)
    options.rows = options.rows or (100_000 if quick else 1_000_000)
    options.kills = options.kills or (1 if quick else 5)
    return options


def _directory(wanted: Path | None) -> Path:
    """A new directory on a real disk."""
    for parent in (wanted,) if wanted else (Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()):
        if _file_system(parent) not in MEMORY_FILE_SYSTEMS:
            return Path(tempfile.mkdtemp(prefix="synchro-bench-", dir=parent))
    raise SystemExit("error: only memory file systems here; give a directory on a disk with --dir")


def _file_system(path: Path) -> str:
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, name, *_ = line.split()
        if (path.resolve() == Path(point) or Path(point) in path.resolve().parents) and len(point) >= len(
            best
        ):
            best, kind = point, name
    return kind


def _run(options: argparse.Namespace, only: set[str], directory: Path) -> None:
    has_etcd = Etcd.is_installed()
    if not has_etcd:
        print(INSTALL_ETCD)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"data in {directory} ({_file_system(directory)})" + (f", etcd {Etcd.version()}" if has_etcd else "")
    )
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for measure in (_rates, _restarts, _failovers):
        results += measure(options, only, directory)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\ntook {time.monotonic() - began:.0f} s; written: {options.out}")


# --- rates ----------------------------------------------------------------------------------------------


def _rates(options: argparse.Namespace, only: set[str], directory: Path) -> list[dict[str, Any]]:
    if not only & {"unary", "coalesced", "batch", "read"}:
        return []

    def wanted(cell: Cell) -> bool:
        if options.quick and (cell.what, cell.callers) not in QUICK_CELLS:
            return False
        return cell.what.split()[0] in only

    suite = Suite(
        directory,
        seconds=options.seconds,
        say=lambda text: print(text, flush=True),
        before=options.before and options.before.resolve(),
    )
    try:
        suite.start()
        ours, earlier, theirs = suite.measure(options.rounds, wanted)
    finally:
        suite.stop()
    their_best = {(one.cell.what, one.cell.callers): one.best() for one in theirs}
    before = {(one.cell.what, one.cell.callers): one.best() for one in earlier}
    results = [
        _row(
            samples,
            their_best.get(samples.cell.versus or ("", 0)),
            before=before.get((samples.cell.what, samples.cell.callers)),
        )
        for samples in ours
    ]
    results += [_row(samples, None, "before ") for samples in earlier]
    results += [_row(samples, None, "etcd ") for samples in theirs]
    print(f"\nmedians of {options.rounds} interleaved runs of {options.seconds:g} s; 100-byte values, fresh")
    print("scattered keys, fsync on, quorum 2 of 3, generator and six servers on this machine; others used "
          f"{suite.foreign_cores:.1f} cores")  # fmt: skip
    print(
        f"\n{'':28}{'callers':>8}{'ops/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU us/op':>11}{'x etcd':>8}"
        f"{'x before':>10}  goal"
    )
    for row in results:
        ratio, goal = row["ratio_etcd"], GOALS.get((row["what"], row["callers"]))
        print(
            f"{row['what']:28}{row['callers']:>8}{row['ops_s']:>10,.0f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.1f}"
            f"{row['cpu_us_per_op']:>11.1f}" + (f"{ratio:>8.2f}" if ratio is not None else f"{'':8}")
            + (f"{row['ratio_before']:>10.2f}" if row["ratio_before"] is not None else f"{'':10}")
            + ("" if goal is None or ratio is None else f"  {goal:g}: {'met' if ratio >= goal else 'missed'}")
        )  # fmt: skip
    print(
        "\nCPU: of the leader (of the instance that is read). batch N: transactions of N inserts, against"
        "\netcd's puts at 256 callers; `etcd txn N` is its own batch. Unary, put, read, range: the same"
        "\nHTTP/2 generator (benchmarks/wire.py) for both, over 1 or 4 connections, whichever was better;"
        "\ncoalesced and batch: the client library, one stream."
    )
    return results


def _row(
    samples: Samples,
    versus: dict[str, Any] | None,
    prefix: str = "",
    *,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    best = samples.best()
    assert best is not None
    cell = samples.cell
    return {
        "what": prefix + cell.what,
        "callers": cell.callers,
        "ops_s": round(best["ops_s"], 1),
        "p50_ms": round(best["p50_ms"], 3),
        "p99_ms": round(best["p99_ms"], 3),
        "cpu_us_per_op": round(best["cpu_us_per_op"], 2),
        "ratio_etcd": None if versus is None else round(best["ops_s"] / versus["ops_s"], 3),
        "ratio_before": None if before is None else round(best["ops_s"] / before["ops_s"], 3),
        "client_us_per_op": round(best["client_us_per_op"], 2),
        "ops_s_min": round(best["ops_s_min"], 1),
        "ops_s_max": round(best["ops_s_max"], 1),
        "connections": best["connections"],
    }


# --- restart, memory, failover ----------------------------------------------------------------------------


def _restarts(options: argparse.Namespace, only: set[str], directory: Path) -> list[dict[str, Any]]:
    if "restart" not in only:
        return []
    print(f"\nfilling one instance with {options.rows:,} rows", flush=True)
    restarts, row_bytes, _ = restart.measure(directory, options.rows)
    results = []
    for one in restarts:
        met = "met" if one.rows_s >= GOAL_RESTART_ROWS_S else "missed"
        print(
            f"{one.what}: {one.rows:,} rows in {one.recovery_s:.2f} s (log record `recovered`) = "
            f"{one.rows_s:,.0f} rows/s, goal {GOAL_RESTART_ROWS_S:,}: {met}; "
            f"exec to ready {one.ready_s:.2f} s, processor time {one.cpu_s:.2f} s"
        )
        results.append(_other(one.what, ops_s=one.rows_s, p50_ms=1000 * one.ready_s))
    print(f"memory: {row_bytes:.0f} bytes a row (100-byte value; resident set after the snapshot)")
    return [*results, _other("memory, bytes a row", ops_s=row_bytes)]


def _failovers(options: argparse.Namespace, only: set[str], directory: Path) -> list[dict[str, Any]]:
    if "failover" not in only:
        return []
    print(f"\nfailover: SIGKILL of the leader under load, {options.kills} times each", flush=True)
    results = []
    found = failover.both(directory, options.kills)
    for name, times in found.items():
        median, worst = statistics.median(times), max(times)
        shown = ", ".join(f"{one / ELECTION_TIMEOUT_S:.2f}" for one in times)
        goal = ""
        if name == "synchro":
            met = "met" if worst < GOAL_FAILOVER_TIMEOUTS * ELECTION_TIMEOUT_S else "missed"
            goal = f", goal under {GOAL_FAILOVER_TIMEOUTS:g}: {met}"
        print(
            f"{name}: kill to first acknowledged write elsewhere: median {median:.2f} s, "
            f"worst {worst:.2f} s; "
            f"in election timeouts of {ELECTION_TIMEOUT_S:g} s: {shown}{goal}"
        )
        ratio = median / statistics.median(found["etcd"]) if "etcd" in found and name == "synchro" else None
        results.append(
            _other(
                "failover" if name == "synchro" else f"{name} failover",
                p50_ms=1000 * median, p99_ms=1000 * worst, ratio=ratio,
            )
        )  # fmt: skip
    print(
        f"settings: replication.timeout {REPLICATION_TIMEOUT_S:g}, election_timeout {ELECTION_TIMEOUT_S:g}; "
        "etcd: heartbeat 100 ms, election 1 s"
    )
    return results


def _other(
    what: str, *, ops_s: float = 0.0, p50_ms: float = 0.0, p99_ms: float = 0.0, ratio: float | None = None
) -> dict[str, Any]:
    return {
        "what": what,
        "callers": 0,
        "ops_s": round(ops_s, 1),
        "p50_ms": round(p50_ms, 2),
        "p99_ms": round(p99_ms, 2),
        "cpu_us_per_op": None,
        "ratio_etcd": None if ratio is None else round(ratio, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
