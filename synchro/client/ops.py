"""Operations of a transaction: `db.execute([ops.insert("bands", [1]), ops.delete("bands", 2)])`.

Each is encoded at once. What cannot be stored raises `WrongFormat`, a number that does not fit
`IllegalParams`; nothing is sent then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NewType

from synchro.client import encoding, requests
from synchro.client.model import Result
from synchro.client.requests import FieldsLike, IndexRef, KeyLike, SpaceRef
from synchro.rpc.generated.v1 import data_pb2

Op = NewType("Op", bytes)
"""An encoded operation."""


def insert(space: SpaceRef, fields: Sequence[Any]) -> Op:
    """Add a tuple; the transaction is refused with `TupleFound` if its key exists."""
    return Op(encoding.insert(space, fields))


def replace(space: SpaceRef, fields: Sequence[Any]) -> Op:
    """Add a tuple, or replace the one with the same primary key."""
    return Op(encoding.replace(space, fields))


def update(
    space: SpaceRef,
    key: KeyLike,
    ops: Sequence[Sequence[Any]],
    index: IndexRef = None,
    *,
    must_match: bool = False,
) -> Op:
    """Change fields of the tuple with this key.

    ops: `[operator, field, argument...]` each, fields count from 1. If there is no such tuple it does
    nothing, or, with must_match, the transaction is refused with `ConditionFailed`.
    """
    return Op(encoding.encoded(requests.update(space, key, ops, index, must_match=must_match)))


def upsert(space: SpaceRef, fields: Sequence[Any], ops: Sequence[Sequence[Any]]) -> Op:
    """Change the tuple with this primary key as `update` does, or add it."""
    return Op(encoding.encoded(requests.upsert(space, fields, ops)))


def delete(space: SpaceRef, key: KeyLike, index: IndexRef = None, *, must_match: bool = False) -> Op:
    """Remove the tuple with this key of a unique index. must_match: as in `update`."""
    return Op(encoding.encoded(requests.delete(space, key, index, must_match=must_match)))


def if_absent(space: SpaceRef, key: KeyLike, index: IndexRef = None) -> Op:
    """A condition: the transaction is refused with `ConditionFailed` if there is a tuple with this key of a
    unique index. A condition sees what the operations before it did, and answers with no tuple."""
    return Op(encoding.encoded(requests.check(data_pb2.CHECK_KIND_ABSENT, space, key, index)))


def if_present(space: SpaceRef, key: KeyLike, index: IndexRef = None) -> Op:
    """A condition, as `if_absent`: there must be a tuple with this key."""
    return Op(encoding.encoded(requests.check(data_pb2.CHECK_KIND_PRESENT, space, key, index)))


def if_equal(space: SpaceRef, key: KeyLike, fields: FieldsLike, index: IndexRef = None) -> Op:
    """A condition, as `if_absent`: there must be a tuple with this key whose fields have these values.

    fields: `{"balance": 100}`, or by number from 1, `{2: 100}`. A field that the tuple lacks is None.
    """
    return Op(encoding.encoded(requests.check(data_pb2.CHECK_KIND_EQUAL, space, key, index, fields)))


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
        self,
        space: SpaceRef,
        key: KeyLike,
        ops: Sequence[Sequence[Any]],
        index: IndexRef = None,
        *,
        must_match: bool = False,
    ) -> None:
        """As `ops.update`."""
        self.ops.append(update(space, key, ops, index, must_match=must_match))

    def upsert(self, space: SpaceRef, fields: Sequence[Any], ops: Sequence[Sequence[Any]]) -> None:
        """As `ops.upsert`."""
        self.ops.append(upsert(space, fields, ops))

    def delete(
        self, space: SpaceRef, key: KeyLike, index: IndexRef = None, *, must_match: bool = False
    ) -> None:
        """As `ops.delete`."""
        self.ops.append(delete(space, key, index, must_match=must_match))

    def if_absent(self, space: SpaceRef, key: KeyLike, index: IndexRef = None) -> None:
        """As `ops.if_absent`."""
        self.ops.append(if_absent(space, key, index))

    def if_present(self, space: SpaceRef, key: KeyLike, index: IndexRef = None) -> None:
        """As `ops.if_present`."""
        self.ops.append(if_present(space, key, index))

    def if_equal(self, space: SpaceRef, key: KeyLike, fields: FieldsLike, index: IndexRef = None) -> None:
        """As `ops.if_equal`."""
        self.ops.append(if_equal(space, key, fields, index))
