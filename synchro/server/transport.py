"""What peers say to each other, as values, and the two kinds of link that carry it. Rules [A-2].

`Transport` is the client side, `PeerEndpoint` the server side. `rpc/transport.py` and `rpc/peer_service.py`
put gRPC between them; `MemoryNetwork` joins them inside one process for tests. Rows are ordered and have no
gaps on one stream; a Raft message may be replaced by a newer one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeAlias, TypeVar

import trio

from synchro.errors import SynchroError
from synchro.ids import INITIAL_TERM, NOBODY, InstanceId, Term
from synchro.instance.events import Ack
from synchro.raft.messages import RaftMessage
from synchro.vclock import EMPTY_VCLOCK, Vclock

if TYPE_CHECKING:
    from synchro.config import Settings

PROTOCOL_VERSION: Final = 1


class LinkLost(Exception):
    """The connection broke, was refused, or was silent for too long: worth another try [A-40].

    system: what the operating system or gRPC said; `upstream.system_message`."""

    def __init__(self, message: str, system: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.system = system


# --- messages -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ballot:
    """What an instance tells everyone about itself before they trust each other [M-7]."""

    instance_uuid: str
    instance_name: str
    replicaset_uuid: str = ""
    """Empty until it is known."""
    instance_id: InstanceId = NOBODY
    is_booted: bool = False
    is_ro_cfg: bool = False
    is_ro: bool = True
    can_lead: bool = False
    vclock: Vclock = EMPTY_VCLOCK
    gc_vclock: Vclock = EMPTY_VCLOCK
    """The oldest vclock whose rows can still be sent."""
    bootstrap_leader_uuid: str = ""
    """Whom this instance chose to bootstrap the set; empty: nobody yet."""
    registered_uuids: frozenset[str] = frozenset()
    queue_owner: InstanceId = NOBODY
    term: Term = INITIAL_TERM
    start_id: str = ""
    address: str = ""
    """Both as in `Hello`."""


@dataclass(frozen=True, slots=True)
class JoinRequest:
    instance_uuid: str
    instance_name: str
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class JoinStart:
    """Stage 1 begins: the view is the committed prefix at `vclock` [M-21]. meta: as in a snapshot file."""

    vclock: Vclock
    replicaset_uuid: str
    meta: bytes


@dataclass(frozen=True, slots=True)
class JoinChunk:
    """Tuples of one space, at most 1 MiB unless one is larger. crc: CRC32C of `data`."""

    space_id: int
    data: bytes
    crc: int


@dataclass(frozen=True, slots=True)
class JoinSnapshotEnd:
    """All of stage 1 was sent: what the joiner must have counted.

    checksum: CRC32C over the CRCs of all chunks, each as 4 bytes, little end first, in order."""

    count: int
    checksum: int


@dataclass(frozen=True, slots=True)
class JoinRows:
    """Stage 2: a run of whole transactions."""

    rows: bytes
    crc: int


@dataclass(frozen=True, slots=True)
class JoinEnd:
    """The joiner is registered as `id`, and has the log up to `vclock` [M-23]."""

    vclock: Vclock
    id: InstanceId


@dataclass(frozen=True, slots=True)
class JoinProgress:
    """A part of the next item came: a sign of life. Never sent as such."""


JoinItem: TypeAlias = JoinStart | JoinChunk | JoinSnapshotEnd | JoinRows | JoinEnd


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a subscriber; its vclock counts as its first ack [M-32]."""

    replicaset_uuid: str
    instance_uuid: str
    name: str
    vclock: Vclock
    term: Term
    credit: int
    id_filter: frozenset[InstanceId] = frozenset()
    counts: bool = True
    protocol_version: int = PROTOCOL_VERSION
    start_id: str = ""
    """Of this life of the process (ADR 23); "": an older version."""
    address: str = ""
    """host:port at which it listens; "": an older version."""
    takes_parts: bool = False
    """It puts transactions together that were cut, and says how many bytes came (ADR 20)."""


@dataclass(frozen=True, slots=True)
class PeerAck:
    """What the subscriber says after its Hello. tm: wall time (s) at the relay of the newest block that
    is written now, 0 = unknown [A-26]. credit: bytes that may be sent beyond this ack. following: whose
    rows it gets from themselves. received: bytes of rows that came on this stream, on disk or not."""

    ack: Ack
    credit: int
    tm: float = 0.0
    following: frozenset[InstanceId] = frozenset()
    received: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """First answer of a relay. last_ack: what it remembers that the subscriber acked [M-33], S14."""

    id: InstanceId
    vclock: Vclock
    replicaset_uuid: str
    last_ack: Vclock
    term: Term
    instance_uuid: str
    instance_name: str
    start_id: str = ""
    address: str = ""
    """Both as in `Hello`."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """vclock: written vclock of the sender; tm: its wall time, 0 if rows were sent since the last [A-25]."""

    vclock_sync: int
    tm: float
    vclock: Vclock


@dataclass(frozen=True, slots=True)
class Frame:
    """The receiver handles term, then raft, then rows, then heartbeat."""

    term: Term
    raft: RaftMessage | None = None
    rows: bytes = b""
    rows_crc: int = 0
    heartbeat: Heartbeat | None = None
    tm: float = 0.0
    """Wall time of the newest block in `rows`; 0 without rows."""
    rows_continue: bool = False
    """The transaction in `rows` goes on in the next frame that has rows."""
    wants_receipt: bool = False
    """An ack shall say at once how many bytes of rows came."""


# --- links ----------------------------------------------------------------------------------------------

In = TypeVar("In", covariant=True)
Out = TypeVar("Out", contravariant=True)
T = TypeVar("T")
S = TypeVar("S")


class PeerStream(Protocol[In, Out]):
    """One end of a two-way stream. Owned by the scope that opened it."""

    async def receive(self) -> In:
        """The next message. Raises `LinkLost`, or the `SynchroError` with which the other side ended it."""
        ...

    async def deliver(self, take: Callable[[In], None]) -> None:
        """Give every further message to `take` as it arrives, outside of any task, until the stream ends.

        Raises what `receive` would, or the `SynchroError` or `LinkLost` of a `take` that failed.
        """
        ...

    def send_nowait(self, item: Out, /) -> None: ...

    @property
    def writable(self) -> bool:
        """False while too much waits to be sent."""
        ...

    async def wait_writable(self) -> None: ...

    async def wait_sent(self) -> None:
        """Until nothing waits to be sent, or the stream is over."""
        ...


class JoinStream(Protocol):
    async def receive(self) -> JoinItem | JoinProgress: ...


Subscription: TypeAlias = PeerStream[Accepted | Frame, PeerAck]
RelayStream: TypeAlias = PeerStream[PeerAck, Accepted | Frame]


class Transport(Protocol):
    async def get_ballot(self, address: str) -> Ballot:
        """Raises `LinkLost`."""
        ...

    def join(self, address: str, request: JoinRequest) -> AbstractAsyncContextManager[JoinStream]: ...

    def subscribe(self, address: str, hello: Hello) -> AbstractAsyncContextManager[Subscription]: ...


class PeerEndpoint(Protocol):
    """What an instance does for its peers."""

    @property
    def settings(self) -> Settings: ...

    def ballot(self) -> Ballot: ...

    def serve_join(self, request: JoinRequest) -> AsyncGenerator[JoinItem]:
        """Raises `SynchroError`: the stream ends with it."""
        ...

    async def serve_subscriber(self, hello: Hello, stream: RelayStream) -> None: ...


# --- in memory ------------------------------------------------------------------------------------------


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
