"""S14: who may have forgotten something stays silent until nobody can know more than it does."""

from __future__ import annotations

from synchro.ids import InstanceId, Lsn, Term
from synchro.replication.trust import AckMemory, Missing, Trust
from synchro.vclock import AckNote, Vclock

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


def test_what_is_missing_of_whom() -> None:
    """MEND-T1: whoever waits says for what."""
    trust = Trust(is_trusted=False)
    assert trust.missing(OTHERS, at(5), Term(3)) == {TWO: Missing.UNHEARD, THREE: Missing.UNHEARD}
    trust.hear_forgetful(TWO)
    trust.hear(THREE, at(7), Term(3))
    assert trust.missing(OTHERS, at(5), Term(3)) == {TWO: Missing.FORGOT, THREE: Missing.BEHIND}
    assert trust.missing(OTHERS, at(7), Term(3)) == {TWO: Missing.FORGOT}
    trust.hear(TWO, at(1), Term(9))
    assert trust.missing(OTHERS, at(7), Term(3)) == {TWO: Missing.BEHIND}  # a term is missing
    assert trust.update(OTHERS, at(7), Term(9))


# --- what peers acknowledged -------------------------------------------------------------------------------


def test_a_peer_is_told_the_highest_that_it_ever_acknowledged() -> None:
    """M1: over its streams, and over a restart of the one who remembers."""
    memory = AckMemory()
    assert memory.subscribed(TWO, at(3), counts=True) == Vclock()
    memory.acked(TWO, at(5), counts=True)
    memory.acked(TWO, at(9), counts=True)
    assert memory.subscribed(TWO, at(4), counts=True) == at(9)  # it lost 5 to 9, and hears so
    again = AckMemory(memory.export([TWO]))
    assert again.subscribed(TWO, at(4), counts=True) == at(9)


def test_who_says_that_it_forgot_is_told_it_until_its_amnesia_ended() -> None:
    """Then what it has is what counts: a person may have overruled, and rows may be gone for good."""
    memory = AckMemory({TWO: AckNote(at(9))})
    assert memory.subscribed(TWO, at(4), counts=True) == at(9)
    assert memory.subscribed(TWO, at(4), counts=False) == at(9)
    memory.acked(TWO, at(6), counts=False)
    assert memory.of(TWO) == AckNote(at(9), forgot=True)
    memory = AckMemory(memory.export([TWO]))  # the one who remembers is restarted
    assert memory.subscribed(TWO, at(6), counts=False) == at(9)
    memory.acked(TWO, at(6), counts=True)
    assert memory.of(TWO) == AckNote(at(6))


def test_the_word_of_a_person_is_not_undone_by_those_who_remember() -> None:
    """--force-trust: restarted, and its Hello counts again."""
    memory = AckMemory()
    memory.subscribed(TWO, at(9), counts=True)
    memory.subscribed(TWO, at(4), counts=False)
    assert memory.subscribed(TWO, at(4), counts=True) == Vclock()
    assert memory.of(TWO) == AckNote(at(4))


def test_amnesia_that_begins_on_a_running_stream_is_remembered() -> None:
    memory = AckMemory()
    memory.subscribed(TWO, at(1), counts=True)
    memory.acked(TWO, at(9), counts=True)
    memory.acked(TWO, at(9), counts=False)
    assert memory.export([TWO]) == {TWO: AckNote(at(9), forgot=True)}


def test_who_is_no_member_any_more_is_forgotten() -> None:
    memory = AckMemory()
    memory.subscribed(TWO, at(9), counts=True)
    memory.subscribed(THREE, at(9), counts=True)
    assert set(memory.export([THREE])) == {THREE}
    assert memory.subscribed(TWO, at(1), counts=True) == Vclock()
