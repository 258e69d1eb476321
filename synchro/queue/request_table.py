"""The requests that were done: the memory behind retries. Every instance makes the same table from the rows.

A client names a request with 16 bytes and repeats them when it retries. The transaction carries them in its
last row (a shared one in the row of each call that has them), so this table moves with WAL, relay, snapshot
and join. A call without an id takes no place here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from synchro.ids import InstanceId, Lsn, RequestId, Term
from synchro.row import Txn, new_tuple

NOWHERE: Final = (Term(0), Lsn(0))
"""The position before every other."""


class RequestRecord(NamedTuple):
    """The transaction that a request became. term: queue term of its segment; None = not decided."""

    origin: InstanceId
    lsn: Lsn
    term: Term | None = None

    @property
    def is_decided(self) -> bool:
        return self.term is not None


@dataclass(frozen=True, slots=True)
class RequestTableState:
    """What a snapshot or a join carries: decided requests, oldest first, and how far was forgotten."""

    decided: tuple[tuple[RequestId, RequestRecord], ...] = ()
    forgotten_term: Term = NOWHERE[0]
    forgotten_lsn: Lsn = NOWHERE[1]


def _records(txn: Txn, term: Term | None) -> list[tuple[RequestId, RequestRecord]]:
    origin, ids = txn.origin, txn.request_ids
    if len(ids) == 1 and (only := ids[0]) is not None:
        return [(only, new_tuple(RequestRecord, (origin, txn.lsn, term)))]
    return [(request_id, new_tuple(RequestRecord, (origin, lsn, term))) for request_id, lsn in txn.requests()]


class RequestTable:
    """Request id -> transaction, from the moment it is prepared.

    R1  A rolled back request is not in the table: a retry runs again.
    R2  Of the decided ones the last `remembered_max` are kept, in the order of their decision, which in a
        claimed queue is the order of positions (queue term of the segment, LSN).
    R3  Everything forgotten lies at or below `forgotten`. A retry whose client had seen that much when it
        first sent the request is safe: its transaction lies above what the client had seen.
    """

    def __init__(self, remembered_max: int) -> None:
        assert remembered_max > 0
        self._remembered_max = remembered_max
        self._records: dict[RequestId, RequestRecord] = {}
        self._decided: deque[tuple[RequestId, RequestRecord]] = deque()
        self._forgotten: tuple[Term, Lsn] = NOWHERE

    def __len__(self) -> int:
        return len(self._records)

    def find(self, request_id: RequestId) -> RequestRecord | None:
        return self._records.get(request_id)

    def holds_any(self, request_ids: Iterable[RequestId | None]) -> bool:
        return not self._records.keys().isdisjoint(request_ids)

    def prepared(self, txn: Txn) -> None:
        """A transaction with request ids was prepared. Never called for NOPs: they did nothing."""
        self._records.update(_records(txn, None))

    def committed(self, txn: Txn, term: Term) -> None:
        """The transaction is decided. term: queue term of its segment."""
        self._remember(_records(txn, term))

    def rolled_back(self, txn: Txn) -> None:
        """Forget the ids of a transaction. An id that stands for another transaction by now stays (possible
        without an owner only)."""
        for request_id, lsn in txn.requests():
            if self._records.get(request_id) == (txn.origin, lsn, None):
                del self._records[request_id]  # RequestTable.R1

    def expired(self, *, known_term: Term, known_lsn: Lsn) -> bool:
        """Whether an id that is not in the table may stand for a transaction that was forgotten.

        known_term, known_lsn: the newest decided position that the client had seen when it first sent the id.
        """
        return (known_term, known_lsn) < self._forgotten  # RequestTable.R3

    def export(self) -> RequestTableState:
        """The decided requests. What is pending comes back with the rows behind the snapshot."""
        return RequestTableState(tuple(self._decided), *self._forgotten)

    def restore(self, state: RequestTableState) -> None:
        assert not self._records
        self._forgotten = (state.forgotten_term, state.forgotten_lsn)
        self._remember(state.decided)

    def _remember(self, decided: Sequence[tuple[RequestId, RequestRecord]]) -> None:
        self._records.update(decided)
        self._decided.extend(decided)
        while len(self._decided) > self._remembered_max:  # RequestTable.R2
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest, forgotten = self._decided.popleft()
        assert forgotten.term is not None
        self._forgotten = max(self._forgotten, (forgotten.term, forgotten.lsn))  # RequestTable.R3
        if self._records.get(oldest) is forgotten:  # else the id was used again meanwhile
            del self._records[oldest]

    def check(self) -> None:
        assert len(self._decided) <= self._remembered_max  # RequestTable.R2
        assert all(record.is_decided for _, record in self._decided)
        remembered = {request_id for request_id, _ in self._decided}
        assert all(not r.is_decided or i in remembered for i, r in self._records.items())
