"""Vector clocks: four answers of a comparison, component 0 apart. Rules [W-5], [W-6]."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synchro.ids import InstanceId, Lsn
from synchro.vclock import EMPTY_VCLOCK, Comparison, Vclock


def vclock(**lsns: int) -> Vclock:
    """vclock(_1=5, _2=7)"""
    return Vclock({InstanceId(int(name[1:])): Lsn(lsn) for name, lsn in lsns.items()})


VCLOCKS = st.dictionaries(st.integers(0, 4).map(InstanceId), st.integers(0, 5).map(Lsn), max_size=5).map(
    Vclock
)


def test_two_vclocks_may_be_concurrent() -> None:
    """[W-6]: neither is behind, so neither may vote for the other."""
    assert vclock(_1=5).compare(vclock(_2=3)) is Comparison.CONCURRENT
    assert vclock(_1=5, _2=3).compare(vclock(_2=3)) is Comparison.GREATER
    assert vclock(_1=5).compare(vclock(_1=6)) is Comparison.LESS
    assert vclock(_1=5).compare(vclock(_1=5)) is Comparison.EQUAL


def test_local_rows_do_not_count_between_instances() -> None:
    """[W-5]: component 0 differs between instances by nature."""
    assert vclock(_0=9, _1=5).compare(vclock(_1=5)) is Comparison.EQUAL
    assert vclock(_1=5).covers(vclock(_0=9, _1=5))
    assert not vclock(_1=5).covers(vclock(_0=9, _1=5), with_local=True)


def test_signature_is_the_sum_of_all_components() -> None:
    """[W-8]: files are named by it, component 0 included."""
    assert vclock(_0=2, _1=5, _3=1).signature == 8
    assert EMPTY_VCLOCK.signature == 0


def test_a_missing_component_is_zero() -> None:
    assert vclock(_1=0) == EMPTY_VCLOCK
    assert vclock(_1=5).get(InstanceId(7)) == 0


@given(VCLOCKS, VCLOCKS)
def test_merge_covers_both_and_floor_is_covered_by_both(a: Vclock, b: Vclock) -> None:
    assert a.merge(b).covers(a, with_local=True)
    assert a.merge(b).covers(b, with_local=True)
    assert a.covers(a.floor(b), with_local=True)
    assert b.covers(a.floor(b), with_local=True)


@given(VCLOCKS, VCLOCKS)
def test_compare_agrees_with_covers(a: Vclock, b: Vclock) -> None:
    expected = {
        (True, True): Comparison.EQUAL,
        (True, False): Comparison.GREATER,
        (False, True): Comparison.LESS,
        (False, False): Comparison.CONCURRENT,
    }
    assert a.compare(b) is expected[a.covers(b), b.covers(a)]
