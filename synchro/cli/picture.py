"""What is seen of a set: all instances at one moment, as they say themselves, or as others say.

Leadership is of the election, ownership of the queue, and both are of the newest term. Only a member that
acknowledges in time counts as one that may fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from synchro.cli import formatting
from synchro.cli.connection import options
from synchro.errors import AccessDenied, BadCredentials, SynchroError
from synchro.ro_reason import RoReason

if TYPE_CHECKING:
    from synchro.cli.process_table import Process, Target
    from synchro.client import Client

PROBE_S: Final = 1.0
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
LATE_S: Final = 2.0
"""A member that is behind by more does not count: its ack of a new write comes later still."""
UNKNOWN_NAME: Final = "?"
"""Of an address at which nobody answers, and that no configuration names."""


@dataclass(slots=True)
class SeenMember:
    """One instance, as it says itself, or as others say."""

    name: str
    address: str
    id: int = 0
    info: Mapping[str, Any] | None = None
    """Its `box.info`; None: it does not answer."""
    error: str = ""
    refuses: bool = False
    """It is there, and does not tell this user about itself."""
    refuses_login: bool = False
    """And that is since it does not take the login: no such user, or another password."""
    refuses_tls: bool = False
    """And that is for TLS, which one of the two ends demands, or whose certificate it does not believe."""
    process: Process | None = None
    ended_by: str = ""
    """Reason of the error by which its process ended, if it runs on this host; "" if none did."""
    seen_by_leader: Mapping[str, Any] = field(default_factory=dict)
    """Its part of the leader's `info replication`."""
    foreign: str = ""
    """Its address is held by somebody else: who that is."""
    place_of: str = ""
    """It listens where the file names another one: which."""
    has_left: bool = False
    """It does not answer, and was removed from the set (ADR 41)."""

    @property
    def is_up(self) -> bool:
        return self.info is not None

    @property
    def is_loading(self) -> bool:
        return self.info is not None and self.info["status"] == "loading"

    @property
    def progress(self) -> str:
        """How far its start is; empty: it is over, or does not say it."""
        return str(((self.info or {}).get("loading") or {}).get("message") or "")

    @property
    def name_and_progress(self) -> str:
        return f"{self.name} ({self.progress})" if self.progress else self.name

    @property
    def patience(self) -> str:
        """How long it has waited and when it tries again, for the end of a sentence; empty: it does not
        wait, or is of an older version."""
        facts = (self.info or {}).get("waiting")
        if not facts:
            return ""
        after = "" if facts["next"] is None else f", next attempt in {formatting.seconds(facts['next'])}"
        return f" (for {formatting.seconds(facts['since'])}{after})"

    @property
    def is_stopping(self) -> bool:
        """Whether the instance answers questions about its state, and does nothing else any more."""
        return self.info is not None and self.info["status"] == "stopping"

    @property
    def is_ready(self) -> bool:
        return self.is_up and not self.is_loading and not self.is_stopping

    @property
    def is_writable(self) -> bool:
        return self.info is not None and not self.info["ro"] and not self.is_stopping

    @property
    def ro_reason(self) -> RoReason | None:
        """None: it does not answer, or says a word that only newer releases know."""
        try:
            return None if self.info is None else RoReason(self.info["ro_reason"] or "")
        except ValueError:
            return None

    @property
    def synchro(self) -> Mapping[str, Any]:
        return (self.info or {}).get("synchro") or {}

    @property
    def queue(self) -> Mapping[str, Any]:
        return self.synchro.get("queue") or {}

    @property
    def election(self) -> Mapping[str, Any]:
        return (self.info or {}).get("election") or {}

    @property
    def term(self) -> int:
        return int(self.election.get("term", 0))

    @property
    def mode(self) -> str:
        """`replication.election_mode`; empty: an older release does not say."""
        return str((self.info or {}).get("election_mode", ""))

    @property
    def owns_queue(self) -> bool:
        return bool(self.id) and self.queue.get("owner") == self.id

    @property
    def is_leader(self) -> bool:
        return self.election.get("state") == "leader"

    @property
    def links(self) -> int:
        """Members it exchanges messages with, itself included: what an election and a promote need."""
        parts = (self.info or {}).get("replication", {}).values()
        return 1 + sum(  # type: ignore[no-any-return]
            (part.get("upstream") or {}).get("status") in ("follow", "sync")
            and (part.get("downstream") or {}).get("status") == "follow"
            for part in parts
        )

    @property
    def is_told_to_read(self) -> bool:
        """Its configuration keeps it from writing, whoever owns the queue; an older release does not say."""
        return bool((self.info or {}).get("ro_cfg"))

    @property
    def is_expelled(self) -> bool:
        """It was removed from the set, and knows it."""
        return self.ro_reason is RoReason.EXPELLED

    @property
    def is_anonymous(self) -> bool:
        """It follows the set without being a member."""
        return bool((self.info or self.seen_by_leader).get("is_anonymous"))

    @property
    def is_no_member(self) -> bool:
        return self.is_anonymous or self.is_expelled

    @property
    def is_forgetful(self) -> bool:
        return bool((self.info or {}).get("amnesia"))

    @property
    def downstream(self) -> Mapping[str, Any]:
        """The leader's stream to it."""
        return self.seen_by_leader.get("downstream") or {}

    @property
    def is_followed(self) -> bool:
        """Whether the instance says nothing itself, while the leader's stream to it runs."""
        return self.info is None and not self.foreign and self.downstream.get("status") == "follow"

    @property
    def was_asked(self) -> bool:
        """With `--direct` only those are asked that were named."""
        return self.info is not None or bool(self.foreign) or bool(self.error)

    @property
    def is_heard(self) -> bool:
        """Whether rows of it come to who answers, and it was not asked itself. So it is for who sends nothing
        to it, as an anonymous follower."""
        status = (self.seen_by_leader.get("upstream") or {}).get("status")
        return not self.was_asked and not self.is_followed and status in ("follow", "sync")

    @property
    def is_silent(self) -> bool:
        """It was asked and gave no answer, while the leader does not miss it (yet): it may be paused, or only
        we cannot reach it."""
        return self.is_followed and bool(self.error)

    @property
    def heard_s(self) -> float | None:
        """When the leader, or who answers in its place, heard it: seconds ago. None: it sends nothing there.
        (`downstream.idle` is no answer: that is when something was sent.)"""
        idle = (self.seen_by_leader.get("upstream") or {}).get("idle")
        return None if idle is None else float(idle)

    @property
    def state(self) -> str:
        if self.foreign:
            return "foreign"
        if self.has_left:
            return "removed"
        if self.info is None:
            if self.refuses:
                return "refuses"
            if self.is_followed:
                return "silent" if self.is_silent else "follows"
            return "heard" if self.is_heard else "down"
        if self.is_loading or self.is_stopping:
            return str(self.info["status"])
        if self.is_forgetful:
            return "amnesia"
        if self.info["status"] == "orphan":
            return "orphan"
        if self.is_anonymous:
            return "anonymous"
        state = str(self.election.get("state", "follower"))
        return "leader" if state == "follower" and self.owns_queue and self.is_writable else state


@dataclass(slots=True)
class Picture:
    """All instances at one moment."""

    members: list[SeenMember]
    replicaset: str = ""
    target: Target | None = None
    """What was asked for, if that was a configuration."""
    local: Target | None = None
    """Else the one from which instances on this host were started, if it is that of this set."""
    local_states: Mapping[str, str] = field(default_factory=dict)
    """Name -> state of its process, of those of `local`."""

    @property
    def authority(self) -> SeenMember | None:
        """Who knows best: the owner of the queue or leader in the newest term."""
        return max(
            (member for member in self.members if member.is_ready),
            key=lambda m: (
                not m.is_anonymous,
                not m.is_expelled,
                m.is_writable,
                m.queue.get("term", 0) * m.owns_queue,
                m.is_leader,
                m.term,
                -m.id,
            ),
            default=None,
        )

    @property
    def down(self) -> list[SeenMember]:
        """Members that do not answer, nor follow the leader. Who is no member itself does not know of those
        that were not asked."""
        authority = self.authority
        knows = authority is None or not authority.is_no_member
        return [
            m
            for m in self.members
            if not m.is_up and not m.is_followed and not m.has_left and (knows or m.was_asked)
        ]

    @property
    def quorum(self) -> int:
        authority = self.authority
        return int(authority.synchro.get("quorum", 0)) if authority is not None else 0

    @property
    def registered(self) -> int:
        authority = self.authority
        return len((authority.info or {}).get("replication", {})) if authority is not None else 0

    def is_former_owner(self, member: SeenMember) -> bool:
        """It says that it owns the queue, and somebody knows of an owner in a newer term: it has not heard of
        that, or cannot write it down."""
        term = member.queue.get("term", 0)
        return member.owns_queue and any(
            other.queue.get("owner") and other.queue.get("term", 0) > term for other in self.members
        )

    def rows_behind(self, member: SeenMember) -> int | None:
        """Rows that the authority has and this member lacks now; None: not known."""
        authority = self.authority
        if authority is None or authority.info is None or member is authority:
            return None
        if member.info is not None and "vclock" in member.info:
            own = member.info["vclock"]
            theirs = authority.info["vclock"].items()
            return int(sum(max(0, lsn - own.get(origin, 0)) for origin, lsn in theirs if origin))
        behind = self.downstream_lag(member)
        return None if behind is None else int(behind["rows"])

    def downstream_lag(self, member: SeenMember) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = member.downstream.get("behind")
        return found

    def seconds_behind(self, member: SeenMember) -> float | None:
        behind = self.downstream_lag(member)
        return None if behind is None else float(behind["seconds"])

    def acknowledges(self, member: SeenMember) -> bool:
        """Whether a write that begins now may count on its ack."""
        authority = self.authority
        if (
            authority is None
            or member.foreign
            or member.is_loading
            or member.is_stopping
            or member.is_forgetful
            or member.is_expelled
            or member.is_anonymous
        ):
            return False
        if (member.info or {}).get("no_room") or member.name in lives(self):
            return False
        if member is authority:
            return True
        if not authority.is_writable:
            return member.is_up
        if member.downstream.get("status") != "follow":
            return False
        return not self.rows_behind(member) or (self.seconds_behind(member) or 0.0) <= LATE_S


def lives(picture: Picture) -> dict[str, dict[str, str]]:
    """Name -> start id -> address, of identities that are in two processes."""
    found: dict[str, dict[str, str]] = {}
    for member in picture.members:
        for part in (member.info or {}).get("replication", {}).values():
            for life in part.get("doubled") or ():
                known = found.setdefault(part.get("name") or str(part["id"]), {})
                known[str(life.get("start_id"))] = str(life.get("address") or "address not known")
    return found


# --- who is asked -----------------------------------------------------------------------------------------


def take_picture(db: Client, target: Target | None = None) -> Picture:
    """Ask all instances that are known at once, each with a short deadline."""
    from concurrent.futures import ThreadPoolExecutor

    from synchro.client.login import LOGIN_S

    limit_s = PROBE_S + LOGIN_S if options.logs_in else PROBE_S

    def ask(endpoint: str) -> Any:
        try:
            return dict(db.get_info(instance=endpoint, timeout=min(limit_s, options.timeout_s)))
        except SynchroError as error:
            return error

    def ask_all(endpoints: Sequence[str]) -> dict[str, Any]:
        with ThreadPoolExecutor(max(1, len(endpoints))) as pool:
            return dict(zip(endpoints, pool.map(ask, endpoints), strict=True))

    endpoints = list(dict.fromkeys(db.endpoints))
    answers = ask_all(endpoints)
    names: dict[str, str] = {}
    if target is not None:
        names = {target.config.instance(name).settings.listen: name for name in target.config.instances}
    first = next((endpoint for endpoint, found in answers.items() if isinstance(found, dict)), None)
    if first is not None:
        try:
            for known in db.list_instances(instance=first):
                if known.address:
                    names.setdefault(known.address, known.name)
        except SynchroError:
            pass  # it is loading: what was given is all that is known
    if target is None and not options.direct:
        known_addresses = dict.fromkeys([*names, *_peer_names(answers)])
        more = [address for address in known_addresses if address not in answers]
        answers.update(ask_all(more) if more else {})
    picture = assemble(answers, names, target)
    if target is None:
        _find_local(picture)
    return picture


def _find_local(picture: Picture) -> None:
    """How those that are down can be started: if all of them belong to this host, and somebody runs there
    who was started from the same file."""
    down = [member for member in picture.members if not member.is_up and not member.foreign]
    ports = {member.address: port for member in picture.members if (port := _port_here(member.address))}
    if not down or any(member.address not in ports for member in down):
        return
    from synchro.cli import process_table

    found = process_table.local_target(
        {
            ports[member.address]: "" if member.name == UNKNOWN_NAME else member.name
            for member in picture.members
            if member.address in ports
        }
    )
    if found is None:
        return
    picture.local = found
    picture.local_states = {p.name: p.state.value for p in process_table.processes(found)}
    names = process_table.name_by_port(found)
    for member in down:
        member.name = names[ports[member.address]]
    _find_endings(found, down)


def _find_endings(target: Target, members: Iterable[SeenMember]) -> None:
    from synchro.cli.processes import ended_by

    for member in members:
        if not member.is_up and member.name in target.config.instances:
            member.ended_by = ended_by(target, member.name)


def _port_here(address: str) -> int:
    """0: it is not, or not known to be, an address of this host."""
    host, _, port = address.rpartition(":")
    return int(port) if host in LOOPBACK and port.isdigit() else 0


def _peer_names(answers: Mapping[str, Any]) -> dict[str, str]:
    """Address -> registered name, of those that somebody follows: sources may be plain addresses."""
    return {
        address: part["name"]
        for found in answers.values()
        if isinstance(found, Mapping)
        for part in (*found["replication"].values(), *_anonymous_parts(found))
        if part.get("name") and (address := _address(part))
    }


def _anonymous_parts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of `info` of one instance: the anonymous followers that are connected; an older release has none."""
    known = (found.get("replication_anon") or {}).get("instances") or {}
    return [
        {**part, "is_anonymous": True}
        for part in known.values()
        if (part.get("downstream") or {}).get("status") == "follow"
    ]


def _address(part: Mapping[str, Any]) -> str:
    """Where a member is, as far as its streams say."""
    upstream, downstream = part.get("upstream") or {}, part.get("downstream") or {}
    return upstream.get("peer") or downstream.get("address") or ""


def assemble(answers: Mapping[str, Any], names: Mapping[str, str], target: Target | None) -> Picture:
    from synchro.client.errors import is_tls  # grpcio with it, which a server does not load

    names = {**names, **(_peer_names(answers) if target is None else {})}
    processes_of = _processes(target)
    set_uuid = _set_uuid(answers, target)
    by_name: dict[str, SeenMember] = {}
    for address, found in answers.items():
        name = names.get(address, "")
        if isinstance(found, SynchroError):
            shown = name or (UNKNOWN_NAME if target is None else address)
            if shown not in by_name or shown == UNKNOWN_NAME:
                error = found.message.rpartition(": ")[2]
                by_name[shown if shown != UNKNOWN_NAME else address] = SeenMember(
                    shown,
                    address,
                    error=error,
                    refuses=isinstance(found, AccessDenied | BadCredentials) or is_tls(found),
                    refuses_login=isinstance(found, BadCredentials),
                    refuses_tls=is_tls(found),
                )
        elif foreign := _foreign(found, name, set_uuid, target, processes_of.get(name)):
            shown = name or found["name"]
            by_name.setdefault(
                shown if target is not None else address, SeenMember(shown, address, foreign=foreign)
            )
        else:
            member = SeenMember(found["name"], address, found["id"] or 0, info=found)
            member.place_of = name if target is not None and name != member.name else ""
            by_name[member.name] = member
    picture = Picture(list(by_name.values()), target=target)
    # An address nobody of this set has, while somebody answers: it is just not part of it.
    if any(member.is_up for member in picture.members) and target is None:
        picture.members = [member for member in picture.members if member.name != UNKNOWN_NAME]
    authority = picture.authority
    if authority is not None and authority.info is not None:
        picture.replicaset = authority.info["replicaset"].get("name") or ""
        seen: dict[Any, Any] = {part.get("name"): part for part in _anonymous_parts(authority.info)}
        seen |= {part.get("name"): part for part in authority.info["replication"].values()}
        left = {part.get("name") for part in (authority.info.get("expelled") or {}).values()} - seen.keys()
        for member in picture.members:
            member.has_left = not member.is_up and not member.foreign and member.name in left
        if target is None:  # a configuration names them, or some instance that reads one did not look again
            picture.members = [member for member in picture.members if not member.has_left]
        for member in picture.members:
            part = {} if member.foreign and target is None else seen.pop(member.name, {})
            member.seen_by_leader = part
            member.id = member.id or part.get("id", 0)
        for name, part in seen.items():
            if name:
                address = _address(part) or "-"
                picture.members.append(SeenMember(name, address, part.get("id", 0), seen_by_leader=part))
    if target is not None:
        for member in picture.members:
            member.process = processes_of.get(member.name)
        _find_endings(target, picture.members)
        picture.replicaset = picture.replicaset or next(
            config.replicaset for config in target.config.instances.values()
        )
    picture.members.sort(key=lambda m: (m.id or 99, m.name))
    return picture


def _processes(target: Target | None) -> dict[str, Process]:
    if target is None:
        return {}
    from synchro.cli import process_table

    return {process.name: process for process in process_table.processes(target)}


def _set_uuid(answers: Mapping[str, Any], target: Target | None) -> str:
    """UUID of the set that was asked for; "" if nothing says it."""
    if target is not None:
        from synchro.cli.neighbours import set_of

        found = (set_of(config.settings) for config in target.config.instances.values())
        return next(filter(None, found), "")
    uuids = (found["replicaset"].get("uuid") for found in answers.values() if isinstance(found, Mapping))
    return next((uuid for uuid in uuids if uuid), "")


def _foreign(
    found: Mapping[str, Any], name: str, set_uuid: str, target: Target | None, process: Process | None
) -> str:
    """Who answers, if that is nobody of the set that was asked for; else ""."""
    replicaset = found["replicaset"]
    uuid = replicaset.get("uuid") or ""
    is_other = bool(uuid and set_uuid and uuid != set_uuid)
    if target is not None:
        config = target.config.instances.get(name)
        is_known = uuid == set_uuid != "" and found["name"] in target.config.instances
        is_other = is_other or (bool(name) and found["name"] != name and not is_known)
        is_other = is_other or (
            config is not None and bool(replicaset.get("name")) and replicaset["name"] != config.replicaset
        )
        # No instance of this file has ever run here, and the one that answers is not what we started.
        is_here = process is not None and process.listen.rpartition(":")[0] in LOOPBACK
        if is_here and not set_uuid and process is not None and process.pid != found.get("pid"):
            is_other = True
    if not is_other:
        return ""
    set_name = replicaset.get("name") or "no name"
    return f"{found['name']} of another set ({set_name}, UUID {uuid or 'not known'}, pid {found.get('pid')})"
