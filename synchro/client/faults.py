"""Faults on demand, for tests: synchro.fault.v1 of one instance, over the connection of a client.

faults = Faults(db, "instance002")
faults.set("wal.delay")
faults.state()["wal.delay"].waiting
faults.clear()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import grpc

from synchro.client import forks, requests
from synchro.client.blocking import Client
from synchro.client.errors import of_rpc_error
from synchro.errors import IllegalParams, Unimplemented
from synchro.rpc.generated.fault.v1 import fault_pb2, fault_pb2_grpc

Direction = Literal["both", "in", "out"]
ACTIONS: Final = ("on", "pause", "delay", "error", "exit", "count")


@dataclass(frozen=True, slots=True)
class Failpoint:
    """A point of one instance. action: of what was set last, "" if nothing was.

    value: of `on` and `delay`, or the errno of `error`. waiting: passes that wait now. passes, triggers:
    since it was set; of what was cleared, those of before.
    """

    name: str
    meaning: str
    is_armed: bool
    action: str
    value: float
    countdown: int
    times: int
    peers: tuple[int, ...]
    passes: int
    triggers: int
    waiting: int


@dataclass(frozen=True, slots=True)
class FaultState:
    """submitted, completed: transactions handed to the log, and those of them on its disk. quorum_waits:
    those that began to wait for a quorum. All since the start of the process."""

    points: Mapping[str, Failpoint]
    submitted: int
    completed: int
    quorum_waits: int
    partitioned_in: tuple[str, ...]
    partitioned_out: tuple[str, ...]
    clock_skew: float
    """Seconds that were added to the clock of the instance."""

    def __getitem__(self, name: str) -> Failpoint:
        return self.points[name]


class Faults:
    """What one instance does wrong on demand. It must have been started with fault injection."""

    def __init__(self, client: Client, instance: str | None = None) -> None:
        """instance: name, id or host:port; None: the first endpoint that answers."""
        self._client = client
        self.place = client._run(client._api.watch_place(instance))

    def set(
        self,
        name: str,
        action: str = "on",
        *,
        value: float | None = None,
        countdown: int = 0,
        times: int = 0,
        peers: Iterable[int] = (),
    ) -> None:
        """Arm a point anew. value: seconds of `delay`, errno of `error`, and for `on` what the point says.

        countdown: passes that do nothing first. times: passes that act, 0: all. peers: ids, none: all.
        Raises `ConfigError`, `IllegalParams`: nothing was changed.
        """
        if action not in ACTIONS:
            raise IllegalParams(f"unknown action {action!r}; there are: {', '.join(ACTIONS)}")
        try:
            request = fault_pb2.SetFailpointRequest(
                name=name, action=_number(action), skip=countdown, times=times, peers=tuple(peers)
            )
            if value is not None and action == "delay":
                request.delay.CopyFrom(requests.duration(value))
            elif value is not None and action == "error":
                request.errno = int(value)
            elif value is not None:
                request.value = value
        except ValueError as error:
            raise IllegalParams(f"{name}: a number is out of range ({error}); nothing was changed") from error
        self._call("SetFailpoint", request)

    def clear(self, name: str = "") -> int:
        """Disarm a point, or all; who waited goes on. Returns the passes that were seen."""
        return int(self._call("ClearFailpoint", fault_pb2.ClearFailpointRequest(name=name)).passes)

    def state(self) -> FaultState:
        reply = self._call("ListFailpoints", fault_pb2.ListFailpointsRequest())
        return FaultState(
            {point.name: _failpoint(point) for point in reply.failpoints},
            reply.journal_writes_submitted,
            reply.journal_writes_completed,
            reply.quorum_waits_started,
            tuple(reply.partitioned_in),
            tuple(reply.partitioned_out),
            reply.clock_skew.ToNanoseconds() / 1e9,
        )

    def partition(self, peers: Iterable[str] = (), direction: Direction = "both") -> None:
        """Cut the streams with these peers, given by name; none: all. "in": what they send, "out": what is
        sent to them."""
        number = fault_pb2.PartitionDirection.Value(f"PARTITION_DIRECTION_{direction.upper()}")
        self._call("Partition", fault_pb2.PartitionRequest(peers=tuple(peers), direction=number))

    def heal(self, peers: Iterable[str] = ()) -> None:
        """End the partitions from these peers; none: all."""
        self._call("Heal", fault_pb2.HealRequest(peers=tuple(peers)))

    def skew_clock(self, seconds: float) -> None:
        """Add so many seconds to the clock of the instance, in the place of a former skew; 0 ends it. Raises
        `IllegalParams`: nothing was changed."""
        request = fault_pb2.SetClockSkewRequest()
        try:
            request.skew.FromNanoseconds(round(seconds * 1e9))
        except (ValueError, OverflowError) as error:
            raise IllegalParams(f"a skew of {seconds} seconds ({error}); nothing was changed") from error
        self._call("SetClockSkew", request)

    def _call(self, method: str, request: Any) -> Any:
        stub = fault_pb2_grpc.FaultServiceStub(self._client._runner.link(self.place).channel)
        timeout_s = self._client._api.plans.options.timeout
        try:
            with forks.gate:
                return getattr(stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED and not error.trailing_metadata():
                raise Unimplemented(
                    f"{self.place} was started without fault injection; nothing was done",
                    next_command="synchro restart CONFIG:NAME --fault-injection",
                ) from None
            raise of_rpc_error(error, self.place) from None


def _number(action: str) -> fault_pb2.FailpointAction.ValueType:
    return fault_pb2.FailpointAction.Value(f"FAILPOINT_ACTION_{action.upper()}")


def _failpoint(point: Any) -> Failpoint:
    action = fault_pb2.FailpointAction.Name(point.action).removeprefix("FAILPOINT_ACTION_").lower()
    value = point.value
    if action == "delay":
        value = point.delay.ToNanoseconds() / 1e9
    elif action == "error":
        value = point.errno
    return Failpoint(
        name=point.name,
        meaning=point.meaning,
        is_armed=point.is_armed,
        action="" if action == "unspecified" else action,
        value=value,
        countdown=point.skip,
        times=point.times,
        peers=tuple(point.peers),
        passes=point.passes,
        triggers=point.triggers,
        waiting=point.waiting,
    )
