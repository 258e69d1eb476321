"""`grpc.health.v1.Health`, kept up to date from the node's state.

Services: "" the process is alive, "synchro.v1.DataService" can read, "rw" accepts writes, "quorum"
sees a quorum.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, cast

import trio
from grpc_health.v1 import health_pb2

from synchro.rpc.calls import RpcCall
from synchro.rpc.generated.v1 import data_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.methods import Registrar
from synchro.rpc.rpc_error import RpcError
from synchro.server.api import NodeApi, WatchFacts
from synchro.wire.grpc_call import StatusCode

DATA_SERVICE: Final = data_pb2.DESCRIPTOR.services_by_name["DataService"].full_name
SERVICE: Final = health_pb2.DESCRIPTOR.services_by_name["Health"]
_Status = health_pb2.HealthCheckResponse


class HealthService:
    """Answers probes, with a task that follows the node."""

    def __init__(self, node: NodeApi, host: RpcHost) -> None:
        self._node = node
        self._states = {"": True, DATA_SERVICE: False, "rw": False, "quorum": False}
        self._changed = trio.Event()
        self.Check = host.unary_sync(self._check)
        self.List = host.unary_sync(self._list)
        self.Watch = host.server_stream(self._watch)

    def register(self, server: Registrar) -> None:
        server.add_service(SERVICE, self)

    async def run(self) -> None:
        """Follow the node until cancelled."""
        async with aclosing(cast("AsyncGenerator[WatchFacts]", self._node.watch())) as changes:
            async for facts in changes:
                now = states(facts)
                if now != self._states:
                    self._states = now
                    changed, self._changed = self._changed, trio.Event()
                    changed.set()

    def _status(self, service: str) -> Any:
        good = self._states.get(service)
        if good is None:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if good else _Status.NOT_SERVING

    def _check(self, request: Any, _call: RpcCall) -> Any:
        if request.service not in self._states:
            raise RpcError(StatusCode.NOT_FOUND, f"unknown service {request.service[:100]!r}")
        return _Status(status=self._status(request.service))

    def _list(self, _request: Any, _call: RpcCall) -> Any:
        return health_pb2.HealthListResponse(
            statuses={service: _Status(status=self._status(service)) for service in self._states}
        )

    async def _watch(self, request: Any, _call: RpcCall) -> AsyncIterator[Any]:
        """The status now, and whenever it is another one; a service that is unknown may come."""
        shown = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != shown:
                shown = status
                yield _Status(status=status)
            await changed.wait()


def states(facts: WatchFacts) -> dict[str, bool]:
    """Return health service -> whether it is good."""
    return {
        "": True,
        DATA_SERVICE: facts.can_read,
        "rw": facts.can_read and facts.is_writable,
        "quorum": facts.sees_quorum,
    }
