"""Make the tables of the pages on errors, configuration and faults from the code. `--check`: only compare.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from synchro.config.option import SIZE_MAX, Bytes, Effect, Option, Scope, Seconds, Section
from synchro.config.options import MAPS, TABLE, default_text
from synchro.errors import ALL_ERRORS, meaning_of
from synchro.failpoints import POINTS

ROOT_DIR: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT_DIR / "docs"


def errors_table() -> Iterator[str]:
    yield "| reason | tnt | gRPC status | exit code | what happened | what to do |"
    yield "|---|---|---|---|---|---|"
    for kind in ALL_ERRORS:
        commands = " or ".join(f"`{command}`" for command in kind.next_command.split("   or   ") if command)
        advice = kind.advice or commands or "-"
        cells = (kind.tnt_code or "-", kind.code.name, int(kind.exit_code), meaning_of(kind), advice)
        yield f"| {kind.reason} | " + " | ".join(map(str, cells)) + " |"


def _options(*effects: Effect, limits: bool) -> Iterator[Option]:
    """In the order of the table; `iproto` is told of in words."""
    for option in TABLE:
        is_limit = option.key.startswith("limits.")
        if option.effect in effects and is_limit is limits and not option.key.startswith("iproto."):
            yield option


def _shown_key(option: Option) -> str:
    return f"groups.G.replicasets.R.{option.key}" if option.scope is Scope.REPLICASET else option.key


def _shown_kind(option: Option) -> str:
    kind = option.kind
    if isinstance(kind, Bytes):
        return f"bytes {kind.low}.." + ("" if kind.high == SIZE_MAX else str(kind.high))
    return "seconds" if isinstance(kind, Seconds) else kind.text.replace("|", "\\|")


def _option_rows(options: Iterable[Option]) -> Iterator[str]:
    yield "| key | value | default | live | meaning |"
    yield "|---|---|---|---|---|"
    for option in options:
        live = "yes" if option.is_live else "no"
        default = default_text(option) or "-"
        meaning = f"{option.meaning}. No other value: {option.fixed}" if option.fixed else option.meaning
        yield f"| `{_shown_key(option)}` | {_shown_kind(option)} | {default} | {live} | {meaning} |"


def keys_table() -> Iterator[str]:
    yield from _option_rows(_options(Effect.ACTS, Effect.KEPT, limits=False))
    for key, section in MAPS.items():
        if isinstance(section.each, Section):
            yield f"| `{key}` | {section.each.meaning} | - | yes | {section.meaning} |"


def limits_table() -> Iterator[str]:
    yield from _option_rows(_options(Effect.ACTS, limits=True))


def later_table() -> Iterator[str]:
    yield "| key | value | meaning |"
    yield "|---|---|---|"
    for limits in (False, True):
        for option in _options(Effect.LATER, limits=limits):
            yield f"| `{option.key}` | {_shown_kind(option)} | {option.meaning} |"
    for key, section in MAPS.items():
        if isinstance(section.each, Option) and section.each.effect is not Effect.ACTS:
            yield f"| `{key}` | map from names | {section.meaning} |"


def failpoints_table() -> Iterator[str]:
    yield "| point | a place | value of `on` | by peer | when it is reached, or what goes wrong |"
    yield "|---|---|---|---|---|"
    for name, point in POINTS.items():
        default = "half of it" if point.default < 0 else f"{point.default:g}"
        value = f"{point.value}, default {default}" if point.default else point.value or "-"
        place, by_peer = ("yes" if is_so else "no" for is_so in (point.is_place, point.has_peer))
        yield f"| `{name}` | {place} | {value} | {by_peer} | {point.meaning} |"


TABLES: Final = {
    "errors": ("errors.md", errors_table),
    "keys": ("configuration.md", keys_table),
    "limits": ("configuration.md", limits_table),
    "later": ("configuration.md", later_table),
    "failpoints": ("fault-injection.md", failpoints_table),
}


def page(name: str) -> tuple[Path, str]:
    """The file that holds a table, and its text with the table made anew."""
    file, make = TABLES[name]
    path = DOCS / file
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"{path}: no {begin.strip()} ... {end}")
    return path, f"{head}{begin}" + "".join(f"{line}\n" for line in make()) + f"{end}{tail}"


def main() -> int:
    stale = 0
    for name in TABLES:
        path, text = page(name)
        if path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv:
            print(
                f"{path}: the table {name!r} is not current. next: python tools/reference.py", file=sys.stderr
            )
            stale += 1
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
