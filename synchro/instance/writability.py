"""Who may write here, and why not [E-40]..[E-44]: the reason, and what a caller is told.

What only the queue refuses is said by `Limbo.check_submit` [Q-13].
"""

from __future__ import annotations

from typing import Final, assert_never

from synchro.config import ElectionMode
from synchro.errors import Loading, NotLeader, ReadOnly, SynchroError, SyncQueueForeign, SyncQueueUnclaimed
from synchro.ids import ANONYMOUS, NOBODY
from synchro.instance.parts import Parts
from synchro.queue.limbo import QueueState
from synchro.ro_reason import RoReason
from synchro.row import Dml
from synchro.storage import schema

WRITABLE: Final = RoReason.NONE
"""A member of an enum that is asked for by name costs more than all the rest of the question."""


def read_only_reason(state: Parts) -> RoReason:
    """First match of [E-42], NONE when writable [E-40]."""
    raft, limbo = state.raft, state.limbo
    if state.is_expelled:
        return RoReason.EXPELLED
    if state.is_doubled:
        return RoReason.DOUBLED
    if state.self_id == ANONYMOUS:
        return RoReason.ANONYMOUS
    has_elections = state.settings.election_mode is not ElectionMode.OFF
    if (
        limbo.state is QueueState.REPLICA
        or raft.volatile_term > limbo.term
        or (has_elections and not raft.is_leader)
    ):
        return RoReason.ELECTION if has_elections and not raft.is_leader_seen else RoReason.SYNCHRO
    if state.settings.read_only:
        return RoReason.CONFIG
    if raft.is_lsn_exhausted:
        return RoReason.OUT_OF_LSNS
    # Its own rows may be among what the log lost: a new one would take an LSN that peers know [M-38],
    # [L-24].
    if not raft.trusted:
        return RoReason.OWN_ROWS_LOST
    return RoReason.ORPHAN if is_orphan(state) else WRITABLE


def is_orphan(state: Parts) -> bool:
    """Whether it may lack rows of its sources, which it would write beside [M-40]. Not with elections, nor as
    the owner of the queue: whom a quorum made the owner has all that a quorum has (ADR 46)."""
    return (
        bool(state.orphan_of)
        and state.settings.election_mode is ElectionMode.OFF
        and state.limbo.state is not QueueState.LEADER
    )


def read_only_error(state: Parts, reason: RoReason) -> ReadOnly:
    """[E-44], [A-60]"""
    raft, limbo = state.raft, state.limbo
    leader = raft.leader if raft.is_leader_seen else NOBODY  # one that fell silent is no place to go to
    text, facts = _why(state, reason)
    text += "; nothing was written"
    no_room = state.log.no_room
    if no_room is not None:
        file = no_room.details.get("file", "its log")
        text += f". The disk had no room for its last rows ({file}). Next: free space there"
        facts["disk"] = file
    return ReadOnly(
        f"Can't modify data on a read-only instance - {text}",
        ro_reason=reason.value,
        term=raft.volatile_term,
        owner=limbo.owner_id,
        leader=leader or None,
        **facts,
    )


def why_read_only(state: Parts, reason: RoReason) -> str:
    """For people."""
    return _why(state, reason)[0]


def _why(state: Parts, reason: RoReason) -> tuple[str, dict[str, object]]:
    """For people, and what is added to the details of the error."""
    match reason:
        case RoReason.CONFIG:
            return f"the configuration says so ({state.settings.read_only_by})", {}
        case RoReason.DOUBLED:
            return (
                "another live process has the identity of this one (a copied data directory?): "
                "stop one of the two",
                {},
            )
        case RoReason.ANONYMOUS:
            return (
                "it follows the set as an anonymous instance (replication.anon: true), which is never "
                "writable. Next: write on a member",
                {},
            )
        case RoReason.EXPELLED:
            return (
                "it was removed from the replica set. Next: move its files away, instance.identity too, and "
                "start it to join as a new member, or stop it for good",
                {},
            )
        case RoReason.OUT_OF_LSNS:
            return (
                "its LSNs are used up, see its log. Next: make a new replica set and copy the data into it",
                {},
            )
        case RoReason.OWN_ROWS_LOST:
            return (
                "it has lost some of its own transactions and is waiting to receive them back from "
                "the replicaset",
                {},
            )
        case RoReason.ORPHAN:
            names = ", ".join(state.orphan_of)
            return f"it is an orphan: it has not caught up with {names} yet", {"sources": names}
        case RoReason.ELECTION | RoReason.SYNCHRO:
            return _who_leads(state), {
                "state": state.raft.role.name.lower(),
                "queue_term": state.limbo.term,
            }
        case RoReason.NONE | RoReason.LOADING:
            raise AssertionError(f"{reason.name} refuses no write of this instance")
        case _:
            assert_never(reason)


def _who_leads(state: Parts) -> str:
    raft, limbo = state.raft, state.limbo
    text = f"state is election {raft.role.name.lower()} with term {raft.volatile_term}"
    if raft.leader != NOBODY and raft.is_leader_seen:
        text += f", leader is {raft.leader} ({state.name_of(raft.leader)})"
    text += f", synchro queue with term {limbo.term} belongs to {limbo.owner_id}"
    if limbo.owner_id != NOBODY:
        text += f" ({state.name_of(limbo.owner_id)})"
    if limbo.owner_id == state.self_id:
        text += " and is frozen until promotion"
    if (exhausted := raft.exhausted) is not None:
        text += f". {exhausted.message}"
    return text


def stopping_error() -> SynchroError:
    return Loading("The instance is stopping; nothing was done", stage="stopping")


def is_never_read_only(state: Parts, op: Dml) -> bool:
    """Local and temporary data, and its truncate; definitions of temporary spaces [D-4], [L-22]."""
    changed = op.space_id
    if schema.is_ddl_space(changed):
        named = (op.value or op.key or (0,))[0]
        if not isinstance(named, int):
            return False
        if changed != schema.TRUNCATE_ID or op.value is None or named not in state.memtx.catalog.stores:
            return named >= schema.TEMPORARY_ID_MIN
        changed = named
    space = state.memtx.catalog.space(changed)
    return space.is_local or space.is_temporary


def not_owner_error(state: Parts) -> SynchroError:
    """Why a linearizable read is refused here: only the owner of the queue can answer one."""
    owner = state.limbo.owner_id
    if owner == NOBODY:
        return SyncQueueUnclaimed(
            "The synchronous transaction queue doesn't belong to any instance; nothing was read. "
            "Next: synchro promote NAME"
        )
    if owner == state.self_id:
        return SyncQueueForeign(
            "The synchronous transaction queue is frozen until promotion; nothing was read. "
            f"Next: synchro promote {state.name_of(owner)}",
            owner=owner,
        )
    return SyncQueueForeign(
        f"The synchronous transaction queue belongs to other instance with id {owner} "
        f"({state.name_of(owner)}); nothing was read",
        owner=owner,
    )


def not_giver_error(state: Parts) -> NotLeader:
    """[P-31]: why this instance cannot give the queue away."""
    limbo, owner = state.limbo, state.limbo.owner_id
    if owner == state.self_id:
        text = (
            f"This instance owns the queue of term {limbo.term}, but does not lead the term "
            f"{state.raft.volatile_term} that is on now; nothing was changed. Next: synchro promote "
            f"{state.name_of(owner)}"
        )
    else:
        name = state.name_of(owner)
        text = (
            f"The queue is not this instance's to give away: its owner is {owner} ({name}); nothing "
            f"was changed. Next: synchro demote {name}"
        )
    return NotLeader(text, owner=owner)
