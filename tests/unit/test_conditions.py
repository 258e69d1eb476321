"""Conditions of transactions, and transactions that are asked to be synchronous. [D-42], [D-28], ADR 49."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from synchro.config import Limits
from synchro.errors import ConditionFailed, IllegalParams, NoSuchField
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from synchro.row import FLAG_WAIT_ACK, Dml, Field, RowType, Tuple
from synchro.storage import row_body, schema_ops
from synchro.storage.conditions import Condition, Expected, check_fields, field_of, is_equal
from synchro.storage.tuple_format import show_tuple
from tests.mesh import ASYNC, LOCAL_SPACE, SYNC, Mesh

ONE = InstanceId(1)
REQUEST = b"0123456789abcdef"
KEY = (1,)


def absent(space: int = SYNC, key: Tuple = KEY, *, at: int = 0) -> Condition:
    return Condition(Expected.ABSENT, space, 0, key, at, at)


def present(space: int = SYNC, key: Tuple = KEY, *, at: int = 0) -> Condition:
    return Condition(Expected.PRESENT, space, 0, key, at, at)


def equal(field: int, value: Field, space: int = SYNC, key: Tuple = KEY, *, at: int = 0) -> Condition:
    return Condition(Expected.EQUAL, space, 0, key, at, at, ((field, value),))


def put(*value: Field, space: int = SYNC) -> Dml:
    return row_body.dml_from_values(RowType.REPLACE, space, value=value)


def add(number: int) -> Dml:
    return row_body.dml_from_values(RowType.UPDATE, SYNC, key=KEY, ops=(("+", 2, number),))


def owned(members: int = 3) -> Mesh:
    mesh = Mesh(members)
    mesh.promote(1)
    return mesh


def do(
    mesh: Mesh, ops: Sequence[Dml], *conditions: Condition, number: int = 1, is_sync: bool = False
) -> CallId:
    return mesh.write_ops(number, ops, conditions=conditions, is_sync=is_sync)


def settled(mesh: Mesh, ops: Sequence[Dml], *conditions: Condition, is_sync: bool = False) -> CallId:
    call = do(mesh, ops, *conditions, is_sync=is_sync)
    mesh.settle()
    return call


def error_of(mesh: Mesh, call: CallId) -> dict[str, str]:
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected) and isinstance(outcome.error, ConditionFailed), outcome
    return dict(outcome.error.details)


def message_of(mesh: Mesh, call: CallId) -> str:
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected), outcome
    return outcome.error.message


# --- what holds, and what is said if it does not -----------------------------------------------------------


def test_a_condition_that_holds_changes_nothing_else() -> None:
    mesh = owned()
    assert mesh.committed(settled(mesh, [put(1, 100)], absent()))
    assert mesh.committed(settled(mesh, [put(1, 90)], present(), equal(2, 100)))
    assert mesh.rows(1) == mesh.rows(2) == mesh.rows(3) == [(1, 90)]


@pytest.mark.parametrize(
    ("condition", "facts"),
    [
        (absent(), {"condition": "absent", "found": "[1, 100]"}),
        (present(key=(2,)), {"condition": "present", "key": "[2]"}),
        (equal(2, 99), {"condition": "equal", "found": "[1, 100]", "field": "2", "wanted": "99"}),
        (equal(2, 99, key=(2,)), {"condition": "equal", "key": "[2]"}),
    ],
)
def test_a_condition_that_does_not_hold_is_told_and_nothing_is_done(
    condition: Condition, facts: dict[str, str]
) -> None:
    """Admission.W2: no LSN is taken, and what came before it is undone."""
    mesh = owned()
    settled(mesh, [put(1, 100)])
    vclock = mesh[1].vclock
    call = settled(mesh, [put(5, 5), put(6, 6)], condition._replace(at=1, place=1))
    assert error_of(mesh, call) == {"op": "1", "space": "sync", "index": "primary", "key": "[1]", **facts}
    assert mesh[1].vclock == vclock and mesh.rows(1) == [(1, 100)]


def test_conditions_are_looked_at_in_their_places() -> None:
    """They see what the operations before them did."""
    mesh = owned()
    call = settled(mesh, [put(1, 1), put(2, 2)], absent(), equal(2, 1, at=1), equal(2, 2, key=(2,), at=2))
    assert mesh.committed(call)
    assert error_of(mesh, settled(mesh, [put(3, 3)], absent(key=(3,), at=1)))["found"] == "[3, 3]"


def test_a_transaction_that_must_match_is_refused_whole() -> None:
    """Without that an update of a missing tuple does nothing, and the rest is done [D-16]."""
    mesh = owned()
    must = Condition(Expected.PRESENT, SYNC, 0, KEY, 1, 1, is_of_change=True)
    assert error_of(mesh, settled(mesh, [put(2, 2), add(1)], must))["op"] == "1"
    assert mesh.rows(1) == []
    assert mesh.committed(settled(mesh, [put(2, 2), add(1)]))
    assert mesh.rows(1) == [(2, 2)]


# --- pending entries ------------------------------------------------------------------------------------


def test_read_modify_writes_may_follow_each_other_without_waiting() -> None:
    """conditions.N1: a condition sees what waits for its quorum."""
    mesh = owned()
    settled(mesh, [put(1, 0)])
    calls = [do(mesh, [put(1, number + 1)], equal(2, number)) for number in range(5)]
    assert [mesh.outcome(call) for call in calls] == [None] * 5
    mesh.settle()
    assert all(map(mesh.committed, calls)) and mesh.rows(3) == [(1, 5)]


def test_of_two_who_read_the_same_one_wins_and_the_other_hears_it_when_that_is_decided() -> None:
    """ADR 7: what waits for its quorum is not told, not even by a refusal."""
    mesh = owned()
    settled(mesh, [put(1, 0)])
    first, second = do(mesh, [put(1, 1)], equal(2, 0)), do(mesh, [put(1, 2)], equal(2, 0))
    assert mesh.outcome(second) is None
    mesh.settle()
    assert mesh.committed(first) and error_of(mesh, second)["found"] == "[1, 1]"


def test_a_condition_that_rests_on_what_rolls_back_rolls_back_with_it() -> None:
    """[Q-51]: it stands behind that in the queue, and rollback goes from the right."""
    mesh = owned()
    mesh.isolate(1)
    seen, rests = do(mesh, [put(1, 1)]), do(mesh, [put(2, 2)], equal(2, 1))
    behind = do(mesh, [put(9, 9, space=ASYNC)], present(key=(2,)))
    fails = do(mesh, [put(3, 3)], absent())
    mesh.settle()
    mesh.promote(2)
    mesh.heal()
    mesh.settle()
    assert [mesh.reason(call) for call in (seen, rests, behind)] == ["SYNC_ROLLBACK"] * 3
    assert mesh.reason(fails) == "TRANSACTION_CONFLICT"
    refusal = mesh.outcome(fails)
    assert isinstance(refusal, ev.Rejected)
    assert "rolled back" in refusal.error.message and "not decided" not in refusal.error.message
    assert mesh.rows(1) == mesh.rows(2) == [] and mesh.rows(1, ASYNC) == []


def test_a_pending_deletion_of_all_tuples_is_not_told_either() -> None:
    """ADR 7, of a local space, whose truncate is no barrier: it is decided with what is ahead of it."""
    mesh = owned()
    settled(mesh, [put(1, 1, space=LOCAL_SPACE)])
    mesh.isolate(1)
    do(mesh, [put(1, 1)])
    do(mesh, schema_ops.truncate(mesh[1].memtx, "local"))
    fails = do(mesh, [put(2, 2, space=LOCAL_SPACE)], present(LOCAL_SPACE))
    mesh.settle()
    assert mesh.outcome(fails) is None
    mesh.heal()
    mesh.settle()
    assert error_of(mesh, fails)["key"] == "[1]"


# --- once, at the origin --------------------------------------------------------------------------------


def test_conditions_are_not_in_the_log() -> None:
    """conditions.N2: replicas and recovery do what the log says, whatever they would find."""
    mesh = owned()
    settled(mesh, [put(1, 100)], absent())
    assert [len(txn.ops) for txn in mesh.members[1].wal if txn.ops][-1] == 1
    mesh.crash(1)
    mesh.restart(1)
    mesh.settle()
    assert mesh.rows(1) == mesh.rows(2) == [(1, 100)]


def test_a_retry_hears_that_it_was_done_and_not_that_its_condition_fails_now() -> None:
    mesh = owned()

    def again(number: int = 1) -> CallId:
        call = mesh.write_ops(number, [put(1, 100)], conditions=[absent()], request_id=REQUEST)
        mesh.settle()
        return call

    first, second = mesh.outcome(again()), mesh.outcome(again())
    assert isinstance(first, ev.Committed) and isinstance(second, ev.Committed)
    assert second.duplicate and second.txn == first.txn
    mesh.promote(2)
    third = mesh.outcome(again(2))
    assert isinstance(third, ev.Committed) and third.duplicate  # after a failover too


def test_a_refused_transaction_may_be_tried_again_under_its_name() -> None:
    mesh = owned()
    refused = mesh.write_ops(1, [put(2, 2)], conditions=[present()], request_id=REQUEST)
    assert error_of(mesh, refused)
    settled(mesh, [put(1, 1)])
    again = mesh.write_ops(1, [put(2, 2)], conditions=[present()], request_id=REQUEST)
    mesh.settle()
    outcome = mesh.outcome(again)
    assert isinstance(outcome, ev.Committed) and not outcome.duplicate


# --- synchronous, because of what it looks at, or because it is asked for --------------------------------


def test_who_looks_at_a_synchronous_space_waits_for_a_quorum() -> None:
    """Else a deposed owner that does not know it could go on with what it believes."""
    mesh = owned()
    settled(mesh, [put(1, 1)])
    mesh.isolate(1)
    call = do(mesh, [put(1, 1, space=ASYNC)], present())
    mesh.settle()
    assert mesh.outcome(call) is None and mesh.rows(1, ASYNC) == []
    mesh.heal()
    mesh.settle()
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Committed) and outcome.is_sync


def test_without_an_owner_nobody_can_look_at_a_synchronous_space() -> None:
    """[Q-13]; conditions on asynchronous spaces are decided by what the instance has."""
    mesh = Mesh(2)
    assert mesh.reason(settled(mesh, [put(1, 1, space=ASYNC)], absent())) == "SYNC_QUEUE_UNCLAIMED"
    outcome = mesh.outcome(settled(mesh, [put(1, 1, space=ASYNC)], absent(ASYNC)))
    assert isinstance(outcome, ev.Committed) and not outcome.is_sync


@pytest.mark.parametrize("holds", [False, True])
def test_without_an_owner_no_condition_on_a_synchronous_space_is_looked_at(holds: bool) -> None:
    """[Q-13]: a former owner has old data, so whether it held there is told to nobody."""
    mesh = owned()
    settled(mesh, [put(1, 1)])
    mesh.demote(1)
    mesh.settle()
    condition = present() if holds else absent()
    for ops in ([put(2, 2)], [put(2, 2, space=ASYNC)]):
        assert mesh.reason(settled(mesh, ops, condition)) == "SYNC_QUEUE_UNCLAIMED"
        assert mesh.reason(do(mesh, ops, condition, number=2)) == "SYNC_QUEUE_UNCLAIMED"
    assert mesh.reason(do(mesh, [put(2, space=LOCAL_SPACE)], condition)) == "ILLEGAL_PARAMS"
    first = Condition(condition.expected, SYNC, 0, KEY, 1, 1, (), is_of_change=True)
    assert mesh.reason(do(mesh, [put(3, 3, space=ASYNC)], first)) == "SYNC_QUEUE_UNCLAIMED"


@pytest.mark.parametrize("space", [SYNC, 320])
@pytest.mark.parametrize("holds", [False, True])
def test_who_does_not_own_the_queue_looks_at_nothing_synchronous(space: int, holds: bool) -> None:
    """[Q-13], ADR 6: with local changes too, which a replica may make."""
    mesh = owned()
    settled(mesh, [put(1, 1)])
    condition = present(space) if holds else absent(space)
    assert mesh.reason(do(mesh, [put(2, 2)], condition, number=2)) == "READ_ONLY"
    assert mesh.reason(do(mesh, [put(2, space=LOCAL_SPACE)], condition, number=2)) == "ILLEGAL_PARAMS"


def test_local_changes_cannot_rest_on_a_synchronous_space() -> None:
    """[Q-11]: no quorum would ever follow them. On local spaces they may, on a replica too [D-4]."""
    mesh = owned()
    local = [put(1, 1, space=LOCAL_SPACE)]
    assert mesh.reason(settled(mesh, local, absent())) == "ILLEGAL_PARAMS"
    assert mesh.rows(1, LOCAL_SPACE) == []
    call = do(mesh, local, absent(LOCAL_SPACE), number=2)
    mesh.settle()
    assert mesh.committed(call) and mesh.rows(2, LOCAL_SPACE) == [(1, 1)]


def test_changes_that_are_not_logged_cannot_rest_on_what_is_pending() -> None:
    """A temporary space shows a change at once, and could not wait for what was looked at [D-5]."""
    mesh = owned()
    settled(mesh, schema_ops.create_space(mesh[1].memtx, "temp", temporary=True))
    temp = mesh[1].memtx.catalog.space("temp").id
    settled(mesh, schema_ops.create_index(mesh[1].memtx, "temp", "primary"))
    mesh.isolate(1)
    do(mesh, [put(1, 1)])
    do(mesh, [put(1, 1, space=ASYNC)])
    call = do(mesh, [put(1, 1, space=temp)], present(ASYNC))
    assert mesh.reason(call) == "TRANSACTION_CONFLICT" and mesh.rows(1, temp) == []
    call = do(mesh, [put(1, 1, space=temp)], absent(ASYNC, (2,)))
    assert mesh.committed(call) and mesh.rows(1, temp) == [(1, 1)]


def test_an_asynchronous_space_waits_for_a_quorum_where_the_caller_asks_for_it() -> None:
    """[D-28], [L-23]: the flags of the row say so, after a restart too."""
    mesh = owned()
    mesh.isolate(1)
    call = do(mesh, [put(1, 1, space=ASYNC)], is_sync=True)
    mesh.settle()
    assert mesh.outcome(call) is None
    assert mesh.members[1].wal[-1].flags & FLAG_WAIT_ACK
    mesh.crash(1)
    mesh.restart(1)
    assert [entry.wait_ack for entry in mesh[1].limbo.entries] == [True]
    mesh.heal()
    mesh.promote(1)
    mesh.settle()
    assert mesh.rows(1, ASYNC) == mesh.rows(2, ASYNC) == [(1, 1)]


def test_only_the_owner_can_be_asked_and_never_for_local_changes() -> None:
    """[Q-11], [Q-13]"""
    mesh = Mesh(2)
    asked = settled(mesh, [put(1, 1, space=ASYNC)], is_sync=True)
    assert mesh.reason(asked) == "SYNC_QUEUE_UNCLAIMED" and mesh.rows(1, ASYNC) == []
    mesh.promote(1)
    asked = settled(mesh, [put(1, space=LOCAL_SPACE)], is_sync=True)
    assert mesh.reason(asked) == "ILLEGAL_PARAMS"
    assert "a fully local transaction synchronously" in message_of(mesh, asked)


def test_what_is_not_logged_cannot_be_synchronous_and_is_not_called_local() -> None:
    """[Q-11], [D-5]"""
    mesh = owned()
    settled(mesh, schema_ops.create_space(mesh[1].memtx, "temp", temporary=True))
    temp = mesh[1].memtx.catalog.space("temp").id
    settled(mesh, schema_ops.create_index(mesh[1].memtx, "temp", "primary"))
    asked = settled(mesh, [put(1, 1, space=temp)], is_sync=True)
    assert mesh.reason(asked) == "ILLEGAL_PARAMS" and mesh.rows(1, temp) == []
    assert "a transaction without a row synchronously" in message_of(mesh, asked)


def test_who_looks_at_members_waits_for_a_quorum_while_there_is_an_owner() -> None:
    """[D-24]: rows of system spaces are synchronous then."""
    mesh = Mesh(2)
    member = present(320)
    outcome = mesh.outcome(settled(mesh, [put(1, space=ASYNC)], member))
    assert isinstance(outcome, ev.Committed) and not outcome.is_sync
    mesh.promote(1)
    outcome = mesh.outcome(settled(mesh, [put(2, space=ASYNC)], member))
    assert isinstance(outcome, ev.Committed) and outcome.is_sync


# --- values ---------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1.5, Decimal("1.50")), (NAN, NAN), (None, None), (True, True), ("a", "a"), (0.0, -0.0),
        ((1, (2,)), (1.0, (2,))), ({"a": (1,), True: 2}, {True: 2.0, "a": (1,)}), ((NAN,), (NAN,)),
    ],
)  # fmt: skip
def test_equal_values(one: Field, other: Field) -> None:
    assert is_equal(one, other) and is_equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True), (0, False), (0, None), ("", None), ("1", 1), (b"a", "a"), ((), None), ((1,), (1, 2)),
        ((1,), (True,)), ({1: 1}, {True: 1}), ({"a": 1}, {"a": 2}), ({}, ()), (NAN, 1.0),
        (0.1, Decimal("0.1")),
    ],
)  # fmt: skip
def test_values_that_differ(one: Field, other: Field) -> None:
    assert not is_equal(one, other) and not is_equal(other, one)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (1, "a"), (-1, {"k": (5,)}), (4, None), (-4, None), ("name", "b"), ("note", None), ("doc.k", (5,)),
        ("doc.k[1]", 5), ("[2]", "b"), ("doc.none.such", None), ("name.x", None), ("doc.k[2]", None),
    ],
)  # fmt: skip
def test_fields_are_found_as_an_update_finds_them(field: int | str, value: Field) -> None:
    """[D-18]; what the tuple lacks is null, as readers see it."""
    names = {"id": 0, "name": 1, "doc": 2, "note": 3}
    assert field_of(("a", "b", {"k": (5,)}), field, names) == value


def test_a_field_that_no_tuple_has_is_refused() -> None:
    with pytest.raises(NoSuchField):
        field_of((1,), "nmae", {"name": 0})
    with pytest.raises(IllegalParams):
        field_of((1,), "name[", {"name": 0})
    for fields in ((), (1,), ((1,),), ((0, 1),), ((None, 1),), ((1, 2, 3),), ((True, 1),)):
        with pytest.raises(IllegalParams):
            check_fields(fields)


def test_what_was_found_is_shown_no_further_than_an_error_tells() -> None:
    """A tuple may have a million values (S17)."""

    class Costly:
        def __str__(self) -> str:
            raise AssertionError("nobody will see it")

    shown = show_tuple(("x" * 5000, Costly()))
    assert shown == '["' + "x" * 1019 + "..." and len(shown) == 1024
    assert show_tuple(({"k": (1.0, None, b"\xff")}, True)) == '[{"k": [1, null, "\\u00ff"]}, true]'


def test_what_conditions_cost_is_bounded() -> None:
    """S17: as many fields as the work of a transaction allows (ADR 25)."""
    mesh = Mesh(1, limits=Limits(txn_work_bytes_max=1 << 20))
    mesh.promote(1)
    settled(mesh, [put(1, (0,) * 100)])
    for fields in (((2, 0),) * 300, (("[2]" + "[1]" * 50, 0),) * 100, ((2, (0,) * 9000),)):
        wide = Condition(Expected.EQUAL, SYNC, 0, KEY, 0, 0, fields)
        assert mesh.reason(settled(mesh, [put(2, 2)], wide)) == "BATCH_TOO_LARGE"
