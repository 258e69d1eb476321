"""The end of the own log: which LSNs are given, what is on its way to disk, what must be written next.

Rules [W-2], [W-3], [W-14].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from synchro.errors import SynchroError
from synchro.ids import LOCAL, InstanceId, Lsn, RequestId, Term
from synchro.instance.events import WriteRows
from synchro.instance.pending_txn import PendingTxn
from synchro.row import (
    CONTROL_ROW_TYPE,
    FLAG_COMMIT,
    GROUP_DEFAULT,
    GROUP_LOCAL,
    PENDING_ROW_BYTES,
    Confirm,
    Control,
    Dml,
    PlainTxn,
    RaftState,
    Row,
    RowType,
    Txn,
)
from synchro.storage import xrow
from synchro.vclock import Vclock


class ControlWrite:
    """A CONFIRM, PROMOTE, DEMOTE or ROLLBACK on its way to disk. is_barrier: nothing received after it
    may be looked at before it is written, because it changes what those rows mean."""

    __slots__ = ("body", "is_barrier", "txn")

    def __init__(self, txn: Txn, body: Control, *, is_barrier: bool) -> None:
        self.txn = txn
        self.body = body
        self.is_barrier = is_barrier


class HardStateWrite:
    """Term and vote on their way to disk."""

    __slots__ = ("state", "txn")

    def __init__(self, txn: Txn, state: RaftState) -> None:
        self.txn = txn
        self.state = state


class NopWrite:
    """Rows without effect on their way to disk; they only move the vclock."""

    __slots__ = ("txn",)

    def __init__(self, txn: Txn) -> None:
        self.txn = txn


InFlight: TypeAlias = PendingTxn | ControlWrite | HardStateWrite | NopWrite


class LogTail:
    """Rows between the core and the disk, in WAL order.

    G1  `in_flight` holds what is between `WriteRows` and `RowsWritten`, oldest first.
    G2  vclock (synced) <= assigned (synced or in flight), and they are equal when nothing is in flight.
    G3  `barriers` counts the control rows in flight behind which nothing received may be looked at.
    G4  `bytes` is the size of what is in flight, in the log and in memory.
    """

    __slots__ = (
        "_has_control",
        "_next",
        "_ready",
        "_self_id",
        "assigned",
        "barriers",
        "bytes",
        "hard_state_term",
        "in_flight",
        "no_room",
        "vclock",
    )

    def __init__(self, self_id: InstanceId, vclock: Vclock, hard_state_term: Term) -> None:
        self._self_id = self_id
        self.vclock = vclock
        self.assigned: dict[InstanceId, Lsn] = vclock.as_dict()
        self.in_flight: deque[InFlight] = deque()
        self.barriers = 0
        self.bytes = 0
        self.hard_state_term = hard_state_term
        """Highest term that is on disk or ahead of everything that is written from now on."""
        self.no_room: SynchroError | None = None
        """Why the last rows of data were cut back from the log; None: the disk has taken some since."""
        self._next: list[Txn] = []
        self._has_control = False
        self._ready: list[WriteRows] = []

    def registered_as(self, self_id: InstanceId) -> None:
        """An anonymous instance is a member from now on; it has given LSNs to local rows only."""
        self._self_id = self_id

    @property
    def unwritten(self) -> dict[InstanceId, Lsn]:
        """Of what is on its way to disk: origin -> its newest LSN."""
        return {origin: lsn for origin, lsn in self.assigned.items() if lsn > self.vclock.get(origin)}

    # --- giving LSNs

    def next_lsn(self, instance: InstanceId) -> Lsn:
        lsn = Lsn(self.assigned.get(instance, 0) + 1)
        self.assigned[instance] = lsn
        return lsn

    def number(
        self, ops: Sequence[Dml], local: Sequence[bool], flags: int, request_ids: Sequence[RequestId | None]
    ) -> Txn:
        """An own data transaction. flags: of its last row. request_ids: as in `Txn`.

        Local rows come first, so that what a relay leaves out of a mixed transaction is a prefix, and the
        last row, with its flags, is one that peers get [A-37], [D-29].
        """
        self_id = self._self_id
        if True not in local:
            first_lsn = Lsn(self.assigned.get(self_id, 0) + 1)
            txn = xrow.encode_ops(ops, self_id, first_lsn, flags, request_ids)
            self.assigned[self_id] = txn.lsn
            return txn
        assert len(request_ids) < 2, "a shared transaction has no local rows"
        first = LOCAL if all(local) else self_id
        tsn = Lsn(self.assigned.get(first, 0) + 1)
        rows = []
        for op, is_local in sorted(zip(ops, local, strict=True), key=lambda change: not change[1]):
            origin, group = (LOCAL, GROUP_LOCAL) if is_local else (self_id, GROUP_DEFAULT)
            rows.append(Row(op.type, origin, self.next_lsn(origin), tsn, 0, op, group))
        rows[-1] = rows[-1]._replace(flags=flags, request_id=request_ids[0] if request_ids else None)
        return xrow.encode_txn(rows)

    def follow(self, txn: Txn) -> None:
        """A received or recovered transaction moves its components."""
        if isinstance(txn, PlainTxn) or len(txn.rows) == 1:
            self.assigned[txn.origin] = txn.lsn
        else:
            self.assigned.update(txn.components())

    # --- on the way to disk

    def append(self, item: InFlight) -> None:
        if self._has_control:
            self._close_batch()
        self.in_flight.append(item)
        self.bytes += _size(item.txn)
        self._next.append(item.txn)

    def append_own_control(self, body: Control, lsn: Lsn, *, is_barrier: bool) -> None:
        row = Row(CONTROL_ROW_TYPE[type(body)], self._self_id, lsn, lsn, FLAG_COMMIT, body)
        self.append_control(xrow.encode_txn((row,)), body, is_barrier=is_barrier)

    def append_control(self, txn: Txn, body: Control, *, is_barrier: bool) -> None:
        self._append(
            ControlWrite(txn, body, is_barrier=is_barrier), has_control=not isinstance(body, Confirm)
        )
        self.barriers += is_barrier

    def append_hard_state(self, state: RaftState) -> None:
        lsn = self.next_lsn(LOCAL)
        row = Row(RowType.RAFT, LOCAL, lsn, lsn, FLAG_COMMIT, state, GROUP_LOCAL)
        self.hard_state_term = max(self.hard_state_term, state.term)
        self._append(HardStateWrite(xrow.encode_txn((row,)), state), has_control=True)

    def _append(self, item: InFlight, *, has_control: bool) -> None:
        """Rows that must not fail travel in a `WriteRows` of their own [L-30]."""
        if self._next and self._has_control != has_control:
            self._close_batch()
        self._has_control = has_control
        self.in_flight.append(item)
        self.bytes += _size(item.txn)
        self._next.append(item.txn)

    def _close_batch(self) -> None:
        if self._next:
            self._ready.append(WriteRows(self._next, self._has_control))
            self._next = []
        self._has_control = False

    def take_writes(self) -> list[WriteRows]:
        """What the shell must write now, in order."""
        self._close_batch()
        ready, self._ready = self._ready, []
        return ready

    # --- what became of them

    def written(self, vclock: Vclock) -> Iterator[InFlight]:
        """Everything up to `vclock` is synced: oldest first. More may be appended while iterating."""
        assert vclock.covers(self.vclock, with_local=True)
        self.vclock = vclock
        in_flight, reached = self.in_flight, vclock.get
        while in_flight and (txn := in_flight[0].txn).lsn <= reached(txn.origin):
            item = in_flight.popleft()
            self._left(item)
            if self.no_room is not None and isinstance(item, PendingTxn | NopWrite):
                self.no_room = None
            yield item

    def cut_back(self, vclock: Vclock, error: SynchroError) -> list[InFlight]:
        """Everything beyond `vclock` is gone from the log: newest first; its LSNs are given again. error: why
        the disk did not take it."""
        self._close_batch()
        self._ready.clear()
        cut = []
        in_flight = self.in_flight
        while in_flight and in_flight[-1].txn.lsn > vclock.get(in_flight[-1].txn.origin):
            item = in_flight.pop()
            self._left(item)
            cut.append(item)
        self.vclock = vclock
        self.assigned = vclock.as_dict()
        self.no_room = error
        return cut

    def recovered(self, hard_state_term: Term) -> None:
        """All rows that were followed come from the disk, and so does this term."""
        self.vclock = Vclock(self.assigned)
        self.hard_state_term = hard_state_term

    def _left(self, item: InFlight) -> None:
        self.bytes -= _size(item.txn)
        if isinstance(item, ControlWrite):
            self.barriers -= item.is_barrier

    @property
    def has_received_control(self) -> bool:
        """A PROMOTE, DEMOTE, CONFIRM or ROLLBACK of another instance is on its way to disk. O(n): for
        people."""
        return any(
            isinstance(item, ControlWrite) and item.txn.origin != self._self_id for item in self.in_flight
        )

    def pending_txns(self) -> Iterator[PendingTxn]:
        """Data transactions in flight, newest first."""
        return (item for item in reversed(self.in_flight) if isinstance(item, PendingTxn))

    def check(self) -> None:
        assigned = Vclock(self.assigned)
        assert assigned.covers(self.vclock, with_local=True)  # LogTail.G2
        assert self.in_flight or self.vclock == assigned  # LogTail.G2
        barriers = [item for item in self.in_flight if isinstance(item, ControlWrite) and item.is_barrier]
        assert self.barriers == len(barriers)  # LogTail.G3
        assert self.bytes == sum(_size(item.txn) for item in self.in_flight)  # LogTail.G4


def _size(txn: Txn) -> int:
    return len(txn.data) + PENDING_ROW_BYTES * txn.row_count
