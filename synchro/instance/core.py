"""One instance of a replica set, without I/O: facts go in, effects come out.

`step` routes every event to the parts, and turns their answers into effects. It holds no rule of the
protocol: those live in raft, the limbo, memtx and the replication filters. See docs/architecture.md for the
flows.

    parts           what the parts share          log_tail       LSNs, and what is on its way to disk
    client_writes   writes of clients, in order   admission      one of them, from its call to its LSN
    received        rows from peers               transactions   from prepare to decision
    coupling        raft and limbo, together      waits          who waits for a decision, or asks for one
    links           peers, and trust in the log   transfers      promote and demote calls
    reads           linearizable reads            registration   a `_cluster` row for who joins
    expulsion       the row of who leaves         numbering      an anonymous instance gets its id
    writability     who may write, and why not    calls          who is answered what
    view            what others may look at       stop           the clean end
    recovery        snapshot + WAL -> Instance, and back

Raft and the limbo are stepped by `coupling`, which returns what happened; `transfers` and `reads` look at
that before anything else is counted (`Instance._look`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from synchro.config import ElectionMode, FencingMode, Settings
from synchro.errors import SynchroError
from synchro.ids import CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.admission import Admission
from synchro.instance.calls import ReadCall, TransferCall
from synchro.instance.client_writes import Writes
from synchro.instance.coupling import Coupling, Happening, check_term, raft_settings
from synchro.instance.links import LinkFacts
from synchro.instance.log_tail import ControlWrite, HardStateWrite, NopWrite
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.reads import Reads
from synchro.instance.received import Received
from synchro.instance.registration import Registration
from synchro.instance.transactions import Transactions
from synchro.instance.transfers import Transfers
from synchro.instance.view import Facts
from synchro.instance.waits import Waits
from synchro.queue.effects import LimboEffect
from synchro.raft import messages as raft_ev
from synchro.replication.settled import Settled
from synchro.replication.trust import Trust
from synchro.row import Demote, Promote, RaftState


class Instance(Facts):
    """The state of one instance, and the only way to change it. Made by `instance.recovery.recover_instance`.

    I1  A `Reply` is sent once for every call, and an LSN leaves the instance only after `RowsWritten`.
    I2  Raft hears of a term before anything that came with it is counted or applied [L-5].
    I3  The limbo knows raft's term and role of this very step [Q-3]; who is deposed fails its reads before an
        ack, or an echo, is counted.
    """

    def __init__(self, state: Parts, txns: Transactions, trust: Trust) -> None:
        self._state = state
        self._txns = txns
        admission = Admission(state, txns)
        self._writes = Writes(state, txns, admission)
        self._registration = Registration(state, txns, admission)
        self._waits = Waits(state, txns)
        self._received = Received(state, txns)
        self._coupling = Coupling(state, txns)
        self._transfers = Transfers(state, self._coupling)
        self._reads = Reads(state, self._waits)
        self._links = LinkFacts(state, self._coupling, self._received, trust)
        self._settled = Settled()
        self._last_cut_at: float | None = None
        self._retry_at: float | None = None
        self._announce_at: float | None = None

    def start(self, now: float) -> list[ev.Effect]:
        """Recovery or join is over and the shell is ready: elections may begin [E-5]."""
        self._step_raft(raft_ev.RaftStarted(), now)
        if (error := self.raft.exhausted) is not None:
            self._state.outbox.notice("numbers_exhausted", is_warning=True, message=error.message)
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
                if not self._state.stop.is_begun:  # they come again with the next stream
                    self._received.add(event)
                    self._state.agenda.note_progress()
            case ev.AckReceived():
                self._on_ack(event.source, event.ack, now)
            case ev.HeartbeatReceived():
                self._step_raft(raft_ev.LeaderHeard(event.source), now)
            case ev.FrameTermSeen():
                if self._coupling.may_see(event.term):
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
                self._waits.on_wait_requested(event)
            case ev.ReadBarrierRequested():
                self._reads.on_read_requested(event)
            case ev.PromoteRequested():
                self._transfers.on_promote_requested(event, now)
                self._reads.look()
            case ev.DemoteRequested():
                self._transfers.on_demote_requested(event, now)
                self._reads.look()
            case ev.RegisterRequested():
                self._registration.on_register_requested(event, now)
            case ev.RelayConnected():
                self._on_relay_connected(event, now)
            case ev.RelayLost():
                self._look(self._links.on_relay_lost(event.peer, now))
            case ev.ApplierFollowing():
                if self._coupling.may_see(event.term):
                    self._look(self._links.on_applier_following(event, now))
            case ev.ApplierLost():
                self._look(self._links.on_applier_lost(event.peer, now))
            case ev.DoubledChanged():
                self._look(self._links.on_doubled_changed(event.is_doubled, now))
            case ev.OrphanChanged():
                self._on_orphan_changed(event.waits_for)
            case ev.RowsCutBack():
                self._on_rows_cut_back(event, now)
            case ev.ExpulsionTold():
                self._links.on_expulsion_told(event.queue_term)
            case ev.ClockCompared():
                self._state.memtx.clock.offset_us = event.offset_us
            case ev.SkipGranted():
                self._received.grant_skip(event.row)
            case ev.TurnBegan():
                self._writes.on_turn_began()
            case ev.IndexesBuilt():
                self._on_indexes_built(event, now)
            case ev.WalStuck():
                self._disk_cannot_keep_up(now)
            case ev.StoodStill():
                self._on_stood_still(now)
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
        state, first = self._state, self._state.raft.deadline
        for at in (self._retry_at, self._announce_at, state.stop.until):
            if at is not None and (first is None or at < first):
                first = at
        if self._transfers.running is None:  # nearly always
            return first
        at = self._transfers.deadline
        return first if at is None or (first is not None and first < at) else at

    def _finish(self, now: float) -> list[ev.Effect]:
        """Let go on what waited for something that this step brought; then hand out the effects."""
        state, agenda = self._state, self._state.agenda
        self._await_links(now)
        while agenda.progress or agenda.members:
            if agenda.members:
                agenda.take_members()
                self._look(self._coupling.count_members(now))
                self._await_links(now)  # what is there may be enough by a lower quorum [P-23]
            agenda.take_progress()
            if (wanted := self._received.wanted_term()) is not None:
                self._see_term(wanted, now)
            self._received.drain(now)
            self._writes.drain(now)
        self._reads.let_through()
        if self._transfers.promoted:
            self._transfers.review_promoted()
        if state.stop.is_begun:
            self._go_on_stopping(now)
        else:
            self._plan_announcement(now)
        effects = state.outbox.take()
        effects.extend(state.log.take_writes())
        if state.calls.replies:
            effects.append(ev.Replies(state.calls.take_replies()))
        return effects

    def _await_links(self, now: float) -> None:
        if self._transfers.running is not None:
            self._transfers.await_links(now)
            self._reads.look()

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
        if not state.stop.ask():
            return
        state.limbo.stop_counting()
        self._announce_at = self._retry_at = None
        self._writes.refuse_waiting()
        self._reads.stop()
        self._transfers.stop()
        self._txns.announce()  # what was committed; a deposed owner has nothing to say

    def _go_on_stopping(self, now: float) -> None:
        state = self._state
        if not state.log.in_flight:  # a CONFIRM on its way may still decide something
            self._waits.answer_undecided()
            state.stop.written(now, state.settings.replication_timeout_s)
        subscribers = self._links.subscribers & self._state.counting
        holders = self.limbo.holders(self.self_id, self.vclock.get(self.self_id))
        if state.stop.told(now, all_have_it=subscribers <= holders):
            self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
            state.outbox.add(ev.Stopped())

    # --- disk

    def _on_rows_written(self, event: ev.RowsWritten, now: float) -> None:
        state, vclock = self._state, event.vclock
        state.agenda.note_progress()
        for item in state.log.written(vclock):
            try:
                match item:
                    case PendingTxn():
                        if not item.is_queued:  # not in the queue: the own disk is enough
                            self._txns.commit((item,), state.limbo.term)
                        if item.submit_calls is not None:
                            self._txns.answer_submitted(item)
                    case ControlWrite(txn=txn, body=body):
                        self._carry_out(state.limbo.control_written(txn.origin, txn.lsn, body, now))
                        if isinstance(body, Promote | Demote):
                            state.agenda.note_members()  # Membership.writers
                        if state.limbo.has_rival:
                            self._step_raft(raft_ev.TermBumpRequested(), now)
                        elif state.limbo.is_given_away:
                            self._step_raft(raft_ev.ResignRequested(stand_again=False), now)
                    case HardStateWrite(state=hard):
                        self._step_raft(raft_ev.HardStatePersisted(hard.term, hard.vote, vclock), now)
                    case NopWrite(txn=txn):
                        self._txns.note_nops(txn)
                    case _:
                        assert_never(item)
            except Exception as error:
                error.add_note(f"while {item.txn.origin}:{item.txn.lsn} was told to be written: {item.txn!r}")
                raise
        self._carry_out(state.limbo.written(vclock, now))  # the own ack may be the quorum: log order
        self._step_raft(raft_ev.VclockGrew(vclock), now)
        self._forget_tombstones()
        if happened := self._links.check_trust(now):
            self._look(happened)

    def _on_rows_cut_back(self, event: ev.RowsCutBack, now: float) -> None:
        """[W-15], ADR 8: undo everything that was in flight, newest first; its LSNs are used again."""
        state = self._state
        if event.vclock != state.log.vclock:
            self._on_rows_written(ev.RowsWritten(event.vclock), now)
        lost: RaftState | None = None
        for item in state.log.cut_back(event.vclock, event.error):
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
        self._reads.cut_back()
        state.outbox.add(ev.ResetAppliers())
        if lost is not None:
            state.log.append_hard_state(lost)
        self._retry_at = now + state.settings.replication_timeout_s
        self._announce_at = None
        last_cut_at, self._last_cut_at = self._last_cut_at, now
        if last_cut_at is not None and now - last_cut_at <= state.settings.election_timeout_s:
            self._disk_cannot_keep_up(now)
        state.agenda.note_progress()

    def _disk_cannot_keep_up(self, now: float) -> None:
        """The disk is stuck, or has no room again and again. With elections another instance takes over;
        without (mode off) nobody would, and a person can tell better whether the disk comes back (ADR 16)."""
        if self.raft.is_leader and self.settings.election_mode is not ElectionMode.OFF:
            self._step_raft(raft_ev.ResignRequested(stand_again=False), now)

    def _on_stood_still(self, now: float) -> None:
        """With soft fencing it goes on until its links are dead: most pauses end before anybody stands."""
        settings = self.settings
        has_elections = settings.election_mode is not ElectionMode.OFF
        is_strict = settings.election_fencing_mode is FencingMode.STRICT
        has_others = self.raft.membership.election_quorum > 1  # else nobody can have been elected
        if self.raft.is_leader and has_elections and is_strict and has_others:
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
            self._carry_out(self.limbo.advance(now))
        if self._announce_at is not None and now >= self._announce_at:
            self._announce_at = None
            self._txns.announce()

    # --- calls

    def _on_call_expired(self, call_id: CallId, now: float) -> None:
        call = self._state.calls.waiting.get(call_id)
        match call:
            case None:
                return
            case PendingTxn():
                self._waits.expire(call_id, call)
            case ev.ClientWrite():
                self._writes.expire(call)
            case TransferCall(is_demote=is_demote):
                self._transfers.expire(call_id, is_demote, now)
            case ReadCall():
                self._reads.expire(call_id)
            case _:
                assert_never(call)

    def _on_abandoned(self, call_id: CallId) -> None:
        call = self._state.calls.forget(call_id)
        match call:
            case PendingTxn():
                call.detach(call_id)
            case ev.ClientWrite():
                self._writes.drop(call)
            case TransferCall():
                self._transfers.drop(call_id)
            case ReadCall():
                self._reads.drop(call_id)
            case None:
                pass
            case _:
                assert_never(call)

    # --- peers and terms

    def _see_term(self, term: Term, now: float) -> None:
        if happened := self._coupling.see_term(term, now):
            self._look(happened)

    def _on_peer_raft(self, event: ev.PeerRaftReceived, now: float) -> None:
        if self._state.is_anonymous:
            return  # no say in elections, and no part in them [E-3]
        try:
            event.message.validate(event.source)
            check_term(self._state, event.message.term)
        except SynchroError as error:
            self._received.stop(event.source, error)
            return
        self._step_raft(raft_ev.RaftMessageReceived(event.source, event.message), now)

    def _on_ack(self, source: InstanceId, ack: ev.Ack, now: float) -> None:
        """[Q-21], [L-5]: the term first, the votes after it.

        An ack says what a peer has on disk, and in which term it is. If that term is later than ours, the
        peer may have voted for another leader, who need not have the rows that the ack stands for. To count
        it would confirm here what the next owner may roll back. So the term deposes us, and fails our reads,
        before the ack or its echo is counted.
        """
        if not self._coupling.may_see(ack.term):
            return
        self._see_term(ack.term, now)
        if happened := self._links.on_ack(source, ack, now):
            self._look(happened)
        self._carry_out(self.limbo.quorum_said(source, ack.quorum, now))
        if not ack.counts:
            return
        if self._state.memtx.catalog.tombstones.count:
            self._settled.acked(source, ack.vclock)
            self._forget_tombstones()
        self._carry_out(self.limbo.ack(source, ack.vclock, now))
        if self._reads.barrier.is_open:
            self._reads.on_ack(source, ack)

    def _forget_tombstones(self) -> None:
        """ADR 44: deletions that all members have, and against which nothing older can come any more."""
        state = self._state
        tombstones = state.memtx.catalog.tombstones
        if tombstones.count:
            settled = self._settled.look(state.log.vclock, state.registered - {state.self_id})
            if settled is not None:
                tombstones.settled(settled)

    def _on_relay_connected(self, event: ev.RelayConnected, now: float) -> None:
        if not self._coupling.may_see(event.ack.term):
            return
        self._settled.began_anew(event.peer)
        self._look(self._links.on_relay_connected(event, now))
        self._on_ack(event.peer, event.ack, now)
        self._look(self._links.health_changed(now))

    # --- raft and limbo

    def _step_raft(self, event: raft_ev.RaftEvent, now: float) -> None:
        self._look(self._coupling.step_raft(event, now))

    def _carry_out(self, effects: Sequence[LimboEffect]) -> None:
        if effects:
            self._look(self._coupling.carry_out(effects))

    def _look(self, happened: Sequence[Happening]) -> None:
        """A step of raft or the limbo is over: those look whom it concerns, before more is counted."""
        if happened and self._transfers.running is not None:
            self._transfers.look(happened)
        if self._reads.is_open:
            self._reads.look()

    # --- settings

    def _on_settings_changed(self, settings: Settings, now: float) -> None:
        """What waits is judged again by the new values before this step ends: by the quorum what is in the
        queue, by the limits what waits for room."""
        state = self._state
        state.settings = settings
        state.limbo.max_size = settings.synchro_queue_max_size
        state.memtx.memory_max = settings.memtx_memory
        state.memtx.limits_changed(settings.limits)
        own, quorum = raft_settings(settings, state.self_id), state.election_membership().quorum
        self._step_raft(raft_ev.RaftSettingsChanged(own, quorum), now)
        self._reads.settings_changed()
        self._writes.settings_changed()
        state.agenda.note_members()
        state.agenda.note_progress()

    # --- sources

    def _on_orphan_changed(self, waits_for: tuple[str, ...]) -> None:
        state, was_orphan = self._state, self.is_orphan
        state.orphan_of = waits_for
        if self.is_orphan and not was_orphan:
            state.outbox.notice("orphan_began", sources=waits_for, message="entering orphan mode")
        elif was_orphan and not self.is_orphan:
            state.outbox.notice("orphan_ended", message="leaving orphan mode")
        state.agenda.note_progress()

    # --- checks

    def check(self) -> None:
        """Invariants of all parts. O(n): for tests and the simulator."""
        self._state.log.check()
        self._txns.check()
        self._links.check()
        self.raft.check()
        self.limbo.check()
        self._reads.check()
