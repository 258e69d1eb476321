"""Callers that wait for the decision of a transaction, or ask what became of one."""

from __future__ import annotations

from synchro.errors import SyncTimeout
from synchro.ids import NOBODY, CallId
from synchro.instance import events as ev
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.transactions import Transactions, conflict
from synchro.queue.fates import TxnFate, fate_by_lsn
from synchro.queue.limbo import QueueState
from synchro.row import TxnId

_FATES = {
    TxnFate.COMMITTED: ev.Fate.COMMITTED,
    TxnFate.ROLLED_BACK: ev.Fate.ROLLED_BACK,
    TxnFate.PENDING: ev.Fate.PENDING,
    TxnFate.UNKNOWN: ev.Fate.UNKNOWN,
}


class Waits:
    """What is said before the decision, or long after it. Nothing is decided here, and nothing by time."""

    __slots__ = ("_state", "_txns")

    def __init__(self, state: Parts, txns: Transactions) -> None:
        self._state = state
        self._txns = txns

    def answer_undecided(self) -> None:
        """The instance stops, and all rows are on disk: who waits for a decision hears what can be said."""
        for pending in self._txns.undecided:
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
            state.calls.refuse(call_id, conflict())
        elif is_wait:
            known = txn_id if self._txns.is_written(pending) else None
            state.calls.reply(call_id, ev.FateKnown(ev.Fate.PENDING, known))
        else:
            state.calls.reply(call_id, self._outcome_unknown(pending, txn_id, why))

    def _outcome_unknown(self, pending: PendingTxn, txn_id: TxnId, why: str) -> ev.OutcomeUnknown:
        text, details = self.why_undecided(pending, txn_id, why)
        error = SyncTimeout(
            f"{text}; the transaction stays in the queue, outcome unknown",
            outcome="unknown",
            stage="stopping" if why else None,
            **details,
        )
        return ev.OutcomeUnknown(error, txn_id if self._txns.is_written(pending) else None)

    def why_undecided(
        self, pending: PendingTxn, txn_id: TxnId, why: str = ""
    ) -> tuple[str, dict[str, object]]:
        """Why `pending` has no verdict, for people, and the facts: its name once that is on disk, who has it,
        who lacks it. why: as in `expire`."""
        state, limbo = self._state, self._state.limbo
        is_written = self._txns.is_written(pending)
        acked = limbo.holders(pending.origin, pending.lsn)
        missing = state.counting - acked
        name = f" for {txn_id}" if is_written else ""
        if why:
            text = f"{why} no quorum{name} yet ({len(acked)} of {limbo.quorum})"
        else:
            text = self._text_of(pending, name, len(acked))
        details: dict[str, object] = {
            "txn": txn_id if is_written else None,
            "acked": ",".join(map(str, sorted(acked))),
            "needed": limbo.quorum,
            "missing": ",".join(map(str, sorted(missing))),
        }
        return text, details

    def _text_of(self, pending: PendingTxn, name: str, acked: int) -> str:
        state, limbo = self._state, self._state.limbo
        if not self._txns.is_written(pending):
            return f"the disk of this instance did not write it in time ({state.settings.wal_dir})"
        if limbo.owner_id not in (NOBODY, state.self_id):  # a local one, or one sent again here
            return (
                f"not decided{name} in time: the queue belongs to instance {limbo.owner_id}, which decides, "
                "or the next owner"
            )
        if limbo.state is not QueueState.LEADER and limbo.term == state.raft.volatile_term:
            return f"not decided{name} in time: the queue is frozen until somebody is promoted"
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
                state.calls.reply(event.call_id, ev.FateKnown(ev.Fate.UNKNOWN))
                return
            txn_id = TxnId(known.origin, known.lsn)
            if known.is_decided:
                state.calls.reply(event.call_id, ev.FateKnown(ev.Fate.COMMITTED, txn_id))
                return
        pending = self._txns.find(txn_id)
        if pending is None:
            state.calls.reply(event.call_id, ev.FateKnown(self._fate_of(txn_id), txn_id))
            return
        if pending.waits is None:
            pending.waits = {}
        pending.waits[event.call_id] = pending.told_lsn(txn_id.lsn)
        state.calls.wait(event.call_id, pending)

    def _fate_of(self, txn_id: TxnId) -> ev.Fate:
        """The fate of a transaction that is not pending here; LSNs that were dropped are remembered apart
        [Q-48]."""
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
