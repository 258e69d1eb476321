"""The options of one instance, merged from the levels of its file, with their places [C-1], [C-2]."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from synchro.config import QuorumFormula
from synchro.config.located import Located
from synchro.config.schema import ConfigProblem
from synchro.ids import InstanceName

_TEMPLATE: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


def merge(outer: Located, inner: Located) -> Located:
    """Maps are merged recursively; scalars and lists are replaced [C-1]."""
    if isinstance(outer.value, dict) and isinstance(inner.value, dict):
        value = dict(outer.value)
        for key, item in inner.value.items():
            value[key] = merge(value[key], item) if key in value else item
        return Located(value, inner.line or outer.line, inner.source or outer.source)
    return inner


def without(item: Located, *keys: str) -> Located:
    assert isinstance(item.value, dict)
    return Located({k: v for k, v in item.value.items() if k not in keys}, item.line, item.source)


@dataclass(slots=True)
class View:
    """The options of one instance after merging; `get` takes a dotted path."""

    name: InstanceName
    group: str
    replicaset: str
    root: Located
    file: str
    problems: list[ConfigProblem]
    templates: Mapping[str, str] = field(default_factory=dict)

    def find(self, path: str) -> Located | None:
        item = self.root
        for key in path.split("."):
            if not isinstance(item.value, dict) or key not in item.value:
                return None
            item = item.value[key]
        return None if item.value is None else item

    def get(self, path: str, default: Any = None) -> Any:
        item = self.find(path)
        return default if item is None else self.expand(item.value, item, path)

    def text(self, path: str, default: str) -> str:
        item = self.find(path)
        place = item if item is not None else Located(default, 0, self.file)
        return str(self.expand(default if item is None else item.value, place, path))

    def expand(self, value: Any, place: Located, path: str) -> Any:
        """Templates [C-2]: only these three names, in strings only."""
        if not isinstance(value, str) or "{{" not in value:
            return value

        def one(match: re.Match[str]) -> str:
            if match[1] not in self.templates:
                self.report(
                    path, f"unknown template {match[0]!r}; there are: {', '.join(self.templates)}", place
                )
                return ""
            return self.templates[match[1]]

        return _TEMPLATE.sub(one, value)

    def report(self, path: str, message: str, place: Located | None = None) -> None:
        place = place if place is not None else self.find(path)
        line, source = (place.line, place.source) if place is not None else (0, self.file)
        self.problems.append(ConfigProblem(source or self.file, line, path, message))


def plain(value: Any) -> Any:
    """As YAML has it, without the places where it stood."""
    match value:
        case Located():
            return plain(value.value)
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case QuorumFormula():
            return value.text if value.number is None else value.number
        case StrEnum():
            return value.value
    return value


def beside(view: View, name: str) -> str:
    """As an absolute name; a relative one starts beside the configuration file."""
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(view.file)), name))


def is_anonymous(view: View) -> bool:
    return bool(view.get("replication.anon", False))


def members_of(view: View, views: Sequence[View]) -> list[View]:
    """Those of the set that are no anonymous followers [C-22]. view: what it says of itself counts, the
    environment included."""
    return [one for one in views if not is_anonymous(view if one.name == view.name else one)]
