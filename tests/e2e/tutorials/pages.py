"""The tutorials of docs/tutorials/ as programs: what a person types, and what must come.

A page is Markdown. What is carried out of it, in its order:

- a block of the language `console`: `$ command` is typed into a terminal that comes back; `T1$ command`
  into the terminal of that name, where a server stays in the foreground. The lines below are what it prints.
  `T1| line` is what it prints while others work. `T1^C` is Ctrl-C there.
- a block of the language `yaml` that begins with `# NAME/FILE`: that file is written.
- `<!-- MM-17 -->`: the steps that the blocks behind it belong to.

Expected lines: `<words>` stands for any text inside a line, `...` alone for any number of lines; blanks
count as one. Of a server they are some of the lines that it prints, in this order. A command that only looks
is tried again until its output fits: what it looks at may be on its way. Any other is run once, and must
succeed unless an `error:` is expected. Addresses are those of the page on both sides; the processes use free
ports.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest import mock

from synchro.cli import app
from tests.e2e.cluster import soon_s
from tests.ports import free_ports

PATIENCE_S: Final = 15.0
COMMAND_S: Final = 30.0
POLL_S: Final = 0.1
LOOKING: Final = re.compile(
    r"(select|get|info|status|queue|health|ls|cat|member list|space (show|list|checksum)|wal (cat|check))\b"
)
"""Verbs that change nothing."""
_OF_PROCESSES: Final = re.compile(r"synchro (init|start|stop|restart|serve|demo)\b")
_OF_THE_SHELL: Final = re.compile(r"[|;&$<>*?()`\"~]")
"""What makes more of a line than one command, outside of single quotes."""
_FENCE: Final = re.compile(r"^```(\w*)")
_STEPS: Final = re.compile(r"^<!-- ((?:[A-Z]+\d*-\d+\w?(?:, )?)+) -->$")
_PROMPT: Final = re.compile(r"^(?:(T\d))?(\$ |\| |\^C)(.*)$")
_ANY_LINES: Final = r"(?:.*\n)*?"
_ADDRESS: Final = re.compile(r"127\.0\.0\.1:(33\d\d)\b")


@dataclass(frozen=True, slots=True)
class Step:
    """terminal: "" for the one that comes back. kind: `$`, `|`, `^C`, or `file` with its name as text."""

    line: int
    ids: str
    terminal: str
    kind: str
    text: str
    expected: tuple[str, ...] = ()


def parse(page: str) -> list[Step]:
    """Raises `ValueError` with the number of the line that is no part of a page."""
    steps: list[Step] = []
    ids = ""
    lines = iter(enumerate(page.splitlines(), 1))
    for number, line in lines:
        if found := _STEPS.match(line):
            ids = found[1]
        elif (fence := _FENCE.match(line)) and line.startswith("```"):
            block = list(_until_fence(lines))
            if fence[1] == "console":
                steps += _console(block, ids)
            elif fence[1] == "yaml" and block and re.fullmatch(r"# [\w./-]+\.yaml", block[0][1]):
                text = "\n".join(text for _, text in block) + "\n"
                steps.append(Step(number, ids, "", "file", block[0][1][2:], (text,)))
    return steps


def _until_fence(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if line.startswith("```"):
            return
        yield number, line
    raise ValueError("a block has no end")


def _console(block: Sequence[tuple[int, str]], ids: str) -> Iterator[Step]:
    number, begun, expected = 0, None, list[str]()
    for number, line in [*block, (0, "$ ")]:
        prompt = _PROMPT.match(line)
        if prompt is None:
            if begun is None:
                raise ValueError(f"line {number}: output without a command: {line}")
            expected.append(line)
            continue
        if begun is not None:
            at, found = begun
            yield Step(at, ids, found[1] or "", found[2].strip(), found[3], tuple(expected))
        begun, expected = (number, prompt), []
        if prompt[2] == "| ":
            yield Step(number, ids, prompt[1], "|", "", (prompt[3],))
            begun = None


# --- what fits ------------------------------------------------------------------------------------------


def fits(expected: Sequence[str], output: str, *, whole: bool = True) -> bool:
    """whole: nothing else is there; else the lines are somewhere in it, in this order."""
    lines = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    between = "" if whole else _ANY_LINES
    pattern = between.join(_line_pattern(line) for line in expected if line.strip())
    text = "".join(f"{line}\n" for line in lines)
    if whole:
        return re.fullmatch(pattern, text) is not None
    return re.search(f"(?m:^){pattern}", text) is not None


def _line_pattern(line: str) -> str:
    line = " ".join(line.split())
    if line == "...":
        return _ANY_LINES
    parts = re.split(r"<[a-z][\w .-]*>", line)
    return ".*?".join(map(re.escape, parts)) + r"\n"


# --- carrying it out ------------------------------------------------------------------------------------


class PageFailed(AssertionError):
    """With the name of the page, the line and the ids of the step."""


@dataclass
class Session:
    """The terminals of one reader. Everything it starts ends with it."""

    name: str
    directory: Path
    ports: dict[str, int] = field(default_factory=dict)
    """Of the page -> free one."""
    terminals: dict[str, _Terminal] = field(default_factory=dict)
    configs: set[str] = field(default_factory=set)
    """That `synchro start` was typed for."""

    def play(self, steps: Iterable[Step]) -> None:
        """Raises `PageFailed`."""
        for step in steps:
            match step.kind:
                case "file":
                    path = self.directory / step.text
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(self._real(step.expected[0]))
                case "|":
                    self._wait_shown(step, self.terminals[step.terminal])
                case "^C":
                    self._interrupt(step)
                case _ if step.terminal:
                    self._serve(step)
                case _:
                    self._command(step)

    def _real(self, text: str) -> str:
        """With free ports in place of those of the page."""

        def port(found: re.Match[str]) -> str:
            if found[1] not in self.ports:
                [self.ports[found[1]]] = free_ports(1)
            return f"127.0.0.1:{self.ports[found[1]]}"

        return _ADDRESS.sub(port, text)

    def _shown(self, text: str) -> str:
        for shown, real in self.ports.items():
            text = re.sub(rf"(?<=[:-]){real}\b", shown, text)
        return text

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SYNCHRO_")}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
            "SYNCHRO_ENDPOINTS": self._real("127.0.0.1:3301,127.0.0.1:3302,127.0.0.1:3303"),
            "SYNCHRO_REPLICATION_TIMEOUT_DEFAULT": "200ms",
        }

    def _command(self, step: Step) -> None:
        verb = step.text.partition("synchro ")[2] or step.text
        looks = LOOKING.match(re.sub(r"(-[eiou] \S+ |--direct )*", "", verb)) is not None
        if started := re.match(r"start ([\w./-]+)", verb):
            self.configs.add(started[1])
        deadline = time.monotonic() + soon_s(PATIENCE_S)
        while True:
            code, output = self._run(step.text)
            is_good = code == 0 or any(line.startswith("error: ") for line in step.expected)
            if is_good and fits(step.expected, output):
                return
            if not looks or time.monotonic() > deadline:
                raise self._failed(step, f"exit code {code}, printed:\n{output}")
            time.sleep(POLL_S)

    def _run(self, text: str) -> tuple[int, str]:
        """Exit code and output. One command that starts nothing is run in this process, where it need not be
        loaded first."""
        is_plain = not _OF_THE_SHELL.search(re.sub(r"'[^']*'", "", text)) and not _OF_PROCESSES.match(text)
        if is_plain and text.startswith("synchro "):
            out = io.StringIO()
            environment = mock.patch.dict(os.environ, self._environment(), clear=True)
            streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(out)
            with environment, contextlib.chdir(self.directory), streams[0], streams[1]:
                code = app.run(shlex.split(self._real(text))[1:])
            return code, self._shown(out.getvalue())
        done = subprocess.run(
            ["bash", "-c", self._real(text)],
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=soon_s(COMMAND_S),
            check=False,
        )
        return done.returncode, self._shown(done.stdout)

    def _serve(self, step: Step) -> None:
        terminal = self.terminals.setdefault(
            step.terminal, _Terminal(self.directory / f"{step.terminal}.log")
        )
        assert not terminal.is_busy, f"{step.terminal} is busy, line {step.line}"
        terminal.begin(self._real(step.text), self.directory, self._environment())
        self._wait_shown(step, terminal)

    def _wait_shown(self, step: Step, terminal: _Terminal) -> None:
        """Until the lines that are expected came, since the last that was expected of this terminal."""
        deadline = time.monotonic() + soon_s(PATIENCE_S)
        while not fits(step.expected, self._shown(terminal.output()), whole=False):
            if time.monotonic() > deadline:
                raise self._failed(step, f"{step.terminal} printed:\n{self._shown(terminal.output())}")
            time.sleep(POLL_S)

    def _interrupt(self, step: Step) -> None:
        if (code := self.terminals[step.terminal].end(signal.SIGINT)) != 0:
            raise self._failed(step, f"exit code {code} after Ctrl-C")

    def _failed(self, step: Step, what: str) -> PageFailed:
        expected = "\n".join(step.expected)
        place = f"{self.name}:{step.line}"
        return PageFailed(f"{place} ({step.ids}): {step.text}\nexpected:\n{expected}\n{what}")

    def close(self) -> list[str]:
        """End everything; what did not end well."""
        bad = []
        for config in self.configs:
            code, output = self._run(f"synchro stop {config} --kill")
            if code:
                bad.append(f"synchro stop {config}: {output}")
        for name, terminal in self.terminals.items():
            if terminal.is_busy and (code := terminal.end(signal.SIGTERM)) != 0:
                bad.append(f"{name} ended with exit code {code}")
        return bad


class _Terminal:
    """One with a server in the foreground."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._from = 0
        """What was printed before belongs to an earlier command."""

    @property
    def is_busy(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def begin(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        self._from = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def output(self) -> str:
        return self._log.read_bytes()[self._from :].decode(errors="replace")

    def end(self, number: signal.Signals) -> int:
        """Its exit code."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            return self._process.wait(soon_s(PATIENCE_S))
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
