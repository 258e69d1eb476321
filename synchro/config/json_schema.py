"""A JSON Schema (draft 7) of the configuration, for editors: made from the same tree as the check.

It knows keys, kinds, ends and names; what several options must agree on is known to `config check` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, assert_never

from synchro.config.option import (
    Anything,
    Bytes,
    Count,
    Effect,
    Flag,
    Formula,
    Kind,
    ListOf,
    NameOfInstance,
    Option,
    Seconds,
    Section,
    Text,
    Word,
)
from synchro.config.options import default_text
from synchro.config.schema import GROUP, INSTANCE, REPLICASET, ROOT
from synchro.config.values import NUMBER_WITH_UNIT, SIZES, TIMES
from synchro.ids import INSTANCE_ID_MAX, NAME_PATTERN

Node = dict[str, Any]

_SCOPES: Final = ((GROUP, "group"), (REPLICASET, "replicaset"), (INSTANCE, "instance"))
_NULL: Final[Node] = {"type": "null"}
"""`key:` without a value is as if it were not there."""


def json_schema() -> Node:
    """The document as a tree of plain values."""
    definitions: dict[str, Node] = {}
    for section, name in _SCOPES:
        definitions[name] = _scope(section, name, definitions)
    root = _scope(ROOT, "", definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Configuration of a synchro replica set",
        **root,
        "required": ["groups"],
        "definitions": definitions,
    }


def _scope(section: Section, name: str, definitions: dict[str, Node]) -> Node:
    """One of the four; what stands in all of them alike is written down once."""
    properties = {}
    for key, row in section.keys.items():
        if key in ("groups", "replicasets", "instances"):
            assert isinstance(row, Section)
            inner = next(inner for scope, inner in _SCOPES if scope is row.each)
            properties[key] = _names({"$ref": f"#/definitions/{inner}"})
            continue
        node = _row(row)
        shared = key if definitions.get(key, node) == node else f"{key} of {name}"
        definitions[shared] = node
        properties[key] = {"$ref": f"#/definitions/{shared.replace(' ', '%20')}"}
    if "instances" in properties:
        properties["instances"]["maxProperties"] = INSTANCE_ID_MAX
    return _map(properties)


def _row(row: Option | Section) -> Node:
    if isinstance(row, Option):
        return _option(row)
    if row.each is not None:
        node = _names(_row(row.each))
    else:
        node = _map({key: _row(inner) for key, inner in row.keys.items()}, row.required)
    return {"description": row.meaning, **node} if row.meaning else node


def _map(properties: Mapping[str, Node], required: tuple[str, ...] = ()) -> Node:
    node: Node = {"type": ["object", "null"], "properties": dict(properties), "additionalProperties": False}
    return {**node, "required": list(required)} if required else node


def _names(each: Node) -> Node:
    """A map from names that a person chooses."""
    return {
        "type": ["object", "null"],
        "patternProperties": {f"^{NAME_PATTERN}$": each},
        "additionalProperties": False,
    }


def _option(option: Option) -> Node:
    if option.effect is Effect.IGNORED:
        return {"description": "An option of Tarantool; it means nothing here and is ignored."}
    sentences = [option.meaning, option.kind.text]
    if shown := default_text(option):
        sentences.append(f"default: {shown}")
    if option.effect is Effect.LATER:
        sentences.append("no effect in this release")
    if option.fixed:
        sentences.append(option.fixed)
    return {"description": "; ".join(filter(None, sentences)), **_kind(option.kind)}


def _kind(kind: Kind) -> Node:
    match kind:
        case Flag():
            return {"type": ["boolean", "null"]}
        case Count():
            return {"type": ["integer", "null"], "minimum": kind.low, "maximum": kind.high}
        case Seconds():
            low = {"minimum": 0} if kind.zero else {"exclusiveMinimum": 0}
            return _measured({"type": "number", **low, "maximum": kind.high}, TIMES)
        case Bytes():
            return _measured({"type": "integer", "minimum": kind.low, "maximum": kind.high}, SIZES)
        case Word():
            words: list[Any] = [str(word) for word in (*kind.words, *kind.aliases)]
            return {"enum": [*words, *([False] if "off" in words else []), None]}
        case Text():
            return {"type": ["string", "null"], "pattern": f"^(?:{kind.pattern})$"}
        case Formula():
            return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": INSTANCE_ID_MAX}, _STRING, _NULL]}
        case NameOfInstance():  # a name may look like a number to YAML
            return {"type": ["string", "number", "boolean", "null"]}
        case ListOf():
            inner = _row(kind.inner) if isinstance(kind.inner, Section) else _kind(kind.inner)
            return {
                "type": ["array", "null"],
                "items": inner,
                "minItems": kind.low,
                "maxItems": kind.high,
            }
        case Anything():
            return {}
    assert_never(kind)


_STRING: Final[Node] = {"type": "string", "minLength": 1}


def _measured(number: Node, units: Mapping[str, float]) -> Node:
    """A number, or a string with a unit in whatever case."""
    letters = ("".join(f"[{char.lower()}{char.upper()}]" for char in unit) for unit in units if unit)
    pattern = NUMBER_WITH_UNIT.replace("[A-Za-z]{1,3}", "|".join(letters))
    return {"anyOf": [number, {"type": "string", "pattern": f"^ *{pattern} *$"}, _NULL]}
