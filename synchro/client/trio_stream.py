"""Concurrent calls of tasks on one ExecuteStream, for trio, on the connection that other calls use too."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import trio

from synchro.client.channel import ANSWER_S, SILENT_S
from synchro.client.data_stream import PING, SWEEP_S, DataStream
from synchro.client.errors import ConnectionLost, of_rpc_error
from synchro.client.login import Metadata
from synchro.client.requests import Message
from synchro.client.session import Session
from synchro.errors import SynchroError
from synchro.rpc.channel import RpcChannel
from synchro.wire.failure import CallFailed
from synchro.wire.frames import ErrorCode
from synchro.wire.link import Link
from synchro.wire.turns import Turns


class Answer:
    """What the task that made a call waits for. It is awaited once, by one task."""

    __slots__ = ("_error", "_is_done", "_reply", "_task")

    def __init__(self) -> None:
        self._reply: Message = None
        self._error: SynchroError | None = None
        self._is_done = False
        self._task: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, reply: Message) -> None:
        self._reply = reply
        self._end()

    def set_exception(self, error: SynchroError) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._is_done = True
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        """The call detaches: if it was not sent it never is, and nobody hears its answer."""
        self._is_done = True
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _wait(self) -> Message:
        if not self._is_done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._error is not None:
            raise self._error
        return self._reply

    def __await__(self) -> Generator[Any, Any, Message]:
        return self._wait().__await__()


class TrioStream(DataStream):
    """A `DataStream` for tasks of one trio run. Connects by itself; until then calls are pending.

    B5  While the socket does not take what was written no frame is made (`Link.K2`): what waits is in
        `_pending`.
    """

    def __init__(
        self,
        turns: Turns,
        nursery: trio.Nursery,
        channel: RpcChannel,
        timeout_s: float,
        on_replies: Callable[[Any, str], None],
        session: Session,
        metadata: Callable[[], Metadata] = tuple,
        is_claimed: Callable[[], bool] = lambda: True,
    ) -> None:
        """nursery: in which it connects. metadata: of the call. is_claimed: as `Plans.is_claimed`."""
        super().__init__(
            channel.address, timeout_s, on_replies, session, channel.scheme, metadata, is_claimed
        )
        self._turns = turns
        self._link: Link | None = None
        self._is_due = False
        self._seen = 0  # bytes that had come when it was looked last
        self._quiet_since = trio.current_time()
        self._is_asked = False
        self._room = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._sweeper = turns.call_at(trio.current_time() + SWEEP_S, self._tick)
        nursery.start_soon(self._connect, channel)

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, call: bytes, ops: int, deadline: float) -> Answer:
        """Send a call (`encoding.call`) of `ops` operations; what is awaited is its ExecuteReply. deadline:
        monotonic seconds.

        Raises `CannotConnect` if the stream takes no calls: nothing was sent.
        """
        if not self.is_open:
            raise self._refusal()
        answer = Answer()
        self._pending.append((answer, deadline, call, ops))
        if not self._is_due:
            self._write_soon()
        return answer

    async def wait_room(self) -> None:
        """Wait until it takes calls again, or takes none any more."""
        while self.is_full and self.is_open:
            await self._room.park()

    def close(self) -> None:
        """End what waits."""
        self.end(ConnectionLost(f"the client closed its stream to {self.endpoint}"))

    # --- the connection -------------------------------------------------------------------------------

    async def _connect(self, channel: RpcChannel) -> None:
        with self._scope:
            try:
                link = await channel.connect()
            except CallFailed as failure:
                self.end(of_rpc_error(failure, self.endpoint))
            else:
                self._link = link
                link.on_goaway = self.drain
                self.begin(link.h2)

    def emit(self) -> None:
        """Hand over frames, as far as flow control lets them go: the connection is about to write."""
        self._is_due = False
        while self._hand_over():
            pass

    def _write_soon(self) -> None:
        if not self._is_due and self._link is not None:
            self._is_due = True
            self._link.emit_later(self)

    def _give_room(self) -> None:
        if self._room:
            self._room.unpark_all()

    def _let_go(self) -> None:
        self._sweeper.cancel()
        self._scope.cancel()
        if self._link is not None and not self._link.is_over:
            self._link.mark()

    def _tick(self) -> None:
        self.sweep(time.monotonic())
        if self._link is not None and not self.is_over:
            self._look(self._link, trio.current_time())
        if not self.is_over:
            self._sweeper = self._turns.call_at(trio.current_time() + SWEEP_S, self._tick)

    def _look(self, link: Link, now: float) -> None:
        """Ask who is silent while calls wait that another one would take; give up who does not answer. Other
        silence is the affair of the connection."""
        if link.received != self._seen or not self._may_leave:
            self._seen, self._quiet_since, self._is_asked = link.received, now, False
        elif self._is_asked:
            if now - self._quiet_since >= ANSWER_S:
                link.fault(ErrorCode.NO_ERROR, f"no answer to a ping for {ANSWER_S:g} s")
        elif now - self._quiet_since >= SILENT_S:
            self._is_asked, self._quiet_since = True, now
            link.h2.ping(PING)
            link.mark()


__all__ = ["Answer", "TrioStream"]
