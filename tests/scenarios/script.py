"""A scenario as it stands in its file: what it shows, what is done, and what must be seen then.

    # [A-30] [M-48]
    # In a full mesh a row arrives on two ways and is applied once.

    members 3
    insert 1 async [1, "a"]
        committed 1:1

Lines that begin with four spaces are the output that the command above them must have, all of it and nothing
else. `README.md` has the words. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

INDENT = "    "
_RULES = re.compile(r"# (\[[A-Z]-\d+\](?: \[[A-Z]-\d+\])*)")
_SENTENCE = re.compile(r"[A-Z0-9`].*[.:]")


class ScenarioError(Exception):
    """The scenario is no good, or what it expects is not so. `line` counts from 1; 0: the whole file."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass
class Step:
    """A command with the output that it must have."""

    line: int
    text: str
    expected: list[str] = field(default_factory=list)


@dataclass
class Script:
    rules: Sequence[str]
    sentence: str
    steps: Sequence[Step]


def parse(source: str, *, may_expect_nothing: bool = False) -> Script:
    """Raises `ScenarioError`: which line, and what it should have been. may_expect_nothing: it is new."""
    lines = source.split("\n")
    rules, sentence = _head(lines)
    steps = list(_steps(lines))
    if not may_expect_nothing and not any(step.expected for step in steps):
        raise ScenarioError("nothing is expected: no command has output below it, so this cannot fail")
    return Script(rules, sentence, steps)


def _head(lines: Sequence[str]) -> tuple[list[str], str]:
    found = _RULES.fullmatch(lines[0])
    if found is None:
        raise ScenarioError("the first line names the rules that are shown, such as: # [A-30] [M-48]", 1)
    told = []
    for line in lines[1:]:
        if not line.startswith("# "):
            break
        told.append(line[2:].strip())
    sentence = " ".join(told)
    if _SENTENCE.fullmatch(sentence) is None:
        raise ScenarioError("the second line tells in one sentence what is shown: # A row is ...", 2)
    return re.findall(r"[A-Z]-\d+", found[1]), sentence


def _steps(lines: Sequence[str]) -> Iterator[Step]:
    step: Step | None = None
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            raise ScenarioError("there is a space at the end of the line", number)
        if not line or line.startswith("#"):
            continue
        if line.startswith(INDENT):
            if step is None:
                raise ScenarioError("there is output, but no command above it", number)
            step.expected.append(line[len(INDENT) :])
        elif line[0].isspace():
            raise ScenarioError(f"output begins with {len(INDENT)} spaces, a command with none", number)
        else:
            if step is not None:
                yield step
            step = Step(number, line)
    if step is not None:
        yield step


def rewritten(source: str, outputs: Sequence[Sequence[str]]) -> str:
    """`source` with the output of each command in the place of what it expected. outputs: one a command."""
    shown = iter(outputs)
    lines: list[str] = []
    for line in source.split("\n"):
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines.extend(INDENT + output for output in next(shown, ()))
    return "\n".join(lines)
