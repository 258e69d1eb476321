"""Sequences in memtx: what a writer is given, what follows from rows, what is refused. [D-26], ADR 47."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from synchro import errors
from synchro.errors import SynchroError
from synchro.row import Dml, Puts, RowType
from synchro.storage import schema_ops as ops
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal
from synchro.storage.row_body import put_dml
from synchro.storage.schema import SEQUENCE_DATA_ID, SEQUENCE_ID, SPACE_SEQUENCE_ID
from synchro.storage.schema_ops import Numbered
from synchro.storage.sequence_def import INT64_MAX, INT64_MIN, SequenceDef
from tests.unit.memtx_world import do, empty

BANDS = 512


def numbered(**options: Any) -> Memtx:
    """Space `bands`, with a primary key that the sequence `ids` gives values to."""
    memtx = empty()
    do(memtx, ops.create_sequence(memtx, "ids", **options))
    do(memtx, ops.create_space(memtx, "bands", is_sync=True))
    do(memtx, ops.create_index(memtx, "bands", "primary", sequence=Numbered("ids")))
    return memtx


def insert(key: int | None, kind: RowType = RowType.INSERT) -> Dml:
    return put_dml(kind, BANDS, (key, "x"))


def add(memtx: Memtx, *keys: int | None) -> list[Any]:
    """Keys of the tuples that one transaction stored."""
    prepared = do(memtx, [insert(key) for key in keys])
    return [row[0] for row in prepared.results if row is not None]


def take(memtx: Memtx, name: str = "ids") -> Any:
    (row,) = do(memtx, ops.set_sequence(memtx, name, None)).results
    assert row is not None
    return row[1]


def puts(*keys: int | None) -> Puts:
    dmls = [insert(key) for key in keys]
    return Puts(RowType.INSERT, BANDS, [op.raw for op in dmls], [op.value for op in dmls if op.value])


def refused(memtx: Memtx, rows: Callable[[], list[Dml]], kind: type[SynchroError]) -> SynchroError:
    with pytest.raises(kind) as caught:
        do(memtx, rows())
    memtx.check()
    return caught.value


def test_a_null_in_the_key_takes_the_next_value() -> None:
    """The caller gets the tuple with it, and so does the log: nobody else ever gives one."""
    memtx = numbered(start=5, step=3)
    prepared = do(memtx, [insert(None), insert(None)])
    assert prepared.results == [(5, "x"), (8, "x")]
    assert list(prepared.ops) == [insert(5), insert(8)]
    assert do(memtx, [insert(None, RowType.REPLACE)]).results == [(11, "x")]
    upsert = Dml(RowType.UPSERT, BANDS, b"", value=(None, "u"), ops=(("=", 2, "v"),))
    (logged,) = do(memtx, [upsert]).ops
    assert logged.value == (14, "u")
    assert memtx.get(BANDS, 0, (14,)) == (14, "u")


def test_a_value_that_is_given_moves_it_forward() -> None:
    memtx = numbered()
    assert add(memtx, None, 10, None, 3, None) == [1, 10, 11, 3, 12]


def test_columns_are_numbered_as_single_rows_are() -> None:
    """ADR 13: crowds of inserts share a transaction, each with a value of its own."""
    memtx = numbered()
    crowd = puts(None, 7, None, None, 2)
    prepared = memtx.prepare_together(crowd)
    assert prepared is not None
    assert [row and row[0] for row in prepared.results] == [1, 7, 8, 9, 2]
    assert list(prepared.ops) == [insert(key) for key in (1, 7, 8, 9, 2)]
    assert prepared.is_sync
    memtx.commit(prepared)
    assert add(memtx, None) == [10]


def test_columns_that_meet_a_tuple_go_one_by_one() -> None:
    memtx = numbered()
    add(memtx, 3)
    add(memtx, 1)
    do(memtx, ops.reset_sequence(memtx, "ids"))
    crowd = puts(None, None)
    assert memtx.prepare_together(crowd) is None
    assert memtx.loners(crowd) == [0, 1]
    assert take(memtx) == 1, "what was tried takes no value"


def test_rows_of_peers_move_it_and_are_never_numbered() -> None:
    memtx = numbered()
    memtx.commit(memtx.prepare([insert(4)], from_peer=True))
    memtx.commit(memtx.prepare(puts(5, 6, 7, 8, 9), from_peer=True))
    with pytest.raises(errors.FieldType):
        memtx.prepare([insert(None)], from_peer=True)
    assert add(memtx, None) == [10]


def test_a_transaction_that_is_rolled_back_gives_its_values_back() -> None:
    """They were never seen: the position is that of the log."""
    memtx = numbered()
    add(memtx, None)
    first = memtx.prepare([insert(None)])
    second = memtx.prepare_together(puts(None, None, None, None))
    assert second is not None and second.results[-1] == (6, "x")
    memtx.rollback(second)
    memtx.rollback(first)
    memtx.check()
    assert add(memtx, None) == [2]


def test_what_waits_for_its_decision_is_counted() -> None:
    memtx = numbered()
    first = memtx.prepare([insert(None)])
    second = memtx.prepare([insert(None)])
    assert (first.results, second.results) == ([(1, "x")], [(2, "x")])
    assert memtx.catalog.sequences.last(1) is None
    memtx.commit(first)
    memtx.commit(second)
    assert memtx.catalog.sequences.last(1) == 2


def test_next_set_reset() -> None:
    memtx = numbered(start=100)
    assert [take(memtx), take(memtx), add(memtx, None)] == [100, 101, [102]]
    do(memtx, ops.set_sequence(memtx, "ids", 7))
    assert add(memtx, None) == [8]
    do(memtx, ops.reset_sequence(memtx, "ids"))
    assert ops.reset_sequence(memtx, "ids") == [], "nothing to do"
    assert take(memtx) == 100


def test_the_end_of_a_sequence() -> None:
    memtx = numbered(high=3)
    assert add(memtx, None, None, None) == [1, 2, 3]
    error = refused(memtx, lambda: [insert(None)], errors.SequenceOverflow)
    assert error.details == {"sequence": "ids", "last": "3"}
    refused(memtx, lambda: ops.set_sequence(memtx, "ids", None), errors.SequenceOverflow)
    crowd = puts(None, None, None, None)
    assert memtx.prepare_together(crowd) is None
    do(memtx, ops.alter_sequence(memtx, "ids", high=4))
    assert add(memtx, None) == [4]
    last = INT64_MAX
    memtx = numbered()
    add(memtx, last)
    refused(memtx, lambda: [insert(None)], errors.SequenceOverflow)


def test_that_it_is_over_is_not_told_while_it_rests_on_what_is_pending() -> None:
    """ADR 7: a rollback would make a value free again."""
    memtx = numbered(high=1)
    pending = memtx.prepare([insert(None)])
    with pytest.raises(PendingRefusal) as caught:
        memtx.prepare([insert(None)])
    assert caught.value.blocker is pending
    memtx.rollback(pending)
    assert add(memtx, None) == [1]


def test_a_cycle_goes_round_on_all_alike() -> None:
    """Others see the values in rows, so they know that it went round."""
    memtx, follower = numbered(high=3, cycle=True), numbered(high=3, cycle=True)
    keys = []
    for _ in range(8):
        (key,) = add(memtx, None)
        follower.commit(follower.prepare([insert(key)], from_peer=True))
        for each in (memtx, follower):
            each.commit(each.prepare([Dml(RowType.DELETE, BANDS, b"", 0, (key,))], from_peer=True))
        keys.append(key)
        assert follower.catalog.sequences.last(1) == memtx.catalog.sequences.last(1) == key
    assert keys == [1, 2, 3, 1, 2, 3, 1, 2]


def test_a_falling_sequence() -> None:
    memtx = empty()
    do(memtx, ops.create_sequence(memtx, "down", step=-2))
    assert [take(memtx, "down") for _ in range(3)] == [-1, -3, -5]
    assert memtx.catalog.sequences.named("down").min == INT64_MIN


def test_keys_beyond_64_bits_with_a_sign_leave_it_alone() -> None:
    memtx = numbered()
    assert add(memtx, 2**64 - 1, None) == [2**64 - 1, 1]


def test_a_part_in_the_middle_of_a_key() -> None:
    memtx = empty()
    do(memtx, ops.create_space(memtx, "s", format=["town", "id", "name"]))
    parts = [("town", "string"), ("id", "integer")]
    do(memtx, ops.create_index(memtx, "s", "pk", parts=parts, sequence=Numbered(None, "id")))
    (row,) = do(memtx, [put_dml(RowType.INSERT, BANDS, ("Oslo", None, "a-ha"))]).results
    assert row == ("Oslo", 1, "a-ha")
    refused(memtx, lambda: [put_dml(RowType.INSERT, BANDS, ("Oslo",))], errors.FieldMissing)
    assert memtx.catalog.sequences.named("s_seq").id == 1


@pytest.mark.parametrize(
    "options",
    [
        {"step": 0},
        {"low": 5, "high": 4},
        {"start": 0},
        {"high": 10, "start": 11},
        {"step": 2**63},
        {"low": -(2**63) - 1, "start": 1},
        {"high": 2**63},
    ],
)
def test_a_sequence_that_cannot_be(options: Any) -> None:
    memtx = empty()
    refused(memtx, lambda: ops.create_sequence(memtx, "s", **options), errors.IllegalParams)
    do(memtx, ops.create_sequence(memtx, "t"))
    with pytest.raises((errors.IllegalParams, errors.FieldType)):
        do(memtx, ops.alter_sequence(memtx, "t", **options))


def test_names() -> None:
    memtx = numbered()
    refused(memtx, lambda: ops.create_sequence(memtx, "ids"), errors.SequenceExists)
    assert ops.create_sequence(memtx, "ids", if_not_exists=True) == []
    refused(memtx, lambda: ops.drop_sequence(memtx, "no"), errors.NoSuchSequence)
    refused(memtx, lambda: ops.alter_sequence(memtx, "ids"), errors.IllegalParams)
    do(memtx, ops.create_sequence(memtx, "other"))
    refused(memtx, lambda: ops.alter_sequence(memtx, "ids", name="other"), errors.SequenceExists)
    do(memtx, ops.alter_sequence(memtx, "ids", name="numbers"))
    assert add(memtx, None) == [1]
    refused(memtx, lambda: [put_dml(RowType.REPLACE, SEQUENCE_DATA_ID, (99, 1))], errors.NoSuchSequence)


def test_a_sequence_in_use_stays() -> None:
    memtx = numbered()
    add(memtx, None)
    error = refused(memtx, lambda: ops.drop_sequence(memtx, "ids"), errors.IllegalParams)
    assert "Can't drop sequence 'ids': the sequence is in use" in error.message
    refused(memtx, lambda: [Dml(RowType.DELETE, SEQUENCE_ID, b"", 0, (1,))], errors.IllegalParams)
    do(memtx, ops.drop_space(memtx, "bands"))
    assert memtx.count(SPACE_SEQUENCE_ID) == 0
    assert memtx.catalog.sequences.named("ids").id == 1, "it was made by hand, and stays"
    do(memtx, ops.drop_sequence(memtx, "ids"))
    assert memtx.count(SEQUENCE_ID) == memtx.count(SEQUENCE_DATA_ID) == 0


def test_one_that_was_made_for_a_space_goes_with_it() -> None:
    memtx = empty()
    do(memtx, ops.create_space(memtx, "bands"))
    do(memtx, ops.create_index(memtx, "bands", "primary", sequence=Numbered()))
    assert add(memtx, None) == [1]
    do(memtx, ops.drop_index(memtx, "bands", "primary"))
    assert memtx.count(SEQUENCE_ID) == memtx.count(SEQUENCE_DATA_ID) == memtx.count(SPACE_SEQUENCE_ID) == 0
    do(memtx, ops.create_index(memtx, "bands", "primary", sequence=Numbered()))
    assert add(memtx, None) == [1]


def link(space: int = BANDS, sequence: int = 1, field: int = 0, path: str = "") -> list[Dml]:
    return [put_dml(RowType.INSERT, SPACE_SEQUENCE_ID, (space, sequence, False, field, path))]


def test_what_cannot_be_numbered() -> None:
    memtx = empty()
    do(memtx, ops.create_sequence(memtx, "ids"))
    for name, options in (("a", {"is_local": True}), ("b", {"temporary": True})):
        do(memtx, ops.create_space(memtx, name, **options))  # type: ignore[arg-type]
        made = ops.create_index(memtx, name, "primary", sequence=Numbered("ids"))
        refused(memtx, lambda made=made: made, errors.Unsupported)  # type: ignore[misc]
    do(memtx, ops.create_space(memtx, "c"))
    text = ops.create_index(memtx, "c", "primary", parts=[(1, "string")], sequence=Numbered("ids"))
    refused(memtx, lambda: text, errors.WrongFormat)
    other = ops.create_index(memtx, "c", "primary", sequence=Numbered("ids", 2))
    refused(memtx, lambda: other, errors.IllegalParams)
    refused(memtx, lambda: link(514), errors.IllegalParams)  # no primary key yet
    do(memtx, ops.create_index(memtx, "c", "primary"))
    refused(memtx, lambda: link(999), errors.IllegalParams)
    refused(memtx, lambda: link(514, sequence=7), errors.IllegalParams)
    refused(memtx, lambda: link(514, path="a.b"), errors.Unsupported)
    refused(memtx, lambda: link(280), errors.Unsupported)
    with pytest.raises(errors.IllegalParams):
        ops.create_index(memtx, "c", "second", sequence=Numbered("ids"))
    do(memtx, link(514))
    refused(memtx, lambda: [Dml(RowType.DELETE, 288, b"", 0, (514, 0))], errors.IllegalParams)


def test_a_snapshot_has_the_position() -> None:
    memtx = numbered()
    add(memtx, None, 41, None)
    other = Memtx(memtx.catalog.limits)
    other.begin_bulk()
    for space_id, tuples in memtx.freeze(with_local=False):
        other.load(space_id, tuples)
    other.end_bulk()
    other.check()
    assert add(other, None) == add(memtx, None) == [43]


def test_definitions_as_tuples() -> None:
    """As Tarantool has them in `_sequence`."""
    made = SequenceDef(3, "s", step=-1, min=-10, max=-1, start=-5, cache=4, cycle=True)
    assert made.to_tuple() == (3, 1, "s", -1, -10, -1, -5, 4, True)
    assert SequenceDef.from_tuple(made.to_tuple()) == made
