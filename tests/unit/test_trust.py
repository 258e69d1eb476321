"""S14: who may have forgotten something stays silent until nobody can know more than it does."""

from __future__ import annotations

from synchro.ids import InstanceId, Lsn, Term
from synchro.replication.trust import Trust
from synchro.vclock import Vclock

TWO, THREE = InstanceId(2), InstanceId(3)
OTHERS = frozenset({TWO, THREE})


def at(lsn: int) -> Vclock:
    return Vclock({InstanceId(1): Lsn(lsn)})


def test_trust_comes_back_when_every_other_member_was_heard_and_caught_up_with() -> None:
    trust = Trust(is_trusted=False)
    trust.hear(TWO, at(5), Term(3))
    assert not trust.update(OTHERS, at(9), Term(9))  # THREE may know a vote that we forgot

    trust.hear(THREE, at(7), Term(4))
    assert not trust.update(OTHERS, at(6), Term(9))  # rows are missing
    assert not trust.update(OTHERS, at(7), Term(3))  # a term is missing
    assert trust.update(OTHERS, at(7), Term(4))
    assert trust.is_trusted


def test_only_the_first_report_of_a_peer_must_be_reached() -> None:
    """Else a busy set would never let it back in: what a peer wrote later, we did not forget."""
    trust = Trust(is_trusted=False)
    trust.hear(TWO, at(5), Term(3))
    trust.hear(TWO, at(500), Term(3))
    assert trust.update(frozenset({TWO}), at(5), Term(3))


def test_what_was_heard_before_trust_was_lost_does_not_count() -> None:
    trust = Trust(is_trusted=True)
    trust.hear(TWO, at(1), Term(1))
    trust.lose()
    assert not trust.update(frozenset({TWO}), at(9), Term(9))


def test_a_lone_member_does_not_heal_by_itself() -> None:
    """Nobody can say what it forgot: an operator decides."""
    assert not Trust(is_trusted=False).update(frozenset(), at(9), Term(9))
