"""Who tests the tests: each planted bug must be noticed, by an invariant that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.explore.search import Search
from tests.explore.start import STARTS
from tests.saboteurs import orders
from tests.saboteurs.hunt import hunt
from tests.saboteurs.orders import Order
from tests.saboteurs.planted import ALL, RARE, Saboteur

QUICK = [bug for bug in orders.ALL if not bug.is_slow]
SLOW = [bug for bug in orders.ALL if bug.is_slow]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("bug", ALL, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Saboteur) -> None:
    made = hunt(bug)

    worlds = f"{made.worlds} worlds, {made.seeds} seeds from {bug.first} on"
    assert made.found is not None, f"{bug.name} lived through {worlds}"


@pytest.mark.parametrize("bug", QUICK, ids=lambda bug: bug.name)
def test_a_bug_of_one_order_is_caught(bug: Order) -> None:
    """The exploration looks at all orders, and prints the moves that lead to it."""
    with bug.patch():
        report = Search().run([(STARTS[bug.start], bug.links)], bug.states)

    assert report.rule in bug.rules, report
    assert report.violation is not None and "\nby: " in report.violation


@pytest.mark.long
@pytest.mark.parametrize("bug", SLOW, ids=lambda bug: bug.name)
def test_a_bug_of_a_rare_order_is_caught(bug: Order) -> None:
    test_a_bug_of_one_order_is_caught(bug)


def test_there_are_fifty_planted_bugs() -> None:
    names = [bug.name for bug in ALL] + [bug.name for bug in orders.ALL]
    assert len(set(names)) == len(names) >= 50


def test_each_planted_bug_names_what_it_breaks() -> None:
    """A rule, an invariant of a set, or an ADR."""
    known = set(re.findall(r"\*\*\[([A-Z]-\d+)\]\*\*", (DOCS / "rules.md").read_text()))
    known |= set(re.findall(r"^\| (S\d+) \|", (DOCS / "invariants.md").read_text(), re.MULTILINE))
    known |= {f"ADR {int(page.name[:4])}" for page in (DOCS / "adr").glob("0*.md")}

    planted = [(bug.name, bug.breaks) for bug in (*ALL, *RARE)]
    planted += [(bug.name, bug.breaks) for bug in orders.ALL]
    assert [name for name, breaks in planted if breaks not in known] == []
