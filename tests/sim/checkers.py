"""The invariants of `docs/invariants.md`, checked while a simulated cluster runs.

Cheap first: after a step only what it can have changed is looked at; full comparisons are made after a
recovery, now and then, and at the end. Facts come from the synced rows (through `LogModel`) and from what
instances show to each other and to clients, never from their private state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from synchro.errors import SynchroError
from synchro.ids import LOCAL, NOBODY, InstanceId
from synchro.queue.limbo import QueueState
from synchro.raft.messages import RaftMessage
from synchro.row import Confirm, Demote, Promote, RaftState, Txn
from synchro.storage.snapshot import SnapshotMeta
from synchro.vclock import EMPTY_VCLOCK
from tests.mesh import SYNC
from tests.sim.answers import Answers
from tests.sim.comparisons import Comparisons
from tests.sim.model import Fate, TxnKey
from tests.sim.rows import shown_to_peers

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

FULL_CHECK_STEPS = 24
"""`Instance.check` is O(n): after every so many steps, and at the end."""
JOURNAL_CHECK_STEPS = 24 * 16
"""It reads the file that is being written."""


class Violation(Exception):
    """An invariant does not hold. rule: its id."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


def _highest_term(machine: Machine) -> int:
    """That it has heard of, as far as its disk knows while it is down."""
    states = [txn.rows[0].body for txn in machine.truth if txn.origin == 0]
    on_disk = max((state.term for state in states if isinstance(state, RaftState)), default=0)
    process = machine.process
    return max(machine.shown_term, on_disk, 0 if process is None else process.instance.raft.volatile_term)


def _replicated(txn: Txn) -> dict[TxnKey, Any]:
    """(origin, LSN) -> body of each row that others get. The rows of local spaces in the same transaction
    have LSNs of their own, which are those of quite other transactions of this origin."""
    return {(row.replica_id, row.lsn): row.body for row in txn.rows if row.replica_id != LOCAL}


def _counting(process: Process) -> frozenset[InstanceId]:
    """Members by decided rows, without those of whom a removal is in the own log (ADR 41)."""
    catalog = process.instance.memtx.catalog
    return frozenset(catalog.members()) & frozenset(catalog.prepared_members())


class Seen:
    """What was last seen of one instance, for what must never go back."""

    __slots__ = ("confirmed", "counting", "limbo_term", "term", "vclock")

    def __init__(self) -> None:
        self.counting: frozenset[InstanceId] = frozenset()
        """Whose copies decided by the end of its last step, if it owned the queue then."""
        self.vclock = EMPTY_VCLOCK
        self.term = 0
        self.limbo_term = 0
        self.confirmed = (0, 0, 0)


class Checks:
    def __init__(self, world: World) -> None:
        self.world = world
        self.answers = Answers(world, self)
        self.comparisons = Comparisons(world, self)
        self.leaders: dict[int, int] = {}
        self.votes: dict[tuple[int, int], int] = {}
        self.confirmers: dict[int, int] = {}
        self.fates: dict[TxnKey, tuple[bool, int, str]] = {}
        """(origin, lsn) -> (committed, term of its segment, who said so first)"""
        self.plain: set[TxnKey] = set()
        """Asynchronous transactions that waited for nobody: a deposed owner may lose them (S16)."""
        self.bodies: dict[TxnKey, bytes] = {}
        self.shared: dict[TxnKey, TxnKey] = {}
        """(origin, LSN of a row) -> the shared transaction it is a row of (ADR 13)"""
        self.callers: dict[TxnKey, Any] = {}
        """(origin, LSN of a row of a shared transaction) -> what its caller asked for"""
        self.nops: dict[TxnKey, int] = {}
        self.requests: dict[bytes, TxnKey] = {}
        self.versions: dict[object, list[object]] = {}
        """key of the synchronous space -> values in the order they were committed"""
        self.last_commit: dict[int, int] = {}
        self.claims: dict[int, float] = {}
        """queue term -> when its owner could write first"""
        self.stopped: list[tuple[int, int, SynchroError]] = []
        self.diverged: list[str] = []
        self.adopted: set[tuple[int, int]] = set()
        """(instance, term) that it took over from somebody, and did not begin"""
        self.stopped_cleanly: set[int] = set()
        self.stopping: dict[int, tuple[object, int]] = {}
        """Instance that stops cleanly -> its process, and the term in which it owns the queue"""
        self.seen: dict[int, Seen] = {}
        self._steps = 0

    def fail(self, rule: str, text: str) -> None:
        if self.world.may_diverge and rule in ("S1", "S2", "S3", "S4", "S5", "S6", "S9", "S10", "S12"):
            self.diverged.append(f"{rule}: {text}")
            self.world.hits["histories diverged"] += 1
            return
        raise Violation(rule, text)

    # --- what is shown

    def vote_shown(self, machine: Machine, message: RaftMessage) -> None:
        """S1: one vote of (instance, term), and persisted before it is shown (S8)."""
        if message.term > machine.shown_term:
            machine.shown_term = message.term
        if message.vote != NOBODY:
            known = self.votes.setdefault((machine.number, message.term), message.vote)
            if known != message.vote:
                self.fail(
                    "S1", f"{machine.number} voted for {known} and {message.vote} in term {message.term}"
                )

    def after_step(self, process: Process) -> None:
        instance = process.instance
        number = process.number
        raft, limbo = instance.raft, instance.limbo
        seen = self.seen.get(number)
        if seen is None:
            seen = self.seen[number] = Seen()
        if instance.vclock is not seen.vclock:
            if not instance.vclock.covers(seen.vclock, with_local=True):
                self.fail("S7", f"{number}: vclock went back from {seen.vclock} to {instance.vclock}")
            if instance.vclock != process.journal.vclock:
                self.fail("S8", f"{number}: says {instance.vclock}, on disk is {process.journal.vclock}")
            seen.vclock = instance.vclock
        if raft.term != seen.term:
            if raft.term < seen.term:
                self.fail("S11", f"{number}: term went back from {seen.term} to {raft.term}")
            seen.term = raft.term
        if raft.is_leader:
            known = self.leaders.setdefault(raft.volatile_term, number)
            if known != number:
                self.fail("S1", f"{known} and {number} both lead in term {raft.volatile_term}")
        confirmed = (limbo.term, limbo.owner_id, limbo.confirmed_lsn)
        if confirmed != seen.confirmed:
            before = seen.confirmed
            if confirmed[0] < before[0] or (confirmed[0] == before[0] and confirmed[2] < before[2]):
                self.fail("S11", f"{number}: queue went back from {before} to {confirmed}")
            seen.confirmed = confirmed
        if limbo.owner_id == number and limbo.confirmed_lsn > process.told_confirmed:
            self._owner_committed(process, seen.counting)
        seen.counting = _counting(process) if limbo.owner_id == number else frozenset()
        if limbo.state is QueueState.LEADER and limbo.term not in process.promoted_terms:
            self.fail("S9", f"{number} may write in term {limbo.term} without a PROMOTE of this process")
        if self.world.outsiders.is_on:
            self.world.outsiders.look(process)
        if limbo.state is QueueState.LEADER:
            self.claims.setdefault(limbo.term, self.world.now)
        self._steps += 1
        if self._steps % FULL_CHECK_STEPS == 0:
            instance.check()
        if self._steps % JOURNAL_CHECK_STEPS == 0:
            process.journal.check()

    def _owner_committed(self, process: Process, before: frozenset[InstanceId]) -> None:
        """S3, ADR 11: what an owner commits ahead of its CONFIRM is synced on a quorum at that moment: by the
        quorum of its settings (ADR 38), of those who counted before the step, or by its end (ADR 41)."""
        limbo, quorum = process.instance.limbo, process.settings.synchro_quorum.quorum
        for txn in self.ahead(process):
            if txn.origin == LOCAL:
                continue
            holders = {
                m.number
                for m in self.world.machines.values()
                if max(m.model.lsns.get(txn.origin, 0), m.held.get(txn.origin, 0)) >= txn.lsn
            }
            if not any(
                len(holders & members) >= min(quorum(len(members)), len(members))
                for members in (_counting(process), before)
                if members
            ):
                self.fail("S3", f"{process.number} commits {txn}, which only {sorted(holders)} hold")
            self._decided(process.machine, True, limbo.term, txn)
        process.told_confirmed = limbo.confirmed_lsn

    def ahead(self, process: Process) -> list[Txn]:
        """What an owner has committed, and its log does not say so yet."""
        model, limbo = process.machine.model, process.instance.limbo
        if (limbo.owner_id, limbo.term) != (process.number, model.term) or model.owner != process.number:
            return []
        return model.up_to(limbo.confirmed_lsn)

    def wants_to_write(self, process: Process, txns: Sequence[Txn]) -> None:
        """S9: a CONFIRM of an own queue needs a PROMOTE of this very process."""
        number = process.number
        for txn in txns:
            body = txn.control
            if body is None or txn.origin != number:
                continue
            if number in self.world.losses.ever and self.bodies.get((number, txn.lsn)) == txn.data:
                continue  # it had lost that row, and somebody gave it back
            if isinstance(body, Promote | Demote):
                process.promoted_terms.add(body.term)
                self.world.nemesis.ambush(number)
            elif isinstance(body, Confirm):
                term = process.instance.raft.term
                if term not in process.promoted_terms:
                    self.fail(
                        "S9", f"{number} writes {body} in term {term} without a PROMOTE of this process"
                    )
                if process.instance.limbo.term != term:
                    self.world.nemesis.ambush(number)
                known = self.confirmers.setdefault(term, number)
                if known != number:
                    self.fail("S9", f"{known} and {number} both write CONFIRM in term {term}")

    # --- what is synced

    def row_synced(self, machine: Machine, txn: Txn) -> None:
        world, model, number = self.world, machine.model, machine.number
        world.losses.row_synced(machine, txn)
        key = (txn.origin, txn.lsn)
        first = txn.rows[0]
        if txn.origin != 0:
            expected = model.lsns.get(txn.origin, 0) + 1
            firsts = [row for row in txn.rows if row.replica_id == txn.origin]
            if firsts[0].lsn != expected:
                self.fail("S12", f"{number}: {txn} is written, expected LSN {expected}")
            if txn.is_nop:
                if key not in self.nops:
                    world.hits["nop written"] += 1
                    self.nops[key] = number
                if self.fates.get(key, (False,))[0]:
                    self.fail("S3", f"{number}: {txn} became a NOP, but it is committed")
            else:
                shown = shown_to_peers(txn)
                data = self.bodies.get(key)
                if data is None:
                    self.bodies[key] = shown
                    if txn.is_shared:
                        world.hits["transaction shared"] += 1
                        world.hits["transaction shared without request ids"] += txn.has_unnamed
                        self.shared.update(dict.fromkeys(_replicated(txn), key))
                        self.callers.update(_replicated(txn))
                elif data != shown:
                    self.fail("S10", f"{number}: {txn} has other bytes than known of that LSN")
        elif isinstance(first.body, RaftState) and first.body.vote == NOBODY:
            self.adopted.add((number, first.body.term))
        elif isinstance(first.body, RaftState):
            state = first.body
            if self.world.may_diverge and state.vote == number and (number, state.term) in self.adopted:
                self.fail("S19", f"{number} stands in term {state.term}, which another began and may lead")
            known = self.votes.setdefault((number, state.term), state.vote)
            if known != state.vote:
                self.fail("S1", f"{number} voted for {known} and {state.vote} in term {state.term}")
        before = model.term
        self._take(machine, model.apply(txn))
        own = model.decided_own
        if own is not None:
            world.hits["promote decided" if isinstance(own.body, Promote) else "demote decided"] += 1
            if own.body.prev_term != before:
                world.hits["promote with ancestors decided"] += 1
            if own.origin == number:
                self._check_completeness(machine, own.body.term)
        body = txn.control
        if isinstance(body, Promote | Demote) and body.term <= before:
            world.hits["void promote"] += 1
        if isinstance(body, Confirm) and txn.origin != model.owner:
            world.hits["late confirm"] += 1

    def were_given_again(self, txns: Iterator[Txn]) -> bool:
        """An LSN of these, which were lost since, is that of another row now. A copy that brings them back
        shows nothing of it (docs/invariants.md)."""
        return any(
            txn.origin and not txn.is_nop and self.bodies.get((txn.origin, txn.lsn), shown) != shown
            for txn in txns
            for shown in (shown_to_peers(txn),)
        )

    def _take(self, machine: Machine, fates: Iterator[Fate]) -> None:
        """What the log of an instance decides."""
        for is_committed, term, txn in fates:
            self._decided(machine, is_committed, term, txn)
            if is_committed:
                self.world.careful.committed(machine, txn)
                self.world.thinkers.committed(machine, txn)

    def _decided(self, machine: Machine, is_committed: bool, term: int, txn: Txn) -> None:
        """S5, S6, S12, and the order of versions for S13."""
        key = (txn.origin, txn.lsn)
        if txn.origin == LOCAL:
            return
        known = self.fates.get(key)
        who = f"{machine.number} at {self.world.now:.3f}"
        if known is not None:
            if known[0] != is_committed:
                rule = "S3" if key in self.answers.told_committed else "S5"
                self.fail(rule, f"{txn}: committed={is_committed} says {who}, the opposite says {known[2]}")
            return
        self.fates[key] = (is_committed, term, who)
        if not txn.is_wait_sync:
            self.plain.add(key)
        if not is_committed:
            self.world.hits["entry rolled back"] += 1
            self.world.hits["shared transaction rolled back"] += txn.is_shared
            self.world.careful.rolled_back(txn)
            self.world.thinkers.rolled_back(txn)
            self.world.onlookers.rolled_back(txn)
            return
        if key in self.nops:
            self.fail("S3", f"{txn} is committed on {who}, but {self.nops[key]} made it a NOP")
        if txn.is_wait_sync:
            if txn.lsn <= self.last_commit.get(term, 0):
                self.fail("S6", f"{txn} commits after LSN {self.last_commit[term]} of term {term}")
            self.last_commit[term] = txn.lsn
        for request_id, lsn in txn.requests():
            told = (txn.origin, lsn)
            first = self.requests.setdefault(request_id, told)
            if first != told and txn.is_wait_ack:
                self.fail("S12", f"request {request_id.hex()} has two effects: {first} and {told}")
        self.world.careful.decided(txn)
        self.world.thinkers.decided(txn, term)
        for row in txn.rows:
            op = row.body
            space = getattr(op, "space_id", None)
            if space == SYNC and op.value is not None:  # type: ignore[union-attr]
                self.versions.setdefault(op.value[0], []).append(op.value[1])  # type: ignore[union-attr]

    def _check_completeness(self, machine: Machine, term: int) -> None:
        """S2: a new owner has every synchronous transaction that was confirmed in an earlier term."""
        model = machine.model
        for key, (is_committed, segment, who) in self.fates.items():
            if is_committed and segment < term and not model.fates.get(key) and key not in self.plain:
                self.fail("S2", f"{machine.number} owns term {term} without {key}, committed ({who})")

    def forget(self, machine: Machine, lost: Sequence[Txn]) -> None:
        """An instance lost these. What no other disk has is as if it had never been: its LSNs are given
        again. What waited for a quorum and was committed is somewhere, so it is not forgotten (S3)."""
        self.seen.pop(machine.number, None)
        self.stopped_cleanly.discard(machine.number)
        others = [m for m in self.world.machines.values() if m is not machine]
        heard = max((_highest_term(m) for m in others), default=0)
        for (number, term), vote in list(self.votes.items()):
            # Nobody heard of that term; or the vote was for itself, and the candidate is gone with it: where
            # it was elected, those who voted for it know the term.
            is_own = vote == number and self.leaders.get(term) != number
            if number == machine.number and (is_own or term > heard):
                del self.votes[number, term]
        gone: set[TxnKey] = set()
        for txn in lost:
            key = (txn.origin, txn.lsn)
            if txn.origin == 0 or any(m.model.lsns.get(txn.origin, 0) >= txn.lsn for m in others):
                continue
            if self.fates.get(key, (False,))[0] and key not in self.plain:
                continue
            gone.add(key)
            gone |= _replicated(txn).keys()
        everything: tuple[dict[TxnKey, Any], ...] = (
            self.bodies,
            self.fates,
            self.nops,
            self.shared,
            self.callers,
            self.answers.told_committed,
            self.answers.unknown,
        )
        for known in everything:
            for name in gone & known.keys():
                del known[name]
        self.plain -= gone
        for told in self.answers.told_here.values():
            told -= gone
        self.requests = {request: key for request, key in self.requests.items() if key not in gone}

    # --- a restart

    def recovered(self, process: Process, log: list[Txn], meta: SnapshotMeta) -> None:
        """S10: what was synced is there, byte for byte; S7, S8, S11: nothing that was shown is forgotten."""
        machine, instance = process.machine, process.instance
        self.world.losses.recovered(process, log)
        truth = machine.truth[machine.base :] if machine.base else machine.truth
        if len(log) < len(truth):
            self.fail("S8", f"{machine.number}: {truth[len(log)]} was synced, and is gone after the restart")
        for old, new in zip(truth, log, strict=False):
            if old.data != new.data:
                self.fail("S10", f"{machine.number}: {old} was synced, the restart found {new}")
        if len(log) > len(truth):
            self.world.hits["unsynced rows survived"] += 1
        machine.synced(log[len(truth) :])
        self._take(machine, machine.model.learn(meta.queue_owner, meta.queue_term, meta.confirmed_lsn))
        if machine.number in self.stopped_cleanly:
            self.stopped_cleanly.discard(machine.number)
            hidden = [
                key
                for key in self.answers.told_here.get(machine.number, ())
                if not machine.model.fates.get(key)
            ]
            if hidden:
                self.fail("S18", f"{machine.number} told that {hidden} are committed, and shows them no more")
        if not instance.vclock.covers(machine.shown):
            self.fail("S8", f"{machine.number}: showed {machine.shown}, recovered {instance.vclock}")
        if instance.raft.term < machine.shown_term:
            self.fail("S8", f"{machine.number}: showed term {machine.shown_term}, has {instance.raft.term}")
        vote = self.votes.get((machine.number, instance.raft.term))
        if machine.number in self.world.losses.ever:
            vote = None  # it may be gone: it must not give another one (`row_synced`)
        if vote is not None and instance.raft.vote != vote:
            self.fail(
                "S1", f"{machine.number}: voted for {vote} in {instance.raft.term}, has {instance.raft.vote}"
            )
        if process.instance.vclock != process.journal.vclock:
            self.fail("S10", f"{machine.number}: {instance.vclock}, journal {process.journal.vclock}")
        if instance.limbo.state is QueueState.LEADER:
            self.fail("S9", f"{machine.number}: writable queue after a restart without a PROMOTE")
        pending = [entry.lsn for entry in instance.limbo.entries]
        if pending != [txn.lsn for txn in machine.model.queue]:
            self.fail("S10", f"{machine.number}: queue {pending}, its log says {machine.model.queue}")
        if pending:
            owner = "owner" if instance.limbo.owner_id == machine.number else "replica"
            self.world.hits[f"{owner} restarts with a full queue"] += 1
        instance.check()
        process.journal.check()
        self.comparisons.after_write(process)
        self.comparisons.compare_data(process)
        seen = self.seen.get(machine.number)
        if seen is not None:  # what was committed ahead of its CONFIRM is pending again (ADR 11)
            seen.confirmed = (instance.limbo.term, instance.limbo.owner_id, instance.limbo.confirmed_lsn)

    # --- clean stops

    def stop_begins(self, process: Process) -> None:
        limbo = process.instance.limbo
        if limbo.state is QueueState.LEADER:
            self.stopping[process.number] = (process, limbo.term)

    def stops_cleanly(self, process: Process) -> None:
        """S18: what it committed as an owner is in its log, so a restart shows it; nobody waits in vain."""
        number, limbo = process.number, process.instance.limbo
        asked, term = self.stopping.pop(number, (None, 0))
        untold = self.ahead(process)
        if asked is process and limbo.term == term and untold:
            self.fail("S18", f"{number} stops and has not announced {untold}")
        if asked is process and limbo.term == term:
            self.stopped_cleanly.add(number)
        if process.calls:
            self.fail("S18", f"{number} stops and leaves {len(process.calls)} calls without an answer")
        if process.instance.raft.is_leader:
            self.fail("S18", f"{number} stops and leads")

    # --- what should not happen

    def applier_stopped(self, process: Process, peer: InstanceId, error: SynchroError) -> None:
        self.stopped.append((process.number, peer, error))
        self.world.hits["applier stopped"] += 1
        if self.world.is_quiet:
            raise Violation("S19", f"{process.number} stopped following {peer}, and nobody wrote: {error!r}")
        if self.world.may_diverge or (self.world.is_async and "async" in error.message):
            return
        raise Violation("S16", f"{process.number} stopped following {peer}: {error!r}")

    def amnesia_began(self, process: Process) -> None:
        if not self.world.losses.begins_amnesia(process.number):
            raise Violation("S14", f"{process.number} lost trust in a log that lost nothing")

    def log_lost(self, machine: Machine, what: str) -> None:
        damage = machine.damage
        if (damage is not None and not damage.is_whole) or machine.number in self.world.losses.forgetful:
            self.world.hits["a loss shows in the notes"] += 1
            return
        raise Violation("S14", f"{machine.number}: a log that lost nothing is called incomplete: {what}")

    def halted(self, process: Process, reason: str) -> None:
        raise Violation("halt", f"{process.number}: {reason}")

    # --- at the end

    def at_end(self) -> None:
        """S3 on every instance, WALs equal per origin (S10), and the state of each part."""
        self.world.careful.at_end()
        self.world.thinkers.at_end()
        for machine in (*self.world.staying, *self.world.outsiders.machines):
            process = machine.process
            assert process is not None
            process.instance.check()
            process.journal.check()
            self.comparisons.compare_data(process)
            self.answers.unknown_are_decided(process)
            here = {(txn.origin, txn.lsn) for txn in machine.truth if not txn.is_nop}
            for key, (is_committed, _, who) in self.fates.items():
                if not is_committed or (self.world.is_async and key in self.plain):
                    continue
                if key not in here or not machine.model.fates.get(key):
                    self.fail("S3", f"{key} is committed ({who}), but not on {machine.number}")
            for key, who in self.answers.told_committed.items():
                if key not in here and not (self.world.is_async and key in self.plain):
                    self.fail("S3", f"{who} told a client that {key} is committed; {machine.number} lacks it")
            if [txn.data for txn in process.log] != [txn.data for txn in machine.truth[machine.base :]]:
                self.fail("S10", f"{machine.number}: the log of the relays is not what was synced")
