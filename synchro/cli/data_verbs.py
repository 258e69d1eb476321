"""Verbs that read and write tuples."""

from __future__ import annotations

import json
import math
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import click

from synchro import json_form
from synchro.cli.arguments import argument, complete_file, space_argument
from synchro.cli.connection import client, options
from synchro.cli.formatting import (
    EXIT_NOT_FOUND,
    print_table,
    print_value,
    shown,
    stored,
    to_json,
    usage,
)
from synchro.cli.program import program
from synchro.errors import SynchroError

if TYPE_CHECKING:
    from synchro.client import Client, Op, Result
    from synchro.client.requests import IteratorName, ReadMode, WaitMode

tuple_argument: Final = argument("tuple", "TUPLE", "A JSON array: '[1, \"a\"]'.")
key_argument: Final = argument("key", "KEY", "A JSON array: '[1]'; or one value.")
ops_argument: Final = argument("ops", "OPS", '\'[["=", 2, "b"]]\', fields from 1.')
wait_option: Final = click.option(
    "--wait",
    type=click.Choice(["complete", "submit", "none"]),
    default="complete",
    help="Until it is decided, until it is in the queue, or for nothing.",
)
sync_option: Final = click.option(
    "--sync", is_flag=True, help="Wait for a quorum, whatever spaces it changes."
)
must_match_option: Final = click.option(
    "--must-match", is_flag=True, help="Refuse it if there is no tuple with this key."
)
if_option: Final = click.option(
    "--if",
    "wanted",
    metavar="FIELDS",
    default="",
    help='Refuse it unless these are equal: \'{"owner": "a"}\'.',
)
index_option: Final = click.option("--index", default="", help="Name of the index.")
read_option: Final = click.option(
    "--read",
    type=click.Choice(["confirmed", "linearizable", "read_committed"]),
    default="confirmed",
    help="What one instance knows to be decided; what was decided anywhere before the call; or what is "
    "decided, and what waits for its quorum and may be rolled back.",
)
UINT32_MAX: Final = 2**32 - 1
SHOWN_CHARS_MAX: Final = 200
"""Of an input that is refused."""
LINE_BYTES_MAX: Final = 16 << 20
"""Of an import: more than any tuple; a file without ends of lines must not fill the memory."""


def parse(text: str, what: str) -> Any:
    """JSON, with the forms for what JSON lacks (ADR 24)."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_float=_float)
    except RecursionError:
        raise usage(f"{_the(what)} is nested too deep") from None
    except ValueError as error:
        raise usage(f"{_the(what)} is not JSON: {error}; got {short(text.strip())}") from None


def _the(what: str) -> str:
    return what if what.startswith("line ") else f"the {what}"


def short(text: str) -> str:
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
        raise usage(f"{_the(what)} is not a JSON array, as '[1, \"a\"]'; got {short(text.strip())}")
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


def _write(op: Op, wait: WaitMode, is_sync: bool, condition: Op | None = None) -> None:
    ops = [op] if condition is None else [condition, op]
    with client() as db:
        result = db.execute(ops, wait=wait, timeout=options.timeout_s, is_sync=is_sync)
    show_result(result, hidden=len(ops) - 1)


def _if_equal(space: str | int, key: Sequence[Any], wanted: str, index: str) -> Op | None:
    """The condition of `--if`; None without it."""
    if not wanted:
        return None
    from synchro.client import ops as made

    fields = parse(wanted, "object of fields")
    if not isinstance(fields, (dict, list)):
        raise usage(f'--if takes an object of fields, as \'{{"owner": "a"}}\'; got {short(wanted)}')
    return made.if_equal(space, key, _fields(fields), index or None)


def _fields(value: Any, where: str = "") -> dict[str | int, Any] | list[Any]:
    """An object of JSON has names only; those that are numbers stand for numbers of fields."""
    from synchro.client.model import is_number

    if isinstance(value, dict):
        return {
            int(name) if is_number(name.removeprefix("-")) else name: item for name, item in value.items()
        }
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise usage(f"{where}fields are an object, or a list of [field, value]; got {short(to_json(value))}")
    return value


def show_result(result: Result, *, hidden: int = 0) -> None:
    """hidden: how many operations at the start are not those of the caller."""
    tuples = result.tuples[hidden:]
    txn = f"{result.txn[0]}:{result.txn[1]}" if result.txn else None
    if options.output != "table":
        value: dict[str, Any] = {"txn": txn, "is_sync": result.is_sync, "duplicate": result.duplicate}
        if len(tuples) == 1:
            value["tuple"] = stored(tuples[0])
        else:
            value["tuples"] = stored(list(tuples))
        print_value(value)
        return
    for found in tuples:
        print("-" if found is None else to_json(stored(found)))
    if txn:
        print(f"txn {txn}{'  sync' if result.is_sync else '  async'}")


@program.command("insert")
@space_argument()
@tuple_argument
@wait_option
@sync_option
def insert(space: str, tuple: str, wait: WaitMode, sync: bool) -> None:
    """Add a tuple; refused if its key exists."""
    row = parse_tuple(tuple)
    from synchro.client import ops as made

    _write(made.insert(space_ref(space), row), wait, sync)


@program.command("replace")
@space_argument()
@tuple_argument
@wait_option
@sync_option
def replace(space: str, tuple: str, wait: WaitMode, sync: bool) -> None:
    """Add a tuple, or replace the one with the same primary key."""
    row = parse_tuple(tuple)
    from synchro.client import ops as made

    _write(made.replace(space_ref(space), row), wait, sync)


@program.command("update")
@space_argument()
@key_argument
@ops_argument
@index_option
@must_match_option
@if_option
@wait_option
@sync_option
def update(
    space: str, key: str, ops: str, index: str, must_match: bool, wanted: str, wait: WaitMode, sync: bool
) -> None:
    """Change fields of the tuple with this key."""
    changes = parse(ops, "list of operations")
    from synchro.client import ops as made

    where, parts = space_ref(space), parse_key(key)
    op = made.update(where, parts, changes, index or None, must_match=must_match)
    _write(op, wait, sync, _if_equal(where, parts, wanted, index))


@program.command("upsert")
@space_argument()
@tuple_argument
@ops_argument
@wait_option
@sync_option
def upsert(space: str, tuple: str, ops: str, wait: WaitMode, sync: bool) -> None:
    """Change the tuple with this primary key, or add it."""
    row, changes = parse_tuple(tuple), parse(ops, "list of operations")
    from synchro.client import ops as made

    _write(made.upsert(space_ref(space), row, changes), wait, sync)


@program.command("delete")
@space_argument()
@key_argument
@index_option
@must_match_option
@if_option
@wait_option
@sync_option
def delete(
    space: str, key: str, index: str, must_match: bool, wanted: str, wait: WaitMode, sync: bool
) -> None:
    """Remove the tuple with this key, and print it."""
    from synchro.client import ops as made

    where, parts = space_ref(space), parse_key(key)
    op = made.delete(where, parts, index or None, must_match=must_match)
    _write(op, wait, sync, _if_equal(where, parts, wanted, index))


@program.command("get")
@space_argument()
@key_argument
@index_option
@read_option
def get(space: str, key: str, index: str, read: ReadMode) -> int:
    """Print the tuple with this key. Exit code 7 if there is none."""
    with client() as db:
        rows = db.select(
            space_ref(space), parse_key(key), index=index or None, iterator="EQ", limit=1, read=read
        )
        names = _names(db, space_ref(space)) if options.output == "table" and rows else []
    if not rows:
        return EXIT_NOT_FOUND
    show_rows(rows, names, as_one=True)
    return 0


@program.command("select")
@space_argument()
@argument("key", "[KEY]", "A JSON array, or one value.", is_optional=True)
@click.option("--iterator", default="", help="eq, req, all, lt, le, ge or gt.")
@index_option
@click.option("--limit", metavar="N", type=click.IntRange(0, UINT32_MAX), default=0, help="0: all.")
@click.option(
    "--offset", metavar="N", type=click.IntRange(0, UINT32_MAX), default=0, help="Leave out the first ones."
)
@click.option("--after", metavar="TUPLE", default="", help="Continue behind it.")
@read_option
def select(
    space: str, key: str, iterator: str, index: str, limit: int, offset: int, after: str, read: ReadMode
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
            read=read,
        )
        names = _names(db, space_ref(space)) if options.output == "table" and rows else []
    show_rows(rows, names)


def _names(db: Client, space: str | int) -> Sequence[str]:
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


def _raise(error: SynchroError) -> None:
    raise error


def read_lines(
    file: BinaryIO,
    path: str,
    on_line: Callable[[int], None] = lambda _: None,
    on_bad: Callable[[SynchroError], None] = _raise,
) -> Iterator[str]:
    """Lines of UTF-8 with their ends, the first with or without a mark at its start.

    on_line: told the number of each as soon as it is read. on_bad: told of each that is not UTF-8; if it
    returns the line is left out. Raises `IllegalParams`."""
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
            line = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            likely = "utf-16" if number == 1 and data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "latin1"
            on_bad(
                usage(
                    f"line {number} is not UTF-8: byte {data[error.start]:#04x} at column {error.start + 1}; "
                    f"convert the file, as with: iconv -f {likely} -t utf8"
                )
            )
        else:
            yield line


def read_op(line: str, number: int) -> tuple[dict[str, Any], Any]:
    """One line of a `txn` file, and the operation that it is; keys it does not know are ignored, so `wal cat`
    prints such lines."""
    from synchro.client import ops as made

    value = parse(line, f"line {number}")
    if not isinstance(value, dict):
        raise usage(f"line {number} is not a JSON object; got {short(line.strip())}")
    return value, _op_of(value, line, number, made)


def _op_of(value: dict[str, Any], line: str, number: int, made: Any) -> Any:
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
                key, ops, must = value["key"], value["ops"], _is_true(value, "must_match", number)
                return made.update(space, key, ops, value.get("index"), must_match=must)
            case "upsert":
                return made.upsert(space, value["tuple"], value["ops"])
            case "delete":
                must = _is_true(value, "must_match", number)
                return made.delete(space, value["key"], value.get("index"), must_match=must)
            case "if_absent":
                return made.if_absent(space, value["key"], value.get("index"))
            case "if_present":
                return made.if_present(space, value["key"], value.get("index"))
            case "if_equal":
                return made.if_equal(
                    space, value["key"], _fields(value["fields"], f"line {number}: "), value.get("index")
                )
    except KeyError as error:
        raise usage(f"line {number}: {error} is missing; got {short(line.strip())}") from None
    raise usage(
        f"line {number}: op is insert, replace, update, upsert, delete, if_absent, if_present or if_equal, "
        f"not {kind!r}"
    )


def _is_true(value: dict[str, Any], name: str, number: int) -> bool:
    found = value.get(name, False)
    if not isinstance(found, bool):
        raise usage(f"line {number}: {name} is true or false, not {found!r}")
    return found


@program.command("txn")
@argument("file", "FILE", "JSON lines; -: standard input.", shell_complete=complete_file)
@wait_option
@sync_option
def txn(file: str, wait: WaitMode, sync: bool) -> None:
    """Run several operations as one transaction: {"op": "insert", "space": "s", "tuple": [1]} a line.
    Conditions are lines too: {"op": "if_equal", "space": "s", "key": [1], "fields": {"owner": "a"}}."""
    with open_input(file) as opened:
        lines = read_lines(opened, file)
        ops = [read_op(line, number)[1] for number, line in enumerate(lines, 1) if line.strip()]
    if not ops:
        raise usage(f"{file} has no operations; nothing was done")
    with client() as db:
        result = db.execute(ops, wait=wait, timeout=options.timeout_s, is_sync=sync)
    show_result(result)
