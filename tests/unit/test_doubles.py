"""One identity in two live processes (ADR 23)."""

from __future__ import annotations

from synchro.replication.doubles import LIVES_MAX, Doubles, Life

DEATH_S = 4.0
ME = Life("me", "h:1")
FIRST = Life("first", "h:2")
SECOND = Life("second", "h:9")


def new() -> Doubles:
    return Doubles("uuid-1", ME, DEATH_S)


def test_two_lives_that_speak_in_turns_are_two_processes() -> None:
    doubles = new()
    doubles.heard("uuid-2", FIRST, 0.0)
    doubles.heard("uuid-2", SECOND, 1.0)
    assert doubles.lives("uuid-2", 1.0) == ()
    assert doubles.is_suspect("uuid-2")
    doubles.heard("uuid-2", FIRST, 1.1)
    assert doubles.lives("uuid-2", 1.1) == (FIRST, SECOND)
    assert doubles.lives("uuid-3", 1.1) == ()


def test_a_restart_is_no_double_however_quick() -> None:
    """The old connection may be half dead, and the new process speaks at once and for ever."""
    doubles = new()
    doubles.heard("uuid-2", FIRST, 0.0)
    for tenth in range(1, 100):
        doubles.heard("uuid-2", SECOND, tenth / 10)
        assert doubles.lives("uuid-2", tenth / 10) == ()
    assert not doubles.is_suspect("uuid-2")


def test_a_crash_loop_is_no_double_and_costs_no_memory() -> None:
    doubles = new()
    for number in range(1000):
        doubles.heard("uuid-2", Life(f"start-{number}", "h:2"), number / 100)
        assert doubles.lives("uuid-2", number / 100) == ()
    assert len(doubles._heard["uuid-2"]) <= LIVES_MAX


def test_identities_that_come_and_go_cost_no_memory() -> None:
    """Doubles.Z3. Those that are still heard stay."""
    doubles = new()
    for number in range(1000):
        doubles.heard("uuid-2", (FIRST, SECOND)[number % 2], float(number))
        doubles.heard(f"uuid-x{number}", Life(f"life-{number}", "h:3"), float(number))
    assert len(doubles._heard) < 10
    assert doubles.lives("uuid-2", 999.0) == (FIRST, SECOND)


def test_one_that_falls_silent_for_a_death_timeout_is_replaced_by_the_other() -> None:
    doubles = new()
    for second in range(10):
        doubles.heard("uuid-2", FIRST, second)
        doubles.heard("uuid-2", SECOND, second + 0.5)
    assert doubles.lives("uuid-2", 9.5) == (FIRST, SECOND)
    doubles.heard("uuid-2", SECOND, 13.0)
    assert doubles.lives("uuid-2", 13.0) == (FIRST, SECOND)
    doubles.heard("uuid-2", SECOND, 13.5)
    assert doubles.lives("uuid-2", 13.5) == ()
    doubles.heard("uuid-2", FIRST, 14.0)  # it was only paused
    doubles.heard("uuid-2", SECOND, 14.5)
    assert doubles.lives("uuid-2", 14.5) == (FIRST, SECOND)


def test_an_older_version_tells_no_lives_apart() -> None:
    doubles = new()
    for second in range(3):
        doubles.heard("uuid-2", Life("", "h:2"), second)
        doubles.heard("uuid-2", SECOND, second + 0.5)
    assert doubles.lives("uuid-2", 2.5) == ()


def test_an_instance_that_is_told_of_its_double_is_doubled_until_nobody_says_so() -> None:
    doubles = new()
    assert doubles.lives("uuid-1", 0.0) == ()
    doubles.told("b", [ME, SECOND], 1.0)
    doubles.told("c", [ME, SECOND], 2.0)
    assert doubles.lives("uuid-1", 2.0) == (ME, SECOND)
    doubles.accepted("b")
    assert doubles.lives("uuid-1", 6.0) == (ME, SECOND)
    assert doubles.lives("uuid-1", 6.1) == ()  # c is silent: if both still answer, somebody will say so again
    doubles.told("c", [ME, SECOND], 7.0)
    doubles.accepted("c")
    assert doubles.lives("uuid-1", 7.0) == ()


def test_an_instance_that_meets_its_twin_knows_at_once() -> None:
    doubles = new()
    doubles.heard("uuid-1", ME, 0.0)  # through another address of its own
    assert doubles.lives("uuid-1", 0.0) == ()
    doubles.heard("uuid-1", SECOND, 0.0)
    assert doubles.lives("uuid-1", 0.0) == (ME, SECOND)
    assert doubles.lives("uuid-1", DEATH_S + 0.1) == ()


def test_three_of_one_identity_are_all_named() -> None:
    doubles, third = new(), Life("third", "h:3")
    for second in range(3):
        for life in (FIRST, SECOND, third):
            doubles.heard("uuid-2", life, second)
    assert doubles.lives("uuid-2", 2.0) == (FIRST, SECOND, third)
