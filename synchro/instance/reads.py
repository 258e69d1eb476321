"""Linearizable reads: each waits until a quorum has echoed that this instance still owns the queue. [Q-62]"""

from __future__ import annotations

from synchro.errors import LinearizableQuorum, SynchroError
from synchro.ids import CallId, InstanceId
from synchro.instance import events as ev
from synchro.instance.calls import READ_CALL
from synchro.instance.parts import Parts
from synchro.instance.writability import not_owner_error, stopping_error
from synchro.queue.limbo import QueueState
from synchro.replication.read_barrier import Electorate, ReadBarrier


class Reads:
    """Linearizable reads that wait for their round of heartbeats; only the owner in state LEADER has any."""

    __slots__ = ("_state", "barrier")

    def __init__(self, state: Parts) -> None:
        self._state = state
        self.barrier = ReadBarrier()

    def on_read_requested(self, event: ev.ReadBarrierRequested) -> None:
        state = self._state
        if state.stop.is_begun or state.limbo.state is not QueueState.LEADER:
            error = stopping_error() if state.stop.is_begun else not_owner_error(state)
            state.calls.refuse(event.call_id, error)
            return
        state.calls.wait(event.call_id, READ_CALL)
        if self.barrier.ask(event.call_id):
            self._request_heartbeats()
            self._finish()

    def look(self) -> None:
        """After each step of raft, and before anything is counted: who is deposed answers no read."""
        if self.barrier.is_open and self._state.limbo.state is not QueueState.LEADER:
            for call_id in self.barrier.fail():
                self._state.calls.refuse(call_id, not_owner_error(self._state))

    def on_ack(self, source: InstanceId, ack: ev.Ack) -> None:
        """Its term was seen, and `look` was called: a deposed owner has no round open any more [L-5]."""
        self.barrier.echo(source, ack.vclock_sync, ack.term, self._state.raft.term)
        self._finish()

    def settings_changed(self) -> None:
        """Perhaps as many as are needed now have echoed already."""
        if self.barrier.is_open:
            self._finish()

    def expire(self, call_id: CallId) -> None:
        self.drop(call_id)
        self._state.calls.refuse(call_id, self._no_quorum())

    def drop(self, call_id: CallId) -> None:
        if self.barrier.drop(call_id):
            self._request_heartbeats()

    def stop(self) -> None:
        for call_id in self.barrier.fail():
            self._state.calls.refuse(call_id, stopping_error())

    def _finish(self) -> None:
        while True:
            ready, starts = self.barrier.finish(self._electorates())
            for call_id in ready:
                self._state.calls.reply(call_id, ev.ReadReady())
            if starts:
                self._request_heartbeats()
            if not ready or not self.barrier.is_open:
                return

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
