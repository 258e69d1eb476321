"""When an instance joins again by itself, from whom, and who goes first. [M-35], ADR 46."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchro.ids import NOBODY, InstanceId, Term
from synchro.replication.ballot import Ballot
from synchro.replication.rejoin import (
    Known,
    OnlyHere,
    Standing,
    Turn,
    is_too_old,
    may_leave,
    seems_too_old,
    source,
    turn,
    why_not,
)
from synchro.vclock import EMPTY_VCLOCK, Vclock
from tests.storage_world import vclock

OWN = vclock(_1=10, _2=5)


def peer(uuid: str = "b", *, has: Vclock, log_from: Vclock, **more: object) -> Ballot:
    ballot = Ballot(uuid, f"name of {uuid}", "set", is_booted=True, vclock=has, gc_vclock=log_from)
    return replace(ballot, **more)  # type: ignore[arg-type]


FAR = vclock(_1=1000, _2=5)
CUT = peer(has=FAR, log_from=vclock(_1=500, _2=5))
WHOLE = peer("c", has=FAR, log_from=vclock(_1=1))
LOADING = peer("d", has=EMPTY_VCLOCK, log_from=EMPTY_VCLOCK)
EQUAL = peer("e", has=OWN, log_from=vclock(_1=1))
BEHIND = peer("f", has=vclock(_1=9, _2=5), log_from=vclock(_1=1))
A_BIT_AHEAD = peer("g", has=vclock(_1=11, _2=5), log_from=vclock(_1=1))
KEPT, LOCAL = OnlyHere(kept=1), OnlyHere(local=1)


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ([], False),
        ([CUT], True),
        ([CUT, WHOLE], False),  # one has the log
        ([CUT, LOADING], False),  # perhaps one has
        ([replace(CUT, vclock=vclock(_1=1000))], False),  # we have rows that it lacks
        ([replace(CUT, is_booted=False)], False),
        ([replace(CUT, gc_vclock=OWN)], False),  # just enough
        ([CUT, EQUAL], True),  # outrun together: it brings nothing
        ([CUT, BEHIND], True),
        ([CUT, EQUAL, WHOLE], False),
        ([CUT, EQUAL, LOADING], False),
        ([CUT, A_BIT_AHEAD], False),  # what it has comes first
        ([EQUAL], False),
        ([EQUAL, BEHIND], False),
        ([replace(EQUAL, gc_vclock=FAR)], False),  # nobody has more
    ],
)
def test_too_old_is_who_can_follow_nobody_and_has_nothing_of_its_own(
    peers: list[Ballot], expected: bool
) -> None:
    assert is_too_old(OWN, {str(n): ballot for n, ballot in enumerate(peers)}) is expected


@pytest.mark.parametrize(
    ("only_here", "peers", "expected"),
    [
        (OnlyHere(), [CUT], True),
        (OnlyHere(), [], False),
        (OnlyHere(), [CUT, WHOLE], False),
        (OnlyHere(), [CUT, LOADING], False),
        (OnlyHere(), [CUT, EQUAL], True),
        (OnlyHere(), [CUT, replace(EQUAL, rejoins=True)], False),  # no two at once
        (OnlyHere(), [CUT, replace(CUT, instance_uuid="c", rejoins=True)], False),
        (OnlyHere(), [replace(CUT, rejoins=True)], False),
        (OnlyHere(), [replace(CUT, vclock=vclock(_1=1000))], False),  # it would lose a row
        (KEPT, [CUT], False),  # it would lose what keep_local keeps
        (LOCAL, [CUT], False),  # it would lose tuples of local spaces
    ],
)
def test_who_runs_leaves_only_if_it_can_come_back_with_all_that_it_has(
    only_here: OnlyHere, peers: list[Ballot], expected: bool
) -> None:
    """[M-35], Outrun.T1"""
    known = Known(OWN, Term(3), NOBODY, only_here)
    assert may_leave(known, {str(n): ballot for n, ballot in enumerate(peers)}) is expected


@pytest.mark.parametrize(
    ("owner", "named", "expected"),
    [
        (4, [1], True),  # it was the owner once
        (4, [4], False),
        (4, [1, 4], False),
        (4, [0], True),  # somebody demoted it
        (0, [0], True),
    ],
)
def test_the_owner_of_the_queue_does_not_leave_unless_there_is_a_later_one(
    owner: int, named: list[int], expected: bool
) -> None:
    """[M-35], Outrun.T2: who is outrun with it may still take it for the owner."""
    ahead = {str(n): replace(CUT, queue_owner=InstanceId(name)) for n, name in enumerate(named)}
    peers = ahead | {"e": replace(EQUAL, queue_owner=InstanceId(4))}
    assert may_leave(Known(OWN, Term(3), NOBODY), peers, owner=InstanceId(owner)) is expected


@pytest.mark.parametrize(
    ("gone", "followed", "expected"),
    [
        ([FAR], [], True),
        ([FAR], [OWN], True),  # the one that was cut off with us
        ([FAR], [vclock(_1=11, _2=5)], False),
        ([FAR, FAR], [OWN, FAR], False),
        ([OWN], [], False),  # it caught up elsewhere, and has not asked that one again
        ([], [OWN], False),
        ([], [], False),
    ],
)
def test_who_runs_looks_closer_only_if_nobody_brings_it_anything(
    gone: list[Vclock], followed: list[Vclock], expected: bool
) -> None:
    assert seems_too_old(OWN, gone=gone, followed=followed) is expected


def test_of_two_that_are_outrun_together_none_is_the_source_of_the_other() -> None:
    """It would come back as old as it was, and do it again. The other one may hold itself for the owner."""
    known = Known(OWN, Term(3), NOBODY)
    former = replace(EQUAL, instance_id=InstanceId(5), queue_owner=InstanceId(5), is_ro=False)
    assert source(known, {"e": former, "b": CUT}) == "b"
    assert source(known, {"e": former, "b": replace(CUT, rejoins=True)}) is None
    assert source(None, {"e": former, "b": CUT}) == "b"
    assert source(known, {"e": former}) == "e"  # all have the same: a person wants it


clocks = st.builds(lambda a, b: vclock(_1=a, _2=b), st.integers(1, 4), st.integers(1, 4))
ballots = st.lists(
    st.builds(lambda has, log: peer(has=has, log_from=has.floor(log)), clocks, clocks), max_size=4
)


@given(clocks, ballots)
def test_after_a_join_of_its_own_it_is_not_too_old(own: Vclock, others: list[Ballot]) -> None:
    """No loop: whoever may leave finds a source, and with the data of that it could follow, or has it all."""
    peers = {str(n): replace(ballot, instance_uuid=str(n)) for n, ballot in enumerate(others)}
    if may_leave(Known(own, Term(3), NOBODY), peers):
        address = source(Known(own, Term(3), NOBODY), peers)
        assert address is not None
        joined = peers[address].vclock
        assert joined.covers(own)
        assert not own.covers(joined)
        assert not is_too_old(joined, peers)


def test_the_source_has_all_that_is_known_here() -> None:
    known = Known(OWN, Term(3), InstanceId(2))
    behind = peer("z", has=vclock(_1=10), log_from=EMPTY_VCLOCK)
    assert source(known, {"z": behind}) is None
    assert source(None, {"z": behind}) == "z"  # a person gave the rest up
    assert source(known, {"z": behind, "b": CUT}) == "b"
    assert source(known, {"b": replace(CUT, rejoins=True)}) is None
    assert source(known, {}) is None


def test_the_owner_of_the_queue_is_asked_first() -> None:
    known = Known(OWN, Term(3), NOBODY)
    owner = replace(CUT, instance_id=InstanceId(1), queue_owner=InstanceId(1), is_ro=False)
    newer = replace(WHOLE, vclock=vclock(_1=2000, _2=5))
    assert source(known, {"b": owner, "c": newer}) == "b"
    assert source(known, {"b": CUT, "c": newer}) == "c"


@pytest.mark.parametrize(
    ("comes", "expected"),
    [(2, (5, 3)), (5, (5, 3)), (6, (6, 0))],
)
def test_a_vote_is_not_forgotten(comes: int, expected: tuple[int, int]) -> None:
    """S1: with the data of another one comes its term; the own vote of it, or of a later one, stays."""
    assert Known(OWN, Term(5), InstanceId(3)).vote_in(Term(comes)) == expected


class Wanting:
    """It says that it wants to, asks the others one after the other, and decides when all have answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.says = False
        self.goes = False
        self.heard: dict[str, Ballot] = {}

    def step(self, all_of_them: dict[str, Wanting]) -> None:
        others = [other for other in all_of_them.values() if other is not self]
        unheard = next((other for other in others if other.name not in self.heard), None)
        if self.goes:
            self.says = self.goes = False
            self.heard = {}
        elif not self.says:
            self.says, self.heard = True, {}
        elif unheard is not None:
            self.heard[unheard.name] = peer(unheard.name, has=FAR, log_from=FAR, rejoins=unheard.says)
        else:
            found, self.heard = turn(self.name, self.heard), {}
            self.goes = found is Turn.MINE
            self.says = found is not Turn.GIVE_WAY


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=200))
def test_no_two_go_at_once(steps: list[str]) -> None:
    """In any order of what they say, ask and decide."""
    them = {name: Wanting(name) for name in "abc"}
    for name in steps:
        them[name].step(them)
        assert sum(one.goes for one in them.values()) <= 1


def test_of_those_who_see_each_other_one_goes() -> None:
    for names in permutations("abc"):
        says = dict.fromkeys(names, True)
        gone = []
        for _ in range(3):
            for me in names:
                if me in gone or not says[me]:
                    continue
                seen = {o: peer(o, has=FAR, log_from=FAR, rejoins=says[o]) for o in names if o != me}
                match turn(me, seen):
                    case Turn.MINE:
                        gone.append(me)
                    case Turn.GIVE_WAY:
                        says[me] = False
                    case Turn.WAIT:
                        pass
        assert len(gone) == 1


@pytest.mark.parametrize(
    ("standing", "refused"),
    [
        (Standing(is_owner=True, is_lossy=True, holders=2, others=2, quorum=2), "owns the queue"),
        (Standing(is_owner=False, is_lossy=False, holders=0, others=2, quorum=2), "has all of its rows"),
        (Standing(is_owner=False, is_lossy=True, holders=0, others=2, quorum=2), None),
        (Standing(is_owner=False, is_lossy=False, holders=1, others=1, quorum=2), "are needed for a quorum"),
        (Standing(is_owner=False, is_lossy=True, holders=1, others=1, quorum=2), "are needed for a quorum"),
        (Standing(is_owner=False, is_lossy=False, holders=1, others=1, quorum=0), None),
        (Standing(is_owner=False, is_lossy=False, holders=2, others=2, quorum=2), None),
    ],
)
def test_who_may_be_told_to(standing: Standing, refused: str | None) -> None:
    found = why_not(standing)
    assert (found is None) == (refused is None)
    if found is not None and refused is not None:
        assert refused in found[0]
        assert found[1]
