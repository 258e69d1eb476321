"""What the tests of the shell share."""

from __future__ import annotations

import pytest

from synchro.server import passwords


@pytest.fixture(autouse=True)
def passwords_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the work for each; tests/unit/test_passwords.py looks at what one costs in use."""
    monkeypatch.setattr(passwords, "_COST", 2**5)
