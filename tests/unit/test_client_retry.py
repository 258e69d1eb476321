"""What the client repeats, and what it says when it cannot know: without connections and clocks."""

from __future__ import annotations

import pytest

from synchro import errors
from synchro.client.errors import CannotConnect, ConnectionLost, OutcomeUnknown
from synchro.client.retry import DELAY_FIRST_S, DELAY_MAX_S, REDIRECTS_AT_ONCE, Tries
from synchro.errors import SynchroError

RID = b"0123456789abcdef"


def tries(*, deadline: float = 100.0, is_read: bool = False) -> Tries:
    return Tries(deadline, b"" if is_read else RID, is_read=is_read)


def failed(
    t: Tries, error: SynchroError, *, now: float = 0.0, redirected: bool = False, **more: bool
) -> float:
    return t.failed(error, "h:1", now, redirected=redirected, **more)


def test_a_refusal_with_a_hint_is_followed_at_once_but_not_for_ever() -> None:
    t = tries()
    delays = [failed(t, errors.ReadOnly("no"), redirected=True) for _ in range(REDIRECTS_AT_ONCE + 1)]
    assert delays[:-1] == [0.0] * REDIRECTS_AT_ONCE
    assert delays[-1] > 0


def test_delays_grow_to_a_limit() -> None:
    t = tries()
    delays = [failed(t, errors.NoLeader("none")) for _ in range(20)]
    assert delays[0] == DELAY_FIRST_S
    assert delays == sorted(delays)
    assert delays[-1] == DELAY_MAX_S


@pytest.mark.parametrize("kind", [errors.SyncQueueFull, errors.Loading, errors.QuorumWait, CannotConnect])
def test_what_did_nothing_ends_with_its_own_error_when_time_is_over(kind: type[SynchroError]) -> None:
    t = tries(deadline=1.0)
    assert failed(t, kind("later"), now=0.5) > 0
    with pytest.raises(kind):
        failed(t, kind("later"), now=0.99)


def test_a_data_error_is_raised_at_once() -> None:
    with pytest.raises(errors.TupleFound):
        failed(tries(), errors.TupleFound("exists"))


def test_a_timeout_of_the_quorum_is_an_unknown_outcome_with_the_transaction() -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        failed(tries(), errors.SyncTimeout("no quorum", txn="1:15", acked=1))
    assert caught.value.txn == (1, 15)
    assert caught.value.request_id == RID
    assert caught.value.details["reason"] == "SYNC_TIMEOUT"
    assert caught.value.details["txn"] == "1:15"
    assert caught.value.details["acked"] == "1"


def test_a_lost_write_is_repeated_with_its_id() -> None:
    t = tries()
    assert failed(t, ConnectionLost("gone")) > 0
    assert t.unknown_at == "h:1"


def test_after_a_lost_try_no_refusal_counts_as_nothing_was_done() -> None:
    """The lost try may have been done by somebody the refusing instance does not know about."""
    for later in (errors.TupleFound("exists"), errors.SyncRollback("dropped"), errors.ReadOnly("ro")):
        t = tries(deadline=1.0)
        failed(t, ConnectionLost("gone"))
        with pytest.raises(OutcomeUnknown) as caught:
            failed(t, later, now=2.0)
        assert caught.value.details["reason"] == later.reason


def test_a_lost_write_without_an_owner_of_the_queue_is_not_repeated_elsewhere() -> None:
    """Without a claimed queue each instance knows only its own request ids."""
    with pytest.raises(OutcomeUnknown):
        failed(tries(), ConnectionLost("gone"), claimed=False)


def test_a_lost_read_is_repeated_and_never_unknown() -> None:
    t = tries(deadline=1.0, is_read=True)
    assert failed(t, ConnectionLost("gone")) > 0
    with pytest.raises(ConnectionLost):
        failed(t, ConnectionLost("gone"), now=2.0)


def test_read_only_by_configuration_is_not_waited_out() -> None:
    t = tries()
    error = errors.ReadOnly("ro", ro_reason="config")
    assert failed(t, error) > 0  # somebody else may be writable: one look around
    with pytest.raises(errors.ReadOnly):
        failed(t, error)


def test_read_only_during_an_election_is_waited_out() -> None:
    t = tries()
    for _ in range(10):
        assert failed(t, errors.ReadOnly("ro", ro_reason="election")) > 0


def test_after_a_lost_try_a_rolled_back_transaction_is_not_the_whole_story() -> None:
    t = tries()
    failed(t, ConnectionLost("gone"))
    with pytest.raises(OutcomeUnknown) as caught:
        failed(t, errors.SyncTimeout("no quorum", txn="2:7"))
    assert caught.value.txn == (2, 7)
    assert not caught.value.is_only_try


def test_the_position_is_fixed_once_somebody_received_the_call() -> None:
    t = tries()
    failed(t, CannotConnect("nobody there"))
    assert t.is_first_sent
    failed(t, errors.ReadOnly("no"))
    assert not t.is_first_sent


def test_what_a_stopping_instance_leaves_open_is_asked_for_elsewhere() -> None:
    """The next owner knows the request id; if nobody can say more, the name it was given is told."""
    error = errors.SyncTimeout("stopping", txn="1:15", stage="stopping", outcome="unknown")
    t = tries(deadline=1.0)
    assert failed(t, error) > 0
    with pytest.raises(OutcomeUnknown) as caught:
        failed(t, CannotConnect("gone"), now=0.99)
    assert caught.value.txn == (1, 15) and caught.value.request_id == RID

    with pytest.raises(OutcomeUnknown) as caught:
        failed(tries(), error, claimed=False)  # no queue: request ids are known where they were used only
    assert caught.value.txn == (1, 15)
