"""Breadth-first over all orders of what may happen, from each start with each set of streams."""

from __future__ import annotations

import hashlib
import struct
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.explore.facts import Violation
from tests.explore.start import STARTS, Start
from tests.explore.world import HISTORY, PAIRS, Action, State, World, patterns

_STATE, _PHYSICAL = struct.Struct("13I"), struct.Struct("9I")
Place = tuple[Start, int]
"""And the streams that there are, a bit each."""
SITUATIONS = (
    "PROMOTE decided",
    "PROMOTE pending over a crash",
    "entry confirmed",
    "entry rolled back",
    "row of a deposed owner made a Nop",
    "elected, and a writer waited for in vain",
)
"""A run that meets one of them nowhere proves nothing of it."""


@dataclass
class Report:
    """states: distinct ones, by instances, logs, and what is on its way. whole: starts of which every state
    in scope was seen. steps: of one instance."""

    states: int = 0
    moves: int = 0
    starts: int = 0
    whole: int = 0
    steps: int = 0
    seconds: float = 0.0
    hits: dict[str, int] = field(default_factory=dict)
    violation: str | None = None
    rule: str | None = None


class Search:
    """Where a state was found says what may follow: so one is looked at again from another start, and counts
    once."""

    def __init__(self) -> None:
        self.world = World()
        self.moves_made = 0
        self._distinct: set[bytes] = set()
        self._seen: dict[bytes, int] = {}
        self._parents = array("I")
        self._moves: list[Action | None] = []

    def run(self, places: Sequence[Place], states: int) -> Report:
        """Until so many distinct states were seen: the same share for each start, and what small ones leave
        goes to those behind them."""
        began, whole, report = time.perf_counter(), 0, Report()
        try:
            for number, (start, links) in enumerate(places):
                share = (states - len(self._distinct)) // (len(places) - number)
                whole += self._explore(start, links, len(self._distinct) + share)
        except _Found as found:
            report.violation, report.rule = str(found), found.rule
        report.states, report.moves, report.starts = len(self._distinct), self.moves_made, len(places)
        report.whole, report.steps, report.hits = whole, self.world.cells.made, self.world.hits
        report.seconds = time.perf_counter() - began
        return report

    def _explore(self, start: Start, links: int, limit: int) -> bool:
        """True: every state that can be reached was seen."""
        title = f"{start.name}, links {_say(links)}"
        try:
            first = self.world.begin(start, links)
        except Violation as violation:
            raise _Found(violation, title, []) from None
        begun = self._note(first, 0, None)
        assert begun is not None
        front = deque([(begun, first)])
        while front:
            if len(self._distinct) >= limit:
                return False
            number, state = front.popleft()
            for action in self.world.actions(state):
                self.moves_made += 1
                try:
                    after = self.world.apply(state, action)
                except (Violation, AssertionError) as error:
                    raise _Found(error, title, [*self._way(number), action]) from error
                if after is not None and (found := self._note(after, number, action)) is not None:
                    front.append((found, after))
        return True

    def _note(self, state: State, parent: int, action: Action | None) -> int | None:
        """None: it was seen before; a start always counts as new."""
        key = hashlib.blake2b(_STATE.pack(*state), digest_size=12).digest()
        if action is not None and key in self._seen:
            return None
        self._distinct.add(hashlib.blake2b(_PHYSICAL.pack(*state[1:HISTORY]), digest_size=12).digest())
        number = self._seen.setdefault(key, len(self._moves))
        if number == len(self._moves):
            self._parents.append(parent)
            self._moves.append(action)
        return number

    def _way(self, number: int) -> list[Action]:
        way: list[Action] = []
        while (action := self._moves[number]) is not None:
            way.append(action)
            number = self._parents[number]
        return way[::-1]


class _Found(Exception):
    def __init__(self, error: Exception, title: str, way: Sequence[Action]) -> None:
        self.rule = error.rule if isinstance(error, Violation) else type(error).__name__
        steps = "; ".join(f"{word} {a} {b}" if b else f"{word} {a}" for word, a, b in way)
        super().__init__(f"{error}\nfrom: {title}\nby: {steps}")


def _say(links: int) -> str:
    return " ".join(f"{a}->{b}" for at, (a, b) in enumerate(PAIRS) if links >> at & 1) or "none"


def every_place() -> list[Place]:
    """Few streams first: they leave much to the others."""
    return [(start, links) for links in patterns() for start in STARTS]


def a_place_of_each() -> list[Place]:
    """Each set of streams once, each start in turn; all streams go with the last start, which needs many."""
    turns = [n + n // len(STARTS) for n, _ in enumerate(patterns())]
    return [
        (STARTS[(turn - turns[-1] - 1) % len(STARTS)], links)
        for turn, links in zip(turns, patterns(), strict=True)
    ]
