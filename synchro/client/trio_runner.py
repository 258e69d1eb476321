"""Carrying out plans in trio, on our own channels: no thread, no asyncio, no grpcio."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import cache, partial
from typing import Any, Final, TypeVar

import trio
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from synchro.client import forks
from synchro.client.api import POLL_S, Api
from synchro.client.channel import CONNECT_S, KEEPALIVE_AFTER_S, KEEPALIVE_TIMEOUT_S, PROBE_S
from synchro.client.data_stream import WIRE_LIMITS
from synchro.client.errors import ClientClosed, ConnectionLost, of_rpc_error
from synchro.client.model import WatchState
from synchro.client.plans import (
    WATCH_INFO,
    Answers,
    Changes,
    EndTalk,
    LogIn,
    OpenTalk,
    Pause,
    Plans,
    Probe,
    Say,
    Step,
    Submit,
    Unary,
)
from synchro.client.requests import Message
from synchro.client.task_runner import TaskRunner, Turn
from synchro.client.trio_stream import TrioStream
from synchro.errors import SynchroError
from synchro.rpc.channel import ReplyStream, RpcChannel, TalkStream
from synchro.rpc.generated.v1 import auth_pb2, cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2
from synchro.wire.failure import CallFailed, CallNotBegun
from synchro.wire.grpc_call import StatusCode
from synchro.wire.io import plain_client
from synchro.wire.link import Keepalive
from synchro.wire.turns import Turns, open_helper_nursery, open_turns

T = TypeVar("T")
END_S: Final = 5.0
"""Seconds that closing waits for tasks which were all told to end."""
NOT_BEGUN: Final = "the client is used inside 'async with' only; nothing was sent"
_SERVICES: Final = {
    name: module.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]
    for name, module in (
        ("auth", auth_pb2),
        ("cluster", cluster_pb2),
        ("control", control_pb2),
        ("data", data_pb2),
        ("info", info_pb2),
        ("schema", schema_pb2),
    )
}

log = logging.getLogger(__name__)


class TrioRunner(TaskRunner["_Link"]):
    """Carries out the plans of one client, in the tasks of its callers.

    What no caller waits for goes on in a system task of trio: connections, probes that several callers share,
    watches. So a client may be entered and left in any task and in any order, which a nursery in `async with`
    would forbid, and its life depends on no scope of whoever happened to enter it.
    """

    def __init__(self, plans: Plans, face: Any) -> None:
        super().__init__(plans, face)
        self._probes: dict[Probe, _Asking] = {}
        self._turns: Turns | None = None
        self._nursery: trio.Nursery | None = None
        self._over = trio.Event()
        """Set when it is closed."""
        self._ended: trio.Event | None = None
        """Set when the system task has ended; None: there is none."""

    def new_turn(self) -> Turn:
        return trio.Lock()

    # --- life

    async def begin(self) -> None:
        if self._ended is not None or self.closed:
            return
        self._ended = trio.Event()
        begun = trio.Event()
        trio.lowlevel.spawn_system_task(self._live, begun, self._ended, name=f"{__name__}.{id(self):x}")
        with trio.CancelScope(shield=True):
            await begun.wait()

    async def _live(self, begun: trio.Event, ended: trio.Event) -> None:
        try:
            async with open_turns() as turns, open_helper_nursery() as nursery:
                self._turns, self._nursery = turns, nursery
                begun.set()
                try:
                    await self._over.wait()
                finally:
                    self._let_go()
                    nursery.cancel_scope.cancel()
        except Exception as error:
            log.exception("the client failed; it is closed")
            self.closed = self.closed or f"the client failed: {error!r}; nothing was sent"
        finally:
            self._over.set()
            begun.set()
            ended.set()

    async def close(self, why: str) -> None:
        self.closed = self.closed or why
        self._over.set()
        self._let_go()
        if self._ended is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(END_S):
                await self._ended.wait()

    def _let_go(self) -> None:
        """Every call hears that its connection is closed."""
        self._nursery = None
        links, self.links = list(self.links.values()), {}
        for link in links:
            link.close()

    def become_inherited(self) -> list[Any]:
        self.closed = forks.INHERITED
        links, self.links = self.links, {}
        kept = [links, self._probes, self._turns, self._nursery]
        self._probes, self._turns, self._nursery, self._ended = {}, None, None, None
        return kept

    def link(self, endpoint: str) -> _Link:
        link = self.links.get(endpoint)
        if link is None:
            nursery = self._life()
            assert self._turns is not None
            link = _Link(self._turns, nursery, endpoint, self._plans)
            self.links[endpoint] = link
        return link

    def _life(self) -> trio.Nursery:
        if self._nursery is None:
            raise ClientClosed(self.closed or NOT_BEGUN)
        return self._nursery

    # --- steps

    async def stream(self, endpoint: str) -> TrioStream:
        stream = self.link(endpoint).newest(self._life())
        if stream.is_full:
            await stream.wait_room()
        return stream

    async def carry_out(self, step: Step) -> Any:
        match step:
            case Submit():
                raise AssertionError
            case Unary():
                return await self._unary(step)
            case LogIn():
                return await self.log_in(step)
            case Probe():
                return await self._probe(step)
            case Pause():
                with trio.move_on_after(step.seconds):
                    await self._over.wait()
                return None
            case OpenTalk(endpoint, request, timeout_s):
                path, reply = _method("data", "Transact")
                stream = self.link(endpoint).channel.talk(
                    path,
                    serializer=_encode,
                    deserializer=reply,
                    metadata=self._plans.logins.metadata(endpoint),
                )
                talk = _Talk(stream, endpoint)
                try:
                    return talk, await talk.say(request, timeout_s)
                except BaseException:
                    talk.end()
                    raise
            case Say(talk, request, timeout_s):
                if self.closed:
                    raise ClientClosed(self.closed)
                return await talk.say(request, timeout_s)
            case EndTalk(talk):
                if not self.closed:
                    talk.end()
                return None

    async def _unary(self, step: Unary) -> Message:
        path, reply = _method(step.service, step.method)
        try:
            return await self.link(step.endpoint).channel.unary(
                path,
                step.request,
                serializer=_encode,
                deserializer=reply,
                timeout=step.timeout_s,
                metadata=self._plans.logins.metadata(step.endpoint),
            )
        except CallFailed as failure:
            if self.closed and isinstance(failure, CallNotBegun):
                raise ClientClosed(self.closed) from None
            raise of_rpc_error(failure, step.endpoint) from None

    async def _probe(self, probe: Probe) -> Answers:
        """Tasks that ask the same at the same time share the answers."""
        asking = self._probes.get(probe)
        if asking is None:
            nursery = self._life()
            asking = self._probes[probe] = _Asking()
            nursery.start_soon(self._ask, probe, asking)
        await asking.ended.wait()
        if asking.answers is None:
            raise asking.error or ClientClosed(self.closed)
        return asking.answers

    async def _ask(self, probe: Probe, asking: _Asking) -> None:
        try:
            asking.answers = await self._answers(probe)
        except Exception as error:  # noqa: BLE001 - those who asked get it
            asking.error = error
        finally:
            self._probes.pop(probe, None)
            asking.ended.set()

    async def _answers(self, probe: Probe) -> Answers:
        answers = Answers(probe, time.monotonic())
        changed = trio.Event()

        async def ask(endpoint: str) -> None:
            answer = await self.first_answer(endpoint, probe.timeout_s)
            answers.add(endpoint, answer, time.monotonic())
            changed.set()

        async with trio.open_nursery() as nursery:
            for endpoint in probe.endpoints:
                nursery.start_soon(ask, endpoint)
            while not answers.is_over and (left_s := answers.until - time.monotonic()) > 0:
                with trio.move_on_after(left_s):
                    await changed.wait()
                changed = trio.Event()
            nursery.cancel_scope.cancel()
        answers.close()
        return answers

    async def ask_for_answer(self, endpoint: str, timeout_s: float) -> Message | SynchroError:
        try:
            async with self._stream(endpoint, WATCH_INFO, timeout_s) as replies:
                async for answer in replies:
                    return answer
            return ConnectionLost(f"{endpoint} said nothing", endpoint=endpoint)
        except CallFailed as failure:
            return of_rpc_error(failure, endpoint)
        except SynchroError as error:
            return error

    def _stream(self, endpoint: str, changes: Changes[Any], timeout_s: float | None = None) -> ReplyStream:
        path, reply = _method(changes.service, changes.method)
        return self.link(endpoint).channel.server_stream(
            path,
            changes.request,
            serializer=_encode,
            deserializer=reply,
            timeout=timeout_s,
            metadata=self._plans.logins.metadata(endpoint),
        )

    # --- changes

    async def changes_at(self, place: str, changes: Changes[T]) -> AsyncGenerator[T, None]:
        try:
            async with self._stream(place, changes, changes.timeout_s) as replies:
                async for message in replies:
                    self._plans.on_header(message.header, place)
                    yield changes.value(message)
        except CallFailed as failure:
            raise of_rpc_error(failure, place) from None

    def watch(self, api: Api, callback: Callable[[WatchState], None]) -> Callable[[], None]:
        scope = trio.CancelScope()
        self._life().start_soon(self._follow, api, callback, scope)
        return scope.cancel

    async def _follow(
        self, api: Api, callback: Callable[[WatchState], None], scope: trio.CancelScope
    ) -> None:
        with scope:
            while True:
                with contextlib.suppress(SynchroError):
                    where = api.most_informed(timeout=PROBE_S)
                    async with contextlib.aclosing(self.changes(where, WATCH_INFO)) as states:
                        async for state in states:
                            try:
                                callback(state)
                            except Exception:
                                log.exception("a callback of on_change failed; it is called no more")
                                return
                with self._plans.lock:
                    self._plans.routes.leader = None
                await trio.sleep(POLL_S)

    async def together(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        results: dict[int, T] = {}

        async def one(number: int, call: Callable[[], Awaitable[T]]) -> None:
            results[number] = await call()

        async with trio.open_nursery() as nursery:
            for number, call in enumerate(calls):
                nursery.start_soon(one, number, call)
        return [results[number] for number in range(len(calls))]


class _Asking:
    """A probe that is under way."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.answers: Answers | None = None
        self.error: Exception | None = None


class _Talk:
    """An open transaction."""

    def __init__(self, stream: TalkStream, endpoint: str) -> None:
        self._stream = stream
        self._endpoint = endpoint

    async def say(self, request: Message, timeout_s: float) -> Message:
        """Raises the error that ended the call, and `ConnectionLost` if no answer comes in time."""
        try:
            with trio.move_on_after(timeout_s):
                return await self._stream.say(request)
        except CallFailed as failure:
            raise of_rpc_error(failure, self._endpoint) from None
        self.end()
        raise ConnectionLost(f"no answer from {self._endpoint} in time", endpoint=self._endpoint)

    def end(self) -> None:
        """Cancel the call if it goes on. Idempotent."""
        self._stream.close()


class _Link:
    def __init__(self, turns: Turns, nursery: trio.Nursery, endpoint: str, plans: Plans) -> None:
        self.channel = RpcChannel(
            turns,
            nursery,
            endpoint,
            limits=WIRE_LIMITS,
            keepalive=Keepalive(after_s=KEEPALIVE_AFTER_S, timeout_s=KEEPALIVE_TIMEOUT_S),
            connect_s=CONNECT_S,
            layer=plain_client if plans.options.security is None else plans.options.security.layer,
        )
        self.stream: TrioStream | None = None
        """The newest: at most one takes calls."""
        self._replaced: list[TrioStream] = []
        """Those that wait for answers."""
        self._turns = turns
        self._plans = plans

    def newest(self, nursery: trio.Nursery) -> TrioStream:
        """One that takes calls, unless its connection fails."""
        stream = self.stream
        if stream is None or not stream.is_open:
            if stream is not None:
                self._replaced = [old for old in (*self._replaced, stream) if not old.is_over]
            plans = self._plans
            stream = TrioStream(
                self._turns,
                nursery,
                self.channel,
                plans.options.timeout,
                plans.on_replies,
                plans.session,
                partial(plans.logins.metadata, self.channel.address),
                plans.is_claimed,
            )
            self.stream = stream
        return stream

    def close(self) -> None:
        for stream in (*self._replaced, *([self.stream] if self.stream is not None else [])):
            stream.close()
        self.channel.close()


# --- methods of the services ----------------------------------------------------------------------------


@cache
def _method(service: str, name: str) -> tuple[str, Callable[[bytes], Message]]:
    """Its path, and what makes its reply of bytes."""
    descriptor = _SERVICES[service]
    reply = GetMessageClass(descriptor.methods_by_name[name].output_type)

    def decode(data: bytes) -> Message:
        try:
            return reply.FromString(data)
        except DecodeError as error:
            raise CallFailed(StatusCode.INTERNAL, "the answer cannot be decoded") from error

    return f"/{descriptor.full_name}/{name}", decode


def _encode(message: Message) -> bytes:
    return bytes(message.SerializeToString())


__all__ = ["TrioRunner"]
