"""S27 in one memory: open transactions side by side, against the same done one after the other by `Memtx`.

With a unique and a common second index, ranges of each, and transactions that were prepared and wait. Each
answer of one that was committed must be what its statement answers when it is done in its place in the order.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.config import Limits
from synchro.errors import SynchroError, TransactionConflict
from synchro.row import Dml, RowType, Tuple
from synchro.storage import row_body, schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal, Prepared
from synchro.storage.private_view import PrivateView
from tests.unit.memtx_world import do, with_bands

SPACE, STEPS, OPEN = 512, 60, 3
KEYS, NAMES, YEARS = range(4), "abc", range(3)
CHANGES = (RowType.REPLACE, RowType.INSERT, RowType.UPDATE, RowType.UPSERT, RowType.DELETE)


class Read(NamedTuple):
    index_id: int
    key: Tuple
    iterator: Iterator_
    limit: int | None
    offset: int


def world() -> Memtx:
    memtx = with_bands()
    do(memtx, schema_ops.create_index(memtx, "bands", "name", parts=[{"field": 2, "type": "string"}]))
    parts = [{"field": 3, "type": "unsigned"}]
    do(memtx, schema_ops.create_index(memtx, "bands", "year", parts=parts, unique=False))
    return memtx


def statement(random: Random) -> Dml | Read:
    value = (random.choice(KEYS), random.choice(NAMES), random.choice(YEARS))
    if random.random() < 0.5:
        index = random.randrange(3)
        key = (value[index],) if random.random() < 0.8 else ()
        iterator = random.choice(list(Iterator_)) if random.random() < 0.5 else Iterator_.EQ
        return Read(index, key, iterator, random.choice([None, None, 1, 2]), random.choice([0, 0, 0, 1]))
    kind, by_name = random.choice(CHANGES), random.random() < 0.3
    fields: dict[str, Any] = {}
    if kind in (RowType.UPDATE, RowType.DELETE):
        fields = {"index_id": int(by_name), "key": (value[int(by_name)],)}
    else:
        fields = {"value": value}
    if kind in (RowType.UPDATE, RowType.UPSERT):
        fields["ops"] = (("=", 2, value[1]),) if random.random() < 0.5 else (("+", 3, 1),)
    return row_body.dml_from_values(kind, SPACE, **fields)


def answered(view: PrivateView, asked: Dml | Read) -> object:
    """Raises `TransactionConflict`."""
    try:
        if isinstance(asked, Dml):
            return view.run(asked)
        index, key, iterator, limit, offset = asked
        return list(view.select(SPACE, index, key, iterator, limit=limit, offset=offset))
    except TransactionConflict:
        raise
    except SynchroError as error:
        return error.reason


def replayed(memtx: Memtx, asked: Dml | Read) -> object:
    try:
        if isinstance(asked, Dml):
            prepared = memtx.prepare([asked])
            memtx.commit(prepared)
            return prepared.results[0]
        index, key, iterator, limit, offset = asked
        return list(memtx.select(SPACE, index, key, iterator, limit=limit, offset=offset))
    except SynchroError as error:
        return error.reason


Told = list[tuple[Dml | Read, object]]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_each_answer_is_that_of_a_serial_order(seed: int) -> None:
    """S27, private_view.P3, read_set.V1, [D-43]"""
    random, memtx = Random(seed), world()
    slots: dict[int, tuple[PrivateView, Told]] = {}
    waiting: deque[tuple[Prepared, Told]] = deque()
    done: list[Told] = []
    for _ in range(STEPS):
        if random.random() < 0.3 and waiting:
            prepared, told = waiting.popleft()
            memtx.commit(prepared)
            done.append(told)
        if random.random() < 0.05:
            while waiting:
                memtx.rollback(waiting.pop()[0])
        slot = random.randrange(OPEN)
        view, told = slots.setdefault(slot, (PrivateView(memtx.catalog, Limits()), []))
        try:
            if random.random() < 0.7:
                asked = statement(random)
                told.append((asked, answered(view, asked)))
                continue
            del slots[slot]
            view.check_definitions()
            if view.ops:
                waiting.append((memtx.prepare(view.ops, conditions=view.reads), told))
            else:
                view.check_committed()
                done.append(told)
        except (TransactionConflict, PendingRefusal):
            slots.pop(slot, None)
    while waiting:
        prepared, told = waiting.popleft()
        memtx.commit(prepared)
        done.append(told)
    memtx.check()
    twin = world()
    for told in done:
        for asked, answer in told:
            assert replayed(twin, asked) == answer, asked
    assert twin.select(SPACE) == memtx.select(SPACE)
