"""What the limbo refuses, in words. Nothing was done then. Rules [Q-13], [P-31]."""

from __future__ import annotations

from synchro.errors import NotLeader, ReadOnly, SyncQueueForeign, SyncQueueUnclaimed
from synchro.ids import InstanceId, Term


def unclaimed() -> SyncQueueUnclaimed:
    return SyncQueueUnclaimed(
        "The synchronous transaction queue doesn't belong to any instance; nothing was written. "
        "Next: synchro promote NAME"
    )


def foreign(owner: InstanceId, *, has_entries: bool) -> SyncQueueForeign:
    if has_entries:
        return SyncQueueForeign(
            f"Found uncommitted sync transactions from other instance with id {owner}; nothing was written",
            owner=owner,
        )
    return SyncQueueForeign(
        f"The synchronous transaction queue belongs to other instance with id {owner}; nothing was written",
        owner=owner,
    )


def frozen(owner: InstanceId, term: Term) -> ReadOnly:
    """owner: this instance, before a promote."""
    return ReadOnly(
        f"The synchronous transaction queue belongs to this instance (id {owner}) "
        "and is frozen until promotion; nothing was written. Next: synchro promote NAME",
        ro_reason="synchro",
        owner=owner,
        term=term,
    )


def not_ours_to_give(owner: InstanceId, term: Term) -> NotLeader:
    return NotLeader(
        f"The queue is not this instance's to give away: its owner is {owner}; nothing was changed",
        owner=owner,
        term=term,
    )


def outdated(owner: InstanceId, term: Term, raft_term: Term) -> NotLeader:
    """Raft has seen a later term than that of the own queue."""
    return NotLeader(
        f"The queue of this instance is of term {term}, and term {raft_term} has begun since; nothing was "
        "changed. Next: promote",
        owner=owner,
        term=term,
    )
