"""From the merged options of one instance to its `Settings`: failover, and what excludes what.

Problems are reported to the view, with their place; a `Settings` made after one is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from synchro.config import ElectionMode, Limits, QuorumFormula, Settings, WalMode
from synchro.config.configured_users import credentials_of
from synchro.config.once import wrong_order
from synchro.config.options import DIRECTORY, LOG_FILE, LOGINS, TABLE
from synchro.config.peer_addresses import follows_all, listen_address, peer_address, sources_of
from synchro.config.quorum_rules import too_few_for_reads
from synchro.config.schema import PARAMS
from synchro.config.view import View, beside, is_anonymous, members_of, plain


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
    peers = sources_of(view, addresses)
    _check_quorum(view, len(members))
    _check_tls(view, views)
    _check_uuids(view, views)
    _check_compat(view)
    special = {
        "instance_name": view.name,
        "replicaset_name": view.replicaset,
        "is_named": True,
        "listen": "" if is_isolated else listen_address(view),
        "peers": peers,
        "follows_all": not is_isolated and follows_all(view, peers, addresses),
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
