"""`replication.autoexpel` in a configuration: what is refused, and whom the file names [C-45]."""

from __future__ import annotations

import pytest

from synchro.config.changes import changes, live_settings
from synchro.config.file import ClusterConfig, ConfigFileError, parse

FILE = """\
replication:
  failover: {failover}
  autoexpel: {autoexpel}
groups:
  g:
    replicasets:
      r-1:
        instances:
          r-1-a: {{grpc: {{listen: [{{uri: 127.0.0.1:3301}}]}}, {first}}}
          r-1-b: {{grpc: {{listen: [{{uri: 127.0.0.1:3302}}]}}, {second}}}
          {third}
"""
PREFIX = "{enabled: true, by: prefix, prefix: '{{ replicaset_name }}'}"


def read(
    autoexpel: str = PREFIX, failover: str = "election", first: str = "", second: str = "", third: str = ""
) -> ClusterConfig:
    text = FILE.format(autoexpel=autoexpel, failover=failover, first=first, second=second, third=third)
    return parse(text, path="set.yaml", environ={})


def test_the_file_names_its_members() -> None:
    """An anonymous follower is none [C-22]."""
    settings = read(second="replication: {anon: true}").instance("r-1-a").settings
    assert settings.configured == {"r-1-a"}
    assert (settings.autoexpel_enabled, settings.autoexpel_prefix) == (True, "r-1")


@pytest.mark.parametrize(
    ("autoexpel", "how", "said", "line"),
    [
        ("{enabled: true}", {}, "needs by: prefix, and a prefix", 3),
        ("{enabled: true, by: prefix, prefix: ''}", {}, "needs by: prefix, and a prefix", 3),
        ("{enabled: true, by: name, prefix: r}", {}, "prefix", 3),
        ("{enabled: true, by: prefix, prefix: r-2}", {}, "'r-2' is not how r-1-a, r-1-b begins", 3),
        (
            PREFIX,
            {
                "failover": "off",
                "first": "database: {mode: rw}",
                "second": "database: {mode: rw}",
            },
            "more than one rw instance (r-1-a, r-1-b)",
            3,
        ),
    ],
)
def test_what_cannot_be_is_refused(autoexpel: str, how: dict[str, str], said: str, line: int) -> None:
    with pytest.raises(ConfigFileError) as refused:
        read(autoexpel, **how)
    problem = refused.value.problems[0]
    assert said in problem.message and problem.line == line


def test_one_writer_is_allowed_in_each_mode() -> None:
    read(failover="off", first="database: {mode: rw}")
    read()
    read("{enabled: false}", failover="off", first="database: {mode: rw}", second="database: {mode: rw}")


def test_a_file_with_fewer_members_is_taken_over_live() -> None:
    """Though no option differs."""
    third = "r-1-c: {grpc: {listen: [{uri: 127.0.0.1:3303}]}}"
    before, after = read(third=third).instance("r-1-a"), read().instance("r-1-a")
    found = [one for one in changes(before.options, after.options) if one.key != "replication.peers"]
    assert found == []
    assert live_settings(before.settings, after.settings, found).configured == {"r-1-a", "r-1-b"}
