"""What the client gives back: tuples, results, the tree of `box.info`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias, overload

from synchro.errors import SynchroError

TxnId: TypeAlias = tuple[int, int]
"""Name of a transaction: (origin, lsn), written `origin:lsn`."""
NUMBER_DIGITS_MAX = 20
"""Of a number of 64 bits; longer ones are names."""
FieldNames = Callable[[], Sequence[str]]
"""Names of the fields of a space, asked for when a name is used for the first time."""


class Tuple(tuple[Any, ...]):
    """A row: fields by position, from 0 as everywhere in Python, or by name.

    txn: the transaction that wrote it, for the result of a write; else None.
    """

    txn: TxnId | None = None
    field_names: FieldNames | None = None

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        names = list(self.field_names()) if self.field_names is not None else []
        try:
            return super().__getitem__(names.index(key))
        except ValueError:
            known = ", ".join(names) or "no format is known"
            raise KeyError(f"no field {key!r}; fields: {known}") from None
        except IndexError:
            return None  # a nullable field at the end that was left out

    def to_dict(self) -> dict[str, Any]:
        """Field name -> value; fields beyond the format are left out."""
        names = self.field_names() if self.field_names is not None else []
        return dict(zip(names, self, strict=False))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, as in another process, have the names of the fields, but no client to ask for them."""
        try:
            names = tuple(self.field_names()) if self.field_names is not None else ()
        except SynchroError:
            names = ()
        return _copied, (tuple(self), names, self.txn)


@dataclass(frozen=True, slots=True)
class KnownNames:
    """Names of fields that are not asked for any more."""

    names: tuple[str, ...]

    def __call__(self) -> Sequence[str]:
        return self.names


def _copied(fields: Sequence[Any], names: tuple[str, ...], txn: TxnId | None) -> Tuple:
    return make_tuple(fields, KnownNames(names) if names else None, txn)


def make_tuple(fields: Sequence[Any], names: FieldNames | None = None, txn: TxnId | None = None) -> Tuple:
    made = Tuple(fields)
    if names is not None:
        made.field_names = names
    if txn is not None:
        made.txn = txn
    return made


class Rows(list[Tuple]):
    """What a select found. after: set if there is more, for `select(after=...)`; read_at: a vclock."""

    after: Tuple | None = None
    read_at: Mapping[int, int] = {}


@dataclass(frozen=True, slots=True)
class Result:
    """What a transaction did."""

    tuples: Sequence[Tuple | None]
    """One for each operation: what is stored now, or was removed; empty if they were not asked for."""
    txn: TxnId | None
    """None: it has no rows of its own, or `wait="none"`."""
    is_sync: bool
    duplicate: bool
    """An earlier try of this call, or another call with its request id, did it."""
    instance: str = ""
    """Name of who did it."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The transaction is committed: it is done and stays."""

    txn: TxnId | None

    def __str__(self) -> str:
        return f"{format_txn(self.txn)} is committed"


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The transaction was rolled back: nothing was done."""

    txn: TxnId | None

    def __str__(self) -> str:
        return f"{format_txn(self.txn)} was rolled back"


@dataclass(frozen=True, slots=True)
class WatchState:
    """What `on_change` tells: who leads in the eyes of the instance that is watched."""

    leader: str | None
    """Name; None if nobody is known to lead."""
    leader_id: int
    leader_address: str
    term: int
    is_writable: bool
    ro_reason: str | None
    queue_owner: int
    queue_len: int
    instance: str
    """Who says so."""
    election_state: str = ""
    """follower, candidate or leader; "" while it loads, and from an older version."""
    queue_term: int = 0
    """Of the last decided claim of the queue; 0 from an older version."""


class Info(Mapping[Any, Any]):
    """A part of the tree of `box.info`: parts are attributes or items. `dict(info)` has plain values."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[Any, Any]) -> None:
        self._parts = parts

    def __getitem__(self, key: Any) -> Any:
        parts = self._parts
        if key not in parts and isinstance(key, str) and is_number(key):
            key = int(key)
        return _part(parts[key])

    def __getattr__(self, name: str) -> Any:
        try:
            return _part(self._parts[name])
        except KeyError:
            known = ", ".join(str(key) for key in self._parts)
            raise AttributeError(f"info has no part {name!r} here; parts: {known}") from None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"Info({dict(self._parts)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Info, (self._parts,)


def _part(value: Any) -> Any:
    return Info(value) if isinstance(value, dict) else value


def is_number(text: str) -> bool:
    """Whether it is the decimal form of a number that fits into a message."""
    return text.isascii() and text.isdecimal() and len(text) <= NUMBER_DIGITS_MAX


def format_txn(txn: TxnId | None) -> str:
    return "the transaction" if txn is None else f"{txn[0]}:{txn[1]}"


def parse_txn(text: str) -> TxnId:
    """`origin:lsn`; raises ValueError."""
    origin, _, lsn = text.partition(":")
    return int(origin), int(lsn)


def state_of(message: Any) -> WatchState:
    """From a WatchInfoResponse."""
    return WatchState(
        leader=message.leader_name or None,
        leader_id=message.leader,
        leader_address=message.leader_address,
        term=message.term,
        is_writable=message.is_writable,
        ro_reason=message.ro_reason or None,
        queue_owner=message.queue_owner,
        queue_len=message.queue_len,
        instance=message.header.instance_name,
        election_state=message.election_state,
        queue_term=message.queue_term,
    )
