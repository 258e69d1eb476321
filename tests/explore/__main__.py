"""python -m tests.explore --states N [--all] [--part I/N] [--ledger FILE]"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.explore.search import SITUATIONS, Report, Search, a_place_of_each, every_place


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.explore")
    parser.add_argument("--states", type=int, default=15000, help="how many distinct states to look at")
    parser.add_argument("--all", action="store_true", help="every start with every set of streams")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="the I-th of N shares of the places")
    parser.add_argument("--ledger", type=Path, help="append the result to this file")
    options = parser.parse_args(arguments)
    part, of = map(int, options.part.split("/"))
    places = every_place() if options.all else a_place_of_each()
    report = Search().run(places[part - 1 :: of], options.states)
    print(text_of(report))
    if options.ledger is not None:
        _note(options.ledger, report, f"explore{' --all' if options.all else ''} --part {options.part}")
    missing = [situation for situation in SITUATIONS if not report.hits.get(situation)]
    if report.violation is None and missing:
        print(f"never met: {', '.join(missing)}", file=sys.stderr)
    return int(report.violation is not None or bool(missing))


def text_of(report: Report) -> str:
    lines = [
        f"{report.states} distinct states by {report.moves} moves from {report.starts} starts, "
        f"{report.whole} of them to the end of the scope; {report.steps} steps of one instance; "
        f"{report.seconds:.1f} s"
    ]
    lines += [f"{count:9} {situation}" for situation, count in sorted(report.hits.items())]
    lines.append(f"violation: {report.violation or 'none'}")
    return "\n".join(lines)


def _note(ledger: Path, report: Report, target: str) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    entry = {
        "commit": commit.stdout.strip(),
        "target": target,
        "seeds": "",
        "states": report.states,
        "operations": report.moves,
        "violations": int(report.violation is not None),
        "seconds": round(report.seconds, 1),
        **{situation: report.hits.get(situation, 0) for situation in SITUATIONS},
    }
    with ledger.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    sys.exit(main())
