"""How clients begin that are in a part of the worlds only, each kind with a stream of choices of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.world import World


class Visitors(ABC):
    """All clients of one kind in a world; none in most worlds."""

    def __init__(
        self, world: World, name: str, *, is_eligible: bool, share: float, pauses: Sequence[float]
    ) -> None:
        """name: of their stream. share: of the eligible worlds, those that they are in. pauses: of which one
        is drawn, the mean between two turns; times the time scale of the world."""
        self.world = world
        self.rng = world.choices.stream(name)
        self.is_on = is_eligible and self.rng.random() < share
        self.pause = self.rng.choice(pauses) * world.time_scale

    def start(self) -> None:
        if self.is_on:
            self._later()

    def _later(self) -> None:
        self.world.at(self.world.now + self.rng.expovariate(1.0) * self.pause, self._next)

    @abstractmethod
    def _next(self) -> None:
        """One turn, which calls `_later` unless it was the last."""
