"""All orders in a small scope; and that a wrong order would be noticed."""

from __future__ import annotations

import pytest

from tests.explore.copies import digest, freeze, thaw
from tests.explore.search import SITUATIONS, Search, a_place_of_each
from tests.explore.start import STARTS
from tests.explore.world import PAIRS, patterns
from tests.mesh import Mesh
from tests.saboteurs import bugs  # noqa: F401 - it fills ALL
from tests.saboteurs.planted import ALL

STATES = 10_000
HALF_CONNECTED = sum(1 << PAIRS.index(pair) for pair in ((1, 2), (2, 1), (2, 3), (3, 2)))


def test_no_order_breaks_an_invariant() -> None:
    """S1 to S12, from every set of streams; and what the exploration is about did happen."""
    report = Search().run(a_place_of_each(), STATES)

    assert report.violation is None
    assert report.states >= STATES and report.starts == 64
    assert {name: report.hits.get(name, 0) for name in SITUATIONS if not report.hits.get(name)} == {}


def test_every_set_of_streams_is_a_start() -> None:
    assert sorted(patterns()) == list(range(64))
    assert {start.number for start, _ in a_place_of_each()} == {start.number for start in STARTS}
    assert [start.number for start in STARTS] == list(range(len(STARTS)))


@pytest.mark.parametrize(
    ("bug", "start", "links", "states", "rules"),
    [
        ("confirm_at_quorum_minus_one", 1, 0b1, 500, {"S3"}),
        ("own_ack_counted_twice", 1, 0b1, 500, {"S3"}),
        ("promote_decides_when_written", 7, HALF_CONNECTED, 500, {"S5"}),
        ("queue_writable_after_a_restart", 0, 0b111111, 500, {"S9", "S4", "AssertionError"}),
    ],
)
def test_a_planted_bug_is_found(bug: str, start: int, links: int, states: int, rules: set[str]) -> None:
    """Others, which the simulator does not find soon, are in `tests/saboteurs/orders.py`."""
    (planted,) = (one for one in ALL if one.name == bug)
    with planted.patch():
        report = Search().run([(STARTS[start], links)], states)

    assert report.rule in rules, report
    assert report.violation is not None and "\nby: " in report.violation


def test_a_copy_goes_on_as_the_original_does() -> None:
    """Copies share nothing that changes, and two instances that did the same have the same name."""
    mesh, twin = Mesh(3), Mesh(3)
    for each in (mesh, twin):
        each.promote(1)
    copy = thaw(freeze(mesh[1]))
    assert digest(copy, mesh.now) == digest(mesh[1], mesh.now) == digest(twin[1], twin.now)

    mesh.write(1, (1, "a"))

    assert digest(copy, mesh.now) == digest(twin[1], twin.now) != digest(mesh[1], mesh.now)
    copy.check()
    twin.write(1, (1, "a"))
    assert digest(twin[1], twin.now) == digest(mesh[1], mesh.now)
