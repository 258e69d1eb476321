"""After how much silence a link is dead, and what a pause of the own process is. Rule [A-27]."""

from __future__ import annotations

import pytest

from synchro.replication.silence import SilenceWatch

DEAD_S = 4.0


def test_who_says_nothing_is_dead_after_the_time() -> None:
    watch, now, heard_at = SilenceWatch(), 10.0, 10.0
    for _ in range(100):
        if (wait_s := watch.look(heard_at, now, DEAD_S)) <= 0:
            break
        assert wait_s <= DEAD_S / 2  # the role may change, and with it the time
        now += wait_s
    else:
        pytest.fail("a silent peer is never dead")
    assert now == heard_at + DEAD_S


def test_each_word_counts_from_its_moment() -> None:
    watch = SilenceWatch()
    assert watch.look(10.0, 10.0, DEAD_S) == 2.0
    assert watch.look(11.5, 12.0, DEAD_S) == 2.0
    assert watch.look(11.5, 14.0, DEAD_S) == 1.5
    assert watch.look(11.5, 15.5, DEAD_S) == 0


def test_an_own_pause_is_no_silence_of_the_peer() -> None:
    """What it said meanwhile lies in the socket: it is read before the peer is judged."""
    watch = SilenceWatch()
    assert watch.look(10.0, 10.0, DEAD_S) == 2.0
    grace = watch.look(10.0, 100.0, DEAD_S)
    assert 0 < grace <= 0.5
    assert watch.look(100.1, 100.0 + grace, DEAD_S) > 0


def test_a_peer_that_says_nothing_after_the_pause_is_dead() -> None:
    """SilenceWatch.H1, also where the process is paused again and again."""
    watch = SilenceWatch()
    watch.look(10.0, 10.0, DEAD_S)
    grace = watch.look(10.0, 100.0, DEAD_S)
    assert watch.look(10.0, 100.0 + grace, DEAD_S) == 0
    assert watch.look(10.0, 200.0, DEAD_S) == 0


def test_a_look_that_is_a_little_late_excuses_nobody() -> None:
    watch = SilenceWatch()
    watch.look(10.0, 12.0, DEAD_S)
    assert watch.look(10.0, 14.2, DEAD_S) == 0
