"""Vector clock: instance id -> highest LSN known from that instance. Rules [W-5], [W-6]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from synchro.ids import LOCAL, NUMBER_END, InstanceId, Lsn

_LSN_LAST = Lsn(NUMBER_END - 1)
_ZERO = Lsn(0)


class Comparison(Enum):
    """How two vclocks compare. There is no `<`, because two of them may be concurrent [W-6]."""

    LESS = "less"
    EQUAL = "equal"
    GREATER = "greater"
    CONCURRENT = "concurrent"


class Vclock:
    """An immutable map: instance id -> LSN. A missing component is 0, and zeros are not kept.

    Component 0 counts rows that never leave the instance. It differs between instances, so `compare`,
    `covers` and `without_local` leave it out unless asked [W-5].
    """

    __slots__ = ("_lsns",)

    def __init__(self, lsns: Mapping[InstanceId, Lsn] | Iterable[tuple[InstanceId, Lsn]] = ()) -> None:
        self._lsns: dict[InstanceId, Lsn] = {i: lsn for i, lsn in dict(lsns).items() if lsn > 0}

    def get(self, instance: InstanceId) -> Lsn:
        return self._lsns.get(instance, _ZERO)

    def follow(self, instance: InstanceId, lsn: Lsn) -> Vclock:
        """Return a clock with one component set to `lsn`, which must not go back."""
        assert lsn >= self.get(instance), (instance, lsn, self)
        return self.replace(instance, lsn)

    def replace(self, instance: InstanceId, lsn: Lsn) -> Vclock:
        """Return a clock with one component set; lower values are allowed, for the snapshot of a committed
        prefix."""
        lsns = self._lsns.copy()
        lsns[instance] = lsn
        return _without_zeros(lsns) if lsn > 0 else Vclock(lsns)

    def merge(self, other: Vclock) -> Vclock:
        """Return the component-wise maximum."""
        lsns = self._lsns.copy()
        for instance, lsn in other._lsns.items():
            if lsn > lsns.get(instance, 0):
                lsns[instance] = lsn
        return _without_zeros(lsns)

    def floor(self, other: Vclock) -> Vclock:
        """Return the component-wise minimum: what both have."""
        return Vclock({i: min(lsn, other.get(i)) for i, lsn in self._lsns.items()})

    def compare(self, other: Vclock, *, with_local: bool = False) -> Comparison:
        less = greater = False
        for instance in self._lsns.keys() | other._lsns.keys():
            if instance == LOCAL and not with_local:
                continue
            mine, theirs = self.get(instance), other.get(instance)
            less |= mine < theirs
            greater |= mine > theirs
        if less and greater:
            return Comparison.CONCURRENT
        if less:
            return Comparison.LESS
        return Comparison.GREATER if greater else Comparison.EQUAL

    def covers(self, other: Vclock, *, with_local: bool = False) -> bool:
        """Return True if no component of the other is larger."""
        lsns = self._lsns
        for instance, lsn in other._lsns.items():  # by hand: several times a row, and a generator costs more
            if lsns.get(instance, 0) < lsn and (with_local or instance != LOCAL):
                return False
        return True

    def without_local(self) -> Vclock:
        return _without_zeros({i: lsn for i, lsn in self._lsns.items() if i != LOCAL})

    def shown(self) -> Vclock:
        """For peers: without the local component, and no LSN above those that they accept; a log of a version
        without that bound may have some. Less than what is there is no lie: it is there too."""
        return _without_zeros({i: min(lsn, _LSN_LAST) for i, lsn in self._lsns.items() if i != LOCAL})

    @property
    def signature(self) -> int:
        """The sum of all components, 0 included. WAL and snapshot files are named by it [W-8]."""
        return sum(self._lsns.values())

    def as_dict(self) -> dict[InstanceId, Lsn]:
        """A copy, sorted by instance id."""
        return dict(sorted(self._lsns.items()))

    def __iter__(self) -> Iterator[tuple[InstanceId, Lsn]]:
        return iter(sorted(self._lsns.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vclock) and self._lsns == other._lsns

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._lsns.items())))

    def __bool__(self) -> bool:
        return bool(self._lsns)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{i}: {lsn}" for i, lsn in self) + "}"


def _without_zeros(lsns: dict[InstanceId, Lsn]) -> Vclock:
    """A clock of exactly these components, none of which is 0."""
    made = Vclock.__new__(Vclock)
    made._lsns = lsns
    return made


EMPTY_VCLOCK = Vclock()


class AckNote(NamedTuple):
    """What a peer acknowledged, at least, as it is remembered (ADR 14). forgot: it said later that its log is
    not to be trusted, so it may have lost rows since."""

    vclock: Vclock
    forgot: bool = False
