"""`SchemaService` over real gRPC: spaces and indexes; the node has no disk and no peers."""

# ruff: noqa: ASYNC110 - what we wait for sets no event

from __future__ import annotations

from typing import Any

import pytest
import trio

from synchro import errors
from synchro.errors import SynchroError
from tests.shell.services_world import filled, serving, with_bands


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
        ("RunOnce", {}, errors.IllegalParams),
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


async def test_a_repeated_new_name_is_done_once() -> None:
    """The retry names the space by the name that it had. By hand, without the request id, it is told what may
    be so."""
    async with serving() as (_, client):
        await with_bands(client)
        first = await client("AlterSpace", space="bands", name="groups", request_id=b"r" * 16)
        again = await client("AlterSpace", space="bands", name="groups", request_id=b"r" * 16)
        assert (again.txn, again.space.name, again.space.id) == (first.txn, "groups", first.space.id)
        error = await client.refusal("AlterSpace", space="bands", name="groups")
        assert isinstance(error, errors.NoSuchSpace)
        assert "There is a space 'groups': if that is the one, it has its new name already" in error.message
        error = await client.refusal("AlterSpace", space="bands", name="others")
        assert "There is a space" not in error.message
        await client("CreateSequence", name="ids")
        first = await client("AlterSequence", sequence="ids", name="numbers", request_id=b"q" * 16)
        again = await client("AlterSequence", sequence="ids", name="numbers", request_id=b"q" * 16)
        assert (again.txn, again.sequence.name) == (first.txn, "numbers")
        error = await client.refusal("AlterSequence", sequence="ids", name="numbers")
        assert "There is a sequence 'numbers': if that is the one" in error.message


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
