"""YAML to plain values that remember their line. Safe subset: no tags that construct objects.

Limits, because a file may be generated or hostile: depth, number of nodes after aliases are followed
(an alias of an alias of an alias grows exponentially), digits of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import yaml

DEPTH_MAX: Final = 40
"""Levels; the deepest option lies at 12. Also keeps the parser far from Python's own limit."""
NODES_MAX: Final = 50_000
"""Values after aliases are followed: some hundred for each of 31 instances."""
DIGITS_MAX: Final = 30
_MERGE: Final = "tag:yaml.org,2002:merge"


class NotYaml(Exception):
    """line: from 1 up; 0 = unknown."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Located:
    """A value and where it stands.

    value: None, bool, int, float, str, list[Located] or dict[str, Located]; line: of the key for a value
    in a map; source: file or environment variable; text: a scalar as it was written.
    """

    value: Any
    line: int = 0
    source: str = ""
    text: str = ""


class _Loader(yaml.SafeLoader):
    """Stops at the depth limit while parsing, before recursion gets deep."""

    depth = 0

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        # The scanner runs ahead of the composer here, and its work grows with the square of the depth.
        if self.flow_level > DEPTH_MAX:
            raise NotYaml(f"nested more than {DEPTH_MAX} levels deep", self.get_mark().line + 1)
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise NotYaml(f"nested more than {DEPTH_MAX} levels deep", self.get_mark().line + 1)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def compose(text: bytes | str, *, source: str) -> Located:
    """The single document of `text`. Raises `NotYaml`."""
    return _Converter(source).document(text)


def compose_value(text: str, *, source: str) -> Located:
    """A value from an environment variable: `5s`, `[a, b]`, `N / 2 + 1`. An empty one is an empty string."""
    if not text.strip():
        return Located("", 0, source, "")
    found = _Converter(source).document(text)
    return Located(found.value, 0, source, found.text)


class _Converter:
    def __init__(self, source: str) -> None:
        self.source = source
        self.nodes = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def document(self, text: bytes | str) -> Located:
        try:
            # The reader checks and decodes at construction, so that is inside the guard too.
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = ", ".join(part for part in (error.context, error.problem) if part)
            raise NotYaml(message, mark.line + 1 if mark else 0) from error
        except (yaml.YAMLError, UnicodeError, ValueError) as error:
            raise NotYaml(str(error).partition("\n")[0], 0) from error
        if node is None:
            return Located({}, 1, self.source)
        return self._convert(node, node.start_mark.line + 1, 0)

    def _convert(self, node: yaml.Node, line: int, depth: int) -> Located:
        self.nodes += 1
        if self.nodes > NODES_MAX:
            raise NotYaml(f"more than {NODES_MAX} values after aliases are followed", line)
        if depth > DEPTH_MAX:
            raise NotYaml("an alias that contains itself", line)
        if isinstance(node, yaml.MappingNode):
            return Located(self._mapping(node, line, depth), line, self.source)
        if isinstance(node, yaml.SequenceNode):
            items = [self._convert(item, item.start_mark.line + 1, depth + 1) for item in node.value]
            return Located(items, line, self.source)
        assert isinstance(node, yaml.ScalarNode)
        return Located(self._scalar(node, line), line, self.source, node.value)

    def _mapping(self, node: yaml.MappingNode, line: int, depth: int) -> dict[str, Located]:
        merged: dict[str, Located] = {}
        own: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                merged |= self._merged(value_node, key_line, depth)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise NotYaml("a key must be a plain word", key_line)
            key = str(key_node.value)
            if key in own:
                raise NotYaml(f"key {key!r} is already given in line {own[key].line}", key_line)
            own[key] = self._convert(value_node, key_line, depth + 1)
        return merged | own

    def _merged(self, node: yaml.Node, line: int, depth: int) -> dict[str, Located]:
        """`<<: *alias` or a list of them, the first one winning."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Located] = {}
        for part in parts:
            found = self._convert(part, line, depth + 1).value
            if not isinstance(found, dict):
                raise NotYaml("<< takes a map or a list of maps", line)
            result = found | result
        return result

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        text = str(node.value)
        kind = node.tag.rpartition(":")[2]
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return self.constructor.construct_yaml_bool(node)
                case "int":
                    if len(text) > DIGITS_MAX:
                        raise NotYaml(f"a number with more than {DIGITS_MAX} digits", line)
                    return self.constructor.construct_yaml_int(node)
                case "float":
                    value = self.constructor.construct_yaml_float(node)
                    return value if math.isfinite(value) else text
                case "str" | "timestamp" | "value":
                    return text
        except (ValueError, KeyError, OverflowError) as error:
            raise NotYaml(f"not a value of type {kind}: {text[:40]!r}", line) from error
        raise NotYaml(f"the tag {node.tag!r} is not allowed", line)
