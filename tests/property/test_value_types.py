"""Decimals, UUIDs, datetimes and intervals against Python's own: bytes, texts, order, sums. [D-6], [D-10]."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import cmp_to_key
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synchro import json_form
from synchro.cli.data_verbs import parse
from synchro.client import requests
from synchro.config import Limits
from synchro.errors import UpdateDecimalOverflow, WrongFormat
from synchro.row import Dml, RowType
from synchro.storage import msgpack_check, schema_ops
from synchro.storage.index import Iterator_
from synchro.storage.memtx import Memtx
from synchro.storage.update_ops import apply_ops
from synchro.values import SECONDS_MAX, SECONDS_MIN, UNITS, Datetime, Interval, check_decimal

zones = st.integers(-720, 840).map(lambda minutes: timezone(timedelta(minutes=minutes)))
pythons = st.datetimes(timezones=zones | st.just(UTC))
datetimes = st.builds(
    Datetime,
    st.integers(SECONDS_MIN, SECONDS_MAX) | st.integers(-3, 3),
    st.integers(0, 999_999_999) | st.just(0),
    st.integers(-720, 840) | st.just(0),
    st.integers(0, 1024) | st.just(0),
)
intervals = st.builds(
    Interval,
    **{unit: st.integers(-most, most) | st.just(0) for unit, most in UNITS.items()},
    adjust=st.sampled_from(["none", "excess", "last"]),
)


@st.composite
def decimals(draw: st.DrawFn) -> Decimal:
    digits = draw(st.integers(1, 38))
    exponent = draw(st.integers(-38, 38 - digits))
    number = draw(st.integers(1 - 10**digits, 10**digits - 1))
    return Decimal(f"{number}E{exponent}")  # exact, whatever the context


extended = decimals() | st.uuids() | datetimes | intervals


@given(extended)
def test_bytes_and_texts_lose_nothing(value: Any) -> None:
    data = msgpack_check.packb((value,))
    for found in (
        msgpack_check.unpack(data)[0],
        parse(json.dumps(json_form.encode(value)), "value"),
        msgpack_check.unpack(requests.pack(requests.unpack(data)))[0],  # through a program
    ):
        assert (type(found), found, str(found)) == (type(value), value, str(value))
        assert msgpack_check.packb((found,)) == data


@given(st.binary(max_size=24), st.sampled_from([1, 2, 4, 6]))
@settings(max_examples=500)
def test_any_body_is_a_value_or_refused(body: bytes, code: int) -> None:
    """Never another error, and what is taken can be written again."""
    try:
        (value,) = msgpack_check.unpack(msgpack.packb([msgpack.ExtType(code, body)]))
    except msgpack_check.MALFORMED:
        return
    assert msgpack_check.unpack(msgpack_check.packb(value)) == value
    assert json_form.decode_object(json_form.encode(value)) == value


@given(pythons)
def test_a_datetime_of_python_comes_back_as_it_was(value: datetime) -> None:
    found = requests.unpack(requests.pack([value]))[0]
    assert (type(found), found, found.utcoffset()) == (datetime, value, value.utcoffset())
    assert Datetime.parse(value.isoformat().replace("+00:00", "Z")) == Datetime.of(value)


def test_one_that_would_say_something_else_is_not_taken() -> None:
    with pytest.raises(WrongFormat, match="has no time zone"):
        requests.pack([datetime(2026, 11, 30)])
    with pytest.raises(WrongFormat, match="no whole number of minutes"):
        requests.pack([datetime(1880, 1, 1, tzinfo=timezone(timedelta(seconds=90)))])
    for exact in (Datetime(0, 1), Datetime(SECONDS_MIN), Datetime(0, zone=5)):
        assert requests.unpack(requests.pack([exact])) == [exact]


# --- order ----------------------------------------------------------------------------------------------

numbers = st.one_of(
    decimals(),
    decimals().map(float),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-3, 3),
    st.sampled_from([Decimal("0.1"), 0.1, Decimal("1.0"), Decimal("1.00"), 1.0, 2**53 + 1, float(2**53)]),
    st.sampled_from([Decimal(2**53 + 1), Decimal("-0"), -0.0, float("inf"), float("-inf")]),
)


def exactly(number: Any) -> Any:
    return number if number in (float("inf"), float("-inf")) else Fraction(number)


def compare(first: Any, second: Any) -> int:
    """By the kind, then by the value; without an operator of a decimal, UUID or datetime."""
    mine, theirs = place(first), place(second)
    return int(mine > theirs) - int(mine < theirs)


def place(value: Any) -> Any:
    match value:
        case bool():
            return 1, value
        case int() | float() | Decimal():
            return 2, exactly(value)
        case str():
            return 3, value.encode()
        case bytes():
            return 4, value
        case Datetime():
            return 6, Fraction(value.seconds) + Fraction(value.nanoseconds, 10**9)
    return 5, value.bytes


scalars = st.one_of(numbers, st.booleans(), st.text(max_size=3), st.binary(max_size=3), st.uuids(), datetimes)
KINDS = {
    "decimal": decimals(),
    "uuid": st.uuids(),
    "datetime": datetimes,
    "number": numbers,
    "scalar": scalars,
}


def indexed(kind: str, **options: Any) -> Memtx:
    memtx = Memtx(Limits())
    memtx.commit(memtx.prepare(schema_ops.create_space(memtx, "t", format=[("key", kind)])))
    index = schema_ops.create_index(memtx, "t", "primary", parts=["key"], **options)
    memtx.commit(memtx.prepare(index))
    return memtx


def replace(memtx: Memtx, value: Any) -> None:
    memtx.commit(memtx.prepare([Dml(RowType.REPLACE, 512, b"", value=(value,))]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sorted_first", [False, True])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_index_is_in_the_order_of_the_values(kind: str, sorted_first: bool, data: Any) -> None:
    """[D-10]: exact across types of numbers; one point in time is one key, whatever its offset."""
    values = data.draw(st.lists(KINDS[kind], max_size=12))
    memtx = indexed(kind)
    if sorted_first:
        memtx.select(512, 0, (), Iterator_.ALL)
    last: dict[Any, Any] = {}
    for value in values:
        replace(memtx, value)
        last[place(value)] = value
    memtx.check()
    model = sorted(last.values(), key=cmp_to_key(compare))
    assert [str(key) for (key,) in memtx.select(512, 0, (), Iterator_.ALL)] == list(map(str, model))
    if not model:
        return
    key = data.draw(KINDS[kind] | st.sampled_from(model))
    for iterator, sides in ((Iterator_.GE, {0, 1}), (Iterator_.GT, {1}), (Iterator_.EQ, {0})):
        found = [value for (value,) in memtx.select(512, 0, (key,), iterator)]
        assert list(map(str, found)) == [str(value) for value in model if compare(value, key) in sides]
    hashed = indexed(kind, type="HASH")
    for value in values:
        replace(hashed, value)
    assert hashed.get(512, 0, (key,)) == memtx.get(512, 0, (key,))


@given(st.lists(decimals() | numbers, min_size=2, max_size=2))
def test_equal_keys_have_equal_hashes(pair: list[Any]) -> None:
    if exactly(pair[0]) == exactly(pair[1]):
        assert hash(pair[0]) == hash(pair[1])
    assert (pair[0] == pair[1]) == (exactly(pair[0]) == exactly(pair[1]))


# --- sums -----------------------------------------------------------------------------------------------


@given(decimals(), decimals() | st.integers(-(2**63), 2**64 - 1), st.sampled_from("+-"))
def test_sums_of_decimals_are_exact_up_to_38_digits(first: Decimal, second: Any, kind: str) -> None:
    """[D-18]: and have no more digits; whichever side is the decimal."""
    exact = Fraction(first) + (Fraction(second) if kind == "+" else -Fraction(second))
    with_context = Context(prec=38, rounding=ROUND_HALF_UP)
    try:
        found: Any = apply_ops((first,), [(kind, 1, second)], {})[0]
    except UpdateDecimalOverflow:
        assert abs(exact) >= 10**38 - 1
        return
    check_decimal(found)
    assert found == with_context.divide(Decimal(exact.numerator), Decimal(exact.denominator))
    swapped: Any = apply_ops((second,), [(kind, 1, first)], {})[0]
    assert swapped == (found if kind == "+" else found.copy_negate())
