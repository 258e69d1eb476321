"""The calls of one space, as plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from synchro.client import encoding, requests
from synchro.client.api import Api, SelectOptions
from synchro.client.model import Rows, Tuple
from synchro.client.plans import Plan, WriteOptions
from synchro.client.requests import IndexRef, KeyLike, Message, ReadMode, SpaceRef


class SpaceApi:
    """One space. Writes are transactions of one operation; their options are those of `Client.execute`."""

    def __init__(self, api: Api, name: SpaceRef) -> None:
        self._api = api
        self.name = name

    def insert(self, fields: Sequence[Any], **options: Unpack[WriteOptions]) -> Plan[Tuple]:
        """Add a tuple, and return it. Raises `TupleFound` (also called `DuplicateKey`) if its key exists.

        Where the answer to the first try was lost and the second one finds it done, or with omit_tuples, the
        tuple returned is the one that was given: what a sequence put in the place of None is not in it.
        """
        return self._store(encoding.insert(self.name, fields), fields, options)

    def replace(self, fields: Sequence[Any], **options: Unpack[WriteOptions]) -> Plan[Tuple]:
        """Add a tuple, or replace the one with the same primary key. Returns the new one."""
        return self._store(encoding.replace(self.name, fields), fields, options)

    def _store(self, op: bytes, fields: Sequence[Any], options: WriteOptions) -> Plan[Tuple]:
        def stored(reply: Message, _: str) -> Tuple:
            if options.get("omit_tuples"):
                return Tuple(fields)
            found = encoding.tuples_of(reply, (op,), self._api.names_of(self.name))[0]
            return Tuple(fields) if found is None else found

        return self._api.plans.write(op, 1, options, stored)

    def update(
        self,
        key: KeyLike,
        ops: Sequence[Sequence[Any]],
        *,
        index: IndexRef = None,
        must_match: bool = False,
        **options: Unpack[WriteOptions],
    ) -> Plan[Tuple | None]:
        """Change fields: ops are `[operator, field, argument...]`, fields count from 1 as on the server.

        key: of a unique index, the primary one by default. Returns the new tuple; if there is none with this
        key None, or with must_match raises `ConditionFailed`.
        """
        op = requests.update(self.name, key, ops, index, must_match=must_match)
        return self._change(encoding.encoded(op), options)

    def upsert(
        self, fields: Sequence[Any], ops: Sequence[Sequence[Any]], **options: Unpack[WriteOptions]
    ) -> Plan[None]:
        """Change the tuple with this primary key as `update` does, or add it."""
        yield from self._change(encoding.encoded(requests.upsert(self.name, fields, ops)), options)

    def delete(
        self,
        key: KeyLike,
        *,
        index: IndexRef = None,
        must_match: bool = False,
        **options: Unpack[WriteOptions],
    ) -> Plan[Tuple | None]:
        """Remove a tuple. key, must_match: as in `update`. Returns what it was; None if there was none."""
        op = requests.delete(self.name, key, index, must_match=must_match)
        return self._change(encoding.encoded(op), options)

    def _change(self, op: bytes, options: WriteOptions) -> Plan[Tuple | None]:
        def changed(reply: Message, _: str) -> Tuple | None:
            if options.get("omit_tuples"):
                return None
            return encoding.tuples_of(reply, (op,), self._api.names_of(self.name))[0]

        return self._api.plans.write(op, 1, options, changed)

    def get(
        self,
        key: KeyLike,
        *,
        index: IndexRef = None,
        read: ReadMode | None = None,
        timeout: float | None = None,
    ) -> Plan[Tuple | None]:
        """The tuple with this full key of a unique index; None if there is none."""
        rows = yield from self._api.select(
            self.name, key, index=index, iterator="EQ", limit=1, read=read, timeout=timeout
        )
        return rows[0] if rows else None

    def select(self, key: KeyLike = None, **options: Unpack[SelectOptions]) -> Plan[Rows]:
        """Tuples in the order of an index, all at once; see `Client.select`."""
        return (yield from self._api.select(self.name, key, **options))

    def count(self, *, timeout: float | None = None) -> Plan[int]:
        """Number of confirmed tuples on the instance that is read from."""
        spaces = yield from self._api.spaces(self.name, timeout=timeout)
        return spaces[0].tuple_count
