"""How fast an instance with many rows is back, from its log and from a snapshot; memory for each row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load import Job, cpu_ns
from benchmarks.suite import run_job
from benchmarks.systems import Member, Synchro

OPS: Final = 256
CALLERS: Final = 8
TIMEOUT_S: Final = 300.0


@dataclass(frozen=True)
class Restart:
    """One start. recovery_s: of the log record `recovered`; ready_s: from exec to `instance_ready`; cpu_s:
    processor time used until then, which a busy machine changes less."""

    what: str
    rows: int
    recovery_s: float
    ready_s: float
    cpu_s: float
    rss_bytes: int

    @property
    def rows_s(self) -> float:
        return self.rows / self.recovery_s


def rss_bytes(member: Member) -> int:
    for line in Path(f"/proc/{member.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def measure(directory: Path, rows: int) -> tuple[list[Restart], float, float]:
    """Starts from the log and from a snapshot, bytes of memory for each row after the latter, and rows/s of
    filling it (one instance, transactions of 256 rows)."""
    system = Synchro(directory / "restart", nodes=1)
    (member,) = system.members
    try:
        system.start()
        system.create_space()
        empty = rss_bytes(member)
        filled = 0.0
        left = rows // OPS * OPS
        result = run_job(
            Job("synchro", "unary", member.address, CALLERS, ops=OPS, limit=left, seconds=1.0), system
        )  # its end waits for all of them
        filled = result["ops_s"]
        if result["failed"] or result["acked_ops"] != left:
            raise RuntimeError(f"filling: {result['acked_ops']} of {left} rows, {result['failed']} failed")
        found = []
        for what in ("restart from the log", "restart from a snapshot"):
            member.stop()
            member.start()
            record, recovered_at = system.wait_event(member, "recovered", TIMEOUT_S)
            _, ready_s = system.wait_event(member, "instance_ready", TIMEOUT_S)
            assert recovered_at <= ready_s
            cpu_s = cpu_ns(member.pid) / 1e9
            if system.rows(system.leader()) != left:
                raise RuntimeError("rows are missing after a restart")
            found.append(Restart(what, left, record["duration_ms"] / 1000, ready_s, cpu_s, rss_bytes(member)))
            if what == "restart from the log":
                system.checkpoint(member)
        return found, (found[-1].rss_bytes - empty) / left, filled
    finally:
        system.stop()
