"""What is printed: tables, values, times, errors. Plain text unless the output is a terminal."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from synchro import errors, json_form
from synchro.cli.connection import options
from synchro.cli.reach import again
from synchro.errors import Exit, SynchroError

EXIT_FAILED: Final = int(Exit.FAILED)
EXIT_USAGE: Final = int(Exit.USAGE)
EXIT_NO_CONNECTION: Final = int(Exit.NO_CONNECTION)
EXIT_UNKNOWN: Final = int(Exit.UNKNOWN)
EXIT_CONFLICT: Final = int(Exit.CONFLICT)
EXIT_NOT_FOUND: Final = int(Exit.NOT_FOUND)
EXIT_BUG: Final = int(Exit.BUG)
EXIT_INTERRUPTED: Final = int(Exit.INTERRUPTED)
SCREEN_WIDTH: Final = 80
"""Of a terminal that does not say how wide it is."""
YAML_WIDTH: Final = 200


# --- errors ---------------------------------------------------------------------------------------------


def exit_code(error: SynchroError) -> int:
    """Exit code of the command line for this error."""
    return EXIT_BUG if shown_reason(error) == "BUG" else int(_class_of(error).exit_code)


def _class_of(error: SynchroError) -> type[SynchroError]:
    """The one that its reason names, for what the command line, or a process that ended, says by itself."""
    kind = type(error)
    return errors.BY_REASON.get(shown_reason(error), kind) if kind is SynchroError else kind


def shown_reason(error: SynchroError) -> str:
    if error.reason in ("INTERNAL", "OUTCOME_UNKNOWN"):
        return error.details.get("reason", error.reason)
    return error.reason


def next_command(error: SynchroError) -> str:
    if command := error.details.get("next_command"):
        return command
    if error.reason == "CANNOT_CONNECT" and "tls" in error.details:
        return "synchro --cacert FILE --cert FILE --key FILE ...   (docs/security.md)"
    open_ends = ("SYNC_TIMEOUT", "REQUEST_EXPIRED", "LINEARIZABLE_PENDING")
    if error.reason == "OUTCOME_UNKNOWN" or shown_reason(error) in open_ends:
        known = error.details.get("txn") or error.details.get("request_id")
        return f"synchro wait {known}   or   synchro queue" if known else "synchro queue"
    if shown_reason(error) == "READ_ONLY" and error.details.get("leader_name"):
        return (
            f"synchro -e {error.details.get('leader_address')} ...   ({error.details['leader_name']} leads)"
        )
    if error.reason == "CONDITION_FAILED" and (look := _look_at(error.details)):
        return look
    if error.reason == "TUPLE_FOUND" and "space" in error.details:
        return _beside_tuple(error.details)
    return _class_of(error).next_command


def _look_at(details: Mapping[str, str]) -> str:
    """The command that shows the tuple of a condition; "" if its key was too long to be told."""
    space, key, index = (details.get(name, "") for name in ("space", "key", "index"))
    if not key.endswith("]"):
        return ""
    by = "" if index == "primary" else f" --index {shlex.quote(index)}"
    return f"synchro get {shlex.quote(space)} {shlex.quote(key)}{by}"


def _beside_tuple(details: Mapping[str, str]) -> str:
    """What can be done about a tuple whose key is taken: put another one in its place, or look at it. A
    replace would be refused where it is not the primary key that is taken."""
    space, new = shlex.quote(details["space"]), details.get("new_tuple", "")
    look = _look_at({"index": "primary", "key": "", **details}) or f"synchro select {space}"
    if not look.startswith("synchro get ") or details.get("index") != "primary" or not new.endswith("]"):
        return look
    return f"synchro replace {space} {shlex.quote(new)}   or   {look}"


def on_screen(text: str) -> str:
    """The text, in which all that a terminal would obey or cannot show stands as JSON writes it.
    Names, tuples and words of a peer may hold such. Ends of lines stay."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def split_advice(message: str) -> tuple[str, str]:
    """What happened, and what whoever says so advises; "" if nothing."""
    text, found, command = message.rpartition(". Next: ")
    return (text, command) if found and "\n" not in command else (message, "")


def print_error(error: SynchroError) -> None:
    if options.output in ("json", "jsonl"):
        report = {
            "code": exit_code(error),
            "reason": shown_reason(error),
            "message": error.message,
            "details": dict(error.details),
        }
        if command := again(next_command(error)):
            report["next"] = command
        print(json.dumps(report), file=sys.stderr)
        return
    message, command = split_advice(on_screen(error.message))
    command = on_screen(again(command or next_command(error)))
    print(f"error: {shown_reason(error)}: {message}", file=sys.stderr)
    if command and "\nnext:" not in message:
        print(f"next:  {command}", file=sys.stderr)
    if options.verbose:
        for key, value in error.details.items():
            print(f"       {key}={on_screen(str(value))}", file=sys.stderr)


def print_unexpected(error: Exception) -> int:
    """Any other exception, as one line. Returns the exit code."""
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        print_error(errors.SynchroError(f"{error.strerror}{place}", reason="OS"))
        return EXIT_FAILED
    text = " ".join(str(error).split()) or "no more is known"
    bug = errors.SynchroError(
        f"{type(error).__name__}: {text}",
        reason="BUG",
        next_command="report this as a bug, with the command and what -v adds",
    )
    print_error(bug)
    if options.verbose:
        import traceback

        traceback.print_exception(error)
    return EXIT_BUG


# --- values ---------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A tree such as `box.info` for JSON or YAML: keys of maps are text, or plain values in YAML."""
    native = options.output == "yaml"
    if isinstance(value, Mapping):
        keys = (str, int, float, bytes, type(None)) if native else str
        return {
            key if isinstance(key, keys) else str(key): plain(
                dict.__getitem__(value, key) if type(value) is dict else value[key]
            )
            for key in value
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return json_form.encode(value, native=native)


def stored(value: Any) -> Any:
    """A tuple, or a field of one, for JSON or YAML; nothing is lost (ADR 24)."""
    return json_form.encode(value, native=options.output == "yaml")


def is_unicode() -> bool:
    """Whether standard output takes every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def to_json(value: Any) -> str:
    """One line. Characters that a terminal would obey, or that it cannot show, are escaped."""
    value = plain(value)
    text = json.dumps(value, ensure_ascii=not is_unicode(), allow_nan=False)
    return text if text.isprintable() else json.dumps(value, allow_nan=False)


def print_value(value: Any) -> None:
    """A tree or a single value, as `-o` says; YAML if it says nothing."""
    value = plain(value)
    if options.output == "jsonl" and isinstance(value, list):
        for item in value:
            print(to_json(item))
    elif options.output in ("json", "jsonl"):
        print(to_json(value))
    elif isinstance(value, (dict, list)):
        import yaml

        text = yaml.safe_dump(
            value,
            default_flow_style=None,
            sort_keys=False,
            width=screen_width() or YAML_WIDTH,
            allow_unicode=is_unicode(),
        )
        print(text, end="")
    else:
        print(shown(value))


def shown(value: Any) -> str:
    """A single value for people: text as it is, if a terminal can show it."""
    if text := json_form.text_of(value):
        return text
    return value if isinstance(value, str) and value.isprintable() else to_json(stored(value))


def print_records(columns: Sequence[str], rows: Iterable[Sequence[str]], records: Sequence[Any]) -> None:
    """A table for people, `records` for machines. columns: titles."""
    if options.output == "table":
        print_table(columns, rows)
    else:
        print_value(list(records))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for line in table_lines(columns, rows):
        print(line)


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> list[str]:
    """Columns two blanks apart, one behind an ID; a row may have one cell more, for a remark.

    width: of the screen; None: as `screen_width` says. What is wider is folded, nothing is left out.
    """
    cells = [list(columns), *([on_screen(str(cell)) for cell in row] for row in rows)]
    count = len(columns)
    widths = [max(len(row[i]) for row in cells) + (1 if columns[i] == "ID" else 2) for i in range(count)]
    lines = []
    for row in cells:
        line = "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        lines.append("   ".join([line, *row[count:]]))
    width = width or screen_width()
    if width is not None and max(map(len, lines)) > width:
        return _folded(cells, count, width)
    return lines


def screen_width() -> int | None:
    """Characters in a line of the terminal; None: the output is none, and lines are as long as they are."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and len(given) <= 5 and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or SCREEN_WIDTH
    except OSError:
        return SCREEN_WIDTH


def _folded(cells: Sequence[Sequence[str]], count: int, width: int) -> list[str]:
    """The table of these cells, titles first, within this width; remarks stand below it."""
    import io

    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    columns = [[row[i] for row in cells] for i in range(count)]
    # Names and addresses stay whole, as long as what has blanks gets room for its longest word beside them.
    is_whole = [all(" " not in cell for cell in column) for column in columns]
    needed = sum(
        2 + max(len(cell) if whole else max(map(len, cell.split() or [""])) for cell in column)
        for column, whole in zip(columns, is_whole, strict=True)
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title, whole in zip(cells[0], is_whole, strict=True):
        table.add_column(Text(title), overflow="fold", no_wrap=whole and needed <= width + 2)
    for row in cells[1:]:
        table.add_row(*(Text(cell) for cell in row[:count]))
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(table)
    named = list(cells[0]).index("NAME") if "NAME" in cells[0] else 0
    for row in cells[1:]:
        if row[count:]:
            remark = Text(f"{row[named]}: {'   '.join(row[count:])}", overflow="fold")
            console.print(Padding(remark, (0, 0, 0, 2)))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def seconds(value: float | None) -> str:
    """A time in the unit that suits it."""
    if value is None:
        return "-"
    if value < 0.1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def size(value: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value} B"


def vclock(clock: Mapping[Any, int]) -> str:
    """Without the component of local rows."""
    return "{" + ", ".join(f"{i}: {lsn}" for i, lsn in sorted(clock.items()) if int(i)) + "}"


def ids(values: Iterable[int]) -> str:
    return "{" + ", ".join(str(value) for value in sorted(values)) + "}"


def is_terminal() -> bool:
    return sys.stdout.isatty() and options.color


def usage(message: str) -> errors.IllegalParams:
    return errors.IllegalParams(message)
