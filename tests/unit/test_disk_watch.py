"""A disk that does not answer, and a process that was paused, are told apart. ADR 16."""

from __future__ import annotations

from synchro.server.disk_watch import DiskWatch

EVERY = 0.5


def looks(watch: DiskWatch, busy_since: float | None, times: list[float]) -> list[float]:
    return [watch.look(busy_since, now, EVERY) for now in times]


def test_the_silence_of_a_stuck_disk_grows_with_the_clock() -> None:
    assert looks(DiskWatch(), 0.25, [0.5, 1.0, 1.5, 2.0]) == [0.25, 0.75, 1.25, 1.75]


def test_a_batch_that_was_answered_starts_the_count_again() -> None:
    watch = DiskWatch()
    looks(watch, 0.0, [0.5, 1.0])
    assert watch.look(None, 1.5, EVERY) == 0
    assert watch.look(1.75, 2.0, EVERY) == 0.25
    assert watch.look(2.25, 2.5, EVERY) == 0.25


def test_a_pause_of_the_process_is_no_silence_of_the_disk() -> None:
    """SIGSTOP for a minute while a sync was on its way: it counts as one interval at most."""
    watch = DiskWatch()
    assert looks(watch, 0.0, [0.5, 60.5]) == [0.5, 1.0]
    assert watch.look(None, 61.0, EVERY) == 0


def test_a_pause_before_the_first_look_counts_no_more() -> None:
    assert DiskWatch().look(0.1, 100.0, EVERY) == EVERY


def test_many_short_pauses_are_not_added_up_either() -> None:
    silent = looks(DiskWatch(), 0.0, [10.0, 20.0, 30.0])
    assert silent == [0.5, 1.0, 1.5]


def test_a_disk_that_is_stuck_behind_a_pause_is_found_after_it() -> None:
    """It does not answer, and the process runs again: four more looks of a death timeout of 2 s."""
    silent = looks(DiskWatch(), 0.0, [30.0, 30.5, 31.0, 31.5, 32.0])
    assert silent[-1] > 2.0 >= silent[-2]
