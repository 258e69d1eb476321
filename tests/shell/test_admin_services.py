"""What operators and probes call over real gRPC: info, members, commands, health, reflection; the node has no
disk and no peers."""

# ruff: noqa: ASYNC110 - what we wait for sets no event

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import trio
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from synchro import errors
from synchro.ids import InstanceId, Term
from synchro.ro_reason import RoReason
from synchro.server.api import LeaderFacts
from tests.shell.services_world import Client, serving

# --- InfoService, ClusterService ------------------------------------------------------------------------


async def test_info_whole_and_in_parts() -> None:
    async with serving() as (node, client):
        whole = await client("GetInfo", encoding="ENCODING_MSGPACK")
        assert msgpack.unpackb(whole.info_msgpack, strict_map_key=False) == node.info()
        one = await client("GetInfo", paths=["synchro.queue.len"])
        assert one.info.number_value == 1
        two = await client("GetInfo", paths=["vclock", "replication.3.upstream.status"])
        assert MessageToDict(two.info) == {"vclock": {"1": 14.0}, "replication.3.upstream.status": "follow"}
        assert isinstance(await client.refusal("GetInfo", paths=["synchro.nope"]), errors.IllegalParams)
        assert isinstance(await client.refusal("GetInfo", paths=["ro.deeper"]), errors.IllegalParams)
        for number in ("9" * 5000, "1" * 21, "\u0663\u0663"):
            error = await client.refusal("GetInfo", paths=[f"vclock.{number}"])
            assert isinstance(error, errors.IllegalParams)


async def test_the_queue() -> None:
    async with serving() as (_, client):
        short = await client("GetSynchro")
        assert (short.queue.owner, short.queue.len, short.quorum, short.queue.busy) == (1, 1, 2, False)
        assert (short.queue.age.seconds, short.queue.age.nanos) == (1, 500_000_000)
        listed = await client("ListQueue", limit=2)
        assert [entry.txn.lsn for entry in listed.entries] == [12, 13]
        assert list(listed.entries[0].acked_by) == [1]
        assert list(listed.entries[0].missing) == [2]
        (owing,) = listed.entries[0].waits_for
        assert (owing.instance_id, owing.is_connected, owing.since.seconds) == (2, False, 4)  # [I-27]


async def test_watchers_get_the_state_at_once_and_then_changes() -> None:
    """[E-51]"""
    async with serving() as (node, client):
        path, request, response = client.path("WatchInfo")
        async with client.channel.server_stream(
            path,
            request(),
            serializer=request.SerializeToString,
            deserializer=response.FromString,
        ) as replies:
            first = await anext(replies)
            assert first.is_writable
            assert first.leader == 0
            node.instance.ro_reason = RoReason.ELECTION
            node.leader_facts = LeaderFacts(InstanceId(2), "instance002", "h:2", Term(3))
            node.change()
            second = await anext(replies)
            assert (second.is_writable, second.ro_reason) == (False, "election")
            assert (second.leader, second.leader_address) == (2, "h:2")


async def test_waiting_for_a_state() -> None:
    """[E-43]: answered when it is so, at once if it is; else the refusal says how it is."""
    async with serving() as (node, client):
        done = await client("WaitInfo", condition="WAIT_CONDITION_WRITABLE")
        assert done.state.is_writable and done.header.instance_name == "instance001"
        assert (done.state.election_state, done.state.queue_term) == ("follower", 2)
        soon = {"timeout": {"nanos": 20_000_000}}
        error = await client.refusal("WaitInfo", condition="WAIT_CONDITION_READ_ONLY", **soon)
        assert isinstance(error, errors.TimedOut) and "did not become read-only within 0.02 s" in str(error)
        error = await client.refusal("WaitInfo", condition="WAIT_CONDITION_LEADER", **soon)
        assert "did not hear of a leader" in str(error)
        assert isinstance(await client.refusal("WaitInfo"), errors.IllegalParams)
        states: list[Any] = []

        async def wait(condition: str) -> None:
            states.append((await client("WaitInfo", condition=condition)).state)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "WAIT_CONDITION_READ_ONLY")
            nursery.start_soon(wait, "WAIT_CONDITION_LEADER")
            await trio.sleep(0.05)
            assert not states
            node.instance.ro_reason = RoReason.SYNCHRO
            node.leader_facts = LeaderFacts(InstanceId(2), "instance002", "h:2", Term(3))
            node.change()
        assert {state.ro_reason for state in states} == {"synchro"}
        assert {state.leader_address for state in states} == {"h:2"}
        error = await client.refusal("WaitInfo", condition="WAIT_CONDITION_WRITABLE", **soon)
        assert "(ro_reason: synchro)" in str(error)


async def test_members() -> None:
    async with serving() as (node, client):
        """Leadership is of the election, ownership of the queue."""
        node.leader_facts = LeaderFacts(InstanceId(1), "instance001", "h:1", Term(2))
        listed = (await client("ListInstances")).instances
        assert [(i.is_leader, i.owns_queue) for i in listed] == [
            (False, True),
            (False, False),
            (False, False),
        ]
        tree = node.info() | {"leader_seen": True, "election": {"leader": 1}}
        node.info = lambda: tree  # type: ignore[method-assign]
        listed = (await client("ListInstances")).instances
        assert [(i.id, i.name, i.address, i.is_self, i.is_leader) for i in listed] == [
            (1, "instance001", "h:1", True, True),
            (3, "", "", False, False),
            (0, "instance002", "h:2", False, False),
        ]
        assert listed[1].upstream_status == "follow"
        assert listed[1].upstream_idle.nanos == 250_000_000


# --- ControlService, health, reflection -----------------------------------------------------------------


async def test_operators_commands() -> None:
    async with serving() as (node, client):
        done = await client("Promote")
        assert (done.term, done.previous_owner, done.confirmed, done.rolled_back) == (3, 1, 2, 1)
        assert (await client("Demote")).term == 4
        snapshot = await client("Checkpoint")
        assert dict(snapshot.vclock) == {1: 1}
        assert snapshot.signature == 1
        assert dict((await client("SyncWal")).vclock) == {1: 1}  # [W-48]
        node.sync_error = errors.WalIo("no room; nothing was written")
        assert isinstance(await client.refusal("SyncWal"), errors.WalIo)
        outlook = await client("CheckPromote")  # [P-16]
        assert (outlook.is_owner, outlook.term, outlook.previous_owner) == (False, 3, 1)
        assert (outlook.confirmed, outlook.missing_rows) == (2, 4)
        assert [one.reason for one in outlook.obstacles] == ["NO_ELECTION_QUORUM"]
        node.checkpoint_error = errors.CheckpointInProgress("a snapshot is being written")
        assert isinstance(await client.refusal("Checkpoint"), errors.CheckpointInProgress)
        await client("RestartUpstream", instance="instance002")
        assert node.restarted == ["instance002"]
        for instance in ("", "instance009"):
            assert isinstance(
                await client.refusal("RestartUpstream", instance=instance), errors.IllegalParams
            )


@pytest.mark.parametrize("name", ["CheckConfig", "ReloadConfig", "SetConfig"])
async def test_without_a_file_there_is_no_configuration_to_change(name: str) -> None:
    async with serving() as (_, client):
        fields = {"key": "replication.timeout", "value": "2"} if name == "SetConfig" else {}
        error = await client.refusal(name, **fields)
        assert isinstance(error, errors.ConfigError)
        assert "nothing was changed. Next:" in str(error)


async def health(client: Client, service: str) -> int:
    reply = await client.channel.unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest(service=service),
        serializer=health_pb2.HealthCheckRequest.SerializeToString,
        deserializer=health_pb2.HealthCheckResponse.FromString,
        timeout=5,
    )
    return int(reply.status)


async def until(condition: Callable[[], Any]) -> None:
    while not await condition():
        await trio.sleep(0.01)


async def test_health_follows_the_node() -> None:
    async with serving() as (node, client):

        async def is_serving(service: str) -> bool:
            return bool(await health(client, service) == health_pb2.HealthCheckResponse.SERVING)

        for service in ("", "synchro.v1.DataService", "rw", "quorum"):
            await until(lambda service=service: is_serving(service))  # type: ignore[misc]
        node.instance.ro_reason = RoReason.CONFIG
        node.change()
        while await is_serving("rw"):
            await trio.sleep(0.01)
        assert await is_serving("synchro.v1.DataService")


async def test_reflection_lists_the_services() -> None:
    async with (
        serving() as (_, client),
        client.channel.duplex(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        ) as stream,
    ):
        stream.send_nowait(reflection_pb2.ServerReflectionRequest(list_services=""))
        reply = await stream.receive()
        names = {service.name for service in reply.list_services_response.service}
        assert names >= {f"synchro.v1.{n}Service" for n in ("Data", "Schema", "Info", "Control", "Cluster")}
        assert "grpc.health.v1.Health" in names
        stream.send_nowait(
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="synchro.v1.DataService")
        )
        assert (await stream.receive()).file_descriptor_response.file_descriptor_proto
