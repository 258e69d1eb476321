"""When a checkpoint is due: by time, by bytes of the log, and after how long a rest. [W-30]."""

from __future__ import annotations

import math

from synchro.server.checkpoint_schedule import LOOK_S, RETRY_S, CheckpointSchedule

HOUR = 3600.0
MIB = 1 << 20


def due(
    schedule: CheckpointSchedule, now: float, *, interval: float = 0, size: int = 0, logged: int = 0
) -> float:
    return schedule.due_in(interval_s=interval, log_bytes=size, logged=logged, now=now)


def test_by_time_it_comes_after_the_interval() -> None:
    schedule = CheckpointSchedule(since=100.0, logged_then=0)
    assert due(schedule, 100.0, interval=HOUR) == HOUR
    assert due(schedule, 100.0 + HOUR, interval=HOUR) == 0
    schedule.ended(began=3700.0, now=3701.0, logged=0)
    assert due(schedule, 3701.0, interval=HOUR) == HOUR
    assert due(schedule, 3701.0, interval=60.0) == 60.0  # a shorter one counts at once


def test_the_first_one_comes_at_a_part_of_the_interval() -> None:
    schedule = CheckpointSchedule(since=0.0, logged_then=0, share=0.25)
    assert due(schedule, 0.0, interval=HOUR) == HOUR / 4
    schedule.ended(began=HOUR / 4, now=HOUR / 4, logged=0)
    assert due(schedule, HOUR / 4, interval=HOUR) == HOUR


def test_without_time_and_size_there_is_none() -> None:
    assert due(CheckpointSchedule(0.0, 0), 10 * HOUR, logged=10**12) == math.inf


def test_by_size_it_comes_when_the_log_has_grown_by_more() -> None:
    """The counter starts below zero by what former runs left in the log."""
    schedule = CheckpointSchedule(since=0.0, logged_then=-MIB)
    assert due(schedule, 1.0, size=2 * MIB, logged=MIB) == LOOK_S
    assert due(schedule, 1.0, size=2 * MIB, logged=MIB + 1) == 0
    schedule.ended(began=1.0, now=1.0, logged=MIB + 1)
    assert due(schedule, 1.0, size=2 * MIB, logged=3 * MIB) == LOOK_S


def test_under_a_flood_it_rests_four_times_as_long_as_it_took() -> None:
    schedule = CheckpointSchedule(0.0, 0)
    schedule.ended(began=10.0, now=15.0, logged=MIB)
    assert due(schedule, 15.0, size=1, logged=9 * MIB) == 20.0
    assert due(schedule, 35.0, size=1, logged=9 * MIB) == 0


def test_after_a_failure_the_size_alone_waits_too() -> None:
    schedule = CheckpointSchedule(0.0, 0)
    schedule.failed(50.0)
    assert due(schedule, 50.0, size=1, logged=MIB) == RETRY_S
    assert due(schedule, 50.0, interval=HOUR) == HOUR
    assert schedule.logged_since(MIB) == MIB  # what it should have covered is still due
