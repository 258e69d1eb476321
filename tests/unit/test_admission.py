"""Which connections a port takes, and which it ends because they say nothing."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from synchro.wire.admission import CROWDED_SILENCE_S, IDLE_S, Admission, PortLimits, heaviest


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


def test_when_few_are_free_those_without_a_call_go() -> None:
    """Admission.C3: longest without one first, and who began a call meanwhile starts anew."""
    admission: Admission[str] = Admission(PortLimits(connections_max=5, share=2))
    for name in ("long", "short", "busy", "calls", "fresh"):
        admission.add(name, "127.0.0.1", 0.0)
        admission.spoke(name)
    assert admission.idle({"long": 1, "calls": 1}, 0.0) == []
    assert admission.idle({"long": 1, "short": 7, "calls": 3}, 2.0) == []
    assert admission.idle({"long": 1, "short": 7, "calls": 3}, IDLE_S) == ["long"]
    assert admission.idle({"long": 1, "short": 7, "calls": 3, "fresh": 1}, IDLE_S + 2.0) == ["long", "short"]


def test_when_there_is_room_nobody_goes() -> None:
    """Admission.C3: and what was seen while it was crowded is forgotten."""
    admission: Admission[str] = Admission(PortLimits(connections_max=3, share=1))
    for name in ("one", "two", "three"):
        admission.add(name, "127.0.0.1", 0.0)
        admission.spoke(name)
    assert admission.idle({"one": 1}, 0.0) == []
    admission.remove("three", "127.0.0.1")
    assert admission.idle({"one": 1}, IDLE_S) == []
    admission.add("four", "127.0.0.1", IDLE_S)
    assert admission.idle({"one": 1}, IDLE_S) == []


def test_of_those_that_hold_too_much_the_heaviest_go() -> None:
    kept = [("a1", "a", 5), ("a2", "a", 30), ("b1", "b", 20), ("b2", "b", 0)]
    assert heaviest(kept, 1) == ["a2"]
    assert heaviest(kept, 30) == ["a2"]
    assert heaviest(kept, 31) == ["a2", "b1"]
    assert heaviest(kept, 10**9) == ["a2", "b1", "a1"]
    assert heaviest(kept, 0) == []


def test_many_small_connections_of_one_address_do_not_drive_out_a_larger_one() -> None:
    crowd = [(f"small {number}", "10.0.0.1", 100) for number in range(50)]
    assert "large" not in heaviest([*crowd, ("large", "10.0.0.2", 400)], 2000)


@given(
    st.lists(st.tuples(st.integers(), st.sampled_from("abc"), st.integers(0, 100)), unique_by=lambda k: k[0]),
    st.integers(0, 3000),
)
def test_enough_come_free_and_none_too_many(kept: list[tuple[int, str, int]], excess: int) -> None:
    sizes = {link: size for link, _, size in kept}
    found = [sizes[link] for link in heaviest(kept, excess)]
    assert sum(found) >= min(excess, sum(sizes.values()))
    assert sum(found[:-1]) < max(excess, 1)


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
