"""One instance of a replica set, without I/O: facts go in, effects come out.

`step` routes every event to raft, limbo, memtx and the replication filters, turns their answers into
effects, assigns LSNs, and keeps the order of what is on its way to disk. It holds no rule of the protocol:
those live in the parts. See docs/architecture.md for the flows.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import assert_never

from synchro import instance_events as ev
from synchro.config import ElectionMode, Settings
from synchro.errors import (
    IllegalParams,
    InAnotherPromote,
    InterferingElections,
    LinearizableQuorum,
    NotLeader,
    OldTerm,
    QuorumWait,
    ReadOnly,
    ReplicaMax,
    RequestExpired,
    SynchroError,
    SyncQueueForeign,
    SyncQueueFull,
    SyncQueueUnclaimed,
    SyncRollback,
    SyncTimeout,
    TimedOut,
    TransactionConflict,
    TupleFound,
)
from synchro.ids import INITIAL_TERM, INSTANCE_ID_MAX, LOCAL, NOBODY, CallId, InstanceId, Lsn, Term
from synchro.instance_calls import (
    READ_CALL,
    Call,
    ControlWrite,
    HardStateWrite,
    InFlight,
    NopWrite,
    PendingTxn,
    Phase,
    ReadCall,
    TransferCall,
)
from synchro.queue.effects import EntriesCommitted, EntriesRolledBack, LimboEffect, OwnerChanged, WriteControl
from synchro.queue.entry import LimboEntry
from synchro.queue.fates import Drops, DropsState, LsnRange, TxnFate, fate_by_lsn
from synchro.queue.limbo import DataVerdict, Limbo, LimboState, QueueState
from synchro.queue.request_table import RequestRecord, RequestTable, RequestTableState
from synchro.raft import messages as raft_ev
from synchro.raft.core import Raft
from synchro.raft.messages import Membership, RaftSettings
from synchro.replication import applier_filter
from synchro.replication.read_barrier import ReadBarrier
from synchro.replication.trust import Trust
from synchro.row import (
    FLAG_COMMIT,
    FLAG_REQUEST_ID,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    GROUP_DEFAULT,
    GROUP_LOCAL,
    Confirm,
    Control,
    Demote,
    Dml,
    Promote,
    RaftState,
    Rollback,
    Row,
    RowType,
    Tuple,
    Txn,
    TxnId,
)
from synchro.storage import schema, xrow
from synchro.storage.memtx import Memtx, PendingRefusal, Prepared
from synchro.storage.snapshot import DroppedRange, RememberedRequest, SnapshotMeta
from synchro.vclock import EMPTY_VCLOCK, Vclock

_CONTROL_ROW_TYPE: dict[type[Control], RowType] = {
    Confirm: RowType.CONFIRM,
    Rollback: RowType.ROLLBACK,
    Promote: RowType.PROMOTE,
    Demote: RowType.DEMOTE,
}


class Instance:
    """The state of one instance, and the only way to change it.

    I1  `_in_flight` holds what is between `WriteRows` and `RowsWritten`, in WAL order.
    I2  `vclock` (synced) <= `_assigned` (synced or in flight), and they are equal when nothing is in flight.
    I3  While a barrier is in flight or a DDL transaction is undecided, no received data row is prepared.
    I4  A `Reply` is sent once for every call, and an LSN leaves the instance only after `RowsWritten`.
    I5  While a DDL transaction is undecided it is the only prepared transaction.
    """

    def __init__(
        self,
        *,
        self_id: InstanceId,
        settings: Settings,
        memtx: Memtx,
        limbo: Limbo,
        raft: Raft,
        vclock: Vclock,
        requests: RequestTable,
        drops: Drops,
        trust: Trust,
    ) -> None:
        self.self_id = self_id
        self.settings = settings
        self.memtx = memtx
        self.limbo = limbo
        self.raft = raft
        self.vclock = vclock
        """Written and synced rows, component 0 included."""
        self.requests = requests
        self.drops = drops
        self.trust = trust
        self.read_barrier = ReadBarrier()

        self._assigned: dict[InstanceId, Lsn] = vclock.as_dict()
        self._in_flight: deque[InFlight] = deque()
        self._writes: list[Txn] = []
        self._writes_have_control = False
        self._effects: list[ev.Effect] = []
        self._undecided = 0
        self._barriers = 0
        self._ddl: PendingTxn | None = None
        self._membership_change: PendingTxn | None = None
        self._register_calls: dict[CallId, InstanceId] = {}
        self._waiting: deque[ev.ClientWrite] = deque()
        self._backlog: deque[tuple[InstanceId, Txn]] = deque()
        self._stopped_sources: set[InstanceId] = set()
        self._calls: dict[CallId, Call] = {}
        self._transfer: TransferCall | None = None
        self._hard_state_term_sent = raft.term
        self._relays: set[InstanceId] = set()
        self._appliers: set[InstanceId] = set()
        self._last_cut_at: float | None = None
        self._decided = ev.Position(limbo.term, limbo.confirmed_lsn)
        self._progressed = False

    # --- life

    @classmethod
    def recover(
        cls,
        *,
        uuid: str,
        settings: Settings,
        meta: SnapshotMeta,
        spaces: Iterable[tuple[int, Iterable[Tuple]]],
        txns: Iterable[Txn],
        rng: random.Random,
        trusted: bool,
        now: float,
    ) -> Instance:
        """State = snapshot + WAL rows after it, in order [W-20], [W-26], [Q-70].

        uuid: this instance, looked up in `_cluster`. Raises SynchroError if it is not a member there or
        if a row cannot be applied. The result is a follower that does not act before `start`.
        """
        memtx = Memtx(settings.limits)
        memtx.begin_bulk()
        for space_id, tuples in spaces:
            memtx.load(space_id, tuples)
        members = memtx.members()
        self_id = next((i for i, (member, _) in members.items() if member == uuid), None)
        if self_id is None:
            raise IllegalParams(f"instance {uuid} is not in _cluster of its snapshot; nothing was started")
        limbo = Limbo(
            self_id=self_id,
            registered=frozenset(members),
            quorum=settings.synchro_quorum.quorum(len(members)),
            max_size=settings.synchro_queue_max_size,
        )
        limbo.restore(
            LimboState(
                owner=meta.queue_owner,
                term=max(meta.queue_term, INITIAL_TERM),
                confirmed_lsn=meta.confirmed_lsn,
                confirmed_vclock=meta.confirmed_vclock.as_dict(),
                promote_terms=dict(meta.promote_terms),
            )
        )
        requests, drops = _remembered(meta, settings)
        raft_settings = _raft_settings(settings)
        raft = Raft(
            self_id=self_id,
            term=meta.term,
            vote=meta.vote,
            vclock=meta.vclock,
            membership=Membership(frozenset(members), limbo.quorum),
            settings=raft_settings,
            rng=rng,
            trusted=trusted,
        )
        self = cls(
            self_id=self_id,
            settings=settings,
            memtx=memtx,
            limbo=limbo,
            raft=raft,
            vclock=meta.vclock,
            requests=requests,
            drops=drops,
            trust=Trust(trusted),
        )
        hard_state = RaftState(meta.term, meta.vote)
        for txn in txns:
            hard_state = self._replay(txn, hard_state, now)
        self.vclock = Vclock(self._assigned)
        memtx.end_bulk()
        self._carry_out(limbo.written(self.vclock, now), now)
        self._carry_out(limbo.recovery_finished(now), now)
        self.raft = Raft(
            self_id=self_id,
            term=hard_state.term,
            vote=hard_state.vote,
            vclock=self.vclock,
            membership=self._election_membership(),
            settings=raft_settings,
            rng=rng,
            trusted=trusted,
        )
        self._hard_state_term_sent = hard_state.term
        self._refresh_membership(now)
        self._effects.clear()
        return self

    def _replay(self, txn: Txn, hard_state: RaftState, now: float) -> RaftState:
        """Apply one recovered transaction; validation, limits and replies are off [Q-70]."""
        for instance, lsn in txn.components():
            self._assigned[instance] = lsn
        first = txn.rows[0].body
        if isinstance(first, RaftState):
            return first
        control = txn.control
        if control is not None:
            if isinstance(control, Promote | Demote) and control.term > hard_state.term:
                hard_state = RaftState(control.term, NOBODY)
            self._carry_out(self.limbo.control_written(txn.origin, txn.lsn, control, now), now)
        elif txn.is_nop:
            self._note_nops(txn)
        else:
            pending = self._prepare_received(txn, now)
            if pending.entry is None:
                self._commit(pending, self.limbo.term, now)
        return hard_state

    def start(self, now: float) -> list[ev.Effect]:
        """Recovery or join is over and the shell is ready: elections may begin [E-5]."""
        self._step_raft(raft_ev.RaftStarted(), now)
        return self._take_effects(now)

    # --- step

    def step(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Apply one fact; return what the shell must do, in order. Never blocks. `now`: monotonic seconds."""
        match event:
            case ev.ClientWrites():
                self._on_client_writes(event, now)
            case ev.RowsWritten():
                self._on_rows_written(event, now)
            case ev.TxnsReceived():
                self._on_txns_received(event, now)
            case ev.AckReceived():
                self._on_ack(event.source, event.ack, now)
            case ev.HeartbeatReceived():
                self._on_heartbeat(event, now)
            case ev.FrameTermSeen():
                self._see_term(event.term, now)
            case ev.PeerRaftReceived():
                self._step_raft(raft_ev.RaftMessageReceived(event.source, event.message), now)
            case ev.DeadlineReached():
                self._step_raft(raft_ev.DeadlineReached(), now)
            case ev.CallExpired():
                self._on_call_expired(event.call_id, now)
            case ev.RequestAbandoned():
                self._on_abandoned(event.call_id)
            case ev.WaitRequested():
                self._on_wait_requested(event)
            case ev.ReadBarrierRequested():
                self._on_read_requested(event)
            case ev.PromoteRequested():
                self._on_promote_requested(event, now)
            case ev.DemoteRequested():
                self._on_demote_requested(event, now)
            case ev.RegisterRequested():
                self._on_register_requested(event, now)
            case ev.RelayConnected():
                self._on_relay_connected(event, now)
            case ev.RelayLost():
                self._relays.discard(event.peer)
                self._health_changed(now)
            case ev.ApplierFollowing():
                self._on_applier_following(event, now)
            case ev.ApplierLost():
                self._on_applier_lost(event.peer, now)
            case ev.RowsCutBack():
                self._on_rows_cut_back(event, now)
            case ev.WalStuck():
                self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
            case ev.SettingsChanged():
                self._on_settings_changed(event.settings, now)
            case _:
                assert_never(event)
        return self._take_effects(now)

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which the shell must step `DeadlineReached`; None = no timer."""
        return self.raft.deadline

    def _take_effects(self, now: float) -> list[ev.Effect]:
        while self._progressed:
            self._progressed = False
            self._drain_backlog(now)
            self._drain_waiting(now)
        self._flush_writes()
        effects, self._effects = self._effects, []
        return effects

    # --- what others may look at

    @property
    def volatile_vclock(self) -> Vclock:
        """Rows that have an LSN, synced or on their way."""
        return Vclock(self._assigned)

    @property
    def acks_count(self) -> bool:
        """False while the own log is not to be trusted: acks carry `counts=False` (S14)."""
        return self.trust.is_trusted

    @property
    def registered(self) -> frozenset[InstanceId]:
        """Members whose `_cluster` row is committed [M-51]."""
        return frozenset(self.memtx.members())

    @property
    def is_writable(self) -> bool:
        return self.read_only_reason() is None

    @property
    def waiting_unprepared(self) -> int:
        """Requests that wait for room in the limbo or for a DDL barrier (VOLATILE in the field's words)."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        return self.limbo.is_busy

    @property
    def decided_position(self) -> ev.Position:
        """Newest decided transaction known here."""
        return self._decided

    def read_only_reason(self) -> str | None:
        """First match of [E-42], None when writable [E-40]."""
        if (
            self.limbo.state is QueueState.REPLICA
            or self.raft.volatile_term > self.limbo.term
            or (self.settings.election_mode is not ElectionMode.OFF and not self.raft.is_leader)
        ):
            return "synchro"
        if self.settings.read_only:
            return "config"
        return None

    def member_name(self, instance: InstanceId) -> str:
        member = self.memtx.members().get(instance)
        return (member[1] or member[0]) if member is not None else ""

    def read_only_error(self, reason: str) -> ReadOnly:
        """[E-44]"""
        if reason == "config":
            return ReadOnly(
                "Can't modify data on a read-only instance - box.cfg.read_only is true; nothing was written",
                ro_reason=reason,
                term=self.raft.volatile_term,
                owner=self.limbo.owner_id,
            )
        raft, limbo = self.raft, self.limbo
        text = f"state is election {raft.role.name.lower()} with term {raft.volatile_term}"
        if raft.leader != NOBODY:
            text += f", leader is {raft.leader} ({self.member_name(raft.leader)})"
        text += f", synchro queue with term {limbo.term} belongs to {limbo.owner_id}"
        if limbo.owner_id != NOBODY:
            text += f" ({self.member_name(limbo.owner_id)})"
        if limbo.owner_id == self.self_id:
            text += " and is frozen until promotion"
        return ReadOnly(
            f"Can't modify data on a read-only instance - {text}; nothing was written",
            ro_reason=reason,
            term=raft.volatile_term,
            owner=limbo.owner_id,
            leader=raft.leader or None,
        )

    def snapshot_view(self) -> tuple[SnapshotMeta, list[tuple[int, list[Tuple]]]]:
        """Committed prefix: tuples, vclock, queue, elections, requests, all of this very instant (ADR 4).

        The vclock is lowered to just before what is pending, so that recovery or a joiner replays those
        rows from the WAL and has them in its queue again.
        """
        vclock = self.vclock
        for entry in self.limbo.entries:
            pending = entry.payload
            assert isinstance(pending, PendingTxn)
            for row in pending.txn.rows:
                if row.lsn <= vclock.get(row.replica_id):
                    vclock = vclock.replace(row.replica_id, Lsn(row.lsn - 1))
        state = self.limbo.snapshot_state()
        for promote in state.pending_promotes:
            if promote.lsn <= vclock.get(promote.origin):
                vclock = vclock.replace(promote.origin, Lsn(promote.lsn - 1))
        requests, drops = self.requests.export(), self.drops.export()
        meta = SnapshotMeta(
            vclock=vclock,
            replicaset_uuid=self.memtx.replicaset_uuid() or "",
            term=self.raft.term,
            vote=self.raft.vote,
            queue_owner=state.owner,
            queue_term=state.term,
            confirmed_lsn=state.confirmed_lsn,
            confirmed_vclock=Vclock(state.confirmed_vclock),
            promote_terms=tuple(sorted(state.promote_terms.items())),
            requests=[
                RememberedRequest(request_id, record.origin, record.lsn, record.term)
                for request_id, record in requests.decided
                if record.term is not None
            ],
            drops=[DroppedRange(origin, r.first, r.last) for origin, r in drops.ranges],
            extra={
                "requests_forgotten": (requests.forgotten_term, requests.forgotten_lsn),
                "drops_forgotten": drops.forgotten,
            },
        )
        return meta, self.memtx.freeze()

    # --- client writes

    def _on_client_writes(self, event: ev.ClientWrites, now: float) -> None:
        for write in event.writes:
            if self._waiting or self._must_wait(write.ops):
                self._wait_for_room(write)
            else:
                self._begin(write, now)

    def _must_wait(self, ops: Sequence[Dml]) -> bool:
        """Room in the limbo (ADR 3), or the DDL barrier: DDL is prepared alone, nothing behind it (I5)."""
        return (
            self._ddl is not None
            or self.limbo.is_full
            or (self._undecided > 0 and any(schema.is_ddl_space(op.space_id) for op in ops))
        )

    def _wait_for_room(self, write: ev.ClientWrite) -> None:
        if write.wait is ev.WaitMode.NONE or len(self._waiting) >= self.settings.limits.waiting_calls_max:
            error = SyncQueueFull(
                "The synchronous transaction queue is full; nothing was written",
                size=self.limbo.size,
                limit=self.settings.synchro_queue_max_size,
                waiting=len(self._waiting),
            )
            self._reply(write.call_id, ev.Rejected(error))
            return
        self._waiting.append(write)
        self._calls[write.call_id] = write

    def _drain_waiting(self, now: float) -> None:
        waiting = self._waiting
        while waiting and (not self._must_wait(waiting[0].ops) or self._is_refused(waiting[0])):
            write = waiting.popleft()
            del self._calls[write.call_id]
            self._begin(write, now)

    def _is_refused(self, write: ev.ClientWrite) -> bool:
        """Leadership is gone: who waits unprepared need not wait for room to hear it."""
        try:
            self._check_may_write(write)
        except SynchroError:
            return True
        return False

    def _begin(self, write: ev.ClientWrite, now: float) -> None:
        """Prepare one transaction and put it on its way; every refusal leaves no trace."""
        try:
            self._begin_or_raise(write, now)
        except SynchroError as error:
            self._reply(write.call_id, ev.Rejected(error))
        except PendingRefusal as refusal:
            self._hold_refusal(write, refusal)

    def _begin_or_raise(self, write: ev.ClientWrite, now: float) -> None:
        if write.request_id is not None and self._answer_retry(write):
            return
        self._check_may_write(write)
        prepared = self.memtx.prepare(write.ops)
        if not prepared.ops:
            self.memtx.commit(prepared)
            self._reply(write.call_id, ev.Committed(None, prepared.results))
            return
        try:
            pending = self._send(write, prepared, now)
        except SynchroError:
            self.memtx.rollback(prepared)
            raise
        self._answer_later(write, pending)

    def _check_may_write(self, write: ev.ClientWrite) -> None:
        if write.expected_term is not None and write.expected_term != self.limbo.term:
            raise OldTerm(
                f"The term is outdated: old - {write.expected_term}, new - {self.limbo.term}; "
                "nothing was written",
                expected=write.expected_term,
                term=self.limbo.term,
            )
        reason = self.read_only_reason()
        if reason is not None and not all(self._is_never_read_only(op) for op in write.ops):
            raise self.read_only_error(reason)

    def _is_never_read_only(self, op: Dml) -> bool:
        """Local and temporary data, and the definitions of temporary spaces [D-4], [L-22]."""
        if schema.is_ddl_space(op.space_id):
            named = op.value or op.key or (0,)
            return isinstance(named[0], int) and named[0] >= schema.TEMPORARY_ID_MIN
        space = self.memtx.space(op.space_id)
        return space.is_local or space.is_temporary

    def _send(self, write: ev.ClientWrite, prepared: Prepared, now: float) -> PendingTxn:
        """Give LSNs to a prepared transaction, queue it if it must wait for a quorum, write it."""
        limbo = self.limbo
        is_local = all(prepared.local)
        is_sync = not is_local and (
            prepared.is_sync or (prepared.touches_system and limbo.owner_id != NOBODY)  # ADR 6, [D-24]
        )
        if is_sync:
            limbo.check_submit(is_fully_local=False)
            if write.call_id not in self._register_calls:
                self._check_enough_members()
        in_queue = is_sync or limbo.must_wait()
        flags = FLAG_COMMIT
        if is_sync:
            flags |= FLAG_WAIT_SYNC | FLAG_WAIT_ACK
        elif in_queue:
            flags |= FLAG_WAIT_SYNC
        if write.request_id is not None:
            flags |= FLAG_REQUEST_ID
        txn = self._make_txn(prepared, flags, write)
        pending = PendingTxn(txn, prepared, is_sync=is_sync)
        self._enter(pending, in_queue=in_queue, now=now)
        self._in_flight.append(pending)
        self._writes.append(txn)
        return pending

    def _check_enough_members(self) -> None:
        """A synchronous write that can never have its quorum would block the registration that frees it."""
        registered = len(self.memtx.members())
        needed = self.settings.synchro_quorum.quorum(registered)
        if registered < needed:
            raise QuorumWait(
                f"Couldn't wait for quorum {needed}: only {registered} instances are registered; "
                "nothing was written",
                needed=needed,
                registered=registered,
            )

    def _make_txn(self, prepared: Prepared, flags: int, write: ev.ClientWrite) -> Txn:
        assigned = self._assigned
        local = prepared.local
        if len(prepared.ops) == 1 and not local[0]:
            lsn = Lsn(assigned.get(self.self_id, 0) + 1)
            assigned[self.self_id] = lsn
            op = prepared.ops[0]
            row = Row(op.type, self.self_id, lsn, lsn, flags, op, GROUP_DEFAULT, write.request_id)
            return xrow.encode_txn((row,))
        global_lsn = assigned.get(self.self_id, Lsn(0))
        local_lsn = assigned.get(LOCAL, Lsn(0))
        tsn = Lsn(local_lsn + 1 if all(local) else global_lsn + 1)
        last = len(prepared.ops) - 1
        rows = []
        for number, (op, is_local) in enumerate(zip(prepared.ops, local, strict=True)):
            is_last = number == last
            if is_local:
                local_lsn = Lsn(local_lsn + 1)
                origin, lsn, group = LOCAL, local_lsn, GROUP_LOCAL
            else:
                global_lsn = Lsn(global_lsn + 1)
                origin, lsn, group = self.self_id, global_lsn, GROUP_DEFAULT
            request_id = write.request_id if is_last else None
            rows.append(Row(op.type, origin, lsn, tsn, flags if is_last else 0, op, group, request_id))
        if global_lsn:
            assigned[self.self_id] = global_lsn
        if local_lsn:
            assigned[LOCAL] = local_lsn
        return xrow.encode_txn(rows)

    def _enter(self, pending: PendingTxn, *, in_queue: bool, now: float) -> None:
        """From here on the transaction is prepared and undecided: own, received and recovered ones alike."""
        txn, prepared = pending.txn, pending.prepared
        self._undecided += 1
        if prepared.is_ddl:
            pending.is_ddl = True
            self._ddl = pending
        if prepared.touches_system:
            pending.is_membership = schema.CLUSTER_ID in prepared.system
        if in_queue:
            pending.entry = self.limbo.submit(
                origin=txn.origin,
                lsn=txn.lsn,
                wait_ack=txn.is_wait_ack,
                size=prepared.size,
                payload=pending,
                now=now,
            )
        if txn.request_id is not None:
            self.requests.prepared(txn.request_id, txn.origin, txn.lsn)
        if pending.is_membership:
            self._refresh_membership(now)

    def _answer_later(self, write: ev.ClientWrite, pending: PendingTxn) -> None:
        match write.wait:
            case ev.WaitMode.COMPLETE:
                pending.calls.append(write.call_id)
                self._calls[write.call_id] = pending
            case ev.WaitMode.SUBMIT:
                pending.submit_calls = [write.call_id]
                self._calls[write.call_id] = pending
            case ev.WaitMode.NONE:
                self._reply(write.call_id, ev.Submitted(None, pending.is_sync))
            case _:
                assert_never(write.wait)

    def _answer_retry(self, write: ev.ClientWrite) -> bool:
        """A known request id has one effect: join the waiters, or say what it was. True if answered."""
        assert write.request_id is not None
        known = self.requests.find(write.request_id)
        if known is None:
            position = write.known_position
            if position is not None and self.requests.expired(
                known_term=position.term, known_lsn=position.lsn
            ):
                raise RequestExpired(
                    "the request id is older than what is remembered; outcome unknown, "
                    "nothing was executed now",
                    outcome="unknown",
                )
            return False
        txn_id = TxnId(known.origin, known.lsn)
        if known.is_decided:
            self._reply(write.call_id, ev.Committed(txn_id, duplicate=True))
            return True
        pending = self._find_pending(txn_id)
        assert pending is not None, txn_id
        self._answer_later(write, pending)
        return True

    def _hold_refusal(self, write: ev.ClientWrite, refusal: PendingRefusal) -> None:
        """The refusal rests on a tuple that nobody may see yet: answer when its fate is known (ADR 7)."""
        blocker = self._find_prepared(refusal.blocker)
        if write.wait is ev.WaitMode.NONE:
            self._reply(write.call_id, ev.Rejected(_conflict()))
            return
        if blocker.refusals is None:
            blocker.refusals = []
        blocker.refusals.append((write.call_id, refusal.error))
        self._calls[write.call_id] = blocker

    def _find_prepared(self, prepared: Prepared) -> PendingTxn:
        for pending in self._undecided_txns():
            if pending.prepared is prepared:
                return pending
        raise AssertionError("a refusal names a transaction that is not pending")

    def _find_pending(self, txn_id: TxnId) -> PendingTxn | None:
        for pending in self._undecided_txns():
            if pending.txn.lsn == txn_id.lsn and pending.txn.origin == txn_id.origin:
                return pending
        return None

    def _undecided_txns(self) -> Iterable[PendingTxn]:
        """Newest first: retries and refusals are about recent ones."""
        for item in reversed(self._in_flight):
            if isinstance(item, PendingTxn) and item.entry is None:
                yield item
        for entry in reversed(self.limbo.entries):
            assert isinstance(entry.payload, PendingTxn)
            yield entry.payload

    # --- what became of them

    def _on_rows_written(self, event: ev.RowsWritten, now: float) -> None:
        vclock = event.vclock
        assert vclock.covers(self.vclock, with_local=True)
        self.vclock = vclock
        self._progressed = True
        self._carry_out(self.limbo.written(vclock, now), now)
        in_flight = self._in_flight
        while in_flight and in_flight[0].txn.lsn <= vclock.get(in_flight[0].txn.origin):
            item = in_flight.popleft()
            match item:
                case PendingTxn():
                    if item.entry is None:
                        self._commit(item, self.limbo.term, now)
                    if item.submit_calls is not None:
                        self._answer_submitted(item)
                case ControlWrite():
                    self._barriers -= item.is_barrier
                    effects = self.limbo.control_written(item.txn.origin, item.txn.lsn, item.body, now)
                    self._carry_out(effects, now)
                case HardStateWrite(state=state):
                    self._step_raft(raft_ev.HardStatePersisted(state.term, state.vote, vclock), now)
                case NopWrite():
                    pass
                case _:
                    assert_never(item)
        self._step_raft(raft_ev.VclockGrew(vclock), now)
        self._check_trust(now)

    def _answer_submitted(self, pending: PendingTxn) -> None:
        for call_id in pending.submit_calls or ():
            self._reply(call_id, ev.Submitted(_txn_id(pending.txn), pending.is_sync))
        pending.submit_calls = None

    def _carry_out(self, effects: Sequence[LimboEffect], now: float) -> None:
        for effect in effects:
            match effect:
                case EntriesCommitted(entries=entries, term=term):
                    for entry in entries:
                        assert isinstance(entry.payload, PendingTxn)
                        self._commit(entry.payload, term, now)
                case EntriesRolledBack(entries=entries, by_term=by_term):
                    self._roll_back(entries, by_term, now)
                case WriteControl(body=body):
                    self._write_own_control(body)
                case OwnerChanged():
                    self._on_owner_changed(effect, now)
                case _:
                    assert_never(effect)

    def _commit(self, pending: PendingTxn, term: Term, now: float) -> None:
        """term: queue term of its segment, part of its position in the history."""
        txn = pending.txn
        self.memtx.commit(pending.prepared)
        if txn.request_id is not None:
            self.requests.committed(txn.request_id, txn.origin, txn.lsn, term=term)
        if txn.origin in (self.limbo.owner_id, self.self_id):
            self._decided = ev.Position(term, txn.lsn)
        if pending.calls:
            committed = ev.Committed(_txn_id(txn), pending.prepared.results, pending.is_sync)
            for call_id in pending.calls:
                new_id = self._register_calls.get(call_id)
                self._reply(call_id, committed if new_id is None else ev.Registered(new_id, self.vclock))
        for call_id, error in pending.refusals or ():
            self._reply(call_id, ev.Rejected(error))
        self._settle(pending, ev.Fate.COMMITTED, now)

    def _roll_back(self, entries: Sequence[LimboEntry], by_term: Term, now: float) -> None:
        """A decided PROMOTE dropped them, newest first [Q-51]; nobody else may say SYNC_ROLLBACK."""
        for entry in entries:
            pending = entry.payload
            assert isinstance(pending, PendingTxn)
            txn = pending.txn
            error = SyncRollback(
                f"transaction {_txn_id(txn)} was rolled back: the PROMOTE of term {by_term} did not hold it",
                outcome="rolled_back",
                by_term=by_term,
            )
            if not txn.is_local:
                self.drops.add(txn.origin, txn.rows[0].tsn, txn.lsn)
            self._undo(pending, error, now)

    def _undo(self, pending: PendingTxn, error: SynchroError, now: float) -> None:
        self.memtx.rollback(pending.prepared)
        if pending.txn.request_id is not None:
            self.requests.rolled_back(pending.txn.request_id, pending.txn.origin, pending.txn.lsn)
        for call_id in (*pending.calls, *(pending.submit_calls or ())):
            self._reply(call_id, ev.Rejected(error))
        for call_id, _ in pending.refusals or ():
            self._reply(call_id, ev.Rejected(_conflict()))
        self._settle(pending, ev.Fate.ROLLED_BACK, now)

    def _settle(self, pending: PendingTxn, fate: ev.Fate, now: float) -> None:
        self._undecided -= 1
        self._progressed = True
        for call_id in pending.waits or ():
            self._reply(call_id, ev.FateKnown(fate, _txn_id(pending.txn)))
        if self._ddl is pending:
            self._ddl = None
        if self._membership_change is pending:
            self._membership_change = None
        if pending.is_membership:
            self._refresh_membership(now)

    # --- calls in general

    def _reply(self, call_id: CallId, outcome: ev.Outcome) -> None:
        self._calls.pop(call_id, None)
        if self._register_calls:
            self._register_calls.pop(call_id, None)
        self._effects.append(ev.Reply(call_id, outcome))

    def _on_call_expired(self, call_id: CallId, now: float) -> None:
        call = self._calls.get(call_id)
        match call:
            case None:
                return
            case PendingTxn():
                self._expire_txn_call(call_id, call)
            case ev.ClientWrite():
                self._waiting.remove(call)
                error: SynchroError = SyncQueueFull(
                    "The synchronous transaction queue had no room in time; nothing was written",
                    size=self.limbo.size,
                    limit=self.settings.synchro_queue_max_size,
                )
                self._reply(call_id, ev.Rejected(error))
                self._progressed = True
            case TransferCall():
                self._transfer = None
                self._carry_out(self.limbo.cancel_demote(now) if call.is_demote else [], now)
                error = TimedOut(
                    f"{'demote' if call.is_demote else 'promote'} was not decided in time; it may still be: "
                    "see the queue owner",
                    term=self.raft.volatile_term,
                )
                self._reply(call_id, ev.Rejected(error))
            case ReadCall():
                self._drop_reader(call_id)
                self._reply(call_id, ev.Rejected(self._no_read_quorum()))
            case _:
                assert_never(call)

    def _expire_txn_call(self, call_id: CallId, pending: PendingTxn) -> None:
        refusal = next((r for r in pending.refusals or () if r[0] == call_id), None)
        if refusal is not None:
            self._detach(call_id, pending)
            self._reply(call_id, ev.Rejected(_conflict()))
            return
        if pending.waits and call_id in pending.waits:
            self._detach(call_id, pending)
            self._reply(call_id, ev.FateKnown(ev.Fate.PENDING, _txn_id(pending.txn)))
            return
        self._detach(call_id, pending)
        is_written = pending.txn.lsn <= self.vclock.get(pending.txn.origin)
        acked = self.limbo.holders(pending.txn.origin, pending.txn.lsn)
        missing = self.registered - acked
        name = f" for {_txn_id(pending.txn)}" if is_written else ""
        error = SyncTimeout(
            f"no quorum{name} in time ({len(acked)} of {self.limbo.quorum}); "
            "the transaction stays in the queue, outcome unknown",
            outcome="unknown",
            txn=_txn_id(pending.txn) if is_written else None,
            acked=",".join(map(str, sorted(acked))),
            needed=self.limbo.quorum,
            missing=",".join(map(str, sorted(missing))),
        )
        self._reply(call_id, ev.OutcomeUnknown(error, _txn_id(pending.txn) if is_written else None))

    @staticmethod
    def _detach(call_id: CallId, pending: PendingTxn) -> None:
        for calls in (pending.calls, pending.submit_calls, pending.waits):
            if calls and call_id in calls:
                calls.remove(call_id)
        if pending.refusals:
            pending.refusals = [r for r in pending.refusals if r[0] != call_id]

    def _on_abandoned(self, call_id: CallId) -> None:
        call = self._calls.pop(call_id, None)
        self._register_calls.pop(call_id, None)
        match call:
            case PendingTxn():
                self._detach(call_id, call)
            case ev.ClientWrite():
                self._waiting.remove(call)
                self._progressed = True
            case TransferCall():
                self._transfer = None
            case ReadCall():
                self._drop_reader(call_id)
            case None:
                pass
            case _:
                assert_never(call)

    def _on_wait_requested(self, event: ev.WaitRequested) -> None:
        txn_id = event.txn
        if txn_id is None:
            if event.request_id is None:
                raise AssertionError("the service checks that one of both is given")
            known = self.requests.find(event.request_id)
            if known is None:
                self._reply(event.call_id, ev.FateKnown(ev.Fate.UNKNOWN))
                return
            txn_id = TxnId(known.origin, known.lsn)
            if known.is_decided:
                self._reply(event.call_id, ev.FateKnown(ev.Fate.COMMITTED, txn_id))
                return
        pending = self._find_pending(txn_id)
        if pending is not None:
            if pending.waits is None:
                pending.waits = []
            pending.waits.append(event.call_id)
            self._calls[event.call_id] = pending
            return
        self._reply(event.call_id, ev.FateKnown(self._fate_of(txn_id), txn_id))

    def _fate_of(self, txn_id: TxnId) -> ev.Fate:
        """Of a transaction that is not pending here; LSNs that were dropped are remembered apart."""
        fate = fate_by_lsn(
            txn_id.origin,
            txn_id.lsn,
            drops=self.drops,
            confirmed_vclock=self.limbo.confirmed_vclock,
            written_lsn=self.vclock.get(txn_id.origin),
            is_pending=False,
        )
        return _FATES[fate]

    # --- linearizable reads

    def _on_read_requested(self, event: ev.ReadBarrierRequested) -> None:
        if self.limbo.state is not QueueState.LEADER:
            self._reply(event.call_id, ev.Rejected(self._not_owner()))
            return
        self._calls[event.call_id] = READ_CALL
        if self.read_barrier.ask(event.call_id):
            self._effects.append(ev.RequestHeartbeats(self.read_barrier.number))
        self._finish_reads()

    def _finish_reads(self) -> None:
        while True:
            ready, starts = self.read_barrier.finish(self.registered, self.limbo.effective_quorum)
            for call_id in ready:
                self._reply(call_id, ev.ReadReady())
            if starts:
                self._effects.append(ev.RequestHeartbeats(self.read_barrier.number))
            if not ready or not self.read_barrier.is_open:
                return

    def _drop_reader(self, call_id: CallId) -> None:
        if self.read_barrier.drop(call_id):
            self._effects.append(ev.RequestHeartbeats(self.read_barrier.number))

    def _not_owner(self) -> SynchroError:
        owner = self.limbo.owner_id
        if owner == NOBODY:
            return SyncQueueUnclaimed(
                "The synchronous transaction queue doesn't belong to any instance; next: promote"
            )
        return SyncQueueForeign(
            f"The synchronous transaction queue belongs to other instance with id {owner}"
            if owner != self.self_id
            else "The synchronous transaction queue is frozen until promotion",
            owner=owner,
        )

    def _no_read_quorum(self) -> SynchroError:
        return LinearizableQuorum(
            f"fewer than {self.limbo.quorum} instances confirmed in time that this one is still the owner; "
            "nothing was read",
            needed=self.limbo.quorum,
        )

    # --- promote

    def _on_promote_requested(self, event: ev.PromoteRequested, now: float) -> None:
        """[P-10], [P-11]: an election for one term; the queue follows when it is won."""
        if self._transfer is not None:
            self._reply(event.call_id, ev.Rejected(InAnotherPromote("box.ctl.promote() is already running")))
            return
        if self.limbo.state is QueueState.LEADER:
            self._reply(event.call_id, ev.Promoted(self.limbo.term, self.self_id, 0, 0))
            return
        self._transfer = TransferCall(event.call_id, is_demote=False)
        self._calls[event.call_id] = self._transfer
        self._step_raft(raft_ev.CandidacyRequested(), now)

    def _on_candidacy_ended(self, effect: raft_ev.CandidacyEnded) -> None:
        transfer = self._transfer
        if transfer is None or transfer.is_demote or transfer.phase is not Phase.ELECTION:
            return
        if effect.error is not None:
            self._transfer = None
            self._reply(transfer.call_id, ev.Rejected(effect.error))
            return
        transfer.phase = Phase.QUEUE
        transfer.term = self.raft.volatile_term

    def _on_demote_requested(self, event: ev.DemoteRequested, now: float) -> None:
        """[P-30] with elections: resign. [P-31] without: a new term, then DEMOTE, decided like a PROMOTE."""
        limbo, raft = self.limbo, self.raft
        if self._transfer is not None:
            self._reply(
                event.call_id,
                ev.Rejected(
                    InAnotherPromote("box.ctl.promote/demote does not support simultaneous invocations")
                ),
            )
        elif self.settings.election_mode is not ElectionMode.OFF:
            if raft.is_leader:
                self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
            self._reply(event.call_id, ev.Demoted(raft.volatile_term))
        elif limbo.owner_id == NOBODY:
            self._reply(event.call_id, ev.Demoted(limbo.term))
        elif limbo.state is not QueueState.LEADER:
            error = NotLeader(
                f"The instance is not a leader. New leader is {limbo.owner_id}; nothing was changed",
                owner=limbo.owner_id,
            )
            self._reply(event.call_id, ev.Rejected(error))
        else:
            self._transfer = TransferCall(event.call_id, is_demote=True, phase=Phase.QUEUE)
            self._calls[event.call_id] = self._transfer
            self._carry_out(limbo.request_demote(now), now)
            self._step_raft(raft_ev.TermBumpRequested(), now)
            self._transfer.term = raft.volatile_term

    def _on_owner_changed(self, effect: OwnerChanged, now: float) -> None:
        self._effects.append(
            ev.Notice(
                "queue_owner_changed",
                {
                    "owner": effect.new,
                    "previous_owner": effect.old,
                    "term": effect.term,
                    "confirmed": effect.confirmed,
                    "rolled_back": effect.rolled_back,
                },
            )
        )
        self._decided = ev.Position(effect.term, self.limbo.confirmed_lsn)
        self._progressed = True
        transfer = self._transfer
        if transfer is None or transfer.phase is not Phase.QUEUE or transfer.term != effect.term:
            return
        if transfer.is_demote and effect.new == NOBODY:
            self._transfer = None
            self._reply(transfer.call_id, ev.Demoted(effect.term))
        elif not transfer.is_demote and effect.new == self.self_id:
            self._transfer = None
            self._reply(
                transfer.call_id,
                ev.Promoted(effect.term, effect.old, effect.confirmed, effect.rolled_back),
            )

    def _check_transfer(self) -> None:
        """Leadership was lost before the queue followed [P-13]."""
        transfer = self._transfer
        if transfer is None or transfer.phase is not Phase.QUEUE or transfer.term is None:
            return
        if self.raft.volatile_term != transfer.term:
            self._transfer = None
            error = InterferingElections(
                "Interfering elections started; the queue did not change hands here",
                term=transfer.term,
                new_term=self.raft.volatile_term,
            )
            self._reply(transfer.call_id, ev.Rejected(error))

    # --- control rows

    def _write_own_control(self, body: Confirm | Promote | Demote) -> None:
        lsn = Lsn(self._assigned.get(self.self_id, 0) + 1)
        self._assigned[self.self_id] = lsn
        row = Row(_CONTROL_ROW_TYPE[type(body)], self.self_id, lsn, lsn, FLAG_COMMIT, body)
        is_barrier = self.limbo.is_barrier(self.self_id, body)
        self.limbo.control_sent(body, lsn)
        self._write_control(xrow.encode_txn((row,)), body, is_barrier=is_barrier)

    def _write_control(self, txn: Txn, body: Control, *, is_barrier: bool) -> None:
        must_not_fail = not isinstance(body, Confirm)
        self._flush_writes_before(must_not_fail)
        self._barriers += is_barrier
        self._in_flight.append(ControlWrite(txn, body, is_barrier=is_barrier))
        self._writes.append(txn)

    def _write_hard_state(self, term: Term, vote: InstanceId) -> None:
        lsn = Lsn(self._assigned.get(LOCAL, 0) + 1)
        self._assigned[LOCAL] = lsn
        state = RaftState(term, vote)
        self._hard_state_term_sent = term
        txn = xrow.encode_txn((Row(RowType.RAFT, LOCAL, lsn, lsn, FLAG_COMMIT, state, GROUP_LOCAL),))
        self._flush_writes_before(True)
        self._in_flight.append(HardStateWrite(txn, state))
        self._writes.append(txn)

    def _flush_writes_before(self, has_control: bool) -> None:
        """Rows that must not fail travel in a `WriteRows` of their own kind [L-30]."""
        if self._writes and self._writes_have_control != has_control:
            self._flush_writes()
        self._writes_have_control = has_control

    def _flush_writes(self) -> None:
        if self._writes:
            self._effects.append(ev.WriteRows(self._writes, self._writes_have_control))
            self._writes = []
        self._writes_have_control = False

    # --- received rows

    def _on_txns_received(self, event: ev.TxnsReceived, now: float) -> None:
        source = event.source
        self._backlog.extend((source, txn) for txn in event.txns)
        self._drain_backlog(now)

    def _drain_backlog(self, now: float) -> None:
        backlog = self._backlog
        while backlog and not self._barriers:
            source, txn = backlog[0]
            if source in self._stopped_sources:
                backlog.popleft()
                continue
            try:
                if not self._apply(txn, now):
                    break
            except SynchroError as error:
                self._stop_source(source, error)
                continue
            backlog.popleft()
        if self._ddl is not None and backlog and not self._barriers:
            self._pass_control_rows(now)

    def _pass_control_rows(self, now: float) -> None:
        """Control rows go past data rows that wait for a DDL decision, if none of their origin waits."""
        blocked: set[InstanceId] = set()
        for position, (source, txn) in enumerate(self._backlog):
            if txn.control is not None and txn.origin not in blocked:
                try:
                    if not self._apply(txn, now):
                        return
                except SynchroError as error:
                    self._stop_source(source, error)
                    return
                del self._backlog[position]
                self._progressed = True
                return
            blocked.add(txn.origin)

    def _apply(self, txn: Txn, now: float) -> bool:
        """Put one received transaction on its way. False: it must wait, ask again after progress."""
        if applier_filter.order(txn, self._assigned) is applier_filter.Order.OLD:
            return True
        control = txn.control
        if control is not None:
            return self._apply_control(txn, control, now)
        verdict = self.limbo.filter_data(txn.origin, wait_sync=txn.is_wait_sync, is_nop=txn.is_nop)
        if verdict is DataVerdict.NOP or txn.is_nop:
            self._write_nops(txn if txn.is_nop else xrow.encode_txn(applier_filter.as_nops(txn)))
            return True
        if self._ddl is not None:
            return False
        if self._undecided and any(
            isinstance(row.body, Dml) and schema.is_ddl_space(row.body.space_id) for row in txn.rows
        ):
            return False
        try:
            pending = self._prepare_received(txn, now)
        except PendingRefusal:
            return False
        except TupleFound as error:
            if not self.settings.skip_conflict:
                raise
            self._skip_conflict(txn, error)
            return True
        self._in_flight.append(pending)
        self._writes.append(txn)
        return True

    def _prepare_received(self, txn: Txn, now: float) -> PendingTxn:
        prepared = self.memtx.prepare(
            [row.body for row in txn.rows if isinstance(row.body, Dml)], from_peer=True
        )
        for instance, lsn in txn.components():
            self._assigned[instance] = lsn
        pending = PendingTxn(txn, prepared, is_sync=txn.is_wait_ack)
        self._enter(pending, in_queue=txn.is_wait_sync, now=now)
        return pending

    def _apply_control(self, txn: Txn, control: Control, now: float) -> bool:
        if isinstance(control, Promote | Demote) and self._hard_state_term_sent < control.term:
            # Its term must be on disk ahead of it, or a restart could vote in a term already promoted.
            self._see_term(control.term, now)
            if self._hard_state_term_sent < control.term:
                return False
        self.limbo.filter_control(txn.origin, txn.lsn, control)
        self._assigned[txn.origin] = txn.lsn
        is_barrier = self.limbo.is_barrier(txn.origin, control)
        self._write_control(txn, control, is_barrier=is_barrier)
        return True

    def _write_nops(self, txn: Txn) -> None:
        self._assigned[txn.origin] = txn.lsn
        self._note_nops(txn)
        self._in_flight.append(NopWrite(txn))
        self._writes.append(txn)

    def _note_nops(self, txn: Txn) -> None:
        if txn.origin != LOCAL:
            self.drops.add(txn.origin, txn.rows[0].tsn, txn.lsn)

    def _skip_conflict(self, txn: Txn, error: TupleFound) -> None:
        """[A-35]: the LSNs are consumed, the own tuple stays; the operator asked for it."""
        self._effects.append(ev.Notice("conflict_skipped", {"txn": str(_txn_id(txn)), "error": str(error)}))
        self._write_nops(xrow.encode_txn(applier_filter.as_nops(txn)))

    def _stop_source(self, source: InstanceId, error: SynchroError) -> None:
        """The applier of `source` stops; what it had delivered and is not applied yet is forgotten [A-40]."""
        self._stopped_sources.add(source)
        self._effects.append(ev.StopApplier(source, error))

    # --- peers and terms

    def _see_term(self, term: Term, now: float) -> None:
        if term > self.raft.volatile_term:
            self._step_raft(raft_ev.TermSeen(term), now)

    def _on_ack(self, source: InstanceId, ack: ev.Ack, now: float) -> None:
        """[Q-21], [L-5]: the term first, else an old leader confirms with the votes of a new term."""
        self._see_term(ack.term, now)
        self.trust.hear(source, ack.vclock, ack.term)
        if not ack.counts:
            return
        self._carry_out(self.limbo.ack(source, ack.vclock, now), now)
        if self.read_barrier.is_open:
            self.read_barrier.echo(source, ack.vclock_sync, ack.term, self.raft.term)
            self._finish_reads()
        self._progressed = True

    def _on_heartbeat(self, event: ev.HeartbeatReceived, now: float) -> None:
        self._step_raft(raft_ev.LeaderHeard(event.source), now)

    def _on_relay_connected(self, event: ev.RelayConnected, now: float) -> None:
        self._relays.add(event.peer)
        first = event.ack.vclock if event.ack.counts else EMPTY_VCLOCK
        self._see_term(event.ack.term, now)
        self._carry_out(self.limbo.forget_acks(event.peer, first, now), now)
        self._on_ack(event.peer, event.ack, now)
        self._health_changed(now)

    def _on_applier_following(self, event: ev.ApplierFollowing, now: float) -> None:
        if not self.vclock.covers(event.last_ack):
            self._lose_trust(now)
        self.trust.hear(event.peer, event.vclock, event.term)
        self._stopped_sources.discard(event.peer)
        self._appliers.add(event.peer)
        self._see_term(event.term, now)
        self._health_changed(now)
        self._check_trust(now)

    def _on_applier_lost(self, peer: InstanceId, now: float) -> None:
        self._appliers.discard(peer)
        self._health_changed(now)
        self._step_raft(raft_ev.PeerUnseen(peer), now)

    def _health_changed(self, now: float) -> None:
        self._step_raft(raft_ev.HealthChanged(frozenset(self._relays & self._appliers)), now)

    def _lose_trust(self, now: float) -> None:
        if self.trust.is_trusted:
            self.trust.lose()
            self._effects.append(ev.BeginAmnesia())
            self._step_raft(raft_ev.TrustChanged(trusted=False), now)

    def _check_trust(self, now: float) -> None:
        if not self.trust.is_trusted and self.trust.update(
            self.registered - {self.self_id}, self.vclock, self.raft.term
        ):
            self._effects.append(ev.EndAmnesia())
            self._step_raft(raft_ev.TrustChanged(trusted=True), now)

    def _step_raft(self, event: raft_ev.RaftEvent, now: float) -> None:
        raft = self.raft
        before = (raft.role, raft.leader, raft.volatile_term)
        for effect in raft.step(event, now):
            match effect:
                case raft_ev.PersistHardState(term=term, vote=vote):
                    self._write_hard_state(term, vote)
                case raft_ev.BroadcastRaft(message=message):
                    self._effects.append(ev.BroadcastRaft(message))
                case raft_ev.CandidacyEnded():
                    self._on_candidacy_ended(effect)
                case _:
                    assert_never(effect)
        if (raft.role, raft.leader, raft.volatile_term) != before:
            self._note_election(before[1])
        effects = self.limbo.raft_changed(
            volatile_term=raft.volatile_term, persisted_term=raft.term, is_leader=raft.is_leader, now=now
        )
        self._carry_out(effects, now)
        self._check_transfer()
        if self.limbo.state is not QueueState.LEADER:
            for call_id in self.read_barrier.fail():
                self._reply(call_id, ev.Rejected(self._not_owner()))

    def _note_election(self, leader_before: InstanceId) -> None:
        raft = self.raft
        self._progressed = True
        if raft.leader != leader_before:
            name = "leader_elected" if raft.leader != NOBODY else "leader_lost"
            facts: dict[str, object] = {"leader": raft.leader or leader_before, "term": raft.volatile_term}
            self._effects.append(ev.Notice(name, facts))

    # --- membership

    def _election_membership(self) -> Membership:
        """N of elections counts every `_cluster` row in the own WAL, decided or not (ADR 6)."""
        members = frozenset(self.memtx.prepared_members())
        return Membership(members, self.settings.synchro_quorum.quorum(len(members)))

    def _refresh_membership(self, now: float) -> None:
        members = self.registered
        quorum = self.settings.synchro_quorum.quorum(len(members))
        self._carry_out(self.limbo.membership_changed(members, quorum, now), now)
        self._step_raft(raft_ev.MembershipChanged(self._election_membership()), now)

    def _on_register_requested(self, event: ev.RegisterRequested, now: float) -> None:
        """[M-22]: a `_cluster` row, one at a time, by whoever may write; smallest free id [M-3]."""
        try:
            self._register(event, now)
        except SynchroError as error:
            self._reply(event.call_id, ev.Rejected(error))

    def _register(self, event: ev.RegisterRequested, now: float) -> None:
        members = self.memtx.prepared_members()
        by_uuid = {uuid: i for i, (uuid, _) in members.items()}
        by_name = {name: i for i, (_, name) in members.items() if name}
        known = by_uuid.get(event.uuid)
        if known is not None and known in self.memtx.members():
            self._reply(event.call_id, ev.Registered(known, self.vclock))
            return
        reason = self.read_only_reason()
        if reason is not None:
            raise self.read_only_error(reason)
        if self._membership_change is not None:
            raise QuorumWait("another membership change is not decided yet; nothing was changed, try again")
        same_name = by_name.get(event.name)
        if same_name is not None and (same_name in self._relays or same_name == self.self_id):
            raise IllegalParams(
                f"Duplicate replica name {event.name}, already occupied by {members[same_name][0]}; "
                "nothing was changed"
            )
        new_id = same_name or next(
            (InstanceId(i) for i in range(1, INSTANCE_ID_MAX + 1) if InstanceId(i) not in members), None
        )
        if new_id is None:
            raise ReplicaMax("Replica count limit reached: 32; nothing was changed")
        op = xrow.dml_from_values(
            RowType.REPLACE, schema.CLUSTER_ID, value=(int(new_id), event.uuid, event.name)
        )
        self._register_calls[event.call_id] = new_id
        write = ev.ClientWrite(event.call_id, (op,))
        try:
            self._begin_or_raise(write, now)
        except PendingRefusal as refusal:
            raise refusal.error from refusal
        pending = self._calls.get(event.call_id)
        if isinstance(pending, PendingTxn):
            self._membership_change = pending

    # --- disk and settings

    def _on_rows_cut_back(self, event: ev.RowsCutBack, now: float) -> None:
        """[W-15], ADR 8: undo everything that was in flight, newest first; its LSNs are used again."""
        lost_hard_state: RaftState | None = None
        self._flush_writes()
        while self._in_flight and self._in_flight[-1].txn.lsn > event.vclock.get(
            self._in_flight[-1].txn.origin
        ):
            item = self._in_flight.pop()
            match item:
                case PendingTxn():
                    self._undo(item, event.error, now)
                case ControlWrite():
                    self._barriers -= item.is_barrier
                case HardStateWrite(state=state):
                    lost_hard_state = state
                case NopWrite():
                    pass
                case _:
                    assert_never(item)
        self._assigned = event.vclock.as_dict()
        self.vclock = event.vclock
        self._backlog.clear()
        self.limbo.cut_back()
        self._effects.append(ev.ResetAppliers())
        self._refresh_membership(now)
        if lost_hard_state is not None:
            self._write_hard_state(lost_hard_state.term, lost_hard_state.vote)
        self._carry_out(self.limbo.advance(now), now)
        repeated = (
            self._last_cut_at is not None and now - self._last_cut_at <= self.settings.election_timeout_s
        )
        self._last_cut_at = now
        if repeated and self.raft.is_leader:
            self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
        self._progressed = True

    def _on_settings_changed(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self._step_raft(raft_ev.RaftSettingsChanged(_raft_settings(settings)), now)
        self.limbo.max_size = settings.synchro_queue_max_size
        self._refresh_membership(now)
        self._progressed = True

    # --- checks

    def check(self) -> None:
        """I1..I5 and the invariants of the parts. O(n): for tests and the simulator."""
        assert self.vclock.compare(self.volatile_vclock, with_local=True).value in ("less", "equal")  # I2
        assert self._in_flight or self.vclock == self.volatile_vclock  # I2
        assert self._ddl is None or self._undecided == 1  # I5
        assert self._undecided == sum(1 for _ in self._undecided_txns())
        assert self._barriers == sum(
            1 for i in self._in_flight if isinstance(i, ControlWrite) and i.is_barrier
        )
        self.raft.check()
        self.limbo.check()


_FATES = {
    TxnFate.COMMITTED: ev.Fate.COMMITTED,
    TxnFate.ROLLED_BACK: ev.Fate.ROLLED_BACK,
    TxnFate.PENDING: ev.Fate.PENDING,
    TxnFate.UNKNOWN: ev.Fate.UNKNOWN,
}


def _remembered(meta: SnapshotMeta, settings: Settings) -> tuple[RequestTable, Drops]:
    """Request ids and dropped LSNs as a snapshot has them."""
    forgotten_term, forgotten_lsn = meta.extra.get("requests_forgotten", (0, 0))
    requests = RequestTable(settings.limits.remembered_requests_max)
    requests.restore(
        RequestTableState(
            tuple((r.request_id, RequestRecord(r.origin, r.lsn, r.term)) for r in meta.requests),
            Term(forgotten_term),
            Lsn(forgotten_lsn),
        )
    )
    drops = Drops(settings.limits.remembered_drops_max)
    drops.restore(
        DropsState(
            tuple((d.origin, LsnRange(d.first_lsn, d.last_lsn)) for d in meta.drops),
            tuple((InstanceId(i), Lsn(lsn)) for i, lsn in meta.extra.get("drops_forgotten", ())),
        )
    )
    return requests, drops


def _txn_id(txn: Txn) -> TxnId:
    return TxnId(txn.origin, txn.lsn)


def _conflict() -> TransactionConflict:
    return TransactionConflict(
        "Transaction has been aborted by conflict with one that is not decided yet; nothing was written"
    )


def _raft_settings(settings: Settings) -> RaftSettings:
    return RaftSettings(
        election_mode=settings.election_mode,
        fencing_mode=settings.election_fencing_mode,
        election_timeout_s=settings.election_timeout_s,
        death_timeout_s=settings.death_timeout_s,
    )
