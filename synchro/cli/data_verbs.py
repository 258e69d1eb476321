"""Verbs that read and write tuples."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from synchro.cli.connection import client, options
from synchro.cli.formatting import is_terminal, print_table, print_value, to_json, usage

if TYPE_CHECKING:
    from synchro.client import Client, Result

SpaceArgument = Annotated[str, typer.Argument(metavar="SPACE", help="Name, or id.")]
TupleArgument = Annotated[str, typer.Argument(metavar="TUPLE", help="A JSON array: '[1, \"a\"]'.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="A JSON array: '[1]'; or one value.")]
OpsArgument = Annotated[str, typer.Argument(metavar="OPS", help='\'[["=", 2, "b"]]\', fields from 1.')]
WaitOption = Annotated[str, typer.Option("--wait", help="complete, submit or none.")]
IndexOption = Annotated[str, typer.Option("--index", help="Name of the index.")]
ReadOption = Annotated[str, typer.Option("--read", help="confirmed or linearizable.")]
BATCH_ROWS: Final = 500
IMPORT_THREADS: Final = 4


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
    try:
        return json.loads(text)
    except ValueError as error:
        raise usage(f"the {what} is not JSON: {error}; got {text!r}") from None


def parse_tuple(text: str) -> list[Any]:
    value = parse(text, "tuple")
    if not isinstance(value, list):
        raise usage(f"a tuple is a JSON array, as '[1, \"a\"]'; got {text!r}")
    return value


def parse_key(text: str) -> list[Any]:
    """A JSON array, a JSON value, or a word as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    return value if isinstance(value, list) else [value]


def space_ref(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _write(op_of: Any, wait: str) -> None:
    with client() as db:
        result = db.execute([op_of], wait=wait, timeout=options.timeout_s)
    show_result(result)


def show_result(result: Result) -> None:
    txn = f"{result.txn[0]}:{result.txn[1]}" if result.txn else None
    if options.output != "table":
        value: dict[str, Any] = {"txn": txn, "is_sync": result.is_sync, "duplicate": result.duplicate}
        if len(result.tuples) == 1:
            value["tuple"] = result.tuples[0]
        else:
            value["tuples"] = list(result.tuples)
        print_value(value)
        return
    for found in result.tuples:
        print("-" if found is None else to_json(found))
    if txn:
        print(f"txn {txn}{'  sync' if result.is_sync else '  async'}")


def insert(space: SpaceArgument, tuple: TupleArgument, wait: WaitOption = "complete") -> None:
    """Add a tuple; refused if its key exists."""
    row = parse_tuple(tuple)
    from synchro.client import requests

    _write(requests.insert(space_ref(space), row), wait)


def replace(space: SpaceArgument, tuple: TupleArgument, wait: WaitOption = "complete") -> None:
    """Add a tuple, or replace the one with the same primary key."""
    row = parse_tuple(tuple)
    from synchro.client import requests

    _write(requests.replace(space_ref(space), row), wait)


def update(
    space: SpaceArgument,
    key: KeyArgument,
    ops: OpsArgument,
    index: IndexOption = "",
    wait: WaitOption = "complete",
) -> None:
    """Change fields of the tuple with this key."""
    changes = parse(ops, "list of operations")
    from synchro.client import requests

    _write(requests.update(space_ref(space), parse_key(key), changes, index or None), wait)


def upsert(
    space: SpaceArgument, tuple: TupleArgument, ops: OpsArgument, wait: WaitOption = "complete"
) -> None:
    """Change the tuple with this primary key, or add it."""
    row, changes = parse_tuple(tuple), parse(ops, "list of operations")
    from synchro.client import requests

    _write(requests.upsert(space_ref(space), row, changes), wait)


def delete(
    space: SpaceArgument, key: KeyArgument, index: IndexOption = "", wait: WaitOption = "complete"
) -> None:
    """Remove the tuple with this key, and print it."""
    from synchro.client import requests

    _write(requests.delete(space_ref(space), parse_key(key), index or None), wait)


def get(
    space: SpaceArgument, key: KeyArgument, index: IndexOption = "", read: ReadOption = "confirmed"
) -> int:
    """Print the tuple with this key. Exit code 7 if there is none."""
    from synchro.cli.formatting import EXIT_NOT_FOUND

    with client() as db:
        rows = db.select(
            space_ref(space), parse_key(key), index=index or None, iterator="EQ", limit=1, read=read
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
    limit: Annotated[int, typer.Option("--limit", help="0: all.")] = 0,
    offset: Annotated[int, typer.Option("--offset")] = 0,
    after: Annotated[str, typer.Option("--after", metavar="TUPLE", help="Continue behind it.")] = "",
    read: ReadOption = "confirmed",
) -> None:
    """Print tuples in the order of an index. System spaces too: _space _index _cluster _schema."""
    with client() as db:
        rows = db.select(
            space_ref(space),
            parse_key(key) if key else None,
            index=index or None,
            iterator=iterator or None,
            limit=limit or None,
            offset=offset,
            after=parse_tuple(after) if after else None,
            read=read,
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
        print_value(rows[0] if as_one else list(rows))
        return
    if not names:
        for row in rows:
            print(to_json(row))
        return
    width = max(len(row) for row in rows)
    titles = [*names, *(str(i) for i in range(len(names) + 1, width + 1))][:width]
    print_table(titles, [[_cell(value) for value in row] for row in rows])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


# --- many -----------------------------------------------------------------------------------------------


def open_input(path: str) -> TextIO:
    if path == "-":
        return sys.stdin
    try:
        return open(path, encoding="utf-8", newline="")
    except OSError as error:
        raise usage(f"cannot read {path}: {error.strerror}") from error


def read_op(line: str, number: int) -> Any:
    """One line of a `txn` file; keys it does not know are ignored, so `wal cat` prints such lines."""
    from synchro.client import requests

    value = parse(line, f"line {number}")
    try:
        kind, space = value["op"], value["space"]
        match kind:
            case "insert":
                return requests.insert(space, value["tuple"])
            case "replace":
                return requests.replace(space, value["tuple"])
            case "update":
                return requests.update(space, value["key"], value["ops"], value.get("index"))
            case "upsert":
                return requests.upsert(space, value["tuple"], value["ops"])
            case "delete":
                return requests.delete(space, value["key"], value.get("index"))
    except (KeyError, TypeError) as error:
        raise usage(f"line {number}: {error} is missing; got {line.strip()!r}") from None
    raise usage(f"line {number}: op is insert, replace, update, upsert or delete, not {kind!r}")


def txn(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines; -: standard input.")],
    wait: WaitOption = "complete",
) -> None:
    """Run several operations as one transaction: {"op": "insert", "space": "s", "tuple": [1]} a line."""
    with open_input(file) as lines:
        ops = [read_op(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not ops:
        raise usage(f"{file} has no operations; nothing was done")
    with client() as db:
        result = db.execute(ops, wait=wait, timeout=options.timeout_s)
    show_result(result)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines or CSV; -: JSON lines on stdin.")],
    space: Annotated[str, typer.Option("--space", help="Where to.")],
    batch: Annotated[int, typer.Option("--batch", help="Tuples in one transaction.")] = BATCH_ROWS,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what exists.")] = False,
    header: Annotated[bool, typer.Option("--header", help="CSV: skip the first line.")] = False,
) -> None:
    """Load tuples: a JSON array a line, or CSV whose fields take the types of the space's format."""
    if not 1 <= batch <= 1000:
        raise usage("--batch is 1 to 1000, the largest transaction")
    from synchro.client import requests

    make = requests.replace if replace else requests.insert
    with client() as db, open_input(file) as lines:
        ref = space_ref(space)
        (known,) = db.spaces(ref)
        rows = (
            _csv_rows(lines, [field.type for field in known.format], header)
            if file.endswith(".csv")
            else _json_rows(lines)
        )
        done = load(db, (make(ref, row) for row in rows), batch)
    if options.output == "table":
        print(f"{done} tuples in space '{known.name}'")
    else:
        print_value({"space": known.name, "tuples": done})


def _json_rows(lines: Iterable[str]) -> Iterator[list[Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = parse(line, f"line {number}")
            if not isinstance(row, list):
                raise usage(f"line {number} is not a JSON array")
            yield row


_NUMBERS: Final = {"unsigned": int, "integer": int, "double": float, "number": float}


def _csv_rows(lines: Iterable[str], types: Sequence[str], header: bool) -> Iterator[list[Any]]:
    reader = csv.reader(lines)
    if header:
        next(reader, None)
    for row in reader:
        if row:
            yield [
                _csv_field(text, types[i] if i < len(types) else "any", reader.line_num)
                for i, text in enumerate(row)
            ]


def _csv_field(text: str, kind: str, number: int) -> Any:
    try:
        if kind in _NUMBERS:
            return _NUMBERS[kind](text) if text else None
        if kind == "boolean":
            return {"true": True, "false": False, "": None}[text.lower()]
        return json.loads(text) if kind in ("array", "map") else text
    except (KeyError, ValueError):
        raise usage(f"line {number}: {text!r} is not of type {kind}") from None


def load(db: Client, ops: Iterable[Any], batch: int, total: int | None = None) -> int:
    """Write operations in batches, a few at a time; a bar on a terminal. Returns how many."""
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

    done = 0
    waiting: set[Future[int]] = set()

    def write(some: list[Any]) -> int:
        db.execute(some, omit_tuples=True, timeout=max(options.timeout_s, 30.0))
        return len(some)

    with progress(total, "loading") as advance, ThreadPoolExecutor(IMPORT_THREADS) as pool:
        for some in _batches(ops, batch):
            waiting.add(pool.submit(write, some))
            if len(waiting) >= 2 * IMPORT_THREADS:
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
