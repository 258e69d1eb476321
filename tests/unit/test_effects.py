"""Each option that is said to be live has a test that shows what its new value does; and what is no legal
value of an option is refused. [C-30], [C-41]"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchro.config.file import ClusterConfig, ConfigFileError, parse
from synchro.config.option import (
    Bytes,
    Count,
    Effect,
    Flag,
    Formula,
    ListOf,
    NameOfInstance,
    Option,
    Scope,
    Seconds,
    Text,
    Word,
)
from synchro.config.options import TABLE

TESTS = Path(__file__).resolve().parents[1]


def shown_in(path: Path) -> Iterator[str]:
    """Keys that `effect_of` names at the tests of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.effect_of":
                    yield from (ast.literal_eval(argument) for argument in mark.args)


def test_each_live_option_has_a_test_of_its_effect() -> None:
    shown = {key for path in TESTS.rglob("test_*.py") for key in shown_in(path)}
    live = {option.key for option in TABLE if option.is_live}
    assert live - shown == set(), "write a test of what a new value does, with @pytest.mark.effect_of(KEY)"
    assert shown - live == set(), "these are not live"


# --- what is no value of an option ----------------------------------------------------------------------


def wrong_values(option: Option) -> list[Any]:
    """Of another type, and beyond the ends."""
    match option.kind:
        case Count(low, high):
            return ["many", [], {}, 1.5, low - 1, high + 1, -(10**9)]
        case Seconds(is_zero_legal):
            return ["soon", [], {}, -1, "1 fortnight", 1e30] + ([] if is_zero_legal else [0])
        case Bytes(low, high):
            return ["much", [], {}, -1, 1.5, "1 bushel", high + 1] + ([low - 1] if low else [])
        case Flag():
            return ["perhaps", 2, [], {}]
        case Word():
            return ["never-heard", 7, [], {}]
        case Formula(is_put_into_range):
            return ["N /", "M + 1", "", [], {}, "N" * 5000] + ([] if is_put_into_range else [0, -1])
        case ListOf(_, _, high, _):
            return ["text", 1, {}, [[]], [{"x": 1}], ["127.0.0.1:1"] * (high + 1)]
        case NameOfInstance():
            return ["nobody-has-this-name", "a b", [], {}]
        case Text():
            return [[], {}, "\0"]
        case _:
            return []


def document(option: Option, value: Any) -> dict[str, Any]:
    """A set of three with this option, at a place where it may stand."""
    members: dict[str, Any] = {
        f"i{n}": {"grpc": {"listen": [{"uri": f"127.0.0.1:330{n}"}]}} for n in (1, 2, 3)
    }
    replicaset: dict[str, Any] = {"instances": members}
    top: dict[str, Any] = {"groups": {"g": {"replicasets": {"r": replicaset}}}}
    place = {Scope.REPLICASET: replicaset, Scope.INSTANCE: members["i1"]}.get(option.scope, top)
    *sections, last = option.key.split(".")
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    return top


def read(option: Option, value: Any) -> ClusterConfig:
    return parse(json.dumps(document(option, value)), path="c.yaml", environ={})


ACTING = [option for option in TABLE if option.effect is Effect.ACTS and wrong_values(option)]


@pytest.mark.parametrize("option", ACTING, ids=lambda option: option.key)
def test_a_wrong_value_is_refused_by_the_name_of_its_option(option: Option) -> None:
    for value in wrong_values(option):
        with pytest.raises(ConfigFileError) as caught:
            read(option, value)
        assert option.key.rpartition(".")[2] in caught.value.message, (value, caught.value.message)


@given(option=st.sampled_from(ACTING), at=st.integers(0, 40), letter=st.sampled_from("abcxyz_-0"))
def test_a_key_that_is_nearly_right_is_refused(option: Option, at: int, letter: str) -> None:
    *sections, last = option.key.split(".")
    at %= len(last) + 1
    wrong = last[:at] + letter + last[at:]
    key = ".".join([*sections, wrong])
    if any(other.key == key for other in TABLE):
        return
    with pytest.raises(ConfigFileError, match=r"unknown key|expected"):
        read(option._replace(key=key), 1)
