"""Several `Raft` cores, messages in a bag, slow disks, crashes: what must hold in every order of events.

Messages are delivered in any order, more than once or never; writes are done late, in the order of the WAL,
or lost in a crash. Nothing here is timed: a deadline may pass whenever the other events leave it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from synchro.config import ElectionMode, FencingMode
from synchro.ids import INITIAL_TERM, NOBODY, InstanceId, Lsn, Term
from synchro.raft.core import Raft
from synchro.raft.messages import (
    BroadcastRaft,
    CandidacyEnded,
    CandidacyRequested,
    DeadlineReached,
    HardStatePersisted,
    HealthChanged,
    LeaderHeard,
    Membership,
    PeerUnseen,
    PersistHardState,
    RaftEvent,
    RaftMessage,
    RaftMessageReceived,
    RaftSettings,
    RaftSettingsChanged,
    RaftStarted,
    ResignRequested,
    Role,
    TermBumpRequested,
    TermSeen,
    TrustChanged,
    VclockGrew,
)
from synchro.vclock import EMPTY_VCLOCK, Vclock

SEEDS = st.integers(0, 2**16)
PICK = st.integers(0, 10**6)


@dataclass
class Disk:
    """Term, vote and rows that survive a crash, and the WAL queue that does not."""

    term: Term = INITIAL_TERM
    vote: InstanceId = NOBODY
    vclock: Vclock = EMPTY_VCLOCK
    queue: list[Vclock | PersistHardState] = field(default_factory=list)

    @property
    def vclock_in_progress(self) -> Vclock:
        """What the rows on their way will make of the vclock."""
        rows = [item for item in self.queue if isinstance(item, Vclock)]
        return rows[-1] if rows else self.vclock


class RaftMachine(RuleBasedStateMachine):
    """A set of `size` instances; leaders write rows, so that votes have something to compare."""

    size = 3

    @initialize(
        modes=st.lists(st.sampled_from(ElectionMode), min_size=5, max_size=5),
        seed=SEEDS,
        rows=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    )
    def begin(self, modes: list[ElectionMode], seed: int, rows: list[int]) -> None:
        self.ids = [InstanceId(number) for number in range(1, self.size + 1)]
        self.quorum = self.size // 2 + 1
        self.now = 0.0
        self.rng = random.Random(seed)
        self.modes = dict(zip(self.ids, modes, strict=False))
        # Each wrote some rows alone, as masters do: their vclocks are concurrent.
        self.disks = {i: Disk(vclock=Vclock({i: Lsn(own)})) for i, own in zip(self.ids, rows, strict=False)}
        self.rafts: dict[InstanceId, Raft] = {}
        self.bag: list[tuple[InstanceId, InstanceId, RaftMessage]] = []
        self.candidacies: dict[InstanceId, int] = {}
        # What an observer of everything has seen.
        self.leader_of: dict[Term, InstanceId] = {}
        self.vote_of: dict[tuple[InstanceId, Term], InstanceId] = {}
        self.acked: dict[Term, dict[InstanceId, Lsn]] = {}
        self.confirmed: list[tuple[Term, InstanceId, Lsn]] = []
        for instance in self.ids:
            self.boot(instance)

    # --- the shell -------------------------------------------------------------------------------------

    def boot(self, instance: InstanceId) -> None:
        disk = self.disks[instance]
        self.rafts[instance] = Raft(
            self_id=instance,
            term=disk.term,
            vote=disk.vote,
            vclock=disk.vclock,
            membership=Membership(frozenset(self.ids), self.quorum),
            settings=self.settings_of(instance),
            rng=self.rng,
        )
        self.candidacies[instance] = 0
        self.step(instance, HealthChanged(frozenset(self.ids) - {instance}))
        self.step(instance, RaftStarted())

    def settings_of(self, instance: InstanceId) -> RaftSettings:
        return RaftSettings(self.modes[instance], FencingMode.SOFT, election_timeout_s=5, death_timeout_s=4)

    def step(self, instance: InstanceId, event: RaftEvent) -> None:
        raft, disk = self.rafts[instance], self.disks[instance]
        was_writing = raft.is_write_in_progress
        for effect in raft.step(event, self.now):
            match effect:
                case PersistHardState():
                    assert not was_writing or isinstance(event, HardStatePersisted), "two writes at a time"
                    disk.queue.append(effect)
                case BroadcastRaft(message):
                    self.see(instance, message)
                    self.bag += [(instance, peer, message) for peer in self.ids if peer != instance]
                case CandidacyEnded():
                    self.candidacies[instance] -= 1
                    assert self.candidacies[instance] >= 0, "answered twice"
        if raft.is_leader:
            self.crown(instance)

    def see(self, instance: InstanceId, message: RaftMessage) -> None:
        """Only what is on disk is ever shown [E-2]."""
        disk = self.disks[instance]
        assert (message.term, message.vote) == (disk.term, disk.vote)
        if message.role is Role.LEADER:
            assert message.leader == instance

    def crown(self, instance: InstanceId) -> None:
        """At most one leader a term [E-52], and it has what was confirmed in earlier terms (S2)."""
        term = self.rafts[instance].term
        if self.leader_of.setdefault(term, instance) != instance:
            raise AssertionError(f"{instance} and {self.leader_of[term]} lead in term {term}")
        for confirmed_term, origin, lsn in self.confirmed:
            if confirmed_term < term:
                assert self.disks[instance].vclock.get(origin) >= lsn, "a confirmed row is gone"

    def write_head(self, instance: InstanceId) -> RaftEvent:
        disk = self.disks[instance]
        item = disk.queue.pop(0)
        if isinstance(item, Vclock):
            disk.vclock = disk.vclock.merge(item)
            return VclockGrew(disk.vclock)
        assert item.term >= disk.term, "a persisted term went back"
        disk.term, disk.vote = item.term, item.vote
        if item.vote != NOBODY:
            first = self.vote_of.setdefault((instance, item.term), item.vote)
            assert first == item.vote, f"{instance} voted twice in term {item.term}"
        return HardStatePersisted(item.term, item.vote, disk.vclock)

    def pick(self, number: int) -> InstanceId:
        return self.ids[number % len(self.ids)]

    # --- rules -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.bag)
    @rule(number=PICK, is_kept=st.booleans())
    def deliver(self, number: int, is_kept: bool) -> None:
        index = number % len(self.bag)
        source, target, message = self.bag[index]
        if not is_kept:
            del self.bag[index]
        self.step(target, RaftMessageReceived(source, message))

    @precondition(lambda self: self.bag)
    @rule(number=PICK)
    def deliver_newest(self, number: int) -> None:
        """Most runs are near to how a network is: else few elections would be won."""
        target = self.pick(number)
        for index in range(len(self.bag) - 1, -1, -1):
            if self.bag[index][1] == target:
                source, _, message = self.bag.pop(index)
                self.step(target, RaftMessageReceived(source, message))
                return

    @precondition(lambda self: len(self.bag) > 40)
    @rule()
    def lose_the_oldest(self) -> None:
        del self.bag[:20]

    @rule(number=PICK)
    def write(self, number: int) -> None:
        instance = self.pick(number)
        if self.disks[instance].queue:
            self.step(instance, self.write_head(instance))

    @rule()
    def write_everything(self) -> None:
        for instance in self.ids:
            while self.disks[instance].queue:
                self.step(instance, self.write_head(instance))

    @rule(number=PICK)
    def pass_deadline(self, number: int) -> None:
        instance = self.pick(number)
        deadline = self.rafts[instance].deadline
        if deadline is not None:
            self.now = max(self.now, deadline)
            self.step(instance, DeadlineReached())

    @rule(number=PICK, durable=st.integers(0, 3))
    def crash(self, number: int, durable: int) -> None:
        """The first `durable` writes of the queue made it to the disk, unanswered."""
        instance = self.pick(number)
        disk = self.disks[instance]
        for _ in range(min(durable, len(disk.queue))):
            self.write_head(instance)
        disk.queue.clear()
        self.boot(instance)

    @rule(number=PICK)
    def add_row(self, number: int) -> None:
        for instance in self.ids:
            if self.rafts[instance].is_leader:
                disk = self.disks[instance]
                rows = disk.vclock_in_progress
                disk.queue.append(rows.follow(instance, Lsn(rows.get(instance) + 1)))

    @rule(source=PICK, reader=PICK)
    def replicate(self, source: int, reader: int) -> None:
        """Rows that `source` has on disk are on their way to the disk of `reader`."""
        disk = self.disks[self.pick(reader)]
        rows = disk.vclock_in_progress.merge(self.disks[self.pick(source)].vclock)
        if rows != disk.vclock_in_progress:
            disk.queue.append(rows)

    @rule(source=PICK)
    def ack(self, source: int) -> None:
        """To every leader, with vclock and term of this moment; a higher term counts first [L-5]."""
        sender = self.pick(source)
        disk = self.disks[sender]
        for instance in self.ids:
            if not self.rafts[instance].is_leader:
                continue
            self.step(instance, TermSeen(disk.term))
            if not self.rafts[instance].is_leader:
                continue
            term = self.rafts[instance].term
            acks = self.acked.setdefault(term, {})
            acks[sender] = disk.vclock.get(instance)
            lsn = sorted(acks.values(), reverse=True)[self.quorum - 1] if len(acks) >= self.quorum else 0
            if lsn > 0:
                self.confirmed.append((term, instance, Lsn(lsn)))

    @rule(number=PICK)
    def request_candidacy(self, number: int) -> None:
        instance = self.pick(number)
        self.candidacies[instance] += 1
        self.step(instance, CandidacyRequested())

    @rule(
        number=PICK, event=st.sampled_from([ResignRequested(), ResignRequested(False), TermBumpRequested()])
    )
    def command(self, number: int, event: RaftEvent) -> None:
        self.step(self.pick(number), event)

    @rule(number=PICK, peer=PICK)
    def hear_the_leader(self, number: int, peer: int) -> None:
        self.step(self.pick(number), LeaderHeard(self.pick(peer)))

    @rule(number=PICK, peer=PICK, is_healthy=st.booleans())
    def change_health(self, number: int, peer: int, is_healthy: bool) -> None:
        instance, other = self.pick(number), self.pick(peer)
        healthy = self.rafts[instance].healthy | {other} if is_healthy else frozenset({other})
        self.step(instance, HealthChanged(frozenset(healthy) - {instance}))
        if not is_healthy:
            self.step(instance, PeerUnseen(other))

    @rule(number=PICK, mode=st.sampled_from(ElectionMode))
    def change_mode(self, number: int, mode: ElectionMode) -> None:
        instance = self.pick(number)
        self.modes[instance] = mode
        self.step(instance, RaftSettingsChanged(self.settings_of(instance)))

    @rule(number=PICK, trusted=st.booleans())
    def change_trust(self, number: int, trusted: bool) -> None:
        self.step(self.pick(number), TrustChanged(trusted))

    # --- what must hold --------------------------------------------------------------------------------

    @invariant()
    def state_is_what_the_disk_holds(self) -> None:
        for instance, raft in getattr(self, "rafts", {}).items():
            disk = self.disks[instance]
            assert (raft.term, raft.vote) == (disk.term, disk.vote)
            assert (raft.message().term, raft.message().vote) <= (disk.term, 99)
            assert raft.is_write_in_progress == any(isinstance(x, PersistHardState) for x in disk.queue)
            assert raft.conflicting_leader_seen == 0
            assert self.candidacies[instance] in (0, 1), "a candidacy is answered exactly once"
            assert raft.is_candidacy_running or self.candidacies[instance] == 0


class RaftMachineOfFive(RaftMachine):
    size = 5


CALM = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestThree = RaftMachine.TestCase
TestThree.settings = CALM
TestFive = RaftMachineOfFive.TestCase
TestFive.settings = settings(CALM, max_examples=60)


def test_random_walks_elect_leaders_and_lose_nothing() -> None:
    """Long walks over the same rules, weighted towards progress; they must see what they are to check."""
    terms_won = confirmed = 0
    for seed in range(250):
        choose = random.Random(seed)
        machine = RaftMachine()
        modes = choose.choices([*ElectionMode, ElectionMode.CANDIDATE, ElectionMode.CANDIDATE], k=5)
        machine.begin(modes, seed, [choose.randrange(3) for _ in range(5)])
        rules: list[tuple[int, Callable[[RaftMachine, int], object]]] = [
            (30, lambda m, n: m.deliver_newest(n)),
            (10, lambda m, n: m.bag and m.deliver(n, n % 2 == 0)),
            (30, lambda m, n: m.write(n)),
            (6, lambda m, n: m.pass_deadline(n)),
            (15, lambda m, n: m.replicate(n, n // 7)),
            (10, lambda m, n: m.add_row(n)),
            (15, lambda m, n: m.ack(n)),
            (1, lambda m, n: m.crash(n, n // 11 % 4)),
            (1, lambda m, n: m.request_candidacy(n)),
            (1, lambda m, n: m.command(n, [ResignRequested(), TermBumpRequested()][n % 2])),
            (1, lambda m, n: m.change_health(n, n // 5, n % 3 > 0)),
            (5, lambda m, n: len(m.bag) > 40 and m.lose_the_oldest()),
        ]
        weights = [weight for weight, _ in rules]
        for _ in range(500):
            [(_, act)] = choose.choices(rules, weights)
            act(machine, choose.randrange(10**6))
            machine.state_is_what_the_disk_holds()
        terms_won += len(machine.leader_of)
        confirmed += len(machine.confirmed)
    assert terms_won > 400 and confirmed > 1000, (terms_won, confirmed)
