"""With which of its sources an instance must catch up before it writes: the state `orphan`. Pure.

Rules [M-40]..[M-47], ADR 46. Whether a source is caught up with is for its applier to say [M-41].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import NamedTuple

from synchro.config import Settings


class SourceState(Enum):
    AWAY = "away"
    """There is no link to it, or it does not let us follow it yet."""
    DOWN = "down"
    """Its host answers, and nobody listens at its address."""
    SYNCING = "syncing"
    """It has rows that are missing here."""
    SETTLED = "settled"
    """It was caught up with; or there is nothing to wait for: its stream was stopped by an error, or it is
    this instance itself."""


class Patience(NamedTuple):
    """How long a source is waited for that does not let us follow it, in seconds."""

    away_s: float
    """`connect_timeout`: it, or the network, may be slow."""
    down_s: float
    """The death timeout, if that is less: where nobody listens, nobody writes meanwhile."""

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        away_s = settings.connect_timeout_s
        return cls(away_s, min(away_s, settings.death_timeout_s))

    def with_one(self, state: SourceState) -> float:
        return self.down_s if state is SourceState.DOWN else self.away_s


class CatchUp:
    """The sources that are still waited for. Times are monotonic seconds.

    K1  A source that was settled once is not waited for again as long as it is a source.
    K2  A source that is away on end for as long as `Patience` says is not waited for any more: nobody can say
        when it comes back, and those who are here have to go on.
    """

    def __init__(self) -> None:
        self._sources: frozenset[str] = frozenset()
        self._away_since: dict[str, float] = {}
        """Of those that are waited for; while one is not away: now."""

    def sources_are(self, sources: Collection[str], now: float) -> None:
        """From now on. Those that were a source before, and were settled, stay so."""
        self._away_since = {
            name: self._away_since.get(name, now)
            for name in sorted(sources)
            if name in self._away_since or name not in self._sources
        }
        self._sources = frozenset(sources)

    def settle(self) -> None:
        """Nothing that a source has can be missing here."""
        self._away_since.clear()

    def look(self, states: Mapping[str, SourceState], now: float, patience: Patience) -> None:
        """states: of the sources; one that is not there is away."""
        for name in list(self._away_since):
            state = states.get(name, SourceState.AWAY)
            if state is SourceState.SETTLED:
                del self._away_since[name]  # CatchUp.K1
            elif state is SourceState.SYNCING:
                self._away_since[name] = now
            elif now - self._away_since[name] >= patience.with_one(state):
                del self._away_since[name]  # CatchUp.K2

    @property
    def waits_for(self) -> Mapping[str, float]:
        """Source -> since when it is away; for one that is not: when that was looked at last."""
        return self._away_since
