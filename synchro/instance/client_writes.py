"""Writes of clients: may it be done, has it been done, is there room; then prepare, number, queue, log."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import groupby
from typing import assert_never

from synchro.errors import (
    BatchTooLarge,
    IllegalParams,
    MemoryIssue,
    OldTerm,
    QuorumWait,
    ReplicaMax,
    RequestExpired,
    SynchroError,
    SyncQueueFull,
    WalQueueFull,
)
from synchro.ids import INSTANCE_ID_MAX, NOBODY, InstanceId, Lsn, RequestId
from synchro.instance import events as ev
from synchro.instance.parts import State
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.transactions import Transactions, conflict
from synchro.queue.limbo import QueueState
from synchro.row import (
    FLAG_COMMIT,
    FLAG_REQUEST_ID,
    FLAG_WAIT_ACK,
    FLAG_WAIT_SYNC,
    PENDING_ROW_BYTES,
    Puts,
    RowType,
    TxnId,
)
from synchro.storage import schema, xrow
from synchro.storage.memtx import BuildNeeded, PendingRefusal, Prepared


class Writes:
    """Requests of clients on their way to becoming transactions.

    W1  What waits in `waiting` is unprepared and has no LSN; it goes on in the order it came (ADR 3).
    W2  Every refusal leaves no trace: nothing prepared, no LSN, no request id.
    W3  While the writes of one event begin, roles, terms and members stay as they are: asked once (`_look`).
    W4  When so much was touched since the last turn that other work has waited long enough, what comes next
        waits for `TurnBegan`: one frame, or many callers at once, may bring more than the loop can bear.
    """

    __slots__ = (
        "_had_right",
        "_is_turn_asked_for",
        "_may_write",
        "_may_write_sync",
        "_state",
        "_txns",
        "_work_end",
        "waiting",
    )

    def __init__(self, state: State, txns: Transactions) -> None:
        self._state = state
        self._txns = txns
        self._may_write = False
        self._may_write_sync = False
        self._had_right = True
        """When those that wait were looked at last."""
        self.waiting: deque[ev.ClientWrite] = deque()
        self._work_end = state.settings.limits.turn_work_bytes_max
        """Of `Memtx.work`: when it is reached, the rest waits for its turn (Writes.W4)."""
        self._is_turn_asked_for = False

    def _look(self) -> None:
        """False means: ask again, and say why."""
        state = self._state
        members = len(state.memtx.members())
        self._may_write = state.read_only_reason() is None and not state.is_stopping
        self._may_write_sync = (
            state.limbo.state is QueueState.LEADER
            and members >= state.settings.synchro_quorum.quorum(members)
        )

    # --- room

    def on_client_writes(self, event: ev.ClientWrites, now: float) -> None:
        self._look()
        self._take_each(event.writes, now)

    def _take_each(self, writes: Sequence[ev.ClientWrite], now: float) -> None:
        memtx, self_id = self._state.memtx, self._state.self_id
        for write in writes:
            try:
                memtx.check_client(write.ops, self_id)
            except SynchroError as error:
                self._state.refuse(write.call_id, error)
                continue
            must_wait = self._must_wait(write) or (self.waiting and not self._may_pass(write))
            # While it stops a retry may still have its answer; who may not write hears it at once.
            if must_wait and not self._state.is_stopping and not self._is_refused_for_good(write):
                self._wait_for_room(write)
            else:
                self._begin(write, now)

    def on_client_puts(self, event: ev.ClientPuts, now: float) -> None:
        """Those that arrived together share a transaction where nobody could tell (ADR 13), else one each."""
        self._look()
        self._share(event, now)

    def _share(self, event: ev.ClientPuts, now: float) -> None:
        """What is too much for one transaction, or one block of the log, goes in halves."""
        limits, size = self._state.settings.limits, len(event.puts)
        bytes_max = min(limits.wal_block_bytes_max, limits.txn_bytes_max, limits.tuple_bytes_max)
        if size < ev.SHARED_MIN or not self._may_share(event):
            self._take_each(event.writes(), now)
        elif size > limits.batch_ops_max or xrow.shared_bytes(event.puts) > bytes_max:
            self._share(event[: size // 2], now)
            self._share(event[size // 2 :], now)
        elif not self._begin_shared(event, now):
            loners = frozenset(self._state.memtx.loners(event.puts))
            assert loners
            start = 0
            for is_alone, part in groupby(range(size), loners.__contains__):
                end = start + len(list(part))
                if is_alone:
                    self._take_each(event[start:end].writes(), now)
                else:
                    self._share(event[start:end], now)
                start = end

    def _must_wait(self, write: ev.ClientWrite) -> bool:
        """Room (ADR 3, [W-16]), a DDL barrier, or a decision on its way to disk or still to come: nothing is
        prepared behind it, or recovery could not tell whether a local transaction was dropped with what it
        followed, or came before it."""
        state = self._state
        return (
            state.limbo.is_full
            or self._is_wal_full
            or self._is_turn_over
            or state.log.barriers > 0
            or self._txns.must_wait(write.ops)
            or (state.limbo.is_untold and self._is_logged_locally(write))
        )

    def _may_pass(self, write: ev.ClientWrite) -> bool:
        """Local writes may wait long for the next owner (`Limbo.is_untold`): others hear at once of it."""
        return self._state.limbo.is_untold and self._is_refused(write)

    def _is_logged_locally(self, write: ev.ClientWrite) -> bool:
        """Local rows are what an owner that was deposed may still write (`Limbo.is_untold`)."""
        if self._is_refused(write):
            return False
        return any(self._state.memtx.space(op.space_id).is_local for op in write.ops)

    @property
    def _is_wal_full(self) -> bool:
        return 0 < self._state.settings.limits.wal_queue_bytes_max <= self._state.log.bytes

    def _wait_for_room(self, write: ev.ClientWrite) -> None:
        state = self._state
        must_not_wait = write.wait is ev.WaitMode.NONE and not self._is_turn_over
        if must_not_wait or len(self.waiting) >= state.settings.limits.waiting_calls_max:
            state.refuse(write.call_id, self._no_room())
            return
        self.waiting.append(write)
        state.calls[write.call_id] = write
        self._ask_for_turn()

    @property
    def _is_turn_over(self) -> bool:
        return self._state.memtx.work >= self._work_end

    def _ask_for_turn(self) -> None:
        if self.waiting and self._is_turn_over and not self._is_turn_asked_for:
            self._is_turn_asked_for = True
            self._state.effects.append(ev.RequestTurn())

    def on_turn_began(self) -> None:
        self._is_turn_asked_for = False
        self._work_end = self._state.memtx.work + self._state.settings.limits.turn_work_bytes_max
        self._state.progressed = True

    def _no_room(self, when: str = "") -> SyncQueueFull | WalQueueFull:
        """What a write would have to wait for now [Q-45]. when: " in time", of one that did wait."""
        state, waiting = self._state, len(self.waiting)
        limbo, log, settings = state.limbo, state.log, state.settings
        limit = settings.synchro_queue_max_size
        if self._is_wal_full:
            limit = settings.limits.wal_queue_bytes_max
            return WalQueueFull(
                f"The WAL queue is full: {log.bytes} bytes wait for the disk of {settings.wal_dir}, the "
                f"limit is {limit}{when and f'; there was no room{when}'}; nothing was written",
                size=log.bytes,
                limit=limit,
                waiting=waiting,
            )
        if limbo.is_full:
            why = (
                f"The synchronous transaction queue is full: {limbo.size} bytes wait for a quorum of "
                f"{limbo.quorum}, the limit is {limit}"
            )
        elif self._txns.ddl is not None:
            why = "A change of definitions waits for its quorum, and other writes wait for it"
        elif log.barriers > 0:
            why = "A change of the queue's owner is on its way to the disk"
        else:
            why = "What is ahead in the queue must be decided first"
        if when:
            why += f"; that was not over{when}"
        return SyncQueueFull(f"{why}; nothing was written", size=limbo.size, limit=limit, waiting=waiting)

    def drain(self, now: float) -> None:
        """Something made room, or took the right to write away: look at who waits, in order."""
        waiting, txns = self.waiting, self._txns
        if txns.build is not None and isinstance(txns.built_for, ev.ClientWrite):
            write = txns.built_for
            if not waiting or waiting[0] is not write or self._is_refused_now(write):
                txns.end_build()  # its caller is gone, or it may not be done any more
        if waiting:
            self._look()
            self._refuse_waiting(now)
        while waiting and (not self._must_wait(waiting[0]) or self._is_refused_for_good(waiting[0])):
            write = waiting.popleft()
            self._state.calls.pop(write.call_id)
            self._begin(write, now)
        if waiting:
            self._ask_for_turn()

    def _is_refused_now(self, write: ev.ClientWrite) -> bool:
        self._look()
        return self._is_refused(write)

    def _refuse_waiting(self, now: float) -> None:
        """The right to write was lost: those behind one that may wait on (of local rows) hear of it too,
        once."""
        if self._may_write or not self._had_right:
            self._had_right = self._may_write
            return
        self._had_right = False
        for write in [write for write in self.waiting if self._is_refused(write)]:
            self.waiting.remove(write)
            self._state.calls.pop(write.call_id)
            self._begin(write, now)

    def _is_refused_for_good(self, write: ev.ClientWrite) -> bool:
        """While an own PROMOTE or its CONFIRM is on its way to disk, this instance may be about to own the
        queue: who writes now waits for that [Q-4]."""
        return not self._state.limbo.is_deciding_here and self._is_refused(write)

    def _is_refused(self, write: ev.ClientWrite) -> bool:
        """Leadership is gone: nobody need wait for room, or behind others, to hear it."""
        try:
            self._check_may_write(write)
        except SynchroError:
            return True
        return False

    def expire(self, write: ev.ClientWrite) -> None:
        error: SynchroError = self._no_room(" in time")
        if self._txns.built_for is write:
            error = SyncQueueFull(
                "Not all tuples were looked at in time; nothing was written. Next: give it more time"
            )
        self.drop(write)
        self._state.refuse(write.call_id, error)

    def refuse_waiting(self) -> None:
        """The instance stops: they are not prepared, so nothing was done."""
        while self.waiting:
            self._state.refuse(self.waiting.popleft().call_id, self._state.stopping_error())
        self._state.progressed = True  # a build may be for one of them

    def drop(self, write: ev.ClientWrite) -> None:
        self.waiting.remove(write)
        self._state.progressed = True

    # --- one write

    def _begin(self, write: ev.ClientWrite, now: float) -> None:
        try:
            self._begin_or_raise(write, now)
        except SynchroError as error:
            self._state.refuse(write.call_id, error)
        except PendingRefusal as refusal:
            self._hold_refusal(write, refusal)
        except BuildNeeded as needed:
            self._txns.begin_build(needed.build, write)
            self.waiting.appendleft(write)
            self._state.calls[write.call_id] = write

    def on_built(self, now: float) -> None:
        """Whom the build is for goes first, if nothing stands in its way: each tuple that changes before it
        makes the build void."""
        write = self.waiting[0]
        assert write is self._txns.built_for
        self._txns.end_build()
        self._look()
        if not self._must_wait(write):
            self.waiting.popleft()
            self._state.calls.pop(write.call_id)
            self._begin(write, now)

    def _begin_or_raise(self, write: ev.ClientWrite, now: float) -> PendingTxn | None:
        """None: it is answered already."""
        state = self._state
        if write.request_id is not None and self._answer_retry(write):
            return None
        self._check_may_write(write)
        prepared = state.memtx.prepare(write.ops)
        if not prepared.ops:
            state.memtx.commit(prepared)
            state.reply(write.call_id, ev.Committed(None, prepared.results))
            return None
        try:
            is_sync = self._is_sync(write, prepared)
        except SynchroError:
            state.memtx.rollback(prepared)  # Writes.W2
            raise
        request_ids = () if write.request_id is None else (write.request_id,)
        pending = self._send(request_ids, prepared, is_sync=is_sync, now=now)
        self._answer_later(write, pending, pending.lsn)
        return pending

    def _may_share(self, event: ev.ClientPuts) -> bool:
        """None of them has to wait, to be refused, or to be looked up as a retry."""
        state, puts, request_ids = self._state, event.puts, event.request_ids
        if not self._may_write or not self._may_write_sync or self.waiting or self._is_turn_over:
            return False
        if not state.memtx.may_go_together(puts.space_id):
            return False
        if state.log.barriers or self._txns.must_wait(puts) or not self._has_room(puts):
            return False
        if state.requests.holds_any(request_ids) or len(set(request_ids)) != len(request_ids):
            return False
        oldest = min((position for position in event.known_positions if position is not None), default=None)
        return oldest is None or not state.requests.expired(known_term=oldest.term, known_lsn=oldest.lsn)

    def _begin_shared(self, event: ev.ClientPuts, now: float) -> bool:
        """False: nothing was done, there are loners."""
        state = self._state
        try:
            prepared = state.memtx.prepare_together(event.puts)
        except (MemoryIssue, BatchTooLarge):  # too much for all of them: some may fit
            self._take_each(event.writes(), now)
            return True
        if prepared is None:
            return False
        pending = self._send(event.request_ids, prepared, is_sync=True, now=now)
        pending.calls = dict(zip(event.call_ids, range(pending.txn.tsn, pending.lsn + 1), strict=True))  # type: ignore[arg-type]
        pending.is_whole = True
        state.calls.update(dict.fromkeys(event.call_ids, pending))
        return True

    def _has_room(self, puts: Puts) -> bool:
        """For all of them: one by one, some would have to wait where a limit is reached."""
        limbo, log, limits = self._state.limbo, self._state.log, self._state.settings.limits
        if limbo.max_size and limbo.size + self._state.memtx.size_of(puts) > limbo.max_size:
            return False
        wal_max = limits.wal_queue_bytes_max
        size = xrow.shared_bytes(puts) + PENDING_ROW_BYTES * len(puts)
        return not wal_max or log.bytes + size <= wal_max

    def _check_may_write(self, write: ev.ClientWrite) -> None:
        state = self._state
        if state.is_stopping:
            raise state.stopping_error()
        if write.expected_term is not None and write.expected_term != state.limbo.term:
            raise OldTerm(
                f"The term is outdated: old - {write.expected_term}, new - {state.limbo.term}; "
                "nothing was written",
                expected=write.expected_term,
                term=state.limbo.term,
            )
        if self._may_write:
            return
        reason = state.read_only_reason()
        if reason is not None and not all(state.is_never_read_only(op) for op in write.ops):
            raise state.read_only_error(reason)

    def _is_sync(self, write: ev.ClientWrite, prepared: Prepared) -> bool:
        """[Q-10]; rows of system spaces too while the queue has an owner (ADR 6). Raises [Q-13]."""
        limbo = self._state.limbo
        if not prepared.is_sync and not (prepared.touches_system and limbo.owner_id != NOBODY):
            return False
        if self._may_write_sync:
            return True
        limbo.check_submit(is_fully_local=False)
        if write.call_id not in self._state.registering:
            self._check_enough_members()
        return True

    def _check_enough_members(self) -> None:
        """A synchronous write that can never have its quorum would block the registration that frees it."""
        registered = len(self._state.memtx.members())
        needed = self._state.settings.synchro_quorum.quorum(registered)
        if registered < needed:
            raise QuorumWait(
                f"Couldn't wait for quorum {needed}: only {registered} instances are registered; "
                "nothing was written",
                needed=needed,
                registered=registered,
            )

    def _send(
        self, request_ids: Sequence[RequestId], prepared: Prepared, *, is_sync: bool, now: float
    ) -> PendingTxn:
        """Give LSNs, queue it if it must wait for a quorum or behind one that does, write it."""
        state = self._state
        in_queue = is_sync or state.limbo.must_wait()
        flags = FLAG_COMMIT
        if is_sync:
            flags |= FLAG_WAIT_SYNC | FLAG_WAIT_ACK
        elif in_queue:
            flags |= FLAG_WAIT_SYNC
        if request_ids:
            flags |= FLAG_REQUEST_ID
        if state.limbo.is_announcement_due:
            state.announce()
        txn = state.log.number(prepared.ops, prepared.local, flags, request_ids)
        pending = self._txns.enter(txn, prepared, in_queue=in_queue, is_sync=is_sync, now=now)
        state.log.append(pending)
        return pending

    def _answer_later(self, write: ev.ClientWrite, pending: PendingTxn, lsn: Lsn) -> None:
        """lsn: what the caller is told."""
        match write.wait:
            case ev.WaitMode.COMPLETE:
                if pending.calls is None:
                    pending.calls = {}
                pending.calls[write.call_id] = lsn
                pending.is_whole = False
                self._state.calls[write.call_id] = pending
            case ev.WaitMode.SUBMIT:
                if pending.submit_calls is None:
                    pending.submit_calls = {}
                pending.submit_calls[write.call_id] = lsn
                self._state.calls[write.call_id] = pending
            case ev.WaitMode.NONE:
                self._state.reply(write.call_id, ev.Submitted(None, pending.is_sync))
            case _:
                assert_never(write.wait)

    # --- retries and refusals

    def _answer_retry(self, write: ev.ClientWrite) -> bool:
        """A known request id has one effect: join the waiters, or say what it was. True if answered."""
        requests = self._state.requests
        assert write.request_id is not None
        known = requests.find(write.request_id)
        if known is None:
            position = write.known_position
            if position is not None and requests.expired(known_term=position.term, known_lsn=position.lsn):
                raise RequestExpired(
                    "the request id is older than what is remembered; outcome unknown, "
                    "nothing was executed now",
                    outcome="unknown",
                )
            return False
        txn_id = TxnId(known.origin, known.lsn)
        pending = None if known.is_decided else self._txns.find(txn_id)
        if known.is_decided:
            self._state.reply(write.call_id, ev.Committed(txn_id, duplicate=True))
        else:
            assert pending is not None, txn_id
            is_written = txn_id.lsn <= self._state.log.vclock.get(txn_id.origin)
            if write.wait is ev.WaitMode.SUBMIT and is_written:
                self._state.reply(write.call_id, ev.Submitted(txn_id, pending.is_sync))
            else:
                self._answer_later(write, pending, pending.told_lsn(known.lsn))
        return True

    def _hold_refusal(self, write: ev.ClientWrite, refusal: PendingRefusal) -> None:
        """The refusal rests on a tuple that nobody may see yet: answer when its fate is known (ADR 7)."""
        if write.wait is ev.WaitMode.NONE:
            self._state.refuse(write.call_id, conflict())
            return
        blocker = self._txns.find_prepared(refusal.blocker)
        if blocker.refusals is None:
            blocker.refusals = []
        blocker.refusals.append((write.call_id, refusal.error))
        self._state.calls[write.call_id] = blocker

    # --- registration

    def on_register_requested(self, event: ev.RegisterRequested, now: float) -> None:
        """[M-22]: a `_cluster` row, one at a time, by whoever may write; smallest free id [M-3]."""
        try:
            if self._state.is_stopping:
                raise self._state.stopping_error()
            self._register(event, now)
        except SynchroError as error:
            self._state.refuse(event.call_id, error)

    def _register(self, event: ev.RegisterRequested, now: float) -> None:
        state, txns = self._state, self._txns
        known = next((i for i, (uuid, _) in state.memtx.members().items() if uuid == event.uuid), None)
        if known is not None:
            state.reply(event.call_id, state.registered_as(known))
            return
        self._look()
        reason = state.read_only_reason()
        if reason is not None:
            raise state.read_only_error(reason)
        if txns.membership_change is not None or txns.must_wait(()):
            raise QuorumWait(
                "another change of members or definitions is not decided yet; nothing was changed, try again"
            )
        new_id = self._id_for(event)
        value = (int(new_id), event.uuid, event.name)
        op = xrow.dml_from_values(RowType.REPLACE, schema.CLUSTER_ID, value=value)
        state.registering[event.call_id] = new_id
        try:
            txns.membership_change = self._begin_or_raise(ev.ClientWrite(event.call_id, (op,)), now)
        except PendingRefusal as refusal:
            raise refusal.error from refusal

    def _id_for(self, event: ev.RegisterRequested) -> InstanceId:
        """A name keeps its id when its instance comes back under a new UUID [M-25]."""
        state = self._state
        members = state.memtx.prepared_members()
        same_name = next((i for i, (_, name) in members.items() if name == event.name), None)
        if same_name is not None:
            if same_name == state.self_id or same_name in state.raft.healthy:
                raise IllegalParams(
                    f"Duplicate replica name {event.name}, already occupied by {members[same_name][0]}; "
                    "nothing was changed"
                )
            return same_name
        free = [InstanceId(i) for i in range(1, INSTANCE_ID_MAX + 1) if InstanceId(i) not in members]
        if not free:
            raise ReplicaMax("Replica count limit reached: 32; nothing was changed")
        return free[0]
