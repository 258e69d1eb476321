"""Votes and the pre-vote set: small values with their own rules [E-14], [E-20], [E-23], [L-19]."""

from __future__ import annotations

from itertools import product

import pytest

from synchro.errors import RemoteProtocolError
from synchro.ids import NOBODY, InstanceId, Term
from synchro.raft.messages import Membership, RaftMessage, Role
from synchro.raft.votes import Votes
from synchro.raft.witness import Witness
from synchro.vclock import EMPTY_VCLOCK


def ids(*numbers: int) -> frozenset[InstanceId]:
    return frozenset(InstanceId(number) for number in numbers)


def votes(**by_voter: int) -> Votes:
    """votes(v1=2) : instance 1 voted for 2."""
    result = Votes()
    for voter, candidate in by_voter.items():
        result.add(InstanceId(int(voter[1:])), InstanceId(candidate))
    return result


def test_the_first_vote_of_a_voter_counts() -> None:
    """[E-14]: a repeated or contradicting message changes nothing."""
    got = votes(v1=1)
    got.add(InstanceId(1), InstanceId(2))
    assert got.as_dict() == {1: 1}
    assert got.count(InstanceId(1), ids(1, 2, 3)) == 1
    got.clear()
    assert got.as_dict() == {}


def test_votes_of_unregistered_instances_do_not_count() -> None:
    """[L-9], [L-19]: neither for the quorum nor for a split."""
    got = votes(v1=1, v7=1, v8=2, v9=2)
    assert got.count(InstanceId(1), ids(1, 2, 3)) == 1
    assert not got.is_split(ids(1, 2, 3), quorum=2)


def test_a_vote_is_split_when_nobody_can_win_any_more() -> None:
    """[E-23]: 5 instances, quorum 3: 2 and 2 may still be decided by the fifth, 2-2-1 may not."""
    assert not votes(v1=1, v2=1, v3=3, v4=3).is_split(ids(1, 2, 3, 4, 5), quorum=3)
    assert votes(v1=1, v2=1, v3=3, v4=3, v5=5).is_split(ids(1, 2, 3, 4, 5), quorum=3)
    assert votes(v1=1, v2=2).is_split(ids(1, 2), quorum=2)


def test_nobody_waits_for_the_vote_of_who_cannot_be_heard() -> None:
    """[E-23]: two survivors of three, each with its own vote; the third is dead."""
    assert not votes(v1=1, v2=2).is_split(ids(1, 2, 3), quorum=2)
    assert votes(v1=1, v2=2).is_split(ids(1, 2, 3), quorum=2, absent=ids(3))
    assert votes(v1=1, v2=2, v3=3).is_split(ids(1, 2, 3), quorum=2, absent=ids(3))  # it had voted before
    assert not votes(v1=1).is_split(ids(1, 2, 3), quorum=2, absent=ids(2, 3))  # too few, not split


def test_a_set_smaller_than_the_quorum_is_not_split() -> None:
    """[E-23]: waiting less would not help; the quorum is out of reach anyway."""
    assert not votes(v1=1, v2=2).is_split(ids(1, 2), quorum=3)


def test_split_agrees_with_trying_all_continuations() -> None:
    """[E-23]: the slow obvious twin plays every way in which the undecided may still vote."""
    electorate = ids(1, 2, 3)
    for choice in product([0, 1, 2, 3], repeat=3):
        given = {f"v{voter}": its for voter, its in enumerate(choice, start=1) if its}
        free = [voter for voter, its in enumerate(choice, start=1) if not its]
        can_win = False
        for rest in product([1, 2, 3], repeat=len(free)):
            full = votes(**given, **{f"v{voter}": its for voter, its in zip(free, rest, strict=True)})
            can_win |= any(full.count(InstanceId(i), electorate) >= 2 for i in (1, 2, 3))
        assert votes(**given).is_split(electorate, quorum=2) == (not can_win)


def test_witness_holds_who_sees_the_leader() -> None:
    """[E-13], [E-24]: set, cleared by word, cleared by a broken link, cleared by a new term."""
    witness = Witness()
    assert witness.is_empty
    for peer in (3, 1, 2):
        witness.note(InstanceId(peer), is_leader_seen=True)
    assert all(InstanceId(peer) in witness for peer in (1, 2, 3))
    witness.note(InstanceId(2), is_leader_seen=False)
    witness.forget(InstanceId(3))
    assert InstanceId(1) in witness and not any(InstanceId(peer) in witness for peer in (2, 3))
    witness.clear()
    assert witness.is_empty


def test_election_quorum_is_cut_to_the_registered() -> None:
    """[E-10]: so that an instance may be elected while the set is still growing."""
    assert Membership(ids(), quorum=2).election_quorum == 1
    assert Membership(ids(1), quorum=3).election_quorum == 1
    assert Membership(ids(1, 2, 3), quorum=2).election_quorum == 2


def message(**changes: object) -> RaftMessage:
    fields: dict[str, object] = {
        "term": Term(2), "vote": InstanceId(2), "role": Role.CANDIDATE, "leader": NOBODY,
        "is_leader_seen": False, "vclock": EMPTY_VCLOCK,
    }  # fmt: skip
    return RaftMessage(**(fields | changes))  # type: ignore[arg-type]


def test_messages_that_no_honest_peer_sends_are_refused() -> None:
    """[E-4]."""
    message().validate(InstanceId(2))
    message(role=Role.FOLLOWER, vote=NOBODY, vclock=None).validate(InstanceId(2))
    for bad, text in [
        (message(term=Term(0)), "Invalid term or state"),
        (message(role=9), "Invalid term or state"),
        (message(vote=InstanceId(3)), "vote for self"),
        (message(vclock=None), "provide its vclock"),
    ]:
        with pytest.raises(RemoteProtocolError, match=text):
            bad.validate(InstanceId(2))
