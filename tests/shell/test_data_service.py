"""`DataService` over real gRPC: transactions, reads and waiting for a transaction; the node has no
disk and no peers."""

# ruff: noqa: ASYNC110 - what we wait for sets no event

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgpack
import pytest
import trio
from google.protobuf.json_format import MessageToDict

from synchro import errors
from synchro.config import Limits
from synchro.errors import SynchroError
from synchro.ids import InstanceId, Lsn, Term
from synchro.ro_reason import RoReason
from synchro.row import Dml, RowType
from synchro.rpc.data_service import DataService
from synchro.rpc.generated.v1 import common_pb2, data_pb2
from synchro.rpc.status import from_rpc_error, leader_hint
from synchro.server.api import LeaderFacts
from synchro.storage import msgpack_check
from synchro.vclock import Vclock
from synchro.wire.failure import CallFailed
from tests import messages
from tests.shell.services_world import filled, insert, pack, serving, unpacked, with_bands

# --- DataService ----------------------------------------------------------------------------------------


async def test_a_transaction_and_its_reply() -> None:
    async with serving() as (_, client):
        await with_bands(client, is_sync=True)
        reply = await client(
            "Execute",
            ops=[
                insert(1, "Roxette"),
                messages.op(replace={"space": "bands", "tuple": pack(2, "ABBA")}),
                messages.op(update={"space": "bands", "key": pack(2), "ops": pack(["=", 2, "Ace of Base"])}),
                messages.op(upsert={"space": "bands", "tuple": pack(3, "x"), "ops": pack()}),
                messages.op(delete={"space": "bands", "index": "primary", "key": pack(1)}),
                messages.op(delete={"space": "bands", "key": pack(9)}),
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


async def test_a_key_is_no_larger_than_a_tuple() -> None:
    """ADR 25: a key of 16 million empty arrays kept the leader silent for 4.7 s, and it was deposed."""
    many = 2_000_000
    message = {"msgpack": b"\xdd" + many.to_bytes(4, "big") + b"\x90" * many}
    async with serving() as (_, client):
        await with_bands(client)
        for more in (
            {},
            {"limit": 1},
            {"read": "READ_MODE_LINEARIZABLE"},
            {"read": "READ_MODE_READ_COMMITTED"},
        ):
            began = time.process_time()
            error = await client.refusal("Select", space="bands", key=message, **more)
            assert isinstance(error, errors.BatchTooLarge)
            assert error.message == f"key has {many + 5} bytes, the limit is 1048576; nothing was read"
            assert time.process_time() - began < 0.2


async def test_a_page_goes_on_behind_a_tuple_that_no_client_may_write_any_more() -> None:
    """ADR 24: maps in it are not even made, be they such that it would take long."""
    bad = {UUID(int=number * (2**61 - 1)): 0 for number in range(1, 10_001)}
    async with serving() as (_, client):
        await with_bands(client)
        for key in (1, 2, 3):
            await client("Execute", ops=[insert(key, "a")])
        began = time.process_time()
        after = {"msgpack": msgpack_check.packb((2, "a", bad))}
        found = await client("Select", space="bands", after=after)
        assert [msgpack.unpackb(one.msgpack)[0] for one in found.tuples] == [3]
        assert time.process_time() - began < 1.0


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
            [messages.op(insert={"space": "bands", "tuple": b"\x92\x01"})],
            errors.WrongFormat,
            {"field": "ops[0].insert"},
        ),
        (
            [messages.op(insert={"space": "bands", "tuple": b"\x05"})],
            errors.WrongFormat,
            {"field": "ops[0].insert"},
        ),
        ([insert("one", "a")], errors.FieldType, {}),
        ([insert(1)], errors.FieldMissing, {}),
        ([insert(1, "a"), insert(1, "b")], errors.TupleFound, {"space": "bands", "index": "primary"}),
        ([insert(1, "a", space="bnds")], errors.NoSuchSpace, {"space": "bnds", "nearest": "bands"}),
        ([messages.op(insert={"space_id": 999, "tuple": pack(1)})], errors.NoSuchSpace, {}),
        (
            [messages.op(delete={"space": "bands", "index": "primry", "key": pack(1)})],
            errors.NoSuchIndex,
            {"index": "primry", "nearest": "primary", "space": "bands"},
        ),
        ([messages.op(delete={"space": "bands", "key": pack("a")})], errors.KeyPartType, {}),
        ([messages.op(delete={"space": "bands", "key": pack(1, 2)})], errors.SynchroError, {}),
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


async def test_small_local_reads_are_answered_in_the_turn_that_brought_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task for each costs more than the read; what may wait, or be long, still gets one."""
    tasks: list[str] = []
    waiting = DataService._select

    async def select(service: DataService, request: Any, caller: Any) -> Any:
        tasks.append(request.iterator)
        return await waiting(service, request, caller)

    monkeypatch.setattr(DataService, "_select", select)
    async with serving() as (_, client):
        await with_bands(client, is_sync=True)
        for number in range(10):
            await client("Execute", ops=[insert(number, "x")])
        key = {"msgpack": pack(7)}
        assert [t[0] for t in unpacked((await client("Select", space="bands", key=key)).tuples)] == [7]
        assert not (await client("Select", space="bands", key={"msgpack": pack(77)})).tuples
        page = await client("Select", space="bands", iterator="GE", limit=4)
        assert len(page.tuples) == 4 and page.HasField("after") and page.header.instance_id
        assert isinstance(await client.refusal("Select", space="nothing", key=key), errors.NoSuchSpace)
        small: list[dict[str, Any]] = [{"key": key}, {"iterator": "GE", "limit": 3}]
        for fields in small:
            assert (await client("Select", space="bands", read="READ_MODE_LINEARIZABLE", **fields)).tuples
        assert tasks == []
        for fields in (
            {"iterator": "ALL"},
            {"iterator": "GT", "limit": 3, "encoding": "ENCODING_JSON"},
            {"iterator": "GE", "read": "READ_MODE_LINEARIZABLE"},
            {"iterator": "LE", "limit": 3, "min_vclock": {1: 1}},
        ):
            await client("Select", space="bands", **fields)
        assert tasks == ["ALL", "GT", "GE", "LE"]


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


async def test_what_waits_is_shown_to_who_names_the_mode() -> None:
    """[Q-56]: by a full key at once, else in a turn of its own; every other mode shows what is decided."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        await client("Execute", ops=[insert(1, "old"), insert(2, "kept")])
        memtx = node.instance.memtx
        waiting = memtx.prepare(
            [
                Dml(RowType.REPLACE, 512, b"", value=(1, "new")),
                Dml(RowType.DELETE, 512, b"", key=(2,)),
                Dml(RowType.REPLACE, 512, b"", value=(3, "more")),
            ]
        )

        async def found(read: str, **fields: Any) -> list[Any]:
            return unpacked((await client("Select", space="bands", read=read, **fields)).tuples)

        one: dict[str, Any] = {"key": {"msgpack": pack(1)}}
        page: dict[str, Any] = {"iterator": "GE", "limit": 5}
        for mode in ("READ_MODE_UNSPECIFIED", "READ_MODE_CONFIRMED", "READ_MODE_LINEARIZABLE"):
            assert await found(mode) == await found(mode, **page) == [[1, "old"], [2, "kept"]]
            assert await found(mode, **one) == [[1, "old"]]
        for fields in ({}, page, {"iterator": "ALL", "encoding": "ENCODING_MSGPACK"}):
            assert await found("READ_MODE_READ_COMMITTED", **fields) == [[1, "new"], [3, "more"]]
        assert await found("READ_MODE_READ_COMMITTED", iterator="LE", offset=1) == [[1, "new"]]
        assert await found("READ_MODE_READ_COMMITTED", **one) == [[1, "new"]]
        memtx.rollback(waiting)
        assert await found("READ_MODE_READ_COMMITTED") == [[1, "old"], [2, "kept"]]
        for mode in ("READ_MODE_CONFIRMED", "READ_MODE_LINEARIZABLE", "READ_MODE_READ_COMMITTED"):
            await found(mode, min_vclock={1: 1})
            assert node.waited_for_decision is (mode != "READ_MODE_READ_COMMITTED")


async def test_linearizable_reads_ask_the_core_first() -> None:
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        await client("Execute", ops=[insert(1, "x")])
        node.steps.clear()
        found = await client("Select", space="bands", read="READ_MODE_LINEARIZABLE")
        assert len(found.tuples) == 1
        assert [type(step).__name__ for step in node.steps] == ["ReadBarrierRequested"]


async def test_a_linearizable_read_is_for_rows_that_a_quorum_holds() -> None:
    """[Q-60]: a row of an asynchronous space may vanish with its owner; system spaces are
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


async def test_a_linearizable_read_that_is_malformed_is_refused_without_a_quorum() -> None:
    """Else its caller hears that a quorum is missing, and tries again."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        node.steps.clear()
        for fields in (
            {"iterator": "NEAR"},
            {"key": {"msgpack": b"\xc1"}},
            {"iterator": "GE", "after": {"msgpack": b"\x91"}},
        ):
            refused = await client.refusal(
                "Select", space="bands", limit=1, read="READ_MODE_LINEARIZABLE", **fields
            )
            assert isinstance(refused, errors.IteratorType | errors.WrongFormat)
        assert node.steps == []


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


async def test_watch_transaction() -> None:
    """[Q-48]: how it stands, each change, and its end; without an end the time was over."""
    async with serving() as (node, client):
        await with_bands(client)
        txn = (await client("Execute", ops=[insert(1, "a")])).txn
        path, request, response = client.path("WatchTransaction")

        async def watch(**fields: Any) -> list[Any]:
            async with client.channel.server_stream(
                path,
                request(**fields),
                serializer=request.SerializeToString,
                deserializer=response.FromString,
            ) as replies:
                return [reply async for reply in replies]

        (done,) = await watch(txn=txn)
        assert (done.stage, done.txn) == (data_pb2.TRANSACTION_STAGE_COMMITTED, txn)
        (unknown,) = await watch(request_id=b"z" * 16)
        assert unknown.stage == data_pb2.TRANSACTION_STAGE_UNKNOWN and not unknown.HasField("txn")
        node.hold = True
        on_its_way, on_disk = await watch(txn=txn, timeout={"nanos": 20_000_000})
        assert on_its_way.stage == data_pb2.TRANSACTION_STAGE_SUBMITTED
        assert on_disk.stage == data_pb2.TRANSACTION_STAGE_ON_DISK
        assert (on_disk.acked_by, on_disk.missing, on_disk.quorum) == ([1], [2], 2)
        for wrong in ({}, {"request_id": b""}, {"request_id": b"short"}):
            with pytest.raises(CallFailed) as refused:
                await watch(**wrong)
            assert isinstance(from_rpc_error(refused.value), errors.IllegalParams)


@pytest.mark.effect_of("limits.txn_values_max")
async def test_the_values_of_a_transaction_are_counted_by_the_limit_of_now() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        many = messages.op(replace={"space": "bands", "tuple": pack(1, "x", [0] * 300_000)})
        await client("Execute", ops=[many])
        settings = node.instance.settings
        node.instance.settings = replace(settings, limits=replace(settings.limits, txn_values_max=1000))
        assert "values or more, the limit is 1000" in (await client.refusal("Execute", ops=[many])).message
        node.instance.settings = settings
        await client("Execute", ops=[many])
