"""Linearizable reads on the owner: rounds of heartbeats that prove it still is the owner. [Q-62], ADR 17."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from synchro.ids import CallId, InstanceId, Term
from synchro.row import TxnId
from synchro.vclock import Vclock


class Electorate(NamedTuple):
    """The members that may elect the next owner, and how many of them share one with each of its quorums."""

    members: frozenset[InstanceId]
    needed: int
    """How many members must echo; the owner counts too."""


class Awaited(NamedTuple):
    """The last transaction that waited in the queue of its origin, on its disk, in this term of the queue."""

    txn: TxnId
    term: Term


class ReadPosition(NamedTuple):
    """How far an instance must be to answer a linearizable read of which it asked the owner [Q-63].

    vclock: all of this must be in its log, and decided where it waited for a quorum. awaited: this must be
    decided too; None: nothing waited, or the owner is of an older version.
    """

    vclock: Vclock
    awaited: Awaited | None = None


class ReadBarrier:
    """Reads that ask before the number of a round is on a heartbeat share it; later ones wait for the next.

    B1  A round's echoes were sent after each of its readers asked: its number was not on any heartbeat
        before. So if enough of each electorate still echo our term, no later owner had decided a write then.
    B2  Without readers no round is open, and nobody waits for the next.

    Why sharing is right. Let a reader join the round with number n, and let enough members echo n with our
    term. n is told by `show` alone, which the reader came before; so each of these echoes was sent after the
    reader asked. Who elects a later owner persists the higher term before it votes, and an ack names the
    term of its sender. One voter of each possible later owner is among those who echoed: it had not voted
    when the reader asked. So nobody but this instance, or owners before it, had answered a write by then, and
    what they answered is committed here [Q-60].

    After `show` none of this holds: an echo may be on its way that was sent before the reader asked, and
    between the two a later owner may have been elected, and may have answered a write.
    """

    __slots__ = ("_echoed", "_is_shown", "_next_readers", "_number", "_readers")

    def __init__(self) -> None:
        self._number = 0
        self._is_shown = False
        self._readers: list[CallId] = []
        self._next_readers: list[CallId] = []
        self._echoed: set[InstanceId] = set()

    @property
    def is_open(self) -> bool:
        return bool(self._readers)

    def show(self) -> int:
        """The number for a heartbeat that is made now; it grows by one each round. Who asks from now on waits
        for the next round (ReadBarrier.B1)."""
        self._is_shown = True
        return self._number

    def ask(self, call_id: CallId) -> bool:
        """A reader came. Returns True if a round starts now, so that heartbeats must be sent at once."""
        if self._readers and not self._is_shown:
            self._readers.append(call_id)  # ReadBarrier.B1
            return False
        self._next_readers.append(call_id)
        return self._start_round()

    def _start_round(self) -> bool:
        if self._readers or not self._next_readers:
            return False
        self._readers, self._next_readers = self._next_readers, []
        self._echoed.clear()
        self._number += 1
        self._is_shown = False
        return True

    def echo(self, source: InstanceId, number: int, term: Term, own_term: Term) -> None:
        if self._readers and self._is_shown and number >= self._number and term == own_term:
            self._echoed.add(source)

    def check(self) -> None:
        """ReadBarrier.B1, ReadBarrier.B2."""
        assert self._is_shown or not self._echoed or not self._readers
        assert self._readers or not self._next_readers

    def finish(self, electorates: Iterable[Electorate]) -> tuple[list[CallId], bool]:
        """Return the readers that may read now, and whether the next round starts."""
        if not self._readers:
            return [], False
        if any(1 + len(self._echoed & members) < needed for members, needed in electorates):
            return [], False
        ready, self._readers = self._readers, []
        return ready, self._start_round()

    def drop(self, call_id: CallId) -> bool:
        """The reader is gone. Returns True if the next round starts, because nobody waits for this one."""
        for readers in (self._readers, self._next_readers):
            if call_id in readers:
                readers.remove(call_id)
        return self._start_round()

    def fail(self) -> list[CallId]:
        """This instance is no longer the owner. Returns all readers, to be refused."""
        failed = self._readers + self._next_readers
        self._readers, self._next_readers = [], []
        return failed
