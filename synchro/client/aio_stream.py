"""Concurrent calls of tasks on one ExecuteStream, for asyncio: a connection of its own, no task for it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from synchro.client.channel import ANSWER_S, CONNECT_S, KEEPALIVE_AFTER_S, KEEPALIVE_TIMEOUT_S, SILENT_S
from synchro.client.data_stream import PING, SWEEP_S, WIRE_LIMITS, DataStream
from synchro.client.errors import ConnectionLost, cannot_connect
from synchro.client.login import Metadata
from synchro.client.requests import Message
from synchro.client.session import Session
from synchro.wire.backoff import Backoff
from synchro.wire.connection import Http2Connection
from synchro.wire.frames import ConnectionFault, ErrorCode
from synchro.wire.io import PLAIN, ByteLayer, LayerFault

if TYPE_CHECKING:
    from synchro.client.secure import Security

NEXT_ADDRESS_S: Final = 0.25
"""After so many seconds without an answer the next address of a name is tried too (RFC 8305)."""


class AioStream(DataStream, asyncio.Protocol):
    """A `DataStream` for tasks of one loop. Connects by itself; until then calls are pending.

    B5  While the socket does not take what was written no frame is made: what waits is in `_pending`.
    B6  Calls go out only behind the SETTINGS of the other end: one that takes connections and says
        nothing was sent nothing.
    """

    def __init__(
        self,
        endpoint: str,
        timeout_s: float,
        on_replies: Callable[[Any, str], None],
        session: Session,
        backoff: Backoff,
        security: Security | None = None,
        metadata: Callable[[], Metadata] = tuple,
        is_claimed: Callable[[], bool] = lambda: True,
    ) -> None:
        """backoff: of this endpoint; is told how the attempt to connect ends. security: TLS. metadata: of the
        call. is_claimed: as `Plans.is_claimed`."""
        scheme = "http" if security is None else "https"
        super().__init__(endpoint, timeout_s, on_replies, session, scheme, metadata, is_claimed)
        self._backoff = backoff
        self._security = security
        self._layer: ByteLayer = PLAIN
        self._fault_heard = ""  # why the other end closes, if it says so
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._is_due = False
        self._h2 = Http2Connection(
            is_client=True, limits=WIRE_LIMITS, clock=time.monotonic, on_goaway=self._on_goaway
        )
        self._transport: asyncio.Transport | None = None
        self._is_writable = True
        self._settled = self._loop.create_future()
        """Done when the other end has spoken, or never will."""
        self._closed = self._loop.create_future()
        """Done when the socket is closed."""
        self._is_heard = False  # since the last look
        self._heard_at = time.monotonic()
        self._asked_at: float | None = None  # since then
        self._waits_since: float | None = None
        """Since when there were, at each look, calls that another instance would take."""
        self._connecting = self._loop.create_task(self._connect())
        self._sweeper = self._loop.call_later(SWEEP_S, self._tick)

    # --- calls ----------------------------------------------------------------------------------------

    def submit(self, call: bytes, ops: int, deadline: float) -> asyncio.Future[Message]:
        """Send a call (`encoding.call`) of `ops` operations; the future is its ExecuteReply. deadline:
        monotonic seconds.

        Raises `CannotConnect` if the stream takes no calls: nothing was sent.
        """
        if not self.is_open:
            raise self._refusal()
        future: asyncio.Future[Message] = self._loop.create_future()
        self._pending.append((future, deadline, call, ops))
        if not self._is_due:
            self._write_soon()
        return future

    async def wait_room(self) -> None:
        """Wait until it takes calls again, or takes none any more."""
        while self.is_full and self.is_open:
            self._room.clear()
            await self._room.wait()

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is left: neither a call nor a socket."""
        return self.is_over and self._transport is None and self._connecting.done()

    async def close(self) -> None:
        """End what waits, and close the connection."""
        self.end(ConnectionLost(f"the client closed its stream to {self.endpoint}"))
        self._connecting.cancel()
        await asyncio.gather(self._connecting, return_exceptions=True)
        if self._transport is not None:
            self._hang_up()
            await self._closed

    # --- the connection -------------------------------------------------------------------------------

    async def _connect(self) -> None:
        host, _, port = self.endpoint.rpartition(":")
        host = host.strip("[]")
        # asyncio loses a socket that was connected in the moment in which a race of addresses is cancelled.
        delay = NEXT_ADDRESS_S if _is_name(host) else None
        try:
            if self._security is not None:
                self._layer = self._security.layer(host)
            async with asyncio.timeout(CONNECT_S):
                await self._loop.create_connection(lambda: self, host, int(port), happy_eyeballs_delay=delay)
                await self._settled
        except (OSError, ValueError) as error:  # ValueError: of a name that is none
            is_silent = isinstance(error, TimeoutError)
            self.end(cannot_connect(_reason(error), self.endpoint, is_silent=is_silent))
        if self._h2.is_settled:
            self._backoff.succeeded()
        else:
            self._backoff.failed(time.monotonic())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.is_over:
            self._transport.abort()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._write()

    def data_received(self, data: bytes) -> None:
        self._is_heard = True
        try:
            self._h2.receive(self._layer.received(data))
        except (ConnectionFault, LayerFault) as fault:  # the output ends with the reason
            self._write()
            self._lose(str(fault))
            return
        if self._stream is None and self._h2.is_settled and not self._settled.done():
            self._settled.set_result(None)
            self.begin(self._h2)
        self._write()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._security is not None and not self._layer.is_ready:
            self._lose("closed by the other end in the TLS handshake: it may refuse the certificate")
        else:
            self._lose(self._fault_heard or ("socket closed" if error is None else _reason(error)))
        if not self._closed.done():
            self._closed.set_result(None)

    def _on_goaway(self, _last_id: int, code: ErrorCode, why: bytes) -> None:
        if code is not ErrorCode.NO_ERROR:
            self._fault_heard = f"closed by the other end: {why.decode('utf-8', 'replace')} ({code.name})"
            if self._stream is None:
                self._lose(self._fault_heard)
        self.drain()

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        self._write_soon()

    def _lose(self, why: str) -> None:
        if self._stream is None:
            self.end(cannot_connect(why, self.endpoint))
        self._h2.lost(why)

    def _write_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._write_now)

    def _write_now(self) -> None:
        self._is_due = False
        self._write()

    def _write(self) -> None:
        transport, take = self._transport, self._h2.take
        if transport is None:
            return
        while self._is_writable:
            has_handed = self._hand_over()
            data = self._layer.to_send(take())
            if data:
                transport.write(data)
            elif not has_handed:
                break

    def _give_room(self) -> None:
        if not self._room.is_set():
            self._room.set()

    def _let_go(self) -> None:
        self._sweeper.cancel()
        if not self._settled.done():
            self._settled.set_result(None)
        if self._transport is not None:
            self._loop.call_soon(self._hang_up)

    def _hang_up(self) -> None:
        """Say that nothing more comes, and close; at once, if the other end does not read."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._h2.fault is None:
            self._h2.goaway()
        self._write()
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    # --- time -----------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        self.sweep(now)
        if not self.is_over:
            self._look(now)
        if not self.is_over:
            self._sweeper = self._loop.call_later(SWEEP_S, self._tick)

    def _look(self, now: float) -> None:
        """Ask who was silent; give up who did not answer. What was silence of an idle connection is not held
        against it when a call waits."""
        if self._is_heard or self._stream is None:
            self._is_heard, self._heard_at, self._asked_at = False, now, None
        if not self._may_leave:
            self._waits_since = None
            since, after_s, timeout_s = self._heard_at, KEEPALIVE_AFTER_S, KEEPALIVE_TIMEOUT_S
        else:
            self._waits_since = now if self._waits_since is None else self._waits_since
            since, after_s, timeout_s = max(self._heard_at, self._waits_since), SILENT_S, ANSWER_S
        if now - since < after_s:
            return
        if self._asked_at is None:
            self._asked_at = now
            self._h2.ping(PING)
            self._write()
        elif now - max(self._asked_at, since + after_s) >= timeout_s:
            self._h2.goaway(ErrorCode.NO_ERROR, "no answer to a ping")
            self._lose(f"no answer to a ping for {timeout_s:g} s")


class AioStreams:
    """The streams to one instance, one after another.

    B1  At most one of them takes calls. After an attempt to connect that failed the next one waits, and
        meanwhile the old stream says why.
    """

    def __init__(
        self,
        endpoint: str,
        timeout_s: float,
        on_replies: Callable[[Any, str], None],
        session: Session,
        security: Security | None = None,
        metadata: Callable[[], Metadata] = tuple,
        is_claimed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._backoff = Backoff(random.random)
        self._security = security
        self._metadata = metadata
        self._is_claimed = is_claimed
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._on_replies = on_replies
        self._session = session
        self._stream = self._new()
        self._replaced: list[AioStream] = []
        """Those that wait for answers, or for the end of their sockets."""

    def _new(self) -> AioStream:
        return AioStream(
            self._endpoint,
            self._timeout_s,
            self._on_replies,
            self._session,
            self._backoff,
            self._security,
            self._metadata,
            self._is_claimed,
        )

    def newest(self) -> AioStream:
        """One that takes calls, or that says why there is none."""
        stream = self._stream
        if not stream.is_open and time.monotonic() >= self._backoff.retry_at:
            self._replaced = [old for old in (*self._replaced, stream) if not old.is_gone]
            stream = self._stream = self._new()
        return stream

    async def close(self) -> None:
        for stream in (*self._replaced, self._stream):
            await stream.close()


_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")


def _is_name(host: str) -> bool:
    """Not an address: there may be several behind it."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return False
    return True


def _reason(error: BaseException) -> str:
    """The words of the system; of several addresses, for the first."""
    if isinstance(error, TimeoutError):
        return "connection timed out"
    number = getattr(error, "errno", None)
    if number is None and (found := _ERRNO.search(str(error))) is not None:
        number = int(found[1])
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    return (getattr(error, "strerror", None) or str(error)).lower()
