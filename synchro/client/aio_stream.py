"""Concurrent calls of tasks on one ExecuteStream, for asyncio.

A frame is everything that was pending when the previous one had been written, up to a limit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from synchro.client import encoding
from synchro.client.channel import IN_FLIGHT_MAX
from synchro.client.errors import CannotConnect, ConnectionLost, of_rpc_error, of_status
from synchro.client.requests import Message
from synchro.client.session import Session
from synchro.errors import SynchroError

import grpc  # isort: skip - after channel.py, which sets its environment

_Entry: TypeAlias = "tuple[asyncio.Future[Message], float, bytes, int]"
"""Who waits for an ExecuteReply, until when (monotonic), the call, and how many operations it has."""
SWEEP_S: Final = 0.25
"""How often calls are looked through for those whose answer is overdue: a timer for each would cost more
than the call."""


class Opener(Protocol):
    """The connection to one instance."""

    endpoint: str
    open_stream: Callable[[], Any]


class AioStream:
    """One ExecuteStream to one instance, used by tasks of one loop.

    B1  Each future in `_pending` and `_sent` gets one outcome: a reply, or an exception.
    B2  A call is in one of them until its end; or it was cancelled, or is overdue.

    timeout_s: of calls that do not say it themselves. on_replies: told of each response. session: what its
    client has seen.
    """

    def __init__(
        self,
        link: Opener,
        timeout_s: float,
        on_replies: Callable[[Any, str], None],
        session: Session,
    ) -> None:
        self.endpoint = link.endpoint
        self.is_broken = False
        self._options = encoding.frame_options(timeout_s)
        self._on_replies = on_replies
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_Entry] = deque()
        self._sent: dict[int, _Entry] = {}
        self._seqs = encoding.seqs()
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Event = asyncio.Event()
        self._call = link.open_stream()
        self._tasks = [
            self._loop.create_task(self._send()),
            self._loop.create_task(self._receive()),
        ]
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def submit(self, call: bytes, ops: int, deadline: float) -> asyncio.Future[Message]:
        """Send a call (`encoding.call`) of `ops` operations; the future is its ExecuteReply.

        Raises `CannotConnect` if the stream is over: nothing was sent.
        """
        if self.is_broken:
            raise CannotConnect(f"the stream to {self.endpoint} is over", endpoint=self.endpoint)
        future: asyncio.Future[Message] = self._loop.create_future()
        self._pending.append((future, deadline, call, ops))
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)
        return future

    @property
    def is_full(self) -> bool:
        return len(self._pending) + len(self._sent) >= IN_FLIGHT_MAX

    async def wait_room(self) -> None:
        while self.is_full and not self.is_broken:
            self._room.clear()
            await self._room.wait()

    async def _send(self) -> None:
        try:
            while True:
                if not self._pending:
                    self._wake = self._loop.create_future()
                    await self._wake
                calls = self._take()
                if calls:
                    calls += (self._session.frame_position, self._options)
                    await self._call.write(b"".join(calls))
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the receiving task learns why

    def _take(self) -> list[bytes]:
        """The parts of a frame, its calls; without what was cancelled, or is overdue, before it was sent."""
        parts: list[bytes] = []
        sent, seqs, varint, tag = self._sent, self._seqs, encoding.varint, encoding.CALLS_TAG
        for entry in encoding.take(self._pending):
            future, _, call, _ = entry
            if not future.done():
                seq, seq_field = next(seqs)
                sent[seq] = entry
                parts += (tag, varint(len(seq_field) + len(call)), seq_field, call)
        return parts

    async def _receive(self) -> None:
        error: SynchroError = ConnectionLost(f"{self.endpoint} ended the stream", endpoint=self.endpoint)
        try:
            while True:
                response = await self._call.read()
                if response is grpc.aio.EOF:
                    break
                self._on_replies(response, self.endpoint)
                for seq, committed in encoding.replies(response):
                    entry = self._sent.pop(seq, None)
                    if entry is not None and not (future := entry[0]).done():
                        future.set_result(committed)
                for result in response.results:
                    entry = self._sent.pop(result.seq, None)
                    if entry is None or entry[0].done():
                        continue
                    reply = result.reply
                    if reply.txn_origin or result.HasField("reply"):
                        entry[0].set_result(reply)
                    else:
                        entry[0].set_exception(of_status(result.error, self.endpoint))
                if not self._room.is_set():
                    self._room.set()
        except grpc.RpcError as failure:
            error = of_rpc_error(failure, self.endpoint)
        except asyncio.CancelledError:
            error = ConnectionLost(f"the client closed its stream to {self.endpoint}")
            raise
        finally:
            self._end(error)

    def _sweep(self) -> None:
        now = time.monotonic()
        for future, deadline, _, _ in (*self._sent.values(), *self._pending):
            if deadline < now and not future.done():
                future.set_exception(
                    ConnectionLost(f"no answer from {self.endpoint} in time", endpoint=self.endpoint)
                )
        self._sent = {seq: entry for seq, entry in self._sent.items() if not entry[0].done()}
        if not self.is_full:
            self._room.set()
        if not self.is_broken:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _end(self, error: SynchroError) -> None:
        self.is_broken = True
        self._sweeper.cancel()
        self._room.set()
        sent, self._sent = self._sent, {}
        pending, self._pending = self._pending, deque()
        # One object for each: an exception collects the traceback of whoever raises it.
        for future, _, _, _ in sent.values():
            if not future.done():
                future.set_exception(type(error)(error.message, **error.details))
        for future, _, _, _ in pending:
            if not future.done():
                future.set_exception(CannotConnect(f"not sent: {error.message}", endpoint=self.endpoint))
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
