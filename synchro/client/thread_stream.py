"""Concurrent calls of threads on one ExecuteStream.

A frame is everything that was pending when the previous one had been sent, up to a limit: gRPC asks the
request iterator for the next message then. No timer; a single caller waits for nobody.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from synchro.client import encoding
from synchro.client.channel import IN_FLIGHT_MAX
from synchro.client.errors import CannotConnect, ConnectionLost, of_rpc_error, of_status
from synchro.client.login import Metadata
from synchro.client.session import Session
from synchro.errors import SessionUnknown, SynchroError, SyncQueueFull

import grpc  # isort: skip - after channel.py, which sets its environment


class Waiter:
    """A thread that waits for the end of its call. `outcome`: an ExecuteReply, or what to raise. seq: that of
    the call, 0 before it is sent."""

    __slots__ = ("_lock", "outcome", "seq")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.outcome: Any = None
        self.seq = 0

    def finish(self, outcome: Any) -> None:
        self.outcome = outcome
        self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        return self._lock.acquire(timeout=max(0.0, timeout_s))


class ThreadStream:
    """One ExecuteStream to one instance.

    B1  Each waiter gets exactly one outcome, or is forgotten by its thread.
    B2  A call is in `_pending`; or it was sent, and its waiter is in `_waiters` until its end.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        endpoint: str,
        *,
        timeout_s: float,
        on_replies: Callable[[Any, str], None],
        session: Session,
        metadata: Metadata = (),
    ) -> None:
        """metadata: of the call."""
        self.endpoint = endpoint
        self.is_broken = False
        self._not_sent: SynchroError
        """What calls are told that come when it is broken: nothing was done."""
        self._options = encoding.frame_options(timeout_s)
        self._on_replies = on_replies
        self._session = session
        self._wake = threading.Condition(threading.Lock())
        self.is_asked = threading.Lock()
        """Held by the thread that asks whether the instance is there."""
        self._heard_at = time.monotonic()
        self._pending: deque[tuple[Waiter, bytes, int]] = deque()
        self._waiters: dict[int, Waiter] = {}
        self._seqs = encoding.seqs()
        self._call: Any = encoding.open_stream(channel)(self._frames(), metadata=metadata)
        self._reader = threading.Thread(target=self._read, name=f"synchro-stream-{endpoint}", daemon=True)
        self._reader.start()

    def submit(self, call: bytes, ops: int, waiter: Waiter) -> None:
        """A call (`encoding.call`) of so many operations. Raises `CannotConnect` if the stream is over,
        `SyncQueueFull` if too many calls wait: nothing was sent."""
        with self._wake:
            if self.is_broken:
                raise self._not_sent
            if len(self._pending) + len(self._waiters) >= IN_FLIGHT_MAX:
                raise SyncQueueFull(
                    f"{IN_FLIGHT_MAX} calls of this client wait already; this one was not sent",
                    limit=IN_FLIGHT_MAX,
                )
            self._pending.append((waiter, call, ops))
            if len(self._pending) == 1:
                self._wake.notify()

    @property
    def is_quiet(self) -> bool:
        """Nothing that was sent waits for its answer."""
        return not self._waiters

    @property
    def silent_s(self) -> float:
        """Seconds since the instance was heard last."""
        return time.monotonic() - self._heard_at

    def heard(self) -> None:
        """The instance said something, here or elsewhere."""
        self._heard_at = time.monotonic()

    def give_up(self, error: SynchroError) -> None:
        """The instance does not answer."""
        self._end(error)
        self._call.cancel()

    def forget(self, waiter: Waiter) -> None:
        """Its thread waits no longer."""
        with self._wake:
            self._waiters.pop(waiter.seq, None)

    def close(self) -> None:
        self._end(ConnectionLost(f"the client closed its stream to {self.endpoint}"))
        self._call.cancel()
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=2)

    # --- gRPC's thread

    def _frames(self) -> Iterator[bytes]:
        while True:
            with self._wake:
                while not self._pending and not self.is_broken:
                    self._wake.wait()
                if self.is_broken:
                    return
                parts = []
                for waiter, call, _ in encoding.take(self._pending):
                    waiter.seq, seq_field = next(self._seqs)
                    self._waiters[waiter.seq] = waiter
                    parts.append(encoding.in_frame(seq_field, call))
            parts += (self._session.frame_position, self._options)
            yield b"".join(parts)

    # --- the reader's thread

    def _read(self) -> None:
        try:
            for response in self._call:
                self.heard()
                self._on_replies(response, self.endpoint)
                with self._wake:
                    done = [
                        (self._waiters.pop(seq, None), reply) for seq, reply in encoding.replies(response)
                    ]
                    ended = [(self._waiters.pop(result.seq, None), result) for result in response.results]
                for waiter, reply in done:
                    if waiter is not None:
                        waiter.finish(reply)
                for waiter, result in ended:
                    if waiter is not None:
                        waiter.finish(
                            result.reply
                            if result.HasField("reply")
                            else of_status(result.error, self.endpoint)
                        )
            self._end(ConnectionLost(f"{self.endpoint} ended the stream", endpoint=self.endpoint))
        except grpc.RpcError as error:
            self._end(of_rpc_error(error, self.endpoint))
        except Exception as error:  # noqa: BLE001 - a bug here must not leave threads waiting
            self._end(ConnectionLost(f"the stream to {self.endpoint} failed: {error!r}"))

    def _end(self, error: SynchroError) -> None:
        """All that waits is told; what was not sent did nothing."""
        with self._wake:
            if not self.is_broken:
                self.is_broken = True
                # What was sent with a session that is not known did nothing either.
                is_refused = isinstance(error, SessionUnknown)
                message = error.message if is_refused else f"not sent: {error.message}"
                kind = SessionUnknown if is_refused else CannotConnect
                self._not_sent = kind(message, endpoint=self.endpoint)
            sent, self._waiters = list(self._waiters.values()), {}
            pending, self._pending = self._pending, deque()
            self._wake.notify_all()
        for waiter in sent:
            waiter.finish(error)
        for waiter, _, _ in pending:
            waiter.finish(self._not_sent)
