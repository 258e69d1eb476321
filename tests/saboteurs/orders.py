"""Planted bugs that show in an order of few events, which chance seldom draws: the exploration finds each.

They are patches like those of `bugs.py`. Two of them are there too: the simulator needs hundreds of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from synchro.ids import Lsn
from synchro.queue.limbo import Limbo, QueueState
from synchro.queue.limbo_queue import LimboQueue
from synchro.row import Promote
from tests.saboteurs import bugs as _bugs  # noqa: F401 - it fills RARE
from tests.saboteurs.planted import RARE, Patch


@dataclass(frozen=True)
class Order:
    """breaks: the rule that it breaks. rules: invariants of which one must fire.

    start: of `tests/explore/start.py`. links: the streams that there are, a bit for each of `PAIRS`.
    states: how many it may take; is_slow: they are many.
    """

    name: str
    breaks: str
    patch: Patch
    rules: frozenset[str]
    start: int
    links: int
    states: int
    is_slow: bool = False


ALL: list[Order] = []
EVERY = 0b111111
BY_THE_SECOND = 0b101101
"""1 and 2 follow each other, and 2 and 3: the owner and the one that stands hear of each other by 2."""


def order(
    breaks: str, rules: str, *, start: int, links: int = EVERY, states: int = 5000, is_slow: bool = False
) -> Callable[[Callable[[], Iterator[None]]], Patch]:
    def register(function: Callable[[], Iterator[None]]) -> Patch:
        made = contextmanager(function)
        fires = frozenset(rules.split())
        ALL.append(Order(function.__name__, breaks, made, fires, start, links, states, is_slow))
        return made

    return register


@order("P-14", "S2 S3 S5 S16", start=17, links=BY_THE_SECOND, states=20000)
def a_promote_drops_what_it_should_confirm() -> Iterator[None]:
    following = Limbo._next_transfer

    def meagre(self: Limbo, raft_term: Any) -> Any:
        with patch.object(LimboQueue, "last_lsn", Lsn(0)):
            return following(self, raft_term)

    with patch.object(Limbo, "_next_transfer", meagre):
        yield


@order("Q-3", "S2 S3 S5 S9 S16", start=13, links=BY_THE_SECOND, states=60000, is_slow=True)
def an_owner_confirms_in_a_later_term() -> Iterator[None]:
    def stubborn(self: Limbo) -> QueueState:
        is_own = self.owner_id == self.self_id and self._claimed_here == self.term
        return QueueState.LEADER if is_own else QueueState.REPLICA if self.owner_id else QueueState.INACTIVE

    def always(self: Limbo, now: float) -> Any:
        if self.state is QueueState.LEADER and self._acks.meets_all:
            return self._commit_held(now)
        return advance(self, now)

    advance = Limbo.advance
    with patch.object(Limbo, "state", property(stubborn)), patch.object(Limbo, "advance", always):
        yield


@order("P-2", "S2 S3 S4 S5 S16", start=17, links=BY_THE_SECOND, states=30000)
def a_take_over_drops_all_that_waits() -> Iterator[None]:
    take_over = Limbo._take_over

    def greedy(self: Limbo, promote: Any, now: float, effects: Any) -> Any:
        with patch.object(LimboQueue, "confirm", lambda self, lsn, now: []):
            return take_over(self, promote, now, effects)

    with patch.object(Limbo, "_take_over", greedy):
        yield


@order("L-7", "S5 S9 S16 S17 AssertionError", start=7)
def a_promote_is_written_twice_in_a_term() -> Iterator[None]:
    following = Limbo._next_transfer_row

    def again(self: Limbo) -> Any:
        own = self.pending.get(self._volatile_term)
        if own is not None and own.origin == self.self_id and self._in_flight is None:
            return Promote(self.owner_id, self._queue.confirmed_lsn, self._volatile_term, self.term)
        return following(self)

    with patch.object(Limbo, "_next_transfer_row", again):
        yield


for _bug in RARE:
    if _bug.name == "vote_for_a_candidate_that_lacks_rows":
        ALL.append(Order(_bug.name, "E-15", _bug.patch, _bug.rules, 9, BY_THE_SECOND, 20_000))
    if _bug.name == "ack_counted_before_its_term":
        ALL.append(Order(_bug.name, "L-5", _bug.patch, _bug.rules, 13, BY_THE_SECOND, 70_000, is_slow=True))
