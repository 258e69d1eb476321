"""JSON of values that JSON has no form for: nothing is lost, nothing looks like something else."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchro import json_form
from synchro.cli.data_verbs import parse
from synchro.config import Limits
from synchro.errors import IllegalParams
from synchro.rpc import codec
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.values import Datetime, Interval
from tests.property.test_value_types import extended

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats()
scalars = st.none() | st.booleans() | numbers | st.text(max_size=5) | st.binary(max_size=5) | extended
forms = st.sampled_from(["$binary", "$number", "$map", "$msgpack", "$decimal", "$datetime", "$x"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(scalars | forms, inner, max_size=3)
        | st.dictionaries(forms, inner, max_size=1)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal, with types."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return same(list(a.items()), list(b.items()))
    return type(a) is type(b) and a == b and str(a) == str(b)


def whole(value: Any) -> Any:
    """Doubles without a fraction are integers, as the protocol's JSON says."""
    if isinstance(value, float) and value.is_integer() and -(2.0**63) <= value < 2.0**64:
        return int(value)
    if isinstance(value, (list, tuple)):
        return [whole(item) for item in value]
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    return value


def text(value: Any) -> str:
    return json.dumps(json_form.encode(whole(value)), sort_keys=True, allow_nan=False)


@given(values)
def test_what_the_command_line_prints_it_reads_back(value: Any) -> None:
    shown = json.dumps(json_form.encode(value), allow_nan=False)
    assert same(parse(shown, "value"), value)


@given(st.lists(values, max_size=3))
def test_so_do_the_json_messages_of_the_protocol(value: list[Any]) -> None:
    assert text(codec.json_fields(codec.json_list(value))) == text(value)


def test_what_is_too_deep_for_a_message_goes_as_msgpack() -> None:
    deep: Any = 1
    for _ in range(31):
        deep = {1: deep}
    read = common_pb2.Tuple.FromString(codec.tuple_message((deep,), as_json=True).SerializeToString())
    assert codec.select_key(data_pb2.SelectRequest(key=read), Limits()) == (deep,)


def test_forms() -> None:
    assert json_form.encode([b"\x00", float("nan"), float("-inf"), {1: "x"}, {"$map": 1}]) == [
        {"$binary": "AA=="},
        {"$number": "NaN"},
        {"$number": "-Infinity"},
        {"$map": [[1, "x"]]},
        {"$map": [["$map", 1]]},
    ]
    assert json_form.encode([Decimal("1.50"), UUID(int=1), Datetime(0, 5), Interval(months=-2)]) == [
        {"$decimal": "1.50"},
        {"$uuid": "00000000-0000-0000-0000-000000000001"},
        {"$datetime": "1970-01-01T00:00:00.000000005Z"},
        {"$interval": "-2 months"},
    ]
    assert json_form.encode(2**53 + 1, doubles=True) == {"$number": str(2**53 + 1)}


@pytest.mark.parametrize(
    "text",
    [
        '{"$decimal": 1.5}',
        '{"$decimal": "NaN"}',
        '{"$decimal": "1_0"}',
        '{"$decimal": " 1"}',
        '{"$decimal": "1E+38"}',
        '{"$decimal": "0.111111111111111111111111111111111111111"}',
        '{"$uuid": "64d22e4dac924a23899ae59f34af5479"}',
        '{"$uuid": "64d22e4d-ac92-4a23-899a-e59f34af547"}',
        '{"$datetime": "2026-11-30"}',
        '{"$datetime": "2026-11-30T07:00:00"}',
        '{"$datetime": "2026-02-29T07:00:00Z"}',
        '{"$datetime": "2026-02-28T24:00:00Z"}',
        '{"$datetime": "2026-02-28T07:00:00+14:01"}',
        '{"$datetime": "+9999999-02-28T07:00:00Z"}',
        '{"$interval": ""}',
        '{"$interval": "1 year 2 months"}',
        '{"$interval": "1 year, 2 years"}',
        '{"$interval": "1.5 years"}',
        '{"$interval": "1 adjust"}',
        '{"$interval": "adjust never"}',
        '{"$interval": "99999999999 years"}',
    ],
)
def test_a_text_that_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(IllegalParams, match="not JSON"):
        parse(text, "value")
