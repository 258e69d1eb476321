"""The runner refuses what it does not understand, and names file and line where something else comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.__main__ import word_table
from tests.scenarios.runner import HERE, check_file, rewrite
from tests.scenarios.script import ScenarioError

HEAD = "# [A-30]\n# A row is applied once.\n\nmembers 2\n"


def failure(tmp_path: Path, source: str) -> str:
    """What the runner says of it, behind the path."""
    path = tmp_path / "one.scenario"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(AssertionError) as caught:
        check_file(path)
    said = str(caught.value)
    assert said.startswith(f"{path}:")
    return said.removeprefix(f"{path}:")


def test_a_scenario_that_is_true_passes(tmp_path: Path) -> None:
    path = tmp_path / "one.scenario"
    path.write_text(HEAD + 'insert 1 async [1, "a"]\n    committed 1:1\n', encoding="utf-8")
    check_file(path)


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ("insert 1 async [1]\n    committed 1:2\n", 5),  # something else
        ("insert 1 async [1]\nvclock 1\n    {1: 1}\n", 5),  # something that nobody expects
        (
            "insert 1 async [1]\n    committed 1:1\nsettle\n    committed 1:1\n",
            7,
        ),  # something that does not come
        ("insert 1 async [1]\n    committed 1:1\nrows 1 async\n    [1]\n    [1]\n", 7),  # too much of it
    ],
)
def test_what_comes_out_must_be_all_that_is_expected(tmp_path: Path, steps: str, line: int) -> None:
    said = failure(tmp_path, HEAD + steps)
    assert said.startswith(f"{line}: ") and "something else came out" in said


def test_a_difference_shows_both_sides(tmp_path: Path) -> None:
    said = failure(tmp_path, HEAD + "insert 1 async [1]\n    committed 1:2\n")
    assert said == (
        "5: insert 1 async [1]: something else came out (- expected, + came):\n"
        "    - committed 1:2\n"
        "    + committed 1:1"
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("setle", "unknown word 'setle'; did you mean settle?"),
        ("xyzzy 1", "unknown word 'xyzzy'"),
        ("settle now", "there is more than it takes: 'now'; it is used as: settle"),
        ("rows 1", "it is used as: rows N SPACE"),
        ("rows one async", "no number: 'one'"),
        ("rows 3 async", "instance 3 is not up"),
        ("rows 1 asink", "Space 'asink' does not exist"),
        ("deliver 1-2", "no pair such as 1->2: '1-2'"),
        ("follow 1->2 2>1", "no pair such as 1->2: '2>1'"),
        ("deliver 1->1", "1 does not follow 1"),
        ("insert 1 async 1", "no JSON array: '1'"),
        ("insert 1 async [1", "no JSON array: '[1'"),
        ("insert 1 async [1] [2]", "there is more than it takes: '[2]'"),
        ("insert 1 sync [1] x", "there is more than it takes"),
        ("transaction 1 settle", "no part of a transaction: 'settle'"),
        ("promote 1", "this call waits: give it a name, such as: a = insert ..."),
        ("a = settle", "it makes no call that a name could have"),
        ("expire 1 a", "no call has the name 'a'"),
        ("settings 1 quorum", "no option such as quorum=2: 'quorum'"),
        ("settings 1 quorums=2", "no setting 'quorums'; there are quorum, mode"),
        ("settings 1 skip_conflict=perhaps", "no value of skip_conflict: 'perhaps'"),
        ("settings 1 quorum=none", "no value of quorum: 'none'"),
        ("settings 9 quorum=1", "there is no instance 9"),
        ("members 3", "a scenario has one set"),
        ("start 1", "instance 1 is not down"),
        ("tear 1 1", "instance 1 is not down"),
        ("join 2 from 1", "instance 2 is up"),
        ("join 7 from 1", "7 would get the id 3: name it so"),
        ("wait 1 second", "it is used as: wait COUNT seconds"),
        ("resend 1->2 1:9", "the log of 1 ends no transaction at 1:9"),
        ("forge 1->2 insert async [1]", "a row begins with its place, such as 1:7, not 'insert'"),
        ("forge 1->2 1:1 commit", "no row: 'commit'"),
        ("looks 5", "5 is no newcomer"),
        ("newcomer 3 of 3 colour=red", "no option of a newcomer: colour"),
        ("flip 1 second", "flip first, last or snapshot, not 'second'"),
    ],
)
def test_what_it_does_not_understand_is_refused(tmp_path: Path, command: str, said: str) -> None:
    text = failure(tmp_path, HEAD + f"vclock 1\n    {{}}\n{command}\n")
    assert text.startswith(f"7: {command}: {said}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("members 2\n", "1: the first line names the rules that are shown"),
        ("# A-30\n# A row.\n", "1: the first line names the rules that are shown"),
        ("# [A-30]\n\nmembers 2\n", "2: the second line tells in one sentence what is shown"),
        ("# [A-30]\n# a row without an end\n", "2: the second line tells in one sentence what is shown"),
        (HEAD, "1: nothing is expected"),
        ("# [A-30]\n# A row.\n    what?\n", "3: there is output, but no command above it"),
        (HEAD + "vclock 1\n  {}\n", "6: output begins with 4 spaces, a command with none"),
        (HEAD + "vclock 1 \n    {}\n", "5: there is a space at the end of the line"),
        ("# [A-30]\n# A row.\nvclock 1\n    {}\n", "3: vclock 1: there are no instances yet: members 3"),
    ],
)
def test_a_file_has_its_form(tmp_path: Path, source: str, said: str) -> None:
    assert failure(tmp_path, source).startswith(said)


def test_a_rewritten_file_passes_and_keeps_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "one.scenario"
    path.write_text(HEAD + "# why\ninsert 1 async [1]\n    committed 9:9\n\nvclock 1\n", encoding="utf-8")
    assert rewrite(path)
    written = path.read_text(encoding="utf-8")
    assert written == HEAD + "# why\ninsert 1 async [1]\n    committed 1:1\n\nvclock 1\n    {1: 1}\n"
    check_file(path)
    assert not rewrite(path)


def test_a_bad_file_is_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "one.scenario"
    path.write_text(HEAD + "xyzzy\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="unknown word"):
        rewrite(path)
    assert path.read_text(encoding="utf-8") == HEAD + "xyzzy\n"


def test_the_page_names_every_word() -> None:
    page = (HERE / "README.md").read_text(encoding="utf-8")
    assert word_table() in page, "python -m tests.scenarios --words"
