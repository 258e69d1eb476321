"""What is wrong with a set as it is seen, one finder for each kind of problem."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from synchro.cli import formatting
from synchro.cli.advice import DAMAGED, WATCH, relative, reload_command, restart_command, start_command
from synchro.cli.picture import LATE_S, Picture, SeenMember, lives
from synchro.cli.reach import again

MEMORY_SHOWN: Final = 0.8
"""Share of `memtx.memory` from which it is a problem."""
GRAVE: Final = frozenset({"two_leaders", "two_owners"})
"""While one of these is so a write may be lost or refused."""
NO_PEER: Final = frozenset(
    (
        *("ACCESS_DENIED", "BAD_CREDENTIALS", "PLAIN_CONNECTION", "LOGIN_LIMITED"),
        *("LOGIN_QUEUE_FULL", "SESSION_UNKNOWN", "SESSION_ENDED", "CONFIG"),
    )
)
"""Reasons by which a peer does not let an instance follow it, or the instance cannot say who it is."""
EXHAUSTED: Final = "exhausted"
"""Terms or LSNs are used up: an election is impossible, for ever."""
FORCE_TRUST: Final = "--force-trust"
FORGOT: Final = "has amnesia too"
"""As `info amnesia` says it of a member that was heard, and cannot vouch for another one."""
SELF_EVIDENT: Final = frozenset({"down", "loading", "stopping"})
"""The sentence and the table say so already."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. kind: a fixed word; next: a command, "" if only a person can say.

    txn: `origin:lsn` of the row that a stream stands at, with the space and the key if they are known.
    """

    kind: str
    text: str
    instance: str = ""
    next: str = ""
    txn: str = ""
    space: str = ""
    key: str = ""

    def as_record(self) -> dict[str, str | None]:
        record = {name: getattr(self, name) or None for name in self.__slots__}
        return {**record, "next": again(self.next) or None}


def find_problems(picture: Picture) -> list[Problem]:
    """The gravest first."""
    return [problem for find in _FINDERS for problem in find(picture)]


def _two_leaders(picture: Picture) -> Iterator[Problem]:
    by_term: dict[int, list[SeenMember]] = {}
    for member in picture.members:
        if member.is_leader:
            by_term.setdefault(member.term, []).append(member)
    for term, leaders in by_term.items():
        if len(leaders) > 1:
            names = " and ".join(member.name for member in leaders)
            loser = next(member for member in reversed(leaders) if member is not picture.authority)
            yield Problem(
                "two_leaders",
                f"Two leaders of term {term}: {names}. What both wrote contradicts each other.",
                loser.name,
                f"synchro demote {loser.name}",
            )


def _two_owners(picture: Picture) -> Iterator[Problem]:
    owners = [member for member in picture.members if member.is_writable and member.owns_queue]
    if len(owners) > 1 and len({member.term for member in owners if member.is_leader}) != 1:
        words = ", ".join(f"{member.name} in term {member.queue.get('term')}" for member in owners)
        old = min(owners, key=lambda member: member.queue.get("term", 0))
        yield Problem(
            "two_owners",
            f"Two owners of the queue: {words}. What {old.name} takes is refused by the others.",
            old.name,
            f"synchro member list -i {old.name}",
        )


def _doubled(picture: Picture) -> Iterator[Problem]:
    for name, known in lives(picture).items():
        places = ", ".join(f"{address} (start id {start})" for start, address in sorted(known.items()))
        yield Problem(
            "doubled",
            f"The identity of {name} is in two live processes: {places}. Neither counts; stop the copy.",
            name,
        )


def _foreign(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        if member.foreign:
            yield Problem(
                "foreign",
                f"{member.address} of {member.name} is held by {member.foreign}.",
                member.name,
                f"synchro -e {member.address} --direct status",
            )


def _misplaced(picture: Picture) -> Iterator[Problem]:
    """The file was changed while they run."""
    target = picture.target
    for member in picture.members:
        if target is not None and member.place_of:
            yield Problem(
                "misplaced",
                f"{member.name} listens at {member.address}, which the file names as the address of "
                f"{member.place_of}.",
                member.name,
                f"synchro restart {shlex.quote(relative(str(target.path)))}",
            )


def _expelled(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        if member.has_left:
            yield Problem(
                "expelled",
                f"{member.name} was removed from the set, and the file names it. Take it out; or move all "
                "its files away, instance.identity too, and start it: it joins as a new member.",
                member.name,
            )
        if member.is_expelled:
            yield Problem(
                "expelled",
                f"{member.name} was removed from the set. Stop it; or move all its files away, "
                "instance.identity too, and start it: it joins as a new member.",
                member.name,
            )


def _stopped_streams(picture: Picture) -> Iterator[Problem]:
    apart = _apart(picture)
    for member in picture.members:
        if member.is_expelled:
            continue
        for part in (member.info or {}).get("replication", {}).values():
            upstream = part.get("upstream") or {}
            if upstream.get("status") != "stopped":
                continue
            facts = upstream.get("stopped_by") or {}
            peer = part.get("name") or str(part.get("id"))
            row = str(facts.get("at") or facts.get("txn") or "")
            place = [
                f"{word} {value}"
                for word, value in (("row", row), ("space", facts.get("space")), ("key", facts.get("key")))
                if value
            ]
            at = f" ({', '.join(place)})" if place else ""
            why = upstream.get("message") or "an error"
            text = f"{member.name} takes nothing from {peer}{at}: {why.rstrip('.')}."
            command = f"synchro replication restart {peer} -i {member.name}{_skip(facts)}"
            if twice := str(facts.get("registered_twice") or ""):
                text, command = _registered_twice(member, text, twice, command)
            elif (
                member.id in apart
            ):  # what it has is not the set's, so to leave out the other's row mends nothing
                text, command = f"{text} {_give_up(member.name, apart[member.id])}", ""
            elif facts.get("reason") == "SPLIT_BRAIN" and (origin := _origin(row)) in apart:
                name = next(m.name for m in picture.members if m.id == origin)
                text += f" {_give_up(name, row)} Then let the stream go on."
            yield Problem(
                "stopped_stream",
                f"{text}{_reseed(picture, facts)}",
                member.name,
                command,
                row,
                str(facts.get("space") or ""),
                str(facts.get("key") or ""),
            )


def _registered_twice(member: SeenMember, text: str, number: str, command: str) -> tuple[str, str]:
    """Text and command. Whoever keeps one of the two stops again at the row of the other."""
    text += (
        f" Remove id {number} on both that registered it, stop both that have it, and let the streams go on. "
        "Then move all files of these two away, instance.identity too: what they wrote goes with them. Start "
        "one, and the other when it has joined."
    )
    if number == str(member.id):
        return text, ""
    known = (str(other) for other in (member.info or {}).get("replication", {}))
    if number in known:
        command = f"synchro -e {member.address} --direct member expel {number}"
    return text, command


def _apart(picture: Picture) -> dict[int, str]:
    """Id of each member that wrote while others had another owner already, and a row of that time at which a
    stream stands. Not who leads now: that side is the set's."""
    authority = picture.authority
    if authority is None or not authority.is_writable:
        return {}
    found: dict[int, str] = {}
    for member in picture.members:
        for part in (member.info or {}).get("replication", {}).values():
            facts = (part.get("upstream") or {}).get("stopped_by") or {}
            row = str(facts.get("txn") or "")
            if facts.get("reason") == "SPLIT_BRAIN" and _origin(row) not in (0, authority.id):
                found[_origin(row)] = row
    known = {member.id for member in picture.members}
    return {origin: row for origin, row in found.items() if origin in known}


def _origin(row: str) -> int:
    origin = row.partition(":")[0]
    return int(origin) if origin.isdecimal() else 0


def _give_up(name: str, row: str) -> str:
    return (
        f"{name} wrote {row}, and perhaps more, when the others had another owner already: `wal cat` of "
        "its log shows it. To give that up stop it, move its snapshots and logs away, keep instance.identity "
        "and start it again: it joins anew."
    )


def _refused_streams(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        for part in (member.info or {}).get("replication", {}).values():
            upstream = part.get("upstream") or {}
            if upstream.get("reason") not in NO_PEER:
                continue
            peer = part.get("name") or str(part.get("id"))
            why = str(upstream.get("message")).rstrip(".")
            yield Problem(
                "refused_stream",
                f"{peer} refuses {member.name} as a peer: {why}. Peers log in as grpc.advertise.peer.login "
                "of the file says, else as guest; that user needs the role replication.",
                member.name,
                f"synchro info replication -i {member.name}",
            )


def _missing_links(picture: Picture) -> Iterator[Problem]:
    """Both ends are up, and one cannot reach the other: TLS, or the network between them."""
    up = {member.name for member in picture.members if member.is_up and not member.is_stopping}
    for member in picture.members:
        for part in (member.info or {}).get("replication", {}).values():
            upstream, peer = part.get("upstream") or {}, part.get("name") or str(part.get("id"))
            if upstream.get("status") not in ("connect", "disconnected"):
                continue
            said = (upstream.get("message"), upstream.get("system_message"))
            why = ": ".join(str(text) for text in said if text).rstrip(".")
            if not why or float(upstream.get("idle") or 0.0) < LATE_S:
                continue
            text = f"{member.name} cannot connect to {peer}: {why}."
            if elsewhere := _says_elsewhere(part):
                text += (
                    f" It calls it at {upstream.get('peer')}, and {peer} says that it listens at {elsewhere}."
                    f" If the file of {member.name} says so too by now, it must read it again."
                )
                yield Problem("no_link", text, member.name, reload_command(picture, member.name))
            elif peer in up:
                yield Problem("no_link", text, member.name, f"synchro info replication -i {member.name}")


def _says_elsewhere(part: Mapping[str, Any]) -> str:
    """Where a member that follows says that it listens, if it is called at another address; "" else."""
    downstream, upstream = part.get("downstream") or {}, part.get("upstream") or {}
    said = str(downstream.get("address") or "")
    return said if downstream.get("status") == "follow" and said != upstream.get("peer") else ""


def _reseed(picture: Picture, facts: Mapping[str, Any]) -> str:
    """Whose data is too old to be merged, and what comes before the command."""
    if facts.get("reason") != "TOMBSTONES_GONE":
        return ""
    origin = str(facts.get("at", "")).partition(":")[0]
    name = next((m.name for m in picture.members if str(m.id) == origin), f"instance {origin}")
    return (
        f" {name} missed these deletions: stop it, move its snapshots and logs away, keep instance.identity, "
        "start it, and when it has joined again let the stream go on."
    )


def _skip(facts: Mapping[str, Any]) -> str:
    """What lets the stream pass a row in conflict; "" where the server would refuse that, or stop again."""
    return f" --skip {facts['at']}" if facts.get("skippable") else ""


def _log_gaps(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        for part in (member.info or {}).get("replication", {}).values():
            if (part.get("upstream") or {}).get("reason") == "XLOG_GAP":
                peer = part.get("name") or str(part.get("id"))
                text = f"{member.name} lacks rows that the log of {peer} does not hold any more. "
                if (left_s := (member.info or {}).get("joins_again_in")) is not None:
                    text += (
                        "It joins again by itself (replication.autorejoin), in at most "
                        f"{formatting.seconds(left_s)}, unless a member comes that has them."
                    )
                    yield Problem("log_gap", text, member.name, WATCH)
                    continue
                text += "If no other member has them, it must join again"
                if only_here := _only_here(member.info or {}):
                    text += f". What only it has goes into a file that `import` takes: {only_here}"
                yield Problem("log_gap", f"{text}.", member.name, f"synchro rebootstrap {member.name}")


def _only_here(info: Mapping[str, Any]) -> str:
    kinds = (("own_keys", "that the policy keep_local keeps"), ("local_tuples", "of local spaces"))
    return " and ".join(f"{info[name]} tuples {what}" for name, what in kinds if info.get(name))


def _kept_files(picture: Picture) -> Iterator[Problem]:
    """Of members that joined again (ADR 53)."""
    for member in picture.members:
        for path in (member.info or {}).get("kept_files") or ():
            text = (
                f"{member.name} has joined again; what only it had, tuples of local spaces or such that the "
                f"policy keep_local keeps, is in {path} on its host. Import it there, or not, and delete it."
            )
            command = f"synchro -e {member.address} --direct import {shlex.quote(str(path))}"
            yield Problem("kept_tuples", text, member.name, command)


def _forgetful(picture: Picture) -> Iterator[Problem]:
    down = picture.down
    for member in picture.members:
        if member.is_forgetful:
            found = (member.info or {}).get("amnesia")
            facts: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
            why = facts.get("message") or (
                "its log may have lost acknowledged rows; it does not vote before it heard every member"
            )
            text = f"{member.name} is in amnesia: {why}{member.patience}"
            is_for_a_person = needs_a_person(picture, member)
            if FORCE_TRUST in str(facts.get("next")) and not is_for_a_person:
                text += f"; wait, {', '.join(_to_be_heard(picture, member))} can be asked"
            elif facts.get("next"):
                text += f"; {facts['next']}"
            command = start_command(picture, down) or (
                str(facts.get("command") or "") if is_for_a_person else WATCH
            )
            yield Problem("amnesia", f"{text}.", member.name, command)


def needs_a_person(picture: Picture, member: SeenMember) -> bool:
    """Its amnesia does not end by itself: whom it must hear is down, or was heard to have forgotten too."""
    facts = (member.info or {}).get("amnesia")
    if not isinstance(facts, Mapping) or FORCE_TRUST not in str(facts.get("next")):
        return False
    return not _to_be_heard(picture, member)


def _to_be_heard(picture: Picture, member: SeenMember) -> list[str]:
    """Who is up, and whose stream to a member in amnesia stands only, or has rows that are to come. A stream
    that was stopped, or is not there as in a ring, brings nothing."""
    info = member.info or {}
    wanted = {str(one.get("name")): one.get("why") for one in info["amnesia"].get("must_hear", ())}
    heard = {str(part.get("name")) for part in info.get("replication", {}).values() if _has_stream(part)}
    return [
        peer.name
        for peer in picture.members
        if peer is not member
        and peer.is_up
        and peer.name in wanted
        and peer.name in heard
        and not (peer.is_forgetful and wanted[peer.name] == FORGOT)
    ]


def _has_stream(part: Mapping[str, Any]) -> bool:
    """From a peer, and not stopped for good; or to it alone, whose acks say what it has."""
    upstream, downstream = part.get("upstream"), part.get("downstream") or {}
    return upstream.get("status") != "stopped" if upstream else downstream.get("status") == "follow"


def _left_out(picture: Picture) -> Iterator[Problem]:
    """By --force-recovery, in this life of the process."""
    for member in picture.members:
        for cut in (member.info or {}).get("left_out") or ():
            kept = [str(path) for path in cut["kept_as"]]
            text = (
                f"{member.name} was started with --force-recovery: its log ends at offset {cut['offset']} of "
                f"{cut['file']} now, and {cut['rows']} rows behind that were left out. They come back from "
                "members that have them; if nobody has, they can be applied again from what was kept."
            )
            here = shlex.quote(str({int(origin): lsn for origin, lsn in cut["here"].items()}))
            command = f"synchro wal cat {shlex.join(kept)} --skip-damage --from-vclock {here}"
            yield Problem("left_out", text, member.name, command)


def _orphans(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        facts = (member.info or {}).get("orphan") or {}
        if facts:
            text = f"{member.name} is an orphan and takes no writes: {facts['message']}{member.patience}."
            yield Problem("orphan", text, member.name, WATCH)


def _full_disks(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        if why := (member.info or {}).get("no_room"):
            cause = str(why).partition(" Next: ")[0].rstrip(".")
            yield Problem(
                "no_room",
                f"The disk of {member.name} is full: {cause}. Free space there.",
                member.name,
            )


def _lost_files(picture: Picture) -> Iterator[Problem]:
    """A data directory that was deleted under a running instance."""
    for member in picture.members:
        why = (member.info or {}).get("lost_files")
        if not why:
            continue
        text = f"The files of {member.name} are lost: {why}. What it has is gone when it ends."
        others = [
            other.name
            for other in picture.members
            if other is not member and other.is_ready and not (other.info or {}).get("lost_files")
        ]
        if others:
            text += (
                " If they were moved, move them back; else move away what is left of them and restart it, "
            )
            text += "and no other before it has joined again."
            yield Problem("lost_files", text, member.name, restart_command(picture, member.name))
        else:
            text += (
                " If they were moved, move them back; else copy its tuples elsewhere before it is stopped."
            )
            yield Problem("lost_files", text, member.name)


def _late(picture: Picture) -> Iterator[Problem]:
    authority = picture.authority
    if authority is None or not authority.is_writable:
        return
    is_needed = bool(authority.queue.get("owner"))
    for member in picture.members:
        if not member.is_ready or member.is_forgetful or not member.id or picture.acknowledges(member):
            continue
        if member.is_no_member:  # it is not asked to
            continue
        if (
            (member.info or {}).get("no_room")
            or member.name in lives(picture)
            or any(p.instance == member.name for p in _stopped_streams(picture))
        ):
            continue  # that is why, and it is told
        rows, behind_s = picture.rows_behind(member), picture.seconds_behind(member)
        lag = f"{rows} rows{f', {formatting.seconds(behind_s)}' if behind_s else ''} behind"
        if is_needed:
            text = (
                f"{member.name} acknowledges nothing{f', it is {lag},' if rows else ''} and does not count."
            )
        elif rows:
            text = f"{member.name} is {lag}."
        else:
            continue
        yield Problem("late", text, member.name, f"synchro info replication -i {member.name}")


def _exhausted(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        if why := member.election.get("exhausted"):
            yield Problem(EXHAUSTED, f"{member.name} can be elected no more: {why}.", member.name)


def _memory(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        found = (member.info or {}).get("memtx") or {}
        used, limit = found.get("used") or 0, found.get("limit") or 0
        if limit and used >= MEMORY_SHOWN * limit:
            yield Problem(
                "memory",
                f"{member.name} uses {formatting.size(used)} of {formatting.size(limit)} of memtx.memory.",
                member.name,
            )


def _counters(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        found = member.info or {}
        if dropped := found.get("logs_dropped"):
            yield Problem(
                "logs_dropped", f"{member.name} could not write {dropped} records of its log.", member.name
            )


def _conflicts(picture: Picture) -> Iterator[Problem]:
    """Rows that were left out: the newest of each origin with both tuples."""
    for member in picture.members:
        for part in (member.info or {}).get("replication", {}).values():
            count, facts = part.get("conflicts_skipped") or 0, part.get("conflict") or {}
            if not count:
                continue
            peer = part.get("name") or str(part.get("id"))
            rows = "1 row" if count == 1 else f"{count} rows"
            text = f"{member.name} left out {rows} of {peer} in conflict"
            if not facts:  # an older version
                yield Problem("conflicts_skipped", f"{text}.", member.name)
                continue
            row, why = f"{facts['origin']}:{facts['lsn']}", str(facts["error"]).rstrip(".")
            space, key = str(facts["space"]), str(facts.get("key", ""))
            text += f"; the newest is row {row} (space {space}, key {key}): {why}."
            is_gone = space.startswith("#")  # the number of one that was dropped
            command = "" if is_gone else f"synchro space checksum {shlex.quote(space)} --all"
            yield Problem("conflicts_skipped", text, member.name, command, row, space, key)


def _absent(picture: Picture) -> Iterator[Problem]:
    for member in picture.members:
        waits = str((member.info or {}).get("waits_for") or "")
        if member.is_loading and waits:
            text = f"{member.name} waits: {waits.rstrip('.')}{member.patience}."
            yield Problem("waiting", text, member.name)
        elif member.is_anonymous and waits:
            text = f"{member.name} waits {waits.rstrip('.')}{member.patience}."
            yield Problem("waiting", text, member.name)
        elif member.is_loading:
            yield Problem("loading", f"{member.name_and_progress} is loading{member.patience}.", member.name)
        elif member.is_stopping:
            yield Problem("stopping", f"{member.name} is stopping.", member.name)
        elif member.is_silent:
            heard, authority = member.heard_s, picture.authority
            seen = ""
            if heard is not None and authority is not None:
                seen = f", though {authority.name} heard it {formatting.seconds(heard)} ago"
            yield Problem("silent", f"{member.name} does not answer{seen}.", member.name, WATCH)
        elif member in picture.down and not member.foreign:
            why = f": {member.error}" if member.error else ""
            if member.ended_by in DAMAGED:
                why = f": its files are damaged ({member.ended_by}), see its log"
            elif member.ended_by:
                why = f": it ended ({member.ended_by}), see its log"
            command = start_command(picture, [member])
            yield Problem("down", f"{member.name} does not answer{why}.", member.name, command)


_FINDERS: Final = (
    _two_leaders,
    _two_owners,
    _doubled,
    _lost_files,
    _expelled,
    _foreign,
    _misplaced,
    _exhausted,
    _stopped_streams,
    _refused_streams,
    _missing_links,
    _log_gaps,
    _forgetful,
    _left_out,
    _kept_files,
    _orphans,
    _full_disks,
    _late,
    _memory,
    _counters,
    _conflicts,
    _absent,
)
