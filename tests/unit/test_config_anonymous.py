"""Anonymous followers in a configuration: who follows whom, what is refused in which line [C-12], [C-22]."""

from __future__ import annotations

import pytest

from synchro.config import ElectionMode
from synchro.config.file import ClusterConfig, ConfigFileError, parse

FILE = """\
replication:
  failover: {failover}
groups:
  g:
    replicasets:
      r:
        {in_set}
        instances:
          i1: {{grpc: {{listen: [{{uri: 127.0.0.1:3301}}]}}, {first}}}
          i2: {{grpc: {{listen: [{{uri: 127.0.0.1:3302}}]}}}}
          i3: {{grpc: {{listen: [{{uri: 127.0.0.1:3303}}]}}, {last}}}
"""
ANON = "replication: {anon: true}"


def read(
    failover: str = "election",
    last: str = ANON,
    first: str = "",
    in_set: str = "",
    environ: dict[str, str] | None = None,
) -> ClusterConfig:
    text = FILE.format(failover=failover, last=last, first=first, in_set=in_set)
    return parse(text, path="set.yaml", environ=environ or {})


def test_it_follows_the_members_and_none_of_them_follows_it() -> None:
    """[C-12], [C-22]"""
    config = read()
    for name in ("i1", "i2", "i3"):
        assert [peer.name for peer in config.instance(name).settings.peers] == ["i1", "i2"]
    own = config.instance("i3").settings
    assert (own.is_anonymous, own.read_only, own.election_mode) == (True, True, ElectionMode.OFF)
    assert config.instance("i1").settings.election_mode is ElectionMode.CANDIDATE
    assert config.instance("i1").settings.follows_all


def test_it_is_not_among_those_that_quorums_are_judged_by() -> None:
    """[Q-32]: a number that two members can reach is no majority of three instances of the file."""
    config = read(last=f"{ANON}, wal: {{mode: fsync}}", in_set="replication: {synchro_quorum: 2}")
    assert not any("majority" in warning for warning in config.warnings)
    with pytest.raises(ConfigFileError, match="above the number of configured instances"):
        read(in_set="replication: {synchro_quorum: 3}")


def test_an_only_member_beside_it_is_writable() -> None:
    """[C-20]: rw is the default of one that is the only one, whoever follows it without being a member."""
    text = FILE.format(failover="off", last=ANON, first="", in_set="")
    text = "\n".join(line for line in text.splitlines() if "i2" not in line)
    config = parse(text, path="set.yaml", environ={})
    assert not config.instance("i1").settings.read_only
    assert config.instance("i3").settings.read_only
    assert [peer.name for peer in config.instance("i3").settings.peers] == ["i1"]


@pytest.mark.parametrize(
    ("failover", "last", "in_set", "said", "line"),
    [
        ("off", f"{ANON}, database: {{mode: rw}}", "", "it cannot be rw", 11),
        ("manual", ANON, "leader: i3", "it cannot be the leader", 7),
        ("election", "replication: {anon: true, election_mode: voter}", "", "only off is", 11),
        ("election", ANON, "replication: {anon: true}", "at least one must be a member", 7),
        (
            "election",
            ANON,
            "bootstrap_leader: i3\n        replication: {bootstrap_strategy: config}",
            "is anonymous (replication.anon: true): it could not register",
            7,
        ),
    ],
)
def test_what_cannot_be_is_refused_with_file_and_line(
    failover: str, last: str, in_set: str, said: str, line: int
) -> None:
    """[C-22]"""
    with pytest.raises(ConfigFileError) as refused:
        read(failover, last, in_set=in_set)
    problems = [problem for problem in refused.value.problems if said in problem.message]
    assert problems and (problems[0].file, problems[0].line) == ("set.yaml", line)


def test_off_is_always_allowed_as_its_election_mode() -> None:
    """[C-21], a bare `off` too [C-5]."""
    read(last="replication: {anon: true, election_mode: off}")
    read("off", f"{ANON}, database: {{mode: ro}}")


def test_the_environment_of_one_process_speaks_of_that_instance_only() -> None:
    """[C-2]"""
    config = read(last="", environ={"SYNCHRO_REPLICATION_ANON": "true"})
    own = config.instance("i2").settings
    assert own.is_anonymous and [peer.name for peer in own.peers] == ["i1", "i3"]
