"""Rules have ids, such as [Q-30]: what the code says it does by a rule, some test says it looks at, and back.

An id counts where it is written out. A range such as [P-40..44] counts for its two ends; what lies between is
cited where it is done.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULE = re.compile(r"(?<![\w-])([A-Z])-(\d+)[a-z]?(?:\.\.(?:[A-Z]-)?(\d+)?[a-z]?)?(?![\w-])")
STORIES = "T"
"""Ids with this letter are worked examples: tests tell them, and no code is written by them."""


def cited_in(text: str) -> set[str]:
    return {f"{letter}-{number}" for letter, *ends in RULE.findall(text) for number in ends if number}


def cited_under(directory: str) -> dict[str, set[str]]:
    """Id -> the files that cite it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / directory).rglob("*.py"):
        if path != Path(__file__).resolve():
            for rule in cited_in(path.read_text(encoding="utf-8")):
                found.setdefault(rule, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_rule_that_is_cited_is_cited_in_code_and_in_tests() -> None:
    code, tests = cited_under("synchro"), cited_under("tests")
    assert len(code) > 200
    untested = {rule: files for rule, files in code.items() if rule not in tests}
    assert untested == {}, "cite each in the test that exercises it"
    unknown = {rule: files for rule, files in tests.items() if rule not in code and rule[0] != STORIES}
    assert unknown == {}, "cite each where it is implemented"


def test_how_a_citation_is_read() -> None:
    assert cited_in("[Q-30], D-13: and (L-30).") == {"Q-30", "D-13", "L-30"}
    assert cited_in("[P-40..44] [I-2..I-16] [I-13a..c]") == {"P-40", "P-44", "I-2", "I-16", "I-13"}
    assert cited_in("UTF-8, CRC-32C, HO-21, 1-63, S6, x-1, [Q-*]") == set()
