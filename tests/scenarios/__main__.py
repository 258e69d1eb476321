"""`python -m tests.scenarios [--rewrite] [FILE ...]`: run scenarios, or write down what comes out of them.

What `--rewrite` changed is to be read before it is committed: it holds whatever the product does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.scenarios.runner import all_files, check_file, rewrite
from tests.scenarios.script import ScenarioError
from tests.scenarios.words import WORDS


def word_table() -> str:
    """As it stands in `README.md`."""
    lines = ["| word | does |", "|---|---|"]
    lines += [f"| `{known.usage}` | {known.meaning} |" for known in WORDS.values()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument("--words", action="store_true", help="print the table of README.md")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    if options.words:
        print(word_table())
        return 0
    files = options.files or all_files()
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
            print(error)
    print(f"{len(files)} scenarios, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
