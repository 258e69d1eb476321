"""Names of instances, sets and groups: what the configuration lets pass, a set registers (ADR 26, [M-5]).

`Node1`, `1node` and `db-A` passed `config check` and the first instance booted under them; every later
join ended with ILLEGAL_PARAMS.
"""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from synchro.config.file import ConfigFileError, parse
from synchro.config.schema import ConfigProblem
from synchro.config.template import settings_without_file
from synchro.errors import ConfigError
from synchro.instance import events as ev
from tests.mesh import Mesh, uuid_of

GOOD = [
    "Node1",
    "1node",
    "db-A",
    "a",
    "Z",
    "7",
    "_",
    "_x",
    "a-",
    "x" * 63,
    "null",
    "off",
    "all",
    "1e3",
    "global",
]
BAD = {
    "": None,
    " ": None,
    "a b": "a-b",
    " a": "a",
    "a\t": "a",
    "a\n": "a",
    "-a": "a",
    "--all": "all",
    "a.b": "a-b",
    "a/b": "a-b",
    "..": None,
    "?": None,
    "a:1": "a-1",
    "ä": "a",
    "Ｎｏｄｅ１": "Node1",
    "١node": "node",
    "узел": None,
    "a\u200b": "a",
    "a\0": "a",
    "x" * 64: "x" * 63,
    "{{ group_name }}": "group_name",
}
"""Name -> what is proposed instead."""


def document(*names: str, group: str = "g", replicaset: str = "r") -> str:
    members = {
        name: {"grpc": {"listen": [{"uri": f"127.0.0.1:{3300 + n}"}]}} for n, name in enumerate(names, 1)
    }
    tree = {"groups": {group: {"replicasets": {replicaset: {"instances": members}}}}}
    return json.dumps(tree, indent=1, ensure_ascii=False)  # which is YAML, each key on a line of its own


def line_of(text: str, name: str) -> int:
    key = f"{json.dumps(name, ensure_ascii=False)}: {{"
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.strip() == key)


def problems(text: str) -> tuple[ConfigProblem, ...]:
    with pytest.raises(ConfigFileError) as caught:
        parse(text, path="/etc/synchro/config.yaml", environ={})
    return caught.value.problems


def registered(name: str) -> ev.Outcome:
    """A new member of this name asks a set of two for its row."""
    mesh = Mesh(2)
    mesh.promote(1)
    call = mesh.call_id()
    mesh.step(1, ev.RegisterRequested(call, uuid_of(9), name))
    mesh.settle()
    outcome = mesh.outcome(call)
    assert outcome is not None
    return outcome


# --- one rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_a_name_that_the_configuration_lets_pass_can_be_registered(name: str) -> None:
    config = parse(document("first", name), path="c.yaml", environ={})
    assert list(config.instances) == sorted(["first", name])
    assert config.instance(name).settings.instance_name == name
    assert isinstance(registered(name), ev.Registered)


@given(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9_.-]{1,66}", fullmatch=True))
def test_no_name_passes_the_one_and_fails_the_other(name: str) -> None:
    try:
        parse(document(name), path="c.yaml", environ={})
        passes = True
    except ConfigFileError:
        passes = False
    assert isinstance(registered(name), ev.Registered) is passes


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_name_is_refused_where_it_stands(name: str) -> None:
    """With file, line, the rule, and a name that could be meant."""
    for text in (document("first", name), document("first", replicaset=name), document("first", group=name)):
        [problem] = problems(text)
        assert problem.line == line_of(text, name)
        assert "is not a name: 1 to 63" in problem.message
        assert problem.nearest == BAD[name]
    assert not isinstance(registered(name), ev.Registered)
    if name:
        with pytest.raises(ConfigError, match="is not a name"):
            settings_without_file(listen="127.0.0.1:3301", data_dir="x", name=name)


# --- names that are two, and look like one ---------------------------------------------------------------


def test_names_that_differ_in_case_only_are_refused() -> None:
    """Their files and hosts would be one on many systems. Both lines are told."""
    [problem] = problems(document("Db", "db"))
    assert problem.line == line_of(document("Db", "db"), "db")
    assert problem.message == "instance 'db' differs from instance 'Db' of line 7 in nothing but case"
    both = {name: yaml.safe_load(document(name.lower() + "1"))["groups"]["g"] for name in ("G", "g")}
    both["g"]["replicasets"] = {"R": both["g"]["replicasets"]["r"]}
    both["g"]["replicasets"]["R"]["instances"] = {"other": {}}
    messages = [problem.message for problem in problems(yaml.safe_dump({"groups": both}, sort_keys=False))]
    assert [message.partition(" of line")[0] for message in messages] == [
        "group 'g' differs from group 'G'",
        "replica set 'R' differs from replica set 'r'",
    ]


def test_a_member_is_not_registered_beside_its_twin() -> None:
    outcome = registered("I1")
    assert isinstance(outcome, ev.Rejected)
    assert outcome.error.reason == "ILLEGAL_PARAMS"
    assert "differs from that of the member i1 in nothing but case" in outcome.error.message


@pytest.mark.parametrize("name", ["1", "off", "1e3", "0x1f", "True", "2026-01-01"])
def test_a_leader_is_named_as_it_is_written(name: str) -> None:
    """Keys are words to YAML here, whatever they look like; so is what refers to them."""
    members = f"{{{name}: {{grpc: {{listen: [{{uri: '127.0.0.1:3301'}}]}}}}}}"
    text = (
        "replication: {failover: manual}\n"
        f"groups: {{g: {{replicasets: {{r: {{leader: {name}, instances: {members}}}}}}}}}\n"
    )
    assert not parse(text, path="c.yaml", environ={}).instance(name).settings.read_only


def test_a_leader_that_is_no_name_is_told_so() -> None:
    text = document("a").replace('"instances"', '"leader": "a b", "instances"')
    assert "'a b' is not a name" in problems(text)[0].message


def test_a_name_made_of_a_long_host_keeps_the_port() -> None:
    """Two instances of one host are two."""
    host = "h" * 50 + "." + "d" * 50
    names = {
        settings_without_file(listen=f"{host}:{port}", data_dir="x").instance_name for port in (33010, 33011)
    }
    assert len(names) == 2
    assert all(len(name) == 63 for name in names)
    assert settings_without_file(listen="[::1]:3301", data_dir="x").instance_name == "instance-1-3301"
