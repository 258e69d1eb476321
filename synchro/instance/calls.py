"""Calls that wait for an answer, and the answers of the step that runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from synchro.errors import SynchroError
from synchro.ids import CallId, InstanceId
from synchro.instance.events import ClientWrite, Outcome, Rejected, Reply
from synchro.instance.pending_txn import PendingTxn


@dataclass(frozen=True, slots=True)
class TransferCall:
    """A promote or demote waits; what for is in `instance.transfers.Transfer`."""

    is_demote: bool


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A linearizable read waits; what for is in `instance.reads.Reads`."""


READ_CALL = ReadCall()

OpenCall: TypeAlias = PendingTxn | ClientWrite | TransferCall | ReadCall
"""What a call waits for: its transaction, room (`ClientWrite`: still unprepared), a transfer, a read."""


class WaitingCalls:
    """Who waits for what, and what is said to whom: an answer ends the wait (`Instance.I1`)."""

    __slots__ = ("registering", "replies", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[CallId, OpenCall] = {}
        self.registering: dict[CallId, InstanceId] = {}
        """Calls that ask for a `_cluster` row, and the id it gives."""
        self.replies: list[Reply] = []

    def wait(self, call_id: CallId, call: OpenCall) -> None:
        self.waiting[call_id] = call

    def wait_together(self, call_ids: Iterable[CallId], call: OpenCall) -> None:
        self.waiting.update(dict.fromkeys(call_ids, call))

    def resume(self, call_id: CallId) -> None:
        """What it waited for is there: whoever goes on with it answers it."""
        del self.waiting[call_id]

    def reply(self, call_id: CallId, outcome: Outcome) -> None:
        self.forget(call_id)
        self.replies.append(Reply(call_id, outcome))

    def reply_together(self, calls: Iterable[CallId], outcome: Outcome) -> None:
        """To writes of clients: they register nothing."""
        for call_id in calls:
            self.waiting.pop(call_id, None)
            self.replies.append(Reply(call_id, outcome))

    def refuse(self, call_id: CallId, error: SynchroError) -> None:
        self.reply(call_id, Rejected(error))

    def forget(self, call_id: CallId) -> OpenCall | None:
        """The call waits no more. Returns what it waited for, None if it did not wait."""
        if self.registering:
            self.registering.pop(call_id, None)
        return self.waiting.pop(call_id, None)

    def take_replies(self) -> list[Reply]:
        replies, self.replies = self.replies, []
        return replies
