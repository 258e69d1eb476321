"""Who tests the tests: each planted bug must be noticed by the simulator, by an invariant that names it."""

from __future__ import annotations

import pytest

from tests.saboteurs.bugs import ALL, Saboteur
from tests.saboteurs.hunt import hunt


@pytest.mark.parametrize("bug", ALL, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Saboteur) -> None:
    seeds, result, _ = hunt(bug)

    assert result is not None, f"{bug.name} lived through {seeds} seeds from {bug.first} on"
