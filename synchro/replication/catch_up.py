"""With which of its sources an instance must catch up before it writes: the state `orphan`. Pure.

Rules [M-40]..[M-47], ADR 46. Whether a source is caught up with is for its applier to say [M-41].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum


class SourceState(Enum):
    AWAY = "away"
    """There is no link to it, or it does not let us follow it yet."""
    SYNCING = "syncing"
    """It has rows that are missing here."""
    SETTLED = "settled"
    """It was caught up with; or there is nothing to wait for: its stream was stopped by an error, or it is
    this instance itself."""


class CatchUp:
    """The sources that are still waited for. Times are monotonic seconds.

    K1  A source that was settled once is not waited for again as long as it is a source.
    K2  A source that is away for `patience_s` on end is not waited for any more: nobody can say when it comes
        back, and those who are here have to go on.
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

    def look(self, states: Mapping[str, SourceState], now: float, patience_s: float) -> None:
        """states: of the sources; one that is not there is away. patience_s: `connect_timeout`."""
        for name in list(self._away_since):
            match states.get(name, SourceState.AWAY):
                case SourceState.SETTLED:
                    del self._away_since[name]  # CatchUp.K1
                case SourceState.SYNCING:
                    self._away_since[name] = now
                case SourceState.AWAY:
                    if now - self._away_since[name] >= patience_s:
                        del self._away_since[name]  # CatchUp.K2

    @property
    def waits_for(self) -> Mapping[str, float]:
        """Source -> since when it is away; for one that is not: when that was looked at last."""
        return self._away_since
