"""What `server/` and the WAL task are for a real process, played by the simulator for one instance.

A `Machine` is the disk and what is remembered about the process by the checkers; a `Process` is one life of
the instance on it. The journal, recovery, snapshots, rows and the filter of the relays are the real ones.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from mesh import REPLICASET, first_tuples, uuid_of
from sim.disk import Fault, PowerCut, SimDisk
from sim.losses import RETRY_S, Damage
from sim.model import LogModel
from sim.net import REFUSED, Accepted, Conn, Frame, Hello, Refused

from synchro.config import Limits, Settings
from synchro.errors import Corruption, DiskFailed, SynchroError, WalIo, XlogGap
from synchro.ids import CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import recover_instance, snapshot_view
from synchro.raft.messages import RaftMessage
from synchro.replication.relay_filter import RelayFilter, TxnHead
from synchro.replication.trust import AckMemory
from synchro.row import Demote, Field, Promote, Txn
from synchro.storage import xrow
from synchro.storage.ddl import Build
from synchro.storage.identity import Identity, IdentityFile
from synchro.storage.journal import Journal, WalFile
from synchro.storage.recovery import Recovered, open_xlog, recover
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.xlog import SNAP_SUFFIX, is_file_name
from synchro.vclock import EMPTY_VCLOCK, AckNote, Vclock

if TYPE_CHECKING:
    from sim.world import World

DIR = "data"
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.05, 0.5
MARK_DELAY_S = 0.05
STOP_S = 5.0
"""Of a clean stop; then it is killed."""
NOTE_DELAY_S = 0.2


@lru_cache
def _spaces(members: int) -> list[tuple[int, list[tuple[Field, ...]]]]:
    return first_tuples(members, Settings())


def read_log(disk: SimDisk, files: Sequence[WalFile]) -> list[Txn]:
    """All transactions in a chain of files, in WAL order, as relays read them."""
    log: list[Txn] = []
    for number, file in enumerate(files):
        limit = files[number + 1].vclock if number + 1 < len(files) else None
        with open_xlog(disk, file.path) as reader:
            for block in reader.blocks():
                for txn in reader.txns(block):
                    if limit is None or txn.lsn <= limit.get(txn.origin):
                        log.append(txn)
    return log


class Relay:
    """The sending side of one subscription (`server/relay.py`)."""

    def __init__(self, process: Process, conn: Conn, hello: Hello) -> None:
        self.process = process
        self.conn = conn
        self.peer = InstanceId(conn.subscriber)
        self.filter = RelayFilter(
            peer=self.peer,
            id_filter=frozenset(map(InstanceId, hello.id_filter)),
            subscriber_vclock=hello.vclock,
        )
        self.position = 0
        self.raft: RaftMessage | None = None
        self.heartbeat_wanted = False
        self.heard_at = process.local_now
        self.is_open = True

    def start(self, hello: Hello) -> None:
        process, peer = self.process, self.peer
        instance = process.instance
        last_ack = process.acks.subscribed(peer, hello.vclock, counts=hello.counts)
        losses = process.world.losses
        expected = losses.said_hello(process, peer, hello) if losses.lossy else EMPTY_VCLOCK
        vclock = process.show()
        process.world.net.send(self.conn.down, Accepted(vclock, instance.raft.term, last_ack, expected))
        ack = ev.Ack(hello.vclock, Term(hello.term), 0, hello.counts)
        process.step(ev.RelayConnected(peer, ack))
        if self.is_open:
            self.raft = process.instance.raft.message()
            self.heartbeat_wanted = True
            self._flush()
            self.pump()
            self._beat()

    def _beat(self) -> None:
        """Heartbeats, and the watch over silence."""
        if not self.is_open:
            return
        process = self.process
        if process.wait_out_pause(self._beat):
            return
        settings = process.settings
        if process.local_now - self.heard_at > settings.death_timeout_s:
            self.close()
            return
        self.heartbeat_wanted = True
        self._flush()
        process.after(settings.replication_timeout_s, self._beat)

    def send_raft(self, message: RaftMessage) -> None:
        self.raft = message
        self._flush()

    def send_heartbeat(self) -> None:
        """It carries the number of the newest round of linearizable reads [Q-62]."""
        self.heartbeat_wanted = True
        self._flush()

    def _flush(self, rows: bytes = b"") -> None:
        process = self.process
        beat = None
        if self.heartbeat_wanted:
            self.heartbeat_wanted = False
            beat = (process.instance.read_barrier.number, process.show())
        raft, self.raft = self.raft, None
        if raft is not None:
            process.machine.shows_vote(raft)
        term = process.instance.raft.term
        self.filter.term_sent = max(self.filter.term_sent, term)
        process.world.net.send(self.conn.down, Frame(term, raft, rows, beat))

    def pump(self) -> None:
        """Send what is synced and wanted."""
        process, log = self.process, self.process.log
        held_until = process.machine.rows_held.get(self.peer, 0.0)
        if held_until > process.world.now:
            process.world.at(held_until, self.pump)
            return
        term = process.instance.raft.term
        limit = process.machine.frame_txns_max
        while self.position < len(log) and self.is_open and process.is_alive:
            parts: list[bytes] = []
            while self.position < len(log) and len(parts) < limit:
                txn = log[self.position]
                if txn.is_local:
                    self.position += 1
                    continue
                body = txn.control
                head = TxnHead(
                    txn.origin, txn.lsn, body.term if isinstance(body, Promote | Demote) else Term(0)
                )
                if self.filter.wants(head):
                    if self.filter.is_held(head):
                        if term < head.term:
                            process.world.hits["row held for its term"] += 1
                            break
                        self.filter.term_sent = term
                    self.filter.passed(head)
                    parts.append(bytes(txn.data))
                self.position += 1
            if not parts:
                return
            self._flush(b"".join(parts))

    def on_ack(self, ack: ev.Ack) -> None:
        process = self.process
        self.heard_at = process.local_now
        process.acks.acked(self.peer, ack.vclock, counts=ack.counts)
        if process.world.losses.lossy:
            process.world.losses.acked(process, self.peer, ack.vclock, counts=ack.counts)
        self.filter.acked(ack.vclock, counts=ack.counts)
        process.step(ev.AckReceived(self.peer, ack))

    def close(self, *, tell: bool = True) -> None:
        if not self.is_open:
            return
        self.is_open = False
        process = self.process
        self.conn.relay = None
        if tell:
            process.world.net.send(self.conn.down, REFUSED)
        if process.relays.get(self.peer) is self:
            del process.relays[self.peer]
            process.step(ev.RelayLost(self.peer))


class Applier:
    """The receiving side (`server/applier.py`): one per peer, with reconnect."""

    def __init__(self, process: Process, peer: int) -> None:
        self.process = process
        self.peer = InstanceId(peer)
        self.conn: Conn | None = None
        self.is_accepted = False
        self.stopped: SynchroError | None = None
        self.vclock_sync = 0
        self.heard_at = 0.0
        self.delay = RECONNECT_MIN_S
        self.ack_wanted = False
        self.handed: dict[InstanceId, int] = {}
        self.epoch = 0

    def connect(self) -> None:
        process = self.process
        if not process.is_alive or self.conn is not None or self.stopped is not None:
            return
        if process.wait_out_pause(self.connect):
            return
        instance = process.instance
        self.epoch += 1
        self.conn = conn = process.world.net.connect(process.number, self.peer)
        conn.applier = self
        self.is_accepted = False
        self.heard_at = process.local_now
        vclock = process.show()
        counts = instance.acks_count
        id_filter = frozenset({process.number}) if counts else frozenset()
        process.world.net.send(conn.up, Hello(vclock, instance.raft.term, id_filter, counts=counts))
        self._watch(self.epoch)

    def _watch(self, epoch: int) -> None:
        if epoch != self.epoch or self.conn is None:
            return
        process = self.process
        if process.wait_out_pause(self._watch, epoch):
            return
        left = self.heard_at + process.settings.death_timeout_s - process.local_now
        if left <= 0:
            process.world.hits["link timed out"] += 1
            self.lost()
        else:
            process.after(left + 1e-6, self._watch, epoch)

    def on_message(self, message: Any) -> None:
        process = self.process
        conn = self.conn
        if conn is None or not process.is_alive:
            return
        if isinstance(message, Refused):
            self.lost(tell=False)
            return
        self.heard_at = process.local_now
        if isinstance(message, Accepted):
            self.is_accepted = True
            self.vclock_sync = 0
            self.handed = {}
            self.delay = RECONNECT_MIN_S
            own = process.instance.vclock
            process.step(ev.ApplierFollowing(self.peer, message.vclock, Term(message.term), message.last_ack))
            if process.world.losses.lossy:
                process.world.losses.contacted(process, message, own)
            return
        instance = process.instance
        if message.term > instance.raft.volatile_term:
            process.step(ev.FrameTermSeen(Term(message.term)))
        if message.raft is not None and process.is_alive:
            process.step(ev.PeerRaftReceived(self.peer, message.raft))
        if message.rows and self.conn is conn and process.is_alive:
            txns = xrow.decode_txns(message.rows)
            for txn in txns:
                self.handed[txn.origin] = txn.lsn
            process.step(ev.TxnsReceived(self.peer, txns))
        if message.heartbeat is not None and self.conn is conn and process.is_alive:
            sync, vclock = message.heartbeat
            self.vclock_sync = max(self.vclock_sync, sync)
            process.step(ev.HeartbeatReceived(self.peer, vclock))
            self.ack_wanted = True
        if self.ack_wanted and self.conn is conn and process.is_alive:
            self.send_ack()

    def send_ack(self) -> None:
        """Sampled now: written vclock and persisted term."""
        self.ack_wanted = False
        if self.conn is None or not self.is_accepted:
            return
        process = self.process
        instance = process.instance
        vclock = process.show()
        counts = instance.acks_count
        ack = ev.Ack(vclock, instance.raft.term, self.vclock_sync, counts)
        process.world.net.send(self.conn.up, ack)

    def lost(self, *, tell: bool = True) -> None:
        conn = self.conn
        if conn is None:
            return
        process = self.process
        self.conn = None
        conn.applier = None
        if tell:
            process.world.net.send(conn.up, REFUSED)
        if self.is_accepted:
            self.is_accepted = False
            process.step(ev.ApplierLost(self.peer))
        if process.is_alive and self.stopped is None:
            delay = self.delay * process.rng.uniform(0.5, 1.0)
            self.delay = min(self.delay * 2, RECONNECT_MAX_S)
            process.after(delay, self.connect)

    def stop(self, error: SynchroError) -> None:
        self.stopped = error
        self.lost()


class Process:
    """One life of an instance."""

    def __init__(self, machine: Machine, instance: Instance, journal: Journal, log: list[Txn]) -> None:
        self.machine = machine
        self.world = machine.world
        self.number = machine.number
        self.settings = machine.settings
        self.rng = machine.rng
        self.instance = instance
        self.journal = journal
        self.log = log
        """Synced transactions in WAL order, for the relays."""
        self.relays: dict[InstanceId, Relay] = {}
        self.appliers: dict[int, Applier] = {}
        self.acks = AckMemory(machine.identity.notes.acks)
        machine.known = dict(machine.noted)
        self.calls: dict[CallId, Callable[[ev.Outcome], None]] = {}
        self.is_alive = True
        self.promoted_terms: set[int] = set()
        self.told_confirmed = 0
        """up to which LSN of its own queue `Checks` has looked at what it committed"""
        self.pending: list[tuple[Sequence[Txn], bool]] = []
        self.batch: list[tuple[Sequence[Txn], bool]] | None = None
        self._batches = 0
        self._timer_at: float | None = None
        self._term_shown = instance.raft.term
        self.is_snapshotting = False
        self.stop_began: float | None = None
        """When it was asked to stop cleanly."""
        self._events: deque[tuple[ev.Event, float | None]] = deque()
        self._is_stepping = False
        self._shown = (EMPTY_VCLOCK, EMPTY_VCLOCK)

    # --- time

    @property
    def local_now(self) -> float:
        machine = self.machine
        return machine.clock_offset + self.world.now * machine.clock_rate

    def after(self, local_s: float, call: Callable[..., None], *args: Any) -> None:
        self.world.at(self.world.now + local_s / self.machine.clock_rate, call, *args)

    def wait_out_pause(self, call: Callable[..., None], *args: Any) -> bool:
        """A stopped process does nothing; it goes on where it was. True: `call` comes later."""
        if not self.is_alive:
            return True
        until = self.machine.paused_until
        if until > self.world.now:
            self.world.at(until, call, *args)
            return True
        return False

    def _arm_timer(self) -> None:
        deadline = self.instance.deadline
        if deadline is None:
            return
        machine = self.machine
        at = max((deadline - machine.clock_offset) / machine.clock_rate, self.world.now)
        if self._timer_at is None or at < self._timer_at - 1e-9:
            self._timer_at = at
            self.world.at(at, self._on_timer, at)

    def _on_timer(self, at: float) -> None:
        if at != self._timer_at or self.wait_out_pause(self._on_timer, at):
            return
        self._timer_at = None
        deadline = self.instance.deadline
        if deadline is None:
            return
        if deadline <= self.local_now + 1e-7:
            self.step(ev.DeadlineReached(), max(deadline, self.local_now))
        else:
            self._arm_timer()

    # --- the core

    def show(self) -> Vclock:
        """The written vclock without local rows, as it is told to others now."""
        vclock = self.instance.vclock
        if vclock is not self._shown[0]:
            self._shown = (vclock, vclock.without_local())
            self.machine.shows(self._shown[1])
        term = self.instance.raft.term
        if term > self.machine.shown_term:
            self.machine.shown_term = term
        return self._shown[1]

    def start(self) -> None:
        self._is_stepping = True
        self._dispatch(self.instance.start(self.local_now))
        self._drain()
        for peer in self.world.machines:
            if peer != self.number:
                self.appliers[peer] = Applier(self, peer)
                self.after(self.rng.uniform(0, 0.05), self.appliers[peer].connect)

    def step(self, event: ev.Event, now: float | None = None) -> None:
        """What happens during a step waits until its effects are carried out, as in `server/node.py`."""
        if not self.is_alive:
            return
        self._events.append((event, now))
        if not self._is_stepping:
            self._drain()

    def _drain(self) -> None:
        self._is_stepping = True
        world, events = self.world, self._events
        while events and self.is_alive:
            event, now = events.popleft()
            world.steps += 1
            world.note(self.number, event)
            self._dispatch(self.instance.step(event, self.local_now if now is None else now))
        self._is_stepping = False

    def _build(self, build: Build) -> None:
        """A step at a time, with all that happens meanwhile in between."""
        if build.is_cancelled:
            return
        if build.advance():
            self.step(ev.IndexesBuilt(build))
        else:
            self.after(0.001, lambda: self._build(build))

    def _dispatch(self, effects: Sequence[ev.Effect]) -> None:
        world = self.world
        world.checks.after_step(self)
        replies: Sequence[ev.Reply] = ()
        for effect in effects:
            world.note(self.number, effect)
            match effect:
                case ev.WriteRows(txns=txns, has_control=has_control):
                    world.checks.wants_to_write(self, txns)
                    self.pending.append((txns, has_control))
                    self._kick()
                case ev.BroadcastRaft(message=message):
                    for relay in list(self.relays.values()):
                        relay.send_raft(message)
                case ev.RequestHeartbeats():
                    for relay in list(self.relays.values()):
                        relay.send_heartbeat()
                case ev.Replies():
                    replies = effect.replies
                case ev.StopApplier(peer=peer, error=error):
                    world.checks.applier_stopped(self, peer, error)
                    self.appliers[peer].stop(error)
                case ev.ResetAppliers():
                    for applier in self.appliers.values():
                        if not self.instance.vclock.covers(Vclock(applier.handed)):  # type: ignore[arg-type]
                            applier.lost()
                case ev.BeginAmnesia():
                    world.checks.amnesia_began(self)
                    if not self._save_amnesia(True):
                        return
                    world.losses.forgetful.add(self.number)
                    for applier in self.appliers.values():
                        applier.lost()  # subscribe again, with an empty filter: own rows may be missing
                case ev.EndAmnesia():
                    world.hits["amnesia ended"] += 1
                    world.losses.forgetful.discard(self.number)
                    if not self._save_amnesia(False):
                        return
                case ev.RequestTurn():
                    self.after(0.0, lambda: self.step(ev.TurnBegan()))
                case ev.BuildIndexes(build=build):
                    self._build(build)
                case ev.Stopped():
                    # What it says last goes out first.
                    world.at(world.now, self.machine.end_cleanly, self)
                case ev.Notice(event=name):
                    world.hits["notice " + name] += 1
            if not self.is_alive:
                return
        for reply in replies:
            call_id, outcome = reply
            call = self.calls.pop(call_id, None)
            if call is not None:
                call(outcome.of(call_id) if isinstance(outcome, ev.CommittedTogether) else outcome)
        term = self.instance.raft.term
        if term != self._term_shown:
            self._term_shown = term
            for relay in list(self.relays.values()):
                relay.pump()
            for applier in self.appliers.values():
                applier.send_ack()
        self._arm_timer()

    def _save_amnesia(self, amnesia: bool) -> bool:
        """False: the process is gone."""
        try:
            self.machine.set_amnesia(amnesia)
        except PowerCut:
            self.machine.cut_power()
        except OSError:
            self.machine.kill()
        return self.is_alive

    def call(self, event_of: Callable[[CallId], ev.Event], done: Callable[[ev.Outcome], None]) -> CallId:
        call_id = CallId(self.world.next_call())
        self.calls[call_id] = done
        self.step(event_of(call_id))
        return call_id

    def call_together(
        self, dones: Sequence[Callable[[ev.Outcome], None]], event_of: Callable[[list[CallId]], ev.Event]
    ) -> list[CallId]:
        """Several calls that arrive in one event."""
        call_ids = [CallId(self.world.next_call()) for _ in dones]
        self.calls.update(zip(call_ids, dones, strict=True))
        self.step(event_of(call_ids))
        return call_ids

    # --- the WAL task

    def _kick(self) -> None:
        if self.batch is not None or not self.pending:
            return
        has_control = self.pending[0][1]
        end = next((at for at, (_, control) in enumerate(self.pending) if control != has_control), None)
        self.batch = self.pending[:end]
        self.pending = [] if end is None else self.pending[end:]
        self._batches += 1
        latency = self.machine.write_latency()
        self.world.at(self.world.now + latency, self._finish_write, self._batches)
        death = self.settings.death_timeout_s / self.machine.clock_rate
        if latency > death:
            self.world.at(self.world.now + death, self._wal_stuck, self._batches)

    def _wal_stuck(self, batch: int) -> None:
        if self.wait_out_pause(self._wal_stuck, batch) or self.batch is None or batch != self._batches:
            return
        self.world.hits["disk stuck"] += 1
        self.step(ev.WalStuck())

    def append_now(self) -> list[Txn]:
        assert self.batch is not None
        txns = [txn for part, _ in self.batch for txn in part]
        has_control = any(control for _, control in self.batch)
        self.journal.append(txns, 1.0, has_control=has_control)
        return txns

    def _finish_write(self, batch: int) -> None:
        if self.wait_out_pause(self._finish_write, batch):
            return
        assert self.batch is not None
        if len(self.batch) > 1:
            self.world.hits["group commit"] += 1
        has_control = any(control for _, control in self.batch)
        try:
            txns = self.append_now()
        except WalIo as error:
            self.batch, self.pending = None, []
            if has_control:
                self.world.hits["control row did not fit"] += 1
                self.machine.kill()
                return
            self.world.hits["rows cut back"] += 1
            self.world.checks.stopping.pop(self.number, None)
            self.step(ev.RowsCutBack(self.journal.vclock, error))
            self._kick()
            return
        except DiskFailed:
            self.world.hits["disk failed"] += 1
            self.machine.kill()
            return
        except PowerCut:
            self.machine.cut_power()
            return
        self.batch = None
        self.machine.synced(txns)
        self.log.extend(txns)
        self.step(ev.RowsWritten(self.journal.vclock))
        if not self.is_alive:
            return
        self.world.checks.after_write(self)
        for applier in self.appliers.values():
            applier.send_ack()
        for relay in list(self.relays.values()):
            relay.pump()
        self._kick()
        if self.batch is None and self.rng.random() < 0.3:
            self.world.at(self.world.now + MARK_DELAY_S, self._write_mark, self._batches)
        if self.rng.random() < self.machine.note_share:
            self.after(self.rng.uniform(0, NOTE_DELAY_S), self._write_note)

    def _write_note(self) -> None:
        """What the log has and what others acknowledged (`Wal.keep_notes`), beside a batch that is on its
        way."""
        if self.wait_out_pause(self._write_note):
            return
        self.machine.identity.acks = self.acks.export(self.instance.registered)
        try:
            if self.journal.write_note():
                self.machine.noted = dict(self.machine.known)
                return
            self.world.hits["note without room"] += 1
        except DiskFailed:
            self.machine.kill()
        except PowerCut:
            self.machine.cut_power()
        self.machine.noted = {}  # which of two it has by now is not known

    def _write_mark(self, batch: int) -> None:
        if self.is_alive and self.batch is None and batch == self._batches:
            try:
                self.journal.write_mark(1.0)
            except (WalIo, DiskFailed):
                self.machine.kill()
            except PowerCut:
                self.machine.cut_power()

    # --- snapshots

    def snapshot(self) -> None:
        """The view is taken now and written a little later."""
        if self.is_snapshotting or not self.is_alive:
            return
        self.is_snapshotting = True
        meta, spaces = snapshot_view(self.instance)
        view = [(space, list(tuples)) for space, tuples in spaces]
        if self.instance.limbo.entries:
            self.world.hits["snapshot with a full queue"] += 1
        if len(self.instance.limbo.pending):
            self.world.hits["snapshot with a pending promote"] += 1
        self.after(self.machine.write_latency() * 3, self._write_snapshot, meta, view)

    def _write_snapshot(self, meta: SnapshotMeta, view: list[Any]) -> None:
        if self.wait_out_pause(self._write_snapshot, meta, view):
            return
        if self.batch is not None:  # one file operation at a time
            self.after(0.005, self._write_snapshot, meta, view)
            return
        machine = self.machine
        self.is_snapshotting = False
        try:
            write_snapshot(machine.disk, DIR, meta, view, instance_uuid=uuid_of(self.number))
            self.journal.rotate(1.0)  # nothing else is on its way to this disk
            names = [name for name in machine.disk.listdir(DIR) if is_file_name(name, SNAP_SUFFIX)]
            for name in names[:-2]:
                machine.disk.unlink(f"{DIR}/{name}")
        except PowerCut:
            machine.cut_power()
        except DiskFailed:
            machine.kill()
        except OSError:
            self.world.hits["snapshot failed"] += 1
        else:
            self.world.hits["snapshot"] += 1

    # --- the end

    def begin_stop(self) -> None:
        """SIGTERM."""
        if self.stop_began is not None or self.wait_out_pause(self.begin_stop):
            return
        self.stop_began = self.world.now
        self.world.checks.stop_begins(self)
        self.step(ev.StopRequested())
        self.after(STOP_S, self.machine.give_up_stop, self)

    def die(self) -> None:
        self.is_alive = False
        calls, self.calls = self.calls, {}
        for done in calls.values():
            self.world.at(self.world.now + 0.01, done, LOST)


LOST = ev.OutcomeUnknown(DiskFailed("the process is gone; outcome unknown"))


class Machine:
    """A disk, a clock, and what this instance has ever shown to others."""

    def __init__(self, world: World, number: int, settings: Settings) -> None:
        self.world = world
        self.number = number
        self.settings = settings
        self.rng: random.Random = world.choices.stream("machine", number)
        self.clock_rate = 1.0
        self.clock_offset = 0.0
        self.disk_min, self.disk_mean = 0.0005, 0.002
        self.stall_until = 0.0
        self.frame_txns_max = 100
        self.rows_held: dict[int, float] = {}
        """peer -> until when its relay sends heartbeats and Raft messages, but no rows"""
        self.paused_until = 0.0
        self.note_share = self.rng.choice((0.05, 0.3, 1.0))
        """of the batches that are followed by a note soon"""
        self.lives = 0
        self.process: Process | None = None
        self.disk = SimDisk()
        self.disk.makedirs(DIR)
        meta = SnapshotMeta(replicaset_uuid=REPLICASET)
        write_snapshot(self.disk, DIR, meta, _spaces(world.size), instance_uuid=uuid_of(number))
        self.identity = IdentityFile.create(
            self.disk, DIR, Identity(uuid_of(number), f"i{number}", REPLICASET)
        )
        self.shown = EMPTY_VCLOCK
        self.shown_term = Term(1)
        self.votes: dict[int, int] = {}
        self.truth: list[Txn] = []
        """Every transaction that was ever synced here and not lost, in WAL order."""
        self.base = 0
        """How many of them came with a snapshot from another instance."""
        self.base_vclock = EMPTY_VCLOCK
        self.damage: Damage | None = None
        """What was done to the disk since it was up last."""
        self.held: dict[int, int] = {}
        """Origin -> highest LSN that was synced in a former life."""
        self.known: dict[int, AckNote] = {}
        """What this process heard of the acks of others, and what it noted of it: see `Losses`."""
        self.noted: dict[int, AckNote] = {}
        self.model = LogModel()

    # --- what it has told others

    def shows(self, vclock: Vclock) -> None:
        if not self.shown.covers(vclock):
            self.shown = self.shown.merge(vclock)

    def shows_vote(self, message: RaftMessage) -> None:
        self.world.checks.vote_shown(self, message)

    # --- disk

    def write_latency(self) -> float:
        latency = self.disk_min + self.rng.expovariate(1.0) * self.disk_mean
        if self.stall_until > self.world.now:
            latency += self.stall_until - self.world.now
        return latency

    def synced(self, txns: Sequence[Txn]) -> None:
        for txn in txns:
            self.truth.append(txn)
            self.world.checks.row_synced(self, txn)

    def set_amnesia(self, amnesia: bool) -> None:
        """Raises what the disk raises: nothing goes on before it is done."""
        self.identity.save(replace(self.identity.identity, amnesia=amnesia))

    def is_log_whole(self, found: Recovered) -> bool:
        """As `Life` asks it: the flag is on disk before the journal opens."""
        if found.lost is None:
            return True
        self.world.checks.log_lost(self, found.lost)
        self.world.losses.forgetful.add(self.number)
        self.set_amnesia(True)
        return False

    # --- life

    @property
    def is_snapshotting(self) -> bool:
        return self.process is not None and self.process.is_snapshotting

    @property
    def is_up(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Recover and run. Raises what recovery raises: with an honest disk it never does."""
        assert self.process is None
        world = self.world
        self.lives += 1
        world.note(self.number, "start")
        self.disk.log.clear()
        try:
            if self.damage is not None and not world.losses.is_there(self):
                world.at(world.now + RETRY_S * world.time_scale, self.start_again)
                return
            identity = IdentityFile.load(self.disk, DIR)
            assert identity is not None
            self.identity = identity
            found = recover(self.disk, DIR, DIR, uuid_of(self.number), identity.notes.log)
            assert found is not None
            now = self.clock_offset + world.now * self.clock_rate
            instance = recover_instance(
                uuid=uuid_of(self.number),
                settings=self.settings,
                meta=found.meta,
                spaces=found.tuples(),
                txns=chain.from_iterable(found.batches()),
                rng=world.choices.stream("instance", self.number, self.lives),
                trusted=not identity.identity.amnesia,
                now=now,
                is_log_whole=lambda: self.is_log_whole(found),
            )
            journal = Journal(
                self.disk,
                DIR,
                instance_uuid=uuid_of(self.number),
                new_salt=lambda: self.rng.getrandbits(64),
                start=found.journal_start,
                limits=world.limits,
                identity=identity,
            )
        except PowerCut:
            self.disk.crash(self.rng)
            self.after_crash()
            return
        except (DiskFailed, WalIo, OSError):
            self.disk.restart(None)
            self.after_crash()
            return
        except (Corruption, XlogGap) as error:
            if not world.losses.refused(self, error):
                raise
            self.after_crash()
            return
        log = read_log(self.disk, journal.files)
        process = Process(self, instance, journal, log)
        if found.torn_tail is not None and self.lives > 1:
            world.hits["restart without a clean stop"] += 1
        world.checks.recovered(process, log, found.meta)
        self.process = process
        process.start()

    def after_crash(self) -> None:
        self.disk.faults.clear()
        self.disk.room = None
        if self.world.restarts_by_itself:
            down_s = self.rng.choice((0.05, 0.5, 2.0)) * self.rng.uniform(0.5, 4.0) * self.world.time_scale
            if self.world.clients_stopped:  # a stop that a pause had held up: it is to be healthy soon (L1)
                down_s = min(down_s, 0.5 * self.world.time_scale)
            self.world.at(self.world.now + down_s, self.start_again)

    def start_again(self) -> None:
        if self.process is None and not self.world.is_over and self.number not in self.world.broken:
            self.start()

    def _end(self) -> Process | None:
        process, self.process = self.process, None
        if process is None:
            return None
        if self.world.checks.ahead(process):
            self.world.hits["owner died with unannounced commits"] += 1
        process.die()
        return process

    def _tear(self, process: Process) -> None:
        """Die inside a write, at any call of it."""
        if process.batch is None or self.rng.random() < 0.3:
            return
        self.world.hits["died inside a write"] += 1
        self.disk.faults[self.disk.calls + self.rng.choice((1, 2, 2, 2, 3, 4))] = Fault.CUT
        with suppress(PowerCut, WalIo, DiskFailed):
            process.append_now()

    def _drop_links(self, process: Process, *, tell: bool) -> None:
        for relay in list(process.relays.values()):
            relay.is_open = False
            relay.conn.relay = None
            if tell:
                self.world.net.send(relay.conn.down, REFUSED)
            else:
                relay.conn.is_dead = self.rng.random() < 0.5
        for applier in process.appliers.values():
            conn, applier.conn = applier.conn, None
            if conn is not None:
                conn.applier = None
                if tell:
                    self.world.net.send(conn.up, REFUSED)
                else:
                    conn.is_dead = self.rng.random() < 0.5

    def stop_cleanly(self) -> None:
        if self.process is not None:
            self.process.begin_stop()

    def end_cleanly(self, process: Process) -> None:
        """The core has said that it is done: the log is closed, then the links."""
        if process is not self.process or process.wait_out_pause(self.end_cleanly, process):
            return
        if process.batch is not None:  # a vote, say, that came meanwhile
            self.world.at(self.world.now + 0.001, self.end_cleanly, process)
            return
        self.world.hits["clean stop"] += 1
        self.world.checks.stops_cleanly(process)
        self._end()
        self._drop_links(process, tell=True)
        try:
            process.journal.close_clean(1.0)
        except PowerCut:
            self.disk.crash(self.rng)
        except (DiskFailed, WalIo, OSError):
            self.disk.restart(None)
        self.after_crash()

    def give_up_stop(self, process: Process) -> None:
        if process is self.process:
            self.world.hits["clean stop took too long"] += 1
            self.kill()

    def kill(self) -> None:
        """kill -9, or exit 1: the page cache survives."""
        process = self._end()
        if process is None:
            return
        self.world.note(self.number, "killed")
        self._tear(process)
        self._drop_links(process, tell=True)
        self.disk.faults.clear()
        self.disk.restart(None)
        self.after_crash()

    def cut_power(self) -> None:
        process = self._end()
        if process is None:
            return
        self._tear(process)
        self._drop_links(process, tell=False)
        self.disk.faults.clear()
        kept = self.disk.crash(self.rng)
        self.world.note(self.number, f"power cut, kept {kept}")
        self.after_crash()

    # --- subscriptions of others

    def on_up_message(self, conn: Conn, message: Any) -> None:
        process = self.process
        relay = conn.relay
        if isinstance(message, Hello):
            if process is None or conn.is_dead:
                self.world.net.send(conn.down, REFUSED)
                return
            if conn.applier is None:
                return
            former = process.relays.get(InstanceId(conn.subscriber))
            if former is not None:
                former.close()
            if not process.is_alive:
                return
            if not message.vclock.covers(self.base_vclock):
                self.world.hits["rows before the snapshot of a join are asked for"] += 1
                conn.relay = None
                self.world.net.send(conn.down, REFUSED)  # `XlogGap`
                return
            relay = Relay(process, conn, message)
            conn.relay = relay
            process.relays[relay.peer] = relay
            relay.start(message)
        elif relay is None or not relay.is_open:
            return
        elif isinstance(message, Refused):
            relay.close(tell=False)
        else:
            assert isinstance(message, ev.Ack)
            relay.on_ack(message)


SMALL = Limits(
    wal_lead_bytes=16384,
    wal_control_reserve_bytes=4096,
    wal_block_bytes_max=4096,
    wal_max_size=1 << 20,
    turn_work_bytes_max=20_000,
)
