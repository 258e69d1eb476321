"""S27: transactions that stay open, side by side, against one order of them all.

Several are open at the owner of the queue, which is deposed now and then. In the end all that were committed,
in the order of the log, are done once more by a model, one after the other: each statement must answer there
what it answered then.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.config import Limits
from synchro.errors import SynchroError, TransactionConflict
from synchro.ids import CallId
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.storage import row_body
from synchro.storage.index import Iterator_
from synchro.storage.private_view import PrivateView
from tests.mesh import ASYNC, SYNC, Mesh

Rows: TypeAlias = dict[int, int]
"""key -> value"""
Statement: TypeAlias = tuple[str, int, int]
"""kind, key, value; of a range: first key, number of tuples"""

KINDS = ("get", "range", "back", "replace", "insert", "add", "upsert", "delete")
STATEMENTS = st.tuples(st.sampled_from(KINDS), st.integers(1, 3), st.integers(0, 2))
SLOTS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(SLOTS, STATEMENTS),
    st.tuples(SLOTS, STATEMENTS),
    st.tuples(SLOTS, st.just("commit")),
    st.sampled_from(["persist", "deliver", *["settle"] * 8, "isolate", "take over"]),
)


def model(rows: Rows, statement: Statement) -> object:
    """What it answers, one at a time."""
    kind, key, value = statement
    old = rows.get(key)
    match kind:
        case "get":
            return old
        case "range":
            return [(each, rows[each]) for each in sorted(rows) if each >= key][:value]
        case "back":
            return [(each, rows[each]) for each in sorted(rows, reverse=True) if each <= key][:value]
        case "insert" if old is not None:
            return "refused"
        case "insert" | "replace":
            rows[key] = value
            return value
        case "add":
            if old is not None:
                rows[key] = old + value
            return rows.get(key)
        case "upsert":
            rows[key] = value if old is None else old + value
            return None
        case _:
            return rows.pop(key, None)


class Open:
    """An open transaction and what it was answered."""

    def __init__(self, mesh: Mesh, owner: int, space: int) -> None:
        self.mesh, self.owner, self.space = mesh, owner, space
        self.term = mesh[owner].limbo.term
        self.view = PrivateView(mesh[owner].memtx.catalog, Limits())
        self.told: list[tuple[Statement, object]] = []
        self.call = CallId(0)

    def say(self, statement: Statement) -> None:
        """Raises `TransactionConflict`."""
        try:
            self.told.append((statement, self._answer(*statement)))
        except TransactionConflict:
            raise
        except SynchroError:
            assert statement[0] == "insert"
            self.told.append((statement, "refused"))

    def _answer(self, kind: str, key: int, value: int) -> object:
        space, view = self.space, self.view
        match kind:
            case "get":
                found = view.select(space, 0, (key,), Iterator_.EQ)
                return found[0][1] if found else None
            case "range":
                return [*map(tuple, view.select(space, 0, (key,), Iterator_.GE, limit=value))]
            case "back":
                return [*map(tuple, view.select(space, 0, (key,), Iterator_.LE, limit=value))]
            case "replace":
                new = view.run(row_body.dml_from_values(RowType.REPLACE, space, value=(key, value)))
            case "insert":
                new = view.run(row_body.dml_from_values(RowType.INSERT, space, value=(key, value)))
            case "add":
                new = view.run(
                    row_body.dml_from_values(RowType.UPDATE, space, key=(key,), ops=(("+", 2, value),))
                )
            case "upsert":
                ops = (("+", 2, value),)
                new = view.run(row_body.dml_from_values(RowType.UPSERT, space, value=(key, value), ops=ops))
            case _:
                new = view.run(row_body.dml_from_values(RowType.DELETE, space, key=(key,)))
        return None if new is None else new[1]

    def commit(self) -> bool:
        """Whether it has a row that will tell its place. Raises `TransactionConflict`."""
        if not self.view.ops:
            self.view.check_committed()
            return False
        self.view.check_definitions()
        self.call = self.mesh.write_ops(self.owner, self.view.ops, conditions=self.view.reads, term=self.term)
        return True


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([SYNC, SYNC, ASYNC]), st.lists(STEPS, min_size=50, max_size=70))
def test_what_is_committed_is_as_if_one_had_been_done_after_the_other(space: int, steps: list[Any]) -> None:
    """S27, private_view.P3, read_set.V1, [D-43]"""
    mesh, owner = Mesh(3), 1
    mesh.promote(1)
    slots: dict[int, Open] = {}
    done: list[Open] = []
    for step in [*steps, "settle", "take over"]:
        match step:
            case "persist":
                mesh.persist(owner)
            case "deliver":
                mesh.deliver(owner, owner % 3 + 1)
                mesh.persist(owner % 3 + 1)
            case "settle":
                mesh.settle()
            case "isolate" if space == SYNC:  # an asynchronous row that it alone has would be split brain
                mesh.settle()
                mesh.isolate(owner)
            case "isolate":
                pass
            case "take over":
                mesh.persist(owner) if space == SYNC else mesh.settle()
                owner = owner % 3 + 1
                mesh.promote(owner)
                mesh.heal()
                mesh.settle()
                mesh.run_for(5)
                assert mesh[owner].limbo.owner_id == owner
            case (slot, what):
                transaction = slots.setdefault(slot, Open(mesh, owner, space))
                try:
                    if what != "commit":
                        transaction.say(what)
                    elif slots.pop(slot).commit():
                        done.append(transaction)
                except TransactionConflict:
                    slots.pop(slot, None)

    committed = [each for each in done if mesh.committed(each.call)]
    for each in done:
        if each not in committed:
            reasons = {"TRANSACTION_CONFLICT", "SYNC_ROLLBACK", "OLD_TERM", "READ_ONLY"}
            assert mesh.reason(each.call) in reasons
    log = {(txn.origin, txn.lsn): at for at, txn in enumerate(mesh.members[owner].wal)}
    rows: Rows = {}
    for each in sorted(committed, key=lambda one: log[mesh.outcome(one.call).txn]):  # type: ignore[union-attr, index]
        for statement, answer in each.told:
            assert model(rows, statement) == answer, (statement, rows)
    for number in (1, 2, 3):
        assert {row[0]: row[1] for row in mesh.rows(number, space)} == rows
    assert all(isinstance(mesh.outcome(each.call), ev.Committed) for each in committed)
