"""A transaction that is not decided yet, and who waits for it."""

from __future__ import annotations

from synchro.errors import SynchroError
from synchro.ids import CallId, Lsn
from synchro.queue.entry import LimboEntry
from synchro.row import Txn, TxnId, new_tuple
from synchro.storage.prepared import Prepared


class PendingTxn(LimboEntry):
    """A data transaction from `prepare` to its decision; an entry of the limbo if it is in the queue.

    calls: answered when it is decided. submit_calls: answered when it is in the local WAL.
    waits: WaitTransaction calls. Each with the LSN that its caller is told (`told_lsn`).
    retries: those of `calls` and `submit_calls` that it was not made for: they repeat its request id.
    refusals: calls of *other* writes, refused because of a tuple of this one: their error may be told only if
    this one commits, else they were in conflict.
    skipped: what to say of its rows that were stored as Nops [A-35].
    """

    __slots__ = (
        "calls",
        "id",
        "is_membership",
        "is_queued",
        "is_whole",
        "prepared",
        "refusals",
        "retries",
        "skipped",
        "submit_calls",
        "txn",
        "waits",
    )

    def __init__(self, txn: Txn, prepared: Prepared, is_sync: bool, is_queued: bool, now: float) -> None:
        super().__init__(txn.origin, txn.lsn, is_sync, prepared.size, now, txn.call_count)
        self.id: TxnId = new_tuple(TxnId, (txn.origin, txn.lsn))
        self.txn = txn
        self.prepared = prepared
        self.is_queued = is_queued
        self.is_membership = False
        self.is_whole = False
        """Shared, and `calls` are those it was made for, none more, none less."""
        self.calls: dict[CallId, Lsn] | None = None
        self.submit_calls: dict[CallId, Lsn] | None = None
        self.waits: dict[CallId, Lsn] | None = None
        self.retries: set[CallId] | None = None
        self.refusals: list[tuple[CallId, SynchroError]] | None = None
        self.skipped: list[dict[str, object]] | None = None

    @property
    def is_sync(self) -> bool:
        """Its caller hears so."""
        return self.wait_ack

    @property
    def name(self) -> str:
        """For people."""
        txn = self.txn
        return f"{txn.origin}:{txn.tsn}..{txn.lsn}" if txn.is_shared else str(self.id)

    def told_lsn(self, lsn: Lsn) -> Lsn:
        """What a caller who asks for this LSN of it knows it by: in a shared one each row has its own."""
        return lsn if self.txn.is_shared else self.lsn

    def detach(self, call_id: CallId) -> None:
        """The caller is gone or was answered: forget it; the transaction goes on [Q-43]."""
        if self.calls and self.calls.pop(call_id, None) is not None:
            self.is_whole = False
        for calls in (self.submit_calls, self.waits):
            if calls:
                calls.pop(call_id, None)
        if self.retries:
            self.retries.discard(call_id)
        if self.refusals:
            self.refusals = [refusal for refusal in self.refusals if refusal[0] != call_id]
