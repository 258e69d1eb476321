"""What is so in a set, what is wrong with it, and what to do next: a sentence, problems and commands.

No advice that the server would refuse.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

from synchro.cli import formatting
from synchro.cli.connection import options
from synchro.cli.picture import LATE_S, UNKNOWN_NAME, Picture, SeenMember, lives
from synchro.cli.reach import again, options_for
from synchro.cli.switchover import held_by_command, how_to_release
from synchro.ro_reason import RoReason

MEMORY_SHOWN: Final = 0.8
"""Share of `memtx.memory` from which it is a problem."""
WATCH: Final = "synchro status --watch"


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """writable: somebody takes writes, and what must be acknowledged can be. may_fail: how many instances
    more may fail before synchronous writes wait. text: the state in a sentence, without the problems."""

    writable: bool
    may_fail: int
    text: str
    next: str
    problems: Sequence[Problem] = ()
    readable: bool = False
    has_quorum: bool = False

    @property
    def command(self) -> str:
        """What to do first."""
        return again(next((problem.next for problem in self.problems if problem.next), self.next))

    def lines(self) -> list[str]:
        """For people: what is wrong leads."""
        led = [problem for problem in self.problems if problem.kind not in SELF_EVIDENT]
        lines = [_with_next(problem.text, problem.next) for problem in led]
        return [*lines, _with_next(self.text, self.next)]


def _with_next(text: str, command: str) -> str:
    return f"{text} Next: {again(command)}" if command else text


GRAVE: Final = frozenset({"two_leaders", "two_owners"})
"""While one of these is so a write may be lost or refused."""
DAMAGED: Final = frozenset({"CORRUPTION", "XLOG_GAP"})
"""Reasons by which an instance ends whose files cannot be read: those of another member take their place."""
NO_PEER: Final = frozenset(
    (
        *("ACCESS_DENIED", "BAD_CREDENTIALS", "PLAIN_CONNECTION", "LOGIN_LIMITED"),
        *("LOGIN_QUEUE_FULL", "SESSION_UNKNOWN", "SESSION_ENDED", "CONFIG"),
    )
)
"""Reasons by which a peer does not let an instance follow it, or the instance cannot say who it is."""
EXHAUSTED: Final = "exhausted"
"""Terms or LSNs are used up: an election is impossible, for ever."""
SELF_EVIDENT: Final = frozenset({"down", "loading", "stopping"})
"""The sentence and the table say so already."""


def judge(picture: Picture) -> Verdict:
    """The state of the set."""
    problems = [problem for find in _FINDERS for problem in find(picture)]
    authority = picture.authority
    down = picture.down
    start = start_command(picture, down)
    if authority is None:
        text, command = _nobody(picture, start)
        return Verdict(False, 0, text, command, problems)
    counting = [member for member in picture.members if picture.acknowledges(member)]
    answering = [member for member in counting if not member.is_silent]
    writable = [member for member in picture.members if member.is_writable]
    spare = len(answering) - picture.quorum
    is_enough = len(counting) >= picture.quorum
    is_grave = any(problem.kind in GRAVE for problem in problems)
    if is_grave:
        text, command = "Writes may be lost or refused until there is one again.", ""
    elif not writable:
        text, command = _read_only(picture, authority, start)
    elif not authority.queue.get("owner"):
        spare, is_enough = len(writable) - 1, True
        names = ", ".join(member.name for member in writable)
        text, command = f"Writable on {names}: asynchronous replication, nobody owns the queue.", start
    else:
        text, command = _writable(picture, counting, start)
    if any(problem.kind == EXHAUSTED for problem in problems) and "promote" in command:
        command = ""  # it would be refused
    return Verdict(
        writable=bool(writable) and not is_grave and is_enough,
        may_fail=max(0, spare) if writable and not is_grave else 0,
        text=text,
        next=command,
        problems=problems,
        readable=True,
        has_quorum=len(counting) >= picture.quorum,
    )


# --- the sentence -----------------------------------------------------------------------------------------


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _nobody(picture: Picture, start: str) -> tuple[str, str]:
    loading = [member for member in picture.members if member.is_loading]
    waits = [str((member.info or {}).get("waits_for") or "") for member in picture.members]
    if waits and all("--new-set" in why for why in waits):
        return "Not ready: nobody has the data of this set, a person must decide.", ""
    if loading:
        names = ", ".join(_loading(member) for member in loading)
        return f"Not ready: {names} {_are(len(loading))} loading.", start or WATCH
    stopping = [member.name for member in picture.members if member.is_stopping]
    if stopping:
        return f"Not ready: {', '.join(stopping)} {_are(len(stopping))} stopping.", start or WATCH
    if any(member.foreign for member in picture.members):
        return "Down: no instance of this set answers.", ""
    if any(member.refuses_tls for member in picture.members):
        known = _by_file(picture)
        files = known or "synchro --cacert FILE --cert FILE --key FILE status"
        return "Not shown: TLS does not let this client connect.", files
    if any(member.refuses for member in picture.members):
        known = "" if options.user else _by_file(picture)
        return "Not shown: this user may not look.", known or "synchro -u USER --password-file FILE status"
    return "Down: no instance answers.", start


def _by_file(picture: Picture) -> str:
    """How a set is asked whose configuration is known; "": it is not, or says nothing of TLS or users."""
    target = picture.target
    how = "" if target is None else options_for(target.config.instance(target.names[0]).settings)
    return f"synchro {how}status {_relative(str(target.path))}" if target is not None and how else ""


def _loading(member: SeenMember) -> str:
    """Its name, and how far it is if it says so."""
    return f"{member.name} ({member.progress})" if member.progress else member.name


def _writable(picture: Picture, counting: Sequence[SeenMember], start: str) -> tuple[str, str]:
    silent = [member for member in counting if member.is_silent]
    needed, count = picture.quorum, len(counting) - len(silent)
    if count < needed <= len(counting):
        names = ", ".join(member.name for member in silent)
        authority = picture.authority
        assert authority is not None
        text = f"Writable as far as {authority.name} knows: {count} of {needed} needed instances "
        verb = "answers" if count == 1 else "answer"
        return f"{text}{verb}, and it does not miss {names} yet.", start or WATCH
    others = [m for m in picture.members if m.is_up and not m.is_anonymous and m not in counting]
    if count < needed:
        does = f"{_are(count)} up" if not others else "acknowledges" if count == 1 else "acknowledge"
        text = f"Synchronous writes wait: {count} of {needed} needed instances {does}."
        return text, start or WATCH
    spare = count - needed
    text = f"Writable: {needed} of {needed} needed instances {'acknowledge' if others else 'are up'}."
    if needed == 1:
        text = "Writable: one instance is enough for a write."
    if spare == 0 and needed > 1:
        text += " One more failure stops synchronous writes."
    elif spare > 0:
        text += f" {count} {'acknowledge' if others else 'are up'}, {spare} more may fail."
    return text, start


def _read_only(picture: Picture, authority: SeenMember, start: str) -> tuple[str, str]:
    """Nobody takes writes: why, and what changes that."""
    if not has_elections(picture) and (held := held_by_command(picture)):
        return (
            f"Read-only: {held[0].name} was kept from writing by `config set`, though its file says that it "
            "writes, and nobody took over from it.",
            how_to_release(held[0]),
        )
    needed = picture.quorum
    members = [m for m in picture.members if m.is_ready and not m.is_anonymous]
    voters = [m for m in members if not m.is_forgetful]
    count = len(voters)
    if count < needed:
        loading = [member.name for member in picture.members if member.is_loading]
        return (
            f"Read-only: {count} of {needed} needed instances {_are(count)} up"
            f"{'' if count == len(members) else ' and trusted'}, "
            "nobody can be elected or promoted."
            + (f" {', '.join(loading)} {_are(len(loading))} loading." if loading else ""),
            start or _word_of_a_person(picture) or WATCH,
        )
    if not any(member.links >= needed for member in voters):
        return (
            f"Read-only: {count} instances are up, none of them is connected to a quorum of {needed}.",
            WATCH,
        )
    return _electing(picture, voters) if has_elections(picture) else _frozen(picture, authority, voters)


def _word_of_a_person(picture: Picture) -> str:
    """The command by which the amnesia of the newest data is ended; "" while it may end by itself."""
    able = [m for m in picture.members if m.is_ready and m.is_forgetful]
    facts = [(m.info or {})["amnesia"] for m in able]
    if not able or not all(isinstance(f, Mapping) and "--force-trust" in str(f.get("next")) for f in facts):
        return ""
    return str((_freshest(able).info or {})["amnesia"].get("command") or "")


def has_elections(picture: Picture) -> bool:
    if picture.target is not None:
        return any(
            instance.settings.election_mode.value != "off"
            for instance in picture.target.config.instances.values()
        )
    return any(
        member.mode not in ("", "off")
        or member.election.get("state") == "candidate"
        or member.ro_reason is RoReason.ELECTION
        for member in picture.members
    )


def _electing(picture: Picture, voters: Sequence[SeenMember]) -> tuple[str, str]:
    term = max(member.term for member in voters)
    if (unheard := _leader_that_does_not_answer(picture, voters, term)) is not None:
        return unheard, WATCH
    leader = next((m for m in voters if m.is_leader and m.term == term), None)
    if leader is not None:
        return _leading(leader)
    if any(member.mode in ("candidate", "") for member in voters):
        standing = [m.name for m in voters if m.election.get("state") == "candidate"]
        who = f"{', '.join(standing)} stands" if standing else "it runs or is about to"
        return f"Read-only: an election in term {term}, nobody leads yet ({who}).", WATCH
    able = [m for m in voters if m.mode == "manual" and m.links >= picture.quorum]
    if not able:
        return f"Read-only: nobody leads in term {term}, and nobody who is connected may stand.", WATCH
    return f"Read-only: nobody leads in term {term}, and in mode manual nobody stands by itself.", (
        f"synchro promote {_freshest(able).name}"
    )


def _leader_that_does_not_answer(picture: Picture, voters: Sequence[SeenMember], term: int) -> str | None:
    """Its followers see it, we do not: it was paused a moment ago, or only we cannot reach it."""
    if any(member.is_leader and member.term == term for member in voters):
        return None
    for voter in voters:
        number = voter.election.get("leader", 0) if (voter.info or {}).get("leader_seen") else 0
        named = next((m for m in picture.members if number and m.id == number), None)
        if named is not None and not named.is_up and voter.term == term:
            return (
                f"Not known to be writable: {named.name}, which leads term {term} as {voter.name} sees it, "
                "does not answer. If the others miss it, too, they elect another one."
            )
    return None


def _leading(leader: SeenMember) -> tuple[str, str]:
    """Why it takes no writes although it leads."""
    leads = f"Read-only: {leader.name} leads term {leader.term}"
    match leader.ro_reason:
        case RoReason.CONFIG:
            return f"{leads}, and its configuration says read-only.", ""
        case RoReason.DOUBLED | RoReason.OUT_OF_LSNS | RoReason.OWN_ROWS_LOST:
            return f"{leads}, and {_because(leader.ro_reason)}.", ""
        case RoReason.EXPELLED | RoReason.ANONYMOUS:
            return f"{leads}, and {_because(leader.ro_reason)}.", ""
        case RoReason.NONE | RoReason.LOADING | RoReason.ELECTION | RoReason.SYNCHRO | None:
            return f"{leads} and is taking the queue over.", WATCH
        case RoReason.ORPHAN:  # until its PROMOTE is decided
            return f"{leads} and is taking the queue over.", WATCH
        case _:
            assert_never(leader.ro_reason)


def _because(reason: RoReason | None) -> str:
    """Why an instance takes no writes, as words about it."""
    match reason:
        case RoReason.CONFIG:
            return "is read-only itself"
        case RoReason.SYNCHRO:
            return "was restarted and waits to be promoted"
        case RoReason.ELECTION:
            return "sees nobody who leads"
        case RoReason.DOUBLED:
            return "shares its identity with another process"
        case RoReason.EXPELLED:
            return "was removed from the set"
        case RoReason.ANONYMOUS:
            return "is no member of the set"
        case RoReason.OUT_OF_LSNS:
            return "has used up its LSNs"
        case RoReason.OWN_ROWS_LOST:
            return "waits for its own transactions, which its log has lost"
        case RoReason.ORPHAN:
            return "has not caught up with its sources yet"
        case RoReason.NONE | RoReason.LOADING | None:
            return "does not accept writes"
        case _:
            assert_never(reason)


def _may_be_promoted(member: SeenMember) -> bool:
    """Whether it would take writes then, as far as its reason tells."""
    match member.ro_reason:
        case RoReason.NONE | RoReason.ELECTION | RoReason.SYNCHRO | RoReason.ORPHAN:
            return True
        case RoReason.CONFIG | RoReason.DOUBLED | RoReason.OUT_OF_LSNS | RoReason.OWN_ROWS_LOST:
            return False
        case RoReason.EXPELLED | RoReason.ANONYMOUS | RoReason.LOADING | None:
            return False
        case _:
            assert_never(member.ro_reason)


def _frozen(picture: Picture, authority: SeenMember, voters: Sequence[SeenMember]) -> tuple[str, str]:
    """Without elections somebody must be promoted."""
    if all(member.ro_reason is RoReason.CONFIG for member in voters):
        return (
            "Read-only: the configuration says so; set database.mode: rw for one instance, in its file or by "
            "`config set`.",
            "",
        )
    owner = max((m for m in voters), key=lambda m: m.queue.get("term", 0)).queue.get("owner", 0)
    if not owner:
        return (
            f"Read-only: nobody owns the queue, and {authority.name} {_because(authority.ro_reason)}.",
            WATCH,
        )
    named = next((m for m in picture.members if m.id == owner), None)
    name = named.name if named is not None else f"instance {owner}"
    why = "does not answer" if named is None or not named.is_up else _because(named.ro_reason)
    text = f"Read-only: the queue belongs to {name}, which {why}"
    able = [m for m in voters if _may_be_promoted(m) and m.links >= picture.quorum]
    if not able:
        return f"{text}, and nobody who is connected to a quorum can be promoted.", WATCH
    best = named if named is not None and named in able else _freshest(able)
    return f"{text}.", f"synchro promote {best.name}"


def _freshest(members: Sequence[SeenMember]) -> SeenMember:
    def rows(member: SeenMember) -> int:
        return sum(lsn for origin, lsn in (member.info or {})["vclock"].items() if origin)

    return max(members, key=lambda member: (rows(member), -member.id))


def start_command(picture: Picture, down: Sequence[SeenMember]) -> str:
    down = [member for member in down if not member.foreign and not member.refuses]
    if not down:
        return ""
    target = picture.target or picture.local
    path = "CONFIG" if target is None else _relative(str(target.path))
    states = {
        id(member): picture.local_states.get(member.name)
        if member.process is None
        else member.process.state.value
        for member in down
    }
    # One whose process runs and does not answer hangs or is stopped: `start` would leave it as it is.
    ended = [member for member in down if states[id(member)] not in ("running", "loading")]
    hung = [member for member in down if states[id(member)] == "running"]
    if not ended and not hung:
        return WATCH  # they read their files, and listen later
    verb, option = ("start", "") if ended else ("restart", " --kill")
    first = (ended or hung)[0]
    if ended and first.ended_by in DAMAGED and any(member.is_ready for member in picture.members):
        return f"synchro start {path}:{first.name} --rejoin"
    if first.name == UNKNOWN_NAME or (picture.target is not None and len(down) == len(picture.members)):
        return f"synchro {verb} {path}{option}"
    return f"synchro {verb} {path}:{first.name}{option}"


def _relative(path: str) -> str:
    import os

    near = os.path.relpath(path)
    return near if len(near) < len(path) else path


# --- what is wrong ----------------------------------------------------------------------------------------


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
            yield Problem(
                "stopped_stream",
                f"{member.name} takes nothing from {peer}{at}: {why.rstrip('.')}.{_reseed(picture, facts)}",
                member.name,
                f"synchro replication restart {peer} -i {member.name}{_skip(facts)}",
                row,
                str(facts.get("space") or ""),
                str(facts.get("key") or ""),
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
            if peer not in up or upstream.get("status") not in ("connect", "disconnected"):
                continue
            said = (upstream.get("message"), upstream.get("system_message"))
            why = ": ".join(str(text) for text in said if text).rstrip(".")
            if why and float(upstream.get("idle") or 0.0) >= LATE_S:
                yield Problem(
                    "no_link",
                    f"{member.name} cannot connect to {peer}: {why}.",
                    member.name,
                    f"synchro info replication -i {member.name}",
                )


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
            if facts.get("next"):
                text += f"; {facts['next']}"
            is_for_a_person = "--force-trust" in str(facts.get("next"))
            command = start_command(picture, down) or (
                str(facts.get("command") or "") if is_for_a_person else WATCH
            )
            yield Problem("amnesia", f"{text}.", member.name, command)


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
            yield Problem(
                "no_room",
                f"The disk of {member.name} is full: {str(why).rstrip('.')}. Free space there.",
                member.name,
            )


def _late(picture: Picture) -> Iterator[Problem]:
    authority = picture.authority
    if authority is None or not authority.is_writable:
        return
    is_needed = bool(authority.queue.get("owner"))
    for member in picture.members:
        if not member.is_ready or member.is_forgetful or not member.id or picture.acknowledges(member):
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
            command = f"synchro space checksum {shlex.quote(space)} --all"
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
            yield Problem("loading", f"{_loading(member)} is loading{member.patience}.", member.name)
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
    _expelled,
    _foreign,
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
"""The gravest first."""
