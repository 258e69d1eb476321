"""Runs a scenario, and says where something else came out than it expects."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from synchro.errors import SynchroError
from tests.scenarios import arguments
from tests.scenarios.script import ScenarioError, Step, parse, rewritten
from tests.scenarios.words import WORDS, Words

_NAMED = re.compile(r"([a-z]\w*) = (.+)")
SUFFIX = ".scenario"
HERE = Path(__file__).parent
KINDS = {
    "async": "asynchronous",
    "applier": "applier",
    "relay": "relay",
    "bootstrap": "bootstrap",
    "join": "join",
    "anonymous": "join",
    "recovery": "recovery",
    "membership": "membership",
    "settings": "live configuration",
}
"""Folder -> kind of the stories in it. `traces` are walks through several of them."""
SYNC_KINDS = {
    "queue": "verdicts under races",
    "quorum": "acks and quorum",
    "pending": "restart with a pending queue",
    "failover": "failover chains",
    "fencing": "fencing",
    "hung": "hung leader",
    "stale": "stale leader",
    "split": "split brain",
    "reads": "reads",
    "full": "join with a full queue",
}
"""The same for stories of synchronous replication."""


def all_files() -> list[Path]:
    return sorted(HERE.rglob("*" + SUFFIX))


def folder_of(path: Path) -> str:
    return path.resolve().relative_to(HERE).parts[0]


def by_kind(files: Iterable[Path], kinds: Mapping[str, str] = KINDS) -> dict[str, list[Path]]:
    """Those of `files` that have one of `kinds`, in its order."""
    found: dict[str, list[Path]] = {kind: [] for kind in kinds.values()}
    for path in files:
        if kind := kinds.get(folder_of(path)):
            found[kind].append(path)
    return found


def run(source: str) -> None:
    """Raises `ScenarioError` at the first step whose output is not the expected one."""
    words = Words()
    script = parse(source)
    for step in script.steps:
        output = _output(words, step)
        if output != step.expected:
            raise ScenarioError(_difference(step, output), step.line)


def rewrite(path: Path) -> bool:
    """Put what comes out in the place of what was expected. False: it was so already."""
    before = path.read_text(encoding="utf-8")
    words = Words()
    after = rewritten(before, [_output(words, step) for step in parse(before, may_expect_nothing=True).steps])
    path.write_text(after, encoding="utf-8")
    return after != before


def check_file(path: Path) -> None:
    """Raises `AssertionError`: file, line, and what is wrong there."""
    try:
        run(path.read_text(encoding="utf-8"))
    except ScenarioError as error:
        raise AssertionError(f"{path}:{error.line or 1}: {error.message}") from error


def _output(words: Words, step: Step) -> list[str]:
    named = _NAMED.fullmatch(step.text)
    label, text = (named[1], named[2]) if named else (None, step.text)
    word, _, rest = text.partition(" ")
    known = WORDS.get(word)
    try:
        if known is None:
            near = difflib.get_close_matches(word, WORDS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ScenarioError(f"unknown word {word!r}{hint}")
        return words.carry_out(known, arguments.read(known.usage, rest.strip()), label)
    except SynchroError as error:
        raise ScenarioError(f"{step.text}: {error.reason}: {error.message}", step.line) from error
    except ScenarioError as error:
        raise ScenarioError(f"{step.text}: {error.message}", error.line or step.line) from error


def _difference(step: Step, output: Sequence[str]) -> str:
    lines = difflib.ndiff(step.expected, list(output))
    shown = "\n".join("    " + line.rstrip() for line in lines if not line.startswith("?"))
    return f"{step.text}: something else came out (- expected, + came):\n{shown}"
