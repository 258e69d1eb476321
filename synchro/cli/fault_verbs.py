"""Verbs for tests: fault set, clear, list, partition, heal, clock. For instances that run with fault
injection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Literal

import click

from synchro.cli import connection
from synchro.cli.arguments import argument, instance_option
from synchro.cli.connection import client, options
from synchro.cli.formatting import print_table, print_value
from synchro.cli.program import DURATION, program

if TYPE_CHECKING:
    from synchro.client.faults import Failpoint, Faults, FaultState

OFF: Final = "off"
fault = program.words("fault", "Break an instance on purpose, for tests.")
on_this = instance_option("On this one. Default: the first of -e.")


@contextmanager
def _faults(instance: str) -> Iterator[Faults]:
    from synchro.client.faults import Faults

    with client() as db:
        yield Faults(db, instance or None)


def _complete_point(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from synchro.failpoints import POINTS

    return [name for name in POINTS if name.startswith(incomplete)]


@fault.command("set")
@argument("name", "POINT", "As `fault list --all` names them.", shell_complete=_complete_point)
@argument(
    "action", "[ACTION]", "on (the default), off, pause, delay, error, exit or count.", is_optional=True
)
@click.option("--value", type=float, default=None, help="Seconds, bytes or an errno, as the point says.")
@click.option("--countdown", type=click.IntRange(min=0), default=0, help="So many passes do nothing first.")
@click.option("--times", type=click.IntRange(min=0), default=0, help="So many passes act; 0: all.")
@click.option("--peer", type=click.IntRange(min=1), multiple=True, help="Id of a peer that it is about.")
@on_this
def fault_set(
    name: str,
    action: str,
    value: float | None,
    countdown: int,
    times: int,
    peer: tuple[int, ...],
    instance: str,
) -> None:
    """Arm a failpoint anew; what waited there goes on."""
    with _faults(instance) as faults:
        if action == OFF:
            faults.clear(name)
        else:
            faults.set(name, action or "on", value=value, countdown=countdown, times=times, peers=peer)
        print(f"{name} is {action or 'on'} at {faults.place}")


@fault.command("clear")
@argument("name", "[POINT]", "Default: all.", is_optional=True, shell_complete=_complete_point)
@on_this
def fault_clear(name: str, instance: str) -> None:
    """Disarm a failpoint; what waited there goes on, in order."""
    with _faults(instance) as faults:
        passes = faults.clear(name)
        print(f"{name or 'all failpoints'} off at {faults.place}, {passes} passes")


@fault.command("list")
@click.option("--all", "shows_all", is_flag=True, help="Those that were never set, too.")
@on_this
def fault_list(shows_all: bool, instance: str) -> None:
    """Show failpoints, what waits there, and what the log has done."""
    with _faults(instance) as faults:
        state = faults.state()
    points = [point for _, point in sorted(state.points.items()) if shows_all or point.action]
    if options.output != "table":
        record = asdict(state)
        print_value(record | {"points": {point.name: asdict(point) for point in points}})
        return
    columns = ("POINT", "STATE", "ACTION", "PASSES", "TRIGGERS", "WAITING")
    print_table(columns, [[*_row(point), point.meaning] if shows_all else _row(point) for point in points])
    for line in _counters(state):
        print(line)


def _row(point: Failpoint) -> list[str]:
    if not point.action:
        return [point.name, "off", "", "", "", ""]
    forms = [f"{point.action}({point.value:g})" if point.value else point.action]
    forms += [f"countdown={point.countdown}"] * bool(point.countdown)
    forms += [f"times={point.times}"] * bool(point.times)
    forms += [f"peer={peer}" for peer in point.peers]
    state = "armed" if point.is_armed else "off"
    return [point.name, state, ",".join(forms), *map(str, (point.passes, point.triggers, point.waiting))]


def _counters(state: FaultState) -> Iterator[str]:
    yield (
        f"log: {state.submitted} transactions submitted, {state.completed} completed; "
        f"{state.quorum_waits} quorum waits started"
    )
    if state.clock_skew:
        yield f"clock: {state.clock_skew:+g} s"
    for title, peers in (("nothing from", state.partitioned_in), ("nothing to", state.partitioned_out)):
        if peers:
            yield f"partition: {title} {', '.join(peers)}"


@fault.command("partition")
@click.argument("peers", metavar="[PEER]...", nargs=-1)
@click.option(
    "--direction",
    type=click.Choice(("both", "in", "out")),
    default="both",
    show_default=True,
    help="in: what peers send is lost; out: nothing is sent to them.",
)
@on_this
def fault_partition(peers: tuple[str, ...], direction: Literal["both", "in", "out"], instance: str) -> None:
    """Cut the streams with some peers, or all."""
    with _faults(instance) as faults:
        faults.partition(peers, direction)
        print(f"{faults.place} is cut from {', '.join(peers) or 'all peers'}, direction {direction}")


@fault.command("heal")
@click.argument("peers", metavar="[PEER]...", nargs=-1)
@on_this
def fault_heal(peers: tuple[str, ...], instance: str) -> None:
    """End partitions, from some peers or all."""
    with _faults(instance) as faults:
        faults.heal(peers)
        print(f"{faults.place} reaches {', '.join(peers) or 'all peers'} again")


@fault.command("clock")
@click.argument("skew", metavar="SKEW", type=DURATION)
@click.option("--back", is_flag=True, help="The clock of the instance is behind, not ahead.")
@on_this
def fault_clock(skew: str, back: bool, instance: str) -> None:
    """Shift the clock of an instance against that of its host; 0s ends it."""
    seconds = connection.parse_duration(skew) * (-1 if back else 1)
    with _faults(instance) as faults:
        faults.skew_clock(seconds)
        print(f"the clock of {faults.place} is shifted by {seconds:+g} s")
