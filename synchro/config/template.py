"""A configuration for those who have none: the file of `synchro init`, and `serve` by flags alone."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from synchro.config import ConfiguredUser, Credentials, PeerAddress, Settings
from synchro.config.address import WILDCARDS, join, parse_uri, split
from synchro.config.file import ClusterConfig, ConfigFileError, parse
from synchro.config.logins import NO_LOGIN, PeerLogin, PeerLogins
from synchro.config.schema import ConfigProblem
from synchro.errors import ConfigError
from synchro.ids import INSTANCE_ID_MAX, NAME_LENGTH_MAX, InstanceName, name_like, why_no_name
from synchro.secret import Secret

DEFAULT_PORT: Final = 3301


def settings_without_file(
    *,
    listen: str,
    data_dir: str | Path,
    replication: str | Iterable[str] = (),
    read_only: bool = False,
    name: str | None = None,
    admin_password: str | None = None,
) -> Settings:
    """`synchro serve --listen URI --data-dir DIR [--replication URI,...] [--read-only]` [M-1].

    replication: the sources, as a comma-separated string or one by one; the first login in them is also that
    for members which join later.
    name: default made of the address, since a name must be unique in its replica set. admin_password: of the
    user `admin`; then the guest of a new set may do nothing.
    """
    problems: list[ConfigProblem] = []
    uris = (
        [part.strip() for part in replication.split(",")]
        if isinstance(replication, str)
        else list(replication)
    )
    host, port = _split_or_report(listen, "--listen", problems)
    peers = []
    logins: dict[str, PeerLogin] = {}
    for text in filter(None, uris):
        try:
            uri = parse_uri(text)
        except ValueError as error:
            problems.append(ConfigProblem("command line", 0, "--replication", str(error)))
            continue
        address = join(*_split_or_report(uri.address, "--replication", problems))
        peers.append(PeerAddress(name="", address=address))
        if uri.user and uri.user != NO_LOGIN:
            logins[address] = PeerLogin(uri.user, uri.password or Secret(""))
    if name is not None and (why := why_no_name(name)):
        problems.append(ConfigProblem("command line", 0, "--name", why, name_like(name)))
    if len(peers) > INSTANCE_ID_MAX:
        problems.append(
            ConfigProblem("command line", 0, "--replication", f"more than {INSTANCE_ID_MAX} sources")
        )
    if problems:
        raise ConfigFileError(problems)
    if name is None:
        name = _name_by_address(socket.gethostname() if host in WILDCARDS else host, port)
    address = join(host, port)
    peers = [replace(peer, name=name if peer.address == address else peer.address) for peer in peers]
    return Settings(
        instance_name=InstanceName(name),
        listen=address,
        peers=tuple(peers),
        peer_logins=PeerLogins(next(iter(logins.values()), None), MappingProxyType(logins)),
        wal_dir=str(data_dir),
        snapshot_dir=str(data_dir),
        read_only=read_only,
        credentials=None
        if admin_password is None
        else Credentials((ConfiguredUser("admin", password=Secret(admin_password)),)),
    )


def config_of_flags(settings: Settings, replication: str) -> ClusterConfig:
    """A file that says what the flags say, so that options can be set while the instance runs.

    settings: of `settings_without_file`; replication: as there.
    """
    sources = [part.strip() for part in replication.split(",")]
    login = settings.peer_logins.default
    peer = {} if login is None else {"login": login.user, "password": login.password.reveal()}
    own = {
        "grpc": {"listen": [{"uri": settings.listen}], "advertise": {"peer": peer}},
        "database": {"dir": settings.wal_dir, "mode": "ro" if settings.read_only else "rw"},
        "replication": {"peers": [uri for uri in sources if uri]},
    }
    members = {"instances": {settings.instance_name: own}}
    text = json.dumps({"groups": {"group001": {"replicasets": {settings.replicaset_name: members}}}})
    return replace(parse(text, path="command line", environ={}), is_file=False)


def _name_by_address(host: str, port: int) -> str:
    """Other ports give other names, however long the host's is."""
    shown = re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")
    room = NAME_LENGTH_MAX - len(f"instance--{port}")
    return f"instance-{shown[:room].strip('-')}-{port}" if shown else f"instance-{port}"


def _split_or_report(address: str, key: str, problems: list[ConfigProblem]) -> tuple[str, int]:
    try:
        return split(address)
    except ValueError as error:
        problems.append(ConfigProblem("command line", 0, key, str(error)))
        return "127.0.0.1", 0


def init_text(
    nodes: int = 3,
    *,
    base_port: int = DEFAULT_PORT,
    host: str = "127.0.0.1",
    failover: str = "election",
    replicaset: str = "replicaset001",
) -> str:
    """The commented configuration that `synchro init DIR --nodes 3` writes. Loads without a warning."""
    if not 1 <= nodes <= INSTANCE_ID_MAX:
        raise ConfigError(f"a replica set has 1 to {INSTANCE_ID_MAX} instances, not {nodes}", key="--nodes")
    if not 1 <= base_port <= 65535 - nodes + 1:
        raise ConfigError(f"ports {base_port} to {base_port + nodes - 1} do not exist", key="--base-port")
    mode = "database: {mode: rw}, " if failover == "off" else ""
    leader = "        leader: instance001\n" if failover == "manual" else ""
    members = "".join(
        f"          instance{number:03}: {{{mode}grpc: {{listen: [{{uri: '{join(host, port)}'}}]}}}}\n"
        for number, port in enumerate(range(base_port, base_port + nodes), 1)
    )
    return _INIT.format(failover=failover, replicaset=replicaset, members=members, leader=leader)


_INIT: Final = """\
# One file describes the whole replica set. An option may stand at the top, in a group, in a replica set or
# at an instance; the inner one wins. SYNCHRO_A_B_C in the environment of an instance beats the file.
# Check it:  synchro config check THIS_FILE        Start it:  synchro start THIS_FILE

replication:
  failover: {failover:<14} # off: database.mode decides | manual: leader: decides | election: Raft decides
  # synchro_quorum: N / 2 + 1    # instances that must hold a synchronous write before it is confirmed
  # timeout: 1                   # seconds between heartbeats; a silent peer counts as dead after four
  # election_timeout: 5          # seconds; only with failover: election
  # synchro_timeout: 5           # seconds that promote, demote and snapshot wait
  # synchro_queue_max_size: 16MiB

# database:
#   dir: "var/lib/{{{{ instance_name }}}}"    # relative to this file; wal.dir and snapshot.dir beat it
#   txn_synchro_timeout: 5       # seconds a write waits for its quorum; then: outcome unknown

# wal:
#   mode: fsync                  # write: faster, and an acknowledged write may be lost with the power

# log: {{format: json, level: info}}

credentials:                     # who may do what; a change counts after: synchro config reload THIS_FILE
  users:
    guest: {{roles: [super]}}      # whoever can connect may do everything, without a password; peers, too.
                                 # Before others can reach the set: make three files of passwords, and
                                 # change this file in three steps, each with a reload: take the # off the
                                 # three users; then off grpc; then take this line away
    # admin: {{password_file: admin.password}}                     # synchro -u admin --password-file FILE ...
    # app: {{password_file: app.password, privileges: [{{permissions: [read, write], spaces: [all]}}]}}
    # replicator: {{password_file: replicator.password, roles: [replication]}}    # as whom instances log in

# grpc: {{advertise: {{peer: {{login: replicator}}}}}}

groups:
  group001:
    replicasets:
      {replicaset}:
{leader}        instances:
{members}"""
