"""Verbs for the log: wal cat and wal check read its files, and snapshots; wal sync waits for the disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from synchro.cli.arguments import argument, complete_file, one_instance, the_one
from synchro.cli.connection import client, options
from synchro.cli.formatting import EXIT_FAILED, print_error, print_value, usage, vclock
from synchro.cli.program import program
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.vclock import Vclock

files_argument: Final = argument(
    "files", "FILE...", "*.xlog, *.snap", nargs=-1, required=True, shell_complete=complete_file
)
skip_option: Final = click.option(
    "--skip-damage", is_flag=True, help="Go on behind damage, and read files that were never finished."
)
wal = program.words("wal", "The log, and its files.")
_QUOTES: Final = str.maketrans("", "", "'\"")


def parse_vclock(text: str) -> Vclock:
    """`{1: 14, 2: 3}`, with or without braces and blanks, as YAML and as JSON print it."""
    from synchro.ids import INSTANCE_ID_MAX, InstanceId, Lsn
    from synchro.vclock import Vclock

    try:
        parts = text.strip().strip("{}").replace("\n", ",").split(",")
        pairs = [part.translate(_QUOTES).split(":") for part in parts if part.strip()]
        lsns = {InstanceId(int(origin)): Lsn(int(lsn)) for origin, lsn in pairs}
        if any(not 0 <= origin <= INSTANCE_ID_MAX or lsn < 0 for origin, lsn in lsns.items()):
            raise ValueError(text)
    except ValueError:
        raise usage(f"{text!r} is not a vclock, as '{{1: 14, 2: 3}}'") from None
    return Vclock(lsns)


@wal.command("sync")
@one_instance("whoever leads")
def wal_sync(name: str, instance: str) -> None:
    """Wait until all that an instance wrote before is on its disk, with wal.mode: write too."""
    with client() as db:
        timeout = options.timeout_s if options.timeout else None
        done = db.sync_wal(the_one(name, instance) or None, timeout=timeout)
    if options.output != "table":
        print_value({"instance": done.instance, "vclock": dict(done.vclock)})
    else:
        print(f"{done.instance} has on its disk: {vclock(done.vclock)}")


# --- cat --------------------------------------------------------------------------------------------------


@wal.command("cat")
@files_argument
@click.option("--from-vclock", metavar="'{1: 14}'", default="", help="Only rows this vclock does not cover.")
@click.option("--until-vclock", metavar="'{1: 20}'", default="", help="Only rows this vclock covers.")
@click.option(
    "--origin", metavar="N", type=click.IntRange(0, 31), help="Only rows of this instance, by its id."
)
@click.option(
    "--space", "spaces", metavar="NAME", multiple=True, help="Only this space; several times: these."
)
@skip_option
def wal_cat(
    files: Sequence[str],
    from_vclock: str,
    until_vclock: str,
    origin: int | None,
    spaces: Sequence[str],
    skip_damage: bool,
) -> int:
    """Print rows as JSON lines, oldest first.

    With --origin or --space only operations come out that `synchro import` and `synchro txn` take, with the
    names of their spaces; what else there was is told on standard error. The names are those of the
    definitions in the log, and in the newest snapshot beside it. Damage ends it with exit code 1 and its
    place.
    """
    from synchro.cli.log_files import Wanted
    from synchro.cli.log_listing import Listing

    wanted = Wanted(
        parse_vclock(from_vclock),
        parse_vclock(until_vclock) if until_vclock else None,
        origin,
        spaces,
    )
    listing = Listing(wanted, only_operations=origin is not None or bool(spaces), skips_damage=skip_damage)
    try:
        for path in files:
            if not listing.file(path):
                break
    finally:
        listing.tell_left_out()
    return EXIT_FAILED if listing.has_damage else 0


# --- check ------------------------------------------------------------------------------------------------


@wal.command("check")
@files_argument
def wal_check(files: Sequence[str]) -> int:
    """Read files to their ends and check every checksum. Exit code 1 if one is damaged."""
    from synchro.cli.log_files import is_snapshot
    from synchro.cli.log_listing import check_log, check_snapshot

    bad = 0
    for path in files:
        try:
            report = check_snapshot(path) if is_snapshot(path) else check_log(path)
        except SynchroError as error:
            print_error(error)
            bad += 1
            continue
        if options.output != "table":
            print_value(report)
        elif "tuples" in report:
            print(f"{path}: {report['tuples']} tuples in {report['spaces']} spaces, at {report['at']}, whole")
        else:
            print(
                f"{path}: {report['blocks']} blocks, {report['transactions']} transactions, "
                f"{report['rows']} rows, from {report['from']} to {report['to']}, {report['end']}"
            )
    return EXIT_FAILED if bad else 0
