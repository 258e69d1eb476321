"""Verbs for spaces and indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from synchro.cli.arguments import argument, instance_option, space_argument
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_FAILED, on_screen, print_error, print_records, print_value, usage
from synchro.cli.program import program
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.client import Client
    from synchro.client.replies import Checksum, IndexKind
    from synchro.client.requests import ConflictKind

if_exists: Final = click.option("--if-exists", is_flag=True, help="No error if there is none.")
if_not_exists: Final = click.option("--if-not-exists", is_flag=True, help="No error if it exists.")
format_option: Final = click.option(
    "--format", metavar="id:unsigned,name:string", default="", help="Names and types of fields."
)
DIGITS_MAX: Final = 10
"""Of a number of a field; what is longer names none, and is a name."""
MADE_FOR_IT: Final = "\0"
"""`--sequence` without a name: no sequence is called so."""
conflict_option: Final = click.option(
    "--conflict",
    type=click.Choice(["stop", "skip", "keep_local", "last_write_wins"]),
    default=None,
    help="What becomes of rows of others that are in the way.",
)
space = program.words("space", "Spaces.")
index = program.words("index", "Indexes.")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def report(done: bool, what: str, reply: Any, otherwise: str = "exists already") -> None:
    txn = f"{reply.txn[0]}:{reply.txn[1]}" if reply.txn else None
    if options.output != "table":
        print_value({"changed": done, "what": what, "txn": txn})
    else:
        what = on_screen(what)
        print(f"{what}{f'   txn {txn}' if txn else ''}" if done else f"{what}: {otherwise}, nothing was done")


@space.command("create")
@argument("name", "NAME", "Of the new space.")
@click.option("--sync", is_flag=True, help="Writes wait for a quorum.")
@format_option
@conflict_option
@if_not_exists
@click.option("--local", is_flag=True, help="Tuples stay on their instance.")
@click.option("--temporary", is_flag=True, help="Tuples are never written.")
@click.option(
    "--id",
    metavar="N",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    help="512 or more; 0: the next free one.",
)
def space_create(
    name: str,
    sync: bool,
    format: str,
    conflict: ConflictKind | None,
    if_not_exists: bool,
    local: bool,
    temporary: bool,
    id: int,
) -> None:
    """Make a space without indexes."""
    with client() as db:
        reply = db.create_space(
            name,
            sync=sync,
            format=_list(format),
            conflict=conflict or "stop",
            if_not_exists=if_not_exists,
            local=local,
            temporary=temporary,
            id=id,
            timeout=options.timeout_s,
        )
    assert reply.space is not None
    kind = "sync" if reply.space.is_sync else "async"
    report(reply.done, f"space '{name}' ({kind}, id {reply.space.id}) created", reply)


def _parts(index: Any, fields: list[str]) -> str:
    parts = []
    for part in index.parts:
        name = fields[part.field - 1] if 0 < part.field <= len(fields) else str(part.field)
        parts.append(f"{name}:{part.type}{'?' if part.is_nullable else ''}")
    return ", ".join(parts)


def _record(space: Any) -> dict[str, Any]:
    fields = [field.name for field in space.format]
    return {
        "id": space.id,
        "name": space.name,
        "is_sync": space.is_sync,
        "is_local": space.is_local,
        "is_temporary": space.is_temporary,
        "conflict": space.conflict,
        "tuples": space.tuple_count,
        "sequence": {"name": space.sequence, "field": space.sequence_field} if space.sequence else None,
        "format": [
            {"name": field.name, "type": field.type, "is_nullable": field.is_nullable}
            for field in space.format
        ],
        "indexes": [
            {
                "id": index.id,
                "name": index.name,
                "type": index.type,
                "unique": index.unique,
                "parts": _parts(index, fields),
            }
            for index in space.indexes
        ],
    }


def _kind(space: Any) -> str:
    words = [
        "sync" if space.is_sync else "async",
        *(["local"] if space.is_local else []),
        *(["temporary"] if space.is_temporary else []),
        *([space.conflict] if space.conflict != "stop" else []),
    ]
    return ", ".join(words)


@space.command("list")
@click.option("--system", is_flag=True, help="System spaces too.")
@instance_option()
def space_list(system: bool, instance: str) -> None:
    """List spaces."""
    with client() as db:
        spaces = db.spaces(with_system=system, instance=instance or None)
    print_records(
        ("ID", "NAME", "KIND", "TUPLES", "INDEXES"),
        [
            (str(s.id), s.name, _kind(s), str(s.tuple_count), ", ".join(i.name for i in s.indexes))
            for s in spaces
        ],
        [_record(s) for s in spaces],
    )


@space.command("show")
@space_argument("name")
@instance_option()
def space_show(name: str, instance: str) -> None:
    """Show one space with its format and indexes."""
    if not name:
        raise usage("the name of a space is empty")
    with client() as db:
        (found,) = db.spaces(name, instance=instance or None)
    print_value(_record(found))


@space.command("checksum")
@space_argument("name")
@click.option("--all", "all_instances", is_flag=True, help="Compare all instances.")
@instance_option()
def space_checksum(name: str, all_instances: bool, instance: str) -> int:
    """Number of tuples and a checksum, equal wherever the space holds the same confirmed tuples."""
    if all_instances and instance:
        raise usage("either --all or -i")
    with client() as db:
        if all_instances:
            members = [m.address or m.name or str(m.id) for m in db.list_instances()]
            replies = [reply for member in members if (reply := _checksum(db, name, member)) is not None]
            is_whole = len(replies) == len(members)
        else:
            replies = [db.checksum(name, instance=instance or None)]
            is_whole = True
    print_records(
        ("INSTANCE", "TUPLES", "CHECKSUM"),
        [(r.instance, str(r.count), r.checksum) for r in replies],
        [{"instance": r.instance, "count": r.count, "checksum": r.checksum} for r in replies],
    )
    return 0 if is_whole and len({(r.count, r.checksum) for r in replies}) == 1 else EXIT_FAILED


def _checksum(db: Client, name: str, member: str) -> Checksum | None:
    """None: the instance gives none, and why is told; the others are asked all the same."""
    try:
        return db.checksum(name, instance=member)
    except SynchroError as error:
        print_error(error)
        return None


@space.command("alter")
@space_argument("name")
@click.option("--sync", is_flag=True, help="Writes wait for a quorum from now on.")
@click.option("--no-sync", is_flag=True, help="Writes wait for nobody from now on.")
@click.option("--name", "rename", default="", help="New name.")
@format_option
@conflict_option
def space_alter(
    name: str, sync: bool, no_sync: bool, rename: str, format: str, conflict: ConflictKind | None
) -> None:
    """Change a space."""
    if sync and no_sync:
        raise usage("either --sync or --no-sync")
    if not (sync or no_sync or rename or format or conflict):
        raise usage("nothing to change: give --sync, --no-sync, --name, --format or --conflict")
    with client() as db:
        reply = db.alter_space(
            name,
            sync=True if sync else False if no_sync else None,
            name=rename or None,
            format=_list(format) if format else None,
            conflict=conflict,
            timeout=options.timeout_s,
        )
    report(reply.done, f"space '{name}' altered", reply, "is so already")


@space.command("truncate")
@space_argument("name")
def space_truncate(name: str) -> None:
    """Remove all tuples of a space."""
    with client() as db:
        reply = db.truncate_space(name, timeout=options.timeout_s)
    report(True, f"space '{name}' truncated", reply)


@space.command("drop")
@space_argument("name")
@if_exists
def space_drop(name: str, if_exists: bool) -> None:
    """Remove a space with its tuples."""
    with client() as db:
        reply = db.drop_space(name, if_exists=if_exists, timeout=options.timeout_s)
    report(reply.done, f"space '{name}' dropped", reply, "there is none")


@index.command("create")
@space_argument()
@argument("name", "NAME", "Of the new index.")
@click.option("--parts", metavar="id,2:string", default="", help="Fields, from 1 or by name.")
@click.option("--no-unique", is_flag=True, help="Several tuples may have one key.")
@click.option("--type", type=click.Choice(["tree", "hash"]), default="tree", help="How it is kept.")
@click.option(
    "--sequence",
    metavar="[NAME]",
    is_flag=False,
    flag_value=MADE_FOR_IT,
    default=None,
    help="It gives values to keys that are null; without NAME: one is made.",
)
@click.option(
    "--sequence-field", metavar="FIELD", default="", help="Which part of the key, if not the first."
)
@if_not_exists
def index_create(
    space: str,
    name: str,
    parts: str,
    no_unique: bool,
    type: IndexKind,
    sequence: str | None,
    sequence_field: str,
    if_not_exists: bool,
) -> None:
    """Make an index; the first one is the primary key. Default parts: field 1, unsigned."""
    if sequence_field and sequence is None:
        raise usage("--sequence-field needs --sequence")
    by: dict[str, Any] = {} if sequence in (None, MADE_FOR_IT) else {"name": sequence}
    if sequence_field:
        is_number = sequence_field.isdecimal() and len(sequence_field) <= DIGITS_MAX
        by["field"] = int(sequence_field) if is_number else sequence_field
    with client() as db:
        reply = db.create_index(
            space,
            name,
            parts=_list(parts),
            unique=not no_unique,
            type=type,
            if_not_exists=if_not_exists,
            sequence=None if sequence is None else by,
            timeout=options.timeout_s,
        )
    report(reply.done, f"index '{name}' of '{space}' created", reply)


@index.command("drop")
@space_argument()
@argument("name", "NAME", "Of the index.")
@if_exists
def index_drop(space: str, name: str, if_exists: bool) -> None:
    """Remove an index."""
    with client() as db:
        reply = db.drop_index(space, name, if_exists=if_exists, timeout=options.timeout_s)
    report(reply.done, f"index '{name}' of '{space}' dropped", reply, "there is none")
