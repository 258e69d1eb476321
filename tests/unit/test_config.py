"""Quorum formulas and the values derived from settings."""

from __future__ import annotations

import pytest

from synchro.config import Limits, QuorumFormula, Settings
from synchro.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "members", "expected"),
    [
        ("N / 2 + 1", 0, 1),
        ("N / 2 + 1", 1, 1),
        ("N / 2 + 1", 2, 2),
        ("N / 2 + 1", 3, 2),
        ("N / 2 + 1", 4, 3),
        ("N / 2 + 1", 5, 3),
        ("N / 2 + 1", 31, 16),
        ("N", 3, 3),
        (2, 31, 2),
        ("3", 1, 3),
        ("math.max(math.ceil(N * 2 / 3), 1)", 4, 3),
        ("math.min(N, 5)", 9, 5),
        ("-(0 - N)", 7, 7),
    ],
)
def test_a_formula_gives_the_floor(text: str | int, members: int, expected: int) -> None:
    """[Q-30]; SF-9."""
    assert QuorumFormula(text).quorum(members) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "32",
        "N - 1",
        "N * 2",
        "1 / (N - 3)",
        "N ** 2",
        "N if N else 1",
        "M",
        "__import__('os')",
        "N.bit_length()",
        "math.pow(N, 1)",
        "math.floor()",
        "[N]",
        "True",
        "'1'",
        "N; N",
        "N" * 300,
        "math.floor(x=N)",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        QuorumFormula(text)


def test_the_text_of_a_refusal_is_that_of_tarantool() -> None:
    with pytest.raises(ConfigError) as caught:
        QuorumFormula("N + 1")
    assert str(caught.value) == (
        "the formula is evaluated to the quorum 32 for replica number 31, which is out of range [1;31]"
    )
    with pytest.raises(ConfigError) as caught:
        QuorumFormula(0)
    assert str(caught.value) == "the value must be greater than zero and less than maximal number of replicas"


def test_the_linearizable_quorum_overlaps_with_the_synchronous_one() -> None:
    """[Q-34]: each read set meets each write set."""
    formula = Settings().linearizable_quorum
    for members in range(1, 32):
        quorum = Settings().synchro_quorum.quorum(members)
        assert formula.quorum(members, quorum) + quorum > members


def test_formulas_are_values() -> None:
    assert QuorumFormula("N") == QuorumFormula("N")
    assert len({QuorumFormula("N"), QuorumFormula("N"), QuorumFormula("2")}) == 2
    assert (QuorumFormula("N").number, QuorumFormula(2).number) == (None, 2)


def test_derived_times() -> None:
    settings = Settings(replication_timeout_s=0.5)
    assert (settings.death_timeout_s, settings.retry_s) == (2.0, 0.5)
    assert Settings(reconnect_timeout_s=0.1).retry_s == 0.1


def test_limits_fit_into_each_other() -> None:
    limits = Limits()
    assert limits.tuple_bytes_max <= limits.wal_block_bytes_max
    assert limits.txn_bytes_max < limits.message_bytes_max
    assert limits.wal_control_reserve_bytes < limits.wal_lead_bytes
