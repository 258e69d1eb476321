"""Verbs for the queue of synchronous transactions: queue, wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from synchro.cli import formatting
from synchro.cli.arguments import argument, instance_option, watch_lines, watch_option
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_UNKNOWN, ids, print_value, usage
from synchro.cli.program import program
from synchro.cli.reach import again
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.client import Client, Queue

MISSING_SHOWN: Final = 1
"""Only the first waiting entry names who it waits for: the others wait for the same."""


def queue_lines(
    queue: Queue, names: Mapping[int, str], spaces: Mapping[int, str], down: Mapping[int, str]
) -> list[str]:
    if not queue.owner:
        return [f"nobody owns the queue  term {queue.term}  quorum {queue.quorum}"]
    owner = names.get(queue.owner, "")
    lines = [
        f"owner {queue.owner}{f' ({owner})' if owner else ''}  term {queue.term}  len {queue.len}  "
        f"size {formatting.size(queue.size)}  age {queue.age_s:.1f} s  "
        f"confirm_lag {queue.confirm_lag_s:.3f} s  busy {'yes' if queue.busy else 'no'}  "
        f"quorum {queue.quorum}"
    ]
    if not queue.entries:
        return lines
    rows = []
    for number, entry in enumerate(queue.entries):
        txn = f"{entry.txn[0]}:{entry.txn[1]}" if entry.txn else "-"
        row = [
            txn,
            ",".join(spaces.get(i, str(i)) for i in entry.space_ids),
            str(entry.rows),
            f"{entry.age_s:.1f} s",
            f"{len(entry.acked_by)} of {queue.quorum} {ids(entry.acked_by)}",
        ]
        if number < MISSING_SHOWN and entry.missing and len(entry.acked_by) < queue.quorum:
            wanted = queue.quorum - len(entry.acked_by)
            missing = ", ".join(f"{i}{down.get(i, '')}" for i in sorted(entry.missing))
            row.append(f"waiting for {'one' if wanted == 1 else wanted} of {{{missing}}}")
        rows.append(row)
    lines += formatting.table_lines(("TXN", "SPACE", "ROWS", "AGE", "ACKS"), rows)
    if queue.len > len(queue.entries):
        lines.append(f"... and {queue.len - len(queue.entries)} more")
    return lines


def queue_text(db: Client, instance: str | None = None, limit: int = 20) -> list[str]:
    reply = db.list_queue(instance=instance, limit=limit)
    replication = db.get_info("replication", instance=instance)
    names = {part["id"]: part["name"] or "" for part in replication.values()}
    down = {}
    for part in replication.values():
        upstream = part.get("upstream") or {}
        if upstream.get("status") not in (None, "follow", "sync"):
            down[part["id"]] = f": down {upstream.get('idle', 0):.1f} s"
    spaces: dict[int, str] = {}
    if reply.entries:
        try:
            spaces = {space.id: space.name for space in db.spaces(with_system=True, instance=instance)}
        except SynchroError:
            spaces = {}
    return queue_lines(reply, names, spaces, down)


def _owner_endpoint(db: Client) -> str:
    """The owner of the queue shows who has acknowledged what; others only know what they have."""
    return db.most_informed()


@program.command("queue")
@watch_option
@instance_option()
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 2**32 - 1),
    default=100,
    show_default=True,
    help="Entries to show.",
)
def queue(watch: bool, instance: str, limit: int) -> None:
    """The queue of synchronous transactions: its owner, and what waits for whom."""
    with client(read_from="leader") as db:
        if watch:
            watch_lines(lambda: queue_text(db, instance or _owner_endpoint(db), limit))
            return
        place = instance or _owner_endpoint(db)
        if options.output == "table":
            for line in queue_text(db, place, limit):
                print(line)
            return
        reply = db.list_queue(instance=place, limit=limit)
    print_value(
        {
            "queue": {
                "owner": reply.owner,
                "term": reply.term,
                "len": reply.len,
                "size": reply.size,
                "busy": reply.busy,
                "age": reply.age_s,
                "confirm_lag": reply.confirm_lag_s,
            },
            "quorum": reply.quorum,
            "entries": [
                {
                    "txn": f"{e.txn[0]}:{e.txn[1]}" if e.txn else None,
                    "space_ids": list(e.space_ids),
                    "rows": e.rows,
                    "size": e.size,
                    "age": e.age_s,
                    "acked_by": list(e.acked_by),
                    "missing": list(e.missing),
                    "is_sync": e.is_sync,
                }
                for e in reply.entries
            ],
        }
    )


@program.command("wait")
@argument("txn", "ORIGIN:LSN", "Or a request id, in hexadecimal.")
def wait(txn: str) -> int:
    """Wait for the end of a transaction. Exit code 0: committed; 6: rolled back; 5: still not known."""
    name: Any = txn
    if ":" not in txn:
        try:
            name = bytes.fromhex(txn)
        except ValueError:
            name = b""
        if len(name) != 16:
            raise usage(f"a transaction is ORIGIN:LSN, or a request id of 32 hexadecimal digits; got {txn!r}")
    with client(read_from="leader") as db:
        outcome = db.wait_transaction(name, options.timeout_s)
    following = again(
        {
            "pending": "synchro queue",
            "unknown": f"synchro -e HOST:PORT --direct wait {txn}   at another member   or   synchro status",
        }.get(outcome, "")
    )
    if options.output != "table":
        print_value({"txn": txn, "outcome": outcome} | ({"next": following} if following else {}))
    else:
        words = {
            "committed": "is committed",
            "rolled_back": "was rolled back",
            "pending": "still waits in the queue: outcome unknown",
            "unknown": "is not known to the instance that was asked: outcome unknown",
        }
        print(f"{txn} {words[outcome]}")
        if following:
            print(f"next:  {following}")
    return {"committed": 0, "rolled_back": formatting.EXIT_CONFLICT}.get(outcome, EXIT_UNKNOWN)
