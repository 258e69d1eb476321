"""Memtx against a slow, obvious model; update operations against a twin.

The model: a dict of committed tuples and a list of pending transactions, each a list of (key, new tuple).
What writers see is the dict with all pending lists applied; a select is a sort and a filter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from synchro.config import Limits
from synchro.errors import SynchroError, TupleFound
from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage import schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal, Prepared
from synchro.storage.update_ops import apply_ops, check_ops

SPACE = 512
ID = st.integers(0, 5)
CODE = st.one_of(st.none(), st.sampled_from([0, 0.5, 1, 1.0, 2, 2**53, 2**53 + 1]))
NAME = st.sampled_from(["a", "b", "ж"])
YEAR = st.integers(-1, 2)
ROW = st.tuples(ID, NAME, YEAR, CODE)
"""Fields: id and name make the primary key; year has a non-unique index, code a nullable unique one."""


def by_primary(row: Tuple) -> Tuple:
    return row[0], row[1]


def by_year(row: Tuple) -> Tuple:
    return row[2], row[1]


def by_code(row: Tuple) -> Tuple:
    return (row[3],)


def rank(key: Tuple) -> list[tuple[int, Field]]:
    return [(0, 0) if part is None else (1, part) for part in key]


Columns: TypeAlias = list[Callable[[Tuple], Tuple]]
INDEXES: Columns = [by_primary, by_year, by_code]
UNSIGNED: Columns = [lambda row: row[:1], lambda row: row[1:2]]
"""Key of a row by number of the index; the first is primary."""


def place(index: int, row: Tuple, columns: Columns) -> list[tuple[int, Field]]:
    return rank(columns[index](row)) + rank(columns[0](row))


def model_select(
    rows: list[Tuple],
    index: int,
    key: Tuple,
    iterator: Iterator_,
    limit: int | None,
    offset: int,
    after: Tuple | None,
    columns: Columns = INDEXES,
) -> list[Tuple]:
    descending = iterator in (Iterator_.REQ, Iterator_.LT, Iterator_.LE)
    wanted = rank(key)
    size = len(wanted)
    keep: dict[Iterator_, Callable[[list[tuple[int, Field]]], bool]] = {
        Iterator_.EQ: lambda part: part == wanted,
        Iterator_.REQ: lambda part: part == wanted,
        Iterator_.GE: lambda part: part >= wanted,
        Iterator_.GT: lambda part: part > wanted,
        Iterator_.LE: lambda part: part <= wanted,
        Iterator_.LT: lambda part: part < wanted,
        Iterator_.ALL: lambda part: True,
    }
    found = sorted(rows, key=lambda row: place(index, row, columns), reverse=descending)
    if key:
        found = [row for row in found if keep[iterator](rank(columns[index](row))[:size])]
    if after is not None:
        places = ((row, place(index, row, columns)) for row in found)
        mark = place(index, after, columns)
        found = [row for row, at in places if (at < mark if descending else at > mark)]
    found = found[offset:]
    return found if limit is None else found[:limit]


@dataclass
class ModelTxn:
    prepared: Prepared
    changes: list[tuple[Tuple, Tuple | None]] = field(default_factory=list)


class Refused(Exception):
    pass


class MemtxMachine(RuleBasedStateMachine):
    """prepare, commit the oldest, roll back the newest, read; never a difference."""

    @initialize(bulk=st.booleans())
    def start(self, bulk: bool) -> None:
        self.memtx = memtx = Memtx(Limits())
        self.committed: dict[Tuple, Tuple] = {}
        self.pending: list[ModelTxn] = []
        if bulk:
            memtx.begin_bulk()
        definitions: tuple[Callable[[], list[Dml]], ...] = (
            lambda: schema_ops.create_space(memtx, "t", is_sync=True),
            lambda: schema_ops.create_index(memtx, "t", "p", parts=[[1, "unsigned"], [2, "string"]]),
            lambda: schema_ops.create_index(
                memtx, "t", "y", parts=[[3, "integer"], [2, "string"]], unique=False
            ),
            lambda: schema_ops.create_index(memtx, "t", "c", parts=[[4, "number", {"is_nullable": True}]]),
        )
        for ops in definitions:
            memtx.commit(memtx.prepare(ops()))

    # --- the model

    def prepared_rows(self) -> dict[Tuple, Tuple]:
        rows = dict(self.committed)
        for txn in self.pending:
            self.apply(rows, txn.changes)
        return rows

    @staticmethod
    def apply(rows: dict[Tuple, Tuple], changes: list[tuple[Tuple, Tuple | None]]) -> None:
        for key, new in changes:
            if new is None:
                rows.pop(key, None)
            else:
                rows[key] = new

    def model_prepare(self, ops: list[Dml]) -> list[tuple[Tuple, Tuple | None]]:
        rows = self.prepared_rows()
        changes: list[tuple[Tuple, Tuple | None]] = []
        for op in ops:
            change = self.model_op(rows, op)
            if change is not None:
                key, new = change
                if new is not None and new[3] is not None:
                    clash = any(row[3] == new[3] and by_primary(row) != key for row in rows.values())
                    if clash:
                        raise Refused
                self.apply(rows, [change])
                changes.append(change)
        return changes

    @staticmethod
    def model_op(rows: dict[Tuple, Tuple], op: Dml) -> tuple[Tuple, Tuple | None] | None:
        if op.value is not None:
            key = by_primary(op.value)
            if op.type is RowType.INSERT and key in rows:
                raise Refused
            if op.type is RowType.UPSERT and key in rows:
                return key, (*rows[key][:2], 7, rows[key][3])
            return key, op.value
        assert op.key is not None
        found = [row for row in rows.values() if INDEXES[op.index_id](row) == op.key]
        if not found:
            return None
        (old,) = found
        return by_primary(old), None if op.type is RowType.DELETE else (*old[:3], op.ops[0][2])  # type: ignore[index]

    # --- rules

    keys = st.one_of(
        st.tuples(st.just(0), st.tuples(ID, NAME)),
        st.tuples(st.just(2), st.tuples(CODE.filter(lambda code: code is not None))),
    )
    op = st.one_of(
        st.builds(lambda row: Dml(RowType.INSERT, SPACE, b"", value=row), ROW),
        st.builds(lambda row: Dml(RowType.REPLACE, SPACE, b"", value=row), ROW),
        st.builds(lambda row: Dml(RowType.UPSERT, SPACE, b"", value=row, ops=(("=", 3, 7),)), ROW),
        st.builds(lambda at: Dml(RowType.DELETE, SPACE, b"", at[0], at[1]), keys),
        st.builds(
            lambda at, code: Dml(RowType.UPDATE, SPACE, b"", at[0], at[1], None, (("=", 4, code),)),
            keys,
            CODE,
        ),
    )

    @rule(ops=st.lists(op, min_size=1, max_size=3))
    def prepare(self, ops: list[Dml]) -> None:
        try:
            changes = self.model_prepare(ops)
        except Refused:
            with pytest.raises((TupleFound, PendingRefusal)) as caught:
                self.memtx.prepare(ops)
            if isinstance(caught.value, PendingRefusal):
                assert isinstance(caught.value.error, TupleFound)
                assert any(txn.prepared is caught.value.blocker for txn in self.pending)
            elif self.pending:
                # Told at once: then it stands on committed data alone.
                pending, self.pending = self.pending, []
                with pytest.raises(Refused):
                    self.model_prepare(ops)
                self.pending = pending
            return
        prepared = self.memtx.prepare(ops)
        assert prepared.is_sync
        assert len(prepared.ops) == len(prepared.results) == len(ops)
        self.pending.append(ModelTxn(prepared, changes))

    @rule()
    def commit_oldest(self) -> None:
        if self.pending:
            txn = self.pending.pop(0)
            self.memtx.commit(txn.prepared)
            self.apply(self.committed, txn.changes)

    @rule()
    def rollback_newest(self) -> None:
        if self.pending:
            self.memtx.rollback(self.pending.pop().prepared)

    @rule()
    def sort_now(self) -> None:
        self.memtx.end_bulk()

    @rule(
        index=st.integers(0, 2),
        row=ROW,
        parts=st.integers(0, 2),
        iterator=st.sampled_from(Iterator_),
        limit=st.one_of(st.none(), st.integers(0, 4)),
        offset=st.integers(0, 5),
        after=st.one_of(st.none(), ROW, st.integers(0, 9)),
        prepared=st.booleans(),
    )
    def select(
        self,
        index: int,
        row: Tuple,
        parts: int,
        iterator: Iterator_,
        limit: int | None,
        offset: int,
        after: Tuple | int | None,
        prepared: bool,
    ) -> None:
        """prepared: with what waits [Q-56]; every other read shows nothing of it."""
        key = INDEXES[index](row)[:parts]
        rows = list((self.prepared_rows() if prepared else self.committed).values())
        if isinstance(after, int):  # the place of a tuple that is there
            after = rows[after % len(rows)] if rows else None
        expected = model_select(rows, index, key, iterator, limit, offset, after)
        found = self.memtx.select(
            SPACE, index, key, iterator, limit=limit, offset=offset, after=after, prepared=prepared
        )
        assert found == expected
        whole = model_select(rows, index, key, iterator, None, offset, after)
        assert found.more == (len(whole) > len(expected)) or limit == 0

    @invariant()
    def readers_see_committed_and_writers_prepared(self) -> None:
        if not hasattr(self, "memtx"):
            return
        self.memtx.check()
        order = sorted(self.committed)
        assert self.memtx.select(SPACE) == [self.committed[key] for key in order]
        seen = {by_primary(row): row for row in self.memtx.prepared_rows(SPACE)}
        assert seen == self.prepared_rows()


TestMemtxMachine = MemtxMachine.TestCase
TestMemtxMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)


# --- unsigned keys, which have an order of their own ------------------------------------------------------

NUMBER = st.one_of(
    st.integers(0, 6), st.sampled_from([2**63, 2**64 - 2, 2**64 - 1]), st.integers(0, 2**64 - 1)
)
NUMBERS = st.tuples(NUMBER, NUMBER)
"""Primary key, and a unique secondary one."""
CHANGE = st.one_of(
    st.builds(lambda row: Dml(RowType.REPLACE, SPACE, b"", value=row), NUMBERS),
    st.builds(lambda row: Dml(RowType.REPLACE, SPACE, b"", value=row), NUMBERS),
    st.builds(lambda key: Dml(RowType.DELETE, SPACE, b"", 0, (key,)), NUMBER),
)
READ = st.tuples(
    st.integers(0, 1),
    st.one_of(st.just(()), st.tuples(NUMBER)),
    st.sampled_from(Iterator_),
    st.one_of(st.none(), st.integers(0, 4)),
    st.integers(0, 3),
    st.one_of(st.none(), NUMBERS),
)


@given(
    st.lists(st.one_of(st.lists(CHANGE, min_size=1, max_size=5), READ, st.booleans()), max_size=30),
    st.one_of(st.none(), st.integers(0, 8)),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_unsigned_keys_are_read_as_the_model_reads_them(steps: list[Any], decided: int | None) -> None:
    """D-10..D-13. Steps: a transaction, a read, or the begin (True) or end of recovery. decided: after so
    many steps nothing more is, and reads show what waits [Q-56]."""
    memtx = Memtx(Limits())
    definitions: tuple[Callable[[], list[Dml]], ...] = (
        lambda: schema_ops.create_space(memtx, "t"),
        lambda: schema_ops.create_index(memtx, "t", "p", parts=[[1, "unsigned"]]),
        lambda: schema_ops.create_index(memtx, "t", "n", parts=[[2, "unsigned"]]),
    )
    for ops in definitions:
        memtx.commit(memtx.prepare(ops()))
    rows: dict[Field, Tuple] = {}
    pending: list[Prepared] = []
    committed: list[Tuple] = []
    for number, step in enumerate(steps):
        prepared = decided is not None and number >= decided
        if isinstance(step, bool):
            (memtx.begin_bulk if step else memtx.end_bulk)()
        elif isinstance(step, tuple):
            index, key, iterator, limit, offset, after = step
            if after is not None:  # another tuple with the same unique key is at the same place
                after = next((row for row in rows.values() if row[index] == after[index]), after)
            whole = model_select(list(rows.values()), index, key, iterator, None, offset, after, UNSIGNED)
            found = memtx.select(
                SPACE, index, key, iterator, limit=limit, offset=offset, after=step[-1], prepared=prepared
            )
            assert found == whole[:limit]
            assert found.more == (len(whole) > len(found)) or limit == 0
        else:
            try:
                pending.append(memtx.prepare(step))
            except (TupleFound, PendingRefusal):
                continue
            if not prepared:
                memtx.commit(pending.pop())
                committed = memtx.select(SPACE)
            for op in step:
                if op.value is None:
                    rows.pop(op.key[0], None)
                else:
                    rows[op.value[0]] = op.value
        memtx.check()
    assert memtx.select(SPACE) == committed
    for waiting in pending:
        memtx.commit(waiting)
    for index, column in enumerate(UNSIGNED):
        assert memtx.select(SPACE, index) == sorted(rows.values(), key=column)


# --- update operations against a twin ---------------------------------------------------------------------

VALUE = st.one_of(st.integers(-(2**63), 2**64 - 1), st.integers(-2, 5), st.text("ab", max_size=4), st.none())
FIELD = st.one_of(st.integers(-5, 6), st.sampled_from(["one", "two"]))
UPDATE_OP = st.one_of(
    st.tuples(st.sampled_from("=!"), FIELD, VALUE),
    st.tuples(st.sampled_from("+-&|^"), FIELD, VALUE),
    st.tuples(st.just("#"), FIELD, st.integers(0, 3)),
    st.tuples(st.just(":"), FIELD, st.integers(-6, 6), st.integers(-6, 6), st.text("xy", max_size=2)),
)
NAMES = {"one": 0, "two": 1}


class CannotUpdate(Exception):
    pass


def twin(value: Tuple, op: Tuple) -> Tuple:
    """One operation, by the words of D-18: everything is slices of the tuple before and after."""
    kind, where, argument = op[0], op[1], op[2]
    where = NAMES[where] + 1 if isinstance(where, str) else where
    size = len(value)
    if kind == "!":
        number = where if where > 0 else size + 2 + where
        if where == 0 or not 1 <= number <= size + 1:
            raise CannotUpdate
        return (*value[: number - 1], argument, *value[number - 1 :])
    number = where if where > 0 else size + 1 + where
    if where == 0 or not 1 <= number <= size + (kind == "="):
        raise CannotUpdate
    before, after = value[: number - 1], value[number:]
    if kind == "=":
        return (*before, argument, *after)
    if kind == "#":
        if argument < 1:
            raise CannotUpdate
        return (*before, *after[argument - 1 :])
    old = value[number - 1]
    if kind == ":":
        return (*before, twin_splice(old, *op[2:]), *after)
    if type(old) is not int or type(argument) is not int:
        raise CannotUpdate
    if kind in "&|^" and (old < 0 or argument < 0):
        raise CannotUpdate
    new = {
        "+": lambda: old + argument,
        "-": lambda: old - argument,
        "&": lambda: old & argument,
        "|": lambda: old | argument,
        "^": lambda: old ^ argument,
    }[kind]()
    if not -(2**63) <= new < 2**64:
        raise CannotUpdate
    return (*before, new, *after)


def twin_splice(old: Field, offset: int, cut: int, paste: str) -> str:
    if not isinstance(old, str) or offset == 0 or offset < -len(old) - 1:
        raise CannotUpdate
    at = offset - 1 if offset > 0 else len(old) + offset + 1
    head, tail = old[:at], old[at:]
    kept = tail[cut:] if cut >= 0 else tail[-min(-cut, len(tail)) :] if tail else ""
    return head + paste + kept


@given(st.lists(VALUE, max_size=4).map(tuple), st.lists(UPDATE_OP, min_size=1, max_size=5).map(tuple))
@settings(max_examples=1500, deadline=None, derandomize=True)
def test_update_operations_do_what_the_twin_does(value: Tuple, ops: tuple[Tuple, ...]) -> None:
    """D-18."""
    check_ops(ops)
    expected = value
    try:
        for op in ops:
            expected = twin(expected, op)
    except CannotUpdate:
        with pytest.raises(SynchroError):
            apply_ops(value, ops, NAMES)
        return
    assert apply_ops(value, ops, NAMES) == expected


KEY_VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.sampled_from([0, -0.0, 2**53, 2**53 + 1, float(2**53), 2**64 - 1, float(2**64)]),
)


@given(st.lists(KEY_VALUES, min_size=1, max_size=30))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_number_keys_are_ordered_exactly(values: list[int | float]) -> None:
    """[D-10]: equal numbers are one key, whatever their type."""
    assume(values)
    memtx = Memtx(Limits())
    memtx.commit(memtx.prepare(schema_ops.create_space(memtx, "t")))
    memtx.commit(memtx.prepare(schema_ops.create_index(memtx, "t", "p", parts=[[1, "number"]])))
    for value in values:
        memtx.commit(memtx.prepare([Dml(RowType.REPLACE, SPACE, b"", value=(value,))]))
    memtx.check()
    assert [row[0] for row in memtx.select(SPACE)] == sorted(set(values))
    for value in values:
        assert memtx.get(SPACE, 0, (value,)) == (value,)
