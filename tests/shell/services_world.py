"""A node without disk and peers behind the services over real gRPC, and a client of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
import trio

from synchro.config import Limits
from synchro.errors import SynchroError
from synchro.instance.events import ClientPuts, ClientWrites
from synchro.rpc.channel import RpcChannel
from synchro.rpc.generated.v1 import cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2
from synchro.rpc.host import open_rpc_host
from synchro.rpc.services import ClientServices
from synchro.rpc.status import from_rpc_error
from synchro.wire.failure import CallFailed
from tests import messages
from tests.shell.fake_node import FakeNode

FILES = (cluster_pb2, control_pb2, data_pb2, info_pb2, schema_pb2)


class Client:
    """Calls a method by its name; a refusal is raised as the error it stands for."""

    def __init__(self, channel: RpcChannel) -> None:
        self.channel = channel
        self._methods = {
            method.name: (f"/{service.full_name}/{method.name}", file)
            for file in FILES
            for service in file.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }

    def path(self, name: str) -> tuple[str, type[Any], type[Any]]:
        path, file = self._methods[name]
        return path, getattr(file, name + "Request"), getattr(file, name + "Response")

    async def __call__(self, name: str, /, **fields: Any) -> Any:
        path, request, response = self.path(name)
        try:
            return await self.channel.unary(
                path,
                request(**fields),
                serializer=request.SerializeToString,
                deserializer=response.FromString,
                timeout=10,
            )
        except CallFailed as error:
            found = from_rpc_error(error)
            raise (found or error) from error

    async def refusal(self, name: str, /, **fields: Any) -> SynchroError:
        with pytest.raises(SynchroError) as caught:
            await self(name, **fields)
        return caught.value


@asynccontextmanager
async def serving(limits: Limits | None = None) -> AsyncIterator[tuple[FakeNode, Client]]:
    with trio.fail_after(30):
        async with open_rpc_host() as host, trio.open_nursery() as nursery:
            node = FakeNode(host, limits)
            services = node.services = ClientServices(node, host)
            nursery.start_soon(services.run)
            server = await host.serve("127.0.0.1:0", services.register)
            async with host.channel(server.address) as channel:
                yield node, Client(channel)
            nursery.cancel_scope.cancel()


async def with_bands(client: Client, **options: Any) -> None:
    await client(
        "CreateSpace",
        name="bands",
        format=[{"name": "id", "type": "unsigned"}, {"name": "band_name", "type": "string"}],
        **options,
    )
    await client("CreateIndex", space="bands", name="primary", parts=[{"name": "id"}])


def pack(*fields: Any) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def insert(*fields: Any, space: str = "bands") -> Any:
    return messages.op(insert={"space": space, "tuple": pack(*fields)})


def unpacked(tuples: Any) -> list[Any]:
    return [msgpack.unpackb(t.msgpack) if t.msgpack else None for t in tuples]


async def filled(client: Client, size: int = 10, text: str = "x") -> None:
    await with_bands(client)
    for n in range(size):
        await client("Execute", ops=[insert(n, text)])


class Stream:
    """Sends frames, collects results by seq."""

    def __init__(self, duplex: Any) -> None:
        self.duplex = duplex
        self.results: dict[int, Any] = {}
        self.frames = 0

    def send(self, *calls: dict[str, Any], **frame: Any) -> None:
        self.duplex.send_nowait(messages.frame(calls=calls, **frame))

    async def results_of(self, *seqs: int) -> list[Any]:
        while not self.results.keys() >= set(seqs):
            frame = await self.duplex.receive()
            self.frames += 1
            assert frame.header.instance_id == 1
            for result in frame.results:
                assert result.seq not in self.results  # WriteStream.X2
                self.results[result.seq] = result
        return [self.results[seq] for seq in seqs]


@asynccontextmanager
async def streaming(client: Client) -> AsyncIterator[Stream]:
    path, request, response = client.path("ExecuteStream")
    async with client.channel.duplex(
        path, serializer=request.SerializeToString, deserializer=response.FromString
    ) as duplex:
        yield Stream(duplex)


def named(seq: int, op: Any, **fields: Any) -> dict[str, Any]:
    """A call with a request id: neighbours like it may share a transaction."""
    return {"seq": seq, "ops": [op], "request_id": seq.to_bytes(16, "big"), **fields}


def steps_of(node: FakeNode) -> list[tuple[str, int]]:
    """What the core was told of the frame: kinds of events, and how many calls each has."""
    found = []
    for step in node.steps:
        if isinstance(step, ClientPuts):
            found.append((step.puts.type.name, len(step.call_ids)))
        else:
            assert isinstance(step, ClientWrites)
            found.append(("each", len(step.writes)))
    return found
