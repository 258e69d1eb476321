"""One seed, one world: instances, clients, faults, and a heap of what happens next.

A run: faults until enough calls were answered; then a core of at least a quorum is healed and must serve
(S21); then everything is healed and must be equal (S22); then the history of the clients is judged.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from synchro.config import ElectionMode, FencingMode, Limits, Settings
from synchro.ids import InstanceName, Lsn, Term
from synchro.instance import events as ev
from synchro.queue.limbo import QueueState
from synchro.row import RowType
from synchro.storage import row_body
from tests.mesh import SYNC
from tests.sim.calm import Calm
from tests.sim.careful import Careful
from tests.sim.changes import Changes
from tests.sim.checkers import Checks, Violation
from tests.sim.choices import Choices
from tests.sim.clerks import Clerks
from tests.sim.clients import Client, Crowd, Op
from tests.sim.files import Files
from tests.sim.history import Seen, check_register
from tests.sim.late import Late
from tests.sim.leavers import Leavers
from tests.sim.logs import Logs
from tests.sim.losses import Losses, NobodyCouldTell
from tests.sim.machine import SMALL, Machine
from tests.sim.masters import Masters
from tests.sim.nemesis import Nemesis
from tests.sim.net import Net
from tests.sim.onlookers import Onlookers
from tests.sim.outsiders import Outsiders
from tests.sim.process import Process
from tests.sim.readers import Readers
from tests.sim.thinkers import Thinkers
from tests.sim.watch import Watch

QUIET_S = 30.0
"""Virtual seconds without an answer that end the fault phase."""
FAULTS_S = 30.0
"""It ends then in any case."""
TRACE_EVENTS = 40


class World:
    def __init__(
        self, seed: int, *, verbose: bool = False, hashed: bool = False, masters: bool = False
    ) -> None:
        """masters: a world of `Masters`, without an owner of the queue."""
        self.seed = seed
        self.choices = Choices(seed)
        self.now = 0.0
        self.steps = 0
        self.reads = 0
        self.hits: Counter[str] = Counter()
        self.is_over = False
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._seq = 0
        self._calls = 0
        self._trace: deque[tuple[float, int, Any]] = deque(maxlen=TRACE_EVENTS)
        self._verbose = verbose
        self._hash = hashlib.blake2b(digest_size=16) if hashed else None
        self.history: list[Seen] = []
        self.undone: list[tuple[object, object]] = []
        self.counts: Counter[str] = Counter()
        self.answered_at = 0.0
        self.clients_stopped = False
        self.restarts_by_itself = True
        self.broken: set[int] = set()
        self._configure()
        self.masters: Masters | None = None
        if masters:
            Masters.configure(self)
            self.masters = Masters(self)
        self.calm = Calm(self)
        if self.calm.is_on:
            self.calm.configure()
        self.checks = Checks(self)
        self.versions: Random = self.choices.stream("versions")
        share = 0.3 if self.versions.random() < 0.4 else 0.0
        self.older: set[int] = {
            number for number in range(1, self.size + 1) if self.versions.random() < share
        }
        if masters:
            self.older = set()
        self.unnamed_share: float = self.versions.choice((0.0, 0.0, 0.3, 0.7, 1.0))
        """Of the callers in crowds."""
        self.losses = Losses(self)
        self.leavers = Leavers(self)
        self.files = Files(self)
        self.net = Net(self)
        self.machines: dict[int, Machine] = {}
        for number in range(1, self.size + 1):
            self.machines[number] = Machine(self, number, self._settings(number))
        self.hosts = dict(self.machines)
        """Members and others."""
        self.nemesis = Nemesis(self)
        self.outsiders = Outsiders(self)
        self.logs = Logs(self)
        for number in self.outsiders.numbers:
            self.hosts[number] = Machine(self, number, self._settings(number))
        self.clients = [Client(self, number) for number in range(1, self.client_count + 1)]
        crowds = self.choices.stream("crowds").choice((0, 0, 1, 2))
        self.crowds = [Crowd(self, self.client_count + number) for number in range(1, crowds + 1)]
        if self.crowds and self.choices.stream("crowds cut off").random() < 0.4:
            self.nemesis.also("isolate owner", 0.5)
        if self.mode_kind == "off" and self.choices.stream("demotes").random() < 0.5:
            self.nemesis.also("demote", 0.4)
        self.late = Late(self)
        self.clerks = Clerks(self)
        self.careful = Careful(self)
        self.thinkers = Thinkers(self)
        self.onlookers = Onlookers(self)
        self.readers = Readers(self)
        self.watch = Watch(self)
        self.changes = Changes(self)

    # --- configuration

    def _configure(self) -> None:
        rng = self._rng = self.choices.stream("world")
        self.size = rng.choices((1, 2, 3, 4, 5), (3, 7, 60, 10, 20))[0]
        self.may_diverge = False
        self.quorum = self.size // 2 + 1
        if self.size > 1 and rng.random() < 0.05:
            self.quorum = rng.randint(1, self.size)
            self.may_diverge = self.quorum <= self.size // 2
        self.is_async = rng.random() < 0.05 and not self.may_diverge
        self.client_count = rng.randint(1, 8)
        self.keys = rng.randint(1, 10)
        self.replication_timeout = rng.choice((0.15, 0.25, 0.5))
        self.election_timeout = self.replication_timeout * rng.choice((1.5, 3, 5))
        self.time_scale = self.replication_timeout / 0.2
        self.think_mean = rng.choice((0.01, 0.05, 0.15, 0.4))
        self.target = rng.randint(40, 150)
        self.request_id_share = rng.choice((0.0, 0.5, 1.0))
        self.abandon_share = rng.choice((0.0, 0.0, 0.2))
        self.queue_max = rng.choice((0, 16 << 20, 16 << 20, 1_000, 4_000))
        self.limits = SMALL if rng.random() < 0.8 else _tiny(SMALL)
        self.mode_kind = rng.choice(("candidate", "candidate", "candidate", "manual", "off", "mixed"))
        self.fencing = rng.choice((FencingMode.SOFT, FencingMode.SOFT, FencingMode.STRICT, FencingMode.OFF))
        self._configure_quiet()
        memory = self.choices.stream("memory")
        self.first_position: ev.Position | None = None
        """Of clients; None: they name none, and nothing is forgotten."""
        if memory.random() < 0.15 and not (self.may_diverge or self.is_async):
            self.limits = replace(self.limits, remembered_requests_max=memory.choice((1, 5, 30)))
            self.first_position = ev.Position(Term(0), Lsn(0))

    def _configure_quiet(self) -> None:
        """Candidates whose quorum is no majority; nobody writes while they pause (S19)."""
        rng = self.choices.stream("quiet")
        self.is_quiet = rng.random() < 0.06
        if self.is_quiet:
            self.size = rng.choice((2, 2, 3, 3, 4, 5))
            self.quorum = rng.randint(1, self.size // 2)
            self.may_diverge, self.is_async = True, False
            self.mode_kind, self.client_count = "candidate", 0

    def _settings(self, number: int) -> Settings:
        kinds = {
            "candidate": (ElectionMode.CANDIDATE,),
            "manual": (ElectionMode.MANUAL,),
            "off": (ElectionMode.OFF,),
            "mixed": (
                ElectionMode.CANDIDATE,
                ElectionMode.MANUAL,
                ElectionMode.CANDIDATE,
                ElectionMode.VOTER,
            ),
        }[self.mode_kind]
        mode = kinds[0] if number == 1 else self._rng.choice(kinds)
        return Settings(
            instance_name=InstanceName(f"i{number}"),
            election_mode=mode,
            election_fencing_mode=self.fencing,
            election_timeout_s=self.election_timeout,
            replication_timeout_s=self.replication_timeout,
            synchro_quorum=self.leavers.quorum,
            synchro_queue_max_size=self.queue_max,
            limits=self.limits,
        )

    # --- time and trace

    def at(self, time: float, call: Callable[..., None], *args: Any) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (time, self._seq, call, args))

    def next_call(self) -> int:
        self._calls += 1
        return self._calls

    def note(self, number: int, what: Any) -> None:
        self._trace.append((self.now, number, what))
        if self._hash is not None:
            self._hash.update(f"{self.now!r} {number} {what!r}\n".encode())
        if self._verbose:
            print(f"{self.now:9.4f} {number} {what!r}"[:400])

    @property
    def trace_hash(self) -> str:
        assert self._hash is not None
        return self._hash.hexdigest()

    def trace(self) -> list[str]:
        return [f"{at:9.4f} {number} {what!r}"[:300] for at, number, what in self._trace]

    def run_until(self, end: float, is_done: Callable[[], bool] | None = None) -> bool:
        """Let things happen until `end`, or `is_done` holds between two of them."""
        heap = self._heap
        looked = 0
        while heap and heap[0][0] <= end:
            self.now, _, call, args = heapq.heappop(heap)
            call(*args)
            looked += 1
            if is_done is not None and looked % 8 == 0 and is_done():
                return True
        self.now = max(self.now, end)
        return is_done is not None and is_done()

    # --- the run

    def run(self) -> None:
        for machine in self.machines.values():
            machine.start()
        if self.is_quiet:
            self._run_quiet()
            return
        if self.masters is not None:
            self._run_masters(self.masters)
            return
        for client in self.clients:
            client.start()
        for crowd in self.crowds:
            crowd.start()
        for start in (self.late.start, self.clerks.start, self.careful.start, self.thinkers.start):
            start()
        for start in (self.onlookers.start, self.readers.start, self.watch.start, self.changes.start):
            start()
        self.outsiders.start()
        self.logs.start()
        self._run_operator()
        if self.calm.is_on:
            self.calm.run()
            return
        for start in (self.nemesis.start, self.losses.start, self.leavers.start, self.files.start):
            start()
        try:
            self._run_faults()
        except NobodyCouldTell:
            self.is_over = True

    def _run_masters(self, masters: Masters) -> None:
        masters.start()
        self.nemesis.start()
        self.run_until(FAULTS_S, self._has_enough)
        self.nemesis.stop()
        self.clients_stopped = True
        self._heal_everything()
        machine = masters.rng.choice(list(self.machines.values()))
        if machine.process is not None and masters.rng.random() < 0.5:
            machine.process.snapshot()
            self.run_until(self.now + 5 * self.time_scale, lambda: not machine.is_snapshotting)
        machine.kill()
        self._converge()  # it has the same again, from its own files
        self.is_over = True
        self.checks.at_end()
        self.checks.comparisons.tombstones_are_few()

    def _run_faults(self) -> None:
        self.run_until(FAULTS_S, self._has_enough)
        self.counts["fault seconds"] = int(self.now)
        self.nemesis.stop()
        self.clients_stopped = True
        self.changes.restore()
        if self.losses.ever or any(machine.damage is not None for machine in self.machines.values()):
            self._settle_losses()
        if self.may_diverge:
            self._finish_diverging()
            return
        if not self.is_async:
            self._liveness()
        self.finish()

    def finish(self) -> None:
        self._heal_everything()
        if self.logs.are_apart(set(self.machines)):
            self.hits["only a person can bring them together"] += 1
            return  # whose rows go is not decided here, so there is nothing that all have
        self._ask_everything()
        self._judge()

    def _has_enough(self) -> bool:
        return self.counts["ok"] >= self.target or self.now - self.answered_at > QUIET_S

    def answered(self, how: str, op: Op) -> None:
        self.late.ended(how, op)
        if op.kind != "look":
            self.counts[how] += 1
            if how == "ok":
                self.answered_at = self.now

    def _run_operator(self) -> None:
        """Where nobody stands by himself, somebody must press the button now and then."""
        if self.is_over:
            return
        rng = self.nemesis.rng
        candidates = [m for m in self.staying if m.may_stand and m.number not in self.broken]
        if candidates and not self._has_owner():
            modes = {m.settings.election_mode for m in candidates}
            if ElectionMode.CANDIDATE not in modes or rng.random() < 0.1:
                self.promote(rng.choice(candidates))
        self.at(self.now + self.election_timeout * rng.uniform(0.7, 2.0), self._run_operator)

    def _has_owner(self) -> bool:
        return any(
            m.process is not None
            and m.number not in self.broken
            and m.process.instance.limbo.state is QueueState.LEADER
            for m in self.machines.values()
        )

    def promote(self, machine: Machine) -> None:
        process = machine.process
        if process is not None and not machine.is_paused:
            call = process.call(ev.PromoteRequested, lambda outcome: self._count("promote", outcome))
            self.at(self.now + 3 * self.election_timeout, self._expire, process, call)

    def demote(self, machine: Machine) -> None:
        process = machine.process
        if process is not None and not machine.is_paused:
            call = process.call(ev.DemoteRequested, lambda outcome: self._count("demote", outcome))
            self.at(self.now + 3 * self.election_timeout, self._expire, process, call)

    def _expire(self, process: Any, call: Any) -> None:
        if process.is_alive and call in process.calls:
            process.step(ev.CallExpired(call))

    def _count(self, what: str, outcome: ev.Outcome) -> None:
        if isinstance(outcome, ev.Rejected):
            self.hits[f"{what} refused: {outcome.error.reason}"] += 1
        else:
            self.hits[f"{what} answered"] += 1

    @property
    def staying(self) -> list[Machine]:
        """All but those of whose removal somebody knows."""
        return [m for m in self.machines.values() if m.number not in self.leavers.left]

    # --- liveness

    def _settle_losses(self) -> None:
        """Who is in amnesia trusts its log again when it has heard every other member, which need not be in
        the core of S21; two of them need a person."""
        self.nemesis.heal(set(self.machines))
        for machine in self.machines.values():
            machine.start_again()
        bound = (20 * self.election_timeout + 20 * 4 * self.replication_timeout) / self.slowest + 2.0
        if self.run_until(self.now + bound, self.losses.is_settled):
            return
        if not (self.losses.overrule() and self.run_until(self.now + bound, self.losses.is_settled)):
            ill = sorted(self.losses.forgetful)
            raise Violation("S22", f"in amnesia after {bound:.1f} s: {ill}{self.state(set(self.machines))}")

    @property
    def slowest(self) -> float:
        return min(m.clock_rate for m in self.machines.values())

    def _liveness(self) -> None:
        """S21: a core of at least Q instances, the others broken for ever."""
        rng = self.choices.stream("core")
        size = rng.randint(self.quorum, self.size)
        if self.leavers.is_on:  # what is decided of the removals decides how many are needed
            size = self.size
        core = set(rng.sample(sorted(self.machines), size))
        self.broken = set(self.machines) - core
        modes = {self.machines[n].settings.election_mode for n in core}
        if modes == {ElectionMode.VOTER}:
            core.add(1)
            self.broken.discard(1)
        self.nemesis.heal(core)
        for number in sorted(self.broken):
            machine = self.machines[number]
            if rng.random() < 0.5:
                machine.cut_power()
            for other in self.machines:
                if other != number:
                    self.net.block({(number, other), (other, number)})
        for number in sorted(core):
            self.machines[number].start_again()
        bound = (10 * self.election_timeout + 10 * 4 * self.replication_timeout) / self.slowest + 1.0
        began = self.now
        if not self.run_until(began + bound, lambda: self.serves(core)):
            if len(core) == self.quorum and self.logs.are_apart(core):
                return
            raise Violation("S21", f"after {bound:.1f} s: {self.state(core)}")
        self.probe(core, began + bound)

    def serves(self, core: set[int]) -> bool:
        for number in core:
            process = self.machines[number].process
            if process is None:
                return False
            instance = process.instance
            if (
                instance.limbo.state is QueueState.LEADER
                and instance.is_writable
                and not instance.limbo.entries
            ):
                return True
        return False

    def probe(self, core: set[int], end: float) -> None:
        """A new synchronous write is committed."""
        committed: list[bool] = []
        tries = 0
        while not committed:
            if self.now >= end:
                raise Violation("S21", f"no write was committed in time: {self.state(core)}")
            for number in sorted(core):
                process = self.machines[number].process
                if process is not None and process.instance.is_writable:
                    tries += 1
                    self._write_probe(process, f"probe {tries}", committed)
            self.run_until(self.now + self.election_timeout, lambda: bool(committed))

    def _write_probe(self, process: Process, value: str, committed: list[bool]) -> None:
        op = row_body.dml_from_values(RowType.REPLACE, SYNC, value=(1000, value))

        def done(outcome: ev.Outcome) -> None:
            if isinstance(outcome, ev.Committed):
                committed.append(True)

        process.call(lambda call: ev.ClientWrites([ev.ClientWrite(call, [op])]), done)

    def state(self, numbers: set[int]) -> str:
        parts = []
        for number in sorted(numbers):
            process = self.machines[number].process
            if process is None:
                parts.append(f"{number} down")
                continue
            i = process.instance
            pending = [(p.origin, p.lsn, p.term) for p in i.limbo.pending]
            parts.append(
                f"{number} {i.settings.election_mode} {i.raft.role.name} "
                f"term {i.raft.term}/{i.raft.volatile_term} leader {i.raft.leader} "
                f"queue {i.limbo.state.name} {i.limbo.owner_id}@{i.limbo.term} len {len(i.limbo)} "
                f"pending {pending} vclock {i.vclock} healthy {sorted(i.raft.healthy)} "
                f"appliers {[n for n, a in process.appliers.items() if a.is_accepted]}"
            )
        return "\n    ".join(["", *parts])

    def _heal_everything(self) -> None:
        """S22"""
        self.broken = set()
        everyone = set(self.machines)
        self.nemesis.heal(everyone)
        for machine in self.machines.values():
            machine.start_again()
        self.outsiders.heal()
        self._converge()

    def _converge(self) -> None:
        bound = (20 * self.election_timeout + 20 * 4 * self.replication_timeout) / self.slowest + 2.0
        if self.run_until(self.now + bound, lambda: self.checks.comparisons.converged() is None):
            return
        is_alone = self.is_async and self.checks.stopped  # S16: what a deposed owner committed alone
        if not is_alone and not self.logs.are_apart(set(self.machines)):
            state = self.state(set(self.machines))
            raise Violation("S22", f"after {bound:.1f} s: {self.checks.comparisons.converged()}{state}")

    def _ask_everything(self) -> None:
        """Everybody still knows what became of everything, also behind a snapshot and a restart."""
        for machine in self.staying:
            self.late.sweep(machine)
        machine = self.late.rng.choice(self.staying)
        assert machine.process is not None
        with_snapshot = self.late.rng.random() < 0.7
        if with_snapshot:
            machine.process.snapshot()
            self.run_until(self.now + 5 * self.time_scale, lambda: not machine.is_snapshotting)
        machine.kill()
        bound = 10 * self.time_scale
        if not self.run_until(self.now + bound, lambda: machine.process is not None):
            raise Violation("S22", f"{machine.number} did not come back within {bound:.1f} s")
        self.late.sweep(machine)
        self.hits["asked behind a snapshot and a restart"] += with_snapshot
        self._converge()  # what was on its way goes on meanwhile

    def _judge(self) -> None:
        self.is_over = True
        if not (self.is_async and self.checks.stopped):
            self.checks.at_end()
        unfinished = [client.op for client in self.clients]
        for crowd in self.crowds:
            unfinished += crowd.open
        for op in unfinished:
            if op is not None and op.space == SYNC and op.kind not in ("read", "look"):
                for key in op.keys:
                    self.history.append(Seen(True, key, op.value, op.began, float("inf"), "unfinished"))
        by_key: dict[object, list[Seen]] = {}
        for seen in self.history:
            by_key.setdefault(seen.key, []).append(seen)
        versions = self.checks.versions
        for one, ops in by_key.items():
            wrong = check_register(versions.get(one, []), ops)
            if wrong is not None:
                raise Violation("S13", wrong)
        for refused, value in self.undone:
            if value in versions.get(refused, ()):
                raise Violation("S4", f"a write of {value} to key {refused} was refused, and is committed")

    # --- quiet worlds

    def _run_quiet(self) -> None:
        """S19: with a quorum below the majority, leaders that are away and two leaders of one term are one
        again by themselves, where nobody wrote meanwhile."""
        rng = self.choices.stream("pauses")
        everyone = set(self.machines)
        self.nemesis.ambushes = 0.0
        for round_number in range(rng.randint(1, 4)):
            self._wait_one(f"before write {round_number}")
            self.probe(everyone, self.now + 20 * self.election_timeout + 5)
            self._wait_one(f"after write {round_number}")
            for _ in range(rng.randint(1, 3)):
                self._pause_somebody(rng)
                self.run_until(self.now + rng.choice((0.1, 1.0, 6.0)) * rng.random() * self._death_s)
        self.nemesis.stop()
        self.nemesis.heal(everyone)
        self._wait_one("at the end")
        self.probe(everyone, self.now + 20 * self.election_timeout + 5)
        self._wait_one("after the last write")
        self.is_over = True
        self.hits["two leaders met"] += sum(
            m.process.instance.raft.conflicting_leader_seen for m in self.machines.values() if m.process
        )

    @property
    def _death_s(self) -> float:
        return 4 * self.replication_timeout

    def _pause_somebody(self, rng: Any) -> None:
        """The leader mostly, for about as long as the others need to notice; or all links of one are held."""
        leaders = [m for m in self.machines.values() if m.process and m.process.instance.raft.is_leader]
        machine = rng.choice(leaders if leaders and rng.random() < 0.7 else list(self.machines.values()))
        self.hits["fault pause"] += 1
        until = self.now + rng.choice((0.5, 1.1, 1.3, 2.5)) * self._death_s / self.slowest
        if rng.random() < 0.8:
            machine.pause(until)
        else:
            machine.stall_until = self.now + 0.5 * self._death_s

    def _wait_one(self, when: str) -> None:
        bound = (20 * self.election_timeout + 20 * self._death_s) / self.slowest + 2.0
        end = self.now + bound
        while self.run_until(end, self._is_one):
            self.run_until(self.now + 2 * self._death_s / self.slowest)
            if self._is_one():  # and no timer was about to end
                return
        raise Violation(
            "S19", f"{when}: {self.checks.comparisons.converged()}{self.state(set(self.machines))}"
        )

    def _is_one(self) -> bool:
        """One leader, which owns the queue; all follow it, and have the same."""
        instances = [m.process.instance for m in self.machines.values() if m.process is not None]
        owners = [i.self_id for i in instances if i.limbo.state is QueueState.LEADER]
        return (
            len(instances) == self.size
            and len(owners) == 1
            and {i.raft.leader for i in instances} == set(owners)
            and not any(m.is_paused for m in self.machines.values())
            and self.checks.comparisons.converged() is None
        )

    def _finish_diverging(self) -> None:
        """S16 with a quorum below the majority: what diverged was seen by somebody."""
        self._heal_everything_diverging()
        self.is_over = True
        # Two leaders of a term that wrote nothing which differs have diverged in nothing that anybody sees,
        # though both have announced that they own the queue (ADR 15).
        histories = [text for text in self.checks.diverged if not text.startswith(("S1:", "S9:"))]
        if histories and not self.checks.stopped and self.checks.comparisons.converged() is None:
            raise Violation("S16", f"nobody noticed: {histories[0]}")

    def _heal_everything_diverging(self) -> None:
        self.nemesis.heal(set(self.machines))
        for machine in self.machines.values():
            machine.start_again()
        self.run_until(self.now + 20 * self.election_timeout)


def _tiny(limits: Limits) -> Limits:
    """Files rotate all the time."""
    return replace(limits, wal_lead_bytes=2048, wal_control_reserve_bytes=2048, wal_max_size=12 << 10)
