"""The YAML configuration: what loads, what is refused, and whether the message helps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from synchro.config import BootstrapStrategy, ElectionMode, FencingMode, Limits, PeerLogin, Settings, WalMode
from synchro.config.address import check_has_address, check_listen, needs_insecure
from synchro.config.file import ClusterConfig, ConfigFileError, load, load_all, parse
from synchro.config.template import init_text, settings_without_file
from synchro.errors import ConfigError
from synchro.secret import Secret

MASTER_MASTER = """\
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
            database: {mode: rw}
            iproto: {listen: [{uri: '127.0.0.1:3301'}]}
          instance002:
            database: {mode: rw}
            iproto: {listen: [{uri: '127.0.0.1:3302'}]}
"""


def read(text: str, **environ: str) -> ClusterConfig:
    return parse(text, path="/etc/synchro/config.yaml", environ=environ)


def cluster(top: str = "", *, instances: int = 2, in_set: str = "", **options: str) -> str:
    """A document with `instances` members; options: instance name -> its options in flow style."""
    members = "".join(
        f"          i{number}: {{grpc: {{listen: [{{uri: '127.0.0.1:330{number}'}}]}}"
        f"{', ' + options[f'i{number}'] if f'i{number}' in options else ''}}}\n"
        for number in range(1, instances + 1)
    )
    return f"{top}\ngroups:\n  g:\n    replicasets:\n      r:\n{in_set}        instances:\n{members}"


def settings(text: str, name: str = "i1", **environ: str) -> Settings:
    return read(text, **environ).instance(name).settings


def refusal(text: str, **environ: str) -> ConfigFileError:
    with pytest.raises(ConfigFileError) as caught:
        read(text, **environ)
    return caught.value


# --- what loads -----------------------------------------------------------------------------------------


def test_the_master_master_document_of_tarantool_loads_as_written() -> None:
    """[C-4], [C-5]: iproto stands in for grpc, a bare `off` is YAML's false."""
    config = read(MASTER_MASTER)

    assert list(config.instances) == ["instance001", "instance002"]
    first = config.instance("instance001").settings
    assert first.listen == "127.0.0.1:3301"
    assert [(peer.name, peer.address) for peer in first.peers] == [
        ("instance001", "127.0.0.1:3301"),
        ("instance002", "127.0.0.1:3302"),
    ]
    assert not first.read_only
    assert first.election_mode is ElectionMode.OFF
    assert first.replicaset_name == "replicaset001"
    login = first.peer_logins.of("127.0.0.1:3302")
    assert login == PeerLogin("replicator", Secret("topsecret"))
    assert "topsecret" not in " ".join(config.warnings) + repr(config) + str(first)
    assert first.credentials is not None
    assert first.credentials.password_of("replicator") == Secret("topsecret")


def test_defaults_are_those_of_settings() -> None:
    got = settings(cluster(instances=1))
    plain = Settings()
    own = {"instance_name", "replicaset_name", "listen", "follows_all", "wal_dir", "snapshot_dir"}
    own |= {"credentials", "configured", "configured_at", "is_named"}  # a file says who there is, if anybody
    for name in Settings.__dataclass_fields__:
        if name not in own:
            assert getattr(got, name) == getattr(plain, name), name


def test_every_option_reaches_the_settings() -> None:
    """[C-33]: sizes and durations with and without units."""
    text = cluster(
        """
database: {dir: "data/{{ instance_name }}", txn_synchro_timeout: 1m}
wal: {mode: write, max_size: 64MiB}
snapshot: {count: 5, by: {interval: 1h}, dir: "/snap/{{ group_name }}/{{replicaset_name}}"}
replication:
  failover: election
  election_mode: voter
  election_timeout: 700ms
  election_fencing_mode: off
  timeout: 0.2
  reconnect_timeout: 300ms
  connect_timeout: 9
  synchro_quorum: 2
  synchro_timeout: 6
  synchro_queue_max_size: 10MB
  linearizable_quorum: N
  skip_conflict: true
  bootstrap_strategy: config
limits: {max_waiting_calls: 5, max_batch_ops: 6, tuple_bytes_max: 64KiB}
log: {format: plain, level: warn}
""",
        in_set="        bootstrap_leader: i2\n",
        i2="replication: {election_mode: manual}",
    )
    got = settings(text)

    assert got.wal_dir == "/etc/synchro/data/i1"
    assert got.snapshot_dir == "/snap/g/r"
    assert got.txn_synchro_timeout_s == 60
    assert (got.wal_mode, got.limits.wal_max_size) == (WalMode.WRITE, 64 << 20)
    assert (got.checkpoint_count, got.checkpoint_interval_s) == (5, 3600)
    assert (got.election_mode, got.election_timeout_s) == (ElectionMode.VOTER, 0.7)
    assert got.election_fencing_mode is FencingMode.OFF
    assert (got.replication_timeout_s, got.retry_s, got.connect_timeout_s) == (0.2, 0.3, 9)
    assert got.synchro_quorum.quorum(2) == 2
    assert got.synchro_queue_max_size == 10_000_000
    assert got.linearizable_quorum.text == "N"
    assert got.skip_conflict
    assert (got.bootstrap_strategy, got.bootstrap_leader) == (BootstrapStrategy.CONFIG, "i2")
    assert got.limits == Limits(
        waiting_calls_max=5, batch_ops_max=6, tuple_bytes_max=65536, wal_max_size=64 << 20
    )
    assert (got.log_format, got.log_level) == ("console", "warning")
    assert not got.read_only


@pytest.mark.parametrize("scope", ["global", "group", "set", "instance"])
def test_the_inner_scope_wins(scope: str) -> None:
    """[C-1]: maps are merged, scalars replaced."""
    scopes = ("global", "group", "set", "instance")
    lines = {
        s: f"replication: {{timeout: {n}}}" for n, s in enumerate(scopes, 1) if n <= scopes.index(scope) + 1
    }
    text = f"""
{lines.get("global", "")}
groups:
  g:
    {lines.get("group", "database: {}")}
    replicasets:
      r:
        {lines.get("set", "database: {}")}
        instances:
          i1:
            {lines.get("instance", "database: {}")}
            replication: {{skip_conflict: true}}
""".replace("replication: {timeout: 4}\n            replication: {", "replication: {timeout: 4, ")
    got = settings(text)
    assert got.replication_timeout_s == scopes.index(scope) + 1
    assert got.skip_conflict


def test_an_inner_null_brings_the_default_back() -> None:
    text = cluster("replication: {timeout: 7}", i1="replication: {timeout: null}")
    assert settings(text).replication_timeout_s == 1
    assert settings(text, "i2").replication_timeout_s == 7


@pytest.mark.parametrize(
    ("failover", "instances", "option", "expected"),
    [
        ("off", 1, "", (ElectionMode.OFF, False)),
        ("off", 2, "", (ElectionMode.OFF, True)),
        ("off", 2, "database: {mode: rw}", (ElectionMode.OFF, False)),
        ("off", 1, "database: {mode: ro}", (ElectionMode.OFF, True)),
        ("election", 2, "", (ElectionMode.CANDIDATE, False)),
        ("election", 2, "replication: {election_mode: manual}", (ElectionMode.MANUAL, False)),
        ("election", 2, "replication: {election_mode: off}", (ElectionMode.OFF, True)),
    ],
)
def test_who_may_write(
    failover: str, instances: int, option: str, expected: tuple[ElectionMode, bool]
) -> None:
    """[C-20]."""
    members = {"i1": option} if option else {}
    got = settings(cluster(f"replication: {{failover: {failover}}}", instances=instances, **members))
    assert (got.election_mode, got.read_only) == expected


def test_the_leader_of_manual_failover_is_the_only_writable_one() -> None:
    config = read(cluster("replication: {failover: manual}", in_set="        leader: i2\n"))
    assert [i.settings.read_only for i in config.instances.values()] == [True, False]


@pytest.mark.parametrize(
    ("failover", "option", "by"),
    [
        ("off", "", "database.mode: ro"),
        ("off", "isolated: true, database: {mode: rw}", "isolated: true"),
        ("manual", "", "replication.failover: manual, leader: i2"),
        ("election", "replication: {election_mode: off}", "replication.election_mode: off"),
        ("election", "replication: {election_mode: off}, isolated: true", "isolated: true"),
    ],
)
def test_what_makes_an_instance_read_only_is_named(failover: str, option: str, by: str) -> None:
    """[E-44]: by the option that a person would change."""
    in_set = "        leader: i2\n" if failover == "manual" else ""
    text = f"replication: {{failover: {failover}}}"
    got = settings(cluster(text, in_set=in_set, i1=option) if option else cluster(text, in_set=in_set))
    assert got.read_only and got.read_only_by == by


def test_an_instance_without_an_address_is_left_out_for_everybody() -> None:
    """[C-10], [C-12]: this is how a person cuts one off; it does not listen itself."""
    text = cluster(instances=2) + "          i3: {grpc: {}}\n"
    config = read(text)
    assert config.instance("i3").settings.listen == ""
    for instance in config.instances.values():
        assert [peer.name for peer in instance.settings.peers] == ["i1", "i2"]


@pytest.mark.parametrize(
    ("own", "listen", "word"),
    [
        ("grpc: {}", "", "cannot be started"),
        ("iproto: {}", "", "cannot be started"),
        ("grpc: {listen: []}", "", "cannot be started"),
        ("database: {}", "", "cannot be started"),
        ("grpc: {advertise: {peer: {uri: '127.0.0.1:3309'}}}", "", "cannot be started"),
        ("grpc: {listen: [{uri: '0.0.0.0:3309'}]}", "0.0.0.0:3309", "peers cannot connect"),
        ("grpc: {listen: [{uri: '127.0.0.1:0'}]}", "127.0.0.1:0", "peers cannot connect"),
    ],
)
def test_an_address_that_is_missing_is_the_mistake_of_one_instance(own: str, listen: str, word: str) -> None:
    """The step of the tutorial, also in a pair: the other one is told, and starts."""
    config = read(cluster(instances=1) + f"          i2: {{{own}}}\n")
    [warning] = config.warnings
    assert warning.startswith("i2 has no usable address")
    assert word in warning
    check_has_address(config.instance("i1").settings)
    broken = config.instance("i2").settings
    assert broken.listen == listen
    if not listen:
        with pytest.raises(ConfigError, match="nobody could reach it"):
            check_has_address(broken)


def test_an_isolated_instance_has_no_sources_and_is_read_only() -> None:
    config = read(cluster(instances=3, i3="isolated: true, database: {mode: rw}"))
    alone = config.instance("i3").settings
    assert (alone.listen, alone.peers, alone.read_only) == ("", (), True)
    assert [peer.name for peer in config.instance("i1").settings.peers] == ["i1", "i2"]
    check_has_address(alone)  # it is meant so
    assert not config.warnings


def test_the_advertised_address_is_what_peers_use() -> None:
    """[C-11]."""
    text = cluster(
        i1="http: {}",
        i2="iproto: {advertise: {peer: {uri: 'replicator:secret@db2.example:3301'}}}",
    ).replace("127.0.0.1:3302", "0.0.0.0:3302")
    peers = settings(text).peers
    assert [peer.address for peer in peers] == ["127.0.0.1:3301", "db2.example:3301"]


def test_explicit_peers_replace_the_configured_ones() -> None:
    text = cluster("replication: {peers: ['replicator:pw@127.0.0.1:3302', 'other.example:3309']}")
    assert [(p.name, p.address) for p in settings(text).peers] == [
        ("i2", "127.0.0.1:3302"),
        ("other.example:3309", "other.example:3309"),
    ]


def test_options_of_tarantool_that_mean_nothing_here_are_named_in_one_warning() -> None:
    config = read(
        cluster(
            "memtx: {allocator: x}\niproto: {threads: 4}\nlog: {nonblock: true}\n"
            "database: {use_mvcc_engine: true}"
        )
    )
    [warning] = config.warnings
    for key in ("memtx.allocator", "iproto.threads", "log.nonblock", "database.use_mvcc_engine"):
        assert key in warning


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "http: {listen: '127.0.0.1:8301'}",
            "http.listen: metrics and health over HTTP are not in this release",
        ),
        ("database: {hot_standby: true}", "database.hot_standby: a directory has one process"),
        ("limits: {message_bytes_max: 17MiB}", "limits.message_bytes_max: it is the same for all instances"),
        ("limits: {stream_in_bytes_max: 1MiB}", "limits.stream_in_bytes_max: it does not change"),
        ("compat: {replication_synchro_timeout: old}", "a timeout decides nothing here"),
        ("compat: {x: older}", "the value must be one of the following strings: 'old', 'new', 'default'"),
        ("database: {instance_uuid: 11111111-1111-4111-8111-111111111111}", "have one UUID"),
        ("database: {replicaset_uuid: 00000000-0000-0000-0000-000000000000}", "Nil UUID is reserved"),
        ("database: {replicaset_uuid: x}", "expected a UUID"),
    ],
)
def test_what_has_one_value_or_a_meaning_of_its_own_refuses_others(text: str, why: str) -> None:
    assert why in str(refusal(cluster(text)))


def test_what_is_so_anyway_may_be_said() -> None:
    text = "database: {hot_standby: false, txn_timeout: 5, txn_isolation: read-committed}\n"
    text += "limits: {message_bytes_max: 16MiB}\ncompat: {replication_synchro_timeout: new}"
    assert read(cluster(text)).warnings == ()
    assert "compat: fiber_slice mean nothing here" in " ".join(
        read(cluster("compat: {fiber_slice: old}")).warnings
    )


def test_wal_mode_write_warns() -> None:
    assert "acknowledged writes" in " ".join(read(cluster("wal: {mode: write}", instances=1)).warnings)


def test_anchors_and_merge_keys_work() -> None:
    text = cluster("replication: &r {timeout: 3}", i1="replication: {<<: *r, skip_conflict: true}")
    assert settings(text).replication_timeout_s == 3


# --- environment ----------------------------------------------------------------------------------------


def test_the_environment_beats_the_file() -> None:
    """[C-2]."""
    text = cluster("replication: {timeout: 7}", i1="replication: {timeout: 8}")
    got = settings(text, SYNCHRO_REPLICATION_TIMEOUT="250ms", SYNCHRO_DATABASE_MODE="rw")
    assert (got.replication_timeout_s, got.read_only) == (0.25, False)


def test_a_default_from_the_environment_is_beaten_by_the_file() -> None:
    environ = {"SYNCHRO_REPLICATION_TIMEOUT_DEFAULT": "9", "SYNCHRO_REPLICATION_CONNECT_TIMEOUT_DEFAULT": "8"}
    got = settings(cluster("replication: {timeout: 7}"), **environ)
    assert (got.replication_timeout_s, got.connect_timeout_s) == (7, 8)


def test_the_environment_of_one_instance_does_not_move_the_others() -> None:
    got = settings(cluster(), SYNCHRO_GRPC_LISTEN="[{uri: 127.0.0.1:4401}]")
    assert got.listen == "127.0.0.1:4401"
    assert [peer.address for peer in got.peers] == ["127.0.0.1:3301", "127.0.0.1:3302"]


def test_a_bad_value_in_the_environment_names_the_variable() -> None:
    error = refusal(cluster(), SYNCHRO_REPLICATION_TIMEOUT="soon")
    assert "environment SYNCHRO_REPLICATION_TIMEOUT: replication.timeout" in str(error)


def test_other_variables_are_left_alone_and_misspelt_ones_named() -> None:
    environ = {"SYNCHRO_ENDPOINTS": "a:1", "SYNCHRO_REPLICATION_TMEOUT": "1", "SYNCHRO_FAILPOINTS": "x"}
    assert read(cluster(), **environ).warnings == (
        "SYNCHRO_REPLICATION_TMEOUT in the environment is no option: ignored",
    )


def test_what_is_decided_for_one_start_is_no_variable() -> None:
    """[W-22]: as in a file, it is refused by its name."""
    error = refusal(cluster(), SYNCHRO_FORCE_RECOVERY="true")
    assert "environment SYNCHRO_FORCE_RECOVERY: force_recovery: it is decided for one start" in str(error)
    read(cluster(), SYNCHRO_FORCE_RECOVERY="false")


# --- what is refused ------------------------------------------------------------------------------------


def test_an_unknown_key_names_file_line_and_the_nearest_key() -> None:
    error = refusal(MASTER_MASTER.replace("{mode: rw}", "{mdoe: rw}", 1))
    [problem] = error.problems
    assert (problem.line, problem.nearest) == (18, "mode")
    assert str(error) == (
        "/etc/synchro/config.yaml:18: "
        "groups.group001.replicasets.replicaset001.instances.instance001.database.mdoe: "
        "unknown key (did you mean 'mode'?)"
    )
    assert error.details["line"] == "18"
    assert error.details["nearest"] == "mode"
    assert error.reason == "CONFIG"


def test_all_problems_are_listed_at_once() -> None:
    error = refusal(
        cluster("replication: {tmeout: 1, skip_conflict: 1, timeout: 5 weeks}\nwal: {mode: fsnc}")
    )
    assert [problem.key for problem in error.problems] == [
        "replication.tmeout",
        "replication.skip_conflict",
        "replication.timeout",
        "wal.mode",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replication: {timeout: 0}", "the value must be greater than 0"),
        ("replication: {election_timeout: -1}", "the value must be a positive number"),
        ("replication: {synchro_timeout: 0s}", "the value must be greater than zero"),
        ("replication: {timeout: .inf}", "expected a duration"),
        ("wal: {cleanup_delay: -1}", "the value must be 0 or greater, got -1"),
        ("wal: {cleanup_delay: -4.6e-88}", "the value must be 0 or greater, got -4.6e-88"),
        ("replication: {timeout: 1e30}", "expected a duration"),
        ("replication: {timeout: 1.0e+30}", "longer than"),
        ("replication: {synchro_queue_max_size: 1.5}", "whole number of bytes"),
        ("replication: {synchro_queue_max_size: 5 bananas}", "expected a size"),
        ("replication: {synchro_quorum: 0}", "greater than zero and less than maximal number of replicas"),
        ("replication: {synchro_quorum: N * N}", "evaluated to the quorum 36 for replica number 6"),
        ("replication: {synchro_quorum: N - Q + 1}", "only N"),
        ("replication: {synchro_quorum: import os}", "formula"),
        ("replication: {synchro_quorum: 3}", "above the number of configured instances (2)"),
        ("replication: {failover: sometimes}", "'off', 'manual', 'election'"),
        ("replication: {failover: supervised}", "needs an external coordinator"),
        ("replication: {election_mode: voter}", 'only applicable if replication.failover = "election"'),
        ("replication: {failover: election}\ndatabase: {mode: rw}", "cannot be used together with"),
        ("replication: {bootstrap_strategy: config}", "needs bootstrap_leader"),
        ("replication: {peers: ['not an address']}", "HOST:PORT"),
        ("replication: {peers: 127.0.0.1:3301}", "expected a list"),
        ("replication: []", "expected a map, got a list"),
        ("wal: {mode: none}", "only for an instance that is alone"),
        ("database: {dir: 'x/{{ hostname }}'}", "unknown template"),
        ("database: {use_fsync: true}", "use wal.mode: fsync"),
        ("leader: i1", "belongs to a replica set"),
        ("limits: {max_waiting_calls: 0}", "expected 1 to"),
        ("limits: {tuple_bytes_max: 9MiB}", "is above txn_bytes_max"),
        ("grpc: {listen: [{uri: 'user@127.0.0.1:1'}]}", "no login"),
        ("credentials: {users: {u: {password: 123}}}", "quote a number"),
        ("log: {level: loud}", "'debug', 'info'"),
        ("replication: {timeout: 1}\nreplication: {timeout: 2}", "already given in line 1"),
        ("replication: {timeout: !!python/name:os.system x}", "not allowed"),
        ("? [a]\n: 1", "a key must be a plain word"),
        ("[1, 2]", "expected a map, got a list"),
        ("replication: {timeout: 1", "not YAML"),
        ("\ttabs: 1", "not YAML"),
    ],
)
def test_refusals(text: str, expected: str) -> None:
    got = text if text == "[1, 2]" else cluster(text)
    if "grpc" in text:
        got = got.replace("grpc: {listen: [{uri: '127.0.0.1:3301'}]}", "http: {}")
    error = refusal(got)
    assert expected in str(error), str(error)
    assert str(error).startswith("/etc/synchro/config.yaml")


def test_leader_belongs_to_manual_failover() -> None:
    """[C-21], the texts word for word."""
    assert (
        '"leader" = "i1" option is set for replicaset "r" of group "g", but this option cannot be used '
        'together with replication.failover = "off"'
    ) in str(refusal(cluster(in_set="        leader: i1\n")))
    assert 'but instance "i9" is not found in this replicaset' in str(
        refusal(cluster("replication: {failover: manual}", in_set="        leader: i9\n"))
    )
    assert (
        'database.mode = "rw" is set for instance "i1" of replicaset "r" of group "g", but this option '
        'cannot be used together with replication.failover = "manual"'
    ) in str(
        refusal(
            cluster(
                "replication: {failover: manual}", in_set="        leader: i1\n", i1="database: {mode: rw}"
            )
        )
    )


def test_failover_is_decided_for_the_whole_set() -> None:
    assert "belongs to the replica set or above" in str(refusal(cluster(i1="replication: {failover: off}")))


def test_two_instances_on_one_address() -> None:
    text = cluster().replace("3302", "3301")
    assert "127.0.0.1:3301 is also the address of i1" in str(refusal(text))


@pytest.mark.parametrize(
    "again", ["127.0.0.1:3302", "grpc://127.0.0.1:3302", "user:pw@127.0.0.1:3302", "127.0.0.1:03302"]
)
def test_one_peer_twice_at_one_address(again: str) -> None:
    """Its two streams would cut each other off without end."""
    text = cluster(f"replication: {{peers: ['127.0.0.1:3302', 'other.example:3309', '{again}']}}")
    problem = refusal(text)
    assert "127.0.0.1:3302 is named twice" in str(problem) or "HOST:PORT" in str(problem)


def test_names_are_unique_in_the_document() -> None:
    text = cluster() + "  h:\n    replicasets:\n      r: {instances: {i1: {}}}\n"
    message = str(refusal(text))
    assert "replica set 'r' is already defined in line" in message
    assert "instance 'i1' is already defined in line" in message


def test_a_set_where_nobody_can_be_reached() -> None:
    text = "groups: {g: {replicasets: {r: {instances: {i1: {}, i2: {}}}}}}"
    assert "no suitable peer URIs found" in str(refusal(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no instances"),
        ("groups: {}", "no instances"),
        ("groups: {g: {}}", "at least one replica set"),
        ("groups: {g: {replicasets: {r: }}}", "at least one instance"),
        ("groups: {g: {replicasets: {r: {instances: {'a/b': {}}}}}}", "is not a name"),
    ],
)
def test_empty_documents(text: str, expected: str) -> None:
    assert expected in str(refusal(text))


def test_more_than_31_instances() -> None:
    members = ", ".join(f"i{n}: {{grpc: {{listen: [{{uri: 'h:{3300 + n}'}}]}}}}" for n in range(32))
    assert "at most 31" in str(
        refusal(f"groups: {{g: {{replicasets: {{r: {{instances: {{{members}}}}}}}}}}}")
    )


def test_a_bomb_of_aliases_is_refused_quickly() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "aliases" in str(refusal("\n".join(levels)))
    assert "alias that contains itself" in str(refusal("a: &a [*a]"))
    assert "levels deep" in str(refusal("[" * 500))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever reads it while an instance runs would keep a thread of that."""
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    with pytest.raises(ConfigFileError, match="it is no regular file"):
        load_all(pipe)
    password = tmp_path / "app.password"
    os.mkfifo(password)
    text = cluster(f"credentials: {{users: {{app: {{password_file: {password}}}}}}}")
    assert f"{password} is no file" in str(refusal(text))


def test_a_huge_file_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigFileError, match="cannot read the configuration"):
        load_all(path)
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigFileError, match="larger than"):
        load_all(path)


def test_load_of_an_unknown_instance_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(MASTER_MASTER)
    assert load(path, "instance002", {}).wal_dir == str(tmp_path / "var/lib/instance002")
    with pytest.raises(ConfigFileError, match="the file has: instance001, instance002"):
        load(path, "instance003", {})


# --- listening, init, no file ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:1", False),
        ("127.8.8.8:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("", False),
        ("0.0.0.0:1", True),
        ("10.0.0.1:1", True),
        ("[::]:1", True),
        ("db1.example:1", True),
    ],
)
def test_who_can_reach_an_address(listen: str, expected: bool) -> None:
    assert needs_insecure(Settings(listen=listen)) is expected
    check_listen(Settings(listen=listen), insecure=True)
    if expected:
        with pytest.raises(ConfigError, match="--insecure"):
            check_listen(Settings(listen=listen), insecure=False)


@pytest.mark.parametrize("nodes", [1, 3, 31])
@pytest.mark.parametrize("failover", ["election", "manual", "off"])
def test_what_init_writes_loads_without_a_warning(nodes: int, failover: str) -> None:
    config = read(init_text(nodes, base_port=4000, failover=failover))
    assert len(config.instances) == nodes
    assert config.warnings == ()
    assert config.instance("instance001").settings.listen == "127.0.0.1:4000"
    assert not config.instance("instance001").settings.read_only


def test_each_step_of_the_comments_about_users_loads_without_a_warning(tmp_path: Path) -> None:
    def read(text: str) -> ClusterConfig:
        return parse(text, path=str(tmp_path / "config.yaml"), environ={})

    text = init_text()
    for name in ("admin", "app", "replicator"):
        (tmp_path / f"{name}.password").write_text("x\n")
    users = ("    # admin", "    # app", "    # replicator")
    for old in users:
        assert old in text
        text = text.replace(old, old.replace("# ", ""))
    assert read(text).warnings == ()
    text = text.replace("# grpc: ", "grpc: ")
    assert read(text).warnings == ()
    text = text.replace("    guest:", "    # guest:")
    assert read(text).warnings == ()
    assert [w[:19] for w in read(text.replace("\ngrpc: ", "\n# grpc: ")).warnings] == ["peers call as guest"]


@pytest.mark.parametrize(("nodes", "port"), [(0, 3301), (32, 3301), (3, 65534), (3, 0)])
def test_init_refuses_what_cannot_be(nodes: int, port: int) -> None:
    with pytest.raises(ConfigError):
        init_text(nodes, base_port=port)


def test_an_instance_without_a_file() -> None:
    got = settings_without_file(
        listen="127.0.0.1:3302", data_dir="d2", replication="replicator:pw@127.0.0.1:3301", read_only=True
    )
    assert (got.listen, got.wal_dir, got.read_only) == ("127.0.0.1:3302", "d2", True)
    assert [peer.address for peer in got.peers] == ["127.0.0.1:3301"]
    assert got.instance_name == "instance-127-0-0-1-3302"
    with pytest.raises(ConfigFileError, match="--replication"):
        settings_without_file(listen="127.0.0.1:1", data_dir="d", replication="nowhere:x")


WITH_PASSWORD = "credentials: {users: {app: {password: topsecret}}}"
IN_A_FILE = "credentials: {users: {app: {password_file: app.password}}}"
OF_PEERS = "grpc: {advertise: {peer: {login: app, password: topsecret}}}\n" + IN_A_FILE


@pytest.mark.parametrize(
    ("top", "mode", "is_told"),
    [
        (WITH_PASSWORD, 0o644, True),
        (WITH_PASSWORD, 0o604, True),
        (OF_PEERS, 0o644, True),
        (WITH_PASSWORD, 0o640, False),
        (WITH_PASSWORD, 0o600, False),
        (IN_A_FILE, 0o644, False),
        ("", 0o644, False),
    ],
)
def test_passwords_that_everybody_can_read_are_told(
    tmp_path: Path, top: str, mode: int, is_told: bool
) -> None:
    """At the start, by `config check`, and among the alerts."""
    path = tmp_path / "config.yaml"
    path.write_text(cluster(top))
    (tmp_path / "app.password").write_text("topsecret\n")
    path.chmod(mode)
    config = load_all(path, {})
    assert bool(config.exposure) is is_told
    assert (config.exposure in config.warnings) is is_told
    if is_told:
        assert f"mode {mode:04o}" in config.exposure and str(path) in config.exposure


@pytest.mark.parametrize("password", ['"a\\nb"', '"a\\0"'])
def test_a_password_that_nobody_could_give_is_refused(password: str) -> None:
    error = refusal(cluster(f"credentials: {{users: {{app: {{password: {password}}}}}}}"))
    assert "credentials.users.app.password" in str(error) and "without line break and NUL" in str(error)
