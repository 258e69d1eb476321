"""Memtx: order and iterators of TREE and HASH. Rules [D-10]..[D-15]."""

from __future__ import annotations

import pytest

from synchro.config import MIB, Limits
from synchro.errors import (
    ExactMatch,
    FieldType,
    IllegalParams,
    IteratorType,
    KeyPartCount,
    KeyPartType,
    UnsupportedIndexFeature,
)
from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage import schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.order import ListOrder, UnsignedOrder, order_of

SPACE = 512
EQ, REQ, ALL, LT, LE, GE, GT = Iterator_


def memtx_of(tuples: list[Tuple], *indexes: dict[str, object], limits: Limits | None = None) -> Memtx:
    memtx = Memtx(limits or Limits())
    ops = schema_ops.create_space(memtx, "t")
    memtx.commit(memtx.prepare(ops))
    for number, index in enumerate(indexes or [{}]):
        memtx.commit(memtx.prepare(schema_ops.create_index(memtx, "t", f"i{number}", **index)))  # type: ignore[arg-type]
    for value in tuples:
        memtx.commit(memtx.prepare([Dml(RowType.INSERT, SPACE, b"", value=value)]))
    memtx.check()
    return memtx


def keys(memtx: Memtx, key: Tuple, iterator: Iterator_, index: int = 0, **options: object) -> list[Field]:
    found = memtx.select(SPACE, index, key, iterator, **options)  # type: ignore[arg-type]
    return [value[0] for value in found]


def test_a_tree_runs_from_the_key_in_the_direction_of_the_iterator() -> None:
    """D-13."""
    memtx = memtx_of([(n,) for n in (30, 10, 20, 40)])
    assert keys(memtx, (20,), EQ) == [20]
    assert keys(memtx, (20,), REQ) == [20]
    assert keys(memtx, (20,), GE) == [20, 30, 40]
    assert keys(memtx, (20,), GT) == [30, 40]
    assert keys(memtx, (20,), LE) == [20, 10]
    assert keys(memtx, (20,), LT) == [10]
    assert keys(memtx, (20,), ALL) == [10, 20, 30, 40]
    assert keys(memtx, (25,), GE) == [30, 40]
    assert keys(memtx, (25,), LE) == [20, 10]
    assert keys(memtx, (25,), EQ) == []


def test_an_empty_key_means_all() -> None:
    """D-12, D-13."""
    memtx = memtx_of([(n,) for n in (3, 1, 2)])
    for iterator in (EQ, ALL, GE, GT):
        assert keys(memtx, (), iterator) == [1, 2, 3]
    for iterator in (REQ, LE, LT):
        assert keys(memtx, (), iterator) == [3, 2, 1]


def test_a_prefix_takes_or_leaves_all_that_begin_with_it() -> None:
    """D-13: GE and LE include the prefix-equal tuples, GT and LT exclude all of them."""
    rows = [(1, "a"), (1, "b"), (2, "a"), (2, "b"), (3, "a")]
    memtx = memtx_of(rows, {"parts": [[1, "unsigned"], [2, "string"]]})
    select = memtx.select
    assert select(SPACE, 0, (2,), EQ) == [(2, "a"), (2, "b")]
    assert select(SPACE, 0, (2,), REQ) == [(2, "b"), (2, "a")]
    assert select(SPACE, 0, (2,), GE) == [(2, "a"), (2, "b"), (3, "a")]
    assert select(SPACE, 0, (2,), GT) == [(3, "a")]
    assert select(SPACE, 0, (2,), LE) == [(2, "b"), (2, "a"), (1, "b"), (1, "a")]
    assert select(SPACE, 0, (2,), LT) == [(1, "b"), (1, "a")]
    assert select(SPACE, 0, (2, "a"), GT) == [(2, "b"), (3, "a")]
    assert memtx.get(SPACE, 0, (2, "b")) == (2, "b")
    with pytest.raises(ExactMatch, match=r"expected 2, got 1"):
        memtx.get(SPACE, 0, (2,))
    with pytest.raises(KeyPartCount) as caught:
        select(SPACE, 0, (1, "a", 2), EQ)
    assert str(caught.value) == "Invalid key part count (expected [0..2], got 3)"


def test_a_non_unique_index_is_ordered_by_key_and_primary_key() -> None:
    """D-10."""
    memtx = memtx_of(
        [(3, "b"), (1, "b"), (2, "a"), (4, "b")], {}, {"parts": [[2, "string"]], "unique": False}
    )
    assert keys(memtx, (), ALL, 1) == [2, 1, 3, 4]
    assert keys(memtx, ("b",), EQ, 1) == [1, 3, 4]
    assert keys(memtx, ("b",), REQ, 1) == [4, 3, 1]
    assert keys(memtx, ("b",), LT, 1) == [2]
    assert keys(memtx, ("a",), GT, 1) == [1, 3, 4]


def test_null_sorts_before_any_value() -> None:
    """D-10."""
    part = [2, "integer", {"is_nullable": True}]
    memtx = memtx_of([(1, 5), (2, None), (3, -5), (4,)], {}, {"parts": [part], "unique": False})
    assert keys(memtx, (), ALL, 1) == [2, 4, 3, 1]
    assert keys(memtx, (None,), EQ, 1) == [2, 4]
    assert keys(memtx, (None,), GT, 1) == [3, 1]


def test_numbers_compare_by_value_and_exactly() -> None:
    """[D-10]: not through float, where 2^53 and 2^53 + 1 would be one key."""
    big = 2**53
    rows: list[Tuple] = [(big + 1,), (float(big),), (0.5,), (1,), (-(2**63),), (2**64 - 1,), (float("inf"),)]
    memtx = memtx_of(rows, {"parts": [[1, "number"]]})
    assert keys(memtx, (), ALL) == [-(2**63), 0.5, 1, float(big), big + 1, 2**64 - 1, float("inf")]
    assert memtx.get(SPACE, 0, (1.0,)) == (1,)
    assert memtx.get(SPACE, 0, (big,)) == (float(big),)
    memtx.commit(memtx.prepare([Dml(RowType.REPLACE, SPACE, b"", value=(-0.0, "z"))]))
    assert memtx.get(SPACE, 0, (0,)) == (0, "z")


@pytest.mark.parametrize("value", [float("nan"), 2**64, -(2**63) - 1, True, "1"])
def test_what_is_no_number_is_no_key(value: Field) -> None:
    """[D-10], [D-13]."""
    memtx = memtx_of([], {"parts": [[1, "number"]]})
    with pytest.raises(FieldType):
        memtx.prepare([Dml(RowType.INSERT, SPACE, b"", value=(value,))])
    with pytest.raises(KeyPartType):
        memtx.get(SPACE, 0, (value,))


def test_nan_is_no_key_of_a_double_either() -> None:
    memtx = memtx_of([(1.5,)], {"parts": [[1, "double"]]})
    with pytest.raises(FieldType, match="expected double, got nan"):
        memtx.prepare([Dml(RowType.INSERT, SPACE, b"", value=(float("nan"),))])


def test_scalars_are_ordered_by_kind_then_value() -> None:
    """D-10: and True is not 1."""
    rows: list[Tuple] = [(b"a",), ("a",), (1,), (True,), (0.5,), (False,), ("b",)]
    memtx = memtx_of(rows, {"parts": [[1, "scalar"]]})
    assert keys(memtx, (), ALL) == [False, True, 0.5, 1, "a", "b", b"a"]
    assert memtx.get(SPACE, 0, (1,)) == (1,)
    assert memtx.get(SPACE, 0, (True,)) == (True,)
    assert keys(memtx, ("a",), GE) == ["a", "b", b"a"]


def test_offset_limit_and_after_page_through() -> None:
    """D-13: `after` continues strictly after the tuple, be it there or not."""
    memtx = memtx_of([(n,) for n in range(10)], {}, {"parts": [[1, "unsigned"]]})
    for index in (0, 1):
        page = memtx.select(SPACE, index, (2,), GE, limit=3)
        assert (page, page.more) == ([(2,), (3,), (4,)], True)
        page = memtx.select(SPACE, index, (2,), GE, limit=3, after=page[-1])
        assert page == [(5,), (6,), (7,)]
        page = memtx.select(SPACE, index, (2,), GE, limit=3, after=page[-1])
        assert (page, page.more) == ([(8,), (9,)], False)
        assert keys(memtx, (5,), LE, index, limit=2, offset=1, after=(5,)) == [3, 2]
        assert keys(memtx, (5,), EQ, index, offset=1) == []
        assert keys(memtx, (5,), EQ, index, after=(5,)) == []
        assert keys(memtx, (), ALL, index, offset=20) == []
        assert keys(memtx, (), ALL, index, limit=0) == []
    with pytest.raises(IllegalParams, match="Iterator position is invalid"):
        memtx.select(SPACE, 0, (), ALL, after=("x",))
    with pytest.raises(IllegalParams, match="Iterator position is invalid"):
        memtx.select(SPACE, 0, (), ALL, after=())
    with pytest.raises(IllegalParams):
        memtx.select(SPACE, 0, (), ALL, offset=-1)


@pytest.mark.parametrize("primary", ["unsigned", "scalar"])
@pytest.mark.parametrize("after", [("x", 3), ((), 3), (None, 3), ({1: 2}, 3)])
def test_after_must_have_a_primary_key_too(primary: str, after: Tuple) -> None:
    """An entry of an index whose keys may be equal holds it; what does not compare was an error of ours."""
    if primary == "scalar" and after[0] == "x":
        return
    memtx = memtx_of(
        [(n, 3) for n in range(5)], {"parts": [[1, primary]]}, {"parts": [[2, "unsigned"]], "unique": False}
    )
    assert keys(memtx, (3,), EQ, 1, after=(2, 3)) == [3, 4]
    with pytest.raises(IllegalParams, match="Iterator position is invalid"):
        memtx.select(SPACE, 1, (3,), EQ, after=after)


def test_unsigned_keys_reach_from_0_to_the_last() -> None:
    """D-13 at both ends, where a bound has no neighbour; by primary and by unique secondary key."""
    last = 2**64 - 1
    memtx = memtx_of(
        [(last, 0), (0, last), (2**63, 2**63)], {"parts": [[1, "unsigned"]]}, {"parts": [[2, "unsigned"]]}
    )
    for index, column in ((0, [0, 2**63, last]), (1, [last, 2**63, 0])):
        assert keys(memtx, (), ALL, index) == keys(memtx, (0,), GE, index) == column
        assert keys(memtx, (), REQ, index) == keys(memtx, (last,), LE, index) == column[::-1]
        assert keys(memtx, (0,), GT, index) == column[1:]
        assert keys(memtx, (last,), LT, index) == column[1::-1]
        assert keys(memtx, (0,), LE, index) == keys(memtx, (0,), REQ, index) == column[:1]
        assert keys(memtx, (last,), GE, index) == keys(memtx, (last,), EQ, index) == column[2:]
        assert keys(memtx, (0,), LT, index) == keys(memtx, (last,), GT, index) == []
        assert keys(memtx, (), ALL, index, after=memtx.get(SPACE, index, (last,))) == []
        assert keys(memtx, (), REQ, index, after=memtx.get(SPACE, index, (0,))) == []
        assert keys(memtx, (), REQ, index, offset=2, limit=2**64) == column[:1]
        assert keys(memtx, (), ALL, index, offset=2**64) == []
    page = memtx.select(SPACE, 0, (last,), LE, limit=2)
    assert ([value[0] for value in page], page.more) == ([last, 2**63], True)
    page = memtx.select(SPACE, 0, (last,), LE, limit=2, after=page[-1])
    assert ([value[0] for value in page], page.more) == ([0], False)
    for key in (0, 2**63, last):
        memtx.commit(memtx.prepare([Dml(RowType.DELETE, SPACE, b"", 0, (key,))]))
    memtx.check()
    assert keys(memtx, (last,), LE) == keys(memtx, (0,), GE) == []


def test_unique_keys_are_swapped_within_one_transaction() -> None:
    memtx = memtx_of([(1, 10), (2, 20)], {}, {"parts": [[2, "unsigned"]]})
    moves = [(1, 30), (2, 10), (1, 20)]
    memtx.commit(memtx.prepare([Dml(RowType.REPLACE, SPACE, b"", value=value) for value in moves]))
    memtx.check()
    assert memtx.select(SPACE, 1) == [(2, 10), (1, 20)]


@pytest.mark.parametrize("is_unsigned", [False, True])
def test_an_order_is_walked_between_any_bounds(is_unsigned: bool) -> None:
    """Both kinds of order do the same."""
    order = order_of([7, 3], is_unsigned=is_unsigned)
    assert type(order) is (UnsignedOrder if is_unsigned else ListOrder)
    order.add(5)
    order.add_all([9, 1])
    assert list(order.walk()) == [1, 3, 5, 7, 9]
    assert list(order.walk((3, True), (7, True))) == [3, 5, 7]
    assert list(order.walk((3, False), (7, False))) == [5]
    assert list(order.walk((2, False), (8, False), descending=True)) == [7, 5, 3]
    assert list(order.walk((3, False), (7, True), descending=True, offset=1)) == [5]
    assert list(order.walk(None, (7, True), offset=3)) == [7]
    assert list(order.walk((9, False), (1, False))) == list(order.walk((9, True), (1, True))) == []
    for descending in (False, True):
        assert list(order.walk(descending=descending, offset=5)) == []
    order.remove(5)
    with pytest.raises(KeyError):
        order.remove(5)
    assert list(order.walk(descending=True)) == [9, 7, 3, 1]


def test_an_answer_is_cut_at_its_byte_limit() -> None:
    """Then `after` continues. At least one tuple comes, else a reader would never get on."""
    memtx = memtx_of([(n, "x" * 100) for n in range(10)], limits=Limits(select_bytes_max=250))
    page = memtx.select(SPACE, 0, (), ALL)
    assert ([value[0] for value in page], page.more) == ([0, 1], True)
    assert keys(memtx, (), ALL, after=page[-1], limit=1) == [2]


def test_iterators_have_names_in_any_case_and_numbers() -> None:
    """D-12."""
    assert [iterator.value for iterator in Iterator_] == [0, 1, 2, 3, 4, 5, 6]
    assert Iterator_.parse("ge") is Iterator_.parse("GE") is Iterator_.parse(5) is GE
    with pytest.raises(IteratorType) as caught:
        Iterator_.parse("sideways")
    assert str(caught.value) == "Unknown iterator type 'sideways'"


def test_a_hash_finds_by_full_key_and_lists_all() -> None:
    """D-14."""
    parts = [[1, "unsigned"], [2, "string"]]
    memtx = memtx_of([(2, "a"), (1, "b")], {"type": "hash", "parts": parts}, {"type": "HASH", "parts": parts})
    for index in (0, 1):
        assert memtx.get(SPACE, index, (1, "b")) == (1, "b")
        assert memtx.select(SPACE, index, (1, "b"), EQ) == [(1, "b")]
        assert sorted(memtx.select(SPACE, index, (), ALL)) == [(1, "b"), (2, "a")]
        assert sorted(memtx.select(SPACE, index, (), EQ, limit=1)) == [(2, "a")]
        assert memtx.select(SPACE, index, (1, "b"), EQ, offset=1) == []
        for iterator in (GE, LT, REQ, GT, LE):
            with pytest.raises(UnsupportedIndexFeature) as caught:
                memtx.select(SPACE, index, (1, "b"), iterator)
            assert str(caught.value) == (
                f"Index 'i{index}' (HASH) of space 't' (memtx) does not support requested iterator type"
            )
        with pytest.raises(ExactMatch):
            memtx.select(SPACE, index, (1,), EQ)
        with pytest.raises(UnsupportedIndexFeature, match="pagination"):
            memtx.select(SPACE, index, (), ALL, after=(1, "b"))


@pytest.mark.parametrize("bytes_max", [1, 4 * MIB, 15 * MIB])
def test_a_page_of_a_hash_fits_a_message(bytes_max: int) -> None:
    """It cannot go on with `after`, so it is large whatever a page of a tree is, and fits a message."""
    limits = Limits(select_bytes_max=bytes_max)
    memtx = memtx_of([(n, "x" * MIB) for n in range(20)], {"type": "HASH"}, limits=limits)
    found = memtx.select(SPACE, 0, (), ALL)
    assert found.more
    assert 7 <= len(found) < limits.message_bytes_max // MIB


def test_a_hash_follows_deletes_and_replaces() -> None:
    memtx = memtx_of([(1, "a"), (2, "b")], {"type": "HASH"}, {"type": "HASH", "parts": [[2, "string"]]})
    memtx.commit(memtx.prepare([Dml(RowType.DELETE, SPACE, b"", 0, (1,))]))
    memtx.commit(memtx.prepare([Dml(RowType.REPLACE, SPACE, b"", value=(2, "a"))]))
    memtx.check()
    assert memtx.get(SPACE, 1, ("a",)) == (2, "a")
    assert memtx.get(SPACE, 1, ("b",)) is None


def test_get_by_null_finds_the_one_tuple_if_there_is_one() -> None:
    memtx = memtx_of([(1, None), (2, "b")], {}, {"parts": [[2, "string", {"is_nullable": True}]]})
    assert memtx.get(SPACE, 1, (None,)) == (1, None)
    assert memtx.get(SPACE, 1, ("b",)) == (2, "b")
    assert memtx.get(SPACE, 1, ("c",)) is None
