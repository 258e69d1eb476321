"""`synchro import` of operations: what was one transaction in a log stays one; conditions. [A-62]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synchro.cli import app
from synchro.cli.data_verbs import read_op
from synchro.cli.import_verbs import Import, Taken, _batches, _middle
from synchro.client import ops
from synchro.errors import TupleFound


def taken(*txns: str) -> list[Taken]:
    """One operation a line, of these transactions."""
    return [Taken(line, [line], f"op{line}", txn) for line, txn in enumerate(txns, 1)]


@pytest.mark.parametrize(
    ("txns", "size", "sizes"),
    [
        (["", "", "", "", ""], 2, [2, 2, 1]),
        (["1:2", "1:2", "1:3", "1:3"], 3, [2, 2]),
        (["1:2", "1:3", "1:5", "1:5"], 3, [2, 2]),
        (["1:9"] * 5, 2, [5]),
        (["", "1:9", "1:9", "1:9", ""], 2, [1, 3, 1]),
        ([], 2, []),
    ],
)
def test_a_batch_never_parts_a_transaction(txns: list[str], size: int, sizes: list[int]) -> None:
    made = list(_batches(taken(*txns), size))
    assert [len(some) for some in made] == sizes
    assert [one.line for some in made for one in some] == list(range(1, len(txns) + 1))


@pytest.mark.parametrize(
    ("txns", "middle"),
    [(["", "", ""], (1, 2)), (["1:2", "1:2", "1:3"], (2,)), (["1:2"] * 3, (0,)), ([""], (0,))],
)
def test_it_is_parted_between_transactions(txns: list[str], middle: tuple[int, ...]) -> None:
    assert _middle(taken(*txns)) in middle


class Database:
    """Takes everything but what has `bad` in it."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.done: list[list[str]] = []

    def execute(self, ops: list[str], **_: Any) -> None:
        if self.bad & set(ops):
            raise TupleFound("exists")
        self.done.append(ops)


def test_a_transaction_that_is_refused_is_skipped_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    db, done = Database("op3"), Import("synchro import x", "", skips=True)
    done.send(db, taken("1:2", "1:4", "1:4", "1:5"))  # type: ignore[arg-type]
    assert [op for ops in db.done for op in ops] == ["op1", "op4"]
    assert (done.skipped, done.last, done.tuples) == (2, 4, 2)
    assert "skipped: TUPLE_FOUND: lines 2 to 3, one transaction: exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["rows.csv"], "CSV has tuples: --space says where they go to"),
        (["rows.jsonl", "--replace"], "--replace is for tuples"),
    ],
)
def test_what_is_for_tuples_needs_a_space(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["import", *words]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"op": "if_absent", "space": "s", "key": [1]}', "line 1 is a condition"),
        ('{"op": "if_equal", "space": "s", "key": [1]}', "'fields' is missing"),
        ('{"op": "if_equal", "space": "s", "key": [1], "fields": 5}', "line 1: fields are an object"),
        ('{"op": "if_equal", "space": "s", "key": [1], "fields": [[1]]}', "line 1: fields are an object"),
        ('{"op": "if", "space": "s", "key": [1]}', "if_absent, if_present or if_equal"),
        ('{"op": "delete", "space": "s", "key": [1], "must_match": "yes"}', "must_match is true or false"),
    ],
)
def test_conditions_that_cannot_be_taken_in(
    line: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """[D-42]: a line of an import stands for itself, so a condition there has no transaction."""
    path = tmp_path / "ops.jsonl"
    path.write_text(line + "\n")
    assert app.run(["import", str(path)]) == 2
    assert why in capsys.readouterr().err


def test_lines_of_a_transaction_are_the_operations_of_the_client() -> None:
    where = '"space": "s", "key": [1]'
    lines = {
        f'{{"op": "if_absent", {where}}}': ops.if_absent("s", [1]),
        f'{{"op": "if_present", {where}, "index": "i"}}': ops.if_present("s", [1], "i"),
        f'{{"op": "if_equal", {where}, "fields": {{"a": 1, "-1": null}}}}': ops.if_equal(
            "s", [1], {"a": 1, -1: None}
        ),
        f'{{"op": "if_equal", {where}, "fields": [["2", 1]]}}': ops.if_equal("s", [1], [("2", 1)]),
        f'{{"op": "delete", {where}, "must_match": true}}': ops.delete("s", [1], must_match=True),
        f'{{"op": "update", {where}, "ops": [], "must_match": false}}': ops.update("s", [1], []),
    }
    assert {line: read_op(line, 1)[1] for line in lines} == lines
