"""Make the tables in docs/errors.md and docs/configuration.md from the code. `--check`: only compare.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from synchro.config.option import SIZE_MAX, Bytes, Effect, Option, Scope, Seconds, Section
from synchro.config.options import MAPS, TABLE, default_text
from synchro.errors import ALL_ERRORS
from synchro.rpc import status

ROOT_DIR: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT_DIR / "docs"

MEANINGS: Final = {
    "READ_ONLY": (
        "the instance does not accept writes; `ro_reason` says why",
        "send it to the leader in the hint",
    ),
    "NO_LEADER": ("no leader is known at the moment; nothing was done", "retry"),
    "LOADING": ("the instance is still starting, or stopping; `stage` says how far it is", "retry"),
    "SYNC_QUEUE_UNCLAIMED": ("a synchronous write, but nobody owns the queue", "`synchro promote`"),
    "SYNC_QUEUE_FOREIGN": ("the queue is owned by another instance", "send it to the owner in the hint"),
    "SYNC_QUEUE_FULL": (
        "too much waits for a quorum; nothing was written",
        "back off, retry; see `synchro queue`",
    ),
    "WAL_QUEUE_FULL": (
        "too much waits for the disk of the instance; nothing was written",
        "back off, retry; look at its disk",
    ),
    "SYNC_TIMEOUT": (
        "not decided in time, the text says why; the transaction stays, **outcome unknown**",
        "`synchro wait ORIGIN:LSN`",
    ),
    "SYNC_ROLLBACK": (
        "a new owner of the queue dropped the transaction; it never happened",
        "may be retried",
    ),
    "REQUEST_EXPIRED": (
        "a retry so late that its first attempt is forgotten; nothing was executed now, **outcome unknown**",
        "look at the data",
    ),
    "TRANSACTION_CONFLICT": (
        "it rested on a change that was rolled back; nothing was done",
        "may be retried",
    ),
    "WAL_IO": (
        "the log could not be written (disk full); nothing was written",
        "free space; retry elsewhere",
    ),
    "DISK": (
        "a sync failed, the process leaves; **outcome unknown** for what was on its way",
        "next endpoint",
    ),
    "QUORUM_WAIT": ("fewer registered instances than the quorum needs", "start more instances; retry"),
    "LINEARIZABLE_QUORUM": ("a linearizable read found no quorum", "retry, or read `confirmed`"),
    "INTERFERING_PROMOTE": (
        "another instance claimed the queue meanwhile",
        "look who owns it, promote again",
    ),
    "INTERFERING_ELECTIONS": ("another instance was elected meanwhile", "look who leads, promote again"),
    "OLD_TERM": ("the term has moved on", "promote again"),
    "IN_ANOTHER_PROMOTE": ("a promote or demote is running here already", "wait for it"),
    "ELECTION_DISABLED": ("needs elections, but `election_mode` is off", "change the configuration"),
    "NO_ELECTION_QUORUM": ("too few instances are connected to elect", "`synchro status`"),
    "NOT_LEADER": ("only the leader may do this", "send it to the leader in the hint"),
    "TIMED_OUT": (
        "promote, demote, snapshot or barrier did not finish in time; it may still",
        "`synchro info`",
    ),
    "TUPLE_FOUND": ("a unique index has this key; both tuples are in the details", "-"),
    "SPACE_EXISTS": ("a space of this name exists", "`--if-not-exists`"),
    "INDEX_EXISTS": ("an index of this name exists", "-"),
    "NO_SUCH_SPACE": ("no space of this name", "`synchro space list`"),
    "NO_SUCH_INDEX": ("no index of this name", "`synchro space show`"),
    "FIELD_TYPE": ("a field has another type than the format or index says", "-"),
    "FIELD_MISSING": ("the tuple is too short for the format or an index", "-"),
    "WRONG_FORMAT": ("malformed msgpack, a tuple that is no array, a bad definition", "-"),
    "KEY_PART_TYPE": ("a part of the key has the wrong type", "-"),
    "EXACT_MATCH": ("the key needs all parts of the index", "-"),
    "KEY_PART_COUNT": ("the key has more parts than the index", "-"),
    "MORE_THAN_ONE_TUPLE": ("`get` found more than one tuple", "use `select`"),
    "ITERATOR_TYPE": ("the index does not support this iterator", "-"),
    "UNSUPPORTED_INDEX_FEATURE": ("the index cannot do this", "-"),
    "NO_SUCH_FIELD": ("an update names a field that the tuple does not have", "-"),
    "UPDATE_ARG_TYPE": ("an update operation got an argument of the wrong type", "-"),
    "UPDATE_SPLICE": ("a splice with wrong offsets", "-"),
    "UPDATE_INTEGER_OVERFLOW": ("the sum does not fit an integer", "-"),
    "UNKNOWN_UPDATE_OP": ("no such update operation", "-"),
    "CANT_UPDATE_PRIMARY_KEY": ("an update would change the primary key", "delete and insert"),
    "BATCH_TOO_LARGE": ("a tuple, transaction or answer over its limit", "split it, or raise the limit"),
    "MEMORY_ISSUE": (
        "the data would need more than `memtx.memory`; nothing was done",
        "delete rows, or raise the limit on all members",
    ),
    "ILLEGAL_PARAMS": ("the call itself is wrong", "-"),
    "UNSUPPORTED": ("this combination is not possible", "-"),
    "UNIMPLEMENTED": ("known and described, not built yet", "-"),
    "REPLICASET_UUID_MISMATCH": (
        "the instance or its files belong to another replica set; both UUIDs are given",
        "check addresses and directories",
    ),
    "UNKNOWN_REPLICA": ("the instance is not registered in the set (yet)", "the applier retries by itself"),
    "REPLICA_MAX": ("the set has 31 members", "-"),
    "LOCAL_INSTANCE_ID_IS_READ_ONLY": (
        "an instance does not remove or change its own row of `_cluster`",
        "-",
    ),
    "DOUBLED_IDENTITY": (
        "two live processes have one identity, as with a copied data directory; `lives` names both",
        "stop the one that is the copy, and remove its directory",
    ),
    "CONNECTION_TO_SELF": ("the address of a peer leads back to this instance", "correct the address"),
    "XLOG_GAP": (
        "the log files that the peer needs are gone",
        "remove its snapshots and logs, keep `instance.identity`, let it join again",
    ),
    "CHECKPOINT_IN_PROGRESS": ("a snapshot is being written already", "wait for it"),
    "PROTOCOL": ("a peer broke the protocol; only this stream stops", "report it, with the logs of both"),
    "SPLIT_BRAIN": (
        "two histories that contradict each other met; only this stream stops",
        "decide which side is right, let the other join again",
    ),
    "CORRUPTION": (
        "a file is damaged where it was known to be whole; the instance does not start",
        "as the message says: restore the file, or join again",
    ),
    "DECODE": ("bytes that are not what they should be", "-"),
    "ALREADY_RUNNING": ("another process uses the directory or the port", "stop it, or choose another"),
    "CONFIG": ("the configuration is wrong; file, line and key are given, nothing was changed", "correct it"),
}
"""reason -> what happened, what to do next."""


def errors_table() -> Iterator[str]:
    yield "| reason | tnt | gRPC status | what happened | what to do |"
    yield "|---|---|---|---|---|"
    for cls in ALL_ERRORS:
        meaning, what_next = MEANINGS[cls.reason]
        code = status.TABLE[cls].code.name
        yield f"| {cls.reason} | {cls.tnt_code or '-'} | {code} | {meaning} | {what_next} |"


def _options(effect: Effect, *, limits: bool) -> Iterator[Option]:
    """In the order of the table; `iproto` is told of in words."""
    for option in TABLE:
        is_limit = option.key.startswith("limits.")
        if option.effect is effect and is_limit is limits and not option.key.startswith("iproto."):
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
        yield f"| `{_shown_key(option)}` | {_shown_kind(option)} | {default} | {live} | {option.meaning} |"


def keys_table() -> Iterator[str]:
    yield from _option_rows(_options(Effect.ACTS, limits=False))


def limits_table() -> Iterator[str]:
    yield from _option_rows(_options(Effect.ACTS, limits=True))


def later_table() -> Iterator[str]:
    yield "| key | value | meaning |"
    yield "|---|---|---|"
    for limits in (False, True):
        for option in _options(Effect.LATER, limits=limits):
            yield f"| `{option.key}` | {_shown_kind(option)} | {option.meaning} |"
    for key, section in MAPS.items():
        inner = section.each.meaning if isinstance(section.each, Section) else ""
        yield f"| `{key}` | {inner or 'map from names'} | {section.meaning} |"


TABLES: Final = {
    "errors": ("errors.md", errors_table),
    "keys": ("configuration.md", keys_table),
    "limits": ("configuration.md", limits_table),
    "later": ("configuration.md", later_table),
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
