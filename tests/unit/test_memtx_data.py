"""Memtx: data changes, the overlay of prepared changes, committed reads. Rules [D-4]..[D-17], [D-40]."""

from __future__ import annotations

import pytest

from synchro.config import Limits
from synchro.errors import (
    BatchTooLarge,
    CantUpdatePrimaryKey,
    ExactMatch,
    FieldMissing,
    FieldType,
    KeyPartType,
    MoreThanOneTuple,
    NoSuchIndex,
    NoSuchSpace,
    TupleFound,
    Unsupported,
    UpdateArgType,
    WrongFormat,
)
from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage import schema_ops
from synchro.storage.memtx import Memtx
from synchro.storage.prepared import PendingRefusal, Prepared

SPACE = 512


def memtx_with(
    *indexes: dict[str, object],
    limits: Limits | None = None,
    primary: object = ((1, "unsigned"),),
    **options: object,
) -> Memtx:
    """A memtx with the space 512 'bands' (synchronous unless said otherwise) and its primary index."""
    memtx = Memtx(limits or Limits())
    if not ({"is_local", "temporary", "is_sync"} & options.keys()):
        options["is_sync"] = True
    do(memtx, *schema_ops.create_space(memtx, "bands", **options))  # type: ignore[arg-type]
    do(memtx, *schema_ops.create_index(memtx, "bands", "primary", parts=primary))  # type: ignore[arg-type]
    for index in indexes:
        do(memtx, *schema_ops.create_index(memtx, "bands", **index))  # type: ignore[arg-type]
    return memtx


def do(memtx: Memtx, *ops: Dml) -> Prepared:
    prepared = memtx.prepare(ops)
    memtx.commit(prepared)
    memtx.check()
    return prepared


def insert(*fields: Field, space: int = SPACE) -> Dml:
    return Dml(RowType.INSERT, space, b"raw", value=fields)


def replace(*fields: Field, space: int = SPACE) -> Dml:
    return Dml(RowType.REPLACE, space, b"raw", value=fields)


def update(key: Tuple, *ops: Tuple, index: int = 0) -> Dml:
    return Dml(RowType.UPDATE, SPACE, b"raw", index, key, None, ops)


def delete(*key: Field, index: int = 0) -> Dml:
    return Dml(RowType.DELETE, SPACE, b"raw", index, key)


def upsert(value: Tuple, *ops: Tuple) -> Dml:
    return Dml(RowType.UPSERT, SPACE, b"raw", value=value, ops=ops)


def rows(memtx: Memtx, index: int = 0) -> list[Tuple]:
    return list(memtx.select(SPACE, index))


def nested(depth: int) -> Field:
    value: Field = 1
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize("kind", ["update", "upsert"])
def test_updates_make_no_tuple_that_is_deeper_than_one_that_may_be_written(kind: str) -> None:
    """ADR 24: each step is within the limit. What came of it could be read, and not be written back. What
    was accepted once is applied."""
    memtx = memtx_with()
    do(memtx, insert(1, nested(31)))
    path = "[2]" + "[1]" * 30
    op = ("=", path, nested(2))
    too_deep = update((1,), op) if kind == "update" else upsert((1, 0), op)
    with pytest.raises(WrongFormat, match="nested deeper than 32; nothing was done"):
        memtx.prepare([too_deep])
    assert rows(memtx) == [(1, nested(31))]
    do(memtx, update((1,), ("=", path, nested(1))), update((1,), ("=", path, 7)))
    memtx.commit(memtx.prepare([too_deep], from_peer=True))
    assert rows(memtx) == [(1, nested(32))]
    do(memtx, update((1,), ("!", 3, nested(31))))
    memtx.check()


# --- operations -------------------------------------------------------------------------------------------


def test_each_operation_returns_what_the_rule_says() -> None:
    """D-16."""
    memtx = memtx_with()
    assert do(memtx, insert(1, "a")).results == [(1, "a")]
    assert do(memtx, replace(1, "b")).results == [(1, "b")]
    assert do(memtx, update((1,), ("=", 2, "c"))).results == [(1, "c")]
    assert do(memtx, upsert((1, "x"), ("=", 2, "d"))).results == [None]
    assert do(memtx, upsert((2, "x"), ("=", 2, "d"))).results == [None]
    assert do(memtx, delete(1)).results == [(1, "d")]
    assert do(memtx, delete(1)).results == [None]
    assert rows(memtx) == [(2, "x")]


def test_a_change_of_an_absent_key_is_logged_as_it_was_sent() -> None:
    """D-40: it has no effect, but it consumes an LSN."""
    memtx = memtx_with()
    ops = [update((7,), ("=", 2, "c")), delete(8)]
    prepared = do(memtx, *ops)
    assert prepared.ops == ops
    assert prepared.results == [None, None]
    assert rows(memtx) == []


def test_a_duplicate_is_named_with_both_tuples() -> None:
    """D-9, and the very text of A-52."""
    memtx = memtx_with()
    do(memtx, insert(5, "Pink Floyd", 1965))
    with pytest.raises(TupleFound) as caught:
        memtx.prepare([insert(5, "incorrect data", 0)])
    assert str(caught.value) == (
        'Duplicate key exists in unique index "primary" in space "bands" with old tuple - '
        '[5, "Pink Floyd", 1965] and new tuple - [5, "incorrect data", 0]'
    )
    assert caught.value.details["old_tuple"] == '[5, "Pink Floyd", 1965]'
    assert rows(memtx) == [(5, "Pink Floyd", 1965)]


def test_a_clash_in_a_secondary_unique_index_is_a_duplicate_too() -> None:
    """D-9: replace may replace only the tuple with the same primary key."""
    memtx = memtx_with({"name": "name", "parts": [[2, "string"]]})
    do(memtx, insert(1, "a"), insert(2, "b"))
    for op in (insert(3, "a"), replace(2, "a"), update((2,), ("=", 2, "a")), upsert((3, "a"), ("=", 3, 1))):
        with pytest.raises(TupleFound, match='unique index "name"'):
            memtx.prepare([op])
    do(memtx, replace(1, "a", "same key, same name"))
    do(memtx, delete(1), insert(3, "a"))
    assert rows(memtx) == [(2, "b"), (3, "a")]


def test_a_nullable_unique_index_takes_null_many_times() -> None:
    """D-10: null equals nothing."""
    memtx = memtx_with({"name": "name", "parts": [[2, "string", {"is_nullable": True}]]})
    do(memtx, insert(1, None), insert(2), insert(3, "a"), replace(1, None, "x"))
    assert rows(memtx, 1) == [(1, None, "x"), (2,), (3, "a")]
    with pytest.raises(TupleFound):
        memtx.prepare([insert(4, "a")])


def test_update_and_delete_by_a_secondary_key_are_logged_with_the_primary_key() -> None:
    """D-16, D-41."""
    memtx = memtx_with({"name": "name", "parts": [[2, "string"]]})
    do(memtx, insert(1, "a"), insert(2, "b"))
    prepared = do(memtx, update(("a",), ("=", 3, "x"), index=1), delete("b", index=1), delete("c", index=1))
    assert prepared.results == [(1, "a", "x"), (2, "b"), None]
    assert prepared.ops == [
        Dml(RowType.UPDATE, SPACE, b"", 0, (1,), None, (("=", 3, "x"),)),
        Dml(RowType.DELETE, SPACE, b"", 0, (2,)),
        delete("c", index=1),
    ]


def test_a_primary_key_never_changes() -> None:
    """D-17."""
    memtx = memtx_with()
    do(memtx, insert(1, "a"))
    with pytest.raises(CantUpdatePrimaryKey) as caught:
        memtx.prepare([update((1,), ("=", 1, 2))])
    assert str(caught.value) == (
        "Attempt to modify a tuple field which is part of primary index in space 'bands'"
    )
    assert do(memtx, upsert((1, "x"), ("=", 2, "b"), ("+", 1, 1))).results == [None]
    assert rows(memtx) == [(1, "a")]


def test_keys_are_checked() -> None:
    """D-11."""
    memtx = memtx_with({"name": "by_name", "parts": [[2, "string"]], "unique": False})
    with pytest.raises(ExactMatch) as caught:
        memtx.prepare([delete()])
    assert str(caught.value) == "Invalid key part count in an exact match (expected 1, got 0)"
    with pytest.raises(KeyPartType) as wrong_type:
        memtx.get(SPACE, 0, ("1",))
    assert str(wrong_type.value) == (
        "Supplied key type of part 0 does not match index part type: expected unsigned"
    )
    with pytest.raises(MoreThanOneTuple):
        memtx.prepare([delete("a", index=1)])
    with pytest.raises(MoreThanOneTuple) as not_unique:
        memtx.get(SPACE, 1, ("a",))
    assert str(not_unique.value) == "Get() doesn't support partial keys and non-unique indexes"
    with pytest.raises(NoSuchIndex, match="No index #7 is defined in space 'bands'"):
        memtx.prepare([delete("a", index=7)])


def test_an_unknown_space_is_named_with_its_neighbour() -> None:
    """D-3."""
    memtx = memtx_with()
    with pytest.raises(NoSuchSpace) as caught:
        memtx.catalog.space("band")
    assert str(caught.value) == "Space 'band' does not exist"
    assert caught.value.details["nearest"] == "bands"
    with pytest.raises(NoSuchSpace):
        memtx.prepare([insert(1, space=999)])


def test_no_data_before_a_primary_index() -> None:
    """D-8."""
    memtx = Memtx(Limits())
    do(memtx, *schema_ops.create_space(memtx, "bands"))
    for op in (insert(1), delete(1), update((1,), ("=", 2, 2)), upsert((1,), ("=", 2, 2))):
        with pytest.raises(NoSuchIndex) as caught:
            memtx.prepare([op])
        assert str(caught.value) == "No index #0 is defined in space 'bands'"


# --- formats ----------------------------------------------------------------------------------------------


def test_a_tuple_that_the_format_forbids_is_refused() -> None:
    """D-6: more fields than the format are fine, null only where it says so."""
    memtx = memtx_with(
        format=[
            "any",
            {"name": "name", "type": "string"},
            {"name": "year", "type": "number", "is_nullable": True},
        ]
    )
    do(memtx, insert(1, "a"), insert(2, "b", None), insert(3, "c", 1.5, "more"))
    with pytest.raises(FieldType) as caught:
        memtx.prepare([insert(4, 5)])
    assert str(caught.value) == (
        "Tuple field 2 (name) type does not match one required by operation: expected string, got unsigned"
    )
    with pytest.raises(FieldMissing) as missing:
        memtx.prepare([insert(4)])
    assert str(missing.value) == "Tuple field 2 (name) required by space format is missing"
    with pytest.raises(FieldType, match="expected number, got string"):
        memtx.prepare([update((1,), ("=", 3, "x"))])
    with pytest.raises(FieldType, match=r"Tuple field 1 \(any\) .* expected unsigned, got integer"):
        memtx.prepare([insert(-1, "a")])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("any", (None, 1, "a", (1,), {"a": 1}), ()),
        ("unsigned", (0, 2**64 - 1), (-1, 1.0, True, None, 2**64)),
        ("integer", (-(2**63), 2**64 - 1), (1.0, False, -(2**63) - 1)),
        ("number", (1, -1, 1.5, float("inf")), ("1", True, float("nan"))),
        ("double", (1.5, float("nan")), (1, "a")),
        ("string", ("", "жук"), (b"", 1)),
        ("boolean", (True, False), (0, 1)),
        ("varbinary", (b"",), ("",)),
        ("scalar", (1, 1.5, "a", b"b", True), (None, (1,), {}, float("nan"))),
        ("array", ((), (1, 2)), ({}, "a")),
        ("map", ({}, {"a": 1}), ((), "a")),
    ],
)
def test_every_field_type_knows_its_values(kind: str, good: Tuple, bad: Tuple) -> None:
    """D-6. NaN is no number, integers have 64 bits, a boolean is no integer."""
    memtx = memtx_with(format=[("id", "unsigned"), ("field", kind)])
    for number, value in enumerate(good):
        do(memtx, insert(number, value))
    for value in bad:
        with pytest.raises(FieldType):
            memtx.prepare([insert(100, value)])


def test_field_count_is_exact() -> None:
    """D-2."""
    memtx = memtx_with(field_count=2)
    do(memtx, insert(1, 2))
    with pytest.raises(WrongFormat, match="Tuple field count 3 does not match space field count 2"):
        memtx.prepare([insert(2, 3, 4)])


# --- the overlay ------------------------------------------------------------------------------------------


def test_readers_see_only_what_is_committed_and_writers_what_is_prepared() -> None:
    """ADR 7: trees hold committed tuples, the overlay the prepared ones."""
    memtx = memtx_with()
    do(memtx, insert(1, 0))
    first = memtx.prepare([update((1,), ("+", 2, 1))])
    second = memtx.prepare([update((1,), ("+", 2, 10))])
    third = memtx.prepare([delete(1)])
    assert second.results == [(1, 11)]
    assert third.results == [(1, 11)]
    assert rows(memtx) == [(1, 0)]

    memtx.commit(first)
    assert rows(memtx) == [(1, 1)]
    memtx.rollback(third)
    assert memtx.prepare([update((1,), ("+", 2, 100))]).results == [(1, 111)]
    memtx.commit(second)
    assert memtx.get(SPACE, 0, (1,)) == (1, 11)


def test_rollback_from_the_newest_leaves_no_trace() -> None:
    """S6, Q-57: rollbacks come from the right."""
    memtx = memtx_with({"name": "name", "parts": [[2, "string"]]})
    do(memtx, insert(1, "a"))
    pending = [
        memtx.prepare([replace(1, "b")]),
        memtx.prepare([insert(2, "a")]),
        memtx.prepare([delete(1), insert(3, "b")]),
    ]
    for prepared in reversed(pending):
        memtx.rollback(prepared)
    memtx.check()
    assert rows(memtx) == [(1, "a")]
    with pytest.raises(TupleFound):
        memtx.prepare([insert(2, "a")])
    do(memtx, insert(2, "b"))


def test_a_transaction_sees_its_own_changes_and_fails_as_a_whole() -> None:
    """D-29."""
    memtx = memtx_with()
    prepared = memtx.prepare([insert(1, 1), update((1,), ("+", 2, 1)), delete(1), insert(1, 5)])
    assert prepared.results == [(1, 1), (1, 2), (1, 2), (1, 5)]
    memtx.rollback(prepared)
    with pytest.raises(TupleFound):
        memtx.prepare([insert(1), insert(2), insert(1)])
    assert do(memtx, insert(1), insert(2)).results == [(1,), (2,)]


def test_two_tuples_may_swap_a_unique_key_inside_a_transaction() -> None:
    memtx = memtx_with({"name": "name", "parts": [[2, "string"]]})
    do(memtx, insert(1, "a"), insert(2, "b"))
    do(memtx, replace(1, "tmp"), replace(2, "a"), replace(1, "b"))
    assert rows(memtx, 1) == [(2, "a"), (1, "b")]


def test_a_commit_leaves_a_key_to_the_newer_transaction_that_took_it() -> None:
    """ADR 7: commit moves the oldest change down, and only that."""
    memtx = memtx_with({"name": "name", "parts": [[2, "string"]]})
    do(memtx, insert(1, "a"))
    first = memtx.prepare([replace(1, "b")])
    second = memtx.prepare([insert(2, "a")])
    memtx.commit(first)
    with pytest.raises(PendingRefusal) as caught:
        memtx.prepare([insert(3, "a")])
    assert caught.value.blocker is second
    memtx.rollback(second)
    do(memtx, insert(3, "a"))


def test_a_refusal_that_rests_on_a_pending_tuple_names_its_blocker() -> None:
    """ADR 7: no error shows unconfirmed data."""
    memtx = memtx_with({"name": "name", "parts": [[2, "string"]]})
    first = memtx.prepare([insert(1, "a", "text")])
    for op, error in (
        (insert(1, "b"), TupleFound),
        (insert(2, "a"), TupleFound),
        (update((1,), ("+", 3, 1)), UpdateArgType),
        (update((1,), ("=", 1, 5)), CantUpdatePrimaryKey),
        (update(("a",), ("=", 1, 5), index=1), CantUpdatePrimaryKey),
    ):
        with pytest.raises(PendingRefusal) as caught:
            memtx.prepare([op])
        assert isinstance(caught.value.error, error)
        assert caught.value.blocker is first
    second = memtx.prepare([update((1,), ("=", 3, "newer"))])
    with pytest.raises(PendingRefusal) as newer:
        memtx.prepare([insert(1, "b")])
    assert newer.value.blocker is second

    memtx.commit(first)
    memtx.commit(second)
    with pytest.raises(TupleFound):
        memtx.prepare([insert(1, "b")])


def test_a_refusal_that_rests_on_committed_data_is_told_at_once() -> None:
    memtx = memtx_with()
    do(memtx, insert(1, "a"))
    memtx.prepare([insert(2, "b")])
    with pytest.raises(TupleFound):
        memtx.prepare([insert(1, "c")])
    with pytest.raises(FieldType):
        memtx.prepare([insert("no key")])


def test_a_refusal_after_own_changes_still_rests_on_what_they_replaced() -> None:
    """The transaction deletes what another one inserted, and then fails on its own insert."""
    memtx = memtx_with()
    first = memtx.prepare([insert(1, "a")])
    with pytest.raises(PendingRefusal) as caught:
        memtx.prepare([delete(1), insert(1, "b"), insert(1, "c")])
    assert caught.value.blocker is first
    assert memtx.prepare([delete(1)]).results == [(1, "a")]


# --- what is logged ---------------------------------------------------------------------------------------


def test_the_kind_of_space_decides_what_is_logged() -> None:
    """D-4, D-5, Q-10."""
    sync = memtx_with().prepare([insert(1)])
    assert (sync.is_sync, sync.local, len(sync.ops), sync.is_ddl) == (True, [False], 1, False)
    plain = memtx_with(is_sync=False).prepare([insert(1)])
    assert (plain.is_sync, plain.local, len(plain.ops)) == (False, [False], 1)
    local = memtx_with(is_local=True).prepare([insert(1)])
    assert (local.is_sync, local.local, len(local.ops)) == (False, [True], 1)
    temporary = memtx_with(temporary=True).prepare([insert(1)])
    assert (temporary.is_sync, temporary.local, temporary.ops) == (False, [], [])
    assert temporary.results == [(1,)]


def test_a_temporary_space_changes_at_once_and_undoes_on_rollback() -> None:
    memtx = memtx_with({"name": "name", "parts": [[2, "string"]]}, temporary=True)
    do(memtx, insert(1, "a"))
    prepared = memtx.prepare([replace(1, "b"), insert(2, "a")])
    assert rows(memtx) == [(1, "b"), (2, "a")]
    memtx.rollback(prepared)
    memtx.check()
    assert rows(memtx) == [(1, "a")]


def test_limits_bind_clients_and_not_peers() -> None:
    """A peer's row is already in the log of others: refusing it would stop replication. A-32: but what would
    break the data is refused from a peer too."""
    memtx = memtx_with(limits=Limits(tuple_bytes_max=10, batch_ops_max=2, txn_bytes_max=15, update_ops_max=1))
    big = Dml(RowType.INSERT, SPACE, b"x" * 11, value=(9, "x" * 20))
    with pytest.raises(BatchTooLarge, match="Tuple of 11 bytes is over the limit of 10"):
        memtx.prepare([big])
    with pytest.raises(BatchTooLarge, match="Transaction of 3 operations is over the limit of 2"):
        memtx.prepare([insert(1), insert(2), insert(3)])
    with pytest.raises(BatchTooLarge, match="Transaction of 16 bytes"):
        memtx.prepare([Dml(RowType.INSERT, SPACE, b"x" * 8, value=(n,)) for n in (1, 2)])
    do(memtx, insert(1, "a"))
    with pytest.raises(BatchTooLarge, match="Tuple of"):
        memtx.prepare([update((1,), ("=", 2, "a" * 20))])
    memtx.commit(memtx.prepare([big, insert(3), insert(4)], from_peer=True))
    assert len(rows(memtx)) == 4
    with pytest.raises(TupleFound):
        memtx.prepare([insert(3)], from_peer=True)
    with pytest.raises(FieldType):
        memtx.prepare([insert("no number")], from_peer=True)


def test_a_control_row_is_no_data() -> None:
    memtx = memtx_with()
    with pytest.raises(Unsupported):
        memtx.prepare([Dml(RowType.NOP, SPACE, b"")])
