"""Memtx: the schema is data; spaces, indexes and truncate. Rules [D-1]..[D-8], [D-21], [D-26]."""

from __future__ import annotations

import pytest

from synchro.errors import (
    FieldMissing,
    FieldType,
    IllegalParams,
    IndexExists,
    NoSuchIndex,
    NoSuchSpace,
    SpaceExists,
    SynchroError,
    TupleFound,
    Unsupported,
    WrongFormat,
)
from synchro.row import Dml, RowType, Tuple
from synchro.storage import schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.prepared import PendingRefusal
from synchro.storage.schema import SCHEMA_ID, SPACE_ID, FieldDef, IndexDef, SpaceDef, SpaceKind, resolve_parts
from tests.unit.memtx_world import do, empty, put, with_bands

# --- spaces ---------------------------------------------------------------------------------------------


def test_a_space_is_a_row_of_space_and_exists_when_that_commits() -> None:
    """D-1, D-40: one row."""
    memtx = empty()
    version = memtx.catalog.schema_version
    ops = schema_ops.create_space(memtx, "bands", is_sync=True, format=["id", ("name", "str")])
    assert len(ops) == 1
    prepared = memtx.prepare(ops)
    assert (prepared.is_ddl, prepared.touches_system, prepared.is_sync) == (True, True, False)
    with pytest.raises(NoSuchSpace):
        memtx.catalog.space("bands")
    memtx.commit(prepared)
    assert memtx.catalog.space("bands") is memtx.catalog.space(512)
    assert memtx.catalog.space(512) == SpaceDef(
        512, "bands", format=(FieldDef("id"), FieldDef("name", "string")), is_sync=True
    )
    assert memtx.catalog.schema_version == version + 1
    row = memtx.get(SPACE_ID, 2, ("bands",))
    assert row is not None
    assert SpaceDef.from_tuple(row) == memtx.catalog.space(512)


def test_ids_of_dropped_spaces_do_not_come_back() -> None:
    """D-1: highest id ever + 1."""
    memtx = empty()
    do(memtx, schema_ops.create_space(memtx, "a"))
    do(memtx, schema_ops.create_space(memtx, "b"))
    do(memtx, schema_ops.drop_space(memtx, "b"))
    do(memtx, schema_ops.create_space(memtx, "c"))
    assert memtx.catalog.space("c").id == 514
    do(memtx, schema_ops.create_space(memtx, "t", kind="temporary"))
    assert memtx.catalog.space("t").id == 2**30


def test_a_name_exists_once() -> None:
    """D-3."""
    memtx = with_bands()
    with pytest.raises(SpaceExists) as caught:
        schema_ops.create_space(memtx, "bands")
    assert str(caught.value) == "Space 'bands' already exists"
    assert schema_ops.create_space(memtx, "bands", if_not_exists=True) == []
    with pytest.raises(SpaceExists):
        schema_ops.create_space(memtx, "_schema")
    with pytest.raises(TupleFound):
        memtx.prepare([Dml(RowType.INSERT, SPACE_ID, b"", value=SpaceDef(600, "bands").to_tuple())])


def test_a_local_space_is_never_synchronous() -> None:
    """D-2; also when the row comes as plain data."""
    memtx = empty()
    with pytest.raises(IllegalParams, match="local space can't be synchronous"):
        schema_ops.create_space(memtx, "x", is_local=True, is_sync=True)
    row = SpaceDef(512, "x", is_local=True, is_sync=True).to_tuple()
    with pytest.raises(IllegalParams, match="Failed to create space 'x': local space can't be synchronous"):
        memtx.prepare([put(SPACE_ID, *row)])
    with pytest.raises(IllegalParams, match="mutually exclusive"):
        schema_ops.create_space(memtx, "x", temporary=True, kind="normal")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (SpaceDef(0, "x").to_tuple(), IllegalParams),
        (SpaceDef(511, "x").to_tuple(), Unsupported),
        (SpaceDef(2**30, "x").to_tuple(), IllegalParams),
        (SpaceDef(512, "x", kind=SpaceKind.TEMPORARY).to_tuple(), IllegalParams),
        (SpaceDef(512, "").to_tuple(), WrongFormat),
        (SpaceDef(512, "x\n").to_tuple(), WrongFormat),
        (SpaceDef(512, "x", engine="vinyl").to_tuple(), Unsupported),
        (SpaceDef(512, "x", format=(FieldDef("a"), FieldDef("a"))).to_tuple(), WrongFormat),
        (SpaceDef(512, "x", format=(FieldDef("a", "money"),)).to_tuple(), WrongFormat),
        ((512, 1, "x", "memtx", 0, {"temporary": True, "type": "normal"}, ()), WrongFormat),
        ((512, 1, "x", "memtx", 0, {"is_sync": 1}, ()), WrongFormat),
        ((512, 1, "x", "memtx", 0, {"type": "eternal"}, ()), WrongFormat),
        ((512, 1, "x", "memtx", 0, {}, (5,)), WrongFormat),
        ((512, 1, "x", "memtx", 0, {}), FieldMissing),
    ],
)
def test_a_bad_definition_is_refused_and_leaves_no_trace(row: Tuple, error: type[SynchroError]) -> None:
    """D-1, D-2, D-6."""
    memtx = empty()
    with pytest.raises(error):
        memtx.prepare([put(SPACE_ID, *row)])
    assert memtx.prepared_rows(SPACE_ID) == []
    memtx.check()


def test_a_space_may_become_synchronous_at_run_time() -> None:
    """D-7: one row; it holds for transactions prepared afterwards."""
    memtx = with_bands()
    before = memtx.prepare([put(512, 1)])
    memtx.commit(before)
    ops = schema_ops.alter_space(memtx, "bands", is_sync=True)
    assert len(ops) == 1
    do(memtx, ops)
    assert not before.is_sync
    assert memtx.prepare([put(512, 2)]).is_sync
    assert memtx.get(512, 0, (1,)) == (1,)


def test_alter_renames_and_changes_only_what_was_asked() -> None:
    """D-7."""
    memtx = with_bands((1, "a"), is_sync=True)
    do(memtx, schema_ops.alter_space(memtx, "bands", name="groups", field_count=2))
    assert memtx.catalog.space("groups") == SpaceDef(512, "groups", field_count=2, is_sync=True)
    with pytest.raises(NoSuchSpace):
        memtx.catalog.space("bands")
    with pytest.raises(SpaceExists):
        schema_ops.alter_space(memtx, "groups", name="_space")
    with pytest.raises(IllegalParams, match="nothing to alter"):
        schema_ops.alter_space(memtx, "groups")
    with pytest.raises(IllegalParams, match="replication group is immutable"):
        memtx.prepare([put(SPACE_ID, *SpaceDef(512, "groups", is_local=True).to_tuple())])


def renamed(space_id: int, name: str) -> Dml:
    return Dml(RowType.UPDATE, SPACE_ID, b"", 0, (space_id,), None, (("=", 3, name),))


def test_spaces_may_exchange_their_names() -> None:
    """catalog.C2: whichever of them is put in force first, each name leads to its space."""
    memtx = with_bands((1, "a"))
    do(memtx, schema_ops.create_space(memtx, "groups"))
    do(memtx, [renamed(512, "third"), renamed(513, "bands"), renamed(512, "groups")])
    assert (memtx.catalog.space("groups").id, memtx.catalog.space("bands").id) == (512, 513)


def test_a_dropped_space_leaves_its_name_to_another() -> None:
    """catalog.C2: in the same transaction."""
    memtx = with_bands()
    do(memtx, schema_ops.create_space(memtx, "groups"))
    for number, name in ((512, "bands"), (513, "groups")):
        assert memtx.catalog.space(name).id == number
    do(memtx, [renamed(512, "third"), *schema_ops.drop_space(memtx, "groups"), renamed(512, "groups")])
    assert memtx.catalog.space("groups").id == 512


def test_a_format_that_tuples_violate_is_refused() -> None:
    """D-6."""
    memtx = with_bands((1, "a"), (2, "b"))
    with pytest.raises(FieldType, match="expected unsigned, got string"):
        memtx.prepare(schema_ops.alter_space(memtx, "bands", format=["id", ("year", "unsigned")]))
    do(memtx, schema_ops.alter_space(memtx, "bands", format=[("id", "unsigned"), ("name", "string")]))
    with pytest.raises(FieldType):
        memtx.prepare([put(512, 3, 3)])


def test_a_schema_error_that_rests_on_pending_tuples_waits_for_them() -> None:
    """ADR 7: the refusal would show an unconfirmed tuple."""
    memtx = with_bands()
    pending = memtx.prepare([put(512, 1, 5)])
    with pytest.raises(PendingRefusal) as caught:
        memtx.prepare(schema_ops.alter_space(memtx, "bands", format=["id", ("name", "string")]))
    assert caught.value.blocker is pending
    assert isinstance(caught.value.error, FieldType)


def test_a_space_is_dropped_after_its_indexes() -> None:
    """D-40: indexes + 1 rows."""
    memtx = with_bands((1, "a"))
    do(memtx, schema_ops.create_index(memtx, "bands", "name", parts=[[2, "string"]]))
    with pytest.raises(IllegalParams, match="Can't drop space 'bands': the space has indexes"):
        memtx.prepare([Dml(RowType.DELETE, SPACE_ID, b"", 0, (512,))])
    ops = schema_ops.drop_space(memtx, "bands")
    assert len(ops) == 3
    do(memtx, ops)
    with pytest.raises(NoSuchSpace):
        memtx.catalog.space("bands")
    assert memtx.freeze() == []


def test_a_schema_change_is_rolled_back_like_any_other() -> None:
    memtx = with_bands((1, "a"))
    for ops in (
        schema_ops.drop_space(memtx, "bands"),
        schema_ops.truncate(memtx, "bands"),
        schema_ops.create_space(memtx, "other"),
    ):
        memtx.rollback(memtx.prepare(ops))
        memtx.check()
    assert memtx.get(512, 0, (1,)) == (1, "a")
    assert [space.name for space in memtx.catalog.spaces() if not space.is_system] == ["bands"]


def test_schema_and_data_do_not_mix() -> None:
    """Rows of other system spaces may come along: a key of `_schema` with what it stands for."""
    memtx = with_bands()
    other = schema_ops.create_space(memtx, "other")
    for ops in ([put(512, 1), *other], [*other, put(512, 1)]):
        with pytest.raises(Unsupported, match="schema changes together with data changes"):
            memtx.prepare(ops)
    index = IndexDef(513, 0, "primary")
    do(memtx, [put(SCHEMA_ID, "onceinit", True), *other, put(288, *index.to_tuple())])
    do(memtx, [put(513, 1)])


def test_system_spaces_stay_as_they_are() -> None:
    memtx = empty()
    with pytest.raises(Unsupported, match="it is a system space"):
        memtx.prepare([put(288, *IndexDef(280, 7, "extra").to_tuple())])
    with pytest.raises(Unsupported, match="Can't truncate a system space"):
        memtx.prepare(schema_ops.truncate(memtx, "_schema"))


# --- truncate -------------------------------------------------------------------------------------------


def test_truncate_is_one_row_and_empties_the_space() -> None:
    """D-26, D-40."""
    memtx = with_bands((1, "a"), (2, "b"))
    do(memtx, schema_ops.create_index(memtx, "bands", "name", parts=[[2, "string"]]))
    for times in (1, 2):
        prepared = do(memtx, schema_ops.truncate(memtx, "bands"))
        assert (prepared.is_ddl, len(prepared.ops)) == (True, 1)
        assert memtx.select(512) == []
        assert memtx.get(330, 0, (512,)) == (512, times)
        do(memtx, [put(512, 5, "a")])
    do(memtx, schema_ops.drop_space(memtx, "bands"))
    assert memtx.get(330, 0, (512,)) is None


def test_truncate_of_a_local_space_needs_no_barrier() -> None:
    """D-26, L-22: its row is LOCAL, and a foreign queue must not hold it up."""
    memtx = with_bands((1, "a"), is_local=True)
    pending = memtx.prepare([put(512, 2, "b")])
    prepared = memtx.prepare(schema_ops.truncate(memtx, "bands"))
    assert (prepared.is_ddl, prepared.local, prepared.touches_system) == (False, [True], False)
    later = memtx.prepare([put(512, 3, "c")])
    memtx.commit(pending)
    assert memtx.select(512) == [(1, "a"), (2, "b")]
    memtx.commit(prepared)
    memtx.commit(later)
    assert memtx.select(512) == [(3, "c")]


def test_truncate_of_a_temporary_space_is_not_logged() -> None:
    """D-5, D-26."""
    memtx = with_bands((1, "a"), temporary=True)
    prepared = do(memtx, schema_ops.truncate(memtx, "bands"))
    assert prepared.ops == []
    assert memtx.select(512) == []


# --- indexes --------------------------------------------------------------------------------------------


def test_the_primary_index_comes_first_and_is_unique_and_never_null() -> None:
    """D-8."""
    memtx = empty()
    do(memtx, schema_ops.create_space(memtx, "t"))
    with pytest.raises(NoSuchIndex, match="No index #0 is defined in space 't'"):
        memtx.prepare(schema_ops.create_index(memtx, "t", "second", index_id=1))
    with pytest.raises(IllegalParams, match="primary key must be unique"):
        memtx.prepare(schema_ops.create_index(memtx, "t", "p", unique=False))
    with pytest.raises(IllegalParams, match="primary key cannot be nullable"):
        memtx.prepare(schema_ops.create_index(memtx, "t", "p", parts=[[1, "string", {"is_nullable": True}]]))
    do(memtx, schema_ops.create_index(memtx, "t", "p"))
    assert memtx.catalog.index("t", "p") == IndexDef(512, 0, "p")
    assert memtx.catalog.index("t", 0) is memtx.catalog.index(512, "p")


def test_parts_may_be_written_in_many_ways() -> None:
    """D-8."""
    memtx = with_bands(
        format=["id", ("name", "string"), {"name": "year", "type": "integer", "is_nullable": True}]
    )

    def parts(*given: object) -> list[tuple[int, str, bool]]:
        (op,) = schema_ops.create_index(memtx, "bands", "x", parts=given)
        assert op.value is not None
        return [tuple(part) for part in IndexDef.from_tuple(op.value).parts]  # type: ignore[misc]

    assert parts("name") == [(1, "string", False)]
    assert parts("year", 2) == [(2, "integer", True), (1, "string", False)]
    assert parts([1, "unsigned"], ["name"]) == [(0, "unsigned", False), (1, "string", False)]
    assert parts({"field": "year", "is_nullable": False}) == [(2, "integer", False)]
    assert parts([9, "str"]) == [(8, "string", False)]
    for wrong in ("nobody", 0, None, ["name", "string", 5], ["name", "string", {"is_nullable": 1}]):
        with pytest.raises(WrongFormat):
            parts(wrong)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"parts": [[1, "array"]]}, WrongFormat, "field type 'array' is not supported"),
        ({"parts": [[2, "unsigned"]]}, WrongFormat, "has type 'string' in space format, but type 'unsigned'"),
        ({"parts": [[2, "uuid"]]}, WrongFormat, "has type 'string' in space format, but type 'uuid'"),
        ({"parts": [[2, "string"], [2, "string"]]}, WrongFormat, "same key part is indexed twice"),
        ({"parts": []}, WrongFormat, "part count must be positive"),
        ({"type": "HASH", "unique": False}, IllegalParams, "HASH index must be unique"),
        ({"type": "RTREE"}, IllegalParams, "Unknown index type"),
        ({"index_id": 500}, IllegalParams, "index id 500 is over the limit"),
        ({"index_id": 0}, IndexExists, "already exists"),
    ],
)
def test_a_bad_index_is_refused(options: dict[str, object], error: type[SynchroError], text: str) -> None:
    """D-8."""
    memtx = with_bands(format=["id", ("name", "string")])
    with pytest.raises(error, match=text):
        memtx.prepare(schema_ops.create_index(memtx, "bands", "x", **options))  # type: ignore[arg-type]


def test_an_index_over_existing_tuples_is_checked_and_filled() -> None:
    """D-8, D-9."""
    memtx = with_bands((1, "a"), (2, "b"), (3, "a"))
    with pytest.raises(TupleFound, match=r'index "u" in space "bands" with old tuple - \[1, "a"\]'):
        memtx.prepare(schema_ops.create_index(memtx, "bands", "u", parts=[[2, "string"]]))
    with pytest.raises(FieldMissing):
        memtx.prepare(schema_ops.create_index(memtx, "bands", "u", parts=[[3, "string"]]))
    do(memtx, schema_ops.create_index(memtx, "bands", "n", parts=[[2, "string"]], unique=False))
    assert memtx.select(512, 1, ("a",), Iterator_.REQ) == [(3, "a"), (1, "a")]
    with pytest.raises(IndexExists):
        schema_ops.create_index(memtx, "bands", "n")
    assert schema_ops.create_index(memtx, "bands", "n", if_not_exists=True) == []
    do(memtx, [Dml(RowType.UPDATE, 288, b"", 0, (512, 1), None, (("=", 3, "renamed"),))])
    assert memtx.catalog.index("bands", "renamed").id == 1
    do(memtx, schema_ops.drop_index(memtx, "bands", "renamed"))
    with pytest.raises(NoSuchIndex):
        memtx.catalog.index("bands", "n")


def test_the_primary_index_goes_last() -> None:
    memtx = with_bands((1, "a"))
    do(memtx, schema_ops.create_index(memtx, "bands", "n", parts=[[2, "string"]]))
    with pytest.raises(IllegalParams, match="while secondary keys exist"):
        schema_ops.drop_index(memtx, "bands", "primary")
    with pytest.raises(IllegalParams, match="while secondary keys exist"):
        memtx.prepare([Dml(RowType.DELETE, 288, b"", 0, (512, 0))])


def test_a_primary_index_may_get_other_parts() -> None:
    memtx = with_bands((1, "b"), (2, "a"))
    index = IndexDef(512, 0, "primary", parts=resolve_parts(memtx.catalog.space(512), [[2, "string"]]))
    do(memtx, [put(288, *index.to_tuple())])
    assert memtx.select(512) == [(2, "a"), (1, "b")]
    assert memtx.get(512, 0, ("b",)) == (1, "b")
