"""Ids mean one thing each: what is cited has a text, what has a text is cited, and a test looks at it.

Three kinds of ids. `[Q-30]` is a rule of `docs/rules.md`. `S3` is a property of a whole replica set, in
`docs/invariants.md`. `Limbo.L6` is an invariant of one class (or `memtx.X1`, of one module), stated at its
top. An id counts where it is written out. A range such as [P-40..44] counts for its two ends.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.coverage import cited_in

ROOT = Path(__file__).resolve().parents[2]
ME = Path(__file__).resolve()
STORIES = "T"
"""Ids with this letter are worked examples: tests tell them, and no code is written by them."""

PROPERTY = re.compile(r"(?<![\w.\-/])S\d{1,2}(?![\w])")
OWNED = re.compile(r"(?<![\w.])(\w+)\.([A-Z]\d{1,2})(?:\.\.([A-Z]\d{1,2}))?(?![\w.(])")
BARE = re.compile(r"""(?<![\w.\-/'*])(?<!(?<!"")")([A-RT-Z]\d{1,2})(?![\w*$|^])""")
STATED = re.compile(r'^\s*(?:""")?([A-Z]\d{1,2})(?:  (?=\S)| (?=[A-Z]))')
ELSEWHERE = re.compile(r"MEND-\w|\b[Aa]nswers \d+\b(?! %)|\(answers in|\b[Dd]ecisions? \d")
"""Papers that a reader of this repository does not have."""
STEP = re.compile(r"\b(?:HO|WQ)-\d+")
"""Steps of walk-throughs, of two kinds: they stand in docs/tutorials/steps.md."""


def files(*tops: str) -> list[Path]:
    """Python and Markdown files and scenarios, without generated ones and without this one."""
    found = [
        path for top in tops for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".md", ".scenario")
    ]
    return sorted(p for p in found if "generated" not in p.parts and p != ME)


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def cited_under(*tops: str) -> dict[str, set[str]]:
    """Id -> the files that cite it."""
    found: dict[str, set[str]] = {}
    for path in files(*tops):
        if path.name != "rules.md":
            for rule in cited_in(text_of(path)):
                found.setdefault(rule, set()).add(short(path))
    return found


@functools.cache
def texts() -> dict[str, int]:
    """Rule -> how often docs/rules.md gives its text."""
    counts: dict[str, int] = {}
    for rule in re.findall(
        r"^- \*\*\[([A-Z]-\d+)\]\*\* \S", text_of(ROOT / "docs" / "rules.md"), re.MULTILINE
    ):
        counts[rule] = counts.get(rule, 0) + 1
    return counts


@functools.cache
def words_in(path: Path) -> list[tuple[int, int, str]]:
    """(line, column, text) of every line of a comment or a string; of a page or scenario, of every line."""
    source = text_of(path)
    if path.suffix != ".py":
        return [(number, 0, line) for number, line in enumerate(source.splitlines(), 1)]
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for offset, line in enumerate(token.string.splitlines()):
                found.append((token.start[0] + offset, token.start[1] if offset == 0 else 0, line))
    return found


def words_of(*tops: str, having: tuple[re.Pattern[str], ...]) -> Iterator[tuple[Path, int, int, str]]:
    """(file, line, column, text) as `words_in`, of the files that have a match of one of these anywhere: the
    others need not be taken apart."""
    for path in files(*tops):
        if any(pattern.search(text_of(path)) for pattern in having):
            for number, column, words in words_in(path):
                yield path, number, column, words


def stated() -> dict[str, set[str]]:
    """Class or module -> the ids that its docstring states."""
    found: dict[str, set[str]] = {}
    for path in files("synchro"):
        if path.suffix == ".py":
            tree = ast.parse(text_of(path))
            classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
            nodes: list[ast.Module | ast.ClassDef] = [tree, *classes]
            for node in nodes:
                name = node.name if isinstance(node, ast.ClassDef) else path.stem
                lines = (ast.get_docstring(node, clean=False) or "").splitlines()
                found.setdefault(name, set()).update(m[1] for m in map(STATED.match, lines) if m)
    return found


def test_every_rule_that_is_cited_has_one_text() -> None:
    cited = cited_under("synchro", "tests", "benchmarks", "docs")
    assert len(cited) > 200
    without = {rule: where for rule, where in cited.items() if rule not in texts()}
    assert without == {}, "write its text in docs/rules.md"
    assert [rule for rule, count in texts().items() if count > 1] == []


def test_every_rule_is_cited_in_code_and_in_tests() -> None:
    code, tests = cited_under("synchro"), cited_under("tests")
    untested = {rule: code.get(rule, set()) for rule in texts() if rule not in tests}
    assert untested == {}, "cite each in the test that exercises it"
    unknown = {rule: tests[rule] for rule in texts() if rule not in code and rule[0] != STORIES}
    assert unknown == {}, "cite each where it is implemented, or take its text out"


def test_properties_of_a_set_stand_in_the_table() -> None:
    table = set(re.findall(r"^\| (S\d+) \|", text_of(ROOT / "docs" / "invariants.md"), re.MULTILINE))
    cited = {
        found: f"{short(path)}:{line}"
        for path, line, _, words in words_of("synchro", "tests", "docs", having=(PROPERTY,))
        for found in PROPERTY.findall(words)
    }
    assert {name: where for name, where in cited.items() if name not in table} == {}
    last = max(table, key=lambda name: int(name[1:]))
    assert f"`S1` to `{last}`" in text_of(ROOT / "docs" / "rules.md")


def test_an_invariant_of_a_class_is_cited_with_its_class_and_stated_there() -> None:
    known = stated()
    assert {"L1", "L7"} <= known["Limbo"] and {"Q1", "Q6"} <= known["LimboQueue"] and "X1" in known["memtx"]
    wrong = []
    found_in = words_of("synchro", "tests", "benchmarks", "docs", having=(OWNED, BARE))
    for path, number, column, words in found_in:
        where = f"{short(path)}:{number}"
        for owner, first, last in OWNED.findall(words):
            if not {first, last or first} <= known.get(owner, set()):
                wrong.append(f"{where}: {owner}.{first} is stated nowhere")
        if path.suffix != ".py":
            continue
        statement = STATED.match(words) if column == 0 or words.startswith('"""') else None
        for bare in BARE.finditer(words):
            if statement is None or bare.start(1) != statement.start(1):
                wrong.append(f"{where}: whose {bare[1]}?")
    assert wrong == []


@pytest.mark.parametrize("top", ["synchro", "tests", "benchmarks", "docs", "tools", "newsfragments", "proto"])
def test_nothing_refers_to_papers_outside_of_the_repository(top: str) -> None:
    found = [
        f"{short(path)}:{number}: {line.strip()}"
        for path in files(top)
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if ELSEWHERE.search(line)
    ]
    assert found == [], "say it in words, or cite a rule or an ADR"


def test_steps_that_are_cited_are_listed() -> None:
    steps = text_of(ROOT / "docs" / "tutorials" / "steps.md")
    listed = set(re.findall(r"^(?:\| |- )((?:HO|WQ)-\d+)[a-z]?(?: \||:)", steps, re.MULTILINE))
    cited = {
        match[0].replace("-0", "-"): short(path)
        for path in files("synchro", "tests", "docs", "tools")
        for match in STEP.finditer(text_of(path))
    }
    assert {step: where for step, where in cited.items() if step not in listed} == {}


def test_the_index_of_decisions_is_complete() -> None:
    page = text_of(ROOT / "docs" / "contributing.md")
    listed = re.findall(r"^\| \[(\d+)\]\(adr/([\w-]+\.md)\) \| \S", page, re.MULTILINE)
    assert [name for _, name in listed] == sorted(path.name for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert all(int(name[:4]) == int(number) for number, name in listed)


def test_decisions_that_are_cited_exist() -> None:
    numbers = {int(path.name[:4]) for path in (ROOT / "docs" / "adr").glob("*.md")}
    cited = {
        int(n)
        for path in files("synchro", "tests", "docs")
        for n in re.findall(r"\bADR (\d+)", text_of(path))
    }
    assert cited <= numbers, cited - numbers


def test_how_a_citation_is_read() -> None:
    assert cited_in("[Q-30], D-13: and (L-30).") == {"Q-30", "D-13", "L-30"}
    assert cited_in("[P-40..44] [I-2..I-16] [I-13a..c]") == {"P-40", "P-44", "I-2", "I-16", "I-13"}
    assert cited_in("UTF-8, CRC-32C, 1-63, S6, x-1, Limbo.L6, [Q-*]") == set()
    assert OWNED.findall("(Limbo.L2..L4) and `memtx.X1`; not a.b or v1.2") == [
        ("Limbo", "L2", "L4"),
        ("memtx", "X1", ""),
    ]
    assert [m[1] for m in BARE.finditer('"""R3: here; Raft.R4, (Q5) but not "S1", x-R1')] == ["R3", "Q5"]
