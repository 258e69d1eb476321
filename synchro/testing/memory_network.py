"""Peers joined inside one process: a `Transport` without gRPC whose links a test can cut."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import trio

from synchro.config import NO_LOGIN
from synchro.errors import SynchroError
from synchro.ids import InstanceId
from synchro.replication.ballot import Ballot
from synchro.replication.read_barrier import ReadPosition
from synchro.server.peer_messages import (
    Accepted,
    Frame,
    Hello,
    JoinItem,
    JoinRequest,
    LinkLost,
    PeerAck,
    ReadPositionRequest,
    RegisterRequest,
)
from synchro.server.transport import JoinStream, PeerEndpoint, Subscription

T = TypeVar("T")
S = TypeVar("S")


class _Wire(Generic[T]):
    """One direction of a link: an unbounded queue and its end."""

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.error: Exception | None = None
        self.changed = trio.Event()

    def put(self, item: T) -> None:
        if self.error is None:
            self.items.append(item)
            self._wake()

    def close(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
            self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def get(self) -> T:
        await trio.lowlevel.checkpoint()
        while not self.items:
            if self.error is not None:
                raise self.error
            await self.changed.wait()
        return self.pop()

    def pop(self) -> T:
        self._wake()
        return self.items.popleft()


class _MemoryStream(Generic[T, S]):
    """Both wires seen from one end."""

    HIGH: Final = 64
    """Messages queued before `writable` is False."""

    def __init__(self, incoming: _Wire[T], outgoing: _Wire[S]) -> None:
        self._in = incoming
        self._out = outgoing

    async def receive(self) -> T:
        return await self._in.get()

    async def deliver(self, take: Callable[[T], None]) -> None:
        while True:
            take(await self._in.get())

    def send_nowait(self, item: S) -> None:
        self._out.put(item)

    @property
    def writable(self) -> bool:
        return len(self._out.items) < self.HIGH

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.writable and self._out.error is None:
            await self._out.changed.wait()

    async def wait_sent(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class MemoryNetwork:
    """Addresses, endpoints and broken links of one test."""

    nursery: trio.Nursery
    endpoints: dict[str, PeerEndpoint] = field(default_factory=dict)
    cuts: set[tuple[str, str]] = field(default_factory=set)
    """(from, to) pairs that cannot talk: `from` opens no streams to `to`."""
    _live: dict[int, tuple[str, str, trio.CancelScope]] = field(default_factory=dict)

    def transport(self, own_address: str) -> MemoryTransport:
        return MemoryTransport(self, own_address)

    def cut(self, a: str, b: str) -> None:
        """Both directions; live streams break."""
        self.cuts |= {(a, b), (b, a)}
        for source, target, scope in list(self._live.values()):
            if {source, target} == {a, b}:
                scope.cancel()

    def heal(self) -> None:
        self.cuts.clear()

    def find(self, source: str, target: str) -> PeerEndpoint:
        if (source, target) in self.cuts or target not in self.endpoints:
            raise LinkLost("can't connect to master", "connection refused")
        return self.endpoints[target]

    @asynccontextmanager
    async def session(
        self,
        source: str,
        target: str,
        run: Callable[[], Awaitable[None]],
        finish: Callable[[Exception], None],
    ) -> AsyncGenerator[None]:
        """Run the server side in a task of the network for as long as the block lasts."""
        scope = trio.CancelScope()
        done = trio.Event()
        self._live[id(scope)] = (source, target, scope)

        async def serve() -> None:
            error: Exception = LinkLost("unexpected EOF when reading from socket", "Broken pipe")
            try:
                with scope:
                    await run()
            except (SynchroError, LinkLost) as failure:
                error = failure
            finally:
                finish(error)
                done.set()

        self.nursery.start_soon(serve)
        try:
            yield
        finally:
            scope.cancel()
            del self._live[id(scope)]
            finish(LinkLost("unexpected EOF when reading from socket", "Broken pipe"))
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await done.wait()


class MemoryTransport:
    def __init__(self, network: MemoryNetwork, own_address: str) -> None:
        self._network = network
        self._own = own_address

    async def get_ballot(self, address: str) -> Ballot:
        await trio.lowlevel.checkpoint()
        return self._network.find(self._own, address).ballot()

    def called_as(self, address: str) -> str:
        return NO_LOGIN

    async def log_in(self, address: str) -> bool:
        """Nobody has a password here."""
        await trio.lowlevel.checkpoint()
        return True

    @asynccontextmanager
    async def join(self, address: str, request: JoinRequest) -> AsyncGenerator[JoinStream]:
        await trio.lowlevel.checkpoint()
        endpoint = self._network.find(self._own, address)
        wire: _Wire[JoinItem] = _Wire()
        stream: _MemoryStream[JoinItem, None] = _MemoryStream(wire, _Wire())

        async def run() -> None:
            async with aclosing(endpoint.serve_join(request)) as items:
                async for item in items:
                    await trio.lowlevel.checkpoint()
                    wire.put(item)

        async with self._network.session(self._own, address, run, wire.close):
            yield stream

    async def register(self, address: str, request: RegisterRequest) -> InstanceId:
        await trio.lowlevel.checkpoint()
        return await self._network.find(self._own, address).serve_register(request)

    async def read_position(self, address: str, request: ReadPositionRequest) -> ReadPosition:
        await trio.lowlevel.checkpoint()
        return await self._network.find(self._own, address).serve_read_position(request)

    @asynccontextmanager
    async def subscribe(self, address: str, hello: Hello) -> AsyncGenerator[Subscription]:
        await trio.lowlevel.checkpoint()
        endpoint = self._network.find(self._own, address)
        up: _Wire[PeerAck] = _Wire()
        down: _Wire[Accepted | Frame] = _Wire()
        server: _MemoryStream[PeerAck, Accepted | Frame] = _MemoryStream(up, down)
        client: _MemoryStream[Accepted | Frame, PeerAck] = _MemoryStream(down, up)

        async def run() -> None:
            await endpoint.serve_subscriber(hello, server)

        def finish(error: Exception) -> None:
            up.close(error)
            down.close(error)

        async with self._network.session(self._own, address, run, finish):
            yield client
