"""What the Raft core is told, what it asks for, and what it says to other instances. Rules [E-3], [E-4]."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias

from synchro.config import ElectionMode, FencingMode
from synchro.errors import SynchroError
from synchro.ids import NOBODY, InstanceId, Term
from synchro.vclock import Vclock


class Role(IntEnum):
    """Numbers are those on the wire."""

    FOLLOWER = 1
    CANDIDATE = 2
    LEADER = 3


@dataclass(frozen=True, slots=True)
class RaftMessage:
    """Full visible state of one instance. May be lost: the next one says it all again [E-3].

    Only persisted term and vote are ever sent [E-2]. vclock (written, without component 0) is set by
    candidates only.
    """

    term: Term
    vote: InstanceId
    role: Role
    leader: InstanceId
    is_leader_seen: bool
    vclock: Vclock | None = None


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Part of the settings that elections depend on; durations in seconds."""

    election_mode: ElectionMode
    fencing_mode: FencingMode
    election_timeout_s: float
    death_timeout_s: float


@dataclass(frozen=True, slots=True)
class Membership:
    """Who counts. `quorum` is the evaluated synchro quorum for commits; see docs/adr (N of elections)."""

    registered: frozenset[InstanceId]
    quorum: int

    @property
    def election_quorum(self) -> int:
        """min(Q, N): an instance may be elected while the set is still growing [E-10]."""
        return min(self.quorum, max(1, len(self.registered)))


# --- events ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RaftStarted:
    """Recovery or join is over: the machine may act [E-5]."""


@dataclass(frozen=True, slots=True)
class RaftMessageReceived:
    """`vclock`: own written vclock at this moment, to compare with a candidate's [E-15]."""

    source: InstanceId
    message: RaftMessage


@dataclass(frozen=True, slots=True)
class TermSeen:
    """An ack or a frame carried this term; a higher one deposes a leader before the ack counts [L-5]."""

    term: Term


@dataclass(frozen=True, slots=True)
class LeaderHeard:
    """A heartbeat came directly from `source`; resets the death timer if it is the leader [E-21]."""

    source: InstanceId


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """Peers whose applier and relay both follow now, self not included [E-11]."""

    healthy: frozenset[InstanceId]


@dataclass(frozen=True, slots=True)
class PeerUnseen:
    """The link from `peer` broke: its word about the leader no longer counts [E-24]."""

    peer: InstanceId


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    membership: Membership


@dataclass(frozen=True, slots=True)
class RaftSettingsChanged:
    settings: RaftSettings


@dataclass(frozen=True, slots=True)
class VclockGrew:
    """Own written vclock is larger now: a candidate repeats its request, a voter looks again."""

    vclock: Vclock


@dataclass(frozen=True, slots=True)
class HardStatePersisted:
    """Answers `PersistHardState`; all rows ahead of it in the WAL are on disk too (`vclock`)."""

    term: Term
    vote: InstanceId
    vclock: Vclock


@dataclass(frozen=True, slots=True)
class CandidacyRequested:
    """promote(): stand for one term, whatever the mode is. Answered by `CandidacyEnded` [P-11]."""


@dataclass(frozen=True, slots=True)
class ResignRequested:
    """Give up leadership without a new term [E-31]. `stand_again`: False keeps a candidate from
    re-electing itself at once [P-30]."""

    stand_again: bool = True


@dataclass(frozen=True, slots=True)
class TermBumpRequested:
    """demote() with elections off: persist term + 1, keep quiet otherwise [P-31].

    The owner stays raft leader in the new term, by its own vote and without a campaign; it goes on only
    to write DEMOTE.
    """


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """False: the own log is not provably complete, so no vote and no candidacy (amnesia, S14)."""

    trusted: bool


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """`now` is at or past `Raft.deadline`."""


RaftEvent: TypeAlias = (
    RaftStarted
    | RaftMessageReceived
    | TermSeen
    | LeaderHeard
    | HealthChanged
    | PeerUnseen
    | MembershipChanged
    | RaftSettingsChanged
    | VclockGrew
    | HardStatePersisted
    | CandidacyRequested
    | ResignRequested
    | TermBumpRequested
    | TrustChanged
    | DeadlineReached
)


# --- effects --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PersistHardState:
    """Write and sync term and vote, then step `HardStatePersisted`. At most one is outstanding."""

    term: Term
    vote: InstanceId = NOBODY


@dataclass(frozen=True, slots=True)
class BroadcastRaft:
    """Send to every subscriber, and to each new one. Only the latest matters."""

    message: RaftMessage


class CandidacyResult(Enum):
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class CandidacyEnded:
    """Answers `CandidacyRequested`, exactly once. `error` is set unless it was won [P-11]."""

    result: CandidacyResult
    error: SynchroError | None = None


RaftEffect: TypeAlias = PersistHardState | BroadcastRaft | CandidacyEnded
