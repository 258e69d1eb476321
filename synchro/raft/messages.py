"""What the Raft core is told, what it asks for, and what it says to other instances. Rules [E-3], [E-4]."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias

from synchro.config import ElectionMode, FencingMode
from synchro.errors import RemoteProtocolError, SynchroError
from synchro.ids import NOBODY, InstanceId, Term
from synchro.vclock import Vclock


class Role(IntEnum):
    """What an instance is in the current term. The numbers are those on the wire."""

    FOLLOWER = 1
    CANDIDATE = 2
    LEADER = 3


@dataclass(frozen=True, slots=True)
class RaftMessage:
    """The full visible state of one instance. It may be lost: the next message says it all again [E-3].

    Only the persisted term and vote are ever sent [E-2]. vclock: written, without component 0; set by
    candidates only.
    """

    term: Term
    vote: InstanceId
    role: Role
    leader: InstanceId
    is_leader_seen: bool
    vclock: Vclock | None = None

    def validate(self, source: InstanceId) -> None:
        """Raise `RemoteProtocolError` for what no honest peer says; the applier of that peer stops [E-4]."""
        if self.term < 1 or not isinstance(self.role, Role):
            raise RemoteProtocolError("Invalid term or state", source=source, term=self.term)
        if self.role is Role.CANDIDATE and (self.vote != source or self.vclock is None):
            raise RemoteProtocolError(
                "Candidate should always vote for self and provide its vclock", source=source, vote=self.vote
            )


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """The settings on which elections depend. Durations are in seconds."""

    election_mode: ElectionMode
    fencing_mode: FencingMode
    election_timeout_s: float
    death_timeout_s: float


@dataclass(frozen=True, slots=True)
class Membership:
    """The instances that count in elections. quorum: the evaluated synchro quorum, as for commits (ADR 6).
    writers: those who may write until they hear of a new term: the owner of the queue, or all [E-41]."""

    registered: frozenset[InstanceId]
    quorum: int
    writers: frozenset[InstanceId] = frozenset()

    @property
    def election_quorum(self) -> int:
        """The votes that an election needs: min(Q, N), so that a leader can be elected while the set grows
        [E-10]."""
        return min(self.quorum, max(1, len(self.registered)))


# --- events ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RaftStarted:
    """Recovery or join is over: the machine may act [E-5]."""


@dataclass(frozen=True, slots=True)
class RaftMessageReceived:
    """A message from the link with `source`. A candidate's vclock in it is compared with the own written
    one, as the last `VclockGrew` or `HardStatePersisted` told it [E-15].

    The only event for which `step` may raise: `RemoteProtocolError` [E-4], and then nothing has changed.
    """

    source: InstanceId
    message: RaftMessage


@dataclass(frozen=True, slots=True)
class TermSeen:
    """An ack or a frame carried this term; a higher one deposes a leader before the ack counts [L-5]."""

    term: Term


@dataclass(frozen=True, slots=True)
class LeaderHeard:
    """A heartbeat came directly from `source`. It resets the death timer if `source` is the leader [E-21]."""

    source: InstanceId


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """The peers whose applier and relay both follow now, without this instance [E-11]."""

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
    quorum: int | None = None
    """The evaluated synchro quorum, if it may have changed too; None: as it was. Both hold before anything
    follows from one of them: new fencing never acts on the old quorum [E-25]."""


@dataclass(frozen=True, slots=True)
class VclockGrew:
    """The own written vclock is larger now: a candidate repeats its request, a voter looks again.

    Step it after each write of rows and before whatever else that write causes. A vote compares with the
    vclock that is known here, so rows must not be acknowledged before this machine knows of them.
    """

    vclock: Vclock


@dataclass(frozen=True, slots=True)
class HardStatePersisted:
    """The answer to `PersistHardState`. vclock: all rows ahead of it in the WAL are on disk too."""

    term: Term
    vote: InstanceId
    vclock: Vclock


@dataclass(frozen=True, slots=True)
class CandidacyRequested:
    """promote(): stand for one term, whatever the mode is. Answered by `CandidacyEnded` [P-11], [P-22].

    It is refused without a new term if it cannot be won: voter mode, a log that is not trusted, or no healthy
    quorum. In mode off, too, a quorum must vote [P-20], so of two instances that ask at one time at most one
    wins [P-24]. An instance that leads has won already.
    """


@dataclass(frozen=True, slots=True)
class ResignRequested:
    """Give up leadership, or a candidacy, without a new term and without the disk [E-31], [L-16].

    stand_again: False keeps a configured candidate from standing by itself for one death timeout, unless it
    sees a leader before [P-30]. True gives the others a head start of a tenth of the election timeout at
    most.
    """

    stand_again: bool = True


@dataclass(frozen=True, slots=True)
class TermBumpRequested:
    """demote() with elections off: take the next term, to write DEMOTE in it [P-31]. No effect answers it.

    Raft persists term + 1 with the own vote and asks for votes, for one election timeout at most. Peers hear
    of a candidate in the new term and never that the old leader resigned, so they vote instead of standing.
    The asker waits for `is_leader` in the new term, and may write DEMOTE then. The persisted term alone is
    not enough: another instance may be elected in that term without our vote, and two owners' PROMOTE and
    DEMOTE of one term would both be decided. The event is ignored before the start, while the log is not
    trusted, and while another candidacy runs.
    """


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """Whether the own log is known to be complete. While it is not, this instance neither votes nor stands
    (S14)."""

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
    """Send this to every subscriber, and to each new one. Only the latest message matters."""

    message: RaftMessage


class CandidacyResult(Enum):
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class CandidacyEnded:
    """The answer to `CandidacyRequested`, exactly once. `error` is set unless the election was won [P-11]."""

    result: CandidacyResult
    error: SynchroError | None = None


RaftEffect: TypeAlias = PersistHardState | BroadcastRaft | CandidacyEnded
