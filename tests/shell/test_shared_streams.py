"""Callers of one stream in front of a real instance, over real gRPC (ADR 13)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from synchro import errors
from synchro.cli import app
from synchro.config import Limits
from synchro.ids import CallId, RequestId
from synchro.instance import events as ev
from synchro.row import RowType
from synchro.rpc.host import open_rpc_host
from synchro.rpc.status import from_status
from synchro.server.face import Face
from synchro.storage import row_body
from tests import messages
from tests.shell.memory_set import MemorySet, create_space, frame, open_set, put, until, write
from tests.shell.services_world import Client, named, streaming, unpacked
from tests.shell.test_grpc_set import open_grpc_set
from tests.shell.test_node import majority_lost

SYNC, ASYNC = 512, 513


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[Face, Client]]:
    """A set of one with the spaces 512 (synchronous) and 513."""
    with trio.fail_after(30):
        async with open_grpc_set(directory, 1) as (face,), open_rpc_host() as host:
            await until(lambda: face.node.is_ready and face.node.core.is_writable)
            await create_space(face, SYNC)
            await create_space(face, ASYNC, is_sync=False)
            async with host.channel(face.node.settings.listen) as channel:
                yield face, Client(channel)


def op(kind: str, *fields: Any, space_id: int = SYNC) -> Any:
    return messages.op(**{kind: {"space_id": space_id, "tuple": msgpack.packb(fields)}})


def records(capsys: pytest.CaptureFixture[str], path: str) -> list[dict[str, Any]]:
    """What `wal cat` prints of a file."""
    capsys.readouterr()  # what the instance logged
    assert app.run(["wal", "cat", path]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def log_of(directory: Path, capsys: pytest.CaptureFixture[str], space_id: int = SYNC) -> list[dict[str, Any]]:
    """Changes of a space in all files of the log, oldest first."""
    files = sorted(str(path) for path in directory.rglob("*.xlog"))
    name = f"space{space_id}"
    return [record for path in files for record in records(capsys, path) if record.get("space") == name]


async def test_a_frame_of_everything_is_answered_call_by_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """WriteStream.X2: each once, with its own result; those that could share did, and `wal cat` tells
    who."""
    as_json = messages.op(insert={"space_id": SYNC})
    as_json.insert.tuple_json.extend([400, "json"])
    update = messages.op(
        update={"space_id": SYNC, "key": msgpack.packb((101,)), "ops": msgpack.packb([("=", 2, "updated")])}
    )
    calls: list[tuple[dict[str, Any], Any]] = []

    def add(expected: Any, change: Any, **fields: Any) -> None:
        calls.append((named(len(calls) + 1, change, **fields), expected))

    for key in range(100, 110):
        add([[key, "i"]], op("insert", key, "i"))
    add([[101, "updated"]], update)
    for key in range(105, 115):
        add([[key, "r"]], op("replace", key, "r"))
    add(errors.TupleFound, op("insert", 100, "again"))
    for key in range(120, 124):
        add([[key, "i"]], op("insert", key, "i"))
    add([[130, "own"]], op("insert", 130, "own"), timeout={"seconds": 3})
    add([[131, "own"]], op("insert", 131, "own"), timeout={"seconds": 2})
    add([], op("insert", 132, "submit"), wait="WAIT_MODE_SUBMIT")
    add([], op("insert", 133, "none"), wait="WAIT_MODE_NONE")
    add([[134, "no id"]], op("insert", 134, "no id"), request_id=b"")
    add(errors.OldTerm, op("insert", 135, "term"), expected_term=1)
    for key in range(140, 145):
        add([[key, "i"]], op("insert", key, "i"))
    add(errors.WrongFormat, messages.op(insert={"space_id": SYNC, "tuple": b"\x92\x01"}))
    for key in range(150, 155):
        add([], op("insert", key, "i"), omit_tuples=True)
    add(errors.FieldType, op("insert", "text", "i"))
    for key in range(155, 160):
        add([[key, "i"]], op("insert", key, "i"))
    add([[400, "json"]], as_json, encoding="ENCODING_MSGPACK")
    for _ in range(5):
        add(errors.NoSuchSpace, op("insert", 1, "x", space_id=999))
    for key in range(160, 166):
        add([[key, "async"]], op("insert", key, "async", space_id=ASYNC))
    add(errors.BatchTooLarge, op("insert", 170, "x" * Limits().tuple_bytes_max))

    async with serving(tmp_path) as (_, client), streaming(client) as stream:
        stream.send(*(call for call, _ in calls))
        results = await stream.results_of(*(call["seq"] for call, _ in calls))
        for result, (call, expected) in zip(results, calls, strict=True):
            if isinstance(expected, list):
                assert not result.HasField("error"), (call, result)
                assert unpacked(result.reply.tuples) == expected, call
            else:
                assert type(from_status(result.error)) is expected, call
        assert len(stream.results) == len(calls)
        done = [(r, c) for r, (c, expected) in zip(results, calls, strict=True) if isinstance(expected, list)]
        told = {call["request_id"].hex(): r.reply.txn_lsn for r, call in done if call["request_id"]}
        lsns = [r.reply.txn_lsn for r, _ in done if r.reply.txn_lsn]
        assert lsns == sorted(set(lsns))
        again = [call for _, call in done if call["request_id"]]
        stream.results.clear()
        stream.send(*({**call, "wait": 0, "seq": 1000 + call["seq"]} for call in again))
        for call in again:
            (result,) = await stream.results_of(1000 + call["seq"])
            assert result.reply.duplicate
            if call.get("wait") != "WAIT_MODE_NONE":
                assert result.reply.txn_lsn == told[call["request_id"].hex()]
        reply = await client("Select", space_id=SYNC, limit=1000)
        keys = [row[0] for row in unpacked(reply.tuples)]
        assert keys == [
            *range(100, 115),
            *range(120, 124),
            *range(130, 135),
            *range(140, 145),
            *range(150, 160),
            400,
        ]

    log = log_of(tmp_path, capsys)
    assert len(log) == len(done) - 6  # those of the other space
    for record in log:
        assert record["txn"] == f"1:{record['row_lsn']}" and record["sync"]
        if record.get("request_id") and told[record["request_id"]]:
            assert told[record["request_id"]] == record["row_lsn"]
    shared = [record for record in log if "shared" in record]
    # Those around a tuple that cannot be read share, and so do those with a time of their own.
    together = {*range(100, 115), *range(120, 124), 130, 131, *range(140, 145), *range(150, 160)}
    assert {record["tuple"][0] for record in shared} == together
    for record in shared:
        first, last = map(int, record["shared"].split(".."))
        assert first <= record["row_lsn"] <= last and last - first >= ev.SHARED_MIN - 1
    assert all("shared" not in record for record in log_of(tmp_path, capsys, ASYNC))


async def test_a_frame_as_large_as_it_may_be_is_answered_in_order(tmp_path: Path) -> None:
    """Several transactions share it, each as large as one may be; the answers fit a few messages."""
    async with serving(tmp_path) as (face, client), streaming(client) as stream:
        stream.send(*(named(n, op("insert", n, "v")) for n in range(1, 4097)))
        results = await stream.results_of(*range(1, 4097))
        lsns = [result.reply.txn_lsn for result in results]
        assert lsns == list(range(lsns[0], lsns[0] + 4096))
        assert list(stream.results) == list(range(1, 4097))
        assert stream.frames < 20
        assert face.node.core.memtx.count(SYNC) == 4096


def ranges_of(frame: Any) -> list[tuple[int, int]]:
    return [(part.first_seq, part.count) for part in frame.committed]


@pytest.mark.parametrize("why_not", ["", "not asked for", "tuples wanted", "a gap", "another order"])
async def test_calls_that_share_and_want_no_tuples_are_answered_as_ranges(
    tmp_path: Path, why_not: str
) -> None:
    """WriteStream.X2, ADR 13: where the client understands it; else one by one."""
    seqs = [11, 12, 13, 14, 15, 16, 17, 18]
    if why_not == "a gap":
        seqs[7] = 20
    if why_not == "another order":
        seqs[2:4] = [14, 13]
    calls = [named(seq, op("insert", seq, "v"), omit_tuples=True) for seq in seqs]
    if why_not == "tuples wanted":
        calls[5]["omit_tuples"] = False
    async with serving(tmp_path) as (_, client), streaming(client) as stream:
        accepts = why_not != "not asked for"
        stream.duplex.send_nowait(messages.frame(calls=calls, accepts_ranges=accepts))
        frame = await stream.duplex.receive()
        if why_not:
            assert not frame.committed
            lsns = [result.reply.txn_lsn for result in frame.results]
            assert [result.seq for result in frame.results] == seqs
            assert lsns == list(range(lsns[0], lsns[0] + 8))
            return
        (part,) = frame.committed
        assert (part.first_seq, part.count, part.txn_origin) == (11, 8, 1)
        assert not frame.results
        again = [
            {**call, "seq": call["seq"] + 100, "request_id": b"%016d" % n} for n, call in enumerate(calls)
        ]
        again[5]["ops"] = [op("replace", 1000, "v")]
        again[:5] = [{**call, "ops": [op("insert", 2000 + call["seq"], "v")]} for call in again[:5]]
        stream.duplex.send_nowait(messages.frame(calls=again, accepts_ranges=True))
        frame = await stream.duplex.receive()
        while len(frame.results) + sum(count for _, count in ranges_of(frame)) < 8:
            frame.MergeFrom(await stream.duplex.receive())
        assert ranges_of(frame) == [(111, 5)]
        assert frame.committed[0].first_lsn > part.first_lsn + 7
        outcomes = {result.seq: result.WhichOneof("outcome") for result in frame.results}
        assert outcomes == {116: "reply", 117: "error", 118: "error"}  # alone; keys that are there


async def test_a_run_that_is_halved_is_answered_range_by_range(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client), streaming(client) as stream:
        keys = [*range(1, 9), 5, *range(10, 17)]
        calls = [named(seq, op("insert", key, "v"), omit_tuples=True) for seq, key in enumerate(keys, 1)]
        stream.duplex.send_nowait(messages.frame(calls=calls, accepts_ranges=True))
        frame = await stream.duplex.receive()
        while len(frame.results) + sum(count for _, count in ranges_of(frame)) < 16:
            frame.MergeFrom(await stream.duplex.receive())
        told = [seq for first, count in ranges_of(frame) for seq in range(first, first + count)]
        told += [result.seq for result in frame.results]
        assert sorted(told) == list(range(1, 17))
        assert len(frame.committed) == 2
        assert [result.seq for result in frame.results if result.HasField("error")] == [9]


# --- the node -------------------------------------------------------------------------------------------


def puts_of(face: Face, count: int, first: int = 1) -> ev.ClientPuts:
    tuples = [msgpack.packb((key, "v")) for key in range(first, first + count)]
    ids = [RequestId(key.to_bytes(16, "big")) for key in range(first, first + count)]
    calls: list[CallId] = [face.new_call_id() for _ in tuples]
    return ev.ClientPuts(calls, row_body.insert_all(RowType.INSERT, SYNC, tuples), ids, [None] * count)


async def alone(replicas: MemorySet, **changes: Any) -> Face:
    face = await replicas.start(1, **changes)
    await until(lambda: face.node.is_ready and face.node.core.is_writable)
    await create_space(face)
    return face


async def test_every_call_of_a_run_gets_its_own_outcome_from_the_node(tmp_path: Path) -> None:
    """Calls.N2: one step, and one entry of the timer for all."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas)
        await write(face, put(3))
        got: dict[int, ev.Outcome] = {}
        puts = puts_of(face, 8)
        face.submit_puts(puts, got.__setitem__, 5.0)
        await until(lambda: len(got) == 8)
        kinds = [type(got[call]).__name__ for call in puts.call_ids]
        assert kinds == ["Committed"] * 2 + ["Rejected"] + ["CommittedTogether"] * 5
        together = got[puts.call_ids[3]]
        assert isinstance(together, ev.CommittedTogether)
        for call in puts.call_ids[3:]:
            assert got[call] is together
            assert together.of(call).tuples == ((1 + puts.call_ids.index(call), "v"),)


async def test_a_run_beyond_the_limit_of_calls_is_refused_in_its_end(tmp_path: Path) -> None:
    """As single writes are: as many as there is room for are done."""
    async with open_set(tmp_path, size=1) as replicas:
        face = await alone(replicas, limits=Limits(waiting_calls_max=5))
        got: dict[int, ev.Outcome] = {}
        puts = puts_of(face, 8)
        face.submit_puts(puts, got.__setitem__, 5.0)
        await until(lambda: len(got) == 8)
        kinds = [type(got[call]).__name__ for call in puts.call_ids]
        assert kinds == ["Committed"] * 5 + ["Rejected"] * 3
        assert face.node.core.memtx.count(SYNC) == 5


async def test_callers_of_a_run_time_out_one_by_one_with_their_own_lsns(tmp_path: Path) -> None:
    """ADR 3: the transaction stays; info and the queue count each of them. [I-25]"""
    async with open_set(tmp_path) as replicas:
        leader = await majority_lost(replicas)
        got: dict[int, ev.Outcome] = {}
        puts = puts_of(leader, 6)
        leader.submit_puts(puts, got.__setitem__, 0.2)
        assert leader.info()["synchro"]["queue"]["len"] == 6
        assert leader.watch_facts().queue_len == 6
        assert len(leader.queue_entries()) == 6
        await until(lambda: len(got) == 6)
        outcomes = [got[call] for call in puts.call_ids]
        lsns = [one.txn.lsn for one in outcomes if isinstance(one, ev.OutcomeUnknown) and one.txn]
        assert lsns == list(range(lsns[0], lsns[0] + 6))
        single = frame(leader, [put(50)])
        assert single[0].call_id > puts.call_ids[-1]
