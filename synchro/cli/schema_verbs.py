"""Verbs for spaces and indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from synchro.cli.connection import client, options
from synchro.cli.formatting import print_records, print_value, usage

if TYPE_CHECKING:
    from synchro.client.replies import IndexKind

SpaceArgument = Annotated[str, typer.Argument(metavar="SPACE", help="Name, or id.")]
IfExistsOption = Annotated[bool, typer.Option("--if-exists", help="No error if there is none.")]
IfNotExistsOption = Annotated[bool, typer.Option("--if-not-exists", help="No error if it exists.")]


def register(app: typer.Typer) -> None:
    space = typer.Typer(help="Spaces.", rich_markup_mode=None, no_args_is_help=True)
    space.command("create")(space_create)
    space.command("list")(space_list)
    space.command("show")(space_show)
    space.command("checksum")(space_checksum)
    space.command("alter")(space_alter)
    space.command("truncate")(space_truncate)
    space.command("drop")(space_drop)
    app.add_typer(space, name="space")
    index = typer.Typer(help="Indexes.", rich_markup_mode=None, no_args_is_help=True)
    index.command("create")(index_create)
    index.command("drop")(index_drop)
    app.add_typer(index, name="index")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _report(done: bool, what: str, reply: Any, otherwise: str = "exists already") -> None:
    txn = f"{reply.txn[0]}:{reply.txn[1]}" if reply.txn else None
    if options.output != "table":
        print_value({"changed": done, "what": what, "txn": txn})
    else:
        print(f"{what}{f'   txn {txn}' if txn else ''}" if done else f"{what}: {otherwise}, nothing was done")


def space_create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    sync: Annotated[bool, typer.Option("--sync", help="Writes wait for a quorum.")] = False,
    format: Annotated[str, typer.Option("--format", metavar="id:unsigned,name:string")] = "",
    if_not_exists: IfNotExistsOption = False,
    local: Annotated[bool, typer.Option("--local", help="Tuples stay on their instance.")] = False,
    temporary: Annotated[bool, typer.Option("--temporary", help="Tuples are never written.")] = False,
    id: Annotated[
        int, typer.Option("--id", min=0, max=2**32 - 1, help="512 or more; 0: the next free one.")
    ] = 0,
) -> None:
    """Make a space without indexes."""
    with client() as db:
        reply = db.create_space(
            name,
            sync=sync,
            format=_list(format),
            if_not_exists=if_not_exists,
            local=local,
            temporary=temporary,
            id=id,
            timeout=options.timeout_s,
        )
    assert reply.space is not None
    kind = "sync" if reply.space.is_sync else "async"
    _report(reply.done, f"space '{name}' ({kind}, id {reply.space.id}) created", reply)


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
        "tuples": space.tuple_count,
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
    ]
    return ", ".join(words)


def space_list(
    system: Annotated[bool, typer.Option("--system", help="System spaces too.")] = False,
) -> None:
    """List spaces."""
    with client() as db:
        spaces = db.spaces(with_system=system)
    print_records(
        ("ID", "NAME", "KIND", "TUPLES", "INDEXES"),
        [
            (str(s.id), s.name, _kind(s), str(s.tuple_count), ", ".join(i.name for i in s.indexes))
            for s in spaces
        ],
        [_record(s) for s in spaces],
    )


def space_show(name: SpaceArgument) -> None:
    """Show one space with its format and indexes."""
    if not name:
        raise usage("the name of a space is empty")
    with client() as db:
        (space,) = db.spaces(name)
    print_value(_record(space))


def space_checksum(
    name: SpaceArgument,
    all_instances: Annotated[bool, typer.Option("--all", help="Compare all instances.")] = False,
) -> int:
    """Number of tuples and a checksum, equal wherever the space holds the same confirmed tuples."""
    with client() as db:
        if all_instances:
            members = [member.name or str(member.id) for member in db.list_instances()]
            replies = [db.checksum(name, instance=member) for member in members]
        else:
            replies = [db.checksum(name)]
    print_records(
        ("INSTANCE", "TUPLES", "CHECKSUM"),
        [(r.instance, str(r.count), r.checksum) for r in replies],
        [{"instance": r.instance, "count": r.count, "checksum": r.checksum} for r in replies],
    )
    return 0 if len({(r.count, r.checksum) for r in replies}) == 1 else 1


def space_alter(
    name: SpaceArgument,
    sync: Annotated[bool, typer.Option("--sync", help="Writes wait for a quorum from now on.")] = False,
    no_sync: Annotated[bool, typer.Option("--no-sync")] = False,
    rename: Annotated[str, typer.Option("--name", help="New name.")] = "",
    format: Annotated[str, typer.Option("--format", metavar="id:unsigned,name:string")] = "",
) -> None:
    """Change a space."""
    if sync and no_sync:
        raise usage("either --sync or --no-sync")
    if not (sync or no_sync or rename or format):
        raise usage("nothing to change: give --sync, --no-sync, --name or --format")
    with client() as db:
        reply = db.alter_space(
            name,
            sync=True if sync else False if no_sync else None,
            name=rename or None,
            format=_list(format) if format else None,
            timeout=options.timeout_s,
        )
    _report(reply.done, f"space '{name}' altered", reply, "is so already")


def space_truncate(name: SpaceArgument) -> None:
    """Remove all tuples of a space."""
    with client() as db:
        reply = db.truncate_space(name, timeout=options.timeout_s)
    _report(True, f"space '{name}' truncated", reply)


def space_drop(name: SpaceArgument, if_exists: IfExistsOption = False) -> None:
    """Remove a space with its tuples."""
    with client() as db:
        reply = db.drop_space(name, if_exists=if_exists, timeout=options.timeout_s)
    _report(reply.done, f"space '{name}' dropped", reply, "there is none")


def index_create(
    space: SpaceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    parts: Annotated[
        str, typer.Option("--parts", metavar="id,2:string", help="Fields, from 1 or by name.")
    ] = "",
    no_unique: Annotated[bool, typer.Option("--no-unique", help="Several tuples may have one key.")] = False,
    type: Annotated[str, typer.Option("--type", help="tree or hash.")] = "tree",
    if_not_exists: IfNotExistsOption = False,
) -> None:
    """Make an index; the first one is the primary key. Default parts: field 1, unsigned."""
    with client() as db:
        reply = db.create_index(
            space,
            name,
            parts=_list(parts),
            unique=not no_unique,
            type=cast("IndexKind", type),
            if_not_exists=if_not_exists,
            timeout=options.timeout_s,
        )
    _report(reply.done, f"index '{name}' of '{space}' created", reply)


def index_drop(
    space: SpaceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    if_exists: IfExistsOption = False,
) -> None:
    """Remove an index."""
    with client() as db:
        reply = db.drop_index(space, name, if_exists=if_exists, timeout=options.timeout_s)
    _report(reply.done, f"index '{name}' of '{space}' dropped", reply, "there is none")
