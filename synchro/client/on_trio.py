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
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from synchro.client.aio import AsyncClient
from synchro.client.errors import ClientClosed
from synchro.client.model import WatchState
from synchro.client.plans import ClientOptions, Plan
from synchro.errors import SynchroError

if TYPE_CHECKING:
    import outcome
    import trio

T = TypeVar("T")
JOIN_S: Final = 5.0


class _Job:
    """One call, seen from both sides."""

    __slots__ = ("event", "make", "result", "task")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Any]], event: trio.Event) -> None:
        self.make = make
        self.event = event
        self.result: outcome.Outcome[Any] | None = None
        self.task: asyncio.Task[None] | None = None


class TrioClient(AsyncClient):
    """`AsyncClient` for trio tasks. Belongs to one trio run, and is used inside `async with` only."""

    def __init__(self, endpoints: Sequence[str], options: ClientOptions) -> None:
        import trio

        super().__init__(endpoints, options)
        self._run = self._run_there
        self._token = trio.lowlevel.current_trio_token()
        self._asked: deque[_Job] = deque()
        self._ended: deque[_Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        """Of the loop: calls that were begun and have not ended."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # --- life

    async def __aenter__(self) -> Self:
        import trio

        up = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, args=(up,), name="synchro-aio", daemon=True)
        self._thread.start()
        await trio.to_thread.run_sync(up.wait)
        return self

    async def close(self) -> None:
        """Cancel streams and watches, close connections, end the thread. Waiting writes raise
        `OutcomeUnknown`."""
        import trio

        thread, self._thread = self._thread, None
        loop, self._loop = self._loop, None  # no call is begun from here on
        if thread is None or loop is None:
            return
        with trio.CancelScope(shield=True), trio.move_on_after(JOIN_S):
            await self._cross_to(loop, self._close_there)
            loop.call_soon_threadsafe(loop.stop)
            await trio.to_thread.run_sync(thread.join, JOIN_S)

    async def _close_there(self) -> None:
        """Every call hears of it before the loop ends: nobody would wake its task any more."""
        await super().close()
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    def become_inherited(self) -> list[Any]:
        thread, self._thread = self._thread, None
        loop, self._loop = self._loop, None
        return [thread, loop, *super().become_inherited()]

    def _run_loop(self, up: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        loop.call_soon(up.set)
        loop.run_forever()
        loop.close()

    # --- crossing over

    async def _run_there(
        self, make: Callable[..., Plan[T]], api: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        result: T = await self._cross(lambda: self._runner.run(make, api, args, kwargs))
        return result

    async def _cross(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if self._loop is None:
            raise ClientClosed(
                self._runner.closed or "the client is used inside 'async with' only; nothing was sent"
            )
        return await self._cross_to(self._loop, make)

    async def _cross_to(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Any:
        import trio

        job = _Job(make, trio.Event())
        self._asked.append(job)
        if len(self._asked) == 1:
            loop.call_soon_threadsafe(self._begin)
        try:
            await job.event.wait()
        except trio.Cancelled:
            with contextlib.suppress(RuntimeError):  # the loop is over, and the call with it
                loop.call_soon_threadsafe(self._cancel, job)
            raise
        assert job.result is not None
        return job.result.unwrap()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._asked:
            job = self._asked.popleft()
            job.task = task = loop.create_task(self._carry_out(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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

    # --- what is more than one call

    async def _together(self, plans: Sequence[Plan[T]]) -> list[T | SynchroError]:
        import trio

        outcomes: dict[int, T | SynchroError] = {}

        async def one(number: int, plan: Plan[T]) -> None:
            outcomes[number] = await self._outcome(plan)

        async with trio.open_nursery() as nursery:
            for number, plan in enumerate(plans):
                nursery.start_soon(one, number, plan)
        return [outcomes[number] for number in range(len(plans))]

    def on_change(self, callback: Callable[[WatchState], None]) -> Callable[[], None]:
        """As `AsyncClient.on_change`; the callback runs in the trio thread."""
        if self._loop is None:
            raise ClientClosed("the client is used inside 'async with' only; nothing was sent")
        loop, watch = self._loop, super().on_change
        stops: list[Callable[[], None]] = []
        loop.call_soon_threadsafe(
            lambda: stops.append(watch(lambda state: self._token.run_sync_soon(callback, state)))
        )

        def end() -> None:
            for stop in stops:
                stop()

        def end_soon() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is over, and the watch with it
                loop.call_soon_threadsafe(end)

        return end_soon

    async def watch_info(self, instance: str | None = None) -> AsyncIterator[WatchState]:
        """As `AsyncClient.watch_info`."""
        import trio

        states = cast(
            "AsyncGenerator[WatchState, None]", self._runner.states(self._api.watch_place(instance))
        )
        try:
            while (state := await self._cross(lambda: _next(states))) is not None:
                yield state
        finally:
            with (
                contextlib.suppress(ClientClosed),
                trio.CancelScope(shield=True),
                trio.move_on_after(JOIN_S),
            ):
                await self._cross(lambda: _end(states))


async def _next(states: AsyncGenerator[WatchState, None]) -> WatchState | None:
    return await anext(states, None)


async def _end(states: AsyncGenerator[WatchState, None]) -> None:
    await states.aclose()


__all__ = ["TrioClient"]
