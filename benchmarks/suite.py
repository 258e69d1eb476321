"""What is measured, in which order, and the medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.load import KEYS_A_RUN, Job, cpu_ns
from benchmarks.systems import ELECTION_TIMEOUT_S, NODES, Etcd, Synchro, System

RETRIES: Final = 3
JOB_TIMEOUT_S: Final = 400
BATCH_CALLERS: Final = 8
CONNECTIONS: Final = (1, 4)
"""Unary calls are measured over so many connections, and the best median counts, for both systems."""


@dataclass(frozen=True)
class Cell:
    """A row of the table, and the row of etcd it is compared with."""

    what: str
    callers: int
    job: str
    versus: tuple[str, int] | None
    """(what, callers) of etcd's cell."""
    ops: int = 1
    how: str = ""
    on_follower: bool = False


UNARY: Final = (1, 16, 64, 256)
COALESCED: Final = (1, 16, 64, 256, 1000)

OURS: Final = (
    *(Cell("unary", n, "unary", ("put", n)) for n in UNARY),
    *(Cell("coalesced", n, "coalesced", ("put", n)) for n in COALESCED),
    *(Cell(f"batch {n}", BATCH_CALLERS, "coalesced", ("put", 256), ops=n) for n in (64, 256)),
    *(Cell("read local", n, "read", ("range local", n), how="confirmed") for n in (1, 64)),
    Cell("read local, follower", 64, "read", ("range local", 64), how="confirmed", on_follower=True),
    *(Cell("read linearizable", n, "read", ("range linearizable", n), how="linearizable") for n in (1, 64)),
)  # fmt: skip
ETCDS: Final = (
    *(Cell("put", n, "unary", None) for n in COALESCED),
    *(Cell(f"txn {n}", BATCH_CALLERS, "unary", None, ops=n) for n in (64, 256)),
    *(Cell("range local", n, "read", None, how="confirmed") for n in (1, 64)),
    *(Cell("range linearizable", n, "read", None, how="linearizable") for n in (1, 64)),
)
QUICK: Final = frozenset(
    {("unary", 1), ("unary", 64), ("coalesced", 64), ("coalesced", 256), ("batch 256", 8)}
)
READ_ROWS: Final = 16384


@dataclass
class Samples:
    """All runs of one cell; variants are numbers of connections."""

    cell: Cell
    runs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def best(self) -> dict[str, Any] | None:
        """Medians of the variant with the highest median rate."""
        if not self.runs:
            return None
        medians = [_medians(runs) | {"connections": count} for count, runs in self.runs.items()]
        return max(medians, key=lambda one: one["ops_s"])


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("ops_s", "p50_ms", "p99_ms", "cpu_us_per_op", "client_us_per_op")
    return {name: statistics.median(run[name] for run in runs) for name in names} | {
        "runs": len(runs),
        "ops_s_min": min(run["ops_s"] for run in runs),
        "ops_s_max": max(run["ops_s"] for run in runs),
    }


class Suite:
    """All systems run all the time; the cells of a round alternate between them."""

    def __init__(
        self, directory: Path, *, seconds: float, say: Callable[[str], None], before: Path | None = None
    ) -> None:
        """before: a checkout of another version, which does all that ours does."""
        self.seconds = seconds
        self.say = say
        self.synchro = Synchro(directory / "synchro")
        self.etcd = Etcd(directory / "etcd") if Etcd.is_installed() else None
        self.before = Synchro(directory / "before", tree=before) if before is not None else None
        self._next_key = KEYS_A_RUN
        self._acked = {system.name: 0 for system in self.systems}
        self._unknown = {system.name: 0 for system in self.systems}
        self._foreign: list[float] = []

    @property
    def systems(self) -> list[System]:
        return [system for system in (self.synchro, self.before, self.etcd) if system is not None]

    @property
    def foreign_cores(self) -> float:
        """Median of the processor time that others used meanwhile, in cores."""
        return statistics.median(self._foreign) if self._foreign else 0.0

    def start(self) -> None:
        for system in self.systems:
            system.start()
        for system in self.systems:
            if isinstance(system, Synchro):
                system.create_space()
            system.leader()
            self._run(
                system, Cell("", 8, "unary", None, ops=256), 1, first_key=0, seconds=0.2, limit=READ_ROWS
            )

    def stop(self) -> None:
        for system in self.systems:
            system.stop()

    def measure(
        self, rounds: int, wanted: Callable[[Cell], bool]
    ) -> tuple[list[Samples], list[Samples], list[Samples]]:
        """Cells of ours, those of the version before (none without one), and etcd's."""
        ours = [Samples(cell) for cell in OURS if wanted(cell)]
        earlier = [Samples(samples.cell) for samples in ours] if self.before else []
        needed = {samples.cell.versus for samples in ours}
        if any(samples.cell.ops > 1 for samples in ours):
            needed |= {(f"txn {samples.cell.ops}", BATCH_CALLERS) for samples in ours}
        theirs = [Samples(cell) for cell in ETCDS if (cell.what, cell.callers) in needed] if self.etcd else []
        for turn in range(rounds):
            queue: list[tuple[System, Samples]] = []
            for at in range(max(len(ours), len(theirs))):
                if at < len(ours):
                    queue.append((self.synchro, ours[at]))
                if at < len(earlier):
                    assert self.before is not None
                    queue.append((self.before, earlier[at]))
                if at < len(theirs):
                    assert self.etcd is not None
                    queue.append((self.etcd, theirs[at]))
            for system, samples in queue:
                cell = samples.cell
                many = cell.job != "coalesced" and cell.callers >= 64
                for connections in CONNECTIONS if many else CONNECTIONS[:1]:
                    result = self._run(system, cell, connections)
                    samples.runs.setdefault(connections, []).append(result)
                    self.say(
                        f"  {turn + 1}/{rounds} {system.name} {cell.what} x{cell.callers}"
                        f" ({connections}): {result['ops_s']:,.0f}/s"
                    )
        self.check()
        return ours, earlier, theirs

    def check(self) -> None:
        """What was acknowledged is there, nothing else."""
        for system in self.systems:
            rows = system.rows(system.leader())
            acked, unknown = self._acked[system.name], self._unknown[system.name]
            if not acked <= rows <= acked + unknown:
                raise RuntimeError(
                    f"{system.name} holds {rows} rows, but acknowledged {acked}, and {unknown} failed"
                )
            self.say(f"{system.name}: {rows:,} rows; operations acknowledged: {acked:,}, failed: {unknown:,}")

    def _run(
        self,
        system: System,
        cell: Cell,
        connections: int,
        *,
        first_key: int | None = None,
        seconds: float | None = None,
        limit: int = 0,
        again: int = RETRIES,
    ) -> dict[str, Any]:
        leader = system.leader()
        member = leader
        if cell.on_follower:
            member = next(one for one in system.members if one is not leader)
        if first_key is None and cell.job == "read":
            first_key, limit = 0, READ_ROWS
        elif first_key is None:
            first_key = self._next_key
            self._next_key += KEYS_A_RUN
        job = Job(
            system=system.name,
            what=cell.job,
            address=member.address,
            callers=cell.callers,
            seconds=self.seconds if seconds is None else seconds,
            connections=connections,
            ops=cell.ops,
            how=cell.how,
            first_key=first_key,
            limit=limit,
            pids=(member.pid,),
        )
        watched = [one.pid for other in self.systems for one in other.members]
        before = _all_cpu_s(), sum(map(cpu_ns, watched)) / 1e9
        result = run_job(job, system)
        everything = _all_cpu_s() - before[0]
        own = sum(map(cpu_ns, watched)) / 1e9 - before[1] + result["client_cpu_s"]
        self._foreign.append(max(0.0, everything - own) / result["wall_s"])
        if cell.job != "read":
            self._acked[system.name] += result["acked_ops"]
            self._unknown[system.name] += result["failed"] * cell.ops
        if result["failed"]:
            # On a starved machine a leader may change; such a run measures something else.
            self.say(f"  {system.name} {cell.what} x{cell.callers}: {result['failed']} calls failed, again")
            if again <= 0:
                raise RuntimeError("calls failed in too many runs")
            time.sleep(2 * ELECTION_TIMEOUT_S)
            return self._run(system, cell, connections, again=again - 1)
        return result


def run_job(job: Job, system: System) -> dict[str, Any]:
    """Run the load generator of the system's version."""
    done = subprocess.run(
        [system.python, "-m", "benchmarks.load", json.dumps(asdict(job))],
        capture_output=True, text=True, timeout=JOB_TIMEOUT_S, check=False, cwd=system.tree,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the load generator failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _all_cpu_s() -> float:
    """Processor time of the machine that was not idle."""
    user, nice, kernel, _idle, _wait, irq, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + kernel + irq + soft) / os.sysconf("SC_CLK_TCK")


assert NODES == 3  # the table says so
