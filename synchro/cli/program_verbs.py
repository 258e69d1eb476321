"""Verbs about the program itself: version, completion."""

from __future__ import annotations

from typing import Final

import click

from synchro.cli.program import program

COMPLETE: Final = "_SYNCHRO_COMPLETE"
"""Environment by which a shell asks for completions; its value is SHELL_source or SHELL_complete."""
_HOW: Final = {
    "bash": '# In ~/.bashrc:  eval "$(synchro completion bash)"',
    "zsh": '# In ~/.zshrc, behind compinit:  eval "$(synchro completion zsh)"',
    "fish": "# synchro completion fish > ~/.config/fish/completions/synchro.fish",
}


def print_version() -> None:
    from importlib import metadata

    print(f"synchro {metadata.version('synchrodb')}")


def _version_wanted(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        print_version()
        context.exit()


program.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_version_wanted,
        help="Show the version and exit.",
    )
)


@program.command("version")
def version() -> None:
    """Show the version."""
    print_version()


@program.command("completion")
@click.argument("shell", type=click.Choice(list(_HOW)), help="Which shell.")
def completion(shell: str) -> None:
    """Print what a shell reads to complete verbs, options and names.

    bash: eval "$(synchro completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: write it to
    ~/.config/fish/completions/synchro.fish.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    print(_HOW[shell])
    print(found(program, {}, "synchro", COMPLETE).source())


def complete(instruction: str) -> int:
    """Answer a shell that asks. instruction: the value of `COMPLETE`. Returns the exit code."""
    from click.shell_completion import shell_complete

    return shell_complete(program, {}, "synchro", COMPLETE, instruction)
