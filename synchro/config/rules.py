"""From the merged options of one instance to its `Settings`: addresses, failover, and what excludes what.

Problems are reported to the view, with their place; a `Settings` made after one is not used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from synchro.config import ElectionMode, Limits, PeerAddress, QuorumFormula, Settings, WalMode
from synchro.config.address import Uri, is_connectable, join, parse_uri, split
from synchro.config.configured_users import credentials_of
from synchro.config.located import Located
from synchro.config.once import wrong_order
from synchro.config.option import Effect, Option
from synchro.config.options import DIRECTORY, LOG_FILE, LOGINS, TABLE
from synchro.config.quorum_rules import too_few_for_reads
from synchro.config.schema import PARAMS, ConfigProblem
from synchro.ids import InstanceName
from synchro.secret import Secret

_TEMPLATE: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


# --- merged options ---------------------------------------------------------------------------------------


def merge(outer: Located, inner: Located) -> Located:
    """Maps are merged recursively; scalars and lists are replaced [C-1]."""
    if isinstance(outer.value, dict) and isinstance(inner.value, dict):
        value = dict(outer.value)
        for key, item in inner.value.items():
            value[key] = merge(value[key], item) if key in value else item
        return Located(value, inner.line or outer.line, inner.source or outer.source)
    return inner


def without(item: Located, *keys: str) -> Located:
    assert isinstance(item.value, dict)
    return Located({k: v for k, v in item.value.items() if k not in keys}, item.line, item.source)


@dataclass(slots=True)
class View:
    """The options of one instance after merging; `get` takes a dotted path."""

    name: InstanceName
    group: str
    replicaset: str
    root: Located
    file: str
    problems: list[ConfigProblem]
    templates: Mapping[str, str] = field(default_factory=dict)

    def find(self, path: str) -> Located | None:
        item = self.root
        for key in path.split("."):
            if not isinstance(item.value, dict) or key not in item.value:
                return None
            item = item.value[key]
        return None if item.value is None else item

    def get(self, path: str, default: Any = None) -> Any:
        item = self.find(path)
        return default if item is None else self.expand(item.value, item, path)

    def text(self, path: str, default: str) -> str:
        item = self.find(path)
        place = item if item is not None else Located(default, 0, self.file)
        return str(self.expand(default if item is None else item.value, place, path))

    def expand(self, value: Any, place: Located, path: str) -> Any:
        """Templates [C-2]: only these three names, in strings only."""
        if not isinstance(value, str) or "{{" not in value:
            return value

        def one(match: re.Match[str]) -> str:
            if match[1] not in self.templates:
                self.report(
                    path, f"unknown template {match[0]!r}; there are: {', '.join(self.templates)}", place
                )
                return ""
            return self.templates[match[1]]

        return _TEMPLATE.sub(one, value)

    def report(self, path: str, message: str, place: Located | None = None) -> None:
        place = place if place is not None else self.find(path)
        line, source = (place.line, place.source) if place is not None else (0, self.file)
        self.problems.append(ConfigProblem(source or self.file, line, path, message))


# --- addresses --------------------------------------------------------------------------------------------


def _listen(view: View) -> str:
    """host:port, or "" for an instance that does not listen [C-10]. iproto stands in for grpc [C-4]."""
    for section in ("grpc", "iproto"):
        item = view.find(f"{section}.listen")
        if item is None:
            continue
        if not item.value:
            return ""
        uri = item.value[0].value["uri"].value
        try:
            return join(*split(str(view.expand(uri, item, f"{section}.listen"))))
        except ValueError as error:
            view.report(f"{section}.listen", str(error), item)
            return ""
    return ""


def is_anonymous(view: View) -> bool:
    return bool(view.get("replication.anon", False))


def members_of(view: View, views: Sequence[View]) -> list[View]:
    """Those of the set that are no anonymous followers [C-22]. view: what it says of itself counts, the
    environment included."""
    return [one for one in views if not is_anonymous(view if one.name == view.name else one)]


def peer_address(view: View) -> str | None:
    """Where peers reach this instance [C-11]; None: nowhere, it is left out for everybody [C-12]."""
    if view.get("isolated", False):
        return None
    for section in ("grpc", "iproto"):
        path = f"{section}.advertise.peer.uri"
        if (item := view.find(path)) is not None:
            try:
                address = parse_uri(view.text(path, "")).address
                host, port = split(address)
            except ValueError as error:
                view.report(path, str(error), item)
                return None
            if not is_connectable(address):
                view.report(path, f"peers cannot connect to {address!r}", item)
            return join(host, port)
    listen = _listen(view)
    return listen if listen and is_connectable(listen) else None


def check_addresses(views: list[View], addresses: Mapping[str, str | None]) -> None:
    """Two instances on one address: peers would talk to one of them and take it for both."""
    seen: dict[str, str] = {}
    for view in views:
        address = addresses[view.name]
        if address is None:
            continue
        if address in seen:
            path = next(
                f"{section}.{key}"
                for section in ("grpc", "iproto")
                for key in ("advertise.peer.uri", "listen")
                if view.find(f"{section}.{key}")
            )
            view.report(path, f"{address} is also the address of {seen[address]}")
        seen.setdefault(address, view.name)


def _peers(view: View, addresses: Mapping[str, str | None]) -> tuple[PeerAddress, ...]:
    item = view.find("replication.peers")
    if view.get("isolated", False):
        return ()
    if item is not None:
        names = {address: name for name, address in addresses.items() if address is not None}
        peers: list[PeerAddress] = []
        for uri in item.value:
            try:
                address = join(*split(peer_uri(view, uri).address))
            except ValueError as error:
                view.report("replication.peers", str(error), uri)
                continue
            if any(peer.address == address for peer in peers):
                view.report("replication.peers", f"{address} is named twice: each peer has one address", uri)
                continue
            peers.append(PeerAddress(names.get(address, address), address))
        return tuple(peers)
    if addresses.keys() <= {view.name}:
        return ()
    if not any(addresses.values()):
        # One that cannot be reached is its own mistake, told when it is started (ADR 21); here nobody can.
        view.report(
            f"groups.{view.group}.replicasets.{view.replicaset}",
            f"no suitable peer URIs found for instance {view.name!r}: "
            "the instances of the set need grpc.listen or grpc.advertise.peer.uri",
            view.root,
        )
    return tuple(PeerAddress(name, address) for name, address in addresses.items() if address is not None)


def peer_uri(view: View, item: Located) -> Uri:
    """One of `replication.peers`. Raises `ValueError`."""
    return parse_uri(str(view.expand(item.value, item, "replication.peers")))


def _names_all(view: View, peers: Sequence[PeerAddress], addresses: Mapping[str, str | None]) -> bool:
    """Whether the sources are all instances of the set; one that is alone in it needs none, but if it names
    some it means those."""
    if view.find("replication.peers") is None:
        return bool(peers) or len(addresses) == 1
    known = {address for address in addresses.values() if address is not None}
    return len(addresses) > 1 and known <= {peer.address for peer in peers}


# --- settings ---------------------------------------------------------------------------------------------


def settings_of(view: View, views: list[View], addresses: Mapping[str, str | None]) -> Settings:
    """Most options go into their field as they are; here stand those that do not."""
    is_isolated = view.get("isolated", False)
    members = members_of(view, views)
    addresses = {one.name: addresses[one.name] for one in members}
    _check_anonymous(view, members)
    _check_failover(view, views)
    _check_autoexpel(view, members)
    election_mode, read_only = _failover(view, members)
    wal_dir, snapshot_dir = _directories(view)
    _check_bootstrap(view, views)
    peers = _peers(view, addresses)
    _check_quorum(view, len(members))
    _check_tls(view, views)
    _check_uuids(view, views)
    _check_compat(view)
    special = {
        "instance_name": view.name,
        "replicaset_name": view.replicaset,
        "is_named": True,
        "listen": "" if is_isolated else _listen(view),
        "peers": peers,
        "follows_all": not is_isolated and _names_all(view, peers, addresses),
        "wal_dir": wal_dir,
        "snapshot_dir": snapshot_dir,
        "read_only": read_only or is_isolated,
        "read_only_by": _read_only_by(view),
        "configured": frozenset(one.name for one in members),
        "election_mode": election_mode,
        "instance_uuid": view.text("database.instance_uuid", "").lower(),
        "replicaset_uuid": view.text("database.replicaset_uuid", "").lower(),
        "log_file": _log_file(view),
        "once": _once(view),
        "limits": _limits(view),
        "credentials": credentials_of(view),
        **_tls_files(view),
    }
    settings = Settings(**{**_given(view), **special})
    if settings.wal_mode is WalMode.NONE and len(views) > 1:
        view.report(
            "wal.mode", "wal.mode = none keeps no log to replicate: only for an instance that is alone"
        )
    if why := too_few_for_reads(settings, len(members)):
        view.report("replication.linearizable_quorum", why)
    return settings


def _given(view: View, owner: str = "") -> dict[str, Any]:
    """Field -> value, of what the file or the environment says. owner: "limits.", or "" for `Settings`.

    Of two options for one field the one outside of `limits` wins.
    """
    found: dict[str, Any] = {}
    for option in sorted(TABLE, key=lambda option: not option.key.startswith("limits.")):
        is_limit = option.field.startswith("limits.")
        if (
            option.field
            and option.field != LOGINS
            and is_limit is bool(owner)
            and view.find(option.key) is not None
        ):
            found[option.field.removeprefix(owner)] = view.get(option.key)
    return found


def effective(view: View, settings: Settings) -> dict[str, Any]:
    """Key -> plain value of all options that act on this instance, defaults included.

    As the options of this instance alone, they give the same settings again.
    """
    found = {
        option.key: _effective(option, view, settings) for option in TABLE if option.effect is Effect.ACTS
    }
    return {key: plain(value) for key, value in found.items() if value is not None}


def _effective(option: Option, view: View, settings: Settings) -> Any:
    match option.key:
        case "database.dir":
            return None  # wal.dir and snapshot.dir say it
        case "database.mode":
            is_asked = view.get("replication.failover", "off") == "off"
            return ("ro" if settings.read_only else "rw") if is_asked else None
        case "replication.peers":
            shown = _shown_sources(view)
            sources = [shown.get(peer.address, peer.address) for peer in settings.sources]
            return sources or ([] if view.find(option.key) and not view.get("isolated", False) else None)
    if option.is_secret:
        item = view.find(option.key)
        return None if item is None else Secret(str(item.value)).mark()
    if option.key.endswith(".advertise.peer.uri") and view.find(option.key) is not None:
        return parse_uri(view.text(option.key, "")).shown()
    if not option.field or option.field == LOGINS:
        return view.get(option.key, option.default)
    owner, _, name = option.field.rpartition(".")
    value = getattr(settings.limits if owner else settings, name)
    return None if option.default_text and value == option.default else value


def _shown_sources(view: View) -> dict[str, str]:
    """Address -> what may be shown, of the sources that name a login."""
    item = view.find("replication.peers")
    uris = [peer_uri(view, uri) for uri in (() if item is None else item.value)]
    return {join(*split(uri.address)): uri.shown() for uri in uris if uri.user}


def plain(value: Any) -> Any:
    """As YAML has it, without the places where it stood."""
    match value:
        case Located():
            return plain(value.value)
        case dict():
            return {key: plain(inner) for key, inner in value.items()}
        case list():
            return [plain(inner) for inner in value]
        case QuorumFormula():
            return value.text if value.number is None else value.number
        case StrEnum():
            return value.value
    return value


def _check_anonymous(view: View, members: Sequence[View]) -> None:
    """[C-22]"""
    if not is_anonymous(view):
        return
    who = f'instance "{view.name}" of replicaset "{view.replicaset}" of group "{view.group}" is anonymous'
    if not members:
        view.report(
            "replication.anon",
            f"{who}, and so is every other one: at least one must be a member (anon: false)",
        )
    if view.get("database.mode") == "rw":
        view.report("database.mode", f"{who} (replication.anon: true), so it cannot be rw")
    if view.get("leader") == view.name:
        view.report("leader", f"{who} (replication.anon: true), so it cannot be the leader")
    if (mode := view.get("replication.election_mode")) not in (None, "off"):
        view.report(
            "replication.election_mode",
            f'{who} (replication.anon: true), so replication.election_mode = "{mode}" is not possible: '
            "only off is",
        )


def _check_autoexpel(view: View, members: list[View]) -> None:
    """[C-45]: it must be clear who is concerned, and one instance removes."""
    if not view.get("replication.autoexpel.enabled", False):
        return
    path = "replication.autoexpel"
    prefix = view.get(f"{path}.prefix", "")
    if view.get(f"{path}.by") != "prefix" or not prefix:
        view.report(f"{path}.enabled", "needs by: prefix, and a prefix")
        return
    if others := [one.name for one in members if not one.name.startswith(prefix)]:
        view.report(
            f"{path}.prefix", f"{prefix!r} is not how {', '.join(others)} begins: all names of the set must"
        )
    writable = [one.name for one in members if not _failover(one, members)[1]]
    if view.get("replication.failover", "off") == "off" and len(writable) > 1:
        view.report(
            f"{path}.enabled",
            f"is not possible with more than one rw instance ({', '.join(writable)}): both would remove",
        )


def _check_failover(view: View, views: list[View]) -> None:
    """What must not be together [C-21]."""
    failover = view.get("replication.failover", "off")
    mode = view.get("database.mode")
    leader = view.get("leader")
    election_mode = view.get("replication.election_mode")
    names = [member.name for member in views]
    place = f'replicaset "{view.replicaset}" of group "{view.group}"'
    if failover == "supervised":
        view.report(
            "replication.failover",
            "supervised needs an external coordinator, and there is none; use election or manual",
        )
    if leader is not None and failover != "manual":
        view.report(
            "leader",
            f'"leader" = "{leader}" option is set for {place}, '
            f'but this option cannot be used together with replication.failover = "{failover}"',
        )
    elif leader is not None and leader not in names:
        view.report(
            "leader",
            f'"leader" = "{leader}" option is set for {place}, '
            f'but instance "{leader}" is not found in this replicaset ({", ".join(names)})',
        )
    if mode is not None and failover != "off":
        view.report(
            "database.mode",
            f'database.mode = "{mode}" is set for instance "{view.name}" of {place}, '
            f'but this option cannot be used together with replication.failover = "{failover}"',
        )
    if election_mode not in (None, "off") and failover != "election":
        view.report(
            "replication.election_mode",
            f'replication.election_mode = "{election_mode}" is set for instance "{view.name}" '
            f"of {place}, but this option is only applicable if "
            'replication.failover = "election"',
        )


def _failover(view: View, views: list[View]) -> tuple[ElectionMode, bool]:
    """(election_mode, read_only) [C-20], [C-22]. views: the members of the set."""
    if is_anonymous(view):
        return ElectionMode.OFF, True
    match view.get("replication.failover", "off"):
        case "manual":
            return ElectionMode.OFF, view.name != view.get("leader")
        case "election":
            chosen = ElectionMode(view.get("replication.election_mode") or ElectionMode.CANDIDATE)
            return chosen, chosen is ElectionMode.OFF
    mode = view.get("database.mode") or ("rw" if len(views) == 1 else "ro")
    return ElectionMode.OFF, mode == "ro"


def _read_only_by(view: View) -> str:
    """`Settings.read_only_by`: what a person would have to change, if it is read-only by `_failover`."""
    if is_anonymous(view):
        return "replication.anon: true"
    if view.get("isolated", False):
        return "isolated: true"
    match view.get("replication.failover", "off"):
        case "manual":
            return f"replication.failover: manual, leader: {view.get('leader') or 'none'}"
        case "election":
            return "replication.election_mode: off"
    return "database.mode: ro"


def _check_bootstrap(view: View, views: list[View]) -> None:
    strategy = view.get("replication.bootstrap_strategy", "auto")
    leader = view.get("bootstrap_leader")
    if leader is not None and strategy != "config":
        view.report("bootstrap_leader", 'needs replication.bootstrap_strategy = "config"')
    elif leader is not None and leader not in [member.name for member in views]:
        view.report(
            "bootstrap_leader",
            f'"bootstrap_leader" = "{leader}" option is set for replicaset "{view.replicaset}" of group '
            f'"{view.group}", but instance "{leader}" is not found in this replicaset',
        )
    elif leader is None and strategy == "config":
        view.report("replication.bootstrap_strategy", '"config" needs bootstrap_leader in the replica set')
    elif leader is not None:
        _check_bootstrap_leader(view, views, leader)


def _check_bootstrap_leader(view: View, views: list[View], leader: str) -> None:
    """The bootstrap leader makes the set and must be able to register the others, or they wait for ever."""
    named = view if view.name == leader else next(member for member in views if member.name == leader)
    election_mode, is_read_only = _failover(named, members_of(view, views))
    if is_anonymous(named):
        why = "is anonymous (replication.anon: true)"
    elif election_mode is ElectionMode.VOTER:
        why = "may only vote (replication.election_mode: voter)"
    elif is_read_only or named.get("isolated", False):
        why = "is read-only by its configuration"
    elif len(views) > 1 and peer_address(named) is None:
        why = "has no address at which the others could reach it"
    else:
        return
    view.report(
        "bootstrap_leader",
        f'"bootstrap_leader" = "{leader}" {why}: it could not register the other instances, '
        "and they would wait for ever",
    )


def idle_options(view: View, settings: Settings) -> Iterator[str]:
    """Options that are right by themselves, and have no effect beside others of this instance."""
    if view.find("grpc.listen") and view.find("iproto.listen"):
        yield "iproto.listen has no effect beside grpc.listen"
    if view.find("grpc.advertise.peer.uri") and view.find("iproto.advertise.peer.uri"):
        yield "iproto.advertise has no effect beside grpc.advertise"
    if view.find("database.dir") and view.find("wal.dir") and view.find("snapshot.dir"):
        yield "database.dir has no effect beside wal.dir and snapshot.dir"
    strange = [name for name in plain(view.find("compat")) or () if name not in _COMPAT]
    if strange:
        yield f"compat: {', '.join(strange)} mean nothing here and were ignored"
    if view.find("log.file") and view.get("log.to", "stderr") != "file":
        yield "log.file has no effect without log.to: file"
    if view.get("isolated", False) and view.find("replication.peers"):
        yield "replication.peers has no effect on an isolated instance"
    if view.get("replication.failover", "off") != "election" and view.find(
        "replication.election_fencing_mode"
    ):
        yield "replication.election_fencing_mode has no effect without replication.failover = election"
    if view.find("replication.connect_quorum") and view.get("replication.bootstrap_strategy") != "legacy":
        yield "replication.connect_quorum has no effect without replication.bootstrap_strategy = legacy"
    if view.get("replication.failover", "off") == "manual" and view.get("leader") is None:
        yield (
            f'replication.failover = manual without a "leader" in replicaset "{view.replicaset}": '
            "no instance of it may write"
        )
    if settings.wal_mode is WalMode.NONE:
        yield "wal.mode = none does what write does: a log is written, and is not synced"


def _check_quorum(view: View, configured: int) -> None:
    path = "replication.synchro_quorum"
    formula: QuorumFormula = view.get(path, Settings().synchro_quorum)
    if formula.number is not None and formula.number > configured:
        view.report(
            path,
            f"synchro_quorum = {formula.number} is above the number of configured instances "
            f"({configured}): no synchronous write could ever be confirmed",
        )


_TLS_FILES: Final = ("cert", "key", "ca")


def _tls_files(view: View) -> dict[str, str]:
    """Field -> absolute name; relative ones start beside the configuration file."""
    return {
        f"tls_{name}": beside(view, view.text(f"grpc.tls.{name}", ""))
        for name in _TLS_FILES
        if view.find(f"grpc.tls.{name}")
    }


def _check_tls(view: View, views: list[View]) -> None:
    """TLS is whole, or it is not there: nothing is served in plain text by mistake [S-11]."""
    found = {name: view.find(f"grpc.tls.{name}") is not None for name in (*_TLS_FILES, "client_auth")}
    if any(found.values()) and not (found["cert"] and found["key"]):
        missing = " and ".join(f"grpc.tls.{name}" for name in ("cert", "key") if not found[name])
        given = next(name for name, is_there in found.items() if is_there)
        view.report(f"grpc.tls.{given}", f"TLS needs {missing} too: without it nothing would be encrypted")
    elif found["cert"] and not found["ca"] and len(views) > 1:
        view.report(
            "grpc.tls.cert", "TLS needs grpc.tls.ca too, by which the instances of a set believe each other"
        )
    elif not found["ca"] and view.get("grpc.tls.client_auth", "off") != "off":
        view.report("grpc.tls.client_auth", "needs grpc.tls.ca, which says whose certificates are believed")
    with_tls = [member.name for member in views if member.find("grpc.tls.cert")]
    without_tls = [member.name for member in views if member.name not in with_tls]
    if with_tls and without_tls and view.name == with_tls[0]:
        names = f"TLS is on for {', '.join(with_tls)} and off for {', '.join(without_tls)}"
        view.report("grpc.tls.cert", f"{names}: they could not connect to each other")
    for section in ("grpc", "iproto"):
        for path in (f"{section}.listen", f"{section}.advertise.peer.{PARAMS}"):
            if not found["cert"] and (item := view.find(path)) is not None and _asks_for_tls(plain(item)):
                view.report(
                    path, "transport: ssl is set by grpc.tls: {cert: FILE, key: FILE, ca: FILE}", item
                )


def _asks_for_tls(value: Any) -> bool:
    """Of the parameters of a URI in a file for Tarantool."""
    if isinstance(value, list):
        return any(_asks_for_tls(inner.get(PARAMS)) for inner in value)
    return isinstance(value, dict) and value.get("transport") == "ssl"


def beside(view: View, name: str) -> str:
    """As an absolute name; a relative one starts beside the configuration file."""
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(view.file)), name))


def _directories(view: View) -> tuple[str, str]:
    """Absolute; relative ones start beside the configuration file."""
    both = view.text("database.dir", DIRECTORY)
    chosen = []
    for path in ("wal.dir", "snapshot.dir"):
        text = view.text(path, both)
        if not text or "\0" in text:
            view.report(path, f"{text!r} is not a directory name")
            text = "."
        chosen.append(beside(view, text))
    return chosen[0], chosen[1]


_NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"


def _check_uuids(view: View, views: list[View]) -> None:
    """[M-1], [M-2]"""
    for path in ("database.instance_uuid", "database.replicaset_uuid"):
        if view.text(path, "") == _NIL_UUID:
            view.report(path, "Nil UUID is reserved and can't be used in replication")
    path = "database.instance_uuid"
    own = view.text(path, "").lower()
    twins = [other.name for other in views if own and other.text(path, "").lower() == own]
    if len(twins) > 1:
        view.report(path, f"{' and '.join(twins)} have one UUID; each instance has its own")


_COMPAT: Final[Mapping[str, str]] = {
    "replication_synchro_timeout": "a timeout decides nothing here: what waits for its quorum stays (ADR 3)",
    "box_consider_system_spaces_synchronous": "under an owner rows of system spaces are synchronous (ADR 6)",
    "box_cfg_replication_sync_timeout": "set replication.sync_timeout: 300 instead",
}
"""Options of which only the new behaviour is there, and what is said of the old one."""


def _check_compat(view: View) -> None:
    item = view.find("compat")
    for name, chosen in ({} if item is None else item.value).items():
        if chosen.value == "old" and name in _COMPAT:
            view.report(f"compat.{name}", f"old behaviour is not in this release: {_COMPAT[name]}", chosen)


def _log_file(view: View) -> str:
    """Absolute; "": standard error."""
    if view.get("log.to", "stderr") != "file":
        return ""
    return beside(view, view.text("log.file", LOG_FILE))


def _once(view: View) -> dict[str, list[dict[str, Any]]]:
    """key -> operations, as plain values [D-25]."""
    item = view.find("once")
    found: dict[str, list[dict[str, Any]]] = {}
    for key, operations in ({} if item is None else item.value).items():
        if operations.value is None:
            continue
        found[key] = plain(operations)
        for position, why in wrong_order(found[key]):
            view.report(f"once.{key}", why, operations.value[position])
    return found


def _limits(view: View) -> Limits:
    given = view.find("limits")
    limits = Limits(**_given(view, "limits."))
    # One row must fit a block, a frame and a message, with room for their headers.
    order = ("tuple_bytes_max", "txn_bytes_max", "message_bytes_max")
    for small, large in pairwise(order):
        if getattr(limits, small) > getattr(limits, large):
            view.report(
                "limits",
                f"{small} ({getattr(limits, small)}) is above {large} ({getattr(limits, large)})",
                given,
            )
    return limits
