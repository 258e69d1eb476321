"""Rows and transactions: the unit of the WAL, of replication and of the limbo. Rules [W-1..3], [D-40].

A row is a header and a body. The bytes of a row are made once, by its origin, and are the same in every
WAL and on every stream afterwards, so a `Txn` carries them along (`data`); see `storage/xrow.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn, RequestId, Term

Field: TypeAlias = Any
"""A msgpack value: None, bool, int, float, str, bytes, tuple (array) or dict (map)."""

Tuple: TypeAlias = tuple[Field, ...]
"""One stored tuple, or a key. Decoded with `use_list=False`, so it is immutable."""


class RowType(IntEnum):
    """Numbers of Tarantool, so that tools which know them read our logs [D-40]."""

    INSERT = 2
    REPLACE = 3
    UPDATE = 4
    DELETE = 5
    UPSERT = 9
    NOP = 12
    RAFT = 30
    PROMOTE = 31
    DEMOTE = 32
    CONFIRM = 40
    ROLLBACK = 41


FLAG_COMMIT: Final = 1
"""Last row of its transaction [W-3]."""
FLAG_WAIT_SYNC: Final = 2
"""The transaction goes through the limbo; on the last row only."""
FLAG_WAIT_ACK: Final = 4
"""The transaction is synchronous itself; implies WAIT_SYNC; on the last row only."""
FLAG_REQUEST_ID: Final = 8
"""16 bytes of request id stand between header and body; on the last row only."""

GROUP_DEFAULT: Final = 0
GROUP_LOCAL: Final = 1
"""The row never leaves its instance; its LSN counts in component 0 [W-5]."""


class Dml(NamedTuple):
    """One change of one tuple. Which fields are set depends on `type`:

    INSERT, REPLACE: value (the tuple).  UPDATE: index_id, key, ops.  DELETE: index_id, key.
    UPSERT: value, ops.
    `raw` is the encoded body (a msgpack map), made when the change was decoded or first encoded.
    """

    type: RowType
    space_id: int
    raw: bytes
    index_id: int = 0
    key: Tuple | None = None
    value: Tuple | None = None
    ops: tuple[Tuple, ...] | None = None


class Nop(NamedTuple):
    """Consumes an LSN and does nothing [P-50]."""


class RaftState(NamedTuple):
    """Persisted term and vote, a LOCAL row [E-2]. vote `NOBODY`: did not vote in this term."""

    term: Term
    vote: InstanceId = NOBODY


class Confirm(NamedTuple):
    """Entries of `owner` up to `lsn` are committed; may also decide a PROMOTE of `owner` (ADR 1)."""

    owner: InstanceId
    lsn: Lsn


class Rollback(NamedTuple):
    """Entries of `owner` from `lsn` on are rolled back [Q-50]. Read for compatibility, never written."""

    owner: InstanceId
    lsn: Lsn


class Promote(NamedTuple):
    """The row's origin asks for the queue, built on `prev_owner` up to `lsn` (in its numbering) [P-1].

    prev_term: queue term (or term of the pending PROMOTE) that the writer built on. Decides nothing by
    itself: only a CONFIRM of its writer does (ADR 1).
    """

    prev_owner: InstanceId
    lsn: Lsn
    term: Term
    prev_term: Term


class Demote(NamedTuple):
    """Like `Promote`, but leaves the queue without an owner [P-31]."""

    prev_owner: InstanceId
    lsn: Lsn
    term: Term
    prev_term: Term


Control: TypeAlias = Confirm | Rollback | Promote | Demote
Body: TypeAlias = Dml | Nop | RaftState | Control

CONTROL_TYPES: Final = frozenset({RowType.CONFIRM, RowType.ROLLBACK, RowType.PROMOTE, RowType.DEMOTE})


class Row(NamedTuple):
    """One record. `replica_id` is its origin; LOCAL rows have origin 0 [W-1]."""

    type: RowType
    replica_id: InstanceId
    lsn: Lsn
    tsn: Lsn
    """LSN of the first global row of the transaction (of the first row, if all are local) [W-3]."""
    flags: int
    body: Body
    group_id: int = GROUP_DEFAULT
    request_id: RequestId | None = None


class Txn:
    """One transaction as it lies in a WAL: all its rows, in order, and their bytes. Never split.

    origin, lsn: of its last global row; of its last row if all rows are local (then origin is LOCAL).
    """

    __slots__ = ("data", "flags", "lsn", "origin", "request_id", "rows")

    def __init__(self, rows: Sequence[Row], data: bytes) -> None:
        last = rows[-1]
        self.rows = rows
        self.data = data
        self.flags = last.flags
        self.request_id = last.request_id
        head = last
        if last.group_id == GROUP_LOCAL:
            for row in reversed(rows):
                if row.group_id != GROUP_LOCAL:
                    head = row
                    break
        self.origin: InstanceId = head.replica_id
        self.lsn: Lsn = head.lsn

    @property
    def is_wait_sync(self) -> bool:
        return bool(self.flags & FLAG_WAIT_SYNC)

    @property
    def is_wait_ack(self) -> bool:
        return bool(self.flags & FLAG_WAIT_ACK)

    @property
    def is_local(self) -> bool:
        """All rows are local: nothing of it is sent to a peer."""
        return self.origin == LOCAL

    @property
    def control(self) -> Control | None:
        """The control request this transaction consists of, if it is one."""
        return self.rows[0].body if self.rows[0].type in CONTROL_TYPES else None  # type: ignore[return-value]

    @property
    def is_nop(self) -> bool:
        return self.rows[0].type is RowType.NOP and all(row.type is RowType.NOP for row in self.rows)

    def components(self) -> Iterator[tuple[InstanceId, Lsn]]:
        """(instance id, highest LSN) for each vclock component the transaction moves; one or two."""
        yield self.origin, self.lsn
        if self.origin != LOCAL and len(self.rows) > 1:
            for row in reversed(self.rows):
                if row.group_id == GROUP_LOCAL:
                    yield LOCAL, row.lsn
                    return

    def __repr__(self) -> str:
        kinds = ",".join(row.type.name for row in self.rows)
        return f"Txn({self.origin}:{self.lsn} {kinds} flags={self.flags})"


class TxnId(NamedTuple):
    """Name of a transaction for people: `origin:lsn` of its last global row."""

    origin: InstanceId
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.origin}:{self.lsn}"
