"""Commands that are advised for a set as it is seen. No advice that the server would refuse."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Final

from synchro.cli.picture import UNKNOWN_NAME, Picture, SeenMember

WATCH: Final = "synchro status --watch"
DAMAGED: Final = frozenset({"CORRUPTION", "XLOG_GAP"})
"""Reasons by which an instance ends whose files cannot be read: those of another member take their place."""


def start_command(picture: Picture, down: Sequence[SeenMember]) -> str:
    """What brings these back; "": there is nothing to be done."""
    down = [
        member
        for member in down
        if not member.foreign and not member.refuses and _has_section(picture, member)
    ]
    if not down:
        return ""
    path = _path(picture)
    states = {
        id(member): picture.local_states.get(member.name)
        if member.process is None
        else member.process.state.value
        for member in down
    }
    # One whose process runs and does not answer hangs or is stopped: `start` would leave it as it is.
    ended = [member for member in down if states[id(member)] not in ("running", "loading")]
    hung = [member for member in down if states[id(member)] == "running"]
    if not ended and not hung:
        return WATCH  # they read their files, and listen later
    verb, option = ("start", "") if ended else ("restart", " --kill")
    first = (ended or hung)[0]
    if ended and first.ended_by in DAMAGED and any(member.is_ready for member in picture.members):
        return f"synchro start {shlex.quote(f'{path}:{first.name}')} --rejoin"
    if first.name == UNKNOWN_NAME or (picture.target is not None and len(down) == len(picture.members)):
        return f"synchro {verb} {shlex.quote(path)}{option}"
    return f"synchro {verb} {shlex.quote(f'{path}:{first.name}')}{option}"


def reload_command(picture: Picture, name: str) -> str:
    """What lets this instance read its file again."""
    return f"synchro config reload {shlex.quote(f'{_path(picture)}:{name}')}"


def restart_command(picture: Picture, name: str) -> str:
    return f"synchro restart {shlex.quote(f'{_path(picture)}:{name}')}"


def _path(picture: Picture) -> str:
    target = picture.target or picture.local
    return "CONFIG" if target is None else relative(str(target.path))


def _has_section(picture: Picture, member: SeenMember) -> bool:
    """Whether a configuration may have it: not a source that is known by its address alone."""
    known = picture.target or picture.local
    if known is None or member.name == UNKNOWN_NAME:
        return ":" not in member.name
    instances = known.config.instances
    return member.name in instances or any(
        one.settings.listen == member.address for one in instances.values()
    )


def relative(path: str) -> str:
    """From the directory of the caller, if that is shorter."""
    try:
        near = os.path.relpath(path)
    except OSError:  # there is no such directory any more
        return path
    return near if len(near) < len(path) else path
