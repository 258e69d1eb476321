"""What two configurations of an instance differ in, and what a running one takes over. [C-30], [C-42]."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from synchro.config import ElectionMode, Limits, Settings
from synchro.config.changes import changes, live_settings, put_into_use
from synchro.config.file import ClusterConfig, ConfigFileError, parse
from synchro.config.option import Effect
from synchro.config.options import TABLE

INSTANCES = """
groups:
  g:
    replicasets:
      r:
        {more}
        instances:
          a: {{iproto: {{listen: [{{uri: '127.0.0.1:3301'}}]}}{own}}}
          b: {{iproto: {{listen: [{{uri: '127.0.0.1:3302'}}]}}}}
"""


def read(top: str = "", *, own: str = "", more: str = "", **commands: str) -> ClusterConfig:
    text = top + INSTANCES.format(own=f", {own}" if own else "", more=more)
    named = {key.replace("__", "."): value for key, value in commands.items()}
    return parse(text, path="/x/config.yaml", environ={}, commands=named, commanded="a")


def taken_over(before: ClusterConfig, after: ClusterConfig) -> tuple[Settings, dict[str, bool]]:
    """Settings of `a` after it; and which options changed: True = in use."""
    old, new = before.instance("a"), after.instance("a")
    found = changes(old.options, new.options)
    settings = live_settings(old.settings, new.settings, found)
    in_use = put_into_use(old.options, found)
    left = {change.key: change for change in changes(in_use, new.options)}
    assert left.keys() == {change.key for change in found if not change.is_live}
    return settings, {change.key: change.is_live for change in found}


def test_a_live_option_is_taken_over_and_another_is_named() -> None:
    before = read("replication: {timeout: 1}\nwal: {mode: fsync}\n")
    after = read("replication: {timeout: 500ms}\nwal: {mode: write}\n")
    settings, changed = taken_over(before, after)
    assert changed == {"replication.timeout": True, "wal.mode": False}
    assert settings.replication_timeout_s == 0.5
    assert settings.wal_mode is before.instance("a").settings.wal_mode


def test_sources_are_taken_over() -> None:
    """[M-45], [M-46]: by the option, and by the members that the file lists."""
    settings, changed = taken_over(read(), read("replication: {peers: ['127.0.0.1:3302']}\n"))
    assert changed == {"replication.peers": True}
    assert [peer.name for peer in settings.peers] == ["b"]
    settings, changed = taken_over(read(), read("replication: {peers: []}\n"))
    assert settings.peers == ()
    assert read(replication__peers="[]").instance("a").settings.peers == ()
    alone = INSTANCES.replace("          b:", "          # b:")
    one = parse(alone.format(own="", more=""), path="/x/config.yaml", environ={})
    settings, _ = taken_over(one, read())
    assert [peer.name for peer in settings.peers] == ["a", "b"]


def test_the_same_file_changes_nothing() -> None:
    settings, changed = taken_over(read(), read())
    assert not changed and settings == read().instance("a").settings


def test_what_a_process_was_started_with_stays() -> None:
    """Not options: flags of the command line, names, directories."""
    running = replace(read().instance("a").settings, fault_injection=True, again="synchro restart x")
    new = read("replication: {timeout: 2}\n").instance("a")
    settings = live_settings(running, new.settings, changes(read().instance("a").options, new.options))
    assert settings == replace(running, replication_timeout_s=2.0)


@pytest.mark.parametrize("option", [o for o in TABLE if o.is_live and o.field], ids=lambda o: o.key)
def test_each_live_option_reaches_its_field(option: object) -> None:
    """A field of another name would be left out without a word."""
    name = option.field.removeprefix("limits.")  # type: ignore[attr-defined]
    owner = Limits if option.field.startswith("limits.") else Settings  # type: ignore[attr-defined]
    assert name in {field.name for field in fields(owner)}


def test_a_live_option_acts() -> None:
    assert not [option.key for option in TABLE if option.is_live and option.effect is not Effect.ACTS]


# --- roles: options that act together


def test_the_leader_of_a_set_without_elections_changes() -> None:
    """C-20: `failover: manual`; the former leader is read-only, in one reload."""
    manual = "replication: {failover: manual}\n"
    settings, changed = taken_over(read(manual, more="leader: a"), read(manual, more="leader: b"))
    assert changed == {"leader": True} and settings.read_only
    assert settings.read_only_by == "replication.failover: manual, leader: b"


def test_elections_are_turned_on() -> None:
    before = read("replication: {failover: off}\n", own="database: {mode: rw}")
    settings, changed = taken_over(before, read("replication: {failover: election}\n"))
    assert settings.election_mode is ElectionMode.CANDIDATE and not settings.read_only
    assert all(changed.values()) and "replication.failover" in changed


def test_who_is_cut_off_changes_its_role_by_a_restart() -> None:
    """`isolated` needs a restart, so the read-only mode that it brings does too."""
    before = read(own="database: {mode: rw}")
    settings, changed = taken_over(before, read(own="database: {mode: rw}, isolated: true"))
    assert not settings.read_only and settings.listen == before.instance("a").settings.listen
    assert settings.read_only_by == "database.mode: ro"  # not yet by another option
    assert changed["isolated"] is False and True not in changed.values()


# --- sources


def sources(settings: Settings) -> list[str]:
    return [peer.name for peer in settings.peers]


THREE = INSTANCES.replace(
    "        instances:\n",
    "        instances:\n          c: {{iproto: {{listen: [{{uri: '127.0.0.1:3303'}}]}}}}\n",
)


def three() -> ClusterConfig:
    return parse(THREE.format(own="", more=""), path="/x/config.yaml", environ={})


def test_an_instance_that_the_file_names_anew_is_followed() -> None:
    """[M-45]: and one that it names no more is let go."""
    settings, changed = taken_over(read(), three())
    assert changed == {"replication.peers": True} and sources(settings) == ["a", "b", "c"]
    settings, _ = taken_over(three(), read())
    assert sources(settings) == ["a", "b"] and settings.follows_all


def test_sources_that_are_named_are_all_there_are() -> None:
    settings, _ = taken_over(read(), read(replication__peers="['127.0.0.1:3302']"))
    assert sources(settings) == ["b"] and not settings.follows_all
    settings, _ = taken_over(read(), read(replication__peers="[]"))
    assert sources(settings) == [] and not settings.follows_all
    settings, _ = taken_over(read(replication__peers="[]"), read())
    assert sources(settings) == ["a", "b"] and settings.follows_all


def test_who_loses_its_address_has_no_sources() -> None:
    """[C-44]: it listens on until a restart."""
    after = parse(
        INSTANCES.format(own="", more="").replace(
            "a: {iproto: {listen: [{uri: '127.0.0.1:3301'}]}}", "a: {iproto: {}}"
        ),
        path="/x/config.yaml",
        environ={},
    )
    settings, changed = taken_over(read(), after)
    assert changed == {"iproto.listen": False, "replication.peers": True}
    assert sources(settings) == [] and not settings.follows_all and settings.listen == "127.0.0.1:3301"
    settings, _ = taken_over(after, read())
    assert sources(settings) == ["a", "b"]


def test_who_is_cut_off_has_its_sources_until_it_is_restarted() -> None:
    settings, changed = taken_over(read(), read(own="isolated: true"))
    assert changed["replication.peers"] is False and sources(settings) == ["a", "b"]


# --- `config set`


def test_a_command_beats_the_file() -> None:
    settings, changed = taken_over(
        read("replication: {timeout: 1}\n"), read("replication: {timeout: 1}\n", replication__timeout="3s")
    )
    assert changed == {"replication.timeout": True} and settings.replication_timeout_s == 3.0


@pytest.mark.parametrize("word", ["off", "'off'"])
def test_a_bare_off_is_accepted(word: str) -> None:
    """[C-5]: YAML 1.1 reads it as false."""
    election = "replication: {failover: election}\n"
    settings, _ = taken_over(read(election), read(election, replication__election_mode=word))
    assert settings.election_mode is ElectionMode.OFF and settings.read_only
    assert settings.read_only_by == "replication.election_mode: off"
    assert read(f"replication: {{failover: {word}, election_fencing_mode: {word}}}\n")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("database.mod", "rw", "config set database.mod: database.mod: unknown key (did you mean 'mode'?)"),
        ("replication.timeout", "-1", "the value must be greater than 0, got -1"),
        (
            "replication.timeout",
            "soon",
            "config set replication.timeout: replication.timeout: expected a dur",
        ),
        ("replication.synchro_quorum", "3", "is above the number of configured instances (2)"),
        ("replication", "1", "expected a map"),
        ("database.mode", "[", "not YAML"),
        ("..", "1", "unknown key"),
    ],
)
def test_a_command_that_cannot_be_says_why(key: str, value: str, text: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        read(**{key: value})
    assert text in caught.value.message


def test_a_leader_is_set_for_one_instance_alone() -> None:
    """[A-61]: one instance hears of it before the others, which keep that of the file."""
    text = """
replication: {failover: manual}
groups:
  g:
    replicasets:
      r:
        leader: a
        instances:
          a: {grpc: {listen: [{uri: '127.0.0.1:3301'}]}}
          b: {grpc: {listen: [{uri: '127.0.0.1:3302'}]}}
      s:
        leader: c
        instances:
          c: {grpc: {listen: [{uri: '127.0.0.1:3303'}]}}
"""

    def told(leader: str) -> ClusterConfig:
        return parse(text, path="/x/c.yaml", environ={}, commands={"leader": leader}, commanded="a")

    found = told("b")
    assert {name: one.settings.read_only for name, one in found.instances.items()} == {
        "a": True,
        "b": True,
        "c": False,
    }
    settings, changed = taken_over(parse(text, path="/x/c.yaml", environ={}), found)
    assert settings.read_only and changed == {"leader": True}
    with pytest.raises(ConfigFileError, match='instance "c" is not found in this replicaset'):
        told("c")


VOTERS = """
replication: {{failover: election}}
groups:
  g:
    replicasets:
      r:
        instances:
          a: {{grpc: {{listen: [{{uri: '127.0.0.1:3301'}}]}}}}
          b: {{grpc: {{listen: [{{uri: '127.0.0.1:3302'}}]}}, replication: {{election_mode: {of_b}}}}}
          c: {{grpc: {{listen: [{{uri: '127.0.0.1:3303'}}]}}, replication: {{election_mode: voter}}}}
"""


@pytest.mark.parametrize(("of_b", "warned"), [("candidate", False), ("manual", False), ("voter", True)])
def test_a_command_to_one_instance_is_judged_with_the_others(of_b: str, warned: bool) -> None:
    """[C-42]: who may stand is a matter of the whole set."""
    found = parse(
        VOTERS.format(of_b=of_b),
        path="/x/c.yaml",
        environ={},
        commands={"replication.election_mode": "voter"},
        commanded="a",
    )
    of_set = "as the file has the others, no instance of r may stand for election"
    assert any(text.startswith(of_set) for text in found.warnings) is warned
    assert found.instance("a").settings.election_mode is ElectionMode.VOTER


def test_a_warning_of_a_command_names_the_instance_that_it_was_said_to() -> None:
    found = parse(
        VOTERS.format(of_b="candidate"),
        path="/x/c.yaml",
        environ={},
        commands={"replication.synchro_quorum": "1"},
        commanded="a",
    )
    assert [text for text in found.warnings if "no majority" in text] == [
        text for text in found.warnings if text.startswith("a: replication.synchro_quorum = 1 is 1 of 3")
    ]
    assert found.instance("b").settings.synchro_quorum.quorum(3) == 2
