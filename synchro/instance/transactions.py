"""Data transactions from `prepare` to their decision: own, received and recovered ones alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from synchro.errors import SynchroError, SyncRollback, SyncTimeout, TransactionConflict
from synchro.ids import CallId, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.instance.parts import State
from synchro.instance.pending_txn import PendingTxn
from synchro.queue.effects import EntriesRolledBack
from synchro.queue.fates import TxnFate, fate_by_lsn
from synchro.queue.limbo import QueueState
from synchro.replication import applier_filter
from synchro.row import Dml, Puts, Txn, TxnId
from synchro.storage import schema, xrow
from synchro.storage.ddl import Build
from synchro.storage.memtx import Prepared
from synchro.storage.prepared import Skipped

_FATES = {
    TxnFate.COMMITTED: ev.Fate.COMMITTED,
    TxnFate.ROLLED_BACK: ev.Fate.ROLLED_BACK,
    TxnFate.PENDING: ev.Fate.PENDING,
    TxnFate.UNKNOWN: ev.Fate.UNKNOWN,
}

_CUT_BACK: Final = ev.FateKnown(ev.Fate.UNKNOWN)


def conflict() -> TransactionConflict:
    return TransactionConflict(
        "Transaction has been aborted by conflict with one that is not decided yet; nothing was written"
    )


def _is_ddl(ops: Sequence[Dml]) -> bool:
    """A run of changes of one space tells by its first."""
    if isinstance(ops, Puts):
        return schema.is_ddl_space(ops.space_id)
    return any(schema.is_ddl_space(op.space_id) for op in ops)


class Transactions:
    """Undecided data transactions, and what happens when they are decided.

    X1  `_undecided` holds those that are prepared and neither committed nor rolled back, oldest first.
    X2  While a DDL transaction is undecided it is the only one: rows never meet a schema that may vanish.
    X3  While indexes are built for one that is not prepared yet, nothing is prepared: no tuple changes.
    """

    __slots__ = ("_state", "_undecided", "build", "built_for", "ddl", "membership_change")

    def __init__(self, state: State) -> None:
        self._state = state
        self._undecided: dict[TxnId, PendingTxn] = {}
        self.ddl: PendingTxn | None = None
        self.build: Build | None = None
        """Under way (Transactions.X3)."""
        self.built_for: object = None
        """The ClientWrite, or received Txn, that waits for it, as the first of its kind."""
        self.membership_change: PendingTxn | None = None
        """The registration that was asked for here and is not decided: one at a time (ADR 6)."""

    @property
    def undecided(self) -> int:
        return len(self._undecided)

    def must_wait(self, ops: Sequence[Dml]) -> bool:
        """DDL is prepared alone, and nothing is prepared behind it (Transactions.X2)."""
        if self.ddl is not None or self.build is not None:
            return True
        return bool(self._undecided) and _is_ddl(ops)

    def begin_build(self, build: Build, waiter: object) -> None:
        """`BuildNeeded` was raised for `waiter`, which asks again when the build is over."""
        assert self.build is None and not self._undecided  # Transactions.X3
        self.build, self.built_for = build, waiter
        self._state.effects.append(ev.BuildIndexes(build))

    def end_build(self) -> None:
        """It is done, or nobody waits for it any more."""
        assert self.build is not None
        if self.build.is_done:
            self._state.memtx.built = self.build
        else:
            self.build.is_cancelled = True
        self.build = self.built_for = None
        self._state.progressed = True

    # --- in

    def enter(self, txn: Txn, prepared: Prepared, *, in_queue: bool, is_sync: bool, now: float) -> PendingTxn:
        """It is prepared and has its LSN. in_queue: it waits in the limbo for its decision."""
        state = self._state
        pending = PendingTxn(txn, prepared, is_sync, in_queue, now)
        self._undecided[pending.id] = prepared.owner = pending
        if prepared.is_ddl:
            assert self.undecided == 1  # Transactions.X2
            self.ddl = pending
        if prepared.touches_system and schema.CLUSTER_ID in prepared.system:
            pending.is_membership = True
            state.membership_touched = True
        if in_queue:
            state.limbo.submit(pending)
        if txn.request_ids:
            state.requests.prepared(txn)
        return pending

    def prepare_received(self, txn: Txn, now: float, *, skip_conflicts: bool = False) -> PendingTxn:
        """Its flags decide whether it waits, not our definition of the space [Q-14], [L-23].

        skip_conflicts: a row in conflict becomes a Nop, in the log too [A-35]."""
        state = self._state
        prepared = state.memtx.prepare(txn.ops, from_peer=True, skip_conflicts=skip_conflicts)
        skipped = None
        if prepared.skipped is not None:
            skipped = self._conflicts(txn, prepared.skipped)
            txn = xrow.encode_txn(applier_filter.with_nops(txn, {at for at, _, _ in prepared.skipped}))
        state.log.follow(txn)
        in_queue = txn.is_wait_sync and (not txn.is_local or state.limbo.must_wait())
        pending = self.enter(txn, prepared, in_queue=in_queue, is_sync=txn.is_wait_ack, now=now)
        pending.skipped = skipped
        return pending

    def _conflicts(self, txn: Txn, skipped: Sequence[Skipped]) -> list[dict[str, object]]:
        """What a person must know of each row that becomes a Nop."""
        lsns = [row.lsn for row in txn.rows if isinstance(row.body, Dml)]
        return [
            {
                "origin": txn.origin,
                "lsn": lsns[at],
                **self._state.memtx.place_of(op),
                "error": error.message,
            }
            for at, op, error in skipped
        ]

    # --- out

    def commit(self, pendings: Sequence[PendingTxn], term: Term) -> None:
        """Oldest first. term: queue term of their segment, part of their positions in the history."""
        state = self._state
        commit, committed = state.memtx.commit, state.requests.committed
        ours = (state.limbo.owner_id, state.self_id)
        decided = Lsn(0)
        for pending in pendings:
            origin, lsn = pending.id
            if pending.skipped:
                self._note_skipped(origin, pending.skipped)
            commit(pending.prepared)
            if pending.txn.request_ids:
                committed(pending.txn, term)
            if origin and origin in ours:
                decided = lsn
            if pending.calls:
                self._answer_committed(pending, pending.calls)
            for call_id, error in pending.refusals or ():
                state.refuse(call_id, error)
            self._settle(pending, ev.Fate.COMMITTED)
        if decided:
            state.decided = ev.Position(term, decided)

    def _answer_committed(self, pending: PendingTxn, calls: Mapping[CallId, Lsn]) -> None:
        state = self._state
        if pending.txn.is_shared:
            results = pending.prepared.results
            together = ev.CommittedTogether(calls, pending.origin, pending.txn.tsn, results)
            if pending.is_whole:
                state.reply_together(calls, together)
            else:
                for call_id in calls:
                    state.reply(call_id, together.of(call_id))
            return
        outcome = ev.Committed(pending.id, pending.prepared.results, pending.is_sync)
        for call_id in calls:
            new_id = state.registering.get(call_id) if state.registering else None
            state.reply(call_id, outcome if new_id is None else state.registered_as(new_id))

    def roll_back(self, effect: EntriesRolledBack) -> None:
        """A decided PROMOTE dropped them, newest first [Q-51]; nobody else may say SYNC_ROLLBACK."""
        for entry in effect.entries:
            pending = cast("PendingTxn", entry)
            error = SyncRollback(
                f"transaction {pending.name} was rolled back: the PROMOTE of term {effect.by_term} "
                "did not hold it",
                outcome="rolled_back",
                by_term=effect.by_term,
            )
            self.note_dropped(pending.txn)
            self.undo(pending, error)

    def undo(self, pending: PendingTxn, error: SynchroError) -> None:
        state, txn = self._state, pending.txn
        state.memtx.rollback(pending.prepared)
        state.requests.rolled_back(txn)
        for call_id in (*(pending.calls or ()), *(pending.submit_calls or ())):
            state.refuse(call_id, error)
        for call_id, _ in pending.refusals or ():
            state.refuse(call_id, conflict())
        self._settle(pending, ev.Fate.ROLLED_BACK)

    def _settle(self, pending: PendingTxn, fate: ev.Fate) -> None:
        state = self._state
        del self._undecided[pending.id]
        pending.prepared.owner = None
        state.progressed = True
        if pending.waits:
            # Cut back before it was on disk: its LSN will name another transaction, so it is not told.
            is_written = self._is_written(pending)
            for call_id, lsn in pending.waits.items():
                known = ev.FateKnown(fate, TxnId(pending.origin, lsn)) if is_written else _CUT_BACK
                state.reply(call_id, known)
        if self.ddl is pending:
            self.ddl = None
        if self.membership_change is pending:
            self.membership_change = None
        if pending.is_membership:
            state.membership_touched = True

    def _note_skipped(self, origin: InstanceId, skipped: Sequence[dict[str, object]]) -> None:
        """[A-35]: they are on disk as Nops now; the operator asked for it, and is told of each."""
        counts = self._state.conflicts_skipped
        counts[origin] = counts.get(origin, 0) + len(skipped)
        for facts in skipped:
            self._state.notice("conflict_skipped", is_warning=True, **facts)

    def note_nops(self, txn: Txn) -> None:
        """A whole transaction of Nops is on disk. Only who owned the queue once has transactions that another
        owner rolls back; Nops of all others stand for rows in conflict, of what its origin committed."""
        if txn.origin in self._state.limbo.promote_terms:
            self.note_dropped(txn)

    def note_dropped(self, txn: Txn) -> None:
        """Its LSNs have no effect: rolled back, or stored as NOPs."""
        if not txn.is_local:
            self._state.drops.add(txn.origin, txn.tsn, txn.lsn)

    def answer_submitted(self, pending: PendingTxn) -> None:
        for call_id, lsn in (pending.submit_calls or {}).items():
            self._state.reply(call_id, ev.Submitted(TxnId(pending.origin, lsn), pending.is_sync))
        pending.submit_calls = None

    # --- looking for one

    def find(self, txn_id: TxnId) -> PendingTxn | None:
        """By any LSN of it: one in the middle is no more decided than the last one."""
        found = self._undecided.get(txn_id)
        if found is not None:
            return found
        entry = self._state.limbo.entry_at(*txn_id)
        if isinstance(entry, PendingTxn) and entry.txn.tsn <= txn_id.lsn:
            return entry
        for pending in self._state.log.pending_txns():
            if pending.origin == txn_id.origin and pending.txn.tsn <= txn_id.lsn <= pending.lsn:
                return pending
        return None

    def find_prepared(self, prepared: Prepared) -> PendingTxn:
        assert isinstance(prepared.owner, PendingTxn)
        return prepared.owner

    def _is_written(self, pending: PendingTxn) -> bool:
        return pending.txn.lsn <= self._state.log.vclock.get(pending.txn.origin)

    # --- asking about one

    def answer_undecided(self) -> None:
        """The instance stops, and all rows are on disk: who waits for a decision hears what can be said."""
        for pending in list(self._undecided.values()):
            refused = [call_id for call_id, _ in pending.refusals or ()]
            for calls in (pending.calls, pending.submit_calls, pending.waits, refused):
                for call_id in list(calls or ()):
                    self.expire(call_id, pending, why="the instance is stopping, and there is")

    def expire(self, call_id: CallId, pending: PendingTxn, *, why: str = "") -> None:
        """The caller's time is over; the transaction stays (ADR 3), [L-29]. why: it is not for its time."""
        state = self._state
        is_refusal = any(refusal[0] == call_id for refusal in pending.refusals or ())
        is_wait = call_id in (pending.waits or ())
        all_calls = (pending.calls, pending.submit_calls, pending.waits)
        lsn = next((calls[call_id] for calls in all_calls if calls and call_id in calls), pending.lsn)
        txn_id = TxnId(pending.origin, lsn)
        pending.detach(call_id)
        if is_refusal:
            state.refuse(call_id, conflict())
        elif is_wait:
            known = txn_id if self._is_written(pending) else None
            state.reply(call_id, ev.FateKnown(ev.Fate.PENDING, known))
        else:
            state.reply(call_id, self._outcome_unknown(pending, txn_id, why))

    def _outcome_unknown(self, pending: PendingTxn, txn_id: TxnId, why: str) -> ev.OutcomeUnknown:
        state = self._state
        limbo = state.limbo
        is_written = self._is_written(pending)
        acked = limbo.holders(pending.origin, pending.lsn)
        missing = state.registered - acked
        name = f" for {txn_id}" if is_written else ""
        if why:
            text = f"{why} no quorum{name} yet ({len(acked)} of {limbo.quorum})"
        else:
            text = self._why_undecided(pending, name, len(acked))
        error = SyncTimeout(
            f"{text}; the transaction stays in the queue, outcome unknown",
            outcome="unknown",
            stage="stopping" if why else None,
            txn=txn_id if is_written else None,
            acked=",".join(map(str, sorted(acked))),
            needed=limbo.quorum,
            missing=",".join(map(str, sorted(missing))),
        )
        return ev.OutcomeUnknown(error, txn_id if is_written else None)

    def _why_undecided(self, pending: PendingTxn, name: str, acked: int) -> str:
        state, limbo = self._state, self._state.limbo
        if not self._is_written(pending):
            return f"the disk of this instance did not write it in time ({state.settings.wal_dir})"
        if limbo.state is not QueueState.LEADER:
            return (
                f"not decided{name} in time: this instance lost the queue of term {limbo.term} (the term is "
                f"{state.raft.volatile_term} now), its next owner decides"
            )
        if acked >= limbo.effective_quorum:
            return (
                f"not decided{name} in time: {acked} of {limbo.quorum} instances have it, but what is ahead "
                "of it, or the CONFIRM, is not on disk yet"
            )
        return f"no quorum{name} in time ({acked} of {limbo.quorum})"

    def on_wait_requested(self, event: ev.WaitRequested) -> None:
        state, txn_id = self._state, event.txn
        if txn_id is None:
            assert event.request_id is not None  # the service checks that one of both is given
            known = state.requests.find(event.request_id)
            if known is None:
                state.reply(event.call_id, ev.FateKnown(ev.Fate.UNKNOWN))
                return
            txn_id = TxnId(known.origin, known.lsn)
            if known.is_decided:
                state.reply(event.call_id, ev.FateKnown(ev.Fate.COMMITTED, txn_id))
                return
        pending = self.find(txn_id)
        if pending is None:
            state.reply(event.call_id, ev.FateKnown(self._fate_of(txn_id), txn_id))
            return
        if pending.waits is None:
            pending.waits = {}
        pending.waits[event.call_id] = pending.told_lsn(txn_id.lsn)
        state.calls[event.call_id] = pending

    def _fate_of(self, txn_id: TxnId) -> ev.Fate:
        """Of a transaction that is not pending here; LSNs that were dropped are remembered apart."""
        state = self._state
        fate = fate_by_lsn(
            txn_id.origin,
            txn_id.lsn,
            drops=state.drops,
            confirmed_vclock=state.limbo.confirmed_vclock,
            written_lsn=state.log.vclock.get(txn_id.origin),
            is_pending=False,
        )
        return _FATES[fate]

    def check(self) -> None:
        waiting = [p for p in self._state.log.pending_txns() if not p.is_queued]
        assert len(self._undecided) == len(waiting) + len(self._state.limbo)  # Transactions.X1
        assert all(p.prepared.owner is p for p in self._undecided.values())  # Transactions.X1
        assert self.ddl is None or self.undecided == 1  # Transactions.X2
        assert self.build is None or not self._undecided  # Transactions.X3
