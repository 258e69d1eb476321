"""Last write wins: which change of a key is the newest, on every instance the same one. ADR 44, [A-54].

G1  Of the committed changes of a key the one with the highest (time, origin, LSN) is what readers see, in
    whatever order they were committed. Changes of one origin are committed in the order of their LSNs, so
    (time, origin) is compared, and of equals the later one wins.
G2  A key that was deleted keeps its stamp as a tombstone, until no older row of it can come any more.
G3  What was written before the space had stamps counts as older than everything that has one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from synchro.errors import TombstonesGone
from synchro.ids import INSTANCE_ID_MAX, InstanceId, Lsn
from synchro.row import Tuple
from synchro.storage.key_def import Key, KeyDef
from synchro.storage.order import Order
from synchro.storage.stamp_clock import UNKNOWN, Stamp

STAMP_BYTES: Final = 120
"""Estimate of the memory for the stamp of a tuple."""
FORGOTTEN_AT_ONCE: Final = 5_000
"""Tombstones that go in one step: a few milliseconds."""


class Tombstones:
    """The deletions of all spaces, oldest first for each origin; those that may go are forgotten.

    N1  `count` is the length of all queues together, and at most `count_max` unless `is_behind`. A key that
        came back, or was deleted again, may stand in them still.
    N2  A million may be to go at once. In one step `FORGOTTEN_AT_ONCE` of them go at most; while `is_behind`
        somebody calls `go_on`, and each one that is added takes two with it.
    N3  A replay knows no acks, so all deletions since the snapshot come back, those that were settled, too.
        None of them goes for the limit before it is known again which are.
    """

    def __init__(self) -> None:
        self.count_max = 0
        """0: no limit."""
        self._limit = 0
        self._is_replay = False
        self._spared = 0
        """What a replay brought back counts beyond the limit, until something is settled."""
        self.count = 0
        self.is_behind = False
        self._queues: dict[int, deque[tuple[Lsn, Stamps, Key]]] = {}
        self._settled: Mapping[InstanceId, Lsn] = {}

    def add(self, origin: int, lsn: Lsn, stamps: Stamps, key: Key) -> None:
        self._queues.setdefault(origin, deque()).append((lsn, stamps, key))
        self.count += 1
        if self.is_behind or 0 < self.count_max < self.count:
            self.go_on(2)

    def limit(self, count_max: int) -> None:
        """From now on; 0: none."""
        self._limit = count_max
        self._review_limit()

    def replay(self, *, begins: bool) -> None:
        """Tombstones.N3"""
        self._is_replay, self._spared = begins, self.count
        self._review_limit()

    def _review_limit(self) -> None:
        self.count_max = 0 if self._is_replay or not self._limit else self._limit + self._spared
        self.go_on(FORGOTTEN_AT_ONCE)

    def settled(self, lsns: Mapping[InstanceId, Lsn]) -> None:
        """No row that is older than those up to these LSNs can come any more."""
        self._settled = lsns
        self.go_on(FORGOTTEN_AT_ONCE)
        if self._spared and not self.is_behind:
            self._spared = 0
            self._review_limit()

    def go_on(self, count: int) -> None:
        """Forget at most so many of those that are to go: what is settled first, then the oldest beyond the
        limit."""
        for origin, queue in self._queues.items():
            limit = self._settled.get(InstanceId(origin), 0)
            while count and queue and queue[0][0] <= limit:
                self._forget(origin, is_safe=True)
                count -= 1
        while count and 0 < self.count_max < self.count:  # Tombstones.N1
            longest = max(self._queues, key=lambda each: len(self._queues[each]))
            self._forget(longest, is_safe=False)
            count -= 1
        self.is_behind = not count
        if count:
            self._settled = {}

    def _forget(self, origin: int, *, is_safe: bool) -> None:
        lsn, stamps, key = self._queues[origin].popleft()
        self.count -= 1
        if stamps.graves.get(key) == lsn and stamps.known[key].origin == origin:
            stamps.forget(key, is_safe=is_safe)


@dataclass(slots=True, eq=False)
class Stamps:
    """What one space knows of its keys beside their tuples; committed changes only."""

    tombstones: Tombstones
    known: dict[Key, Stamp] = field(default_factory=dict)
    """Of tuples and tombstones; a tuple without one is from before [stamps.G3]."""
    graves: dict[Key, Lsn] = field(default_factory=dict)
    """Key of each tombstone -> LSN of the transaction that deleted it."""
    floor: Stamp = UNKNOWN
    """Of the newest truncate: of whatever is older nothing is left."""
    forgotten: Stamp = UNKNOWN
    """The highest of the tombstones that went because there were too many of them."""
    newest: Stamp = UNKNOWN

    def of(self, key: Key) -> Stamp:
        """What a change of this key must not be older than."""
        return self.known.get(key, self.floor)

    def check_known(self, key: Key, stamp: Stamp) -> None:
        """Raise `TombstonesGone`: it cannot be told whether this change is older than a deletion."""
        if self.floor <= stamp < self.forgotten and key not in self.known:
            raise TombstonesGone(
                "A row is older than deletions that are not remembered any more (limits.tombstones_max): "
                "whether its key was deleted since cannot be told"
            )

    def take(self, key: Key, stamp: Stamp, lsn: Lsn, *, is_deleted: bool) -> None:
        self.known[key] = stamp
        self.newest = max(self.newest, stamp)
        if is_deleted:
            self.graves[key] = lsn
            self.tombstones.add(stamp.origin, lsn, self, key)
        else:
            self.graves.pop(key, None)

    def forget(self, key: Key, *, is_safe: bool) -> None:
        """is_safe: False if an older row of it may come."""
        del self.graves[key]
        stamp = self.known.pop(key)
        if not is_safe:
            self.forgotten = max(self.forgotten, stamp)

    def raise_floor(self, floor: Stamp) -> list[dict[Key, Any] | list[Any] | Order]:
        """The space was truncated: what is older is known by that alone. The tuples are not touched. Returns
        what nobody needs any more."""
        old: list[dict[Key, Any] | list[Any] | Order] = [self.known, self.graves]
        self.floor = floor
        if self.newest < floor:
            self.known, self.graves = {}, {}
        else:
            self.known = {key: stamp for key, stamp in self.known.items() if stamp > floor}
            self.graves = {key: lsn for key, lsn in self.graves.items() if key in self.known}
        return old

    def check(self, tuples: Mapping[Key, Tuple]) -> None:
        """For tests: [stamps.G2], and nothing is kept that says nothing."""
        for key, stamp in self.known.items():
            assert (key in tuples) != (key in self.graves)
            assert self.floor < stamp <= self.newest
        assert self.graves.keys() <= self.known.keys()


# --- in snapshots -----------------------------------------------------------------------------------------

MARK_OWN, MARK_STAMP, MARK_GRAVE, MARK_FLOOR, MARK_FORGOTTEN, MARK_CLOCK = range(6)
"""Kinds of marks. Each is (space id, kind, key, ...): nothing; time, origin; time, origin, LSN; time, origin,
with key (); the same; time, with space 0 and key ()."""


class StampRows:
    """What a snapshot holds of one space, as it is now. A row is made when whoever writes it asks for it."""

    def __init__(self, space_id: int, key_def: KeyDef, stamps: Stamps) -> None:
        self._space_id, self._key_def = space_id, key_def
        self._known, self._graves = stamps.known.copy(), stamps.graves.copy()
        self._floor, self._forgotten = stamps.floor, stamps.forgotten

    def __iter__(self) -> Iterator[Tuple]:
        space_id, sent, graves = self._space_id, self._key_def.sent, self._graves
        for kind, stamp in ((MARK_FLOOR, self._floor), (MARK_FORGOTTEN, self._forgotten)):
            if stamp != UNKNOWN:
                yield space_id, kind, (), *stamp
        for key, stamp in self._known.items():
            lsn = graves.get(key)
            if lsn is None:
                yield space_id, MARK_STAMP, sent(key), *stamp
            else:
                yield space_id, MARK_GRAVE, sent(key), *stamp, lsn


def load_mark(stamps: Stamps, kind: int, key: Key, numbers: tuple[int, ...]) -> int:
    """One row of a snapshot. Returns its time. Raises ValueError for what is none."""
    time, origin, *rest = numbers
    if not all(type(number) is int and number >= 0 for number in numbers) or origin > INSTANCE_ID_MAX:
        raise ValueError(numbers)
    stamp = Stamp(time, origin)
    if kind == MARK_FLOOR:
        stamps.floor = stamp
    elif kind == MARK_FORGOTTEN:
        stamps.forgotten = stamp
    elif kind == MARK_STAMP and not rest:
        stamps.take(key, stamp, Lsn(0), is_deleted=False)
    elif kind == MARK_GRAVE and len(rest) == 1:
        stamps.take(key, stamp, Lsn(rest[0]), is_deleted=True)
    else:
        raise ValueError(kind)
    return time
