"""All services that clients and operators see, ready to be added to a server."""

from __future__ import annotations

from synchro.rpc.auth_service import AuthService
from synchro.rpc.cluster_service import ClusterService
from synchro.rpc.control_service import ControlService
from synchro.rpc.data_service import DataService
from synchro.rpc.health import HealthService
from synchro.rpc.host import RpcHost
from synchro.rpc.info_service import InfoService
from synchro.rpc.methods import Registrar
from synchro.rpc.reflection import ReflectionService
from synchro.rpc.schema_service import SchemaService
from synchro.server.api import NodeApi


class ClientServices:
    """All services that clients and operators see.

    `register` is for `RpcHost.serve`; `run` is a task that keeps the health services up to date. Reflection
    names what was built in; `with_fault` adds synchro.fault.v1, which somebody else registers.
    """

    def __init__(self, node: NodeApi, host: RpcHost, *, with_fault: bool = False) -> None:
        self._data = DataService(node, host)
        self._services = (
            self._data,
            SchemaService(node, host),
            InfoService(node, host),
            ControlService(node, host),
            ClusterService(node, host),
            AuthService(node, host),
        )
        self._health = HealthService(node, host)
        self._reflection = ReflectionService(host, with_fault=with_fault)

    def register(self, server: Registrar) -> None:
        for service in self._services:
            service.register(server)
        self._health.register(server)
        self._reflection.register(server)

    async def run(self) -> None:
        await self._health.run()

    def end_streams(self) -> None:
        """End the streams of transactions before the server closes, so that none is cut with answers in
        it."""
        self._data.end_streams()
