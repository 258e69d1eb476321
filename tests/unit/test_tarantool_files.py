"""Files as they are written for Tarantool 3 load as they stand, and older names still count. [C-4], [C-5],
[C-20], [C-32]."""

from __future__ import annotations

from typing import Any

import pytest

from synchro.config import BootstrapStrategy, ElectionMode, FencingMode
from synchro.config.file import ClusterConfig, ConfigFileError, parse

LISTEN = """
          instance001:
            {own}iproto: {{listen: [{{uri: '127.0.0.1:3301'}}]}}
          instance002:
            iproto: {{listen: [{{uri: '127.0.0.1:3302'}}]}}
"""
GROUPS = (
    """
groups:
  group001:
    replicasets:
      replicaset001:
        {set}
        instances:"""
    + LISTEN
)
THIRD = "          instance003: {iproto: {listen: [{uri: '127.0.0.1:3303'}]}}\n"

MASTER_MASTER = """
credentials:
  users:
    replicator:
      password: 'topsecret'
      roles: [replication]

iproto:
  advertise:
    peer:
      login: replicator

replication:
  failover: off

groups:
  group001:
    replicasets:
      replicaset001:
        instances:
          instance001:
            database:
              mode: rw
            iproto:
              listen:
              - uri: '127.0.0.1:3301'
          instance002:
            database:
              mode: rw
            iproto:
              listen:
              - uri: '127.0.0.1:3302'
"""
ELECTION = "replication:\n  failover: election\n" + GROUPS.format(set="", own="") + THIRD
MANUAL = "replication: {failover: manual}\n" + GROUPS.format(set="leader: instance001", own="")
BOOTSTRAP = "replication:\n  bootstrap_strategy: config\n" + GROUPS.format(
    set="bootstrap_leader: instance001", own="database: {mode: rw}\n            "
)
SYNCHRO = """
replication:
  failover: off
  synchro_quorum: 2
  synchro_timeout: 1000
""" + GROUPS.format(set="", own="database: {mode: rw}\n            ")


def read(text: str) -> ClusterConfig:
    return parse(text, path="/app/config.yaml", environ={})


def settings(text: str) -> list[Any]:
    return [one.settings for one in read(text).instances.values()]


def test_two_masters_with_credentials() -> None:
    """[C-4], and the bare `off` that YAML 1.1 reads as false [C-5]."""
    one, two = settings(MASTER_MASTER)
    assert not one.read_only and not two.read_only
    assert one.election_mode is two.election_mode is ElectionMode.OFF
    assert [peer.address for peer in one.peers] == ["127.0.0.1:3301", "127.0.0.1:3302"]
    assert "topsecret" not in str(read(MASTER_MASTER).warnings)


def test_three_that_elect() -> None:
    found = settings(ELECTION)
    assert len(found) == 3
    assert {one.election_mode for one in found} == {ElectionMode.CANDIDATE}
    assert not any(one.read_only for one in found)


def test_a_leader_by_the_file() -> None:
    assert [one.read_only for one in settings(MANUAL)] == [False, True]


def test_a_bootstrap_leader_by_the_file() -> None:
    one, two = settings(BOOTSTRAP)
    assert one.bootstrap_strategy is two.bootstrap_strategy is BootstrapStrategy.CONFIG
    assert one.bootstrap_leader == two.bootstrap_leader == "instance001"


def test_the_synchronous_pair() -> None:
    one, two = settings(SYNCHRO)
    assert one.synchro_quorum.number == two.synchro_quorum.number == 2
    assert one.synchro_timeout_s == two.synchro_timeout_s == 1000.0
    assert [one.read_only, two.read_only] == [False, True]


def test_supervised_needs_somebody_who_supervises() -> None:
    """[C-20]"""
    with pytest.raises(ConfigFileError, match="supervised needs an external coordinator"):
        read("replication: {failover: supervised}\n" + GROUPS.format(set="", own=""))


def test_the_section_about_configurations() -> None:
    """One file is all that is read; a central storage is not passed over in silence."""
    assert any("config.reload" in text for text in read("config: {reload: auto}\n" + ELECTION).warnings)
    with pytest.raises(ConfigFileError, match=r"config\.etcd: does not belong here: a central storage"):
        read("config: {etcd: {endpoints: ['http://localhost:2379']}}\n" + ELECTION)


def test_the_log_goes_where_the_file_says() -> None:
    """Names are relative to the file; a pipe or syslog is refused by name."""
    assert {one.log_file for one in settings(ELECTION)} == {""}
    found = settings("log: {to: file, file: 'log/{{ instance_name }}.log'}\n" + ELECTION)
    assert [one.log_file for one in found] == [f"/app/log/instance00{n}.log" for n in (1, 2, 3)]
    assert settings("log: {to: file}\n" + ELECTION)[0].log_file == "/app/var/log/instance001.log"
    assert "log.file has no effect without log.to: file" in str(read("log: {file: x}\n" + ELECTION).warnings)
    for where in ("pipe", "syslog"):
        with pytest.raises(ConfigFileError, match=f"one of the following strings.*got '{where}'"):
            read(f"log: {{to: {where}}}\n" + ELECTION)


# --- older names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "instead", "field", "value"),
    [
        ("snapshot_period: 60", "snapshot.by.interval", "checkpoint_interval_s", 60.0),
        ("snapshot_count: 5", "snapshot.count", "checkpoint_count", 5),
        ("snap_dir: snaps", "snapshot.dir", "snapshot_dir", "/app/snaps"),
        ("logger: my.log", "log.file", "log_file", "/app/my.log"),
        ("logger: 'file:my.log'", "log.file", "log_file", "/app/my.log"),
        (
            "election_fencing_enabled: false",
            "replication.election_fencing_mode",
            "election_fencing_mode",
            FencingMode.OFF,
        ),
        (
            "election_fencing_enabled: true",
            "replication.election_fencing_mode",
            "election_fencing_mode",
            FencingMode.SOFT,
        ),
    ],
)
def test_an_older_name_counts_and_is_told(old: str, instead: str, field: str, value: object) -> None:
    """[C-32]: at the top and at one instance."""
    warning = f"Deprecated option {old.partition(':')[0]}, please use {instead} instead"
    found = read(f"{old}\n" + ELECTION)
    assert warning in found.warnings
    assert {getattr(one.settings, field) for one in found.instances.values()} == {value}
    own = read(MANUAL.replace("iproto:", f"{old}\n            iproto:", 1))
    assert warning in own.warnings
    assert getattr(own.instance("instance001").settings, field) == value


def test_older_names_of_sources() -> None:
    for text in ("'127.0.0.1:3301,127.0.0.1:3302'", "['127.0.0.1:3301', '127.0.0.1:3302']"):
        (one, *_) = settings(f"replication_source: {text}\n" + ELECTION)
        assert [peer.address for peer in one.peers] == ["127.0.0.1:3301", "127.0.0.1:3302"]


def test_an_older_name_without_a_value_is_not_there() -> None:
    for name in ("logger", "snapshot_count", "election_fencing_enabled", "panic_on_wal_error"):
        assert settings(f"{name}:\n" + ELECTION) == settings(ELECTION)


def test_an_older_quorum_of_connections_implies_its_strategy() -> None:
    """[C-32]: unless the file says another one, here or in a scope around it."""
    (one, *_) = settings("replication_connect_quorum: 2\n" + ELECTION)
    assert (one.connect_quorum, one.bootstrap_strategy) == (2, BootstrapStrategy.LEGACY)
    own = BOOTSTRAP.replace("iproto:", "replication_connect_quorum: 1\n            iproto:", 1)
    (one, *_) = settings(own)
    assert (one.connect_quorum, one.bootstrap_strategy) == (1, BootstrapStrategy.CONFIG)


def test_what_older_names_cannot_mean_here_is_refused() -> None:
    assert "it is so without it" in str(read("panic_on_wal_error: true\n" + ELECTION).warnings)
    for text, why in (
        ("panic_on_snap_error: false", "asks for force_recovery: it is decided for one start"),
        ("force_recovery: true", "by who has seen the damage: synchro start CONFIG:NAME --force-recovery"),
        ("logger: '|/usr/bin/cat'", "not to '|/usr/bin/cat'"),
        ("election_fencing_enabled: 1", "expected true or false"),
        ("snapshot_count: 2\nsnapshot: {count: 3}", "snapshot.count is there too"),
        ("snapshot_count: many", "expected an integer"),
        ("replication_source: {}", "expected a list of addresses"),
        ("logger: {}", "expected the name of a file"),
        ("log: 5\nlogger: my.log", "log: expected a map"),
    ):
        with pytest.raises(ConfigFileError) as refused:
            read(f"{text}\n" + ELECTION)
        assert why in refused.value.message and ":1: " in refused.value.message
