"""S27: transactions that stay open side by side, in a space with a unique and a plain secondary index.

All that were committed are done once more, one after the other, in the order in which they were prepared:
each statement must answer what it answered then, refusals too.
"""

from __future__ import annotations

from random import Random
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.config import Limits
from synchro.errors import SynchroError, TransactionConflict
from synchro.row import RowType
from synchro.storage import row_body, schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal, Prepared
from synchro.storage.private_view import PrivateView
from tests.unit.memtx_world import do, with_bands

SPACE = 512
BY_NAME, BY_YEAR = 1, 2
Statement: TypeAlias = tuple[Any, ...]

FIRST = ((1, "a", 1), (2, "b", 1))
ITERATORS = [one for one in Iterator_ if one.name in ("EQ", "REQ", "GE", "GT", "LE", "LT", "ALL")]


def change(random: Random) -> Statement:
    def number() -> int:
        return random.randint(1, 3)

    def name() -> str:
        return random.choice("abc")

    return random.choice(
        (
            (random.choice((RowType.INSERT, RowType.REPLACE)), (number(), name(), number())),
            (RowType.INSERT, (number(), name(), number())),
            (RowType.UPSERT, (number(), name(), number()), (2, name())),
            (RowType.UPDATE, 0, number(), (2, name())),
            (RowType.UPDATE, BY_NAME, name(), (3, number())),
            (RowType.DELETE, 0, number()),
            (RowType.DELETE, BY_NAME, name()),
        )
    )


def read(random: Random) -> Statement:
    index = random.choice((0, BY_NAME, BY_YEAR))
    key = random.choice("abc") if index == BY_NAME else random.randint(1, 3)
    if random.random() < 0.3:
        return ("select", index, key, Iterator_.EQ, 3, 0)
    return ("select", index, key, random.choice(ITERATORS), random.randint(0, 3), random.randint(0, 1))


def step(random: Random) -> Any:
    """A statement or the commit of one of two that are open; a change that is committed at once; what becomes
    of those that wait."""
    return random.choices(
        (
            (random.randint(0, 1), change(random)),
            (random.randint(0, 1), read(random)),
            (random.randint(0, 1), "commit"),
            ("at once", change(random)),
            "decide",
            "roll back",
        ),
        (30, 25, 13, 17, 10, 5),
    )[0]


def world() -> Memtx:
    memtx = with_bands()
    parts: Any = [{"field": 2, "type": "string"}]
    do(memtx, schema_ops.create_index(memtx, "bands", "name", parts=parts))
    parts = [{"field": 3, "type": "unsigned"}]
    do(memtx, schema_ops.create_index(memtx, "bands", "year", parts=parts, unique=False))
    return memtx


def answer(view: PrivateView, statement: Statement) -> object:
    """What it says. Raises `TransactionConflict`."""
    try:
        match statement:
            case ("select", index, key, iterator, limit, offset):
                return list(view.select(SPACE, index, (key,), iterator, limit=limit, offset=offset))
            case (RowType.INSERT | RowType.REPLACE as kind, value):
                return view.run(row_body.dml_from_values(kind, SPACE, value=value))
            case (RowType.UPSERT as kind, value, (field, new)):
                ops = (("=", field, new),)
                return view.run(row_body.dml_from_values(kind, SPACE, value=value, ops=ops))
            case (RowType.UPDATE as kind, index, key, (field, new)):
                ops = (("=", field, new),)
                return view.run(row_body.dml_from_values(kind, SPACE, index_id=index, key=(key,), ops=ops))
            case (kind, index, key):
                return view.run(row_body.dml_from_values(kind, SPACE, index_id=index, key=(key,)))
            case _:
                raise AssertionError(statement)
    except TransactionConflict:
        raise
    except SynchroError as error:
        return error.reason


class Open:
    """An open transaction and what it was answered."""

    def __init__(self, memtx: Memtx) -> None:
        self.view = PrivateView(memtx.catalog, Limits())
        self.told: list[tuple[Statement, object]] = []

    def say(self, statement: Statement) -> None:
        self.told.append((statement, answer(self.view, statement)))


def done_again(order: list[Open]) -> Memtx:
    """One after the other. Every answer is what it was."""
    memtx = world()
    for each in order:
        view = PrivateView(memtx.catalog, Limits())
        for statement, told in each.told:
            assert answer(view, statement) == told, (statement, [one.told for one in order])
        assert list(view.ops) == list(each.view.ops)
        if view.ops:
            do(memtx, list(view.ops))
    return memtx


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_each_index_tells_what_it_would_tell_one_after_the_other(seed: int) -> None:
    """S27, private_view.P3, read_set.V1, [D-43]"""
    random = Random(seed)
    memtx = world()
    first = Open(memtx)
    for row in FIRST:
        first.say((RowType.INSERT, row))
    do(memtx, list(first.view.ops))
    slots: dict[int, Open] = {}
    pending: list[tuple[Prepared, Open]] = []
    order = [first]

    def decide(count: int) -> None:
        for prepared, transaction in pending[:count]:
            memtx.commit(prepared)
            order.append(transaction)
        del pending[:count]

    for _ in range(random.randint(6, 25)):
        match step(random):
            case "decide":
                decide(1)
            case "roll back":
                while pending:
                    memtx.rollback(pending.pop()[0])
            case ("at once", change) if not pending:
                transaction = Open(memtx)
                transaction.say(change)
                if transaction.view.ops:
                    do(memtx, list(transaction.view.ops))
                order.append(transaction)
            case ("at once", _):
                pass
            case (slot, what):
                transaction = slots.setdefault(slot, Open(memtx))
                try:
                    if what != "commit":
                        transaction.say(what)
                        continue
                    view = slots.pop(slot).view
                    if view.ops:
                        pending.append((memtx.prepare(view.ops, conditions=view.reads), transaction))
                    else:
                        view.check_committed()
                        order.append(transaction)
                except (TransactionConflict, PendingRefusal):
                    slots.pop(slot, None)
    decide(len(pending))
    memtx.check()
    assert sorted(done_again(order).select(SPACE)) == sorted(memtx.select(SPACE))
