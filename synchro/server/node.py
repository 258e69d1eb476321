"""One running instance: the only owner of the core. Facts go in by `step`, effects are carried out at once.

`step` and the dispatch of effects are synchronous: no await, no re-entry, so every state between two
awaits is whole. What takes time (disk, peers, callers) is asked for here and answers with an event. An
exception out of the core is a bug and ends the process, whoever called it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol
from uuid import uuid4

import trio

from synchro.config import Settings
from synchro.errors import DiskFailed, Loading, SynchroError
from synchro.failpoints import failpoint
from synchro.ids import InstanceId
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.raft.messages import RaftMessage
from synchro.replication.silence import stands_still_s
from synchro.ro_reason import RoReason
from synchro.server.api import Configuration
from synchro.server.bootstrap_order import BootstrapOrder
from synchro.server.calls import Calls
from synchro.server.directory import DataDirectory
from synchro.server.disk_watch import DiskWatch
from synchro.server.late_commit import LateCommit
from synchro.server.open_transactions import OpenTransactions
from synchro.server.progress import StartProgress, Waiting
from synchro.server.runnable import RunnableTasks
from synchro.server.transport import Transport
from synchro.server.wall_clock import WallClock
from synchro.storage.ddl import Build
from synchro.storage.salvage import LeftOut
from synchro.storage.user_ops import users_while_loading
from synchro.storage.users import Users
from synchro.storage.wal import Wal
from synchro.vclock import EMPTY_VCLOCK, Vclock

STOPPING: Final = "stopping"
"""The last stage of a run."""
DISK_LOOKS: Final = 8
"""How often in a death timeout the shell looks whether the disk has answered."""
SLICE_S: Final = 0.004
"""Of work that is done bit by bit, between two looks at everything else."""
CLOCK_LOOK_S: Final = 1.0
"""Between two looks at the clock of the day."""
CLOCK_NOISE_US: Final = 500
"""By so much two looks may differ although nobody set the clock."""
FREED_AT_ONCE: Final = 1_000
"""Objects that are let go of between two looks at the clock."""


class PeerLinks(Protocol):
    """What the node has to say to the streams of its peers; `links.Links`."""

    def send_raft(self, message: RaftMessage) -> None: ...

    def request_heartbeats(self) -> None: ...

    def term_changed(self) -> None: ...

    def rows_written(self) -> None: ...

    def room_again(self) -> None: ...

    def rows_cut_back(self) -> None: ...

    def reset_appliers(self) -> None: ...

    def members_changed(self) -> None: ...

    def became_member(self) -> None: ...

    def settings_changed(self) -> None: ...

    def stop_applier(self, peer: InstanceId, error: SynchroError) -> None: ...


class Observer(Protocol):
    """Who looks at the instance after each step, to tell people; `face.Face`."""

    def stepped(self) -> None: ...

    def rows_written(self, vclock: Vclock) -> None: ...

    def stage_changed(self) -> None: ...


class LoopHooks(Protocol):
    """How the log and its thread reach this loop."""

    def call_when_idle(self, function: Callable[[], None], /) -> None:
        """Call it behind all that has arrived: since it was asked for, a poll of all sockets found nothing
        more. Where more arrives than can be handled it is not put off for ever."""
        ...

    def call_at_rest(self, function: Callable[[], None], /) -> None:
        """Asked for in a turn: call it at its end, when all that the turn had to say is written, if no socket
        and no call waits then; else forget it. It may block for a moment; what it has to say is written
        behind it."""
        ...

    def call_from_thread(self, function: Callable[[], None], /) -> None: ...


class Node:
    """Shell around one `Instance`.

    N1  `step` is never entered twice; what happens during it waits in `_events`, in order.
    N3  After `disk_failed` nothing reaches the core, the disk or a peer any more.
    """

    links: PeerLinks
    observer: Observer
    """Both set once, by `lifecycle.assemble`, before anything runs."""

    def __init__(
        self,
        *,
        settings: Settings,
        directory: DataDirectory,
        transport: Transport,
        hooks: LoopHooks,
        log: Any,
        on_panic: Callable[[BaseException], None],
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.transport = transport
        self.log = log
        self.calls = Calls(self.step, settings.limits.waiting_calls_max)
        self.late_commit = LateCommit(self.step)
        self.open_transactions = OpenTransactions(settings.limits)
        self.started_at = trio.current_time()
        self.listen: str | None = None
        """host:port that is really bound."""
        self.stage = "recovery"
        self.is_ready = False
        self.progress = StartProgress()
        """How far the start is; done when there is a core."""
        self.has_data = False
        """The directory had data when this process began."""
        self.waiting = Waiting()
        self.clock = WallClock()
        self.user_problems: Sequence[str] = ()
        """What of the configured users could not be put into the set."""
        self.start_id = str(uuid4())
        """Of this life of the process: a copy of the data directory in another process has another one."""
        self.halted: SynchroError | None = None
        """Why the process must leave with exit code 1."""
        self.leaving = trio.Event()
        self.stopped = trio.Event()
        """The core has ended in order: nothing is to be said any more (ADR 18)."""
        self.begins_anew = False
        """This life of the instance ends so that it can read other files; the process goes on."""
        self.left_out: Sequence[LeftOut] = ()
        """Where this start has cut the log, by the word of a person."""
        self.cut_at = EMPTY_VCLOCK
        """What was there then."""
        self.rejoin_given_up = False
        """It was to join again at its start, and could not."""
        self.outrun_since: float | None = None
        """Since when it lacks rows that no log has any more, as far as it has looked; monotonic seconds."""
        self.end_life: Callable[[], None] = lambda: None
        """Set by the lifecycle: a clean stop."""
        self.bootstrap_order = BootstrapOrder()
        self.configuration: Configuration | None = None
        """Set once by the process; None: the instance runs inside a program that sets its options."""
        self.bootstrap_leader_uuid = ""
        """Who made the replica set, if it happened in the life of this process."""

        self._core: Instance | None = None
        self._wal: Wal | None = None
        self._hooks = hooks
        self._on_panic = on_panic
        self._events: deque[ev.Event] = deque()
        self._is_stepping = False
        self._timer = trio.CancelScope()
        self._timer_at = math.inf
        """Its deadline."""
        self._build: Build | None = None
        self._wants_turn = False
        self._has_chores = trio.Event()
        self._is_wal_stuck = False
        self._still_at = math.inf
        """If nothing was done until then, others may have elected a leader (`ev.StoodStill`)."""
        self._clock_offset_us = 0
        self._persisted_term = 0
        self._settings_changed = trio.Event()
        self.config_reads = 0
        """How often the file of a running instance was read again."""

    # --------------------------------------------------------------------------------------------- parts

    @property
    def core(self) -> Instance:
        """Raises `Loading` before recovery, bootstrap or join is over [M-19]."""
        if self._core is None:
            raise self.loading()
        return self._core

    @property
    def has_core(self) -> bool:
        return self._core is not None

    @property
    def users(self) -> Users:
        """Who may do what: as committed, or while it loads as configured."""
        if self._core is None:
            return users_while_loading(self.settings.credentials)
        return self._core.memtx.catalog.users

    @property
    def ro_reason(self) -> RoReason:
        """Why the whole node takes no writes: what `info` and `WatchInfo` show."""
        if self._core is None:
            return RoReason.LOADING
        reason = self._core.read_only_reason()
        return RoReason.LOADING if reason is RoReason.NONE and not self.is_ready else reason

    @property
    def wal(self) -> Wal:
        if self._wal is None:
            raise self.loading()
        return self._wal

    @property
    def uuid(self) -> str:
        return self.directory.identity.instance_uuid

    @property
    def replicaset_uuid(self) -> str:
        if self._core is not None:
            return self._core.memtx.catalog.replicaset_uuid() or ""
        return self.directory.identity.replicaset_uuid or ""

    def loading(self) -> Loading:
        if self.stage == STOPPING:
            return Loading("The instance is stopping; nothing was done", stage=self.stage)
        at = ", ".join(filter(None, (f"stage: {self.stage}", self.progress.text)))
        return Loading(f"Instance bootstrap hasn't finished yet ({at})", stage=self.stage)

    def ensure_ready(self) -> None:
        if self.halted is not None:
            raise DiskFailed(f"the process is leaving: {self.halted.message}")
        if not self.is_ready:
            raise self.loading()

    @property
    def status(self) -> str:
        """loading, orphan, waiting_for_own_rows, running or stopping [M-43]."""
        if self.is_ready:
            if not self.core.acks_count:
                return "waiting_for_own_rows"
            return "orphan" if self.core.is_orphan else "running"
        return "stopping" if self.stage == STOPPING or self.halted is not None else "loading"

    @property
    def is_in_charge(self) -> bool:
        """It leads, or owns the queue."""
        return self.core.raft.is_leader or self.core.limbo.owner_id == self.core.self_id

    @property
    def waits_for(self) -> str:
        """Why a first start, or one without data, does not go on; for people. Empty: it does."""
        return self.waiting.text

    @property
    def has_wal_room(self) -> bool:
        """Whether more received rows may be prepared now; always into an empty queue, however small it is."""
        waiting = max(self.wal.queued_bytes, self.core.state.log.bytes)
        return not waiting or waiting < self.settings.limits.wal_queue_bytes_max // 2

    @property
    def address(self) -> str:
        """host:port at which peers reach this instance: where it listens, or its configured address if that
        names no host."""
        settings = self.settings
        bound = self.listen or settings.listen
        host, colon, _ = bound.rpartition(":")
        if colon and host.strip("[]") in ("0.0.0.0", "::", ""):
            return next((p.address for p in settings.peers if p.name == settings.instance_name), bound)
        return bound

    async def failpoint(self, name: str, *, peer: int | None = None) -> None:
        await failpoint(name, peer=peer)

    # ---------------------------------------------------------------------------------------------- life

    def attach(self, core: Instance, wal: Wal, tasks: RunnableTasks) -> None:
        """Recovery or join is over: from now on there is something to step."""
        assert self._core is None
        self.waiting.over()
        self.progress.at = None
        self._core = core
        self._wal = wal

        def call_at_rest(callback: Callable[[], None]) -> None:
            self._hooks.call_at_rest(lambda: callback() if tasks.is_alone else None)

        wal.call_with(self._hooks.call_when_idle, self._hooks.call_from_thread, call_at_rest)
        self._persisted_term = core.raft.term
        self.observer.rows_written(core.vclock)

    def on_written(self, vclock: Vclock) -> None:
        """From the WAL: everything up to here is synced."""
        self.observer.rows_written(vclock)
        self._is_wal_stuck = False
        if self.late_commit.holds(vclock, self.core):
            self.links.rows_written()
        else:
            self._tell_written(vclock)

    def _tell_written(self, vclock: Vclock) -> None:
        self.step(ev.RowsWritten(vclock))
        if self.halted is None:
            self.links.rows_written()

    def on_cut(self, vclock: Vclock, error: SynchroError) -> None:
        """From the WAL: no room; nothing beyond this is on disk."""
        self.log.error("wal_cut_back", vclock=str(vclock), reason=error.reason, message=error.message)
        self.late_commit.cut_back()
        self.step(ev.RowsCutBack(vclock, error))
        self.links.room_again()

    async def run(self) -> None:
        """Timers, until cancelled. The WAL has a task of its own and ends after this."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_deadline_timer)
            nursery.start_soon(self.calls.run_expiry_timer)
            nursery.start_soon(self._watch_disk)
            nursery.start_soon(self._compare_clocks)
            nursery.start_soon(self._run_chores)
            nursery.start_soon(self.late_commit.run, self._tell_written)

    def start(self) -> None:
        """Elections may begin."""
        self._compare_clock()
        self._carry_out_all(lambda now: self.core.start(now))

    def become_ready(self) -> None:
        self.stage = "ready"
        self.is_ready = True
        core = self.core
        self.log.info(
            "instance_ready",
            id=core.number,
            vclock=str(core.vclock),
            term=core.raft.term,
            listen=self.listen,
            message="ready to accept requests",
        )
        self.observer.stage_changed()

    def begin_stop(self) -> None:
        """Clients get nothing done here from now on; `stopped` is set when the core has ended."""
        self.stage = STOPPING
        self.is_ready = False
        self.log.info("stopping")
        self.step(ev.StopRequested())
        self.calls.wake_all_readers()
        self.observer.stage_changed()

    def join_again(self, *, is_lossy: bool) -> None:
        """Stop, and come back with the data of another member [M-35]. Raises `DiskFailed`; nothing was
        done then."""
        self.directory.want_rejoin(is_lossy=is_lossy)
        self.log.warning("rebootstrap_wanted", discard=is_lossy)
        self.begins_anew = True
        self.end_life()

    def end_calls(self) -> None:
        """The disk did not answer in the time that a stop has: so much can be said without it."""
        error = DiskFailed("the instance is stopping, and its disk does not answer; outcome unknown")
        self.calls.answer_all(ev.OutcomeUnknown(error))

    def disk_failed(self, error: SynchroError) -> None:
        """Leave the process with exit code 1 and one log record."""
        if self.halted is None:
            self.halted = error
            self.calls.close()
            self.calls.answer_all(ev.OutcomeUnknown(DiskFailed("the process is leaving; outcome unknown")))
            self.leaving.set()

    # ---------------------------------------------------------------------------------------------- step

    def step(self, event: ev.Event) -> None:
        """Give one fact to the core and carry out what follows. Never raises, never blocks."""
        if self.halted is not None:
            return
        self._events.append(event)
        if not self._is_stepping:
            self._drain()

    def _drain(self) -> None:
        self._is_stepping = True
        try:
            if trio.current_time() > self._still_at and self._has_stood_still():
                self._events.appendleft(ev.StoodStill())
            while self._events and self.halted is None:
                event = self._events.popleft()
                for effect in self.core.step(event, trio.current_time()):
                    if self.halted is None:
                        self._dispatch(effect)  # Node.N3: a flag that is not on disk stops what follows
            self._after_steps()
        except Exception as error:  # noqa: BLE001 - the border of the core: any bug there ends the node
            self._panic(error)
        finally:
            self._is_stepping = False

    def _carry_out_all(self, make: Callable[[float], list[ev.Effect]]) -> None:
        self._is_stepping = True
        try:
            for effect in make(trio.current_time()):
                self._dispatch(effect)
        except Exception as error:  # noqa: BLE001 - the border of the core, as in `step`
            self._panic(error)
        finally:
            self._is_stepping = False
        self._drain()

    def _panic(self, error: Exception) -> None:
        self._events.clear()
        self.calls.close()
        self.halted = self.halted or SynchroError(f"bug in the core: {error!r}")
        self._on_panic(error)

    def _dispatch(self, effect: ev.Effect) -> None:
        match effect:
            case ev.WriteRows():
                self.wal.submit(effect.txns, has_control=effect.has_control)
            case ev.Replies():
                self.calls.answer(effect.replies)
            case ev.BroadcastRaft():
                self.links.send_raft(effect.message)
            case ev.RequestHeartbeats():
                self.links.request_heartbeats()
            case ev.StopApplier():
                self.links.stop_applier(effect.peer, effect.error)
            case ev.ResetAppliers():
                self.links.rows_cut_back()
            case ev.BeginAmnesia():
                self.log.warning("amnesia_began", message="a member has what this log once had, and lost")
                if self._save_amnesia(True):
                    # Subscribe again, with an empty filter: own rows may be missing.
                    self.links.reset_appliers()
            case ev.EndAmnesia():
                if self._save_amnesia(False):
                    self.log.info("amnesia_ended")
            case ev.Stopped():
                self.stopped.set()
                self.observer.stage_changed()
            case ev.MembersChanged():
                names = {
                    int(i): name or uuid for i, (uuid, name) in self.core.memtx.catalog.members().items()
                }
                self.log.info("members_changed", members=names)
                self.links.members_changed()
            case ev.BecameMember():
                self.waiting.over()
                self.log.info("became_member", id=effect.id)
                self.links.became_member()
            case ev.RequestTurn():
                self._wants_turn = True
                self._has_chores.set()
            case ev.BuildIndexes():
                self._build = effect.build
                self._has_chores.set()
            case ev.Notice():
                log = self.log.warning if effect.is_warning else self.log.info
                log(effect.event, **effect.facts)

    def _save_amnesia(self, amnesia: bool) -> bool:
        """False: it is not on disk, so the process leaves before anything else is said."""
        try:
            self.directory.set_amnesia(amnesia)
        except DiskFailed as error:
            self.disk_failed(error)
        return self.halted is None

    def _after_steps(self) -> None:
        core = self.core
        deadline = core.deadline
        if deadline is not None and deadline < self._timer_at:  # a later one is seen when it wakes
            self._timer_at = self._timer.deadline = deadline
        if core.raft.term != self._persisted_term:
            self._persisted_term = core.raft.term
            self.links.term_changed()
        self.calls.wake_readers()
        if core.memtx.has_dead:
            self._has_chores.set()
        self.observer.stepped()

    # ------------------------------------------------------------------------------------------ settings

    @property
    def can_change_settings(self) -> bool:
        """False while files are read, and at the end: nobody would look at other settings."""
        return self.stage in ("bootstrap", "join") or (self.has_core and self.stage != STOPPING)

    def change_settings(self, settings: Settings) -> None:
        """Options that may change while the instance runs have other values; only while
        `can_change_settings`."""
        self.settings = settings
        self.calls.limit_changed(settings.limits.waiting_calls_max)
        self.open_transactions.limits_changed(settings.limits)
        if self.has_core:
            self.step(ev.SettingsChanged(settings))
            self.links.settings_changed()
        changed, self._settings_changed = self._settings_changed, trio.Event()
        changed.set()

    def config_was_read(self) -> None:
        """The file was read again, whatever it changed."""
        self.config_reads += 1
        changed, self._settings_changed = self._settings_changed, trio.Event()
        changed.set()

    async def pause(self, seconds: float) -> None:
        """Sleep, shorter if settings change meanwhile: the caller looks again for how long."""
        with trio.move_on_after(seconds):
            await self._settings_changed.wait()

    # -------------------------------------------------------------------------------------------- chores

    async def _run_chores(self) -> None:
        """What takes long and need not be done at once, a slice at a time."""
        while True:
            await self._has_chores.wait()
            self._has_chores = trio.Event()
            memtx = self.core.memtx
            while (self._wants_turn or self._build is not None or memtx.has_dead) and self.halted is None:
                if self._wants_turn:
                    self._wants_turn = False
                    await trio.lowlevel.checkpoint()
                    self.step(ev.TurnBegan())
                end = time.perf_counter() + SLICE_S
                build = self._build
                if build is None:
                    while not memtx.free(FREED_AT_ONCE) and time.perf_counter() < end:
                        pass
                elif build.is_cancelled:
                    self._build = None
                else:
                    while not build.advance() and time.perf_counter() < end:
                        pass
                    if build.is_done:
                        self._build = None
                        self.step(ev.IndexesBuilt(build))
                await trio.lowlevel.checkpoint()

    # ---------------------------------------------------------------------------------------------- disk

    async def _watch_disk(self) -> None:
        """ADR 16: a disk that does not answer for one death timeout."""
        watch = DiskWatch()
        while True:
            death = self.settings.death_timeout_s
            interval = death / DISK_LOOKS
            self._still_at = trio.current_time() + stands_still_s(self.settings)
            await self.pause(interval)
            if self._has_stood_still():
                self.step(ev.StoodStill())
            silent = watch.look(self.wal.busy_since, trio.current_time(), interval)
            if silent == 0:
                self._is_wal_stuck = False
            elif silent > death:
                if not self._is_wal_stuck:
                    self._is_wal_stuck = True
                    self.log.error(
                        "wal_stuck",
                        duration_s=death,
                        directory=self.settings.wal_dir,
                        message="the disk does not answer; writes wait for it",
                    )
                self.step(ev.WalStuck())  # again: elections may have been turned on meanwhile

    def _has_stood_still(self) -> bool:
        """Asked now and then, and before each step: after a pause (SIGSTOP, a frozen container) a client may
        be heard before any peer, and before a timer rings. A suspended host stops this clock too."""
        now = trio.current_time()
        has_stood = now > self._still_at
        self._still_at = now + stands_still_s(self.settings)
        return has_stood

    # -------------------------------------------------------------------------------------------- timers

    async def _compare_clocks(self) -> None:
        while True:
            await self.pause(CLOCK_LOOK_S)
            self._compare_clock()

    def shift_clock(self, skew_s: float) -> None:
        """From the next row on [fault injection]. Raises `IllegalParams`."""
        self.clock.shift(skew_s)
        if self._core is not None:
            self._compare_clock()

    def _compare_clock(self) -> None:
        """The core has no clock of the day (ADR 44)."""
        offset_us = int((self.clock.now() - trio.current_time()) * 1e6)
        if abs(offset_us - self._clock_offset_us) > CLOCK_NOISE_US:
            self._clock_offset_us = offset_us
            self.step(ev.ClockCompared(offset_us))

    async def _run_deadline_timer(self) -> None:
        while True:
            deadline = self.core.deadline
            self._timer_at = math.inf if deadline is None else deadline
            self._timer = trio.CancelScope(deadline=self._timer_at)
            with self._timer:
                await trio.sleep_forever()
            deadline = self.core.deadline
            if deadline is not None and trio.current_time() >= deadline:
                self.step(ev.DeadlineReached())
                await trio.lowlevel.checkpoint()
