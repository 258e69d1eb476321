"""`python -m tests.scenarios [--rewrite | --list] [FILE ...]`: run scenarios, write down what comes out of
them, or say what they show.

What `--rewrite` changed is to be read before it is committed: it holds whatever the product does.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from tests.scenarios.runner import all_files, by_kind, check_file, rewrite
from tests.scenarios.script import ScenarioError, parse
from tests.scenarios.words import WORDS


def word_table() -> str:
    """As it stands in `README.md`."""
    lines = ["| word | does |", "|---|---|"]
    lines += [f"| `{known.usage}` | {known.meaning} |" for known in WORDS.values()]
    return "\n".join(lines)


def listing(files: Iterable[Path]) -> str:
    """What each of `files` shows, by kind, and how many there are of each."""
    kinds = by_kind(files)
    lines = []
    for kind, found in kinds.items():
        lines.append(f"{kind}: {len(found)}")
        for path in found:
            sentence = parse(path.read_text(encoding="utf-8"), may_expect_nothing=True).sentence
            lines.append(f"    {path.parent.name}/{path.stem}: {sentence}")
    counts = ", ".join(f"{kind} {len(found)}" for kind, found in kinds.items())
    lines.append(f"{sum(map(len, kinds.values()))} of these kinds: {counts}")
    return "\n".join(lines)


def _failed_at(error: AssertionError) -> str:
    """For an assertion of the product, which has no text."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"an assertion does not hold: {last.filename}:{last.lineno} {last.line}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument("--words", action="store_true", help="print the table of README.md")
    parser.add_argument(
        "--list", action="store_true", help="print what they show, and how many there are of each kind"
    )
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    if options.words:
        print(word_table())
        return 0
    files = options.files or all_files()
    if options.list:
        print(listing(files))
        return 0
    failed = 0
    for path in files:
        try:
            if not options.rewrite:
                check_file(path)
            elif rewrite(path):
                print(f"{path}: rewritten")
        except ScenarioError as error:
            failed += 1
            print(f"{path}:{error.line or 1}: {error.message}")
        except AssertionError as error:
            failed += 1
            print(str(error) or f"{path}: {_failed_at(error)}")
    print(f"{len(files)} scenarios, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
