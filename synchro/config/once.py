"""What may stand under `once:` in the file: operations, each a map with one key. Data only.

The keys are those of the messages that say the same to an instance (proto/synchro/v1/schema.proto); what they
mean is looked at when they run. Rule [D-25], ADR 47.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from synchro.config.option import Anything, Count, Flag, Kind, ListOf, Option, Section, Text, Word

_NAME: Final = Text(r"[^\x00-\x1f]{1,65000}", "a name")
_ANY: Final = Anything()
_FORMAT: Final = ListOf(_ANY, 0, 10_000, "fields, as id:unsigned or {name, type, is_nullable}")
_PARTS: Final = ListOf(_ANY, 0, 10_000, "parts, as id, 2:string or {name or field, type, is_nullable}")
_TUPLE: Final = ListOf(_ANY, 0, 100_000, "values")
_POLICY: Final = Word(("stop", "skip", "keep_local", "last_write_wins"))
_OPS: Final = ListOf(_ANY, 0, 4000, "[operator, field, argument...]")

_INTEGER: Final = Count(-(2**63), 2**63 - 1)
_BOUNDS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("step", "min", "max", "start", "cache"), _INTEGER),
    "cycle": Flag(),
}

_SCHEMA: Final[Mapping[str, tuple[Mapping[str, Kind], tuple[str, ...]]]] = {
    "create_space": (
        {
            "name": _NAME,
            "is_sync": Flag(),
            "format": _FORMAT,
            "if_not_exists": Flag(),
            "is_local": Flag(),
            "is_temporary": Flag(),
            "field_count": Count(0, 2**31),
            "conflict": _POLICY,
            "id": Count(512, 2**31),
        },
        ("name",),
    ),
    "alter_space": (
        {
            "space": _NAME,
            "name": _NAME,
            "is_sync": Flag(),
            "format": _FORMAT,
            "field_count": Count(0, 2**31),
            "conflict": _POLICY,
        },
        ("space",),
    ),
    "truncate_space": ({"space": _NAME}, ("space",)),
    "drop_space": ({"space": _NAME, "if_exists": Flag()}, ("space",)),
    "create_index": (
        {
            "space": _NAME,
            "name": _NAME,
            "parts": _PARTS,
            "type": Word(("tree", "hash"), {"TREE": "tree", "HASH": "hash"}),
            "unique": Flag(),
            "if_not_exists": Flag(),
            "sequence": Anything("true, a name, or {name, field}"),
        },
        ("space", "name"),
    ),
    "drop_index": ({"space": _NAME, "name": _NAME, "if_exists": Flag()}, ("space", "name")),
    "create_sequence": ({"name": _NAME, **_BOUNDS, "if_not_exists": Flag()}, ("name",)),
    "alter_sequence": ({"sequence": _NAME, "name": _NAME, **_BOUNDS}, ("sequence",)),
    "drop_sequence": ({"sequence": _NAME, "if_exists": Flag()}, ("sequence",)),
    "set_sequence": ({"sequence": _NAME, "last": _INTEGER}, ("sequence",)),
}
_TUPLES: Final[Mapping[str, tuple[Mapping[str, Kind], tuple[str, ...]]]] = {
    "insert": ({"space": _NAME, "tuple": _TUPLE}, ("space", "tuple")),
    "replace": ({"space": _NAME, "tuple": _TUPLE}, ("space", "tuple")),
    "update": ({"space": _NAME, "key": _ANY, "ops": _OPS, "index": _NAME}, ("space", "key", "ops")),
    "upsert": ({"space": _NAME, "tuple": _TUPLE, "ops": _OPS}, ("space", "tuple", "ops")),
    "delete": ({"space": _NAME, "key": _ANY, "index": _NAME}, ("space", "key")),
}
"""verb -> its keys, and those that must be there"""
_HINTS: Final = {"sync": "use is_sync", "local": "use is_local", "temporary": "use is_temporary"}
_OF_USERS: Final[Mapping[str, str]] = dict.fromkeys(
    ("create_user", "drop_user", "set_password", "create_role", "drop_role", "grant", "revoke"),
    "users, roles and what they may do stand under credentials in the file, or are made by synchro user, "
    "role, grant and revoke",
)
"""Verbs that somebody may expect -> where that is done (ADR 47)."""

OPERATION: Final = Section(
    {
        verb: Section({key: Option(key, kind) for key, kind in keys.items()}, required=required, hints=_HINTS)
        for verb, (keys, required) in {**_SCHEMA, **_TUPLES}.items()
    },
    hints=_OF_USERS,
)


def wrong_order(operations: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """(position, what is wrong) of operations that cannot be what they are where they are."""
    has_tuples = False
    for position, operation in enumerate(operations):
        if len(operation) != 1:
            yield position, "an operation is a map with one key, as create_space: {name: test}"
            continue
        ((verb, body),) = operation.items()
        if not body:
            yield position, f"{verb} needs a map of what it is about"
        elif verb in _TUPLES:
            has_tuples = True
        elif has_tuples:
            yield position, f"{verb} stands behind a change of tuples: changes of the schema come first"
