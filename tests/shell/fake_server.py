"""A replica set without logs and elections: real gRPC servers whose answers a test chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import msgpack

from synchro.errors import SynchroError, SyncQueueForeign
from synchro.rpc.generated.v1 import (
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
from synchro.rpc.status import status_code, to_status

Answer = Callable[[Any], Any]
"""ExecuteCall -> ExecuteReply, SynchroError, None (never answered) or "break" (the stream ends)."""


class FakeServer(
    data_pb2_grpc.DataServiceServicer,
    info_pb2_grpc.InfoServiceServicer,
    schema_pb2_grpc.SchemaServiceServicer,
    control_pb2_grpc.ControlServiceServicer,
    cluster_pb2_grpc.ClusterServiceServicer,
):
    """One instance. `rows`: what its space holds; `calls`, `frames`: what it was sent."""

    def __init__(
        self, number: int, port: int = 0, interceptors: Sequence[grpc.ServerInterceptor] = ()
    ) -> None:
        self.number = number
        self.writable = False
        self.leader: FakeServer | None = None
        self.term = 2
        self.position: tuple[int, int] | None = None
        self.answer: Answer = self.accept
        self.rows: list[Any] = []
        self.calls: list[Any] = []
        self.frames: list[int] = []
        self.selects: list[Any] = []
        self.claimed = True
        """Whether who leads owns the queue; else there is none, as with masters."""
        self.sync = True
        """Whether its spaces are."""
        self.silent = threading.Event()
        """Set: it takes calls, and says nothing, as a paused process."""
        self.ro_reason = "election"
        self.lsn = 0
        self.done: dict[bytes, int] = {}
        self.outcome = data_pb2.TRANSACTION_OUTCOME_COMMITTED
        self.waits = 0
        self.on_wait: Callable[[int], object] = lambda waits: None
        """Called with each WaitTransaction, and which one it is, from 1."""
        self.vclock: dict[int, int] = {}
        """What is on its disk."""
        self.stages: list[list[Any]] = [
            [data_pb2.TRANSACTION_STAGE_ON_DISK, data_pb2.TRANSACTION_STAGE_COMMITTED]
        ]
        """What each watch of a transaction is told, the last one again; "dies" ends the stream, a function is
        called."""
        obstacle = control_pb2.PromoteObstacle(reason="SPLIT_BRAIN", message="two histories")
        self.outlook = control_pb2.CheckPromoteResponse(
            term=5, previous_owner=1, confirmed=2, obstacles=[obstacle]
        )
        self.gate = threading.Event()
        self.gate.set()
        """While it is not set no frame is read."""
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(32), interceptors=list(interceptors), options=[("grpc.so_reuseport", 0)]
        )
        data_pb2_grpc.add_DataServiceServicer_to_server(self, self._server)
        info_pb2_grpc.add_InfoServiceServicer_to_server(self, self._server)
        schema_pb2_grpc.add_SchemaServiceServicer_to_server(self, self._server)
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, self._server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.gate.set()
        self._server.stop(None).wait()

    def lead(self, *others: FakeServer) -> None:
        self.writable = True
        for server in (self, *others):
            server.leader = self
            server.writable = server is self

    # --- answers

    def header(self) -> Any:
        header = common_pb2.Header(
            instance_id=self.number,
            instance_name=f"instance00{self.number}",
            term=self.term,
            vclock=self.vclock,
        )
        if self.position is not None:
            header.decided_position.term, header.decided_position.lsn = self.position
        return header

    def accept(self, call: Any) -> Any:
        """As an owner of a queue does: each request id once."""
        duplicate = call.request_id in self.done
        if not duplicate:
            self.lsn += 1
            self.done[call.request_id] = self.lsn
            for op in call.ops:
                self.rows.append(msgpack.unpackb(op.insert.tuple))
        tuples = [] if duplicate else [common_pb2.Tuple(msgpack=op.insert.tuple) for op in call.ops]
        return data_pb2.ExecuteReply(
            tuples=tuples,
            txn_origin=self.number,
            txn_lsn=self.done[call.request_id],
            is_sync=True,
            duplicate=duplicate,
        )

    def refuse(self, kind: type[SynchroError], **details: object) -> Answer:
        return lambda call: kind("refused", **details)

    def hint(self) -> Any:
        if self.leader is None or self.leader is self:
            return None
        return common_pb2.LeaderHint(
            instance_id=self.leader.number,
            instance_name=f"instance00{self.leader.number}",
            address=self.leader.address,
            term=self.term,
        )

    # --- services

    def ExecuteStream(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        self.gate.wait(10)
        for frame in requests:
            with self._lock:
                self.frames.append(len(frame.calls))
                for call in frame.calls:
                    if not call.HasField("known_position") and frame.HasField("known_position"):
                        call.known_position.CopyFrom(frame.known_position)
                self.calls += frame.calls
            results = []
            committed = []
            for call in frame.calls:
                answer = self.answer(call)
                if answer == "break":
                    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                elif isinstance(answer, SynchroError):
                    status = to_status(answer, self.hint())
                    results.append(data_pb2.ExecuteResult(seq=call.seq, error=status))
                elif (
                    answer is not None and frame.accepts_ranges and call.omit_tuples and not answer.duplicate
                ):
                    committed.append(_one(call, answer))
                elif answer is not None:
                    results.append(data_pb2.ExecuteResult(seq=call.seq, reply=answer))
            yield data_pb2.ExecuteStreamResponse(
                header=self.header(), results=results, committed=_joined(committed)
            )
            self.gate.wait(10)

    def Select(self, request: Any, context: Any) -> Any:
        self.selects.append(request)
        if request.read == data_pb2.READ_MODE_LINEARIZABLE and not self.writable:
            self._abort(context, SyncQueueForeign("not the owner"))
        start = msgpack.unpackb(request.after.msgpack)[0] if request.HasField("after") else -1
        left = [row for row in sorted(self.rows) if row[0] > start]
        page = left[: min(2, request.limit)] if request.HasField("limit") else left[:2]
        reply = data_pb2.SelectResponse(
            header=self.header(), tuples=[common_pb2.Tuple(msgpack=msgpack.packb(row)) for row in page]
        )
        if len(left) > len(page):
            reply.after.msgpack = msgpack.packb(page[-1])
        return reply

    def WaitTransaction(self, request: Any, context: Any) -> Any:
        self.waits += 1
        self.on_wait(self.waits)
        return data_pb2.WaitTransactionResponse(header=self.header(), outcome=self.outcome)

    def WatchTransaction(self, request: Any, context: Any) -> Iterator[Any]:
        txn = common_pb2.TxnId(origin=request.txn.origin, lsn=9)
        for told in self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]:
            if callable(told):
                told()
                continue
            if told == "dies":
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            reply = data_pb2.WatchTransactionResponse(header=self.header(), stage=told, txn=txn)
            if told == data_pb2.TRANSACTION_STAGE_ON_DISK:
                reply.acked_by.append(self.number)
                reply.missing.append(3)
                reply.quorum = 2
            yield reply

    def SyncWal(self, request: Any, context: Any) -> Any:
        return control_pb2.SyncWalResponse(header=self.header(), vclock={0: 2, self.number: 9})

    def CheckPromote(self, request: Any, context: Any) -> Any:
        self.outlook.header.CopyFrom(self.header())
        return self.outlook

    def WaitInfo(self, request: Any, context: Any) -> Any:
        state = next(self.WatchInfo(info_pb2.WatchInfoRequest(), context))
        return info_pb2.WaitInfoResponse(header=self.header(), state=state)

    def GetInfo(self, request: Any, context: Any) -> Any:
        tree: dict[Any, Any] = {"name": f"instance00{self.number}", "synchro": {"queue": {"len": 3}}}
        if list(request.paths) == ["replication"]:
            tree = {}
        return info_pb2.GetInfoResponse(header=self.header(), info_msgpack=msgpack.packb(tree))

    def WatchInfo(self, request: Any, context: Any) -> Iterator[Any]:
        self._be_silent(context)
        leader = self.leader
        yield info_pb2.WatchInfoResponse(
            header=self.header(),
            leader=leader.number if leader else 0,
            leader_name=f"instance00{leader.number}" if leader else "",
            leader_address=leader.address if leader else "",
            term=self.term,
            is_writable=self.writable,
            ro_reason="" if self.writable else self.ro_reason,
            queue_owner=leader.number if leader and self.claimed else 0,
        )
        stopped = threading.Event()
        context.add_callback(stopped.set)
        stopped.wait(10)

    def _be_silent(self, context: Any) -> None:
        while self.silent.is_set() and context.is_active():
            time.sleep(0.01)

    def GetSynchro(self, request: Any, context: Any) -> Any:
        return info_pb2.GetSynchroResponse(header=self.header(), quorum=2)

    def ListInstances(self, request: Any, context: Any) -> Any:
        return cluster_pb2.ListInstancesResponse(header=self.header())

    def ListSpaces(self, request: Any, context: Any) -> Any:
        space = schema_pb2.SpaceDef(
            name=request.space or "bands",
            is_sync=self.sync,
            format=[schema_pb2.FieldDef(name="id"), schema_pb2.FieldDef(name="name")],
        )
        return schema_pb2.ListSpacesResponse(header=self.header(), spaces=[space])

    def CreateSpace(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        self._be_silent(context)
        if not self.writable:
            from synchro.errors import ReadOnly

            self._abort(context, ReadOnly("refused"))
        return schema_pb2.CreateSpaceResponse(header=self.header(), created=True)

    def _abort(self, context: Any, error: SynchroError) -> None:
        from grpc_status import rpc_status

        status = to_status(error, self.hint())
        assert status_code(status) is not None
        context.abort_with_status(rpc_status.to_status(status))


def _one(call: Any, answer: Any) -> Any:
    return data_pb2.CommittedRange(
        first_seq=call.seq, count=1, txn_origin=answer.txn_origin, first_lsn=answer.txn_lsn
    )


def _joined(ranges: list[Any]) -> list[Any]:
    """Neighbours that go on in `seq` and LSN become one."""
    made: list[Any] = []
    for one in ranges:
        last = made[-1] if made else None
        if last and (last.first_seq + last.count, last.first_lsn + last.count) == (
            one.first_seq,
            one.first_lsn,
        ):
            last.count += 1
        else:
            made.append(one)
    return made
