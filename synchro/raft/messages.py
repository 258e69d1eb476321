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

    def validate(self, source: InstanceId) -> None:
        """Raise `RemoteProtocolError` for what no honest peer says; its applier stops [E-4]."""
        if self.term < 1 or not isinstance(self.role, Role):
            raise RemoteProtocolError("Invalid term or state", source=source, term=self.term)
        if self.role is Role.CANDIDATE and (self.vote != source or self.vclock is None):
            raise RemoteProtocolError(
                "Candidate should always vote for self and provide its vclock", source=source, vote=self.vote
            )


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
    """Own written vclock is larger now: a candidate repeats its request, a voter looks again.

    Step it after each write of rows and before whatever else that write causes: a vote is given by
    comparing with the vclock known here, and rows must not be acked that it does not know of.
    """

    vclock: Vclock


@dataclass(frozen=True, slots=True)
class HardStatePersisted:
    """Answers `PersistHardState`; all rows ahead of it in the WAL are on disk too (`vclock`)."""

    term: Term
    vote: InstanceId
    vclock: Vclock


@dataclass(frozen=True, slots=True)
class CandidacyRequested:
    """promote(): stand for one term, whatever the mode is. Answered by `CandidacyEnded` [P-11], [P-22].

    Refused without a new term if it cannot be won: voter mode, log not trusted, no healthy quorum.
    in_new_term: a leader, too, must win the next term: the queue was given away in this one, by a DEMOTE, so
    no PROMOTE of it can follow. False: who leads has won already. In mode off, too, a quorum must vote, so of
    two that ask at one time at most one wins [P-24].
    """

    in_new_term: bool = False


@dataclass(frozen=True, slots=True)
class ResignRequested:
    """Give up leadership, or a candidacy, without a new term and without the disk [E-31], [L-16].

    stand_again: False keeps a configured candidate from standing by itself for one death timeout, unless
    it sees a leader before [P-30]; True only gives the others a head start of a tenth of the election
    timeout at most.
    """

    stand_again: bool = True


@dataclass(frozen=True, slots=True)
class TermBumpRequested:
    """demote() with elections off: take the next term, to write DEMOTE in it [P-31].

    Persists term + 1 with the own vote and asks for votes, at most one election timeout long. Peers hear
    of it only as of a candidate in the new term, never that the old leader resigned, so they vote instead
    of standing. The asker waits for `is_leader` in the new term, and may write DEMOTE then. The persisted
    term alone is not enough: another instance may be elected in that term without our vote, and two
    owners' PROMOTE and DEMOTE of one term would both be decided. Ignored before the start, while the log
    is not trusted, and while another candidacy runs. No effect answers it.
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
