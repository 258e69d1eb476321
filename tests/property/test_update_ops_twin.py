"""Update operations all at once against one after the other, and their cost. Rule [D-18]."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.errors import BatchTooLarge, IllegalParams, NoSuchField, SynchroError
from synchro.storage.update_ops import Work, apply_ops, apply_upsert_ops, check_ops
from tests.yardstick import slowness

NAMES = {"id": 0, "text": 1, "list": 2, "map": 3}

PATHS = "list[1] list[2][1] list[2][2].a list[-1] map.a map.b[1] map.b[2] map.c.d map['a'] map.a.b [2] [3][1]"
FIELDS = st.sampled_from([1, 2, 3, 4, 5, -1, -2, 0, "text", "nobody", *PATHS.split()])
VALUES: Any = st.recursive(
    st.none() | st.integers(-3, 3) | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    ),
    max_leaves=6,
)
OPS = st.one_of(
    st.tuples(st.sampled_from("=!"), FIELDS, VALUES),
    st.tuples(st.sampled_from("+-&|^#"), FIELDS, st.integers(-2, 3)),
    st.tuples(st.just(":"), FIELDS, st.integers(-5, 30_000), st.integers(-5, 20_000), st.text(max_size=5)),
)
TEXTS = st.sampled_from(["", "short", "äß" * 5, "0123456789" * 3_000, "x€" * 20_000])
TUPLES = st.tuples(
    st.integers(0, 5),
    TEXTS,
    st.just((7, ("x", {"a": "0123456789" * 2_000}), "tail")),
    st.fixed_dictionaries({"a": st.integers(0, 3), "b": st.just((1, 2, 3)), "c": st.just({"d": "e"})}),
)


@given(TUPLES, st.lists(OPS, max_size=12))
@settings(max_examples=400, deadline=None)
def test_operations_together_do_what_they_do_one_after_the_other(value: Any, ops: Any) -> None:
    """[D-18]: each works on the result of the one before; the old tuple stays as it was."""
    check_ops(ops)
    before = repr(value)
    slow: Any = value
    failed: SynchroError | None = None
    for op in ops:
        try:
            slow = apply_ops(slow, [op], NAMES)
        except SynchroError as error:
            failed = error
            break
    if failed is None:
        assert apply_ops(value, ops, NAMES) == slow
    else:
        with pytest.raises(type(failed)) as found:
            apply_ops(value, ops, NAMES)
        assert str(found.value) == str(failed)
    assert repr(value) == before


@given(TUPLES, st.lists(OPS, max_size=12))
@settings(max_examples=300, deadline=None)
def test_an_upsert_skips_what_fails_and_only_that(value: Any, ops: Any) -> None:
    slow: Any = value
    for op in ops:
        slow = apply_upsert_ops(slow, [op], NAMES)
    assert apply_upsert_ops(value, ops, NAMES) == slow
    assert all(type(part) in (int, str, bytes, tuple, dict, type(None)) for part in slow)


@given(st.text("aß€", min_size=4, max_size=9).map(lambda text: text * 4_000), st.data())
@settings(max_examples=50, deadline=None)
def test_splices_of_a_long_string_are_those_of_a_slice(text: str, data: Any) -> None:
    slow, ops = text, []
    for _ in range(data.draw(st.integers(1, 20))):
        start = data.draw(st.integers(0, len(slow)))
        cut = data.draw(st.sampled_from([0, 1, 100, 9_000, 50_000]))
        paste = data.draw(st.sampled_from(["", "x", "yz" * 10_000]))
        slow = slow[:start] + paste + slow[start + cut :]
        ops.append((":", 1, start + 1, cut, paste))
    assert apply_ops((text,), ops, {}) == (slow,)
    assert apply_ops((text.encode(),), [(":", 1, -1, 0, b"!")] * 3, {})[0] == text.encode() + b"!!!"


def test_two_hundred_splices_of_a_megabyte_cost_about_one_copy() -> None:
    """Not 200 copies; a replica, which never refuses, must be as fast."""
    ops = [(":", 2, 1 + 4_000 * n, 1, "xy") for n in range(200)]
    began = time.thread_time()
    for _ in range(20):
        apply_ops((1, "a" * 900_000), ops, {})
    assert (time.thread_time() - began) / slowness() < 0.5


@pytest.mark.parametrize(
    "ops",
    [
        [("!", 1, 0)] * 4_000,
        [("#", 1, 1)] * 4_000,
        [("=", "[3][1]", 1)] * 40_000,
        [("+", 1, 1)] * 40_000,
        [("=", "nobody", 1)] * 40_000,
    ],
    ids=["insert", "delete", "nested", "many", "skipped"],
)
def test_what_an_update_may_touch_is_bounded(ops: Any) -> None:
    """Wide tuples and many operations count too, also those that an upsert skips."""
    value = (1, "x", tuple(range(1_000_000)), *range(500_000))
    for apply in (apply_ops, apply_upsert_ops):
        if ops[0][1] == "nobody" and apply is apply_ops:
            continue
        with pytest.raises(BatchTooLarge, match="nothing was done"):
            apply(value, ops, {}, Work(128 << 20))


@pytest.mark.parametrize(
    "path", ["[3][" + "9" * 5_000 + "]", "x" * 500_000, "[1]" * 300_000, "[3]" + "[1]" * 100]
)
def test_a_monstrous_path_is_refused_like_any_other(path: str) -> None:
    """A number of 5,000 digits raised ValueError, which ended the core; texts of errors travel in headers."""
    with pytest.raises((IllegalParams, NoSuchField)) as found:
        apply_ops((1, 2, ((1,),)), [("=", path, 1)], {})
    assert len(str(found.value)) < 300
