"""Make docs/tutorials/steps.md: the steps of the walk-throughs, and what carries them out.

`--check`: only compare. The docstring of a test of tests/e2e begins with the ids of its steps,
`MM-17, WQ-5: ...`; a page names them in comments, `<!-- MM-17 -->`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT_DIR: Final = Path(__file__).resolve().parent.parent
TUTORIALS: Final = ROOT_DIR / "docs" / "tutorials"
TARGET: Final = TUTORIALS / "steps.md"
STEP: Final = r"[A-Z]+\d?-\d+[a-z]?"
_OF_TEST: Final = re.compile(rf"({STEP}(?:, {STEP})*): ")
_OF_PAGE: Final = re.compile(rf"^<!-- ({STEP}(?:, {STEP})*) -->$", re.MULTILINE)
WALKS: Final = {
    "QS": "quick start",
    "MON": "watching a replica",
    "DUP": "doing things once",
    "HO": "hands on, two terminals",
    "MM": "two masters, a conflict, its repair",
    "BR": "bootstrap of a master and a replica",
    "BM": "bootstrap of two masters",
    "CF": "controlled failover by signature",
    "S1": "`info synchro`, first example",
    "S2": "`info synchro`, second example",
    "SF": "meaning of its fields",
    "WQ": "what if?",
    "PR": "statements of the running text",
}
HEAD: Final = """\
# Steps of the walk-throughs

Made by `python tools/tutorial_steps.py` from the docstrings of the tests and the comments of the pages.
Unless a step is about something else than calls, its test does it three times, each time on a set of its own:
by the command line, by the Python client and by a plain gRPC stub. The pages are carried out as they stand,
by `tests/e2e/tutorials/test_pages.py`.

| step | test | page |
|---|---|---|
"""


LIMITS: Final = """
Of S2-11 and MM-19 all but the clauses about metrics are carried out: this release has no metrics.
"""


def steps_of_tests() -> Iterator[tuple[str, str]]:
    """Step, and the test as FILE::NAME."""
    for path in sorted((ROOT_DIR / "tests" / "e2e").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found = _OF_TEST.match(ast.get_docstring(node) or "")
                for step in found[1].split(", ") if found else ():
                    yield step, f"{path.relative_to(ROOT_DIR)}::{node.name}"


def steps_of_pages() -> Iterator[tuple[str, str]]:
    """Step, and the name of the page."""
    for path in sorted(TUTORIALS.glob("*.md")):
        for found in _OF_PAGE.findall(path.read_text(encoding="utf-8")):
            for step in found.split(", "):
                yield step, path.name


def _order(step: str) -> tuple[int, int, str]:
    walk, _, number = step.partition("-")
    return list(WALKS).index(walk), int(number.rstrip("abc")), number


def table() -> str:
    tests, pages = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for step, test in steps_of_tests():
        tests[step].append(test)
    for step, page in steps_of_pages():
        if page not in pages[step]:
            pages[step].append(page)
    rows = [HEAD]
    walk = ""
    for step in sorted({*tests, *pages}, key=_order):
        if walk != (walk := step.partition("-")[0]):
            rows.append(f"| **{walk}** | *{WALKS[walk]}* | |\n")
        names = "<br>".join(f"`{test}`" for test in tests[step]) or "-"
        links = ", ".join(f"[{Path(page).stem}]({page})" for page in pages[step])
        rows.append(f"| {step} | {names} | {links} |\n")
    return "".join([*rows, LIMITS])


def main() -> int:
    made = table()
    if "--check" not in sys.argv:
        TARGET.write_text(made, encoding="utf-8")
        return 0
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != made:
        print(f"{TARGET} is not current: python tools/tutorial_steps.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
