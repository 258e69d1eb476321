"""State of the limbo: what it may do now, and what outlives the process. Rules [Q-3], [Q-73]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from synchro.ids import INITIAL_TERM, NOBODY, InstanceId, Lsn, Term
from synchro.queue.limbo_queue import ZERO_LSN


class QueueState(Enum):
    """[Q-3]."""

    INACTIVE = "inactive"
    """nobody owns the queue"""
    LEADER = "leader"
    """we own it, and may write"""
    REPLICA = "replica"
    """it is owned by another, or by us but frozen until a promote"""


@dataclass(frozen=True, slots=True)
class LimboState:
    """What a snapshot or a join carries of the limbo [Q-73]. Neither entries nor pending PROMOTEs are part of
    it: the vclock of the snapshot ends before the first of them, so that replaying the WAL brings them
    back."""

    owner: InstanceId = NOBODY
    term: Term = INITIAL_TERM
    confirmed_lsn: Lsn = ZERO_LSN
    confirmed_vclock: Mapping[InstanceId, Lsn] = field(default_factory=dict)
    promote_terms: Mapping[InstanceId, Term] = field(default_factory=dict)
