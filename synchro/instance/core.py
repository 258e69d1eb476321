"""One instance of a replica set, without I/O: facts go in, effects come out.

`step` routes every event to raft, limbo, memtx and the replication filters, and turns their answers into
effects. It holds no rule of the protocol: those live in the parts. See docs/architecture.md for the flows.

    parts           what the parts share          log_tail      LSNs, and what is on its way to disk
    client_writes   writes of clients             transactions  from prepare to decision
    received        rows from peers               transfers     promote and demote calls
    recovery        snapshot + WAL -> Instance, and back
    stop            the clean end
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, cast

from synchro.config import ElectionMode, Settings
from synchro.errors import LinearizableQuorum, NotLeader, SynchroError, TimedOut
from synchro.ids import NOBODY, CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.client_writes import Writes
from synchro.instance.parts import DOUBLED, State
from synchro.instance.pending_txn import (
    READ_CALL,
    ControlWrite,
    HardStateWrite,
    NopWrite,
    PendingTxn,
    ReadCall,
    TransferCall,
)
from synchro.instance.received import Received
from synchro.instance.stop import Stop
from synchro.instance.transactions import Transactions
from synchro.instance.transfers import Phase, Transfer, interfering_elections
from synchro.queue.effects import EntriesCommitted, EntriesRolledBack, LimboEffect, OwnerChanged, WriteControl
from synchro.queue.limbo import Limbo, QueueState
from synchro.raft import messages as raft_ev
from synchro.raft.core import Raft
from synchro.raft.messages import RaftSettings
from synchro.replication.read_barrier import Electorate, ReadBarrier
from synchro.replication.trust import Missing, Trust
from synchro.row import RaftState
from synchro.storage.memtx import Memtx
from synchro.vclock import EMPTY_VCLOCK, Vclock


def raft_settings(settings: Settings) -> RaftSettings:
    return RaftSettings(
        election_mode=settings.election_mode,
        fencing_mode=settings.election_fencing_mode,
        election_timeout_s=settings.election_timeout_s,
        death_timeout_s=settings.death_timeout_s,
    )


class Instance:
    """The state of one instance, and the only way to change it. Made by `instance.recovery.recover_instance`.

    I1  A `Reply` is sent once for every call, and an LSN leaves the instance only after `RowsWritten`.
    I2  Raft hears of a term before anything that came with it is counted or applied [L-5].
    I3  The limbo knows raft's term and role of this very step [Q-3].
    """

    def __init__(self, state: State, txns: Transactions, trust: Trust) -> None:
        self._state = state
        self._txns = txns
        self._writes = Writes(state, txns)
        self._received = Received(state, txns)
        self._transfer: Transfer | None = None
        self._promoted: dict[CallId, ev.Promoted] = {}
        """Promotes that are done and wait until the instance is writable [P-13], [L-21]."""
        self.trust = trust
        self.read_barrier = ReadBarrier()
        self._relays: set[InstanceId] = set()
        self._appliers: set[InstanceId] = set()
        self._last_cut_at: float | None = None
        self._retry_at: float | None = None
        self._announce_at: float | None = None
        self._stop: Stop | None = None
        self._has_amnesia_flag = not trust.is_trusted
        self._raft_facts: tuple[Term, Term, bool] | None = None
        """What the limbo was told of raft last."""

    def start(self, now: float) -> list[ev.Effect]:
        """Recovery or join is over and the shell is ready: elections may begin [E-5]."""
        self._step_raft(raft_ev.RaftStarted(), now)
        if (error := self.raft.exhausted) is not None:
            self._state.notice("numbers_exhausted", is_warning=True, message=error.message)
        return self._finish(now)

    # --- step

    def step(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Apply one fact; return what the shell must do, in order. Never blocks. `now`: monotonic seconds."""
        match event:
            case ev.ClientPuts():
                self._writes.on_client_puts(event, now)
            case ev.ClientWrites():
                self._writes.on_client_writes(event, now)
            case ev.RowsWritten():
                self._on_rows_written(event, now)
            case ev.TxnsReceived():
                if self._stop is None:  # they come again with the next stream
                    self._received.add(event)
                    self._state.progressed = True
            case ev.AckReceived():
                self._on_ack(event.source, event.ack, now)
            case ev.HeartbeatReceived():
                self._step_raft(raft_ev.LeaderHeard(event.source), now)
            case ev.FrameTermSeen():
                if self._may_see(event.term):
                    self._see_term(event.term, now)
            case ev.PeerRaftReceived():
                self._on_peer_raft(event, now)
            case ev.DeadlineReached():
                self._on_deadline(now)
            case ev.CallExpired():
                self._on_call_expired(event.call_id, now)
            case ev.RequestAbandoned():
                self._on_abandoned(event.call_id)
            case ev.WaitRequested():
                self._txns.on_wait_requested(event)
            case ev.ReadBarrierRequested():
                self._on_read_requested(event)
            case ev.PromoteRequested():
                self._on_promote_requested(event, now)
            case ev.DemoteRequested():
                self._on_demote_requested(event, now)
            case ev.RegisterRequested():
                self._writes.on_register_requested(event, now)
            case ev.RelayConnected():
                self._on_relay_connected(event, now)
            case ev.RelayLost():
                self._relays.discard(event.peer)
                self._health_changed(now)
            case ev.ApplierFollowing():
                self._on_applier_following(event, now)
            case ev.ApplierLost():
                self._on_applier_lost(event.peer, now)
            case ev.DoubledChanged():
                self._on_doubled_changed(event.is_doubled, now)
            case ev.RowsCutBack():
                self._on_rows_cut_back(event, now)
            case ev.TurnBegan():
                self._writes.on_turn_began()
            case ev.IndexesBuilt():
                self._on_indexes_built(event, now)
            case ev.WalStuck():
                self._disk_cannot_keep_up(now)
            case ev.StopRequested():
                self._on_stop_requested()
            case ev.SettingsChanged():
                self._on_settings_changed(event.settings, now)
            case _:
                assert_never(event)
        return self._finish(now)

    @property
    def deadline(self) -> float | None:
        """Monotonic seconds at which the shell must step `DeadlineReached`; None = no timer."""
        transfer = self._transfer
        stands_at = transfer.stands_at if transfer is not None and transfer.phase is Phase.LINKS else None
        stop_at = None if self._stop is None else self._stop.until
        waiting = (self._state.raft.deadline, self._retry_at, self._announce_at, stands_at, stop_at)
        return min((at for at in waiting if at is not None), default=None)

    def _finish(self, now: float) -> list[ev.Effect]:
        """Let go on what waited for something that this step brought; then hand out the effects."""
        state = self._state
        if self._transfer is not None:
            self._await_links(now)
        while state.progressed or state.membership_touched:
            if state.membership_touched:
                self._refresh_membership(now)
            state.progressed = False
            self._see_term(Term(self._received.wanted_term()), now)
            self._received.drain(now)
            self._writes.drain(now)
        if self._promoted:
            self._review_promoted()
        if self._stop is None:
            self._plan_announcement(now)
        else:
            self._go_on_stopping(self._stop, now)
        state.effects.extend(state.log.take_writes())
        effects, state.effects = state.effects, []
        if state.replies:
            effects.append(ev.Replies(state.replies))
            state.replies = []
        return effects

    def _plan_announcement(self, now: float) -> None:
        """ADR 11: a CONFIRM goes ahead of the next own row; alone only if none comes for a while."""
        if not self._state.limbo.is_announcement_due:
            self._announce_at = None
        elif self._announce_at is None:
            self._announce_at = now + self._state.settings.confirm_delay_s
            if self._retry_at is not None:
                self._announce_at = max(self._announce_at, self._retry_at)

    # --- the end

    def _on_stop_requested(self) -> None:
        """ADR 18. From here on nobody is promised anything that is not on disk."""
        state = self._state
        if self._stop is not None:
            return
        self._stop = Stop()
        state.is_stopping = True
        state.limbo.stop_counting()
        self._announce_at = self._retry_at = None
        self._writes.refuse_waiting()
        for call_id in self.read_barrier.fail():
            state.refuse(call_id, state.stopping_error())
        if self._transfer is not None:
            name = "demote" if self._transfer.is_demote else "promote"
            text = (
                f"the instance is stopping; the {name} is not decided, and may still be: see the queue owner"
            )
            state.reply(self._transfer.call_id, ev.Rejected(TimedOut(text, term=self.raft.volatile_term)))
            self._transfer = None
        for call_id in self._promoted:
            text = "the queue is owned here, but the instance is stopping and stays read-only"
            state.refuse(call_id, TimedOut(text, term=self.raft.volatile_term))
        self._promoted.clear()
        state.announce()  # what was committed; a deposed owner has nothing to say

    def _go_on_stopping(self, stop: Stop, now: float) -> None:
        state = self._state
        if not state.log.in_flight:  # a CONFIRM on its way may still decide something
            self._txns.answer_undecided()
            stop.written(now, state.settings.replication_timeout_s)
        subscribers = self._relays & self.registered
        holders = self.limbo.holders(self.self_id, self.vclock.get(self.self_id))
        if stop.told(now, all_have_it=subscribers <= holders):
            self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
            state.effects.append(ev.Stopped())

    # --- what others may look at

    @property
    def self_id(self) -> InstanceId:
        return self._state.self_id

    @property
    def settings(self) -> Settings:
        return self._state.settings

    @property
    def memtx(self) -> Memtx:
        return self._state.memtx

    @property
    def limbo(self) -> Limbo:
        return self._state.limbo

    @property
    def raft(self) -> Raft:
        return self._state.raft

    @property
    def state(self) -> State:
        """For `instance.recovery.snapshot_view`."""
        return self._state

    @property
    def vclock(self) -> Vclock:
        """Written and synced rows, component 0 included."""
        return self._state.log.vclock

    @property
    def volatile_vclock(self) -> Vclock:
        """Rows that have an LSN, synced or on their way."""
        return Vclock(self._state.log.assigned)

    def has_applied(self, vclock: Vclock) -> bool:
        """Rows up to `vclock` are on disk here, and those of the queue's owner are decided."""
        first = self.limbo.first_told_lsn
        return self.vclock.covers(vclock) and not 0 < first <= vclock.get(self.limbo.owner_id)

    @property
    def acks_count(self) -> bool:
        """False while the own log is not to be trusted: acks carry `counts=False` (S14)."""
        return self.trust.is_trusted

    @property
    def has_amnesia(self) -> bool:
        """The flag is set: this instance may have forgotten rows or votes (S14)."""
        return self._has_amnesia_flag

    def must_hear(self) -> dict[InstanceId, Missing]:
        """In amnesia: what is needed of which member before trust comes back; empty: nothing, or only a term
        in which no forgotten vote can matter."""
        if self.trust.is_trusted:
            return {}
        return self.trust.missing(self.registered - {self.self_id}, self.vclock, self.raft.term)

    @property
    def registered(self) -> frozenset[InstanceId]:
        return self._state.registered

    @property
    def waiting_unprepared(self) -> int:
        """Requests that wait for room in the limbo or for a DDL barrier (VOLATILE in the field's words)."""
        return len(self._writes.waiting)

    @property
    def decided_position(self) -> ev.Position:
        """Newest decided transaction known here."""
        return self._state.decided

    @property
    def is_writable(self) -> bool:
        return self._state.read_only_reason() is None

    def read_only_reason(self) -> str | None:
        return self._state.read_only_reason()

    @property
    def is_queue_busy(self) -> bool:
        return self._state.is_queue_busy

    # --- disk

    def _on_rows_written(self, event: ev.RowsWritten, now: float) -> None:
        state, vclock = self._state, event.vclock
        assert vclock.covers(state.log.vclock, with_local=True)
        state.log.vclock = vclock
        state.progressed = True
        for item in state.log.written(vclock):
            try:
                match item:
                    case PendingTxn():
                        state.no_room = None
                        if not item.is_queued:  # not in the queue: the own disk is enough
                            self._txns.commit((item,), state.limbo.term)
                        if item.submit_calls is not None:
                            self._txns.answer_submitted(item)
                    case ControlWrite(txn=txn, body=body):
                        self._carry_out(state.limbo.control_written(txn.origin, txn.lsn, body, now), now)
                        if state.limbo.has_rival:
                            self._step_raft(raft_ev.TermBumpRequested(), now)
                    case HardStateWrite(state=hard):
                        self._step_raft(raft_ev.HardStatePersisted(hard.term, hard.vote, vclock), now)
                    case NopWrite(txn=txn):
                        state.no_room = None
                        self._txns.note_nops(txn)
                    case _:
                        assert_never(item)
            except Exception as error:
                error.add_note(f"while {item.txn.origin}:{item.txn.lsn} was told to be written: {item.txn!r}")
                raise
        self._carry_out(state.limbo.written(vclock, now), now)  # the own ack may be the quorum: log order
        self._step_raft(raft_ev.VclockGrew(vclock), now)
        self._check_trust(now)

    def _on_rows_cut_back(self, event: ev.RowsCutBack, now: float) -> None:
        """[W-15], ADR 8: undo everything that was in flight, newest first; its LSNs are used again."""
        state = self._state
        if event.vclock != state.log.vclock:
            self._on_rows_written(ev.RowsWritten(event.vclock), now)
        lost: RaftState | None = None
        for item in state.log.cut_back(event.vclock):
            match item:
                case PendingTxn():
                    self._txns.undo(item, event.error)
                case HardStateWrite(state=hard):
                    lost = hard
                case ControlWrite() | NopWrite():
                    pass
                case _:
                    assert_never(item)
        self._received.forget()
        state.limbo.cut_back()
        state.effects.append(ev.ResetAppliers())
        if lost is not None:
            state.log.append_hard_state(lost)
        self._retry_at = now + state.settings.replication_timeout_s
        self._announce_at = None
        state.no_room = event.error
        last_cut_at, self._last_cut_at = self._last_cut_at, now
        if last_cut_at is not None and now - last_cut_at <= state.settings.election_timeout_s:
            self._disk_cannot_keep_up(now)
        state.progressed = True

    def _disk_cannot_keep_up(self, now: float) -> None:
        """It is stuck, or has no room again and again. With elections another takes over; without (mode off)
        nobody would, and a person can tell better whether it comes back (ADR 16)."""
        if self.raft.is_leader and self.settings.election_mode is not ElectionMode.OFF:
            self._step_raft(raft_ev.ResignRequested(stand_again=False), now)

    def _on_indexes_built(self, event: ev.IndexesBuilt, now: float) -> None:
        txns = self._txns
        if event.build is not txns.build:
            return  # cancelled meanwhile
        if isinstance(txns.built_for, ev.ClientWrite):
            self._writes.on_built(now)
        else:
            txns.end_build()
            self._received.drain(now)  # it is the first there

    def _on_deadline(self, now: float) -> None:
        self._step_raft(raft_ev.DeadlineReached(), now)
        if self._retry_at is not None and now >= self._retry_at:
            # A control row that was cut back is asked for again now: at once, the disk would still be full.
            self._retry_at = None
            self._carry_out(self.limbo.advance(now), now)
        if self._announce_at is not None and now >= self._announce_at:
            self._announce_at = None
            self._state.announce()

    # --- limbo

    def _carry_out(self, effects: Sequence[LimboEffect], now: float) -> None:
        for effect in effects:
            match effect:
                case EntriesCommitted(entries=entries, term=term):
                    self._txns.commit(cast("Sequence[PendingTxn]", entries), term)
                case EntriesRolledBack():
                    self._txns.roll_back(effect)
                case WriteControl(body=body):
                    lsn = self._state.log.next_lsn(self.self_id)
                    is_barrier = self.limbo.is_barrier(self.self_id, body)
                    self.limbo.control_sent(body, lsn)
                    self._state.log.append_own_control(body, lsn, is_barrier=is_barrier)
                case OwnerChanged():
                    self._on_owner_changed(effect)
                case _:
                    assert_never(effect)

    def _on_owner_changed(self, effect: OwnerChanged) -> None:
        state = self._state
        state.notice(
            "queue_owner_changed",
            owner=effect.new,
            previous_owner=effect.old,
            term=effect.term,
            confirmed=effect.confirmed,
            rolled_back=effect.rolled_back,
        )
        state.decided = ev.Position(effect.term, state.limbo.confirmed_lsn)
        state.progressed = True
        if self._transfer is not None:
            self._end_transfer(self._transfer.owner_changed(effect, self.self_id))

    # --- promote and demote

    def _on_promote_requested(self, event: ev.PromoteRequested, now: float) -> None:
        """[P-10], [P-11]: an election for one term; the queue follows when it is won. One at a time [L-8]."""
        state = self._state
        if self._stop is not None:
            state.refuse(event.call_id, state.stopping_error())
        elif state.is_doubled:
            state.refuse(event.call_id, state.read_only_error(DOUBLED))
        elif self._transfer is not None:
            state.refuse(event.call_id, self._transfer.busy)
        elif state.limbo.state is QueueState.LEADER:
            self._answer_promote(event.call_id, ev.Promoted(state.limbo.term, self.self_id, 0, 0))
        else:
            self._begin_transfer(Transfer(event.call_id, False, state.raft.volatile_term))
            self._request_candidacy(now)

    def _request_candidacy(self, now: float) -> None:
        is_term_used_up = self.limbo.term == self.raft.volatile_term  # by a DEMOTE
        self._step_raft(raft_ev.CandidacyRequested(in_new_term=is_term_used_up), now)

    def _await_links(self, now: float) -> None:
        """[P-11]: a promote that came before the links waits for them, without a new term, which would stop
        all writers. Then for one heartbeat, in which whoever leads says so."""
        transfer, raft = self._transfer, self.raft
        if transfer is None or transfer.phase is not Phase.LINKS:
            return
        transfer.links_changed(
            enough=raft.has_healthy_quorum, now=now, hear_s=self.settings.replication_timeout_s
        )
        if transfer.stands_at is not None and now >= transfer.stands_at:
            transfer.phase, transfer.stands_at = Phase.ELECTION, None
            if transfer.is_demote:
                self._give_queue_away(now)
            else:
                self._request_candidacy(now)

    def _on_demote_requested(self, event: ev.DemoteRequested, now: float) -> None:
        """[P-30] with elections: resign. [P-31] without: a new term, then DEMOTE, decided like a PROMOTE."""
        state, limbo, raft = self._state, self.limbo, self.raft
        may_interrupt = (
            state.settings.election_mode is not ElectionMode.OFF and raft.is_leader and not limbo.is_busy
        )
        if self._stop is not None:
            state.refuse(event.call_id, state.stopping_error())
        elif state.is_doubled:
            state.refuse(event.call_id, state.read_only_error(DOUBLED))
        elif self._transfer is not None and not may_interrupt:
            state.refuse(event.call_id, self._transfer.busy)
        elif state.settings.election_mode is not ElectionMode.OFF:
            if raft.is_leader:
                self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
            state.reply(event.call_id, ev.Demoted(raft.volatile_term))
        elif limbo.owner_id == NOBODY:
            state.reply(event.call_id, ev.Demoted(limbo.term))
        else:
            self._begin_transfer(Transfer(event.call_id, True, raft.volatile_term))
            self._give_queue_away(now)

    def _give_queue_away(self, now: float) -> None:
        """[P-31]: a demote that came before the links waits for them, as a promote does."""
        limbo, raft, transfer = self.limbo, self.raft, self._transfer
        assert transfer is not None
        if raft.exhausted is not None:
            self._end_transfer(ev.Rejected(raft.exhausted))
            return
        if limbo.state is not QueueState.LEADER and (refusal := raft.demote_refusal) is not None:
            is_ours = limbo.owner_id == self.self_id
            self._end_transfer(transfer.refused(refusal) if is_ours else ev.Rejected(refusal))
            return
        try:
            effects = limbo.request_demote(now)
        except NotLeader:
            self._end_transfer(ev.Rejected(self._state.not_giver_error()))
            return
        self._carry_out(effects, now)
        self._step_raft(raft_ev.TermBumpRequested(), now)
        transfer.leads(raft.volatile_term)

    def _begin_transfer(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._state.calls[transfer.call_id] = TransferCall(transfer.is_demote)

    def _end_transfer(self, outcome: ev.Outcome | None) -> None:
        if outcome is None:
            return
        assert self._transfer is not None
        call_id = self._transfer.call_id
        self._transfer = None
        if isinstance(outcome, ev.Promoted):
            self._answer_promote(call_id, outcome)
        else:
            self._state.reply(call_id, outcome)

    def _answer_promote(self, call_id: CallId, outcome: ev.Promoted) -> None:
        """[P-13]: it is done, but told only when the instance is writable too. Nobody else waits for that."""
        if self.is_writable:
            self._state.reply(call_id, outcome)
        else:
            self._state.calls[call_id] = TransferCall(is_demote=False)
            self._promoted[call_id] = outcome

    def _review_promoted(self) -> None:
        if self.is_writable:
            for call_id, outcome in self._promoted.items():
                self._state.reply(call_id, outcome)
        elif self.limbo.state is not QueueState.LEADER:
            for call_id, outcome in self._promoted.items():
                self._state.refuse(call_id, interfering_elections(outcome.term, self.raft.volatile_term))
        else:
            return
        self._promoted.clear()

    # --- calls

    def _on_call_expired(self, call_id: CallId, now: float) -> None:
        call = self._state.calls.get(call_id)
        match call:
            case None:
                return
            case PendingTxn():
                self._txns.expire(call_id, call)
            case ev.ClientWrite():
                self._writes.expire(call)
            case TransferCall(is_demote=is_demote):
                self._expire_transfer(call_id, is_demote, now)
            case ReadCall():
                self._drop_reader(call_id)
                self._state.refuse(call_id, self._no_read_quorum())
            case _:
                assert_never(call)

    def _expire_transfer(self, call_id: CallId, is_demote: bool, now: float) -> None:
        term, transfer = self.raft.volatile_term, self._transfer
        if self._promoted.pop(call_id, None) is not None:
            reason = self.read_only_reason()
            text = f"the queue is owned now, but the instance stays read-only (ro_reason: {reason})"
            self._state.refuse(call_id, TimedOut(text, term=term))
            return
        assert transfer is not None
        if transfer.phase is Phase.LINKS and transfer.too_few is not None:
            self._end_transfer(ev.Rejected(transfer.too_few))
            return
        if is_demote:
            self._carry_out(self.limbo.cancel_demote(now), now)
        name = "demote" if is_demote else "promote"
        text = f"{name} was not decided in time; it may still be. Next: synchro status"
        self._end_transfer(ev.Rejected(TimedOut(text, term=term)))

    def _on_abandoned(self, call_id: CallId) -> None:
        call = self._state.forget_call(call_id)
        match call:
            case PendingTxn():
                call.detach(call_id)
            case ev.ClientWrite():
                self._writes.drop(call)
            case TransferCall():
                if self._promoted.pop(call_id, None) is None:
                    self._transfer = None
            case ReadCall():
                self._drop_reader(call_id)
            case None:
                pass
            case _:
                assert_never(call)

    # --- linearizable reads

    def _on_read_requested(self, event: ev.ReadBarrierRequested) -> None:
        if self._stop is not None or self.limbo.state is not QueueState.LEADER:
            state = self._state
            state.refuse(event.call_id, state.stopping_error() if self._stop else state.not_owner_error())
            return
        self._state.calls[event.call_id] = READ_CALL
        if self.read_barrier.ask(event.call_id):
            self._request_heartbeats()
        self._finish_reads()

    def _finish_reads(self) -> None:
        while True:
            ready, starts = self.read_barrier.finish(self._electorates())
            for call_id in ready:
                self._state.reply(call_id, ev.ReadReady())
            if starts:
                self._request_heartbeats()
            if not ready or not self.read_barrier.is_open:
                return

    def _request_heartbeats(self) -> None:
        self._state.effects.append(ev.RequestHeartbeats(self.read_barrier.number))

    def _drop_reader(self, call_id: CallId) -> None:
        if self.read_barrier.drop(call_id):
            self._request_heartbeats()

    def _electorates(self) -> list[Electorate]:
        """A candidate counts the members that its own log names (ADR 6): with a row of `_cluster` that is not
        decided here yet, or without it."""
        state = self._state
        sets = [state.registered]
        if (prepared := state.election_membership().registered) != state.registered:
            sets.append(prepared)
        return [Electorate(members, state.settings.read_quorum(len(members))) for members in sets]

    def _no_read_quorum(self) -> SynchroError:
        members, needed = max(self._electorates(), key=lambda electorate: electorate.needed)
        return LinearizableQuorum(
            f"fewer than {needed} of {len(members)} instances (this one included) confirmed in time "
            "that it is still the owner; nothing was read",
            needed=needed,
        )

    # --- peers and terms

    def check_term(self, term: Term) -> None:
        """For the shell, before it hands over what came with this term: raises `RemoteProtocolError`."""
        self._state.check_term(term)

    def _may_see(self, term: Term) -> bool:
        """False for what the shell should have refused: as if it had never come."""
        try:
            self._state.check_term(term)
        except SynchroError as error:
            self._state.notice("term_refused", is_warning=True, message=error.message)
            return False
        return True

    def _see_term(self, term: Term, now: float) -> None:
        if term > self.raft.volatile_term:
            self._step_raft(raft_ev.TermSeen(term), now)

    def _on_peer_raft(self, event: ev.PeerRaftReceived, now: float) -> None:
        try:
            event.message.validate(event.source)
            self._state.check_term(event.message.term)
        except SynchroError as error:
            self._received.stop(event.source, error)
            return
        self._step_raft(raft_ev.RaftMessageReceived(event.source, event.message), now)

    def _on_ack(self, source: InstanceId, ack: ev.Ack, now: float) -> None:
        """[Q-21], [L-5]: the term first, else an old leader confirms with the votes of a new term."""
        if not self._may_see(ack.term):
            return
        self._see_term(ack.term, now)
        if ack.vclock.get(self.self_id) > self.vclock.get(self.self_id):
            self._lose_trust(now)  # it has rows of ours that are gone here
        if not ack.counts:
            self.trust.hear_forgetful(source)
            return
        if self._has_amnesia_flag:
            self.trust.hear(source, ack.vclock, ack.term)
            self._check_trust(now)
        self._carry_out(self.limbo.ack(source, ack.vclock, now), now)
        if self.read_barrier.is_open:
            self.read_barrier.echo(source, ack.vclock_sync, ack.term, self.raft.term)
            self._finish_reads()

    def _on_relay_connected(self, event: ev.RelayConnected, now: float) -> None:
        ack = event.ack
        if not self._may_see(ack.term):
            return
        self._relays.add(event.peer)
        self._see_term(ack.term, now)
        first = ack.vclock if ack.counts else EMPTY_VCLOCK
        self._carry_out(self.limbo.forget_acks(event.peer, first, now), now)
        self._on_ack(event.peer, ack, now)
        self._health_changed(now)

    def _on_applier_following(self, event: ev.ApplierFollowing, now: float) -> None:
        own = self.vclock
        if not self._may_see(event.term):
            return
        if not own.covers(event.last_ack) or event.vclock.get(self.self_id) > own.get(self.self_id):
            # We acked what is not here, or the peer has rows of ours that are gone here.
            self._lose_trust(now)
        self._received.follows(event.peer)
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
            self._has_amnesia_flag = True
            self._state.effects.append(ev.BeginAmnesia())
            self._step_raft(raft_ev.TrustChanged(trusted=False), now)

    def _check_trust(self, now: float) -> None:
        """The flag outlives the trust: a vote of this very term may be forgotten, and only the flag on disk
        would say so after a restart."""
        if not self._has_amnesia_flag or self._state.is_doubled:
            return
        if self.trust.update(self.registered - {self.self_id}, self.vclock, self.raft.term):
            self._state.progressed = True
            self._step_raft(raft_ev.TrustChanged(trusted=True), now)
        if self.trust.is_trusted and not self.raft.may_have_forgotten_vote:
            self._has_amnesia_flag = False
            self._state.effects.append(ev.EndAmnesia())

    def _on_doubled_changed(self, is_doubled: bool, now: float) -> None:
        """To raft it is as with a log that is not to be trusted; nothing of it is on disk. Afterwards raft
        holds that a vote of this term may be forgotten: the other one may have given it in our name."""
        state = self._state
        if is_doubled == state.is_doubled:
            return
        state.is_doubled = is_doubled
        state.progressed = True
        if self.trust.is_trusted:
            self._step_raft(raft_ev.TrustChanged(trusted=not is_doubled), now)
        self._check_trust(now)

    def _step_raft(self, event: raft_ev.RaftEvent, now: float) -> None:
        state, raft = self._state, self.raft
        role, leader, term = raft.role, raft.leader, raft.volatile_term
        for effect in raft.step(event, now):
            match effect:
                case raft_ev.PersistHardState():
                    state.log.append_hard_state(RaftState(effect.term, effect.vote))
                case raft_ev.BroadcastRaft(message=message):
                    state.effects.append(ev.BroadcastRaft(message))
                case raft_ev.CandidacyEnded(error=error):
                    if self._transfer is not None:
                        now_in = raft.volatile_term
                        ended = self._transfer.candidacy_ended(error, now_in, is_refusal=now_in == term)
                        self._end_transfer(ended)
                case _:
                    assert_never(effect)
        if raft.role is not role or raft.leader != leader or raft.volatile_term != term:
            self._note_election(leader)
        facts = (raft.volatile_term, raft.term, raft.is_leader)
        if facts != self._raft_facts:
            self._raft_facts = facts
            volatile_term, persisted_term, is_leader = facts
            self._carry_out(
                state.limbo.raft_changed(
                    volatile_term=volatile_term, persisted_term=persisted_term, is_leader=is_leader, now=now
                ),
                now,
            )
        if self._transfer is not None:
            may_lead = raft.is_leader or raft.is_write_in_progress or raft.is_candidacy_running
            self._end_transfer(
                self._transfer.raft_changed(
                    raft.volatile_term, leader=raft.leader, is_leader=raft.is_leader, may_lead=may_lead
                )
            )
        if self.read_barrier.is_open and state.limbo.state is not QueueState.LEADER:
            for call_id in self.read_barrier.fail():
                state.refuse(call_id, state.not_owner_error())

    def _note_election(self, leader_before: InstanceId) -> None:
        state, raft = self._state, self.raft
        state.progressed = True
        if raft.leader != leader_before:
            name = "leader_elected" if raft.leader != NOBODY else "leader_lost"
            state.notice(name, leader=raft.leader or leader_before, term=raft.volatile_term)

    # --- membership and settings

    def _refresh_membership(self, now: float) -> None:
        state = self._state
        state.membership_touched = False
        members = state.registered
        quorum = state.settings.synchro_quorum.quorum(len(members))
        self._carry_out(state.limbo.membership_changed(members, quorum, now), now)
        self._step_raft(raft_ev.MembershipChanged(state.election_membership()), now)

    def _on_settings_changed(self, settings: Settings, now: float) -> None:
        state = self._state
        state.settings = settings
        state.limbo.max_size = settings.synchro_queue_max_size
        state.memtx.memory_max = settings.memtx_memory
        self._step_raft(raft_ev.RaftSettingsChanged(raft_settings(settings)), now)
        state.membership_touched = True
        state.progressed = True

    # --- checks

    def check(self) -> None:
        """Invariants of all parts. O(n): for tests and the simulator."""
        self._state.log.check()
        self._txns.check()
        self.raft.check()
        self.limbo.check()
