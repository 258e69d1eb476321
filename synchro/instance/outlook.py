"""What a promote would do here now, and what stands against it; asking changes nothing. [P-16], ADR 50."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from synchro.errors import SynchroError
from synchro.ids import NOBODY, InstanceId, Term
from synchro.instance.parts import Parts
from synchro.instance.transfers import Transfers, refusal_of
from synchro.instance.writability import WRITABLE, read_only_reason, stopping_error, why_read_only
from synchro.queue.limbo import QueueState
from synchro.ro_reason import RoReason
from synchro.vclock import Vclock


class Obstacle(NamedTuple):
    """Why a promote would fail. reason: of an error, or NOT_UP_TO_DATE or STAYS_READ_ONLY."""

    reason: str
    message: str


class PromoteOutlook(NamedTuple):
    """is_owner: it owns the queue already. term: in which the queue would be owned, or is. confirmed:
    clients' transactions that wait here. missing_rows: rows of the owner, as far as it said, that are not
    here."""

    is_owner: bool
    term: Term
    previous_owner: InstanceId
    confirmed: int
    missing_rows: int
    obstacles: tuple[Obstacle, ...]


def promote_outlook(state: Parts, transfers: Transfers, said: Mapping[InstanceId, Vclock]) -> PromoteOutlook:
    """said: what each connected member has, by its last word."""
    limbo, raft = state.limbo, state.raft
    owner, own = limbo.owner_id, state.log.vclock
    is_owner = limbo.state is QueueState.LEADER
    missing = 0 if owner in (NOBODY, state.self_id) or owner not in said else said[owner].get(owner)
    new_term = raft.volatile_term if _has_won(state) else Term(raft.volatile_term + 1)
    return PromoteOutlook(
        is_owner,
        limbo.term if is_owner else new_term,
        owner,
        0 if is_owner else limbo.count,
        max(0, missing - own.get(owner)),
        tuple(_of_an_owner(state, transfers) if is_owner else _obstacles(state, transfers, said)),
    )


def _has_won(state: Parts) -> bool:
    """It leads, and its PROMOTE follows: no other term is needed."""
    return state.raft.is_leader


def _obstacles(state: Parts, transfers: Transfers, said: Mapping[InstanceId, Vclock]) -> Iterator[Obstacle]:
    raft = state.raft
    refusal = _refusal(state, transfers) or raft.candidacy_refusal(has_won=_has_won(state))
    if refusal is not None:
        yield Obstacle(refusal.reason, refusal.message)
    if not _has_won(state) and (lacking := _not_up_to_date(state, said)) is not None:
        yield lacking
    if state.settings.read_only:
        yield _stays_read_only(state, "would own", RoReason.CONFIG)


def _of_an_owner(state: Parts, transfers: Transfers) -> Iterator[Obstacle]:
    """There is nothing to win, but its promote waits until it takes writes [P-13]."""
    refusal = _refusal(state, transfers)
    if refusal is not None:
        yield Obstacle(refusal.reason, refusal.message)
    if (reason := read_only_reason(state)) is not WRITABLE:
        yield _stays_read_only(state, "owns", reason)


def _refusal(state: Parts, transfers: Transfers) -> SynchroError | None:
    """What is said before anything is looked at [P-10]."""
    if state.stop.is_begun:
        return stopping_error()
    return refusal_of(state) or (None if transfers.running is None else transfers.running.busy)


def _stays_read_only(state: Parts, owns: str, reason: RoReason) -> Obstacle:
    text = f"it {owns} the queue and take{'s' if owns == 'owns' else ''} no writes"
    return Obstacle("STAYS_READ_ONLY", f"{text}: {why_read_only(state, reason)}")


def _not_up_to_date(state: Parts, said: Mapping[InstanceId, Vclock]) -> Obstacle | None:
    """Too few of the healthy members would vote for this instance: the others have rows that it has not
    [E-15]."""
    raft, own = state.raft, state.log.vclock.shown()
    voters = (raft.healthy & raft.membership.registered) - {state.self_id}
    ahead = sorted(peer for peer in voters if peer in said and not own.covers(said[peer]))
    votes, needed = 1 + len(voters) - len(ahead), raft.membership.election_quorum
    if not ahead or votes >= needed:
        return None
    names = ", ".join(state.name_of(peer) or str(peer) for peer in ahead)
    return Obstacle(
        "NOT_UP_TO_DATE",
        f"{votes} of {needed} votes: {names} would not vote for this instance, which lacks rows that they "
        "have",
    )
