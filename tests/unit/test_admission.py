"""Which connections a port takes, and which it ends because they say nothing."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from synchro.wire.admission import CROWDED_SILENCE_S, Admission, PortLimits


def test_who_asks_for_something_stays() -> None:
    """Admission.C1."""
    admission: Admission[str] = Admission(PortLimits(connections_max=10, share=2, first_request_s=10.0))
    for number, name in enumerate(("speaks", "silent", "late")):
        admission.add(name, "127.0.0.1", float(number))
    admission.spoke("speaks")
    assert admission.next_due(2.0) == 11.0
    assert admission.due(10.9) == []
    assert admission.due(11.0) == ["silent"]
    admission.remove("silent", "127.0.0.1")
    assert admission.next_due(11.0) == 12.0
    admission.spoke("late")
    assert admission.next_due(11.0) == math.inf
    admission.check()


def test_when_few_are_free_the_oldest_silent_ones_go_first() -> None:
    """Admission.C1: only as many as make room for the share."""
    admission: Admission[int] = Admission(PortLimits(connections_max=10, share=3))
    for number in range(10):
        admission.add(number, "127.0.0.1", 0.0)
    assert admission.is_crowded
    assert admission.due(CROWDED_SILENCE_S - 0.01) == []
    assert admission.due(CROWDED_SILENCE_S) == [0, 1, 2]


def test_one_address_and_all_together_have_a_limit() -> None:
    admission: Admission[int] = Admission(PortLimits(connections_max=3, per_address_max=2))
    admission.add(1, "10.0.0.1", 0.0)
    admission.add(2, "10.0.0.1", 0.0)
    assert "10.0.0.1" in admission.refusal("10.0.0.1")
    assert admission.refusal("10.0.0.2") == ""
    admission.add(3, "10.0.0.2", 0.0)
    assert "the limit" in admission.refusal("10.0.0.3")
    admission.remove(1, "10.0.0.1")
    assert admission.refusal("10.0.0.1") == ""


@given(st.lists(st.tuples(st.sampled_from("asr"), st.integers(0, 9)), max_size=60))
def test_the_account_is_right_after_every_step(steps: list[tuple[str, int]]) -> None:
    """Admission.C2."""
    admission: Admission[int] = Admission(PortLimits())
    here: set[int] = set()
    for now, (what, number) in enumerate(steps):
        if what == "a" and number not in here:
            admission.add(number, f"10.0.0.{number % 3}", float(now))
            here.add(number)
        elif what == "s":
            admission.spoke(number)
        elif what == "r" and number in here:
            admission.remove(number, f"10.0.0.{number % 3}")
            here.discard(number)
        admission.check()
        assert admission.count == len(here)
