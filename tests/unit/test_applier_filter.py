"""What a received transaction is, by its LSNs alone: known, next, or a sign of a broken stream."""

from __future__ import annotations

import pytest

from synchro.errors import RemoteProtocolError
from synchro.ids import LOCAL, InstanceId, Lsn
from synchro.replication.applier_filter import Order, order
from synchro.row import FLAG_COMMIT, GROUP_DEFAULT, GROUP_LOCAL, Row, RowType, Txn
from synchro.storage import row_body, xrow

ONE, TWO = InstanceId(1), InstanceId(2)


def row(lsn: int, origin: InstanceId = ONE, *, tsn: int = 4, is_last: bool = False) -> Row:
    op = row_body.dml_from_values(RowType.INSERT, 512, value=(lsn,))
    group = GROUP_LOCAL if origin == LOCAL else GROUP_DEFAULT
    return Row(op.type, origin, Lsn(lsn), Lsn(tsn), FLAG_COMMIT if is_last else 0, op, group)


def txn(*rows: Row) -> Txn:
    return xrow.encode_txn(rows)


THREE_ROWS = txn(row(4), row(5), row(6, is_last=True))


def test_a_row_that_came_by_another_path_is_dropped_without_a_word() -> None:
    """[A-30], [M-48]: also while it is on its way to disk."""
    assert order(THREE_ROWS, {ONE: Lsn(3)}) is Order.NEXT
    assert order(THREE_ROWS, {ONE: Lsn(6)}) is Order.OLD
    assert order(THREE_ROWS, {ONE: Lsn(9), TWO: Lsn(1)}) is Order.OLD


@pytest.mark.parametrize("known", [2, 4, 5])
def test_a_transaction_is_applied_whole_or_not_at_all(known: int) -> None:
    """[A-31], [A-34]: neither a gap in front of it nor a part that is known already."""
    with pytest.raises(RemoteProtocolError, match=f"expected LSN {known + 1}, got 4"):
        order(THREE_ROWS, {ONE: Lsn(known)})


def test_rows_of_two_origins_are_no_transaction() -> None:
    """[A-34]."""
    mixed = txn(row(1, TWO), row(4, is_last=True))
    with pytest.raises(RemoteProtocolError, match="distributed transactions"):
        order(mixed, {ONE: Lsn(3)})


def test_local_rows_do_not_travel() -> None:
    with pytest.raises(RemoteProtocolError, match="must stay on its instance"):
        order(txn(row(7, LOCAL), row(4, is_last=True)), {ONE: Lsn(3)})
