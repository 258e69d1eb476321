"""Linearizable reads where the queue is not owned: its owner says how far one must be. [Q-63], ADR 50."""

from __future__ import annotations

from collections.abc import Callable

import trio

from synchro.errors import LinearizableQuorum, SynchroError, SyncQueueForeign, SyncQueueFull, TimedOut
from synchro.ids import InstanceId
from synchro.server.node import Node
from synchro.server.peer_messages import LinkLost, ReadPositionRequest
from synchro.vclock import Vclock


class _Reader:
    __slots__ = ("position", "refusal", "told")

    def __init__(self) -> None:
        self.told = trio.Event()
        self.position: Vclock | None = None
        self.refusal: SynchroError | None = None


class OwnerReads:
    """Readers that wait for the word of the owner; all that wait when a question is sent share its answer.

    O1  A question is sent after each of its readers came, so what the owner has committed when it answers has
        every write that was answered before they came [Q-60].
    O2  One question is on its way at a time, for one death timeout at the most; there are at most
        `limits.waiting_calls_max` readers.
    """

    def __init__(self, node: Node, address_of: Callable[[InstanceId], str]) -> None:
        """address_of: host:port of a member, "" if it is not known."""
        self._node = node
        self._address_of = address_of
        self._readers: list[_Reader] = []
        self._wanted = trio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Until what is committed here has every write that was answered anywhere before this was called.

        Raises what the owner refuses with; `SyncQueueForeign`: go to the owner; `LinearizableQuorum`,
        `TimedOut`: not in time. Nothing was read then.
        """
        node = self._node
        if node.core.has_amnesia or not node.core.acks_count:
            raise self._go_to_owner("this instance does not know yet whether its log is whole")
        limit = node.settings.limits.waiting_calls_max
        if len(self._readers) >= limit:
            raise SyncQueueFull(f"{limit} reads wait for their turn already; nothing was read", limit=limit)
        deadline = trio.current_time() + timeout_s
        position = await self._ask(deadline)
        left_s = max(0.0, deadline - trio.current_time())
        if not await node.calls.wait_applied(node.core, position, timeout_s=left_s):
            if not node.is_ready:
                raise node.loading()
            raise TimedOut(
                f"this instance did not reach vclock {position} of the owner within {timeout_s:.3g} s, it is "
                f"at {node.core.vclock}; nothing was read",
                min_vclock=position,
                vclock=node.core.vclock,
            )

    async def _ask(self, deadline: float) -> Vclock:
        reader = _Reader()
        self._readers.append(reader)
        self._wanted.set()
        try:
            with trio.move_on_at(deadline):
                await reader.told.wait()
        finally:
            if reader in self._readers:
                self._readers.remove(reader)
        if reader.refusal is not None:
            raise reader.refusal
        if reader.position is None:
            raise LinearizableQuorum(
                f"the owner of the queue, {self._owner}, did not say in time that it still is; nothing was "
                "read"
            )
        return reader.position

    async def run(self) -> None:
        """Send questions, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            readers, self._readers = self._readers, []  # OwnerReads.O1
            if not readers:
                continue
            try:
                position = await self._position()
            except SynchroError as error:
                for reader in readers:
                    reader.refusal = error
            else:
                for reader in readers:
                    reader.position = position
            for reader in readers:
                reader.told.set()

    async def _position(self) -> Vclock:
        node = self._node
        address = self._address_of(node.core.limbo.owner_id)
        if not address:
            raise self._go_to_owner("its address is not known here")
        limit_s = node.settings.death_timeout_s  # OwnerReads.O2
        request = ReadPositionRequest(node.replicaset_uuid, limit_s)
        try:
            with trio.move_on_after(limit_s):
                return await node.transport.read_position(address, request)
        except LinkLost as error:
            raise self._go_to_owner(f"it could not be asked: {error.message}") from error
        raise LinearizableQuorum(
            f"the owner of the queue, {self._owner}, did not answer within {limit_s:g} s; nothing was read"
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
