"""Linearizable reads: each waits until a quorum has echoed that this instance still owns the queue [Q-62],
and until what waited in the queue when it came is decided [Q-60]."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

from synchro.errors import LinearizablePending, LinearizableQuorum, SynchroError
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from synchro.instance.calls import READ_CALL
from synchro.instance.parts import Parts
from synchro.instance.pending_txn import PendingTxn
from synchro.instance.waits import Waits
from synchro.instance.writability import not_owner_error, stopping_error
from synchro.queue.entry import EntryState, LimboEntry
from synchro.queue.limbo import QueueState
from synchro.replication.read_barrier import Electorate, ReadBarrier


class Reads:
    """Linearizable reads that wait; only the owner in state LEADER has any.

    D1  A read is answered when its round is over and no transaction is undecided that stood in the queue when
        it came. Later ones are not waited for, so a stream of writes holds up no reader (ADR 54).
    D2  `_proved` holds the reads whose round is over and which still wait, first come first; what they wait
        for stands in the queue in the same order.
    """

    __slots__ = ("_awaited", "_proved", "_state", "_waits", "barrier")

    def __init__(self, state: Parts, waits: Waits) -> None:
        self._state = state
        self._waits = waits
        self.barrier = ReadBarrier()
        self._awaited: dict[CallId, LimboEntry] = {}
        """Of each read that found a queue: its last entry of then."""
        self._proved: OrderedDict[CallId, None] = OrderedDict()

    @property
    def is_open(self) -> bool:
        return self.barrier.is_open or bool(self._proved)

    def on_read_requested(self, event: ev.ReadBarrierRequested) -> None:
        state = self._state
        if state.stop.is_begun or state.limbo.state is not QueueState.LEADER:
            error = stopping_error() if state.stop.is_begun else not_owner_error(state)
            state.calls.refuse(event.call_id, error)
            return
        if event.awaits_queue and (last := state.limbo.last) is not None:
            self._awaited[event.call_id] = last
        state.calls.wait(event.call_id, READ_CALL)
        if self.barrier.ask(event.call_id):
            self._request_heartbeats()
            self._finish()

    def look(self) -> None:
        """After each step of raft, and before anything is counted: who is deposed answers no read."""
        if self.is_open and self._state.limbo.state is not QueueState.LEADER:
            for call_id in self._take_all():
                self._state.calls.refuse(call_id, not_owner_error(self._state))

    def on_ack(self, source: InstanceId, ack: ev.Ack) -> None:
        """Its term was seen, and `look` was called: a deposed owner has no round open any more [L-5]."""
        self.barrier.echo(source, ack.vclock_sync, ack.term, self._state.raft.term)
        self._finish()

    def cut_back(self) -> None:
        """The disk refused the newest entries of the queue [Q-47]: who waits for one of them waits for what
        is left, since all of that stood in the queue before it."""
        last = self._state.limbo.last
        for call_id in [one for one, entry in self._awaited.items() if entry.state is EntryState.ROLLBACK]:
            if last is None:
                del self._awaited[call_id]
            else:
                self._awaited[call_id] = last

    def settings_changed(self) -> None:
        """Perhaps as many as are needed now have echoed already."""
        if self.barrier.is_open:
            self._finish()

    def expire(self, call_id: CallId) -> None:
        error = self._undecided(call_id) if call_id in self._proved else self._no_quorum()
        self.drop(call_id)
        self._state.calls.refuse(call_id, error)

    def drop(self, call_id: CallId) -> None:
        self._awaited.pop(call_id, None)
        if call_id in self._proved:
            del self._proved[call_id]
        elif self.barrier.drop(call_id):
            self._request_heartbeats()

    def stop(self) -> None:
        for call_id in self._take_all():
            self._state.calls.refuse(call_id, stopping_error())

    def _take_all(self) -> list[CallId]:
        taken = [*self._proved, *self.barrier.fail()]
        self._proved.clear()
        self._awaited.clear()
        return taken

    def _finish(self) -> None:
        while True:
            ready, starts = self.barrier.finish(self._electorates())
            for call_id in ready:
                if self._is_waiting(call_id):
                    self._proved[call_id] = None
                else:
                    self._answer(call_id)
            if starts:
                self._request_heartbeats()
            if not ready or not self.barrier.is_open:
                return

    def let_through(self) -> None:
        """At the end of each step, whatever has decided what they wait for."""
        while self._proved and not self._is_waiting(next(iter(self._proved))):  # Reads.D2
            self._answer(self._proved.popitem(last=False)[0])

    def _answer(self, call_id: CallId) -> None:
        self._awaited.pop(call_id, None)
        self._state.calls.reply(call_id, ev.ReadReady())

    def _is_waiting(self, call_id: CallId) -> bool:
        last = self._awaited.get(call_id)
        return last is not None and last.state is EntryState.SUBMITTED

    def _request_heartbeats(self) -> None:
        self._state.outbox.add(ev.RequestHeartbeats())

    def _electorates(self) -> list[Electorate]:
        """A candidate counts the members that its own log names (ADR 6): with a row of `_cluster` that is not
        decided here yet, or without it."""
        state = self._state
        lowest = state.limbo.lowest_quorum
        sets = [state.registered]
        if (prepared := state.election_membership().registered) != state.registered:
            sets.append(prepared)
        return [Electorate(members, state.settings.read_quorum(len(members), lowest)) for members in sets]

    def _no_quorum(self) -> SynchroError:
        members, needed = max(self._electorates(), key=lambda electorate: electorate.needed)
        return LinearizableQuorum(
            f"fewer than {needed} of {len(members)} instances (this one included) confirmed in time "
            "that it is still the owner; nothing was read",
            needed=needed,
        )

    def _undecided(self, call_id: CallId) -> SynchroError:
        pending = cast("PendingTxn", self._awaited[call_id])
        why, details = self._waits.why_undecided(pending, pending.id)
        return LinearizablePending(
            f"the read waits for what stood in the queue when it came: {why}; nothing was read", **details
        )

    def check(self) -> None:
        """Reads.D1, Reads.D2."""
        self.barrier.check()
        assert all(map(self._is_waiting, self._proved))
        awaited = [self._awaited[call_id].lsn for call_id in self._proved]
        assert awaited == sorted(awaited)
        assert self._awaited.keys() <= self._state.calls.waiting.keys()
