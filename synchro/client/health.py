"""Asking an instance by `grpc.health.v1` how it is. Needs no login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from synchro.client.channel import open_channel
from synchro.client.errors import of_rpc_error

import grpc  # isort: skip - after channel.py, which sets its environment
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from synchro.client.secure import Security

SERVICES: Final = {
    "process": "",
    "read": "synchro.v1.DataService",
    "write": "rw",
    "quorum": "quorum",
}
"""What may be asked -> the service that tells."""


def is_healthy(endpoint: str, what: str, *, security: Security | None, timeout_s: float) -> bool:
    """Whether the instance runs, can be read, may be written to, or sees a quorum. what: of `SERVICES`.

    Raises `CannotConnect` or `ConnectionLost`.
    """
    with open_channel(grpc, endpoint, security) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICES[what])
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise of_rpc_error(error, endpoint) from None
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
