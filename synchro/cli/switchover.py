"""Controlled failover: another instance becomes the writable one, and no write is lost. [A-61], [T-5].

    1  the writable instance takes no more writes
    2  its vclock is read, when nothing of it is on its way to its disk any more
    3  the next one has all of that
    4  the next one takes writes

    H1  Nobody else is made writable before 3 is done, so there are never two writers.
    H2  What fails before 4 is undone: the former one takes writes again. Once 4 has begun nothing is undone,
        since the next one may have written already.

How an instance is told to write or not depends on the set: by its `database.mode` (`failover: off`), by
`leader` (`failover: manual`), each changed while it runs; or, with elections, by demote and promote.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from synchro.cli import formatting
from synchro.cli.picture import Picture, SeenMember
from synchro.errors import SwitchoverFailed, SwitchoverUnfinished, SynchroError
from synchro.ro_reason import RoReason

LOOK_S: Final = 0.02
"""Between two looks at how far the next one is."""
MODE: Final = "database.mode"
LEADER: Final = "leader"
_AGAIN: Final = frozenset({"INTERFERING_PROMOTE", "INTERFERING_ELECTIONS", "IN_ANOTHER_PROMOTE"})
"""Other candidates won the term that a promote began: it is tried again in the next one."""


class Servers(Protocol):
    """The instances, by name. Each call may raise `SynchroError`."""

    def info(self, name: str) -> Mapping[str, Any]: ...

    def set_option(self, name: str, key: str, value: str) -> None: ...

    def promote(self, name: str) -> None: ...

    def demote(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Handover:
    """From whom to whom, and how.

    key: the option that says who writes; "": elections do. is_owned: the queue has an owner, so the next one
    is promoted. is_held: step 1 was done already, by a run that was interrupted.
    """

    former: str
    next: str
    key: str = ""
    is_owned: bool = False
    is_held: bool = False

    def value(self, name: str) -> str:
        """Of `key` at `former`, so that `name` is the one that writes."""
        if self.key == LEADER:
            return name
        return "rw" if name == self.former else "ro"

    def file_note(self) -> str:
        """What the configuration file must say from now on; "" if it says nothing about it."""
        if not self.key:
            return ""
        words = f"{LEADER}: {self.next}"
        if self.key == MODE:
            words = f"{MODE}: ro for {self.former} and rw for {self.next}"
        return (
            f"The file has not changed: write {words} into it, else a reload or a restart takes its old word"
        )


# --- whether it can begin ---------------------------------------------------------------------------------


def held_by_command(picture: Picture) -> list[SeenMember]:
    """Instances that `config set` keeps from writing, though their files say that they write."""
    return [member for member in picture.members if _is_held(member)]


def _is_held(member: SeenMember) -> bool:
    differs = _config(member).get("differs") or {}
    if member.ro_reason is not RoReason.CONFIG:
        return False
    if found := differs.get(MODE):
        return bool(found["file"] == "rw")
    found = differs.get(LEADER)
    return bool(found and found["file"] == member.name)


def how_to_release(member: SeenMember) -> str:
    """The command by which one of `held_by_command` writes again."""
    differs = _config(member).get("differs") or {}
    option = f"{MODE} rw" if MODE in differs else f"{LEADER} {member.name}"
    return f"synchro config set {option} -i {member.name}"


def _config(member: SeenMember) -> Mapping[str, Any]:
    return (member.info or {}).get("config") or {}


def plan(picture: Picture, name: str) -> Handover | None:
    """None: `name` is the one that takes writes. Raises `SwitchoverFailed`; nothing was done then."""
    if not any(member.is_up for member in picture.members):
        raise _refused("no instance answers", "synchro status")
    target = next((m for m in picture.members if name in (m.name, str(m.id or ""))), None)
    if target is None:
        known = ", ".join(member.name for member in picture.members)
        raise _refused(f"the set has no member {name!r}; there are: {known}", "synchro member list")
    writers = [member for member in picture.members if member.is_writable and member.is_ready]
    if writers == [target]:
        return None
    if len(writers) > 1:
        names = ", ".join(member.name for member in writers)
        raise _refused(
            f"{names} take writes, and a switchover is from one to one",
            f"synchro config set {MODE} ro -i NAME, for all but one of them",
        )
    held = held_by_command(picture)
    if not writers and len(held) != 1:
        raise _refused("nobody takes writes, so there is nobody to switch over from", "synchro status")
    former = writers[0] if writers else held[0]
    _check_next(target, former)
    return _handover(former, target, is_held=not writers)


def _refused(why: str, command: str) -> SwitchoverFailed:
    return SwitchoverFailed(f"{why}; nothing was done", next_command=command)


def _check_next(target: SeenMember, former: SeenMember) -> None:
    """Whether it is in the state to take over."""
    if not target.is_ready:
        why = f"is {target.state}" if target.is_up else f"does not answer ({target.error or target.state})"
        raise _refused(f"{target.name} {why}", "synchro status")
    if target.is_expelled or target.is_forgetful:
        why = "was removed from the set" if target.is_expelled else "is in amnesia, so it cannot lead"
        raise _refused(f"{target.name} {why}", "synchro status")
    upstream = _upstream(target.info or {}, former.name)
    if upstream.get("status") == "stopped":
        raise _refused(
            f"{target.name} takes nothing from {former.name}: {_why_stopped(upstream)}",
            f"synchro replication restart {former.name} -i {target.name}",
        )
    if target.mode == "voter" or (former.mode not in ("", "off") and target.mode == "off"):
        raise _refused(f"{target.name} may not lead: its election_mode is {target.mode}", "synchro status")


def _upstream(info: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    parts = info.get("replication", {}).values()
    return next((part.get("upstream") or {} for part in parts if part.get("name") == name), {})


def _why_stopped(upstream: Mapping[str, Any]) -> str:
    return str(upstream.get("message") or "its stream stopped").rstrip(".")


def _handover(former: SeenMember, target: SeenMember, *, is_held: bool) -> Handover:
    if former.mode not in ("", "off"):
        return Handover(former.name, target.name)
    for member in (former, target):
        if not _config(member):
            raise _refused(
                f"{member.name} was started without a file, so its {MODE} does not change while it runs",
                "start it from a configuration file",
            )
    failover = _config(former).get("options", {}).get("replication", {}).get("failover")
    key = LEADER if failover == "manual" else MODE
    return Handover(former.name, target.name, key, bool(former.queue.get("owner")), is_held)


# --- the four steps -----------------------------------------------------------------------------------------


class Switchover:
    """One run. `say` is given a line after each step."""

    def __init__(
        self,
        servers: Servers,
        handover: Handover,
        *,
        timeout_s: float,
        say: Callable[[str], None],
        now: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        """timeout_s: for step 3, and for step 4."""
        self._servers = servers
        self._plan = handover
        self._timeout_s = timeout_s
        self._say = say
        self._now = now
        self._sleep = sleep

    def run(self) -> None:
        """Raises `SwitchoverFailed` (undone), or `SwitchoverUnfinished`."""
        former, following = self._plan.former, self._plan.next
        try:
            self._hold()
            self._tell(f"1 of 4  {former} takes no more writes")
            self._wait_equal()
        except SynchroError as error:
            self._undo(error.message)
        except KeyboardInterrupt:
            self._undo("interrupted")
        try:
            self._give()
        except (SynchroError, KeyboardInterrupt) as error:
            why = error.message if isinstance(error, SynchroError) else "interrupted"
            raise SwitchoverUnfinished(
                f"step 4 had begun, so nothing is undone: {former} takes no writes, and whether {following} "
                f"does is not known: {why.rstrip('.')}",
                next_command="synchro status",
            ) from error
        self._tell(f"4 of 4  {following} takes writes")

    def _tell(self, line: str) -> None:
        """Who listened may be gone, with the terminal or the pipe; what was begun goes on."""
        with contextlib.suppress(OSError):
            self._say(line)

    def _hold(self) -> None:
        plan = self._plan
        if plan.is_held:
            return
        if plan.key:
            self._servers.set_option(plan.former, plan.key, plan.value(plan.next))
        else:
            self._servers.demote(plan.former)

    def _wait_equal(self) -> None:
        """Steps 2 and 3. The vclock is read anew each time: rows of others may still come."""
        plan, began = self._plan, self._now()
        is_told = False
        while True:
            theirs = self._servers.info(plan.former)
            if not theirs.get("ro"):
                raise SwitchoverFailed(f"{plan.former} takes writes again, by somebody else's word")
            is_quiet = not (theirs.get("wal") or {}).get("pending")
            if is_quiet and not is_told:
                is_told = True
                self._tell(f"2 of 4  {plan.former} has {formatting.vclock(theirs['vclock'])}")
            found = self._servers.info(plan.next)
            missing = _rows_missing(theirs["vclock"], found["vclock"])
            took_s = self._now() - began
            if is_quiet and not missing:
                self._tell(f"3 of 4  {plan.next} has all of that ({formatting.seconds(took_s)})")
                return
            self._check_stream(found)
            if took_s > self._timeout_s:
                what = (
                    f"{plan.next} lacks {missing} rows"
                    if missing
                    else f"{plan.former} still writes to its disk"
                )
                raise SwitchoverFailed(f"{what} after {formatting.seconds(took_s)}")
            self._sleep(LOOK_S)

    def _check_stream(self, found: Mapping[str, Any]) -> None:
        upstream = _upstream(found, self._plan.former)
        if upstream.get("status") == "stopped":
            plan = self._plan
            raise SwitchoverFailed(f"{plan.next} takes nothing from {plan.former}: {_why_stopped(upstream)}")

    def _undo(self, why: str) -> None:
        """switchover.H2"""
        plan, why = self._plan, why.rstrip(".")
        try:
            if leader := self._other_leader():
                raise SwitchoverFailed(
                    f"{why}; {leader} leads meanwhile and takes the writes, so nothing is undone",
                    next_command="synchro status",
                )
            if plan.key:
                self._servers.set_option(plan.former, plan.key, plan.value(plan.former))
            else:
                self._servers.promote(plan.former)
        except SwitchoverFailed:
            raise
        except (SynchroError, KeyboardInterrupt) as error:
            cause = error.message.rstrip(".") if isinstance(error, SynchroError) else "interrupted"
            raise SwitchoverUnfinished(
                f"{why}; {plan.former} could not be made writable again: {cause}; "
                f"{plan.next} was not changed",
                next_command="synchro status",
            ) from error
        raise SwitchoverFailed(
            f"{why}; undone: {plan.former} takes writes again, {plan.next} was not changed",
            next_command="synchro status",
        )

    def _other_leader(self) -> str:
        """With elections somebody may have been elected meanwhile; "": nobody, as far as `former` knows."""
        if self._plan.key:
            return ""
        election = self._servers.info(self._plan.former).get("election") or {}
        name = str(election.get("leader_name") or "")
        return "" if name == self._plan.former else name

    def _give(self) -> None:
        plan, deadline = self._plan, self._now() + self._timeout_s
        if plan.key:
            self._servers.set_option(plan.next, plan.key, plan.next if plan.key == LEADER else "rw")
        while plan.is_owned or not plan.key:
            try:
                self._servers.promote(plan.next)
                break
            except SynchroError as error:
                if error.reason not in _AGAIN or self._now() > deadline:
                    raise
            self._sleep(LOOK_S)
        found = self._servers.info(plan.next)
        if found.get("ro"):
            raise SwitchoverFailed(f"{plan.next} is read-only still (ro_reason: {found.get('ro_reason')})")


def _rows_missing(theirs: Mapping[Any, int], mine: Mapping[Any, int]) -> int:
    """Rows of which `mine` knows nothing; local ones do not count."""
    return sum(max(0, lsn - mine.get(origin, 0)) for origin, lsn in theirs.items() if int(origin))
