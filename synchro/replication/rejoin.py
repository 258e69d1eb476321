"""When an instance replaces its data by a join, from whom, and whether it is its turn. Pure.

Rules [M-35], ADR 46. It gives up nothing that nobody else has, and no two do it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from synchro.ids import NOBODY, InstanceId, Term
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import join_source
from synchro.vclock import Vclock


@dataclass(frozen=True, slots=True)
class OnlyHere:
    """Tuples that no other instance has, and that no row brings back. False: there are none."""

    kept: int = 0
    """As they are here, since the policy `keep_local` keeps them."""
    local: int = 0
    """Of local spaces."""

    def __bool__(self) -> bool:
        return bool(self.kept or self.local)

    def __str__(self) -> str:
        parts = (
            (self.kept, "tuples that the policy keep_local keeps"),
            (self.local, "tuples of local spaces"),
        )
        return " and ".join(f"{count} {what}" for count, what in parts if count)


NOTHING: Final = OnlyHere()


@dataclass(frozen=True, slots=True)
class Known:
    """What an instance has on its disk, and must not forget by a join. vclock: without local rows."""

    vclock: Vclock
    term: Term
    vote: InstanceId
    only_here: OnlyHere = NOTHING
    is_anonymous: bool = False
    """By its data it is no member, whatever it is to be."""

    def vote_in(self, term: Term) -> tuple[Term, InstanceId]:
        """Term and vote beside data that comes with `term`: never an older term, nor a second vote in one."""
        if term > self.term:
            return term, InstanceId(0)
        return self.term, self.vote


class Turn(Enum):
    MINE = auto()
    """Nobody who can be reached does it."""
    WAIT = auto()
    """Somebody does; it, or its intention, is older than ours or gives way to us."""
    GIVE_WAY = auto()
    """Somebody does, or wants to, and comes first: take the own intention back for now."""


def turn(me: str, peers: Mapping[str, Ballot]) -> Turn:
    """peers: address -> ballots that were asked for after the own one had said that this instance wants to.

    Two that both go on have both found the other one silent. That cannot be: who asked later asked behind
    the word of the other one. Of two that see each other the lower UUID goes first.
    """
    others = [ballot.instance_uuid for ballot in peers.values() if ballot.rejoins]
    if not others:
        return Turn.MINE
    return Turn.GIVE_WAY if min(others) < me else Turn.WAIT


def is_too_old(own: Vclock, peers: Mapping[str, Ballot]) -> bool:
    """[M-35]: of those who answer none is ahead and still has the rows behind the own ones in its log, and
    each that is ahead has all of the own ones. Who is not ahead is no help: its log brings nothing that is
    not here. Who still reads its files has not said what it has: it may help yet."""
    booted = [ballot for ballot in peers.values() if ballot.is_booted]
    return all(ballot.vclock for ballot in booted) and _is_outrun(own, booted)


def _is_outrun(own: Vclock, booted: Iterable[Ballot]) -> bool:
    ahead = [ballot for ballot in booted if not own.covers(ballot.vclock)]
    return bool(ahead) and all(
        not own.covers(ballot.gc_vclock) and ballot.vclock.covers(own) for ballot in ahead
    )


def is_removed(uuid: str, own: Vclock, peers: Mapping[str, Ballot]) -> bool:
    """Whether somebody who has all of its rows, and so the one that registered it, names this member no more.
    It would join as a new one, and nobody has asked for that (ADR 41)."""
    return any(
        uuid not in ballot.registered_uuids
        for ballot in peers.values()
        if ballot.is_booted and ballot.registered_uuids and ballot.vclock.covers(own)
    )


def seems_too_old(own: Vclock, *, gone: Iterable[Vclock], followed: Iterable[Vclock]) -> bool:
    """The same, by what the sources said last, of an instance that runs: somebody has rows that it lacks and
    no log of them, and nobody whom it follows has anything that it lacks.

    gone: what those have who said that their log does not go back so far. followed: what the others have.
    """
    return any(not own.covers(has) for has in gone) and all(own.covers(has) for has in followed)


def may_leave(known: Known, peers: Mapping[str, Ballot], *, owner: InstanceId = NOBODY) -> bool:
    """Whether an instance that runs may end its service to join again: it would find a source, it would be
    its turn, and nothing of it would be lost.

    owner: the own id, if this instance holds itself for the owner of the queue. Who has all of its rows, the
    PROMOTE too, and names another owner, knows of a later one.
    """
    if known.only_here or any(ballot.rejoins for ballot in peers.values()):
        return False
    if owner and any(
        one.queue_owner == owner for one in peers.values() if not known.vclock.covers(one.vclock)
    ):
        return False
    return is_too_old(known.vclock, peers) and source(known, peers) is not None


def source(known: Known | None, peers: Mapping[str, Ballot]) -> str | None:
    """Address of the one to join again, which has all that is known here. known: None: what is here may go.
    None: there is nobody. Who is outrun by the others itself is none: after it the next join would be due."""
    booted = [ballot for ballot in peers.values() if ballot.is_booted]
    able = {
        address: ballot
        for address, ballot in peers.items()
        if ballot.is_booted
        and not ballot.rejoins
        and (known is None or ballot.vclock.covers(known.vclock))
        and not _is_outrun(ballot.vclock, booted)
    }
    return join_source(able)


@dataclass(frozen=True, slots=True)
class Standing:
    """Of an instance that is told to replace its data."""

    is_owner: bool
    """It owns the queue, or leads."""
    is_lossy: bool
    """A person said that rows which only it has may go."""
    holders: int
    """Other members that are connected and have all that it has."""
    others: int
    """Other members that it is connected with, both ways."""
    quorum: int
    """How many must stay while it is away; 0: nobody waits for a quorum."""


def why_not(standing: Standing) -> tuple[str, str] | None:
    """(why it may not, what to do); None: it may."""
    if standing.is_owner:
        return "it owns the queue, or leads", "synchro promote NAME   (another one), then the same again"
    if not standing.holders and not standing.is_lossy:
        return (
            "no other member that it is connected with has all of its rows",
            "wait until one has, or give those rows up with --discard",
        )
    if standing.others < standing.quorum:
        return (
            f"{standing.others} other members are connected, and {standing.quorum} are needed for a quorum "
            "while it is away",
            "start the others first",
        )
    return None
