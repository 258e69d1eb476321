"""The longest silence of the loop under each documented limit at its maximum.

An instance answers heartbeats, votes and other callers from one loop, so no call may keep it busy for longer
than half a heartbeat (half a second by default). Here one instance and its callers share a loop, the callers
hand over bytes that were made before, and a task that wakes every millisecond sees how much processor time
passed between two of its turns: what the machine does besides does not count.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio
from google.protobuf.struct_pb2 import ListValue

from synchro.config import MIB, Limits
from synchro.rpc.channel import RpcChannel
from synchro.rpc.generated.v1 import common_pb2, data_pb2, schema_pb2
from synchro.rpc.host import open_rpc_host
from synchro.server.face import Face
from synchro.wire.failure import CallFailed
from tests import messages
from tests.shell.memory_set import until
from tests.shell.test_grpc_set import open_grpc_set
from tests.yardstick import slowness

LIMITS = Limits()
HALF_A_HEARTBEAT_S = 0.5
ROWS = 60_000
DATA, SCHEMA = "/synchro.v1.DataService/", "/synchro.v1.SchemaService/"


class Watch:
    """The longest silence so far, in seconds of processor time of this thread."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        before = time.thread_time()
        while True:
            await trio.sleep(0.001)
            now = time.thread_time()
            self.longest_s = max(self.longest_s, now - before)
            before = now


class Busy:
    """One writable instance, a channel to it, and a watch over its loop."""

    def __init__(self, face: Face, channel: RpcChannel, watch: Watch) -> None:
        self.face = face
        self.channel = channel
        self.watch = watch

    async def call(self, method: str, data: bytes) -> str:
        """ "", or the reason of a refusal."""
        try:
            await self.channel.unary(method, data, timeout=60)
        except CallFailed as error:
            return error.message or error.code.name
        return ""

    async def silence_of(self, *calls: Callable[[], Awaitable[object]]) -> float:
        """All of them at once; of a machine of normal speed."""
        await trio.sleep(0.01)
        self.watch.longest_s = 0.0
        async with trio.open_nursery() as nursery:
            for call in calls:
                nursery.start_soon(call)
        await trio.sleep(0.05)
        return self.watch.longest_s / slowness()

    async def fill(self, rows: int) -> None:
        for start in range(0, rows, 1000):
            ops = [insert(n, f"name{n * 7919 % rows:07}", n % 100) for n in range(start, start + 1000)]
            assert await self.call(DATA + "Execute", execute(*ops)) == ""


@asynccontextmanager
async def busy_instance(directory: Path) -> AsyncIterator[Busy]:
    with trio.fail_after(280):
        async with (
            open_grpc_set(directory, 1) as nodes,
            open_rpc_host() as host,
            trio.open_nursery() as nursery,
        ):
            (face,) = nodes
            await until(lambda: face.node.is_ready and face.node.core.is_writable)
            watch = Watch()
            nursery.start_soon(watch.run)
            assert face.node.listen is not None
            async with host.channel(face.node.listen) as channel:
                busy = Busy(face, channel, watch)
                space = schema_pb2.CreateSpaceRequest(name="t", is_sync=True)
                assert await busy.call(SCHEMA + "CreateSpace", space.SerializeToString()) == ""
                index = schema_pb2.CreateIndexRequest(space="t", name="pk")
                assert await busy.call(SCHEMA + "CreateIndex", index.SerializeToString()) == ""
                yield busy
            nursery.cancel_scope.cancel()


def insert(*fields: Any) -> data_pb2.Op:
    return messages.op(replace={"space": "t", "tuple": msgpack.packb(fields)})


def update(key: int, *ops: tuple[Any, ...]) -> data_pb2.Op:
    return messages.op(update={"space": "t", "key": msgpack.packb((key,)), "ops": msgpack.packb(ops)})


def execute(*ops: data_pb2.Op) -> bytes:
    return data_pb2.ExecuteRequest(ops=ops, omit_tuples=True).SerializeToString()


def nested(depth: int) -> bytes:
    return b"\x92\x01" + b"\x91" * depth + b"\x01"


def heavy_writes() -> dict[str, list[bytes]]:
    """Several at once of each; some are within the limits, some above."""
    splices = [(":", 2, 1 + 4_000 * n, 1, "xy") for n in range(200)]
    wide = [("!", 2, 0), ("#", 2, 1)] * 2_000
    deep = [("=", f"[2][{n % 50 + 1}]", 1) for n in range(4_000)]
    million = messages.op(replace={"space": "t", "tuple": msgpack.packb((1, *([7] * (MIB - 16))))})
    arrays = messages.op(replace={"space": "t", "tuple": msgpack.packb((1, *([()] * (MIB - 16))))})
    return {
        "splices, too many": [execute(*[update(1, *splices)] * 300)] * 3,
        "splices": [execute(*[update(1, *splices)] * 40)] * 4,
        "small updates of a large tuple": [execute(*[update(1, ("=", 3, n)) for n in range(240)])] * 4,
        "fields put into a wide tuple": [execute(update(2, *wide))] * 4,
        "operations inside a wide array": [execute(*[update(3, *deep)] * 2)] * 4,
        "operations": [execute(*[update(4, *[("+", 2, 1)] * 4_000)] * 4)] * 4,
        "a million values": [execute(million), execute(*[million] * 8)],
        "a million arrays": [execute(arrays), execute(*[arrays] * 8)],
        "all rows of a transaction": [execute(*[insert(n, "x" * 8_000) for n in range(1_000)])] * 4,
    }


def refused_writes() -> dict[str, list[bytes]]:
    """What never gets far: it must not cost much either."""
    list_value = ListValue()
    list_value.extend([1.0] * 150_000)
    json = messages.op(replace={"space": "t", "tuple_json": list_value})
    update_json = messages.op(update={"space": "t", "key": b"\x91\x01", "ops_json": list_value})
    lying = messages.op(replace={"space": "t", "tuple": b"\xdd\x00\x0f\xff\xff" * 200_000})
    deep = [messages.op(replace={"space": "t", "tuple": nested(depth)}) for depth in (40, MIB)]
    return {
        "a hundred thousand operations": [execute(*[insert(1)] * 100_000)],
        "seven million empty operations": [b"\x0a\x00" * (7 * MIB)],
        "an update of a million": [execute(update(1, *[("+", 2, 1)] * 1_000_000))],
        "deep nesting": [execute(op) for op in deep],
        "lying headers": [execute(lying)],
        "much JSON": [execute(json), execute(update_json), execute(*[json] * 5)],
        "a million paths": [execute(update(1, ("=", "[1]" * 300_000, 1)))],
    }


async def measured(
    busy: Busy, writes: dict[str, list[bytes]]
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Silences, and the answers, by what was written."""
    silences, answers = {}, {}
    for what, requests in writes.items():
        told: list[str] = []

        async def write(data: bytes, told: list[str] = told) -> None:
            told.append(await busy.call(DATA + "Execute", data))

        silences[what] = await busy.silence_of(*(partial(write, data) for data in requests))
        answers[what] = sorted(told)
    return silences, answers


async def test_updates_of_many_small_values(tmp_path: Path) -> None:
    """Bytes say little of what they cost, and what is refused was done and undone first."""
    async with busy_instance(tmp_path) as busy:
        arrays, objects = ((),) * (MIB - 16), {"a": tuple({"b": n % 100} for n in range(200_000))}
        for op in (insert(1, arrays), insert(2, objects)):
            assert await busy.call(DATA + "Execute", execute(op)) == ""
        many = {
            path: [execute(*[update(key, ("=", path, n)) for n in range(60)])] * 2
            for key, path in ((1, "[2][5]"), (2, "[2].a[7].b"))
        }
        silences, answers = await measured(busy, many)
        assert max(silences.values()) < HALF_A_HEARTBEAT_S, silences
        assert all("would touch more than" in text for told in answers.values() for text in told)


async def test_writes_at_their_limits(tmp_path: Path) -> None:
    """Wide tuples, many operations, many calls in a frame."""
    async with busy_instance(tmp_path) as busy:
        wide = tuple(range(150_000))
        for op in (insert(1, "a" * 900_000, 0), insert(2, *wide), insert(3, wide), insert(4, 0)):
            assert await busy.call(DATA + "Execute", execute(op)) == ""
        silences, answers = await measured(busy, heavy_writes())
        assert max(silences.values()) < HALF_A_HEARTBEAT_S, silences
        refused = {what: told for what, told in answers.items() if any(told)}
        assert refused.keys() == {
            "splices, too many",
            "fields put into a wide tuple",
            "a million values",
            "a million arrays",
        }
        silences, answers = await measured(busy, refused_writes())
        assert max(silences.values()) < HALF_A_HEARTBEAT_S / 2, silences
        assert all(all(told) for told in answers.values())


def frames() -> dict[str, data_pb2.ExecuteStreamRequest]:
    def call(seq: int, *ops: data_pb2.Op) -> data_pb2.ExecuteCall:
        return data_pb2.ExecuteCall(seq=seq, ops=ops, omit_tuples=True)

    splices = [(":", 2, 1 + 4_000 * n, 1, "xy") for n in range(200)]
    heavy = [call(n, update(1, *splices)) for n in range(1, 1_001)]
    singles = [call(n, update(4, ("+", 2, 1))) for n in range(1, 4_097)]
    large = [call(n, *[insert(n + k, "x" * 3_000) for k in range(1_000)]) for n in range(1, 6)]
    return {
        "updates": messages.frame(calls=heavy),
        "calls": messages.frame(calls=singles),
        "large transactions": messages.frame(calls=large),
    }


@pytest.mark.parametrize("kind", ["create_space", "create_sequence"])
async def test_a_run_of_definitions_at_its_limit(tmp_path: Path, kind: str) -> None:
    """`RunOnce`: each of them rests on those before it."""
    changes = [{kind: {"name": f"one{n}"}} for n in range(LIMITS.batch_ops_max - 1)]
    run = schema_pb2.RunOnceRequest(key="k", schema=changes)  # type: ignore[arg-type]
    async with busy_instance(tmp_path) as busy:
        told: list[str] = []

        async def call() -> None:
            told.append(await busy.call(SCHEMA + "RunOnce", run.SerializeToString()))
            told.append(await busy.call(SCHEMA + "ListSequences", b""))

        assert await busy.silence_of(call) < HALF_A_HEARTBEAT_S
        assert told == ["", ""]


async def test_frames_at_their_limits(tmp_path: Path) -> None:
    """The calls of a frame do not all run in one go."""
    async with busy_instance(tmp_path) as busy:
        for op in (insert(1, "a" * 900_000, 0), insert(4, 0)):
            assert await busy.call(DATA + "Execute", execute(op)) == ""
        silences = {}
        for what, frame in frames().items():
            data = frame.SerializeToString()

            async def send(data: bytes = data, count: int = len(frame.calls)) -> None:
                async with busy.channel.duplex(DATA + "ExecuteStream") as stream:
                    stream.send_nowait(data)
                    answered = 0
                    async for reply in stream:
                        answered += len(data_pb2.ExecuteStreamResponse.FromString(reply).results)
                        if answered == count:
                            stream.done_sending()

            silences[what] = await busy.silence_of(send)
        assert max(silences.values()) < HALF_A_HEARTBEAT_S, silences


async def read_all(busy: Busy, *, as_json: bool = False) -> int:
    """All pages of everything."""
    request, found = data_pb2.SelectRequest(space="t", iterator="ALL"), 0
    request.encoding = common_pb2.ENCODING_JSON if as_json else common_pb2.ENCODING_MSGPACK
    while True:
        data = await busy.channel.unary(DATA + "Select", request.SerializeToString(), timeout=60)
        reply = data_pb2.SelectResponse.FromString(data)
        found += len(reply.tuples)
        if not reply.HasField("after"):
            return found
        request.after.CopyFrom(reply.after)


async def reads_and_definitions(busy: Busy, rows: int) -> dict[str, float]:
    await busy.fill(rows)

    def schema(method: str, request: Any) -> Callable[[], Awaitable[object]]:
        return lambda: busy.call(SCHEMA + method, request.SerializeToString())

    checksum = schema("ChecksumSpace", schema_pb2.ChecksumSpaceRequest(space="t"))
    far = data_pb2.SelectRequest(space="t", iterator="ALL", offset=rows - 1, limit=1)
    back = data_pb2.SelectRequest(space="t", iterator="LE", offset=rows - 1, limit=1)
    silences = {
        "eight checksums": await busy.silence_of(*[checksum] * 8),
        "four selects of everything": await busy.silence_of(*[lambda: read_all(busy)] * 4),
        "everything as JSON": await busy.silence_of(lambda: read_all(busy, as_json=True)),
        "offsets": await busy.silence_of(
            *[partial(busy.call, DATA + "Select", one.SerializeToString()) for one in (far, back)] * 20
        ),
        "a snapshot": await busy.silence_of(lambda: busy.face.checkpoint()),
    }
    index = schema_pb2.CreateIndexRequest(space="t", name="second", unique=False)
    index.parts.add(field=3, type="unsigned")
    index.parts.add(field=2, type="string")
    index.timeout.FromSeconds(100)
    memtx = busy.face.node.core.memtx

    async def and_let_go(call: Callable[[], Awaitable[object]]) -> None:
        assert await call() == ""
        await until(lambda: not memtx.has_dead)

    silences["create_index"] = await busy.silence_of(lambda: and_let_go(schema("CreateIndex", index)))
    assert len(memtx.select(512, 1, (7,))) == min(rows // 100, LIMITS.select_tuples_max)
    truncate = schema("TruncateSpace", schema_pb2.TruncateSpaceRequest(space="t"))
    silences["truncate"] = await busy.silence_of(lambda: and_let_go(truncate))
    assert memtx.count(512) == 0
    return silences


async def test_reads_and_definitions_over_many_rows(tmp_path: Path) -> None:
    """With 1,200,000 rows: `test_reads_and_definitions_over_a_million_rows`."""
    async with busy_instance(tmp_path) as busy:
        silences = await reads_and_definitions(busy, ROWS)
        assert max(silences.values()) < HALF_A_HEARTBEAT_S / 2, silences


@pytest.mark.long
async def test_reads_and_definitions_over_a_million_rows(tmp_path: Path) -> None:
    async with busy_instance(tmp_path) as busy:
        silences = await reads_and_definitions(busy, 1_200_000)
        assert max(silences.values()) < HALF_A_HEARTBEAT_S, silences


@pytest.mark.long
async def test_a_page_of_a_hash_index(tmp_path: Path) -> None:
    """It cannot go on with `after`, so its page has 8 MiB: more than a million of the smallest tuples."""
    async with busy_instance(tmp_path) as busy:
        space = schema_pb2.CreateSpaceRequest(name="h", is_sync=True)
        assert await busy.call(SCHEMA + "CreateSpace", space.SerializeToString()) == ""
        index = schema_pb2.CreateIndexRequest(space="h", name="pk", type=schema_pb2.INDEX_TYPE_HASH)
        assert await busy.call(SCHEMA + "CreateIndex", index.SerializeToString()) == ""
        for start in range(0, 1_500_000, 1000):
            ops = [
                data_pb2.Op(replace=data_pb2.Replace(space="h", tuple=msgpack.packb((n,))))
                for n in range(start, start + 1000)
            ]
            assert await busy.call(DATA + "Execute", execute(*ops)) == ""
        found: list[int] = []

        async def select() -> None:
            request = data_pb2.SelectRequest(space="h", iterator="ALL").SerializeToString()
            reply = await busy.channel.unary(DATA + "Select", request, timeout=60)
            found.append(len(data_pb2.SelectResponse.FromString(reply).tuples))

        silence = await busy.silence_of(select)
        assert found[0] > 1_000_000
        assert silence < HALF_A_HEARTBEAT_S, silence
