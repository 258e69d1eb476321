"""`PeerStream.deliver` on both kinds of link: order, what `take` raises, the end of the stream."""

# ruff: noqa: PT012 - a stream's errors come out of its block

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from synchro.config import PeerLogin
from synchro.errors import ProtocolVersion, RemoteProtocolError, SynchroError
from synchro.ids import InstanceId, Lsn, Term
from synchro.instance.events import Ack
from synchro.raft.messages import RaftMessage, Role
from synchro.replication.ballot import Ballot
from synchro.rpc import peer_service, status
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.rpc.host import open_rpc_host
from synchro.rpc.peer_transport import SERVICE, open_grpc_transport
from synchro.secret import Secret
from synchro.server.peer_access import Asker
from synchro.server.peer_messages import Accepted, Frame, Heartbeat, Hello, LinkLost, PeerAck
from synchro.server.transport import RelayStream, Transport
from synchro.testing.memory_network import MemoryNetwork
from synchro.vclock import EMPTY_VCLOCK, Vclock
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode

Serve = Callable[[RelayStream], Awaitable[None]]

HELLO = Hello("set", "subscriber", "subscriber", EMPTY_VCLOCK, Term(1), credit=1 << 20)
ACCEPTED = Accepted(InstanceId(1), EMPTY_VCLOCK, "set", EMPTY_VCLOCK, Term(1), "relay", "relay")


class Endpoint:
    """Serves subscribers with a function, and nothing else."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve

    def ballot(self) -> Ballot:
        raise NotImplementedError

    def admit_subscriber(self, asker: Asker, hello: Hello) -> object:
        return None

    def is_admitted(self, shown: object) -> bool:
        return True

    serve_join = None

    async def serve_subscriber(self, hello: Hello, stream: RelayStream) -> None:
        stream.send_nowait(ACCEPTED)
        await self._serve(stream)


@asynccontextmanager
async def linked(kind: str, serve: Serve) -> AsyncIterator[tuple[Transport, str]]:
    """(how to reach it, its address)"""
    endpoint = Endpoint(serve)
    if kind == "memory":
        async with trio.open_nursery() as nursery:
            network = MemoryNetwork(nursery, endpoints={"relay": endpoint})  # type: ignore[dict-item]
            yield network.transport("subscriber"), "relay"
            nursery.cancel_scope.cancel()
    else:
        async with open_rpc_host() as host:
            server = await host.serve(
                "127.0.0.1:0",
                lambda s: peer_service.register(s, host, endpoint),  # type: ignore[arg-type]
            )
            async with open_grpc_transport(host, "subscriber") as transport:
                yield transport, server.address


def frame(number: int) -> Frame:
    return Frame(Term(1), rows=b"%d" % number, rows_crc=number)


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_messages_come_in_order_until_the_stream_ends(kind: str) -> None:
    async def serve(stream: RelayStream) -> None:
        for number in range(100):
            stream.send_nowait(frame(number))
        await stream.receive()  # all are there: what is on its way when a link is cut may be lost
        raise LinkLost("the subscription was cut")

    seen: list[Accepted | Frame] = []
    with trio.fail_after(20):
        async with linked(kind, serve) as (transport, address):
            with pytest.raises(LinkLost):
                async with transport.subscribe(address, HELLO) as stream:

                    def take(message: Accepted | Frame) -> None:
                        seen.append(message)
                        if len(seen) == 100:
                            stream.send_nowait(PeerAck(Ack(EMPTY_VCLOCK, Term(1)), credit=1))

                    assert await stream.receive() == ACCEPTED
                    await trio.sleep(0.02)  # some are here already: they come first
                    await stream.deliver(take)
    assert seen == [frame(number) for number in range(100)]


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
@pytest.mark.parametrize("method", ["Join", "Subscribe"])
async def test_another_version_of_the_protocol_is_refused_by_its_name(method: str, version: int) -> None:
    """Nothing of ours failed, so INTERNAL would be wrong: whoever asks reads both versions."""
    ends: dict[str, Any] = {"Join": pb.JoinRequest, "Subscribe": pb.SubscribeRequest}
    request: Any = pb.JoinRequest(protocol_version=version, instance_uuid="joiner")
    if method == "Subscribe":
        request = pb.SubscribeRequest(hello=pb.Hello(protocol_version=version))

    async def serve(stream: RelayStream) -> None:
        raise AssertionError("it was let in")

    with trio.fail_after(20):
        async with open_rpc_host() as host:
            endpoint = Endpoint(serve)
            server = await host.serve(
                "127.0.0.1:0",
                lambda s: peer_service.register(s, host, endpoint),  # type: ignore[arg-type]
            )
            async with host.channel(server.address) as channel:
                with pytest.raises(CallFailed) as refused:
                    async with channel.duplex(
                        SERVICE + method,
                        serializer=ends[method].SerializeToString,
                        deserializer=lambda data: data,
                    ) as stream:
                        stream.send_nowait(request)
                        await stream.receive()
    assert refused.value.code is StatusCode.FAILED_PRECONDITION
    error = status.from_rpc_error(refused.value)
    assert isinstance(error, ProtocolVersion)
    assert error.message == (
        f"peer protocol version {version} is not supported, this instance speaks 1; nothing was done"
    )
    assert (error.details["version"], error.details["supported"]) == (str(version), "1")


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_an_error_of_the_subscriber_comes_out_as_it_is(kind: str) -> None:
    """[A-40]: who follows tells kinds of errors apart; after one nothing more is taken."""

    async def serve(stream: RelayStream) -> None:
        for number in range(10):
            stream.send_nowait(frame(number))
        await trio.sleep_forever()

    seen: list[Accepted | Frame] = []

    def take(message: Accepted | Frame) -> None:
        seen.append(message)
        if len(seen) == 3:
            raise RemoteProtocolError("made up")

    with trio.fail_after(20):
        async with linked(kind, serve) as (transport, address):
            with pytest.raises(RemoteProtocolError, match="made up"):
                async with transport.subscribe(address, HELLO) as stream:
                    await stream.receive()
                    await stream.deliver(take)
    assert seen == [frame(number) for number in range(3)]


@pytest.mark.parametrize("kind", ["memory", "grpc"])
async def test_an_error_of_the_relay_is_told_to_the_subscriber(kind: str) -> None:
    def refuse(ack: PeerAck) -> None:
        raise RemoteProtocolError("made up")

    async def serve(stream: RelayStream) -> None:
        await stream.deliver(refuse)

    with trio.fail_after(20):
        async with linked(kind, serve) as (transport, address):
            with pytest.raises(SynchroError, match="made up"):
                async with transport.subscribe(address, HELLO) as stream:
                    await stream.receive()
                    stream.send_nowait(PeerAck(Ack(EMPTY_VCLOCK, Term(1)), credit=1))
                    await stream.deliver(lambda _: None)


@pytest.mark.parametrize(
    "hello",
    [
        replace(HELLO, term=Term(2**64 - 1)),
        replace(HELLO, vclock=Vclock({InstanceId(1): Lsn(2**62)})),
        replace(HELLO, id_filter=frozenset({InstanceId(77)})),
    ],
)
async def test_a_hello_with_impossible_numbers_ends_its_stream(hello: Hello) -> None:
    """Named, and before anything is done with it."""

    async def serve(_stream: RelayStream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with linked("grpc", serve) as (transport, address):
            with pytest.raises(RemoteProtocolError, match="its message was dropped"):
                async with transport.subscribe(address, hello) as stream:
                    await stream.receive()


@pytest.mark.parametrize(
    "bad",
    [
        Frame(Term(2**62)),
        Frame(Term(1), heartbeat=Heartbeat(2**64 - 1, 0.0, EMPTY_VCLOCK)),
        Frame(Term(1), heartbeat=Heartbeat(1, math.nan, EMPTY_VCLOCK)),
        Frame(Term(1), raft=RaftMessage(Term(1), InstanceId(99), Role.FOLLOWER, InstanceId(0), False)),
    ],
)
async def test_a_frame_with_impossible_numbers_ends_its_stream(bad: Frame) -> None:
    async def serve(stream: RelayStream) -> None:
        stream.send_nowait(bad)
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with linked("grpc", serve) as (transport, address):
            with pytest.raises(RemoteProtocolError, match="its message was dropped"):
                async with transport.subscribe(address, HELLO) as stream:
                    await stream.receive()
                    await stream.deliver(lambda _: None)


async def test_a_former_version_without_logins_is_called_without_one() -> None:
    """A peer that knows no `Login` asks nobody who he is."""
    login = PeerLogin("replicator", Secret("topsecret"))

    async def serve(stream: RelayStream) -> None:
        await trio.sleep_forever()

    endpoint = Endpoint(serve)
    async with open_rpc_host() as host:
        server = await host.serve(
            "127.0.0.1:0",
            lambda s: peer_service.register(s, host, endpoint),  # type: ignore[arg-type]
        )
        told: list[tuple[str, str]] = []
        async with (
            open_grpc_transport(
                host,
                "subscriber",
                login_at=lambda _: login,
                on_login=lambda address, user: told.append((address, user)),
            ) as transport,
            transport.subscribe(server.address, HELLO) as stream,
        ):
            assert await stream.receive() == ACCEPTED
        assert not told, "it was not authenticated, so nobody says so"
