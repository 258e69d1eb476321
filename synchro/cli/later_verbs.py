"""Verbs that are described but not built. They say so, and what to do instead."""

from __future__ import annotations

from typing import Final

from synchro.cli.operator_verbs import member
from synchro.cli.program import Group, program
from synchro.errors import Unimplemented

_LATER: Final = {
    "export": "synchro select SPACE -o jsonl",
}
_LATER_GROUPS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "backup": (("create", "verify", "restore"), "copy the newest .snap file and the .xlog files behind it"),
}
_LATER_IN_GROUPS: Final[tuple[tuple[Group, tuple[str, ...], str], ...]] = (
    (member, ("add",), "change the file and start the instance: it joins by itself"),
)


def _refuse(group: Group, verb: str, instead: str) -> None:
    """Make the verb that says so."""
    said = verb if group is program else f"{group.name} {verb}"

    def command() -> None:
        raise Unimplemented(f"'{said}' is not built yet; nothing was done", next_command=instead, verb=said)

    command.__doc__ = "Not built yet."
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    group.command(verb, hidden=True, context_settings=settings)(command)


for _verb, _instead in _LATER.items():
    _refuse(program, _verb, _instead)
for _name, (_verbs, _instead) in _LATER_GROUPS.items():
    _made = program.words(_name, "Not built yet.")
    _made.hidden = True
    for _verb in _verbs:
        _refuse(_made, _verb, _instead)
for _group, _verbs, _instead in _LATER_IN_GROUPS:
    for _verb in _verbs:
        _refuse(_group, _verb, _instead)
