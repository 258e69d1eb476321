"""Which instances see the leader of the current term: the pre-vote. Rules [E-13], [E-20], [E-24], [L-17]."""

from __future__ import annotations

from synchro.ids import NOBODY, InstanceId


class Witness:
    """Set of the instances, this one included, that see a leader in the current term.

    W1  While it is not empty, no election starts by itself: whoever is cut off from a leader that others
        still see would only disturb it [E-20].
    W2  It holds what was said in the current term, on links that still stand: a new term clears it and a
        broken link takes its peer out, so that a dead peer cannot block elections [E-12], [E-24].
    """

    __slots__ = ("_seeing",)

    def __init__(self) -> None:
        self._seeing: set[InstanceId] = set()

    def note(self, instance: InstanceId, *, is_leader_seen: bool) -> None:
        assert instance != NOBODY
        if is_leader_seen:
            self._seeing.add(instance)
        else:
            self._seeing.discard(instance)

    def forget(self, instance: InstanceId) -> None:
        """A peer's link broke, or the peer was expelled."""
        self._seeing.discard(instance)

    def clear(self) -> None:
        self._seeing.clear()

    @property
    def is_empty(self) -> bool:
        return not self._seeing

    def __contains__(self, instance: InstanceId) -> bool:
        return instance in self._seeing
