"""What a promote would do here now, and what stands against it; asking changes nothing. [P-16], ADR 50."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from synchro.ids import NOBODY, InstanceId, Term
from synchro.instance.parts import Parts
from synchro.instance.transfers import Transfers, refusal_of
from synchro.instance.writability import stopping_error
from synchro.queue.limbo import QueueState
from synchro.vclock import Vclock


class Obstacle(NamedTuple):
    """Why a promote would fail. reason: of an error, or NOT_UP_TO_DATE or STAYS_READ_ONLY."""

    reason: str
    message: str


class PromoteOutlook(NamedTuple):
    """is_owner: nothing would be done. term: in which the queue would be owned, or is. confirmed: clients'
    transactions that wait here. missing_rows: rows of the owner, as far as it said, that are not here."""

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
        () if is_owner else tuple(_obstacles(state, transfers, said)),
    )


def _has_won(state: Parts) -> bool:
    """It leads, and its term has no owner of the queue yet: no other term is needed."""
    return state.raft.is_leader and state.limbo.term < state.raft.volatile_term


def _obstacles(state: Parts, transfers: Transfers, said: Mapping[InstanceId, Vclock]) -> Iterator[Obstacle]:
    raft = state.raft
    refusals = (
        stopping_error() if state.stop.is_begun else None,
        refusal_of(state),
        None if transfers.running is None else transfers.running.busy,
        raft.candidacy_refusal(has_won=_has_won(state)),
    )
    for refusal in refusals:
        if refusal is not None:
            yield Obstacle(refusal.reason, refusal.message)
            break
    if not _has_won(state) and (lacking := _not_up_to_date(state, said)) is not None:
        yield lacking
    if state.settings.read_only:
        yield Obstacle(
            "STAYS_READ_ONLY",
            "it would own the queue and take no writes: the configuration says so (database.mode: ro)",
        )


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
