"""What a shell is told when somebody presses tab: verbs, options, choices, files, names of a set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from click.shell_completion import ShellComplete

from synchro.cli import app, connection, processes
from synchro.cli.program import program
from synchro.cli.program_verbs import COMPLETE
from tests.shell.test_values import run, served


def completions(*words: str) -> list[str]:
    """For the last word, as click's protocol for shells gives them."""
    connection.options.forget()
    found = ShellComplete(program, {}, "synchro", COMPLETE).get_completions([*words[:-1]], words[-1])
    return [item.value if item.type == "plain" else item.type for item in found]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["sp"], ["space"]),
        (["up"], ["update", "upsert"]),
        (["us"], ["user"]),
        (["back"], []),  # what is not built yet is not offered
        (["space", "cr"], ["create"]),
        (["-e", "h:1", "wal", ""], ["cat", "check", "sync"]),
        (["get", "--re"], ["--read"]),
        (["get", "--tim"], ["--timeout"]),
        (["-o", "js"], ["json", "jsonl"]),
        (["select", "s", "-o", "y"], ["yaml"]),
        (["import", "--on-error", ""], ["stop", "skip"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["wal", "cat", "x"], ["file"]),
        (["start", "conf"], ["file"]),
    ],
)
def test_verbs_options_choices_and_files(words: list[str], values: list[str]) -> None:
    assert completions(*words) == values


def test_behind_a_file_stand_its_instances(tmp_path: Path) -> None:
    path = processes.init(tmp_path, nodes=3)
    assert completions("stop", f"{path}:") == [f"{path}:instance00{number}" for number in (1, 2, 3)]
    assert completions("stop", f"{path}:instance002") == [f"{path}:instance002"]
    assert completions("stop", f"{tmp_path / 'nothing.yaml'}:") == []


async def test_spaces_and_instances_are_asked_for() -> None:
    async with served(with_rows=False) as (_, address):
        await run(address, "space", "create", "stars")
        _, members, _ = await run(address, "-o", "json", "member", "list")
        names = [member["name"] for member in json.loads(members) if member["name"]]
        assert names

        def asked() -> None:
            assert completions("-e", address, "get", "st") == ["stars"]
            assert completions("-e", address, "space", "drop", "") == ["s", "stars"]
            assert completions("info", "-e", address, "-i", "") == names
            assert completions("-e", address, "promote", "zzz") == []

        await trio.to_thread.run_sync(asked)


def test_nobody_who_answers_is_nothing_to_complete() -> None:
    assert completions("-e", "127.0.0.1:1", "get", "") == []
    assert completions("-e", "127.0.0.1:1", "snapshot", "-i", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"{COMPLETE}={shell}_complete" in script
    assert script.startswith("# ")


def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    """The script itself, in a shell: the program is whatever is called `synchro` on its path."""
    program = tmp_path / "synchro"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m synchro "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [
            *("bash", "--norc", "-c"),
            'eval "$(synchro completion bash)"; COMP_WORDS=(synchro space ch); COMP_CWORD=2; '
            '_synchro_completion synchro; echo "${COMPREPLY[@]}"',
        ],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("checksum\n", "")
