"""`RunOnce` over gRPC: what is one transaction, what a second call hears, what an unfinished run leaves."""

from __future__ import annotations

from typing import Any

import pytest

from synchro import errors
from synchro.config import Limits
from synchro.errors import SynchroError
from synchro.instance.events import ClientWrites
from synchro.rpc.once import _Run
from synchro.rpc.schema_changes import REBUILDS_MAX, Definitions
from synchro.rpc.schema_form import Operation, run_once
from tests.shell.fake_node import FakeNode
from tests.shell.services_world import Client, serving, unpacked, with_bands

TEST_SPACE: list[Operation] = [
    {"create_space": {"name": "test", "is_sync": True, "format": ["id:unsigned", "name:string"]}},
    {"create_index": {"space": "test", "name": "primary", "parts": ["id"]}},
]


async def once(client: Client, key: str, *operations: Operation, **fields: Any) -> Any:
    request = run_once(key, operations)
    return await client("RunOnce", key=key, schema=request.schema, ops=request.ops, **fields)


async def refusal(client: Client, key: str, *operations: Operation) -> SynchroError:
    with pytest.raises(SynchroError) as caught:
        await once(client, key, *operations)
    return caught.value


async def schema_rows(client: Client) -> list[Any]:
    rows = unpacked((await client("Select", space="_schema", encoding=1)).tuples)
    return [row for row in rows if "once" in row[0]]


def transactions(node: FakeNode) -> list[int]:
    """Operations of each transaction that the core was asked for."""
    return [len(write.ops) for step in node.steps if isinstance(step, ClientWrites) for write in step.writes]


async def test_the_second_call_of_a_key_does_nothing() -> None:
    """[D-25], DUP-3: no error, and it says who did it."""
    async with serving() as (node, client):
        first = await once(client, "schema", *TEST_SPACE)
        assert first.executed
        assert first.executed_by == "instance001"
        assert first.HasField("txn")
        second = await once(client, "schema", {"drop_space": {"space": "test"}})
        assert not second.executed
        assert second.executed_by == "instance001"
        assert not second.HasField("txn")
        assert [s.name for s in (await client("ListSpaces")).spaces] == ["test"]
        assert await schema_rows(client) == [["onceschema", {"by": "instance001", "operations": 2}]]
        assert [event for event, _ in node.notes] == ["once_executed"]


async def test_one_kind_of_operations_is_one_transaction_with_its_key() -> None:
    async with serving() as (node, client):
        await with_bands(client)
        node.steps.clear()
        await once(client, "schema", *TEST_SPACE)
        await once(
            client,
            "rows",
            {"insert": {"space": "bands", "tuple": [1, "Roxette"]}},
            {"update": {"space": "bands", "key": 1, "ops": [["=", 2, "ABBA"]]}},
        )
        assert transactions(node) == [3, 3]
        assert unpacked((await client("Select", space="bands", encoding=1)).tuples) == [[1, "ABBA"]]


async def test_what_fails_halfway_leaves_nothing() -> None:
    """DUP-4: neither operations nor key, and a mended call runs."""
    async with serving() as (node, client):
        error = await refusal(client, "schema", *TEST_SPACE, {"create_index": {"space": "no", "name": "i"}})
        assert isinstance(error, errors.NoSuchSpace)
        assert error.message.startswith("operation 3 (create_index): ")
        assert transactions(node) == []
        assert (await once(client, "schema", *TEST_SPACE)).executed


async def test_a_change_rests_on_those_before_it() -> None:
    async with serving() as (_, client):
        await once(
            client,
            "schema",
            *TEST_SPACE,
            {"alter_space": {"space": "test", "name": "renamed"}},
            {"create_index": {"space": "renamed", "name": "by_name", "parts": ["name"], "unique": False}},
            {"create_space": {"name": "other"}},
            {"create_space": {"name": "other", "if_not_exists": True}},
            {"drop_space": {"space": "other"}},
        )
        (space,) = (await client("ListSpaces")).spaces
        assert (space.id, space.name) == (512, "renamed")
        assert [index.name for index in space.indexes] == ["primary", "by_name"]


async def test_both_kinds_are_two_transactions() -> None:
    async with serving() as (node, client):
        done = await once(client, "both", *TEST_SPACE, {"insert": {"space": "test", "tuple": [1, "a"]}})
        assert done.executed
        assert transactions(node) == [3, 3]
        assert await schema_rows(client) == [["onceboth", {"by": "instance001", "operations": 3}]]


async def test_bad_tuples_are_found_before_the_schema_is_changed() -> None:
    """What can be known beforehand does not leave half of it."""
    async with serving() as (node, client):
        for bad in ([1, 2], [1], ["x", "y"]):
            error = await refusal(client, "both", *TEST_SPACE, {"insert": {"space": "test", "tuple": bad}})
            assert isinstance(error, errors.FieldType | errors.FieldMissing)
        twice: Operation = {"insert": {"space": "test", "tuple": [1, "a"]}}
        assert isinstance(await refusal(client, "both", *TEST_SPACE, twice, twice), errors.TupleFound)
        assert transactions(node) == []


async def half_done(client: Client) -> SynchroError:
    """Tuples that meet another one which was there before."""
    await with_bands(client)
    await once(client, "rows", {"insert": {"space": "bands", "tuple": [1, "Roxette"]}})
    return await refusal(client, "both", *TEST_SPACE, {"insert": {"space": "bands", "tuple": [1, "ABBA"]}})


async def test_an_unfinished_run_says_so_and_goes_on() -> None:
    """A crash between the two transactions leaves the same."""
    async with serving() as (node, client):
        error = await half_done(client)
        assert isinstance(error, errors.TupleFound)
        assert "2 changes of the schema of once 'both' are done, the changes of tuples are not" in str(error)
        key, value = (await schema_rows(client))[0]
        assert key == "begun.onceboth"
        assert (value["by"], value["done"], value["operations"]) == ("instance001", 2, 3)
        node.steps.clear()
        mended = await once(client, "both", *TEST_SPACE, {"insert": {"space": "bands", "tuple": [2, "ABBA"]}})
        assert mended.executed
        assert transactions(node) == [3]
        assert [row[0] for row in await schema_rows(client)] == ["onceboth", "oncerows"]


async def test_other_changes_under_an_unfinished_key_are_refused() -> None:
    async with serving() as (node, client):
        await half_done(client)
        node.steps.clear()
        error = await refusal(
            client,
            "both",
            {"create_space": {"name": "other"}},
            {"insert": {"space": "bands", "tuple": [2, "ABBA"]}},
        )
        assert isinstance(error, errors.OnceDiffers)
        assert transactions(node) == []


async def test_a_retry_hears_that_it_was_executed() -> None:
    async with serving() as (_, client):
        first = await once(client, "schema", *TEST_SPACE, request_id=b"s" * 16)
        again = await once(client, "schema", *TEST_SPACE, request_id=b"s" * 16)
        assert again.executed
        assert again.txn == first.txn


async def test_what_is_no_run_is_refused() -> None:
    async with serving(Limits(batch_ops_max=10)) as (node, client):
        assert isinstance(await client.refusal("RunOnce"), errors.IllegalParams)
        assert isinstance(await client.refusal("RunOnce", key="k"), errors.IllegalParams)
        assert isinstance(await client.refusal("RunOnce", key="k", schema=[{}]), errors.IllegalParams)
        assert isinstance(await refusal(client, "k" * 201, *TEST_SPACE), errors.IllegalParams)
        assert isinstance(await refusal(client, "a\nb", *TEST_SPACE), errors.WrongFormat)
        many: list[Operation] = [{"create_space": {"name": f"s{n}"}} for n in range(10)]
        assert isinstance(await refusal(client, "k", *many), errors.BatchTooLarge)
        assert transactions(node) == []
        await once(client, "k", *many[1:])  # with the row of its key it has as many as it may
        assert transactions(node) == [10]


@pytest.mark.parametrize("times", [1, REBUILDS_MAX])
async def test_definitions_that_change_while_a_run_is_made(times: int) -> None:
    """It is made in slices, so that the instance is heard meanwhile; what it rests on must not change."""
    async with serving() as (node, client):
        catalog = node.instance.memtx.catalog
        made = _Run._schema_changes

        def disturbed(run: _Run, now: Definitions) -> Any:
            nonlocal times
            if times:
                times -= 1
                catalog.schema_version += 1
            return (yield from made(run, now))

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(_Run, "_schema_changes", disturbed)
            if times == 1:
                assert (await once(client, "k", *TEST_SPACE)).executed
                assert transactions(node) == [3]
            else:
                assert isinstance(await refusal(client, "k", *TEST_SPACE), errors.TransactionConflict)
                assert transactions(node) == []
