"""Every scenario comes out as its file says; what a file shows is its first two lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.scenarios.runner import HERE, KINDS, SYNC_KINDS, all_files, by_kind, check_file, folder_of
from tests.scenarios.script import parse

FILES = all_files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERE).with_suffix("")))
def test_it_comes_out_as_expected(path: Path) -> None:
    check_file(path)


def test_no_two_scenarios_are_one() -> None:
    scripts = [parse(path.read_text(encoding="utf-8")) for path in FILES]
    sentences = [script.sentence for script in scripts]
    told = [tuple(step.text for step in script.steps) for script in scripts]
    assert len(set(sentences)) == len(sentences)
    assert len(set(told)) == len(told)


def test_a_story_of_rollback_rows_has_one() -> None:
    """[Q-50]: what a takeover drops is dropped by a PROMOTE [P-14]; the row comes from elsewhere only."""
    rule = re.compile(r"^# .*\[Q-50\]")
    told = [path for path in FILES if rule.match(path.read_text(encoding="utf-8"))]
    assert told
    assert [path.stem for path in told if not re.search(r"^forge .* rollback ", path.read_text(), re.M)] == []


def test_there_are_two_hundred_of_the_kinds_that_are_promised() -> None:
    """Of how instances replicate, start, join, recover and change while they run; each kind has its share."""
    found = by_kind(FILES)
    assert sum(map(len, found.values())) >= 200
    assert min(map(len, found.values())) >= 20
    assert KINDS.keys() <= {folder_of(path) for path in FILES}


def test_there_are_more_than_a_hundred_and_twenty_of_synchronous_replication() -> None:
    found = by_kind(FILES, SYNC_KINDS)
    assert sum(map(len, found.values())) >= 120
    assert min(map(len, found.values())) >= 10
