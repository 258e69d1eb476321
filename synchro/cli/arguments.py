"""Arguments and options that several verbs take, what completes them, and how `--watch` shows its lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import click

from synchro.cli import formatting
from synchro.cli.connection import client, options
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from synchro.client import Client

WATCH_S: Final = 0.5
COMPLETION_TIMEOUT: Final = "1s"
"""A key was pressed, and somebody looks at the prompt."""

F = TypeVar("F", bound=Callable[..., Any])


class Decorator(Protocol):
    """What click makes of an argument or option: it leaves the type of the function alone."""

    def __call__(self, function: F, /) -> F: ...


# --- completion -----------------------------------------------------------------------------------------


def _asked(ask: Callable[[Client], Sequence[str]], incomplete: str) -> list[str]:
    """Names that a set tells; none if nobody answers at once."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    options.timeout = COMPLETION_TIMEOUT
    options.may_ask = False
    try:
        with client() as db:
            return [name for name in dict.fromkeys(ask(db)) if name.startswith(incomplete)]
    except SynchroError:
        return []


def complete_instance(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return _asked(lambda db: [member.name for member in db.list_instances() if member.name], incomplete)


def complete_space(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return _asked(lambda db: [space.name for space in db.spaces()], incomplete)


def complete_target(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """CONFIG is a file; behind it the names that stand in it."""
    from click.shell_completion import CompletionItem

    file, colon, start = incomplete.rpartition(":")
    if not colon:
        return [CompletionItem(incomplete, type="file")]
    from synchro.cli.process_table import parse_target

    try:
        names = parse_target(file).names
    except SynchroError:
        return []
    return [CompletionItem(f"{file}:{name}") for name in names if name.startswith(start)]


def complete_file(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


# --- arguments and options ------------------------------------------------------------------------------


def argument(name: str, metavar: str, help: str = "", *, is_optional: bool = False, **more: Any) -> Decorator:
    """is_optional: "" if it is not given."""
    if is_optional:
        more |= {"required": False, "default": ""}
    return click.argument(name, metavar=metavar, help=help or None, **more)


def space_argument(name: str = "space") -> Decorator:
    return argument(name, "SPACE", "Name, or id.", shell_complete=complete_space)


def instance_option(help: str = "Ask this one.") -> Decorator:
    return click.option(
        "-i", "--instance", metavar="NAME", default="", help=help, shell_complete=complete_instance
    )


def one_instance(default: str) -> Decorator:
    """`-i NAME`, or NAME as an argument. default: who it is if neither is given."""

    def decorate(function: F) -> F:
        named = argument(
            "name",
            "[NAME]",
            f"The same as -i. Default: {default}.",
            is_optional=True,
            shell_complete=complete_instance,
        )
        return instance_option(f"This one. Default: {default}.")(named(function))

    return decorate


def the_one(name: str, instance: str) -> str:
    """What `one_instance` got; "" if nothing."""
    if name and instance and name != instance:
        raise formatting.usage(f"either {name} or -i {instance}")
    return name or instance


target_argument: Final = argument(
    "target", "CONFIG[:NAME]", "File, directory of `init`, or application.", shell_complete=complete_target
)
watch_option: Final = click.option("--watch", is_flag=True, help="Show it again and again.")


# --- watch ----------------------------------------------------------------------------------------------


def watch_lines(lines: Callable[[], Sequence[str]]) -> None:
    """Show it again until Ctrl-C: in place on a terminal, one after another elsewhere."""
    if not formatting.is_terminal():
        while True:
            print("\n".join(_safe(lines)), flush=True)
            print(flush=True)
            time.sleep(WATCH_S)
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(Text("..."), console=Console(), screen=False, auto_refresh=False) as live:
        while True:
            live.update(Text("\n".join(_safe(lines))), refresh=True)
            time.sleep(WATCH_S)


def _safe(lines: Callable[[], Sequence[str]]) -> Sequence[str]:
    try:
        return lines()
    except SynchroError as error:
        return [f"error: {formatting.shown_reason(error)}: {error.message}"]
