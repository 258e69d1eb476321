"""The table of all options: those declared at a field of `Settings` or `Limits`, and those without a field.

Read from it: the schema, names in the environment, `config show`, the JSON Schema of `config schema`, and the
tables of docs/configuration.md. Pure data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from synchro.config.once import OPERATION
from synchro.config.option import (
    ADDRESS,
    DECLARED,
    FILE,
    KIB,
    MIB,
    PASSWORD,
    Anything,
    Bytes,
    Effect,
    Flag,
    ListOf,
    NameOfInstance,
    Option,
    Scope,
    Seconds,
    Section,
    Text,
    Word,
)
from synchro.config.quorum_formula import QuorumFormula
from synchro.config.settings import ElectionMode, Limits, Settings

DIRECTORY: Final = "var/lib/{{ instance_name }}"
LOG_FILE: Final = "var/log/{{ instance_name }}.log"
LOGINS: Final = "peer_logins"
"""The field that several options make together."""
_ROLES: Final = Option("roles", ListOf(Text(), 0, 100, "role names"))
_PRIVILEGES: Final = Option(
    "privileges",
    ListOf(Anything(), 0, 1000, "privileges"),
    "{permissions: [...], universe: true, spaces: [...]}",
)
_USER: Final = Section(
    {
        "password": Option("password", PASSWORD),
        "password_file": Option("password_file", FILE, "a file whose first line is the password"),
        "roles": _ROLES,
        "privileges": _PRIVILEGES,
    },
    meaning="map: name to {password or password_file, roles, privileges}",
)
_ROLE: Final = Section(
    {"roles": _ROLES, "privileges": _PRIVILEGES}, meaning="map: name to {roles, privileges}"
)
_LISTEN: Final = Section(
    {
        "uri": Option("uri", ADDRESS, "HOST:PORT"),
        "params": Option("params", Anything(), effect=Effect.IGNORED),
    },
    required=("uri",),
)


# --- options without a field ----------------------------------------------------------------------------


def _endpoint(section: str) -> tuple[Option, ...]:
    """`iproto` stands in for `grpc` [C-4]."""
    peer = f"{section}.advertise.peer"
    return (
        Option(
            f"{section}.listen",
            ListOf(_LISTEN, 0, 1, "{uri: HOST:PORT}"),
            "where the instance listens; none: it does not",
        ),
        Option(f"{peer}.uri", ADDRESS, "where peers reach it, if not at `listen`"),
        Option(
            f"{peer}.login",
            Text(r"[^\x00:@]{1,64}", "name of a user"),
            "the user as whom peers log in to it: one with the role `replication`",
            is_live=True,
            field=LOGINS,
            default_text="none: as guest",
        ),
        Option(
            f"{peer}.password",
            PASSWORD,
            "of that user, if `credentials.users` does not say it",
            is_live=True,
            field=LOGINS,
        ),
        Option(
            f"{peer}.password_file",
            FILE,
            "file whose first line is the password; read at each login",
            is_live=True,
            field=LOGINS,
        ),
    )


_WITHOUT_FIELD: Final = (
    *_endpoint("grpc"),
    *_endpoint("iproto"),
    Option(
        "http.listen",
        ADDRESS,
        "metrics and health",
        fixed="metrics and health over HTTP are not in this release; health is a service of gRPC",
    ),
    Option("database.dir", Text(), "log and snapshots; relative to the file", default=DIRECTORY),
    Option(
        "database.mode",
        Word(("rw", "ro")),
        "who may write, only with `failover: off`",
        is_live=True,
        default_text="rw if the instance is alone, else ro",
    ),
    Option(
        "database.txn_isolation",
        Word(("best-effort", "read-committed", "read-confirmed")),
        "what a transaction sees of others: nothing that is not confirmed, unless a read asks for it",
        effect=Effect.KEPT,
    ),
    Option(
        "database.hot_standby",
        Flag(),
        "a second process waits for the directory",
        default=False,
        fixed="a directory has one process; another instance of the set takes over, not another process",
    ),
    Option("wal.dir", Text(), "where the log is", field="wal_dir", default_text="`database.dir`"),
    Option("wal.max_size", Bytes(1 * MIB), "a larger file is rotated", field="limits.wal_max_size"),
    Option(
        "wal.queue_max_size",
        Bytes(1),
        "bytes on their way to disk; beyond it client writes wait, from half of it on rows of peers do",
        is_live=True,
        field="limits.wal_queue_bytes_max",
    ),
    Option(
        "snapshot.dir",
        Text(),
        "where snapshots are; no two instances can share it",
        field="snapshot_dir",
        default_text="`database.dir`",
    ),
    Option(
        "replication.failover",
        Word(("off", "manual", "election", "supervised")),
        "who decides who may write: `database.mode`, `leader`, or Raft",
        is_live=True,
        scope=Scope.NOT_AT_INSTANCES,
        default="off",
    ),
    Option(
        "replication.election_mode",
        Word(tuple(ElectionMode)),
        "whether an instance may stand for election; only with `failover: election`",
        is_live=True,
        field="election_mode",
        default=ElectionMode.CANDIDATE,
    ),
    Option(
        "replication.peers",
        ListOf(ADDRESS, 0, 31, "addresses HOST:PORT"),
        "the sources, in the place of the addresses of all members",
        is_live=True,
    ),
    Option(
        "log.to",
        Word(("stderr", "file")),
        "where the log goes; SIGHUP opens a file anew under its name",
        default="stderr",
    ),
    Option("log.file", FILE, "which file, with `log.to: file`", default_text=f"{LOG_FILE}, beside the file"),
    Option(
        "isolated",
        Flag(),
        "cut this instance off: it does not listen, has no sources and is read-only",
        scope=Scope.INSTANCE,
        default=False,
    ),
    Option(
        "leader",
        NameOfInstance(),
        "the writable instance, with `failover: manual`",
        is_live=True,
        scope=Scope.REPLICASET,
    ),
    Option(
        "bootstrap_leader",
        NameOfInstance(),
        "who creates the set, with `bootstrap_strategy: config`",
        is_live=True,
        scope=Scope.REPLICASET,
        field="bootstrap_leader",
    ),
)

IGNORED: Final = (
    *(f"grpc.advertise.{name}" for name in ("client", "sharding")),
    *(f"iproto.advertise.{name}" for name in ("client", "sharding")),
    *(f"{section}.advertise.peer.params" for section in ("grpc", "iproto")),
    *(f"iproto.{name}" for name in ("threads", "net_msg_max", "readahead")),
    "database.use_mvcc_engine",
    *(f"wal.{name}" for name in ("dir_rescan_delay", "ext")),
    *(f"memtx.{name}" for name in ("allocator", "max_tuple_size", "min_tuple_size", "slab_alloc_factor")),
    *(f"memtx.{name}" for name in ("slab_alloc_granularity", "sort_threads")),
    "snapshot.snap_io_rate_limit",
    "replication.threads",
    *(f"log.{name}" for name in ("pipe", "syslog", "nonblock", "modules")),
    *(f"config.{name}" for name in ("reload", "context")),
    *("app", "audit_log", "console", "feedback", "fiber", "flightrec", "labels", "lua", "process", "quiver"),
    *("metrics", "roles", "roles_cfg", "security", "sharding", "sql", "stateboard", "vinyl"),
)
"""Options of Tarantool without a counterpart: files for it load unchanged, one warning names them."""

MAPS: Final[Mapping[str, Section]] = {
    "credentials.users": Section(each=_USER, meaning="users: passwords, roles, privileges"),
    "credentials.roles": Section(each=_ROLE, meaning="roles"),
    "once": Section(
        each=Option("once", ListOf(OPERATION, 1, 1000, "operations, as create_space: {name: test}")),
        meaning="what is done once in the life of the set: key to operations",
    ),
    "compat": Section(each=Option("compat", Word(("old", "new", "default"))), meaning="old or new behaviour"),
}
"""Maps from names that a person chooses."""

_STORAGE: Final = "a central storage of configurations is not read; all of it stands in this file"
HINTS: Final[Mapping[str, Mapping[str, str]]] = {
    "config": {"etcd": _STORAGE, "storage": _STORAGE},
    "database": {"use_fsync": "use wal.mode: fsync"},
    "replication": {
        "replication_source": "use peers",
        "synchro_timeout_s": "use synchro_timeout",
        "txn_synchro_timeout": "use database.txn_synchro_timeout",
    },
    "limits": {"txn_synchro_timeout": "use database.txn_synchro_timeout"},
}
"""Section -> keys that people try there, and what to say."""


# --- the table ------------------------------------------------------------------------------------------

SECTIONS: Final = (
    *("grpc", "iproto", "http", "database", "wal", "memtx", "snapshot", "replication", "limits", "log"),
    *("credentials", "once", "compat", "metrics", "isolated", "leader", "bootstrap_leader"),
)
"""The order in which they are shown."""


def _declared(cls: type[Any], prefix: str = "") -> Iterator[Option]:
    for each in fields(cls):
        if DECLARED in each.metadata:
            yield each.metadata[DECLARED]._replace(field=prefix + each.name)


def _with_default(option: Option) -> Option:
    """One that sets a field has the default of that field, unless it says otherwise."""
    if not option.field.startswith("limits.") or option.default is not None:
        return option
    return option._replace(default=getattr(Limits(), option.field.removeprefix("limits.")))


def _order(option: Option) -> int:
    return SECTIONS.index(option.key.partition(".")[0])


_ALL: Final = (*_WITHOUT_FIELD, *_declared(Settings), *_declared(Limits, "limits."))
TABLE: Final[tuple[Option, ...]] = tuple(sorted(map(_with_default, _ALL), key=_order))
BY_KEY: Final[Mapping[str, Option]] = {option.key: option for option in TABLE}
assert len(BY_KEY) == len(TABLE)


def default_text(option: Option) -> str:
    """What counts without it, for people; "" if there is nothing."""
    value = option.default
    if option.default_text or value is None:
        return option.default_text
    match value:
        case bool():
            return "true" if value else "false"
        case QuorumFormula():
            return value.text
        case int() | float() if isinstance(option.kind, Seconds):
            return f"{value / 3600:g}h" if value and value % 3600 == 0 else f"{value:g}s"
        case int() if isinstance(option.kind, Bytes):
            return _size_text(value)
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
    return str(value)


def _size_text(value: int) -> str:
    for size, unit in ((MIB, "MiB"), (KIB, "KiB")):
        if value and value % size == 0:
            return f"{value // size}{unit}"
    return str(value)
