"""Linearizable reads on the owner: rounds of heartbeats that prove it still is the owner. [Q-62], ADR 17."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from synchro.ids import CallId, InstanceId, Term


class Electorate(NamedTuple):
    """The members that may elect the next owner, and how many of them share one with each of its quorums."""

    members: frozenset[InstanceId]
    needed: int
    """How many members must echo; the owner counts too."""


class ReadBarrier:
    """Waiting reads share a round; reads that come while one is open wait for the next.

    B1  A round's echoes were sent after each of its readers asked: its number was not on any heartbeat
        before. So if enough of each electorate still echo our term, no later owner had decided a write then.
    """

    __slots__ = ("_echoed", "_next_readers", "_readers", "number")

    def __init__(self) -> None:
        self.number = 0
        """The number that every heartbeat carries; it grows by one each round."""
        self._readers: list[CallId] = []
        self._next_readers: list[CallId] = []
        self._echoed: set[InstanceId] = set()

    @property
    def is_open(self) -> bool:
        return bool(self._readers)

    def ask(self, call_id: CallId) -> bool:
        """A reader came. Returns True if a round starts now, so that heartbeats must be sent at once."""
        self._next_readers.append(call_id)
        return self._start_round()

    def _start_round(self) -> bool:
        if self._readers or not self._next_readers:
            return False
        self._readers, self._next_readers = self._next_readers, []
        self._echoed.clear()
        self.number += 1
        return True

    def echo(self, source: InstanceId, number: int, term: Term, own_term: Term) -> None:
        if self._readers and number >= self.number and term == own_term:
            self._echoed.add(source)

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
