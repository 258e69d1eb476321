"""Validation of control rows, on a follower that has seen 1 claim the queue in term 2. [P-40..44]."""

from __future__ import annotations

from typing import cast

import pytest

from synchro.errors import SplitBrain, Unsupported
from synchro.ids import InstanceId, Lsn, Term
from synchro.queue.promotion import PendingPromote, PendingPromotes
from synchro.queue.request_filter import FilterVerdict, History, judge
from synchro.row import Control, Rollback
from tests.unit.limbo_world import A, B, C, Site, cluster, confirm, demote, promote


def judged(site: Site, origin: InstanceId, body: Control, lsn: int = 50) -> FilterVerdict:
    return site.limbo.filter_control(origin, Lsn(lsn), body)


@pytest.fixture
def follower() -> Site:
    """Owner 1, term 2, confirmed_lsn 3, entries 5 and 6 (4 is the CONFIRM of 3)."""
    a, b, _ = cluster()
    a.write()
    a.sync()
    b.pull(a)
    a.acked_by(b).sync()
    a.write()
    a.write()
    a.sync()
    b.pull(a)
    assert (b.limbo.confirmed_lsn, b.lsns) == (3, [5, 6])
    return b


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (confirm(0, 5), "zero replica_id"),
        (Rollback(InstanceId(0), Lsn(5)), "zero replica_id"),
        (demote(0, 5, 3, 2), "zero replica_id"),
        (confirm(1, 0), "zero LSN for CONFIRM/ROLLBACK"),
        (Rollback(A, Lsn(0)), "zero LSN for CONFIRM/ROLLBACK"),
        (promote(1, 5, 0, 0), "PROMOTE/DEMOTE with a zero term"),
    ],
)
def test_zeros_are_not_supported(follower: Site, body: Control, text: str) -> None:
    """[P-40]."""
    with pytest.raises(Unsupported, match=text):
        judged(follower, A, body)


def test_confirm_of_the_owner(follower: Site) -> None:
    """[P-41]."""
    assert judged(follower, A, confirm(1, 5)) is FilterVerdict.COMMITS
    assert judged(follower, A, confirm(1, 3)) is FilterVerdict.NO_EFFECT
    assert judged(follower, B, confirm(1, 2)) is FilterVerdict.NO_EFFECT


@pytest.mark.parametrize(("origin", "owner"), [(B, 2), (C, 3), (B, 1)])
def test_confirm_of_somebody_else(follower: Site, origin: InstanceId, owner: int) -> None:
    """[P-41]: only the owner confirms, and only its own queue."""
    with pytest.raises(SplitBrain, match="got a request from a foreign synchro queue owner") as caught:
        judged(follower, origin, confirm(owner, 5))
    assert caught.value.details["owner"] == "1"


def test_rollback(follower: Site) -> None:
    """[P-42], [Q-50]: read for compatibility; what would roll something back is refused (ADR 2)."""
    assert judged(follower, A, Rollback(A, Lsn(3))) is FilterVerdict.NO_EFFECT
    assert judged(follower, C, Rollback(C, Lsn(9))) is FilterVerdict.NO_EFFECT
    with pytest.raises(Unsupported, match="ROLLBACK"):
        judged(follower, A, Rollback(A, Lsn(5)))
    with pytest.raises(SplitBrain, match="foreign"):
        judged(follower, A, Rollback(C, Lsn(5)))


@pytest.mark.parametrize("lsn", [3, 5, 6])
def test_promote_that_fits(follower: Site, lsn: int) -> None:
    """[P-43]: border at what is confirmed, or at an entry."""
    assert judged(follower, B, promote(1, lsn, 3, 2)) is FilterVerdict.PENDS
    assert judged(follower, B, demote(1, lsn, 3, 2)) is FilterVerdict.PENDS


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (promote(1, 2, 3, 2), "got a request with lsn from an already processed range"),
        (promote(1, 4, 3, 2), "got a request lsn out of queue range"),
        (promote(1, 7, 3, 2), "got a request lsn out of queue range"),
        (promote(1, 5, 3, 1), "got a request with lsn from an already processed range"),
        (promote(1, 5, 5, 4), "got a request mentioning future lsn"),
        (promote(1, 5, 3, 3), "got a PROMOTE/DEMOTE with an obsolete term"),
        (promote(3, 5, 3, 2), "got a request from a foreign synchro queue owner"),
        (promote(0, 0, 3, 2), "got a request from a foreign synchro queue owner"),
    ],
)
def test_promote_that_does_not_fit(follower: Site, body: Control, text: str) -> None:
    """[P-43], [T-13]."""
    with pytest.raises(SplitBrain, match=text):
        judged(follower, B, body)
    assert follower.pending_terms == []


def test_promote_beyond_an_empty_queue() -> None:
    """[P-43]."""
    _, b, _ = cluster()
    with pytest.raises(SplitBrain, match="got a request mentioning future lsn"):
        judged(b, C, promote(1, 9, 3, 2))


def test_promote_of_an_obsolete_term_is_void(follower: Site) -> None:
    """ADR 1 over [P-43]."""
    assert judged(follower, C, promote(0, 0, 2, 1)) is FilterVerdict.NO_EFFECT
    assert judged(follower, C, promote(0, 0, 1, 1)) is FilterVerdict.NO_EFFECT


def test_a_pending_promote_again(follower: Site) -> None:
    """The same row is replayed behind a snapshot; another one of that term is a second leader."""
    follower.limbo.control_written(B, Lsn(7), promote(1, 6, 3, 2), 0.0)
    assert judged(follower, B, promote(1, 6, 3, 2), 7) is FilterVerdict.NO_EFFECT
    with pytest.raises(SplitBrain, match="obsolete term"):
        judged(follower, C, promote(1, 6, 3, 2), 7)
    with pytest.raises(SplitBrain, match="obsolete term"):
        judged(follower, B, promote(1, 5, 3, 2), 7)


def test_a_promote_on_a_pending_one_names_its_row(follower: Site) -> None:
    """ADR 1: prev_owner and lsn are writer and LSN of the pending row, prev_term its term."""
    follower.limbo.control_written(B, Lsn(7), promote(1, 6, 3, 2), 0.0)
    assert judged(follower, C, promote(2, 7, 4, 3)) is FilterVerdict.PENDS
    with pytest.raises(SplitBrain, match="out of queue range"):
        judged(follower, C, promote(2, 8, 4, 3))
    with pytest.raises(SplitBrain, match="out of queue range"):
        judged(follower, C, promote(1, 6, 4, 3))


def test_the_confirm_that_decides(follower: Site) -> None:
    """ADR 1: CONFIRM{writer, lsn >= its PROMOTE}, by the writer; below that row it is foreign."""
    follower.limbo.control_written(B, Lsn(7), promote(1, 6, 3, 2), 0.0)
    assert judged(follower, B, confirm(2, 7), 8) is FilterVerdict.DECIDES
    assert follower.limbo.is_barrier(B, confirm(2, 7))
    with pytest.raises(SplitBrain, match="foreign"):
        judged(follower, B, confirm(2, 6), 8)
    with pytest.raises(SplitBrain, match="foreign"):
        judged(follower, C, confirm(2, 7), 8)
    assert judged(follower, A, confirm(1, 5)) is FilterVerdict.COMMITS  # the old owner was not deposed yet


def test_what_is_in_the_wal_is_not_judged_again(follower: Site) -> None:
    """[Q-70]: recovery does not refuse what was accepted; it has no effect at worst."""
    assert follower.limbo.control_written(C, Lsn(1), confirm(3, 1), 0.0) == []
    assert follower.limbo.control_written(A, Lsn(9), Rollback(A, Lsn(5)), 0.0) == []
    assert follower.lsns == [5, 6]


def test_a_second_branch_becomes_void_with_its_base(follower: Site) -> None:
    """PendingPromotes.N2: what builds on the term that lost can never be decided."""
    limbo = follower.limbo
    limbo.control_written(B, Lsn(7), promote(1, 6, 3, 2), 0.0)
    limbo.control_written(C, Lsn(1), promote(1, 5, 4, 2), 0.0)
    limbo.control_written(B, Lsn(8), promote(3, 1, 5, 4), 0.0)
    limbo.control_written(B, Lsn(9), confirm(2, 7), 0.0)  # decides 3; needs a quorum below a majority
    limbo.check()
    assert (limbo.owner_id, limbo.term) == (B, 3)
    assert follower.pending_terms == []
    with pytest.raises(SplitBrain, match="already processed range"):
        judged(follower, C, confirm(3, 1), 2)


class After:
    """The history of a transfer in term 7, while another one waits that builds on a twin of it."""

    def __init__(self, first_lsn: Lsn) -> None:
        self.first_lsn = first_lsn
        self.term, self.owner_id, self.confirmed_lsn = Term(7), A, Lsn(6)
        self.pending = PendingPromotes()
        self.pending.add(PendingPromote(B, Lsn(9), promote(3, 5, 9, 8)))
        self.confirmed_vclock: dict[InstanceId, Lsn] = {}


def test_a_transfer_of_a_twin_takes_the_place_of_one_that_wrote_nothing() -> None:
    """ADR 15: the twin it builds on is not known any more; nothing is left to do of that."""
    assert judge(cast(History, After(first_lsn=Lsn(0))), B, Lsn(10), confirm(2, 9)) is FilterVerdict.DECIDES


def test_a_transfer_of_a_twin_takes_nothing_from_an_owner_that_wrote() -> None:
    """ADR 15, S16: else what the owner decided here has in its queue would be rolled back in silence."""
    with pytest.raises(SplitBrain):
        judge(cast(History, After(first_lsn=Lsn(8))), B, Lsn(10), confirm(2, 9))
