"""`synchro ping`: for supervisors of one process, which want an exit code and have no password."""

from __future__ import annotations

import click

from synchro.cli.connection import options
from synchro.cli.formatting import EXIT_FAILED, print_value
from synchro.cli.program import program


@program.command("ping")
@click.option(
    "--of",
    "what",
    type=click.Choice(["process", "read", "write", "quorum"]),
    default="read",
    show_default=True,
    help="It runs, can be read, may be written to, sees a quorum.",
)
def ping(what: str) -> int:
    """Ask instances how they are, without a login. Exit code 1: one of them is not well."""
    from synchro.client.channel import security_of
    from synchro.client.health import is_healthy
    from synchro.client.routes import addresses_of, parse_uris

    uris = parse_uris(options.where)
    security = security_of(options.cacert, options.cert, options.key, uris=uris)
    found = {
        address: is_healthy(address, what, security=security, timeout_s=options.timeout_s)
        for address in addresses_of(uris)
    }
    if options.output == "table":
        for address, is_well in found.items():
            print(f"{address}  {'well' if is_well else 'not well'}")
    else:
        print_value(found)
    return 0 if all(found.values()) else EXIT_FAILED
