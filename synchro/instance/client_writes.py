"""Writes of clients as they come: in order, while there is room, a turn at a time; then `admission`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from itertools import groupby

from synchro.errors import BatchTooLarge, MemoryIssue, SynchroError, SyncQueueFull, WalQueueFull
from synchro.instance import events as ev
from synchro.instance.admission import Admission
from synchro.instance.parts import Parts
from synchro.instance.transactions import Transactions
from synchro.instance.writability import stopping_error
from synchro.storage import xrow
from synchro.storage.prepared import BuildNeeded, PendingRefusal


class Writes:
    """Requests of clients on their way to becoming transactions.

    W1  What waits in `waiting` is unprepared and has no LSN; it goes on in the order it came (ADR 3).
    W4  When so much was touched since the last turn that other work has waited long enough, what comes next
        waits for `TurnBegan`: one frame, or many callers at once, may bring more than the loop can bear.
    """

    __slots__ = (
        "_admission",
        "_had_right",
        "_is_turn_asked_for",
        "_state",
        "_txns",
        "_work_end",
        "waiting",
    )

    def __init__(self, state: Parts, txns: Transactions, admission: Admission) -> None:
        self._state = state
        self._txns = txns
        self._admission = admission
        self._had_right = True
        """When those that wait were looked at last."""
        self.waiting: deque[ev.ClientWrite] = deque()
        self._work_end = state.settings.limits.turn_work_bytes_max
        """Of `Memtx.work`: when it is reached, the rest waits for its turn (Writes.W4)."""
        self._is_turn_asked_for = False

    # --- room

    def on_client_writes(self, event: ev.ClientWrites, now: float) -> None:
        self._admission.look()
        self._take_each(event.writes, now)

    def _take_each(self, writes: Sequence[ev.ClientWrite], now: float) -> None:
        memtx, self_id = self._state.memtx, self._state.self_id
        for write in writes:
            try:
                memtx.catalog.check_client(write.ops, self_id)
            except SynchroError as error:
                self._state.calls.refuse(write.call_id, error)
                continue
            must_wait = self._must_wait(write) or (self.waiting and not self._may_pass(write))
            # While it stops a retry may still have its answer; who may not write hears it at once.
            if must_wait and not self._state.stop.is_begun and not self._is_refused_for_good(write):
                self._wait_for_room(write)
            else:
                self._begin(write, now)

    def on_client_puts(self, event: ev.ClientPuts, now: float) -> None:
        """Writes that arrived together share a transaction where nobody could tell (ADR 13), else each has
        its own."""
        self._admission.look()
        self._share_around(self._admission.to_look_up(event), event, now)

    def _share_around(self, alone: Set[int], event: ev.ClientPuts, now: float) -> None:
        """In the order of the frame. alone: positions of those that share with nobody."""
        if not alone:
            self._share(event, now)
            return
        start = 0
        for is_alone, part in groupby(range(len(event.puts)), alone.__contains__):
            end = start + len(list(part))
            if is_alone:
                self._take_each(event[start:end].writes(), now)
            else:
                self._share(event[start:end], now)
            start = end

    def _share(self, event: ev.ClientPuts, now: float) -> None:
        """None of them is a retry. What is too much for one transaction, or one block of the log, goes in
        halves."""
        limits, size = self._state.settings.limits, len(event.puts)
        bytes_max = min(limits.wal_block_bytes_max, limits.txn_bytes_max, limits.tuple_bytes_max)
        is_room = not self.waiting and not self._is_turn_over
        if size < ev.SHARED_MIN or not is_room or not self._admission.may_share(event.puts):
            self._take_each(event.writes(), now)
        elif size > limits.batch_ops_max or xrow.shared_bytes(event.puts) > bytes_max:
            self._share(event[: size // 2], now)
            self._share(event[size // 2 :], now)
        elif not self._begin_shared(event, now):
            loners = frozenset(self._state.memtx.loners(event.puts))
            assert loners
            self._share_around(loners, event, now)

    def _begin_shared(self, event: ev.ClientPuts, now: float) -> bool:
        """False: nothing was done, there are loners."""
        try:
            prepared = self._state.memtx.prepare_together(event.puts)
        except (MemoryIssue, BatchTooLarge):  # too much for all of them: some may fit
            self._take_each(event.writes(), now)
            return True
        if prepared is None:
            return False
        self._admission.begin_shared(event, prepared, now)
        return True

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
        return self._state.limbo.is_untold and self._admission.is_refused(write)

    def _is_logged_locally(self, write: ev.ClientWrite) -> bool:
        """Local rows are what an owner that was deposed may still write (`Limbo.is_untold`)."""
        if self._admission.is_refused(write):
            return False
        return any(self._state.memtx.catalog.space(op.space_id).is_local for op in write.ops)

    @property
    def _is_wal_full(self) -> bool:
        return 0 < self._state.settings.limits.wal_queue_bytes_max <= self._state.log.bytes

    def _wait_for_room(self, write: ev.ClientWrite) -> None:
        state = self._state
        must_not_wait = write.wait is ev.WaitMode.NONE and not self._is_turn_over
        if must_not_wait or len(self.waiting) >= state.settings.limits.waiting_calls_max:
            state.calls.refuse(write.call_id, self._no_room())
            return
        self.waiting.append(write)
        state.calls.wait(write.call_id, write)
        self._ask_for_turn()

    @property
    def _is_turn_over(self) -> bool:
        return self._state.memtx.work >= self._work_end

    def _ask_for_turn(self) -> None:
        if self.waiting and self._is_turn_over and not self._is_turn_asked_for:
            self._is_turn_asked_for = True
            self._state.outbox.add(ev.RequestTurn())

    def settings_changed(self) -> None:
        """What is left of this turn is as much as a whole one may touch from now on."""
        self._work_end = self._state.memtx.work + self._state.settings.limits.turn_work_bytes_max

    def on_turn_began(self) -> None:
        self._is_turn_asked_for = False
        self._work_end = self._state.memtx.work + self._state.settings.limits.turn_work_bytes_max
        self._state.agenda.note_progress()

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
            self._admission.look()
            self._refuse_waiting(now)
        while waiting and (not self._must_wait(waiting[0]) or self._is_refused_for_good(waiting[0])):
            write = waiting.popleft()
            self._state.calls.resume(write.call_id)
            self._begin(write, now)
        if waiting:
            self._ask_for_turn()

    def _is_refused_now(self, write: ev.ClientWrite) -> bool:
        self._admission.look()
        return self._admission.is_refused(write)

    def _refuse_waiting(self, now: float) -> None:
        """The right to write was lost: those behind one that may wait on (of local rows) hear of it too,
        once [E-45]."""
        if self._admission.may_write or not self._had_right:
            self._had_right = self._admission.may_write
            return
        self._had_right = False
        refused = [write for write in self.waiting if self._admission.is_refused(write)]
        if not refused:
            return
        gone = {write.call_id for write in refused}
        stay = [write for write in self.waiting if write.call_id not in gone]
        self.waiting.clear()
        self.waiting.extend(stay)
        for write in refused:
            self._state.calls.resume(write.call_id)
            self._begin(write, now)

    def _is_refused_for_good(self, write: ev.ClientWrite) -> bool:
        """While an own PROMOTE or its CONFIRM is on its way to disk, this instance may be about to own the
        queue: who writes now waits for that [Q-4]."""
        return not self._state.limbo.is_deciding_here and self._admission.is_refused(write)

    def expire(self, write: ev.ClientWrite) -> None:
        error: SynchroError = self._no_room(" in time")
        if self._txns.built_for is write:
            error = SyncQueueFull(
                "Not all tuples were looked at in time; nothing was written. Next: give it more time"
            )
        self.drop(write)
        self._state.calls.refuse(write.call_id, error)

    def refuse_waiting(self) -> None:
        """The instance stops: they are not prepared, so nothing was done."""
        while self.waiting:
            self._state.calls.refuse(self.waiting.popleft().call_id, stopping_error())
        self._state.agenda.note_progress()  # a build may be for one of them

    def drop(self, write: ev.ClientWrite) -> None:
        self.waiting.remove(write)
        self._state.agenda.note_progress()

    # --- one write

    def _begin(self, write: ev.ClientWrite, now: float) -> None:
        try:
            self._admission.begin(write, now)
        except SynchroError as error:
            self._state.calls.refuse(write.call_id, error)
        except PendingRefusal as refusal:
            self._admission.hold_refusal(write, refusal)
        except BuildNeeded as needed:
            self._txns.begin_build(needed.build, write)
            self.waiting.appendleft(write)
            self._state.calls.wait(write.call_id, write)

    def on_built(self, now: float) -> None:
        """Whom the build is for goes first, if nothing stands in its way: each tuple that changes before it
        makes the build void."""
        write = self.waiting[0]
        assert write is self._txns.built_for
        self._txns.end_build()
        self._admission.look()
        if not self._must_wait(write):
            self.waiting.popleft()
            self._state.calls.resume(write.call_id)
            self._begin(write, now)
