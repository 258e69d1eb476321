"""The services over real gRPC, in front of a node without disk and peers."""

# ruff: noqa: ASYNC110 - what we wait for sets no event

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import msgpack
import pytest
import trio
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from synchro import errors
from synchro.config import Limits
from synchro.errors import SynchroError
from synchro.ids import InstanceId, Lsn, Term
from synchro.instance.events import ClientPuts, ClientWrites
from synchro.ro_reason import RoReason
from synchro.rpc import data_service
from synchro.rpc.generated.v1 import (
    cluster_pb2,
    common_pb2,
    control_pb2,
    data_pb2,
    info_pb2,
    schema_pb2,
)
from synchro.rpc.host import RpcChannel, open_rpc_host
from synchro.rpc.services import ClientServices
from synchro.rpc.status import from_rpc_error, from_status, leader_hint
from synchro.server.api import LeaderFacts
from synchro.vclock import Vclock
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
        except grpc.aio.AioRpcError as error:
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
            services = ClientServices(node, host)
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
    return msgpack.packb(fields)


def insert(*fields: Any, space: str = "bands") -> Any:
    return data_pb2.Op(insert={"space": space, "tuple": pack(*fields)})


def unpacked(tuples: Any) -> list[Any]:
    return [msgpack.unpackb(t.msgpack) if t.msgpack else None for t in tuples]


# --- DataService ----------------------------------------------------------------------------------------


async def test_a_transaction_and_its_reply() -> None:
    async with serving() as (_, client):
        await with_bands(client, is_sync=True)
        reply = await client(
            "Execute",
            ops=[
                insert(1, "Roxette"),
                data_pb2.Op(replace={"space": "bands", "tuple": pack(2, "ABBA")}),
                data_pb2.Op(update={"space": "bands", "key": pack(2), "ops": pack(["=", 2, "Ace of Base"])}),
                data_pb2.Op(upsert={"space": "bands", "tuple": pack(3, "x"), "ops": pack()}),
                data_pb2.Op(delete={"space": "bands", "index": "primary", "key": pack(1)}),
                data_pb2.Op(delete={"space": "bands", "key": pack(9)}),
            ],
        )
        assert unpacked(reply.tuples) == [
            [1, "Roxette"], [2, "ABBA"], [2, "Ace of Base"], None, [1, "Roxette"], None,
        ]  # fmt: skip
        assert reply.is_sync
        assert (reply.txn.origin, reply.txn.lsn) == (1, reply.header.vclock[1])
        assert (reply.header.instance_name, reply.header.term, reply.header.schema_version) == (
            "instance001",
            2,
            7,
        )
        assert (reply.header.decided_position.term, reply.header.decided_position.lsn) == (2, 1)


async def test_by_hand_everything_is_json() -> None:
    """grpcurl users write JSON and read JSON."""
    async with serving() as (_, client):
        await with_bands(client)
        op = data_pb2.Op()
        op.insert.space = "bands"
        op.insert.tuple_json.extend([5, "Пинк Флойд"])
        reply = await client("Execute", ops=[op])
        assert MessageToDict(reply.tuples[0]) == {"json": [5.0, "Пинк Флойд"]}

        found = await client("Select", space="bands", encoding="ENCODING_JSON")
        assert MessageToDict(found.tuples[0]) == {"json": [5.0, "Пинк Флойд"]}


async def test_a_retry_is_done_once() -> None:
    async with serving() as (_, client):
        await with_bands(client)
        first = await client("Execute", ops=[insert(1, "a")], request_id=b"x" * 16)
        second = await client("Execute", ops=[insert(1, "a")], request_id=b"x" * 16)
        assert second.duplicate
        assert second.txn == first.txn
        assert not second.tuples


async def test_wait_modes_and_tuples_nobody_wants() -> None:
    async with serving() as (_, client):
        await with_bands(client)
        assert (await client("Execute", ops=[insert(1, "a")], wait="WAIT_MODE_SUBMIT")).HasField("txn")
        assert not (await client("Execute", ops=[insert(2, "a")], wait="WAIT_MODE_NONE")).HasField("txn")
        assert not (await client("Execute", ops=[insert(3, "a")], omit_tuples=True)).tuples


async def test_a_timeout_says_unknown_and_names_the_transaction() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        node.hold = True
        error = await client.refusal("Execute", ops=[insert(1, "a")], timeout={"nanos": 10_000_000})
        assert isinstance(error, errors.SyncTimeout)
        assert error.details.items() >= {
            ("outcome", "unknown"),
            ("txn", "1:15"),
            ("acked", "1"),
            ("needed", "2"),
        }


async def test_a_client_that_goes_away_is_dropped() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        node.hold = True
        with trio.move_on_after(0.1):
            path, request, response = client.path("Execute")
            await client.channel.unary(
                path,
                request(ops=[insert(1, "a")]),
                serializer=request.SerializeToString,
                deserializer=response.FromString,
            )
        while not node.abandoned:
            await trio.sleep(0.01)
        assert not node.held


async def test_a_refusal_tells_who_leads() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        node.instance.ro_reason = RoReason.ELECTION
        node.leader_facts = LeaderFacts(InstanceId(2), "instance002", "h:2", Term(3))
        error = await client.refusal("Execute", ops=[insert(1, "a")])
        assert isinstance(error, errors.ReadOnly)
        assert error.details["ro_reason"] == "election"
        hint = leader_hint(error)
        assert hint is not None
        assert (hint.instance_id, hint.address) == (2, "h:2")


@pytest.mark.parametrize(
    ("ops", "kind", "details"),
    [
        (
            [data_pb2.Op(insert={"space": "bands", "tuple": b"\x92\x01"})],
            errors.WrongFormat,
            {"field": "ops[0].insert"},
        ),
        (
            [data_pb2.Op(insert={"space": "bands", "tuple": b"\x05"})],
            errors.WrongFormat,
            {"field": "ops[0].insert"},
        ),
        ([insert("one", "a")], errors.FieldType, {}),
        ([insert(1)], errors.FieldMissing, {}),
        ([insert(1, "a"), insert(1, "b")], errors.TupleFound, {"space": "bands", "index": "primary"}),
        ([insert(1, "a", space="bnds")], errors.NoSuchSpace, {"space": "bnds", "nearest": "bands"}),
        ([data_pb2.Op(insert={"space_id": 999, "tuple": pack(1)})], errors.NoSuchSpace, {}),
        (
            [data_pb2.Op(delete={"space": "bands", "index": "primry", "key": pack(1)})],
            errors.NoSuchIndex,
            {"index": "primry", "nearest": "primary", "space": "bands"},
        ),
        ([data_pb2.Op(delete={"space": "bands", "key": pack("a")})], errors.KeyPartType, {}),
        ([data_pb2.Op(delete={"space": "bands", "key": pack(1, 2)})], errors.SynchroError, {}),
        ([insert(n, "a") for n in range(6)], errors.BatchTooLarge, {"limit": "5", "got": "6"}),
        ([], errors.IllegalParams, {"field": "ops"}),
    ],
)
async def test_bad_input_is_refused_with_its_own_reason(
    ops: list[Any], kind: type[SynchroError], details: dict[str, str]
) -> None:
    async with serving(Limits(batch_ops_max=5)) as (_, client):
        await with_bands(client)
        error = await client.refusal("Execute", ops=ops)
        assert isinstance(error, kind)
        assert error.details.items() >= details.items()


async def test_while_loading_reads_and_writes_are_refused_and_info_is_not() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        node.loading = True
        assert isinstance(await client.refusal("Execute", ops=[insert(1, "a")]), errors.Loading)
        assert isinstance(await client.refusal("Select", space="bands"), errors.Loading)
        assert (await client("GetInfo")).info


# --- Select, WaitTransaction ----------------------------------------------------------------------------


async def filled(client: Client, size: int = 10, text: str = "x") -> None:
    await with_bands(client)
    for n in range(size):
        await client("Execute", ops=[insert(n, text)])


async def test_select_in_pages() -> None:
    async with serving() as (_, client):
        await filled(client)
        seen: list[Any] = []
        after: Any = None
        while True:
            page = await client("Select", space="bands", iterator="ge", limit=4, after=after)
            seen += unpacked(page.tuples)
            if not page.HasField("after"):
                break
            after = page.after
        assert [t[0] for t in seen] == list(range(10))
        assert page.read_at[1] == page.header.vclock[1]


async def test_select_iterators_and_offset() -> None:
    async with serving() as (_, client):
        await filled(client)
        key = common_pb2.Tuple(msgpack=pack(7))
        found = await client("Select", space_id=512, key=key, iterator="LT", offset=1, limit=2)
        assert [t[0] for t in unpacked(found.tuples)] == [5, 4]
        assert [t[0] for t in unpacked((await client("Select", space="bands", key=key)).tuples)] == [7]
        assert not (await client("Select", space="bands", key=key, limit=0)).tuples


async def test_a_large_answer_comes_in_parts() -> None:
    async with serving(Limits(select_bytes_max=1000)) as (_, client):
        await filled(client, text="x" * 300)
        page = await client("Select", space="bands")
        assert 1 <= len(page.tuples) < 10
        assert page.HasField("after")


async def test_system_spaces_can_be_read() -> None:
    async with serving() as (_, client):
        found = await client("Select", space="_cluster", encoding="ENCODING_JSON")
        assert MessageToDict(found.tuples[0])["json"][0] == 1


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"space": "bands", "iterator": "sideways"}, errors.IteratorType),
        ({"space": "bnds"}, errors.NoSuchSpace),
        ({"space": "bands", "index": "nope"}, errors.NoSuchIndex),
        ({"space": "bands", "index_id": 7}, errors.NoSuchIndex),
        ({}, errors.IllegalParams),
        ({"space": "bands", "key": {"msgpack": b"\xc1"}}, errors.WrongFormat),
        ({"space": "bands", "key": {"msgpack": msgpack.packb(["a"])}}, errors.KeyPartType),
        ({"space": "bands", "key": {"msgpack": msgpack.packb([1, 2])}}, errors.KeyPartCount),
        ({"space": "bands", "min_vclock": {1: 10_000}, "timeout": {"nanos": 1_000_000}}, errors.TimedOut),
        ({"space": "bands", "timeout": {"seconds": -1}}, errors.IllegalParams),
        ({"space": "bands", "read": 9}, errors.IllegalParams),
    ],
)
async def test_bad_reads(fields: dict[str, Any], kind: type[SynchroError]) -> None:
    async with serving() as (_, client):
        await with_bands(client)
        assert type(await client.refusal("Select", **fields)) is kind


async def test_reads_wait_for_a_vclock() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        wanted = int(node.instance.vclock.get(InstanceId(1))) + 5
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                found = await client("Select", space="bands", min_vclock={1: wanted})
                assert found.read_at[1] == wanted

            nursery.start_soon(read)
            await trio.sleep(0.05)
            node.instance.vclock = Vclock({InstanceId(1): Lsn(wanted)})
            node.change()


async def test_linearizable_reads_ask_the_core_first() -> None:
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        await client("Execute", ops=[insert(1, "x")])
        node.steps.clear()
        found = await client("Select", space="bands", read="READ_MODE_LINEARIZABLE")
        assert len(found.tuples) == 1
        assert [type(step).__name__ for step in node.steps] == ["ReadBarrierRequested"]


async def test_a_linearizable_read_is_for_rows_that_a_quorum_holds() -> None:
    """[Q-60], MEND-Q2: a row of an asynchronous space may vanish with its owner; system spaces are
    allowed."""
    async with serving() as (node, client):
        await filled(client, 1)
        node.steps.clear()
        refused = await client.refusal("Select", space="bands", read="READ_MODE_LINEARIZABLE")
        assert isinstance(refused, errors.Unsupported)
        assert "Space 'bands' does not support linearizable operations" in refused.message
        assert node.steps == []
        for options in ({"is_sync": True}, {"is_local": True}, {"is_temporary": True}):
            name = next(iter(options))
            await client("CreateSpace", name=name, **options)
            await client("CreateIndex", space=name, name="primary")
            await client("Select", space=name, read="READ_MODE_LINEARIZABLE")
        found = await client("Select", space="_cluster", read="READ_MODE_LINEARIZABLE")
        assert len(found.tuples) == 1


async def test_a_space_that_became_asynchronous_meanwhile_is_not_read() -> None:
    """[Q-60]: what counts is its definition at the moment of the read."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        call = node.call

        async def alter_then_call(*arguments: Any, **named: Any) -> Any:
            node.call = call  # type: ignore[method-assign]
            await client("AlterSpace", space="bands", is_sync=False)
            return await call(*arguments, **named)

        node.call = alter_then_call  # type: ignore[method-assign]
        refused = await client.refusal("Select", space="bands", read="READ_MODE_LINEARIZABLE")
        assert isinstance(refused, errors.Unsupported)


async def test_wait_transaction() -> None:
    async with serving() as (_, client):
        await with_bands(client)
        done = await client("Execute", ops=[insert(1, "a")], request_id=b"y" * 16)
        for which in ({"txn": done.txn}, {"request_id": b"y" * 16}):
            reply = await client("WaitTransaction", **which)
            assert reply.outcome == data_pb2.TRANSACTION_OUTCOME_COMMITTED
            assert reply.txn == done.txn
        unknown = await client("WaitTransaction", request_id=b"z" * 16)
        assert unknown.outcome == data_pb2.TRANSACTION_OUTCOME_UNKNOWN
        assert isinstance(await client.refusal("WaitTransaction"), errors.IllegalParams)


# --- ExecuteStream --------------------------------------------------------------------------------------


class Stream:
    """Sends frames, collects results by seq."""

    def __init__(self, duplex: Any) -> None:
        self.duplex = duplex
        self.results: dict[int, Any] = {}
        self.frames = 0

    def send(self, *calls: dict[str, Any]) -> None:
        self.duplex.send_nowait(data_pb2.ExecuteStreamRequest(calls=calls))

    async def results_of(self, *seqs: int) -> list[Any]:
        while not self.results.keys() >= set(seqs):
            frame = await self.duplex.receive()
            self.frames += 1
            assert frame.header.instance_id == 1
            for result in frame.results:
                assert result.seq not in self.results  # X2
                self.results[result.seq] = result
        return [self.results[seq] for seq in seqs]


@asynccontextmanager
async def streaming(client: Client) -> AsyncIterator[Stream]:
    path, request, response = client.path("ExecuteStream")
    async with client.channel.duplex(
        path, serializer=request.SerializeToString, deserializer=response.FromString
    ) as duplex:
        yield Stream(duplex)


async def test_a_frame_is_one_step_and_one_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is read within a slice, whose length is a matter of the machine."""
    monkeypatch.setattr("synchro.rpc.data_service.SLICE_S", 60.0)
    async with serving() as (node, client):
        await with_bands(client)
        async with streaming(client) as stream:
            node.steps.clear()
            stream.send(*({"seq": n, "ops": [insert(n, "a")]} for n in range(100)))
            results = await stream.results_of(*range(100))
            assert [unpacked(r.reply.tuples) for r in results] == [[[n, "a"]] for n in range(100)]
            assert results[0].reply.txn_origin == 1
            assert len(node.steps) == 1
            assert stream.frames == 1


async def test_an_error_touches_its_call_only() -> None:
    async with serving() as (_, client):
        await with_bands(client)
        async with streaming(client) as stream:
            stream.send(
                {"seq": 1, "ops": [insert(1, "a")]},
                {"seq": 2, "ops": [data_pb2.Op(insert={"space": "bands", "tuple": b"\xc1"})]},
                {"seq": 3, "ops": []},
                {"seq": 4, "ops": [insert(1, "b")]},
                {"seq": 5, "ops": [insert(2, "b")], "timeout": {"seconds": -1}},
                {"seq": 6, "ops": [insert(3, "c")], "timeout": {"seconds": 1}},
                {"seq": 7, "ops": [insert(4, "d")], "omit_tuples": True},
            )
            results = await stream.results_of(*range(1, 8))
            kinds = [type(from_status(r.error)) if r.HasField("error") else None for r in results]
            wrong, illegal, found = errors.WrongFormat, errors.IllegalParams, errors.TupleFound
            assert kinds == [None, wrong, illegal, found, illegal, None, None]
            assert not results[6].reply.tuples


def named(seq: int, op: Any, **fields: Any) -> dict[str, Any]:
    """A call with a request id: neighbours like it may share a transaction."""
    return {"seq": seq, "ops": [op], "request_id": seq.to_bytes(16, "big"), **fields}


def replace(*fields: Any, space: str = "bands") -> Any:
    return data_pb2.Op(replace={"space": space, "tuple": pack(*fields)})


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


async def test_neighbours_of_one_kind_and_space_reach_the_core_together() -> None:
    """ADR 13: and what lies between them goes as it always did; nothing overtakes anything."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        async with streaming(client) as stream:
            node.steps.clear()
            frame = [named(n, insert(n, "a")) for n in range(1, 9)]
            frame += [named(n, replace(n, "b")) for n in range(9, 14)]
            frame += [named(n, insert(n, "c")) for n in range(14, 17)]  # too few
            frame += [{"seq": 17, "ops": [insert(17, "d")]}, named(18, insert(18, "d"), expected_term=9)]
            frame += [named(n, insert(n, "e"), timeout={"seconds": 3}) for n in (19, 20)]
            frame += [named(n, insert(n, "f")) for n in range(21, 25)]
            stream.send(*frame)
            results = await stream.results_of(*range(1, 25))
            expected = [("INSERT", 8), ("REPLACE", 5), ("each", 5), ("each", 2), ("INSERT", 4)]
            assert steps_of(node) == expected
            assert [unpacked(r.reply.tuples)[0][0] for r in results] == list(range(1, 25))
            lsns = [r.reply.txn_lsn for r in results]
            assert lsns == list(range(lsns[0], lsns[0] + 24))


async def test_one_tuple_that_cannot_be_read_makes_the_whole_run_go_one_by_one() -> None:
    """X2: malformed, too large, missing or JSON; and a space by a name that is unknown."""
    async with serving(Limits(tuple_bytes_max=1000)) as (node, client):
        await with_bands(client, is_sync=True)
        as_json = data_pb2.Op(insert={"space": "bands"})
        as_json.insert.tuple_json.extend([50, "json"])
        missing = data_pb2.Op(insert={"space": "bands"})
        odd = [
            (data_pb2.Op(insert={"space": "bands", "tuple": b"\xc1"}), errors.WrongFormat),
            (insert(50, "x" * 2000), errors.BatchTooLarge),
            (missing, errors.WrongFormat),
            (as_json, None),
        ]
        async with streaming(client) as stream:
            for number, (op, kind) in enumerate(odd):
                node.steps.clear()
                first = 10 * number + 1
                seqs = range(first, first + 9)
                frame = [named(seq, insert(seq + 100, "a")) for seq in seqs]
                frame[4] = named(first + 4, op)
                stream.send(*frame)
                results = await stream.results_of(*seqs)
                kinds = [type(from_status(r.error)) if r.HasField("error") else None for r in results]
                assert kinds == [None] * 4 + [kind] + [None] * 4
                assert steps_of(node) == [("each", 9 if kind is None else 8)]
            stream.send(*(named(seq, insert(seq, "a", space="nope")) for seq in range(91, 97)))
            for result in await stream.results_of(*range(91, 97)):
                assert type(from_status(result.error)) is errors.NoSuchSpace


async def test_each_of_a_run_is_answered_as_it_asked() -> None:
    """ADR 13: tuples, their encoding, and whether it is a duplicate are each caller's own."""
    async with serving() as (_, client):
        await with_bands(client, is_sync=True)
        async with streaming(client) as stream:
            stream.send(
                named(1, insert(1, "a")),
                named(2, insert(2, "b"), omit_tuples=True),
                named(3, insert(3, "c"), encoding="ENCODING_JSON"),
                named(4, insert(4, "d"), request_id=(1).to_bytes(16, "big")),
                named(5, insert(1, "e")),
                named(6, insert(6, "f")),
            )
            results = await stream.results_of(*range(1, 7))
            replies = [result.reply for result in results]
            assert unpacked(replies[0].tuples) == [[1, "a"]]
            assert not replies[1].tuples
            assert MessageToDict(replies[2].tuples[0]) == {"json": [3.0, "c"]}
            assert replies[3].duplicate and replies[3].txn_lsn == replies[0].txn_lsn
            assert type(from_status(results[4].error)) is errors.TupleFound
            assert unpacked(replies[5].tuples) == [[6, "f"]] and replies[5].is_sync


async def test_a_stream_that_breaks_abandons_those_of_a_run() -> None:
    """X1."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        node.hold = True
        async with streaming(client) as stream:
            stream.send(*(named(n, insert(n, "a")) for n in range(1, 9)), {"seq": 9, "ops": [insert(9, "a")]})
            while len(node.held) < 9:
                await trio.sleep(0.01)
        while len(node.abandoned) < 9:
            await trio.sleep(0.01)
        assert node.abandoned == sorted(node.abandoned)


async def test_results_come_as_they_become_known() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        async with streaming(client) as stream:
            node.hold = True
            stream.send({"seq": 1, "ops": [insert(1, "a")]})
            while not node.held:
                await trio.sleep(0.01)
            node.hold = False
            stream.send({"seq": 2, "ops": [insert(2, "b")]})
            await stream.results_of(2)
            assert 1 not in stream.results
            node.release()
            await stream.results_of(1)


async def test_a_stream_that_breaks_abandons_its_calls() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        node.hold = True
        async with streaming(client) as stream:
            stream.send(*({"seq": n, "ops": [insert(n, "a")]} for n in range(5)))
            while len(node.held) < 5:
                await trio.sleep(0.01)
        while len(node.abandoned) < 5:
            await trio.sleep(0.01)


async def test_a_half_closed_stream_gets_all_its_results() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        async with streaming(client) as stream:
            node.hold = True
            stream.send({"seq": 1, "ops": [insert(1, "a")]})
            stream.duplex.done_sending()
            while not node.held:
                await trio.sleep(0.01)
            await trio.sleep(0.05)
            node.release()
            await stream.results_of(1)
            with pytest.raises(trio.EndOfChannel):
                await stream.duplex.receive()
        assert node.abandoned == []


async def test_too_many_calls_in_flight_stop_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_service, "STREAM_CALLS_MAX", 4)
    async with serving() as (node, client):
        await with_bands(client)
        async with streaming(client) as stream:
            node.hold = True
            for n in range(10):
                stream.send({"seq": n, "ops": [insert(n, "a")]})
                await trio.sleep(0.02)
            assert len(node.held) == 4
            node.hold = False
            node.release()
            await stream.results_of(*range(10))


async def test_a_frame_with_too_many_calls_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of empty calls fit one message; to answer them would block the instance for seconds."""
    monkeypatch.setattr(data_service, "FRAME_CALLS_MAX", 3)
    async with serving() as (node, client):
        node.steps.clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - it comes out of the block
            async with streaming(client) as stream:
                stream.send(*({"seq": n} for n in range(4)))
                await stream.duplex.receive()
        assert type(from_rpc_error(caught.value)) is errors.BatchTooLarge
        assert node.steps == []


async def test_while_loading_every_call_is_refused() -> None:
    async with serving() as (node, client):
        node.loading = True
        async with streaming(client) as stream:
            stream.send({"seq": 1}, {"seq": 2})
            for result in await stream.results_of(1, 2):
                assert type(from_status(result.error)) is errors.Loading


# --- SchemaService --------------------------------------------------------------------------------------


async def test_spaces_and_indexes() -> None:
    async with serving() as (_, client):
        made = await client(
            "CreateSpace", name="bands", is_sync=True, format=[{"name": "id", "type": "unsigned"}]
        )
        assert (made.space.id, made.space.name, made.created) == (512, "bands", True)
        assert made.space.is_sync
        again = await client("CreateSpace", name="bands", if_not_exists=True)
        assert not again.created
        assert not again.HasField("txn")

        index = await client("CreateIndex", space="bands", name="primary", parts=[{"name": "id"}])
        assert (index.index.id, index.index.unique) == (0, True)
        assert (index.index.parts[0].field, index.index.parts[0].type) == (1, "unsigned")
        second = await client(
            "CreateIndex",
            space="512",
            name="second",
            parts=[{"field": 2, "type": "string", "is_nullable": True}],
            unique=False,
        )
        assert (second.index.id, second.index.unique, second.index.parts[0].is_nullable) == (1, False, True)
        default = await client("CreateSpace", name="other")
        assert default.space.id == 513
        await client("CreateIndex", space="other", name="pk")

        listed = await client("ListSpaces")
        assert [space.name for space in listed.spaces] == ["bands", "other"]
        assert [i.name for i in listed.spaces[0].indexes] == ["primary", "second"]
        assert "_space" in [s.name for s in (await client("ListSpaces", with_system=True)).spaces]
        assert [s.id for s in (await client("ListSpaces", space="other")).spaces] == [513]

        altered = await client("AlterSpace", space="bands", is_sync=False, name="groups")
        assert (altered.space.name, altered.space.is_sync) == ("groups", False)

        assert (await client("DropIndex", space="groups", name="second")).dropped
        assert not (await client("DropIndex", space="groups", name="second", if_exists=True)).dropped
        assert (await client("DropSpace", space="groups")).dropped
        assert not (await client("DropSpace", space="groups", if_exists=True)).dropped


async def test_truncate_and_checksum() -> None:
    async with serving() as (_, client):
        await filled(client, 3)
        full = await client("ChecksumSpace", space="bands")
        assert full.count == 3
        assert len(full.checksum) == 16
        await client("TruncateSpace", space="bands")
        assert (await client("ChecksumSpace", space="bands")).count == 0


@pytest.mark.parametrize(
    ("name", "fields", "kind"),
    [
        ("CreateSpace", {"name": "bands"}, errors.SpaceExists),
        ("CreateSpace", {"name": ""}, errors.WrongFormat),
        ("CreateSpace", {"name": "x", "format": [{"name": "id", "type": "nope"}]}, errors.WrongFormat),
        ("CreateSpace", {"name": "x", "is_sync": True, "is_local": True}, errors.IllegalParams),
        ("CreateIndex", {"space": "bands", "name": "primary"}, errors.IndexExists),
        ("CreateIndex", {"space": "nope", "name": "primary"}, errors.NoSuchSpace),
        ("CreateIndex", {"space": "bands", "name": "i", "type": 9}, errors.IllegalParams),
        ("CreateIndex", {"space": "bands", "name": "i", "parts": [{"name": "nope"}]}, errors.WrongFormat),
        ("DropIndex", {"space": "bands", "name": "nope"}, errors.NoSuchIndex),
        ("DropSpace", {"space": "nope"}, errors.NoSuchSpace),
        ("AlterSpace", {"space": "bands"}, errors.IllegalParams),
        ("TruncateSpace", {"space": ""}, errors.IllegalParams),
        ("TruncateSpace", {"space": "9999"}, errors.NoSuchSpace),
        ("RunOnce", {}, errors.Unimplemented),
    ],
)
async def test_bad_schema_changes(name: str, fields: dict[str, Any], kind: type[SynchroError]) -> None:
    async with serving() as (_, client):
        await with_bands(client)
        assert type(await client.refusal(name, **fields)) is kind


async def test_a_repeated_schema_change_is_done_once() -> None:
    """Without this a retry would be told that the space exists, though it made it itself."""
    async with serving() as (_, client):
        first = await client("CreateSpace", name="bands", request_id=b"s" * 16)
        second = await client("CreateSpace", name="bands", request_id=b"s" * 16)
        assert second.created
        assert second.txn == first.txn


async def test_schema_changes_that_meet_get_different_ids() -> None:
    async with serving() as (node, client):
        node.hold = True
        made: list[Any] = []

        async def create(name: str) -> None:
            made.append(await client("CreateSpace", name=name))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, "one")
            nursery.start_soon(create, "two")
            while len(node.held) < 2:
                await trio.sleep(0.01)
            node.hold = False
            node.release()
        assert sorted(reply.space.id for reply in made) == [512, 513]


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


async def test_the_queue() -> None:
    async with serving() as (_, client):
        short = await client("GetSynchro")
        assert (short.queue.owner, short.queue.len, short.quorum, short.queue.busy) == (1, 1, 2, False)
        assert (short.queue.age.seconds, short.queue.age.nanos) == (1, 500_000_000)
        listed = await client("ListQueue", limit=2)
        assert [entry.txn.lsn for entry in listed.entries] == [12, 13]
        assert list(listed.entries[0].acked_by) == [1]
        assert list(listed.entries[0].missing) == [2]


async def test_watchers_get_the_state_at_once_and_then_changes() -> None:
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


async def test_members() -> None:
    async with serving() as (node, client):
        """Leadership is of the election, ownership of the queue (MEND-S3)."""
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
        node.checkpoint_error = errors.CheckpointInProgress("a snapshot is being written")
        assert isinstance(await client.refusal("Checkpoint"), errors.CheckpointInProgress)
        await client("RestartUpstream", instance="instance002")
        assert node.restarted == ["instance002"]
        for instance in ("", "instance009"):
            assert isinstance(
                await client.refusal("RestartUpstream", instance=instance), errors.IllegalParams
            )


@pytest.mark.parametrize("name", ["CheckConfig", "ReloadConfig", "SetConfig"])
async def test_what_is_not_built_says_so(name: str) -> None:
    async with serving() as (_, client):
        error = await client.refusal(name)
        assert isinstance(error, errors.Unimplemented)
        assert "Next:" in str(error)


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
            return await health(client, service) == health_pb2.HealthCheckResponse.SERVING

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
