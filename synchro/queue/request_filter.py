"""What a control row or a received data row means to this instance. Rules [P-40..44], [P-50], ADR 1.

Pure: it looks at what is decided and pending here and changes nothing. `SplitBrain` is raised where the
row belongs to a history that differs from ours; a row that only comes late has no effect and no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Protocol

from synchro.errors import RemoteProtocolError, SplitBrain, Unsupported
from synchro.ids import LOCAL, NOBODY, InstanceId, Lsn, Term
from synchro.queue.promotion import PendingPromote, PendingPromotes
from synchro.queue.state import QueueState
from synchro.row import Confirm, Control, Demote, Promote, Rollback

FOREIGN_OWNER = "got a request from a foreign synchro queue owner"
OBSOLETE_TERM = "got a PROMOTE/DEMOTE with an obsolete term"
PROCESSED_RANGE = "got a request with lsn from an already processed range"
FUTURE_LSN = "got a request mentioning future lsn"
OUT_OF_RANGE = "got a request lsn out of queue range"


class FilterVerdict(Enum):
    NO_EFFECT = "no effect"
    """late, repeated or void: written for the sake of the vclock, nothing else [P-44]"""
    COMMITS = "commits"
    """a CONFIRM of the current owner"""
    PENDS = "pends"
    """a PROMOTE or DEMOTE that becomes pending"""
    DECIDES = "decides"
    """a CONFIRM by which its writer announces that a quorum holds its PROMOTE or DEMOTE"""


class DataVerdict(Enum):
    """What to do with a received data transaction [P-50]."""

    APPLY = "apply"
    NOP = "nop"


class History(Protocol):
    """What a row is judged by; `Limbo` is one."""

    @property
    def owner_id(self) -> InstanceId: ...
    @property
    def term(self) -> Term: ...
    @property
    def confirmed_lsn(self) -> Lsn: ...
    @property
    def confirmed_vclock(self) -> Mapping[InstanceId, Lsn]: ...
    @property
    def promote_terms(self) -> Mapping[InstanceId, Term]: ...
    @property
    def pending(self) -> PendingPromotes: ...
    @property
    def void(self) -> Mapping[InstanceId, PendingPromote]: ...
    @property
    def is_majority(self) -> bool: ...
    @property
    def state(self) -> QueueState: ...
    @property
    def transfers(self) -> Iterable[PendingPromote]: ...
    def transfer_at(self, origin: InstanceId, lsn: Lsn) -> PendingPromote | None: ...
    @property
    def first_lsn(self) -> Lsn: ...
    @property
    def last_lsn(self) -> Lsn: ...


def judge(history: History, origin: InstanceId, lsn: Lsn, body: Control) -> FilterVerdict:
    """Return what a control row means here. Raises SplitBrain or Unsupported by the rules; the row is not
    written then."""
    match body:
        case Confirm():
            return _judge_confirm(history, origin, body)
        case Rollback():
            return _judge_rollback(history, origin, body)
        case Promote() | Demote():
            return _judge_promote(history, PendingPromote(origin, lsn, body))


def judge_written(
    history: History, origin: InstanceId, lsn: Lsn, body: Control, *, is_in_recovery: bool
) -> FilterVerdict:
    """Return what a control row that is in the WAL means. It was accepted once, so it is not refused now
    [Q-70]."""
    try:
        return judge(history, origin, lsn, body)
    except (SplitBrain, Unsupported):
        if not is_in_recovery or isinstance(body, Confirm | Rollback) or body.term <= history.term:
            return FilterVerdict.NO_EFFECT
        # It builds on a transfer of which the snapshot does not tell that it was a twin (ADR 15).
        is_based = body.prev_term <= history.term or history.pending.get(body.prev_term) is not None
        is_first = history.pending.get(body.term) is None  # else a twin by transfers that are forgotten
        return FilterVerdict.PENDS if is_based and is_first else FilterVerdict.NO_EFFECT


def judge_data(history: History, origin: InstanceId, *, wait_sync: bool, is_nop: bool) -> DataVerdict:
    """Return what to do with a received data transaction. Its origin counts, not its sender [P-50], [L-2].

    Raises SplitBrain [P-51]. Only decided terms count. While a PROMOTE is pending, rows are stored as they
    are, so that an ack always stands for the real bytes (ADR 1).
    """
    if origin == LOCAL or is_nop:
        return DataVerdict.APPLY
    owner = history.owner_id
    if history.promote_terms.get(origin) == history.term:
        if wait_sync and origin != owner:
            raise RemoteProtocolError(
                f"got a synchronous transaction of instance {origin} behind its DEMOTE", origin=origin
            )
        return DataVerdict.APPLY
    if wait_sync:
        return DataVerdict.NOP
    if owner == NOBODY:
        return DataVerdict.APPLY
    raise SplitBrain("got an async transaction from an old term", origin=origin, owner=owner)


def _judge_confirm(history: History, origin: InstanceId, body: Confirm) -> FilterVerdict:
    """Judge a CONFIRM [P-40], [P-41]."""
    _refuse_zero(body)
    if body.lsn <= history.confirmed_vclock.get(body.owner, 0):
        return FilterVerdict.NO_EFFECT  # [L-4]
    if origin == body.owner:
        announced = history.pending.announced_by(origin, body.lsn)
        if announced is not None:
            oldest = history.pending.chain(announced, history.term)[0].body
            if oldest.prev_term != history.term and history.first_lsn != 0:
                # It took the place of what is decided here, but that owner has written meanwhile (ADR 15).
                raise SplitBrain(PROCESSED_RANGE, **_details(history, origin, body))
            return FilterVerdict.DECIDES
        transfer = history.transfer_at(origin, body.lsn)
        if transfer is not None and twin_of(history, transfer) is not None:
            # It decides what is, or will be, decided here too, and nothing else: no entry of the owner that
            # is known here, be it the same instance.
            return FilterVerdict.NO_EFFECT
        if origin == history.owner_id:
            return FilterVerdict.COMMITS
        void = history.void.get(origin)
        if void is not None and void.lsn <= body.lsn:
            # A quorum there decided what a quorum here made void: two histories, told by the lower term.
            raise SplitBrain(_void_reason(history, void), **_details(history, origin, body))
    raise SplitBrain(FOREIGN_OWNER, **_details(history, origin, body))


def _judge_rollback(history: History, origin: InstanceId, body: Rollback) -> FilterVerdict:
    """Judge a ROLLBACK [P-42]. Nobody writes it here; one that would roll something back is not understood
    (ADR 2)."""
    _refuse_zero(body)
    is_confirmed = body.lsn <= history.confirmed_vclock.get(body.owner, 0)
    if is_confirmed or history.promote_terms.get(origin) == history.term:
        if body.owner != history.owner_id:
            raise SplitBrain(FOREIGN_OWNER, **_details(history, origin, body))
        if not is_confirmed:
            raise Unsupported("Replication does not support rolling back by a ROLLBACK request")
    return FilterVerdict.NO_EFFECT


def _judge_promote(history: History, promote: PendingPromote) -> FilterVerdict:
    """Judge a PROMOTE or DEMOTE [P-40], [P-43]. An undecided row with an obsolete term is void, not split
    brain (ADR 1)."""
    body, term = promote.body, history.term
    if body.term == 0:
        raise Unsupported("Replication does not support PROMOTE/DEMOTE with a zero term")
    if isinstance(body, Demote) and body.prev_owner == NOBODY:
        raise Unsupported("Replication does not support synchronous requests with zero replica_id")
    if body.term <= term:
        return FilterVerdict.NO_EFFECT
    known = history.pending.get(body.term)
    if known is not None:
        if known != promote and twin_of(history, promote) is None:
            raise SplitBrain(OBSOLETE_TERM, **_details(history, promote.origin, body))
        return FilterVerdict.NO_EFFECT  # a twin, or replayed over a snapshot that holds it as pending
    reason = _misfit(history, body)
    if reason is not None:
        raise SplitBrain(reason, **_details(history, promote.origin, body))
    return FilterVerdict.PENDS


def _misfit(history: History, body: Promote | Demote) -> str | None:
    """Return why this row does not build on our history; None if it does [P-43]."""
    if body.prev_term >= body.term:
        return OBSOLETE_TERM
    if body.prev_term < history.term:
        # It builds on an owner whose successor is decided here.
        return None if replaces_decided(history, body) else PROCESSED_RANGE
    if body.prev_term > history.term:
        base = history.pending.get(body.prev_term)
        if base is None:
            return FUTURE_LSN
        is_same = (base.origin, base.lsn) == (body.prev_owner, body.lsn)
        is_alike = not history.is_majority and _root(history, base.body) == _root(history, body)
        return None if is_same or is_alike else OUT_OF_RANGE
    if history.owner_id == NOBODY:
        # Unclaimed from the start, or since a DEMOTE of `prev_owner` that its reader held as pending.
        is_demoter = history.promote_terms.get(body.prev_owner) == history.term
        if body.prev_owner != NOBODY and not is_demoter:
            return FOREIGN_OWNER
        return None if body.lsn <= history.confirmed_vclock.get(body.prev_owner, 0) else FUTURE_LSN
    if body.prev_owner != history.owner_id:
        return None if replaces_decided(history, body) else FOREIGN_OWNER
    if body.lsn < history.confirmed_lsn:
        return PROCESSED_RANGE
    if body.lsn == history.confirmed_lsn:
        return None
    if history.last_lsn == 0:
        return FUTURE_LSN
    return None if history.first_lsn <= body.lsn <= history.last_lsn else OUT_OF_RANGE


def twin_of(history: History, promote: PendingPromote) -> PendingPromote | None:
    """Return the known transfer, by another leader, that does the same as this one; None if there is none
    (ADR 15).

    Both decide alike what was before, and differ in nothing until one of the owners writes. Where the quorum
    is a majority, a leader knows of every transfer that was decided before, so a second one is split brain
    whatever it says. It also is for an instance that leads that very term.
    """
    leads_it = history.state is QueueState.LEADER and promote.term == history.term
    if history.is_majority or leads_it:
        return None
    others = (t for t in history.transfers if t.origin != promote.origin)
    same = (t for t in others if _root(history, t.body) == _root(history, promote.body))
    return max(same, key=lambda transfer: transfer.term, default=None)


def _root(history: History, body: Promote | Demote) -> tuple[type, InstanceId, Lsn, Term]:
    """What a transfer builds on in the end: below it, PROMOTEs after which nothing was written. Equal ones
    decide alike."""
    kind = type(body)
    while (base := history.transfer_at(body.prev_owner, body.lsn)) is not None:
        if base.term != body.prev_term or isinstance(base.body, Demote) or base.term >= body.term:
            break
        body = base.body
    return kind, body.prev_owner, body.lsn, body.prev_term


def replaces_decided(history: History, body: Promote | Demote) -> bool:
    """Whether this transfer does what the decided one did, and nothing came of that: its owner put nothing
    into the queue since. Then the higher term takes its place."""
    if history.is_majority or history.state is QueueState.LEADER or history.first_lsn != 0:
        return False
    return any(
        transfer.term == history.term
        and transfer.lsn == history.confirmed_lsn
        and _root(history, transfer.body) == _root(history, body)
        for transfer in history.transfers
    )


def _void_reason(history: History, void: PendingPromote) -> str:
    """The reason text of [P-43] for a void PROMOTE whose writer had a quorum after all."""
    if void.term <= history.term:
        return OBSOLETE_TERM
    return _misfit(history, void.body) or OBSOLETE_TERM


def _refuse_zero(body: Confirm | Rollback) -> None:
    """Refuse LSN 0 and owner 0 [P-40]."""
    if body.owner == NOBODY:
        raise Unsupported("Replication does not support synchronous requests with zero replica_id")
    if body.lsn == 0:
        raise Unsupported("Replication does not support zero LSN for CONFIRM/ROLLBACK")


def _details(history: History, origin: InstanceId, body: Control) -> dict[str, object]:
    return {
        "origin": origin,
        "request": body,
        "owner": history.owner_id,
        "term": history.term,
        "confirmed_lsn": history.confirmed_lsn,
    }
