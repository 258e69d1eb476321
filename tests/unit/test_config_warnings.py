"""Nothing that has no effect is accepted in silence, nor what gives up a guarantee; and who may
lead a new set."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

import synchro
from synchro.config import Limits, Settings
from synchro.config.file import ClusterConfig, ConfigFileError, parse
from synchro.config.option import Effect
from synchro.config.schema import ENVIRONMENT_SCOPE, leaves
from synchro.process.ready import LOG_FILE, READY_FILE

NAMES = ("i1", "i2", "i3")


def document(size: int = 3, *, in_set: dict[str, object] | None = None, **top: Any) -> dict[str, Any]:
    members = {
        name: {"grpc": {"listen": [{"uri": f"127.0.0.1:330{number}"}]}}
        for number, name in enumerate(NAMES[:size], 1)
    }
    return top | {"groups": {"g": {"replicasets": {"r": {**(in_set or {}), "instances": members}}}}}


def read(tree: dict[str, object]) -> ClusterConfig:
    return parse(yaml.safe_dump(tree), path="/etc/synchro/config.yaml", environ={})


def warnings(**top: object) -> str:
    return "\n".join(read(document(**top)).warnings)  # type: ignore[arg-type]


def nested(path: tuple[str, ...], value: object) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    assert isinstance(value, dict)
    return value


# --- options without effect -----------------------------------------------------------------------------

SAMPLES: dict[str, object] = {
    "grpc.listen": [{"uri": "127.0.0.1:4401"}],
    "grpc.advertise.peer.uri": "127.0.0.1:4402",
    "database.mode": "rw",
    "wal.mode": "write",
    "wal.max_size": "64MiB",
    "memtx.memory": "64MiB",
    "replication.election_mode": "manual",
    "replication.election_fencing_mode": "strict",
    "replication.failover": "election",
    "replication.bootstrap_strategy": "config",
    "replication.skip_conflict": True,
    "replication.autorejoin": False,
    "replication.peers": ["127.0.0.1:3301", "127.0.0.1:3302"],
    "replication.synchro_quorum": 2,
    "replication.linearizable_quorum": 3,
    "log.format": "console",
    "log.to": "file",
    "log.level": "debug",
    "limits.txn_bytes_max": "9MiB",
    "limits.connections_max": 100,
    "limits.connections_bytes_max": "64MiB",
    "limits.open_transactions_bytes_max": "32MiB",
    "limits.txn_values_max": 2000,
    "limits.tombstones_max": 2000,
    "limits.txn_work_bytes_max": "2MiB",
    "limits.wal_control_reserve_bytes": "2MiB",
    "limits.wal_max_size": "32MiB",
    "limits.tuple_bytes_max": "2MiB",
    "database.replicaset_uuid": "11111111-1111-4111-8111-111111111111",
    "replication.autoexpel.by": "prefix",
    "grpc.tls.client_auth": "request",
    **{f"grpc.tls.{name}": f"other.{name}" for name in ("cert", "key", "ca")},
    **{f"{section}.advertise.peer.login": "u" for section in ("grpc", "iproto")},
    "iproto.listen": [{"uri": "127.0.0.1:4403"}],
    "iproto.advertise.peer.uri": "127.0.0.1:4404",
}
WITH: dict[str, dict[str, dict[str, object]]] = {
    "replication.election_mode": {"replication": {"failover": "election"}},
    "replication.election_fencing_mode": {"replication": {"failover": "election"}},
    **{
        f"{section}.advertise.peer.login": {"credentials": {"users": {"u": {"password": "x"}}}}
        for section in ("grpc", "iproto")
    },
}
GUESSES: tuple[object, ...] = (7, "7", True, [], {})


TLS: dict[str, object] = {"cert": "a.pem", "key": "a.key", "ca": "ca.pem"}


def _loaded(path: tuple[str, ...], value: object) -> ClusterConfig | None:
    key = ".".join(path)
    if path[:2] == ("grpc", "tls"):  # it is whole, and the same for all
        return read(document(grpc={"tls": {**TLS, path[2]: value}}))
    if key == "replication.anon":  # not all of a set are
        tree = document()
        tree["groups"]["g"]["replicasets"]["r"]["instances"]["i2"]["replication"] = {"anon": value}
        try:
            return read(tree)
        except ConfigFileError:
            return None
    options = nested(path, value)
    if key == "replication.autoexpel.enabled":
        options["replication"]["autoexpel"] |= {"by": "prefix", "prefix": "i"}
    for section, inner in WITH.get(key, {}).items():
        options[section] = {**inner, **options.get(section, {})}
    tree = document(
        in_set={"bootstrap_leader": "i1"} if key == "replication.bootstrap_strategy" else None, **options
    )
    if path[0] in ("grpc", "iproto"):
        own = tree["groups"]["g"]["replicasets"]["r"]["instances"]["i2"]
        own[path[0]] = {**own.get(path[0], {}), **tree.pop(path[0])}
    if key == "replication.bootstrap_strategy":
        tree["database"] = {"mode": "rw"}
    try:
        return read(tree)
    except ConfigFileError:
        return None


def _baseline(path: tuple[str, ...]) -> ClusterConfig:
    key = ".".join(path)
    extra = dict(WITH.get(key, {}))
    if path[:2] == ("grpc", "tls"):
        extra["grpc"] = {"tls": TLS}
    if key == "replication.bootstrap_strategy":
        extra["database"] = {"mode": "rw"}
    return read(document(**extra))  # type: ignore[arg-type]


FREE = [
    path
    for path, option in leaves(ENVIRONMENT_SCOPE)
    if not option.fixed and option.effect is not Effect.KEPT and option.key != "database.instance_uuid"
]
"""What may have several values; the UUID of an instance is said at it alone."""


@pytest.mark.parametrize("path", FREE, ids=".".join)
def test_each_option_changes_something_or_is_named_in_a_warning(path: tuple[str, ...]) -> None:
    key = ".".join(path)
    values = (SAMPLES[key],) if key in SAMPLES else GUESSES
    config = next((found for value in values if (found := _loaded(path, value)) is not None), None)
    assert config is not None, "none of the values is accepted: add one to SAMPLES"
    before = [one.settings for one in _baseline(path).instances.values()]
    has_effect = [one.settings for one in config.instances.values()] != before
    assert has_effect or key in " ".join(config.warnings) or path[0] in " ".join(config.warnings)


def test_each_setting_and_each_limit_is_read_by_something() -> None:
    """What the schema takes for effective is a field of `Settings`: somebody must look at it."""
    folder = Path(synchro.__file__).parent
    code = "\n".join(
        file.read_text(encoding="utf-8")
        for file in folder.rglob("*.py")
        if not file.name.startswith("config_") and "generated" not in file.parts
    )
    unread = {
        field.name for kind in (Settings, Limits) for field in fields(kind) if f".{field.name}" not in code
    }
    assert unread == set()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"iproto": {"advertise": {"peer": {"password": "x"}}}},
            "iproto.advertise.peer.password has no effect without iproto.advertise.peer.login",
        ),
        (
            {
                "credentials": {
                    "roles": {"r": {"privileges": [{"permissions": ["execute"], "lua_call": ["f"]}]}}
                }
            },
            "privileges on lua_call mean nothing here",
        ),
        ({"iproto": {"advertise": {"peer": {"params": {"a": 1}}}}}, "peer.params"),
        ({"iproto": {"listen": [{"uri": "127.0.0.1:1", "params": {"a": 1}}]}}, "iproto.listen.params"),
        ({"iproto": {"listen": [{"uri": "127.0.0.1:1"}]}}, "iproto.listen has no effect beside grpc.listen"),
        (
            {"database": {"dir": "a"}, "wal": {"dir": "b"}, "snapshot": {"dir": "c"}},
            "database.dir has no effect",
        ),
        ({"replication": {"election_fencing_mode": "strict"}}, "election_fencing_mode has no effect"),
        ({"replication": {"failover": "manual"}}, "no instance of it may write"),
        ({"replication": {"linearizable_quorum": 9}}, "all of them are asked instead"),
    ],
)
def test_what_has_no_effect_is_named(options: dict[str, object], expected: str) -> None:
    assert expected in warnings(**options)


@pytest.mark.parametrize("name", ["ISOLATED", "BOOTSTRAP_LEADER", "MEMTX_FOO", "TYPO", "WAL_MOD"])
def test_a_variable_of_the_environment_that_is_no_option_is_named(name: str) -> None:
    config = parse(yaml.safe_dump(document()), path="c.yaml", environ={f"SYNCHRO_{name}": "x", "OTHER": "y"})
    assert f"SYNCHRO_{name} in the environment is no option: ignored" in config.warnings


@pytest.mark.parametrize("name", [READY_FILE, LOG_FILE, "SYNCHRO_ENDPOINTS", "SYNCHRO_OUTPUT"])
def test_variables_that_the_program_itself_reads_or_sets_are_no_mistake(name: str) -> None:
    config = parse(yaml.safe_dump(document()), path="c.yaml", environ={name: "x"})
    assert config.warnings == ()


def test_wal_mode_none_is_named() -> None:
    assert "wal.mode = none does what write does" in warnings(size=1, wal={"mode": "none"})


# --- what is given up -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "quorum", "reads"),
    [(3, 1, 3), (3, "1", 3), (2, 1, 2), (3, "N / 3 + 0.7", 3), (3, "math.max(1, N - 2)", 3)],
)
def test_a_quorum_below_a_majority_says_what_it_gives_up(size: int, quorum: object, reads: int) -> None:
    found = warnings(size=size, replication={"synchro_quorum": quorum})
    assert "is no majority" in found and "lose acknowledged writes" in found and "split brain" in found
    assert f"a linearizable read needs {reads} instances" in found


@pytest.mark.parametrize(("size", "quorum"), [(1, 1), (2, 2), (3, 2), (3, 3), (3, "N / 2 + 1"), (3, "N")])
def test_a_majority_says_nothing(size: int, quorum: object) -> None:
    assert warnings(size=size, replication={"synchro_quorum": quorum}) == ""


def test_what_concerns_one_instance_names_it() -> None:
    tree = document()
    tree["groups"]["g"]["replicasets"]["r"]["instances"]["i2"]["replication"] = {"synchro_quorum": 1}
    [warning] = read(tree).warnings
    assert warning.startswith("i2: replication.synchro_quorum = 1")


def test_a_set_in_which_nobody_may_stand_is_named() -> None:
    found = warnings(replication={"failover": "election", "election_mode": "voter"})
    assert "no instance of r may stand for election" in found


# --- who makes the set ----------------------------------------------------------------------------------

ELECTION = {"failover": "election", "bootstrap_strategy": "config"}


def with_leader(leader: str = "i2", *, own: dict[str, object] | None = None, **top: Any) -> dict[str, Any]:
    tree = document(in_set={"bootstrap_leader": leader}, **top)
    tree["groups"]["g"]["replicasets"]["r"]["instances"][leader] |= own or {}
    return tree


@pytest.mark.parametrize(
    ("own", "top", "why"),
    [
        ({"replication": {"election_mode": "voter"}}, {"replication": ELECTION}, "may only vote"),
        ({"replication": {"election_mode": "off"}}, {"replication": ELECTION}, "read-only"),
        ({}, {"replication": {"bootstrap_strategy": "config"}}, "read-only"),
        (
            {"database": {"mode": "ro"}},
            {"replication": {"bootstrap_strategy": "config"}, "database": {"mode": "rw"}},
            "read-only",
        ),
        ({"isolated": True}, {"replication": ELECTION}, "read-only"),
        ({"grpc": {"listen": []}}, {"replication": ELECTION}, "has no address"),
    ],
)
def test_a_bootstrap_leader_that_could_not_register_the_others_is_refused(
    own: dict[str, object], top: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigFileError) as caught:
        read(with_leader(own=own, **top))
    assert "bootstrap_leader" in str(caught.value) and why in str(caught.value)


@pytest.mark.parametrize("mode", ["candidate", "manual"])
def test_a_bootstrap_leader_that_may_lead_is_not(mode: str) -> None:
    read(with_leader(own={"replication": {"election_mode": mode}}, replication=ELECTION))


# --- peers without a login ------------------------------------------------------------------------------


def test_a_guest_without_rights_as_whom_peers_call_is_told() -> None:
    words = "peers call as guest"
    admin = {"password": "x"}
    assert words in warnings(credentials={"users": {"admin": admin}})
    assert words not in warnings(credentials={"users": {"guest": {"roles": ["super"]}}})
    assert words not in warnings()
    users = {"admin": admin, "replicator": {"password": "y", "roles": ["replication"]}}
    peer = {"advertise": {"peer": {"login": "replicator"}}}
    assert words in warnings(credentials={"users": users})
    assert words not in "\n".join(read(document(credentials={"users": users}, iproto=peer)).warnings)
    assert words not in "\n".join(read(document(1, credentials={"users": {"admin": admin}})).warnings)
