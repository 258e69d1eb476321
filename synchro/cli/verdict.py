"""Whether a set takes writes, why not, and what to do next: a sentence, problems and a command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from synchro.cli.advice import WATCH, relative, start_command
from synchro.cli.connection import options
from synchro.cli.picture import Picture, SeenMember
from synchro.cli.problems import EXHAUSTED, GRAVE, SELF_EVIDENT, Problem, find_problems, needs_a_person
from synchro.cli.reach import again, options_for
from synchro.cli.switchover import held_by_command, how_to_release
from synchro.ro_reason import RoReason


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


def judge(picture: Picture) -> Verdict:
    """The state of the set."""
    problems = find_problems(picture)
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
    elif not writable and (unasked := _unasked(picture, authority)):
        text = (
            f"Not known whether the set takes writes: {authority.name} is no member of it, and no member was "
            "asked."
        )
        command = f"synchro -e {','.join(unasked)} status"
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


def _unasked(picture: Picture, authority: SeenMember) -> list[str]:
    """Addresses of members that were not asked, if only who is no member answers: it cannot tell of them."""
    if not authority.is_no_member:
        return []
    return [member.address for member in picture.members if not member.was_asked and member.address != "-"]


# --- the sentence -----------------------------------------------------------------------------------------


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _nobody(picture: Picture, start: str) -> tuple[str, str]:
    loading = [member for member in picture.members if member.is_loading]
    waits = [str((member.info or {}).get("waits_for") or "") for member in picture.members]
    if any("--new-set" in why for why in waits):  # all others have told that one that they have none
        return "Not ready: nobody has the data of this set, a person must decide.", ""
    if loading:
        names = ", ".join(member.name_and_progress for member in loading)
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
        if any(member.refuses_login for member in picture.members):
            why = "Not shown: there is no such user, or the password is wrong."
        else:
            why = "Not shown: this user may not look."
        return why, known or "synchro -u USER --password-file FILE status"
    return "Down: no instance answers.", start


def _by_file(picture: Picture) -> str:
    """How a set is asked whose configuration is known; "": it is not, or says nothing of TLS or users."""
    target = picture.target
    how = "" if target is None else options_for(target.config.instance(target.names[0]).settings)
    return (
        f"synchro {how}status {shlex.quote(relative(str(target.path)))}" if target is not None and how else ""
    )


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
    return (
        _electing(picture, voters) if has_elections(picture) else _frozen(picture, authority, voters, start)
    )


def _word_of_a_person(picture: Picture) -> str:
    """The command by which the amnesia of the newest data is ended; "" while it may end by itself."""
    able = [m for m in picture.members if m.is_ready and m.is_forgetful]
    if not able or not all(needs_a_person(picture, member) for member in able):
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
        return _leading(leader, [m for m in voters if m is not leader and m.links >= picture.quorum])
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


def _leading(leader: SeenMember, others: Sequence[SeenMember]) -> tuple[str, str]:
    """Why it takes no writes although it leads. others: who is connected to a quorum."""
    leads = f"Read-only: {leader.name} leads term {leader.term}"
    match leader.ro_reason:
        case RoReason.CONFIG:
            able = [member for member in others if member.mode in ("candidate", "manual")]
            following = f"synchro promote {_freshest(able).name}" if able else ""
            return f"{leads}, and its configuration says read-only.", following
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
            return "waits to be promoted"
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
    """Whether it would take writes then, as far as its reason and its configuration tell."""
    if member.is_told_to_read:
        return False
    match member.ro_reason:
        case RoReason.NONE | RoReason.ELECTION | RoReason.SYNCHRO | RoReason.ORPHAN:
            return True
        case RoReason.CONFIG | RoReason.DOUBLED | RoReason.OUT_OF_LSNS | RoReason.OWN_ROWS_LOST:
            return False
        case RoReason.EXPELLED | RoReason.ANONYMOUS | RoReason.LOADING | None:
            return False
        case _:
            assert_never(member.ro_reason)


def _frozen(
    picture: Picture, authority: SeenMember, voters: Sequence[SeenMember], start: str
) -> tuple[str, str]:
    """Without elections somebody must be promoted. start: the command that brings back who is down."""
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
        return f"{text}, and nobody who is connected to a quorum can be promoted.", start or WATCH
    best = named if named is not None and named in able else _freshest(able)
    return f"{text}.", f"synchro promote {best.name}"


def _freshest(members: Sequence[SeenMember]) -> SeenMember:
    def rows(member: SeenMember) -> int:
        return sum(lsn for origin, lsn in (member.info or {})["vclock"].items() if origin)

    return max(members, key=lambda member: (rows(member), -member.id))
