"""Carrying out plans in tasks of the callers: what asyncio and trio have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from synchro.client.api import Api
from synchro.client.errors import ClientClosed, OutcomeUnknown
from synchro.client.model import WatchState
from synchro.client.plans import Changes, LogIn, Plan, Plans, Step, Submit
from synchro.client.replies import TxnState
from synchro.client.requests import Message
from synchro.client.watching import TransactionWatch
from synchro.errors import SessionUnknown, SynchroError

T = TypeVar("T")
Turn: TypeAlias = AbstractAsyncContextManager[Any]
"""Held by one task at a time."""


class TaskStream(Protocol):
    """A stream of writes to one instance."""

    @property
    def is_open(self) -> bool: ...

    @property
    def is_full(self) -> bool: ...

    def submit(self, call: bytes, ops: int, deadline: float) -> Awaitable[Message]:
        """Send a call; what is returned is awaited at once. Raises `CannotConnect` if it takes none."""


class TaskLink(Protocol):
    """The connections to one instance."""

    @property
    def stream(self) -> TaskStream | None: ...


L = TypeVar("L", bound=TaskLink)


class TaskRunner(ABC, Generic[L]):
    """Carries out the plans of one client. See `AsyncClient`."""

    late_errors: ClassVar[tuple[type[Exception], ...]] = ()
    """What a library raises for calls on what was closed meanwhile."""

    def __init__(self, plans: Plans, face: Any) -> None:
        self.links: dict[str, L] = {}
        """By endpoint."""
        self._turns_to_log_in: dict[str, Turn] = {}
        """The same."""
        self.face = face
        """Who is asked again when an outcome is unknown."""
        self.closed = ""
        """Why it is; "" while it is not."""
        self._plans = plans

    @abstractmethod
    async def begin(self) -> None:
        """The client is used from here on."""

    @abstractmethod
    async def close(self, why: str) -> None:
        """Let go of every connection and of every task that waits. Idempotent. why: what calls are told."""

    @abstractmethod
    def become_inherited(self) -> list[Any]:
        """See `synchro.client.forks`."""

    @abstractmethod
    async def stream(self, endpoint: str) -> TaskStream:
        """One with room, or one that takes no calls and says why."""

    @abstractmethod
    async def carry_out(self, step: Step) -> Any:
        """Any step but `Submit`."""

    @abstractmethod
    def new_turn(self) -> Turn:
        """A lock for tasks."""

    async def log_in(self, step: LogIn) -> None:
        turn = self._turns_to_log_in.get(step.endpoint)
        if turn is None:
            turn = self._turns_to_log_in.setdefault(step.endpoint, self.new_turn())
        rounds = self._plans.logins.at(step.endpoint).rounds
        async with turn:
            await self.run(lambda _: self._plans.log_in(step, rounds), None, (), {})

    async def first_answer(self, endpoint: str, timeout_s: float) -> Message | SynchroError:
        """What the instance says of itself now, in a session if it needs one."""
        logins = self._plans.logins
        answer = await self._answer_in_session(endpoint, timeout_s)
        if logins.login is not None and isinstance(answer, SessionUnknown):
            answer = await self._answer_in_session(endpoint, timeout_s)
        return answer

    async def _answer_in_session(self, endpoint: str, timeout_s: float) -> Message | SynchroError:
        logins = self._plans.logins
        if logins.is_needed(endpoint):
            try:
                await self.log_in(LogIn(endpoint, timeout_s))
            except SynchroError as error:
                return error
        token = logins.at(endpoint).token
        answer = await self.ask_for_answer(endpoint, timeout_s)
        if isinstance(answer, SessionUnknown):
            logins.forget(endpoint, token)
        return answer

    @abstractmethod
    async def ask_for_answer(self, endpoint: str, timeout_s: float) -> Message | SynchroError:
        """The first message of a watch."""

    @abstractmethod
    def changes_at(self, place: str, changes: Changes[T]) -> AsyncGenerator[T, None]:
        """What the instance there says, now and at each change."""

    async def changes(self, where: Plan[str], changes: Changes[T]) -> AsyncGenerator[T, None]:
        """The same at the place that is found first."""
        place = await self.run(self._plans.place_with_session, where, (), {})
        async with aclosing(self.changes_at(place, changes)) as found:
            async for change in found:
                yield change

    async def watch_transaction(self, watch: TransactionWatch) -> AsyncGenerator[TxnState, None]:
        while not watch.is_over:
            place = await self._run(watch.where())
            try:
                async with aclosing(self.changes_at(place, watch.changes())) as states:
                    async for state in states:
                        if state is not None:
                            yield state
            except SynchroError as error:
                await self._run(watch.lost(error))
            else:
                await self._run(watch.ended())
        if (last := watch.last_word()) is not None:
            yield last

    async def _run(self, plan: Plan[T]) -> T:
        return await self.run(lambda _: plan, None, (), {})

    @abstractmethod
    def watch(self, api: Api, callback: Callable[[WatchState], None]) -> Callable[[], None]:
        """Call back with what whoever leads says, until the callback raises, or what is returned here is
        called."""

    @abstractmethod
    async def together(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        """What these return, which go on at the same time."""

    async def run(
        self,
        make: Callable[..., Plan[T]],
        api: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> T:
        """Carry out the plan that `make(api, *args, **kwargs)` makes."""
        links = self.links
        try:
            plan = make(api, *args, **kwargs)
            step = next(plan)
            while True:
                try:
                    if type(step) is Submit:
                        endpoint, call, ops, deadline = step
                        link = links.get(endpoint)
                        stream = link.stream if link is not None else None
                        if stream is None or not stream.is_open or stream.is_full:
                            stream = await self.stream(endpoint)
                        answer = await stream.submit(call, ops, deadline)
                    else:
                        answer = await self.carry_out(step)
                except SynchroError as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        except OutcomeUnknown as unknown:
            unknown.bind(self.face)
            raise
        except self.late_errors as error:
            if not self.closed:
                raise
            raise ClientClosed(self.closed) from error
