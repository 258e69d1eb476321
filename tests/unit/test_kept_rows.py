"""Received rows that wait in memory: joined, cut and counted."""

from __future__ import annotations

import pytest

from synchro.config import Limits
from synchro.errors import RemoteProtocolError
from synchro.ids import InstanceId, Lsn
from synchro.row import FLAG_COMMIT, Row, RowType
from synchro.server.kept_rows import STEP_BYTES_MAX, KeptRows
from synchro.server.peer_messages import Frame
from synchro.storage import row_body, xrow

ONE = InstanceId(1)
LIMITS = Limits(peer_credit_bytes=1000, message_bytes_max=2000, txn_bytes_max=1, relay_frame_bytes_max=1)


def txn(lsn: int, size: int) -> bytes:
    op = row_body.dml_from_values(RowType.REPLACE, 512, value=(lsn, "x" * size))
    return xrow.encode_txn((Row(op.type, ONE, Lsn(lsn), Lsn(lsn), FLAG_COMMIT, op),)).data


def frame(rows: bytes, *, continues: bool) -> Frame:
    return Frame(term=0, rows=rows, rows_continue=continues)  # type: ignore[arg-type]


def test_rows_come_out_in_the_order_in_which_they_went_in() -> None:
    kept = KeptRows("peer", Limits())
    first, second = txn(1, 10), txn(2, 10)
    kept.keep(first, 1.0)
    kept.keep(second, 2.0)
    assert kept.take() == (first + second, 2.0)
    assert (len(kept), kept.size) == (0, 0)


def test_a_step_is_cut_between_transactions() -> None:
    kept = KeptRows("peer", Limits())
    rows = [txn(n, STEP_BYTES_MAX // 3) for n in range(1, 8)]
    kept.keep(b"".join(rows), 1.0)
    taken = []
    while kept:
        data, _ = kept.take()
        assert len(data) <= STEP_BYTES_MAX
        taken.append(data)
    assert b"".join(taken) == b"".join(rows)


def test_a_transaction_larger_than_a_step_stays_whole() -> None:
    kept = KeptRows("peer", Limits())
    small, large = txn(1, 10), txn(2, 2 * STEP_BYTES_MAX)
    kept.keep(small + large, 1.0)
    assert [kept.take()[0], kept.take()[0]] == [small, large]


def test_parts_are_joined_when_the_last_one_is_here() -> None:
    """ADR 20"""
    kept = KeptRows("peer", Limits())
    data = txn(1, 100)
    assert kept.joined(frame(data[:40], continues=True)) == b""
    assert kept.has_parts and len(kept) == 0 and kept.size == 40
    assert kept.joined(frame(data[40:], continues=False)) == data
    assert not kept.has_parts and kept.size == 0


@pytest.mark.parametrize("as_parts", [True, False])
def test_more_than_there_was_credit_for_is_refused(as_parts: bool) -> None:
    """KeptRows.K1"""
    kept = KeptRows("peer", LIMITS)
    piece = txn(1, 900)

    def add() -> None:
        if as_parts:
            kept.joined(frame(piece, continues=True))
        else:
            kept.keep(piece, 0.0)

    for _ in range(3):
        add()
    with pytest.raises(RemoteProtocolError, match="peer sent more rows than it had credit for"):
        add()


def test_nothing_is_left_of_a_stream_that_is_over() -> None:
    kept = KeptRows("peer", Limits())
    kept.keep(txn(1, 10), 0.0)
    kept.joined(frame(txn(2, 10), continues=True))
    kept.clear()
    assert (len(kept), kept.size, kept.has_parts) == (0, 0, False)
