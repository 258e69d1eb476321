"""What the services ask of one running instance, and what people are told of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import trio

from synchro.config import BootstrapStrategy, ElectionMode
from synchro.errors import BootstrapRefused, ConfigError, DiskFailed, RebootstrapRefused, TimedOut
from synchro.ids import NOBODY, InstanceId, RequestId, Term
from synchro.instance.core import Instance
from synchro.instance.events import Outcome, ReadBarrierRequested, ReadReady, WaitRequested
from synchro.instance.outlook import Obstacle, PromoteOutlook
from synchro.instance.writability import read_only_error, read_only_reason, stopping_error
from synchro.replication.rejoin import Standing, why_not
from synchro.ro_reason import RoReason
from synchro.row import TxnId
from synchro.secret import Secret
from synchro.server import info
from synchro.server.api import (
    Configuration,
    HeaderFacts,
    LeaderFacts,
    QueueEntryFacts,
    Undecided,
    WatchFacts,
)
from synchro.server.credentials import CredentialsKeeper
from synchro.server.links import Links
from synchro.server.node import STOPPING, Node
from synchro.server.owner_reads import OwnerReads
from synchro.server.reminders import AGAIN_S
from synchro.server.snapshotter import Snapshotter
from synchro.server.user_changes import UserChanges
from synchro.storage.users import Users
from synchro.vclock import Vclock

TOLD_STAGES: Final = ("bootstrap", "join")
"""Of a start, in which what it waits for is told as it changes."""
VERSION_BITS: Final = 16
"""Of `schema_version` in a header: what one life of an instance counts."""
WATCH_INTERVAL_S: Final = 0.05
"""How often watchers look at what changes with every write, such as the length of the queue."""


class Face:
    """`api.NodeApi` of one node, and its `node.Observer`."""

    def __init__(self, node: Node, links: Links) -> None:
        self.node = node
        self.links = links
        self.snapshotter = Snapshotter(node, links)
        calls = node.calls
        self.submit = calls.submit
        self.new_call_id = calls.new_id
        self.submit_writes = calls.submit_writes
        self.submit_puts = calls.submit_puts
        self.abandon = calls.abandon
        self.call = calls.call
        self.ensure_ready = node.ensure_ready
        self.restart_upstream = links.restart_upstream
        self.owner_reads = OwnerReads(node, self.address_of)
        self.open_transactions = node.open_transactions
        self.user_changes = UserChanges()
        self.credentials = CredentialsKeeper(node, self.user_changes, self.quorum_without)
        self._progress = info.Progress()
        self._watchers = 0
        self._changed = trio.Event()
        self._stepped = trio.Event()
        self._header: HeaderFacts | None = None
        self._first_version = int(node.clock.now() * 1000) << VERSION_BITS
        """Above what a former life of this instance said: its catalog counts anew."""
        self._election: tuple[object, ...] = ()
        self._was_writable: bool | None = None
        self._txn_watches: dict[object, trio.Event] = {}
        """Who watches a transaction, and what wakes it."""
        self._amnesia_noted: dict[str, Any] | None = None

    @property
    def instance(self) -> Instance:
        """Raises `Loading`."""
        return self.node.core

    @property
    def users(self) -> Users:
        return self.node.users

    def password_while_loading(self, name: str) -> Secret | None:
        credentials = self.node.settings.credentials
        return None if self.node.has_core or credentials is None else credentials.password_of(name)

    @property
    def configuration(self) -> Configuration:
        if self.node.configuration is None:
            raise ConfigError(
                "This instance runs inside a program, which sets its options; nothing was changed"
            )
        return self.node.configuration

    # ------------------------------------------------------------------------------------- from the node

    def rows_written(self, vclock: Vclock) -> None:
        self._progress.note(vclock, trio.current_time())

    def stage_changed(self) -> None:
        self._wake_watchers()

    def stepped(self) -> None:
        core = self.node.core
        if core.has_amnesia or self._amnesia_noted:
            self._note_amnesia()
        raft, limbo = core.raft, core.limbo
        election = (
            *(raft.leader, raft.is_leader_seen, raft.role, raft.volatile_term),
            *(limbo.owner_id, limbo.term, limbo.state, core.state.is_expelled, core.state.orphan_of),
            *(core.settings.election_mode, core.settings.read_only, raft.trusted, core.state.is_doubled),
        )
        if election != self._election:
            self._election = election
            self._note_writable()
            self._wake_watchers()
        elif self._watchers:
            self._stepped.set()

    def _note_amnesia(self) -> None:
        """Whom it must hear, for the log and for people; again when that changes."""
        facts = info.amnesia(self.node, self.links)
        waiting = self.node.waiting
        if self.node.core.acks_count:
            waiting.amnesia_since = None
        elif waiting.amnesia_since is None:
            waiting.amnesia_since = trio.current_time()
        if facts != self._amnesia_noted:
            self._amnesia_noted = facts
            if facts is not None:
                self.node.log.warning("amnesia", **facts)

    def _note_writable(self) -> None:
        """[E-45]"""
        reason = self.node.core.read_only_reason()
        is_writable = reason is RoReason.NONE
        if is_writable != self._was_writable:
            self._was_writable = is_writable
            self._header = None
            event = "became_writable" if is_writable else "became_read_only"
            self.node.log.info(event, ro_reason=reason.value or None)

    def note(self, event: str, **facts: object) -> None:
        """See `api.NodeApi`."""
        self.node.log.info(event, **facts)

    # ------------------------------------------------------------------------------------------- reading

    async def wait_applied(self, vclock: Vclock, *, timeout_s: float, is_decided: bool = True) -> bool:
        """See `Instance.has_applied`; False: not in time. Raises `Loading` when the instance stops."""
        is_applied = await self.node.calls.wait_applied(
            self.node.core, vclock, timeout_s=timeout_s, is_decided=is_decided
        )
        if not is_applied and self.node.stage == STOPPING:
            raise self.node.loading()
        return is_applied

    def writable_term(self) -> Term:
        """See `api.NodeApi`."""
        self.ensure_ready()
        state = self.node.core.state
        if state.stop.is_begun:
            raise stopping_error()
        reason = read_only_reason(state)
        if reason is not RoReason.NONE:
            raise read_only_error(state, reason)
        return state.limbo.term

    def header(self) -> HeaderFacts:
        core, old = self.node.core, self._header
        position, version = core.decided_position, self._first_version + core.memtx.catalog.schema_version
        if (
            old is not None
            and old.vclock is core.vclock
            and old.term == core.raft.term
            and old.decided_position == position
            and old.schema_version == version
        ):
            return old
        self._header = HeaderFacts(
            replicaset_uuid=self.node.replicaset_uuid,
            instance_id=core.number,
            instance_name=self.node.settings.instance_name,
            term=core.raft.term,
            vclock=core.vclock,
            decided_position=position,
            schema_version=version,
            is_writable=bool(self._was_writable),
        )
        return self._header

    def address_of(self, instance: InstanceId) -> str:
        name = self.node.core.state.name_of(instance)
        known = next((p.address for p in self.node.settings.peers if p.name == name), "")
        down = self.links.downstreams.get(instance)
        return known or (down.address if down is not None else "")

    def leader(self) -> LeaderFacts | None:
        """Where to write: only somebody who is alive. An owner that leads no more may be dead, or frozen."""
        if not self.node.has_core:
            return None
        core = self.node.core
        raft = core.raft
        if raft.is_leader_seen:
            known = raft.leader
        elif core.is_anonymous:  # it has no part in elections, but follows who owns the queue
            known = core.limbo.owner_id if core.limbo.owner_id in self.links.following else NOBODY
        else:  # perhaps it is out of reach from here only
            known = core.limbo.owner_id if raft.is_leader_seen_by_peers else NOBODY
        if known == NOBODY or (known == core.self_id and not core.is_writable):
            return None
        return LeaderFacts(
            known, core.state.name_of(known) or "", self.address_of(known), core.raft.volatile_term
        )

    def info(self) -> dict[str, Any]:
        return info.box_info(self.node, self.links, self._progress, self.snapshotter)

    async def remind(self) -> None:
        """Say again and again for what this instance waits. Until cancelled."""
        while True:
            await trio.sleep(AGAIN_S)
            facts = info.waiting(self.node, self.links)
            if facts is None or self.node.stage in TOLD_STAGES:
                continue
            again = "" if facts["next"] is None else f"; will retry in {facts['next']:.1f} second"
            self.node.log.warning(
                "still_waiting", message=f"{facts['for']}{again}", waited_s=round(facts["since"])
            )

    def queue_entries(self) -> Sequence[QueueEntryFacts]:
        return info.queue_entries(self.node.core, trio.current_time(), self.links.downstreams)

    def watch_facts(self) -> WatchFacts:
        reason = self.node.ro_reason
        if not self.node.has_core:
            return WatchFacts(None, Term(0), False, reason, NOBODY, 0, can_read=False, sees_quorum=False)
        core = self.node.core
        return WatchFacts(
            leader=self.leader(),
            term=core.raft.term,
            is_writable=reason is RoReason.NONE,
            ro_reason=reason,
            queue_owner=core.limbo.owner_id,
            queue_len=core.limbo.count,
            election_state=core.raft.role.name.lower(),
            queue_term=core.limbo.term,
            can_read=self.node.is_ready,
            sees_quorum=self.links.connected >= min(core.limbo.quorum, len(core.registered)),
        )

    async def watch(self) -> AsyncIterator[WatchFacts]:
        """How it is now, and the newest state after each change [E-50], [E-51]."""
        last: WatchFacts | None = None
        self._watchers += 1
        try:
            while True:
                facts = self.watch_facts()
                if facts != last:
                    last = facts
                    yield facts
                elif self.node.stopped.is_set():
                    return
                else:
                    await self._changed.wait()
        finally:
            self._watchers -= 1

    @property
    def owns_queue(self) -> bool:
        return self.node.core.owns_queue

    async def read_barrier(self, *, timeout_s: float) -> Outcome:
        """[Q-60], [Q-63]"""
        core = self.node.core
        if core.owns_queue or core.limbo.owner_id in (NOBODY, core.self_id) or not self.node.is_ready:
            return await self.call(ReadBarrierRequested, timeout_s=timeout_s)
        await self.owner_reads.wait(timeout_s)
        return ReadReady()

    async def watch_transaction(
        self, txn: TxnId | None, request_id: RequestId | None, *, timeout_s: float
    ) -> AsyncIterator[Undecided | Outcome]:
        """See `api.NodeApi`."""
        outcome: Outcome | None = None
        last: Undecided | None = None
        key = object()

        def on_outcome(told: Outcome) -> None:
            nonlocal outcome
            outcome = told
            if (wake := self._txn_watches.get(key)) is not None:
                wake.set()

        self.ensure_ready()
        call_id = self.submit(
            lambda call_id: WaitRequested(call_id, txn, request_id), on_outcome, timeout_s=timeout_s
        )
        self._watchers += 1
        try:
            while outcome is None:
                wake = self._txn_watches[key] = trio.Event()
                facts = info.undecided(self.node.core, txn, request_id)
                if facts is not None and facts != last:
                    last = facts
                    yield facts
                else:
                    await wake.wait()
            yield outcome
        finally:
            self._watchers -= 1
            self._txn_watches.pop(key, None)
            self.abandon(call_id)

    async def run_watchers(self) -> None:
        """Elections are told at once, lesser changes not with every step: they are a part of each write.
        Until cancelled."""
        while True:
            await self._stepped.wait()
            self._stepped = trio.Event()
            self._wake_watchers()
            await trio.sleep(WATCH_INTERVAL_S)

    def _wake_watchers(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        for wake in self._txn_watches.values():
            wake.set()

    def quorum_without(self, users: Users, user: str = "") -> Sequence[str]:
        """See `api.NodeApi`."""
        core, links = self.node.core, self.links
        if core.self_id not in (core.limbo.owner_id, core.raft.leader):
            return ()
        lost = links.cut_off_by(users, user)
        return lost if links.connected - len(lost) < core.limbo.quorum else ()

    async def replica_gc(self, instance: str) -> int:
        """[W-44]"""
        self.ensure_ready()
        self.links.release(instance)
        before = len(self.node.wal.files)
        await self.snapshotter.collect_garbage()
        return max(0, before - len(self.node.wal.files))

    def rebootstrap(self, *, discard: bool) -> None:
        """See `api.NodeApi`."""
        core = self.node.core
        has_queue = core.limbo.owner_id != NOBODY or core.settings.election_mode is not ElectionMode.OFF
        standing = Standing(
            is_owner=self.node.is_in_charge,
            is_lossy=discard,
            holders=self.links.holders_of(core.vclock.without_local()),
            others=self.links.connected - 1,
            quorum=core.limbo.quorum if has_queue and self.links.is_counted else 0,
        )
        if (refusal := why_not(standing)) is not None:
            why, following = refusal
            raise RebootstrapRefused(f"{why}; nothing was done. Next: {following}", next=following)
        self.node.join_again(is_lossy=discard)

    def promote_outlook(self) -> PromoteOutlook:
        """[P-16]"""
        self.ensure_ready()
        outlook = self.node.core.promote_outlook(self.links.said())
        split = [
            Obstacle(error.reason, f"the stream from {name} is stopped: {error.message}")
            for name, error in self.links.split_brains().items()
        ]
        return outlook if outlook.is_owner else outlook._replace(obstacles=(*outlook.obstacles, *split))

    async def bootstrap(self, timeout_s: float) -> str:
        """[M-17]"""
        if (why := self._why_no_bootstrap()) is not None:
            raise BootstrapRefused(f"{why}; nothing was made")
        return await self.node.bootstrap_order.carry_out(timeout_s)

    def _why_no_bootstrap(self) -> str | None:
        node = self.node
        settings, former = node.settings, node.directory.identity.replicaset_uuid
        if node.has_core or node.stage not in ("bootstrap", "join"):
            return f"this instance has data, of replica set {node.replicaset_uuid}"
        if former is not None:
            return (
                f"this instance is of replica set {former}, whose data it has lost: it joins that one again. "
                f"Next: start a member that has it, or {settings.again_with('--new-set')}"
            )
        if settings.bootstrap_strategy is not BootstrapStrategy.SUPERVISED:
            strategy = settings.bootstrap_strategy.value
            return f"bootstrap_strategy is {strategy}, so it waits for nobody's word: {node.waits_for}"
        if settings.is_anonymous:
            return "an anonymous instance (replication.anon: true) makes no replica set"
        if settings.election_mode is ElectionMode.VOTER:
            return "this instance may only vote (election_mode: voter), so it could not register the others"
        return "this instance is joining a replica set" if node.stage == "join" else None

    async def sync_wal(self, timeout_s: float) -> Vclock:
        """[W-48]"""
        self.ensure_ready()
        try:
            with trio.move_on_after(timeout_s):
                return await self.node.wal.sync()
        except DiskFailed as error:
            self.node.disk_failed(error)  # [L-30]
            raise
        raise TimedOut(
            f"the disk did not answer within {timeout_s:g} s ({self.node.settings.wal_dir}): what was "
            "written before may be on it or not",
            directory=self.node.settings.wal_dir,
        )

    async def checkpoint(self) -> Vclock:
        self.ensure_ready()
        return await self.snapshotter.checkpoint()
