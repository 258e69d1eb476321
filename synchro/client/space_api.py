"""The calls of one space, as plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from synchro.client import requests, wire
from synchro.client.api import Api, SelectOptions, WriteOptions
from synchro.client.model import Rows, Tuple
from synchro.client.plans import Plan
from synchro.client.requests import IndexRef, Key, ReadMode, SpaceRef


class SpaceApi:
    """One space. Writes are transactions of one operation; their options are those of `Client.execute`."""

    def __init__(self, api: Api, name: SpaceRef) -> None:
        self._api = api
        self.name = name

    def insert(self, fields: Sequence[Any], **options: Unpack[WriteOptions]) -> Plan[Tuple]:
        """Add a tuple, and return it. Raises `TupleFound` (also called `DuplicateKey`) if its key exists."""
        stored = yield from self._change(wire.insert(self.name, fields), options)
        return stored if stored is not None else Tuple(fields)

    def replace(self, fields: Sequence[Any], **options: Unpack[WriteOptions]) -> Plan[Tuple]:
        """Add a tuple, or replace the one with the same primary key. Returns the new one."""
        stored = yield from self._change(wire.replace(self.name, fields), options)
        return stored if stored is not None else Tuple(fields)

    def update(
        self,
        key: Key,
        ops: Sequence[Sequence[Any]],
        *,
        index: IndexRef = None,
        **options: Unpack[WriteOptions],
    ) -> Plan[Tuple | None]:
        """Change fields: ops are `[operator, field, argument...]`, fields count from 1 as on the server.

        key: of a unique index, the primary one by default. Returns the new tuple; None if there is none with
        this key.
        """
        return (yield from self._change(wire.encoded(requests.update(self.name, key, ops, index)), options))

    def upsert(
        self, fields: Sequence[Any], ops: Sequence[Sequence[Any]], **options: Unpack[WriteOptions]
    ) -> Plan[None]:
        """Change the tuple with this primary key as `update` does, or add it."""
        yield from self._change(wire.encoded(requests.upsert(self.name, fields, ops)), options)

    def delete(
        self, key: Key, *, index: IndexRef = None, **options: Unpack[WriteOptions]
    ) -> Plan[Tuple | None]:
        """Remove a tuple. key: as in `update`. Returns what it was; None if there was none."""
        return (yield from self._change(wire.encoded(requests.delete(self.name, key, index)), options))

    def _change(self, op: bytes, options: WriteOptions) -> Plan[Tuple | None]:
        reply, _ = yield from self._api.plans.write(op, 1, **options)
        if options.get("omit_tuples"):
            return None
        return wire.tuples_of(reply, (op,), self._api.names_of(self.name))[0]

    def get(
        self,
        key: Key,
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

    def select(self, key: Key = None, **options: Unpack[SelectOptions]) -> Plan[Rows]:
        """Tuples in the order of an index, all at once; see `Client.select`."""
        return (yield from self._api.select(self.name, key, **options))

    def count(self, *, timeout: float | None = None) -> Plan[int]:
        """Number of confirmed tuples on the instance that is read from."""
        spaces = yield from self._api.spaces(self.name, timeout=timeout)
        return spaces[0].tuple_count
