"""Verbs for the queue of synchronous transactions: queue, wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import click

from synchro.cli import formatting
from synchro.cli.arguments import argument, instance_option, watch_lines, watch_option
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_UNKNOWN, ids, print_value, usage
from synchro.cli.operator_verbs import watch
from synchro.cli.program import program
from synchro.cli.reach import again
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.client import Client, Queue, QueueEntry, TxnState

_STAGE_WORDS: Final = {
    "submitted": "is on its way to the disk",
    "on_disk": "waits for its quorum",
    "committed": "is committed",
    "rolled_back": "was rolled back",
    "unknown": "is not known to the instance that was asked: it has not come there, or is older than what is "
    "remembered; outcome unknown",
}


def queue_lines(queue: Queue, names: Mapping[int, str], spaces: Mapping[int, str]) -> list[str]:
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
    before: tuple[int, ...] = ()
    for entry in queue.entries:
        txn = f"{entry.txn[0]}:{entry.txn[1]}" if entry.txn else "-"
        row = [
            txn,
            ",".join(spaces.get(i, str(i)) for i in entry.space_ids),
            str(entry.rows),
            f"{entry.age_s:.1f} s",
            f"{len(entry.acked_by)} of {queue.quorum} {ids(entry.acked_by)}",
        ]
        wanted = queue.quorum - len(entry.acked_by)
        if entry.missing != before and wanted > 0:
            row.append(f"waiting for {'one' if wanted == 1 else wanted} of {{{_missing(entry)}}}")
        before = entry.missing
        rows.append(row)
    lines += formatting.table_lines(("TXN", "SPACE", "ROWS", "AGE", "ACKS"), rows)
    if queue.len > len(queue.entries):
        lines.append(f"... and {queue.len - len(queue.entries)} more")
    return lines


def _missing(entry: QueueEntry) -> str:
    """Who has not acknowledged it, and since when. An entry that waits for the same as the one before says it
    no more."""
    if not entry.waits_for:  # an older version does not say why
        return ", ".join(map(str, sorted(entry.missing)))
    said = []
    for one in sorted(entry.waits_for, key=lambda one: one.id):
        if one.since_s is None:
            said.append(f"{one.id}: not heard yet")
        else:
            said.append(f"{one.id}: {'no ack' if one.is_connected else 'down'} {one.since_s:.1f} s")
    return ", ".join(said)


def queue_text(db: Client, instance: str | None = None, limit: int = 20) -> list[str]:
    reply = db.list_queue(instance=instance, limit=limit)
    replication = db.get_info("replication", instance=instance)
    names = {part["id"]: part["name"] or "" for part in replication.values()}
    spaces: dict[int, str] = {}
    if reply.entries:
        try:
            spaces = {space.id: space.name for space in db.spaces(with_system=True, instance=instance)}
        except SynchroError:
            spaces = {}
    return queue_lines(reply, names, spaces)


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
                    "waits_for": [
                        {"id": one.id, "is_connected": one.is_connected, "since": one.since_s}
                        for one in e.waits_for
                    ],
                    "is_sync": e.is_sync,
                }
                for e in reply.entries
            ],
        }
    )


def _transaction(text: str) -> str | bytes:
    if ":" in text:
        return text
    try:
        name = bytes.fromhex(text)
    except ValueError:
        name = b""
    if len(name) != 16:
        raise usage(f"a transaction is ORIGIN:LSN, or a request id of 32 hexadecimal digits; got {text!r}")
    return name


def _exit_code(outcome: str) -> int:
    return {"committed": 0, "rolled_back": formatting.EXIT_CONFLICT}.get(outcome, EXIT_UNKNOWN)


@watch.command("txn")
@argument("txn", "ORIGIN:LSN", "Or a request id, in hexadecimal.")
def watch_txn(txn: str) -> int:
    """How a transaction stands at the leader now, and each change up to its end, or until --timeout.

    Exit code 0: committed; 6: rolled back; 5: still not known.
    """
    stage = "unknown"
    name = _transaction(txn)
    with client(read_from="leader") as db:
        for state in db.watch_transaction(name, options.timeout_s):
            stage = state.stage
            if options.output != "table":
                print(formatting.to_json({field: getattr(state, field) for field in state.__slots__}))
            else:
                print(txn, _STAGE_WORDS[stage] + _acks(state), flush=True)
    if options.output == "table" and (following := _following(txn, stage)):
        print(f"next:  {following}")
    return _exit_code(stage)


def _following(txn: str, outcome: str) -> str:
    """What to do about a transaction that has no end yet; "": it has."""
    if outcome in ("committed", "rolled_back"):
        return ""
    if outcome == "unknown":
        return again(f"synchro -e HOST:PORT --direct wait {txn}   at another member   or   synchro status")
    return again("synchro queue")


def _acks(state: TxnState) -> str:
    if state.is_end or not state.quorum:
        return ""
    return f": {len(state.acked_by)} of {state.quorum} {ids(state.acked_by)}, missing {ids(state.missing)}"


@program.command("wait")
@argument("txn", "ORIGIN:LSN", "Or a request id, in hexadecimal.")
def wait(txn: str) -> int:
    """Wait for the end of a transaction. Exit code 0: committed; 6: rolled back; 5: still not known.

    Who has not seen it yet is asked again until --timeout is over; it ends at once where it is older than
    what is remembered.
    """
    name = _transaction(txn)
    with client(read_from="leader") as db:
        outcome = db.wait_transaction(name, options.timeout_s)
    following = _following(txn, outcome)
    if options.output != "table":
        print_value({"txn": txn, "outcome": outcome} | ({"next": following} if following else {}))
    else:
        words = {
            "committed": "is committed",
            "rolled_back": "was rolled back",
            "pending": "still waits in the queue: outcome unknown",
            "unknown": _STAGE_WORDS["unknown"],
        }
        print(f"{txn} {words[outcome]}")
        if following:
            print(f"next:  {following}")
    return _exit_code(outcome)
