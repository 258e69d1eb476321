"""Verbs that read and write tuples."""

from __future__ import annotations

import csv
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, cast

import typer

from synchro import json_form
from synchro.cli import formatting
from synchro.cli.connection import client, options
from synchro.cli.formatting import (
    EXIT_INTERRUPTED,
    is_terminal,
    print_table,
    print_value,
    shown,
    stored,
    to_json,
    usage,
)
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.client import Client, Op, Result
    from synchro.client.requests import IteratorName, ReadMode, WaitMode

SpaceArgument = Annotated[str, typer.Argument(metavar="SPACE", help="Name, or id.")]
TupleArgument = Annotated[str, typer.Argument(metavar="TUPLE", help="A JSON array: '[1, \"a\"]'.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="A JSON array: '[1]'; or one value.")]
OpsArgument = Annotated[str, typer.Argument(metavar="OPS", help='\'[["=", 2, "b"]]\', fields from 1.')]
WaitOption = Annotated[str, typer.Option("--wait", help="complete, submit or none.")]
IndexOption = Annotated[str, typer.Option("--index", help="Name of the index.")]
ReadOption = Annotated[str, typer.Option("--read", help="confirmed or linearizable.")]
UINT32_MAX: Final = 2**32 - 1
SHOWN_CHARS_MAX: Final = 200
"""Of an input that is refused."""
BATCH_ROWS: Final = 500
BATCH_ROWS_MAX: Final = 1000
"""The largest transaction."""
LINE_BYTES_MAX: Final = 16 << 20
"""Of an import: more than any tuple; a file without ends of lines must not fill the memory."""
LOAD_THREADS: Final = 4


def register(app: typer.Typer) -> None:
    app.command("insert")(insert)
    app.command("replace")(replace)
    app.command("update")(update)
    app.command("upsert")(upsert)
    app.command("delete")(delete)
    app.command("get")(get)
    app.command("select")(select)
    app.command("txn")(txn)
    app.command("import")(import_)


def parse(text: str, what: str) -> Any:
    """JSON, with the forms for what JSON lacks (ADR 24)."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_float=_float)
    except RecursionError:
        raise usage(f"{_the(what)} is nested too deep") from None
    except ValueError as error:
        raise usage(f"{_the(what)} is not JSON: {error}; got {_short(text.strip())}") from None


def _the(what: str) -> str:
    return what if what.startswith("line ") else f"the {what}"


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "...")


def _object(pairs: Sequence[tuple[str, Any]]) -> Any:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {twice!r} of an object is there twice")
    return json_form.decode_object(made)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond what a double holds")
    return value


def parse_tuple(text: str, what: str = "tuple") -> list[Any]:
    value = parse(text, what)
    if not isinstance(value, list):
        raise usage(f"{_the(what)} is not a JSON array, as '[1, \"a\"]'; got {_short(text.strip())}")
    return value


def parse_key(text: str) -> list[Any]:
    """A JSON array, a JSON value, or a word as it is."""
    try:
        json.loads(text)
    except RecursionError:
        raise usage("the key is nested too deep") from None
    except ValueError:
        return [text]
    value = parse(text, "key")
    return value if isinstance(value, list) else [value]


def space_ref(text: str) -> str | int:
    """A name, or an id."""
    from synchro.client.model import is_number

    if not text:
        raise usage("the name of a space is empty")
    return int(text) if is_number(text) else text


def _write(op: Op, wait: str) -> None:
    with client() as db:
        result = db.execute([op], wait=cast("WaitMode", wait), timeout=options.timeout_s)
    show_result(result)


def show_result(result: Result) -> None:
    txn = f"{result.txn[0]}:{result.txn[1]}" if result.txn else None
    if options.output != "table":
        value: dict[str, Any] = {"txn": txn, "is_sync": result.is_sync, "duplicate": result.duplicate}
        if len(result.tuples) == 1:
            value["tuple"] = stored(result.tuples[0])
        else:
            value["tuples"] = stored(list(result.tuples))
        print_value(value)
        return
    for found in result.tuples:
        print("-" if found is None else to_json(stored(found)))
    if txn:
        print(f"txn {txn}{'  sync' if result.is_sync else '  async'}")


def insert(space: SpaceArgument, tuple: TupleArgument, wait: WaitOption = "complete") -> None:
    """Add a tuple; refused if its key exists."""
    row = parse_tuple(tuple)
    from synchro.client import ops as made

    _write(made.insert(space_ref(space), row), wait)


def replace(space: SpaceArgument, tuple: TupleArgument, wait: WaitOption = "complete") -> None:
    """Add a tuple, or replace the one with the same primary key."""
    row = parse_tuple(tuple)
    from synchro.client import ops as made

    _write(made.replace(space_ref(space), row), wait)


def update(
    space: SpaceArgument,
    key: KeyArgument,
    ops: OpsArgument,
    index: IndexOption = "",
    wait: WaitOption = "complete",
) -> None:
    """Change fields of the tuple with this key."""
    changes = parse(ops, "list of operations")
    from synchro.client import ops as made

    _write(made.update(space_ref(space), parse_key(key), changes, index or None), wait)


def upsert(
    space: SpaceArgument, tuple: TupleArgument, ops: OpsArgument, wait: WaitOption = "complete"
) -> None:
    """Change the tuple with this primary key, or add it."""
    row, changes = parse_tuple(tuple), parse(ops, "list of operations")
    from synchro.client import ops as made

    _write(made.upsert(space_ref(space), row, changes), wait)


def delete(
    space: SpaceArgument, key: KeyArgument, index: IndexOption = "", wait: WaitOption = "complete"
) -> None:
    """Remove the tuple with this key, and print it."""
    from synchro.client import ops as made

    _write(made.delete(space_ref(space), parse_key(key), index or None), wait)


def get(
    space: SpaceArgument, key: KeyArgument, index: IndexOption = "", read: ReadOption = "confirmed"
) -> int:
    """Print the tuple with this key. Exit code 7 if there is none."""
    from synchro.cli.formatting import EXIT_NOT_FOUND

    with client() as db:
        rows = db.select(
            space_ref(space),
            parse_key(key),
            index=index or None,
            iterator="EQ",
            limit=1,
            read=cast("ReadMode", read),
        )
        names = _names(db, space_ref(space)) if options.output == "table" and rows else []
    if not rows:
        return EXIT_NOT_FOUND
    show_rows(rows, names, as_one=True)
    return 0


def select(
    space: SpaceArgument,
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="A JSON array, or one value.")] = "",
    iterator: Annotated[str, typer.Option("--iterator", help="eq, req, all, lt, le, ge or gt.")] = "",
    index: IndexOption = "",
    limit: Annotated[int, typer.Option("--limit", min=0, max=UINT32_MAX, help="0: all.")] = 0,
    offset: Annotated[int, typer.Option("--offset", min=0, max=UINT32_MAX)] = 0,
    after: Annotated[str, typer.Option("--after", metavar="TUPLE", help="Continue behind it.")] = "",
    read: ReadOption = "confirmed",
) -> None:
    """Print tuples in the order of an index. System spaces too: _space _index _cluster _schema."""
    with client() as db:
        rows = db.select(
            space_ref(space),
            parse_key(key) if key else None,
            index=index or None,
            iterator=cast("IteratorName", iterator) if iterator else None,
            limit=limit or None,
            offset=offset,
            after=parse_tuple(after) if after else None,
            read=cast("ReadMode", read),
        )
        names = _names(db, space_ref(space)) if options.output == "table" and rows else []
    show_rows(rows, names)


def _names(db: Client, space: str | int) -> Sequence[str]:
    from synchro.errors import SynchroError

    try:
        return db.field_names(space)
    except SynchroError:
        return []


def show_rows(rows: Sequence[Sequence[Any]], names: Sequence[str], *, as_one: bool = False) -> None:
    """One JSON array a line, or a table if the fields have names."""
    if options.output != "table":
        print_value(stored(rows[0] if as_one else list(rows)))
        return
    if not names:
        for row in rows:
            print(to_json(stored(row)))
        return
    width = max(len(row) for row in rows)
    titles = [*names, *(str(i) for i in range(len(names) + 1, width + 1))][:width]
    print_table(titles, [[shown(value) for value in row] for row in rows])


# --- many -----------------------------------------------------------------------------------------------


def open_input(path: str) -> BinaryIO:
    if path == "-":
        if sys.stdin is None:
            raise usage("standard input is closed")
        return sys.stdin.buffer
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise usage(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_lines(file: BinaryIO, path: str, on_line: Callable[[int], None] = lambda _: None) -> Iterator[str]:
    """Lines of UTF-8 with their ends, the first with or without a mark at its start.

    on_line: told the number of each as soon as it is read. Raises `IllegalParams`."""
    number = 0
    while True:
        try:
            data = file.readline(LINE_BYTES_MAX + 1)
        except OSError as error:
            raise usage(f"cannot read {path} behind line {number}: {error.strerror}") from error
        if not data:
            return
        number += 1
        on_line(number)
        if len(data) > LINE_BYTES_MAX:
            raise usage(f"line {number} has more than {LINE_BYTES_MAX} bytes")
        try:
            yield data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise usage(
                f"line {number} is not UTF-8: byte {data[error.start]:#04x} at column {error.start + 1}; "
                "convert the file, as with: iconv -f latin1 -t utf8"
            ) from None


def read_op(line: str, number: int) -> Any:
    """One line of a `txn` file; keys it does not know are ignored, so `wal cat` prints such lines."""
    from synchro.client import ops as made

    value = parse(line, f"line {number}")
    if not isinstance(value, dict):
        raise usage(f"line {number} is not a JSON object; got {_short(line.strip())}")
    try:
        kind, space = value["op"], value["space"]
        if not isinstance(space, (str, int)) or isinstance(space, bool):
            raise usage(f"line {number}: space is a name or an id, not {space!r}")
        match kind:
            case "insert":
                return made.insert(space, value["tuple"])
            case "replace":
                return made.replace(space, value["tuple"])
            case "update":
                return made.update(space, value["key"], value["ops"], value.get("index"))
            case "upsert":
                return made.upsert(space, value["tuple"], value["ops"])
            case "delete":
                return made.delete(space, value["key"], value.get("index"))
    except KeyError as error:
        raise usage(f"line {number}: {error} is missing; got {_short(line.strip())}") from None
    raise usage(f"line {number}: op is insert, replace, update, upsert or delete, not {kind!r}")


def txn(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines; -: standard input.")],
    wait: WaitOption = "complete",
) -> None:
    """Run several operations as one transaction: {"op": "insert", "space": "s", "tuple": [1]} a line."""
    with open_input(file) as opened:
        lines = read_lines(opened, file)
        ops = [read_op(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not ops:
        raise usage(f"{file} has no operations; nothing was done")
    with client() as db:
        result = db.execute(ops, wait=cast("WaitMode", wait), timeout=options.timeout_s)
    show_result(result)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines or CSV; -: JSON lines on stdin.")],
    space: Annotated[str, typer.Option("--space", help="Where to.")],
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=BATCH_ROWS_MAX, help="Tuples in one transaction.")
    ] = BATCH_ROWS,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what exists.")] = False,
    header: Annotated[bool, typer.Option("--header", help="CSV: skip the first line.")] = False,
    from_line: Annotated[int, typer.Option("--from-line", min=1, help="Skip what is before it.")] = 1,
) -> int:
    """Load tuples: a JSON array a line, or CSV whose fields take the types of the space's format.

    One transaction after the other, in the order of the file: those before the transaction of a failed line
    are in, nothing else is.
    """
    from synchro.client import ops as made

    make = made.replace if replace else made.insert
    ref = space_ref(space)
    again = ["synchro", "import", file, "--space", space, "--batch", str(batch)]
    again += ["--replace"] * replace + ["--header"] * header
    done = Import(shlex.join(again), space, from_line)
    with client() as db, open_input(file) as opened:
        (known,) = db.spaces(ref)
        lines = read_lines(opened, file, done.on_line)
        rows = (
            _csv_rows(lines, done, [field.type for field in known.format], header)
            if file.endswith(".csv")
            else _json_rows(lines, done)
        )
        try:
            with progress(None, "loading") as advance:
                for some in _batches(((done.read, row, make(ref, row)) for row in rows), batch):
                    done.send(db, some)
                    advance(done.tuples)
        except SynchroError as error:
            done.explain(error)
            raise
        except KeyboardInterrupt:
            print(f"\ninterrupted: {done.summary()}\nnext:  {done.next_command()}", file=sys.stderr)
            return EXIT_INTERRUPTED
    if options.output == "table":
        print(f"{done.read} lines read, {done.tuples} tuples in space '{known.name}'")
    else:
        print_value({"space": known.name, "lines": done.read, "tuples": done.tuples})
    return 0


class Import:
    """How far an import is: the tuples of all lines from `first` to `last` are in."""

    def __init__(self, command: str, space: str, first: int = 1) -> None:
        self.command = command
        self.space = space
        self.first = first
        self.last = first - 1
        self.read = 0
        self.tuples = 0
        self.failed = 0
        """The first line that could not be taken in."""
        self._sent: Sequence[tuple[int, Any, Any]] = ()
        """The transaction that is under way: line, tuple and operation."""
        self._is_unknown = False
        """Nobody knows yet whether it is in."""

    def on_line(self, number: int) -> None:
        self.read = number

    @property
    def is_skipped(self) -> bool:
        """The line that was read last."""
        return self.read < self.first

    def send(self, db: Client, some: Sequence[tuple[int, Any, Any]]) -> None:
        self._sent, self._is_unknown = some, True
        db.execute([op for _, _, op in some], omit_tuples=True, timeout=max(options.timeout_s, 30.0))
        self._sent, self._is_unknown = (), False
        self.tuples += len(some)
        self.last = some[-1][0]

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
            return self._sent[int(field[4 : field.index("]")])][0]
        if found := error.details.get("new_tuple"):
            from synchro.storage.tuple_format import show_tuple

            for number, row, _ in self._sent:
                if show_tuple(tuple(row)) == found:
                    return number
        return self._sent[0][0]

    def summary(self) -> str:
        words = [f"{self.read} lines read, {self.tuples} tuples in space '{self.space}'"]
        if self.tuples:
            words.append(f"those of lines {self.first} to {self.last}")
        if self._is_unknown:
            words.append(f"outcome unknown for lines {self._sent[0][0]} to {self._sent[-1][0]}")
        elif self.failed:
            words.append(f"first failed line {self.failed}")
        return ", ".join(words) + "; nothing behind it was sent" * bool(self._sent or self.failed)

    def next_command(self) -> str:
        command = f"{self.command} --from-line {self.last + 1}"
        if self._is_unknown and "--replace" not in self.command:
            return (
                f"{command} --replace   (lines {self._sent[0][0]} to {self._sent[-1][0]} may be in already)"
            )
        return command if self._is_unknown or not self.failed else f"mend line {self.failed}, then: {command}"


def _json_rows(lines: Iterable[str], done: Import) -> Iterator[list[Any]]:
    for line in lines:
        if line.strip() and not done.is_skipped:
            yield parse_tuple(line, f"line {done.read}")


_NUMBERS: Final = {"unsigned": int, "integer": int, "double": float, "number": float}


def _csv_rows(lines: Iterable[str], done: Import, types: Sequence[str], header: bool) -> Iterator[list[Any]]:
    csv.field_size_limit(LINE_BYTES_MAX)
    reader = csv.reader(lines)
    try:
        if header:
            next(reader, None)
        for row in reader:
            if row and not done.is_skipped:
                yield [
                    _csv_field(text, types[i] if i < len(types) else "any", done.read)
                    for i, text in enumerate(row)
                ]
    except csv.Error as error:
        raise usage(f"line {done.read} is not CSV: {error}") from None


def _csv_field(text: str, kind: str, number: int) -> Any:
    if kind in ("array", "map"):
        return parse(text, f"line {number}")
    try:
        if kind in _NUMBERS:
            return _NUMBERS[kind](text) if text else None
        if kind == "boolean":
            return {"true": True, "false": False, "": None}[text.lower()]
        return text
    except (KeyError, ValueError):
        raise usage(f"line {number}: {_short(text)} is not of type {kind}") from None


def load(db: Client, ops: Iterable[Any], batch: int, total: int | None = None) -> int:
    """Write operations in batches, a few at a time; a bar on a terminal. Returns how many."""
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

    done = 0
    waiting: set[Future[int]] = set()

    def write(some: list[Any]) -> int:
        db.execute(some, omit_tuples=True, timeout=max(options.timeout_s, 30.0))
        return len(some)

    with progress(total, "loading") as advance, ThreadPoolExecutor(LOAD_THREADS) as pool:
        for some in _batches(ops, batch):
            waiting.add(pool.submit(write, some))
            if len(waiting) >= 2 * LOAD_THREADS:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    done += future.result()
                    advance(done)
        for future in waiting:
            done += future.result()
            advance(done)
    return done


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    some: list[Any] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


class progress:
    """A bar on a terminal, nothing elsewhere. Called with how much is done."""

    def __init__(self, total: int | None, text: str) -> None:
        self._total = total
        self._text = text
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> progress:
        if is_terminal():
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            )
            self._bar.start()
            self._task = self._bar.add_task(self._text, total=self._total)
        return self

    def __call__(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
