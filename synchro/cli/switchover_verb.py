"""`synchro switchover`: who may write becomes another instance."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from synchro.cli.arguments import complete_instance
from synchro.cli.connection import client, options
from synchro.cli.formatting import print_value
from synchro.cli.program import program
from synchro.cli.signals import interrupt_at_signals

if TYPE_CHECKING:
    from synchro.client import Client


class ClientServers:
    """`switchover.Servers`, each instance at its address."""

    def __init__(self, db: Client, addresses: Mapping[str, str]) -> None:
        self._db = db
        self._addresses = addresses

    def info(self, name: str) -> Mapping[str, Any]:
        return dict(self._db.get_info(instance=self._addresses[name], timeout=options.timeout_s))

    def set_option(self, name: str, key: str, value: str) -> None:
        self._db.set_config(key, value, instance=self._addresses[name], timeout=options.timeout_s)

    def promote(self, name: str) -> None:
        self._db.promote(self._addresses[name], timeout=options.timeout_s)

    def demote(self, name: str) -> None:
        self._db.demote(self._addresses[name], timeout=options.timeout_s)


@program.command("switchover")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="NAME",
    help="Who takes the writes then: name or id.",
    shell_complete=complete_instance,
)
def switchover(target: str) -> None:
    """Let another instance take the writes, without losing one.

    Who takes them now stops; when the other one has all rows, that one begins. What fails before that is
    undone; once the other one was told to begin, nothing is.
    """
    from synchro.cli.picture import take_picture
    from synchro.cli.switchover import Switchover, plan

    is_table = options.output == "table"
    with client() as db:
        picture = take_picture(db)
        handover = plan(picture, target)
        if handover is None:
            if is_table:
                print(f"{target} takes the writes already; nothing was done")
            else:
                print_value({"from": None, "to": target, "seconds": 0.0})
            return
        began = time.monotonic()
        interrupt_at_signals()  # what was begun is undone, also where the terminal is closed
        Switchover(
            ClientServers(db, {member.name: member.address for member in picture.members}),
            handover,
            timeout_s=options.timeout_s,
            say=(lambda line: print(line, flush=True)) if is_table else lambda _: None,
            now=time.monotonic,
            sleep=time.sleep,
        ).run()
        took_s = time.monotonic() - began
    if not is_table:
        print_value({"from": handover.former, "to": handover.next, "seconds": round(took_s, 4)})
        return
    print(f"switched over from {handover.former} to {handover.next} in {took_s:.2f} s")
    if note := handover.file_note():
        print(note)
