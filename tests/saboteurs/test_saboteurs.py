"""Who tests the tests: each planted bug must be noticed, by an invariant that names it."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.explore.search import Search
from tests.explore.start import STARTS
from tests.saboteurs import orders
from tests.saboteurs.hunt import SEEDS_PER_WORLD, hunt, write_first
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


@pytest.mark.parametrize("bug", RARE, ids=lambda bug: bug.name)
def test_a_rare_bug_still_fits_the_code_that_it_patches(bug: Saboteur) -> None:
    """Nobody sees otherwise that each of its worlds ends in a call with the wrong arguments."""
    made = hunt(replace(bug, seeds=3))
    assert [other.violation for other in made.others if other.rule in ("TypeError", "AttributeError")] == []


def test_a_bug_is_hunted_in_worlds_in_which_it_can_bite() -> None:
    """Others are passed over and do not count; where there are none, that is said, and has an end."""
    bug = Saboteur("harmless", "S1", nullcontext, frozenset({"S1"}), 1, worlds=lambda world: world.seed == 4)
    made = hunt(bug)
    assert (made.worlds, made.seeds, made.found) == (1, 4, None)
    made = hunt(replace(bug, worlds=lambda world: False))
    assert (made.worlds, made.seeds, made.found) == (0, SEEDS_PER_WORLD, None)


def test_a_new_seed_goes_into_the_source() -> None:
    others = '@saboteur("S1", "S1", seeds=3, first=1)\ndef other() -> None: ...\n'
    planted = (
        '@saboteur(\n    "S2", "S3", seeds=4_0, first=1_000, worlds=_is_calm\n)\ndef bug() -> None: ...\n'
    )
    without = planted.replace(", first=1_000", "")
    wanted = planted.replace("first=1_000", "first=77")

    assert write_first(others + planted + others, "bug", 77) == others + wanted + others
    assert write_first(others + without, "bug", 77) == others + wanted


def test_there_are_fifty_planted_bugs() -> None:
    names = [bug.name for bug in ALL] + [bug.name for bug in orders.ALL]
    assert len(set(names)) == len(names) >= 50


def test_the_files_that_plant_bugs_are_named_where_one_is_added() -> None:
    here = Path(__file__).parent
    pages = [(here / "planted.py").read_text(), (DOCS / "contributing.md").read_text()]
    files = [path.name for path in here.glob("*bugs.py")]
    assert [(name, number) for name in files for number in (0, 1) if f"`{name}`" not in pages[number]] == []


def test_each_planted_bug_names_what_it_breaks() -> None:
    """A rule, an invariant of a set, or an ADR."""
    known = set(re.findall(r"\*\*\[([A-Z]-\d+)\]\*\*", (DOCS / "rules.md").read_text()))
    known |= set(re.findall(r"^\| (S\d+) \|", (DOCS / "invariants.md").read_text(), re.MULTILINE))
    known |= {f"ADR {int(page.name[:4])}" for page in (DOCS / "adr").glob("0*.md")}

    planted = [(bug.name, bug.breaks) for bug in (*ALL, *RARE)]
    planted += [(bug.name, bug.breaks) for bug in orders.ALL]
    assert [name for name, breaks in planted if breaks not in known] == []
