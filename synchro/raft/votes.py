"""Who voted for whom in one term: is there a winner, can there still be one. Rules [E-14], [E-23], [L-19]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

from synchro.ids import NOBODY, InstanceId


class Votes:
    """Votes of the current term, one a voter.

    V1  The first vote of a voter counts; what it says later in the same term changes nothing [E-14].
    V2  A voter votes for an instance, never for `NOBODY`.
    """

    __slots__ = ("_candidate_of",)

    def __init__(self) -> None:
        self._candidate_of: dict[InstanceId, InstanceId] = {}

    def add(self, voter: InstanceId, candidate: InstanceId) -> None:
        assert voter != NOBODY and candidate != NOBODY  # V2
        self._candidate_of.setdefault(voter, candidate)  # V1

    def clear(self) -> None:
        """A new term."""
        self._candidate_of.clear()

    def count(self, candidate: InstanceId, electorate: Set[InstanceId]) -> int:
        """Members of `electorate` that voted for `candidate`. Others do not count [L-9]."""
        return sum(1 for voter, its in self._candidate_of.items() if its == candidate and voter in electorate)

    def is_split(self, electorate: Set[InstanceId], quorum: int) -> bool:
        """True if no candidate can reach `quorum` any more, however the rest of `electorate` votes.

        Votes of instances outside `electorate` are left out, and a set that is smaller than the quorum
        is not split but too small: waiting less would not help it [L-19].
        """
        if len(electorate) < quorum:
            return False
        counts = Counter(its for voter, its in self._candidate_of.items() if voter in electorate)
        undecided = len(electorate) - counts.total()
        return max(counts.values(), default=0) + undecided < quorum

    def as_dict(self) -> dict[InstanceId, InstanceId]:
        """A copy: voter -> candidate, sorted by voter."""
        return dict(sorted(self._candidate_of.items()))
