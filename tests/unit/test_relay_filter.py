"""What a relay sends, and what it must not: [A-36], [A-38], [A-39]."""

from __future__ import annotations

from synchro.ids import LOCAL, InstanceId, Lsn, Term
from synchro.replication.relay_filter import RelayFilter, TxnHead
from synchro.row import FLAG_COMMIT, FLAG_WAIT_ACK, FLAG_WAIT_SYNC, GROUP_LOCAL, Row, RowType
from synchro.server.relay import without_local_rows
from synchro.storage import row_body, xrow
from synchro.vclock import Vclock

ONE, TWO, THREE = InstanceId(1), InstanceId(2), InstanceId(3)


def head(origin: InstanceId, lsn: int, term: int = 0) -> TxnHead:
    return TxnHead(origin, Lsn(lsn), Term(term))


def relay_filter(*, no_echo: bool = True, has: dict[int, int] | None = None) -> RelayFilter:
    """A relay to instance 2."""
    return RelayFilter(
        peer=TWO,
        id_filter={TWO} if no_echo else set(),
        subscriber_vclock=Vclock({InstanceId(i): Lsn(n) for i, n in (has or {}).items()}),
    )


def test_local_rows_stay_at_home() -> None:
    """[A-36]: component 0 means something else on every instance."""
    assert not relay_filter().wants(head(LOCAL, 5))


def test_a_peer_never_gets_its_own_rows_back() -> None:
    """[A-36]: id_filter."""
    assert not relay_filter().wants(head(TWO, 1))


def test_rows_of_third_origins_are_passed_on() -> None:
    """[A-39]: chains and meshes work."""
    assert relay_filter().wants(head(THREE, 1))


def test_what_the_subscriber_has_is_not_sent_again() -> None:
    """[M-34]: the stream starts strictly after its vclock, per component."""
    passing = relay_filter(has={1: 7})
    assert not passing.wants(head(ONE, 7))
    assert passing.wants(head(ONE, 8))
    assert passing.wants(head(THREE, 1))


def test_an_empty_filter_returns_own_rows_until_the_peer_counts_again() -> None:
    """[A-36], [M-38], ADR 28: an instance that lost its tail gets it back, whenever it comes here; but
    nothing that it writes afterwards."""
    passing = relay_filter(no_echo=False, has={2: 3})
    assert passing.wants(head(TWO, 4))
    passing.acked(Vclock({TWO: Lsn(4)}), counts=False)
    assert not passing.wants(head(TWO, 4))
    assert passing.wants(head(TWO, 5))
    passing.acked(Vclock({TWO: Lsn(5)}), counts=True)
    assert not passing.wants(head(TWO, 6))


def test_a_promote_waits_until_its_term_was_sent() -> None:
    """[A-38], [L-26]: else the peer would see the row before it knows the term."""
    passing = relay_filter()
    promote = head(ONE, 4, term=3)
    assert passing.wants(promote)
    assert passing.is_held(promote)

    passing.term_sent = Term(3)
    assert not passing.is_held(promote)
    passing.passed(promote)
    assert not passing.wants(promote)


def test_rows_that_the_peer_acked_meanwhile_are_left_out() -> None:
    """It got them from their origin: full mesh need not carry every byte twice."""
    passing = relay_filter()
    passing.acked(Vclock({THREE: Lsn(9), LOCAL: Lsn(4)}), counts=True)
    assert not passing.wants(head(THREE, 9))
    assert passing.wants(head(THREE, 10))


def test_the_flags_of_a_mixed_transaction_are_on_the_last_row_that_is_sent() -> None:
    """[A-37]."""
    op = row_body.dml_from_values(RowType.INSERT, 512, value=(1,))
    flags = FLAG_COMMIT | FLAG_WAIT_SYNC | FLAG_WAIT_ACK
    rows = (
        Row(op.type, ONE, Lsn(4), Lsn(4), 0, op),
        Row(op.type, LOCAL, Lsn(7), Lsn(4), flags, op, GROUP_LOCAL),
    )
    (sent,) = xrow.decode_txns(without_local_rows(xrow.encode_txn(rows).data))
    assert [(row.replica_id, row.lsn, row.flags) for row in sent.rows] == [(ONE, 4, flags)]


def test_rows_that_their_origin_sends_are_held_back() -> None:
    """[A-39]: in a full mesh nothing travels twice, but own rows never wait behind those of others."""
    passing = relay_filter()
    passing.following = frozenset({THREE})
    assert passing.comes_from_origin([THREE], own=ONE, own_lsn=Lsn(0))
    assert not passing.comes_from_origin([THREE, ONE], own=ONE, own_lsn=Lsn(0))
    assert not passing.comes_from_origin([THREE], own=ONE, own_lsn=Lsn(4))
    assert not passing.comes_from_origin([], own=ONE, own_lsn=Lsn(0))


def test_a_run_goes_out_whole_in_part_or_not_at_all() -> None:
    passing = relay_filter(has={3: 5})
    assert passing.wants_run(THREE, Lsn(6), Lsn(9)) is True
    assert passing.wants_run(THREE, Lsn(4), Lsn(9)) is None
    assert passing.wants_run(THREE, Lsn(1), Lsn(5)) is False
    assert passing.wants_run(TWO, Lsn(1), Lsn(5)) is False
