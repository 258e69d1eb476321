"""Which keys may stand where in the file, as a tree, and the check of a document against it. Pure.

The tree is made from the table in `options`: four scopes with the same options but for a few [C-1], [C-20].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from synchro.config.located import Located
from synchro.config.option import Anything, Effect, ListOf, Option, Scope, Section
from synchro.config.options import HINTS, IGNORED, MAPS, TABLE
from synchro.config.values import Bad, described, elements, nearest, parse
from synchro.ids import name_like, why_no_name

PARAMS: Final = "params"
"""Of an address in a file for Tarantool. Ignored as all that has no counterpart, but kept: one that asks for
TLS must not be served without it."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing to mend. line: 0 = unknown; key: dotted path; nearest: what was perhaps meant."""

    file: str
    line: int
    key: str
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        hint = f" (did you mean {self.nearest!r}?)" if self.nearest else ""
        return f"{place}: {self.key}: {self.message}{hint}" if self.key else f"{place}: {self.message}{hint}"


# --- the tree -------------------------------------------------------------------------------------------

Tree = Mapping[str, Option | Section]


def _tree(rows: Iterable[tuple[str, Option | Section]], path: str = "") -> dict[str, Option | Section]:
    """Rows with dotted keys as nested sections."""
    found: dict[str, Option | Section] = {}
    below: dict[str, list[tuple[str, Option | Section]]] = {}
    for key, row in rows:
        first, dot, rest = key.partition(".")
        if dot:
            below.setdefault(first, []).append((rest, row))
            found.setdefault(first, Section())  # its place in the order
        else:
            found[first] = row
    for first, inner in below.items():
        here = f"{path}.{first}" if path else first
        found[first] = Section(_tree(inner, here), hints=HINTS.get(here, {}))
    return found


def _rows(*scopes: Scope) -> Iterator[tuple[str, Option | Section]]:
    yield from ((option.key, option) for option in TABLE if option.scope in scopes)
    yield from MAPS.items()
    yield from ((key, Option(key, Anything(), effect=Effect.IGNORED)) for key in IGNORED)


def _hinted(tree: dict[str, Option | Section], section: str, hints: Mapping[str, str]) -> Tree:
    inner = tree[section]
    assert isinstance(inner, Section)
    return {**tree, section: Section(inner.keys, hints={**inner.hints, **hints})}


_SET_HINTS = {
    "leader": "belongs to a replica set: groups.G.replicasets.R.leader",
    "bootstrap_leader": "belongs to a replica set: groups.G.replicasets.R.bootstrap_leader",
    "isolated": "belongs to an instance",
    "instances": "belongs to a replica set: groups.G.replicasets.R.instances",
    "replicasets": "belongs to a group: groups.G.replicasets",
}
_OUTER: Final = _tree(_rows(Scope.ANYWHERE, Scope.NOT_AT_INSTANCES))
INSTANCE: Final = Section(
    _hinted(
        _tree(_rows(Scope.ANYWHERE, Scope.INSTANCE)),
        "replication",
        {"failover": "belongs to the replica set or above, not to one instance"},
    ),
    hints={key: text for key, text in _SET_HINTS.items() if key != "isolated"},
)
REPLICASET: Final = Section(
    {
        **_tree(_rows(Scope.ANYWHERE, Scope.NOT_AT_INSTANCES, Scope.REPLICASET)),
        "instances": Section(each=INSTANCE),
    },
    hints=_SET_HINTS,
)
GROUP: Final = Section({**_OUTER, "replicasets": Section(each=REPLICASET)}, hints=_SET_HINTS)
ROOT: Final = Section({**_OUTER, "groups": Section(each=GROUP)}, hints=_SET_HINTS)


# --- the check ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Checked:
    """item: the same tree with parsed values; ignored, later: dotted keys for the warnings."""

    item: Located
    problems: list[ConfigProblem] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)


def check(item: Located, section: Section, *, file: str) -> Checked:
    """Compare a tree with the schema. Goes on after a problem; the tree is usable only if there is none."""
    result = Checked(item)
    result.item = _check_section(item, section, "", "", file, result)
    return result


def _check_section(
    item: Located, section: Section, path: str, short: str, file: str, result: Checked
) -> Located:
    """short: the path without the names of groups, sets and instances, for the warnings."""
    if item.value is None:
        return Located({}, item.line, item.source)
    if not isinstance(item.value, dict):
        result.problems.append(
            ConfigProblem(item.source or file, item.line, path, f"expected a map, got {described(item)}")
        )
        return Located({}, item.line, item.source)
    values: dict[str, Located] = {}
    for key, inner in item.value.items():
        where = f"{path}.{key}" if path else key
        brief = f"{short}.{key}" if short else key
        schema = section.each if section.each is not None else section.keys.get(key)
        if schema is None:
            result.problems.append(_unknown(inner, key, where, section, file))
        elif section.each is not None and (why := why_no_name(key)):
            result.problems.append(ConfigProblem(inner.source or file, inner.line, path, why, name_like(key)))
        elif isinstance(schema, Section):
            # Inside a scope the short path starts again: replication.failover, wherever it stands.
            brief = "" if any(schema is scope for scope in (GROUP, REPLICASET, INSTANCE)) else brief
            values[key] = _check_section(inner, schema, where, brief, file, result)
        else:
            _check_value(inner, schema, where, brief, file, result, values, key)
    for key in section.required:
        if key not in item.value:
            result.problems.append(ConfigProblem(item.source or file, item.line, path, f"{key!r} is missing"))
    return Located(values, item.line, item.source)


def _check_value(
    item: Located,
    option: Option,
    path: str,
    short: str,
    file: str,
    result: Checked,
    values: dict[str, Located],
    key: str,
) -> None:
    if option.effect is Effect.IGNORED:
        result.ignored.append(short)
        if key == PARAMS:
            values[key] = item
        return
    if item.value is None:  # `key:` without a value: as if it were not there
        values[key] = item
        return
    try:
        value = _list(option.kind, item) if isinstance(option.kind, ListOf) else parse(option.kind, item)
    except Bad as error:
        result.problems.append(ConfigProblem(item.source or file, item.line, path, str(error), error.nearest))
        return
    if option.fixed and value != option.default:
        problem = f"{option.fixed}; got {described(item)}"
        result.problems.append(ConfigProblem(item.source or file, item.line, path, problem))
        return
    values[key] = Located(value, item.line, item.source, item.text)
    if option.effect is Effect.LATER:
        result.later.append(short)
    if isinstance(option.kind, ListOf) and isinstance(option.kind.inner, Section):
        for element in item.value:
            _check_section(element, option.kind.inner, path, short, file, result)


def _list(kind: ListOf, item: Located) -> list[Located]:
    """Elements keep their places, so that a complaint names the right line."""
    result = []
    for number, element in enumerate(elements(kind, item), 1):
        if isinstance(kind.inner, Section):
            checked = check(element, kind.inner, file=element.source)
            if checked.problems:
                first = checked.problems[0]
                raise Bad(f"item {number}: {first.key}: {first.message}".replace(": : ", ": "), first.nearest)
            result.append(checked.item)
            continue
        try:
            value = parse(kind.inner, element)
        except Bad as error:
            raise Bad(f"item {number}: {error}") from error
        result.append(Located(value, element.line, element.source, element.text))
    return result


def _unknown(item: Located, key: str, path: str, section: Section, file: str) -> ConfigProblem:
    place = item.source or file
    if key in section.hints:
        return ConfigProblem(place, item.line, path, f"does not belong here: {section.hints[key]}")
    return ConfigProblem(place, item.line, path, "unknown key", nearest(key, list(section.keys)))


# --- names in the environment -----------------------------------------------------------------------------


def leaves(section: Section, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Option]]:
    """(path, option) of all options of a scope that have a fixed name."""
    for key, row in section.keys.items():
        if isinstance(row, Section):
            yield from leaves(row, (*prefix, key))
        else:
            yield (*prefix, key), row


ENVIRONMENT_SCOPE: Final = Section(_OUTER)
ENVIRONMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "_".join(path).upper(): path
    for path, option in leaves(ENVIRONMENT_SCOPE)
    if option.effect is not Effect.IGNORED
}
"""REPLICATION_TIMEOUT -> (replication, timeout): what stands after `SYNCHRO_` [C-2]."""

COMMAND_SCOPE: Final = Section({**_OUTER, "leader": REPLICASET.keys["leader"]})
"""What `config set` may say to an instance. `leader` is what its set says; one instance hears it before the
others when the writes go from one to another [A-61]."""
SETTABLE: Final = frozenset(
    ".".join(path) for path, option in leaves(COMMAND_SCOPE) if option.effect is not Effect.IGNORED
)
