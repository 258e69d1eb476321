"""Linearizable reads: a quorum must have echoed a heartbeat that was sent after the read was asked for."""

from __future__ import annotations

from synchro.ids import CallId, InstanceId, Term
from synchro.replication.read_barrier import Electorate, ReadBarrier

TERM = Term(3)
A, B, C = CallId(1), CallId(2), CallId(3)
TWO, THREE = InstanceId(2), InstanceId(3)
MEMBERS = [Electorate(frozenset({InstanceId(1), TWO, THREE}), 2)]


def test_a_read_is_ready_when_a_quorum_echoed_its_round() -> None:
    barrier = ReadBarrier()
    assert barrier.ask(A)
    assert barrier.finish(MEMBERS) == ([], False)
    barrier.echo(TWO, barrier.show(), TERM, TERM)
    assert barrier.finish(MEMBERS) == ([A], False)


def test_an_echo_of_an_earlier_heartbeat_or_another_term_proves_nothing() -> None:
    barrier = ReadBarrier()
    barrier.ask(A)
    barrier.echo(TWO, barrier.show() - 1, TERM, TERM)
    barrier.echo(THREE, barrier.show(), Term(4), TERM)
    assert barrier.finish(MEMBERS) == ([], False)


def test_an_echo_of_a_stranger_does_not_count() -> None:
    barrier = ReadBarrier()
    barrier.ask(A)
    barrier.echo(InstanceId(9), barrier.show(), TERM, TERM)
    assert barrier.finish(MEMBERS) == ([], False)


def test_reads_that_ask_before_the_number_is_on_a_heartbeat_share_the_round() -> None:
    """As all do that arrive in one turn: one round for all, not one for the first and one for the rest."""
    barrier = ReadBarrier()
    assert barrier.ask(A)
    assert not barrier.ask(B) and not barrier.ask(C)
    barrier.echo(TWO, barrier.show(), TERM, TERM)
    barrier.check()
    assert barrier.finish(MEMBERS) == ([A, B, C], False)


def test_reads_that_come_during_a_round_share_the_next_one() -> None:
    """ReadBarrier.B1: the heartbeat of the open round was sent before they asked."""
    barrier = ReadBarrier()
    assert barrier.ask(A)
    first = barrier.show()
    assert not barrier.ask(B)
    assert not barrier.ask(C)
    barrier.echo(TWO, first, TERM, TERM)
    assert barrier.finish(MEMBERS) == ([A], True)
    barrier.echo(TWO, first, TERM, TERM)
    assert barrier.finish(MEMBERS) == ([], False)
    second = barrier.show()
    assert second > first
    barrier.echo(TWO, first, TERM, TERM)
    assert barrier.finish(MEMBERS) == ([], False)
    barrier.echo(TWO, second, TERM, TERM)
    assert barrier.finish(MEMBERS) == ([B, C], False)


def test_an_echo_of_what_was_never_sent_proves_nothing() -> None:
    """A number from another life of this process, or none of ours."""
    barrier = ReadBarrier()
    barrier.ask(A)
    barrier.echo(TWO, 1_000, TERM, TERM)
    barrier.check()
    assert barrier.finish(MEMBERS) == ([], False)


def test_the_next_round_starts_when_all_readers_of_this_one_left() -> None:
    barrier = ReadBarrier()
    barrier.ask(A)
    barrier.show()
    barrier.ask(B)
    assert barrier.drop(A)
    barrier.echo(TWO, barrier.show(), TERM, TERM)
    assert barrier.finish(MEMBERS) == ([B], False)


def test_alone_the_owner_is_its_own_quorum() -> None:
    barrier = ReadBarrier()
    barrier.ask(A)
    assert barrier.finish([Electorate(frozenset({InstanceId(1)}), 1)]) == ([A], False)


def test_each_electorate_must_have_echoed() -> None:
    """ADR 17: a fourth member is written, not decided: the next candidate may count it, or not."""
    barrier = ReadBarrier()
    four = frozenset({InstanceId(1), TWO, THREE, InstanceId(4)})
    barrier.ask(A)
    barrier.echo(InstanceId(4), barrier.show(), TERM, TERM)
    assert barrier.finish([*MEMBERS, Electorate(four, 2)]) == ([], False)
    barrier.echo(THREE, barrier.show(), TERM, TERM)
    assert barrier.finish([*MEMBERS, Electorate(four, 2)]) == ([A], False)


def test_losing_the_queue_refuses_all_readers() -> None:
    barrier = ReadBarrier()
    barrier.ask(A)
    barrier.ask(B)
    assert barrier.fail() == [A, B]
    assert not barrier.is_open
