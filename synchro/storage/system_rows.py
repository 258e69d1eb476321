"""What rows of `_cluster` and `_schema` may not become. Rules [D-22], [D-23], [M-1], [M-3], [M-5], [M-37],
[M-50].

Who may change them when (quorum, one at a time) is for the caller; here stands what follows from the rows,
and what no client may write at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from synchro.errors import (
    IllegalParams,
    LocalInstanceIdIsReadOnly,
    ReplicaMax,
    Unsupported,
)
from synchro.ids import INSTANCE_ID_MAX, InstanceId, why_no_name
from synchro.row import Dml, Field, RowType, Tuple
from synchro.storage.schema import (
    CLUSTER_ID,
    INDEX_ID,
    SCHEMA_ID,
    SPACE_ID,
    TRUNCATE_ID,
    is_system,
)

REPLICASET_UUID: Final = "replicaset_uuid"
REPLICASET_NAME: Final = "replicaset_name"
VERSION: Final = "version"
OLD_REPLICASET_UUID: Final = "cluster"
"""Name of the key in old versions; reading it still works [D-22]."""

EXPELLED_PREFIX: Final = "expelled."
"""Of the keys of `_schema` that say who was removed from the set: no id is given twice (ADR 41). With the
UUID behind the id: another instance has taken the place of that one [M-25]."""

_ONCE: Final = "once"
_BEGUN: Final = "begun.once"

NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


_GIVEN_ONCE: Final = frozenset({VERSION, REPLICASET_NAME, OLD_REPLICASET_UUID})


def first_rows(
    *, replicaset_uuid: str, replicaset_name: str, instance_uuid: str, instance_name: str
) -> list[tuple[int, list[Tuple]]]:
    """What each new replica set has in its snapshot 0: space -> tuples [M-2], [M-3]."""
    names: list[Tuple] = [(REPLICASET_NAME, replicaset_name), (REPLICASET_UUID, replicaset_uuid)]
    return [(SCHEMA_ID, names), (CLUSTER_ID, [(1, instance_uuid, instance_name)])]


def once_key(key: str) -> str:
    """Key of the row of `_schema` that says that the operations of `key` are done [D-25]."""
    return _ONCE + key


def begun_key(key: str) -> str:
    """Key of the row that says that the first of their two transactions is (ADR 47)."""
    return _BEGUN + key


def expelled_row(instance: InstanceId, uuid: str, name: str | None) -> Tuple:
    """The row of `_schema` that goes with the removal of this member, in one transaction (ADR 41)."""
    return f"{EXPELLED_PREFIX}{instance}", uuid, name


def expelled_of(rows: Iterable[Tuple]) -> dict[InstanceId, tuple[str, str | None]]:
    """id -> (uuid, name) of those that rows of `_schema` say were removed. Other rows are passed over."""
    found: dict[InstanceId, tuple[str, str | None]] = {}
    for row in rows:
        key = row[0]
        if not isinstance(key, str) or not key.startswith(EXPELLED_PREFIX):
            continue
        number = _instance_id(key.removeprefix(EXPELLED_PREFIX))
        if number is not None and len(row) > 1 and isinstance(row[1], str):
            found[number] = row[1], _name(row)
    return found


def _instance_id(text: str) -> InstanceId | None:
    """None: it is none."""
    is_short = text.isascii() and text.isdecimal() and len(text) <= 2
    return InstanceId(int(text)) if is_short and 0 < int(text) <= INSTANCE_ID_MAX else None


def replaced_row(instance: InstanceId, uuid: str, name: str | None) -> Tuple:
    """The row of `_schema` that goes with a registration under the name and id of this member [M-25]."""
    return f"{EXPELLED_PREFIX}{instance}.{uuid}", uuid, name


def replaced_of(rows: Iterable[Tuple]) -> dict[str, InstanceId]:
    """UUID -> former id of those in whose places others are. Other rows are passed over."""
    found: dict[str, InstanceId] = {}
    for row in rows:
        key = row[0] if isinstance(row[0], str) else ""
        if not key.startswith(EXPELLED_PREFIX):
            continue
        text, _, uuid = key.removeprefix(EXPELLED_PREFIX).partition(".")
        number = _instance_id(text)
        if number is not None and uuid:
            found[uuid] = number
    return found


def is_removal(op: Dml) -> bool:
    """Whether it takes a row out of `_cluster` [M-50]."""
    return op.space_id == CLUSTER_ID and op.type is RowType.DELETE


def check_client_change(space_id: int, named: Field, *, self_id: InstanceId, is_removal: bool) -> None:
    """Raise for a change of a system space that only the set itself makes: registration, bootstrap.

    named: first field of the row that the change is about; None if that is not known. is_removal: see there;
    when it may be done is for the caller. Asked for clients alone: what lies in a log or comes from a peer
    was accepted once, and is applied.
    """
    if space_id == CLUSTER_ID:
        if named == self_id and type(named) is int:
            raise LocalInstanceIdIsReadOnly(
                f"The local instance id {named} is read-only; nothing was written"
            )
        if is_removal:
            return
        raise Unsupported(
            "Space '_cluster' does not support changes by clients other than the removal of a member; "
            "nothing was written. Next: a member is added by starting it, and removed by "
            "synchro member expel NAME"
        )
    if space_id in (SPACE_ID, INDEX_ID, TRUNCATE_ID) and type(named) is int and is_system(named):
        raise Unsupported(
            f"Space #{named} does not support changes: it is a system space; nothing was written"
        )
    if space_id == SCHEMA_ID and isinstance(named, str) and named.startswith(EXPELLED_PREFIX):
        raise Unsupported(
            f"Key '{named}' of _schema does not support changes: no id is given twice; nothing was written"
        )
    if space_id == SCHEMA_ID and isinstance(named, str) and named in _GIVEN_ONCE:
        raise Unsupported(f"Key '{named}' of _schema is given once, to the whole set; nothing was written")


def check_uuid(uuid: object) -> None:
    if not isinstance(uuid, str) or _UUID.fullmatch(uuid) is None:
        raise IllegalParams(f"Invalid UUID: {uuid}")
    if uuid == NIL_UUID:
        raise IllegalParams("Nil UUID is reserved and can't be used in replication")


def check_schema_row(old: Tuple | None, new: Tuple | None) -> None:
    """[D-22]: the replica set's UUID is given once."""
    if old is not None and old[0] == REPLICASET_UUID and old != new:
        raise IllegalParams("Can't reset replica set UUID: it is already assigned")
    if new is not None and new[0] == REPLICASET_UUID:
        check_uuid(new[1] if len(new) > 1 else None)


def check_cluster_row(old: Tuple | None, new: Tuple | None) -> None:
    """[D-23], [M-37]. That UUIDs and names are given once is left to the unique indexes."""
    if new is None:
        return
    number, uuid = new[0], new[1]
    name = _name(new)
    if number == 0:
        raise IllegalParams(f"Can't initialize replica id with a reserved value {number}")
    if number > INSTANCE_ID_MAX:
        raise ReplicaMax(f"Replica count limit reached: {INSTANCE_ID_MAX + 1}", limit=INSTANCE_ID_MAX)
    check_uuid(uuid)
    if name is not None and (why := why_no_name(name)) is not None:
        raise IllegalParams(f"Invalid instance name: {why}")
    if old is not None and old[1] != uuid:
        if _name(old) is None:
            raise Unsupported("Replica without a name does not support UUID update")
        if _name(old) != name:
            raise Unsupported(
                f"Replica does not support UUID and name update together: id {number} is {_name(old)}'s here "
                f"and {name}'s by this row. Two instances registered them at the same moment, as may be "
                "where nobody owns the queue",
                registered_twice=number,
            )


def _name(row: Tuple) -> str | None:
    return row[2] if len(row) > 2 else None
