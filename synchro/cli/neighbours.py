"""Who answers at the addresses of a set that is to be made or started: an instance without data joins any set
that it finds there, under its own name. What has data is kept from that by the UUID of its set.

gRPC is loaded only where somebody answers who should not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from synchro.cli.process_table import CONFIG_NAME, Target, parse_target, running_pid, served_files
from synchro.cli.processes import accepts
from synchro.config import Settings
from synchro.errors import ConfigError, OtherSetAnswers, SynchroError
from synchro.ids import INSTANCE_ID_MAX
from synchro.storage.identity import decode_identity
from synchro.storage.names import IDENTITY_NAME

if TYPE_CHECKING:
    from synchro.client.ballots import WhoAnswers

ASK_S: Final = 1.0


def set_of(settings: Settings) -> str:
    """UUID of the set that the files of this instance belong to; "": it never was in one, or they are not
    here."""
    path = Path(settings.wal_dir, IDENTITY_NAME)
    try:
        return decode_identity(path.read_bytes(), str(path)).replicaset_uuid or ""
    except (OSError, SynchroError):
        return ""


def check_addresses(directory: str | Path, nodes: int, base_port: int) -> None:
    """Before `init` writes a file. Raises `OtherSetAnswers`; whether there is a file tells `init` itself."""
    if Path(directory, CONFIG_NAME).exists():
        return
    for port in range(base_port, base_port + min(nodes, INSTANCE_ID_MAX)):
        own = Settings(listen=f"127.0.0.1:{port}")
        if accepts(own) and (found := _ask(own)) is not None:
            raise _other_set(own, found, "nothing was written", "synchro init DIR --base-port PORT")


def check_start(target: Target) -> None:
    """Before processes are begun. Raises `OtherSetAnswers` if an instance that never was in a set is to start
    beside one that is not its own."""
    new = [
        name
        for name in target.names
        if not set_of(target.config.instance(name).settings) and running_pid(target, name) is None
    ]
    if not new:
        return
    for own in (*_taken(target), *_of_namesakes(target, new)):
        found = _ask(own)
        if found is not None and (not found.uuid or found.uuid != own.replicaset_uuid):
            raise _other_set(
                own,
                found,
                f"{', '.join(new)} would join it; nothing was started",
                "take other ports, or stop that set; or, if it is to be joined, set database.replicaset_uuid",
            )


def _taken(target: Target) -> Iterator[Settings]:
    """Those of the target that do not run, while something answers at their addresses."""
    for name in target.names:
        own = target.config.instance(name).settings
        if own.listen and accepts(own) and running_pid(target, name) is None:
            yield own


def _of_namesakes(target: Target, new: Iterable[str]) -> Iterator[Settings]:
    """Those of the file at whose addresses instances of another file run on this host, where a new one has a
    namesake with data: it would take the place of that one."""
    by_address = {own.settings.listen: own.settings for own in target.config.instances.values()}
    running: dict[str, list[str]] = {}
    for path, served in served_files():
        running.setdefault(os.path.realpath(path), []).append(served)
    running.pop(os.path.realpath(target.config.path), None)
    for path, served_names in running.items():
        try:
            other = parse_target(path).config
        except ConfigError:
            continue
        names = [name for name in new if name in other.instances]
        homes = [(other.instance(name).settings, target.config.instance(name).settings) for name in names]
        if any(theirs.wal_dir != mine.wal_dir and set_of(theirs) for theirs, mine in homes):
            here = [other.instances[name].settings for name in served_names if name in other.instances]
            yield from (by_address[own.listen] for own in here if own.listen in by_address)


def _ask(own: Settings) -> WhoAnswers | None:
    """None: it does not say. own: of the instance that should be there; TLS is spoken with its files."""
    from synchro.client.ballots import who_answers
    from synchro.client.channel import security_of

    try:
        security = security_of(own.tls_ca, own.tls_cert, own.tls_key)
        return who_answers(own.listen, security=security, timeout_s=ASK_S)
    except SynchroError:
        return None


def _other_set(own: Settings, found: WhoAnswers, undone: str, command: str) -> OtherSetAnswers:
    return OtherSetAnswers(
        f"at {own.listen} answers {found}: {undone}. Next: {command}",
        address=own.listen,
        instance=found.instance,
        replicaset=found.replicaset,
        uuid=found.uuid,
    )
