"""Unary calls of several clients in front of a real instance, over real connections (ADR 13)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from synchro import errors
from synchro.row import Txn
from synchro.rpc.host import open_rpc_host
from synchro.storage.disk import RealDisk
from synchro.storage.recovery import open_xlog
from synchro.wire.failure import CallFailed
from synchro.wire.grpc_call import StatusCode
from tests import messages
from tests.shell.memory_set import until
from tests.shell.services_world import Client, insert, pack, serving, streaming, unpacked, with_bands
from tests.shell.test_grpc_set import open_grpc_set
from tests.shell.test_shared_streams import SYNC, log_of, op
from tests.shell.test_shared_streams import serving as serving_instance


async def at_once(*calls: tuple[Client, dict[str, Any]]) -> list[Any]:
    """Replies, or errors, of calls that are begun in one go, in their order."""
    found: list[Any] = [None] * len(calls)

    async def one(at: int, client: Client, fields: dict[str, Any]) -> None:
        try:
            found[at] = await client("Execute", **fields)
        except (errors.SynchroError, CallFailed) as error:
            found[at] = error

    async with trio.open_nursery() as nursery:
        for at, (client, fields) in enumerate(calls):
            nursery.start_soon(one, at, client, fields)
    return found


def logged(directory: Path) -> list[Txn]:
    """All transactions of the log."""
    found: list[Txn] = []
    for path in sorted(directory.rglob("*.xlog")):
        with open_xlog(RealDisk(), str(path)) as reader:
            for block in reader.blocks():
                found += reader.txns(block)
    return found


def shared_keys(directory: Path, capsys: pytest.CaptureFixture[str]) -> list[set[int]]:
    """The keys of each shared transaction."""
    found: dict[str, set[int]] = {}
    for record in log_of(directory, capsys):
        if "shared" in record:
            found.setdefault(record["shared"], set()).add(record["tuple"][0])
    return list(found.values())


async def test_calls_of_several_connections_share_and_keep_their_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ADR 13: those that are read in one turn, with an id or without; each hears of its own row."""
    async with serving_instance(tmp_path) as (face, first), AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_rpc_host())
        second = Client(await stack.enter_async_context(host.channel(face.node.settings.listen)))
        clients = (first, second)
        for client in clients:  # connected
            await client("Select", space_id=SYNC)
        for turn in range(10):
            keys = range(100 * turn, 100 * turn + 16)
            replies = await at_once(
                *(
                    (
                        clients[key % 2],
                        {
                            "ops": [op("insert", key, "v")],
                            "request_id": b"%016d" % key if key % 3 else b"",
                            "timeout": {"seconds": 5 + key % 4},
                        },
                    )
                    for key in keys
                )
            )
            assert [unpacked(reply.tuples) for reply in replies] == [[[key, "v"]] for key in keys]
            assert len({reply.txn.lsn for reply in replies}) == len(keys)
        found = shared_keys(tmp_path, capsys)
        assert any({key % 2 for key in keys} == {0, 1} for keys in found)
        rows = {record["row_lsn"]: record["tuple"][0] for record in log_of(tmp_path, capsys)}
        assert [rows[reply.txn.lsn] for reply in replies] == list(keys)


@pytest.mark.parametrize("wait", ["WAIT_MODE_COMPLETE", "WAIT_MODE_SUBMIT", "WAIT_MODE_NONE"])
async def test_of_callers_with_one_request_id_one_alone_hears_that_it_is_no_duplicate(
    tmp_path: Path, wait: str
) -> None:
    """S12: at once and afterwards, by unary calls and in a frame of a stream."""
    call = {"ops": [op("insert", 1, "v")], "request_id": b"r" * 16, "wait": wait}
    async with serving_instance(tmp_path) as (_, client), streaming(client) as stream:
        replies = await at_once(*((client, call) for _ in range(8)))
        replies.append(await client("Execute", **call))
        assert [reply.duplicate for reply in replies].count(False) == 1
        tuples = [unpacked(reply.tuples) for reply in replies if reply.tuples]
        assert tuples == ([[[1, "v"]]] if wait == "WAIT_MODE_COMPLETE" else [])
        frame = [
            {**call, "ops": [op("insert", 2, "v")], "request_id": b"s" * 16, "seq": n} for n in range(1, 9)
        ]
        stream.send(*frame)
        results = await stream.results_of(*range(1, 9))
        assert [result.reply.duplicate for result in results] == [False] + 7 * [True]


async def test_a_retry_after_a_restart_has_one_effect(tmp_path: Path) -> None:
    """S12: of calls that shared with calls without an id."""
    calls = [
        {"ops": [op("insert", key, "v")], "request_id": b"%016d" % key if key % 2 else b""}
        for key in range(20)
    ]
    async with serving_instance(tmp_path) as (_, client):
        first = await at_once(*((client, call) for call in calls))
        assert any(txn.has_unnamed for txn in logged(tmp_path))
    async with open_grpc_set(tmp_path, 1) as (face,), open_rpc_host() as host:
        await until(lambda: face.node.is_ready and face.node.core.is_writable)
        async with host.channel(face.node.settings.listen) as channel:
            second = await at_once(*((Client(channel), call) for call in calls))
        assert face.node.core.memtx.count(SYNC) == 20
    for key, (once, twice) in enumerate(zip(first, second, strict=True)):
        if key % 2:
            assert twice.duplicate and twice.txn == once.txn
        else:
            assert isinstance(twice, errors.TupleFound)


async def test_an_answer_that_is_too_large_is_that_of_its_call(tmp_path: Path) -> None:
    async with serving_instance(tmp_path) as (_, client):
        for key in range(17):
            await client("Execute", ops=[op("insert", key, "x" * 1_000_000)], omit_tuples=True)
        updates = [
            messages.op(update={"space_id": SYNC, "key": pack(key), "ops": pack(("=", 3, "y"))})
            for key in range(17)
        ]
        small = [(client, {"ops": [op("insert", key, "v")]}) for key in range(100, 108)]
        large, *others = await at_once((client, {"ops": updates}), *small)
        assert isinstance(large, CallFailed) and large.code is StatusCode.RESOURCE_EXHAUSTED
        assert [unpacked(reply.tuples) for reply in others] == [[[key, "v"]] for key in range(100, 108)]


async def test_one_deadline_and_one_cancel_leave_the_others_alone() -> None:
    """host.R1, UnaryWrites.U3: who waits no more is abandoned; the rest is answered."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        node.hold = True
        replies: dict[int, Any] = {}

        async def write(key: int, timeout_s: float) -> None:
            path, request, response = client.path("Execute")
            try:
                replies[key] = await client.channel.unary(
                    path,
                    request(ops=[insert(key, "a")]),
                    serializer=request.SerializeToString,
                    deserializer=response.FromString,
                    timeout=timeout_s,
                )
            except CallFailed as error:
                replies[key] = error

        async def write_until_cancelled() -> None:
            with cancelled:
                await write(6, 10.0)

        cancelled = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            for key in range(6):
                nursery.start_soon(write, key, 10.0 if key != 3 else 0.5)
            nursery.start_soon(write_until_cancelled)
            await until(lambda: len(node.held) == 7)
            cancelled.cancel()
            await until(lambda: len(node.abandoned) == 2)
            assert isinstance(replies[3], CallFailed)
            assert replies[3].code is StatusCode.DEADLINE_EXCEEDED
            node.release()
        assert sorted(replies) == list(range(6))
        assert [unpacked(replies[key].tuples)[0][0] for key in (0, 1, 2, 4, 5)] == [0, 1, 2, 4, 5]


async def test_while_it_loads_each_hears_so() -> None:
    async with serving() as (node, client):
        node.loading = True
        found = await at_once(*((client, {"ops": [insert(n, "a")]}) for n in range(6)))
        assert {type(error) for error in found} == {errors.Loading}
        assert node.steps == []
