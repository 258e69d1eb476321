"""What may stand on a command line: the shared options, verbs, help, durations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synchro.cli import app, connection
from synchro.cli.program import Group, program
from synchro.errors import IllegalParams


@pytest.fixture
def options() -> connection.CommonOptions:
    """As at the start of a command line; `tests/conftest.py` sees to the end."""
    connection.options.forget()
    return connection.options


@pytest.fixture
def nothing_typed(monkeypatch: pytest.MonkeyPatch, options: connection.CommonOptions) -> None:
    """No terminal, and no variables of whoever runs this test."""
    monkeypatch.setattr("sys.stdin", None)
    for name in ("SYNCHRO_PASSWORD", "SYNCHRO_PASSWORD_FILE", "SYNCHRO_USER", "SYNCHRO_ENDPOINTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["-u", "app"], {}),
        (["-u", "app"], {"SYNCHRO_PASSWORD": ""}),
        ([], {"SYNCHRO_USER": "app"}),
        (["-e", "app@127.0.0.1:1"], {}),
        (["-e", "app:@127.0.0.1:1"], {}),
    ],
)
def test_no_empty_password_is_sent_where_nobody_can_type_one(
    arguments: list[str],
    variables: dict[str, str],
    nothing_typed: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It counted as one of somebody who guesses; nothing is connected to for that."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert app.run([*arguments, "get", "t", "[1]"]) == 2
    said = capsys.readouterr().err
    assert "the password of app is not known; nothing was sent" in said
    assert "next:  --password-file FILE   or   SYNCHRO_PASSWORD" in said


def test_a_file_without_a_password_is_refused(
    nothing_typed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text("\ntopsecret\n")
    assert app.run(["-u", "app", "--password-file", str(tmp_path / "empty"), "get", "t", "[1]"]) == 2
    assert "is empty; nothing was sent" in capsys.readouterr().err


def test_the_guest_has_no_password(nothing_typed: None, options: connection.CommonOptions) -> None:
    options.user = "guest"
    assert connection.login("127.0.0.1:1") == {"user": "guest", "password": None}


PLACES = [
    ["-e", "h:1", "-v", "config", "--timeout", "500ms", "schema", "-o=json", "--direct", "-v"],
    ["-e=h:1", "--timeout=500ms", "-o", "json", "-vv", "--direct", "config", "schema"],
    ["config", "schema", "-eh:1", "--direct", "--timeout", "500ms", "--output", "json", "-vv"],
    [
        "-e",
        "h:9",
        "-o",
        "yaml",
        "config",
        "schema",
        "-e",
        "h:1",
        "-o",
        "json",
        "--timeout",
        ".5",
        "-vv",
        "--direct",
    ],
]


@pytest.mark.parametrize("arguments", PLACES)
def test_shared_options_may_stand_anywhere(arguments: list[str], options: connection.CommonOptions) -> None:
    """Behind the verb counts more than before it."""
    assert app.run(arguments) == 0
    assert (options.endpoints, options.timeout_s, options.output, options.direct, options.verbose) == (
        "h:1",
        0.5,
        "json",
        True,
        2,
    )


def test_the_environment_counts_less_than_the_command_line(
    monkeypatch: pytest.MonkeyPatch, options: connection.CommonOptions
) -> None:
    monkeypatch.setenv("SYNCHRO_ENDPOINTS", "h:2")
    monkeypatch.setenv("SYNCHRO_TIMEOUT", "7s")
    assert app.run(["-e", "h:1", "config", "schema"]) == 0
    assert (options.where, options.timeout_s, options.given) == ("h:1", 7.0, {"endpoints"})
    assert app.run(["config", "schema"]) == 0
    assert (options.where, options.given) == ("h:2", set())
    monkeypatch.setenv("NO_COLOR", "1")
    assert app.run(["config", "schema"]) == 0
    assert not options.color


def test_a_command_line_does_not_see_the_options_of_the_one_before(options: connection.CommonOptions) -> None:
    assert app.run(["-e", "h:1", "--no-color", "-v", "config", "schema"]) == 0
    assert app.run(["config", "schema"]) == 0
    assert (options.where, options.color, options.verbose) == (connection.DEFAULT_ENDPOINTS, True, 0)


def test_behind_two_dashes_nothing_is_an_option(
    options: connection.CommonOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["config", "check", "--", "-e"]) == 2
    assert "error: CONFIG: -e: cannot read" in capsys.readouterr().err
    assert options.where == connection.DEFAULT_ENDPOINTS


def _verbs(group: Group = program, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, Group):
            yield from _verbs(command, (*words, name))


SHOWN_VERBS = [words for words, command in _verbs() if not command.hidden]


def test_a_verb_is_a_function_in_a_module_that_is_found() -> None:
    """By its name alone: a new verb touches one file, and no list."""
    folder = Path(app.__file__).parent
    makers = {path.stem for path in folder.glob("*.py") if ".command(" in path.read_text(encoding="utf-8")}
    assert {name for name in makers if not name.endswith(("_verb", "_verbs"))} == {"program"}  # its docstring
    modules = {command.callback.__module__.rpartition(".")[2] for _, command in _verbs() if command.callback}
    assert modules == makers - {"program"}


@pytest.mark.parametrize("words", SHOWN_VERBS, ids=" ".join)
def test_the_help_of_each_verb_fits_and_shows_the_shared_options(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for option in ("-e, --endpoints", "--direct", "--timeout", "-o, --output", "--no-color", "-v, --verbose"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "error", "command"),
    [
        (["frobnicate"], "No such command 'frobnicate'.", "synchro --help"),
        (["get", "s"], "Missing argument 'KEY'.", "synchro get --help"),
        (["space", "list", "--bad"], "No such option '--bad'.", "synchro space list --help"),
        (["select", "s", "--limit", "x"], "'x' is not a valid integer range", "synchro select --help"),
        (["--timeout", "soon", "info"], "'soon' is not a time; examples: 5s, 500ms, 2m", "synchro --help"),
    ],
)
def test_a_command_line_that_is_wrong_names_the_help_of_its_verb(
    arguments: list[str], error: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ILLEGAL_PARAMS: ")
    assert error in first
    assert second == f"next:  {command}"


def test_an_instance_is_named_by_its_option_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """NAME without the option is the older form of three of them."""
    takes = {" ".join(words) for words, command in _verbs() if "instance" in {p.name for p in command.params}}
    assert takes == {
        *(
            "config set",
            "config show",
            "demote",
            "info",
            "member list",
            "promote",
            "queue",
            "replica-gc",
            "replication restart",
            "snapshot",
            "wait-leader",
            "wait-ro",
            "wait-rw",
            "wal sync",
        ),
        *("space checksum", "space list", "space show", "user info", "user list", "watch info"),
        *("sequence current", "sequence list"),
        *("fault clear", "fault clock", "fault heal", "fault list", "fault partition", "fault set"),
    }
    for verb in ("promote", "demote", "snapshot", "wait-rw"):
        assert app.run([verb, "one", "-i", "two"]) == 2
        assert "either one or -i two" in capsys.readouterr().err
    assert app.run(["space", "checksum", "s", "--all", "-i", "one"]) == 2
    assert "either --all or -i" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["-e"], ["-o", "xml"], ["--timeout", "soon"]])
def test_bad_shared_options_are_usage_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*arguments]) == 2
    assert "error: ILLEGAL_PARAMS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("5s", 5), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), (".5", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert connection.parse_duration(text) == seconds


def test_a_duration_without_sense_is_refused() -> None:
    for text in ("", "s", "-1", "5 parsecs", "1e3"):
        with pytest.raises(IllegalParams):
            connection.parse_duration(text)


def test_config_check_and_show_take_the_directory_as_start_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.run(["init", "instances.enabled/myset"]) == 0
    capsys.readouterr()
    for name in ("myset", "instances.enabled/myset", "instances.enabled/myset/config.yaml"):
        assert app.run(["config", "check", name]) == 0
        assert capsys.readouterr().out.startswith(f"{name}: 3 instances: instance001")
        assert app.run(["config", "show", name, "-i", "instance002"]) == 0
        assert capsys.readouterr().out.startswith("instance002:")
