"""Verbs for sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from synchro.cli.arguments import argument, instance_option
from synchro.cli.connection import client, options
from synchro.cli.formatting import print_records, print_value
from synchro.cli.program import program
from synchro.cli.schema_verbs import if_exists, if_not_exists, report
from synchro.errors import SequenceNotStarted

if TYPE_CHECKING:
    from collections.abc import Callable

sequence = program.words("sequence", "Sequences.")
name_argument: Final = argument("name", "NAME", "Of the sequence.")


def _bounds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that create and alter have in common."""
    for name, help in (
        ("cache", "Kept, and without effect."),
        ("step", "From a value to the next one; below 0: it falls."),
        ("max", "The largest value."),
        ("min", "The smallest value."),
        ("start", "The first value."),
    ):
        function = click.option(f"--{name}", metavar="N", type=int, default=None, help=help)(function)
    return function


@sequence.command("create")
@argument("name", "NAME", "Of the new sequence.")
@_bounds
@click.option("--cycle", is_flag=True, help="Begin again after the last value.")
@if_not_exists
def sequence_create(
    name: str, cycle: bool, if_not_exists: bool, cache: int | None, **bounds: int | None
) -> None:
    """Make a sequence: 1, 2, 3... unless said otherwise."""
    with client() as db:
        reply = db.create_sequence(
            name,
            cycle=cycle,
            cache=cache or 0,
            if_not_exists=if_not_exists,
            timeout=options.timeout_s,
            **bounds,
        )
    report(reply.done, f"sequence '{name}' created", reply)


@sequence.command("alter")
@name_argument
@_bounds
@click.option("--cycle/--no-cycle", default=None, help="Begin again after the last value, or end there.")
@click.option("--name", "rename", default=None, help="New name.")
def sequence_alter(name: str, rename: str | None, cycle: bool | None, **bounds: int | None) -> None:
    """Change a sequence. The value that it gave last stays."""
    with client() as db:
        reply = db.alter_sequence(name, name=rename, cycle=cycle, timeout=options.timeout_s, **bounds)
    report(True, f"sequence '{name}' altered", reply)


@sequence.command("drop")
@name_argument
@if_exists
def sequence_drop(name: str, if_exists: bool) -> None:
    """Remove a sequence that numbers no space."""
    with client() as db:
        reply = db.drop_sequence(name, if_exists=if_exists, timeout=options.timeout_s)
    report(reply.done, f"sequence '{name}' dropped", reply, "there is none")


@sequence.command("next")
@name_argument
def sequence_next(name: str) -> None:
    """Take the next value, and print it."""
    with client() as db:
        value = db.next_value(name, timeout=options.timeout_s)
    _show(name, value)


@sequence.command("current")
@name_argument
@instance_option()
def sequence_current(name: str, instance: str) -> None:
    """Print the value that it gave last."""
    with client() as db:
        (found,) = db.sequences(name, instance=instance or None, timeout=options.timeout_s)
    if found.last is None:
        raise SequenceNotStarted(f"Sequence '{name}' is not started: it gave no value yet", sequence=name)
    _show(name, found.last)


def _show(name: str, value: int) -> None:
    if options.output == "table":
        print(value)
    else:
        print_value({"sequence": name, "value": value})


@sequence.command("set")
@name_argument
@argument("value", "VALUE", "The next one comes after it.", type=int)
def sequence_set(name: str, value: int) -> None:
    """Go on behind VALUE."""
    with client() as db:
        reply = db.set_sequence(name, value, timeout=options.timeout_s)
    report(reply.done, f"sequence '{name}' set to {value}", reply)


@sequence.command("reset")
@name_argument
def sequence_reset(name: str) -> None:
    """Begin at the first value again."""
    with client() as db:
        reply = db.set_sequence(name, None, timeout=options.timeout_s)
    report(reply.done, f"sequence '{name}' reset", reply, "it gave no value yet")


@sequence.command("list")
@instance_option()
def sequence_list(instance: str) -> None:
    """List sequences."""
    with client() as db:
        found = db.sequences(instance=instance or None, timeout=options.timeout_s)
    records = [{field: getattr(one, field) for field in one.__slots__} for one in found]
    print_records(
        ("ID", "NAME", "LAST", "START", "STEP", "MIN", "MAX", "CYCLE", "SPACES"),
        [
            (
                *(str(one.id), one.name, "-" if one.last is None else str(one.last)),
                *(str(one.start), str(one.step), str(one.min), str(one.max)),
                *("yes" if one.cycle else "no", ", ".join(one.spaces) or "-"),
            )
            for one in found
        ],
        [{**record, "spaces": list(record["spaces"])} for record in records],
    )
