"""One `Limbo` and two peers that are only numbers: what commits, and when, against a slow model."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from synchro.ids import InstanceId, Lsn, Term
from synchro.queue.effects import EntriesCommitted, EntriesRolledBack, LimboEffect, OwnerChanged, WriteControl
from synchro.queue.entry import LimboEntry
from synchro.queue.limbo import Limbo
from synchro.queue.state import QueueState
from synchro.row import Confirm, Demote, Promote
from synchro.vclock import Vclock

SELF, PEERS = InstanceId(1), (InstanceId(2), InstanceId(3))
Body = Confirm | Promote | Demote | None


class LimboMachine(RuleBasedStateMachine):
    """The model: a log of (lsn, body), how far each instance holds it, and the highest LSN decided."""

    def __init__(self) -> None:
        super().__init__()
        self.limbo = Limbo(self_id=SELF, registered=frozenset({SELF, *PEERS}), quorum=2, max_size=0)
        self.limbo.recovery_finished(0.0)
        self.log: list[Body] = []  # row n has LSN n + 1; None is data
        self.held = {SELF: 0, PEERS[0]: 0, PEERS[1]: 0}
        self.raft_term = Term(1)
        self.is_leader = False
        self.confirmed = 0
        self.committed: list[int] = []
        self.decided = 0

    # --- the model

    @property
    def quorum_lsn(self) -> int:
        return sorted(self.held.values())[1]

    @property
    def control_in_flight(self) -> bool:
        return any(isinstance(row, Confirm | Promote | Demote) for row in self.log[self.held[SELF] :])

    def data_upto(self, lsn: int) -> list[int]:
        return [n + 1 for n, body in enumerate(self.log[:lsn]) if body is None]

    def run(self, effects: list[LimboEffect]) -> None:
        for effect in effects:
            match effect:
                case WriteControl(body):
                    self.asked_for(body)
                    self.log.append(body)
                    self.limbo.control_sent(body, Lsn(len(self.log)))
                case EntriesCommitted(entries):
                    self.committed += [entry.lsn for entry in entries]
                    if self.limbo.state is QueueState.LEADER:
                        assert self.committed[-1] <= self.quorum_lsn
                        self.confirmed = max(self.confirmed, self.committed[-1])
                case EntriesRolledBack():
                    raise AssertionError("nobody else ever owns this queue")
                case OwnerChanged():
                    self.decided += 1

    def asked_for(self, body: Confirm | Promote | Demote) -> None:
        """Limbo.L3, Limbo.L4, and that no PROMOTE is announced that the model's quorum does not hold."""
        assert not self.control_in_flight
        assert self.is_leader
        match body:
            case Confirm(owner, lsn):
                assert owner == SELF
                assert isinstance(self.log[lsn - 1], Promote | Demote)
                assert lsn <= self.quorum_lsn
            case Promote(_, lsn, term, _) | Demote(_, lsn, term, _):
                assert term == self.raft_term
                assert lsn <= self.quorum_lsn

    # --- what may happen

    @rule(is_sync=st.booleans())
    def write(self, is_sync: bool) -> None:
        if self.limbo.state is QueueState.LEADER:
            self.announce()
            self.log.append(None)
            self.limbo.submit(LimboEntry(SELF, Lsn(len(self.log)), is_sync, 3, 0.0))

    @rule()
    def announce(self) -> None:
        """Limbo.L4, Limbo.L7: all that is committed, while leader, and nothing twice."""
        announced = max((row.lsn for row in self.log if isinstance(row, Confirm)), default=0)
        body = self.limbo.announce()
        if self.limbo.state is not QueueState.LEADER:
            assert body is None
        elif body is None:
            assert announced >= max(self.committed, default=0)
        else:
            assert body == Confirm(SELF, Lsn(self.committed[-1]))
            assert body.lsn > announced
            self.log.append(body)

    @rule(count=st.integers(1, 5))
    def sync(self, count: int) -> None:
        first, last = self.held[SELF], min(len(self.log), self.held[SELF] + count)
        self.held[SELF] = last
        self.run(self.limbo.written(Vclock({SELF: Lsn(last)}), 0.0))
        for n in range(first, last):
            body = self.log[n]
            if body is not None:
                if isinstance(body, Confirm):
                    self.confirmed = max(self.confirmed, body.lsn)
                self.run(self.limbo.control_written(SELF, Lsn(n + 1), body, 0.0))

    @rule(peer=st.sampled_from(PEERS), count=st.integers(0, 5))
    def ack(self, peer: InstanceId, count: int) -> None:
        """Rows are shown to a peer only after they are on the own disk."""
        self.held[peer] = min(self.held[SELF], self.held[peer] + count)
        self.run(self.limbo.ack(peer, Vclock({SELF: Lsn(self.held[peer])}), 0.0))

    @rule(leads=st.booleans())
    def elect(self, leads: bool) -> None:
        self.raft_term, self.is_leader = Term(self.raft_term + 1), leads
        self.tell_raft(persisted=self.raft_term if not leads else Term(self.raft_term - 1))
        self.tell_raft(persisted=self.raft_term)

    @rule()
    def resign(self) -> None:
        self.is_leader = False
        self.tell_raft(persisted=self.raft_term)

    @rule()
    def demote(self) -> None:
        if self.limbo.state is QueueState.LEADER:
            self.run(self.limbo.request_demote(0.0))
            self.elect(True)

    @rule()
    def cut_back(self) -> None:
        lost = self.log[self.held[SELF] :]
        if any(isinstance(body, Promote | Demote) for body in lost):
            return  # [L-30]: the process ends
        del self.log[self.held[SELF] :]
        dropped = self.limbo.cut_back()
        assert len(dropped) == lost.count(None)
        self.run(self.limbo.advance(0.0))

    def tell_raft(self, persisted: Term) -> None:
        self.run(
            self.limbo.raft_changed(
                volatile_term=self.raft_term, persisted_term=persisted, is_leader=self.is_leader, now=0.0
            )
        )

    # --- what must hold

    @invariant()
    def commits_what_is_decided(self) -> None:
        """ADR 2, ADR 11, [Q-51]: all of it, in order, and nothing else."""
        self.limbo.check()
        assert self.committed == self.data_upto(self.confirmed)
        assert [entry.lsn for entry in self.limbo.entries] == self.data_upto(len(self.log))[
            len(self.committed) :
        ]

    @invariant()
    def leaves_nothing_behind(self) -> None:
        """[Q-24], ADR 11: a leader has committed all that a quorum holds, at any time."""
        if self.limbo.state is QueueState.LEADER:
            assert self.committed == self.data_upto(max(self.quorum_lsn, self.confirmed))

    @invariant()
    def leads_only_what_it_decided(self) -> None:
        """[Q-3]."""
        if self.limbo.state is QueueState.LEADER:
            assert self.is_leader
            assert self.limbo.term == self.raft_term
            assert self.decided > 0


TestLimboMachine = LimboMachine.TestCase
TestLimboMachine.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True
)
