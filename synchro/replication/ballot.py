"""What an instance tells everyone about itself before they trust each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from synchro.ids import INITIAL_TERM, NOBODY, InstanceId, Term
from synchro.vclock import EMPTY_VCLOCK, Vclock

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Ballot:
    """What an instance tells everyone about itself before they trust each other [M-7]."""

    instance_uuid: str
    instance_name: str
    replicaset_uuid: str = ""
    """Empty until it is known."""
    instance_id: InstanceId = NOBODY
    is_booted: bool = False
    is_ro_cfg: bool = False
    is_ro: bool = True
    can_lead: bool = False
    vclock: Vclock = EMPTY_VCLOCK
    gc_vclock: Vclock = EMPTY_VCLOCK
    """The oldest vclock whose rows can still be sent."""
    bootstrap_leader_uuid: str = ""
    """Whom this instance chose to bootstrap the set; empty: nobody yet."""
    registered_uuids: frozenset[str] = frozenset()
    queue_owner: InstanceId = NOBODY
    term: Term = INITIAL_TERM
    rejoins: bool = False
    """It replaces its data by a join, or is about to (ADR 46)."""
    start_id: str = ""
    address: str = ""
    """Both as in `Hello`."""
    is_anonymous: bool = False
    """It follows a set without being a member, or wants to [M-6]."""
    replicaset_name: str = ""
    """In its configuration; empty: it was started by flags, or is an older version."""
