"""The two kinds of link that carry what peers say to each other. Rule [A-2].

`Transport` is the client side, `PeerEndpoint` the server side. `rpc/peer_transport.py` and
`rpc/peer_service.py` put gRPC between them; `synchro.testing` joins them inside one process for tests. Rows
are ordered and have no gaps on one stream; a Raft message may be replaced by a newer one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

from synchro.config import Settings
from synchro.ids import InstanceId
from synchro.replication.ballot import Ballot
from synchro.replication.read_barrier import ReadPosition
from synchro.server.peer_access import Asker
from synchro.server.peer_messages import (
    Accepted,
    Frame,
    Hello,
    JoinItem,
    JoinProgress,
    JoinRequest,
    PeerAck,
    ReadPositionRequest,
    RegisterRequest,
)

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

    def called_as(self, address: str) -> str:
        """Name of the user as whom the peer there is called."""
        ...

    async def log_in(self, address: str) -> bool:
        """As the peer there is called now, ahead of the next stream; one that is open goes on. False: not
        yet, the own set lacks the user. Raises `LinkLost`, or the `SynchroError` of the other side."""
        ...

    def join(self, address: str, request: JoinRequest) -> AbstractAsyncContextManager[JoinStream]: ...

    async def register(self, address: str, request: RegisterRequest) -> InstanceId:
        """Raises `LinkLost`, or the `SynchroError` of the other side."""
        ...

    async def read_position(self, address: str, request: ReadPositionRequest) -> ReadPosition:
        """Raises `LinkLost`, or the `SynchroError` of the other side."""
        ...

    def subscribe(self, address: str, hello: Hello) -> AbstractAsyncContextManager[Subscription]: ...


class PeerEndpoint(Protocol):
    """What an instance does for its peers."""

    @property
    def settings(self) -> Settings: ...

    def ballot(self) -> Ballot: ...

    def admit_joiner(
        self, asker: Asker, instance_uuid: str, instance_name: str, *, is_anonymous: bool = False
    ) -> None:
        """Raises `AccessDenied`, or `Loading`."""

    def admit_subscriber(self, asker: Asker, hello: Hello) -> object:
        """The same. Returns what the stream shows to `is_admitted` from then on."""

    def admit_reader(self, asker: Asker) -> None:
        """Raises `AccessDenied`, or `Loading`."""

    def is_admitted(self, shown: object) -> bool:
        """Whether nothing changed since in who may do what. False: ask again."""

    def serve_join(self, request: JoinRequest) -> AsyncGenerator[JoinItem]:
        """Raises `SynchroError`: the stream ends with it."""
        ...

    async def serve_register(self, request: RegisterRequest) -> InstanceId:
        """Raises `SynchroError`."""
        ...

    async def serve_read_position(self, request: ReadPositionRequest) -> ReadPosition:
        """Raises `SynchroError`."""
        ...

    async def serve_subscriber(self, hello: Hello, stream: RelayStream) -> None: ...
