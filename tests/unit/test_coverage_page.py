"""The page that says which test shows what the manual says: it is current, and an empty cell is refused."""

from __future__ import annotations

import pytest

from tools import coverage

TEXT = """
[[document]]
id = "D9"
title = "A document"
[[document.statement]]
says = "Rows flow to the one that subscribes."
rules = ["A-3"]
shown = ["async/one-way"]
[[document.statement]]
says = "Something else."
not = "it is not in this release"
"""


def test_the_pages_are_current() -> None:
    """If this fails: python -m tools.coverage"""
    for path, made in coverage.pages().items():
        assert path.read_text(encoding="utf-8") == made, path


def test_a_rule_that_no_test_cites_is_refused() -> None:
    """Of the queue, of promote and demote, of elections, and of the lessons; the others have other pages."""
    shown = {"Q-1": ["unit/test_coverage_page.py::test_the_pages_are_current"], "L-5": []}

    page = coverage.rules_page(["D-1", "Q-1"], shown)
    assert "| Q-1 | [`test_the_pages_are_current`](" in page and "D-1" not in page
    with pytest.raises(coverage.Wrong, match="no test cites P-2, L-5"):
        coverage.rules_page(["Q-1", "P-2", "L-5"], shown)


def test_each_statement_has_what_shows_it_or_why_there_is_nothing() -> None:
    page = coverage.page(TEXT)
    assert "| COV-D9-01 | Rows flow to the one that subscribes. | [A-3] | [async/one-way](" in page
    assert "| COV-D9-02 | Something else. | - | Not shown: it is not in this release |" in page
    assert "Of 2 statements 1 are shown" in page


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ('shown = ["async/one-way"]', "shown = []", "COV-D9-01: either"),
        ('not = "it is not in this release"', "", "COV-D9-02: either"),
        ('not = "it is', 'shown = ["async/one-way"]\nnot = "it is', "COV-D9-02: either"),
        ("async/one-way", "async/no-way", "no scenario tests/scenarios/async/no-way"),
        ("async/one-way", "MM-99", "no test carries out the step MM-99"),
        ("async/one-way", "unit/test_coverage_page.py::test_x", "no test tests/unit/test_coverage_page.py"),
        ("async/one-way", "unit/test_nothing.py::test_x", "no test tests/unit/test_nothing.py"),
        ('"A-3"', '"A-three"', "no text for A-three"),
        ('says = "Something else."', "", "COV-D9-02: expected"),
        ('says = "Something else."', 'says = "x"\nshow = 1', "COV-D9-02: expected"),
    ],
)
def test_what_does_not_fit_is_refused(before: str, after: str, text: str) -> None:
    with pytest.raises(coverage.Wrong, match=text.replace("(", r"\(")):
        coverage.page(TEXT.replace(before, after, 1))
