"""The stream of a join: its messages cut to what the link carries, and receipts for them (ADR 20)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from synchro.replication.pace import Pace
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.server.peer_messages import LinkLost

if TYPE_CHECKING:
    from synchro.config import Settings
    from synchro.rpc.duplex import Duplex

DRAIN_POLL_S: Final = 0.02
"""How often the end of a join looks whether a joiner without receipts took the rest."""


class JoinSender:
    """The side that has the data. A joiner that takes nothing for a death timeout is given up."""

    def __init__(self, stream: Duplex[Any, Any], settings: Settings, *, takes_parts: bool) -> None:
        self._stream = stream
        self._death_s = settings.death_timeout_s
        self._takes_parts = takes_parts
        self._pace = Pace(
            beat_s=settings.replication_timeout_s,
            window_max=settings.limits.stream_out_bytes_max,
            now=trio.current_time(),
        )
        self._receipt = trio.Event()

    def on_message(self, request: Any) -> None:
        self._pace.received(request.received, trio.current_time())
        self._receipt.set()

    async def send(self, response: Any) -> None:
        """One item. `LinkLost`: the joiner is gone, or takes nothing."""
        if not self._takes_parts:
            with trio.move_on_after(self._death_s) as waiting:
                await self._wait_writable()
            if waiting.cancelled_caught:
                raise self._stalled()
            self._stream.send_nowait(response)
            return
        if response.HasField("start"):
            response.start.wants_receipts = True
        data = response.SerializeToString()
        size = len(data)
        start = 0
        while size - start > (piece := self._pace.piece):
            part = pb.JoinPart(data=data[start : start + piece])
            await self._send_now(pb.JoinResponse(part=part), piece)
            start += piece
        if start:
            response = pb.JoinResponse(part=pb.JoinPart(data=data[start:], is_last=True))
        await self._send_now(response, size - start)

    async def finish(self) -> None:
        """All was sent: until the joiner took it."""
        if self._takes_parts:
            while self._pace.on_the_way:
                await self._wait_receipt()
            return
        left, progress_at = self._stream.out_bytes, trio.current_time()
        while left:
            await trio.sleep(DRAIN_POLL_S)
            now = trio.current_time()
            if self._stream.out_bytes < left:
                left, progress_at = self._stream.out_bytes, now
            elif now - progress_at > self._death_s:
                raise self._stalled()

    async def _send_now(self, response: Any, size: int) -> None:
        await self._wait_writable()
        while not self._pace.has_room(size):
            await self._wait_receipt()
        self._pace.sent(size, trio.current_time())
        self._stream.send_nowait(response)

    async def _wait_writable(self) -> None:
        try:
            await self._stream.wait_writable()
        except trio.BrokenResourceError:
            raise LinkLost("the joiner is gone") from None

    async def _wait_receipt(self) -> None:
        self._receipt = trio.Event()
        with trio.move_on_at(self._pace.received_at + self._death_s):
            await self._receipt.wait()
            return
        raise self._stalled()

    def _stalled(self) -> LinkLost:
        return LinkLost(f"the joiner took nothing for {self._death_s:g} s; the join was given up")


class JoinReceiver:
    """The joiner's side: puts parts together, and gives receipts if they are wanted."""

    def __init__(self, stream: Duplex[Any, Any], bytes_max: int) -> None:
        """bytes_max: of one message."""
        self._stream = stream
        self._bytes_max = bytes_max
        self._gives_receipts = False
        self._received = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0

    def take(self, response: Any) -> Any | None:
        """The message that is complete with this one; None: a part came, more follow."""
        is_part = response.HasField("part")
        if response.HasField("start"):
            self._gives_receipts = response.start.wants_receipts
        if self._gives_receipts or is_part:
            self._received += len(response.part.data) if is_part else response.ByteSize()
            self._stream.send_nowait(pb.JoinRequest(received=self._received))
        if not is_part:
            return response
        self._parts.append(response.part.data)
        self._parts_bytes += len(response.part.data)
        if self._parts_bytes > self._bytes_max:
            raise LinkLost(f"a message of the join is larger than {self._bytes_max} bytes")
        if not response.part.is_last:
            return None
        whole = pb.JoinResponse.FromString(b"".join(self._parts))
        self._parts.clear()
        self._parts_bytes = 0
        self._gives_receipts |= whole.HasField("start") and whole.start.wants_receipts
        return whole
