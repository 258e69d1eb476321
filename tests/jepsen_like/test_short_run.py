"""One short run against real processes; longer ones: `python -m tests.jepsen_like --help`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jepsen_like.run import main


@pytest.mark.alone
def test_register_while_instances_are_killed(tmp_path: Path) -> None:
    """Each key is one register, although the owner is killed again and again. A run that proves nothing, on a
    machine too busy for 500 operations, is repeated once; a violation never is."""
    for attempt in (1, 2):
        directory = tmp_path / str(attempt)
        arguments = [
            "--workload",
            "register",
            "--nemesis",
            "kill",
            "--seconds",
            "14",
            "--keep",
            str(directory),
        ]
        code = main(arguments)
        assert code != 1, "see the violations above"
        if code == 0:
            return
    raise AssertionError("two runs in a row prove nothing, see the reasons above")
