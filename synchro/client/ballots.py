"""Asking an instance by its ballot who it is, and of which set. Needs no login [S-7]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from synchro.client.channel import open_channel
from synchro.client.errors import of_rpc_error

import grpc  # isort: skip - after channel.py, which sets its environment
from synchro.rpc.generated.peer.v1 import replication_pb2, replication_pb2_grpc

if TYPE_CHECKING:
    from synchro.client.secure import Security

PROTOCOL_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class WhoAnswers:
    """An instance, as its ballot says [M-7]."""

    instance: str
    replicaset: str
    """"": it was started by flags, or is an older version."""
    uuid: str
    """Of its replica set; "": that is not made yet."""

    def __str__(self) -> str:
        named = f"{self.replicaset!r}, " if self.replicaset else ""
        made = f"UUID {self.uuid}" if self.uuid else "not made yet"
        return f"{self.instance} of another replica set ({named}{made})"


def who_answers(endpoint: str, *, security: Security | None, timeout_s: float) -> WhoAnswers:
    """Raises `CannotConnect` or `ConnectionLost`, or what else answered than an instance."""
    with open_channel(grpc, endpoint, security) as channel:
        request = replication_pb2.GetBallotRequest(protocol_version=PROTOCOL_VERSION)
        try:
            reply = replication_pb2_grpc.ReplicationServiceStub(channel).GetBallot(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise of_rpc_error(error, endpoint) from None
    ballot = reply.ballot
    return WhoAnswers(ballot.instance_name, ballot.replicaset_name, ballot.replicaset_uuid)
