"""State = snapshot + WAL rows after it; and the other way round, the view that a snapshot or a join takes.

Rules [W-20], [W-26], [W-32], [Q-70]..[Q-73], ADR 4.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast, overload

from synchro.config import Settings
from synchro.errors import IllegalParams
from synchro.ids import ANONYMOUS, INITIAL_TERM, NOBODY, InstanceId, Lsn, RequestId, Term
from synchro.instance.core import Instance
from synchro.instance.coupling import raft_settings
from synchro.instance.log_tail import LogTail
from synchro.instance.numbering import become_member, number_given
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.transactions import Transactions
from synchro.queue.effects import EntriesCommitted, EntriesRolledBack, LimboEffect, OwnerChanged, WriteControl
from synchro.queue.entry import LimboEntry
from synchro.queue.fates import Drops, DropsState, LsnRange
from synchro.queue.limbo import Limbo, LimboState
from synchro.queue.request_table import RequestRecord, RequestTable, RequestTableState
from synchro.raft.core import Raft
from synchro.raft.messages import Membership
from synchro.replication.trust import Trust
from synchro.row import Demote, PlainTxn, Promote, RaftState, Tuple, Txn
from synchro.storage.memtx import Memtx
from synchro.storage.snapshot import DroppedRange, RememberedRequest, SnapshotMeta
from synchro.vclock import Vclock


def recover_instance(
    *,
    uuid: str,
    settings: Settings,
    meta: SnapshotMeta,
    spaces: Iterable[tuple[int, Iterable[Tuple]]],
    txns: Iterable[Txn],
    rng: random.Random,
    trusted: bool,
    now: float,
    is_log_whole: Callable[[], bool] = lambda: True,
) -> Instance:
    """The instance as it was, as far as the disk has it: a follower that does not act before `start`, and is
    not writable for a moment [L-28].

    uuid: this instance, looked up in `_cluster` of the snapshot; one that is not there is anonymous, unless
    the log registers it [M-6]. Pending transactions are in the limbo again, invisible. Raises SynchroError if
    a row cannot be applied, or if it was a member once.
    trusted: False if the amnesia flag is set. is_log_whole: asked when `txns` ended; False is amnesia too,
    and whoever is asked has set the flag (S14).
    """
    memtx = Memtx(settings.limits, settings.memtx_memory)
    memtx.begin_bulk()
    for space_id, tuples in spaces:
        memtx.load(space_id, tuples)
    members = memtx.catalog.members()
    self_id = next((i for i, (member, _) in members.items() if member == uuid), None)
    if self_id is None:  # one that was expelled starts, is read only, and says why (ADR 41)
        self_id = memtx.catalog.expelled_id(uuid)
    if self_id is None:
        _check_never_voted(uuid, meta.vote)
        self_id = ANONYMOUS
    memtx.self_id = self_id
    limbo = Limbo(
        self_id=self_id,
        registered=frozenset(members),
        quorum=settings.synchro_quorum.quorum(len(members)),
        max_size=settings.synchro_queue_max_size,
    )
    limbo.restore(_limbo_state(meta))
    requests, drops = _remembered(meta, settings)
    log = LogTail(self_id, meta.vclock, meta.term)
    raft = Raft(
        self_id=self_id,
        term=meta.term,
        vote=meta.vote,
        vclock=meta.vclock,
        membership=Membership(frozenset(members), limbo.quorum),
        settings=raft_settings(settings, self_id),
        rng=rng,
        trusted=trusted,
    )
    state = Parts(uuid, self_id, settings, memtx, limbo, raft, log, requests, drops)
    replay = _Replay(state, RaftState(meta.term, meta.vote), now)
    for txn in txns:
        replay.apply(txn)
    memtx.end_bulk()
    replay.finish()
    if state.is_anonymous:
        _check_never_voted(uuid, replay.hard_state.vote)
    trusted = is_log_whole() and trusted
    state.raft = Raft(
        self_id=state.self_id,
        term=replay.hard_state.term,
        vote=replay.hard_state.vote,
        vclock=log.vclock,
        membership=state.election_membership(),
        settings=raft_settings(settings, state.self_id),
        rng=rng,
        trusted=trusted,
    )
    return Instance(state, replay.txns, Trust(trusted))


def _check_never_voted(uuid: str, vote: InstanceId) -> None:
    """A member does not become anonymous, nor a new member by that (S24). Raises `IllegalParams`."""
    if vote != NOBODY:
        raise IllegalParams(
            f"instance {uuid} has voted, so it was a member, and is in _cluster of its files no more: a "
            "version that keeps no record of it removed it; nothing was started. Next: move its files away, "
            "instance.identity too, and start it again"
        )


class _Replay:
    """Recovered rows, in WAL order; validation, limits and replies are off [Q-70]."""

    def __init__(self, state: Parts, hard_state: RaftState, now: float) -> None:
        self.state = state
        self.txns = Transactions(state)
        self.hard_state = hard_state
        self._now = now

    def apply(self, txn: Txn) -> None:
        self._apply(txn)
        state = self.state
        if (number := number_given(state)) is not None:
            become_member(state, number)  # what follows in its log may be its own

    def _apply(self, txn: Txn) -> None:
        if isinstance(txn, PlainTxn):
            self._apply_data(txn)
            return
        state, first = self.state, txn.rows[0].body
        if isinstance(first, RaftState):
            state.log.follow(txn)
            self.hard_state = first
            return
        control = txn.control
        if control is not None:
            state.log.follow(txn)
            if isinstance(control, Promote | Demote) and control.term > self.hard_state.term:
                self.hard_state = RaftState(control.term, NOBODY)
            self._carry_out(state.limbo.control_written(txn.origin, txn.lsn, control, self._now))
        elif txn.is_nop and not txn.is_done_request:
            state.log.follow(txn)
            self.txns.note_nops(txn)
        else:
            self._apply_data(txn)

    def _apply_data(self, txn: Txn) -> None:
        pending = self.txns.prepare_received(txn, self._now)
        if not pending.is_queued:
            self.txns.commit((pending,), self.state.limbo.term)

    def finish(self) -> None:
        """Own acks follow from the log; those of others come again from them [Q-72]."""
        state = self.state
        limbo, log = state.limbo, state.log
        log.recovered(self.hard_state.term)
        members = state.counting
        quorum = state.settings.synchro_quorum.quorum(len(members))
        self._carry_out(limbo.membership_changed(members, quorum, self._now))
        self._carry_out(limbo.written(log.vclock, self._now))
        self._carry_out(limbo.recovery_finished(self._now))
        state.outbox.take()  # nobody is there to be told, and `start` looks at everything
        state.agenda.take_members()
        state.agenda.take_progress()

    def _carry_out(self, effects: list[LimboEffect]) -> None:
        for effect in effects:
            match effect:
                case EntriesCommitted(entries=entries, term=term):
                    self.txns.commit(cast("Sequence[PendingTxn]", entries), term)
                case EntriesRolledBack():
                    self.txns.roll_back(effect)
                case OwnerChanged(term=term):
                    self.txns.queue_changed_hands(term)
                case WriteControl():
                    raise AssertionError("a limbo in recovery asks for nothing")


def snapshot_view(
    instance: Instance, *, with_local: bool = True
) -> tuple[SnapshotMeta, list[tuple[int, Iterable[Tuple]]]]:
    """The committed prefix: tuples, vclock, queue, elections, requests, all of this very instant (ADR 4).

    The vclock is lowered to just before what is pending, so that recovery or a joiner replays those rows
    from the WAL and has them in its queue again. with_local: False for a join, local tuples stay here [M-21].
    """
    state = instance.state
    vclock = state.limbo.committed_prefix(state.log.vclock, _rows_of)
    queue = state.limbo.snapshot_state()
    requests, drops = state.requests.export(), state.drops.export()
    meta = SnapshotMeta(
        vclock=vclock,
        replicaset_uuid=state.memtx.catalog.replicaset_uuid() or "",
        term=state.raft.term,
        vote=state.raft.vote,
        queue_owner=queue.owner,
        queue_term=queue.term,
        confirmed_lsn=queue.confirmed_lsn,
        confirmed_vclock=Vclock(queue.confirmed_vclock),
        promote_terms=tuple(sorted(queue.promote_terms.items())),
        requests=_Remembered(requests.decided),
        drops=[DroppedRange(origin, r.first, r.last) for origin, r in drops.ranges],
        extra={
            "requests_forgotten": (requests.forgotten_term, requests.forgotten_lsn),
            "drops_forgotten": drops.forgotten,
        },
    )
    return meta, state.memtx.freeze(with_local=with_local)


class _Remembered(Sequence[RememberedRequest]):
    """A million of them: each is made when whoever writes the snapshot, not the loop, asks for it."""

    def __init__(self, decided: Sequence[tuple[RequestId, RequestRecord]]) -> None:
        self._decided = decided

    def __len__(self) -> int:
        return len(self._decided)

    def __iter__(self) -> Iterator[RememberedRequest]:
        return map(_remembered_request, self._decided)

    @overload
    def __getitem__(self, index: int) -> RememberedRequest: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RememberedRequest]: ...
    def __getitem__(self, index: int | slice) -> RememberedRequest | Sequence[RememberedRequest]:
        if isinstance(index, slice):
            return _Remembered(self._decided[index])
        return _remembered_request(self._decided[index])


def _remembered_request(decided: tuple[RequestId, RequestRecord]) -> RememberedRequest:
    request_id, record = decided
    assert record.term is not None
    return RememberedRequest(request_id, record.origin, record.lsn, record.term)


def _rows_of(entry: LimboEntry) -> Iterable[tuple[InstanceId, Lsn]]:
    assert isinstance(entry, PendingTxn)
    if isinstance(entry.txn, PlainTxn):
        return ((entry.txn.origin, entry.txn.tsn),)  # the first of its only origin counts
    return [(row.replica_id, row.lsn) for row in entry.txn.rows]


def _limbo_state(meta: SnapshotMeta) -> LimboState:
    return LimboState(
        owner=meta.queue_owner,
        term=max(meta.queue_term, INITIAL_TERM),
        confirmed_lsn=meta.confirmed_lsn,
        confirmed_vclock=meta.confirmed_vclock.as_dict(),
        promote_terms=dict(meta.promote_terms),
    )


def _remembered(meta: SnapshotMeta, settings: Settings) -> tuple[RequestTable, Drops]:
    forgotten_term, forgotten_lsn = meta.extra.get("requests_forgotten", (0, 0))
    requests = RequestTable(settings.limits.remembered_requests_max)
    requests.restore(
        RequestTableState(
            tuple((r.request_id, RequestRecord(r.origin, r.lsn, r.term)) for r in meta.requests),
            Term(forgotten_term),
            Lsn(forgotten_lsn),
        )
    )
    drops = Drops(settings.limits.remembered_drops_max)
    drops.restore(
        DropsState(
            tuple((d.origin, LsnRange(d.first_lsn, d.last_lsn)) for d in meta.drops),
            tuple((InstanceId(i), Lsn(lsn)) for i, lsn in meta.extra.get("drops_forgotten", ())),
        )
    )
    return requests, drops
