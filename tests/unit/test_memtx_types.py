"""Fields and keys of decimals, UUIDs, datetimes and intervals. Rules [D-6], [D-8], [D-10], [D-18]."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from synchro.errors import FieldType, KeyPartType, TupleFound, WrongFormat
from synchro.row import RowType
from synchro.storage import row_body, schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.tuple_format import show_tuple
from synchro.values import Datetime, Interval
from tests.unit.memtx_world import do, empty, put

ONE = UUID(int=1)
VALUES: dict[str, Any] = {
    "decimal": Decimal("1.5"),
    "uuid": ONE,
    "datetime": Datetime(5),
    "interval": Interval(days=1),
    "unsigned": 1,
    "double": 1.5,
    "string": "a",
}


def space_of(*fields: tuple[str, str]) -> Memtx:
    memtx = empty()
    do(memtx, schema_ops.create_space(memtx, "t", format=[("id", "unsigned"), *fields]))
    do(memtx, schema_ops.create_index(memtx, "t", "primary", parts=["id"]))
    return memtx


@pytest.mark.parametrize("kind", ["decimal", "uuid", "datetime", "interval"])
def test_a_field_takes_values_of_its_type_alone(kind: str) -> None:
    """D-6: no number is a decimal, and no text a UUID."""
    memtx = space_of(("value", kind))
    do(memtx, [put(512, 1, VALUES[kind])])
    for other, value in VALUES.items():
        if other != kind:
            with pytest.raises(FieldType, match=f"expected {kind}, got {other}$"):
                memtx.prepare([put(512, 2, value)])
    assert memtx.get(512, 0, (1,)) == (1, VALUES[kind])


@pytest.mark.parametrize(
    ("kind", "takes"),
    [
        ("number", {"decimal", "unsigned", "double"}),
        ("scalar", {"decimal", "uuid", "datetime", "unsigned", "double", "string"}),
        ("any", set(VALUES)),
        ("integer", {"unsigned"}),
    ],
)
def test_which_wider_types_take_them(kind: str, takes: set[str]) -> None:
    memtx = space_of(("value", kind))
    for name, value in VALUES.items():
        if name in takes:
            do(memtx, [put(512, 1, value)])
        else:
            with pytest.raises(FieldType):
                memtx.prepare([put(512, 1, value)])


def test_an_interval_is_no_key() -> None:
    """D-8: 30 days are neither more nor less than a month."""
    memtx = space_of(("value", "interval"), ("other", "any"))
    for part in ("value", ("other", "interval")):
        with pytest.raises(WrongFormat, match="field type 'interval' is not supported"):
            memtx.prepare(schema_ops.create_index(memtx, "t", "second", parts=[part]))


def test_scalars_of_all_kinds_have_one_order() -> None:
    """D-10: null, boolean, numbers, string, varbinary, uuid, datetime."""
    memtx = empty()
    fields = [{"name": "id", "type": "unsigned"}, {"name": "value", "type": "scalar", "is_nullable": True}]
    do(memtx, schema_ops.create_space(memtx, "t", format=fields))
    do(memtx, schema_ops.create_index(memtx, "t", "primary", parts=["id"]))
    do(memtx, schema_ops.create_index(memtx, "t", "second", parts=["value"], unique=False))
    numbers = [-1, Decimal("-0.5"), 0, Decimal("0.1"), 0.1, 1]  # the double 0.1 is a little more than a tenth
    order = [None, False, True, *numbers, "a", b"", ONE, Datetime(0)]
    for number, value in enumerate(reversed(order)):
        do(memtx, [put(512, number, value)])
    found = [value for _, value in memtx.select(512, 1, (), Iterator_.ALL)]
    assert list(map(repr, found)) == list(map(repr, order))
    assert len(memtx.select(512, 1, (ONE,), Iterator_.GE)) == 2


def test_equal_keys_are_one_however_they_are_written() -> None:
    memtx = empty()
    do(memtx, schema_ops.create_space(memtx, "t"))
    do(memtx, schema_ops.create_index(memtx, "t", "primary", parts=[(1, "decimal"), (2, "datetime")]))
    do(memtx, [put(512, Decimal("1.50"), Datetime(60, 0, 60))])
    again = row_body.dml_from_values(RowType.INSERT, 512, value=(Decimal("1.5"), Datetime(60)))
    with pytest.raises(TupleFound) as found:
        memtx.prepare([again])
    assert "old tuple - [1.50, 1970-01-01T01:01:00+01:00]" in str(found.value)
    assert "new tuple - [1.5, 1970-01-01T00:01:00Z]" in str(found.value)
    with pytest.raises(KeyPartType, match="part 0 does not match index part type: expected decimal"):
        memtx.get(512, 0, (1.5, Datetime(60)))


def test_errors_show_them_as_texts() -> None:
    shown = show_tuple((Decimal("1.50"), ONE, (Datetime(0),), Interval(hours=-1)))
    assert shown == f"[1.50, {ONE}, [1970-01-01T00:00:00Z], -1 hour]"


def test_an_update_of_a_decimal_field_stays_a_decimal() -> None:
    """D-18: and of an unsigned one must stay unsigned."""
    memtx = space_of(("price", "decimal"), ("count", "unsigned"))
    do(memtx, [put(512, 1, Decimal("9.90"), 3)])
    do(memtx, [row_body.update_dml(512, 0, (1,), [("+", 2, 1), ("-", 2, Decimal("0.05"))])])
    assert str((memtx.get(512, 0, (1,)) or ())[1]) == "10.85"
    with pytest.raises(FieldType, match="expected unsigned, got decimal"):
        memtx.prepare([row_body.update_dml(512, 0, (1,), [("+", 3, Decimal(1))])])
