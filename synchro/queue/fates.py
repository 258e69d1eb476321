"""What became of a transaction, by its LSN: the memory and the rule behind `WaitTransaction`.

`confirmed_vclock` alone would call a dropped row committed once its origin owns the queue again, so LSNs
that were rolled back, or stored as NOPs, are remembered; a bounded number of ranges of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from synchro.ids import InstanceId, Lsn

NO_LSN = Lsn(0)


class TxnFate(Enum):
    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    PENDING = "pending"
    UNKNOWN = "unknown"
    """not seen here, or too long ago to tell"""


class LsnRange(NamedTuple):
    """A range of LSNs of one origin, both ends included."""

    first: Lsn
    last: Lsn


@dataclass(frozen=True, slots=True)
class DropsState:
    """What a snapshot or a join carries. forgotten: per origin, up to here ranges were thrown away."""

    ranges: tuple[tuple[InstanceId, LsnRange], ...] = ()
    forgotten: tuple[tuple[InstanceId, Lsn], ...] = ()


class Drops:
    """LSNs of transactions that have no effect: rolled back by a decided PROMOTE, or stored as NOPs.

    D1  Ranges of one origin rise and neither overlap nor touch: neighbours are merged.
    D2  At most `ranges_max` ranges; then the lowest one of the origin that has most goes.
    D3  Of an LSN at or below `forgotten` of its origin nobody can say that it was *not* dropped.
    """

    def __init__(self, ranges_max: int) -> None:
        assert ranges_max > 0
        self._ranges_max = ranges_max
        self._ranges: dict[InstanceId, list[LsnRange]] = {}
        self._forgotten: dict[InstanceId, Lsn] = {}
        self._count = 0

    def __len__(self) -> int:
        """The number of ranges."""
        return self._count

    def add(self, origin: InstanceId, first: Lsn, last: Lsn) -> None:
        """Note that a transaction has no effect. first, last: LSNs of its first and last row (tsn and
        lsn)."""
        assert 0 < first <= last
        ranges = self._ranges.setdefault(origin, [])
        low = high = bisect_right(ranges, LsnRange(first, last))
        while low > 0 and ranges[low - 1].last >= first - 1:  # Drops.D1
            low -= 1
        while high < len(ranges) and ranges[high].first <= last + 1:
            high += 1
        merged = LsnRange(
            min([first, *(r.first for r in ranges[low:high])]),
            max([last, *(r.last for r in ranges[low:high])]),
        )
        self._count += 1 - (high - low)
        ranges[low:high] = [merged]
        while self._count > self._ranges_max:
            self._forget_one()  # Drops.D2

    def holds(self, origin: InstanceId, lsn: Lsn) -> bool:
        ranges = self._ranges.get(origin, [])
        index = bisect_right(ranges, lsn, key=lambda r: r.first)
        return index > 0 and ranges[index - 1].last >= lsn

    def forgotten(self, origin: InstanceId) -> Lsn:
        return self._forgotten.get(origin, NO_LSN)

    def export(self) -> DropsState:
        return DropsState(
            tuple((origin, r) for origin in sorted(self._ranges) for r in self._ranges[origin]),
            tuple(sorted(self._forgotten.items())),
        )

    def restore(self, state: DropsState) -> None:
        assert self._count == 0
        self._forgotten = dict(state.forgotten)
        for origin, lsn_range in state.ranges:
            self.add(origin, lsn_range.first, lsn_range.last)

    def _forget_one(self) -> None:
        origin = max(self._ranges, key=lambda i: (len(self._ranges[i]), i))
        gone = self._ranges[origin].pop(0)
        self._count -= 1
        self._forgotten[origin] = max(self.forgotten(origin), gone.last)  # Drops.D3

    def check(self) -> None:
        assert self._count == sum(map(len, self._ranges.values())) <= self._ranges_max  # Drops.D2
        for ranges in self._ranges.values():
            assert all(r.first <= r.last for r in ranges)
            assert all(a.last + 1 < b.first for a, b in pairwise(ranges))  # Drops.D1


def fate_by_lsn(
    origin: InstanceId,
    lsn: Lsn,
    *,
    drops: Drops,
    confirmed_vclock: Mapping[InstanceId, Lsn],
    written_lsn: Lsn,
    is_pending: bool,
) -> TxnFate:
    """Return what became of a transaction. The order of the questions is the rule: dropped, pending, decided
    (or asynchronous and written), else unknown.

    written_lsn: component `origin` of the own written vclock. is_pending: it is in the queue here.
    """
    if drops.holds(origin, lsn):
        return TxnFate.ROLLED_BACK
    if is_pending:
        return TxnFate.PENDING
    if lsn <= drops.forgotten(origin):
        return TxnFate.UNKNOWN  # Drops.D3
    if lsn <= max(confirmed_vclock.get(origin, NO_LSN), written_lsn):
        # Written, not in the queue and not dropped: a CONFIRM covered it, or it never had to wait.
        return TxnFate.COMMITTED
    return TxnFate.UNKNOWN
