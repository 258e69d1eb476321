"""Verbs that read files of the log: wal cat, wal check."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from synchro.cli.arguments import argument, complete_file
from synchro.cli.connection import options
from synchro.cli.formatting import EXIT_FAILED, print_error, print_value, to_json, usage
from synchro.cli.program import program
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.storage.xlog import XlogReader

files_argument: Final = argument(
    "files", "FILE...", "*.xlog", nargs=-1, required=True, shell_complete=complete_file
)
wal = program.words("wal", "Files of the log.")


@contextmanager
def _open(path: str) -> Iterator[XlogReader]:
    from synchro.storage.xlog import XlogReader

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise usage(f"cannot read {path}: {error.strerror}") from error
    if os.path.isdir(path):
        os.close(descriptor)
        raise usage(f"{path} is a directory; name its files: {os.path.join(path, '*.xlog')}")
    try:

        def read_at(size: int, offset: int) -> bytes:
            return os.pread(descriptor, size, offset)

        yield XlogReader(read_at, os.fstat(descriptor).st_size, path)
    finally:
        os.close(descriptor)


def parse_vclock(text: str) -> dict[int, int]:
    """`{1: 14, 2: 3}`, with or without braces and blanks."""
    try:
        pairs = [part.split(":") for part in text.strip().strip("{}").split(",") if part.strip()]
        return {int(origin): int(lsn) for origin, lsn in pairs}
    except ValueError:
        raise usage(f"{text!r} is not a vclock, as '{{1: 14, 2: 3}}'") from None


@wal.command("cat")
@files_argument
@click.option("--from-vclock", metavar="'{1: 14}'", default="", help="Only rows this vclock does not cover.")
def wal_cat(files: Sequence[str], from_vclock: str) -> None:
    """Print rows as JSON lines. Changes are written so that `synchro txn` accepts them."""
    known = parse_vclock(from_vclock)
    for path in files:
        with _open(path) as reader:
            for offset, block, txns in reader:
                for txn in txns:
                    for row in txn.rows:
                        if row.lsn > known.get(row.replica_id, 0):
                            print(to_json(_record(row, txn, offset, block.time)))


def _record(row: Any, txn: Any, offset: int, time: float) -> dict[str, Any]:
    record: dict[str, Any] = {}
    body = row.body
    if hasattr(body, "space_id"):
        record["op"] = row.type.name.lower()
        record["space"] = body.space_id
        if body.value is not None:
            record["tuple"] = body.value
        if body.key is not None:
            record["key"] = body.key
            record["index"] = body.index_id
        if body.ops is not None:
            record["ops"] = body.ops
    else:
        record["type"] = row.type.name.lower()
        record.update({name: value for name, value in body._asdict().items() if name != "raw"})
    record["origin"], record["row_lsn"] = row.replica_id, row.lsn
    record["txn"] = f"{txn.origin}:{row.lsn if txn.is_shared else txn.lsn}"
    if txn.is_shared:
        record["shared"] = f"{txn.tsn}..{txn.lsn}"
    if row.group_id:
        record["local"] = True
    if txn.is_wait_ack:
        record["sync"] = True
    if row.request_id is not None:
        record["request_id"] = bytes(row.request_id).hex()
    if options.verbose:
        record["offset"], record["time"] = offset, time
    return record


@wal.command("check")
@files_argument
def wal_check(files: Sequence[str]) -> int:
    """Read files to their ends and check every checksum. Exit code 1 if one is damaged."""
    bad = 0
    for path in files:
        try:
            report = _check(path)
        except SynchroError as error:
            print_error(error)
            bad += 1
            continue
        if options.output == "table":
            print(
                f"{path}: {report['blocks']} blocks, {report['transactions']} transactions, "
                f"{report['rows']} rows, from {report['from']} to {report['to']}, {report['end']}"
            )
        else:
            print_value(report)
    return EXIT_FAILED if bad else 0


def _check(path: str) -> dict[str, Any]:
    blocks = transactions = rows = 0
    with _open(path) as reader:
        lsns = {int(origin): int(lsn) for origin, lsn in reader.header.vclock}
        start = dict(lsns)
        for _, _, txns in reader:
            blocks += 1
            transactions += len(txns)
            for txn in txns:
                rows += txn.row_count
                for origin, lsn in txn.components():
                    lsns[int(origin)] = max(lsns.get(int(origin), 0), int(lsn))
        clean = reader.ending.value == "clean"
        return {
            "file": path,
            "instance_uuid": reader.header.instance_uuid,
            "blocks": blocks,
            "transactions": transactions,
            "rows": rows,
            "from": str(start),
            "to": str(lsns),
            "end": "closed clean" if clean else "no end marker: still written to, or the process was killed",
        }
