"""What the tests of the shell share."""

from __future__ import annotations

import pytest

from synchro.server import passwords


@pytest.fixture(autouse=True)
def passwords_cost_little(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the work for each, but in long tests, which measure it; tests/unit/test_passwords.py
    looks at what one costs in use."""
    if request.node.get_closest_marker("long") is None:
        monkeypatch.setattr(passwords, "_COST", 2**5)
