"""The program `synchro`: its verbs, errors as texts and exit codes.

Verbs import what they need when they run: `synchro --help` and a refused connection take no longer than
starting Python and gRPC does. Modules with verbs are found by their names, see `program`.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from synchro.cli import connection
from synchro.cli.formatting import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    exit_code,
    print_error,
    print_unexpected,
    usage,
)
from synchro.cli.program import program
from synchro.cli.program_verbs import COMPLETE, complete
from synchro.cli.title import WARNING
from synchro.errors import IllegalParams, SynchroError
from synchro.secret import without_passwords


def _find_verbs() -> None:
    for found in pkgutil.iter_modules([os.path.dirname(__file__)], f"{__package__}."):
        if found.name.endswith(("_verb", "_verbs")):
            import_module(found.name)


_find_verbs()


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line. Nothing that was typed ends in a traceback."""
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output left: nobody to tell anything.
        _drop_output()
        return EXIT_FAILED
    except OSError as error:
        _drop_output()
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED


def _drop_output() -> None:
    """What is still in the buffer must not fail again when the interpreter leaves."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    connection.options.forget()
    try:
        for argument in arguments:
            _check_utf8(argument)
        with program.make_context("synchro", list(arguments)) as context:
            result: Any = program.invoke(context)
        return result if isinstance(result, int) else 0
    except SynchroError as error:
        if sys.stdout is not None:
            sys.stdout.flush()
        print_error(error)
        return exit_code(error)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.UsageError as error:
        path = "synchro" if error.ctx is None else error.ctx.command_path
        print_error(IllegalParams(without_passwords(error.format_message()), next_command=f"{path} --help"))
        return EXIT_USAGE
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the one place that turns what is left into one line
        return print_unexpected(error)


def _check_utf8(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise usage(f"the argument {argument!a} is not UTF-8") from None


def main(*, has_password: bool = False) -> None:
    """Entry point. has_password: one stood on the command line."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character
    if instruction := os.environ.get(COMPLETE):
        sys.exit(complete(instruction))
    connection.has_password_shown = has_password
    if has_password and "serve" not in sys.argv[1:]:  # that one says so in its log
        print(f"warning: {WARNING}", file=sys.stderr)
    _leave(run(sys.argv[1:]))


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter down. A verb returns when all that it began is over, but
    threads of gRPC and of trio are still there: one that is in the midst of something while modules are taken
    apart can keep the process for ever, or crash it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
