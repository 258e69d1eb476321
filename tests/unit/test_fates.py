"""What became of a transaction, by its LSN. Behind `WaitTransaction`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synchro.ids import InstanceId, Lsn
from synchro.queue.fates import Drops, TxnFate, fate_by_lsn

A, B = InstanceId(1), InstanceId(2)


def drops_of(*ranges: tuple[int, int], ranges_max: int = 100) -> Drops:
    drops = Drops(ranges_max)
    for first, last in ranges:
        drops.add(A, Lsn(first), Lsn(last))
        drops.check()
    return drops


def fate(
    lsn: int, drops: Drops, *, confirmed: int = 0, written: int = 0, is_pending: bool = False
) -> TxnFate:
    return fate_by_lsn(
        A,
        Lsn(lsn),
        drops=drops,
        confirmed_vclock={A: Lsn(confirmed)},
        written_lsn=Lsn(written),
        is_pending=is_pending,
    )


def test_a_dropped_row_stays_dropped_when_its_origin_owns_the_queue_again() -> None:
    """`confirmed_vclock` alone would call it committed."""
    assert fate(7, drops_of((7, 7)), confirmed=9, written=9) is TxnFate.ROLLED_BACK


def test_the_other_fates() -> None:
    drops = drops_of((7, 8))
    assert fate(6, drops, confirmed=6, written=9) is TxnFate.COMMITTED
    assert fate(9, drops, confirmed=6, written=9) is TxnFate.COMMITTED  # asynchronous, did not wait
    assert fate(9, drops, confirmed=6, written=9, is_pending=True) is TxnFate.PENDING
    assert fate(10, drops, confirmed=6, written=9) is TxnFate.UNKNOWN
    assert fate(6, Drops(1)) is TxnFate.UNKNOWN


def test_neighbours_become_one_range() -> None:
    """Drops.D1: newest first, as a rollback reports them."""
    drops = drops_of((9, 9), (7, 8), (6, 6), (1, 2), (4, 4))
    assert len(drops) == 3
    drops.add(A, Lsn(3), Lsn(3))
    drops.add(A, Lsn(5), Lsn(5))
    assert len(drops) == 1
    drops.check()


def test_what_was_forgotten_is_unknown_not_committed() -> None:
    """Drops.D2, Drops.D3: bounded, and honest about it."""
    drops = drops_of((1, 2), (5, 5), (9, 9), ranges_max=2)
    assert not drops.holds(A, Lsn(2))
    assert drops.forgotten(A) == 2
    assert fate(2, drops, confirmed=20, written=20) is TxnFate.UNKNOWN
    assert fate(3, drops, confirmed=20, written=20) is TxnFate.COMMITTED
    assert fate(5, drops, confirmed=20, written=20) is TxnFate.ROLLED_BACK


def test_a_snapshot_carries_it() -> None:
    drops = drops_of((1, 2), (5, 5), (9, 9), ranges_max=2)
    drops.add(B, Lsn(4), Lsn(4))
    copy = Drops(2)
    copy.restore(drops.export())
    copy.check()
    assert copy.export() == drops.export()


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=30))
def test_ranges_equal_a_set_of_lsns(added: list[tuple[int, int]]) -> None:
    drops, model = Drops(100), set[int]()
    for first, extra in added:
        drops.add(A, Lsn(first), Lsn(first + extra))
        model.update(range(first, first + extra + 1))
        drops.check()
    assert {lsn for lsn in range(1, 60) if drops.holds(A, Lsn(lsn))} == model
