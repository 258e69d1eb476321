"""Linearizable reads where the queue is not owned: its owner says how far one must be. [Q-63], ADR 50."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import trio

from synchro.errors import (
    Elsewhere,
    LinearizablePending,
    LinearizableQuorum,
    NotNow,
    SynchroError,
    SyncQueueForeign,
    SyncQueueFull,
    TimedOut,
)
from synchro.ids import InstanceId
from synchro.replication.read_barrier import Awaited, ReadPosition
from synchro.server.node import Node
from synchro.server.peer_messages import LinkLost, ReadPositionRequest

ANSWERS_MAX: Final = 8
"""That wait at a time until they are applied: each is looked at after every step."""


class _Question:
    """What one question brings, for all its readers; it is over when that is applied, or refused."""

    __slots__ = ("is_applied", "over", "position", "readers", "refusal", "scope")

    def __init__(self) -> None:
        self.readers = 0
        """Those that still wait."""
        self.position: ReadPosition | None = None
        self.refusal: SynchroError | None = None
        self.is_applied = False
        self.over = trio.Event()
        self.scope = trio.CancelScope()
        """Of the wait until `position` is reached."""

    def left(self) -> None:
        self.readers -= 1
        if self.readers == 0 and self.position is not None:
            self.scope.cancel()


class OwnerReads:
    """Readers that wait for the word of the owner; all that wait when a question is sent share its answer.

    O1  A question is sent after each of its readers came, so what the owner has committed when it answers has
        every write that was answered before they came [Q-60].
    O2  One question is on its way at a time, for one death timeout at the most; `ANSWERS_MAX` answers wait
        until they are applied, each once for all its readers. There are at most `limits.waiting_calls_max`
        readers, from their call to their outcome.
    """

    def __init__(self, node: Node, address_of: Callable[[InstanceId], str]) -> None:
        """address_of: host:port of a member, "" if it is not known."""
        self._node = node
        self._address_of = address_of
        self._readers = 0
        self._next = _Question()
        self._wanted = trio.Event()
        self._room = trio.Semaphore(ANSWERS_MAX, max_value=ANSWERS_MAX)
        self._told = ""
        """Why the owner refused to be asked, as the log has it."""

    async def wait(self, timeout_s: float) -> None:
        """Until what is committed here has every write that was answered anywhere before this was called, and
        what waited then in the owner's queue, on its disk, is decided here.

        Raises what the owner says of the read; `SyncQueueForeign`: go to the owner; `LinearizableQuorum`,
        `LinearizablePending`, `TimedOut`: not in time. Nothing was read then.
        """
        node = self._node
        if node.core.has_amnesia or not node.core.acks_count:
            raise self._go_to_owner("this instance does not know yet whether its log is whole")
        limit = node.settings.limits.waiting_calls_max
        if self._readers >= limit:  # OwnerReads.O2
            raise SyncQueueFull(f"{limit} reads wait for their turn already; nothing was read", limit=limit)
        question = self._next
        self._readers += 1
        question.readers += 1
        self._wanted.set()
        try:
            with trio.move_on_after(timeout_s):
                await question.over.wait()
        finally:
            self._readers -= 1
            question.left()
        if question.refusal is not None:
            raise question.refusal
        if not question.is_applied:
            raise self._too_late(question, timeout_s)

    def _too_late(self, question: _Question, timeout_s: float) -> SynchroError:
        node = self._node
        if not node.is_ready:
            return node.loading()
        if question.position is not None:
            wanted, awaited = question.position
            if awaited is not None and node.core.has_applied(wanted):
                return self._undecided(awaited, timeout_s)
            return TimedOut(
                f"this instance did not reach vclock {wanted} of the owner within {timeout_s:.3g} "
                f"s, it is at {node.core.vclock}; nothing was read",
                min_vclock=wanted,
                vclock=node.core.vclock,
            )
        if question is self._next and self._room.value == 0:
            return TimedOut(
                f"this instance did not reach within {timeout_s:.3g} s what reads before this one wait for, "
                f"it is at {node.core.vclock}; nothing was read",
                vclock=node.core.vclock,
            )
        return LinearizableQuorum(
            f"the owner of the queue, {self._owner}, did not say in time that it still is; nothing was read"
        )

    def _undecided(self, awaited: Awaited, timeout_s: float) -> SynchroError:
        """What its acks are the owner knows."""
        txn = awaited.txn
        return LinearizablePending(
            f"the read waits for what stood in the queue of {self._node.core.state.name_of(txn.origin)} when "
            f"it came: within {timeout_s:.3g} s this instance did not hear what became of {txn}; nothing was "
            "read",
            txn=txn,
        )

    async def run(self) -> None:
        """Send questions, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                await self._room.acquire()
                question, self._next = self._next, _Question()  # OwnerReads.O1
                if question.readers:
                    await self._ask(question)
                if question.readers and question.position is not None:
                    nursery.start_soon(self._apply, question, question.position)
                else:
                    question.over.set()
                    self._room.release()

    async def _ask(self, question: _Question) -> None:
        try:
            question.position = await self._position()
        except SynchroError as error:
            question.refusal = error

    async def _apply(self, question: _Question, position: ReadPosition) -> None:
        node = self._node
        with question.scope:
            question.is_applied = await node.calls.wait_reached(node.core, position, timeout_s=math.inf)
        question.over.set()
        self._room.release()

    async def _position(self) -> ReadPosition:
        node = self._node
        address = self._address_of(node.core.limbo.owner_id)
        if not address:
            raise self._go_to_owner("its address is not known here")
        limit_s = node.settings.death_timeout_s  # OwnerReads.O2
        request = ReadPositionRequest(node.replicaset_uuid, limit_s)
        try:
            with trio.move_on_after(limit_s):
                position = await node.transport.read_position(address, request)
                self._told = ""
                return position
        except LinkLost as error:
            raise self._go_to_owner(f"it could not be asked: {error.message}") from error
        except (NotNow, Elsewhere, SyncQueueFull):
            raise  # what it says of the read
        except SynchroError as error:  # of this instance, not of the reader
            self._tell(error)
            raise self._go_to_owner(
                f"it could not be asked by this instance: {error.reason}: {error.message}"
            ) from error
        raise LinearizableQuorum(
            f"the owner of the queue, {self._owner}, did not answer within {limit_s:g} s; nothing was read"
        )

    def _tell(self, error: SynchroError) -> None:
        """Once, until it can be asked again, or refuses for another reason."""
        if error.reason != self._told:
            self._told = error.reason
            self._node.log.warning(
                "read_position_refused", owner=self._owner, reason=error.reason, message=error.message
            )

    @property
    def _owner(self) -> str:
        core = self._node.core
        owner = core.limbo.owner_id
        return f"{owner} ({core.state.name_of(owner)})"

    def _go_to_owner(self, why: str) -> SynchroError:
        return SyncQueueForeign(
            f"The synchronous transaction queue belongs to other instance with id {self._owner}, and {why}; "
            "nothing was read",
            owner=self._node.core.limbo.owner_id,
        )
