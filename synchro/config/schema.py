"""Which keys the configuration has, where, and what their values may be. Pure: values in, problems out.

The tree below is the reference: `docs/configuration.md` lists the same keys, and a test compares them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from synchro.config import KIB, MIB, ElectionMode, FencingMode, Limits, QuorumFormula, WalMode
from synchro.config.located import Located
from synchro.errors import ConfigError
from synchro.ids import NAME_LENGTH_MAX, name_like, why_no_name

SECONDS_MIN: Final = 1e-9
SECONDS_MAX: Final = 3_153_600_000.0
"""100 years: Tarantool's "never"."""
SIZE_MAX: Final = 10**18


@dataclass(frozen=True, slots=True)
class Problem:
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


class Bad(Exception):
    """A value that a type refuses."""

    def __init__(self, message: str, nearest: str | None = None) -> None:
        super().__init__(message)
        self.nearest = nearest


def nearest(word: str, known: list[str]) -> str | None:
    """The known word that was perhaps meant."""
    return next(iter(difflib.get_close_matches(word[:NAME_LENGTH_MAX], known, n=1, cutoff=0.6)), None)


# --- types of values ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """parse: Located -> value, or raises `Bad`; later: read and checked, but nothing acts on it yet."""

    parse: Callable[[Located], Any]
    text: str
    """For the reference: what it is."""
    later: bool = False
    each: Section | None = None
    """Of a list of maps: what each of them is."""
    ends: tuple[float, float] | None = None
    """The smallest and the largest legal value of a number."""


def _kind(item: Located) -> str:
    match item.value:
        case bool():
            return f"the boolean {item.text or item.value}"
        case int() | float():
            return f"the number {item.text or item.value}"
        case str():
            return f"{item.value[:60]!r}"
        case dict():
            return "a map"
        case list():
            return "a list"
    return "nothing"


def boolean(*, later: bool = False) -> Value:
    def parse(item: Located) -> bool:
        if not isinstance(item.value, bool):
            raise Bad(f"expected true or false, got {_kind(item)}")
        return item.value

    return Value(parse, "true or false", later)


def integer(low: int, high: int, *, later: bool = False) -> Value:
    def parse(item: Located) -> int:
        if isinstance(item.value, bool) or not isinstance(item.value, int):
            raise Bad(f"expected an integer, got {_kind(item)}")
        if not low <= item.value <= high:
            raise Bad(f"expected {low} to {high}, got {item.value}")
        return item.value

    return Value(parse, f"integer {low}..{high}", later, ends=(low, high))


def _number_with_unit(item: Located, units: Mapping[str, float], what: str, example: str) -> float:
    if isinstance(item.value, int | float) and not isinstance(item.value, bool):
        return item.value
    if isinstance(item.value, str):
        found = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) *([A-Za-z]{1,3})?", item.value.strip())
        if found:
            unit = found[2] or ""
            scale = units.get(unit) or units.get(unit.lower())
            if scale is None:
                raise Bad(f"unknown unit {unit!r}; there are: {' '.join(u for u in units if u)}")
            return float(found[1]) * scale if "." in found[1] else int(found[1]) * scale
    raise Bad(f"expected {what} such as {example}, got {_kind(item)}")


_TIMES: Final = {"": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_BYTES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": KIB,
    "mib": MIB,
    "gib": KIB * MIB,
    "tib": MIB * MIB,
}


def seconds(
    *, zero: bool = False, message: str = "the value must be greater than 0", later: bool = False
) -> Value:
    """A number of seconds, or with a unit: 500ms, 10s, 5m, 1h [C-33]."""

    def parse(item: Located) -> float:
        value = round(float(_number_with_unit(item, _TIMES, "a duration", "500ms, 10s, 5m or 1h")), 9)
        if value < 0 or (value == 0 and not zero):
            raise Bad(f"{message}, got {item.text or item.value}")
        if value > SECONDS_MAX:
            raise Bad(f"longer than {SECONDS_MAX:.0f} s")
        return value

    return Value(parse, "seconds, or 500ms, 5m, 1h", later, ends=(0 if zero else SECONDS_MIN, SECONDS_MAX))


def size(low: int = 0, high: int = SIZE_MAX, *, later: bool = False) -> Value:
    """Bytes, or with a unit: 10MB is 10^7, 64KiB is 65536 [C-33]."""

    def parse(item: Located) -> int:
        value = _number_with_unit(item, _BYTES, "a size", "16777216, 10MB or 64KiB")
        if value != int(value) or not low <= value <= high:
            raise Bad(f"expected a whole number of bytes from {low} to {high}, got {item.text or item.value}")
        return int(value)

    return Value(parse, "bytes, or 10MB, 64KiB", later, ends=(low, high))


def one_of(*words: str, aliases: Mapping[str, str] | None = None, later: bool = False) -> Value:
    """A word of a closed set. YAML 1.1 reads a bare `off` as false: both are accepted [C-5]."""
    names = dict(aliases or {}) | {word: word for word in words}

    def parse(item: Located) -> str:
        if item.value is False and "off" in names:
            return "off"
        if isinstance(item.value, str) and item.value in names:
            return names[item.value]
        shown = ", ".join(f"'{word}'" for word in words)
        word = item.text or str(item.value)
        got = _kind(item) if not item.text else repr(item.text[:60])
        raise Bad(
            f"the value must be one of the following strings: {shown}; got {got}", nearest(word, list(names))
        )

    return Value(parse, " | ".join(words), later)


def string(pattern: str = r"[^\x00]{0,4096}", what: str = "a string", *, later: bool = False) -> Value:
    def parse(item: Located) -> str:
        if not isinstance(item.value, str):
            raise Bad(f"expected {what}, got {_kind(item)}")
        if not re.fullmatch(pattern, item.value, re.DOTALL):
            raise Bad(f"expected {what}, got {item.value[:60]!r}")
        return item.value

    return Value(parse, what, later)


def name() -> Value:
    """Refers to an instance. Keys of maps are words, whatever they look like; so is what refers to them."""

    def parse(item: Located) -> str:
        text = item.text if isinstance(item.value, bool | int | float) else item.value
        if not isinstance(text, str):
            raise Bad(f"expected the name of an instance, got {_kind(item)}")
        if "{{" not in text and (why := why_no_name(text)):
            raise Bad(why, name_like(text))
        return text

    return Value(parse, "name of an instance")


def formula(*, clamp: bool = False) -> Value:
    """A number, or a formula of N (and Q) [Q-30]."""

    def parse(item: Located) -> QuorumFormula:
        if isinstance(item.value, bool) or not isinstance(item.value, int | str):
            raise Bad(f"expected a number or a formula such as N / 2 + 1, got {_kind(item)}")
        if not clamp and re.search(r"\bQ\b", str(item.value)):
            raise Bad("Q is the synchronous quorum itself; a formula of it has only N")
        try:
            return QuorumFormula(item.value, clamp=clamp)
        except ConfigError as error:
            raise Bad(error.message) from error
        except (ValueError, RecursionError, MemoryError) as error:  # null bytes, too many parentheses
            raise Bad(f"{item.value!r} is not a formula: {error}") from error

    return Value(parse, "number or formula")


def list_of(inner: Value | Section, low: int, high: int, what: str, *, later: bool = False) -> Value:
    """A list; elements keep their places, so that a complaint names the right line."""

    def parse(item: Located) -> list[Located]:
        if not isinstance(item.value, list):
            raise Bad(f"expected a list of {what}, got {_kind(item)}")
        if not low <= len(item.value) <= high:
            raise Bad(f"expected {low} to {high} {what}, got {len(item.value)}")
        result = []
        for number, element in enumerate(item.value, 1):
            if isinstance(inner, Value):
                try:
                    result.append(Located(inner.parse(element), element.line, element.source, element.text))
                except Bad as error:
                    raise Bad(f"item {number}: {error}") from error
            else:
                checked = check(element, inner, file=element.source)
                if checked.problems:
                    first = checked.problems[0]
                    raise Bad(
                        f"item {number}: {first.key}: {first.message}".replace(": : ", ": "), first.nearest
                    )
                result.append(checked.item)
        return result

    return Value(parse, f"list of {what}", later, inner if isinstance(inner, Section) else None)


def _parse_anything(item: Located) -> Any:
    return item.value


ANYTHING: Final = Value(_parse_anything, "anything", later=True)
IGNORED: Final = Value(_parse_anything, "anything; means nothing here")
"""Options of Tarantool without a counterpart: files for it load unchanged, one warning names them."""


# --- sections -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """A map with known keys; or, with `each`, a map from names to maps or values."""

    keys: Mapping[str, Value | Section] = field(default_factory=dict)
    each: Value | Section | None = None
    required: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    """Keys that people try, and what to say."""


def _uuid() -> Value:
    return string(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "a UUID", later=True)


_URI = string(r"[^\x00-\x1f]{1,300}", "an address HOST:PORT")
_FILE = string(r"[^\x00]{1,4096}", "a file name", later=True)
_PEER = Section({"uri": _URI, "login": string(later=True), "password": string(later=True), "params": IGNORED})
_ENDPOINT_KEYS: Mapping[str, Value | Section] = {
    "listen": list_of(Section({"uri": _URI, "params": IGNORED}, required=("uri",)), 0, 1, "{uri: HOST:PORT}"),
    "advertise": Section({"peer": _PEER, "client": IGNORED, "sharding": IGNORED}),
}
_TLS = Section(
    {
        "cert": _FILE,
        "key": _FILE,
        "ca": _FILE,
        "client_auth": one_of("off", "request", "require", later=True),
    }
)
_PRIVILEGES = list_of(ANYTHING, 0, 1000, "privileges", later=True)
_USER = Section(
    {
        "password": string(r"[^\x00]{0,256}", "a string (quote a number: '123')"),
        "password_file": _FILE,
        "roles": list_of(string(), 0, 100, "role names"),
        "privileges": _PRIVILEGES,
    }
)
_ROLE = Section({"roles": list_of(string(), 0, 100, "role names"), "privileges": _PRIVILEGES})
_LEVELS = {
    "verbose": "debug",
    "warn": "warning",
    "crit": "critical",
    "fatal": "critical",
    "syserror": "error",
}
_RENAMED_LIMITS = {"waiting_calls_max": "max_waiting_calls", "batch_ops_max": "max_batch_ops"}


_MESSAGE_ROOM: Final = 15 * MIB
"""What surely fits a message of gRPC, a frame of a snapshot and a block of the log, headers included."""
_LIMIT_RANGES: Mapping[str, tuple[int, int]] = {
    "tuple_bytes_max": (4 * KIB, _MESSAGE_ROOM),  # rows of the system spaces must fit
    "txn_bytes_max": (4 * KIB, _MESSAGE_ROOM),
    "select_bytes_max": (1, _MESSAGE_ROOM),
    "batch_ops_max": (4, 10**6),  # a space comes with an index
    "txn_work_bytes_max": (1 * MIB, SIZE_MAX),  # a large tuple, changed once
    "txn_values_max": (1000, 10**9),
    "connections_max": (64, 10**6),  # 31 peers, twice while links come again
    "wal_block_bytes_max": (1, 32 * MIB),  # a larger block would not be read back
    "wal_lead_bytes": (1, 64 * MIB),  # zeros that are written at one go
    "wal_control_reserve_bytes": (4 * KIB, 64 * MIB),
    "wal_max_size": (1 * MIB, SIZE_MAX),
    "relay_frame_bytes_max": (1, _MESSAGE_ROOM),
}
"""Where 1 to as much as one likes would stop the instance, or the next one that must read what it wrote."""
_LIMITS_LATER: Final = frozenset({"message_bytes_max", "stream_in_bytes_max", "stream_out_bytes_max"})


def _limit(name: str) -> tuple[str, Value]:
    """Sizes take units, counts do not. None may be 0: that would stop the instance."""
    key = _RENAMED_LIMITS.get(name, name)
    later = name in _LIMITS_LATER
    if "bytes" in name or name.endswith("_size"):
        return key, size(*_LIMIT_RANGES.get(name, (1, SIZE_MAX)), later=later)
    return key, integer(*_LIMIT_RANGES.get(name, (1, 10**9)), later=later)


_INSTANCE_KEYS: Mapping[str, Value | Section] = {
    "credentials": Section(
        {"users": Section(each=_USER), "roles": Section(each=_ROLE)},
    ),
    "grpc": Section({**_ENDPOINT_KEYS, "tls": _TLS}),
    "iproto": Section({**_ENDPOINT_KEYS, "threads": IGNORED, "net_msg_max": IGNORED, "readahead": IGNORED}),
    "http": Section({"listen": string(r"[^\x00-\x1f]{1,300}", "an address HOST:PORT", later=True)}),
    "database": Section(
        {
            "dir": string(),
            "mode": one_of("rw", "ro"),
            "txn_synchro_timeout": seconds(),
            "txn_timeout": seconds(later=True),
            "txn_isolation": one_of("best-effort", "read-committed", "read-confirmed", later=True),
            "instance_uuid": _uuid(),
            "replicaset_uuid": _uuid(),
            "hot_standby": boolean(later=True),
            "use_mvcc_engine": IGNORED,
        },
        hints={"use_fsync": "use wal.mode: fsync"},
    ),
    "wal": Section(
        {
            "dir": string(),
            "mode": one_of(*WalMode),
            "max_size": size(1 * MIB),
            "queue_max_size": size(1),
            "dir_rescan_delay": IGNORED,
            "cleanup_delay": IGNORED,
            "retention_period": seconds(zero=True, later=True),
            "ext": IGNORED,
        }
    ),
    "memtx": Section(
        {
            "memory": size(1 * MIB),
            **dict.fromkeys(
                (
                    "allocator",
                    "max_tuple_size",
                    "min_tuple_size",
                    "slab_alloc_factor",
                    "slab_alloc_granularity",
                    "sort_threads",
                ),
                IGNORED,
            ),
        }
    ),
    "snapshot": Section(
        {
            "dir": string(),
            "count": integer(1, 10_000),
            "by": Section({"interval": seconds(zero=True), "wal_size": size(later=True)}),
            "snap_io_rate_limit": IGNORED,
        }
    ),
    "replication": Section(
        {
            "failover": one_of("off", "manual", "election", "supervised"),
            "election_mode": one_of(*ElectionMode),
            "election_timeout": seconds(message="the value must be a positive number"),
            "election_fencing_mode": one_of(*FencingMode),
            "timeout": seconds(),
            "reconnect_timeout": seconds(),
            "connect_timeout": seconds(),
            "sync_lag": seconds(later=True),
            "sync_timeout": seconds(zero=True, later=True),
            "synchro_quorum": formula(),
            "linearizable_quorum": formula(clamp=True),
            "synchro_timeout": seconds(message="the value must be greater than zero"),
            "synchro_queue_max_size": size(),
            "skip_conflict": boolean(),
            "bootstrap_strategy": one_of("auto", "config"),
            "peers": list_of(_URI, 0, 31, "addresses HOST:PORT"),
            "anon": boolean(later=True),
            "anon_ttl": seconds(later=True),
            "threads": IGNORED,
            "autoexpel": Section(
                {
                    "enabled": boolean(later=True),
                    "by": one_of("prefix", later=True),
                    "prefix": string(later=True),
                }
            ),
        },
        hints={
            "replication_source": "use peers",
            "synchro_timeout_s": "use synchro_timeout",
            "txn_synchro_timeout": "use database.txn_synchro_timeout",
        },
    ),
    "limits": Section(
        dict(_limit(item.name) for item in fields(Limits)),
        hints={"txn_synchro_timeout": "use database.txn_synchro_timeout"},
    ),
    "log": Section(
        {
            "format": one_of("json", "console", aliases={"plain": "console"}),
            "level": one_of("debug", "info", "warning", "error", "critical", aliases=_LEVELS),
            "to": IGNORED,
            "file": IGNORED,
            "pipe": IGNORED,
            "syslog": IGNORED,
            "nonblock": IGNORED,
            "modules": IGNORED,
        }
    ),
    "once": Section(each=list_of(ANYTHING, 0, 1000, "operations", later=True)),
    "compat": Section(each=ANYTHING),
    "metrics": Section(each=ANYTHING),
    **dict.fromkeys(
        (
            "app",
            "audit_log",
            "console",
            "feedback",
            "fiber",
            "flightrec",
            "labels",
            "lua",
            "process",
            "quiver",
            "roles",
            "roles_cfg",
            "security",
            "sharding",
            "sql",
            "stateboard",
            "vinyl",
        ),
        IGNORED,
    ),
}


def _without_failover(keys: Mapping[str, Value | Section]) -> dict[str, Value | Section]:
    """`replication.failover` is decided for a whole replica set: not at instance scope [C-20]."""
    replication = keys["replication"]
    assert isinstance(replication, Section)
    inner = {key: value for key, value in replication.keys.items() if key != "failover"}
    hints = {**replication.hints, "failover": "belongs to the replica set or above, not to one instance"}
    return {**keys, "replication": Section(inner, hints=hints)}


_SET_HINTS = {
    "leader": "belongs to a replica set: groups.G.replicasets.R.leader",
    "bootstrap_leader": "belongs to a replica set: groups.G.replicasets.R.bootstrap_leader",
    "isolated": "belongs to an instance",
    "instances": "belongs to a replica set: groups.G.replicasets.R.instances",
    "replicasets": "belongs to a group: groups.G.replicasets",
}

INSTANCE: Final = Section(
    {**_without_failover(_INSTANCE_KEYS), "isolated": boolean()},
    hints={key: text for key, text in _SET_HINTS.items() if key != "isolated"},
)
REPLICASET: Final = Section(
    {**_INSTANCE_KEYS, "leader": name(), "bootstrap_leader": name(), "instances": Section(each=INSTANCE)},
    hints=_SET_HINTS,
)
GROUP: Final = Section({**_INSTANCE_KEYS, "replicasets": Section(each=REPLICASET)}, hints=_SET_HINTS)
ROOT: Final = Section({**_INSTANCE_KEYS, "groups": Section(each=GROUP)}, hints=_SET_HINTS)


# --- the check ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Checked:
    """item: the same tree with parsed values; ignored, later: dotted keys for the warnings."""

    item: Located
    problems: list[Problem] = field(default_factory=list)
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
            Problem(item.source or file, item.line, path, f"expected a map, got {_kind(item)}")
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
            result.problems.append(Problem(inner.source or file, inner.line, path, why, name_like(key)))
        elif isinstance(schema, Section):
            # Inside a scope the short path starts again: replication.failover, wherever it stands.
            brief = "" if any(schema is scope for scope in (GROUP, REPLICASET, INSTANCE)) else brief
            values[key] = _check_section(inner, schema, where, brief, file, result)
        else:
            _check_value(inner, schema, where, brief, file, result, values, key)
    for key in section.required:
        if key not in item.value:
            result.problems.append(Problem(item.source or file, item.line, path, f"{key!r} is missing"))
    return Located(values, item.line, item.source)


def _check_value(
    item: Located,
    schema: Value,
    path: str,
    short: str,
    file: str,
    result: Checked,
    values: dict[str, Located],
    key: str,
) -> None:
    if schema is IGNORED:
        result.ignored.append(short)
        return
    if item.value is None:  # `key:` without a value: as if it were not there
        values[key] = item
        return
    try:
        value = schema.parse(item)
    except Bad as error:
        result.problems.append(Problem(item.source or file, item.line, path, str(error), error.nearest))
        return
    values[key] = Located(value, item.line, item.source, item.text)
    if schema.later:
        result.later.append(short)
    if schema.each is not None:
        for element in item.value:
            _check_section(element, schema.each, path, short, file, result)


def _unknown(item: Located, key: str, path: str, section: Section, file: str) -> Problem:
    place = item.source or file
    if key in section.hints:
        return Problem(place, item.line, path, f"does not belong here: {section.hints[key]}")
    return Problem(place, item.line, path, "unknown key", nearest(key, list(section.keys)))


# --- names in the environment -----------------------------------------------------------------------------


def leaves(section: Section, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Value]]:
    """(path, type) of all options of a scope that have a fixed name."""
    for key, schema in section.keys.items():
        if isinstance(schema, Section):
            yield from leaves(schema, (*prefix, key))
        else:
            yield (*prefix, key), schema


ENVIRONMENT_SCOPE: Final = Section(_INSTANCE_KEYS)
ENVIRONMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "_".join(path).upper(): path for path, schema in leaves(ENVIRONMENT_SCOPE) if schema is not IGNORED
}
"""REPLICATION_TIMEOUT -> (replication, timeout): what stands after `SYNCHRO_` [C-2]."""
