"""When an instance replaces its data by a join, from whom, and whether it is its turn. Pure.

Rules [M-35], ADR 46. It gives up nothing that nobody else has, and no two do it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from synchro.ids import InstanceId, Term
from synchro.replication.ballot import Ballot
from synchro.replication.bootstrap_choice import join_source
from synchro.vclock import Vclock


@dataclass(frozen=True, slots=True)
class Known:
    """What an instance has on its disk, and must not forget by a join. vclock: without local rows."""

    vclock: Vclock
    term: Term
    vote: InstanceId
    own_keys: int = 0
    """Tuples that only this instance has as they are here, since a policy keeps them (`keep_local`)."""

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
    """[M-35]: none of those who answer has the rows behind the own ones in its log any more, and each has all
    of the own ones. Who still reads its files has not said what it has: it may help yet."""
    booted = [ballot for ballot in peers.values() if ballot.is_booted]
    return bool(booted) and all(
        not own.covers(ballot.gc_vclock) and ballot.vclock.covers(own) for ballot in booted
    )


def may_leave(known: Known, peers: Mapping[str, Ballot]) -> bool:
    """Whether an instance that runs may end its service to join again: it would find a source, it would be
    its turn, and nothing of it would be lost."""
    if known.own_keys or any(ballot.rejoins for ballot in peers.values()):
        return False
    return is_too_old(known.vclock, peers) and source(known, peers) is not None


def source(known: Known | None, peers: Mapping[str, Ballot]) -> str | None:
    """Address of the one to join again, which has all that is known here. known: None: what is here may go.
    None: there is nobody."""
    able = {
        address: ballot
        for address, ballot in peers.items()
        if ballot.is_booted and not ballot.rejoins and (known is None or ballot.vclock.covers(known.vclock))
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
    own_keys: int = 0
    """As in `Known`."""


def why_not(standing: Standing) -> tuple[str, str] | None:
    """(why it may not, what to do); None: it may."""
    if standing.is_owner:
        return "it owns the queue, or leads", "synchro promote another instance first"
    if not standing.holders and not standing.is_lossy:
        return (
            "no other member that it is connected with has all of its rows",
            "wait until one has, or give those rows up with --discard",
        )
    if standing.own_keys and not standing.is_lossy:
        return (
            f"{standing.own_keys} tuples of spaces with the policy keep_local were last written on it, and "
            "nobody else has them",
            "write them down, or give them up with --discard",
        )
    if standing.others < standing.quorum:
        return (
            f"{standing.others} other members are connected, and {standing.quorum} are needed for a quorum "
            "while it is away",
            "start the others first",
        )
    return None
