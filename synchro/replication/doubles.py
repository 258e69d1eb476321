"""Is one identity alive in two processes? ADR 23. Pure.

A copied data directory on another port has the same UUID, so both copies would vote, ack and number rows as
one instance. Each life of a process has a random start id. A restart shows a new one and never the old one
again; two that speak in turns are two processes. Which of them is the copy nobody can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from synchro.errors import DoubledIdentity

LIVES_MAX: Final = 4
"""How many lives of one identity are remembered. Two are enough to know, and restarts that follow each other
fall out."""


class Life(NamedTuple):
    """One life of a process. start_id: random; "" = an older version, which is never taken for a double."""

    start_id: str
    address: str
    """The host:port at which it says that it listens."""


@dataclass(slots=True)
class _Heard:
    life: Life
    first_at: float
    last_at: float


def doubled_error(uuid: str, lives: Sequence[Life]) -> DoubledIdentity:
    """The error for the log and for the instances that are concerned. lives: not empty."""
    return DoubledIdentity(
        f"two live processes have the identity {uuid}: {' and '.join(life.address for life in lives)} "
        f"(start ids {', '.join(life.start_id for life in lives)}); neither votes, counts or writes while "
        "both answer. Next: stop the one that is the copy, and remove its directory",
        uuid=uuid,
        lives=",".join(f"{life.start_id}@{life.address}" for life in lives),
    )


class Doubles:
    """What this instance knows of lives, its own identity included. Times are monotonic seconds.

    Z1  An identity is doubled as long as two of its lives were heard within a death timeout, each of them
        after the other one began. So a restart alone is no double, whatever its old connection still does.
    Z2  This instance is doubled as long as it heard another life of itself, or was told by a peer that sees
        both, within a death timeout.
    Z3  An identity that was not heard for a death timeout is forgotten when a new one is heard: anonymous
        instances come and go, each with its own (ADR 45).
    """

    def __init__(self, uuid: str, me: Life, death_s: float) -> None:
        self.uuid = uuid
        self.me = me
        self.death_s = death_s
        """The death timeout; another one when that option changes."""
        self._heard: dict[str, dict[str, _Heard]] = {}
        self._told: dict[str, tuple[float, tuple[Life, ...]]] = {}

    def heard(self, uuid: str, life: Life, at: float) -> None:
        """`life` of this identity said something at this time."""
        if not life.start_id or (uuid == self.uuid and life.start_id == self.me.start_id):
            return
        lives = self._heard.get(uuid)
        if lives is None:
            self._forget_silent(at)
            lives = self._heard[uuid] = {}
        for start_id in [s for s, one in lives.items() if at - one.last_at > self.death_s]:
            del lives[start_id]
        one = lives.get(life.start_id)
        if one is None:
            while len(lives) >= LIVES_MAX:
                del lives[min(lives, key=lambda start_id: lives[start_id].last_at)]
            lives[life.start_id] = _Heard(life, at, at)
        elif at >= one.last_at:
            one.life, one.last_at = life, at

    def _forget_silent(self, at: float) -> None:
        """Doubles.Z3"""
        for uuid, lives in list(self._heard.items()):
            if all(at - one.last_at > self.death_s for one in lives.values()):
                del self._heard[uuid]

    def told(self, by: str, lives: Sequence[Life], at: float) -> None:
        """The peer `by` says that it hears these lives of our identity."""
        self._told[by] = (at, tuple(lives))

    def accepted(self, by: str) -> None:
        """The peer `by` says that it hears only us under our identity."""
        self._told.pop(by, None)

    def is_told_by(self, by: str) -> bool:
        """Whether the peer said that our identity is doubled, and did not take it back."""
        return by in self._told

    def is_suspect(self, uuid: str) -> bool:
        """Whether more than one life of this identity is remembered: then what it says next decides."""
        return len(self._heard.get(uuid, ())) > 1

    def lives(self, uuid: str, now: float) -> tuple[Life, ...]:
        """The lives of a doubled identity, in the order of their start ids; empty if it is not doubled."""
        if uuid == self.uuid:
            return self._own(now)
        alive = self._alive(uuid, now)
        doubled = [
            one.life
            for one in alive
            if any(
                one.last_at > other.first_at and other.last_at > one.first_at
                for other in alive
                if other is not one
            )
        ]
        return tuple(sorted(doubled))

    def _alive(self, uuid: str, now: float) -> list[_Heard]:
        heard = self._heard.get(uuid)
        return [one for one in heard.values() if now - one.last_at <= self.death_s] if heard else []

    def _own(self, now: float) -> tuple[Life, ...]:
        found = {one.life.start_id: one.life for one in self._alive(self.uuid, now)}
        for at, lives in self._told.values():
            if now - at <= self.death_s:
                found |= {life.start_id: life for life in lives}
        if not found:
            return ()
        return tuple(sorted((found | {self.me.start_id: self.me}).values()))
