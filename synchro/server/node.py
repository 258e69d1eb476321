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

import trio

from synchro import instance_events as ev
from synchro.config import FencingMode, Settings
from synchro.errors import DiskFailed, IllegalParams, Loading, SynchroError, SyncQueueFull
from synchro.failpoints import failpoint
from synchro.ids import NOBODY, CallId, InstanceId, Term
from synchro.instance import Instance
from synchro.server import info
from synchro.server.api import HeaderFacts, LeaderFacts, QueueEntryFacts, WatchFacts
from synchro.server.applier import Applier
from synchro.server.relay import Downstream, Relay
from synchro.vclock import Vclock

if TYPE_CHECKING:
    from synchro.rpc.host import RpcHost
    from synchro.server.directory import DataDirectory
    from synchro.server.snapshotter import Snapshotter
    from synchro.server.transport import Transport
    from synchro.storage.ddl import Build
    from synchro.storage.wal import Wal

WATCH_INTERVAL_S: Final = 0.05
"""How often watchers look at what changes with every write, such as the length of the queue."""

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
        self.appliers: dict[str, Applier] = {}
        self.relays: dict[InstanceId, Relay] = {}
        self.downstreams: dict[InstanceId, Downstream] = {}
        self.joins: dict[str, Vclock] = {}
        """UUID of an instance that joins now -> from where it needs the log [W-41]."""
        self.halted: SynchroError | None = None
        """Why the process must leave with exit code 1."""
        self.leaving = trio.Event()
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
        return Loading(f"Instance bootstrap hasn't finished yet (stage: {self.stage})", stage=self.stage)

    def ensure_ready(self) -> None:
        if self.halted is not None:
            raise DiskFailed(f"the process is leaving: {self.halted.message}")
        if not self.is_ready:
            raise self.loading()

    @property
    def has_wal_room(self) -> bool:
        """Whether more received rows may be prepared now."""
        waiting = max(self.wal.queued_bytes, self.core.state.log.bytes)
        return waiting < self.settings.limits.wal_queue_bytes_max // 2

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
        self._core = core
        self._wal = wal
        wal.call_with(self.host.call_when_idle, self.host.call_from_thread)
        self._persisted_term = core.raft.term

    def on_written(self, vclock: Vclock) -> None:
        """From the WAL: everything up to here is synced."""
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
            nursery.start_soon(self._run_watchers)
            nursery.start_soon(self._run_chores)
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
                    self._dispatch(effect)
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
                self.log.warning("amnesia_began")
                self.directory.set_amnesia(True)
                for applier in self.appliers.values():
                    applier.reset()  # subscribe again, with an empty filter: own rows may be missing
            case ev.EndAmnesia():
                self.log.info("amnesia_ended")
                self.directory.set_amnesia(False)
            case ev.RequestTurn():
                self._wants_turn = True
                self._has_chores.set()
            case ev.BuildIndexes():
                self._build = effect.build
                self._has_chores.set()
            case ev.Notice():
                self.log.info(effect.event, **effect.facts)

    def find_applier(self, peer: InstanceId) -> Applier | None:
        return next((a for a in self.appliers.values() if a.peer_id == peer), None)

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
        raft, limbo = core.raft, core.limbo
        election = (raft.leader, raft.role, raft.volatile_term, limbo.owner_id, limbo.term, limbo.state)
        if election != self._election:
            self._election = election
            self._note_writable()
            self._wake_watchers()
        elif self._watchers:
            self._stepped.set()

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

    def disk_failed(self, error: SynchroError) -> None:
        self._fail(error)

    async def _watch_disk(self) -> None:
        """[answers 2]: a disk that does not answer for one death timeout."""
        while True:
            death = self.settings.death_timeout_s
            await trio.sleep(death / 4)
            busy_since = self.wal.busy_since
            if busy_since is None:
                self._is_wal_stuck = False
            elif not self._is_wal_stuck and trio.current_time() - busy_since > death:
                self._is_wal_stuck = True
                self.log.error("wal_stuck", duration_s=death)
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
        return self.core.has_applied(vclock)

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
        if self._core is None:
            return None
        core = self._core
        known = core.limbo.owner_id or core.raft.leader
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
        for applier in self.appliers.values():
            if instance in (applier.address.name, str(applier.peer_id)):
                if not applier.is_following:
                    applier.restart()
                return
        raise IllegalParams(f"there is no upstream {instance!r}; nothing was changed")
