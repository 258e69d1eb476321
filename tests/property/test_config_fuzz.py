"""Whatever stands in the file: it loads or it is a `ConfigFileError`, and quickly."""

from __future__ import annotations

import time
from typing import Any

import jsonschema
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from synchro.config.file import ConfigFileError, parse
from synchro.config.json_schema import json_schema
from synchro.config.located import compose
from synchro.config.option import Option, Section
from synchro.config.schema import ROOT
from synchro.config.view import plain

VALIDATOR = jsonschema.Draft7Validator(json_schema())
SECONDS_MAX = 0.05
"""Of CPU: the machine may be busy with other tests."""

WORDS = sorted(
    {
        key
        for section in (ROOT, *(s for s in ROOT.keys.values() if isinstance(s, Section)))
        for key in section.keys
    }
    | {"replicasets", "instances", "users", "peer", "uri", "leader"}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["off", "5s", "10MB", "N / 2 + 1", "N ** 9", "{{ instance_name }}", "127.0.0.1:3301", "[::1]:0"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=30,
)


def _attempt(text: str | bytes) -> float:
    """Seconds of CPU it took; a pause of the garbage collector may be among them."""
    started = time.process_time()
    refused: ConfigFileError | None = None
    try:
        config = parse(text, path="config.yaml", environ={})
    except ConfigFileError as error:
        refused = error
    took = time.process_time() - started
    if refused is None:
        assert config.instances
    else:
        assert refused.problems and str(refused)
    return took


def loads_or_is_refused(text: str | bytes) -> None:
    if _attempt(text) > SECONDS_MAX:
        assert min(_attempt(text) for _ in range(3)) < SECONDS_MAX


@given(st.text(max_size=200) | st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text(text: str | bytes) -> None:
    loads_or_is_refused(text)


@given(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_tree_with_known_words(tree: dict[str, Any]) -> None:
    loads_or_is_refused(yaml.safe_dump(tree))


def _values(schema: Option | Section) -> st.SearchStrategy[Any]:
    """Values that often fit the schema, so that the checks behind it are reached too."""
    if isinstance(schema, Option):
        fitting = st.sampled_from(schema.kind.text.replace("|", " ").split() or ["x"])
        return (
            fitting | SCALARS | st.lists(st.fixed_dictionaries({"uri": st.just("127.0.0.1:1")}), max_size=2)
        )
    if schema.each is not None:
        return st.dictionaries(st.sampled_from(["a", "b", "c", "/"]), _values(schema.each), max_size=2)
    optional = {key: _values(inner) for key, inner in schema.keys.items()}
    return st.fixed_dictionaries({}, optional=optional) if optional else st.just({})


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A set of three instances with a few options, each in a random scope."""
    instances: dict[str, Any] = {
        f"i{n}": {"grpc": {"listen": [{"uri": f"127.0.0.1:{3300 + n}"}]}}
        for n in range(draw(st.integers(1, 3)))
    }
    replicaset: dict[str, Any] = {"instances": instances}
    group: dict[str, Any] = {"replicasets": {"r": replicaset}}
    root: dict[str, Any] = {"groups": {"g": group}}
    sections = sorted(key for key, schema in ROOT.keys.items() if key != "groups")
    for _ in range(draw(st.integers(1, 4))):
        scope = draw(st.sampled_from([root, group, replicaset, *instances.values()]))
        section = draw(st.sampled_from(sections))
        schema = ROOT.keys[section]
        if isinstance(schema, Section) and schema.keys:
            key = draw(st.sampled_from(sorted(schema.keys)))
            into = scope.setdefault(section, {})
            if isinstance(into, dict):
                into[key] = draw(_values(schema.keys[key]))
        else:
            scope[section] = draw(_values(schema))
    if draw(st.booleans()):
        replicaset["leader"] = draw(st.sampled_from(["i0", "i9", 5]))
    return root


@given(documents())
@settings(max_examples=250, deadline=None)
def test_documents_that_are_nearly_right(document: dict[str, Any]) -> None:
    loads_or_is_refused(yaml.safe_dump(document, allow_unicode=True))


@given(documents())
@settings(max_examples=150, deadline=None)
def test_what_loads_an_editor_does_not_mark(document: dict[str, Any]) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    try:
        parse(text, path="config.yaml", environ={})
    except ConfigFileError:
        return
    errors = list(VALIDATOR.iter_errors(plain(compose(text, source="x"))))
    assert errors == []


@given(st.sampled_from(["[", "{a: ", "- ", "&a [*a, ", "? "]), st.integers(1, 5000))
@settings(max_examples=40, deadline=None)
def test_deep_nesting(opening: str, depth: int) -> None:
    loads_or_is_refused(opening * depth)
