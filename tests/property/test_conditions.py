"""S27: conditions against a model that does one call after the other, with owners that lose the queue.

The model knows what the owner has prepared, as a dict, and so whether each condition holds when the call
comes. In the end the calls that were committed, in the order of the log, must be a history in which all their
conditions hold, and lead to the tuples that all instances have.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.ids import CallId
from synchro.instance import events as ev
from synchro.row import Dml, RowType
from synchro.storage import row_body
from synchro.storage.conditions import Condition, Expected
from tests.mesh import ASYNC, SYNC, Mesh

Rows: TypeAlias = dict[tuple[int, int], int]
"""(space, key) -> value"""
Change: TypeAlias = tuple[RowType, int, int, int]
"""kind, space, key, value"""

SPACES, KEYS, VALUES = st.sampled_from([SYNC, SYNC, ASYNC]), st.integers(1, 2), st.integers(0, 1)
CHANGES = st.tuples(
    st.sampled_from([RowType.REPLACE, RowType.REPLACE, RowType.UPDATE, RowType.DELETE]), SPACES, KEYS, VALUES
)
CONDITIONS = st.tuples(st.sampled_from(Expected), SPACES, KEYS, VALUES, st.integers(0, 2))
CALLS = st.tuples(
    st.lists(CHANGES, min_size=1, max_size=2), st.lists(CONDITIONS, min_size=0, max_size=2), st.booleans()
)
STEPS = st.one_of(
    CALLS, CALLS, CALLS, st.sampled_from(["persist", "deliver", "settle", "isolate", "take over"])
)


def made(change: Change) -> Dml:
    kind, space, key, value = change
    match kind:
        case RowType.REPLACE:
            return row_body.dml_from_values(kind, space, value=(key, value))
        case RowType.UPDATE:
            return row_body.dml_from_values(kind, space, key=(key,), ops=(("=", 2, value),))
        case _:
            return row_body.dml_from_values(kind, space, key=(key,))


def apply(rows: Rows, change: Change) -> None:
    kind, space, key, value = change
    if kind is RowType.REPLACE or (kind is RowType.UPDATE and (space, key) in rows):
        rows[space, key] = value
    elif kind is RowType.DELETE:
        rows.pop((space, key), None)


def holds(rows: Rows, condition: Condition) -> bool:
    found = rows.get((condition.space_id, condition.key[0]))
    match condition.expected:
        case Expected.ABSENT:
            return found is None
        case Expected.PRESENT:
            return found is not None
        case Expected.EQUAL:
            return bool(found == condition.fields[0][1])


class Call:
    def __init__(self, changes: list[Change], conditions: list[Condition]) -> None:
        self.changes, self.conditions = changes, conditions
        self.id = CallId(0)
        self.is_held = False

    def run(self, rows: Rows) -> bool:
        """Whether all conditions hold in their places; then `rows` has the changes."""
        draft = dict(rows)
        for at, change in enumerate([*self.changes, None]):
            if not all(holds(draft, each) for each in self.conditions if each.at == at):
                return False
            if change is not None:
                apply(draft, change)
        rows.clear()
        rows.update(draft)
        return True


def call_of(changes: list[Change], conditions: list[tuple[Expected, int, int, int, int]]) -> Call:
    made = [
        Condition(expected, space, 0, (key,), at, at, ((2, value),) if expected is Expected.EQUAL else ())
        for expected, space, key, value, at in conditions
        if at <= len(changes)
    ]
    return Call(changes, sorted(made, key=lambda condition: condition.at))


def rows_of(mesh: Mesh, number: int) -> Rows:
    return {(space, row[0]): row[1] for space in (SYNC, ASYNC) for row in mesh.rows(number, space)}


@settings(max_examples=80, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=25))
def test_what_is_committed_is_a_history_in_which_all_conditions_hold(steps: list[Any]) -> None:
    """S27, conditions.N1, conditions.N2"""
    mesh, owner, is_alone = Mesh(3), 1, False
    mesh.promote(1)
    calls: list[Call] = []
    prepared: Rows = {}
    for step in [*steps, "take over"]:
        match step:
            case "persist":
                mesh.persist(owner)
            case "deliver":
                mesh.deliver(owner, owner % 3 + 1)
                mesh.persist(owner % 3 + 1)
            case "settle":
                mesh.settle()
            case "isolate":
                # Asynchronous rows that nobody else has are split brain as soon as their writer is deposed.
                mesh.settle()
                mesh.isolate(owner)
                is_alone = True
            case "take over":
                mesh.persist(owner) if is_alone else mesh.settle()
                owner, is_alone = owner % 3 + 1, False
                mesh.promote(owner)
                mesh.heal()
                mesh.settle()
                mesh.run_for(5)
                prepared = rows_of(mesh, owner)
                assert mesh[owner].limbo.owner_id == owner
            case (changes, conditions, is_sync):
                call = call_of(changes, conditions)
                call.is_held = call.run(prepared)
                ops = [made(change) for change in call.changes]
                call.id = mesh.write_ops(owner, ops, conditions=call.conditions, is_sync=is_sync or is_alone)
                calls.append(call)

    for call in calls:
        outcome = mesh.outcome(call.id)
        if isinstance(outcome, ev.Committed):
            assert call.is_held
        else:
            expected = {"SYNC_ROLLBACK"} if call.is_held else {"CONDITION_FAILED", "TRANSACTION_CONFLICT"}
            assert mesh.reason(call.id) in expected

    log = {(txn.origin, txn.lsn): at for at, txn in enumerate(mesh.members[owner].wal)}
    done = [(mesh.outcome(call.id), call) for call in calls if mesh.committed(call.id)]
    rows: Rows = {}
    for _, call in sorted(done, key=lambda one: log[one[0].txn]):  # type: ignore[union-attr, index]
        assert call.run(rows)
    assert rows == rows_of(mesh, 1) == rows_of(mesh, 2) == rows_of(mesh, 3)
