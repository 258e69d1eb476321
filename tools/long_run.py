"""`make test-long`: what takes minutes, one part after the other.

Each part appends a line to `tests/records/ledger.jsonl`: commit, target, seeds, operations, violations,
seconds. A commit with changes that are not committed ends in `+`, so that nobody takes its line for a record
of that commit. The exit code is 0 if every part that ran found nothing, and the time limit cut none off.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LEDGER: Final = ROOT / "tests" / "records" / "ledger.jsonl"
LIMIT_S: Final = 85 * 60
"""Of the whole run; a part that would go beyond it is ended and counts as failed."""
JEPSEN_SECONDS: Final = 60
READS_SECONDS: Final = 300
"""Ten clients, linearizable reads on followers too; the leader is killed and links are cut in turns."""
NEMESES: Final = ("kill", "pause", "partition", "deaf,mute")
FUZZ_INPUTS: Final = 200_000
TOPOLOGIES: Final = ("pair", "mesh3", "mesh5", "ring4", "line4")


@dataclass(frozen=True)
class Part:
    target: str
    seeds: str
    command: list[str]
    read: Callable[[str], tuple[int, int] | None]
    """Output -> operations, violations; None: it did not come to its end."""


def read_pytest(output: str) -> tuple[int, int] | None:
    lines = re.findall(r"^.*\b(?:passed|failed|errors?)\b.* in [\d.]+s.*$", output, re.MULTILINE)
    if not lines:
        return None
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|error)", lines[-1])}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    return counts.get("passed", 0) + bad, bad


def read_sim(output: str) -> tuple[int, int] | None:
    found = re.findall(r"^sim: (\d+) seeds, (\d+) violations", output, re.MULTILINE)
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def read_jepsen(output: str) -> tuple[int, int] | None:
    """A run that proves nothing has no figures."""
    valid = re.search(r"^verdict: VALID .*; (\d+) ok of", output, re.MULTILINE)
    if valid:
        return int(valid[1]), 0
    violation = re.search(r"^verdict: VIOLATION .*; (\d+) ok", output, re.MULTILINE)
    return (int(violation[1]), len(re.findall(r"^VIOLATION: ", output, re.MULTILINE))) if violation else None


def read_fuzz(output: str) -> tuple[int, int] | None:
    """An input that finds a fault ends the run before its figures."""
    found = re.findall(r"^([\d,]+) inputs, [\d,]+ bytes in", output, re.MULTILINE)
    return (int(found[-1].replace(",", "")), 0) if found else None


def parts(first: int, seeds: int) -> list[Part]:
    python = sys.executable
    found = [
        Part("pytest -m long", "", [python, "-m", "pytest", "-q", "-m", "long"], read_pytest),
        Part(
            "sim",
            f"{first}..{first + seeds - 1}",
            [python, "-m", "tests.sim", "--seeds", str(seeds), "--first", str(first), "--jobs", "2"],
            read_sim,
        ),
    ]
    for nemesis in NEMESES:
        command = [python, "-m", "tests.jepsen_like", "--workload", "register", "--nemesis", nemesis]
        command += ["--seconds", str(JEPSEN_SECONDS), "--seed", str(first)]
        found.append(Part(f"jepsen_like register {nemesis}", str(first), command, read_jepsen))
    command = [python, "-m", "tests.jepsen_like", "--workload", "register", "--nemesis", "kill,partition"]
    command += ["--workers", "7", "--readers", "3", "--seconds", str(READS_SECONDS), "--seed", str(first)]
    found.append(Part("jepsen_like reads of ten clients", str(first), command, read_jepsen))
    for topology in TOPOLOGIES:
        command = [python, "-m", "tests.jepsen_like.topologies", "--topology", topology]
        command += ["--seconds", str(JEPSEN_SECONDS), "--seed", str(first)]
        found.append(Part(f"jepsen_like {topology}", str(first), command, read_jepsen))
    command = [python, "-m", "tests.fuzz_wire", "--inputs", str(FUZZ_INPUTS), "--seed", str(first)]
    found.append(Part("fuzz_wire", str(first), command, read_fuzz))
    return found


def git(*arguments: str) -> str:
    """What git prints."""
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def commit() -> str:
    """The last one; `+`: not what is tested."""
    is_changed = git("status", "--porcelain", "--", ".", ":!tests/records")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if is_changed else "")


def run(part: Part, seconds: float) -> bool:
    """True: it found nothing. Its output is shown as it comes."""
    print(f"=== {part.target}: {' '.join(part.command[1:])}", flush=True)
    began = time.monotonic()
    lines: list[str] = []
    process = subprocess.Popen(
        ["timeout", "--kill-after=20", f"{seconds:.0f}", *part.command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    figures = part.read("".join(lines))
    record = {
        "commit": commit(),
        "target": part.target,
        "seeds": part.seeds,
        "operations": None if figures is None else figures[0],
        "violations": None if figures is None else figures[1],
        "seconds": round(time.monotonic() - began, 1),
    }
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    with LEDGER.open("a") as ledger:
        ledger.write(json.dumps(record) + "\n")
    is_good = code == 0 and figures is not None and figures[1] == 0
    print(f"=== {'passed' if is_good else 'FAILED'}: {part.target}, {record['seconds']} s", flush=True)
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tools/long_run.py", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5000, help="simulator seeds")
    parser.add_argument(
        "--first", type=int, help="the first of them, and the seed of the other parts; default: by the commit"
    )
    parser.add_argument("--only", default="", help="parts whose target begins with this")
    options = parser.parse_args()
    first = int(git("rev-parse", "HEAD")[:6], 16) if options.first is None else options.first
    ends = time.monotonic() + LIMIT_S
    chosen = [part for part in parts(first, options.seeds) if part.target.startswith(options.only)]
    if not chosen:
        parser.error(f"no part begins with {options.only!r}")
    results = [run(part, max(1.0, ends - time.monotonic())) for part in chosen]
    print(f"=== {sum(results)} of {len(results)} parts found nothing; see {LEDGER.relative_to(ROOT)}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
