"""Sequences over gRPC, by the calls of the client and by plain writes. [D-26], ADR 47."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from synchro import errors
from synchro.rpc.generated.v1 import common_pb2
from tests.shell.services_world import Client, insert, named, serving, streaming, unpacked

MSGPACK = common_pb2.ENCODING_MSGPACK


@asynccontextmanager
async def numbered(**bounds: Any) -> AsyncIterator[tuple[Any, Client]]:
    async with serving() as (node, client):
        await client("CreateSequence", name="ids", **bounds)
        await client("CreateSpace", name="bands", is_sync=True)
        await client("CreateIndex", space="bands", name="primary", sequence={"name": "ids"})
        yield node, client


async def test_definitions_are_seen() -> None:
    async with numbered(start=10, step=10, cache=3) as (_, client):
        (found,) = (await client("ListSequences")).sequences
        assert (found.id, found.name, found.start, found.step, found.cache) == (1, "ids", 10, 10, 3)
        assert (found.min, found.max, found.cycle) == (1, 2**63 - 1, False)
        assert not found.HasField("last") and list(found.spaces) == ["bands"]
        (space,) = (await client("ListSpaces", space="bands")).spaces
        assert (space.sequence, space.sequence_field) == ("ids", 1)
        rows = unpacked((await client("Select", space="_sequence", encoding=MSGPACK)).tuples)
        assert rows == [[1, 1, "ids", 10, 1, 2**63 - 1, 10, 3, False]]
        rows = unpacked((await client("Select", space="_space_sequence", encoding=MSGPACK)).tuples)
        assert rows == [[512, 1, False, 0, ""]]


async def test_next_set_alter_drop() -> None:
    async with numbered() as (_, client):
        taken = [(await client("NextSequenceValue", sequence="ids")).value for _ in range(3)]
        assert taken == [1, 2, 3]
        assert (await client("SetSequence", sequence="ids", last=41)).HasField("txn")
        assert (await client("NextSequenceValue", sequence="ids")).value == 42
        assert (await client("SetSequence", sequence="ids")).HasField("txn")
        assert not (await client("SetSequence", sequence="ids")).HasField("txn")
        assert (await client("NextSequenceValue", sequence="ids")).value == 1
        altered = await client("AlterSequence", sequence="ids", name="numbers", max=2, cycle=True)
        assert (altered.sequence.name, altered.sequence.max, altered.sequence.last) == ("numbers", 2, 1)
        taken = [(await client("NextSequenceValue", sequence="numbers")).value for _ in range(3)]
        assert taken == [2, 1, 2]
        error = await client.refusal("DropSequence", sequence="numbers")
        assert isinstance(error, errors.IllegalParams) and "in use" in error.message
        await client("DropSpace", space="bands")
        assert (await client("DropSequence", sequence="numbers")).dropped
        assert not (await client("DropSequence", sequence="numbers", if_exists=True)).dropped


async def test_a_repeated_next_takes_another_value() -> None:
    """Nobody could tell which one the first try took; nobody gets one twice."""
    async with numbered() as (_, client):
        taken = [
            (await client("NextSequenceValue", sequence="ids", request_id=b"n" * 16)).value for _ in range(2)
        ]
        assert taken == [1, 2]


async def test_values_that_are_taken_at_once_differ() -> None:
    async with numbered() as (_, client):
        taken: list[int] = []

        async def take() -> None:
            taken.append((await client("NextSequenceValue", sequence="ids")).value)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(take)
        assert sorted(taken) == list(range(1, 21))


async def test_the_caller_gets_its_tuple() -> None:
    async with numbered() as (_, client):
        reply = await client(
            "Execute", ops=[insert(None, "Roxette"), insert(7, "ABBA"), insert(None, "a-ha")]
        )
        assert unpacked(reply.tuples) == [[1, "Roxette"], [7, "ABBA"], [8, "a-ha"]]
        (as_json,) = (
            await client("Execute", ops=[insert(None, "x")], encoding=common_pb2.ENCODING_JSON)
        ).tuples
        assert [v.number_value for v in as_json.json.values][:1] == [9]


async def test_frames_are_numbered() -> None:
    """ADR 13: those that share a transaction, too."""
    async with numbered() as (_, client), streaming(client) as stream:
        calls = [named(seq, insert(None, "x"), encoding=MSGPACK) for seq in range(1, 11)]
        stream.send(*calls)
        results = await stream.results_of(*range(1, 11))
        assert [unpacked(result.reply.tuples)[0][0] for result in results] == list(range(1, 11))


@pytest.mark.parametrize(
    ("name", "fields", "kind"),
    [
        ("CreateSequence", {"name": "ids"}, errors.SequenceExists),
        ("CreateSequence", {"name": ""}, errors.WrongFormat),
        ("CreateSequence", {"name": "s", "step": 0}, errors.IllegalParams),
        ("AlterSequence", {"sequence": "ids"}, errors.IllegalParams),
        ("AlterSequence", {"sequence": "no", "step": 1}, errors.NoSuchSequence),
        ("SetSequence", {"sequence": "no"}, errors.NoSuchSequence),
        ("NextSequenceValue", {"sequence": "no"}, errors.NoSuchSequence),
        ("ListSequences", {"sequence": "no"}, errors.NoSuchSequence),
        ("CreateIndex", {"space": "bands", "name": "i", "sequence": {"name": "ids"}}, errors.IllegalParams),
    ],
)
async def test_what_is_refused(name: str, fields: dict[str, Any], kind: type[errors.SynchroError]) -> None:
    async with numbered() as (_, client):
        assert type(await client.refusal(name, **fields)) is kind


async def test_the_end_of_a_sequence_is_told() -> None:
    async with numbered(max=1) as (_, client):
        await client("NextSequenceValue", sequence="ids")
        for error in (
            await client.refusal("NextSequenceValue", sequence="ids"),
            await client.refusal("Execute", ops=[insert(None, "x")]),
        ):
            assert isinstance(error, errors.SequenceOverflow)
            assert error.details["sequence"] == "ids"
