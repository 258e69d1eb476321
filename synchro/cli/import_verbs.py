"""`synchro import`: tuples or operations of a file, one transaction after the other, and how far it came."""

from __future__ import annotations

import csv
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from synchro.cli import formatting
from synchro.cli.arguments import argument, complete_file, complete_space
from synchro.cli.connection import client, options
from synchro.cli.data_verbs import (
    LINE_BYTES_MAX,
    open_input,
    parse,
    parse_tuple,
    read_lines,
    read_op,
    short,
    space_ref,
)
from synchro.cli.formatting import EXIT_FAILED, EXIT_INTERRUPTED, print_value, usage
from synchro.cli.loading import LOAD_TIMEOUT_MIN_S, progress
from synchro.cli.program import program
from synchro.errors import Code, SynchroError
from synchro.values import Datetime, Interval, parse_decimal, parse_uuid

if TYPE_CHECKING:
    from synchro.client import Client

BATCH_ROWS: Final = 500
BATCH_ROWS_MAX: Final = 1000
"""The largest transaction."""
ABOUT_A_TUPLE: Final = (Code.INVALID_ARGUMENT, Code.ALREADY_EXISTS)
"""Errors that another tuple would not have met."""


class Taken(NamedTuple):
    """A line, its tuple or key, and the operation that writes it.

    txn: which transaction of a log it was in: lines beside each other that have the same stay together; "":
    it stands for itself.
    """

    line: int
    row: Any
    op: Any
    txn: str = ""


@program.command("import")
@argument("file", "FILE", "JSON lines or CSV; -: JSON lines on stdin.", shell_complete=complete_file)
@click.option("--space", default="", help="Where tuples go to.", shell_complete=complete_space)
@click.option(
    "--batch",
    metavar="N",
    type=click.IntRange(1, BATCH_ROWS_MAX),
    default=BATCH_ROWS,
    show_default=True,
    help="Tuples in one transaction.",
)
@click.option("--replace", is_flag=True, help="Replace what exists.")
@click.option("--header", is_flag=True, help="CSV: skip the first line.")
@click.option(
    "--from-line", metavar="N", type=click.IntRange(min=1), default=1, help="Skip what is before it."
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What a line does that cannot be taken in.",
)
def import_(
    file: str, space: str, batch: int, replace: bool, header: bool, from_line: int, on_error: str
) -> int:
    """Load tuples: a JSON array a line, or CSV whose fields take the types of the space's format. Without
    --space a line is an operation, as `synchro txn` takes it and `synchro wal cat` prints it; those of one
    transaction of a log stay one.

    One transaction after the other, in the order of the file: those before the transaction of a failed line
    are in, nothing else is. With --on-error skip only the bad lines are left out, each is told on standard
    error, and the exit code is 1 if there were any.
    """
    _check_options(file, space, replace=replace)
    again = ["synchro", "import", file, *(["--space", space] if space else []), "--batch", str(batch)]
    again += ["--replace"] * replace + ["--header"] * header
    again += ["--on-error", "skip"] * (on_error == "skip")
    done = Import(shlex.join(again), space, from_line, skips=on_error == "skip")
    with client() as db, open_input(file) as opened:
        lines = read_lines(opened, file, done.on_line, done.refuse)
        if not space:
            taken = _operations(lines, done)
        else:
            (known,) = db.spaces(space_ref(space))
            done.space = known.name
            types = [field.type for field in known.format]
            is_csv = file.endswith(".csv")
            rows = _csv_rows(lines, done, types, header) if is_csv else _json_rows(lines, done)
            taken = _taken(rows, done, space_ref(space), replace=replace)
        try:
            with progress(None, "loading") as advance:
                for some in _batches(taken, batch):
                    done.send(db, some)
                    advance(done.tuples)
        except SynchroError as error:
            done.explain(error)
            raise
        except KeyboardInterrupt:
            print(f"\ninterrupted: {done.summary()}\nnext:  {done.next_command()}", file=sys.stderr)
            return EXIT_INTERRUPTED
    if options.output == "table":
        skipped = f", {done.skipped} lines skipped" if done.skipped else ""
        print(f"{done.read} lines read, {done.written()}{skipped}")
    else:
        print_value(
            {"space": done.space or None, "lines": done.read, "tuples": done.tuples, "skipped": done.skipped}
        )
    return EXIT_FAILED if done.skipped else 0


def _check_options(file: str, space: str, *, replace: bool) -> None:
    if space:
        return
    if file.endswith(".csv"):
        raise usage("CSV has tuples: --space says where they go to; nothing was done")
    if replace:
        raise usage("--replace is for tuples, with --space; an operation says itself what it does")


class Import:
    """How far an import is: the tuples of all lines from `first` to `last` are in, or were skipped."""

    def __init__(self, command: str, space: str, first: int = 1, *, skips: bool = False) -> None:
        self.command = command
        self.space = space
        """"": the lines are operations."""
        self.first = first
        self.last = first - 1
        self.read = 0
        self.tuples = 0
        self.skips = skips
        """Leave out a bad line, go on behind it."""
        self.skipped = 0
        self.failed = 0
        """The first line that could not be taken in."""
        self._sent: Sequence[Taken] = ()
        """The transaction that is under way: line, tuple and operation."""
        self._is_unknown = False
        """Nobody knows yet whether it is in."""

    def on_line(self, number: int) -> None:
        self.read = number

    @property
    def is_skipped(self) -> bool:
        """The line that was read last."""
        return self.read < self.first

    def send(self, db: Client, some: Sequence[Taken]) -> None:
        """Write them as one transaction. If one is refused and may be skipped: as two, and so on, until what
        is refused is one line, or one transaction of a log, alone. Their order stays."""
        try:
            self._write(db, some)
        except SynchroError as error:
            if not self.skips or error.code not in ABOUT_A_TUPLE:
                raise
            self._sent, self._is_unknown = (), False
            if middle := _middle(some):
                self.send(db, some[:middle])
                self.send(db, some[middle:])
            else:
                self._skip(some, error)
                self.last = some[-1].line

    def _write(self, db: Client, some: Sequence[Taken]) -> None:
        self._sent, self._is_unknown = some, True
        db.execute(
            [one.op for one in some], omit_tuples=True, timeout=max(options.timeout_s, LOAD_TIMEOUT_MIN_S)
        )
        self._sent, self._is_unknown = (), False
        self.tuples += len(some)
        self.last = some[-1].line

    def refuse(self, error: SynchroError) -> None:
        """The line that was read last is bad: skip it, or raise."""
        if not self.skips:
            raise error
        if not self.is_skipped:
            self._skip([Taken(self.read, None, None)], error)

    def _skip(self, some: Sequence[Taken], error: SynchroError) -> None:
        self.skipped += len(some)
        first, last = some[0].line, some[-1].line
        lines = f"line {first}" if first == last else f"lines {first} to {last}, one transaction"
        text = error.message if f"line {first}" in error.message else f"{lines}: {error.message}"
        print(f"skipped: {formatting.shown_reason(error)}: {text}", file=sys.stderr)

    def explain(self, error: SynchroError) -> None:
        """Add to the error how far it went."""
        self._is_unknown = bool(self._sent) and formatting.exit_code(error) == formatting.EXIT_UNKNOWN
        self.failed = self._failed_line(error) if self._sent else self.read or self.first
        command = self.next_command()
        if self._is_unknown and (txn := error.details.get("txn")):
            command = f"synchro wait {txn}, then: {command}"
        error.message = f"{error.message.rstrip('.')}. Import: {self.summary()}"
        facts = {
            "lines": self.read,
            "tuples": self.tuples,
            "last_line": self.last,
            "failed_line": self.failed,
        }
        texts = {name: str(number) for name, number in facts.items()}
        error.details = {**error.details, **texts, "next_command": command}

    def _failed_line(self, error: SynchroError) -> int:
        """The line that the error is about, as far as it says."""
        field = error.details.get("field", "")
        if field.startswith("ops[") and "]" in field:
            return self._sent[int(field[4 : field.index("]")])].line
        if found := error.details.get("new_tuple"):
            from synchro.storage.tuple_format import show_tuple

            for one in self._sent:
                if show_tuple(tuple(one.row)) == found:
                    return one.line
        return self._sent[0].line

    def written(self) -> str:
        return f"{self.tuples} tuples in space '{self.space}'" if self.space else f"{self.tuples} operations"

    def summary(self) -> str:
        words = [f"{self.read} lines read, {self.written()}"]
        if self.skipped:
            words.append(f"{self.skipped} lines skipped")
        if self.tuples:
            words.append(f"those of lines {self.first} to {self.last}")
        if self._is_unknown:
            words.append(f"outcome unknown for lines {self._sent[0].line} to {self._sent[-1].line}")
        elif self.failed:
            words.append(f"first failed line {self.failed}")
        return ", ".join(words) + "; nothing behind it was sent" * bool(self._sent or self.failed)

    def next_command(self) -> str:
        command = f"{self.command} --from-line {self.last + 1}"
        if self._is_unknown and "--replace" not in self.command:
            option = " --replace" if self.space else ""
            first, last = self._sent[0].line, self._sent[-1].line
            return f"{command}{option}   (lines {first} to {last} may be in already)"
        return command if self._is_unknown or not self.failed else f"mend line {self.failed}, then: {command}"


def _middle(some: Sequence[Taken]) -> int:
    """Where to part them so that each transaction of a log stays whole; 0: nowhere."""
    cuts = [at for at in range(1, len(some)) if not some[at].txn or some[at].txn != some[at - 1].txn]
    return min(cuts, key=lambda at: abs(2 * at - len(some)), default=0)


def _batches(taken: Iterable[Taken], size: int) -> Iterator[list[Taken]]:
    """At most `size` in one, unless a transaction of a log alone has more. One that is full and ends with no
    such transaction is given before the next line is read."""
    some: list[Taken] = []
    begins = 0
    """Where the transaction of the last line begins in `some`."""
    for one in taken:
        if not (some and one.txn and one.txn == some[-1].txn):
            begins = len(some)
        some.append(one)
        if begins and len(some) > size:
            yield some[:begins]
            some, begins = some[begins:], 0
        if len(some) >= size and not one.txn:
            yield some
            some, begins = [], 0
    if some:
        yield some


def _taken(rows: Iterable[list[Any]], done: Import, ref: str | int, *, replace: bool) -> Iterator[Taken]:
    from synchro.client import ops as made

    make = made.replace if replace else made.insert
    for row in rows:
        try:
            op = make(ref, row)
        except SynchroError as error:
            done.refuse(error)
        else:
            yield Taken(done.read, row, op)


def _operations(lines: Iterable[str], done: Import) -> Iterator[Taken]:
    for line in lines:
        if not line.strip() or done.is_skipped:
            continue
        try:
            if line.lstrip().startswith("["):
                raise usage(f"line {done.read} is a tuple: --space says where it goes to")
            value, op = read_op(line, done.read)
            if value["op"].startswith("if_"):
                raise usage(f"line {done.read} is a condition, of one transaction: synchro txn takes it")
        except SynchroError as error:
            done.refuse(error)
        else:
            yield Taken(done.read, value.get("tuple", value.get("key")), op, str(value.get("txn") or ""))


def _json_rows(lines: Iterable[str], done: Import) -> Iterator[list[Any]]:
    for line in lines:
        if line.strip() and not done.is_skipped:
            try:
                row = parse_tuple(line, f"line {done.read}")
            except SynchroError as error:
                done.refuse(error)
            else:
                yield row


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "unsigned": int,
    "integer": int,
    "double": float,
    "number": float,
    "decimal": parse_decimal,
    "uuid": parse_uuid,
    "datetime": Datetime.parse,
    "interval": Interval.parse,
}
"""Type of a field -> what reads it in CSV."""


def _csv_rows(lines: Iterable[str], done: Import, types: Sequence[str], header: bool) -> Iterator[list[Any]]:
    csv.field_size_limit(LINE_BYTES_MAX)
    reader = csv.reader(lines)
    is_header = header
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            done.refuse(usage(f"line {done.read} is not CSV: {error}"))
            continue
        if is_header or not row or done.is_skipped:
            is_header = False
            continue
        try:
            made = [
                _csv_field(text, types[i] if i < len(types) else "any", done.read)
                for i, text in enumerate(row)
            ]
        except SynchroError as error:
            done.refuse(error)
        else:
            yield made


def _csv_field(text: str, kind: str, number: int) -> Any:
    if kind in ("array", "map"):
        return parse(text, f"line {number}")
    try:
        if kind in _READERS:
            return _READERS[kind](text) if text else None
        if kind == "boolean":
            return {"true": True, "false": False, "": None}[text.lower()]
        return text
    except (KeyError, ValueError):
        raise usage(f"line {number}: {short(text)} is not of type {kind}") from None
