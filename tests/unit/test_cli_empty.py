"""What may be left out, and is given as "": a variable that was never set. It is no default."""

from __future__ import annotations

from pathlib import Path

import pytest

from synchro.cli import app
from synchro.cli.process_table import parse_target
from synchro.errors import ConfigError

EMPTY = [
    ("NAME", ["promote", ""]),
    ("--instance", ["demote", "-i", ""]),
    ("NAME", ["demote", ""]),
    ("--instance", ["config", "set", "replication.timeout", "2s", "-i", ""]),
    ("NAME", ["rebootstrap", "", "-y"]),
    ("OBJECT", ["grant", "bob", "read", "space", ""]),
    ("OBJECT", ["revoke", "bob", "read", "space", ""]),
    ("NAME", ["user", "passwd", ""]),
    ("POINT", ["fault", "clear", ""]),
    ("KEY", ["select", "bands", ""]),
    ("--if", ["update", "bands", "1", "[]", "--if", ""]),
    ("--endpoints", ["-e", "", "promote"]),
    ("--endpoints", ["info", "--endpoints", ""]),
    ("--cacert", ["info", "--cacert", ""]),
    ("--user", ["--user=", "info"]),
]


@pytest.mark.parametrize(("what", "words"), EMPTY, ids=[" ".join(words) for _, words in EMPTY])
def test_what_is_given_and_empty_is_not_taken_for_left_out(
    what: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(words) == 2
    said = capsys.readouterr().err
    assert f"{what}] is given, and empty" in said or f"{what} is given, and empty" in said, said
    assert "nothing was done" in said


def test_a_variable_of_the_environment_that_is_empty_is_as_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SYNCHRO_ENDPOINTS", "")
    assert app.run(["info", "--timeout", "100ms", "-e", "127.0.0.1:9"]) == 3
    assert "127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", ":", ":instance001", "set:", "set/config.yaml:"])
def test_a_target_without_a_file_or_without_a_name_is_not_the_whole_set(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`synchro stop "s1:$NAME"` would stop all of s1, `synchro stop "$SET"` what is in this directory."""
    monkeypatch.chdir(tmp_path)
    assert app.run(["init", "set", "--nodes", "3"]) == 0
    monkeypatch.chdir(tmp_path / "set" if text in ("", ":", ":instance001") else tmp_path)
    with pytest.raises(ConfigError, match="nothing was done"):
        parse_target(text)
    assert parse_target(tmp_path / "set").names == ("instance001", "instance002", "instance003")
