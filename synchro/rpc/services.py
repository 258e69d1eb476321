"""All services that clients and operators see, ready to be added to a server."""

from __future__ import annotations

from typing import Final

import trio

from synchro.errors import Loading
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
from synchro.server.logins import Logins

SESSIONS_LOOK_S: Final = 0.5


class ClientServices:
    """All services that clients and operators see.

    `register` and `sessions` are for `RpcHost.serve`; `run` is a task that keeps the health services up to
    date and ends sessions. Reflection names what was built in; `with_fault` adds synchro.fault.v1, which
    somebody else registers.
    """

    def __init__(self, node: NodeApi, host: RpcHost, *, with_fault: bool = False) -> None:
        self._node = node
        self._logins = Logins(lambda: node.users, node.password_while_loading)
        self.sessions = self._logins.sessions
        """For the server: who is logged in."""
        self._data = DataService(node, host)
        self._services = (
            self._data,
            SchemaService(node, host),
            InfoService(node, host),
            ControlService(node, host),
            ClusterService(node, host),
            AuthService(node, host, self._logins),
        )
        self._health = HealthService(node, host)
        self._reflection = ReflectionService(host, with_fault=with_fault)

    def register(self, server: Registrar) -> None:
        for service in self._services:
            service.register(server)
        self._health.register(server)
        self._reflection.register(server)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._health.run)
            nursery.start_soon(self._logins.run, self._look_s)

    def _look_s(self) -> float:
        """Streams of a user that was dropped are ended within a heartbeat."""
        try:
            return min(SESSIONS_LOOK_S, self._node.instance.settings.replication_timeout_s / 2)
        except Loading:
            return SESSIONS_LOOK_S

    def end_streams(self) -> None:
        """End the streams of transactions before the server closes, so that none is cut with answers in
        it."""
        self._data.end_streams()
