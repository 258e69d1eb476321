"""A `linearizable_quorum` below N - Q + 1 is refused wherever it comes from [Q-34], ADR 17."""

from __future__ import annotations

import pytest
import yaml

from synchro.config import QuorumFormula, Settings
from synchro.config.file import ConfigFileError, parse
from synchro.config.quorum_rules import too_few_for_reads
from synchro.errors import ConfigError
from tests.unit.test_config_warnings import document, read


def of(linearizable: str | int, synchro: str | int = "N / 2 + 1") -> Settings:
    return Settings(
        linearizable_quorum=QuorumFormula(linearizable, clamp=True), synchro_quorum=QuorumFormula(synchro)
    )


@pytest.mark.parametrize("synchro", ["N / 2 + 1", "N", 1, 2, 3, 31, "math.max(1, N - 2)"])
def test_the_default_is_never_too_low(synchro: str | int) -> None:
    for members in range(32):
        assert too_few_for_reads(of("N - Q + 1", synchro), members) == ""


@pytest.mark.parametrize(
    ("linearizable", "synchro", "members", "lowest"),
    [
        (1, "N / 2 + 1", 3, 2),
        (2, "N / 2 + 1", 5, 3),
        ("N - Q", "N / 2 + 1", 3, 2),
        ("N - Q - 7", "N / 2 + 1", 3, 2),
        ("N / 2", "N / 2 + 1", 3, 2),
        ("N - 1", 1, 3, 3),
        (30, 1, 31, 31),
        ("Q", 1, 2, 2),
    ],
)
def test_the_lowest_legal_value_is_named_and_is_legal(
    linearizable: str | int, synchro: str | int, members: int, lowest: int
) -> None:
    assert f"the lowest legal value is {lowest} " in too_few_for_reads(of(linearizable, synchro), members)
    assert too_few_for_reads(of(lowest, synchro), members) == ""
    assert too_few_for_reads(of(lowest - 1, synchro), members)


def test_what_is_asked_is_never_less_whatever_stands_there() -> None:
    """Members may come after the formula was looked at: each later leader has a voter among those asked."""
    for members in range(1, 32):
        for synchro in (1, "N / 2 + 1", "N"):
            for linearizable in (1, 2, "N / 2", "N - Q", "N - Q + 1", 31):
                settings = of(linearizable, synchro)
                votes = min(settings.synchro_quorum.quorum(members), members)
                asked = settings.read_quorum(members)
                assert asked <= members and asked + votes > members


@pytest.mark.parametrize("value", [1, "N - Q", "N / 3", "math.min(N, 1)"])
def test_a_file_is_refused_with_its_line(value: object) -> None:
    with pytest.raises(ConfigFileError) as caught:
        read(document(replication={"linearizable_quorum": value}))
    [problem, *_] = caught.value.problems
    assert problem.key == "replication.linearizable_quorum" and problem.line > 0
    assert "the lowest legal value is 2 (N - Q + 1)" in problem.message


def test_the_line_is_the_one_of_the_instance_that_says_it() -> None:
    tree = document()
    instances = tree["groups"]["g"]["replicasets"]["r"]["instances"]
    instances["i2"]["replication"] = {"linearizable_quorum": 2, "synchro_quorum": 1}
    with pytest.raises(ConfigFileError) as caught:
        read(tree)
    assert [problem.key for problem in caught.value.problems] == ["replication.linearizable_quorum"]
    assert "lowest legal value is 3" in str(caught.value)


def test_a_quorum_of_the_environment_is_refused_too() -> None:
    """So a start is, which reads the file with its environment."""
    text = yaml.safe_dump(document())
    with pytest.raises(ConfigError, match="lowest legal value is 2"):
        parse(text, path="c.yaml", environ={"SYNCHRO_REPLICATION_LINEARIZABLE_QUORUM": "1"})


def test_anonymous_followers_are_not_counted() -> None:
    tree = document(replication={"linearizable_quorum": 2})
    instances = tree["groups"]["g"]["replicasets"]["r"]["instances"]
    for number in (4, 5):
        instances[f"i{number}"] = {
            "replication": {"anon": True},
            "grpc": {"listen": [{"uri": f"127.0.0.1:330{number}"}]},
        }
    read(tree)


@pytest.mark.parametrize(("size", "value"), [(3, 2), (3, 3), (3, 31), (2, "N"), (1, 1), (3, "N / 2 + 1")])
def test_what_is_enough_is_taken(size: int, value: object) -> None:
    read(document(size=size, replication={"linearizable_quorum": value}))
