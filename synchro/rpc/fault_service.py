"""synchro.fault.v1: failpoints and cut links on demand. Served only with `fault_injection`, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from synchro.errors import IllegalParams, SynchroError
from synchro.failpoints import POINTS, REGISTRY, Action
from synchro.rpc import codec
from synchro.rpc.access import Access
from synchro.rpc.generated.fault.v1 import fault_pb2 as pb
from synchro.rpc.host import RpcCall, RpcHost
from synchro.rpc.methods import Registrar
from synchro.rpc.peer_service import rpc_error
from synchro.server.face import Face

_ACTIONS = {
    pb.FAILPOINT_ACTION_ON: Action.ON,
    pb.FAILPOINT_ACTION_PAUSE: Action.PAUSE,
    pb.FAILPOINT_ACTION_DELAY: Action.DELAY,
    pb.FAILPOINT_ACTION_ERROR: Action.ERROR,
    pb.FAILPOINT_ACTION_EXIT: Action.EXIT,
    pb.FAILPOINT_ACTION_COUNT: Action.COUNT,
}
_NUMBERS = {action: number for number, action in _ACTIONS.items()}


class FaultService:
    """Links are cut inside this process: streams with the named peers are dropped and refused.

    No method waits, so all answer while something waits at a failpoint, and before there is a core.
    """

    def __init__(self, face: Face, host: RpcHost) -> None:
        self._node = face.node
        self._settings = face.node.settings
        self._links = face.links
        self._host = host
        self._access = Access(face)
        self.SetFailpoint = self._method(self._set_failpoint)
        self.ClearFailpoint = self._method(self._clear_failpoint)
        self.ListFailpoints = self._method(self._list_failpoints)
        self.Partition = self._method(self._partition)
        self.Heal = self._method(self._heal)
        self.SetClockSkew = self._method(self._set_clock_skew)

    def _method(self, method: Callable[[Any], Any]) -> Any:
        def handle(request: Any, call: RpcCall) -> Any:
            try:
                self._access.to_operate(call.caller, request)
                return method(request)
            except SynchroError as error:
                raise rpc_error(error) from error

        return self._host.unary_sync(handle)

    def _set_failpoint(self, request: pb.SetFailpointRequest) -> pb.SetFailpointResponse:
        action = _ACTIONS.get(request.action)
        if action is None:
            raise IllegalParams("a failpoint needs an action; nothing was changed")
        REGISTRY.set(
            request.name,
            action,
            delay_s=request.delay.ToNanoseconds() / 1e9,
            error=request.errno,
            skip=request.skip,
            times=request.times,
            value=request.value if request.HasField("value") else None,
            peers=request.peers,
        )
        return pb.SetFailpointResponse()

    def _clear_failpoint(self, request: pb.ClearFailpointRequest) -> pb.ClearFailpointResponse:
        return pb.ClearFailpointResponse(passes=REGISTRY.clear(request.name or None))

    def _list_failpoints(self, _request: pb.ListFailpointsRequest) -> pb.ListFailpointsResponse:
        made = pb.ListFailpointsResponse(
            failpoints=[_shown(name) for name in sorted(POINTS)],
            partitioned_in=sorted(self._links.blocked_in),
            partitioned_out=sorted(self._links.blocked_out),
            clock_skew=codec.duration(self._node.clock.skew_s),
        )
        if self._node.has_core:
            stats = self._node.wal.stats
            made.journal_writes_submitted = stats.submitted
            made.journal_writes_completed = stats.txns
            made.quorum_waits_started = self._node.core.limbo.waits_started
        return made

    def _partition(self, request: pb.PartitionRequest) -> pb.PartitionResponse:
        self._links.cut(
            self._names(request.peers),
            incoming=request.direction != pb.PARTITION_DIRECTION_OUT,
            outgoing=request.direction != pb.PARTITION_DIRECTION_IN,
        )
        return pb.PartitionResponse()

    def _heal(self, request: pb.HealRequest) -> pb.HealResponse:
        self._links.heal(self._names(request.peers))
        return pb.HealResponse()

    def _set_clock_skew(self, request: pb.SetClockSkewRequest) -> pb.SetClockSkewResponse:
        self._node.shift_clock(request.skew.ToNanoseconds() / 1e9)
        return pb.SetClockSkewResponse()

    def _names(self, peers: Iterable[str]) -> set[str]:
        """The peers that a request names; if it names none, all of them."""
        known = {peer.name for peer in self._settings.peers}
        wanted = set(peers) or known - {self._settings.instance_name}
        if wanted - known:
            raise IllegalParams(f"unknown peers {', '.join(sorted(wanted - known))}; nothing was changed")
        return wanted


def _shown(name: str) -> pb.Failpoint:
    made = pb.Failpoint(name=name, meaning=POINTS[name].meaning)
    armed = REGISTRY.last(name)
    if armed is not None:
        made.is_armed = not armed.is_off
        made.action = _NUMBERS[armed.action]
        made.delay.CopyFrom(codec.duration(armed.delay_s))
        made.errno, made.skip, made.times, made.value = armed.errno, armed.skip, armed.times, armed.value
        made.peers.extend(sorted(armed.peers))
        made.passes, made.triggers, made.waiting = armed.passes, armed.triggers, armed.waiting
    return made


def register(server: Registrar, face: Face, host: RpcHost) -> None:
    server.add_service(pb.DESCRIPTOR.services_by_name["FaultService"], FaultService(face, host))
