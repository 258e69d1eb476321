"""synchro.peer.v1 on the serving side: decode, hand over to the `PeerEndpoint`, encode."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
import trio

from synchro.errors import Loading, ProtocolVersion, RemoteProtocolError, SynchroError
from synchro.rpc import status
from synchro.rpc.duplex import Duplex
from synchro.rpc.generated.peer.v1 import replication_pb2 as pb
from synchro.rpc.generated.peer.v1 import replication_pb2_grpc as pb_grpc
from synchro.rpc.host import RpcCall, RpcHost
from synchro.rpc.join_stream import JoinSender
from synchro.rpc.peer_transport import (
    GrpcPeerStream,
    ballot_message,
    hello_from,
    join_message,
    peer_ack_from,
    relay_message,
)
from synchro.rpc.rpc_error import RpcError
from synchro.server.peer_messages import (
    PROTOCOL_VERSION,
    Accepted,
    Frame,
    JoinEnd,
    JoinRequest,
    JoinSnapshotEnd,
    LinkLost,
    PeerAck,
)
from synchro.server.transport import PeerEndpoint


def rpc_error(error: SynchroError) -> RpcError:
    return RpcError(status.code_of(error), status.cut(error.message, 512), status=status.to_status(error))


def check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise ProtocolVersion(
            f"peer protocol version {version} is not supported, this instance speaks {PROTOCOL_VERSION}; "
            "nothing was done",
            version=version,
            supported=PROTOCOL_VERSION,
        )


@dataclass
class _Held:
    """What a call of a join counts as."""

    is_older: bool = False


class PeerService:
    """The peer protocol's methods, as the generated registration wants them."""

    def __init__(self, host: RpcHost, endpoint: PeerEndpoint) -> None:
        self._host = host
        self._endpoint = endpoint
        self.GetBallot = host.unary_sync(self._get_ballot)
        self.Subscribe = host.duplex(self._subscribe)
        self.Join = self._serve_join
        self._older_joins = 0
        """How many calls of joiners without receipts gRPC did not end yet."""

    def _get_ballot(self, request: pb.GetBallotRequest, call: RpcCall) -> pb.GetBallotResponse:
        """Answer with the ballot, at any time, also while loading [M-19]."""
        return pb.GetBallotResponse(
            protocol_version=PROTOCOL_VERSION, ballot=ballot_message(self._endpoint.ballot())
        )

    async def _serve_join(self, requests: object, context: Any) -> None:
        """A call whose client does not read goes on in gRPC when its handler is over: it is counted here."""
        held = _Held()
        try:
            await self._host.duplex(lambda stream, call: self._join(stream, held))(requests, context)
        finally:
            self._older_joins -= held.is_older

    async def _join(self, stream: Duplex[Any, Any], held: _Held) -> None:
        try:
            try:
                first = await stream.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return
            check_version(first.protocol_version)
            settings = self._endpoint.settings
            if not first.takes_parts:
                if self._older_joins >= settings.limits.join_calls_max:
                    raise Loading(
                        f"{self._older_joins} joins of older instances go on; nothing was done, try again",
                        stage="join",
                    )
                self._older_joins += 1
                held.is_older = True
            sender = JoinSender(stream, settings, takes_parts=first.takes_parts)
            stream.on_message = sender.on_message
            request = JoinRequest(first.instance_uuid, first.instance_name, takes_unnamed=first.takes_unnamed)
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
            raise RpcError(grpc.StatusCode.UNAVAILABLE, error.message) from error

    async def _subscribe(self, stream: Duplex[Any, Any], call: RpcCall) -> None:
        try:
            try:
                first = await stream.receive()
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return
            if first.WhichOneof("message") != "hello":
                raise RemoteProtocolError("a subscription must begin with Hello")
            check_version(first.hello.protocol_version)
            peer: GrpcPeerStream[PeerAck, Accepted | Frame] = GrpcPeerStream(
                stream, peer_ack_from, relay_message
            )
            await self._endpoint.serve_subscriber(hello_from(first.hello), peer)
        except SynchroError as error:
            raise rpc_error(error) from error
        except LinkLost as error:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, error.message) from error


def register(server: grpc.aio.Server, host: RpcHost, endpoint: PeerEndpoint) -> None:
    pb_grpc.add_ReplicationServiceServicer_to_server(cast(Any, PeerService(host, endpoint)), server)
