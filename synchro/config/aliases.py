"""Names that options of Tarantool had once, put in their new place before anything is checked. [C-32].
Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from synchro.config.located import Located
from synchro.config.schema import ConfigProblem
from synchro.config.view import merge, without

SCOPES: Final = ("groups", "replicasets", "instances")
"""Each a map from names to the next scope."""


class Renamed(NamedTuple):
    """What became of a document: old names stand for new ones, each is told."""

    document: Located
    warnings: tuple[str, ...] = ()
    problems: tuple[ConfigProblem, ...] = ()


class _Alias(NamedTuple):
    """new: dotted key; "": there is none, since it can only say what is so anyway. values: new keys ->
    values, from the old value. It raises `ValueError` with what is wrong."""

    new: str
    values: Callable[[Located], Mapping[str, object]]
    implied: Mapping[str, object] = MappingProxyType({})
    """Further values, for keys that neither this scope nor one around it has."""


def _same(key: str) -> _Alias:
    return _Alias(key, lambda item: {key: item.value})


def _sources(item: Located) -> Mapping[str, object]:
    """One address, several with commas between them, or a list."""
    if not isinstance(item.value, str):
        return {"replication.peers": item.value}
    return {"replication.peers": [Located(text.strip()) for text in item.value.split(",") if text.strip()]}


def _logger(item: Located) -> Mapping[str, object]:
    text = item.value
    if not isinstance(text, str):
        raise ValueError("expected the name of a file")  # noqa: TRY004 - of what a person wrote, as all here
    if text.startswith(("|", "pipe:", "syslog:")):
        raise ValueError(f"a log goes to a file or to standard error, not to {text!r}")
    return {"log.to": "file", "log.file": text.removeprefix("file:")}


def _fencing(item: Located) -> Mapping[str, object]:
    if not isinstance(item.value, bool):
        raise ValueError("expected true or false")  # noqa: TRY004 - of what a person wrote, as all here
    return {"replication.election_fencing_mode": "soft" if item.value else "off"}


_ONE_START: Final = (
    "it is decided for one start, by who has seen the damage: synchro start CONFIG:NAME --force-recovery"
)


def _force(item: Located) -> Mapping[str, object]:
    if item.value is not False:
        raise ValueError(_ONE_START)
    return {}


def why_no_variable(name: str, text: str) -> str:
    """Why an option of Tarantool that is refused in a file is so in the environment, too. name: behind
    `SYNCHRO_`; "": it is none of these, or asks for what is so anyway."""
    is_asked = text.strip().lower() not in ("", "false", "no", "off", "0")
    return _ONE_START if name == "FORCE_RECOVERY" and is_asked else ""


def _panic(item: Located) -> Mapping[str, object]:
    """To stop at damage is all that there is."""
    if item.value is not True:
        raise ValueError(f"asks for force_recovery: {_ONE_START}")
    return {}


_ALIASES: Final[Mapping[str, _Alias]] = {
    "replication_source": _Alias("replication.peers", _sources),
    "snap_dir": _same("snapshot.dir"),
    "logger": _Alias("log.file", _logger),
    "snapshot_period": _same("snapshot.by.interval"),
    "snapshot_count": _same("snapshot.count"),
    "force_recovery": _Alias("", _force),
    "panic_on_wal_error": _Alias("", _panic),
    "panic_on_snap_error": _Alias("", _panic),
    "replication_connect_quorum": _Alias(
        "replication.connect_quorum",
        lambda item: {"replication.connect_quorum": item.value},
        {"replication.bootstrap_strategy": "legacy"},
    ),
    "election_fencing_enabled": _Alias("replication.election_fencing_mode", _fencing),
}


def rename(document: Located, *, file: str) -> Renamed:
    """`document` with the old names of all scopes replaced."""
    warnings: dict[str, None] = {}
    problems: list[ConfigProblem] = []

    def told(scope: Located, path: str, around: tuple[Located, ...]) -> Located:
        if not isinstance(scope.value, dict):
            return scope
        made = scope
        for old, item in scope.value.items():
            alias = _ALIASES.get(old)
            if alias is None:
                continue
            instead = f", please use {alias.new} instead" if alias.new else ": it is so without it"
            warnings[f"Deprecated option {old}{instead}"] = None
            made = without(made, old)
            if item.value is None:  # `key:` without a value: as if it were not there
                continue
            where = f"{path}.{old}" if path else old
            try:
                for key, value in alias.values(item).items():
                    if _has(made, key):
                        raise ValueError(f"{key} is there too; only one of them counts")
                    if not _may_hold(made, key):
                        continue  # its section is no map, which the check will say
                    made = merge(made, _nested(key, Located(value, item.line, item.source, item.text)))
                for key, value in alias.implied.items():
                    if not any(_has(one, key) for one in (made, *around)):
                        made = merge(made, _nested(key, Located(value, item.line, item.source)))
            except ValueError as error:
                problems.append(ConfigProblem(item.source or file, item.line, where, str(error)))
        return Located(dict(below(made, path, (made, *around))), scope.line, scope.source)

    def below(scope: Located, path: str, around: tuple[Located, ...]) -> Iterator[tuple[str, Located]]:
        for key, item in scope.value.items():
            if key in SCOPES and isinstance(item.value, dict):
                place = f"{path}.{key}" if path else key
                named = {name: told(inner, f"{place}.{name}", around) for name, inner in item.value.items()}
                yield key, Located(named, item.line, item.source)
            else:
                yield key, item

    return Renamed(told(document, "", ()), tuple(warnings), tuple(problems))


def _has(scope: Located, key: str) -> bool:
    item = scope
    for part in key.split("."):
        if not isinstance(item.value, dict) or part not in item.value:
            return False
        item = item.value[part]
    return True


def _may_hold(scope: Located, key: str) -> bool:
    item = scope
    for part in key.split(".")[:-1]:
        if part not in item.value:
            return True
        item = item.value[part]
        if not isinstance(item.value, dict):
            return item.value is None
    return True


def _nested(key: str, item: Located) -> Located:
    for part in reversed(key.split(".")):
        item = Located({part: item}, item.line, item.source)
    return item
