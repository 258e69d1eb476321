"""One instance as a client sees it: the plain generated stubs, no retries, no redirects.

Tests of the walk-throughs must know which instance answered what, so they do not use the client library,
which hides just that. Refusals come out as the `SynchroError` classes, everything gRPC itself says as `Lost`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import grpc
import msgpack
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from synchro.errors import SynchroError
from synchro.rpc.generated.fault.v1 import fault_pb2, fault_pb2_grpc
from synchro.rpc.generated.v1 import (
    auth_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    common_pb2,
    control_pb2,
    control_pb2_grpc,
    data_pb2,
    data_pb2_grpc,
    info_pb2,
    info_pb2_grpc,
    schema_pb2,
    schema_pb2_grpc,
)
from synchro.rpc.status import from_rpc_error

CALL_S: Final = 30.0
"""Deadline of a call that is not expected to wait; far above anything that is asserted."""
GRACE_S: Final = 10.0
"""How much later than the timeout it asked for a waiting call is given up."""
OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_retries", 0),
]

Txn = tuple[int, int]
COMMITTED: Final = data_pb2.TRANSACTION_OUTCOME_COMMITTED
ROLLED_BACK: Final = data_pb2.TRANSACTION_OUTCOME_ROLLED_BACK
PENDING: Final = data_pb2.TRANSACTION_OUTCOME_PENDING
UNKNOWN: Final = data_pb2.TRANSACTION_OUTCOME_UNKNOWN


class Lost(Exception):
    """No answer of the service: connection refused or broken, deadline of the caller, gRPC's own refusals."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        super().__init__(f"{self.code.name}: {error.details()}")


def ours(error: grpc.RpcError) -> SynchroError | Lost:
    return from_rpc_error(error) or Lost(error)


def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False, use_list=True)


def seconds(value: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(int(value * 1e9))
    return made


def as_float(value: Duration) -> float:
    return float(value.ToNanoseconds() / 1e9)


def insert(space: str, fields: Sequence[Any]) -> data_pb2.Op:
    return data_pb2.Op(insert=data_pb2.Insert(space=space, tuple=pack(fields)))


def replace(space: str, fields: Sequence[Any]) -> data_pb2.Op:
    return data_pb2.Op(replace=data_pb2.Replace(space=space, tuple=pack(fields)))


def update(space: str, key: Sequence[Any], ops: Sequence[Any]) -> data_pb2.Op:
    return data_pb2.Op(update=data_pb2.Update(space=space, key=pack(key), ops=pack(ops)))


class Write:
    """A write on its way. `result` waits; `is_done` does not."""

    def __init__(self, future: Any) -> None:
        self._future = future

    @property
    def is_done(self) -> bool:
        return bool(self._future.done())

    def result(self, timeout: float | None = None) -> Any:
        """Raises `SynchroError`, `Lost`, or `AssertionError` if there is no answer in time."""
        try:
            return self._future.result(timeout=timeout)
        except grpc.FutureTimeoutError:
            raise AssertionError(f"the write has not returned after {timeout} s") from None
        except grpc.RpcError as error:
            raise ours(error) from None

    def error(self, timeout: float | None = None) -> Exception | None:
        try:
            self.result(timeout)
        except (SynchroError, Lost) as error:
            return error
        return None


class Remote:
    """A channel to one address. Make a new one after the process was started again."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(address, options=OPTIONS)
        self.data = data_pb2_grpc.DataServiceStub(self.channel)
        self.auth = auth_pb2_grpc.AuthServiceStub(self.channel)
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)
        self.infos = info_pb2_grpc.InfoServiceStub(self.channel)
        self.schema = schema_pb2_grpc.SchemaServiceStub(self.channel)
        self.members = cluster_pb2_grpc.ClusterServiceStub(self.channel)
        self.faults = fault_pb2_grpc.FaultServiceStub(self.channel)
        self.healths = health_pb2_grpc.HealthStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def call(self, method: Any, request: Any, timeout: float = CALL_S) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise ours(error) from None

    # --- writes

    def begin(self, *ops: Any, timeout: float | None = None, request_id: bytes = b"", wait: Any = 0) -> Write:
        """Send a transaction. timeout: seconds to wait for the decision; None: the server's."""
        request = data_pb2.ExecuteRequest(
            ops=ops, request_id=request_id, wait=wait, encoding=common_pb2.ENCODING_MSGPACK
        )
        if timeout is not None:
            request.timeout.CopyFrom(seconds(timeout))
        deadline = 1000.0 if timeout is None else timeout + GRACE_S
        return Write(self.data.Execute.future(request, timeout=deadline))

    def execute(self, *ops: Any, timeout: float | None = CALL_S, **more: Any) -> Any:
        return self.begin(*ops, timeout=timeout, **more).result()

    def insert(self, space: str, *fields: Any, **more: Any) -> Txn:
        return txn_of(self.execute(insert(space, fields), **more))

    def replace(self, space: str, *fields: Any, **more: Any) -> Txn:
        return txn_of(self.execute(replace(space, fields), **more))

    def wait_transaction(self, txn: Txn, timeout: float = CALL_S) -> int:
        """The outcome, one of TransactionOutcome."""
        request = data_pb2.WaitTransactionRequest(timeout=seconds(timeout))
        request.txn.origin, request.txn.lsn = txn
        return int(self.call(self.data.WaitTransaction, request, timeout + GRACE_S).outcome)

    # --- reads

    def select(
        self, space: str, key: Sequence[Any] = (), iterator: str = "GE", *, linearizable: bool = False
    ) -> list[Any]:
        request = data_pb2.SelectRequest(
            space=space,
            key=common_pb2.Tuple(msgpack=pack(list(key))),
            iterator=iterator,
            encoding=common_pb2.ENCODING_MSGPACK,
            read=data_pb2.READ_MODE_LINEARIZABLE if linearizable else data_pb2.READ_MODE_CONFIRMED,
        )
        found: list[Any] = []
        while True:
            reply = self.call(self.data.Select, request)
            found += [unpack(message.msgpack) for message in reply.tuples]
            if not reply.HasField("after"):
                return found
            request.after.CopyFrom(reply.after)

    def checksum(self, space: str) -> tuple[int, str]:
        reply = self.call(self.schema.ChecksumSpace, schema_pb2.ChecksumSpaceRequest(space=space))
        return reply.count, reply.checksum

    # --- schema

    def create_space(
        self, name: str, *, is_sync: bool = False, format: Iterable[tuple[str, str]] = ()
    ) -> Any:
        request = schema_pb2.CreateSpaceRequest(
            name=name,
            is_sync=is_sync,
            format=[schema_pb2.FieldDef(name=field, type=kind) for field, kind in format],
            timeout=seconds(CALL_S),
        )
        return self.call(self.schema.CreateSpace, request, CALL_S + GRACE_S).space

    def create_index(self, space: str, name: str = "pk") -> Any:
        request = schema_pb2.CreateIndexRequest(space=space, name=name, timeout=seconds(CALL_S))
        return self.call(self.schema.CreateIndex, request, CALL_S + GRACE_S).index

    def create(self, name: str, *, is_sync: bool, format: Iterable[tuple[str, str]] = ()) -> None:
        """A space with a primary index on its first field, unsigned."""
        self.create_space(name, is_sync=is_sync, format=format)
        self.create_index(name)

    def space(self, name: str) -> Any:
        return self.call(self.schema.ListSpaces, schema_pb2.ListSpacesRequest(space=name)).spaces[0]

    # --- what it says about itself

    def info(self, path: str = "", timeout: float = CALL_S) -> Any:
        request = info_pb2.GetInfoRequest(paths=[path] if path else [], encoding=common_pb2.ENCODING_MSGPACK)
        return unpack(self.call(self.infos.GetInfo, request, timeout).info_msgpack)

    def queue(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.info("synchro.queue")
        return found

    def entries(self) -> list[Any]:
        return list(self.call(self.infos.ListQueue, info_pb2.ListQueueRequest()).entries)

    def waiting_on_disk(self, count: int) -> list[Txn]:
        """Names of the entries of the queue; none unless there are `count` and all are written."""
        names = [(entry.txn.origin, entry.txn.lsn) for entry in self.entries()]
        return names if len(names) == count and all(lsn for _, lsn in names) else []

    def vclock(self) -> dict[int, int]:
        """Without component 0, which counts what stays on the instance."""
        return {member: lsn for member, lsn in self.info("vclock").items() if member and lsn}

    def list_instances(self) -> list[Any]:
        return list(self.call(self.members.ListInstances, cluster_pb2.ListInstancesRequest()).instances)

    def health(self, service: str = "", timeout: float = CALL_S) -> bool:
        reply = self.call(self.healths.Check, health_pb2.HealthCheckRequest(service=service), timeout)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    # --- commands

    def promote(self, timeout: float = CALL_S) -> Any:
        request = control_pb2.PromoteRequest(timeout=seconds(timeout))
        return self.call(self.control.Promote, request, timeout + GRACE_S)

    def demote(self, timeout: float = CALL_S) -> Any:
        request = control_pb2.DemoteRequest(timeout=seconds(timeout))
        return self.call(self.control.Demote, request, timeout + GRACE_S)

    def snapshot(self) -> Any:
        return self.call(self.control.Checkpoint, control_pb2.CheckpointRequest())

    def partition(self, *peers: str, way: str = "BOTH") -> None:
        """Needs an instance that was started with faults. way: IN (what they send), OUT, or BOTH."""
        direction = fault_pb2.PartitionDirection.Value(f"PARTITION_DIRECTION_{way}")
        self.call(self.faults.Partition, fault_pb2.PartitionRequest(peers=peers, direction=direction))

    def heal(self) -> None:
        self.call(self.faults.Heal, fault_pb2.HealRequest())

    def pause_at(self, failpoint: str, skip: int = 0) -> None:
        request = fault_pb2.SetFailpointRequest(
            name=failpoint, action=fault_pb2.FAILPOINT_ACTION_PAUSE, skip=skip
        )
        self.call(self.faults.SetFailpoint, request)

    def clear(self, failpoint: str = "") -> None:
        self.call(self.faults.ClearFailpoint, fault_pb2.ClearFailpointRequest(name=failpoint))


def txn_of(reply: Any) -> Txn:
    return reply.txn.origin, reply.txn.lsn
