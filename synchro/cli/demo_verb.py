"""`synchro demo`: a set that lives as long as the command, or a script that breaks it."""

from __future__ import annotations

import click

from synchro.cli.formatting import usage
from synchro.cli.program import program


@program.command("demo")
@click.option("--script", default="", help="failover: kill the leader in mid-write.")
@click.option("--once", is_flag=True, help="End after the script; exit code 0 or 1.")
@click.option("--nodes", type=int, default=3, show_default=True, help="Number of instances.")
@click.option("--async", "is_async", is_flag=True, help="Master-master, without elections.")
def demo(script: str, once: bool, nodes: int, is_async: bool) -> int:
    """Three instances on free ports in a temporary directory; Ctrl-C cleans up."""
    if script not in ("", "failover"):
        raise usage(f"--script is failover, not {script!r}")
    if not 1 <= nodes <= 9 or (script and nodes < 3):
        raise usage("--nodes is 1 to 9, and at least 3 for --script failover")
    from synchro.cli import demo as module

    return module.run(script=script, once=once, nodes=nodes, is_async=is_async)
