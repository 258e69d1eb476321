"""`synchro import` of operations: what was one transaction in a log stays one. [A-62]."""

from __future__ import annotations

from typing import Any

import pytest

from synchro.cli import app
from synchro.cli.import_verbs import Import, Taken, _batches, _middle
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
