"""Operations of a transaction: `db.execute([ops.insert("bands", [1]), ops.delete("bands", 2)])`.

Each is encoded at once. What cannot be stored raises `WrongFormat`, a number that does not fit
`IllegalParams`; nothing is sent then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NewType

from synchro.client import encoding, requests
from synchro.client.model import Result
from synchro.client.requests import IndexRef, KeyLike, SpaceRef

Op = NewType("Op", bytes)
"""An encoded operation."""


def insert(space: SpaceRef, fields: Sequence[Any]) -> Op:
    """Add a tuple; the transaction is refused with `TupleFound` if its key exists."""
    return Op(encoding.insert(space, fields))


def replace(space: SpaceRef, fields: Sequence[Any]) -> Op:
    """Add a tuple, or replace the one with the same primary key."""
    return Op(encoding.replace(space, fields))


def update(space: SpaceRef, key: KeyLike, ops: Sequence[Sequence[Any]], index: IndexRef = None) -> Op:
    """Change fields of the tuple with this key.

    ops: `[operator, field, argument...]` each, fields count from 1.
    """
    return Op(encoding.encoded(requests.update(space, key, ops, index)))


def upsert(space: SpaceRef, fields: Sequence[Any], ops: Sequence[Sequence[Any]]) -> Op:
    """Change the tuple with this primary key as `update` does, or add it."""
    return Op(encoding.encoded(requests.upsert(space, fields, ops)))


def delete(space: SpaceRef, key: KeyLike, index: IndexRef = None) -> Op:
    """Remove the tuple with this key of a unique index."""
    return Op(encoding.encoded(requests.delete(space, key, index)))


class Transaction:
    """Collects operations; see `Client.transaction`."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.result: Result | None = None
        """What it did, once the `with` block is over; None if it had no operations."""

    def insert(self, space: SpaceRef, fields: Sequence[Any]) -> None:
        """As `ops.insert`."""
        self.ops.append(insert(space, fields))

    def replace(self, space: SpaceRef, fields: Sequence[Any]) -> None:
        """As `ops.replace`."""
        self.ops.append(replace(space, fields))

    def update(
        self, space: SpaceRef, key: KeyLike, ops: Sequence[Sequence[Any]], index: IndexRef = None
    ) -> None:
        """As `ops.update`."""
        self.ops.append(update(space, key, ops, index))

    def upsert(self, space: SpaceRef, fields: Sequence[Any], ops: Sequence[Sequence[Any]]) -> None:
        """As `ops.upsert`."""
        self.ops.append(upsert(space, fields, ops))

    def delete(self, space: SpaceRef, key: KeyLike, index: IndexRef = None) -> None:
        """As `ops.delete`."""
        self.ops.append(delete(space, key, index))
