"""The long runs are recorded as what they were: no figures for a run that did not come to its end."""

from __future__ import annotations

import pytest

from tools import long_run


@pytest.mark.parametrize(
    ("output", "figures"),
    [
        ("....\n4 passed, 1900 deselected in 251.02s (0:04:11)\n", (4, 0)),
        ("..F\n=== 1 failed, 2 passed, 1 error in 3.00s ===\n", (4, 2)),
        ("1900 deselected in 1.00s\n", None),
        ("Terminated\n", None),
    ],
)
def test_pytest_is_read(output: str, figures: tuple[int, int] | None) -> None:
    assert long_run.read_pytest(output) == figures


@pytest.mark.parametrize(
    ("output", "figures"),
    [
        ("sim: 5000 seeds, 0 violations, 83000 virtual seconds, 8.5 schedules/s, 1 steps/s\n", (5000, 0)),
        ("seed 7: violation of S3\nsim: 10 seeds, 1 violations, 83 virtual seconds\n", (10, 1)),
        ("Traceback (most recent call last):\n", None),
    ],
)
def test_the_simulator_is_read(output: str, figures: tuple[int, int] | None) -> None:
    assert long_run.read_sim(output) == figures


@pytest.mark.parametrize(
    ("output", "figures"),
    [
        ("verdict: VALID (register + kill, 60 s, seed 3); 31000 ok of 40000\n", (31000, 0)),
        ("VIOLATION: key 3\nVIOLATION: key 4\nverdict: VIOLATION (register + kill); 120 ok\n", (120, 2)),
        ("verdict: INVALID (register + kill, 60 s, seed 3): too few operations\n", None),
    ],
)
def test_a_history_is_read(output: str, figures: tuple[int, int] | None) -> None:
    assert long_run.read_jepsen(output) == figures


@pytest.mark.parametrize(
    ("output", "figures"),
    [
        ("1,000,000 inputs, 1,657,693,218 bytes in, 271,965,174 out\n1430 s, seed 31\n", (1_000_000, 0)),
        ("100,000 inputs, 180,630 messages\nAssertionError\n", None),
    ],
)
def test_a_fuzz_is_read(output: str, figures: tuple[int, int] | None) -> None:
    assert long_run.read_fuzz(output) == figures
