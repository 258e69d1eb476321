"""Rows and transactions: the unit of the WAL, of replication and of the limbo. Rules [W-1..3], [D-40].

A row is a header and a body. The bytes of a row are made once, by its origin, and are the same in every
WAL and on every stream afterwards, so a `Txn` carries them along (`data`); see `storage/xrow.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeAlias, overload

from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn, RequestId, Term

Field: TypeAlias = Any
"""A msgpack value: None, bool, int, float, str, bytes, Decimal, UUID, `values.Datetime`, `values.Interval`,
tuple (array) or dict (map)."""

Tuple: TypeAlias = tuple[Field, ...]
"""One stored tuple, or a key. Decoded with `use_list=False`, so it is immutable."""


class RawTuple(tuple[Field, ...]):
    """A stored tuple whose msgpack is not the one that we would write; `raw` has the bytes as they came (ADR
    24).

    It has floats of 4 bytes, or integers and headers that are longer than they must be. It compares as its
    fields do.
    """

    raw: bytes


class RowType(IntEnum):
    """The kind of a row. The numbers are Tarantool's, so that tools which know them read our logs [D-40]."""

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
"""The row is the last one of its transaction [W-3]."""
FLAG_WAIT_SYNC: Final = 2
"""The transaction goes through the limbo; on the last row only."""
FLAG_WAIT_ACK: Final = 4
"""The transaction is synchronous itself; implies WAIT_SYNC; on the last row only."""
FLAG_DONE_ELSEWHERE: Final = FLAG_WAIT_SYNC
"""On the last row of a transaction that is Nops alone: its origin committed it, and all of it was left out
for conflicts (ADR 19). Nops wait for nobody, so there the bit was free, and versions that do not know it pass
it on."""
FLAG_REQUEST_ID: Final = 8
"""16 bytes of request id stand between header and body: on the last row, or on rows of a shared
transaction."""
FLAG_SHARED: Final = 16
"""The row is the whole change of a call. On every row of a shared transaction in which at least one row has
no request id (ADR 13)."""

GROUP_DEFAULT: Final = 0
GROUP_LOCAL: Final = 1
"""The row never leaves its instance; its LSN counts in component 0 [W-5]."""


class Dml(NamedTuple):
    """One change of one tuple. Which fields are set depends on `type`:

    INSERT, REPLACE: value (the tuple).  UPDATE: index_id, key, ops.  DELETE: index_id, key.
    UPSERT: value, ops.
    `raw` is the encoded body (a msgpack map), made when the change was decoded or first encoded.
    stamp: when it was made, in a space where the last write wins (ADR 44); 0: elsewhere.
    """

    type: RowType
    space_id: int
    raw: bytes
    index_id: int = 0
    key: Tuple | None = None
    value: Tuple | None = None
    ops: tuple[Tuple, ...] | None = None
    stamp: int = 0


new_tuple: Final[Callable[..., Any]] = tuple.__new__
"""`new_tuple(cls, fields)` costs half of calling the class of a named tuple. Use it for what is made per
row."""
_new_dml: Final[Callable[[tuple[Any, ...]], Dml]] = partial(new_tuple, Dml)


class Puts(Sequence[Dml]):
    """INSERTs (or REPLACEs) into one space, as columns: what most large transactions are.

    raws, values: parallel, the fields of the `Dml` that an item is; that is made when somebody asks for it.
    """

    __slots__ = ("raws", "space_id", "type", "values")

    def __init__(self, kind: RowType, space_id: int, raws: Sequence[bytes], values: list[Tuple]) -> None:
        self.type = kind
        self.space_id = space_id
        self.raws = raws
        self.values = values

    def __len__(self) -> int:
        return len(self.raws)

    def __repr__(self) -> str:
        return f"Puts({self.type.name}, {self.space_id}, {self.values})"

    @overload
    def __getitem__(self, index: int) -> Dml: ...
    @overload
    def __getitem__(self, index: slice) -> Puts: ...
    def __getitem__(self, index: int | slice) -> Dml | Puts:
        if isinstance(index, slice):
            return Puts(self.type, self.space_id, self.raws[index], self.values[index])
        return Dml(self.type, self.space_id, self.raws[index], 0, None, self.values[index])

    def __iter__(self) -> Iterator[Dml]:
        kind, space_id, zero, none = repeat(self.type), repeat(self.space_id), repeat(0), repeat(None)
        return map(
            _new_dml, zip(kind, space_id, self.raws, zero, none, self.values, none, zero, strict=False)
        )


PENDING_ROW_BYTES: Final = 512
"""What a row that is on its way, or waits for its decision, needs in memory beside its bytes. This bounds how
many are decided in one step, too."""


class Nop(NamedTuple):
    """A row that takes an LSN and does nothing [P-50]."""


class RaftState(NamedTuple):
    """The persisted term and vote, a LOCAL row [E-2]. vote `NOBODY`: this instance did not vote in this
    term."""

    term: Term
    vote: InstanceId = NOBODY


class Confirm(NamedTuple):
    """Entries of `owner` up to `lsn` are committed; this may also decide a PROMOTE of `owner` (ADR 1).

    It is a row with an LSN like any other, and does not enter the queue [Q-28].
    """

    owner: InstanceId
    lsn: Lsn


class Rollback(NamedTuple):
    """Entries of `owner` from `lsn` on are rolled back [Q-50]. Read for compatibility, and never written."""

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
    """The same request as `Promote`, but it leaves the queue without an owner [P-31]."""

    prev_owner: InstanceId
    lsn: Lsn
    term: Term
    prev_term: Term


Control: TypeAlias = Confirm | Rollback | Promote | Demote
Body: TypeAlias = Dml | Nop | RaftState | Control

CONTROL_ROW_TYPE: Final[dict[type[Control], RowType]] = {
    Confirm: RowType.CONFIRM,
    Rollback: RowType.ROLLBACK,
    Promote: RowType.PROMOTE,
    Demote: RowType.DEMOTE,
}
CONTROL_TYPES: Final = frozenset(CONTROL_ROW_TYPE.values())


class Row(NamedTuple):
    """One record of the log. `replica_id` is its origin; LOCAL rows have origin 0 [W-1]."""

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
    """One transaction as it lies in a WAL: all its rows, in order, and their bytes. It is never split.

    origin, lsn: of its last global row; of its last row if all rows are local (then origin is LOCAL).
    request_ids: none; that of its client; or, if it is shared, one for each row (ADR 13), None where the
    call has none.
    """

    __slots__ = ("_rows", "data", "flags", "lsn", "origin", "request_ids")

    def __init__(self, rows: Sequence[Row], data: bytes) -> None:
        last = rows[-1]
        self._rows: Sequence[Row] | None = rows
        self.data = data
        self.flags = last.flags
        is_unnamed = last.flags & FLAG_SHARED
        self.request_ids: Sequence[RequestId | None] = tuple(
            [row.request_id for row in rows if is_unnamed or row.request_id is not None]
        )
        head = last
        if last.group_id == GROUP_LOCAL:
            for row in reversed(rows):
                if row.group_id != GROUP_LOCAL:
                    head = row
                    break
        self.origin: InstanceId = head.replica_id
        self.lsn: Lsn = head.lsn

    @property
    def rows(self) -> Sequence[Row]:
        assert self._rows is not None
        return self._rows

    @property
    def row_count(self) -> int:
        return len(self.rows)

    @property
    def tsn(self) -> Lsn:
        return self.rows[0].tsn

    @property
    def ops(self) -> Sequence[Dml]:
        """The changes of tuples, in order."""
        return [row.body for row in self.rows if isinstance(row.body, Dml)]

    @property
    def is_wait_sync(self) -> bool:
        return bool(self.flags & FLAG_WAIT_SYNC)

    @property
    def is_wait_ack(self) -> bool:
        return bool(self.flags & FLAG_WAIT_ACK)

    @property
    def is_local(self) -> bool:
        """Whether all rows are local: nothing of the transaction is sent to a peer."""
        return self.origin == LOCAL

    @property
    def is_shared(self) -> bool:
        """Whether each row is the whole change of another call (ADR 13)."""
        return len(self.request_ids) > 1

    @property
    def call_count(self) -> int:
        """How many transactions that clients asked for are in it."""
        return len(self.request_ids) or 1

    @property
    def has_unnamed(self) -> bool:
        """Whether it is shared and some of its calls have no request id: only instances that say so read it
        (`Hello.takes_unnamed`)."""
        return bool(self.flags & FLAG_SHARED)

    def requests(self) -> Iterable[tuple[RequestId, Lsn]]:
        """The request ids that there are, each with the LSN that its client was told."""
        ids: Sequence[Any] = self.request_ids
        lsns: Iterable[Any] = range(self.lsn - len(ids) + 1, self.lsn + 1)
        if self.has_unnamed:
            return [named for named in zip(ids, lsns, strict=True) if named[0] is not None]
        return zip(ids, lsns, strict=True)

    @property
    def control(self) -> Control | None:
        """The control request this transaction consists of, if it is one."""
        return self.rows[0].body if self.rows[0].type in CONTROL_TYPES else None  # type: ignore[return-value]

    @property
    def is_nop(self) -> bool:
        return self.rows[0].type is RowType.NOP and all(row.type is RowType.NOP for row in self.rows)

    @property
    def is_done_request(self) -> bool:
        """Whether it is Nops, all in conflict here, of a request that its origin has done: never run it again
        (ADR 19)."""
        return bool(self.flags & FLAG_REQUEST_ID) and not self.flags & FLAG_WAIT_SYNC and self.is_nop

    @property
    def is_done_elsewhere(self) -> bool:
        """Whether it is Nops, all in conflict where they were written, of what its origin has done (ADR
        19)."""
        return self.is_done_request or (bool(self.flags & FLAG_DONE_ELSEWHERE) and self.is_nop)

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


class PlainTxn(Txn):
    """A transaction of changes only, all global, with LSNs without a gap: nearly every one is.

    ops: one for each row. The rows themselves are made when somebody asks for them.
    """

    __slots__ = ("_ops",)

    def __init__(
        self,
        ops: Sequence[Dml],
        data: bytes,
        origin: InstanceId,
        lsn: Lsn,
        flags: int,
        request_ids: Sequence[RequestId | None],
    ) -> None:
        self._rows = None
        self._ops = ops
        self.data = data
        self.origin = origin
        self.lsn = lsn
        """The LSN of the last row of the transaction."""
        self.flags = flags
        self.request_ids = request_ids

    @property
    def rows(self) -> Sequence[Row]:
        if self._rows is None:
            origin, tsn, ids = self.origin, self.tsn, self.request_ids
            each = self.flags & FLAG_SHARED
            rows = [Row(op.type, origin, Lsn(tsn + i), tsn, each, op) for i, op in enumerate(self._ops)]
            for i, request_id in enumerate(ids, start=len(rows) - len(ids)):
                if request_id is not None:
                    rows[i] = rows[i]._replace(flags=each | FLAG_REQUEST_ID, request_id=request_id)
            rows[-1] = rows[-1]._replace(flags=self.flags)
            self._rows = tuple(rows)
        return self._rows

    @property
    def row_count(self) -> int:
        return len(self._ops)

    @property
    def tsn(self) -> Lsn:
        return Lsn(self.lsn - len(self._ops) + 1)

    @property
    def ops(self) -> Sequence[Dml]:
        return self._ops

    @property
    def control(self) -> None:
        return None

    @property
    def is_nop(self) -> bool:
        return False

    def components(self) -> Iterator[tuple[InstanceId, Lsn]]:
        yield self.origin, self.lsn


class TxnId(NamedTuple):
    """The name of a transaction for people: `origin:lsn` of its last global row."""

    origin: InstanceId
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.origin}:{self.lsn}"
