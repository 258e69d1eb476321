"""The asynchronous client in a trio program.

gRPC knows asyncio only, so the client proper runs on an asyncio loop in a thread of its own. Calls cross
over in batches: whatever tasks ask for, or the loop has finished, while the other side is busy, goes over in
one wake-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from synchro.client.aio import AsyncClient, AsyncSpace
from synchro.client.blocking import Transaction
from synchro.client.errors import ClientClosed, OutcomeUnknown
from synchro.client.model import State
from synchro.client.requests import SpaceRef

if TYPE_CHECKING:
    import outcome
    import trio

JOIN_S: Final = 5.0
_CALLS: Final = frozenset(
    {
        "checksum",
        "create_index",
        "create_space",
        "demote",
        "drop_space",
        "endpoint_of",
        "execute",
        "field_names",
        "get_info",
        "leader",
        "list_instances",
        "list_queue",
        "promote",
        "select",
        "snapshot",
        "spaces",
        "truncate_space",
        "wait_outcome",
        "wait_transaction",
        "_write",
    }
)


class _Job:
    """One call, seen from both sides."""

    __slots__ = ("event", "make", "result", "task")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Any]], event: trio.Event) -> None:
        self.make = make
        self.event = event
        self.result: outcome.Outcome[Any] | None = None
        self.task: asyncio.Task[None] | None = None


class TrioClient:
    """The methods of `AsyncClient`, for trio tasks. Belongs to one trio run."""

    def __init__(self, endpoints: Sequence[str], **options: Any) -> None:
        import trio

        self._endpoints = endpoints
        self._options = options
        self._token = trio.lowlevel.current_trio_token()
        self._asked: deque[_Job] = deque()
        self._ended: deque[_Job] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: AsyncClient | None = None
        self._thread: threading.Thread | None = None

    # --- life

    async def __aenter__(self) -> TrioClient:
        import trio

        up = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, args=(up,), name="synchro-aio", daemon=True)
        self._thread.start()
        await trio.to_thread.run_sync(up.wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel streams, close connections, end the thread."""
        import trio

        thread, self._thread = self._thread, None
        if thread is None or self._client is None or self._loop is None:
            return
        with trio.CancelScope(shield=True), trio.move_on_after(JOIN_S):
            await self._call(self._client.close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            await trio.to_thread.run_sync(thread.join, JOIN_S)

    def _run_loop(self, up: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)

        async def make() -> AsyncClient:
            return AsyncClient(self._endpoints, **self._options)

        self._client = loop.run_until_complete(make())
        self._loop = loop
        up.set()
        loop.run_forever()
        loop.close()

    # --- crossing over

    async def _call(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        import trio

        if self._loop is None:
            raise ClientClosed("the client is used inside 'async with' only; nothing was sent")
        job = _Job(make, trio.Event())
        self._asked.append(job)
        if len(self._asked) == 1:
            self._loop.call_soon_threadsafe(self._begin)
        try:
            await job.event.wait()
        except trio.Cancelled:
            self._loop.call_soon_threadsafe(self._cancel, job)
            raise
        assert job.result is not None
        try:
            return job.result.unwrap()
        except OutcomeUnknown as unknown:
            raise unknown.bind(self) from unknown.__cause__

    def _begin(self) -> None:
        assert self._loop is not None
        while self._asked:
            job = self._asked.popleft()
            job.task = self._loop.create_task(self._carry_out(job))

    def _cancel(self, job: _Job) -> None:
        if job.task is not None:
            job.task.cancel()

    async def _carry_out(self, job: _Job) -> None:
        import outcome
        import trio

        job.result = await outcome.acapture(job.make)
        self._ended.append(job)
        if len(self._ended) == 1:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._finish)

    def _finish(self) -> None:
        while self._ended:
            self._ended.popleft().event.set()

    # --- the methods

    def __getattr__(self, name: str) -> Any:
        if name not in _CALLS:
            raise AttributeError(f"the client has no {name!r}")

        async def call(*arguments: Any, **options: Any) -> Any:
            return await self._call(lambda: getattr(self._client, name)(*arguments, **options))

        return call

    def _names(self, space: SpaceRef) -> Callable[[], Sequence[str]]:
        assert self._client is not None
        return self._client._names(space)

    def space(self, name: str | int) -> AsyncSpace:
        return AsyncSpace(self, name)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[Transaction]:
        transaction = Transaction()
        yield transaction
        if transaction.ops:
            transaction.result = await self.execute(transaction.ops, **options)

    def on_change(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """As `AsyncClient.on_change`; the callback runs in the trio thread."""
        assert self._loop is not None and self._client is not None
        loop, client = self._loop, self._client
        stops: list[Callable[[], None]] = []
        loop.call_soon_threadsafe(
            lambda: stops.append(client.on_change(lambda s: self._token.run_sync_soon(callback, s)))
        )

        def end() -> None:
            for stop in stops:
                stop()

        def end_soon() -> None:
            loop.call_soon_threadsafe(end)

        return end_soon


__all__ = ["TrioClient"]
