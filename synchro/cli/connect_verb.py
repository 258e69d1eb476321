"""`synchro connect`: verbs for one instance, one a line."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from typing import Final

from synchro.cli.arguments import target_argument
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_USAGE, print_error, usage
from synchro.cli.program import program

ENDS: Final = frozenset({"exit", "quit", "\\q"})


@program.command("connect")
@target_argument
def connect(target: str) -> int:
    """Type verbs for one instance, one a line, without the word synchro; exit, or the end of the input, ends
    it.

    Returns the exit code of the last one.
    """
    from synchro.cli.process_table import parse_target

    parsed = parse_target(target)
    if len(parsed.names) != 1:
        raise usage(f"connect needs one instance: {target}:NAME, of {', '.join(parsed.names)}")
    (name,) = parsed.names
    where = parsed.config.instance(name).settings.listen
    if not where:
        raise usage(f"{name} does not listen, so nobody connects to it")
    with client(where=where) as db:
        db.get_info("", timeout=options.timeout_s)
    again = ["-e", where, "--direct", *options.arguments()]
    if is_terminal := sys.stdin.isatty():
        print(f"connected to {name} at {where}")
    code = 0
    for line in _lines(f"{name}> " if is_terminal else ""):
        try:
            words = shlex.split(line)
        except ValueError as error:
            print_error(usage(f"{error}: {line.strip()[:80]}"))
            code = EXIT_USAGE
            continue
        if words and words[0] in ENDS:
            break
        code = _run(again, words) if words else code
    return code


def _lines(prompt: str) -> Iterator[str]:
    if prompt:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` a history
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return


def _run(again: list[str], words: list[str]) -> int:
    from synchro.cli.app import run

    return run([*again, *words])
