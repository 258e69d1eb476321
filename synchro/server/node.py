"""One running instance: the only owner of the core. Facts go in by `step`, effects are carried out at once.

`step` and the dispatch of effects are synchronous: no await, no re-entry, so every state between two
awaits is whole. What takes time (disk, peers, callers) is asked for here and answers with an event. An
exception out of the core is a bug and ends the process: asyncio and gRPC would swallow it.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import trio

from synchro.config import FencingMode, Settings, WalMode
from synchro.errors import DiskFailed, IllegalParams, Loading, SynchroError, SyncQueueFull
from synchro.failpoints import failpoint
from synchro.ids import NOBODY, CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.core import Instance
from synchro.replication.doubles import Doubles, Life, doubled_error
from synchro.replication.trust import AckMemory, Missing, Remembered
from synchro.server import info
from synchro.server.api import HeaderFacts, LeaderFacts, QueueEntryFacts, WatchFacts
from synchro.server.applier import Applier
from synchro.server.disk_watch import DiskWatch
from synchro.server.relay import Downstream, Relay
from synchro.storage.notes import AckNote
from synchro.vclock import Vclock

if TYPE_CHECKING:
    from synchro.rpc.host import RpcHost
    from synchro.server.directory import DataDirectory
    from synchro.server.join import JoinView
    from synchro.server.snapshotter import Snapshotter
    from synchro.server.transport import Transport
    from synchro.storage.ddl import Build
    from synchro.storage.wal import Wal

STOPPING: Final = "stopping"
"""The last stage of a run."""
WATCH_INTERVAL_S: Final = 0.05
"""How often watchers look at what changes with every write, such as the length of the queue."""

DISK_LOOKS: Final = 8
"""How often in a death timeout the shell looks whether the disk has answered."""
SLICE_S: Final = 0.004
"""Of work that is done bit by bit, between two looks at everything else."""
FREED_AT_ONCE: Final = 1_000
"""Objects that are let go of between two looks at the clock."""

Respond = Callable[[CallId, ev.Outcome], None]


class Node:
    """Shell around one `Instance`.

    N1  `step` is never entered twice; what happens during it waits in `_events`, in order.
    N2  Every call in `_calls` gets one outcome, or is abandoned; there are at most `waiting_calls_max`.
    N3  After `_fail` nothing reaches the core, the disk or a peer any more.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        directory: DataDirectory,
        transport: Transport,
        host: RpcHost,
        log: Any,
        on_panic: Callable[[BaseException], None],
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.transport = transport
        self.host = host
        self.log = log
        self.started_at = trio.current_time()
        self.listen: str | None = None
        """host:port that is really bound."""
        self.stage = "recovery"
        self.is_ready = False
        self.waits_for = ""
        """Why a first start, or one without data, does not go on; for people."""
        self.start_id = str(uuid4())
        """Of this life of the process: a copy of the data directory in another process has another one."""
        self.doubles = Doubles(self.uuid, Life(self.start_id, settings.listen), settings.death_timeout_s)
        self._doubled: dict[str, tuple[Life, ...]] = {}
        """UUID -> the lives that it was found in, as long as it is doubled."""
        self.appliers: dict[str, Applier] = {}
        self.upstreams: dict[str, Applier] = {}
        """UUID -> the applier that follows it, or tries to: one, however many addresses it has here."""
        self.relays: dict[InstanceId, Relay] = {}
        self.downstreams: dict[InstanceId, Downstream] = {}
        self.acks = AckMemory()
        """What each peer once acknowledged, kept over restarts (ADR 14)."""
        self.joins: dict[str, Vclock] = {}
        """UUID of an instance that joins now -> from where it needs the log [W-41]."""
        self.join_view: JoinView | None = None
        """What they get, as long as one of them gets it."""
        self.halted: SynchroError | None = None
        """Why the process must leave with exit code 1."""
        self.leaving = trio.Event()
        self.stopped = trio.Event()
        """The core has ended in order: nothing is to be said any more (ADR 18)."""
        self.snapshotter: Snapshotter | None = None
        self.bootstrap_leader_uuid = ""
        """Who made the replica set, if it happened in the life of this process."""
        self.is_serving_peers = False
        """Peers may subscribe: recovery or join is over, though clients may still have to wait."""
        self.blocked_in: set[str] = set()
        """Names of peers whose rows and messages the fault service keeps away."""
        self.blocked_out: set[str] = set()
        """Names of peers to which it lets nothing through."""

        self._leader_heard_at = trio.current_time()
        self._core: Instance | None = None
        self._wal: Wal | None = None
        self._on_panic = on_panic
        self.progress = info.Progress()
        self._events: deque[ev.Event] = deque()
        self._is_stepping = False
        self._timer = trio.CancelScope()
        self._call_ids = count(1)
        self._calls: dict[CallId, Respond] = {}
        self._expiries: list[tuple[float, int, int]] = []
        self._expiry_timer = trio.CancelScope()
        self._readers: list[tuple[Vclock, trio.Event]] = []
        """Reads that wait until so much is applied."""
        self._watchers = 0
        self._changed = trio.Event()
        self._stepped = trio.Event()
        self._build: Build | None = None
        self._wants_turn = False
        self._has_chores = trio.Event()
        self._is_wal_stuck = False
        self._header: HeaderFacts | None = None
        self._persisted_term = 0
        self._election: tuple[object, ...] = ()
        self._was_writable: bool | None = None
        self._amnesia_noted: dict[str, Any] | None = None

    # ------------------------------------------------------------------------------------------------ parts

    @property
    def core(self) -> Instance:
        """Raises `Loading` before recovery, bootstrap or join is over [M-19]."""
        if self._core is None:
            raise self.loading()
        return self._core

    @property
    def instance(self) -> Instance:
        return self.core

    @property
    def has_core(self) -> bool:
        return self._core is not None

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
            return self._core.memtx.replicaset_uuid() or ""
        return self.directory.identity.replicaset_uuid or ""

    def loading(self) -> Loading:
        if self.stage == STOPPING:
            return Loading("The instance is stopping; nothing was done", stage=self.stage)
        return Loading(f"Instance bootstrap hasn't finished yet (stage: {self.stage})", stage=self.stage)

    def ensure_ready(self) -> None:
        if self.halted is not None:
            raise DiskFailed(f"the process is leaving: {self.halted.message}")
        if not self.is_ready:
            raise self.loading()

    @property
    def has_wal_room(self) -> bool:
        """Whether more received rows may be prepared now; always into an empty queue, however small it is."""
        waiting = max(self.wal.queued_bytes, self.core.state.log.bytes)
        return not waiting or waiting < self.settings.limits.wal_queue_bytes_max // 2

    def cut_links(self, peers: set[str], *, incoming: bool, outgoing: bool) -> None:
        """Drop the streams with these peers and refuse new ones, for the fault service."""
        if incoming:
            self.blocked_in |= peers
            for name in peers & self.appliers.keys():
                self.appliers[name].reset()
        if outgoing:
            self.blocked_out |= peers
            for relay in self.relays.values():
                if relay.peer_name in peers:
                    relay.scope.cancel()

    def heal_links(self, peers: set[str]) -> None:
        self.blocked_in -= peers
        self.blocked_out -= peers

    # ---------------------------------------------------------------------------------- doubled identities

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

    def note_life(self, uuid: str, life: Life) -> None:
        """`life` of this identity spoke to us now; streams of this identity did so at their last message."""
        doubles, now = self.doubles, trio.current_time()
        for relay in self.relays.values():
            if relay.peer_uuid == uuid:
                doubles.heard(uuid, relay.life, relay.heard_at)
        for applier in self.appliers.values():
            if applier.has_link and applier.peer_uuid == uuid:
                doubles.heard(uuid, applier.life, applier.heard_at)
        doubles.heard(uuid, life, now)
        self.check_doubles()

    def check_double(self, uuid: str) -> None:
        """Raises `DoubledIdentity`."""
        lives = self.doubles.lives(uuid, trio.current_time())
        if lives:
            raise doubled_error(uuid, lives)

    def check_doubles(self) -> None:
        """Who became doubled is told so, cut off and named in the log; who is single again comes back by
        itself."""
        now = trio.current_time()
        members = {} if self._core is None else self._core.memtx.members()
        for member, (member_uuid, name) in members.items():
            lives = self.doubles.lives(member_uuid, now)
            known = self._doubled.get(member_uuid)
            if lives and not known:
                self.log.error("identity_doubled", **doubled_error(member_uuid, lives).details, name=name)
                self._doubled[member_uuid] = lives
                self._cut_double(member, member_uuid, lives)
            elif known and not lives:
                del self._doubled[member_uuid]
                self.log.info("identity_single", uuid=member_uuid, name=name)
        if self._core is not None and self.is_doubled != self._core.state.is_doubled:
            self.step(ev.DoubledChanged(self.is_doubled))

    def _cut_double(self, member: InstanceId, uuid: str, lives: tuple[Life, ...]) -> None:
        relay = self.relays.get(member)
        if relay is not None:
            relay.end_with(doubled_error(uuid, lives))
        for applier in self.appliers.values():
            if applier.has_link and uuid in (applier.peer_uuid, self.uuid):
                applier.reset()  # if it is us, nobody gets an ack any more

    async def _watch_doubles(self) -> None:
        """What is not heard any more ends by time alone."""
        while True:
            await trio.sleep(self.settings.replication_timeout_s / 2)
            self.check_doubles()

    @property
    def is_doubled(self) -> bool:
        """Another live process has our identity."""
        return self.uuid in self._doubled

    def lives_of(self, uuid: str) -> tuple[Life, ...]:
        """For `info`: empty if it is not doubled."""
        return self._doubled.get(uuid, ())

    # ---------------------------------------------------------------------------------------------- streams

    @property
    def following(self) -> frozenset[InstanceId]:
        """Peers whose rows come from themselves."""
        return frozenset(applier.peer_id for applier in self.appliers.values() if applier.is_following)

    def links_changed(self) -> None:
        """`following` is another set: peers pass on what we do not get from its origin."""
        for applier in self.appliers.values():
            applier.wake_ack()

    @property
    def silence_s(self) -> float:
        """After so long a link is dead [A-27]. A leader with strict fencing gives its links up in half the
        time, so that it has resigned before the others may elect somebody [E-30], [L-18]."""
        settings = self.settings
        is_strict = settings.election_fencing_mode is FencingMode.STRICT and self.core.raft.is_leader
        return settings.death_timeout_s / 2 if is_strict else settings.death_timeout_s

    def leader_idle(self) -> float:
        """Seconds since the leader was last heard [I-20]."""
        return trio.current_time() - self._leader_heard_at

    def note_heard(self, peer: InstanceId) -> None:
        """A sign of life came from this peer."""
        if peer == self.core.raft.leader:
            self._leader_heard_at = trio.current_time()

    async def failpoint(self, name: str) -> None:
        await failpoint(name)

    # ------------------------------------------------------------------------------------------------- life

    def attach(self, core: Instance, wal: Wal) -> None:
        """Recovery or join is over: from now on there is something to step."""
        assert self._core is None
        self.waits_for = ""
        self._core = core
        self._wal = wal
        noted = self.directory.identity_file.notes.acks
        self.acks = AckMemory({peer: Remembered(*ack) for peer, ack in noted.items()})
        wal.call_with(self.host.call_when_idle, self.host.call_from_thread)
        self._persisted_term = core.raft.term
        self.progress.note(core.vclock, trio.current_time())

    def on_written(self, vclock: Vclock) -> None:
        """From the WAL: everything up to here is synced."""
        self.progress.note(vclock, trio.current_time())
        self.step(ev.RowsWritten(vclock))
        self._is_wal_stuck = False
        if self.halted is not None:
            return
        for applier in self.appliers.values():
            applier.rows_written()
            applier.wake_rows()
        for relay in self.relays.values():
            relay.rows_written()

    def on_cut(self, vclock: Vclock, error: SynchroError) -> None:
        """From the WAL: no room; nothing beyond this is on disk."""
        self.log.error("wal_cut_back", vclock=str(vclock), reason=error.reason, message=error.message)
        self.step(ev.RowsCutBack(vclock, error))
        for applier in self.appliers.values():
            applier.wake_rows()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Timers and appliers, until cancelled. The WAL has a task of its own and ends after this."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_deadline_timer)
            nursery.start_soon(self._run_expiry_timer)
            nursery.start_soon(self._watch_disk)
            nursery.start_soon(self._watch_doubles)
            nursery.start_soon(self._run_watchers)
            nursery.start_soon(self._run_chores)
            self.doubles.me = Life(self.start_id, self.address)
            self.is_serving_peers = True
            for peer in self.settings.peers:
                if peer.name != self.settings.instance_name:
                    self.appliers[peer.name] = Applier(self, peer)
                    nursery.start_soon(self.appliers[peer.name].run)
            self._carry_out_all(lambda now: self.core.start(now))
            task_status.started()

    def become_ready(self) -> None:
        self.stage = "ready"
        self.is_ready = True
        core = self.core
        self.log.info(
            "instance_ready",
            id=core.self_id,
            vclock=str(core.vclock),
            term=core.raft.term,
            listen=self.listen,
        )
        self._wake_watchers()

    def begin_stop(self) -> None:
        """Clients get nothing done here from now on; `stopped` is set when the core has ended."""
        self.stage = STOPPING
        self.is_ready = False
        self.log.info("stopping")
        self.step(ev.StopRequested())
        self._wake_all_readers()
        self._wake_watchers()

    def end_calls(self) -> None:
        """The disk did not answer in the time that a stop has: so much can be said without it."""
        error = DiskFailed("the instance is stopping, and its disk does not answer; outcome unknown")
        self._answer_all(ev.OutcomeUnknown(error))

    def _fail(self, error: SynchroError) -> None:
        """Leave the process with exit code 1 and one log record."""
        if self.halted is None:
            self.halted = error
            self._answer_all(ev.OutcomeUnknown(DiskFailed("the process is leaving; outcome unknown")))
            self.leaving.set()

    # ------------------------------------------------------------------------------------------------- step

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
        except Exception as error:  # noqa: BLE001 - as above
            self._panic(error)
        finally:
            self._is_stepping = False
        self._drain()

    def _panic(self, error: Exception) -> None:
        self._events.clear()
        self.halted = self.halted or SynchroError(f"bug in the core: {error!r}")
        self._on_panic(error)

    def _dispatch(self, effect: ev.Effect) -> None:
        match effect:
            case ev.WriteRows():
                self.wal.submit(effect.txns, has_control=effect.has_control)
            case ev.Replies():
                for call_id, outcome in effect.replies:
                    respond = self._calls.pop(call_id, None)
                    if respond is not None:
                        respond(call_id, outcome)
            case ev.BroadcastRaft():
                for relay in self.relays.values():
                    relay.send_raft(effect.message)
            case ev.RequestHeartbeats():
                for relay in self.relays.values():
                    relay.send_heartbeat()
            case ev.StopApplier():
                applier = self.find_applier(effect.peer)
                if applier is not None:
                    applier.stop(effect.error)
            case ev.ResetAppliers():
                for applier in self.appliers.values():
                    applier.rows_cut_back()
            case ev.BeginAmnesia():
                self.log.warning("amnesia_began", message="a member has what this log once had, and lost")
                if not self._save_amnesia(True):
                    return
                for applier in self.appliers.values():
                    applier.reset()  # subscribe again, with an empty filter: own rows may be missing
            case ev.EndAmnesia():
                if self._save_amnesia(False):
                    self.log.info("amnesia_ended")
            case ev.Stopped():
                self.stopped.set()
                self._wake_watchers()
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
            self._fail(error)
        return self.halted is None

    def find_applier(self, peer: InstanceId) -> Applier | None:
        """That of its live link; else the one that had it last."""
        found = [applier for applier in self.appliers.values() if applier.peer_id == peer]
        return next((applier for applier in found if applier.has_link), found[0] if found else None)

    def _after_steps(self) -> None:
        core = self.core
        deadline = core.deadline
        if deadline is not None and deadline < self._timer.deadline:  # a later one is seen when it wakes
            self._timer.deadline = deadline
        if core.raft.term != self._persisted_term:
            self._persisted_term = core.raft.term
            for relay in self.relays.values():
                relay.term_changed()
            for applier in self.appliers.values():
                applier.wake_ack()
        if self._readers:
            self._wake_readers()
        if core.memtx.has_dead:
            self._has_chores.set()
        if core.has_amnesia or self._amnesia_noted:
            self._note_amnesia()
        raft, limbo = core.raft, core.limbo
        election = (
            *(raft.leader, raft.is_leader_seen, raft.role, raft.volatile_term),
            *(limbo.owner_id, limbo.term, limbo.state),
        )
        if election != self._election:
            self._election = election
            self._note_writable()
            self._wake_watchers()
        elif self._watchers:
            self._stepped.set()

    def _note_amnesia(self) -> None:
        """Whom it must hear, for the log and for people; again when that changes."""
        facts = self.amnesia()
        if facts != self._amnesia_noted:
            self._amnesia_noted = facts
            if facts is not None:
                self.log.warning("amnesia", **facts)

    def amnesia(self) -> dict[str, Any] | None:
        """None: this instance trusts its log. Else of which members it waits for what, and the next
        command."""
        core = self.core
        if not core.has_amnesia:
            return None
        missing = core.must_hear()
        others = [
            {"id": int(peer), "name": core.state.name_of(peer) or "", "why": why.value}
            for peer, why in missing.items()
        ]
        if not missing and not core.acks_count:  # not even the registrations of the others are left
            others = [
                {
                    "id": int(applier.peer_id),
                    "name": applier.address.name,
                    "why": (Missing.BEHIND if applier.lacks_rows else Missing.UNHEARD).value,
                }
                for applier in self.appliers.values()
                if applier.peer_uuid != self.uuid
            ]
        is_too_old = any(applier.lacks_rows for applier in self.appliers.values()) and not self.following
        command = self.settings.again_with("--force-trust")
        bare = self.settings.again_command("--force-trust")
        unheard = [str(one["name"]) for one in others if one["why"] == Missing.UNHEARD.value]
        if core.acks_count:
            text = "its log is whole again; it votes when this term is over"
            following = "wait"
        else:
            text = "its log may have lost acknowledged rows, so it does not vote; "
            text += (
                "it must hear " + ", ".join(f"{one['name']} ({one['why']})" for one in others)
                if others
                else "there is no other member that could say which"
            )
            if is_too_old:
                directories = dict.fromkeys((self.settings.wal_dir, self.settings.snapshot_dir))
                following = (
                    "the logs of the others do not go back so far: stop it, move all files of this instance "
                    f"except instance.identity out of {' and '.join(directories)}, and start it again "
                    "to join anew"
                )
            elif unheard:
                following = f"start {', '.join(unheard)}; if their data is gone for good: {command}"
            elif others and all(one["why"] == Missing.BEHIND.value for one in others):
                following = "wait until it caught up"
            else:
                following = f"a person must decide, on the member with the newest data: {command}"
        return {"must_hear": others, "message": text, "next": following, "command": bare}

    def _note_writable(self) -> None:
        reason = self.core.read_only_reason()
        if (reason is None) != self._was_writable:
            self._was_writable = reason is None
            self.log.info("became_writable" if reason is None else "became_read_only", ro_reason=reason)

    # ----------------------------------------------------------------------------------------------- chores

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

    # ------------------------------------------------------------------------------------------------- disk

    def collect_acks(self) -> None:
        """Hand what peers acknowledged to the next note (ADR 14). Not with `wal.mode: write`: who
        acknowledges rows that are not on disk may lose them without having forgotten a promise."""
        if self.settings.wal_mode is WalMode.FSYNC:
            known = self.acks.export(self.core.memtx.prepared_members())
            self.directory.identity_file.acks = {peer: AckNote(*ack) for peer, ack in known.items()}

    def disk_failed(self, error: SynchroError) -> None:
        self._fail(error)

    async def _watch_disk(self) -> None:
        """ADR 16: a disk that does not answer for one death timeout."""
        watch = DiskWatch()
        while True:
            death = self.settings.death_timeout_s
            interval = death / DISK_LOOKS
            await trio.sleep(interval)
            silent = watch.look(self.wal.busy_since, trio.current_time(), interval)
            if silent == 0:
                self._is_wal_stuck = False
            elif not self._is_wal_stuck and silent > death:
                self._is_wal_stuck = True
                self.log.error(
                    "wal_stuck",
                    duration_s=death,
                    directory=self.settings.wal_dir,
                    message="the disk does not answer; writes wait for it",
                )
                self.step(ev.WalStuck())

    # ------------------------------------------------------------------------------------------------ timers

    async def _run_deadline_timer(self) -> None:
        while True:
            deadline = self.core.deadline
            self._timer = trio.CancelScope(deadline=math.inf if deadline is None else deadline)
            with self._timer:
                await trio.sleep_forever()
            deadline = self.core.deadline
            if deadline is not None and trio.current_time() >= deadline:
                self.step(ev.DeadlineReached())
                await trio.lowlevel.checkpoint()

    async def _run_expiry_timer(self) -> None:
        """Calls whose time is over; one entry a frame, not a call."""
        while True:
            next_at = self._expiries[0][0] if self._expiries else math.inf
            self._expiry_timer = trio.CancelScope(deadline=next_at)
            with self._expiry_timer:
                await trio.sleep_forever()
            now = trio.current_time()
            while self._expiries and (self._expiries[0][0] <= now or not self._waits(*self._expiries[0])):
                _, first, last = heapq.heappop(self._expiries)
                for number in range(first, last + 1):
                    if CallId(number) in self._calls:
                        self.step(ev.CallExpired(CallId(number)))
            await trio.lowlevel.checkpoint()

    def _waits(self, _deadline: float, first: int, last: int) -> bool:
        return any(map(self._calls.__contains__, range(first, last + 1)))

    def _expire_at(self, deadline: float, first: int, last: int) -> None:
        heapq.heappush(self._expiries, (deadline, first, last))
        if self._expiries[0][0] < self._expiry_timer.deadline:
            self._expiry_timer.deadline = self._expiries[0][0]

    # ------------------------------------------------------------------------------------------------- calls

    def _too_many(self) -> ev.Rejected:
        limit = self.settings.limits.waiting_calls_max
        return ev.Rejected(
            SyncQueueFull(f"{limit} calls wait for their outcome already; nothing was written", limit=limit)
        )

    def _leaving(self) -> ev.Rejected:
        return ev.Rejected(DiskFailed("the process is leaving; nothing was written"))

    def submit(
        self, make_event: Callable[[CallId], ev.Event], on_outcome: Callable[[ev.Outcome], None]
    ) -> CallId:
        call_id = self.new_call_id()
        if self.halted is not None:
            on_outcome(self._leaving())
            return call_id
        if len(self._calls) >= self.settings.limits.waiting_calls_max:
            on_outcome(self._too_many())
            return call_id
        self._calls[call_id] = lambda _, outcome: on_outcome(outcome)
        self.step(make_event(call_id))
        return call_id

    def new_call_id(self) -> CallId:
        return CallId(next(self._call_ids))

    def submit_writes(self, writes: Sequence[ev.ClientWrite], on_outcome: Respond, timeout_s: float) -> None:
        room = max(0, self.settings.limits.waiting_calls_max - len(self._calls))
        if self.halted is not None:
            room = 0
        if len(writes) > room:
            for write in writes[room:]:
                on_outcome(write.call_id, self._too_many() if self.halted is None else self._leaving())
            writes = writes[:room]
        if writes:
            self._step_calls(
                [write.call_id for write in writes], ev.ClientWrites(writes), on_outcome, timeout_s
            )

    def submit_puts(self, puts: ev.ClientPuts, on_outcome: Respond, timeout_s: float) -> None:
        call_ids = puts.call_ids
        room = self.settings.limits.waiting_calls_max - len(self._calls)
        if self.halted is not None or len(call_ids) > room:
            self.submit_writes(puts.writes(), on_outcome, timeout_s)
        else:
            self._step_calls(call_ids, puts, on_outcome, timeout_s)

    def _step_calls(
        self, call_ids: Sequence[CallId], event: ev.Event, on_outcome: Respond, timeout_s: float
    ) -> None:
        """call_ids: consecutive."""
        self._calls.update(dict.fromkeys(call_ids, on_outcome))
        self._expire_at(trio.current_time() + timeout_s, call_ids[0], call_ids[-1])
        self.step(event)

    def abandon(self, call_id: CallId) -> None:
        if self._calls.pop(call_id, None) is not None:
            self.step(ev.RequestAbandoned(call_id))

    async def call(self, make_event: Callable[[CallId], ev.Event], *, timeout_s: float) -> ev.Outcome:
        outcome: ev.Outcome | None = None
        done = trio.Event()

        def on_outcome(result: ev.Outcome) -> None:
            nonlocal outcome
            outcome = result
            done.set()

        call_id = self.submit(make_event, on_outcome)
        try:
            with trio.move_on_after(timeout_s):
                await done.wait()
            if outcome is None:
                self.step(ev.CallExpired(call_id))
                await done.wait()
        finally:
            self.abandon(call_id)
        assert outcome is not None
        return outcome

    def _answer_all(self, outcome: ev.Outcome) -> None:
        calls, self._calls = self._calls, {}
        for call_id, respond in calls.items():
            respond(call_id, outcome)

    async def wait_applied(self, vclock: Vclock, *, timeout_s: float) -> bool:
        """See `Instance.has_applied`; False: not in time."""
        await trio.lowlevel.checkpoint()
        if self.core.has_applied(vclock):
            return True
        waiter = (vclock, trio.Event())
        self._readers.append(waiter)
        with trio.move_on_after(timeout_s):
            await waiter[1].wait()
        if waiter in self._readers:
            self._readers.remove(waiter)
        if self.stage == STOPPING:
            raise self.loading()
        return self.core.has_applied(vclock)

    def _wake_all_readers(self) -> None:
        for _, applied in self._readers:
            applied.set()

    def _wake_readers(self) -> None:
        for waiter in [one for one in self._readers if self.core.has_applied(one[0])]:
            self._readers.remove(waiter)
            waiter[1].set()

    # ----------------------------------------------------------------------------------------------- reading

    def header(self) -> HeaderFacts:
        core, old = self.core, self._header
        position = core.decided_position
        if (
            old is not None
            and old.vclock is core.vclock
            and old.term == core.raft.term
            and old.decided_position == position
            and old.schema_version == core.memtx.schema_version
        ):
            return old
        self._header = HeaderFacts(
            replicaset_uuid=self.replicaset_uuid,
            instance_id=core.self_id,
            instance_name=self.settings.instance_name,
            term=core.raft.term,
            vclock=core.vclock,
            decided_position=position,
            schema_version=core.memtx.schema_version,
        )
        return self._header

    def address_of(self, instance: InstanceId) -> str:
        name = self.core.state.name_of(instance)
        return next((p.address for p in self.settings.peers if p.name == name), "")

    def leader(self) -> LeaderFacts | None:
        """Where to write: only somebody who is alive. An owner that leads no more may be dead, or frozen."""
        if self._core is None:
            return None
        core = self._core
        raft = core.raft
        if raft.is_leader_seen:
            known = raft.leader
        else:  # perhaps it is out of reach from here only
            known = core.limbo.owner_id if raft.is_leader_seen_by_peers else NOBODY
        if known == NOBODY or (known == core.self_id and not core.is_writable):
            return None
        return LeaderFacts(
            known, core.state.name_of(known) or "", self.address_of(known), core.raft.volatile_term
        )

    def info(self) -> dict[str, Any]:
        return info.box_info(self)

    def queue_entries(self) -> Sequence[QueueEntryFacts]:
        return info.queue_entries(self.core, trio.current_time())

    def watch_facts(self) -> WatchFacts:
        if self._core is None:
            return WatchFacts(None, Term(0), False, "loading", NOBODY, 0, can_read=False, sees_quorum=False)
        core = self._core
        following = {a.peer_id for a in self.appliers.values() if a.is_following}
        connected = 1 + len(following & self.relays.keys() & core.registered)
        return WatchFacts(
            leader=self.leader(),
            term=core.raft.term,
            is_writable=core.is_writable and self.is_ready,
            ro_reason=core.read_only_reason(),
            queue_owner=core.limbo.owner_id,
            queue_len=core.limbo.count,
            can_read=self.is_ready,
            sees_quorum=connected >= min(core.limbo.quorum, len(core.registered)),
        )

    async def watch(self) -> AsyncIterator[WatchFacts]:
        last: WatchFacts | None = None
        self._watchers += 1
        try:
            while True:
                facts = self.watch_facts()
                if facts != last:
                    last = facts
                    yield facts
                elif self.stopped.is_set():
                    return
                else:
                    await self._changed.wait()
        finally:
            self._watchers -= 1

    async def _run_watchers(self) -> None:
        """Elections are told at once, lesser changes not with every step: they are a part of each write."""
        while True:
            await self._stepped.wait()
            self._stepped = trio.Event()
            self._wake_watchers()
            await trio.sleep(WATCH_INTERVAL_S)

    def _wake_watchers(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --------------------------------------------------------------------------------------------- operators

    async def checkpoint(self) -> Vclock:
        self.ensure_ready()
        assert self.snapshotter is not None
        return await self.snapshotter.checkpoint()

    def restart_upstream(self, instance: str) -> None:
        """By any of the words that `info` has for it: name, id, UUID or address."""
        core = self.core
        names = {
            text
            for member, (uuid, name) in core.memtx.members().items()
            if instance in (uuid, name, str(member))
            for text in (uuid, name)
        }
        found = False
        for applier in self.appliers.values():
            address = applier.address
            if instance in (address.name, address.address) or names & {address.name, applier.peer_uuid}:
                found = True
                if not applier.is_following:
                    applier.restart()
        if not found:
            raise IllegalParams(f"there is no upstream {instance!r}; nothing was changed")
