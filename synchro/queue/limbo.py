"""The limbo: who owns the queue, what is confirmed, and how the queue changes hands.

A synchronous transaction waits here until a quorum holds it. The life of one, on its owner:

    submit -> (disk) written -> acks of a quorum -> committed -> announce -> Confirm (disk), others commit

and of a take-over, on the new raft leader of term T:

    raft_changed(T) -> a quorum holds the base -> WriteControl(Promote) -> (disk) -> pending
                    -> a quorum holds the PROMOTE -> WriteControl(Confirm) -> (disk) -> decided: owner

Every other instance does the same with the same rows as it reads them. Nothing here is decided by time
[Q-40], [Q-41], [Q-44], and a PROMOTE that only its writer holds decides nothing (ADR 1). Rules [Q-*], [P-*].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Final

from synchro.ids import ANONYMOUS, INITIAL_TERM, NOBODY, InstanceId, Lsn, Term
from synchro.queue import refusals
from synchro.queue.effects import (
    EntriesCommitted,
    EntriesRolledBack,
    LimboEffect,
    OwnerChanged,
    WriteControl,
)
from synchro.queue.entry import LimboEntry
from synchro.queue.limbo_queue import ZERO_LSN, LimboQueue
from synchro.queue.ownership import Ownership
from synchro.queue.promotion import PendingPromote, PendingPromotes
from synchro.queue.quorum import Acks
from synchro.queue.request_filter import (
    DataVerdict,
    FilterVerdict,
    judge,
    judge_data,
    judge_written,
    replaces_decided,
)
from synchro.queue.state import LimboState, QueueState
from synchro.row import Confirm, Control, Demote, Promote
from synchro.vclock import Vclock

_INACTIVE: Final = QueueState.INACTIVE
_LEADER: Final = QueueState.LEADER
_REPLICA: Final = QueueState.REPLICA
"""Asked for several times a step: a member that is looked up in its enum costs three times as much."""

__all__ = ["DataVerdict", "Limbo", "LimboState", "QueueState"]


class Limbo:
    """The synchronous queue of one instance, and its part in the protocol around it [Q-2], by ADR 1.

    L1  The queue holds entries of the decided owner only; a pending PROMOTE changes nothing of it [P-3].
    L2  An entry leaves by commit only when, on its owner in state LEADER, a quorum holds it that shares an
        instance with each quorum that may elect somebody (ADR 11, ADR 38), or when a CONFIRM of the owner or
        a decided PROMOTE covers it; and by rollback only when a decided PROMOTE does not (or the WAL was cut
        back) (ADR 2).
    L3  At most one own control row that was asked for by `WriteControl` is on its way to disk [L-7].
    L4  Own control rows are written only while raft leader of a persisted term: CONFIRM of entries in
        state LEADER, PROMOTE and DEMOTE of exactly that term, CONFIRM of the own PROMOTE or DEMOTE.
    L6  confirmed_vclock[owner] = confirmed_lsn.
    L7  Of an own queue: _confirmed_on_disk <= _announced <= confirmed_lsn. What the owner committed is
        announced ahead of every own row that is prepared later, so all instances, and recovery, commit in one
        order (ADR 11); while that cannot be (`is_untold`), no such row is prepared.

    Methods that tell a fact return what follows from it, in order. `now`: monotonic seconds.
    """

    def __init__(
        self, *, self_id: InstanceId, registered: frozenset[InstanceId], quorum: int, max_size: int
    ) -> None:
        """quorum: the evaluated one [Q-30]. max_size: bytes, 0 = unlimited [Q-46]."""
        self.self_id = self_id
        """Changed by `registered_as` alone."""
        self.waits_started = 0
        """Own transactions that began to wait here, since the start."""
        self.max_size = max_size
        self._queue = LimboQueue()
        self._acks = Acks(registered, quorum)
        self._ownership = Ownership()
        self._is_in_recovery = True
        self._is_stopping = False
        self._claimed_here = Term(0)  # newest term for which this process saw its own PROMOTE decided
        self._volatile_term = INITIAL_TERM
        self._persisted_term = INITIAL_TERM
        self._is_raft_leader = False
        self._in_flight: Confirm | Promote | Demote | None = None
        self._announced = ZERO_LSN  # the own log tells, or is about to, what is decided up to here
        self._confirmed_on_disk = ZERO_LSN  # the same, synced
        self._demote_from: Term | None = None  # queue term that a requested DEMOTE shall end

    # --- facts ----------------------------------------------------------------------------------------

    @property
    def owner_id(self) -> InstanceId:
        return self._queue.owner_id

    @property
    def term(self) -> Term:
        """The queue term: that of the last decided PROMOTE or DEMOTE."""
        return self._ownership.term

    @property
    def state(self) -> QueueState:
        """What this instance may do with the queue [Q-3]. It is recomputed from its inputs, so a higher raft
        term freezes the queue in the very step in which it is seen. A transition in flight is of another term
        than the queue's, so it needs no flag."""
        if self._queue.owner_id == NOBODY:
            return _INACTIVE
        term = self._ownership.term
        is_leader = (
            self._queue.owner_id == self.self_id
            and self._claimed_here == term
            and self._is_raft_leader
            and self._volatile_term == term
        )
        return _LEADER if is_leader else _REPLICA

    @property
    def confirmed_lsn(self) -> Lsn:
        return self._queue.confirmed_lsn

    @property
    def is_announcement_due(self) -> bool:
        """Whether entries are committed here that the others have not been told of; see `announce`."""
        return self._announced < self._queue.confirmed_lsn and self.state is QueueState.LEADER

    @property
    def is_untold(self) -> bool:
        """Whether the own log does not tell what was committed here, and cannot before the next PROMOTE is
        decided: this owner was deposed in between. What is written now would be recovered ahead of what it
        builds on."""
        return (
            self._announced < self._queue.confirmed_lsn
            and self._queue.owner_id == self.self_id
            and self.state is not QueueState.LEADER
        )

    @property
    def confirmed_vclock(self) -> Mapping[InstanceId, Lsn]:
        """For each owner, past or present: everything up to this LSN is decided."""
        return self._ownership.confirmed_vclock

    @property
    def promote_terms(self) -> Mapping[InstanceId, Term]:
        """For each instance: the highest term of a decided PROMOTE or DEMOTE of it."""
        return self._ownership.promote_terms

    @property
    def pending(self) -> PendingPromotes:
        return self._ownership.pending

    @property
    def void(self) -> Mapping[InstanceId, PendingPromote]:
        """For each writer, its newest PROMOTE or DEMOTE without effect: tells split brain from nonsense."""
        return self._ownership.void

    @property
    def is_majority(self) -> bool:
        """Whether any two quorums share an instance."""
        return self._acks.is_majority and not self._is_in_recovery

    @property
    def transfers(self) -> Iterator[PendingPromote]:
        """The PROMOTEs and DEMOTEs that are pending, and the last ones that were decided."""
        return self._ownership.transfers

    def transfer_at(self, origin: InstanceId, lsn: Lsn) -> PendingPromote | None:
        """The PROMOTE or DEMOTE row with this LSN, if it is one of the last few; a void one too."""
        return self._ownership.transfer_at(origin, lsn)

    @property
    def has_rival(self) -> bool:
        """Whether another leader of our term takes the queue over as well, or has: then a new term is needed
        (ADR 15)."""
        if not self._is_raft_leader or self.is_majority:
            return False
        return self._ownership.has_other_of(self._volatile_term, self.self_id)

    @property
    def is_given_away(self) -> bool:
        """Whether raft leads a term of which the DEMOTE is decided: there is nothing left to lead [P-31]."""
        is_over = self.term == self._volatile_term and self._queue.owner_id == NOBODY
        return self._is_raft_leader and is_over

    @property
    def first_lsn(self) -> Lsn:
        return self._queue.first_lsn

    @property
    def first_told_lsn(self) -> Lsn:
        """The lowest LSN that a client was told of a transaction that waits; 0 if there is none."""
        return self._queue.first_told_lsn

    @property
    def last_lsn(self) -> Lsn:
        """LSN of the newest global entry, of either kind; 0 if there is none."""
        return self._queue.last_lsn

    @property
    def last(self) -> LimboEntry | None:
        """The newest global entry, of either kind; None if there is none."""
        return self._queue.last

    @property
    def is_busy(self) -> bool:
        """Whether a PROMOTE or DEMOTE is pending, or the own control row that decides what comes next is on
        its way to disk [Q-4]. An announcement does not count: nothing waits for it, and it is on its way most
        of the time."""
        return self._in_flight is not None or len(self._ownership.pending) > 0

    @property
    def is_deciding_here(self) -> bool:
        """Whether an own control row is on its way to disk. A request may wait for what it brings."""
        return self._in_flight is not None

    @property
    def is_full(self) -> bool:
        """Whether new requests must wait. Only the owner may say so: a replica that refused rows would block
        itself [L-11]."""
        return 0 < self.max_size <= self._queue.size and self._queue.owner_id == self.self_id  # [L-11]

    @property
    def quorum(self) -> int:
        """The quorum as configured and evaluated [Q-33]."""
        return self._acks.quorum

    @property
    def effective_quorum(self) -> int:
        """The number of copies that is counted against: not more than there are registered instances."""
        return self._acks.effective_quorum

    @property
    def lowest_quorum(self) -> int:
        """The smallest number of votes by which a member is elected, as far as the members said (ADR 38)."""
        return self._acks.lowest

    @property
    def registered(self) -> frozenset[InstanceId]:
        return self._acks.registered

    @property
    def heard(self) -> Set[InstanceId]:
        """Those whose acks were counted since their last Hello."""
        return self._acks.heard

    @property
    def confirm_lag(self) -> float:
        """Seconds the last entry that was committed had waited; 0 at start [I-25]."""
        return self._queue.confirm_lag

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._queue)

    @property
    def count(self) -> int:
        """The number of clients' transactions that wait; several may share an entry (ADR 13) [I-25]."""
        return self._queue.count

    @property
    def size(self) -> int:
        """The size of all entries, in bytes."""
        return self._queue.size

    @property
    def entries(self) -> Sequence[LimboEntry]:
        """A copy of the entries, oldest first."""
        return tuple(self._queue)

    def entry_at(self, origin: InstanceId, lsn: Lsn) -> LimboEntry | None:
        """The entry that has this row of `origin`: the oldest one with this LSN or a higher one. None: it is
        not here."""
        return self._queue.entry_at(lsn) if origin == self._queue.owner_id != NOBODY else None

    def age(self, now: float) -> float:
        """Seconds since the oldest entry was submitted; 0 when empty [I-25]."""
        first = self._queue.first
        return 0.0 if first is None else now - first.submitted_at

    def holders(self, origin: InstanceId, lsn: Lsn) -> frozenset[InstanceId]:
        """The registered instances that are known to have this row on disk; the others are `missing` of
        SYNC_TIMEOUT."""
        return self._acks.holders(origin, lsn)

    # --- admission ------------------------------------------------------------------------------------

    def check_submit(self, *, is_fully_local: bool) -> None:
        """Raise as [Q-13] says if an own transaction may not enter the queue now; nothing was done then."""
        if is_fully_local:
            return  # [L-22], [Q-75]
        owner = self._queue.owner_id
        if owner == NOBODY:
            raise refusals.unclaimed()
        if owner != self.self_id:
            raise refusals.foreign(owner, has_entries=self._queue.first_lsn > 0)
        if self.state is not QueueState.LEADER:
            raise refusals.frozen(owner, self.term)

    def must_wait(self) -> bool:
        """Whether an asynchronous or fully local transaction would go behind the queue [Q-10], [Q-11]."""
        return len(self._queue) > 0 and self._queue.owner_id != NOBODY

    def submit(self, entry: LimboEntry) -> None:
        """Put a transaction that has its LSN into the queue: an own, a received or a recovered one. The limit
        is not enforced here [L-11]. A fully local transaction is put behind others only (`must_wait`)."""
        self._queue.append(entry, self._is_in_recovery)
        if entry.origin == self.self_id and not self._is_in_recovery:
            self.waits_started += entry.count
        if len(self._ownership.pending):
            # The owner has written: what would have taken its place as if nothing had been (ADR 15) is void.
            self._ownership.drop_void()

    def cut_back(self) -> list[LimboEntry]:
        """The WAL dropped what was on its way: roll back the entries that are not written, newest first.

        A control row in flight is forgotten too. The same fact asks for it again at the next ack, change of
        members or `advance`, and `announce` has something to say again [Q-47]. Entries that were committed
        stay committed: they are on disk, here and on a quorum.
        """
        self._in_flight = None
        self._announced = self._confirmed_on_disk
        return self._queue.cut_back()

    # --- facts coming in ------------------------------------------------------------------------------

    def written(self, vclock: Vclock, now: float) -> list[LimboEffect]:
        """Everything up to `vclock` is synced here, which is the own ack [Q-20]. Call it after
        `control_written` of the rows that it covers, and after the commit of those that waited for the disk
        alone: all were ahead in the log."""
        self._acks.record(self.self_id, vclock)
        completed = self._queue.mark_written(vclock)
        effects: list[LimboEffect] = [EntriesCommitted(completed, self._ownership.term)] if completed else []
        return effects + self.advance(now)

    def ack(self, source: InstanceId, vclock: Vclock, now: float) -> list[LimboEffect]:
        """`source` has everything up to `vclock` on disk. The caller has handled the term of the ack before
        [L-5]."""
        self._acks.record(source, vclock)
        return self.advance(now)

    def registered_as(self, self_id: InstanceId) -> None:
        """An anonymous instance is a member from now on. It owned nothing; what it has is told by the next
        `written`, or `membership_changed`."""
        assert self.self_id == ANONYMOUS
        self._acks.record(self_id, self._acks.of(self.self_id))
        self.self_id = self_id

    def forget_acks(self, source: InstanceId, vclock: Vclock, now: float) -> list[LimboEffect]:
        """`source` subscribed anew: its Hello is its first ack, and former ones count no more [L-10]."""
        self._acks.forget(source, vclock)
        return self.advance(now)

    def membership_changed(
        self, registered: frozenset[InstanceId], quorum: int, now: float
    ) -> list[LimboEffect]:
        """Other instances count, or another quorum: look again at once [Q-27], [P-23]."""
        self._acks.members_changed(registered, quorum)
        return self.advance(now)

    def quorum_said(self, source: InstanceId, quorum: int, now: float) -> list[LimboEffect]:
        """`source` is elected by so many votes; 0: it does not say. Tell it before its acks are counted: it
        decides whether a commit may go ahead of its CONFIRM (ADR 38)."""
        return self.advance(now) if self._acks.quorum_said(source, quorum) else []

    def raft_changed(
        self, *, volatile_term: Term, persisted_term: Term, is_leader: bool, now: float
    ) -> list[LimboEffect]:
        """Raft's term or role changed. A higher volatile term freezes the queue in this very call [Q-3],
        [L-5]."""
        assert persisted_term <= volatile_term
        self._volatile_term = volatile_term
        self._persisted_term = persisted_term
        self._is_raft_leader = is_leader
        if self._demote_from is not None and volatile_term > self._demote_from + 1:
            self._demote_from = None  # an election came between: this demote is no longer ours to do
        return self.advance(now)

    def recovery_finished(self, now: float) -> list[LimboEffect]:
        """From now on rows are validated and acks are counted. An own queue stays frozen [Q-71] until a
        promote, which confirms what it holds [L-1]."""
        self._is_in_recovery = False
        self._announced = self._confirmed_on_disk = self._queue.confirmed_lsn
        return self.advance(now)

    # --- control rows ---------------------------------------------------------------------------------

    def filter_control(self, origin: InstanceId, lsn: Lsn, body: Control) -> FilterVerdict:
        """Judge a received row before it goes to the WAL. Raises SplitBrain or Unsupported [P-40..44]."""
        return judge(self, origin, lsn, body)

    def is_barrier(self, origin: InstanceId, body: Control) -> bool:
        """Whether rows behind this one may mean something else once it is applied: then look at none before
        it is written."""
        match body:
            case Promote() | Demote():
                return True
            case Confirm(owner, lsn):
                return origin == owner and self._ownership.pending.announced_by(owner, lsn) is not None
            case _:
                return False

    def control_sent(self, body: Confirm | Promote | Demote, lsn: Lsn) -> None:
        """The row that `WriteControl` asked for has its LSN and is on its way to disk."""
        assert body == self._in_flight, (body, self._in_flight)  # Limbo.L3
        assert lsn > 0

    def control_written(self, origin: InstanceId, lsn: Lsn, body: Control, now: float) -> list[LimboEffect]:
        """Apply a control row that is in the WAL now: an own, a received or a recovered one."""
        if origin == self.self_id and body == self._in_flight:
            self._in_flight = None
        effects: list[LimboEffect] = []
        if isinstance(body, Promote | Demote):
            self._ownership.note(PendingPromote(origin, lsn, body))
        match judge_written(self, origin, lsn, body, is_in_recovery=self._is_in_recovery):
            case FilterVerdict.COMMITS:
                assert isinstance(body, Confirm)
                effects = self._commit(body.lsn, now)
            case FilterVerdict.PENDS:
                assert isinstance(body, Promote | Demote)
                self._ownership.pending.add(PendingPromote(origin, lsn, body))
            case FilterVerdict.DECIDES:
                assert isinstance(body, Confirm)
                effects = self._decide(body, now)
            case FilterVerdict.NO_EFFECT:
                if isinstance(body, Promote | Demote):
                    promote = PendingPromote(origin, lsn, body)
                    if body.term <= self.term or self._ownership.pending.get(body.term) != promote:
                        self._ownership.note_void(promote)
        if origin == self.self_id == self._queue.owner_id and isinstance(body, Confirm):
            told = min(body.lsn, self._queue.confirmed_lsn)
            self._announced = max(self._announced, told)
            self._confirmed_on_disk = max(self._confirmed_on_disk, told)
        return effects + self.advance(now)

    def filter_data(self, origin: InstanceId, *, wait_sync: bool, is_nop: bool) -> DataVerdict:
        """Judge a received data transaction by the *decided* terms [P-50], [L-2]. Raises SplitBrain.

        While a PROMOTE is pending rows are stored as they are, so an ack stands for the real bytes.
        """
        return judge_data(self, origin, wait_sync=wait_sync, is_nop=is_nop)

    # --- promote and demote ---------------------------------------------------------------------------

    def request_demote(self, now: float) -> list[LimboEffect]:
        """Elections are off and the owner gives the queue away [P-31]. Call this, and then let raft raise the
        term: the leadership of that next term writes DEMOTE instead of PROMOTE, with all that is pending
        below its border. It ends with `OwnerChanged`.

        Raises NotLeader unless the queue is ours and of the current raft term. The queue need not be
        writable, as after a restart.
        """
        if self._queue.owner_id != self.self_id:
            raise refusals.not_ours_to_give(self._queue.owner_id, self.term)
        if self.term != self._volatile_term:
            raise refusals.outdated(self._queue.owner_id, self.term, self._volatile_term)
        self._demote_from = self.term
        return self.advance(now)

    def stop_counting(self) -> None:
        """The process ends: nothing more is decided here, but what was committed is still announced (ADR
        18)."""
        self._is_stopping = True

    def cancel_demote(self, now: float) -> list[LimboEffect]:
        """Take a demote back. If the term was raised already and no DEMOTE was written, the leader promotes
        itself again."""
        self._demote_from = None
        return self.advance(now)

    def advance(self, now: float) -> list[LimboEffect]:
        """Commit what a quorum holds, or ask for the one control row that the known facts allow
        (Limbo.L2..L4).

        This is the place where it is decided that a CONFIRM, PROMOTE or DEMOTE may be written. All of it
        needs raft's leadership of a term that is on disk. Raft sees the term of an ack before the ack is
        counted (Instance.I2), so an instance that has voted for a later leader is never counted here.
        """
        if not self._is_raft_leader or self._is_in_recovery or self._persisted_term != self._volatile_term:
            return []
        if self._is_stopping:
            return []
        if self._ownership.term != self._volatile_term:
            body: Confirm | Promote | Demote | None = self._next_transfer_row()
        elif self.state is not QueueState.LEADER:
            return []
        elif self._acks.meets_all:
            return self._commit_held(now)
        else:
            body = self._next_confirm()
        if body is None:
            return []
        self._in_flight = body
        return [WriteControl(body)]

    def _commit_held(self, now: float) -> list[LimboEffect]:
        """Commit on their owner the entries that a quorum holds; the decision of ADR 11, in this one place.

        The quorum shares an instance with each one that may elect the next owner (Acks.A4), and was counted
        with acks whose terms raft has seen [L-5]. So whoever becomes the next owner holds these entries, and
        its PROMOTE covers them whether our CONFIRM is on a disk or not.
        """
        queue = self._queue
        if len(queue) == 0:
            return []
        committed = queue.confirm_held(self._acks.quorum_lsn(queue.owner_id), now)
        if not committed:
            return []
        self._ownership.confirm(queue.owner_id, queue.confirmed_lsn)  # Limbo.L6
        return [EntriesCommitted(committed, self._ownership.term)]

    def _next_confirm(self) -> Confirm | None:
        """The CONFIRM that must be on disk before anybody is told, because a quorum without any of those who
        hold the entries may elect the next owner; None: none is due.

        Where two quorums need not meet, the next owner may lack these entries. Then only a CONFIRM that was
        on our disk before anybody was told shows later that the histories are two (S16).
        """
        queue = self._queue
        lsn = queue.held_lsn(self._acks.quorum_lsn(queue.owner_id)) if self._in_flight is None else ZERO_LSN
        return Confirm(self.self_id, lsn) if lsn > queue.confirmed_lsn else None

    def announce(self) -> Confirm | None:
        """The CONFIRM that tells all others what was committed here since the last one; None: all is told.

        Write it ahead of the next own row, or by itself if none comes soon [Q-24]; it is answered by
        `control_written` or `cut_back`. One CONFIRM covers everything that reached the quorum meanwhile. Its
        place in the log matters: a row that is prepared after a commit may build on what was committed. If it
        came ahead of the CONFIRM, the other instances, and a recovery of this one, would apply it before what
        it builds on (ADR 11).
        """
        if not self.is_announcement_due:
            return None
        self._announced = self._queue.confirmed_lsn
        return Confirm(self.self_id, self._announced)

    def _next_transfer_row(self) -> Confirm | Promote | Demote | None:
        raft_term = self._volatile_term
        if self._in_flight is not None or self.term > raft_term:
            return None
        own = self._ownership.pending.get(raft_term)
        if own is None:
            return self._next_transfer(raft_term)
        # A PROMOTE on a disk decides nothing (ADR 1). If it did, a leader could write one and be cut off, and
        # the next leader, whose voters never saw that row, would confirm entries beyond its border. When the
        # two meet, the first PROMOTE would roll back what a client was told is committed. So its writer waits
        # until a quorum holds the row: whoever leads later has a voter that holds it, and builds on it. Then
        # the writer, and nobody else, announces that by a CONFIRM of this very row; who has it decides.
        if own.origin == self.self_id and self._acks.quorum_lsn(self.self_id) >= own.lsn:
            return Confirm(self.self_id, own.lsn)
        return None

    def _next_transfer(self, raft_term: Term) -> Promote | Demote | None:
        """The PROMOTE or DEMOTE to write in this term; None while what it builds on is not on a quorum
        [P-12], [P-14].

        Its base is the pending PROMOTE with the highest term, because a quorum may hold that one and its
        writer may have decided it; else the last entry of the queue; else what is confirmed.
        """
        base = self._ownership.pending.highest
        if base is not None:
            assert base.term < raft_term, (base, raft_term)  # its term was adopted before it was written
            prev_owner, lsn, prev_term = base.origin, base.lsn, base.term
            must_hold = lsn
        else:
            prev_owner, prev_term = self._queue.owner_id, self.term
            must_hold = self._queue.last_lsn
            lsn = must_hold or self._queue.confirmed_lsn
        if must_hold and self._acks.quorum_lsn(prev_owner) < must_hold:
            return None
        if self._demote_from == self.term and self._queue.owner_id == self.self_id:
            return Demote(prev_owner, lsn, raft_term, prev_term)
        return Promote(prev_owner, lsn, raft_term, prev_term)

    # --- applying ---------------------------------------------------------------------------------------

    def _commit(self, lsn: Lsn, now: float) -> list[LimboEffect]:
        owner = self._queue.owner_id
        committed = self._queue.confirm(lsn, now)
        self._ownership.confirm(owner, lsn)
        return [EntriesCommitted(committed, self._ownership.term)] if committed else []

    def _decide(self, confirm: Confirm, now: float) -> list[LimboEffect]:
        """Carry out a PROMOTE or DEMOTE and the pending ones that it builds on, oldest first.

        Only the CONFIRM of its writer decides it, never the row itself. The writer may be the only instance
        that has the row, and a later leader, elected without knowing of it, may have confirmed other entries
        of the old owner. Once a quorum has the row, every later leader is elected by an instance that has it,
        and builds on it (ADR 1).
        """
        ownership = self._ownership
        newest = ownership.pending.announced_by(confirm.owner, confirm.lsn)
        assert newest is not None
        chain = ownership.pending.chain(newest, ownership.term)
        effects: list[LimboEffect] = []
        old_owner = self._queue.owner_id
        confirmed = rolled_back = 0
        for promote in chain:
            committed, dropped = self._take_over(promote, now, effects)
            confirmed += committed
            rolled_back += dropped
        ownership.confirm(confirm.owner, confirm.lsn)
        if self._queue.owner_id == confirm.owner:
            self._queue.confirm(confirm.lsn, now)  # Limbo.L6: nothing to commit, the new queue is empty
        # Kept: a twin of what was decided just now, of a higher term, that came first and has yet to take its
        # place. Not an own one: a leader asks again, on top of what is decided.
        ownership.drop_void(keep=chain, replaces=self._replaces_decided)
        if newest.origin == self.self_id and not self._is_in_recovery:
            self._claimed_here = newest.term
        self._announced = self._confirmed_on_disk = self._queue.confirmed_lsn  # Limbo.L7
        self._demote_from = None
        effects.append(
            OwnerChanged(
                old_owner, self._queue.owner_id, self.term, confirmed, rolled_back, decided=tuple(chain)
            )
        )
        return effects

    def _replaces_decided(self, promote: PendingPromote) -> bool:
        return promote.origin != self.self_id and replaces_decided(self, promote.body)

    def _take_over(self, promote: PendingPromote, now: float, effects: list[LimboEffect]) -> tuple[int, int]:
        """Commit up to the border, roll back the rest, and hand the queue over [P-2]. Returns how many
        transactions of clients were committed and rolled back."""
        body, segment = promote.body, self._ownership.term
        committed: list[LimboEntry] = []
        if body.prev_owner == self._queue.owner_id != NOBODY:
            committed = self._queue.confirm(body.lsn, now)
        dropped = self._queue.rollback_rest()
        if committed:
            effects.append(EntriesCommitted(committed, segment))
        if dropped:
            effects.append(EntriesRolledBack(dropped, segment, by_term=body.term))
        self._ownership.decide(promote)
        owner = promote.origin if isinstance(body, Promote) else NOBODY
        self._queue.transfer(owner, self._ownership.confirmed_of(owner))  # Limbo.L1, Limbo.L6
        return sum(entry.count for entry in committed), sum(entry.count for entry in dropped)

    # --- snapshot ---------------------------------------------------------------------------------------

    def snapshot_state(self) -> LimboState:
        """What outlives the process. Take it in the same step of the core as the view and the raft state
        [L-12]."""
        return LimboState(
            owner=self._queue.owner_id,
            term=self.term,
            confirmed_lsn=self._queue.confirmed_lsn,
            confirmed_vclock=dict(self._ownership.confirmed_vclock),
            promote_terms=dict(self._ownership.promote_terms),
        )

    def committed_prefix(
        self, written: Vclock, rows_of: Callable[[LimboEntry], Iterable[tuple[InstanceId, Lsn]]]
    ) -> Vclock:
        """The vclock of a view of committed tuples: what is written, without what is undecided [W-33],
        [Q-74].

        Each component ends just before its first row of an entry, and before each pending PROMOTE, so that
        replaying the WAL from there brings them back. rows_of: (origin, LSN) of all rows of an entry.
        """
        prefix = written
        undecided = [(promote.origin, promote.lsn) for promote in self._ownership.pending]
        for entry in self._queue:
            undecided += rows_of(entry)
        for origin, lsn in undecided:
            if lsn <= prefix.get(origin):
                prefix = prefix.replace(origin, Lsn(lsn - 1))
        return prefix

    def restore(self, state: LimboState) -> None:
        """Take the state of a snapshot, before the WAL is replayed. The queue stays frozen until a promote of
        this process [Q-73]."""
        assert self._is_in_recovery and len(self._queue) == 0
        self._ownership.restore(state)
        self._queue = LimboQueue(state.owner, state.confirmed_lsn)

    def check(self) -> None:
        self._queue.check()
        self._acks.check()
        self._ownership.check(is_majority=self.is_majority)
        owner = self._queue.owner_id
        assert owner == NOBODY or self._ownership.promote_terms.get(owner) == self.term  # Limbo.L1
        assert self._ownership.confirmed_of(owner) == self._queue.confirmed_lsn  # Limbo.L6
        assert self._claimed_here <= self.term
        if owner == self.self_id and not self._is_in_recovery:
            assert self._confirmed_on_disk <= self._announced <= self._queue.confirmed_lsn  # Limbo.L7
