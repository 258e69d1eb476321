"""Make the pages of docs/coverage: which test shows what.

README.md: what the manual of Tarantool says of replication. docs/coverage/statements.toml has the statements;
each names steps of the walk-throughs, scenarios or tests, or why there are none. What it names must exist.
rules.md: the rules of the queue, of promote and demote, of elections, and the lessons. A test shows the rules
that it cites, in its docstring or beside a step of it; a scenario those of its first lines.

`--check`: only compare.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tools import tutorial_steps

ROOT_DIR: Final = Path(__file__).resolve().parent.parent
COVERAGE: Final = ROOT_DIR / "docs" / "coverage"
SOURCE: Final = COVERAGE / "statements.toml"
TARGET: Final = COVERAGE / "README.md"
TARGET_OF_RULES: Final = COVERAGE / "rules.md"
RULES: Final = ROOT_DIR / "docs" / "rules.md"
_STEP: Final = re.compile(tutorial_steps.STEP)
_TEXT_OF_RULE: Final = re.compile(r"^- \*\*\[([A-Z]-\d+)\]\*\* \S", re.MULTILINE)
HEAD: Final = """\
# Coverage of the manual

Made by `python -m tools.coverage` from [statements.toml](statements.toml): what the documents of Tarantool
say of replication, statement by statement, in our own words, and the tests that show it.
[Rules](../rules.md) have ids such as [Q-44]; [steps](../tutorials/steps.md) such as HO-4 are tests with real
processes; scenarios are [stories in text](../../tests/scenarios/README.md). {counts}
"""
RULES_HEAD: Final = """\
# Coverage of the rules

Made by `python -m tools.coverage`: for each [rule](../rules.md) of the queue, of promote and demote, and of
elections, and for each lesson, tests that cite it, {some} of them at most. A test shows the rules that it
cites in its docstring or beside its steps; a [scenario](../../tests/scenarios/README.md) those of its first
lines.
`grep -rn "Q-44" tests` finds all of them.

| rule | shown by |
|---|---|
"""
AREAS: Final = "QPEL"
"""Letters of the rules of which each must be shown by a test."""
SOME: Final = 4
ABOUT_CITING: Final = ("test_coverage_page.py", "test_rules.py")
"""Their ids are examples."""
CITED: Final = re.compile(r"(?<![\w-])([A-Z])-(\d+)[a-z]?(?:\.\.(?:[A-Z]-)?(\d+)?[a-z]?)?(?![\w-])")
"""A rule, or a range such as P-40..44, which counts for its two ends."""
TABLE_HEAD: Final = "| id | statement | rules | shown by |\n|---|---|---|---|\n"


class Wrong(Exception):
    """What statements.toml has does not fit the repository."""


@dataclass(frozen=True)
class Statement:
    """id: as COV-D0-07. Either `shown` or `reason` is empty."""

    id: str
    says: str
    rules: tuple[str, ...]
    shown: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Document:
    title: str
    statements: tuple[Statement, ...]


def documents(text: str) -> list[Document]:
    """Of statements.toml. Raises `Wrong`."""
    return [_document(part) for part in tomllib.loads(text)["document"]]


def _document(part: Mapping[str, Any]) -> Document:
    made = []
    for number, entry in enumerate(part["statement"], 1):
        name = f"COV-{part['id']}-{number:02}"
        unknown = set(entry) - {"says", "rules", "shown", "not"}
        if unknown or not entry.get("says"):
            raise Wrong(f"{name}: expected says, rules, and shown or not; it has {sorted(entry)}")
        shown, reason = tuple(entry.get("shown", ())), entry.get("not", "")
        if bool(shown) == bool(reason):
            raise Wrong(f"{name}: either `shown` names what shows it, or `not` says why there is nothing")
        made.append(Statement(name, entry["says"], tuple(entry.get("rules", ())), shown, reason))
    return Document(part["title"], tuple(made))


# --- what there is --------------------------------------------------------------------------------------


@cache
def _tests_of_steps() -> Mapping[str, Sequence[str]]:
    found = defaultdict[str, list[str]](list)
    for step, test in tutorial_steps.steps_of_tests():
        found[step].append(test)
    return found


@cache
def _tests_in(file: str) -> frozenset[str]:
    path = ROOT_DIR / "tests" / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(n.name for n in nodes if isinstance(n, kinds) and n.name.startswith("test_"))


def proof(name: str) -> str:
    """What a reader may look at, as Markdown. Raises `Wrong` if it does not exist."""
    if _STEP.fullmatch(name):
        if name not in _tests_of_steps():
            raise Wrong(f"no test carries out the step {name}")
        return f"[{name}](../tutorials/steps.md)"
    file, _, test = name.partition("::")
    if test:
        if test not in _tests_in(file):
            raise Wrong(f"there is no test tests/{name}")
        return f"[`{test}`](../../tests/{file})"
    if not (ROOT_DIR / "tests" / "scenarios" / f"{name}.scenario").is_file():
        raise Wrong(f"there is no scenario tests/scenarios/{name}.scenario")
    return f"[{name}](../../tests/scenarios/{name}.scenario)"


# --- the page -------------------------------------------------------------------------------------------


def page(text: str) -> str:
    """From the text of statements.toml. Raises `Wrong`."""
    found = documents(text)
    known = set(_TEXT_OF_RULE.findall(RULES.read_text(encoding="utf-8")))
    every = [statement for document in found for statement in document.statements]
    shown = sum(bool(statement.shown) for statement in every)
    counts = f"Of {len(every)} statements {shown} are shown; for the others stands why they are not."
    parts = [HEAD.format(counts=counts)]
    for document in found:
        parts.append(f"\n## {document.title}\n\n{TABLE_HEAD}")
        parts += [_row(statement, known) for statement in document.statements]
    return "".join(parts)


def _row(statement: Statement, known: set[str]) -> str:
    if missing := [rule for rule in statement.rules if rule not in known]:
        raise Wrong(f"{statement.id}: docs/rules.md has no text for {', '.join(missing)}")
    rules = " ".join(f"[{rule}]" for rule in statement.rules) or "-"
    try:
        proofs = "<br>".join(map(proof, statement.shown))
    except Wrong as error:
        raise Wrong(f"{statement.id}: {error}") from None
    return f"| {statement.id} | {statement.says} | {rules} | {proofs or 'Not shown: ' + statement.reason} |\n"


# --- rules and tests ------------------------------------------------------------------------------------


def cited_in(text: str) -> set[str]:
    return {f"{letter}-{number}" for letter, *ends in CITED.findall(text) for number in ends if number}


def _citations(path: Path) -> Iterator[tuple[str, set[str]]]:
    """What can be named in `proof`, and the rules that it cites."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".scenario":
        name = path.relative_to(ROOT_DIR / "tests" / "scenarios").with_suffix("").as_posix()
        yield name, cited_in("\n".join(itertools.takewhile(lambda line: line[:1] == "#", text.splitlines())))
        return
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            cited = cited_in("\n".join(lines[first - 1 : node.end_lineno]))
            yield f"{path.relative_to(ROOT_DIR / 'tests').as_posix()}::{node.name}", cited


def shown_rules() -> dict[str, list[str]]:
    """Rule -> scenarios and tests that cite it, scenarios first."""
    tests = ROOT_DIR / "tests"
    found = defaultdict[str, list[str]](list)
    for path in [*sorted(tests.rglob("*.scenario")), *sorted(tests.rglob("test_*.py"))]:
        if path.name in ABOUT_CITING:
            continue
        for name, cited in _citations(path):
            for rule in cited:
                found[rule].append(name)
    return found


def rules_page(rules: Sequence[str], shown: Mapping[str, Sequence[str]]) -> str:
    """rules: all that docs/rules.md has a text for. Raises `Wrong` if no test shows one of `AREAS`."""
    wanted = [rule for rule in rules if rule[0] in AREAS]
    if missing := [rule for rule in wanted if not shown.get(rule)]:
        raise Wrong(f"no test cites {', '.join(missing)}: cite each in the test that would fail without it")
    rows = [f"| {rule} | {'<br>'.join(map(proof, shown[rule][:SOME]))} |\n" for rule in wanted]
    return RULES_HEAD.format(some=SOME) + "".join(rows)


def pages() -> dict[Path, str]:
    """Raises `Wrong`."""
    rules = _TEXT_OF_RULE.findall(RULES.read_text(encoding="utf-8"))
    return {
        TARGET: page(SOURCE.read_text(encoding="utf-8")),
        TARGET_OF_RULES: rules_page(rules, shown_rules()),
    }


def main() -> int:
    try:
        made = pages()
    except Wrong as error:
        print(f"{COVERAGE}: {error}", file=sys.stderr)
        return 1
    if "--check" not in sys.argv:
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
        return 0
    old = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in old:
        print(f"{path} is not current: python -m tools.coverage", file=sys.stderr)
    return int(bool(old))


if __name__ == "__main__":
    sys.exit(main())
