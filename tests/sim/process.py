"""One life of an instance of the simulator: what `server/node.py` and the WAL task are for a real process.

The journal and the snapshots are the real ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from synchro.errors import DiskFailed, WalIo
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.instance.recovery import snapshot_view
from synchro.replication.silence import silence_s, stands_still_s
from synchro.replication.trust import AckMemory
from synchro.row import Tuple, Txn
from synchro.storage.ddl import Build
from synchro.storage.journal import Journal
from synchro.storage.snapshot import SnapshotMeta, write_snapshot
from synchro.storage.xlog import SNAP_SUFFIX, is_file_name
from synchro.vclock import EMPTY_VCLOCK, Vclock
from tests.mesh import uuid_of
from tests.sim.disk import PowerCut
from tests.sim.links import Applier, Relay

if TYPE_CHECKING:
    from tests.sim.machine import Machine

DIR = "data"
MARK_DELAY_S = 0.05
STOP_S = 5.0
"""Of a clean stop; then it is killed."""
NOTE_DELAY_S = 0.2

LOST = ev.OutcomeUnknown(DiskFailed("the process is gone; outcome unknown"))


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
        self.temporary: dict[str, dict[object, Tuple]] = {}
        """Name of a space -> key -> tuple: what is in temporary spaces, which this life has alone."""
        self.heard_frames: dict[int, float] = {}
        self.heard_acks: dict[int, float] = {}
        """peer -> when something of it arrived last, for `Watch`; all times of the world"""
        self.acked: dict[int, Vclock] = {}
        self.gaps: set[int] = set()
        """Whose log does not go back as far as this one needs."""
        self.changed_at = self.led_since = self.world.now
        self.asked_disk_at: float | None = None
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

    @property
    def silence_s(self) -> float:
        """Local seconds after which a link is dead [E-30]."""
        return silence_s(self.settings, is_leader=self.instance.raft.is_leader)

    def after(self, local_s: float, call: Callable[..., None], *args: Any) -> None:
        self.world.at(self.world.now + local_s / self.machine.clock_rate, call, *args)

    def wait_out_pause(self, call: Callable[..., None], *args: Any) -> bool:
        """A stopped process does nothing; it goes on where it was. True: `call` comes later."""
        if not self.is_alive:
            return True
        if self.machine.is_paused:
            self.machine.after_pause(call, *args)
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
        self.world.files.begins(self)

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
        if self.machine.has_stood_still(stands_still_s(self.instance.settings)):
            events.appendleft((ev.StoodStill(), None))
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
        if not self.instance.raft.is_leader:
            self.led_since = world.now
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
                case ev.MembersChanged():
                    world.leavers.changed(self)
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
        self.asked_disk_at = self.world.now
        self.world.at(self.world.now + latency, self._finish_write, self._batches)
        death = self.settings.death_timeout_s / self.machine.clock_rate
        if latency > death:
            self.world.at(self.world.now + death, self._wal_stuck, self._batches)

    def watch_disk(self) -> None:
        """The shell looks at it all the time, by the death timeout of the moment."""
        if self.batch is not None and self.asked_disk_at is not None:
            death = self.settings.death_timeout_s / self.machine.clock_rate
            self.world.at(max(self.world.now, self.asked_disk_at + death), self._wal_stuck, self._batches)

    def _wal_stuck(self, batch: int) -> None:
        if self.wait_out_pause(self._wal_stuck, batch) or self.batch is None or batch != self._batches:
            return
        self.world.hits["disk stuck"] += 1
        self.step(ev.WalStuck())
        self.world.at(
            self.world.now + self.settings.death_timeout_s / self.machine.clock_rate, self._wal_stuck, batch
        )

    def on_the_way(self) -> list[Txn]:
        """To the disk, oldest first."""
        parts = [*(self.batch or ()), *self.pending]
        return [txn for txns, _ in parts for txn in txns]

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
        self.asked_disk_at = None
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
        self.world.checks.comparisons.after_write(self)
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
            self.world.logs.snapshot_written(self, names[-1], meta.vclock, names[-2:])
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
