"""The tutorials: their table of steps, and how a page becomes what is typed and what must come."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.tutorials.pages import Step, fits, parse
from tools import tutorial_steps

PAGE = """\
# A page
```yaml
# myset/config.yaml
replication: {failover: off}
```
<!-- QS-1, MON-1 -->
```console
T1$ synchro serve --listen 127.0.0.1:3301
listening
$ synchro info status; echo $?
running
0
T1| more
T1^C
```
```yaml
not: written
```
"""


def test_the_table_of_steps_is_current() -> None:
    """If this fails: python tools/tutorial_steps.py"""
    assert tutorial_steps.TARGET.read_text(encoding="utf-8") == tutorial_steps.table()


def test_the_name_of_a_test_has_its_first_step() -> None:
    first: dict[str, str] = {}
    for step, test in tutorial_steps.steps_of_tests():
        first.setdefault(test, step)
    for test, step in first.items():
        walk, _, number = step.partition("-")
        assert re.search(rf"::test_{walk}_0?{number}(_|$)", test), (test, step)


def test_each_step_of_a_page_has_a_test() -> None:
    known = {step for step, _ in tutorial_steps.steps_of_tests()}
    assert [step for step, _ in tutorial_steps.steps_of_pages() if step not in known] == []


def test_a_page_is_what_is_typed_and_what_must_come() -> None:
    ids = "QS-1, MON-1"
    assert parse(PAGE) == [
        Step(
            2, "", "", "file", "myset/config.yaml", ("# myset/config.yaml\nreplication: {failover: off}\n",)
        ),
        Step(8, ids, "T1", "$", "synchro serve --listen 127.0.0.1:3301", ("listening",)),
        Step(10, ids, "", "$", "synchro info status; echo $?", ("running", "0")),
        Step(13, ids, "T1", "|", "", ("more",)),
        Step(14, ids, "T1", "^C", "", ()),
    ]


def test_output_without_a_command_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2"):
        parse("```console\nrunning\n```\n")


@pytest.mark.parametrize(
    ("expected", "output", "fit"),
    [
        (["running"], "running\n", True),
        (["running"], "not running\n", False),
        (["running"], "running\nand more\n", False),
        (["running", "..."], "running\nand more\n", True),
        (["...", "last"], "first\nlast\n", True),
        (["ID NAME"], "ID   NAME\n", True),
        (["pid <pid>, rw"], "pid 4711, rw\n", True),
        (["pid <pid>, rw"], "pid 4711, ro\n", False),
        (["txn 1:<n>  async"], "txn 1:\n14  async\n", False),
        (["[<= 3]"], "[<= 3]\n", True),
        ([], "", True),
        ([], "something\n", False),
    ],
)
def test_which_output_fits(expected: list[str], output: str, fit: bool) -> None:
    assert fits(expected, output) is fit


def test_lines_of_a_server_may_have_others_between() -> None:
    printed = "one\ntwo\nthree\n"
    assert fits(["one", "three"], printed, whole=False)
    assert not fits(["three", "one"], printed, whole=False)


def test_pages_are_there() -> None:
    pages = sorted(path.name for path in (Path(tutorial_steps.TUTORIALS)).glob("*.md"))
    assert "README.md" in pages and "steps.md" in pages and len(pages) > 5
