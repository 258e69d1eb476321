"""Verbs that are described but not built. They say so, and what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import typer

from synchro.errors import Unimplemented

_LATER: Final = {
    "switchover": "synchro promote NAME",
    "once": "run the operations by hand, with --if-not-exists",
    "grant": "listen on trusted networks only",
    "revoke": "listen on trusted networks only",
    "rebootstrap": "stop the instance, delete its files, start it again: it joins as a new one",
    "export": "synchro select SPACE -o jsonl",
    "fault": "start the instance with its fault service and call synchro.fault.v1 over gRPC",
}
_LATER_GROUPS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "user": (("create", "passwd", "drop"), "listen on trusted networks only"),
    "backup": (("create", "verify", "restore"), "copy the newest .snap file and the .xlog files behind it"),
}
_LATER_IN_GROUPS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "config": (("diff", "reload", "set"), "change the file and restart the instance"),
    "member": (("add", "expel"), "change the file and start the instance: it joins by itself"),
}
_ANY: Final = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    for verb, instead in _LATER.items():
        app.command(verb, hidden=True, context_settings=dict(_ANY))(_refuse(verb, instead))
    for group, (verbs, instead) in _LATER_GROUPS.items():
        made = typer.Typer(rich_markup_mode=None)
        for verb in verbs:
            made.command(verb, context_settings=dict(_ANY))(_refuse(f"{group} {verb}", instead))
        app.add_typer(made, name=group, hidden=True)
    for group, (verbs, instead) in _LATER_IN_GROUPS.items():
        for known in app.registered_groups:
            if known.name == group and known.typer_instance is not None:
                for verb in verbs:
                    known.typer_instance.command(verb, hidden=True, context_settings=dict(_ANY))(
                        _refuse(f"{group} {verb}", instead)
                    )


def _refuse(verb: str, instead: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        raise Unimplemented(f"'{verb}' is not built yet; nothing was done", next_command=instead, verb=verb)

    command.__doc__ = "Not built yet."
    return command
