"""`ExecuteStream` over real gRPC: what becomes of the calls of a frame; the node has no disk and no peers."""

# ruff: noqa: ASYNC110 - what we wait for sets no event

from __future__ import annotations

from typing import Any

import pytest
import trio
from google.protobuf.json_format import MessageToDict

from synchro import errors
from synchro.config import Limits
from synchro.instance.events import ClientPuts, ClientWrites
from synchro.rpc import write_stream
from synchro.rpc.status import from_rpc_error, from_status
from synchro.wire.failure import CallFailed
from tests import messages
from tests.shell.services_world import insert, named, pack, serving, steps_of, streaming, unpacked, with_bands


@pytest.fixture(autouse=True)
def whole_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame is one step if it is read within a slice, whose length is a matter of the machine."""
    monkeypatch.setattr("synchro.rpc.slices.SLICE_S", 60.0)


async def test_a_frame_is_one_step_and_one_reply() -> None:
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
                {"seq": 2, "ops": [messages.op(insert={"space": "bands", "tuple": b"\xc1"})]},
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


def replace(*fields: Any, space: str = "bands") -> Any:
    return messages.op(replace={"space": space, "tuple": pack(*fields)})


async def test_neighbours_of_one_kind_and_space_reach_the_core_together() -> None:
    """ADR 13: and what lies between them goes as it always did; nothing overtakes anything."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        async with streaming(client) as stream:
            node.steps.clear()
            frame = [named(n, insert(n, "a")) for n in range(1, 9)]
            frame += [named(n, replace(n, "b")) for n in range(9, 14)]
            frame += [named(n, insert(n, "c")) for n in range(14, 17)]  # too few
            frame += [named(n, insert(n, "d"), expected_term=9) for n in (17, 18)]
            frame += [{"seq": n, "ops": [insert(n, "e")]} for n in (19, 20)]
            frame += [named(n, insert(n, "f"), timeout={"seconds": n}) for n in (21, 22)]
            frame += [named(n, insert(n, "g")) for n in (23, 24)]
            stream.send(*frame)
            results = await stream.results_of(*range(1, 25))
            expected = [("INSERT", 8), ("REPLACE", 5), ("each", 5), ("INSERT", 6)]
            assert steps_of(node) == expected
            assert [unpacked(r.reply.tuples)[0][0] for r in results] == list(range(1, 25))
            lsns = [r.reply.txn_lsn for r in results]
            assert lsns == list(range(lsns[0], lsns[0] + 24))


async def test_a_frame_names_the_known_position_of_calls_that_name_none() -> None:
    """A call that is sent again names the one of its first try; whether it shares a transaction or not."""
    async with serving() as (node, client):
        await with_bands(client, is_sync=True)
        async with streaming(client) as stream:
            node.steps.clear()
            again = {"term": 2, "lsn": 7}
            frame = [named(n, insert(n, "a")) for n in range(1, 5)]
            frame += [named(5, insert(5, "a"), known_position=again)]
            frame += [named(6, replace(6, "b")), named(7, replace(7, "b"), known_position=again)]
            stream.send(*frame, known_position={"term": 3, "lsn": 9})
            await stream.results_of(*range(1, 8))
            puts, writes = node.steps
            assert isinstance(puts, ClientPuts) and isinstance(writes, ClientWrites)
            assert puts.known_positions == [(3, 9)] * 4 + [(2, 7)]
            assert [write.known_position for write in writes.writes] == [(3, 9), (2, 7)]

            stream.send(named(8, replace(8, "c")), named(9, replace(9, "c"), known_position=again))
            await stream.results_of(8, 9)
            assert [write.known_position for write in node.steps[-1].writes] == [None, (2, 7)]  # type: ignore[union-attr]


async def test_a_frame_whose_position_is_no_position_is_refused() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        async with streaming(client) as stream:
            node.steps.clear()
            stream.send({"seq": 1, "ops": [insert(1, "a")]}, known_position={"term": 1, "lsn": 1 << 62})
            [result] = await stream.results_of(1)
            assert type(from_status(result.error)) is errors.IllegalParams and not node.steps


async def test_one_call_that_cannot_be_read_goes_alone_and_those_around_it_share() -> None:
    """WriteStream.X2, Submission.U2: its tuple is malformed, too large, missing or JSON, its time or its
    position are no such thing; and a space by a name that is unknown."""
    async with serving(Limits(tuple_bytes_max=1000)) as (node, client):
        await with_bands(client, is_sync=True)
        as_json = messages.op(insert={"space": "bands"})
        as_json.insert.tuple_json.extend([50, "json"])
        missing = messages.op(insert={"space": "bands"})
        fine: Any = insert(60, "a")
        odd: list[tuple[Any, dict[str, Any], type[errors.SynchroError] | None]] = [
            (messages.op(insert={"space": "bands", "tuple": b"\xc1"}), {}, errors.WrongFormat),
            (insert(50, "x" * 2000), {}, errors.BatchTooLarge),
            (missing, {}, errors.WrongFormat),
            (as_json, {}, None),
            (fine, {"timeout": {"seconds": -1}}, errors.IllegalParams),
            (fine, {"known_position": {"term": 1 << 62}}, errors.IllegalParams),
        ]
        async with streaming(client) as stream:
            for number, (op, fields, kind) in enumerate(odd):
                node.steps.clear()
                first = 10 * number + 1
                seqs = range(first, first + 9)
                frame = [named(seq, insert(seq + 100, "a")) for seq in seqs]
                frame[4] = named(first + 4, op, **fields)
                stream.send(*frame)
                results = await stream.results_of(*seqs)
                kinds = [type(from_status(r.error)) if r.HasField("error") else None for r in results]
                assert kinds == [None] * 4 + [kind] + [None] * 4
                alone = [("each", 1)] if kind is None else []
                assert steps_of(node) == [("INSERT", 4), *alone, ("INSERT", 4)]
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
    """Submission.U1."""
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
    monkeypatch.setattr(write_stream, "STREAM_CALLS_MAX", 4)
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
    monkeypatch.setattr(write_stream, "FRAME_CALLS_MAX", 3)
    async with serving() as (node, client):
        node.steps.clear()
        with pytest.raises(CallFailed) as caught:  # noqa: PT012 - it comes out of the block
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
