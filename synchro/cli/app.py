"""The program `synchro`: its verbs, the options they share, errors as texts and exit codes.

Verbs import what they need when they run: `synchro --help` and a refused connection take no longer than
starting Python and gRPC does. Options that all verbs share may stand before or behind the verb.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer

from synchro.cli import connection, light_typer
from synchro.cli.formatting import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    exit_code,
    print_error,
    print_unexpected,
    usage,
)
from synchro.errors import SynchroError

light_typer.install()

EPILOG: Final = """\
Options of all verbs, before or behind the verb: -e/--endpoints HOST:PORT,... (any of the set, the client
finds the leader; or SYNCHRO_ENDPOINTS), --direct (ask only these, go nowhere else), --timeout 5s,
-o/--output table|json|yaml|jsonl, --no-color, -v, and for releases with login and TLS -u/--user,
--password-file, --cacert, --cert, --key.
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 no connection or no leader, 4 read-only or not the
owner, 5 timed out or outcome unknown, 6 conflict, 7 not found, 8 access, 70 a bug, 130 interrupted."""

app = typer.Typer(
    help="Raft-based synchronous replication with the semantics of Tarantool.",
    epilog=EPILOG,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_VALUES: Final = {
    "-e": "endpoints",
    "--endpoints": "endpoints",
    "-u": "user",
    "--user": "user",
    "--password-file": "password_file",
    "--cacert": "cacert",
    "--cert": "cert",
    "--key": "key",
    "--timeout": "timeout",
    "-o": "output",
    "--output": "output",
}
_ENVIRONMENT: Final = {
    "user": "SYNCHRO_USER",
    "password_file": "SYNCHRO_PASSWORD_FILE",
    "timeout": "SYNCHRO_TIMEOUT",
    "output": "SYNCHRO_OUTPUT",
}


def take_options(arguments: Sequence[str]) -> list[str]:
    """Fill `connection.options`, return the other arguments. Raises `IllegalParams`."""
    options = connection.options
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise usage(f"the argument {argument!a} is not UTF-8") from None
    for name, variable in _ENVIRONMENT.items():
        if value := os.environ.get(variable):
            setattr(options, name, value)
    if "NO_COLOR" in os.environ:
        options.color = False
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            left += ["--", *rest]
        elif name in _VALUES and (equals or argument == name):
            if not equals:
                try:
                    value = next(rest)
                except StopIteration:
                    raise usage(f"option {name} needs a value") from None
            setattr(options, _VALUES[name], value)
            options.given.add(_VALUES[name])
        elif argument == "--no-color":
            options.color = False
        elif argument == "--direct":
            options.direct = True
        elif argument in ("-v", "--verbose"):
            options.verbose += 1
        else:
            left.append(argument)
    if options.output not in connection.OUTPUTS:
        raise usage(f"-o is one of {', '.join(connection.OUTPUTS)}, not {options.output!r}")
    if options.timeout:
        connection.parse_duration(options.timeout)
    return left


def _version() -> None:
    from importlib import metadata

    print(f"synchro {metadata.version('synchrodb')}")


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
    try:
        left = take_options(arguments)
        if left in (["--version"], ["version"]):
            _version()
            return 0
        result: Any = app(args=left, prog_name="synchro", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SynchroError as error:
        if sys.stdout is not None:
            sys.stdout.flush()
        print_error(error)
        return exit_code(error)
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the one place that turns what is left into one line
        show = getattr(error, "show", None)  # typer's own errors of usage; their class moved between versions
        if show is None:
            return print_unexpected(error)
        show()
        return int(getattr(error, "exit_code", EXIT_USAGE))


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character
    sys.exit(run(sys.argv[1:]))


def _register() -> None:
    from synchro.cli import (
        bench_verb,
        data_verbs,
        demo_verb,
        later_verbs,
        local_verbs,
        schema_verbs,
        status_verbs,
        wal_verbs,
    )

    for module in (
        demo_verb,
        local_verbs,
        status_verbs,
        schema_verbs,
        data_verbs,
        wal_verbs,
        bench_verb,
        later_verbs,
    ):
        module.register(app)


_register()
