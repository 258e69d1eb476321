"""`synchro demo`: a set that lives as long as the command, or a script that breaks it."""

from __future__ import annotations

from typing import Annotated

import typer

from synchro.cli.formatting import usage


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    script: Annotated[str, typer.Option("--script", help="failover: kill the leader in mid-write.")] = "",
    once: Annotated[bool, typer.Option("--once", help="End after the script; exit code 0 or 1.")] = False,
    nodes: Annotated[int, typer.Option("--nodes", help="Number of instances.")] = 3,
    is_async: Annotated[bool, typer.Option("--async", help="Master-master, without elections.")] = False,
) -> int:
    """Three instances on free ports in a temporary directory; Ctrl-C cleans up."""
    if script not in ("", "failover"):
        raise usage(f"--script is failover, not {script!r}")
    if not 1 <= nodes <= 9 or (script and nodes < 3):
        raise usage("--nodes is 1 to 9, and at least 3 for --script failover")
    from synchro.cli import demo as module

    return module.run(script=script, once=once, nodes=nodes, is_async=is_async)
