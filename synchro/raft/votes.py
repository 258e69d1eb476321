"""Who voted for whom in one term: is there a winner, can there still be one. Rules [E-14], [E-23], [L-19]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

from synchro.ids import NOBODY, InstanceId


class Votes:
    """The votes of the current term, one for each voter.

    V1  The first vote of a voter counts; what it says later in the same term changes nothing [E-14].
    V2  A voter votes for an instance, never for `NOBODY`.
    """

    __slots__ = ("_candidate_of",)

    def __init__(self) -> None:
        self._candidate_of: dict[InstanceId, InstanceId] = {}

    def add(self, voter: InstanceId, candidate: InstanceId) -> None:
        assert voter != NOBODY and candidate != NOBODY  # Votes.V2
        self._candidate_of.setdefault(voter, candidate)  # Votes.V1

    def clear(self) -> None:
        """Forget all votes: a new term begins."""
        self._candidate_of.clear()

    def count(self, candidate: InstanceId, electorate: Set[InstanceId]) -> int:
        """Return how many members of `electorate` voted for `candidate`. Other votes do not count [L-9]."""
        return sum(1 for voter, its in self._candidate_of.items() if its == candidate and voter in electorate)

    def voters(self) -> Set[InstanceId]:
        """The instances that have voted, for anybody."""
        return self._candidate_of.keys()

    def is_split(
        self, electorate: Set[InstanceId], quorum: int, absent: Set[InstanceId] = frozenset()
    ) -> bool:
        """Return True if no candidate can reach `quorum` any more, however the rest of `electorate` votes.

        absent: members that cannot be heard now. They are not waited for, or two survivors of three that
        voted for themselves would wait for the vote of the dead one. Votes of instances outside `electorate`
        are left out. Too few members to reach the quorum are not a split: waiting less would not help them
        [L-19].
        """
        voted = self._candidate_of.keys() & electorate
        undecided = len((electorate - absent) - voted)
        if len(voted) + undecided < quorum:
            return False
        counts = Counter(its for voter, its in self._candidate_of.items() if voter in electorate)
        return max(counts.values(), default=0) + undecided < quorum

    def as_dict(self) -> dict[InstanceId, InstanceId]:
        """A copy: voter -> candidate, sorted by voter."""
        return dict(sorted(self._candidate_of.items()))
