"""What the tests of the shell share."""

from __future__ import annotations

import pytest

from synchro.server import passwords
from tests.steady_clock import SteadyClock


@pytest.fixture(autouse=True)
def passwords_cost_little(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the work for each, but in long tests, which measure it; tests/unit/test_passwords.py
    looks at what one costs in use."""
    if request.node.get_closest_marker("long") is None:
        monkeypatch.setattr(passwords, "_COST", 2**5)


@pytest.fixture(autouse=True)
def a_stall_of_the_process_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every loop of trio that gets no other clock."""
    monkeypatch.setattr("trio._core._run.SystemClock", SteadyClock)
