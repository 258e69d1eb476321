"""Promote and demote calls that meet each other, a late network, or an instance that is not writable. [P-10],
[P-11], [P-13], [P-30]."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synchro.config import ElectionMode, FencingMode
from synchro.errors import NoElectionQuorum
from synchro.ids import CallId, InstanceId, Term
from synchro.instance import events as ev
from synchro.instance.transfers import Transfer, TransferPhase
from tests.mesh import Mesh

MANUAL = ElectionMode.MANUAL


def ask(mesh: Mesh, number: int, kind: type[ev.PromoteRequested] | type[ev.DemoteRequested]) -> CallId:
    """Nothing moves yet."""
    call = mesh.call_id()
    mesh.step(number, kind(call))
    return call


def promote(mesh: Mesh, number: int) -> CallId:
    return ask(mesh, number, ev.PromoteRequested)


def demote(mesh: Mesh, number: int) -> CallId:
    return ask(mesh, number, ev.DemoteRequested)


def message(mesh: Mesh, call: CallId) -> str:
    outcome = mesh.outcome(call)
    assert isinstance(outcome, ev.Rejected), outcome
    return outcome.error.message


def lead_without_promote(mesh: Mesh, number: int = 1) -> CallId:
    """Elected, and the PROMOTE is on its way to the own disk."""
    call = promote(mesh, number)
    others = [other for other in mesh.members if other != number]
    for _ in range(6):
        mesh.persist(number)
        for other in others:
            mesh.deliver(number, other)
            mesh.persist(other)
            mesh.deliver(other, number)
        if mesh[number].raft.is_leader:
            break
    assert mesh[number].raft.is_leader and mesh.outcome(call) is None
    return call


# --- two calls at once ------------------------------------------------------------------------------------


def test_during_the_election_of_the_first_another_promote_says_so() -> None:
    """[P-11]"""
    mesh = Mesh(3)
    first = promote(mesh, 1)
    for second in (promote(mesh, 1), demote(mesh, 1)):
        assert mesh.reason(second) == "IN_ANOTHER_PROMOTE"
        assert "box." not in message(mesh, second)
    mesh.settle()
    assert isinstance(mesh.outcome(first), ev.Promoted)


@pytest.mark.parametrize("mode", [ElectionMode.OFF, MANUAL])
def test_while_the_first_is_written_neither_promote_nor_demote_begins(mode: ElectionMode) -> None:
    """[P-10], [P-30]: a write of that kind is running."""
    mesh = Mesh(3, election_mode=mode)
    first = lead_without_promote(mesh)
    assert mesh[1].limbo.is_busy
    for second in (promote(mesh, 1), demote(mesh, 1)):
        assert mesh.reason(second) == "UNSUPPORTED"
        assert "simultaneous invocations" in message(mesh, second)
    mesh.settle()
    assert isinstance(mesh.outcome(first), ev.Promoted)


def test_who_was_demoted_gives_the_others_a_head_start() -> None:
    """[P-30]: it begins no term, and does not stand before a death timeout is over."""
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE)
    mesh.run_for(20)
    (leader,) = (number for number in (1, 2, 3) if mesh[number].raft.is_leader)
    term = mesh[leader].raft.volatile_term
    call = demote(mesh, leader)
    assert isinstance(mesh.outcome(call), ev.Demoted)
    raft = mesh[leader].raft
    assert not raft.is_leader and raft.volatile_term == term
    assert raft.deadline == pytest.approx(mesh.now + mesh[leader].settings.death_timeout_s)


def test_while_a_demote_is_written_nothing_else_begins() -> None:
    mesh = Mesh(3)
    mesh.promote(1)
    first = demote(mesh, 1)
    for second in (promote(mesh, 1), demote(mesh, 1)):
        assert mesh.reason(second) == "UNSUPPORTED"
    mesh.settle()
    assert isinstance(mesh.outcome(first), ev.Demoted)


def test_demote_ends_a_promote_that_waits_for_copies_of_what_it_builds_on() -> None:
    """[P-12] step 3 waits without limit; nothing is written yet, so the leader may resign [P-30], [P-13]."""
    mesh = Mesh(5, election_mode=MANUAL, election_fencing_mode=FencingMode.OFF)
    mesh.promote(2)
    for other in (3, 4, 5):
        mesh.cut(2, other)
    mesh.write(2, (1, "pending"))  # on 2 and 1
    mesh.persist(2)
    mesh.deliver(2, 1)
    mesh.persist(1)
    mesh.cut(1, 2)
    first = promote(mesh, 1)
    for _ in range(8):  # votes of 1, 3, 4 and 5, but the row stays where it is
        mesh.persist(1)
        for other in (3, 4, 5):
            mesh.links[1, other].position = mesh.members[1].written
            mesh.deliver(1, other)
            mesh.persist(other)
            mesh.deliver(other, 1)
    assert mesh[1].raft.is_leader and not mesh[1].limbo.is_busy and mesh.outcome(first) is None
    second = demote(mesh, 1)
    assert isinstance(mesh.outcome(second), ev.Demoted)
    assert mesh.reason(first) == "INTERFERING_ELECTIONS"


def test_a_demote_of_one_that_does_not_lead_says_that_nothing_was_done() -> None:
    """[P-30]: as in Tarantool it is no error, with elections; and the leader goes on."""
    mesh = Mesh(3, election_mode=MANUAL)
    lead_without_promote(mesh)
    mesh.settle()
    outcome = mesh.outcome(demote(mesh, 2))
    assert isinstance(outcome, ev.Demoted) and not outcome.is_done
    assert mesh[1].raft.is_leader
    outcome = mesh.outcome(demote(mesh, 1))
    assert isinstance(outcome, ev.Demoted) and outcome.is_done


# --- writable -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [ElectionMode.OFF, MANUAL])
def test_a_promote_that_waits_for_writability_does_not_block_demote(mode: ElectionMode) -> None:
    """[P-13]: leadership is lost meanwhile: INTERFERING_ELECTIONS for all that wait."""
    mesh = Mesh(3, read_only=True, election_mode=mode)
    first = mesh.promote(1)
    second = mesh.promote(1)
    assert mesh.outcome(first) is None and mesh.outcome(second) is None
    third = mesh.demote(1)
    assert isinstance(mesh.outcome(third), ev.Demoted)
    assert mesh.reason(first) == mesh.reason(second) == "INTERFERING_ELECTIONS"


def test_all_that_wait_for_writability_are_answered_together() -> None:
    mesh = Mesh(3, read_only=True)
    calls = [mesh.promote(1), mesh.promote(1), mesh.promote(1)]
    mesh.step(1, ev.CallExpired(calls[0]))
    assert mesh.reason(calls[0]) == "TIMED_OUT"
    assert "ro_reason: config" in message(mesh, calls[0])
    mesh.step(1, ev.RequestAbandoned(calls[1]))
    mesh.step(1, ev.SettingsChanged(replace(mesh.settings, read_only=False)))
    assert isinstance(mesh.outcome(calls[2]), ev.Promoted)
    assert mesh.outcome(calls[1]) is None


def test_a_higher_term_ends_the_wait_for_writability() -> None:
    mesh = Mesh(3, read_only=True)
    call = mesh.promote(1)
    mesh.promote(2)
    assert mesh.reason(call) == "INTERFERING_ELECTIONS"


# --- links ----------------------------------------------------------------------------------------------


def test_a_promote_waits_for_links_and_takes_no_term_before() -> None:
    """[P-11]: a new term would stop all writers, and could not be won."""
    mesh = Mesh(3)
    mesh.isolate(1)
    call = promote(mesh, 1)
    mesh.settle()
    assert mesh.outcome(call) is None
    assert mesh[1].raft.volatile_term == 1
    mesh.heal()
    mesh.run_for(0.5)
    assert mesh.outcome(call) is None, "whoever leads has had no time to say so"
    mesh.run_for(1.0)
    assert isinstance(mesh.outcome(call), ev.Promoted)
    assert mesh[1].limbo.owner_id == 1


def test_links_that_stay_down_end_it_with_the_number_that_is_missing() -> None:
    mesh = Mesh(3)
    mesh.isolate(1)
    call = promote(mesh, 1)
    mesh.run_for(10.0)
    second = promote(mesh, 1)
    assert mesh.reason(second) == "IN_ANOTHER_PROMOTE"
    mesh.step(1, ev.CallExpired(call))
    assert mesh.reason(call) == "NO_ELECTION_QUORUM"
    assert "1 out of minimal required 2" in message(mesh, call)
    assert mesh[1].raft.volatile_term == 1
    mesh.heal()
    mesh.run_for(5.0)
    assert mesh[1].raft.volatile_term == 1 and mesh[1].limbo.owner_id == 0, "it is over"


def test_a_promote_that_loses_its_peers_after_it_stood_names_the_term() -> None:
    """It said that nothing was changed, and its term had stopped the writers of the former one."""
    mesh = Mesh(3)
    call = promote(mesh, 1)
    mesh.isolate(1)
    assert mesh[1].raft.volatile_term == 2
    mesh.run_for(5.0)
    assert mesh.outcome(call) is None, "links may come up in time"
    mesh.step(1, ev.CallExpired(call))
    assert mesh.reason(call) == "NO_ELECTION_QUORUM"
    assert "term 2 was begun for it, and stays" in message(mesh, call)
    assert "nothing was changed" not in message(mesh, call)


def test_a_refusal_behind_a_term_that_was_begun_does_not_hide_it() -> None:
    transfer = Transfer(CallId(1), is_demote=False, asked_in=Term(3))
    begun, refusal = (
        NoElectionQuorum("term 4 was begun", term=Term(4)),
        NoElectionQuorum("nothing was changed"),
    )
    for error, kept in ((refusal, refusal), (begun, begun), (refusal, begun)):
        assert transfer.candidacy_ended(error, Term(4), is_refusal=True) is None
        assert transfer.too_few is kept


def test_links_that_flap_start_the_wait_again() -> None:
    mesh = Mesh(3)
    mesh.isolate(1)
    call = promote(mesh, 1)
    for _ in range(4):
        mesh.heal()
        mesh.run_for(0.75)
        mesh.isolate(1)
        mesh.run_for(0.75)
    assert mesh.outcome(call) is None and mesh[1].raft.volatile_term == 1
    mesh.heal()
    mesh.run_for(1.5)
    assert isinstance(mesh.outcome(call), ev.Promoted)


def test_an_owner_that_appears_meanwhile_ends_it() -> None:
    """Else it would be deposed as soon as the links are up."""
    mesh = Mesh(3)
    mesh.isolate(1)
    call = promote(mesh, 1)
    mesh.promote(2)
    mesh.heal()
    mesh.run_for(3.0)
    assert mesh.reason(call) == "INTERFERING_PROMOTE"
    assert {mesh[number].limbo.owner_id for number in mesh.members} == {2}
    assert mesh[2].is_writable


def test_an_owner_that_was_there_before_is_taken_over_from() -> None:
    """Whoever asks for a promote knows of it, and wants this instance."""
    mesh = Mesh(3)
    mesh.promote(2)
    mesh.isolate(1)
    call = promote(mesh, 1)
    mesh.heal()
    mesh.run_for(3.0)
    assert isinstance(mesh.outcome(call), ev.Promoted)
    assert mesh[1].is_writable


def test_who_is_elected_while_it_waits_has_what_was_asked_for() -> None:
    mesh = Mesh(3, election_mode=ElectionMode.CANDIDATE)
    mesh.isolate(1)
    mesh.run_for(20.0)
    mesh.isolate(2)
    call = promote(mesh, 1)
    mesh.heal()
    mesh.run_for(30.0)
    outcome = mesh.outcome(call)
    if isinstance(outcome, ev.Rejected):
        assert mesh.reason(call) == "INTERFERING_PROMOTE"
    else:
        assert isinstance(outcome, ev.Promoted)


def test_an_abandoned_promote_waits_no_more() -> None:
    mesh = Mesh(3)
    mesh.isolate(1)
    call = promote(mesh, 1)
    mesh.step(1, ev.RequestAbandoned(call))
    mesh.heal()
    mesh.run_for(5.0)
    assert mesh[1].raft.volatile_term == 1
    assert isinstance(mesh.outcome(mesh.promote(1)), ev.Promoted)


def test_what_no_link_would_change_is_refused_at_once() -> None:
    mesh = Mesh(3, election_mode=ElectionMode.VOTER)
    mesh.isolate(1)
    assert mesh.reason(promote(mesh, 1)) == "UNSUPPORTED"


def test_a_promote_that_is_overtaken_by_an_election_of_its_own_leaves_no_timer_behind() -> None:
    """Simulator, seed 7297: raft led before the promote stood: its time was over, and rang without end."""
    transfer = Transfer(CallId(1), is_demote=False, asked_in=Term(3))
    refusal = NoElectionQuorum("too few")
    assert transfer.candidacy_ended(refusal, Term(3), is_refusal=True) is None
    transfer.links_changed(enough=True, now=10.0, hear_s=1.0)
    assert transfer.stands_at == 11.0
    one = InstanceId(1)
    assert transfer.raft_changed(Term(4), leader=one, is_leader=True, may_lead=True, is_off=False) is None
    assert (transfer.phase, transfer.term) == (TransferPhase.QUEUE, 4)
    stands_at: float | None = transfer.stands_at
    assert stands_at is None
