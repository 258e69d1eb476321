"""One `Raft` core driven by events: what the stories of elections share."""

from __future__ import annotations

import random
from typing import Any

from synchro.config import ElectionMode, FencingMode
from synchro.errors import SynchroError
from synchro.ids import InstanceId, Lsn, Term
from synchro.raft.core import Raft
from synchro.raft.messages import (
    BroadcastRaft,
    CandidacyEnded,
    CandidacyRequested,
    CandidacyResult,
    DeadlineReached,
    HardStatePersisted,
    HealthChanged,
    Membership,
    PersistHardState,
    RaftEffect,
    RaftEvent,
    RaftMessage,
    RaftMessageReceived,
    RaftSettings,
    RaftStarted,
    Role,
)
from synchro.vclock import Vclock

OFF, VOTER, MANUAL, CANDIDATE = ElectionMode
DEATH_S = 4.0
ELECTION_S = 5.0
SHIFT_S = 0.5


def ids(*numbers: int) -> frozenset[InstanceId]:
    return frozenset(InstanceId(number) for number in numbers)


def vclock(lsns: dict[int, int]) -> Vclock:
    return Vclock({InstanceId(i): Lsn(lsn) for i, lsn in lsns.items()})


def settings(mode: ElectionMode = CANDIDATE, fencing: FencingMode = FencingMode.SOFT) -> RaftSettings:
    return RaftSettings(mode, fencing, election_timeout_s=ELECTION_S, death_timeout_s=DEATH_S)


def members(*numbers: int, quorum: int | None = None) -> Membership:
    return Membership(ids(*numbers), quorum=quorum or len(numbers) // 2 + 1)


class Story:
    """Instance 1 of 3, all healthy, and a clock. Effects of the last step are in `effects`."""

    def __init__(
        self,
        mode: ElectionMode = CANDIDATE,
        *,
        term: int = 1,
        vote: int = 0,
        own: dict[int, int] | None = None,
        peers: tuple[int, ...] = (2, 3),
        healthy: tuple[int, ...] = (2, 3),
        membership: Membership | None = None,
        fencing: FencingMode = FencingMode.SOFT,
        trusted: bool = True,
        started: bool = True,
    ) -> None:
        self.now = 100.0
        self.vclock = vclock(own or {})
        self.raft = Raft(
            self_id=InstanceId(1),
            term=Term(term),
            vote=InstanceId(vote),
            vclock=self.vclock,
            membership=membership or members(1, *peers),
            settings=settings(mode, fencing),
            rng=random.Random(7),
            trusted=trusted,
        )
        self.effects: list[RaftEffect] = []
        self.write: PersistHardState | None = None
        self.step(HealthChanged(ids(*healthy)))
        if started:
            self.step(RaftStarted())

    def step(self, event: RaftEvent) -> list[RaftEffect]:
        self.effects = self.raft.step(event, self.now)
        for effect in self.effects:
            if isinstance(effect, PersistHardState):
                assert self.write is None, "one write at a time [E-2]"
                self.write = effect
        return self.effects

    def hear(self, source: int, role: Role = Role.FOLLOWER, **fields: Any) -> list[RaftEffect]:
        """A message of `source`: by default a follower of the present term that sees no leader."""
        if role is not Role.FOLLOWER:
            fields = {"vote": source} | fields
        if role is Role.CANDIDATE:
            fields = {"vclock": vclock(fields.pop("has", {}))} | fields
        if role is Role.LEADER:
            fields = {"leader": source, "is_leader_seen": True} | fields
        message = RaftMessage(
            term=Term(fields.get("term", self.raft.volatile_term)),
            vote=InstanceId(fields.get("vote", 0)),
            role=role,
            leader=InstanceId(fields.get("leader", 0)),
            is_leader_seen=fields.get("is_leader_seen", False),
            vclock=fields.get("vclock"),
        )
        return self.step(RaftMessageReceived(InstanceId(source), message))

    def persist(self, *, then_has: dict[int, int] | None = None) -> list[RaftEffect]:
        """The disk answers the outstanding write."""
        wrote, self.write = self.write, None
        assert wrote is not None
        if then_has is not None:
            self.vclock = vclock(then_has)
        return self.step(HardStatePersisted(wrote.term, wrote.vote, self.vclock))

    def persist_all(self) -> None:
        while self.raft.is_write_in_progress:
            self.persist()

    def wait_deadline(self) -> list[RaftEffect]:
        assert self.raft.deadline is not None
        self.now = self.raft.deadline
        return self.step(DeadlineReached())

    def writes(self) -> list[tuple[int, int]]:
        return [(e.term, e.vote) for e in self.effects if isinstance(e, PersistHardState)]

    def shown(self) -> RaftMessage | None:
        broadcasts = [e.message for e in self.effects if isinstance(e, BroadcastRaft)]
        return broadcasts[-1] if broadcasts else None

    def ended(self) -> CandidacyEnded | None:
        ends = [e for e in self.effects if isinstance(e, CandidacyEnded)]
        assert len(ends) <= 1
        return ends[0] if ends else None

    def error(self) -> SynchroError:
        end = self.ended()
        assert end is not None and end.result is CandidacyResult.LOST and end.error is not None
        return end.error

    def stand(self) -> None:
        """Become a candidate by the timer alone."""
        self.wait_deadline()
        self.persist_all()
        assert self.raft.role is Role.CANDIDATE

    def win(self) -> None:
        self.stand()
        self.hear(2, vote=1)
        assert self.raft.is_leader


def follower_of_2(mode: ElectionMode = CANDIDATE, **kwargs: Any) -> Story:
    story = Story(mode, term=2, **kwargs)
    story.hear(2, Role.LEADER)
    assert story.raft.leader == 2
    return story


def asked_candidate(mode: ElectionMode = MANUAL, **kwargs: Any) -> Story:
    story = Story(mode, **kwargs)
    story.step(CandidacyRequested())
    story.persist()
    assert story.raft.role is Role.CANDIDATE
    return story
