"""What the rows of one log mean, as short as it can be said: the readable definition of "correct".

Rows go in, in WAL order, as they are synced; fates come out. No acks, no messages, no roles, no clocks. The
simulator compares an instance with it after every write, and the fates of all instances with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from synchro.ids import LOCAL
from synchro.row import Confirm, Demote, Dml, Promote, RowType, Tuple, Txn
from synchro.storage import schema
from synchro.storage.index import Iterator_
from tests.mesh import ASYNC

TxnKey = tuple[int, int]
"""(origin, LSN of its last row)"""


class Fate(NamedTuple):
    is_committed: bool
    term: int
    """queue term of the segment it belongs to"""
    txn: Txn


class Pending(NamedTuple):
    origin: int
    lsn: int
    body: Promote | Demote


Data = dict[tuple[int, object], tuple[object, ...]]
"""(space, key) -> tuple"""


class Range(NamedTuple):
    """A read by the primary key, of at most `limit` tuples. iterator: EQ, GE or LE."""

    space_id: int
    key: int
    iterator: Iterator_ = Iterator_.EQ
    limit: int = 1

    def of(self, data: Data) -> list[Tuple]:
        """What it finds."""
        space_id, key, iterator, limit = self
        found: list[int] = [each for space, each in data if space == space_id]  # type: ignore[misc]
        if iterator is Iterator_.EQ:
            keys = [each for each in found if each == key]
        elif iterator is Iterator_.GE:
            keys = sorted(each for each in found if each >= key)
        else:
            assert iterator is Iterator_.LE
            keys = sorted((each for each in found if each <= key), reverse=True)
        return [data[space_id, each] for each in keys[:limit]]


Newest = dict[object, tuple[int, int]]
"""key -> (time, origin) of the newest row that was ever seen of it; None -> of the newest truncate"""


def merge(data: Data, newest: Newest, op: Dml, origin: int) -> None:
    """Where the last write wins: nothing is ever forgotten, and all is compared (ADR 44)."""
    stamp = (op.stamp, origin)
    floor = newest.get(None, (0, 0))
    if op.space_id == schema.TRUNCATE_ID:
        newest[None] = max(stamp, floor)
        for place in [place for place in data if place[0] == ASYNC and newest[place[1]] < stamp]:
            del data[place]
        return
    key = op.key[0] if op.key is not None else op.value[0] if op.value is not None else None
    if stamp < max(newest.get(key, (0, 0)), floor):
        return
    newest[key] = stamp
    data.pop((ASYNC, key), None)
    if op.value is not None:
        data[ASYNC, key] = op.value


def change(data: Data, txn: Txn, newest: Newest) -> None:
    """What a committed transaction does."""
    for row in txn.rows:
        op = row.body
        if not isinstance(op, Dml):
            continue
        if op.stamp:
            merge(data, newest, op, txn.origin)
        elif op.space_id == schema.TRUNCATE_ID and op.value is not None:
            _empty(data, op.value[0])
        else:
            change_one(data, op)


def change_one(data: Data, op: Dml) -> None:
    fields = op.value if op.key is None else op.key
    assert fields is not None
    place = (op.space_id, fields[0])
    old = data.get(place)
    if op.type is RowType.DELETE:
        data.pop(place, None)
        if op.space_id == schema.SPACE_ID:
            _empty(data, fields[0])
    elif op.type is RowType.UPDATE or (op.type is RowType.UPSERT and old is not None):
        if old is not None:
            data[place] = updated(old, op.ops or ())
    else:
        assert op.value is not None
        data[place] = op.value


def _empty(data: Data, space_id: object) -> None:
    for place in [place for place in data if place[0] == space_id]:
        del data[place]


def updated(row: tuple[object, ...], ops: Iterable[tuple[object, ...]]) -> tuple[object, ...]:
    """What an update makes of a tuple, as far as clients of the simulator ask for it. Fields count from 1."""
    fields: list[Any] = list(row)
    for sign, number, operand in ops:
        at = int(number) - 1  # type: ignore[call-overload]
        match sign:
            case "=":
                fields[at : at + 1] = [operand]
            case "+":
                fields[at] += operand
            case "-":
                fields[at] -= operand
            case "!":
                fields.insert(at, operand)
            case "#":
                del fields[at : at + int(operand)]  # type: ignore[call-overload]
            case _:
                raise AssertionError(sign)
    return tuple(fields)


class LogModel:
    """Owner, term, queue, fates and data that follow from a log."""

    def __init__(self) -> None:
        self.owner = 0
        self.term = 1
        self.confirmed: dict[int, int] = {}
        self.pending: dict[int, Pending] = {}
        self.queue: list[Txn] = []
        self.fates: dict[TxnKey, bool] = {}
        self.nops: set[TxnKey] = set()
        self.lsns: dict[int, int] = {}
        self.data: Data = {}
        self.newest: Newest = {}
        self.decided_own: Pending | None = None
        """The take-over that the last row decided, if it decided one."""

    def apply(self, txn: Txn) -> Iterator[Fate]:
        """The next row of the log; what is decided by it, in order. While a commit is handed out, `data` is
        what is ahead of it in the log."""
        self.decided_own = None
        origin, lsn = txn.origin, txn.lsn
        for instance, last in txn.components():
            self.lsns[instance] = last
        body = txn.control
        if isinstance(body, Confirm):
            yield from self._confirm(origin, body)
        elif isinstance(body, Promote | Demote):
            if body.term > self.term and body.term not in self.pending:
                self.pending[body.term] = Pending(origin, lsn, body)
        elif txn.is_nop:
            self.nops.add((origin, lsn))
        elif isinstance(txn.rows[0].body, Dml):
            if txn.is_wait_sync and (self.queue or origin != LOCAL):
                self.queue.append(txn)
            else:
                yield from self._commit(txn)

    def _confirm(self, origin: int, body: Confirm) -> Iterator[Fate]:
        if body.lsn <= self.confirmed.get(body.owner, 0) or origin != body.owner:
            return
        announced = [p for p in self.pending.values() if p.origin == origin and p.lsn <= body.lsn]
        if announced:
            yield from self._decide(max(announced, key=lambda p: p.body.term))
            self._raise(body.owner, body.lsn)
        elif origin == self.owner:
            yield from self._commit_up_to(body.lsn)
            self._raise(origin, body.lsn)

    def _decide(self, newest: Pending) -> Iterator[Fate]:
        chain = [newest]
        while (base := self.pending.get(chain[-1].body.prev_term)) is not None and base.body.term > self.term:
            chain.append(base)  # one that is not pending was a twin of what is decided (ADR 15)
        for one in reversed(chain):
            if one.body.prev_owner == self.owner:
                yield from self._commit_up_to(one.body.lsn)
            while self.queue:
                txn = self.queue.pop()
                self.fates[txn.origin, txn.lsn] = False
                yield Fate(False, self.term, txn)
            self._raise(one.body.prev_owner, one.body.lsn)
            self._raise(one.origin, one.lsn)
            self.term = one.body.term
            self.owner = one.origin if isinstance(one.body, Promote) else 0
        for term in sorted(self.pending):
            prev_term = self.pending[term].body.prev_term
            if term <= self.term or (prev_term != self.term and prev_term not in self.pending):
                del self.pending[term]
        self.decided_own = newest

    def learn(self, owner: int, term: int, lsn: int) -> Iterator[Fate]:
        """A snapshot knows that the owner had committed up to `lsn`, though no CONFIRM says so (ADR 11)."""
        if (owner, term) == (self.owner, self.term) and lsn > self.confirmed.get(owner, 0):
            yield from self._commit_up_to(lsn)
            self._raise(owner, lsn)

    def up_to(self, lsn: int) -> list[Txn]:
        """The left part of the queue that is committed when the owner has committed up to `lsn`: local
        transactions have LSNs of their own, and go with what they stand behind [Q-15]."""
        count = 0
        for number, txn in enumerate(self.queue, 1):
            if txn.origin == LOCAL:
                count += count == number - 1
            elif txn.lsn > lsn:
                break
            else:
                count = number
        return self.queue[:count]

    def _commit_up_to(self, lsn: int) -> Iterator[Fate]:
        for _ in self.up_to(lsn):
            yield from self._commit(self.queue.pop(0))

    def _commit(self, txn: Txn) -> Iterator[Fate]:
        self.fates[txn.origin, txn.lsn] = True
        yield Fate(True, self.term, txn)
        change(self.data, txn, self.newest)

    def _raise(self, owner: int, lsn: int) -> None:
        if owner and lsn > self.confirmed.get(owner, 0):
            self.confirmed[owner] = lsn
