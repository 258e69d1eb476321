"""Health and reflection, kept up to date from the node's state.

Health services: "" the process is alive, "synchro.v1.DataService" can read, "rw" accepts writes, "quorum"
sees a quorum.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, cast

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from synchro.rpc.generated.fault.v1 import fault_pb2
from synchro.rpc.generated.peer.v1 import replication_pb2
from synchro.rpc.generated.v1 import cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2
from synchro.rpc.host import RpcHost
from synchro.server.api import NodeApi, WatchFacts

DATA_SERVICE: Final = data_pb2.DESCRIPTOR.services_by_name["DataService"].full_name
_CLIENT_FILES: Final = (cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2)


class HealthService:
    """`grpc.health.v1.Health`, and a task that follows the node."""

    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        self._node = node
        self._loop = host.loop
        self._servicer = health.aio.HealthServicer()

    def register(self, server: Any) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def run(self) -> None:
        """Follow the node until cancelled."""
        shown = {"": True, DATA_SERVICE: False, "rw": False, "quorum": False}
        await self._publish(shown)
        async with aclosing(cast("AsyncGenerator[WatchFacts]", self._node.watch())) as changes:
            async for facts in changes:
                wanted = states(facts)
                await self._publish({name: good for name, good in wanted.items() if shown[name] != good})
                shown = wanted

    async def _publish(self, services: dict[str, bool]) -> None:
        for name, good in services.items():
            status = (
                health_pb2.HealthCheckResponse.SERVING if good else health_pb2.HealthCheckResponse.NOT_SERVING
            )
            await self._loop.aio(self._servicer.set(name, status))


def states(facts: WatchFacts) -> dict[str, bool]:
    """Health service -> whether it is good."""
    return {
        "": True,
        DATA_SERVICE: facts.can_read,
        "rw": facts.can_read and facts.is_writable,
        "quorum": facts.sees_quorum,
    }


def register_reflection(server: Any, *, with_fault: bool = False) -> None:
    """Lets tools such as grpcurl ask for the services. To be called last."""
    files = [*_CLIENT_FILES, replication_pb2, *([fault_pb2] if with_fault else [])]
    names = [service.full_name for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
