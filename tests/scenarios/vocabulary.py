"""What all words of a scenario share: how they are declared, and one run of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from synchro.errors import SynchroError
from synchro.ids import CallId
from synchro.instance.core import Instance
from tests.scenarios import show
from tests.scenarios.box import Box
from tests.scenarios.first_start import FirstStarts
from tests.scenarios.script import ScenarioError
from tests.scenarios.world import Pair, World


@dataclass(frozen=True)
class Word:
    usage: str
    meaning: str
    method: Callable[..., CallId | None]


WORDS: dict[str, Word] = {}


def word(usage: str) -> Callable[[Callable[..., CallId | None]], Callable[..., CallId | None]]:
    def add(method: Callable[..., CallId | None]) -> Callable[..., CallId | None]:
        name = usage.split()[0]
        assert name not in WORDS and method.__doc__
        WORDS[name] = Word(usage, " ".join(method.__doc__.split()), method)
        return method

    return add


class Run:
    """One run. What a word prints is `lines` when it is over."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._world: World | None = None
        self._first = FirstStarts()
        self._calls: dict[str, CallId] = {}
        self.labels: dict[CallId, str] = {}

    def carry_out(self, known: Word, values: Sequence[Any], label: str | None) -> list[str]:
        """Returns the output. Raises `ScenarioError`."""
        self.lines = []
        call = known.method(self, *values)
        if self._world is not None:
            self._world.flush()
        if label is not None:
            if call is None or label in self._calls:
                raise ScenarioError(
                    f"{label!r} is taken" if call else "it makes no call that a name could have"
                )
            self._calls[label], self.labels[call] = call, label
        self._tell_answers(call, label)
        return self.lines

    def _tell_answers(self, new: CallId | None, label: str | None) -> None:
        if self._world is None:
            return
        answered, self._world.answered = self._world.answered, []
        for call in answered:
            text = show.outcome(self._world.outcomes[call])
            self.lines.append(f"{self.labels[call]} {text}" if call in self.labels else text)
        if new is not None and new not in answered:
            if new not in self.labels:
                raise ScenarioError("this call waits: give it a name, such as: a = insert ...")
            self.lines.append(f"{self.labels[new]} waits" if label is None else "waits")

    def tell_once(self, line: str) -> None:
        """For what instances try again and again in one step."""
        if line not in self.lines:
            self.lines.append(line)

    def tell(self, line: str) -> None:
        self.lines.append(line)

    @property
    def world(self) -> World:
        if self._world is None:
            raise ScenarioError("there are no instances yet: members 3")
        return self._world

    def instance(self, number: int) -> Instance:
        if number not in self.world.members:
            raise ScenarioError(f"instance {number} is not up")
        return self.world[number]

    def box(self, number: int) -> Box:
        if number not in self.world.boxes:
            raise ScenarioError(f"there is no instance {number}")
        return self.world.boxes[number]

    def call(self, label: str) -> CallId:
        if label not in self._calls:
            raise ScenarioError(f"no call has the name {label!r}")
        return self._calls[label]

    def link(self, pair: Pair) -> Pair:
        for number in pair:
            self.instance(number)
        if pair not in self.world.links:
            raise ScenarioError(f"{pair[1]} does not follow {pair[0]}")
        return pair

    def space(self, number: int, name: str) -> int:
        try:
            return self.instance(number).memtx.catalog.space(name).id
        except SynchroError as error:
            raise ScenarioError(error.message) from error
