"""What a received transaction means, seen from the vclock alone: old, next, or a broken stream.

Whether it becomes Nops because its origin was deposed is decided by `Limbo.filter_data`. Rules [A-30],
[A-31], [A-34].
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from enum import Enum

from synchro.errors import RemoteProtocolError
from synchro.ids import LOCAL, NUMBER_END, InstanceId, Lsn
from synchro.row import (
    FLAG_COMMIT,
    FLAG_DONE_ELSEWHERE,
    FLAG_REQUEST_ID,
    GROUP_LOCAL,
    Demote,
    Dml,
    Nop,
    PlainTxn,
    Promote,
    Row,
    RowType,
    Txn,
)


class Place(Enum):
    OLD = "old"
    """Already applied or on its way to disk: drop it without a word."""
    NEXT = "next"


def order(txn: Txn, assigned: Mapping[InstanceId, Lsn]) -> Place:
    """Return whether `txn` is the next of its origin, or an old one.

    assigned: instance -> highest LSN that is in the WAL or on its way to it; so two streams that carry the
    same row apply it once [A-30], [M-48]. The last row is compared, because a transaction is applied whole or
    not at all [A-31]. A gap, a transaction that was cut, or rows that should never have left their instance
    raise `RemoteProtocolError`.
    """
    if txn.origin == LOCAL:
        raise RemoteProtocolError(f"{txn!r} carries a local row, which must stay on its instance")
    known = assigned.get(txn.origin, 0)
    if txn.lsn <= known:
        return Place.OLD
    expected = known + 1
    if isinstance(txn, PlainTxn) and txn.tsn == expected:
        return Place.NEXT
    for row in txn.rows:
        if row.group_id == GROUP_LOCAL or row.replica_id == LOCAL:
            raise RemoteProtocolError(f"{txn!r} carries a local row, which must stay on its instance")
        if row.replica_id != txn.origin:
            raise RemoteProtocolError(f"{txn!r} mixes rows of two origins: distributed transactions")
        if row.lsn != expected:
            raise RemoteProtocolError(
                f"rows of instance {txn.origin} have a gap: expected LSN {expected}, got {row.lsn}; "
                "nothing of the transaction was applied"
            )
        expected += 1
    check_numbers(txn)
    return Place.NEXT


def check_numbers(txn: Txn) -> None:
    """Raise `RemoteProtocolError` for LSNs and terms that no honest instance writes. Rows in the own log are
    not checked."""
    control = txn.control
    numbers: tuple[int, ...] = (txn.lsn,)
    if control is not None:
        numbers += (control.lsn,)
        if isinstance(control, Promote | Demote):
            numbers += (control.term, control.prev_term)
        elif control.owner == txn.origin and control.lsn >= txn.lsn:
            raise RemoteProtocolError(f"{control} stands at LSN {txn.lsn}, ahead of what it decides")
        if len(txn.rows) > 1:
            raise RemoteProtocolError(f"{txn!r}: {control} is not alone in its transaction")
    if any(number >= NUMBER_END for number in numbers):
        raise RemoteProtocolError(f"{control or txn!r} at {txn.origin}:{txn.lsn}: not all is below 2^62")


def as_nops(txn: Txn) -> list[Row]:
    """Return the rows that stand for a transaction without effect: same origin, LSNs and borders [P-50]. They
    have no wait flags, because a Nop waits for nobody, and no request id, because the request had no effect
    here."""
    return [
        Row(
            type=RowType.NOP,
            replica_id=row.replica_id,
            lsn=row.lsn,
            tsn=row.tsn,
            flags=row.flags & FLAG_COMMIT & ~FLAG_REQUEST_ID,
            body=Nop(),
        )
        for row in txn.rows
    ]


def with_nops(txn: Txn, skipped: Container[int]) -> list[Row]:
    """Return the rows of `txn` with a Nop for each change in conflict [A-35]. The rest stays, the request id
    too: the transaction is done at its origin and, but for these rows, here. If nothing else is left of it,
    and no request id says so, its last row has a mark. skipped: positions among its changes (`Txn.ops`)."""
    rows: list[Row] = []
    position = 0
    for row in txn.rows:
        if isinstance(row.body, Dml):
            is_skipped = position in skipped
            position += 1
            if is_skipped:
                row = row._replace(type=RowType.NOP, body=Nop())
        rows.append(row)
    last = rows[-1]
    if last.request_id is None and all(row.type is RowType.NOP for row in rows):
        rows[-1] = last._replace(flags=last.flags | FLAG_DONE_ELSEWHERE)
    return rows
