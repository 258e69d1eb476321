"""Anonymous followers of one node: who they are, and how long the log is kept for those that are away. Rules
[M-6], [W-42], ADR 45.

They have no id. Inside this process each has a number above all ids, so that its stream lies beside those of
members and cannot be taken for one of theirs; nobody else ever sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from synchro.config import Settings
from synchro.errors import Loading
from synchro.ids import InstanceId
from synchro.server.downstream import Downstream
from synchro.vclock import Vclock


@dataclass(slots=True)
class Follower:
    """downstream.peer: its number, see above; downstream.acked: it needs the log from here on. left_at: when
    it went, or asked for a snapshot or a stream last, in trio's seconds."""

    uuid: str
    name: str
    downstream: Downstream
    left_at: float

    @property
    def number(self) -> InstanceId:
        return self.downstream.peer

    @property
    def away_since(self) -> float | None:
        """None: it is connected."""
        return None if self.downstream.is_following else self.left_at


class Followers:
    """By UUID.

    F1  There are at most `limits.anonymous_max`: who is away longest is forgotten for a new one.
    F2  Who is away is forgotten after `anon_ttl_s`, and the log is kept for it no longer.
    """

    def __init__(self, settings: Callable[[], Settings], new_number: Callable[[], InstanceId]) -> None:
        self._settings = settings
        self._new_number = new_number
        self._known: dict[str, Follower] = {}

    def __iter__(self) -> Iterator[Follower]:
        """Those that are remembered now."""
        self._forget_late()
        return iter(tuple(self._known.values()))

    def find(self, uuid: str) -> Follower | None:
        self._forget_late()
        return self._known.get(uuid)

    def admit(self, uuid: str, name: str, position: Vclock) -> Follower:
        """It takes a snapshot, or subscribes; it counts as away until its stream begins. Raises `Loading`:
        there are too many, and all of them are connected; nothing was done."""
        self._forget_late()
        known = self._known.get(uuid)
        if known is None:
            self._make_room()
            known = Follower(uuid, name, Downstream(self._new_number()), trio.current_time())
            self._known[uuid] = known
        known.name, known.downstream.acked = name, position
        known.left_at = trio.current_time()  # else the log may go between its snapshot and its stream
        return known

    def went(self, uuid: str) -> None:
        if (known := self._known.get(uuid)) is not None:
            known.left_at = trio.current_time()

    def forget(self, uuid: str) -> None:
        self._known.pop(uuid, None)

    def _make_room(self) -> None:
        limit = self._settings().limits.anonymous_max
        while len(self._known) >= limit:
            away = [one for one in self._known.values() if not one.downstream.is_following]
            if not away:
                raise Loading(
                    f"{len(self._known)} anonymous instances follow this one, which is all it serves "
                    "(limits.anonymous_max); nothing was done, follow another one or try again",
                    stage="subscribe",
                    limit=limit,
                )
            del self._known[min(away, key=lambda one: one.left_at).uuid]  # Followers.F1

    def _forget_late(self) -> None:
        end = trio.current_time() - self._settings().anon_ttl_s
        for one in [one for one in self._known.values() if one.left_at <= end]:
            if not one.downstream.is_following:
                del self._known[one.uuid]  # Followers.F2
