"""One table of options: schema, environment, `config show`, JSON Schema and reference follow it.

An option once stood in four places, and three of them were forgotten in turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from synchro.config import Limits, Settings
from synchro.config.file import ClusterConfig, ConfigFileError, parse
from synchro.config.json_schema import json_schema
from synchro.config.located import compose
from synchro.config.option import DECLARED, Bytes, Effect, Option, Scope, Seconds, ends
from synchro.config.options import BY_KEY, TABLE, default_text
from synchro.config.schema import ENVIRONMENT, GROUP, INSTANCE, REPLICASET, ROOT, leaves
from synchro.config.view import plain

ROOT_DIR = Path(__file__).resolve().parents[2]
VALIDATOR = jsonschema.Draft7Validator(json_schema())
OPTIONS = pytest.mark.parametrize("option", TABLE, ids=lambda option: option.key)


def read(text: str) -> ClusterConfig:
    return parse(text, path="/etc/synchro/config.yaml", environ={})


def document(**options: Any) -> dict[str, Any]:
    """A set of three; options: those of the whole file."""
    members = {f"i{n}": {"grpc": {"listen": [{"uri": f"127.0.0.1:330{n}"}]}} for n in (1, 2, 3)}
    return {**options, "groups": {"g": {"replicasets": {"r": {"instances": members}}}}}


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def with_option(option: Option, value: Any) -> dict[str, Any]:
    """A document with one option, at a place where it may stand."""
    if option.scope not in (Scope.REPLICASET, Scope.INSTANCE):
        return document(**nested(option.key, value))
    tree = document()
    place = tree["groups"]["g"]["replicasets"]["r"]
    (place if option.scope is Scope.REPLICASET else place["instances"]["i1"])[option.key] = value
    return tree


# --- the table ------------------------------------------------------------------------------------------


@OPTIONS
def test_an_option_is_described_and_its_default_is_that_of_the_settings(option: Option) -> None:
    assert option.meaning and "\n" not in option.meaning and "|" not in option.meaning
    if not option.field:
        return
    name = option.field.removeprefix("limits.")
    owner = Limits() if option.field.startswith("limits.") else Settings()
    assert hasattr(owner, name)
    if option.default is not None and option.key != "replication.election_mode":  # off without Raft
        assert option.default == getattr(owner, name)


def test_every_limit_is_an_option() -> None:
    assert [each.name for each in fields(Limits) if DECLARED not in each.metadata] == []


@OPTIONS
def test_an_option_stands_in_the_scopes_that_it_says(option: Option) -> None:
    """[C-1], [C-20]."""
    found = {
        name
        for name, section in (("root", ROOT), ("group", GROUP), ("set", REPLICASET), ("instance", INSTANCE))
        if any(".".join(path) == option.key for path, _ in leaves(section))
    }
    expected = {
        Scope.ANYWHERE: {"root", "group", "set", "instance"},
        Scope.NOT_AT_INSTANCES: {"root", "group", "set"},
        Scope.REPLICASET: {"set"},
        Scope.INSTANCE: {"instance"},
    }[option.scope]
    assert found == expected
    has_variable = option.scope in (Scope.ANYWHERE, Scope.NOT_AT_INSTANCES)
    assert (ENVIRONMENT.get(option.variable) == tuple(option.key.split("."))) is has_variable


@OPTIONS
def test_an_option_stands_in_the_reference(option: Option) -> None:
    text = (ROOT_DIR / "docs" / "configuration.md").read_text(encoding="utf-8")
    prefix = "groups.G.replicasets.R." if option.scope is Scope.REPLICASET else ""
    is_twin = option.key.startswith("iproto.")  # told of in words
    assert is_twin or f"| `{prefix}{option.key}` |" in text


def test_defaults_are_shown_as_one_writes_them() -> None:
    shown = {key: default_text(BY_KEY[key]) for key in BY_KEY}
    assert shown["snapshot.by.interval"] == "1h"
    assert shown["replication.timeout"] == "1s"
    assert shown["wal.max_size"] == shown["limits.wal_max_size"] == "256MiB"
    assert shown["replication.synchro_quorum"] == "N / 2 + 1"
    assert shown["replication.skip_conflict"] == "false"
    assert shown["replication.reconnect_timeout"] == "`replication.timeout`"
    assert shown["log.level"] == "info"
    assert shown["grpc.listen"] == ""
    for option in TABLE:
        if isinstance(option.kind, Seconds | Bytes) and option.default and not option.default_text:
            config = read(yaml.safe_dump(with_option(option, default_text(option))))
            assert config.instance("i1").options.get(option.key, option.default) == option.default


# --- config show ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"replication": {"failover": "election", "synchro_quorum": 3, "timeout": "300ms"}},
        {"replication": {"failover": "off"}, "wal": {"max_size": "7MiB"}, "memtx": {"memory": "1GiB"}},
        {"limits": {"wal_max_size": "9MiB", "join_view_age_s": 5}, "log": {"level": "warn"}},
        {"database": {"dir": "/data/{{ instance_name }}"}, "snapshot": {"by": {"interval": 0}}},
    ],
)
def test_what_is_shown_gives_the_same_settings_again(options: dict[str, Any]) -> None:
    """`config show` speaks in keys of the file, defaults included: a person can take them from there."""
    first = read(yaml.safe_dump(document(**options)))
    for name in first.instances:
        member = json.loads(json.dumps(first.instance(name).tree()))
        tree = document(replication={"failover": member["replication"].pop("failover")})
        tree["groups"]["g"]["replicasets"]["r"]["instances"][name] = member
        again = read(yaml.safe_dump(tree))
        assert again.instance(name).settings == first.instance(name).settings
        assert again.instance(name).options == first.instance(name).options


def test_every_acting_option_with_a_default_is_shown() -> None:
    shown = read(yaml.safe_dump(document(replication={"failover": "off"}))).instance("i1").options
    without_value = {"wal.dir", "snapshot.dir", "database.mode", "grpc.listen", "replication.peers"}
    hidden = {"database.dir", "memtx.memory", "replication.reconnect_timeout"}
    hidden |= {"database.instance_uuid", "database.replicaset_uuid"}
    hidden |= {f"grpc.tls.{name}" for name in ("cert", "key", "ca", "client_auth")}
    expected = {
        option.key
        for option in TABLE
        if option.effect is Effect.ACTS and (option.default is not None or option.key in without_value)
    }
    assert set(shown) == expected - hidden
    assert shown["replication.peers"] == ["127.0.0.1:3301", "127.0.0.1:3302", "127.0.0.1:3303"]


# --- the JSON Schema --------------------------------------------------------------------------------------


def is_valid(text: str) -> bool:
    """As an editor sees it, with our reading of YAML."""
    return bool(VALIDATOR.is_valid(plain(compose(text, source="x"))))


def loads(text: str) -> bool:
    try:
        read(text)
    except ConfigFileError:
        return False
    return True


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(json_schema())


@pytest.mark.parametrize(
    "path",
    [
        *(ROOT_DIR / "deploy" / kind / "config.yaml" for kind in ("compose", "systemd")),
        ROOT_DIR / "docs" / "configuration.md",
    ],
    ids=str,
)
def test_our_own_files_are_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert is_valid(text.partition("```yaml\n")[2].partition("```")[0] or text)


@OPTIONS
def test_editor_and_check_agree_on_the_ends(option: Option) -> None:
    legal = ends(option.kind)
    if legal is None:
        return
    low, high = (int(end) if isinstance(option.kind, Bytes) or end >= 1 else end for end in legal)
    for value in (low, high, None):
        assert is_valid(yaml.safe_dump(with_option(option, value))), value
    beyond: tuple[object, ...] = (-1, high + 1, high * 2, "soon", [], {}, True)
    for wrong in beyond:
        text = yaml.safe_dump(with_option(option, wrong))
        assert not is_valid(text) and not loads(text), wrong


MISTAKES = [
    "replication: {tmeout: 1}",
    "replication: {timeout: 5 weeks}",
    "replication: {timeout: 0}",
    "wal: {mode: fsnc}",
    "wal: {max_size: 1 banana}",
    "isolated: true",
    "leader: i1",
    "log: [info]",
    "database: {instance_uuid: no}",
    "replication: {synchro_quorum: 0}",
    "replication: {peers: [1]}",
    "grpc: {listen: [{}]}",
    "grpc: {listen: 127.0.0.1:3301}",
    "replication: {skip_conflict: perhaps}",
    "credentials: {users: {'a b': {}}}",
]
RIGHT = [
    "replication: {timeout: 0.5}",
    "replication: {timeout: 500ms}",
    "replication: {timeout: 5M, connect_timeout: 1 h}",
    "wal: {max_size: 64MiB}",
    "wal: {max_size: 10mb, mode: none}",
    "replication: {failover: off}",
    "replication: {failover: 'off', election_fencing_mode: off}",
    "replication: {synchro_quorum: N / 2 + 1, linearizable_quorum: N}",
    "replication:\nwal:\n  mode:",
    "log: {level: warn, format: plain, to: stderr}",
    "sql: {whatever: [1, 2]}",
    "credentials: {users: {admin: {password: secret, roles: [super]}}}",
    "compat: {x: old}",
    "iproto: {advertise: {peer: {login: replicator, password: x, params: {}}}}",
]


@pytest.mark.parametrize("top", MISTAKES)
def test_an_editor_marks(top: str) -> None:
    text = f"{top}\n{yaml.safe_dump(document())}"
    assert not is_valid(text)
    assert not loads(text)


@pytest.mark.parametrize("top", RIGHT)
def test_an_editor_does_not_mark(top: str) -> None:
    alone = document()
    del alone["groups"]["g"]["replicasets"]["r"]["instances"]["i2"]
    del alone["groups"]["g"]["replicasets"]["r"]["instances"]["i3"]
    text = f"{top}\n{yaml.safe_dump(alone)}"
    assert loads(text)
    assert is_valid(text), list(VALIDATOR.iter_errors(plain(compose(text, source="x"))))


@pytest.mark.parametrize("name", ["a b", "-a", "x" * 64, ""])
def test_an_editor_knows_what_a_name_is(name: str) -> None:
    tree = document()
    tree["groups"][name] = tree["groups"].pop("g")
    assert not VALIDATOR.is_valid(tree)


def test_failover_is_offered_where_it_may_stand() -> None:
    tree = document()
    tree["groups"]["g"]["replication"] = {"failover": "election"}
    assert VALIDATOR.is_valid(tree)
    tree["groups"]["g"]["replicasets"]["r"]["instances"]["i1"]["replication"] = {"failover": "election"}
    assert not VALIDATOR.is_valid(tree)


# --- the command line -------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "synchro", "config", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_command_line_prints_the_schema_and_what_is_set(tmp_path: Path) -> None:
    assert json.loads(run("schema")) == json_schema()
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(document(replication={"failover": "election", "timeout": "250ms"})))
    shown = yaml.safe_load(run("show", str(file), "-i", "i2"))
    assert list(shown) == ["i2"]
    assert shown["i2"]["replication"]["timeout"] == 0.25
    assert shown["i2"]["limits"]["max_batch_ops"] == 1000
