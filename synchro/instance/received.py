"""Rows from peers: in order, once, as a whole; held back where something undecided decides their meaning.

Without an owner of the queue nothing orders rows of different origins: the one that is applied last stays,
on each instance for itself, and nothing is compared to resolve that [A-50], [A-51].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from synchro.errors import SynchroError, TupleFound
from synchro.ids import InstanceId, Lsn, Term
from synchro.instance import events as ev
from synchro.instance.coupling import check_term
from synchro.instance.log_tail import NopWrite
from synchro.instance.parts import Parts
from synchro.instance.transactions import Transactions
from synchro.queue.limbo import DataVerdict
from synchro.replication import applier_filter
from synchro.row import Confirm, Control, Demote, Dml, Promote, Txn, TxnId
from synchro.storage import xrow
from synchro.storage.memtx import may_be_left_out
from synchro.storage.prepared import NO_SKIPS, BuildNeeded, PendingRefusal, Skips

GRANTED_MAX: Final = 10_000
"""More than the rows that a transaction of clients may have."""


class Received:
    """Transactions that arrived and are not in the log yet, in the order they came.

    B1  While a barrier is in flight nothing of it is looked at, and while a DDL transaction is undecided no
        data row is prepared.
    B2  What a stopped source had delivered is never applied.
    B3  A control row is looked at when all rows that it decides are in the queue, and when it changes nothing
        for those that wait.
    """

    __slots__ = ("_backlog", "_granted", "_state", "_stopped", "_txns")

    def __init__(self, state: Parts, txns: Transactions) -> None:
        self._state = state
        self._txns = txns
        self._backlog: deque[tuple[InstanceId, Txn]] = deque()
        self._stopped: set[InstanceId] = set()
        self._granted: set[TxnId] = set()
        """Rows that may be left out, at most `GRANTED_MAX`; they go when they are in the log."""

    def add(self, event: ev.TxnsReceived) -> None:
        self._backlog.extend((event.source, txn) for txn in event.txns)

    @property
    def newest(self) -> dict[InstanceId, Lsn]:
        """Of what waits here, and may come into the log yet: origin -> its newest LSN."""
        newest: dict[InstanceId, Lsn] = {}
        for source, txn in self._backlog:
            if source not in self._stopped:
                newest[txn.origin] = max(txn.lsn, newest.get(txn.origin, Lsn(0)))
        return newest

    def forget(self) -> None:
        """Rows were cut back: the streams start again from what is written."""
        self._backlog.clear()

    def follows(self, source: InstanceId) -> None:
        """Its stream begins: what an earlier one, which was stopped, had delivered goes (Received.B2)."""
        if source in self._stopped:
            self._stopped.discard(source)
            left = [item for item in self._backlog if item[0] != source]
            self._backlog.clear()
            self._backlog.extend(left)

    def stop(self, source: InstanceId, error: SynchroError) -> None:
        """The applier of `source` stops until an operator acts; other peers keep working [A-40], [A-52]."""
        self._stopped.add(source)
        self._state.outbox.add(ev.StopApplier(source, error))

    def grant_skip(self, row: TxnId) -> None:
        """A transaction with several rows in conflict needs a word for each of them."""
        self._forget_granted()
        if len(self._granted) < GRANTED_MAX:
            self._granted.add(row)

    def _forget_granted(self) -> None:
        vclock = self._state.log.vclock
        self._granted = {one for one in self._granted if one.lsn > vclock.get(one.origin)}

    def wanted_term(self) -> Term | None:
        """Term that must be adopted before the next transaction can be written.

        A PROMOTE or DEMOTE goes to disk behind its term, or a restart could vote in a term that was already
        promoted (ADR 1).
        """
        if self._backlog and not self._state.log.barriers:
            source, txn = self._backlog[0]
            control = txn.control
            if isinstance(control, Promote | Demote) and self._is_wanted(source, control.term):
                return control.term
        return None

    def _is_wanted(self, source: InstanceId, term: Term) -> bool:
        """Its term is adopted only if the row will be looked at, and not refused for it."""
        if source in self._stopped:
            return False
        try:
            check_term(self._state, term)
        except SynchroError as error:
            self.stop(source, error)
            return False
        return True

    def drain(self, now: float) -> None:
        """Apply what may be applied now."""
        backlog, log, txns = self._backlog, self._state.log, self._txns
        while backlog and not log.barriers:
            source, txn = backlog[0]
            if source not in self._stopped and not self._try(source, txn, now):
                break
            backlog.popleft()
        if (
            txns.build
            and isinstance(txns.built_for, Txn)
            and not (backlog and backlog[0][1] is txns.built_for)
        ):
            txns.end_build()  # it was dropped, or it means nothing any more
        if (txns.ddl is not None or txns.build is not None) and backlog and not log.barriers:
            self._pass_control_row(now)

    def _pass_control_row(self, now: float) -> None:
        """A control row goes past data that waits for a DDL decision, or for an index that is built, if
        nothing of its origin waits too. Received.B3."""
        waiting: list[Txn] = []
        origins: dict[InstanceId, Lsn] = {}
        for position, (source, txn) in enumerate(self._backlog):
            control = txn.control
            if (
                control is not None
                and txn.origin not in origins
                and not _builds_on(control, waiting, origins)
                and not self._changes(txn.origin, control, waiting)
            ):
                if self._try(source, txn, now):
                    del self._backlog[position]
                    self._state.agenda.note_progress()
                return
            origins.setdefault(txn.origin, txn.lsn)
            waiting.append(txn)

    def _changes(self, origin: InstanceId, control: Control, waiting: Sequence[Txn]) -> bool:
        """Whether a CONFIRM decides a transfer of the queue, so that rows which wait would be judged by a new
        term [P-50]. What that transfer rolls back anyway means the same before and after it."""
        if not isinstance(control, Confirm):
            return False
        transfer = self._state.limbo.pending.announced_by(control.owner, control.lsn)
        if transfer is None or origin != control.owner:
            return False
        lost, border = transfer.body.prev_owner, transfer.body.lsn
        return any(
            txn.control is not None or not txn.is_wait_sync or txn.origin != lost or txn.lsn <= border
            for txn in waiting
        )

    def _try(self, source: InstanceId, txn: Txn, now: float) -> bool:
        """False: it must wait, ask again after progress."""
        try:
            return self._apply(txn, now)
        except SynchroError as error:
            self.stop(source, self._named(error, txn))
            return True
        except Exception as error:
            error.add_note(f"while {txn.origin}:{txn.lsn}, from instance {source}, was applied: {txn!r}")
            raise

    def _named(self, error: SynchroError, txn: Txn) -> SynchroError:
        """Which row stops the stream: an operator must find it. The text of a duplicate key is [D-9]'s."""
        details: dict[str, str] = {"txn": f"{txn.origin}:{txn.lsn}"}
        at = int(error.details.get("op", -1))
        rows = [row for row in txn.rows if isinstance(row.body, Dml)]
        if 0 <= at < len(rows):
            body = rows[at].body
            assert isinstance(body, Dml)
            details["at"] = f"{txn.origin}:{rows[at].lsn}"
            details |= self._state.memtx.catalog.place_of(body)
            if may_be_left_out(error, body) and self._may_skip(txn):
                details["skippable"] = "yes"
        error.details = {**{k: v for k, v in error.details.items() if k != "op"}, **details}
        if not isinstance(error, TupleFound):
            error.message += f" (at {details.get('at', details['txn'])})"
        return error

    def _apply(self, txn: Txn, now: float) -> bool:
        state = self._state
        if applier_filter.order(txn, state.log.assigned) is applier_filter.Place.OLD:
            return True
        control = txn.control
        if control is not None:
            return self._apply_control(txn, control)
        is_nop = txn.is_nop
        if is_nop and not txn.is_done_request:
            self._write_nops(txn)
            return True
        verdict = state.limbo.filter_data(txn.origin, wait_sync=txn.is_wait_sync, is_nop=is_nop)
        if verdict is DataVerdict.NOP:
            self._write_nops(xrow.encode_txn(applier_filter.as_nops(txn)))
            return True
        if self._txns.must_wait(txn.ops):
            return False
        may_skip = self._may_skip(txn)
        if self._granted:
            self._forget_granted()
        skips = NO_SKIPS
        if may_skip:
            named = self._named_rows(txn) if self._granted else ()
            skips = Skips(state.settings.skip_conflict, by_policy=True, at=named)
        try:
            pending = self._txns.prepare_received(txn, now, skips)
        except PendingRefusal:
            return False
        except BuildNeeded as needed:
            self._txns.begin_build(needed.build, txn)
            return False
        state.log.append(pending)
        return True

    def _named_rows(self, txn: Txn) -> frozenset[int]:
        """Positions among its operations of those that a person may leave out (ADR 19)."""
        lsns = (row.lsn for row in txn.rows if isinstance(row.body, Dml))
        return frozenset(at for at, lsn in enumerate(lsns) if TxnId(txn.origin, lsn) in self._granted)

    @staticmethod
    def _may_skip(txn: Txn) -> bool:
        """Never what waits for a quorum, asynchronous or not: its ack stands for its real bytes, or the next
        owner lacks what was acknowledged (ADR 10, 19). A shared one has no Nops in it (ADR 13)."""
        return not txn.is_wait_sync and not txn.is_shared

    def _apply_control(self, txn: Txn, control: Control) -> bool:
        state = self._state
        if isinstance(control, Promote | Demote) and state.log.hard_state_term < control.term:
            check_term(state, control.term)
            return False  # `wanted_term`
        state.limbo.filter_control(txn.origin, txn.lsn, control)
        state.log.follow(txn)
        is_barrier = state.limbo.is_barrier(txn.origin, control)
        state.log.append_control(txn, control, is_barrier=is_barrier)
        return True

    def _write_nops(self, txn: Txn) -> None:
        self._state.log.follow(txn)
        self._state.log.append(NopWrite(txn))


def _builds_on(control: Control, waiting: Sequence[Txn], origins: Mapping[InstanceId, Lsn]) -> bool:
    """Whether a PROMOTE or DEMOTE decides, or follows, a row that was not looked at yet. waiting: such rows;
    origins: origin -> LSN of the first of them."""
    if not isinstance(control, Promote | Demote):
        return False
    first = origins.get(control.prev_owner)
    if first is not None and first <= control.lsn:
        return True
    transfers = (txn.control for txn in waiting if isinstance(txn.control, Promote | Demote))
    return any(transfer.term == control.prev_term for transfer in transfers)
