"""Update operations. Rule [D-18]."""

from __future__ import annotations

from decimal import Decimal

import pytest

from synchro.errors import (
    IllegalParams,
    NoSuchField,
    SynchroError,
    UnknownUpdateOp,
    UpdateArgType,
    UpdateDecimalOverflow,
    UpdateIntegerOverflow,
    UpdateSplice,
)
from synchro.row import Field, Tuple
from synchro.storage.update_ops import apply_ops, apply_upsert_ops, check_ops

NAMES = {"id": 0, "name": 1, "extra": 2}


def update(value: Tuple, *ops: Tuple) -> Tuple:
    check_ops(ops)
    return apply_ops(value, ops, NAMES)


@pytest.mark.parametrize(
    ("ops", "after"),
    [
        ([("=", 2, "x")], (1, "x", 3)),
        ([("=", -1, "x")], (1, "b", "x")),
        ([("=", 4, "new")], (1, "b", 3, "new")),
        ([("=", "name", "x")], (1, "x", 3)),
        ([("+", 3, 4)], (1, "b", 7)),
        ([("-", 3, 4)], (1, "b", -1)),
        ([("+", 3, 0.5)], (1, "b", 3.5)),
        ([("+", 3, Decimal("0.10"))], (1, "b", Decimal("3.10"))),
        ([("-", 3, Decimal("0.1")), ("+", 3, 0.2)], (1, "b", Decimal("3.1"))),
        ([("+", 3, Decimal("1E-38"))], (1, "b", Decimal("3." + "0" * 37))),
        ([("+", 3, Decimal("5E-38"))], (1, "b", Decimal("3." + "0" * 36 + "1"))),
        ([("=", 3, Decimal(0)), ("+", 3, 1e-300)], (1, "b", Decimal(0))),
        ([("&", 3, 2)], (1, "b", 2)),
        ([("|", 3, 4)], (1, "b", 7)),
        ([("^", 3, 1)], (1, "b", 2)),
        ([("!", 1, 0)], (0, 1, "b", 3)),
        ([("!", 4, 9)], (1, "b", 3, 9)),
        ([("!", -1, 9)], (1, "b", 3, 9)),
        ([("#", 2, 1)], (1, 3)),
        ([("#", 2, 100)], (1,)),
        ([("#", -1, 1)], (1, "b")),
        ([("#", 2, 1), ("=", 2, "was the third")], (1, "was the third")),
        ([("+", 3, 1), ("+", 3, 1)], (1, "b", 5)),
    ],
)
def test_an_operation_works_on_the_result_of_the_one_before(ops: list[Tuple], after: Tuple) -> None:
    """D-18."""
    assert update((1, "b", 3), *ops) == after


@pytest.mark.parametrize(
    ("offset", "cut", "paste", "after"),
    [
        (1, 1, "X", "Xello"),
        (2, 3, "", "ho"),
        (6, 0, "!", "hello!"),
        (100, 5, "!", "hello!"),
        (-1, 0, "!", "hello!"),
        (-2, 1, "0", "hell0"),
        (1, -1, "X", "Xo"),
        (1, -100, "X", "Xhello"),
        (2, 100, "", "h"),
        (-6, 0, "X", "Xhello"),
    ],
)
def test_splice_counts_from_either_end_and_clamps(offset: int, cut: int, paste: str, after: str) -> None:
    """D-18: a negative cut keeps that many trailing characters."""
    assert update((1, "hello"), (":", 2, offset, cut, paste)) == (1, after)


def test_splice_keeps_utf8_whole_and_takes_bytes_as_bytes() -> None:
    assert update((1, "жук"), (":", 2, 2, 1, "ы")) == (1, "жык")
    assert update((1, b"\x01\x02\x03"), (":", 2, 2, 1, b"\xff")) == (1, b"\x01\xff\x03")


ERRORS: list[tuple[Tuple, type[SynchroError], str]] = [
    (("=", 9, 1), NoSuchField, "Field 9 was not found in the tuple"),
    (("=", 0, 1), NoSuchField, "Field 0 was not found in the tuple"),
    (("=", -9, 1), NoSuchField, "Field -9 was not found in the tuple"),
    (("+", 4, 1), NoSuchField, "Field 4 was not found in the tuple"),
    (("=", "nobody", 1), NoSuchField, "Field 'nobody' was not found in the tuple"),
    (
        ("+", 2, 1),
        UpdateArgType,
        "Argument type in operation '+' on field 2 does not match field type: expected a number",
    ),
    (
        ("-", 3, "1"),
        UpdateArgType,
        "Argument type in operation '-' on field 3 does not match field type: expected a number",
    ),
    (
        ("+", 3, True),
        UpdateArgType,
        "Argument type in operation '+' on field 3 does not match field type: expected a number",
    ),
    (
        ("+", 3, Decimal("9" * 38)),
        UpdateDecimalOverflow,
        "Decimal overflow when performing operation '+' on field 3",
    ),
    (
        ("+", 2, Decimal(1)),
        UpdateArgType,
        "Argument type in operation '+' on field 2 does not match field type: expected a number",
    ),
    (
        ("|", 3, Decimal(1)),
        UpdateArgType,
        "Argument type in operation '|' on field 3 does not match field type: expected a positive integer",
    ),
    (
        ("&", 3, -1),
        UpdateArgType,
        "Argument type in operation '&' on field 3 does not match field type: expected a positive integer",
    ),
    (
        ("|", "name", 1),
        UpdateArgType,
        "Argument type in operation '|' on field 2 does not match field type: expected a positive integer",
    ),
    (
        (":", 3, 1, 1, "x"),
        UpdateArgType,
        "Argument type in operation ':' on field 3 does not match field type: expected a string",
    ),
    ((":", 2, 0, 1, "x"), UpdateSplice, "SPLICE error on field 2: offset is out of bound"),
    ((":", 2, -3, 1, "x"), UpdateSplice, "SPLICE error on field 2: offset is out of bound"),
    (("+", 3, 2**64 - 1), UpdateIntegerOverflow, "Integer overflow when performing '+' operation on field 3"),
    (
        ("-", 3, 2**63 + 4),
        UpdateIntegerOverflow,
        "Integer overflow when performing '-' operation on field 3",
    ),
    (("#", 2, 0), IllegalParams, "Field 2 UPDATE error: cannot delete 0 fields"),
    (("?", 2, 0), UnknownUpdateOp, "Unknown UPDATE operation #1: '?' is none of = + - & | ^ : ! #"),
    (
        ("=", 2),
        UnknownUpdateOp,
        "Unknown UPDATE operation #1: wrong number of arguments, expected 3, got 2",
    ),
    (("=", None, 1), IllegalParams, "field id must be a number or a name"),
    ((), IllegalParams, "update operation must be an array {op,..}"),
    ((1, 2, 3), IllegalParams, "update operation name must be a string"),
    (("=", "name..x", 1), IllegalParams, "Invalid JSON path 'name..x', error at position 5"),
]


@pytest.mark.parametrize(("op", "error", "text"), ERRORS)
def test_what_cannot_be_done_is_refused_with_the_text_of_the_rule(
    op: Tuple, error: type[SynchroError], text: str
) -> None:
    """D-18, Appendix A."""
    with pytest.raises(error) as caught:
        update((1, "b", 3), op)
    assert str(caught.value) == text


def test_four_thousand_operations_are_enough() -> None:
    """D-18."""
    ops = [("+", 1, 1)] * 4001
    check_ops(ops[:-1], count_max=4000)
    with pytest.raises(IllegalParams, match="too many operations for update"):
        check_ops(ops, count_max=4000)


def test_integers_reach_from_minus_two_to_the_63_to_two_to_the_64() -> None:
    """D-18: the result is stored as msgpack, which has no more."""
    assert update((2**64 - 2,), ("+", 1, 1)) == (2**64 - 1,)
    assert update((-(2**63) + 1,), ("-", 1, 1)) == (-(2**63),)


def test_an_upsert_skips_what_fails_and_does_the_rest() -> None:
    """D-18: op by op."""
    ops = (("+", 2, 1), ("=", 9, 0), ("+", 3, 1))
    assert apply_upsert_ops((1, "b", 3), ops, NAMES) == (1, "b", 4)


@pytest.mark.parametrize(
    ("op", "after"),
    [
        (("=", "extra.b", 5), {"a": (1, 2), "b": 5}),
        (("!", "extra.b", 5), {"a": (1, 2), "b": 5}),
        (("+", "extra.a[2]", 5), {"a": (1, 7)}),
        (("=", "[3].a[3]", 5), {"a": (1, 2, 5)}),
        (("!", "extra['a'][1]", 0), {"a": (0, 1, 2)}),
        (("#", "extra.a[-1]", 1), {"a": (1,)}),
        (("#", "extra.a", 1), {}),
    ],
)
def test_a_path_reaches_into_arrays_and_maps(op: Tuple, after: Field) -> None:
    """D-18: field may be a JSON path. The old value stays as it is: others may hold it."""
    old = (1, "b", {"a": (1, 2)})
    assert update(old, op) == (1, "b", after)
    assert old == (1, "b", {"a": (1, 2)})


@pytest.mark.parametrize("path", ["extra.x.y", "extra.a.b", "extra[1]", "extra.a[9]"])
def test_a_path_to_nothing_is_no_such_field(path: str) -> None:
    with pytest.raises(NoSuchField, match="was not found in the tuple"):
        update((1, "b", {"a": (1, 2)}), ("+", path, 1))


def test_a_map_keeps_its_key_once() -> None:
    with pytest.raises(IllegalParams, match="exists already"):
        update((1, "b", {"a": 1}), ("!", "extra.a", 2))
    with pytest.raises(IllegalParams, match="can delete only 1 field from a map"):
        update((1, "b", {"a": 1}), ("#", "extra.a", 2))
    assert update((1, "b", {"a": 1}), ("+", "extra.a", 2)) == (1, "b", {"a": 3})
