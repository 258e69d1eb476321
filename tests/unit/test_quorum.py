"""Which LSN a quorum holds, by whom it is held, and who counts. [Q-20], [Q-22], [Q-30..32]."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchro.ids import InstanceId, Lsn
from synchro.queue.quorum import Acks, quorum_lsn
from synchro.vclock import Vclock

A, B, C, D = (InstanceId(i) for i in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("lsns", "quorum", "expected"),
    [
        ([], 1, 0),
        ([7], 1, 7),
        ([7], 2, 0),
        ([7, 5], 2, 5),
        ([7, 5, 0], 2, 5),
        ([7, 0, 0], 2, 0),
        ([3, 9, 9, 4, 5], 3, 5),
    ],
)
def test_quorum_lsn(lsns: list[int], quorum: int, expected: int) -> None:
    """[Q-22]: the quorum-th largest; 0 while nothing has a quorum."""
    assert quorum_lsn(map(Lsn, lsns), quorum) == expected


def slow_quorum_lsn(lsns: list[Lsn], quorum: int) -> Lsn:
    """The definition, word by word."""
    held = [lsn for lsn in lsns if sum(other >= lsn for other in lsns) >= quorum]
    return max(held, default=Lsn(0))


@given(st.lists(st.integers(0, 12).map(Lsn), max_size=9), st.integers(1, 10))
def test_quorum_lsn_equals_its_slow_twin(lsns: list[Lsn], quorum: int) -> None:
    assert quorum_lsn(lsns, quorum) == slow_quorum_lsn(lsns, quorum)


def vclock(lsn: int) -> Vclock:
    return Vclock({A: Lsn(lsn)})


def test_only_registered_instances_count() -> None:
    """[Q-20], [L-9]; acks of others are kept for the day they are registered."""
    acks = Acks(frozenset({A, B, C}), 2)
    acks.record(A, vclock(9))
    acks.record(D, vclock(9))
    assert acks.quorum_lsn(A) == 0
    acks.members_changed(frozenset({A, B, C, D}), 2)
    assert acks.quorum_lsn(A) == 9


def test_the_effective_quorum_is_not_above_the_registered() -> None:
    """A set that is still growing elects and promotes with what it has."""
    acks = Acks(frozenset({A}), 3)
    assert acks.effective_quorum == 1
    acks.record(A, vclock(4))
    assert acks.quorum_lsn(A) == 4
    assert Acks(frozenset(), 2).quorum_lsn(A) == 0


def test_acks_only_rise_until_a_new_hello() -> None:
    """[L-10], [Q-21]."""
    acks = Acks(frozenset({A}), 1)
    acks.record(A, Vclock({A: Lsn(5), B: Lsn(1)}))
    acks.record(A, Vclock({A: Lsn(3), B: Lsn(2)}))
    assert (acks.quorum_lsn(A), acks.quorum_lsn(B)) == (5, 2)
    acks.forget(A, vclock(3))
    assert (acks.quorum_lsn(A), acks.quorum_lsn(B)) == (3, 0)


def test_holders_names_who_has_a_row() -> None:
    """For the details of SYNC_TIMEOUT: who acked, who is missing."""
    acks = Acks(frozenset({A, B, C}), 2)
    acks.record(A, vclock(7))
    acks.record(B, vclock(6))
    acks.record(D, vclock(9))
    assert acks.holders(A, Lsn(7)) == {A}
    assert acks.holders(A, Lsn(6)) == {A, B}
    acks.check()


def test_the_lowest_quorum_of_a_member_decides_who_may_overlook_a_commit() -> None:
    """Acks.A4, ADR 38: own quorum and lowest one above N, else an owner may be elected by strangers."""
    acks = Acks(frozenset({A, B, C}), 2)
    assert acks.meets_all and acks.is_majority
    assert acks.quorum_said(C, 1)
    assert (acks.lowest, acks.meets_all, acks.is_majority) == (1, False, False)
    assert not acks.quorum_said(C, 1)  # it is known
    acks.members_changed(frozenset({A, B, C}), 3)
    assert acks.meets_all and not acks.is_majority  # all three hold it, so C does
    acks.check()
    acks.quorum_said(C, 0)  # restarted in an older version, which does not say
    assert acks.lowest == 3
    acks.quorum_said(D, 1)
    assert acks.lowest == 3  # not registered
    acks.check()
