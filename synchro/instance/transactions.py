"""Data transactions from `prepare` to their decision: own, received and recovered ones alike."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Final, cast

from synchro.errors import SynchroError, SyncRollback, TransactionConflict
from synchro.ids import CallId, InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.queue.effects import EntriesRolledBack
from synchro.replication import applier_filter
from synchro.row import Dml, Puts, Txn, TxnId
from synchro.storage import schema, xrow
from synchro.storage.ddl import Build
from synchro.storage.prepared import NO_SKIPS, Prepared, Skipped, Skips
from synchro.vclock import Vclock

_CUT_BACK: Final = ev.FateKnown(ev.Fate.UNKNOWN)


def conflict(with_one: str = "that is not decided yet") -> TransactionConflict:
    return TransactionConflict(
        f"Transaction has been aborted by conflict with one {with_one}; nothing was written"
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
    X4  Of the calls that wait for a transaction at most one is no retry: the one it was made for. In a shared
        one at most one for each row.
    """

    __slots__ = (
        "_state",
        "_undecided",
        "build",
        "built_for",
        "conflicts_skipped",
        "ddl",
        "decided",
        "last_skipped",
        "membership_change",
    )

    def __init__(self, state: Parts) -> None:
        self._state = state
        self.decided = ev.Position(state.limbo.term, state.limbo.confirmed_lsn)
        """The newest decided transaction that is known here."""
        self.conflicts_skipped: dict[InstanceId, int] = {}
        """origin -> its rows that this process stored as Nops [A-35]"""
        self.last_skipped: dict[InstanceId, Mapping[str, object]] = {}
        """origin -> what a person must know of the newest of them"""
        self._undecided: dict[TxnId, PendingTxn] = {}
        self.ddl: PendingTxn | None = None
        self.build: Build | None = None
        """Under way (Transactions.X3)."""
        self.built_for: object = None
        """The ClientWrite, or received Txn, that waits for it, as the first of its kind."""
        self.membership_change: PendingTxn | None = None
        """What changes `_cluster` and is not decided: one at a time (ADR 6, ADR 41)."""

    @property
    def undecided(self) -> list[PendingTxn]:
        """A copy, oldest first."""
        return list(self._undecided.values())

    def must_wait(self, ops: Sequence[Dml]) -> bool:
        """DDL is prepared alone, and nothing is prepared behind it (Transactions.X2)."""
        if self.ddl is not None or self.build is not None:
            return True
        return bool(self._undecided) and _is_ddl(ops)

    def begin_build(self, build: Build, waiter: object) -> None:
        """`BuildNeeded` was raised for `waiter`, which asks again when the build is over."""
        assert self.build is None and not self._undecided  # Transactions.X3
        self.build, self.built_for = build, waiter
        self._state.outbox.add(ev.BuildIndexes(build))

    def end_build(self) -> None:
        """The build is done, or nobody waits for it any more."""
        assert self.build is not None
        if self.build.is_done:
            self._state.memtx.catalog.built = self.build
        else:
            self.build.is_cancelled = True
        self.build = self.built_for = None
        self._state.agenda.note_progress()

    # --- in

    def enter(self, txn: Txn, prepared: Prepared, *, in_queue: bool, is_sync: bool, now: float) -> PendingTxn:
        """Keep `txn`, which is prepared and has its LSN, until its decision. in_queue: it waits for that in
        the limbo."""
        state = self._state
        pending = PendingTxn(txn, prepared, is_sync, in_queue, now)
        prepared.lsn = txn.lsn
        self._undecided[pending.id] = prepared.owner = pending
        if prepared.is_ddl:
            assert len(self._undecided) == 1  # Transactions.X2
            self.ddl = pending
            if prepared.draft is not None and prepared.draft.begins_policy:
                state.readers_of_policies.logged(frozenset(state.memtx.catalog.prepared_members()))
        if prepared.touches_system and schema.CLUSTER_ID in prepared.system:
            pending.is_membership = True
            self.membership_change = pending
            state.agenda.note_members()
        if in_queue:
            state.limbo.submit(pending)
        if txn.request_ids:
            state.requests.prepared(txn)
            if txn.has_unnamed:
                state.readers_of_unnamed.logged(frozenset(state.memtx.catalog.prepared_members()))
        return pending

    def prepare_received(self, txn: Txn, now: float, skips: Skips = NO_SKIPS) -> PendingTxn:
        """Its flags decide whether it waits, not our definition of the space [Q-14], [L-23].

        skips: which rows in conflict become Nops, in the log too [A-35]. None of them in a recovery: the log
        has the Nops as they were written."""
        state = self._state
        prepared = state.memtx.prepare(txn.ops, from_peer=True, origin=txn.origin, skips=skips)
        in_queue = txn.is_wait_sync and (not txn.is_local or state.limbo.must_wait())
        skipped = None
        if prepared.skipped is not None:
            skipped = self._conflicts(txn, prepared.skipped)
            txn = xrow.encode_txn(applier_filter.with_nops(txn, {at for at, _, _ in prepared.skipped}))
        state.log.follow(txn)
        pending = self.enter(txn, prepared, in_queue=in_queue, is_sync=txn.is_wait_ack, now=now)
        pending.skipped = skipped
        return pending

    def _conflicts(self, txn: Txn, skipped: Sequence[Skipped]) -> list[dict[str, object]]:
        """What a person must know of each row that becomes a Nop."""
        lsns = [row.lsn for row in txn.rows if isinstance(row.body, Dml)]
        catalog = self._state.memtx.catalog
        return [
            {
                "origin": txn.origin,
                "lsn": lsns[at],
                **catalog.place_of(op),
                "error": error.message,
                "policy": catalog.policy_of(op.space_id).value,
                "old_tuple": error.details.get("old_tuple"),
                "new_tuple": error.details.get("new_tuple"),
            }
            for at, op, error in skipped
        ]

    # --- out

    def commit(self, pendings: Sequence[PendingTxn], term: Term) -> None:
        """Oldest first, each answered by its own LSN [Q-26]. term: queue term of their segment, part of their
        positions in the history."""
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
            if pending.calls and not pending.retries:
                self._answer_committed(pending, pending.calls)
            elif pending.calls:
                self._answer_apart(pending, pending.calls, pending.retries or ())
            for call_id, error in pending.refusals or ():
                state.calls.refuse(call_id, error)
            self._settle(pending, ev.Fate.COMMITTED)
        if decided:
            self.decided = ev.Position(term, decided)

    def _answer_committed(self, pending: PendingTxn, calls: Mapping[CallId, Lsn]) -> None:
        answers = self._state.calls
        if pending.txn.is_shared:
            results = pending.prepared.results
            together = ev.CommittedTogether(calls, pending.origin, pending.txn.tsn, results)
            if pending.is_whole:
                answers.reply_together(calls, together)
            else:
                for call_id in calls:
                    answers.reply(call_id, together.of(call_id))
            return
        outcome = ev.Committed(pending.id, pending.prepared.results, pending.is_sync)
        for call_id in calls:
            new_id = answers.registering.get(call_id) if answers.registering else None
            answers.reply(call_id, outcome if new_id is None else self.registered_as(new_id))

    def _answer_apart(
        self, pending: PendingTxn, calls: Mapping[CallId, Lsn], retries: Container[CallId]
    ) -> None:
        """Retries hear what those hear that come after the decision."""
        first = {call_id: lsn for call_id, lsn in calls.items() if call_id not in retries}
        self._answer_committed(pending, first)
        for call_id, lsn in calls.items():
            if call_id not in first:
                txn_id = TxnId(pending.origin, lsn)
                outcome = ev.Committed(txn_id, is_sync=pending.is_sync, duplicate=True)
                self._state.calls.reply(call_id, outcome)

    def queue_changed_hands(self, term: Term) -> None:
        """term: of the queue, from now on."""
        self.decided = ev.Position(term, self._state.limbo.confirmed_lsn)

    def roll_back(self, effect: EntriesRolledBack) -> None:
        """A decided PROMOTE dropped them, newest first [Q-51]; nobody else may say SYNC_ROLLBACK."""
        for entry in effect.entries:
            pending = cast("PendingTxn", entry)
            error = None
            if pending.calls or pending.submit_calls:
                error = SyncRollback(
                    f"transaction {pending.name} was rolled back: the PROMOTE of term {effect.by_term} "
                    "did not hold it",
                    outcome="rolled_back",
                    by_term=effect.by_term,
                )
            self.undo(pending, error)
        self._note_all_dropped([cast("PendingTxn", entry).txn for entry in effect.entries])

    def undo(self, pending: PendingTxn, error: SynchroError | None) -> None:
        """error: for those who wait for it; None: nobody does."""
        state, txn = self._state, pending.txn
        state.memtx.rollback(pending.prepared)
        state.requests.rolled_back(txn)
        for call_id in (*(pending.calls or ()), *(pending.submit_calls or ())):
            assert error is not None
            state.calls.refuse(call_id, error)
        for call_id, _ in pending.refusals or ():
            state.calls.refuse(call_id, conflict("that was rolled back"))
        self._settle(pending, ev.Fate.ROLLED_BACK)

    def _settle(self, pending: PendingTxn, fate: ev.Fate) -> None:
        state = self._state
        del self._undecided[pending.id]
        pending.prepared.owner = None
        state.agenda.note_progress()
        if pending.waits:
            # Cut back before it was on disk: its LSN will name another transaction, so it is not told.
            is_written = self.is_written(pending)
            for call_id, lsn in pending.waits.items():
                known = ev.FateKnown(fate, TxnId(pending.origin, lsn)) if is_written else _CUT_BACK
                state.calls.reply(call_id, known)
        if self.ddl is pending:
            self.ddl = None
        if self.membership_change is pending:
            self.membership_change = None
        if pending.is_membership:
            state.agenda.note_members()

    def _note_skipped(self, origin: InstanceId, skipped: Sequence[dict[str, object]]) -> None:
        """[A-35]: they are on disk as Nops now; the operator asked for it, and is told of each."""
        counts = self.conflicts_skipped
        counts[origin] = counts.get(origin, 0) + len(skipped)
        self.last_skipped[origin] = skipped[-1]
        for facts in skipped:
            self._state.outbox.notice("conflict_skipped", is_warning=True, **facts)

    def note_nops(self, txn: Txn) -> None:
        """A whole transaction of Nops without a request id is on disk. It was rolled back, unless it was in
        conflict.

        Only who owned the queue once has transactions that another owner rolls back. Former versions did not
        mark those in conflict, so of such Nops without a mark nobody can say that they are done.
        """
        is_of_owner = txn.origin in self._state.limbo.promote_terms
        if is_of_owner and not txn.is_done_elsewhere and not txn.is_local:
            self._state.drops.add(txn.origin, txn.tsn, txn.lsn)

    def _note_all_dropped(self, txns: Sequence[Txn]) -> None:
        """Newest first. Neighbours are one range already: a full queue has tens of thousands."""
        run: tuple[InstanceId, Lsn, Lsn] | None = None
        for txn in txns:
            if txn.is_local:
                continue
            if run is not None and run[0] == txn.origin and run[1] == txn.lsn + 1:
                run = (run[0], txn.tsn, run[2])
                continue
            if run is not None:
                self._state.drops.add(*run)
            run = (txn.origin, txn.tsn, txn.lsn)
        if run is not None:
            self._state.drops.add(*run)

    def answer_submitted(self, pending: PendingTxn) -> None:
        retries = pending.retries or ()
        for call_id, lsn in (pending.submit_calls or {}).items():
            txn_id, is_retry = TxnId(pending.origin, lsn), call_id in retries
            self._state.calls.reply(call_id, ev.Submitted(txn_id, pending.is_sync, duplicate=is_retry))
        pending.submit_calls = None

    # --- telling what was decided

    def announce(self) -> None:
        """Put the CONFIRM of what was committed here into the log, ahead of what is numbered next.

        What a quorum holds is committed at once, without a row that says so (ADR 11). The next own row may
        build on it, and an instance that reads the log, or recovery, must not meet that row first: it would
        commit the two in another order. So the CONFIRM takes the LSN just before it. While nothing is written
        nobody can tell a difference, and one CONFIRM serves for many commits.
        """
        state = self._state
        body = state.limbo.announce()
        if body is not None:
            state.log.append_own_control(body, state.log.next_lsn(state.self_id), is_barrier=False)

    def registered_as(self, instance: InstanceId) -> ev.Registered:
        """Whoever reads the log up to this vclock has the `_cluster` row, and the CONFIRM that decided it."""
        self.announce()
        return ev.Registered(instance, Vclock(self._state.log.assigned))

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

    def is_written(self, pending: PendingTxn) -> bool:
        return pending.txn.lsn <= self._state.log.vclock.get(pending.txn.origin)

    def check(self) -> None:
        waiting = [p for p in self._state.log.pending_txns() if not p.is_queued]
        assert len(self._undecided) == len(waiting) + len(self._state.limbo)  # Transactions.X1
        assert all(p.prepared.owner is p for p in self._undecided.values())  # Transactions.X1
        assert self.ddl is None or len(self._undecided) == 1  # Transactions.X2
        assert self.build is None or not self._undecided  # Transactions.X3
        for pending in self._undecided.values():
            waiting_calls = (*(pending.calls or {}).items(), *(pending.submit_calls or {}).items())
            told = [lsn for call_id, lsn in waiting_calls if call_id not in (pending.retries or ())]
            assert len(told) == len(set(told))  # Transactions.X4
