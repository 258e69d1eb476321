"""Our services as clients of others ask them: data, info, health and reflection, on a node without disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest
import trio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from synchro.errors import NoSuchSpace
from synchro.ro_reason import RoReason
from synchro.rpc.generated.v1 import data_pb2, info_pb2, schema_pb2
from synchro.rpc.host import RpcHost
from synchro.rpc.methods import Registrar
from synchro.rpc.services import ClientServices
from synchro.rpc.status import from_trailing_metadata
from synchro.wire.grpc_call import StatusCode
from tests import messages
from tests.conformance.exchange import Exchange, Face, FaceOptions, Kind, Outcome
from tests.conformance.faces import FACES, SyncFace, open_face
from tests.conformance.servers import OurServer
from tests.shell.fake_node import FakeNode
from tests.shell.services_world import insert, named, unpacked

DATA: Final = "/synchro.v1.DataService"
SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


@dataclass
class World:
    """A node behind our server."""

    server: OurServer
    node: FakeNode

    def tell(self, change: Callable[[FakeNode], None]) -> None:
        """Change the node, and say so to who watches it."""

        def work() -> None:
            change(self.node)
            changed, self.node.changed = self.node.changed, trio.Event()
            changed.set()

        self.server.ask(work)


@pytest.fixture
def world() -> Iterator[World]:
    nodes: list[FakeNode] = []

    def services(host: RpcHost, nursery: trio.Nursery) -> Callable[[Registrar], None]:
        nodes.append(FakeNode(host))
        services = ClientServices(nodes[0], host)
        nursery.start_soon(services.run)
        return services.register

    with OurServer(register=services) as server:
        yield World(server, nodes[0])


@pytest.fixture(params=list(FACES))
def face(request: pytest.FixtureRequest, world: World) -> Iterator[Face]:
    face = open_face(request.param, world.server.address)
    yield face
    face.close()


@pytest.fixture
def channel(world: World) -> Iterator[grpc.Channel]:
    """grpcio's, for the clients that come with it."""
    face = SyncFace(world.server.address, FaceOptions())
    yield face.channel
    face.close()


def call(face: Face, path: str, *requests: Any, kind: Kind = Kind.UNARY, **how: Any) -> Outcome:
    return face.run(Exchange(path, tuple(request.SerializeToString() for request in requests), kind, **how))


def with_bands(face: Face) -> None:
    space = schema_pb2.CreateSpaceRequest(
        name="bands",
        format=[
            schema_pb2.FieldDef(name="id", type="unsigned"),
            schema_pb2.FieldDef(name="band_name", type="string"),
        ],
    )
    index = schema_pb2.CreateIndexRequest(
        space="bands", name="primary", parts=[schema_pb2.KeyPart(name="id")]
    )
    assert call(face, "/synchro.v1.SchemaService/CreateSpace", space).code is StatusCode.OK
    assert call(face, "/synchro.v1.SchemaService/CreateIndex", index).code is StatusCode.OK


def test_transactions_alone_and_in_a_stream(face: Face) -> None:
    with_bands(face)
    call(face, f"{DATA}/Execute", messages.request(ops=[insert(0, "Roxette")]))
    frames = [messages.frame(calls=[named(n, insert(n, "x" * 1000))]) for n in range(1, 51)]
    streamed = call(face, f"{DATA}/ExecuteStream", *frames, kind=Kind.BOTH)
    results = [
        result
        for reply in streamed.replies
        for result in data_pb2.ExecuteStreamResponse.FromString(reply).results
    ]
    assert streamed.code is StatusCode.OK
    assert sorted(result.seq for result in results) == list(range(1, 51))
    selected = call(face, f"{DATA}/Select", data_pb2.SelectRequest(space="bands", limit=100))
    rows = unpacked(data_pb2.SelectResponse.FromString(selected.reply).tuples)
    assert rows == [[0, "Roxette"], *([n, "x" * 1000] for n in range(1, 51))]


def test_a_refusal_is_the_same_error_for_all(face: Face) -> None:
    outcome = call(face, f"{DATA}/Select", data_pb2.SelectRequest(space="bäntz"))
    assert outcome.code is StatusCode.NOT_FOUND
    assert outcome.trailing is not None
    error = from_trailing_metadata(
        (key, value) for key, values in outcome.trailing.items() for value in values
    )
    assert isinstance(error, NoSuchSpace)
    assert error.details["space"] == "bäntz"


def test_bytes_that_are_no_message_are_refused(face: Face) -> None:
    outcome = face.run(Exchange(f"{DATA}/Execute", (b"\xff\xff",)))
    assert "nothing was done" in outcome.refused(StatusCode.INVALID_ARGUMENT)


def test_a_watch_tells_at_once_and_then_waits(face: Face) -> None:
    outcome = call(
        face,
        "/synchro.v1.InfoService/WatchInfo",
        info_pb2.WatchInfoRequest(),
        kind=Kind.SERVER,
        timeout_s=0.5,
    )
    assert outcome.code is StatusCode.DEADLINE_EXCEEDED
    assert len(outcome.replies) == 1


# --- health, as grpcio's own client asks ------------------------------------------------------------------


def asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


def test_health_check_and_list(world: World, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    world.server.journal.wait("writable", lambda: stub.Check(asked("rw")).status == SERVING)
    assert stub.Check(asked("")).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(asked("nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    listed = stub.List(health_pb2.HealthListRequest()).statuses
    assert {"", "rw", "quorum", "synchro.v1.DataService"} == set(listed)
    assert listed[""].status == SERVING


def test_health_watch_tells_of_each_change(world: World, channel: grpc.Channel) -> None:
    def stop_writes(node: FakeNode) -> None:
        node.instance.ro_reason = RoReason.CONFIG

    def start_writes(node: FakeNode) -> None:
        node.instance.ro_reason = RoReason.NONE

    stub = health_pb2_grpc.HealthStub(channel)
    world.server.journal.wait("writable", lambda: stub.Check(asked("rw")).status == SERVING)
    watched = stub.Watch(asked("rw"))
    assert next(watched).status == SERVING
    world.tell(stop_writes)
    assert next(watched).status == NOT_SERVING
    world.tell(start_writes)
    assert next(watched).status == SERVING
    watched.cancel()
    assert next(stub.Watch(asked("nobody"))).status == UNKNOWN


# --- reflection -------------------------------------------------------------------------------------------

SERVICES: Final = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    *(f"synchro.v1.{name}Service" for name in ("Cluster", "Control", "Data", "Info", "Schema")),
}


@pytest.fixture(params=["v1alpha", "v1"])
def definitions(request: pytest.FixtureRequest, channel: grpc.Channel) -> ProtoReflectionDescriptorDatabase:
    """grpcio's client of reflection; it knows v1alpha, and v1 has the same messages."""
    database = ProtoReflectionDescriptorDatabase(channel)
    database._stub.ServerReflectionInfo = channel.stream_stream(
        f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return database


def test_reflection_gives_what_is_needed_to_make_a_call(
    definitions: ProtoReflectionDescriptorDatabase, channel: grpc.Channel
) -> None:
    assert set(definitions.get_services()) >= SERVICES
    pool = DescriptorPool(definitions)
    for service in SERVICES - {"grpc.reflection.v1.ServerReflection"}:
        assert pool.FindServiceByName(service).methods
    method = pool.FindServiceByName("synchro.v1.DataService").FindMethodByName("Select")
    assert method.input_type.full_name == "synchro.v1.SelectRequest"
    assert pool.FindMessageTypeByName("synchro.v1.SelectRequest").fields_by_name["limit"].number
    with pytest.raises(KeyError):
        pool.FindMessageTypeByName("synchro.v1.Nothing")


def test_reflection_describes_v1_too(channel: grpc.Channel) -> None:
    method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    ask = channel.stream_stream(
        method,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in sorted(SERVICES)
    ]
    answers = list(ask(iter(questions)))
    assert len(answers) == len(SERVICES)
    assert all(answer.WhichOneof("message_response") == "file_descriptor_response" for answer in answers)
