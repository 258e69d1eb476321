"""`Transport` over gRPC: the calling side of synchro.peer.v1, and the coding of its messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Generic, TypeAlias, TypeVar

import trio
from google.protobuf.message import DecodeError

from synchro.config import PeerLogin
from synchro.errors import AccessDenied, RemoteProtocolError, SessionEnded, SessionUnknown, SynchroError
from synchro.ids import InstanceId
from synchro.replication.ballot import Ballot
from synchro.replication.read_barrier import ReadPosition
from synchro.rpc import codec, peer_codec, status
from synchro.rpc.channel import RpcChannel
from synchro.rpc.duplex import LIMITS, Duplex
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.rpc.host import RpcHost
from synchro.rpc.join_stream import JoinReceiver
from synchro.rpc.peer_login import PeerSessions
from synchro.server.peer_messages import (
    PROTOCOL_VERSION,
    Accepted,
    Frame,
    Heartbeat,
    Hello,
    JoinChunk,
    JoinEnd,
    JoinItem,
    JoinProgress,
    JoinRequest,
    JoinRows,
    JoinSnapshotEnd,
    JoinStart,
    LinkLost,
    PeerAck,
    ReadPositionRequest,
    RegisterRequest,
)
from synchro.server.transport import JoinStream, Subscription
from synchro.wire.failure import CallFailed
from synchro.wire.io import ClientLayer, plain_client

SERVICE: Final = "/synchro.peer.v1.ReplicationService/"
FRAME_BYTES: Final = 256
"""Bytes that are counted for what is not rows in a message."""
END_GRACE_S: Final = 1.0
"""Seconds between the last message of a stream and its status."""

In = TypeVar("In")
Out = TypeVar("Out")


# --- messages -------------------------------------------------------------------------------------------


def ballot_message(ballot: Ballot) -> Any:
    return pb.Ballot(
        instance_uuid=ballot.instance_uuid,
        instance_name=ballot.instance_name,
        replicaset_uuid=ballot.replicaset_uuid,
        instance_id=ballot.instance_id,
        is_ro_cfg=ballot.is_ro_cfg,
        is_ro=ballot.is_ro,
        is_booted=ballot.is_booted,
        can_lead=ballot.can_lead,
        is_writable=ballot.is_booted and not ballot.is_ro,
        vclock=codec.lsns(ballot.vclock),
        gc_vclock=codec.lsns(ballot.gc_vclock),
        bootstrap_leader_uuid=ballot.bootstrap_leader_uuid,
        registered_uuids=sorted(ballot.registered_uuids),
        rejoins=ballot.rejoins,
        queue_owner_id=ballot.queue_owner,
        term=ballot.term,
        start_id=ballot.start_id,
        address=ballot.address,
        is_anonymous=ballot.is_anonymous,
        replicaset_name=ballot.replicaset_name,
    )


def ballot_from(message: Any) -> Ballot:
    return Ballot(
        instance_uuid=peer_codec.peer_text(message.instance_uuid, "UUID"),
        instance_name=peer_codec.peer_text(message.instance_name, "name"),
        replicaset_uuid=peer_codec.peer_text(message.replicaset_uuid, "replica set UUID"),
        instance_id=peer_codec.peer_id(message.instance_id, "instance id", or_nobody=True),
        is_booted=message.is_booted,
        is_ro_cfg=message.is_ro_cfg,
        is_ro=message.is_ro,
        can_lead=message.can_lead,
        vclock=peer_codec.peer_vclock(message.vclock),
        gc_vclock=peer_codec.peer_vclock(message.gc_vclock),
        bootstrap_leader_uuid=peer_codec.peer_text(message.bootstrap_leader_uuid, "bootstrap leader UUID"),
        registered_uuids=frozenset(message.registered_uuids),
        rejoins=message.rejoins,
        queue_owner=peer_codec.peer_id(message.queue_owner_id, "queue owner", or_nobody=True),
        term=peer_codec.peer_term(message.term),
        start_id=peer_codec.peer_text(message.start_id, "start id"),
        address=peer_codec.peer_text(message.address, "address"),
        is_anonymous=message.is_anonymous,
        replicaset_name=peer_codec.peer_text(message.replicaset_name, "replica set name"),
    )


def hello_message(hello: Hello) -> Any:
    return pb.SubscribeRequest(
        hello=pb.Hello(
            protocol_version=hello.protocol_version,
            replicaset_uuid=hello.replicaset_uuid,
            instance_uuid=hello.instance_uuid,
            name=hello.name,
            vclock=codec.lsns(hello.vclock),
            id_filter=sorted(hello.id_filter),
            term=hello.term,
            credit=hello.credit,
            counts=hello.counts,
            start_id=hello.start_id,
            address=hello.address,
            takes_parts=hello.takes_parts,
            takes_unnamed=hello.takes_unnamed,
            takes_users=hello.takes_users,
            takes_policies=hello.takes_policies,
            synchro_quorum=hello.quorum,
            is_anonymous=hello.is_anonymous,
            takes_sequences=hello.takes_sequences,
            unwritten=codec.lsns(hello.unwritten),
        )
    )


def hello_from(message: Any) -> Hello:
    return Hello(
        replicaset_uuid=peer_codec.peer_text(message.replicaset_uuid, "replica set UUID"),
        instance_uuid=peer_codec.peer_text(message.instance_uuid, "UUID"),
        name=peer_codec.peer_text(message.name, "name"),
        vclock=peer_codec.peer_vclock(message.vclock),
        term=peer_codec.peer_term(message.term),
        credit=peer_codec.peer_number(message.credit, "credit"),
        id_filter=peer_codec.peer_ids(message.id_filter, "id filter"),
        counts=message.counts,
        protocol_version=message.protocol_version,
        start_id=peer_codec.peer_text(message.start_id, "start id"),
        address=peer_codec.peer_text(message.address, "address"),
        takes_parts=message.takes_parts,
        takes_unnamed=message.takes_unnamed,
        takes_users=message.takes_users,
        takes_policies=message.takes_policies,
        quorum=peer_codec.peer_quorum(message.synchro_quorum),
        is_anonymous=message.is_anonymous,
        takes_sequences=message.takes_sequences,
        unwritten=peer_codec.peer_vclock(message.unwritten),
    )


def peer_ack_message(message: PeerAck) -> Any:
    made = pb.SubscribeRequest()
    peer_codec.fill_ack(
        made.ack,
        message.ack,
        credit=message.credit,
        tm=message.tm,
        following=message.following,
        received=message.received,
    )
    return made


def peer_ack_from(request: Any) -> PeerAck:
    if request.WhichOneof("message") != "ack":
        raise RemoteProtocolError("a subscriber said Hello twice")
    ack = request.ack
    return PeerAck(
        peer_codec.ack_from(ack),
        peer_codec.peer_number(ack.credit, "credit"),
        peer_codec.peer_time(ack.tm),
        peer_codec.peer_ids(ack.following, "following"),
        peer_codec.peer_number(ack.received, "received"),
    )


def relay_message(message: Accepted | Frame) -> Any:
    if isinstance(message, Accepted):
        return pb.SubscribeResponse(
            accepted=pb.Accepted(
                protocol_version=PROTOCOL_VERSION,
                id=message.id,
                vclock=codec.lsns(message.vclock),
                replicaset_uuid=message.replicaset_uuid,
                last_ack=codec.lsns(message.last_ack),
                term=message.term,
                instance_uuid=message.instance_uuid,
                instance_name=message.instance_name,
                start_id=message.start_id,
                address=message.address,
            )
        )
    made = pb.SubscribeResponse()
    frame = made.frame  # field by field, as `peer_codec.fill_ack`
    frame.term = message.term
    frame.rows = message.rows
    frame.rows_crc = message.rows_crc
    frame.tm = message.tm
    frame.rows_continue = message.rows_continue
    frame.wants_receipt = message.wants_receipt
    if message.raft is not None:
        frame.raft.CopyFrom(peer_codec.raft_message(message.raft))
    if message.heartbeat is not None:
        beat = message.heartbeat
        frame.heartbeat.CopyFrom(
            pb.Heartbeat(vclock_sync=beat.vclock_sync, tm=beat.tm, vclock=codec.lsns(beat.vclock))
        )
    return made


def relay_message_from(response: Any) -> Accepted | Frame:
    match response.WhichOneof("message"):
        case "accepted":
            message = response.accepted
            return Accepted(
                id=peer_codec.peer_id(message.id, "id", or_nobody=True),
                vclock=peer_codec.peer_vclock(message.vclock),
                replicaset_uuid=peer_codec.peer_text(message.replicaset_uuid, "replica set UUID"),
                last_ack=peer_codec.peer_vclock(message.last_ack),
                term=peer_codec.peer_term(message.term),
                instance_uuid=peer_codec.peer_text(message.instance_uuid, "UUID"),
                instance_name=peer_codec.peer_text(message.instance_name, "name"),
                start_id=peer_codec.peer_text(message.start_id, "start id"),
                address=peer_codec.peer_text(message.address, "address"),
            )
        case "frame":
            frame = response.frame
            beat = None
            if frame.HasField("heartbeat"):
                told = frame.heartbeat
                number = peer_codec.peer_number(told.vclock_sync, "vclock_sync")
                beat = Heartbeat(number, peer_codec.peer_time(told.tm), peer_codec.peer_vclock(told.vclock))
            return Frame(
                term=peer_codec.peer_term(frame.term),
                raft=peer_codec.raft_from(frame.raft) if frame.HasField("raft") else None,
                rows=frame.rows,
                rows_crc=frame.rows_crc,
                heartbeat=beat,
                tm=peer_codec.peer_time(frame.tm),
                rows_continue=frame.rows_continue,
                wants_receipt=frame.wants_receipt,
            )
        case _:
            raise RemoteProtocolError("an unknown message came from a relay")


def join_message(item: JoinItem) -> Any:
    match item:
        case JoinStart():
            return pb.JoinResponse(
                start=pb.JoinStart(
                    protocol_version=PROTOCOL_VERSION,
                    vclock=codec.lsns(item.vclock),
                    replicaset_uuid=item.replicaset_uuid,
                    meta=item.meta,
                    tuples=item.tuples,
                )
            )
        case JoinChunk():
            return pb.JoinResponse(chunk=pb.JoinChunk(space_id=item.space_id, data=item.data, crc=item.crc))
        case JoinSnapshotEnd():
            return pb.JoinResponse(snapshot_end=pb.JoinSnapshotEnd(count=item.count, checksum=item.checksum))
        case JoinRows():
            return pb.JoinResponse(rows=pb.JoinRows(rows=item.rows, rows_crc=item.crc))
        case JoinEnd():
            return pb.JoinResponse(end=pb.JoinEnd(vclock=codec.lsns(item.vclock), instance_id=item.id))


def join_item_from(response: Any) -> JoinItem:
    match response.WhichOneof("message"):
        case "start":
            start = response.start
            return JoinStart(
                peer_codec.peer_vclock(start.vclock),
                start.replicaset_uuid,
                start.meta,
                peer_codec.peer_number(start.tuples, "number of tuples"),
            )
        case "chunk":
            return JoinChunk(response.chunk.space_id, response.chunk.data, response.chunk.crc)
        case "snapshot_end":
            return JoinSnapshotEnd(response.snapshot_end.count, response.snapshot_end.checksum)
        case "rows":
            return JoinRows(response.rows.rows, response.rows.rows_crc)
        case "end":
            end = response.end
            number = peer_codec.peer_id(end.instance_id, "id", or_nobody=True)
            return JoinEnd(peer_codec.peer_vclock(end.vclock), number)
        case _:
            raise RemoteProtocolError("an unknown message came during a join")


def error_from(error: CallFailed) -> SynchroError | LinkLost:
    """Return what the other side raised, or a broken link."""
    known = status.from_rpc_error(error)
    if known is not None:
        return known
    return LinkLost(f"can't read row: {error.code.name.lower()}", error.message)


# --- streams --------------------------------------------------------------------------------------------


class GrpcPeerStream(Generic[In, Out]):
    """A `Duplex` of protobuf messages seen as a `PeerStream`."""

    def __init__(
        self, stream: Duplex[Any, Any], decode: Callable[[Any], In], encode: Callable[[Out], Any]
    ) -> None:
        self._stream = stream
        self._decode = decode
        self._encode = encode

    async def receive(self) -> In:
        return self._decode(await self._next())

    async def deliver(self, take: Callable[[In], None]) -> None:
        error: SynchroError | LinkLost | None = None

        def on_message(message: Any) -> None:
            nonlocal error
            if error is None and not ending.cancel_called:
                try:
                    take(self._decode(message))
                except (SynchroError, LinkLost) as failure:
                    error = failure
                    ending.cancel()

        with trio.CancelScope() as ending:
            self._stream.on_message = on_message
            try:
                await self._next()
            finally:
                self._stream.on_message = None
                ending.cancel()
        if error is not None:
            raise error

    async def _next(self) -> Any:
        try:
            return await self._stream.receive()
        except trio.EndOfChannel:
            # If the stream ended with an error, its scope is cancelled now, and that error is raised.
            await trio.sleep(END_GRACE_S)
            raise LinkLost("unexpected EOF when reading from socket", "Broken pipe") from None
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
            raise LinkLost("unexpected EOF when reading from socket", "Broken pipe") from None

    def send_nowait(self, item: Out) -> None:
        rows = len(item.rows) if isinstance(item, Frame) else 0
        self._stream.send_nowait(self._encode(item), FRAME_BYTES + rows)

    @property
    def writable(self) -> bool:
        return self._stream.writable

    async def wait_writable(self) -> None:
        try:
            await self._stream.wait_writable()
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
            raise LinkLost("writing to a closed socket", "Broken pipe") from None

    async def wait_sent(self) -> None:
        await self._stream.wait_sent()


class _GrpcJoinStream:
    def __init__(self, stream: Duplex[Any, Any]) -> None:
        self._stream = stream
        self._receiver = JoinReceiver(stream, LIMITS.message_bytes_max)

    async def receive(self) -> JoinItem | JoinProgress:
        try:
            response = self._receiver.take(await self._stream.receive())
        except trio.EndOfChannel:
            # If the stream ended with an error, its scope is cancelled now, and that error is raised.
            await trio.sleep(END_GRACE_S)
            raise LinkLost("the join ended too early") from None
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
            raise LinkLost("the join ended too early") from None
        except DecodeError as error:
            raise RemoteProtocolError(f"the parts of a message of the join do not fit: {error}") from error
        return JoinProgress() if response is None else join_item_from(response)


LoginAt: TypeAlias = Callable[[str], PeerLogin | None]


OnLogin: TypeAlias = Callable[[str, str], None]


def _as_guest(_address: str) -> None:
    return None


def _unheard(_address: str, _user: str) -> None:
    """Nobody wants to know of a login."""


class GrpcTransport:
    """The `Transport` over gRPC: one channel for each peer, made when first used. `open_grpc_transport`
    closes it."""

    def __init__(
        self,
        host: RpcHost,
        stack: AsyncExitStack,
        own_uuid: str,
        layer: ClientLayer = plain_client,
        login_at: LoginAt = _as_guest,
        lacks: Callable[[str], bool] = lambda _: False,
        on_login: OnLogin = _unheard,
    ) -> None:
        self._host = host
        self._layer = layer
        self._sessions = PeerSessions(
            login_at, is_encrypted=layer is not plain_client, lacks=lacks, on_login=on_login
        )
        self._stack = stack
        self._own_uuid = own_uuid
        self._channels: dict[str, RpcChannel] = {}

    async def _channel(self, address: str) -> RpcChannel:
        channel = self._channels.get(address)
        if channel is None:
            channel = await self._stack.enter_async_context(self._host.channel(address, layer=self._layer))
            self._channels[address] = channel
        return channel

    async def get_ballot(self, address: str) -> Ballot:
        channel = await self._channel(address)
        request = pb.GetBallotRequest(protocol_version=PROTOCOL_VERSION, instance_uuid=self._own_uuid)
        try:
            response = await channel.unary(
                SERVICE + "GetBallot",
                request,
                serializer=pb.GetBallotRequest.SerializeToString,
                deserializer=pb.GetBallotResponse.FromString,
            )
        except CallFailed as error:
            raise LinkLost("can't connect to master", error.message) from error
        return ballot_from(response.ballot)

    def called_as(self, address: str) -> str:
        return self._sessions.user_at(address)

    async def log_in(self, address: str) -> bool:
        try:
            return await self._sessions.prove(await self._channel(address))
        except CallFailed as error:
            raise self._failed(address, error) from error

    @asynccontextmanager
    async def join(self, address: str, request: JoinRequest) -> AsyncGenerator[JoinStream]:
        channel = await self._channel(address)
        message = pb.JoinRequest(
            protocol_version=request.protocol_version,
            instance_uuid=request.instance_uuid,
            instance_name=request.instance_name,
            takes_parts=True,
            takes_unnamed=request.takes_unnamed,
            takes_users=request.takes_users,
            takes_policies=request.takes_policies,
            replicaset_uuid=request.replicaset_uuid,
            replicaset_name=request.replicaset_name,
        )
        try:
            async with channel.duplex(
                SERVICE + ("FetchSnapshot" if request.is_anonymous else "Join"),
                serializer=pb.JoinRequest.SerializeToString,
                deserializer=pb.JoinResponse.FromString,
                metadata=await self._sessions.metadata(channel),
            ) as stream:
                stream.send_nowait(message)
                yield _GrpcJoinStream(stream)
        except CallFailed as error:
            raise self._failed(address, error) from error

    async def register(self, address: str, request: RegisterRequest) -> InstanceId:
        channel = await self._channel(address)
        message = pb.RegisterRequest(
            protocol_version=PROTOCOL_VERSION,
            instance_uuid=request.instance_uuid,
            instance_name=request.instance_name,
            replicaset_uuid=request.replicaset_uuid,
        )
        try:
            response = await channel.unary(
                SERVICE + "Register",
                message,
                serializer=pb.RegisterRequest.SerializeToString,
                deserializer=pb.RegisterResponse.FromString,
                metadata=await self._sessions.metadata(channel),
            )
        except CallFailed as error:
            raise self._failed(address, error) from error
        return peer_codec.peer_id(response.instance_id, "id")

    async def read_position(self, address: str, request: ReadPositionRequest) -> ReadPosition:
        channel = await self._channel(address)
        message = pb.GetReadPositionRequest(
            protocol_version=PROTOCOL_VERSION,
            replicaset_uuid=request.replicaset_uuid,
            timeout_ms=round(request.timeout_s * 1000),
        )
        try:
            response = await channel.unary(
                SERVICE + "GetReadPosition",
                message,
                serializer=pb.GetReadPositionRequest.SerializeToString,
                deserializer=pb.GetReadPositionResponse.FromString,
                metadata=await self._sessions.metadata(channel),
            )
        except CallFailed as error:
            raise self._failed(address, error) from error
        return peer_codec.read_position_from(response)

    @asynccontextmanager
    async def subscribe(self, address: str, hello: Hello) -> AsyncGenerator[Subscription]:
        channel = await self._channel(address)
        try:
            async with channel.duplex(
                SERVICE + "Subscribe",
                serializer=pb.SubscribeRequest.SerializeToString,
                deserializer=pb.SubscribeResponse.FromString,
                metadata=await self._sessions.metadata(channel),
            ) as stream:
                stream.send_nowait(hello_message(hello))
                yield GrpcPeerStream(stream, relay_message_from, peer_ack_message)
        except CallFailed as error:
            raise self._failed(address, error) from error

    def _failed(self, address: str, failure: CallFailed) -> SynchroError | LinkLost:
        error = error_from(failure)
        if isinstance(error, SessionUnknown | SessionEnded | AccessDenied):
            self._sessions.forget(address)
        return error


@asynccontextmanager
async def open_grpc_transport(
    host: RpcHost,
    own_uuid: str,
    layer: ClientLayer = plain_client,
    login_at: LoginAt = _as_guest,
    lacks: Callable[[str], bool] = lambda _: False,
    on_login: OnLogin = _unheard,
) -> AsyncIterator[GrpcTransport]:
    """layer: below HTTP/2 of each connection to a peer. login_at: as whom the peer at an address is
    called. lacks: whether the set has no user of this name. on_login: told address and user of each login."""
    async with AsyncExitStack() as stack:
        yield GrpcTransport(host, stack, own_uuid, layer, login_at, lacks, on_login)
