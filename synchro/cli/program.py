"""The program `synchro` as click sees it: one group, its verbs, and the options that all of them take.

A verb is a function with a decorator, `@program.command("get")`, in a module whose name ends in `_verb` or
`_verbs`: `app.py` finds it by that, and nothing else has to know it. The shared options may stand before or
behind the verb, are listed in the help of each, and end in `connection.options`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NoReturn

import click
from click.core import ParameterSource

from synchro.cli import connection
from synchro.errors import SynchroError

EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 no connection or no leader, 4 read-only or "
    "not the owner, 5 timed out or outcome unknown, 6 conflict, 7 not found, 8 access, "
    "70 a bug, 130 interrupted."
)
_PREFIX: Final = "shared_"
"""Of the names of shared options: a verb may have an argument called `key`, or `user`."""


class _Text(click.ParamType[str, str]):
    """What is given as it is; `-e=HOST` means the same as `-e HOST`."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value.removeprefix("=")


class _Duration(click.ParamType[str, str]):
    """A time with its unit, checked and left as it is."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            connection.parse_duration(value)
        except SynchroError as error:
            self.fail(error.message, param, ctx)
        return value


class _Output(click.Choice[str]):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value.removeprefix("="), param, ctx)


DURATION: Final = _Duration()


def _refuse(context: click.Context, parameter: click.Parameter) -> NoReturn:
    shown = parameter.make_metavar(context) if isinstance(parameter, click.Argument) else parameter.opts[-1]
    raise click.UsageError(f"{shown} is given, and empty; nothing was done", context)


def _refuse_empty(context: click.Context, parameters: Iterable[click.Parameter]) -> None:
    """What may be left out, or is a name, was given, and is "". Whoever writes `synchro demote "$NAME"`, and
    has no such variable, does not mean whoever leads; still less all spaces by `"$SPACE"`."""
    for parameter in parameters:
        name = str(parameter.name)
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        is_name = not parameter.required or parameter.metavar in ("NAME", "SPACE")
        if is_given and is_name and context.params.get(name) == "":
            _refuse(context, parameter)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Note a shared option. The group and the verb both see it: the one that was given last counts, and the
    environment only if none was."""
    name = str(parameter.name).removeprefix(_PREFIX)
    match context.get_parameter_source(str(parameter.name)):
        case ParameterSource.COMMANDLINE:
            if value == "":
                _refuse(context, parameter)
            connection.options.keep(name, value)
        case ParameterSource.ENVIRONMENT if value and name not in connection.options.given:
            connection.options.keep(name, value, is_given=False)
    return value


def _shared(*names: str, help: str, **more: Any) -> click.Option:
    long = next(name for name in names if name.startswith("--"))
    declared = [*names, _PREFIX + long.strip("-").replace("-", "_")]
    return click.Option(
        declared,
        help=help,
        expose_value=False,
        is_eager=True,
        callback=_keep,
        show_envvar="envvar" in more,
        **more,
    )


SHARED: Final = (
    _shared(
        "-e",
        "--endpoints",
        metavar="HOST:PORT,...",
        type=_Text(),
        envvar="SYNCHRO_ENDPOINTS",
        help="Any of the set; the client finds the leader.",
    ),
    _shared("--direct", is_flag=True, help="Ask only these endpoints, go nowhere else."),
    _shared("--timeout", metavar="TIME", type=DURATION, envvar="SYNCHRO_TIMEOUT", help="As 5s, 500ms, 2m."),
    _shared(
        "-o",
        "--output",
        metavar="FORM",
        type=_Output(connection.OUTPUTS),
        envvar="SYNCHRO_OUTPUT",
        help="table, json, yaml or jsonl.",
    ),
    _shared("--no-color", is_flag=True, help="Plain text, on a terminal too."),
    _shared("-v", "--verbose", count=True, help="More about what went wrong."),
    _shared(
        "-u",
        "--user",
        metavar="NAME",
        type=_Text(),
        envvar="SYNCHRO_USER",
        help="Log in as this user; password: SYNCHRO_PASSWORD, a file, or asked for.",
    ),
    _shared(
        "--password-file",
        metavar="FILE",
        envvar="SYNCHRO_PASSWORD_FILE",
        help="Its first line is the password.",
    ),
    _shared("--cacert", metavar="FILE", envvar="SYNCHRO_CACERT", help="TLS: CAs that are believed, PEM."),
    _shared("--cert", metavar="FILE", envvar="SYNCHRO_CERT", help="TLS: certificate to show, PEM."),
    _shared("--key", metavar="FILE", envvar="SYNCHRO_KEY", help="TLS: the key of that."),
)


def _write_options(
    command: click.Command,
    context: click.Context,
    formatter: click.HelpFormatter,
    title: str,
    *,
    shared: bool,
) -> None:
    options: Iterable[click.Option] = (
        parameter
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and (parameter in SHARED) is shared
    )
    if records := [record for option in options if (record := option.get_help_record(context)) is not None]:
        with formatter.section(title):
            formatter.write_dl(records)


class Verb(click.Command):
    """A command that takes the shared options too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        _refuse_empty(ctx, self.get_params(ctx))
        return rest

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *SHARED]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_options(self, ctx, formatter, "Options", shared=False)
        _write_options(self, ctx, formatter, "Options of all verbs", shared=True)


class Group(click.Group):
    """Verbs with a common first word; the shared options may stand behind that, too."""

    command_class = Verb
    group_class = type

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        _refuse_empty(ctx, self.get_params(ctx))
        return rest

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *SHARED]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter, "Options", shared=False)
        _write_options(self, ctx, formatter, "Options of all verbs, before or behind the verb", shared=True)

    def words(self, name: str, help: str) -> Group:
        """The group of this name, as a new one: `space` in `synchro space list`."""
        made = Group(name, help=help)
        self.add_command(made)
        return made


program: Final = Group(
    "synchro",
    help="Raft-based synchronous replication with the semantics of Tarantool.",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
