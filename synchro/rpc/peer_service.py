"""synchro.peer.v1 on the serving side: decode, hand over to the `PeerEndpoint`, encode."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import trio

from synchro.errors import Loading, ProtocolVersion, RemoteProtocolError, SynchroError
from synchro.rpc import peer_codec, status
from synchro.rpc.duplex import Duplex
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.rpc.host import RpcCall, RpcHost
from synchro.rpc.join_stream import JoinSender
from synchro.rpc.methods import Registrar
from synchro.rpc.peer_address import host_of
from synchro.rpc.peer_transport import (
    GrpcPeerStream,
    ballot_message,
    hello_from,
    join_message,
    peer_ack_from,
    relay_message,
)
from synchro.rpc.rpc_error import RpcError
from synchro.server.peer_access import Asker
from synchro.server.peer_messages import (
    PROTOCOL_VERSION,
    Accepted,
    Frame,
    JoinEnd,
    JoinRequest,
    JoinSnapshotEnd,
    LinkLost,
    PeerAck,
    ReadPositionRequest,
    RegisterRequest,
)
from synchro.server.transport import PeerEndpoint
from synchro.wire.grpc_call import StatusCode


def rpc_error(error: SynchroError) -> RpcError:
    return RpcError(status.code_of(error), status.cut(error.message, 512), status=status.to_status(error))


def asker_of(call: RpcCall) -> Asker:
    return Asker(call.caller, host_of(call.peer), call.shows_certificate_of)


def check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise ProtocolVersion(
            f"peer protocol version {version} is not supported, this instance speaks {PROTOCOL_VERSION}; "
            "nothing was done",
            version=version,
            supported=PROTOCOL_VERSION,
        )


class PeerService:
    """The methods of the peer protocol."""

    def __init__(self, host: RpcHost, endpoint: PeerEndpoint) -> None:
        self._endpoint = endpoint
        self.GetBallot = host.unary_sync(self._get_ballot)
        self.Subscribe = host.duplex(self._subscribe)
        self.Join = host.duplex(self._join)
        self.FetchSnapshot = host.duplex(self._fetch_snapshot)
        self.Register = host.unary(self._register)
        self.GetReadPosition = host.unary(self._get_read_position)
        self._older_joins = 0
        """How many calls of joiners without receipts are not over: one that takes nothing is still there
        for a while when its handler has ended, and holds a message."""

    def _get_ballot(self, request: pb.GetBallotRequest, call: RpcCall) -> pb.GetBallotResponse:
        """Answer with the ballot, at any time, also while loading [M-19]."""
        return pb.GetBallotResponse(
            protocol_version=PROTOCOL_VERSION, ballot=ballot_message(self._endpoint.ballot())
        )

    def _older_join_over(self) -> None:
        self._older_joins -= 1

    async def _join(self, stream: Duplex[Any, Any], call: RpcCall) -> None:
        await self._send_all(stream, call, is_anonymous=False)

    async def _fetch_snapshot(self, stream: Duplex[Any, Any], call: RpcCall) -> None:
        await self._send_all(stream, call, is_anonymous=True)

    async def _register(self, request: pb.RegisterRequest, call: RpcCall) -> pb.RegisterResponse:
        try:
            check_version(request.protocol_version)
            self._endpoint.admit_joiner(asker_of(call), request.instance_uuid, request.instance_name)
            number = await self._endpoint.serve_register(
                RegisterRequest(request.instance_uuid, request.instance_name, request.replicaset_uuid)
            )
        except SynchroError as error:
            raise rpc_error(error) from error
        return pb.RegisterResponse(instance_id=number)

    async def _get_read_position(
        self, request: pb.GetReadPositionRequest, call: RpcCall
    ) -> pb.GetReadPositionResponse:
        try:
            check_version(request.protocol_version)
            self._endpoint.admit_reader(asker_of(call))
            asked = ReadPositionRequest(request.replicaset_uuid, request.timeout_ms / 1000)
            position = await self._endpoint.serve_read_position(asked)
        except SynchroError as error:
            raise rpc_error(error) from error
        return peer_codec.read_position_message(position)

    async def _send_all(self, stream: Duplex[Any, Any], call: RpcCall, *, is_anonymous: bool) -> None:
        try:
            try:
                first = await stream.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return
            check_version(first.protocol_version)
            asker = asker_of(call)
            self._endpoint.admit_joiner(
                asker, first.instance_uuid, first.instance_name, is_anonymous=is_anonymous
            )
            settings = self._endpoint.settings
            if not first.takes_parts:
                if self._older_joins >= settings.limits.join_calls_max:
                    raise Loading(
                        f"{self._older_joins} joins of older instances go on; nothing was done, try again",
                        stage="join",
                    )
                self._older_joins += 1
                call.on_over = self._older_join_over
            sender = JoinSender(stream, settings, takes_parts=first.takes_parts)
            stream.on_message = sender.on_message
            request = JoinRequest(
                first.instance_uuid,
                first.instance_name,
                takes_unnamed=first.takes_unnamed,
                takes_users=first.takes_users,
                is_anonymous=is_anonymous,
                takes_policies=first.takes_policies,
                replicaset_uuid=first.replicaset_uuid,
                replicaset_name=first.replicaset_name,
            )
            items = self._endpoint.serve_join(request)
            async with aclosing(items):
                async for item in items:
                    await sender.send(join_message(item))
                    if isinstance(item, JoinSnapshotEnd | JoinEnd):
                        # Who did not take the data is not registered, and counts as a join that is served.
                        await sender.finish()
        except SynchroError as error:
            raise rpc_error(error) from error
        except LinkLost as error:
            raise RpcError(StatusCode.UNAVAILABLE, error.message) from error

    async def _subscribe(self, stream: Duplex[Any, Any], call: RpcCall) -> None:
        try:
            try:
                first = await stream.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return
            if first.WhichOneof("message") != "hello":
                raise RemoteProtocolError("a subscription must begin with Hello")
            check_version(first.hello.protocol_version)
            endpoint, hello, asker = self._endpoint, hello_from(first.hello), asker_of(call)
            shown = endpoint.admit_subscriber(asker, hello)
            if not hello.is_anonymous:
                call.hear_first()

            def ack_from(message: Any) -> PeerAck:
                # Rights may be taken away meanwhile; an ack comes within a heartbeat.
                nonlocal shown
                if not endpoint.is_admitted(shown):
                    shown = endpoint.admit_subscriber(asker, hello)
                return peer_ack_from(message)

            peer: GrpcPeerStream[PeerAck, Accepted | Frame] = GrpcPeerStream(stream, ack_from, relay_message)
            await endpoint.serve_subscriber(hello, peer)
        except SynchroError as error:
            raise rpc_error(error) from error
        except LinkLost as error:
            raise RpcError(StatusCode.UNAVAILABLE, error.message) from error


def register(server: Registrar, host: RpcHost, endpoint: PeerEndpoint) -> None:
    server.add_service(pb.DESCRIPTOR.services_by_name["ReplicationService"], PeerService(host, endpoint))
